/* Prompt lookup: guess what comes next by finding the end of a text earlier in the same text.
 *
 * What is guessed is only ever a proposal: the rows are computed and the sampler chooses as it
 * would have, so a wrong guess costs time and never changes an answer. How much is guessed follows
 * from how well it went: longer runs after hits, longer matches asked for after misses, and a rest
 * when it does not pay.
 *
 * Not thread-safe. Allocates in proportion to the text. */
#ifndef CAKE_MASTER_SCHEDULER_LOOKUP_H
#define CAKE_MASTER_SCHEDULER_LOOKUP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cake_lookup cake_lookup;

cake_lookup *cake_lookup_new(void);
void cake_lookup_free(cake_lookup *l);

/* Append up to `room` guesses to tokens[0..n) (which has room for them); returns how many. The
 * first n_sure tokens are certain, what follows was guessed before and continues that guess. Call
 * with n_sure never decreasing. */
uint32_t cake_lookup_guess(cake_lookup *l, uint32_t *tokens, uint32_t n_sure, uint32_t n,
                           uint32_t room);
/* The most it would guess at once now; 0: it rests. Counts as a step of the rest. */
uint32_t cake_lookup_want(cake_lookup *l);
/* It goes so well that guesses may be based on guesses that are not confirmed yet. */
bool cake_lookup_sure(const cake_lookup *l);
/* The share of guesses that are right, of late. */
double cake_lookup_rate(const cake_lookup *l);
/* One run of guesses was checked: the first n_right of n. */
void cake_lookup_checked(cake_lookup *l, uint32_t n_right, uint32_t n);
/* Guessing does not pay now, whatever the rate: rest. */
void cake_lookup_rest(cake_lookup *l);

#endif
