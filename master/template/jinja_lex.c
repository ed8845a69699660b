/* The lexer of the template engine.
 *
 * White space: with trim_blocks the newline right after a block or comment goes; with lstrip_blocks
 * so does white space between the start of a line and a block or comment; `-` strips all white
 * space on its side, `+` keeps it. One newline at the very end of the source is dropped, and every
 * kind of newline reads as \n. */
#include "master/template/jinja_lex.h"
#include "master/template/jinja_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    cake_jj *r;
    const char *s;
    size_t n, at;
    uint32_t line;
    cake_jj_token *tok;
    size_t n_tok, cap;
    bool line_start; /* the last tag ended with a newline, or nothing came yet */
} lexer;

static cake_jj_token *push(lexer *x, cake_jj_token_type type, uint32_t line) {
    if (x->n_tok == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 256;
        cake_jj_token *t = cake_jj_alloc(x->r, cap * sizeof *t);
        if (x->n_tok) memcpy(t, x->tok, x->n_tok * sizeof *t);
        x->tok = t;
        x->cap = cap;
    }
    x->tok[x->n_tok] = (cake_jj_token){.type = type, .line = line};
    return &x->tok[x->n_tok++];
}

static bool at(const lexer *x, const char *z) {
    size_t n = strlen(z);
    return x->n - x->at >= n && memcmp(x->s + x->at, z, n) == 0;
}

static void count_lines(lexer *x, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) x->line += x->s[i] == '\n';
}

/* \r\n and \r become \n; the last newline goes. */
static void normalise(lexer *x, const char *s, size_t n) {
    char *p = cake_jj_alloc(x->r, n + 1);
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\r') {
            p[k++] = '\n';
            if (i + 1 < n && s[i + 1] == '\n') i++;
        } else {
            p[k++] = s[i];
        }
    }
    if (k && p[k - 1] == '\n') k--;
    p[k] = 0;
    x->s = p;
    x->n = k;
}

static size_t skip_space(const lexer *x, size_t i) {
    uint32_t cp;
    while (i < x->n) {
        size_t k = cake_jj_utf8_next(x->s + i, x->n - i, &cp);
        if (!cake_jj_is_space(cp)) break;
        i += k;
    }
    return i;
}

/* Text from x->at to `end`, where a tag with this sign begins. print: the tag is {{. */
static void push_text(lexer *x, size_t end, char sign, bool print) {
    cake_jj_value text = cake_jj_str(x->s + x->at, end - x->at), none = {0};
    if (sign == '-') {
        text = cake_jj_strip(text, none, false, true);
    } else if (sign != '+' && !print) {
        size_t from = text.len;
        while (from && text.u.s[from - 1] != '\n') from--;
        if (from || x->line_start) {
            cake_jj_value tail = cake_jj_str(text.u.s + from, text.len - from);
            if (!cake_jj_strip(tail, none, true, false).len) text.len = (uint32_t)from;
        }
    }
    if (text.len) push(x, JT_TEXT, x->line)->value = text;
    count_lines(x, x->at, end);
}

/* x->at is behind the sign of a closing delimiter: its two characters go, then white space. */
static void close_tag(lexer *x, char sign, bool trim_newline) {
    size_t from = x->at;
    x->at += 2;
    if (sign == '-')
        x->at = skip_space(x, x->at);
    else if (sign != '+' && trim_newline && x->at < x->n && x->s[x->at] == '\n')
        x->at++;
    x->line_start = x->s[x->at - 1] == '\n';
    count_lines(x, from, x->at);
}

static char sign_at(const lexer *x, size_t i) {
    return i < x->n && (x->s[i] == '-' || x->s[i] == '+') ? x->s[i] : 0;
}

static void comment(lexer *x) {
    if (x->at >= x->n) return; /* "{#" at the very end: Jinja lets it pass */
    for (size_t i = x->at; i + 1 < x->n; i++) {
        if (x->s[i] != '#' || x->s[i + 1] != '}') continue;
        char sign = i > x->at ? sign_at(x, i - 1) : 0;
        count_lines(x, x->at, i);
        x->at = i;
        close_tag(x, sign, true);
        return;
    }
    cake_jj_fail(x->r, CAKE_EFORMAT, "a comment is never closed with #}");
}

/* ---- inside a tag ---- */

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

static bool name_char(uint32_t cp, bool first) {
    if (cp == '_' || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z')) return true;
    if (cp >= '0' && cp <= '9') return !first;
    char t[4];
    return cp >= 0x80 && cake_jj_all_of(cake_jj_str(t, cake_jj_utf8_put(t, cp)), first ? 'l' : 'w');
}

static int hex(char c) {
    if (digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Digits of base into *v; '_' may separate them. */
static size_t scan_digits(lexer *x, size_t i, int base, uint64_t *v) {
    *v = 0;
    for (; i < x->n; i++) {
        if (x->s[i] == '_' && i + 1 < x->n && hex(x->s[i + 1]) >= 0) continue;
        int d = hex(x->s[i]);
        if (d < 0 || d >= base) break;
        if (__builtin_mul_overflow(*v, (uint64_t)base, v) ||
            __builtin_add_overflow(*v, (uint64_t)d, v) || *v > INT64_MAX)
            cake_jj_fail(x->r, CAKE_EUNSUPPORTED, "an integer beyond 64 bits");
    }
    return i;
}

static size_t decimal_run(const lexer *x, size_t i) {
    while (i < x->n && (digit(x->s[i]) || (x->s[i] == '_' && i + 1 < x->n && digit(x->s[i + 1]))))
        i++;
    return i;
}

static void number(lexer *x, bool after_dot) {
    cake_jj_token *t = push(x, JT_NUMBER, x->line);
    char second = x->at + 1 < x->n ? x->s[x->at + 1] | 32 : 0;
    int base = x->s[x->at] != '0' ? 10
               : second == 'x'    ? 16
               : second == 'o'    ? 8
               : second == 'b'    ? 2
                                  : 10;
    size_t end = decimal_run(x, x->at), i = end;
    bool real = false;
    if (base == 10 && !after_dot) { /* after a dot "0.1" is two subscripts */
        if (i + 1 < x->n && x->s[i] == '.' && digit(x->s[i + 1]))
            i = decimal_run(x, i + 1), real = true;
        if (i + 1 < x->n && (x->s[i] == 'e' || x->s[i] == 'E')) {
            size_t k = i + 1 + (x->s[i + 1] == '+' || x->s[i + 1] == '-');
            if (k < x->n && digit(x->s[k])) i = decimal_run(x, k), real = true;
        }
    }
    if (real) {
        char buf[64];
        size_t k = 0;
        for (size_t j = x->at; j < i && k + 1 < sizeof buf; j++)
            if (x->s[j] != '_') buf[k++] = x->s[j];
        buf[k] = 0;
        t->value = cake_jj_float(strtod(buf, NULL));
        x->at = i;
        return;
    }
    uint64_t v;
    x->at = scan_digits(x, base == 10 ? x->at : x->at + 2, base, &v);
    t->integer = true;
    t->value = cake_jj_int((int64_t)v);
}

/* One escape at s[i] (behind the backslash); returns the bytes eaten. */
static size_t escape(lexer *x, cake_jj_buf *b, size_t i, size_t end) {
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char c = x->s[i];
    const char *known = c ? strchr(from, c) : NULL;
    if (known) {
        cake_jj_put(x->r, b, &to[known - from], 1);
        return 1;
    }
    if (c == '\n') return 1; /* a line goes on */
    size_t want = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t cp = 0;
    size_t k = 1;
    if (want) {
        for (; k <= want; k++) {
            int d = i + k < end ? hex(x->s[i + k]) : -1;
            if (d < 0) cake_jj_fail(x->r, CAKE_EFORMAT, "a string has a cut \\%c escape", c);
            cp = cp << 4 | (uint32_t)d;
        }
    } else if (c >= '0' && c <= '7') {
        for (k = 0; k < 3 && i + k < end && x->s[i + k] >= '0' && x->s[i + k] <= '7'; k++)
            cp = cp << 3 | (uint32_t)(x->s[i + k] - '0');
    } else {
        cake_jj_put(x->r, b, "\\", 1);
        cake_jj_put(x->r, b, &c, 1);
        return 1;
    }
    if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
        cake_jj_fail(x->r, CAKE_EUNSUPPORTED, "a string escape is not a Unicode character");
    char t[4];
    cake_jj_put(x->r, b, t, cake_jj_utf8_put(t, cp));
    return k;
}

static void string(lexer *x) {
    char q = x->s[x->at];
    size_t end = x->at + 1;
    bool plain = true;
    for (; end < x->n && x->s[end] != q; end++)
        if (x->s[end] == '\\') plain = false, end++;
    if (end >= x->n) cake_jj_fail(x->r, CAKE_EFORMAT, "a string is never closed");
    cake_jj_token *t = push(x, JT_STRING, x->line);
    size_t from = x->at + 1;
    if (plain) {
        t->value = cake_jj_str(x->s + from, end - from);
    } else {
        cake_jj_buf b = {.max = SIZE_MAX};
        for (size_t i = from; i < end;) {
            size_t k = i;
            while (k < end && x->s[k] != '\\') k++;
            cake_jj_put(x->r, &b, x->s + i, k - i);
            i = k;
            if (i < end) i += 1 + escape(x, &b, i + 1, end);
        }
        t->value = cake_jj_buf_str(&b);
    }
    count_lines(x, x->at, end);
    x->at = end + 1;
}

static void name(lexer *x) {
    size_t from = x->at;
    uint32_t cp;
    while (x->at < x->n) {
        size_t k = cake_jj_utf8_next(x->s + x->at, x->n - x->at, &cp);
        if (!name_char(cp, x->at == from)) break;
        x->at += k;
    }
    if (x->at == from)
        cake_jj_fail(x->r, CAKE_EFORMAT, "unexpected character '%c'",
                     cp >= 32 && cp < 127 ? (int)cp : '?');
    push(x, JT_NAME, x->line)->value = cake_jj_str(x->s + from, x->at - from);
}

static void operator_(lexer *x) {
    static const char two[][3] = {"**", "//", "==", "!=", ">=", "<="};
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (at(x, two[i])) {
            push(x, JT_OP, x->line)->op = JJ_OP2(two[i][0], two[i][1]);
            x->at += 2;
            return;
        }
    push(x, JT_OP, x->line)->op = (unsigned char)x->s[x->at++];
}

/* Tokens of one {{ }} or {% %}, to behind its end. */
static void tag(lexer *x, bool print) {
    const char *close = print ? "}}" : "%}";
    char open[256]; /* brackets still open: inside them the end delimiter is no delimiter */
    size_t depth = 0;
    uint32_t began = x->line;
    for (;;) {
        size_t next = skip_space(x, x->at);
        count_lines(x, x->at, next);
        x->at = next;
        x->r->line = x->line;
        if (x->at >= x->n) {
            x->r->line = began;
            cake_jj_fail(x->r, CAKE_EFORMAT, "a %s is never closed with %s",
                         print ? "print" : "block", close);
        }
        if (!depth) {
            char sign = sign_at(x, x->at);
            if (sign == '+' && print) sign = 0;
            size_t here = x->at;
            if (sign) x->at++;
            if (at(x, close)) {
                push(x, print ? JT_PRINT_END : JT_BLOCK_END, x->line);
                close_tag(x, sign, !print);
                return;
            }
            x->at = here;
        }
        char c = x->s[x->at];
        if (digit(c)) {
            cake_jj_token *last = &x->tok[x->n_tok - 1];
            number(x, last->type == JT_OP && last->op == '.');
        } else if (c == '"' || c == '\'') {
            string(x);
        } else if (c && strchr("([{", c)) {
            if (depth == sizeof open) cake_jj_fail(x->r, CAKE_EFORMAT, "brackets nest too deeply");
            open[depth++] = c == '(' ? ')' : c == '[' ? ']' : '}';
            operator_(x);
        } else if (c && strchr(")]}", c)) {
            if (!depth || open[--depth] != c)
                cake_jj_fail(x->r, CAKE_EFORMAT, "unexpected '%c'", c);
            operator_(x);
        } else if (c && (strchr("+-/*%~=<>.:|,;", c) || at(x, "!="))) {
            operator_(x);
        } else {
            name(x);
        }
    }
}

/* {% raw %} ... {% endraw %}: x->at is at "{%"; false when it is another block. */
static size_t word_after(const lexer *x, size_t i, const char *word) {
    i = skip_space(x, i);
    size_t n = strlen(word);
    if (x->n - i < n || memcmp(x->s + i, word, n) != 0) return 0;
    i = skip_space(x, i + n);
    if (sign_at(x, i)) i++;
    return x->n - i >= 2 && x->s[i] == '%' && x->s[i + 1] == '}' ? i : 0;
}

static bool raw(lexer *x) {
    char sign = sign_at(x, x->at + 2);
    size_t close = word_after(x, x->at + 2 + (sign != 0), "raw");
    if (!close) return false;
    size_t from = x->at;
    x->at = close;
    close_tag(x, x->s[close - 1] == '-' ? '-' : 0, false);
    count_lines(x, from, close);
    for (size_t i = x->at; i + 1 < x->n; i++) {
        if (x->s[i] != '{' || x->s[i + 1] != '%') continue;
        char end_sign = sign_at(x, i + 2);
        size_t end = word_after(x, i + 2 + (end_sign != 0), "endraw");
        if (!end) continue;
        push_text(x, i, end_sign, false);
        count_lines(x, i, end);
        x->at = end;
        close_tag(x, sign_at(x, end - 1), true);
        return true;
    }
    cake_jj_fail(x->r, CAKE_EFORMAT, "{%% raw %%} is never closed with {%% endraw %%}");
}

cake_jj_token *cake_jj_lex(cake_jj *r, const char *source, size_t len, size_t *n_tokens) {
    lexer x = {.r = r, .line = 1, .line_start = true};
    normalise(&x, source, len);
    for (;;) {
        size_t i = x.at;
        while (i + 1 < x.n && !(x.s[i] == '{' && strchr("{%#", x.s[i + 1]) && x.s[i + 1])) i++;
        if (i + 1 >= x.n) {
            if (x.at < x.n) push(&x, JT_TEXT, x.line)->value = cake_jj_str(x.s + x.at, x.n - x.at);
            break;
        }
        char kind = x.s[i + 1], sign = sign_at(&x, i + 2);
        push_text(&x, i, sign, kind == '{');
        x.at = i;
        r->line = x.line;
        if (kind == '%' && raw(&x)) continue;
        x.at = i + 2 + (sign != 0);
        if (kind == '#') {
            comment(&x);
            continue;
        }
        push(&x, kind == '{' ? JT_PRINT_BEGIN : JT_BLOCK_BEGIN, x.line);
        tag(&x, kind == '{');
    }
    push(&x, JT_END, x.line);
    *n_tokens = x.n_tok;
    return x.tok;
}
