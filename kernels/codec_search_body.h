/* The two searches over whole sub-blocks, LANES of them side by side: lane j does for sub-block j
 * exactly the operations of the plain code in codec_search.c, in its order, so the bytes are the
 * same. Branches become masks. Included by files that define LANES and BODY_NAME(); written in the
 * vector extension that gcc and clang share. */
#include "kernels/codec_impl.h"

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));
enum { LEN = 32 }; /* longest sub-block */

static inline lanes all(float v) {
    return v - (lanes){0};
}

static inline lanes choose(mask m, lanes a, lanes b) {
    return (lanes)((m & (mask)a) | (~m & (mask)b));
}

static inline lanes magnitude(lanes v) {
    return (lanes)((mask)v & 0x7fffffff);
}

static inline bool any(mask m) {
    int32_t r = 0;
    for (int j = 0; j < LANES; j++) r |= m[j];
    return r != 0;
}

/* cake_round_clamp(), as floats. */
static inline lanes round_clamp(lanes v, lanes lo, lanes hi) {
    v = choose(v < hi, v, hi);
    v = choose(v > lo, v, lo);
    return (v + 0x1.8p23f) - 0x1.8p23f;
}

static inline void gather(uint32_t n, const float *x, lanes *out) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < LANES; j++) out[i][j] = x[j * n + i];
}

static inline void scatter(uint32_t n, const lanes *l, float bias, uint8_t *codes) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < LANES; j++) codes[j * n + i] = (uint8_t)(l[i][j] + bias);
}

void BODY_NAME(cake_fit_signed)(uint32_t n, int nmax, const float *xs, const float *ws, float eps,
                                uint8_t null_code, uint8_t *codes, float *scales) {
    lanes x[LEN], w[LEN], kept[LEN] = {{0}}, max = all(0), at = max, scale = max, best = max;
    const lanes zero = all(0), lo = all((float)-nmax), hi = all((float)(nmax - 1));
    gather(n, xs, x);
    if (ws) gather(n, ws, w);
    for (uint32_t i = 0; i < n; i++) {
        if (!ws) w[i] = x[i] * x[i];
        mask more = magnitude(x[i]) > max;
        max = choose(more, magnitude(x[i]), max);
        at = choose(more, x[i], at);
    }
    for (int trial = 0; trial < 19; trial++) {
        int off = trial == 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;
        lanes inv = -((float)nmax + 0.1f * (float)off) / at, a = zero, b = zero, l[LEN];
        for (uint32_t i = 0; i < n; i++) {
            l[i] = round_clamp(inv * x[i], lo, hi);
            lanes wl = w[i] * l[i];
            a += w[i] * x[i] * l[i];
            b += wl * l[i];
        }
        mask take = (b > zero) & (a * a > best * b);
        lanes fit = a / b;
        if (trial == 0) {
            take = zero == zero;
            fit = choose(b != zero, fit, zero);
        }
        if (!any(take)) continue;
        scale = choose(take, fit, scale);
        best = choose(take, scale * a, best);
        for (uint32_t i = 0; i < n; i++) kept[i] = choose(take, l[i], kept[i]);
    }
    scatter(n, kept, (float)nmax, codes);
    for (uint32_t j = 0; j < LANES; j++) {
        scales[j] = scale[j];
        if (!(max[j] < eps)) continue;
        scales[j] = 0;
        memset(codes + j * n, null_code, n);
    }
}

static inline lanes error_lanes(bool absolute, uint32_t n, const lanes *x, const lanes *w,
                                const lanes *l, lanes scale, lanes min) {
    lanes sum = all(0);
    if (absolute)
        for (uint32_t i = 0; i < n; i++) sum += w[i] * magnitude(scale * l[i] + min - x[i]);
    else
        for (uint32_t i = 0; i < n; i++) {
            lanes e = scale * l[i] + min - x[i];
            sum += w[i] * (e * e);
        }
    return sum;
}

void BODY_NAME(cake_fit_min)(uint32_t n, const cake_fit_rule *r, bool move_low, const float *xs,
                             const float *ws, uint8_t *codes, float *scales, float *mins) {
    lanes x[LEN] = {{0}}, w[LEN] = {{0}}, kept[LEN];
    const lanes zero = all(0), top = all((float)r->nmax);
    gather(n, xs, x);
    gather(n, ws, w);
    lanes lo = x[0], hi = x[0], sw = w[0], sx = sw * x[0];
    for (uint32_t i = 1; i < n; i++) {
        lo = choose(x[i] < lo, x[i], lo);
        hi = choose(x[i] > hi, x[i], hi);
        sw += w[i];
        sx += w[i] * x[i];
    }
    lo = choose(lo > zero, zero, lo);
    const mask flat = hi <= lo;
    const lanes low = lo;
    lanes inv = top / (hi - lo), scale = 1 / inv, min = lo;
    for (uint32_t i = 0; i < n; i++) kept[i] = round_clamp(inv * (x[i] - lo), zero, top);
    lanes best = error_lanes(r->absolute, n, x, w, kept, scale, min);
    for (int t = 0; t <= r->last; t++) {
        inv = (r->first + r->step * (float)t + (float)r->nmax) / (hi - lo);
        lanes sl = zero, sll = zero, slx = zero, l[LEN];
        for (uint32_t i = 0; i < n; i++) {
            l[i] = round_clamp(inv * (x[i] - lo), zero, top);
            lanes wl = w[i] * l[i];
            sl += wl;
            sll += wl * l[i];
            slx += wl * x[i];
        }
        lanes det = sw * sll - sl * sl;
        lanes s = (sw * slx - sx * sl) / det, m = (sll * sx - sl * slx) / det;
        mask above = m > zero;
        s = choose(above, slx / sll, s);
        m = choose(above, zero, m);
        lanes err = error_lanes(r->absolute, n, x, w, l, s, m);
        mask take = (det > zero) & (err < best);
        if (!any(take)) continue;
        best = choose(take, err, best);
        scale = choose(take, s, scale);
        min = choose(take, m, min);
        if (move_low) lo = choose(take, m, lo);
        for (uint32_t i = 0; i < n; i++) kept[i] = choose(take, l[i], kept[i]);
    }
    scatter(n, kept, 0, codes);
    for (uint32_t j = 0; j < LANES; j++) {
        scales[j] = flat[j] ? 0 : scale[j];
        mins[j] = -(flat[j] ? low[j] : min[j]);
        if (flat[j]) memset(codes + j * n, 0, n);
    }
}
