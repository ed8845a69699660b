/* Searches for the scales of block codecs (formats.md 4.4.1).
 *
 * The order of every operation is part of the format: encoders compare errors with <, and one bit
 * in the last place of a sum changes which trial wins. */
#include "kernels/codec_impl.h"
#include "kernels/cpu.h"

/* The element of largest magnitude, the first one on ties; *max is that magnitude. */
static float extreme(uint32_t n, const float *x, float *max) {
    float at = 0;
    *max = 0;
    for (uint32_t i = 0; i < n; i++)
        if (cake_absf(x[i]) > *max) {
            *max = cake_absf(x[i]);
            at = x[i];
        }
    return at;
}

static float fit_signed(uint32_t n, int nmax, const float *x, const float *w, float eps,
                        uint8_t null_code, uint8_t *codes) {
    float max, at = extreme(n, x, &max), scale = 0, best = 0;
    if (max < eps) {
        memset(codes, null_code, n);
        return 0;
    }
    for (int trial = 0; trial < 19; trial++) {
        int off = trial == 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9; /* 0, -9..-1, 1..9 */
        float inv = -((float)nmax + 0.1f * (float)off) / at, a = 0, b = 0;
        for (uint32_t i = 0; i < n; i++) {
            float l = (float)cake_round_clamp(inv * x[i], -nmax, nmax - 1);
            float weight = w ? w[i] : x[i] * x[i];
            a += weight * x[i] * l;
            b += weight * l * l;
        }
        if (trial == 0)
            scale = b != 0 ? a / b : 0;
        else if (b > 0 && a * a > best * b)
            scale = a / b;
        else
            continue;
        best = scale * a;
        for (uint32_t i = 0; i < n; i++)
            codes[i] = (uint8_t)(cake_round_clamp(inv * x[i], -nmax, nmax - 1) + nmax);
    }
    return scale;
}

/* How many of the remaining sub-blocks to fit side by side: 8, 4 or, one by one, 0. */
static uint32_t lanes_for(uint32_t remaining) {
    cake_isa isa = cake_cpu_isa();
    if (remaining >= 8 && (isa == CAKE_ISA_AVX2 || isa == CAKE_ISA_AVX512)) return 8;
    return remaining >= 4 ? 4 : 0;
}

void cake_fit_signed(uint32_t n_sub, uint32_t len, int nmax, const float *x, const float *w,
                     float eps, uint8_t null_code, uint8_t *codes, float *scales) {
    uint32_t j = 0;
    for (uint32_t step; (step = lanes_for(n_sub - j)) != 0; j += step) {
        const float *weights = w ? w + j * len : NULL;
#if defined(__x86_64__)
        if (step == 8)
            cake_fit_signed_avx2(len, nmax, x + j * len, weights, eps, null_code, codes + j * len,
                                 scales + j);
        else
#endif
            cake_fit_signed_base(len, nmax, x + j * len, weights, eps, null_code, codes + j * len,
                                 scales + j);
    }
    for (; j < n_sub; j++)
        scales[j] = fit_signed(len, nmax, x + j * len, w ? w + j * len : NULL, eps, null_code,
                               codes + j * len);
}

static float fit_descent(uint32_t n, int nmax, const float *x, uint8_t *codes) {
    float max, at = extreme(n, x, &max);
    memset(codes, 0, n);
    if (max < CAKE_EPS_GGML) return 0;
    float inv = -(float)nmax / at, a = 0, b = 0;
    int l[32];
    for (uint32_t i = 0; i < n; i++) {
        l[i] = cake_round_clamp(inv * x[i], -nmax, nmax - 1);
        float w = x[i] * x[i];
        a += w * x[i] * (float)l[i];
        b += w * (float)l[i] * (float)l[i];
    }
    bool changed = true;
    for (int pass = 0; pass < 5 && changed; pass++) {
        changed = false;
        for (uint32_t i = 0; i < n; i++) {
            float w = x[i] * x[i], a1 = a - w * x[i] * (float)l[i];
            if (!(a1 > 0)) continue;
            float b1 = b - w * (float)l[i] * (float)l[i];
            int better = cake_round_clamp(x[i] * b1 / a1, -nmax, nmax - 1);
            if (better == l[i]) continue;
            a1 += w * x[i] * (float)better;
            b1 += w * (float)better * (float)better;
            if (b1 > 0 && a1 * a1 * b > a * a * b1) {
                l[i] = better;
                a = a1;
                b = b1;
                changed = true;
            }
        }
    }
    for (uint32_t i = 0; i < n; i++) codes[i] = (uint8_t)(l[i] + nmax);
    return b > 0 ? a / b : 0;
}

void cake_fit_descent(uint32_t n_sub, uint32_t len, int nmax, const float *x, uint8_t *codes,
                      float *scales) {
    for (uint32_t j = 0; j < n_sub; j++)
        scales[j] = fit_descent(len, nmax, x + j * len, codes + j * len);
}

static float error_of(const cake_fit_rule *r, uint32_t n, const float *x, const float *w,
                      const uint8_t *codes, float scale, float min) {
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        float e = scale * (float)codes[i] + min - x[i];
        sum += w[i] * (r->absolute ? cake_absf(e) : e * e);
    }
    return sum;
}

static float fit_min(uint32_t n, const cake_fit_rule *r, bool move_low, const float *x,
                     const float *w, uint8_t *codes, float *min_out) {
    float lo = x[0], hi = x[0], sw = w[0], sx = sw * x[0];
    for (uint32_t i = 1; i < n; i++) {
        if (x[i] < lo) lo = x[i];
        if (x[i] > hi) hi = x[i];
        sw += w[i];
        sx += w[i] * x[i];
    }
    if (lo > 0) lo = 0;
    if (hi <= lo) {
        memset(codes, 0, n);
        *min_out = -lo;
        return 0;
    }
    float inv = (float)r->nmax / (hi - lo), scale = 1 / inv, min = lo;
    for (uint32_t i = 0; i < n; i++)
        codes[i] = (uint8_t)cake_round_clamp(inv * (x[i] - lo), 0, r->nmax);
    float best = error_of(r, n, x, w, codes, scale, min);
    for (int t = 0; t <= r->last; t++) {
        inv = (r->first + r->step * (float)t + (float)r->nmax) / (hi - lo);
        float sl = 0, sll = 0, slx = 0;
        uint8_t trial[32];
        for (uint32_t i = 0; i < n; i++) {
            int code = cake_round_clamp(inv * (x[i] - lo), 0, r->nmax);
            float l = (float)code;
            trial[i] = (uint8_t)code;
            sl += w[i] * l;
            sll += w[i] * l * l;
            slx += w[i] * l * x[i];
        }
        float det = sw * sll - sl * sl;
        if (!(det > 0)) continue;
        float s = (sw * slx - sx * sl) / det, m = (sll * sx - sl * slx) / det;
        if (m > 0) {
            m = 0;
            s = slx / sll;
        }
        float err = error_of(r, n, x, w, trial, s, m);
        if (!(err < best)) continue;
        memcpy(codes, trial, n);
        best = err;
        scale = s;
        min = m;
        if (move_low) lo = m;
    }
    *min_out = -min;
    return scale;
}

void cake_fit_min(uint32_t n_sub, uint32_t len, const cake_fit_rule *rule, bool move_low,
                  const float *x, const float *w, uint8_t *codes, float *scales, float *mins) {
    uint32_t j = 0;
    for (uint32_t step; (step = lanes_for(n_sub - j)) != 0; j += step)
#if defined(__x86_64__)
        if (step == 8)
            cake_fit_min_avx2(len, rule, move_low, x + j * len, w + j * len, codes + j * len,
                              scales + j, mins + j);
        else
#endif
            cake_fit_min_base(len, rule, move_low, x + j * len, w + j * len, codes + j * len,
                              scales + j, mins + j);
    for (; j < n_sub; j++)
        scales[j] =
            fit_min(len, rule, move_low, x + j * len, w + j * len, codes + j * len, mins + j);
}

float cake_fit_positive(uint32_t n, int nmax, const float *x, const float *w, float eps,
                        uint8_t *codes) {
    float max = 0;
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > max) max = x[i];
    memset(codes, 0, n);
    if (max < eps) return 0;
    float inv = (float)nmax / max, best = 0;
    for (int t = -5; t <= 4; t++) { /* -5 stands for the plain scale, which comes first */
        if (t == 0) continue;
        float trial = t == -5 ? inv : (0.1f * (float)t + (float)nmax) / max, scale = 1 / trial;
        float err = 0;
        for (uint32_t i = 0; i < n; i++) {
            float e = x[i] - scale * (float)cake_round_min(trial * x[i], nmax);
            err += w[i] * e * e;
        }
        if (t == -5 || err < best) {
            best = err;
            inv = trial;
        }
    }
    float a = 0, b = 0;
    for (uint32_t i = 0; i < n; i++) {
        int l = cake_round_min(inv * x[i], nmax);
        codes[i] = (uint8_t)l;
        a += w[i] * x[i] * (float)l;
        b += w[i] * (float)l * (float)l;
    }
    bool changed = true;
    for (int pass = 0; pass < 5 && changed; pass++) {
        changed = false;
        for (uint32_t i = 0; i < n; i++) {
            float l = (float)codes[i], a1 = a - w[i] * x[i] * l, b1 = b - w[i] * l * l;
            if (!(a1 > 0 && b1 > 0)) continue;
            int better = cake_round_min(x[i] * b1 / a1, nmax);
            if (better == codes[i]) continue;
            a1 += w[i] * x[i] * (float)better;
            b1 += w[i] * (float)better * (float)better;
            if (a1 * a1 * b > a * a * b1) {
                codes[i] = (uint8_t)better;
                a = a1;
                b = b1;
                changed = true;
            }
        }
    }
    return b > 0 ? a / b : 0;
}
