/* cake-master run: one prompt, its completion on stdout. */
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/commands/session.h"
#include "master/generate/generate.h"
#include "master/plan/plan_print.h"
#include "master/scheduler/scheduler.h"
#include "master/template/template.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { REPLAYS_MAX = 8 };

/* One completion on its way. */
typedef struct {
    const cake_master_options *o;
    const cake_model *model;
    cake_tokenizer *tokenizer;
    cake_eos eos;
    cake_ids ids; /* of the prompt */
    cake_generation *gen;
    FILE *logits;
    bool continues; /* the prompt as it is: no chat form */
    bool over, write_failed;
    cake_done how;
    cake_error err;
    int64_t first_ms, last_ms; /* of generated tokens */
} completion;

/* ---- prompt ---- */

/* The prompt in the model's chat form; CAKE_ENOTFOUND when the model has none. */
static cake_status chat_text(const completion *c, char **text, size_t *len, cake_error *err) {
    cake_chat_template *t;
    cake_status st = cake_chat_template_open(&t, c->model->path, err);
    if (st != CAKE_OK) return st;
    json_object *messages = json_object_new_array();
    const char *role[] = {"system", "user"}, *content[] = {c->o->system_prompt, c->o->prompt};
    for (int i = 0; i < 2; i++) {
        if (!content[i]) continue;
        json_object *m = json_object_new_object();
        json_object_object_add(m, "role", json_object_new_string(role[i]));
        json_object_object_add(m, "content", json_object_new_string(content[i]));
        json_object_array_add(messages, m);
    }
    cake_chat_request req = {.messages = messages, .add_generation_prompt = true};
    st = cake_chat_template_apply(t, &req, text, len, err);
    json_object_put(messages);
    cake_chat_template_free(t);
    return st;
}

static cake_status make_prompt(completion *c, cake_error *err) {
    char *text = NULL;
    size_t len = 0;
    cake_status st = c->o->raw ? CAKE_ENOTFOUND : chat_text(c, &text, &len, err);
    if (st == CAKE_OK) {
        /* The template writes the special tokens itself. */
        st = cake_tokenizer_encode(c->tokenizer, text, len, CAKE_TOK_PARSE_SPECIAL, &c->ids, err);
    } else if (st == CAKE_ENOTFOUND) {
        c->continues = true;
        if (c->o->system_prompt && !c->o->raw)
            return cake_fail(err, CAKE_EUSAGE,
                             "--system-prompt needs a chat template and this model has none; "
                             "put the text into the prompt");
        st = cake_tokenizer_encode(c->tokenizer, c->o->prompt, strlen(c->o->prompt),
                                   CAKE_TOK_ADD_SPECIAL, &c->ids, err);
    }
    free(text);
    if (st == CAKE_OK && c->ids.n == 0) return cake_fail(err, CAKE_EINVAL, "the prompt is empty");
    return st;
}

/* ---- generation ---- */

static void put_text(completion *c, const char *text, size_t len) {
    if (len && (fwrite(text, 1, len, stdout) != len || fflush(stdout) != 0)) c->write_failed = true;
}

static bool on_logits(void *arg, uint32_t position, float *logits, uint32_t n_vocab,
                      uint32_t *token) {
    completion *c = arg;
    if (c->logits && fwrite(logits, sizeof *logits, n_vocab, c->logits) != n_vocab) {
        cake_fail(&c->err, CAKE_EIO, "cannot write '%s': %s", c->o->dump_logits, strerror(errno));
        return false;
    }
    const char *text;
    size_t len;
    bool more = cake_generation_next(c->gen, position, logits, token, &text, &len);
    if (c->gen->finish == CAKE_FINISH_ERROR) {
        c->err = c->gen->error;
        return false;
    }
    c->last_ms = cake_now_ms();
    if (c->gen->n_generated == 1) c->first_ms = c->last_ms;
    put_text(c, text, len);
    return more && !c->write_failed; /* the reader of stdout may go away */
}

static void on_done(void *arg, cake_done how, const cake_error *err) {
    completion *c = arg;
    c->over = true;
    c->how = how;
    if (err) c->err = *err;
}

static cake_status start(completion *c, cake_error *err) {
    const cake_master_options *o = c->o;
    cake_generation_config g = {.tokenizer = c->tokenizer,
                                .eos = &c->eos,
                                .n_vocab = c->model->config.vocab,
                                .max_tokens = (uint64_t)o->sample_len,
                                .continues = c->continues};
    cake_sampler_params *p = &g.sampler;
    cake_sampler_params_default(p);
    p->temperature = (float)o->temperature;
    p->top_k = (uint32_t)o->top_k;
    p->top_p = (float)o->top_p;
    p->min_p = (float)o->min_p;
    p->repeat_penalty = (float)o->repeat_penalty;
    p->repeat_last_n = (uint32_t)o->repeat_last_n;
    p->presence_penalty = (float)o->presence_penalty;
    p->frequency_penalty = (float)o->frequency_penalty;
    if (o->seed >= 0)
        p->seed = (uint64_t)o->seed;
    else if (getrandom(&p->seed, sizeof p->seed, 0) != sizeof p->seed)
        p->seed = cake_now_ns();
    return cake_generation_new(&c->gen, &g, c->ids.v, c->ids.n, err);
}

static void report(const cake_session *s, const completion *c, const cake_scheduler *sched,
                   int64_t start_ms) {
    cake_scheduler_stats st;
    cake_scheduler_stats_get(sched, &st);
    double prefill = (double)(c->first_ms - start_ms) / 1e3,
           decode = (double)(c->last_ms - c->first_ms) / 1e3;
    cake_progress_line(
        s->progress, "prompt %zu tokens in %.2f s (%.1f/s), %zu generated in %.2f s (%.1f/s)",
        c->ids.n, prefill, prefill > 0 ? (double)c->ids.n / prefill : 0.0, c->gen->n_generated,
        decode, decode > 0 ? (double)(c->gen->n_generated - 1) / decode : 0.0);
    const cake_cluster_plan *p = cake_cluster_deployed(s->cluster);
    double stages_ms = 0, batches = st.batches ? (double)st.batches : 1;
    for (uint32_t i = 0; p && i < st.n_stages; i++) {
        char units[64];
        double ms = (double)st.stage[i].compute_ns / 1e6 / batches;
        stages_ms += ms;
        cake_progress_line(
            s->progress, "  stage %u  %-20s %-16s %8.3f ms per batch%s", i,
            p->request.nodes[p->plan.stages[i].node].name,
            cake_plan_units_text(units, p->request.n_layers, p->plan.stages[i].unit_begin,
                                 p->plan.stages[i].unit_end),
            ms, cake_cluster_stage_relayed(s->cluster, i) ? "  (relayed by the master)" : "");
    }
    cake_progress_line(s->progress, "  between stages%*s %8.3f ms per batch", 32, "",
                       (double)st.flight_ns / 1e6 / batches - stages_ms);
}

/* Compute what is missing over the deployed plan. *lost: a worker was lost under it, and the text
 * so far is good. */
static cake_status compute(cake_session *s, completion *c, bool *lost, cake_error *err) {
    cake_scheduler *sched;
    cake_status st = cake_scheduler_new(&sched, s->cluster, err);
    if (st != CAKE_OK) return st;
    uint64_t want = c->ids.n + (uint64_t)c->o->sample_len;
    /* after a loss: prompt and answer so far, whose next logits are the same bits */
    cake_sequence_request r = {.prompt = c->gen->ids.v,
                               .n_prompt = (uint32_t)c->gen->ids.n,
                               .speculate = c->o->speculate == CAKE_OPTION_SPECULATE_AUTO
                                                ? CAKE_SPECULATE_AUTO
                                                : CAKE_SPECULATE_OFF,
                               .arg = c,
                               .next = on_logits,
                               .done = on_done,
                               .max_positions = want < UINT32_MAX ? (uint32_t)want : UINT32_MAX};
    int64_t start_ms = cake_now_ms();
    c->over = false;
    c->err = (cake_error){0};
    st = cake_scheduler_submit(sched, &r, NULL, err);
    while (st == CAKE_OK && !c->over) st = cake_scheduler_step(sched, 100, err);
    *lost = cake_scheduler_broken(sched) && (st == CAKE_EUNAVAIL || st == CAKE_ETIMEOUT) &&
            c->gen->finish == CAKE_FINISH_NONE;
    if (!*lost && c->gen->n_generated) report(s, c, sched, start_ms);
    cake_scheduler_free(sched);
    return st;
}

static cake_status deploy(cake_session *s, cake_error *err) {
    cake_status st = cake_session_plan(s, 1, err);
    if (st == CAKE_OK && !s->o->quiet) cake_plan_print(&s->plan.request, &s->plan.plan, stderr);
    return st == CAKE_OK ? cake_session_deploy(s, err) : st;
}

/* A new plan over whoever is there now. o becomes the session's options; the session is open again
 * in any case. */
static cake_status recover(cake_session *s, const cake_master_options *o, const cake_error *why,
                           cake_error *err) {
    const int64_t deadline = cake_now_ms() + o->recover_timeout_ms;
    cake_progress_line(s->progress, "%s", why->msg);
    cake_progress_line(s->progress, "planning again, the text goes on where it is");
    for (;;) {
        cake_session_close(s);
        cake_status st = cake_session_open(s, o, true, err);
        if (st == CAKE_OK) st = deploy(s, err);
        if (st == CAKE_OK || st == CAKE_ECANCELED || cake_now_ms() > deadline) return st;
        usleep(500000);
    }
}

static cake_status generate(cake_session *s, completion *c, cake_error *err) {
    bool lost = false;
    cake_master_options left = *c->o;
    left.min_workers = 0; /* better fewer than none */
    if (c->o->echo) put_text(c, c->o->prompt, strlen(c->o->prompt));
    cake_status st = compute(s, c, &lost, err);
    for (int i = 0; lost && c->o->recover_timeout_ms && i < REPLAYS_MAX; i++) {
        cake_error why = *err;
        st = recover(s, &left, &why, err);
        lost = false;
        if (st == CAKE_OK) st = compute(s, c, &lost, err);
    }
    s->o = c->o;
    const char *tail;
    size_t len;
    cake_generation_end(c->gen, &tail, &len);
    put_text(c, tail, len);
    put_text(c, "\n", 1);
    if (st == CAKE_OK && c->err.status != CAKE_OK)
        st = cake_fail(err, c->err.status, "%s", c->err.msg);
    if (st == CAKE_OK && c->write_failed)
        st = cake_fail(err, CAKE_EIO, "cannot write to standard output: %s", strerror(errno));
    if (st == CAKE_OK && c->how == CAKE_DONE_LENGTH &&
        (int64_t)c->gen->n_generated < c->o->sample_len)
        cake_progress_line(s->progress,
                           "the context of %u positions is full; --context gives more room",
                           cake_cluster_deployed(s->cluster)->options.context);
    return st;
}

cake_status cake_command_run(const cake_master_options *o, cake_error *err) {
    cake_session s;
    completion c = {.o = o};
    cake_status st = cake_session_open(&s, o, true, err);
    c.model = &s.model;
    if (st == CAKE_OK) st = cake_tokenizer_open(&c.tokenizer, s.model.path, err);
    if (st == CAKE_OK) {
        cake_eos_find(&c.eos, &s.model, c.tokenizer);
        st = make_prompt(&c, err);
    }
    if (st == CAKE_OK) st = start(&c, err);
    if (st == CAKE_OK && o->dump_logits && !(c.logits = fopen(o->dump_logits, "wbe")))
        st = cake_fail(err, CAKE_EIO, "cannot create '%s': %s", o->dump_logits, strerror(errno));
    if (st == CAKE_OK) st = deploy(&s, err);
    if (st == CAKE_OK) st = generate(&s, &c, err);
    if (c.logits && fclose(c.logits) != 0 && st == CAKE_OK)
        st = cake_fail(err, CAKE_EIO, "cannot write '%s': %s", o->dump_logits, strerror(errno));
    cake_session_close(&s);
    cake_generation_free(c.gen);
    cake_tokenizer_free(c.tokenizer);
    cake_ids_deinit(&c.ids);
    return st;
}
