/* Counters of workers: see worker_metrics.h. The sources count from their own beginnings (of a
 * scheduler, of a transfer), so each look adds what came since the last. */
#include "master/server/worker_metrics.h"
#include "common/mem.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char id[CAKE_NODE_ID_HEX], name[CAKE_NODE_NAME_MAX];
    bool up;
    uint32_t layers, generation;
    uint64_t reconnects, bytes, last_bytes, rows, compute_ns;
    double network_ns;
} worker;

struct cake_worker_metrics {
    pthread_mutex_t lock;
    worker *v;
    size_t n;
    const cake_scheduler *scheduler;
    cake_scheduler_stats last;
};

cake_worker_metrics *cake_worker_metrics_new(void) {
    cake_worker_metrics *w = cake_calloc(1, sizeof *w);
    w->v = cake_calloc(CAKE_WORKER_METRICS_MAX, sizeof *w->v);
    pthread_mutex_init(&w->lock, NULL);
    return w;
}

void cake_worker_metrics_free(cake_worker_metrics *w) {
    if (!w) return;
    pthread_mutex_destroy(&w->lock);
    free(w->v);
    free(w);
}

static worker *find(cake_worker_metrics *w, const cake_master_peer *p) {
    if (!p->id[0]) return NULL; /* it has not introduced itself yet */
    for (size_t i = 0; i < w->n; i++)
        if (strcmp(w->v[i].id, p->id) == 0) return &w->v[i];
    if (w->n == CAKE_WORKER_METRICS_MAX) return NULL;
    worker *k = &w->v[w->n++];
    snprintf(k->id, sizeof k->id, "%s", p->id);
    return k;
}

static uint64_t since(uint64_t now, uint64_t *last) {
    uint64_t more = now >= *last ? now - *last : now;
    *last = now;
    return more;
}

static void see_peer(cake_worker_metrics *w, const cake_master_peer *p) {
    worker *k = find(w, p);
    if (!k) return;
    snprintf(k->name, sizeof k->name, "%s", p->name);
    k->up = p->is_local || p->state == CAKE_PEER_MEASURING || p->state == CAKE_PEER_IDLE ||
            p->state == CAKE_PEER_FETCHING || p->state == CAKE_PEER_LOADING ||
            p->state == CAKE_PEER_READY;
    k->layers = 0;
    if (p->generation && k->generation && p->generation != k->generation) k->reconnects++;
    if (p->generation) k->generation = p->generation;
    k->bytes += since(p->sent_bytes, &k->last_bytes);
}

/* Units are the embedding, the layers, the head. */
static uint32_t layers_in(const cake_plan_stage *s, uint32_t n_layers) {
    uint32_t a = s->unit_begin > 1 ? s->unit_begin : 1;
    uint32_t b = s->unit_end < n_layers + 1 ? s->unit_end : n_layers + 1;
    return b > a ? b - a : 0;
}

/* What batches spent outside of stages is dealt out as the plan expects of the legs; the way back
 * belongs to the last stage. */
static void see_stages(cake_worker_metrics *w, const cake_cluster_plan *p,
                       const cake_scheduler_stats *st) {
    const cake_plan *plan = &p->plan;
    uint64_t inside = 0, flight = since(st->flight_ns, &w->last.flight_ns);
    double all = plan->return_s;
    uint64_t compute[CAKE_STAGES_MAX];
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        all += plan->stages[i].network_s;
        compute[i] = since(st->stage[i].compute_ns, &w->last.stage[i].compute_ns);
        inside += compute[i] + since(st->stage[i].queue_ns, &w->last.stage[i].queue_ns);
    }
    double outside = flight > inside ? (double)(flight - inside) : 0;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const cake_plan_stage *s = &plan->stages[i];
        worker *k = find(w, p->peers[s->node]);
        if (!k) continue;
        k->layers += layers_in(s, p->request.n_layers);
        k->compute_ns += compute[i];
        k->rows += since(st->stage[i].rows, &w->last.stage[i].rows);
        double leg = s->network_s + (i + 1 == plan->n_stages ? plan->return_s : 0);
        if (all > 0) k->network_ns += outside * leg / all;
    }
}

void cake_worker_metrics_observe(cake_worker_metrics *w, const cake_cluster *c,
                                 const cake_scheduler *sched) {
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < cake_cluster_n_peers(c); i++) see_peer(w, cake_cluster_peer(c, i));
    const cake_cluster_plan *p = cake_cluster_deployed(c);
    if (sched != w->scheduler) {
        memset(&w->last, 0, sizeof w->last);
        w->scheduler = sched;
    }
    if (p) {
        cake_scheduler_stats st = w->last;
        if (sched) cake_scheduler_stats_get(sched, &st);
        if (st.batches < w->last.batches) memset(&w->last, 0, sizeof w->last);
        see_stages(w, p, &st);
        w->last.batches = st.batches;
    }
    pthread_mutex_unlock(&w->lock);
}

/* ---- text ---- */

/* A label's value: names come from the network. */
static void label(char *out, size_t cap, const char *name) {
    size_t n = 0;
    for (; *name && n + 2 < cap; name++)
        out[n++] = (unsigned char)*name < ' ' || *name == '"' || *name == '\\' ? '_' : *name;
    out[n] = 0;
}

void cake_worker_metrics_print(cake_worker_metrics *w, cake_text *out) {
    static const struct {
        const char *name, *type, *help;
    } rows[] = {
        {"up", "gauge", "The worker is there and sound."},
        {"layers", "gauge", "Layers it holds of the model that is served."},
        {"compute_seconds_total", "counter", "Time its stages computed."},
        {"network_seconds_total", "counter",
         "Time batches spent on their way to its stages (the way back is the last one's)."},
        {"rows_total", "counter", "Rows its stages computed."},
        {"sent_bytes_total", "counter", "Bytes of model sent to it."},
        {"reconnects_total", "counter", "Times its link came back."},
    };
    pthread_mutex_lock(&w->lock);
    for (size_t r = 0; w->n && r < sizeof rows / sizeof *rows; r++) {
        cake_text_add(out, "# HELP cake_worker_%s %s\n# TYPE cake_worker_%s %s\n", rows[r].name,
                      rows[r].help, rows[r].name, rows[r].type);
        for (size_t i = 0; i < w->n; i++) {
            const worker *k = &w->v[i];
            const double value[] = {
                k->up,           k->layers,        (double)k->compute_ns / 1e9, k->network_ns / 1e9,
                (double)k->rows, (double)k->bytes, (double)k->reconnects};
            char name[CAKE_NODE_NAME_MAX], id[CAKE_NODE_ID_HEX];
            label(name, sizeof name, k->name);
            label(id, sizeof id, k->id);
            cake_text_add(out, "cake_worker_%s{worker=\"%s\",id=\"%s\"} %.15g\n", rows[r].name,
                          name, id, value[r]);
        }
    }
    pthread_mutex_unlock(&w->lock);
}
