/* Private to master/scheduler/: sequences, batches in flight and the scheduler's state, shared by
 * its life (scheduler.c), what goes into batches (batch.c) and what comes of them (result.c). */
#ifndef CAKE_MASTER_SCHEDULER_SCHEDULER_IMPL_H
#define CAKE_MASTER_SCHEDULER_SCHEDULER_IMPL_H

#include "master/scheduler/fair.h"
#include "master/scheduler/lookup.h"
#include "master/scheduler/pace.h"
#include "master/scheduler/scheduler.h"

enum { CAKE_FLIGHTS_MAX = 64 };

typedef enum { WAITING, PREFILL, DECODE, ENDED } cake_phase;

typedef struct cake_sequence {
    cake_fair_item fair; /* first; its place in the queue while WAITING */
    uint64_t id;
    cake_sequence_request r;
    uint32_t *tokens;             /* prompt, then what was chosen, then guesses */
    uint32_t n_tokens, n_guesses; /* certain; guessed after them */
    uint32_t cap;                 /* of tokens */
    cake_phase phase;
    uint32_t slot;   /* on the stages, while PREFILL or DECODE */
    uint32_t limit;  /* most positions */
    uint32_t cached; /* positions that were there already */
    uint32_t sent;   /* positions sent; DECODE: n_tokens - 1 when the last token is still to go */
    uint32_t done;   /* positions computed, and right */
    uint32_t round;  /* rows of an earlier round followed a wrong guess and are void */
    uint64_t batch;  /* the last one it is in */
    uint32_t n_windows;  /* DECODE: batches of this round in flight */
    uint32_t n_flying;   /* batches in flight that hold rows of it, of any round */
    cake_lookup *lookup; /* NULL: does not guess */
    struct cake_sequence *next;
} cake_sequence;

/* The rows of a sequence in a batch: positions [begin, end). */
typedef struct {
    cake_sequence *q;
    uint32_t begin, end, round;
    uint32_t n_guesses; /* of the rows */
} cake_member;

/* A row whose logits come back. */
typedef struct {
    cake_sequence *q;
    uint32_t pos, round, member;
} cake_asked;

typedef struct {
    uint64_t id;
    bool used, canceled;
    uint64_t sent_ns;
    uint32_t n_decode, n_prompt; /* rows by kind */
    uint32_t n_asked;
    cake_asked *asked; /* [max_logits] */
    uint32_t n_members;
    cake_member *members; /* [n_seqs] */
} cake_flight;

struct cake_scheduler {
    cake_cluster *cluster;
    uint32_t n_vocab, n_seqs, max_rows, max_logits, context, n_stages;
    bool can_cut;    /* positions can be taken back */
    cake_prefix *kv; /* slots and blocks of the stages */
    cake_pace pace;
    cake_sequence *all; /* every sequence that has not ended or has rows in flight, oldest first */
    cake_fair queue;    /* those that wait */
    uint32_t n_waiting, n_decoding, n_prefilling;
    cake_kv_ops ops; /* to send with the next batch */
    uint64_t next_id, next_batch;
    uint32_t n_flights, max_flights, n_decode_flights;
    cake_flight flights[CAKE_FLIGHTS_MAX];
    cake_row *rows;
    float *logits;
    uint64_t batch_timeout_ns;
    int wake_fd; /* ends a step when readable; -1: none */
    bool broken; /* a batch failed: the stages' state is unknown */
    cake_error broken_why;
    cake_scheduler_stats stats;
};

/* scheduler.c */
void cake_sequence_phase(cake_scheduler *s, cake_sequence *q, cake_phase phase);
void cake_sequence_end(cake_scheduler *s, cake_sequence *q, cake_done how, const cake_error *err);
/* Take what is over off the list. */
void cake_scheduler_reap(cake_scheduler *s);
/* Tell the stages not to compute batches that nobody waits for any more. */
void cake_scheduler_cancel_dead(cake_scheduler *s);
void cake_scheduler_fail(cake_scheduler *s, const cake_error *err);

/* batch.c: send what can be sent. */
cake_status cake_scheduler_send(cake_scheduler *s, cake_error *err);

/* result.c: of the cluster, for a cake_scheduler. */
void cake_scheduler_on_message(void *scheduler, const cake_msg *m);

#endif
