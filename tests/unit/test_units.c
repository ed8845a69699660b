/* What the planner is told about a model's units: bytes held, bytes and products of one token. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "master/model/model.h"
#include "tests/unit/modelfile.h"

static cake_plan_unit *units_of(const gen_model *g) {
    char *d = tmp_dir();
    gen_write(g, d);
    cake_model m;
    cake_error err = {0};
    cake_plan_unit *u = NULL;
    assert_ok(cake_model_open(&m, d, &err), &err);
    assert_ok(cake_model_units(&m, 1, 128, 16, false, false, &u, &err), &err);
    cake_model_close(&m);
    tmp_remove(d);
    return u;
}

/* Of 8 experts a token reads 2, and a worker holds 8; a shared one counts like any other matrix. */
static void test_experts(void **state) {
    (void)state;
    for (int one = 0; one < 2; one++) {
        gen_model g = GEN_SMALL;
        g.type = "qwen2_moe", g.n_layers = 2, g.step = 2, g.one_by_one = one;
        g.experts = 8, g.expert_ff = 64, g.shared_ff = 32, g.ff = 64;
        cake_plan_unit *u = units_of(&g);
        uint64_t expert = 3ull * 64 * 128, attention = (2 * 128 + 2 * 64) * 128;
        uint64_t packed = expert / 2 + expert / 32 * 4; /* 4 bits; scale and bias per group of 32 */
        const cake_plan_unit *dense = &u[1], *mixture = &u[2];
        assert_int_equal(dense->macs, attention + expert);
        assert_int_equal(dense->read_bytes, dense->weight_bytes);
        assert_int_equal(mixture->macs, attention + 2 * expert + (8 + 3 * 32) * 128);
        assert_int_equal(mixture->weight_bytes - mixture->read_bytes, 6 * packed);
        assert_true(mixture->weight_bytes > dense->weight_bytes + 7 * packed);
        assert_true(mixture->scratch_bytes > 0 && mixture->kv_bytes == dense->kv_bytes);
        free(u);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
