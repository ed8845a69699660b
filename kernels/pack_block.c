/* Import of block codecs and MLX fp modes: see matmul.h for the packed layout, formats.md 3, 4 and
 * 6.4 for the stored one. Unit by unit, so that what is being filled stays in the nearest cache;
 * the 32 codes of a row are worked on four at a time, as the bytes of a u32. */
#include "kernels/matmul_block.h"

#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t load32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

#define NIBBLES 0x0f0f0f0fu
#define PAIRS   0x03030303u

/* Bits 0..3 of x to bit 0 of four bytes. */
INLINE uint32_t spread(uint32_t x) {
    return (x & 15) * 0x00204081u & 0x01010101u;
}

/* Code 8, minus zero, becomes 0: GGUF has no minus zero. */
INLINE uint32_t no_minus_zero(uint32_t c) {
    return c & (((c ^ 0x08080808u) + NIBBLES) >> 4 & 0x01010101u) * 255;
}

/* The codes of 32-column block h of stored block b. */
INLINE void stored_codes(cake_packing p, bool gguf, const uint8_t *b, uint32_t h, uint32_t c[8]) {
    const uint32_t half = h / 4, strip = h % 4;
    switch (p) {
    case CAKE_PK_Q4_0:
    case CAKE_PK_MXFP4_GGUF:
        b += p == CAKE_PK_Q4_0 ? 2 : 1;
        for (uint32_t j = 0; j < 4; j++) {
            c[j] = load32(b + 4 * j) & NIBBLES;
            c[j + 4] = load32(b + 4 * j) >> 4 & NIBBLES;
            if (p == CAKE_PK_Q4_0) continue;
            c[j] = no_minus_zero(c[j]), c[j + 4] = no_minus_zero(c[j + 4]);
        }
        break;
    case CAKE_PK_Q5_0:
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t v = load32(b + 6 + 4 * j), high = load32(b + 2);
            c[j] = (v & NIBBLES) | spread(high >> 4 * j) << 4;
            c[j + 4] = (v >> 4 & NIBBLES) | spread(high >> (4 * j + 16)) << 4;
        }
        break;
    case CAKE_PK_Q8_0:
        for (uint32_t j = 0; j < 8; j++) c[j] = load32(b + 2 + 4 * j) ^ 0x80808080u;
        break;
    case CAKE_PK_MXFP8:
        for (uint32_t j = 0; j < 8; j++) c[j] = load32(b + 4 * j);
        break;
    case CAKE_PK_NVFP4:
        if (gguf) { /* halves of 16 columns, their low nibbles first */
            for (uint32_t j = 0; j < 8; j++)
                c[j] = no_minus_zero(load32(b + 4 + 16 * h + 8 * (j / 4) + 4 * (j % 2)) >>
                                         4 * (j / 2 % 2) &
                                     NIBBLES);
            break;
        }               /* fall through */
    case CAKE_PK_MXFP4: /* columns in order, the even ones in low nibbles */
        for (uint32_t j = 0; j < 8; j++) {
            uint32_t v = (uint32_t)b[2 * j] | (uint32_t)b[2 * j + 1] << 8;
            v = (v | v << 8) & 0x00ff00ffu;
            c[j] = (v | v << 4) & NIBBLES;
        }
        break;
    case CAKE_PK_Q2_K:
        for (uint32_t j = 0; j < 8; j++)
            c[j] = load32(b + 16 + 32 * half + 4 * j) >> 2 * strip & PAIRS;
        break;
    case CAKE_PK_Q3_K:
        for (uint32_t j = 0; j < 8; j++)
            c[j] = (load32(b + 32 + 32 * half + 4 * j) >> 2 * strip & PAIRS) |
                   (load32(b + 4 * j) >> h & 0x01010101u) << 2;
        break;
    case CAKE_PK_Q4_K:
        for (uint32_t j = 0; j < 8; j++)
            c[j] = load32(b + 16 + 32 * (h / 2) + 4 * j) >> 4 * (h % 2) & NIBBLES;
        break;
    case CAKE_PK_Q5_K:
        for (uint32_t j = 0; j < 8; j++)
            c[j] = (load32(b + 48 + 32 * (h / 2) + 4 * j) >> 4 * (h % 2) & NIBBLES) |
                   (load32(b + 16 + 4 * j) >> h & 0x01010101u) << 4;
        break;
    default: /* q6_k */
        for (uint32_t j = 0; j < 8; j++)
            c[j] = (load32(b + 64 * half + 32 * (strip % 2) + 4 * j) >> 4 * (strip / 2) & NIBBLES) |
                   (load32(b + 128 + 32 * half + 4 * j) >> 2 * strip & PAIRS) << 4;
    }
}

/* Words 0..3 of a row in the head of the formats whose six-bit values leave 32 bits over. */
INLINE void put_head_words(uint8_t *lane, const uint32_t v[4], uint32_t spare) {
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t w = v[i] | (spare << 2 * i & 0xc0c0c0c0u);
        memcpy(lane + i * 64, &w, 4);
    }
}

/* The head of a unit of the K formats, of row r, from stored block b. */
INLINE void pack_super(cake_packing p, const uint8_t *b, uint8_t *head, uint32_t r) {
    uint8_t *lane = head + r * 4;
    uint32_t v[4] = {0};
    if (p == CAKE_PK_Q4_K || p == CAKE_PK_Q5_K) {
        const uint32_t s0 = load32(b + 4), s1 = load32(b + 8), s2 = load32(b + 12);
        v[0] = s0 & 0x3f3f3f3fu;
        v[1] = (s2 & NIBBLES) | (s0 >> 6 & PAIRS) << 4;
        v[2] = s1 & 0x3f3f3f3fu;
        v[3] = (s2 >> 4 & NIBBLES) | (s1 >> 6 & PAIRS) << 4;
        put_head_words(lane, v, load32(b));
        return;
    }
    uint8_t sub[16]; /* of each 16 columns */
    if (p == CAKE_PK_Q2_K) {
        memcpy(sub, b, 16);
        memcpy(head + 256 + r * 4, b + 80, 4);
    } else if (p == CAKE_PK_Q6_K) {
        memcpy(sub, b + 192, 16);
        memcpy(head + 256 + r * 2, b + 208, 2);
    } else {
        const uint8_t *s = b + 96;
        for (uint32_t j = 0; j < 16; j++)
            sub[j] =
                (uint8_t)((s[j % 8] >> 4 * (j / 8) & 15) | (s[8 + j % 4] >> 2 * (j / 4) & 3) << 4);
    }
    for (uint32_t j = 0; j < 16; j++) v[j / 4] |= (uint32_t)sub[j] << 8 * (j / 2 % 2 + j % 2 * 2);
    if (p == CAKE_PK_Q3_K)
        put_head_words(lane, v, (uint32_t)b[108] | (uint32_t)b[109] << 8);
    else
        for (uint32_t i = 0; i < 4; i++) memcpy(lane + i * 64, &v[i], 4);
}

/* GGUF ignores the sign of a scale; 0x7f alone is zero. */
INLINE uint8_t gguf_e4m3(uint8_t e) {
    return e == 0x7f ? 0 : e & 0x7f;
}

INLINE void pack(cake_packing p, bool gguf, const cake_wspec *s, const cake_wstored *src,
                 uint8_t *out, uint32_t row0, uint32_t rows) {
    const cake_packing_info f = cake_packing_get(p);
    const size_t row_bytes = cake_stored_row_bytes(s), scale_row = cake_stored_scale_row_bytes(s);
    const uint32_t blocks = (s->k + 31) / 32;
    const cake_codec_info *codec = s->kind == CAKE_W_BLOCK ? cake_codec_get(s->codec) : NULL;
    const uint32_t per_stored = codec ? codec->weights / 32 : 1; /* blocks of 32 columns */
    const size_t stored_bytes = codec ? codec->bytes : f.bits * 4;
    for (uint32_t h0 = 0; h0 < blocks; h0 += f.unit) {
        const uint32_t len = blocks - h0 < f.unit ? blocks - h0 : f.unit;
        memset(out, 0, f.head);
        for (uint32_t r = 0; r < rows; r++) {
            const uint8_t *w = (const uint8_t *)src->weight + (row0 + r) * row_bytes;
            const uint8_t *sc =
                scale_row ? (const uint8_t *)src->scales + (row0 + r) * scale_row : NULL;
            if (p >= CAKE_PK_Q2_K) pack_super(p, w + h0 / 8 * stored_bytes, out, r);
            for (uint32_t b = 0; b < len; b++) {
                const uint32_t h = h0 + b;
                const uint8_t *from = w + h / per_stored * stored_bytes;
                uint8_t half[16] = {0};
                uint32_t c[8];
                if (p == CAKE_PK_NVFP4) {
                    const bool odd = !gguf && s->k - h * 32 < 32; /* a last half block */
                    if (odd) memcpy(half, from, 8), from = half;
                    for (uint32_t j = 0; j < (odd ? 1u : 2u); j++)
                        out[(b * 2 + j) * 16 + r] =
                            gguf ? gguf_e4m3(from[h % 2 * 2 + j]) : sc[h * 2 + j];
                } else if (p == CAKE_PK_MXFP4 || p == CAKE_PK_MXFP8) {
                    out[b * 16 + r] = sc[h];
                } else if (p == CAKE_PK_MXFP4_GGUF) {
                    out[b * 16 + r] = from[0];
                } else if (p < CAKE_PK_Q2_K) {
                    memcpy(out + (b * 16 + r) * 2, from, 2);
                }
                stored_codes(p, gguf, from, h % per_stored, c);
                cake_place_codes(out + f.head + (size_t)b * f.bits * 64 + r * 4, f.bits, c);
            }
        }
        out += f.head + (size_t)len * f.bits * 64;
    }
}

void cake_pack_block_tile(const cake_wspec *s, const cake_wstored *src, uint8_t *out, uint32_t row0,
                          uint32_t rows) {
    switch (cake_packing_of(s)) {
#define CASE(p)                                                                                    \
    case p: pack(p, false, s, src, out, row0, rows); break
        CASE(CAKE_PK_Q4_0);
        CASE(CAKE_PK_Q5_0);
        CASE(CAKE_PK_Q8_0);
        CASE(CAKE_PK_MXFP4);
        CASE(CAKE_PK_MXFP4_GGUF);
        CASE(CAKE_PK_MXFP8);
        CASE(CAKE_PK_Q2_K);
        CASE(CAKE_PK_Q3_K);
        CASE(CAKE_PK_Q4_K);
        CASE(CAKE_PK_Q5_K);
        CASE(CAKE_PK_Q6_K);
#undef CASE
    default:
        if (s->kind == CAKE_W_BLOCK)
            pack(CAKE_PK_NVFP4, true, s, src, out, row0, rows);
        else
            pack(CAKE_PK_NVFP4, false, s, src, out, row0, rows);
    }
}

/* q4_1 and q5_1 lie packed as affine, group 32, f16: `out` as pack_affine() leaves it. */
INLINE void pack_one(uint32_t bits, const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                     uint32_t row0, uint32_t rows) {
    const size_t row_bytes = cake_stored_row_bytes(s), bytes = bits == 4 ? 20 : 24;
    for (uint32_t g = 0; g < s->k / 32; g++, out += bits * 64 + 64)
        for (uint32_t r = 0; r < rows; r++) {
            const uint8_t *b = (const uint8_t *)src->weight + (row0 + r) * row_bytes + g * bytes;
            uint32_t c[8];
            /* after its second half, a block is that of q4_0 or q5_0 */
            stored_codes(bits == 4 ? CAKE_PK_Q4_0 : CAKE_PK_Q5_0, false, b + 2, 0, c);
            cake_place_codes(out + r * 4, bits, c);
            memcpy(out + bits * 64 + r * 2, b, 2);
            memcpy(out + bits * 64 + 32 + r * 2, b + 2, 2);
        }
}

void cake_pack_min_block_tile(const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                              uint32_t row0, uint32_t rows) {
    if (s->codec == CAKE_CODEC_Q4_1)
        pack_one(4, s, src, out, row0, rows);
    else
        pack_one(5, s, src, out, row0, rows);
}
