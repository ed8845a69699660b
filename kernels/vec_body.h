/* The row operations of vec.h over the 16 lanes of vec_lanes.h; compiled once per ISA, each time
 * into a table named by the including file. */
#include "kernels/vec.h"
#include "kernels/vec_lanes.h"

#include <float.h>
#include <math.h>

/* y[i] = EXPR for all i, where EXPR reads the lanes i.. of an input p as IN(p). */
#define IN(p) (full_ ? v_load((p) + i_) : v_load_n((p) + i_, n - i_))
#define MAP(y, expr)                                                                               \
    do {                                                                                           \
        size_t i_ = 0;                                                                             \
        for (; i_ + 16 <= n; i_ += 16) {                                                           \
            enum { full_ = 1 };                                                                    \
            v_store((y) + i_, (expr));                                                             \
        }                                                                                          \
        if (i_ < n) {                                                                              \
            enum { full_ = 0 };                                                                    \
            v_store_n((y) + i_, (expr), n - i_);                                                   \
        }                                                                                          \
    } while (0)

static float k_dot(const float *a, const float *b, size_t n) {
    v16 acc = v_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) acc = v_fma(v_load(a + i), v_load(b + i), acc);
    if (i < n) acc = v_fma(v_load_n(a + i, n - i), v_load_n(b + i, n - i), acc);
    return v_sum(acc);
}

static void k_rmsnorm(float *y, const float *x, const float *w, size_t n, float eps) {
    if (!n) return;
    v16 r = v_set1(1.0f / __builtin_sqrtf(k_dot(x, x, n) / (float)n + eps));
    if (w)
        MAP(y, v_mul(v_mul(IN(x), r), IN(w)));
    else
        MAP(y, v_mul(IN(x), r));
}

static void k_add(float *y, const float *a, const float *b, size_t n) {
    MAP(y, v_add(IN(a), IN(b)));
}

static void k_axpy(float *y, float a, const float *x, size_t n) {
    v16 f = v_set1(a);
    MAP(y, v_fma(f, IN(x), IN(y)));
}

static void k_scale(float *y, float a, const float *x, size_t n) {
    v16 f = v_set1(a);
    MAP(y, v_mul(f, IN(x)));
}

LANES_FN v16 v_neg(v16 x) {
    return v_mul(x, v_set1(-1.0f));
}

LANES_FN v16 v_sigmoid(v16 x) {
    v16 one = v_set1(1.0f);
    return v_div(one, v_add(one, v_exp(v_neg(x))));
}

LANES_FN v16 v_silu(v16 x) {
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_neg(x))));
}

/* 0.5 x (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
LANES_FN v16 v_gelu(v16 x) {
    v16 t = v_fma(v_mul(x, x), v_set1(-2.0f * 0.7978845608f * 0.044715f),
                  v_set1(-2.0f * 0.7978845608f));
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_mul(t, x))));
}

static void k_swiglu(float *y, const float *gate, const float *up, size_t n) {
    MAP(y, v_mul(v_silu(IN(gate)), IN(up)));
}

static void k_geglu(float *y, const float *gate, const float *up, size_t n) {
    MAP(y, v_mul(v_gelu(IN(gate)), IN(up)));
}

static void k_sigmoid_mul(float *y, const float *gate, const float *x, size_t n) {
    MAP(y, v_mul(v_sigmoid(IN(gate)), IN(x)));
}

static void k_silu(float *y, const float *x, size_t n) {
    MAP(y, v_silu(IN(x)));
}

static void k_softcap(float *y, const float *x, size_t n, float cap) {
    v16 c = v_set1(cap);
    MAP(y, v_mul(c, v_tanh(v_div(IN(x), c))));
}

static void k_exp(float *y, const float *x, size_t n) {
    MAP(y, v_exp(IN(x)));
}

static void k_exp2_neg(float *y, const float *x, size_t n) {
    MAP(y, v_exp2_neg(IN(x)));
}

static float k_max(const float *x, size_t n) {
    /* v_max(new, acc) keeps acc when new is a NaN. Four chains hide the latency; the value of a
     * maximum does not depend on the order. */
    v16 m0 = v_set1(-INFINITY), m1 = m0, m2 = m0, m3 = m0;
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        m0 = v_max(v_load(x + i), m0);
        m1 = v_max(v_load(x + i + 16), m1);
        m2 = v_max(v_load(x + i + 32), m2);
        m3 = v_max(v_load(x + i + 48), m3);
    }
    for (; i + 16 <= n; i += 16) m0 = v_max(v_load(x + i), m0);
    if (i < n) m0 = v_max(v_keep(v_load_n(x + i, n - i), 0, (int)(n - i), -INFINITY), m0);
    return v_hmax(v_max(v_max(m0, m1), v_max(m2, m3)));
}

static float k_max_blocks(float *block, const float *x, size_t n, int *finite) {
    v16 zero = v_zero(), bad = zero;
    float all = -INFINITY;
    for (size_t i = 0; i < n; i += CAKE_MAX_BLOCK) {
        v16 m = v_set1(-INFINITY);
        size_t end = n - i < CAKE_MAX_BLOCK ? n : i + CAKE_MAX_BLOCK, j = i;
        for (; j + 16 <= end; j += 16) {
            v16 v = v_load(x + j);
            m = v_max(v, m);
            bad = v_fma(v, zero, bad); /* NaN from the first NaN or infinity on */
        }
        if (j < end) {
            v16 v = v_load_n(x + j, end - j);
            m = v_max(v_keep(v, 0, (int)(end - j), -INFINITY), m);
            bad = v_fma(v, zero, bad);
        }
        float b = block[i / CAKE_MAX_BLOCK] = v_hmax(m);
        all = b > all ? b : all;
    }
    *finite = v_eq_mask(bad, bad) == 0xffff;
    return all;
}

static double k_exp_sum(float *y, const float *x, size_t n, float max, float t) {
    v16 m = v_set1(max), vt = v_set1(t);
    d16 acc = d_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 d = v_sub(v_load(x + i), m);
        if (t != 1.0f) d = v_div(d, vt);
        d = v_exp(d);
        v_store(y + i, d);
        acc = d_add(acc, d);
    }
    if (i < n) {
        v16 d = v_exp(v_div(v_sub(v_load_n(x + i, n - i), m), vt));
        v_store_n(y + i, d, n - i);
        acc = d_add(acc, v_keep(d, 0, (int)(n - i), 0.0f));
    }
    return d_sum(acc);
}

static void k_softmax(float *x, size_t n) {
    if (!n) return;
    v16 m = v_set1(k_max(x, n)), acc = v_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 e = v_exp(v_sub(v_load(x + i), m));
        v_store(x + i, e);
        acc = v_add(acc, e);
    }
    if (i < n) {
        v16 e = v_keep(v_exp(v_sub(v_load_n(x + i, n - i), m)), 0, (int)(n - i), 0.0f);
        v_store_n(x + i, e, n - i);
        acc = v_add(acc, e);
    }
    k_scale(x, 1.0f / v_sum(acc), x, n);
}

static size_t k_argmax(const float *x, size_t n) {
    float max = k_max(x, n);
    v16 m = v_set1(max);
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        uint64_t hit = v_eq_mask(v_load(x + i), m);
        hit |= (uint64_t)v_eq_mask(v_load(x + i + 16), m) << 16;
        hit |= (uint64_t)v_eq_mask(v_load(x + i + 32), m) << 32;
        hit |= (uint64_t)v_eq_mask(v_load(x + i + 48), m) << 48;
        if (hit) return i + (size_t)__builtin_ctzll(hit);
    }
    for (; i < n; i++)
        if (x[i] == max) return i;
    return 0;
}

static void k_f32_to_f16(uint16_t *y, const float *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store_h(y + i, v_load(x + i));
    for (; i < n; i++) y[i] = f16_from_f32(x[i]);
}

static void k_f16_to_f32(float *y, const uint16_t *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_load_h(x + i));
    for (; i < n; i++) y[i] = f32_from_f16(x[i]);
}

static void k_f32_to_bf16(uint16_t *y, const float *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store_bf16(y + i, v_load(x + i));
    if (i < n) {
        uint16_t t[16];
        v_store_bf16(t, v_load_n(x + i, n - i));
        memcpy(y + i, t, (n - i) * sizeof *y);
    }
}

static void k_bf16_to_f32(float *y, const uint16_t *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_load_bf16(x + i));
    for (; i < n; i++) y[i] = cake_f32_from_bits((uint32_t)x[i] << 16);
}

static void k_rope(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t rot_dims,
                   const float *cos, const float *sin) {
    size_t h = rot_dims / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *lo = x + head * head_dim, *hi = lo + h;
        size_t i = 0;
        for (; i + 16 <= h; i += 16) {
            v16 a = v_load(lo + i), b = v_load(hi + i), c = v_load(cos + i), s = v_load(sin + i);
            v_store(lo + i, v_fma(a, c, v_mul(b, v_neg(s))));
            v_store(hi + i, v_fma(b, c, v_mul(a, s)));
        }
        for (; i < h; i++) {
            float a = lo[i], b = hi[i];
            lo[i] = __builtin_fmaf(a, cos[i], -(b * sin[i]));
            hi[i] = __builtin_fmaf(b, cos[i], a * sin[i]);
        }
    }
}

#define VEC_TABLE                                                                                  \
    {                                                                                              \
        .rmsnorm = k_rmsnorm, .add = k_add, .axpy = k_axpy, .scale = k_scale, .swiglu = k_swiglu,  \
        .geglu = k_geglu, .sigmoid_mul = k_sigmoid_mul, .silu = k_silu, .softcap = k_softcap,      \
        .dot = k_dot, .max = k_max, .max_blocks = k_max_blocks, .exp_sum = k_exp_sum,              \
        .softmax = k_softmax, .argmax = k_argmax, .exp = k_exp, .exp2_neg = k_exp2_neg,            \
        .f32_to_f16 = k_f32_to_f16, .f16_to_f32 = k_f16_to_f32, .f32_to_bf16 = k_f32_to_bf16,      \
        .bf16_to_f32 = k_bf16_to_f32, .rope = k_rope                                               \
    }
