/* Advertise and/or browse _cake._tcp for a while and print what is seen, one line per event:
 *   discover [--id HEX] [--tag HEX] [--name TEXT] [--advertise PORT] [--browse] [--for MS] [-v]
 *            [--backend auto|daemon|embedded]
 * Lines: "up BACKEND MS", "found|changed|lost ID NAME PORT ADDRESS,... MS". MS counts from the
 * start. */
#include "common/clock.h"
#include "common/log.h"
#include "proto/discovery.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile sig_atomic_t stopping;
static void on_signal(int s) {
    (void)s;
    stopping = 1;
}

int main(int argc, char **argv) {
    cake_discovery_options o = {.tag = "0123456789abcdef"};
    long for_ms = 3000;
    char id[CAKE_NODE_ID_HEX];
    cake_error err;
    if (cake_node_id_load(NULL, id, &err) != CAKE_OK) return 1;
    o.id = id;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--browse") == 0) {
            o.browse = true;
            continue;
        }
        if (strcmp(a, "-v") == 0) {
            cake_log_min = CAKE_LOG_DEBUG;
            continue;
        }
        if (strcmp(a, "--id") == 0)
            o.id = v;
        else if (strcmp(a, "--tag") == 0)
            o.tag = v;
        else if (strcmp(a, "--name") == 0)
            o.name = v;
        else if (strcmp(a, "--for") == 0)
            for_ms = strtol(v, NULL, 10);
        else if (strcmp(a, "--advertise") == 0) {
            o.advertise = true;
            o.port = (uint16_t)strtoul(v, NULL, 10);
        } else if (strcmp(a, "--backend") == 0) {
            o.backend = v[0] == 'd'   ? CAKE_MDNS_DAEMON
                        : v[0] == 'e' ? CAKE_MDNS_EMBEDDED
                                      : CAKE_MDNS_AUTO;
        } else {
            fprintf(stderr, "discover: unknown option %s\n", a);
            return 2;
        }
        i++;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    int64_t start = cake_now_ms();
    cake_discovery *d;
    if (cake_discovery_open(&d, &o, &err) != CAKE_OK) {
        fprintf(stderr, "discover: %s\n", err.msg);
        return 1;
    }
    printf("up %s %lld\n", cake_discovery_backend(d), (long long)(cake_now_ms() - start));
    while (!stopping && cake_now_ms() - start < for_ms) {
        struct pollfd p = {.fd = cake_discovery_fd(d), .events = POLLIN};
        poll(&p, 1, 50);
        cake_node_event e;
        while (cake_discovery_next(d, &e)) {
            printf("%s %s %s %u ",
                   e.change == CAKE_NODE_FOUND  ? "found"
                   : e.change == CAKE_NODE_LOST ? "lost"
                                                : "changed",
                   e.node.id, e.node.name, (unsigned)e.node.port);
            for (size_t i = 0; i < e.node.n_addresses; i++)
                printf("%s%s", i ? "," : "", e.node.address[i]);
            printf(" %lld\n", (long long)(cake_now_ms() - start));
        }
    }
    cake_discovery_close(d);
    return 0;
}
