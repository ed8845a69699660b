/* The small operations of a decode step, one JSON object per line: norms, residuals, biases, rope,
 * storing keys and values, gates, and choosing a token of 152k logits, against the step they are
 * part of. Shape: Qwen2.5-0.5B in 4 bits, one row.
 *
 * A line gives the microseconds of the operations on one thread (the engine does not split a single
 * row), the step's as `limit` and their share as `ratio`, which should be at most `cap`. The step
 * is what its matmuls take: the packed weights over the speed at which this machine's kernels read
 * them with all threads, measured here and now; attention and hops would only make it longer.
 *
 * "step_small" with greedy, default and top-p choice are the whole; the other lines tell its parts.
 *
 * Usage: bench_step. CAKE_BENCH_MS bounds the time of one measurement (default 300). */
#include "common/mem.h"
#include "kernels/attn.h"
#include "kernels/math.h"
#include "kernels/rope.h"
#include "kernels/vec.h"
#include "master/sampler/sampler.h"
#include "worker/node/measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LAYERS = 24,
    HIDDEN = 896,
    HEADS = 14,
    KV_HEADS = 2,
    DIM = 64,
    FF = 4864,
    VOCAB = 151936,
    Q = HEADS * DIM,
    KV = KV_HEADS * DIM,
};

static double budget_s = 0.3;

static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t rng = 88172645463325252u;
static float rnd(void) { /* about normal, deviation 1 */
    float s = 0;
    for (int i = 0; i < 12; i++) {
        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        s += (float)(rng >> 40) * 0x1p-24f;
    }
    return s - 6.0f;
}

static float *randoms(size_t n, float spread) {
    float *x = cake_malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = rnd() * spread;
    return x;
}

/* A likely row: most tokens about normal, 3,000 in reach, the r-th of them with r^-1.5 of the
 * chance of the first. */
static float *make_logits(void) {
    float *x = randoms(VOCAB, 2.5f);
    for (uint32_t r = 1; r <= 3000; r++)
        x[r * 7919u % VOCAB] = 20.0f - 1.5f * (float)cake_log((double)r);
    return x;
}

typedef struct {
    float *x, *xn, *w, *bias, *q, *k, *v, *gate, *up, *act, *cos, *sin, *logits;
    cake_attn_spec attn;
    void *block;
    cake_rope rope;
    uint32_t pos, token;
    cake_sampler *sampler;
} step;

static void norms(step *s) { /* and the residuals before them */
    for (int i = 0; i < 2 * LAYERS + 1; i++) {
        cake_add(s->x, s->x, s->xn, HIDDEN);
        cake_rmsnorm(s->xn, s->x, s->w, HIDDEN, 1e-6f);
    }
}

static void rope(step *s) { /* with the biases before it */
    cake_rope_angles(&s->rope, s->pos, s->cos, s->sin);
    for (int i = 0; i < LAYERS; i++) {
        cake_add(s->q, s->q, s->bias, Q);
        cake_add(s->k, s->k, s->bias, KV);
        cake_add(s->v, s->v, s->bias, KV);
        cake_rope_apply(s->q, HEADS, DIM, DIM, s->cos, s->sin);
        cake_rope_apply(s->k, KV_HEADS, DIM, DIM, s->cos, s->sin);
    }
    s->pos++;
}

static void store(step *s) {
    for (int i = 0; i < LAYERS; i++)
        cake_kv_store(&s->attn, s->block, s->pos % CAKE_KV_BLOCK, s->k, s->v);
}

static void gates(step *s) {
    for (int i = 0; i < LAYERS; i++) cake_swiglu(s->act, s->gate, s->up, FF);
}

static void choose(step *s) {
    cake_error err;
    if (cake_sampler_pick(s->sampler, s->logits, NULL, 0, s->pos, &s->token, &err) != CAKE_OK) {
        fprintf(stderr, "bench_step: %s\n", err.msg);
        exit(1);
    }
}

/* Best of many, in microseconds. */
static double measure(void (*f)(step *), step *s) {
    double best = 1e9, spent = 0;
    for (int round = 0; round < 5 || spent < budget_s / 5; round++) {
        double t = cpu_s();
        f(s);
        t = cpu_s() - t;
        spent += t;
        best = t < best ? t : best;
    }
    return best * 1e6;
}

static void line(const char *bench, const char *what, double us, double limit, int whole) {
    printf("{\"bench\":\"%s\",\"what\":\"%s\",\"isa\":\"%s\",\"threads\":1,\"value\":%.4g,"
           "\"unit\":\"us\",\"limit\":%.5g,\"ratio\":%.4f%s}\n",
           bench, what, cake_isa_name(cake_cpu_isa()), us, limit, us / limit,
           whole ? ",\"cap\":0.03" : "");
    fflush(stdout);
}

int main(void) {
    const char *ms = getenv("CAKE_BENCH_MS");
    if (ms) budget_s = atof(ms) * 1e-3;
    cake_pool *pool = cake_pool_new((unsigned)sysconf(_SC_NPROCESSORS_ONLN), 50);
    cake_speed speed;
    cake_measure_speed(pool, &speed);
    cake_pool_free(pool);
    double params = (double)LAYERS * HIDDEN * (2 * Q + 2 * KV + 3 * FF) + (double)VOCAB * HIDDEN;
    double limit = params * 4.5 / 8 / speed.read_bw * 1e6;

    step s = {.attn = {.n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = DIM, .scale = 0.125f},
              .pos = 4000};
    s.x = randoms(HIDDEN, 1), s.xn = randoms(HIDDEN, 1e-3f), s.w = randoms(HIDDEN, 1);
    s.bias = randoms(Q, 0), s.q = randoms(Q, 1), s.k = randoms(KV, 1), s.v = randoms(KV, 1);
    s.gate = randoms(FF, 1), s.up = randoms(FF, 1), s.act = randoms(FF, 1);
    s.logits = make_logits();
    s.cos = randoms(DIM / 2, 1), s.sin = randoms(DIM / 2, 1);
    s.block = cake_malloc(cake_kv_block_bytes(&s.attn));
    cake_rope_init(&s.rope, &(cake_rope_spec){.dims = DIM, .base = 1e6});

    static const struct {
        const char *name;
        void (*f)(step *);
    } parts[] = {{"norms and residuals", norms},
                 {"biases and rope", rope},
                 {"keys and values stored", store},
                 {"swiglu", gates}};
    double sum = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        double us = measure(parts[i].f, &s);
        line("step_part", parts[i].name, us, limit, 0);
        sum += us;
    }
    static const struct {
        const char *name;
        cake_sampler_params p;
    } ways[] = {
        {"greedy", {.top_p = 1, .repeat_penalty = 1}},
        {"temperature 0.8, top-k 40, top-p 0.95",
         {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .repeat_penalty = 1}},
        {"temperature 0.8, top-p 0.95", {.temperature = 0.8f, .top_p = 0.95f, .repeat_penalty = 1}},
        {"temperature 1, min-p 0.05",
         {.temperature = 1, .top_p = 1, .min_p = 0.05f, .repeat_penalty = 1}},
        {"temperature 1", {.temperature = 1, .top_p = 1, .repeat_penalty = 1}},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        s.sampler = cake_sampler_new(&ways[i].p, VOCAB);
        if (!s.sampler) return 1;
        double us = measure(choose, &s);
        char what[80];
        snprintf(what, sizeof what, "choice: %s", ways[i].name);
        line("step_part", what, us, limit, 0);
        snprintf(what, sizeof what, "all, %s", ways[i].name);
        line("step_small", what, sum + us, limit, 1);
        cake_sampler_free(s.sampler);
    }
    free(s.x), free(s.xn), free(s.w), free(s.bias), free(s.q), free(s.k), free(s.v), free(s.gate);
    free(s.up), free(s.act), free(s.logits), free(s.cos), free(s.sin), free(s.block);
    return 0;
}
