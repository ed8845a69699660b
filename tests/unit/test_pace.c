/* Whose turn it is (fair.h) and how large batches become (pace.h), both without a cluster. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "master/scheduler/fair.h"
#include "master/scheduler/lookup.h"
#include "master/scheduler/pace.h"

#include <string.h>

/* ---- turns ---- */

static void one_client_does_not_hold_up_others(void **state) {
    (void)state;
    cake_fair f = {0};
    cake_fair_item many[50], few[3];
    for (int i = 0; i < 50; i++) {
        many[i] = (cake_fair_item){.client = 1, .cost = 3000};
        cake_fair_push(&f, &many[i]);
    }
    for (int i = 0; i < 3; i++) {
        few[i] = (cake_fair_item){.client = 2, .cost = 500};
        cake_fair_push(&f, &few[i]);
    }
    int of_many = 0, of_few = 0;
    while (of_few < 3) {
        cake_fair_item *i = cake_fair_next(&f, NULL, NULL);
        assert_non_null(i);
        if (i->client == 1)
            assert_ptr_equal(i, &many[of_many++]); /* in the order they came */
        else
            assert_ptr_equal(i, &few[of_few++]);
    }
    assert_true(of_many <= 2);
    while (cake_fair_next(&f, NULL, NULL)) of_many++;
    assert_int_equal(of_many, 50);
    assert_null(f.turn);
}

/* Two that both always have something: the same work for each, whatever the size of its pieces. */
static void equal_work(void **state) {
    (void)state;
    cake_fair f = {0};
    cake_fair_item big[400], small[400];
    for (int i = 0; i < 400; i++) {
        big[i] = (cake_fair_item){.client = 1, .cost = 4000};
        small[i] = (cake_fair_item){.client = 2, .cost = 400};
        cake_fair_push(&f, &big[i]);
        cake_fair_push(&f, &small[i]);
    }
    uint64_t work[3] = {0};
    for (int i = 0; i < 300; i++) {
        cake_fair_item *k = cake_fair_next(&f, NULL, NULL);
        work[k->client] += k->cost;
    }
    assert_true(work[1] > work[2] / 10 * 8 && work[1] < work[2] / 10 * 12);
    while (cake_fair_next(&f, NULL, NULL)) {
    }
}

static bool odd(void *arg, const cake_fair_item *i) {
    (void)arg;
    return i->cost % 2;
}

static void priorities_and_holds(void **state) {
    (void)state;
    cake_fair f = {0};
    cake_fair_item v[6] = {{.client = 1, .cost = 10},
                           {.client = 1, .cost = 11},
                           {.client = 1, .cost = 12, .priority = -1},
                           {.client = 1, .cost = 13, .priority = 1},
                           {.client = 2, .cost = 14},
                           {.client = 3, .cost = 15}};
    for (int i = 0; i < 6; i++) cake_fair_push(&f, &v[i]);
    cake_fair_remove(&f, &v[5]); /* was its client's only one */
    cake_fair_remove(&f, &v[5]);
    assert_ptr_equal(cake_fair_next(&f, odd, NULL), &v[1]);
    assert_ptr_equal(cake_fair_next(&f, odd, NULL), &v[3]);
    assert_null(cake_fair_next(&f, odd, NULL)); /* the others have to wait */
    cake_fair_item *order[3];
    for (int i = 0; i < 3; i++) order[i] = cake_fair_next(&f, NULL, NULL);
    int first = order[0] == &v[4];
    assert_ptr_equal(order[first ? 1 : 0], &v[2]);
    assert_null(cake_fair_next(&f, NULL, NULL));
}

/* ---- pace ---- */

/* Two stages that take 6 ms + 0.6 ms a row each. */
static void feed(cake_pace *p, double network_ms) {
    *p = (cake_pace){.n_stages = 2};
    for (uint32_t i = 0; i < 100; i++) {
        uint32_t d = 1 + i % 8;
        cake_pace_add(p, d, 0, 6e6 + 0.6e6 * d, 2 * (6e6 + 0.6e6 * d), network_ms * 1e6);
    }
}

static void groups(void **state) {
    (void)state;
    cake_pace p = {.n_stages = 2};
    assert_int_equal(cake_pace_groups(&p, 1, 12), 1); /* nothing is known yet */
    assert_int_equal(cake_pace_groups(&p, 8, 12), 2);
    feed(&p, 0.1);
    assert_int_equal(cake_pace_groups(&p, 1, 12), 1);
    assert_int_equal(cake_pace_groups(&p, 8, 12), 2);
    assert_int_equal(cake_pace_depth(&p, 4, 12), 3); /* two stages and a little network */
    feed(&p, 40);
    assert_true(cake_pace_groups(&p, 64, 12) > 2); /* something for the link to carry */
    assert_int_equal(cake_pace_groups(&p, 64, 3), 3);
    assert_true(cake_pace_depth(&p, 4, 20) >= 6);
}

static void prompts_beside_decoding(void **state) {
    (void)state;
    cake_pace p;
    feed(&p, 0.1);
    assert_int_equal(cake_pace_prompt_rows(&p, 0, 0, 1, 3, 0), UINT32_MAX);
    for (int i = 0; i < 200; i++) { /* rows of a prompt take 0.5 ms */
        uint32_t k = cake_pace_prompt_rows(&p, 4, 8, 2, 2, 0);
        if (k == 0) { /* from time to time it wants to see a batch without */
            cake_pace_add(&p, 4, 0, 8.4e6, 16.8e6, 0.1e6);
            continue;
        }
        cake_pace_add(&p, 4, k, 8.4e6 + 0.5e6 * k, 2 * (8.4e6 + 0.5e6 * k), 0.1e6);
    }
    uint32_t k = cake_pace_prompt_rows(&p, 4, 8, 2, 2, 0);
    double stretch = (8.4 + 0.5 * k) / 8.4;
    assert_true(stretch > 1.2 && stretch <= 1.41);
    /* Late in a long prompt a row takes 5 ms: one of the two batches carries one. */
    for (int i = 0; i < 100; i++) cake_pace_add(&p, 4, 1, 13.4e6, 26.8e6, 0.1e6), p.mixed = 0;
    assert_int_equal(cake_pace_prompt_rows(&p, 4, 8, 2, 2, 0), 1);
    assert_int_equal(cake_pace_prompt_rows(&p, 4, 8, 2, 2, 1), 0);
}

/* One stream decodes over two stages: a prompt has the batches in between for itself. */
static void prompts_between_decoding(void **state) {
    (void)state;
    cake_pace p;
    feed(&p, 0.1);
    uint32_t k = cake_pace_prompt_rows(&p, 0, 1, 1, 2, 0);
    assert_int_equal(k, 1); /* not known yet what a row costs */
    for (int i = 0; i < 60; i++) {
        k = cake_pace_prompt_rows(&p, 0, 1, 1, 2, 0);
        cake_pace_add(&p, 0, k, 6e6 + 0.5e6 * k, 2 * (6e6 + 0.5e6 * k), 0.1e6);
        cake_pace_add(&p, 1, 0, 6.6e6, 2 * 6.6e6, 0.1e6);
    }
    double way = 6.6 + 6 + 0.5 * k; /* both take turns on a stage */
    assert_true(k >= 5 && way <= 1.41 * (2 * 6.6 + 0.1));
}

static void guesses_pay(void **state) {
    (void)state;
    cake_pace p;
    feed(&p, 20);
    assert_true(cake_pace_guess_pays(&p, 0.5, 1, 1)); /* a way round takes 33 ms, a row 1.2 */
    assert_false(cake_pace_guess_pays(&p, 0.02, 1, 1));
    feed(&p, 0);
    assert_false(
        cake_pace_guess_pays(&p, 0.2, 16, 2)); /* full batches: a row costs what it gives */
}

/* ---- lookup ---- */

static void lookup(void **state) {
    (void)state;
    uint32_t text[400], n = 0;
    for (uint32_t i = 0; i < 50; i++) text[n++] = i * i % 1009;
    for (uint32_t i = 10; i < 20; i++) text[n++] = i * i % 1009;
    cake_lookup *l = cake_lookup_new();
    uint32_t k = cake_lookup_guess(l, text, n, n, 16);
    assert_int_equal(k, 8); /* ten tokens agree: twice what it begins with */
    assert_memory_equal(text + n, text + 20, 8 * sizeof *text);
    k = cake_lookup_guess(l, text, n, n + 8, 8); /* goes on from its own guess */
    assert_int_equal(k, 8);
    assert_memory_equal(text + n + 8, text + 28, 8 * sizeof *text);
    text[n] = 5000;
    assert_int_equal(cake_lookup_guess(l, text, n + 1, n + 1, 8), 0); /* never seen */
    assert_int_equal(cake_lookup_guess(l, text, 2, 2, 8), 0);
    cake_lookup_free(l);
    /* A run of equal tokens repeats itself. */
    l = cake_lookup_new();
    for (n = 0; n < 6; n++) text[n] = 7;
    assert_int_equal(cake_lookup_guess(l, text, n, n, 50), 4);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(text[n + i], 7);
    assert_false(cake_lookup_sure(l));
    cake_lookup_checked(l, 4, 4);
    cake_lookup_checked(l, 8, 8);
    assert_true(cake_lookup_sure(l) && cake_lookup_want(l) == 16);
    for (; n < 56; n++) text[n] = 7;
    assert_int_equal(cake_lookup_guess(l, text, n, n, 50), 16);
    for (int i = 0; i < 10; i++) cake_lookup_checked(l, 0, 4);
    assert_true(!cake_lookup_sure(l) && cake_lookup_rate(l) < 0.1);
    assert_int_equal(cake_lookup_guess(l, text, n, n, 4), 0); /* 55 agree, more are asked for */
    cake_lookup_rest(l);
    assert_int_equal(cake_lookup_want(l), 0);
    cake_lookup_free(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_client_does_not_hold_up_others),
        cmocka_unit_test(equal_work),
        cmocka_unit_test(priorities_and_holds),
        cmocka_unit_test(groups),
        cmocka_unit_test(prompts_beside_decoding),
        cmocka_unit_test(prompts_between_decoding),
        cmocka_unit_test(guesses_pay),
        cmocka_unit_test(lookup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
