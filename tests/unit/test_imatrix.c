/* Importance matrices: both file forms there and back, golden bytes, and broken files. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/file.h"
#include "common/mem.h"
#include "master/tools/imatrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    uint8_t b[4096];
    size_t n;
} bytes;

static void raw(bytes *b, const void *p, size_t n) {
    assert_true(b->n + n <= sizeof b->b);
    memcpy(b->b + b->n, p, n);
    b->n += n;
}
static void i32(bytes *b, int32_t v) {
    raw(b, &v, 4);
}
static void u64(bytes *b, uint64_t v) {
    raw(b, &v, 8);
}
static void f32(bytes *b, float v) {
    raw(b, &v, 4);
}
static void text(bytes *b, const char *s) {
    u64(b, strlen(s));
    raw(b, s, strlen(s));
}

/* An exact-size heap copy, so that a sanitizer sees a read past the end. */
static cake_status parse(const bytes *b, cake_imatrix *m, cake_error *err) {
    uint8_t *copy = cake_malloc(b->n ? b->n : 1);
    memcpy(copy, b->b, b->n);
    *err = (cake_error){0};
    cake_status st = cake_imatrix_parse(m, copy, b->n, "f", err);
    free(copy);
    return st;
}

static unsigned n_refused;
static void refused(const char *name, const bytes *b, const char *words) {
    cake_imatrix m;
    cake_error err;
    if (parse(b, &m, &err) == CAKE_OK) fail_msg("%s was accepted", name);
    if (!strstr(err.msg, words)) fail_msg("%s: '%s' is not in: %s", name, words, err.msg);
    n_refused++;
}

/* ---- .dat ---- */

static void dat_entry(bytes *b, const char *name, int32_t count, int32_t n, const float *v) {
    i32(b, (int32_t)strlen(name));
    raw(b, name, strlen(name));
    i32(b, count);
    i32(b, n);
    for (int32_t i = 0; i < n; i++) f32(b, v[i]);
}

static const float two[] = {1.0F, 0.5F};

static bytes good_dat(void) {
    bytes b = {0};
    i32(&b, 1);
    dat_entry(&b, "a.weight", 2, 2, two);
    return b;
}

/* The example of formats.md 5.6. */
static void test_dat_golden(void **state) {
    (void)state;
    static const uint8_t golden[] = {1,   0,   0,   0,   8,    0,    0, 0, 'a', '.', 'w',
                                     'e', 'i', 'g', 'h', 't',  2,    0, 0, 0,   2,   0,
                                     0,   0,   0,   0,   0x80, 0x3f, 0, 0, 0,   0x3f};
    bytes b = good_dat();
    assert_int_equal(b.n, sizeof golden);
    assert_memory_equal(b.b, golden, sizeof golden);
    cake_imatrix m;
    cake_error err;
    assert_int_equal(parse(&b, &m, &err), CAKE_OK);
    assert_int_equal(m.n, 1);
    assert_int_equal(m.entries[0].count, 2);
    assert_true(m.entries[0].values[0] == 1.0F && m.entries[0].values[1] == 0.5F);
    assert_ptr_equal(cake_imatrix_find(&m, "a"), &m.entries[0]);
    assert_ptr_equal(cake_imatrix_find(&m, "a.weight"), &m.entries[0]);
    assert_null(cake_imatrix_find(&m, "b"));
    char path[] = "/tmp/cake_imatrix_XXXXXX";
    close(mkstemp(path));
    assert_int_equal(cake_imatrix_save(&m, path, &err), CAKE_OK);
    char *data;
    size_t len;
    assert_int_equal(cake_file_read(path, 4096, &data, &len, &err), CAKE_OK);
    assert_int_equal(len, sizeof golden);
    assert_memory_equal(data, golden, sizeof golden);
    free(data);
    unlink(path);
    cake_imatrix_deinit(&m);
}

/* llama.cpp's trailer: the values are multiplied by the count. */
static void test_dat_llama(void **state) {
    (void)state;
    bytes b = good_dat();
    i32(&b, 7);
    i32(&b, 4);
    raw(&b, "wiki", 4);
    cake_imatrix m;
    cake_error err;
    assert_int_equal(parse(&b, &m, &err), CAKE_OK);
    assert_int_equal(m.n_chunks, 7);
    assert_string_equal(m.dataset, "wiki");
    assert_true(m.entries[0].values[0] == 0.5F && m.entries[0].values[1] == 0.25F);
    cake_imatrix_deinit(&m);
}

static void patch32(bytes *b, size_t at, int32_t v) {
    memcpy(b->b + at, &v, 4);
}

static void test_dat_broken(void **state) {
    (void)state;
    n_refused = 0;
    bytes b = {0};
    refused("empty", &b, "too short");
    i32(&b, 0);
    refused("no entries", &b, "0 entries");
    static const struct {
        const char *name;
        size_t at;
        int32_t v;
        const char *words;
    } patch[] = {
        {"negative number of entries", 0, -1, "-1 entries"},
        {"huge number of entries", 0, INT32_MAX, "entries"},
        {"negative name length", 4, -8, "-8 bytes"},
        {"empty name", 4, 0, "0 bytes"},
        {"huge name length", 4, INT32_MAX, "2147483647 bytes"},
        {"name beyond the file", 4, 100, "100 bytes"},
        {"name swallows the count", 4, 23, "zero byte"},
        {"zero byte in the name", 8, 0, "zero byte"},
        {"negative count", 16, -1, "-1 tokens"},
        {"negative number of values", 20, -2, "-2 values"},
        {"no values", 20, 0, "0 values"},
        {"huge number of values", 20, INT32_MAX, "2147483647 values"},
        {"one value too many", 20, 3, "3 values"},
        {"one value too few", 20, 1, "after the last entry"},
        {"NaN", 24, 0x7fc00000, "nan"},
        {"infinite", 28, 0x7f800000, "inf"},
        {"negative value", 24, (int32_t)0xbf800000, "-1"},
    };
    for (size_t i = 0; i < sizeof patch / sizeof *patch; i++) {
        b = good_dat();
        patch32(&b, patch[i].at, patch[i].v);
        refused(patch[i].name, &b, patch[i].words);
    }
    for (size_t n = 0; n < good_dat().n; n++) { /* every cut */
        b = good_dat();
        b.n = n;
        refused("cut", &b, "f");
    }
    b = (bytes){0};
    i32(&b, 2);
    dat_entry(&b, "a.weight", 2, 2, two);
    dat_entry(&b, "a.weight", 2, 2, two);
    refused("a name twice", &b, "twice");
    b = good_dat();
    patch32(&b, 0, 2);
    refused("second entry missing", &b, "2 entries");
    b = good_dat();
    raw(&b, "x", 1);
    refused("stray byte", &b, "after the last entry");
    b = good_dat();
    i32(&b, 1), i32(&b, -1);
    refused("negative data set name", &b, "after the last entry");
    b = good_dat();
    i32(&b, -1), i32(&b, 0);
    refused("negative chunk", &b, "after the last entry");
    b = good_dat();
    i32(&b, 1), i32(&b, 2), raw(&b, "abc", 3);
    refused("data set name and more", &b, "after the last entry");
    assert_true(n_refused >= 30);
}

/* ---- GGUF ---- */

typedef struct { /* what the file says; the good one by default */
    uint32_t version, align_type, alignment, sum_type;
    uint64_t n_tensors, n_kv;
    const char *type, *key, *sums, *counts;
    uint64_t k, n_mat, counts_dim, gap;
    float sum, count;
    uint32_t kind, n_dims;
    bool nested;
    size_t data;
} gguf_form;

static const gguf_form good = {
    3, 4, 32, 0, 2, 3, "imatrix", "k", "blk.0.ffn_down.in_sum2", "blk.0.ffn_down.counts", 2, 2,
    1, 0, 8,  4, 0, 2, false,     64};

static bytes make_gguf(gguf_form f) {
    bytes b = {0};
    raw(&b, "GGUF", 4);
    raw(&b, &f.version, 4);
    u64(&b, f.n_tensors);
    u64(&b, f.n_kv);
    text(&b, "general.type");
    i32(&b, 8);
    text(&b, f.type);
    text(&b, "general.alignment");
    raw(&b, &f.align_type, 4);
    raw(&b, &f.alignment, 4);
    text(&b, f.key);
    i32(&b, 9);
    i32(&b, f.nested ? 9 : (int32_t)f.kind);
    u64(&b, 1);
    raw(&b, "zzzz", 1);
    text(&b, f.sums);
    raw(&b, &f.n_dims, 4);
    u64(&b, f.k);
    u64(&b, f.n_mat);
    raw(&b, &f.sum_type, 4);
    u64(&b, f.gap);
    text(&b, f.counts);
    i32(&b, 2);
    u64(&b, f.counts_dim);
    u64(&b, 2);
    i32(&b, 0);
    u64(&b, 32);
    while (b.n % 32) raw(&b, "", 1);
    size_t end = b.n + f.data;
    for (int i = 0; i < 4; i++) f32(&b, f.sum * (float)(i + 1));
    while (b.n % 32) raw(&b, "", 1);
    f32(&b, f.count);
    f32(&b, 0);
    while (b.n < end) raw(&b, "", 1);
    b.n = end;
    return b;
}

static void test_gguf(void **state) {
    (void)state;
    bytes b = make_gguf(good);
    cake_imatrix m;
    cake_error err;
    if (parse(&b, &m, &err) != CAKE_OK) fail_msg("%s", err.msg);
    assert_int_equal(m.n, 1);
    const cake_imatrix_entry *e = cake_imatrix_find(&m, "model.layers.0.mlp.down_proj");
    assert_non_null(e);
    assert_int_equal(e->n_mat, 2);
    assert_int_equal(e->k, 2);
    assert_int_equal(e->count, 4);
    const float want[] = {2, 4, 1, 1}; /* 8/4, 16/4; the second matrix was never asked */
    assert_memory_equal(e->values, want, sizeof want);
    cake_imatrix_deinit(&m);
    gguf_form f = good; /* longer than the names of a model's tensors */
    f.sums = "language_model.model.layers.0.block_sparse_moe.some_module.weight.in_sum2";
    f.counts = "language_model.model.layers.0.block_sparse_moe.some_module.weight.counts";
    b = make_gguf(f);
    if (parse(&b, &m, &err) != CAKE_OK) fail_msg("%s", err.msg);
    assert_non_null(
        cake_imatrix_find(&m, "language_model.model.layers.0.block_sparse_moe.some_module"));
    cake_imatrix_deinit(&m);
}

/* Both forms give back what was saved: exactly in .dat; in GGUF when the count is a power of two.
 */
static void test_round_trip(void **state) {
    (void)state;
    for (int form = 0; form < 2; form++) {
        cake_imatrix m = {0}, r;
        cake_error err = {0};
        m.dataset = cake_strdup("text");
        m.n_chunks = 3;
        for (int i = 0; i < 3; i++) {
            char n[64];
            snprintf(n, sizeof n, "model.layers.%d.mlp.switch_mlp.up_proj.weight", i);
            cake_imatrix_entry *e = cake_imatrix_add(&m, n, (uint32_t)(i + 1), 5);
            e->count = 256;
            for (uint32_t j = 0; j < e->n_mat * e->k; j++) e->values[j] = (float)(j + 1) / 3.0F;
        }
        char path[64];
        snprintf(path, sizeof path, "/tmp/cake_imatrix_%ld.%s", (long)getpid(),
                 form ? "gguf" : "dat");
        assert_int_equal(cake_imatrix_save(&m, path, &err), CAKE_OK);
        if (cake_imatrix_load(&r, path, &err) != CAKE_OK) fail_msg("%s", err.msg);
        unlink(path);
        assert_int_equal(r.n, 3);
        for (size_t i = 0; i < 3; i++) {
            const cake_imatrix_entry *a = &m.entries[i], *e = &r.entries[i];
            if (form) { /* llama.cpp's names in llama.cpp's form */
                char want[64];
                snprintf(want, sizeof want, "blk.%zu.ffn_up_exps.weight", i);
                assert_string_equal(e->name, want);
            } else {
                assert_string_equal(e->name, a->name);
            }
            assert_int_equal(e->count, 256);
            assert_int_equal(e->n_mat, form ? a->n_mat : 1);
            assert_memory_equal(a->values, e->values, (size_t)a->n_mat * a->k * sizeof(float));
            for (uint32_t j = 0; j < a->n_mat; j++)
                assert_ptr_equal(cake_imatrix_values(e, a->n_mat, 5, j), e->values + 5 * j);
            assert_null(cake_imatrix_values(e, a->n_mat, 6, 0));
        }
        assert_non_null(cake_imatrix_find(&r, "model.layers.2.mlp.switch_mlp.up_proj"));
        if (form) assert_string_equal(r.dataset, "text");
        cake_imatrix_deinit(&m);
        cake_imatrix_deinit(&r);
    }
}

#define TRY(words, ...)                                                                            \
    do {                                                                                           \
        gguf_form f = good;                                                                        \
        __VA_ARGS__;                                                                               \
        bytes b = make_gguf(f);                                                                    \
        refused(#__VA_ARGS__, &b, words);                                                          \
    } while (0)

static void test_gguf_broken(void **state) {
    (void)state;
    n_refused = 0;
    TRY("version 1", f.version = 1);
    TRY("version 0", f.version = 0);
    TRY("version 4", f.version = 4);
    TRY("big-endian", f.version = 0x03000000);
    TRY("cannot hold", f.n_tensors = 1u << 30);
    TRY("cannot hold", f.n_tensors = UINT64_MAX);
    TRY("cannot hold", f.n_kv = UINT64_MAX);
    TRY("cannot hold", f.n_kv = 1u << 20);
    TRY("something else", f.type = "model");
    TRY("something else", f.type = "");
    TRY("power of two", f.alignment = 0);
    TRY("power of two", f.alignment = 33);
    TRY("power of two", f.align_type = 5);
    TRY("unknown type 99", f.kind = 99);
    TRY("array of arrays", f.nested = true);
    TRY("does not have", f.kind = 8);
    TRY("occurs twice", f.key = "general.type");
    TRY("no usable key", f.key = "");
    TRY("expected an integer", f.key = "imatrix.chunk_count");
    TRY("expected an integer", f.key = "imatrix.chunk_size");
    TRY("name of 0 bytes", f.n_dims = 1, f.n_mat = 0);
    TRY("5 dimensions", f.n_dims = 5);
    TRY("dimension 0 is 0", f.k = 0);
    TRY("dimension 0 is -1", f.k = UINT64_MAX);
    TRY("before it end at", f.k = 1ull << 60);
    TRY("64 bits", f.k = 1u << 31, f.n_mat = 1u << 31);
    TRY("stored as F16", f.sum_type = 1);
    TRY("blocks of 32", f.sum_type = 8);
    TRY("begins at 32", f.gap = 32);
    TRY("begins at", f.gap = UINT64_MAX);
    TRY("no counts", f.counts = "other.counts");
    TRY("occurs twice", f.counts = good.sums);
    TRY("no tensor", f.sums = "a.sum");
    TRY("name of 0 bytes", f.sums = "");
    TRY("counts", f.sums = ".in_sum2", f.counts = ".counts");
    TRY("4 counts for 2", f.counts_dim = 2);
    TRY("has the count -1", f.count = -1);
    TRY("has the count nan", f.count = NAN);
    TRY("has the count inf", f.count = INFINITY);
    TRY("nan", f.sum = NAN);
    TRY("inf", f.sum = INFINITY);
    TRY("-", f.sum = -1);
    TRY("incomplete", f.data = 32);
    TRY("incomplete", f.data = 0);
    assert_true(n_refused >= 30);
    bytes whole = make_gguf(good);
    for (size_t n = 4; n < whole.n - 24; n++) { /* every cut but of the padding at the end */
        bytes b = whole;
        b.n = n;
        refused("cut", &b, "f");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dat_golden),  cmocka_unit_test(test_dat_llama),
        cmocka_unit_test(test_dat_broken),  cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_gguf_broken), cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
