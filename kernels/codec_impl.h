/* What the codec_*.c files share: bits, small floats, rounding, streams of codes. */
#ifndef CAKE_KERNELS_CODEC_IMPL_H
#define CAKE_KERNELS_CODEC_IMPL_H

#include "kernels/codec.h"
#include "kernels/math.h"

#include <string.h>

static inline uint32_t cake_le16(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static inline uint32_t cake_le32(const uint8_t *p) {
    return cake_le16(p) | cake_le16(p + 2) << 16;
}

static inline void cake_put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void cake_put32(uint8_t *p, uint32_t v) {
    cake_put16(p, v);
    cake_put16(p + 2, v >> 16);
}

static inline float cake_half_to_f32(uint32_t h) {
    uint32_t sign = (h & 0x8000u) << 16, a = h & 0x7fffu;
    if (a >= 0x7c00u) return cake_f32_from_bits(sign | 0x7f800000u | (a & 0x3ffu) << 13);
    if (a >= 0x400u) return cake_f32_from_bits(sign | ((a << 13) + 0x38000000u));
    return cake_f32_from_bits(sign | cake_f32_bits((float)a * 0x1p-24f));
}

/* To nearest, ties to even, subnormals kept, overflow to infinity. */
static inline uint32_t cake_half_from_f32(float x) {
    uint32_t u = cake_f32_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return sign | 0x7e00u;
    if (a >= 0x477ff000u) return sign | 0x7c00u;
    if (a < 0x38800000u) /* adding 0.5 leaves the rounded multiple of 2^-24 in the low bits */
        return sign | (cake_f32_bits(cake_f32_from_bits(a) + 0.5f) - 0x3f000000u);
    return sign | (((a + 0xfffu + (a >> 13 & 1u)) >> 13) - 0x1c000u);
}

static inline float cake_get_half(const uint8_t *p) {
    return cake_half_to_f32(cake_le16(p));
}

/* The value stored is the value used: what is written, read back. */
static inline float cake_put_half(uint8_t *p, float x) {
    uint32_t h = cake_half_from_f32(x);
    cake_put16(p, h);
    return cake_half_to_f32(h);
}

static inline float cake_absf(float x) {
    return cake_f32_from_bits(cake_f32_bits(x) & 0x7fffffffu);
}

static inline int cake_min(int a, int b) {
    return a < b ? a : b;
}

/* Half to even, for |v| <= 2^22: in that range adding 1.5 * 2^23 leaves the integer in the low
 * bits. */
static inline int cake_round_small(float v) {
    return (int)(cake_f32_bits(v + 0x1.8p23f) & 0x7fffffu) - 0x400000;
}

/* clamp(half to even(v), lo, hi). Clamping first gives the same integer, and makes every v safe
 * (a NaN becomes hi). */
static inline int cake_round_clamp(float v, int lo, int hi) {
    v = v < (float)hi ? v : (float)hi;
    v = v > (float)lo ? v : (float)lo;
    return cake_round_small(v);
}

/* min(half to even(v), hi), for v of no more than 2^22 below zero. */
static inline int cake_round_min(float v, int hi) {
    return cake_round_clamp(v, -0x400000, hi);
}

/* Code i of a stream of codes, least significant bit first (formats.md 2.2). */
static inline uint32_t cake_stream_get(const uint8_t *p, uint32_t bits, size_t i) {
    size_t at = i * bits;
    uint32_t shift = at & 7, v = p[at >> 3];
    if (shift + bits > 8) v |= (uint32_t)p[(at >> 3) + 1] << 8;
    return v >> shift & ((1u << bits) - 1);
}

/* The values of E2M1 and E4M3 codes, sign bit included. */
float cake_e2m1(uint32_t code);
float cake_e4m3(uint32_t code);

/* Fits of codes to weights (formats.md 4.4.1), one result for each of n_sub sub-blocks of `len`
 * weights that follow each other in x. w are the weights of the squared errors, as many as x. */

/* One signed scale, codes clamp(.., -nmax, nmax - 1) + nmax. w NULL: x^2. A sub-block without a
 * magnitude of eps gets scale 0 and codes null_code. */
void cake_fit_signed(uint32_t n_sub, uint32_t len, int nmax, const float *x, const float *w,
                     float eps, uint8_t null_code, uint8_t *codes, float *scales);

/* As above with w = x^2, by improving one code at a time. */
void cake_fit_descent(uint32_t n_sub, uint32_t len, int nmax, const float *x, uint8_t *codes,
                      float *scales);

typedef struct {
    int nmax;
    float first, step; /* trials nmax + first + step * t, t = 0 .. last */
    int last;
    bool absolute; /* sum of |error| instead of squares */
} cake_fit_rule;

/* Scale and min: w ~ scale * code - min, codes 0 .. nmax, min >= 0. move_low: the minimum just
 * found is where the next trial starts (ggml); else trials keep the data's minimum (kq). */
void cake_fit_min(uint32_t n_sub, uint32_t len, const cake_fit_rule *rule, bool move_low,
                  const float *x, const float *w, uint8_t *codes, float *scales, float *mins);

/* Both fits with scale and min, and with one signed scale, for 4 or 8 sub-blocks at once
 * (codec_search_body.h): same arguments less n_sub, same bytes. */
#define CAKE_DECLARE_FITS(isa)                                                                     \
    void cake_fit_signed_##isa(uint32_t len, int nmax, const float *x, const float *w, float eps,  \
                               uint8_t null_code, uint8_t *codes, float *scales);                  \
    void cake_fit_min_##isa(uint32_t len, const cake_fit_rule *rule, bool move_low,                \
                            const float *x, const float *w, uint8_t *codes, float *scales,         \
                            float *mins)
CAKE_DECLARE_FITS(base);
CAKE_DECLARE_FITS(avx2);

/* One group of the affine encoder (codec_affine_body.h): group / 8 * bits bytes of codes. */
#define CAKE_DECLARE_AFFINE(isa)                                                                   \
    void cake_affine_group_##isa(uint32_t bits, uint32_t group, const float *x, uint8_t *codes,    \
                                 float *scale, float *bias)
CAKE_DECLARE_AFFINE(base);
CAKE_DECLARE_AFFINE(avx2);

/* Scale of n <= 16 values that are not negative, codes 0 .. nmax. */
float cake_fit_positive(uint32_t n, int nmax, const float *x, const float *w, float eps,
                        uint8_t *codes);

/* Magnitudes below which ggml and mlx-kquant call a block empty. */
#define CAKE_EPS_GGML 1e-15f
#define CAKE_EPS_KQ   1e-30f

/* The rule of every fit with scale and min but ggml's without importance. */
#define CAKE_RULE_IMPORTANCE(nmax)                                                                 \
    { nmax, -0.9f, 0.05f, 36, false }

/* Encoders of rows of n blocks, one file for each size of block. */
void cake_encode_32(cake_codec codec, cake_encode_flavour flavour, const float *x,
                    const float *importance, uint8_t *out, size_t n);
void cake_encode_256(cake_codec codec, cake_encode_flavour flavour, const float *x,
                     const float *importance, uint8_t *out, size_t n);

#endif
