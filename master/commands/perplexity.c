/* The verbs that run a text through a model: perplexity, how well it foretells the text, alone or
 * beside a reference; calibrate, what goes into its matrices on the way. */
#include "common/file.h"
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/commands/session.h"
#include "master/plan/plan_print.h"
#include "master/tokenizer/tokenizer.h"
#include "master/tools/calibrate.h"
#include "master/tools/perplexity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 256 << 20, PARALLEL = 4, WINDOW = 512 };

typedef struct {
    cake_progress *progress;
    int bar;
} ui;

static void on_progress(void *arg, uint64_t done, uint64_t total) {
    ui *u = arg;
    (void)total;
    cake_progress_update(u->progress, u->bar, done);
}

/* The text's tokens, and what a window begins with. */
static cake_status read_text(const cake_master_options *o, const char *model, cake_ids *ids,
                             int64_t *bos, cake_error *err) {
    cake_tokenizer *t = NULL;
    char *text = NULL;
    size_t len, before = 0, after = 0;
    cake_status st = cake_file_read(o->text, TEXT_MAX, &text, &len, err);
    if (st == CAKE_OK) st = cake_tokenizer_open(&t, model, err);
    if (st == CAKE_OK) st = cake_tokenizer_encode(t, text, len, 0, ids, err);
    if (st == CAKE_OK) {
        cake_tokenizer_n_special(t, &before, &after);
        *bos = before ? cake_tokenizer_bos(t) : -1;
    }
    cake_tokenizer_free(t);
    free(text);
    return st;
}

/* Both models must mean the same by an id. */
static cake_status same_tokens(const cake_master_options *o, const cake_session *s,
                               const cake_session *ref, const cake_ids *ids, int64_t bos,
                               cake_error *err) {
    cake_ids other = {0};
    int64_t other_bos;
    cake_status st = read_text(o, ref->model.path, &other, &other_bos, err);
    if (st == CAKE_OK &&
        (ref->model.config.vocab != s->model.config.vocab || other.n != ids->n ||
         other_bos != bos || memcmp(other.v, ids->v, ids->n * sizeof *ids->v) != 0))
        st = cake_fail(err, CAKE_EINVAL,
                       "'%s' and '%s' cut the text into different tokens and cannot be compared",
                       o->model, o->reference);
    cake_ids_deinit(&other);
    return st;
}

static void print(const cake_master_options *o, const cake_perplexity *p, uint32_t window) {
    const double ppl = exp(p->nll);
    if (o->json) {
        printf("{\"tokens\":%llu,\"windows\":%llu,\"window\":%u,\"nll\":%.9g,\"nll_error\":%.6g,"
               "\"perplexity\":%.9g,\"perplexity_error\":%.6g",
               (unsigned long long)p->n_tokens, (unsigned long long)p->n_windows, window, p->nll,
               p->nll_error, ppl, ppl * p->nll_error);
        if (o->reference)
            printf(
                ",\"reference_nll\":%.9g,\"reference_perplexity\":%.9g,\"kl_divergence\":%.9g,"
                "\"kl_divergence_error\":%.6g,\"kl_divergence_max\":%.6g,\"top1_agreement\":%.6g",
                p->reference_nll, exp(p->reference_nll), p->kld, p->kld_error, p->kld_max, p->top1);
        printf("}\n");
        return;
    }
    printf("perplexity      %.4f +- %.4f\n", ppl, ppl * p->nll_error);
    printf("nll             %.6f +- %.6f nats per token\n", p->nll, p->nll_error);
    printf("tokens          %llu in %llu windows of %u\n", (unsigned long long)p->n_tokens,
           (unsigned long long)p->n_windows, window);
    if (!o->reference) return;
    printf("reference       %.4f (perplexity %+.3f %%)\n", exp(p->reference_nll),
           100 * expm1(p->nll - p->reference_nll));
    printf("KL divergence   %.6f +- %.6f nats per token, at most %.4f\n", p->kld, p->kld_error,
           p->kld_max);
    printf("top-1 agreement %.3f %%\n", 100 * p->top1);
}

/* A cluster with the plan deployed. The reference is computed on this machine alone: workers belong
 * to the model that is looked at. */
static cake_status bring_up(cake_session *s, const cake_master_options *o, uint32_t parallel,
                            bool collect, cake_error *err) {
    cake_status st = cake_session_plan(s, parallel, err);
    if (st == CAKE_OK) s->plan.options.collect = collect;
    if (st == CAKE_OK && !o->quiet) cake_plan_print(&s->plan.request, &s->plan.plan, stderr);
    return st == CAKE_OK ? cake_session_deploy(s, err) : st;
}

/* The session with the text's tokens, ready to be scored: c says how, but for the clusters. */
static cake_status open_text(cake_session *s, cake_master_options *o, cake_ids *ids,
                             cake_perplexity_config *c, cake_error *err) {
    const bool any_window = o->context == 0;
    if (any_window) o->context = WINDOW;
    cake_status st = cake_session_open(s, o, true, err);
    if (st != CAKE_OK) return st;
    const uint32_t most = s->model.config.max_positions;
    if (any_window && most && most < WINDOW) o->context = most;
    st = read_text(o, s->model.path, ids, &c->bos, err);
    c->ids = ids->v, c->n_ids = ids->n;
    c->window = (uint32_t)o->context;
    c->n_vocab = s->model.config.vocab;
    return st;
}

static cake_status score(cake_session *s, cake_perplexity_config *c, cake_perplexity *p,
                         const char *label, cake_error *err) {
    ui u = {.progress = s->progress};
    u.bar = cake_progress_start(s->progress, label, cake_perplexity_tokens(c), CAKE_PROGRESS_COUNT);
    c->model = s->cluster;
    c->progress = on_progress, c->arg = &u;
    cake_status st = cake_perplexity_run(c, p, err);
    cake_progress_finish(s->progress, u.bar, st == CAKE_OK, NULL);
    return st;
}

cake_status cake_command_perplexity(const cake_master_options *given, cake_error *err) {
    cake_master_options o = *given, ro;
    cake_session s, ref;
    cake_ids ids = {0};
    cake_perplexity_config c = {.parallel = PARALLEL, .bos = -1};
    cake_perplexity p;
    memset(&ref, 0, sizeof ref);
    cake_status st = open_text(&s, &o, &ids, &c, err);
    if (st == CAKE_OK) st = bring_up(&s, &o, o.reference ? 1 : PARALLEL, false, err);
    if (st == CAKE_OK && o.reference) {
        ro = o;
        ro.model = o.reference;
        ro.topology = NULL;
        ro.min_workers = 0;
        ro.discovery_timeout_ms = 0;
        st = cake_session_open(&ref, &ro, true, err);
        if (st == CAKE_OK) st = same_tokens(&o, &s, &ref, &ids, c.bos, err);
        if (st == CAKE_OK) st = bring_up(&ref, &ro, 1, false, err);
        c.reference = ref.cluster;
    }
    if (st == CAKE_OK) st = score(&s, &c, &p, "scoring", err);
    if (ref.o) cake_session_close(&ref);
    cake_session_close(&s);
    if (st == CAKE_OK) print(&o, &p, c.window);
    cake_ids_deinit(&ids);
    return st;
}

/* "stories.txt" of "/home/me/stories.txt" */
static char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return cake_strdup(slash && slash[1] ? slash + 1 : path);
}

cake_status cake_command_calibrate(const cake_master_options *given, cake_error *err) {
    cake_master_options o = *given;
    cake_session s;
    cake_ids ids = {0};
    /* one window at a time: sums are then taken in one order, on one machine or on many */
    cake_perplexity_config c = {.parallel = 1, .bos = -1, .max_windows = (size_t)o.chunks};
    cake_perplexity p;
    cake_imatrix m = {0};
    cake_status st = open_text(&s, &o, &ids, &c, err);
    if (st == CAKE_OK) st = bring_up(&s, &o, 1, true, err);
    if (st == CAKE_OK) st = score(&s, &c, &p, "calibrating", err);
    if (st == CAKE_OK) {
        m.dataset = last_part(o.text);
        m.n_chunks = (uint32_t)p.n_windows;
        m.chunk_size = c.window;
        st = cake_calibrate_fetch(s.cluster, s.model.layout, &m, err);
    }
    if (st == CAKE_OK) st = cake_imatrix_save(&m, o.out, err);
    if (st == CAKE_OK)
        cake_progress_line(s.progress,
                           "%s: %zu matrices, %llu tokens in %llu windows of %u; perplexity %.4f",
                           o.out, m.n, (unsigned long long)p.n_tokens,
                           (unsigned long long)p.n_windows, c.window, exp(p.nll));
    cake_session_close(&s);
    cake_imatrix_deinit(&m);
    cake_ids_deinit(&ids);
    return st;
}
