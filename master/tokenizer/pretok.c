/* Pre-tokenizers: cut normalized text into the pieces that the model encodes one by one. Stages
 * hand each piece straight to the next stage and the last to the model, so nothing is collected. */
#include "master/tokenizer/internal.h"

#include <string.h>

/* One stage at work on one piece: spans (match or gap) come in order, pieces go out by behaviour.
 */
typedef struct {
    tok_enc *e;
    size_t stage;
    const char *s;
    bool at_start;
    const tok_pre *p;
    size_t from, to;          /* the pending piece */
    bool pending, flag, prev; /* flag: the pending span was a match */
} splitter;

static cake_status emit(splitter *x, size_t from, size_t to) {
    if (from == to) return CAKE_OK;
    return tok_pre_run(x->e, x->stage + 1, x->s + from, to - from, x->at_start && from == 0);
}

static cake_status span(splitter *x, size_t from, size_t to, bool match) {
    cake_status st = CAKE_OK;
    bool join = false;
    if (x->p->invert) match = !match;
    switch (x->p->behavior) {
    case TOK_B_ISOLATED: return emit(x, from, to);
    case TOK_B_REMOVED: return match ? CAKE_OK : emit(x, from, to);
    case TOK_B_CONTIGUOUS: join = x->pending && match == x->flag; break;
    case TOK_B_PREVIOUS: join = x->pending && match && !x->prev; break;
    case TOK_B_NEXT: join = x->pending && x->flag && !match; break;
    }
    if (join) {
        x->to = to;
    } else {
        if (x->pending) st = emit(x, x->from, x->to);
        x->from = from, x->to = to, x->pending = true;
    }
    x->flag = x->prev = match;
    return st;
}

static cake_status finish(splitter *x) {
    return x->pending ? emit(x, x->from, x->to) : CAKE_OK;
}

/* Every character of class `want` is a match of its own, what lies between is a gap; runs: a whole
 * run of them is one match. */
static cake_status split_class(splitter *x, size_t n, uint8_t want) {
    const uint8_t *s = (const uint8_t *)x->s, *table = tok_class_table();
    size_t gap = 0;
    cake_status st = CAKE_OK;
    for (size_t i = 0; i < n && st == CAKE_OK;) {
        size_t at = i;
        if (!(table[tok_utf8_next(s, &i)] & want)) continue;
        if (at > gap) st = span(x, gap, at, false);
        if (st == CAKE_OK) st = span(x, at, i, true);
        gap = i;
    }
    if (st == CAKE_OK && gap < n) st = span(x, gap, n, false);
    return st == CAKE_OK ? finish(x) : st;
}

static cake_status split_str(splitter *x, size_t n, const char *pat, size_t pat_n) {
    size_t gap = 0;
    cake_status st = CAKE_OK;
    while (pat_n && st == CAKE_OK) {
        const char *hit = memmem(x->s + gap, n - gap, pat, pat_n);
        if (!hit) break;
        size_t at = (size_t)(hit - x->s);
        if (at > gap) st = span(x, gap, at, false);
        if (st == CAKE_OK) st = span(x, at, at + pat_n, true);
        gap = at + pat_n;
    }
    if (st == CAKE_OK && gap < n) st = span(x, gap, n, false);
    return st == CAKE_OK ? finish(x) : st;
}

static cake_status split_regex(splitter *x, size_t n) {
    size_t gap = 0, a, b;
    cake_status st = CAKE_OK;
    while (st == CAKE_OK) {
        int rc = tok_regex_find(x->p->re, x->e->s, x->s, n, gap, &a, &b, x->e->err);
        if (rc < 0) return (cake_status)rc;
        if (!rc) break;
        if (a > gap) st = span(x, gap, a, false);
        if (st == CAKE_OK) st = span(x, a, b, true);
        gap = b;
    }
    if (st == CAKE_OK && gap < n) st = span(x, gap, n, false);
    return st == CAKE_OK ? finish(x) : st;
}

/* \w+|[^\w\s]+ */
static cake_status split_words(splitter *x, size_t n) {
    const uint8_t *s = (const uint8_t *)x->s, *table = tok_class_table();
    cake_status st = CAKE_OK;
    for (size_t i = 0; i < n && st == CAKE_OK;) {
        size_t at = i, j;
        int kind = -1;
        for (j = i; j < n;) {
            size_t k = j;
            uint8_t c = table[tok_utf8_next(s, &k)];
            int this_kind = c & TOK_C_W ? 1 : c & TOK_C_S ? 0 : 2;
            if (kind < 0) kind = this_kind;
            if (this_kind != kind) break;
            j = k;
        }
        if (kind) st = emit(x, at, j);
        i = j;
    }
    return st;
}

static cake_status out_of_memory(tok_enc *e) {
    return cake_fail(e->err, CAKE_ENOMEM, "out of memory for the text being encoded");
}

static cake_status metaspace(tok_enc *e, size_t i, const tok_pre *p, const char *s, size_t n,
                             bool at_start) {
    tok_buf *b = &e->s->stage[i];
    b->n = 0;
    bool starts = (n >= p->str_len && memcmp(s, p->str, p->str_len) == 0) || s[0] == ' ';
    bool add =
        !starts && (p->scheme == TOK_META_ALWAYS || (p->scheme == TOK_META_FIRST && at_start));
    if (add && !tok_buf_add(b, p->str, p->str_len)) return out_of_memory(e);
    for (size_t k = 0; k < n;) {
        const char *sp = memchr(s + k, ' ', n - k);
        size_t run = sp ? (size_t)(sp - (s + k)) : n - k;
        if (!tok_buf_add(b, s + k, run)) return out_of_memory(e);
        k += run;
        if (sp) {
            if (!tok_buf_add(b, p->str, p->str_len)) return out_of_memory(e);
            k++;
        }
    }
    if (!p->split) return tok_pre_run(e, i + 1, b->p, b->n, at_start);
    splitter x = {.e = e, .stage = i, .s = b->p, .at_start = at_start, .p = p};
    return split_str(&x, b->n, p->str, p->str_len);
}

cake_status tok_pre_run(tok_enc *e, size_t i, const char *s, size_t n, bool at_start) {
    if (i == e->t->n_pre) return tok_bpe_word(e, s, n);
    const tok_pre *p = &e->t->pre[i];
    splitter x = {.e = e, .stage = i, .s = s, .at_start = at_start, .p = p};
    tok_buf *b = &e->s->stage[i];
    cake_status st;
    switch (p->kind) {
    case TOK_P_SCAN:
        if (i + 1 == e->t->n_pre) {
            for (size_t k = 0; k < n;) {
                size_t to = p->scan((const uint8_t *)s, k, n);
                if ((st = tok_bpe_word(e, s + k, to - k)) != CAKE_OK) return st;
                k = to;
            }
            return CAKE_OK;
        }
        for (size_t k = 0; k < n;) {
            size_t to = p->scan((const uint8_t *)s, k, n);
            if ((st = emit(&x, k, to)) != CAKE_OK) return st;
            k = to;
        }
        return CAKE_OK;
    case TOK_P_SPLIT_RE: return split_regex(&x, n);
    case TOK_P_SPLIT_STR: return split_str(&x, n, p->str, p->str_len);
    case TOK_P_DIGITS: return split_class(&x, n, TOK_C_N);
    case TOK_P_PUNCT: return split_class(&x, n, TOK_C_P);
    case TOK_P_WHITESPACE: return split_words(&x, n);
    case TOK_P_WHITESPACE_SPLIT: return split_class(&x, n, TOK_C_S);
    case TOK_P_METASPACE: return metaspace(e, i, p, s, n, at_start);
    case TOK_P_PREFIX_SPACE:
        if (s[0] == ' ') return tok_pre_run(e, i + 1, s, n, at_start);
        b->n = 0;
        if (!tok_buf_add(b, " ", 1) || !tok_buf_add(b, s, n)) return out_of_memory(e);
        return tok_pre_run(e, i + 1, b->p, b->n, at_start);
    case TOK_P_BYTE_MAP:
        if (!tok_buf_reserve(b, 2 * n)) return out_of_memory(e);
        b->n = 0;
        for (size_t k = 0; k < n; k++)
            b->n += tok_utf8_put(tok_byte_char((uint8_t)s[k]), b->p + b->n);
        return tok_pre_run(e, i + 1, b->p, b->n, at_start);
    }
    return CAKE_OK;
}
