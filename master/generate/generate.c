/* Completions: see generate.h. */
#include "master/generate/generate.h"
#include "common/file.h"
#include "common/json.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

/* Tokens of the prompt that the decoder is shown, so that it knows it is inside of a text. */
enum { CONTEXT_TOKENS = 16 };

/* ---- what ends a text ---- */

static void add_eos(cake_eos *e, const cake_model *m, int64_t id) {
    if (id < 0 || id >= m->config.vocab || e->n == CAKE_EOS_LIST_MAX) return;
    if (!cake_eos_has(e, (uint32_t)id)) e->v[e->n++] = (uint32_t)id;
}

void cake_eos_find(cake_eos *e, const cake_model *model, const cake_tokenizer *tokenizer) {
    char *path = cake_path_join(model->path, "generation_config.json");
    json_object *o = NULL, *v = NULL;
    e->n = 0;
    if (cake_file_exists(path) && cake_json_read(path, 1 << 20, &o, NULL) == CAKE_OK &&
        json_object_object_get_ex(o, "eos_token_id", &v) && v) {
        if (json_object_is_type(v, json_type_int)) add_eos(e, model, json_object_get_int64(v));
        for (size_t i = 0;
             json_object_is_type(v, json_type_array) && i < json_object_array_length(v); i++)
            add_eos(e, model, json_object_get_int64(json_object_array_get_idx(v, i)));
    }
    json_object_put(o);
    free(path);
    if (e->n == 0)
        for (uint32_t i = 0; i < model->config.n_eos; i++)
            add_eos(e, model, model->config.eos_ids[i]);
    if (e->n == 0) add_eos(e, model, cake_tokenizer_eos(tokenizer));
}

bool cake_eos_has(const cake_eos *e, uint32_t id) {
    for (uint32_t i = 0; i < e->n; i++)
        if (e->v[i] == id) return true;
    return false;
}

/* ---- stop strings ---- */

void cake_stopper_init(cake_stopper *s, const char *const *stop, size_t n) {
    *s = (cake_stopper){.n = n};
    if (n == 0) return;
    s->stop = cake_calloc(n, sizeof *s->stop);
    s->len = cake_calloc(n, sizeof *s->len);
    for (size_t i = 0; i < n; i++) {
        s->stop[i] = cake_strdup(stop[i]);
        s->len[i] = strlen(stop[i]);
    }
}

void cake_stopper_deinit(cake_stopper *s) {
    for (size_t i = 0; i < s->n; i++) free(s->stop[i]);
    free(s->stop);
    free(s->len);
    free(s->buf);
    *s = (cake_stopper){0};
}

/* How many bytes at the end of buf might begin a stop string. */
static size_t may_begin(const cake_stopper *s) {
    size_t most = 0;
    for (size_t i = 0; i < s->n; i++) {
        size_t k = s->len[i] - 1 < s->n_buf ? s->len[i] - 1 : s->n_buf;
        while (k > most && memcmp(s->buf + s->n_buf - k, s->stop[i], k) != 0) k--;
        if (k > most) most = k;
    }
    return most;
}

static void drop_given(cake_stopper *s) {
    if (s->n_given) memmove(s->buf, s->buf + s->n_given, s->n_buf - s->n_given);
    s->n_buf -= s->n_given;
    s->n_given = 0;
}

bool cake_stopper_push(cake_stopper *s, const char *text, size_t len, const char **out,
                       size_t *out_len) {
    *out = "", *out_len = 0;
    if (s->hit) return true;
    if (s->n == 0) {
        *out = text, *out_len = len;
        return false;
    }
    drop_given(s);
    if (s->n_buf + len > s->cap) {
        s->cap = 2 * (s->n_buf + len);
        s->buf = cake_realloc(s->buf, s->cap);
    }
    if (len) memcpy(s->buf + s->n_buf, text, len);
    s->n_buf += len;
    if (s->n_buf == 0) return false;
    const char *first = NULL;
    for (size_t i = 0; i < s->n; i++) {
        const char *at = memmem(s->buf, s->n_buf, s->stop[i], s->len[i]);
        if (at && (!first || at < first)) first = at, s->which = i;
    }
    s->hit = first != NULL;
    s->n_given = first ? (size_t)(first - s->buf) : s->n_buf - may_begin(s);
    *out = s->buf, *out_len = s->n_given;
    return s->hit;
}

void cake_stopper_flush(cake_stopper *s, const char **out, size_t *out_len) {
    *out = "", *out_len = 0;
    if (s->hit || !s->buf) return;
    drop_given(s);
    *out = s->buf, *out_len = s->n_given = s->n_buf;
}

/* ---- generation ---- */

cake_status cake_generation_new(cake_generation **out, const cake_generation_config *c,
                                const uint32_t *prompt, size_t n_prompt, cake_error *err) {
    cake_status st = cake_sampler_params_check(&c->sampler, c->n_vocab, err);
    if (st != CAKE_OK) return st;
    cake_generation *g = cake_calloc(1, sizeof *g);
    g->config = *c;
    if (c->sampler.n_logit_bias) {
        size_t n = c->sampler.n_logit_bias * sizeof *g->bias;
        g->bias = memcpy(cake_malloc(n), c->sampler.logit_bias, n);
    }
    g->config.sampler.logit_bias = g->bias;
    g->detok = cake_detok_new(c->tokenizer, true);
    cake_stopper_init(&g->stopper, c->stop, c->n_stop);
    for (size_t i = 0; i < c->n_shown; i++) cake_detok_show(g->detok, c->shown[i]);
    g->config.stop = NULL;
    g->config.shown = NULL;
    for (size_t i = 0; st == CAKE_OK && i < n_prompt; i++)
        st = cake_ids_push(&g->ids, prompt[i], err);
    g->n_prompt = n_prompt;
    for (size_t i = n_prompt > CONTEXT_TOKENS ? n_prompt - CONTEXT_TOKENS : 0;
         c->continues && i < n_prompt; i++) {
        const char *text;
        size_t len;
        cake_detok_push(g->detok, prompt[i], &text, &len);
    }
    if (st == CAKE_OK)
        *out = g;
    else
        cake_generation_free(g);
    return st;
}

void cake_generation_free(cake_generation *g) {
    if (!g) return;
    cake_ids_deinit(&g->ids);
    cake_sampler_free(g->chooser);
    free(g->bias);
    cake_matcher_free(g->matcher);
    cake_detok_free(g->detok);
    cake_stopper_deinit(&g->stopper);
    free(g);
}

/* The second draw must not depend on the first, so it has a stream of its own. */
#define SECOND_DRAW ((uint64_t)1 << 63)

/* The grammar's word about *token; when it does not fit, another is chosen. *ends: it ends the
 * text. */
static cake_status choose_within(cake_generation *g, uint32_t position, const float *logits,
                                 uint32_t *token, bool *ends) {
    cake_matcher *m = g->matcher;
    bool may_end = cake_matcher_may_end(m);
    *ends = cake_eos_has(g->config.eos, *token);
    if (*ends ? may_end : cake_matcher_advance(m, *token)) return CAKE_OK;
    const uint32_t *mask = cake_matcher_mask(m);
    uint32_t words = (g->config.n_vocab + 31) / 32, *with_end = NULL;
    if (may_end && g->config.eos->n) {
        with_end = cake_malloc((words + 1) * sizeof *with_end);
        memcpy(with_end, mask, words * sizeof *with_end);
        for (uint32_t i = 0; i < g->config.eos->n; i++)
            with_end[g->config.eos->v[i] >> 5] |= 1u << (g->config.eos->v[i] & 31);
    }
    cake_sampler_allow(g->chooser, with_end ? with_end : mask);
    cake_status st = cake_sampler_pick(g->chooser, logits, g->ids.v, g->ids.n,
                                       position | SECOND_DRAW, token, &g->error);
    cake_sampler_allow(g->chooser, NULL);
    free(with_end);
    *ends = st == CAKE_OK && may_end && cake_eos_has(g->config.eos, *token);
    if (st != CAKE_OK || *ends) return st;
    bool taken = cake_matcher_advance(m, *token);
    cake_assert(taken);
    return CAKE_OK;
}

/* Sampler and matcher take memory in proportion to the vocabulary: those that wait have none. */
static bool begin(cake_generation *g) {
    if (g->chooser) return true;
    g->chooser = cake_sampler_new(&g->config.sampler, g->config.n_vocab);
    if (!g->chooser) {
        cake_fail(&g->error, CAKE_ENOMEM, "no memory for the sampler");
        g->finish = CAKE_FINISH_ERROR;
        return false;
    }
    if (g->config.grammar) g->matcher = cake_matcher_new(g->config.grammar, g->config.trie);
    return true;
}

bool cake_generation_next(cake_generation *g, uint32_t position, const float *logits,
                          uint32_t *token, const char **text, size_t *len) {
    *text = "", *len = 0;
    if (!begin(g)) return false;
    if (cake_sampler_pick(g->chooser, logits, g->ids.v, g->ids.n, position, token, &g->error) !=
        CAKE_OK) {
        g->finish = CAKE_FINISH_ERROR;
        return false;
    }
    bool ends = !g->config.ignore_eos && cake_eos_has(g->config.eos, *token);
    if (g->matcher && choose_within(g, position, logits, token, &ends) != CAKE_OK) {
        g->finish = CAKE_FINISH_ERROR;
        return false;
    }
    g->n_generated++;
    if (ends) {
        g->finish = CAKE_FINISH_STOP;
        return false;
    }
    const char *piece;
    size_t n;
    cake_detok_push(g->detok, *token, &piece, &n);
    if (cake_stopper_push(&g->stopper, piece, n, text, len))
        g->finish = CAKE_FINISH_STOP;
    else if (cake_ids_push(&g->ids, *token, &g->error) != CAKE_OK)
        g->finish = CAKE_FINISH_ERROR;
    else if (g->matcher && cake_matcher_must_end(g->matcher))
        g->finish = CAKE_FINISH_STOP;
    else if (g->n_generated >= g->config.max_tokens)
        g->finish = CAKE_FINISH_LENGTH;
    return g->finish == CAKE_FINISH_NONE;
}

void cake_generation_end(cake_generation *g, const char **text, size_t *len) {
    const char *tail;
    size_t n;
    cake_detok_flush(g->detok, &tail, &n);
    /* Pushed for the search, then flushed: join both in the stopper's buffer. */
    if (g->stopper.n == 0) {
        *text = tail, *len = n;
    } else if (cake_stopper_push(&g->stopper, tail, n, text, len)) {
        if (g->finish == CAKE_FINISH_LENGTH) g->finish = CAKE_FINISH_STOP;
    } else {
        g->stopper.n_given = 0;
        cake_stopper_flush(&g->stopper, text, len);
    }
}
