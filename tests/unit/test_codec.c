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
#include "kernels/codec_impl.h"
#include "kernels/vec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define VECTORS  "tests/vectors/codec/"
#define SHARED   "../shared/data/quant/"
enum { BLOCK_CODECS = CAKE_CODEC_Q6_K + 1 }; /* the ten that can be encoded */

/* The whole file, or NULL; the caller frees. */
static uint8_t *slurp(const char *path, size_t *len) {
    cake_error err;
    char *text;
    if (cake_file_read(path, 64 << 20, &text, len, &err) != CAKE_OK) return NULL;
    return (uint8_t *)text;
}

/* The same of a file that must be there. */
static uint8_t *need(const char *path, size_t *len) {
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

enum { KINDS = 15, KIND_LEN = 1024 };
static float kind_rows[KINDS][KIND_LEN];

static uint64_t uniform_state;
static float uniform(void) { /* [-1, 1) */
    uniform_state ^= uniform_state << 13;
    uniform_state ^= uniform_state >> 7;
    uniform_state ^= uniform_state << 17;
    return (float)(uniform_state >> 40) * 0x1p-23f - 1;
}

/* Fifteen kinds of row; make_mlx.py makes the same. */
static int make_rows(void **state) {
    (void)state;
    uniform_state = 88172645463325252u;
    for (int kind = 0; kind < KINDS; kind++) {
        float *x = kind_rows[kind], first = 0;
        for (int i = 0; i < KIND_LEN; i++) {
            float a = uniform(), b = uniform(), g = a + b + uniform();
            uint32_t bits;
            memcpy(&bits, &g, 4);
            bits &= 0xffff0000u;
            if (i == 0) first = g;
            switch (kind) {
            case 0: x[i] = g * 0.1f; break;
            case 1: x[i] = g * g * g * g * g; break; /* heavy tails */
            case 2: x[i] = fabsf(g); break;
            case 3: x[i] = -fabsf(g); break;
            case 4: x[i] = 0; break;
            case 5: x[i] = i % 3 == 0 ? g : 0; break;
            case 6: x[i] = i % 512 >= 32 && i % 512 < 256 ? 0 : g; break; /* empty sub-blocks */
            case 7: x[i] = first; break;
            case 8: x[i] = g * 1e-9f; break;
            case 9: x[i] = g * 3e-16f; break;  /* around ggml's idea of nothing */
            case 10: x[i] = g * 1e-31f; break; /* and mlx-kquant's */
            case 11: x[i] = (float)(int)(g * 3); break;
            case 12: memcpy(&x[i], &bits, 4); break; /* bf16 */
            case 13: x[i] = g * 1e4f; break;
            default: x[i] = g * 0.01f + 5; break;
            }
        }
    }
    return 0;
}

static void expect_sum(const void *data, size_t n, const char *hex, const char *what) {
    char got[CAKE_SHA256_HEX];
    cake_sha256 h = cake_sha256_of(data, n);
    cake_sha256_hex(&h, got);
    if (strncmp(got, hex, strlen(hex)) != 0) fail_msg("%s: %s, expected %s", what, got, hex);
}

/* formats.md 4.4.4: ggml, ggml with importance, kq, kq with importance. */
static void test_encode_table(void **state) {
    (void)state;
    static const char *const sums[BLOCK_CODECS][4] = {
        {"44f329df91755203", "083d1b6d2e6679e9", "7757940509c519bc", "7757940509c519bc"},
        {"a5691e90905cce92", "9b1d7bda3a10632b", "a5691e90905cce92", "a5691e90905cce92"},
        {"40b1c2a35e1eb54e", "0529a2456c14e819", "11d888aa1e7634d4", "11d888aa1e7634d4"},
        {"b1f8a78070a80a2d", "20fd1a7f10b3ac11", "b1f8a78070a80a2d", "b1f8a78070a80a2d"},
        {"33739d85bd66a97e", "33739d85bd66a97e", "33739d85bd66a97e", "33739d85bd66a97e"},
        {"b9d403d481b38ed7", "520bc04ee4d17821", "000a13fe19a37e2d", "2f3470912bd15696"},
        {"0d1a2063bb52fa2e", "cf233d1b3d70b84c", "12edbfcd54830ce3", "867983eab625a837"},
        {"481e43320a969e50", "e5a60d73a0535592", "e7ccb1a58afe77e5", "73e63bc4ba830394"},
        {"fef7d2f49147c921", "d8fe33bed07b2786", "f4b3c6205f18dede", "da59722c74e3ae6a"},
        {"ab5c78de27683568", "e260b2d1c0d6be7f", "ab5c78de27683568", "e260b2d1c0d6be7f"},
    };
    float x[512], im[512];
    for (int i = 0; i < 512; i++) {
        x[i] = (float)((7919 * i + 104729) % 2003 - 1001) / 8192;
        im[i] = 1 + 0.5f * (float)(i % 7);
    }
    for (int c = 0; c < BLOCK_CODECS; c++)
        for (int v = 0; v < 4; v++) {
            uint8_t out[544];
            assert_true(cake_codec_encode_row((cake_codec)c, (cake_encode_flavour)(v / 2), x,
                                              v & 1 ? im : NULL, out, 512));
            expect_sum(out, cake_codec_row_bytes((cake_codec)c, 512), sums[c][v],
                       cake_codec_name((cake_codec)c));
        }
    uint8_t out[36] = {77};
    assert_false(cake_codec_encode_row(CAKE_CODEC_MXFP4, CAKE_ENCODE_GGML, x, NULL, out, 32));
    assert_false(cake_codec_encode_row(CAKE_CODEC_NVFP4, CAKE_ENCODE_GGML, x, NULL, out, 64));
    assert_int_equal(out[0], 77);
}

/* Encode n rows of 256 weights of `x`; the blocks, which the caller frees. */
static uint8_t *encode_rows(cake_codec c, const float *x, const float *im, size_t n) {
    size_t row = cake_codec_row_bytes(c, 256);
    uint8_t *out = malloc(n * row);
    for (size_t r = 0; r < n; r++)
        cake_codec_encode_row(c, CAKE_ENCODE_GGML, x + 256 * r, im, out + r * row, 256);
    return out;
}

/* tests/vectors/codec: 16 rows of real weights, ggml's blocks of them and what it decodes. */
static void test_encode_ggml_small(void **state) {
    (void)state;
    size_t len;
    float *x = (float *)(void *)need(VECTORS "rows.f32", &len);
    assert_int_equal(len, 16 * 1024);
    float *im = (float *)(void *)need(VECTORS "importance.f32", &len);
    assert_int_equal(len, 1024);
    char *sums = (char *)need(VECTORS "sums.txt", &len), *save = NULL;
    int seen = 0;
    for (char *line = strtok_r(sums, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[16], variant[16], bytes[65], floats[65];
        cake_codec c;
        assert_int_equal(sscanf(line, "%15s %15s %64s %64s", name, variant, bytes, floats), 4);
        assert_true(cake_codec_parse(name, &c));
        uint8_t *b = encode_rows(c, x, strcmp(variant, "plain") ? im : NULL, 16);
        expect_sum(b, 16 * cake_codec_row_bytes(c, 256), bytes, line);
        float y[16 * 256];
        cake_codec_decode_row(c, b, y, 16 * 256);
        expect_sum(y, sizeof y, floats, line);
        free(b);
        seen++;
    }
    assert_int_equal(seen, 19);
    free(x), free(im), free(sums);
}

/* The same for all of ../shared/data/quant/ggml-reference. */
static void test_encode_ggml(void **state) {
    (void)state;
    size_t xlen, ilen, blen;
    float *x = (float *)(void *)slurp(SHARED "ggml-reference/weights.f32", &xlen);
    if (!x) {
        print_message("skip: " SHARED "ggml-reference is missing\n");
        skip();
    }
    float *im = (float *)(void *)need(SHARED "ggml-reference/imatrix.f32", &ilen);
    for (int c = 0; c < BLOCK_CODECS; c++)
        for (int v = 0; v < (c == CAKE_CODEC_Q8_0 ? 1 : 2); v++) {
            char path[128];
            snprintf(path, sizeof path, SHARED "ggml-reference/%s%s.bin",
                     cake_codec_name((cake_codec)c), v ? ".imatrix" : "");
            uint8_t *want = need(path, &blen),
                    *got = encode_rows((cake_codec)c, x, v ? im : NULL, xlen / 1024);
            assert_memory_equal(got, want, blen);
            free(want), free(got);
        }
    free(x), free(im);
}

/* Every kind of row, flavour and importance against an encoder written independently. */
static void test_encode_kinds(void **state) {
    (void)state;
    size_t len;
    char *sums = (char *)need(VECTORS "kinds.txt", &len), *save = NULL;
    static float im[2][KIND_LEN];
    static uint8_t out[KINDS * KIND_LEN / 32 * 34];
    for (int i = 0; i < KIND_LEN; i++) {
        im[0][i] = (float)(1 + i * 7 % 13);
        im[1][i] = i % 2 ? (float)(i % 32) * 0.125f : 0;
    }
    int seen = 0;
    for (char *line = strtok_r(sums, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[16], flavour[16], sum[65];
        int which;
        cake_codec c;
        assert_int_equal(sscanf(line, "%15s %15s %d %64s", name, flavour, &which, sum), 4);
        assert_true(cake_codec_parse(name, &c) && which >= 0 && which <= 2);
        size_t row = cake_codec_row_bytes(c, KIND_LEN);
        for (int r = 0; r < KINDS; r++)
            cake_codec_encode_row(c, strcmp(flavour, "kq") ? CAKE_ENCODE_GGML : CAKE_ENCODE_KQ,
                                  kind_rows[r], which ? im[which - 1] : NULL, out + (size_t)r * row,
                                  KIND_LEN);
        expect_sum(out, KINDS * row, sum, line);
        seen++;
    }
    assert_int_equal(seen, 60);
    free(sums);
}

/* What the mlx package makes of the same rows (make_mlx.py). */
static void test_encode_mlx(void **state) {
    (void)state;
    static float x[KINDS * KIND_LEN], y[KINDS * KIND_LEN];
    static uint16_t half[KINDS * KIND_LEN];
    static uint8_t out[KINDS * KIND_LEN * 2];
    size_t len, n = KINDS * KIND_LEN;
    char *sums = (char *)need(VECTORS "mlx.txt", &len), *save = NULL, name[32], sum[65];
    int seen = 0;
    for (char *line = strtok_r(sums, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        uint32_t bits, group;
        char type[8];
        cake_fp_mode mode;
        seen++;
        if (sscanf(line, "affine%ug%u%7s %64s", &bits, &group, type, sum) == 4) {
            cake_ftype t = !strcmp(type, "f32")   ? CAKE_F32
                           : !strcmp(type, "f16") ? CAKE_F16
                                                  : CAKE_BF16;
            memcpy(x, kind_rows, sizeof x);
            if (t == CAKE_F16) cake_f32_to_f16(half, x, n), cake_f16_to_f32(x, half, n);
            if (t == CAKE_BF16) cake_f32_to_bf16(half, x, n), cake_bf16_to_f32(x, half, n);
            size_t codes = n * bits / 8, each = n / group * cake_ftype_bytes(t);
            cake_affine_encode(bits, group, t, x, out, out + codes, out + codes + each, n);
            expect_sum(out, codes + 2 * each, sum, line);
            continue;
        }
        /* Three lines of one mode: codes, scales, and what they decode to. */
        assert_int_equal(sscanf(line, "%31s %64s", name, sum), 2);
        assert_true(cake_fp_parse(name, &mode));
        const cake_fp_info *info = cake_fp_get(mode);
        static const int kinds[3] = {0, 1, 13};
        for (int r = 0; r < 3; r++)
            for (int i = 0; i < KIND_LEN; i++) x[r * KIND_LEN + i] = fabsf(kind_rows[kinds[r]][i]);
        size_t k = 3 * KIND_LEN, codes = k * info->bits / 8;
        cake_fp_encode(mode, x, out, out + codes, k);
        cake_fp_decode(mode, out, out + codes, y, k);
        switch (seen % 3) {
        case 1: expect_sum(out, codes, sum, line); break;
        case 2: expect_sum(out + codes, k / info->group, sum, line); break;
        default: expect_sum(y, 4 * k, sum, line); break;
        }
    }
    assert_int_equal(seen, 63);
    free(sums);
}

/* formats.md 3.5: ties, saturation and zeros. */
static void test_fp_encode(void **state) {
    (void)state;
    float x[32] = {6,  5,     3.5f,  2.5f,   1.75f,  1.25f, .75f,  .25f,
                   -5, -3.5f, -2.5f, -1.75f, -1.25f, -.75f, -.25f, -0.f};
    static const uint8_t want[8] = {0x67, 0x46, 0x24, 0x02, 0xee, 0xcc, 0xaa, 0x88};
    uint8_t q[32], s[2];
    cake_fp_encode(CAKE_FP_MXFP4, x, q, s, 32);
    assert_int_equal(s[0], 127);
    assert_memory_equal(q, want, 8);
    cake_fp_encode(CAKE_FP_NVFP4, x, q, s, 16);
    assert_int_equal(s[0], 0x38);
    assert_memory_equal(q, want, 8);
    x[0] = nextafterf(6, 7); /* nothing saturates: the next power of two */
    cake_fp_encode(CAKE_FP_MXFP4, x, q, s, 32);
    assert_int_equal(s[0], 128);
    memset(x, 0, sizeof x);
    for (int m = 0; m < CAKE_FP_COUNT; m++) {
        memset(q, 1, sizeof q), memset(s, 1, sizeof s);
        cake_fp_encode((cake_fp_mode)m, x, q, s, 32);
        assert_true(s[0] == 0 && q[0] == 0 && q[15] == 0);
    }
    /* E4M3 under scale 1: all codes survive, halves go to even, NaN and overflow to 0x7e. */
    for (uint32_t c = 0; c < 127; c++) {
        uint8_t code[32] = {(uint8_t)c, (uint8_t)(c | 0x80)}, one = 127;
        cake_fp_decode(CAKE_FP_MXFP8, code, &one, x, 32);
        x[2] = 448;
        if (c < 126) {
            uint8_t next[32] = {(uint8_t)(c + 1)};
            float up[32];
            cake_fp_decode(CAKE_FP_MXFP8, next, &one, up, 32);
            x[3] = (x[0] + up[0]) / 2;
        }
        cake_fp_encode(CAKE_FP_MXFP8, x, q, s, 32);
        assert_int_equal(s[0], 127);
        assert_int_equal(q[0], c);
        assert_int_equal(q[1], c | 0x80);
        if (c < 126) assert_int_equal(q[3], (c + 1) & ~1u);
    }
}

/* Error of decode(encode(x)) against the RMS of x, for rows without great differences in size. */
static void test_error_bounds(void **state) {
    (void)state;
    static const double bound[BLOCK_CODECS] = {.10, .09, .05, .045, .006, .30, .16, .08, .04, .02};
    for (int c = 0; c < BLOCK_CODECS; c++)
        for (int v = 0; v < 4; v++) {
            uint8_t b[KIND_LEN / 32 * 34];
            float y[KIND_LEN], ones[KIND_LEN];
            for (int i = 0; i < KIND_LEN; i++) ones[i] = 1;
            double err = 0, norm = 0;
            const float *x = kind_rows[0];
            cake_codec_encode_row((cake_codec)c, (cake_encode_flavour)(v / 2), x,
                                  v & 1 ? ones : NULL, b, KIND_LEN);
            cake_codec_decode_row((cake_codec)c, b, y, KIND_LEN);
            for (int i = 0; i < KIND_LEN; i++) {
                err += (double)(x[i] - y[i]) * (double)(x[i] - y[i]);
                norm += (double)x[i] * (double)x[i];
            }
            if (!(sqrt(err / norm) < bound[c]))
                fail_msg("%s variant %d: error %.4f", cake_codec_name((cake_codec)c), v,
                         sqrt(err / norm));
        }
    /* Affine: no weight further than half a step and the rounding of scale and bias. */
    static const uint8_t widths[] = {2, 3, 4, 5, 6, 8};
    for (int r = 0; r < KINDS; r++)
        for (size_t w = 0; w < COUNT(widths); w++) {
            uint8_t q[KIND_LEN];
            float s[KIND_LEN / 64], b[KIND_LEN / 64], y[KIND_LEN];
            cake_affine_encode(widths[w], 64, CAKE_F32, kind_rows[r], q, s, b, KIND_LEN);
            cake_affine_decode(widths[w], 64, CAKE_F32, q, s, b, y, KIND_LEN);
            for (int i = 0; i < KIND_LEN; i++) {
                /* The far end may lie up to a whole step beyond the last code: s was adjusted to
                 * meet zero. */
                float slack = fabsf(s[i / 64]) * 1.01f + fabsf(b[i / 64]) * 1e-5f;
                assert_true(fabsf(y[i] - kind_rows[r][i]) <= slack);
            }
        }
}

/* What q8_0 decodes to encodes to the same codes: the largest is always 127 steps. */
static void test_q8_0_stable(void **state) {
    (void)state;
    for (int r = 0; r < KINDS; r++) {
        uint8_t b[KIND_LEN / 32 * 34], again[sizeof b];
        float y[KIND_LEN], z[KIND_LEN];
        if (r >= 8 && r <= 10) continue; /* scales that f16 has no bits for */
        cake_codec_encode_row(CAKE_CODEC_Q8_0, CAKE_ENCODE_GGML, kind_rows[r], NULL, b, KIND_LEN);
        cake_codec_decode_row(CAKE_CODEC_Q8_0, b, y, KIND_LEN);
        cake_codec_encode_row(CAKE_CODEC_Q8_0, CAKE_ENCODE_GGML, y, NULL, again, KIND_LEN);
        cake_codec_decode_row(CAKE_CODEC_Q8_0, again, z, KIND_LEN);
        assert_memory_equal(b, again, sizeof b);
        assert_memory_equal(y, z, sizeof y);
    }
}

/* A block whose third-bit search changes codes in its fifth pass, and would in a sixth. */
static void test_encode_passes(void **state) {
    (void)state;
    float x[256];
    uint8_t b[110];
    for (int64_t i = 0; i < 256; i++) {
        int64_t at = 256 * 796 + i, v = 12347 * (at + 1) * (at % 97 + 3) % 16381 - 8190;
        x[i] = (float)v / 1024;
        x[i] *= fabsf(x[i]);
    }
    cake_codec_encode_row(CAKE_CODEC_Q3_K, CAKE_ENCODE_GGML, x, NULL, b, 256);
    expect_sum(b, sizeof b, "fad5c653b3c6ba2b", "q3_k");
}

/* Scales that lie halfway between two f16, or beyond its range. */
static void test_half_rounding(void **state) {
    (void)state;
    static const struct {
        float d;
        uint16_t half;
    } t[] = {{1 + 0x1p-11f, 0x3c00}, {1 + 3 * 0x1p-11f, 0x3c02},
             {0x1p-25f, 0},          {1.5f * 0x1p-24f, 0x0002},
             {0x1.8p-25f, 0x0001},   {0x1.ffcp-15f, 0x0400},
             {0x1.ff8p-15f, 0x03ff}, {65504, 0x7bff},
             {65520, 0x7c00},        {65488, 0x7bfe}};
    for (size_t i = 0; i < COUNT(t); i++) {
        float x[32] = {-127 * t[i].d}; /* exact: d has few bits */
        uint8_t b[34];
        cake_codec_encode_row(CAKE_CODEC_Q8_0, CAKE_ENCODE_GGML, x, NULL, b, 32);
        if ((b[0] | b[1] << 8) != t[i].half) fail_msg("%a: %02x%02x", (double)t[i].d, b[1], b[0]);
        assert_int_equal((int8_t)b[2], -127);
    }
}

/* Sub-blocks fitted side by side get what each gets alone, however many there are. */
static void test_fits_side_by_side(void **state) {
    (void)state;
    static const cake_fit_rule rules[] = {
        CAKE_RULE_IMPORTANCE(3), CAKE_RULE_IMPORTANCE(31), {3, -0.5f, 0.1f, 15, true}};
    float w[17 * 32];
    for (int i = 0; i < 17 * 32; i++) w[i] = i % 5 ? (float)(1 + i * 7 % 13) : 0;
    for (int r = 0; r < KINDS; r++)
        for (uint32_t len = 16; len <= 32; len += 16)
            for (uint32_t n = 1; n <= 17; n++) {
                const float *x = kind_rows[r] + r;
                uint8_t together[17 * 32], alone[17 * 32];
                float s[2][17], m[2][17];
                for (size_t rule = 0; rule < COUNT(rules); rule++)
                    for (int move = 0; move < 2; move++) {
                        cake_fit_min(n, len, &rules[rule], move, x, w, together, s[0], m[0]);
                        for (uint32_t j = 0; j < n; j++)
                            cake_fit_min(1, len, &rules[rule], move, x + j * len, w + j * len,
                                         alone + j * len, &s[1][j], &m[1][j]);
                        assert_memory_equal(together, alone, n * len);
                        assert_memory_equal(s[0], s[1], n * sizeof(float));
                        assert_memory_equal(m[0], m[1], n * sizeof(float));
                    }
                for (int weigh = 0; weigh < 2; weigh++) {
                    cake_fit_signed(n, len, 16, x, weigh ? w : NULL, CAKE_EPS_KQ, 7, together,
                                    s[0]);
                    for (uint32_t j = 0; j < n; j++)
                        cake_fit_signed(1, len, 16, x + j * len, weigh ? w + j * len : NULL,
                                        CAKE_EPS_KQ, 7, alone + j * len, &s[1][j]);
                    assert_memory_equal(together, alone, n * len);
                    assert_memory_equal(s[0], s[1], n * sizeof(float));
                }
            }
}

/* Not numbers, infinities, the largest and the smallest floats: any bytes, but it ends. */
static void test_hostile_floats(void **state) {
    (void)state;
    const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, -0.f, 1, -1};
    for (size_t a = 0; a < COUNT(odd); a++)
        for (size_t b = 0; b < COUNT(odd); b++)
            for (int every = 1; every <= 40; every += 13) {
                float x[512], y[512];
                uint8_t out[544];
                for (int i = 0; i < 512; i++) x[i] = i % every ? odd[a] : odd[b];
                for (int c = 0; c < BLOCK_CODECS; c++)
                    for (int v = 0; v < 4; v++) {
                        cake_codec_encode_row((cake_codec)c, (cake_encode_flavour)(v / 2), x,
                                              v & 1 ? x : NULL, out, 512);
                        cake_codec_decode_row((cake_codec)c, out, y, 512);
                    }
                uint16_t s[16], bias[16];
                for (uint32_t bits = 2; bits <= 8; bits++)
                    if (cake_affine_valid(bits, 32))
                        cake_affine_encode(bits, 32, CAKE_F16, x, out, s, bias, 512);
                for (int m = 0; m < CAKE_FP_COUNT; m++)
                    cake_fp_encode((cake_fp_mode)m, x, out, s, 512);
            }
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
        cmocka_unit_test(test_fp_encode),
        cmocka_unit_test(test_encode_table),
        cmocka_unit_test(test_encode_ggml_small),
        cmocka_unit_test(test_encode_ggml),
        cmocka_unit_test(test_encode_kinds),
        cmocka_unit_test(test_encode_mlx),
        cmocka_unit_test(test_encode_passes),
        cmocka_unit_test(test_half_rounding),
        cmocka_unit_test(test_fits_side_by_side),
        cmocka_unit_test(test_error_bounds),
        cmocka_unit_test(test_q8_0_stable),
        cmocka_unit_test(test_hostile_floats),
    };
    return cmocka_run_group_tests(tests, make_rows, NULL);
}
