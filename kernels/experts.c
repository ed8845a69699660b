/* Mixtures of experts: see experts.h. Baseline code: choosing and copying; the arithmetic is
 * cake_matmul()'s. */
#include "kernels/experts.h"

#include <string.h>

static bool better(float a, float b) {
    return a > b || (b != b && a == a);
}

/* Keep the k best so far, best first; a later one must be better to pass an earlier one. */
static void choose(const float *p, uint32_t n, uint32_t k, uint32_t *best) {
    uint32_t have = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (have == k && !better(p[i], p[best[k - 1]])) continue;
        uint32_t at = have < k ? have++ : k - 1;
        for (; at > 0 && better(p[i], p[best[at - 1]]); at--) best[at] = best[at - 1];
        best[at] = i;
    }
}

void cake_route(const float *p, uint32_t n, uint32_t k, bool normalize, uint32_t *expert,
                float *weight) {
    choose(p, n, k, expert);
    float sum = 0;
    for (uint32_t i = 0; i < k; i++) sum += p[expert[i]];
    for (uint32_t i = 1; i < k; i++) { /* ascending */
        uint32_t e = expert[i], at = i;
        for (; at > 0 && expert[at - 1] > e; at--) expert[at] = expert[at - 1];
        expert[at] = e;
    }
    for (uint32_t i = 0; i < k; i++) weight[i] = normalize ? p[expert[i]] / sum : p[expert[i]];
}

uint32_t cake_group_rows(const uint32_t *expert, uint32_t n_rows, uint32_t k, uint32_t n_experts,
                         uint32_t *row, uint32_t *place, cake_group *groups, uint32_t *count) {
    uint32_t n_pairs = n_rows * k, n_groups = 0, at = 0;
    memset(count, 0, n_experts * sizeof *count);
    for (uint32_t i = 0; i < n_pairs; i++) count[expert[i]]++;
    for (uint32_t e = 0; e < n_experts; e++) {
        uint32_t n = count[e];
        if (n) groups[n_groups++] = (cake_group){e, at, at + n};
        count[e] = at; /* from here on: where the expert's next pair goes */
        at += n;
    }
    for (uint32_t i = 0; i < n_pairs; i++) {
        place[i] = count[expert[i]]++;
        row[place[i]] = i / k;
    }
    return n_groups;
}

void cake_act_gather(cake_act *to, const cake_act *from, const uint32_t *row, uint32_t begin,
                     uint32_t end) {
    uint32_t blocks = (from->k + 31) / 32, units = (from->k + 63) / 64;
    size_t n = from->n_tok, m = to->n_tok;
    for (uint32_t t = begin; t < end; t++) {
        for (size_t u = 0; u < units; u++)
            memcpy(to->q + (u * m + t) * 64, from->q + (u * n + row[t]) * 64, 64);
        for (size_t u = 0; u < units; u++) to->sum64[u * m + t] = from->sum64[u * n + row[t]];
        for (size_t h = 0; h < blocks; h++) {
            to->scale[h * m + t] = from->scale[h * n + row[t]];
            to->sum32[h * m + t] = from->sum32[h * n + row[t]];
            memcpy(to->neg16 + (h * m + t) * 2, from->neg16 + (h * n + row[t]) * 2,
                   2 * sizeof *to->neg16);
        }
    }
}

void cake_stack_matmul(const cake_stack *w, const cake_group *groups, const cake_act *acts,
                       bool f32_mode, float *y, size_t ldy, size_t tile_begin, size_t tile_end,
                       void *scratch) {
    size_t tiles = cake_tiles(&w->spec);
    for (size_t at = tile_begin; at < tile_end;) {
        size_t g = at / tiles, first = g * tiles, end = first + tiles;
        if (end > tile_end) end = tile_end;
        cake_mat mat = cake_stack_mat(w, groups[g].expert);
        cake_matmul(&mat, &acts[g], f32_mode, y + groups[g].begin * ldy, ldy,
                    (uint32_t)(at - first), (uint32_t)(end - first), scratch);
        at = end;
    }
}
