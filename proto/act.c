/* Activations to and from their wire types. Plain C with integer rounding, so that every machine
 * produces the same bits. */
#include "proto/wire.h"

#include <math.h>
#include <string.h>

/* IEEE binary16, round to nearest even; overflow becomes infinity, NaN stays NaN (quiet). */
static uint16_t f16_from_f32(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t sign = u >> 16 & 0x8000, mag = u & 0x7fffffff;
    if (mag > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (mag >> 13 & 0x1ff));
    if (mag >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (mag < 0x38800000) { /* below 2^-14: subnormal, unit 2^-24 */
        if (mag < 0x33000000) return (uint16_t)sign;
        uint32_t shift = 126 - (mag >> 23), m = (mag & 0x7fffff) | 0x800000;
        uint32_t q = m >> shift, rest = m & ((1u << shift) - 1), half = 1u << (shift - 1);
        q += rest > half || (rest == half && (q & 1));
        return (uint16_t)(sign | q);
    }
    uint32_t v = mag - 0x38000000;
    v += 0xfff + (v >> 13 & 1);
    return (uint16_t)(sign | v >> 13);
}

static float f32_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff, u;
    if (e == 31)
        u = sign | 0x7f800000 | m << 13;
    else if (e)
        u = sign | (e + 112) << 23 | m << 13;
    else {
        float f = (float)m * 0x1p-24f; /* exact */
        memcpy(&u, &f, sizeof u);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Codes of a scale and a value that may be anything, NaN included. */
static int8_t q8_code(float x, float scale) {
    float v = x / scale;
    if (!(v >= -127.0f)) return v != v ? 0 : -127;
    if (v >= 127.0f) return 127;
    int i = (int)(v < 0 ? v - 0.5f : v + 0.5f);
    return (int8_t)(i > 127 ? 127 : i < -127 ? -127 : i);
}

void cake_act_pack(uint8_t *dst, const float *src, uint32_t width, cake_wire_type dtype) {
    if (dtype == CAKE_WIRE_F32) {
        memcpy(dst, src, (size_t)width * 4);
    } else if (dtype == CAKE_WIRE_F16) {
        for (uint32_t i = 0; i < width; i++) {
            uint16_t h = f16_from_f32(src[i]);
            memcpy(dst + 2 * (size_t)i, &h, 2);
        }
    } else {
        uint32_t n_groups = (width + 31) / 32;
        uint8_t *codes = dst + 4 * (size_t)n_groups;
        for (uint32_t g = 0; g < n_groups; g++) {
            uint32_t begin = g * 32, n = width - begin < 32 ? width - begin : 32;
            float max = 0;
            for (uint32_t i = 0; i < n; i++) {
                float a = fabsf(src[begin + i]);
                if (a > max) max = a;
            }
            float scale = max / 127.0f;
            memcpy(dst + 4 * (size_t)g, &scale, 4);
            for (uint32_t i = 0; i < 32; i++) {
                int8_t c = i < n && scale > 0 ? q8_code(src[begin + i], scale) : 0;
                codes[begin + i] = (uint8_t)c;
            }
        }
    }
}

void cake_act_unpack(float *dst, const uint8_t *src, uint32_t width, cake_wire_type dtype) {
    if (dtype == CAKE_WIRE_F32) {
        memcpy(dst, src, (size_t)width * 4);
    } else if (dtype == CAKE_WIRE_F16) {
        for (uint32_t i = 0; i < width; i++) {
            uint16_t h;
            memcpy(&h, src + 2 * (size_t)i, 2);
            dst[i] = f32_from_f16(h);
        }
    } else {
        const uint8_t *codes = src + 4 * ((size_t)(width + 31) / 32);
        for (uint32_t i = 0; i < width; i++) {
            float scale;
            memcpy(&scale, src + 4 * (size_t)(i / 32), 4);
            dst[i] = scale * (float)(int8_t)codes[i];
        }
    }
}
