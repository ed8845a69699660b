/* Perplexity of a text under a model, and how far a model is from a reference.
 *
 * The text is cut into windows that do not overlap. Each begins with the model's bos, where it has
 * one; every token that has another before it in its window counts once. A last window shorter than
 * half is left out, unless it is the only one. Windows are summed in order, so that the figures do
 * not depend on how they were batched. */
#ifndef CAKE_MASTER_TOOLS_PERPLEXITY_H
#define CAKE_MASTER_TOOLS_PERPLEXITY_H

#include "master/scheduler/scheduler.h"

typedef struct {
    const uint32_t *ids; /* [n_ids] the text without special tokens; borrowed */
    size_t n_ids;
    int64_t bos;             /* -1: none */
    uint32_t window;         /* positions of a window, bos included; 2 or more */
    uint32_t n_vocab;        /* width of the logits */
    size_t max_windows;      /* 0: all */
    uint32_t parallel;       /* windows under way at once; with a reference, one */
    cake_cluster *model;     /* deployed for sequences of `window` positions */
    cake_cluster *reference; /* NULL, or of a model with the same tokens */
    void (*progress)(void *arg, uint64_t done, uint64_t total); /* tokens; may be NULL */
    void *arg;
} cake_perplexity_config;

/* Means over the counted tokens, in nats; errors are standard errors of the means. */
typedef struct {
    uint64_t n_tokens, n_windows;
    double nll, nll_error;          /* -ln p(token); perplexity is e^nll */
    double reference_nll;           /* with a reference: the same of the reference, */
    double kld, kld_error, kld_max; /* KL(reference || model), */
    double top1;                    /* and how often the likeliest token is the same */
} cake_perplexity;

/* Windows that the text gives, and tokens that count in them. */
size_t cake_perplexity_windows(const cake_perplexity_config *c);
uint64_t cake_perplexity_tokens(const cake_perplexity_config *c);

/* Blocks until the text is scored. Allocates; with a reference, window x n_vocab
 * floats. CAKE_EINVAL: a text of less than two tokens; otherwise what the clusters say. */
cake_status cake_perplexity_run(const cake_perplexity_config *c, cake_perplexity *out,
                                cake_error *err);

/* ln of the sum of e^x over [n], and KL(p || q) of two rows of logits with their log-sums.
 * scratch: [n]. */
double cake_log_sum_exp(const float *x, size_t n, float *scratch);
double cake_kl_divergence(const float *p, double p_lse, const float *q, double q_lse, size_t n,
                          float *scratch);

#endif
