/* The reference of the matmul family, written to be read: the arithmetic is that of matmul.h, word
 * for word, and every other ISA must give these bits. */
#include <math.h>

#include "kernels/matmul_block.h"

static void act_quantize(cake_act *a, uint32_t tok_begin, uint32_t tok_end) {
    uint32_t blocks = (a->k + 31) / 32;
    for (uint32_t tok = tok_begin; tok < tok_end; tok++) {
        const float *x = a->x + (size_t)tok * a->ldx;
        for (uint32_t h = 0; h < blocks; h++) {
            uint32_t len = a->k - h * 32 < 32 ? a->k - h * 32 : 32;
            int8_t *q = a->q + ((size_t)(h / 2) * a->n_tok + tok) * 64 + h % 2 * 32;
            /* The maximum is taken on the bits: one order for NaN on every CPU. */
            uint32_t top = 0;
            for (uint32_t i = 0; i < len; i++) {
                uint32_t u;
                memcpy(&u, &x[h * 32 + i], 4);
                u &= 0x7fffffff;
                top = u > top ? u : top;
            }
            float scale = 0.0f;
            int32_t sum = 0, *neg16 = a->neg16 + ((size_t)h * a->n_tok + tok) * 2;
            neg16[0] = neg16[1] = 0;
            memset(q, 0, 32);
            if (top >= 0x7f800000) {
                scale = cake_bits_f32(0x7fc00000);
            } else if (top >= CAKE_ACT_TINY_BITS) {
                float max = cake_bits_f32(top), inv = 127.0f / max;
                scale = max / 127.0f;
                for (uint32_t i = 0; i < len; i++) {
                    /* Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits.
                     */
                    float v = x[h * 32 + i] * inv + 12582912.0f;
                    q[i] = (int8_t)(v - 12582912.0f);
                    sum += q[i], neg16[i / 16] -= q[i];
                }
            }
            a->scale[(size_t)h * a->n_tok + tok] = scale;
            float s32 = scale * (float)sum, *s64 = &a->sum64[(size_t)(h / 2) * a->n_tok + tok];
            a->sum32[(size_t)h * a->n_tok + tok] = s32;
            *s64 = h % 2 ? *s64 + s32 : s32;
        }
    }
}

/* One unit (1 or 2 blocks) of one tile and one token. */
static void unit_dot(const uint8_t *codes, uint32_t bits, uint32_t blocks, const cake_act *a,
                     uint32_t h0, uint32_t tok, const float *s, const float *b, float acc[16]) {
    const int8_t *q = a->q + ((size_t)(h0 / 2) * a->n_tok + tok) * 64 + h0 % 2 * 32;
    const float *sum =
        blocks == 2 ? a->sum64 + (size_t)(h0 / 2) * a->n_tok : a->sum32 + (size_t)h0 * a->n_tok;
    for (uint32_t r = 0; r < 16; r++) {
        float f = 0;
        for (uint32_t h = 0; h < blocks; h++) {
            uint8_t code[32];
            int32_t d = 0;
            cake_block_codes(codes + (size_t)h * bits * 64, bits, r, code);
            for (uint32_t i = 0; i < 32; i++) d += (int32_t)code[i] * q[h * 32 + i];
            float scale = a->scale[(size_t)(h0 + h) * a->n_tok + tok];
            f = h == 0 ? scale * (float)d : fmaf(scale, (float)d, f);
        }
        acc[r] = fmaf(s[r], f, acc[r]);
        acc[r] = fmaf(b[r], sum[tok], acc[r]);
    }
}

static void affine_tile(const cake_wspec *s, const uint8_t *p, const cake_act *a, uint32_t tok,
                        float acc[16]) {
    uint32_t unit_blocks = s->group == 32 ? 1 : 2, groups = s->k / s->group;
    size_t code_bytes = (size_t)s->group / 32 * s->bits * 64;
    for (uint32_t r = 0; r < 16; r++) acc[r] = 0;
    for (uint32_t g = 0; g < groups; g++, p += cake_group_bytes(s)) {
        float sc[16], bi[16];
        for (uint32_t r = 0; r < 16; r++) {
            sc[r] = cake_load_ftype(p + code_bytes, r, s->ftype);
            bi[r] = cake_load_ftype(p + code_bytes, 16 + r, s->ftype);
        }
        for (uint32_t b = 0; b < s->group / 32; b += unit_blocks)
            unit_dot(p + (size_t)b * s->bits * 64, s->bits, unit_blocks, a, g * (s->group / 32) + b,
                     tok, sc, bi, acc);
    }
}

/* Columns [k, k + 32) or what is left of them, of row r of the tile, decoded; returns how many. */
static uint32_t tile_weights(const cake_wspec *s, const uint8_t *p, uint32_t r, uint32_t k,
                             float w[32]) {
    if (s->kind == CAKE_W_DENSE) {
        uint32_t len = s->k - k < 32 ? s->k - k : 32;
        for (uint32_t i = 0; i < len; i++)
            w[i] = cake_load_ftype(p, (size_t)(k + i) * 16 + r, s->ftype);
        return len;
    }
    if (s->kind != CAKE_W_AFFINE) {
        cake_block_weights(s, p, k / 32, r, w);
        return s->k - k < 32 ? s->k - k : 32;
    }
    p += k / s->group * cake_group_bytes(s);
    const uint8_t *tail = p + (size_t)s->group / 32 * s->bits * 64;
    float sc = cake_load_ftype(tail, r, s->ftype), bi = cake_load_ftype(tail, 16 + r, s->ftype);
    uint8_t code[32];
    cake_block_codes(p + (size_t)(k % s->group / 32) * s->bits * 64, s->bits, r, code);
    for (uint32_t i = 0; i < 32; i++) w[i] = sc * (float)code[i] + bi;
    return 32;
}

static void f32_tile(const cake_wspec *s, const uint8_t *p, const float *x, float acc[16]) {
    for (uint32_t r = 0; r < 16; r++) {
        float part[4] = {0}, w[32];
        for (uint32_t k = 0, len; k < s->k; k += len) {
            len = tile_weights(s, p, r, k, w);
            for (uint32_t i = 0; i < len; i++) part[i % 4] = fmaf(w[i], x[k + i], part[i % 4]);
        }
        acc[r] = (part[0] + part[1]) + (part[2] + part[3]);
    }
}

static void matmul(const cake_mat *w, const cake_act *a, bool f32_mode, float *y, size_t ldy,
                   uint32_t tile_begin, uint32_t tile_end, void *scratch) {
    (void)scratch;
    const cake_wspec view = cake_as_affine(&w->spec), *s = &view;
    size_t tile_bytes = cake_packed_tile_bytes(s);
    for (uint32_t t = tile_begin; t < tile_end; t++) {
        const uint8_t *p = (const uint8_t *)w->packed + t * tile_bytes;
        uint32_t rows = s->n - t * 16 < 16 ? s->n - t * 16 : 16;
        for (uint32_t tok = 0; tok < a->n_tok; tok++) {
            float acc[16];
            if (f32_mode || s->kind == CAKE_W_DENSE)
                f32_tile(s, p, a->x + (size_t)tok * a->ldx, acc);
            else if (s->kind != CAKE_W_AFFINE)
                cake_block_tile_scalar(s, p, a, tok, 1, acc, NULL);
            else
                affine_tile(s, p, a, tok, acc);
            memcpy(y + tok * ldy + (size_t)t * 16, acc, rows * sizeof(float));
        }
    }
}

const cake_matmul_ops cake_matmul_scalar = {act_quantize, matmul};
