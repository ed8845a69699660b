/* The scheduler: many sequences over one deployed plan, batched so that every stage has work.
 *
 * A batch mixes the next token of sequences that decode with chunks of prompts that are prefilled.
 * The sequences that decode are dealt out over as many batches in flight as the measured times of
 * stages and links make worthwhile (pace.h); those that travel together stay together. Chunks of
 * one prompt follow each other through the pipeline without waiting; beside others who decode they
 * are kept so small that a token takes at most 1.4 times as long.
 *
 * A sequence begins where the longest prefix ends that the stages hold of any other (prefix.h).
 * Sequences wait for a slot by client, in turn (fair.h). With `speculate` the rows after a token
 * may be guessed from the sequence's own text and checked in one batch, several such in flight
 * (lookup.h); `next` sees every position once, in order, and with the logits it would have seen.
 *
 * A sequence that ends takes batches with it that only it waits for: the stages are told not to
 * compute them.
 *
 * Which rows share a batch never changes a result (worker/engine), so scheduling is free to choose.
 *
 * One thread: that of the cluster's loop. Callbacks run inside cake_scheduler_step or the cluster's
 * poll and may submit and cancel. */
#ifndef CAKE_MASTER_SCHEDULER_SCHEDULER_H
#define CAKE_MASTER_SCHEDULER_SCHEDULER_H

#include "master/cluster/cluster.h"
#include "master/scheduler/prefix.h"

typedef struct cake_scheduler cake_scheduler;

typedef enum {
    CAKE_DONE_STOP,     /* next() said so */
    CAKE_DONE_LENGTH,   /* the context is full */
    CAKE_DONE_CANCELED, /* cake_scheduler_cancel */
    CAKE_DONE_ERROR,    /* see err */
} cake_done;

typedef enum {
    CAKE_SPECULATE_OFF,
    CAKE_SPECULATE_AUTO,   /* where it pays */
    CAKE_SPECULATE_ALWAYS, /* whatever it costs, for tests */
} cake_speculate;

/* A sequence to compute. Strings and arrays are copied; callbacks get `arg`. */
typedef struct {
    const uint32_t *prompt; /* [n_prompt], n_prompt >= 1 */
    uint32_t n_prompt;
    uint32_t max_positions;   /* prompt and answer together; 0: the plan's context */
    uint64_t client;          /* requests of one client share its turns */
    int32_t priority;         /* among those of one client: lower goes first */
    uint64_t deadline_ns;     /* cake_now_ns: it ends with CAKE_ETIMEOUT then; 0: none */
    cake_speculate speculate; /* guess ahead from the text itself */
    bool score; /* logits of every prompt row are wanted, in order, and nothing is generated */
    void *arg;
    /* Logits [n_vocab] of the row at `position` (borrowed during the call; may be written to). With
     * score: called once per prompt row, *token ignored. Otherwise called when the prompt is done
     * and after each token: choose the next into *token; false ends the sequence (the chosen token
     * is not computed). */
    bool (*next)(void *arg, uint32_t position, float *logits, uint32_t n_vocab, uint32_t *token);
    /* NULL, or told how much of the prompt is done: when it begins (`cached` positions were there
     * already, of others or an earlier turn) and after every part of it. */
    void (*progress)(void *arg, uint32_t cached, uint32_t done);
    /* The sequence is over; called exactly once. err is set for CAKE_DONE_ERROR. */
    void (*done)(void *arg, cake_done how, const cake_error *err);
} cake_sequence_request;

/* Sums since creation, for reports. */
typedef struct {
    uint64_t batches, rows, prompt_rows, decode_rows;
    uint64_t cached_rows;            /* of prompts, that were not computed again */
    uint64_t guessed, guessed_right; /* rows of guesses sent; tokens that were guessed */
    uint64_t canceled;               /* batches the stages were told not to compute */
    uint32_t n_stages;
    struct {
        uint64_t compute_ns, queue_ns, rows;
    } stage[CAKE_STAGES_MAX];
    uint64_t flight_ns;                   /* sum over batches, from sending to result */
    uint32_t running, waiting, in_flight; /* sequences, batches */
    cake_prefix_stats kv;
} cake_scheduler_stats;

/* c must have a deployed plan; takes over its handler. */
cake_status cake_scheduler_new(cake_scheduler **out, cake_cluster *c, cake_error *err);
/* Ends what is left with CAKE_DONE_CANCELED. */
void cake_scheduler_free(cake_scheduler *s);

/* Queue a sequence; *id names it for cancel. CAKE_EINVAL: empty prompt or a token outside the
 * vocabulary; CAKE_ENOSPACE: the prompt does not fit into the context; CAKE_EAGAIN: the queue is
 * full. */
cake_status cake_scheduler_submit(cake_scheduler *s, const cake_sequence_request *r, uint64_t *id,
                                  cake_error *err);
/* End a sequence; its memory on the stages is free again with the next batch. Unknown ids are
 * ignored. */
void cake_scheduler_cancel(cake_scheduler *s, uint64_t id);

/* Send what can be sent, then wait for at most timeout_ms for results. A lost worker ends every
 * sequence with CAKE_DONE_ERROR and is returned. */
cake_status cake_scheduler_step(cake_scheduler *s, int timeout_ms, cake_error *err);
/* From now on a step also ends when fd is readable (-1: no more); the caller reads it. */
void cake_scheduler_wake_on(cake_scheduler *s, int fd);
/* The plan failed: every sequence was ended and none is taken any more. */
bool cake_scheduler_broken(const cake_scheduler *s);
/* No sequence running or waiting. */
bool cake_scheduler_idle(const cake_scheduler *s);

void cake_scheduler_stats_get(const cake_scheduler *s, cake_scheduler_stats *out);

#endif
