/* Discovery by a responder of our own inside the process (libavahi-core), for machines without
 * avahi-daemon. Several processes of one host each run one, so everything that has to be unique on
 * the network carries the node id: the host name is cake-ID.local, and addresses are published
 * without the reverse (PTR) record, over which the processes of one host would fight. */
#include "proto/mdns.h"

#include "common/log.h"
#include "common/mem.h"

#include <arpa/inet.h>
#include <avahi-common/alternative.h>
#include <avahi-common/error.h>
#include <avahi-common/malloc.h>
#include <avahi-common/timeval.h>
#include <avahi-core/core.h>
#include <avahi-core/log.h>
#include <avahi-core/lookup.h>
#include <avahi-core/publish.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libavahi-client and libavahi-core export functions of the same names (avahi_entry_group_free,
 * ...), and with both linked each calls the other's. Loaded locally, each sees only its own. It
 * also lets the program run where one of them is not installed. */
#define FUNCTIONS(X)                                                                               \
    X(avahi_s_entry_group_commit)                                                                  \
    X(avahi_s_entry_group_free)                                                                    \
    X(avahi_s_entry_group_new)                                                                     \
    X(avahi_s_entry_group_reset)                                                                   \
    X(avahi_s_service_browser_free)                                                                \
    X(avahi_s_service_browser_new)                                                                 \
    X(avahi_s_service_resolver_free)                                                               \
    X(avahi_s_service_resolver_new)                                                                \
    X(avahi_server_add_address)                                                                    \
    X(avahi_server_add_service_strlst)                                                             \
    X(avahi_server_config_free)                                                                    \
    X(avahi_server_config_init)                                                                    \
    X(avahi_server_errno)                                                                          \
    X(avahi_server_free)                                                                           \
    X(avahi_server_get_host_name)                                                                  \
    X(avahi_server_new)                                                                            \
    X(avahi_server_set_host_name)                                                                  \
    X(avahi_set_log_function)
#define DECLARE(f) __typeof__(f) *f;
#define LOAD(f)    {#f, (void **)(void *)&av.f},
static struct { FUNCTIONS(DECLARE) } av;

static cake_status load(cake_error *err) {
    static const mdns_symbol list[] = {FUNCTIONS(LOAD){NULL, NULL}};
    return mdns_load("libavahi-core.so.7", list, err);
}

enum { ADDRESSES_MAX = 64, REFRESH_MS = 2000 };

struct own_address {
    AvahiIfIndex interface;
    AvahiAddress a;
};

struct embedded_state {
    AvahiServer *server;
    AvahiSEntryGroup *service, *host;
    AvahiSServiceBrowser *browser;
    AvahiTimeout *refresh;
    char host_name[64]; /* cake-0123456789ab.local */
    struct own_address own[ADDRESSES_MAX];
    size_t n_own;
};

static void publish_service(struct cake_discovery *d);
static void publish_host(struct cake_discovery *d);

static void on_service(AvahiServer *server, AvahiSEntryGroup *g, AvahiEntryGroupState state,
                       void *arg) {
    (void)server, (void)g;
    struct cake_discovery *d = arg;
    if (state != AVAHI_ENTRY_GROUP_COLLISION) return;
    mdns_next_name(d);
    publish_service(d);
}

static void on_host(AvahiServer *server, AvahiSEntryGroup *g, AvahiEntryGroupState state,
                    void *arg) {
    (void)server, (void)g, (void)arg;
    if (state == AVAHI_ENTRY_GROUP_COLLISION)
        cake_log(CAKE_LOG_WARN,
                 "event=advertise_failed reason=\"another node has this node's id\"");
}

static void publish_service(struct cake_discovery *d) {
    struct embedded_state *s = d->state;
    if (!d->advertise) return;
    if (!s->service) s->service = av.avahi_s_entry_group_new(s->server, on_service, d);
    int rc = s->service ? AVAHI_ERR_COLLISION : AVAHI_ERR_NO_MEMORY;
    for (int i = 0; i < 100 && rc == AVAHI_ERR_COLLISION; i++) {
        av.avahi_s_entry_group_reset(s->service);
        rc = av.avahi_server_add_service_strlst(s->server, s->service, AVAHI_IF_UNSPEC,
                                                AVAHI_PROTO_UNSPEC, 0, d->instance, MDNS_TYPE, NULL,
                                                s->host_name, d->port, d->txt);
        if (rc == AVAHI_ERR_COLLISION) mdns_next_name(d);
    }
    if (rc >= 0) rc = av.avahi_s_entry_group_commit(s->service);
    if (rc < 0) cake_log(CAKE_LOG_WARN, "event=advertise_failed reason=\"%s\"", avahi_strerror(rc));
}

/* This machine's addresses, loopback last resort: with no other interface several processes of one
 * host still find each other. */
static size_t own_addresses(struct own_address *out) {
    struct ifaddrs *list = NULL;
    size_t n = 0;
    if (getifaddrs(&list) != 0) return 0;
    for (struct ifaddrs *i = list; i && n < ADDRESSES_MAX; i = i->ifa_next) {
        if (!i->ifa_addr || !(i->ifa_flags & IFF_UP)) continue;
        struct own_address o = {.interface = (AvahiIfIndex)if_nametoindex(i->ifa_name)};
        if (i->ifa_addr->sa_family == AF_INET) {
            o.a.proto = AVAHI_PROTO_INET;
            struct sockaddr_in sin;
            memcpy(&sin, i->ifa_addr, sizeof sin);
            o.a.data.ipv4.address = sin.sin_addr.s_addr;
        } else if (i->ifa_addr->sa_family == AF_INET6) {
            o.a.proto = AVAHI_PROTO_INET6;
            struct sockaddr_in6 sin6;
            memcpy(&sin6, i->ifa_addr, sizeof sin6);
            memcpy(o.a.data.ipv6.address, &sin6.sin6_addr, 16);
        } else {
            continue;
        }
        if (o.interface > 0) out[n++] = o;
    }
    freeifaddrs(list);
    return n;
}

static void publish_host(struct cake_discovery *d) {
    struct embedded_state *s = d->state;
    struct own_address now[ADDRESSES_MAX];
    memset(now, 0, sizeof now);
    size_t n = own_addresses(now);
    if (!d->advertise || (n == s->n_own && memcmp(now, s->own, n * sizeof *now) == 0 && s->host))
        return;
    memcpy(s->own, now, sizeof now);
    s->n_own = n;
    if (!s->host) s->host = av.avahi_s_entry_group_new(s->server, on_host, d);
    if (!s->host) return;
    av.avahi_s_entry_group_reset(s->host);
    for (size_t i = 0; i < n; i++) {
        int rc =
            av.avahi_server_add_address(s->server, s->host, now[i].interface, AVAHI_PROTO_UNSPEC,
                                        AVAHI_PUBLISH_NO_REVERSE, s->host_name, &now[i].a);
        if (rc < 0)
            cake_log(CAKE_LOG_DEBUG, "event=address_not_advertised reason=\"%s\"",
                     avahi_strerror(rc));
    }
    if (n) av.avahi_s_entry_group_commit(s->host);
}

/* Interfaces come and go (Wi-Fi, cables); Avahi follows them for queries, we for our own records.
 */
static void on_refresh(AvahiTimeout *t, void *arg) {
    struct cake_discovery *d = arg;
    struct timeval when;
    publish_host(d);
    avahi_threaded_poll_get(d->poll)->timeout_update(t, avahi_elapse_time(&when, REFRESH_MS, 0));
}

static void on_resolve(AvahiSServiceResolver *r, AvahiIfIndex interface, AvahiProtocol protocol,
                       AvahiResolverEvent event, const char *name, const char *type,
                       const char *domain, const char *host, const AvahiAddress *a, uint16_t port,
                       AvahiStringList *txt, AvahiLookupResultFlags flags, void *arg) {
    (void)r, (void)interface, (void)protocol, (void)name, (void)type, (void)domain, (void)flags;
    if (event == AVAHI_RESOLVER_FOUND)
        mdns_instance_found(arg, host, a, port, txt);
    else
        mdns_instance_failed(arg);
}

static void *resolve(struct cake_discovery *d, struct mdns_instance *i) {
    struct embedded_state *s = d->state;
    return av.avahi_s_service_resolver_new(s->server, i->interface, i->protocol, i->name, MDNS_TYPE,
                                           i->domain, i->protocol, 0, on_resolve, i);
}

static void resolve_end(void *resolver) {
    av.avahi_s_service_resolver_free(resolver);
}

static void on_browse(AvahiSServiceBrowser *b, AvahiIfIndex interface, AvahiProtocol protocol,
                      AvahiBrowserEvent event, const char *name, const char *type,
                      const char *domain, AvahiLookupResultFlags flags, void *arg) {
    (void)b, (void)type, (void)flags;
    if (event == AVAHI_BROWSER_NEW)
        mdns_instance_new(arg, interface, protocol, name, domain);
    else if (event == AVAHI_BROWSER_REMOVE)
        mdns_instance_gone(arg, interface, protocol, name, domain);
}

static void on_server(AvahiServer *server, AvahiServerState state, void *arg) {
    struct cake_discovery *d = arg;
    struct embedded_state *s = d->state;
    s->server = server; /* the first call comes from within avahi_server_new */
    if (state == AVAHI_SERVER_RUNNING) {
        publish_host(d);
        publish_service(d);
    } else if (state == AVAHI_SERVER_COLLISION) {
        /* Cannot happen while we publish no host name of Avahi's own. */
        char *next = avahi_alternative_host_name(av.avahi_server_get_host_name(server));
        av.avahi_server_set_host_name(server, next);
        avahi_free(next);
    } else if (state == AVAHI_SERVER_FAILURE) {
        cake_log(CAKE_LOG_WARN, "event=mdns_failed reason=\"%s\"",
                 avahi_strerror(av.avahi_server_errno(server)));
    }
}

static void on_log(AvahiLogLevel level, const char *text) {
    if (level <= AVAHI_LOG_WARN) cake_log(CAKE_LOG_DEBUG, "event=mdns text=\"%s\"", text);
}

static void stop(struct cake_discovery *d) {
    struct embedded_state *s = d->state;
    if (!s) return;
    mdns_forget_all(d);
    if (s->refresh) avahi_threaded_poll_get(d->poll)->timeout_free(s->refresh);
    if (s->server) {
        if (s->browser) av.avahi_s_service_browser_free(s->browser);
        if (s->service) av.avahi_s_entry_group_free(s->service);
        if (s->host) av.avahi_s_entry_group_free(s->host);
        av.avahi_server_free(s->server); /* sends the goodbyes that are still queued */
    }
    free(s);
    d->state = NULL;
}

static cake_status start(struct cake_discovery *d, cake_error *err) {
    cake_status st = load(err);
    if (st != CAKE_OK) return st;
    struct embedded_state *s = cake_calloc(1, sizeof *s);
    const AvahiPoll *api = avahi_threaded_poll_get(d->poll);
    d->state = s;
    snprintf(s->host_name, sizeof s->host_name, "cake-%.12s.local", d->id);
    av.avahi_set_log_function(on_log);
    AvahiServerConfig c;
    av.avahi_server_config_init(&c);
    avahi_free(c.host_name);
    c.host_name = avahi_strndup(s->host_name, strcspn(s->host_name, "."));
    c.publish_addresses = 0;
    c.publish_hinfo = 0;
    c.publish_workstation = 0;
    c.publish_domain = 0;
    c.enable_wide_area = 0;
    c.disallow_other_stacks = 0;
    c.allow_point_to_point = 1;
    c.use_ipv4 = 1;
    c.use_ipv6 = 1;
    c.n_cache_entries_max = 4096;
    int e = 0;
    AvahiServer *server = av.avahi_server_new(api, &c, on_server, d, &e);
    av.avahi_server_config_free(&c);
    if (!server) {
        stop(d);
        return cake_fail(err, CAKE_EUNAVAIL, "cannot start the built-in mDNS responder: %s",
                         avahi_strerror(e));
    }
    s->server = server;
    struct timeval when;
    s->refresh = api->timeout_new(api, avahi_elapse_time(&when, REFRESH_MS, 0), on_refresh, d);
    if (d->browse) {
        s->browser = av.avahi_s_service_browser_new(server, AVAHI_IF_UNSPEC, AVAHI_PROTO_UNSPEC,
                                                    MDNS_TYPE, NULL, 0, on_browse, d);
        if (!s->browser) {
            e = av.avahi_server_errno(server);
            stop(d);
            return cake_fail(err, CAKE_EUNAVAIL, "cannot browse for workers: %s",
                             avahi_strerror(e));
        }
    }
    return CAKE_OK;
}

const struct mdns_backend mdns_embedded = {"embedded", start, stop, resolve, resolve_end};
