/* cake-master bench: tokens per second of a model over the cluster, prompts and decoding apart. */
#include "common/clock.h"
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/commands/session.h"
#include "master/plan/plan_print.h"
#include "master/scheduler/scheduler.h"

#include <stdio.h>
#include <stdlib.h>

enum { PROMPT = 512, DECODE = 64, STREAMS_MAX = 16 };

/* What the streams of a measurement share. Rates are those of the time in which all streams decode:
 * from the first token of the last to the last token of the first. */
typedef struct {
    uint32_t n_streams, n_begun, n_ended;
    uint64_t tokens;           /* of all streams */
    uint64_t begin_ns, end_ns; /* of that time; 0: not yet */
    uint64_t begin_tokens, end_tokens;
} crowd;

typedef struct {
    crowd *all;
    uint32_t want, got;
    bool failed;
    cake_error err;
} stream;

static bool on_logits(void *arg, uint32_t position, float *logits, uint32_t n_vocab,
                      uint32_t *token) {
    stream *t = arg;
    crowd *c = t->all;
    (void)logits;
    const uint64_t now = cake_now_ns();
    if (t->got) c->tokens++;
    if (!t->got && ++c->n_begun == c->n_streams) c->begin_ns = now, c->begin_tokens = c->tokens;
    *token = (position * 7919u + 13u) % n_vocab;
    if (++t->got <= t->want) return true;
    if (!c->n_ended++) c->end_ns = now, c->end_tokens = c->tokens;
    return false;
}

static void on_done(void *arg, cake_done how, const cake_error *err) {
    stream *t = arg;
    t->failed = how == CAKE_DONE_ERROR;
    if (err) t->err = *err;
}

/* n streams with a prompt each; *prefill_s: until all prompts were done, *rate: tokens per second
 * while all decode. */
static cake_status measure(cake_session *s, uint32_t n, uint32_t prompt, uint32_t decode,
                           double *prefill_s, double *rate, cake_scheduler_stats *stats,
                           cake_error *err) {
    cake_scheduler *sched;
    cake_status st = cake_scheduler_new(&sched, s->cluster, err);
    if (st != CAKE_OK) return st;
    stream *t = cake_calloc(n, sizeof *t);
    crowd all = {.n_streams = n};
    uint32_t *ids = cake_malloc(prompt * sizeof *ids), vocab = s->model.config.vocab;
    uint64_t start = cake_now_ns();
    for (uint32_t i = 0; st == CAKE_OK && i < n; i++) {
        for (uint32_t k = 0; k < prompt; k++) ids[k] = (k * 31u + i * 17u + 1u) % vocab;
        t[i].all = &all;
        /* the first to be dealt with goes on until the last decodes too */
        t[i].want = decode + (n > 1 ? decode : 0);
        cake_sequence_request r = {
            .prompt = ids, .n_prompt = prompt, .arg = &t[i], .next = on_logits, .done = on_done};
        st = cake_scheduler_submit(sched, &r, NULL, err);
    }
    while (st == CAKE_OK && !cake_scheduler_idle(sched)) st = cake_scheduler_step(sched, 100, err);
    for (uint32_t i = 0; i < n; i++)
        if (st == CAKE_OK && t[i].failed) st = cake_fail(err, t[i].err.status, "%s", t[i].err.msg);
    *prefill_s = (double)(all.begin_ns - start) * 1e-9;
    *rate = all.end_ns > all.begin_ns ? (double)(all.end_tokens - all.begin_tokens) * 1e9 /
                                            (double)(all.end_ns - all.begin_ns)
                                      : 0;
    if (stats) cake_scheduler_stats_get(sched, stats);
    cake_scheduler_free(sched);
    free(ids);
    free(t);
    return st;
}

static void line(const char *what, uint32_t streams, double value, const char *unit) {
    printf("{\"bench\":\"model\",\"what\":\"%s\",\"streams\":%u,\"value\":%.4g,\"unit\":\"%s\"}\n",
           what, streams, value, unit);
    fflush(stdout);
}

cake_status cake_command_bench(const cake_master_options *o, cake_error *err) {
    cake_session s;
    cake_status st = cake_session_open(&s, o, true, err);
    if (st == CAKE_OK) st = cake_session_plan(&s, STREAMS_MAX, err);
    if (st == CAKE_OK && !o->quiet) cake_plan_print(&s.plan.request, &s.plan.plan, stderr);
    if (st == CAKE_OK) st = cake_session_deploy(&s, err);
    uint32_t context = st == CAKE_OK ? s.plan.options.context : 0;
    uint32_t prompt = context < PROMPT + DECODE ? context / 2 : PROMPT,
             decode = context < PROMPT + DECODE ? context / 4 : DECODE;
    double p, d;
    cake_scheduler_stats stats;
    if (st == CAKE_OK) st = measure(&s, 1, prompt, 2, &p, &d, NULL, err); /* warm up */
    if (st == CAKE_OK) st = measure(&s, 1, prompt, decode, &p, &d, &stats, err);
    if (st == CAKE_OK) {
        line("prefill", 1, prompt / p, "tokens/s");
        line("decode", 1, d, "tokens/s");
    }
    if (st == CAKE_OK) st = measure(&s, 1, 8, decode, &p, &d, &stats, err);
    if (st == CAKE_OK) {
        double compute = 0;
        for (uint32_t i = 0; i < stats.n_stages; i++) compute += (double)stats.stage[i].compute_ns;
        line("hop", 1,
             ((double)stats.flight_ns - compute) / 1e3 / (double)stats.batches /
                 (stats.n_stages + 1),
             "us per hop");
    }
    for (uint32_t n = 2; st == CAKE_OK && n <= STREAMS_MAX; n *= 2) {
        st = measure(&s, n, 32 < prompt ? 32 : prompt, decode, &p, &d, &stats, err);
        if (st == CAKE_OK) line("decode", n, d, "tokens/s");
    }
    cake_session_close(&s);
    return st;
}
