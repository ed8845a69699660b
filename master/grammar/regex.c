/* Patterns: see regex.h. Parsed to a tree, which is then laid out backwards. */
#include "master/grammar/regex.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

enum { NODES_MAX = 4000, RANGES_MAX = 256, DEPTH_MAX = 50, CODE_MAX = 0x10ffff };

typedef enum { EMPTY, CLASS, CAT, ALT, REPEAT } kind;

typedef struct {
    kind kind;
    uint32_t a, b;     /* CAT, ALT: children; REPEAT: a; CLASS: rule */
    uint32_t min, max; /* REPEAT; max UINT32_MAX: no limit */
} node;

typedef struct {
    cake_grammar *g;
    const char *s;
    size_t n, at;
    node *node;
    uint32_t n_nodes;
    unsigned depth;
    bool top_alternatives;
    cake_error *err;
    cake_status st;
} parser;

typedef struct {
    struct {
        uint32_t lo, hi;
    } v[RANGES_MAX];
    size_t n;
    bool too_many;
} ranges;

static uint32_t fail(parser *p, const char *what) {
    if (p->st == CAKE_OK)
        p->st =
            cake_fail(p->err, CAKE_EUNSUPPORTED, "%s (at byte %zu of '%.100s')", what, p->at, p->s);
    return 0;
}

static uint32_t add(parser *p, node v) {
    if (p->n_nodes == NODES_MAX) return fail(p, "the pattern is too long");
    p->node[p->n_nodes] = v;
    return p->n_nodes++;
}

/* ---- classes ---- */

static void add_range(ranges *r, uint32_t lo, uint32_t hi) {
    if (r->n == RANGES_MAX) {
        r->too_many = true;
        return;
    }
    r->v[r->n].lo = lo;
    r->v[r->n++].hi = hi;
}

static int by_lo(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* All that is not in r, without control characters. */
static void negate(ranges *r) {
    ranges out = {.too_many = r->too_many};
    uint32_t from = 0x20;
    if (r->n) qsort(r->v, r->n, sizeof *r->v, by_lo);
    for (size_t i = 0; i < r->n; i++) {
        if (r->v[i].lo > from) add_range(&out, from, r->v[i].lo - 1);
        if (r->v[i].hi >= from) from = r->v[i].hi + 1;
    }
    if (from <= CODE_MAX) add_range(&out, from, CODE_MAX);
    *r = out;
}

/* \d and the like; false: c is no class. */
static bool add_shorthand(ranges *r, char c) {
    ranges v = {0};
    switch (c) {
    case 'd':
    case 'D': add_range(&v, '0', '9'); break;
    case 'w':
    case 'W':
        add_range(&v, '0', '9');
        add_range(&v, 'A', 'Z');
        add_range(&v, '_', '_');
        add_range(&v, 'a', 'z');
        break;
    case 's':
    case 'S':
        add_range(&v, ' ', ' ');
        add_range(&v, '\t', '\r');
        break;
    default: return false;
    }
    if (c == 'D' || c == 'W' || c == 'S') negate(&v);
    for (size_t i = 0; i < v.n; i++) add_range(r, v.v[i].lo, v.v[i].hi);
    return true;
}

static bool hex(parser *p, unsigned digits, uint32_t *c) {
    *c = 0;
    for (unsigned i = 0; i < digits; i++) {
        char d = p->at < p->n ? p->s[p->at++] : 0;
        unsigned v = d >= '0' && d <= '9'   ? (unsigned)(d - '0')
                     : d >= 'a' && d <= 'f' ? (unsigned)(d - 'a') + 10
                     : d >= 'A' && d <= 'F' ? (unsigned)(d - 'A') + 10
                                            : 16;
        if (v == 16) return fail(p, "bad hexadecimal escape"), false;
        *c = *c * 16 + v;
    }
    if (*c >= 0xd800 && *c <= 0xdfff) return fail(p, "half of a surrogate pair"), false;
    return true;
}

/* One escaped character, behind the backslash; not a class. */
static bool escaped(parser *p, uint32_t *c) {
    char e = p->at < p->n ? p->s[p->at++] : 0;
    switch (e) {
    case 'n': *c = '\n'; return true;
    case 't': *c = '\t'; return true;
    case 'r': *c = '\r'; return true;
    case 'f': *c = '\f'; return true;
    case 'v': *c = '\v'; return true;
    case 'x': return hex(p, 2, c);
    case 'u': return hex(p, 4, c);
    default: break;
    }
    if (e == 0 || (e >= '0' && e <= '9') || (e >= 'a' && e <= 'z') || (e >= 'A' && e <= 'Z') ||
        (e & 0x80))
        return fail(p, "this escape is not supported"), false;
    *c = (uint8_t)e;
    return true;
}

/* One character of the pattern itself. */
static bool plain(parser *p, uint32_t *c) {
    uint8_t b = (uint8_t)p->s[p->at++];
    unsigned more = b < 0x80 ? 0 : b >= 0xf0 ? 3 : b >= 0xe0 ? 2 : 1;
    *c = more == 0 ? b : b & (0x3fu >> more);
    for (; more; more--) {
        if (p->at >= p->n || ((uint8_t)p->s[p->at] & 0xc0) != 0x80)
            return fail(p, "not UTF-8"), false;
        *c = *c << 6 | ((uint8_t)p->s[p->at++] & 0x3f);
    }
    return *c <= CODE_MAX || (fail(p, "not UTF-8"), false);
}

/* A control character inside of a JSON string. */
static uint32_t control(cake_grammar *g, uint32_t c, uint32_t next) {
    static const char digits[] = "0123456789abcdef";
    const char *known = "\b\t\n\f\r", *at = c ? strchr(known, (int)c) : NULL;
    if (at) {
        char text[2] = {'\\', "btnfr"[at - known]};
        return cake_grammar_text(g, text, 2, next);
    }
    char text[6] = {'\\', 'u', '0', '0', digits[c >> 4 & 15], digits[c & 15]};
    return cake_grammar_text(g, text, 6, next);
}

/* A rule for one character of the class, as JSON writes it. */
static uint32_t class_rule(cake_grammar *g, const ranges *r) {
    uint32_t rule = cake_grammar_rule(g), entry = CAKE_GRAMMAR_FAIL;
    for (size_t i = 0; i < r->n; i++) {
        uint32_t lo = r->v[i].lo, hi = r->v[i].hi;
        for (; lo < 0x20 && lo <= hi; lo++)
            entry = cake_grammar_split(g, entry, control(g, lo, CAKE_GRAMMAR_RETURN));
        while (lo <= hi) {
            uint32_t end = lo <= '"' && hi >= '"' ? '"' : lo <= '\\' && hi >= '\\' ? '\\' : hi + 1;
            if (end > lo)
                entry = cake_grammar_split(
                    g, entry, cake_grammar_code_points(g, lo, end - 1, CAKE_GRAMMAR_RETURN));
            if (end > hi) break;
            char text[2] = {'\\', (char)end};
            entry =
                cake_grammar_split(g, entry, cake_grammar_text(g, text, 2, CAKE_GRAMMAR_RETURN));
            lo = end + 1;
        }
    }
    g->rule[rule] = entry;
    return rule;
}

static uint32_t class_node(parser *p, const ranges *r) {
    if (r->too_many) return fail(p, "a class of too many ranges");
    return add(p, (node){.kind = CLASS, .a = class_rule(p->g, r)});
}

static uint32_t bracket(parser *p) {
    ranges r = {0};
    bool negated = p->at < p->n && p->s[p->at] == '^';
    if (negated) p->at++;
    for (bool first = true;; first = false) {
        uint32_t lo, hi;
        if (p->at >= p->n) return fail(p, "a class without ']'");
        char c = p->s[p->at];
        if (c == ']' && !first) break;
        if (c == ']') return fail(p, "an empty class");
        if (c == '\\') {
            p->at++;
            if (p->at < p->n && add_shorthand(&r, p->s[p->at])) {
                p->at++;
                continue;
            }
            if (p->at < p->n && p->s[p->at] == 'b') {
                lo = '\b';
                p->at++;
            } else if (!escaped(p, &lo)) {
                return 0;
            }
        } else if (!plain(p, &lo)) {
            return 0;
        }
        hi = lo;
        if (p->at + 1 < p->n && p->s[p->at] == '-' && p->s[p->at + 1] != ']') {
            p->at++;
            if (p->s[p->at] == '\\') {
                p->at++;
                if (!escaped(p, &hi)) return 0;
            } else if (!plain(p, &hi)) {
                return 0;
            }
            if (hi < lo) return fail(p, "a range backwards");
        }
        add_range(&r, lo, hi);
    }
    p->at++;
    if (negated) negate(&r);
    return class_node(p, &r);
}

/* ---- the tree ---- */

static uint32_t alternatives(parser *p);

static uint32_t group(parser *p) {
    if (p->at < p->n && p->s[p->at] == '?') {
        if (p->at + 1 >= p->n || p->s[p->at + 1] != ':')
            return fail(p, "groups that begin with (? are not supported, but for (?:");
        p->at += 2;
    }
    if (++p->depth > DEPTH_MAX) return fail(p, "groups are nested too deep");
    uint32_t v = alternatives(p);
    p->depth--;
    if (p->st != CAKE_OK) return 0;
    if (p->at >= p->n || p->s[p->at] != ')') return fail(p, "a group without ')'");
    p->at++;
    return v;
}

static uint32_t atom(parser *p) {
    ranges r = {0};
    uint32_t c;
    switch (p->s[p->at]) {
    case '(': p->at++; return group(p);
    case '[': p->at++; return bracket(p);
    case '.':
        p->at++;
        negate(&r);
        return class_node(p, &r);
    case '\\':
        p->at++;
        if (p->at < p->n && add_shorthand(&r, p->s[p->at])) {
            p->at++;
            return class_node(p, &r);
        }
        if (!escaped(p, &c)) return 0;
        break;
    case '*':
    case '+':
    case '?':
    case '{': return fail(p, "nothing to repeat");
    case '^':
    case '$': return fail(p, "^ and $ are only supported at the ends of the pattern");
    default:
        if (!plain(p, &c)) return 0;
    }
    add_range(&r, c, c);
    return class_node(p, &r);
}

static bool number(parser *p, uint32_t *v) {
    size_t from = p->at;
    for (*v = 0; p->at < p->n && p->s[p->at] >= '0' && p->s[p->at] <= '9' && *v < 100000; p->at++)
        *v = *v * 10 + (uint32_t)(p->s[p->at] - '0');
    return p->at > from;
}

static uint32_t repeated(parser *p) {
    uint32_t v = atom(p), min = 1, max = 1;
    while (p->st == CAKE_OK && p->at < p->n && strchr("*+?{", p->s[p->at])) {
        char c = p->s[p->at++];
        min = c == '+', max = c == '?' ? 1 : UINT32_MAX;
        if (c == '{') {
            if (!number(p, &min)) return fail(p, "a '{' that is no repetition");
            max = min;
            if (p->at < p->n && p->s[p->at] == ',') {
                p->at++;
                if (!number(p, &max)) max = UINT32_MAX;
            }
            if (p->at >= p->n || p->s[p->at] != '}' || max < min)
                return fail(p, "a '{' that is no repetition");
            p->at++;
        }
        if (min > CAKE_REGEX_REPEAT_MAX || (max != UINT32_MAX && max > CAKE_REGEX_REPEAT_MAX))
            return fail(p, "repeats more than 1000 times");
        if (p->at < p->n && p->s[p->at] == '?') p->at++; /* lazy: the same language */
        v = add(p, (node){.kind = REPEAT, .a = v, .min = min, .max = max});
    }
    return v;
}

static uint32_t sequence(parser *p) {
    uint32_t v = UINT32_MAX;
    while (p->st == CAKE_OK && p->at < p->n && p->s[p->at] != '|' && p->s[p->at] != ')') {
        if (p->s[p->at] == '$' && p->at + 1 == p->n && p->depth == 0) break;
        uint32_t next = repeated(p);
        v = v == UINT32_MAX ? next : add(p, (node){.kind = CAT, .a = v, .b = next});
    }
    return v == UINT32_MAX ? add(p, (node){.kind = EMPTY}) : v;
}

static uint32_t alternatives(parser *p) {
    uint32_t v = sequence(p);
    while (p->st == CAKE_OK && p->at < p->n && p->s[p->at] == '|') {
        p->at++;
        if (p->depth == 0) p->top_alternatives = true;
        v = add(p, (node){.kind = ALT, .a = v, .b = sequence(p)});
    }
    return v;
}

/* ---- layout ---- */

static uint32_t layout(parser *p, uint32_t i, uint32_t next) {
    const node *v = &p->node[i];
    cake_grammar *g = p->g;
    switch (v->kind) {
    case EMPTY: return next;
    case CLASS: return cake_grammar_call(g, v->a, next);
    case CAT: return layout(p, v->a, layout(p, v->b, next));
    case ALT: return cake_grammar_split(g, layout(p, v->a, next), layout(p, v->b, next));
    default: break;
    }
    uint32_t at = next;
    if (v->max == UINT32_MAX) {
        at = cake_grammar_loop(g, next);
        cake_grammar_loop_close(g, at, layout(p, v->a, at));
    }
    for (uint32_t k = v->max == UINT32_MAX ? v->min : v->max; k > 0 && !cake_grammar_exhausted(g);
         k--) {
        at = layout(p, v->a, at);
        if (k > v->min) at = cake_grammar_split(g, at, next);
    }
    return at;
}

cake_status cake_grammar_regex(cake_grammar *g, const char *pattern, size_t len, uint32_t any,
                               uint32_t next, uint32_t *entry, cake_error *err) {
    parser p = {.g = g, .s = pattern, .n = len, .err = err};
    p.node = cake_malloc(NODES_MAX * sizeof *p.node);
    bool begins = len && pattern[0] == '^';
    p.at = begins;
    uint32_t root = alternatives(&p);
    bool ends = p.at + 1 == len && pattern[p.at] == '$';
    if (p.st == CAKE_OK && p.at + ends != len) fail(&p, "a ')' without '('");
    if (p.st == CAKE_OK && p.top_alternatives && (begins || ends))
        fail(&p, "^ and $ beside | are only supported around a group: ^(a|b)$");
    if (p.st == CAKE_OK) {
        if (!ends) {
            uint32_t loop = cake_grammar_loop(g, next);
            cake_grammar_loop_close(g, loop, cake_grammar_call(g, any, loop));
            next = loop;
        }
        *entry = layout(&p, root, next);
        if (!begins) {
            uint32_t loop = cake_grammar_loop(g, *entry);
            cake_grammar_loop_close(g, loop, cake_grammar_call(g, any, loop));
            *entry = loop;
        }
    }
    free(p.node);
    return p.st;
}
