/* Dynamic programming over chains of stages: see search.h and the head of planner.h.
 *
 * f[state][v][j]: least seconds per token of a chain whose runs cover units [0, j), the last one on
 * mover v. A state is the set of movers used (exact) or how many workers were used so far, up to
 * `need` (fixed order). To extend a chain by v:
 *
 *     g[i]           = least over the last mover u before v of f[.][u][i] + leg(u, v)
 *     f[state][v][j] = least over i in window(v, j) of (g[i] - D_v[i]) + D_v[j] + overhead_v
 *
 * D_v are prefix sums of v's time. Window(v, j) are the i for which v may and can hold [i, j): its
 * ends only grow with j, since what fits or keeps the limit still does with units taken away. So a
 * queue of rising keys gives every minimum in constant time, and one extension costs O(n_units). */
#include "master/plan/search.h"

#include "common/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STATES_MAX = 1 << 24 };

typedef struct {
    const cake_plan_search *s;
    const cake_plan_cost *c;
    uint32_t m, n_units, end; /* movers cover units up to `end` */
    uint32_t *lo, *hi;        /* [m][n_units + 1] windows; lo > hi: empty */
    double *leg;          /* [m + 1][m + 1]; index m: the local node, before or after the movers */
    double *first, *last; /* [m] leg of the tokens to it, of the logits from it */
    double *f, *g;
    uint32_t *queue;
} work;

static double *at(const work *w, size_t state, uint32_t v) {
    return w->f + (state * w->m + v) * (w->n_units + 1);
}

static double limited(const work *w, cake_plan_leg l) {
    return l.busy <= w->s->limit ? l.s : INFINITY;
}

/* Which begins i may a run of mover v have that ends at j? */
static void windows(work *w, uint32_t v) {
    const cake_plan_cost *c = w->c;
    uint32_t node = w->s->movers[v], n = w->n_units, last_layer = n - 2;
    uint32_t *lo = w->lo + (size_t)v * (n + 1), *hi = w->hi + (size_t)v * (n + 1);
    const cake_plan_pinned *pin = &c->pinned[node];
    bool may_lack_layers = node == c->local || pin->embedding || pin->head;
    uint32_t from = 0;
    lo[0] = 1, hi[0] = 0;
    for (uint32_t j = 1; j <= n; j++) {
        uint32_t owner =
            j == n && w->s->head_owner != CAKE_PLAN_NONE ? w->s->head_owner : c->owner[j - 1];
        if (owner != CAKE_PLAN_NONE && owner != node) from = j;
        while (from < j && (!cake_plan_fits(c, node, from, j) ||
                            cake_plan_stage_s(c, node, from, j) > w->s->limit))
            from++;
        lo[j] = from, hi[j] = j - 1;
        bool empty = from >= j || j > w->end;
        if (!may_lack_layers) {
            if (j < 2) empty = true;
            if (hi[j] > last_layer) hi[j] = last_layer;
        }
        if (pin->begin <
            pin->end) { /* exactly these layers, with embedding or head if they adjoin */
            if (j != pin->end && !(j == n && pin->end == n - 1)) empty = true;
            uint32_t least = pin->begin == 1 ? 0 : pin->begin;
            if (lo[j] < least) lo[j] = least;
            if (hi[j] > pin->begin) hi[j] = pin->begin;
        }
        if (empty || lo[j] > hi[j]) lo[j] = 1, hi[j] = 0;
    }
}

/* f of one extension from g; out[n_units + 1]. */
static void extend(work *w, uint32_t v, double *out) {
    const cake_plan_cost *c = w->c;
    uint32_t node = w->s->movers[v], n = w->n_units;
    const uint32_t *lo = w->lo + (size_t)v * (n + 1), *hi = w->hi + (size_t)v * (n + 1);
    const double *d = c->decode + (size_t)node * (n + 1), *g = w->g;
    double overhead = c->req->nodes[node].overhead_s;
    uint32_t head = 0, tail = 0, next = 0;
    for (uint32_t j = 0; j <= n; j++) {
        out[j] = INFINITY;
        if (lo[j] > hi[j]) continue;
        for (; next <= hi[j]; next++) {
            double key = g[next] - d[next];
            while (tail > head && g[w->queue[tail - 1]] - d[w->queue[tail - 1]] > key) tail--;
            w->queue[tail++] = next;
        }
        while (head < tail && w->queue[head] < lo[j]) head++;
        if (head == tail) continue;
        uint32_t i = w->queue[head];
        out[j] = (g[i] - d[i]) + d[j] + overhead;
    }
}

/* g of a chain that begins with v. */
static void begin_with(work *w, uint32_t v) {
    const cake_plan_search *s = w->s;
    const cake_plan_cost *c = w->c;
    for (uint32_t i = 0; i <= w->n_units; i++) w->g[i] = INFINITY;
    if (s->front_max == 0) {
        w->g[0] = w->first[v];
        return;
    }
    double back_s = s->back < w->n_units ? cake_plan_stage_s(c, c->local, s->back, w->n_units) : 0;
    for (uint32_t a = s->front_min; a <= s->front_max && a < w->end; a++) {
        double front_s = cake_plan_stage_s(c, c->local, 0, a);
        if (front_s + back_s <= s->limit) w->g[a] = front_s + w->leg[(size_t)w->m * (w->m + 1) + v];
    }
}

/* The innermost loop of all: written so that compilers make it a vector minimum. */
static void continue_from(work *w, const double *restrict f, uint32_t u, uint32_t v) {
    double leg = w->leg[(size_t)u * (w->m + 1) + v], *restrict g = w->g;
    uint32_t n = w->n_units;
    for (uint32_t i = 0; i <= n; i++) {
        double t = f[i] + leg;
        g[i] = t < g[i] ? t : g[i];
    }
}

/* Total of a chain whose last mover is v. */
static double finish(const work *w, const double *f, uint32_t v) {
    const cake_plan_search *s = w->s;
    double t = f[w->end] + w->last[v];
    if (s->back < w->n_units) t += cake_plan_stage_s(w->c, w->c->local, s->back, w->n_units);
    return t;
}

static double alone(const work *w) {
    const cake_plan_search *s = w->s;
    if (!s->single_ok || s->all || s->need > 0 || !cake_plan_fits(w->c, w->c->local, 0, w->n_units))
        return INFINITY;
    double t = cake_plan_stage_s(w->c, w->c->local, 0, w->n_units);
    return t <= s->limit ? t : INFINITY;
}

static uint32_t workers_in(const work *w, size_t mask) {
    uint32_t k = 0;
    for (uint32_t v = 0; v < w->m; v++) k += (mask >> v & 1) && w->s->movers[v] != w->c->local;
    return k;
}

/* g for extending the set `before` by v. */
static void gather_set(work *w, size_t before, uint32_t v) {
    if (!before) {
        begin_with(w, v);
        return;
    }
    for (uint32_t i = 0; i <= w->n_units; i++) w->g[i] = INFINITY;
    for (uint32_t u = 0; u < w->m; u++)
        if (before >> u & 1) continue_from(w, at(w, before, u), u, v);
}

/* g for v after `count` workers in the fixed order. */
static uint32_t counted(const work *w, uint32_t count, uint32_t v) {
    count += w->s->movers[v] != w->c->local || w->s->all;
    return count < w->s->need ? count : w->s->need;
}

static void gather_order(work *w, uint32_t count, uint32_t v) {
    for (uint32_t i = 0; i <= w->n_units; i++) w->g[i] = INFINITY;
    if (counted(w, 0, v) == count) begin_with(w, v);
    for (uint32_t before = 0; before <= count; before++)
        if (counted(w, before, v) == count)
            for (uint32_t u = 0; u < v; u++) continue_from(w, at(w, before, u), u, v);
}

/* Where did f[state][v][j] come from? The same expressions and order as extend() and gather_*(). */
static uint32_t begin_of(const work *w, uint32_t v, uint32_t j, double value) {
    uint32_t n = w->n_units, node = w->s->movers[v];
    const uint32_t *lo = w->lo + (size_t)v * (n + 1), *hi = w->hi + (size_t)v * (n + 1);
    const double *d = w->c->decode + (size_t)node * (n + 1);
    double overhead = w->c->req->nodes[node].overhead_s;
    for (uint32_t i = lo[j]; i <= hi[j]; i++)
        if ((w->g[i] - d[i]) + d[j] + overhead == value) return i;
    cake_assert(false && "a chain can be walked back");
    return 0;
}

static void walk_back(work *w, size_t state, uint32_t v, cake_plan_chain *chain) {
    const cake_plan_search *s = w->s;
    uint32_t j = w->end, n = 0;
    cake_plan_run *runs = chain->runs;
    if (s->back < w->n_units) runs[n++] = (cake_plan_run){w->c->local, s->back, w->n_units};
    for (;;) {
        double value = at(w, state, v)[j];
        size_t before = s->exact ? state & ~((size_t)1 << v) : 0;
        if (s->exact)
            gather_set(w, before, v);
        else
            gather_order(w, (uint32_t)state, v);
        uint32_t i = begin_of(w, v, j, value);
        runs[n++] = (cake_plan_run){s->movers[v], i, j};
        double g = w->g[i];
        j = i;
        bool found = false;
        /* A beginning is found first, so equal totals prefer fewer nodes. */
        if (s->exact ? before == 0 : counted(w, 0, v) == state) {
            begin_with(w, v);
            if (w->g[i] == g) break;
        }
        if (s->exact) {
            for (uint32_t u = 0; u < w->m && !found; u++)
                if ((before >> u & 1) &&
                    at(w, before, u)[i] + w->leg[(size_t)u * (w->m + 1) + v] == g)
                    state = before, v = u, found = true;
        } else {
            for (uint32_t b = 0; b <= state && !found; b++)
                for (uint32_t u = 0; u < v && !found; u++)
                    if (counted(w, b, v) == state &&
                        at(w, b, u)[i] + w->leg[(size_t)u * (w->m + 1) + v] == g)
                        state = b, v = u, found = true;
        }
        cake_assert(found);
    }
    if (s->front_max) runs[n++] = (cake_plan_run){w->c->local, 0, j};
    chain->n_runs = n;
    for (uint32_t a = 0, b = n - 1; a < b; a++, b--) {
        cake_plan_run t = runs[a];
        runs[a] = runs[b], runs[b] = t;
    }
}

static double busiest(const work *w, const cake_plan_chain *chain) {
    const cake_plan_cost *c = w->c;
    double most = 0, local = 0;
    uint32_t from = c->master;
    for (uint32_t r = 0; r <= chain->n_runs; r++) {
        bool end = r == chain->n_runs;
        uint32_t to = end ? c->master : chain->runs[r].node;
        uint64_t bytes = end ? c->req->logit_bytes
                         : r ? c->req->activation_bytes
                             : CAKE_PLAN_TOKEN_BYTES;
        double busy = cake_plan_leg_of(c, from, to, bytes).busy;
        if (busy > most) most = busy;
        if (end) break;
        busy = cake_plan_stage_s(c, to, chain->runs[r].begin, chain->runs[r].end);
        if (to == c->local) busy = local += busy;
        if (busy > most) most = busy;
        from = to;
    }
    return most;
}

static void note_with(const work *w, size_t mask, double t) {
    const cake_plan_search *s = w->s;
    bool enough = workers_in(w, mask) >= s->need;
    for (uint32_t v = 0; v < w->m; v++) {
        bool in = mask >> v & 1;
        if (in && enough && t < s->with[v]) s->with[v] = t;
        if (!in && enough && t < s->without[v]) s->without[v] = t;
        if (!in && t < s->without_any[v]) s->without_any[v] = t;
    }
}

static void search_sets(work *w, double *best, size_t *best_state, uint32_t *best_last) {
    const cake_plan_search *s = w->s;
    size_t n_sets = (size_t)1 << w->m;
    for (size_t mask = 1; mask < n_sets; mask++)
        for (uint32_t v = 0; v < w->m; v++) {
            if (!(mask >> v & 1)) continue;
            gather_set(w, mask & ~((size_t)1 << v), v);
            extend(w, v, at(w, mask, v));
        }
    if (s->with) {
        for (uint32_t v = 0; v < w->m; v++)
            s->with[v] = s->without[v] = s->without_any[v] = INFINITY;
        double t = s->single_ok && cake_plan_fits(w->c, w->c->local, 0, w->n_units)
                       ? cake_plan_stage_s(w->c, w->c->local, 0, w->n_units)
                       : INFINITY;
        note_with(w, 0, t);
    }
    for (uint32_t k = 1; k <= w->m; k++) /* fewer nodes first */
        for (size_t mask = 1; mask < n_sets; mask++) {
            if ((uint32_t)__builtin_popcountll(mask) != k) continue;
            bool allowed = s->all ? k == w->m : workers_in(w, mask) >= s->need;
            for (uint32_t v = 0; v < w->m; v++) {
                if (!(mask >> v & 1)) continue;
                double t = finish(w, at(w, mask, v), v);
                if (s->with) note_with(w, mask, t);
                if (allowed && t < *best) *best = t, *best_state = mask, *best_last = v;
            }
        }
}

static void search_order(work *w, double *best, size_t *best_state, uint32_t *best_last) {
    uint32_t need = w->s->need;
    for (uint32_t v = 0; v < w->m; v++)
        for (uint32_t count = 0; count <= need; count++) {
            gather_order(w, count, v);
            extend(w, v, at(w, count, v));
        }
    for (uint32_t v = 0; v < w->m; v++) {
        double t = finish(w, at(w, need, v), v);
        if (t < *best) *best = t, *best_state = need, *best_last = v;
    }
}

bool cake_plan_search_is_small(uint32_t n_movers, uint32_t n_units) {
    return n_movers <= CAKE_PLAN_EXACT_NODES &&
           ((size_t)n_movers << n_movers) * (n_units + 1) <= STATES_MAX;
}

cake_status cake_plan_search_run(const cake_plan_search *search, cake_plan_chain *chain,
                                 cake_error *err) {
    cake_plan_search s = *search;
    const cake_plan_cost *c = s.c;
    if (s.all) s.need = s.n_movers;
    work w = {.s = &s, .c = c, .m = s.n_movers, .n_units = c->n_units, .end = s.back};
    size_t m = w.m, width = (size_t)w.n_units + 1;
    size_t states = s.exact ? (size_t)1 << m : (size_t)s.need + 1;
    w.lo = cake_malloc(m * width * sizeof *w.lo);
    w.hi = cake_malloc(m * width * sizeof *w.hi);
    w.leg = cake_malloc((m + 1) * (m + 1) * sizeof *w.leg);
    w.first = cake_malloc(m * sizeof *w.first);
    w.last = cake_malloc(m * sizeof *w.last);
    w.g = cake_malloc(width * sizeof *w.g);
    w.queue = cake_malloc(width * sizeof *w.queue);
    w.f = cake_trymalloc(states * m * width * sizeof *w.f);
    cake_status st = CAKE_OK;
    if (!w.f) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory to plan for %u nodes", w.m);
        goto out;
    }
    uint64_t row = c->req->activation_bytes;
    for (uint32_t u = 0; u <= m; u++)
        for (uint32_t v = 0; v <= m; v++) {
            uint32_t a = u == m ? c->master : s.movers[u], b = v == m ? c->master : s.movers[v];
            w.leg[u * (m + 1) + v] = limited(&w, cake_plan_leg_of(c, a, b, row));
        }
    for (uint32_t v = 0; v < m; v++) {
        windows(&w, v);
        w.first[v] =
            limited(&w, cake_plan_leg_of(c, c->master, s.movers[v], CAKE_PLAN_TOKEN_BYTES));
        w.last[v] =
            s.back < w.n_units
                ? w.leg[v * (m + 1) + m]
                : limited(&w, cake_plan_leg_of(c, s.movers[v], c->master, c->req->logit_bytes));
    }
    double best = alone(&w);
    bool by_itself = isfinite(best);
    size_t state = 0;
    uint32_t last = CAKE_PLAN_NONE;
    if (s.exact)
        search_sets(&w, &best, &state, &last);
    else
        search_order(&w, &best, &state, &last);
    if (!isfinite(best)) {
        st = CAKE_ENOTFOUND;
        goto out;
    }
    chain->total = best;
    if (last != CAKE_PLAN_NONE) {
        walk_back(&w, state, last, chain);
    } else {
        cake_assert(by_itself);
        chain->n_runs = 1;
        chain->runs[0] = (cake_plan_run){c->local, 0, w.n_units};
    }
    chain->busiest = busiest(&w, chain);
out:
    free(w.lo);
    free(w.hi);
    free(w.leg);
    free(w.first);
    free(w.last);
    free(w.g);
    free(w.queue);
    free(w.f);
    return st;
}
