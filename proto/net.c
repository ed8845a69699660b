/* The part of the links that the whole process shares.
 *
 * libzmq lets every client key in unless a ZAP handler answers and ZMQ_ZAP_ENFORCE_DOMAIN is set;
 * so the guard thread binds the ZAP endpoint before any socket exists, and cake_net_open tries a
 * random key on itself and fails when that gets in. The guard also reads the servers' connection
 * events: it counts failed handshakes and cuts connections beyond a limit, so that a flood of
 * half-open ones cannot eat the process's descriptors. */
#include "proto/net.h"

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

/* In libzmq since 4.3.0; Debian's header hides it among the drafts, the library has it. */
#ifndef ZMQ_ZAP_ENFORCE_DOMAIN
#define ZMQ_ZAP_ENFORCE_DOMAIN 93
#endif

#define ZAP_DOMAIN   "cake"
#define ZAP_ENDPOINT "inproc://zeromq.zap.01"

enum { WATCH_MAX = 16, CONNECTIONS_MAX = 512, ZAP_FRAMES = 16, ZAP_FRAME_MAX = 256 };

bool net_may_log(cake_net *n, net_reason why, unsigned *n_suppressed) {
    long long now = cake_now_ms(), last = atomic_load(&n->limit[why].last_ms);
    if ((last != 0 && now - last < 1000) ||
        !atomic_compare_exchange_strong(&n->limit[why].last_ms, &last, now)) {
        atomic_fetch_add(&n->limit[why].suppressed, 1);
        return false;
    }
    *n_suppressed = atomic_exchange(&n->limit[why].suppressed, 0);
    return true;
}

/* ---- ZAP ---- */

/* Answer one request of RFC 27. What we cannot understand is refused, never ignored: libzmq waits.
 */
static void answer_zap(cake_net *n, void *zap) {
    char text[ZAP_FRAMES][ZAP_FRAME_MAX];
    size_t len[ZAP_FRAMES] = {0};
    unsigned n_frames = 0;
    bool fits = true, more = true;
    while (more) {
        zmq_msg_t f;
        zmq_msg_init(&f);
        if (zmq_msg_recv(&f, zap, 0) < 0) {
            zmq_msg_close(&f);
            return;
        }
        if (n_frames < ZAP_FRAMES && zmq_msg_size(&f) < ZAP_FRAME_MAX) {
            len[n_frames] = zmq_msg_size(&f);
            memcpy(text[n_frames], zmq_msg_data(&f), len[n_frames]);
            text[n_frames][len[n_frames]] = 0;
            n_frames++;
        } else {
            fits = false;
        }
        more = zmq_msg_more(&f);
        zmq_msg_close(&f);
    }
    /* version, request id, domain, address, identity, mechanism, credentials... */
    const char *user = NULL;
    if (fits && n_frames >= 6 && strcmp(text[0], "1.0") == 0 && strcmp(text[2], ZAP_DOMAIN) == 0) {
        if (!n->secure && strcmp(text[5], "NULL") == 0) {
            user = "any";
        } else if (n->secure && strcmp(text[5], "CURVE") == 0 && n_frames == 7 &&
                   len[6] == CAKE_CURVE_KEY) {
            if (memcmp(text[6], n->keys.master.public_key, CAKE_CURVE_KEY) == 0)
                user = "master";
            else if (memcmp(text[6], n->keys.peer.public_key, CAKE_CURVE_KEY) == 0)
                user = "peer";
        }
    }
    unsigned hidden;
    if (user) {
        atomic_fetch_add(&n->accepted, 1);
    } else {
        atomic_fetch_add(&n->refused_key, 1);
        if (!atomic_load(&n->quiet) && net_may_log(n, NET_REFUSED_KEY, &hidden))
            cake_log(CAKE_LOG_WARN,
                     "event=client_refused reason=\"unknown key\" address=%s more=%u",
                     n_frames > 3 ? text[3] : "?", hidden);
    }
    zmq_send(zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(zap, n_frames > 1 ? text[1] : "", n_frames > 1 ? len[1] : 0, ZMQ_SNDMORE);
    zmq_send(zap, user ? "200" : "400", 3, ZMQ_SNDMORE);
    zmq_send(zap, user ? "OK" : "unknown key", user ? 2 : 11, ZMQ_SNDMORE);
    zmq_send(zap, user ? user : "", user ? strlen(user) : 0, ZMQ_SNDMORE);
    zmq_send(zap, "", 0, 0);
}

/* ---- backlog ---- */

/* High-water marks count messages, and libzmq counts one only when its last frame is there: a peer
 * that never ends a message fills our memory, and no option of libzmq stops it. But the kernel
 * knows what came in on each connection, and we know what was taken out. Only holders of the key
 * get that far; still a worker must not die of a broken or stolen master. */
void net_flow_open(cake_net *n, int fd) {
    if (fd < 0 || fd >= NET_FD_MAX) return;
    atomic_store(&n->taken[fd], 0);
    pthread_mutex_lock(&n->flow_lock);
    bool known = n->n_flows == NET_FLOWS_MAX;
    for (unsigned i = 0; i < n->n_flows && !known; i++) known = n->flow[i] == fd;
    if (!known) n->flow[n->n_flows++] = fd;
    pthread_mutex_unlock(&n->flow_lock);
}

void net_flow_close(cake_net *n, int fd) {
    pthread_mutex_lock(&n->flow_lock);
    for (unsigned i = 0; i < n->n_flows; i++)
        if (n->flow[i] == fd) {
            n->flow[i] = n->flow[--n->n_flows];
            break;
        }
    pthread_mutex_unlock(&n->flow_lock);
}

static void check_backlog(cake_net *n) {
    uint64_t total = 0, most = 0;
    int worst = -1;
    pthread_mutex_lock(&n->flow_lock);
    for (unsigned i = 0; i < n->n_flows; i++) {
        struct tcp_info info = {0};
        socklen_t len = sizeof info;
        if (getsockopt(n->flow[i], IPPROTO_TCP, TCP_INFO, &info, &len) != 0) continue;
        uint64_t taken = atomic_load(&n->taken[n->flow[i]]);
        uint64_t waits = info.tcpi_bytes_received > taken ? info.tcpi_bytes_received - taken : 0;
        total += waits;
        if (waits > most) most = waits, worst = n->flow[i];
    }
    pthread_mutex_unlock(&n->flow_lock);
    if (total <= n->backlog_max || worst < 0) return;
    shutdown(worst, SHUT_RDWR);
    atomic_fetch_add(&n->dropped, 1);
    unsigned hidden;
    if (net_may_log(n, NET_CUT, &hidden))
        cake_log(CAKE_LOG_WARN,
                 "event=connection_cut reason=\"%llu bytes received and not taken\" more=%u",
                 (unsigned long long)most, hidden);
}

/* ---- guard thread ---- */

bool net_monitor_read(void *monitor, uint16_t *event, uint32_t *value) {
    uint8_t b[8];
    int rc = zmq_recv(monitor, b, sizeof b, ZMQ_DONTWAIT);
    if (rc < 0) return false;
    int more = 0;
    size_t size = sizeof more;
    zmq_getsockopt(monitor, ZMQ_RCVMORE, &more, &size);
    if (more) {
        char address[256];
        zmq_recv(monitor, address, sizeof address, ZMQ_DONTWAIT);
    }
    *event = 0;
    *value = 0;
    if (rc == 6) {
        memcpy(event, b, 2);
        memcpy(value, b + 2, 4);
    }
    return true;
}

struct watch {
    unsigned id;
    void *monitor;
    unsigned connections;
};

static void connection_event(cake_net *n, struct watch *w, uint16_t event, uint32_t value) {
    unsigned hidden;
    switch (event) {
    case ZMQ_EVENT_ACCEPTED:
        w->connections++;
        net_flow_open(n, (int)value);
        /* Half-open connections cost a descriptor each until the handshake deadline. Cutting the
         * newest keeps those that work. libzmq owns the descriptor: shutdown, never close. */
        if (w->connections > n->connections_max) {
            shutdown((int)value, SHUT_RDWR);
            atomic_fetch_add(&n->refused_other, 1);
            if (net_may_log(n, NET_REFUSED_CROWD, &hidden))
                cake_log(CAKE_LOG_WARN,
                         "event=client_refused reason=\"more than %u connections\" more=%u",
                         n->connections_max, hidden);
        }
        break;
    case ZMQ_EVENT_DISCONNECTED:
        if (w->connections) w->connections--;
        net_flow_close(n, (int)value);
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        if (value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) { /* its first box is not for our key */
            atomic_fetch_add(&n->refused_key, 1);
            if (net_may_log(n, NET_REFUSED_KEY, &hidden))
                cake_log(CAKE_LOG_WARN,
                         "event=client_refused reason=\"key of another cluster\" more=%u", hidden);
            break;
        }
        /* fall through */
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        atomic_fetch_add(&n->refused_other, 1);
        if (net_may_log(n, NET_REFUSED_HANDSHAKE, &hidden))
            cake_log(
                CAKE_LOG_WARN, "event=client_refused reason=\"handshake %s\" code=0x%x more=%u",
                event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL ? "malformed or not encrypted as ours"
                                                             : "late or broken off",
                value, hidden);
        break;
    default: break;
    }
}

static void *guard_main(void *arg) {
    cake_net *n = arg;
    struct watch watch[WATCH_MAX];
    unsigned n_watch = 0;
    void *command = zmq_socket(n->zmq, ZMQ_PAIR), *zap = zmq_socket(n->zmq, ZMQ_REP);
    int zero = 0;
    cake_assert(command && zap);
    zmq_setsockopt(zap, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(command, ZMQ_LINGER, &zero, sizeof zero);
    cake_assert(zmq_connect(command, "inproc://cake.guard") == 0);
    int zap_ok = zmq_bind(zap, ZAP_ENDPOINT) == 0;
    zmq_send(command, zap_ok ? "+" : "-", 1, 0);
    bool running = zap_ok;
    int64_t checked = 0;
    while (running) {
        zmq_pollitem_t item[2 + WATCH_MAX] = {{.socket = command, .events = ZMQ_POLLIN},
                                              {.socket = zap, .events = ZMQ_POLLIN}};
        for (unsigned i = 0; i < n_watch; i++)
            item[2 + i] = (zmq_pollitem_t){.socket = watch[i].monitor, .events = ZMQ_POLLIN};
        pthread_mutex_lock(&n->flow_lock);
        bool idle = n->n_flows == 0;
        pthread_mutex_unlock(&n->flow_lock);
        if (zmq_poll(item, 2 + (int)n_watch, idle ? 1000 : 200) < 0 && errno != EINTR) break;
        if (!idle && cake_now_ms() - checked >= 200) {
            check_backlog(n);
            checked = cake_now_ms();
        }
        if (item[1].revents & ZMQ_POLLIN) answer_zap(n, zap);
        for (unsigned i = 0; i < n_watch; i++) {
            uint16_t event;
            uint32_t value;
            while (item[2 + i].revents && net_monitor_read(watch[i].monitor, &event, &value))
                connection_event(n, &watch[i], event, value);
        }
        if (!(item[0].revents & ZMQ_POLLIN)) continue;
        struct {
            char verb;
            unsigned id;
        } c;
        if (zmq_recv(command, &c, sizeof c, 0) != sizeof c) continue;
        char answer = '-';
        if (c.verb == 'q') {
            running = false;
            answer = '+';
        } else if (c.verb == 'w' && n_watch < WATCH_MAX) {
            char endpoint[64];
            snprintf(endpoint, sizeof endpoint, "inproc://cake.monitor.%u", c.id);
            void *m = zmq_socket(n->zmq, ZMQ_PAIR);
            if (m && zmq_setsockopt(m, ZMQ_LINGER, &zero, sizeof zero) == 0 &&
                zmq_connect(m, endpoint) == 0) {
                watch[n_watch++] = (struct watch){.id = c.id, .monitor = m};
                answer = '+';
            } else if (m) {
                zmq_close(m);
            }
        } else if (c.verb == 'u') {
            for (unsigned i = 0; i < n_watch; i++)
                if (watch[i].id == c.id) {
                    zmq_close(watch[i].monitor);
                    watch[i] = watch[--n_watch];
                    answer = '+';
                    break;
                }
        }
        zmq_send(command, &answer, 1, 0);
    }
    for (unsigned i = 0; i < n_watch; i++) zmq_close(watch[i].monitor);
    zmq_close(zap);
    zmq_close(command);
    return NULL;
}

/* Ask the guard for something and wait until it is done. */
static bool guard_ask(cake_net *n, char verb, unsigned id) {
    struct {
        char verb;
        unsigned id;
    } c = {0};
    c.verb = verb;
    c.id = id;
    char answer = 0;
    pthread_mutex_lock(&n->command_lock);
    bool ok = zmq_send(n->command, &c, sizeof c, 0) == sizeof c &&
              zmq_recv(n->command, &answer, 1, 0) == 1 && answer == '+';
    pthread_mutex_unlock(&n->command_lock);
    return ok;
}

cake_status net_watch(cake_net *n, void *socket, unsigned *id, cake_error *err) {
    *id = atomic_fetch_add(&n->next_monitor, 1);
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "inproc://cake.monitor.%u", *id);
    if (zmq_socket_monitor(
            socket, endpoint,
            ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) != 0 ||
        !guard_ask(n, 'w', *id))
        return cake_fail(err, CAKE_ENOMEM, "cannot watch the connections of another server socket");
    return CAKE_OK;
}

void net_unwatch(cake_net *n, void *socket, unsigned id) {
    zmq_socket_monitor(socket, NULL, 0);
    guard_ask(n, 'u', id);
}

/* ---- sockets ---- */

static bool set_int(void *s, int option, int value) {
    return zmq_setsockopt(s, option, &value, sizeof value) == 0;
}

cake_status net_socket(cake_net *n, int type, void **out, cake_error *err) {
    void *s = zmq_socket(n->zmq, type);
    if (!s)
        return cake_fail(err, CAKE_ENOMEM, "cannot make a ZeroMQ socket: %s", zmq_strerror(errno));
    int64_t max = CAKE_FRAME_MAX + 64; /* CURVE adds 33 bytes to a frame */
    bool ok = zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &max, sizeof max) == 0 &&
              set_int(s, ZMQ_HANDSHAKE_IVL, n->handshake_ms) &&
              set_int(s, ZMQ_SNDHWM, n->queue_messages) &&
              set_int(s, ZMQ_RCVHWM, n->queue_messages) && set_int(s, ZMQ_LINGER, 500) &&
              set_int(s, ZMQ_RECONNECT_IVL, 100) && set_int(s, ZMQ_RECONNECT_IVL_MAX, 2000) &&
              set_int(s, ZMQ_CONNECT_TIMEOUT, 5000);
    if (!ok) {
        zmq_close(s);
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "libzmq does not know an option this program needs: %s",
                         zmq_strerror(errno));
    }
    atomic_fetch_add(&n->open_sockets, 1);
    *out = s;
    return CAKE_OK;
}

static cake_status no_curve(cake_error *err) {
    return cake_fail(err, CAKE_EUNSUPPORTED,
                     "this libzmq was built without CURVE: links cannot be encrypted");
}

cake_status net_secure_server(cake_net *n, void *s, cake_error *err) {
    /* With a domain, libzmq also asks ZAP about NULL connections; enforce: never without an answer.
     */
    if (zmq_setsockopt(s, ZMQ_ZAP_DOMAIN, ZAP_DOMAIN, strlen(ZAP_DOMAIN)) != 0 ||
        !set_int(s, ZMQ_ZAP_ENFORCE_DOMAIN, 1))
        return cake_fail(err, CAKE_EUNSUPPORTED, "this libzmq cannot enforce authentication");
    if (!n->secure) return CAKE_OK;
    if (!set_int(s, ZMQ_CURVE_SERVER, 1) ||
        zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, n->keys.server.secret_key, CAKE_CURVE_KEY) != 0)
        return no_curve(err);
    return CAKE_OK;
}

static cake_status curve_client(cake_net *n, void *s, const cake_curve_pair *me, cake_error *err) {
    if (zmq_setsockopt(s, ZMQ_CURVE_SERVERKEY, n->keys.server.public_key, CAKE_CURVE_KEY) != 0 ||
        zmq_setsockopt(s, ZMQ_CURVE_PUBLICKEY, me->public_key, CAKE_CURVE_KEY) != 0 ||
        zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, me->secret_key, CAKE_CURVE_KEY) != 0)
        return no_curve(err);
    return CAKE_OK;
}

cake_status net_secure_client(cake_net *n, void *s, cake_link_role as, cake_error *err) {
    if (!n->secure) return CAKE_OK;
    return curve_client(n, s, as == CAKE_LINK_ROLE_MASTER ? &n->keys.master : &n->keys.peer, err);
}

/* ---- self-check ---- */

/* Connect with `me` and see how the handshake ends: 1 let in, 0 refused, -1 neither. */
static int try_key(cake_net *n, const char *endpoint, const cake_curve_pair *me) {
    void *s = NULL, *m = NULL;
    int result = -1, zero = 0;
    char name[64];
    if (net_socket(n, ZMQ_DEALER, &s, NULL) != CAKE_OK) return -1;
    snprintf(name, sizeof name, "inproc://cake.monitor.%u", atomic_fetch_add(&n->next_monitor, 1));
    m = zmq_socket(n->zmq, ZMQ_PAIR);
    if (m && curve_client(n, s, me, NULL) == CAKE_OK &&
        zmq_socket_monitor(s, name, ZMQ_EVENT_ALL) == 0 &&
        zmq_setsockopt(m, ZMQ_LINGER, &zero, sizeof zero) == 0 &&
        zmq_setsockopt(s, ZMQ_LINGER, &zero, sizeof zero) == 0 && zmq_connect(m, name) == 0 &&
        zmq_connect(s, endpoint) == 0) {
        int64_t end = cake_now_ms() + 5000;
        while (result < 0 && cake_now_ms() < end) {
            zmq_pollitem_t item = {.socket = m, .events = ZMQ_POLLIN};
            zmq_poll(&item, 1, 100);
            uint16_t event;
            uint32_t value;
            while (result < 0 && net_monitor_read(m, &event, &value)) {
                if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) result = 1;
                if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) result = 0;
            }
        }
    }
    zmq_socket_monitor(s, NULL, 0);
    if (m) zmq_close(m);
    zmq_close(s);
    atomic_fetch_sub(&n->open_sockets, 1);
    return result;
}

/* Prove on an abstract local socket (no network needed) that authentication is really on: libzmq
 * without a working ZAP handler lets everybody in and says nothing. */
static cake_status self_check(cake_net *n, cake_error *err) {
    void *server = NULL;
    uint8_t noise[16];
    char endpoint[64] = "ipc://@cake-";
    cake_curve_pair stranger;
    char pub[41], sec[41];
    cake_status st = net_socket(n, ZMQ_ROUTER, &server, err);
    if (st != CAKE_OK) return st;
    st = net_secure_server(n, server, err);
    if (st != CAKE_OK) goto out;
    st = cake_fail(err, CAKE_EAUTH, "cannot check that strangers are refused; not starting");
    if (RAND_bytes(noise, sizeof noise) != 1 || zmq_curve_keypair(pub, sec) != 0 ||
        !zmq_z85_decode(stranger.public_key, pub) || !zmq_z85_decode(stranger.secret_key, sec))
        goto out;
    for (size_t i = 0; i < sizeof noise; i++) snprintf(endpoint + 12 + 2 * i, 3, "%02x", noise[i]);
    if (zmq_bind(server, endpoint) != 0) goto out;
    int known = try_key(n, endpoint, &n->keys.master), unknown = try_key(n, endpoint, &stranger);
    if (unknown == 1)
        st = cake_fail(
            err, CAKE_EAUTH,
            "authentication does not work with this libzmq: a random key was let in; not starting");
    else if (known != 1 || unknown != 0)
        st = cake_fail(err, CAKE_EAUTH,
                       "the authentication self-check failed (own key: %d, random key: %d); "
                       "not starting",
                       known, unknown);
    else
        st = CAKE_OK;
    atomic_store(&n->accepted, 0);
    atomic_store(&n->refused_key, 0);
out:
    cake_wipe(sec, sizeof sec);
    cake_wipe(&stranger, sizeof stranger);
    zmq_close(server);
    atomic_fetch_sub(&n->open_sockets, 1);
    return st;
}

/* ---- life ---- */

cake_status cake_net_open(cake_net **out, const cake_net_options *o, cake_error *err) {
    cake_net *n = cake_calloc(1, sizeof *n);
    cake_status st = CAKE_OK;
    pthread_mutex_init(&n->command_lock, NULL);
    pthread_mutex_init(&n->flow_lock, NULL);
    n->backlog_max = o->backlog_bytes ? o->backlog_bytes : (uint64_t)512 << 20;
    uint64_t available = cake_mem_available();
    if (!o->backlog_bytes && available && available / 4 < n->backlog_max)
        n->backlog_max = available / 4;
    n->secure = o->keys != NULL;
    if (o->keys) n->keys = *o->keys;
    n->handshake_ms = o->handshake_ms > 0 ? o->handshake_ms : 5000;
    n->queue_messages = o->queue_messages > 0 ? o->queue_messages : 256;
    n->connections_max = CONNECTIONS_MAX;
    /* Every connection is a descriptor. Take what the hard limit allows, up to what can be needed.
     */
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        if (files.rlim_cur < 4096 && files.rlim_cur < files.rlim_max) {
            files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
            setrlimit(RLIMIT_NOFILE, &files);
        }
        if (files.rlim_cur / 2 < n->connections_max)
            n->connections_max = (unsigned)files.rlim_cur / 2;
    }
    n->zmq = zmq_ctx_new();
    if (!n->zmq) {
        st = cake_fail(err, CAKE_ENOMEM, "cannot start ZeroMQ: %s", strerror(errno));
        goto fail;
    }
    if (o->io_threads > 1) zmq_ctx_set(n->zmq, ZMQ_IO_THREADS, o->io_threads);
    n->command = zmq_socket(n->zmq, ZMQ_PAIR);
    int zero = 0;
    if (!n->command || zmq_setsockopt(n->command, ZMQ_LINGER, &zero, sizeof zero) != 0 ||
        zmq_bind(n->command, "inproc://cake.guard") != 0) {
        st = cake_fail(err, CAKE_ENOMEM, "cannot start ZeroMQ sockets: %s", zmq_strerror(errno));
        goto fail;
    }
    if (pthread_create(&n->guard, NULL, guard_main, n) != 0) {
        st = cake_fail(err, CAKE_ENOMEM, "cannot start the authentication thread");
        goto fail;
    }
    n->guard_runs = true;
    char answer = 0;
    if (zmq_recv(n->command, &answer, 1, 0) != 1 || answer != '+') {
        pthread_join(n->guard, NULL);
        n->guard_runs = false;
        st = cake_fail(err, CAKE_EAUTH,
                       "the authentication handler cannot start; not starting without it");
        goto fail;
    }
    if (n->secure) {
        atomic_store(&n->quiet, true);
        st = self_check(n, err);
        atomic_store(&n->quiet, false);
    }
    if (st != CAKE_OK) goto fail;
    *out = n;
    return CAKE_OK;
fail:
    cake_net_close(n);
    return st;
}

void cake_net_close(cake_net *n) {
    if (!n) return;
    cake_assert(atomic_load(&n->open_sockets) == 0); /* zmq_ctx_term would wait for them for ever */
    if (n->guard_runs) {
        guard_ask(n, 'q', 0);
        pthread_join(n->guard, NULL);
    }
    if (n->command) zmq_close(n->command);
    if (n->zmq)
        while (zmq_ctx_term(n->zmq) != 0 && errno == EINTR) continue;
    pthread_mutex_destroy(&n->command_lock);
    pthread_mutex_destroy(&n->flow_lock);
    cake_keys_wipe(&n->keys);
    free(n);
}

bool cake_net_is_insecure(const cake_net *n) {
    return !n->secure;
}

void cake_net_stats_get(cake_net *n, cake_net_stats *out) {
    *out = (cake_net_stats){.accepted = atomic_load(&n->accepted),
                            .refused_key = atomic_load(&n->refused_key),
                            .refused_other = atomic_load(&n->refused_other),
                            .dropped = atomic_load(&n->dropped)};
}
