/* cake-master run: one prompt, its completion on stdout. */
#include "common/clock.h"
#include "common/json.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/commands/session.h"
#include "master/plan/plan_print.h"
#include "master/sampler/sampler.h"
#include "master/scheduler/scheduler.h"
#include "master/template/template.h"
#include "master/tokenizer/tokenizer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* One completion on its way. */
typedef struct {
    const cake_master_options *o;
    const cake_model *model;
    cake_tokenizer *tokenizer;
    cake_detok *detok;
    cake_sampler *sampler;
    cake_ids ids; /* prompt, then what was generated */
    size_t n_prompt, n_generated;
    uint32_t eos[CAKE_EOS_MAX + 2], n_eos;
    FILE *logits;
    bool over, write_failed;
    cake_done how;
    cake_error err;
    int64_t first_ms, last_ms; /* of generated tokens */
} completion;

/* ---- what ends a generation: generation_config.json, then config.json, then the tokenizer ---- */

static void add_eos(completion *c, int64_t id) {
    if (id < 0 || id >= c->model->config.vocab || c->n_eos == sizeof c->eos / sizeof *c->eos)
        return;
    for (uint32_t i = 0; i < c->n_eos; i++)
        if (c->eos[i] == (uint32_t)id) return;
    c->eos[c->n_eos++] = (uint32_t)id;
}

static void find_eos(completion *c) {
    char *path = cake_path_join(c->model->path, "generation_config.json");
    json_object *o = NULL, *v = NULL;
    if (cake_file_exists(path) && cake_json_read(path, 1 << 20, &o, NULL) == CAKE_OK &&
        json_object_object_get_ex(o, "eos_token_id", &v) && v) {
        if (json_object_is_type(v, json_type_int)) add_eos(c, json_object_get_int64(v));
        for (size_t i = 0;
             json_object_is_type(v, json_type_array) && i < json_object_array_length(v); i++)
            add_eos(c, json_object_get_int64(json_object_array_get_idx(v, i)));
    }
    json_object_put(o);
    free(path);
    if (c->n_eos == 0)
        for (uint32_t i = 0; i < c->model->config.n_eos; i++)
            add_eos(c, c->model->config.eos_ids[i]);
    if (c->n_eos == 0) add_eos(c, cake_tokenizer_eos(c->tokenizer));
}

static bool is_eos(const completion *c, uint32_t id) {
    for (uint32_t i = 0; i < c->n_eos; i++)
        if (c->eos[i] == id) return true;
    return false;
}

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
        if (c->o->system_prompt && !c->o->raw)
            return cake_fail(err, CAKE_EUSAGE,
                             "--system-prompt needs a chat template and this model has none; "
                             "put the text into the prompt");
        st = cake_tokenizer_encode(c->tokenizer, c->o->prompt, strlen(c->o->prompt),
                                   CAKE_TOK_ADD_SPECIAL, &c->ids, err);
    }
    free(text);
    c->n_prompt = c->ids.n;
    if (st == CAKE_OK && c->n_prompt == 0)
        return cake_fail(err, CAKE_EINVAL, "the prompt is empty");
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
    if (cake_sampler_pick(c->sampler, logits, c->ids.v, c->ids.n, position, token, &c->err) !=
        CAKE_OK)
        return false;
    c->last_ms = cake_now_ms();
    if (!c->n_generated) c->first_ms = c->last_ms;
    c->n_generated++;
    if (is_eos(c, *token)) return false;
    const char *text;
    size_t len;
    cake_detok_push(c->detok, *token, &text, &len);
    put_text(c, text, len);
    if (c->write_failed) return false; /* the reader of stdout went away */
    return cake_ids_push(&c->ids, *token, &c->err) == CAKE_OK &&
           (int64_t)c->n_generated < c->o->sample_len;
}

static void on_done(void *arg, cake_done how, const cake_error *err) {
    completion *c = arg;
    c->over = true;
    c->how = how;
    if (err) c->err = *err;
}

static cake_status sampler_of(const cake_master_options *o, uint32_t n_vocab, cake_sampler **out,
                              cake_error *err) {
    cake_sampler_params p;
    cake_sampler_params_default(&p);
    p.temperature = (float)o->temperature;
    p.top_k = (uint32_t)o->top_k;
    p.top_p = (float)o->top_p;
    p.min_p = (float)o->min_p;
    p.repeat_penalty = (float)o->repeat_penalty;
    p.repeat_last_n = (uint32_t)o->repeat_last_n;
    p.presence_penalty = (float)o->presence_penalty;
    p.frequency_penalty = (float)o->frequency_penalty;
    if (o->seed >= 0)
        p.seed = (uint64_t)o->seed;
    else if (getrandom(&p.seed, sizeof p.seed, 0) != sizeof p.seed)
        p.seed = cake_now_ns();
    cake_status st = cake_sampler_params_check(&p, n_vocab, err);
    if (st != CAKE_OK) return st;
    *out = cake_sampler_new(&p, n_vocab);
    return *out ? CAKE_OK : cake_fail(err, CAKE_ENOMEM, "no memory for the sampler");
}

static void report(const cake_session *s, const completion *c, const cake_scheduler *sched,
                   int64_t start_ms) {
    cake_scheduler_stats st;
    cake_scheduler_stats_get(sched, &st);
    double prefill = (double)(c->first_ms - start_ms) / 1e3,
           decode = (double)(c->last_ms - c->first_ms) / 1e3;
    cake_progress_line(
        s->progress, "prompt %zu tokens in %.2f s (%.1f/s), %zu generated in %.2f s (%.1f/s)",
        c->n_prompt, prefill, prefill > 0 ? (double)c->n_prompt / prefill : 0.0, c->n_generated,
        decode, decode > 0 ? (double)(c->n_generated - 1) / decode : 0.0);
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

static cake_status generate(cake_session *s, completion *c, cake_error *err) {
    cake_scheduler *sched;
    cake_status st = cake_scheduler_new(&sched, s->cluster, err);
    if (st != CAKE_OK) return st;
    uint64_t want = c->n_prompt + (uint64_t)c->o->sample_len;
    cake_sequence_request r = {.prompt = c->ids.v,
                               .n_prompt = (uint32_t)c->ids.n,
                               .arg = c,
                               .next = on_logits,
                               .done = on_done,
                               .max_positions = want < UINT32_MAX ? (uint32_t)want : UINT32_MAX};
    int64_t start_ms = cake_now_ms();
    if (c->o->echo) put_text(c, c->o->prompt, strlen(c->o->prompt));
    st = cake_scheduler_submit(sched, &r, NULL, err);
    while (st == CAKE_OK && !c->over) st = cake_scheduler_step(sched, 100, err);
    const char *tail;
    size_t len;
    cake_detok_flush(c->detok, &tail, &len);
    put_text(c, tail, len);
    put_text(c, "\n", 1);
    if (st == CAKE_OK && c->err.status != CAKE_OK)
        st = cake_fail(err, c->err.status, "%s", c->err.msg);
    if (st == CAKE_OK && c->write_failed)
        st = cake_fail(err, CAKE_EIO, "cannot write to standard output: %s", strerror(errno));
    if (st == CAKE_OK && c->how == CAKE_DONE_LENGTH && (int64_t)c->n_generated < c->o->sample_len)
        cake_progress_line(s->progress,
                           "the context of %u positions is full; --context gives more room",
                           cake_cluster_deployed(s->cluster)->options.context);
    if (c->n_generated) report(s, c, sched, start_ms);
    cake_scheduler_free(sched);
    return st;
}

cake_status cake_command_run(const cake_master_options *o, cake_error *err) {
    cake_session s;
    completion c = {.o = o};
    cake_status st = cake_session_open(&s, o, true, err);
    c.model = &s.model;
    if (st == CAKE_OK) st = cake_tokenizer_open(&c.tokenizer, s.model.path, err);
    if (st == CAKE_OK) {
        find_eos(&c);
        c.detok = cake_detok_new(c.tokenizer, true);
        st = make_prompt(&c, err);
    }
    if (st == CAKE_OK) st = sampler_of(o, s.model.config.vocab, &c.sampler, err);
    if (st == CAKE_OK && o->dump_logits && !(c.logits = fopen(o->dump_logits, "wbe")))
        st = cake_fail(err, CAKE_EIO, "cannot create '%s': %s", o->dump_logits, strerror(errno));
    if (st == CAKE_OK) st = cake_session_plan(&s, 1, err);
    if (st == CAKE_OK && !o->quiet) cake_plan_print(&s.plan.request, &s.plan.plan, stderr);
    if (st == CAKE_OK) st = cake_session_deploy(&s, err);
    if (st == CAKE_OK) st = generate(&s, &c, err);
    if (c.logits && fclose(c.logits) != 0 && st == CAKE_OK)
        st = cake_fail(err, CAKE_EIO, "cannot write '%s': %s", o->dump_logits, strerror(errno));
    cake_session_close(&s);
    cake_sampler_free(c.sampler);
    cake_detok_free(c.detok);
    cake_tokenizer_free(c.tokenizer);
    cake_ids_deinit(&c.ids);
    return st;
}
