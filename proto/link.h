/* Links between nodes: ZeroMQ sockets with CURVE, authenticated by ZAP, that give and take whole
 * cake_msg.
 *
 *   cake_net      one per process: ZeroMQ context, key material, ZAP thread
 *   cake_server   ROUTER bound by a worker; many clients
 *   cake_client   DEALER connected to one worker
 *
 * What a client may send to a server depends on the role its key proved:
 *   master  every kind;   peer  BATCH, PING, PONG, ERROR, CANCEL
 * Anything else, and any message that breaks wire.h, is dropped, counted and logged (at most a line
 * per second and reason); it never reaches the caller and never ends the process. A client accepts
 * from its server every kind but CHUNK.
 *
 * Threads: a server or client belongs to the thread that uses it (hand it over with a lock or
 * join); cake_net_* may be called by any thread. Sockets are plain ZeroMQ sockets to zmq_poll on.
 */
#ifndef CAKE_PROTO_LINK_H
#define CAKE_PROTO_LINK_H

#include "proto/keys.h"
#include "proto/msg.h"

typedef struct cake_net cake_net;
typedef struct cake_server cake_server;
typedef struct cake_client cake_client;

typedef struct {
    const cake_keys *keys;  /* copied; NULL: --insecure, no encryption and nobody is authenticated;
                                also, libzmq 4.3.4 answers a heartbeat cut short with up to 16
                                bytes of its memory there, which nothing above it can prevent */
    int io_threads;         /* 0: one */
    int handshake_ms;       /* deadline of a new connection's handshake; 0: 5000 */
    int queue_messages;     /* messages queued per peer and direction; 0: 256 */
    uint64_t backlog_bytes; /* received over all connections and not yet taken by their owners;
                               above it the connection with the most is cut. 0: 512 MiB, or a
                               quarter of free memory when that is less */
} cake_net_options;

/* Start the context and ZAP thread, then prove on a loopback socket that a random key is refused
 * and the right one is let in; CAKE_EAUTH when not (fail closed). Blocks some 10 ms. */
cake_status cake_net_open(cake_net **out, const cake_net_options *options, cake_error *err);
/* Close all servers and clients first. NULL is fine. */
void cake_net_close(cake_net *n);
bool cake_net_is_insecure(const cake_net *n);

typedef struct {
    uint64_t accepted;      /* clients that authenticated */
    uint64_t refused_key;   /* handshakes with a key that is not this cluster's */
    uint64_t refused_other; /* handshakes that were malformed, late or of another mechanism */
    uint64_t dropped;       /* messages dropped: malformed, too long, or not allowed for the role */
} cake_net_stats;
void cake_net_stats_get(cake_net *n, cake_net_stats *out);

/* ---- server ---- */

/* Bind. address: "HOST:PORT" (port 0: any free one; host empty or "*": every
 * address of both families) or "inproc://NAME" (no encryption, never leaves the process; every
 * client is master). CAKE_EUNAVAIL when the port is in use or the host is not this machine's. */
cake_status cake_server_open(cake_server **out, cake_net *n, const char *address, cake_error *err);
void cake_server_close(cake_server *s);
/* What was bound, with the real port: "0.0.0.0:41234". */
const char *cake_server_address(const cake_server *s);
uint16_t cake_server_port(const cake_server *s);
/* For zmq_poll (ZMQ_POLLIN). */
void *cake_server_socket(cake_server *s);
/* Next message, never blocks. *out is the caller's. CAKE_EAGAIN: nothing there. */
cake_status cake_server_recv(cake_server *s, cake_msg **out, cake_error *err);
/* Send to a client. CAKE_OK: m is taken. CAKE_EAGAIN: its queue is full, m stays the caller's;
 * CAKE_EUNAVAIL: it is gone, m stays the caller's. Never blocks. */
cake_status cake_server_send(cake_server *s, const cake_peer *to, cake_msg *m, cake_error *err);

/* ---- client ---- */

typedef enum {
    CAKE_LINK_CONNECTING, /* no answer yet */
    CAKE_LINK_READY,      /* both ends proved the key */
    CAKE_LINK_REFUSED, /* something answers there, and the handshake fails: another cluster's key,
                          or not a cake-worker */
    CAKE_LINK_UNREACHABLE, /* nobody listens there, no route, or silence */
    CAKE_LINK_LOST,        /* was ready; the connection broke. Reconnecting */
} cake_link_state;
const char *cake_link_state_name(cake_link_state s);

/* Start connecting to "HOST:PORT" ("[V6%IF]:PORT") or "inproc://NAME" of the same cake_net as role
 * master or peer. Returns at once; the link keeps trying until closed. Messages are only accepted
 * for sending while it is READY, and what was queued is dropped when the connection breaks. */
cake_status cake_client_open(cake_client **out, cake_net *n, cake_link_role as, const char *address,
                             cake_error *err);
void cake_client_close(cake_client *c);
/* Sockets for zmq_poll (ZMQ_POLLIN): messages, and state changes. */
void *cake_client_socket(cake_client *c);
void *cake_client_monitor(cake_client *c); /* NULL for inproc:// */
/* Read pending state changes and return the state; why (may be NULL) gets a sentence for REFUSED,
 * UNREACHABLE and LOST. Never blocks. */
cake_link_state cake_client_state(cake_client *c, cake_error *why);
/* Wait until READY, REFUSED or the deadline: CAKE_OK, CAKE_EAUTH, CAKE_EUNAVAIL. */
cake_status cake_client_wait(cake_client *c, int timeout_ms, cake_error *err);
/* Number of connections made so far: a change means the server may be another process. */
uint32_t cake_client_generation(const cake_client *c);
const char *cake_client_address(const cake_client *c);
cake_status cake_client_recv(cake_client *c, cake_msg **out,
                             cake_error *err); /* as cake_server_recv */
/* CAKE_OK: m is taken. CAKE_EAGAIN: queue full or not READY; m stays the caller's. Never blocks. */
cake_status cake_client_send(cake_client *c, cake_msg *m, cake_error *err);

/* "HOST:PORT", "[V6]:PORT", "V6 without port" refused. Splits and checks; host[256]. */
cake_status cake_address_parse(const char *address, char *host, uint16_t *port, cake_error *err);

#endif
