/* Private to the matmul family: the per-ISA tables, the packed layout in code, and scalar
 * conversions. Compiled under several ISA flags, so everything here is static inline (never shared
 * by the linker). */
#ifndef CAKE_KERNELS_MATMUL_IMPL_H
#define CAKE_KERNELS_MATMUL_IMPL_H

#include <string.h>

#include "kernels/matmul.h"

extern const cake_matmul_ops cake_matmul_scalar;
#if defined(__x86_64__)
extern const cake_matmul_ops cake_matmul_avx2;
extern const cake_matmul_ops cake_matmul_avx512;
#elif defined(__aarch64__)
extern const cake_matmul_ops cake_matmul_neon;
#endif

/* Unroll the loop that follows; not with sanitizers, which would take minutes to compile it. */
#ifdef CAKE_DEBUG
#define CAKE_UNROLL(n)
#else
#define CAKE_UNROLL(n)    CAKE_PRAGMA(GCC unroll n)
#define CAKE_PRAGMA(text) _Pragma(#text)
#endif

enum {
    CAKE_MM_TOKENS = 64,   /* tokens whose accumulators live in scratch at one time */
    CAKE_MM_K_CHUNK = 256, /* columns expanded to f32 at one time in f32 mode */
    CAKE_MM_ACC_FLOATS = CAKE_MM_TOKENS * 16 * 4,
    CAKE_MM_SCRATCH_FLOATS = CAKE_MM_ACC_FLOATS + CAKE_MM_K_CHUNK * 16,
};

/* Smallest block maximum that is quantized at all: below, 127/a could overflow. */
#define CAKE_ACT_TINY_BITS 0x0d800000 /* 2^-100 */

static inline float cake_bits_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline float cake_bf16_f32(uint16_t h) {
    return cake_bits_f32((uint32_t)h << 16);
}

static inline float cake_f16_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return cake_bits_f32(sign | 0x7f800000 | m << 13);
    if (e != 0) return cake_bits_f32(sign | (e + 112) << 23 | m << 13);
    float v = (float)m * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -v : v;
}

/* Element i of an array of stored floats, any alignment. */
static inline float cake_load_ftype(const void *base, size_t i, cake_ftype t) {
    const uint8_t *p = (const uint8_t *)base + i * cake_ftype_bytes(t);
    if (t == CAKE_F32) {
        float f;
        memcpy(&f, p, 4);
        return f;
    }
    uint16_t h;
    memcpy(&h, p, 2);
    return t == CAKE_F16 ? cake_f16_f32(h) : cake_bf16_f32(h);
}

/* Packed bytes of one group of one tile: codes, scales, biases. */
static inline size_t cake_group_bytes(const cake_wspec *s) {
    return (size_t)s->group / 32 * s->bits * 64 + 2 * CAKE_TILE_ROWS * cake_ftype_bytes(s->ftype);
}

/* The 32 codes of one row of a packed block, as bytes in column order. Four codes are worked on at
 * a time, as the bytes of a u32. */
static inline void cake_block_codes(const uint8_t *block, uint32_t bits, uint32_t row,
                                    uint8_t code[32]) {
    uint32_t v[8], c[8];
    for (uint32_t i = 0; i < bits; i++) memcpy(&v[i], block + i * 64 + row * 4, 4);
#define F(i, shift, mask) (v[i] >> (shift) & (mask)*0x01010101u)
    switch (bits) {
    case 2:
        for (uint32_t j = 0; j < 8; j++) c[j] = F(j & 1, (j >> 1) * 2, 3);
        break;
    case 3:
        for (uint32_t j = 0; j < 6; j++) c[j] = F(j % 3, j / 3 * 3, 7);
        c[6] = F(0, 6, 3) | F(2, 6, 1) << 2;
        c[7] = F(1, 6, 3) | F(2, 7, 1) << 2;
        break;
    case 4:
        for (uint32_t j = 0; j < 8; j++) c[j] = F(j & 3, (j >> 2) * 4, 15);
        break;
    case 5:
        for (uint32_t j = 0; j < 5; j++) c[j] = F(j, 0, 31);
        c[5] = F(0, 5, 7) | F(3, 5, 3) << 3;
        c[6] = F(1, 5, 7) | F(4, 5, 3) << 3;
        c[7] = F(2, 5, 7) | F(3, 7, 1) << 3 | F(4, 7, 1) << 4;
        break;
    case 6:
        for (uint32_t j = 0; j < 6; j++) c[j] = F(j, 0, 63);
        c[6] = F(0, 6, 3) | F(1, 6, 3) << 2 | F(2, 6, 3) << 4;
        c[7] = F(3, 6, 3) | F(4, 6, 3) << 2 | F(5, 6, 3) << 4;
        break;
    default:
        for (uint32_t j = 0; j < 8; j++) c[j] = v[j];
    }
#undef F
    memcpy(code, c, 32);
}

#endif
