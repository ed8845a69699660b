/* Print a digest of what every row operation, rope and attention give for fixed inputs, one line
 * each: equal output means equal bits. Run on two machines, or with two ISAs, and compare. Usage:
 * vec_digest ISA     (exit 3: this CPU or build does not have it) */
#include "kernels/attn.h"
#include "kernels/math.h"
#include "kernels/rope.h"
#include "kernels/vec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rng;
static uint32_t rnd_u32(void) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (uint32_t)(rng >> 32);
}
static float rnd(float range) {
    return ((float)(rnd_u32() >> 8) * 0x1p-23f - 1.0f) * range;
}

static uint64_t digest;
static void start(void) {
    digest = 14695981039346656037u;
    rng = 88172645463325252u;
}
static void eat(const void *p, size_t len_bytes) {
    const unsigned char *b = p;
    for (size_t i = 0; i < len_bytes; i++) digest = (digest ^ b[i]) * 1099511628211u;
}
static void line(const char *name) {
    printf("%-12s %016llx\n", name, (unsigned long long)digest);
    start();
}

enum { N = 4096 };
static float x[N + 16], y[N + 16], z[N + 16];
static uint16_t h[N + 16];

static void fill(float range) {
    for (size_t i = 0; i < N; i++) x[i] = rnd(range), z[i] = rnd(2);
}

static void not_positive(size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = x[i] > 0 ? -2 * x[i] : 2 * x[i];
}

int main(int argc, char **argv) {
    int isa = 0;
    while (isa < CAKE_ISA_COUNT &&
           (argc != 2 || strcmp(argv[1], cake_isa_name((cake_isa)isa)) != 0))
        isa++;
    if (isa == CAKE_ISA_COUNT) {
        fprintf(stderr, "usage: vec_digest scalar|avx2|avx512|neon\n");
        return 2;
    }
    const cake_vec_kern *k = cake_vec_for((cake_isa)isa);
    const cake_attn_kern *a = cake_attn_for((cake_isa)isa);
    if (!k || !a || !cake_cpu_has((cake_isa)isa)) return 3;
    static const size_t sizes[] = {1, 7, 15, 16, 17, 33, 64, 100, 257, 1000, N};
    int finite;
    double sum;
    start();

#define OP(name, range, call)                                                                      \
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {                                    \
        size_t n = sizes[s];                                                                       \
        fill(range);                                                                               \
        memset(y, 0, sizeof y);                                                                    \
        call;                                                                                      \
        eat(y, sizeof y);                                                                          \
    }                                                                                              \
    line(name)

    OP("rmsnorm", 5, k->rmsnorm(y, x, z, n, 1e-5f));
    OP("rmsnorm_1", 5, k->rmsnorm(y, x, NULL, n, 1e-5f));
    OP("add", 5, k->add(y, x, z, n));
    OP("axpy", 5, k->axpy(y, 0.3f, x, n));
    OP("scale", 5, k->scale(y, 0.3f, x, n));
    OP("swiglu", 90, k->swiglu(y, x, z, n));
    OP("geglu", 20, k->geglu(y, x, z, n));
    OP("sigmoid_mul", 95, k->sigmoid_mul(y, x, z, n));
    OP("silu", 30, k->silu(y, x, n));
    OP("softcap", 300, k->softcap(y, x, n, 30));
    OP("exp", 106, k->exp(y, x, n));
    OP("dot", 5, y[0] = k->dot(x, z, n));
    OP("max", 5, y[0] = k->max(x, n));
    OP("softmax", 40, (memcpy(y, x, n * sizeof *y), k->softmax(y, n)));
    OP("argmax", 5, y[0] = (float)k->argmax(x, n));
    OP("max_blocks", 5, y[N - 1] = k->max_blocks(y, x, n, &finite));
    OP("exp_sum", 40, (sum = k->exp_sum(y, x, n, 39, n % 2 ? 1 : 0.7f), eat(&sum, sizeof sum)));
    OP("exp2_neg", 76, (not_positive(n), k->exp2_neg(y, x, n)));
    OP("bf16", 5, (k->f32_to_bf16(h, x, n), eat(h, n * 2), k->bf16_to_f32(y, h, n)));

    for (uint32_t i = 0; i < 65536; i += N) { /* every f16, NaNs too */
        for (uint32_t j = 0; j < N; j++) h[j] = (uint16_t)(i + j);
        k->f16_to_f32(y, h, N);
        eat(y, N * sizeof *y);
    }
    for (int i = 0; i < 300; i++) { /* all kinds of bits */
        for (size_t j = 0; j < N; j++) x[j] = cake_f32_from_bits(rnd_u32());
        k->f32_to_f16(h, x, N);
        eat(h, N * sizeof *h);
    }
    line("f16");

    for (int i = 0; i < 20000; i++) {
        double d = (double)rnd(1) * (double)(1u << i % 31), e = (double)rnd(3);
        double r[5] = {cake_exp(d), cake_log(d * d), cake_pow(1 + d * d, e), cake_sin(d),
                       cake_cos(d)};
        float f[4] = {cake_expf((float)d), cake_logf((float)(d * d)), cake_softplusf((float)e),
                      cake_siluf((float)e)};
        eat(r, sizeof r);
        eat(f, sizeof f);
    }
    line("math");

    static const cake_rope_spec ropes[] = {
        {.dims = 128, .base = 1e6},
        {.type = CAKE_ROPE_LINEAR, .dims = 256, .base = 1e6, .factor = 8},
        {.type = CAKE_ROPE_LLAMA3, .dims = 64, .base = 5e5, .factor = 32},
        {.type = CAKE_ROPE_YARN, .dims = 48, .base = 1e6, .factor = 4, .orig_max_pos = 32768},
    };
    for (size_t i = 0; i < sizeof ropes / sizeof *ropes; i++) {
        cake_rope r;
        float c[128], s[128];
        if (!cake_rope_init(&r, &ropes[i])) return 1;
        eat(r.inv_freq, r.n_freq * sizeof *r.inv_freq);
        for (uint32_t pos = 0; pos < 4000000000u; pos = pos * 3 + 1) {
            cake_rope_angles(&r, pos, c, s);
            fill(4);
            k->rope(x, 3, 256, ropes[i].dims, c, s);
            eat(x, 3 * 256 * sizeof *x);
            if (pos > 1300000000u) break;
        }
    }
    line("rope");

    static const cake_attn_spec specs[] = {
        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .scale = 0.35f},
        {.n_heads = 7, .n_kv_heads = 1, .head_dim = 64, .scale = 0.125f},
        {.n_heads = 2, .n_kv_heads = 2, .head_dim = 80, .scale = 0.11f, .window = 70},
        {.n_heads = 16, .n_kv_heads = 2, .head_dim = 128, .scale = 0.088f, .window = 9},
        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 48, .scale = 0.4f, .window = 90, .softcap = 5},
        {.n_heads = 6, .n_kv_heads = 2, .head_dim = 72, .scale = 0.12f, .kv = CAKE_KV_Q8},
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        const cake_attn_spec *s = &specs[i];
        enum { POS = 200 };
        size_t ld = (size_t)s->n_heads * s->head_dim, kd = (size_t)s->n_kv_heads * s->head_dim;
        size_t block = cake_kv_block_bytes(s);
        const void *blocks[4];
        void *own[4];
        for (int b = 0; b < 4; b++) {
            blocks[b] = own[b] = malloc(block);
            memset(own[b], 0xff, block);
        }
        float *q = malloc(POS * ld * sizeof *q), *kv = malloc(2 * kd * sizeof *kv);
        for (uint32_t p = 0; p < POS; p++) {
            for (size_t j = 0; j < ld; j++) q[p * ld + j] = rnd(3);
            for (size_t j = 0; j < 2 * kd; j++) kv[j] = rnd(3);
            a->kv_store(s, own[p / 64], p % 64, kv, kv + kd);
        }
        void *scratch = malloc(cake_attn_scratch_bytes(s, POS));
        float *parts = malloc(cake_attn_partial_bytes(s, POS - 1, 1));
        const float *last = q + (POS - 1) * ld;
        a->partial(s, blocks, POS - 1, 1, 0, s->n_kv_heads, 0, 4, last, ld, parts, scratch);
        a->combine(s, POS - 1, 1, 0, s->n_kv_heads, parts, y, ld);
        a->rows(s, blocks, 0, POS, 0, s->n_kv_heads, q, ld, q, ld, scratch);
        eat(y, ld * sizeof *y);
        eat(q, POS * ld * sizeof *q);
        for (int b = 0; b < 3; b++) eat(own[b], block);
        for (int b = 0; b < 4; b++) free(own[b]);
        free(q), free(kv), free(scratch), free(parts);
    }
    line("attention");
    return 0;
}
