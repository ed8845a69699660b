/* A layer of experts of the Qwen3-30B-A3B shape (128 experts of 768 x 2048, 8 of them for a row, 4
 * bits group 64): a few rows to decode and prompts. The limit is a plain product
 * of the same kernel in the same run: over as many cold bytes, or with as many rows as an expert
 * gets on average. JSON lines; bench_experts [-s SECONDS of each case]. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "tests/unit/matmul_data.h"
#include "worker/engine/moe.h"

enum { E = 128, TOP = 8, H = 2048, FF = 768, MAX_ROWS = 512 };

static uint8_t *region;
static size_t used;
static void *take(size_t bytes) {
    void *p = region ? region + used : NULL;
    used += cake_round_up(bytes, 64);
    return p;
}

/* One random matrix, E times: what is multiplied makes no difference, where it lies does. */
static cake_stack stack(uint32_t n, uint32_t k) {
    cake_wspec s = MD_AFFINE(CAKE_BF16, 4, 64, n, k);
    size_t bytes = cake_packed_bytes(&s);
    uint8_t *p = take(bytes * E);
    if (p) {
        md_matrix m = md_new(s);
        for (int e = 0; e < E; e++) memcpy(p + e * bytes, m.packed, bytes);
        md_free(&m);
    }
    return (cake_stack){s, E, bytes, p};
}

typedef struct {
    const cake_stack *w;
    const cake_act *act;
    float *y;
    uint8_t *scratch;
    size_t scratch_bytes, first;
} plain;
static void plain_chunk(void *arg, size_t chunk, unsigned thread) {
    const plain *p = arg;
    cake_mat mat = cake_stack_mat(p->w, (uint32_t)((p->first + chunk) % E));
    cake_matmul(&mat, p->act, false, p->y + chunk % 2 * MAX_ROWS * FF, FF, 0, cake_tiles(&mat.spec),
                p->scratch + thread * p->scratch_bytes);
}

static double seconds_since(uint64_t t0) {
    return (double)(cake_now_ns() - t0) * 1e-9;
}

static void run(const cake_moe_weights *w, const cake_model_config *c, uint32_t n, unsigned threads,
                double seconds) {
    cake_pool *pool = cake_pool_new(threads, 200);
    cake_moe_scratch s;
    size_t room = cake_moe_scratch_layout(&s, c, n, NULL),
           mm = cake_round_up(cake_matmul_scratch_bytes(), 64);
    size_t act_bytes = cake_act_bytes(H, n), rows = (size_t)n * H * sizeof(float);
    size_t total = room + mm * threads + act_bytes + 2 * rows + 2 * sizeof(float) * MAX_ROWS * FF;
    uint8_t *mem = cake_pages_alloc(total), *at = mem;
    if (!mem) exit(1);
    cake_moe_scratch_layout(&s, c, n, at), at += room;
    cake_moe m = {
        .w = w, .config = c, .scratch = &s, .pool = pool, .matmul = at, .matmul_bytes = mm};
    at += mm * threads;
    uint8_t *act_mem = at;
    at += act_bytes;
    float *x = (float *)(void *)at, *y = x + (size_t)n * H, *out = y + (size_t)n * H;
    double best = 0, limit = 0;
    size_t next = 0;
    bool memory = n <= 16;
    for (uint64_t start = cake_now_ns(); seconds_since(start) < seconds;) {
        for (size_t i = 0; i < (size_t)n * H; i++) x[i] = md_float();
        cake_act act;
        cake_act_init(&act, act_mem, x, H, H, n);
        cake_act_quantize(&act, 0, n);
        uint64_t t = cake_now_ns();
        cake_moe_run(&m, &act, y);
        double took = seconds_since(t);
        uint32_t experts = 0;
        for (uint32_t e = 0; e < E; e++)
            for (uint32_t i = 0; i < n * TOP; i++)
                if (s.expert[i] == e) {
                    experts++;
                    break;
                }
        double bytes = (double)(experts * (2 * w->gate.stride + w->down.stride));
        double value = memory ? bytes / took / 1e9 : 2.0 * n * TOP * 3 * FF * H / took / 1e9;
        best = value > best ? value : best;
        /* 24 matrices are as many as one row reads */
        uint32_t group = (n * TOP + experts / 2) / experts;
        cake_act_init(&act, act_mem, x, H, H, group);
        cake_act_quantize(&act, 0, group);
        plain p = {&w->up, &act, out, m.matmul, mm, next};
        next += 3 * TOP; /* not what a cache still has */
        t = cake_now_ns();
        cake_pool_run(pool, 3 * TOP, plain_chunk, &p);
        took = seconds_since(t);
        value = (memory ? (double)w->up.stride : 2.0 * group * FF * H) * 3 * TOP / took / 1e9;
        limit = value > limit ? value : limit;
    }
    printf(
        "{\"bench\":\"experts\",\"format\":\"affine4g64\",\"isa\":\"%s\",\"n\":%u,\"threads\":%u,"
        "\"value\":%.2f,\"unit\":\"%s\",\"limit\":%.2f,\"ratio\":%.3f}\n",
        cake_isa_name(cake_cpu_isa()), n, threads, best, memory ? "GB/s" : "GOPS", limit,
        best / limit);
    fflush(stdout);
    cake_pages_free(mem, total);
    cake_pool_free(pool);
}

int main(int argc, char **argv) {
    double seconds = 0.3;
    for (int o; (o = getopt(argc, argv, "s:")) != -1;) {
        if (o != 's') return 2;
        seconds = atof(optarg);
    }
    cake_model_config c = {.hidden = H,
                           .moe = {.n_experts = E, .top_k = TOP, .ff = FF, .norm_top_k = true}};
    cake_moe_weights w = {0};
    for (int pass = 0; pass < 2; pass++) {
        w.gate = stack(FF, H), w.up = stack(FF, H), w.down = stack(H, FF);
        if (pass == 0) region = cake_pages_alloc(used), used = 0;
        if (!region) return 1;
    }
    md_matrix router = md_new(MD_DENSE(CAKE_BF16, E, H));
    w.router.mat = router.mat;
    static const uint32_t rows[] = {1, 4, 16, 64, 512};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (unsigned threads = 1; threads <= 2; threads++) run(&w, &c, rows[i], threads, seconds);
    md_free(&router);
    cake_pages_free(region, used);
    return 0;
}
