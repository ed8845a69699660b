/* One worker as the master sees it: see peer.h. */
#include "master/cluster/peer.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PING_MS = 250,          /* often enough that a second without an answer means something */
    ADDRESS_TRY_MS = 1000,  /* then the next address of the node is tried */
    PADDING_MIN = 16 << 10, /* of pings that measure bandwidth; grows to CAKE_PING_MAX */
    PADDING_GROWS = 8,
    SLOW_CHUNK = 64 << 10,
};
static const double long_s = 0.125; /* a padded ping that takes longer does not grow */

const char *cake_peer_state_name(cake_peer_state s) {
    static const char *const name[] = {"connecting", "refused", "measuring", "idle", "fetching",
                                       "loading",    "ready",   "failed",    "lost"};
    return (unsigned)s < sizeof name / sizeof *name ? name[s] : "?";
}

static void set_state(cake_master_peer *p, cake_peer_state s, const char *reason) {
    if (p->state == s && (!reason || strcmp(reason, p->reason) == 0)) return;
    cake_log(s == CAKE_PEER_LOST || s == CAKE_PEER_REFUSED || s == CAKE_PEER_FAILED ? CAKE_LOG_WARN
                                                                                    : CAKE_LOG_INFO,
             "event=worker worker=\"%s\" state=%s reason=\"%s\"", p->name, cake_peer_state_name(s),
             reason ? reason : "");
    p->state = s;
    snprintf(p->reason, sizeof p->reason, "%s", reason ? reason : "");
}

static void stop_sending(cake_master_peer *p) {
    if (p->sending) cake_sender_deinit(&p->sender);
    p->sending = false;
}

static cake_status connect_to(cake_master_peer *p, cake_net *net, size_t address, cake_error *err) {
    if (p->client) cake_client_close(p->client);
    p->client = NULL;
    p->address = address;
    p->connect_since_ms = cake_now_ms();
    return cake_client_open(&p->client, net, CAKE_LINK_ROLE_MASTER, p->addresses[address], err);
}

void cake_peer_update(cake_master_peer *p, const cake_node *node) {
    snprintf(p->name, sizeof p->name, "%s", node->name);
    p->n_addresses = node->n_addresses;
    memcpy(p->addresses, node->address, sizeof p->addresses);
    if (p->address >= p->n_addresses) p->address = 0;
}

cake_status cake_peer_open(cake_master_peer **out, cake_net *net, const cake_node *node,
                           bool is_local, cake_error *err) {
    if (node->n_addresses == 0)
        return cake_fail(err, CAKE_EINVAL, "worker '%s' has no address", node->name);
    cake_master_peer *p = cake_calloc(1, sizeof *p);
    snprintf(p->id, sizeof p->id, "%s", node->id);
    p->is_local = is_local;
    cake_peer_update(p, node);
    cake_status st = connect_to(p, net, 0, err);
    if (st != CAKE_OK) {
        free(p);
        return st;
    }
    *out = p;
    return CAKE_OK;
}

void cake_peer_close(cake_master_peer *p) {
    if (!p) return;
    stop_sending(p);
    cake_msg_free(p->assignment);
    cake_bundle_free(p->bundle);
    if (p->client) cake_client_close(p->client);
    free(p);
}

void cake_peer_assign(cake_master_peer *p, cake_msg *m, cake_bundle *bundle) {
    stop_sending(p);
    cake_msg_free(p->assignment);
    cake_bundle_free(p->bundle);
    p->assignment = m;
    p->bundle = bundle;
    p->sent_bytes = 0;
    p->status = (cake_worker_status){0};
    if (p->state == CAKE_PEER_READY || p->state == CAKE_PEER_FAILED ||
        p->state == CAKE_PEER_FETCHING || p->state == CAKE_PEER_LOADING)
        set_state(p, CAKE_PEER_IDLE, NULL);
}

static bool try_send(cake_master_peer *p, cake_msg *m) {
    if (!m) return false;
    if (cake_client_send(p->client, m, NULL) == CAKE_OK) return true;
    cake_msg_free(m);
    return false;
}

static void send_ping(cake_master_peer *p) {
    p->last_ping_ms = cake_now_ms();
    try_send(p, cake_msg_ping(0, ++p->ping_number, p->padding, false));
}

/* A padded ping took so long. Larger ones are more precise and small ones come back from any link,
 * so they grow while they are quick. A slow one is sent again and that time counts: the first may
 * have been a hiccup, which must not make a fast link one of some KB/s. */
static void on_padded_pong(cake_master_peer *p, double transfer_s) {
    bool slow = transfer_s > long_s;
    if (p->padding < CAKE_PING_MAX && !(slow && p->again)) {
        p->again = slow;
        if (!slow) p->padding *= PADDING_GROWS;
        send_ping(p);
        return;
    }
    p->bandwidth = p->padding / (transfer_s > 1e-5 ? transfer_s : 1e-5);
    p->padding = 0;
    set_state(p, CAKE_PEER_IDLE, NULL);
}

static void on_pong(cake_master_peer *p, const cake_msg *m) {
    if (m->h.id != p->ping_number) return;
    double s = (double)(m->received_ns - m->h.arg) * 1e-9;
    if (s <= 0) s = 1e-9;
    if (p->state != CAKE_PEER_MEASURING) {
        p->rtt_now_s = s;
        return;
    }
    if (p->n_pongs == CAKE_PEER_PINGS) {
        on_padded_pong(p, s - p->rtt_s);
        return;
    }
    if (p->n_pongs == 0 || s < p->rtt_s) p->rtt_s = s;
    if (++p->n_pongs == CAKE_PEER_PINGS) p->padding = PADDING_MIN;
    send_ping(p);
}

static bool known(const cake_master_peer *p) {
    return p->state >= CAKE_PEER_MEASURING && p->state != CAKE_PEER_LOST;
}

static void on_hello(cake_master_peer *p, json_object *o) {
    cake_hello h;
    cake_error err;
    if (cake_control_read_hello(o, &h, &err) != CAKE_OK) {
        set_state(p, CAKE_PEER_FAILED, err.msg);
        return;
    }
    if (known(p) && strcmp(p->id, h.id) == 0 &&
        p->generation == cake_client_generation(p->client)) {
        p->hello = h; /* it was asked whether it is still busy: the link is the same */
        return;
    }
    if (p->id[0] && strcmp(p->id, h.id) != 0) {
        /* Another worker answers at the address: believe the link, not the advertisement. */
        cake_log(CAKE_LOG_INFO, "event=worker_changed was=%s now=%s", p->id, h.id);
    }
    p->hello = h;
    snprintf(p->id, sizeof p->id, "%s", h.id);
    snprintf(p->name, sizeof p->name, "%s", h.name);
    p->generation = cake_client_generation(p->client);
    p->n_pongs = 0;
    p->padding = 0;
    p->again = false;
    set_state(p, CAKE_PEER_MEASURING, NULL);
    send_ping(p);
}

static void on_need(cake_master_peer *p, json_object *o) {
    cake_need need;
    cake_error err;
    if (cake_control_read_need(o, &need, &err) != CAKE_OK) {
        set_state(p, CAKE_PEER_FAILED, err.msg);
        return;
    }
    stop_sending(p);
    if (!p->bundle || need.size != p->bundle->manifest->size) {
        cake_ranges_deinit(&need.ranges);
        set_state(p, CAKE_PEER_FAILED, "it asks for a bundle it was not given");
        return;
    }
    cake_sender_init(&p->sender, need.transfer, need.size, &need.ranges);
    p->sending = true;
    set_state(p, CAKE_PEER_FETCHING, NULL);
}

static void on_status(cake_master_peer *p, json_object *o) {
    cake_error err;
    if (cake_control_read_status(o, &p->status, &err) != CAKE_OK) {
        set_state(p, CAKE_PEER_FAILED, err.msg);
        return;
    }
    switch (p->status.state) {
    case CAKE_STATE_FETCHING: set_state(p, CAKE_PEER_FETCHING, NULL); break;
    case CAKE_STATE_LOADING: set_state(p, CAKE_PEER_LOADING, NULL); break;
    case CAKE_STATE_READY:
        stop_sending(p);
        set_state(p, CAKE_PEER_READY, NULL);
        break;
    case CAKE_STATE_FAILED:
        stop_sending(p);
        set_state(p, CAKE_PEER_FAILED, p->status.message);
        break;
    case CAKE_STATE_IDLE: break;
    }
}

bool cake_peer_message(cake_master_peer *p, const cake_msg *m) {
    p->last_heard_ms = cake_now_ms();
    switch (m->h.kind) {
    case CAKE_MSG_PONG: on_pong(p, m); return true;
    case CAKE_MSG_CREDIT:
        if (p->sending && m->h.id == p->sender.id) {
            cake_error err;
            if (cake_sender_credit(&p->sender, m->h.arg, &err) != CAKE_OK) {
                stop_sending(p);
                set_state(p, CAKE_PEER_FAILED, err.msg);
            }
        }
        return true;
    case CAKE_MSG_CONTROL: {
        cake_control_op op;
        json_object *o;
        cake_error err;
        if (cake_control_parse(cake_msg_body(m), &op, &o, &err) != CAKE_OK) {
            cake_log(CAKE_LOG_WARN, "event=control_refused worker=\"%s\" reason=\"%s\"", p->name,
                     err.msg);
            return true;
        }
        if (op == CAKE_CONTROL_HELLO)
            on_hello(p, o);
        else if (op == CAKE_CONTROL_NEED)
            on_need(p, o);
        else if (op == CAKE_CONTROL_STATUS)
            on_status(p, o);
        json_object_put(o);
        return true;
    }
    default: return false;
    }
}

/* The worker is only heard of between chunks: on a slow link they are shorter, yet long enough that
 * a window of them fits into the link's queue. */
static bool next_chunk(const cake_master_peer *p, uint64_t *offset, size_t *len) {
    size_t max = p->bandwidth < 4.0 * CAKE_TRANSFER_CHUNK ? SLOW_CHUNK : CAKE_TRANSFER_CHUNK;
    return p->sending && cake_sender_next(&p->sender, max, offset, len);
}

static void pump_chunks(cake_master_peer *p) {
    uint64_t offset;
    size_t len;
    while (next_chunk(p, &offset, &len)) {
        uint8_t *data;
        cake_error err;
        cake_msg *m = cake_msg_chunk_fill(p->sender.id, offset, len, &data);
        if (!m) return;
        if (cake_bundle_read(p->bundle, offset, len, data, &err) != CAKE_OK) {
            cake_msg_free(m);
            stop_sending(p);
            set_state(p, CAKE_PEER_FAILED, err.msg);
            return;
        }
        if (!try_send(p, m)) return;
        cake_sender_advance(&p->sender, len);
        p->sent_bytes += len;
    }
}

bool cake_peer_usable(const cake_master_peer *p) {
    return p->state >= CAKE_PEER_IDLE && p->state <= CAKE_PEER_READY && !p->hello.busy;
}

bool cake_peer_wants_to_send(const cake_master_peer *p) {
    uint64_t offset;
    size_t len;
    return next_chunk(p, &offset, &len);
}

/* While a bundle travels, what it would answer waits behind the chunks already under way. */
static int64_t silent_ms(const cake_master_peer *p) {
    double behind_s = p->sending && p->bandwidth > 0 ? 4 * SLOW_CHUNK / p->bandwidth : 0;
    return CAKE_PEER_SILENT_MS + (int64_t)(behind_s < 60 ? behind_s * 1e3 : 60e3);
}

void cake_peer_step(cake_master_peer *p, cake_net *net) {
    cake_error why = {0};
    int64_t now = cake_now_ms();
    if (!p->client) { /* an earlier attempt could not even begin */
        if (now - p->connect_since_ms > ADDRESS_TRY_MS)
            connect_to(p, net, (p->address + 1) % p->n_addresses, NULL);
        return;
    }
    cake_link_state link = cake_client_state(p->client, &why);
    if (link == CAKE_LINK_READY) {
        if (known(p) && cake_client_generation(p->client) != p->generation) {
            stop_sending(p);
            set_state(p, CAKE_PEER_LOST, "the worker restarted");
        }
        if (!known(p)) {
            if (p->last_ping_ms == 0 || now - p->last_ping_ms > PING_MS) {
                p->last_ping_ms = now; /* ask again until it answers */
                if (try_send(p, cake_control_hello_ask()) && p->state != CAKE_PEER_LOST)
                    set_state(p, CAKE_PEER_CONNECTING, NULL);
            }
            return;
        }
        /* A pong only counts for the last ping: leave those that measure the time a slow link
         * takes. */
        if (now - p->last_ping_ms >
            (p->state == CAKE_PEER_MEASURING ? CAKE_PEER_SILENT_MS : PING_MS)) {
            if (p->hello.busy) try_send(p, cake_control_hello_ask()); /* free by now? */
            send_ping(p);
        }
        if (now - p->last_heard_ms > silent_ms(p)) {
            stop_sending(p);
            set_state(p, CAKE_PEER_LOST, "the worker is silent");
            return;
        }
        if (p->assignment && p->state >= CAKE_PEER_IDLE &&
            cake_client_send(p->client, p->assignment, NULL) == CAKE_OK)
            p->assignment = NULL;
        pump_chunks(p);
        return;
    }
    if (known(p)) {
        stop_sending(p);
        set_state(p, CAKE_PEER_LOST, why.msg[0] ? why.msg : "the connection broke");
    } else if (link == CAKE_LINK_REFUSED) {
        set_state(p, CAKE_PEER_REFUSED, why.msg);
    }
    if (link != CAKE_LINK_READY && p->n_addresses > 1 && now - p->connect_since_ms > ADDRESS_TRY_MS)
        connect_to(p, net, (p->address + 1) % p->n_addresses, NULL);
}

void cake_peer_report_lost(cake_master_peer *p, const char *why) {
    if (!known(p)) return;
    stop_sending(p);
    set_state(p, CAKE_PEER_LOST, why);
}

cake_status cake_peer_send(cake_master_peer *p, cake_msg *m, cake_error *err) {
    cake_status st = known(p) && p->client ? cake_client_send(p->client, m, err) : CAKE_EUNAVAIL;
    if (st == CAKE_OK) return st;
    cake_msg_free(m);
    return cake_fail(err, CAKE_EUNAVAIL, "worker '%s' does not take messages (%s)", p->name,
                     p->reason[0] ? p->reason : cake_peer_state_name(p->state));
}
