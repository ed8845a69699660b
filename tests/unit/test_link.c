/* Links over real sockets: who gets in, who does not and what is said about it, what each role may
 * send, full queues, broken connections, big messages; and a server under attack that goes on
 * serving. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/log.h"
#include "common/mem.h"
#include "proto/link.h"
#include "tests/tools/attack.h"

#include <dirent.h>
#include <sys/resource.h>
#include <zmq.h>

static cake_error error; /* of the last OK() */
#define OK(call)                                                                                   \
    do {                                                                                           \
        cake_status got_ = (call);                                                                 \
        if (got_ != CAKE_OK) fail_msg("%s -> %s: %s", #call, cake_status_name(got_), error.msg);   \
    } while (0)

static cake_keys keys, other_keys;
static cake_net *net, *stranger, *open_net; /* this cluster, another one, --insecure */
/* Deadlines, not expectations: a sanitizer on a busy machine is slow. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { HANDSHAKE_MS = 2000, SOON_MS = 60000 };
#else
enum { HANDSHAKE_MS = 1000, SOON_MS = 20000 };
#endif

static void make_keys(cake_keys *out) {
    cake_cluster_key k;
    OK(cake_key_create(&k, &error));
    OK(cake_keys_derive(out, &k, &error));
}

static int setup(void **state) {
    (void)state;
    cake_log_min = CAKE_LOG_NONE;
    make_keys(&keys);
    make_keys(&other_keys);
    OK(cake_net_open(&net, &(cake_net_options){.keys = &keys, .handshake_ms = HANDSHAKE_MS},
                     &error));
    OK(cake_net_open(
        &stranger, &(cake_net_options){.keys = &other_keys, .handshake_ms = HANDSHAKE_MS}, &error));
    OK(cake_net_open(&open_net, &(cake_net_options){.handshake_ms = HANDSHAKE_MS}, &error));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    cake_net_close(net);
    cake_net_close(stranger);
    cake_net_close(open_net);
    return 0;
}

static bool readable(void *socket, int ms) {
    zmq_pollitem_t p = {.socket = socket, .events = ZMQ_POLLIN};
    return zmq_poll(&p, 1, ms) > 0;
}

/* Next message within ms, or NULL. */
static cake_msg *server_get(cake_server *s, int ms) {
    int64_t end = cake_now_ms() + ms;
    cake_msg *m = NULL;
    do {
        if (cake_server_recv(s, &m, NULL) == CAKE_OK) return m;
        readable(cake_server_socket(s), 20);
    } while (cake_now_ms() < end);
    return NULL;
}
static cake_msg *client_get(cake_client *c, int ms) {
    int64_t end = cake_now_ms() + ms;
    cake_msg *m = NULL;
    do {
        if (cake_client_recv(c, &m, NULL) == CAKE_OK) return m;
        readable(cake_client_socket(c), 20);
    } while (cake_now_ms() < end);
    return NULL;
}

static cake_server *serve(cake_net *n) {
    cake_server *s;
    OK(cake_server_open(&s, n, "127.0.0.1:0", &error));
    return s;
}

static cake_client *dial(cake_net *n, cake_link_role as, const cake_server *s) {
    cake_client *c;
    OK(cake_client_open(&c, n, as, cake_server_address(s), &error));
    return c;
}

/* A ping goes there and comes back. */
static void exchange(cake_server *s, cake_client *c, cake_link_role want) {
    static uint64_t number;
    cake_msg *m = cake_msg_ping(0, ++number, 10, true);
    OK(cake_client_send(c, m, &error));
    m = server_get(s, SOON_MS);
    assert_non_null(m);
    assert_int_equal(m->h.kind, CAKE_MSG_PING);
    assert_int_equal(m->role, want);
    cake_msg *pong = cake_msg_pong(m);
    OK(cake_server_send(s, &m->from, pong, &error));
    cake_msg_free(m);
    m = client_get(c, SOON_MS);
    assert_non_null(m);
    assert_int_equal(m->h.kind, CAKE_MSG_PONG);
    assert_true(m->h.id == number);
    assert_int_equal(m->role, CAKE_LINK_ROLE_SERVER);
    cake_msg_free(m);
}

/* A fresh, rightful client is served: the server is alive and well. */
static void still_serves(cake_server *s) {
    cake_client *c = dial(net, CAKE_LINK_ROLE_MASTER, s);
    OK(cake_client_wait(c, SOON_MS, &error));
    exchange(s, c, CAKE_LINK_ROLE_MASTER);
    cake_client_close(c);
}

static uint64_t stat_of(size_t offset) {
    cake_net_stats st;
    cake_net_stats_get(net, &st);
    uint64_t v;
    memcpy(&v, (const char *)&st + offset, sizeof v);
    return v;
}
#define STAT(field) stat_of(offsetof(cake_net_stats, field))

static void right_key(void **state) {
    (void)state;
    cake_server *s = serve(net);
    assert_int_not_equal(cake_server_port(s), 0);
    cake_client *m = dial(net, CAKE_LINK_ROLE_MASTER, s), *p = dial(net, CAKE_LINK_ROLE_PEER, s);
    OK(cake_client_wait(m, SOON_MS, &error));
    OK(cake_client_wait(p, SOON_MS, &error));
    exchange(s, m, CAKE_LINK_ROLE_MASTER);
    exchange(s, p, CAKE_LINK_ROLE_PEER);
    assert_int_equal(cake_client_generation(m), 1);
    cake_client_close(m);
    cake_client_close(p);
    cake_server_close(s);
}

static void wrong_key(void **state) {
    (void)state;
    cake_server *s = serve(net);
    uint64_t before = STAT(refused_key);
    cake_client *c = dial(stranger, CAKE_LINK_ROLE_MASTER, s);
    cake_error err = {0};
    assert_int_equal(cake_client_wait(c, SOON_MS, &err), CAKE_EAUTH);
    assert_non_null(strstr(err.msg, "another cluster's key"));
    cake_msg *m = cake_msg_ping(0, 1, 0, false);
    assert_int_equal(cake_client_send(c, m, NULL), CAKE_EAGAIN);
    cake_msg_free(m);
    assert_null(server_get(s, 100));
    assert_true(STAT(refused_key) > before);
    cake_client_close(c);
    still_serves(s);
    cake_server_close(s);
}

static void insecure_mismatch(void **state) {
    (void)state;
    cake_server *s = serve(net), *o = serve(open_net);
    cake_client *c = dial(open_net, CAKE_LINK_ROLE_MASTER, s),
                *d = dial(net, CAKE_LINK_ROLE_MASTER, o);
    cake_error err = {0};
    assert_int_equal(cake_client_wait(c, SOON_MS, &err), CAKE_EAUTH);
    if (!strstr(err.msg, "wants encryption")) fail_msg("%s", err.msg);
    assert_int_equal(cake_client_wait(d, SOON_MS, &err), CAKE_EAUTH);
    assert_non_null(strstr(err.msg, "--insecure"));
    cake_client_close(c);
    cake_client_close(d);
    still_serves(s);
    c = dial(open_net, CAKE_LINK_ROLE_PEER, o);
    OK(cake_client_wait(c, SOON_MS, &error));
    exchange(o, c, CAKE_LINK_ROLE_ANY);
    cake_client_close(c);
    cake_server_close(s);
    cake_server_close(o);
}

/* ---- clients made by hand with libzmq ---- */

static void *raw_client(void *ctx, const cake_server *s, const cake_curve_pair *me,
                        const char *id) {
    char endpoint[128];
    int zero = 0, timeout = 300;
    void *c = zmq_socket(ctx, ZMQ_DEALER);
    zmq_setsockopt(c, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(c, ZMQ_SNDTIMEO, &timeout, sizeof timeout);
    if (me) {
        zmq_setsockopt(c, ZMQ_CURVE_SERVERKEY, keys.server.public_key, 32);
        zmq_setsockopt(c, ZMQ_CURVE_PUBLICKEY, me->public_key, 32);
        zmq_setsockopt(c, ZMQ_CURVE_SECRETKEY, me->secret_key, 32);
    }
    if (id) zmq_setsockopt(c, ZMQ_ROUTING_ID, id, strlen(id));
    snprintf(endpoint, sizeof endpoint, "tcp://%s", cake_server_address(s));
    assert_int_equal(zmq_connect(c, endpoint), 0);
    return c;
}

/* Knows the server's public key, yet is nobody: ZAP refuses. Also PLAIN. */
static void unknown_client_key(void **state) {
    (void)state;
    cake_server *s = serve(net);
    void *ctx = zmq_ctx_new();
    char pub[41], sec[41];
    cake_curve_pair me;
    uint64_t before = STAT(refused_key);
    zmq_curve_keypair(pub, sec);
    zmq_z85_decode(me.public_key, pub);
    zmq_z85_decode(me.secret_key, sec);
    void *c = raw_client(ctx, s, &me, NULL);
    zmq_send(c, "hello", 5, 0);
    assert_null(server_get(s, 300));
    assert_true(STAT(refused_key) > before);
    zmq_close(c);
    /* The worker's own key pair is no client's. */
    before = STAT(refused_key);
    c = raw_client(ctx, s, &keys.server, NULL);
    zmq_send(c, "hello", 5, 0);
    assert_null(server_get(s, 300));
    assert_true(STAT(refused_key) > before);
    zmq_close(c);
    c = zmq_socket(ctx, ZMQ_DEALER);
    int zero = 0;
    zmq_setsockopt(c, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(c, ZMQ_PLAIN_USERNAME, "master", 6);
    zmq_setsockopt(c, ZMQ_PLAIN_PASSWORD, "master", 6);
    char endpoint[128];
    snprintf(endpoint, sizeof endpoint, "tcp://%s", cake_server_address(s));
    zmq_connect(c, endpoint);
    zmq_send(c, "hello", 5, ZMQ_DONTWAIT);
    assert_null(server_get(s, 300));
    zmq_close(c);
    zmq_ctx_term(ctx);
    still_serves(s);
    cake_server_close(s);
}

static void peers_may_not(void **state) {
    (void)state;
    cake_server *s = serve(net);
    cake_client *p = dial(net, CAKE_LINK_ROLE_PEER, s), *m = dial(net, CAKE_LINK_ROLE_MASTER, s);
    OK(cake_client_wait(p, SOON_MS, &error));
    OK(cake_client_wait(m, SOON_MS, &error));
    uint64_t before = STAT(dropped);
    const cake_wire_hdr batch = {.kind = CAKE_MSG_BATCH}, result = {.kind = CAKE_MSG_RESULT};
    cake_msg *no[] = {cake_msg_control(0, 1, "{}", 2), cake_msg_chunk(1, 0, "x", 1),
                      cake_msg_credit(1, 1), cake_msg_rows(&result, NULL, NULL, NULL)};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) OK(cake_client_send(p, no[i], &error));
    OK(cake_client_send(p, cake_msg_rows(&batch, NULL, NULL, NULL), &error)); /* this it may */
    cake_msg *got = server_get(s, SOON_MS);
    assert_non_null(got);
    assert_int_equal(got->h.kind, CAKE_MSG_BATCH);
    cake_msg_free(got);
    assert_int_equal(STAT(dropped) - before, 4);
    OK(cake_client_send(m, cake_msg_control(0, 1, "{}", 2), &error));
    got = server_get(s, SOON_MS);
    assert_int_equal(got->h.kind, CAKE_MSG_CONTROL);
    /* Nor may a worker send bundle bytes to its master. */
    OK(cake_server_send(s, &got->from, cake_msg_chunk(1, 0, "x", 1), &error));
    OK(cake_server_send(s, &got->from, cake_msg_credit(1, 7), &error));
    cake_msg_free(got);
    got = client_get(m, SOON_MS);
    assert_int_equal(got->h.kind, CAKE_MSG_CREDIT);
    cake_msg_free(got);
    assert_int_equal(STAT(dropped) - before, 5);
    cake_client_close(p);
    cake_client_close(m);
    cake_server_close(s);
}

/* A peer that has the key and sends rubbish: dropped and counted, nothing delivered. */
static void malformed_messages(void **state) {
    (void)state;
    cake_server *s = serve(net);
    void *ctx = zmq_ctx_new(), *c = raw_client(ctx, s, &keys.master, NULL);
    uint64_t before = STAT(dropped);
    uint8_t b[4096];
    uint64_t n_sent = 0;
    cake_msg *good = cake_msg_ping(0, 1, 100, false);
    const uint8_t *g = good->frames[0].data;
    for (size_t n = 0; n < good->frames[0].len; n++, n_sent++)
        assert_true(zmq_send(c, g, n, 0) == (int)n);
    for (size_t i = 0; i < 200; i++, n_sent++) {
        attack_noise(b, sizeof b, i);
        zmq_send(c, b, i * 20, 0);
    }
    zmq_send(c, g, good->frames[0].len, ZMQ_SNDMORE); /* more frames than it says */
    for (int i = 0; i < 1500; i++) zmq_send(c, "x", 1, ZMQ_SNDMORE);
    zmq_send(c, "", 0, 0);
    n_sent++;
    memcpy(b, g, 64); /* claims 1,000 frames, sends two */
    b[5] = CAKE_MSG_BATCH;
    b[44] = 0xe8, b[45] = 3;
    zmq_send(c, b, 64, ZMQ_SNDMORE);
    zmq_send(c, b, 64, 0);
    n_sent++;
    /* A message of the right size at last: proof that all before were read. */
    zmq_send(c, g, good->frames[0].len, 0);
    cake_msg *m = server_get(s, SOON_MS);
    assert_non_null(m);
    assert_true(m->h.id == 1);
    cake_msg_free(m);
    assert_int_equal(STAT(dropped) - before, n_sent);
    /* A frame above the cap ends the connection, not the process. */
    char *big = calloc(1, CAKE_FRAME_MAX + 100);
    zmq_send(c, big, CAKE_FRAME_MAX + 100, 0);
    free(big);
    assert_null(server_get(s, 300));
    zmq_close(c);
    /* Routing ids of their own choice: fitting ones work, long ones are dropped, duplicates
     * refused. */
    char id[256];
    memset(id, 'i', sizeof id);
    id[255] = 0;
    c = raw_client(ctx, s, &keys.master, id);
    before = STAT(dropped);
    zmq_send(c, g, good->frames[0].len, 0);
    assert_null(server_get(s, 300));
    assert_int_equal(STAT(dropped) - before, 1);
    zmq_close(c);
    void *c1 = raw_client(ctx, s, &keys.master, "same");
    zmq_send(c1, g, good->frames[0].len, 0);
    m = server_get(s, SOON_MS);
    assert_int_equal(m->from.len, 4);
    void *c2 = raw_client(ctx, s, &keys.peer, "same"); /* does not take over */
    zmq_send(c2, g, good->frames[0].len, 0);
    assert_null(server_get(s, 200));
    OK(cake_server_send(s, &m->from, cake_msg_pong(m), &error));
    assert_true(readable(c1, 5000));
    assert_false(readable(c2, 50));
    cake_msg_free(m);
    zmq_close(c1);
    zmq_close(c2);
    zmq_ctx_term(ctx);
    cake_msg_free(good);
    still_serves(s);
    cake_server_close(s);
}

/* ---- raw TCP ---- */

static void attacks(void **state) {
    (void)state;
    cake_server *s = serve(net);
    cake_client *c =
        dial(net, CAKE_LINK_ROLE_MASTER, s); /* an honest client in the middle of it all */
    OK(cake_client_wait(c, SOON_MS, &error));
    exchange(s, c, CAKE_LINK_ROLE_MASTER);
    uint64_t accepted = STAT(accepted), before = cake_mem_resident();
    (void)before;
    for (int i = 0; attack_kinds[i]; i++) {
        size_t got;
        int fd = attack_run("127.0.0.1", cake_server_port(s), attack_kinds[i]);
        assert_true(fd >= 0);
        bool closed = attack_is_closed(fd, HANDSHAKE_MS + SOON_MS, &got);
        close(fd);
        if (!closed) fail_msg("the server does not hang up on '%s'", attack_kinds[i]);
        assert_null(server_get(s, 0));
        exchange(s, c, CAKE_LINK_ROLE_MASTER);
    }
    assert_true(STAT(accepted) == accepted);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(cake_mem_resident() < before + (16 << 20));
#endif
    cake_client_close(c);
    still_serves(s);
    cake_server_close(s);
}

/* What a rightful client said, said again; and to that client, what the server said. */
static void replay(void **state) {
    (void)state;
    cake_server *s = serve(net);
    struct attack_tap *t = malloc(sizeof *t);
    assert_true(attack_tap_start(t, cake_server_port(s)));
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)t->port);
    cake_client *c;
    OK(cake_client_open(&c, net, CAKE_LINK_ROLE_MASTER, address, &error));
    OK(cake_client_wait(c, SOON_MS, &error));
    OK(cake_client_send(c, cake_msg_control(0, 1, "{\"verb\":\"load\"}", 15), &error));
    cake_msg *m = server_get(s, SOON_MS);
    assert_non_null(m);
    cake_msg_free(m);
    cake_client_close(c);
    attack_tap_stop(t);
    assert_true(t->n_client > 64 + 200 + 15 && t->n_server > 64);
    uint64_t accepted = STAT(accepted);
    for (int chunk = 1; chunk <= 2; chunk++) { /* at once, and step by step as the server answers */
        int fd = attack_connect("127.0.0.1", cake_server_port(s));
        size_t got;
        if (chunk == 1)
            attack_send(fd, t->client, t->n_client);
        else
            for (size_t at = 0; at < t->n_client; at += 200) {
                size_t n = t->n_client - at < 200 ? t->n_client - at : 200;
                if (attack_send(fd, t->client + at, n) < n) break;
                usleep(20000);
            }
        assert_true(attack_is_closed(fd, HANDSHAKE_MS + SOON_MS, &got));
        close(fd);
        assert_null(server_get(s, 50));
    }
    assert_true(STAT(accepted) == accepted);
    /* A false server with a recording: the client must not believe it. */
    uint16_t port = 0;
    int listener = attack_listen(&port);
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    OK(cake_client_open(&c, net, CAKE_LINK_ROLE_MASTER, address, &error));
    int fd = accept(listener, NULL, NULL);
    attack_send(fd, t->server, t->n_server);
    cake_error why = {0};
    int64_t end = cake_now_ms() + 500;
    while (cake_now_ms() < end) {
        assert_true(cake_client_state(c, &why) != CAKE_LINK_READY);
        usleep(10000);
    }
    assert_int_equal(cake_client_generation(c), 0);
    cake_client_close(c);
    close(fd);
    close(listener);
    free(t);
    still_serves(s);
    cake_server_close(s);
}

static int open_files(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* Half-open connections without end: bounded in number and memory, and the honest get through. */
static void slow_loris(void **state) {
    (void)state;
    enum { N = 700 };
    uint64_t n_opened = 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < 3 * N) {
        print_message("skip: %u file descriptors are needed\n", 3 * N);
        skip();
    }
    cake_server *s = serve(net);
    cake_client *c = dial(net, CAKE_LINK_ROLE_MASTER, s);
    OK(cake_client_wait(c, SOON_MS, &error));
    uint64_t before = cake_mem_resident(), refused = STAT(refused_other);
    int fd[N], files_before = open_files();
    uint8_t g[64];
    attack_greeting(g, "CURVE", false);
    for (int i = 0; i < N; i++) {
        fd[i] = attack_connect("127.0.0.1", cake_server_port(s));
        if (fd[i] >= 0) n_opened++, attack_send(fd[i], g, 20);
        if (i % 100 == 0) exchange(s, c, CAKE_LINK_ROLE_MASTER);
        assert_true(open_files() <
                    files_before + i + 560); /* 512 connections, and some being closed */
    }
    exchange(s, c, CAKE_LINK_ROLE_MASTER);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(cake_mem_resident() < before + (64 << 20));
#endif
    (void)before;
    for (int i = 0; i < N; i++) {
        size_t got;
        if (fd[i] < 0) continue;
        assert_true(attack_is_closed(fd[i], HANDSHAKE_MS + SOON_MS, &got));
        close(fd[i]);
    }
    /* The server hears of each from libzmq a little later than the peer does. */
    for (int64_t end = cake_now_ms() + SOON_MS; STAT(refused_other) - refused < n_opened;) {
        assert_true(cake_now_ms() < end);
        usleep(10000);
    }
    cake_client_close(c);
    still_serves(s);
    cake_server_close(s);
}

/* ---- connections ---- */

static void unreachable(void **state) {
    (void)state;
    uint16_t port = 0;
    char address[64];
    cake_client *c;
    cake_error err = {0};
    int listener = attack_listen(&port);
    close(listener); /* a port where nobody listens */
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    OK(cake_client_open(&c, net, CAKE_LINK_ROLE_MASTER, address, &error));
    assert_int_equal(cake_client_wait(c, 500, &err), CAKE_EUNAVAIL);
    assert_int_equal(cake_client_state(c, NULL), CAKE_LINK_UNREACHABLE);
    assert_non_null(strstr(err.msg, "nobody listens"));
    cake_client_close(c);
    /* One that accepts and says nothing is not a refusal. */
    listener = attack_listen(&port);
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    OK(cake_client_open(&c, net, CAKE_LINK_ROLE_MASTER, address, &error));
    assert_int_equal(cake_client_wait(c, 3 * HANDSHAKE_MS, &err), CAKE_EUNAVAIL);
    assert_int_equal(cake_client_state(c, NULL), CAKE_LINK_UNREACHABLE);
    cake_client_close(c);
    close(listener);
}

static void reconnects(void **state) {
    (void)state;
    cake_server *s = serve(net);
    char address[64];
    snprintf(address, sizeof address, "%s", cake_server_address(s));
    cake_client *c = dial(net, CAKE_LINK_ROLE_MASTER, s);
    OK(cake_client_wait(c, SOON_MS, &error));
    exchange(s, c, CAKE_LINK_ROLE_MASTER);
    cake_server_close(s);
    int64_t end = cake_now_ms() + SOON_MS;
    while (cake_client_state(c, NULL) == CAKE_LINK_READY && cake_now_ms() < end) usleep(5000);
    assert_int_equal(cake_client_state(c, NULL), CAKE_LINK_LOST);
    cake_msg *m = cake_msg_ping(0, 1, 0, false);
    assert_int_equal(cake_client_send(c, m, NULL), CAKE_EAGAIN); /* nothing is kept for later */
    cake_msg_free(m);
    OK(cake_server_open(&s, net, address, &error));
    OK(cake_client_wait(c, SOON_MS, &error));
    assert_int_equal(cake_client_generation(c), 2);
    exchange(s, c, CAKE_LINK_ROLE_MASTER);
    cake_client_close(c);
    cake_server_close(s);
}

static void queues_are_bounded(void **state) {
    (void)state;
    cake_net *n;
    OK(cake_net_open(&n, &(cake_net_options){.keys = &keys, .queue_messages = 4}, &error));
    cake_server *s = serve(n);
    cake_client *c = dial(n, CAKE_LINK_ROLE_MASTER, s);
    OK(cake_client_wait(c, SOON_MS, &error));
    unsigned sent = 0;
    cake_status st = CAKE_OK;
    cake_msg *m = NULL;
    int64_t end = cake_now_ms() + SOON_MS;
    int64_t stuck_since = 0;
    while (cake_now_ms() < end) { /* nobody reads: it must stop */
        if (!m) m = cake_msg_ping(0, sent, 1 << 20, false);
        st = cake_client_send(c, m, NULL);
        if (st == CAKE_OK) {
            m = NULL;
            sent++;
            stuck_since = 0;
            assert_true(sent < 100);
        } else {
            assert_int_equal(st, CAKE_EAGAIN);
            if (!stuck_since) stuck_since = cake_now_ms();
            if (cake_now_ms() - stuck_since > 300) break;
            usleep(1000);
        }
    }
    assert_int_equal(st, CAKE_EAGAIN);
    for (unsigned i = 0; i < sent; i++) { /* all arrive, in order */
        cake_msg *got = server_get(s, SOON_MS);
        assert_non_null(got);
        assert_true(got->h.id == i);
        if (i == 0) { /* and the way back: full, then gone */
            unsigned back = 0;
            cake_msg *b = NULL;
            for (int idle = 0; idle < 300;) {
                if (!b) b = cake_msg_ping(0, back, 1 << 20, false);
                st = cake_server_send(s, &got->from, b, NULL);
                if (st == CAKE_OK)
                    b = NULL, back++, idle = 0;
                else
                    idle++, usleep(1000);
                assert_true(back < 100);
            }
            assert_int_equal(st, CAKE_EAGAIN);
            cake_msg_free(b);
        }
        if (i + 1 == sent) {
            cake_client_close(c);
            end = cake_now_ms() + SOON_MS;
            cake_msg *b = cake_msg_credit(1, 1);
            while ((st = cake_server_send(s, &got->from, b, NULL)) != CAKE_EUNAVAIL &&
                   cake_now_ms() < end) {
                if (st == CAKE_OK) b = cake_msg_credit(1, 1);
                assert_null(server_get(s, 1)); /* reading is what finds the end of a connection */
            }
            assert_int_equal(st, CAKE_EUNAVAIL);
            cake_msg_free(b);
        }
        cake_msg_free(got);
    }
    cake_msg_free(m);
    cake_server_close(s);
    cake_net_close(n);
}

/* A prefill's worth of activations, many frames, whole and in order, over both transports. */
static void big_messages(void **state) {
    (void)state;
    const char *where[] = {"127.0.0.1:0", "inproc://worker"};
    for (int i = 0; i < 2; i++) {
        enum { ROWS = 600, WIDTH = 4096 };
        cake_server *s;
        OK(cake_server_open(&s, net, where[i], &error));
        cake_client *c = dial(net, CAKE_LINK_ROLE_MASTER, s);
        OK(cake_client_wait(c, SOON_MS, &error));
        const cake_wire_hdr h = {.kind = CAKE_MSG_BATCH,
                                 .dtype = CAKE_WIRE_F32,
                                 .n_rows = ROWS,
                                 .width = WIDTH,
                                 .id = 5};
        cake_row *rows = calloc(ROWS, sizeof *rows);
        for (uint32_t r = 0; r < ROWS; r++) rows[r].pos = r;
        for (int k = 0; k < 3; k++) {
            cake_msg *m = cake_msg_rows(&h, rows, NULL, NULL);
            for (uint32_t r = 0; r < ROWS; r++) attack_noise(cake_msg_values(m, r), WIDTH * 4, r);
            OK(cake_client_send(c, m, &error));
        }
        free(rows);
        uint8_t want[WIDTH * 4];
        for (int k = 0; k < 3; k++) {
            cake_msg *m = server_get(s, SOON_MS);
            assert_non_null(m);
            assert_int_equal(m->role, CAKE_LINK_ROLE_MASTER);
            assert_true(m->h.n_frames > 8 && m->h.n_rows == ROWS);
            for (uint32_t r = 0; r < ROWS; r += 37) {
                attack_noise(want, sizeof want, r);
                assert_memory_equal(cake_wire_values(&m->h, m->frames, r), want, sizeof want);
                assert_int_equal(cake_msg_row(m, r).pos, r);
            }
            if (k == 2) { /* passed on as it is */
                cake_msg_set_stage(m, 3);
                cake_peer to = m->from;
                OK(cake_server_send(s, &to, m, &error));
            } else {
                cake_msg_free(m);
            }
        }
        cake_msg *m = client_get(c, SOON_MS);
        assert_non_null(m);
        assert_int_equal(m->h.stage, 3);
        attack_noise(want, sizeof want, ROWS - 1);
        assert_memory_equal(cake_wire_values(&m->h, m->frames, ROWS - 1), want, sizeof want);
        cake_msg_free(m);
        cake_client_close(c);
        cake_server_close(s);
    }
}

/* A message taken on one thread and answered from what another made of it. */
struct hand {
    pthread_mutex_t lock;
    pthread_cond_t more;
    cake_msg *in, *out;
};
static void *engine(void *arg) {
    struct hand *h = arg;
    for (int i = 0; i < 50; i++) {
        pthread_mutex_lock(&h->lock);
        while (!h->in) pthread_cond_wait(&h->more, &h->lock);
        cake_msg *m = h->in;
        h->in = NULL;
        pthread_mutex_unlock(&h->lock);
        cake_msg *r = cake_msg_pong(m);
        cake_msg_free(m);
        pthread_mutex_lock(&h->lock);
        h->out = r;
        pthread_cond_signal(&h->more);
        pthread_mutex_unlock(&h->lock);
    }
    return NULL;
}
static void threads(void **state) {
    (void)state;
    cake_server *s = serve(net);
    cake_client *c = dial(net, CAKE_LINK_ROLE_MASTER, s);
    OK(cake_client_wait(c, SOON_MS, &error));
    struct hand h = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, engine, &h), 0);
    for (uint64_t i = 0; i < 50; i++) {
        OK(cake_client_send(c, cake_msg_ping(0, i, 1000, true), &error));
        cake_msg *m = server_get(s, SOON_MS);
        assert_non_null(m);
        cake_peer from = m->from;
        pthread_mutex_lock(&h.lock);
        h.in = m;
        pthread_cond_signal(&h.more);
        while (!h.out) pthread_cond_wait(&h.more, &h.lock);
        m = h.out;
        h.out = NULL;
        pthread_mutex_unlock(&h.lock);
        OK(cake_server_send(s, &from, m, &error));
        m = client_get(c, SOON_MS);
        assert_true(m->h.id == i && m->h.payload_bytes == 1000);
        cake_msg_free(m);
    }
    pthread_join(t, NULL);
    cake_client_close(c);
    cake_server_close(s);
}

/* The books of what was received and taken balance: a link may carry any number of messages. */
static void backlog_is_exact(void **state) {
    (void)state;
    for (int secure = 0; secure < 2; secure++) {
        cake_net *n;
        OK(cake_net_open(&n,
                         &(cake_net_options){.keys = secure ? &keys : NULL, .backlog_bytes = 12000},
                         &error));
        cake_server *s = serve(n);
        cake_client *c = dial(n, CAKE_LINK_ROLE_MASTER, s);
        OK(cake_client_wait(c, SOON_MS, &error));
        int64_t end = cake_now_ms() + 700;
        for (int i = 0; i < 1000 || cake_now_ms() < end; i++)
            exchange(s, c, secure ? CAKE_LINK_ROLE_MASTER : CAKE_LINK_ROLE_ANY);
        cake_net_stats st;
        cake_net_stats_get(n, &st);
        assert_int_equal(st.dropped, 0);
        assert_int_equal(cake_client_generation(c), 1);
        cake_client_close(c);
        cake_server_close(s);
        cake_net_close(n);
    }
}

/* A message that never ends, from somebody who was let in (libzmq's own sockets hold such a message
 * back, so this one speaks ZMTP by hand): its connection is cut, memory stays bounded. */
static void endless_message(void **state) {
    (void)state;
    cake_net *n;
    OK(cake_net_open(&n, &(cake_net_options){.backlog_bytes = 64 << 20}, &error));
    cake_server *s = serve(n);
    cake_client *c = dial(n, CAKE_LINK_ROLE_MASTER, s);
    OK(cake_client_wait(c, SOON_MS, &error));
    uint64_t before = cake_mem_resident(), sent = 0;
    enum { BLOCK = 1 << 20 };
    uint8_t g[64], command[64], *block = calloc(1, 9 + BLOCK);
    int fd = attack_connect("127.0.0.1", cake_server_port(s));
    attack_greeting(g, "NULL", false);
    attack_send(fd, g, sizeof g);
    attack_send(fd, command,
                attack_command(command, "READY", "\013Socket-Type\0\0\0\006DEALER", 22));
    for (size_t got = 0; got < 64 + 30;) { /* the server's READY: it is through with ZAP */
        ssize_t r = recv(fd, command, sizeof command, 0);
        assert_true(r > 0);
        got += (size_t)r;
    }
    block[0] = 3; /* long frame, more to follow */
    block[6] = BLOCK >> 16;
    cake_net_stats st;
    int64_t end = cake_now_ms() + SOON_MS;
    do {
        size_t did = attack_send(fd, block, 9 + BLOCK);
        sent += did;
        if (did < 9 + BLOCK) break;
        if (sent % 16 == 0) exchange(s, c, CAKE_LINK_ROLE_ANY);
        usleep(2000); /* at 500 MB/s the guard has time to see it */
    } while (cake_now_ms() < end);
    /* The connection is cut first and counted a moment later. */
    while (cake_net_stats_get(n, &st), st.dropped == 0 && cake_now_ms() < end) usleep(2000);
    assert_int_equal(st.dropped, 1);
    assert_true(sent > 64 << 20);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(cake_mem_resident() < before + ((uint64_t)512 << 20));
#endif
    (void)before;
    assert_null(server_get(s, 50));
    exchange(s, c, CAKE_LINK_ROLE_ANY); /* the honest one is not the one that is cut */
    assert_int_equal(cake_client_generation(c), 1);
    free(block);
    close(fd);
    cake_client_close(c);
    cake_server_close(s);
    cake_net_close(n);
}

static void addresses(void **state) {
    (void)state;
    static const struct {
        const char *text, *host;
        int port;
    } good[] = {{"10.0.0.1:5555", "10.0.0.1", 5555},
                {"[::1]:1", "::1", 1},
                {"[fe80::1%eth0]:7", "fe80::1%eth0", 7},
                {":0", "", 0},
                {"*:65535", "*", 65535},
                {"a-b.local:80", "a-b.local", 80}};
    static const char *const bad[] = {"",
                                      "host",
                                      "host:",
                                      "host:65536",
                                      "host:-1",
                                      "host:1x",
                                      "::1:80",
                                      "a b:1",
                                      "a;b:1",
                                      "a/b:1",
                                      "h:99999999999999999999",
                                      "[::1]"};
    char host[256];
    uint16_t port = 0;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(cake_address_parse(good[i].text, host, &port, NULL), CAKE_OK);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(cake_address_parse(bad[i], host, &port, NULL), CAKE_EINVAL);
    cake_server *s = serve(net), *t = NULL;
    cake_error err = {0};
    assert_int_equal(cake_server_open(&t, net, cake_server_address(s), &err), CAKE_EUNAVAIL);
    assert_non_null(strstr(err.msg, "in use"));
    assert_int_equal(cake_server_open(&t, net, "192.0.2.1:0", &err), CAKE_EUNAVAIL);
    assert_non_null(strstr(err.msg, "not an address of this machine"));
    cake_client *c = NULL;
    assert_int_equal(cake_client_open(&c, net, CAKE_LINK_ROLE_MASTER, "*:1", &err), CAKE_EINVAL);
    assert_int_equal(cake_client_open(&c, net, CAKE_LINK_ROLE_MASTER, "127.0.0.1:0", &err),
                     CAKE_EINVAL);
    assert_int_equal(cake_client_open(&c, net, CAKE_LINK_ROLE_SERVER, "127.0.0.1:1", &err),
                     CAKE_EINVAL);
    cake_server_close(s);
    /* Every family and by name. */
    const char *at[] = {"*:0", "0.0.0.0:0", "localhost:0", "[::1]:0"};
    const char *reach[] = {"127.0.0.1", "localhost", "localhost", "[::1]"};
    for (int i = 0; i < 4; i++) {
        if (i == 3) {
            int fd = socket(AF_INET6, SOCK_STREAM, 0);
            struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
            bool v6 = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
            if (fd >= 0) close(fd);
            if (!v6) continue;
        }
        char to[300];
        OK(cake_server_open(&s, net, at[i], &error));
        snprintf(to, sizeof to, "%s:%u", reach[i], (unsigned)cake_server_port(s));
        OK(cake_client_open(&c, net, CAKE_LINK_ROLE_PEER, to, &error));
        OK(cake_client_wait(c, SOON_MS, &error));
        exchange(s, c, CAKE_LINK_ROLE_PEER);
        cake_client_close(c);
        cake_server_close(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_key),         cmocka_unit_test(wrong_key),
        cmocka_unit_test(insecure_mismatch), cmocka_unit_test(unknown_client_key),
        cmocka_unit_test(peers_may_not),     cmocka_unit_test(malformed_messages),
        cmocka_unit_test(attacks),           cmocka_unit_test(replay),
        cmocka_unit_test(slow_loris),        cmocka_unit_test(unreachable),
        cmocka_unit_test(reconnects),        cmocka_unit_test(queues_are_bounded),
        cmocka_unit_test(big_messages),      cmocka_unit_test(threads),
        cmocka_unit_test(backlog_is_exact),  cmocka_unit_test(endless_message),
        cmocka_unit_test(addresses)};
    if (getenv("CAKE_TEST"))
        cmocka_set_test_filter(getenv("CAKE_TEST")); /* one by name, for debugging */
    return cmocka_run_group_tests_name("link", tests, setup, teardown);
}
