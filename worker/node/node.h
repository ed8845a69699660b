/* A serving node: what cake-worker runs, and what cake-master runs inside itself.
 *
 * One I/O thread (the caller of cake_serving_run) owns the sockets: it answers heartbeats and hello
 * at once whatever the compute thread is doing, passes everything else to it, and carries its
 * outputs to the next worker or to the master. */
#ifndef CAKE_WORKER_NODE_NODE_H
#define CAKE_WORKER_NODE_NODE_H

#include "proto/link.h"
#include "worker/node/compute.h"

typedef struct cake_serving cake_serving;

typedef struct {
    cake_net *net;       /* borrowed; outlives the node */
    const char *address; /* "HOST:PORT" or "inproc://NAME" */
    const char *id;      /* node id, 32 hex digits */
    const char *name;
    cake_compute_options compute;
} cake_serving_options;

/* Bind, start the compute thread and measure the machine. */
cake_status cake_serving_new(cake_serving **out, const cake_serving_options *o, cake_error *err);
/* Serve until cake_serving_stop. */
void cake_serving_run(cake_serving *s);
/* Make cake_serving_run return soon. Any thread, and signal handlers. */
void cake_serving_stop(cake_serving *s);
void cake_serving_free(cake_serving *s);

/* Real address and port after binding. */
const char *cake_serving_address(const cake_serving *s);
uint16_t cake_serving_port(const cake_serving *s);
/* What the node says of itself. */
void cake_serving_describe(cake_serving *s, cake_hello *out);

#endif
