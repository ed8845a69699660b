/* Which path is answered by what.
 *
 * A table of routes ends with an entry without a path; routes.c lists the tables. Host, Origin and
 * key are checked before a route is called. Handlers run on the HTTP thread, must not block, and
 * answer now or later with cake_http_reply or the stream functions; one that returns false has not
 * answered, and *e is sent. */
#ifndef CAKE_MASTER_SERVER_ROUTES_H
#define CAKE_MASTER_SERVER_ROUTES_H

#include "master/server/jobs.h"

typedef struct cake_route cake_route;
/* rest: what follows the path of a route with `prefix`, else "". */
typedef bool (*cake_route_fn)(cake_serve *s, cake_exchange *x, const cake_route *r,
                              const char *rest, cake_api_error *e);
struct cake_route {
    const char *method; /* "GET" (with HEAD) or "POST" */
    const char *path;
    cake_route_fn answer;
    cake_api_kind kind; /* of a job's body; also decides the form of errors */
    bool prefix;        /* any path that begins with `path` and goes on */
    bool open;          /* no key is asked for */
};

extern const cake_route cake_core_routes[];    /* server.c */
extern const cake_route cake_cluster_routes[]; /* cluster_api.c */
extern const cake_route cake_page_routes[];    /* page_route.c */

/* NULL: nothing is there. *other_method: the path exists, and this is what it takes. */
const cake_route *cake_route_find(const char *method, const char *path, const char **rest,
                                  const char **other_method);

/* A whole reply; o is taken. */
void cake_reply_json(cake_exchange *x, int status, json_object *o);
/* The error in the form of an API, counted. */
void cake_reply_api_error(cake_serve *s, cake_exchange *x, cake_api_kind form,
                          const cake_api_error *e);

#endif
