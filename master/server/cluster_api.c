/* Routes that show the cluster: see cluster_api.h. */
#include "master/server/cluster_api.h"
#include "common/clock.h"
#include "master/server/routes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEEP_ALIVE_MS = 5000 };

static const char *status_name(int state) {
    return state == CAKE_SERVE_READY     ? "ready"
           : state == CAKE_SERVE_LOADING ? "loading"
                                         : "unavailable";
}

/* The picture with what only the server knows, as of now. */
static uint64_t add_topology(cake_serve *s, int state, cake_text *t) {
    json_object *name = json_object_new_string(s->config.model);
    cake_metrics *m = &s->metrics;
    cake_text_add(t,
                  "{\"status\":\"%s\",\"model\":%s,\"started\":%" PRId64 ",\"now\":%" PRId64
                  ",\"running\":%u,\"waiting\":%u,\"prompt_tokens\":%" PRIu64
                  ",\"generated_tokens\":%" PRIu64 ",",
                  status_name(state),
                  json_object_to_json_string_ext(name, JSON_C_TO_STRING_NOSLASHESCAPE), s->started,
                  (int64_t)time(NULL), atomic_load(&m->running), atomic_load(&m->waiting),
                  atomic_load(&m->prompt_tokens), atomic_load(&m->generation_tokens));
    uint64_t number = cake_cluster_view_read(s->view, t);
    cake_text_add(t, "}");
    json_object_put(name);
    return number;
}

static bool get_topology(cake_serve *s, cake_exchange *x, const cake_route *r, const char *rest,
                         cake_api_error *e) {
    (void)r, (void)rest, (void)e;
    cake_text t = {0};
    add_topology(s, atomic_load(&s->state), &t);
    cake_http_header(x, "Cache-Control", "no-store");
    cake_http_reply(x, 200, "application/json", t.v, t.n);
    free(t.v);
    return true;
}

/* {"object": "list", "data": [nodes without this machine]} */
static bool get_workers(cake_serve *s, cake_exchange *x, const cake_route *r, const char *rest,
                        cake_api_error *e) {
    (void)r, (void)rest, (void)e;
    cake_text t = {0};
    add_topology(s, atomic_load(&s->state), &t);
    json_object *all = json_tokener_parse(t.v), *nodes = NULL, *o = json_object_new_object(),
                *data = json_object_new_array();
    json_object_object_get_ex(all, "nodes", &nodes);
    for (size_t i = 0; nodes && i < json_object_array_length(nodes); i++) {
        json_object *n = json_object_array_get_idx(nodes, i), *local = NULL;
        json_object_object_get_ex(n, "local", &local);
        if (!json_object_get_boolean(local)) json_object_array_add(data, json_object_get(n));
    }
    json_object_object_add(o, "object", json_object_new_string("list"));
    json_object_object_add(o, "data", data);
    json_object_put(all);
    free(t.v);
    cake_http_header(x, "Cache-Control", "no-store");
    cake_reply_json(x, 200, o);
    return true;
}

/* ---- events ---- */

/* False: the client was cut. */
static bool send_picture(cake_serve *s, size_t i, int state) {
    cake_text t = {0};
    cake_text_add(&t, "event: topology\ndata: ");
    s->watchers.client[i].number = add_topology(s, state, &t);
    s->watchers.client[i].status = state;
    s->watchers.client[i].written_ms = cake_now_ms();
    cake_text_add(&t, "\n\n");
    bool ok = cake_http_stream_write(s->watchers.client[i].x, t.v, t.n);
    free(t.v);
    return ok;
}

static void drop(cake_watchers *w, size_t i) {
    w->client[i] = w->client[--w->n];
}

static bool get_events(cake_serve *s, cake_exchange *x, const cake_route *r, const char *rest,
                       cake_api_error *e) {
    (void)r, (void)rest;
    cake_watchers *w = &s->watchers;
    if (w->n == CAKE_EVENTS_CLIENTS_MAX)
        return cake_api_fail(e, 429, "rate_limit_error", "too_many_watchers", NULL,
                             "%d clients follow the cluster already", CAKE_EVENTS_CLIENTS_MAX);
    cake_http_header(x, "Cache-Control", "no-store");
    cake_http_header(x, "X-Accel-Buffering", "no");
    if (strcmp(cake_exchange_head(x)->method, "HEAD") == 0) {
        cake_http_reply(x, 200, "text/event-stream", NULL, 0);
        return true;
    }
    cake_http_stream_begin(x, 200, "text/event-stream");
    w->client[w->n++].x = x;
    if (!send_picture(s, w->n - 1, atomic_load(&s->state))) w->n--;
    return true;
}

void cake_cluster_api_wake(cake_serve *s) {
    cake_watchers *w = &s->watchers;
    if (w->n == 0) return;
    uint64_t number = cake_cluster_view_number(s->view);
    int state = atomic_load(&s->state);
    int64_t now = cake_now_ms();
    for (size_t i = 0; i < w->n;) {
        bool news = w->client[i].number != number || w->client[i].status != state, ok = true;
        if (news && cake_http_backlog(w->client[i].x) < CAKE_EVENTS_BACKLOG) {
            ok = send_picture(s, i, state);
        } else if (now - w->client[i].written_ms > KEEP_ALIVE_MS) {
            w->client[i].written_ms = now;
            ok = cake_http_stream_write(w->client[i].x, ": keep-alive\n\n", 14);
        }
        if (ok)
            i++;
        else
            drop(w, i);
    }
}

bool cake_cluster_api_gone(cake_serve *s, const cake_exchange *x) {
    cake_watchers *w = &s->watchers;
    for (size_t i = 0; i < w->n; i++)
        if (w->client[i].x == x) {
            drop(w, i);
            return true;
        }
    return false;
}

const cake_route cake_cluster_routes[] = {
    {"GET", "/api/v1/topology", get_topology, .open = false},
    {"GET", "/api/v1/workers", get_workers, .open = false},
    {"GET", "/api/v1/events", get_events, .open = false},
    {0},
};
