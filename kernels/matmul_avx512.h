/* Private to the matmul family's AVX-512 files: loads, and the expansion of a block of codes. */
#ifndef CAKE_KERNELS_MATMUL_AVX512_H
#define CAKE_KERNELS_MATMUL_AVX512_H

#include "kernels/matmul_block.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { PREFETCH = 4096 }; /* bytes ahead of the weights, where the work on them is long */

INLINE __m512i load512(const void *p) {
    return _mm512_loadu_si512(p);
}

INLINE __m512i bcast(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}

/* acc + codes * q of four columns: in the order written, and with the broadcast inside the
 * instruction, which compilers put before it. Zen 4 is up to 10 % faster for both. */
INLINE __m512i dot4(__m512i acc, __m512i codes, const int8_t *q) {
    typedef struct {
        int8_t q[4];
    } four;
    __asm__ volatile("vpdpbusd %2%{1to16%}, %1, %0"
                     : "+v"(acc)
                     : "v"(codes), "m"(*(const four *)q));
    return acc;
}

/* 16 stored floats. */
INLINE __m512 load_floats(const void *p, cake_ftype t) {
    if (t == CAKE_F32) return _mm512_loadu_ps(p);
    __m256i h = _mm256_loadu_si256(p);
    if (t == CAKE_F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* 16 E8M0 scales. */
INLINE __m512 e8m0(const uint8_t *bytes) {
    const __m512i e = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(const void *)bytes));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(
        _mm512_slli_epi32(e, 23), _mm512_testn_epi32_mask(e, e), _mm512_set1_epi32(0x00400000)));
}

/* x >> shift in every byte, then & mask. (On Zen 4 and, or and shifts leave the multipliers alone,
 * ternary logic does not.) */
INLINE __m512i field(__m512i x, unsigned shift, int mask) {
    if (shift) x = _mm512_srli_epi16(x, shift);
    return _mm512_and_si512(x, _mm512_set1_epi8((char)mask));
}

INLINE __m512i or3(__m512i a, __m512i b, __m512i c) {
    return _mm512_or_si512(_mm512_or_si512(a, b), c);
}

INLINE __m512i shift_right(__m512i x, unsigned by) {
    return by ? _mm512_srai_epi32(x, by) : x;
}

/* Expand one block of codes to bytes. */
INLINE void load_block(const uint8_t *v, int bits, __m512i c[8]) {
    __m512i x[8];
#pragma GCC unroll 8
    for (int i = 0; i < bits; i++) {
        x[i] = load512(v + 64 * i);
        /* One load per vector, in order: not one per use, and as the prefetcher likes it. */
        __asm__ volatile("" : "+v"(x[i]), "+r"(v));
    }
    switch (bits) {
    case 2:
#pragma GCC unroll 8
        for (unsigned j = 0; j < 8; j++) c[j] = field(x[j & 1], 2 * (j >> 1), 3);
        break;
    case 3:
#pragma GCC unroll 6
        for (unsigned j = 0; j < 6; j++) c[j] = field(x[j % 3], j / 3 * 3, 7);
        c[6] = _mm512_or_si512(field(x[0], 6, 3), field(x[2], 4, 4));
        c[7] = _mm512_or_si512(field(x[1], 6, 3), field(x[2], 5, 4));
        break;
    case 4:
#pragma GCC unroll 8
        for (unsigned j = 0; j < 8; j++) c[j] = field(x[j & 3], 4 * (j >> 2), 15);
        break;
    case 5:
#pragma GCC unroll 5
        for (unsigned j = 0; j < 5; j++) c[j] = field(x[j], 0, 31);
        c[5] = _mm512_or_si512(field(x[0], 5, 7), field(x[3], 2, 24));
        c[6] = _mm512_or_si512(field(x[1], 5, 7), field(x[4], 2, 24));
        c[7] = or3(field(x[2], 5, 7), field(x[3], 4, 8), field(x[4], 3, 16));
        break;
    case 6:
#pragma GCC unroll 6
        for (unsigned j = 0; j < 6; j++) c[j] = field(x[j], 0, 63);
        c[6] = or3(field(x[0], 6, 3), field(x[1], 4, 12), field(x[2], 2, 48));
        c[7] = or3(field(x[3], 6, 3), field(x[4], 4, 12), field(x[5], 2, 48));
        break;
    default:
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) c[j] = x[j];
    }
}

/* ---- one token ----
 *
 * Codes that share a byte stay where they are in it: they are multiplied as 2^shift times what they
 * are, and their sum is shifted, once for all of them. */

/* Bytes ahead of the activations: the weights push them out of L1 between one tile and the next. */
enum { Q_AHEAD = 128 };

/* The codes of a block, times 2^(j / bits * bits); of 3 bits, the last two times 32. */
INLINE void load_block_in_place(const uint8_t *v, int bits, __m512i c[8]) {
    __m512i x[4];
    if (bits > 4) {
        load_block(v, bits, c);
        return;
    }
    CAKE_UNROLL(4)
    for (int i = 0; i < bits; i++) {
        x[i] = load512(v + 64 * i);
        __asm__ volatile("" : "+v"(x[i]), "+r"(v)); /* as in load_block() */
    }
    CAKE_UNROLL(8)
    for (int j = 0; j < 8; j++) c[j] = field(x[j % bits], 0, ((1 << bits) - 1) << j / bits * bits);
    if (bits != 3) return;
    const __m512i low = _mm512_set1_epi8(0x60), top = _mm512_add_epi8(x[2], x[2]);
    c[6] = _mm512_srli_epi16(x[0], 1), c[7] = _mm512_srli_epi16(x[1], 1);
    c[6] = _mm512_ternarylogic_epi32(c[6], low, field(top, 0, 0x80), 0xea); /* c & low | top */
    c[7] = _mm512_ternarylogic_epi32(c[7], low, field(x[2], 0, 0x80), 0xea);
}

/* log2 of what the sum over a half of a block is multiplied with before its first code... */
INLINE unsigned first_shift(int bits, int half) {
    return bits == 2 ? 2 + 4 * half : bits == 3 ? 3 + 2 * half : bits == 4 ? 4 * half : 0;
}

/* ... and of what that of the last half still is at its end. */
INLINE unsigned last_shift(int bits) {
    return bits == 2 || bits == 4 ? 4 : bits == 3 ? 3 : 0;
}

/* d += code * q over the first half of a block, e over the last: two chains have half the latency
 * of one. */
INLINE void dot_block(int bits, const __m512i c[8], const int8_t *q, __m512i *d, __m512i *e) {
    if (bits == 2 || bits == 3) { /* the codes furthest up first */
        *d = dot4(*d, c[3], q + 12);
        *e = dot4(*e, c[7], q + 28);
        if (bits == 2) *d = dot4(*d, c[2], q + 8);
        *e = dot4(*e, c[6], q + 24);
        *d = _mm512_srai_epi32(*d, bits);
        *e = _mm512_srai_epi32(*e, 2);
        for (int j = 0; j < 2; j++) {
            *d = dot4(*d, c[j], q + j * 4);
            *e = dot4(*e, c[j + 4], q + j * 4 + 16);
        }
        if (bits == 3) *d = dot4(*d, c[2], q + 8);
        return;
    }
    CAKE_UNROLL(4)
    for (int j = 0; j < 4; j++) {
        *d = dot4(*d, c[j], q + j * 4);
        *e = dot4(*e, c[j + 4], q + j * 4 + 16);
    }
}

#endif
#endif
