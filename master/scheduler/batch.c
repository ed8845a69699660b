/* What goes into batches: who is let in, whose next tokens and how much of whose prompt travel
 * together, how many batches are in flight. See scheduler.h. */
#include "common/clock.h"
#include "common/mem.h"
#include "master/scheduler/scheduler_impl.h"
#include "worker/embed.h"

#include <string.h>

enum {
    WORTH_WAITING = 16, /* rows that another sequence computes just now */
    CHUNKS = 25,    /* a prompt is cut into so many pieces a stage, to keep all stages at work */
    CHUNK_MIN = 32, /* but not smaller: weights are read once a piece */
};

/* ---- who is let in ---- */

/* Somebody computes a longer part of this prompt just now than is ready yet: wait for it. */
static bool may_begin(void *scheduler, const cake_fair_item *item) {
    const cake_scheduler *s = scheduler;
    const cake_sequence *q = (const cake_sequence *)(const void *)item;
    if (q->r.score || q->r.n_prompt <= WORTH_WAITING) return true;
    uint32_t ready = cake_prefix_match(s->kv, q->tokens, q->r.n_prompt - 1);
    for (const cake_sequence *o = s->all; s->can_cut && o; o = o->next) {
        if ((o->phase != PREFILL && o->phase != DECODE) || o->done >= o->r.n_prompt) continue;
        uint32_t n = o->r.n_prompt < q->r.n_prompt - 1 ? o->r.n_prompt : q->r.n_prompt - 1, k = 0;
        while (k < n && o->tokens[k] == q->tokens[k]) k++;
        if (k >= ready + WORTH_WAITING) return false;
    }
    return true;
}

/* As many run as have room for the whole context, so a running sequence never has to be thrown
 * out; what is kept of others makes room for it. */
static void admit(cake_scheduler *s) {
    while (s->n_prefilling + s->n_decoding < s->n_seqs && s->ops.n < s->ops.cap / 4) {
        cake_fair_item *item = cake_fair_next(&s->queue, may_begin, s);
        if (!item) return;
        cake_sequence *q = (cake_sequence *)(void *)item;
        q->slot = cake_prefix_open(s->kv, q->tokens, q->r.n_prompt,
                                   q->r.score ? 0 : q->r.n_prompt - 1, &q->cached, &s->ops);
        q->sent = q->done = q->cached;
        cake_sequence_phase(s, q, PREFILL);
        cake_prefix_publish(s->kv, q->slot, q->tokens, q->cached);
        s->stats.cached_rows += q->cached;
        if (q->r.progress) q->r.progress(q->r.arg, q->cached, q->cached);
    }
}

/* ---- rows ---- */

typedef struct {
    uint32_t n_rows;
    cake_flight *f;
} batch;

/* The tokens of q from `sent` on, n of them; logits of those from position `ask` on. */
static void add_rows(cake_scheduler *s, batch *b, cake_sequence *q, uint32_t n, uint32_t ask,
                     uint32_t n_guesses) {
    cake_flight *f = b->f;
    uint32_t begin = q->sent, end = begin + n, member = f->n_members++;
    for (uint32_t pos = begin; pos < end; pos++) {
        s->rows[b->n_rows++] = (cake_row){.seq = q->slot,
                                          .pos = pos,
                                          .token = q->tokens[pos],
                                          .flags = pos >= ask ? CAKE_ROW_LOGITS : 0};
        if (pos >= ask) f->asked[f->n_asked++] = (cake_asked){q, pos, q->round, member};
    }
    cake_prefix_extend(s->kv, q->slot, n, &s->ops);
    f->members[member] = (cake_member){q, begin, end, q->round, n_guesses};
    q->sent = end;
    q->batch = s->next_batch + 1;
    q->n_flying++;
    q->n_windows++;
}

/* ---- decoding ---- */

/* How many guesses to add to the n_decode rows that a batch has anyway. */
static uint32_t guesses(cake_scheduler *s, cake_sequence *q, uint32_t n_decode, uint32_t n_groups,
                        uint32_t room) {
    if (!q->lookup) return 0;
    bool ahead = q->sent >= q->n_tokens; /* the last token is on its way already */
    if (ahead && !cake_lookup_sure(q->lookup)) return 0;
    uint32_t n = cake_lookup_want(q->lookup);
    if (n && q->r.speculate == CAKE_SPECULATE_AUTO &&
        !cake_pace_guess_pays(&s->pace, cake_lookup_rate(q->lookup), n_decode, n_groups)) {
        cake_lookup_rest(q->lookup);
        n = 0;
    }
    /* The last position has no use for a guess: what follows it has no place. */
    uint32_t next = q->n_tokens + q->n_guesses, left = q->limit > next ? q->limit - next : 0;
    if (n > left) n = left;
    if (n > room) n = room;
    if (n == 0) return 0;
    if (next + n > q->cap) {
        q->cap = 2 * (next + n);
        q->tokens = cake_realloc(q->tokens, q->cap * sizeof *q->tokens);
        cake_prefix_publish(s->kv, q->slot, q->tokens, q->done);
    }
    n = cake_lookup_guess(q->lookup, q->tokens, q->n_tokens, next, n);
    q->n_guesses += n;
    s->stats.guessed += n;
    return n;
}

/* Deal the decoding sequences out over the batches in flight, so that all stages work at once and
 * those that travel together stay together. */
static void add_decoding(cake_scheduler *s, batch *b, uint32_t n_groups) {
    uint32_t share = (s->n_decoding + n_groups - 1) / n_groups, n_sequences = 0;
    for (cake_sequence *q = s->all; q && n_sequences < share; q = q->next) {
        if (q->phase != DECODE || q->r.score) continue;
        uint32_t room = s->max_logits - b->f->n_asked, rows = s->max_rows - b->n_rows;
        if (rows < room) room = rows;
        /* Others need room for a row of theirs. */
        uint32_t others = share - n_sequences - 1;
        room = room > others ? room - others : 1;
        if (b->n_rows == s->max_rows || b->f->n_asked == s->max_logits) return;
        bool ahead = q->sent >= q->n_tokens;
        if (ahead && q->n_windows >= cake_pace_depth(&s->pace, 8, s->max_flights)) continue;
        uint32_t n = ahead ? 0 : 1;
        uint32_t extra = guesses(s, q, share, n_groups, room - n);
        if (n + extra == 0) continue;
        add_rows(s, b, q, n + extra, q->sent, extra);
        b->f->n_decode += n + extra;
        s->stats.decode_rows += n + extra;
        n_sequences++;
    }
}

/* ---- prompts ---- */

static void add_prompt(cake_scheduler *s, batch *b, cake_sequence *q, uint32_t room) {
    uint32_t left = q->r.n_prompt - q->sent, n = left < room ? left : room;
    uint32_t ask = q->r.score ? q->sent : q->r.n_prompt - 1;
    uint32_t logits = s->max_logits - b->f->n_asked;
    if (q->sent + n > ask && q->sent + n - ask > logits) n = ask - q->sent + logits;
    if (n == 0) return;
    add_rows(s, b, q, n, ask, 0);
    b->f->n_prompt += n;
    s->stats.prompt_rows += n;
    if (q->sent == q->r.n_prompt) cake_sequence_phase(s, q, DECODE); /* its logits are on the way */
}

static bool in_batch(const cake_scheduler *s, const cake_sequence *q) {
    return q->batch == s->next_batch + 1;
}

/* A quarter for whoever came first, the rest for who is done soonest: short prompts pass long ones
 * without ever stopping them. */
static void add_prompts(cake_scheduler *s, batch *b, uint32_t room) {
    cake_sequence *first = s->all;
    while (first && (first->phase != PREFILL)) first = first->next;
    uint32_t quarter = (room + 3) / 4;
    while (room) {
        cake_sequence *best = NULL;
        for (cake_sequence *q = first; q; q = q->next)
            if (q->phase == PREFILL && !in_batch(s, q) &&
                (!best || q->r.n_prompt - q->sent < best->r.n_prompt - best->sent))
                best = q;
        if (!best) return;
        uint32_t most = room;
        if (best != first && !in_batch(s, first)) {
            if (room > quarter)
                most = room - quarter;
            else
                best = first;
        }
        uint32_t before = b->n_rows;
        add_prompt(s, b, best, most);
        if (b->n_rows == before) return; /* no room for more logits */
        room -= b->n_rows - before;
    }
}

/* Rows of prompts for a batch while nobody decodes: so few that all stages soon have some, so many
 * that reading the weights does not count. */
static uint32_t chunk(const cake_scheduler *s) {
    if (s->n_stages == 1) return s->max_rows;
    uint64_t left = 0, pieces = CHUNKS * (uint64_t)(s->n_stages - 1);
    for (const cake_sequence *q = s->all; q; q = q->next)
        if (q->phase == PREFILL) left += q->r.n_prompt - q->sent;
    uint64_t n = (left + pieces - 1) / pieces;
    return n < CHUNK_MIN ? CHUNK_MIN : n < s->max_rows ? (uint32_t)n : s->max_rows;
}

/* ---- batches ---- */

static bool any_sure(const cake_scheduler *s) {
    for (const cake_sequence *q = s->all; q; q = q->next)
        if (q->phase == DECODE && q->lookup && cake_lookup_sure(q->lookup)) return true;
    return false;
}

static uint32_t max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

/* Batches in flight that carry rows of prompts. */
static uint32_t carrying(const cake_scheduler *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->max_flights; i++)
        n += s->flights[i].used && s->flights[i].n_prompt > 0;
    return n;
}

/* Build one batch; false when there is nothing to send now. */
static bool build(cake_scheduler *s, batch *b) {
    cake_flight *f = s->flights;
    while (f->used) f++;
    f->n_decode = f->n_prompt = f->n_asked = f->n_members = 0;
    *b = (batch){.f = f};
    uint32_t groups = cake_pace_groups(&s->pace, s->n_decoding, s->max_flights), most = groups;
    if (any_sure(s)) most = max_u32(groups, cake_pace_depth(&s->pace, 8, s->max_flights));
    if (s->n_decode_flights < most) add_decoding(s, b, groups);
    if (s->n_prefilling == 0) return b->n_rows > 0;
    uint32_t rows, flights;
    if (s->n_decoding) {
        flights = max_u32(groups, s->n_stages);
        rows = cake_pace_prompt_rows(&s->pace, f->n_decode, s->n_decoding, groups, flights,
                                     carrying(s));
    } else {
        rows = chunk(s);
        flights = s->n_stages + 1;
        if (s->pace.prompt_ns > 0)
            flights += (uint32_t)(s->pace.network_ns / (s->pace.prompt_ns * rows));
    }
    if (rows > s->max_rows - b->n_rows) rows = s->max_rows - b->n_rows;
    if (b->n_rows || s->n_flights < flights) add_prompts(s, b, rows);
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
    cake_flight *f = b->f;
    f->used = true;
    f->canceled = false;
    f->id = h.id;
    f->sent_ns = cake_now_ns();
    s->n_flights++;
    s->n_decode_flights += f->n_decode > 0;
    s->stats.batches++;
    s->stats.rows += b->n_rows;
    return cake_cluster_send(s->cluster, m, err);
}

cake_status cake_scheduler_send(cake_scheduler *s, cake_error *err) {
    batch b;
    cake_status st = CAKE_OK;
    while (st == CAKE_OK && s->n_flights < s->max_flights) {
        admit(s);
        if (!build(s, &b)) break;
        st = send_batch(s, &b, err);
    }
    return st;
}
