/* Sums of squares of matrix inputs: see stats.h. */
#include "worker/engine/stats.h"

#include "common/mem.h"

#include <stdlib.h>

typedef struct {
    uint32_t n, k; /* 0: no such input */
    double *sums;
    uint64_t *counts;
} slot;

struct cake_stats {
    uint32_t begin, end;
    slot (*unit)[CAKE_INPUT_COUNT]; /* [end - begin] */
};

cake_stats *cake_stats_new(const cake_layout *layout, uint32_t unit_begin, uint32_t unit_end) {
    cake_stats *s = cake_calloc(1, sizeof *s);
    s->begin = unit_begin;
    s->end = unit_end;
    s->unit = cake_calloc(unit_end - unit_begin, sizeof *s->unit);
    for (uint32_t u = unit_begin; u < unit_end; u++)
        for (int i = 0; i < CAKE_INPUT_COUNT; i++) {
            slot *t = &s->unit[u - unit_begin][i];
            if (!cake_layout_input(layout, u, (cake_input)i, &t->n, &t->k)) continue;
            t->sums = cake_calloc((size_t)t->n * t->k, sizeof *t->sums);
            t->counts = cake_calloc(t->n, sizeof *t->counts);
        }
    return s;
}

void cake_stats_free(cake_stats *s) {
    if (!s) return;
    for (uint32_t u = 0; u < s->end - s->begin; u++)
        for (int i = 0; i < CAKE_INPUT_COUNT; i++) {
            free(s->unit[u][i].sums);
            free(s->unit[u][i].counts);
        }
    free(s->unit);
    free(s);
}

uint64_t cake_stats_bytes(const cake_layout *layout, uint32_t unit_begin, uint32_t unit_end) {
    uint64_t bytes = 0;
    for (uint32_t u = unit_begin; u < unit_end; u++)
        for (int i = 0; i < CAKE_INPUT_COUNT; i++) {
            uint32_t n, k;
            if (cake_layout_input(layout, u, (cake_input)i, &n, &k))
                bytes += (uint64_t)n * (k + 1) * sizeof(double);
        }
    return bytes;
}

enum { COLUMNS = 512 }; /* of a task */

typedef struct {
    double *sums;
    const float *x;
    size_t ldx;
    uint32_t n, k;
} job;

static void add_columns(void *arg, size_t chunk, unsigned thread) {
    (void)thread;
    const job *j = arg;
    const uint32_t begin = (uint32_t)chunk * COLUMNS,
                   end = begin + COLUMNS < j->k ? begin + COLUMNS : j->k;
    for (uint32_t r = 0; r < j->n; r++) {
        const float *x = j->x + r * j->ldx;
        for (uint32_t i = begin; i < end; i++) j->sums[i] += (double)x[i] * (double)x[i];
    }
}

void cake_stats_add(cake_stats *s, cake_pool *pool, uint32_t unit, cake_input input, uint32_t mat,
                    const float *x, size_t ldx, uint32_t n) {
    if (unit < s->begin || unit >= s->end) return;
    slot *t = &s->unit[unit - s->begin][input];
    if (mat >= t->n) return;
    job j = {t->sums + (size_t)mat * t->k, x, ldx, n, t->k};
    cake_pool_run(pool, (t->k + COLUMNS - 1) / COLUMNS, add_columns, &j);
    t->counts[mat] += n;
}

bool cake_stats_get(const cake_stats *s, uint32_t unit, cake_input input, uint32_t *n, uint32_t *k,
                    const double **sums, const uint64_t **counts) {
    if (unit < s->begin || unit >= s->end || (unsigned)input >= CAKE_INPUT_COUNT) return false;
    const slot *t = &s->unit[unit - s->begin][input];
    if (!t->n) return false;
    *n = t->n, *k = t->k, *sums = t->sums, *counts = t->counts;
    return true;
}
