/* The matmul family with AVX-512 VNNI: one 512-bit register holds the 16 rows of a tile.
 *
 * Many tokens: the codes of a unit (up to 64 columns) are expanded once into 16 registers and up to
 * CAKE_MM_TOKENS tokens stream past them, four at a time so that eight integer chains hide each
 * other's latency; the activations arrive as broadcast memory operands and the f32 accumulators
 * live in scratch (L1). One token: the same sums with the accumulator in a register and the weights
 * read strictly in order. */
#include "kernels/matmul_avx512.h"

#if defined(__AVX512VNNI__)

/* nt tokens of one unit of `ub` blocks: acc[i] += s * f + b * sum. The arrays start at the first
 * token. */
INLINE void unit_tokens(const __m512i *c, int ub, int nt, const int8_t *q, const float *sc0,
                        const float *sc1, const float *sum, __m512 s, __m512 b, float *acc) {
    __m512i d[4][2];
    for (int i = 0; i < nt; i++) d[i][0] = d[i][1] = _mm512_setzero_si512();
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < nt; i++)
            for (int h = 0; h < ub; h++)
                /* broadcasts of their own, not dot4(): four tokens are a fifth faster */
                d[i][h] =
                    _mm512_dpbusd_epi32(d[i][h], c[h * 8 + j], bcast(q + i * 64 + h * 32 + j * 4));
    for (int i = 0; i < nt; i++) {
        __m512 f = _mm512_mul_ps(_mm512_set1_ps(sc0[i]), _mm512_cvtepi32_ps(d[i][0]));
        if (ub == 2) f = _mm512_fmadd_ps(_mm512_set1_ps(sc1[i]), _mm512_cvtepi32_ps(d[i][1]), f);
        __m512 y = _mm512_fmadd_ps(s, f, _mm512_load_ps(acc + i * 16));
        _mm512_store_ps(acc + i * 16, _mm512_fmadd_ps(b, _mm512_set1_ps(sum[i]), y));
    }
}

/* Tokens [tok0, tok0 + n) of one tile into acc [n][16]. */
INLINE void affine_many(const cake_wspec *s, int bits, int ub, const uint8_t *p, const cake_act *a,
                        uint32_t tok0, uint32_t n, float *acc) {
    const uint32_t nt = a->n_tok, per_group = s->group / 32, groups = s->k / s->group;
    const size_t block_bytes = (size_t)bits * 64, fb = cake_ftype_bytes(s->ftype);
    for (uint32_t i = 0; i < n; i++) _mm512_store_ps(acc + i * 16, _mm512_setzero_ps());
    /* Weights to come are asked for a few lines per four tokens: all at once they would fill the
     * miss buffers and hold up the loads. */
    const uint8_t *ahead = p + PREFETCH;
    const uint32_t lines = (uint32_t)(ub * bits) + (uint32_t)fb / 2;
    const uint32_t per_step = n < 4 ? lines : (lines + n / 4 - 1) / (n / 4);
    uint32_t h = 0;
    for (uint32_t g = 0; g < groups; g++) {
        const uint8_t *tail = p + per_group * block_bytes;
        for (uint32_t blk = 0; blk < per_group; blk += (uint32_t)ub, h += (uint32_t)ub) {
            __m512i c[16];
            const uint8_t *ahead_end = ahead + (size_t)ub * block_bytes;
            if (blk + (uint32_t)ub == per_group) ahead_end += 32 * fb;
            for (int i = 0; i < ub; i++, p += block_bytes) load_block(p, bits, c + i * 8);
            __asm__ volatile("" : "+r"(tail)); /* not before the codes: see affine_one() */
            const __m512 sc = load_floats(tail, s->ftype),
                         bi = load_floats(tail + 16 * fb, s->ftype);
            const int8_t *q = a->q + ((size_t)(h / 2) * nt + tok0) * 64 + h % 2 * 32;
            const float *sc0 = a->scale + (size_t)h * nt + tok0, *sc1 = sc0 + nt;
            const float *sum =
                ub == 2 ? a->sum64 + (size_t)(h / 2) * nt + tok0 : a->sum32 + (size_t)h * nt + tok0;
            const int8_t *q_next = q + (size_t)nt * 64;
            uint32_t i = 0;
            for (; i + 4 <= n; i += 4) {
                for (int z = 0; z < 4; z++) _mm_prefetch(q_next + (i + z) * 64, _MM_HINT_T0);
                for (uint32_t l = 0; l < per_step && ahead < ahead_end; l++, ahead += 64)
                    _mm_prefetch(ahead, _MM_HINT_T0);
                unit_tokens(c, ub, 4, q + i * 64, sc0 + i, sc1 + i, sum + i, sc, bi, acc + i * 16);
            }
            for (; i + 2 <= n; i += 2)
                unit_tokens(c, ub, 2, q + i * 64, sc0 + i, sc1 + i, sum + i, sc, bi, acc + i * 16);
            if (i < n)
                unit_tokens(c, ub, 1, q + i * 64, sc0 + i, sc1 + i, sum + i, sc, bi, acc + i * 16);
            for (; ahead < ahead_end; ahead += 64) _mm_prefetch(ahead, _MM_HINT_T0);
        }
        p = tail + 32 * fb;
    }
}

/* One token of one tile. The weights are read strictly in order, the way the hardware prefetcher
 * knows best: the scales, which end the group, only when its dots are done. */
INLINE void affine_one(const cake_wspec *s, int bits, int ub, int units, const uint8_t *p,
                       const cake_act *a, float *out) {
    const uint32_t groups = s->k / s->group;
    const size_t fb = cake_ftype_bytes(s->ftype);
    const int8_t *q = a->q;
    const float *scale = a->scale, *sum = ub == 2 ? a->sum64 : a->sum32;
    __m512 acc = _mm512_setzero_ps();
    for (uint32_t g = 0; g < groups; g++) {
        __m512 f[2]; /* of the units of the group */
        CAKE_UNROLL(2)
        for (int u = 0; u < units; u++) {
            CAKE_UNROLL(2)
            for (int i = 0; i < ub; i++, p += bits * 64, q += 32, scale++) {
                __m512i c[8], d = _mm512_setzero_si512(), e = d;
                load_block_in_place(p, bits, c);
                if (i == 0) _mm_prefetch(q + Q_AHEAD, _MM_HINT_T0);
                dot_block(bits, c, q, &d, &e);
                d = _mm512_add_epi32(d, shift_right(e, last_shift(bits)));
                const __m512 df = _mm512_cvtepi32_ps(d), x = _mm512_set1_ps(*scale);
                f[u] = i == 0 ? _mm512_mul_ps(x, df) : _mm512_fmadd_ps(x, df, f[u]);
            }
        }
        __asm__ volatile("" : "+r"(p)); /* not before the codes */
        const __m512 sc = load_floats(p, s->ftype), bi = load_floats(p + 16 * fb, s->ftype);
        CAKE_UNROLL(2)
        for (int u = 0; u < units; u++) {
            acc = _mm512_fmadd_ps(sc, f[u], acc);
            acc = _mm512_fmadd_ps(bi, _mm512_set1_ps(*sum++), acc);
        }
        p += 32 * fb;
    }
    _mm512_store_ps(out, acc);
}

/* nt tokens over `len` columns (starting at a multiple of 4): part [nt][4][16] += w * x. w holds 16
 * values of type t per column. */
INLINE void f32_tokens(const uint8_t *w, cake_ftype t, uint32_t len, const float *x, size_t ldx,
                       int nt, bool ahead, float *part) {
    const size_t step = 16 * cake_ftype_bytes(t);
    __m512 acc[4][4];
    for (int i = 0; i < nt; i++)
        for (int u = 0; u < 4; u++) acc[i][u] = _mm512_load_ps(part + (i * 4 + u) * 16);
    uint32_t k = 0;
    for (; k + 4 <= len; k += 4, w += 4 * step) {
        if (ahead)
            for (size_t b = 0; b < 4 * step; b += 64) _mm_prefetch(w + PREFETCH + b, _MM_HINT_T0);
        for (int u = 0; u < 4; u++) {
            __m512 wv = load_floats(w + u * step, t);
            for (int i = 0; i < nt; i++)
                acc[i][u] = _mm512_fmadd_ps(wv, _mm512_set1_ps(x[i * ldx + k + u]), acc[i][u]);
        }
    }
    for (int u = 0; u < 3; u++) { /* the last k % 4 columns */
        if (k + u >= len) break;
        __m512 wv = load_floats(w + u * step, t);
        for (int i = 0; i < nt; i++)
            acc[i][u] = _mm512_fmadd_ps(wv, _mm512_set1_ps(x[i * ldx + k + u]), acc[i][u]);
    }
    for (int i = 0; i < nt; i++)
        for (int u = 0; u < 4; u++) _mm512_store_ps(part + (i * 4 + u) * 16, acc[i][u]);
}

/* ahead: the weights come from memory and the work on them is too long for the hardware prefetcher.
 */
INLINE void f32_range(const uint8_t *w, cake_ftype t, uint32_t len, const float *x, size_t ldx,
                      uint32_t n, bool ahead, float *part) {
    uint32_t i = 0;
    if (ahead && n >= 4) f32_tokens(w, t, len, x, ldx, 4, true, part), i = 4;
    for (; i + 4 <= n; i += 4) f32_tokens(w, t, len, x + i * ldx, ldx, 4, false, part + i * 64);
    for (; i < n; i++) f32_tokens(w, t, len, x + i * ldx, ldx, 1, false, part + i * 64);
}

static void f32_dense(const uint8_t *w, cake_ftype t, uint32_t len, const float *x, size_t ldx,
                      uint32_t n, bool ahead, float *part) {
    switch (t) {
    case CAKE_F32: f32_range(w, CAKE_F32, len, x, ldx, n, ahead, part); break;
    case CAKE_F16: f32_range(w, CAKE_F16, len, x, ldx, n, ahead, part); break;
    default: f32_range(w, CAKE_BF16, len, x, ldx, n, ahead, part); break;
    }
}

/* Expand `blocks` whole blocks of one tile, from block h0 on, to f32 [column][16]. */
INLINE void expand_blocks(const cake_wspec *s, int bits, const uint8_t *tile, uint32_t h0,
                          uint32_t blocks, float *out) {
    const uint32_t per_group = s->group / 32;
    const size_t fb = cake_ftype_bytes(s->ftype), group_bytes = cake_group_bytes(s);
    for (uint32_t h = h0; h < h0 + blocks; h++) {
        const uint8_t *g = tile + h / per_group * group_bytes;
        const uint8_t *tail = g + (size_t)per_group * bits * 64;
        const __m512 sc = load_floats(tail, s->ftype), bi = load_floats(tail + 16 * fb, s->ftype);
        __m512i c[8];
        load_block(g + (size_t)(h % per_group) * bits * 64, bits, c);
        for (int j = 0; j < 8; j++)
            for (int t = 0; t < 4; t++, out += 16) {
                __m512i code =
                    _mm512_and_si512(_mm512_srli_epi32(c[j], 8 * t), _mm512_set1_epi32(255));
                _mm512_store_ps(out,
                                _mm512_add_ps(_mm512_mul_ps(sc, _mm512_cvtepi32_ps(code)), bi));
            }
    }
}

static void expand(const cake_wspec *s, const uint8_t *tile, uint32_t h0, uint32_t blocks,
                   float *out) {
    if (s->kind != CAKE_W_AFFINE) {
        cake_block_expand_avx512(s, tile, h0, blocks, out);
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
    const size_t fb = cake_ftype_bytes(s->ftype);
    for (uint32_t k = 0; k < s->k; k += CAKE_MM_K_CHUNK) {
        const uint32_t len = s->k - k < CAKE_MM_K_CHUNK ? s->k - k : CAKE_MM_K_CHUNK;
        const uint8_t *w = p + (size_t)k * 16 * fb;
        if (s->kind != CAKE_W_DENSE) {
            expand(s, p, k / 32, (len + 31) / 32, panel);
        } else if (n <= 8 || s->ftype == CAKE_F32) { /* converting again is cheaper than a panel */
            f32_dense(w, s->ftype, len, x + k, a->ldx, n, n > 1, acc);
            continue;
        } else {
            for (uint32_t i = 0; i < len; i++)
                _mm512_store_ps(panel + i * 16, load_floats(w + (size_t)i * 16 * fb, s->ftype));
        }
        f32_dense((const uint8_t *)panel, CAKE_F32, len, x + k, a->ldx, n, false, acc);
    }
    for (uint32_t i = 0; i < n; i++) {
        const float *part = acc + (size_t)i * 64;
        __m512 y01 = _mm512_add_ps(_mm512_load_ps(part), _mm512_load_ps(part + 16));
        __m512 y23 = _mm512_add_ps(_mm512_load_ps(part + 32), _mm512_load_ps(part + 48));
        _mm512_store_ps(acc + (size_t)i * 16, _mm512_add_ps(y01, y23));
    }
}

/* int8 mode: one instance per (bits, unit). */
#define TILE_FN(bits, ub)                                                                          \
    static void tile_##bits##_##ub(const cake_wspec *s, const uint8_t *p, const cake_act *a,       \
                                   uint32_t tok0, uint32_t n, float *acc) {                        \
        if (a->n_tok > 1)                                                                          \
            affine_many(s, bits, ub, p, a, tok0, n, acc);                                          \
        else if (ub == 2 && s->group == 128)                                                       \
            affine_one(s, bits, 2, 2, p, a, acc);                                                  \
        else                                                                                       \
            affine_one(s, bits, ub, 1, p, a, acc);                                                 \
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
    cake_block_tile *block_fn = !f32 && block ? cake_block_tiles_avx512[cake_packing_of(s)] : NULL;
    float *acc = scratch, *panel = acc + CAKE_MM_ACC_FLOATS;
    for (uint32_t tok0 = 0; tok0 < a->n_tok; tok0 += CAKE_MM_TOKENS) {
        uint32_t n = a->n_tok - tok0 < CAKE_MM_TOKENS ? a->n_tok - tok0 : CAKE_MM_TOKENS;
        for (uint32_t t = tile_begin; t < tile_end; t++) {
            const uint8_t *p = (const uint8_t *)w->packed + t * tile_bytes;
            float *out = y + (size_t)tok0 * ldy + (size_t)t * 16;
            /* rows of y lie far apart: have their lines ready when the sums are */
            for (uint32_t i = 0; i < n; i++) _mm_prefetch(out + i * ldy, _MM_HINT_T0);
            if (f32)
                tile_f32(s, p, a, tok0, n, acc, panel);
            else if (block_fn)
                block_fn(s, p, a, tok0, n, acc, panel);
            else
                fn(s, p, a, tok0, n, acc);
            uint32_t rows = s->n - t * 16 < 16 ? s->n - t * 16 : 16;
            __mmask16 keep = (__mmask16)((1u << rows) - 1);
            for (uint32_t i = 0; i < n; i++)
                _mm512_mask_storeu_ps(out + i * ldy, keep, _mm512_load_ps(acc + i * 16));
        }
    }
}

static void act_quantize(cake_act *a, uint32_t tok_begin, uint32_t tok_end) {
    const uint32_t blocks = (a->k + 31) / 32, nt = a->n_tok;
    const __m512i abs = _mm512_set1_epi32(0x7fffffff);
    for (uint32_t tok = tok_begin; tok < tok_end; tok++) {
        const float *x = a->x + (size_t)tok * a->ldx;
        for (uint32_t h = 0; h < blocks; h++, x += 32) {
            uint32_t len = a->k - h * 32 < 32 ? a->k - h * 32 : 32;
            uint32_t keep = len == 32 ? 0xffffffffu : (1u << len) - 1;
            __m512 x0 = _mm512_maskz_loadu_ps((__mmask16)keep, x);
            __m512 x1 = _mm512_maskz_loadu_ps((__mmask16)(keep >> 16), x + 16);
            uint32_t top = _mm512_reduce_max_epu32(
                _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x0), abs),
                                 _mm512_and_si512(_mm512_castps_si512(x1), abs)));
            float scale = 0.0f;
            int32_t sum0 = 0, sum1 = 0;
            __m512i q0 = _mm512_setzero_si512(), q1 = q0;
            if (top >= 0x7f800000) {
                scale = cake_bits_f32(0x7fc00000);
            } else if (top >= CAKE_ACT_TINY_BITS) {
                float max = cake_bits_f32(top);
                __m512 inv = _mm512_set1_ps(127.0f / max);
                scale = max / 127.0f;
                q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inv));
                q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inv));
                sum0 = _mm512_reduce_add_epi32(q0), sum1 = _mm512_reduce_add_epi32(q1);
            }
            int8_t *q = a->q + ((size_t)(h / 2) * nt + tok) * 64 + h % 2 * 32;
            _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8(q0));
            _mm_storeu_si128((__m128i *)(void *)(q + 16), _mm512_cvtepi32_epi8(q1));
            float s32 = scale * (float)(sum0 + sum1), *s64 = &a->sum64[(size_t)(h / 2) * nt + tok];
            a->scale[(size_t)h * nt + tok] = scale;
            a->sum32[(size_t)h * nt + tok] = s32;
            *s64 = h % 2 ? *s64 + s32 : s32;
            int32_t *neg16 = a->neg16 + ((size_t)h * nt + tok) * 2;
            neg16[0] = -sum0, neg16[1] = -sum1;
        }
    }
}

const cake_matmul_ops cake_matmul_avx512 = {act_quantize, matmul};
#endif
