/* The container: every rule of formats.md 1.4, its published verdicts, and a corpus of broken
 * headers. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/modelfile.h"

/* Parse an exact-size heap copy, so that a read past the end is seen. */
static cake_status parse(const void *bytes, size_t len, cake_safetensors *st, cake_error *err) {
    uint8_t *copy = malloc(len ? len : 1);
    if (len) memcpy(copy, bytes, len);
    *err = (cake_error){0};
    cake_status s = cake_safetensors_parse(st, copy, len, len, 0, "f", err);
    free(copy);
    return s;
}

static void expect(const char *name, const void *bytes, size_t len, bool accept,
                   const char *words) {
    cake_safetensors st;
    cake_error err;
    cake_status s = parse(bytes, len, &st, &err);
    if ((s == CAKE_OK) != accept)
        fail_msg("%s: expected %s, got %s %s", name, accept ? "accept" : "reject",
                 cake_status_name(s), err.msg);
    if (!accept && words && !strstr(err.msg, words))
        fail_msg("%s: '%s' is not in: %s", name, words, err.msg);
    if (s == CAKE_OK) cake_safetensors_deinit(&st);
}

static void expect_header(const char *header, size_t n_data, bool accept, const char *words) {
    size_t len;
    uint8_t *b = st_bytes(header, n_data, &len);
    expect(header, b, len, accept, words);
    free(b);
}

#define H60                       "{\"test\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}"
#define Z4                        "\0\0\0\0"
#define Z16                       Z4 Z4 Z4 Z4
#define CASE(name, bytes, accept) expect(name, bytes, sizeof(bytes) - 1, accept, NULL)

/* formats.md 1.4, "Conformance inputs", byte for byte. */
static void test_published_verdicts(void **state) {
    (void)state;
    CASE("plain", "<\0\0\0\0\0\0\0" H60 Z16, true);
    CASE("extra", "<\0\0\0\0\0\0\0" H60 Z16 "extra", false);
    CASE("14 bytes", "<\0\0\0\0\0\0\0" H60 Z4 Z4 Z4 "\0\0", false);
    CASE("length", "<\0\0\0\0\xff\xff\xff" H60, false);
    CASE("empty", "", false);
    CASE("8 bytes", "<\0\0\0\0\0\0\0", false);
    CASE("0xff", "\1\0\0\0\0\0\0\0\xff", false);
    CASE("brace", "\1\0\0\0\0\0\0\0{", false);
    CASE("trailing space", "\6\0\0\0\0\0\0\0{}\r \t\n", true);
    CASE("leading space", "\6\0\0\0\0\0\0\0\t\n{}\r ", true);
    CASE("[2,0]",
         "<\0\0\0\0\0\0\0{\"test\":{\"dtype\":\"I32\",\"shape\":[2,0],\"data_offsets\":[0, 0]}}",
         true);
    CASE("[0,4]",
         "<\0\0\0\0\0\0\0{\"test\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0, 4]}}",
         false);
    CASE("element overflow",
         "O\0\0\0\0\0\0\0{\"test\":{\"dtype\":\"I32\",\"shape\":[2,18446744073709551614],\"data_"
         "offsets\":[0,16]}}" Z16,
         false);
    CASE("bit overflow",
         "N\0\0\0\0\0\0\0{\"test\":{\"dtype\":\"I32\",\"shape\":[2,9223372036854775807],\"data_"
         "offsets\":[0,16]}}" Z16,
         false);
    CASE("scalar",
         "8\0\0\0\0\0\0\0{\"test\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]}}" Z4,
         true);
    CASE("null metadata", "\x15\0\0\0\0\0\0\0{\"__metadata__\":null}", true);
}

#define T(dtype, shape, b, e)                                                                      \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #b "," #e "]}"

static void test_more_verdicts(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        bool accept;
        const char *words;
    } c[] = {
        {"{\"__metadata__\":{\"format\":\"mlx\"}}", 0, true, NULL},
        {"{\"a\":" T("F4", "[2]", 0, 1) "}", 1, true, NULL},
        {"{\"a\":" T("F6_E2M3", "[4]", 0, 3) "}", 3, true, NULL},
        {"{\"b\":" T("U8", "[1]", 1, 2) ",\"a\":" T("U8", "[1]", 0, 1) "}", 2, true, NULL},
        {"{\"a\":" T("U8", "[0]", 0, 0) ",\"b\":" T("U8", "[1]", 0, 1) ",\"c\":" T("U8", "[0]", 1,
                                                                                   1) "}",
         1, true, NULL},
        {"{\"\\u00e9\\ud83d\\ude00\":" T("U8", "[1]", 0, 1) "}", 1, true, NULL},
        {"{\"a\":" T("U8", "[1,1,1,1,1,1,1,1]", 0, 1) "}", 1, true, NULL},
        /* V5 */
        {"[]", 0, false, "'{' expected"},
        {"{}x", 0, false, "follows"},
        {"{},", 0, false, "follows"},
        {"\xef\xbb\xbf{}", 0, false, "'{' expected"},
        {"{\"a\":" T("U8", "[1]", 0, 1) ",}", 1, false, "'\"' expected"},
        {"{\"a\" " T("U8", "[1]", 0, 1) "}", 1, false, "':' expected"},
        {"{'a':" T("U8", "[1]", 0, 1) "}", 1, false, "'\"' expected"},
        {"{\"a\":1}", 0, false, "not described by an object"},
        {"{\"a\":null}", 0, false, "not described by an object"},
        {"{\"a", 0, false, "unterminated"},
        /* V4 and strings */
        {"{\"\xc0\x80\":" T("U8", "[1]", 0, 1) "}", 1, false, "UTF-8"},
        {"{\"\xed\xa0\x80\":" T("U8", "[1]", 0, 1) "}", 1, false, "UTF-8"},
        {"{\"\xf4\x90\x80\x80\":" T("U8", "[1]", 0, 1) "}", 1, false, "UTF-8"},
        {"{\"\\ud800\":" T("U8", "[1]", 0, 1) "}", 1, false, "escape"},
        {"{\"\\udc00\":" T("U8", "[1]", 0, 1) "}", 1, false, "escape"},
        {"{\"a\\u0000b\":" T("U8", "[1]", 0, 1) "}", 1, false, "NUL"},
        {"{\"a\\x41\":" T("U8", "[1]", 0, 1) "}", 1, false, "escape"},
        {"{\"a\tb\":" T("U8", "[1]", 0, 1) "}", 1, false, "control character"},
        {"{\"a\\u001b[2J\":" T("U8", "[1]", 0, 1) "}", 1, false, "control character"},
        /* V6 */
        {"{\"__metadata__\":{\"a\":1}}", 0, false, "not a string"},
        {"{\"__metadata__\":[]}", 0, false, "'{' expected"},
        {"{\"__metadata__\":{\"a\":\"x\",\"a\":\"y\"}}", 0, false, "duplicate key"},
        {"{\"__metadata__\":null,\"__metadata__\":null}", 0, false, "twice"},
        /* V7 */
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 0, false, "lacks"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, false, "lacks"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, false, "lacks"},
        {"{\"a\":{}}", 0, false, "lacks"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1, false,
         "unknown field"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         false, "twice"},
        {"{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, false, "'\"' expected"},
        {"{\"a\":" T("U8", "[-1]", 0, 1) "}", 1, false, "non-negative"},
        {"{\"a\":" T("U8", "[1.0]", 0, 1) "}", 1, false, "fraction"},
        {"{\"a\":" T("U8", "[1e0]", 0, 1) "}", 1, false, "fraction"},
        {"{\"a\":" T("U8", "[01]", 0, 1) "}", 1, false, "leading zero"},
        {"{\"a\":" T("U8", "[18446744073709551616]", 0, 1) "}", 1, false, "64 bits"},
        {"{\"a\":" T("U8", "[true]", 0, 1) "}", 1, false, "non-negative"},
        {"{\"a\":" T("U8", "[\"1\"]", 0, 1) "}", 1, false, "non-negative"},
        {"{\"a\":" T("U8", "1", 0, 1) "}", 1, false, "'[' expected"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, false, "',' expected"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1, false,
         "']' expected"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,-1]}}", 1, false,
         "non-negative"},
        /* V8 */
        {"{\"a\":" T("F128", "[1]", 0, 16) "}", 16, false, "unknown dtype"},
        {"{\"a\":" T("f32", "[1]", 0, 4) "}", 4, false, "unknown dtype"},
        {"{\"a\":" T("", "[1]", 0, 4) "}", 4, false, "unknown dtype"},
        /* V9 */
        {"{\"a\":" T("U8", "[4294967296,4294967296]", 0, 0) "}", 0, false, "elements"},
        {"{\"a\":" T("U8", "[4611686018427387904]", 0, 0) "}", 0, false, "more bits"},
        /* V10 */
        {"{\"a\":" T("F4", "[3]", 0, 1) "}", 1, false, "whole bytes"},
        {"{\"a\":" T("F6_E3M2", "[2]", 0, 1) "}", 1, false, "whole bytes"},
        /* V11 */
        {"{\"a\":" T("U8", "[1]", 1, 0) "}", 1, false, "ends before"},
        {"{\"a\":" T("F32", "[1]", 0, 2) "}", 2, false, "do not match"},
        /* V12 */
        {"{\"a\":" T("U8", "[1]", 1, 2) "}", 2, false, "hole"},
        {"{\"a\":" T("U8", "[1]", 0, 1) ",\"b\":" T("U8", "[1]", 2, 3) "}", 3, false,
         "'b' leaves a hole"},
        {"{\"a\":" T("U8", "[2]", 0, 2) ",\"b\":" T("U8", "[2]", 1, 3) "}", 3, false,
         "'a' and 'b' overlap"},
        {"{\"a\":" T("U8", "[2]", 0, 2) ",\"b\":" T("U8", "[2]", 0, 2) "}", 2, false, "overlap"},
        /* V13 */
        {"{\"a\":" T("U8", "[2]", 0, 2) "}", 3, false, "1 bytes follow"},
        {"{\"a\":" T("U8", "[2]", 0, 2) "}", 1, false, "truncated: tensor 'a' ends 1 bytes beyond"},
        {"{}", 1, false, "1 bytes follow"},
        /* V14 */
        {"{\"a\":" T("U8", "[1]", 0, 1) ",\"a\":" T("U8", "[1]", 1, 2) "}", 2, false,
         "listed twice"},
        {"{\"a\":" T("U8", "[1]", 0, 1) ",\"\\u0061\":" T("U8", "[1]", 1, 2) "}", 2, false,
         "listed twice"},
        /* V16 */
        {"{\"a\":" T("U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, false, "8 dimensions"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        expect_header(c[i].header, c[i].n_data, c[i].accept, c[i].words);
}

static void test_limits(void **state) {
    (void)state;
    cake_safetensors st;
    cake_error err;
    size_t len;
    /* V2: zero, and the cap, lowered or not */
    expect("n = 0", "\0\0\0\0\0\0\0\0", 8, false, "outside 1..");
    uint8_t *b = st_bytes("{\"__metadata__\":null}", 0, &len);
    assert_int_equal(cake_safetensors_parse(&st, b, len, len, 20, "f", &err), CAKE_EFORMAT);
    assert_int_equal(cake_safetensors_parse(&st, b, len, len, 21, "f", &err), CAKE_OK);
    cake_safetensors_deinit(&st);
    /* The header must be there, the data need not be. */
    assert_int_equal(cake_safetensors_parse(&st, b, len - 1, len, 0, "f", &err), CAKE_EFORMAT);
    free(b);
    b = st_bytes(H60, 0, &len);
    assert_int_equal(cake_safetensors_parse(&st, b, len, len + 16, 0, "f", &err), CAKE_OK);
    assert_int_equal(st.data_bytes, 16);
    cake_safetensors_deinit(&st);
    free(b);
    /* V15: names */
    for (int n = 4096; n <= 4097; n++) {
        char *h = malloc((size_t)n + 80);
        sprintf(h, "{\"%0*d\":" T("U8", "[0]", 0, 0) "}", n, 0);
        b = st_bytes(h, 0, &len);
        expect("name length", b, len, n == 4096, "4096");
        free(b);
        free(h);
    }
}

/* Every prefix of a good file is refused, and no byte changed anywhere in it reads out of bounds.
 */
static void test_truncated_and_changed(void **state) {
    (void)state;
    size_t len;
    uint8_t *b = st_bytes("{\"__metadata__\":{\"format\":\"mlx\"},\"l.scales\":" T(
                              "BF16", "[1,1]", 0, 2) ",\"l.weight\":" T("U32", "[1,4]", 2, 18) "}",
                          18, &len);
    cake_safetensors st;
    cake_error err;
    for (size_t n = 0; n < len; n++) assert_int_not_equal(parse(b, n, &st, &err), CAKE_OK);
    for (size_t i = 0; i < len; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            b[i] ^= (uint8_t)(1u << bit);
            if (parse(b, len, &st, &err) == CAKE_OK) cake_safetensors_deinit(&st);
            b[i] ^= (uint8_t)(1u << bit);
        }
    free(b);
}

/* formats.md 1.3: data at offset 167. */
static void test_odd_offset(void **state) {
    (void)state;
    const char *h = "{\"__metadata__\":{\"format\":\"mlx\"},\"l.scales\":{\"data_offsets\":[0,2],"
                    "\"dtype\":\"BF16\",\"shape\":[1,1]},"
                    "\"l.weight\":{\"data_offsets\":[2,18],\"dtype\":\"U32\",\"shape\":[1,4]}}";
    size_t len;
    uint8_t *b = st_bytes(h, 18, &len);
    cake_safetensors st;
    cake_error err;
    assert_int_equal(strlen(h), 159);
    assert_int_equal(parse(b, len, &st, &err), CAKE_OK);
    assert_int_equal(st.data_at, 167);
    assert_int_equal(st.n_tensors, 2);
    const cake_st_tensor *t = cake_safetensors_find(&st, "l.weight");
    assert_non_null(t);
    assert_int_equal(t->begin, 2);
    assert_int_equal(t->end, 18);
    assert_int_equal(t->dtype, CAKE_DTYPE_U32);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[1], 4);
    assert_null(cake_safetensors_find(&st, "l.weigh"));
    assert_null(cake_safetensors_find(&st, "__metadata__"));
    cake_safetensors_deinit(&st);
    free(b);
}

/* Many tensors in shuffled header order come out by offset and are all found. */
static void test_many(void **state) {
    (void)state;
    enum { N = 5000 };
    char *h = malloc(N * 100);
    size_t at = 0, len;
    for (unsigned i = 0; i < N; i++) {
        unsigned j = i * 1237 % N;
        at += (size_t)sprintf(h + at,
                              "%s\"t%u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[%u,%u]}",
                              i ? "," : "{", j, 3 * j, 3 * j + 3);
    }
    strcpy(h + at, "}");
    uint8_t *b = st_bytes(h, 3 * N, &len);
    cake_safetensors st;
    cake_error err;
    assert_int_equal(parse(b, len, &st, &err), CAKE_OK);
    assert_int_equal(st.n_tensors, N);
    for (unsigned j = 0; j < N; j++) {
        char name[32];
        snprintf(name, sizeof name, "t%u", j);
        assert_string_equal(st.tensors[j].name, name);
        assert_ptr_equal(cake_safetensors_find(&st, name), &st.tensors[j]);
    }
    cake_safetensors_deinit(&st);
    free(b);
    free(h);
}

static void test_dtypes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        unsigned bits;
    } d[] = {{"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
             {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
             {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
             {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
             {"I64", 64},        {"U64", 64}};
    assert_int_equal(sizeof d / sizeof *d, CAKE_DTYPE_COUNT - 1);
    for (size_t i = 0; i < sizeof d / sizeof *d; i++) {
        cake_dtype t = cake_dtype_parse(d[i].name, strlen(d[i].name));
        assert_int_not_equal(t, CAKE_DTYPE_NONE);
        assert_int_equal(cake_dtype_bits(t), d[i].bits);
        assert_string_equal(cake_dtype_name(t), d[i].name);
    }
    uint64_t n = 0;
    assert_true(cake_tensor_bytes(CAKE_DTYPE_F6_E2M3, 2, (uint64_t[]){3, 4}, &n) && n == 9);
    assert_false(cake_tensor_bytes(CAKE_DTYPE_F6_E2M3, 1, (uint64_t[]){3}, &n));
    assert_false(cake_tensor_bytes(CAKE_DTYPE_U64, 2,
                                   (uint64_t[]){UINT64_C(1) << 32, UINT64_C(1) << 31}, &n));
    assert_int_equal(cake_dtype_parse("U", 1), CAKE_DTYPE_NONE);
    assert_int_equal(cake_dtype_bits((cake_dtype)99), 0);
    char text[8];
    assert_string_equal(cake_shape_text(2, (uint64_t[]){105, 16}, text, sizeof text), "[105, 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_verdicts),
        cmocka_unit_test(test_more_verdicts),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_truncated_and_changed),
        cmocka_unit_test(test_odd_offset),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
