/* The I/O loop of a node: see node.h. Single-threaded; everything that can take time is the compute
 * thread's. */
#include "worker/node/node.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

enum {
    BACKLOG_MAX = 4096,  /* messages waiting for the compute thread; a sane master has a handful */
    LINK_WAIT_MS = 2000, /* how long a direct link may take before the master relays instead */
    MASTER_SILENT_MS = 5000, /* a master not heard of for so long may be replaced */
    SEND_RETRY_MS = 2,
    SEND_GIVE_UP_MS = 10000,
};

/* The way out of one stage. */
typedef struct {
    cake_client *client; /* NULL: through the master */
    bool settled, relayed, lost;
    uint32_t stage; /* it leads to */
    char address[CAKE_ADDRESS_MAX];
} way;

struct cake_serving {
    char id[CAKE_NODE_ID_HEX], name[CAKE_NODE_NAME_MAX];
    cake_net *net;
    cake_server *server;
    cake_compute *compute;
    int wake_fd;
    _Atomic bool stop;
    way ways[CAKE_ASSIGN_STAGES_MAX];
    uint32_t n_ways;
    uint64_t epoch; /* of the plan that has these ways */
    int64_t links_since_ms;
    cake_out *ready; /* waits for the links */
    cake_out *stuck; /* output whose queue was full; order is kept by not taking the next */
    int64_t stuck_since_ms;
    cake_peer master; /* whose plan we hold; len 0: none */
    int64_t master_heard_ms;
};

static void free_out(cake_out *o) {
    if (!o) return;
    cake_msg_free(o->msg);
    free(o);
}

/* ---- life ---- */

cake_status cake_serving_new(cake_serving **out, const cake_serving_options *o, cake_error *err) {
    cake_serving *s = cake_calloc(1, sizeof *s);
    s->net = o->net;
    snprintf(s->id, sizeof s->id, "%s", o->id);
    snprintf(s->name, sizeof s->name, "%s", o->name);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cake_status st = cake_server_open(&s->server, o->net, o->address, err);
    if (st == CAKE_OK) st = cake_compute_new(&s->compute, &o->compute, err);
    if (st != CAKE_OK) {
        cake_serving_free(s);
        return st;
    }
    *out = s;
    return CAKE_OK;
}

static void close_ways(cake_serving *s) {
    for (uint32_t i = 0; i < s->n_ways; i++)
        if (s->ways[i].client) cake_client_close(s->ways[i].client);
    memset(s->ways, 0, sizeof s->ways);
    s->n_ways = 0;
}

void cake_serving_free(cake_serving *s) {
    if (!s) return;
    cake_compute_free(s->compute);
    close_ways(s);
    free_out(s->ready);
    free_out(s->stuck);
    if (s->server) cake_server_close(s->server);
    close(s->wake_fd);
    free(s);
}

void cake_serving_stop(cake_serving *s) {
    atomic_store(&s->stop, true);
    uint64_t one = 1;
    ssize_t rc = write(s->wake_fd, &one, sizeof one);
    (void)rc;
}

const char *cake_serving_address(const cake_serving *s) {
    return cake_server_address(s->server);
}
uint16_t cake_serving_port(const cake_serving *s) {
    return cake_server_port(s->server);
}

void cake_serving_describe(cake_serving *s, cake_hello *out) {
    *out = (cake_hello){0};
    snprintf(out->id, sizeof out->id, "%s", s->id);
    snprintf(out->name, sizeof out->name, "%s", s->name);
    cake_compute_describe(s->compute, out);
}

/* ---- messages in ---- */

static void reply(cake_serving *s, const cake_peer *to, cake_msg *m) {
    if (m && cake_server_send(s->server, to, m, NULL) != CAKE_OK) cake_msg_free(m);
}

static bool master_alive(const cake_serving *s) {
    return s->master.len && cake_now_ms() - s->master_heard_ms < MASTER_SILENT_MS;
}

/* hello is answered here, so that a busy node still introduces itself; the rest goes to compute. */
static void on_control(cake_serving *s, cake_msg *m) {
    cake_control_op op;
    json_object *json;
    cake_error err;
    if (cake_control_parse(cake_msg_body(m), &op, &json, &err) != CAKE_OK) {
        cake_log(CAKE_LOG_WARN, "event=control_refused reason=\"%s\"", err.msg);
        cake_msg_free(m);
        return;
    }
    json_object_put(json);
    bool foreign = master_alive(s) && !cake_peer_equal(&m->from, &s->master);
    if (op == CAKE_CONTROL_HELLO) {
        cake_hello h;
        cake_serving_describe(s, &h);
        h.busy = foreign;
        reply(s, &m->from, cake_control_hello(&h));
    } else if (foreign && op == CAKE_CONTROL_ASSIGN) {
        cake_worker_status st = {.state = CAKE_STATE_FAILED, .code = CAKE_EAGAIN};
        snprintf(st.message, sizeof st.message, "worker '%s' serves another master", s->name);
        reply(s, &m->from, cake_control_status(m->h.epoch, &st));
    } else if (op == CAKE_CONTROL_ASSIGN) {
        s->master = m->from;
        s->master_heard_ms = cake_now_ms();
        cake_compute_push(s->compute, m);
        return;
    } else if (op == CAKE_CONTROL_STATS && !foreign &&
               cake_compute_backlog(s->compute) < BACKLOG_MAX) {
        cake_compute_push(s->compute, m);
        return;
    } else if (op == CAKE_CONTROL_RELEASE && !foreign) {
        s->master = (cake_peer){0}; /* the weights stay: the next master often wants the same */
    }
    cake_msg_free(m);
}

static void on_message(cake_serving *s, cake_msg *m) {
    if (cake_peer_equal(&m->from, &s->master)) s->master_heard_ms = cake_now_ms();
    switch (m->h.kind) {
    case CAKE_MSG_PING: reply(s, &m->from, cake_msg_pong(m)); break;
    case CAKE_MSG_CONTROL: on_control(s, m); return;
    case CAKE_MSG_CANCEL: /* past the queue: it concerns what is in there */
        if (cake_peer_equal(&m->from, &s->master)) cake_compute_cancel(s->compute, m->h.id);
        break;
    case CAKE_MSG_CHUNK:
    case CAKE_MSG_BATCH:
        if (cake_compute_backlog(s->compute) < BACKLOG_MAX) {
            cake_compute_push(s->compute, m);
            return;
        }
        cake_log(CAKE_LOG_WARN, "event=message_dropped kind=%s reason=\"backlog full\"",
                 cake_msg_kind_name(m->h.kind));
        break;
    default: break;
    }
    cake_msg_free(m);
}

/* ---- links to the next workers ---- */

static void open_ways(cake_serving *s, const cake_out *o) {
    close_ways(s);
    free_out(s->ready);
    s->ready = NULL;
    s->n_ways = o->n_stages;
    s->epoch = o->epoch;
    s->links_since_ms = cake_now_ms();
    for (uint32_t i = 0; i < o->n_stages; i++) {
        way *w = &s->ways[i];
        cake_error err;
        if (!o->stages[i].direct) {
            *w = (way){.settled = true};
            continue;
        }
        w->stage = o->stages[i].index + 1;
        snprintf(w->address, sizeof w->address, "%s", o->stages[i].next);
        if (cake_client_open(&w->client, s->net, CAKE_LINK_ROLE_PEER, w->address, &err) !=
            CAKE_OK) {
            cake_log(CAKE_LOG_WARN, "event=link_failed to=%s reason=\"%s\"", w->address, err.msg);
            w->settled = w->relayed = true;
        }
    }
}

/* Batches on this way fail from now on; the master replans. It may not see for seconds what we see,
 * and when all that was under way is beyond the broken link, no batch would tell it. */
static void tell_lost(cake_serving *s, const way *w) {
    char why[CAKE_ERROR_MAX];
    snprintf(why, sizeof why, "the link to %s is gone", w->address);
    reply(s, &s->master, cake_msg_error(s->epoch, 0, w->stage, CAKE_EUNAVAIL, why));
}

/* The choice between direct and relayed is made once per assignment: changing it later could let
 * one batch overtake another. */
static void settle_ways(cake_serving *s) {
    bool late = cake_now_ms() - s->links_since_ms > LINK_WAIT_MS;
    for (uint32_t i = 0; i < s->n_ways; i++) {
        way *w = &s->ways[i];
        if (!w->client) continue;
        cake_error why = {0};
        cake_link_state st = cake_client_state(w->client, &why);
        if (!w->settled && st == CAKE_LINK_READY) {
            w->settled = true;
        } else if (!w->settled && late) {
            cake_log(CAKE_LOG_WARN, "event=link_relayed to=%s reason=\"%s\"", w->address, why.msg);
            w->settled = w->relayed = true;
            cake_client_close(w->client);
            w->client = NULL;
        } else if (w->settled && st != CAKE_LINK_READY && !w->lost) {
            w->lost = true;
            cake_log(CAKE_LOG_WARN, "event=link_lost to=%s reason=\"%s\"", w->address, why.msg);
            tell_lost(s, w);
        }
    }
    if (!s->ready) return;
    for (uint32_t i = 0; i < s->n_ways; i++)
        if (!s->ways[i].settled) return;
    for (uint32_t i = 0; i < s->n_ways; i++) s->ready->status.relayed[i] = s->ways[i].relayed;
    reply(s, &s->ready->peer, cake_control_status(s->ready->epoch, &s->ready->status));
    free_out(s->ready);
    s->ready = NULL;
}

/* ---- outputs ---- */

/* CAKE_EAGAIN: the queue is full, try again later. Anything else: o is done with. */
static cake_status send_out(cake_serving *s, cake_out *o) {
    way *w = o->kind == CAKE_OUT_NEXT && o->slot < s->n_ways ? &s->ways[o->slot] : NULL;
    cake_status st;
    cake_error err = {0};
    if (w && w->client) {
        st = w->lost ? cake_fail(&err, CAKE_EUNAVAIL, "the link to %s is gone", w->address)
                     : cake_client_send(w->client, o->msg, &err);
        if (st != CAKE_OK && st != CAKE_EAGAIN)
            reply(s, &o->peer,
                  cake_msg_error(o->msg->h.epoch, o->msg->h.id, o->msg->h.stage, CAKE_EUNAVAIL,
                                 err.msg));
    } else {
        st = cake_server_send(s->server, &o->peer, o->msg, &err);
    }
    if (st == CAKE_OK) o->msg = NULL;
    return st;
}

static void drain_outputs(cake_serving *s) {
    for (;;) {
        cake_out *o = s->stuck ? s->stuck : cake_queue_pop(cake_compute_outputs(s->compute), 0, 0);
        if (!o) return;
        if (o->kind == CAKE_OUT_LINKS) {
            open_ways(s, o);
        } else if (o->kind == CAKE_OUT_READY) {
            free_out(s->ready);
            s->ready = o;
            settle_ways(s);
            continue;
        } else if (send_out(s, o) == CAKE_EAGAIN) {
            int64_t now = cake_now_ms();
            if (!s->stuck) s->stuck_since_ms = now;
            s->stuck = o;
            if (now - s->stuck_since_ms < SEND_GIVE_UP_MS) return;
            cake_log(CAKE_LOG_WARN,
                     "event=message_dropped kind=%s reason=\"receiver does not read\"",
                     cake_msg_kind_name(o->msg->h.kind));
        }
        s->stuck = NULL;
        free_out(o);
    }
}

/* ---- loop ---- */

void cake_serving_run(cake_serving *s) {
    while (!atomic_load(&s->stop)) {
        zmq_pollitem_t items[3 + 2 * CAKE_ASSIGN_STAGES_MAX];
        int n = 0;
        items[n++] =
            (zmq_pollitem_t){.socket = cake_server_socket(s->server), .events = ZMQ_POLLIN};
        items[n++] = (zmq_pollitem_t){.fd = s->wake_fd, .events = ZMQ_POLLIN};
        if (!s->stuck)
            items[n++] = (zmq_pollitem_t){.fd = cake_queue_fd(cake_compute_outputs(s->compute)),
                                          .events = ZMQ_POLLIN};
        bool unsettled = false;
        for (uint32_t i = 0; i < s->n_ways; i++) {
            if (!s->ways[i].client) continue;
            unsettled |= !s->ways[i].settled;
            void *monitor = cake_client_monitor(s->ways[i].client);
            if (monitor) items[n++] = (zmq_pollitem_t){.socket = monitor, .events = ZMQ_POLLIN};
            items[n++] = (zmq_pollitem_t){.socket = cake_client_socket(s->ways[i].client),
                                          .events = ZMQ_POLLIN};
        }
        long timeout_ms = s->stuck ? SEND_RETRY_MS : unsettled ? 50 : 500;
        if (zmq_poll(items, n, timeout_ms) < 0 && errno != EINTR) {
            cake_log(CAKE_LOG_ERROR, "event=poll_failed reason=\"%s\"", zmq_strerror(errno));
            return;
        }
        uint64_t drained;
        if (items[1].revents) {
            ssize_t rc = read(s->wake_fd, &drained, sizeof drained);
            (void)rc;
        }
        drain_outputs(s); /* results first: they free the pipeline */
        cake_msg *m;
        for (int i = 0; i < 64 && cake_server_recv(s->server, &m, NULL) == CAKE_OK; i++)
            on_message(s, m);
        for (uint32_t i = 0; i < s->n_ways; i++) /* a next worker has nothing to tell but errors */
            while (s->ways[i].client && cake_client_recv(s->ways[i].client, &m, NULL) == CAKE_OK)
                cake_msg_free(m);
        settle_ways(s);
        drain_outputs(s);
    }
}
