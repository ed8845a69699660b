/* Encoding a text: clean it, cut out added tokens, normalize and pre-tokenize what lies between. */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

/* Scratch comes from the tokenizer's pool, so that word caches stay warm from call to call. */
static tok_scratch *scratch_take(cake_tokenizer *t) {
    tok_scratch *s = NULL;
    pthread_mutex_lock(&t->lock);
    if (t->n_pool) s = t->pool[--t->n_pool];
    pthread_mutex_unlock(&t->lock);
    return s ? s : tok_scratch_new();
}

static void trim(tok_buf *b) {
    if (b->cap > 1 << 20) tok_buf_free(b);
}

static void scratch_give(cake_tokenizer *t, tok_scratch *s) {
    /* What one huge text needed is not kept. */
    trim(&s->clean), trim(&s->norm[0]), trim(&s->norm[1]), trim(&s->word), trim(&s->lookup);
    for (size_t i = 0; i < TOK_MAX_STAGES; i++) trim(&s->stage[i]);
    if (s->cps_cap > 1 << 18) free(s->cps), s->cps = NULL, s->cps_cap = 0;
    if (s->sym_cap > 1 << 16) free(s->sym), s->sym = NULL, s->sym_cap = 0;
    if (s->heap_cap > 1 << 16) free(s->heap), s->heap = NULL, s->heap_cap = 0;
    pthread_mutex_lock(&t->lock);
    if (t->n_pool < sizeof t->pool / sizeof *t->pool) t->pool[t->n_pool++] = s, s = NULL;
    pthread_mutex_unlock(&t->lock);
    tok_scratch_free(s);
}

static bool class_before(const uint8_t *s, size_t i, uint8_t want) {
    if (!i) return false;
    size_t j = tok_utf8_last(s, i);
    return tok_class_table()[tok_utf8_next(s, &j)] & want;
}
static bool class_after(const uint8_t *s, size_t i, size_t n, uint8_t want) {
    return i < n && (tok_class_table()[tok_utf8_next(s, &i)] & want);
}

/* Cut s by the added tokens of one trie: their ids go out, fn gets what lies between. */
static cake_status cut_added(tok_enc *e, const tok_trie *trie, const char *text, size_t n,
                             bool at_start,
                             cake_status (*fn)(tok_enc *, const char *, size_t, bool)) {
    const cake_tokenizer *t = e->t;
    const uint8_t *s = (const uint8_t *)text;
    size_t done = 0;
    cake_status st;
    if (!trie->n) return n ? fn(e, text, n, at_start) : CAKE_OK;
    for (size_t i = 0; i < n;) {
        size_t stop = 0;
        while (i < n && !trie->root[s[i]]) i++;
        if (i == n) break;
        uint32_t id = tok_trie_longest(trie, s, i, n, &stop);
        if (id == TOK_NONE) {
            i++;
            continue;
        }
        size_t start = i;
        i = stop; /* what was matched is not looked at again, kept or not */
        const tok_added *a = &t->added[t->added_of[id] - 1];
        if ((t->vocab.v[id].kind & TOK_SPECIAL) && !(e->flags & CAKE_TOK_PARSE_SPECIAL)) continue;
        if (a->single_word && (class_before(s, start, TOK_C_W) || class_after(s, stop, n, TOK_C_W)))
            continue;
        if (a->lstrip) {
            while (start > done && class_before(s, start, TOK_C_S)) start = tok_utf8_last(s, start);
        }
        if (a->rstrip)
            while (class_after(s, stop, n, TOK_C_S)) tok_utf8_next(s, &stop);
        if (start > done && (st = fn(e, text + done, start - done, at_start && !done)) != CAKE_OK)
            return st;
        if ((st = cake_ids_push(e->out, id, e->err)) != CAKE_OK) return st;
        done = stop;
    }
    return done < n ? fn(e, text + done, n - done, at_start && !done) : CAKE_OK;
}

static cake_status plain(tok_enc *e, const char *s, size_t n, bool at_start) {
    return tok_pre_run(e, 0, s, n, at_start);
}

static cake_status normalized(tok_enc *e, const char *s, size_t n, bool at_start) {
    cake_status st = tok_norm_run(e->t, e->s, s, n, &s, &n, e->err);
    return st == CAKE_OK ? cut_added(e, &e->t->norm_trie, s, n, at_start, plain) : st;
}

/* A copy of text with U+FFFD for what is not UTF-8; `good` bytes at its start are well-formed. */
static cake_status clean(tok_scratch *sc, const char *text, size_t n, size_t good,
                         cake_error *err) {
    tok_buf *b = &sc->clean;
    b->n = 0;
    for (size_t i = 0; i < n;) {
        bool cut;
        if (!tok_buf_add(b, text + i, good))
            return cake_fail(err, CAKE_ENOMEM, "out of memory for the text being encoded");
        i += good;
        if (i >= n) break;
        i += tok_utf8_ill((const uint8_t *)text + i, n - i, &cut);
        if (!tok_buf_add(b, "\xEF\xBF\xBD", 3))
            return cake_fail(err, CAKE_ENOMEM, "out of memory for the text being encoded");
        good = i < n ? tok_utf8_valid((const uint8_t *)text + i, n - i) : 0;
    }
    return CAKE_OK;
}

cake_status cake_tokenizer_encode(const cake_tokenizer *t, const char *text, size_t len,
                                  unsigned flags, cake_ids *out, cake_error *err) {
    if (len > TOK_MAX_TEXT)
        return cake_fail(err, CAKE_ENOSPACE,
                         "a text of %zu bytes is above the tokenizer's limit of %d", len,
                         TOK_MAX_TEXT);
    /* Only the pool behind its lock changes: the tokenizer stays const to its users. */
    cake_tokenizer *pool_owner = (cake_tokenizer *)(uintptr_t)t;
    tok_scratch *sc = scratch_take(pool_owner);
    if (!sc) return cake_fail(err, CAKE_ENOMEM, "out of memory for encoding a text");
    tok_enc e = {t, sc, flags, out, err};
    cake_status st = CAKE_OK;
    size_t good = len ? tok_utf8_valid((const uint8_t *)text, len) : 0;
    if (good < len) {
        st = clean(sc, text, len, good, err);
        text = sc->clean.p, len = sc->clean.n;
    }
    for (size_t i = 0; (flags & CAKE_TOK_ADD_SPECIAL) && i < t->n_before && st == CAKE_OK; i++)
        st = cake_ids_push(out, t->before[i], err);
    if (st == CAKE_OK && len) st = cut_added(&e, &t->raw_trie, text, len, true, normalized);
    for (size_t i = 0; (flags & CAKE_TOK_ADD_SPECIAL) && i < t->n_after && st == CAKE_OK; i++)
        st = cake_ids_push(out, t->after[i], err);
    scratch_give(pool_owner, sc);
    return st;
}
