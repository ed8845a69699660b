/* Elementary functions that give the same bits on every machine.
 *
 * Built only from IEEE +, -, *, /, fma and integer operations on the representation, in a fixed
 * order: libm may differ from one machine to the next, these may not (design section 5). No errno,
 * no tables, no allocation; all re-entrant. NaN in, NaN out (which NaN is not promised). */
#ifndef CAKE_KERNELS_MATH_H
#define CAKE_KERNELS_MATH_H

#include <stdint.h>
#include <string.h>

static inline uint32_t cake_f32_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float cake_f32_from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The constants of the f32 exponential; the vector forms in vec_lanes.h use the same steps.
 * e^x = 2^n * e^r, n = round(x / ln 2), r = x - n ln 2 in two fused steps; e^r is a minimax
 * polynomial of degree 6 with its constant term pinned to 1, so that e^0 is exactly 1. */
#define CAKE_EXP_LO    (-105.0f) /* e^x rounds to 0 from here down */
#define CAKE_EXP_HI    89.0f     /* and to infinity from here up */
#define CAKE_EXP_LOG2E 0x1.715476p+0f
#define CAKE_EXP_MAGIC 0x1.8p23f /* adding it rounds to an integer, left in the low bits */
#define CAKE_EXP_LN2HI 0x1.62e4p-1f
#define CAKE_EXP_LN2LO 0x1.7f7d1cp-20f
#define CAKE_EXP_C2    0x1.fffffcp-2f
#define CAKE_EXP_C3    0x1.555492p-3f
#define CAKE_EXP_C4    0x1.555250p-5f
#define CAKE_EXP_C5    0x1.122fa0p-7f
#define CAKE_EXP_C6    0x1.705520p-10f

/* e^x, error below 1.01 ulp, subnormal results included; overflow gives infinity. */
static inline float cake_expf(float x) {
    x = CAKE_EXP_HI < x ? CAKE_EXP_HI : x;
    x = CAKE_EXP_LO > x ? CAKE_EXP_LO : x;
    float t = __builtin_fmaf(x, CAKE_EXP_LOG2E, CAKE_EXP_MAGIC);
    float n = t - CAKE_EXP_MAGIC;
    float r = __builtin_fmaf(n, -CAKE_EXP_LN2HI, x);
    r = __builtin_fmaf(n, -CAKE_EXP_LN2LO, r);
    float p = __builtin_fmaf(CAKE_EXP_C6, r, CAKE_EXP_C5);
    p = __builtin_fmaf(p, r, CAKE_EXP_C4);
    p = __builtin_fmaf(p, r, CAKE_EXP_C3);
    p = __builtin_fmaf(p, r, CAKE_EXP_C2);
    p = __builtin_fmaf(p, r, 1.0f);
    p = __builtin_fmaf(p, r, 1.0f);
    /* 2^n in two factors, so that results below the normal range round once */
    int32_t i = (int32_t)(cake_f32_bits(t) - cake_f32_bits(CAKE_EXP_MAGIC));
    int32_t h = i >> 1;
    float a = cake_f32_from_bits((uint32_t)(h + 127) << 23);
    float b = cake_f32_from_bits((uint32_t)(i - h + 127) << 23);
    return p * a * b;
}

/* 2^x for x <= 0, for weights of a softmax over scores in units of ln 2: three steps fewer than
 * e^x. x = n + r exactly, then a minimax polynomial of degree 6 with its constant term pinned to 1.
 */
#define CAKE_EXP2_LO (-152.0f) /* 2^x rounds to 0 from here down */
#define CAKE_EXP2_C1 0x1.62e430p-1f
#define CAKE_EXP2_C2 0x1.ebfbdcp-3f
#define CAKE_EXP2_C3 0x1.c6af7ap-5f
#define CAKE_EXP2_C4 0x1.3b2dd2p-7f
#define CAKE_EXP2_C5 0x1.5f0946p-10f
#define CAKE_EXP2_C6 0x1.417a5cp-13f

/* Error below 1.01 ulp, subnormal results included. x > 0 is not allowed. */
static inline float cake_exp2_negf(float x) {
    x = CAKE_EXP2_LO > x ? CAKE_EXP2_LO : x;
    float t = x + CAKE_EXP_MAGIC;
    float r = x - (t - CAKE_EXP_MAGIC);
    float p = __builtin_fmaf(CAKE_EXP2_C6, r, CAKE_EXP2_C5);
    p = __builtin_fmaf(p, r, CAKE_EXP2_C4);
    p = __builtin_fmaf(p, r, CAKE_EXP2_C3);
    p = __builtin_fmaf(p, r, CAKE_EXP2_C2);
    p = __builtin_fmaf(p, r, CAKE_EXP2_C1);
    p = __builtin_fmaf(p, r, 1.0f);
    int32_t i = (int32_t)(cake_f32_bits(t) - cake_f32_bits(CAKE_EXP_MAGIC));
    int32_t h = i >> 1; /* two factors, as above */
    float a = cake_f32_from_bits((uint32_t)(h + 127) << 23);
    float b = cake_f32_from_bits((uint32_t)(i - h + 127) << 23);
    return p * a * b;
}

/* 1 / (1 + e^-x) and x / (1 + e^-x). */
static inline float cake_sigmoidf(float x) {
    return 1.0f / (1.0f + cake_expf(-x));
}
static inline float cake_siluf(float x) {
    return x / (1.0f + cake_expf(-x));
}

/* Natural logarithm, correctly rounded but for rare cases (< 0.501 ulp); 0 gives -infinity,
 * negative numbers NaN. For samplers. */
float cake_logf(float x);

/* log(1 + e^x) for the gates of delta nets. */
float cake_softplusf(float x);

/* Double precision, for tables computed once (rope): error below 1 ulp, pow below 2 ulp.
 * cake_sin and cake_cos: |x| <= 2^32, else NaN. cake_pow: x > 0. cake_log: 0 gives -infinity. */
double cake_exp(double x);
double cake_log(double x);
double cake_pow(double x, double y);
double cake_sin(double x);
double cake_cos(double x);

#endif
