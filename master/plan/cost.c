/* Costs of units, stages and legs: see cost.h. */
#include "master/plan/cost.h"

#include "common/mem.h"

#include <math.h>
#include <stdlib.h>

/* Sizes add up from a model file's numbers: stay far below overflow instead of wrapping. */
#define SIZE_CEILING ((uint64_t)1 << 60)

static uint64_t add_capped(uint64_t a, uint64_t b) {
    uint64_t r;
    return __builtin_add_overflow(a, b, &r) || r > SIZE_CEILING ? SIZE_CEILING : r;
}
static uint64_t mul_capped(uint64_t a, uint64_t b) {
    uint64_t r;
    return __builtin_mul_overflow(a, b, &r) || r > SIZE_CEILING ? SIZE_CEILING : r;
}

static cake_status check_request(const cake_plan_request *r, cake_error *err) {
    if (r->n_layers == 0 || r->n_layers > CAKE_PLAN_MAX_LAYERS)
        return cake_fail(err, CAKE_EINVAL, "cannot plan a model of %u layers", r->n_layers);
    if (r->n_nodes == 0 || r->n_nodes > CAKE_PLAN_MAX_NODES)
        return cake_fail(err, CAKE_EINVAL, "cannot plan for %u nodes (1 to %d)", r->n_nodes,
                         CAKE_PLAN_MAX_NODES);
    if (r->context == 0)
        return cake_fail(err, CAKE_EINVAL, "cannot plan for a context of 0 positions");
    unsigned locals = 0;
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        const cake_plan_node_in *n = &r->nodes[i];
        locals += n->is_local;
        if (!(n->read_bw > 0) || !isfinite(n->read_bw) || !(n->ops > 0) || !isfinite(n->ops) ||
            !(n->overhead_s >= 0) || !isfinite(n->overhead_s))
            return cake_fail(err, CAKE_EINVAL, "node '%s' has no usable measurement", n->name);
    }
    if (locals > 1)
        return cake_fail(err, CAKE_EINVAL, "more than one node says that it is the local one");
    return CAKE_OK;
}

static cake_status set_links(cake_plan_cost *c, cake_error *err) {
    const cake_plan_request *r = c->req;
    size_t n = (size_t)c->n_nodes + 1;
    c->link = cake_calloc(n * n, sizeof(const cake_plan_link *));
    c->fallback = (cake_plan_link){.rtt_s = r->default_rtt_s, .bandwidth = r->default_bandwidth};
    if (r->default_bandwidth > 0)
        for (size_t i = 0; i < n * n; i++) c->link[i] = &c->fallback;
    for (size_t i = 0; i < r->n_links; i++) {
        const cake_plan_link *l = &r->links[i];
        uint32_t a = l->a == CAKE_PLAN_MASTER ? c->master : l->a;
        uint32_t b = l->b == CAKE_PLAN_MASTER ? c->master : l->b;
        if (a > c->n_nodes || b > c->n_nodes || a == b ||
            (!l->unreachable && (!(l->bandwidth > 0) || !isfinite(l->bandwidth) ||
                                 !(l->rtt_s >= 0) || !isfinite(l->rtt_s))))
            return cake_fail(err, CAKE_EINVAL, "link %zu of the request is malformed", i);
        c->link[a * n + b] = c->link[b * n + a] = l->unreachable ? NULL : l;
    }
    return CAKE_OK;
}

static cake_status set_pins(cake_plan_cost *c, cake_error *err) {
    const cake_plan_request *r = c->req;
    uint32_t head = c->n_units - 1;
    c->owner = cake_malloc(c->n_units * sizeof *c->owner);
    c->pinned = cake_calloc(c->n_nodes, sizeof *c->pinned);
    for (uint32_t u = 0; u < c->n_units; u++) c->owner[u] = CAKE_PLAN_NONE;
    for (size_t i = 0; i < r->n_pins; i++) {
        const cake_plan_pin *p = &r->pins[i];
        if (p->node >= c->n_nodes || p->unit_begin >= p->unit_end || p->unit_end > c->n_units)
            return cake_fail(err, CAKE_EINVAL, "pin %zu of the request is malformed", i);
        const char *name = r->nodes[p->node].name;
        for (uint32_t u = p->unit_begin; u < p->unit_end; u++) {
            if (c->owner[u] != CAKE_PLAN_NONE && c->owner[u] != p->node)
                return cake_fail(err, CAKE_ECONFIG,
                                 "%s is assigned to both '%s' and '%s': remove one",
                                 u == 0      ? "the embedding"
                                 : u == head ? "the head"
                                             : "a layer",
                                 r->nodes[c->owner[u]].name, name);
            c->owner[u] = p->node;
        }
    }
    for (uint32_t u = 0; u < c->n_units; u++) {
        if (c->owner[u] == CAKE_PLAN_NONE) continue;
        cake_plan_pinned *p = &c->pinned[c->owner[u]];
        if (u == 0)
            p->embedding = true;
        else if (u == head)
            p->head = true;
        else if (p->begin == p->end)
            p->begin = u, p->end = u + 1;
        else if (p->end == u)
            p->end = u + 1;
        else if (c->owner[u] != c->local) /* the local node may hold the first and the last ones */
            return cake_fail(
                err, CAKE_ECONFIG,
                "'%s' is given layers %u-%u and %u, which do not adjoin: a worker holds one "
                "run of layers; give it neighbouring ones",
                r->nodes[c->owner[u]].name, p->begin - 1, p->end - 2, u - 1);
    }
    return CAKE_OK;
}

static void set_units(cake_plan_cost *c) {
    const cake_plan_request *r = c->req;
    uint32_t n = c->n_units;
    uint64_t sequences = r->sequences ? r->sequences : 1;
    uint64_t positions = mul_capped(r->context, sequences);
    c->weight = cake_calloc((size_t)n + 1, sizeof *c->weight);
    c->kv = cake_calloc((size_t)n + 1, sizeof *c->kv);
    uint32_t levels = 1;
    while (1u << levels <= n) levels++;
    c->scratch = cake_calloc((size_t)levels * n, sizeof *c->scratch);
    for (uint32_t u = 0; u < n; u++) {
        const cake_plan_unit *x = &r->units[u];
        uint64_t kv =
            add_capped(mul_capped(x->kv_bytes, positions), mul_capped(x->state_bytes, sequences));
        c->weight[u + 1] = add_capped(c->weight[u], x->weight_bytes);
        c->kv[u + 1] = add_capped(c->kv[u], kv);
        c->scratch[u] = x->scratch_bytes < SIZE_CEILING ? x->scratch_bytes : SIZE_CEILING;
    }
    for (uint32_t l = 1; l < levels; l++)
        for (uint32_t u = 0; u + (1u << l) <= n; u++) {
            uint64_t a = c->scratch[(l - 1) * n + u],
                     b = c->scratch[(l - 1) * n + u + (1u << (l - 1))];
            c->scratch[l * n + u] = a > b ? a : b;
        }
    c->decode = cake_calloc((size_t)c->n_nodes * (n + 1), sizeof *c->decode);
    c->prefill = cake_calloc((size_t)c->n_nodes * (n + 1), sizeof *c->prefill);
    for (uint32_t v = 0; v < c->n_nodes; v++) {
        const cake_plan_node_in *node = &r->nodes[v];
        double *d = c->decode + (size_t)v * (n + 1), *p = c->prefill + (size_t)v * (n + 1);
        for (uint32_t u = 0; u < n; u++) {
            const cake_plan_unit *x = &r->units[u];
            double read = (double)x->read_bytes / node->read_bw, work = (double)x->macs / node->ops;
            double kv =
                ((double)x->kv_bytes * (r->context / 2.0) + (double)x->state_bytes) / node->read_bw;
            d[u + 1] = d[u] + (read > work ? read : work) + kv;
            p[u + 1] = p[u] + work;
        }
    }
}

cake_status cake_plan_cost_init(cake_plan_cost *c, const cake_plan_request *req, cake_error *err) {
    *c = (cake_plan_cost){.req = req, .local = CAKE_PLAN_NONE};
    cake_status st = check_request(req, err);
    if (st != CAKE_OK) return st;
    c->n_units = req->n_layers + 2;
    c->n_nodes = req->n_nodes;
    for (uint32_t i = 0; i < c->n_nodes; i++)
        if (req->nodes[i].is_local) c->local = i;
    c->master = c->local != CAKE_PLAN_NONE ? c->local : c->n_nodes;
    if ((st = set_links(c, err)) != CAKE_OK) return st;
    if ((st = set_pins(c, err)) != CAKE_OK) return st;
    set_units(c);
    return CAKE_OK;
}

void cake_plan_cost_deinit(cake_plan_cost *c) {
    free(c->weight);
    free(c->kv);
    free(c->scratch);
    free(c->decode);
    free(c->prefill);
    free(c->link);
    free(c->owner);
    free(c->pinned);
    *c = (cake_plan_cost){0};
}

static uint64_t scratch_max(const cake_plan_cost *c, uint32_t begin, uint32_t end) {
    if (begin >= end) return 0;
    uint32_t level = 31u - (uint32_t)__builtin_clz(end - begin);
    uint64_t a = c->scratch[level * c->n_units + begin];
    uint64_t b = c->scratch[level * c->n_units + end - (1u << level)];
    return a > b ? a : b;
}

cake_plan_memory cake_plan_memory_of(const cake_plan_cost *c, uint32_t a0, uint32_t a1, uint32_t b0,
                                     uint32_t b1) {
    cake_plan_memory m = {0};
    m.weight = c->weight[a1] - c->weight[a0] + c->weight[b1] - c->weight[b0];
    m.kv = c->kv[a1] - c->kv[a0] + c->kv[b1] - c->kv[b0];
    uint64_t sa = scratch_max(c, a0, a1), sb = scratch_max(c, b0, b1);
    m.scratch = sa > sb ? sa : sb;
    bool embedding = (a0 == 0 && a1 > 0) || (b0 == 0 && b1 > 0);
    bool head = (a0 < a1 && a1 == c->n_units) || (b0 < b1 && b1 == c->n_units);
    if (c->req->tied_head && embedding && head) m.weight -= c->weight[1];
    m.total = m.weight + m.kv + m.scratch;
    return m;
}

bool cake_plan_fits(const cake_plan_cost *c, uint32_t node, uint32_t begin, uint32_t end) {
    return cake_plan_memory_of(c, begin, end, 0, 0).total <= c->req->nodes[node].memory_bytes;
}

double cake_plan_stage_s(const cake_plan_cost *c, uint32_t node, uint32_t begin, uint32_t end) {
    const double *t = c->decode + (size_t)node * (c->n_units + 1);
    return t[end] - t[begin] + c->req->nodes[node].overhead_s;
}

cake_plan_leg cake_plan_leg_of(const cake_plan_cost *c, uint32_t from, uint32_t to,
                               uint64_t bytes) {
    size_t n = (size_t)c->n_nodes + 1;
    if (from == to) return (cake_plan_leg){0, 0, false};
    const cake_plan_link *l = c->link[from * n + to];
    if (l)
        return (cake_plan_leg){l->rtt_s / 2 + (double)bytes / l->bandwidth,
                               (double)bytes / l->bandwidth, false};
    if (from == c->master || to == c->master) return (cake_plan_leg){INFINITY, INFINITY, false};
    cake_plan_leg up = cake_plan_leg_of(c, from, c->master, bytes);
    cake_plan_leg down = cake_plan_leg_of(c, c->master, to, bytes);
    return (cake_plan_leg){up.s + down.s, up.busy > down.busy ? up.busy : down.busy, true};
}

bool cake_plan_reachable(const cake_plan_cost *c, uint32_t node) {
    return node == c->master || c->link[(size_t)node * (c->n_nodes + 1) + c->master] != NULL;
}

uint64_t cake_plan_model_bytes(const cake_plan_request *req) {
    uint64_t sum = 0;
    for (uint32_t u = req->tied_head ? 1 : 0; u < req->n_layers + 2; u++)
        sum = add_capped(sum, req->units[u].weight_bytes);
    return sum;
}
