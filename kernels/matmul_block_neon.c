/* Block and fp formats with NEON and the dot-product extension: a tile is four quads of four rows.
 *
 * The codes of a quad and block stay in eight registers, signed, while the tokens pass; the sums
 * of every token are kept in scratch. */
#include "kernels/matmul_neon.h"

#if defined(__aarch64__)

/* Codes of four rows less what stands for zero. */
INLINE void load_codes(cake_packing p, const uint8_t *v, int8x16_t c[8]) {
    const int8_t table[16] = {CAKE_E2M1_TABLE};
    const cake_packing_info info = cake_packing_get(p);
    load_block(v, info.bits, c);
    if (cake_pk_e2m1(p))
        for (int j = 0; j < 8; j++) c[j] = vqtbl1q_s8(vld1q_s8(table), vreinterpretq_u8_s8(c[j]));
    if (info.zero && info.bits != 8) /* of 8 bits load_block() has done it */
        for (int j = 0; j < 8; j++) c[j] = vsubq_s8(c[j], vdupq_n_s8((int8_t)info.zero));
}

/* Words i of four rows in a head. */
INLINE uint32x4_t head_words(const uint8_t *u, int i, int quad) {
    return vreinterpretq_u32_u8(vld1q_u8(u + i * 64 + quad * 16));
}

/* x >> shift, & mask */
INLINE int32x4_t bits_of(uint32x4_t x, int shift, uint32_t mask) {
    return vreinterpretq_s32_u32(vandq_u32(vshlq_u32(x, vdupq_n_s32(-shift)), vdupq_n_u32(mask)));
}

/* What block b of a unit is multiplied with, four rows. */
typedef struct {
    float32x4_t s0, s1;           /* scales of the formats that are no K format (s1: nvfp4) */
    int32x4_t sc0, sc1, mn0, mn1; /* K formats */
} scales;

INLINE scales block_scales(cake_packing p, const uint8_t *u, int b, int quad) {
    scales v = {0};
    float f[2][4];
    uint32x4_t x;
    switch (p) {
    case CAKE_PK_Q4_0:
    case CAKE_PK_Q5_0:
    case CAKE_PK_Q8_0: v.s0 = load_floats(u + b * 32 + quad * 8, CAKE_F16); return v;
    case CAKE_PK_MXFP4:
    case CAKE_PK_MXFP4_GGUF:
        for (int r = 0; r < 4; r++)
            f[0][r] = cake_half_e8m0(u[b * 16 + quad * 4 + r], p == CAKE_PK_MXFP4);
        v.s0 = vld1q_f32(f[0]);
        return v;
    case CAKE_PK_NVFP4:
        for (int j = 0; j < 2; j++)
            for (int r = 0; r < 4; r++)
                f[j][r] = cake_e4m3_times(u[(b * 2 + j) * 16 + quad * 4 + r], 0x1p7f);
        v.s0 = vld1q_f32(f[0]), v.s1 = vld1q_f32(f[1]);
        return v;
    case CAKE_PK_Q4_K:
    case CAKE_PK_Q5_K:
        v.sc0 = bits_of(head_words(u, b / 4, quad), 8 * (b % 4), 63);
        v.mn0 = bits_of(head_words(u, b / 4 + 2, quad), 8 * (b % 4), 63);
        return v;
    case CAKE_PK_Q2_K:
        x = head_words(u, b / 2, quad);
        v.sc0 = bits_of(x, 8 * (b % 2), 15), v.sc1 = bits_of(x, 8 * (b % 2) + 16, 15);
        v.mn0 = bits_of(x, 8 * (b % 2) + 4, 15), v.mn1 = bits_of(x, 8 * (b % 2) + 20, 15);
        return v;
    case CAKE_PK_Q3_K:
        x = head_words(u, b / 2, quad);
        v.sc0 = vsubq_s32(bits_of(x, 8 * (b % 2), 63), vdupq_n_s32(32));
        v.sc1 = vsubq_s32(bits_of(x, 8 * (b % 2) + 16, 63), vdupq_n_s32(32));
        return v;
    default: { /* q6_k */
        const int32x4_t y = vreinterpretq_s32_u32(head_words(u, b / 2, quad));
        v.sc0 = vshrq_n_s32(vshlq_s32(y, vdupq_n_s32(24 - 8 * (b % 2))), 24);
        v.sc1 = vshrq_n_s32(vshlq_s32(y, vdupq_n_s32(8 - 8 * (b % 2))), 24);
        return v;
    }
    }
}

/* The d and dmin of four rows in the head of a K format's unit. */
INLINE void load_super(cake_packing p, const uint8_t *u, int quad, float32x4_t *d,
                       float32x4_t *dmin) {
    *dmin = vdupq_n_f32(0);
    if (p == CAKE_PK_Q6_K) {
        *d = load_floats(u + 256 + quad * 8, CAKE_F16);
        return;
    }
    uint32x4_t w = vdupq_n_u32(0);
    if (p == CAKE_PK_Q2_K)
        w = head_words(u, 4, quad);
    else
        for (int i = 0; i < 4; i++)
            w = vorrq_u32(w, vshlq_u32(vandq_u32(head_words(u, i, quad), vdupq_n_u32(0xc0c0c0c0)),
                                       vdupq_n_s32(-2 * i)));
    *d = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(w)));
    *dmin = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(w, 16)));
}

/* One block of one token: f and g (K formats) or acc (the rest) += its part. */
INLINE void add_block(cake_packing p, const int8x16_t c[8], const scales *v, const int8_t *q,
                      float scale, float sum32, const int32_t *neg16, float *acc, float *f,
                      float *g) {
    const int8x16_t q0 = vld1q_s8(q), q1 = vld1q_s8(q + 16);
    int32x4_t d = vdupq_n_s32(0), e = d;
    d = vdotq_laneq_s32(d, c[0], q0, 0), e = vdotq_laneq_s32(e, c[4], q1, 0);
    d = vdotq_laneq_s32(d, c[1], q0, 1), e = vdotq_laneq_s32(e, c[5], q1, 1);
    d = vdotq_laneq_s32(d, c[2], q0, 2), e = vdotq_laneq_s32(e, c[6], q1, 2);
    d = vdotq_laneq_s32(d, c[3], q0, 3), e = vdotq_laneq_s32(e, c[7], q1, 3);
    if (!cake_pk_super(p)) {
        const float32x4_t y = vld1q_f32(acc);
        if (p == CAKE_PK_NVFP4) {
            float32x4_t x = vmulq_f32(v->s0, vcvtq_f32_s32(d));
            x = vfmaq_f32(x, v->s1, vcvtq_f32_s32(e));
            vst1q_f32(acc, vfmaq_n_f32(y, x, scale));
        } else {
            const float32x4_t x = vmulq_n_f32(vcvtq_f32_s32(vaddq_s32(d, e)), scale);
            vst1q_f32(acc, vfmaq_f32(y, v->s0, x));
        }
        return;
    }
    if (cake_pk_whole(p)) {
        d = vmulq_s32(vaddq_s32(d, e), v->sc0);
        vst1q_f32(g, vfmsq_f32(vld1q_f32(g), vcvtq_f32_s32(v->mn0), vdupq_n_f32(sum32)));
    } else {
        d = vmlaq_s32(vmulq_s32(d, v->sc0), e, v->sc1);
    }
    if (p == CAKE_PK_Q2_K) {
        const int32x4_t m = vmlaq_n_s32(vmulq_n_s32(v->mn0, neg16[0]), v->mn1, neg16[1]);
        vst1q_f32(g, vfmaq_n_f32(vld1q_f32(g), vcvtq_f32_s32(m), scale));
    }
    vst1q_f32(f, vfmaq_n_f32(vld1q_f32(f), vcvtq_f32_s32(d), scale));
}

/* Tokens [tok0, tok0 + n) of one tile into acc [n][16]. */
INLINE void block_tile(cake_packing p, const cake_wspec *s, const uint8_t *w, const cake_act *a,
                       uint32_t tok0, uint32_t n, float *acc, float *f) {
    const cake_packing_info info = cake_packing_get(p);
    const uint32_t blocks = (s->k + 31) / 32;
    const size_t all = a->n_tok, sums = (size_t)n * 16;
    float *g = f + sums;
    memset(acc, 0, sums * sizeof *acc);
    for (uint32_t h0 = 0; h0 < blocks; h0 += info.unit) {
        const uint8_t *u = w;
        w += info.head;
        if (cake_pk_super(p)) memset(f, 0, 2 * sums * sizeof *f);
        for (uint32_t b = 0; b < info.unit && h0 + b < blocks; b++, w += info.bits * 64) {
            const size_t h = h0 + b, at = h * all + tok0;
            const int8_t *q = a->q + (h / 2 * all + tok0) * 64 + h % 2 * 32;
            for (size_t l = 0; l < info.bits * 64u; l += 64) __builtin_prefetch(w + PREFETCH + l);
            for (int quad = 0; quad < 4; quad++) {
                int8x16_t c[8];
                load_codes(p, w + quad * 16, c);
                const scales v = block_scales(p, u, (int)b, quad);
                for (size_t i = 0; i < n; i++) {
                    const size_t to = i * 16 + (size_t)quad * 4;
                    add_block(p, c, &v, q + i * 64, a->scale[at + i], a->sum32[at + i],
                              a->neg16 + (at + i) * 2, acc + to, f + to, g + to);
                }
            }
        }
        for (int quad = 0; quad < 4 && cake_pk_super(p); quad++) {
            float32x4_t d, dmin;
            load_super(p, u, quad, &d, &dmin);
            for (size_t i = (size_t)quad * 4; i < sums; i += 16) {
                float32x4_t y = vfmaq_f32(vld1q_f32(acc + i), d, vld1q_f32(f + i));
                if (cake_pk_mins(p)) y = vfmaq_f32(y, dmin, vld1q_f32(g + i));
                vst1q_f32(acc + i, y);
            }
        }
    }
}

#define TILE_FN(name)                                                                              \
    static void tile_##name(const cake_wspec *s, const uint8_t *w, const cake_act *a,              \
                            uint32_t tok0, uint32_t n, float *acc, float *panel) {                 \
        block_tile(CAKE_PK_##name, s, w, a, tok0, n, acc, panel);                                  \
    }
CAKE_INT_PACKINGS(TILE_FN)

cake_block_tile *const cake_block_tiles_neon[CAKE_PK_COUNT] = {
#define ENTRY(name) [CAKE_PK_##name] = tile_##name,
    CAKE_INT_PACKINGS(ENTRY)
#undef ENTRY
        [CAKE_PK_MXFP8] = cake_fp8_tile_neon,
};
#endif
