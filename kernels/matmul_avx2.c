/* The matmul family with AVX2+FMA, no VNNI: a tile is two halves of eight rows.
 *
 * vpmaddubsw adds two products in 16 bits and saturates, so as many steps are summed in 16 bits as
 * provably fit, then vpmaddwd widens. With |q| <= 127 one step is at most 2 * (2^bits - 1) * 127:
 * eight steps fit up to 4 bits, four at 5, two at 6; codes of 8 bits and q are widened to 16 bits
 * and vpmaddwd does it all. The integers are the same as with VNNI. */
#include "kernels/matmul_avx2.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

/* Integer dot of one block, eight rows, with nt tokens whose activations are 64 bytes apart. */
INLINE void dot_block(const __m256i *c, int bits, int nt, const int8_t *q, __m256i *d) {
    const int fit = bits <= 4 ? 8 : bits == 5 ? 4 : 2;
    const __m256i ones = _mm256_set1_epi16(1);
    for (int i = 0; i < nt; i++) d[i] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int j0 = 0; j0 < 8; j0 += fit) {
        __m256i sum[4];
#pragma GCC unroll 8
        for (int j = j0; j < j0 + fit; j++)
#pragma GCC unroll 4
            for (int i = 0; i < nt; i++) {
                __m256i x = bcast(q + i * 64 + j * 4), m = _mm256_maddubs_epi16(c[j], x);
                sum[i] = j == j0 ? m : _mm256_add_epi16(sum[i], m);
                __asm__("" : "+x"(sum[i])); /* gcc would build trees of sums and spill them all */
            }
        for (int i = 0; i < nt; i++) d[i] = _mm256_add_epi32(d[i], _mm256_madd_epi16(sum[i], ones));
    }
}

/* The same of one token and up to 4 bits straight from the packed block, both halves at once:
 * unpacked when needed, all of it stays in registers. */
INLINE void dot_lines(const uint8_t *v, int bits, const int8_t *q, __m256i d[2]) {
    __m256i lines[8];
    load_lines(v, bits, lines), load_lines(v + 32, bits, lines + bits);
    CAKE_UNROLL(8)
    for (int j = 0; j < 8; j++) {
        const __m256i x = bcast(q + j * 4);
        for (int k = 0; k < 2; k++) {
            const __m256i m = _mm256_maddubs_epi16(unpack(lines + k * bits, bits, j), x);
            d[k] = j == 0 ? m : _mm256_add_epi16(d[k], m);
            __asm__("" : "+x"(d[k])); /* no trees of sums, which would all be spilled */
        }
    }
    for (int k = 0; k < 2; k++) d[k] = _mm256_madd_epi16(d[k], _mm256_set1_epi16(1));
}

/* nt tokens of one unit, eight rows: acc[i*16] += s * f + b * sum. */
INLINE void unit_tokens(const __m256i *c, int bits, int ub, int nt, const int8_t *q,
                        const float *sc0, const float *sc1, const float *sum, __m256 s, __m256 b,
                        float *acc) {
    __m256i d[4];
    __m256 f[4];
    dot_block(c, bits, nt, q, d);
    for (int i = 0; i < nt; i++)
        f[i] = _mm256_mul_ps(_mm256_set1_ps(sc0[i]), _mm256_cvtepi32_ps(d[i]));
    if (ub == 2) {
        dot_block(c + 8, bits, nt, q + 32, d);
        for (int i = 0; i < nt; i++)
            f[i] = _mm256_fmadd_ps(_mm256_set1_ps(sc1[i]), _mm256_cvtepi32_ps(d[i]), f[i]);
    }
    for (int i = 0; i < nt; i++) {
        __m256 y = _mm256_fmadd_ps(s, f[i], _mm256_load_ps(acc + i * 16));
        _mm256_store_ps(acc + i * 16, _mm256_fmadd_ps(b, _mm256_set1_ps(sum[i]), y));
    }
}

/* The same of 8-bit codes and both halves: c[block][code][half], q[token][block]. */
INLINE void unit_words(__m256i (*c)[16][2], int ub, int nt, int16_t (*q)[2][32], const float *sc0,
                       const float *sc1, const float *sum, const __m256 *s, const __m256 *b,
                       float *acc) {
    __m256i d[2 * WIDE]; /* [token][half] */
    __m256 f[2 * WIDE];
    for (int i = 0; i < ub; i++) {
        dot_words(nt, c[i], q[0][i], 64, d);
        for (int k = 0; k < nt * 2; k++) {
            const __m256 x = _mm256_set1_ps((i == 0 ? sc0 : sc1)[k / 2]);
            const __m256 df = _mm256_cvtepi32_ps(d[k]);
            f[k] = i == 0 ? _mm256_mul_ps(x, df) : _mm256_fmadd_ps(x, df, f[k]);
        }
    }
    for (int k = 0; k < nt * 2; k++) {
        const __m256 y = _mm256_fmadd_ps(s[k % 2], f[k], _mm256_load_ps(acc + k * 8));
        _mm256_store_ps(acc + k * 8, _mm256_fmadd_ps(b[k % 2], _mm256_set1_ps(sum[k / 2]), y));
    }
}

/* nt tokens of a unit of the activations, widened. */
INLINE void widen_unit(int ub, int nt, const int8_t *q, int16_t (*out)[2][32]) {
    for (int i = 0; i < nt; i++)
        for (int b = 0; b < ub; b++) widen_act(q + i * 64 + b * 32, out[i][b]);
}

/* One unit of 8-bit codes, n tokens. They are widened some tokens ahead of their use: what has just
 * been stored is slow to read. */
INLINE void unit_of_words(const cake_wspec *s, int ub, const uint8_t *p, const uint8_t *tail,
                          uint32_t n, const int8_t *q, const float *sc0, const float *sc1,
                          const float *sum, float *acc) {
    const size_t fb = cake_ftype_bytes(s->ftype);
    __m256i c[2][16][2];
    __m256 sc[2], bi[2];
    int16_t words[2][WIDE][2][32] __attribute__((aligned(32)));
    for (int half = 0; half < 2; half++) {
        sc[half] = load_floats(tail + (size_t)half * 8 * fb, s->ftype);
        bi[half] = load_floats(tail + (size_t)(half + 2) * 8 * fb, s->ftype);
        for (int b = 0; b < ub; b++) {
            __m256i x[16];
            load_block(p + b * 512 + half * 32, 8, x);
            for (int j = 0; j < 16; j++) c[b][j][half] = x[j];
        }
    }
    uint32_t i = 0;
    if (n >= WIDE) widen_unit(ub, WIDE, q, words[0]);
    for (; i + WIDE <= n; i += WIDE) {
        if (i + 2 * WIDE <= n) widen_unit(ub, WIDE, q + (i + WIDE) * 64, words[(i / WIDE + 1) % 2]);
        unit_words(c, ub, WIDE, words[i / WIDE % 2], sc0 + i, sc1 + i, sum + i, sc, bi,
                   acc + i * 16);
    }
    for (; i < n; i++) {
        widen_unit(ub, 1, q + i * 64, words[0]);
        unit_words(c, ub, 1, words[0], sc0 + i, sc1 + i, sum + i, sc, bi, acc + i * 16);
    }
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
                _mm_prefetch(p + PREFETCH + v, _MM_HINT_T0);
            const int8_t *q = a->q + ((size_t)(h / 2) * nt + tok0) * 64 + h % 2 * 32;
            const float *sc0 = a->scale + (size_t)h * nt + tok0, *sc1 = sc0 + nt;
            const float *sum =
                ub == 2 ? a->sum64 + (size_t)(h / 2) * nt + tok0 : a->sum32 + (size_t)h * nt + tok0;
            if (bits == 8) unit_of_words(s, ub, p, tail, n, q, sc0, sc1, sum, acc);
            for (int half = 0; half < 2 && bits != 8; half++) {
                __m256i c[16];
                for (int i = 0; i < ub; i++)
                    load_block(p + (size_t)i * block_bytes + half * 32, bits, c + i * 8);
                const __m256 sc = load_floats(tail + (size_t)half * 8 * fb, s->ftype);
                const __m256 bi = load_floats(tail + (size_t)(half + 2) * 8 * fb, s->ftype);
                float *y = acc + half * 8;
                uint32_t i = 0;
                for (; i + 4 <= n; i += 4)
                    unit_tokens(c, bits, ub, 4, q + i * 64, sc0 + i, sc1 + i, sum + i, sc, bi,
                                y + i * 16);
                for (; i < n; i++)
                    unit_tokens(c, bits, ub, 1, q + i * 64, sc0 + i, sc1 + i, sum + i, sc, bi,
                                y + i * 16);
            }
            p += (size_t)ub * block_bytes;
        }
        p = tail + 32 * fb;
        _mm_prefetch(p + PREFETCH - 64, _MM_HINT_T0);
        if (fb == 4) _mm_prefetch(p + PREFETCH - 128, _MM_HINT_T0);
    }
}

/* One token of one tile. The weights are read strictly in order and left to the hardware
 * prefetcher: the scales, which end the group, only when its dots are done. */
INLINE void affine_one(const cake_wspec *s, int bits, int ub, const uint8_t *p, const cake_act *a,
                       float *out) {
    const int per_group = (int)s->group / 32;
    const uint32_t groups = s->k / s->group;
    const size_t block_bytes = (size_t)bits * 64, fb = cake_ftype_bytes(s->ftype);
    const int8_t *q = a->q;
    const float *scale = a->scale, *sum = ub == 2 ? a->sum64 : a->sum32;
    __m256 acc0 = _mm256_setzero_ps(), acc1 = acc0;
    for (uint32_t g = 0; g < groups; g++) {
        __m256 f[2][2]; /* [unit of the group][half] */
        for (int u = 0; u * ub < per_group; u++)
            for (int i = 0; i < ub; i++, p += block_bytes, q += 32, scale++) {
                __m256i c[8], d[2];
                if (bits == 8) {
                    int16_t words[32] __attribute__((aligned(32)));
                    widen_act(q, words);
                    dot_bytes(p, words, d);
                }
                if (bits <= 4) dot_lines(p, bits, q, d);
                for (int half = 0; half < 2 && (bits == 5 || bits == 6); half++) {
                    load_block(p + half * 32, bits, c);
                    dot_block(c, bits, 1, q, &d[half]);
                }
                const __m256 x = _mm256_set1_ps(*scale);
                for (int half = 0; half < 2; half++) {
                    __m256 df = _mm256_cvtepi32_ps(d[half]);
                    f[u][half] = i == 0 ? _mm256_mul_ps(x, df) : _mm256_fmadd_ps(x, df, f[u][half]);
                }
            }
        __asm__ volatile("" : "+r"(p)); /* not before the codes */
        const __m256 s0 = load_floats(p, s->ftype), s1 = load_floats(p + 8 * fb, s->ftype);
        const __m256 b0 = load_floats(p + 16 * fb, s->ftype),
                     b1 = load_floats(p + 24 * fb, s->ftype);
        for (int u = 0; u * ub < per_group; u++, sum++) {
            const __m256 x = _mm256_set1_ps(*sum);
            acc0 = _mm256_fmadd_ps(b0, x, _mm256_fmadd_ps(s0, f[u][0], acc0));
            acc1 = _mm256_fmadd_ps(b1, x, _mm256_fmadd_ps(s1, f[u][1], acc1));
        }
        p += 32 * fb;
    }
    _mm256_store_ps(out, acc0);
    _mm256_store_ps(out + 8, acc1);
}

/* nt tokens and `halves` halves of eight rows over `len` columns (starting at a multiple of 4):
 * part [nt][4][16] += w * x. w holds 16 values of type t per column. */
INLINE void f32_tokens(const uint8_t *w, cake_ftype t, uint32_t len, const float *x, size_t ldx,
                       int nt, int halves, float *part) {
    const size_t fb = cake_ftype_bytes(t), step = 16 * fb;
    __m256 acc[2][4];
    for (int i = 0; i < nt * halves; i++)
        for (int u = 0; u < 4; u++)
            acc[i][u] = _mm256_load_ps(part + (i / halves * 4 + u) * 16 + i % halves * 8);
    for (uint32_t k = 0; k < len; k += 4) {
        for (uint32_t u = 0; u < 4; u++, w += step) {
            if (k + u >= len) break; /* the last k % 4 columns */
            for (int i = 0; i < nt * halves; i++) {
                __m256 wv = load_floats(w + (size_t)(i % halves) * 8 * fb, t);
                __m256 xv = _mm256_set1_ps(x[(size_t)(i / halves) * ldx + k + u]);
                acc[i][u] = _mm256_fmadd_ps(wv, xv, acc[i][u]);
            }
        }
    }
    for (int i = 0; i < nt * halves; i++)
        for (int u = 0; u < 4; u++)
            _mm256_store_ps(part + (i / halves * 4 + u) * 16 + i % halves * 8, acc[i][u]);
}

/* Three tokens, both halves, partial sums u0 and u0 + 1 only: as many sums as fit in registers with
 * the fewest loads for each. w: f32. */
INLINE void f32_tokens_3(const float *w, uint32_t len, const float *x, size_t ldx, uint32_t u0,
                         float *part) {
    __m256 acc[3][2][2]; /* [token][u - u0][half] */
    for (int i = 0; i < 3; i++)
        for (uint32_t u = 0; u < 4; u++)
            acc[i][u / 2][u % 2] = _mm256_load_ps(part + i * 64 + (u0 + u / 2) * 16 + u % 2 * 8);
    for (uint32_t k = u0; k < len; k += 4)
        for (uint32_t u = 0; u < 2; u++) {
            if (k + u >= len) break; /* the last k % 4 columns */
            const __m256 w0 = _mm256_load_ps(w + (size_t)(k + u) * 16);
            const __m256 w1 = _mm256_load_ps(w + (size_t)(k + u) * 16 + 8);
            for (int i = 0; i < 3; i++) {
                const __m256 xv = _mm256_set1_ps(x[(size_t)i * ldx + k + u]);
                acc[i][u][0] = _mm256_fmadd_ps(w0, xv, acc[i][u][0]);
                acc[i][u][1] = _mm256_fmadd_ps(w1, xv, acc[i][u][1]);
            }
        }
    for (int i = 0; i < 3; i++)
        for (uint32_t u = 0; u < 4; u++)
            _mm256_store_ps(part + i * 64 + (u0 + u / 2) * 16 + u % 2 * 8, acc[i][u / 2][u % 2]);
}

INLINE void f32_range(const uint8_t *w, cake_ftype t, uint32_t len, const float *x, size_t ldx,
                      uint32_t n, float *part) {
    const size_t half = 8 * cake_ftype_bytes(t);
    uint32_t i = 0;
    for (; t == CAKE_F32 && i + 3 <= n; i += 3)
        for (uint32_t u0 = 0; u0 < 4; u0 += 2)
            f32_tokens_3((const float *)(const void *)w, len, x + i * ldx, ldx, u0, part + i * 64);
    for (; i + 2 <= n; i += 2) {
        f32_tokens(w, t, len, x + i * ldx, ldx, 2, 1, part + i * 64);
        f32_tokens(w + half, t, len, x + i * ldx, ldx, 2, 1, part + i * 64 + 8);
    }
    if (i < n) f32_tokens(w, t, len, x + i * ldx, ldx, 1, 2, part + i * 64);
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
        for (int half = 0; half < 2; half++) {
            const __m256 sc = load_floats(tail + (size_t)half * 8 * fb, s->ftype);
            const __m256 bi = load_floats(tail + (size_t)(half + 2) * 8 * fb, s->ftype);
            __m256i c[16];
            load_block(g + (size_t)(h % per_group) * (size_t)bits * 64 + half * 32, bits, c);
            for (int j = 0; j < 8; j++) {
                if (bits == 8) c[j] = _mm256_or_si256(c[j], _mm256_slli_epi16(c[j + 8], 8));
                for (int t = 0; t < 4; t++) {
                    __m256i code =
                        _mm256_and_si256(_mm256_srli_epi32(c[j], 8 * t), _mm256_set1_epi32(255));
                    _mm256_store_ps(out + (j * 4 + t) * 16 + half * 8,
                                    _mm256_add_ps(_mm256_mul_ps(sc, _mm256_cvtepi32_ps(code)), bi));
                }
            }
        }
    }
}

static void expand(const cake_wspec *s, const uint8_t *tile, uint32_t h0, uint32_t blocks,
                   float *out) {
    if (s->kind != CAKE_W_AFFINE) {
        cake_block_expand_avx2(s, tile, h0, blocks, out);
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
    if (s->kind == CAKE_W_DENSE && n == 1) {
        f32_dense(p, s->ftype, s->k, x, a->ldx, n, acc);
    } else {
        const size_t fb = cake_ftype_bytes(s->ftype);
        for (uint32_t k = 0; k < s->k; k += CAKE_MM_K_CHUNK) {
            uint32_t len = s->k - k < CAKE_MM_K_CHUNK ? s->k - k : CAKE_MM_K_CHUNK;
            if (s->kind != CAKE_W_DENSE)
                expand(s, p, k / 32, (len + 31) / 32, panel);
            else
                for (uint32_t i = 0; i < 2 * len; i++)
                    _mm256_store_ps(panel + i * 8,
                                    load_floats(p + ((size_t)k * 2 + i) * 8 * fb, s->ftype));
            f32_dense((const uint8_t *)panel, CAKE_F32, len, x + k, a->ldx, n, acc);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (int half = 0; half < 2; half++) {
            const float *part = acc + (size_t)i * 64 + half * 8;
            __m256 y01 = _mm256_add_ps(_mm256_load_ps(part), _mm256_load_ps(part + 16));
            __m256 y23 = _mm256_add_ps(_mm256_load_ps(part + 32), _mm256_load_ps(part + 48));
            _mm256_store_ps(acc + (size_t)i * 16 + half * 8, _mm256_add_ps(y01, y23));
        }
}

/* int8 mode: one instance per (bits, unit). */
#define TILE_FN(bits, ub)                                                                          \
    static void tile_##bits##_##ub(const cake_wspec *s, const uint8_t *p, const cake_act *a,       \
                                   uint32_t tok0, uint32_t n, float *acc) {                        \
        if (a->n_tok == 1)                                                                         \
            affine_one(s, bits, ub, p, a, acc);                                                    \
        else                                                                                       \
            affine_tile(s, bits, ub, p, a, tok0, n, acc);                                          \
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
    cake_block_tile *block_fn = !f32 && block ? cake_block_tiles_avx2[cake_packing_of(s)] : NULL;
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
    const __m256i abs = _mm256_set1_epi32(0x7fffffff);
    for (uint32_t tok = tok_begin; tok < tok_end; tok++) {
        for (uint32_t h = 0; h < blocks; h++) {
            const float *x = a->x + (size_t)tok * a->ldx + h * 32;
            float tail[32] = {0};
            if (a->k - h * 32 < 32) {
                memcpy(tail, x, (a->k - h * 32) * sizeof(float));
                x = tail;
            }
            __m256i m = _mm256_setzero_si256();
            for (int i = 0; i < 4; i++)
                m = _mm256_max_epu32(
                    m, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i * 8)), abs));
            __m128i m4 = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
            m4 = _mm_max_epu32(m4, _mm_shuffle_epi32(m4, 0x4e));
            m4 = _mm_max_epu32(m4, _mm_shuffle_epi32(m4, 0xb1));
            uint32_t top = (uint32_t)_mm_cvtsi128_si32(m4);
            float scale = 0.0f;
            int32_t sum0 = 0, sum1 = 0;
            __m256i q32 = _mm256_setzero_si256();
            if (top >= 0x7f800000) {
                scale = cake_bits_f32(0x7fc00000);
            } else if (top >= CAKE_ACT_TINY_BITS) {
                float max = cake_bits_f32(top);
                __m256 inv = _mm256_set1_ps(127.0f / max);
                __m256i v[4];
                scale = max / 127.0f;
                for (int i = 0; i < 4; i++)
                    v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i * 8), inv));
                /* sums of columns 0-15 and 16-31 in lanes 0 and 1 */
                __m256i t =
                    _mm256_hadd_epi32(_mm256_add_epi32(v[0], v[1]), _mm256_add_epi32(v[2], v[3]));
                __m128i t4 =
                    _mm_add_epi32(_mm256_castsi256_si128(t), _mm256_extracti128_si256(t, 1));
                t4 = _mm_hadd_epi32(t4, t4);
                sum0 = _mm_cvtsi128_si32(t4), sum1 = _mm_extract_epi32(t4, 1);
                /* The packs work per 128-bit half: put the dwords back in order. */
                q32 = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]),
                                         _mm256_packs_epi32(v[2], v[3]));
                q32 = _mm256_permutevar8x32_epi32(q32, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            }
            int8_t *q = a->q + ((size_t)(h / 2) * nt + tok) * 64 + h % 2 * 32;
            _mm256_storeu_si256((__m256i *)(void *)q, q32);
            float s32 = scale * (float)(sum0 + sum1), *s64 = &a->sum64[(size_t)(h / 2) * nt + tok];
            a->scale[(size_t)h * nt + tok] = scale;
            a->sum32[(size_t)h * nt + tok] = s32;
            *s64 = h % 2 ? *s64 + s32 : s32;
            int32_t *neg16 = a->neg16 + ((size_t)h * nt + tok) * 2;
            neg16[0] = -sum0, neg16[1] = -sum1;
        }
    }
}

const cake_matmul_ops cake_matmul_avx2 = {act_quantize, matmul};
#endif
