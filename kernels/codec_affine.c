/* MLX affine quantization: codes, scales and biases (formats.md 2.2 to 2.4). */
#include "kernels/codec_impl.h"
#include "kernels/cpu.h"

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

void cake_affine_encode(uint32_t bits, uint32_t group, cake_ftype type, const float *x, void *codes,
                        void *scales, void *biases, size_t k) {
    void (*encode)(uint32_t, uint32_t, const float *, uint8_t *, float *, float *) =
        cake_affine_group_base;
#if defined(__x86_64__)
    if (cake_cpu_isa() == CAKE_ISA_AVX2 || cake_cpu_isa() == CAKE_ISA_AVX512)
        encode = cake_affine_group_avx2;
#endif
    uint8_t *out = codes;
    for (size_t g = 0; g < k / group; g++, x += group, out += group / 8 * bits) {
        float scale, bias;
        encode(bits, group, x, out, &scale, &bias);
        store(scales, g, type, scale);
        store(biases, g, type, bias);
    }
}
