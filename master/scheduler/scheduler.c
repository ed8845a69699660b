/* The scheduler: see scheduler.h. */
#include "master/scheduler/scheduler.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/scheduler/prefix.h"
#include "worker/embed.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    QUEUE_MAX = 1024,   /* sequences waiting for a slot */
    WORTH_WAITING = 16, /* rows that another sequence computes just now */
    FLIGHT_MAX = CAKE_STAGES_MAX + 1,
    /* A batch in flight for so long is lost, whatever the heartbeats say; besides, SLOWER times as
     * long as the plan expects of all that is in flight. */
    BATCH_TIMEOUT_MS = 120000,
    SLOWER = 20,
};

typedef enum { WAITING, PREFILL, DECODE, ENDED } phase;

typedef struct sequence {
    uint64_t id;
    cake_sequence_request r;
    uint32_t *tokens; /* [n_tokens] prompt, then what was chosen */
    uint32_t n_tokens, cap;
    phase phase;
    uint32_t slot;     /* on the stages, while PREFILL or DECODE */
    uint32_t limit;    /* most positions */
    uint32_t cached;   /* positions that were there already */
    uint32_t sent;     /* rows sent so far = next position */
    uint32_t done;     /* of them, computed */
    bool in_flight;    /* DECODE: its row is in a batch */
    uint32_t n_flying; /* batches in flight that hold rows of it */
    struct sequence *next;
} sequence;

/* A sequence in a batch; once it is done, positions below `end` are computed on all stages. */
typedef struct {
    sequence *q;
    uint32_t end;
} member;

typedef struct {
    uint64_t id;
    bool used;
    uint64_t sent_ns;
    uint32_t n_rows; /* with logits wanted */
    sequence **who;  /* [max_rows] owner of each such row; NULL when it ended meanwhile */
    uint32_t n_members;
    member *members; /* [n_running_max] sequences with rows in the batch */
} flight;

struct cake_scheduler {
    cake_cluster *cluster;
    uint32_t n_vocab, n_seqs, max_rows, max_logits, context, n_stages;
    cake_prefix *kv; /* slots and blocks of the stages */
    sequence *all; /* every sequence that has not ended or still has rows in flight, oldest first */
    uint32_t n_waiting;
    cake_kv_ops ops; /* to send with the next batch */
    uint64_t next_id, next_batch;
    uint32_t n_flights, max_flights;
    flight flights[FLIGHT_MAX];
    cake_row *rows;
    float *logits;
    uint64_t batch_timeout_ns;
    int wake_fd; /* ends a step when readable; -1: none */
    bool broken; /* a batch failed: the stages' state is unknown */
    cake_error broken_why;
    cake_scheduler_stats stats;
};

/* ---- life ---- */

static void on_message(void *arg, const cake_msg *m);

/* A part that keeps a state of fixed size instead of keys and values cannot be cut or shared. */
static bool can_fork(const cake_cluster_plan *p) {
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
    uint32_t n_slots = p->options.slots;
    s->kv = cake_prefix_new(
        &(cake_prefix_options){.n_slots = n_slots,
                               .n_blocks = s->n_seqs * (s->context / CAKE_EMBED_KV_BLOCK + 1),
                               .max_positions = s->context,
                               .keep = can_fork(p)});
    s->max_flights = s->n_stages + 1;
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
        s->flights[i].who = cake_calloc(s->max_logits, sizeof *s->flights[i].who);
        s->flights[i].members = cake_calloc(s->n_seqs, sizeof *s->flights[i].members);
    }
    s->stats.n_stages = s->n_stages;
    cake_cluster_set_handler(c, on_message, s);
    *out = s;
    return CAKE_OK;
}

/* ---- sequences ---- */

/* Take a sequence off the list once it has ended and no batch holds rows of it. */
static void reap(cake_scheduler *s) {
    for (sequence **at = &s->all; *at;) {
        sequence *q = *at;
        if (q->phase == ENDED && q->n_flying == 0) {
            *at = q->next;
            free(q->tokens);
            free(q);
        } else {
            at = &q->next;
        }
    }
}

static void end(cake_scheduler *s, sequence *q, cake_done how, const cake_error *err) {
    if (q->phase == ENDED) return;
    if (q->phase == WAITING) {
        s->n_waiting--;
    } else {
        /* The stages apply operations before rows, in order: the slot may be used again at once. */
        cake_prefix_close(s->kv, q->slot, &s->ops);
        s->stats.running--;
    }
    q->phase = ENDED;
    q->r.done(q->r.arg, how, err);
}

static void fail_all(cake_scheduler *s, const cake_error *err) {
    s->broken = true;
    s->broken_why = *err;
    for (sequence *q = s->all; q; q = q->next) {
        q->n_flying = 0;
        end(s, q, CAKE_DONE_ERROR, err);
    }
    for (uint32_t i = 0; i < s->max_flights; i++) s->flights[i].used = false;
    s->n_flights = 0;
    reap(s);
}

void cake_scheduler_free(cake_scheduler *s) {
    if (!s) return;
    for (sequence *q = s->all; q; q = q->next) {
        q->n_flying = 0;
        end(s, q, CAKE_DONE_CANCELED, NULL);
    }
    reap(s);
    cake_cluster_set_handler(s->cluster, NULL, NULL);
    for (uint32_t i = 0; i < s->max_flights; i++) {
        free(s->flights[i].who);
        free(s->flights[i].members);
    }
    cake_prefix_free(s->kv);
    free(s->ops.v);
    free(s->rows);
    free(s->logits);
    free(s);
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
    sequence *q = cake_calloc(1, sizeof *q);
    q->id = ++s->next_id;
    q->r = *r;
    q->limit = limit;
    q->n_tokens = r->n_prompt;
    q->cap = r->n_prompt + 64;
    q->tokens = cake_malloc(q->cap * sizeof *q->tokens);
    memcpy(q->tokens, r->prompt, r->n_prompt * sizeof *q->tokens);
    q->r.prompt = NULL; /* the caller's */
    sequence **at = &s->all;
    while (*at) at = &(*at)->next;
    *at = q;
    s->n_waiting++;
    if (id) *id = q->id;
    return CAKE_OK;
}

void cake_scheduler_cancel(cake_scheduler *s, uint64_t id) {
    for (sequence *q = s->all; q; q = q->next)
        if (q->id == id) end(s, q, CAKE_DONE_CANCELED, NULL);
}

void cake_scheduler_wake_on(cake_scheduler *s, int fd) {
    s->wake_fd = fd;
}

bool cake_scheduler_broken(const cake_scheduler *s) {
    return s->broken;
}

bool cake_scheduler_idle(const cake_scheduler *s) {
    for (const sequence *q = s->all; q; q = q->next)
        if (q->phase != ENDED) return false;
    return true;
}

void cake_scheduler_stats_get(const cake_scheduler *s, cake_scheduler_stats *out) {
    *out = s->stats;
    out->waiting = s->n_waiting;
    cake_prefix_stats_get(s->kv, &out->kv);
}

/* ---- building batches ---- */

/* Somebody computes a longer part of this prompt just now than is ready yet: wait for it. */
static bool better_later(const cake_scheduler *s, const sequence *q) {
    uint32_t now = cake_prefix_match(s->kv, q->tokens, q->r.n_prompt - 1);
    for (const sequence *o = s->all; o && !q->r.score; o = o->next) {
        if ((o->phase != PREFILL && o->phase != DECODE) || o->done >= o->r.n_prompt) continue;
        uint32_t n = o->r.n_prompt < q->r.n_prompt - 1 ? o->r.n_prompt : q->r.n_prompt - 1, k = 0;
        while (k < n && o->tokens[k] == q->tokens[k]) k++;
        if (k >= now + WORTH_WAITING) return true;
    }
    return false;
}

/* Give waiting sequences a slot, oldest first. As many run as have room for the whole context, so a
 * running sequence never has to be thrown out; what is kept of others makes room for it. */
static void admit(cake_scheduler *s) {
    for (sequence *q = s->all; q && s->stats.running < s->n_seqs; q = q->next) {
        if (q->phase != WAITING || better_later(s, q)) continue;
        q->slot = cake_prefix_open(s->kv, q->tokens, q->r.n_prompt,
                                   q->r.score ? 0 : q->r.n_prompt - 1, &q->cached, &s->ops);
        q->sent = q->cached;
        q->phase = PREFILL;
        s->n_waiting--;
        s->stats.running++;
        s->stats.cached_rows += q->cached;
        if (q->r.progress) q->r.progress(q->r.arg, q->cached, q->cached);
    }
}

typedef struct {
    uint32_t n_rows, n_logits;
    flight *f;
} batch;

static void add_row(cake_scheduler *s, batch *b, sequence *q, uint32_t token, bool logits) {
    s->rows[b->n_rows++] = (cake_row){
        .seq = q->slot, .pos = q->sent++, .token = token, .flags = logits ? CAKE_ROW_LOGITS : 0};
    if (logits) b->f->who[b->n_logits++] = q;
}

static void join(cake_scheduler *s, batch *b, sequence *q, uint32_t n) {
    cake_prefix_extend(s->kv, q->slot, n, &s->ops);
    b->f->members[b->f->n_members++] = (member){q, q->sent};
    q->n_flying++;
}

/* Rows of the prompt of q, as many as fit. */
static void add_prompt(cake_scheduler *s, batch *b, sequence *q, uint32_t room) {
    uint32_t first = b->n_rows;
    while (room-- && q->sent < q->r.n_prompt) {
        bool logits = q->r.score || q->sent + 1 == q->r.n_prompt;
        if (logits && b->n_logits == s->max_logits) break;
        add_row(s, b, q, q->tokens[q->sent], logits);
    }
    s->stats.prompt_rows += b->n_rows - first;
    if (b->n_rows > first) join(s, b, q, b->n_rows - first);
    if (q->sent == q->r.n_prompt)
        q->phase = DECODE, q->in_flight = true; /* its logits are on the way */
}

static flight *free_flight(cake_scheduler *s) {
    for (uint32_t i = 0; i < s->max_flights; i++)
        if (!s->flights[i].used) return &s->flights[i];
    return NULL;
}

/* Build one batch; false when there is nothing to send. */
static bool build(cake_scheduler *s, batch *b) {
    uint32_t decoding = 0, prefilling = 0;
    for (sequence *q = s->all; q; q = q->next) {
        decoding += q->phase == DECODE;
        prefilling += q->phase == PREFILL;
    }
    /* Deal the decoding sequences out over the stages, so that all stages work at once. */
    uint32_t share = (decoding + s->n_stages - 1) / s->n_stages;
    *b = (batch){.f = free_flight(s)};
    b->f->n_members = 0;
    for (sequence *q = s->all; q && b->n_rows < share; q = q->next) {
        if (q->phase != DECODE || q->in_flight || q->r.score) continue;
        if (b->n_rows == s->max_rows || b->n_logits == s->max_logits) break;
        add_row(s, b, q, q->tokens[q->sent], true);
        join(s, b, q, 1);
        q->in_flight = true;
        s->stats.decode_rows++;
    }
    /* Others who decode wait for this batch on every stage: prompts take a quarter then. */
    uint32_t room = s->max_rows - b->n_rows;
    if (decoding > 0 && room > s->max_rows / 4 && s->max_rows >= 64) room = s->max_rows / 4;
    if (prefilling)
        for (sequence *q = s->all; q && room; q = q->next) {
            if (q->phase != PREFILL) continue;
            uint32_t before = b->n_rows;
            add_prompt(s, b, q, room);
            room -= b->n_rows - before;
            if (b->n_rows == before) break; /* no room for more logits */
        }
    return b->n_rows > 0;
}

static cake_status send_batch(cake_scheduler *s, batch *b, cake_error *err) {
    cake_wire_hdr h = {.kind = CAKE_MSG_BATCH,
                       .epoch = cake_cluster_epoch(s->cluster),
                       .id = ++s->next_batch,
                       .n_rows = b->n_rows,
                       .n_ops = s->ops.n};
    cake_msg *m = cake_msg_rows(&h, s->rows, s->ops.v, NULL);
    if (!m) return cake_fail(err, CAKE_ENOMEM, "no memory for a batch of %u rows", b->n_rows);
    s->ops.n = 0;
    b->f->used = true;
    b->f->id = h.id;
    b->f->n_rows = b->n_logits;
    b->f->sent_ns = cake_now_ns();
    s->n_flights++;
    s->stats.batches++;
    s->stats.rows += b->n_rows;
    return cake_cluster_send(s->cluster, m, err);
}

/* ---- results ---- */

static flight *find_flight(cake_scheduler *s, uint64_t id) {
    for (uint32_t i = 0; i < s->max_flights; i++)
        if (s->flights[i].used && s->flights[i].id == id) return &s->flights[i];
    return NULL;
}

static void add_times(cake_scheduler *s, const cake_msg *m, const flight *f) {
    s->stats.flight_ns += cake_now_ns() - f->sent_ns;
    for (uint32_t i = 0; i < m->h.n_times; i++) {
        cake_stage_time t = cake_msg_time(m, i);
        if (t.stage >= s->n_stages) continue;
        s->stats.stage[t.stage].compute_ns += t.compute_ns;
        s->stats.stage[t.stage].queue_ns += t.queue_ns;
        s->stats.stage[t.stage].rows += t.n_rows;
    }
}

static void take_logits(cake_scheduler *s, sequence *q, cake_row row, float *logits) {
    uint32_t token = 0;
    bool more = q->r.next(q->r.arg, row.pos, logits, s->n_vocab, &token);
    if (q->phase == ENDED) return; /* cancelled by its own callback */
    if (q->r.score) {
        if (row.pos + 1 == q->r.n_prompt) end(s, q, CAKE_DONE_STOP, NULL);
        return;
    }
    q->in_flight = false;
    if (!more)
        end(s, q, CAKE_DONE_STOP, NULL);
    else if (token >= s->n_vocab) {
        cake_error err;
        cake_fail(&err, CAKE_EINVAL, "token %u is outside the vocabulary", token);
        end(s, q, CAKE_DONE_ERROR, &err);
    } else if (q->sent >= q->limit) {
        end(s, q, CAKE_DONE_LENGTH, NULL);
    } else {
        if (q->n_tokens == q->cap) {
            q->cap *= 2;
            q->tokens = cake_realloc(q->tokens, q->cap * sizeof *q->tokens);
        }
        q->tokens[q->n_tokens++] = token;
        cake_prefix_publish(s->kv, q->slot, q->tokens, q->done);
    }
}

/* What a batch computed of a sequence is there for others from now on. */
static void ready(cake_scheduler *s, const member *m) {
    sequence *q = m->q;
    if (q->phase == ENDED) return;
    uint32_t prompt_done = q->done < q->r.n_prompt ? q->done : q->r.n_prompt;
    q->done = m->end;
    cake_prefix_publish(s->kv, q->slot, q->tokens, q->done);
    if (q->r.progress && prompt_done < q->r.n_prompt)
        q->r.progress(q->r.arg, q->cached, q->done < q->r.n_prompt ? q->done : q->r.n_prompt);
}

static void on_message(void *arg, const cake_msg *m) {
    cake_scheduler *s = arg;
    flight *f = find_flight(s, m->h.id);
    cake_error err;
    if (m->h.kind == CAKE_MSG_ERROR) {
        char text[CAKE_ERROR_TEXT_MAX + 1];
        cake_status st = cake_wire_error_text(&m->h, m->frames, text);
        cake_fail(&err, st, "stage %u failed: %s", m->h.stage, text);
        fail_all(s, &err);
        return;
    }
    if (!f) return;
    for (uint32_t i = 0; i < f->n_members; i++) ready(s, &f->members[i]);
    bool ok = m->h.n_rows == f->n_rows && (m->h.n_rows == 0 || m->h.width == s->n_vocab);
    for (uint32_t i = 0; ok && i < f->n_rows; i++) {
        sequence *q = f->who[i];
        cake_row row = cake_msg_row(m, i);
        if (q->phase == ENDED) continue; /* cancelled while in flight */
        if (row.seq != q->slot || row.pos >= q->sent) {
            ok = false;
            break;
        }
        /* In place where the message allows it: a row of a large vocabulary is half a megabyte. */
        uint8_t *values = cake_msg_values((cake_msg *)(uintptr_t)m, i);
        float *logits = (float *)(void *)values;
        if ((uintptr_t)values % _Alignof(float) != 0)
            logits = memcpy(s->logits, values, s->n_vocab * sizeof *s->logits);
        take_logits(s, q, row, logits);
    }
    if (!ok) {
        cake_fail(&err, CAKE_EPROTO, "the result of batch %" PRIu64 " does not fit what was asked",
                  m->h.id);
        fail_all(s, &err);
        return;
    }
    add_times(s, m, f);
    for (uint32_t i = 0; i < f->n_members; i++) f->members[i].q->n_flying--;
    f->used = false;
    s->n_flights--;
    reap(s);
}

/* ---- the step ---- */

static cake_status check_deadlines(cake_scheduler *s, cake_error *err) {
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
    admit(s);
    batch b;
    cake_status st = CAKE_OK;
    while (st == CAKE_OK && s->n_flights < s->max_flights && build(s, &b))
        st = send_batch(s, &b, err);
    if (st == CAKE_OK) st = cake_cluster_poll(s->cluster, timeout_ms, s->wake_fd, err);
    if (st == CAKE_OK) st = check_deadlines(s, err);
    if (st != CAKE_OK && !s->broken) {
        cake_error why = {.status = st};
        if (err) why = *err;
        if (st == CAKE_ECANCELED) return st; /* the user's wish, the plan is fine */
        fail_all(s, &why);
    }
    if (s->broken) return cake_fail(err, s->broken_why.status, "%s", s->broken_why.msg);
    return CAKE_OK;
}
