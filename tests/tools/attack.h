/* Hostile clients over raw TCP, for test_link.c and the attack program: they speak just enough
 * ZMTP 3.1 to reach each step of the handshake and then do something else. */
#ifndef CAKE_TESTS_ATTACK_H
#define CAKE_TESTS_ATTACK_H

#include "common/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* -1 when refused. */
static inline int attack_connect(const char *host, uint16_t port) {
    char service[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list = NULL;
    snprintf(service, sizeof service, "%u", (unsigned)port);
    if (getaddrinfo(host, service, &hints, &list) != 0) return -1;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) != 0) close(fd), fd = -1;
    freeaddrinfo(list);
    return fd;
}

/* All of it, or until the other side has closed or takes no more for a second. */
static inline size_t attack_send(int fd, const void *data, size_t n) {
    size_t done = 0;
    while (done < n) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (poll(&p, 1, 1000) <= 0) break;
        ssize_t r = send(fd, (const char *)data + done, n - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) break;
        done += (size_t)r;
    }
    return done;
}

/* Read until the other side closes; false when it has not within timeout_ms. *got: bytes received.
 */
static inline bool attack_is_closed(int fd, int timeout_ms, size_t *got) {
    int64_t end = cake_now_ms() + timeout_ms;
    *got = 0;
    for (;;) {
        int64_t left = end - cake_now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) == 0) return false;
        char buf[4096];
        ssize_t r = recv(fd, buf, sizeof buf, 0);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return true;
        *got += (size_t)r;
    }
}

/* The 64-byte greeting of ZMTP 3.1. */
static inline void attack_greeting(uint8_t out[64], const char *mechanism, bool as_server) {
    memset(out, 0, 64);
    out[0] = 0xff;
    out[8] = 1;
    out[9] = 0x7f;
    out[10] = 3;
    out[11] = 1;
    memcpy(out + 12, mechanism, strnlen(mechanism, 20));
    out[32] = as_server;
}

/* A command frame (flags 4) of a name and body; returns its length. */
static inline size_t attack_command(uint8_t *out, const char *name, const void *body, size_t n) {
    size_t l = strlen(name), size = 1 + l + n, at = 0;
    if (size > 255) {
        out[at++] = 6;
        for (int i = 7; i >= 0; i--) out[at++] = (uint8_t)((uint64_t)size >> (8 * i));
    } else {
        out[at++] = 4;
        out[at++] = (uint8_t)size;
    }
    out[at++] = (uint8_t)l;
    memcpy(out + at, name, l);
    if (n) memcpy(out + at + l, body, n);
    return at + l + n;
}

static inline void attack_noise(uint8_t *out, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        out[i] = (uint8_t)(seed >> 56);
    }
}

static const char *const attack_kinds[] = {
    "close",    /* connect and go */
    "noise",    /* random bytes */
    "http",     /* a web browser lost its way */
    "silent",   /* connect and say nothing */
    "null",     /* the NULL mechanism */
    "plain",    /* PLAIN with a user and password */
    "server",   /* CURVE, but claiming to be the server too */
    "hello",    /* a CURVE hello of noise */
    "short",    /* a CURVE hello cut short, then a message */
    "early",    /* application messages before any handshake */
    "huge",     /* a handshake frame of 512 MiB, as much of it as is taken */
    "max",      /* a frame length of 2^63 - 1 */
    "reflect",  /* send back whatever the server says */
    "initiate", /* skip to INITIATE */
    "ping",     /* heartbeats before the handshake */
    "old",      /* ZMTP 2.0, which had no security */
    "older",    /* ZMTP 1.0 */
    NULL};

/* Do one; returns the socket, still open, or -1. */
static inline int attack_run(const char *host, uint16_t port, const char *kind) {
    int fd = attack_connect(host, port);
    if (fd < 0) return -1;
    uint8_t g[64], b[4096], c[4400];
    bool is_null = strcmp(kind, "null") == 0;
    memset(b, 0, sizeof b);
    attack_greeting(g,
                    is_null                      ? "NULL"
                    : strcmp(kind, "plain") == 0 ? "PLAIN"
                                                 : "CURVE",
                    strcmp(kind, "server") == 0);
    if (strcmp(kind, "close") == 0) {
        shutdown(fd, SHUT_RDWR);
    } else if (strcmp(kind, "noise") == 0) {
        attack_noise(b, sizeof b, (uint64_t)cake_now_ns());
        attack_send(fd, b, sizeof b);
    } else if (strcmp(kind, "http") == 0) {
        static const char get[] = "GET / HTTP/1.1\r\nHost: worker\r\nUser-Agent: lost\r\n\r\n";
        attack_send(fd, get, sizeof get - 1);
    } else if (strcmp(kind, "silent") == 0) {
    } else if (strcmp(kind, "old") == 0) {
        static const uint8_t v2[] = {0xff, 0, 0, 0, 0, 0, 0,   0,   1,   0x7f,
                                     1,    5, 0, 0, 0, 4, 'e', 'v', 'i', 'l'};
        attack_send(fd, v2, sizeof v2);
    } else if (strcmp(kind, "older") == 0) {
        static const uint8_t v1[] = {1,   0,   5,   0,   'e', 'v', 'i', 'l', 5,   0,
                                     'e', 'v', 'i', 'l', 5,   0,   'e', 'v', 'i', 'l'};
        attack_send(fd, v1, sizeof v1);
    } else if (strcmp(kind, "reflect") == 0) {
        int64_t end = cake_now_ms() + 3000;
        attack_send(fd, g, 11); /* the server sends its own greeting only after it saw ours begin */
        while (cake_now_ms() < end) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            if (poll(&p, 1, 200) <= 0) continue;
            ssize_t r = recv(fd, b, sizeof b, 0);
            if (r <= 0) break;
            attack_send(fd, b, (size_t)r);
        }
    } else {
        attack_send(fd, g, sizeof g);
        if (is_null) {
            attack_send(fd, c, attack_command(c, "READY", "\013Socket-Type\0\0\0\006DEALER", 22));
            attack_send(fd, "\0\5hello", 7);
        } else if (strcmp(kind, "plain") == 0) {
            attack_send(fd, c, attack_command(c, "HELLO", "\5admin\5admin", 12));
        } else if (strcmp(kind, "hello") == 0 || strcmp(kind, "server") == 0) {
            attack_noise(b, 194, (uint64_t)cake_now_ns());
            b[0] = 1, b[1] = 0;
            memset(b + 2, 0, 72);
            attack_send(fd, c, attack_command(c, "HELLO", b, 194));
        } else if (strcmp(kind, "short") == 0) {
            attack_send(fd, c, attack_command(c, "HELLO", b, 10));
            attack_send(fd, "\0\5hello", 7);
        } else if (strcmp(kind, "early") == 0) {
            attack_send(fd, "\0\5hello", 7);
            attack_send(fd, c, attack_command(c, "MESSAGE", b, 64));
        } else if (strcmp(kind, "ping") == 0) {
            for (int i = 0; i < 100; i++)
                attack_send(fd, c, attack_command(c, "PING", b, (size_t)(i % 4)));
        } else if (strcmp(kind, "initiate") == 0) {
            attack_noise(b, 400, 7);
            attack_send(fd, c, attack_command(c, "INITIATE", b, 400));
        } else if (strcmp(kind, "huge") == 0 || strcmp(kind, "max") == 0) {
            bool huge = kind[0] == 'h';
            const uint8_t head[9] = {6,
                                     huge ? 0 : 0x7f,
                                     huge ? 0 : 0xff,
                                     huge ? 0 : 0xff,
                                     huge ? 0 : 0xff,
                                     huge ? 0x20 : 0xff,
                                     huge ? 0 : 0xff,
                                     huge ? 0 : 0xff,
                                     huge ? 0 : 0xff};
            attack_send(fd, head, sizeof head);
            for (int i = 0; i < 16384 && attack_send(fd, b, sizeof b) == sizeof b; i++) {
            }
        }
    }
    return fd;
}

/* A listener that passes one connection on to host:port and keeps what each side said. */
struct attack_tap {
    int listener;
    uint16_t port, to;
    pthread_t thread;
    uint8_t client[1 << 16], server[1 << 16];
    size_t n_client, n_server;
};

static inline void *attack_tap_main(void *arg) {
    struct attack_tap *t = arg;
    int a = accept(t->listener, NULL, NULL), b = attack_connect("127.0.0.1", t->to);
    int64_t end = cake_now_ms() + 3000;
    struct pollfd p[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
    while (a >= 0 && b >= 0 && cake_now_ms() < end) {
        if (poll(p, 2, 100) <= 0) continue;
        uint8_t buf[4096];
        bool over = false;
        for (int i = 0; i < 2; i++) {
            if (!p[i].revents) continue;
            ssize_t r = recv(p[i].fd, buf, sizeof buf, 0);
            if (r <= 0) {
                over = true;
                break;
            }
            uint8_t *log = i ? t->server : t->client;
            size_t *n = i ? &t->n_server : &t->n_client;
            if (*n + (size_t)r <= sizeof t->client)
                memcpy(log + *n, buf, (size_t)r), *n += (size_t)r;
            attack_send(p[1 - i].fd, buf, (size_t)r);
        }
        if (over) break;
    }
    if (a >= 0) close(a);
    if (b >= 0) close(b);
    return NULL;
}

/* Listen on a free loopback port; -1 on failure. */
static inline int attack_listen(uint16_t *port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 8) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) != 0) {
        close(fd);
        return -1;
    }
    *port = ntohs(a.sin_port);
    return fd;
}

static inline bool attack_tap_start(struct attack_tap *t, uint16_t to) {
    memset(t, 0, sizeof *t);
    t->to = to;
    t->listener = attack_listen(&t->port);
    return t->listener >= 0 && pthread_create(&t->thread, NULL, attack_tap_main, t) == 0;
}

static inline void attack_tap_stop(struct attack_tap *t) {
    pthread_join(t->thread, NULL);
    close(t->listener);
}

#endif
