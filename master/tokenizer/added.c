/* Added tokens: found in the text before anything else by a trie, longest match first from the
 * left. */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

static uint32_t node_new(tok_trie *t, uint8_t byte) {
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? t->cap * 2 : 256;
        tok_node *v = realloc(t->v, cap * sizeof *v);
        if (!v) return 0;
        t->v = v, t->cap = cap;
        if (!t->n) t->n = 1; /* node 0 means none */
    }
    t->v[t->n] = (tok_node){.id = TOK_NONE, .byte = byte};
    return t->n++;
}

static uint32_t child_of(const tok_trie *t, uint32_t node, uint8_t byte) {
    uint32_t c = t->v[node].child;
    while (c && t->v[c].byte != byte) c = t->v[c].sibling;
    return c;
}

cake_status tok_trie_add(tok_trie *t, const char *s, size_t len, uint32_t id, cake_error *err) {
    uint32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)s[i];
        uint32_t next = i ? child_of(t, node, byte) : t->root[byte];
        if (!next) {
            if (t->n > 16u << 20)
                return cake_fail(err, CAKE_EFORMAT, "added_tokens: more than 16 MiB of contents");
            next = node_new(t, byte);
            if (!next) return cake_fail(err, CAKE_ENOMEM, "out of memory for added tokens");
            if (i) {
                t->v[next].sibling = t->v[node].child;
                t->v[node].child = next;
            } else {
                t->root[byte] = next;
            }
        }
        node = next;
    }
    if (len) t->v[node].id = id;
    return CAKE_OK;
}

uint32_t tok_trie_longest(const tok_trie *t, const uint8_t *s, size_t i, size_t n, size_t *end) {
    uint32_t id = TOK_NONE, node = t->root[s[i]];
    while (node) {
        i++;
        if (t->v[node].id != TOK_NONE) id = t->v[node].id, *end = i;
        if (i == n) break;
        node = child_of(t, node, s[i]);
    }
    return id;
}
