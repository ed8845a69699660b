/* Stored formats: decoding and encoding against the tables of formats.md, against ggml's bytes for
 * real weights, mlx-kquant's fixtures and MLX's own results, and properties that hold for any data.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/file.h"
#include "common/sha256.h"
#include "kernels/codec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define VECTORS  "tests/vectors/codec/"
#define SHARED   "../shared/data/quant/"
enum { BLOCK_CODECS = CAKE_CODEC_Q6_K + 1 }; /* the ten that can be encoded */

/* The whole file, or NULL (the caller frees). A missing file of the repository is a failure. */
static uint8_t *slurp(const char *path, size_t *len) {
    cake_error err;
    char *text;
    if (cake_file_read(path, 64 << 20, &text, len, &err) != CAKE_OK) return NULL;
    return (uint8_t *)text;
}

__attribute__((unused)) static uint8_t *need(const char *path, size_t *len) {
    uint8_t *b = slurp(path, len);
    if (!b) fail_msg("cannot read %s", path);
    return b;
}

static void test_names(void **state) {
    (void)state;
    cake_codec c;
    for (int i = 0; i < CAKE_CODEC_COUNT; i++) {
        const cake_codec_info *info = cake_codec_get((cake_codec)i);
        assert_true(cake_codec_parse(info->name, &c) && (int)c == i);
        assert_true(cake_codec_from_ggml(info->ggml_type, &c) && (int)c == i);
        assert_int_equal(cake_codec_row_bytes((cake_codec)i, 512),
                         512 / info->weights * info->bytes);
        assert_int_equal(cake_codec_row_bytes((cake_codec)i, 500), 0);
    }
    assert_string_equal(cake_codec_name(CAKE_CODEC_Q4_K), "q4_k");
    assert_string_equal(cake_codec_name(CAKE_CODEC_COUNT), "?");
    assert_null(cake_codec_get(CAKE_CODEC_COUNT));
    assert_false(cake_codec_parse("Q4_K", &c) || cake_codec_parse("", &c) ||
                 cake_codec_parse("iq3_s", &c));
    assert_false(cake_codec_from_ggml(9, &c));
    cake_fp_mode m;
    assert_true(cake_fp_parse("mxfp8", &m) && m == CAKE_FP_MXFP8);
    assert_false(cake_fp_parse("fp8", &m));
    assert_null(cake_fp_get(CAKE_FP_COUNT));
}

/* formats.md 4.3: bytes 37 i + 11, then d and dmin or m. */
static void test_decode_table(void **state) {
    (void)state;
    static const struct {
        cake_codec codec;
        int d, m; /* offsets, -1 for none */
        double sum;
        struct {
            int i;
            float v;
        } el[10];
    } t[] = {
        {CAKE_CODEC_Q4_0,
         0,
         -1,
         -1.96875,
         {{0, -.28125f}, {1, .1875f}, {2, .65625f}, {15, -.75f}, {31, 0}}},
        {CAKE_CODEC_Q4_1,
         0,
         2,
         24.46875,
         {{0, 1.453125f}, {1, .421875f}, {2, .890625f}, {15, .984375f}, {31, 1.171875f}}},
        {CAKE_CODEC_Q5_0,
         0,
         -1,
         1.40625,
         {{0, .84375f}, {1, -.1875f}, {2, .28125f}, {15, -1.125f}, {31, .09375f}}},
        {CAKE_CODEC_Q5_1,
         0,
         2,
         48.84375,
         {{0, 1.828125f}, {1, 2.296875f}, {2, 2.765625f}, {15, 2.859375f}, {31, .515625f}}},
        {CAKE_CODEC_Q8_0,
         0,
         -1,
         -16.5,
         {{0, 7.96875f}, {1, 11.4375f}, {2, -9.09375f}, {15, -12}, {16, -8.53125f}, {31, -4.5f}}},
        {CAKE_CODEC_Q2_K,
         80,
         82,
         193.03125,
         {{0, 3.09375f},
          {1, 0},
          {15, 2.0625f},
          {16, -.140625f},
          {32, .703125f},
          {64, .984375f},
          {127, 3.9375f},
          {200, .75f},
          {255, .421875f}}},
        {CAKE_CODEC_Q3_K,
         108,
         -1,
         89.8125,
         {{0, 7.59375f},
          {1, -10.125f},
          {15, -5.0625f},
          {16, -9},
          {32, -2.0625f},
          {64, 3.1875f},
          {127, 6.75f},
          {200, 2.34375f},
          {255, 3.9375f}}},
        {CAKE_CODEC_Q4_K,
         0,
         2,
         5103.75,
         {{0, 29.578125f},
          {1, -2.390625f},
          {15, 15.046875f},
          {32, .75f},
          {64, 39.421875f},
          {127, 7.59375f},
          {128, 39.65625f},
          {200, 12.984375f},
          {255, 4.546875f}}},
        {CAKE_CODEC_Q5_K,
         0,
         2,
         10895.25,
         {{0, 76.078125f},
          {1, -2.390625f},
          {32, 10.5f},
          {64, 39.421875f},
          {127, -.28125f},
          {128, 98.15625f},
          {200, 12.984375f},
          {255, 10.171875f}}},
        {CAKE_CODEC_Q6_K,
         208,
         -1,
         432.375,
         {{0, -134.15625f},
          {1, 159},
          {15, -29.8125f},
          {16, -40.5f},
          {32, 21.65625f},
          {64, -285},
          {127, 140.625f},
          {128, -32.90625f},
          {255, -5.625f}}},
    };
    for (size_t c = 0; c < COUNT(t); c++) {
        uint8_t raw[1 + 256], *b = raw + 1; /* an odd address */
        float y[256];
        const cake_codec_info *info = cake_codec_get(t[c].codec);
        for (uint32_t i = 0; i < info->bytes; i++) b[i] = (uint8_t)(37 * i + 11);
        memcpy(b + t[c].d, "\x00\x2e", 2);
        if (t[c].m >= 0) memcpy(b + t[c].m, "\x00\x2a", 2);
        cake_codec_decode_row(t[c].codec, b, y, info->weights);
        double sum = 0;
        for (uint32_t i = 0; i < info->weights; i++) sum += (double)y[i];
        assert_true(sum == t[c].sum);
        for (size_t e = 0; e < COUNT(t[c].el) && (e == 0 || t[c].el[e].i); e++)
            assert_true(y[t[c].el[e].i] == t[c].el[e].v);
    }
}

/* formats.md 6.4: GGUF's own 4-bit blocks. */
static void test_decode_gguf_fp(void **state) {
    (void)state;
    uint8_t m[17] = {0x80, 0x21, 0xf7}, n[36] = {0x3c, 0x7f, 0xff, 0x01};
    float y[64];
    cake_codec_decode_row(CAKE_CODEC_MXFP4, m, y, 32);
    assert_true(y[0] == 1 && y[16] == 2 && y[1] == 12 && y[17] == -12 && y[2] == 0);
    m[0] = 0;
    cake_codec_decode_row(CAKE_CODEC_MXFP4, m, y, 32);
    assert_true(y[0] == 0x1p-128f && y[16] == 0x1p-127f && y[1] == 6 * 0x1p-127f);
    m[0] = 255;
    cake_codec_decode_row(CAKE_CODEC_MXFP4, m, y, 32);
    assert_true(y[0] == 0x1p127f && y[2] == 0);
    for (int s = 0; s < 4; s++) n[4 + 8 * s] = 0x9f;
    n[4 + 7] = 0x08;
    cake_codec_decode_row(CAKE_CODEC_NVFP4, n, y, 64);
    assert_true(y[0] == -9 && y[8] == -.75f && y[7] == 0 && !signbit(y[7]));
    assert_true(y[16] == 0 && y[24] == 0);           /* 0x7f is zero */
    assert_true(y[32] == -6 * 480 && y[40] == -240); /* the sign of a scale is ignored */
    assert_true(y[48] == -6 * 0x1p-9f);
}

/* ../shared/data/quant/mlx-kquant: a stored zip whose first member is the blocks as npy. */
static void test_decode_mlx_kquant(void **state) {
    (void)state;
    int seen = 0;
    for (int c = CAKE_CODEC_Q2_K; c <= CAKE_CODEC_Q6_K; c++)
        for (int moe = 0; moe < 2; moe++) {
            char path[128];
            size_t zlen, flen;
            const char *name = cake_codec_name((cake_codec)c), *suffix = moe ? "_moe" : "";
            snprintf(path, sizeof path, SHARED "mlx-kquant/%s%s.npz", name, suffix);
            uint8_t *z = slurp(path, &zlen);
            snprintf(path, sizeof path, SHARED "mlx-kquant/%s%s.dequant.npy", name, suffix);
            uint8_t *f = slurp(path, &flen);
            if (!z || !f) {
                free(z), free(f);
                continue;
            }
            seen++;
            size_t k = (flen - 128) / 4, at = 30u + (z[26] | z[27] << 8) + (z[28] | z[29] << 8);
            at += 10u + (z[at + 8] | z[at + 9] << 8);
            assert_true(at + cake_codec_row_bytes((cake_codec)c, k) <= zlen);
            float *y = malloc(4 * k);
            cake_codec_decode_row((cake_codec)c, z + at, y, k);
            assert_memory_equal(y, f + 128, 4 * k);
            free(y), free(z), free(f);
        }
    if (seen == 10) return;
    assert_int_equal(seen, 0);
    print_message("skip: " SHARED "mlx-kquant is missing\n");
    skip();
}

/* ../shared/data/quant/ggml-reference: what ggml decodes from its own blocks. */
static void test_decode_ggml(void **state) {
    (void)state;
    int seen = 0;
    for (int c = 0; c < BLOCK_CODECS; c++)
        for (int im = 0; im < 2; im++) {
            char path[128];
            size_t blen, flen;
            const char *name = cake_codec_name((cake_codec)c), *suffix = im ? ".imatrix" : "";
            snprintf(path, sizeof path, SHARED "ggml-reference/%s%s.bin", name, suffix);
            uint8_t *b = slurp(path, &blen);
            snprintf(path, sizeof path, SHARED "ggml-reference/%s%s.f32", name, suffix);
            uint8_t *f = slurp(path, &flen);
            if (b && f) {
                seen++;
                assert_int_equal(cake_codec_row_bytes((cake_codec)c, flen / 4), blen);
                float *y = malloc(flen);
                cake_codec_decode_row((cake_codec)c, b, y, flen / 4);
                assert_memory_equal(y, f, flen);
                free(y);
            }
            free(b), free(f);
        }
    if (seen == 19) return;
    assert_int_equal(seen, 0);
    print_message("skip: " SHARED "ggml-reference is missing\n");
    skip();
}

/* formats.md 2.2: streams of codes. Scale 1 and bias 0 make decoding show the codes. */
static void test_affine_stream(void **state) {
    (void)state;
    static const struct {
        uint32_t bits, n;
        uint8_t bytes[8], codes[8];
    } t[] = {
        {2, 8, {0xe4, 0xe4}, {0, 1, 2, 3, 0, 1, 2, 3}},
        {3, 8, {0x88, 0xc6, 0xfa}, {0, 1, 2, 3, 4, 5, 6, 7}},
        {4, 8, {0x10, 0x32, 0x54, 0x76}, {0, 1, 2, 3, 4, 5, 6, 7}},
        {5, 8, {0x20, 0x88, 0x41, 0xba, 0xff}, {0, 1, 2, 3, 4, 29, 30, 31}},
        {6, 4, {0x40, 0xe0, 0xff}, {0, 1, 62, 63}},
        {8, 4, {0x00, 0x01, 0xfe, 0xff}, {0, 1, 254, 255}},
    };
    for (size_t c = 0; c < COUNT(t); c++) {
        uint8_t codes[32] = {0};
        float y[32], one = 1, zero = 0;
        memcpy(codes, t[c].bytes, t[c].n * t[c].bits / 8);
        cake_affine_decode(t[c].bits, 32, CAKE_F32, codes, &one, &zero, y, 32);
        for (uint32_t i = 0; i < t[c].n; i++) assert_true(y[i] == t[c].codes[i]);
    }
    assert_true(cake_affine_valid(5, 128));
    assert_false(cake_affine_valid(7, 64) || cake_affine_valid(1, 64) || cake_affine_valid(9, 64) ||
                 cake_affine_valid(4, 16));
}

/* formats.md 2.4: the worked group. */
static void test_affine_encode_table(void **state) {
    (void)state;
    static const struct {
        uint32_t bits;
        const char *hex;
        float scale;
        uint16_t bf16, f16;
    } t[] = {
        {2, "3f94fa4fa9ff54fa", -0.3125f, 0xbea0, 0xb500},
        {3, "fe1169acfd271a5bff8846d6", -0.15625f, 0xbe20, 0xb100},
        {4, "dc0f3265a8dbfe316498cbfe216497ca", -0.078125f, 0xbda0, 0xad00},
        {5, "577b308c6a705addbf30893d6933ffa2a0e564c5", -0.0390625f, 0xbd20, 0xa900},
        {6, "ed9c030633655fb9cab85f2cd1d5912a6cf34302599c88ba", -0.02016128972172737f, 0xbca5,
         0xa529},
        {8, "b8d2eb0019334c667f98b2cbe5fe132c465f7992abc5def80d264059728ca5be",
         -0.0049212598241865635f, 0xbba1, 0x9d0a},
    };
    float x[32];
    for (int i = 0; i < 32; i++) x[i] = (float)((37 * i + 11) % 41 - 20) / 32;
    for (size_t c = 0; c < COUNT(t); c++) {
        uint8_t q[32];
        char hex[65];
        float s, b;
        uint16_t s16, b16;
        cake_affine_encode(t[c].bits, 32, CAKE_F32, x, q, &s, &b, 32);
        for (uint32_t i = 0; i < 4 * t[c].bits; i++) snprintf(hex + 2 * i, 3, "%02x", q[i]);
        assert_string_equal(hex, t[c].hex);
        assert_true(s == t[c].scale && b == 0.625f);
        cake_affine_encode(t[c].bits, 32, CAKE_BF16, x, q, &s16, &b16, 32);
        assert_true(s16 == t[c].bf16 && b16 == 0x3f20);
        cake_affine_encode(t[c].bits, 32, CAKE_F16, x, q, &s16, &b16, 32);
        assert_true(s16 == t[c].f16 && b16 == 0x3900);
    }
    uint16_t s16, b16;
    uint8_t q[16];
    memset(x, 0, sizeof x);
    cake_affine_encode(4, 32, CAKE_F16, x, q, &s16, &b16, 32);
    assert_true(s16 == 0x8002 && b16 == 0 && q[0] == 0 && q[15] == 0);
    for (int i = 0; i < 32; i++) x[i] = -3.5f;
    cake_affine_encode(4, 32, CAKE_F16, x, q, &s16, &b16, 32);
    assert_true(b16 == 0xc300 && q[0] == 0 && q[15] == 0);
}

/* formats.md 3.3. */
static void test_fp_decode(void **state) {
    (void)state;
    uint8_t q[32] = {0x21}, s[2] = {0x80, 0};
    float y[32];
    cake_fp_decode(CAKE_FP_MXFP4, q, s, y, 32);
    assert_true(y[0] == 1 && y[1] == 2 && y[2] == 0);
    for (int i = 0; i < 8; i++) q[i] = (uint8_t)(i * 0x22 + 0x10);
    static const float value[16] = {0,    .5f,  1,  1.5f,  2,  3,  4,  6,
                                    -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
    s[0] = 127;
    cake_fp_decode(CAKE_FP_MXFP4, q, s, y, 32);
    assert_memory_equal(y, value, sizeof value);
    q[0] = 0x9f, s[0] = 0x3c;
    cake_fp_decode(CAKE_FP_NVFP4, q, s, y, 16);
    assert_true(y[0] == -9 && y[1] == -.75f);
    s[0] = 0xb8; /* the sign of a scale counts */
    cake_fp_decode(CAKE_FP_NVFP4, q, s, y, 16);
    assert_true(y[0] == 6 && y[1] == .5f);
    static const struct {
        uint8_t code;
        float value;
    } e4m3[] = {{0, 0},     {1, .001953125f}, {8, .015625f}, {0x30, .5f},
                {0x38, 1},  {0x3c, 1.5f},     {0x77, 240},   {0x7e, 448},
                {0xb8, -1}, {0x7f, 480},      {0xff, -480}};
    for (size_t i = 0; i < COUNT(e4m3); i++) q[i] = e4m3[i].code;
    s[0] = 127;
    cake_fp_decode(CAKE_FP_MXFP8, q, s, y, 32);
    for (size_t i = 0; i < COUNT(e4m3); i++) assert_true(y[i] == e4m3[i].value);
    q[0] = 0x38, s[0] = 0;
    cake_fp_decode(CAKE_FP_MXFP8, q, s, y, 32);
    assert_true(y[0] == 0x1p-127f);
    s[0] = 255;
    cake_fp_decode(CAKE_FP_MXFP8, q, s, y, 32);
    assert_true(isinf(y[0]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_decode_table),
        cmocka_unit_test(test_decode_gguf_fp),
        cmocka_unit_test(test_decode_mlx_kquant),
        cmocka_unit_test(test_decode_ggml),
        cmocka_unit_test(test_affine_stream),
        cmocka_unit_test(test_affine_encode_table),
        cmocka_unit_test(test_fp_decode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
