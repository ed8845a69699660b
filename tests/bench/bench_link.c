/* Links: round trip of one row of activations between two threads, and bundle bytes per second,
 * encrypted over loopback TCP and plain over inproc. JSON lines:
 *   {"bench":"hop","transport":"tcp+curve","bytes":16384,"value":..,"p90":..,"unit":"us one way"}
 *   {"bench":"chunk","transport":..,"value":..,"unit":"MB/s"} */
#include "common/clock.h"
#include "common/log.h"
#include "proto/link.h"
#include "proto/transfer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

static atomic_bool stopping;
static cake_server *server;

/* Sends every BATCH back; swallows CHUNKs and grants credit as a store would. */
static void *serve(void *arg) {
    (void)arg;
    uint64_t got = 0;
    while (!atomic_load(&stopping)) {
        zmq_pollitem_t p = {.socket = cake_server_socket(server), .events = ZMQ_POLLIN};
        zmq_poll(&p, 1, 50);
        cake_msg *m;
        while (cake_server_recv(server, &m, NULL) == CAKE_OK) {
            cake_peer to = m->from;
            if (m->h.kind == CAKE_MSG_CHUNK) {
                uint64_t before = got / (CAKE_TRANSFER_WINDOW / 4);
                got = m->h.arg + m->h.payload_bytes;
                cake_msg_free(m);
                if (got / (CAKE_TRANSFER_WINDOW / 4) == before) continue;
                m = cake_msg_credit(1, got + CAKE_TRANSFER_WINDOW);
            }
            if (cake_server_send(server, &to, m, NULL) != CAKE_OK) cake_msg_free(m);
        }
    }
    return NULL;
}

static cake_msg *wait_message(cake_client *c) {
    cake_msg *m;
    while (cake_client_recv(c, &m, NULL) != CAKE_OK) {
        zmq_pollitem_t p = {.socket = cake_client_socket(c), .events = ZMQ_POLLIN};
        zmq_poll(&p, 1, 1000);
    }
    return m;
}

static int compare(const void *a, const void *b) {
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static void hops(cake_client *c, const char *transport, uint32_t rows, uint32_t width) {
    enum { N = 1000, WARM = 100 };
    static uint64_t t[N];
    const cake_wire_hdr h = {
        .kind = CAKE_MSG_BATCH, .dtype = CAKE_WIRE_F32, .n_rows = rows, .width = width};
    cake_row *row = calloc(rows, sizeof *row);
    float *x = calloc(width, sizeof *x), *y = calloc(width, sizeof *y);
    for (int i = -WARM; i < N; i++) {
        uint64_t start = cake_now_ns();
        cake_msg *m = cake_msg_rows(&h, row, NULL, NULL);
        for (uint32_t r = 0; r < rows; r++)
            cake_act_pack(cake_msg_values(m, r), x, width, CAKE_WIRE_F32);
        while (cake_client_send(c, m, NULL) != CAKE_OK) continue;
        m = wait_message(c);
        for (uint32_t r = 0; r < rows; r++)
            cake_act_unpack(y, cake_wire_values(&m->h, m->frames, r), width, CAKE_WIRE_F32);
        cake_msg_free(m);
        if (i >= 0) t[i] = cake_now_ns() - start;
    }
    qsort(t, N, sizeof *t, compare);
    printf("{\"bench\":\"hop\",\"transport\":\"%s\",\"rows\":%u,\"bytes\":%u,\"value\":%.1f,"
           "\"p90\":%.1f,\"unit\":\"us one "
           "way\"}\n",
           transport, rows, rows * width * 4, (double)t[N / 2] / 2e3, (double)t[N * 9 / 10] / 2e3);
    free(row);
    free(x);
    free(y);
}

static void chunks(cake_client *c, const char *transport) {
    const uint64_t total = (uint64_t)512 << 20;
    uint8_t *data = calloc(1, CAKE_TRANSFER_CHUNK);
    uint64_t at = 0, credit = CAKE_TRANSFER_WINDOW, start = cake_now_ns();
    while (at < total) {
        cake_msg *m;
        if (at < credit) {
            m = cake_msg_chunk(1, at, data, CAKE_TRANSFER_CHUNK);
            if (cake_client_send(c, m, NULL) == CAKE_OK) {
                at += CAKE_TRANSFER_CHUNK;
                continue;
            }
            cake_msg_free(m);
        }
        m = wait_message(c);
        if (m->h.kind == CAKE_MSG_CREDIT) credit = m->h.arg;
        cake_msg_free(m);
    }
    while (credit < total) {
        cake_msg *m = wait_message(c);
        if (m->h.kind == CAKE_MSG_CREDIT) credit = m->h.arg;
        cake_msg_free(m);
    }
    double s = (double)(cake_now_ns() - start) / 1e9;
    printf("{\"bench\":\"chunk\",\"transport\":\"%s\",\"value\":%.0f,\"unit\":\"MB/s\"}\n",
           transport, (double)total / 1e6 / s);
    free(data);
}

int main(void) {
    cake_error err;
    cake_cluster_key k;
    cake_keys keys;
    cake_log_min = CAKE_LOG_ERROR;
    if (cake_key_create(&k, &err) != CAKE_OK || cake_keys_derive(&keys, &k, &err) != CAKE_OK)
        return 1;
    static const struct {
        const char *name, *address;
        bool secure;
    } how[] = {{"tcp+curve", "127.0.0.1:0", true},
               {"tcp", "127.0.0.1:0", false},
               {"inproc", "inproc://worker", true}};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        /* Two of them, as in two processes: encryption and decryption have a thread each. */
        cake_net *n, *far;
        const cake_net_options o = {.keys = how[i].secure ? &keys : NULL};
        bool same = how[i].address[0] == 'i';
        cake_client *c;
        pthread_t t;
        if (cake_net_open(&n, &o, &err) != CAKE_OK || cake_net_open(&far, &o, &err) != CAKE_OK ||
            cake_server_open(&server, same ? n : far, how[i].address, &err) != CAKE_OK ||
            cake_client_open(&c, n, CAKE_LINK_ROLE_MASTER, cake_server_address(server), &err) !=
                CAKE_OK ||
            cake_client_wait(c, 5000, &err) != CAKE_OK) {
            fprintf(stderr, "bench_link: %s\n", err.msg);
            return 1;
        }
        atomic_store(&stopping, false);
        if (pthread_create(&t, NULL, serve, NULL) != 0) return 1;
        hops(c, how[i].name, 1, 2048);
        hops(c, how[i].name, 1, 4096);
        hops(c, how[i].name, 64, 4096);
        chunks(c, how[i].name);
        atomic_store(&stopping, true);
        pthread_join(t, NULL);
        cake_client_close(c);
        cake_server_close(server);
        cake_net_close(n);
        cake_net_close(far);
    }
    return 0;
}
