/* Finding workers on the LAN: DNS-SD service _cake._tcp over mDNS.
 *
 * Through avahi-daemon when one answers on D-Bus, else by the responder of libavahi-core inside
 * this process. What is found is a hint from anybody on the LAN: bounded, cleaned, and believed
 * only after the CURVE handshake.
 *
 * TXT: v=1 (protocol), id=32 hex digits (node), tag=16 hex digits (cluster), name=TEXT. The port is
 * SRV's.
 *
 * Threads: Avahi runs in a thread of its own; everything here may be called from any one thread. */
#ifndef CAKE_PROTO_DISCOVERY_H
#define CAKE_PROTO_DISCOVERY_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_NODE_ID_HEX = 33,
    CAKE_NODE_NAME_MAX = 64, /* with NUL */
    CAKE_NODE_ADDRESSES = 8,
    CAKE_ADDRESS_MAX = 64, /* "[fe80::1%eth0]:41234" with NUL */
};

typedef struct {
    char id[CAKE_NODE_ID_HEX];
    char tag[17];
    char name[CAKE_NODE_NAME_MAX]; /* printable UTF-8 */
    char host[256];                /* "laptop.local" */
    uint16_t port;
    uint32_t version;   /* its protocol version */
    size_t n_addresses; /* ready for cake_client_open, most likely to work first */
    char address[CAKE_NODE_ADDRESSES][CAKE_ADDRESS_MAX];
} cake_node;

typedef enum {
    CAKE_NODE_FOUND = 1,   /* new, with at least one address */
    CAKE_NODE_CHANGED = 2, /* same id: addresses, port or name changed */
    CAKE_NODE_LOST = 3,    /* said goodbye or its records ran out */
} cake_node_change;

typedef struct {
    cake_node_change change;
    cake_node node;
} cake_node_event;

typedef enum { CAKE_MDNS_AUTO, CAKE_MDNS_DAEMON, CAKE_MDNS_EMBEDDED } cake_mdns_backend;

typedef struct {
    const char *tag; /* cluster tag of keys.h; browsing reports only nodes with it. NULL:
                        --insecure, tag "0" */
    const char
        *id; /* node id, 32 hex digits; needed to advertise; a browser never reports this id */
    const char *name; /* shown to people; the service instance is "NAME-" and 4 digits of the id */
    uint16_t port;    /* to advertise */
    bool advertise, browse;
    cake_mdns_backend backend;
} cake_discovery_options;

typedef struct cake_discovery cake_discovery;

/* Start. Returns once the responder runs (not when the name is established: events tell).
 * CAKE_EUNAVAIL when neither a daemon nor the embedded responder can run. */
cake_status cake_discovery_open(cake_discovery **out, const cake_discovery_options *o,
                                cake_error *err);
/* Say goodbye and stop. Blocks some 100 ms. NULL is fine. */
void cake_discovery_close(cake_discovery *d);
/* Readable when an event waits (eventfd; poll it, never read it). */
int cake_discovery_fd(const cake_discovery *d);
/* Next event; false: none. At most 1,024 nodes are tracked. */
bool cake_discovery_next(cake_discovery *d, cake_node_event *out);
/* "avahi-daemon" or "embedded". */
const char *cake_discovery_backend(const cake_discovery *d);

/* The node id kept in cake_state_dir()/NAME.id, made when absent; NULL name: a random one for this
 * process only (several workers on one host must not share an id). out[CAKE_NODE_ID_HEX]. */
cake_status cake_node_id_load(const char *name, char *out, cake_error *err);

/* Parse one TXT record set given as consecutive length-prefixed strings (RFC 6763 6.1), as it comes
 * from the LAN. False when it is not a cake node's. Pure. */
bool cake_node_txt_parse(const uint8_t *txt, size_t len, cake_node *out);
/* Write the set for a node; returns its length, at most cap (0: does not fit). */
size_t cake_node_txt_write(uint8_t *txt, size_t cap, const cake_node *n);

#endif
