/* Encoding of the K-quants (formats.md 4.4.2): per sub-block a fit of scale (and min), over those a
 * fit of the block's own scales, then every code again under the scales as they are stored. */
#include "kernels/codec_impl.h"

#include <math.h>

typedef struct {
    float x[256], w[256];
    uint8_t codes[256];
    float scales[16], mins[16], weights[16]; /* of sub-blocks; weights: sums of w */
    uint8_t scale_codes[16], min_codes[16];
    bool kq, plain; /* flavour; plain: ggml without importance */
    float eps;
} work;

/* Weights im * sqrt(sigma2 + x^2), or average + |x| when there is no importance, where sigma2 is
 * `times` the mean square of the block and average its root. */
static void weigh(work *k, const float *importance, float times) {
    float sum = 0;
    for (int i = 0; i < 256; i++) sum += k->x[i] * k->x[i];
    float sigma2 = times * sum / 256;
    if (importance)
        for (int i = 0; i < 256; i++) k->w[i] = importance[i] * sqrtf(sigma2 + k->x[i] * k->x[i]);
    else {
        float average = sqrtf(sigma2);
        for (int i = 0; i < 256; i++) k->w[i] = average + cake_absf(k->x[i]);
    }
}

static void sum_weights(work *k, int n_sub) {
    const float *w = k->w;
    for (int j = 0; j < n_sub; j++) {
        k->weights[j] = 0;
        for (int i = 0; i < 256 / n_sub; i++) k->weights[j] += *w++;
    }
}

/* Codes 0 .. nmax of values against their largest; returns the largest over nmax. A negative value
 * wraps, as in the reference. */
static float fit_to_largest(int n, int nmax, const float *v, uint8_t *codes) {
    float max = 0;
    for (int j = 0; j < n; j++)
        if (v[j] > max) max = v[j];
    float inv = max > 0 ? (float)nmax / max : 0;
    for (int j = 0; j < n; j++) {
        uint8_t code = (uint8_t)cake_round_min(inv * v[j], 255);
        codes[j] = code < nmax ? code : (uint8_t)nmax;
    }
    return max / (float)nmax;
}

static void fit_super(work *k, int n_sub, int nmax, float *d, float *dmin) {
    if (k->plain) {
        *d = fit_to_largest(n_sub, nmax, k->scales, k->scale_codes);
        *dmin = fit_to_largest(n_sub, nmax, k->mins, k->min_codes);
        return;
    }
    *d = cake_fit_positive((uint32_t)n_sub, nmax, k->scales, k->weights, k->eps, k->scale_codes);
    *dmin = cake_fit_positive((uint32_t)n_sub, nmax, k->mins, k->weights, k->eps, k->min_codes);
}

/* The codes of sub-block j under its stored scale and min: clamp((x + min) / scale, lo, hi) - lo.
 * Where the scale is zero ggml keeps what the search left, kq takes the code of zero. */
static void requantize(work *k, int j, int len, float scale, float min, int lo, int hi) {
    const float *x = k->x + j * len;
    uint8_t *codes = k->codes + j * len;
    if (scale != 0)
        for (int i = 0; i < len; i++)
            codes[i] = (uint8_t)(cake_round_clamp((x[i] + min) / scale, lo, hi) - lo);
    else if (k->kq)
        memset(codes, -lo, (size_t)len);
}

/* Two bits of each code, as q2_k and q3_k store them. */
static void pack_low2(const uint8_t *codes, uint8_t *qs) {
    for (int h = 0; h < 2; h++, codes += 128)
        for (int i = 0; i < 32; i++)
            *qs++ = (uint8_t)((codes[i] & 3) | (codes[i + 32] & 3) << 2 | (codes[i + 64] & 3) << 4 |
                              (codes[i + 96] & 3) << 6);
}

static void encode_q2_k(work *k, const float *importance, uint8_t *b) {
    static const cake_fit_rule plain = {3, -0.5f, 0.1f, 15, true}, rule = CAKE_RULE_IMPORTANCE(3);
    if (k->plain)
        for (int i = 0; i < 256; i++) k->w[i] = cake_absf(k->x[i]);
    else
        weigh(k, importance, 1);
    sum_weights(k, 16);
    cake_fit_min(16, 16, k->plain ? &plain : &rule, !k->kq, k->x, k->w, k->codes, k->scales,
                 k->mins);
    float d, dmin;
    fit_super(k, 16, 15, &d, &dmin);
    for (int j = 0; j < 16; j++) b[j] = (uint8_t)((k->scale_codes[j] & 15) | k->min_codes[j] << 4);
    d = cake_put_half(b + 80, d);
    dmin = cake_put_half(b + 82, dmin);
    for (int j = 0; j < 16; j++)
        requantize(k, j, 16, d * (float)(b[j] & 15), dmin * (float)(b[j] >> 4), 0, 3);
    pack_low2(k->codes, b + 16);
}

/* Signed codes lo .. -lo - 1 of the scales against the largest in magnitude; returns 1 / inverse,
 * or 0 when all scales are. */
static float fit_to_extreme(const float *scales, int lo, int *codes) {
    float max = 0, at = 0;
    for (int j = 0; j < 16; j++)
        if (cake_absf(scales[j]) > max) {
            max = cake_absf(scales[j]);
            at = scales[j];
        }
    for (int j = 0; j < 16; j++) codes[j] = lo;
    if (at == 0) return 0;
    float inv = (float)lo / at;
    for (int j = 0; j < 16; j++) codes[j] = cake_round_clamp(inv * scales[j], lo, -lo - 1);
    return 1 / inv;
}

static void encode_q3_k(work *k, const float *importance, uint8_t *b) {
    int sc[16];
    float d;
    if (k->plain)
        cake_fit_descent(16, 16, 4, k->x, k->codes, k->scales);
    else {
        if (importance)
            weigh(k, importance, 2);
        else
            for (int i = 0; i < 256; i++) k->w[i] = k->x[i] * k->x[i];
        sum_weights(k, 16);
        cake_fit_signed(16, 16, 4, k->x, k->w, k->eps, k->kq ? 4 : 0, k->codes, k->scales);
    }
    if (k->plain || k->kq)
        d = fit_to_extreme(k->scales, -32, sc);
    else {
        cake_fit_signed(1, 16, 32, k->scales, k->weights, k->eps, 0, k->scale_codes, &d);
        for (int j = 0; j < 16; j++) sc[j] = k->scale_codes[j] - 32;
    }
    memset(b + 96, 0, 12);
    for (int j = 0; j < 16; j++) {
        int biased = sc[j] + 32;
        b[96 + j % 8] |= (uint8_t)((biased & 15) << 4 * (j / 8));
        b[104 + j % 4] |= (uint8_t)(biased >> 4 << 2 * (j / 4));
    }
    d = cake_put_half(b + 108, d);
    for (int j = 0; j < 16; j++) requantize(k, j, 16, d * (float)sc[j], 0, -4, 3);
    for (int i = 0; i < 32; i++) {
        b[i] = 0;
        for (int j = 0; j < 8; j++) b[i] |= (uint8_t)(k->codes[32 * j + i] >> 2 << j);
    }
    pack_low2(k->codes, b + 32);
}

static void encode_q45(work *k, const float *importance, bool five, uint8_t *b) {
    static const cake_fit_rule plain[2] = {{15, -1.0f, 0.1f, 20, false},
                                           {31, -0.5f, 0.1f, 15, false}},
                               rule[2] = {CAKE_RULE_IMPORTANCE(15), CAKE_RULE_IMPORTANCE(31)};
    if (k->plain)
        for (int j = 0; j < 8; j++) {
            const float *x = k->x + 32 * j;
            float sum = 0;
            for (int i = 0; i < 32; i++) sum += x[i] * x[i];
            float average = sqrtf(sum / 32);
            for (int i = 0; i < 32; i++) k->w[32 * j + i] = average + cake_absf(x[i]);
        }
    else
        weigh(k, importance, 2);
    sum_weights(k, 8);
    cake_fit_min(8, 32, k->plain ? &plain[five] : &rule[five], !k->kq, k->x, k->w, k->codes,
                 k->scales, k->mins);
    float d, dmin;
    fit_super(k, 8, 63, &d, &dmin);
    const uint8_t *sc = k->scale_codes, *mn = k->min_codes;
    for (int j = 0; j < 4; j++) {
        b[4 + j] = (uint8_t)((sc[j] & 63) | sc[j + 4] >> 4 << 6);
        b[8 + j] = (uint8_t)((mn[j] & 63) | mn[j + 4] >> 4 << 6);
        b[12 + j] = (uint8_t)((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
    }
    d = cake_put_half(b, d);
    dmin = cake_put_half(b + 2, dmin);
    for (int j = 0; j < 8; j++)
        requantize(k, j, 32, d * (float)(sc[j] & 63), dmin * (float)(mn[j] & 63), 0,
                   five ? 31 : 15);
    if (five)
        for (int i = 0; i < 32; i++) {
            b[16 + i] = 0;
            for (int j = 0; j < 8; j++) b[16 + i] |= (uint8_t)(k->codes[32 * j + i] >> 4 << j);
        }
    uint8_t *qs = b + (five ? 48 : 16);
    for (int i = 0; i < 128; i++) {
        const uint8_t *c = k->codes + 64 * (i / 32) + i % 32;
        qs[i] = (uint8_t)((c[0] & 15) | (c[32] & 15) << 4);
    }
}

static void encode_q4_k(work *k, const float *importance, uint8_t *b) {
    encode_q45(k, importance, false, b);
}

static void encode_q5_k(work *k, const float *importance, uint8_t *b) {
    encode_q45(k, importance, true, b);
}

static void encode_q6_k(work *k, const float *importance, uint8_t *b) {
    cake_fit_signed(16, 16, 32, k->x, importance, k->eps, k->kq ? 32 : 0, k->codes, k->scales);
    float max = 0;
    for (int j = 0; j < 16; j++)
        if (cake_absf(k->scales[j]) > max) max = cake_absf(k->scales[j]);
    if (max < k->eps) {
        memset(b, 0, 210);
        return;
    }
    int sc[16];
    float d = cake_put_half(b + 208, fit_to_extreme(k->scales, -128, sc));
    for (int j = 0; j < 16; j++) {
        b[192 + j] = (uint8_t)sc[j];
        requantize(k, j, 16, d * (float)sc[j], 0, -32, 31);
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            const uint8_t *c = k->codes + 128 * h + i;
            b[64 * h + i] = (uint8_t)((c[0] & 15) | (c[64] & 15) << 4);
            b[64 * h + 32 + i] = (uint8_t)((c[32] & 15) | (c[96] & 15) << 4);
            b[128 + 32 * h + i] =
                (uint8_t)(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
        }
}

void cake_encode_256(cake_codec codec, cake_encode_flavour flavour, const float *x,
                     const float *importance, uint8_t *out, size_t n) {
    static void (*const encode[])(work *, const float *, uint8_t *) = {
        [CAKE_CODEC_Q2_K] = encode_q2_k, [CAKE_CODEC_Q3_K] = encode_q3_k,
        [CAKE_CODEC_Q4_K] = encode_q4_k, [CAKE_CODEC_Q5_K] = encode_q5_k,
        [CAKE_CODEC_Q6_K] = encode_q6_k,
    };
    work k;
    memset(&k, 0, sizeof k);
    k.kq = flavour == CAKE_ENCODE_KQ;
    k.plain = !k.kq && !importance;
    k.eps = k.kq ? CAKE_EPS_KQ : CAKE_EPS_GGML;
    for (size_t i = 0; i < n; i++) {
        memcpy(k.x, x + 256 * i, sizeof k.x);
        encode[codec](&k, importance ? importance + 256 * i : NULL, out);
        out += cake_codec_get(codec)->bytes;
    }
}
