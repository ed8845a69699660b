/* Private to the matmul family's NEON files: loads, and the expansion of a block of codes. */
#ifndef CAKE_KERNELS_MATMUL_NEON_H
#define CAKE_KERNELS_MATMUL_NEON_H

#include "kernels/matmul_block.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

enum { PREFETCH = 2048 }; /* bytes ahead of the weights being read */

/* 4 stored floats. */
INLINE float32x4_t load_floats(const uint8_t *p, cake_ftype t) {
    if (t == CAKE_F32) return vreinterpretq_f32_u8(vld1q_u8(p));
    uint16x4_t h = vreinterpret_u16_u8(vld1_u8(p));
    if (t == CAKE_F16) return vcvt_f32_f16(vreinterpret_f16_u16(h));
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}

/* x >> shift, & mask */
INLINE uint8x16_t field(uint8x16_t x, int shift, uint8_t mask) {
    return vandq_u8(vshlq_u8(x, vdupq_n_s8((int8_t)-shift)), vdupq_n_u8(mask));
}

INLINE uint8x16_t or3(uint8x16_t a, uint8x16_t b, uint8x16_t c) {
    return vorrq_u8(vorrq_u8(a, b), c);
}

/* (x >> 6) << to */
#define TOP2(x, to) vshlq_n_u8(vshrq_n_u8(x, 6), to)

/* Expand four rows of one block: v points at the quad. */
INLINE void load_block(const uint8_t *v, int bits, int8x16_t c[8]) {
    uint8x16_t x[8], u[8];
    for (int i = 0; i < bits; i++) x[i] = vld1q_u8(v + 64 * i);
    switch (bits) {
    case 2:
        for (int j = 0; j < 8; j++) u[j] = field(x[j & 1], 2 * (j >> 1), 3);
        break;
    case 3:
        for (int j = 0; j < 6; j++) u[j] = field(x[j % 3], j / 3 * 3, 7);
        u[6] = vorrq_u8(vshrq_n_u8(x[0], 6), field(x[2], 4, 4));
        u[7] = vorrq_u8(vshrq_n_u8(x[1], 6), field(x[2], 5, 4));
        break;
    case 4:
        for (int j = 0; j < 8; j++) u[j] = field(x[j & 3], 4 * (j >> 2), 15);
        break;
    case 5:
        for (int j = 0; j < 5; j++) u[j] = field(x[j], 0, 31);
        u[5] = vorrq_u8(vshrq_n_u8(x[0], 5), field(x[3], 2, 24));
        u[6] = vorrq_u8(vshrq_n_u8(x[1], 5), field(x[4], 2, 24));
        u[7] = or3(vshrq_n_u8(x[2], 5), field(x[3], 4, 8), field(x[4], 3, 16));
        break;
    case 6:
        for (int j = 0; j < 6; j++) u[j] = field(x[j], 0, 63);
        u[6] = or3(TOP2(x[0], 0), TOP2(x[1], 2), TOP2(x[2], 4));
        u[7] = or3(TOP2(x[3], 0), TOP2(x[4], 2), TOP2(x[5], 4));
        break;
    default:
        for (int j = 0; j < 8; j++) u[j] = veorq_u8(x[j], vdupq_n_u8(0x80));
    }
    for (int j = 0; j < 8; j++) c[j] = vreinterpretq_s8_u8(u[j]);
}

#endif
#endif
