/* The planner: tries the placements of embedding and head in order of preference, searches chains
 * for each, and turns the chain found into a plan with memory, expected speed and reasons. See
 * planner.h. */
#include "master/plan/planner.h"
#include "common/cli/human.h"
#include "common/mem.h"
#include "master/plan/cost.h"
#include "master/plan/search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More movers than this are thinned out first: a chain cannot use more nodes than there are layers.
 */
enum { ORDERED_NODES = 128 };
/* Two measurements of the same machine differ by more than this. */
#define LATENCY_SLACK 1.02
#define BISECT_STEP   1e-7

typedef struct {
    cake_plan_cost cost;
    uint32_t *usable; /* remote nodes that may take a run, in node order */
    uint32_t n_usable;
    uint32_t *movers; /* of the placement being tried */
    uint32_t n_movers;
    double *with, *without, *without_any; /* [n_nodes], exact latency searches only */
    bool has_totals;
    bool exact;
    cake_plan_chain chain, trial;
} planner;

static const char *node_name(const planner *p, uint32_t node) {
    return p->cost.req->nodes[node].name;
}

/* ---- which nodes can take part ---- */

static bool has_pin(const planner *p, uint32_t node) {
    const cake_plan_pinned *x = &p->cost.pinned[node];
    return x->begin < x->end || x->embedding || x->head;
}

/* Some layer that is not pinned elsewhere fits on the node by itself. */
static bool has_room(const planner *p, uint32_t node) {
    const cake_plan_cost *c = &p->cost;
    for (uint32_t u = 1; u + 1 < c->n_units; u++)
        if ((c->owner[u] == CAKE_PLAN_NONE || c->owner[u] == node) &&
            cake_plan_fits(c, node, u, u + 1))
            return true;
    return false;
}

static bool any_layer_free(const planner *p) {
    for (uint32_t u = 1; u + 1 < p->cost.n_units; u++)
        if (p->cost.owner[u] == CAKE_PLAN_NONE) return true;
    return false;
}

static void find_usable(planner *p) {
    const cake_plan_cost *c = &p->cost;
    p->n_usable = 0;
    for (uint32_t v = 0; v < c->n_nodes; v++)
        if (v != c->local && cake_plan_reachable(c, v) && (has_pin(p, v) || has_room(p, v)))
            p->usable[p->n_usable++] = v;
}

/* ---- order and thinning, for more nodes than can be searched exactly ---- */

static double mean_layer_s(const planner *p, uint32_t node) {
    return (cake_plan_stage_s(&p->cost, node, 1, p->cost.n_units - 1)) / p->cost.req->n_layers;
}

/* Keep at most `keep` of the movers, pinned ones first, then by speed or by memory. */
static void thin_out(planner *p, uint32_t keep, bool by_memory) {
    while (p->n_movers > keep) {
        uint32_t worst = CAKE_PLAN_NONE;
        for (uint32_t i = 0; i < p->n_movers; i++) {
            uint32_t v = p->movers[i];
            if (has_pin(p, v) || v == p->cost.local) continue;
            if (worst == CAKE_PLAN_NONE) {
                worst = i;
                continue;
            }
            uint32_t b = p->movers[worst];
            bool worse =
                by_memory ? p->cost.req->nodes[v].memory_bytes <= p->cost.req->nodes[b].memory_bytes
                          : mean_layer_s(p, v) >= mean_layer_s(p, b);
            if (worse) worst = i;
        }
        if (worst == CAKE_PLAN_NONE) return;
        memmove(p->movers + worst, p->movers + worst + 1,
                (p->n_movers - worst - 1) * sizeof *p->movers);
        p->n_movers--;
    }
}

/* Order for the fixed-order search: pinned nodes as their layers come, the free ones together in
 * the largest free gap, each next to the one it reaches soonest. */
static void arrange(planner *p) {
    const cake_plan_cost *c = &p->cost;
    uint32_t n = p->n_movers, n_pinned = 0;
    uint32_t *out = cake_malloc(n * sizeof *out), *rest = cake_malloc(n * sizeof *rest), n_rest = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t v = p->movers[i];
        const cake_plan_pinned *x = &c->pinned[v];
        if (x->begin < x->end)
            out[n_pinned++] = v;
        else
            rest[n_rest++] = v;
    }
    for (uint32_t i = 1; i < n_pinned; i++) /* few enough for insertion */
        for (uint32_t k = i; k > 0 && c->pinned[out[k]].begin < c->pinned[out[k - 1]].begin; k--) {
            uint32_t t = out[k];
            out[k] = out[k - 1], out[k - 1] = t;
        }
    uint32_t gap_at = 0, gap = 0, from = 1;
    for (uint32_t i = 0; i <= n_pinned; i++) {
        uint32_t to = i < n_pinned ? c->pinned[out[i]].begin : c->n_units - 1;
        if (to > from && to - from > gap) gap = to - from, gap_at = i;
        if (i < n_pinned) from = c->pinned[out[i]].end;
    }
    uint32_t last = gap_at ? out[gap_at - 1] : c->master;
    memmove(out + gap_at + n_rest, out + gap_at, (n_pinned - gap_at) * sizeof *out);
    for (uint32_t k = 0; k < n_rest; k++) {
        uint32_t best = k;
        double best_s = INFINITY;
        for (uint32_t i = k; i < n_rest; i++) {
            double s = cake_plan_leg_of(c, last, rest[i], c->req->activation_bytes).s;
            /* Nodes told apart by their pins to embedding or head go to that end. */
            if (c->pinned[rest[i]].embedding) s = -1;
            if (c->pinned[rest[i]].head || rest[i] == c->local) s += 1e9;
            if (s < best_s) best_s = s, best = i;
        }
        uint32_t v = rest[best];
        memmove(rest + k + 1, rest + k, (best - k) * sizeof *rest);
        rest[k] = v;
        out[gap_at + k] = last = v;
    }
    memcpy(p->movers, out, n * sizeof *out);
    free(out);
    free(rest);
}

/* ---- placements ---- */

/* Where embedding and head sit. LOCAL: on the local node's own first or last stage. */
typedef struct {
    bool embedding_local, head_local;
} placement;

static bool any_free_worker(const planner *p) {
    for (uint32_t i = 0; i < p->n_usable; i++) {
        const cake_plan_pinned *x = &p->cost.pinned[p->usable[i]];
        if (x->begin == x->end) return true;
    }
    return false;
}

/* First unit after the layers pinned to workers; 0 without any. */
static uint32_t last_pinned_end(const planner *p) {
    uint32_t end = 0;
    for (uint32_t v = 0; v < p->cost.n_nodes; v++) {
        const cake_plan_pinned *x = &p->cost.pinned[v];
        if (v != p->cost.local && x->begin < x->end && x->end > end) end = x->end;
    }
    return end;
}

/* Describe the placement as a search; false when the pins or the local node's memory rule it out.
 */
static cake_status set_placement(planner *p, placement pl, cake_plan_search *s, bool *possible,
                                 cake_error *err) {
    const cake_plan_cost *c = &p->cost;
    uint32_t n = c->n_units, local = c->local;
    *s = (cake_plan_search){.c = c, .back = n, .head_owner = CAKE_PLAN_NONE, .limit = INFINITY};
    *possible = true;
    p->n_movers = p->n_usable;
    memcpy(p->movers, p->usable, p->n_usable * sizeof *p->movers);
    if (local == CAKE_PLAN_NONE) return CAKE_OK;
    /* The local node's pinned layers: a run at the front, a run at the back. */
    uint32_t front_end = 1, back = n - 1;
    while (front_end < n - 1 && c->owner[front_end] == local) front_end++;
    while (back > front_end && c->owner[back - 1] == local) back--;
    bool pinned_layers = front_end > 1 || back < n - 1;
    for (uint32_t u = front_end; u < back; u++)
        if (c->owner[u] == local)
            return cake_fail(
                err, CAKE_ECONFIG,
                "layer %u is given to '%s', the master's own machine, which can hold the "
                "first and the last layers only",
                u - 1, node_name(p, local));
    if (!pl.embedding_local) { /* then it is a node like the others, tied to the head perhaps */
        if (pl.head_local) s->head_owner = local;
        p->movers[p->n_movers++] = local;
        return CAKE_OK;
    }
    uint32_t foreign = 1; /* first layer that is pinned to somebody else */
    while (foreign < n - 1 && (c->owner[foreign] == CAKE_PLAN_NONE || c->owner[foreign] == local))
        foreign++;
    /* Layers nobody lists behind the last pinned ones: no free worker, so the local node has them.
     */
    uint32_t pinned_end = last_pinned_end(p);
    if (pl.head_local && pinned_end > 1 && pinned_end < back && !any_free_worker(p))
        back = pinned_end;
    if (pl.head_local)
        s->back = back;
    else if (back < n - 1)
        return cake_fail(
            err, CAKE_ECONFIG,
            "'%s' is given the last layers but not the head, which would come after them",
            node_name(p, local));
    s->front_min = pinned_layers ? front_end : 1;
    s->front_max = pinned_layers ? front_end : foreign;
    if (s->front_max > s->back) s->front_max = s->back;
    uint64_t room = c->req->nodes[local].memory_bytes;
    while (s->front_max >= s->front_min &&
           cake_plan_memory_of(c, 0, s->front_max, s->back, n).total > room)
        s->front_max--;
    if (s->front_max < s->front_min) *possible = false;
    s->single_ok = pl.head_local && foreign == n - 1 &&
                   (!pinned_layers || front_end == n - 1 || back == front_end);
    if (s->single_ok && cake_plan_fits(c, local, 0, n)) *possible = true;
    if (*possible && s->front_max < s->front_min) s->front_max = s->front_min = 0, s->n_movers = 0;
    return CAKE_OK;
}

static cake_status search_once(planner *p, cake_plan_search *s, cake_plan_chain *chain,
                               cake_error *err) {
    s->movers = p->movers, s->n_movers = p->n_movers;
    return cake_plan_search_run(s, chain, err);
}

static void take_chain(cake_plan_chain *to, const cake_plan_chain *from) {
    memcpy(to->runs, from->runs, from->n_runs * sizeof *to->runs);
    to->n_runs = from->n_runs, to->total = from->total, to->busiest = from->busiest;
}

/* From p->chain, found without a limit: the least limit under which a chain of at most `total_max`
 * exists. */
static cake_status tighten(planner *p, cake_plan_search *s, double total_max, cake_error *err) {
    double lo = 0, hi = p->chain.busiest;
    while (hi - lo > hi * BISECT_STEP) {
        s->limit = lo + (hi - lo) / 2;
        cake_status st = search_once(p, s, &p->trial, err);
        if (st != CAKE_OK && st != CAKE_ENOTFOUND) return st;
        if (st == CAKE_OK && p->trial.total <= total_max) {
            take_chain(&p->chain, &p->trial);
            hi = p->chain.busiest;
        } else {
            lo = s->limit;
        }
    }
    s->limit = INFINITY;
    return CAKE_OK;
}

/* One placement. CAKE_ENOTFOUND: no chain. */
static cake_status try_placement(planner *p, placement pl, bool by_memory, bool only_fit,
                                 cake_error *err) {
    const cake_plan_request *r = p->cost.req;
    cake_plan_search s;
    bool possible;
    cake_status st = set_placement(p, pl, &s, &possible, err);
    if (st != CAKE_OK) return st;
    if (!possible) return CAKE_ENOTFOUND;
    s.need = r->min_workers;
    s.exact = cake_plan_search_is_small(p->n_movers, p->cost.n_units);
    bool all_pinned = true;
    for (uint32_t i = 0; i < p->n_movers; i++) {
        const cake_plan_pinned *x = &p->cost.pinned[p->movers[i]];
        all_pinned &= x->begin < x->end;
    }
    p->exact = s.exact || all_pinned;
    if (!s.exact) {
        thin_out(p, r->min_workers > ORDERED_NODES ? r->min_workers : ORDERED_NODES, by_memory);
        arrange(p);
    }
    p->has_totals = false;
    double *totals = NULL;
    if (s.exact && r->goal == CAKE_PLAN_LATENCY && !only_fit) {
        totals = cake_malloc(3 * (size_t)p->n_movers * sizeof *totals);
        s.with = totals, s.without = totals + p->n_movers;
        s.without_any = s.without + p->n_movers;
    }
    st = search_once(p, &s, &p->chain, err);
    if (st == CAKE_OK && totals) {
        for (uint32_t i = 0; i < p->n_movers; i++) {
            uint32_t v = p->movers[i];
            p->with[v] = s.with[i], p->without[v] = s.without[i],
            p->without_any[v] = s.without_any[i];
        }
        p->has_totals = true;
    }
    free(totals);
    s.with = s.without = s.without_any = NULL;
    if (st != CAKE_OK || only_fit) return st;
    if (r->goal == CAKE_PLAN_THROUGHPUT) return tighten(p, &s, INFINITY, err);
    /* Latency: keep the nodes, even out the cuts. */
    uint32_t kept = 0;
    for (uint32_t i = 0; i < p->n_movers; i++) {
        bool used = false;
        for (uint32_t k = 0; k < p->chain.n_runs; k++)
            used |= p->chain.runs[k].node == p->movers[i];
        if (used) p->movers[kept++] = p->movers[i];
    }
    p->n_movers = kept;
    s.all = true;
    return kept ? tighten(p, &s, p->chain.total * LATENCY_SLACK, err) : CAKE_OK;
}

/* All placements in order of preference. */
static cake_status find_chain(planner *p, bool only_fit, cake_error *err) {
    const cake_plan_cost *c = &p->cost;
    uint32_t local = c->local, head = c->n_units - 1;
    static const placement order[] = {{true, true}, {true, false}, {false, true}, {false, false}};
    cake_status st = CAKE_ENOTFOUND;
    for (int by_memory = 0; by_memory < 2 && st == CAKE_ENOTFOUND; by_memory++) {
        if (by_memory && p->n_usable <= ORDERED_NODES) break;
        for (int i = 0; i < 4 && st == CAKE_ENOTFOUND; i++) {
            placement pl = order[i];
            if (local == CAKE_PLAN_NONE && (pl.embedding_local || pl.head_local)) continue;
            if (local != CAKE_PLAN_NONE) {
                if (pl.embedding_local ? c->owner[0] != CAKE_PLAN_NONE && c->owner[0] != local
                                       : c->owner[0] == local)
                    continue;
                if (pl.head_local ? c->owner[head] != CAKE_PLAN_NONE && c->owner[head] != local
                                  : c->owner[head] == local)
                    continue;
            }
            st = try_placement(p, pl, by_memory, only_fit, err);
        }
    }
    return st;
}

static cake_status planner_init(planner *p, const cake_plan_request *req, cake_error *err) {
    *p = (planner){0};
    cake_status st = cake_plan_cost_init(&p->cost, req, err);
    if (st != CAKE_OK) return st;
    size_t n = (size_t)p->cost.n_nodes + 1, runs = (size_t)p->cost.n_units + 2;
    p->usable = cake_malloc(n * sizeof *p->usable);
    p->movers = cake_malloc(n * sizeof *p->movers);
    p->with = cake_malloc(3 * n * sizeof *p->with);
    p->without = p->with + n, p->without_any = p->with + 2 * n;
    for (size_t i = 0; i < 3 * n; i++) p->with[i] = INFINITY;
    p->chain.runs = cake_malloc(runs * sizeof *p->chain.runs);
    p->trial.runs = cake_malloc(runs * sizeof *p->trial.runs);
    find_usable(p);
    return CAKE_OK;
}

static void planner_deinit(planner *p) {
    cake_plan_cost_deinit(&p->cost);
    free(p->usable);
    free(p->movers);
    free(p->with);
    free(p->chain.runs);
    free(p->trial.runs);
}

static bool fits_context(const cake_plan_request *req, uint32_t context) {
    cake_plan_request r = *req;
    r.context = context;
    planner p;
    cake_error ignored;
    bool ok =
        planner_init(&p, &r, &ignored) == CAKE_OK && find_chain(&p, true, &ignored) == CAKE_OK;
    planner_deinit(&p);
    return ok;
}

uint32_t cake_plan_max_context(const cake_plan_request *req) {
    if (req->context == 0 || !fits_context(req, 1)) return 0;
    if (fits_context(req, req->context)) return req->context;
    uint32_t fits = 1, fails = req->context;
    while (fails - fits > 1) {
        uint32_t middle = fits + (fails - fits) / 2;
        if (fits_context(req, middle))
            fits = middle;
        else
            fails = middle;
    }
    return fits;
}

/* ---- refusals ---- */

static size_t append_nodes(const planner *p, char *buf, size_t cap, uint64_t *sum) {
    const cake_plan_request *r = p->cost.req;
    size_t at = 0;
    uint32_t shown = 0, n = 0;
    *sum = 0;
    buf[0] = 0;
    for (uint32_t v = 0; v < r->n_nodes; v++) {
        if (!cake_plan_reachable(&p->cost, v)) continue;
        n++;
        if (__builtin_add_overflow(*sum, r->nodes[v].memory_bytes, sum)) *sum = UINT64_MAX;
        char h[CAKE_HUMAN_MAX];
        if (shown < 6 && at < cap) {
            at += (size_t)snprintf(buf + at, cap - at, "%s%.24s %s", shown ? ", " : "",
                                   r->nodes[v].name, cake_human_bytes(h, r->nodes[v].memory_bytes));
            shown++;
        }
    }
    if (n > shown && at < cap)
        at += (size_t)snprintf(buf + at, cap - at, " and %u more", n - shown);
    return at;
}

static cake_status refuse_too_few(const planner *p, cake_error *err) {
    const cake_plan_request *r = p->cost.req;
    uint32_t here = 0;
    char names[160] = "";
    size_t at = 0;
    for (uint32_t v = 0; v < r->n_nodes; v++) {
        if (v == p->cost.local || !cake_plan_reachable(&p->cost, v)) continue;
        here++;
        if (at < sizeof names - 32)
            at += (size_t)snprintf(names + at, sizeof names - at, "%s%.24s", at ? ", " : "",
                                   r->nodes[v].name);
    }
    if (here < r->min_workers)
        return cake_fail(
            err, CAKE_EUNAVAIL,
            "at least %u workers are asked for and %u %s here%s%s; start cake-worker on more "
            "machines, or lower --min-workers",
            r->min_workers, here, here == 1 ? "is" : "are", here ? ": " : "", names);
    return CAKE_OK;
}

/* A pinned run that its node cannot hold explains the failure best. */
static cake_status refuse_pinned(const planner *p, cake_error *err) {
    const cake_plan_cost *c = &p->cost;
    for (uint32_t v = 0; v < c->n_nodes; v++) {
        const cake_plan_pinned *x = &c->pinned[v];
        if (!has_pin(p, v)) continue;
        if (!cake_plan_reachable(c, v))
            return cake_fail(
                err, CAKE_EUNAVAIL,
                "the topology file gives layers to '%s', which cannot be reached; start "
                "cake-worker there or give its layers to others",
                node_name(p, v));
        uint32_t begin = x->begin, end = x->end;
        if (begin == end) begin = end = x->head ? c->n_units - 1 : 0, end++;
        uint64_t needed = cake_plan_memory_of(c, begin, end, 0, 0).total;
        uint64_t room = c->req->nodes[v].memory_bytes;
        if (needed <= room) continue;
        char what[64], need[CAKE_HUMAN_MAX], have[CAKE_HUMAN_MAX], missing[CAKE_HUMAN_MAX];
        if (x->begin == x->end)
            snprintf(what, sizeof what, "the %s", x->head ? "head" : "embedding");
        else
            snprintf(what, sizeof what, "layers %u-%u", begin - 1, end - 2);
        return cake_fail(
            err, CAKE_ENOSPACE,
            "%s do not fit on '%s': they need %s and it has %s free, %s are missing; give it "
            "fewer layers, use a smaller --context, or take a smaller quantization",
            what, node_name(p, v), cake_human_bytes(need, needed), cake_human_bytes(have, room),
            cake_human_bytes(missing, needed - room));
    }
    return CAKE_OK;
}

static cake_status refuse(const planner *p, cake_error *err) {
    const cake_plan_request *r = p->cost.req;
    cake_status st = refuse_pinned(p, err);
    if (st != CAKE_OK) return st;
    uint64_t have = 0;
    char nodes[320], h[6][CAKE_HUMAN_MAX], cut[96];
    append_nodes(p, nodes, sizeof nodes, &have);
    cake_plan_memory all = cake_plan_memory_of(&p->cost, 0, p->cost.n_units, 0, 0);
    if (r->min_workers) { /* would it fit without that wish? */
        cake_plan_request less = *r;
        less.min_workers = 0;
        planner q;
        cake_error ignored;
        bool fits = planner_init(&q, &less, &ignored) == CAKE_OK &&
                    find_chain(&q, true, &ignored) == CAKE_OK;
        planner_deinit(&q);
        if (fits && r->min_workers > r->n_layers)
            return cake_fail(err, CAKE_ECONFIG,
                             "--min-workers %u is more than the model's %u layers; lower it",
                             r->min_workers, r->n_layers);
        if (fits)
            return cake_fail(
                err, CAKE_ENOSPACE,
                "the layers cannot be spread over %u workers: %u of them %s room for a layer "
                "that may go there (%s); lower --min-workers or free memory",
                r->min_workers, p->n_usable, p->n_usable == 1 ? "has" : "have", nodes);
    }
    uint32_t context = cake_plan_max_context(r);
    if (context)
        snprintf(cut, sizeof cut, "use --context %u or less", context);
    else
        snprintf(cut, sizeof cut, "a smaller --context is not enough");
    if (all.total > have)
        return cake_fail(
            err, CAKE_ENOSPACE,
            "the model does not fit: it needs %s (weights %s, KV cache %s for %u positions x %u, "
            "work %s), the nodes have %s (%s), %s are missing; %s, start more workers, or take "
            "a smaller quantization",
            cake_human_bytes(h[0], all.total), cake_human_bytes(h[1], all.weight),
            cake_human_bytes(h[2], all.kv), r->context, r->sequences ? r->sequences : 1,
            cake_human_bytes(h[3], all.scratch), cake_human_bytes(h[4], have), nodes,
            cake_human_bytes(h[5], all.total - have), cut);
    uint64_t largest = 0;
    for (uint32_t u = 0; u < p->cost.n_units; u++) {
        uint64_t t = cake_plan_memory_of(&p->cost, u, u + 1, 0, 0).total;
        if (t > largest) largest = t;
    }
    return cake_fail(
        err, CAKE_ENOSPACE,
        "the model does not fit in whole layers: it needs %s (weights %s, KV cache %s for %u "
        "positions x %u) and the nodes have %s together (%s), but no cut between layers (the "
        "largest part is %s) leaves each within its own; %s, add memory or workers, or take a "
        "smaller "
        "quantization",
        cake_human_bytes(h[0], all.total), cake_human_bytes(h[1], all.weight),
        cake_human_bytes(h[2], all.kv), r->context, r->sequences ? r->sequences : 1,
        cake_human_bytes(h[4], have), nodes, cake_human_bytes(h[5], largest), cut);
}

/* ---- the plan ---- */

static void reason_used(const planner *p, const cake_plan *plan, uint32_t v, char *out,
                        size_t cap) {
    const cake_plan_cost *c = &p->cost;
    const cake_plan_pinned *x = &c->pinned[v];
    char a[CAKE_HUMAN_MAX], b[CAKE_HUMAN_MAX];
    uint32_t n_layers = 0;
    bool embedding = false, head = false;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const cake_plan_stage *s = &plan->stages[i];
        if (s->node != v) continue;
        embedding |= s->unit_begin == 0, head |= s->unit_end == c->n_units;
        uint32_t lo = s->unit_begin ? s->unit_begin : 1;
        uint32_t hi = s->unit_end == c->n_units ? s->unit_end - 1 : s->unit_end;
        if (hi > lo) n_layers += hi - lo;
    }
    if (v == c->local) {
        if (embedding && head && n_layers == c->req->n_layers) {
            snprintf(out, cap,
                     plan->n_nodes > 1 ? "this machine holds all and is fastest alone"
                                       : "this machine is the only one");
            return;
        }
        const char *ends = embedding && head ? "embedding and head stay with the master"
                           : embedding       ? "the embedding stays with the master"
                           : head            ? "the head stays with the master"
                                             : "takes layers like a worker";
        if (n_layers && (embedding || head))
            snprintf(out, cap, "%s, with %u layers it has room and speed for", ends, n_layers);
        else
            snprintf(out, cap, "%s", ends);
        return;
    }
    if (x->begin < x->end) {
        snprintf(out, cap, "the topology file puts these layers here");
    } else if (c->req->goal == CAKE_PLAN_THROUGHPUT) {
        cake_human_seconds(a, plan->nodes[v].compute_s);
        cake_human_seconds(b, 1 / plan->full_tps);
        snprintf(out, cap, "carries %u layers in %s of the %s of the busiest part", n_layers, a, b);
    } else if (!p->has_totals) {
        snprintf(out, cap, "holds %u layers in %s per token", n_layers,
                 cake_human_seconds(a, plan->nodes[v].compute_s));
    } else if (p->without_any[v] < plan->token_s * (1 - 1e-9) ||
               (isfinite(p->without_any[v]) && !isfinite(p->without[v]))) {
        snprintf(out, cap, "--min-workers %u asks for it", c->req->min_workers);
    } else if (p->without[v] < plan->token_s * 1.001) {
        snprintf(out, cap, "takes %u layers as well as another worker would", n_layers);
    } else if (isfinite(p->without[v])) {
        snprintf(out, cap, "a token takes %s with it and at least %s without",
                 cake_human_seconds(a, plan->token_s), cake_human_seconds(b, p->without[v]));
    } else {
        snprintf(out, cap, "without it the model does not fit");
    }
}

static void reason_unused(const planner *p, const cake_plan *plan, uint32_t v, char *out,
                          size_t cap) {
    const cake_plan_cost *c = &p->cost;
    char a[CAKE_HUMAN_MAX], b[CAKE_HUMAN_MAX];
    if (!cake_plan_reachable(c, v)) {
        snprintf(out, cap, "the master cannot reach it");
    } else if (!any_layer_free(p)) {
        snprintf(out, cap, "the topology file gives all layers to others");
    } else if (!has_room(p, v)) {
        uint64_t least = UINT64_MAX;
        for (uint32_t u = 1; u + 1 < c->n_units; u++) {
            uint64_t t = cake_plan_memory_of(c, u, u + 1, 0, 0).total;
            if (t < least) least = t;
        }
        snprintf(out, cap, "no layer fits: %s free, a layer needs %s",
                 cake_human_bytes(a, c->req->nodes[v].memory_bytes), cake_human_bytes(b, least));
    } else if (c->req->goal == CAKE_PLAN_THROUGHPUT) {
        snprintf(out, cap, "would not take load off the busiest part (%s per token)",
                 cake_human_seconds(a, 1 / plan->full_tps));
    } else if (p->has_totals && p->with[v] < plan->token_s * 1.001) {
        snprintf(out, cap, "does nothing that the others do not do as well");
    } else if (p->has_totals && isfinite(p->with[v])) {
        snprintf(out, cap, "with it a token would take at least %s instead of %s",
                 cake_human_seconds(a, p->with[v]), cake_human_seconds(b, plan->token_s));
    } else if (p->has_totals) {
        snprintf(out, cap, "no plan that fits has a place for it");
    } else {
        snprintf(out, cap, "does not make a token faster");
    }
}

static void fill_memory(const planner *p, cake_plan *plan, uint32_t v) {
    const cake_plan_stage *a = NULL, *b = NULL;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        if (plan->stages[i].node != v) continue;
        if (a)
            b = &plan->stages[i];
        else
            a = &plan->stages[i];
    }
    cake_plan_node *n = &plan->nodes[v];
    n->available_bytes = p->cost.req->nodes[v].memory_bytes;
    if (!a) return;
    cake_plan_memory m = cake_plan_memory_of(&p->cost, a->unit_begin, a->unit_end,
                                             b ? b->unit_begin : 0, b ? b->unit_end : 0);
    n->used = true;
    n->weight_bytes = m.weight, n->kv_bytes = m.kv, n->scratch_bytes = m.scratch,
    n->total_bytes = m.total;
    n->compute_s = a->compute_s + (b ? b->compute_s : 0);
    cake_assert(m.total <= n->available_bytes);
}

static void fill_plan(const planner *p, cake_plan *plan) {
    const cake_plan_cost *c = &p->cost;
    const cake_plan_request *r = c->req;
    const cake_plan_chain *chain = &p->chain;
    *plan = (cake_plan){.n_stages = chain->n_runs, .n_nodes = c->n_nodes, .exact = p->exact};
    plan->stages = cake_calloc(plan->n_stages, sizeof *plan->stages);
    plan->nodes = cake_calloc(plan->n_nodes, sizeof *plan->nodes);
    double *prefill = cake_calloc(c->n_nodes, sizeof *prefill);
    double prefill_most = 0;
    uint32_t from = c->master;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const cake_plan_run *run = &chain->runs[i];
        cake_plan_stage *s = &plan->stages[i];
        cake_plan_leg leg =
            cake_plan_leg_of(c, from, run->node, i ? r->activation_bytes : CAKE_PLAN_TOKEN_BYTES);
        cake_plan_memory m = cake_plan_memory_of(c, run->begin, run->end, 0, 0);
        *s = (cake_plan_stage){.node = run->node,
                               .unit_begin = run->begin,
                               .unit_end = run->end,
                               .weight_bytes = m.weight,
                               .kv_bytes = m.kv,
                               .compute_s = cake_plan_stage_s(c, run->node, run->begin, run->end),
                               .network_s = leg.s,
                               .relayed = leg.relayed};
        plan->token_s += s->compute_s + s->network_s;
        if (s->compute_s > plan->stages[plan->slowest_stage].compute_s) plan->slowest_stage = i;
        const double *pre = c->prefill + (size_t)run->node * (c->n_units + 1);
        prefill[run->node] += pre[run->end] - pre[run->begin];
        if (prefill[run->node] > prefill_most) prefill_most = prefill[run->node];
        if (i && leg.busy > prefill_most) prefill_most = leg.busy;
        from = run->node;
    }
    free(prefill);
    plan->return_s = cake_plan_leg_of(c, from, c->master, r->logit_bytes).s;
    plan->token_s += plan->return_s;
    plan->decode_tps = plan->token_s > 0 ? 1 / plan->token_s : 0;
    plan->full_tps = chain->busiest > 0 ? 1 / chain->busiest : 0;
    plan->prefill_tps = prefill_most > 0 ? 1 / prefill_most : 0;
    for (uint32_t v = 0; v < c->n_nodes; v++) {
        fill_memory(p, plan, v);
        plan->n_workers += plan->nodes[v].used && v != c->local;
    }
    for (uint32_t v = 0; v < c->n_nodes; v++) {
        cake_plan_node *n = &plan->nodes[v];
        if (n->used)
            reason_used(p, plan, v, n->reason, sizeof n->reason);
        else
            reason_unused(p, plan, v, n->reason, sizeof n->reason);
    }
}

cake_status cake_plan_make(const cake_plan_request *req, cake_plan *plan, cake_error *err) {
    planner p;
    cake_status st = planner_init(&p, req, err);
    if (st == CAKE_OK) st = refuse_too_few(&p, err);
    if (st == CAKE_OK) {
        st = find_chain(&p, false, err);
        if (st == CAKE_ENOTFOUND) st = refuse(&p, err);
    }
    if (st == CAKE_OK) fill_plan(&p, plan);
    planner_deinit(&p);
    return st;
}

void cake_plan_deinit(cake_plan *plan) {
    free(plan->stages);
    free(plan->nodes);
    *plan = (cake_plan){0};
}
