/* Speed of encoding and decoding stored formats, one thread, one JSON object per line.
 *
 * Rows of 4096 weights, in millions of weights per second and rows per second; Gaussian-like
 * weights, so that searches find what they find in models. codec_encode lines are per codec,
 * flavour and importance; affine and fp modes have one encoder each.
 *
 * Usage: bench_codec. CAKE_BENCH_MS bounds the time of one measurement (default 300). */
#include "kernels/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { K = 4096, ROWS = 8 };

static float rows[ROWS][K], importance[K], decoded[K];
static uint8_t blocks[K * 4 + 64], scales[K], biases[K];

static double cpu_s(void) { /* the machine is shared: count our own time */
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct {
    bool encode;
    int kind, which; /* 0 codec, 1 affine, 2 fp; the codec, the width or the mode */
    cake_encode_flavour flavour;
    bool weigh;
} task;

static void once(const task *t, const float *x) {
    cake_codec c = (cake_codec)t->which;
    cake_fp_mode m = (cake_fp_mode)t->which;
    uint32_t bits = (uint32_t)t->which;
    if (t->encode) switch (t->kind) {
        case 0:
            cake_codec_encode_row(c, t->flavour, x, t->weigh ? importance : NULL, blocks, K);
            break;
        case 1: cake_affine_encode(bits, 64, CAKE_BF16, x, blocks, scales, biases, K); break;
        default: cake_fp_encode(m, x, blocks, scales, K); break;
        }
    else
        switch (t->kind) {
        case 0: cake_codec_decode_row(c, blocks, decoded, K); break;
        case 1: cake_affine_decode(bits, 64, CAKE_BF16, blocks, scales, biases, decoded, K); break;
        default: cake_fp_decode(m, blocks, scales, decoded, K); break;
        }
}

static void measure(const task *t, const char *name, double budget_s) {
    long n = 0;
    once(t, rows[0]);
    double start = cpu_s(), spent;
    do {
        once(t, rows[n % ROWS]);
        n++;
        spent = cpu_s() - start;
    } while (spent < budget_s);
    double per_s = (double)n / spent;
    printf("{\"bench\":\"%s\",\"format\":\"%s\",\"flavour\":\"%s\",\"importance\":%s,\"k\":%d,"
           "\"threads\":1,\"value\":%.2f,\"unit\":\"Mweights/s\",\"rows_per_s\":%.0f}\n",
           t->encode ? "codec_encode" : "codec_decode", name,
           t->kind != 0                   ? "mlx"
           : t->flavour == CAKE_ENCODE_KQ ? "kq"
                                          : "ggml",
           t->weigh ? "true" : "false", K, per_s * K * 1e-6, per_s);
    fflush(stdout);
}

int main(void) {
    const char *ms = getenv("CAKE_BENCH_MS");
    double budget_s = (ms ? atof(ms) : 300) * 1e-3;
    uint64_t s = 88172645463325252u;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < K; i++) {
            rows[r][i] = 0;
            for (int j = 0; j < 6; j++) {
                s ^= s << 13, s ^= s >> 7, s ^= s << 17;
                rows[r][i] += ((float)(s >> 40) * 0x1p-23f - 1) * 0.02f;
            }
        }
    for (int i = 0; i < K; i++) importance[i] = 1 + (float)(i * 7 % 13);
    for (int c = 0; c < CAKE_CODEC_COUNT; c++) {
        task t = {.which = c};
        const cake_codec_info *info = cake_codec_get((cake_codec)c);
        t.encode = info->encodes;
        if (t.encode)
            for (int v = 0; v < 4; v++) {
                t.flavour = v / 2 ? CAKE_ENCODE_KQ : CAKE_ENCODE_GGML;
                t.weigh = v & 1;
                if (!t.weigh || info->importance) measure(&t, info->name, budget_s);
            }
        t = (task){.which = c};
        measure(&t, info->name, budget_s);
    }
    for (int bits = 2; bits <= 8; bits++) {
        if (!cake_affine_valid((uint32_t)bits, 64)) continue;
        char name[16];
        snprintf(name, sizeof name, "affine%dg64", bits);
        measure(&(task){.encode = true, .kind = 1, .which = bits}, name, budget_s);
        measure(&(task){.kind = 1, .which = bits}, name, budget_s);
    }
    for (int m = 0; m < CAKE_FP_COUNT; m++) {
        const char *name = cake_fp_get((cake_fp_mode)m)->name;
        measure(&(task){.encode = true, .kind = 2, .which = m}, name, budget_s);
        measure(&(task){.kind = 2, .which = m}, name, budget_s);
    }
    return 0;
}
