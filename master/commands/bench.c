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

typedef struct {
    uint32_t want, got, n_vocab;
    uint64_t first_ns, last_ns;
    bool failed;
    cake_error err;
} stream;

static bool on_logits(void *arg, uint32_t position, float *logits, uint32_t n_vocab,
                      uint32_t *token) {
    stream *t = arg;
    (void)logits;
    t->last_ns = cake_now_ns();
    if (!t->got) t->first_ns = t->last_ns;
    *token = (position * 7919u + 13u) % n_vocab;
    return ++t->got <= t->want;
}

static void on_done(void *arg, cake_done how, const cake_error *err) {
    stream *t = arg;
    t->failed = how == CAKE_DONE_ERROR;
    if (err) t->err = *err;
}

/* n streams with a prompt each; fills seconds until the last prompt was done and from then to the
 * end. */
static cake_status measure(cake_session *s, uint32_t n, uint32_t prompt, uint32_t decode,
                           double *prefill_s, double *decode_s, cake_scheduler_stats *stats,
                           cake_error *err) {
    cake_scheduler *sched;
    cake_status st = cake_scheduler_new(&sched, s->cluster, err);
    if (st != CAKE_OK) return st;
    stream *t = cake_calloc(n, sizeof *t);
    uint32_t *ids = cake_malloc(prompt * sizeof *ids), vocab = s->model.config.vocab;
    uint64_t start = cake_now_ns();
    for (uint32_t i = 0; st == CAKE_OK && i < n; i++) {
        for (uint32_t k = 0; k < prompt; k++) ids[k] = (k * 31u + i * 17u + 1u) % vocab;
        t[i].want = decode;
        cake_sequence_request r = {
            .prompt = ids, .n_prompt = prompt, .arg = &t[i], .next = on_logits, .done = on_done};
        st = cake_scheduler_submit(sched, &r, NULL, err);
    }
    while (st == CAKE_OK && !cake_scheduler_idle(sched)) st = cake_scheduler_step(sched, 100, err);
    uint64_t prefilled = start, ended = start;
    for (uint32_t i = 0; i < n; i++) {
        if (st == CAKE_OK && t[i].failed) st = cake_fail(err, t[i].err.status, "%s", t[i].err.msg);
        if (t[i].first_ns > prefilled) prefilled = t[i].first_ns;
        if (t[i].last_ns > ended) ended = t[i].last_ns;
    }
    *prefill_s = (double)(prefilled - start) * 1e-9;
    *decode_s = (double)(ended - prefilled) * 1e-9;
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
        line("decode", 1, decode / d, "tokens/s");
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
        if (st == CAKE_OK) line("decode", n, n * decode / d, "tokens/s");
    }
    cake_session_close(&s);
    return st;
}
