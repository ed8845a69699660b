/* The GGUF reader: every type of value and tensor, and files that are wrong in one place each
 * (formats.md 6.2), made from a right one. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/codec.h"
#include "tests/unit/gguffile.h"

static cake_error err;
#define OK(call) assert_ok((call), &err)

static cake_status parse(cake_gguf *g, const bytes *b) {
    uint8_t *exact = malloc(b->n ? b->n : 1); /* a sanitizer sees the first byte too many */
    if (b->n) memcpy(exact, b->p, b->n);
    cake_status st = cake_gguf_parse(g, exact, b->n, CAKE_GGUF_NAME_MAX, "x.gguf", &err);
    if (st == CAKE_OK) cake_gguf_deinit(g);
    free(exact);
    return st;
}

/* ---- right files ---- */

static void test_example(void **state) {
    (void)state;
    /* The 160 bytes of formats.md 6.1. */
    static const uint8_t block[18] = {0x00, 0x2e, 0x55, 0x7a, 0x9f, 0xc4, 0xe9, 0x0e, 0x33,
                                      0x58, 0x7d, 0xa2, 0xc7, 0xec, 0x11, 0x36, 0x5b, 0x80};
    gguf_file f = {0};
    kv_text(&f, "general.architecture", "llama");
    add_tensor(&f, "w", 2, 2, (uint64_t[]){32, 1}, block);
    bytes b = finish(&f);
    assert_int_equal(b.n, 160);
    cake_gguf g;
    OK(cake_gguf_parse(&g, b.p, b.n, CAKE_GGUF_NAME_MAX, "example", &err));
    assert_int_equal(g.version, 3);
    assert_int_equal(g.data_at, 128);
    assert_int_equal(g.n_tensors, 1);
    assert_int_equal(g.tensors[0].offset, 128);
    assert_int_equal(g.tensors[0].n_bytes, 18);
    assert_int_equal(g.tensors[0].kind->codec, CAKE_BLOCK_Q4_0);
    cake_gguf_text s;
    OK(cake_gguf_string(&g, "general.architecture", true, 10, &s, &err));
    assert_int_equal(s.n, 5);
    assert_memory_equal(s.s, "llama", 5);
    cake_gguf_deinit(&g);
    /* The padding behind the last tensor may be missing; version 2 is the same. */
    b.n -= 14;
    OK(parse(&g, &b));
    b.p[4] = 2;
    OK(parse(&g, &b));
    free(b.p);
}

static void test_types(void **state) {
    (void)state;
    for (uint32_t id = 0; id < 64; id++) {
        const cake_gguf_kind *k = cake_gguf_kind_of(id);
        cake_codec codec;
        if (cake_codec_from_ggml(id, &codec)) {
            assert_non_null(k);
            assert_int_equal(k->weights, cake_codec_get(codec)->weights);
            assert_int_equal(k->bytes, cake_codec_get(codec)->bytes);
            assert_string_equal(cake_block_get(k->codec)->name, cake_codec_name(codec));
        } else if (k && k->bytes) {
            assert_int_equal(cake_dtype_bits(k->dtype), 8 * k->bytes);
        }
    }
    gguf_file f = {0};
    static const unsigned width[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (uint32_t t = 0; t < CAKE_GGUF_TYPES; t++) {
        if (t == CAKE_GGUF_ARRAY) continue;
        char key[20];
        snprintf(key, sizeof key, "one.%u", t);
        put_text(&f.kv, key), put_u32(&f.kv, t), f.n_kv++;
        if (t == CAKE_GGUF_STRING)
            put_text(&f.kv, "text");
        else
            put_int(&f.kv, t == CAKE_GGUF_BOOL ? 1 : UINT64_MAX, width[t]);
        snprintf(key, sizeof key, "many.%u", t);
        kv_array(&f, key, (cake_gguf_type)t, 3);
        for (int i = 0; i < 3; i++) {
            if (t == CAKE_GGUF_STRING)
                put_text(&f.kv, i == 1 ? "" : "ab");
            else
                put_int(&f.kv, (uint64_t)i & 1, width[t]);
        }
        snprintf(key, sizeof key, "none.%u", t);
        kv_array(&f, key, (cake_gguf_type)t, 0);
    }
    static const uint32_t kinds[] = {0,  1,  2,  3,  6,  7,  8,  10, 11, 12,
                                     13, 14, 24, 25, 26, 27, 28, 30, 39, 40};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char name[20];
        snprintf(name, sizeof name, "t%u", kinds[i]);
        add_tensor(&f, name, kinds[i], 3, (uint64_t[]){256, 2, 3}, NULL);
    }
    bytes b = finish(&f);
    cake_gguf g;
    OK(cake_gguf_parse(&g, b.p, b.n, CAKE_GGUF_NAME_MAX, "all", &err));
    assert_int_equal(g.n_values, 36);
    assert_int_equal(g.n_tensors, 20);
    for (size_t i = 0; i < g.n_tensors; i++) {
        const cake_gguf_tensor *t = &g.tensors[i];
        assert_int_equal(t->n_bytes, 1536 / t->kind->weights * t->kind->bytes);
        assert_int_equal(b.p[t->offset], (i + 1) % 61);
        assert_ptr_equal(cake_gguf_tensor_named(&g, t->name), t);
    }
    /* Signed ones are -1, unsigned ones their largest. */
    assert_int_equal(cake_gguf_int_at(cake_gguf_get(&g, "one.0"), 0), 255);
    assert_int_equal(cake_gguf_int_at(cake_gguf_get(&g, "one.1"), 0), -1);
    assert_int_equal(cake_gguf_int_at(cake_gguf_get(&g, "one.3"), 0), -1);
    assert_int_equal(cake_gguf_int_at(cake_gguf_get(&g, "one.5"), 0), -1);
    assert_int_equal(cake_gguf_int_at(cake_gguf_get(&g, "one.11"), 0), -1);
    assert_true(cake_gguf_int_at(cake_gguf_get(&g, "one.10"), 0) == INT64_MAX); /* no such size */
    assert_int_equal(cake_gguf_int_at(cake_gguf_get(&g, "many.5"), 1), 1);
    const cake_gguf_value *v;
    OK(cake_gguf_array(&g, "many.8", true, CAKE_GGUF_STRING, &v, &err));
    const uint8_t *at = v->at;
    assert_int_equal(cake_gguf_next_string(&at).n, 2);
    assert_int_equal(cake_gguf_next_string(&at).n, 0);
    assert_int_equal(cake_gguf_next_string(&at).n, 2);
    /* Getters refuse what is of another type, out of range or missing, and name the key. */
    uint64_t u = 7;
    double d = 7;
    bool t = false;
    cake_gguf_text s;
    OK(cake_gguf_uint(&g, "absent", false, 0, 9, &u, &err));
    assert_int_equal(u, 7);
    assert_fails(cake_gguf_uint(&g, "absent", true, 0, 9, &u, &err), CAKE_EFORMAT, &err,
                 "'absent'");
    assert_fails(cake_gguf_uint(&g, "one.0", true, 0, 9, &u, &err), CAKE_EFORMAT, &err, "255");
    assert_fails(cake_gguf_uint(&g, "one.5", true, 0, 9, &u, &err), CAKE_EFORMAT, &err, "-1");
    assert_fails(cake_gguf_uint(&g, "one.8", true, 0, 9, &u, &err), CAKE_EFORMAT, &err, "string");
    assert_fails(cake_gguf_uint(&g, "many.4", true, 0, 9, &u, &err), CAKE_EFORMAT, &err,
                 "an array of u32");
    assert_fails(cake_gguf_double(&g, "one.6", true, &d, &err), CAKE_EFORMAT, &err, "finite");
    assert_fails(cake_gguf_double(&g, "one.4", true, &d, &err), CAKE_EFORMAT, &err, "a number");
    assert_fails(cake_gguf_bool(&g, "one.0", &t, &err), CAKE_EFORMAT, &err, "true or false");
    OK(cake_gguf_bool(&g, "one.7", &t, &err));
    assert_true(t);
    assert_fails(cake_gguf_string(&g, "one.8", true, 3, &s, &err), CAKE_EFORMAT, &err, "4 bytes");
    assert_fails(cake_gguf_array(&g, "many.8", true, CAKE_GGUF_F32, &v, &err), CAKE_EFORMAT, &err,
                 "array of f32");
    cake_gguf_deinit(&g);
    free(b.p);
}

/* ---- wrong files ---- */

/* One of everything, in places that the changes below know. */
enum { VERSION = 4, N_TENSORS = 8, N_KV = 16, KV = 24 };
static bytes good(void) {
    gguf_file f = {0};
    kv_text(&f, "general.architecture", "llama"); /* key at 24, type at 52, text at 56 */
    kv_u32(&f, "general.alignment", 32);
    kv_bool(&f, "flag", true);
    kv_array(&f, "list", CAKE_GGUF_U16, 2);
    put_int(&f.kv, 1, 2), put_int(&f.kv, 2, 2);
    kv_array(&f, "words", CAKE_GGUF_STRING, 2);
    put_text(&f.kv, "a"), put_text(&f.kv, "bc");
    add_tensor2(&f, "first", 0, 8, 3);
    add_tensor2(&f, "second", 12, 256, 2);
    add_tensor2(&f, "third", 8, 64, 2);
    return finish(&f);
}

/* Where `what` (n bytes) is in the file. */
static size_t find(const bytes *b, const void *what, size_t n) {
    for (size_t i = 0; i + n <= b->n; i++)
        if (memcmp(b->p + i, what, n) == 0) return i;
    fail_msg("the file has no such bytes");
    return 0;
}
/* The info of a tensor: behind its name come rank, dims, type, offset. */
static size_t info(const bytes *b, const char *name) {
    return find(b, name, strlen(name)) + strlen(name);
}
static void set(bytes *b, size_t at, uint64_t v, unsigned n) {
    for (unsigned i = 0; i < n; i++) b->p[at + i] = (uint8_t)(v >> 8 * i);
}

static unsigned n_wrong;
static void wrong(bytes b, cake_status want, const char *words) {
    cake_gguf g;
    assert_fails(parse(&g, &b), want, &err, words);
    assert_non_null(strstr(err.msg, "x.gguf"));
    free(b.p);
    n_wrong++;
}
/* The good file with v written over n bytes at an offset. */
static void changed(size_t at, uint64_t v, unsigned n, cake_status want, const char *words) {
    bytes b = good();
    assert_true(at + n <= b.n);
    set(&b, at, v, n);
    wrong(b, want, words);
}

static void test_malformed(void **state) {
    (void)state;
    bytes b = good();
    cake_gguf g;
    OK(parse(&g, &b));
    size_t key = KV + 8, type = key + 20, text = type + 4;
    size_t align = find(&b, "general.alignment", 17) + 17, flag = find(&b, "flag", 4) + 4;
    size_t list = find(&b, "list", 4) + 4, words = find(&b, "words", 5) + 5;
    size_t first = info(&b, "first"), second = info(&b, "second"), third = info(&b, "third");
    free(b.p);

    /* header */
    changed(0, 'F', 1, CAKE_EFORMAT, "not a GGUF file");
    changed(VERSION, 0, 4, CAKE_EUNSUPPORTED, "version 0");
    changed(VERSION, 1, 4, CAKE_EUNSUPPORTED, "version 1");
    changed(VERSION, 4, 4, CAKE_EUNSUPPORTED, "version 4");
    changed(VERSION, 0x03000000, 4, CAKE_EUNSUPPORTED, "big-endian");
    changed(N_KV, UINT64_MAX, 8, CAKE_EFORMAT, "metadata entries");
    changed(N_KV, 1 << 16, 8, CAKE_EFORMAT, "65536 metadata entries");
    changed(N_KV, 6, 8, CAKE_EFORMAT, "");
    changed(N_TENSORS, UINT64_MAX, 8, CAKE_EFORMAT, "tensors");
    changed(N_TENSORS, 1 << 20, 8, CAKE_EFORMAT, "1048576 tensors");
    changed(N_TENSORS, 4, 8, CAKE_EFORMAT, "");
    /* metadata */
    changed(KV, 0, 8, CAKE_EFORMAT, "no usable key");
    changed(KV, 1u << 31, 8, CAKE_EFORMAT, "a key at byte 24 claims 2147483648 bytes");
    changed(KV, UINT64_MAX, 8, CAKE_EFORMAT, "a key at byte 24");
    changed(KV, 70000, 8, CAKE_EFORMAT, "a key at byte 24");
    changed(key + 3, 0, 1, CAKE_EFORMAT, "no usable key");
    changed(type, 13, 4, CAKE_EFORMAT, "'general.architecture' has the unknown type 13");
    changed(type, UINT32_MAX, 4, CAKE_EFORMAT, "unknown type");
    changed(text, UINT64_MAX - 4, 8, CAKE_EFORMAT, "a string at byte");
    changed(text, 1 << 20, 8, CAKE_EFORMAT, "claims 1048576 bytes");
    changed(align + 4, 0, 4, CAKE_EFORMAT, "general.alignment");
    changed(align + 4, 48, 4, CAKE_EFORMAT, "general.alignment");
    changed(align, CAKE_GGUF_I32, 4, CAKE_EFORMAT, "general.alignment");
    changed(align + 4, 64, 4, CAKE_EFORMAT, "tensor 'second' begins at 96");
    changed(flag + 4, 2, 1, CAKE_EFORMAT, "'flag' holds 2");
    changed(list + 4, CAKE_GGUF_ARRAY, 4, CAKE_EFORMAT, "'list' is an array of arrays");
    changed(list + 4, 99, 4, CAKE_EFORMAT, "'list' has the unknown type 99");
    changed(list + 8, (1u << 30) + 1, 8, CAKE_EFORMAT, "'list' claims 1073741825 elements");
    changed(list + 8, UINT64_MAX / 2 + 1, 8, CAKE_EFORMAT, "'list' claims");
    changed(list + 8, 1 << 20, 8, CAKE_EFORMAT, "'list' claims 1048576 elements");
    changed(words + 8, 1 << 20, 8, CAKE_EFORMAT, "");
    changed(words + 16, 1 << 30, 8, CAKE_EFORMAT, "a string at byte");
    /* tensor infos */
    changed(first - 13, 0, 8, CAKE_EFORMAT, "name of 0 bytes");
    changed(first - 13, 1u << 31, 8, CAKE_EFORMAT, "a tensor's name at byte");
    changed(first - 2, 0, 1, CAKE_EFORMAT, "name of 5 bytes");
    changed(first, 5, 4, CAKE_EFORMAT, "'first' has 5 dimensions");
    changed(first, UINT32_MAX, 4, CAKE_EFORMAT, "dimensions; at most 4");
    changed(first + 4, 0, 8, CAKE_EFORMAT, "'first': dimension 0 is 0");
    changed(first + 12, UINT64_MAX, 8, CAKE_EFORMAT, "'first': dimension 1 is -1");
    changed(first + 4, 1ull << 62, 8, CAKE_EFORMAT, "do not fit 64 bits");
    changed(first + 12, 1ull << 61, 8, CAKE_EFORMAT, "multiply to more than 64 bits");
    changed(second + 12, 1ull << 60, 8, CAKE_EFORMAT, "multiply to more than 64 bits");
    changed(second + 4, 255, 8, CAKE_EFORMAT, "'second': rows of 255 do not divide");
    changed(third + 4, 48, 8, CAKE_EFORMAT, "blocks of 32 (Q8_0)");
    changed(first + 20, 4, 4, CAKE_EFORMAT, "the type 4, which does not exist");
    changed(first + 20, 38, 4, CAKE_EFORMAT, "the type 38");
    changed(first + 20, 1000, 4, CAKE_EFORMAT, "the type 1000");
    changed(second + 20, 15, 4, CAKE_EUNSUPPORTED, "'second' is stored as Q8_K");
    changed(second + 20, 23, 4, CAKE_EUNSUPPORTED, "'second' is stored as IQ4_XS");
    changed(second + 20, 35, 4, CAKE_EUNSUPPORTED, "TQ2_0");
    changed(first + 24, 32, 8, CAKE_EFORMAT, "'first' begins at 32");
    changed(second + 24, 128, 8, CAKE_EFORMAT, "'second' begins at 128"); /* a gap */
    changed(second + 24, 64, 8, CAKE_EFORMAT, "'second' begins at 64");   /* an overlap */
    changed(third + 24, 96, 8, CAKE_EFORMAT, "'third' begins at 96");     /* on another one */
    changed(third + 12, 200, 8, CAKE_EFORMAT, "the download is incomplete");
    changed(third + 12, 1ull << 57, 8, CAKE_EFORMAT, ""); /* close to 64 bits of bytes */

    /* twice the same */
    b = good();
    memcpy(b.p + flag - 4, "list", 4);
    wrong(b, CAKE_EFORMAT, "key 'list' occurs twice");
    gguf_file f = {0};
    add_tensor2(&f, "same", 0, 8, 1);
    add_tensor2(&f, "same", 0, 8, 1);
    wrong(finish(&f), CAKE_EFORMAT, "tensor 'same' occurs twice");
    char name[80];
    memset(name, 'n', sizeof name);
    name[64] = 0;
    add_tensor2(&f, name, 0, 8, 1);
    wrong(finish(&f), CAKE_EFORMAT, "name of 64 bytes");
    name[63] = 0; /* one less is right */
    add_tensor2(&f, name, 0, 8, 1);
    add_tensor(&f, "scalar", 0, 0, NULL, NULL);
    b = finish(&f);
    OK(parse(&g, &b));
    free(b.p);
    char *long_key = cake_malloc(70001);
    memset(long_key, 'k', 70000);
    long_key[70000] = 0;
    kv_u32(&f, long_key, 1);
    free(long_key);
    wrong(finish(&f), CAKE_EFORMAT, "no usable key (70000 bytes)");
    print_message("%u malformed files\n", n_wrong);
    assert_true(n_wrong >= 30);
}

/* Every shorter file is an error or (only padding missing) the same file. */
static void test_truncated(void **state) {
    (void)state;
    bytes b = good();
    cake_gguf g;
    size_t full = b.n, accepted = 0;
    for (size_t n = 0; n < full; n++) {
        b.n = n;
        cake_status st = parse(&g, &b);
        if (st == CAKE_OK)
            accepted++;
        else
            assert_true(st == CAKE_EFORMAT && strlen(err.msg) > 10);
    }
    assert_int_equal(accepted, 24); /* the third tensor has 136 bytes: 24 of padding behind them */
    free(b.p);
}

static void test_changed_bytes(void **state) {
    (void)state;
    srand(5);
    for (int round = 0; round < 20000; round++) {
        bytes b = good();
        cake_gguf g;
        for (int k = rand() % 4; k >= 0; k--) b.p[(size_t)rand() % b.n] = (uint8_t)rand();
        if (parse(&g, &b) != CAKE_OK) assert_true(strlen(err.msg) > 10);
        free(b.p);
    }
}

/* ---- finding the file ---- */

static void test_find_file(void **state) {
    (void)state;
    char *d = tmp_dir(), *file, *one = cake_path_join(d, "one.gguf");
    OK(cake_gguf_find_file(d, &file, &err));
    assert_null(file);
    OK(cake_gguf_find_file(one, &file, &err));
    assert_null(file); /* there is none yet */
    write_text(d, "one.gguf", "GGUF");
    OK(cake_gguf_find_file(d, &file, &err));
    assert_string_equal(file, one);
    free(file);
    OK(cake_gguf_find_file(one, &file, &err));
    assert_string_equal(file, one);
    free(file);
    write_text(d, "two.gguf", "GGUF");
    assert_fails(cake_gguf_find_file(d, &file, &err), CAKE_EFORMAT, &err, "holds 2 GGUF files");
    write_text(d, "model.safetensors", "");
    OK(cake_gguf_find_file(d, &file, &err));
    assert_null(file); /* safetensors come first */
    free(one);
    tmp_remove(d);
    d = tmp_dir();
    one = cake_path_join(d, "m-00001-of-00002.gguf");
    write_text(d, "m-00002-of-00002.gguf", "GGUF");
    write_text(d, "m-00001-of-00002.gguf", "GGUF");
    OK(cake_gguf_find_file(d, &file, &err));
    assert_string_equal(file, one);
    free(file);
    write_text(d, "other", "GGUF plus more");
    free(one);
    one = cake_path_join(d, "other"); /* known by its first bytes */
    OK(cake_gguf_find_file(one, &file, &err));
    assert_string_equal(file, one);
    free(file);
    free(one);
    tmp_remove(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_example),       cmocka_unit_test(test_types),
        cmocka_unit_test(test_malformed),     cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_changed_bytes), cmocka_unit_test(test_find_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
