/* Packed matmul: every ISA against the scalar reference bit for bit, the reference against an f64
 * decode-then-dot, and independence of batch, tile split, padding and surroundings. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/matmul_data.h"

#define EPS 0x1p-24

enum { MAX_TOK = 100, MAX_N = 67, MAX_K = 1280 };
static const uint32_t n_toks[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                  12, 13, 14, 15, 16, 17, 31, 64, 65, 100};
static const cake_ftype ftypes[] = {CAKE_F16, CAKE_BF16, CAKE_F32};
static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
static void *scratch;
static float reference[MAX_TOK * MAX_N], out[MAX_TOK * (MAX_N + 5) + 16];

/* Equal bits; a NaN may be any NaN. */
static void same(const float *a, const float *b, size_t n, const char *what, const cake_wspec *s,
                 uint32_t n_tok) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, 4) == 0 || (isnan(a[i]) && isnan(b[i]))) continue;
        fail_msg("%s: kind %d codec %d fp %d bits %u group %u type %d n %u k %u tokens %u: [%zu] "
                 "%a, want %a",
                 what, (int)s->kind, (int)s->codec, (int)s->fp, s->bits, s->group, (int)s->ftype,
                 s->n, s->k, n_tok, i, (double)a[i], (double)b[i]);
    }
}

/* Run one ISA on the first n_tok tokens of x; compare with `reference`, check the canaries around.
 */
static void check_isa(const md_matrix *m, const float *x, size_t ldx, uint32_t n_tok, bool f32_mode,
                      cake_isa isa) {
    const cake_matmul_ops *ops = cake_matmul_for(isa);
    const cake_wspec *s = &m->spec;
    const size_t ldy = s->n + 5;
    md_act a = md_act_new(s->k, n_tok, f32_mode ? NULL : ops, x, ldx);
    uint32_t canary = 0x7fbadbad;
    for (size_t i = 0; i < n_tok * ldy + 16; i++) memcpy(out + i, &canary, 4);
    ops->matmul(&m->mat, &a.act, f32_mode, out, ldy, 0, cake_tiles(s), scratch);
    for (uint32_t t = 0; t < n_tok; t++) {
        same(out + t * ldy, reference + t * s->n, s->n, cake_isa_name(isa), s, n_tok);
        for (size_t i = t * ldy + s->n; i < (t + 1) * ldy; i++)
            if (memcmp(out + i, &canary, 4) != 0) fail_msg("wrote past row %u", s->n);
    }
    md_act_free(&a);
}

static void make_reference(const md_matrix *m, const md_act *a, bool f32_mode) {
    cake_matmul_for(CAKE_ISA_SCALAR)
        ->matmul(&m->mat, &a->act, f32_mode, reference, m->spec.n, 0, cake_tiles(&m->spec),
                 scratch);
}

static void check_all(cake_wspec s, bool f32_mode, const uint32_t *counts, size_t n_counts) {
    assert_true(cake_wspec_valid(&s));
    md_matrix m = md_new(s);
    md_act a = md_act_new(s.k, MAX_TOK, cake_matmul_for(CAKE_ISA_SCALAR), NULL, 0);
    make_reference(&m, &a, f32_mode);
    for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
        if (!cake_matmul_for((cake_isa)isa)) continue;
        for (size_t i = 0; i < n_counts; i++) {
            /* the scalar code has one token loop: two counts show it */
            if (isa == CAKE_ISA_SCALAR && counts[i] > 2) continue;
            check_isa(&m, a.act.x, a.act.ldx, counts[i], f32_mode, (cake_isa)isa);
        }
    }
    md_act_free(&a);
    md_free(&m);
}

#define COUNT(a) (sizeof(a) / sizeof *(a))

static void test_affine_isas(void **state) {
    (void)state;
    static const uint32_t groups[] = {32, 64, 128}, rows[] = {35, 1, 48};
    for (size_t b = 0; b < COUNT(widths); b++)
        for (size_t g = 0; g < COUNT(groups); g++)
            for (size_t f = 0; f < COUNT(ftypes); f++) {
                /* three groups: an odd number of blocks at group 32 */
                cake_wspec s = MD_AFFINE(ftypes[f], widths[b], groups[g], rows[f], groups[g] * 3);
                check_all(s, false, n_toks, COUNT(n_toks));
                s.k = groups[g], s.n = 17;
                check_all(s, false, n_toks, 5);
            }
}

static void test_affine_f32_isas(void **state) {
    (void)state;
    static const uint32_t groups[] = {32, 64, 128}, counts[] = {1, 2, 3, 4, 5, 6, 7, 64, 66};
    for (size_t b = 0; b < COUNT(widths); b++)
        for (size_t g = 0; g < COUNT(groups); g++)
            for (size_t f = 0; f < COUNT(ftypes); f++) {
                cake_wspec s = MD_AFFINE(ftypes[f], widths[b], groups[g], 19, groups[g] * 3);
                check_all(s, true, counts, COUNT(counts));
            }
}

static void test_dense_isas(void **state) {
    (void)state;
    static const uint32_t ks[] = {1, 2, 3, 4, 5, 6, 7, 172, 255, 256, 257, 515},
                          rows[] = {1, 15, 16, 33};
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 64, 67, 100};
    for (size_t f = 0; f < COUNT(ftypes); f++)
        for (size_t k = 0; k < COUNT(ks); k++)
            for (size_t r = 0; r < COUNT(rows); r++) {
                cake_wspec s = MD_DENSE(ftypes[f], rows[r], ks[k]);
                check_all(s, r & 1, counts, COUNT(counts));
            }
}

/* Block and fp formats: odd multiples of their columns, so that units end short. */
static void test_block_isas(void **state) {
    (void)state;
    static const uint32_t rows[] = {35, 1, 48, 17}, counts[] = {1, 2, 3, 5, 8, 65};
    for (int which = 0; which < MD_BLOCKS; which++) {
        const uint32_t columns = md_block_columns(which);
        for (int f32 = 0; f32 < 2; f32++) {
            for (uint32_t blocks = 1; blocks <= 5; blocks += blocks == 3 ? 2 : 1)
                check_all(md_block_spec(which, rows[blocks % 4], columns * blocks), f32, n_toks,
                          blocks == 3 && !f32 ? COUNT(n_toks) : 5);
            check_all(md_block_spec(which, 33, columns * (256 / columns + 1)), f32, counts,
                      COUNT(counts));
        }
    }
}

/* Against exact arithmetic with the decoded weights. Per 32 columns four roundings at most, in the
 * weights three; none is of more than the magnitudes summed up so far. */
static void test_block_f64(void **state) {
    (void)state;
    for (int which = 0; which < MD_BLOCKS; which++)
        for (int f32 = 0; f32 < 2; f32++) {
            cake_wspec s = md_block_spec(which, 21, 512);
            md_matrix m = md_new(s);
            md_act a = md_act_new(s.k, 3, cake_matmul_for(CAKE_ISA_SCALAR), NULL, 0);
            make_reference(&m, &a, f32);
            float w[512], scaled[512];
            for (uint32_t r = 0; r < s.n; r++) {
                md_row(&m, r, w);
                memcpy(scaled, w, sizeof w); /* what a min is subtracted from or added to */
                int at[2] = {-1, -1};
                if (s.kind == CAKE_W_BLOCK) md_halves(s.codec, at);
                if (at[1] >= 0) {
                    uint8_t *row = m.weight + r * cake_stored_row_bytes(&s);
                    for (size_t i = 0; i < cake_stored_row_bytes(&s);
                         i += cake_codec_get(s.codec)->bytes)
                        memset(row + i + at[1], 0, 2);
                    md_row(&m, r, scaled);
                }
                for (uint32_t t = 0; t < 3; t++) {
                    double y = 0, mag = 0;
                    for (uint32_t k = 0; k < s.k; k++) {
                        double x = (double)a.act.x[t * a.act.ldx + k];
                        if (!f32)
                            x = (double)a.act.scale[k / 32 * 3 + t] *
                                a.act.q[((size_t)(k / 64) * 3 + t) * 64 + k % 64];
                        y += (double)w[k] * x;
                        mag +=
                            (fabs((double)scaled[k]) + fabs((double)(w[k] - scaled[k]))) * fabs(x);
                    }
                    double err = fabs(y - (double)reference[t * s.n + r]);
                    double bound = (s.k / 4.0 + 8) * EPS * mag;
                    if (!(err <= bound)) fail_msg("format %d: error %g > %g", which, err, bound);
                }
            }
            md_act_free(&a);
            md_free(&m);
        }
}

/* The scalar reference against exact arithmetic on the same quantized activations. Each of the 2U
 * fused steps and the few products before them round once: error <= (2U + 8) * 2^-24 * sum of
 * magnitudes. */
static void test_affine_f64(void **state) {
    (void)state;
    static const uint32_t groups[] = {32, 64, 128};
    for (size_t b = 0; b < COUNT(widths); b++)
        for (size_t g = 0; g < COUNT(groups); g++)
            for (size_t f = 0; f < COUNT(ftypes); f++) {
                cake_wspec s = MD_AFFINE(ftypes[f], widths[b], groups[g], 21, 384);
                md_matrix m = md_new(s);
                md_act a = md_act_new(s.k, 3, cake_matmul_for(CAKE_ISA_SCALAR), NULL, 0);
                make_reference(&m, &a, false);
                for (uint32_t t = 0; t < 3; t++)
                    for (uint32_t r = 0; r < s.n; r++) {
                        double y = 0, mag = 0;
                        for (uint32_t h = 0; h < s.k / 32; h++) {
                            const int8_t *q = a.act.q + ((size_t)(h / 2) * 3 + t) * 64 + h % 2 * 32;
                            double sc = (double)a.act.scale[h * 3 + t], d = 0, sum = 0;
                            for (uint32_t i = 0; i < 32; i++)
                                d += (double)md_code(&m, r, h * 32 + i) * q[i], sum += q[i];
                            double e0 = md_scale(&m, r, h * 32, false) * sc * d;
                            double e1 = md_scale(&m, r, h * 32, true) * sc * sum;
                            y += e0 + e1, mag += fabs(e0) + fabs(e1);
                        }
                        double bound = (2 * s.k / 32 + 8) * EPS * mag;
                        double err = fabs(y - (double)reference[t * s.n + r]);
                        if (!(err <= bound)) fail_msg("bits %u: error %g > %g", s.bits, err, bound);
                    }
                md_act_free(&a);
                md_free(&m);
            }
}

/* f32 mode and dense: k/4 fused steps per partial sum, two adds, two roundings in the weight. */
static void test_f32_f64(void **state) {
    (void)state;
    for (size_t f = 0; f < COUNT(ftypes); f++)
        for (size_t b = 0; b <= COUNT(widths); b++) {
            cake_wspec s = MD_DENSE(ftypes[f], 21, 173);
            if (b < COUNT(widths)) s = MD_AFFINE(ftypes[f], widths[b], 64, 21, 192);
            md_matrix m = md_new(s);
            md_act a = md_act_new(s.k, 2, NULL, NULL, 0);
            make_reference(&m, &a, true);
            for (uint32_t t = 0; t < 2; t++)
                for (uint32_t r = 0; r < s.n; r++) {
                    double y = 0, mag = 0;
                    for (uint32_t k = 0; k < s.k; k++) {
                        double x = (double)a.act.x[t * a.act.ldx + k], w, big;
                        if (s.kind == CAKE_W_DENSE) {
                            w = (double)md_weight(&m, r, k), big = fabs(w);
                        } else {
                            double sq = md_scale(&m, r, k, false) * md_code(&m, r, k);
                            double bi = md_scale(&m, r, k, true);
                            w = sq + bi, big = fabs(sq) + fabs(bi);
                        }
                        y += w * x, mag += big * fabs(x);
                    }
                    double err = fabs(y - (double)reference[t * s.n + r]);
                    double bound = (s.k / 4.0 + 8) * EPS * mag;
                    if (!(err <= bound)) fail_msg("bits %u: error %g > %g", s.bits, err, bound);
                }
            md_act_free(&a);
            md_free(&m);
        }
}

/* Extreme integers: all codes at the maximum, activations at +-127 of one sign per row parity.
 * Anything that saturates or overflows shows. */
static void test_extremes(void **state) {
    (void)state;
    for (size_t b = 0; b < COUNT(widths); b++)
        for (int sign = 0; sign < 3; sign++) {
            cake_wspec s = MD_AFFINE(CAKE_F32, widths[b], 64, 16, 128);
            md_matrix m = md_new(s);
            float one = 1.0f, zero = 0.0f;
            memset(m.weight, 0xff, cake_stored_row_bytes(&s) * s.n);
            for (size_t i = 0; i < cake_stored_scale_row_bytes(&s) * s.n; i += 4)
                memcpy(m.scales + i, &one, 4), memcpy(m.biases + i, &zero, 4);
            free(m.packed);
            md_pack(&m);
            float x[5 * 128];
            for (int i = 0; i < 5 * 128; i++)
                x[i] = sign == 0 || (sign == 2 && i % 4 < 2) ? 127 : -127;
            double want = 0;
            for (int i = 0; i < 128; i++) want += (double)x[i] * ((1 << s.bits) - 1);
            for (int i = 0; i < 5 * 16; i++) reference[i] = (float)want;
            for (int isa = 0; isa < CAKE_ISA_COUNT; isa++)
                if (cake_matmul_for((cake_isa)isa)) check_isa(&m, x, 128, 5, false, (cake_isa)isa);
            md_free(&m);
        }
}

/* Codes and scales at their ends, activations at +-127 of one sign, or of the sign that adds up
 * over unlike columns: whatever saturates or overflows differs from the scalar code. */
static void test_block_extremes(void **state) {
    (void)state;
    static const uint8_t fills[] = {0xff, 0x00, 0x77, 0x88, 0xf0, 0x7f, 0x80};
    float x[5 * 512];
    for (int which = 0; which < MD_BLOCKS; which++)
        for (size_t f = 0; f < COUNT(fills); f++)
            for (int sign = 0; sign < 3; sign++) {
                cake_wspec s = md_block_spec(which, 16, 512);
                md_matrix m = md_new(s);
                size_t bytes = cake_stored_row_bytes(&s) * s.n;
                int at[2] = {-1, -1};
                if (s.kind == CAKE_W_BLOCK) md_halves(s.codec, at);
                for (size_t i = 0; i < bytes; i++) {
                    int in =
                        s.kind == CAKE_W_BLOCK ? (int)(i % cake_codec_get(s.codec)->bytes) : -9;
                    bool half = (at[0] >= 0 && (in == at[0] || in == at[0] + 1)) ||
                                (at[1] >= 0 && (in == at[1] || in == at[1] + 1));
                    if (!half) m.weight[i] = fills[f];
                }
                free(m.packed);
                md_pack(&m);
                for (int i = 0; i < 5 * 512; i++)
                    x[i] = sign == 0 || (sign == 2 && i % 32 < 16) ? 127 : -127;
                md_act a = md_act_new(s.k, 5, cake_matmul_for(CAKE_ISA_SCALAR), x, s.k);
                make_reference(&m, &a, false);
                for (int isa = 0; isa < CAKE_ISA_COUNT; isa++)
                    for (uint32_t n = 1; n <= 5 && cake_matmul_for((cake_isa)isa); n += 4)
                        check_isa(&m, x, s.k, n, false, (cake_isa)isa);
                md_act_free(&a);
                md_free(&m);
            }
}

/* Every E8M0 scale byte from the smallest to infinity, and NaN activations: one 1.0 per row times
 * 127 is exact. */
static void test_e8m0(void **state) {
    (void)state;
    static const struct {
        cake_fp_mode mode;
        uint8_t one;
    } modes[] = {{CAKE_FP_MXFP4, 2}, {CAKE_FP_MXFP8, 0x38}};
    for (size_t i = 0; i < COUNT(modes); i++) {
        enum { N = 256, K = 32, TOKENS = 5 };
        md_matrix m = md_new(MD_FP(modes[i].mode, N, K));
        const size_t row_bytes = cake_stored_row_bytes(&m.spec);
        memset(m.weight, 0, row_bytes * N);
        for (size_t r = 0; r < N; r++)
            m.weight[r * row_bytes] = modes[i].one, m.scales[r] = (uint8_t)r;
        free(m.packed);
        md_pack(&m);
        float x[TOKENS * K] = {0};
        for (size_t t = 0; t < TOKENS; t++) x[t * K] = t == 1 ? NAN : 127;
        for (uint32_t t = 0; t < TOKENS; t++)
            for (uint32_t r = 0; r < N; r++) {
                float w[K];
                md_row(&m, r, w);
                reference[t * N + r] = w[0] * x[t * K];
            }
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++)
            for (uint32_t n = 1; n <= TOKENS && cake_matmul_for((cake_isa)isa); n += 4)
                check_isa(&m, x, K, n, false, (cake_isa)isa);
        md_free(&m);
    }
}

/* Every tile range gives the same rows and touches no others; no tokens writes nothing. */
static void test_tile_splits(void **state) {
    (void)state;
    cake_wspec specs[] = {MD_AFFINE(CAKE_BF16, 4, 64, 67, 256), MD_DENSE(CAKE_F16, 67, 37)};
    for (size_t i = 0; i < COUNT(specs); i++) {
        md_matrix m = md_new(specs[i]);
        md_act a = md_act_new(specs[i].k, 7, cake_matmul_for(CAKE_ISA_SCALAR), NULL, 0);
        make_reference(&m, &a, false);
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
            const cake_matmul_ops *ops = cake_matmul_for((cake_isa)isa);
            if (!ops) continue;
            for (uint32_t t0 = 0; t0 < 5; t0++)
                for (uint32_t t1 = t0; t1 <= 5; t1++) {
                    memset(out, 0xa5, sizeof out);
                    ops->matmul(&m.mat, &a.act, false, out, 67, t0, t1, scratch);
                    for (uint32_t t = 0; t < 7; t++)
                        for (uint32_t r = 0; r < 67; r++) {
                            bool asked = r / 16 >= t0 && r / 16 < t1;
                            uint32_t untouched = 0xa5a5a5a5;
                            const void *want =
                                asked ? (const void *)&reference[t * 67 + r] : &untouched;
                            assert_memory_equal(&out[t * 67 + r], want, 4);
                        }
                }
            a.act.n_tok = 0;
            ops->matmul(&m.mat, &a.act, true, NULL, 67, 0, 5, scratch);
            a.act.n_tok = 7;
        }
        md_act_free(&a);
        md_free(&m);
    }
}

/* Quantized activations: the contract of matmul.h, and equal bytes on every ISA, also when token
 * ranges are done apart. Rows: random, tiny, huge, zero, subnormal, ties, infinities and NaN. */
static void test_act_quantize(void **state) {
    (void)state;
    static const uint32_t ks[] = {32, 64, 96, 172, 1, 31, 33, 63, 300};
    for (size_t i = 0; i < COUNT(ks); i++) {
        uint32_t k = ks[i], blocks = (k + 31) / 32;
        float x[11 * 300];
        for (uint32_t t = 0; t < 11; t++)
            for (uint32_t c = 0; c < k; c++) {
                float v = md_float();
                if (t == 1) v *= 0x1p-101f;
                if (t == 2) v *= 0x1p127f;
                if (t == 3) v = c & 1 ? 0.0f : -0.0f;
                if (t == 4) v *= 0x1p-140f;
                if (t == 5) v = c == 0 ? 127.0f : (float)(int)(v * 100) + 0.5f;
                if (t == 6 && c == k / 2) v = INFINITY;
                if (t == 7 && c == 0) v = -NAN;
                if (t == 8 && c % 32 != 5) v = 0;
                if (t == 9) v = 0x1p-100f;
                x[t * k + c] = v;
            }
        md_act ref = md_act_new(k, 11, cake_matmul_for(CAKE_ISA_SCALAR), x, k);
        for (uint32_t t = 0; t < 11; t++)
            for (uint32_t h = 0; h < blocks; h++) {
                const int8_t *q = ref.act.q + ((size_t)(h / 2) * 11 + t) * 64 + h % 2 * 32;
                float scale = ref.act.scale[h * 11 + t], max = 0;
                int sum = 0, half[2] = {0};
                bool finite = true;
                for (uint32_t c = h * 32; c < k && c < h * 32 + 32; c++) {
                    finite = finite && isfinite(x[t * k + c]);
                    max = fmaxf(max, fabsf(x[t * k + c]));
                }
                if (!finite) {
                    assert_true(isnan(scale));
                    continue;
                }
                if (max < 0x1p-100f) max = 0;
                assert_true(scale == max / 127.0f);
                for (uint32_t c = 0; c < 32; c++) {
                    double v = h * 32 + c < k && max > 0 ? (double)x[t * k + h * 32 + c] : 0;
                    double want = max > 0 ? v * 127 / (double)max : 0;
                    assert_true(fabs(want - q[c]) <= 0.5 + 127 * 4 * EPS && q[c] >= -127);
                    sum += q[c], half[c / 16] -= q[c];
                }
                assert_memory_equal(half, ref.act.neg16 + (h * 11 + t) * 2, sizeof half);
                assert_true(ref.act.sum32[h * 11 + t] == scale * (float)sum);
            }
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
            const cake_matmul_ops *ops = cake_matmul_for((cake_isa)isa);
            if (!ops) continue;
            md_act a = md_act_new(k, 11, NULL, x, k);
            ops->act_quantize(&a.act, 4, 11);
            ops->act_quantize(&a.act, 0, 1);
            ops->act_quantize(&a.act, 1, 4);
            for (uint32_t t = 0; t < 11; t++)
                for (uint32_t h = 0; h < blocks; h++)
                    assert_memory_equal(a.act.q + ((size_t)(h / 2) * 11 + t) * 64 + h % 2 * 32,
                                        ref.act.q + ((size_t)(h / 2) * 11 + t) * 64 + h % 2 * 32,
                                        32);
            same(a.act.scale, ref.act.scale, (size_t)blocks * 11, "scale", &(cake_wspec){.k = k},
                 11);
            assert_memory_equal(a.act.neg16, ref.act.neg16, (size_t)blocks * 11 * 2 * 4);
            same(a.act.sum32, ref.act.sum32, (size_t)blocks * 11, "sum32", &(cake_wspec){.k = k},
                 11);
            same(a.act.sum64, ref.act.sum64, (size_t)(blocks + 1) / 2 * 11, "sum64",
                 &(cake_wspec){.k = k}, 11);
            md_act_free(&a);
        }
        md_act_free(&ref);
    }
}

/* Arbitrary bytes as scales and biases, NaN activations: no crash, and the same numbers or NaN. */
static void test_nonfinite(void **state) {
    (void)state;
    for (size_t f = 0; f < COUNT(ftypes); f++)
        for (int dense = 0; dense < 2; dense++) {
            cake_wspec s = MD_AFFINE(ftypes[f], 4, 32, 35, 96);
            if (dense) s = MD_DENSE(ftypes[f], 35, 97);
            md_matrix m = md_new(s);
            uint8_t *p = dense ? m.weight : m.scales;
            size_t len = dense ? cake_stored_row_bytes(&s) * s.n
                               : cake_stored_scale_row_bytes(&s) * s.n * 2 + 1;
            for (size_t i = 0; i < len; i++)
                p[i] = (uint8_t)(md_random() >> 9 | (md_random() & 7 ? 0 : 0x7f));
            free(m.packed);
            md_pack(&m);
            float x[3 * 97];
            for (int i = 0; i < 3 * 97; i++) x[i] = md_float();
            x[100] = NAN, x[200] = -INFINITY;
            md_act a = md_act_new(s.k, 3, cake_matmul_for(CAKE_ISA_SCALAR), x, s.k);
            for (int mode = 0; mode < 2; mode++) {
                make_reference(&m, &a, mode);
                for (int isa = 0; isa < CAKE_ISA_COUNT; isa++)
                    if (cake_matmul_for((cake_isa)isa))
                        check_isa(&m, x, s.k, 3, mode, (cake_isa)isa);
            }
            md_act_free(&a);
            md_free(&m);
        }
}

static int setup(void **state) {
    (void)state;
    scratch = md_aligned(cake_matmul_scratch_bytes());
    return 0;
}

int main(void) {
    for (int isa = 0; isa < CAKE_ISA_COUNT; isa++)
        if (!cake_matmul_for((cake_isa)isa))
            printf("not on this machine: %s\n", cake_isa_name((cake_isa)isa));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_affine_isas), cmocka_unit_test(test_affine_f32_isas),
        cmocka_unit_test(test_dense_isas),  cmocka_unit_test(test_affine_f64),
        cmocka_unit_test(test_f32_f64),     cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_tile_splits), cmocka_unit_test(test_act_quantize),
        cmocka_unit_test(test_nonfinite),   cmocka_unit_test(test_block_isas),
        cmocka_unit_test(test_block_f64),   cmocka_unit_test(test_block_extremes),
        cmocka_unit_test(test_e8m0),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
