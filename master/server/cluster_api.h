/* The cluster over HTTP: GET /api/v1/topology and /api/v1/workers, once, and /api/v1/events, each
 * new picture as a server-sent event.
 *
 * Every event is the whole picture, so a client that reads slowly is sent fewer, never more than
 * CAKE_EVENTS_BACKLOG bytes ahead; one that does not read at all is cut by the HTTP server. HTTP
 * thread, unless it says otherwise. */
#ifndef CAKE_MASTER_SERVER_CLUSTER_API_H
#define CAKE_MASTER_SERVER_CLUSTER_API_H

#include "master/server/cluster_view.h"
#include "master/server/http.h"

enum { CAKE_EVENTS_CLIENTS_MAX = 64, CAKE_EVENTS_BACKLOG = 64 << 10 };

/* Who listens; a member of cake_serve, {0} to begin with. */
typedef struct {
    struct {
        cake_exchange *x;
        uint64_t number;    /* of the last picture sent */
        int status;         /* of the server, as sent with it */
        int64_t written_ms; /* also a keep-alive */
    } client[CAKE_EVENTS_CLIENTS_MAX];
    size_t n;
} cake_watchers;

struct cake_serve;
/* A new picture may be there, or a second has passed. */
void cake_cluster_api_wake(struct cake_serve *s);
/* The client of x left; true: it was one of ours. */
bool cake_cluster_api_gone(struct cake_serve *s, const cake_exchange *x);

#endif
