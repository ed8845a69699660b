/* Sorting a vocabulary: see token_trie.h. */
#include "master/grammar/token_trie.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

static bool is_marker(const uint8_t *b, size_t n) {
    static const char *const markers[] = {"<think>",       "</think>",     "<tool_call>",
                                          "</tool_call>",  "[TOOL_CALLS]", "[ARGS]",
                                          "<|python_tag|>"};
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++)
        if (strlen(markers[i]) == n && memcmp(b, markers[i], n) == 0) return true;
    return false;
}

static int by_bytes(const void *a, const void *b) {
    const cake_trie_token *x = a, *y = b;
    int c = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    if (c != 0) return c;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static uint8_t common(const cake_trie_token *a, const cake_trie_token *b) {
    uint8_t n = 0;
    while (n < a->len && n < b->len && a->bytes[n] == b->bytes[n]) n++;
    return n;
}

cake_token_trie *cake_token_trie_new(const cake_tokenizer *t, uint32_t n_vocab) {
    cake_token_trie *r = cake_calloc(1, sizeof *r);
    uint32_t n = cake_tokenizer_vocab_size(t);
    if (n > n_vocab) n = n_vocab;
    r->n_vocab = n_vocab;
    r->token = cake_calloc(n + 1u, sizeof *r->token);
    r->index = cake_malloc(((size_t)n_vocab + 1) * sizeof *r->index);
    memset(r->index, 0xff, n_vocab * sizeof *r->index);
    for (uint32_t id = 0; id < n; id++) {
        size_t len;
        const uint8_t *b = cake_tokenizer_token_bytes(t, id, &len);
        if (!b || len == 0 || len > CAKE_TRIE_TOKEN_MAX) continue;
        if ((cake_tokenizer_is_added(t, id) || cake_tokenizer_is_special(t, id)) &&
            !is_marker(b, len))
            continue;
        r->token[r->n++] = (cake_trie_token){.bytes = b, .id = id, .len = (uint8_t)len};
        if (len == 1) r->alphabet[b[0]] = true;
    }
    qsort(r->token, r->n, sizeof *r->token, by_bytes);
    for (uint32_t i = 0; i < r->n; i++) {
        if (i) r->token[i].shared = common(&r->token[i - 1], &r->token[i]);
        r->index[r->token[i].id] = i;
    }
    return r;
}

void cake_token_trie_free(cake_token_trie *t) {
    if (!t) return;
    free(t->token);
    free(t->index);
    free(t);
}
