/* JSON schemas as clients send them: compiled, or refused with a reason; a compiled one is followed
 * for some bytes, and always lets something follow or end. The alphabet is all of the bytes. */
#include "common/json.h"
#include "common/mem.h"
#include "master/grammar/json_schema.h"
#include "master/grammar/matcher.h"

#include <stdlib.h>
#include <string.h>

/* A vocabulary of the 256 bytes. */
static cake_token_trie *bytes_trie(void) {
    static uint8_t byte[256];
    cake_token_trie *t = cake_calloc(1, sizeof *t);
    t->n = t->n_vocab = 256;
    t->token = cake_calloc(256, sizeof *t->token);
    t->index = cake_calloc(256, sizeof *t->index);
    for (uint32_t i = 0; i < 256; i++) {
        byte[i] = (uint8_t)i;
        t->token[i] = (cake_trie_token){.bytes = &byte[i], .id = i, .len = 1};
        t->index[i] = i;
        t->alphabet[i] = true;
    }
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static cake_token_trie *trie;
    if (!trie) trie = bytes_trie();
    json_object *s = NULL;
    cake_error err;
    if (cake_json_parse((const char *)data, n, 64, "the schema", &s, &err) != CAKE_OK) return 0;
    cake_grammar *g = cake_grammar_new();
    cake_schema_compiler *c = cake_schema_compiler_new(g);
    uint32_t entry;
    cake_status st = cake_schema_compile(c, s, CAKE_GRAMMAR_RETURN, &entry, &err);
    if (st == CAKE_OK) st = cake_grammar_finish(g, entry, trie->alphabet, &err);
    if (st != CAKE_OK && !err.msg[0]) abort();
    if (st == CAKE_OK) {
        cake_matcher *m = cake_matcher_new(g, trie);
        uint32_t at = (uint32_t)n;
        for (int step = 0; step < 64 && !cake_matcher_must_end(m); step++) {
            const uint32_t *mask = cake_matcher_mask(m);
            uint32_t allowed[256], k = 0;
            for (uint32_t i = 0; i < 256; i++)
                if (mask[i >> 5] >> (i & 31) & 1) allowed[k++] = i;
            if (k == 0) abort();
            at = at * 1664525u + 1013904223u;
            if (!cake_matcher_advance(m, allowed[(at >> 16) % k])) abort();
        }
        cake_matcher_free(m);
    }
    cake_schema_compiler_free(c);
    cake_grammar_free(g);
    json_object_put(s);
    return 0;
}
