/* Row operations: every ISA against the scalar one bit for bit, and the scalar one against double
 * arithmetic with derived bounds. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/math.h"
#include "kernels/vec.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t sizes[] = {0,  1,  2,  3,  7,  8,  9,  15,  16,  17,  31,  32,   33,
                               47, 48, 49, 63, 64, 65, 80, 127, 128, 257, 896, 1000, 4096};
enum { N_SIZES = sizeof sizes / sizeof *sizes, MAX_N = 4096, PAD = 8 };

static uint64_t rng = 88172645463325252u;
static uint32_t rnd_u32(void) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (uint32_t)(rng >> 32);
}
static float rnd(float range) {
    return ((float)(rnd_u32() >> 8) * 0x1p-23f - 1.0f) * range;
}

static double ulp_of(double x) { /* of the f32 numbers around x */
    int e;
    frexp(x, &e);
    return ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

/* An exact-size heap array whose start is `shift` floats past an alignment boundary, between
 * canaries. */
typedef struct {
    float *all, *x;
    size_t n;
} arr;
static arr arr_new(size_t n, size_t shift, float range) {
    arr a = {.n = n};
    a.all = malloc((n + shift + 2 * PAD) * sizeof(float));
    a.x = a.all + PAD + shift;
    for (size_t i = 0; i < n + shift + 2 * PAD; i++) a.all[i] = NAN;
    for (size_t i = 0; i < n; i++) a.x[i] = range == 0 ? NAN : rnd(range);
    return a;
}
static void arr_free(arr a) {
    for (size_t i = 0; i < PAD; i++) assert_true(isnan(a.x[a.n + i]) && isnan(a.x[-1 - (int)i]));
    free(a.all);
}

/* One call of operation `op` by one table: y from a, b. Reductions leave their result in y[0]. */
enum {
    RMSNORM,
    RMSNORM1,
    ADD,
    AXPY,
    SCALE,
    SWIGLU,
    GEGLU,
    SIGMOID,
    SILU,
    SOFTCAP,
    EXP,
    DOT,
    MAX,
    SOFTMAX,
    N_OPS
};
static void run(const cake_vec_kern *k, int op, float *y, const float *a, const float *b,
                size_t n) {
    switch (op) {
    case RMSNORM: k->rmsnorm(y, a, b, n, 1e-5f); break;
    case RMSNORM1: k->rmsnorm(y, a, NULL, n, 1e-6f); break;
    case ADD: k->add(y, a, b, n); break;
    case AXPY:
        memcpy(y, b, n * sizeof *y);
        k->axpy(y, 1.7f, a, n);
        break;
    case SCALE: k->scale(y, -0.3f, a, n); break;
    case SWIGLU: k->swiglu(y, a, b, n); break;
    case GEGLU: k->geglu(y, a, b, n); break;
    case SIGMOID: k->sigmoid_mul(y, a, b, n); break;
    case SILU: k->silu(y, a, n); break;
    case SOFTCAP: k->softcap(y, a, n, 5.0f); break;
    case EXP: k->exp(y, a, n); break;
    case DOT:
        memset(y, 0, n * sizeof *y);
        if (n) y[0] = k->dot(a, b, n);
        break;
    case MAX:
        memset(y, 0, n * sizeof *y);
        if (n) y[0] = k->max(a, n);
        break;
    case SOFTMAX:
        memcpy(y, a, n * sizeof *y);
        k->softmax(y, n);
        break;
    }
}

static void same_bits(void **state) {
    (void)state;
    const cake_vec_kern *scalar = cake_vec_for(CAKE_ISA_SCALAR);
    for (int op = 0; op < N_OPS; op++)
        for (size_t s = 0; s < N_SIZES; s++)
            for (size_t shift = 0; shift < 3; shift++) {
                size_t n = sizes[s];
                arr a = arr_new(n, shift, shift == 1 ? 90.0f : 6.0f),
                    b = arr_new(n, shift + 1, 2.0f);
                arr want = arr_new(n, 0, 0);
                run(scalar, op, want.x, a.x, b.x, n);
                for (size_t i = 0; i < n; i++) assert_false(isnan(want.x[i]));
                for (int isa = 1; isa < CAKE_ISA_COUNT; isa++) {
                    if (!cake_cpu_has((cake_isa)isa)) continue;
                    arr got = arr_new(n, shift, 0);
                    run(cake_vec_for((cake_isa)isa), op, got.x, a.x, b.x, n);
                    if (memcmp(got.x, want.x, n * sizeof(float)) != 0) {
                        fprintf(stderr, "op %d n %zu %s\n", op, n, cake_isa_name((cake_isa)isa));
                        fail();
                    }
                    arr_free(got);
                }
                /* in place */
                if (op != AXPY) {
                    arr in = arr_new(n, shift, 0);
                    memcpy(in.x, a.x, n * sizeof(float));
                    const cake_vec_kern *k = cake_vec_for(cake_cpu_isa());
                    if (op != DOT && op != MAX && op != SOFTMAX) {
                        run(k, op, in.x, in.x, b.x, n);
                        assert_memory_equal(in.x, want.x, n * sizeof(float));
                    }
                    arr_free(in);
                }
                arr_free(a), arr_free(b), arr_free(want);
            }
}

static double silu_d(double x) {
    return x / (1 + exp(-x));
}
static double gelu_d(double x) {
    return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
}

static void accuracy(void **state) {
    (void)state;
    float a[1000], b[1000], y[1000];
    const size_t n = 1000;
    double eps = FLT_EPSILON / 2;
    for (size_t i = 0; i < n; i++) a[i] = rnd(8), b[i] = rnd(3);
    double ss = 0, dot = 0, mag = 0, sum = 0, max = -1e9;
    for (size_t i = 0; i < n; i++) {
        ss += (double)a[i] * a[i];
        dot += (double)a[i] * b[i], mag += fabs((double)a[i] * b[i]);
        max = a[i] > max ? a[i] : max;
    }
    for (size_t i = 0; i < n; i++) sum += exp(a[i] - max);
    double chain = (double)(n / 16) + 1 + 4,
           dn = (double)n; /* roundings on the way of one term into a sum */
    /* half the sum's relative error, then division, addition, root, reciprocal, two products */
    double r = 1 / sqrt(ss / dn + 1e-5);
    cake_rmsnorm(y, a, b, n, 1e-5f);
    for (size_t i = 0; i < n; i++) {
        double want = a[i] * r * b[i];
        assert_true(fabs(y[i] - want) <= eps * (chain / 2 + 6) * fabs(want));
    }
    assert_true(fabs(cake_dot(a, b, n) - dot) <= eps * chain * mag);
    memcpy(y, a, sizeof a);
    cake_softmax(y, n);
    for (size_t i = 0; i < n; i++) {
        double want =
            exp(a[i] - max) / sum; /* x - max rounds: relative error of exp |x - max| eps */
        assert_true(fabs(y[i] - want) <= eps * (chain + 16 + 16 + 6) * want);
    }
    cake_swiglu(y, a, b, n);
    for (size_t i = 0; i < n; i++) {
        double want = silu_d(a[i]) * b[i];
        assert_true(fabs(y[i] - want) <= eps * 6 * fabs(want));
    }
    cake_silu(y, a, n);
    for (size_t i = 0; i < n; i++)
        assert_true(fabs(y[i] - silu_d(a[i])) <= eps * 5 * fabs(silu_d(a[i])));
    cake_geglu(y, a, b, n);
    for (size_t i = 0; i < n; i++) {
        /* the exponent 2u carries 4 roundings, which e^-2u turns into a relative error of 2u * 4
         * eps */
        double x = a[i], u = 0.79788456080286536 * (x + 0.044715 * x * x * x);
        double want = gelu_d(x) * b[i], s = 1 / (1 + exp(-2 * u));
        double exact = x * s * b[i]; /* tanh cancels for x << 0, this does not */
        assert_true(fabs(exact - want) <= 1e-15 * fabs(x * b[i]));
        assert_true(fabs(y[i] - exact) <= eps * (6 + 8 * fabs(u)) * fabs(exact) + 1e-44);
    }
    cake_sigmoid_mul(y, a, b, n);
    for (size_t i = 0; i < n; i++) {
        double want = b[i] / (1 + exp(-(double)a[i]));
        assert_true(fabs(y[i] - want) <= eps * 6 * fabs(want));
    }
    memcpy(y, b, sizeof b);
    cake_axpy(y, 0.3f, a, n);
    for (size_t i = 0; i < n; i++) assert_true(y[i] == fmaf(0.3f, a[i], b[i]));
    cake_add(y, a, b, n);
    for (size_t i = 0; i < n; i++) assert_true(y[i] == a[i] + b[i]);
    cake_scale(y, 0.3f, a, n);
    for (size_t i = 0; i < n; i++) assert_true(y[i] == 0.3f * a[i]);
    cake_rmsnorm(y, a, NULL, 1, 0.0f);
    assert_true(fabsf(y[0]) == 1.0f || fabsf(fabsf(y[0]) - 1) < 2e-7f);
}

/* The order of a sum is part of the contract: lane i mod 16, then the tree. */
static void order_of_sums(void **state) {
    (void)state;
    float a[77], one[77];
    for (size_t i = 0; i < 77; i++) a[i] = rnd(1) * powf(10, rnd(4)), one[i] = 1;
    float lane[16] = {0};
    for (size_t i = 0; i < 77; i++) lane[i % 16] += a[i];
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) lane[i] += lane[i + w];
    for (int isa = 0; isa < CAKE_ISA_COUNT; isa++)
        if (cake_cpu_has((cake_isa)isa))
            assert_true(cake_vec_for((cake_isa)isa)->dot(a, one, 77) == lane[0]);
}

/* Exponentials over every 61st float: vectors equal the scalar one, which is within 1.01 ulp. */
static void exponential(void **state) {
    (void)state;
    enum { N = 1 << 12 };
    static float x[N], y[N], want[N];
    double worst = 0;
    uint32_t u = 0;
    for (int more = 1; more;) {
        for (size_t i = 0; i < N; i++) {
            x[i] = cake_f32_from_bits(u);
            if (u > 0xffffffffu - 6101) more = 0;
            u += more ? 6101 : 0;
        }
        for (size_t i = 0; i < N; i++) {
            want[i] = cake_expf(x[i]);
            double e = exp((double)x[i]);
            if (isnan(x[i])) {
                assert_true(isnan(want[i]));
            } else if (e >= 0x1.ffffffp127) {
                assert_true(isinf(want[i]));
            } else {
                double err = fabs(want[i] - e) / ulp_of(e);
                worst = err > worst ? err : worst;
            }
        }
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
            if (!cake_cpu_has((cake_isa)isa)) continue;
            cake_vec_for((cake_isa)isa)->exp(y, x, N);
            for (size_t i = 0; i < N; i++)
                if (!isnan(x[i]))
                    assert_memory_equal(&y[i], &want[i], 4);
                else
                    assert_true(isnan(y[i]));
        }
    }
    print_message("exp: worst error %.3f ulp\n", worst);
    assert_true(worst < 1.01);
    assert_true(cake_expf(0.0f) == 1.0f && cake_expf(-0.0f) == 1.0f);
    assert_true(cake_expf(-INFINITY) == 0.0f && isinf(cake_expf(INFINITY)));
    assert_true(cake_expf(-104.0f) == 0.0f && cake_expf(-103.0f) == 0x1p-149f);
}

/* The same for powers of two of what is not positive, and NaN. */
static void exponential2(void **state) {
    (void)state;
    enum { N = 1 << 12 };
    static float x[N], y[N], want[N];
    double worst = 0;
    uint32_t u = 0x80000000u;
    for (int more = 1; more;) {
        for (size_t i = 0; i < N; i++) {
            x[i] = cake_f32_from_bits(u);
            if (u > 0xffffffffu - 6101) more = 0;
            u += more ? 6101 : 0;
            want[i] = cake_exp2_negf(x[i]);
            if (isnan(x[i])) {
                assert_true(isnan(want[i]));
                continue;
            }
            double e = exp2((double)x[i]), err = fabs(want[i] - e) / ulp_of(e);
            worst = err > worst ? err : worst;
        }
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
            if (!cake_cpu_has((cake_isa)isa)) continue;
            cake_vec_for((cake_isa)isa)->exp2_neg(y, x, N);
            for (size_t i = 0; i < N; i++)
                if (!isnan(x[i]))
                    assert_memory_equal(&y[i], &want[i], 4);
                else
                    assert_true(isnan(y[i]));
        }
    }
    print_message("exp2: worst error %.3f ulp\n", worst);
    assert_true(worst < 1.01);
    assert_true(cake_exp2_negf(0.0f) == 1.0f && cake_exp2_negf(-0.0f) == 1.0f);
    assert_true(cake_exp2_negf(-INFINITY) == 0.0f && cake_exp2_negf(-7.0f) == 0x1p-7f);
    assert_true(cake_exp2_negf(-150.0f) == 0.0f && cake_exp2_negf(-149.0f) == 0x1p-149f);
}

/* Soft caps over every 997th float, the largest caps and the smallest. */
static void softcap(void **state) {
    (void)state;
    enum { N = 1 << 12 };
    static float x[N], y[N];
    double worst = 0;
    uint32_t u = 0;
    for (int more = 1, round = 0; more; round++) {
        static const float caps[] = {1, 30, 50, 1e-3f};
        float cap = caps[round % 4];
        for (size_t i = 0; i < N; i++) {
            x[i] = cake_f32_from_bits(u);
            if (u > 0xffffffffu - 997) more = 0;
            u += more ? 997 : 0;
        }
        cake_softcap(y, x, N, cap);
        for (size_t i = 0; i < N; i++) {
            double want = (double)cap * tanh((double)x[i] / (double)cap);
            if (isnan(x[i])) {
                assert_true(isnan(y[i]));
                continue;
            }
            assert_true(fabsf(y[i]) <= cap);
            if (fabs(want) < 1e-35) continue; /* x / cap may be subnormal */
            double e = fabs((double)y[i] - want) / (fabs(want) * 0x1p-23);
            worst = e > worst ? e : worst;
        }
    }
    print_message("softcap: worst error %.3f * 2^-23\n", worst);
    assert_true(worst < 4);
    x[0] = 0, x[1] = -0.0f, x[2] = INFINITY, x[3] = -INFINITY;
    cake_softcap(y, x, 4, 30);
    assert_true(y[0] == 0 && signbit(y[1]) && y[1] == 0 && y[2] == 30 && y[3] == -30);
}

/* Maxima of blocks, one bad element anywhere, and sums of exponentials in f64. */
static void blocks_and_exp_sum(void **state) {
    (void)state;
    for (size_t n = 0; n < 400; n += n < 140 ? 1 : 29) {
        float x[400], y[400], want[400], block[400 / CAKE_MAX_BLOCK + 2];
        double lane[16] = {0};
        for (size_t i = 0; i < n; i++) {
            x[i] = rnd(5);
            want[i] = cake_expf((x[i] - 4.5f) / 0.7f);
            lane[i % 16] += (double)want[i];
        }
        for (int w = 8; w; w /= 2)
            for (int i = 0; i < w; i++) lane[i] += lane[i + w];
        for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
            if (!cake_cpu_has((cake_isa)isa)) continue;
            const cake_vec_kern *k = cake_vec_for((cake_isa)isa);
            int finite = 0;
            size_t n_blocks = (n + CAKE_MAX_BLOCK - 1) / CAKE_MAX_BLOCK;
            block[n_blocks] = 77;
            assert_true(k->max_blocks(block, x, n, &finite) == k->max(x, n) && finite);
            assert_true(block[n_blocks] == 77);
            for (size_t b = 0; b < n_blocks; b++) {
                size_t left = n - b * CAKE_MAX_BLOCK;
                assert_true(block[b] == k->max(x + b * CAKE_MAX_BLOCK,
                                               left < CAKE_MAX_BLOCK ? left : CAKE_MAX_BLOCK));
            }
            assert_true(k->exp_sum(y, x, n, 4.5f, 0.7f) == lane[0]);
            assert_memory_equal(y, want, n * sizeof *y);
            static const float bad[] = {NAN, INFINITY, -INFINITY};
            for (size_t i = 0; i < n; i++) {
                float old = x[i];
                x[i] = bad[i % 3];
                k->max_blocks(block, x, n, &finite);
                assert_false(finite);
                x[i] = old;
            }
        }
    }
}

static void argmax_and_max(void **state) {
    (void)state;
    for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
        if (!cake_cpu_has((cake_isa)isa)) continue;
        const cake_vec_kern *k = cake_vec_for((cake_isa)isa);
        float y[300];
        for (size_t n = 1; n < 300; n += n < 140 ? 1 : 29) {
            for (size_t i = 0; i < n; i++) y[i] = rnd(5);
            size_t best = rnd_u32() % n, again = best + rnd_u32() % (n - best);
            y[best] = y[again] = 7;
            if (best) y[best - 1] = NAN;
            if (best + 1 < n && best + 1 != again) y[best + 1] = -NAN;
            assert_int_equal(k->argmax(y, n), best);
            assert_true(k->max(y, n) == 7);
            for (size_t i = 0; i < n; i++) y[i] = NAN;
            assert_int_equal(k->argmax(y, n), 0);
            assert_true(k->max(y, n) == -INFINITY);
            y[n - 1] = -INFINITY;
            assert_int_equal(k->argmax(y, n), n - 1);
            for (size_t i = 0; i < n; i++) y[i] = i % 2 ? 0.0f : -0.0f;
            assert_int_equal(k->argmax(y, n), 0);
            y[n - 1] = INFINITY;
            assert_int_equal(k->argmax(y, n), n - 1);
        }
        assert_int_equal(k->argmax(y, 0), 0);
        assert_true(k->max(y, 0) == -INFINITY);
        float z[4] = {1, NAN, 2, 3}, w[3] = {1, INFINITY, 0};
        k->softmax(z, 4);
        k->softmax(w, 3);
        assert_true(isnan(z[0]) && isnan(z[1]) && isnan(z[3]) && isnan(w[1]));
        k->softmax(z, 0);
        k->rmsnorm(z, z, z, 0, 1e-6f);
    }
}

/* An f16 decoded by its definition. */
static double half_value(uint16_t h) {
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 0 ? ldexp(m, -24) : e == 31 ? (m ? NAN : INFINITY) : ldexp(1024 + m, e - 25);
    return h & 0x8000 ? -v : v;
}

static void halves(void **state) {
    (void)state;
    static uint16_t h[65536], back[65536];
    static float f[65536], mid[65536], above[65536];
    for (uint32_t i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    /* halfway to the next number up: must go to the even one */
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t a = (uint16_t)i, b = (uint16_t)(i + 1);
        double m = (i & 0x7fff) < 0x7bff    ? (half_value(a) + half_value(b)) / 2
                   : (i & 0x7fff) == 0x7bff ? copysign(65520, half_value(a))
                                            : 0;
        mid[i] = (float)m;
    }
    for (int isa = 0; isa < CAKE_ISA_COUNT; isa++) {
        if (!cake_cpu_has((cake_isa)isa)) continue;
        const cake_vec_kern *k = cake_vec_for((cake_isa)isa);
        k->f16_to_f32(f, h, 65536);
        k->f32_to_f16(back, f, 65536);
        for (uint32_t i = 0; i < 65536; i++) {
            if ((i & 0x7fff) > 0x7c00) { /* NaN: quiet, sign and payload kept */
                assert_int_equal(cake_f32_bits(f[i]),
                                 (i & 0x8000) << 16 | 0x7fc00000 | (i & 0x3ff) << 13);
                assert_int_equal(back[i], i | 0x200);
            } else {
                assert_true((double)f[i] == half_value((uint16_t)i));
                assert_int_equal(back[i], i);
            }
        }
        k->f32_to_f16(back, mid, 65536);
        for (uint32_t i = 0; i < 65536; i++)
            if ((i & 0x7fff) <= 0x7bff) assert_int_equal(back[i], i + (i & 1));
        for (uint32_t i = 0; i < 65536; i++) above[i] = nextafterf(mid[i], INFINITY);
        k->f32_to_f16(back, above, 65536);
        for (uint32_t i = 0; i < 65536; i++)
            if ((i & 0x7fff) <= 0x7bff) assert_int_equal(back[i], i >> 15 ? i : i + 1);
    }
}

/* Conversions of all kinds of bits: every ISA equals the scalar one, and bf16 equals its
 * definition. */
static void conversions(void **state) {
    (void)state;
    enum { N = 40000 };
    static float x[N], f[N], g[N];
    static uint16_t a[N + 1], b[N + 1];
    for (size_t i = 0; i < N; i++) {
        uint32_t u = rnd_u32();
        if (i % 5 == 0) u = (u & 0xffff0000u) | 0x8000u; /* bf16 ties */
        if (i % 7 == 0) u = (u & 0x807fffffu) | (uint32_t)(100 + u % 50) << 23;
        if (i % 11 == 0) u |= 0x7f800000u;
        x[i] = cake_f32_from_bits(u);
    }
    const cake_vec_kern *scalar = cake_vec_for(CAKE_ISA_SCALAR);
    scalar->f32_to_bf16(a, x, N);
    for (size_t i = 0; i < N; i++) {
        uint32_t u = cake_f32_bits(x[i]);
        if (isnan(x[i])) {
            assert_int_equal(a[i], (u >> 16 | 0x40u) & 0xffff);
            continue;
        }
        uint32_t low = u & 0xffff, up = low > 0x8000 || (low == 0x8000 && (u >> 16 & 1));
        assert_int_equal(a[i], ((u >> 16) + up) & 0xffff);
    }
    scalar->bf16_to_f32(f, a, N);
    for (size_t i = 0; i < N; i++) assert_int_equal(cake_f32_bits(f[i]), (uint32_t)a[i] << 16);
    for (int isa = 1; isa < CAKE_ISA_COUNT; isa++) {
        if (!cake_cpu_has((cake_isa)isa)) continue;
        const cake_vec_kern *k = cake_vec_for((cake_isa)isa);
        for (size_t n = 0; n <= N; n = n < 70 ? n + 1 : n * 9) {
            size_t m = n > N ? N : n;
            scalar->f32_to_bf16(a, x, m);
            b[m] = 0x5a5a;
            k->f32_to_bf16(b, x, m);
            assert_memory_equal(a, b, m * 2);
            assert_int_equal(b[m], 0x5a5a);
            scalar->bf16_to_f32(f, a, m);
            k->bf16_to_f32(g, a, m);
            assert_memory_equal(f, g, m * 4);
            scalar->f32_to_f16(a, x, m);
            k->f32_to_f16(b, x, m);
            assert_memory_equal(a, b, m * 2);
            assert_int_equal(b[m], 0x5a5a);
            scalar->f16_to_f32(f, a, m);
            k->f16_to_f32(g, a, m);
            assert_memory_equal(f, g, m * 4);
        }
        scalar->f32_to_f16(a, x, N);
        k->f32_to_f16(b, x, N);
        assert_memory_equal(a, b, N * 2);
        scalar->f32_to_bf16(a, x, N);
        k->f32_to_bf16(b, x, N);
        assert_memory_equal(a, b, N * 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits),     cmocka_unit_test(accuracy),
        cmocka_unit_test(order_of_sums), cmocka_unit_test(exponential),
        cmocka_unit_test(exponential2),  cmocka_unit_test(argmax_and_max),
        cmocka_unit_test(softcap),       cmocka_unit_test(blocks_and_exp_sum),
        cmocka_unit_test(halves),        cmocka_unit_test(conversions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
