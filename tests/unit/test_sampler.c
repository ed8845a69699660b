/* The sampler against a slow double-precision reference, known distributions and its promises:
 * determinism, ties, errors. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/mem.h"
#include "master/sampler/sampler.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t rng_state;
static uint32_t rnd(void) {
    rng_state = rng_state * 1664525u + 1013904223u;
    return rng_state >> 8;
}
static float rnd_logit(void) { /* roughly normal, sd 3 */
    float sum = 0;
    for (int i = 0; i < 6; i++) sum += (float)rnd() / 16777216.0f - 0.5f;
    return sum * 4.2f;
}

static cake_sampler_params off(void) {
    cake_sampler_params p;
    cake_sampler_params_default(&p);
    p.temperature = 1;
    p.top_k = 0;
    p.top_p = 1;
    p.min_p = 0;
    return p;
}

static uint32_t pick(cake_sampler *s, const float *l, uint64_t pos) {
    uint32_t t = UINT32_MAX;
    cake_error err;
    assert_int_equal(cake_sampler_pick(s, l, NULL, 0, pos, &t, &err), CAKE_OK);
    return t;
}

/* ---- reference: sort everything, doubles, libm ---- */

typedef struct {
    double logit, w;
    uint32_t id;
} ref_cand;

static int by_logit(const void *a, const void *b) {
    const ref_cand *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* prob[id] after the whole chain; *margin: how close a filter came to cutting elsewhere. */
static void reference(const cake_sampler_params *p, const float *logits, uint32_t n,
                      const uint32_t *hist, size_t n_hist, double *prob, double *margin) {
    ref_cand *c = calloc(n, sizeof *c);
    for (uint32_t i = 0; i < n; i++) c[i] = (ref_cand){.logit = logits[i], .id = i};
    for (size_t i = 0; i < p->n_logit_bias; i++)
        c[p->logit_bias[i].token].logit += p->logit_bias[i].bias;
    size_t from = n_hist > p->repeat_last_n ? n_hist - p->repeat_last_n : 0;
    for (uint32_t id = 0; id < n; id++) {
        int times = 0;
        for (size_t i = from; i < n_hist; i++) times += hist[i] == id;
        if (!times) continue;
        double l = c[id].logit;
        l = l > 0 ? l / p->repeat_penalty : l * p->repeat_penalty;
        c[id].logit = l - times * (double)p->frequency_penalty - p->presence_penalty;
    }
    qsort(c, n, sizeof *c, by_logit);
    uint32_t m = p->top_k && p->top_k < n ? p->top_k : n;
    *margin = 1;
    if (m < n) *margin = fmin(*margin, c[m - 1].logit - c[m].logit);
    double total = 0;
    for (uint32_t i = 0; i < m; i++) total += c[i].w = exp(c[i].logit - c[0].logit);
    if (p->top_p < 1) {
        double cum = 0;
        uint32_t keep = 0;
        while (keep < m && (keep == 0 || cum < p->top_p * total)) {
            cum += c[keep++].w;
            *margin = fmin(*margin, fabs(cum / total - p->top_p));
        }
        m = keep;
    }
    if (p->min_p > 0) {
        for (uint32_t i = 0; i < m; i++)
            *margin = fmin(*margin, fabs(c[i].w - p->min_p) / p->min_p);
        while (m > 1 && c[m - 1].w < p->min_p) m--;
    }
    total = 0;
    for (uint32_t i = 0; i < m; i++)
        total += c[i].w = exp((c[i].logit - c[0].logit) / p->temperature);
    memset(prob, 0, n * sizeof *prob);
    for (uint32_t i = 0; i < m; i++) prob[c[i].id] = c[i].w / total;
    free(c);
}

/* Draw `draws` tokens and hold them against the reference: nothing outside the support, chi-square
 * of the rest below mean + 6 standard deviations. */
static unsigned checked; /* how many were not too close to a filter's edge to tell */

static void check_distribution(const cake_sampler_params *p, const float *l, uint32_t n,
                               const uint32_t *hist, size_t n_hist, uint32_t draws) {
    double *prob = calloc(n, sizeof *prob), margin;
    uint32_t *seen = calloc(n, sizeof *seen);
    reference(p, l, n, hist, n_hist, prob, &margin);
    if (margin > 1e-5) {
        checked++;
        cake_sampler *s = cake_sampler_new(p, n);
        for (uint32_t d = 0; d < draws; d++) {
            uint32_t t;
            cake_error err;
            assert_int_equal(cake_sampler_pick(s, l, hist, n_hist, d, &t, &err), CAKE_OK);
            assert_true(t < n);
            seen[t]++;
        }
        double chi = 0, rest_e = 0;
        uint32_t rest = 0, cells = 0;
        for (uint32_t i = 0; i < n; i++) {
            double e = prob[i] * draws;
            if (prob[i] == 0) {
                assert_int_equal(seen[i], 0);
            } else if (e < 8) {
                rest_e += e;
                rest += seen[i];
            } else {
                chi += (seen[i] - e) * (seen[i] - e) / e;
                cells++;
            }
        }
        if (rest_e >= 8) chi += (rest - rest_e) * (rest - rest_e) / rest_e, cells++;
        double df = cells > 1 ? cells - 1 : 1;
        if (chi > df + 6 * sqrt(2 * df) + 4)
            fail_msg("chi-square %.1f for %g degrees of freedom", chi, df);
        cake_sampler_free(s);
    }
    free(prob);
    free(seen);
}

static void test_uniform(void **state) {
    (void)state;
    float l[16] = {0};
    cake_sampler_params p = off();
    for (uint64_t seed = 0; seed < 4; seed++) {
        p.seed = seed * 0x123456789abcdefu;
        check_distribution(&p, l, 16, NULL, 0, 20000);
    }
}

static void test_filters_against_reference(void **state) {
    (void)state;
    static const float temps[] = {0.3f, 0.8f, 1.0f, 2.5f}, tops[] = {1.0f, 0.95f, 0.5f, 0.05f},
                       mins[] = {0, 0.05f, 0.4f};
    static const uint32_t ks[] = {0, 1, 3, 40, 100000};
    float l[300];
    rng_state = 7;
    uint64_t seed = 0;
    checked = 0;
    for (int t = 0; t < 4; t++)
        for (int q = 0; q < 4; q++)
            for (int m = 0; m < 3; m++)
                for (int k = 0; k < 5; k++) {
                    cake_sampler_params p = off();
                    p.temperature = temps[t];
                    p.top_p = tops[q];
                    p.min_p = mins[m];
                    p.top_k = ks[k];
                    p.seed = seed++;
                    for (int i = 0; i < 300; i++) l[i] = rnd_logit();
                    check_distribution(&p, l, 300, NULL, 0, 3000);
                }
    assert_in_range(checked, 230, 240);
}

static void test_penalties_and_bias(void **state) {
    (void)state;
    float l[50];
    uint32_t hist[40];
    rng_state = 99;
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 50; i++) l[i] = rnd_logit() * 0.5f;
        for (int i = 0; i < 40; i++) hist[i] = rnd() % 50;
        cake_logit_bias bias[] = {{3, 4.0f}, {7, -100.0f}, {11, 1.5f}, {11, 0.5f}};
        cake_sampler_params p = off();
        p.seed = (uint64_t)round;
        p.repeat_penalty = round % 3 ? 1.3f : 1.0f;
        p.presence_penalty = round % 2 ? 0.7f : 0.0f;
        p.frequency_penalty = round % 4 ? 0.4f : -0.2f;
        p.repeat_last_n = round < 6 ? 10 : 64;
        p.logit_bias = bias;
        p.n_logit_bias = 4;
        check_distribution(&p, l, 50, hist, 40, 4000);
    }
}

static void test_penalty_window(void **state) {
    (void)state;
    float l[4] = {2, 1.5f, 0, 0};
    uint32_t hist[] = {0, 2, 2, 4000000000u}; /* an id beyond the vocabulary is ignored */
    cake_sampler_params p = off();
    p.temperature = 0;
    p.repeat_penalty = 2;
    const struct {
        uint32_t last_n, want;
    } cases[] = {{4, 1}, {3, 0}, {0, 0}, {CAKE_REPEAT_LAST_ALL, 1}};
    for (int i = 0; i < 4; i++) {
        p.repeat_last_n = cases[i].last_n;
        cake_sampler *s = cake_sampler_new(&p, 4);
        for (int again = 0; again < 3; again++) { /* the scratch is clean between picks */
            uint32_t t;
            assert_int_equal(cake_sampler_pick(s, l, hist, 4, 0, &t, NULL), CAKE_OK);
            assert_int_equal(t, cases[i].want);
            assert_int_equal(pick(s, l, 0), 0);
        }
        cake_sampler_free(s);
    }
    assert_true(l[0] == 2.0f && l[1] == 1.5f); /* the caller's row stays */
}

static void test_greedy_and_ties(void **state) {
    (void)state;
    cake_sampler_params p = off();
    p.temperature = 0;
    float l[200];
    for (int i = 0; i < 200; i++) l[i] = -1;
    l[150] = l[17] = l[90] = 5;
    cake_sampler *s = cake_sampler_new(&p, 200);
    assert_int_equal(pick(s, l, 3), 17);
    cake_sampler_free(s);

    /* -0 and 0 are equal */
    float z[3] = {-0.0f, 0.0f, -0.0f};
    s = cake_sampler_new(&p, 3);
    assert_int_equal(pick(s, z, 0), 0);
    cake_sampler_free(s);

    /* top_k cuts a tie by id: of 200 equal logits only ids 0..4 remain; likewise top_p */
    for (int i = 0; i < 200; i++) l[i] = i % 2 ? 0.0f : -0.0f;
    for (int mode = 0; mode < 2; mode++) {
        p = off();
        if (mode == 0)
            p.top_k = 5;
        else
            p.top_p = 0.0249f;
        s = cake_sampler_new(&p, 200);
        unsigned seen = 0;
        for (uint64_t pos = 0; pos < 300; pos++) {
            uint32_t t = pick(s, l, pos);
            assert_true(t < 5);
            seen |= 1u << t;
        }
        assert_int_equal(seen, 31);
        cake_sampler_free(s);
    }
}

static void test_deterministic(void **state) {
    (void)state;
    enum { N = 5000 };
    float *l = malloc(N * sizeof *l);
    rng_state = 5;
    for (int i = 0; i < N; i++) l[i] = rnd_logit();
    cake_sampler_params p;
    cake_sampler_params_default(&p);
    p.seed = 42;
    cake_sampler *a = cake_sampler_new(&p, N), *b = cake_sampler_new(&p, N);
    p.seed = 43;
    cake_sampler *c = cake_sampler_new(&p, N);
    int differ = 0;
    uint32_t first[100];
    for (uint64_t i = 0; i < 100; i++) {
        first[i] = pick(a, l, i);
        differ += first[i] != pick(c, l, i);
    }
    for (uint64_t i = 100; i-- > 0;) assert_int_equal(pick(b, l, i), first[i]); /* any order */
    assert_true(differ > 20);
    cake_sampler_free(a);
    cake_sampler_free(b);
    cake_sampler_free(c);
    free(l);
}

/* The stream itself is part of the contract: the same on every machine and in every version that
 * keeps it. Values from an independent big-integer computation of the same hash. */
static void test_pinned_stream(void **state) {
    (void)state;
    float l[1000] = {0};
    cake_sampler_params p = off();
    static const uint32_t want[2][8] = {
        {191, 435, 749, 657, 159, 106, 547, 874},
        {448, 734, 500, 951, 268, 642, 460, 517},
    };
    for (int k = 0; k < 2; k++) {
        p.seed = k ? 0xfeedfacecafebeefu : 0;
        cake_sampler *s = cake_sampler_new(&p, 1000);
        for (uint64_t i = 0; i < 8; i++) {
            uint32_t t = pick(s, l, i * i * i * 1000003u);
            if (t != want[k][i])
                fail_msg("stream %d at %d: %u, pinned %u", k, (int)i, t, want[k][i]);
        }
        cake_sampler_free(s);
    }
}

/* Through every filter, hashed: run with CAKE_KERN=scalar, avx2, ... it must not change. */
static void test_pinned_picks(void **state) {
    (void)state;
    enum { N = 2000 };
    static const struct {
        uint32_t k;
        float p, m, t;
    } modes[] = {{0, 1, 0, 1}, {40, 0.95f, 0.05f, 0.8f}, {0, 0.9f, 0, 1.3f}, {0, 1, 0.01f, 2}};
    float *l = malloc(N * sizeof *l);
    uint32_t hash = 2166136261u;
    rng_state = 77;
    for (int i = 0; i < N; i++) l[i] = rnd_logit();
    for (int m = 0; m < 4; m++) {
        cake_sampler_params p = off();
        p.top_k = modes[m].k;
        p.top_p = modes[m].p;
        p.min_p = modes[m].m;
        p.temperature = modes[m].t;
        p.seed = 5;
        cake_sampler *s = cake_sampler_new(&p, N);
        for (uint64_t i = 0; i < 500; i++) hash = (hash ^ pick(s, l, i)) * 16777619u;
        cake_sampler_free(s);
    }
    free(l);
    if (hash != 0x43fba076u) fail_msg("hash of the picks is %#x", hash);
}

static void test_neighbour_seeds_are_independent(void **state) {
    (void)state;
    /* 64 x 64 cells of (draw of seed s, draw of seed s+1) at the same position, and of the same
     * seed at neighbouring positions. */
    float l[8] = {0};
    static uint32_t cell[2][64];
    memset(cell, 0, sizeof cell);
    cake_sampler_params p = off();
    uint32_t prev[64];
    enum { SEEDS = 400 };
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        p.seed = seed;
        cake_sampler *s = cake_sampler_new(&p, 8);
        for (uint64_t i = 0; i < 64; i++) {
            uint32_t t = pick(s, l, i);
            if (seed) cell[0][prev[i] * 8 + t]++;
            if (i) cell[1][prev[i - 1] * 8 + t]++;
            prev[i] = t;
        }
        cake_sampler_free(s);
    }
    for (int k = 0; k < 2; k++) {
        double n = 0, chi = 0;
        for (int i = 0; i < 64; i++) n += cell[k][i];
        for (int i = 0; i < 64; i++)
            chi += (cell[k][i] - n / 64) * (cell[k][i] - n / 64) / (n / 64);
        assert_true(chi < 63 + 6 * sqrt(126.0));
    }
}

static void test_extremes(void **state) {
    (void)state;
    cake_sampler_params p = off();
    float big[4] = {-3e38f, 3e38f, -3e38f, 0};
    cake_sampler *s = cake_sampler_new(&p, 4);
    for (uint64_t i = 0; i < 50; i++) assert_int_equal(pick(s, big, i), 1);
    cake_sampler_free(s);

    p.temperature = 1e-20f; /* all but the best get weight 0 */
    float l[3] = {1, 1.0001f, 0.9f};
    s = cake_sampler_new(&p, 3);
    for (uint64_t i = 0; i < 50; i++) assert_int_equal(pick(s, l, i), 1);
    cake_sampler_free(s);

    p = off(); /* one token */
    s = cake_sampler_new(&p, 1);
    assert_int_equal(pick(s, l, 9), 0);
    cake_sampler_free(s);

    p.top_p = FLT_MIN; /* at least one stays */
    p.min_p = 1;
    s = cake_sampler_new(&p, 3);
    for (uint64_t i = 0; i < 20; i++) assert_int_equal(pick(s, l, i), 1);
    cake_sampler_free(s);

    /* far tails: everything but the top lies in the last histogram bin */
    enum { N = 3000 };
    float *far = malloc(N * sizeof *far);
    for (int i = 0; i < N; i++) far[i] = -200.0f - (float)i;
    far[2000] = 0;
    p = off();
    p.top_k = 3;
    p.temperature = 100;
    s = cake_sampler_new(&p, N);
    unsigned seen = 0;
    for (uint64_t i = 0; i < 400; i++) {
        uint32_t t = pick(s, far, i);
        assert_true(t == 2000 || t == 0 || t == 1);
        seen |= t == 2000 ? 4u : 1u << t;
    }
    assert_int_equal(seen, 7);
    cake_sampler_free(s);
    free(far);
}

static void test_allowed(void **state) {
    (void)state;
    float l[70];
    for (int i = 0; i < 70; i++) l[i] = (float)i;
    uint32_t mask[3] = {0, 1u << 3, 0};
    for (int mode = 0; mode < 4; mode++) {
        cake_sampler_params p = off();
        if (mode == 0) p.temperature = 0;
        if (mode == 1) p.top_k = 4;
        if (mode == 2) p.top_p = 0.5f;
        cake_sampler *s = cake_sampler_new(&p, 70);
        cake_sampler_allow(s, mask);
        for (uint64_t i = 0; i < 20; i++) assert_int_equal(pick(s, l, i), 35);
        static const uint32_t none[3] = {0};
        cake_sampler_allow(s, none);
        uint32_t t = 77;
        cake_error err;
        assert_int_equal(cake_sampler_pick(s, l, NULL, 0, 0, &t, &err), CAKE_EINVAL);
        assert_int_equal(t, 77);
        cake_sampler_allow(s, NULL);
        assert_in_range(pick(s, l, 0), 0, 69);
        cake_sampler_free(s);
    }
}

static void test_bad_logits(void **state) {
    (void)state;
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    cake_sampler_params p;
    cake_sampler_params_default(&p);
    cake_sampler *s = cake_sampler_new(&p, 100);
    for (int i = 0; i < 4; i++) {
        float l[100] = {0}, lp;
        l[61] = bad[i];
        uint32_t t = 77;
        cake_error err;
        assert_int_equal(cake_sampler_pick(s, l, NULL, 0, 0, &t, &err), CAKE_EINVAL);
        assert_int_equal(t, 77);
        assert_non_null(strstr(err.msg, "token 61"));
        assert_int_equal(cake_sampler_logprobs(s, l, 0, 0, &lp, NULL, &err), CAKE_EINVAL);
        assert_non_null(strstr(err.msg, "token 61"));
    }
    /* a penalty that overflows is an error too */
    float l[100] = {[5] = 3e38f};
    uint32_t hist[] = {5}, t;
    cake_sampler_free(s);
    p.repeat_penalty = 0.01f;
    s = cake_sampler_new(&p, 100);
    assert_int_equal(cake_sampler_pick(s, l, hist, 1, 0, &t, NULL), CAKE_EINVAL);
    cake_sampler_free(s);
}

static void test_params_check(void **state) {
    (void)state;
    cake_sampler_params d, p;
    cake_sampler_params_default(&d);
    cake_error err;
    assert_int_equal(cake_sampler_params_check(&d, 10, &err), CAKE_OK);
#define BAD(field, value)                                                                          \
    do {                                                                                           \
        p = d;                                                                                     \
        p.field = (value);                                                                         \
        assert_int_equal(cake_sampler_params_check(&p, 10, &err), CAKE_EINVAL);                    \
        assert_non_null(strstr(err.msg, #field));                                                  \
    } while (0)
    BAD(temperature, -0.1f);
    BAD(temperature, 100.5f);
    BAD(temperature, NAN);
    BAD(top_p, 0);
    BAD(top_p, 1.01f);
    BAD(top_p, NAN);
    BAD(min_p, -0.01f);
    BAD(min_p, 1.01f);
    BAD(repeat_penalty, 0);
    BAD(repeat_penalty, INFINITY);
    BAD(presence_penalty, 101);
    BAD(frequency_penalty, -101);
    cake_logit_bias b[2] = {{9, 100}, {10, 0}};
    p = d;
    p.logit_bias = b;
    p.n_logit_bias = 1;
    assert_int_equal(cake_sampler_params_check(&p, 10, &err), CAKE_OK);
    p.n_logit_bias = 2;
    assert_int_equal(cake_sampler_params_check(&p, 10, &err), CAKE_EINVAL);
    assert_non_null(strstr(err.msg, "logit_bias names token 10"));
    assert_int_equal(cake_sampler_params_check(&p, 0, &err),
                     CAKE_OK); /* vocabulary not known yet */
    b[1] = (cake_logit_bias){1, 100.5f};
    assert_int_equal(cake_sampler_params_check(&p, 10, &err), CAKE_EINVAL);
    p.n_logit_bias = CAKE_LOGIT_BIAS_MAX + 1;
    assert_int_equal(cake_sampler_params_check(&p, 10, &err), CAKE_EINVAL);
}

static void test_logprobs(void **state) {
    (void)state;
    enum { N = 1500 };
    float *l = malloc(N * sizeof *l);
    ref_cand *c = malloc(N * sizeof *c);
    rng_state = 31;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < N; i++) l[i] = rnd_logit() * (float)(round + 1) * 0.4f;
        l[900] = l[20] = 30; /* a tie at the top */
        double sum = 0;
        for (uint32_t i = 0; i < N; i++) {
            sum += exp((double)l[i] - 30.0);
            c[i] = (ref_cand){.logit = l[i], .id = i};
        }
        double lse = 30 + log(sum);
        qsort(c, N, sizeof *c, by_logit);
        cake_sampler_params p;
        cake_sampler_params_default(&p);
        cake_sampler *s = cake_sampler_new(&p, N);
        cake_logprob top[CAKE_TOP_LOGPROBS_MAX];
        float chosen;
        cake_error err;
        for (uint32_t n_top = 0; n_top <= CAKE_TOP_LOGPROBS_MAX; n_top += 16) {
            assert_int_equal(cake_sampler_logprobs(s, l, 33, n_top, &chosen, top, &err), CAKE_OK);
            assert_true(fabs(chosen - (l[33] - lse)) < 2e-6 * (1 + fabs(l[33] - lse)));
            for (uint32_t i = 0; i < n_top; i++) {
                assert_int_equal(top[i].token, c[i].id);
                double want = c[i].logit - lse;
                assert_true(fabs(top[i].logprob - want) < 2e-6 * (1 + fabs(want)));
            }
        }
        assert_int_equal(cake_sampler_logprobs(s, l, N, 0, &chosen, NULL, &err), CAKE_EINVAL);
        assert_int_equal(cake_sampler_logprobs(s, l, 0, 65, &chosen, top, &err), CAKE_EINVAL);
        cake_sampler_free(s);
    }
    free(l);
    free(c);
}

/* A whole vocabulary, every token reached in proportion, both with and without sorting. */
static void test_large_vocabulary(void **state) {
    (void)state;
    enum { N = 152064 };
    float *l = malloc(N * sizeof *l);
    rng_state = 1;
    for (int i = 0; i < N; i++) l[i] = rnd_logit();
    l[151643] = 18;
    l[77] = 17;
    static const struct {
        uint32_t k;
        float p;
    } modes[] = {{0, 1}, {40, 0.95f}, {0, 0.9f}, {50000, 0.99f}};
    for (int m = 0; m < 4; m++) {
        cake_sampler_params p = off();
        p.top_k = modes[m].k;
        p.top_p = modes[m].p;
        check_distribution(&p, l, N, NULL, 0, 60);
    }
    free(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_filters_against_reference),
        cmocka_unit_test(test_penalties_and_bias),
        cmocka_unit_test(test_penalty_window),
        cmocka_unit_test(test_greedy_and_ties),
        cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_pinned_stream),
        cmocka_unit_test(test_pinned_picks),
        cmocka_unit_test(test_neighbour_seeds_are_independent),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_allowed),
        cmocka_unit_test(test_bad_logits),
        cmocka_unit_test(test_params_check),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_large_vocabulary),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
