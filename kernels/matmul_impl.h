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

/* Code of (row, col) in a packed block of 32 columns x 16 rows. */
static inline uint32_t cake_block_code(const uint8_t *v, uint32_t bits, uint32_t row,
                                       uint32_t col) {
    const uint32_t j = col / 4, at = row * 4 + col % 4;
#define V(i, shift, mask) ((uint32_t)v[(i)*64 + at] >> (shift) & (mask))
    switch (bits) {
    case 2: return V(j & 1, (j >> 1) * 2, 3);
    case 3:
        if (j < 6) return V(j % 3, j / 3 * 3, 7);
        return V(j - 6, 6, 3) | V(2, j, 1) << 2;
    case 4: return V(j & 3, (j >> 2) * 4, 15);
    case 5:
        if (j < 5) return V(j, 0, 31);
        if (j < 7) return V(j - 5, 5, 7) | V(j - 2, 5, 3) << 3;
        return V(2, 5, 7) | V(3, 7, 1) << 3 | V(4, 7, 1) << 4;
    case 6:
        if (j < 6) return V(j, 0, 63);
        v += (j - 6) * 192;
        return V(0, 6, 3) | V(1, 6, 3) << 2 | V(2, 6, 3) << 4;
    default: return V(j, 0, 255);
    }
#undef V
}

#endif
