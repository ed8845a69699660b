/* What a run of units costs on a node and a leg between two nodes: the planner's arithmetic,
 * private to master/plan. All sums are prefix sums, so every question is O(1). */
#ifndef CAKE_MASTER_PLAN_COST_H
#define CAKE_MASTER_PLAN_COST_H

#include "master/plan/planner.h"

#define CAKE_PLAN_NONE UINT32_MAX

typedef struct {
    uint32_t begin, end; /* layers pinned to the node as units; begin == end: none */
    bool embedding, head;
} cake_plan_pinned;

typedef struct {
    const cake_plan_request *req;
    uint32_t n_units, n_nodes;
    uint32_t local;              /* node index or CAKE_PLAN_NONE */
    uint32_t master;             /* end of legs: local, or n_nodes when there is no local node */
    uint64_t *weight;            /* [n_units + 1] prefix sums; the tied embedding counted */
    uint64_t *kv;                /* [n_units + 1] prefix sums, all positions and sequences */
    uint64_t *scratch;           /* range maxima: [level][unit] */
    double *decode;              /* [n_nodes][n_units + 1] prefix sums of seconds per token */
    double *prefill;             /* [n_nodes][n_units + 1] */
    const cake_plan_link **link; /* [n_nodes + 1][n_nodes + 1]; NULL: unreachable */
    cake_plan_link fallback;
    uint32_t *owner;          /* [n_units] node a unit is pinned to, or CAKE_PLAN_NONE */
    cake_plan_pinned *pinned; /* [n_nodes] */
} cake_plan_cost;

typedef struct {
    double s;    /* latency added to a token; INFINITY when there is no way */
    double busy; /* time the busiest link of the way is occupied */
    bool relayed;
} cake_plan_leg;

/* Checks the request (CAKE_EINVAL, CAKE_ECONFIG). Deinit also after a failure. */
cake_status cake_plan_cost_init(cake_plan_cost *c, const cake_plan_request *req, cake_error *err);
void cake_plan_cost_deinit(cake_plan_cost *c);

/* Memory of units [a0,a1) and [b0,b1) on one node together (either may be empty). */
typedef struct {
    uint64_t weight, kv, scratch, total;
} cake_plan_memory;
cake_plan_memory cake_plan_memory_of(const cake_plan_cost *c, uint32_t a0, uint32_t a1, uint32_t b0,
                                     uint32_t b1);
bool cake_plan_fits(const cake_plan_cost *c, uint32_t node, uint32_t begin, uint32_t end);

/* Seconds per decoded token of a stage, with the node's overhead. */
double cake_plan_stage_s(const cake_plan_cost *c, uint32_t node, uint32_t begin, uint32_t end);

/* from, to: node indices or c->master. */
cake_plan_leg cake_plan_leg_of(const cake_plan_cost *c, uint32_t from, uint32_t to, uint64_t bytes);
/* Can the master talk to this node at all? */
bool cake_plan_reachable(const cake_plan_cost *c, uint32_t node);

/* First leg: a handful of token ids. */
enum { CAKE_PLAN_TOKEN_BYTES = 128 };

#endif
