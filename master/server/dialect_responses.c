/* OpenAI's responses, without anything kept between them: see dialect.h. */
#include "master/server/dialect.h"
#include "master/server/put.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A member of the request as it came, or null. */
static json_object *echo(const cake_job *j, const char *key) {
    json_object *v = NULL;
    return json_object_object_get_ex(j->req.body, key, &v) ? json_object_get(v) : NULL;
}

/* ---- items ---- */

/* What is written of an item: kind CAKE_PART_THINKING, _TEXT or _CALL. */
typedef struct {
    cake_part_kind kind;
    const char *text;
    size_t len;
    const cake_call *call;
} piece;

static json_object *item_id(const cake_job *j, const char *prefix, uint64_t index) {
    char id[48];
    snprintf(id, sizeof id, "%s_%016" PRIx64 "%02" PRIx64, prefix, j->salt, index);
    return word(id);
}

static const char *prefix_of(cake_part_kind kind) {
    return kind == CAKE_PART_THINKING ? "rs" : kind == CAKE_PART_TEXT ? "msg" : "fc";
}

static json_object *content_part(const piece *p) {
    json_object *o = json_object_new_object();
    bool text = p->kind == CAKE_PART_TEXT;
    put(o, "type", word(text ? "output_text" : "reasoning_text"));
    put(o, "text", bytes(p->text, p->len));
    if (text) {
        put(o, "annotations", json_object_new_array());
        put(o, "logprobs", json_object_new_array());
    }
    return o;
}

/* empty: as it begins, without its content. */
static json_object *item(const cake_job *j, const piece *p, uint64_t index, const char *status,
                         bool empty) {
    json_object *o = json_object_new_object(), *content;
    put(o, "id", item_id(j, prefix_of(p->kind), index));
    put(o, "type",
        word(p->kind == CAKE_PART_THINKING ? "reasoning"
             : p->kind == CAKE_PART_TEXT   ? "message"
                                           : "function_call"));
    put(o, "status", word(status));
    if (p->kind == CAKE_PART_CALL) {
        put(o, "call_id", word(p->call->id));
        put(o, "name", word(p->call->name));
        put(o, "arguments", empty ? word("") : bytes(p->call->arguments.v, p->call->arguments.n));
        return o;
    }
    if (p->kind == CAKE_PART_THINKING)
        put(o, "summary", json_object_new_array());
    else
        put(o, "role", word("assistant"));
    put(o, "content", content = json_object_new_array());
    if (!empty) json_object_array_add(content, content_part(p));
    return o;
}

/* ---- the response ---- */

static json_object *error_object(const cake_api_error *e) {
    json_object *o = json_object_new_object();
    put(o, "code", word(e->code ? e->code : "server_error"));
    put(o, "message", word(e->message));
    return o;
}

static json_object *output(const cake_job *j) {
    const cake_choice *c = &j->choices[0];
    const char *status = c->finish == CAKE_FINISH_LENGTH ? "incomplete" : "completed";
    json_object *list = json_object_new_array();
    uint64_t n = 0;
    piece p = {.kind = CAKE_PART_THINKING, .text = c->thinking.v, .len = c->thinking.n};
    if (p.len) json_object_array_add(list, item(j, &p, n++, "completed", false));
    p = (piece){.kind = CAKE_PART_TEXT, .text = c->text.v, .len = c->text.n};
    if (p.len) json_object_array_add(list, item(j, &p, n++, status, false));
    for (size_t i = 0; i < c->n_calls; i++) {
        p = (piece){.kind = CAKE_PART_CALL, .call = &c->calls[i]};
        json_object_array_add(list,
                              item(j, &p, n++, i + 1 < c->n_calls ? "completed" : status, false));
    }
    return list;
}

static json_object *usage(const cake_job *j) {
    cake_usage u = cake_job_usage(j);
    json_object *o = json_object_new_object(), *in = json_object_new_object(),
                *out = json_object_new_object();
    put(o, "input_tokens", number(u.prompt));
    put(in, "cached_tokens", number(u.cached));
    put(o, "input_tokens_details", in);
    put(o, "output_tokens", number(u.generated));
    put(out, "reasoning_tokens", number(0));
    put(o, "output_tokens_details", out);
    put(o, "total_tokens", number(u.prompt + u.generated));
    return o;
}

static json_object *response(const cake_job *j, const char *status, json_object *list) {
    json_object *o = json_object_new_object(), *v;
    bool over = j->choices[0].finish != CAKE_FINISH_NONE;
    put(o, "id", word(j->id));
    put(o, "object", word("response"));
    put(o, "created_at", json_object_new_int64(j->created));
    put(o, "status", word(status));
    put(o, "error", NULL);
    v = NULL;
    if (strcmp(status, "incomplete") == 0) {
        v = json_object_new_object();
        put(v, "reason", word("max_output_tokens"));
    }
    put(o, "incomplete_details", v);
    put(o, "instructions", echo(j, "instructions"));
    put(o, "max_output_tokens", echo(j, "max_output_tokens"));
    put(o, "metadata", (v = echo(j, "metadata")) ? v : json_object_new_object());
    put(o, "model", word(j->server->config.model));
    put(o, "output", list);
    put(o, "parallel_tool_calls", json_object_new_boolean(!j->req.one_call));
    put(o, "previous_response_id", NULL);
    put(o, "reasoning", (v = echo(j, "reasoning")) ? v : json_object_new_object());
    put(o, "store", json_object_new_boolean(0));
    put(o, "temperature", json_object_new_double((double)j->req.sampler.temperature));
    put(o, "text", (v = echo(j, "text")) ? v : json_object_new_object());
    put(o, "tool_choice", (v = echo(j, "tool_choice")) ? v : word("auto"));
    put(o, "tools", (v = echo(j, "tools")) ? v : json_object_new_array());
    put(o, "top_p", json_object_new_double((double)j->req.sampler.top_p));
    put(o, "truncation", word("disabled"));
    put(o, "usage", over ? usage(j) : NULL);
    put(o, "user", echo(j, "user"));
    return o;
}

/* ---- streams ---- */

static json_object *event(const char *type) {
    json_object *o = json_object_new_object();
    put(o, "type", word(type));
    return o;
}

static void send_event(cake_job *j, const char *type, json_object *o) {
    put(o, "sequence_number", number(j->n_events++));
    cake_job_send(j, type, o);
}

static void send_response(cake_job *j, const char *type, const char *status, json_object *list) {
    json_object *o = event(type);
    put(o, "response", response(j, status, list));
    send_event(j, type, o);
}

static void begin(cake_job *j) {
    send_response(j, "response.created", "in_progress", json_object_new_array());
    send_response(j, "response.in_progress", "in_progress", json_object_new_array());
}

/* An event about the open item; content: about its only part. */
static json_object *item_event(const cake_job *j, const char *type, bool content) {
    json_object *o = event(type);
    put(o, "item_id", item_id(j, prefix_of((cake_part_kind)j->open_block), j->n_blocks - 1));
    put(o, "output_index", number(j->n_blocks - 1));
    if (content) put(o, "content_index", number(0));
    return o;
}

/* The open item as far as it is written. */
static piece open_piece(const cake_job *j, const cake_choice *c) {
    piece p = {.kind = (cake_part_kind)j->open_block};
    if (p.kind == CAKE_PART_CALL) {
        p.call = &c->calls[c->n_calls - 1];
    } else {
        const cake_text *t = p.kind == CAKE_PART_TEXT ? &c->text : &c->thinking;
        p.text = t->v + j->block_from;
        p.len = t->n - j->block_from;
    }
    return p;
}

static void close_item(cake_job *j, const cake_choice *c, const char *status) {
    if (j->open_block < 0) return;
    piece p = open_piece(j, c);
    json_object *o;
    if (p.kind == CAKE_PART_CALL) {
        o = item_event(j, "response.function_call_arguments.done", false);
        put(o, "name", word(p.call->name));
        put(o, "arguments", bytes(p.call->arguments.v, p.call->arguments.n));
        send_event(j, "response.function_call_arguments.done", o);
    } else {
        const char *type =
            p.kind == CAKE_PART_TEXT ? "response.output_text.done" : "response.reasoning_text.done";
        o = item_event(j, type, true);
        put(o, "text", bytes(p.text, p.len));
        if (p.kind == CAKE_PART_TEXT) put(o, "logprobs", json_object_new_array());
        send_event(j, type, o);
        o = item_event(j, "response.content_part.done", true);
        put(o, "part", content_part(&p));
        send_event(j, "response.content_part.done", o);
    }
    o = event("response.output_item.done");
    put(o, "output_index", number(j->n_blocks - 1));
    put(o, "item", item(j, &p, j->n_blocks - 1, status, false));
    send_event(j, "response.output_item.done", o);
    j->open_block = -1;
}

/* len: of the text that is already in c. A call closes the item before it. */
static void open_item(cake_job *j, const cake_choice *c, cake_part_kind kind, size_t len) {
    j->open_block = (int)kind;
    j->n_blocks++;
    if (kind == CAKE_PART_TEXT) j->block_from = c->text.n - len;
    if (kind == CAKE_PART_THINKING) j->block_from = c->thinking.n - len;
    piece p = {.kind = kind, .call = kind == CAKE_PART_CALL ? &c->calls[c->n_calls - 1] : NULL};
    json_object *o = event("response.output_item.added");
    put(o, "output_index", number(j->n_blocks - 1));
    put(o, "item", item(j, &p, j->n_blocks - 1, "in_progress", true));
    send_event(j, "response.output_item.added", o);
    if (kind == CAKE_PART_CALL) return;
    o = item_event(j, "response.content_part.added", true);
    put(o, "part", content_part(&p));
    send_event(j, "response.content_part.added", o);
}

static void part(cake_job *j, cake_choice *c, cake_part_kind kind, const char *text, size_t len) {
    if (kind == CAKE_PART_CALL) {
        c->n_calls--; /* the item that is closed is the one before */
        close_item(j, c, "completed");
        c->n_calls++;
        open_item(j, c, kind, 0);
        return;
    }
    if (kind != CAKE_PART_ARGUMENTS && j->open_block != (int)kind) {
        close_item(j, c, "completed");
        open_item(j, c, kind, len);
    }
    const char *type = kind == CAKE_PART_ARGUMENTS  ? "response.function_call_arguments.delta"
                       : kind == CAKE_PART_THINKING ? "response.reasoning_text.delta"
                                                    : "response.output_text.delta";
    json_object *o = item_event(j, type, kind != CAKE_PART_ARGUMENTS);
    put(o, "delta", bytes(text, len));
    if (kind == CAKE_PART_TEXT) put(o, "logprobs", json_object_new_array());
    send_event(j, type, o);
}

static void finish(cake_job *j, cake_choice *c) {
    close_item(j, c, c->finish == CAKE_FINISH_LENGTH ? "incomplete" : "completed");
}

static void end(cake_job *j) {
    bool cut = j->choices[0].finish == CAKE_FINISH_LENGTH;
    send_response(j, cut ? "response.incomplete" : "response.completed",
                  cut ? "incomplete" : "completed", output(j));
}

static json_object *stream_error(const cake_api_error *e) {
    json_object *o = error_object(e);
    put(o, "type", word("error"));
    put(o, "param", e->param[0] ? word(e->param) : NULL);
    return o;
}

static json_object *whole(cake_job *j) {
    bool cut = j->choices[0].finish == CAKE_FINISH_LENGTH;
    return response(j, cut ? "incomplete" : "completed", output(j));
}

const cake_dialect cake_dialect_responses = {.begin = begin,
                                             .part = part,
                                             .finish = finish,
                                             .end = end,
                                             .whole = whole,
                                             .error = cake_reply_error,
                                             .stream_error = stream_error,
                                             .error_event = "error",
                                             .keep_alive = ": keep-alive\n\n"};
