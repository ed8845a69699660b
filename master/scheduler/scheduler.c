/* The scheduler's life, requests and deadlines: see scheduler.h. */
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/scheduler/scheduler_impl.h"
#include "worker/embed.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    QUEUE_MAX = 1024, /* sequences waiting for a slot */
    /* A batch in flight for so long is lost, whatever the heartbeats say; besides, SLOWER times as
     * long as the plan expects of all that is in flight. */
    BATCH_TIMEOUT_MS = 120000,
    SLOWER = 20,
    FLIGHTS_A_STAGE = 4, /* batches in flight at most; how many are of use is learned */
    ANSWER_COST = 512,   /* most rows that an answer of unknown length counts in the queue */
};

/* ---- life ---- */

/* A part that keeps a state of fixed size instead of keys and values cannot be cut or shared. */
static bool can_cut(const cake_cluster_plan *p) {
    for (uint32_t i = 0; i < p->request.n_layers + 2; i++)
        if (p->request.units[i].state_bytes) return false;
    return true;
}

cake_status cake_scheduler_new(cake_scheduler **out, cake_cluster *c, cake_error *err) {
    const cake_cluster_plan *p = cake_cluster_deployed(c);
    if (!p) return cake_fail(err, CAKE_EINVAL, "no plan is deployed");
    cake_scheduler *s = cake_calloc(1, sizeof *s);
    s->cluster = c;
    s->wake_fd = -1;
    s->n_vocab = (uint32_t)(p->request.logit_bytes / 4);
    s->n_seqs = p->options.sequences;
    s->max_rows = p->options.max_rows;
    s->max_logits = cake_logit_rows_max(s->n_vocab, s->max_rows);
    s->context = p->options.context;
    s->n_stages = p->plan.n_stages;
    s->can_cut = can_cut(p);
    uint32_t n_slots = p->options.slots;
    s->kv = cake_prefix_new(
        &(cake_prefix_options){.n_slots = n_slots,
                               .n_blocks = s->n_seqs * (s->context / CAKE_EMBED_KV_BLOCK + 1),
                               .max_positions = s->context,
                               .keep = s->can_cut});
    s->pace.n_stages = s->n_stages;
    s->max_flights = FLIGHTS_A_STAGE * s->n_stages + 4;
    if (s->max_flights > CAKE_FLIGHTS_MAX) s->max_flights = CAKE_FLIGHTS_MAX;
    double expected_s =
        p->plan.prefill_tps > 0 ? s->max_rows * s->max_flights / p->plan.prefill_tps : 0;
    if (!(expected_s < 1e6)) expected_s = 1e6;
    s->batch_timeout_ns = BATCH_TIMEOUT_MS * 1000000ull + (uint64_t)(expected_s * SLOWER * 1e9);
    s->ops.cap = 4 * n_slots + 16; /* what the stages take */
    s->ops.v = cake_calloc(s->ops.cap, sizeof *s->ops.v);
    s->ops.v[s->ops.n++] =
        (cake_kv_op){.op = CAKE_KV_RESET}; /* an earlier scheduler may have left some */
    s->next_batch = cake_now_ns();         /* and late results of its batches */
    s->rows = cake_calloc(s->max_rows, sizeof *s->rows);
    s->logits = cake_malloc(s->n_vocab * sizeof *s->logits);
    for (uint32_t i = 0; i < s->max_flights; i++) {
        s->flights[i].asked = cake_calloc(s->max_logits, sizeof *s->flights[i].asked);
        s->flights[i].members = cake_calloc(s->n_seqs, sizeof *s->flights[i].members);
    }
    s->stats.n_stages = s->n_stages;
    cake_cluster_set_handler(c, cake_scheduler_on_message, s);
    *out = s;
    return CAKE_OK;
}

void cake_scheduler_free(cake_scheduler *s) {
    if (!s) return;
    for (cake_sequence *q = s->all; q; q = q->next) {
        q->n_flying = 0;
        cake_sequence_end(s, q, CAKE_DONE_CANCELED, NULL);
    }
    cake_scheduler_cancel_dead(s);
    cake_scheduler_reap(s);
    cake_cluster_set_handler(s->cluster, NULL, NULL);
    for (uint32_t i = 0; i < s->max_flights; i++) {
        free(s->flights[i].asked);
        free(s->flights[i].members);
    }
    cake_prefix_free(s->kv);
    free(s->ops.v);
    free(s->rows);
    free(s->logits);
    free(s);
}

/* ---- sequences ---- */

static uint32_t *count_of(cake_scheduler *s, cake_phase phase) {
    return phase == WAITING   ? &s->n_waiting
           : phase == PREFILL ? &s->n_prefilling
           : phase == DECODE  ? &s->n_decoding
                              : NULL;
}

void cake_sequence_phase(cake_scheduler *s, cake_sequence *q, cake_phase phase) {
    uint32_t *from = count_of(s, q->phase), *to = count_of(s, phase);
    if (from) --*from;
    if (to) ++*to;
    q->phase = phase;
}

void cake_sequence_end(cake_scheduler *s, cake_sequence *q, cake_done how, const cake_error *err) {
    if (q->phase == ENDED) return;
    if (q->phase == WAITING)
        cake_fair_remove(&s->queue, &q->fair);
    else /* The stages apply operations before rows, in order: the slot is free at once. */
        cake_prefix_close(s->kv, q->slot, &s->ops);
    cake_sequence_phase(s, q, ENDED);
    q->r.done(q->r.arg, how, err);
}

void cake_scheduler_reap(cake_scheduler *s) {
    for (cake_sequence **at = &s->all; *at;) {
        cake_sequence *q = *at;
        if (q->phase == ENDED && q->n_flying == 0) {
            *at = q->next;
            cake_lookup_free(q->lookup);
            free(q->tokens);
            free(q);
        } else {
            at = &q->next;
        }
    }
}

void cake_scheduler_cancel_dead(cake_scheduler *s) {
    for (uint32_t i = 0; i < s->max_flights; i++) {
        cake_flight *f = &s->flights[i];
        bool dead = f->used && !f->canceled;
        for (uint32_t k = 0; dead && k < f->n_members; k++) {
            const cake_member *m = &f->members[k];
            dead = m->q->phase == ENDED || m->round != m->q->round;
        }
        if (!dead) continue;
        f->canceled = true;
        s->stats.canceled++;
        cake_cluster_cancel(s->cluster, f->id);
    }
}

void cake_scheduler_fail(cake_scheduler *s, const cake_error *err) {
    s->broken = true;
    s->broken_why = *err;
    for (cake_sequence *q = s->all; q; q = q->next) {
        q->n_flying = 0;
        cake_sequence_end(s, q, CAKE_DONE_ERROR, err);
    }
    for (uint32_t i = 0; i < s->max_flights; i++) s->flights[i].used = false;
    s->n_flights = s->n_decode_flights = 0;
    cake_scheduler_reap(s);
}

cake_status cake_scheduler_submit(cake_scheduler *s, const cake_sequence_request *r, uint64_t *id,
                                  cake_error *err) {
    if (s->broken) return cake_fail(err, s->broken_why.status, "%s", s->broken_why.msg);
    if (r->n_prompt == 0) return cake_fail(err, CAKE_EINVAL, "the prompt is empty");
    uint32_t limit =
        r->max_positions && r->max_positions < s->context ? r->max_positions : s->context;
    if (r->n_prompt > limit)
        return cake_fail(err, CAKE_ENOSPACE,
                         "the prompt has %u tokens and the context %u; shorten it or give "
                         "a larger --context",
                         r->n_prompt, limit);
    for (uint32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] >= s->n_vocab)
            return cake_fail(err, CAKE_EINVAL, "token %u is outside the model's vocabulary of %u",
                             r->prompt[i], s->n_vocab);
    if (s->n_waiting >= QUEUE_MAX)
        return cake_fail(err, CAKE_EAGAIN, "%d requests are waiting already", (int)QUEUE_MAX);
    cake_sequence *q = cake_calloc(1, sizeof *q);
    q->id = ++s->next_id;
    q->r = *r;
    q->limit = limit;
    q->n_tokens = r->n_prompt;
    q->cap = r->n_prompt + 64;
    q->tokens = cake_malloc(q->cap * sizeof *q->tokens);
    memcpy(q->tokens, r->prompt, r->n_prompt * sizeof *q->tokens);
    q->r.prompt = NULL; /* the caller's */
    if (r->speculate && s->can_cut && !r->score) q->lookup = cake_lookup_new();
    uint32_t answer = limit - r->n_prompt;
    q->fair = (cake_fair_item){.client = r->client,
                               .priority = r->priority,
                               .cost = r->n_prompt + (answer < ANSWER_COST ? answer : ANSWER_COST)};
    cake_sequence **at = &s->all;
    while (*at) at = &(*at)->next;
    *at = q;
    q->phase = WAITING;
    s->n_waiting++;
    cake_fair_push(&s->queue, &q->fair);
    if (id) *id = q->id;
    return CAKE_OK;
}

void cake_scheduler_cancel(cake_scheduler *s, uint64_t id) {
    for (cake_sequence *q = s->all; q; q = q->next)
        if (q->id == id) cake_sequence_end(s, q, CAKE_DONE_CANCELED, NULL);
    cake_scheduler_cancel_dead(s);
}

void cake_scheduler_wake_on(cake_scheduler *s, int fd) {
    s->wake_fd = fd;
}

bool cake_scheduler_broken(const cake_scheduler *s) {
    return s->broken;
}

bool cake_scheduler_idle(const cake_scheduler *s) {
    return s->n_waiting + s->n_prefilling + s->n_decoding == 0;
}

void cake_scheduler_stats_get(const cake_scheduler *s, cake_scheduler_stats *out) {
    *out = s->stats;
    out->running = s->n_prefilling + s->n_decoding;
    out->waiting = s->n_waiting;
    out->in_flight = s->n_flights;
    cake_prefix_stats_get(s->kv, &out->kv);
}

/* ---- the step ---- */

/* Requests end by their deadline, wherever they are. Returns the time until the next one, or
 * timeout_ms when that is sooner. */
static int check_deadlines(cake_scheduler *s, int timeout_ms) {
    uint64_t now = cake_now_ns();
    for (cake_sequence *q = s->all; q; q = q->next) {
        if (q->phase == ENDED || q->r.deadline_ns == 0) continue;
        if (q->r.deadline_ns > now) {
            uint64_t ms = (q->r.deadline_ns - now) / 1000000 + 1;
            if (timeout_ms < 0 || ms < (uint64_t)timeout_ms) timeout_ms = (int)ms;
            continue;
        }
        cake_error err;
        cake_fail(
            &err, CAKE_ETIMEOUT,
            "the deadline of the request has passed %s; %u of the %u tokens of its prompt are "
            "computed and %u generated. Ask for less, or start the server with a longer "
            "--deadline",
            q->phase == WAITING ? "in the queue" : "while it was computed",
            q->done < q->r.n_prompt ? q->done : q->r.n_prompt, q->r.n_prompt,
            q->n_tokens - q->r.n_prompt);
        cake_sequence_end(s, q, CAKE_DONE_ERROR, &err);
    }
    cake_scheduler_cancel_dead(s);
    cake_scheduler_reap(s);
    return timeout_ms;
}

static cake_status check_batches(cake_scheduler *s, cake_error *err) {
    uint64_t now = cake_now_ns();
    for (uint32_t i = 0; i < s->max_flights; i++)
        if (s->flights[i].used && now - s->flights[i].sent_ns > s->batch_timeout_ns)
            return cake_fail(err, CAKE_ETIMEOUT,
                             "a batch has been on its way for %llu s; a worker hangs",
                             (unsigned long long)(s->batch_timeout_ns / 1000000000u));
    return CAKE_OK;
}

cake_status cake_scheduler_step(cake_scheduler *s, int timeout_ms, cake_error *err) {
    if (s->broken) return cake_fail(err, s->broken_why.status, "%s", s->broken_why.msg);
    timeout_ms = check_deadlines(s, timeout_ms);
    cake_status st = cake_scheduler_send(s, err);
    if (st == CAKE_OK) st = cake_cluster_poll(s->cluster, timeout_ms, s->wake_fd, err);
    if (st == CAKE_OK) st = check_batches(s, err);
    if (st != CAKE_OK && !s->broken) {
        cake_error why = {.status = st};
        if (err) why = *err;
        if (st == CAKE_ECANCELED) return st; /* the user's wish, the plan is fine */
        cake_scheduler_fail(s, &why);
    }
    if (s->broken) return cake_fail(err, s->broken_why.status, "%s", s->broken_why.msg);
    return CAKE_OK;
}
