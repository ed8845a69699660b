/* The HTTP side of the server: routes, checks, and events turned into replies. See server.h. */
#include "master/server/server.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/server/routes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum {
    KEEP_ALIVE_MS = 5000, /* silence on a stream before a comment is sent */
    CONNECTIONS_MAX = 2048,
    FAREWELL_MS = 500,
    SILENT_MS = 900, /* of a stage, until /health says so */
};

static void on_refused(void *arg, cake_exchange *x, int status) {
    cake_api_error e;
    cake_api_fail(&e, status, "invalid_request_error", NULL, NULL, "%s",
                  status == 413   ? "the body is longer than 8 MiB"
                  : status == 431 ? "the header is longer than 16 KiB"
                  : status == 411 ? "a POST needs Content-Length"
                                  : "this is not an HTTP/1.1 request that can be understood");
    cake_reply_api_error(arg, x, CAKE_API_CHAT, &e);
}

static void on_gone(void *arg, cake_exchange *x) {
    if (cake_cluster_api_gone(arg, x)) return;
    cake_job *j = cake_exchange_get(x);
    if (j) cake_job_give_up(j);
}

/* The next thing other threads have for this one; false: there is none. */
static bool take_news(cake_serve *s) {
    void *item = cake_queue_pop(s->to_http, 0, 0);
    if (!item) return false;
    if (item == &cake_serve_signal) {
        cake_cluster_api_wake(s);
    } else {
        cake_job_on_event(item);
        cake_event_free(item);
    }
    return true;
}

static void on_wake(void *arg) {
    for (int i = 0; i < 256; i++) /* let connections have their turn too */
        if (!take_news(arg)) return;
}

static void on_tick(void *arg) {
    cake_cluster_api_wake(arg);
    cake_jobs_tick(arg);
}

/* ---- routes ---- */

static bool ready(cake_serve *s, cake_api_error *e) {
    int state = atomic_load(&s->state);
    if (state == CAKE_SERVE_READY) return true;
    return cake_api_fail(e, 503, "server_error", "unavailable", NULL, "%s",
                         state == CAKE_SERVE_LOADING
                             ? "the model is being loaded; try again"
                             : "a worker was lost; the model is being loaded again");
}

/* No name, or "default", is whatever is served. */
static bool is_model(const cake_serve *s, const char *name) {
    return !name || !*name || strcmp(name, s->config.model) == 0 || strcmp(name, "default") == 0;
}

static bool accept_job(cake_serve *s, cake_exchange *x, const cake_route *route, const char *rest,
                       cake_api_error *e) {
    (void)rest;
    size_t len;
    const char *body = cake_exchange_body(x, &len);
    cake_api_request r;
    if (!cake_api_parse(&r, route->kind, body, len, &s->config.defaults, e)) return false;
    bool ok = true;
    if (!is_model(s, r.model))
        ok = cake_api_fail(e, 404, "invalid_request_error", "model_not_found", "model",
                           "this server has only the model '%s'", s->config.model);
    ok = ok && ready(s, e);
    uint32_t n = r.n_prompts ? (uint32_t)r.n_prompts * r.n : 1;
    if (ok && s->n_outstanding && s->n_outstanding + n > s->engine.sequences + s->config.queue)
        ok = cake_api_fail(e, 429, "rate_limit_error", "queue_full", NULL,
                           "%u requests are being answered or waiting already; try again",
                           s->n_outstanding);
    if (ok)
        cake_job_new(s, x, &r);
    else
        cake_api_request_deinit(&r);
    return ok;
}

static bool get_health(cake_serve *s, cake_exchange *x, const cake_route *r, const char *rest,
                       cake_api_error *e) {
    (void)r, (void)rest, (void)e;
    int state = atomic_load(&s->state);
    /* A worker without power or cable says nothing: no token can be produced meanwhile. */
    bool silent =
        state == CAKE_SERVE_READY && cake_now_ms() - atomic_load(&s->heard_ms) > SILENT_MS;
    bool ok = state == CAKE_SERVE_READY && !silent;
    json_object *o = json_object_new_object();
    json_object_object_add(o, "status",
                           json_object_new_string(ok                            ? "ok"
                                                  : silent                      ? "silent"
                                                  : state == CAKE_SERVE_LOADING ? "loading"
                                                                                : "unavailable"));
    if (!ok) cake_http_header(x, "Retry-After", "1");
    cake_reply_json(x, ok ? 200 : 503, o);
    return true;
}

static uint32_t known_context(cake_serve *s) {
    return atomic_load(&s->state) == CAKE_SERVE_READY ? s->engine.context : 0;
}

static bool get_models(cake_serve *s, cake_exchange *x, const cake_route *r, const char *rest,
                       cake_api_error *e) {
    (void)r, (void)rest, (void)e;
    json_object *o = json_object_new_object(), *data = json_object_new_array();
    json_object_array_add(data, cake_reply_model(s->config.model, s->started, known_context(s)));
    json_object_object_add(o, "object", json_object_new_string("list"));
    json_object_object_add(o, "data", data);
    cake_reply_json(x, 200, o);
    return true;
}

static bool get_metrics(cake_serve *s, cake_exchange *x, const cake_route *r, const char *rest,
                        cake_api_error *e) {
    (void)r, (void)rest, (void)e;
    cake_text t = {0};
    cake_http_stats st;
    cake_http_stats_get(s->http, &st);
    cake_metrics_print(&s->metrics, &t);
    cake_worker_metrics_print(s->workers, &t);
    cake_text_add(&t,
                  "# HELP cake_up The model can produce tokens.\n# TYPE cake_up gauge\n"
                  "cake_up %d\n"
                  "# HELP cake_jobs Requests that have not ended inside.\n# TYPE cake_jobs gauge\n"
                  "cake_jobs %u\n"
                  "# HELP cake_http_connections Open connections.\n"
                  "# TYPE cake_http_connections gauge\ncake_http_connections %u\n"
                  "# HELP cake_http_requests_total Requests read.\n"
                  "# TYPE cake_http_requests_total counter\ncake_http_requests_total %" PRIu64 "\n",
                  atomic_load(&s->state) == CAKE_SERVE_READY, s->n_outstanding, st.open,
                  st.requests);
    cake_http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", t.v, t.n);
    free(t.v);
    return true;
}

/* %XX undone, for names of models with a slash. */
static void unescape(const char *in, char *out, size_t cap) {
    size_t n = 0;
    for (; *in && n + 1 < cap; in++) {
        char hex[3] = {0};
        if (*in == '%' && in[1] && in[2]) {
            char *end;
            memcpy(hex, in + 1, 2);
            long v = strtol(hex, &end, 16);
            if (*end == 0 && v > 0) {
                out[n++] = (char)v;
                in += 2;
                continue;
            }
        }
        out[n++] = *in;
    }
    out[n] = 0;
}

static bool get_model(cake_serve *s, cake_exchange *x, const cake_route *r, const char *rest,
                      cake_api_error *e) {
    (void)r;
    char name[300];
    unescape(rest, name, sizeof name);
    if (strcmp(name, s->config.model) != 0)
        return cake_api_fail(e, 404, "invalid_request_error", "model_not_found", "model",
                             "this server has only the model '%s'", s->config.model);
    cake_reply_json(x, 200, cake_reply_model(s->config.model, s->started, known_context(s)));
    return true;
}

const cake_route cake_core_routes[] = {
    {"GET", "/health", get_health, .open = true},
    {"GET", "/v1/health", get_health, .open = true},
    {"GET", "/v1/models", get_models, .open = false},
    {"GET", "/models", get_models, .open = false},
    {"GET", "/v1/models/", get_model, .prefix = true},
    {"GET", "/metrics", get_metrics, .open = false},
    {"POST", "/v1/chat/completions", accept_job, .kind = CAKE_API_CHAT},
    {"POST", "/chat/completions", accept_job, .kind = CAKE_API_CHAT},
    {"POST", "/v1/completions", accept_job, .kind = CAKE_API_COMPLETION},
    {"POST", "/completions", accept_job, .kind = CAKE_API_COMPLETION},
    {"POST", "/v1/messages", accept_job, .kind = CAKE_API_MESSAGES},
    {"POST", "/v1/messages/count_tokens", accept_job, .kind = CAKE_API_COUNT},
    {"POST", "/v1/responses", accept_job, .kind = CAKE_API_RESPONSES},
    {"POST", "/responses", accept_job, .kind = CAKE_API_RESPONSES},
    {"POST", "/tokenize", accept_job, .kind = CAKE_API_TOKENIZE},
    {"POST", "/detokenize", accept_job, .kind = CAKE_API_DETOKENIZE},
    {"POST", "/apply-template", accept_job, .kind = CAKE_API_TEMPLATE},
    {0},
};

/* False: *e is the answer. */
static bool serve_request(cake_serve *s, cake_exchange *x, cake_api_kind *form, cake_api_error *e) {
    const cake_http_head *h = cake_exchange_head(x);
    const char *host = cake_http_head_field(h, "host");
    const char *origin = cake_http_head_field(h, "origin");
    bool cors;
    if (!cake_access_host_ok(&s->access, host))
        return cake_api_fail(e, 403, "permission_error", "host_not_allowed", NULL,
                             "the Host header names another machine; use an address, localhost, "
                             "or the name of this machine");
    if (!cake_access_origin_ok(&s->access, origin, host, &cors))
        return cake_api_fail(e, 403, "permission_error", "origin_not_allowed", NULL,
                             "pages of this origin may not use this server; allow it with --cors");
    if (cors) {
        cake_http_header(x, "Access-Control-Allow-Origin", origin);
        cake_http_header(x, "Vary", "Origin");
    }
    if (strcmp(h->method, "OPTIONS") == 0) {
        cake_http_header(x, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        /* Clients name headers of their own (X-Stainless-...): none of them means anything here. */
        const char *wanted = cake_http_head_field(h, "access-control-request-headers");
        cake_http_header(x, "Access-Control-Allow-Headers",
                         cors && wanted && strlen(wanted) < 1000
                             ? wanted
                             : "Authorization, Content-Type, X-Api-Key, X-Requested-With");
        cake_http_header(x, "Access-Control-Max-Age", "600");
        cake_http_reply(x, 204, NULL, NULL, 0);
        return true;
    }
    const char *rest, *other_method;
    const cake_route *r = cake_route_find(h->method, h->path, &rest, &other_method);
    if (r) *form = r->kind;
    if (!(r && r->open) && !cake_access_key_ok(&s->access, cake_http_head_field(h, "authorization"),
                                               cake_http_head_field(h, "x-api-key")))
        return cake_api_fail(e, 401, "authentication_error", "invalid_api_key", NULL,
                             "the API key is missing or wrong; send 'Authorization: Bearer KEY'");
    if (r) return r->answer(s, x, r, rest, e);
    if (!other_method)
        return cake_api_fail(e, 404, "invalid_request_error", "not_found", NULL,
                             "there is nothing at this path");
    cake_http_header(x, "Allow",
                     strcmp(other_method, "POST") == 0 ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
    return cake_api_fail(e, 405, "invalid_request_error", "method_not_allowed", NULL,
                         "this path takes %s", other_method);
}

static void on_request(void *arg, cake_exchange *x) {
    cake_api_error e;
    cake_api_kind form = CAKE_API_CHAT;
    if (!serve_request(arg, x, &form, &e)) cake_reply_api_error(arg, x, form, &e);
}

/* ---- life ---- */

static void *http_thread(void *arg) {
    pthread_setname_np(pthread_self(), "cake-http");
    cake_http_run(((cake_serve *)arg)->http);
    return NULL;
}

static cake_status start_threads(cake_serve *s, cake_error *err) {
    s->prepare_runs = pthread_create(&s->prepare_thread, NULL, cake_serve_prepare_thread, s) == 0;
    s->http_runs = s->prepare_runs && pthread_create(&s->http_thread, NULL, http_thread, s) == 0;
    return s->http_runs ? CAKE_OK : cake_fail(err, CAKE_ENOMEM, "cannot start a thread");
}

cake_status cake_serve_open(cake_serve **out, const cake_serve_config *c, cake_error *err) {
    cake_serve *s = cake_calloc(1, sizeof *s);
    s->config = *c;
    s->started = time(NULL);
    s->to_prepare = cake_queue_new();
    s->to_loop = cake_queue_new();
    s->to_http = cake_queue_new();
    s->view = cake_cluster_view_new();
    s->workers = cake_worker_metrics_new();
    cake_http_config hc = {.arg = s,
                           .request = on_request,
                           .gone = on_gone,
                           .refused = on_refused,
                           .tick = on_tick,
                           .wake_fd = cake_queue_fd(s->to_http),
                           .wake = on_wake,
                           .body_max = CAKE_API_BODY_MAX,
                           .connections_max = CONNECTIONS_MAX};
    cake_status st = cake_access_init(&s->access, c->api_key_file, c->api_key, err);
    if (st == CAKE_OK && c->tls_cert)
        st = cake_http_tls_open(&s->tls, c->tls_cert, c->tls_key, err);
    hc.tls = s->tls;
    if (st == CAKE_OK) st = cake_http_open(&s->http, c->address, &hc, err);
    if (st == CAKE_OK && !cake_http_is_loopback(s->http) && s->access.n_keys == 0 &&
        !c->insecure_no_auth)
        st = cake_fail(err, CAKE_ECONFIG,
                       "--api %s can be reached by other machines: give --api-key-file FILE or "
                       "CAKE_API_KEY, or --insecure-no-auth if anyone may use it",
                       c->address);
    if (st == CAKE_OK) {
        bool v6 = strchr(cake_http_host(s->http), ':') != NULL;
        s->access.host = cake_http_host(s->http);
        s->access.cors = c->cors;
        snprintf(s->url, sizeof s->url, "http%s://%s%s%s:%u", s->tls ? "s" : "", v6 ? "[" : "",
                 s->access.host, v6 ? "]" : "", cake_http_port(s->http));
        st = start_threads(s, err);
    }
    if (st == CAKE_OK)
        *out = s;
    else
        cake_serve_close(s);
    return st;
}

void cake_serve_close(cake_serve *s) {
    if (!s) return;
    if (s->prepare_runs) {
        cake_queue_push(s->to_prepare, &cake_serve_signal);
        pthread_join(s->prepare_thread, NULL);
    }
    if (s->http_runs) {
        /* What ended with the loop is told so, if its client takes it at once. */
        for (int i = 0; i < FAREWELL_MS / 10 && cake_queue_len(s->to_http); i++) usleep(10000);
        usleep(10000);
        cake_http_stop(s->http);
        pthread_join(s->http_thread, NULL);
    }
    /* Nobody else runs now. */
    while (take_news(s)) continue;
    cake_http_close(s->http);
    cake_http_tls_close(s->tls);
    while (s->jobs) cake_job_free(s->jobs);
    while (cake_queue_pop(s->to_prepare, 0, 0)) continue;
    while (cake_queue_pop(s->to_loop, 0, 0)) continue;
    cake_queue_free(s->to_prepare);
    cake_queue_free(s->to_loop);
    cake_queue_free(s->to_http);
    cake_cluster_view_free(s->view);
    cake_worker_metrics_free(s->workers);
    cake_token_trie_free(s->trie);
    free(s->scratch.v);
    free(s);
}

const char *cake_serve_url(const cake_serve *s) {
    return s->url;
}

void cake_serve_set_engine(cake_serve *s, const cake_serve_engine *e) {
    s->engine = *e;
    s->trie = cake_token_trie_new(e->tokenizer, e->n_vocab);
    s->tool_format = cake_tool_format_of(e->chat);
    for (const char *const *m = cake_chat_markers; *m && s->n_shown < CAKE_DETOK_SHOWN_MAX; m++) {
        int64_t id = cake_tokenizer_find(e->tokenizer, *m, strlen(*m));
        if (id >= 0 && cake_tokenizer_is_special(e->tokenizer, (uint32_t)id))
            s->shown[s->n_shown++] = (uint32_t)id;
    }
}
