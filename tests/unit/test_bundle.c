/* Bundles: exact bytes, O(1) reads, the canonical manifest and everything that is not one, hash
 * cache. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/modelfile.h"
#include "common/model/hashes.h"

#include <fcntl.h>

static char *model_dir(uint32_t n_shards, bool untied) {
    char *d = tmp_dir();
    gen_model g = GEN_SMALL;
    g.n_shards = n_shards;
    g.untied = untied;
    gen_write(&g, d);
    return d;
}

/* The bundle file is valid safetensors with exactly the asked tensors and the source's bytes. */
static void check_bundle(const opened *o, const cake_bundle *b, const cake_unit_range *ranges,
                         size_t n_ranges) {
    const cake_manifest *m = b->manifest;
    cake_error err = {0};
    uint8_t *all = malloc((size_t)m->size);
    assert_ok(cake_bundle_read(b, 0, (size_t)m->size, all, &err), &err);
    cake_safetensors st;
    assert_ok(cake_safetensors_parse(&st, all, (size_t)m->size, m->size, 0, "bundle", &err), &err);
    assert_int_equal(st.data_at, m->prefix_len);
    assert_int_equal(m->prefix_len % 64, 0);
    assert_int_equal(st.n_tensors, m->n_tensors);
    assert_int_equal(st.data_bytes, cake_layout_bytes(o->layout, ranges, n_ranges));
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const cake_manifest_tensor *t = &m->tensors[i];
        const cake_tensor *src = &o->ck->tensors[cake_checkpoint_find(o->ck, t->name)];
        const cake_st_tensor *s = cake_safetensors_find(&st, t->name);
        assert_non_null(s);
        assert_int_equal(s->dtype, src->dtype);
        assert_int_equal(s->rank, src->rank);
        assert_memory_equal(s->shape, src->shape, sizeof s->shape);
        assert_int_equal(st.data_at + s->begin, t->offset);
        assert_int_equal(t->n_bytes, src->n_bytes);
        if (src->n_bytes) assert_memory_equal(all + t->offset, src->data, src->n_bytes);
        cake_sha256 h = cake_sha256_of(src->data, src->n_bytes);
        assert_memory_equal(&h, &t->sha256, sizeof h);
    }
    cake_safetensors_deinit(&st);
    /* Any window reads the same, copied or viewed. */
    srand(3);
    for (int i = 0; i < 300; i++) {
        uint64_t at = (uint64_t)rand() % m->size;
        size_t len = (size_t)rand() % 5000;
        if (len > m->size - at) len = (size_t)(m->size - at);
        uint8_t *part = malloc(len ? len : 1);
        assert_ok(cake_bundle_read(b, at, len, part, &err), &err);
        if (len) assert_memory_equal(part, all + at, len);
        free(part);
        const uint8_t *p = NULL;
        size_t got = cake_bundle_view(b, at, len, &p);
        assert_true(len == 0 || (got > 0 && got <= len));
        if (got) assert_memory_equal(p, all + at, got);
    }
    const uint8_t *p = NULL;
    uint64_t at = 0;
    for (size_t k; (k = cake_bundle_view(b, at, SIZE_MAX, &p)) != 0; at += k)
        assert_memory_equal(p, all + at, k);
    assert_int_equal(at, m->size);
    assert_int_equal(cake_bundle_view(b, UINT64_MAX, 1, &p), 0);
    assert_fails(cake_bundle_read(b, m->size, 1, all, &err), CAKE_EINVAL, &err, "outside");
    assert_fails(cake_bundle_read(b, UINT64_MAX, 2, all, &err), CAKE_EINVAL, &err, "outside");
    assert_ok(cake_bundle_read(b, m->size, 0, all, &err), &err);
    free(all);
    /* The manifest reads back as itself. */
    cake_manifest *again;
    assert_ok(cake_manifest_parse(&again, m->json, m->json_len, &err), &err);
    assert_memory_equal(&again->id, &m->id, sizeof m->id);
    cake_sha256 id = cake_sha256_of(m->json, m->json_len);
    assert_memory_equal(&id, &m->id, sizeof id);
    assert_int_equal(again->size, m->size);
    assert_int_equal(again->prefix_len, m->prefix_len);
    assert_memory_equal(again->prefix, m->prefix, m->prefix_len);
    assert_int_equal(again->n_tensors, m->n_tensors);
    assert_int_equal(again->n_units, n_ranges);
    assert_memory_equal(again->units, ranges, n_ranges * sizeof *ranges);
    cake_manifest_free(again);
}

static void test_bytes(void **state) {
    (void)state;
    typedef cake_unit_range R;
    static const struct {
        R r[3];
        size_t n;
    } c[] = {{{{0, 6}}, 1}, {{{0, 1}}, 1},         {{{1, 2}}, 1},
             {{{5, 6}}, 1}, {{{0, 1}, {5, 6}}, 2}, {{{0, 2}, {3, 4}, {5, 6}}, 3}};
    for (int v = 0; v < 3; v++) {
        char *d = model_dir(v == 1 ? 3 : 0, v == 2);
        opened o = open_model(d);
        for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
            cake_bundle *b = NULL;
            cake_error err = {0};
            assert_ok(cake_bundle_new(&b, o.layout, c[i].r, c[i].n, o.config_text, o.config_len,
                                      NULL, NULL, &err),
                      &err);
            check_bundle(&o, b, c[i].r, c[i].n);
            cake_bundle_free(b);
        }
        cake_bundle *b = NULL;
        cake_error err = {0};
        assert_fails(cake_bundle_new(&b, o.layout, (R[]){{0, 7}}, 1, o.config_text, o.config_len,
                                     NULL, NULL, &err),
                     CAKE_EINVAL, &err, "ascending");
        close_model(&o);
        tmp_remove(d);
    }
    opened o = open_model("tests/models/babyllama105-mlx-4bit-g32-mixed");
    cake_bundle *b = bundle_of(&o, 0, 7);
    check_bundle(&o, b, &(R){0, 7}, 1);
    cake_bundle_free(b);
    close_model(&o);
}

/* The same model in one file or three gives the same bundle, bit for bit. */
static void test_sharding_is_invisible(void **state) {
    (void)state;
    char *d = model_dir(0, true), *e = tmp_dir();
    opened o = open_model(d);
    cake_bundle *all = bundle_of(&o, 0, 6), *one = bundle_of(&o, 2, 4);
    char *dir = cake_path_join(e, "sub/all");
    cake_error err = {0};
    assert_ok(cake_bundle_write(all, dir, &err), &err);
    assert_fails(cake_bundle_write(all, dir, &err), CAKE_EINVAL, &err, "exists already");
    opened w = open_model(dir);
    cake_bundle *again = bundle_of(&w, 0, 6), *part = bundle_of(&w, 2, 4);
    assert_memory_equal(&again->manifest->id, &all->manifest->id, sizeof(cake_sha256));
    assert_memory_equal(&part->manifest->id, &one->manifest->id, sizeof(cake_sha256));
    size_t n;
    char *text = read_text(dir, "manifest.json", &n);
    assert_int_equal(n, all->manifest->json_len);
    assert_memory_equal(text, all->manifest->json, n);
    free(text);
    text = read_text(dir, "config.json", &n);
    assert_int_equal(n, o.config_len);
    assert_memory_equal(text, o.config_text, n);
    free(text);
    cake_bundle_free(again);
    cake_bundle_free(part);
    cake_bundle_free(all);
    cake_bundle_free(one);
    close_model(&w);
    close_model(&o);
    /* Nothing but the folder is left. */
    char *sub = cake_path_join(e, "sub"), *cmd = cake_asprintf("ls -A %s | wc -l", sub);
    FILE *fp = popen(cmd, "r");
    int entries = 0;
    assert_int_equal(fscanf(fp, "%d", &entries), 1);
    pclose(fp);
    assert_int_equal(entries, 1);
    free(cmd);
    free(sub);
    free(dir);
    tmp_remove(d);
    tmp_remove(e);
}

static void test_ids(void **state) {
    (void)state;
    char *d = model_dir(0, false);
    opened o = open_model(d);
    cake_bundle *a = bundle_of(&o, 1, 3), *b = bundle_of(&o, 1, 4), *c = NULL;
    cake_error err = {0};
    assert_memory_not_equal(&a->manifest->id, &b->manifest->id, sizeof(cake_sha256));
    /* Another config is another bundle. */
    assert_ok(cake_bundle_new(&c, o.layout, &(cake_unit_range){1, 3}, 1, "{}", 2, NULL, NULL, &err),
              &err);
    assert_memory_not_equal(&a->manifest->id, &c->manifest->id, sizeof(cake_sha256));
    cake_bundle_free(a);
    cake_bundle_free(b);
    cake_bundle_free(c);
    close_model(&o);
    tmp_remove(d);
}

#define HEX  "0000000000000000000000000000000000000000000000000000000000000000"
#define HEAD "{\"cake_manifest\":1,\"size\":"
#define CONF ",\"config\":{\"bytes\":2,\"sha256\":\"" HEX "\"},\"units\":[[0,1]],\"tensors\":["
#define TEN(name, dtype, shape, off, n)                                                            \
    "{\"name\":\"" name "\",\"dtype\":\"" dtype "\",\"shape\":" shape ",\"offset\":" #off          \
    ",\"bytes\":" #n ",\"sha256\":\"" HEX "\"}"

/* The header of one tensor "a" of U8[3]: 8 + {"__metadata__":{"format":"pt"},"a":{...}} padded to
 * 128. */
static void test_manifest_verdicts(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *words; /* NULL: accepted */
    } c[] = {
        {HEAD "131" CONF TEN("a", "U8", "[3]", 128, 3) "]}", NULL},
        {HEAD "128" CONF TEN("a", "U8", "[0]", 128, 0) "]}", NULL},
        {HEAD "196" CONF TEN("a", "U8", "[3]", 192, 3) "," TEN("b", "U8", "[]", 195, 1) "]}", NULL},
        {"", "outside"},
        {"{}", "'\"' expected"},
        {"[1]", "'{' expected"},
        {HEAD "132" CONF TEN("a", "U8", "[3]", 128, 3) "]}", "canonical"},
        {HEAD "131" CONF TEN("a", "U8", "[3]", 129, 3) "]}", "canonical"},
        {HEAD "131" CONF TEN("a", "U8", "[3]", 128, 4) "]}", "canonical"},
        {HEAD "131" CONF TEN("a", "U8", "[ 3]", 128, 3) "]}", "canonical"},
        {HEAD "131" CONF TEN("a", "U8", "[3]", 128, 3) "]}\n", "canonical"},
        {HEAD "131" CONF TEN("a", "U8", "[3]", 128, 3) "]}{}", "follows"},
        {HEAD "131" CONF TEN("\\u0061", "U8", "[3]", 128, 3) "]}", "canonical"},
        {HEAD "131" CONF TEN("a/b", "U8", "[3]", 128, 3) "]}", "name"},
        {HEAD "131" CONF TEN("../a", "U8", "[3]", 128, 3) "]}", "name"},
        {HEAD "131" CONF TEN("", "U8", "[3]", 128, 3) "]}", "name"},
        {HEAD "131" CONF TEN("__metadata__", "U8", "[3]", 128, 3) "]}", "name"},
        {HEAD "131" CONF TEN("a\\u0000", "U8", "[3]", 128, 3) "]}", "NUL"},
        {HEAD "131" CONF TEN("a", "u8", "[3]", 128, 3) "]}", "dtype"},
        {HEAD "131" CONF TEN("a", "F4", "[3]", 128, 3) "]}", "impossible size"},
        {HEAD "131" CONF TEN("a", "U8", "[-3]", 128, 3) "]}", "non-negative"},
        {HEAD "131" CONF TEN("a", "U8", "[3.0]", 128, 3) "]}", "fraction"},
        {HEAD "131" CONF TEN("a", "U8", "[1,1,1,1,1,1,1,1,3]", 128, 3) "]}", "8 dimensions"},
        {HEAD "131" CONF TEN("a", "U8", "[4294967296,4294967296]", 128, 3) "]}", "impossible size"},
        {HEAD "131" CONF TEN("a", "U8", "[9223372036854775807]", 128, 3) "]}", "impossible size"},
        {HEAD "131" CONF TEN("a", "U8", "[3]", 128, 3) "," TEN("a", "U8", "[3]", 131, 3) "]}",
         "twice"},
        {HEAD "131" CONF "]}", "0 tensors"},
        {"{\"cake_manifest\":2,\"size\":131" CONF TEN("a", "U8", "[3]", 128, 3) "]}", "version 2"},
        {"{\"size\":131,\"cake_manifest\":1" CONF TEN("a", "U8", "[3]", 128, 3) "]}",
         "out of order"},
        {HEAD "131,\"config\":{\"bytes\":0,\"sha256\":\"" HEX
              "\"},\"units\":[[0,1]],\"tensors\":[" TEN("a", "U8", "[3]", 128, 3) "]}",
         "config.json of 0"},
        {HEAD "131,\"config\":{\"bytes\":99999999,\"sha256\":\"" HEX
              "\"},\"units\":[[0,1]],\"tensors\":[" TEN("a", "U8", "[3]", 128, 3) "]}",
         "config.json of"},
        {HEAD "131,\"config\":{\"bytes\":2,\"sha256\":\"00\"},\"units\":[[0,1]],\"tensors\":[" TEN(
             "a", "U8", "[3]", 128, 3) "]}",
         "SHA-256"},
        {HEAD "131,\"config\":{\"bytes\":2,\"sha256\":\"" HEX
              "\"},\"units\":[],\"tensors\":[" TEN("a", "U8", "[3]", 128, 3) "]}",
         "unit ranges"},
        {HEAD "131,\"config\":{\"bytes\":2,\"sha256\":\"" HEX
              "\"},\"units\":[[1,1]],\"tensors\":[" TEN("a", "U8", "[3]", 128, 3) "]}",
         "unit ranges"},
        {HEAD "131,\"config\":{\"bytes\":2,\"sha256\":\"" HEX
              "\"},\"units\":[[0,2],[1,3]],\"tensors\":[" TEN("a", "U8", "[3]", 128, 3) "]}",
         "unit ranges"},
        {HEAD "131,\"config\":{\"bytes\":2,\"sha256\":\"" HEX
              "\"},\"units\":[[0,5000]],\"tensors\":[" TEN("a", "U8", "[3]", 128, 3) "]}",
         "unit out of range"},
        {HEAD "131,\"config\":{\"bytes\":2,\"sha256\":\"" HEX
              "\"},\"units\":[[0]],\"tensors\":[" TEN("a", "U8", "[3]", 128, 3) "]}",
         "',' expected"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        cake_manifest *m = NULL;
        cake_error err = {0};
        char *copy = strdup(c[i].text);
        cake_status st = cake_manifest_parse(&m, copy, strlen(copy), &err);
        free(copy);
        if (!c[i].words) {
            assert_ok(st, &err);
            cake_manifest_free(m);
            continue;
        }
        if (st == CAKE_OK || !strstr(err.msg, c[i].words))
            fail_msg("case %zu: expected '%s', got %s", i, c[i].words, err.msg);
    }
    /* Upper-case hashes, every truncation, every single-bit change of a good one. */
    char good[] = HEAD "131" CONF TEN("a", "U8", "[3]", 128, 3) "]}";
    size_t len = sizeof good - 1;
    cake_manifest *m = NULL;
    for (size_t n = 0; n < len; n++) {
        char *copy = malloc(n ? n : 1);
        memcpy(copy, good, n);
        assert_int_not_equal(cake_manifest_parse(&m, copy, n, NULL), CAKE_OK);
        free(copy);
    }
    for (size_t i = 0; i < len; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            good[i] ^= (char)(1u << bit);
            if (cake_manifest_parse(&m, good, len, NULL) == CAKE_OK) cake_manifest_free(m);
            good[i] ^= (char)(1u << bit);
        }
}

static void age(const char *dir, const char *name, int seconds) {
    char *p = cake_path_join(dir, name);
    struct stat sb;
    assert_int_equal(stat(p, &sb), 0);
    struct timespec t[2] = {sb.st_mtim, sb.st_mtim};
    t[0].tv_sec -= seconds, t[1].tv_sec -= seconds;
    assert_int_equal(utimensat(AT_FDCWD, p, t, 0), 0);
    free(p);
}

static void hash_all(const char *dir, const char *cache, cake_pool *pool, cake_sha256 *out,
                     uint32_t *n) {
    cake_checkpoint *ck;
    cake_error err = {0};
    assert_ok(cake_checkpoint_open(&ck, dir, &err), &err);
    uint32_t *idx = cake_calloc(ck->n_tensors, sizeof *idx);
    for (uint32_t i = 0; i < ck->n_tensors; i++) idx[i] = i;
    assert_ok(cake_checkpoint_hash(ck, idx, ck->n_tensors, pool, cache, out, &err), &err);
    *n = ck->n_tensors;
    free(idx);
    cake_checkpoint_close(ck);
}

static void test_hash_cache(void **state) {
    (void)state;
    char *d = model_dir(2, false), *cache = tmp_dir();
    cake_pool *pool = cake_pool_new(3, 10);
    cake_sha256 a[200], b[200];
    uint32_t n;
    const char *shard = "model-00001-of-00002.safetensors";
    hash_all(d, NULL, NULL, a, &n);
    /* Too fresh to be remembered */
    hash_all(d, cache, pool, b, &n);
    assert_memory_equal(a, b, n * sizeof *a);
    char *cmd = cake_asprintf("ls %s | wc -l", cache);
    FILE *fp = popen(cmd, "r");
    int entries = -1;
    assert_int_equal(fscanf(fp, "%d", &entries), 1);
    pclose(fp);
    assert_int_equal(entries, 0);
    age(d, shard, 100);
    age(d, "model-00002-of-00002.safetensors", 100);
    hash_all(d, cache, pool, b, &n);
    assert_memory_equal(a, b, n * sizeof *a);
    fp = popen(cmd, "r");
    assert_int_equal(fscanf(fp, "%d", &entries), 1);
    pclose(fp);
    assert_int_equal(entries, 2);
    /* The cache answers: change a byte behind its back (same size, time and inode). */
    char *path = cake_path_join(d, shard);
    struct stat sb;
    stat(path, &sb);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "zz", 2, sb.st_size - 2), 2);
    close(fd);
    struct timespec t[2] = {sb.st_mtim, sb.st_mtim};
    utimensat(AT_FDCWD, path, t, 0);
    hash_all(d, cache, pool, b, &n);
    assert_memory_equal(a, b, n * sizeof *a);
    /* Another time stamp: hashed again, and the change is seen. */
    age(d, shard, 1);
    hash_all(d, cache, pool, b, &n);
    unsigned differ = 0;
    for (uint32_t i = 0; i < n; i++) differ += memcmp(&a[i], &b[i], sizeof *a) != 0;
    assert_int_equal(differ, 1);
    hash_all(d, cache, pool, a, &n);
    assert_memory_equal(a, b, n * sizeof *a);
    /* A damaged cache is only forgotten. */
    char *spoil = cake_asprintf("for f in %s/*; do echo rubbish >> $f; done", cache);
    assert_int_equal(system(spoil), 0);
    hash_all(d, cache, NULL, b, &n);
    assert_memory_equal(a, b, n * sizeof *a);
    free(spoil);
    free(cmd);
    free(path);
    cake_pool_free(pool);
    tmp_remove(d);
    tmp_remove(cache);
}

/* A source that shrinks under our feet is an error, not a signal. */
static void test_source_shrinks(void **state) {
    (void)state;
    char *d = model_dir(0, false);
    opened o = open_model(d);
    cake_bundle *b = bundle_of(&o, 0, 6);
    char *path = cake_path_join(d, "model.safetensors");
    assert_int_equal(truncate(path, 20000), 0);
    uint8_t *buf = malloc((size_t)b->manifest->size);
    cake_error err = {0};
    assert_fails(cake_bundle_read(b, 0, (size_t)b->manifest->size, buf, &err), CAKE_EIO, &err,
                 "model.safetensors");
    cake_bundle *c = NULL;
    assert_fails(cake_bundle_new(&c, o.layout, &(cake_unit_range){0, 6}, 1, o.config_text,
                                 o.config_len, NULL, NULL, &err),
                 CAKE_EIO, &err, "model.safetensors");
    char *out = cake_path_join(d, "out");
    assert_fails(cake_bundle_write(b, out, &err), CAKE_EIO, &err, "model.safetensors");
    assert_false(cake_dir_exists(out));
    free(out);
    free(buf);
    free(path);
    cake_bundle_free(b);
    close_model(&o);
    tmp_remove(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),      cmocka_unit_test(test_sharding_is_invisible),
        cmocka_unit_test(test_ids),        cmocka_unit_test(test_manifest_verdicts),
        cmocka_unit_test(test_hash_cache), cmocka_unit_test(test_source_shrinks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
