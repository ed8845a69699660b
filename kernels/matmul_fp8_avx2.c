/* mxfp8 with AVX2+FMA: 512 times a weight is m << s, up to 18 bits and a sign, hence two planes of
 * 16 bits: in one s is 0 to 7, in the other 8 to 14, and what is not in a plane is 0 there.
 * vpmaddwd multiplies them with q widened to 16 bits.
 *
 * One token reads the weights strictly in order; many pass, two at a time, over a panel of one unit
 * of blocks expanded in L1. The even and the odd columns of a line of codes are apart. */
#include "kernels/matmul_avx2.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

enum { UNIT = 4 }; /* blocks under one head */

/* Eight rows of one line of codes: [column % 2][plane]. */
INLINE void expand(__m256i code, __m256i v[2][2]) {
#define EXPONENTS(...) _mm256_broadcastsi128_si256(_mm_setr_epi8(__VA_ARGS__))
    const __m256i leading = EXPONENTS(0, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8);
    const __m256i low = EXPONENTS(1, 1, 2, 4, 8, 16, 32, 64, (char)128, 0, 0, 0, 0, 0, 0, 0);
    const __m256i high = EXPONENTS(0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64);
#undef EXPONENTS
    const __m256i e = field(code, 3, 15), even = _mm256_set1_epi16(0xff);
    __m256i m = _mm256_or_si256(field(code, 0, 7), _mm256_shuffle_epi8(leading, e));
    m = _mm256_sign_epi8(m, code); /* code 0 has m 0 anyway */
    for (int odd = 0; odd < 2; odd++) {
        const __m256i x = odd ? _mm256_andnot_si256(even, m) : _mm256_and_si256(even, m);
        v[odd][0] = _mm256_maddubs_epi16(_mm256_shuffle_epi8(low, e), x);
        v[odd][1] = _mm256_maddubs_epi16(_mm256_shuffle_epi8(high, e), x);
    }
}

/* *to += v * x. No trees of sums, which would all be spilled. */
INLINE void add_products(__m256i *to, __m256i v, __m256i x) {
    *to = _mm256_add_epi32(*to, _mm256_madd_epi16(v, x));
    __asm__("" : "+x"(*to));
}

/* 32 q as 16 bits, each two even or odd columns of a line side by side: out[line * 4 + odd * 2]. */
INLINE void widen(const int8_t *q, int16_t out[32]) {
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (int i = 0; i < 32; i += 16) {
        const __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(q + i));
        _mm256_storeu_si256((__m256i *)(void *)(out + i),
                            _mm256_cvtepi8_epi16(_mm_shuffle_epi8(x, order)));
    }
    __asm__ volatile("" ::: "memory"); /* to be broadcast from memory, not from registers */
}

INLINE __m256i bcast_pair(const int16_t *q) {
    return bcast((const int8_t *)q);
}

INLINE __m256 scales(const uint8_t *head) {
    return _mm256_mul_ps(e8m0(head), _mm256_set1_ps(0x1p-9f));
}

/* acc + the integer sums of the planes of a block times its scales. */
INLINE __m256 add_block(const __m256i d[2], __m256 v, const float *scale, __m256 acc) {
    const __m256i sum = _mm256_add_epi32(d[0], _mm256_slli_epi32(d[1], 8));
    return _mm256_fmadd_ps(v, _mm256_mul_ps(_mm256_broadcast_ss(scale), _mm256_cvtepi32_ps(sum)),
                           acc);
}

/* ---- one token ---- */

static void one_token(uint32_t blocks, const uint8_t *w, const cake_act *a, float *out) {
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (uint32_t h = 0; h < blocks;) {
        const uint8_t *head = w;
        w += 64;
        for (uint32_t b = 0; b < UNIT && h < blocks; b++, h++, w += 512) {
            int16_t q[32];
            widen(a->q + (size_t)h * 32, q);
            __m256i d[2][2]; /* [half][plane] */
            for (int i = 0; i < 4; i++) d[i / 2][i % 2] = _mm256_setzero_si256();
            for (int j = 0; j < 8; j++)
                for (int half = 0; half < 2; half++) {
                    __m256i v[2][2];
                    expand(load256(w + j * 64 + half * 32), v);
                    for (int i = 0; i < 4; i++)
                        add_products(&d[half][i % 2], v[i / 2][i % 2],
                                     bcast_pair(q + j * 4 + i / 2 * 2));
                }
            for (int half = 0; half < 2; half++)
                acc[half] =
                    add_block(d[half], scales(head + b * 16 + half * 8), a->scale + h, acc[half]);
        }
    }
    _mm256_store_ps(out, acc[0]);
    _mm256_store_ps(out + 8, acc[1]);
}

/* ---- many tokens ---- */

typedef struct {
    __m256i planes[UNIT][8][2][2][2]; /* [line][column % 2][half][plane] */
    __m256 scales[UNIT][2];
} panel_of;

_Static_assert(sizeof(panel_of) <= CAKE_MM_K_CHUNK * 16 * sizeof(float), "the panel is too small");

/* nt tokens from tok on over `len` blocks from h0 on. */
INLINE void some_tokens(int nt, const panel_of *w, uint32_t h0, uint32_t len, const cake_act *a,
                        uint32_t tok, float *acc) {
    const size_t all = a->n_tok;
    __m256 s[2][2]; /* [token][half] */
    for (int i = 0; i < nt * 2; i++) s[i / 2][i % 2] = _mm256_load_ps(acc + i * 8);
    for (uint32_t b = 0; b < len; b++) {
        const size_t h = h0 + b;
        int16_t q[2][32];
        for (int t = 0; t < nt; t++)
            widen(a->q + (h / 2 * all + tok + (size_t)t) * 64 + h % 2 * 32, q[t]);
        __m256i d[2][2][2]; /* [token][half][plane] */
        for (int i = 0; i < nt * 4; i++) d[i / 4][i / 2 % 2][i % 2] = _mm256_setzero_si256();
        CAKE_UNROLL(16)
        for (int j = 0; j < 16; j++) {
            __m256i x[2];
            for (int t = 0; t < nt; t++) x[t] = bcast_pair(q[t] + j * 2);
            CAKE_UNROLL(4)
            for (int i = 0; i < 4; i++) {
                __m256i v = w->planes[b][j / 2][j % 2][i / 2][i % 2];
                __asm__("" : "+x"(v)); /* one load for all tokens */
                for (int t = 0; t < nt; t++) add_products(&d[t][i / 2][i % 2], v, x[t]);
            }
        }
        for (int i = 0; i < nt * 2; i++)
            s[i / 2][i % 2] = add_block(d[i / 2][i % 2], w->scales[b][i % 2],
                                        a->scale + h * all + tok + i / 2, s[i / 2][i % 2]);
    }
    for (int i = 0; i < nt * 2; i++) _mm256_store_ps(acc + i * 8, s[i / 2][i % 2]);
}

static void many_tokens(uint32_t blocks, const uint8_t *w, const cake_act *a, uint32_t tok0,
                        uint32_t n, float *acc, panel_of *panel) {
    memset(acc, 0, (size_t)n * 16 * sizeof *acc);
    for (uint32_t h = 0; h < blocks; h += UNIT) {
        const uint32_t len = blocks - h < UNIT ? blocks - h : UNIT;
        const uint8_t *head = w;
        w += 64;
        for (uint32_t b = 0; b < len; b++)
            for (int half = 0; half < 2; half++) {
                panel->scales[b][half] = scales(head + b * 16 + half * 8);
                for (int j = 0; j < 8; j++) {
                    __m256i v[2][2];
                    expand(load256(w + b * 512 + j * 64 + half * 32), v);
                    for (int i = 0; i < 4; i++)
                        panel->planes[b][j][i / 2][half][i % 2] = v[i / 2][i % 2];
                }
            }
        w += len * 512;
        uint32_t i = 0;
        for (; i + 2 <= n; i += 2) some_tokens(2, panel, h, len, a, tok0 + i, acc + i * 16);
        if (i < n) some_tokens(1, panel, h, len, a, tok0 + i, acc + i * 16);
    }
}

void cake_fp8_tile_avx2(const cake_wspec *s, const uint8_t *tile, const cake_act *a, uint32_t tok0,
                        uint32_t n, float *acc, float *panel) {
    if (a->n_tok == 1)
        one_token(s->k / 32, tile, a, acc);
    else
        many_tokens(s->k / 32, tile, a, tok0, n, acc, (panel_of *)(void *)panel);
}
#endif
