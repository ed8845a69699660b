/* The planner's search, private to master/plan: the best chain for one placement of embedding and
 * head on the local node, under a limit on the busiest resource. */
#ifndef CAKE_MASTER_PLAN_SEARCH_H
#define CAKE_MASTER_PLAN_SEARCH_H

#include "master/plan/cost.h"

typedef struct {
    uint32_t node, begin, end;
} cake_plan_run;

typedef struct {
    double total;        /* seconds per token */
    double busiest;      /* largest time per token of a node or link */
    cake_plan_run *runs; /* n_units + 2 places */
    uint32_t n_runs;
} cake_plan_chain;

typedef struct {
    const cake_plan_cost *c;
    /* Where the local node sits: its first stage [0, a) with front_min <= a <= front_max (none when
     * front_max is 0), its last stage [back, n_units) (none when back is n_units). */
    uint32_t front_min, front_max, back;
    bool single_ok;      /* the local node alone may hold everything as one stage */
    uint32_t head_owner; /* node the head must be on beside pins, or CAKE_PLAN_NONE */
    /* The nodes that may take one run anywhere, at most; `movers` in the order tried when not
     * exact. */
    const uint32_t *movers;
    uint32_t n_movers;
    uint32_t need; /* at least so many of them other than the local node take a run */
    bool all;      /* every one of them must */
    bool exact;    /* all orders and subsets; else the order given */
    double limit;  /* on the busiest resource; INFINITY: none */
    /* When not NULL: best total of a chain with / without each mover [n_movers]. Exact only. */
    double *with, *without, *without_any; /* without_any: without it and without regard to `need` */
} cake_plan_search;

/* Would the exact search of so many movers stay small? */
bool cake_plan_search_is_small(uint32_t n_movers, uint32_t n_units);

/* The chain of least total. CAKE_OK with chain filled, CAKE_ENOTFOUND when there is none,
 * CAKE_ENOMEM. chain->runs is the caller's. Ties go to fewer nodes, then to the earlier ones. */
cake_status cake_plan_search_run(const cake_plan_search *s, cake_plan_chain *chain,
                                 cake_error *err);

#endif
