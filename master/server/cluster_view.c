/* The picture of the cluster: see cluster_view.h. */
#include "master/server/cluster_view.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/mem.h"
#include "master/plan/plan_print.h"
#include "master/server/put.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

enum {
    LOOK_MS = 20,    /* states are compared so often; of many nodes less often, as */
    BUSY_MS = 250,   /* a new text, while something moves: 1,000 nodes take 10 ms each time */
    IDLE_MS = 1000,  /* and while nothing does */
    WINDOW_MS = 900, /* rates are over at least so long */
};

/* A worker's bytes on their way, for their rate; found again by its address in memory, which lasts
 * as long as its cluster. */
typedef struct {
    const cake_master_peer *peer;
    uint64_t bytes;
    int64_t at_ms;
    double rate;
} flow;

typedef struct {
    char id[CAKE_NODE_ID_HEX], name[CAKE_NODE_NAME_MAX], address[CAKE_ADDRESS_MAX];
    char reason[CAKE_ERROR_MAX];
    int64_t heard_ms, lost_ms;
} lost_worker;

struct cake_cluster_view {
    pthread_mutex_t lock; /* of text, len, number */
    char *text;
    size_t len;
    uint64_t number;
    /* loop thread */
    char *reason;
    int64_t looked_ms, built_ms;
    uint64_t states;
    bool dirty;
    flow flows[CAKE_STAGES_MAX];
    size_t n_flows;
    lost_worker lost[CAKE_VIEW_LOST_MAX];
    size_t n_lost;
    /* sums at the beginning of the window, and what came of the last one with rows in it */
    const cake_scheduler *scheduler;
    cake_scheduler_stats from;
    uint64_t from_tokens, from_prompt;
    int64_t from_ms;
    uint32_t n_stages;
    double compute_ms[CAKE_STAGES_MAX], between_ms, batch_ms, rows_per_batch;
    double tokens_per_s, prompt_per_s;
};

cake_cluster_view *cake_cluster_view_new(void) {
    cake_cluster_view *v = cake_calloc(1, sizeof *v);
    pthread_mutex_init(&v->lock, NULL);
    v->text = cake_strdup("\"nodes\":[],\"stages\":[]");
    v->len = strlen(v->text);
    return v;
}

void cake_cluster_view_free(cake_cluster_view *v) {
    if (!v) return;
    pthread_mutex_destroy(&v->lock);
    free(v->text);
    free(v->reason);
    free(v);
}

uint64_t cake_cluster_view_number(cake_cluster_view *v) {
    pthread_mutex_lock(&v->lock);
    uint64_t n = v->number;
    pthread_mutex_unlock(&v->lock);
    return n;
}

uint64_t cake_cluster_view_read(cake_cluster_view *v, cake_text *out) {
    pthread_mutex_lock(&v->lock);
    cake_text_add(out, "%s", v->text);
    uint64_t n = v->number;
    pthread_mutex_unlock(&v->lock);
    return n;
}

void cake_cluster_view_set_reason(cake_cluster_view *v, const char *reason) {
    free(v->reason);
    v->reason = reason ? cake_strdup(reason) : NULL;
    v->dirty = true;
}

/* ---- JSON ---- */

/* Names and reasons come from other machines: what is no UTF-8 must not reach the text. */
static void put_text(json_object *o, const char *key, const char *s) {
    char *clean = cake_strdup(s);
    for (utf8proc_uint8_t *at = (utf8proc_uint8_t *)clean; *at;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate(at, -1, &c);
        if (n < 1 || c < 0x20 || c == 0x7f) *at = '?', n = 1;
        at += n;
    }
    put(o, key, json_object_new_string(clean));
    free(clean);
}
static void put_number(json_object *o, const char *key, double v) {
    char text[32];
    snprintf(text, sizeof text, "%.6g", isfinite(v) ? v : 0.0);
    put(o, key, json_object_new_double_s(isfinite(v) ? v : 0.0, text));
}
static void put_count(json_object *o, const char *key, uint64_t v) {
    put(o, key, json_object_new_uint64(v));
}
static void put_bool(json_object *o, const char *key, bool v) {
    put(o, key, json_object_new_boolean(v));
}

static int64_t wall_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- what was lost ---- */

static bool is_same(const lost_worker *l, const cake_master_peer *p) {
    return (p->id[0] && strcmp(l->id, p->id) == 0) ||
           (!p->id[0] && strcmp(l->address, p->addresses[p->address]) == 0);
}

static lost_worker *find_lost(cake_cluster_view *v, const cake_master_peer *p) {
    for (size_t i = 0; i < v->n_lost; i++)
        if (is_same(&v->lost[i], p)) return &v->lost[i];
    return NULL;
}

static void forget(cake_cluster_view *v, size_t i) {
    v->lost[i] = v->lost[--v->n_lost];
}

static void remember_lost(cake_cluster_view *v, const cake_cluster *c, int64_t now) {
    for (size_t i = 0; i < cake_cluster_n_peers(c); i++) {
        const cake_master_peer *p = cake_cluster_peer(c, i);
        lost_worker *l = find_lost(v, p);
        if (p->state == CAKE_PEER_LOST && !p->is_local && !l) {
            if (v->n_lost == CAKE_VIEW_LOST_MAX) forget(v, 0);
            l = &v->lost[v->n_lost++];
            *l = (lost_worker){.heard_ms = p->last_heard_ms, .lost_ms = now};
            snprintf(l->id, sizeof l->id, "%s", p->id);
            snprintf(l->name, sizeof l->name, "%s", p->name);
            snprintf(l->address, sizeof l->address, "%s", p->addresses[p->address]);
        }
        if (l && p->state == CAKE_PEER_LOST)
            snprintf(l->reason, sizeof l->reason, "%s", p->reason);
        else if (l && p->state != CAKE_PEER_CONNECTING && p->state != CAKE_PEER_REFUSED)
            forget(v, (size_t)(l - v->lost));
    }
    for (size_t i = 0; i < v->n_lost;)
        if (now - v->lost[i].lost_ms > CAKE_VIEW_FORGET_MS)
            forget(v, i);
        else
            i++;
}

/* ---- rates ---- */

static double per(uint64_t now, uint64_t before, double n, double scale) {
    return n > 0 && now > before ? (double)(now - before) * scale / n : 0;
}

/* Over the window that ends now, when it was long enough. */
static void measure(cake_cluster_view *v, const cake_scheduler *sched, const cake_metrics *m,
                    int64_t now) {
    cake_scheduler_stats st = {0};
    if (sched) cake_scheduler_stats_get(sched, &st);
    uint64_t tokens = atomic_load_explicit(&m->generation_tokens, memory_order_relaxed),
             prompt = atomic_load_explicit(&m->prompt_tokens, memory_order_relaxed);
    bool fresh = sched != v->scheduler || st.batches < v->from.batches;
    if (!fresh && now - v->from_ms < WINDOW_MS) return;
    if (!fresh) {
        double s = (double)(now - v->from_ms) / 1e3;
        v->tokens_per_s = per(tokens, v->from_tokens, s, 1);
        v->prompt_per_s = per(prompt, v->from_prompt, s, 1);
        double rows = (double)(st.rows - v->from.rows),
               batches = (double)(st.batches - v->from.batches);
        if (batches > 0 && rows > 0) { /* the times of an idle cluster stay those of its work */
            double inside = 0;
            for (uint32_t i = 0; i < st.n_stages; i++) {
                v->compute_ms[i] =
                    per(st.stage[i].compute_ns, v->from.stage[i].compute_ns, rows, 1e-6);
                inside += v->compute_ms[i] +
                          per(st.stage[i].queue_ns, v->from.stage[i].queue_ns, rows, 1e-6);
            }
            v->n_stages = st.n_stages;
            double flight = per(st.flight_ns, v->from.flight_ns, rows, 1e-6);
            v->between_ms = flight > inside ? flight - inside : 0;
            v->batch_ms = per(st.flight_ns, v->from.flight_ns, batches, 1e-6);
            v->rows_per_batch = rows / batches;
        }
    } else {
        v->n_stages = 0;
        v->tokens_per_s = v->prompt_per_s = v->between_ms = v->batch_ms = v->rows_per_batch = 0;
    }
    v->scheduler = sched;
    v->from = st;
    v->from_tokens = tokens;
    v->from_prompt = prompt;
    v->from_ms = now;
}

static double rate_of(cake_cluster_view *v, const cake_master_peer *p, uint64_t bytes,
                      int64_t now) {
    flow *f = NULL;
    for (size_t i = 0; i < v->n_flows && !f; i++)
        if (v->flows[i].peer == p) f = &v->flows[i];
    if (!f) {
        if (v->n_flows == CAKE_STAGES_MAX) v->n_flows = 0;
        f = &v->flows[v->n_flows++];
        *f = (flow){.peer = p, .bytes = bytes, .at_ms = now};
    }
    if (bytes < f->bytes) *f = (flow){.peer = p, .bytes = bytes, .at_ms = now};
    int64_t dt = now - f->at_ms;
    if (dt >= BUSY_MS - 20) {
        double rate = (double)(bytes - f->bytes) * 1e3 / (double)dt;
        f->rate = f->rate > 0 ? 0.7 * f->rate + 0.3 * rate : rate;
        f->bytes = bytes;
        f->at_ms = now;
    }
    return f->rate;
}

/* ---- the text ---- */

static const char *hint_of(cake_peer_state state, bool busy) {
    if (busy) return "It serves another master. It is free when that one ends.";
    switch (state) {
    case CAKE_PEER_CONNECTING:
        return "Is cake-worker running there, and does its firewall let this machine in?";
    case CAKE_PEER_REFUSED:
        return "Give it this cluster's key: 'cake-master cluster show' here, 'cake-master cluster "
               "join' there.";
    case CAKE_PEER_FAILED: return "'cake-master doctor' on that machine may tell more.";
    case CAKE_PEER_LOST:
        return "Start cake-worker there again: it keeps its layers on disk and is taken back by "
               "itself.";
    default: return "";
    }
}

/* Layers of all its stages: "embed, 0-3; head". */
static void layers_of(const cake_cluster_plan *p, uint32_t node, char *out, size_t cap) {
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < p->plan.n_stages && at < cap; i++) {
        char units[64];
        if (p->plan.stages[i].node != node) continue;
        at += (size_t)snprintf(out + at, cap - at, "%s%s", at ? "; " : "",
                               cake_plan_units_text(units, p->request.n_layers,
                                                    p->plan.stages[i].unit_begin,
                                                    p->plan.stages[i].unit_end));
    }
}

/* Time of the leg into a stage, per token: what was measured of all legs together, dealt out as the
 * plan expects of them. Stage n_stages is the way back. */
static double leg_ms(const cake_cluster_view *v, const cake_plan *p, uint32_t stage) {
    double all = p->return_s, this = stage < p->n_stages ? p->stages[stage].network_s : p->return_s;
    for (uint32_t i = 0; i < p->n_stages; i++) all += p->stages[i].network_s;
    return all > 0 ? v->between_ms * this / all : 0;
}

static json_object *stages_json(const cake_cluster_view *v, const cake_cluster *c,
                                const cake_cluster_plan *p) {
    json_object *a = json_object_new_array();
    bool measured = v->n_stages == p->plan.n_stages;
    uint32_t slowest = p->plan.slowest_stage;
    for (uint32_t i = 0; measured && i < v->n_stages; i++)
        if (i == 0 || v->compute_ms[i] > v->compute_ms[slowest]) slowest = i;
    for (uint32_t i = 0; i < p->plan.n_stages; i++) {
        const cake_plan_stage *s = &p->plan.stages[i];
        const cake_master_peer *peer = p->peers[s->node];
        json_object *o = json_object_new_object();
        char units[64];
        put_text(o, "node", peer->id);
        put_text(o, "name", peer->name);
        put_text(o, "units",
                 cake_plan_units_text(units, p->request.n_layers, s->unit_begin, s->unit_end));
        put_count(o, "unit_begin", s->unit_begin);
        put_count(o, "unit_end", s->unit_end);
        put_count(o, "weight_bytes", s->weight_bytes);
        put_count(o, "kv_bytes", s->kv_bytes);
        put_number(o, "compute_ms", measured ? v->compute_ms[i] : 0);
        put_number(o, "network_ms", measured ? leg_ms(v, &p->plan, i) : 0);
        put_number(o, "expected_compute_ms", s->compute_s * 1e3);
        put_number(o, "expected_network_ms", s->network_s * 1e3);
        put_bool(o, "relayed", s->relayed || (i > 0 && cake_cluster_stage_relayed(c, i - 1)));
        put_bool(o, "slowest", p->plan.n_stages > 1 && i == slowest);
        json_object_array_add(a, o);
    }
    return a;
}

static void add_memory(json_object *o, const cake_master_peer *p, const cake_plan_node *planned) {
    json_object *m = json_object_new_object();
    const cake_worker_status *s = &p->status;
    bool ready = p->state == CAKE_PEER_READY;
    put_count(m, "total", p->hello.memory_bytes);
    put_count(m, "used", ready ? s->weight_bytes + s->kv_bytes + s->other_bytes : 0);
    put_count(m, "weights", ready ? s->weight_bytes : 0);
    put_count(m, "kv", ready ? s->kv_bytes : 0);
    put_count(m, "planned", planned && planned->used ? planned->total_bytes : 0);
    put(o, "memory", m);
}

static void add_transfer(cake_cluster_view *v, json_object *o, const cake_master_peer *p,
                         int64_t now) {
    if (p->state != CAKE_PEER_FETCHING && p->state != CAKE_PEER_LOADING) return;
    json_object *t = json_object_new_object();
    put_text(t, "kind", p->state == CAKE_PEER_FETCHING ? "sending" : "loading");
    put_count(t, "done", p->status.done);
    put_count(t, "total", p->status.total);
    put_count(t, "sent", p->sent_bytes);
    put_count(t, "reused", p->status.reused_bytes);
    put_number(t, "rate", rate_of(v, p, p->status.done, now));
    put(o, "transfer", t);
}

static json_object *node_json(cake_cluster_view *v, const cake_cluster *c,
                              const cake_master_peer *p, int64_t now) {
    const cake_cluster_plan *plan = cake_cluster_planned(c);
    const lost_worker *lost = find_lost(v, p);
    cake_peer_state state = lost ? CAKE_PEER_LOST : p->state;
    bool busy = p->hello.busy && state >= CAKE_PEER_IDLE && state != CAKE_PEER_LOST;
    uint32_t node = UINT32_MAX;
    for (uint32_t k = 0; plan && k < plan->request.n_nodes; k++)
        if (plan->peers[k] == p) node = k;
    const cake_plan_node *planned = node != UINT32_MAX ? &plan->plan.nodes[node] : NULL;
    json_object *o = json_object_new_object();
    char layers[256] = "";
    if (planned && planned->used) layers_of(plan, node, layers, sizeof layers);
    put_text(o, "id", p->id);
    put_text(o, "name", p->name);
    put_text(o, "address", p->is_local ? "this machine" : p->addresses[p->address]);
    put_bool(o, "local", p->is_local);
    put_bool(o, "used", planned && planned->used);
    put_text(o, "state", busy ? "busy" : cake_peer_state_name(state));
    put_text(o, "reason", lost ? lost->reason : p->reason);
    put_text(o, "hint", hint_of(state, busy));
    put_text(o, "why", planned ? planned->reason : "");
    put_text(o, "layers", layers);
    put_text(o, "version", p->hello.version);
    put_text(o, "isa", p->hello.isa);
    put_count(o, "threads", p->hello.threads);
    add_memory(o, p, planned);
    put_number(o, "rtt_ms", (p->rtt_now_s > 0 ? p->rtt_now_s : p->rtt_s) * 1e3);
    put_number(o, "bandwidth", p->bandwidth);
    int64_t heard = lost ? lost->heard_ms : p->last_heard_ms;
    put_number(o, "last_seen_ms", heard ? (double)(now - heard) : -1);
    double compute = 0, network = 0;
    for (uint32_t i = 0; planned && i < plan->plan.n_stages; i++) {
        if (plan->plan.stages[i].node != node || v->n_stages != plan->plan.n_stages) continue;
        compute += v->compute_ms[i];
        network += leg_ms(v, &plan->plan, i);
    }
    put_number(o, "compute_ms", compute);
    put_number(o, "network_ms", network);
    add_transfer(v, o, p, now);
    return o;
}

static json_object *nodes_json(cake_cluster_view *v, const cake_cluster *c, int64_t now) {
    json_object *a = json_object_new_array();
    for (size_t i = 0; i < cake_cluster_n_peers(c); i++)
        json_object_array_add(a, node_json(v, c, cake_cluster_peer(c, i), now));
    for (size_t k = 0; k < v->n_lost; k++) {
        const lost_worker *l = &v->lost[k];
        bool there = false;
        for (size_t i = 0; i < cake_cluster_n_peers(c); i++)
            there |= is_same(l, cake_cluster_peer(c, i));
        if (there) continue;
        json_object *o = json_object_new_object();
        put_text(o, "id", l->id);
        put_text(o, "name", l->name);
        put_text(o, "address", l->address);
        put_bool(o, "local", false);
        put_bool(o, "used", false);
        put_text(o, "state", cake_peer_state_name(CAKE_PEER_LOST));
        put_text(o, "reason", l->reason);
        put_text(o, "hint", hint_of(CAKE_PEER_LOST, false));
        put_number(o, "last_seen_ms", (double)(now - l->heard_ms));
        json_object_array_add(a, o);
    }
    return a;
}

static void build(cake_cluster_view *v, const cake_cluster *c, int64_t now) {
    const cake_cluster_plan *p = cake_cluster_planned(c);
    json_object *o = json_object_new_object();
    put(o, "at", json_object_new_int64(wall_ms()));
    if (v->reason) put_text(o, "reason", v->reason);
    const char *found_by = cake_cluster_discovery(c);
    if (found_by) put_text(o, "discovery", found_by);
    if (p) {
        put_count(o, "layers", p->request.n_layers);
        put_count(o, "model_bytes", cake_plan_model_bytes(&p->request));
        put_count(o, "context", p->options.context);
        put_count(o, "sequences", p->options.sequences);
        put_number(o, "expected_tokens_per_second", p->plan.decode_tps);
        put_number(o, "expected_full_tokens_per_second", p->plan.full_tps);
        bool measured = v->n_stages == p->plan.n_stages;
        put_number(o, "return_ms", measured ? leg_ms(v, &p->plan, p->plan.n_stages) : 0);
    }
    put_number(o, "tokens_per_second", v->tokens_per_s);
    put_number(o, "prompt_tokens_per_second", v->prompt_per_s);
    put_number(o, "batch_ms", v->batch_ms);
    put_number(o, "rows_per_batch", v->rows_per_batch);
    put(o, "stages", p ? stages_json(v, c, p) : json_object_new_array());
    put(o, "nodes", nodes_json(v, c, now));
    size_t len;
    const char *text = json_object_to_json_string_length(
        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
    char *members = cake_strndup(text + 1, len - 2);
    json_object_put(o);
    pthread_mutex_lock(&v->lock);
    char *old = v->text;
    v->text = members;
    v->len = len - 2;
    v->number++;
    pthread_mutex_unlock(&v->lock);
    free(old);
}

/* Changes when a node or its state does. */
static uint64_t states_of(const cake_cluster *c, bool *moving) {
    uint64_t h = (uint64_t)(uintptr_t)cake_cluster_planned(c);
    *moving = false;
    for (size_t i = 0; i < cake_cluster_n_peers(c); i++) {
        const cake_master_peer *p = cake_cluster_peer(c, i);
        *moving |= p->state == CAKE_PEER_FETCHING || p->state == CAKE_PEER_LOADING;
        h = (h ^ ((uint64_t)p->state + 16 * (uint64_t)p->hello.busy + 1)) * 0x100000001b3u;
    }
    return h;
}

bool cake_cluster_view_observe(cake_cluster_view *v, const cake_cluster *c,
                               const cake_scheduler *sched, const cake_metrics *m) {
    int64_t now = cake_now_ms();
    int64_t n = (int64_t)cake_cluster_n_peers(c);
    if (now - v->looked_ms < LOOK_MS + n / 4 && !v->dirty) return false;
    v->looked_ms = now;
    bool moving;
    uint64_t states = states_of(c, &moving);
    moving |= atomic_load_explicit(&m->running, memory_order_relaxed) > 0 || v->tokens_per_s > 0;
    if (states == v->states && !v->dirty &&
        now - v->built_ms < (moving ? BUSY_MS : IDLE_MS) + 2 * n)
        return false;
    v->states = states;
    v->dirty = false;
    v->built_ms = now;
    remember_lost(v, c, now);
    measure(v, sched, m, now);
    build(v, c, now);
    return true;
}
