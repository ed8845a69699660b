/* Block and fp formats with AVX-512 VNNI: one 512-bit register holds the 16 rows of a tile.
 *
 * Many tokens: two blocks of codes (one, where each has two scales) are expanded to bytes in
 * registers, and all tokens pass over them, four at a time: eight integer chains hide each other's
 * latency. The sums in f32 live in L1. One token: the same sums in registers, straight from the
 * weights, which are read strictly in order.
 *
 * vpdpbusd takes unsigned codes: where zero is not code 0, its integer sum starts from minus that
 * many times the sum of q. Two sums that fit 16 bits and their scales are multiplied and added by
 * one vpmaddwd. */
#include "kernels/matmul_avx512.h"

#if defined(__AVX512VNNI__)

INLINE __m512 to_float(__m512i x) {
    return _mm512_cvtepi32_ps(x);
}

INLINE __m512 bcast_float(const float *p) {
    return _mm512_set1_ps(*p);
}

INLINE __m512i bcast_int(const int32_t *p) {
    return _mm512_set1_epi32(*p);
}

/* Minus the sums of q over the halves of a block, side by side in every lane. */
INLINE __m512i neg_pair(const int32_t *neg16) {
    int64_t both;
    memcpy(&both, neg16, 8);
    return _mm512_shuffle_epi8(_mm512_set1_epi64(both), _mm512_set1_epi32(0x05040100));
}

/* Bytes 16 i to 16 i + 15. */
INLINE __m128i quarter(__m512i x, unsigned i) {
    return i == 0   ? _mm512_castsi512_si128(x)
           : i == 1 ? _mm512_extracti32x4_epi32(x, 1)
           : i == 2 ? _mm512_extracti32x4_epi32(x, 2)
                    : _mm512_extracti32x4_epi32(x, 3);
}

/* Half of each of 16 E8M0 scales: cake_half_e8m0(). */
INLINE __m512 half_e8m0(__m128i bytes, bool infinite) {
    const __m512i x = _mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes), 23);
    const __m512i one = _mm512_set1_epi32(1 << 23), inf = _mm512_set1_epi32(0x7f800000);
    const __m512i half = infinite
                             ? _mm512_mask_sub_epi32(x, _mm512_cmpneq_epi32_mask(x, inf), x, one)
                             : _mm512_sub_epi32(x, one);
    const __m512i tiny = _mm512_srli_epi32(_mm512_add_epi32(x, one), 2); /* the half of 0 and 1 */
    return _mm512_castsi512_ps(_mm512_max_epi32(half, tiny));
}

/* Half of each of 16 E4M3 scales: cake_e4m3_times(.., 2^7). */
INLINE __m512 half_e4m3(__m128i bytes) {
    const __m256i x = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
    const __m256i h = _mm256_and_si256(x, _mm256_set1_epi16((short)0xbf80));
    return _mm512_mul_ps(_mm512_cvtph_ps(h), _mm512_set1_ps(0x1p7f));
}

/* The head of a unit: as it lies there, and the K formats' d and dmin. */
typedef struct {
    __m512i x[4];
    __m512 d, dmin;
} head;

INLINE head load_head(cake_packing p, const uint8_t *u) {
    head h;
    __m512i w = _mm512_setzero_si512();
    /* One load per vector, here and not where it is used: the weights are read in order. */
    const int words = cake_pk_super(p) ? 4 : 1;
    for (int i = 0; i < words; i++) {
        h.x[i] = load512(u + 64 * i);
        __asm__ volatile("" : "+v"(h.x[i]));
    }
    if (cake_packing_get(p).head > 256) {
        w = load512(u + 256);
        __asm__ volatile("" : "+v"(w));
    }
    if (!cake_pk_super(p)) return h;
    if (p == CAKE_PK_Q6_K) {
        h.d = _mm512_cvtph_ps(_mm512_castsi512_si256(w));
        return h;
    }
    if (p != CAKE_PK_Q2_K) {
        const __m512i top = _mm512_set1_epi8((char)0xc0);
        w = _mm512_and_si512(h.x[0], top);
        for (unsigned i = 1; i < 4; i++)
            w = _mm512_or_si512(w, _mm512_srli_epi32(_mm512_and_si512(h.x[i], top), 2 * i));
    }
    h.d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(w));
    h.dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(w, 16)));
    return h;
}

/* What block b of a unit is multiplied with:
 *   one scale (two: nvfp4, q6_k) as f32; q4_k, q5_k: scale and min as f32;
 *   q2_k, q3_k: pairs of 16-bit scales, q2_k: pairs of mins */
INLINE void block_scales(cake_packing p, const head *h, unsigned b, __m512 v[2]) {
    const __m512i x = h->x[0], y = h->x[b / 2 % 4];
    __m512i s[2];
    switch (p) {
    case CAKE_PK_Q4_0:
    case CAKE_PK_Q5_0:
    case CAKE_PK_Q8_0:
        v[0] =
            _mm512_cvtph_ps(b == 0 ? _mm512_castsi512_si256(x) : _mm512_extracti64x4_epi64(x, 1));
        return;
    case CAKE_PK_MXFP4:
    case CAKE_PK_MXFP4_GGUF: v[0] = half_e8m0(quarter(x, b), p == CAKE_PK_MXFP4); return;
    case CAKE_PK_NVFP4:
        for (unsigned i = 0; i < 2; i++) v[i] = half_e4m3(quarter(x, b * 2 + i));
        return;
    case CAKE_PK_Q4_K:
    case CAKE_PK_Q5_K:
        for (unsigned i = 0; i < 2; i++) {
            s[i] = _mm512_srli_epi32(h->x[b / 4 + 2 * i], 8 * (b % 4));
            v[i] = to_float(_mm512_and_si512(s[i], _mm512_set1_epi32(63)));
        }
        return;
    case CAKE_PK_Q2_K:
        for (unsigned i = 0; i < 2; i++) {
            s[i] = _mm512_srli_epi16(y, 8 * (b % 2) + 4 * i);
            if (b % 2 == 0 || i == 0) s[i] = _mm512_and_si512(s[i], _mm512_set1_epi16(15));
            v[i] = _mm512_castsi512_ps(s[i]);
        }
        return;
    case CAKE_PK_Q3_K:
        s[0] = _mm512_and_si512(_mm512_srli_epi32(y, 8 * (b % 2)), _mm512_set1_epi32(0x3f003f));
        v[0] = _mm512_castsi512_ps(_mm512_sub_epi16(s[0], _mm512_set1_epi16(32)));
        return;
    default: /* q6_k */
        v[0] = to_float(_mm512_srai_epi32(_mm512_slli_epi32(y, 24 - 8 * (b % 2)), 24));
        v[1] = to_float(_mm512_srai_epi32(_mm512_slli_epi32(y, 8 - 8 * (b % 2)), 24));
    }
}

INLINE void load_codes(cake_packing p, const uint8_t *codes, __m512i c[8]) {
    load_block(codes, cake_packing_get(p).bits, c);
    if (!cake_pk_e2m1(p)) return;
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(CAKE_E2M1_TABLE));
    for (int j = 0; j < 8; j++) c[j] = _mm512_shuffle_epi8(table, c[j]);
}

/* The sums of one token that outlive a block. */
typedef struct {
    __m512 acc, f, g;
} sums;

/* The integer sums d and e of the two halves of a block (d alone: of all of it) as f32: where
 * halves have scales of 16 bits, as one, with them, and e is 2^e_shift times the sum. */
INLINE void to_floats(cake_packing p, __m512i d, __m512i e, unsigned e_shift, const __m512 v[2],
                      __m512 x[2]) {
    if (p == CAKE_PK_Q2_K || p == CAKE_PK_Q3_K)
        d = _mm512_madd_epi16(
            _mm512_castps_si512(v[0]),
            _mm512_mask_blend_epi16(0xaaaaaaaa, d, _mm512_slli_epi32(e, 16 - e_shift)));
    x[0] = to_float(d), x[1] = to_float(e);
}

/* What to_floats() made of a block, and its scales, are added to the sums. */
INLINE void add_block(cake_packing p, const __m512 x[2], const __m512 v[2], const float *scale,
                      const float *sum32, const int32_t *neg16, sums *s) {
    __m512 f = x[0];
    switch (p) {
    case CAKE_PK_NVFP4:
        f = _mm512_fmadd_ps(v[1], x[1], _mm512_mul_ps(v[0], f));
        s->acc = _mm512_fmadd_ps(bcast_float(scale), f, s->acc);
        return;
    case CAKE_PK_Q4_K:
    case CAKE_PK_Q5_K:
        s->g = _mm512_fnmadd_ps(bcast_float(sum32), v[1], s->g);
        f = _mm512_mul_ps(v[0], f);
        break;
    case CAKE_PK_Q2_K:
        s->g = _mm512_fmadd_ps(
            bcast_float(scale),
            to_float(_mm512_madd_epi16(_mm512_castps_si512(v[1]), neg_pair(neg16))), s->g);
        break;
    case CAKE_PK_Q3_K: break;
    case CAKE_PK_Q6_K: f = _mm512_fmadd_ps(v[1], x[1], _mm512_mul_ps(v[0], f)); break;
    default:
        f = _mm512_mul_ps(bcast_float(scale), f);
        s->acc = _mm512_fmadd_ps(v[0], f, s->acc);
        return;
    }
    s->f = _mm512_fmadd_ps(bcast_float(scale), f, s->f);
}

INLINE void begin_unit(cake_packing p, sums *s) {
    if (cake_pk_super(p)) s->f = s->g = _mm512_setzero_ps();
}

INLINE void end_unit(cake_packing p, __m512 d, __m512 dmin, sums *s) {
    if (!cake_pk_super(p)) return;
    s->acc = _mm512_fmadd_ps(d, s->f, s->acc);
    if (cake_pk_mins(p)) s->acc = _mm512_fmadd_ps(dmin, s->g, s->acc);
}

/* ---- one token ---- */

/* Where the sum of a half of a block starts, times 2^shift. */
INLINE __m512i start(cake_packing p, const int32_t *neg16, unsigned shift) {
    if (!cake_pk_zero_shift(p)) return _mm512_setzero_si512();
    return _mm512_slli_epi32(bcast_int(neg16), cake_pk_zero_shift(p) + shift);
}

INLINE void one_token(cake_packing p, const cake_wspec *spec, const uint8_t *w, const cake_act *a,
                      float *out) {
    const cake_packing_info info = cake_packing_get(p);
    const uint32_t blocks = (spec->k + 31) / 32;
    const int bits = cake_pk_e2m1(p) ? 8 : info.bits; /* of a code when it is multiplied */
    const int8_t *q = a->q;
    sums s = {.acc = _mm512_setzero_ps()};
    for (uint32_t h = 0; h < blocks;) {
        const head u = load_head(p, w);
        w += info.head;
        begin_unit(p, &s);
        CAKE_UNROLL(8)
        for (unsigned b = 0; b < info.unit; b++) {
            if (!cake_pk_super(p) && h == blocks) break;
            const int32_t *neg = a->neg16 + h * 2;
            __m512i c[8], d = start(p, neg, first_shift(bits, 0)),
                          e = start(p, neg + 1, first_shift(bits, 1));
            __m512 v[2], x[2];
            __asm__ volatile("" : "+r"(w)); /* in order: see affine_one() */
            if (cake_pk_e2m1(p))
                load_codes(p, w, c);
            else
                load_block_in_place(w, bits, c);
            w += info.bits * 64;
            if (b % 2 == 0) _mm_prefetch(q + Q_AHEAD, _MM_HINT_T0);
            dot_block(bits, c, q, &d, &e);
            if (cake_pk_whole(p)) d = _mm512_add_epi32(d, shift_right(e, last_shift(bits)));
            block_scales(p, &u, b, v);
            to_floats(p, d, e, last_shift(bits), v, x);
            add_block(p, x, v, a->scale + h, a->sum32 + h, neg, &s);
            q += 32, h++;
        }
        end_unit(p, u.d, u.dmin, &s);
    }
    _mm512_store_ps(out, s.acc);
}

/* ---- many tokens ---- */

/* Scales of a unit, and the sums f and g of its tokens. */
typedef struct {
    float scales[8][2][16], d[16], dmin[16], fg[CAKE_MM_TOKENS][2][16];
} unit_of;
_Static_assert(sizeof(unit_of) <= CAKE_MM_K_CHUNK * 16 * sizeof(float), "fits the scratch");

/* Returns where the codes start. */
INLINE const uint8_t *expand_scales(cake_packing p, const uint8_t *w, unit_of *out) {
    const cake_packing_info info = cake_packing_get(p);
    const head u = load_head(p, w);
    if (cake_pk_super(p)) _mm512_store_ps(out->d, u.d);
    if (cake_pk_mins(p)) _mm512_store_ps(out->dmin, u.dmin);
    CAKE_UNROLL(8)
    for (unsigned b = 0; b < info.unit; b++) {
        __m512 v[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        block_scales(p, &u, b, v);
        for (int i = 0; i < 2; i++) _mm512_store_ps(out->scales[b][i], v[i]);
    }
    return w + info.head;
}

/* What belongs to the next token: q, neg16, scale and sum32 of the first block, f and g of the
 * unit.
 */
typedef struct {
    const int8_t *q;
    const int32_t *neg16;
    const float *scale, *sum32;
    float *fg, *acc;
} place;

/* nt tokens of `ub` blocks, the last of a unit or not; moves `at` past them. What belongs to the
 * second block lies `all` tokens behind. Pointers go through empty asm: the compiler would rather
 * have many of them in registers that it has not. */
INLINE void some_tokens(cake_packing p, int ub, int nt, const __m512i *c, __m512 v[2][2],
                        const unit_of *u, size_t all, __mmask16 old, bool last, place *at) {
    size_t next = ub > 1 ? all : 0;
    __asm__("" : "+r"(next));
    const int32_t *neg[2] = {at->neg16, at->neg16 + 2 * next};
    const float *scale[2] = {at->scale, at->scale + next}, *sum[2] = {at->sum32, at->sum32 + next};
    __m512i d[4][2], e[4][2];
    __m512 x[4][2][2];
    CAKE_UNROLL(4)
    for (int i = 0; i < nt; i++) {
        CAKE_UNROLL(2)
        for (int b = 0; b < ub; b++) {
            d[i][b] = e[i][b] = _mm512_setzero_si512();
            if (!cake_pk_zero_shift(p)) continue;
            d[i][b] = bcast_int(neg[b] + 2 * i), e[i][b] = bcast_int(neg[b] + 2 * i + 1);
            if (cake_pk_whole(p)) d[i][b] = _mm512_add_epi32(d[i][b], e[i][b]);
            d[i][b] = _mm512_slli_epi32(d[i][b], cake_pk_zero_shift(p));
            e[i][b] = _mm512_slli_epi32(e[i][b], cake_pk_zero_shift(p));
        }
    }
    CAKE_UNROLL(8)
    for (int j = 0; j < 8; j++) {
        CAKE_UNROLL(4)
        for (int i = 0; i < nt; i++) {
            CAKE_UNROLL(2)
            for (int b = 0; b < ub; b++) {
                __m512i *y = cake_pk_whole(p) || j < 4 ? &d[i][b] : &e[i][b];
                *y = dot4(*y, c[b * 8 + j], at->q + i * 64 + b * 32 + j * 4);
            }
        }
    }
    CAKE_UNROLL(4)
    for (int i = 0; i < nt; i++) {
        CAKE_UNROLL(2)
        for (int b = 0; b < ub; b++) {
            to_floats(p, d[i][b], e[i][b], 0, v[b], x[i][b]);
            __asm__ volatile("" : "+v"(x[i][b][0])); /* here, beside the last dots */
        }
    }
    CAKE_UNROLL(4)
    for (int i = 0; i < nt; i++) {
        float *fg = at->fg + i * 32, *acc = at->acc + i * 16;
        sums s;
        if (cake_pk_super(p)) s.f = _mm512_maskz_load_ps(old, fg);
        if (cake_pk_mins(p)) s.g = _mm512_maskz_load_ps(old, fg + 16);
        if (!cake_pk_super(p)) s.acc = _mm512_load_ps(acc);
        CAKE_UNROLL(2)
        for (int b = 0; b < ub; b++)
            add_block(p, x[i][b], v[b], scale[b] + i, sum[b] + i, neg[b] + 2 * i, &s);
        if (!cake_pk_super(p)) {
            _mm512_store_ps(acc, s.acc);
        } else if (last) {
            s.acc = _mm512_load_ps(acc);
            end_unit(p, _mm512_load_ps(u->d), _mm512_load_ps(u->dmin), &s);
            _mm512_store_ps(acc, s.acc);
        } else {
            _mm512_store_ps(fg, s.f);
            if (cake_pk_mins(p)) _mm512_store_ps(fg + 16, s.g);
        }
    }
    at->q += nt * 64, at->neg16 += nt * 2, at->scale += nt, at->sum32 += nt;
    at->fg += nt * 32, at->acc += nt * 16;
    __asm__("" : "+r"(at->q), "+r"(at->scale), "+r"(at->acc));
    if (cake_pk_zero_shift(p) || p == CAKE_PK_Q2_K) __asm__("" : "+r"(at->neg16));
    if (cake_pk_super(p)) __asm__("" : "+r"(at->fg));
    if (cake_pk_mins(p)) __asm__("" : "+r"(at->sum32));
}

/* What a tile asks of memory beside its work: `per_pass` lines of weights to come per pass over a
 * block, as all at once would fill the miss buffers. As many each time: a loop that always turns as
 * often is guessed best. */
typedef struct {
    const uint8_t *next;
    uint32_t per_pass;
} ahead;

/* n tokens from tok0 on of `ub` blocks from h on, b blocks into their unit. */
INLINE void some_blocks(cake_packing p, int ub, const uint8_t *w, const cake_act *a, uint32_t tok0,
                        uint32_t n, uint32_t h, uint32_t b, float *acc, unit_of *unit, ahead *pre) {
    const cake_packing_info info = cake_packing_get(p);
    const size_t all = a->n_tok, first = h * all + tok0;
    place at = {a->q + (h / 2 * all + tok0) * 64 + h % 2 * 32,
                a->neg16 + first * 2,
                a->scale + first,
                a->sum32 + first,
                unit->fg[0][0],
                acc};
    const __mmask16 old = b ? 0xffff : 0;
    const bool last = b + (uint32_t)ub == info.unit;
    __m512i c[16];
    __m512 v[2][2];
    CAKE_UNROLL(2)
    for (int i = 0; i < ub; i++) {
        load_codes(p, w + i * info.bits * 64, c + 8 * i);
        for (int k = 0; k < 2; k++) v[i][k] = _mm512_load_ps(unit->scales[b + (uint32_t)i][k]);
    }
    for (uint32_t i = 0; i < n;) {
        for (uint32_t l = 0; l < pre->per_pass; l++, pre->next += 64)
            _mm_prefetch(pre->next, _MM_HINT_T0);
        if (i + 4 <= n)
            some_tokens(p, ub, 4, c, v, unit, all, old, last, &at), i += 4;
        else
            some_tokens(p, ub, 1, c, v, unit, all, old, last, &at), i++;
    }
}

INLINE void many_tokens(cake_packing p, const cake_wspec *spec, const uint8_t *w, const cake_act *a,
                        uint32_t tok0, uint32_t n, float *acc, unit_of *unit) {
    const cake_packing_info info = cake_packing_get(p);
    const uint32_t blocks = (spec->k + 31) / 32;
    /* As many blocks as have their codes and sums in registers; where few tokens wait for many
     * bytes, less to wait for at a time. */
    const bool pairs = cake_pk_whole(p) && (info.bits < 8 || n > 8);
    const uint32_t lines = info.head / 64u + info.unit * info.bits;
    const uint32_t passes = (n / 4 + n % 4) * info.unit / (pairs ? 2 : 1);
    for (uint32_t i = 0; i < n; i++) _mm512_store_ps(acc + i * 16, _mm512_setzero_ps());
    for (uint32_t h = 0; h < blocks;) {
        ahead pre = {w + PREFETCH, (lines + passes - 1) / passes};
        w = expand_scales(p, w, unit);
        for (uint32_t b = 0, step; b < info.unit && h < blocks; b += step, h += step) {
            step = pairs && h + 2 <= blocks ? 2 : 1;
            if (cake_pk_whole(p) && (cake_pk_super(p) || step == 2))
                some_blocks(p, 2, w, a, tok0, n, h, b, acc, unit, &pre);
            else
                some_blocks(p, 1, w, a, tok0, n, h, b, acc, unit, &pre);
            w += step * info.bits * 64;
        }
    }
}

/* ---- f32 mode ---- */

/* 16 E4M3 codes, bytes t of every lane: their exponent and mantissa bits as those of an f32 mean
 * 2^-120 of the value, also where it is subnormal. */
INLINE __m512 e4m3(__m512i x, unsigned t) {
    const __m512i sign =
        _mm512_and_si512(_mm512_slli_epi32(x, 24 - 8 * t), _mm512_set1_epi32((int)0x80000000));
    const __m512i rest =
        _mm512_and_si512(t < 3 ? _mm512_slli_epi32(x, 20 - 8 * (t % 3)) : _mm512_srli_epi32(x, 4),
                         _mm512_set1_epi32(0x07f00000));
    return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_or_si512(sign, rest)),
                         _mm512_set1_ps(0x1p120f));
}

/* Scale and min of the halves of block b of a unit, as codec.h multiplies them out. */
INLINE void float_scales(cake_packing p, const head *u, unsigned b, __m512 s[2], __m512 m[2]) {
    __m512 v[2];
    block_scales(p, u, b, v);
    s[0] = s[1] = v[0];
    m[0] = m[1] = _mm512_setzero_ps();
    if (p == CAKE_PK_NVFP4) s[1] = v[1];
    if (!cake_pk_super(p)) return;
    if (p == CAKE_PK_Q4_K || p == CAKE_PK_Q5_K) {
        m[0] = m[1] = _mm512_mul_ps(u->dmin, v[1]);
    } else if (p == CAKE_PK_Q6_K) {
        s[1] = v[1];
    } else { /* pairs of 16 bits */
        for (int i = 0; i < 2; i++) {
            const __m512i sc = _mm512_slli_epi32(_mm512_castps_si512(v[0]), 16 - 16 * i);
            s[i] = to_float(_mm512_srai_epi32(sc, 16));
            if (p != CAKE_PK_Q2_K) continue;
            const __m512i mn = _mm512_slli_epi32(_mm512_castps_si512(v[1]), 16 - 16 * i);
            m[i] = _mm512_mul_ps(u->dmin, to_float(_mm512_srai_epi32(mn, 16)));
        }
    }
    for (int i = 0; i < 2; i++) s[i] = _mm512_mul_ps(u->d, s[i]);
}

INLINE void expand_mxfp8(const uint8_t *w, uint32_t h0, uint32_t blocks, float *out) {
    w += (size_t)(h0 / 4) * (64 + 4 * 512);
    for (uint32_t b = 0; b < blocks; b++) {
        if (b > 0 && b % 4 == 0) w += 64 + 4 * 512;
        const __m512 scale = e8m0(w + b % 4 * 16);
        const uint8_t *c = w + 64 + b % 4 * 512;
        for (int j = 0; j < 8; j++) {
            const __m512i x = load512(c + j * 64);
            CAKE_UNROLL(4)
            for (unsigned t = 0; t < 4; t++, out += 16)
                _mm512_store_ps(out, _mm512_mul_ps(e4m3(x, t), scale));
        }
    }
}

/* Blocks [h0, h0 + blocks) of a tile, h0 at the start of a unit, to f32 [column][16]. Minus zeros
 * lose their sign, which no sum shows. */
INLINE void expand_f32(cake_packing p, const uint8_t *w, uint32_t h0, uint32_t blocks, float *out) {
    const cake_packing_info info = cake_packing_get(p);
    w += (size_t)(h0 / info.unit) * (info.head + info.unit * info.bits * 64u);
    for (uint32_t b0 = 0; b0 < blocks; b0 += info.unit) {
        const head u = load_head(p, w);
        w += info.head;
        CAKE_UNROLL(8)
        for (unsigned b = 0; b < info.unit; b++) {
            if (b0 + b == blocks) break;
            __m512i c[8];
            __m512 s[2], m[2];
            load_codes(p, w, c);
            w += info.bits * 64;
            float_scales(p, &u, b, s, m);
            for (int j = 0; j < 8; j++)
                for (unsigned t = 0; t < 4; t++, out += 16) {
                    __m512i code =
                        _mm512_and_si512(_mm512_srli_epi32(c[j], 8 * t), _mm512_set1_epi32(255));
                    code = _mm512_sub_epi32(code, _mm512_set1_epi32(info.zero));
                    __m512 x = _mm512_mul_ps(s[j / 4], to_float(code));
                    if (cake_pk_mins(p)) x = _mm512_sub_ps(x, m[j / 4]);
                    _mm512_store_ps(out, x);
                }
        }
    }
}

void cake_block_expand_avx512(const cake_wspec *s, const uint8_t *tile, uint32_t h0,
                              uint32_t blocks, float *out) {
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
            many_tokens(CAKE_PK_##name, s, w, a, tok0, n, acc, (unit_of *)(void *)panel);          \
    }
CAKE_INT_PACKINGS(TILE_FN)

static void tile_mxfp8(const cake_wspec *s, const uint8_t *w, const cake_act *a, uint32_t tok0,
                       uint32_t n, float *acc, float *panel) {
    if (__builtin_cpu_supports("avx512vbmi"))
        cake_fp8_tile_avx512vbmi(s, w, a, tok0, n, acc, panel);
    else
        cake_fp8_tile_avx2(s, w, a, tok0, n, acc, panel);
}

cake_block_tile *const cake_block_tiles_avx512[CAKE_PK_COUNT] = {
#define ENTRY(name) [CAKE_PK_##name] = tile_##name,
    CAKE_INT_PACKINGS(ENTRY)
#undef ENTRY
        [CAKE_PK_MXFP8] = tile_mxfp8,
};
#endif
