/* The compute side of a node: one thread that owns the bundle store, the stages and every batch.
 *
 * The I/O thread hands it messages in the order they came (assign, chunks, batches) and takes
 * what it produced from an output queue. So sockets are never blocked by disk or arithmetic, and
 * the state of the node has one owner. */
#ifndef CAKE_WORKER_NODE_COMPUTE_H
#define CAKE_WORKER_NODE_COMPUTE_H

#include "common/queue.h"
#include "proto/control.h"
#include "proto/msg.h"

typedef struct cake_compute cake_compute;

typedef struct {
    const char *cache_dir;       /* bundle store; NULL: no store, only the local model */
    uint64_t cache_budget_bytes; /* 0: no limit */
    const char *local_model; /* folder of the model an assignment without manifest means, or NULL */
    unsigned threads;        /* 0: one per core */
    uint64_t memory_bytes;   /* most memory for weights, KV and scratch; 0: what is free */
    unsigned spin_us;        /* how long idle threads look for work before they sleep */
} cake_compute_options;

/* What the compute thread produced. */
typedef enum {
    CAKE_OUT_MASTER, /* send msg to peer, the master of the plan */
    CAKE_OUT_NEXT,   /* send msg along slot's link (or to the master when it is relayed) */
    CAKE_OUT_LINKS,  /* a new assignment: open its links; assign is valid until the next LINKS */
    CAKE_OUT_READY,  /* send status once the links are settled */
} cake_out_kind;
typedef struct {
    cake_out_kind kind;
    cake_peer peer;
    uint64_t epoch;
    uint32_t slot; /* stage of the assignment: 0..n_stages-1 */
    cake_msg *msg;
    cake_worker_status status;
    uint32_t n_stages;
    cake_assign_stage stages[CAKE_ASSIGN_STAGES_MAX];
} cake_out;

/* Start the thread and measure the machine (some 100 ms). Strings are copied. */
cake_status cake_compute_new(cake_compute **out, const cake_compute_options *o, cake_error *err);
/* Finish the message at hand, drop the rest, free everything. */
void cake_compute_free(cake_compute *c);

/* Hand over a message (CONTROL assign and stats, CHUNK, BATCH); m is taken. */
void cake_compute_push(cake_compute *c, cake_msg *m);
/* Rows of this batch of the present plan need not be computed. Any thread; never blocks. */
void cake_compute_cancel(cake_compute *c, uint64_t batch);
size_t cake_compute_backlog(cake_compute *c);

/* Output queue of cake_out*, each the taker's to free (and its msg to send or free). */
cake_queue *cake_compute_outputs(cake_compute *c);

/* Machine description for hello: threads, isa, memory, speeds. Any thread. */
void cake_compute_describe(cake_compute *c, cake_hello *out);

#endif
