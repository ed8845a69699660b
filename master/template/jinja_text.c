/* Python's string methods on UTF-8: see jinja_text.h. */
#include "master/template/jinja_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- characters ---- */

size_t cake_jj_utf8_next(const char *s, size_t n, uint32_t *cp) {
    const unsigned char *p = (const unsigned char *)s;
    *cp = p[0];
    if (p[0] < 0xc2 || n < 2 || (p[1] & 0xc0) != 0x80) return 1;
    if (p[0] < 0xe0) {
        *cp = (uint32_t)(p[0] & 31) << 6 | (p[1] & 63);
        return 2;
    }
    if (n < 3 || (p[2] & 0xc0) != 0x80) return 1;
    if (p[0] < 0xf0) {
        uint32_t c = (uint32_t)(p[0] & 15) << 12 | (uint32_t)(p[1] & 63) << 6 | (p[2] & 63);
        if (c < 0x800) return 1;
        *cp = c;
        return 3;
    }
    if (p[0] > 0xf4 || n < 4 || (p[3] & 0xc0) != 0x80) return 1;
    uint32_t c = (uint32_t)(p[0] & 7) << 18 | (uint32_t)(p[1] & 63) << 12 |
                 (uint32_t)(p[2] & 63) << 6 | (p[3] & 63);
    if (c < 0x10000 || c > 0x10ffff) return 1;
    *cp = c;
    return 4;
}

size_t cake_jj_utf8_put(char out[4], uint32_t cp) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 63));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 63));
        out[2] = (char)(0x80 | (cp & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 63));
    out[2] = (char)(0x80 | (cp >> 6 & 63));
    out[3] = (char)(0x80 | (cp & 63));
    return 4;
}

bool cake_jj_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static bool is_ascii(const char *s, size_t n) {
    unsigned char any = 0;
    for (size_t i = 0; i < n; i++) any |= (unsigned char)s[i];
    return any < 0x80;
}

size_t cake_jj_count_chars(const char *s, size_t n) {
    if (is_ascii(s, n)) return n;
    size_t count = 0;
    uint32_t cp;
    for (size_t i = 0; i < n; count++) i += cake_jj_utf8_next(s + i, n - i, &cp);
    return count;
}

size_t cake_jj_char_offset(const char *s, size_t n, size_t index) {
    if (is_ascii(s, n)) return index < n ? index : n;
    size_t i = 0;
    uint32_t cp;
    for (; index && i < n; index--) i += cake_jj_utf8_next(s + i, n - i, &cp);
    return i;
}

/* Start of the character that ends at byte `end`. */
static size_t prev_char(const char *s, size_t end, uint32_t *cp) {
    for (size_t back = end < 4 ? end : 4; back > 1; back--)
        if (cake_jj_utf8_next(s + end - back, back, cp) == back) return end - back;
    *cp = (unsigned char)s[end - 1];
    return end - 1;
}

/* ---- strip, find, replace, split ---- */

static bool in_set(uint32_t cp, cake_jj_value set) {
    if (set.type != JJ_STR) return cake_jj_is_space(cp);
    uint32_t c;
    for (size_t i = 0; i < set.len;) {
        i += cake_jj_utf8_next(set.u.s + i, set.len - i, &c);
        if (c == cp) return true;
    }
    return false;
}

cake_jj_value cake_jj_strip(cake_jj_value s, cake_jj_value set, bool left, bool right) {
    size_t a = 0, b = s.len;
    uint32_t cp;
    while (left && a < b) {
        size_t n = cake_jj_utf8_next(s.u.s + a, b - a, &cp);
        if (!in_set(cp, set)) break;
        a += n;
    }
    while (right && b > a) {
        size_t at = prev_char(s.u.s + a, b - a, &cp) + a;
        if (!in_set(cp, set)) break;
        b = at;
    }
    cake_jj_value v = cake_jj_str(s.u.s + a, b - a);
    v.kind = s.kind;
    return v;
}

size_t cake_jj_find(cake_jj_value s, cake_jj_value needle, size_t from) {
    if (from > s.len) return SIZE_MAX;
    if (!needle.len) return from;
    const char *p = memmem(s.u.s + from, s.len - from, needle.u.s, needle.len);
    return p ? (size_t)(p - s.u.s) : SIZE_MAX;
}

size_t cake_jj_rfind(cake_jj_value s, cake_jj_value needle) {
    if (needle.len > s.len) return SIZE_MAX;
    for (size_t i = s.len - needle.len + 1; i-- > 0;)
        if (memcmp(s.u.s + i, needle.u.s, needle.len) == 0) return i;
    return SIZE_MAX;
}

bool cake_jj_starts(cake_jj_value s, cake_jj_value prefix) {
    return s.len >= prefix.len && memcmp(s.u.s, prefix.u.s, prefix.len) == 0;
}

bool cake_jj_ends(cake_jj_value s, cake_jj_value suffix) {
    return s.len >= suffix.len && memcmp(s.u.s + s.len - suffix.len, suffix.u.s, suffix.len) == 0;
}

cake_jj_value cake_jj_replace(cake_jj *r, cake_jj_value s, cake_jj_value old, cake_jj_value new_,
                              int64_t count) {
    cake_jj_buf b = {.max = SIZE_MAX};
    size_t at = 0;
    cake_jj_step(r, s.len / 16);
    if (!old.len) { /* between all characters, and at both ends */
        while (count != 0) {
            cake_jj_put(r, &b, new_.u.s, new_.len);
            cake_jj_step(r, 1);
            if (count > 0) count--;
            if (at == s.len) break;
            uint32_t cp;
            size_t n = cake_jj_utf8_next(s.u.s + at, s.len - at, &cp);
            cake_jj_put(r, &b, s.u.s + at, n);
            at += n;
        }
    } else {
        for (size_t hit; count != 0 && (hit = cake_jj_find(s, old, at)) != SIZE_MAX;
             at = hit + old.len) {
            cake_jj_put(r, &b, s.u.s + at, hit - at);
            cake_jj_put(r, &b, new_.u.s, new_.len);
            cake_jj_step(r, 1);
            if (count > 0) count--;
        }
        if (!at) return s;
    }
    cake_jj_put(r, &b, s.u.s + at, s.len - at);
    return cake_jj_buf_str(&b);
}

cake_jj_value cake_jj_split(cake_jj *r, cake_jj_value s, cake_jj_value sep, int64_t max) {
    cake_jj_value out = cake_jj_seq_new(r, JJ_LIST, 0);
    size_t at = 0;
    cake_jj_step(r, s.len / 16);
    if (sep.type == JJ_STR) {
        for (size_t hit; max != 0 && (hit = cake_jj_find(s, sep, at)) != SIZE_MAX;
             at = hit + sep.len) {
            cake_jj_seq_add(r, out, cake_jj_str(s.u.s + at, hit - at));
            if (max > 0) max--;
        }
        cake_jj_seq_add(r, out, cake_jj_str(s.u.s + at, s.len - at));
        return out;
    }
    cake_jj_value none = {0};
    for (;;) { /* runs of whitespace */
        cake_jj_value rest = cake_jj_strip(cake_jj_str(s.u.s + at, s.len - at), none, true, false);
        if (!rest.len) return out;
        if (max == 0) {
            cake_jj_seq_add(r, out, rest);
            return out;
        }
        if (max > 0) max--;
        size_t end = 0;
        uint32_t cp;
        while (end < rest.len) {
            size_t n = cake_jj_utf8_next(rest.u.s + end, rest.len - end, &cp);
            if (cake_jj_is_space(cp)) break;
            end += n;
        }
        cake_jj_seq_add(r, out, cake_jj_str(rest.u.s, end));
        at = (size_t)(rest.u.s - s.u.s) + end;
    }
}

static void reverse(cake_jj_value seq) {
    cake_jj_seq *q = seq.u.seq;
    for (size_t i = 0, j = q->n; i + 1 < j; i++) {
        cake_jj_value t = q->v[i];
        q->v[i] = q->v[--j];
        q->v[j] = t;
    }
}

cake_jj_value cake_jj_rsplit(cake_jj *r, cake_jj_value s, cake_jj_value sep, int64_t max) {
    if (max < 0) return cake_jj_split(r, s, sep, -1);
    cake_jj_value out = cake_jj_seq_new(r, JJ_LIST, 0), none = {0};
    cake_jj_step(r, s.len / 16);
    if (sep.type == JJ_STR) {
        for (size_t hit; max > 0 && (hit = cake_jj_rfind(s, sep)) != SIZE_MAX; max--) {
            cake_jj_step(r, (s.len - hit) / 16);
            cake_jj_seq_add(r, out, cake_jj_str(s.u.s + hit + sep.len, s.len - hit - sep.len));
            s.len = (uint32_t)hit;
        }
        cake_jj_seq_add(r, out, s);
    } else {
        for (;; max--) {
            s = cake_jj_strip(s, none, false, true);
            if (!s.len) break;
            if (max == 0) {
                cake_jj_seq_add(r, out, s);
                break;
            }
            size_t at = s.len;
            uint32_t cp;
            while (at > 0) {
                size_t p = prev_char(s.u.s, at, &cp);
                if (cake_jj_is_space(cp)) break;
                at = p;
            }
            cake_jj_seq_add(r, out, cake_jj_str(s.u.s + at, s.len - at));
            s.len = (uint32_t)at;
        }
    }
    reverse(out);
    return out;
}

static bool is_line_end(uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

cake_jj_value cake_jj_splitlines(cake_jj *r, cake_jj_value s, bool keep) {
    cake_jj_value out = cake_jj_seq_new(r, JJ_LIST, 0);
    cake_jj_step(r, s.len / 16);
    size_t from = 0;
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        size_t n = cake_jj_utf8_next(s.u.s + i, s.len - i, &cp);
        if (is_line_end(cp)) {
            if (cp == '\r' && i + 1 < s.len && s.u.s[i + 1] == '\n') n = 2;
            cake_jj_seq_add(r, out, cake_jj_str(s.u.s + from, (keep ? i + n : i) - from));
            from = i + n;
        }
        i += n;
    }
    if (from < s.len) cake_jj_seq_add(r, out, cake_jj_str(s.u.s + from, s.len - from));
    return out;
}

cake_jj_value cake_jj_repeat(cake_jj *r, cake_jj_value s, int64_t times) {
    cake_jj_buf b = {.max = SIZE_MAX};
    if (s.len && times > 0) {
        if ((uint64_t)times > r->limit.memory_bytes / s.len)
            cake_jj_fail(r, CAKE_ENOSPACE, "a repeated string needs more than %zu bytes",
                         r->limit.memory_bytes);
        for (int64_t i = 0; i < times; i++) {
            cake_jj_put(r, &b, s.u.s, s.len);
            cake_jj_step(r, 1);
        }
    }
    cake_jj_value v = cake_jj_buf_str(&b);
    v.kind = s.kind;
    return v;
}

cake_jj_value cake_jj_slice_str(cake_jj *r, cake_jj_value s, int64_t start, int64_t step,
                                int64_t count) {
    cake_jj_step(r, s.len / 16);
    if (count <= 0) return cake_jj_str("", 0);
    cake_jj_value v;
    if (step == 1) {
        size_t a = cake_jj_char_offset(s.u.s, s.len, (size_t)start);
        size_t b = cake_jj_char_offset(s.u.s + a, s.len - a, (size_t)count);
        v = cake_jj_str(s.u.s + a, b);
    } else {
        cake_jj_value chars = cake_jj_iter(r, cake_jj_str(s.u.s, s.len));
        cake_jj_buf b = {.max = SIZE_MAX};
        for (int64_t i = start, k = 0; k < count; k++, i += step)
            cake_jj_put(r, &b, chars.u.seq->v[i].u.s, chars.u.seq->v[i].len);
        v = cake_jj_buf_str(&b);
    }
    v.kind = s.kind;
    return v;
}

cake_jj_value cake_jj_join(cake_jj *r, cake_jj_value sep, cake_jj_value seq) {
    cake_jj_value it = cake_jj_iter(r, seq);
    cake_jj_buf b = {.max = SIZE_MAX};
    for (size_t i = 0; i < it.u.seq->n; i++) {
        if (i) cake_jj_put(r, &b, sep.u.s, sep.len);
        cake_jj_put_str(r, &b, it.u.seq->v[i]);
        cake_jj_step(r, 1);
    }
    return cake_jj_buf_str(&b);
}

cake_jj_value cake_jj_escape_html(cake_jj *r, cake_jj_value s) {
    cake_jj_buf b = {.max = SIZE_MAX};
    for (size_t i = 0; i < s.len; i++) {
        switch (s.u.s[i]) {
        case '&': cake_jj_putz(r, &b, "&amp;"); break;
        case '<': cake_jj_putz(r, &b, "&lt;"); break;
        case '>': cake_jj_putz(r, &b, "&gt;"); break;
        case '"': cake_jj_putz(r, &b, "&#34;"); break;
        case '\'': cake_jj_putz(r, &b, "&#39;"); break;
        default: cake_jj_put(r, &b, s.u.s + i, 1);
        }
    }
    cake_jj_value v = cake_jj_buf_str(&b);
    v.kind = 1;
    return v;
}

/* ---- case ---- */

static uint32_t to_upper(uint32_t c) {
    if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
    return (uint32_t)utf8proc_toupper((utf8proc_int32_t)c);
}
static uint32_t to_lower(uint32_t c) {
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}
static uint32_t to_title(uint32_t c) {
    if (c < 0x80) return to_upper(c);
    return (uint32_t)utf8proc_totitle((utf8proc_int32_t)c);
}
static bool is_upper(uint32_t c) {
    return c < 0x80 ? c >= 'A' && c <= 'Z' : utf8proc_isupper((utf8proc_int32_t)c) != 0;
}
static bool is_lower(uint32_t c) {
    return c < 0x80 ? c >= 'a' && c <= 'z' : utf8proc_islower((utf8proc_int32_t)c) != 0;
}
static bool is_cased(uint32_t c) {
    return is_upper(c) || is_lower(c) ||
           utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LT;
}

static void put_cp(cake_jj *r, cake_jj_buf *b, uint32_t cp, char how) {
    char t[4];
    if (cp == 0xdf && (how == 'u' || how == 't')) { /* sharp s: the one common full mapping */
        cake_jj_putz(r, b, how == 'u' ? "SS" : "Ss");
        return;
    }
    cp = how == 'u' ? to_upper(cp) : how == 'l' ? to_lower(cp) : to_title(cp);
    cake_jj_put(r, b, t, cake_jj_utf8_put(t, cp));
}

/* how: u upper, l lower, c capitalize, t str.title, w Jinja's title, s swapcase */
static cake_jj_value recase(cake_jj *r, cake_jj_value s, char how) {
    cake_jj_buf b = {.max = SIZE_MAX};
    bool in_word = false;
    cake_jj_step(r, s.len);
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        size_t n = cake_jj_utf8_next(s.u.s + i, s.len - i, &cp);
        if (n == 1 && cp >= 0x80)
            cake_jj_put(r, &b, s.u.s + i, 1); /* not UTF-8: as it is */
        else if (how == 'u' || how == 'l')
            put_cp(r, &b, cp, how);
        else if (how == 's')
            put_cp(r, &b, cp, is_upper(cp) ? 'l' : 'u');
        else if (how == 'w')
            put_cp(r, &b, cp, in_word ? 'l' : 'u');
        else
            put_cp(r, &b, cp, in_word ? 'l' : 't');
        if (how == 'c') in_word = true;
        if (how == 't') in_word = is_cased(cp);
        if (how == 'w')
            in_word = !(cp == '-' || cake_jj_is_space(cp) || cp == '(' || cp == '{' || cp == '[' ||
                        cp == '<');
        i += n;
    }
    cake_jj_value v = cake_jj_buf_str(&b);
    v.kind = s.kind;
    return v;
}

cake_jj_value cake_jj_upper(cake_jj *r, cake_jj_value s) {
    return recase(r, s, 'u');
}
cake_jj_value cake_jj_lower(cake_jj *r, cake_jj_value s) {
    return recase(r, s, 'l');
}
cake_jj_value cake_jj_swapcase(cake_jj *r, cake_jj_value s) {
    return recase(r, s, 's');
}
cake_jj_value cake_jj_capitalize(cake_jj *r, cake_jj_value s) {
    return recase(r, s, 'c');
}
cake_jj_value cake_jj_title(cake_jj *r, cake_jj_value s) {
    return recase(r, s, 't');
}
cake_jj_value cake_jj_title_filter(cake_jj *r, cake_jj_value s) {
    return recase(r, s, 'w');
}

static bool all_case(cake_jj_value s, bool upper) {
    bool any = false;
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        i += cake_jj_utf8_next(s.u.s + i, s.len - i, &cp);
        if (upper ? is_lower(cp) : is_upper(cp)) return false;
        if (upper ? is_upper(cp) : is_lower(cp)) any = true;
    }
    return any;
}

bool cake_jj_is_lower(cake_jj_value s) {
    return all_case(s, false);
}
bool cake_jj_is_upper(cake_jj_value s) {
    return all_case(s, true);
}

bool cake_jj_all_of(cake_jj_value s, char what) {
    if (what == 'a' && !s.len) return true; /* isascii of "" */
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        i += cake_jj_utf8_next(s.u.s + i, s.len - i, &cp);
        utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
        bool alpha = c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
        bool digit = c == UTF8PROC_CATEGORY_ND;
        bool numeric = digit || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
        bool ok = what == 'a'   ? cp < 0x80
                  : what == 'l' ? alpha
                  : what == 'd' ? digit
                  : what == 'n' ? numeric
                  : what == 's' ? cake_jj_is_space(cp)
                                : alpha || numeric;
        if (!ok) return false;
    }
    return s.len != 0;
}

/* ---- repr ---- */

static bool printable(uint32_t cp) {
    if (cp < 0x7f) return cp >= 32;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

void cake_jj_put_quoted(cake_jj *r, cake_jj_buf *b, cake_jj_value s) {
    char q = memchr(s.u.s, '\'', s.len) && !memchr(s.u.s, '"', s.len) ? '"' : '\'';
    cake_jj_put(r, b, &q, 1);
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        size_t n = cake_jj_utf8_next(s.u.s + i, s.len - i, &cp);
        char t[16] = {'\\', 0};
        if (cp == (uint32_t)q || cp == '\\') {
            t[1] = (char)cp;
            cake_jj_put(r, b, t, 2);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            t[1] = cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't';
            cake_jj_put(r, b, t, 2);
        } else if (printable(cp) && !(n == 1 && cp >= 0x80)) {
            cake_jj_put(r, b, s.u.s + i, n);
        } else {
            snprintf(t, sizeof t,
                     cp < 0x100     ? "\\x%02x"
                     : cp < 0x10000 ? "\\u%04x"
                                    : "\\U%08x",
                     cp);
            cake_jj_putz(r, b, t);
        }
        i += n;
    }
    cake_jj_put(r, b, &q, 1);
}

void cake_jj_put_float(cake_jj *r, cake_jj_buf *b, double f) {
    if (isnan(f)) {
        cake_jj_putz(r, b, "nan");
        return;
    }
    if (isinf(f)) {
        cake_jj_putz(r, b, f < 0 ? "-inf" : "inf");
        return;
    }
    char t[40];
    int digits = 1;
    for (; digits < 17; digits++) {
        snprintf(t, sizeof t, "%.*e", digits - 1, f);
        if (strtod(t, NULL) == f) break;
    }
    snprintf(t, sizeof t, "%.*e", digits - 1, f);
    int e = atoi(strchr(t, 'e') + 1);
    if (e < -4 || e >= 16) { /* d.ddde+XX, two exponent digits at least: as C prints it */
        cake_jj_putz(r, b, t);
        return;
    }
    snprintf(t, sizeof t, "%.*f", digits - 1 - e > 1 ? digits - 1 - e : 1, f);
    cake_jj_putz(r, b, t);
}
