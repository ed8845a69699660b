/* Hand-written scanners for the pre-tokenizer patterns that most models carry. Each cuts exactly as
 * its pattern does (tests/unit/test_tokenizer.c and the fuzz target hold it against PCRE2).
 *
 * The first three patterns take, at a position, the first alternative that matches:
 *   an English contraction; letters (with one leading character that is neither letter, number nor
 *   line end, or for GPT-2 one space); numbers; punctuation with one leading space (Qwen2, Llama 3:
 *   and the line ends behind it); white space up to its last line end (not GPT-2); white space
 *   without its last character when a word follows; white space. */
#include "master/tokenizer/internal.h"

#include <string.h>

const char tok_pattern_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
#define CL100K(DIGITS)                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" DIGITS                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
const char tok_pattern_qwen2[] = CL100K("\\p{N}"), tok_pattern_llama3[] = CL100K("\\p{N}{1,3}");

/* GPT-4o's (o200k) and Mistral's (Tekken) cut words by case: UPPER* lower+ or UPPER+ lower*, where
 * letters without case and marks count as both. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(CONTRACTION, DIGITS)                                                                 \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?" UPPER       \
    "+" LOWER "*" CONTRACTION "|" DIGITS                                                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
const char tok_pattern_o200k[] = CASED("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\p{N}{1,3}");
const char tok_pattern_tekken[] = CASED("", "\\p{N}");

static uint8_t ascii[128];
static const uint8_t *table;

enum { LNS = TOK_C_L | TOK_C_N | TOK_C_S };

/* Class bits of the character at s[i]; *len its bytes. */
static inline uint8_t class_at(const uint8_t *s, size_t i, size_t *len) {
    if (s[i] < 0x80) return *len = 1, ascii[s[i]];
    size_t j = i;
    uint32_t cp = tok_utf8_next(s, &j);
    *len = j - i;
    return table[cp];
}

/* End of the run of characters from i whose class has any bit of `want`. */
static inline size_t run(const uint8_t *s, size_t i, size_t n, uint8_t want) {
    while (i < n) {
        while (i < n && s[i] < 0x80 && (ascii[s[i]] & want)) i++;
        if (i >= n || s[i] < 0x80) break;
        size_t j = i;
        if (!(table[tok_utf8_next(s, &j)] & want)) break;
        i = j;
    }
    return i;
}
static inline size_t run_other(const uint8_t *s, size_t i, size_t n) {
    while (i < n) {
        while (i < n && s[i] < 0x80 && !(ascii[s[i]] & LNS)) i++;
        if (i >= n || s[i] < 0x80) break;
        size_t j = i;
        if (table[tok_utf8_next(s, &j)] & LNS) break;
        i = j;
    }
    return i;
}

/* White space from i, by \s+(?!\S)|\s+. */
static size_t space_tail(const uint8_t *s, size_t i, size_t end, size_t n) {
    if (end == n) return end;
    size_t last = tok_utf8_last(s + i, end - i) + i;
    return last > i ? last : end;
}

static inline uint8_t lower(uint8_t c) {
    return c >= 'A' && c <= 'Z' ? c | 32 : c;
}

/* After the apostrophe at s[i]: the end of 's 't 're 've 'm 'll 'd, or i. fold: any case, and
 * U+017F (long s), which folds to s. */
static inline size_t contraction(const uint8_t *s, size_t i, size_t n, bool fold) {
    if (n - i < 2) return i;
    uint8_t a = fold ? lower(s[i + 1]) : s[i + 1];
    switch (a) {
    case 's':
    case 't':
    case 'm':
    case 'd': return i + 2;
    case 0xC5: return fold && n - i >= 3 && s[i + 2] == 0xBF ? i + 3 : i;
    case 'r':
    case 'v':
    case 'l': break;
    default: return i;
    }
    if (n - i < 3) return i;
    uint8_t b = fold ? lower(s[i + 2]) : s[i + 2];
    return b == (a == 'l' ? 'l' : 'e') ? i + 3 : i;
}

static size_t scan_gpt2(const uint8_t *s, size_t i, size_t n) {
    if (s[i] == '\'') {
        size_t e = contraction(s, i, n, false);
        if (e > i) return e;
    }
    size_t j = i + (s[i] == ' '), len;
    if (j < n) {
        uint8_t c = class_at(s, j, &len);
        if (c & TOK_C_L) return run(s, j + len, n, TOK_C_L);
        if (c & TOK_C_N) return run(s, j + len, n, TOK_C_N);
        if (!(c & TOK_C_S)) return run_other(s, j + len, n);
    }
    return space_tail(s, i, run(s, i, n, TOK_C_S), n);
}

static inline size_t scan_cl100k(const uint8_t *s, size_t i, size_t n, int digits) {
    size_t len, len2;
    if (s[i] == '\'') {
        size_t e = contraction(s, i, n, true);
        if (e > i) return e;
    }
    uint8_t c = class_at(s, i, &len);
    if (c & TOK_C_L) return run(s, i + len, n, TOK_C_L);
    if (c & TOK_C_N) {
        size_t j = i + len;
        for (int k = 1; k < digits && j < n && (class_at(s, j, &len2) & TOK_C_N); k++) j += len2;
        return j;
    }
    size_t j = i + len;
    bool line_end = s[i] == '\r' || s[i] == '\n';
    uint8_t c2 = j < n ? class_at(s, j, &len2) : 0;
    if (!line_end && (c2 & TOK_C_L)) return run(s, j + len2, n, TOK_C_L);
    if (!(c & TOK_C_S) || (s[i] == ' ' && j < n && !(c2 & LNS))) {
        j = run_other(s, j, n);
        while (j < n && (s[j] == '\r' || s[j] == '\n')) j++;
        return j;
    }
    size_t end = run(s, i, n, TOK_C_S);
    for (j = end; j > i; j--)
        if (s[j - 1] == '\r' || s[j - 1] == '\n') return j;
    return space_tail(s, i, end, n);
}
static size_t scan_qwen2(const uint8_t *s, size_t i, size_t n) {
    return scan_cl100k(s, i, n, 1);
}
static size_t scan_llama3(const uint8_t *s, size_t i, size_t n) {
    return scan_cl100k(s, i, n, 3);
}

static inline bool is_upper(uint8_t c) {
    return (c & (TOK_C_UP | TOK_C_M)) || (c & (TOK_C_L | TOK_C_LO)) == TOK_C_L;
}
static inline bool is_lower(uint8_t c) {
    return (c & (TOK_C_LO | TOK_C_M)) || (c & (TOK_C_L | TOK_C_UP)) == TOK_C_L;
}

/* UPPER* LOWER+ from i (upper_first: UPPER+ LOWER*): its end, or i. */
static size_t cased_word(const uint8_t *s, size_t i, size_t n, bool upper_first) {
    size_t len, j = i, last = i; /* last: behind the last character that is both, to fall back to */
    for (; j < n; j += len) {
        uint8_t c = class_at(s, j, &len);
        if (!is_upper(c)) break;
        if (is_lower(c)) last = j + len;
    }
    if (upper_first && j == i) return i;
    size_t end = j;
    while (end < n && is_lower(class_at(s, end, &len))) end += len;
    return upper_first || end > j ? end : last;
}

static inline size_t scan_cased(const uint8_t *s, size_t i, size_t n, int digits,
                                bool contractions) {
    size_t len, len2;
    uint8_t c = class_at(s, i, &len);
    if (c & TOK_C_N) {
        size_t j = i + len;
        for (int k = 1; k < digits && j < n && (class_at(s, j, &len2) & TOK_C_N); k++) j += len2;
        return j;
    }
    if (s[i] != '\r' && s[i] != '\n') {
        /* the four ways in the pattern's order: with the leading character and without it */
        for (int way = 0; way < 4; way++) {
            bool lead = !(way & 1);
            if (lead ? (c & TOK_C_L) : !(c & (TOK_C_L | TOK_C_M))) continue;
            size_t from = lead ? i + len : i, end = cased_word(s, from, n, way >= 2);
            if (end == from) continue;
            return contractions && end < n && s[end] == '\'' ? contraction(s, end, n, true) : end;
        }
    }
    size_t j = i + (s[i] == ' ');
    if (j < n && !(class_at(s, j, &len2) & LNS)) {
        j = run_other(s, j, n);
        while (j < n && (s[j] == '\r' || s[j] == '\n' || s[j] == '/')) j++;
        return j;
    }
    size_t end = run(s, i, n, TOK_C_S);
    for (j = end; j > i; j--)
        if (s[j - 1] == '\r' || s[j - 1] == '\n') return j;
    return space_tail(s, i, end, n);
}
static size_t scan_o200k(const uint8_t *s, size_t i, size_t n) {
    return scan_cased(s, i, n, 3, true);
}
static size_t scan_tekken(const uint8_t *s, size_t i, size_t n) {
    return scan_cased(s, i, n, 1, false);
}

static void build(void) {
    table = tok_class_table();
    memcpy(ascii, table, sizeof ascii);
}

tok_scan_fn *tok_scan_for(const char *pattern, size_t len) {
    static const struct {
        const char *pattern;
        tok_scan_fn *scan;
    } known[] = {{tok_pattern_gpt2, scan_gpt2},
                 {tok_pattern_qwen2, scan_qwen2},
                 {tok_pattern_llama3, scan_llama3},
                 {tok_pattern_o200k, scan_o200k},
                 {tok_pattern_tekken, scan_tekken}};
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].pattern) == len && memcmp(known[i].pattern, pattern, len) == 0)
            return known[i].scan;
    return NULL;
}
