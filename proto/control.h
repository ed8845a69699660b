/* Control messages between master and worker: small JSON objects with a member "op".
 *
 *   master -> worker   hello                     who are you?
 *                      assign                    hold these stages (epoch in the message header)
 *                      release                   this master is done; whoever assigns next may
 *                      stats                     what was collected of one input of a unit;
 *                                                answered by a RESULT with the request's id
 *   worker -> master   hello                     identity, machine and measured speed
 *                      need                      bundle ranges still to be sent
 *                      status                    fetching / linking / loading / ready / failed /
 * idle
 *
 * Every number is range-checked on the way in; text is capped; unknown members are ignored and an
 * unknown op is an error. Pure: no sockets, threads or logs. */
#ifndef CAKE_PROTO_CONTROL_H
#define CAKE_PROTO_CONTROL_H

#include "common/status.h"
#include "proto/discovery.h"
#include "proto/msg.h"
#include "proto/transfer.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    CAKE_ASSIGN_STAGES_MAX = 8, /* stages of one plan on one node */
    CAKE_ASSIGN_SEQS_MAX = 4096,
    CAKE_ASSIGN_CONTEXT_MAX = 1 << 24,
    CAKE_ASSIGN_BLOCKS_MAX = 1 << 24,
    CAKE_ASSIGN_UNITS_MAX = 4098,
};

typedef enum {
    CAKE_CONTROL_HELLO,
    CAKE_CONTROL_ASSIGN,
    CAKE_CONTROL_RELEASE,
    CAKE_CONTROL_NEED,
    CAKE_CONTROL_STATUS,
    CAKE_CONTROL_STATS,
} cake_control_op;

/* What a worker says of itself. The speeds are measured with the product's own kernels. */
typedef struct {
    char id[CAKE_NODE_ID_HEX];
    char name[CAKE_NODE_NAME_MAX];
    char version[32], isa[16];
    uint32_t threads;
    uint64_t memory_bytes; /* for weights, KV and scratch; what it holds now counts as free */
    double read_bw;        /* bytes/s of packed weights in decode */
    double ops;            /* multiply-accumulates/s in prefill */
    bool busy;             /* serves another master, which is alive */
} cake_hello;

/* One stage of an assignment. */
typedef struct {
    uint32_t index, n_stages;      /* position in the chain, length of the chain */
    uint32_t unit_begin, unit_end; /* end exclusive */
    bool direct;                   /* send to `next`; else hand everything to the master */
    char next[CAKE_ADDRESS_MAX];   /* worker of stage index+1 */
} cake_assign_stage;

typedef struct {
    uint32_t n_stages;
    cake_assign_stage stages[CAKE_ASSIGN_STAGES_MAX];
    const char *config;   /* text of config.json; NULL: the node's own local model */
    const char *manifest; /* text of the bundle's manifest; NULL with config */
    bool f32_mode;
    bool kv_q8;   /* KV cache in 8-bit integers; not with f32_mode, which keeps f32 */
    bool collect; /* keep statistics of the matrices' inputs */
    cake_wire_type wire;
    uint32_t context, n_seqs, n_blocks, max_rows;
    json_object *owner; /* holds config and manifest after parsing; cake_assign_deinit */
} cake_assign;
void cake_assign_deinit(cake_assign *a);

/* Most rows of a batch whose logits may be asked for: the stage with the head keeps that many rows
 * of logits, 16 MiB at most (one row at least). Master and worker both go by it. */
static inline uint32_t cake_logit_rows_max(uint32_t vocab, uint32_t max_rows) {
    uint32_t n = vocab ? (16u << 20) / 4 / vocab : 1;
    if (n < 1) n = 1;
    return n < max_rows ? n : max_rows;
}

typedef enum {
    CAKE_STATE_IDLE,
    CAKE_STATE_FETCHING, /* done/total: bundle bytes */
    CAKE_STATE_LOADING,  /* done/total: packed bytes */
    CAKE_STATE_READY,    /* weights loaded and the self-test passed */
    CAKE_STATE_FAILED,   /* code, message */
} cake_worker_state;
const char *cake_worker_state_name(cake_worker_state s);

typedef struct {
    cake_worker_state state;
    uint64_t done, total;
    uint64_t reused_bytes;                        /* bundle bytes that were in the cache already */
    uint64_t weight_bytes, kv_bytes, other_bytes; /* READY: memory held */
    bool relayed[CAKE_ASSIGN_STAGES_MAX]; /* READY: stage i could not reach its next worker */
    cake_status code;
    char message[CAKE_ERROR_TEXT_MAX];
} cake_worker_status;

typedef struct {
    uint64_t transfer; /* id the chunks must carry */
    uint64_t size;     /* of the bundle */
    cake_ranges ranges;
} cake_need;

/* Ask for the statistics of an input (cake_input_name). The answer has a row for each matrix: its
 * values are the means of the columns' squares, its descriptor says seq = the matrix, pos and token
 * = low and high half of the number of rows seen. */
typedef struct {
    uint32_t unit;
    char input[16];
} cake_stats_ask;

/* Builders: a message ready to send, or NULL when memory is out or the JSON is above the cap. */
cake_msg *cake_control_hello_ask(void);
cake_msg *cake_control_hello(const cake_hello *h);
cake_msg *cake_control_assign(uint64_t epoch, const cake_assign *a);
cake_msg *cake_control_release(uint64_t epoch);
cake_msg *cake_control_need(uint64_t epoch, const cake_need *n);
cake_msg *cake_control_status(uint64_t epoch, const cake_worker_status *s);

cake_msg *cake_control_stats(uint64_t epoch, uint64_t request, const cake_stats_ask *a);

/* Parse the JSON of a CONTROL message (cake_msg_body). *o: the caller's (json_object_put). */
cake_status cake_control_parse(cake_view body, cake_control_op *op, json_object **o,
                               cake_error *err);
cake_status cake_control_read_hello(json_object *o, cake_hello *out, cake_error *err);
/* Keeps a reference to o until cake_assign_deinit. */
cake_status cake_control_read_assign(json_object *o, cake_assign *out, cake_error *err);
cake_status cake_control_read_need(json_object *o, cake_need *out, cake_error *err);
cake_status cake_control_read_stats(json_object *o, cake_stats_ask *out, cake_error *err);
cake_status cake_control_read_status(json_object *o, cake_worker_status *out, cake_error *err);

#endif
