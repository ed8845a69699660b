/* Inside of cake_net, for net.c and link.c only: context, key material, the guard thread that
 * answers ZAP and watches connections, counters and rate-limited logs. */
#ifndef CAKE_PROTO_NET_H
#define CAKE_PROTO_NET_H

#include "proto/link.h"

#include <pthread.h>
#include <stdatomic.h>

/* Why something from outside was turned away; one log line per second and reason. */
typedef enum {
    NET_REFUSED_KEY,
    NET_REFUSED_HANDSHAKE,
    NET_REFUSED_CROWD,
    NET_CUT,
    NET_DROPPED_MALFORMED,
    NET_DROPPED_ROLE,
    NET_REASONS,
} net_reason;

enum { NET_FLOWS_MAX = 1024, NET_FD_MAX = 8192 };

struct cake_net {
    void *zmq;
    bool secure;
    atomic_bool quiet; /* the self-check's own refusals are no news */
    cake_keys keys;
    int handshake_ms, queue_messages;
    unsigned connections_max;
    atomic_uint open_sockets, next_monitor;
    atomic_ullong accepted, refused_key, refused_other, dropped;
    struct {
        atomic_llong last_ms;
        atomic_uint suppressed;
    } limit[NET_REASONS];
    uint64_t backlog_max;
    pthread_mutex_t flow_lock; /* owns flow */
    int flow[NET_FLOWS_MAX];   /* descriptors of TCP connections */
    unsigned n_flows;
    atomic_ullong taken[NET_FD_MAX]; /* bytes that owners took from a descriptor's connection */
    pthread_t guard;
    bool guard_runs;
    pthread_mutex_t command_lock; /* owns command */
    void *command;                /* PAIR to the guard thread */
};

/* Options every socket gets. */
cake_status net_socket(cake_net *n, int type, void **out, cake_error *err);
/* Make socket a CURVE server / client of this cluster (NULL mechanism when insecure). */
cake_status net_secure_server(cake_net *n, void *socket, cake_error *err);
cake_status net_secure_client(cake_net *n, void *socket, cake_link_role as, cake_error *err);
/* Have the guard watch a server's connections; call before bind / before close. */
cake_status net_watch(cake_net *n, void *socket, unsigned *id, cake_error *err);
void net_unwatch(cake_net *n, void *socket, unsigned id);

/* A connection came up, went down; `bytes` of it were taken from its queue. */
void net_flow_open(cake_net *n, int fd);
void net_flow_close(cake_net *n, int fd);
static inline void net_flow_taken(cake_net *n, int fd, size_t bytes) {
    if (fd >= 0 && fd < NET_FD_MAX) atomic_fetch_add(&n->taken[fd], bytes);
}

/* True when this event should be logged now; *n_suppressed is how many were not. */
bool net_may_log(cake_net *n, net_reason why, unsigned *n_suppressed);

/* One event of a ZeroMQ socket monitor; false when none waits. */
bool net_monitor_read(void *monitor, uint16_t *event, uint32_t *value);

#endif
