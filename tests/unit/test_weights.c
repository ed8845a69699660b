/* Loading weights: what the layout cannot see, because it is in the bytes. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/modelfile.h"
#include "worker/engine/weights.h"

static cake_status load(const char *mode, uint32_t bits, uint32_t group, bool fix,
                        cake_error *err) {
    char *d = tmp_dir();
    gen_model g = GEN_SMALL;
    g.mode = mode, g.bits = bits, g.group = group, g.n_layers = 1;
    gen_write(&g, d); /* tensors of arbitrary bytes */
    opened o = open_model(d);
    o.layout->config = &o.config; /* which open_model returned by value */
    FILE *f = fopen(o.ck->files[0].path, "r+b");
    for (uint32_t i = 0; i < o.ck->n_tensors; i++) {
        const cake_tensor *t = &o.ck->tensors[i];
        bool scales = strstr(t->name, ".scales") != NULL, norm = t->dtype == CAKE_DTYPE_BF16;
        uint8_t *copy = cake_malloc((size_t)t->n_bytes);
        memcpy(copy, t->data, (size_t)t->n_bytes);
        for (uint64_t k = 0; k < t->n_bytes; k++) {
            if (norm && k % 2) copy[k] = 0x3f; /* norms must be finite */
            if (scales && fix && copy[k] == 0xff) copy[k] = 0x7f;
        }
        assert_int_equal(fseek(f, (long)t->file_offset, SEEK_SET), 0);
        assert_int_equal(fwrite(copy, 1, (size_t)t->n_bytes, f), t->n_bytes);
        free(copy);
    }
    fclose(f);
    cake_pool *pool = cake_pool_new(1, 0);
    cake_weights w;
    cake_status st =
        cake_weights_load(&w, o.layout, o.ck, 0, o.layout->n_units, pool, NULL, NULL, err);
    if (st == CAKE_OK) cake_weights_free(&w);
    cake_pool_free(pool);
    close_model(&o);
    tmp_remove(d);
    return st;
}

/* An E8M0 scale of 255 is no number; an E4M3 scale of any value is one. */
static void test_scales(void **state) {
    (void)state;
    cake_error err = {0};
    assert_fails(load("mxfp4", 4, 32, false, &err), CAKE_EFORMAT, &err, "a scale byte is 255");
    assert_non_null(strstr(err.msg, ".scales'"));
    assert_fails(load("mxfp8", 8, 32, false, &err), CAKE_EFORMAT, &err, "a scale byte is 255");
    assert_ok(load("mxfp4", 4, 32, true, &err), &err);
    assert_ok(load("mxfp8", 8, 32, true, &err), &err);
    assert_ok(load("nvfp4", 4, 16, false, &err), &err);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scales)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
