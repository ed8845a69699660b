/* From the workers known now to a running plan: planning request, bundles, assignments, waiting. */
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/cluster/cluster.h"
#include "master/cluster/cluster_impl.h"
#include "master/plan/plan_print.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    DEFAULT_ROWS = 256,
    /* A worker without progress in fetching or loading is given up after STALL_MS and the time to
     * verify its weights at a slow 50 MB/s. */
    STALL_MS = 60000,
    STALL_BYTES_PER_MS = 50000,
};

/* Fixed cost of a batch through a stage: queues, wake-ups, serialisation ("hop" of cake-master
 * bench). */
static const double STAGE_OVERHEAD_S = 60e-6;

uint64_t cake_cluster_epoch(const cake_cluster *c) {
    return c->epoch;
}
uint32_t cake_cluster_n_stages(const cake_cluster *c) {
    return c->deployed ? c->plan->plan.n_stages : 0;
}
const cake_cluster_plan *cake_cluster_deployed(const cake_cluster *c) {
    return c->deployed ? c->plan : NULL;
}
const cake_cluster_plan *cake_cluster_planned(const cake_cluster *c) {
    return c->plan;
}
bool cake_cluster_stage_relayed(const cake_cluster *c, uint32_t stage) {
    return stage < CAKE_STAGES_MAX && c->stage_relayed[stage];
}

/* ---- plan ---- */

void cake_cluster_plan_deinit(cake_cluster_plan *p) {
    cake_plan_deinit(&p->plan);
    free(p->units);
    free(p->nodes);
    free(p->links);
    free(p->pins);
    free(p->peers);
    *p = (cake_cluster_plan){0};
}

static void add_pins(cake_cluster *c, cake_cluster_plan *p, uint32_t n_layers, uint32_t local) {
    const cake_topology *t = c->o.topology;
    bool all_listed = t->n_workers > 0;
    uint32_t first = n_layers, last = 0; /* layers that workers list: [first, last) */
    p->pins = cake_calloc(t->n_workers * 3 + 2, sizeof *p->pins);
    for (size_t i = 0; i < t->n_workers; i++) {
        const cake_topology_worker *w = &t->workers[i];
        all_listed &= w->has_layers;
        if (w->has_layers && w->layer_begin < first) first = w->layer_begin;
        if (w->has_layers && w->layer_end > last) last = w->layer_end;
        uint32_t node = UINT32_MAX;
        for (uint32_t k = 0; k < p->request.n_nodes; k++)
            if (!p->peers[k]->is_local && c->peers[i + 1] == p->peers[k]) node = k;
        if (node == UINT32_MAX) continue;
        cake_plan_pin *pins = p->pins;
        if (w->has_layers && w->layer_end > w->layer_begin)
            pins[p->request.n_pins++] = (cake_plan_pin){node, w->layer_begin + 1, w->layer_end + 1};
        if (w->has_embedding) pins[p->request.n_pins++] = (cake_plan_pin){node, 0, 1};
        if (w->has_head)
            pins[p->request.n_pins++] = (cake_plan_pin){node, n_layers + 1, n_layers + 2};
        if (w->memory_bytes && w->memory_bytes < p->nodes[node].memory_bytes)
            p->nodes[node].memory_bytes = w->memory_bytes;
    }
    /* As in Cake, layers nobody lists at the ends are the master's. The planner takes those at the
     * back only when told so, and then wants to be told of those at the front as well. */
    if (all_listed && last < n_layers && local != CAKE_PLAN_MASTER) {
        p->pins[p->request.n_pins++] = (cake_plan_pin){local, last + 1, n_layers + 1};
        if (first > 0) p->pins[p->request.n_pins++] = (cake_plan_pin){local, 1, first + 1};
    }
    p->request.pins = p->pins;
}

cake_status cake_cluster_make_plan(cake_cluster *c, const cake_deployment_options *o,
                                   cake_cluster_plan *p, cake_error *err) {
    *p = (cake_cluster_plan){.options = *o};
    const cake_model *m = c->o.model;
    if (p->options.max_rows == 0)
        p->options.max_rows = o->context < DEFAULT_ROWS ? o->context : DEFAULT_ROWS;
    if (p->options.slots == 0) p->options.slots = 4 * o->sequences + 16;
    if (p->options.slots > CAKE_ASSIGN_SEQS_MAX) p->options.slots = CAKE_ASSIGN_SEQS_MAX;
    if (p->options.slots < o->sequences) p->options.slots = o->sequences;
    cake_status st = CAKE_OK;
    if (c->o.topology) st = cake_topology_check(c->o.topology, m->config.n_layers, err);
    if (st == CAKE_OK)
        st = cake_model_units(m, o->sequences, o->context, p->options.max_rows, o->f32_mode,
                              o->kv_q8, &p->units, err);
    if (st != CAKE_OK) return st;
    p->nodes = cake_calloc(c->n_peers + 1, sizeof *p->nodes);
    p->links = cake_calloc(c->n_peers + 1, sizeof *p->links);
    p->peers = cake_calloc(c->n_peers + 1, sizeof *p->peers);
    cake_plan_request *r = &p->request;
    *r = (cake_plan_request){.units = p->units,
                             .n_layers = m->config.n_layers,
                             .tied_head = m->layout->tied,
                             .nodes = p->nodes,
                             .links = p->links,
                             .goal = o->goal,
                             .context = o->context,
                             .sequences = o->sequences,
                             .min_workers = c->o.min_workers,
                             .activation_bytes = cake_wire_row_bytes(o->wire, m->config.hidden),
                             .logit_bytes = (uint64_t)m->config.vocab * 4};
    uint32_t local = CAKE_PLAN_MASTER;
    for (size_t i = 0; i < c->n_peers; i++) {
        cake_master_peer *peer = c->peers[i];
        if (!cake_peer_usable(peer)) continue;
        uint32_t k = r->n_nodes++;
        if (peer->is_local) local = k;
        p->peers[k] = peer;
        p->nodes[k] = (cake_plan_node_in){.id = peer->id,
                                          .name = peer->name,
                                          .is_local = peer->is_local,
                                          .threads = peer->hello.threads,
                                          .memory_bytes = peer->hello.memory_bytes,
                                          .read_bw = peer->hello.read_bw,
                                          .ops = peer->hello.ops,
                                          .overhead_s = STAGE_OVERHEAD_S};
    }
    for (uint32_t k = 0; k < r->n_nodes; k++) {
        const cake_master_peer *peer = p->peers[k];
        if (peer->is_local) continue;
        p->links[r->n_links++] = (cake_plan_link){
            .a = local, .b = k, .rtt_s = peer->rtt_s, .bandwidth = peer->bandwidth};
        /* Pairs of workers were not measured: expect of them the worst of their links to us. */
        if (peer->rtt_s > r->default_rtt_s) r->default_rtt_s = peer->rtt_s;
        if (r->default_bandwidth == 0 || peer->bandwidth < r->default_bandwidth)
            r->default_bandwidth = peer->bandwidth;
    }
    if (c->o.topology) add_pins(c, p, m->config.n_layers, local);
    st = cake_plan_make(r, &p->plan, err);
    if (st != CAKE_OK) cake_cluster_plan_deinit(p);
    return st;
}

/* ---- deployment ---- */

static size_t node_ranges(const cake_cluster_plan *p, uint32_t node, cake_unit_range *out) {
    size_t n = 0;
    for (uint32_t i = 0; i < p->plan.n_stages; i++) {
        const cake_plan_stage *s = &p->plan.stages[i];
        if (s->node != node) continue;
        if (n && out[n - 1].end == s->unit_begin)
            out[n - 1].end = s->unit_end;
        else
            out[n++] = (cake_unit_range){s->unit_begin, s->unit_end};
    }
    return n;
}

/* Describing a bundle hashes its tensors the first time: minutes for a large model. A thread does
 * it, so that the heartbeats go on. */
typedef struct {
    const cake_model *model;
    const cake_unit_range *ranges;
    size_t n_ranges;
    unsigned threads;
    cake_bundle *bundle;
    cake_status status;
    cake_error err;
    _Atomic bool done;
} bundle_job;

static void *bundle_main(void *arg) {
    bundle_job *j = arg;
    const cake_model *m = j->model;
    char *hashes = cake_hash_cache_dir();
    cake_pool *pool = cake_pool_new(j->threads, 0);
    j->status = cake_bundle_new(&j->bundle, m->layout, j->ranges, j->n_ranges, m->config_text,
                                m->config_len, pool, hashes, &j->err);
    cake_pool_free(pool);
    free(hashes);
    atomic_store(&j->done, true);
    return NULL;
}

cake_status cake_cluster_bundle(cake_cluster *c, const cake_cluster_plan *p, uint32_t node,
                                cake_bundle **out, cake_error *err) {
    cake_unit_range ranges[CAKE_STAGES_MAX];
    *out = NULL;
    bundle_job j = {.model = c->o.model, .ranges = ranges, .threads = c->o.threads};
    j.n_ranges = node_ranges(p, node, ranges);
    if (j.n_ranges == 0 || p->nodes[node].is_local) return CAKE_OK;
    pthread_t thread;
    if (pthread_create(&thread, NULL, bundle_main, &j) != 0)
        return cake_fail(err, CAKE_ENOMEM, "cannot start a thread to describe a bundle");
    cake_status st = CAKE_OK;
    int64_t start_ms = cake_now_ms();
    for (bool told = false; !atomic_load(&j.done);) {
        if (!told && cake_now_ms() - start_ms > 1000) {
            told = true;
            if (c->o.progress)
                cake_progress_line(c->o.progress,
                                   "hashing the tensors for %s (once; the hashes are kept)",
                                   p->peers[node]->name);
        }
        if (st == CAKE_OK)
            st = cake_cluster_poll(c, 10, -1, err);
        else
            usleep(10000); /* interrupted, or a worker is gone: the thread still reads our memory */
    }
    pthread_join(thread, NULL);
    if (st == CAKE_OK && j.status != CAKE_OK) st = cake_fail(err, j.status, "%s", j.err.msg);
    if (st == CAKE_OK)
        *out = j.bundle;
    else if (j.status == CAKE_OK)
        cake_bundle_free(j.bundle);
    return st;
}

static cake_status assign_node(cake_cluster *c, cake_cluster_plan *p, uint32_t node,
                               cake_error *err) {
    const cake_plan *plan = &p->plan;
    cake_bundle *bundle;
    cake_status st = cake_cluster_bundle(c, p, node, &bundle, err);
    if (st != CAKE_OK) return st;
    cake_assign a = {.f32_mode = p->options.f32_mode,
                     .kv_q8 = p->options.kv_q8,
                     .collect = p->options.collect,
                     .wire = p->options.wire,
                     .context = p->options.context,
                     .n_seqs = p->options.slots,
                     .n_blocks =
                         p->options.sequences * (p->options.context / CAKE_EMBED_KV_BLOCK + 1),
                     .max_rows = p->options.max_rows,
                     .config = bundle ? bundle->config : NULL,
                     .manifest = bundle ? bundle->manifest->json : NULL};
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        if (plan->stages[i].node != node) continue;
        if (a.n_stages == CAKE_ASSIGN_STAGES_MAX) {
            cake_bundle_free(bundle);
            return cake_fail(err, CAKE_EINVAL, "more than %d stages on one worker",
                             (int)CAKE_ASSIGN_STAGES_MAX);
        }
        cake_assign_stage *s = &a.stages[a.n_stages++];
        *s = (cake_assign_stage){.index = i,
                                 .n_stages = plan->n_stages,
                                 .unit_begin = plan->stages[i].unit_begin,
                                 .unit_end = plan->stages[i].unit_end};
        /* Straight to the next worker, at the address that works for us; to ourselves through us.
         */
        const cake_master_peer *next =
            i + 1 < plan->n_stages ? p->peers[plan->stages[i + 1].node] : NULL;
        s->direct = next && !next->is_local && !plan->stages[i + 1].relayed;
        if (s->direct) snprintf(s->next, sizeof s->next, "%s", next->addresses[next->address]);
    }
    cake_msg *m = cake_control_assign(c->epoch, &a);
    if (!m) {
        cake_bundle_free(bundle);
        return cake_fail(err, CAKE_ENOSPACE,
                         "the part of worker '%s' has too many tensors for one message",
                         p->peers[node]->name);
    }
    cake_peer_assign(p->peers[node], m, bundle);
    return CAKE_OK;
}

/* One bar per remote worker while bundles travel and load. */
typedef struct {
    int bar;
    cake_peer_state shown;
    uint64_t progress;
    int64_t progress_ms;
    uint64_t total;
} watch;

static void show(cake_cluster *c, const cake_cluster_plan *p, uint32_t node, watch *w) {
    const cake_master_peer *peer = p->peers[node];
    uint64_t done = peer->status.done + ((uint64_t)peer->state << 56);
    if (done != w->progress) {
        w->progress = done;
        w->progress_ms = cake_now_ms();
    }
    cake_progress *bar = c->o.progress;
    if (!bar || (peer->is_local && peer->state != CAKE_PEER_LOADING && w->bar < 0)) return;
    if (peer->state != w->shown) {
        if (w->bar >= 0) {
            /* What comes next implies that this came to its end, reported or not. */
            bool ok = peer->state != CAKE_PEER_FAILED && peer->state != CAKE_PEER_LOST;
            if (ok) cake_progress_update(bar, w->bar, w->total);
            cake_progress_finish(bar, w->bar, ok, NULL);
        }
        w->bar = -1;
        w->shown = peer->state;
        char label[128];
        if (peer->state == CAKE_PEER_FETCHING || peer->state == CAKE_PEER_LOADING) {
            snprintf(label, sizeof label, "%s %s",
                     peer->state == CAKE_PEER_FETCHING ? "send to" : "load on", peer->name);
            w->bar = cake_progress_start(bar, label, peer->status.total, CAKE_PROGRESS_BYTES);
            cake_progress_resume(bar, w->bar, peer->status.done);
        } else if (peer->state == CAKE_PEER_READY && !peer->is_local) {
            uint64_t size = peer->bundle ? peer->bundle->manifest->size : 0;
            if (peer->sent_bytes == 0)
                cake_progress_line(bar, "%s: ready, all of its %.1f MB from its cache", peer->name,
                                   (double)size / 1e6);
            else
                cake_progress_line(bar, "%s: ready, %.1f of %.1f MB sent", peer->name,
                                   (double)peer->sent_bytes / 1e6, (double)size / 1e6);
        }
    }
    if (w->bar >= 0) {
        w->total = peer->status.total;
        cake_progress_total(bar, w->bar, w->total);
        cake_progress_update(bar, w->bar, peer->status.done);
    }
}

static cake_status wait_ready(cake_cluster *c, cake_cluster_plan *p, cake_error *err) {
    uint32_t n = p->request.n_nodes;
    watch *w = cake_calloc(n, sizeof *w);
    for (uint32_t i = 0; i < n; i++)
        w[i] = (watch){.bar = -1, .shown = CAKE_PEER_IDLE, .progress_ms = cake_now_ms()};
    cake_status st = CAKE_OK;
    for (bool all = false; st == CAKE_OK && !all;) {
        st = cake_cluster_poll(c, 20, -1, err);
        all = true;
        for (uint32_t i = 0; st == CAKE_OK && i < n; i++) {
            const cake_master_peer *peer = p->peers[i];
            if (!p->plan.nodes[i].used) continue;
            show(c, p, i, &w[i]);
            if (peer->state == CAKE_PEER_FAILED || peer->state == CAKE_PEER_LOST)
                st = cake_fail(err,
                               peer->state == CAKE_PEER_FAILED && peer->status.code != CAKE_OK
                                   ? peer->status.code
                                   : CAKE_EUNAVAIL,
                               "worker '%s' %s: %s", peer->name,
                               peer->state == CAKE_PEER_FAILED ? "cannot take its part" : "is lost",
                               peer->reason);
            else if (cake_now_ms() - w[i].progress_ms >
                         STALL_MS + (int64_t)(p->plan.nodes[i].weight_bytes / STALL_BYTES_PER_MS) &&
                     peer->state != CAKE_PEER_READY)
                st = cake_fail(err, CAKE_ETIMEOUT, "worker '%s' makes no progress (%s for %lld s)",
                               peer->name, cake_peer_state_name(peer->state),
                               (long long)(cake_now_ms() - w[i].progress_ms) / 1000);
            all &= peer->state == CAKE_PEER_READY;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        if (w[i].bar >= 0) cake_progress_finish(c->o.progress, w[i].bar, st == CAKE_OK, NULL);
    free(w);
    return st;
}

cake_status cake_cluster_deploy(cake_cluster *c, cake_cluster_plan *p, cake_error *err) {
    c->deployed = false;
    c->epoch++;
    c->plan = p;
    if (p->plan.n_stages > CAKE_STAGES_MAX)
        return cake_fail(err, CAKE_EINVAL, "a plan of %u stages; at most %d are possible",
                         p->plan.n_stages, (int)CAKE_STAGES_MAX);
    cake_status st = CAKE_OK;
    for (uint32_t i = 0; st == CAKE_OK && i < p->request.n_nodes; i++)
        if (p->plan.nodes[i].used) st = assign_node(c, p, i, err);
    if (st == CAKE_OK) st = wait_ready(c, p, err);
    if (st != CAKE_OK) return st;
    uint32_t slot[CAKE_PLAN_MAX_NODES] = {0};
    for (uint32_t i = 0; i < p->plan.n_stages; i++) {
        uint32_t node = p->plan.stages[i].node;
        c->stage_peer[i] = p->peers[node];
        c->stage_relayed[i] = p->peers[node]->status.relayed[slot[node]++];
        if (c->stage_relayed[i])
            cake_log(CAKE_LOG_WARN,
                     "event=relaying from=\"%s\" reason=\"it cannot reach the next worker\"",
                     p->peers[node]->name);
    }
    c->deployed = true;
    return CAKE_OK;
}

void cake_cluster_release(cake_cluster *c) {
    if (!c->deployed) return;
    c->deployed = false;
    for (uint32_t i = 0; i < c->plan->plan.n_stages; i++) {
        cake_msg *m = c->stage_peer[i]->is_local ? NULL : cake_control_release(c->epoch);
        if (m) cake_peer_send(c->stage_peer[i], m, NULL);
    }
}
