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

#define INLINE static inline __attribute__((always_inline))

/* 32 codes of one row, `bits` bytes times 4 of LSB-first stream, as 8 words of four bytes. */
INLINE void unpack_codes(const uint8_t *p, uint32_t bits, uint32_t c[8]) {
    uint8_t stream[36] = {0}; /* room to read words past the end */
    const uint32_t one = (1u << bits) - 1, pair = one | one << 16;
    memcpy(stream, p, bits * 4);
    for (uint32_t j = 0; j < 8; j++) {
        uint32_t w, at = j * 4 * bits;
        memcpy(&w, stream + at / 8, 4);
        w >>= at % 8;
        if (bits == 8) {
            c[j] = w;
            continue;
        }
        w = (w & ((1u << 2 * bits) - 1)) | (w >> 2 * bits) << 16; /* two codes in each half */
        c[j] = (w & pair) | (w >> bits & pair) << 8;
    }
}

/* Group by group, so that the vectors being filled stay in the nearest cache. */
INLINE void pack_affine(const cake_wspec *s, uint32_t bits, const cake_wstored *src, uint8_t *out,
                        uint32_t row0, uint32_t rows) {
    const size_t row_bytes = cake_stored_row_bytes(s), fb = cake_ftype_bytes(s->ftype);
    const size_t scale_row = cake_stored_scale_row_bytes(s), block_bytes = (size_t)bits * 64;
    const uint32_t blocks = s->group / 32, groups = s->k / s->group;
    const uint8_t *w = (const uint8_t *)src->weight + row0 * row_bytes;
    const uint8_t *sc = (const uint8_t *)src->scales + row0 * scale_row;
    const uint8_t *bi = (const uint8_t *)src->biases + row0 * scale_row;
    for (uint32_t g = 0; g < groups; g++, sc += fb, bi += fb) {
        for (uint32_t b = 0; b < blocks; b++, out += block_bytes, w += bits * 4)
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t c[8];
                unpack_codes(w + r * row_bytes, bits, c);
                cake_place_codes(out + r * 4, bits, c);
            }
        for (uint32_t r = 0; r < rows; r++) {
            memcpy(out + r * fb, sc + r * scale_row, fb);
            memcpy(out + (CAKE_TILE_ROWS + r) * fb, bi + r * scale_row, fb);
        }
        out += 2 * CAKE_TILE_ROWS * fb;
    }
}

static void pack_affine_tile(const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                             uint32_t row0, uint32_t rows) {
    switch (s->bits) {
    case 2: pack_affine(s, 2, src, out, row0, rows); break;
    case 3: pack_affine(s, 3, src, out, row0, rows); break;
    case 4: pack_affine(s, 4, src, out, row0, rows); break;
    case 5: pack_affine(s, 5, src, out, row0, rows); break;
    case 6: pack_affine(s, 6, src, out, row0, rows); break;
    default: pack_affine(s, 8, src, out, row0, rows); break;
    }
}

/* Columns in strips, so that 16 rows of input and the output share the cache. */
INLINE void pack_dense(size_t fb, uint32_t k, const uint8_t *w, uint8_t *out, uint32_t rows) {
    enum { STRIP = 64 };
    for (uint32_t k0 = 0; k0 < k; k0 += STRIP) {
        const uint32_t end = k - k0 < STRIP ? k : k0 + STRIP;
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t i = k0; i < end; i++)
                memcpy(out + ((size_t)i * CAKE_TILE_ROWS + r) * fb, w + ((size_t)r * k + i) * fb,
                       fb);
    }
}

static void pack_dense_tile(const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                            uint32_t row0, uint32_t rows) {
    const uint8_t *w = (const uint8_t *)src->weight + row0 * cake_stored_row_bytes(s);
    if (s->ftype == CAKE_F32)
        pack_dense(4, s->k, w, out, rows);
    else
        pack_dense(2, s->k, w, out, rows);
}

void cake_pack_tiles(const cake_wspec *s, const cake_wstored *src, void *packed,
                     uint32_t tile_begin, uint32_t tile_end) {
    size_t tile_bytes = cake_packed_tile_bytes(s);
    for (uint32_t t = tile_begin; t < tile_end; t++) {
        uint8_t *out = (uint8_t *)packed + t * tile_bytes;
        uint32_t row0 = t * CAKE_TILE_ROWS;
        uint32_t rows = s->n - row0 < CAKE_TILE_ROWS ? s->n - row0 : CAKE_TILE_ROWS;
        if (rows < CAKE_TILE_ROWS)
            memset(out, 0, tile_bytes);
        else /* a dense tile may end in padding */
            memset(out + tile_bytes - 64, 0, 64);
        switch (s->kind) {
        case CAKE_W_AFFINE: pack_affine_tile(s, src, out, row0, rows); break;
        case CAKE_W_DENSE: pack_dense_tile(s, src, out, row0, rows); break;
        default:
            if (cake_as_affine(s).kind == CAKE_W_AFFINE)
                cake_pack_min_block_tile(s, src, out, row0, rows);
            else
                cake_pack_block_tile(s, src, out, row0, rows);
        }
    }
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
