/* Speed of attention and of the row operations, one JSON object per line.
 *
 * Each line gives what was reached, the limit measured here and now with the same threads, their
 * ratio, and the bar the ratio should meet.
 *
 * attn_decode: GB/s of KV cache read by one query row at 8k context, in f16 (with a bar) and in q8.
 * Limit: the lower of a plain read of memory and the rate at which FMAs can use what is read (a
 * group of G query heads makes G multiply-adds of every element).
 *
 * attn_prefill: GFLOP/s of a chunk of rows. Limit: independent FMAs in registers.
 *
 * vec_*: microseconds of one call; no limit.
 *
 * Usage: bench_attn [ISA ...]; default: every ISA this CPU runs but scalar. CAKE_BENCH_MS bounds
 * the time of one measurement (default 300). */
#include "kernels/attn.h"
#include "kernels/rope.h"
#include "kernels/vec.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { MAX_THREADS = 64 };

static double budget_s = 0.3;

static double clock_s(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double now_s(void) {
    return clock_s(CLOCK_MONOTONIC);
}

static uint64_t rng = 88172645463325252u;
static float rnd(void) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (float)(rng >> 40) * 0x1p-23f - 1.0f;
}

static void *huge_alloc(size_t bytes) {
    size_t two = (size_t)2 << 20;
    char *p = mmap(NULL, bytes + two, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("bench_attn: mmap");
        exit(1);
    }
    p = (char *)(((uintptr_t)p + two - 1) & ~(uintptr_t)(two - 1));
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* Run f(arg, thread, n_threads) on n threads at once and return the best time of several rounds.
 * One thread is timed by its own clock, which stops while another program has the core. */
typedef void work_fn(void *arg, int thread, int n_threads);
typedef struct {
    work_fn *f;
    void *arg;
    int thread, n_threads;
    pthread_barrier_t *start, *end;
    const int *stop;
} worker;
static void *worker_main(void *p) {
    worker *w = p;
    for (;;) {
        pthread_barrier_wait(w->start);
        if (*w->stop) return NULL;
        w->f(w->arg, w->thread, w->n_threads);
        pthread_barrier_wait(w->end);
    }
}
static double best_time(work_fn *f, void *arg, int n) {
    pthread_t id[MAX_THREADS];
    worker w[MAX_THREADS];
    pthread_barrier_t start, end;
    int stop = 0;
    pthread_barrier_init(&start, NULL, (unsigned)n);
    pthread_barrier_init(&end, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        w[i] = (worker){f, arg, i, n, &start, &end, &stop};
        if (i) pthread_create(&id[i], NULL, worker_main, &w[i]);
    }
    double best = 1e9, begin = now_s();
    clockid_t clock = n == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    for (int round = 0; round < 3 || now_s() - begin < budget_s; round++) {
        double t = clock_s(clock);
        pthread_barrier_wait(&start);
        f(arg, 0, n);
        pthread_barrier_wait(&end);
        t = clock_s(clock) - t;
        best = t < best ? t : best;
    }
    stop = 1;
    pthread_barrier_wait(&start);
    for (int i = 1; i < n; i++) pthread_join(id[i], NULL);
    pthread_barrier_destroy(&start);
    pthread_barrier_destroy(&end);
    return best;
}

/* The limits. */
typedef struct {
    const char *p;
    size_t bytes;
    volatile uint64_t sink[MAX_THREADS * 8];
} read_job;
#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_sum(const char *p, size_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes; i += 128) {
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)(const void *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(const void *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_load_si256((const __m256i *)(const void *)(p + i + 64)));
        d = _mm256_xor_si256(d, _mm256_load_si256((const __m256i *)(const void *)(p + i + 96)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) ^ (uint64_t)_mm256_extract_epi64(a, 2);
}
__attribute__((target("avx2,fma"))) static float fma_avx2(size_t n) {
    __m256 a[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
    for (int i = 0; i < 12; i++) a[i] = _mm256_set1_ps((float)i);
    for (size_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
    }
    for (int i = 1; i < 12; i++) a[0] = _mm256_add_ps(a[0], a[i]);
    return _mm256_cvtss_f32(a[0]);
}
__attribute__((target("avx512f"))) static float fma_avx512(size_t n) {
    __m512 a[12], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
    for (int i = 0; i < 12; i++) a[i] = _mm512_set1_ps((float)i);
    for (size_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
    }
    for (int i = 1; i < 12; i++) a[0] = _mm512_add_ps(a[0], a[i]);
    return _mm512_cvtss_f32(a[0]);
}
#else
static uint64_t read_sum(const char *p, size_t bytes) {
    const uint64_t *q = (const uint64_t *)(const void *)p;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < bytes / 8; i += 4)
        a ^= q[i], b ^= q[i + 1], c ^= q[i + 2], d ^= q[i + 3];
    return a ^ b ^ c ^ d;
}
#endif
#if defined(__aarch64__)
static float fma_neon(size_t n) {
    float32x4_t a[16], x = vdupq_n_f32(0.999f), y = vdupq_n_f32(0.001f);
    for (int i = 0; i < 16; i++) a[i] = vdupq_n_f32((float)i);
    for (size_t k = 0; k < n; k++) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = vfmaq_f32(y, a[i], x);
    }
    for (int i = 1; i < 16; i++) a[0] = vaddq_f32(a[0], a[i]);
    return vaddvq_f32(a[0]);
}
#endif
static void read_work(void *arg, int thread, int n) {
    read_job *j = arg;
    size_t part = j->bytes / (size_t)n / 128 * 128;
    j->sink[thread * 8] = read_sum(j->p + part * (size_t)thread, part);
}

typedef struct {
    cake_isa isa;
    volatile float sink[MAX_THREADS * 16];
} fma_job;
enum { FMA_ROUNDS = 2000000 };
static void fma_work(void *arg, int thread, int n) {
    (void)n;
    fma_job *j = arg;
#if defined(__x86_64__)
    j->sink[thread * 16] = j->isa == CAKE_ISA_AVX512 ? fma_avx512(FMA_ROUNDS)
                           : j->isa == CAKE_ISA_AVX2 ? fma_avx2(FMA_ROUNDS)
                                                     : 0;
#elif defined(__aarch64__)
    j->sink[thread * 16] = fma_neon(FMA_ROUNDS);
#endif
}
static double fma_gflops(cake_isa isa, int threads) {
    fma_job j = {.isa = isa};
    double lanes = isa == CAKE_ISA_AVX512 ? 12 * 16 : isa == CAKE_ISA_AVX2 ? 12 * 8 : 16 * 4;
    return 2 * lanes * FMA_ROUNDS * threads / best_time(fma_work, &j, threads) * 1e-9;
}

/* Attention over n_layers of KV, so that the caches hold none of it. */
typedef struct {
    const cake_attn_kern *kern;
    cake_attn_spec s;
    uint32_t n_layers, pos0, n_rows, n_blocks;
    const void **blocks; /* [n_layers][n_blocks] */
    float *q, *out;
    void *scratch[MAX_THREADS];
} attn_job;
static void attn_work(void *arg, int thread, int n) {
    attn_job *j = arg;
    size_t ld = (size_t)j->s.n_heads * j->s.head_dim;
    uint32_t heads = j->s.n_kv_heads, begin = heads * (uint32_t)thread / (uint32_t)n;
    uint32_t end = heads * (uint32_t)(thread + 1) / (uint32_t)n;
    for (uint32_t layer = 0; layer < j->n_layers; layer++)
        j->kern->rows(&j->s, j->blocks + (size_t)layer * j->n_blocks, j->pos0, j->n_rows, begin,
                      end, j->q, ld, j->out, ld, j->scratch[thread]);
}

static void line(const char *bench, const char *shape, cake_isa isa, int threads, double value,
                 const char *unit, double limit, double bar) {
    printf("{\"bench\":\"%s\",\"shape\":\"%s\",\"isa\":\"%s\",\"threads\":%d,\"value\":%.4g,"
           "\"unit\":\"%s\"",
           bench, shape, cake_isa_name(isa), threads, value, unit);
    if (limit > 0) printf(",\"limit\":%.4g,\"ratio\":%.3f", limit, value / limit);
    if (bar > 0) printf(",\"bar\":%.2f", bar);
    printf("}\n");
    fflush(stdout);
}

/* An arena full of numbers in +-[1, 2), as f16 or as integers with scales of that size. */
static void fill_kv(const cake_attn_spec *s, char *kv, size_t kv_bytes) {
    size_t block = cake_kv_block_bytes(s), kd = (size_t)s->n_kv_heads * s->head_dim;
    float *x = malloc(2 * kd * sizeof *x);
    for (uint32_t slot = 0; slot < CAKE_KV_BLOCK; slot++) {
        for (size_t i = 0; i < 2 * kd; i++)
            x[i] = rnd() < 0 ? rnd() * 0.5f - 1.5f : rnd() * 0.5f + 1.5f;
        cake_kv_store(s, kv, slot, x, x + kd);
    }
    for (size_t at = block; at + block <= kv_bytes; at += block) memcpy(kv + at, kv, block);
    free(x);
}

static void bench_attn(cake_isa isa, cake_kv_type form, int threads, char *kv, size_t kv_bytes) {
    static const cake_attn_spec specs[] = {
        {.n_heads = 14, .n_kv_heads = 2, .head_dim = 64, .scale = 0.125f},
        {.n_heads = 16, .n_kv_heads = 8, .head_dim = 128, .scale = 0.088388f},
        {.n_heads = 32, .n_kv_heads = 8, .head_dim = 128, .scale = 0.088388f},
        {.n_heads = 16, .n_kv_heads = 16, .head_dim = 128, .scale = 0.088388f},
        {.n_heads = 16, .n_kv_heads = 2, .head_dim = 256, .scale = 0.0625f},
    };
    enum { CONTEXT = 8192, CHUNK = 128 };
    double gflops = fma_gflops(isa, threads);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        attn_job j = {
            .kern = cake_attn_for(isa), .s = specs[i], .n_blocks = CONTEXT / CAKE_KV_BLOCK};
        j.s.kv = form;
        fill_kv(&j.s, kv, kv_bytes);
        size_t block = cake_kv_block_bytes(&j.s), ld = (size_t)j.s.n_heads * j.s.head_dim;
        j.n_layers = (uint32_t)(kv_bytes / (block * j.n_blocks));
        j.blocks = malloc(j.n_layers * j.n_blocks * sizeof *j.blocks);
        for (size_t b = 0; b < (size_t)j.n_layers * j.n_blocks; b++) j.blocks[b] = kv + b * block;
        j.q = malloc(CHUNK * ld * sizeof *j.q);
        j.out = malloc(CHUNK * ld * sizeof *j.out);
        for (size_t k = 0; k < CHUNK * ld; k++) j.q[k] = rnd();
        for (int t = 0; t < threads; t++)
            j.scratch[t] = malloc(cake_attn_scratch_bytes(&j.s, CHUNK));
        char shape[64];
        snprintf(shape, sizeof shape, "%u/%u heads x %u, 8k, %s", j.s.n_heads, j.s.n_kv_heads,
                 j.s.head_dim, form == CAKE_KV_Q8 ? "q8" : "f16");

        j.pos0 = CONTEXT - 1, j.n_rows = 1;
        double bytes = (double)j.n_layers * j.n_blocks * (double)block;
        read_job r = {.p = kv, .bytes = kv_bytes}; /* beside each shape: neighbours come and go */
        double gbs = (double)kv_bytes / best_time(read_work, &r, threads) * 1e-9;
        double elements = (double)j.n_layers * CONTEXT * j.s.n_kv_heads * j.s.head_dim * 2;
        double by_fma = gflops / 2 / (j.s.n_heads / j.s.n_kv_heads) * bytes / elements;
        line("attn_decode", shape, isa, threads, bytes / best_time(attn_work, &j, threads) * 1e-9,
             "GB/s", by_fma < gbs ? by_fma : gbs, form == CAKE_KV_F16 ? 0.85 : 0);
        j.pos0 = CONTEXT - CHUNK, j.n_rows = CHUNK;
        j.n_layers = 1;
        double keys = (double)CHUNK * (CONTEXT - CHUNK) + CHUNK * (CHUNK + 1) / 2.0;
        double flop = 4 * keys * (double)ld * j.n_layers;
        line("attn_prefill", shape, isa, threads, flop / best_time(attn_work, &j, threads) * 1e-9,
             "GFLOP/s", gflops, 0.5);
        for (int t = 0; t < threads; t++) free(j.scratch[t]);
        free(j.blocks), free(j.q), free(j.out);
    }
}

typedef struct {
    const cake_vec_kern *k;
    int op;
    size_t n;
    float *x, *y, *z;
    volatile size_t sink;
} vec_job;
enum { VEC_REPEAT = 20 };
static void vec_work(void *arg, int thread, int n) {
    (void)thread, (void)n;
    vec_job *j = arg;
    for (int i = 0; i < VEC_REPEAT; i++) switch (j->op) {
        case 0: j->k->rmsnorm(j->y, j->x, j->z, j->n, 1e-6f); break;
        case 1: j->k->swiglu(j->y, j->x, j->z, j->n); break;
        case 2: j->k->softmax(j->y, j->n); break;
        case 3: j->sink = j->k->argmax(j->x, j->n); break;
        case 4: j->k->rope(j->y, 16, 128, 128, j->x, j->z); break;
        case 5: j->k->add(j->y, j->x, j->z, j->n); break;
        case 6: j->k->f32_to_f16((uint16_t *)(void *)j->y, j->x, j->n); break;
        }
}

static void bench_vec(cake_isa isa) {
    static const struct {
        const char *name, *shape;
        int op;
        size_t n;
    } ops[] = {
        {"vec_rmsnorm", "1024", 0, 1024},       {"vec_rmsnorm", "4096", 0, 4096},
        {"vec_swiglu", "4864", 1, 4864},        {"vec_swiglu", "14336", 1, 14336},
        {"vec_softmax", "151936", 2, 151936},   {"vec_argmax", "151936", 3, 151936},
        {"vec_rope", "16 heads x 128", 4, 128}, {"vec_add", "1024", 5, 1024},
        {"vec_f32_to_f16", "4096", 6, 4096},
    };
    enum { N = 151936 };
    float *x = malloc(N * 4), *y = malloc(N * 4), *z = malloc(N * 4);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        for (size_t k = 0; k < N; k++) x[k] = rnd(), y[k] = rnd(), z[k] = rnd();
        vec_job j = {
            .k = cake_vec_for(isa), .op = ops[i].op, .n = ops[i].n, .x = x, .y = y, .z = z};
        double old = budget_s;
        budget_s = old / 10;
        line(ops[i].name, ops[i].shape, isa, 1, best_time(vec_work, &j, 1) / VEC_REPEAT * 1e6, "us",
             0, 0);
        budget_s = old;
    }
    float c[64], s[64];
    cake_rope r;
    cake_rope_spec sp = {.dims = 128, .base = 1e6};
    cake_rope_init(&r, &sp);
    double best = 1e9;
    for (int i = 0; i < 2000; i++) {
        double t = now_s();
        cake_rope_angles(&r, 7777u + (uint32_t)i, c, s);
        t = now_s() - t;
        best = t < best ? t : best;
    }
    line("rope_angles", "64 frequencies", CAKE_ISA_SCALAR, 1, best * 1e6, "us", 0, 0);
    free(x), free(y), free(z);
}

int main(int argc, char **argv) {
    const char *ms = getenv("CAKE_BENCH_MS");
    if (ms) budget_s = atof(ms) * 1e-3;
    int max_threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (max_threads > MAX_THREADS) max_threads = MAX_THREADS;
    size_t kv_bytes = (size_t)128 << 20;
    char *kv = huge_alloc(kv_bytes);
    for (int isa = 1; isa < CAKE_ISA_COUNT; isa++) {
        int wanted = argc == 1;
        for (int a = 1; a < argc; a++) wanted |= strcmp(argv[a], cake_isa_name((cake_isa)isa)) == 0;
        if (!wanted || !cake_cpu_has((cake_isa)isa)) continue;
        bench_vec((cake_isa)isa);
        for (int threads = 1;; threads = max_threads) {
            bench_attn((cake_isa)isa, CAKE_KV_F16, threads, kv, kv_bytes);
            bench_attn((cake_isa)isa, CAKE_KV_Q8, threads, kv, kv_bytes);
            if (threads == max_threads) break;
        }
    }
    return 0;
}
