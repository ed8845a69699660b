/* The cluster's loop: peers, discovery, and the traffic of batches. See cluster.h; planning and
 * deployment are in deploy.c. */
#include "master/cluster/cluster.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/cluster/cluster_impl.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    DEFAULT_PORT = 10128,
    TOPOLOGY_WAIT_MS = 10000,
    LOCAL_WAIT_MS = 10000,
    MEASURE_WAIT_MS = 10000,
};

/* ---- life ---- */

static cake_status add_peer(cake_cluster *c, const cake_node *node, bool is_local,
                            cake_error *err) {
    if (c->n_peers == CAKE_CLUSTER_PEERS_MAX)
        return cake_fail(err, CAKE_ENOSPACE, "more than %d workers", (int)CAKE_CLUSTER_PEERS_MAX);
    cake_master_peer *p;
    cake_status st = cake_peer_open(&p, c->o.net, node, is_local, err);
    if (st == CAKE_OK) c->peers[c->n_peers++] = p;
    return st;
}

static cake_status add_local(cake_cluster *c, cake_error *err) {
    cake_embed_options eo = {.net = c->o.net,
                             .id = c->o.id,
                             .name = c->o.name,
                             .model = c->o.model->path,
                             .threads = c->o.threads,
                             .memory_bytes = c->o.memory_bytes,
                             .spin_us = 100};
    cake_status st = cake_embed_start(&c->embed, &eo, err);
    if (st != CAKE_OK) return st;
    cake_node node = {.n_addresses = 1};
    snprintf(node.name, sizeof node.name, "%s", c->o.name);
    snprintf(node.address[0], sizeof node.address[0], "%s", cake_embed_address(c->embed));
    return add_peer(c, &node, true, err);
}

static cake_status add_topology(cake_cluster *c, cake_error *err) {
    for (size_t i = 0; i < c->o.topology->n_workers; i++) {
        const cake_topology_worker *w = &c->o.topology->workers[i];
        cake_node node = {.n_addresses = 1};
        snprintf(node.name, sizeof node.name, "%s", w->name);
        int n = snprintf(node.address[0], sizeof node.address[0],
                         strchr(w->host, ':') ? "[%s]:%u" : "%s:%u", w->host,
                         w->port ? w->port : DEFAULT_PORT);
        if (n < 0 || (size_t)n >= sizeof node.address[0])
            return cake_fail(err, CAKE_ECONFIG, "%s:%u: the host name of worker '%s' is too long",
                             c->o.topology->path, w->line, w->name);
        cake_status st = add_peer(c, &node, false, err);
        if (st != CAKE_OK) return st;
    }
    return CAKE_OK;
}

cake_status cake_cluster_open(cake_cluster **out, const cake_cluster_options *o, cake_error *err) {
    cake_cluster *c = cake_calloc(1, sizeof *c);
    c->o = *o;
    c->epoch = cake_now_ns(); /* later than any plan of an earlier master on this machine */
    cake_status st = CAKE_OK;
    /* Looking for workers goes on while the in-process worker measures this machine. */
    if (o->topology) {
        st = add_topology(c, err);
    } else if (o->discovery_timeout_ms > 0) {
        cake_discovery_options d = {.tag = o->tag, .browse = true};
        st = cake_discovery_open(&c->discovery, &d, err);
    }
    c->opened_ms = cake_now_ms();
    if (st == CAKE_OK && o->model) st = add_local(c, err);
    if (st != CAKE_OK) {
        cake_cluster_close(c);
        return st;
    }
    if (o->model && c->n_peers > 1) { /* the local peer goes first */
        cake_master_peer *local = c->peers[c->n_peers - 1];
        memmove(c->peers + 1, c->peers, (c->n_peers - 1) * sizeof *c->peers);
        c->peers[0] = local;
    }
    *out = c;
    return CAKE_OK;
}

void cake_cluster_close(cake_cluster *c) {
    if (!c) return;
    cake_cluster_release(c);
    cake_discovery_close(c->discovery);
    for (size_t i = 0; i < c->n_peers; i++) cake_peer_close(c->peers[i]);
    cake_embed_stop(c->embed);
    free(c);
}

size_t cake_cluster_n_peers(const cake_cluster *c) {
    return c->n_peers;
}
const cake_master_peer *cake_cluster_peer(const cake_cluster *c, size_t i) {
    return c->peers[i];
}
const char *cake_cluster_discovery(const cake_cluster *c) {
    return c->discovery ? cake_discovery_backend(c->discovery) : NULL;
}

/* ---- discovery ---- */

static cake_master_peer *find_id(cake_cluster *c, const char *id) {
    for (size_t i = 0; i < c->n_peers; i++)
        if (!c->peers[i]->is_local && strcmp(c->peers[i]->id, id) == 0) return c->peers[i];
    return NULL;
}

static void read_discovery(cake_cluster *c) {
    cake_node_event e;
    while (c->discovery && cake_discovery_next(c->discovery, &e)) {
        cake_master_peer *p = find_id(c, e.node.id);
        cake_error err;
        if (e.change == CAKE_NODE_LOST) {
            /* Only a hint: the link says whether it is gone. */
            cake_log(CAKE_LOG_INFO, "event=goodbye worker=\"%s\"", e.node.name);
        } else if (p) {
            cake_peer_update(p, &e.node);
        } else if (add_peer(c, &e.node, false, &err) != CAKE_OK) {
            cake_log(CAKE_LOG_WARN, "event=worker_ignored worker=\"%s\" reason=\"%s\"", e.node.name,
                     err.msg);
        } else {
            cake_log(CAKE_LOG_INFO, "event=found worker=\"%s\" address=%s ms=%lld", e.node.name,
                     e.node.address[0], (long long)(cake_now_ms() - c->opened_ms));
        }
    }
}

/* ---- messages ---- */

static bool of_plan(const cake_cluster *c, const cake_msg *m) {
    return c->plan && c->deployed && m->h.epoch == c->epoch;
}

/* A worker that cannot reach the next stage often knows it before we do: what we say of the lost
 * one must not depend on who was first. */
static bool neighbour_lost(cake_cluster *c, const cake_master_peer *p, const cake_msg *m) {
    if (m->h.kind != CAKE_MSG_ERROR || m->h.stage >= c->plan->plan.n_stages) return false;
    cake_master_peer *next = c->stage_peer[m->h.stage];
    char text[CAKE_ERROR_TEXT_MAX + 1], why[CAKE_ERROR_MAX];
    if (next == p || cake_wire_error_text(&m->h, m->frames, text) != CAKE_EUNAVAIL) return false;
    snprintf(why, sizeof why, "worker '%s' says: %s", p->name, text);
    cake_peer_report_lost(next, why);
    return true;
}

static void on_message(cake_cluster *c, cake_master_peer *p, cake_msg *m) {
    if (cake_peer_message(p, m) || !of_plan(c, m) || neighbour_lost(c, p, m)) {
        cake_msg_free(m);
        return;
    }
    if (m->h.kind == CAKE_MSG_BATCH) {
        /* A stage that sends its output through us: pass it on as it is. */
        uint32_t stage = m->h.stage;
        cake_error err;
        if (stage == 0 || stage >= c->plan->plan.n_stages ||
            cake_peer_send(c->stage_peer[stage], m, &err) != CAKE_OK)
            cake_log(CAKE_LOG_WARN, "event=relay_failed stage=%u from=\"%s\"", stage, p->name);
        return;
    }
    if ((m->h.kind == CAKE_MSG_RESULT || m->h.kind == CAKE_MSG_ERROR) && c->handler)
        c->handler(c->handler_arg, m);
    cake_msg_free(m);
}

void cake_cluster_set_handler(cake_cluster *c, cake_cluster_handler fn, void *arg) {
    c->handler = fn;
    c->handler_arg = arg;
}

cake_status cake_cluster_send(cake_cluster *c, cake_msg *m, cake_error *err) {
    if (!c->deployed) {
        cake_msg_free(m);
        return cake_fail(err, CAKE_EUNAVAIL, "no plan is deployed");
    }
    return cake_peer_send(c->stage_peer[0], m, err);
}

void cake_cluster_cancel(cake_cluster *c, uint64_t batch) {
    for (uint32_t i = 0; c->deployed && i < c->plan->plan.n_stages; i++) {
        bool told = false; /* a worker may hold several stages */
        for (uint32_t k = 0; k < i; k++) told |= c->stage_peer[k] == c->stage_peer[i];
        cake_msg *m = told ? NULL : cake_msg_cancel(c->epoch, batch);
        if (m) cake_peer_send(c->stage_peer[i], m, NULL);
    }
}

/* ---- the loop ---- */

static cake_status check_plan_peers(cake_cluster *c, cake_error *err) {
    for (uint32_t i = 0; c->deployed && i < c->plan->plan.n_stages; i++) {
        const cake_master_peer *p = c->stage_peer[i];
        if (p->state != CAKE_PEER_READY)
            return cake_fail(err, CAKE_EUNAVAIL,
                             "worker '%s' (stage %u) is %s: %s. Start it again, or run without it; "
                             "the others keep their layers, and it keeps its cache",
                             p->name, i, cake_peer_state_name(p->state),
                             p->reason[0] ? p->reason : "no reason given");
    }
    return CAKE_OK;
}

int64_t cake_cluster_heard_ms(const cake_cluster *c) {
    int64_t heard = cake_now_ms();
    for (uint32_t i = 0; c->deployed && i < c->plan->plan.n_stages; i++)
        if (!c->stage_peer[i]->is_local && c->stage_peer[i]->last_heard_ms < heard)
            heard = c->stage_peer[i]->last_heard_ms;
    return heard;
}

/* Whoever called us may have been busy for long: then it is not the workers that were silent. */
static void excuse_silence(cake_cluster *c) {
    int64_t now = cake_now_ms();
    for (size_t i = 0; now - c->polled_ms > CAKE_PEER_SILENT_MS / 4 && i < c->n_peers; i++)
        c->peers[i]->last_heard_ms = now;
}

cake_status cake_cluster_poll(cake_cluster *c, int timeout_ms, int extra_fd, cake_error *err) {
    excuse_silence(c);
    zmq_pollitem_t items[2 * CAKE_CLUSTER_PEERS_MAX + 2];
    int n = 0;
    bool hurry = false;
    for (size_t i = 0; i < c->n_peers; i++) {
        cake_master_peer *p = c->peers[i];
        cake_peer_step(p, c->o.net);
        if (!p->client) continue;
        items[n++] =
            (zmq_pollitem_t){.socket = cake_client_socket(p->client), .events = ZMQ_POLLIN};
        void *monitor = cake_client_monitor(p->client);
        if (monitor) items[n++] = (zmq_pollitem_t){.socket = monitor, .events = ZMQ_POLLIN};
        hurry |= cake_peer_wants_to_send(p);
    }
    if (c->discovery)
        items[n++] = (zmq_pollitem_t){.fd = cake_discovery_fd(c->discovery), .events = ZMQ_POLLIN};
    if (extra_fd >= 0) items[n++] = (zmq_pollitem_t){.fd = extra_fd, .events = ZMQ_POLLIN};
    if (hurry && timeout_ms > 1) timeout_ms = 1;
    if (zmq_poll(items, n, timeout_ms) < 0 && errno != EINTR)
        return cake_fail(err, CAKE_EIO, "poll: %s", zmq_strerror(errno));
    read_discovery(c);
    size_t n_peers = c->n_peers;
    for (size_t i = 0; i < n_peers; i++) {
        cake_msg *m;
        for (int k = 0; k < 64 && c->peers[i]->client &&
                        cake_client_recv(c->peers[i]->client, &m, NULL) == CAKE_OK;
             k++)
            on_message(c, c->peers[i], m);
        cake_peer_step(c->peers[i], c->o.net);
    }
    if (c->o.progress) cake_progress_tick(c->o.progress);
    c->polled_ms = cake_now_ms();
    if (c->o.observe) c->o.observe(c->o.observe_arg, c);
    if (c->o.interrupted && atomic_load(c->o.interrupted))
        return cake_fail(err, CAKE_ECANCELED, "interrupted");
    return check_plan_peers(c, err);
}

/* ---- gathering ---- */

static size_t count_usable(const cake_cluster *c, bool local) {
    size_t n = 0;
    for (size_t i = 0; i < c->n_peers; i++)
        n += c->peers[i]->is_local == local && cake_peer_usable(c->peers[i]);
    return n;
}

static cake_status wait_local(cake_cluster *c, cake_error *err) {
    if (!c->embed) return CAKE_OK;
    int64_t deadline = cake_now_ms() + LOCAL_WAIT_MS;
    while (count_usable(c, true) == 0) {
        if (cake_now_ms() > deadline)
            return cake_fail(err, CAKE_EUNAVAIL, "the in-process worker does not answer");
        cake_status st = cake_cluster_poll(c, 20, -1, err);
        if (st != CAKE_OK) return st;
    }
    return CAKE_OK;
}

/* A sentence about everyone who could not be used. */
static cake_status explain_missing(cake_cluster *c, size_t want, cake_error *err) {
    char text[512] = "";
    size_t at = 0, refused = 0;
    for (size_t i = 0; i < c->n_peers && at < sizeof text; i++) {
        const cake_master_peer *p = c->peers[i];
        if (p->is_local || cake_peer_usable(p)) continue;
        refused += p->state == CAKE_PEER_REFUSED;
        at += (size_t)snprintf(
            text + at, sizeof text - at, "; '%s' at %s: %s%s%s", p->name, p->addresses[p->address],
            p->hello.busy ? "serves another master" : cake_peer_state_name(p->state),
            p->reason[0] ? ", " : "", p->reason);
    }
    if (refused)
        return cake_fail(err, CAKE_EAUTH,
                         "a worker refuses this master's cluster key%s. Give both the same key: "
                         "'cake-master cluster show' here, 'cake-master cluster join' there",
                         text);
    return cake_fail(
        err, CAKE_EUNAVAIL,
        "%zu of %zu workers answer%s. Start cake-worker on the other machines "
        "(same network, same cluster key), or give --topology FILE with their addresses",
        count_usable(c, false), want, text);
}

cake_status cake_cluster_gather(cake_cluster *c, cake_error *err) {
    cake_status st = wait_local(c, err);
    if (st != CAKE_OK) return st;
    if (!c->o.topology && !c->discovery) return CAKE_OK;
    size_t want = c->o.topology ? c->o.topology->n_workers : c->o.min_workers;
    int64_t wait = c->o.topology && c->o.discovery_timeout_ms < TOPOLOGY_WAIT_MS
                       ? TOPOLOGY_WAIT_MS
                       : c->o.discovery_timeout_ms;
    int64_t deadline = c->opened_ms + wait;
    while (want == 0 || count_usable(c, false) < want) {
        int64_t left = deadline - cake_now_ms();
        if (left <= 0) {
            /* Somebody who introduced himself may finish being measured; a busy machine takes long
             * for that, and when he is asked for there is no point in leaving without him. */
            bool measuring = false;
            for (size_t i = 0; i < c->n_peers; i++)
                measuring |= c->peers[i]->state == CAKE_PEER_MEASURING;
            if (!measuring || left < (want ? -MEASURE_WAIT_MS : -1000)) break;
            left = 20;
        }
        st = cake_cluster_poll(c, left < 50 ? (int)left : 50, -1, err);
        if (st != CAKE_OK) return st;
    }
    if (count_usable(c, false) < want) return explain_missing(c, want, err);
    return CAKE_OK;
}
