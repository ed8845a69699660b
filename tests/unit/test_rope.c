/* Double-precision functions against long double libm; rope tables against formats.md 7.1 and
 * direct evaluation; the rotation against its formula, the same bits for every ISA. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/math.h"
#include "kernels/rope.h"
#include "kernels/vec.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rng = 88172645463325252u;
static double uniform(void) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (double)(rng >> 11) * 0x1p-53;
}

static double ulps(double got, long double want) {
    int e;
    frexpl(want, &e);
    if (e < -1021) e = -1021;
    return (double)(fabsl((long double)got - want) / ldexpl(1.0L, e - 53));
}

static double worse(double worst, double err) {
    return !(err <= worst) ? err : worst;
}

static void functions(void **state) {
    (void)state;
    double e_exp = 0, e_log = 0, e_pow = 0, e_sin = 0, e_cos = 0, e_logf = 0, e_sp = 0;
    for (int i = 0; i < 300000; i++) {
        double x = (uniform() - 0.5) * 1400;
        if (x > 709) x = 709;
        e_exp = worse(e_exp, ulps(cake_exp(x), expl((long double)x)));
        x = (uniform() - 0.5) * 4;
        e_exp = worse(e_exp, ulps(cake_exp(x), expl((long double)x)));
        x = exp((uniform() - 0.5) * 1400);
        if (isfinite(x) && x > 0) e_log = worse(e_log, ulps(cake_log(x), logl((long double)x)));
        x = 0.5 + uniform() * 1.5;
        e_log = worse(e_log, ulps(cake_log(x), logl((long double)x)));
        x = exp(uniform() * 20);
        double y = (uniform() - 0.3) * 4;
        e_pow = worse(e_pow, ulps(cake_pow(x, y), powl((long double)x, (long double)y)));
        x = (uniform() - 0.5) * ldexp(1, (int)(uniform() * 33));
        e_sin = worse(e_sin, ulps(cake_sin(x), sinl((long double)x)));
        e_cos = worse(e_cos, ulps(cake_cos(x), cosl((long double)x)));
        float f = (float)exp((uniform() - 0.5) * 170);
        double l = log((double)f);
        e_logf = worse(e_logf, fabs((double)cake_logf(f) - l) / (fabs(l) * 0x1p-23 + 1e-300));
        f = (float)((uniform() - 0.5) * 160);
        l = log1p(exp((double)f));
        e_sp = worse(e_sp, fabs((double)cake_softplusf(f) - l) / (fabs(l) * 0x1p-23 + 1e-300));
    }
    /* multiples of pi/2, where the reduction cancels most */
    for (int i = 1; i < 20000; i++) {
        double x = i * 1.5707963267948966;
        e_sin = worse(e_sin, ulps(cake_sin(x), sinl((long double)x)));
        e_cos = worse(e_cos, ulps(cake_cos(x), cosl((long double)x)));
    }
    print_message("ulps: exp %.3f log %.3f pow %.3f sin %.3f cos %.3f logf %.3f softplusf %.3f\n",
                  e_exp, e_log, e_pow, e_sin, e_cos, e_logf, e_sp);
    assert_true(e_exp < 1.0 && e_log < 1.0 && e_pow < 2.0 && e_sin < 1.0 && e_cos < 1.0);
    assert_true(e_logf < 1.0 && e_sp < 1.0);
    assert_true(cake_log(0) == -INFINITY && isnan(cake_log(-1)) && isnan(cake_log(NAN)));
    assert_true(cake_log(1) == 0 && cake_exp(0) == 1 && isinf(cake_exp(1e4)) &&
                cake_exp(-1e4) == 0);
    assert_true(isnan(cake_exp(NAN)) && isnan(cake_sin(INFINITY)) && isnan(cake_cos(NAN)));
    assert_true(cake_sin(0) == 0 && cake_cos(0) == 1 && cake_pow(7, 0) == 1 &&
                cake_pow(10, 1) == 10);
    assert_true(isnan(cake_pow(-1, 2)) && isinf(cake_pow(10, 1e300)) && cake_pow(10, -1e300) == 0);
    assert_true(cake_logf(0) == -INFINITY && cake_logf(1) == 0 && isnan(cake_logf(-1)));
    assert_true(isnan(cake_softplusf(NAN)) && cake_softplusf(-200) == 0 &&
                cake_softplusf(50) == 50);
}

#define NEAR(a, b, rel) assert_true(fabs((a) - (b)) <= (rel)*fabs(b))

static void check_values(void **state) {
    (void)state;
    cake_rope r;
    cake_rope_spec l3 = {.type = CAKE_ROPE_LLAMA3,
                         .dims = 64,
                         .base = 500000,
                         .factor = 32,
                         .low_freq = 1,
                         .high_freq = 4,
                         .orig_max_pos = 8192};
    assert_true(cake_rope_init(&r, &l3));
    assert_int_equal(r.n_freq, 32);
    NEAR(r.inv_freq[14], 3.2114460e-3, 5e-8);
    NEAR(r.inv_freq[15], 1.2905479e-3, 5e-8);
    NEAR(r.inv_freq[16], 4.2955680e-4, 5e-8);
    NEAR(r.inv_freq[17], 9.7082878e-5, 5e-8);
    NEAR(r.inv_freq[18], 1.9461638e-5, 5e-8);
    NEAR(r.inv_freq[31], 9.4183067e-8, 5e-8);
    assert_true(r.mscale == 1 && r.inv_freq[0] == 1);

    cake_rope_spec yarn = {
        .type = CAKE_ROPE_YARN, .dims = 128, .base = 1e6, .factor = 4, .orig_max_pos = 32768};
    assert_true(cake_rope_init(&r, &yarn));
    NEAR(r.inv_freq[30], 1.0643610e-3, 5e-8);
    NEAR(r.inv_freq[40], 4.4456985e-5, 5e-8);
    NEAR(r.mscale, 1.13862944, 5e-9);
    NEAR(r.inv_freq[23], pow(1e6, -46 / 128.0), 1e-14); /* lo: unchanged; beyond hi: divided */
    NEAR(r.inv_freq[41], pow(1e6, -82 / 128.0) / 4, 1e-14);
    yarn.mscale_all_dim = 1;
    assert_true(cake_rope_init(&r, &yarn) && r.mscale == 1);
    yarn.attention_factor = 1.5;
    assert_true(cake_rope_init(&r, &yarn) && r.mscale == 1.5);

    cake_rope_spec lin = {.type = CAKE_ROPE_LINEAR, .dims = 256, .base = 1e6, .factor = 8};
    assert_true(cake_rope_init(&r, &lin));
    for (uint32_t i = 0; i < 128; i++)
        NEAR(r.inv_freq[i], (double)(powl(1e6L, -(long double)i / 128) / 8), 4e-16);

    /* dims 4, base 10000, position 1, x = 1 2 3 4; one element beyond passes through */
    cake_rope_spec d = {.dims = 4, .base = 10000};
    float c[2], s[2], x[5] = {1, 2, 3, 4, 9}, adj[4] = {1, 3, 2, 4};
    assert_true(cake_rope_init(&r, &d));
    cake_rope_angles(&r, 1, c, s);
    cake_rope_apply(x, 1, 5, 4, c, s);
    static const double want[4] = {-1.98411, 1.95990, 2.46238, 4.01980};
    for (int i = 0; i < 4; i++) assert_true(fabs((double)x[i] - want[i]) < 6e-6);
    assert_true(x[4] == 9);
    cake_rope_apply_adjacent(adj, 1, 4, 4, c, s); /* pairs (1,3), (2,4), as above */
    assert_true(adj[0] == x[0] && adj[1] == x[2] && adj[2] == x[1] && adj[3] == x[3]);
}

static void refusals(void **state) {
    (void)state;
    cake_rope r;
    memset(&r, 0x5a, sizeof r);
    cake_rope old = r;
    const cake_rope_spec bad[] = {
        {.type = CAKE_ROPE_DYNAMIC, .dims = 64, .base = 1e4, .factor = 2},
        {.type = CAKE_ROPE_LONGROPE, .dims = 64, .base = 1e4, .factor = 2},
        {.type = (cake_rope_type)77, .dims = 64, .base = 1e4},
        {.dims = 0, .base = 1e4},
        {.dims = 63, .base = 1e4},
        {.dims = 258, .base = 1e4},
        {.dims = 64, .base = 1},
        {.dims = 64, .base = NAN},
        {.dims = 64, .base = INFINITY},
        {.type = CAKE_ROPE_LINEAR, .dims = 64, .base = 1e4, .factor = -2},
        {.type = CAKE_ROPE_LINEAR, .dims = 64, .base = 1e4, .factor = NAN},
        {.type = CAKE_ROPE_LLAMA3,
         .dims = 64,
         .base = 1e4,
         .factor = 8,
         .low_freq = 4,
         .high_freq = 4},
        {.type = CAKE_ROPE_LLAMA3, .dims = 64, .base = 1e4, .factor = 8, .orig_max_pos = -1},
        {.type = CAKE_ROPE_YARN,
         .dims = 64,
         .base = 1e4,
         .factor = 8,
         .beta_fast = 1,
         .beta_slow = 2},
        {.type = CAKE_ROPE_YARN, .dims = 64, .base = 1e4, .factor = 8, .mscale = NAN},
        {.type = CAKE_ROPE_YARN, .dims = 64, .base = 1e4, .factor = 8, .mscale_all_dim = -1000},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(cake_rope_init(&r, &bad[i]));
        assert_memory_equal(&r, &old, sizeof r);
    }
}

static void angles(void **state) {
    (void)state;
    cake_rope r;
    cake_rope_spec sp = {
        .type = CAKE_ROPE_YARN, .dims = 128, .base = 1e6, .factor = 4, .orig_max_pos = 32768};
    static const uint32_t pos[] = {0, 1, 2, 63, 64, 4095, 131071, 1000003, 0x7fffffff, 0xffffffff};
    float c[64], s[64];
    assert_true(cake_rope_init(&r, &sp));
    for (size_t p = 0; p < sizeof pos / sizeof *pos; p++) {
        cake_rope_angles(&r, pos[p], c, s);
        for (uint32_t i = 0; i < 64; i++) {
            /* the angle rounds once to double: up to 2^-53 |a|, at 2^32 about 2^-21 */
            long double a = (long double)pos[p] * (long double)r.inv_freq[i];
            long double tol = fabsl(a) * 0x1p-53L + 1e-15L;
            long double wc = cosl(a) * (long double)r.mscale, ws = sinl(a) * (long double)r.mscale;
            assert_true(fabsl(c[i] - wc) <= tol * 1.2L + fabsl(wc) * 0x1p-24L);
            assert_true(fabsl(s[i] - ws) <= tol * 1.2L + fabsl(ws) * 0x1p-24L);
        }
    }
}

static void rotation(void **state) {
    (void)state;
    static const uint32_t shape[][3] = {/* heads, head_dim, rot_dims */
                                        {1, 8, 2},     {2, 8, 8},   {3, 16, 16},  {5, 64, 64},
                                        {3, 80, 80},   {2, 96, 24}, {4, 128, 96}, {2, 256, 64},
                                        {3, 256, 256}, {1, 34, 34}};
    for (size_t t = 0; t < sizeof shape / sizeof *shape; t++) {
        uint32_t nh = shape[t][0], hd = shape[t][1], rd = shape[t][2], h = rd / 2;
        cake_rope r;
        cake_rope_spec sp = {.dims = rd, .base = 10000};
        assert_true(cake_rope_init(&r, &sp));
        float *c = malloc(h * 4), *s = malloc(h * 4);
        cake_rope_angles(&r, 12345, c, s);
        size_t n = (size_t)nh * hd;
        float *x = malloc(n * 4), *y = malloc(n * 4), *z = malloc(n * 4 + 4);
        for (size_t i = 0; i < n; i++) x[i] = (float)(uniform() * 4 - 2);
        memcpy(y, x, n * 4);
        cake_vec_for(CAKE_ISA_SCALAR)->rope(y, nh, hd, rd, c, s);
        for (uint32_t k = 0; k < nh; k++)
            for (uint32_t i = 0; i < hd; i++) {
                float a = x[k * hd + i % (h ? hd : 1)], want = a;
                if (i < h)
                    want = fmaf(a, c[i], -(x[k * hd + i + h] * s[i]));
                else if (i < rd)
                    want = fmaf(a, c[i - h], x[k * hd + i - h] * s[i - h]);
                assert_memory_equal(&y[k * hd + i], &want, 4);
            }
        for (int isa = 1; isa < CAKE_ISA_COUNT; isa++) {
            if (!cake_cpu_has((cake_isa)isa)) continue;
            memcpy(z + 1, x, n * 4);
            cake_vec_for((cake_isa)isa)->rope(z + 1, nh, hd, rd, c, s);
            assert_memory_equal(z + 1, y, n * 4);
        }
        free(c), free(s), free(x), free(y), free(z);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions), cmocka_unit_test(check_values), cmocka_unit_test(refusals),
        cmocka_unit_test(angles),    cmocka_unit_test(rotation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
