/* One worker as the master sees it: connection, introduction, measurements, bundle transfer, state.
 *
 * Owned and used by the master's loop thread only. Never blocks. */
#ifndef CAKE_MASTER_CLUSTER_PEER_H
#define CAKE_MASTER_CLUSTER_PEER_H

#include "common/model/bundle.h"
#include "proto/control.h"
#include "proto/discovery.h"
#include "proto/link.h"

typedef enum {
    CAKE_PEER_CONNECTING, /* no link yet */
    CAKE_PEER_REFUSED,    /* something answers, and its key is not ours */
    CAKE_PEER_MEASURING,  /* introduced; the link is being measured */
    CAKE_PEER_IDLE,       /* known, without a part of the plan */
    CAKE_PEER_FETCHING,   /* receiving its bundle */
    CAKE_PEER_LOADING,
    CAKE_PEER_READY,
    CAKE_PEER_FAILED, /* refused its assignment: status.message */
    CAKE_PEER_LOST,   /* was known; gone or silent */
} cake_peer_state;
const char *cake_peer_state_name(cake_peer_state s);

enum { CAKE_PEER_PINGS = 3, CAKE_PEER_SILENT_MS = 5000 };

typedef struct cake_master_peer {
    cake_client *client;
    bool is_local;
    char
        name[CAKE_NODE_NAME_MAX]; /* as advertised or in the topology, until it introduces itself */
    char id[CAKE_NODE_ID_HEX];    /* as advertised; "" when only an address is known */
    size_t n_addresses, address;  /* candidates, the one in use */
    char addresses[CAKE_NODE_ADDRESSES][CAKE_ADDRESS_MAX];
    int64_t connect_since_ms;
    cake_peer_state state;
    char reason[CAKE_ERROR_MAX]; /* why REFUSED, FAILED or LOST */
    cake_hello hello;
    double rtt_s, bandwidth; /* measured; bytes/s */
    double rtt_now_s;        /* of the last heartbeat; 0: none yet */
    unsigned n_pongs;        /* of those that measure rtt_s */
    uint32_t padding;        /* bytes of the ping under way that measures bandwidth; 0: none */
    bool again;              /* it is sent once more */
    uint64_t ping_number;
    int64_t last_ping_ms, last_heard_ms;
    uint32_t generation; /* of the link, when it introduced itself */
    /* assignment */
    cake_msg *assignment; /* to send when introduced; NULL: sent or none */
    cake_bundle *bundle;  /* what it is fetching from us; owned */
    cake_sender sender;
    bool sending;
    uint64_t sent_bytes; /* of bundle bytes, in all transfers of this assignment */
    cake_worker_status status;
} cake_master_peer;

/* addresses may be changed later with cake_peer_update. */
cake_status cake_peer_open(cake_master_peer **out, cake_net *net, const cake_node *node,
                           bool is_local, cake_error *err);
void cake_peer_close(cake_master_peer *p);
/* Its advertisement changed. */
void cake_peer_update(cake_master_peer *p, const cake_node *node);

/* Give it a part: m is sent as soon as possible; bundle (may be NULL) is what it will ask for; both
 * are taken over. */
void cake_peer_assign(cake_master_peer *p, cake_msg *m, cake_bundle *bundle);

/* Follow the link, send heartbeats, hello, the assignment and chunks that credit allows. Call
 * often. */
void cake_peer_step(cake_master_peer *p, cake_net *net);
/* Handle a message that concerns the peer itself (PONG, CONTROL, CREDIT); true when it did. m stays
 * the caller's. */
bool cake_peer_message(cake_master_peer *p, const cake_msg *m);
/* Send a message of the data path; m is taken. CAKE_EUNAVAIL with a sentence when the peer is gone.
 */
cake_status cake_peer_send(cake_master_peer *p, cake_msg *m, cake_error *err);
/* Another says that p is gone; we shall notice by ourselves soon. why is copied. */
void cake_peer_report_lost(cake_master_peer *p, const char *why);
/* Known, sound and ours to plan with. A busy worker counts as absent: its master is alive. */
bool cake_peer_usable(const cake_master_peer *p);
/* Has chunks to send now, so that the loop should not sleep. */
bool cake_peer_wants_to_send(const cake_master_peer *p);

#endif
