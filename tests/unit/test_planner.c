/* The planner against brute force over every chain of small random instances, with its own
 * arithmetic; refusals; pins; --min-workers; many nodes; printing. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "master/plan/plan_print.h"
#include "master/plan/planner.h"
#include "master/plan/search.h"

#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_UNITS = 32, MAX_NODES = 24 };
#define GIB (1024.0 * 1024 * 1024)

/* ---- instances ---- */

typedef struct {
    cake_plan_request req;
    cake_plan_unit units[MAX_UNITS];
    cake_plan_node_in nodes[MAX_NODES];
    char names[MAX_NODES][16];
    cake_plan_link links[MAX_NODES * MAX_NODES];
    cake_plan_pin pins[4];
} instance;

static uint64_t seed = 1;
static uint32_t rnd(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}
static double rndf(double lo, double hi) {
    return lo + (hi - lo) * (rnd(1 << 20) / (double)(1 << 20));
}

/* n_layers layers of 100 MB, node 0 local, all alike: 10 GB/s, 16 GB free, 1 Gbit/s, 0.2 ms. */
static void uniform(instance *x, uint32_t n_layers, uint32_t n_nodes) {
    memset(x, 0, sizeof *x);
    for (uint32_t u = 0; u < n_layers + 2; u++) {
        bool layer = u > 0 && u <= n_layers;
        x->units[u] = (cake_plan_unit){.weight_bytes = 100000000,
                                       .read_bytes = u ? 100000000 : 4096,
                                       .macs = u ? 200000000 : 0,
                                       .kv_bytes = layer ? 4096 : 0,
                                       .scratch_bytes = 1000000};
    }
    for (uint32_t v = 0; v < n_nodes; v++) {
        snprintf(x->names[v], sizeof x->names[v], v ? "w%u" : "master", v);
        x->nodes[v] = (cake_plan_node_in){.id = x->names[v],
                                          .name = x->names[v],
                                          .is_local = v == 0,
                                          .threads = 4,
                                          .memory_bytes = 16000000000u,
                                          .read_bw = 10e9,
                                          .ops = 1e12,
                                          .overhead_s = 20e-6};
    }
    x->req = (cake_plan_request){.units = x->units,
                                 .n_layers = n_layers,
                                 .nodes = x->nodes,
                                 .n_nodes = n_nodes,
                                 .links = x->links,
                                 .pins = x->pins,
                                 .default_rtt_s = 200e-6,
                                 .default_bandwidth = 125e6,
                                 .context = 1024,
                                 .sequences = 1,
                                 .activation_bytes = 8192,
                                 .logit_bytes = 128000};
}

static void random_instance(instance *x) {
    uint32_t n_layers = 1 + rnd(6), n_nodes = 1 + rnd(4);
    uniform(x, n_layers, n_nodes);
    bool equal_layers = rnd(2);
    for (uint32_t u = 0; u < n_layers + 2; u++) {
        cake_plan_unit *y = &x->units[u];
        bool layer = u > 0 && u <= n_layers;
        y->weight_bytes = 50 + rnd(100);
        y->read_bytes = u ? y->weight_bytes : 1;
        y->macs = 1000 + rnd(5000);
        y->kv_bytes = layer ? rnd(3) : 0;
        y->state_bytes = layer && rnd(4) == 0 ? rnd(20) : 0;
        y->scratch_bytes = rnd(10);
        if (equal_layers && layer) *y = x->units[1];
    }
    x->req.tied_head = rnd(3) == 0;
    if (x->req.tied_head) x->units[0].weight_bytes = x->units[n_layers + 1].weight_bytes;
    x->req.context = 1 + rnd(8);
    x->req.sequences = rnd(3);
    for (uint32_t v = 0; v < n_nodes; v++) {
        cake_plan_node_in *n = &x->nodes[v];
        n->memory_bytes = rnd(3) ? 100 + rnd(1200) : 5000;
        n->read_bw = rndf(500, 5000);
        n->ops = rndf(1e4, 1e6);
        n->overhead_s = rndf(0, 0.01);
        if (n_nodes > 1 && rnd(20) == 0) n->is_local = false; /* no local node at all */
    }
    for (uint32_t a = 0; a < n_nodes; a++)
        for (uint32_t b = a + 1; b < n_nodes; b++)
            if (rnd(3))
                x->links[x->req.n_links++] = (cake_plan_link){.a = a,
                                                              .b = b,
                                                              .rtt_s = rndf(0, 0.1),
                                                              .bandwidth = rndf(10, 1e5),
                                                              .unreachable = rnd(10) == 0};
    x->req.default_rtt_s = rndf(0, 0.05), x->req.default_bandwidth = rnd(10) ? 1000 : 0;
    x->req.activation_bytes = 1 + rnd(50), x->req.logit_bytes = 1 + rnd(100);
    x->req.goal = rnd(2) ? CAKE_PLAN_LATENCY : CAKE_PLAN_THROUGHPUT;
    x->req.min_workers = rnd(3) ? 0 : rnd(n_nodes);
}

/* ---- the same definitions, written naively ---- */

typedef struct {
    uint32_t node, begin, end;
} run;
typedef struct {
    run runs[MAX_NODES + 1];
    uint32_t n;
    double total, busiest;
    uint32_t set;  /* remote nodes */
    int placement; /* 0 both ends local, 1 embedding, 2 head, 3 neither */
} chain;

static uint32_t local_of(const cake_plan_request *r) {
    for (uint32_t v = 0; v < r->n_nodes; v++)
        if (r->nodes[v].is_local) return v;
    return UINT32_MAX;
}

static bool link_of(const cake_plan_request *r, uint32_t a, uint32_t b, double *rtt, double *bw) {
    bool ok = r->default_bandwidth > 0;
    *rtt = r->default_rtt_s, *bw = r->default_bandwidth;
    for (size_t i = 0; i < r->n_links; i++) {
        const cake_plan_link *l = &r->links[i];
        if ((l->a == a && l->b == b) || (l->a == b && l->b == a))
            ok = !l->unreachable, *rtt = l->rtt_s, *bw = l->bandwidth;
    }
    return ok;
}

static double leg(const cake_plan_request *r, uint32_t a, uint32_t b, double bytes, double *busy) {
    double rtt, bw;
    *busy = 0;
    if (a == b) return 0;
    if (link_of(r, a, b, &rtt, &bw)) return *busy = bytes / bw, rtt / 2 + bytes / bw;
    uint32_t m = local_of(r);
    if (a == m || b == m) return *busy = INFINITY;
    double up, down, s = leg(r, a, m, bytes, &up) + leg(r, m, b, bytes, &down);
    *busy = up > down ? up : down;
    return s;
}

static double stage(const cake_plan_request *r, run x) {
    const cake_plan_node_in *n = &r->nodes[x.node];
    double s = n->overhead_s;
    for (uint32_t u = x.begin; u < x.end; u++) {
        const cake_plan_unit *y = &r->units[u];
        double read = (double)y->read_bytes / n->read_bw, work = (double)y->macs / n->ops;
        s += (read > work ? read : work) +
             ((double)y->kv_bytes * r->context / 2 + (double)y->state_bytes) / n->read_bw;
    }
    return s;
}

static double memory(const cake_plan_request *r, const chain *c, uint32_t node) {
    double sum = 0, scratch = 0, sequences = r->sequences ? r->sequences : 1;
    bool embedding = false, head = false;
    for (uint32_t i = 0; i < c->n; i++)
        for (uint32_t u = c->runs[i].begin; c->runs[i].node == node && u < c->runs[i].end; u++) {
            const cake_plan_unit *y = &r->units[u];
            sum += (double)y->weight_bytes +
                   sequences * ((double)y->kv_bytes * r->context + (double)y->state_bytes);
            if ((double)y->scratch_bytes > scratch) scratch = (double)y->scratch_bytes;
            embedding |= u == 0, head |= u == r->n_layers + 1;
        }
    if (r->tied_head && embedding && head) sum -= (double)r->units[0].weight_bytes;
    return sum + scratch;
}

static void evaluate(const cake_plan_request *r, chain *c) {
    uint32_t local = local_of(r), from = local == UINT32_MAX ? r->n_nodes : local, master = from;
    double busy, node_s[MAX_NODES] = {0};
    c->total = c->busiest = 0, c->set = 0;
    for (uint32_t i = 0; i <= c->n; i++) {
        uint32_t to = i < c->n ? c->runs[i].node : master;
        double bytes = i == c->n ? (double)r->logit_bytes : i ? (double)r->activation_bytes : 128;
        c->total += leg(r, from, to, bytes, &busy);
        if (busy > c->busiest) c->busiest = busy;
        if (i == c->n) break;
        double s = stage(r, c->runs[i]);
        c->total += s;
        node_s[to] += s;
        if (node_s[to] > c->busiest) c->busiest = node_s[to];
        if (to != local) c->set |= 1u << to;
        from = to;
    }
    c->placement = (c->runs[0].node == local ? 0 : 2) + (c->runs[c->n - 1].node == local ? 0 : 1);
}

static bool pins_kept(const cake_plan_request *r, const chain *c) {
    for (size_t p = 0; p < r->n_pins; p++) {
        const cake_plan_pin *pin = &r->pins[p];
        uint32_t lo = UINT32_MAX, hi = 0; /* layers its node holds */
        for (uint32_t i = 0; i < c->n; i++)
            for (uint32_t u = c->runs[i].begin; u < c->runs[i].end; u++) {
                bool mine = c->runs[i].node == pin->node;
                if (u >= pin->unit_begin && u < pin->unit_end && !mine) return false;
                if (mine && u > 0 && u <= r->n_layers) {
                    if (u < lo) lo = u;
                    if (u > hi) hi = u;
                }
            }
        uint32_t b = pin->unit_begin ? pin->unit_begin : 1;
        uint32_t e = pin->unit_end > r->n_layers + 1 ? r->n_layers + 1 : pin->unit_end;
        if (b < e && (lo != b || hi + 1 != e)) return false;
    }
    return true;
}

static bool pinned_to_end(const cake_plan_request *r, uint32_t node) {
    for (size_t p = 0; p < r->n_pins; p++)
        if (r->pins[p].node == node &&
            (r->pins[p].unit_begin == 0 || r->pins[p].unit_end == r->n_layers + 2))
            return true;
    return false;
}

/* Where the local node's last stage begins when it has two. */
static uint32_t local_back(const cake_plan_request *r) {
    uint32_t local = local_of(r), end = 0;
    uint32_t owner[MAX_UNITS];
    bool pinned[MAX_NODES] = {false};
    for (uint32_t u = 0; u < MAX_UNITS; u++) owner[u] = UINT32_MAX;
    for (size_t p = 0; p < r->n_pins; p++)
        for (uint32_t u = r->pins[p].unit_begin; u < r->pins[p].unit_end; u++) {
            owner[u] = r->pins[p].node;
            if (u == 0 || u > r->n_layers) continue;
            pinned[r->pins[p].node] = true;
            if (u + 1 > end) end = u + 1;
        }
    for (uint32_t v = 0; v < r->n_nodes; v++) {
        double busy;
        if (v == local || pinned[v] || !isfinite(leg(r, v, local, 1, &busy))) continue;
        for (uint32_t u = 1; u <= r->n_layers; u++) {
            chain one = {.runs = {{v, u, u + 1}}, .n = 1};
            if (owner[u] == UINT32_MAX && memory(r, &one, v) <= (double)r->nodes[v].memory_bytes)
                return r->n_layers + 1; /* a free worker */
        }
        if (pinned_to_end(r, v)) return r->n_layers + 1;
    }
    return end ? end : r->n_layers + 1;
}

static bool valid(const cake_plan_request *r, const chain *c) {
    uint32_t local = local_of(r), n_units = r->n_layers + 2, workers = 0;
    if (!isfinite(c->total)) return false;
    if (c->placement == 0 && c->n > 1 && c->runs[c->n - 1].begin != local_back(r))
        return false; /* two local stages: the last one is the head alone, mostly */
    for (uint32_t i = 0; i < c->n; i++) {
        const run *x = &c->runs[i];
        if (x->node == local) {
            if (i > 0 && i + 1 < c->n && c->placement != 3) return false;
            if (memory(r, c, local) > (double)r->nodes[local].memory_bytes) return false;
            continue;
        }
        uint32_t lo = x->begin ? x->begin : 1, hi = x->end == n_units ? x->end - 1 : x->end;
        if (lo >= hi && !pinned_to_end(r, x->node)) return false;
        if (memory(r, c, x->node) > (double)r->nodes[x->node].memory_bytes) return false;
        double busy;
        if (!isfinite(leg(r, x->node, local == UINT32_MAX ? r->n_nodes : local, 1, &busy)))
            return false;
        workers++;
    }
    return workers >= r->min_workers && pins_kept(r, c);
}

typedef struct {
    chain *all;
    size_t n, cap;
} chains;

static void enumerate(const cake_plan_request *r, chain *c, uint32_t at, uint32_t used,
                      chains *out) {
    uint32_t n_units = r->n_layers + 2, local = local_of(r);
    if (at == n_units) {
        evaluate(r, c);
        if (!valid(r, c)) return;
        if (out->n == out->cap) {
            out->cap = out->cap ? 2 * out->cap : 64;
            out->all = realloc(out->all, out->cap * sizeof *out->all);
            assert_non_null(out->all);
        }
        out->all[out->n++] = *c;
        return;
    }
    for (uint32_t v = 0; v < r->n_nodes; v++) {
        bool again =
            v == local && c->n > 0 && c->runs[0].node == local && c->runs[c->n - 1].node != local;
        if ((used >> v & 1) && !again) continue;
        for (uint32_t end = at + 1; end <= n_units; end++) {
            if (again && end != n_units) continue;
            c->runs[c->n++] = (run){v, at, end};
            enumerate(r, c, end, used | 1u << v, out);
            c->n--;
        }
    }
}

static chain chain_of(const cake_plan_request *r, const cake_plan *plan) {
    chain c = {.n = plan->n_stages};
    uint32_t at = 0;
    assert_true(plan->n_stages >= 1 && plan->n_stages <= MAX_NODES);
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const cake_plan_stage *s = &plan->stages[i];
        assert_int_equal(s->unit_begin, at);
        assert_true(s->unit_end > at);
        at = s->unit_end;
        c.runs[i] = (run){s->node, s->unit_begin, s->unit_end};
    }
    assert_int_equal(at, r->n_layers + 2);
    evaluate(r, &c);
    return c;
}

#define assert_close(a, b) assert_true(fabs((a) - (b)) <= 1e-9 * (fabs(a) + fabs(b)))

/* One instance: the plan is valid, and as good as the best of all chains. Returns the plan's
 * workers, -1 when nothing fits. */
static int compare(const instance *x) {
    const cake_plan_request *r = &x->req;
    chains all = {0};
    chain scratch = {0};
    enumerate(r, &scratch, 0, 0, &all);
    cake_plan plan;
    cake_error err = {0};
    cake_status st = cake_plan_make(r, &plan, &err);
    if (all.n == 0) {
        assert_true(st == CAKE_ENOSPACE || st == CAKE_EUNAVAIL || st == CAKE_ECONFIG);
        assert_true(strlen(err.msg) > 20);
        return -1;
    }
    assert_int_equal(st, CAKE_OK);
    assert_true(plan.exact);
    chain got = chain_of(r, &plan);
    assert_true(valid(r, &got));
    assert_close(plan.token_s, got.total);
    assert_close(1 / plan.full_tps, got.busiest);
    int placement = 4;
    for (size_t i = 0; i < all.n; i++)
        if (all.all[i].placement < placement) placement = all.all[i].placement;
    if (got.placement != placement) {
        /* one run on the local node alone counts as both ends there */
        assert_int_equal(placement, got.placement);
    }
    double best = INFINITY, least_busy = INFINITY;
    for (size_t i = 0; i < all.n; i++) {
        const chain *c = &all.all[i];
        if (c->placement != placement) continue;
        double first = r->goal == CAKE_PLAN_LATENCY ? c->total : c->busiest;
        if (first < best) best = first;
    }
    if (r->goal == CAKE_PLAN_THROUGHPUT) {
        assert_true(got.busiest <= best * (1 + 2e-6));
        double total = INFINITY;
        for (size_t i = 0; i < all.n; i++)
            if (all.all[i].placement == placement && all.all[i].busiest <= best * (1 + 1e-12) &&
                all.all[i].total < total)
                total = all.all[i].total;
        assert_true(got.total <= total * (1 + 1e-9));
    } else {
        double of_set = INFINITY;
        for (size_t i = 0; i < all.n; i++) {
            const chain *c = &all.all[i];
            if (c->placement != placement || c->set != got.set) continue;
            if (c->total < of_set) of_set = c->total;
            if (c->total <= best * 1.02 * (1 - 1e-9) && c->busiest < least_busy)
                least_busy = c->busiest;
        }
        assert_close(of_set, best); /* the nodes are those of a best chain */
        assert_true(got.total <= best * 1.02 * (1 + 1e-9));
        assert_true(got.busiest <= least_busy * (1 + 2e-6));
    }
    for (uint32_t v = 0; v < r->n_nodes; v++) {
        assert_true(strlen(plan.nodes[v].reason) > 5);
        if (plan.nodes[v].used) assert_close((double)plan.nodes[v].total_bytes, memory(r, &got, v));
    }
    /* the same request, the same plan */
    cake_plan twice;
    assert_int_equal(cake_plan_make(r, &twice, &err), CAKE_OK);
    assert_int_equal(twice.n_stages, plan.n_stages);
    assert_memory_equal(twice.stages, plan.stages, plan.n_stages * sizeof *plan.stages);
    int workers = (int)plan.n_workers;
    cake_plan_deinit(&twice);
    cake_plan_deinit(&plan);
    free(all.all);
    return workers;
}

static void test_brute_force(void **state) {
    (void)state;
    int seen[8] = {0};
    for (seed = 1; seed < 4000; seed++) {
        uint64_t keep = seed;
        instance x;
        random_instance(&x);
        int workers = compare(&x);
        seen[workers + 1]++;
        seed = keep;
    }
    /* the instances are worth something: refusals, single nodes, one to three workers */
    for (int i = 0; i < 5; i++) assert_true(seen[i] > 50);
}

/* Pin a random run of some valid chain and compare again. */
static void test_pins_brute_force(void **state) {
    (void)state;
    int planned = 0;
    for (seed = 10001; seed < 12000; seed++) {
        uint64_t keep = seed;
        instance x;
        random_instance(&x);
        uint32_t local = local_of(&x.req);
        uint32_t v = rnd(x.req.n_nodes), n = x.req.n_layers + 2, begin = rnd(n);
        if (v != local) {
            x.pins[0] = (cake_plan_pin){v, begin, begin + 1 + rnd(n - begin)};
            x.req.n_pins = 1;
            planned += compare(&x) > 0;
        }
        seed = keep;
    }
    assert_true(planned > 200);
}

/* ---- behaviour ---- */

static cake_plan made(const instance *x) {
    cake_plan plan;
    cake_error err = {0};
    if (cake_plan_make(&x->req, &plan, &err) != CAKE_OK) fail_msg("%s", err.msg);
    return plan;
}

static uint32_t layers_on(const cake_plan *plan, uint32_t n_layers, uint32_t node) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < plan->n_stages; i++)
        for (uint32_t u = plan->stages[i].unit_begin; u < plan->stages[i].unit_end; u++)
            sum += plan->stages[i].node == node && u > 0 && u <= n_layers;
    return sum;
}

static void test_latency_leaves_slow_nodes_out(void **state) {
    (void)state;
    instance x;
    uniform(&x, 20, 3);
    cake_plan plan = made(&x);
    assert_int_equal(plan.n_workers, 0); /* all fits here and a hop only costs */
    assert_int_equal(plan.n_stages, 1);
    assert_non_null(strstr(plan.nodes[1].reason, "instead of"));
    cake_plan_deinit(&plan);
    x.nodes[2].read_bw = 40e9; /* a fast worker takes the layers */
    plan = made(&x);
    assert_true(plan.nodes[2].used && !plan.nodes[1].used);
    assert_int_equal(plan.n_stages, 3);
    assert_true(layers_on(&plan, 20, 2) >= 19);
    assert_non_null(strstr(plan.nodes[2].reason, "without"));
    cake_plan_deinit(&plan);
}

static void test_min_workers(void **state) {
    (void)state;
    instance x;
    uniform(&x, 12, 4);
    for (uint32_t n = 1; n <= 3; n++) {
        x.req.min_workers = n;
        cake_plan plan = made(&x);
        assert_true(plan.n_workers >= n);
        for (uint32_t v = 1; v < 4; v++)
            if (plan.nodes[v].used) assert_true(layers_on(&plan, 12, v) > 0);
        /* alike nodes share alike: nobody is left with one layer */
        if (n == 3)
            for (uint32_t v = 0; v < 4; v++) assert_in_range(layers_on(&plan, 12, v), 2, 4);
        assert_non_null(strstr(plan.nodes[1].reason, "--min-workers"));
        cake_plan_deinit(&plan);
    }
    cake_plan plan;
    cake_error err;
    x.req.min_workers = 4;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EUNAVAIL);
    assert_non_null(strstr(err.msg, "at least 4 workers"));
    assert_non_null(strstr(err.msg, "w1, w2, w3"));
    uniform(&x, 2, 4);
    x.req.min_workers = 3;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ECONFIG);
    assert_non_null(strstr(err.msg, "2 layers"));
    uniform(&x, 8, 3);
    x.req.min_workers = 2;
    x.nodes[2].memory_bytes = 1000;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ENOSPACE);
    assert_non_null(strstr(err.msg, "lower --min-workers"));
}

/* The alternatives that the reasons name keep to --min-workers as well. */
static void test_reasons_compare_like_with_like(void **state) {
    (void)state;
    instance x;
    uniform(&x, 12, 4);
    x.req.min_workers = 2;
    x.req.default_rtt_s = 20e-3; /* a hop costs 10 ms */
    cake_plan plan = made(&x);
    assert_int_equal(plan.n_workers, 2);
    assert_false(plan.nodes[3].used);
    assert_non_null(strstr(plan.nodes[3].reason, "as well")); /* any two of the three do */
    double alike = plan.token_s;
    cake_plan_deinit(&plan);
    /* alone it would beat two others, but two are asked for, and then it only costs */
    x.nodes[3].overhead_s = 5e-3;
    plan = made(&x);
    assert_false(plan.nodes[3].used);
    assert_close(plan.token_s, alike);
    assert_non_null(strstr(plan.nodes[3].reason, "instead of"));
    double with = 0, now = 0;
    assert_int_equal(sscanf(plan.nodes[3].reason,
                            "with it a token would take at least %lf ms instead of %lf ms", &with,
                            &now),
                     2);
    assert_true(with >= now);
    cake_plan_deinit(&plan);
}

static void test_throughput_evens_out(void **state) {
    (void)state;
    instance x;
    uniform(&x, 24, 4);
    x.req.goal = CAKE_PLAN_THROUGHPUT;
    cake_plan plan = made(&x);
    assert_int_equal(plan.n_workers, 3);
    for (uint32_t v = 0; v < 4; v++) assert_in_range(layers_on(&plan, 24, v), 5, 7);
    assert_true(plan.full_tps > 3.5 * plan.decode_tps);
    cake_plan_deinit(&plan);
    x.nodes[1].read_bw = 20e9; /* twice as fast: about twice the layers */
    plan = made(&x);
    assert_true(layers_on(&plan, 24, 1) > 1.6 * layers_on(&plan, 24, 2));
    cake_plan_deinit(&plan);
}

static void test_memory_forces_a_split(void **state) {
    (void)state;
    instance x;
    uniform(&x, 20, 3);
    x.nodes[0].memory_bytes = x.nodes[1].memory_bytes = x.nodes[2].memory_bytes = 1000000000;
    cake_plan plan = made(&x);
    assert_int_equal(plan.n_workers, 2);
    assert_non_null(strstr(plan.nodes[1].reason, "does not fit"));
    assert_int_equal(plan.stages[0].node, 0); /* embedding and head at home */
    assert_int_equal(plan.stages[plan.n_stages - 1].node, 0);
    cake_plan_deinit(&plan);
    /* no room for the head here: it goes elsewhere */
    x.nodes[0].memory_bytes = 150000000;
    x.nodes[1].memory_bytes = x.nodes[2].memory_bytes = 1200000000;
    plan = made(&x);
    assert_int_equal(plan.stages[0].node, 0);
    assert_int_not_equal(plan.stages[plan.n_stages - 1].node, 0);
    assert_true(plan.return_s > 0);
    cake_plan_deinit(&plan);
    /* no local node at all: the master only talks */
    uniform(&x, 6, 2);
    x.nodes[0].is_local = false;
    plan = made(&x);
    assert_int_equal(plan.n_stages, 1);
    assert_true(plan.stages[0].network_s > 0 && plan.return_s > 0);
    cake_plan_deinit(&plan);
}

static void test_refusal_has_the_numbers(void **state) {
    (void)state;
    instance x;
    uniform(&x, 20, 2); /* 2.2 GB of weights */
    x.nodes[0].memory_bytes = 1000000000, x.nodes[1].memory_bytes = 500000000;
    cake_plan plan;
    cake_error err;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ENOSPACE);
    assert_non_null(strstr(err.msg, "weights 2.05 GiB"));
    assert_non_null(strstr(err.msg, "80.0 MiB for 1024 positions"));
    assert_non_null(strstr(err.msg, "master 954 MiB, w1 477 MiB"));
    assert_non_null(strstr(err.msg, "are missing"));
    assert_non_null(strstr(err.msg, "smaller quantization"));
    assert_non_null(strstr(err.msg, "not enough"));
    /* A context that is too long: the one that fits is named, and does fit, and one more does not.
     */
    uniform(&x, 20, 2);
    x.nodes[0].memory_bytes = x.nodes[1].memory_bytes = 1500000000;
    x.req.context = 1 << 20;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ENOSPACE);
    uint32_t fits = cake_plan_max_context(&x.req);
    char text[64];
    snprintf(text, sizeof text, "use --context %u or less", fits);
    assert_non_null(strstr(err.msg, text));
    x.req.context = fits;
    assert_int_equal(cake_plan_max_context(&x.req), fits);
    plan = made(&x);
    cake_plan_deinit(&plan);
    x.req.context = fits + 1;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ENOSPACE);
    /* Enough in sum, not in whole layers. */
    uniform(&x, 3, 3);
    for (int v = 0; v < 3; v++) x.nodes[v].memory_bytes = 190000000;
    x.nodes[0].memory_bytes = 290000000;
    x.units[2].weight_bytes = 1, x.req.context = 1;
    x.units[1].weight_bytes = x.units[3].weight_bytes = 195000000;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ENOSPACE);
    assert_non_null(strstr(err.msg, "whole layers"));
}

static void test_pins(void **state) {
    (void)state;
    instance x;
    uniform(&x, 8, 4);
    x.pins[0] = (cake_plan_pin){2, 1, 4}; /* layers 0-2 */
    x.pins[1] = (cake_plan_pin){1, 4, 9}; /* layers 3-7 */
    x.req.n_pins = 2;
    cake_plan plan = made(&x);
    assert_int_equal(plan.n_stages, 4);
    assert_int_equal(plan.stages[1].node, 2);
    assert_int_equal(plan.stages[2].node, 1);
    assert_int_equal(plan.stages[2].unit_begin, 4);
    assert_non_null(strstr(plan.nodes[2].reason, "topology"));
    assert_non_null(strstr(plan.nodes[3].reason, "topology"));
    cake_plan_deinit(&plan);
    /* the ends of the model to the master, which may be two runs */
    x.pins[0] = (cake_plan_pin){0, 1, 3};
    x.pins[1] = (cake_plan_pin){1, 3, 6};
    x.pins[2] = (cake_plan_pin){0, 6, 9};
    x.req.n_pins = 3;
    plan = made(&x);
    assert_int_equal(plan.n_stages, 3);
    assert_int_equal(plan.stages[0].unit_end, 3);
    assert_int_equal(plan.stages[2].unit_begin, 6);
    assert_int_equal(plan.stages[2].node, 0);
    cake_plan_deinit(&plan);
    /* the same without saying so, when nobody else is there */
    x.pins[0] = (cake_plan_pin){1, 3, 6};
    x.req.n_pins = 1, x.req.n_nodes = 2;
    plan = made(&x);
    assert_int_equal(plan.n_stages, 3);
    assert_int_equal(plan.stages[0].unit_end, 3);
    assert_int_equal(plan.stages[2].unit_begin, 6);
    cake_plan_deinit(&plan);
    x.req.n_nodes = 4;
    /* embedding and head on a worker that has the end layers */
    x.pins[0] = (cake_plan_pin){1, 0, 9};
    x.pins[1] = (cake_plan_pin){1, 9, 10};
    x.req.n_pins = 2;
    plan = made(&x);
    assert_int_equal(plan.n_stages, 1);
    assert_int_equal(plan.stages[0].node, 1);
    cake_plan_deinit(&plan);

    cake_error err;
    x.pins[0] = (cake_plan_pin){2, 1, 5};
    x.pins[1] = (cake_plan_pin){1, 4, 9};
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ECONFIG);
    x.pins[0] = (cake_plan_pin){2, 1, 3};
    x.pins[1] = (cake_plan_pin){2, 4, 9};
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ECONFIG);
    assert_non_null(strstr(err.msg, "adjoin"));
    x.pins[0] = (cake_plan_pin){1, 1, 9};
    x.req.n_pins = 1;
    x.nodes[1].memory_bytes = 500000000;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ENOSPACE);
    assert_non_null(strstr(err.msg, "layers 0-7 do not fit on 'w1'"));
    x.nodes[1].memory_bytes = 5000000000u;
    x.links[0] = (cake_plan_link){.a = 0, .b = 1, .unreachable = true};
    x.req.n_links = 1;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EUNAVAIL);
    assert_non_null(strstr(err.msg, "w1"));
}

static void test_relay_is_told(void **state) {
    (void)state;
    instance x;
    uniform(&x, 20, 3);
    x.req.min_workers = 2;
    x.links[0] = (cake_plan_link){.a = 1, .b = 2, .unreachable = true};
    x.req.n_links = 1;
    cake_plan plan = made(&x);
    assert_int_equal(plan.n_workers, 2);
    assert_true(plan.stages[2].relayed);
    assert_true(plan.stages[2].network_s > 1.9 * plan.stages[1].network_s);
    cake_plan_deinit(&plan);
}

/* More nodes than the exact search takes. With alike links and layers the answer is known. */
static void test_many_nodes(void **state) {
    (void)state;
    instance x;
    uniform(&x, 20, 21);
    x.req.goal = CAKE_PLAN_THROUGHPUT;
    cake_plan plan = made(&x);
    assert_false(plan.exact);
    /* 20 layers, 20 workers, and the master has the head, which costs as much as a layer */
    for (uint32_t i = 0; i < plan.n_stages; i++)
        assert_true(plan.stages[i].unit_end - plan.stages[i].unit_begin <= 1);
    cake_plan_deinit(&plan);
    x.req.goal = CAKE_PLAN_LATENCY;
    x.req.min_workers = 15;
    plan = made(&x);
    assert_int_equal(plan.n_workers, 15);
    cake_plan_deinit(&plan);
    x.req.min_workers = 0;
    x.nodes[17].read_bw = 80e9;
    plan = made(&x);
    assert_int_equal(plan.n_workers, 1);
    assert_true(plan.nodes[17].used);
    cake_plan_deinit(&plan);
    for (int v = 0; v < 21; v++) x.nodes[v].memory_bytes = 220000000; /* two layers each at most */
    plan = made(&x);
    assert_true(plan.n_workers >= 9);
    cake_plan_deinit(&plan);

    /* all pinned: the order of the file, whatever the order of the nodes */
    uniform(&x, 20, 21);
    cake_plan_pin pins[20];
    for (uint32_t i = 0; i < 20; i++) pins[i] = (cake_plan_pin){20 - i, i + 1, i + 2};
    x.req.pins = pins, x.req.n_pins = 20;
    plan = made(&x);
    assert_true(plan.exact);
    assert_int_equal(plan.n_stages, 22);
    assert_int_equal(plan.stages[1].node, 20);
    cake_plan_deinit(&plan);
}

/* With alike links and layers the fixed order loses nothing, whatever the order: the claim of the
 * header. */
static void test_fixed_order_is_exact_when_alike(void **state) {
    (void)state;
    int found = 0;
    for (seed = 1; seed < 300; seed++) {
        uint64_t keep = seed;
        instance x;
        uint32_t n = 2 + rnd(6), n_layers = 4 + rnd(12), order[MAX_NODES];
        uniform(&x, n_layers, n);
        for (uint32_t v = 0; v < n; v++) {
            x.nodes[v].read_bw = rndf(1e9, 50e9);
            x.nodes[v].memory_bytes = 250000000 + rnd(900000000);
            order[v] = v;
        }
        for (uint32_t i = n - 1; i > 1; i--) { /* the workers in any order */
            uint32_t k = 1 + rnd(i), t = order[i];
            order[i] = order[k], order[k] = t;
        }
        cake_plan_cost c;
        cake_error err;
        assert_int_equal(cake_plan_cost_init(&c, &x.req, &err), CAKE_OK);
        uint32_t room = 1;
        while (room < n_layers &&
               cake_plan_memory_of(&c, 0, room + 1, n_layers + 1, n_layers + 2).total <=
                   x.nodes[0].memory_bytes)
            room++;
        cake_plan_search s = {.c = &c,
                              .front_min = 1,
                              .front_max = room,
                              .back = n_layers + 1,
                              .head_owner = CAKE_PLAN_NONE,
                              .movers = order + 1,
                              .n_movers = n - 1,
                              .need = rnd(3),
                              .limit = rnd(2) ? INFINITY : rndf(0.01, 0.2)};
        cake_plan_run runs[2][MAX_UNITS];
        cake_plan_chain found_chain[2] = {{.runs = runs[0]}, {.runs = runs[1]}};
        cake_status st[2];
        for (int exact = 0; exact < 2; exact++) {
            s.exact = exact;
            st[exact] = cake_plan_search_run(&s, &found_chain[exact], &err);
        }
        assert_int_equal(st[0], st[1]);
        if (st[0] == CAKE_OK) {
            assert_close(found_chain[0].total, found_chain[1].total);
            assert_true(found_chain[0].busiest <= s.limit && found_chain[1].busiest <= s.limit);
            found++;
        }
        cake_plan_cost_deinit(&c);
        seed = keep;
    }
    assert_in_range(found, 100, 290);
}

/* The largest cluster the request allows is planned, in bounded time and memory. */
static void test_a_thousand_nodes(void **state) {
    (void)state;
    instance x;
    uniform(&x, 20, 1);
    cake_plan_node_in *nodes = calloc(CAKE_PLAN_MAX_NODES, sizeof *nodes);
    assert_non_null(nodes);
    for (int v = 0; v < CAKE_PLAN_MAX_NODES; v++) {
        nodes[v] = x.nodes[0];
        nodes[v].is_local = v == 0;
        nodes[v].memory_bytes = 230000000;
        nodes[v].read_bw = 5e9 + (v * 7919 % 1000) * 5e6;
    }
    x.req.nodes = nodes, x.req.n_nodes = CAKE_PLAN_MAX_NODES;
    cake_plan plan = made(&x);
    assert_true(plan.n_workers >= 9);
    cake_plan_deinit(&plan);
    free(nodes);
}

static void test_bad_requests(void **state) {
    (void)state;
    instance x;
    cake_plan plan;
    cake_error err;
    uniform(&x, 4, 2);
    x.nodes[1].read_bw = 0;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EINVAL);
    x.nodes[1].read_bw = NAN;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EINVAL);
    uniform(&x, 4, 2);
    x.req.n_layers = 0;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EINVAL);
    uniform(&x, 4, 2);
    x.nodes[1].is_local = true;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EINVAL);
    uniform(&x, 4, 2);
    x.req.n_pins = 1, x.pins[0] = (cake_plan_pin){5, 1, 2};
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EINVAL);
    x.pins[0] = (cake_plan_pin){1, 1, 20};
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EINVAL);
    uniform(&x, 4, 2);
    x.req.n_links = 1, x.links[0] = (cake_plan_link){.a = 0, .b = 9, .bandwidth = 1};
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_EINVAL);
    /* sizes that would overflow are refused as too large, not wrapped */
    uniform(&x, 4, 2);
    x.units[1].kv_bytes = UINT64_MAX, x.units[2].weight_bytes = UINT64_MAX, x.req.sequences = 1000;
    assert_int_equal(cake_plan_make(&x.req, &plan, &err), CAKE_ENOSPACE);
}

static char *printed(void (*print)(const cake_plan_request *, const cake_plan *, FILE *),
                     const instance *x, const cake_plan *plan) {
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    print(&x->req, plan, f);
    fclose(f);
    return text;
}

static void test_printing(void **state) {
    (void)state;
    instance x;
    uniform(&x, 20, 4);
    x.req.min_workers = 2;
    cake_plan plan = made(&x);
    char *text = printed(cake_plan_print, &x, &plan);
    assert_non_null(strstr(text, "embed, 0-"));
    assert_non_null(strstr(text, "head"));
    assert_non_null(strstr(text, "left out"));
    assert_non_null(strstr(text, "tokens/s with the pipeline full"));
    assert_null(strstr(text, " \n"));
    free(text);
    text = printed(cake_plan_print_json, &x, &plan);
    json_object *o = json_tokener_parse(text), *stages = NULL;
    assert_non_null(o);
    assert_true(json_object_object_get_ex(o, "stages", &stages));
    assert_int_equal(json_object_array_length(stages), plan.n_stages);
    json_object_put(o);
    free(text);
    cake_plan_deinit(&plan);
    char buf[64];
    assert_string_equal(cake_plan_units_text(buf, 20, 0, 1), "embed");
    assert_string_equal(cake_plan_units_text(buf, 20, 0, 2), "embed, 0");
    assert_string_equal(cake_plan_units_text(buf, 20, 1, 21), "0-19");
    assert_string_equal(cake_plan_units_text(buf, 20, 0, 22), "embed, 0-19, head");
    assert_string_equal(cake_plan_units_text(buf, 20, 21, 22), "head");
    assert_string_equal(cake_plan_units_text(buf, 20, 20, 22), "19, head");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brute_force),
        cmocka_unit_test(test_pins_brute_force),
        cmocka_unit_test(test_latency_leaves_slow_nodes_out),
        cmocka_unit_test(test_min_workers),
        cmocka_unit_test(test_reasons_compare_like_with_like),
        cmocka_unit_test(test_throughput_evens_out),
        cmocka_unit_test(test_memory_forces_a_split),
        cmocka_unit_test(test_refusal_has_the_numbers),
        cmocka_unit_test(test_pins),
        cmocka_unit_test(test_relay_is_told),
        cmocka_unit_test(test_many_nodes),
        cmocka_unit_test(test_fixed_order_is_exact_when_alike),
        cmocka_unit_test(test_a_thousand_nodes),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_printing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
