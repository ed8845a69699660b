/* Byte-pair encoding of one pre-token: symbols, the pair table, merging, and the cache of words.
 *
 * Merging takes the pair of lowest rank, leftmost first, until none is left. Short words do it on
 * three small arrays by scanning; long ones with a heap over a linked list, in O(n log n). Both are
 * the same order. Ranks may repeat (SentencePiece: the rank is that of the merged token). */
#include "master/tokenizer/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOK_SMALL = 128 };

static uint64_t pair_hash(uint64_t key, uint64_t seed) {
    uint64_t h = (key ^ seed) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

cake_status tok_bpe_reserve(tok_bpe *b, size_t n, cake_error *err) {
    uint64_t size = 16;
    while (size < n + n / 2 + 1) size *= 2;
    b->pairs = cake_trymalloc(size * sizeof *b->pairs);
    if (!b->pairs) return cake_fail(err, CAKE_ENOMEM, "out of memory for %zu merges", n);
    memset(b->pairs, 0xFF, size * sizeof *b->pairs);
    b->mask = size - 1;
    b->seed = tok_random_seed();
    return CAKE_OK;
}

void tok_bpe_add_pair(tok_bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id) {
    uint64_t key = (uint64_t)left << 32 | right, i = pair_hash(key, b->seed) & b->mask;
    while (b->pairs[i].id != TOK_NONE && b->pairs[i].key != key) i = (i + 1) & b->mask;
    if (b->pairs[i].id == TOK_NONE) b->n_pairs++;
    b->pairs[i] = (tok_pair){key, rank, id};
}

static const tok_pair *pair_find(const tok_bpe *b, uint32_t left, uint32_t right) {
    uint64_t key = (uint64_t)left << 32 | right, i = pair_hash(key, b->seed) & b->mask;
    for (; b->pairs[i].id != TOK_NONE; i = (i + 1) & b->mask)
        if (b->pairs[i].key == key) return &b->pairs[i];
    return NULL;
}

/* The model's token of this content; not one that is only in added_tokens. */
static uint32_t model_id(const tok_vocab *v, const char *s, size_t n) {
    uint32_t id = tok_vocab_find(v, s, n);
    return id != TOK_NONE && (v->v[id].kind & TOK_MODEL) ? id : TOK_NONE;
}

static const char meta[] = "\xE2\x96\x81"; /* U+2581 */

/* May words be cut before a U+2581 that follows another character? Only if no merge joins across
 * such a place, and the symbol exists (so that it ends a run of unknown characters). */
static bool can_split_meta(const tok_bpe *b, const tok_vocab *v) {
    if (b->byte_level || b->ignore_merges || model_id(v, meta, 3) == TOK_NONE) return false;
    for (uint64_t i = 0; i <= b->mask; i++) {
        if (b->pairs[i].id == TOK_NONE) continue;
        const tok_token *l = &v->v[b->pairs[i].key >> 32], *r = &v->v[(uint32_t)b->pairs[i].key];
        bool starts = r->len >= 3 && memcmp(v->text.p + r->off, meta, 3) == 0;
        bool ends = l->len >= 3 && memcmp(v->text.p + l->off + l->len - 3, meta, 3) == 0;
        if (starts && !ends) return false;
    }
    return true;
}

cake_status tok_bpe_finish(tok_bpe *b, const tok_vocab *v, cake_error *err) {
    if (!b->pairs) {
        cake_status st = tok_bpe_reserve(b, 0, err);
        if (st != CAKE_OK) return st;
    }
    for (unsigned c = 0; c < 256; c++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", c);
        b->fallback_id[c] = b->byte_fallback ? model_id(v, s, 6) : TOK_NONE;
        b->byte_id[c] = model_id(v, s, tok_utf8_put(tok_byte_char((uint8_t)c), s));
        s[0] = (char)c;
        if (c < 128) b->ascii_id[c] = model_id(v, s, 1);
        if (b->byte_level && b->byte_fallback && b->byte_id[c] == TOK_NONE)
            return cake_fail(
                err, CAKE_EUNSUPPORTED,
                "tokenizer.json: byte_fallback beside ByteLevel with byte 0x%02X missing "
                "from the vocabulary is not supported",
                c);
    }
    b->split_meta = can_split_meta(b, v);
    return CAKE_OK;
}

/* First symbols of a word, to push(id) in order: one per byte or per character, unknown ones as unk
 * (fused when fuse_unk), as bytes (byte_fallback), or dropped where there is no unk. Returns how
 * many; ids has room for n. */
static size_t symbols(const tok_enc *e, const uint8_t *s, size_t n, uint32_t *ids, size_t stride) {
    const tok_bpe *b = &e->t->bpe;
    size_t k = 0;
#define PUSH(x) (ids[k++ * stride] = (x))
    bool unk_pending = false;
    for (size_t i = 0; i < n;) {
        size_t len = b->byte_level ? 1 : tok_utf8_len(s[i]);
        uint32_t id = b->byte_level ? b->byte_id[s[i]]
                      : len == 1    ? b->ascii_id[s[i]]
                                    : model_id(&e->t->vocab, (const char *)s + i, len);
        if (id != TOK_NONE) {
            if (unk_pending) PUSH(b->unk), unk_pending = false;
            PUSH(id);
            i += len;
            continue;
        }
        bool all = b->byte_fallback && !b->byte_level;
        for (size_t j = 0; j < len && all; j++) all = b->fallback_id[s[i + j]] != TOK_NONE;
        if (all) { /* a pending unk stays pending across these, as in the reference */
            for (size_t j = 0; j < len; j++) PUSH(b->fallback_id[s[i + j]]);
        } else if (b->unk != TOK_NONE) {
            if (unk_pending && !b->fuse_unk) PUSH(b->unk);
            unk_pending = true;
        }
        i += len;
    }
    if (unk_pending) PUSH(b->unk);
#undef PUSH
    return k;
}

/* ids[0..n) merged in place; returns how many remain. rank and to: n entries of workspace. */
static size_t merge_small(const tok_bpe *b, uint32_t *ids, uint32_t *rank, uint32_t *to, size_t n) {
#define LOOK(i)                                                                                    \
    do {                                                                                           \
        const tok_pair *p_ = pair_find(b, ids[i], ids[(i) + 1]);                                   \
        rank[i] = p_ ? p_->rank : UINT32_MAX;                                                      \
        to[i] = p_ ? p_->id : TOK_NONE;                                                            \
    } while (0)
    for (size_t i = 0; i + 1 < n; i++) LOOK(i);
    while (n > 1) {
        uint32_t best = UINT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (rank[i] < best) best = rank[i], at = i;
        if (best == UINT32_MAX) break;
        ids[at] = to[at];
        size_t rest = n - at - 2;
        memmove(ids + at + 1, ids + at + 2, rest * sizeof *ids);
        if (rest) {
            memmove(rank + at + 1, rank + at + 2, (rest - 1) * sizeof *rank);
            memmove(to + at + 1, to + at + 2, (rest - 1) * sizeof *to);
        }
        n--;
        if (at + 1 < n) LOOK(at);
        if (at > 0) LOOK(at - 1);
    }
#undef LOOK
    return n;
}

static bool cand_less(const tok_cand *a, const tok_cand *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->pos < b->pos;
}

static void heap_sift_down(tok_cand *h, size_t n, size_t i) {
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= n) return;
        if (c + 1 < n && cand_less(&h[c + 1], &h[c])) c++;
        if (!cand_less(&h[c], &h[i])) return;
        tok_cand x = h[i];
        h[i] = h[c], h[c] = x;
        i = c;
    }
}

static cake_status heap_push(tok_enc *e, uint32_t pos) {
    tok_scratch *s = e->s;
    const tok_sym *a = &s->sym[pos];
    if (a->next == TOK_NONE) return CAKE_OK;
    uint32_t right = s->sym[a->next].id;
    const tok_pair *p = pair_find(&e->t->bpe, a->id, right);
    if (!p) return CAKE_OK;
    if (s->heap_n == s->heap_cap) {
        size_t cap = s->heap_cap < 1024 ? 1024 : s->heap_cap * 2;
        tok_cand *h = realloc(s->heap, cap * sizeof *h);
        if (!h) return cake_fail(e->err, CAKE_ENOMEM, "out of memory for a long word");
        s->heap = h, s->heap_cap = cap;
    }
    size_t i = s->heap_n++;
    tok_cand x = {p->rank, pos, a->id, right};
    for (; i > 0 && cand_less(&x, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = x;
    return CAKE_OK;
}

static cake_status merge_large(tok_enc *e, size_t n) {
    tok_scratch *s = e->s;
    cake_status st = CAKE_OK;
    for (uint32_t i = 0; i < n; i++) {
        s->sym[i].prev = i ? i - 1 : TOK_NONE;
        s->sym[i].next = i + 1 < n ? i + 1 : TOK_NONE;
    }
    s->heap_n = 0;
    for (uint32_t i = 0; i < n && st == CAKE_OK; i++) st = heap_push(e, i);
    while (s->heap_n && st == CAKE_OK) {
        tok_cand c = s->heap[0];
        s->heap[0] = s->heap[--s->heap_n];
        heap_sift_down(s->heap, s->heap_n, 0);
        tok_sym *a = &s->sym[c.pos];
        if (a->id != c.left || a->next == TOK_NONE || s->sym[a->next].id != c.right) continue;
        const tok_pair *p = pair_find(&e->t->bpe, c.left, c.right);
        uint32_t gone = a->next;
        a->id = p->id;
        a->next = s->sym[gone].next;
        s->sym[gone].id = TOK_NONE; /* matches no candidate any more */
        if (a->next != TOK_NONE) s->sym[a->next].prev = c.pos;
        st = heap_push(e, c.pos);
        if (st == CAKE_OK && a->prev != TOK_NONE) st = heap_push(e, a->prev);
    }
    for (uint32_t i = 0; i != TOK_NONE && n && st == CAKE_OK; i = s->sym[i].next)
        st = cake_ids_push(e->out, s->sym[i].id, e->err);
    return st;
}

static cake_status encode_word(tok_enc *e, const uint8_t *s, size_t n) {
    const tok_bpe *b = &e->t->bpe;
    tok_scratch *sc = e->s;
    if (b->ignore_merges) {
        const char *w = (const char *)s;
        size_t w_n = n;
        if (b->byte_level) {
            sc->lookup.n = 0;
            if (!tok_buf_reserve(&sc->lookup, 2 * n))
                return cake_fail(e->err, CAKE_ENOMEM, "out of memory for a long word");
            for (size_t i = 0; i < n; i++)
                sc->lookup.n += tok_utf8_put(tok_byte_char(s[i]), sc->lookup.p + sc->lookup.n);
            w = sc->lookup.p, w_n = sc->lookup.n;
        }
        uint32_t id = model_id(&e->t->vocab, w, w_n);
        if (id != TOK_NONE) return cake_ids_push(e->out, id, e->err);
    }
    if (n <= TOK_SMALL) {
        uint32_t *ids = sc->small;
        size_t k =
            merge_small(b, ids, ids + TOK_SMALL, ids + 2 * TOK_SMALL, symbols(e, s, n, ids, 1));
        for (size_t i = 0; i < k; i++) {
            cake_status st = cake_ids_push(e->out, ids[i], e->err);
            if (st != CAKE_OK) return st;
        }
        return CAKE_OK;
    }
    if (n > TOK_MAX_WORD)
        return cake_fail(
            e->err, CAKE_ENOSPACE,
            "the text holds one word of %zu bytes; the tokenizer takes at most %d: cut it", n,
            TOK_MAX_WORD);
    if (sc->sym_cap < n) {
        tok_sym *p = realloc(sc->sym, n * sizeof *p);
        if (!p) return cake_fail(e->err, CAKE_ENOMEM, "out of memory for a long word");
        sc->sym = p, sc->sym_cap = n;
    }
    return merge_large(e, symbols(e, s, n, &sc->sym[0].id, sizeof *sc->sym / sizeof(uint32_t)));
}

/* Words up to 24 bytes are looked up in a two-way cache; text is mostly words seen before. */
static cake_status cached_word(tok_enc *e, const uint8_t *s, size_t n) {
    tok_scratch *sc = e->s;
    if (n > TOK_SLOT_KEY) return encode_word(e, s, n);
    uint64_t k[3] = {0, 0, 0};
    memcpy(k, s, n);
    __extension__ unsigned __int128 m =
        (unsigned __int128)(k[0] ^ sc->seed) * (k[1] ^ (0x9E3779B97F4A7C15u + n)) ^
        (unsigned __int128)(k[2] ^ 0xD6E8FEB86659FD93u) * 0xA0761D6478BD642Fu;
    uint64_t h = ((uint64_t)m ^ (uint64_t)(m >> 64)) * 0x9E3779B97F4A7C15u;
    tok_slot *a = &sc->cache[h >> (64 - TOK_CACHE_BITS) & ~(uint64_t)1];
    for (int way = 0; way < 2; way++) {
        tok_slot *c = a + way;
        if (c->len == n && c->key[0] == k[0] && c->key[1] == k[1] && c->key[2] == k[2]) {
            cake_ids *o = e->out;
            if (o->cap - o->n < TOK_SLOT_IDS) {
                cake_status st = cake_ids_push(o, 0, e->err); /* grows by more than a slot holds */
                if (st != CAKE_OK) return st;
                o->n--;
                if (o->cap - o->n < TOK_SLOT_IDS) {
                    for (unsigned i = 0; i < c->n_ids; i++)
                        if ((st = cake_ids_push(o, c->ids[i], e->err)) != CAKE_OK) return st;
                    return CAKE_OK;
                }
            }
            memcpy(o->v + o->n, c->ids, sizeof c->ids);
            o->n += c->n_ids;
            return CAKE_OK;
        }
    }
    size_t before = e->out->n;
    cake_status st = encode_word(e, s, n);
    size_t got = e->out->n - before;
    if (st == CAKE_OK && got <= TOK_SLOT_IDS) {
        a[1] = a[0];
        memcpy(a->key, k, sizeof k);
        a->len = (uint8_t)n, a->n_ids = (uint8_t)got;
        if (got) memcpy(a->ids, e->out->v + before, got * sizeof *a->ids);
    }
    return st;
}

static cake_status split_words(tok_enc *e, const uint8_t *s, size_t n) {
    for (size_t i = 0; i < n;) {
        /* a word: its U+2581s, then all up to the next one */
        size_t j = i;
        while (n - j >= 3 && memcmp(s + j, meta, 3) == 0) j += 3;
        for (; j < n; j++) {
            const uint8_t *p = memchr(s + j, 0xE2, n - j);
            j = p ? (size_t)(p - s) : n;
            if (n - j >= 3 && memcmp(s + j, meta, 3) == 0) break;
            if (j == n) break;
        }
        cake_status st = cached_word(e, s + i, j - i);
        if (st != CAKE_OK) return st;
        i = j;
    }
    return CAKE_OK;
}

cake_status tok_bpe_word(tok_enc *e, const char *s, size_t n) {
    if (!n) return CAKE_OK;
    if (e->t->byte_mapped) { /* back from the byte alphabet to the bytes it stands for */
        tok_buf *w = &e->s->word;
        if (!tok_buf_reserve(w, n))
            return cake_fail(e->err, CAKE_ENOMEM, "out of memory for a word");
        size_t k = 0;
        for (size_t i = 0; i < n;) {
            int b = tok_char_byte(tok_utf8_next((const uint8_t *)s, &i));
            cake_assert(b >= 0);
            w->p[k++] = (char)b;
        }
        s = w->p, n = k;
    }
    if (e->t->bpe.split_meta) return split_words(e, (const uint8_t *)s, n);
    return cached_word(e, (const uint8_t *)s, n);
}
