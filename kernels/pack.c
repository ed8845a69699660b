/* Packed weights: sizes, import from the stored form, decoding of one row. Layout in matmul.h. */
#include "kernels/matmul_block.h"

bool cake_wspec_valid(const cake_wspec *s) {
    if (s->n == 0 || s->n > CAKE_W_MAX_N || s->k == 0 || s->k > CAKE_W_MAX_K) return false;
    if ((unsigned)s->ftype >= CAKE_FTYPE_COUNT) return false;
    const cake_codec_info *codec = cake_codec_get(s->codec);
    const cake_fp_info *fp = cake_fp_get(s->fp);
    switch (s->kind) {
    case CAKE_W_DENSE: return true;
    case CAKE_W_AFFINE:
        if (s->group != 32 && s->group != 64 && s->group != 128) return false;
        if (s->bits < 2 || s->bits > 8 || s->bits == 7) return false;
        return s->k % s->group == 0;
    case CAKE_W_BLOCK: return codec && s->k % codec->weights == 0;
    case CAKE_W_FP: return fp && s->k % fp->group == 0;
    }
    return false;
}

size_t cake_stored_row_bytes(const cake_wspec *s) {
    switch (s->kind) {
    case CAKE_W_AFFINE: return (size_t)s->k / 8 * s->bits; /* k is a multiple of 32 */
    case CAKE_W_BLOCK: return cake_codec_row_bytes(s->codec, s->k);
    case CAKE_W_FP: return (size_t)s->k * cake_fp_get(s->fp)->bits / 8;
    default: return (size_t)s->k * cake_ftype_bytes(s->ftype);
    }
}

size_t cake_stored_scale_row_bytes(const cake_wspec *s) {
    switch (s->kind) {
    case CAKE_W_AFFINE: return s->k / s->group * cake_ftype_bytes(s->ftype);
    case CAKE_W_FP: return s->k / cake_fp_get(s->fp)->group;
    default: return 0;
    }
}

uint32_t cake_tiles(const cake_wspec *s) {
    return (s->n + CAKE_TILE_ROWS - 1) / CAKE_TILE_ROWS;
}

size_t cake_packed_tile_bytes(const cake_wspec *spec) {
    const cake_wspec view = cake_as_affine(spec), *s = &view;
    if (s->kind == CAKE_W_BLOCK || s->kind == CAKE_W_FP) return cake_packing_tile_bytes(s);
    if (s->kind == CAKE_W_DENSE) {
        size_t bytes = (size_t)s->k * CAKE_TILE_ROWS * cake_ftype_bytes(s->ftype);
        return (bytes + 63) & ~(size_t)63;
    }
    return s->k / s->group * cake_group_bytes(s);
}

size_t cake_packed_bytes(const cake_wspec *s) {
    return cake_tiles(s) * cake_packed_tile_bytes(s);
}

static cake_pack_tile *pack_tile_for(cake_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case CAKE_ISA_AVX2: return cake_pack_tile_avx2;
    case CAKE_ISA_AVX512: return cake_pack_tile_avx512;
#elif defined(__aarch64__)
    case CAKE_ISA_NEON: return cake_pack_tile_neon;
#endif
    default: return cake_pack_tile_scalar;
    }
}

void cake_pack_tiles_for(cake_isa isa, const cake_wspec *s, const cake_wstored *src, void *packed,
                         uint32_t tile_begin, uint32_t tile_end) {
    const size_t tile_bytes = cake_packed_tile_bytes(s);
    for (uint32_t t = tile_begin; t < tile_end; t++) {
        const uint32_t row0 = t * CAKE_TILE_ROWS;
        const uint32_t rows = s->n - row0 < CAKE_TILE_ROWS ? s->n - row0 : CAKE_TILE_ROWS;
        pack_tile_for(rows == CAKE_TILE_ROWS ? isa : CAKE_ISA_SCALAR)(
            s, src, (uint8_t *)packed + t * tile_bytes, row0, rows);
    }
}

void cake_pack_tiles(const cake_wspec *s, const cake_wstored *src, void *packed,
                     uint32_t tile_begin, uint32_t tile_end) {
    cake_pack_tiles_for(cake_cpu_isa(), s, src, packed, tile_begin, tile_end);
}

void cake_mat_row(const cake_mat *w, uint32_t row, float *out) {
    const cake_wspec view = cake_as_affine(&w->spec), *s = &view;
    const uint8_t *p =
        (const uint8_t *)w->packed + row / CAKE_TILE_ROWS * cake_packed_tile_bytes(s);
    uint32_t r = row % CAKE_TILE_ROWS;
    if (s->kind == CAKE_W_DENSE) {
        for (uint32_t k = 0; k < s->k; k++)
            out[k] = cake_load_ftype(p, (size_t)k * CAKE_TILE_ROWS + r, s->ftype);
        return;
    }
    if (s->kind != CAKE_W_AFFINE) {
        for (uint32_t k = 0; k < s->k; k += 32) {
            float v[32];
            cake_block_weights(s, p, k / 32, r, v);
            memcpy(out + k, v, (s->k - k < 32 ? s->k - k : 32) * sizeof(float));
        }
        return;
    }
    size_t code_bytes = (size_t)s->group / 32 * s->bits * 64;
    for (uint32_t g = 0; g < s->k / s->group; g++, p += cake_group_bytes(s)) {
        float sc = cake_load_ftype(p + code_bytes, r, s->ftype);
        float bi = cake_load_ftype(p + code_bytes, CAKE_TILE_ROWS + r, s->ftype);
        for (uint32_t b = 0; b < s->group / 32; b++) {
            uint8_t code[32];
            cake_block_codes(p + (size_t)b * s->bits * 64, s->bits, r, code);
            for (uint32_t i = 0; i < 32; i++) *out++ = sc * (float)code[i] + bi;
        }
    }
}
