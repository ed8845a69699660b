/* Jobs on their way: prepared on one thread, computed on the loop's. See server.h and jobs.h. */
#include "master/server/jobs.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POLL_MS = 250, REPLAYS_MAX = 8 };

char cake_serve_signal;

/* ---- events ---- */

static cake_event *event_new(cake_job *job, cake_event_kind kind, const char *text, size_t len) {
    cake_event *e = cake_malloc(sizeof *e + len);
    *e = (cake_event){.kind = kind, .job = job, .len = len};
    if (len) memcpy(e->text, text, len);
    return e;
}

static void post(cake_event *e) {
    cake_queue_push(e->job->server->to_http, e);
}

void cake_serve_event(cake_job *job, cake_event_kind kind) {
    post(event_new(job, kind, NULL, 0));
}

void cake_serve_error_event(cake_job *job, const cake_api_error *error) {
    cake_event *e = event_new(job, CAKE_EVENT_ERROR, NULL, 0);
    e->error = cake_malloc(sizeof *error);
    *e->error = *error;
    post(e);
}

void cake_event_free(cake_event *e) {
    free(e->error);
    free(e->logprob);
    free(e);
}

static void internal_error(cake_job *job, const cake_error *err) {
    cake_api_error e;
    bool ours = err->status == CAKE_EUNAVAIL || err->status == CAKE_ECANCELED,
         late = err->status == CAKE_ETIMEOUT;
    cake_api_fail(&e,
                  late   ? 504
                  : ours ? 503
                         : 500,
                  "server_error",
                  late   ? "deadline_exceeded"
                  : ours ? "unavailable"
                         : "internal",
                  NULL, "%s", err->msg);
    cake_serve_error_event(job, &e);
}

/* ---- prepare: template and tokens ---- */

static bool render(cake_job *j, cake_api_error *e) {
    const cake_serve_engine *g = &j->server->engine;
    cake_error err;
    if (!g->chat)
        return cake_api_fail(
            e, 400, "invalid_request_error", "no_chat_template", "messages",
            "this model has no chat template: give one with --chat-template FILE, or use plain "
            "completions (/v1/completions, the verb run)");
    bool tools = j->req.choice != CAKE_TOOL_NONE;
    if (tools && j->server->tool_format == CAKE_TOOLS_NONE)
        return cake_api_fail(
            e, 400, "invalid_request_error", "unsupported_parameter", "tools",
            "the chat template of this model shows no form of tool calls that this server reads "
            "(Hermes, Llama 3, Mistral); leave 'tools' out or set 'tool_choice' to \"none\"");
    cake_chat_request r = {.messages = j->req.messages,
                           .tools = tools ? j->req.tools : NULL,
                           .add_generation_prompt = true,
                           .extra_kwargs = j->req.kwargs};
    cake_status st = cake_chat_template_apply(g->chat, &r, &j->text, &j->text_len, &err);
    if (st == CAKE_OK) return true;
    return cake_api_fail(e, 400, "invalid_request_error", "template_error", "messages",
                         "the model's chat template refused the messages: %.600s", err.msg);
}

static bool encode(cake_job *j, const char *text, size_t len, unsigned flags, cake_ids *out,
                   const char *param, cake_api_error *e) {
    cake_error err;
    cake_status st =
        cake_tokenizer_encode(j->server->engine.tokenizer, text, len, flags, out, &err);
    if (st == CAKE_OK) return true;
    if (st == CAKE_ENOMEM)
        return cake_api_fail(e, 503, "server_error", "no_memory", NULL, "%s", err.msg);
    return cake_api_invalid(e, param, "'%s' cannot be tokenized: %.600s", param, err.msg);
}

static bool take_ids(cake_job *j, json_object *v, cake_ids *out, const char *param,
                     cake_api_error *e) {
    cake_error err;
    for (size_t i = 0; i < json_object_array_length(v); i++) {
        int64_t id = json_object_get_int64(json_object_array_get_idx(v, i));
        if (id >= j->server->engine.n_vocab)
            return cake_api_invalid(e, param, "'%s': token %lld is outside the vocabulary of %u",
                                    param, (long long)id, j->server->engine.n_vocab);
        if (cake_ids_push(out, (uint32_t)id, &err) != CAKE_OK)
            return cake_api_fail(e, 503, "server_error", "no_memory", NULL, "%s", err.msg);
    }
    return true;
}

static bool check_prompt(cake_job *j, const cake_ids *ids, const char *param, cake_api_error *e) {
    const cake_serve_engine *g = &j->server->engine;
    if (ids->n == 0) return cake_api_invalid(e, param, "'%s' is empty", param);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->v[i] >= g->n_vocab)
            return cake_api_invalid(e, param, "'%s': token %u is outside the model's vocabulary",
                                    param, ids->v[i]);
    if (ids->n > g->context)
        return cake_api_fail(
            e, 400, "invalid_request_error", "context_length_exceeded", param,
            "This model's maximum context length is %u tokens, however your prompt has %zu tokens. "
            "Please shorten it, or start the server with a larger --context.",
            g->context, ids->n);
    return true;
}

/* Answers that must be of a form get a grammar. */
static bool make_grammar(cake_job *j, cake_api_error *e) {
    const cake_api_request *r = &j->req;
    const cake_serve *s = j->server;
    bool must_call = r->choice == CAKE_TOOL_REQUIRED || r->choice == CAKE_TOOL_NAMED;
    j->thinking = cake_thinking_of(s->engine.tokenizer, j->text, j->text_len);
    if (!must_call && r->format == CAKE_FORMAT_TEXT) return true;
    cake_answer_grammar q = {.format = s->tool_format,
                             .tools = r->tools,
                             .strict = r->tool_strict,
                             .chosen = r->choice == CAKE_TOOL_NAMED ? r->chosen_tool : NULL,
                             .calls = r->choice != CAKE_TOOL_NONE,
                             .one_call = r->one_call || r->choice == CAKE_TOOL_NAMED,
                             .text = !must_call,
                             .schema = r->format == CAKE_FORMAT_SCHEMA ? r->schema : NULL,
                             .thinking = j->thinking};
    cake_error err;
    int tool;
    cake_status st = cake_answer_grammar_new(&j->grammar, &q, s->trie, &tool, &err);
    if (st == CAKE_OK) return true;
    char param[64] = "response_format";
    if (tool >= 0)
        snprintf(param, sizeof param, "tools[%d].function.parameters", tool);
    else if (must_call)
        snprintf(param, sizeof param, "tool_choice");
    return cake_api_fail(e, 400, "invalid_request_error",
                         st == CAKE_EUNSUPPORTED ? "unsupported_schema" : "invalid_schema", param,
                         "'%s' cannot be followed: %.700s", param, err.msg);
}

static bool prepare(cake_job *j, cake_api_error *e) {
    const cake_api_request *r = &j->req;
    cake_error err;
    switch (r->kind) {
    case CAKE_API_TEMPLATE: return render(j, e);
    case CAKE_API_COUNT:
        return render(j, e) &&
               encode(j, j->text, j->text_len, CAKE_TOK_PARSE_SPECIAL, &j->ids[0], "messages", e);
    case CAKE_API_CHAT:
    case CAKE_API_MESSAGES:
    case CAKE_API_RESPONSES:
        return render(j, e) && make_grammar(j, e) &&
               encode(j, j->text, j->text_len, CAKE_TOK_PARSE_SPECIAL, &j->ids[0], "messages", e) &&
               check_prompt(j, &j->ids[0], "messages", e);
    case CAKE_API_COMPLETION:
        for (size_t i = 0; i < r->n_prompts; i++) {
            const cake_api_prompt *p = &r->prompt[i];
            if (!(p->text
                      ? encode(j, p->text, p->len, CAKE_TOK_ADD_SPECIAL, &j->ids[i], "prompt", e)
                      : take_ids(j, p->ids, &j->ids[i], "prompt", e)) ||
                !check_prompt(j, &j->ids[i], "prompt", e))
                return false;
        }
        return true;
    case CAKE_API_TOKENIZE:
        return encode(j, r->prompt[0].text, r->prompt[0].len,
                      (r->add_special ? CAKE_TOK_ADD_SPECIAL : 0u) |
                          (r->parse_special ? CAKE_TOK_PARSE_SPECIAL : 0u),
                      &j->ids[0], "content", e);
    case CAKE_API_DETOKENIZE:
        if (!take_ids(j, r->prompt[0].ids, &j->ids[0], "tokens", e)) return false;
        if (cake_tokenizer_decode(j->server->engine.tokenizer, j->ids[0].v, j->ids[0].n, false,
                                  &j->text, &j->text_len, &err) != CAKE_OK)
            return cake_api_fail(e, 503, "server_error", "no_memory", NULL, "%s", err.msg);
        return true;
    }
    return false;
}

void *cake_serve_prepare_thread(void *server) {
    cake_serve *s = server;
    for (;;) {
        void *item = cake_queue_pop(s->to_prepare, -1, 0);
        if (item == &cake_serve_signal) return NULL;
        cake_job *j = item;
        cake_api_error e;
        if (atomic_load(&j->canceled)) {
            cake_serve_event(j, CAKE_EVENT_OVER);
        } else if (!prepare(j, &e)) {
            cake_serve_error_event(j, &e);
            cake_serve_event(j, CAKE_EVENT_OVER);
        } else if (j->n_choices) {
            cake_queue_push(s->to_loop, j);
        } else {
            cake_serve_event(j, CAKE_EVENT_OVER);
        }
    }
}

/* ---- the loop: computing ---- */

static void job_release(cake_job *j) {
    cake_serve *s = j->server;
    if (--j->n_running) return;
    for (cake_job **at = &s->active; *at; at = &(*at)->loop_next)
        if (*at == j) {
            *at = j->loop_next;
            break;
        }
    cake_serve_event(j, CAKE_EVENT_OVER); /* j is not ours any more */
}

static void send_text(cake_choice *c, const char *text, size_t len, cake_reply_logprob *lp) {
    if (len == 0 && !lp) return;
    cake_event *e = event_new(c->job, CAKE_EVENT_TEXT, text, len);
    e->choice = c->index;
    e->logprob = lp;
    post(e);
}

static cake_reply_logprob *logprob_of(cake_choice *c, const float *logits, uint32_t token) {
    cake_reply_logprob *lp = cake_calloc(1, sizeof *lp);
    lp->token = token;
    lp->n_top = c->job->req.top_logprobs;
    if (lp->n_top > c->gen->config.n_vocab) lp->n_top = c->gen->config.n_vocab;
    if (cake_sampler_logprobs(c->gen->chooser, logits, token, lp->n_top, &lp->logprob, lp->top,
                              NULL) != CAKE_OK)
        lp->n_top = 0;
    return lp;
}

static void count_token(cake_choice *c) {
    cake_metrics *m = &c->job->server->metrics;
    uint64_t now = cake_now_ns();
    atomic_fetch_add_explicit(&m->generation_tokens, 1, memory_order_relaxed);
    if (c->last_ns)
        cake_histogram_add(&m->inter_token, (now - c->last_ns) / 1000);
    else
        cake_histogram_add(&m->first_token, (now - c->job->start_ns) / 1000);
    if (!c->first_ns) c->first_ns = now;
    c->last_ns = now;
}

static bool on_logits(void *arg, uint32_t position, float *logits, uint32_t n_vocab,
                      uint32_t *token) {
    cake_choice *c = arg;
    (void)n_vocab;
    if (atomic_load_explicit(&c->job->canceled, memory_order_relaxed)) return false;
    const char *text;
    size_t len;
    bool more = cake_generation_next(c->gen, position, logits, token, &text, &len);
    if (c->gen->finish == CAKE_FINISH_ERROR) return false;
    count_token(c);
    send_text(c, text, len, c->job->req.logprobs ? logprob_of(c, logits, *token) : NULL);
    return more;
}

static void on_progress(void *arg, uint32_t cached, uint32_t done) {
    cake_choice *c = arg;
    if (c->replays == 0) c->cached = cached;
    if (!c->job->req.return_progress || c->index || c->replays || done <= c->told) return;
    c->told = done;
    cake_event *e = event_new(c->job, CAKE_EVENT_PROGRESS, NULL, 0);
    e->cached = cached;
    e->done = done;
    post(e);
}

/* Was it the workers, and may they be other ones next time? What a stage refused it would refuse
 * again. */
static bool can_go_on(const cake_choice *c, const cake_error *err) {
    const cake_serve *s = c->job->server;
    return cake_scheduler_broken(s->scheduler) && c->replays < REPLAYS_MAX &&
           (err->status == CAKE_EUNAVAIL || err->status == CAKE_ETIMEOUT) &&
           c->gen->finish == CAKE_FINISH_NONE && !atomic_load(&c->job->canceled);
}

static void on_done(void *arg, cake_done how, const cake_error *err) {
    cake_choice *c = arg;
    cake_job *j = c->job;
    cake_generation *g = c->gen;
    if (how == CAKE_DONE_ERROR && can_go_on(c, err)) {
        c->suspended = true;
        return;
    }
    c->over = true;
    if (how == CAKE_DONE_LENGTH && g->finish == CAKE_FINISH_NONE) g->finish = CAKE_FINISH_LENGTH;
    if (how == CAKE_DONE_ERROR || g->finish == CAKE_FINISH_ERROR) {
        internal_error(j, how == CAKE_DONE_ERROR ? err : &g->error);
    } else if (g->finish == CAKE_FINISH_NONE) { /* cancelled */
        if (!atomic_load(&j->canceled)) {
            cake_error why;
            cake_fail(&why, CAKE_ECANCELED, "the server is shutting down");
            internal_error(j, &why);
        }
    } else {
        const char *text;
        size_t len;
        cake_generation_end(g, &text, &len);
        send_text(c, text, len, NULL);
        cake_event *e = event_new(j, CAKE_EVENT_FINISH, NULL, 0);
        e->choice = c->index;
        e->finish = g->finish;
        e->stop = g->stopper.hit ? (int)g->stopper.which : -1;
        e->n_generated = g->n_generated;
        e->n_cached = c->cached;
        e->first_token_ns = c->first_ns;
        e->last_token_ns = c->last_ns;
        post(e);
    }
    cake_generation_free(g);
    c->gen = NULL;
    job_release(j);
}

/* What g has so far, prompt and answer, as a sequence that goes on from there. */
static cake_status submit(cake_choice *c, cake_error *err) {
    const cake_job *j = c->job;
    const cake_serve_config *config = &j->server->config;
    const cake_generation *g = c->gen;
    cake_sequence_request q = {
        .prompt = g->ids.v,
        .n_prompt = (uint32_t)g->ids.n,
        .max_positions = (uint32_t)(g->n_prompt + g->config.max_tokens - 1),
        .client = j->client,
        .priority = j->req.priority,
        .deadline_ns = config->deadline_ns ? j->start_ns + config->deadline_ns : 0,
        .speculate = config->speculate ? CAKE_SPECULATE_AUTO : CAKE_SPECULATE_OFF,
        .arg = c,
        .next = on_logits,
        .progress = on_progress,
        .done = on_done};
    return cake_scheduler_submit(j->server->scheduler, &q, &c->sequence, err);
}

static cake_status submit_choice(cake_choice *c, cake_error *err) {
    cake_job *j = c->job;
    cake_serve *s = j->server;
    const cake_api_request *r = &j->req;
    const cake_ids *ids = &j->ids[c->prompt];
    uint64_t room = s->engine.context - ids->n + 1; /* the last token needs no position */
    uint64_t max =
        r->max_tokens > 0 && (uint64_t)r->max_tokens < room ? (uint64_t)r->max_tokens : room;
    cake_generation_config g = {.tokenizer = s->engine.tokenizer,
                                .eos = &s->engine.eos,
                                .sampler = r->sampler,
                                .n_vocab = s->engine.n_vocab,
                                .max_tokens = max,
                                .stop = r->stop,
                                .n_stop = r->n_stop,
                                .ignore_eos = r->ignore_eos,
                                .shown = s->shown,
                                .n_shown = r->kind == CAKE_API_COMPLETION ? 0 : s->n_shown,
                                .grammar = j->grammar,
                                .trie = s->trie,
                                .continues = r->kind == CAKE_API_COMPLETION};
    g.sampler.seed += c->index;
    cake_status st = cake_generation_new(&c->gen, &g, ids->v, ids->n, err);
    if (st != CAKE_OK) return st;
    st = submit(c, err);
    if (st == CAKE_OK) {
        j->n_running++;
    } else {
        cake_generation_free(c->gen);
        c->gen = NULL;
    }
    return st;
}

static void cancel_choices(cake_job *j) {
    j->n_running++;
    for (uint32_t i = 0; i < j->n_choices; i++)
        if (j->choices[i].gen && !j->choices[i].over)
            cake_scheduler_cancel(j->server->scheduler, j->choices[i].sequence);
    job_release(j);
}

static void start_job(cake_serve *s, cake_job *j) {
    j->n_running = 1;
    j->loop_next = s->active;
    s->active = j;
    cake_error err;
    cake_status st = CAKE_OK;
    if (!atomic_load(&j->canceled)) {
        for (uint32_t i = 0; st == CAKE_OK && i < j->n_choices; i++)
            st = submit_choice(&j->choices[i], &err);
        if (st != CAKE_OK) {
            cake_api_error e;
            if (st == CAKE_EINVAL)
                cake_api_invalid(&e, NULL, "%s", err.msg);
            else if (st == CAKE_EAGAIN)
                cake_api_fail(&e, 429, "rate_limit_error", "queue_full", NULL, "%s", err.msg);
            else
                cake_api_fail(&e, 503, "server_error", "unavailable", NULL, "%s", err.msg);
            cake_serve_error_event(j, &e);
            atomic_store(&j->canceled, true);
            cancel_choices(j);
        } else {
            for (size_t i = 0; i < j->req.n_prompts; i++)
                atomic_fetch_add(&s->metrics.prompt_tokens, j->ids[i].n);
            cake_serve_event(j, CAKE_EVENT_STARTED);
        }
    }
    job_release(j);
}

static void take_orders(cake_serve *s) {
    bool look = false;
    for (void *item; (item = cake_queue_pop(s->to_loop, 0, 0));) {
        if (item == &cake_serve_signal)
            look = true;
        else
            start_job(s, item);
    }
    if (!look) return;
    for (cake_job *j = s->active, *next; j; j = next) {
        next = j->loop_next;
        if (atomic_load(&j->canceled)) cancel_choices(j);
    }
}

/* ---- after a loss ---- */

/* End a suspended answer; why NULL: nobody waits for it. */
static void end_suspended(cake_choice *c, const cake_error *why) {
    cake_job *j = c->job;
    c->suspended = false;
    c->over = true;
    if (why) internal_error(j, why);
    cake_generation_free(c->gen);
    c->gen = NULL;
    job_release(j);
}

static void for_suspended(cake_serve *s, void (*fn)(cake_choice *c, const cake_error *why),
                          const cake_error *why) {
    for (cake_job *j = s->active, *next; j; j = next) {
        next = j->loop_next;
        j->n_running++; /* stays until the last of its choices was looked at */
        for (uint32_t i = 0; i < j->n_choices; i++)
            if (j->choices[i].suspended) fn(&j->choices[i], why);
        job_release(j);
    }
}

static void resume(cake_choice *c, const cake_error *why) {
    cake_error err;
    (void)why;
    if (atomic_load(&c->job->canceled)) {
        end_suspended(c, NULL);
    } else if (submit(c, &err) != CAKE_OK) {
        end_suspended(c, &err);
    } else {
        c->suspended = false;
        c->replays++;
        atomic_fetch_add(&c->job->server->metrics.replays, 1);
    }
}

void cake_serve_abandon(cake_serve *s, const cake_error *why) {
    cake_error e;
    cake_fail(&e, CAKE_EUNAVAIL, "%s", why->msg);
    for_suspended(s, end_suspended, &e);
}

static void snapshot(cake_serve *s, const cake_cluster *c) {
    atomic_store(&s->heard_ms, cake_cluster_heard_ms(c));
    cake_scheduler_stats st;
    cake_scheduler_stats_get(s->scheduler, &st);
    atomic_store_explicit(&s->metrics.running, st.running, memory_order_relaxed);
    atomic_store_explicit(&s->metrics.waiting, st.waiting, memory_order_relaxed);
    cake_metrics *m = &s->metrics;
    atomic_store_explicit(&m->in_flight, st.in_flight, memory_order_relaxed);
    atomic_store_explicit(&m->kv_blocks, st.kv.blocks, memory_order_relaxed);
    atomic_store_explicit(&m->kv_free_blocks, st.kv.free_blocks, memory_order_relaxed);
    atomic_store_explicit(&m->open, st.kv.open, memory_order_relaxed);
    atomic_store_explicit(&m->kept, st.kv.kept, memory_order_relaxed);
    atomic_store_explicit(&m->cached_tokens, st.cached_rows, memory_order_relaxed);
    atomic_store_explicit(&m->batches_canceled, st.canceled, memory_order_relaxed);
    atomic_store_explicit(&m->guessed_tokens, st.guessed, memory_order_relaxed);
    atomic_store_explicit(&m->guessed_right, st.guessed_right, memory_order_relaxed);
}

void cake_serve_observe(void *server, const cake_cluster *c) {
    cake_serve *s = server;
    cake_worker_metrics_observe(s->workers, c, s->scheduler);
    if (cake_cluster_view_observe(s->view, c, s->scheduler, &s->metrics))
        cake_queue_push(s->to_http, &cake_serve_signal);
}

cake_status cake_serve_loop(cake_serve *s, cake_cluster *c, cake_error *err) {
    cake_status st = cake_scheduler_new(&s->scheduler, c, err);
    if (st != CAKE_OK) return st;
    cake_scheduler_wake_on(s->scheduler, cake_queue_fd(s->to_loop));
    for_suspended(s, resume, NULL);
    cake_cluster_view_set_reason(s->view, NULL);
    atomic_store(&s->state, CAKE_SERVE_READY);
    cake_queue_push(s->to_http, &cake_serve_signal);
    while (st == CAKE_OK) {
        take_orders(s);
        snapshot(s, c);
        st = cake_scheduler_step(s->scheduler, POLL_MS, err);
    }
    atomic_store(&s->state, CAKE_SERVE_DOWN);
    cake_cluster_view_set_reason(s->view, err ? err->msg : "");
    cake_serve_observe(s, c); /* while it still shows who is lost */
    take_orders(s);           /* what came meanwhile ends with the rest */
    cake_scheduler_free(s->scheduler);
    s->scheduler = NULL;
    atomic_store(&s->metrics.running, 0);
    atomic_store(&s->metrics.waiting, 0);
    return st;
}
