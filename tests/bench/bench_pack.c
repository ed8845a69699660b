/* Speed of the import from stored to packed form, one JSON line per case.
 *
 *   bench_pack [-f FORMAT] [-i ISA] [-t THREADS] [-s SECONDS PER CASE]     (each a filter; default:
 * everything)
 *
 * The value is GB/s of stored bytes (codes, scales, biases), and as much is written. The limit is
 * memcpy() of the same memory by the same number of threads; it is measured alternately with the
 * value, and the best of each is taken, because other work on a shared machine only ever slows one
 * down. Matrices are 4096 x 4096 and cold: copies larger than any cache are visited in turn. The
 * bar is 0.75, less where the codes' odd widths cost more shifts than memory leaves time for. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/mem.h"
#include "common/pool.h"
#include "tests/bench/formats.h"
#include "tests/unit/matmul_data.h"

enum {
    N = 4096,
    K = 4096,
    CHUNK_TILES = 16,
    POOL_BYTES = 256 << 20,
    COPY_BYTES = 4 << 20,
    SAMPLE_BYTES = 32 << 20
};

static uint8_t *stored, *packed; /* POOL_BYTES each */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void copy_chunk(void *arg, size_t chunk, unsigned thread) {
    (void)thread;
    const size_t at = (*(const size_t *)arg + chunk) * COPY_BYTES;
    memcpy(packed + at, stored + at, COPY_BYTES);
}

typedef struct {
    cake_isa isa;
    cake_wspec spec;
    size_t weight, scales; /* stored bytes of one copy: of the codes; of the scales */
    size_t bytes, first;   /* of one copy, both forms; the first chunk of this sample */
} job;

static void pack_chunk(void *arg, size_t chunk, unsigned thread) {
    (void)thread;
    const job *j = arg;
    chunk += j->first;
    const uint32_t per = cake_tiles(&j->spec) / CHUNK_TILES;
    const uint8_t *w = stored + chunk / per * j->bytes;
    const cake_wstored src = {w, w + j->weight, w + j->weight + j->scales};
    const uint32_t t = (uint32_t)(chunk % per) * CHUNK_TILES;
    cake_pack_tiles_for(j->isa, &j->spec, &src, packed + chunk / per * j->bytes, t,
                        t + CHUNK_TILES);
}

static const struct {
    const char *name;
    cake_wspec spec;
    double bar;
} formats[] = {
    {"affine2g64", AFFINE(CAKE_BF16, 2, 64), 0.75},
    {"affine3g64", AFFINE(CAKE_BF16, 3, 64), 0.55},
    {"affine4g32", AFFINE(CAKE_BF16, 4, 32), 0.75},
    {"affine4g64", AFFINE(CAKE_BF16, 4, 64), 0.75},
    {"affine4g128", AFFINE(CAKE_BF16, 4, 128), 0.75},
    {"affine4g64f32", AFFINE(CAKE_F32, 4, 64), 0.75},
    {"affine5g64", AFFINE(CAKE_BF16, 5, 64), 0.7},
    {"affine6g64", AFFINE(CAKE_BF16, 6, 64), 0.75},
    {"affine8g64", AFFINE(CAKE_BF16, 8, 64), 0.75},
    {"q4_0", BLOCK(Q4_0), 0.75},
    {"q4_1", BLOCK(Q4_1), 0.75},
    {"q5_0", BLOCK(Q5_0), 0.7},
    {"q5_1", BLOCK(Q5_1), 0.75},
    {"q8_0", BLOCK(Q8_0), 0.75},
    {"q2_k", BLOCK(Q2_K), 0.75},
    {"q3_k", BLOCK(Q3_K), 0.75},
    {"q4_k", BLOCK(Q4_K), 0.75},
    {"q5_k", BLOCK(Q5_K), 0.75},
    {"q6_k", BLOCK(Q6_K), 0.75},
    {"mxfp4_gguf", BLOCK(MXFP4), 0.75},
    {"nvfp4_gguf", BLOCK(NVFP4), 0.75},
    {"mxfp4", FP(MXFP4), 0.75},
    {"nvfp4", FP(NVFP4), 0.75},
    {"mxfp8", FP(MXFP8), 0.75},
    {"f16", DENSE(CAKE_F16), 0.75},
    {"f32", DENSE(CAKE_F32), 0.75},
};

int main(int argc, char **argv) {
    const char *want_format = NULL, *want_isa = NULL;
    unsigned want_threads = 0;
    double seconds = 0.12;
    for (int c; (c = getopt(argc, argv, "f:i:t:s:")) != -1;) switch (c) {
        case 'f': want_format = optarg; break;
        case 'i': want_isa = optarg; break;
        case 't': want_threads = (unsigned)atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        default: return 2;
        }
    stored = cake_pages_alloc(POOL_BYTES), packed = cake_pages_alloc(POOL_BYTES);
    for (size_t i = 0; i < POOL_BYTES; i += 8) {
        const uint64_t v = md_random();
        memcpy(stored + i, &v, 8);
    }
    memset(packed, 1, POOL_BYTES);
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        if (want_format && strcmp(want_format, formats[f].name) != 0) continue;
        const cake_wspec *s = &formats[f].spec;
        for (int isa = CAKE_ISA_COUNT - 1; isa >= 0; isa--) {
            if (!cake_cpu_has((cake_isa)isa) ||
                (want_isa && strcmp(want_isa, cake_isa_name((cake_isa)isa)) != 0))
                continue;
            for (unsigned threads = 1; threads <= 2; threads++) {
                if (want_threads && threads != want_threads) continue;
                cake_pool *pool = cake_pool_new(threads, 200);
                job j = {.isa = (cake_isa)isa, .spec = *s};
                j.weight = N * cake_stored_row_bytes(s);
                j.scales = N * cake_stored_scale_row_bytes(s);
                const size_t total = j.weight + (s->kind == CAKE_W_AFFINE ? 2 : 1) * j.scales;
                j.bytes = cake_packed_bytes(s) > total ? cake_packed_bytes(s) : total;
                const size_t per = N / 16 / CHUNK_TILES, chunks = POOL_BYTES / j.bytes * per;
                /* a sample takes a few milliseconds: shorter than a time slice */
                size_t use = SAMPLE_BYTES / (total / per), at = 0;
                if (use > chunks) use = chunks;
                double value = 0, limit = 0;
                for (double end = now() + seconds; now() < end;) {
                    at = (at + SAMPLE_BYTES / COPY_BYTES) % (POOL_BYTES / COPY_BYTES);
                    double t = now();
                    cake_pool_run(pool, SAMPLE_BYTES / COPY_BYTES, copy_chunk, &at);
                    const double l = (double)SAMPLE_BYTES / (now() - t) / 1e9;
                    j.first = j.first + 2 * use <= chunks ? j.first + use : 0;
                    t = now();
                    cake_pool_run(pool, use, pack_chunk, &j);
                    const double v = (double)(total / per * use) / (now() - t) / 1e9;
                    value = v > value ? v : value;
                    limit = l > limit ? l : limit;
                }
                printf("{\"bench\":\"pack\",\"format\":\"%s\",\"isa\":\"%s\",\"threads\":%u,"
                       "\"value\":%.2f,\"unit\":\"GB/s\",\"limit\":%.2f,\"ratio\":%.3f,"
                       "\"bar\":%.2f}\n",
                       formats[f].name, cake_isa_name((cake_isa)isa), threads, value, limit,
                       value / limit, isa == (int)cake_cpu_isa() ? formats[f].bar : 0);
                fflush(stdout);
                cake_pool_free(pool);
            }
        }
    }
    cake_pages_free(stored, POOL_BYTES);
    cake_pages_free(packed, POOL_BYTES);
    return 0;
}
