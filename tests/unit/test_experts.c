/* Mixtures of experts, the kernels: routing, grouping, gathering, and the product of a stack
 * against each row multiplied alone, for every format, bit for bit. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/experts.h"
#include "tests/unit/matmul_data.h"

static void check_route(const float *p, uint32_t n, uint32_t k, bool norm, const uint32_t *expert,
                        const float *weight) {
    uint32_t e[8] = {99, 99, 99, 99, 99, 99, 99, 99};
    float w[8] = {0};
    cake_route(p, n, k, norm, e, w);
    for (uint32_t i = 0; i < k; i++) {
        if (e[i] != expert[i]) fail_msg("expert %u is %u, not %u", i, e[i], expert[i]);
        if (weight && memcmp(&w[i], &weight[i], sizeof *w) != 0)
            fail_msg("weight %u is %a, not %a", i, (double)w[i], (double)weight[i]);
    }
    for (uint32_t i = k; i < 8; i++) assert_int_equal(e[i], 99);
}

static void test_route(void **state) {
    (void)state;
    /* The larger wins, the lower index among equals; ascending whatever their rank. */
    const float p[] = {0.1f, 0.3f, 0.1f, 0.4f, 0.1f};
    check_route(p, 5, 1, false, (uint32_t[]){3}, (float[]){0.4f});
    check_route(p, 5, 2, false, (uint32_t[]){1, 3}, (float[]){0.3f, 0.4f});
    check_route(p, 5, 3, false, (uint32_t[]){0, 1, 3}, (float[]){0.1f, 0.3f, 0.4f});
    check_route(p, 5, 4, false, (uint32_t[]){0, 1, 2, 3}, NULL);
    check_route(p, 5, 5, false, (uint32_t[]){0, 1, 2, 3, 4}, p);
    const float same[] = {0.25f, 0.25f, 0.25f, 0.25f};
    check_route(same, 4, 2, true, (uint32_t[]){0, 1}, (float[]){0.5f, 0.5f});
    /* Divided by a sum taken from the largest down: 1 + 2^-24 + 2^-24 stays 1, the other way round
     * it would not. */
    const float order[] = {0x1p-24f, 0x1p-24f, 1.0f};
    check_route(order, 3, 3, true, (uint32_t[]){0, 1, 2}, order);
    /* Not numbers come last, and never the same expert twice. */
    const float bad[] = {NAN, 0.5f, NAN, 0.25f};
    check_route(bad, 4, 2, false, (uint32_t[]){1, 3}, NULL);
    check_route(bad, 4, 3, false, (uint32_t[]){0, 1, 3}, NULL);
    const float worse[] = {NAN, NAN, NAN};
    check_route(worse, 3, 2, true, (uint32_t[]){0, 1}, NULL);
    /* Against choosing one after the other. */
    for (int round = 0; round < 200; round++) {
        float q[67];
        uint32_t n = 1 + (uint32_t)(md_random() % 67), k = 1 + (uint32_t)(md_random() % n), e[67];
        float w[67];
        bool taken[67] = {0};
        for (uint32_t i = 0; i < n; i++) q[i] = (float)(md_random() % 16); /* many ties */
        cake_route(q, n, k, false, e, w);
        for (uint32_t i = 0; i < k; i++) {
            uint32_t best = n;
            for (uint32_t j = 0; j < n; j++)
                if (!taken[j] && (best == n || q[j] > q[best])) best = j;
            taken[best] = true;
        }
        for (uint32_t i = 0; i < k; i++) {
            assert_true(taken[e[i]] && q[e[i]] == w[i]);
            assert_true(i == 0 || e[i] > e[i - 1]);
        }
    }
}

enum { EXPERTS = 5, ROWS = 19, TOP = 2, PAIRS = ROWS * TOP };

/* Expert 3 gets nothing, expert 1 every row. */
static void choose_pairs(uint32_t expert[PAIRS]) {
    static const uint32_t other[] = {0, 2, 4};
    for (uint32_t r = 0; r < ROWS; r++) {
        uint32_t o = other[md_random() % 3];
        expert[2 * r] = o < 1 ? o : 1;
        expert[2 * r + 1] = o < 1 ? 1 : o;
    }
}

static void test_group(void **state) {
    (void)state;
    uint32_t expert[PAIRS], row[PAIRS], place[PAIRS], count[EXPERTS];
    cake_group g[EXPERTS];
    choose_pairs(expert);
    uint32_t n = cake_group_rows(expert, ROWS, TOP, EXPERTS, row, place, g, count), at = 0;
    for (uint32_t i = 0; i < n; i++) {
        assert_true(g[i].begin == at && g[i].end > at && (i == 0 || g[i].expert > g[i - 1].expert));
        assert_true(g[i].expert != 3 && (g[i].expert != 1 || g[i].end - at == ROWS));
        for (; at < g[i].end; at++) {
            assert_true(at == g[i].begin || row[at] > row[at - 1]);
            uint32_t *pair = &expert[row[at] * TOP];
            uint32_t which = pair[0] == g[i].expert ? 0 : 1;
            assert_int_equal(pair[which], g[i].expert);
            assert_int_equal(place[row[at] * TOP + which], at);
        }
    }
    assert_int_equal(at, PAIRS);
    assert_int_equal(cake_group_rows(expert, 0, TOP, EXPERTS, row, place, g, count), 0);
}

typedef struct {
    cake_act act;
    void *mem;
} acts;
static acts acts_of(const float *x, uint32_t k, uint32_t n) {
    acts a = {.mem = md_aligned(cake_act_bytes(k, n))};
    memset(a.mem, 0xa5, cake_act_bytes(k, n));
    cake_act_init(&a.act, a.mem, x, k, k, n);
    return a;
}

/* A stack of matrices of one format, its groups multiplied together, against row by row. */
static void check_stack(cake_wspec s, bool f32_mode) {
    size_t bytes = cake_packed_bytes(&s), stride = bytes + 128; /* not tight: the stride counts */
    char *packed = md_aligned(stride * EXPERTS);
    memset(packed, 0xff, stride * EXPERTS);
    for (int e = 0; e < EXPERTS; e++) {
        md_matrix m = md_new(s);
        memcpy(packed + (size_t)e * stride, m.packed, bytes);
        md_free(&m);
    }
    cake_stack stack = {s, EXPERTS, stride, packed};
    float *x = malloc(ROWS * s.k * sizeof *x), *gathered = malloc(PAIRS * s.k * sizeof *x);
    float *y = malloc(PAIRS * s.n * sizeof *y), *one = malloc(s.n * sizeof *one);
    for (size_t i = 0; i < (size_t)ROWS * s.k; i++) x[i] = md_float();
    void *scratch = md_aligned(cake_matmul_scratch_bytes());

    uint32_t expert[PAIRS], row[PAIRS], place[PAIRS], count[EXPERTS];
    cake_group g[EXPERTS];
    choose_pairs(expert);
    uint32_t n = cake_group_rows(expert, ROWS, TOP, EXPERTS, row, place, g, count);
    acts all = acts_of(x, s.k, ROWS), part[EXPERTS];
    cake_act views[EXPERTS];
    cake_act_quantize(&all.act, 0, ROWS);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t size = g[i].end - g[i].begin;
        for (uint32_t p = g[i].begin; p < g[i].end; p++)
            memcpy(gathered + (size_t)p * s.k, x + (size_t)row[p] * s.k, s.k * sizeof *x);
        part[i] = acts_of(gathered + (size_t)g[i].begin * s.k, s.k, size);
        cake_act_gather(&part[i].act, &all.act, row + g[i].begin, size / 2,
                        size); /* in two parts */
        cake_act_gather(&part[i].act, &all.act, row + g[i].begin, 0, size / 2);
        views[i] = part[i].act;
    }
    for (size_t i = 0; i < (size_t)PAIRS * s.n; i++) y[i] = NAN;
    size_t tiles = (size_t)cake_tiles(&s) * n; /* uneven ranges, across the groups' borders */
    for (size_t at = 0, step = 1; at < tiles; at += step, step = step % 5 + 1)
        cake_stack_matmul(&stack, g, views, f32_mode, y, s.n, at,
                          at + step < tiles ? at + step : tiles, scratch);
    for (uint32_t i = 0; i < PAIRS; i++) {
        acts lone = acts_of(x + (size_t)(i / TOP) * s.k, s.k, 1);
        cake_act_quantize(&lone.act, 0, 1);
        cake_mat mat = cake_stack_mat(&stack, expert[i]);
        cake_matmul(&mat, &lone.act, f32_mode, one, s.n, 0, cake_tiles(&s), scratch);
        if (memcmp(one, y + (size_t)place[i] * s.n, s.n * sizeof *one) != 0)
            fail_msg("kind %d bits %u codec %d f32 %d: row %u of expert %u differs", s.kind, s.bits,
                     (int)s.codec, f32_mode, i / TOP, expert[i]);
        free(lone.mem);
    }
    for (uint32_t i = 0; i < n; i++) free(part[i].mem);
    free(all.mem), free(packed), free(x), free(gathered), free(y), free(one), free(scratch);
}

static void test_stacks(void **state) {
    (void)state;
    static const uint32_t bits[] = {2, 3, 4, 5, 6, 8};
    for (int f32_mode = 0; f32_mode < 2; f32_mode++) {
        for (int i = 0; i < 6; i++)
            for (int g = 0; g < 3; g++)
                check_stack(
                    MD_AFFINE((cake_ftype)((i + g) % 3), bits[i], 32u << g, 1 + 23u * g, 384),
                    f32_mode);
        check_stack(MD_DENSE(CAKE_BF16, 37, 45), f32_mode);
        check_stack(MD_DENSE(CAKE_F16, 16, 64), f32_mode);
        check_stack(MD_DENSE(CAKE_F32, 1, 33), f32_mode);
        for (int which = 0; which < MD_BLOCKS; which++)
            check_stack(md_block_spec(which, 19, 3 * md_block_columns(which)), f32_mode);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route),
        cmocka_unit_test(test_group),
        cmocka_unit_test(test_stacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
