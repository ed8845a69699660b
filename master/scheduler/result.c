/* What comes back of batches: logits to their owners, guesses checked, times learned. See
 * scheduler.h. */
#include "common/clock.h"
#include "common/mem.h"
#include "master/scheduler/scheduler_impl.h"

#include <inttypes.h>
#include <string.h>

static cake_flight *find_flight(cake_scheduler *s, uint64_t id) {
    for (uint32_t i = 0; i < s->max_flights; i++)
        if (s->flights[i].used && s->flights[i].id == id) return &s->flights[i];
    return NULL;
}

static bool is_live(const cake_sequence *q, uint32_t round) {
    return q->phase != ENDED && round == q->round;
}

static void add_times(cake_scheduler *s, const cake_msg *m, const cake_flight *f) {
    double flight = (double)(cake_now_ns() - f->sent_ns), slowest = 0, sum = 0, queued = 0;
    s->stats.flight_ns += (uint64_t)flight;
    for (uint32_t i = 0; i < m->h.n_times; i++) {
        cake_stage_time t = cake_msg_time(m, i);
        if (t.stage >= s->n_stages) continue;
        s->stats.stage[t.stage].compute_ns += t.compute_ns;
        s->stats.stage[t.stage].queue_ns += t.queue_ns;
        s->stats.stage[t.stage].rows += t.n_rows;
        double c = (double)t.compute_ns;
        sum += c;
        queued += (double)t.queue_ns;
        if (c > slowest) slowest = c;
    }
    if (!f->canceled)
        cake_pace_add(&s->pace, f->n_decode, f->n_prompt, slowest, sum, flight - sum - queued);
}

/* What a batch computed of a sequence is there for others from now on. */
static void ready(cake_scheduler *s, cake_sequence *q, uint32_t end) {
    uint32_t before = q->done;
    if (end > q->n_tokens) end = q->n_tokens; /* guesses that are not checked yet */
    if (end <= before) return;
    q->done = end;
    cake_prefix_publish(s->kv, q->slot, q->tokens, q->done);
    if (q->r.progress && before < q->r.n_prompt)
        q->r.progress(q->r.arg, q->cached, end < q->r.n_prompt ? end : q->r.n_prompt);
}

static void append(cake_sequence *q, uint32_t token) {
    if (q->n_tokens == q->cap) {
        q->cap *= 2;
        q->tokens = cake_realloc(q->tokens, q->cap * sizeof *q->tokens);
    }
    q->tokens[q->n_tokens++] = token;
}

/* The token after position pos, which was guessed, is another one: what followed is void. */
static void wrong_guess(cake_scheduler *s, cake_sequence *q, const cake_member *m, uint32_t pos) {
    uint32_t first = m->end - m->n_guesses, right = pos + 1 > first ? pos + 1 - first : 0;
    if (right > m->n_guesses) right = m->n_guesses;
    cake_lookup_checked(q->lookup, right, m->n_guesses > right ? m->n_guesses : right + 1);
    q->n_guesses = 0;
    q->round++;
    q->n_windows = 0;
    q->sent = pos + 1;
    cake_prefix_trim(s->kv, q->slot, q->sent, &s->ops);
}

static void take_logits(cake_scheduler *s, const cake_flight *f, const cake_asked *a,
                        float *logits) {
    cake_sequence *q = a->q;
    uint32_t token = 0;
    ready(s, q, a->pos + 1);
    if (q->phase == ENDED) return; /* cancelled by its own callback */
    bool more = q->r.next(q->r.arg, a->pos, logits, s->n_vocab, &token);
    if (q->phase == ENDED) return;
    if (q->r.score) {
        if (a->pos + 1 == q->r.n_prompt) cake_sequence_end(s, q, CAKE_DONE_STOP, NULL);
        return;
    }
    if (!more) {
        cake_sequence_end(s, q, CAKE_DONE_STOP, NULL);
    } else if (token >= s->n_vocab) {
        cake_error err;
        cake_fail(&err, CAKE_EINVAL, "token %u is outside the vocabulary", token);
        cake_sequence_end(s, q, CAKE_DONE_ERROR, &err);
    } else if (q->n_tokens >= q->limit) {
        cake_sequence_end(s, q, CAKE_DONE_LENGTH, NULL);
    } else if (q->n_guesses && q->tokens[q->n_tokens] == token) {
        q->n_tokens++;
        q->n_guesses--;
        s->stats.guessed_right++;
    } else {
        if (q->n_guesses) wrong_guess(s, q, &f->members[a->member], a->pos);
        append(q, token);
        cake_prefix_publish(s->kv, q->slot, q->tokens, q->done);
    }
}

static cake_status take_rows(cake_scheduler *s, const cake_msg *m, const cake_flight *f,
                             cake_error *err) {
    bool ok = m->h.n_rows == f->n_asked && (m->h.n_rows == 0 || m->h.width == s->n_vocab);
    for (uint32_t i = 0; ok && i < f->n_members; i++) {
        const cake_member *k = &f->members[i];
        if (is_live(k->q, k->round)) ready(s, k->q, k->end);
    }
    for (uint32_t i = 0; ok && i < f->n_asked; i++) {
        const cake_asked *a = &f->asked[i];
        cake_row row = cake_msg_row(m, i);
        if (!is_live(a->q, a->round)) continue;
        ok = row.seq == a->q->slot && row.pos == a->pos;
        if (!ok) break;
        /* In place where the message allows it: a row of a large vocabulary is half a megabyte. */
        uint8_t *values = cake_msg_values((cake_msg *)(uintptr_t)m, i);
        float *logits = (float *)(void *)values;
        if ((uintptr_t)values % _Alignof(float) != 0)
            logits = memcpy(s->logits, values, s->n_vocab * sizeof *s->logits);
        take_logits(s, f, a, logits);
    }
    return ok ? CAKE_OK
              : cake_fail(err, CAKE_EPROTO,
                          "the result of batch %" PRIu64 " does not fit what was asked", m->h.id);
}

void cake_scheduler_on_message(void *scheduler, const cake_msg *m) {
    cake_scheduler *s = scheduler;
    cake_flight *f = find_flight(s, m->h.id);
    cake_error err;
    cake_status st = CAKE_OK;
    if (m->h.kind == CAKE_MSG_ERROR) {
        char text[CAKE_ERROR_TEXT_MAX + 1];
        st = cake_wire_error_text(&m->h, m->frames, text);
        const cake_cluster_plan *p = cake_cluster_deployed(s->cluster);
        const bool known = p && m->h.stage < p->plan.n_stages;
        cake_fail(&err, st, "stage %u (%s) failed: %s", m->h.stage,
                  known ? p->request.nodes[p->plan.stages[m->h.stage].node].name : "?", text);
        cake_scheduler_fail(s, &err);
        return;
    }
    if (!f) return;
    if (!(m->h.flags & CAKE_FLAG_CANCELED))
        st = take_rows(s, m, f, &err);
    else if (!f->canceled)
        st = cake_fail(&err, CAKE_EPROTO, "stage %u gave up batch %" PRIu64 " by itself",
                       m->h.stage, m->h.id);
    if (st != CAKE_OK) {
        cake_scheduler_fail(s, &err);
        return;
    }
    add_times(s, m, f);
    for (uint32_t i = 0; i < f->n_members; i++) {
        const cake_member *k = &f->members[i];
        k->q->n_flying--;
        if (!is_live(k->q, k->round)) continue;
        k->q->n_windows--;
        if (k->n_guesses) cake_lookup_checked(k->q->lookup, k->n_guesses, k->n_guesses);
    }
    f->used = false;
    s->n_flights--;
    s->n_decode_flights -= f->n_decode > 0;
    cake_scheduler_cancel_dead(s);
    cake_scheduler_reap(s);
}
