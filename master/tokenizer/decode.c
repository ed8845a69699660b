/* Ids back to text, at once or piece by piece. Both go through one machine, so they cannot differ.
 */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

struct cake_detok {
    const cake_tokenizer *t;
    bool skip_special;
    uint32_t shown[CAKE_DETOK_SHOWN_MAX]; /* special, and text all the same */
    uint32_t n_shown;
    bool started;      /* a token has been decoded */
    uint32_t stripped; /* leading characters dropped so far; strip_start when done */
    tok_buf held;      /* bytes of an unfinished character or of a byte-fallback run */
    tok_buf out;
};

static const char replacement[] = "\xEF\xBF\xBD";

static void must(bool ok) {
    if (!ok) cake_malloc(SIZE_MAX); /* exits, saying that memory is out */
}

/* Whole UTF-8 goes out, past the leading characters that the decoder strips from the text. */
static void put(cake_detok *d, const char *s, size_t n) {
    const cake_tokenizer *t = d->t;
    while (n && d->stripped < t->strip_start) {
        size_t i = 0;
        if (tok_utf8_next((const uint8_t *)s, &i) != t->strip_cp) {
            d->stripped = t->strip_start;
            break;
        }
        d->stripped++;
        s += i, n -= i;
    }
    must(tok_buf_add(&d->out, s, n));
}

/* Bytes of a ByteLevel vocabulary: whole characters go out, an unfinished one is held. */
static void put_bytes(cake_detok *d, const uint8_t *s, size_t n) {
    if (d->held.n) {
        must(tok_buf_add(&d->held, s, n));
        s = (const uint8_t *)d->held.p, n = d->held.n;
    }
    size_t i = 0;
    while (i < n) {
        size_t good = tok_utf8_valid(s + i, n - i);
        put(d, (const char *)s + i, good);
        i += good;
        if (i == n) break;
        bool cut;
        size_t ill = tok_utf8_ill(s + i, n - i, &cut);
        if (cut) break;
        put(d, replacement, 3);
        i += ill;
    }
    if (s == (const uint8_t *)d->held.p) {
        memmove(d->held.p, s + i, n - i);
        d->held.n = n - i;
    } else {
        must(tok_buf_add(&d->held, s + i, n - i));
    }
}

/* The end of a run of byte tokens: its text, or one U+FFFD per byte when it is not UTF-8. */
static void end_run(cake_detok *d) {
    if (!d->held.n) return;
    size_t n = d->held.n;
    if (tok_utf8_valid((const uint8_t *)d->held.p, n) == n)
        put(d, d->held.p, n);
    else
        for (size_t i = 0; i < n; i++) put(d, replacement, 3);
    d->held.n = 0;
}

static bool is_shown(const cake_detok *d, uint32_t id) {
    for (uint32_t i = 0; i < d->n_shown; i++)
        if (d->shown[i] == id) return true;
    return false;
}

void cake_detok_show(cake_detok *d, uint32_t id) {
    if (d->n_shown < CAKE_DETOK_SHOWN_MAX && !is_shown(d, id)) d->shown[d->n_shown++] = id;
}

static void push(cake_detok *d, uint32_t id) {
    const cake_tokenizer *t = d->t;
    if (id >= t->vocab.n || !t->vocab.v[id].kind) return;
    const tok_token *k = &t->vocab.v[id];
    if (d->skip_special && (k->kind & TOK_SPECIAL) && !is_shown(d, id)) return;
    const char *raw = t->vocab.raw.p + k->raw_off;
    if (t->dec_byte_level) {
        put_bytes(d, (const uint8_t *)raw, k->raw_len);
    } else if (k->kind & TOK_BYTE) {
        must(tok_buf_add(&d->held, raw, k->raw_len));
    } else {
        end_run(d);
        if (t->dec_join_space && d->started) put(d, " ", 1);
        if (t->dec_first_rule &&
            !d->started) { /* Metaspace drops its character in the first token */
            size_t n;
            const char *s = tok_decoder_text(t, id, &n);
            for (size_t i = 0; i < n;) {
                const tok_piece_op *op = &t->piece_ops[0];
                size_t len = tok_utf8_len((uint8_t)s[i]);
                if (len != op->a_len || memcmp(s + i, op->a, len) != 0) put(d, s + i, len);
                i += len;
            }
        } else {
            put(d, raw, k->raw_len);
        }
    }
    d->started = true;
}

static void flush(cake_detok *d) {
    if (!d->t->dec_byte_level)
        end_run(d);
    else if (d->held.n)
        put(d, replacement, 3); /* one unfinished character */
    d->held.n = 0, d->started = false, d->stripped = 0;
}

cake_detok *cake_detok_new(const cake_tokenizer *t, bool skip_special) {
    cake_detok *d = cake_calloc(1, sizeof *d);
    d->t = t, d->skip_special = skip_special;
    return d;
}

void cake_detok_free(cake_detok *d) {
    if (!d) return;
    tok_buf_free(&d->held);
    tok_buf_free(&d->out);
    free(d);
}

static void give(cake_detok *d, const char **text, size_t *len) {
    must(tok_buf_reserve(&d->out, d->out.n + 1));
    d->out.p[d->out.n] = 0;
    *text = d->out.p, *len = d->out.n;
}

void cake_detok_push(cake_detok *d, uint32_t id, const char **text, size_t *len) {
    d->out.n = 0;
    push(d, id);
    give(d, text, len);
}

void cake_detok_flush(cake_detok *d, const char **text, size_t *len) {
    d->out.n = 0;
    flush(d);
    give(d, text, len);
}

cake_status cake_tokenizer_decode(const cake_tokenizer *t, const uint32_t *ids, size_t n,
                                  bool skip_special, char **text, size_t *len, cake_error *err) {
    (void)err;
    cake_detok *d = cake_detok_new(t, skip_special);
    const char *s;
    for (size_t i = 0; i < n; i++) push(d, ids[i]);
    flush(d);
    give(d, &s, len);
    *text = d->out.p;
    d->out = (tok_buf){0};
    cake_detok_free(d);
    return CAKE_OK;
}
