/* Block and fp formats with AVX2+FMA, no VNNI: a tile is two halves of eight rows.
 *
 * As with AVX-512, many tokens pass over a panel of expanded blocks in L1 (here two or four at a
 * time, for both halves), and one token reads the weights strictly in order. vpmaddubsw adds two
 * products in 16 bits and saturates: as many steps are summed there as provably fit with |q| <=
 * 127, then vpmaddwd widens and, in the K formats, multiplies with the scale in the same step.
 * Codes of 8 bits fit no such sum: they and q are widened first. Zeros other than code 0 are put
 * right with the sums of q. */
#include "kernels/matmul_avx2.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

enum { CHUNK = 8 }; /* blocks in the panel */

INLINE __m256 to_float(__m256i x) {
    return _mm256_cvtepi32_ps(x);
}

INLINE __m256 bcast_float(const float *p) {
    return _mm256_broadcast_ss(p);
}

/* The low halves of two integers side by side in every lane. */
INLINE __m256i low_halves(const int32_t *p) {
    int64_t both;
    memcpy(&both, p, 8);
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(both), _mm256_set1_epi32(0x05040100));
}

/* Half of each of 8 E8M0 scales: cake_half_e8m0(). */
INLINE __m256 half_e8m0(const uint8_t *bytes, bool infinite) {
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
    const __m256i one = _mm256_set1_epi32(1);
    __m256i x = _mm256_slli_epi32(_mm256_sub_epi32(e, one), 23);
    x = _mm256_blendv_epi8(_mm256_slli_epi32(_mm256_add_epi32(e, one), 21), x,
                           _mm256_cmpgt_epi32(e, one));
    if (infinite)
        x = _mm256_blendv_epi8(x, _mm256_set1_epi32(0x7f800000),
                               _mm256_cmpeq_epi32(e, _mm256_set1_epi32(255)));
    return _mm256_castsi256_ps(x);
}

/* Half of each of 8 E4M3 scales: cake_e4m3_times(.., 2^7). */
INLINE __m256 half_e4m3(const uint8_t *bytes) {
    const __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
    const __m128i h = _mm_or_si128(_mm_and_si128(_mm_slli_epi16(x, 8), _mm_set1_epi16(-32768)),
                                   _mm_and_si128(_mm_slli_epi16(x, 7), _mm_set1_epi16(0x3f80)));
    return _mm256_mul_ps(_mm256_cvtph_ps(h), _mm256_set1_ps(0x1p7f));
}

/* The d and dmin of eight rows in the head of a K format's unit. */
INLINE void load_super(cake_packing p, const uint8_t *u, int half, __m256 *d, __m256 *dmin) {
    u += half * 32;
    *dmin = _mm256_setzero_ps();
    if (p == CAKE_PK_Q6_K) {
        *d = load_floats(u + 256 - half * 16, CAKE_F16);
        return;
    }
    __m256i w = _mm256_setzero_si256();
    if (p == CAKE_PK_Q2_K)
        w = load256(u + 256);
    else
        for (int i = 0; i < 4; i++)
            w = _mm256_or_si256(
                w, _mm256_srli_epi32(
                       _mm256_and_si256(load256(u + 64 * i), _mm256_set1_epi8((char)0xc0)), 2 * i));
    /* the low and the high 16 bits of every lane, in order */
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0,
                                           1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    w = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(w, order), 0xd8);
    *d = _mm256_cvtph_ps(_mm256_castsi256_si128(w));
    *dmin = _mm256_cvtph_ps(_mm256_extracti128_si256(w, 1));
}

/* Byte i of every lane twice as 16 bits: below zeros, or (`top`) above them. */
INLINE __m256i bytes_twice(__m256i x, unsigned i, bool top) {
    const uint32_t lane = (i << 8 * top | 0x80u << 8 * !top) * 0x10001u;
    const uint32_t next = 0x04040404;
    return _mm256_shuffle_epi8(
        x, _mm256_broadcastsi128_si256(_mm_setr_epi32(
               (int)lane, (int)(lane + next), (int)(lane + 2 * next), (int)(lane + 3 * next))));
}

/* What block b of a unit is multiplied with, eight rows:
 *   q4_k, q5_k: its scale twice as 16 bits, the min as f32; q2_k, q3_k, q6_k: each scale twice,
 * then a pair of what the sums of q are multiplied with (mins or both scales), all times 256 in
 * q3_k; else scales as f32 */
INLINE void block_scales(cake_packing p, const uint8_t *u, unsigned b, int half, __m256i v[3]) {
    __m256i x;
    v[1] = v[2] = _mm256_setzero_si256();
    switch (p) {
    case CAKE_PK_Q4_0:
    case CAKE_PK_Q5_0:
    case CAKE_PK_Q8_0:
        v[0] = _mm256_castps_si256(load_floats(u + b * 32 + half * 16, CAKE_F16));
        return;
    case CAKE_PK_MXFP4:
    case CAKE_PK_MXFP4_GGUF:
        v[0] = _mm256_castps_si256(half_e8m0(u + b * 16 + half * 8, p == CAKE_PK_MXFP4));
        return;
    case CAKE_PK_NVFP4:
        v[0] = _mm256_castps_si256(half_e4m3(u + b * 32 + half * 8));
        v[1] = _mm256_castps_si256(half_e4m3(u + b * 32 + 16 + half * 8));
        return;
    case CAKE_PK_Q4_K:
    case CAKE_PK_Q5_K:
        x = _mm256_srli_epi32(load256(u + b / 4 * 64 + half * 32), 8 * (int)(b % 4));
        x = _mm256_and_si256(x, _mm256_set1_epi32(63));
        v[0] = _mm256_or_si256(x, _mm256_slli_epi32(x, 16));
        x = _mm256_srli_epi32(load256(u + (b / 4 + 2) * 64 + half * 32), 8 * (int)(b % 4));
        v[1] = _mm256_castps_si256(to_float(_mm256_and_si256(x, _mm256_set1_epi32(63))));
        return;
    default: break;
    }
    x = load256(u + b / 2 * 64 + half * 32);
    if (p == CAKE_PK_Q2_K) {
        v[2] = _mm256_srli_epi16(x, b % 2 ? 12 : 4);
        if (b % 2 == 0) v[2] = _mm256_and_si256(v[2], _mm256_set1_epi16(15));
        x = field(x, 0, 15);
    } else {
        if (p == CAKE_PK_Q3_K) x = _mm256_sub_epi8(field(x, 0, 63), _mm256_set1_epi8(32));
        v[2] = _mm256_slli_epi16(x, 8);
        if (b % 2) v[2] = _mm256_and_si256(x, _mm256_set1_epi16((short)0xff00));
    }
    v[0] = bytes_twice(x, b % 2, p != CAKE_PK_Q2_K);
    v[1] = bytes_twice(x, b % 2 + 2, p != CAKE_PK_Q2_K);
    for (int i = 0; i < 3 && p == CAKE_PK_Q6_K; i++) v[i] = _mm256_srai_epi16(v[i], 8);
}

/* Codes as they are multiplied: of mxfp4 and nvfp4 what they stand for. */
INLINE __m256i from_table(cake_packing p, __m256i c) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(CAKE_E2M1_TABLE));
    return cake_pk_e2m1(p) ? _mm256_shuffle_epi8(table, c) : c;
}

/* Eight rows of one block: 8 vectors of codes, or 16 where they have 8 bits. */
INLINE void load_codes(cake_packing p, const uint8_t *v, __m256i *c) {
    load_block(v, cake_packing_get(p).bits, c);
    for (int j = 0; j < 8; j++) c[j] = from_table(p, c[j]);
}

/* 8-bit codes, widened, have room for a sign. */
INLINE void centre(cake_packing p, __m256i *c) {
    const cake_packing_info info = cake_packing_get(p);
    for (int j = 0; j < 16 && info.bits == 8; j++)
        c[j] = _mm256_sub_epi16(c[j], _mm256_set1_epi16(info.zero));
}

/* Steps of two products that fit 16 bits, and do not mix the halves of a block that has two scales.
 */
INLINE int steps_that_fit(cake_packing p) {
    const int bits = cake_packing_get(p).bits;
    return bits == 6 ? 2 : bits == 5 || cake_pk_e2m1(p) || !cake_pk_whole(p) ? 4 : 8;
}

/* Integer sums of nt tokens and nh halves, v[half]: plain, or in the K formats times their scales.
 * c[j * nh + half] are codes, or (`packed`) c[half * bits ..] lines. e: the last 16 columns of
 * nvfp4. */
INLINE void dot_block(cake_packing p, bool packed, int nt, int nh, const __m256i *c,
                      const int8_t *q, __m256i v[][3], __m256i *d, __m256i *e) {
    const int fit = steps_that_fit(p), bits = cake_packing_get(p).bits;
    const __m256i ones = _mm256_set1_epi16(1);
    for (int i = 0; i < nt * nh; i++) d[i] = e[i] = _mm256_setzero_si256();
    CAKE_UNROLL(4)
    for (int j0 = 0; j0 < 8; j0 += fit) {
        __m256i sum[4];
        CAKE_UNROLL(8)
        for (int j = j0; j < j0 + fit; j++) CAKE_UNROLL(2)
        for (int t = 0; t < nt; t++) {
            const __m256i x = bcast(q + t * 64 + j * 4);
            CAKE_UNROLL(2)
            for (int k = 0; k < nh; k++) {
                const int i = t * nh + k;
                const __m256i code =
                    packed ? from_table(p, unpack(c + k * bits, bits, j)) : c[j * nh + k];
                const __m256i m = _mm256_maddubs_epi16(code, x);
                sum[i] = j == j0 ? m : _mm256_add_epi16(sum[i], m);
                __asm__("" : "+x"(sum[i])); /* no trees of sums, which would all be spilled */
            }
        }
        for (int i = 0; i < nt * nh; i++) {
            const __m256i by = !cake_pk_super(p)              ? ones
                               : !cake_pk_whole(p) && j0 >= 4 ? v[i % nh][1]
                                                              : v[i % nh][0];
            __m256i *to = p == CAKE_PK_NVFP4 && j0 >= 4 ? &e[i] : &d[i];
            *to = _mm256_add_epi32(*to, _mm256_madd_epi16(sum[i], by));
        }
    }
}

/* The sums of one token and one half that outlive a block. */
typedef struct {
    __m256 acc, f, g;
} sums;

INLINE void begin_unit(cake_packing p, sums *s) {
    if (cake_pk_super(p)) s->f = s->g = _mm256_setzero_ps();
}

INLINE void end_unit(cake_packing p, __m256 d, __m256 dmin, sums *s) {
    if (!cake_pk_super(p)) return;
    s->acc = _mm256_fmadd_ps(d, s->f, s->acc);
    if (cake_pk_mins(p)) s->acc = _mm256_fmadd_ps(dmin, s->g, s->acc);
}

/* One block of one token, nh halves: its sums are put right and added up. */
INLINE void add_block(cake_packing p, int nh, int shift, const __m256i *d, const __m256i *e,
                      __m256i v[][3], const float *scale, const float *sum32, const int32_t *neg16,
                      sums *s) {
    __m256 x = bcast_float(scale);
    /* as the scales of q3_k are times 256; exact: x is 0, NaN or above 2^-107 */
    if (p == CAKE_PK_Q3_K) x = _mm256_mul_ps(x, _mm256_set1_ps(1.0f / 256));
    __m256i neg0 = _mm256_setzero_si256(), neg1 = neg0;
    if (shift && !cake_pk_super(p))
        neg0 = _mm256_set1_epi32(neg16[0]), neg1 = _mm256_set1_epi32(neg16[1]);
    if (p == CAKE_PK_NVFP4)
        neg0 = _mm256_slli_epi32(neg0, shift), neg1 = _mm256_slli_epi32(neg1, shift);
    else if (cake_pk_super(p) && p != CAKE_PK_Q4_K && p != CAKE_PK_Q5_K)
        neg0 = _mm256_slli_epi16(low_halves(neg16), p == CAKE_PK_Q3_K ? shift : 0);
    else
        neg0 = _mm256_slli_epi32(_mm256_add_epi32(neg0, neg1), shift);
    for (int k = 0; k < nh; k++) {
        __m256i sum = d[k];
        if (!cake_pk_super(p)) {
            __m256 f = to_float(_mm256_add_epi32(sum, neg0));
            const __m256 v0 = _mm256_castsi256_ps(v[k][0]), v1 = _mm256_castsi256_ps(v[k][1]);
            if (p == CAKE_PK_NVFP4) {
                f = _mm256_fmadd_ps(v1, to_float(_mm256_add_epi32(e[k], neg1)),
                                    _mm256_mul_ps(v0, f));
                s[k].acc = _mm256_fmadd_ps(x, f, s[k].acc);
            } else {
                s[k].acc = _mm256_fmadd_ps(v0, _mm256_mul_ps(x, f), s[k].acc);
            }
            continue;
        }
        if (p == CAKE_PK_Q4_K || p == CAKE_PK_Q5_K) {
            s[k].g = _mm256_fnmadd_ps(bcast_float(sum32), _mm256_castsi256_ps(v[k][1]), s[k].g);
        } else {
            const __m256i m = _mm256_madd_epi16(v[k][2], neg0);
            if (p == CAKE_PK_Q2_K)
                s[k].g = _mm256_fmadd_ps(x, to_float(m), s[k].g);
            else
                sum = _mm256_add_epi32(sum, _mm256_slli_epi32(m, p == CAKE_PK_Q3_K ? 0 : shift));
        }
        s[k].f = _mm256_fmadd_ps(x, to_float(sum), s[k].f);
    }
}

/* ---- one token ---- */

INLINE void one_token(cake_packing p, const cake_wspec *spec, const uint8_t *w, const cake_act *a,
                      float *out) {
    const cake_packing_info info = cake_packing_get(p);
    const uint32_t blocks = (spec->k + 31) / 32;
    const int8_t *q = a->q;
    sums s[2];
    s[0].acc = s[1].acc = _mm256_setzero_ps();
    for (uint32_t h = 0; h < blocks;) {
        uint8_t u[320] __attribute__((aligned(64)));
        for (int i = 0; i < info.head; i += 32) /* now and once: the weights are read in order */
            _mm256_store_si256((__m256i *)(void *)(u + i), load256(w + i));
        w += info.head;
        begin_unit(p, &s[0]), begin_unit(p, &s[1]);
        CAKE_UNROLL(8)
        for (unsigned b = 0; b < info.unit; b++) {
            if (!cake_pk_super(p) && h == blocks) break;
            __m256i v[2][3], d[2], e[2];
            int16_t wide[32] __attribute__((aligned(32)));
            __m256i x[8];
            block_scales(p, u, b, 0, v[0]), block_scales(p, u, b, 1, v[1]);
            if (info.bits == 8) widen_act(q, wide), dot_bytes(w, wide, d);
            /* Both halves at once, unpacked when needed: all stays in registers; with more bits
             * there are too few, and a broadcast for each half is cheaper than spilling. */
            if (info.bits <= 4) {
                load_lines(w, info.bits, x), load_lines(w + 32, info.bits, x + info.bits);
                dot_block(p, true, 1, 2, x, q, v, d, e);
            }
            for (int half = 0; half < 2 && (info.bits == 5 || info.bits == 6); half++) {
                if (info.bits == 5)
                    load_lines(w + half * 32, 5, x);
                else
                    load_block(w + half * 32, 6, x);
                __asm__ volatile("" : "+r"(q));
                dot_block(p, info.bits == 5, 1, 1, x, q, &v[half], &d[half], &e[half]);
            }
            add_block(p, 2, (int)cake_pk_zero_shift(p), d, e, v, a->scale + h, a->sum32 + h,
                      a->neg16 + h * 2, s);
            w += info.bits * 64;
            q += 32, h++;
        }
        for (int half = 0; half < 2 && cake_pk_super(p); half++) {
            __m256 d, dmin;
            load_super(p, u, half, &d, &dmin);
            end_unit(p, d, dmin, &s[half]);
        }
    }
    _mm256_store_ps(out, s[0].acc);
    _mm256_store_ps(out + 8, s[1].acc);
}

/* ---- many tokens ---- */

typedef struct {
    __m256i codes[CHUNK][16][2];
    __m256i scales[CHUNK][2][3];
    __m256 d[2], dmin[2];
} panel_of;

/* Expand `len` blocks from the start of a unit on; returns where the next one starts. */
INLINE const uint8_t *expand_chunk(cake_packing p, const uint8_t *w, uint32_t len, panel_of *out) {
    const cake_packing_info info = cake_packing_get(p);
    for (uint32_t b0 = 0; b0 < len; b0 += info.unit) {
        const uint8_t *u = w;
        w += info.head;
        for (int half = 0; half < 2; half++) {
            if (cake_pk_super(p)) load_super(p, u, half, &out->d[half], &out->dmin[half]);
            const uint8_t *v = w + half * 32;
            CAKE_UNROLL(8)
            for (unsigned b = 0; b < info.unit; b++) {
                if (!cake_pk_super(p) && b0 + b == len) break;
                __m256i c[16];
                load_codes(p, v, c);
                centre(p, c);
                v += info.bits * 64;
                for (int j = 0; j < (info.bits == 8 ? 16 : 8); j++)
                    out->codes[b0 + b][j][half] = c[j];
                block_scales(p, u, b, half, out->scales[b0 + b][half]);
            }
        }
        w += (len - b0 < info.unit ? len - b0 : info.unit) * info.bits * 64u;
    }
    return w;
}

/* Block h of token tok. */
INLINE const int8_t *act_block(const cake_act *a, size_t h, size_t tok) {
    return a->q + (h / 2 * a->n_tok + tok) * 64 + h % 2 * 32;
}

/* nt tokens from tok on over `len` blocks from h0 on. */
INLINE void some_tokens(cake_packing p, int nt, panel_of *w, uint32_t h0, uint32_t len,
                        const cake_act *a, uint32_t tok, float *acc) {
    const bool wide = cake_packing_get(p).bits == 8;
    const size_t all = a->n_tok;
    int16_t words[2][WIDE][32] __attribute__((aligned(32)));
    sums s[WIDE][2];
    for (int i = 0; i < nt; i++)
        for (int k = 0; k < 2; k++) {
            begin_unit(p, &s[i][k]);
            if (!cake_pk_super(p)) s[i][k].acc = _mm256_load_ps(acc + i * 16 + k * 8);
        }
    for (int i = 0; i < nt && wide; i++) widen_act(act_block(a, h0, tok + i), words[0][i]);
    for (uint32_t b = 0; b < len; b++) {
        const size_t h = h0 + b;
        const int8_t *q = act_block(a, h, tok);
        const int32_t *neg = a->neg16 + (h * all + tok) * 2;
        const float *scale = a->scale + h * all + tok, *sum32 = a->sum32 + h * all + tok;
        __m256i d[2 * WIDE], e[2 * WIDE];
        if (wide) {
            /* a block ahead: what has just been stored is slow to read */
            for (int i = 0; i < nt && b + 1 < len; i++)
                widen_act(act_block(a, h + 1, tok + i), words[(b + 1) % 2][i]);
            dot_words(nt, w->codes[b], words[b % 2][0], 32, d);
        } else {
            dot_block(p, false, nt, 2, w->codes[b][0], q, w->scales[b], d, e);
        }
        for (int i = 0; i < nt; i++)
            add_block(p, 2, wide ? 0 : (int)cake_pk_zero_shift(p), d + 2 * i, e + 2 * i,
                      w->scales[b], scale + i, sum32 + i, neg + 2 * i, s[i]);
    }
    for (int i = 0; i < nt; i++)
        for (int k = 0; k < 2; k++) {
            if (cake_pk_super(p)) {
                s[i][k].acc = _mm256_load_ps(acc + i * 16 + k * 8);
                end_unit(p, w->d[k], w->dmin[k], &s[i][k]);
            }
            _mm256_store_ps(acc + i * 16 + k * 8, s[i][k].acc);
        }
}

INLINE void many_tokens(cake_packing p, const cake_wspec *spec, const uint8_t *w, const cake_act *a,
                        uint32_t tok0, uint32_t n, float *acc, panel_of *panel) {
    const uint32_t blocks = (spec->k + 31) / 32;
    memset(acc, 0, (size_t)n * 16 * sizeof *acc);
    for (uint32_t h = 0; h < blocks; h += CHUNK) {
        const uint32_t len = blocks - h < CHUNK ? blocks - h : CHUNK;
        w = expand_chunk(p, w, len, panel);
        uint32_t i = 0;
        if (cake_packing_get(p).bits == 8)
            for (; i + WIDE <= n; i += WIDE)
                some_tokens(p, WIDE, panel, h, len, a, tok0 + i, acc + i * 16);
        for (; i + 2 <= n; i += 2) some_tokens(p, 2, panel, h, len, a, tok0 + i, acc + i * 16);
        if (i < n) some_tokens(p, 1, panel, h, len, a, tok0 + i, acc + i * 16);
    }
}

/* ---- f32 mode ---- */

/* 8 E4M3 codes, bytes t of every lane: their exponent and mantissa bits as those of an f32 mean
 * 2^-120 of the value, also where it is subnormal. */
INLINE __m256 e4m3(__m256i x, int t) {
    const __m256i sign =
        _mm256_and_si256(_mm256_slli_epi32(x, 24 - 8 * t), _mm256_set1_epi32((int)0x80000000));
    const __m256i rest =
        _mm256_and_si256(t < 3 ? _mm256_slli_epi32(x, 20 - 8 * (t % 3)) : _mm256_srli_epi32(x, 4),
                         _mm256_set1_epi32(0x07f00000));
    return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_or_si256(sign, rest)),
                         _mm256_set1_ps(0x1p120f));
}

/* Scale and min of the halves of block b of a unit, eight rows, as codec.h multiplies them out. */
INLINE void float_scales(cake_packing p, const uint8_t *u, unsigned b, int half, __m256 s[2],
                         __m256 m[2]) {
    __m256i v[3];
    __m256 d, dmin;
    block_scales(p, u, b, half, v);
    s[0] = s[1] = _mm256_castsi256_ps(v[0]);
    m[0] = m[1] = _mm256_setzero_ps();
    if (p == CAKE_PK_NVFP4) s[1] = _mm256_castsi256_ps(v[1]);
    if (!cake_pk_super(p)) return;
    load_super(p, u, half, &d, &dmin);
    if (cake_pk_whole(p)) {
        m[0] = m[1] = _mm256_mul_ps(dmin, _mm256_castsi256_ps(v[1]));
        v[1] = v[0];
    }
    for (int i = 0; i < 2; i++) {
        s[i] = _mm256_mul_ps(d, to_float(_mm256_srai_epi32(v[i], p == CAKE_PK_Q3_K ? 24 : 16)));
        if (p != CAKE_PK_Q2_K) continue;
        const __m256i mn = _mm256_srai_epi32(_mm256_slli_epi32(v[2], 16 - 16 * i), 16);
        m[i] = _mm256_mul_ps(dmin, to_float(mn));
    }
}

INLINE void expand_mxfp8(const uint8_t *w, uint32_t h0, uint32_t blocks, float *out) {
    w += (size_t)(h0 / 4) * (64 + 4 * 512);
    for (uint32_t b = 0; b < blocks; b++, out += 32 * 16) {
        if (b > 0 && b % 4 == 0) w += 64 + 4 * 512;
        for (int half = 0; half < 2; half++) {
            const __m256 scale = e8m0(w + b % 4 * 16 + half * 8);
            const uint8_t *c = w + 64 + b % 4 * 512 + half * 32;
            for (int j = 0; j < 8; j++) {
                const __m256i x = load256(c + j * 64);
                for (int t = 0; t < 4; t++)
                    _mm256_store_ps(out + (j * 4 + t) * 16 + half * 8,
                                    _mm256_mul_ps(e4m3(x, t), scale));
            }
        }
    }
}

/* Blocks [h0, h0 + blocks) of a tile, h0 at the start of a unit, to f32 [column][16]. Minus zeros
 * lose their sign, which no sum shows. */
INLINE void expand_f32(cake_packing p, const uint8_t *w, uint32_t h0, uint32_t blocks, float *out) {
    const cake_packing_info info = cake_packing_get(p);
    w += (size_t)(h0 / info.unit) * (info.head + info.unit * info.bits * 64u);
    for (uint32_t b0 = 0; b0 < blocks; b0 += info.unit) {
        const uint8_t *u = w;
        w += info.head;
        CAKE_UNROLL(8)
        for (unsigned b = 0; b < info.unit; b++) {
            if (b0 + b == blocks) break;
            for (int half = 0; half < 2; half++) {
                __m256i c[16];
                __m256 s[2], m[2];
                load_codes(p, w + half * 32, c);
                float_scales(p, u, b, half, s, m);
                for (int j = 0; j < 8; j++) {
                    if (info.bits == 8)
                        c[j] = _mm256_or_si256(c[j], _mm256_slli_epi16(c[j + 8], 8));
                    for (int t = 0; t < 4; t++) {
                        __m256i code = _mm256_and_si256(_mm256_srli_epi32(c[j], 8 * t),
                                                        _mm256_set1_epi32(255));
                        code = _mm256_sub_epi32(code, _mm256_set1_epi32(info.zero));
                        __m256 x = _mm256_mul_ps(s[j / 4], to_float(code));
                        if (cake_pk_mins(p)) x = _mm256_sub_ps(x, m[j / 4]);
                        _mm256_store_ps(out + (j * 4 + t) * 16 + half * 8, x);
                    }
                }
            }
            w += info.bits * 64;
            out += 32 * 16;
        }
    }
}

void cake_block_expand_avx2(const cake_wspec *s, const uint8_t *tile, uint32_t h0, uint32_t blocks,
                            float *out) {
    switch (cake_packing_of(s)) {
#define CASE(name)                                                                                 \
    case CAKE_PK_##name: expand_f32(CAKE_PK_##name, tile, h0, blocks, out); break;
        CAKE_INT_PACKINGS(CASE)
#undef CASE
    default: expand_mxfp8(tile, h0, blocks, out);
    }
}

#define TILE_FN(name)                                                                              \
    static void tile_##name(const cake_wspec *s, const uint8_t *w, const cake_act *a,              \
                            uint32_t tok0, uint32_t n, float *acc, float *panel) {                 \
        if (a->n_tok == 1)                                                                         \
            one_token(CAKE_PK_##name, s, w, a, acc);                                               \
        else                                                                                       \
            many_tokens(CAKE_PK_##name, s, w, a, tok0, n, acc, (panel_of *)(void *)panel);         \
    }
CAKE_INT_PACKINGS(TILE_FN)

cake_block_tile *const cake_block_tiles_avx2[CAKE_PK_COUNT] = {
#define ENTRY(name) [CAKE_PK_##name] = tile_##name,
    CAKE_INT_PACKINGS(ENTRY)
#undef ENTRY
        [CAKE_PK_MXFP8] = cake_fp8_tile_avx2,
};
#endif
