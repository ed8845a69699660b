/* Rotary position embedding: see rope.h. */
#include "kernels/rope.h"

#include "kernels/math.h"
#include "kernels/vec.h"

#define TWO_PI 0x1.921fb54442d18p2

static double or_default(double x, double dflt) {
    return x == 0.0 ? dflt : x;
}

/* Exact for |x| < 2^31. */
static double floor_d(double x) {
    double t = (double)(int64_t)x;
    return t > x ? t - 1.0 : t;
}

static double clamp_d(double x, double lo, double hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

static bool in_range(double x, double lo, double hi) {
    return x >= lo && x <= hi; /* false for NaN */
}

/* The dimension (as a real number) whose wavelength turns `turns` times in the original context. */
static double yarn_dim(double dims, double base, double orig, double turns) {
    return dims * cake_log(orig / (turns * TWO_PI)) / (2.0 * cake_log(base));
}

bool cake_rope_init(cake_rope *r, const cake_rope_spec *s) {
    double factor = or_default(s->factor, 1.0);
    if (s->dims < 2 || s->dims > CAKE_ROPE_MAX_DIMS || s->dims % 2) return false;
    if (!(s->base > 1.0) || !in_range(s->base, 1.0, 1e30) || !in_range(factor, 1e-6, 1e6))
        return false;
    double dims = (double)s->dims, mscale = 1.0;
    double low = 0, high = 0, orig = 0, lo = 0, hi = 0;

    switch (s->type) {
    case CAKE_ROPE_DEFAULT:
    case CAKE_ROPE_LINEAR: break;
    case CAKE_ROPE_LLAMA3:
        low = or_default(s->low_freq, 1.0);
        high = or_default(s->high_freq, 4.0);
        orig = or_default(s->orig_max_pos, 8192.0);
        if (!in_range(low, 1e-6, 1e6) || !in_range(high, 1e-6, 1e6) || !(high > low)) return false;
        if (!in_range(orig, 1.0, 1e12)) return false;
        break;
    case CAKE_ROPE_YARN: {
        double fast = or_default(s->beta_fast, 32.0), slow = or_default(s->beta_slow, 1.0);
        orig = or_default(s->orig_max_pos, 4096.0);
        if (!in_range(fast, 1e-6, 1e6) || !in_range(slow, 1e-6, 1e6) || !(fast > slow))
            return false;
        if (!in_range(orig, 1.0, 1e12)) return false;
        lo = floor_d(clamp_d(yarn_dim(dims, s->base, orig, fast), -1e6, 1e6));
        hi = -floor_d(-clamp_d(yarn_dim(dims, s->base, orig, slow), -1e6, 1e6));
        lo = lo < 0.0 ? 0.0 : lo;
        hi = hi > dims - 1.0 ? dims - 1.0 : hi;
        if (hi == lo) hi = lo + 0.001; /* a step instead of a division by zero */
        double m = or_default(s->mscale, 1.0), m_all = s->mscale_all_dim;
        if (!in_range(m, -1e3, 1e3) || !in_range(m_all, -1e3, 1e3)) return false;
        double ln_f = factor > 1.0 ? 0.1 * cake_log(factor) : 0.0;
        mscale = (m * ln_f + 1.0) / (m_all * ln_f + 1.0);
        if (s->attention_factor != 0.0) mscale = s->attention_factor;
        if (!in_range(mscale, 1e-3, 1e3)) return false;
        break;
    }
    default: return false;
    }

    r->n_freq = s->dims / 2;
    r->mscale = mscale;
    for (uint32_t i = 0; i < r->n_freq; i++) {
        double period = cake_pow(s->base, (double)(2 * i) / dims), inv = 1.0 / period;
        if (s->type == CAKE_ROPE_LINEAR) {
            inv = 1.0 / (period * factor);
        } else if (s->type == CAKE_ROPE_LLAMA3) {
            double wavelength = TWO_PI * period;
            if (wavelength > orig / low) {
                inv = 1.0 / (period * factor);
            } else if (!(wavelength < orig / high)) {
                double t = (orig / wavelength - low) / (high - low);
                inv = ((1.0 - t) / factor + t) / period;
            }
        } else if (s->type == CAKE_ROPE_YARN) {
            double ramp = clamp_d(((double)i - lo) / (hi - lo), 0.0, 1.0);
            inv = ((1.0 - ramp) + ramp / factor) / period;
        }
        r->inv_freq[i] = inv;
    }
    return true;
}

void cake_rope_angles(const cake_rope *r, uint32_t pos, float *cos, float *sin) {
    for (uint32_t i = 0; i < r->n_freq; i++) {
        double a = (double)pos * r->inv_freq[i];
        cos[i] = (float)(r->mscale * cake_cos(a));
        sin[i] = (float)(r->mscale * cake_sin(a));
    }
}

void cake_rope_apply(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t rot_dims,
                     const float *cos, const float *sin) {
    cake_vec_for(cake_cpu_isa())->rope(x, n_heads, head_dim, rot_dims, cos, sin);
}

void cake_rope_apply_adjacent(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t rot_dims,
                              const float *cos, const float *sin) {
    for (uint32_t head = 0; head < n_heads; head++) {
        float *p = x + (size_t)head * head_dim;
        for (uint32_t i = 0; i < rot_dims / 2; i++) {
            float a = p[2 * i], b = p[2 * i + 1];
            p[2 * i] = __builtin_fmaf(a, cos[i], -(b * sin[i]));
            p[2 * i + 1] = __builtin_fmaf(b, cos[i], a * sin[i]);
        }
    }
}
