/* Private to the matmul family's AVX2 files: loads, and the expansion of a block of codes. */
#ifndef CAKE_KERNELS_MATMUL_AVX2_H
#define CAKE_KERNELS_MATMUL_AVX2_H

#include "kernels/matmul_block.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    PREFETCH = 8192, /* bytes ahead of the weights being read */
    WIDE = 4         /* tokens at a time where codes have 8 bits */
};

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256(p);
}

INLINE __m256i bcast(const void *q) {
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

/* 8 E8M0 scales. */
INLINE __m256 e8m0(const uint8_t *bytes) {
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
    return _mm256_castsi256_ps(_mm256_blendv_epi8(_mm256_slli_epi32(e, 23),
                                                  _mm256_set1_epi32(0x00400000),
                                                  _mm256_cmpeq_epi32(e, _mm256_setzero_si256())));
}

/* x >> shift in every byte, then & mask. */
INLINE __m256i field(__m256i x, int shift, int mask) {
    if (shift) x = _mm256_srli_epi16(x, shift);
    return _mm256_and_si256(x, _mm256_set1_epi8((char)mask));
}

INLINE __m256i or3(__m256i a, __m256i b, __m256i c) {
    return _mm256_or_si256(_mm256_or_si256(a, b), c);
}

/* Eight rows of one block as packed, v points at the half. */
INLINE void load_lines(const uint8_t *v, int bits, __m256i *x) {
    CAKE_UNROLL(8)
    for (int i = 0; i < bits; i++) {
        x[i] = load256(v + 64 * i);
        /* One load per vector, in order: not one per use, and as the prefetcher likes it. */
        __asm__ volatile("" : "+x"(x[i]), "+r"(v));
    }
}

/* The codes of columns 4j to 4j + 3 as bytes. Of 8 bits: those of columns 4j and 4j + 2 as 16 bits,
 * with j + 8 the others. */
INLINE __m256i unpack(const __m256i *x, int bits, int j) {
    switch (bits) {
    case 2: return field(x[j & 1], 2 * (j >> 1), 3);
    case 3:
        if (j < 6) return field(x[j % 3], j / 3 * 3, 7);
        return _mm256_or_si256(field(x[j - 6], 6, 3), field(x[2], j - 2, 4));
    case 4: return field(x[j & 3], 4 * (j >> 2), 15);
    case 5:
        if (j < 5) return field(x[j], 0, 31);
        if (j < 7) return _mm256_or_si256(field(x[j - 5], 5, 7), field(x[j - 2], 2, 24));
        return or3(field(x[2], 5, 7), field(x[3], 4, 8), field(x[4], 3, 16));
    case 6:
        if (j < 6) return field(x[j], 0, 63);
        x += j == 6 ? 0 : 3;
        return or3(field(x[0], 6, 3), field(x[1], 4, 12), field(x[2], 2, 48));
    default:
        if (j < 8) return _mm256_and_si256(x[j], _mm256_set1_epi16(255));
        return _mm256_srli_epi16(x[j - 8], 8);
    }
}

/* All codes of eight rows of one block: 8 vectors, or 16 where they have 8 bits. */
INLINE void load_block(const uint8_t *v, int bits, __m256i *c) {
    __m256i x[8];
    load_lines(v, bits, x);
    for (int j = 0; j < (bits == 8 ? 16 : 8); j++) c[j] = unpack(x, bits, j);
}

/* 32 activations as 16 bits, in the order of 8-bit codes. */
INLINE void widen_act(const int8_t *q, int16_t *out) {
    const __m256i x = load256(q);
    _mm256_store_si256((__m256i *)(void *)out, _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    _mm256_store_si256((__m256i *)(void *)(out + 16), _mm256_srai_epi16(x, 8));
}

/* Integer sums of one block of 8-bit codes, c[j][half], with nt tokens `next` apart. */
INLINE void dot_words(int nt, __m256i c[][2], const int16_t *q, size_t next, __m256i *d) {
    for (int i = 0; i < 2 * nt; i++) d[i] = _mm256_setzero_si256();
    CAKE_UNROLL(16)
    for (int j = 0; j < 16; j++) CAKE_UNROLL(4)
    for (int t = 0; t < nt; t++) {
        const __m256i x = bcast(q + (size_t)t * next + j % 8 * 2 + j / 8 * 16);
        for (int k = 0; k < 2; k++) {
            __m256i *to = &d[t * 2 + k];
            *to = _mm256_add_epi32(*to, _mm256_madd_epi16(c[j][k], x));
            __asm__("" : "+x"(*to)); /* no trees of sums, which would all be spilled */
        }
    }
}

/* The same of one token straight from the packed block, both halves. */
INLINE void dot_bytes(const uint8_t *v, const int16_t *q, __m256i d[2]) {
    d[0] = d[1] = _mm256_setzero_si256();
    CAKE_UNROLL(8)
    for (int j = 0; j < 8; j++, v += 64) {
        __m256i x[2] = {load256(v), load256(v + 32)};
        __asm__ volatile("" : "+x"(x[0]), "+x"(x[1]), "+r"(v));
        const __m256i even = bcast(q + 2 * j), odd = bcast(q + 16 + 2 * j);
        for (int k = 0; k < 2; k++) {
            const __m256i c = _mm256_and_si256(x[k], _mm256_set1_epi16(255));
            d[k] = _mm256_add_epi32(d[k], _mm256_madd_epi16(c, even));
            d[k] = _mm256_add_epi32(d[k], _mm256_madd_epi16(_mm256_srli_epi16(x[k], 8), odd));
        }
    }
}

#endif
#endif
