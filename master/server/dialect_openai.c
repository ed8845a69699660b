/* OpenAI's chat completions and completions: see dialect.h. */
#include "master/server/dialect.h"
#include "master/server/put.h"

#include <stdio.h>

static json_object *string(const cake_text *t) {
    return json_object_new_string_len(t->v ? t->v : "", (int)t->n);
}

static json_object *new_reply(const cake_job *j) {
    cake_reply_head h = {.id = j->id,
                         .model = j->server->config.model,
                         .created = j->created,
                         .kind = j->req.kind,
                         .stream = j->req.stream};
    return cake_reply_new(&h);
}

static bool is_chat(const cake_job *j) {
    return j->req.kind == CAKE_API_CHAT;
}

/* body: the delta or message of a chat, the text of a completion; taken, as logprobs. */
static void add_choice(json_object *reply, const cake_job *j, const cake_choice *c,
                       json_object *body, json_object *logprobs) {
    json_object *o = json_object_new_object(), *list = NULL;
    const char *finish = cake_choice_finish(c);
    put(o, "index", json_object_new_int64(c->index));
    put(o, !is_chat(j) ? "text" : j->req.stream ? "delta" : "message", body);
    put(o, "logprobs", logprobs);
    put(o, "finish_reason", finish ? json_object_new_string(finish) : NULL);
    json_object_object_get_ex(reply, "choices", &list);
    json_object_array_add(list, o);
}

static void add_usage(json_object *o, const cake_job *j) {
    cake_usage u = cake_job_usage(j);
    cake_reply_usage(o, u.prompt, u.cached, u.generated);
}

static json_object *real(double v) {
    char text[32];
    snprintf(text, sizeof text, "%.3f", v);
    return json_object_new_double_s(v, text);
}

static void put_rate(json_object *o, const char *const names[4], uint64_t n, double ms) {
    put(o, names[0], json_object_new_int64((int64_t)n));
    put(o, names[1], real(ms));
    put(o, names[2], real(n ? ms / (double)n : 0));
    put(o, names[3], real(ms > 0 ? (double)n * 1e3 / ms : 0));
}

/* Of a choice that is over, as llama-server tells them. */
static json_object *timings(const cake_job *j, const cake_choice *c) {
    static const char *const taken[] = {"prompt_n", "prompt_ms", "prompt_per_token_ms",
                                        "prompt_per_second"};
    static const char *const made[] = {"predicted_n", "predicted_ms", "predicted_per_token_ms",
                                       "predicted_per_second"};
    json_object *o = json_object_new_object();
    uint64_t prompt = j->ids[c->prompt].n, computed = prompt - c->n_cached;
    uint64_t first = c->first_token_ns ? c->first_token_ns : j->start_ns;
    put(o, "cache_n", json_object_new_int64((int64_t)c->n_cached));
    put_rate(o, taken, computed, (double)(first - j->start_ns) / 1e6);
    put_rate(o, made, c->n_generated,
             c->last_token_ns > first ? (double)(c->last_token_ns - first) / 1e6 : 0);
    return o;
}

/* ---- streams ---- */

static void begin(cake_job *j) {
    for (uint32_t i = 0; is_chat(j) && i < j->n_choices; i++) {
        json_object *o = new_reply(j), *delta = json_object_new_object();
        put(delta, "role", json_object_new_string("assistant"));
        put(delta, "content", json_object_new_string(""));
        add_choice(o, j, &j->choices[i], delta, NULL);
        cake_job_send(j, NULL, o);
    }
}

static void progress(cake_job *j, uint32_t cached, uint32_t done) {
    json_object *o = new_reply(j), *p = json_object_new_object();
    put(p, "total", json_object_new_int64((int64_t)j->ids[0].n));
    put(p, "cache", json_object_new_int64(cached));
    put(p, "processed", json_object_new_int64(done));
    add_choice(o, j, &j->choices[0],
               is_chat(j) ? json_object_new_object() : json_object_new_string(""), NULL);
    put(o, "prompt_progress", p);
    cake_job_send(j, NULL, o);
}

static json_object *call_delta(const cake_choice *c, bool opens, const char *text, size_t len) {
    const cake_call *k = &c->calls[c->n_calls - 1];
    json_object *list = json_object_new_array(), *o = json_object_new_object(),
                *f = json_object_new_object();
    put(o, "index", json_object_new_int64((int64_t)c->n_calls - 1));
    if (opens) {
        put(o, "id", json_object_new_string(k->id));
        put(o, "type", json_object_new_string("function"));
        put(f, "name", json_object_new_string(k->name));
    }
    put(f, "arguments", json_object_new_string_len(text, (int)len));
    put(o, "function", f);
    json_object_array_add(list, o);
    return list;
}

static void part(cake_job *j, cake_choice *c, cake_part_kind kind, const char *text, size_t len) {
    json_object *o = new_reply(j), *body = NULL;
    json_object *lp = c->pending ? cake_reply_logprobs(j->req.kind, j->server->engine.tokenizer,
                                                       c->pending, 1, c->n_bytes)
                                 : NULL;
    if (!is_chat(j)) {
        body = json_object_new_string_len(text, (int)len);
    } else {
        body = json_object_new_object();
        switch (kind) {
        case CAKE_PART_THINKING:
            put(body, "reasoning_content", json_object_new_string_len(text, (int)len));
            break;
        case CAKE_PART_TEXT:
            put(body, "content", json_object_new_string_len(text, (int)len));
            break;
        case CAKE_PART_CALL: put(body, "tool_calls", call_delta(c, true, "", 0)); break;
        case CAKE_PART_ARGUMENTS: put(body, "tool_calls", call_delta(c, false, text, len)); break;
        }
    }
    add_choice(o, j, c, body, lp);
    cake_job_send(j, NULL, o);
}

static void finish(cake_job *j, cake_choice *c) {
    json_object *o = new_reply(j);
    add_choice(o, j, c, is_chat(j) ? json_object_new_object() : json_object_new_string(""), NULL);
    put(o, "timings", timings(j, c));
    cake_job_send(j, NULL, o);
}

static void end(cake_job *j) {
    if (j->req.include_usage) {
        json_object *o = new_reply(j);
        add_usage(o, j);
        cake_job_send(j, NULL, o);
    }
    cake_job_send_text(j, "data: [DONE]\n\n");
}

/* ---- whole replies ---- */

static json_object *message(const cake_choice *c) {
    json_object *m = json_object_new_object();
    put(m, "role", json_object_new_string("assistant"));
    put(m, "content", c->text.n || !c->n_calls ? string(&c->text) : NULL);
    if (c->thinking.n) put(m, "reasoning_content", string(&c->thinking));
    put(m, "refusal", NULL);
    if (!c->n_calls) return m;
    json_object *calls = json_object_new_array();
    for (size_t i = 0; i < c->n_calls; i++) {
        json_object *k = json_object_new_object(), *f = json_object_new_object();
        put(k, "id", json_object_new_string(c->calls[i].id));
        put(k, "type", json_object_new_string("function"));
        put(f, "name", json_object_new_string(c->calls[i].name));
        put(f, "arguments", string(&c->calls[i].arguments));
        put(k, "function", f);
        json_object_array_add(calls, k);
    }
    put(m, "tool_calls", calls);
    return m;
}

static json_object *whole(cake_job *j) {
    json_object *o = new_reply(j);
    for (uint32_t i = 0; i < j->n_choices; i++) {
        cake_choice *c = &j->choices[i];
        json_object *lp = j->req.logprobs
                              ? cake_reply_logprobs(j->req.kind, j->server->engine.tokenizer,
                                                    c->logprobs, c->n_logprobs, 0)
                              : NULL;
        add_choice(o, j, c, is_chat(j) ? message(c) : string(&c->text), lp);
    }
    add_usage(o, j);
    put(o, "timings", timings(j, &j->choices[0]));
    return o;
}

const cake_dialect cake_dialect_openai = {.begin = begin,
                                          .progress = progress,
                                          .part = part,
                                          .finish = finish,
                                          .end = end,
                                          .whole = whole,
                                          .error = cake_reply_error,
                                          .keep_alive = ": keep-alive\n\n"};
