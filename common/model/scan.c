/* Strict JSON cursor: see scan.h. */
#include "common/model/scan.h"

#include <string.h>

bool cake_scan_fail(cake_scan *c, const char *error) {
    if (!c->error) c->error = error;
    return false;
}

void cake_scan_ws(cake_scan *c) {
    while (c->at < c->n && (c->s[c->at] == ' ' || c->s[c->at] == '\t' || c->s[c->at] == '\r' ||
                            c->s[c->at] == '\n'))
        c->at++;
}

uint8_t cake_scan_peek(cake_scan *c) {
    if (c->error) return 0;
    cake_scan_ws(c);
    return c->at < c->n ? c->s[c->at] : 0;
}

bool cake_scan_take(cake_scan *c, char ch) {
    if (c->error) return false;
    if (cake_scan_peek(c) != (uint8_t)ch || c->at >= c->n) {
        static const char *const want[] = {"'{' expected", "'}' expected", "'[' expected",
                                           "']' expected", "':' expected", "',' expected",
                                           "'\"' expected"};
        const char *p = strchr("{}[]:,\"", ch);
        return cake_scan_fail(c, p && *p ? want[p - "{}[]:,\""] : "unexpected byte");
    }
    c->at++;
    return true;
}

static int hex4(const uint8_t *p) {
    int v = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t ch = p[i];
        int d = ch >= '0' && ch <= '9'   ? ch - '0'
                : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10
                : ch >= 'A' && ch <= 'F' ? ch - 'A' + 10
                                         : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

static size_t put_utf8(char *dst, uint32_t cp) {
    uint8_t *d = (uint8_t *)dst;
    if (cp < 0x80) return d[0] = (uint8_t)cp, 1;
    if (cp < 0x800) return d[0] = (uint8_t)(0xC0 | cp >> 6), d[1] = (uint8_t)(0x80 | (cp & 63)), 2;
    if (cp < 0x10000) {
        d[0] = (uint8_t)(0xE0 | cp >> 12), d[1] = (uint8_t)(0x80 | (cp >> 6 & 63));
        return d[2] = (uint8_t)(0x80 | (cp & 63)), 3;
    }
    d[0] = (uint8_t)(0xF0 | cp >> 18), d[1] = (uint8_t)(0x80 | (cp >> 12 & 63));
    d[2] = (uint8_t)(0x80 | (cp >> 6 & 63)), d[3] = (uint8_t)(0x80 | (cp & 63));
    return 4;
}

/* Length of the well-formed UTF-8 sequence at p, 0 when there is none (Unicode table 3-7). */
static size_t utf8_len(const uint8_t *p, size_t n) {
    uint8_t a = p[0];
    if (a < 0x80) return 1;
    size_t len = a >= 0xC2 && a <= 0xDF   ? 2
                 : (a & 0xF0) == 0xE0     ? 3
                 : a >= 0xF0 && a <= 0xF4 ? 4
                                          : 0;
    if (!len || n < len) return 0;
    uint8_t lo = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80;
    uint8_t hi = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < lo || p[1] > hi) return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    return len;
}

/* The escape at c->at (after the backslash) as a code point, -1 on error. */
static int64_t escape(cake_scan *c) {
    if (c->at >= c->n) return -1;
    uint8_t ch = c->s[c->at++];
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *p = ch ? strchr(from, ch) : NULL;
    if (p) return (uint8_t)to[p - from];
    if (ch != 'u' || c->n - c->at < 4) return -1;
    int v = hex4(c->s + c->at);
    if (v < 0) return -1;
    c->at += 4;
    if (v >= 0xDC00 && v <= 0xDFFF) return -1;
    if (v < 0xD800 || v > 0xDBFF) return v;
    if (c->n - c->at < 6 || c->s[c->at] != '\\' || c->s[c->at + 1] != 'u') return -1;
    int w = hex4(c->s + c->at + 2);
    if (w < 0xDC00 || w > 0xDFFF) return -1;
    c->at += 6;
    return 0x10000 + ((v - 0xD800) << 10) + (w - 0xDC00);
}

bool cake_scan_string(cake_scan *c, char *dst, size_t *len) {
    if (!cake_scan_take(c, '"')) return false;
    size_t o = 0;
    for (;;) {
        if (c->at >= c->n) return cake_scan_fail(c, "unterminated string");
        uint8_t ch = c->s[c->at];
        if (ch == '"') break;
        if (ch < 0x20) return cake_scan_fail(c, "control character in a string");
        if (ch == '\\') {
            c->at++;
            int64_t cp = escape(c);
            if (cp < 0) return cake_scan_fail(c, "bad escape in a string");
            if (cp == 0) return cake_scan_fail(c, "NUL in a string");
            o += put_utf8(dst + o, (uint32_t)cp); /* never longer than its escape */
            continue;
        }
        size_t k = utf8_len(c->s + c->at, c->n - c->at);
        if (!k) return cake_scan_fail(c, "invalid UTF-8");
        memcpy(dst + o, c->s + c->at, k);
        c->at += k, o += k;
    }
    c->at++;
    dst[o] = 0;
    *len = o;
    return true;
}

bool cake_scan_u64(cake_scan *c, uint64_t *out) {
    if (c->error) return false;
    cake_scan_ws(c);
    size_t start = c->at;
    uint64_t v = 0;
    for (; c->at < c->n && c->s[c->at] >= '0' && c->s[c->at] <= '9'; c->at++) {
        if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
            __builtin_add_overflow(v, (uint64_t)(c->s[c->at] - '0'), &v))
            return cake_scan_fail(c, "number beyond 64 bits");
    }
    if (c->at == start) return cake_scan_fail(c, "a non-negative integer is expected");
    if (c->at - start > 1 && c->s[start] == '0') return cake_scan_fail(c, "leading zero");
    if (c->at < c->n && (c->s[c->at] == '.' || c->s[c->at] == 'e' || c->s[c->at] == 'E'))
        return cake_scan_fail(c, "fraction or exponent where an integer is expected");
    *out = v;
    return true;
}

static bool word(cake_scan *c, const char *w) {
    size_t k = strlen(w);
    if (c->n - c->at < k || memcmp(c->s + c->at, w, k) != 0) return false;
    c->at += k;
    return true;
}

bool cake_scan_null(cake_scan *c) {
    return cake_scan_peek(c) == 'n' && word(c, "null");
}

static size_t digits(cake_scan *c) {
    size_t start = c->at;
    while (c->at < c->n && c->s[c->at] >= '0' && c->s[c->at] <= '9') c->at++;
    return c->at - start;
}

static bool number(cake_scan *c) {
    if (c->s[c->at] == '-') c->at++;
    size_t start = c->at, k = digits(c);
    if (!k || (k > 1 && c->s[start] == '0')) return cake_scan_fail(c, "bad number");
    if (c->at < c->n && c->s[c->at] == '.') {
        c->at++;
        if (!digits(c)) return cake_scan_fail(c, "bad number");
    }
    if (c->at < c->n && (c->s[c->at] == 'e' || c->s[c->at] == 'E')) {
        c->at++;
        if (c->at < c->n && (c->s[c->at] == '+' || c->s[c->at] == '-')) c->at++;
        if (!digits(c)) return cake_scan_fail(c, "bad number");
    }
    return true;
}

bool cake_scan_skip(cake_scan *c, int max_depth, char *scratch) {
    uint8_t ch = cake_scan_peek(c);
    size_t len;
    if (c->error) return false;
    if (ch == '"') return cake_scan_string(c, scratch, &len);
    if (ch == '{' || ch == '[') {
        if (max_depth <= 0) return cake_scan_fail(c, "nested too deep");
        bool first = true, object = ch == '{';
        c->at++;
        while (cake_scan_next(c, object ? '}' : ']', &first)) {
            if (object && (!cake_scan_string(c, scratch, &len) || !cake_scan_take(c, ':'))) break;
            if (!cake_scan_skip(c, max_depth - 1, scratch)) break;
        }
        return !c->error;
    }
    if (ch == '-' || (ch >= '0' && ch <= '9')) return number(c);
    if (word(c, "true") || word(c, "false") || word(c, "null")) return true;
    return cake_scan_fail(c, "a value is expected");
}

bool cake_scan_next(cake_scan *c, char close, bool *first) {
    uint8_t ch = cake_scan_peek(c);
    if (c->error) return false;
    if (ch == (uint8_t)close) return c->at++, false;
    if (*first) return *first = false, true;
    return cake_scan_take(c, ',');
}

bool cake_scan_end(cake_scan *c) {
    if (c->error) return false;
    cake_scan_ws(c);
    return c->at == c->n || cake_scan_fail(c, "something follows the value");
}
