/* Private to the matmul family's AVX2 files: loads, and the expansion of a block of codes. */
#ifndef CAKE_KERNELS_MATMUL_AVX2_H
#define CAKE_KERNELS_MATMUL_AVX2_H

#include "kernels/matmul_block.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { PREFETCH = 8192 }; /* bytes ahead of the weights being read */

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256(p);
}

INLINE __m256i bcast(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm256_set1_epi32(v);
}

/* 8 stored floats. */
INLINE __m256 load_floats(const void *p, cake_ftype t) {
    if (t == CAKE_F32) return _mm256_loadu_ps(p);
    __m128i h = _mm_loadu_si128(p);
    if (t == CAKE_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* x >> shift in every byte, then & mask. */
INLINE __m256i field(__m256i x, int shift, int mask) {
    if (shift) x = _mm256_srli_epi16(x, shift);
    return _mm256_and_si256(x, _mm256_set1_epi8((char)mask));
}

INLINE __m256i or3(__m256i a, __m256i b, __m256i c) {
    return _mm256_or_si256(_mm256_or_si256(a, b), c);
}

/* Expand eight rows of one block: v points at the half. 8 bits: c[0..7] low nibbles, c[8..15] high.
 */
INLINE void load_block(const uint8_t *v, int bits, __m256i *c) {
    __m256i x[8];
#pragma GCC unroll 8
    for (int i = 0; i < bits; i++) {
        x[i] = load256(v + 64 * i);
        /* One load per vector, in order: not one per use, and as the prefetcher likes it. */
        __asm__ volatile("" : "+x"(x[i]), "+r"(v));
    }
    switch (bits) {
    case 2:
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) c[j] = field(x[j & 1], 2 * (j >> 1), 3);
        break;
    case 3:
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) c[j] = field(x[j % 3], j / 3 * 3, 7);
        c[6] = _mm256_or_si256(field(x[0], 6, 3), field(x[2], 4, 4));
        c[7] = _mm256_or_si256(field(x[1], 6, 3), field(x[2], 5, 4));
        break;
    case 4:
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) c[j] = field(x[j & 3], 4 * (j >> 2), 15);
        break;
    case 5:
#pragma GCC unroll 5
        for (int j = 0; j < 5; j++) c[j] = field(x[j], 0, 31);
        c[5] = _mm256_or_si256(field(x[0], 5, 7), field(x[3], 2, 24));
        c[6] = _mm256_or_si256(field(x[1], 5, 7), field(x[4], 2, 24));
        c[7] = or3(field(x[2], 5, 7), field(x[3], 4, 8), field(x[4], 3, 16));
        break;
    case 6:
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) c[j] = field(x[j], 0, 63);
        c[6] = or3(field(x[0], 6, 3), field(x[1], 4, 12), field(x[2], 2, 48));
        c[7] = or3(field(x[3], 6, 3), field(x[4], 4, 12), field(x[5], 2, 48));
        break;
    default:
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            c[j] = field(x[j], 0, 15);
            c[j + 8] = field(x[j], 4, 15);
        }
    }
}

#endif
#endif
