/* MLX floating-point modes: E2M1 or E4M3 elements under E8M0 or E4M3 scales (formats.md 3). */
#include "kernels/codec_impl.h"

static const cake_fp_info modes[CAKE_FP_COUNT] = {
    [CAKE_FP_MXFP4] = {"mxfp4", 4, 32},
    [CAKE_FP_MXFP8] = {"mxfp8", 8, 32},
    [CAKE_FP_NVFP4] = {"nvfp4", 4, 16},
};

const cake_fp_info *cake_fp_get(cake_fp_mode mode) {
    return (unsigned)mode < CAKE_FP_COUNT ? &modes[mode] : NULL;
}

bool cake_fp_parse(const char *name, cake_fp_mode *out) {
    for (int m = 0; m < CAKE_FP_COUNT; m++)
        if (strcmp(name, modes[m].name) == 0) {
            *out = (cake_fp_mode)m;
            return true;
        }
    return false;
}

float cake_e2m1(uint32_t code) {
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return code & 8 ? -magnitude[code & 7] : magnitude[code & 7];
}

/* No NaN and no infinity, as in MLX: 0x7f is 480. */
float cake_e4m3(uint32_t code) {
    uint32_t e = code >> 3 & 15, m = code & 7;
    float v = e == 0 ? (float)m * 0x1p-9f : cake_f32_from_bits((e + 120) << 23 | m << 20);
    return code & 0x80 ? -v : v;
}

static float e8m0(uint32_t e) {
    return cake_f32_from_bits(e == 0 ? 0x00400000u : e << 23);
}

void cake_fp_decode(cake_fp_mode mode, const void *codes, const void *scales, float *out,
                    size_t k) {
    const cake_fp_info *info = cake_fp_get(mode);
    if (!info) return;
    const uint8_t *c = codes, *s = scales;
    for (size_t g = 0; g < k / info->group; g++) {
        float scale = mode == CAKE_FP_NVFP4 ? cake_e4m3(s[g]) : e8m0(s[g]);
        for (size_t i = g * info->group; i < (g + 1) * info->group; i++)
            out[i] =
                (info->bits == 8 ? cake_e4m3(c[i]) : cake_e2m1(cake_stream_get(c, 4, i))) * scale;
    }
}

/* Nearest, ties to the even code, saturating; the sign of zero is kept. */
static uint32_t to_e2m1(float x) {
    float a = cake_absf(x);
    uint32_t sign = cake_f32_bits(x) >> 31 << 3;
    if (a > 5) return sign | 7;
    if (a >= 3.5f) return sign | 6;
    if (a > 2.5f) return sign | 5;
    if (a >= 1.75f) return sign | 4;
    if (a > 1.25f) return sign | 3;
    if (a >= 0.75f) return sign | 2;
    return sign | (a > 0.25f);
}

/* Nearest, ties to even, subnormals kept; from 448 on, and NaN, 0x7e. */
static uint32_t to_e4m3(float x) {
    uint32_t u = cake_f32_bits(x), sign = u >> 24 & 0x80u, a = u & 0x7fffffffu;
    if (a >= 0x43e00000u) return sign | 0x7e;
    if (a < 0x3c800000u) /* below 2^-6: a multiple of 2^-9, left in the low bits */
        return sign | (cake_f32_bits(cake_f32_from_bits(a) + 0x1p14f) - 0x46800000u);
    a += 0x7ffffu + (a >> 20 & 1u);
    return sign | ((a >> 20) - (120u << 3));
}

/* The smallest power of two that is at least r, within 2^-127 .. 2^127. */
static uint32_t to_e8m0(float r) {
    uint32_t u = cake_f32_bits(r), e = u >> 23;
    if (e == 0) return u > 0x00400000u;
    e += (u & 0x7fffffu) != 0;
    return e < 254 ? e : 254;
}

void cake_fp_encode(cake_fp_mode mode, const float *x, void *codes, void *scales, size_t k) {
    const cake_fp_info *info = cake_fp_get(mode);
    if (!info) return;
    uint8_t *c = codes, *s = scales;
    for (size_t g = 0; g < k / info->group; g++, x += info->group) {
        float max = 0;
        for (uint32_t i = 0; i < info->group; i++)
            if (cake_absf(x[i]) > max) max = cake_absf(x[i]);
        float scale;
        if (mode == CAKE_FP_NVFP4) {
            s[g] = (uint8_t)to_e4m3(max / 6);
            scale = cake_e4m3(s[g]);
        } else {
            s[g] = (uint8_t)to_e8m0(max / (info->bits == 8 ? 448.0f : 6.0f));
            scale = e8m0(s[g]);
        }
        if (scale == 0) { /* nvfp4 only: codes would be 0/0 */
            memset(c, 0, info->group * info->bits / 8);
            c += info->group * info->bits / 8;
            continue;
        }
        if (info->bits == 8)
            for (uint32_t i = 0; i < info->group; i++) *c++ = (uint8_t)to_e4m3(x[i] / scale);
        else
            for (uint32_t i = 0; i < info->group; i += 2)
                *c++ = (uint8_t)(to_e2m1(x[i] / scale) | to_e2m1(x[i + 1] / scale) << 4);
    }
}
