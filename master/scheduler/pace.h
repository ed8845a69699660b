/* How long batches take, learned from their results, and what follows from it: how many batches to
 * keep in flight, how many rows of prompts may ride with other people's tokens, and whether
 * guessing ahead pays.
 *
 * The model: a batch of d decoding rows takes a + b d on a stage (kept for the slowest stage and
 * for the sum of all), a row of a prompt adds c, and the network adds a constant to the way round.
 * G batches in flight take turns on the slowest stage, so a token's way round is max(G (a + b d),
 * sum of stages + network).
 *
 * Only speed depends on it, never a result. Pure arithmetic, no allocation. */
#ifndef CAKE_MASTER_SCHEDULER_PACE_H
#define CAKE_MASTER_SCHEDULER_PACE_H

#include <stdbool.h>
#include <stdint.h>

/* A line through what was seen, the past fading: y = a + b d. */
typedef struct {
    double w, d, dd, y, dy;
} cake_pace_line;

typedef struct {
    uint32_t n_stages;
    cake_pace_line slowest, sum; /* ns of decoding batches */
    double prompt_ns;            /* of one prompt row on the slowest stage; 0: not known */
    double network_ns;
    uint32_t mixed; /* batches since the last one that only decoded */
} cake_pace;

/* What a batch took: rows by kind, the slowest stage, all stages together, and the rest of its
 * time between sending and result that was not spent in a queue. */
void cake_pace_add(cake_pace *p, uint32_t n_decode, uint32_t n_prompt, double slowest_ns,
                   double sum_ns, double network_ns);

/* How many batches to deal n streams out to, at most max: the number that gives most tokens a
 * second. At least 1. */
uint32_t cake_pace_groups(const cake_pace *p, uint32_t n_streams, uint32_t max);
/* Batches that keep every stage busy when each has n_rows decoding rows, at most max. */
uint32_t cake_pace_depth(const cake_pace *p, uint32_t n_rows, uint32_t max);
/* Rows of prompts for a batch that n_decode streams ride in, when n_flights batches are in flight
 * and n_streams decode in all: so many that nobody's next token takes more than 1.4 times as long.
 * Where not even one row fits into each, one of the batches carries one: n_carrying of those in
 * flight do. UINT32_MAX: nobody decodes. 0: this batch should only decode. */
uint32_t cake_pace_prompt_rows(const cake_pace *p, uint32_t n_decode, uint32_t n_streams,
                               uint32_t n_groups, uint32_t n_flights, uint32_t n_carrying);
/* Does a row that is right with the given probability save more time than it costs, where
 * n_decode rows share a batch and n_groups batches are in flight? */
bool cake_pace_guess_pays(const cake_pace *p, double probability, uint32_t n_decode,
                          uint32_t n_groups);

#endif
