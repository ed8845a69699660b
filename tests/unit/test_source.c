/* Quantization blocks that nobody may take, blocks that contradict the tensors, and the weights of
 * a checkpoint as floats: each form decoded, experts stacked, fused ones split. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/json.h"
#include "master/tools/inspection.h"
#include "master/tools/source.h"
#include "master/tools/verification.h"
#include "tests/unit/modelfile.h"

static cake_status parse_block(const char *block, cake_quant **q, cake_error *err) {
    char *text = cake_asprintf("{\"quantization\":%s}", block);
    json_object *o;
    *err = (cake_error){0};
    cake_status st = cake_json_parse(text, strlen(text), 16, "config.json", &o, err);
    if (st == CAKE_OK) {
        st = cake_quant_parse(o, q, err);
        json_object_put(o);
    }
    free(text);
    return st;
}

static void test_broken_blocks(void **state) {
    (void)state;
    static const struct {
        const char *block, *words;
    } bad[] = {
        {"3", "not an object"},
        {"\"q4_k\"", "not an object"},
        {"[]", "not an object"},
        {"true", "not an object"},
        {"{\"bits\":\"4\"}", "bits"},
        {"{\"bits\":4.5}", "bits"},
        {"{\"bits\":-4}", "bits"},
        {"{\"bits\":0}", "bits"},
        {"{\"bits\":1}", "1 bits"},
        {"{\"bits\":7}", "7 bits"},
        {"{\"bits\":9}", "9 bits"},
        {"{\"bits\":64}", "64 bits"},
        {"{\"bits\":1e300}", "bits"},
        {"{\"bits\":99999999999999999999}", "bits"},
        {"{\"bits\":[4]}", "bits"},
        {"{\"group_size\":0}", "group_size"},
        {"{\"group_size\":-64}", "group_size"},
        {"{\"group_size\":16}", "groups of 16"},
        {"{\"group_size\":48}", "groups of 48"},
        {"{\"group_size\":256}", "groups of 256"},
        {"{\"group_size\":\"64\"}", "group_size"},
        {"{\"group_size\":4294967297}", "group_size"},
        {"{\"mode\":4}", "mode"},
        {"{\"mode\":\"\"}", "mode"},
        {"{\"mode\":\"AFFINE\"}", "mode"},
        {"{\"mode\":\"nf4\"}", "nf4"},
        {"{\"mode\":\"a\\u0000\"}", "mode"},
        {"{\"mode\":\"mxfp4\",\"bits\":8}", "mxfp4"},
        {"{\"mode\":\"mxfp8\",\"group_size\":64}", "mxfp8"},
        {"{\"mode\":\"nvfp4\",\"group_size\":32}", "nvfp4"},
        {"{\"bits\":4,\"a\":{\"bits\":7}}", "'a'"},
        {"{\"bits\":4,\"a\":{\"mode\":\"kquant\"}}", "'a'"},
        {"{\"bits\":4,\"a\":{\"bits\":4,\"codec\":\"q4_k\"}}", "codec"},
        {"{\"bits\":4,\"a\":{\"group_size\":{}}}", "'a'"},
        {"{\"mode\":\"kquant\"}", "per_tensor"},
        {"{\"mode\":\"kquant\",\"per_tensor\":null}", "per_tensor"},
        {"{\"mode\":\"kquant\",\"per_tensor\":{}}", "per_tensor"},
        {"{\"mode\":\"kquant\",\"per_tensor\":[]}", "per_tensor"},
        {"{\"mode\":\"kquant\",\"per_tensor\":{\"a\":null}}", "'a'"},
        {"{\"mode\":\"kquant\",\"per_tensor\":{\"a\":4}}", "'a'"},
        {"{\"mode\":\"kquant\",\"per_tensor\":{\"a\":{}}}", "'a'"},
        {"{\"mode\":\"kquant\",\"per_tensor\":{\"a\":\"\"}}", "'a'"},
        {"{\"mode\":\"kquant\",\"per_tensor\":{\"a\":\"Q4_K\"}}", "Q4_K"},
        {"{\"mode\":\"kquant\",\"per_tensor\":{\"a\":\"iq2_xxs\"}}", "iq2_xxs"},
        {"{\"mode\":\"kquant\",\"per_tensor\":{\"a\":\"q4_k\",\"b\":\"q8_k\"}}", "'b'"},
    };
    assert_true(sizeof bad / sizeof *bad >= 30);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cake_quant *q;
        cake_error err;
        if (parse_block(bad[i].block, &q, &err) == CAKE_OK) fail_msg("accepted: %s", bad[i].block);
        if (!strstr(err.msg, bad[i].words))
            fail_msg("%s: '%s' is not in: %s", bad[i].block, bad[i].words, err.msg);
    }
}

/* ---- tensors and blocks that do not agree ---- */

static cake_status source_of(const char *dir, const char *block, cake_source **s,
                             cake_checkpoint **ck, cake_error *err) {
    cake_quant *q = NULL;
    *err = (cake_error){0};
    cake_status st = parse_block(block, &q, err);
    if (st == CAKE_OK) st = cake_checkpoint_open(ck, dir, err);
    if (st == CAKE_OK) {
        st = cake_source_new(s, *ck, q, false, true, err);
        if (st != CAKE_OK) cake_checkpoint_close(*ck);
    }
    cake_quant_free(q);
    return st;
}

static void contradicts(st_file *f, const char *block, const char *words) {
    char *dir = tmp_dir();
    cake_source *s;
    cake_checkpoint *ck;
    cake_error err;
    st_write(f, dir, "model.safetensors", 1);
    if (source_of(dir, block, &s, &ck, &err) == CAKE_OK) fail_msg("accepted: %s", words);
    if (!strstr(err.msg, words)) fail_msg("'%s' is not in: %s", words, err.msg);
    tmp_remove(dir);
}

#define A4 "{\"group_size\":32,\"bits\":4}"
#define KQ "{\"mode\":\"kquant\",\"per_tensor\":{\"a\":\"q4_k\"}}"

static void test_contradictions(void **state) {
    (void)state;
    st_file f = {0};
    st_add2(&f, "a.weight", CAKE_DTYPE_U32, 4, 8), st_add2(&f, "a.scales", CAKE_DTYPE_F16, 4, 2);
    contradicts(&f, A4, "biases");
    st_add2(&f, "a.weight", CAKE_DTYPE_U32, 4, 8);
    contradicts(&f, A4, "dtype U32");
    st_add2(&f, "a.weight", CAKE_DTYPE_F16, 4, 8), st_add2(&f, "a.scales", CAKE_DTYPE_F16, 4, 2);
    contradicts(&f, A4, "not packed");
    st_add2(&f, "a.weight", CAKE_DTYPE_U32, 4, 8), st_add2(&f, "a.scales", CAKE_DTYPE_F16, 4, 3);
    st_add2(&f, "a.biases", CAKE_DTYPE_F16, 4, 3);
    contradicts(&f, A4, "scales of another size");
    st_add2(&f, "a.weight", CAKE_DTYPE_U32, 4, 8), st_add2(&f, "a.scales", CAKE_DTYPE_F16, 4, 2);
    st_add2(&f, "a.biases", CAKE_DTYPE_BF16, 4, 2);
    contradicts(&f, A4, "biases like its scales");
    st_add2(&f, "a.weight", CAKE_DTYPE_U32, 4, 8), st_add2(&f, "a.scales", CAKE_DTYPE_U8, 4, 2);
    st_add2(&f, "a.biases", CAKE_DTYPE_U8, 4, 2);
    contradicts(&f, A4, "F32, F16 or BF16");
    st_add2(&f, "a.weight", CAKE_DTYPE_U32, 4, 6), st_add2(&f, "a.scales", CAKE_DTYPE_F16, 4, 2);
    contradicts(&f, A4, "does not divide");
    st_add2(&f, "a.scales", CAKE_DTYPE_F16, 4, 2);
    contradicts(&f, A4, "belongs to no weight");
    st_add2(&f, "a.weight", CAKE_DTYPE_U8, 4, 143);
    contradicts(&f, KQ, "blocks");
    st_add2(&f, "a.weight", CAKE_DTYPE_U32, 4, 144);
    contradicts(&f, KQ, "blocks");
    st_add2(&f, "b.weight", CAKE_DTYPE_U8, 4, 144);
    contradicts(&f, KQ, "dtype U8");
    st_add2(&f, "a.weight", CAKE_DTYPE_F16, 0, 32);
    contradicts(&f, A4, "empty");
    st_add2(&f, "a.weight", CAKE_DTYPE_F64, 4, 32);
    contradicts(&f, A4, "dtype F64");
    st_add2(&f, "m.mlp.experts.0.up_proj.weight", CAKE_DTYPE_F16, 4, 32);
    st_add2(&f, "m.mlp.experts.2.up_proj.weight", CAKE_DTYPE_F16, 4, 32);
    contradicts(&f, A4, "expert 1");
    st_add2(&f, "m.mlp.experts.0.up_proj.weight", CAKE_DTYPE_F16, 4, 32);
    st_add2(&f, "m.mlp.experts.1.up_proj.weight", CAKE_DTYPE_F16, 4, 64);
    contradicts(&f, A4, "expert 1");
    st_add2(&f, "m.mlp.experts.0.up_proj.weight", CAKE_DTYPE_F16, 4, 32);
    st_add(&f, "m.mlp.switch_mlp.up_proj.weight", CAKE_DTYPE_F16, 3, (uint64_t[]){1, 4, 32});
    contradicts(&f, A4, "twice");
}

/* ---- stacks ---- */

/* Two experts stored fused are the two stacks, row for row. */
static void test_fused(void **state) {
    (void)state;
    char *dir = tmp_dir();
    st_file f = {0};
    cake_source *s;
    cake_checkpoint *ck;
    cake_error err;
    st_add(&f, "model.layers.0.mlp.experts.gate_up_proj", CAKE_DTYPE_F32, 3, (uint64_t[]){2, 6, 8});
    st_add(&f, "model.layers.0.mlp.experts.down_proj", CAKE_DTYPE_F32, 3, (uint64_t[]){2, 8, 3});
    st_write(&f, dir, "model.safetensors", 5);
    if (source_of(dir, A4, &s, &ck, &err) != CAKE_OK) fail_msg("%s", err.msg);
    assert_int_equal(s->n, 3);
    for (int up = 0; up < 2; up++) {
        const cake_source_weight *w =
            cake_source_find(s, up ? "model.layers.0.mlp.switch_mlp.up_proj.weight"
                                   : "model.layers.0.mlp.switch_mlp.gate_proj.weight");
        assert_non_null(w);
        assert_int_equal(w->n_parts, 2);
        assert_int_equal(w->shape[0], 2);
        assert_int_equal(w->shape[1], 3);
        assert_int_equal(w->shape[2], 8);
        for (uint32_t e = 0; e < 2; e++) {
            float got[24];
            uint8_t scratch[512];
            assert_true(cake_source_scratch(w, 3) <= sizeof scratch);
            assert_ok(cake_source_read(s, w, e, 0, 3, scratch, got, &err), &err);
            const cake_tensor *t =
                &ck->tensors[cake_checkpoint_find(ck, "model.layers.0.mlp.experts.gate_up_proj")];
            assert_memory_equal(got, t->data + (e * 6 + up * 3) * 8 * sizeof(float), sizeof got);
        }
    }
    const cake_source_weight *down =
        cake_source_find(s, "model.layers.0.mlp.switch_mlp.down_proj.weight");
    assert_non_null(down);
    assert_true(down->matrix && down->k == 3 && down->n_rows == 16);
    cake_source_free(s);
    cake_checkpoint_close(ck);
    tmp_remove(dir);
}

/* ---- bundles ---- */

/* inspect of a bundle says which units it has; verify checks it as far as it goes. */
static void test_bundle(void **state) {
    (void)state;
    char *dir = tmp_dir(), *at = cake_path_join(dir, "bundle"), *from = cake_path_join(dir, "m");
    cake_error err = {0};
    assert_ok(cake_mkdir_p(from, 0755, &err), &err);
    gen_write(&GEN_SMALL, from);
    opened o = open_model(from);
    cake_bundle *b = bundle_of(&o, 2, 4);
    assert_ok(cake_bundle_write(b, at, &err), &err);
    cake_bundle_free(b);
    close_model(&o);
    cake_inspection x;
    assert_ok(cake_inspect(&x, at, &err), &err);
    assert_non_null(x.manifest);
    assert_non_null(x.layout);
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    cake_inspection_print(&x, true, f);
    fclose(f);
    assert_non_null(strstr(text, "units [2, 4)"));
    assert_non_null(strstr(text, "model.layers.2.mlp.down_proj"));
    assert_null(strstr(text, "model.layers.0."));
    free(text);
    f = open_memstream(&text, &len);
    cake_inspection_print_json(&x, f);
    fclose(f);
    json_object *j, *units;
    assert_ok(cake_json_parse(text, len, 16, "json", &j, &err), &err);
    assert_true(json_object_object_get_ex(j, "bundle_units", &units));
    assert_int_equal(json_object_array_length(units), 1);
    json_object_put(j);
    free(text);
    cake_inspection_deinit(&x);
    tmp_remove(dir);
    free(at);
    free(from);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_blocks),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_fused),
        cmocka_unit_test(test_bundle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
