/* Import of one tile, LANES rows side by side: see matmul.h for the packed layout, formats.md 2 to
 * 4 and 6.4 for the stored ones. Included by files that define LANES and BODY_NAME(); written in
 * the vector extension that gcc and clang share, so that one source is every ISA's.
 *
 * A lane is a row, as in the packed vectors: 16 bytes of every row are loaded and transposed into
 * four vectors of words, and from there on the codes of all rows take the same shifts and masks,
 * four at a time as the bytes of a u32. What is being filled, a unit of the packed layout, stays in
 * the nearest cache and leaves it in whole lines past the caches: nobody reads it soon, and a line
 * that is not fetched before it is overwritten saves a third of the traffic. */
#include "kernels/matmul_block.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if LANES == 1
typedef uint32_t words;
#else
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(4 * LANES)));
typedef uint32_t quad __attribute__((vector_size(16)));
#endif

/* ---- rows in, vectors out ---- */

/* Four bytes of LANES rows, `row` bytes apart. */
INLINE words load1(const uint8_t *p, size_t row) {
    words w;
    uint32_t v[LANES];
    for (size_t r = 0; r < LANES; r++) memcpy(&v[r], p + r * row, 4);
    memcpy(&w, v, sizeof w);
    return w;
}

/* Two bytes of LANES rows. */
INLINE words load_half(const uint8_t *p, size_t row) {
    words w;
    uint32_t v[LANES];
    for (size_t r = 0; r < LANES; r++) {
        uint16_t h;
        memcpy(&h, p + r * row, 2);
        v[r] = h;
    }
    memcpy(&w, v, sizeof w);
    return w;
}

/* Sixteen bytes of LANES rows as four words. */
#if LANES == 1
INLINE void load4(const uint8_t *p, size_t row, words w[4]) {
    (void)row;
    memcpy(w, p, 16);
}
#else
INLINE quad load_quad(const uint8_t *p) {
    quad q;
    memcpy(&q, p, 16);
    return q;
}
/* The bytes of every 16 of a vector in one order. Then the halves of two vectors, 16 bytes by 16
 * bytes, word by word or two words by two; and of every fourth row 16 bytes, side by side. */
#define ORDER(at, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                                  \
    at + a, at + b, at + c, at + d, at + e, at + f, at + g, at + h, at + i, at + j, at + k,        \
        at + l, at + m, at + n, at + o, at + p
#define SHUFFLE(v, ...) (words) __builtin_shufflevector((bytes)(v), (bytes)(v), __VA_ARGS__)
#if LANES == 4
#define EVERY_QUAD(v, ...) SHUFFLE(v, __VA_ARGS__)
#define LOW(a, b)          __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH(a, b)         __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define LOW_TWO(a, b)      __builtin_shufflevector(a, b, 0, 1, 4, 5)
#define HIGH_TWO(a, b)     __builtin_shufflevector(a, b, 2, 3, 6, 7)
INLINE words load_rows(const uint8_t *p, size_t row) {
    (void)row;
    return load_quad(p);
}
#elif LANES == 8
#define EVERY_QUAD(v, ...) SHUFFLE(v, ORDER(0, __VA_ARGS__), ORDER(16, __VA_ARGS__))
#define LOW(a, b)          __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH(a, b)         __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_TWO(a, b)      __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_TWO(a, b)     __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
INLINE words load_rows(const uint8_t *p, size_t row) {
    return __builtin_shufflevector(load_quad(p), load_quad(p + 4 * row), 0, 1, 2, 3, 4, 5, 6, 7);
}
#else
#define EVERY_QUAD(v, ...)                                                                         \
    SHUFFLE(v, ORDER(0, __VA_ARGS__), ORDER(16, __VA_ARGS__), ORDER(32, __VA_ARGS__),              \
            ORDER(48, __VA_ARGS__))
#define LOW(a, b)                                                                                  \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH(a, b)                                                                                 \
    __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_TWO(a, b)                                                                              \
    __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_TWO(a, b)                                                                             \
    __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
INLINE words load_rows(const uint8_t *p, size_t row) {
    return __builtin_shufflevector(
        __builtin_shufflevector(load_quad(p), load_quad(p + 4 * row), 0, 1, 2, 3, 4, 5, 6, 7),
        __builtin_shufflevector(load_quad(p + 8 * row), load_quad(p + 12 * row), 0, 1, 2, 3, 4, 5,
                                6, 7),
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif
INLINE void load4(const uint8_t *p, size_t row, words w[4]) {
    const words a = load_rows(p, row), b = load_rows(p + row, row), c = load_rows(p + 2 * row, row),
                d = load_rows(p + 3 * row, row);
    const words ab = LOW(a, b), cd = LOW(c, d), ab2 = HIGH(a, b), cd2 = HIGH(c, d);
    w[0] = LOW_TWO(ab, cd), w[1] = HIGH_TWO(ab, cd);
    w[2] = LOW_TWO(ab2, cd2), w[3] = HIGH_TWO(ab2, cd2);
}
#endif

INLINE void load8(const uint8_t *p, size_t row, words w[8]) {
    load4(p, row, w), load4(p + 16, row, w + 4);
}

INLINE void put(uint8_t *out, words v) {
    memcpy(out, &v, sizeof v);
}

/* The low halves. */
INLINE void put_halves(uint8_t *out, words v) {
#if LANES == 1
    memcpy(out, &v, 2);
#else
    const halves h = __builtin_convertvector(v, halves);
    memcpy(out, &h, sizeof h);
#endif
}

/* Bytes 0..n-1 of each word, [n][16]. */
INLINE void put_bytes(uint8_t *out, words v, uint32_t n) {
#if LANES == 1
    for (uint32_t i = 0; i < n; i++) out[i * CAKE_TILE_ROWS] = (uint8_t)(v >> 8 * i);
#else
    v = EVERY_QUAD(v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (uint32_t q = 0; q < LANES; q += 4)
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t four = v[q + i];
            memcpy(out + i * CAKE_TILE_ROWS + q, &four, 4);
        }
#endif
}

/* The bytes of each word in the order 0, 2, 1, 3. */
INLINE words swap_middle(words v) {
#if LANES == 1
    return (v & 0xff0000ffu) | (v & 0xff00u) << 8 | (v >> 8 & 0xff00u);
#else
    return EVERY_QUAD(v, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
#endif
}

/* n is a multiple of 64, `to` and `from` are aligned to it. */
INLINE void stream(uint8_t *to, const uint8_t *from, size_t n) {
#if defined(__AVX512F__)
    for (size_t i = 0; i < n; i += 64)
        _mm512_stream_si512((void *)(to + i), _mm512_load_si512(from + i));
#elif defined(__AVX2__)
    for (size_t i = 0; i < n; i += 32)
        _mm256_stream_si256((void *)(to + i), _mm256_load_si256((const void *)(from + i)));
#else
    memcpy(to, from, n);
#endif
}

/* Have n bytes from p on come nearer: the rows of a tile follow each other in memory, so while one
 * tile is packed the next is read from end to end, as memory likes best. */
INLINE const uint8_t *read_ahead(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 64) __builtin_prefetch(p + i, 0, 2);
    return p + n;
}

/* ---- codes ---- */

#define NIBBLES 0x0f0f0f0fu
#define PAIRS   0x03030303u
#define ONES    0x01010101u

/* Place 32 codes of each row into its lane of the block's vectors. */
INLINE void place(uint8_t *lane, uint32_t bits, const words c[8]) {
    words out[8];
#define F(j, shift, mask) (c[j] >> (shift) & (mask)*ONES)
    for (uint32_t j = 0; j < 8; j++) out[j] = c[j];
    switch (bits) {
    case 2:
        for (uint32_t i = 0; i < 2; i++)
            out[i] = c[i] | c[i + 2] << 2 | c[i + 4] << 4 | c[i + 6] << 6;
        break;
    case 3:
        out[0] = c[0] | c[3] << 3 | F(6, 0, 3) << 6;
        out[1] = c[1] | c[4] << 3 | F(7, 0, 3) << 6;
        out[2] = c[2] | c[5] << 3 | F(6, 2, 1) << 6 | F(7, 2, 1) << 7;
        break;
    case 4:
        for (uint32_t i = 0; i < 4; i++) out[i] = c[i] | c[i + 4] << 4;
        break;
    case 5:
        for (uint32_t i = 0; i < 3; i++) out[i] |= F(i + 5, 0, 7) << 5;
        out[3] |= F(5, 3, 3) << 5 | F(7, 3, 1) << 7;
        out[4] |= F(6, 3, 3) << 5 | F(7, 4, 1) << 7;
        break;
    case 6:
        for (uint32_t i = 0; i < 6; i++) out[i] |= F(6 + i / 3, i % 3 * 2, 3) << 6;
        break;
    default: break;
    }
#undef F
    for (uint32_t i = 0; i < bits; i++) put(lane + i * 64, out[i]);
}

/* Place 32 codes in column order, four bits each. */
INLINE void place_nibbles(uint8_t *lane, const words w[4]) {
    for (uint32_t i = 0; i < 2; i++) { /* even columns, odd columns */
        const words even = (w[i] & NIBBLES) | (w[i + 2] & NIBBLES) << 4;
        const words odd = (w[i] >> 4 & NIBBLES) | (w[i + 2] & ~NIBBLES);
        put(lane + 2 * i * 64, swap_middle((even & 0xffff) | odd << 16));
        put(lane + (2 * i + 1) * 64, swap_middle(even >> 16 | (odd & 0xffff0000u)));
    }
}

/* Bits 2..3 and 6..7 of the two low bytes change places with bits 0..1 and 4..5 of the others. */
INLINE words swap_pairs(words v) {
    const words other = (v >> 14 ^ v) & 0xccccu;
    return swap_middle(v ^ other ^ other << 14);
}

/* Place 32 codes in column order, two bits each. */
INLINE void place_pairs(uint8_t *lane, const words w[2]) {
    /* of every four columns the first two, the last two; then of the even fours and the odd ones */
    const words a = swap_pairs((w[0] & NIBBLES) | (w[1] & NIBBLES) << 4);
    const words b = swap_pairs((w[0] >> 4 & NIBBLES) | (w[1] & ~NIBBLES));
    put(lane, (a & 0xffff) | b << 16);
    put(lane + 64, a >> 16 | (b & 0xffff0000u));
}

/* Bits [at, at + n) of a stream of words, moved to bit `to`. */
INLINE words stream_bits(const words *w, uint32_t at, uint32_t n, uint32_t to) {
    const uint32_t i = at / 32, from = at % 32, mask = ((1u << n) - 1) << to;
    words v = from > to ? w[i] >> (from - to) : w[i] << (to - from);
    if (from + n > 32) v |= w[i + 1] << (32 - from + to);
    return v & mask;
}

/* Code 8, minus zero, becomes 0 in every nibble: GGUF has no minus zero. */
INLINE words no_minus_zero(words c) {
    return c & (((c & 0x77 * ONES) + 0x77 * ONES) | 0x77 * ONES);
}

/* Bits 0..3 of x to bit 4 of four bytes. */
INLINE words fifth_bits(words x) {
    return (x & 15) * 0x02040810u & 0x10 * ONES;
}

/* ---- affine: two groups at a time, whose scales are neighbours ---- */

/* The words of two blocks at p, not a byte beyond them. */
INLINE void load_pair(uint32_t bits, const uint8_t *p, size_t row, words *w) {
    for (uint32_t i = 0; i + 4 <= 2 * bits; i += 4) load4(p + 4 * i, row, w + i);
    if (bits % 2 != 0) load4(p + 8 * bits - 16, row, w + 2 * bits - 4);
}

/* Place a block of `bits` words. */
INLINE void place_stream(uint32_t bits, const words *w, uint8_t *lane) {
    const uint32_t one = (1u << bits) - 1;
    words c[8];
    switch (bits) {
    case 2: place_pairs(lane, w); return;
    case 4: place_nibbles(lane, w); return;
    case 8: place(lane, 8, w); return;
    default: break;
    }
    for (uint32_t j = 0; j < 8; j++) { /* two codes in each half, then one in each byte */
        const uint32_t at = j * 4 * bits;
        const words two =
            stream_bits(w, at, 2 * bits, 0) | stream_bits(w, at + 2 * bits, 2 * bits, 16);
        if (bits == 3) /* what is moved does not meet what is kept */
            c[j] = (two | two << 5) & one * ONES;
        else
            c[j] = (two & (one | one << 16)) | (two << (8 - bits) & (one << 8 | one << 24));
    }
    place(lane, bits, c);
}

/* The scales, or the biases, of n groups, `stride` bytes apart. */
INLINE void put_scales(const uint8_t *p, size_t row, cake_ftype type, uint32_t n, uint8_t *out,
                       size_t stride) {
    if (type == CAKE_F32) {
        for (uint32_t i = 0; i < n; i++) put(out + i * stride, load1(p + i * 4, row));
        return;
    }
    const words v = n == 2 ? load1(p, row) : load_half(p, row);
    put_halves(out, v);
    if (n == 2) put_halves(out + stride, v >> 16);
}

INLINE void affine(uint32_t bits, const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                   uint32_t row0, uint32_t rows) {
    const size_t row = cake_stored_row_bytes(s), fb = cake_ftype_bytes(s->ftype);
    const size_t scale_row = cake_stored_scale_row_bytes(s);
    const uint32_t groups = s->k / s->group, per_group = s->group / 32;
    const size_t code_bytes = (size_t)per_group * bits * 64,
                 group_bytes = code_bytes + 2 * CAKE_TILE_ROWS * fb;
    const uint8_t *w = (const uint8_t *)src->weight + row0 * row;
    const uint8_t *sc = (const uint8_t *)src->scales + row0 * scale_row;
    const uint8_t *bi = (const uint8_t *)src->biases + row0 * scale_row;
    const uint8_t *next = w + CAKE_TILE_ROWS * row, *next_sc = sc + CAKE_TILE_ROWS * scale_row,
                  *next_bi = bi + CAKE_TILE_ROWS * scale_row;
    uint8_t unit[2 * (4 * 8 * 64 + 2 * 64)] __attribute__((aligned(64)));
    memset(unit, 0, 2 * group_bytes);
    for (uint32_t g = 0; g < groups; g += 2, sc += 2 * fb, bi += 2 * fb) {
        const uint32_t n = groups - g < 2 ? 1 : 2;
        next = read_ahead(next, n * code_bytes);
        next_sc = read_ahead(next_sc, n * CAKE_TILE_ROWS * fb);
        next_bi = read_ahead(next_bi, n * CAKE_TILE_ROWS * fb);
        for (uint32_t b = 0; b < n * per_group; b += 2, w += 2 * bits * 4) {
            uint8_t *first = unit + b / per_group * group_bytes + b % per_group * bits * 64;
            uint8_t *second = per_group == 1 ? first + group_bytes : first + bits * 64;
            for (uint32_t r = 0; r < rows; r += LANES) {
                words v[16];
                if (b + 1 < n * per_group) {
                    load_pair(bits, w + r * row, row, v);
                    place_stream(bits, v + bits, second + r * 4);
                } else { /* the last block of a row, alone: as the first of two, from a copy */
                    uint8_t last[64 * LANES];
                    for (size_t i = 0; i < LANES; i++)
                        memcpy(last + i * 64, w + (r + i) * row, bits * 4);
                    load_pair(bits, last, 64, v);
                }
                place_stream(bits, v, first + r * 4);
            }
        }
        for (uint32_t r = 0; r < rows; r += LANES) {
            uint8_t *to = unit + code_bytes + r * fb;
            put_scales(sc + r * scale_row, scale_row, s->ftype, n, to, group_bytes);
            put_scales(bi + r * scale_row, scale_row, s->ftype, n, to + CAKE_TILE_ROWS * fb,
                       group_bytes);
        }
        stream(out, unit, n * group_bytes);
        out += n * group_bytes;
    }
}

/* ---- dense: columns in strips ---- */

INLINE void dense(size_t fb, const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                  uint32_t row0, uint32_t rows) {
    enum { STRIP = 32 };
    const size_t row = s->k * fb;
    const uint8_t *w = (const uint8_t *)src->weight + row0 * row;
    const uint8_t *next = w + CAKE_TILE_ROWS * row;
    uint8_t strip[STRIP * CAKE_TILE_ROWS * 4] __attribute__((aligned(64))) = {0};
    for (uint32_t k0 = 0; k0 < s->k; k0 += STRIP) {
        const uint32_t n = s->k - k0 < STRIP ? s->k - k0 : STRIP, per = 16 / (uint32_t)fb;
        const size_t column = CAKE_TILE_ROWS * fb;
        next = read_ahead(next, n * column);
        if (n % 2 != 0) memset(strip + n * column, 0, column); /* a tile may end in padding */
        for (uint32_t r = 0; r < rows; r += LANES) {
            const uint8_t *from = w + r * row + k0 * fb;
            uint8_t *to = strip + r * fb;
            uint32_t i = 0;
            for (; i + per <= n; i += per) {
                words v[4];
                load4(from + i * fb, row, v);
                for (uint32_t j = 0; j < 4; j++)
                    if (fb == 4) {
                        put(to + (i + j) * column, v[j]);
                    } else {
                        put_halves(to + (i + 2 * j) * column, v[j]);
                        put_halves(to + (i + 2 * j + 1) * column, v[j] >> 16);
                    }
            }
            for (; i < n; i++)
                if (fb == 4)
                    put(to + i * column, load1(from + i * fb, row));
                else
                    put_halves(to + i * column, load_half(from + i * fb, row));
        }
        const size_t filled = (n * column + 63) & ~(size_t)63;
        stream(out, strip, filled);
        out += filled;
    }
}

/* ---- block codecs and fp modes: unit by unit ---- */

/* Blocks of 32 columns whose codes lie in the same words. */
INLINE uint32_t window_of(cake_packing p) {
    switch (p) {
    case CAKE_PK_Q2_K:
    case CAKE_PK_Q3_K:
    case CAKE_PK_Q6_K: return 4;
    case CAKE_PK_Q4_K:
    case CAKE_PK_Q5_K: return 2;
    default: return 1;
    }
}

/* The words of the window that begins with 32-column block h of stored block b. */
INLINE void load_window(cake_packing p, bool gguf, const uint8_t *b, size_t row, uint32_t h,
                        words w[24]) {
    switch (p) {
    case CAKE_PK_Q4_0: load4(b + 2, row, w); break;
    case CAKE_PK_Q5_0: /* and the 32 high bits */
        load4(b, row, w + 4);
        load4(b + 6, row, w);
        w[4] = w[4] >> 16 | w[5] << 16;
        break;
    case CAKE_PK_Q8_0: load8(b + 2, row, w); break;
    case CAKE_PK_MXFP8: load8(b, row, w); break;
    case CAKE_PK_MXFP4:
    case CAKE_PK_MXFP4_GGUF:
    case CAKE_PK_NVFP4:
        load4(p == CAKE_PK_MXFP4_GGUF ? b + 1 : gguf ? b + 4 + 16 * h : b, row, w);
        for (uint32_t i = 0; i < 4; i++)
            if (gguf || p == CAKE_PK_MXFP4_GGUF) w[i] = no_minus_zero(w[i]);
        break;
    case CAKE_PK_Q2_K: load8(b + 16 + 8 * h, row, w); break;
    case CAKE_PK_Q3_K: load8(b + 32 + 8 * h, row, w); break;
    case CAKE_PK_Q4_K: load8(b + 16 + 16 * h, row, w); break;
    case CAKE_PK_Q5_K: load8(b + 48 + 16 * h, row, w); break;
    default: /* q6_k */
        load8(b + 16 * h, row, w);
        load8(b + 16 * h + 32, row, w + 8);
        load8(b + 128 + 8 * h, row, w + 16);
    }
}

/* Place block i of the window that w holds, which is block h of the stored one. `high` has a bit of
 * every code of the stored block. */
INLINE void place_block(cake_packing p, bool gguf, const words *w, const words *high, uint32_t i,
                        uint32_t h, uint8_t *lane) {
    words c[8];
    if (p == CAKE_PK_MXFP4 || (p == CAKE_PK_NVFP4 && !gguf)) {
        place_nibbles(lane, w);
        return;
    }
    switch (p) {
    case CAKE_PK_Q4_0:
    case CAKE_PK_Q5_0:
    case CAKE_PK_MXFP4_GGUF:
        for (uint32_t j = 0; j < 8; j++) {
            c[j] = w[j % 4] >> 4 * (j / 4) & NIBBLES;
            if (p == CAKE_PK_Q5_0) c[j] |= fifth_bits(w[4] >> 4 * j);
        }
        break;
    case CAKE_PK_Q8_0:
        for (uint32_t j = 0; j < 8; j++) c[j] = w[j] ^ 0x80 * ONES;
        break;
    case CAKE_PK_MXFP8:
        for (uint32_t j = 0; j < 8; j++) c[j] = w[j];
        break;
    case CAKE_PK_NVFP4: /* halves of 16 columns, their low nibbles first */
        for (uint32_t j = 0; j < 8; j++) c[j] = w[2 * (j / 4) + j % 2] >> 4 * (j / 2 % 2) & NIBBLES;
        break;
    case CAKE_PK_Q2_K:
        for (uint32_t j = 0; j < 8; j++) c[j] = w[j] >> 2 * i & PAIRS;
        break;
    case CAKE_PK_Q3_K:
        for (uint32_t j = 0; j < 8; j++)
            c[j] = (w[j] >> 2 * i & PAIRS) | (high[j] >> h & ONES) << 2;
        break;
    case CAKE_PK_Q4_K:
        for (uint32_t j = 0; j < 8; j++) c[j] = w[j] >> 4 * i & NIBBLES;
        break;
    case CAKE_PK_Q5_K:
        for (uint32_t j = 0; j < 8; j++)
            c[j] = (w[j] >> 4 * i & NIBBLES) | (high[j] >> h & ONES) << 4;
        break;
    default: /* q6_k */
        for (uint32_t j = 0; j < 8; j++)
            c[j] = (w[i % 2 * 8 + j] >> 4 * (i / 2) & NIBBLES) | (w[16 + j] >> 2 * i & PAIRS) << 4;
    }
    place(lane, cake_packing_get(p).bits, c);
}

/* Words 0..3 of the head of the formats whose six-bit values leave 32 bits over. */
INLINE void put_head_words(uint8_t *lane, const words v[4], words spare) {
    for (uint32_t i = 0; i < 4; i++) put(lane + i * 64, v[i] | (spare << 2 * i & 0xc0 * ONES));
}

/* The head of a unit of the K formats, from stored block b. */
INLINE void put_super(cake_packing p, const uint8_t *b, size_t row, uint8_t *head, uint32_t r) {
    uint8_t *lane = head + r * 4;
    words v[4], w[4];
    switch (p) {
    case CAKE_PK_Q4_K:
    case CAKE_PK_Q5_K:
        load4(b, row, w);
        v[0] = w[1] & 0x3f * ONES;
        v[1] = (w[3] & NIBBLES) | (w[1] >> 6 & PAIRS) << 4;
        v[2] = w[2] & 0x3f * ONES;
        v[3] = (w[3] >> 4 & NIBBLES) | (w[2] >> 6 & PAIRS) << 4;
        put_head_words(lane, v, w[0]);
        break;
    case CAKE_PK_Q3_K: /* the last 14 bytes are the scales and d; the halves of words are taken */
        load4(b + 94, row, w);
        for (uint32_t i = 0; i < 3; i++) w[i] = w[i] >> 16 | w[i + 1] << 16;
        for (uint32_t i = 0; i < 4; i++)
            v[i] = swap_middle((w[i % 2] >> 4 * (i / 2) & NIBBLES) | (w[2] >> 2 * i & PAIRS) << 4);
        put_head_words(lane, v, w[3] >> 16);
        break;
    default: /* q2_k and q6_k; d and dmin, d are the last bytes of the block */
        load4(p == CAKE_PK_Q2_K ? b : b + 192, row, v);
        for (uint32_t i = 0; i < 4; i++) put(lane + i * 64, swap_middle(v[i]));
        load4(p == CAKE_PK_Q2_K ? b + 68 : b + 194, row, w);
        if (p == CAKE_PK_Q2_K)
            put(lane + 256, w[3]);
        else
            put_halves(head + 256 + r * 2, w[3] >> 16);
    }
}

/* GGUF ignores the sign of a scale; 0x7f alone is zero. Four of them. */
INLINE words gguf_e4m3(words e) {
    const words other = e ^ 0x7f * ONES;
    const words some = (((other & 0x7f * ONES) + 0x7f * ONES) | other) >> 7 & ONES;
    return e & ((some << 7) - some);
}

/* The scale bytes of up to four groups; where there are fewer, zeros. */
INLINE void put_scale_bytes(bool gguf, const uint8_t *p, size_t row, uint32_t n, uint8_t *head) {
    words v;
    if (n >= 4) {
        v = load1(p, row);
    } else {
        uint32_t some[LANES] = {0};
        for (size_t r = 0; r < LANES; r++) memcpy(&some[r], p + r * row, n);
        memcpy(&v, some, sizeof v);
    }
    if (gguf) v = gguf_e4m3(v);
    put_bytes(head, v, 4);
}

INLINE void block(cake_packing p, bool gguf, const cake_wspec *s, const cake_wstored *src,
                  uint8_t *out, uint32_t row0, uint32_t rows) {
    const cake_packing_info f = cake_packing_get(p);
    const size_t row = cake_stored_row_bytes(s), scale_row = cake_stored_scale_row_bytes(s);
    const uint32_t blocks = (s->k + 31) / 32, window = window_of(p);
    const cake_codec_info *codec = s->kind == CAKE_W_BLOCK ? cake_codec_get(s->codec) : NULL;
    const uint32_t per_stored = codec ? codec->weights / 32 : 1; /* blocks of 32 columns */
    const size_t stored_bytes = codec ? codec->bytes : f.bits * 4;
    const uint8_t *weight = (const uint8_t *)src->weight + row0 * row;
    const uint8_t *scales = scale_row ? (const uint8_t *)src->scales + row0 * scale_row : NULL;
    const size_t per_group = p == CAKE_PK_NVFP4 ? 16 : 32;
    const uint8_t *next = weight + CAKE_TILE_ROWS * row,
                  *next_sc = scale_row ? scales + CAKE_TILE_ROWS * scale_row : NULL;
    uint8_t unit[320 + 8 * 6 * 64] __attribute__((aligned(64)));
    memset(unit, 0, rows < CAKE_TILE_ROWS ? sizeof unit : f.head);
    for (uint32_t h0 = 0; h0 < blocks; h0 += f.unit) {
        const uint32_t len = blocks - h0 < f.unit ? blocks - h0 : f.unit;
        if (len < f.unit) memset(unit, 0, f.head);
        next = read_ahead(next, len * CAKE_TILE_ROWS * stored_bytes / per_stored);
        if (scale_row) next_sc = read_ahead(next_sc, len * CAKE_TILE_ROWS * 32 / per_group);
        for (uint32_t r = 0; r < rows; r += LANES) {
            const uint8_t *w = weight + r * row;
            words high[8];
            if (cake_pk_super(p)) {
                const uint8_t *b = w + h0 / 8 * stored_bytes;
                if (p == CAKE_PK_Q3_K || p == CAKE_PK_Q5_K)
                    load8(p == CAKE_PK_Q3_K ? b : b + 16, row, high);
            } else if (scale_row) {
                const size_t g = h0 * 32 / per_group;
                put_scale_bytes(false, scales + r * scale_row + g, scale_row,
                                (uint32_t)(scale_row - g), unit + r);
            } else if (p == CAKE_PK_NVFP4) {
                put_scale_bytes(true, w + h0 / per_stored * stored_bytes, row, 4, unit + r);
            }
            for (uint32_t b = 0; b < len; b += window) {
                const uint32_t h = h0 + b, in_stored = h % per_stored;
                const uint8_t *from = w + h / per_stored * stored_bytes;
                uint8_t last[16 * LANES];
                words v[24];
                if (p == CAKE_PK_NVFP4 && !gguf && s->k - h * 32 < 32) { /* half a block */
                    memset(last, 0, sizeof last);
                    for (size_t i = 0; i < LANES; i++) memcpy(last + i * 16, from + i * row, 8);
                    load_window(p, gguf, last, 16, 0, v);
                } else {
                    load_window(p, gguf, from, row, in_stored, v);
                }
                if (!cake_pk_super(p) && !scale_row && p != CAKE_PK_NVFP4) {
                    words first[4];
                    load4(from, row, first);
                    if (p == CAKE_PK_MXFP4_GGUF)
                        put_bytes(unit + b * 16 + r, first[0], 1);
                    else
                        put_halves(unit + (b * 16 + r) * 2, first[0]);
                }
                CAKE_UNROLL(4)
                for (uint32_t i = 0; i < window; i++)
                    place_block(p, gguf, v, high, i, in_stored + i,
                                unit + f.head + (b + i) * f.bits * 64 + r * 4);
            }
            /* Last, for where its bytes are those at the end: memory is read as it lies. */
            if (cake_pk_super(p)) put_super(p, w + h0 / 8 * stored_bytes, row, unit, r);
        }
        stream(out, unit, f.head + (size_t)len * f.bits * 64);
        out += f.head + (size_t)len * f.bits * 64;
    }
}

/* q4_1 and q5_1 lie packed as affine, group 32, f16. After its second half, a block is that of q4_0
 * or q5_0. */
INLINE void min_block(cake_packing p, const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                      uint32_t row0, uint32_t rows) {
    const uint32_t bits = cake_packing_get(p).bits;
    const size_t row = cake_stored_row_bytes(s), stored_bytes = bits * 4 + 4;
    const uint8_t *w = (const uint8_t *)src->weight + row0 * row;
    const uint8_t *next = w + CAKE_TILE_ROWS * row;
    uint8_t unit[5 * 64 + 64] __attribute__((aligned(64))) = {0};
    for (uint32_t g = 0; g < s->k / 32; g++, w += stored_bytes, out += bits * 64 + 64) {
        next = read_ahead(next, CAKE_TILE_ROWS * stored_bytes);
        for (uint32_t r = 0; r < rows; r += LANES) {
            const uint8_t *from = w + r * row;
            words v[24], first[4];
            load_window(p, false, from + 2, row, 0, v);
            place_block(p, false, v, NULL, 0, 0, unit + r * 4);
            load4(from, row, first);
            put_halves(unit + bits * 64 + r * 2, first[0]);
            put_halves(unit + bits * 64 + 32 + r * 2, first[0] >> 16);
        }
        stream(out, unit, bits * 64 + 64);
    }
}

INLINE void tile(const cake_wspec *s, const cake_wstored *src, uint8_t *out, uint32_t row0,
                 uint32_t rows) {
    if (s->kind == CAKE_W_DENSE) {
        if (s->ftype == CAKE_F32)
            dense(4, s, src, out, row0, rows);
        else
            dense(2, s, src, out, row0, rows);
        return;
    }
    if (s->kind == CAKE_W_AFFINE) {
        switch (s->bits) {
        case 2: affine(2, s, src, out, row0, rows); break;
        case 3: affine(3, s, src, out, row0, rows); break;
        case 4: affine(4, s, src, out, row0, rows); break;
        case 5: affine(5, s, src, out, row0, rows); break;
        case 6: affine(6, s, src, out, row0, rows); break;
        default: affine(8, s, src, out, row0, rows); break;
        }
        return;
    }
    if (cake_as_affine(s).kind == CAKE_W_AFFINE) {
        if (s->codec == CAKE_CODEC_Q4_1)
            min_block(CAKE_PK_Q4_0, s, src, out, row0, rows);
        else
            min_block(CAKE_PK_Q5_0, s, src, out, row0, rows);
        return;
    }
    switch (cake_packing_of(s)) {
#define CASE(p)                                                                                    \
    case p: block(p, false, s, src, out, row0, rows); break
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
            block(CAKE_PK_NVFP4, true, s, src, out, row0, rows);
        else
            block(CAKE_PK_NVFP4, false, s, src, out, row0, rows);
    }
}

void BODY_NAME(cake_pack_tile)(const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                               uint32_t row0, uint32_t rows) {
    tile(s, src, out, row0, rows);
#if defined(__AVX2__)
    _mm_sfence(); /* streamed stores keep no order with the one that says it is done */
#endif
}
