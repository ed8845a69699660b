/* Conversations: see conversation.h. */
#include "master/chat/conversation.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/mem.h"
#include "master/chat/sse.h"
#include "master/chat/think.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64, BODY_MAX = 16 << 20 };

typedef struct {
    char *v;
    size_t n, cap;
} text_buf;

static bool text_add(text_buf *t, const char *s, size_t n, size_t max) {
    if (n > max - t->n) return false;
    if (t->n + n + 1 > t->cap) {
        t->cap = 2 * (t->n + n + 1);
        t->v = cake_realloc(t->v, t->cap);
    }
    memcpy(t->v + t->n, s, n);
    t->n += n;
    t->v[t->n] = 0;
    return true;
}

/* ---- what was said ---- */

void cake_conversation_init(cake_conversation *c) {
    *c = (cake_conversation){.messages = json_object_new_array(),
                             .settings = json_object_new_object()};
}

void cake_conversation_deinit(cake_conversation *c) {
    free(c->system);
    free(c->model);
    json_object_put(c->messages);
    json_object_put(c->settings);
}

void cake_conversation_clear(cake_conversation *c) {
    json_object_put(c->messages);
    c->messages = json_object_new_array();
}

void cake_conversation_set_system(cake_conversation *c, const char *text) {
    free(c->system);
    c->system = text && *text ? cake_strdup(text) : NULL;
}

static json_object *message(const char *role, const char *text, size_t len) {
    json_object *m = json_object_new_object();
    json_object_object_add(m, "role", json_object_new_string(role));
    json_object_object_add(m, "content", json_object_new_string_len(text, (int)len));
    return m;
}

void cake_conversation_add(cake_conversation *c, const char *role, const char *text, size_t len) {
    json_object_array_add(c->messages, message(role, text, len));
}

size_t cake_conversation_length(const cake_conversation *c) {
    return json_object_array_length(c->messages);
}

static const char *role_of(json_object *m) {
    json_object *v;
    return json_object_object_get_ex(m, "role", &v) ? json_object_get_string(v) : "";
}

bool cake_conversation_rewind(cake_conversation *c, bool drop_user) {
    size_t n = cake_conversation_length(c), at = n;
    while (at && strcmp(role_of(json_object_array_get_idx(c->messages, at - 1)), "user") != 0) at--;
    if (at == 0) return false;
    if (drop_user) at--;
    json_object_array_del_idx(c->messages, at, n - at);
    return true;
}

/* ---- files ---- */

cake_status cake_conversation_save(const cake_conversation *c, const char *path, cake_error *err) {
    json_object *o = json_object_new_object();
    if (c->system) json_object_object_add(o, "system", json_object_new_string(c->system));
    json_object_object_add(o, "settings", json_object_get(c->settings));
    json_object_object_add(o, "messages", json_object_get(c->messages));
    size_t len;
    const char *text = json_object_to_json_string_length(
        o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
    cake_status st = cake_file_write(path, text, len, 0600, err);
    json_object_put(o);
    return st;
}

static cake_status check_messages(json_object *a, const char *path, cake_error *err) {
    for (size_t i = 0; i < json_object_array_length(a); i++) {
        json_object *m = json_object_array_get_idx(a, i);
        const char *role = NULL, *content = NULL;
        if (!m || !json_object_is_type(m, json_type_object))
            return cake_fail(err, CAKE_EFORMAT, "%s: message %zu is no object", path, i);
        cake_status st = cake_json_string(m, "role", true, 32, &role, err);
        if (st == CAKE_OK)
            st = cake_json_string(m, "content", true, CAKE_CONVERSATION_FILE_MAX, &content, err);
        if (st != CAKE_OK) return st;
        if (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 &&
            strcmp(role, "system") != 0)
            return cake_fail(err, CAKE_EFORMAT, "%s: message %zu is of '%s'", path, i, role);
    }
    return CAKE_OK;
}

cake_status cake_conversation_load(cake_conversation *c, const char *path, cake_error *err) {
    json_object *o = NULL, *messages = NULL, *settings = NULL;
    const char *system = NULL;
    cake_status st = cake_json_read(path, CAKE_CONVERSATION_FILE_MAX, &o, err);
    if (st != CAKE_OK) return st;
    if (json_object_is_type(o, json_type_array)) {
        messages = o;
        if (json_object_array_length(o) > CAKE_CONVERSATION_MESSAGES_MAX)
            st = cake_fail(err, CAKE_EFORMAT, "%s: too many messages", path);
    } else if (json_object_is_type(o, json_type_object)) {
        st = cake_json_array(o, "messages", true, CAKE_CONVERSATION_MESSAGES_MAX, &messages, err);
        if (st == CAKE_OK)
            st = cake_json_string(o, "system", false, CAKE_CONVERSATION_FILE_MAX, &system, err);
        if (st == CAKE_OK) st = cake_json_object(o, "settings", false, &settings, err);
    } else {
        st = cake_fail(err, CAKE_EFORMAT, "%s holds no conversation", path);
    }
    if (st == CAKE_OK) st = check_messages(messages, path, err);
    if (st == CAKE_OK) {
        cake_conversation_clear(c);
        cake_conversation_set_system(c, system);
        for (size_t i = 0; i < json_object_array_length(messages); i++) {
            json_object *m = json_object_array_get_idx(messages, i), *text = NULL;
            json_object_object_get_ex(m, "content", &text);
            if (i == 0 && strcmp(role_of(m), "system") == 0)
                cake_conversation_set_system(c, json_object_get_string(text));
            else
                json_object_array_add(c->messages, json_object_get(m));
        }
        if (settings) {
            json_object_put(c->settings);
            c->settings = json_object_get(settings);
        }
    }
    json_object_put(o);
    return st;
}

/* ---- asking ---- */

/* One reply on its way. */
typedef struct {
    cake_conversation *c;
    cake_http_reader http;
    cake_sse sse;
    cake_think think;
    text_buf answer, raw; /* raw: a reply that is no event stream */
    cake_conversation_fn fn;
    void *arg;
    cake_conversation_stats *stats;
    uint64_t start_ns;
    bool done, too_long;
    cake_status failed;
    cake_error error;
} reply;

static void on_text(void *arg, const char *text, size_t len, bool thinking) {
    reply *r = arg;
    if (len == 0) return;
    if (r->stats->first_s == 0) r->stats->first_s = (double)(cake_now_ns() - r->start_ns) / 1e9;
    if (!thinking && !text_add(&r->answer, text, len, BODY_MAX)) r->too_long = true;
    if (r->fn) r->fn(r->arg, text, len, thinking);
}

static const char *member_text(json_object *o, const char *key, size_t *len) {
    json_object *v;
    if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v) ||
        !json_object_is_type(v, json_type_string))
        return NULL;
    *len = (size_t)json_object_get_string_len(v);
    return json_object_get_string(v);
}

static json_object *member(json_object *o, const char *key) {
    json_object *v;
    return json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, key, &v) ? v
                                                                                             : NULL;
}

/* The sentence of {"error": {"message": ...}}, or of {"error": "..."}. */
static void take_error(reply *r, json_object *o, cake_status st) {
    size_t len = 0;
    json_object *e = member(o, "error");
    const char *m = member_text(e, "message", &len);
    if (!m) m = member_text(o, "error", &len);
    r->failed = cake_fail(&r->error, st, "%.900s", m ? m : "the server refused without a reason");
}

static void take_usage(reply *r, json_object *u) {
    if (!json_object_is_type(u, json_type_object)) return;
    json_object *v;
    r->stats->has_usage = true;
    if ((v = member(u, "prompt_tokens"))) r->stats->prompt_tokens = json_object_get_uint64(v);
    if ((v = member(u, "completion_tokens")))
        r->stats->generated_tokens = json_object_get_uint64(v);
    if ((v = member(member(u, "prompt_tokens_details"), "cached_tokens")))
        r->stats->cached_tokens = json_object_get_uint64(v);
}

static bool on_event(void *arg, const char *data, size_t len) {
    reply *r = arg;
    if (strcmp(data, "[DONE]") == 0) {
        r->done = true;
        return true;
    }
    json_object *o = NULL;
    cake_error err;
    if (cake_json_parse(data, len, DEPTH_MAX, "the server's event", &o, &err) != CAKE_OK) {
        r->failed = r->error.status = CAKE_EPROTO;
        r->error = err;
        return false;
    }
    if (member(o, "error")) take_error(r, o, CAKE_EUNAVAIL);
    take_usage(r, member(o, "usage"));
    json_object *choices = member(o, "choices"), *choice = NULL;
    if (json_object_is_type(choices, json_type_array) && json_object_array_length(choices))
        choice = json_object_array_get_idx(choices, 0);
    json_object *delta = member(choice, "delta");
    size_t n;
    const char *t;
    if ((t = member_text(delta, "reasoning_content", &n)) ||
        (t = member_text(delta, "reasoning", &n)))
        on_text(r, t, n, true);
    if ((t = member_text(delta, "content", &n))) cake_think_feed(&r->think, t, n, on_text, r);
    if ((t = member_text(choice, "finish_reason", &n)))
        snprintf(r->stats->finish, sizeof r->stats->finish, "%s", t);
    json_object_put(o);
    return r->failed == CAKE_OK && !r->too_long;
}

static bool on_body(void *arg, const char *data, size_t len) {
    reply *r = arg;
    if (r->http.status == 200 && r->http.event_stream) {
        cake_error err;
        cake_status st = cake_sse_feed(&r->sse, data, len, on_event, r, &err);
        if (st != CAKE_OK && r->failed == CAKE_OK) {
            r->failed = st;
            r->error = err;
        }
        return st == CAKE_OK;
    }
    return text_add(&r->raw, data, len, BODY_MAX);
}

static cake_status status_of(int http) {
    return http == 401 || http == 403 ? CAKE_EAUTH
           : http == 429              ? CAKE_EAGAIN
           : http >= 500              ? CAKE_EUNAVAIL
           : http == 404              ? CAKE_ENOTFOUND
                                      : CAKE_EINVAL;
}

/* A reply that is one JSON text: an error mostly. */
static void take_raw(reply *r) {
    json_object *o = NULL;
    cake_error err;
    if (r->raw.n &&
        cake_json_parse(r->raw.v, r->raw.n, DEPTH_MAX, "the reply", &o, &err) != CAKE_OK)
        o = NULL;
    if (r->http.status != 200) {
        cake_status st = status_of(r->http.status);
        if (member(o, "error"))
            take_error(r, o, st);
        else
            r->failed =
                cake_fail(&r->error, st, "the server answers with HTTP status %d", r->http.status);
    } else {
        r->failed = cake_fail(&r->error, CAKE_EPROTO,
                              "the server does not stream replies; is it OpenAI-compatible?");
    }
    json_object_put(o);
}

static json_object *request_of(const cake_conversation *c) {
    json_object *o = json_object_new_object(), *a = json_object_new_array(),
                *so = json_object_new_object();
    json_object_object_foreach(c->settings, key, value) {
        json_object_object_add(o, key, json_object_get(value));
    }
    if (c->model) json_object_object_add(o, "model", json_object_new_string(c->model));
    if (c->system) json_object_array_add(a, message("system", c->system, strlen(c->system)));
    for (size_t i = 0; i < cake_conversation_length(c); i++)
        json_object_array_add(a, json_object_get(json_object_array_get_idx(c->messages, i)));
    json_object_object_add(o, "messages", a);
    json_object_object_add(o, "stream", json_object_new_boolean(true));
    json_object_object_add(so, "include_usage", json_object_new_boolean(true));
    json_object_object_add(o, "stream_options", so);
    return o;
}

cake_status cake_conversation_ask(cake_conversation *c, const cake_http_target *t,
                                  cake_conversation_fn fn, void *arg,
                                  cake_conversation_stats *stats, cake_error *err) {
    *stats = (cake_conversation_stats){0};
    reply *r = cake_calloc(1, sizeof *r);
    r->c = c;
    r->fn = fn;
    r->arg = arg;
    r->stats = stats;
    r->start_ns = cake_now_ns();
    json_object *o = request_of(c);
    size_t len;
    const char *body = json_object_to_json_string_length(
        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
    cake_status st = cake_http_ask(t, "/v1/chat/completions", body, len, &r->http, on_body, r, err);
    json_object_put(o);
    cake_think_end(&r->think, on_text, r);
    stats->total_s = (double)(cake_now_ns() - r->start_ns) / 1e9;
    if (st == CAKE_OK && r->failed == CAKE_OK && !r->http.event_stream) take_raw(r);
    if (r->too_long && r->failed == CAKE_OK)
        r->failed =
            cake_fail(&r->error, CAKE_ENOSPACE, "the reply is longer than %d MiB", BODY_MAX >> 20);
    if (st == CAKE_OK && r->failed == CAKE_OK && !r->done && !stats->finish[0])
        r->failed = cake_fail(&r->error, CAKE_EPROTO, "the server ended its reply early");
    if (r->failed != CAKE_OK) { /* says more than "cancelled" of whoever stopped reading for it */
        if (err) *err = r->error;
        st = r->failed;
    }
    if (r->answer.n) cake_conversation_add(c, "assistant", r->answer.v, r->answer.n);
    free(r->answer.v);
    free(r->raw.v);
    cake_sse_deinit(&r->sse);
    free(r);
    return st;
}

cake_status cake_conversation_get(const cake_http_target *t, const char *path, json_object **out,
                                  cake_error *err) {
    reply *r = cake_calloc(1, sizeof *r);
    cake_status st = cake_http_ask(t, path, NULL, 0, &r->http, on_body, r, err);
    if (st == CAKE_OK && r->http.status != 200) {
        take_raw(r);
        st = r->failed;
        if (err) *err = r->error;
    }
    if (st == CAKE_OK)
        st = cake_json_parse(r->raw.v ? r->raw.v : "", r->raw.n, DEPTH_MAX, path, out, err);
    free(r->raw.v);
    cake_sse_deinit(&r->sse);
    free(r);
    return st;
}
