/* A TCP relay that holds every byte back for a while in both directions: the kernel's netem where
 * there is none.
 *
 *   delay HOST:PORT MILLISECONDS      prints the port it listens on (127.0.0.1), relays until
 * killed
 *
 * One thread, poll; order is kept, nothing is dropped, and what is read stays bounded. */
#include "common/clock.h"
#include "common/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAIRS = 64, PIECE = 1 << 16, HELD_MAX = 64 << 20 };

typedef struct piece {
    struct piece *next;
    uint64_t due_ns;
    size_t len, at;
    uint8_t data[];
} piece;

/* From one socket to the other. */
typedef struct {
    int from, to;
    piece *first, **last;
    size_t held;
    bool ended; /* from has nothing more */
} way;

static way ways[2 * PAIRS];
static int n_ways;
static uint64_t delay_ns;

static void setup(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void add_way(int from, int to) {
    way *w = &ways[n_ways++];
    *w = (way){.from = from, .to = to};
    w->last = &w->first;
}

static void drop_pair(int i) { /* i even */
    close(ways[i].from);
    close(ways[i].to);
    for (int k = i; k < i + 2; k++)
        for (piece *p; (p = ways[k].first);) {
            ways[k].first = p->next;
            free(p);
        }
    n_ways -= 2;
    for (int k = 0; k < 2 && i != n_ways; k++) {
        ways[i + k] = ways[n_ways + k];
        if (!ways[i + k].first) ways[i + k].last = &ways[i + k].first;
    }
}

/* False: the connection is over. */
static bool take(way *w) {
    while (!w->ended && w->held < HELD_MAX) {
        piece *p = cake_malloc(sizeof *p + PIECE);
        ssize_t n = read(w->from, p->data, PIECE);
        if (n <= 0) {
            free(p);
            if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
            w->ended = true;
            return n == 0;
        }
        p = cake_realloc(p, sizeof *p + (size_t)n);
        *p = (piece){.due_ns = cake_now_ns() + delay_ns, .len = (size_t)n};
        *w->last = p;
        w->last = &p->next;
        w->held += (size_t)n;
    }
    return true;
}

static bool give(way *w, uint64_t now) {
    while (w->first && w->first->due_ns <= now) {
        piece *p = w->first;
        ssize_t n = send(w->to, p->data + p->at, p->len - p->at, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        p->at += (size_t)n;
        w->held -= (size_t)n;
        if (p->at < p->len) return true;
        w->first = p->next;
        if (!w->first) w->last = &w->first;
        free(p);
    }
    return w->first || !w->ended;
}

static void accept_one(int listener, const struct sockaddr_in *to) {
    int a = accept(listener, NULL, NULL);
    if (a < 0) return;
    int b = n_ways < 2 * PAIRS ? socket(AF_INET, SOCK_STREAM, 0) : -1;
    if (b < 0 || connect(b, (const struct sockaddr *)to, sizeof *to) != 0) {
        if (b >= 0) close(b);
        close(a);
        return;
    }
    setup(a);
    setup(b);
    add_way(a, b);
    add_way(b, a);
}

int main(int argc, char **argv) {
    char *colon = argc == 3 ? strrchr(argv[1], ':') : NULL;
    if (!colon) {
        fprintf(stderr, "usage: delay HOST:PORT MILLISECONDS\n");
        return 2;
    }
    *colon = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))},
                       own = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof own;
    delay_ns = (uint64_t)(atof(argv[2]) * 1e6);
    prctl(PR_SET_TIMERSLACK, 1UL); /* wake up when a piece is due, not 50 us later */
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1 || listener < 0 ||
        bind(listener, (struct sockaddr *)&own, sizeof own) != 0 || listen(listener, 16) != 0 ||
        getsockname(listener, (struct sockaddr *)&own, &len) != 0) {
        perror("delay");
        return 1;
    }
    printf("%u\n", ntohs(own.sin_port));
    fflush(stdout);
    for (;;) {
        struct pollfd p[1 + 2 * PAIRS];
        uint64_t now = cake_now_ns(), next = UINT64_MAX;
        p[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        for (int i = 0; i < n_ways; i++) {
            const way *w = &ways[i];
            const way *back = &ways[i ^ 1];
            bool due = back->first && back->first->due_ns <= now; /* blocked on a full socket */
            p[1 + i] =
                (struct pollfd){.fd = w->from,
                                .events = (short)((w->ended || w->held >= HELD_MAX ? 0 : POLLIN) |
                                                  (due ? POLLOUT : 0))};
            if (w->first && w->first->due_ns > now && w->first->due_ns < next)
                next = w->first->due_ns;
        }
        struct timespec t = {.tv_sec = (time_t)((next - now) / 1000000000u),
                             .tv_nsec = (long)((next - now) % 1000000000u)};
        int polled = n_ways;
        if (ppoll(p, (nfds_t)(1 + polled), next == UINT64_MAX ? NULL : &t, NULL) < 0 &&
            errno != EINTR)
            return 1;
        now = cake_now_ns();
        for (int i = polled - 2; i >= 0; i -= 2) {
            bool ok = true;
            for (int k = i; k < i + 2; k++)
                if (p[1 + k].revents & (POLLIN | POLLHUP | POLLERR)) ok &= take(&ways[k]);
            for (int k = i; k < i + 2; k++) ok &= give(&ways[k], now);
            if (!ok) drop_pair(i);
        }
        if (p[0].revents) accept_one(listener, &to);
    }
}
