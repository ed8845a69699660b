/* UTF-8 and the character classes that tokenizer patterns use. */
#ifndef CAKE_MASTER_TOKENIZER_UNICODE_H
#define CAKE_MASTER_TOKENIZER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the longest well-formed prefix of s[0..n). */
size_t tok_utf8_valid(const uint8_t *s, size_t n);
/* At the first byte of something ill-formed: how many bytes one U+FFFD replaces (the maximal
 * subpart of Unicode 3.9, 1 to 3). *cut: the bytes end there and might still be completed. */
size_t tok_utf8_ill(const uint8_t *s, size_t n, bool *cut);
/* Next code point of well-formed text; *i moves on. */
static inline uint32_t tok_utf8_next(const uint8_t *s, size_t *i) {
    uint32_t c = s[*i];
    if (c < 0x80) return *i += 1, c;
    if (c < 0xE0) return *i += 2, (c & 0x1F) << 6 | (s[*i - 1] & 0x3Fu);
    if (c < 0xF0) return *i += 3, (c & 0x0F) << 12 | (s[*i - 2] & 0x3Fu) << 6 | (s[*i - 1] & 0x3Fu);
    *i += 4;
    return (c & 7) << 18 | (s[*i - 3] & 0x3Fu) << 12 | (s[*i - 2] & 0x3Fu) << 6 |
           (s[*i - 1] & 0x3Fu);
}
static inline size_t tok_utf8_len(uint8_t first) {
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}
size_t tok_utf8_put(uint32_t cp, char out[4]);
/* First byte of the last character of well-formed s[0..n), n > 0. */
static inline size_t tok_utf8_last(const uint8_t *s, size_t n) {
    size_t i = n - 1;
    while (i > 0 && (s[i] & 0xC0) == 0x80) i--;
    return i;
}

/* Bits of one code point. Every assigned or unassigned code point has at most one of L, N, S. */
enum {
    TOK_C_L = 1,   /* \p{L} */
    TOK_C_N = 2,   /* \p{N} */
    TOK_C_S = 4,   /* White_Space, Oniguruma's and Rust's \s */
    TOK_C_M = 8,   /* \p{M} */
    TOK_C_W = 16,  /* \w as the reference has it: Alphabetic, M, Nd, Pc, Join_Control */
    TOK_C_P = 32,  /* \p{P} or ASCII punctuation */
    TOK_C_UP = 64, /* \p{Lu} \p{Lt} */
    TOK_C_LO = 128 /* \p{Ll} */
};
/* One byte per code point (0x110000); built once (thread-safe), a few milliseconds. */
const uint8_t *tok_class_table(void);

#endif
