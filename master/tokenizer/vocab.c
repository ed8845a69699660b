/* Token strings and their ids: the vocabulary of a tokenizer, seeded hashing, growable bytes, ids.
 */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

bool tok_buf_reserve(tok_buf *b, size_t cap) {
    if (cap <= b->cap) return true;
    size_t c = b->cap < 64 ? 64 : b->cap;
    while (c < cap) c += c / 2;
    char *p = realloc(b->p, c);
    if (!p) return false;
    b->p = p, b->cap = c;
    return true;
}

bool tok_buf_add(tok_buf *b, const void *p, size_t n) {
    if (!tok_buf_reserve(b, b->n + n + 1)) return false;
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
    return true;
}

void tok_buf_free(tok_buf *b) {
    free(b->p);
    *b = (tok_buf){0};
}

void cake_ids_deinit(cake_ids *ids) {
    free(ids->v);
    *ids = (cake_ids){0};
}

cake_status cake_ids_push(cake_ids *ids, uint32_t id, cake_error *err) {
    if (ids->n == ids->cap) {
        size_t cap = ids->cap < 64 ? 64 : ids->cap + ids->cap / 2;
        uint32_t *v = realloc(ids->v, cap * sizeof *v);
        if (!v) return cake_fail(err, CAKE_ENOMEM, "out of memory for %zu token ids", cap);
        ids->v = v, ids->cap = cap;
    }
    ids->v[ids->n++] = id;
    return CAKE_OK;
}

/* The tables hash strings that a file chose: a seed per process keeps it from choosing collisions.
 */
uint64_t tok_random_seed(void) {
    uint64_t s = 0x9E3779B97F4A7C15u;
    if (getrandom(&s, sizeof s, GRND_NONBLOCK) < 0) s ^= (uint64_t)(uintptr_t)&s;
    return s;
}

static uint64_t fold(uint64_t a, uint64_t b) {
    __extension__ unsigned __int128 r = (unsigned __int128)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

uint64_t tok_hash(const void *p, size_t n, uint64_t seed) {
    const uint8_t *s = p;
    uint64_t h = seed ^ n * 0x9E3779B97F4A7C15u, w = 0;
    for (; n > 8; n -= 8, s += 8) {
        memcpy(&w, s, 8);
        h = fold(h ^ w, 0xD6E8FEB86659FD93u ^ seed);
    }
    w = 0;
    memcpy(&w, s, n);
    h = fold(h ^ w, 0xA0761D6478BD642Fu ^ seed);
    return h ^ h >> 29;
}

static bool vocab_grow(tok_vocab *v) {
    uint32_t size = v->slot ? (v->mask + 1) * 2 : 1024;
    uint32_t *slot = calloc(size, sizeof *slot);
    if (!slot) return false;
    if (!v->slot) v->seed = tok_random_seed();
    for (uint32_t id = 0; id < v->n; id++) {
        if (!v->v[id].kind) continue;
        uint32_t i =
            (uint32_t)tok_hash(v->text.p + v->v[id].off, v->v[id].len, v->seed) & (size - 1);
        while (slot[i]) i = (i + 1) & (size - 1);
        slot[i] = id + 1;
    }
    free(v->slot);
    v->slot = slot, v->mask = size - 1;
    return true;
}

uint32_t tok_vocab_find(const tok_vocab *v, const char *s, size_t len) {
    if (!v->slot) return TOK_NONE;
    for (uint32_t i = (uint32_t)tok_hash(s, len, v->seed) & v->mask; v->slot[i];
         i = (i + 1) & v->mask) {
        const tok_token *k = &v->v[v->slot[i] - 1];
        if (k->len == len && memcmp(v->text.p + k->off, s, len) == 0) return v->slot[i] - 1;
    }
    return TOK_NONE;
}

cake_status tok_vocab_add(tok_vocab *v, uint32_t id, const char *s, size_t len, unsigned kind,
                          cake_error *err) {
    if (id >= TOK_MAX_IDS)
        return cake_fail(err, CAKE_EFORMAT, "token id %u is above the limit %d", id,
                         TOK_MAX_IDS - 1);
    if (len > TOK_MAX_TOKEN)
        return cake_fail(err, CAKE_EFORMAT, "token %u is longer than %d bytes", id, TOK_MAX_TOKEN);
    uint32_t had = tok_vocab_find(v, s, len);
    if (had != TOK_NONE && had != id)
        return cake_fail(err, CAKE_EFORMAT, "token \"%.*s\" has two ids, %u and %u",
                         (int)(len > 64 ? 64 : len), s, had, id);
    if (id < v->n && v->v[id].kind && had != id)
        return cake_fail(err, CAKE_EFORMAT, "id %u belongs to two tokens, \"%.*s\" and \"%.*s\"",
                         id, (int)(v->v[id].len > 64 ? 64 : v->v[id].len), v->text.p + v->v[id].off,
                         (int)(len > 64 ? 64 : len), s);
    if (had == id) {
        v->v[id].kind |= (uint8_t)kind;
        return CAKE_OK;
    }
    if (id >= v->n) {
        uint32_t n = id + 1 < 256 ? 256 : id + 1;
        if (n < v->n * 2) n = v->n * 2; /* v->n is the room, trimmed by tok_finish */
        if (n > TOK_MAX_IDS) n = TOK_MAX_IDS;
        tok_token *t = realloc(v->v, n * sizeof *t);
        if (!t) return cake_fail(err, CAKE_ENOMEM, "out of memory for %u tokens", n);
        memset(t + v->n, 0, (n - v->n) * sizeof *t);
        v->v = t, v->n = n;
    }
    if ((!v->slot || v->n_used >= v->mask / 2) && !vocab_grow(v))
        return cake_fail(err, CAKE_ENOMEM, "out of memory for the token table");
    tok_token *k = &v->v[id];
    k->off = (uint32_t)v->text.n, k->len = (uint32_t)len, k->kind = (uint8_t)kind;
    if (!tok_buf_add(&v->text, s, len))
        return cake_fail(err, CAKE_ENOMEM, "out of memory for token strings");
    uint32_t i = (uint32_t)tok_hash(s, len, v->seed) & v->mask;
    while (v->slot[i]) i = (i + 1) & v->mask;
    v->slot[i] = id + 1;
    v->n_used++;
    return CAKE_OK;
}

void tok_vocab_free(tok_vocab *v) {
    free(v->v);
    free(v->slot);
    tok_buf_free(&v->text);
    tok_buf_free(&v->raw);
    *v = (tok_vocab){0};
}

/* ByteLevel's alphabet: printable Latin-1 stands for itself, the 68 others for U+0100 and up. */
static bool byte_prints(unsigned b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

uint32_t tok_byte_char(uint8_t b) {
    if (byte_prints(b)) return b;
    if (b <= 0x20) return 0x100u + b;
    if (b <= 0xA0) return 0x121u + (b - 0x7Fu); /* 0x7F..0xA0 */
    return 0x143;                               /* 0xAD */
}

int tok_char_byte(uint32_t cp) {
    if (cp < 0x100) return byte_prints(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)(cp - 0x100);
    if (cp <= 0x142) return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}
