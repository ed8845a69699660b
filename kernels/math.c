/* Elementary functions in double and the scalar f32 ones built on them: see math.h.
 *
 * Reductions keep a few extra bits by fma (products split exactly into high and low parts); the
 * series are plain Taylor sums, long enough that truncation is below 2^-60. Speed does not matter
 * here. */
#include "kernels/math.h"

#define fma(a, b, c) __builtin_fma(a, b, c)

static uint64_t f64_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double f64_from_bits(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Adding it rounds a double below 2^51 in magnitude to an integer, left in the low bits. */
#define MAGIC 0x1.8p52

static const double LN2_HI = 0x1.62e42fefap-1; /* 33 bits: k * LN2_HI is exact for |k| < 2^20 */
static const double LN2_LO = 0x1.cf79abc9e3b3ap-40;

/* e^(hi + lo) with |lo| far below an ulp of hi. */
static double exp_pair(double hi, double lo) {
    if (!(hi == hi)) return hi;
    if (hi > 710.0) return f64_from_bits(0x7ff0000000000000u);
    if (hi < -746.0) return 0.0;
    double n = fma(hi, 0x1.71547652b82fep0, MAGIC) - MAGIC;
    double r = fma(n, -LN2_HI, hi);
    r = r + fma(n, -LN2_LO, lo);
    /* (e^r - 1 - r) / r^2, |r| <= 0.35: 1/2! + r/3! + ... + r^13/15! */
    double p = 1.0 / 1307674368000.0;
    p = fma(p, r, 1.0 / 87178291200.0);
    p = fma(p, r, 1.0 / 6227020800.0);
    p = fma(p, r, 1.0 / 479001600.0);
    p = fma(p, r, 1.0 / 39916800.0);
    p = fma(p, r, 1.0 / 3628800.0);
    p = fma(p, r, 1.0 / 362880.0);
    p = fma(p, r, 1.0 / 40320.0);
    p = fma(p, r, 1.0 / 5040.0);
    p = fma(p, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    double e = 1.0 + fma(p, r * r, r);
    int64_t i = (int64_t)n, h = i / 2; /* two factors: a subnormal result rounds once */
    return e * f64_from_bits((uint64_t)(h + 1023) << 52) *
           f64_from_bits((uint64_t)(i - h + 1023) << 52);
}

/* log(x) as hi + lo for finite x > 0; the pair is good to about 2^-62 relative. */
static double log_pair(double x, double *lo) {
    int64_t k = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        k = -54;
    }
    uint64_t u = f64_bits(x);
    k += (int64_t)(u >> 52) - 1023;
    double m = f64_from_bits((u & 0xfffffffffffffu) | 0x3ff0000000000000u);
    if (m > 0x1.6a09e667f3bcdp0) { /* m in [sqrt(1/2), sqrt(2)] */
        m *= 0.5;
        k++;
    }
    /* s = (m - 1) / (m + 1) = sh + sl; log m = 2 (s + s^3/3 + s^5/5 + ...), |s| <= 0.172 */
    double num = m - 1.0; /* exact */
    double den = m + 1.0; /* may round: */
    double den_lo = m - (den - 1.0);
    double sh = num / den;
    double sl = (fma(-sh, den, num) - sh * den_lo) / den;
    double z = sh * sh;
    double p = 1.0 / 27.0;
    p = fma(p, z, 1.0 / 25.0);
    p = fma(p, z, 1.0 / 23.0);
    p = fma(p, z, 1.0 / 21.0);
    p = fma(p, z, 1.0 / 19.0);
    p = fma(p, z, 1.0 / 17.0);
    p = fma(p, z, 1.0 / 15.0);
    p = fma(p, z, 1.0 / 13.0);
    p = fma(p, z, 1.0 / 11.0);
    p = fma(p, z, 1.0 / 9.0);
    p = fma(p, z, 1.0 / 7.0);
    p = fma(p, z, 1.0 / 5.0);
    p = fma(p, z, 1.0 / 3.0);
    double tail = fma(2.0 * sh * z, p, 2.0 * sl);
    /* k ln2 + 2 sh + tail; k LN2_HI is exact and, unless k is 0, the larger */
    double kd = (double)k, big = kd * LN2_HI, s2 = 2.0 * sh;
    double a = big + s2;
    double b = k ? s2 - (a - big) : 0.0;
    tail = tail + fma(kd, LN2_LO, b);
    double hi = a + tail;
    *lo = tail - (hi - a);
    return hi;
}

double cake_exp(double x) {
    return exp_pair(x, 0.0);
}

double cake_log(double x) {
    if (!(x > 0.0)) return x == 0.0 ? -1.0 / 0.0 : 0.0 / 0.0;
    if (x > 0x1.fffffffffffffp1023) return x;
    double lo;
    return log_pair(x, &lo);
}

double cake_pow(double x, double y) {
    if (!(x > 0.0) || !(x <= 0x1.fffffffffffffp1023) || !(y == y)) return 0.0 / 0.0;
    double lo, hi = log_pair(x, &lo);
    double p = y * hi;
    if (p > 800.0) p = 800.0;
    if (p < -800.0) p = -800.0;
    double e = fma(y, hi, -p);
    if (!(e < 1.0 && e > -1.0)) e = 0.0; /* clamped above */
    return exp_pair(p, fma(y, lo, e));
}

/* x mod pi/2 into r in about [-pi/4, pi/4]; returns the quadrant. |x| <= 2^32. */
static int reduce_quarter(double x, double *r, double *lo) {
    double n = fma(x, 0x1.45f306dc9c883p-1, MAGIC) - MAGIC;
    double a =
        fma(n, -0x1.921fb54442d18p0, x); /* exact: both are multiples of 2^-52, the result small */
    double t = n * 0x1.1a62633145c07p-54;
    double e = fma(n, 0x1.1a62633145c07p-54, -t);
    double b = a - t, u = b - a; /* Knuth's sum of a and -t: exact whichever is larger */
    double c = ((a - (b - u)) - (t + u)) - e;
    c = fma(n, 0x1.f1976b7ed8fbcp-110, c);
    *r = b + c; /* b may be as small as c where x is near a multiple of pi/2 */
    *lo = (b - *r) + c;
    return (int)((int64_t)n & 3);
}

/* sin(r + lo), cos(r + lo) for |r| <= 0.8 */
static double sin_poly(double r, double lo) {
    double z = r * r;
    double p = -1.0 / 121645100408832000.0;
    p = fma(p, z, 1.0 / 355687428096000.0);
    p = fma(p, z, -1.0 / 1307674368000.0);
    p = fma(p, z, 1.0 / 6227020800.0);
    p = fma(p, z, -1.0 / 39916800.0);
    p = fma(p, z, 1.0 / 362880.0);
    p = fma(p, z, -1.0 / 5040.0);
    p = fma(p, z, 1.0 / 120.0);
    p = fma(p, z, -1.0 / 6.0);
    return r + fma(p, z * r, fma(-0.5 * z, lo, lo));
}

static double cos_poly(double r, double lo) {
    double z = r * r;
    double p = 1.0 / 2432902008176640000.0;
    p = fma(p, z, -1.0 / 6402373705728000.0);
    p = fma(p, z, 1.0 / 20922789888000.0);
    p = fma(p, z, -1.0 / 87178291200.0);
    p = fma(p, z, 1.0 / 479001600.0);
    p = fma(p, z, -1.0 / 3628800.0);
    p = fma(p, z, 1.0 / 40320.0);
    p = fma(p, z, -1.0 / 720.0);
    p = fma(p, z, 1.0 / 24.0);
    double h = 0.5 * z, w = 1.0 - h;
    return w + (((1.0 - w) - h) + fma(z * z, p, -r * lo));
}

double cake_sin(double x) {
    if (!(x <= 0x1p32 && x >= -0x1p32)) return 0.0 / 0.0;
    double r, lo;
    int q = reduce_quarter(x, &r, &lo);
    double y = q & 1 ? cos_poly(r, lo) : sin_poly(r, lo);
    return q & 2 ? -y : y;
}

double cake_cos(double x) {
    if (!(x <= 0x1p32 && x >= -0x1p32)) return 0.0 / 0.0;
    double r, lo;
    int q = reduce_quarter(x, &r, &lo);
    double y = q & 1 ? sin_poly(r, lo) : cos_poly(r, lo);
    return (q + 1) & 2 ? -y : y;
}

float cake_logf(float x) {
    return (float)cake_log((double)x);
}

float cake_softplusf(float x) {
    if (x > 30.0f) return x;
    double e = cake_exp((double)x);
    if (e < 1e-9) return (float)(e - 0.5 * e * e);
    return (float)cake_log(1.0 + e);
}
