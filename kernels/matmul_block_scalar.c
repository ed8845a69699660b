/* Block and fp formats, the reference: the arithmetic of matmul.h, word for word. */
#include <math.h>

#include "kernels/matmul_block.h"

static const int8_t e2m1_plus_16[16] = {CAKE_E2M1_TABLE};

/* Unit of block h; *b becomes the block's place in it. */
static const uint8_t *unit_of(cake_packing_info f, const uint8_t *tile, uint32_t h, uint32_t *b) {
    *b = h % f.unit;
    return tile + (size_t)(h / f.unit) * (f.head + (size_t)f.unit * f.bits * 64);
}

/* The integers that are multiplied with q. */
static void block_ints(cake_packing p, const uint8_t *unit, uint32_t b, uint32_t row, int w[32]) {
    const cake_packing_info f = cake_packing_get(p);
    uint8_t code[32];
    cake_block_codes(unit + f.head + (size_t)b * f.bits * 64, f.bits, row, code);
    const bool table = cake_pk_e2m1(p);
    for (uint32_t i = 0; i < 32; i++) {
        if (p == CAKE_PK_MXFP8) {
            const int m = CAKE_E4M3_512(code[i] & 127);
            w[i] = code[i] & 128 ? -m : m;
        } else {
            w[i] = (table ? e2m1_plus_16[code[i]] : code[i]) - f.zero;
        }
    }
}

/* Scale of the 16 columns j of block b in a unit of the formats that are no K format. */
static float small_scale(cake_packing p, const uint8_t *unit, uint32_t b, uint32_t j,
                         uint32_t row) {
    switch (p) {
    case CAKE_PK_MXFP4: return cake_half_e8m0(unit[b * 16 + row], true);
    case CAKE_PK_MXFP4_GGUF: return cake_half_e8m0(unit[b * 16 + row], false);
    case CAKE_PK_MXFP8: return cake_e8m0(unit[b * 16 + row]) * 0x1p-9f;
    case CAKE_PK_NVFP4: return cake_e4m3_times(unit[(b * 2 + j) * 16 + row], 0x1p7f);
    default: return cake_load_ftype(unit, b * 16 + row, CAKE_F16);
    }
}

void cake_block_weights(const cake_wspec *s, const uint8_t *tile, uint32_t h, uint32_t row,
                        float w[32]) {
    const cake_packing p = cake_packing_of(s);
    uint32_t b;
    const uint8_t *unit = unit_of(cake_packing_get(p), tile, h, &b);
    if (p == CAKE_PK_MXFP8) { /* the scale itself: twice its half would overflow once too often */
        uint8_t code[32];
        const float scale = cake_e8m0(unit[b * 16 + row]);
        cake_block_codes(unit + 64 + (size_t)b * 512, 8, row, code);
        for (uint32_t i = 0; i < 32; i++) w[i] = cake_e4m3_times(code[i], 0x1p8f) * scale;
        return;
    }
    int q[32];
    block_ints(p, unit, b, row, q);
    if (p < CAKE_PK_Q2_K) {
        for (uint32_t i = 0; i < 32; i++) w[i] = (float)q[i] * small_scale(p, unit, b, i / 16, row);
        if (s->kind == CAKE_W_FP) { /* MLX keeps the sign of zero */
            uint8_t code[32];
            cake_block_codes(unit + 64 + (size_t)b * 256, 4, row, code);
            for (uint32_t i = 0; i < 32; i++)
                if (code[i] == 8) w[i] = -0.0f * small_scale(p, unit, b, i / 16, row);
        }
        return;
    }
    const cake_super k = cake_super_get(p, unit, row);
    const bool has_min = p == CAKE_PK_Q2_K || p == CAKE_PK_Q4_K || p == CAKE_PK_Q5_K;
    for (uint32_t i = 0; i < 32; i++) {
        w[i] = k.d * (float)k.sc[2 * b + i / 16] * (float)q[i];
        if (has_min) w[i] -= k.dmin * (float)k.mn[2 * b + i / 16];
    }
}

void cake_block_expand(const cake_wspec *s, const uint8_t *tile, uint32_t h0, uint32_t blocks,
                       float *out) {
    for (uint32_t h = h0; h < h0 + blocks; h++, out += 32 * 16)
        for (uint32_t r = 0; r < 16; r++) {
            float w[32];
            cake_block_weights(s, tile, h, r, w);
            for (uint32_t i = 0; i < 32; i++) out[i * 16 + r] = w[i];
        }
}

/* One row and one token. */
static float row_dot(cake_packing p, uint32_t blocks, const uint8_t *tile, const cake_act *a,
                     uint32_t tok, uint32_t row) {
    const cake_packing_info info = cake_packing_get(p);
    float acc = 0, f = 0, g = 0;
    cake_super k = {0};
    for (uint32_t h = 0; h < blocks; h++) {
        const int8_t *q = a->q + ((size_t)(h / 2) * a->n_tok + tok) * 64 + h % 2 * 32;
        const size_t at = (size_t)h * a->n_tok + tok;
        const float scale = a->scale[at];
        int w[32], d[2] = {0};
        uint32_t b;
        const uint8_t *unit = unit_of(info, tile, h, &b);
        block_ints(p, unit, b, row, w);
        for (uint32_t i = 0; i < 32; i++) d[i / 16] += w[i] * q[i];
        if (p == CAKE_PK_NVFP4) {
            f = small_scale(p, unit, b, 0, row) * (float)d[0];
            f = fmaf(small_scale(p, unit, b, 1, row), (float)d[1], f);
            acc = fmaf(scale, f, acc);
            continue;
        }
        if (p < CAKE_PK_Q2_K) {
            acc = fmaf(small_scale(p, unit, b, 0, row), scale * (float)(d[0] + d[1]), acc);
            continue;
        }
        if (b == 0) k = cake_super_get(p, unit, row), f = g = 0;
        f = fmaf(scale, (float)(k.sc[2 * b] * d[0] + k.sc[2 * b + 1] * d[1]), f);
        if (p == CAKE_PK_Q2_K) {
            const int32_t *neg = a->neg16 + at * 2;
            g = fmaf(scale, (float)(k.mn[2 * b] * neg[0] + k.mn[2 * b + 1] * neg[1]), g);
        } else if (p != CAKE_PK_Q3_K && p != CAKE_PK_Q6_K) {
            g = fmaf(a->sum32[at], (float)-k.mn[2 * b], g);
        }
        if (b == 7) {
            acc = fmaf(k.d, f, acc);
            if (p != CAKE_PK_Q3_K && p != CAKE_PK_Q6_K) acc = fmaf(k.dmin, g, acc);
        }
    }
    return acc;
}

void cake_block_tile_scalar(const cake_wspec *s, const uint8_t *tile, const cake_act *a,
                            uint32_t tok0, uint32_t n, float *acc, float *panel) {
    (void)panel;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t r = 0; r < 16; r++)
            acc[i * 16 + r] = row_dot(cake_packing_of(s), (s->k + 31) / 32, tile, a, tok0 + i, r);
}
