/* Servers and clients: addresses, whole messages in and out, and who may send what; see link.h. */
#include "proto/link.h"

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "proto/msg_frames.h"
#include "proto/net.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <zmq.h>

/* Most messages that one call looks at before it says EAGAIN, so that a peer that sends nothing but
 * rubbish cannot keep its receiver here. */
enum { DROPS_PER_CALL = 256 };

/* ---- addresses ---- */

cake_status cake_address_parse(const char *address, char *host, uint16_t *port, cake_error *err) {
    const char *colon = strrchr(address, ':');
    if (!colon || colon[1] == 0)
        return cake_fail(err, CAKE_EINVAL, "the address '%.100s' has no port; write HOST:PORT",
                         address);
    unsigned long v = 0;
    for (const char *p = colon + 1; *p; p++) {
        if (!isdigit((unsigned char)*p) || (v = v * 10 + (unsigned long)(*p - '0')) > 65535)
            return cake_fail(err, CAKE_EINVAL, "the port of '%.100s' is not a number up to 65535",
                             address);
    }
    size_t n = (size_t)(colon - address);
    bool v6 = n >= 2 && address[0] == '[' && address[n - 1] == ']';
    if (v6) address++, n -= 2;
    if (n >= 256) return cake_fail(err, CAKE_EINVAL, "the host name is longer than 255 bytes");
    for (size_t i = 0; i < n; i++) {
        char c = address[i];
        /* Also keeps out ';' and '/', which mean something in ZeroMQ endpoints. */
        if (isalnum((unsigned char)c) || c == '.' || c == '-' || c == '_') continue;
        if ((v6 && (c == ':' || c == '%')) || (c == '*' && n == 1)) continue;
        return cake_fail(err, CAKE_EINVAL,
                         c == ':' ? "write the IPv6 address of '%.100s' in brackets: [ADDRESS]:PORT"
                                  : "the host of '%.100s' has a character that no host name has",
                         address);
    }
    memcpy(host, address, n);
    host[n] = 0;
    *port = (uint16_t)v;
    return CAKE_OK;
}

static bool is_inproc(const char *address) {
    return strncmp(address, "inproc://", 9) == 0;
}

/* Numeric form of a host name, IPv4 before IPv6 (ZeroMQ would take the first of the resolver's and
 * try no other). True when out[INET6_ADDRSTRLEN] was filled. */
static bool resolve(const char *host, char *out) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    if (getaddrinfo(host, NULL, &hints, &list) != 0) return false;
    const struct addrinfo *best = NULL;
    for (const struct addrinfo *a = list; a; a = a->ai_next)
        if (a->ai_family == AF_INET || (a->ai_family == AF_INET6 && !best))
            if (!best || best->ai_family != AF_INET) best = a;
    bool ok = best && getnameinfo(best->ai_addr, best->ai_addrlen, out, INET6_ADDRSTRLEN, NULL, 0,
                                  NI_NUMERICHOST) == 0;
    freeaddrinfo(list);
    return ok;
}

/* The ZeroMQ endpoint of an address; caller frees; NULL with err filled. Sets whether the socket
 * has to speak IPv6: only where needed, as IPv4 addresses would then read [::ffff:1.2.3.4]. */
static char *endpoint_of(const char *address, bool bind, int *v6, cake_error *err) {
    *v6 = 0;
    if (is_inproc(address)) return cake_strdup(address);
    char host[256], numeric[INET6_ADDRSTRLEN];
    uint16_t port;
    if (cake_address_parse(address, host, &port, err) != CAKE_OK) return NULL;
    bool any = host[0] == 0 || host[0] == '*';
    if (!bind && (port == 0 || any)) {
        cake_fail(err, CAKE_EINVAL, "'%s' is no address to connect to; write HOST:PORT", address);
        return NULL;
    }
    const char *h = any ? "*" : host;
    bool literal =
        strchr(h, ':') || inet_addr(h) != INADDR_NONE || strcmp(h, "255.255.255.255") == 0;
    /* A bind host may also be an interface ("eth0"), which ZeroMQ knows and the resolver does not.
     */
    if (!any && !literal && (!bind || if_nametoindex(h) == 0)) {
        if (resolve(h, numeric)) {
            h = numeric;
        } else if (bind) {
            cake_fail(err, CAKE_EUNAVAIL, "the host '%s' is unknown", h);
            return NULL;
        } /* a client keeps trying: the name may appear */
    }
    bool colons = strchr(h, ':') != NULL;
    *v6 = colons || any;
    if (port == 0) return cake_asprintf("tcp://%s%s%s:*", colons ? "[" : "", h, colons ? "]" : "");
    return cake_asprintf("tcp://%s%s%s:%u", colons ? "[" : "", h, colons ? "]" : "",
                         (unsigned)port);
}

/* ---- messages ---- */

/* Kinds that a role may send to a server. */
static bool role_may(cake_link_role role, unsigned kind) {
    switch (role) {
    case CAKE_LINK_ROLE_MASTER:
    case CAKE_LINK_ROLE_ANY: return true;
    case CAKE_LINK_ROLE_PEER:
        return kind == CAKE_MSG_BATCH || kind == CAKE_MSG_PING || kind == CAKE_MSG_PONG ||
               kind == CAKE_MSG_ERROR || kind == CAKE_MSG_CANCEL;
    case CAKE_LINK_ROLE_SERVER: return kind != CAKE_MSG_CHUNK;
    default: return false;
    }
}

static void drop(cake_net *n, net_reason why, const char *address, const char *text) {
    unsigned hidden;
    atomic_fetch_add(&n->dropped, 1);
    if (net_may_log(n, why, &hidden))
        cake_log(CAKE_LOG_WARN, "event=message_dropped from=%s reason=\"%s\" more=%u",
                 address ? address : "?", text, hidden);
}

/* Frames that header f claims to open; 1 when it does not look like one (decode will say why). */
static uint32_t claimed_frames(zmq_msg_t *f) {
    if (zmq_msg_size(f) < CAKE_WIRE_HDR) return 1;
    const uint8_t *p = (const uint8_t *)zmq_msg_data(f) + 44;
    uint32_t n = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    return n >= 1 && n <= CAKE_FRAMES_MAX ? n : 1;
}

static cake_link_role role_of(zmq_msg_t *f) {
    const char *user = zmq_msg_gets(f, "User-Id");
    if (!user) return CAKE_LINK_ROLE_NONE;
    if (strcmp(user, "master") == 0) return CAKE_LINK_ROLE_MASTER;
    if (strcmp(user, "peer") == 0) return CAKE_LINK_ROLE_PEER;
    return strcmp(user, "any") == 0 ? CAKE_LINK_ROLE_ANY : CAKE_LINK_ROLE_NONE;
}

/* ThreadSanitizer does not see libzmq's queues; over inproc:// a frame written by one of our
 * threads is read by another with nothing but those between. Tell it. */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
static void sync_out(cake_msg *m) {
    for (uint32_t i = 0; i < m->own->n; i++) __tsan_release(zmq_msg_data(&m->own->zmq[i]));
}
static void sync_in(cake_msg *m) {
    for (uint32_t i = 0; i < m->own->n; i++) __tsan_acquire(zmq_msg_data(&m->own->zmq[i]));
}
static void sync_frame(zmq_msg_t *f) { /* one that is looked into before its message is complete */
    __tsan_acquire(zmq_msg_data(f));
}
#else
static void sync_out(cake_msg *m) {
    (void)m;
}
static void sync_in(cake_msg *m) {
    (void)m;
}
static void sync_frame(zmq_msg_t *f) {
    (void)f;
}
#endif

/* What a frame took on the wire: ZMTP puts 2 or 9 bytes before it, CURVE another 33. Exact, or the
 * books of net.c would be wrong after some million messages. */
static size_t wire_bytes(const cake_net *n, const zmq_msg_t *f) {
    size_t size = zmq_msg_size(f) + (n->secure ? 33 : 0);
    return size + (size > 255 ? 9 : 2);
}

/* Read the frames after the routing id and make a message of them. role NONE: take it from the
 * connection. CAKE_EAGAIN: nothing there. CAKE_EPROTO: dropped, counted and logged. */
static cake_status take_message(cake_net *n, void *socket, cake_link_role role, cake_msg **out) {
    zmq_msg_t f;
    zmq_msg_init(&f);
    if (zmq_msg_recv(&f, socket, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&f);
        return CAKE_EAGAIN;
    }
    sync_frame(&f);
    uint32_t room = claimed_frames(&f);
    size_t got = 1;
    bool more = zmq_msg_more(&f);
    cake_msg *m = cake_msg_alloc(room);
    char address[64] = "?";
    const char *where = zmq_msg_gets(&f, "Peer-Address"), *fd = zmq_msg_gets(&f, "__fd");
    int source = fd ? atoi(fd) : -1; /* what zmq_msg_get(ZMQ_SRCFD) reads */
    size_t bytes = wire_bytes(n, &f);
    if (where) snprintf(address, sizeof address, "%s", where);
    if (m) {
        m->role = role != CAKE_LINK_ROLE_NONE ? role : role_of(&f);
        zmq_msg_init(&m->own->zmq[0]);
        zmq_msg_move(&m->own->zmq[0], &f);
        m->own->n = 1;
        m->own->views[0] =
            (cake_view){zmq_msg_data(&m->own->zmq[0]), zmq_msg_size(&m->own->zmq[0])};
    }
    for (; more; got++) {
        if (zmq_msg_recv(&f, socket, ZMQ_DONTWAIT) < 0) break;
        more = zmq_msg_more(&f);
        bytes += wire_bytes(n, &f);
        if (!m || got >= room) continue; /* more than it claimed: count on, keep nothing */
        zmq_msg_init(&m->own->zmq[got]);
        zmq_msg_move(&m->own->zmq[got], &f);
        m->own->n = (uint32_t)got + 1;
        m->own->views[got] =
            (cake_view){zmq_msg_data(&m->own->zmq[got]), zmq_msg_size(&m->own->zmq[got])};
    }
    zmq_msg_close(&f);
    net_flow_taken(n, source, bytes);
    if (m) sync_in(m);
    cake_error err;
    if (!m) {
        drop(n, NET_DROPPED_MALFORMED, address, "out of memory");
        return CAKE_EPROTO;
    }
    if (cake_wire_decode(&m->h, m->frames, got, &err) != CAKE_OK) {
        drop(n, NET_DROPPED_MALFORMED, address, err.msg);
    } else if (!role_may(m->role, m->h.kind)) {
        cake_fail(&err, CAKE_EPROTO, "a %s may not send %s", cake_link_role_name(m->role),
                  cake_msg_kind_name(m->h.kind));
        drop(n, NET_DROPPED_ROLE, address, err.msg);
    } else {
        m->received_ns = cake_now_ns();
        *out = m;
        return CAKE_OK;
    }
    cake_msg_free(m);
    return CAKE_EPROTO;
}

/* libzmq looks at what its I/O thread reported (connected, room again) at most once a millisecond;
 * asking for events makes it look now. True when sending is possible after all. */
static bool has_room(void *socket) {
    int events = 0;
    size_t n = sizeof events;
    return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &n) == 0 && (events & ZMQ_POLLOUT);
}

/* Send all frames; the first decides. See lb.cpp: when a pipe dies in the middle, libzmq swallows
 * the rest of the message, but only if we go on to its last frame. */
static bool send_frames(void *socket, cake_msg *m, int *error) {
    sync_out(m);
    for (uint32_t i = 0; i < m->own->n; i++) {
        int flags = ZMQ_DONTWAIT | (i + 1 < m->own->n ? ZMQ_SNDMORE : 0);
        int rc;
        do rc = zmq_msg_send(&m->own->zmq[i], socket, flags);
        while (rc < 0 && errno == EINTR);
        if (rc < 0 && i == 0) {
            *error = errno;
            return false;
        }
    }
    cake_msg_free(m); /* what was sent is empty now, the rest is closed */
    return true;
}

/* ---- server ---- */

struct cake_server {
    cake_net *net;
    void *socket;
    char *address;
    uint16_t port;
    bool inproc, watched;
    unsigned watch;
};

cake_status cake_server_open(cake_server **out, cake_net *n, const char *address, cake_error *err) {
    cake_server *s = cake_calloc(1, sizeof *s);
    char *endpoint = NULL;
    s->net = n;
    s->inproc = is_inproc(address);
    cake_status st = net_socket(n, ZMQ_ROUTER, &s->socket, err);
    if (st != CAKE_OK) goto fail;
    int one = 1;
    if (zmq_setsockopt(s->socket, ZMQ_ROUTER_MANDATORY, &one, sizeof one) != 0) {
        st = cake_fail(err, CAKE_EUNSUPPORTED, "libzmq lacks ZMQ_ROUTER_MANDATORY");
        goto fail;
    }
    if (!s->inproc) {
        st = net_secure_server(n, s->socket, err);
        if (st == CAKE_OK) st = net_watch(n, s->socket, &s->watch, err);
        if (st != CAKE_OK) goto fail;
        s->watched = true;
    }
    int v6;
    endpoint = endpoint_of(address, true, &v6, err);
    if (!endpoint) {
        st = err && err->status == CAKE_EUNAVAIL ? CAKE_EUNAVAIL : CAKE_EINVAL;
        goto fail;
    }
    zmq_setsockopt(s->socket, ZMQ_IPV6, &v6, sizeof v6);
    if (zmq_bind(s->socket, endpoint) != 0) {
        int e = errno;
        if (e == EADDRINUSE)
            st = cake_fail(
                err, CAKE_EUNAVAIL,
                "the address %s is in use; another cake-worker? Choose another port, or 0 for "
                "any free one",
                address);
        else if (e == EADDRNOTAVAIL || e == ENODEV)
            st = cake_fail(err, CAKE_EUNAVAIL,
                           "%s is not an address of this machine; use *:PORT for all", address);
        else if (e == EACCES)
            st = cake_fail(err, CAKE_EUNAVAIL,
                           "no permission to listen on %s; use a port above 1023", address);
        else
            st = cake_fail(err, CAKE_EUNAVAIL, "cannot listen on %s: %s", address, zmq_strerror(e));
        goto fail;
    }
    if (s->inproc) {
        s->address = cake_strdup(address);
    } else {
        char last[320];
        size_t len = sizeof last;
        if (zmq_getsockopt(s->socket, ZMQ_LAST_ENDPOINT, last, &len) != 0 ||
            strncmp(last, "tcp://", 6) != 0) {
            st = cake_fail(err, CAKE_EUNSUPPORTED, "libzmq does not say which port it bound");
            goto fail;
        }
        s->address = cake_strdup(last + 6);
        s->port = (uint16_t)strtoul(strrchr(last, ':') + 1, NULL, 10);
    }
    free(endpoint);
    *out = s;
    return CAKE_OK;
fail:
    free(endpoint);
    cake_server_close(s);
    return st;
}

void cake_server_close(cake_server *s) {
    if (!s) return;
    if (s->watched) net_unwatch(s->net, s->socket, s->watch);
    if (s->socket) {
        zmq_close(s->socket);
        atomic_fetch_sub(&s->net->open_sockets, 1);
    }
    free(s->address);
    free(s);
}

const char *cake_server_address(const cake_server *s) {
    return s->address;
}
uint16_t cake_server_port(const cake_server *s) {
    return s->port;
}
void *cake_server_socket(cake_server *s) {
    return s->socket;
}

cake_status cake_server_recv(cake_server *s, cake_msg **out, cake_error *err) {
    for (int i = 0; i < DROPS_PER_CALL; i++) {
        zmq_msg_t id;
        zmq_msg_init(&id);
        if (zmq_msg_recv(&id, s->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&id);
            break;
        }
        cake_peer from = {0};
        size_t n = zmq_msg_size(&id);
        if (n <= sizeof from.id) {
            from.len = (uint8_t)n;
            memcpy(from.id, zmq_msg_data(&id), n);
        }
        bool more = zmq_msg_more(&id);
        zmq_msg_close(&id);
        if (!more) continue;
        cake_msg *m = NULL;
        cake_status st = take_message(s->net, s->socket,
                                      s->inproc ? CAKE_LINK_ROLE_MASTER : CAKE_LINK_ROLE_NONE, &m);
        if (st != CAKE_OK) continue;
        if (from.len == 0) { /* a routing id of its own choice that we cannot keep */
            drop(s->net, NET_DROPPED_MALFORMED, NULL, "routing id too long");
            cake_msg_free(m);
            continue;
        }
        m->from = from;
        *out = m;
        return CAKE_OK;
    }
    return cake_fail(err, CAKE_EAGAIN, "no message waits");
}

cake_status cake_server_send(cake_server *s, const cake_peer *to, cake_msg *m, cake_error *err) {
    int error = 0;
    while (zmq_send(s->socket, to->id, to->len, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        if (errno == EAGAIN)
            return cake_fail(err, CAKE_EAGAIN, "the queue to this peer is full");
        else if (errno != EINTR)
            return cake_fail(err, CAKE_EUNAVAIL, "the peer is gone");
    if (!send_frames(s->socket, m, &error))
        return cake_fail(err, CAKE_EUNAVAIL, "cannot send to the peer: %s", zmq_strerror(error));
    return CAKE_OK;
}

/* ---- client ---- */

struct cake_client {
    cake_net *net;
    void *socket, *monitor; /* monitor NULL: inproc, of which there is nothing to tell */
    char *address;
    bool inproc, monitored;
    cake_link_state state;
    uint32_t generation;
    unsigned broken; /* handshakes broken off in a row */
    int64_t connected_ms;
    cake_error why;
};

const char *cake_link_state_name(cake_link_state s) {
    static const char *const names[] = {"connecting", "ready", "refused", "unreachable", "lost"};
    return (unsigned)s <= CAKE_LINK_LOST ? names[s] : "?";
}

/* Let libzmq tell what becomes of the connection. */
static cake_status watch(cake_client *c, cake_error *err) {
    char name[64];
    int zero = 0;
    snprintf(name, sizeof name, "inproc://cake.monitor.%u",
             atomic_fetch_add(&c->net->next_monitor, 1));
    c->monitor = zmq_socket(c->net->zmq, ZMQ_PAIR);
    if (!c->monitor || zmq_setsockopt(c->monitor, ZMQ_LINGER, &zero, sizeof zero) != 0 ||
        zmq_socket_monitor(c->socket, name,
                           ZMQ_EVENT_CONNECTED | ZMQ_EVENT_CONNECT_RETRIED | ZMQ_EVENT_CLOSED |
                               ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                               ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) != 0)
        return cake_fail(err, CAKE_ENOMEM, "cannot make a socket monitor: %s", zmq_strerror(errno));
    c->monitored = true;
    if (zmq_connect(c->monitor, name) != 0)
        return cake_fail(err, CAKE_ENOMEM, "cannot watch a socket: %s", zmq_strerror(errno));
    return CAKE_OK;
}

cake_status cake_client_open(cake_client **out, cake_net *n, cake_link_role as, const char *address,
                             cake_error *err) {
    if (as != CAKE_LINK_ROLE_MASTER && as != CAKE_LINK_ROLE_PEER)
        return cake_fail(err, CAKE_EINVAL, "a client is master or peer");
    cake_client *c = cake_calloc(1, sizeof *c);
    c->net = n;
    c->inproc = is_inproc(address);
    c->address = cake_strdup(address);
    int v6;
    char *endpoint = endpoint_of(address, false, &v6, err);
    cake_status st = endpoint ? net_socket(n, ZMQ_DEALER, &c->socket, err) : CAKE_EINVAL;
    if (st != CAKE_OK) goto out;
    int one = 1;
    if (!c->inproc) {
        st = watch(c, err);
        if (st == CAKE_OK) st = net_secure_client(n, c->socket, as, err);
        if (st != CAKE_OK) goto out;
        /* Nothing is queued for a peer that is not there, and nothing queued survives a reconnect:
         * messages belong to a conversation, not to an address. */
        zmq_setsockopt(c->socket, ZMQ_IMMEDIATE, &one, sizeof one);
    }
    zmq_setsockopt(c->socket, ZMQ_IPV6, &v6, sizeof v6);
    if (zmq_connect(c->socket, endpoint) != 0) {
        st = cake_fail(err, CAKE_EINVAL, "cannot connect to %s: %s", address, zmq_strerror(errno));
        goto out;
    }
    if (c->inproc) { /* no handshake, no events */
        c->state = CAKE_LINK_READY;
        c->generation = 1;
    }
    *out = c;
    c = NULL;
out:
    free(endpoint);
    cake_client_close(c);
    return st;
}

void cake_client_close(cake_client *c) {
    if (!c) return;
    if (c->monitored) zmq_socket_monitor(c->socket, NULL, 0);
    if (c->monitor) zmq_close(c->monitor);
    if (c->socket) {
        zmq_close(c->socket);
        atomic_fetch_sub(&c->net->open_sockets, 1);
    }
    free(c->address);
    free(c);
}

void *cake_client_socket(cake_client *c) {
    return c->socket;
}
void *cake_client_monitor(cake_client *c) {
    return c->monitor;
}
uint32_t cake_client_generation(const cake_client *c) {
    return c->generation;
}
const char *cake_client_address(const cake_client *c) {
    return c->address;
}

static void refused(cake_client *c, const char *text) {
    c->state = CAKE_LINK_REFUSED;
    cake_fail(&c->why, CAKE_EAUTH, "%s %s", c->address, text);
}

static void unreachable(cake_client *c, const char *text) {
    if (c->state == CAKE_LINK_LOST) return; /* that says more */
    c->state = CAKE_LINK_UNREACHABLE;
    cake_fail(&c->why, CAKE_EUNAVAIL, "%s %s", c->address, text);
}

/* A server that holds another cluster's key cannot open our first message and hangs up without a
 * word; so does one that is just being stopped. Two in a row are a refusal. */
static void handshake_broken(cake_client *c) {
    if (cake_now_ms() - c->connected_ms >= c->net->handshake_ms * 9 / 10) {
        unreachable(c, "accepts connections but does not answer; is its process stopped?");
        return;
    }
    if (++c->broken >= 2)
        refused(c,
                c->net->secure
                    ? "hung up during the handshake: it holds another cluster's key, or is no "
                      "cake-worker (or one with --insecure); compare 'cake-master cluster show' on "
                      "both machines"
                    : "hung up during the handshake: it wants encryption (was started without "
                      "--insecure), or is not a cake-worker");
}

static void client_event(cake_client *c, uint16_t event, uint32_t value) {
    switch (event) {
    case ZMQ_EVENT_CONNECTED:
        c->connected_ms = cake_now_ms();
        net_flow_open(c->net, (int)value);
        break;
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        c->state = CAKE_LINK_READY;
        c->generation++;
        c->broken = 0;
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH: refused(c, "refused our cluster key"); break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
            refused(c, c->net->secure
                           ? "does not encrypt: it was started with --insecure, or is not a "
                             "cake-worker"
                           : "wants encryption: it was started without --insecure");
        else
            refused(
                c,
                "answers with something that is not our protocol, or with another cluster's key");
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL: handshake_broken(c); break;
    case ZMQ_EVENT_DISCONNECTED:
        net_flow_close(c->net, (int)value);
        if (c->state == CAKE_LINK_READY) {
            c->state = CAKE_LINK_LOST;
            cake_fail(&c->why, CAKE_EUNAVAIL, "the connection to %s broke", c->address);
        }
        break;
    case ZMQ_EVENT_CLOSED:
        unreachable(c, "cannot be reached: nobody listens there, or the network is down");
        break;
    default: break;
    }
}

cake_link_state cake_client_state(cake_client *c, cake_error *why) {
    uint16_t event;
    uint32_t value;
    while (c->monitor && net_monitor_read(c->monitor, &event, &value))
        client_event(c, event, value);
    if (why && c->state != CAKE_LINK_READY && c->state != CAKE_LINK_CONNECTING) *why = c->why;
    return c->state;
}

cake_status cake_client_wait(cake_client *c, int timeout_ms, cake_error *err) {
    int64_t end = cake_now_ms() + timeout_ms;
    for (;;) {
        cake_link_state s = cake_client_state(c, err);
        if (s == CAKE_LINK_READY) return CAKE_OK;
        if (s == CAKE_LINK_REFUSED) return CAKE_EAUTH;
        int64_t left = end - cake_now_ms();
        if (left <= 0) {
            if (s == CAKE_LINK_CONNECTING)
                cake_fail(err, CAKE_EUNAVAIL,
                          "%s does not answer: is the machine up and its port open?", c->address);
            return CAKE_EUNAVAIL;
        }
        zmq_pollitem_t item = {.socket = c->monitor, .events = ZMQ_POLLIN};
        zmq_poll(&item, 1, (long)left);
    }
}

cake_status cake_client_recv(cake_client *c, cake_msg **out, cake_error *err) {
    for (int i = 0; i < DROPS_PER_CALL; i++) {
        cake_status st = take_message(c->net, c->socket, CAKE_LINK_ROLE_SERVER, out);
        if (st == CAKE_OK) return CAKE_OK;
        if (st == CAKE_EAGAIN) break;
    }
    /* Events must not pile up: libzmq's I/O thread blocks when nobody reads them. */
    cake_client_state(c, NULL);
    return cake_fail(err, CAKE_EAGAIN, "no message waits");
}

cake_status cake_client_send(cake_client *c, cake_msg *m, cake_error *err) {
    int error = 0;
    if (send_frames(c->socket, m, &error)) return CAKE_OK;
    if (error == EAGAIN && has_room(c->socket) && send_frames(c->socket, m, &error)) return CAKE_OK;
    return cake_fail(err, error == EAGAIN ? CAKE_EAGAIN : CAKE_EUNAVAIL,
                     "cannot send to %s now: %s", c->address,
                     error == EAGAIN ? "not connected, or its queue is full" : zmq_strerror(error));
}
