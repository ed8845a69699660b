/* MLX affine quantization: codes, scales and biases (formats.md 2.2 to 2.4). */
#include "kernels/codec_impl.h"

bool cake_affine_valid(uint32_t bits, uint32_t group) {
    return bits >= 2 && bits <= 8 && bits != 7 && (group == 32 || group == 64 || group == 128);
}

static float load(const void *base, size_t i, cake_ftype type) {
    const uint8_t *p = (const uint8_t *)base + i * cake_ftype_bytes(type);
    if (type == CAKE_F32) return cake_f32_from_bits(cake_le32(p));
    return type == CAKE_F16 ? cake_get_half(p) : cake_f32_from_bits(cake_le16(p) << 16);
}

static void store(void *base, size_t i, cake_ftype type, float x) {
    uint8_t *p = (uint8_t *)base + i * cake_ftype_bytes(type);
    uint32_t u = cake_f32_bits(x);
    if (type == CAKE_F32)
        cake_put32(p, u);
    else if (type == CAKE_F16)
        cake_put_half(p, x);
    else if ((u & 0x7fffffffu) > 0x7f800000u)
        cake_put16(p, u >> 16 | 0x40u);
    else
        cake_put16(p, (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

void cake_affine_decode(uint32_t bits, uint32_t group, cake_ftype type, const void *codes,
                        const void *scales, const void *biases, float *out, size_t k) {
    const uint8_t *stream = codes;
    for (size_t g = 0; g < k / group; g++) {
        float s = load(scales, g, type), b = load(biases, g, type);
        for (size_t i = g * group; i < (g + 1) * group; i++)
            out[i] = s * (float)cake_stream_get(stream, bits, i) + b;
    }
}

/* Half to even, for any v: from 2^23 on every float is an integer. */
static float round_any(float v) {
    if (!(cake_absf(v) < 0x1p23f)) return v;
    return v < 0 ? (v - 0x1p23f) + 0x1p23f : (v + 0x1p23f) - 0x1p23f;
}

void cake_affine_encode(uint32_t bits, uint32_t group, cake_ftype type, const float *x, void *codes,
                        void *scales, void *biases, size_t k) {
    const int n = (1 << bits) - 1;
    uint8_t *out = codes;
    for (size_t g = 0; g < k / group; g++, x += group) {
        float lo = x[0], hi = x[0];
        for (uint32_t i = 1; i < group; i++) {
            if (x[i] < lo) lo = x[i];
            if (x[i] > hi) hi = x[i];
        }
        /* The end of larger magnitude is met exactly, and zero if the group spans it. */
        bool negative = cake_absf(lo) > cake_absf(hi);
        float edge = negative ? lo : hi, bias = 0, scale = (hi - lo) / (float)n;
        if (!(scale > 1e-7f)) scale = 1e-7f;
        if (!negative) scale = -scale;
        float q0 = round_any(edge / scale);
        if (q0 != 0) {
            scale = edge / q0;
            bias = edge;
        }
        uint32_t held = 0, held_bits = 0; /* codes not yet written */
        for (uint32_t i = 0; i < group; i++) {
            held |= (uint32_t)cake_round_clamp((x[i] - bias) / scale, 0, n) << held_bits;
            for (held_bits += bits; held_bits >= 8; held_bits -= 8, held >>= 8)
                *out++ = (uint8_t)held;
        }
        store(scales, g, type, scale);
        store(biases, g, type, bias);
    }
}
