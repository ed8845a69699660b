/* Discovery through avahi-daemon (libavahi-client over D-Bus). */
#include "proto/mdns.h"

#include "common/log.h"
#include "common/mem.h"

#include <avahi-client/client.h>
#include <avahi-client/lookup.h>
#include <avahi-client/publish.h>
#include <avahi-common/error.h>
#include <avahi-common/timeval.h>
#include <stdlib.h>

/* libavahi-client and libavahi-core export functions of the same names (avahi_entry_group_free,
 * ...), and with both linked each calls the other's. Loaded locally, each sees only its own. It
 * also lets the program run where one of them is not installed. */
#define FUNCTIONS(X)                                                                               \
    X(avahi_client_errno)                                                                          \
    X(avahi_client_free)                                                                           \
    X(avahi_client_new)                                                                            \
    X(avahi_entry_group_add_service_strlst)                                                        \
    X(avahi_entry_group_commit)                                                                    \
    X(avahi_entry_group_get_client)                                                                \
    X(avahi_entry_group_new)                                                                       \
    X(avahi_entry_group_reset)                                                                     \
    X(avahi_service_browser_new)                                                                   \
    X(avahi_service_resolver_free)                                                                 \
    X(avahi_service_resolver_new)
#define DECLARE(f) __typeof__(f) *f;
#define LOAD(f)    {#f, (void **)(void *)&av.f},
static struct { FUNCTIONS(DECLARE) } av;

static cake_status load(cake_error *err) {
    static const mdns_symbol list[] = {FUNCTIONS(LOAD){NULL, NULL}};
    return mdns_load("libavahi-client.so.3", list, err);
}

struct daemon_state {
    AvahiClient *client;
    AvahiEntryGroup *group;
    AvahiServiceBrowser *browser;
    AvahiTimeout *retry;
};

static void publish(struct cake_discovery *d, AvahiClient *client);

static void on_group(AvahiEntryGroup *g, AvahiEntryGroupState state, void *arg) {
    struct cake_discovery *d = arg;
    if (state == AVAHI_ENTRY_GROUP_COLLISION) {
        mdns_next_name(d);
        publish(d, av.avahi_entry_group_get_client(g));
    } else if (state == AVAHI_ENTRY_GROUP_FAILURE) {
        cake_log(CAKE_LOG_WARN, "event=advertise_failed reason=\"%s\"",
                 avahi_strerror(av.avahi_client_errno(av.avahi_entry_group_get_client(g))));
    }
}

static void publish(struct cake_discovery *d, AvahiClient *client) {
    struct daemon_state *s = d->state;
    if (!d->advertise) return;
    if (!s->group) s->group = av.avahi_entry_group_new(client, on_group, d);
    if (!s->group) {
        cake_log(CAKE_LOG_WARN, "event=advertise_failed reason=\"%s\"",
                 avahi_strerror(av.avahi_client_errno(client)));
        return;
    }
    int rc = AVAHI_ERR_COLLISION;
    for (int i = 0; i < 100 && rc == AVAHI_ERR_COLLISION; i++) {
        av.avahi_entry_group_reset(s->group);
        rc = av.avahi_entry_group_add_service_strlst(s->group, AVAHI_IF_UNSPEC, AVAHI_PROTO_UNSPEC,
                                                     0, d->instance, MDNS_TYPE, NULL, NULL, d->port,
                                                     d->txt);
        if (rc == AVAHI_ERR_COLLISION) mdns_next_name(d);
    }
    if (rc >= 0) rc = av.avahi_entry_group_commit(s->group);
    if (rc < 0) cake_log(CAKE_LOG_WARN, "event=advertise_failed reason=\"%s\"", avahi_strerror(rc));
}

static void on_resolve(AvahiServiceResolver *r, AvahiIfIndex interface, AvahiProtocol protocol,
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
    struct daemon_state *s = d->state;
    return av.avahi_service_resolver_new(s->client, i->interface, i->protocol, i->name, MDNS_TYPE,
                                         i->domain, i->protocol, 0, on_resolve, i);
}

static void resolve_end(void *resolver) {
    av.avahi_service_resolver_free(resolver);
}

static void on_browse(AvahiServiceBrowser *b, AvahiIfIndex interface, AvahiProtocol protocol,
                      AvahiBrowserEvent event, const char *name, const char *type,
                      const char *domain, AvahiLookupResultFlags flags, void *arg) {
    (void)b, (void)type, (void)flags;
    if (event == AVAHI_BROWSER_NEW)
        mdns_instance_new(arg, interface, protocol, name, domain);
    else if (event == AVAHI_BROWSER_REMOVE)
        mdns_instance_gone(arg, interface, protocol, name, domain);
}

static void on_client(AvahiClient *client, AvahiClientState state, void *arg);

static void drop_client(struct cake_discovery *d) {
    struct daemon_state *s = d->state;
    mdns_forget_all(d);
    /* Frees group, browser and resolvers of the client as well. */
    if (s->client) av.avahi_client_free(s->client);
    s->client = NULL;
    s->group = NULL;
    s->browser = NULL;
}

/* The daemon went away: a new client waits for it to come back. Not inside the client's own
 * callback, which must not free it. */
static void on_retry(AvahiTimeout *t, void *arg) {
    struct cake_discovery *d = arg;
    struct daemon_state *s = d->state;
    const AvahiPoll *api = avahi_threaded_poll_get(d->poll);
    drop_client(d);
    int e = 0;
    s->client = av.avahi_client_new(api, AVAHI_CLIENT_NO_FAIL, on_client, d, &e);
    struct timeval when;
    if (!s->client)
        api->timeout_update(t, avahi_elapse_time(&when, 2000, 0)); /* no D-Bus right now */
    else
        api->timeout_update(t, NULL);
}

static void on_client(AvahiClient *client, AvahiClientState state, void *arg) {
    struct cake_discovery *d = arg;
    struct daemon_state *s = d->state;
    s->client = client; /* the first call comes from within avahi_client_new */
    if (state == AVAHI_CLIENT_S_RUNNING) {
        publish(d, client);
        if (d->browse && !s->browser)
            s->browser = av.avahi_service_browser_new(client, AVAHI_IF_UNSPEC, AVAHI_PROTO_UNSPEC,
                                                      MDNS_TYPE, NULL, 0, on_browse, d);
        if (d->browse && !s->browser)
            cake_log(CAKE_LOG_WARN, "event=browse_failed reason=\"%s\"",
                     avahi_strerror(av.avahi_client_errno(client)));
    } else if (state == AVAHI_CLIENT_S_COLLISION || state == AVAHI_CLIENT_S_REGISTERING) {
        if (s->group) av.avahi_entry_group_reset(s->group); /* the host name is changing */
    } else if (state == AVAHI_CLIENT_FAILURE) {
        cake_log(CAKE_LOG_WARN, "event=mdns_daemon_lost reason=\"%s\"",
                 avahi_strerror(av.avahi_client_errno(client)));
        struct timeval when;
        if (s->retry)
            avahi_threaded_poll_get(d->poll)->timeout_update(s->retry,
                                                             avahi_elapse_time(&when, 200, 0));
    }
}

static void stop(struct cake_discovery *d) {
    struct daemon_state *s = d->state;
    if (!s) return;
    drop_client(d);
    if (s->retry) avahi_threaded_poll_get(d->poll)->timeout_free(s->retry);
    free(s);
    d->state = NULL;
}

static cake_status start(struct cake_discovery *d, cake_error *err) {
    cake_status st = load(err);
    if (st != CAKE_OK) return st;
    struct daemon_state *s = cake_calloc(1, sizeof *s);
    const AvahiPoll *api = avahi_threaded_poll_get(d->poll);
    d->state = s;
    s->retry = api->timeout_new(api, NULL, on_retry, d);
    int e = 0;
    /* Without NO_FAIL: an absent daemon is known at once, and the embedded responder takes over. */
    AvahiClient *client = av.avahi_client_new(api, 0, on_client, d, &e);
    if (client && s->retry) return CAKE_OK;
    s->client = client;
    stop(d);
    return cake_fail(err, CAKE_EUNAVAIL, "avahi-daemon does not answer: %s", avahi_strerror(e));
}

const struct mdns_backend mdns_daemon = {"avahi-daemon", start, stop, resolve, resolve_end};
