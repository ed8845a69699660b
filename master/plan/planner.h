/* The planner: which node computes which contiguous run of the model, from measured numbers.
 *
 * A pure function: no sockets, files, clocks or logs. Given the same request it returns the same
 * plan.
 *
 * Units. A model with L layers has L + 2 units: 0 is the embedding, 1..L the layers, L+1 final norm
 * and head. A plan is a chain of stages, each a node and a run of units; together they cover 0..L+1
 * in order. Every remote node is at most one stage and holds at least one layer (unless pinned
 * otherwise). The local node (the master's own in-process worker) may be two: the first with the
 * embedding and any layers it takes, the last with the head (and with layers only if they are
 * pinned there, or come after all pinned ones and no other worker is there to take them).
 * Embedding and head stay on the local node unless they do not fit or are pinned elsewhere.
 *
 * Cost of a unit on a node, per decoded token: max(read_bytes / read_bw, macs / ops), plus its KV
 * bytes up to half the context / read_bw. Of a stage: its units plus the node's overhead. Of a leg:
 * half the round trip plus bytes / bandwidth; unreachable pairs go through the master, two legs.
 *
 * Latency chooses the nodes for which the sum over stages and legs (one token of one stream) is
 * least; then, with these nodes, among the plans within 2 % of that sum (less than two measurements
 * of a machine differ) the one whose busiest resource is least busy.
 *
 * Throughput minimises the busiest resource (a node's time per token, a link's transfer time), and
 * among those plans the sum.
 *
 * Search: dynamic programming over (set of nodes used, last of them, first unit not yet placed),
 * bisecting the limit on the busiest resource around it; see search.c. Exact (the bisection to one
 * part in 10^6) up to CAKE_PLAN_EXACT_NODES nodes. Above, the order of the nodes is fixed (nearest
 * neighbour by links) and subset and cuts are exact in that order: that is the optimum too when
 * links and layers are alike, as on a LAN they mostly are; plan.exact says which it was. */
#ifndef CAKE_MASTER_PLAN_PLANNER_H
#define CAKE_MASTER_PLAN_PLANNER_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_PLAN_EXACT_NODES = 12,
    CAKE_PLAN_MAX_NODES = 1025, /* 1,024 workers and the master */
    CAKE_PLAN_MAX_LAYERS = 1024,
    CAKE_PLAN_REASON_MAX = 200
};

typedef struct {
    uint64_t weight_bytes; /* resident, packed */
    uint64_t read_bytes; /* of the weights, read for one decoded token (embedding: one row; MoE: the
                            active experts) */
    uint64_t macs;       /* multiply-accumulates per token */
    uint64_t kv_bytes;   /* per position of one sequence; 0 for embedding and head */
    uint64_t state_bytes;   /* per sequence, whatever its length (delta-net state); mostly 0 */
    uint64_t scratch_bytes; /* working memory while this unit runs; a stage needs the largest of its
                               units */
} cake_plan_unit;

typedef struct {
    const char *id;        /* stable identity; borrowed */
    const char *name;      /* for people; borrowed */
    bool is_local;         /* the in-process worker; at most one node */
    unsigned threads;      /* shown only */
    uint64_t memory_bytes; /* free for weights, KV and scratch */
    double read_bw;        /* bytes/s the decode kernels reach, all threads; > 0 */
    double ops;            /* multiply-accumulates/s in prefill, all threads; > 0 */
    double overhead_s;     /* fixed cost of one batch through a stage here; >= 0 */
} cake_plan_node_in;

/* The way between two nodes (either direction). Missing links between remote nodes: the default
 * link of the request when rtt_s > 0 there, else relayed. */
typedef struct {
    uint32_t a, b;    /* indices of nodes; a != b. The master is the local node, or CAKE_PLAN_MASTER
                         when there is none */
    double rtt_s;     /* >= 0 */
    double bandwidth; /* bytes/s, > 0 */
    bool unreachable; /* a cannot reach b: the master relays */
} cake_plan_link;

#define CAKE_PLAN_MASTER                                                                           \
    UINT32_MAX /* the master itself; as a link end the same as the local node */

/* A run of units this node must hold, from a topology file. */
typedef struct {
    uint32_t node;
    uint32_t unit_begin, unit_end; /* end exclusive */
} cake_plan_pin;

typedef enum { CAKE_PLAN_LATENCY, CAKE_PLAN_THROUGHPUT } cake_plan_goal;

typedef struct {
    const cake_plan_unit *units; /* n_layers + 2 */
    uint32_t n_layers;
    bool tied_head; /* embedding and head are one tensor: a node with both holds it once (the head's
                       bytes) */
    const cake_plan_node_in *nodes;
    uint32_t n_nodes;
    const cake_plan_link *links;
    size_t n_links;
    double default_rtt_s,
        default_bandwidth; /* for pairs without a link; bandwidth 0: remote pairs are relayed */
    const cake_plan_pin *pins;
    size_t n_pins;
    cake_plan_goal goal;
    uint32_t context;          /* positions per sequence */
    uint32_t sequences;        /* at once; 0 means 1 */
    uint32_t min_workers;      /* at least this many remote nodes get layers */
    uint64_t activation_bytes; /* one row between stages */
    uint64_t logit_bytes;      /* one row of logits back to the master */
} cake_plan_request;

typedef struct {
    uint32_t node;
    uint32_t unit_begin, unit_end;   /* end exclusive */
    uint64_t weight_bytes, kv_bytes; /* kv: with state, for all sequences */
    double compute_s; /* decode of one token at half the context, with the node's overhead */
    double network_s; /* the leg into this stage, one token; 0 from the same node */
    bool relayed;     /* that leg goes through the master */
} cake_plan_stage;

typedef struct {
    bool used;
    uint64_t weight_bytes, kv_bytes, scratch_bytes, total_bytes, available_bytes;
    double compute_s;                  /* sum over its stages */
    char reason[CAKE_PLAN_REASON_MAX]; /* why it is used, or why not; one sentence without full stop
                                        */
} cake_plan_node;

typedef struct {
    cake_plan_stage *stages;
    uint32_t n_stages;
    cake_plan_node *nodes;       /* n_nodes, in the order of the request */
    uint32_t n_nodes, n_workers; /* n_workers: remote nodes used */
    double return_s;             /* leg of the logits back to the master */
    double token_s;              /* one token of one stream */
    double decode_tps;           /* 1 / token_s */
    double full_tps;             /* with the pipeline full, one row per stage in flight */
    double prefill_tps;          /* pipeline full of prompt rows */
    uint32_t slowest_stage;      /* largest compute_s */
    bool exact;
} cake_plan;

/* Fill *plan (free with cake_plan_deinit).
 * CAKE_ENOSPACE: does not fit; the message has needed, available per node, missing, and the remedy.
 * CAKE_EUNAVAIL: fewer workers than min_workers. CAKE_ECONFIG: pins contradict each other.
 * CAKE_EINVAL: the request itself is malformed. Allocates; does not block; seconds at worst for
 * hundreds of nodes. */
cake_status cake_plan_make(const cake_plan_request *req, cake_plan *plan, cake_error *err);
void cake_plan_deinit(cake_plan *plan);

/* Largest context (at most req->context) for which some plan fits, 0 when none does even for one
 * position. */
uint32_t cake_plan_max_context(const cake_plan_request *req);

/* The sum of weights over all units, tied tensor counted once: what one node would hold. */
uint64_t cake_plan_model_bytes(const cake_plan_request *req);

#endif
