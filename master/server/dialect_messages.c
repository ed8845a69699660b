/* Anthropic's messages: see dialect.h. */
#include "master/server/dialect.h"
#include "master/server/put.h"

#include <string.h>

static json_object *typed(const char *type) {
    json_object *o = json_object_new_object();
    put(o, "type", word(type));
    return o;
}

static json_object *error(const cake_api_error *e) {
    const char *type = e->http == 401   ? "authentication_error"
                       : e->http == 403 ? "permission_error"
                       : e->http == 404 ? "not_found_error"
                       : e->http == 413 ? "request_too_large"
                       : e->http == 429 ? "rate_limit_error"
                       : e->http == 503 ? "overloaded_error"
                       : e->http >= 500 ? "api_error"
                                        : "invalid_request_error";
    json_object *o = typed("error"), *in = typed(type);
    put(in, "message", word(e->message));
    put(o, "error", in);
    return o;
}

static json_object *usage(const cake_job *j) {
    cake_usage u = cake_job_usage(j);
    json_object *o = json_object_new_object();
    put(o, "input_tokens", number(u.prompt - u.cached));
    put(o, "cache_creation_input_tokens", number(0));
    put(o, "cache_read_input_tokens", number(u.cached));
    put(o, "output_tokens", number(u.generated));
    return o;
}

static const char *stop_reason(const cake_choice *c) {
    return c->finish == CAKE_FINISH_LENGTH ? "max_tokens"
           : c->n_calls                    ? "tool_use"
           : c->stop >= 0                  ? "stop_sequence"
                                           : "end_turn";
}

static void put_stop(json_object *o, const cake_choice *c) {
    const cake_api_request *r = &c->job->req;
    put(o, "stop_reason", c->finish == CAKE_FINISH_NONE ? NULL : word(stop_reason(c)));
    put(o, "stop_sequence",
        c->finish == CAKE_FINISH_STOP && c->stop >= 0 && !c->n_calls ? word(r->stop[c->stop])
                                                                     : NULL);
}

static json_object *message(const cake_job *j, json_object *content) {
    json_object *m = json_object_new_object();
    put(m, "id", word(j->id));
    put(m, "type", word("message"));
    put(m, "role", word("assistant"));
    put(m, "model", word(j->server->config.model));
    put(m, "content", content);
    put_stop(m, &j->choices[0]);
    put(m, "usage", usage(j));
    return m;
}

/* ---- streams ---- */

static void begin(cake_job *j) {
    json_object *o = typed("message_start");
    put(o, "message", message(j, json_object_new_array()));
    cake_job_send(j, "message_start", o);
    cake_job_send(j, "ping", typed("ping"));
}

static void close_block(cake_job *j) {
    if (j->open_block < 0) return;
    json_object *o = typed("content_block_stop");
    put(o, "index", number(j->n_blocks - 1));
    j->open_block = -1;
    cake_job_send(j, "content_block_stop", o);
}

static void open_block(cake_job *j, const cake_choice *c, cake_part_kind kind) {
    close_block(j);
    json_object *o = typed("content_block_start"), *b;
    if (kind == CAKE_PART_CALL) {
        const cake_call *k = &c->calls[c->n_calls - 1];
        b = typed("tool_use");
        put(b, "id", word(k->id));
        put(b, "name", word(k->name));
        put(b, "input", json_object_new_object());
    } else if (kind == CAKE_PART_THINKING) {
        b = typed("thinking");
        put(b, "thinking", word(""));
        put(b, "signature", word(""));
    } else {
        b = typed("text");
        put(b, "text", word(""));
    }
    put(o, "index", number(j->n_blocks++));
    put(o, "content_block", b);
    j->open_block = (int)kind;
    cake_job_send(j, "content_block_start", o);
}

static void part(cake_job *j, cake_choice *c, cake_part_kind kind, const char *text, size_t len) {
    if (kind == CAKE_PART_CALL) {
        open_block(j, c, kind);
        return;
    }
    if (kind != CAKE_PART_ARGUMENTS && j->open_block != (int)kind) open_block(j, c, kind);
    json_object *o = typed("content_block_delta"), *d;
    if (kind == CAKE_PART_ARGUMENTS) {
        d = typed("input_json_delta");
        put(d, "partial_json", bytes(text, len));
    } else if (kind == CAKE_PART_THINKING) {
        d = typed("thinking_delta");
        put(d, "thinking", bytes(text, len));
    } else {
        d = typed("text_delta");
        put(d, "text", bytes(text, len));
    }
    put(o, "index", number(j->n_blocks - 1));
    put(o, "delta", d);
    cake_job_send(j, "content_block_delta", o);
}

static void finish(cake_job *j, cake_choice *c) {
    close_block(j);
    json_object *o = typed("message_delta"), *d = json_object_new_object();
    put_stop(d, c);
    put(o, "delta", d);
    put(o, "usage", usage(j));
    cake_job_send(j, "message_delta", o);
}

static void end(cake_job *j) {
    cake_job_send(j, "message_stop", typed("message_stop"));
}

/* ---- whole replies ---- */

static json_object *whole(cake_job *j) {
    const cake_choice *c = &j->choices[0];
    json_object *content = json_object_new_array(), *b;
    if (c->thinking.n) {
        b = typed("thinking");
        put(b, "thinking", bytes(c->thinking.v, c->thinking.n));
        put(b, "signature", word(""));
        json_object_array_add(content, b);
    }
    if (c->text.n) {
        b = typed("text");
        put(b, "text", bytes(c->text.v, c->text.n));
        json_object_array_add(content, b);
    }
    for (size_t i = 0; i < c->n_calls; i++) {
        const cake_call *k = &c->calls[i];
        json_object *input = NULL;
        b = typed("tool_use");
        put(b, "id", word(k->id));
        put(b, "name", word(k->name));
        /* Cut off by max_tokens it is no JSON; the form has no room for that. */
        if (cake_json_parse(k->arguments.v ? k->arguments.v : "", k->arguments.n,
                            CAKE_API_DEPTH_MAX, "input", &input, NULL) != CAKE_OK)
            input = json_object_new_object();
        put(b, "input", input);
        json_object_array_add(content, b);
    }
    return message(j, content);
}

const cake_dialect cake_dialect_messages = {.begin = begin,
                                            .part = part,
                                            .finish = finish,
                                            .end = end,
                                            .whole = whole,
                                            .error = error,
                                            .error_event = "error",
                                            .keep_alive =
                                                "event: ping\ndata: {\"type\": \"ping\"}\n\n"};
