/* mxfp8 with NEON and the dot-product extension: 512 times a weight, m << s, is an integer of 18
 * bits and a sign, hence three digits of six bits, multiplied as signed bytes. A tile is four quads
 * of four rows; the digits of a quad and block are made once for all tokens. */
#include "kernels/matmul_neon.h"

#if defined(__aarch64__)

enum { UNIT = 4 }; /* blocks under one head */

/* Of four rows of one line of codes, the last digit first. */
INLINE void expand(uint8x16_t code, int8x16_t digit[3]) {
    const uint8x16_t e = field(code, 3, 15), leading = vandq_u8(vtstq_u8(e, e), vdupq_n_u8(8));
    const uint8x16_t m = vorrq_u8(vandq_u8(code, vdupq_n_u8(7)), leading);
    const int8x16_t s = vreinterpretq_s8_u8(vqsubq_u8(e, vdupq_n_u8(1)));
    const uint8x16_t minus = vcltzq_s8(vreinterpretq_s8_u8(code));
    for (int i = 0; i < 3; i++) {
        /* Shifts to the right where they are negative, and from 8 on give 0. */
        const uint8x16_t x = vshlq_u8(m, vsubq_s8(s, vdupq_n_s8((int8_t)(6 * i))));
        const uint8x16_t low = vandq_u8(x, vdupq_n_u8(63));
        digit[i] = vreinterpretq_s8_u8(vsubq_u8(veorq_u8(low, minus), minus));
    }
}

/* The sums of digits i of a block. */
INLINE int32x4_t dot_block(int8x16_t v[8][3], int i, int8x16_t q0, int8x16_t q1) {
    int32x4_t d = vdupq_n_s32(0), e = d;
    d = vdotq_laneq_s32(d, v[0][i], q0, 0), e = vdotq_laneq_s32(e, v[4][i], q1, 0);
    d = vdotq_laneq_s32(d, v[1][i], q0, 1), e = vdotq_laneq_s32(e, v[5][i], q1, 1);
    d = vdotq_laneq_s32(d, v[2][i], q0, 2), e = vdotq_laneq_s32(e, v[6][i], q1, 2);
    d = vdotq_laneq_s32(d, v[3][i], q0, 3), e = vdotq_laneq_s32(e, v[7][i], q1, 3);
    return vaddq_s32(d, e);
}

void cake_fp8_tile_neon(const cake_wspec *s, const uint8_t *w, const cake_act *a, uint32_t tok0,
                        uint32_t n, float *acc, float *panel) {
    (void)panel;
    const size_t all = a->n_tok;
    memset(acc, 0, (size_t)n * 16 * sizeof *acc);
    const uint8_t *head = w;
    for (uint32_t h = 0; h < s->k / 32; h++, w += 512) {
        if (h % UNIT == 0) head = w, w += 64;
        const int8_t *q = a->q + (h / 2 * all + tok0) * 64 + h % 2 * 32;
        const float *scale = a->scale + h * all + tok0;
        for (size_t l = 0; l < 512; l += 64) __builtin_prefetch(w + PREFETCH + l);
        for (int quad = 0; quad < 4; quad++) {
            int8x16_t v[8][3];
            float f[4];
            for (int j = 0; j < 8; j++) expand(vld1q_u8(w + j * 64 + quad * 16), v[j]);
            for (int r = 0; r < 4; r++)
                f[r] = cake_e8m0(head[h % UNIT * 16 + (uint32_t)quad * 4 + (uint32_t)r]) * 0x1p-9f;
            const float32x4_t by = vld1q_f32(f);
            for (size_t i = 0; i < n; i++) {
                const int8x16_t q0 = vld1q_s8(q + i * 64), q1 = vld1q_s8(q + i * 64 + 16);
                int32x4_t d = dot_block(v, 2, q0, q1);
                d = vaddq_s32(vshlq_n_s32(d, 6), dot_block(v, 1, q0, q1));
                d = vaddq_s32(vshlq_n_s32(d, 6), dot_block(v, 0, q0, q1));
                float *to = acc + i * 16 + (size_t)quad * 4;
                const float32x4_t x = vmulq_n_f32(vcvtq_f32_s32(d), scale[i]);
                vst1q_f32(to, vfmaq_f32(vld1q_f32(to), by, x));
            }
        }
    }
}
#endif
