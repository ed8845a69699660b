/* The block codecs: names, geometry, and decoding (formats.md 4.1, 4.2, 6.4).
 *
 * Order of rounding: scale = d * sc, then scale * code, then offset = dmin * mn, then the
 * difference, each to f32. */
#include "kernels/codec_impl.h"

static void decode_q4_0(const uint8_t *b, float *y) {
    float d = cake_get_half(b);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)((b[2 + i] & 15) - 8) * d;
        y[i + 16] = (float)((b[2 + i] >> 4) - 8) * d;
    }
}

static void decode_q4_1(const uint8_t *b, float *y) {
    float d = cake_get_half(b), m = cake_get_half(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)(b[4 + i] & 15) * d + m;
        y[i + 16] = (float)(b[4 + i] >> 4) * d + m;
    }
}

/* Code i of a q5_0 or q5_1 block: four bits from the nibbles, the fifth from qh. */
static int code5(const uint8_t *qs, uint32_t qh, int i) {
    int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
    return low | (int)(qh >> i & 1) << 4;
}

static void decode_q5_0(const uint8_t *b, float *y) {
    float d = cake_get_half(b);
    uint32_t qh = cake_le32(b + 2);
    for (int i = 0; i < 32; i++) y[i] = (float)(code5(b + 6, qh, i) - 16) * d;
}

static void decode_q5_1(const uint8_t *b, float *y) {
    float d = cake_get_half(b), m = cake_get_half(b + 2);
    uint32_t qh = cake_le32(b + 4);
    for (int i = 0; i < 32; i++) y[i] = (float)code5(b + 8, qh, i) * d + m;
}

static void decode_q8_0(const uint8_t *b, float *y) {
    float d = cake_get_half(b);
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)b[2 + i] * d;
}

/* The two low bits of element i, as q2_k and q3_k store them. */
static int low2(const uint8_t *qs, int i) {
    return qs[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;
}

static void decode_q2_k(const uint8_t *b, float *y) {
    float d = cake_get_half(b + 80), dmin = cake_get_half(b + 82);
    for (int j = 0; j < 16; j++) {
        float scale = d * (float)(b[j] & 15), min = dmin * (float)(b[j] >> 4);
        for (int i = 16 * j; i < 16 * j + 16; i++) y[i] = scale * (float)low2(b + 16, i) - min;
    }
}

static void decode_q3_k(const uint8_t *b, float *y) {
    const uint8_t *hmask = b, *s = b + 96;
    float d = cake_get_half(b + 108);
    for (int j = 0; j < 16; j++) {
        int sc = (s[j % 8] >> 4 * (j / 8) & 15) | (s[8 + j % 4] >> 2 * (j / 4) & 3) << 4;
        float scale = d * (float)(sc - 32);
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            int high = hmask[i % 32] >> i / 32 & 1;
            y[i] = scale * (float)(low2(b + 32, i) - (high ? 0 : 4));
        }
    }
}

/* Scale and min j of the 12 bytes that q4_k and q5_k share. */
static void scale_min(const uint8_t *s, int j, int *sc, int *mn) {
    if (j < 4) {
        *sc = s[j] & 63;
        *mn = s[j + 4] & 63;
    } else {
        *sc = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *mn = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

/* qh is NULL for q4_k. */
static void decode_q45(const uint8_t *b, const uint8_t *qh, const uint8_t *qs, float *y) {
    float d = cake_get_half(b), dmin = cake_get_half(b + 2);
    for (int j = 0; j < 8; j++) {
        int sc, mn;
        scale_min(b + 4, j, &sc, &mn);
        float scale = d * (float)sc, min = dmin * (float)mn;
        for (int i = 0; i < 32; i++) {
            int code = qs[32 * (j / 2) + i] >> 4 * (j % 2) & 15;
            if (qh) code |= (qh[i] >> j & 1) << 4;
            y[32 * j + i] = scale * (float)code - min;
        }
    }
}

static void decode_q4_k(const uint8_t *b, float *y) {
    decode_q45(b, NULL, b + 16, y);
}

static void decode_q5_k(const uint8_t *b, float *y) {
    decode_q45(b, b + 16, b + 48, y);
}

static void decode_q6_k(const uint8_t *b, float *y) {
    const uint8_t *ql = b, *qh = b + 128;
    float d = cake_get_half(b + 208);
    for (int j = 0; j < 16; j++) {
        float scale = d * (float)(int8_t)b[192 + j];
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            int half = i / 128, strip = i % 128 / 32, l = i % 32;
            int low = ql[64 * half + 32 * (strip & 1) + l] >> 4 * (strip / 2) & 15;
            int high = qh[32 * half + l] >> 2 * strip & 3;
            y[i] = scale * (float)((low | high << 4) - 32);
        }
    }
}

/* Twice the E2M1 values, as integers: there is no negative zero in GGUF's two formats. */
static const int8_t e2m1_twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void decode_mxfp4(const uint8_t *b, float *y) {
    /* 2^(e - 128): finite for every byte, subnormal for the first two. */
    float half_scale =
        cake_f32_from_bits(b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)e2m1_twice[b[1 + i] & 15] * half_scale;
        y[i + 16] = (float)e2m1_twice[b[1 + i] >> 4] * half_scale;
    }
}

static void decode_nvfp4(const uint8_t *b, float *y) {
    for (int s = 0; s < 4; s++) {
        float half_scale = b[s] == 0x7f ? 0.0f : cake_e4m3(b[s] & 0x7f) * 0.5f;
        for (int i = 0; i < 8; i++) {
            uint8_t q = b[4 + 8 * s + i];
            y[16 * s + i] = (float)e2m1_twice[q & 15] * half_scale;
            y[16 * s + 8 + i] = (float)e2m1_twice[q >> 4] * half_scale;
        }
    }
}

static const struct {
    cake_codec_info info;
    void (*decode)(const uint8_t *block, float *out);
} codecs[CAKE_CODEC_COUNT] = {
    [CAKE_CODEC_Q4_0] = {{"q4_0", 32, 18, 2, true, true}, decode_q4_0},
    [CAKE_CODEC_Q4_1] = {{"q4_1", 32, 20, 3, true, true}, decode_q4_1},
    [CAKE_CODEC_Q5_0] = {{"q5_0", 32, 22, 6, true, true}, decode_q5_0},
    [CAKE_CODEC_Q5_1] = {{"q5_1", 32, 24, 7, true, true}, decode_q5_1},
    [CAKE_CODEC_Q8_0] = {{"q8_0", 32, 34, 8, true, false}, decode_q8_0},
    [CAKE_CODEC_Q2_K] = {{"q2_k", 256, 84, 10, true, true}, decode_q2_k},
    [CAKE_CODEC_Q3_K] = {{"q3_k", 256, 110, 11, true, true}, decode_q3_k},
    [CAKE_CODEC_Q4_K] = {{"q4_k", 256, 144, 12, true, true}, decode_q4_k},
    [CAKE_CODEC_Q5_K] = {{"q5_k", 256, 176, 13, true, true}, decode_q5_k},
    [CAKE_CODEC_Q6_K] = {{"q6_k", 256, 210, 14, true, true}, decode_q6_k},
    [CAKE_CODEC_MXFP4] = {{"mxfp4", 32, 17, 39, false, false}, decode_mxfp4},
    [CAKE_CODEC_NVFP4] = {{"nvfp4", 64, 36, 40, false, false}, decode_nvfp4},
};

const cake_codec_info *cake_codec_get(cake_codec codec) {
    return (unsigned)codec < CAKE_CODEC_COUNT ? &codecs[codec].info : NULL;
}

const char *cake_codec_name(cake_codec codec) {
    const cake_codec_info *info = cake_codec_get(codec);
    return info ? info->name : "?";
}

bool cake_codec_parse(const char *name, cake_codec *out) {
    for (int c = 0; c < CAKE_CODEC_COUNT; c++)
        if (strcmp(name, codecs[c].info.name) == 0) {
            *out = (cake_codec)c;
            return true;
        }
    return false;
}

bool cake_codec_from_ggml(uint32_t type, cake_codec *out) {
    for (int c = 0; c < CAKE_CODEC_COUNT; c++)
        if (codecs[c].info.ggml_type == type) {
            *out = (cake_codec)c;
            return true;
        }
    return false;
}

size_t cake_codec_row_bytes(cake_codec codec, size_t k) {
    const cake_codec_info *info = cake_codec_get(codec);
    return info && k % info->weights == 0 ? k / info->weights * info->bytes : 0;
}

void cake_codec_decode_row(cake_codec codec, const void *blocks, float *out, size_t k) {
    const cake_codec_info *info = cake_codec_get(codec);
    if (!info) return;
    const uint8_t *b = blocks;
    for (size_t n = k / info->weights; n > 0; n--) {
        codecs[codec].decode(b, out);
        b += info->bytes;
        out += info->weights;
    }
}
