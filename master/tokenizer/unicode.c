/* UTF-8 and character classes: see unicode.h. The classes come from utf8proc (Unicode 15.0) plus
 * the characters that Unicode 15.1 and 16.0 added, since the reference classes those. */
#include "master/tokenizer/unicode.h"

#include <pthread.h>
#include <string.h>
#include <utf8proc.h>

size_t tok_utf8_valid(const uint8_t *s, size_t n) {
    size_t i = 0;
    bool cut;
    for (;;) {
        for (; i + 8 <= n; i += 8) {
            uint64_t w;
            memcpy(&w, s + i, 8);
            if (w & 0x8080808080808080u) break;
        }
        while (i < n && s[i] < 0x80) i++;
        if (i >= n) return n;
        size_t len = tok_utf8_len(s[i]);
        /* Ill-formed or a whole character: tok_utf8_ill is asked only in doubt. */
        if (s[i] < 0xC2 || s[i] > 0xF4 || len > n - i) return i;
        if ((s[i + 1] & 0xC0) != 0x80) return i;
        if (len > 2 && (s[i + 2] & 0xC0) != 0x80) return i;
        if (len > 3 && (s[i + 3] & 0xC0) != 0x80) return i;
        if ((s[i] == 0xE0 || s[i] == 0xED || s[i] == 0xF0 || s[i] == 0xF4) &&
            tok_utf8_ill(s + i, n - i, &cut) < len)
            return i;
        i += len;
    }
}

size_t tok_utf8_ill(const uint8_t *s, size_t n, bool *cut) {
    uint8_t c = s[0], lo = 0x80, hi = 0xBF;
    *cut = false;
    if (c < 0xC2 || c > 0xF4) return 1;
    size_t need = tok_utf8_len(c);
    if (c == 0xE0) lo = 0xA0;
    if (c == 0xED) hi = 0x9F;
    if (c == 0xF0) lo = 0x90;
    if (c == 0xF4) hi = 0x8F;
    for (size_t k = 1; k < need; k++) {
        if (k >= n) return *cut = true, k;
        if (s[k] < lo || s[k] > hi) return k;
        lo = 0x80, hi = 0xBF;
    }
    return need; /* well-formed after all */
}

size_t tok_utf8_put(uint32_t cp, char out[4]) {
    if (cp < 0x80) return out[0] = (char)cp, 1;
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

/* Assigned after Unicode 15.0. */
static const struct {
    uint32_t first, last, category;
} newer[] = {{0x897, 0x897, UTF8PROC_CATEGORY_MN},     {0x1C89, 0x1C89, UTF8PROC_CATEGORY_LU},
             {0x1C8A, 0x1C8A, UTF8PROC_CATEGORY_LL},   {0xA7CB, 0xA7CC, UTF8PROC_CATEGORY_LU},
             {0xA7CD, 0xA7CD, UTF8PROC_CATEGORY_LL},   {0xA7DA, 0xA7DA, UTF8PROC_CATEGORY_LU},
             {0xA7DB, 0xA7DB, UTF8PROC_CATEGORY_LL},   {0xA7DC, 0xA7DC, UTF8PROC_CATEGORY_LU},
             {0x105C0, 0x105F3, UTF8PROC_CATEGORY_LO}, {0x10D40, 0x10D49, UTF8PROC_CATEGORY_ND},
             {0x10D4A, 0x10D4F, UTF8PROC_CATEGORY_LO}, {0x10D50, 0x10D65, UTF8PROC_CATEGORY_LU},
             {0x10D69, 0x10D6D, UTF8PROC_CATEGORY_MN}, {0x10D6F, 0x10D6F, UTF8PROC_CATEGORY_LO},
             {0x10D70, 0x10D85, UTF8PROC_CATEGORY_LL}, {0x10EC2, 0x10EC4, UTF8PROC_CATEGORY_LO},
             {0x10EFC, 0x10EFC, UTF8PROC_CATEGORY_MN}, {0x11380, 0x11389, UTF8PROC_CATEGORY_LO},
             {0x1138B, 0x1138B, UTF8PROC_CATEGORY_LO}, {0x1138E, 0x1138E, UTF8PROC_CATEGORY_LO},
             {0x11390, 0x113B5, UTF8PROC_CATEGORY_LO}, {0x113B7, 0x113B7, UTF8PROC_CATEGORY_LO},
             {0x113B8, 0x113C0, UTF8PROC_CATEGORY_MN}, {0x113C2, 0x113C2, UTF8PROC_CATEGORY_MN},
             {0x113C5, 0x113C5, UTF8PROC_CATEGORY_MN}, {0x113C7, 0x113CA, UTF8PROC_CATEGORY_MN},
             {0x113CC, 0x113D0, UTF8PROC_CATEGORY_MN}, {0x113D1, 0x113D1, UTF8PROC_CATEGORY_LO},
             {0x113D2, 0x113D2, UTF8PROC_CATEGORY_MN}, {0x113D3, 0x113D3, UTF8PROC_CATEGORY_LO},
             {0x113E1, 0x113E2, UTF8PROC_CATEGORY_MN}, {0x116D0, 0x116E3, UTF8PROC_CATEGORY_ND},
             {0x11BC0, 0x11BE0, UTF8PROC_CATEGORY_LO}, {0x11BF0, 0x11BF9, UTF8PROC_CATEGORY_ND},
             {0x11F5A, 0x11F5A, UTF8PROC_CATEGORY_MN}, {0x13460, 0x143FA, UTF8PROC_CATEGORY_LO},
             {0x16100, 0x1611D, UTF8PROC_CATEGORY_LO}, {0x1611E, 0x1612F, UTF8PROC_CATEGORY_MN},
             {0x16130, 0x16139, UTF8PROC_CATEGORY_ND}, {0x16D40, 0x16D6C, UTF8PROC_CATEGORY_LO},
             {0x16D70, 0x16D79, UTF8PROC_CATEGORY_ND}, {0x18CFF, 0x18CFF, UTF8PROC_CATEGORY_LO},
             {0x1CCF0, 0x1CCF9, UTF8PROC_CATEGORY_ND}, {0x1E5D0, 0x1E5ED, UTF8PROC_CATEGORY_LO},
             {0x1E5EE, 0x1E5EF, UTF8PROC_CATEGORY_MN}, {0x1E5F0, 0x1E5F0, UTF8PROC_CATEGORY_LO},
             {0x1E5F1, 0x1E5FA, UTF8PROC_CATEGORY_ND}, {0x2EBF0, 0x2EE5D, UTF8PROC_CATEGORY_LO}};

static uint8_t classes[0x110000];

static uint8_t class_of(uint32_t cp, int category) {
    switch (category) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT: return TOK_C_L | TOK_C_W | TOK_C_UP;
    case UTF8PROC_CATEGORY_LL: return TOK_C_L | TOK_C_W | TOK_C_LO;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return TOK_C_L | TOK_C_W;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return TOK_C_M | TOK_C_W;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL: return TOK_C_N | TOK_C_W;
    case UTF8PROC_CATEGORY_NO: return TOK_C_N;
    case UTF8PROC_CATEGORY_PC: return TOK_C_P | TOK_C_W;
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return TOK_C_P;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return TOK_C_S;
    default: break;
    }
    if ((cp >= 9 && cp <= 13) || cp == 0x85) return TOK_C_S;
    if (cp == 0x200C || cp == 0x200D) return TOK_C_W;
    /* circled and squared letters: symbols, yet Alphabetic */
    if ((cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
        (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189))
        return TOK_C_W;
    if (cp < 0x80 && cp > 0x20 && cp != 0x7F) return TOK_C_P; /* $+<=>^`|~ */
    return 0;
}

static void build(void) {
    for (uint32_t cp = 0; cp < 0x110000; cp++)
        classes[cp] = class_of(cp, (int)utf8proc_category((utf8proc_int32_t)cp));
    for (size_t r = 0; r < sizeof newer / sizeof *newer; r++)
        for (uint32_t cp = newer[r].first; cp <= newer[r].last; cp++)
            classes[cp] = class_of(cp, (int)newer[r].category);
}

const uint8_t *tok_class_table(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build);
    return classes;
}
