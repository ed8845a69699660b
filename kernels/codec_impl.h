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

/* The encoders, one file for each size of block. */
void cake_encode_block32(cake_codec codec, cake_encode_flavour flavour, const float *x,
                         const float *importance, uint8_t *out, size_t k);
void cake_encode_block256(cake_codec codec, cake_encode_flavour flavour, const float *x,
                          const float *importance, uint8_t *out, size_t k);

#endif
