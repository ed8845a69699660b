/* Sixteen f32 lanes in the registers of one ISA: the vocabulary of vec_body.h and attn_body.h.
 *
 * Each kernel body is written once over `v16` and compiled once per ISA. Every operation below is
 * one IEEE operation per lane, so the same source gives the same bits everywhere. Included only by
 * files named *_scalar.c, *_avx2.c, *_avx512.c and *_neon.c; the including file says which with one
 * of the CAKE_LANES_* macros. */
#ifndef CAKE_KERNELS_VEC_LANES_H
#define CAKE_KERNELS_VEC_LANES_H

#include "kernels/math.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(CAKE_LANES_AVX2) || defined(CAKE_LANES_AVX512)
#include <immintrin.h>
#elif defined(CAKE_LANES_NEON)
#include <arm_neon.h>
#endif

#if defined(CAKE_LANES_SCALAR) && defined(__SANITIZE_ADDRESS__) /* inlined, gcc needs minutes */
#define LANES_FN static __attribute__((noinline, unused))
#else
#define LANES_FN static inline __attribute__((always_inline, unused))
#endif

/* f16 <-> f32 one at a time, the bits of the hardware conversions (NaNs become quiet). */
LANES_FN uint16_t f16_from_f32(float x) {
    uint32_t u = cake_f32_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and up round to infinity */
    if (a < 0x38800000u) { /* subnormal: adding 2^-1 leaves the rounded multiple of 2^-24 in the low
                              bits */
        float r = cake_f32_from_bits(a) + 0.5f;
        return (uint16_t)(sign | (cake_f32_bits(r) - 0x3f000000u));
    }
    a += 0xfffu + (a >> 13 & 1u); /* round to nearest even on 13 bits */
    return (uint16_t)(sign | ((a >> 13) - 0x1c000u));
}

LANES_FN float f32_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, a = h & 0x7fffu;
    if (a > 0x7c00u) return cake_f32_from_bits(sign | 0x7fc00000u | a << 13);
    if (a == 0x7c00u) return cake_f32_from_bits(sign | 0x7f800000u);
    if (a < 0x400u) {
        float m = (float)a * 0x1p-24f;
        return cake_f32_from_bits(sign | cake_f32_bits(m));
    }
    return cake_f32_from_bits(sign | ((a << 13) + 0x38000000u));
}

#if defined(CAKE_LANES_AVX512)

typedef __m512 v16;
LANES_FN v16 v_zero(void) {
    return _mm512_setzero_ps();
}
LANES_FN v16 v_set1(float x) {
    return _mm512_set1_ps(x);
}
LANES_FN v16 v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
LANES_FN void v_store(float *p, v16 a) {
    _mm512_storeu_ps(p, a);
}
LANES_FN v16 v_load_n(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}
LANES_FN void v_store_n(float *p, v16 a, size_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), a);
}
LANES_FN v16 v_load_h(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
LANES_FN void v_store_h(uint16_t *p, v16 a) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
/* Sixteen small integers; storing rounds to nearest even and wants -128 <= a <= 127. */
LANES_FN v16 v_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
LANES_FN void v_store_i8(int8_t *p, v16 a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
LANES_FN v16 v_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
LANES_FN v16 v_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
LANES_FN v16 v_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
LANES_FN v16 v_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
LANES_FN v16 v_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* *p * b + c with one instruction and no register for *p: compilers would rather share one register
 * among neighbours, but those loads are what the loops of attention are short of slots for. */
LANES_FN v16 v_fma_at(const float *p, v16 b, v16 c) {
    __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(b), "m"(*p));
    return c;
}
LANES_FN v16 v_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}
LANES_FN v16 v_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}
/* e^x lane by lane: cake_expf() */
LANES_FN v16 v_exp(v16 x) {
    x = _mm512_min_ps(_mm512_set1_ps(CAKE_EXP_HI), x);
    x = _mm512_max_ps(_mm512_set1_ps(CAKE_EXP_LO), x);
    __m512 magic = _mm512_set1_ps(CAKE_EXP_MAGIC);
    __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(CAKE_EXP_LOG2E), magic), magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-CAKE_EXP_LN2HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-CAKE_EXP_LN2LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(CAKE_EXP_C6), r, _mm512_set1_ps(CAKE_EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(CAKE_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(CAKE_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(CAKE_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n); /* rounds once, as the two factors do */
}
/* 2^x lane by lane: cake_exp2_negf() */
LANES_FN v16 v_exp2_neg(v16 x) {
    x = _mm512_max_ps(_mm512_set1_ps(CAKE_EXP2_LO), x);
    __m512 magic = _mm512_set1_ps(CAKE_EXP_MAGIC);
    __m512 n = _mm512_sub_ps(_mm512_add_ps(x, magic), magic), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(CAKE_EXP2_C6), r, _mm512_set1_ps(CAKE_EXP2_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(CAKE_EXP2_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(CAKE_EXP2_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(CAKE_EXP2_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(CAKE_EXP2_C1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}
LANES_FN float v_sum(v16 a) {
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
LANES_FN float v_hmax(v16 a) {
    __m256 s = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
/* Sixteen f64 sums: lane by lane, and folded as v_sum folds. */
typedef struct {
    __m512d a, b;
} d16;
LANES_FN d16 d_zero(void) {
    return (d16){_mm512_setzero_pd(), _mm512_setzero_pd()};
}
LANES_FN d16 d_add(d16 s, v16 x) {
    return (d16){_mm512_add_pd(s.a, _mm512_cvtps_pd(_mm512_castps512_ps256(x))),
                 _mm512_add_pd(s.b, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)))};
}
LANES_FN void d_store(double *p, d16 s) {
    _mm512_storeu_pd(p, s.a);
    _mm512_storeu_pd(p + 8, s.b);
}
/* Lanes lo <= i < hi keep a, the others become fill. */
LANES_FN v16 v_keep(v16 a, int lo, int hi, float fill) {
    __mmask16 m = (__mmask16)(((1u << hi) - 1u) & ~((1u << lo) - 1u));
    return _mm512_mask_blend_ps(m, _mm512_set1_ps(fill), a);
}
/* Bit i: lane i of a equals x (a NaN never does). */
LANES_FN unsigned v_eq_mask(v16 a, v16 x) {
    unsigned m = _mm512_cmp_ps_mask(a, x, _CMP_EQ_OQ);
    /* gcc 12 may spill the 16-bit mask and read 64 bits back when it is widened: widen it here. */
    __asm__("" : "+r"(m));
    return m;
}
LANES_FN void v_store_bf16(uint16_t *p, v16 a) {
    __m512i u = _mm512_castps_si512(a);
    __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}
LANES_FN v16 v_load_bf16(const uint16_t *p) {
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

#elif defined(CAKE_LANES_AVX2)

typedef struct {
    __m256 a, b;
} v16;
#define V2(x, y) ((v16){x, y})
LANES_FN v16 v_zero(void) {
    return V2(_mm256_setzero_ps(), _mm256_setzero_ps());
}
LANES_FN v16 v_set1(float x) {
    return V2(_mm256_set1_ps(x), _mm256_set1_ps(x));
}
LANES_FN v16 v_load(const float *p) {
    return V2(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
LANES_FN void v_store(float *p, v16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
LANES_FN v16 v_load_n(const float *p, size_t n) {
    float t[16] = {0};
    memcpy(t, p, n * sizeof *t);
    return v_load(t);
}
LANES_FN void v_store_n(float *p, v16 x, size_t n) {
    float t[16];
    v_store(t, x);
    memcpy(p, t, n * sizeof *t);
}
LANES_FN __m256 load_h8(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
LANES_FN v16 v_load_h(const uint16_t *p) {
    return V2(load_h8(p), load_h8(p + 8));
}
LANES_FN void v_store_h(uint16_t *p, v16 x) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
LANES_FN v16 v_load_i8(const int8_t *p) {
    /* two loads: cheaper than one and a shuffle */
    __m128i a = _mm_loadl_epi64((const __m128i *)(const void *)p);
    __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)(p + 8));
    return V2(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(a)),
              _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)));
}
LANES_FN __m128i i16_from_f32x8(__m256 x) {
    __m256i i = _mm256_cvtps_epi32(x);
    return _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
}
LANES_FN void v_store_i8(int8_t *p, v16 x) {
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm_packs_epi16(i16_from_f32x8(x.a), i16_from_f32x8(x.b)));
}
#define V2_OP(name, op)                                                                            \
    LANES_FN v16 name(v16 x, v16 y) {                                                              \
        return V2(op(x.a, y.a), op(x.b, y.b));                                                     \
    }
V2_OP(v_add, _mm256_add_ps)
V2_OP(v_sub, _mm256_sub_ps)
V2_OP(v_mul, _mm256_mul_ps)
V2_OP(v_div, _mm256_div_ps)
V2_OP(v_max, _mm256_max_ps)
V2_OP(v_min, _mm256_min_ps)
LANES_FN v16 v_fma(v16 x, v16 y, v16 z) {
    return V2(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
/* p times 2^(t - magic), in two factors */
LANES_FN __m256 scale_exp8(__m256 p, __m256 t) {
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(t),
                                 _mm256_castps_si256(_mm256_set1_ps(CAKE_EXP_MAGIC)));
    __m256i h = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    __m256i e1 = _mm256_slli_epi32(_mm256_add_epi32(h, bias), 23);
    __m256i e2 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, h), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(e1)), _mm256_castsi256_ps(e2));
}
LANES_FN __m256 exp8(__m256 x) {
    x = _mm256_min_ps(_mm256_set1_ps(CAKE_EXP_HI), x);
    x = _mm256_max_ps(_mm256_set1_ps(CAKE_EXP_LO), x);
    __m256 magic = _mm256_set1_ps(CAKE_EXP_MAGIC);
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(CAKE_EXP_LOG2E), magic);
    __m256 n = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-CAKE_EXP_LN2HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-CAKE_EXP_LN2LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(CAKE_EXP_C6), r, _mm256_set1_ps(CAKE_EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CAKE_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CAKE_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CAKE_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    return scale_exp8(_mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f)), t);
}
LANES_FN v16 v_exp(v16 x) {
    return V2(exp8(x.a), exp8(x.b));
}
LANES_FN __m256 exp2_neg8(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(CAKE_EXP2_LO), x);
    __m256 magic = _mm256_set1_ps(CAKE_EXP_MAGIC), t = _mm256_add_ps(x, magic);
    __m256 r = _mm256_sub_ps(x, _mm256_sub_ps(t, magic));
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(CAKE_EXP2_C6), r, _mm256_set1_ps(CAKE_EXP2_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CAKE_EXP2_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CAKE_EXP2_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CAKE_EXP2_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(CAKE_EXP2_C1));
    return scale_exp8(_mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f)), t);
}
LANES_FN v16 v_exp2_neg(v16 x) {
    return V2(exp2_neg8(x.a), exp2_neg8(x.b));
}
LANES_FN float v_sum(v16 x) {
    __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
LANES_FN float v_hmax(v16 x) {
    __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}
typedef struct {
    __m256d a, b, c, d;
} d16;
LANES_FN d16 d_zero(void) {
    __m256d z = _mm256_setzero_pd();
    return (d16){z, z, z, z};
}
LANES_FN d16 d_add(d16 s, v16 x) {
    return (d16){_mm256_add_pd(s.a, _mm256_cvtps_pd(_mm256_castps256_ps128(x.a))),
                 _mm256_add_pd(s.b, _mm256_cvtps_pd(_mm256_extractf128_ps(x.a, 1))),
                 _mm256_add_pd(s.c, _mm256_cvtps_pd(_mm256_castps256_ps128(x.b))),
                 _mm256_add_pd(s.d, _mm256_cvtps_pd(_mm256_extractf128_ps(x.b, 1)))};
}
LANES_FN void d_store(double *p, d16 s) {
    _mm256_storeu_pd(p, s.a);
    _mm256_storeu_pd(p + 4, s.b);
    _mm256_storeu_pd(p + 8, s.c);
    _mm256_storeu_pd(p + 12, s.d);
}
LANES_FN v16 v_keep(v16 x, int lo, int hi, float fill) {
    __m256i ia = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i ib = _mm256_add_epi32(ia, _mm256_set1_epi32(8));
    __m256i l = _mm256_set1_epi32(lo - 1), h = _mm256_set1_epi32(hi);
    __m256i ma = _mm256_and_si256(_mm256_cmpgt_epi32(ia, l), _mm256_cmpgt_epi32(h, ia));
    __m256i mb = _mm256_and_si256(_mm256_cmpgt_epi32(ib, l), _mm256_cmpgt_epi32(h, ib));
    __m256 f = _mm256_set1_ps(fill);
    return V2(_mm256_blendv_ps(f, x.a, _mm256_castsi256_ps(ma)),
              _mm256_blendv_ps(f, x.b, _mm256_castsi256_ps(mb)));
}
LANES_FN unsigned v_eq_mask(v16 x, v16 y) {
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)) |
           (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)) << 8;
}
LANES_FN __m256i bf16_round8(__m256 x) { /* the result in the low half of each 32-bit lane */
    __m256i u = _mm256_castps_si256(x);
    __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff)));
    __m256i q = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(r, q, nan), 16);
}
LANES_FN void v_store_bf16(uint16_t *p, v16 x) {
    __m256i w = _mm256_packus_epi32(bf16_round8(x.a), bf16_round8(x.b));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(w, 0xd8));
}
LANES_FN v16 v_load_bf16(const uint16_t *p) {
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)));
    return V2(_mm256_castsi256_ps(_mm256_slli_epi32(u, 16)),
              _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)));
}

#elif defined(CAKE_LANES_NEON)

typedef struct {
    float32x4_t a, b, c, d;
} v16;
#define V4(w, x, y, z) ((v16){w, x, y, z})
LANES_FN v16 v_set1(float x) {
    float32x4_t t = vdupq_n_f32(x);
    return V4(t, t, t, t);
}
LANES_FN v16 v_zero(void) {
    return v_set1(0.0f);
}
LANES_FN v16 v_load(const float *p) {
    return V4(vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12));
}
LANES_FN void v_store(float *p, v16 x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
LANES_FN v16 v_load_n(const float *p, size_t n) {
    float t[16] = {0};
    memcpy(t, p, n * sizeof *t);
    return v_load(t);
}
LANES_FN void v_store_n(float *p, v16 x, size_t n) {
    float t[16];
    v_store(t, x);
    memcpy(p, t, n * sizeof *t);
}
LANES_FN v16 v_load_h(const uint16_t *p) {
    float16x8_t l = vreinterpretq_f16_u16(vld1q_u16(p));
    float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(p + 8));
    return V4(vcvt_f32_f16(vget_low_f16(l)), vcvt_high_f32_f16(l), vcvt_f32_f16(vget_low_f16(h)),
              vcvt_high_f32_f16(h));
}
LANES_FN void v_store_h(uint16_t *p, v16 x) {
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.a), x.b)));
    vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.c), x.d)));
}
LANES_FN v16 v_load_i8(const int8_t *p) {
    int8x16_t t = vld1q_s8(p);
    int16x8_t l = vmovl_s8(vget_low_s8(t)), h = vmovl_high_s8(t);
    return V4(vcvtq_f32_s32(vmovl_s16(vget_low_s16(l))), vcvtq_f32_s32(vmovl_high_s16(l)),
              vcvtq_f32_s32(vmovl_s16(vget_low_s16(h))), vcvtq_f32_s32(vmovl_high_s16(h)));
}
LANES_FN void v_store_i8(int8_t *p, v16 x) {
    int16x8_t l = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.a)), vmovn_s32(vcvtnq_s32_f32(x.b)));
    int16x8_t h = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.c)), vmovn_s32(vcvtnq_s32_f32(x.d)));
    vst1q_s8(p, vcombine_s8(vmovn_s16(l), vmovn_s16(h)));
}
#define V4_OP(name, op)                                                                            \
    LANES_FN v16 name(v16 x, v16 y) {                                                              \
        return V4(op(x.a, y.a), op(x.b, y.b), op(x.c, y.c), op(x.d, y.d));                         \
    }
V4_OP(v_add, vaddq_f32)
V4_OP(v_sub, vsubq_f32)
V4_OP(v_mul, vmulq_f32)
V4_OP(v_div, vdivq_f32)
/* The x86 rule, not fmax: the second operand unless the first is greater (less). */
LANES_FN float32x4_t max4(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}
LANES_FN float32x4_t min4(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcltq_f32(x, y), x, y);
}
V4_OP(v_max, max4)
V4_OP(v_min, min4)
LANES_FN v16 v_fma(v16 x, v16 y, v16 z) {
    return V4(vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
              vfmaq_f32(z.d, x.d, y.d));
}
/* p times 2^(t - magic), in two factors */
LANES_FN float32x4_t scale_exp4(float32x4_t p, float32x4_t t) {
    int32x4_t i =
        vsubq_s32(vreinterpretq_s32_f32(t), vreinterpretq_s32_f32(vdupq_n_f32(CAKE_EXP_MAGIC)));
    int32x4_t h = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
    int32x4_t e1 = vshlq_n_s32(vaddq_s32(h, bias), 23);
    int32x4_t e2 = vshlq_n_s32(vaddq_s32(vsubq_s32(i, h), bias), 23);
    return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(e1)), vreinterpretq_f32_s32(e2));
}
LANES_FN float32x4_t exp4(float32x4_t x) {
    x = min4(vdupq_n_f32(CAKE_EXP_HI), x);
    x = max4(vdupq_n_f32(CAKE_EXP_LO), x);
    float32x4_t magic = vdupq_n_f32(CAKE_EXP_MAGIC);
    float32x4_t t = vfmaq_f32(magic, x, vdupq_n_f32(CAKE_EXP_LOG2E));
    float32x4_t n = vsubq_f32(t, magic);
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-CAKE_EXP_LN2HI));
    r = vfmaq_f32(r, n, vdupq_n_f32(-CAKE_EXP_LN2LO));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(CAKE_EXP_C5), vdupq_n_f32(CAKE_EXP_C6), r);
    p = vfmaq_f32(vdupq_n_f32(CAKE_EXP_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(CAKE_EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(CAKE_EXP_C2), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    return scale_exp4(vfmaq_f32(vdupq_n_f32(1.0f), p, r), t);
}
LANES_FN v16 v_exp(v16 x) {
    return V4(exp4(x.a), exp4(x.b), exp4(x.c), exp4(x.d));
}
LANES_FN float32x4_t exp2_neg4(float32x4_t x) {
    x = max4(vdupq_n_f32(CAKE_EXP2_LO), x);
    float32x4_t magic = vdupq_n_f32(CAKE_EXP_MAGIC), t = vaddq_f32(x, magic);
    float32x4_t r = vsubq_f32(x, vsubq_f32(t, magic));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(CAKE_EXP2_C5), vdupq_n_f32(CAKE_EXP2_C6), r);
    p = vfmaq_f32(vdupq_n_f32(CAKE_EXP2_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(CAKE_EXP2_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(CAKE_EXP2_C2), p, r);
    p = vfmaq_f32(vdupq_n_f32(CAKE_EXP2_C1), p, r);
    return scale_exp4(vfmaq_f32(vdupq_n_f32(1.0f), p, r), t);
}
LANES_FN v16 v_exp2_neg(v16 x) {
    return V4(exp2_neg4(x.a), exp2_neg4(x.b), exp2_neg4(x.c), exp2_neg4(x.d));
}
LANES_FN float v_sum(v16 x) {
    float32x4_t s = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}
LANES_FN float v_hmax(v16 x) {
    float32x4_t s = max4(max4(x.a, x.c), max4(x.b, x.d));
    float t[4];
    vst1q_f32(t, s);
    t[0] = t[0] > t[2] ? t[0] : t[2];
    t[1] = t[1] > t[3] ? t[1] : t[3];
    return t[0] > t[1] ? t[0] : t[1];
}
typedef struct {
    float64x2_t v[8];
} d16;
LANES_FN d16 d_zero(void) {
    d16 s;
    for (int i = 0; i < 8; i++) s.v[i] = vdupq_n_f64(0);
    return s;
}
LANES_FN d16 d_add(d16 s, v16 x) {
    const float32x4_t f[4] = {x.a, x.b, x.c, x.d};
    for (int i = 0; i < 4; i++) {
        s.v[2 * i] = vaddq_f64(s.v[2 * i], vcvt_f64_f32(vget_low_f32(f[i])));
        s.v[2 * i + 1] = vaddq_f64(s.v[2 * i + 1], vcvt_high_f64_f32(f[i]));
    }
    return s;
}
LANES_FN void d_store(double *p, d16 s) {
    for (int i = 0; i < 8; i++) vst1q_f64(p + 2 * i, s.v[i]);
}
LANES_FN float32x4_t keep4(float32x4_t x, int32x4_t i, int lo, int hi, float fill) {
    uint32x4_t m = vandq_u32(vcgeq_s32(i, vdupq_n_s32(lo)), vcltq_s32(i, vdupq_n_s32(hi)));
    return vbslq_f32(m, x, vdupq_n_f32(fill));
}
LANES_FN v16 v_keep(v16 x, int lo, int hi, float fill) {
    static const int32_t iota[4] = {0, 1, 2, 3};
    int32x4_t i = vld1q_s32(iota);
    return V4(keep4(x.a, i, lo, hi, fill), keep4(x.b, i, lo - 4, hi - 4, fill),
              keep4(x.c, i, lo - 8, hi - 8, fill), keep4(x.d, i, lo - 12, hi - 12, fill));
}
LANES_FN unsigned eq4(float32x4_t x, float32x4_t y) {
    static const uint32_t bit[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vceqq_f32(x, y), vld1q_u32(bit)));
}
LANES_FN unsigned v_eq_mask(v16 x, v16 y) {
    return eq4(x.a, y.a) | eq4(x.b, y.b) << 4 | eq4(x.c, y.c) << 8 | eq4(x.d, y.d) << 12;
}
LANES_FN uint16x4_t bf16_round4(float32x4_t x) {
    uint32x4_t u = vreinterpretq_u32_f32(x);
    uint32x4_t lsb = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t r = vaddq_u32(u, vaddq_u32(lsb, vdupq_n_u32(0x7fff)));
    uint32x4_t q = vorrq_u32(u, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), r, q), 16);
}
LANES_FN void v_store_bf16(uint16_t *p, v16 x) {
    vst1_u16(p, bf16_round4(x.a));
    vst1_u16(p + 4, bf16_round4(x.b));
    vst1_u16(p + 8, bf16_round4(x.c));
    vst1_u16(p + 12, bf16_round4(x.d));
}
LANES_FN float32x4_t bf16_wide4(uint16x4_t h) {
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}
LANES_FN v16 v_load_bf16(const uint16_t *p) {
    return V4(bf16_wide4(vld1_u16(p)), bf16_wide4(vld1_u16(p + 4)), bf16_wide4(vld1_u16(p + 8)),
              bf16_wide4(vld1_u16(p + 12)));
}

#else /* scalar: the reference, written to be read */

typedef struct {
    float f[16];
} v16;
#define EACH(expr)                                                                                 \
    v16 r;                                                                                         \
    for (int i = 0; i < 16; i++) r.f[i] = (expr);                                                  \
    return r
LANES_FN v16 v_set1(float x) {
    EACH(x);
}
LANES_FN v16 v_zero(void) {
    return v_set1(0.0f);
}
LANES_FN v16 v_load_n(const float *p, size_t n) {
    EACH((size_t)i < n ? p[i] : 0.0f);
}
LANES_FN void v_store_n(float *p, v16 a, size_t n) {
    memcpy(p, a.f, n * sizeof *p);
}
LANES_FN v16 v_load(const float *p) {
    return v_load_n(p, 16);
}
LANES_FN void v_store(float *p, v16 a) {
    v_store_n(p, a, 16);
}
LANES_FN v16 v_load_h(const uint16_t *p) {
    EACH(f32_from_f16(p[i]));
}
LANES_FN void v_store_h(uint16_t *p, v16 a) {
    for (int i = 0; i < 16; i++) p[i] = f16_from_f32(a.f[i]);
}
LANES_FN v16 v_load_i8(const int8_t *p) {
    EACH((float)p[i]);
}
LANES_FN void v_store_i8(int8_t *p, v16 a) { /* adding 1.5 * 2^23 rounds to an integer */
    for (int i = 0; i < 16; i++) p[i] = (int8_t)(a.f[i] + 0x1.8p23f - 0x1.8p23f);
}
LANES_FN v16 v_add(v16 a, v16 b) {
    EACH(a.f[i] + b.f[i]);
}
LANES_FN v16 v_sub(v16 a, v16 b) {
    EACH(a.f[i] - b.f[i]);
}
LANES_FN v16 v_mul(v16 a, v16 b) {
    EACH(a.f[i] * b.f[i]);
}
LANES_FN v16 v_div(v16 a, v16 b) {
    EACH(a.f[i] / b.f[i]);
}
LANES_FN v16 v_max(v16 a, v16 b) {
    EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}
LANES_FN v16 v_min(v16 a, v16 b) {
    EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}
LANES_FN v16 v_fma(v16 a, v16 b, v16 c) {
    EACH(__builtin_fmaf(a.f[i], b.f[i], c.f[i]));
}
LANES_FN v16 v_exp(v16 a) {
    EACH(cake_expf(a.f[i]));
}
LANES_FN v16 v_exp2_neg(v16 a) {
    EACH(cake_exp2_negf(a.f[i]));
}
LANES_FN float v_sum(v16 a) {
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) a.f[i] = a.f[i] + a.f[i + w];
    return a.f[0];
}
LANES_FN float v_hmax(v16 a) { /* lanes must not be NaN */
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) a.f[i] = a.f[i] > a.f[i + w] ? a.f[i] : a.f[i + w];
    return a.f[0];
}
typedef struct {
    double f[16];
} d16;
LANES_FN d16 d_zero(void) {
    return (d16){{0}};
}
LANES_FN d16 d_add(d16 s, v16 x) {
    for (int i = 0; i < 16; i++) s.f[i] += (double)x.f[i];
    return s;
}
LANES_FN void d_store(double *p, d16 s) {
    memcpy(p, s.f, sizeof s.f);
}
LANES_FN v16 v_keep(v16 a, int lo, int hi, float fill) {
    EACH(i >= lo && i < hi ? a.f[i] : fill);
}
LANES_FN unsigned v_eq_mask(v16 a, v16 x) {
    unsigned m = 0;
    for (int i = 0; i < 16; i++) m |= (unsigned)(a.f[i] == x.f[i]) << i;
    return m;
}
LANES_FN void v_store_bf16(uint16_t *p, v16 a) {
    for (int i = 0; i < 16; i++) {
        uint32_t u = cake_f32_bits(a.f[i]);
        if ((u & 0x7fffffffu) > 0x7f800000u)
            p[i] = (uint16_t)(u >> 16 | 0x40u);
        else
            p[i] = (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
    }
}
LANES_FN v16 v_load_bf16(const uint16_t *p) {
    EACH(cake_f32_from_bits((uint32_t)p[i] << 16));
}

#endif

LANES_FN double d_sum(d16 s) {
    double f[16];
    d_store(f, s);
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) f[i] = f[i] + f[i + w];
    return f[0];
}

/* Hyperbolic tangent, to a relative error of 3 * 2^-23: x P(x^2) / Q(x^2), the minimax ratio for
 * |x| <= 8.6, from where on it is 1 to within half an ulp. Never beyond +-1. */
LANES_FN v16 v_tanh(v16 x) {
    x = v_max(v_set1(-8.6f), v_min(v_set1(8.6f), x)); /* this order lets a NaN through */
    v16 z = v_mul(x, x);
    v16 p = v_fma(v_set1(-0x1.cde464p-37f), z, v_set1(0x1.112c16p-25f));
    p = v_fma(p, z, v_set1(0x1.de3ca2p-16f));
    p = v_fma(p, z, v_set1(0x1.fe3c64p-9f));
    p = v_fma(p, z, v_set1(0x1.189042p-3f));
    p = v_fma(p, z, v_set1(1.0f));
    v16 q = v_fma(v_set1(0x1.62f9aap-20f), z, v_set1(0x1.a18856p-12f));
    q = v_fma(q, z, v_set1(0x1.bfdc32p-6f));
    q = v_fma(q, z, v_set1(0x1.e19d76p-2f));
    q = v_fma(q, z, v_set1(1.0f));
    v16 y = v_div(v_mul(p, x), q);
    return v_max(v_set1(-1.0f), v_min(v_set1(1.0f), y));
}

#if !defined(CAKE_LANES_AVX512)
LANES_FN v16 v_fma_at(const float *p, v16 b, v16 c) {
    return v_fma(v_set1(*p), b, c);
}
#endif

#endif
