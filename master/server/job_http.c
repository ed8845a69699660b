/* Jobs on the HTTP thread: made from requests, told in the form of their API as events come. See
 * jobs.h and dialect.h. */
#include "common/clock.h"
#include "common/mem.h"
#include "master/server/dialect.h"
#include "master/server/routes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { KEEP_ALIVE_MS = 5000 /* silence on a stream before something is sent */ };

/* ---- replies ---- */

static const char *json_text(json_object *o, size_t *len) {
    return json_object_to_json_string_length(
        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, len);
}

void cake_reply_json(cake_exchange *x, int status, json_object *o) {
    size_t len;
    const char *text = json_text(o, &len);
    cake_http_reply(x, status, "application/json", text, len);
    json_object_put(o);
}

void cake_reply_api_error(cake_serve *s, cake_exchange *x, cake_api_kind form,
                          const cake_api_error *e) {
    atomic_fetch_add(e->http == 429 || e->http == 503 ? &s->metrics.rejected : &s->metrics.invalid,
                     1);
    if (e->http == 429 || e->http == 503) cake_http_header(x, "Retry-After", "1");
    if (e->http == 401) cake_http_header(x, "WWW-Authenticate", "Bearer");
    cake_reply_json(x, e->http, cake_dialect_of(form)->error(e));
}

const cake_dialect *cake_dialect_of(cake_api_kind kind) {
    return kind == CAKE_API_MESSAGES || kind == CAKE_API_COUNT ? &cake_dialect_messages
           : kind == CAKE_API_RESPONSES                        ? &cake_dialect_responses
                                                               : &cake_dialect_openai;
}

/* ---- life ---- */

static void choice_deinit(cake_choice *c) {
    cake_generation_free(c->gen);
    cake_answer_free(c->answer);
    free(c->text.v);
    free(c->thinking.v);
    free(c->logprobs);
    for (size_t i = 0; i < c->n_calls; i++) {
        free(c->calls[i].name);
        free(c->calls[i].arguments.v);
    }
    free(c->calls);
}

void cake_job_free(cake_job *j) {
    cake_serve *s = j->server;
    if (j->prev)
        j->prev->next = j->next;
    else
        s->jobs = j->next;
    if (j->next) j->next->prev = j->prev;
    s->n_outstanding -= j->n_choices ? j->n_choices : 1;
    for (uint32_t i = 0; i < j->n_choices; i++) choice_deinit(&j->choices[i]);
    free(j->choices);
    for (size_t i = 0; i < CAKE_API_PROMPTS_MAX; i++) cake_ids_deinit(&j->ids[i]);
    free(j->text);
    cake_grammar_free(j->grammar);
    cake_api_request_deinit(&j->req);
    free(j);
}

static bool generates(cake_api_kind kind) {
    return kind == CAKE_API_CHAT || kind == CAKE_API_COMPLETION || kind == CAKE_API_MESSAGES ||
           kind == CAKE_API_RESPONSES;
}

void cake_job_new(cake_serve *s, cake_exchange *x, cake_api_request *r) {
    cake_job *j = cake_calloc(1, sizeof *j);
    j->server = s;
    j->req = *r;
    j->dialect = cake_dialect_of(r->kind);
    j->open_block = -1;
    j->created = time(NULL);
    j->start_ns = cake_now_ns();
    const cake_http_head *h = cake_exchange_head(x);
    j->client = cake_access_client(&s->access, cake_http_head_field(h, "authorization"),
                                   cake_http_head_field(h, "x-api-key"), cake_exchange_from(x));
    j->x = x;
    if (getrandom(&j->salt, sizeof j->salt, 0) != sizeof j->salt) j->salt = cake_now_ns();
    if (!r->has_seed) j->req.sampler.seed = j->salt;
    j->salt = j->salt * 0x9E3779B97F4A7C15u + ++s->next_id;
    snprintf(j->id, sizeof j->id, "%s%016" PRIx64 "%04" PRIx64,
             r->kind == CAKE_API_CHAT        ? "chatcmpl-"
             : r->kind == CAKE_API_MESSAGES  ? "msg_"
             : r->kind == CAKE_API_RESPONSES ? "resp_"
                                             : "cmpl-",
             j->salt, s->next_id & 0xffff);
    if (generates(r->kind)) {
        j->n_choices = (uint32_t)r->n_prompts * r->n;
        j->choices = cake_calloc(j->n_choices, sizeof *j->choices);
        for (uint32_t i = 0; i < j->n_choices; i++) {
            j->choices[i].job = j;
            j->choices[i].index = i;
            j->choices[i].stop = -1;
            j->choices[i].prompt = i / r->n;
        }
    }
    s->n_outstanding += j->n_choices ? j->n_choices : 1;
    j->next = s->jobs;
    if (j->next) j->next->prev = j;
    s->jobs = j;
    cake_exchange_set(x, j);
    cake_queue_push(s->to_prepare, j);
}

void cake_job_give_up(cake_job *j) {
    j->x = NULL;
    if (j->answered) return;
    atomic_store(&j->canceled, true);
    cake_queue_push(j->server->to_loop, &cake_serve_signal);
}

/* ---- streams ---- */

static void write_or_give_up(cake_job *j, const char *text, size_t len) {
    if (j->x && !cake_http_stream_write(j->x, text, len)) cake_job_give_up(j);
    j->last_write_ms = cake_now_ms();
}

void cake_job_send_text(cake_job *j, const char *text) {
    write_or_give_up(j, text, strlen(text));
}

void cake_job_send(cake_job *j, const char *name, json_object *o) {
    if (j->x) {
        size_t len, n = 0;
        const char *text = json_text(o, &len);
        cake_text *t = &j->server->scratch;
        size_t need = len + (name ? strlen(name) : 0) + 32;
        if (need > t->cap) t->v = cake_realloc(t->v, t->cap = 2 * need);
        if (name) n = (size_t)snprintf(t->v, need, "event: %s\n", name);
        memcpy(t->v + n, "data: ", 6);
        memcpy(t->v + n + 6, text, len);
        memcpy(t->v + n + 6 + len, "\n\n", 2);
        write_or_give_up(j, t->v, n + len + 8);
    }
    json_object_put(o);
}

static void stream_begin(cake_job *j) {
    cake_http_header(j->x, "Cache-Control", "no-cache");
    cake_http_header(j->x, "X-Accel-Buffering", "no");
    cake_http_stream_begin(j->x, 200, "text/event-stream");
    j->streaming = true;
    j->last_write_ms = cake_now_ms();
    j->dialect->begin(j);
}

/* ---- what choices keep ---- */

const char *cake_choice_finish(const cake_choice *c) {
    return c->finish == CAKE_FINISH_NONE     ? NULL
           : c->finish == CAKE_FINISH_LENGTH ? "length"
           : c->n_calls                      ? "tool_calls"
                                             : "stop";
}

cake_usage cake_job_usage(const cake_job *j) {
    cake_usage u = {0};
    for (size_t i = 0; i < j->req.n_prompts; i++) u.prompt += j->ids[i].n;
    for (uint32_t i = 0; i < j->n_choices; i++) {
        u.generated += j->choices[i].n_generated;
        if (i == 0 || j->choices[i].prompt != j->choices[i - 1].prompt) /* a prompt counts once */
            u.cached += j->choices[i].n_cached;
    }
    return u;
}

static void new_call(cake_choice *c, const char *name, size_t len) {
    if ((c->n_calls & (c->n_calls - 1)) == 0) /* room doubles at powers of two */
        c->calls = cake_realloc(c->calls, (c->n_calls ? 2 * c->n_calls : 1) * sizeof *c->calls);
    cake_call *k = &c->calls[c->n_calls];
    *k = (cake_call){.name = cake_strndup(name, len)};
    /* Mistral's templates want exactly nine letters and digits. */
    uint64_t h = c->job->salt + 0x9E3779B97F4A7C15u * (1 + c->n_calls + 64u * c->index);
    h = (h ^ h >> 31) * 0xbf58476d1ce4e5b9u;
    cake_tool_format f = c->job->server->tool_format;
    bool mistral = f == CAKE_TOOLS_MISTRAL || f == CAKE_TOOLS_MISTRAL_ARGS;
    if (mistral)
        snprintf(k->id, sizeof k->id, "%09" PRIx64, h & 0xfffffffffu);
    else
        snprintf(k->id, sizeof k->id, "call_%016" PRIx64, h);
    c->n_calls++;
}

static void on_part(void *arg, cake_part_kind kind, const char *text, size_t len) {
    cake_choice *c = arg;
    cake_job *j = c->job;
    switch (kind) {
    case CAKE_PART_THINKING: cake_text_put(&c->thinking, text, len); break;
    case CAKE_PART_TEXT: cake_text_put(&c->text, text, len); break;
    case CAKE_PART_CALL: new_call(c, text, len); break;
    case CAKE_PART_ARGUMENTS: cake_text_put(&c->calls[c->n_calls - 1].arguments, text, len); break;
    }
    if (j->streaming && j->x) j->dialect->part(j, c, kind, text, len);
    if (j->streaming) c->pending = NULL;
}

static void keep_logprob(cake_choice *c, const cake_reply_logprob *lp) {
    if ((c->n_logprobs & (c->n_logprobs - 1)) == 0)
        c->logprobs = cake_realloc(c->logprobs,
                                   (c->n_logprobs ? 2 * c->n_logprobs : 1) * sizeof *c->logprobs);
    c->logprobs[c->n_logprobs++] = *lp;
}

/* The template is rendered now: how answers begin is known. */
static void begin_answers(cake_job *j) {
    const cake_api_request *r = &j->req;
    if (r->kind == CAKE_API_COMPLETION) return;
    for (uint32_t i = 0; i < j->n_choices; i++) {
        cake_answer_config c = {.thinks = true,
                                .thinking = j->thinking == CAKE_THINK_OPEN,
                                .format = r->choice == CAKE_TOOL_NONE ? CAKE_TOOLS_NONE
                                                                      : j->server->tool_format,
                                .tools = r->tool_name,
                                .n_tools = r->n_tools,
                                .one_call = r->one_call};
        j->choices[i].answer = cake_answer_new(&c, on_part, &j->choices[i]);
    }
}

static void on_text(cake_job *j, cake_choice *c, const cake_event *e) {
    if (j->streaming)
        c->pending = e->logprob;
    else if (e->logprob)
        keep_logprob(c, e->logprob);
    if (c->answer && e->len)
        cake_answer_push(c->answer, e->text, e->len);
    else if (e->len)
        on_part(c, CAKE_PART_TEXT, e->text, e->len);
    if (c->pending && j->x) j->dialect->part(j, c, CAKE_PART_TEXT, "", 0);
    c->pending = NULL;
    c->n_bytes += e->len;
}

static void on_finish(cake_job *j, cake_choice *c, const cake_event *e) {
    if (c->answer) cake_answer_end(c->answer);
    c->finish = e->finish;
    c->stop = e->stop;
    c->n_generated = e->n_generated;
    c->n_cached = e->n_cached;
    c->first_token_ns = e->first_token_ns;
    c->last_token_ns = e->last_token_ns;
    if (j->streaming && j->x) j->dialect->finish(j, c);
}

/* ---- events ---- */

static void reply_prepared(cake_job *j) {
    json_object *o = json_object_new_object();
    if (j->req.kind == CAKE_API_TOKENIZE) {
        json_object *a = json_object_new_array();
        for (size_t i = 0; i < j->ids[0].n; i++) {
            json_object *id = json_object_new_int64(j->ids[0].v[i]), *p = id;
            if (j->req.with_pieces) {
                p = json_object_new_object();
                json_object_object_add(p, "id", id);
                json_object_object_add(
                    p, "piece", cake_reply_token_text(j->server->engine.tokenizer, j->ids[0].v[i]));
            }
            json_object_array_add(a, p);
        }
        json_object_object_add(o, "tokens", a);
    } else if (j->req.kind == CAKE_API_COUNT) {
        json_object_object_add(o, "input_tokens", json_object_new_int64((int64_t)j->ids[0].n));
    } else {
        json_object_object_add(o, j->req.kind == CAKE_API_TEMPLATE ? "prompt" : "content",
                               json_object_new_string_len(j->text, (int)j->text_len));
    }
    cake_reply_json(j->x, 200, o);
}

static void on_over(cake_job *j) {
    cake_metrics *m = &j->server->metrics;
    if (j->n_choices) cake_histogram_add(&m->duration, (cake_now_ns() - j->start_ns) / 1000);
    if (!j->answered) {
        bool there = j->x != NULL;
        atomic_fetch_add(there ? &m->completed : &m->canceled, 1);
        j->answered = true;
        if (there && j->n_choices == 0) {
            reply_prepared(j);
        } else if (there && j->streaming) {
            j->dialect->end(j);
            if (j->x) cake_http_stream_end(j->x);
        } else if (there) {
            cake_reply_json(j->x, 200, j->dialect->whole(j));
        }
    }
    cake_job_free(j);
}

static void on_error(cake_job *j, const cake_api_error *e) {
    if (!j->x || j->answered) return;
    cake_exchange *x = j->x;
    j->answered = true;
    if (e->http == 504) atomic_fetch_add(&j->server->metrics.late, 1);
    if (e->http == 503) atomic_fetch_add(&j->server->metrics.lost, 1);
    if (j->streaming) {
        atomic_fetch_add(&j->server->metrics.failed, 1);
        const cake_dialect *d = j->dialect;
        cake_job_send(j, d->error_event, d->stream_error ? d->stream_error(e) : d->error(e));
        if (j->x) cake_http_stream_end(x);
        j->x = NULL;
    } else {
        j->x = NULL;
        if (e->http >= 500) atomic_fetch_add(&j->server->metrics.failed, 1);
        cake_reply_api_error(j->server, x, j->req.kind, e);
    }
}

void cake_job_on_event(cake_event *e) {
    cake_job *j = e->job;
    cake_choice *c = j->choices ? &j->choices[e->choice] : NULL;
    switch (e->kind) {
    case CAKE_EVENT_STARTED:
        begin_answers(j);
        if (j->x && j->req.stream) stream_begin(j);
        break;
    case CAKE_EVENT_PROGRESS:
        if (j->streaming && j->x && j->dialect->progress)
            j->dialect->progress(j, e->cached, e->done);
        break;
    case CAKE_EVENT_TEXT: on_text(j, c, e); break;
    case CAKE_EVENT_FINISH: on_finish(j, c, e); break;
    case CAKE_EVENT_ERROR: on_error(j, e->error); break;
    case CAKE_EVENT_OVER: on_over(j); break;
    }
}

void cake_jobs_tick(cake_serve *s) {
    int64_t now = cake_now_ms();
    for (cake_job *j = s->jobs; j; j = j->next) {
        if (!j->x || !j->streaming || j->answered || now - j->last_write_ms < KEEP_ALIVE_MS)
            continue;
        cake_job_send_text(j, j->dialect->keep_alive);
    }
}
