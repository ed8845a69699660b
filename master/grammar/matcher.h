/* A grammar followed through an answer: which tokens may come next.
 *
 * The automaton is made deterministic as far as an answer gets: sets of (node, stack) become
 * numbered states with a table of next states, so that walking the vocabulary costs a look-up per
 * byte. States and masks are kept and used again (a string's inside is one state).
 *
 * Memory: up to some MiB, bounded; allocates while matching. One thread at a time. */
#ifndef CAKE_MASTER_GRAMMAR_MATCHER_H
#define CAKE_MASTER_GRAMMAR_MATCHER_H

#include "master/grammar/grammar.h"
#include "master/grammar/token_trie.h"

typedef struct cake_matcher cake_matcher;

/* Both are borrowed and must outlive it; g is finished with the alphabet of t. */
cake_matcher *cake_matcher_new(const cake_grammar *g, const cake_token_trie *t);
void cake_matcher_free(cake_matcher *m);

/* May this token come next? Does not change where the matcher is. */
bool cake_matcher_takes(cake_matcher *m, uint32_t token);
/* Go on behind a token; false, and nothing changes, when it may not come. */
bool cake_matcher_advance(cake_matcher *m, uint32_t token);
/* Tokens that may come next: bit (id & 31) of [id >> 5], n_vocab bits. Borrowed until the next call
 * on m. Empty only when the answer must end. */
const uint32_t *cake_matcher_mask(cake_matcher *m);
/* The answer may end here; it must (nothing can follow). */
bool cake_matcher_may_end(const cake_matcher *m);
bool cake_matcher_must_end(const cake_matcher *m);

#endif
