/* One group of MLX's affine encoder (formats.md 2.4), LANES weights side by side. Minimum, maximum
 * and codes of a weight do not depend on the others' order, so any number of lanes gives the same
 * bytes. Included by files that define LANES and BODY_NAME(); written in the vector extension that
 * gcc and clang share. */
#include "kernels/codec_impl.h"

#include <string.h>

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));
typedef uint64_t pairs __attribute__((vector_size(4 * LANES)));

static inline lanes all(float v) {
    return v - (lanes){0};
}

static inline lanes choose(mask m, lanes a, lanes b) {
    return (lanes)((m & (mask)a) | (~m & (mask)b));
}

static inline lanes load(const float *x) {
    lanes v;
    memcpy(&v, x, sizeof v);
    return v;
}

/* Half to even, for any v: from 2^23 on every float is an integer. */
static inline float round_any(float v) {
    if (!(cake_absf(v) < 0x1p23f)) return v;
    return v < 0 ? (v - 0x1p23f) + 0x1p23f : (v + 0x1p23f) - 0x1p23f;
}

void BODY_NAME(cake_affine_group)(uint32_t bits, uint32_t group, const float *x, uint8_t *codes,
                                  float *out_scale, float *out_bias) {
    const int n = (1 << bits) - 1;
    lanes least = all(x[0]), most = least;
    for (uint32_t i = 0; i < group; i += LANES) {
        const lanes v = load(x + i);
        least = choose(v < least, v, least);
        most = choose(v > most, v, most);
    }
    float lo = least[0], hi = most[0];
    for (uint32_t j = 1; j < LANES; j++) {
        if (least[j] < lo) lo = least[j];
        if (most[j] > hi) hi = most[j];
    }
    /* The end of larger magnitude is met exactly, and zero if the group spans it. */
    const bool negative = cake_absf(lo) > cake_absf(hi);
    float edge = negative ? lo : hi, bias = 0, scale = (hi - lo) / (float)n;
    if (!(scale > 1e-7f)) scale = 1e-7f;
    if (!negative) scale = -scale;
    const float q0 = round_any(edge / scale);
    if (q0 != 0) {
        scale = edge / q0;
        bias = edge;
    }
    *out_scale = scale;
    *out_bias = bias;
    const lanes b = all(bias), s = all(scale), top = all((float)n), zero = {0};
    uint64_t q[128 / 2];                          /* two codes each, pushed together */
    for (uint32_t i = 0; i < group; i += LANES) { /* cake_round_clamp() */
        lanes v = (load(x + i) - b) / s;
        v = choose(v < top, v, top);
        v = choose(v > zero, v, zero);
        pairs p = (pairs)((mask)(v + 0x1.8p23f) & 0xff);
        p = (p & 0xffffffffu) | p >> (32 - bits);
        memcpy(q + i / 2, &p, sizeof p);
    }
    /* Eight codes become `bits` bytes; what a store leaves beyond them the next one overwrites. */
    uint8_t packed[128 + 8];
    uint32_t at = 0;
    for (uint32_t i = 0; i < group / 2; i += 4, at += bits) {
        const uint64_t v =
            q[i] | q[i + 1] << 2 * bits | q[i + 2] << 4 * bits | q[i + 3] << 6 * bits;
        memcpy(packed + at, &v, sizeof v);
    }
    memcpy(codes, packed, at);
}
