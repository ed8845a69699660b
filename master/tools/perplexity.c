/* Perplexity and comparison with a reference: see perplexity.h. */
#include "master/tools/perplexity.h"

#include "common/mem.h"
#include "kernels/vec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sums over one window, so that windows can be added in order. */
typedef struct {
    double nll, nll2, reference_nll, kld, kld2, kld_max;
    uint64_t n, same;
} sums;

typedef struct run run;

/* One window on its way through a scheduler. */
typedef struct {
    run *r;
    size_t index;
    uint32_t *tokens, n; /* with bos */
    bool over, failed, is_reference;
    cake_error err;
} window;

struct run {
    const cake_perplexity_config *c;
    cake_scheduler *model, *reference_model;
    sums *sums;       /* [windows] */
    float *scratch;   /* [n_vocab] */
    float *reference; /* [window][n_vocab], or NULL */
    double *reference_lse;
    uint64_t done, total;
};

double cake_log_sum_exp(const float *x, size_t n, float *scratch) {
    const float max = cake_max(x, n);
    double sum = 0;
    for (size_t i = 0; i < n; i++) scratch[i] = x[i] - max;
    cake_vec_for(cake_cpu_isa())->exp(scratch, scratch, n);
    for (size_t i = 0; i < n; i++) sum += (double)scratch[i];
    return (double)max + log(sum);
}

double cake_kl_divergence(const float *p, double p_lse, const float *q, double q_lse, size_t n,
                          float *scratch) {
    double sum = 0, mass = 0;
    for (size_t i = 0; i < n; i++) scratch[i] = (float)((double)p[i] - p_lse);
    cake_vec_for(cake_cpu_isa())->exp(scratch, scratch, n);
    for (size_t i = 0; i < n; i++) {
        sum += (double)scratch[i] * ((double)p[i] - (double)q[i]);
        mass += (double)scratch[i];
    }
    /* the masses are rounded: divide, or the log-sums do not cancel for equal rows */
    double kld = sum / mass - p_lse + q_lse;
    return kld > 0 ? kld : 0;
}

static size_t text_per_window(const cake_perplexity_config *c) {
    return c->window - (c->bos >= 0);
}

size_t cake_perplexity_windows(const cake_perplexity_config *c) {
    const size_t per = text_per_window(c), least = c->bos >= 0 ? 1 : 2;
    size_t n = c->n_ids / per, rest = c->n_ids % per;
    if (rest >= least && (rest * 2 >= per || n == 0)) n++;
    return c->max_windows && n > c->max_windows ? c->max_windows : n;
}

uint64_t cake_perplexity_tokens(const cake_perplexity_config *c) {
    const size_t per = text_per_window(c), n = cake_perplexity_windows(c);
    const size_t ids = n * per < c->n_ids ? n * per : c->n_ids;
    return c->bos >= 0 ? ids : ids - n;
}

/* The logits at `position` are of the token after it. */
static bool on_logits(void *arg, uint32_t position, float *logits, uint32_t n_vocab,
                      uint32_t *token) {
    window *w = arg;
    run *r = w->r;
    (void)token;
    if (position + 1 >= w->n) return true;
    const uint32_t next = w->tokens[position + 1];
    const double lse = cake_log_sum_exp(logits, n_vocab, r->scratch);
    if (w->is_reference) {
        memcpy(r->reference + (size_t)position * n_vocab, logits, n_vocab * sizeof *logits);
        r->reference_lse[position] = lse;
        return true;
    }
    sums *s = &r->sums[w->index];
    const double nll = lse - (double)logits[next];
    s->nll += nll;
    s->nll2 += nll * nll;
    s->n++;
    if (r->reference) {
        const float *ref = r->reference + (size_t)position * n_vocab;
        const double ref_lse = r->reference_lse[position];
        const double kld = cake_kl_divergence(ref, ref_lse, logits, lse, n_vocab, r->scratch);
        s->reference_nll += ref_lse - (double)ref[next];
        s->kld += kld;
        s->kld2 += kld * kld;
        if (!(kld <= s->kld_max)) s->kld_max = kld;
        s->same += cake_argmax(ref, n_vocab) == cake_argmax(logits, n_vocab);
    }
    r->done++;
    if (r->c->progress) r->c->progress(r->c->arg, r->done, r->total);
    return true;
}

static void on_done(void *arg, cake_done how, const cake_error *err) {
    window *w = arg;
    w->over = true;
    w->failed = how == CAKE_DONE_ERROR || how == CAKE_DONE_CANCELED;
    if (err) w->err = *err;
}

static cake_status submit(run *r, window *w, cake_scheduler *to, cake_error *err) {
    w->over = w->failed = false;
    w->is_reference = to == r->reference_model;
    cake_sequence_request q = {.prompt = w->tokens,
                               .n_prompt = w->n,
                               .score = true,
                               .arg = w,
                               .next = on_logits,
                               .done = on_done};
    return cake_scheduler_submit(to, &q, NULL, err);
}

static cake_status finish(const window *w, cake_error *err) {
    if (!w->failed) return CAKE_OK;
    return cake_fail(err, w->err.status ? w->err.status : CAKE_ECANCELED, "%s",
                     w->err.status ? w->err.msg : "cancelled");
}

/* Fill a free window with the text's window `index`. */
static void cut(run *r, window *w, size_t index) {
    const cake_perplexity_config *c = r->c;
    const size_t per = text_per_window(c), at = index * per;
    const size_t n = c->n_ids - at < per ? c->n_ids - at : per;
    w->r = r;
    w->index = index;
    w->n = 0;
    if (c->bos >= 0) w->tokens[w->n++] = (uint32_t)c->bos;
    memcpy(w->tokens + w->n, c->ids + at, n * sizeof *c->ids);
    w->n += (uint32_t)n;
}

/* Reference and model in turn, window by window. */
static cake_status compare_all(run *r, window *w, size_t n_windows, cake_error *err) {
    cake_scheduler *both[] = {r->reference_model, r->model};
    cake_status st = CAKE_OK;
    for (size_t i = 0; st == CAKE_OK && i < n_windows; i++) {
        cut(r, w, i);
        for (int k = 0; st == CAKE_OK && k < 2; k++) {
            st = submit(r, w, both[k], err);
            while (st == CAKE_OK && !w->over) {
                st = cake_scheduler_step(both[k], 50, err);
                /* the other cluster's workers want to be heard of too */
                if (st == CAKE_OK) st = cake_scheduler_step(both[!k], 0, err);
            }
            if (st == CAKE_OK) st = finish(w, err);
        }
    }
    return st;
}

static cake_status score_all(run *r, window *w, size_t n_slots, size_t n_windows, cake_error *err) {
    size_t next = 0, busy = 0;
    cake_status st = CAKE_OK;
    for (size_t i = 0; i < n_slots; i++) w[i].over = true, w[i].r = NULL;
    while (st == CAKE_OK && (next < n_windows || busy)) {
        for (size_t i = 0; st == CAKE_OK && i < n_slots; i++) {
            if (!w[i].over) continue;
            if (w[i].r) {
                st = finish(&w[i], err);
                w[i].r = NULL;
                busy--;
            }
            if (st == CAKE_OK && next < n_windows) {
                cut(r, &w[i], next++);
                st = submit(r, &w[i], r->model, err);
                busy++;
            }
        }
        if (st == CAKE_OK && busy) st = cake_scheduler_step(r->model, 100, err);
    }
    return st;
}

static double mean_error(double sum, double sum2, double n) {
    if (n < 2) return 0;
    const double var = (sum2 - sum * sum / n) / (n - 1);
    return var > 0 ? sqrt(var / n) : 0;
}

static void add_up(const sums *s, size_t n, cake_perplexity *out) {
    sums t = {0};
    for (size_t i = 0; i < n; i++) {
        t.nll += s[i].nll, t.nll2 += s[i].nll2, t.n += s[i].n;
        t.reference_nll += s[i].reference_nll, t.same += s[i].same;
        t.kld += s[i].kld, t.kld2 += s[i].kld2;
        if (!(s[i].kld_max <= t.kld_max)) t.kld_max = s[i].kld_max;
    }
    const double k = (double)t.n;
    *out = (cake_perplexity){.n_tokens = t.n,
                             .n_windows = n,
                             .nll = t.nll / k,
                             .nll_error = mean_error(t.nll, t.nll2, k),
                             .reference_nll = t.reference_nll / k,
                             .kld = t.kld / k,
                             .kld_error = mean_error(t.kld, t.kld2, k),
                             .kld_max = t.kld_max,
                             .top1 = (double)t.same / k};
}

cake_status cake_perplexity_run(const cake_perplexity_config *c, cake_perplexity *out,
                                cake_error *err) {
    const size_t n = cake_perplexity_windows(c);
    if (!n)
        return cake_fail(err, CAKE_EINVAL,
                         "the text is too short to be scored: %zu tokens; give a longer --text",
                         c->n_ids);
    for (size_t i = 0; i < c->n_ids; i++)
        if (c->ids[i] >= c->n_vocab)
            return cake_fail(
                err, CAKE_EINVAL,
                "the tokenizer gives token %u, the model has only %u: the files do not "
                "belong together",
                c->ids[i], c->n_vocab);
    const size_t slots = c->reference || !c->parallel ? 1 : c->parallel < n ? c->parallel : n;
    run r = {.c = c};
    r.total = cake_perplexity_tokens(c);
    r.sums = cake_calloc(n, sizeof *r.sums);
    r.scratch = cake_calloc(c->n_vocab, sizeof *r.scratch);
    if (c->reference) {
        size_t floats;
        if (!cake_mul_size(c->window, c->n_vocab, &floats) ||
            !cake_mul_size(floats, sizeof(float), &floats) || !(r.reference = malloc(floats))) {
            free(r.sums);
            free(r.scratch);
            return cake_fail(err, CAKE_ENOMEM,
                             "no memory for the reference's logits of %u positions; try a smaller "
                             "--context",
                             c->window);
        }
        r.reference_lse = cake_calloc(c->window, sizeof *r.reference_lse);
    }
    window *w = cake_calloc(slots, sizeof *w);
    for (size_t i = 0; i < slots; i++) w[i].tokens = cake_calloc(c->window, sizeof *w[i].tokens);
    cake_status st = cake_scheduler_new(&r.model, c->model, err);
    if (st == CAKE_OK && c->reference)
        st = cake_scheduler_new(&r.reference_model, c->reference, err);
    if (st == CAKE_OK)
        st = c->reference ? compare_all(&r, w, n, err) : score_all(&r, w, slots, n, err);
    cake_scheduler_free(r.model); /* ends what is under way: before the windows go */
    cake_scheduler_free(r.reference_model);
    if (st == CAKE_OK) add_up(r.sums, n, out);
    for (size_t i = 0; i < slots; i++) free(w[i].tokens);
    free(w);
    free(r.reference_lse);
    free(r.reference);
    free(r.scratch);
    free(r.sums);
    return st;
}
