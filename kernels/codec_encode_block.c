/* Encoding of the codecs of 32 weights (formats.md 4.4.3), and of rows of any block codec. */
#include "kernels/codec_impl.h"

#include <math.h>

enum { BATCH = 8 }; /* blocks whose searches run side by side */

/* Truncation and rounding half away from zero, safe for any v: clamp(round(v), lo, hi). */
static int truncate_clamp(float v, int lo, int hi) {
    v = v < (float)hi ? v : (float)hi;
    v = v > (float)lo ? v : (float)lo;
    return (int)v;
}

static int away_clamp(float v, int lo, int hi) {
    v = v < (float)hi ? v : (float)hi;
    v = v > (float)lo ? v : (float)lo;
    int t = (int)v;
    float rest = v - (float)t; /* exact */
    return t + (rest >= 0.5f) - (rest <= -0.5f);
}

static float inverse(float d) {
    return d != 0 ? 1 / d : 0;
}

static void encode_q8_0(const float *x, uint8_t *b) {
    float max = 0;
    for (int i = 0; i < 32; i++)
        if (cake_absf(x[i]) > max) max = cake_absf(x[i]);
    float d = max / 127, inv = inverse(d);
    cake_put_half(b, d);
    for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)away_clamp(x[i] * inv, -127, 127);
}

/* Codes of q4_0 (half 8) and q5_0 (half 16); returns d. */
static float codes_signed(cake_encode_flavour flavour, const float *x, int half, uint8_t *codes) {
    float max = 0, at = 0;
    for (int i = 0; i < 32; i++)
        if (cake_absf(x[i]) > max) {
            max = cake_absf(x[i]);
            at = x[i];
        }
    float d = flavour == CAKE_ENCODE_KQ ? max / (float)(half - 1) : at / (float)-half;
    float inv = inverse(d);
    for (int i = 0; i < 32; i++)
        codes[i] =
            flavour == CAKE_ENCODE_KQ
                ? (uint8_t)(away_clamp(x[i] * inv, -half, half - 1) + half)
                : (uint8_t)truncate_clamp(x[i] * inv + ((float)half + 0.5f), 0, 2 * half - 1);
    return d;
}

/* Codes of q4_1 (top 15) and q5_1 (top 31); returns d. */
static float codes_min(cake_encode_flavour flavour, const float *x, int top, uint8_t *codes,
                       float *min) {
    float lo = x[0], hi = x[0];
    for (int i = 1; i < 32; i++) {
        if (x[i] < lo) lo = x[i];
        if (x[i] > hi) hi = x[i];
    }
    float d = (hi - lo) / (float)top, inv = inverse(d);
    for (int i = 0; i < 32; i++) {
        float v = (x[i] - lo) * inv;
        codes[i] = (uint8_t)(flavour == CAKE_ENCODE_KQ ? away_clamp(v, 0, top)
                                                       : truncate_clamp(v + 0.5f, 0, top));
    }
    *min = lo;
    return d;
}

void cake_encode_32(cake_codec codec, cake_encode_flavour flavour, const float *x,
                    const float *importance, uint8_t *out, size_t n) {
    if (codec == CAKE_CODEC_Q8_0) {
        for (; n > 0; n--, x += 32, out += 34) encode_q8_0(x, out);
        return;
    }
    const bool five = codec == CAKE_CODEC_Q5_0 || codec == CAKE_CODEC_Q5_1;
    const bool has_min = codec == CAKE_CODEC_Q4_1 || codec == CAKE_CODEC_Q5_1;
    const int top = five ? 31 : 15, half = (top + 1) / 2;
    const cake_fit_rule rule = CAKE_RULE_IMPORTANCE(top);
    if (flavour == CAKE_ENCODE_KQ) importance = NULL;
    float sigma2 = 0;
    if (importance) {
        for (size_t i = 0; i < 32 * n; i++) sigma2 += x[i] * x[i];
        sigma2 /= (float)(32 * n);
    }
    uint8_t fitted[BATCH * 32];
    float w[BATCH * 32], scales[BATCH], mins[BATCH];
    for (size_t j = 0; j < n; j++, x += 32) {
        uint8_t own[32], *codes = own;
        float d, min = 0;
        if (importance) {
            const uint32_t at = j % BATCH;
            if (at == 0) {
                const uint32_t count = n - j < BATCH ? (uint32_t)(n - j) : BATCH;
                for (uint32_t i = 0; i < 32 * count; i++)
                    w[i] = importance[32 * j + i] * sqrtf(sigma2 + x[i] * x[i]);
                if (has_min)
                    cake_fit_min(count, 32, &rule, true, x, w, fitted, scales, mins);
                else
                    cake_fit_signed(count, 32, half, x, w, CAKE_EPS_GGML, 0, fitted, scales);
            }
            codes = fitted + 32 * at;
            d = scales[at];
            if (has_min) min = -mins[at];
        } else if (has_min)
            d = codes_min(flavour, x, top, codes, &min);
        else
            d = codes_signed(flavour, x, half, codes);
        cake_put_half(out, d);
        out += 2;
        if (has_min) {
            cake_put_half(out, min);
            out += 2;
        }
        if (five) {
            uint32_t high = 0;
            for (int i = 0; i < 32; i++) high |= (uint32_t)(codes[i] >> 4) << i;
            cake_put32(out, high);
            out += 4;
        }
        for (int i = 0; i < 16; i++)
            *out++ = (uint8_t)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
    }
}

bool cake_codec_encode_row(cake_codec codec, cake_encode_flavour flavour, const float *x,
                           const float *importance, void *out, size_t k) {
    const cake_codec_info *info = cake_codec_get(codec);
    if (!info || !info->encodes) return false;
    (info->weights == 32 ? cake_encode_32 : cake_encode_256)(codec, flavour, x, importance, out,
                                                             k / info->weights);
    return true;
}
