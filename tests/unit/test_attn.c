/* Attention: against a double reference, and the same bits for every ISA, grouping of rows and
 * split over blocks. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/attn.h"
#include "kernels/vec.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rng = 88172645463325252u;
static float rnd(void) { /* sum of uniforms: about normal, deviation 1 */
    float s = 0;
    for (int i = 0; i < 12; i++) {
        rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
        s += (float)(rng >> 40) * 0x1p-24f;
    }
    return s - 6.0f;
}

/* One sequence of n positions: f32 q, k, v and the KV blocks, each in its own exact heap piece
 * filled with NaN patterns before. */
typedef struct {
    cake_attn_spec s;
    uint32_t n, n_blocks;
    float *q, *k, *v;
    void **blocks;
    size_t ldq;
} seq;

static void store_range(seq *t, const cake_attn_kern *kern, uint32_t from, uint32_t to) {
    size_t kd = (size_t)t->s.n_kv_heads * t->s.head_dim;
    for (uint32_t p = from; p < to; p++)
        kern->kv_store(&t->s, t->blocks[p / 64], p % 64, t->k + p * kd, t->v + p * kd);
}

static seq *seq_new(cake_attn_spec s, uint32_t n, float spread) {
    seq *t = calloc(1, sizeof *t);
    t->s = s, t->n = n, t->n_blocks = (n + 63) / 64, t->ldq = (size_t)s.n_heads * s.head_dim + 3;
    size_t kd = (size_t)s.n_kv_heads * s.head_dim;
    t->q = malloc(n * t->ldq * sizeof(float));
    t->k = malloc(n * kd * sizeof(float));
    t->v = malloc(n * kd * sizeof(float));
    for (size_t i = 0; i < n * t->ldq; i++) t->q[i] = rnd() * spread;
    for (size_t i = 0; i < n * kd; i++) t->k[i] = rnd(), t->v[i] = rnd();
    t->blocks = calloc(t->n_blocks, sizeof *t->blocks);
    for (uint32_t b = 0; b < t->n_blocks; b++) {
        t->blocks[b] = malloc(cake_kv_block_bytes(&s));
        memset(t->blocks[b], 0xff, cake_kv_block_bytes(&s)); /* f16 NaNs */
    }
    return t;
}

static void seq_free(seq *t) {
    for (uint32_t b = 0; b < t->n_blocks; b++) free(t->blocks[b]);
    free(t->blocks), free(t->q), free(t->k), free(t->v), free(t);
}

/* out [n][ldq], NaN-filled first; rows [from, to) in groups of g. */
static void run_rows(const seq *t, const cake_attn_kern *kern, uint32_t from, uint32_t to,
                     uint32_t g, float *out) {
    void *scratch = malloc(cake_attn_scratch_bytes(&t->s, g));
    for (uint32_t p = from; p < to; p += g) {
        uint32_t n = to - p < g ? to - p : g;
        /* one head at a time or all: by the position, so that both happen */
        uint32_t step = p % 2 ? 1 : t->s.n_kv_heads;
        for (uint32_t h = 0; h < t->s.n_kv_heads; h += step)
            kern->rows(&t->s, (const void *const *)t->blocks, p, n, h, h + step, t->q + p * t->ldq,
                       t->ldq, out + p * t->ldq, t->ldq, scratch);
    }
    free(scratch);
}

static void fill_nan(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = NAN;
}

/* A key or value as the cache keeps it. */
static void stored(const seq *t, float *y, const float *x) {
    size_t d = t->s.head_dim;
    uint16_t half[CAKE_ATTN_MAX_DIM];
    switch (t->s.kv) {
    case CAKE_KV_F32: memcpy(y, x, d * sizeof *y); return;
    case CAKE_KV_F16:
        cake_f32_to_f16(half, x, d);
        cake_f16_to_f32(y, half, d);
        return;
    case CAKE_KV_Q8:
        for (size_t c = 0; c < d; c += 32) {
            float max = 0, scale;
            size_t end = d - c < 32 ? d : c + 32;
            for (size_t i = c; i < end; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
            max /= 127;
            cake_f32_to_f16(half, &max, 1);
            cake_f16_to_f32(&scale, half, 1);
            for (size_t i = c; i < end; i++) {
                float q = scale == 0 ? 0 : rintf(x[i] / scale); /* to even */
                y[i] = fminf(fmaxf(q, -127), 127) * scale;
            }
        }
        return;
    }
}

/* Row p against double arithmetic on the stored values. */
static void check_reference(const seq *t, uint32_t p, const float *out) {
    size_t d = t->s.head_dim, kd = t->s.n_kv_heads * d, group = t->s.n_heads / t->s.n_kv_heads;
    double *w = malloc((p + 1) * sizeof *w);
    float *kh = malloc(d * sizeof *kh);
    for (uint32_t h = 0; h < t->s.n_heads; h++) {
        const float *q = t->q + p * t->ldq + h * d;
        uint32_t lo = t->s.window && p >= t->s.window ? p - t->s.window + 1 : 0;
        double max = -INFINITY, sum = 0, mag = 0;
        for (uint32_t j = lo; j <= p; j++) {
            stored(t, kh, t->k + j * kd + h / group * d);
            double s = 0, a = 0;
            for (size_t i = 0; i < d; i++)
                s += (double)q[i] * kh[i] * (double)t->s.scale,
                    a += fabs((double)q[i] * kh[i] * (double)t->s.scale);
            if (t->s.softcap > 0) s = (double)t->s.softcap * tanh(s / (double)t->s.softcap);
            w[j] = s;
            max = s > max ? s : max;
            mag = a > mag ? a : mag;
        }
        for (uint32_t j = lo; j <= p; j++) sum += w[j] = exp(w[j] - max);
        double *o = calloc(d, sizeof *o), *oa = calloc(d, sizeof *oa);
        for (uint32_t j = lo; j <= p; j++) {
            stored(t, kh, t->v + j * kd + h / group * d);
            for (size_t i = 0; i < d; i++)
                o[i] += w[j] / sum * kh[i], oa[i] += w[j] / sum * fabs((double)kh[i]);
        }
        /* A score is off by at most (d + 2) eps/2 times sum|q k|, which is the relative error of
         * its weight, plus a few roundings of exp and of the merges; sums over keys add (keys)
         * eps/2; the normalisation doubles both. */
        double n_blocks = (p - lo) / 64 + 2;
        double rel = FLT_EPSILON * ((double)(d + 4) * mag + 8 + 4 * n_blocks + 64 + 20);
        for (size_t i = 0; i < d; i++) {
            double err = fabs((double)out[p * t->ldq + h * d + i] - o[i]);
            if (!(err <= rel * oa[i] + 1e-30)) {
                fprintf(stderr, "pos %u head %u d %zu: %g instead of %g, bound %g\n", p, h, i,
                        (double)out[p * t->ldq + h * d + i], o[i], rel * oa[i]);
                fail();
            }
        }
        free(o), free(oa);
    }
    free(w), free(kh);
}

static const cake_attn_spec shapes[] = {
    {.n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .scale = 0.25f},
    {.n_heads = 3, .n_kv_heads = 3, .head_dim = 8, .scale = 0.35355339f},
    {.n_heads = 8, .n_kv_heads = 2, .head_dim = 64, .scale = 0.125f},
    {.n_heads = 7, .n_kv_heads = 1, .head_dim = 80, .scale = 0.1118034f, .window = 100},
    {.n_heads = 8, .n_kv_heads = 1, .head_dim = 128, .scale = 0.08838835f},
    {.n_heads = 2, .n_kv_heads = 1, .head_dim = 256, .scale = 0.0625f, .window = 64},
    {.n_heads = 2, .n_kv_heads = 2, .head_dim = 96, .scale = 0.1020621f, .window = 1},
    {.n_heads = 4, .n_kv_heads = 2, .head_dim = 24, .scale = 0.2f, .window = 7},
    {.n_heads = 4, .n_kv_heads = 2, .head_dim = 40, .scale = 0.2f, .kv = CAKE_KV_F32},
    {.n_heads = 19,
     .n_kv_heads = 1,
     .head_dim = 64,
     .scale = 0.125f,
     .window = 90,
     .kv = CAKE_KV_F32},
    {.n_heads = 100, .n_kv_heads = 1, .head_dim = 8, .scale = 0.3f, .window = 65},
    {.n_heads = 4, .n_kv_heads = 2, .head_dim = 72, .scale = 0.12f, .kv = CAKE_KV_Q8},
    {.n_heads = 7, .n_kv_heads = 1, .head_dim = 64, .scale = 0.125f, .kv = CAKE_KV_Q8},
    {.n_heads = 16, .n_kv_heads = 2, .head_dim = 8, .scale = 0.3f, .window = 70, .kv = CAKE_KV_Q8},
    {.n_heads = 3, .n_kv_heads = 3, .head_dim = 256, .scale = 0.0625f, .kv = CAKE_KV_Q8},
    {.n_heads = 8, .n_kv_heads = 4, .head_dim = 32, .scale = 0.25f, .window = 75, .softcap = 5},
    {.n_heads = 2,
     .n_kv_heads = 1,
     .head_dim = 256,
     .scale = 0.0625f,
     .softcap = 50,
     .kv = CAKE_KV_F32},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void reference(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        uint32_t n = shapes[i].n_heads > 50 ? 100 : 140;
        seq *t = seq_new(shapes[i], n, i % 2 ? 1.0f : 4.0f);
        float *out = malloc(n * t->ldq * sizeof *out);
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
            if (!cake_cpu_has((cake_isa)isa)) continue;
            const cake_attn_kern *kern = cake_attn_for((cake_isa)isa);
            store_range(t, kern, 0, n);
            fill_nan(out, n * t->ldq);
            run_rows(t, kern, 0, n, n, out);
            for (uint32_t p = 0; p < n; p += p < 70 ? 1 : 13) check_reference(t, p, out);
            check_reference(t, n - 1, out);
            /* columns outside the heads are untouched */
            for (uint32_t p = 0; p < n; p++)
                for (size_t c = t->ldq - 3; c < t->ldq; c++)
                    assert_true(isnan(out[p * t->ldq + c]));
        }
        free(out);
        seq_free(t);
    }
}

/* The first run: scalar, one row at a time, and each key stored only when its row runs, so that
 * every slot beyond the row holds NaN. All others must give its bits. */
static void same_bits(void **state) {
    (void)state;
    static const uint32_t groups[] = {1, 2, 3, 7, 64, 1000};
    for (size_t i = 0; i < N_SHAPES; i++) {
        uint32_t n = shapes[i].n_heads > 50 ? 130 : 203;
        seq *t = seq_new(shapes[i], n, 3.0f);
        size_t bytes = n * t->ldq * sizeof(float);
        float *want = malloc(bytes), *got = malloc(bytes);
        const cake_attn_kern *scalar = cake_attn_for(CAKE_ISA_SCALAR);
        fill_nan(want, n * t->ldq);
        for (uint32_t p = 0; p < n; p++) {
            store_range(t, scalar, p, p + 1);
            run_rows(t, scalar, p, p + 1, 1, want);
        }
        size_t block_bytes = cake_kv_block_bytes(&t->s);
        void *first = malloc(block_bytes);
        memcpy(first, t->blocks[0], block_bytes);
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
            if (!cake_cpu_has((cake_isa)isa)) continue;
            const cake_attn_kern *kern = cake_attn_for((cake_isa)isa);
            for (uint32_t b = 0; b < t->n_blocks; b++) memset(t->blocks[b], 0xff, block_bytes);
            store_range(t, kern, 0, n);
            assert_memory_equal(t->blocks[0], first, block_bytes);
            for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
                if (isa == CAKE_ISA_SCALAR && g % 3 != 1) continue; /* slow */
                fill_nan(got, n * t->ldq);
                run_rows(t, kern, 0, n, groups[g], got);
                if (memcmp(got, want, bytes) != 0) {
                    fprintf(stderr, "shape %zu %s rows by %u differ\n", i,
                            cake_isa_name((cake_isa)isa), groups[g]);
                    fail();
                }
            }
            /* prefill from a position inside a block */
            fill_nan(got, n * t->ldq);
            run_rows(t, kern, 0, 37, 37, got);
            run_rows(t, kern, 37, n, 250, got);
            assert_memory_equal(got, want, bytes);
        }
        free(first), free(want), free(got);
        seq_free(t);
    }
}

static void partial_combine(void **state) {
    (void)state;
    static const uint32_t rows[] = {1, 3, 80};
    for (size_t i = 0; i < N_SHAPES; i++) {
        uint32_t n = shapes[i].n_heads > 50 ? 150 : 400;
        seq *t = seq_new(shapes[i], n, 2.0f);
        float *want = malloc(n * t->ldq * sizeof *want), *got = malloc(n * t->ldq * sizeof *got);
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
            if (!cake_cpu_has((cake_isa)isa)) continue;
            const cake_attn_kern *kern = cake_attn_for((cake_isa)isa);
            store_range(t, kern, 0, n);
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                uint32_t nr = rows[r], pos = n - nr;
                fill_nan(want, n * t->ldq);
                fill_nan(got, n * t->ldq);
                run_rows(t, kern, pos, n, nr, want);
                void *scratch = malloc(cake_attn_scratch_bytes(&t->s, nr));
                size_t bytes = cake_attn_partial_bytes(&t->s, pos, nr);
                float *parts = malloc(bytes);
                fill_nan(parts, bytes / sizeof *parts);
                uint32_t heads = t->s.n_kv_heads, step = r % 2 ? heads : 1;
                for (uint32_t h = 0; h < heads; h += step) {
                    uint32_t nb = t->n_blocks; /* pairs of blocks, last first */
                    for (uint32_t b1 = nb; b1; b1 = b1 > 2 ? b1 - 2 : 0) {
                        uint32_t b0 = b1 > 2 ? b1 - 2 : 0;
                        kern->partial(&t->s, (const void *const *)t->blocks, pos, nr, h, h + step,
                                      b0, b1, t->q + pos * t->ldq, t->ldq, parts, scratch);
                    }
                }
                kern->combine(&t->s, pos, nr, 0, heads, parts, got + pos * t->ldq, t->ldq);
                assert_memory_equal(got, want, n * t->ldq * sizeof *got);
                free(scratch), free(parts);
            }
        }
        free(want), free(got);
        seq_free(t);
    }
}

/* A NaN or infinity among masked keys and values must not reach a row; in place works; f16
 * saturates. */
static void masked_and_in_place(void **state) {
    (void)state;
    cake_attn_spec s = {.n_heads = 4, .n_kv_heads = 2, .head_dim = 32, .scale = 0.2f, .window = 20};
    for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
        if (!cake_cpu_has((cake_isa)isa)) continue;
        const cake_attn_kern *kern = cake_attn_for((cake_isa)isa);
        uint32_t n = 100;
        seq *t = seq_new(s, n, 1.0f);
        for (size_t i = 0; i < 64; i++) t->k[50 * 64 + i] = NAN, t->v[50 * 64 + i] = -NAN;
        t->v[10 * 64 + 3] = 1e9f;
        store_range(t, kern, 0, n);
        float *one = malloc(n * t->ldq * sizeof *one), *all = malloc(n * t->ldq * sizeof *all);
        fill_nan(one, n * t->ldq);
        fill_nan(all, n * t->ldq);
        run_rows(t, kern, 0, n, 1, one);
        run_rows(t, kern, 0, n, n, all);
        for (uint32_t p = 0; p < n; p++)
            for (size_t c = 0; c < 128; c++) {
                int bad = p >= 50 && p < 70;
                assert_true(isnan(one[p * t->ldq + c]) == bad);
                assert_true(isfinite(one[p * t->ldq + c]) == !bad);
                if (!bad)
                    assert_memory_equal(one + p * t->ldq + c, all + p * t->ldq + c, 4);
                else
                    assert_true(isnan(all[p * t->ldq + c]));
            }
        float *q = malloc(n * t->ldq * sizeof *q);
        memcpy(q, t->q, n * t->ldq * sizeof *q);
        float *old = t->q;
        t->q = q;
        run_rows(t, kern, 0, n, n, q);
        for (uint32_t p = 0; p < 50; p++)
            assert_memory_equal(q + p * t->ldq, all + p * t->ldq, 128 * sizeof *q);
        t->q = old;
        free(q), free(one), free(all);
        seq_free(t);
    }
}

/* The error q8 promises, its size, and what it makes of zeros, tiny and huge values, NaN and
 * infinity. Values are read back as the attention of one position: its own value. */
static void q8_error(void **state) {
    (void)state;
    enum { D = 48 };
    cake_attn_spec s = {.n_heads = 1, .n_kv_heads = 1, .head_dim = D, .scale = 1, .kv = CAKE_KV_Q8};
    cake_attn_spec half = s;
    half.kv = CAKE_KV_F16, half.head_dim = 128;
    cake_attn_spec wide = half;
    wide.kv = CAKE_KV_Q8;
    assert_true(cake_kv_block_bytes(&wide) * 100 <= cake_kv_block_bytes(&half) * 54);
    void *block = malloc(cake_kv_block_bytes(&s)),
         *scratch = malloc(cake_attn_scratch_bytes(&s, 1));
    const void *blocks[] = {block};
    float k[D] = {0}, q[D] = {0}, v[D], out[D];
    for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
        if (!cake_cpu_has((cake_isa)isa)) continue;
        const cake_attn_kern *kern = cake_attn_for((cake_isa)isa);
        for (int e = -60; e < 30; e++)
            for (int round = 0; round < 4; round++) {
                for (size_t i = 0; i < D; i++) v[i] = ldexpf(rnd(), e);
                kern->kv_store(&s, block, 0, k, v);
                kern->rows(&s, blocks, 0, 1, 0, 1, q, D, out, D, scratch);
                for (size_t i = 0; i < D; i++) {
                    float max = 0;
                    for (size_t c = i / 32 * 32; c < D && c < i / 32 * 32 + 32; c++)
                        max = fabsf(v[c]) > max ? fabsf(v[c]) : max;
                    if (max > 127 * 65504.0f) continue;
                    float bound = fmaxf(max / 253, 0x1p-17f);
                    assert_true(fabsf(out[i] - v[i]) <= bound);
                }
            }
        memset(v, 0, sizeof v);
        v[3] = NAN, v[40] = INFINITY, v[41] = -1e30f;
        kern->kv_store(&s, block, 0, k, v);
        kern->rows(&s, blocks, 0, 1, 0, 1, q, D, out, D, scratch);
        for (size_t i = 0; i < 32; i++) assert_true(isnan(out[i]));
        assert_true(out[40] == 127 * 65504.0f && out[41] == -127 * 65504.0f && out[42] == 0);
    }
    free(block), free(scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference),       cmocka_unit_test(same_bits),
        cmocka_unit_test(partial_combine), cmocka_unit_test(masked_and_in_place),
        cmocka_unit_test(q8_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
