/* A message in memory: its ZeroMQ frames, parsed header and sender. Build it in place, send it, or
 * take it from a link. One thread at a time; may be handed from thread to thread. */
#ifndef CAKE_PROTO_MSG_H
#define CAKE_PROTO_MSG_H

#include "proto/wire.h"

/* Who a received message came from, as ZAP authenticated it; never what a message says about
 * itself. */
typedef enum {
    CAKE_LINK_ROLE_NONE = 0,
    CAKE_LINK_ROLE_MASTER =
        1, /* a cake-master of this cluster, or the in-process side of inproc:// */
    CAKE_LINK_ROLE_PEER = 2,   /* a cake-worker of this cluster (upstream neighbour) */
    CAKE_LINK_ROLE_SERVER = 3, /* the worker a client link is connected to */
    CAKE_LINK_ROLE_ANY = 4,    /* --insecure: nobody knows; may do what master and peer may */
} cake_link_role;
const char *cake_link_role_name(cake_link_role r);

/* Return address of a client at a server. Dies with the connection: after a reconnect the client is
 * another peer. */
typedef struct {
    uint8_t len; /* 0: none */
    uint8_t id[31];
} cake_peer;
bool cake_peer_equal(const cake_peer *a, const cake_peer *b);

typedef struct cake_msg {
    cake_wire_hdr h;
    const cake_view *frames; /* h.n_frames views into this message */
    cake_peer from;          /* set by cake_server_recv */
    cake_link_role role;
    uint64_t received_ns; /* cake_now_ns when it was taken from the socket */
    struct cake_msg_frames *own;
} cake_msg;

/* Each returns a fresh message, or NULL when memory is out or the caps of wire.h are broken (the
 * caller's bug or a text too long). Free with cake_msg_free; a link that took it for sending frees
 * it. */

/* BATCH or RESULT: h gives kind, dtype, flags, epoch, id, stage, counts and width; arrays may be
 * NULL when their count is 0. The payload is uninitialised: fill each row through cake_msg_values.
 */
cake_msg *cake_msg_rows(const cake_wire_hdr *h, const cake_row *rows, const cake_kv_op *ops,
                        const cake_stage_time *times);
uint8_t *cake_msg_values(cake_msg *m, uint32_t row); /* cake_wire_row_bytes long */
/* The rows of a message made by cake_msg_rows lie one after another, aligned for their values. */
void cake_msg_set_time(cake_msg *m, uint32_t i, cake_stage_time t); /* i < n_times */

cake_msg *cake_msg_control(uint64_t epoch, uint64_t request, const char *json, size_t len);
cake_msg *cake_msg_chunk(uint64_t transfer, uint64_t offset, const void *data, size_t len);
/* A CHUNK whose bytes the caller fills through *data (so that pread goes straight into the frame).
 */
cake_msg *cake_msg_chunk_fill(uint64_t transfer, uint64_t offset, size_t len, uint8_t **data);
cake_msg *cake_msg_credit(uint64_t transfer, uint64_t limit);
/* padding_bytes of zeros; echo asks for them back. arg is cake_now_ns. */
cake_msg *cake_msg_ping(uint64_t epoch, uint64_t number, size_t padding_bytes, bool echo);
cake_msg *cake_msg_pong(const cake_msg *ping);
cake_msg *cake_msg_error(uint64_t epoch, uint64_t batch, uint32_t stage, cake_status st,
                         const char *text);
cake_msg *cake_msg_cancel(uint64_t epoch, uint64_t batch);

/* The same bytes again, frames shared by reference count: for sending to more than one peer. */
cake_msg *cake_msg_dup(const cake_msg *m);
/* Change the target of a BATCH that is passed on. Not on a message with live duplicates. */
void cake_msg_set_stage(cake_msg *m, uint32_t stage);
void cake_msg_free(cake_msg *m);
/* Bytes of all frames. */
size_t cake_msg_bytes(const cake_msg *m);

static inline cake_row cake_msg_row(const cake_msg *m, uint32_t i) {
    return cake_wire_row(m->frames, i);
}
static inline cake_kv_op cake_msg_op(const cake_msg *m, uint32_t i) {
    return cake_wire_op(&m->h, m->frames, i);
}
static inline cake_stage_time cake_msg_time(const cake_msg *m, uint32_t i) {
    return cake_wire_time(&m->h, m->frames, i);
}
static inline cake_view cake_msg_body(const cake_msg *m) {
    return cake_wire_body(&m->h, m->frames);
}

#endif
