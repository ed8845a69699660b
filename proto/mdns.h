/* Inside of discovery: what discovery.c keeps and what a backend (avahi-daemon over D-Bus, or
 * libavahi-core in this process) has to do. Everything here runs in Avahi's thread or under its
 * lock. */
#ifndef CAKE_PROTO_MDNS_H
#define CAKE_PROTO_MDNS_H

#include "proto/discovery.h"

#include <avahi-common/address.h>
#include <avahi-common/strlst.h>
#include <avahi-common/thread-watch.h>
#include <pthread.h>

#define MDNS_TYPE "_cake._tcp"

enum { MDNS_INSTANCES_MAX = 1024, MDNS_NODES_MAX = 1024, MDNS_RETRIES = 3 };

struct cake_discovery;

/* One service instance as seen on one interface by one protocol. */
struct mdns_instance {
    struct cake_discovery *d;
    AvahiIfIndex interface;
    AvahiProtocol protocol;
    char *name, *domain;
    void *resolver; /* of the backend */
    unsigned failures;
    bool resolved;
    cake_node node; /* with this instance's one address */
};

struct mdns_backend {
    const char *name;
    /* Start; fills d->state. Runs before Avahi's thread does. */
    cake_status (*start)(struct cake_discovery *d, cake_error *err);
    /* Withdraw what was advertised and free everything. Called under the poll's lock. */
    void (*stop)(struct cake_discovery *d);
    /* Begin or stop resolving an instance. */
    void *(*resolve)(struct cake_discovery *d, struct mdns_instance *i);
    void (*resolve_end)(void *resolver);
};
extern const struct mdns_backend mdns_daemon, mdns_embedded;

/* A node as the owner knows it. */
struct mdns_entry {
    cake_node node;
    bool present, reported, dirty;
};

struct cake_discovery {
    const struct mdns_backend *backend;
    AvahiThreadedPoll *poll;
    void *state; /* of the backend */
    bool advertise, browse;
    char id[CAKE_NODE_ID_HEX], tag[17];
    char *instance; /* service name, changed when taken */
    uint16_t port;
    AvahiStringList *txt;
    struct mdns_instance *instances[MDNS_INSTANCES_MAX]; /* Avahi's thread */
    size_t n_instances;
    int event_fd;
    pthread_mutex_t lock; /* owns entries */
    struct mdns_entry *entries[MDNS_NODES_MAX];
    size_t n_entries;
};

/* Load a library once and fill in its functions; CAKE_EUNAVAIL when it or one of them is missing.
 */
typedef struct {
    const char *name;
    void **at;
} mdns_symbol;
cake_status mdns_load(const char *library, const mdns_symbol *list, cake_error *err);

/* Called by backends. */
void mdns_instance_new(struct cake_discovery *d, AvahiIfIndex interface, AvahiProtocol protocol,
                       const char *name, const char *domain);
void mdns_instance_gone(struct cake_discovery *d, AvahiIfIndex interface, AvahiProtocol protocol,
                        const char *name, const char *domain);
void mdns_instance_found(struct mdns_instance *i, const char *host, const AvahiAddress *address,
                         uint16_t port, AvahiStringList *txt);
void mdns_instance_failed(struct mdns_instance *i);
/* The connection to the responder is lost: forget all instances. */
void mdns_forget_all(struct cake_discovery *d);
/* The service name is taken: choose the next one. */
void mdns_next_name(struct cake_discovery *d);

#endif
