/* Speed of the packed matmul family beside the machine's own limits, one JSON line per case.
 *
 *   bench_matmul [-f FORMAT] [-i ISA] [-n N] [-t THREADS] [-s SECONDS PER CASE]     (each a filter;
 * default: everything)
 *
 * n=1 is compared with the read bandwidth of the same number of threads over the same weights on 2
 * MiB pages; larger n with the integer-dot (or, for dense weights, f32 fma) peak of the same
 * instruction set. Limit and value are measured alternately and the best of each is taken, because
 * other work on a shared machine only ever slows one down. Weights are 4096 x 4096 and cold: copies
 * larger than any cache are visited in turn. Activations are quantized outside the timed part
 * (several matmuls share them). */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "common/mem.h"
#include "common/pool.h"
#include "tests/bench/formats.h"
#include "tests/unit/matmul_data.h"

enum {
    N = 4096,
    K = 4096,
    CHUNK_TILES = 8,
    STREAM_TILES = 32, /* of few tokens: what the engine gives one of two threads of 4096 rows */
    FEW_TOK = 16,
    POOL_BYTES = 384 << 20,
    MAX_TOK = 512,
    SLACK = 32768,
    SAMPLE_MIB = 32
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- limits ---- */

static uint8_t *weights;
static volatile uint64_t sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static uint64_t read_512(const uint8_t *p, size_t bytes,
                                                            size_t ahead) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes; i += 256) {
        for (int j = 0; j < 4; j++) _mm_prefetch(p + i + ahead + 64 * j, _MM_HINT_T0);
        a = _mm512_or_si512(a, _mm512_load_si512(p + i));
        b = _mm512_or_si512(b, _mm512_load_si512(p + i + 64));
        c = _mm512_or_si512(c, _mm512_load_si512(p + i + 128));
        d = _mm512_or_si512(d, _mm512_load_si512(p + i + 192));
    }
    return (uint64_t)_mm512_reduce_or_epi64(
        _mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)));
}
__attribute__((target("avx2"))) static uint64_t read_256(const uint8_t *p, size_t bytes,
                                                         size_t ahead) {
    __m256i a = _mm256_setzero_si256(), b = a;
    for (size_t i = 0; i < bytes; i += 64) {
        _mm_prefetch(p + i + ahead, _MM_HINT_T0);
        a = _mm256_or_si256(a, _mm256_load_si256((const __m256i *)(const void *)(p + i)));
        b = _mm256_or_si256(b, _mm256_load_si256((const __m256i *)(const void *)(p + i + 32)));
    }
    a = _mm256_or_si256(a, b);
    return (uint64_t)_mm256_extract_epi64(a, 0) | (uint64_t)_mm256_extract_epi64(a, 3);
}
#endif
static uint64_t read_64(const uint8_t *p, size_t bytes) {
    uint64_t a = 0, v;
    for (size_t i = 0; i < bytes; i += 8) memcpy(&v, p + i, 8), a |= v;
    return a;
}

static void read_chunk(void *arg, size_t chunk, unsigned thread) {
    (void)thread;
    const size_t at = *(const size_t *)arg;
    const uint8_t *p = weights + ((at + chunk) << 20);
    size_t ahead =
        (size_t)2048 << at / SAMPLE_MIB % 4; /* which distance is best depends on the machine */
#if defined(__x86_64__)
    if (cake_cpu_has(CAKE_ISA_AVX512)) {
        sink |= read_512(p, 1 << 20, ahead);
        return;
    }
    if (cake_cpu_has(CAKE_ISA_AVX2)) {
        sink |= read_256(p, 1 << 20, ahead);
        return;
    }
#endif
    (void)ahead;
    sink |= read_64(p, 1 << 20);
}

enum { PEAK_ROUNDS = 1 << 14, PEAK_CHAINS = 12, PEAK_CHUNKS = 32 };

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) static double peak_dot_512(void) {
    __m512i a[PEAK_CHAINS], x = _mm512_set1_epi8(3);
    for (int i = 0; i < PEAK_CHAINS; i++) a[i] = _mm512_set1_epi32(i);
    for (int r = 0; r < PEAK_ROUNDS; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < PEAK_CHAINS; i++) a[i] = _mm512_dpbusd_epi32(a[i], x, x);
        __asm__ volatile("" : "+v"(x));
    }
    for (int i = 1; i < PEAK_CHAINS; i++) a[0] = _mm512_add_epi32(a[0], a[i]);
    sink |= (uint64_t)_mm512_reduce_add_epi32(a[0]);
    return 128.0 * PEAK_ROUNDS * PEAK_CHAINS;
}
__attribute__((target("avx512f"))) static double peak_fma_512(void) {
    __m512 a[PEAK_CHAINS], x = _mm512_set1_ps(0.5f);
    for (int i = 0; i < PEAK_CHAINS; i++) a[i] = _mm512_set1_ps((float)i);
    for (int r = 0; r < PEAK_ROUNDS; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < PEAK_CHAINS; i++) a[i] = _mm512_fmadd_ps(a[i], x, x);
        __asm__ volatile("" : "+v"(x));
    }
    for (int i = 1; i < PEAK_CHAINS; i++) a[0] = _mm512_add_ps(a[0], a[i]);
    sink |= (uint64_t)_mm512_reduce_add_ps(a[0]);
    return 32.0 * PEAK_ROUNDS * PEAK_CHAINS;
}
/* Without VNNI a dot step is maddubs, madd with ones, add. */
__attribute__((target("avx2"))) static double peak_dot_256(void) {
    __m256i a[PEAK_CHAINS], x = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
    for (int i = 0; i < PEAK_CHAINS; i++) a[i] = _mm256_set1_epi32(i);
    for (int r = 0; r < PEAK_ROUNDS; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < PEAK_CHAINS; i++) {
            __m256i m = _mm256_maddubs_epi16(x, x);
            __asm__ volatile("" : "+x"(m)); /* the same product every time: keep it */
            a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(m, one));
        }
    }
    for (int i = 1; i < PEAK_CHAINS; i++) a[0] = _mm256_add_epi32(a[0], a[i]);
    sink |= (uint64_t)_mm256_extract_epi64(a[0], 0);
    return 64.0 * PEAK_ROUNDS * PEAK_CHAINS;
}
__attribute__((target("avx2,fma"))) static double peak_fma_256(void) {
    __m256 a[PEAK_CHAINS], x = _mm256_set1_ps(0.5f);
    for (int i = 0; i < PEAK_CHAINS; i++) a[i] = _mm256_set1_ps((float)i);
    for (int r = 0; r < PEAK_ROUNDS; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < PEAK_CHAINS; i++) a[i] = _mm256_fmadd_ps(a[i], x, x);
        __asm__ volatile("" : "+x"(x));
    }
    for (int i = 1; i < PEAK_CHAINS; i++) a[0] = _mm256_add_ps(a[0], a[i]);
    sink |= (uint64_t)_mm256_cvtss_f32(a[0]);
    return 16.0 * PEAK_ROUNDS * PEAK_CHAINS;
}
#endif

/* Operations of one peak chunk of this ISA; 0 where none is defined. */
static double peak_ops(cake_isa isa, bool dense) {
#if defined(__x86_64__)
    if (isa == CAKE_ISA_AVX512) return dense ? peak_fma_512() : peak_dot_512();
    if (isa == CAKE_ISA_AVX2) return dense ? peak_fma_256() : peak_dot_256();
#endif
    (void)isa, (void)dense;
    return 0;
}

typedef struct {
    cake_isa isa;
    bool dense;
    double ops[64];
} peak_arg;

static void peak_chunk(void *arg, size_t chunk, unsigned thread) {
    (void)chunk;
    peak_arg *p = arg;
    p->ops[thread] += peak_ops(p->isa, p->dense);
}

/* A different part of the weights each time: nothing is found in a cache. */
static double measure_bandwidth(cake_pool *pool, size_t *at) {
    const size_t chunks = SAMPLE_MIB;
    *at = (*at + chunks) % (POOL_BYTES >> 20);
    if (*at + chunks > POOL_BYTES >> 20) *at = 0;
    double t = now();
    cake_pool_run(pool, chunks, read_chunk, at);
    return (double)(chunks << 20) / (now() - t) / 1e9;
}

static double measure_peak(cake_pool *pool, cake_isa isa, bool dense) {
    peak_arg p = {.isa = isa, .dense = dense};
    double t = now(), ops = 0;
    cake_pool_run(pool, PEAK_CHUNKS, peak_chunk, &p);
    t = now() - t;
    for (int i = 0; i < 64; i++) ops += p.ops[i];
    return ops / t / 1e9;
}

/* ---- the cases ---- */

typedef struct {
    const cake_matmul_ops *ops;
    cake_mat mat;        /* packed of copy 0 */
    size_t bytes, first; /* of one copy; the first chunk of this sample */
    const cake_act *act;
    float *y;
    char *scratch;
    uint32_t tiles; /* of a chunk */
} job;

static void mm_chunk(void *arg, size_t chunk, unsigned thread) {
    const job *j = arg;
    chunk += j->first;
    const size_t per = cake_tiles(&j->mat.spec) / j->tiles;
    cake_mat m = j->mat;
    m.packed = weights + chunk / per * j->bytes;
    uint32_t t = (uint32_t)(chunk % per) * j->tiles;
    j->ops->matmul(&m, j->act, false, j->y, N, t, t + j->tiles,
                   j->scratch + thread * cake_matmul_scratch_bytes());
}

/* Random codes, scales of modest size, packed by the real import. */
static void fill_weights(const cake_wspec *s) {
    const size_t bytes = cake_packed_bytes(s);
    md_matrix m = md_new(*s);
    for (size_t c = 0; (c + 1) * bytes <= POOL_BYTES; c++)
        memcpy(weights + c * bytes, m.packed, bytes);
    md_free(&m);
}

static const struct {
    const char *name;
    cake_wspec spec;
    double bar8, bar512;
} formats[] = {
    {"affine4g64", AFFINE(CAKE_F16, 4, 64), 0.55, 0.75},
    {"affine8g64", AFFINE(CAKE_BF16, 8, 64), 0, 0.75},
    {"affine2g64", AFFINE(CAKE_BF16, 2, 64), 0, 0.65},
    {"affine3g64", AFFINE(CAKE_BF16, 3, 64), 0, 0.65},
    {"affine5g64", AFFINE(CAKE_BF16, 5, 64), 0, 0.65},
    {"affine6g64", AFFINE(CAKE_BF16, 6, 64), 0, 0.65},
    {"affine4g32", AFFINE(CAKE_BF16, 4, 32), 0.55, 0.65},
    {"affine4g128", AFFINE(CAKE_BF16, 4, 128), 0.55, 0.75},
    {"q4_0", BLOCK(Q4_0), 0.55, 0.75},
    {"q4_1", BLOCK(Q4_1), 0.55, 0.75},
    {"q5_0", BLOCK(Q5_0), 0, 0.65},
    {"q5_1", BLOCK(Q5_1), 0, 0.65},
    {"q8_0", BLOCK(Q8_0), 0, 0.75},
    {"q2_k", BLOCK(Q2_K), 0, 0.65},
    {"q3_k", BLOCK(Q3_K), 0, 0.65},
    {"q4_k", BLOCK(Q4_K), 0.55, 0.75},
    {"q5_k", BLOCK(Q5_K), 0, 0.65},
    {"q6_k", BLOCK(Q6_K), 0, 0.65},
    {"mxfp4_gguf", BLOCK(MXFP4), 0.55, 0.75},
    {"nvfp4_gguf", BLOCK(NVFP4), 0.55, 0.75},
    {"mxfp4", FP(MXFP4), 0.55, 0.75},
    {"nvfp4", FP(NVFP4), 0.55, 0.75},
    {"mxfp8", FP(MXFP8), 0, 0},
    {"f16", DENSE(CAKE_F16), 0, 0},
    {"bf16", DENSE(CAKE_BF16), 0, 0},
    {"f32", DENSE(CAKE_F32), 0, 0},
};

int main(int argc, char **argv) {
    const char *want_format = NULL, *want_isa = NULL;
    unsigned want_n = 0, want_threads = 0;
    double seconds = 0.12;
    for (int c; (c = getopt(argc, argv, "f:i:n:t:s:")) != -1;) switch (c) {
        case 'f': want_format = optarg; break;
        case 'i': want_isa = optarg; break;
        case 'n': want_n = (unsigned)atoi(optarg); break;
        case 't': want_threads = (unsigned)atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        default: return 2;
        }
    weights = cake_pages_alloc(POOL_BYTES + SLACK);
    float *x = cake_malloc((size_t)MAX_TOK * K * sizeof *x);
    float *y = cake_malloc((size_t)MAX_TOK * N * sizeof *y);
    for (size_t i = 0; i < (size_t)MAX_TOK * K; i++) x[i] = md_float();
    size_t act_bytes = cake_act_bytes(K, MAX_TOK), sb = cake_matmul_scratch_bytes();
    void *act_mem = cake_pages_alloc(act_bytes);
    char *scratch = cake_pages_alloc(2 * sb);
    static const unsigned ns[] = {1, 8, 512};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        if (want_format && strcmp(want_format, formats[f].name) != 0) continue;
        const cake_wspec *s = &formats[f].spec;
        bool dense = s->kind == CAKE_W_DENSE;
        fill_weights(s);
        for (int isa = CAKE_ISA_COUNT - 1; isa > 0; isa--) {
            const cake_matmul_ops *ops = cake_matmul_for((cake_isa)isa);
            if (!ops || (want_isa && strcmp(want_isa, cake_isa_name((cake_isa)isa)) != 0)) continue;
            for (int ni = 0; ni < 3; ni++)
                for (unsigned threads = 1; threads <= 2; threads++) {
                    unsigned n = ns[ni];
                    if ((want_n && n != want_n) || (want_threads && threads != want_threads))
                        continue;
                    cake_pool *pool = cake_pool_new(threads, 200);
                    cake_act act;
                    cake_act_init(&act, act_mem, x, K, K, n);
                    ops->act_quantize(&act, 0, n);
                    size_t bytes = cake_packed_bytes(s), copies = POOL_BYTES / bytes;
                    const uint32_t tiles = n < FEW_TOK ? STREAM_TILES : CHUNK_TILES;
                    const size_t per = N / 16 / tiles, total = copies * per;
                    /* a sample takes one or two milliseconds: shorter than a time slice */
                    size_t use = n == 1 ? (size_t)(SAMPLE_MIB << 20) / (bytes / per)
                                        : (size_t)(6e8 * threads / (dense ? 4 : 1) /
                                                   (2.0 * n * tiles * 16 * K));
                    if (use < threads) use = threads;
                    /* half the weights apart from what the limit reads: neither finds the other in
                     * a cache */
                    job j = {ops, {*s, weights}, bytes, total / 2, &act, y, scratch, tiles};
                    double value = 0, limit = 0;
                    size_t at = 0;
                    for (double end = now() + seconds; now() < end;) {
                        double l = n == 1 ? measure_bandwidth(pool, &at)
                                          : measure_peak(pool, (cake_isa)isa, dense);
                        j.first = j.first + 2 * use <= total ? j.first + use : 0;
                        double t = now();
                        cake_pool_run(pool, use, mm_chunk, &j);
                        t = now() - t;
                        double v = n == 1 ? (double)(bytes / per * use) / t / 1e9
                                          : 2.0 * n * tiles * 16 * K * (double)use / t / 1e9;
                        value = v > value ? v : value;
                        limit = l > limit ? l : limit;
                    }
                    double bar = n == 1 ? 0.95 : n == 8 ? formats[f].bar8 : formats[f].bar512;
                    if (isa != (int)cake_cpu_isa()) bar = 0; /* compared between ISAs instead */
                    printf("{\"bench\":\"matmul\",\"format\":\"%s\",\"isa\":\"%s\",\"n\":%u,"
                           "\"threads\":%u,\"value\":%.2f,\"unit\":\"%s\",\"limit\":%.2f,"
                           "\"ratio\":%.3f,\"bar\":%.2f}\n",
                           formats[f].name, cake_isa_name((cake_isa)isa), n, threads, value,
                           n == 1 ? "GB/s" : "GOPS", limit, limit > 0 ? value / limit : 0, bar);
                    fflush(stdout);
                    cake_pool_free(pool);
                }
        }
    }
    free(x), free(y);
    cake_pages_free(scratch, 2 * sb);
    cake_pages_free(act_mem, act_bytes);
    cake_pages_free(weights, POOL_BYTES + SLACK);
    return 0;
}
