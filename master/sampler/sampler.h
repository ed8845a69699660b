/* From one row of logits to one token id.
 *
 * The chain, in this order (the order of llama.cpp, so settings people know keep their meaning):
 *   logit bias, repeat / frequency / presence penalties over the last repeat_last_n tokens,
 *   then temperature == 0: the largest logit (lowest id among equals);
 *   else top-k, top-p, min-p on the untempered distribution, temperature, one draw.
 * Between equal logits the lower id ranks first everywhere.
 *
 * The draw is a pure function of (parameters, logits, history, allowed set, position): the random
 * number is a hash of seed and position, not a running state, so a replay after a failure, another
 * batch composition or another machine continues the same stream. Only IEEE add, mul, div, compare
 * are used, in a fixed order; no libm.
 *
 * Threads: one cake_sampler belongs to one thread at a time. cake_sampler_new allocates; nothing
 * else does. */
#ifndef CAKE_MASTER_SAMPLER_SAMPLER_H
#define CAKE_MASTER_SAMPLER_SAMPLER_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_LOGIT_BIAS_MAX = 1024,
    CAKE_TOP_LOGPROBS_MAX = 64,
};
#define CAKE_REPEAT_LAST_ALL UINT32_MAX /* repeat_last_n: the whole history */

typedef struct {
    uint32_t token;
    float bias; /* [-100, 100], added to the logit */
} cake_logit_bias;

typedef struct {
    float temperature;                 /* [0, 100]; 0 = greedy */
    uint32_t top_k;                    /* 0 = off */
    float top_p;                       /* (0, 1]; 1 = off */
    float min_p;                       /* [0, 1]; 0 = off */
    float repeat_penalty;              /* [0.01, 100]; 1 = off */
    float presence_penalty;            /* [-100, 100]; 0 = off */
    float frequency_penalty;           /* [-100, 100]; 0 = off */
    uint32_t repeat_last_n;            /* window of the three penalties, in tokens; 0 = off */
    uint64_t seed;                     /* any value; draw a random one where the user gave none */
    const cake_logit_bias *logit_bias; /* borrowed during cake_sampler_new only; NULL when none */
    size_t n_logit_bias;               /* at most CAKE_LOGIT_BIAS_MAX */
} cake_sampler_params;

typedef struct {
    uint32_t token;
    float logprob; /* natural log */
} cake_logprob;

typedef struct cake_sampler cake_sampler;

/* temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, penalties off, window 64, seed 0, no bias. */
void cake_sampler_params_default(cake_sampler_params *p);

/* CAKE_EINVAL naming the first field out of range. n_vocab bounds the logit_bias ids; 0 = not known
 * yet. */
cake_status cake_sampler_params_check(const cake_sampler_params *p, uint32_t n_vocab,
                                      cake_error *err);

/* Copies p (and its bias list), which must have passed the check with this n_vocab > 0. NULL when
 * memory is out. */
cake_sampler *cake_sampler_new(const cake_sampler_params *p, uint32_t n_vocab);
void cake_sampler_free(cake_sampler *s);

/* Restrict the following picks to the tokens whose bit is set: bit (id & 31) of allowed[id >> 5],
 * n_vocab bits, borrowed until replaced. NULL (the start state) allows all. For grammars. */
void cake_sampler_allow(cake_sampler *s, const uint32_t *allowed);

/* Choose one token.
 *   logits    in f32 [n_vocab], not changed
 *   history   in, oldest first: prompt and generated tokens so far (ids >= n_vocab are ignored)
 *   position  of the token to be chosen in its sequence: the stream counter
 * Errors: CAKE_EINVAL when a logit is NaN or infinite (names the first), or nothing is allowed. */
cake_status cake_sampler_pick(cake_sampler *s, const float *logits, const uint32_t *history,
                              size_t n_history, uint64_t position, uint32_t *token,
                              cake_error *err);

/* Log-probabilities under the model's own distribution (log-softmax of the logits as given, before
 * bias, penalties and temperature), as the OpenAI API reports them.
 *   chosen  out: logprob of `token`
 *   top     out [n_top], most likely first; n_top <= CAKE_TOP_LOGPROBS_MAX and <= n_vocab; may be
 * NULL when 0 CAKE_EINVAL for NaN or infinite logits, an unknown token or too large n_top. */
cake_status cake_sampler_logprobs(const cake_sampler *s, const float *logits, uint32_t token,
                                  uint32_t n_top, float *chosen, cake_logprob *top,
                                  cake_error *err);

#endif
