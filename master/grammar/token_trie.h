/* The tokens of a vocabulary in the order of their bytes, each with how much it shares with the one
 * before: a trie to walk with an automaton, without pointers.
 *
 * Special and added tokens are left out but for the markers of tool calls and thinking. Immutable;
 * any thread may read it. About 20 bytes per token. */
#ifndef CAKE_MASTER_GRAMMAR_TOKEN_TRIE_H
#define CAKE_MASTER_GRAMMAR_TOKEN_TRIE_H

#include "master/tokenizer/tokenizer.h"

enum { CAKE_TRIE_TOKEN_MAX = 64 }; /* longer tokens are not offered */

typedef struct {
    const uint8_t *bytes; /* borrowed from the tokenizer */
    uint32_t id;
    uint8_t len, shared; /* shared: leading bytes in common with the entry before */
} cake_trie_token;

typedef struct {
    cake_trie_token *token; /* [n] sorted */
    uint32_t n, n_vocab;
    uint32_t *index;    /* [n_vocab] place of an id, UINT32_MAX: left out */
    bool alphabet[256]; /* bytes that are a token by themselves */
} cake_token_trie;

/* n_vocab: of the model; ids beyond are left out. Takes some 50 ms for 150,000 tokens. */
cake_token_trie *cake_token_trie_new(const cake_tokenizer *t, uint32_t n_vocab);
void cake_token_trie_free(cake_token_trie *t);

#endif
