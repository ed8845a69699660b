/* mxfp8 with AVX-512 VNNI and VBMI: 512 times a weight is an integer of 18 bits and a sign, hence
 * three digits of six bits, each looked up by the code's magnitude and multiplied as bytes.
 *
 * One token: the digits are multiplied with q, its sign turned where the weight's is minus. Many
 * tokens: the digits are expanded once to a panel in L1, their signs by an offset (of 64, 63 and
 * 63, which are worth 2^18 together), and all tokens pass over it, eight at a time. */
#include "kernels/matmul_avx512.h"

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)

enum {
    CHUNK = 8,
    UNIT = 4,    /* blocks in the panel and under one head */
    AHEAD = 8192 /* bytes, as far as the best of one token */
};

#define ROW(digit, c)                                                                              \
    digit(c), digit(c + 1), digit(c + 2), digit(c + 3), digit(c + 4), digit(c + 5), digit(c + 6),  \
        digit(c + 7)
#define TABLE(digit)                                                                               \
    ROW(digit, 0), ROW(digit, 8), ROW(digit, 16), ROW(digit, 24), ROW(digit, 32), ROW(digit, 40),  \
        ROW(digit, 48), ROW(digit, 56), ROW(digit, 64), ROW(digit, 72), ROW(digit, 80),            \
        ROW(digit, 88), ROW(digit, 96), ROW(digit, 104), ROW(digit, 112), ROW(digit, 120)
#define DIGIT0(c) (CAKE_E4M3_512(c) & 63)
#define DIGIT1(c) (CAKE_E4M3_512(c) >> 6 & 63)
#define DIGIT2(c) (CAKE_E4M3_512(c) >> 12)
#define PLUS0(c)  (64 + DIGIT0(c))
#define PLUS1(c)  (63 + DIGIT1(c))
#define PLUS2(c)  (63 + DIGIT2(c))

/* Of the magnitudes of all codes, the last digit first. */
static const uint8_t digits[3][128] = {{TABLE(DIGIT0)}, {TABLE(DIGIT1)}, {TABLE(DIGIT2)}};
static const uint8_t offset_digits[3][128] = {{TABLE(PLUS0)}, {TABLE(PLUS1)}, {TABLE(PLUS2)}};

typedef struct {
    __m512i low[3], high[3];
} tables;

INLINE tables load_tables(const uint8_t from[3][128]) {
    tables t;
    for (int i = 0; i < 3; i++) t.low[i] = load512(from[i]), t.high[i] = load512(from[i] + 64);
    return t;
}

/* A digit of 64 codes; their sign, bit 7, is not looked at. */
INLINE __m512i digit(const tables *t, int i, __m512i code) {
    return _mm512_permutex2var_epi8(t->low[i], code, t->high[i]);
}

INLINE __m512 scales(const uint8_t *head) {
    return _mm512_mul_ps(e8m0(head), _mm512_set1_ps(0x1p-9f));
}

/* acc + the sums of the digits of a block times its scales. */
INLINE __m512 add_block(const __m512i d[3], __m512 v, const float *scale, __m512 acc) {
    const __m512i d1 = _mm512_add_epi32(d[1], _mm512_slli_epi32(d[2], 6));
    const __m512 x = _mm512_cvtepi32_ps(_mm512_add_epi32(d[0], _mm512_slli_epi32(d1, 6)));
    return _mm512_fmadd_ps(v, _mm512_mul_ps(_mm512_set1_ps(*scale), x), acc);
}

/* ---- one token ---- */

static void one_token(uint32_t blocks, const uint8_t *w, const cake_act *a, float *out) {
    const tables t = load_tables(digits);
    const int8_t *q = a->q;
    __m512 acc = _mm512_setzero_ps();
    for (uint32_t h = 0; h < blocks;) {
        const uint8_t *head = w;
        w += 64;
        for (uint32_t b = 0; b < UNIT && h < blocks; b++, h++, w += 512, q += 32) {
            __m512i d[3];
            for (int i = 0; i < 3; i++) d[i] = _mm512_setzero_si512();
            CAKE_UNROLL(8)
            for (int j = 0; j < 8; j++) {
                _mm_prefetch(w + j * 64 + AHEAD, _MM_HINT_T0);
                const __m512i code = load512(w + j * 64);
                __m512i x = bcast(q + j * 4);
                x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(code), _mm512_setzero_si512(), x);
                for (int i = 0; i < 3; i++) d[i] = _mm512_dpbusd_epi32(d[i], digit(&t, i, code), x);
            }
            acc = add_block(d, scales(head + b * 16), a->scale + h, acc);
        }
    }
    _mm512_store_ps(out, acc);
}

/* ---- many tokens ---- */

typedef struct {
    uint8_t digits[CHUNK][3][8][64];
    float scales[CHUNK][16];
} panel_of;

_Static_assert(sizeof(panel_of) <= CAKE_MM_K_CHUNK * 16 * sizeof(float), "the panel is too small");

INLINE void expand(const uint8_t *w, uint8_t out[3][8][64]) {
    const tables t = load_tables(offset_digits);
    static const uint8_t twice[3] = {2 * 64, 2 * 63, 2 * 63};
    for (int j = 0; j < 8; j++) {
        _mm_prefetch(w + j * 64 + AHEAD, _MM_HINT_T0);
        const __m512i code = load512(w + j * 64);
        const __mmask64 minus = _mm512_movepi8_mask(code);
        for (int i = 0; i < 3; i++) {
            const __m512i x = digit(&t, i, code);
            _mm512_store_si512(out[i][j],
                               _mm512_mask_sub_epi8(x, minus, _mm512_set1_epi8((char)twice[i]), x));
        }
    }
}

/* nt tokens from tok on over `len` blocks from h0 on. The first of a chunk give the packed codes,
 * which are expanded on the way, beside the multiplications; the rest NULL. */
INLINE void some_tokens(int nt, const uint8_t *codes, panel_of *w, uint32_t h0, uint32_t len,
                        const cake_act *a, uint32_t tok, float *acc) {
    const size_t all = a->n_tok;
    for (uint32_t b = 0; b < len; b++) {
        const size_t h = h0 + b;
        const int8_t *q = a->q + (h / 2 * all + tok) * 64 + h % 2 * 32;
        const int32_t *neg = a->neg16 + (h * all + tok) * 2;
        if (codes) {
            codes += b % UNIT == 0 ? 64 : 0;
            expand(codes, w->digits[b]);
            codes += 512;
        }
        __m512i d[8][3];
        CAKE_UNROLL(8)
        for (int i = 0; i < nt; i++) { /* less 2^18 times the sum of q */
            d[i][0] = d[i][1] = _mm512_setzero_si512();
            d[i][2] = _mm512_slli_epi32(_mm512_set1_epi32(neg[2 * i] + neg[2 * i + 1]), 6);
        }
        CAKE_UNROLL(8)
        for (int j = 0; j < 8; j++) {
            __m512i c[3];
            for (int k = 0; k < 3; k++) c[k] = load512(w->digits[b][k][j]);
            CAKE_UNROLL(8)
            for (int i = 0; i < nt; i++) {
                const __m512i x = bcast(q + i * 64 + j * 4);
                for (int k = 0; k < 3; k++) d[i][k] = _mm512_dpbusd_epi32(d[i][k], c[k], x);
            }
        }
        const __m512 v = _mm512_load_ps(w->scales[b]);
        const float *scale = a->scale + h * all + tok;
        CAKE_UNROLL(8)
        for (int i = 0; i < nt; i++)
            _mm512_store_ps(acc + i * 16,
                            add_block(d[i], v, scale + i, _mm512_load_ps(acc + i * 16)));
    }
}

static void many_tokens(uint32_t blocks, const uint8_t *w, const cake_act *a, uint32_t tok0,
                        uint32_t n, float *acc, panel_of *panel) {
    for (uint32_t i = 0; i < n; i++) _mm512_store_ps(acc + i * 16, _mm512_setzero_ps());
    for (uint32_t h = 0; h < blocks; h += CHUNK) {
        const uint32_t len = blocks - h < CHUNK ? blocks - h : CHUNK;
        const uint8_t *codes = w;
        for (uint32_t b = 0; b < len; b++) {
            const uint8_t *head = w + b / UNIT * (64 + UNIT * 512);
            _mm512_store_ps(panel->scales[b], scales(head + b % UNIT * 16));
        }
        w += (len + UNIT - 1) / UNIT * 64 + len * 512;
        uint32_t i = 0;
#define PASS(nt, codes) some_tokens(nt, codes, panel, h, len, a, tok0 + i, acc + i * 16)
        if (n >= 8)
            PASS(8, codes), i = 8;
        else if (n >= 4)
            PASS(4, codes), i = 4;
        else
            PASS(1, codes), i = 1;
        for (; i + 8 <= n; i += 8) PASS(8, NULL);
        for (; i + 4 <= n; i += 4) PASS(4, NULL);
        for (; i < n; i++) PASS(1, NULL);
#undef PASS
    }
}

void cake_fp8_tile_avx512vbmi(const cake_wspec *s, const uint8_t *tile, const cake_act *a,
                              uint32_t tok0, uint32_t n, float *acc, float *panel) {
    if (a->n_tok == 1)
        one_token(s->k / 32, tile, a, acc);
    else
        many_tokens(s->k / 32, tile, a, tok0, n, acc, (panel_of *)(void *)panel);
}
#endif
