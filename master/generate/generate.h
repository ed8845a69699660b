/* One completion on its way: from rows of logits to text, with what ends it. Shared by the verbs
 * that generate.
 *
 * Threads: a generation belongs to one thread at a time; the tokenizer and the eos list are only
 * read. */
#ifndef CAKE_MASTER_GENERATE_GENERATE_H
#define CAKE_MASTER_GENERATE_GENERATE_H

#include "master/grammar/matcher.h"
#include "master/model/model.h"
#include "master/sampler/sampler.h"
#include "master/tokenizer/tokenizer.h"

enum { CAKE_EOS_LIST_MAX = CAKE_EOS_MAX + 2 };

/* The tokens that end a text: of generation_config.json, else of config.json, else of the
 * tokenizer. */
typedef struct {
    uint32_t v[CAKE_EOS_LIST_MAX], n;
} cake_eos;
void cake_eos_find(cake_eos *e, const cake_model *model, const cake_tokenizer *tokenizer);
bool cake_eos_has(const cake_eos *e, uint32_t id);

/* ---- stop strings ---- */

/* Text passes through; what might be the beginning of a stop string is held back until it is known.
 */
typedef struct {
    char **stop; /* own copies */
    size_t *len, n;
    char *buf;                         /* held back, then what is new */
    size_t n_buf, cap, n_given, which; /* which: the one that was hit */
    bool hit;
} cake_stopper;

/* n strings, none empty. Copies them. */
void cake_stopper_init(cake_stopper *s, const char *const *stop, size_t n);
void cake_stopper_deinit(cake_stopper *s);
/* Add text and get what is certain (borrowed until the next call): up to the first occurrence of a
 * stop string, without it. True when a stop string was found: nothing more comes out. */
bool cake_stopper_push(cake_stopper *s, const char *text, size_t len, const char **out,
                       size_t *out_len);
/* The end of the text: what was held back. */
void cake_stopper_flush(cake_stopper *s, const char **out, size_t *out_len);

/* ---- generation ---- */

typedef enum {
    CAKE_FINISH_NONE,   /* not over */
    CAKE_FINISH_STOP,   /* the model ended it, or a stop string */
    CAKE_FINISH_LENGTH, /* max_tokens */
    CAKE_FINISH_ERROR,  /* see error */
} cake_finish;

typedef struct {
    const cake_tokenizer *tokenizer; /* borrowed, as eos */
    const cake_eos *eos;
    cake_sampler_params sampler; /* checked by cake_generation_new */
    uint32_t n_vocab;            /* of the model */
    uint64_t max_tokens;         /* to generate at most; the ending token counts */
    const char *const *stop;     /* [n_stop], copied */
    size_t n_stop;
    bool ignore_eos;
    const uint32_t *shown; /* [n_shown] special tokens that are text, copied */
    size_t n_shown;
    /* The text follows this grammar (NULL: any text); both borrowed. The token that is sampled is
     * taken when the grammar takes it; else a second one is drawn among those it takes, with
     * another random number. The text ends where the grammar lets nothing follow. */
    const cake_grammar *grammar;
    const cake_token_trie *trie;
    bool continues; /* the text goes on where the prompt's ends: a blank before its first word
                       stays, and so does the rest of a character that the prompt begins */
} cake_generation_config;

typedef struct cake_generation {
    cake_ids ids; /* prompt, then what was generated (without the token that ended it) */
    size_t n_prompt, n_generated;
    cake_finish finish;
    cake_error error;
    /* private */
    cake_generation_config config;
    cake_logit_bias *bias;
    cake_sampler *chooser; /* as the next: from the first token on */
    cake_matcher *matcher;
    cake_detok *detok;
    cake_stopper stopper;
} cake_generation;

/* The prompt is copied. CAKE_EINVAL names the sampler parameter out of range. */
cake_status cake_generation_new(cake_generation **out, const cake_generation_config *c,
                                const uint32_t *prompt, size_t n_prompt, cake_error *err);
void cake_generation_free(cake_generation *g);

/* Choose the token after `position` from its logits. *text and *len: what is certain now (borrowed
 * until the next call on g, often empty). False: it is over, see g->finish; then call
 * cake_generation_end for the rest of the text. */
bool cake_generation_next(cake_generation *g, uint32_t position, const float *logits,
                          uint32_t *token, const char **text, size_t *len);
/* The text still held back, once, when nothing more comes. */
void cake_generation_end(cake_generation *g, const char **text, size_t *len);

#endif
