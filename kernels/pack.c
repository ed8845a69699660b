/* Packed weights: sizes, import from the stored form, decoding of one row. Layout in matmul.h. */
#include "kernels/matmul_impl.h"

bool cake_wspec_valid(const cake_wspec *s) {
    if (s->n == 0 || s->n > CAKE_W_MAX_N || s->k == 0 || s->k > CAKE_W_MAX_K) return false;
    if ((unsigned)s->ftype >= CAKE_FTYPE_COUNT) return false;
    switch (s->kind) {
    case CAKE_W_DENSE: return true;
    case CAKE_W_AFFINE:
        if (s->group != 32 && s->group != 64 && s->group != 128) return false;
        if (s->bits < 2 || s->bits > 8 || s->bits == 7) return false;
        return s->k % s->group == 0;
    }
    return false;
}

size_t cake_stored_row_bytes(const cake_wspec *s) {
    if (s->kind == CAKE_W_DENSE) return (size_t)s->k * cake_ftype_bytes(s->ftype);
    return (size_t)s->k / 8 * s->bits; /* k is a multiple of 32 */
}

size_t cake_stored_scale_row_bytes(const cake_wspec *s) {
    return s->kind == CAKE_W_DENSE ? 0 : s->k / s->group * cake_ftype_bytes(s->ftype);
}

uint32_t cake_tiles(const cake_wspec *s) {
    return (s->n + CAKE_TILE_ROWS - 1) / CAKE_TILE_ROWS;
}

size_t cake_packed_tile_bytes(const cake_wspec *s) {
    if (s->kind == CAKE_W_DENSE) {
        size_t bytes = (size_t)s->k * CAKE_TILE_ROWS * cake_ftype_bytes(s->ftype);
        return (bytes + 63) & ~(size_t)63;
    }
    return s->k / s->group * cake_group_bytes(s);
}

size_t cake_packed_bytes(const cake_wspec *s) {
    return cake_tiles(s) * cake_packed_tile_bytes(s);
}

/* 32 codes of one row from `bits` little-endian u32 words of LSB-first stream. */
static void unpack_codes(const uint8_t *p, uint32_t bits, uint8_t c[32]) {
    uint64_t have = 0;
    uint32_t n_have = 0, mask = (1u << bits) - 1;
    for (uint32_t i = 0; i < 32; i++) {
        if (n_have < bits) {
            uint32_t w;
            memcpy(&w, p, 4);
            p += 4;
            have |= (uint64_t)w << n_have;
            n_have += 32;
        }
        c[i] = (uint8_t)(have & mask);
        have >>= bits;
        n_have -= bits;
    }
}

/* Place 32 codes of one row into its lane of the block's vectors. */
static void place_codes(uint8_t *v, uint32_t bits, uint32_t row, const uint8_t code[32]) {
    uint8_t *lane = v + row * 4;
    for (uint32_t t = 0; t < 4; t++, lane++) {
        uint32_t c[8], out[8];
        for (uint32_t j = 0; j < 8; j++) out[j] = c[j] = code[4 * j + t];
        switch (bits) {
        case 2:
            for (uint32_t i = 0; i < 2; i++)
                out[i] = c[i] | c[i + 2] << 2 | c[i + 4] << 4 | c[i + 6] << 6;
            break;
        case 3:
            out[0] = c[0] | c[3] << 3 | (c[6] & 3) << 6;
            out[1] = c[1] | c[4] << 3 | (c[7] & 3) << 6;
            out[2] = c[2] | c[5] << 3 | (c[6] >> 2) << 6 | (c[7] >> 2) << 7;
            break;
        case 4:
            for (uint32_t i = 0; i < 4; i++) out[i] = c[i] | c[i + 4] << 4;
            break;
        case 5:
            for (uint32_t i = 0; i < 3; i++) out[i] |= (c[i + 5] & 7) << 5;
            out[3] |= (c[5] >> 3) << 5 | (c[7] >> 3 & 1) << 7;
            out[4] |= (c[6] >> 3) << 5 | (c[7] >> 4) << 7;
            break;
        case 6:
            for (uint32_t i = 0; i < 6; i++) out[i] |= (c[6 + i / 3] >> i % 3 * 2 & 3) << 6;
            break;
        default: break;
        }
        for (uint32_t i = 0; i < bits; i++) lane[i * 64] = (uint8_t)out[i];
    }
}

static void pack_affine_tile(const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                             uint32_t row0, uint32_t rows) {
    size_t row_bytes = cake_stored_row_bytes(s), fb = cake_ftype_bytes(s->ftype);
    size_t scale_row = cake_stored_scale_row_bytes(s);
    uint32_t blocks = s->group / 32, groups = s->k / s->group;
    for (uint32_t r = 0; r < rows; r++) {
        const uint8_t *w = (const uint8_t *)src->weight + (size_t)(row0 + r) * row_bytes;
        const uint8_t *sc = (const uint8_t *)src->scales + (size_t)(row0 + r) * scale_row;
        const uint8_t *bi = (const uint8_t *)src->biases + (size_t)(row0 + r) * scale_row;
        uint8_t *g_out = out;
        for (uint32_t g = 0; g < groups; g++, g_out += cake_group_bytes(s)) {
            uint8_t *v = g_out;
            for (uint32_t b = 0; b < blocks; b++, v += (size_t)s->bits * 64, w += s->bits * 4) {
                uint8_t c[32];
                unpack_codes(w, s->bits, c);
                place_codes(v, s->bits, r, c);
            }
            memcpy(v + r * fb, sc + g * fb, fb);
            memcpy(v + (CAKE_TILE_ROWS + r) * fb, bi + g * fb, fb);
        }
    }
}

static void pack_dense_tile(const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                            uint32_t row0, uint32_t rows) {
    size_t fb = cake_ftype_bytes(s->ftype);
    for (uint32_t r = 0; r < rows; r++) {
        const uint8_t *w = (const uint8_t *)src->weight + (size_t)(row0 + r) * s->k * fb;
        for (uint32_t k = 0; k < s->k; k++)
            memcpy(out + ((size_t)k * CAKE_TILE_ROWS + r) * fb, w + k * fb, fb);
    }
}

void cake_pack_tiles(const cake_wspec *s, const cake_wstored *src, void *packed,
                     uint32_t tile_begin, uint32_t tile_end) {
    size_t tile_bytes = cake_packed_tile_bytes(s);
    for (uint32_t t = tile_begin; t < tile_end; t++) {
        uint8_t *out = (uint8_t *)packed + t * tile_bytes;
        uint32_t row0 = t * CAKE_TILE_ROWS;
        uint32_t rows = s->n - row0 < CAKE_TILE_ROWS ? s->n - row0 : CAKE_TILE_ROWS;
        if (rows < CAKE_TILE_ROWS || s->kind == CAKE_W_DENSE) memset(out, 0, tile_bytes);
        if (s->kind == CAKE_W_DENSE)
            pack_dense_tile(s, src, out, row0, rows);
        else
            pack_affine_tile(s, src, out, row0, rows);
    }
}

void cake_mat_row(const cake_mat *w, uint32_t row, float *out) {
    const cake_wspec *s = &w->spec;
    const uint8_t *p =
        (const uint8_t *)w->packed + row / CAKE_TILE_ROWS * cake_packed_tile_bytes(s);
    uint32_t r = row % CAKE_TILE_ROWS;
    if (s->kind == CAKE_W_DENSE) {
        for (uint32_t k = 0; k < s->k; k++)
            out[k] = cake_load_ftype(p, (size_t)k * CAKE_TILE_ROWS + r, s->ftype);
        return;
    }
    size_t code_bytes = (size_t)s->group / 32 * s->bits * 64;
    for (uint32_t g = 0; g < s->k / s->group; g++, p += cake_group_bytes(s)) {
        float sc = cake_load_ftype(p + code_bytes, r, s->ftype);
        float bi = cake_load_ftype(p + code_bytes, CAKE_TILE_ROWS + r, s->ftype);
        for (uint32_t i = 0; i < s->group; i++)
            *out++ = sc * (float)cake_block_code(p + (size_t)(i / 32) * s->bits * 64, s->bits, r,
                                                 i % 32) +
                     bi;
    }
}
