/* Checkpoints: folders, shards, indexes, single files, names from the Hugging Face cache. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/modelfile.h"

static void opens(const char *path, uint32_t n_tensors, uint32_t n_files, uint32_t n_warnings) {
    cake_checkpoint *c = NULL;
    cake_error err = {0};
    assert_ok(cake_checkpoint_open(&c, path, &err), &err);
    assert_int_equal(c->n_tensors, n_tensors);
    assert_int_equal(c->n_files, n_files);
    assert_int_equal(c->n_warnings, n_warnings);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        assert_int_equal(cake_checkpoint_find(c, c->tensors[i].name), i);
        if (c->tensors[i].n_bytes)
            assert_ptr_equal(c->tensors[i].data,
                             c->files[c->tensors[i].file].map.data + c->tensors[i].file_offset);
        bytes += c->tensors[i].n_bytes;
    }
    assert_int_equal(bytes, c->n_bytes);
    assert_int_equal(cake_checkpoint_find(c, "no such tensor"), -1);
    cake_checkpoint_close(c);
}
static void refused(const char *path, cake_status want, const char *words, const char *more) {
    cake_checkpoint *c = NULL;
    cake_error err = {0};
    assert_fails(cake_checkpoint_open(&c, path, &err), want, &err, words);
    if (more && !strstr(err.msg, more)) fail_msg("'%s' is not in: %s", more, err.msg);
    assert_null(c);
}

static void two_shards(const char *d) {
    st_file f = {0};
    st_add1(&f, "b", CAKE_DTYPE_U8, 3);
    st_add2(&f, "a", CAKE_DTYPE_F32, 2, 2);
    st_write(&f, d, "model-00001-of-00002.safetensors", 1);
    st_add1(&f, "c", CAKE_DTYPE_BF16, 5);
    st_add1(&f, "empty", CAKE_DTYPE_F32, 0);
    st_write(&f, d, "model-00002-of-00002.safetensors", 2);
}
#define S1    "\"model-00001-of-00002.safetensors\""
#define S2    "\"model-00002-of-00002.safetensors\""
#define INDEX "model.safetensors.index.json"

static void test_folders(void **state) {
    (void)state;
    char *d = tmp_dir();
    refused(d, CAKE_ENOTFOUND, "no model*.safetensors", NULL);
    write_text(d, "pytorch_model.bin", "x");
    refused(d, CAKE_ENOTFOUND, "only files of other formats", NULL);
    two_shards(d);
    opens(d, 4, 2, 0); /* by name */
    write_text(d, INDEX,
               "{\"metadata\":{\"total_size\":29},\"weight_map\":{\"a\":" S1 ",\"b\":" S1
               ",\"c\":" S2 ",\"empty\":" S2 "}}");
    opens(d, 4, 2, 0);
    write_text(d, INDEX,
               "{\"metadata\":{\"total_size\":2.9e1},\"weight_map\":{\"a\":" S1 ",\"b\":" S1
               ",\"c\":" S2 ",\"empty\":" S2 "}}");
    opens(d, 4, 2, 0);
    write_text(d, INDEX,
               "{\"weight_map\":{\"a\":" S1 ",\"b\":" S1 ",\"c\":" S2 ",\"empty\":" S2 "}}");
    opens(d, 4, 2, 0);
    write_text(d, INDEX,
               "{\"metadata\":{\"total_size\":30},\"weight_map\":{\"a\":" S1 ",\"c\":" S2 "}}");
    opens(d, 4, 2, 2); /* unmapped tensors, wrong total */
    /* Only the shards the index names are opened. */
    write_text(d, INDEX, "{\"weight_map\":{\"a\":" S1 ",\"b\":" S1 "}}");
    opens(d, 2, 1, 0);
    /* The bytes are those at 8 + n + begin of the file. */
    cake_checkpoint *c = NULL;
    cake_error err = {0};
    assert_ok(cake_checkpoint_open(&c, d, &err), &err);
    size_t len;
    char *raw = read_text(d, "model-00001-of-00002.safetensors", &len);
    uint64_t n;
    memcpy(&n, raw, 8);
    const cake_tensor *a = &c->tensors[cake_checkpoint_find(c, "a")],
                      *b = &c->tensors[cake_checkpoint_find(c, "b")];
    assert_int_equal(len, 8 + n + 19);
    assert_int_equal(b->n_bytes, 3);
    assert_memory_equal(b->data, raw + 8 + n, 3);
    assert_int_equal(a->n_bytes, 16);
    assert_memory_equal(a->data, raw + 8 + n + 3, 16);
    assert_int_equal(a->file_offset, 8 + n + 3);
    free(raw);
    cake_checkpoint_close(c);
    /* A single file, by path. */
    char *one = cake_path_join(d, "model-00002-of-00002.safetensors");
    opens(one, 2, 1, 0);
    free(one);
    refused("tests/models/none", CAKE_ENOTFOUND, "tests/models/none", NULL);
    tmp_remove(d);
}

static void test_broken(void **state) {
    (void)state;
    char *d = tmp_dir();
    two_shards(d);
    write_text(d, INDEX, "{\"weight_map\":{\"a\":" S1 ",\"b\":" S1 ",\"z\":" S2 "}}");
    refused(d, CAKE_EFORMAT, "tensor 'z'", "00002-of-00002");
    write_text(d, INDEX, "{\"weight_map\":{\"a\":" S2 ",\"c\":" S1 "}}");
    refused(d, CAKE_EFORMAT, "places tensor 'a'", "00001-of-00002");
    write_text(d, INDEX,
               "{\"weight_map\":{\"a\":" S1 ",\"x\":\"model-00003-of-00003.safetensors\"}}");
    refused(d, CAKE_ENOTFOUND, "shard 'model-00003-of-00003.safetensors' is missing", d);
    write_text(d, INDEX, "{\"weight_map\":{}}");
    refused(d, CAKE_EFORMAT, "lists no tensor", INDEX);
    /* The same tensor in two files */
    char *index = cake_path_join(d, INDEX);
    remove(index);
    free(index);
    st_file f = {0};
    st_add1(&f, "c", CAKE_DTYPE_BF16, 5);
    st_write(&f, d, "model-extra.safetensors", 3);
    refused(d, CAKE_EFORMAT, "tensor 'c' is both in", "model-extra.safetensors");
    /* A truncated shard, named with the tensor */
    char *extra = cake_path_join(d, "model-extra.safetensors"),
         *second = cake_path_join(d, "model-00002-of-00002.safetensors");
    remove(extra);
    struct stat sb;
    assert_int_equal(stat(second, &sb), 0);
    assert_int_equal(truncate(second, sb.st_size - 1), 0);
    refused(d, CAKE_EFORMAT, "truncated: tensor 'empty'", "00002-of-00002");
    assert_int_equal(truncate(second, 20), 0);
    refused(d, CAKE_EFORMAT, "truncated", "00002-of-00002");
    assert_int_equal(truncate(second, 0), 0);
    refused(d, CAKE_EFORMAT, "not a safetensors file", "00002-of-00002");
    remove(second);
    write_text(d, "model-00002-of-00002.safetensors",
               "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
    refused(d, CAKE_EFORMAT, "git lfs pull", NULL);
    remove(second);
    mkdir(second, 0700);
    refused(d, CAKE_EFORMAT, "not a regular file", NULL);
    free(extra);
    free(second);
    tmp_remove(d);
}

static void test_index(void **state) {
    (void)state;
    static const struct {
        const char *text, *words; /* NULL: accepted */
    } c[] = {
        {"{\"weight_map\":{\"a\":\"m.safetensors\"}}", NULL},
        {" {\"metadata\":null,\"weight_map\":{}}\n", NULL},
        {"{\"metadata\":{\"total_size\":5,\"x\":[1,{\"y\":-1.5e3}],\"z\":true},\"weight_map\":{},"
         "\"other\":\"x\"}",
         NULL},
        {"", "'{' expected"},
        {"[]", "'{' expected"},
        {"{}", "no weight_map"},
        {"{\"weight_map\":[]}", "'{' expected"},
        {"{\"weight_map\":{\"a\":1}}", "'\"' expected"},
        {"{\"weight_map\":{\"a\":\"m.safetensors\"}", "',' expected"},
        {"{\"weight_map\":{}}x", "follows"},
        {"{\"weight_map\":{},\"weight_map\":{}}", "twice"},
        {"{\"weight_map\":{\"a\":\"m.safetensors\",\"a\":\"n.safetensors\"}}",
         "'a' is listed twice"},
        {"{\"weight_map\":{\"a\":\"../m.safetensors\"}}", "not the plain name"},
        {"{\"weight_map\":{\"a\":\"/m.safetensors\"}}", "not the plain name"},
        {"{\"weight_map\":{\"a\":\"x\\\\m.safetensors\"}}", "not the plain name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "not the plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "not the plain name"},
        {"{\"weight_map\":{\"a\":\"m.bin\"}}", "not the plain name"},
        {"{\"weight_map\":{\"a\":\"m\\u0000.safetensors\"}}", "NUL"},
        {"{\"metadata\":{\"a\":[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]},\"weight_map\":{}}",
         "nested too deep"},
        {"{\"metadata\":{\"a\":01},\"weight_map\":{}}", "bad number"},
        {"{\"metadata\":{\"a\":1.},\"weight_map\":{}}", "bad number"},
        {"{\"metadata\":{\"a\":nul},\"weight_map\":{}}", "a value is expected"},
        {"{\"weight_map\":{\"a\":\"m.safetensors\",}}", "'\"' expected"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        cake_index ix;
        cake_error err = {0};
        char *copy = strdup(c[i].text); /* exact size for ASan */
        cake_status st = cake_index_parse(&ix, copy, strlen(copy), "index", &err);
        free(copy);
        if (c[i].words) {
            assert_fails(st, CAKE_EFORMAT, &err, c[i].words);
        } else {
            assert_ok(st, &err);
            cake_index_deinit(&ix);
        }
    }
    cake_index ix;
    cake_error err = {0};
    const char *text =
        "{\"metadata\":{\"total_size\":77},\"weight_map\":{\"x.y\":\"m.safetensors\"}}";
    assert_ok(cake_index_parse(&ix, text, strlen(text), "index", &err), &err);
    assert_true(ix.has_total_size && ix.total_size == 77 && ix.n_entries == 1);
    assert_string_equal(ix.entries[0].tensor, "x.y");
    assert_string_equal(ix.entries[0].file, "m.safetensors");
    cake_index_deinit(&ix);
}

/* Real index files, and every model the repository ships. */
static void test_real(void **state) {
    (void)state;
    opens("tests/models/stories260K-hf", 47, 1, 0);
    opens("tests/models/babyllama105-hf", 47, 1, 0);
    opens("tests/models/babyllama105-padffn64-hf-bf16", 47, 1, 0);
    opens("tests/models/babyllama105-mlx-4bit-g64", 119, 1, 0);
    opens("tests/models/babyllama105-mlx-4bit-g32-mixed", 119, 1, 0);
    opens("tests/models/babyllama105-mlx-8bit-g64", 119, 1, 0);
    static const struct {
        const char *name;
        size_t n;
        uint64_t total;
    } real[] = {{"llama3.2-3b-bf16", 254, 6425499648},
                {"qwen3-14b-mlx-4bit", 1007, 8307783680},
                {"mixtral-wizardlm2-8x22b", 1739, 281241268224},
                {"qwen3.8-27b-mlx-mixed-4-8bit", 2180, 20444027360}};
    char *there = shared_data("configs");
    if (!there) skip();
    free(there);
    for (size_t i = 0; i < sizeof real / sizeof *real; i++) {
        char *path = cake_asprintf("../shared/data/configs/%s/" INDEX, real[i].name), *text;
        size_t len;
        cake_index ix;
        cake_error err = {0};
        assert_ok(cake_file_read(path, 1 << 26, &text, &len, &err), &err);
        assert_ok(cake_index_parse(&ix, text, len, path, &err), &err);
        assert_int_equal(ix.n_entries, real[i].n);
        assert_true(ix.has_total_size && ix.total_size == real[i].total);
        cake_index_deinit(&ix);
        free(text);
        free(path);
    }
}

static void resolves(const char *arg, const char *want) {
    char *path = NULL;
    cake_error err = {0};
    cake_status st = cake_model_resolve(arg, &path, &err);
    if (!want) {
        assert_int_equal(st, CAKE_ENOTFOUND);
        assert_non_null(strstr(err.msg, arg));
        /* Only what looks like a name is looked up. */
        bool name = strstr(arg, "org/na") == arg && !strstr(arg, "@../");
        assert_int_equal(strstr(err.msg, "huggingface-cli") != NULL, name);
        return;
    }
    assert_ok(st, &err);
    if (strcmp(path, want) != 0) fail_msg("%s: %s, expected %s", arg, path, want);
    free(path);
}

static void test_resolve(void **state) {
    (void)state;
    char *d = tmp_dir();
    char *hub = cake_path_join(d, "hub");
    cake_error err = {0};
    unsetenv("HF_HUB_CACHE");
    setenv("HF_HOME", d, 1);
    resolves("tests/models/stories260K-hf", "tests/models/stories260K-hf");
    resolves("org/name", NULL);
    resolves("../../etc/nothing", NULL);
    resolves("a/b/c", NULL);
    resolves("org/..", NULL);
    resolves("", NULL);
    char *a = cake_path_join(hub, "models--org--na.me_1/snapshots/c0ffee"),
         *b = cake_path_join(hub, "models--org--na.me_1/snapshots/beef"),
         *refs = cake_path_join(hub, "models--org--na.me_1/refs");
    assert_ok(cake_mkdir_p(a, 0700, &err), &err);
    assert_ok(cake_mkdir_p(refs, 0700, &err), &err);
    resolves("org/na.me_1", a); /* the only one */
    assert_ok(cake_mkdir_p(b, 0700, &err), &err);
    resolves("org/na.me_1", NULL); /* two, and no refs/main */
    write_text(refs, "main", "beef\n");
    write_text(refs, "v2", "c0ffee");
    write_text(refs, "evil", "../../../x");
    resolves("org/na.me_1", b);
    resolves("org/na.me_1@v2", a);
    resolves("org/na.me_1@c0ffee", a);
    resolves("org/na.me_1@evil", NULL);
    resolves("org/na.me_1@../refs", NULL);
    resolves("org/na.me_1@none", NULL);
    setenv("HF_HUB_CACHE", hub, 1);
    unsetenv("HF_HOME");
    resolves("org/na.me_1", b);
    unsetenv("HF_HUB_CACHE");
    free(a);
    free(b);
    free(refs);
    free(hub);
    tmp_remove(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders), cmocka_unit_test(test_broken),
        cmocka_unit_test(test_index),   cmocka_unit_test(test_real),
        cmocka_unit_test(test_resolve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
