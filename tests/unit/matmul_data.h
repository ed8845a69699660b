/* Random stored matrices, and their independent decoding bit by bit, for the matmul and pack tests.
 * No cmocka here: the digest tool is cross-compiled with it. */
#ifndef CAKE_TESTS_MATMUL_DATA_H
#define CAKE_TESTS_MATMUL_DATA_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/matmul.h"

static uint64_t md_rng = 88172645463325252ull;
static inline uint64_t md_random(void) {
    md_rng ^= md_rng << 13, md_rng ^= md_rng >> 7, md_rng ^= md_rng << 17;
    return md_rng;
}
static inline float md_float(void) { /* [-1, 1) */
    return (float)((double)(md_random() >> 40) * 0x1p-23 - 1.0);
}

#define MD_DENSE(type, rows, columns)                                                              \
    ((cake_wspec){.kind = CAKE_W_DENSE, .ftype = type, .n = rows, .k = columns})
#define MD_AFFINE(type, width, size, rows, columns)                                                \
    ((cake_wspec){.kind = CAKE_W_AFFINE,                                                           \
                  .ftype = type,                                                                   \
                  .bits = width,                                                                   \
                  .group = size,                                                                   \
                  .n = rows,                                                                       \
                  .k = columns})

#define MD_BLOCK(which, rows, columns)                                                             \
    ((cake_wspec){.kind = CAKE_W_BLOCK, .codec = which, .n = rows, .k = columns})
#define MD_FP(which, rows, columns)                                                                \
    ((cake_wspec){.kind = CAKE_W_FP, .fp = which, .n = rows, .k = columns})

/* Every block and fp format. */
enum { MD_BLOCKS = CAKE_CODEC_COUNT + CAKE_FP_COUNT };
static inline cake_wspec md_block_spec(int which, uint32_t n, uint32_t k) {
    return which < CAKE_CODEC_COUNT ? MD_BLOCK((cake_codec)which, n, k)
                                    : MD_FP((cake_fp_mode)(which - CAKE_CODEC_COUNT), n, k);
}
static inline uint32_t md_block_columns(int which) {
    return which < CAKE_CODEC_COUNT ? cake_codec_get((cake_codec)which)->weights
                                    : cake_fp_get((cake_fp_mode)(which - CAKE_CODEC_COUNT))->group;
}

typedef struct {
    cake_wspec spec;
    uint8_t *mem, *weight, *scales, *biases; /* deliberately at odd addresses */
    void *packed;
    cake_mat mat;
} md_matrix;

/* A finite stored float of modest size and either sign; now and then zero or subnormal. */
static inline void md_put_float(uint8_t *p, cake_ftype t) {
    uint32_t u = (uint32_t)md_random(), rare = u >> 8 & 63;
    if (t == CAKE_F32) {
        u = (u & 0x807fffff) | (0x3b000000 + (u >> 23 & 7) * 0x800000);
        if (rare == 0) u &= 0x80000000;
        if (rare == 1) u &= 0x807fffff;
        memcpy(p, &u, 4);
        return;
    }
    uint16_t h = (uint16_t)u;
    if (t == CAKE_F16)
        h = (uint16_t)((h & 0x83ff) | (0x2000 + (u >> 16 & 3) * 0x400));
    else
        h = (uint16_t)((h & 0x807f) | (0x3b00 + (u >> 16 & 7) * 0x80));
    if (rare == 0) h &= 0x8000;
    if (rare == 1) h &= t == CAKE_F16 ? 0x83ff : 0x807f;
    memcpy(p, &h, 2);
}

/* Where the two f16 of a codec's block lie; -1 where it has none. */
static inline void md_halves(cake_codec codec, int at[2]) {
    static const int8_t halves[CAKE_CODEC_COUNT][2] = {
        [CAKE_CODEC_Q4_0] = {0, -1},   [CAKE_CODEC_Q4_1] = {0, 2},   [CAKE_CODEC_Q5_0] = {0, -1},
        [CAKE_CODEC_Q5_1] = {0, 2},    [CAKE_CODEC_Q8_0] = {0, -1},  [CAKE_CODEC_Q2_K] = {80, 82},
        [CAKE_CODEC_Q3_K] = {108, -1}, [CAKE_CODEC_Q4_K] = {0, 2},   [CAKE_CODEC_Q5_K] = {0, 2},
        [CAKE_CODEC_MXFP4] = {-1, -1}, [CAKE_CODEC_NVFP4] = {-1, -1}};
    at[0] = codec == CAKE_CODEC_Q6_K ? 208 : halves[codec][0];
    at[1] = codec == CAKE_CODEC_Q6_K ? -1 : halves[codec][1];
}

/* Random blocks of modest scales. */
static inline void md_fill_blocks(uint8_t *p, size_t bytes, cake_codec codec) {
    int at[2];
    md_halves(codec, at);
    for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)(md_random() >> 20);
    for (size_t i = 0; i < bytes; i += cake_codec_get(codec)->bytes) {
        for (int j = 0; j < 2; j++)
            if (at[j] >= 0) md_put_float(p + i + at[j], CAKE_F16);
        if (codec == CAKE_CODEC_MXFP4) p[i] = (uint8_t)(p[i] % 13 + 119);
    }
}

static inline void *md_aligned(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!p) abort();
    return p;
}

static inline cake_wstored md_stored(const md_matrix *m) {
    bool scales = m->spec.kind == CAKE_W_AFFINE || m->spec.kind == CAKE_W_FP;
    return (cake_wstored){m->weight, scales ? m->scales : NULL,
                          m->spec.kind == CAKE_W_AFFINE ? m->biases : NULL};
}

static inline void md_pack(md_matrix *m) {
    cake_wstored st = md_stored(m);
    m->packed = md_aligned(cake_packed_bytes(&m->spec));
    memset(m->packed, 0xa5, cake_packed_bytes(&m->spec));
    cake_pack_tiles(&m->spec, &st, m->packed, 0, cake_tiles(&m->spec));
    m->mat = (cake_mat){m->spec, m->packed};
}

static inline md_matrix md_new(cake_wspec s) {
    md_matrix m = {.spec = s};
    size_t wb = cake_stored_row_bytes(&s) * s.n, sb = cake_stored_scale_row_bytes(&s) * s.n;
    size_t fb = cake_ftype_bytes(s.ftype);
    m.mem = malloc(wb + 2 * sb + 3);
    if (!m.mem) abort();
    m.weight = m.mem + 1, m.scales = m.weight + wb + 1, m.biases = m.scales + sb + 1;
    if (s.kind == CAKE_W_BLOCK)
        md_fill_blocks(m.weight, wb, s.codec);
    else if (s.kind == CAKE_W_DENSE)
        for (size_t i = 0; i < wb; i += fb) md_put_float(m.weight + i, s.ftype);
    else
        for (size_t i = 0; i < wb; i++) m.weight[i] = (uint8_t)(md_random() >> 20);
    for (size_t i = 0; s.kind == CAKE_W_FP && i < sb; i++)
        m.scales[i] = (uint8_t)(s.fp == CAKE_FP_NVFP4 ? md_random() >> 20 : md_random() % 13 + 119);
    for (size_t i = 0; s.kind == CAKE_W_AFFINE && i < sb; i += fb) {
        md_put_float(m.scales + i, s.ftype);
        md_put_float(m.biases + i, s.ftype);
    }
    md_pack(&m);
    return m;
}

static inline void md_free(md_matrix *m) {
    free(m->mem), free(m->packed);
}

/* ---- independent decoding, straight from formats.md ---- */

static inline double md_stored_float(const uint8_t *p, cake_ftype t) {
    uint32_t u = 0;
    memcpy(&u, p, cake_ftype_bytes(t));
    if (t == CAKE_BF16) u <<= 16;
    if (t != CAKE_F16) {
        float f;
        memcpy(&f, &u, 4);
        return (double)f;
    }
    int e = (int)(u >> 10 & 31), mant = (int)(u & 1023);
    double v = e == 31  ? (mant ? NAN : INFINITY)
               : e == 0 ? ldexp(mant, -24)
                        : ldexp(1024 + mant, e - 25);
    return u & 0x8000 ? -v : v;
}

static inline uint32_t md_code(const md_matrix *m, uint32_t row, uint32_t k) {
    size_t bit = (size_t)k * m->spec.bits;
    const uint8_t *p = m->weight + row * cake_stored_row_bytes(&m->spec);
    uint32_t c = 0;
    for (uint32_t i = 0; i < m->spec.bits; i++)
        c |= (uint32_t)(p[(bit + i) / 8] >> (bit + i) % 8 & 1) << i;
    return c;
}

static inline double md_scale(const md_matrix *m, uint32_t row, uint32_t k, bool bias) {
    size_t at = (size_t)row * (m->spec.k / m->spec.group) + k / m->spec.group;
    return md_stored_float((bias ? m->biases : m->scales) + at * cake_ftype_bytes(m->spec.ftype),
                           m->spec.ftype);
}

/* The f32 weight as the accurate mode defines it. */
static inline float md_weight(const md_matrix *m, uint32_t row, uint32_t k) {
    if (m->spec.kind == CAKE_W_DENSE) {
        size_t at = (size_t)row * m->spec.k + k;
        return (float)md_stored_float(m->weight + at * cake_ftype_bytes(m->spec.ftype),
                                      m->spec.ftype);
    }
    float product = (float)(md_scale(m, row, k, false) * md_code(m, row, k));
    return (float)((double)product + md_scale(m, row, k, true));
}

/* One row, as the accurate mode defines it: block and fp formats by the codecs, which have tests of
 * their own. */
static inline void md_row(const md_matrix *m, uint32_t row, float *out) {
    const cake_wspec *s = &m->spec;
    const uint8_t *w = m->weight + row * cake_stored_row_bytes(s);
    if (s->kind == CAKE_W_BLOCK)
        cake_codec_decode_row(s->codec, w, out, s->k);
    else if (s->kind == CAKE_W_FP)
        cake_fp_decode(s->fp, w, m->scales + row * cake_stored_scale_row_bytes(s), out, s->k);
    else
        for (uint32_t k = 0; k < s->k; k++) out[k] = md_weight(m, row, k);
}

/* ---- activations ---- */

typedef struct {
    cake_act act;
    void *mem;
    float *x;
} md_act;

/* ldx = k + 3, one value of the gap in each row set to NaN: it must not be read into a result. */
static inline md_act md_act_new(uint32_t k, uint32_t n_tok, const cake_matmul_ops *ops,
                                const float *x_from, size_t ld_from) {
    md_act a;
    size_t ldx = k + 3, x_len = n_tok ? (n_tok - 1) * ldx + k : 0;
    a.x = malloc(x_len * sizeof(float) + 1);
    if (!a.x) abort();
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t i = 0; i < k; i++)
            a.x[t * ldx + i] = x_from ? x_from[t * ld_from + i] : md_float();
        if (t + 1 < n_tok)
            for (uint32_t i = k; i < ldx; i++) a.x[t * ldx + i] = NAN;
    }
    a.mem = md_aligned(cake_act_bytes(k, n_tok) + 64);
    memset(a.mem, 0xff, cake_act_bytes(k, n_tok)); /* as floats NaN */
    cake_act_init(&a.act, a.mem, a.x, ldx, k, n_tok);
    if (ops) ops->act_quantize(&a.act, 0, n_tok);
    return a;
}

static inline void md_act_free(md_act *a) {
    free(a->x), free(a->mem);
}

#endif
