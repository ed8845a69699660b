/* The matmul family with NEON and the dot-product extension: a tile is four quads of four rows.
 *
 * The codes of a quad and unit (up to 64 columns) stay in 16 registers while the tokens stream
 * past. sdot takes signed bytes: codes up to 7 bits are, 8-bit codes get 128 subtracted and 128 *
 * (sum of q) added back, both exact. */
#include "kernels/matmul_neon.h"

#if defined(__aarch64__)

/* Integer dot of one block, four rows, one token. */
INLINE int32x4_t dot_block(const int8x16_t c[8], int bits, const int8_t *q) {
    int8x16_t q0 = vld1q_s8(q), q1 = vld1q_s8(q + 16);
    int32x4_t d = vdupq_n_s32(0), e = d;
    d = vdotq_laneq_s32(d, c[0], q0, 0), e = vdotq_laneq_s32(e, c[4], q1, 0);
    d = vdotq_laneq_s32(d, c[1], q0, 1), e = vdotq_laneq_s32(e, c[5], q1, 1);
    d = vdotq_laneq_s32(d, c[2], q0, 2), e = vdotq_laneq_s32(e, c[6], q1, 2);
    d = vdotq_laneq_s32(d, c[3], q0, 3), e = vdotq_laneq_s32(e, c[7], q1, 3);
    d = vaddq_s32(d, e);
    if (bits == 8) {
        const int8x16_t one = vdupq_n_s8(1);
        int32_t sum = vaddvq_s32(vdotq_s32(vdotq_s32(vdupq_n_s32(0), q0, one), q1, one));
        d = vaddq_s32(d, vdupq_n_s32(128 * sum));
    }
    return d;
}

/* Tokens [tok0, tok0 + n) of one tile into acc [n][16]. */
INLINE void affine_tile(const cake_wspec *s, int bits, int ub, const uint8_t *p, const cake_act *a,
                        uint32_t tok0, uint32_t n, float *acc) {
    const uint32_t nt = a->n_tok, per_group = s->group / 32, groups = s->k / s->group;
    const size_t block_bytes = (size_t)bits * 64, fb = cake_ftype_bytes(s->ftype);
    memset(acc, 0, (size_t)n * 16 * sizeof(float));
    uint32_t h = 0;
    for (uint32_t g = 0; g < groups; g++) {
        const uint8_t *tail = p + per_group * block_bytes;
        for (uint32_t blk = 0; blk < per_group; blk += (uint32_t)ub, h += (uint32_t)ub) {
            for (size_t v = 0; v < (size_t)ub * block_bytes; v += 64)
                __builtin_prefetch(p + PREFETCH + v);
            const int8_t *q0 = a->q + ((size_t)(h / 2) * nt + tok0) * 64 + h % 2 * 32;
            const float *sc0 = a->scale + (size_t)h * nt + tok0, *sc1 = sc0 + nt;
            const float *sum =
                ub == 2 ? a->sum64 + (size_t)(h / 2) * nt + tok0 : a->sum32 + (size_t)h * nt + tok0;
            for (int quad = 0; quad < 4; quad++) {
                int8x16_t c[16];
                for (int i = 0; i < ub; i++)
                    load_block(p + (size_t)i * block_bytes + quad * 16, bits, c + i * 8);
                const float32x4_t sc = load_floats(tail + (size_t)quad * 4 * fb, s->ftype);
                const float32x4_t bi = load_floats(tail + (size_t)(quad + 4) * 4 * fb, s->ftype);
                float *y = acc + quad * 4;
                for (uint32_t i = 0; i < n; i++, y += 16) {
                    const int8_t *q = q0 + i * 64;
                    float32x4_t f = vmulq_n_f32(vcvtq_f32_s32(dot_block(c, bits, q)), sc0[i]);
                    if (ub == 2)
                        f = vfmaq_n_f32(f, vcvtq_f32_s32(dot_block(c + 8, bits, q + 32)), sc1[i]);
                    float32x4_t v = vfmaq_f32(vld1q_f32(y), sc, f);
                    vst1q_f32(y, vfmaq_n_f32(v, bi, sum[i]));
                }
            }
            p += (size_t)ub * block_bytes;
        }
        p = tail + 32 * fb;
    }
}

/* nt tokens over `len` columns (starting at a multiple of 4), four rows: part [nt][4][16] += w * x.
 * w holds 16 values of type t per column. */
INLINE void f32_tokens(const uint8_t *w, cake_ftype t, uint32_t len, const float *x, size_t ldx,
                       int nt, float *part) {
    const size_t step = 16 * cake_ftype_bytes(t);
    float32x4_t acc[4][4];
    for (int i = 0; i < nt; i++)
        for (int u = 0; u < 4; u++) acc[i][u] = vld1q_f32(part + (i * 4 + u) * 16);
    for (uint32_t k = 0; k < len; k += 4)
        for (uint32_t u = 0; u < 4; u++, w += step) {
            if (k + u >= len) break; /* the last k % 4 columns */
            float32x4_t wv = load_floats(w, t);
            for (int i = 0; i < nt; i++)
                acc[i][u] = vfmaq_n_f32(acc[i][u], wv, x[(size_t)i * ldx + k + u]);
        }
    for (int i = 0; i < nt; i++)
        for (int u = 0; u < 4; u++) vst1q_f32(part + (i * 4 + u) * 16, acc[i][u]);
}

INLINE void f32_range(const uint8_t *w, cake_ftype t, uint32_t len, const float *x, size_t ldx,
                      uint32_t n, float *part) {
    for (int quad = 0; quad < 4; quad++, w += 4 * cake_ftype_bytes(t), part += 4) {
        uint32_t i = 0;
        for (; i + 4 <= n; i += 4) f32_tokens(w, t, len, x + i * ldx, ldx, 4, part + i * 64);
        for (; i < n; i++) f32_tokens(w, t, len, x + i * ldx, ldx, 1, part + i * 64);
    }
}

static void f32_dense(const uint8_t *w, cake_ftype t, uint32_t len, const float *x, size_t ldx,
                      uint32_t n, float *part) {
    switch (t) {
    case CAKE_F32: f32_range(w, CAKE_F32, len, x, ldx, n, part); break;
    case CAKE_F16: f32_range(w, CAKE_F16, len, x, ldx, n, part); break;
    default: f32_range(w, CAKE_BF16, len, x, ldx, n, part); break;
    }
}

/* Expand `blocks` whole blocks of one tile, from block h0 on, to f32 [column][16]. */
INLINE void expand_blocks(const cake_wspec *s, int bits, const uint8_t *tile, uint32_t h0,
                          uint32_t blocks, float *out) {
    const uint32_t per_group = s->group / 32;
    const size_t fb = cake_ftype_bytes(s->ftype), group_bytes = cake_group_bytes(s);
    for (uint32_t h = h0; h < h0 + blocks; h++, out += 32 * 16) {
        const uint8_t *g = tile + h / per_group * group_bytes;
        const uint8_t *tail = g + (size_t)per_group * (size_t)bits * 64;
        for (int quad = 0; quad < 4; quad++) {
            const float32x4_t sc = load_floats(tail + (size_t)quad * 4 * fb, s->ftype);
            const float32x4_t bi = load_floats(tail + (size_t)(quad + 4) * 4 * fb, s->ftype);
            int8x16_t c[8];
            load_block(g + (size_t)(h % per_group) * (size_t)bits * 64 + quad * 16, bits, c);
            for (int j = 0; j < 8; j++) {
                uint8x16_t u = vreinterpretq_u8_s8(c[j]);
                if (bits == 8) u = veorq_u8(u, vdupq_n_u8(0x80));
                for (int t = 0; t < 4; t++) {
                    uint32x4_t code = vandq_u32(
                        vshlq_u32(vreinterpretq_u32_u8(u), vdupq_n_s32(-8 * t)), vdupq_n_u32(255));
                    vst1q_f32(out + (j * 4 + t) * 16 + quad * 4,
                              vaddq_f32(vmulq_f32(sc, vcvtq_f32_u32(code)), bi));
                }
            }
        }
    }
}

static void expand(const cake_wspec *s, const uint8_t *tile, uint32_t h0, uint32_t blocks,
                   float *out) {
    if (s->kind != CAKE_W_AFFINE) {
        cake_block_expand(s, tile, h0, blocks, out);
        return;
    }
    switch (s->bits) {
    case 2: expand_blocks(s, 2, tile, h0, blocks, out); break;
    case 3: expand_blocks(s, 3, tile, h0, blocks, out); break;
    case 4: expand_blocks(s, 4, tile, h0, blocks, out); break;
    case 5: expand_blocks(s, 5, tile, h0, blocks, out); break;
    case 6: expand_blocks(s, 6, tile, h0, blocks, out); break;
    default: expand_blocks(s, 8, tile, h0, blocks, out); break;
    }
}

/* f32 mode, tokens [tok0, tok0 + n) of one tile: acc [n][4][16] becomes [n][16] in place. */
static void tile_f32(const cake_wspec *s, const uint8_t *p, const cake_act *a, uint32_t tok0,
                     uint32_t n, float *acc, float *panel) {
    const float *x = a->x + (size_t)tok0 * a->ldx;
    memset(acc, 0, (size_t)n * 64 * sizeof(float));
    if (s->kind == CAKE_W_DENSE) {
        const size_t step = 16 * cake_ftype_bytes(s->ftype);
        for (uint32_t k = 0; k < s->k; k += CAKE_MM_K_CHUNK) {
            uint32_t len = s->k - k < CAKE_MM_K_CHUNK ? s->k - k : CAKE_MM_K_CHUNK;
            f32_dense(p + k * step, s->ftype, len, x + k, a->ldx, n, acc);
        }
    } else {
        for (uint32_t k = 0; k < s->k; k += CAKE_MM_K_CHUNK) {
            uint32_t len = s->k - k < CAKE_MM_K_CHUNK ? s->k - k : CAKE_MM_K_CHUNK;
            expand(s, p, k / 32, (len + 31) / 32, panel);
            f32_dense((const uint8_t *)panel, CAKE_F32, len, x + k, a->ldx, n, acc);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (int quad = 0; quad < 4; quad++) {
            const float *part = acc + (size_t)i * 64 + quad * 4;
            float32x4_t y01 = vaddq_f32(vld1q_f32(part), vld1q_f32(part + 16));
            float32x4_t y23 = vaddq_f32(vld1q_f32(part + 32), vld1q_f32(part + 48));
            vst1q_f32(acc + (size_t)i * 16 + quad * 4, vaddq_f32(y01, y23));
        }
}

/* int8 mode: one instance per (bits, unit). */
#define TILE_FN(bits, ub)                                                                          \
    static void tile_##bits##_##ub(const cake_wspec *s, const uint8_t *p, const cake_act *a,       \
                                   uint32_t tok0, uint32_t n, float *acc) {                        \
        affine_tile(s, bits, ub, p, a, tok0, n, acc);                                              \
    }
#define TILE_FNS(bits) TILE_FN(bits, 1) TILE_FN(bits, 2)
TILE_FNS(2)
TILE_FNS(3)
TILE_FNS(4)
TILE_FNS(5)
TILE_FNS(6)
TILE_FNS(8)

typedef void tile_fn(const cake_wspec *, const uint8_t *, const cake_act *, uint32_t, uint32_t,
                     float *);
static tile_fn *const tile_fns[9][2] = {
    [2] = {tile_2_1, tile_2_2}, [3] = {tile_3_1, tile_3_2}, [4] = {tile_4_1, tile_4_2},
    [5] = {tile_5_1, tile_5_2}, [6] = {tile_6_1, tile_6_2}, [8] = {tile_8_1, tile_8_2},
};

static void matmul(const cake_mat *w, const cake_act *a, bool f32_mode, float *y, size_t ldy,
                   uint32_t tile_begin, uint32_t tile_end, void *scratch) {
    const cake_wspec view = cake_as_affine(&w->spec), *s = &view;
    const size_t tile_bytes = cake_packed_tile_bytes(s);
    const bool f32 = f32_mode || s->kind == CAKE_W_DENSE, block = s->kind != CAKE_W_AFFINE;
    tile_fn *fn = f32 || block ? NULL : tile_fns[s->bits][s->group != 32];
    cake_block_tile *block_fn = !f32 && block ? cake_block_tiles_neon[cake_packing_of(s)] : NULL;
    float *acc = scratch, *panel = acc + CAKE_MM_ACC_FLOATS;
    for (uint32_t tok0 = 0; tok0 < a->n_tok; tok0 += CAKE_MM_TOKENS) {
        uint32_t n = a->n_tok - tok0 < CAKE_MM_TOKENS ? a->n_tok - tok0 : CAKE_MM_TOKENS;
        for (uint32_t t = tile_begin; t < tile_end; t++) {
            const uint8_t *p = (const uint8_t *)w->packed + t * tile_bytes;
            if (f32)
                tile_f32(s, p, a, tok0, n, acc, panel);
            else if (block_fn)
                block_fn(s, p, a, tok0, n, acc, panel);
            else
                fn(s, p, a, tok0, n, acc);
            uint32_t rows = s->n - t * 16 < 16 ? s->n - t * 16 : 16;
            float *out = y + (size_t)tok0 * ldy + (size_t)t * 16;
            for (uint32_t i = 0; i < n; i++)
                memcpy(out + i * ldy, acc + i * 16, rows * sizeof(float));
        }
    }
}

static void act_quantize(cake_act *a, uint32_t tok_begin, uint32_t tok_end) {
    const uint32_t blocks = (a->k + 31) / 32, nt = a->n_tok;
    const uint32x4_t abs = vdupq_n_u32(0x7fffffff);
    for (uint32_t tok = tok_begin; tok < tok_end; tok++) {
        for (uint32_t h = 0; h < blocks; h++) {
            const float *x = a->x + (size_t)tok * a->ldx + h * 32;
            float tail[32] = {0};
            if (a->k - h * 32 < 32) {
                memcpy(tail, x, (a->k - h * 32) * sizeof(float));
                x = tail;
            }
            uint32x4_t m = vdupq_n_u32(0);
            for (int i = 0; i < 8; i++)
                m = vmaxq_u32(m, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i * 4)), abs));
            uint32_t top = vmaxvq_u32(m);
            float scale = 0.0f;
            int32_t sum[2] = {0};
            int32x4_t v[8];
            for (int i = 0; i < 8; i++) v[i] = vdupq_n_s32(0);
            if (top >= 0x7f800000) {
                scale = cake_bits_f32(0x7fc00000);
            } else if (top >= CAKE_ACT_TINY_BITS) {
                float max = cake_bits_f32(top), inv = 127.0f / max;
                int32x4_t t[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
                scale = max / 127.0f;
                for (int i = 0; i < 8; i++) {
                    v[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i * 4), inv));
                    t[i / 4] = vaddq_s32(t[i / 4], v[i]);
                }
                sum[0] = vaddvq_s32(t[0]), sum[1] = vaddvq_s32(t[1]);
            }
            int8_t *q = a->q + ((size_t)(h / 2) * nt + tok) * 64 + h % 2 * 32;
            for (int i = 0; i < 8; i += 2)
                vst1_s8(q + i * 4, vmovn_s16(vcombine_s16(vmovn_s32(v[i]), vmovn_s32(v[i + 1]))));
            float s32 = scale * (float)(sum[0] + sum[1]),
                  *s64 = &a->sum64[(size_t)(h / 2) * nt + tok];
            a->scale[(size_t)h * nt + tok] = scale;
            a->sum32[(size_t)h * nt + tok] = s32;
            *s64 = h % 2 ? *s64 + s32 : s32;
            int32_t *neg16 = a->neg16 + ((size_t)h * nt + tok) * 2;
            neg16[0] = -sum[0], neg16[1] = -sum[1];
        }
    }
}

const cake_matmul_ops cake_matmul_neon = {act_quantize, matmul};
#endif
