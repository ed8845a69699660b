/* The compute thread: see compute.h.
 *
 * States: idle -> fetching (bundle incomplete) -> loading -> ready, or failed. An assignment
 * replaces whatever was there, except that stages already loaded with the same weights and shapes
 * are kept. */
#include "worker/node/compute.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/pool.h"
#include "kernels/cpu.h"
#include "worker/engine/selftest.h"
#include "worker/engine/stage.h"
#include "worker/node/measure.h"
#include "worker/store/store.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PROGRESS_MS = 200,
    DAMAGED_MAX = 16,  /* tensors with a wrong hash before a transfer is given up */
    CANCELED_MAX = 64, /* cancelled batches remembered; more are never in flight */
};

/* Everything that belongs to one assignment. */
typedef struct {
    bool set;
    cake_assign assign;
    cake_peer master;
    uint64_t epoch;
    cake_worker_state state;
    cake_store_bundle *bundle; /* NULL for the local model */
    cake_model_config config;
    bool has_config;
    cake_stage *stage[CAKE_ASSIGN_STAGES_MAX];
    cake_scratch *scratch;
    float *in; /* a batch's input, and its output where that is not sent as f32 */
    size_t in_floats, logit_floats; /* logits lie in the message that goes out */
    cake_row *rows, *asked;    /* [max_rows] of the batch at hand; those whose logits are wanted */
    cake_kv_op *ops;           /* [max_ops()] */
    cake_worker_status memory; /* weight_bytes, kv_bytes, other_bytes of a loaded assignment */
} job;

struct cake_compute {
    cake_compute_options o;
    cake_queue *in, *out;
    cake_pool *pool;
    cake_store *store;
    cake_speed speed;
    pthread_t thread;
    _Atomic bool stop;
    _Atomic uint64_t held_bytes;             /* memory of the loaded assignment */
    _Atomic uint64_t canceled[CANCELED_MAX]; /* ring of batch ids; 0: none */
    _Atomic unsigned n_canceled;
    uint64_t batch; /* at hand; 0: none */
    bool given_up;  /* by the stage before */
    job j;
    bool receiving;
    cake_receiver receiver;
    uint64_t next_transfer;
    int64_t last_progress_ms;
};

/* ---- output ---- */

static cake_out *new_out(cake_compute *c, cake_out_kind kind) {
    cake_out *o = cake_calloc(1, sizeof *o);
    o->kind = kind;
    o->peer = c->j.master;
    o->epoch = c->j.epoch;
    return o;
}

static void send_master(cake_compute *c, cake_msg *m) {
    if (!m) {
        cake_log(CAKE_LOG_ERROR,
                 "event=message_dropped reason=\"out of memory or above the caps\"");
        return;
    }
    cake_out *o = new_out(c, CAKE_OUT_MASTER);
    o->msg = m;
    cake_queue_push(c->out, o);
}

static cake_worker_status status_of(const cake_compute *c) {
    cake_worker_status s = c->j.memory;
    s.state = c->j.state;
    if (c->j.bundle) s.reused_bytes = cake_store_reused_bytes(c->j.bundle);
    return s;
}

static void send_progress(cake_compute *c, uint64_t done, uint64_t total, bool always) {
    int64_t now = cake_now_ms();
    if (!always && now - c->last_progress_ms < PROGRESS_MS) return;
    c->last_progress_ms = now;
    cake_worker_status s = status_of(c);
    s.done = done;
    s.total = total;
    send_master(c, cake_control_status(c->j.epoch, &s));
}

/* ---- loading ---- */

/* KV commands a sane master puts into one batch, and what room is made for. */
static uint32_t max_ops(const cake_assign *a) {
    uint32_t n = 4 * a->n_seqs + 16;
    return n < CAKE_OPS_MAX ? n : CAKE_OPS_MAX;
}

static void unload(cake_compute *c) {
    job *j = &c->j;
    free(j->rows);
    free(j->asked);
    free(j->ops);
    j->rows = j->asked = NULL;
    j->ops = NULL;
    for (int i = 0; i < CAKE_ASSIGN_STAGES_MAX; i++) {
        cake_stage_free(j->stage[i]);
        j->stage[i] = NULL;
    }
    cake_scratch_free(j->scratch);
    j->scratch = NULL;
    cake_pages_free(j->in, j->in_floats * sizeof(float));
    j->in = NULL;
    j->in_floats = j->logit_floats = 0;
    j->memory = (cake_worker_status){0};
    if (j->has_config) cake_config_deinit(&j->config);
    j->has_config = false;
    atomic_store(&c->held_bytes, 0);
}

static void stop_receiving(cake_compute *c) {
    if (c->receiving) cake_receiver_deinit(&c->receiver);
    c->receiving = false;
}

static void forget(cake_compute *c) {
    stop_receiving(c);
    unload(c);
    if (c->j.bundle) cake_store_release(c->j.bundle);
    cake_assign_deinit(&c->j.assign);
    c->j = (job){0};
}

static void failed(cake_compute *c, cake_status st, const char *text) {
    cake_log(CAKE_LOG_WARN, "event=assignment_failed epoch=%" PRIu64 " code=%s reason=\"%s\"",
             c->j.epoch, cake_status_name(st), text);
    stop_receiving(c);
    unload(c);
    c->j.state = CAKE_STATE_FAILED;
    cake_worker_status s = status_of(c);
    s.code = st;
    snprintf(s.message, sizeof s.message, "%s", text);
    send_master(c, cake_control_status(c->j.epoch, &s));
}

static uint64_t memory_limit(const cake_compute *c) {
    uint64_t avail = cake_mem_available();
    return c->o.memory_bytes && (c->o.memory_bytes < avail || !avail) ? c->o.memory_bytes : avail;
}

static void on_load_progress(void *arg, uint64_t done, uint64_t total) {
    cake_compute *c = arg;
    send_progress(c, done, total, false);
}

/* Nobody wants the batch at hand; asked before every layer. */
static bool is_canceled(void *compute) {
    cake_compute *c = compute;
    bool found = c->given_up;
    for (int i = 0; c->batch && i < CANCELED_MAX && !found; i++)
        found = atomic_load_explicit(&c->canceled[i], memory_order_relaxed) == c->batch;
    return found;
}

/* Stage ranges as unit ranges, neighbours merged. */
static size_t ranges_of(const cake_assign *a, cake_unit_range *out) {
    size_t n = 0;
    for (uint32_t i = 0; i < a->n_stages; i++) {
        const cake_assign_stage *s = &a->stages[i];
        if (n && out[n - 1].end == s->unit_begin)
            out[n - 1].end = s->unit_end;
        else
            out[n++] = (cake_unit_range){s->unit_begin, s->unit_end};
    }
    return n;
}

static cake_status check_memory(cake_compute *c, const cake_stage_options *o, cake_error *err) {
    job *j = &c->j;
    uint64_t need = 0, scratch = 0;
    for (uint32_t i = 0; i < j->assign.n_stages; i++) {
        cake_stage_options so = o[i];
        cake_stage_memory m;
        cake_status st = cake_stage_measure(&so, cake_pool_threads(c->pool), &m, err);
        if (st != CAKE_OK) return st;
        j->memory.weight_bytes += m.weight_bytes;
        j->memory.kv_bytes += m.kv_bytes;
        scratch = m.scratch_bytes;
    }
    j->memory.other_bytes = scratch + (j->in_floats + j->logit_floats) * sizeof(float);
    need = j->memory.weight_bytes + j->memory.kv_bytes + j->memory.other_bytes;
    uint64_t limit = memory_limit(c);
    if (limit && need > limit)
        return cake_fail(err, CAKE_ENOSPACE,
                         "%" PRIu64 " MiB are needed here (weights %" PRIu64 ", KV %" PRIu64
                         ", buffers %" PRIu64 ") and %" PRIu64 " MiB are free; use a smaller "
                         "--context, more workers, or a larger --memory",
                         need >> 20, j->memory.weight_bytes >> 20, j->memory.kv_bytes >> 20,
                         j->memory.other_bytes >> 20, limit >> 20);
    return CAKE_OK;
}

static cake_status load(cake_compute *c, cake_error *err) {
    job *j = &c->j;
    const cake_assign *a = &j->assign;
    cake_checkpoint *ck = NULL;
    cake_layout *layout = NULL;
    char *config = NULL;
    size_t config_len;
    cake_unit_range ranges[CAKE_ASSIGN_STAGES_MAX];
    size_t n_ranges = ranges_of(a, ranges);
    cake_status st;
    j->state = CAKE_STATE_LOADING;
    const char *source = j->bundle ? cake_store_path(j->bundle) : c->o.local_model;
    if (!source)
        return cake_fail(err, CAKE_EPROTO, "this node has no model of its own and got no manifest");
    if ((st = cake_checkpoint_open(&ck, source, err)) != CAKE_OK) goto out;
    if ((st = cake_checkpoint_config(ck, &config, &config_len, err)) != CAKE_OK ||
        (st = cake_config_parse(&j->config, config, config_len, ck->config_path, err)) != CAKE_OK)
        goto out;
    j->has_config = true;
    if (a->stages[a->n_stages - 1].unit_end > j->config.n_layers + 2) {
        st = cake_fail(err, CAKE_EPROTO, "units up to %u are assigned and the model has %u",
                       a->stages[a->n_stages - 1].unit_end, j->config.n_layers + 2);
        goto out;
    }
    st = cake_layout_new(&layout, &j->config, ck, j->bundle ? ranges : NULL,
                         j->bundle ? n_ranges : 0, err);
    if (st != CAKE_OK) goto out;

    cake_stage_options so[CAKE_ASSIGN_STAGES_MAX];
    j->in_floats = (size_t)a->max_rows * j->config.hidden;
    for (uint32_t i = 0; i < a->n_stages; i++) {
        const cake_assign_stage *s = &a->stages[i];
        so[i] = (cake_stage_options){.config = &j->config,
                                     .layout = layout,
                                     .unit_begin = s->unit_begin,
                                     .unit_end = s->unit_end,
                                     .n_seqs = a->n_seqs,
                                     .context = a->context,
                                     .kv_blocks = a->n_blocks,
                                     .max_rows = a->max_rows,
                                     .kv = a->kv_q8 ? CAKE_KV_Q8 : CAKE_KV_F16,
                                     .f32_mode = a->f32_mode,
                                     .collect = a->collect};
        if (s->unit_end == j->config.n_layers + 2)
            j->logit_floats =
                (size_t)cake_logit_rows_max(j->config.vocab, a->max_rows) * j->config.vocab;
    }
    if ((st = check_memory(c, so, err)) != CAKE_OK) goto out;
    j->in = cake_pages_alloc(j->in_floats * sizeof *j->in);
    if (!j->in) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory for batches of %u rows", a->max_rows);
        goto out;
    }
    j->rows = cake_calloc(a->max_rows, sizeof *j->rows);
    j->asked = cake_calloc(a->max_rows, sizeof *j->asked);
    j->ops = cake_calloc(max_ops(a), sizeof *j->ops);
    st = cake_scratch_new(&j->scratch, &j->config, a->max_rows, cake_pool_threads(c->pool), err);
    for (uint32_t i = 0; st == CAKE_OK && i < a->n_stages; i++) {
        st =
            cake_stage_new(&j->stage[i], &so[i], ck, c->pool, j->scratch, on_load_progress, c, err);
        if (st == CAKE_OK) cake_stage_set_stop(j->stage[i], is_canceled, c);
        if (st == CAKE_OK) st = cake_stage_self_test(j->stage[i], err);
    }
    if (st == CAKE_OK)
        atomic_store(&c->held_bytes,
                     j->memory.weight_bytes + j->memory.kv_bytes + j->memory.other_bytes);
out:
    free(config);
    cake_layout_free(layout);
    cake_checkpoint_close(ck);
    return st;
}

static void load_and_report(cake_compute *c) {
    cake_error err;
    uint64_t t0 = cake_now_ns();
    cake_status st = load(c, &err);
    if (st != CAKE_OK) {
        failed(c, st, err.msg);
        return;
    }
    c->j.state = CAKE_STATE_READY;
    cake_log(CAKE_LOG_INFO,
             "event=loaded epoch=%" PRIu64 " weights_mib=%" PRIu64 " kv_mib=%" PRIu64
             " ms=%" PRIu64,
             c->j.epoch, c->j.memory.weight_bytes >> 20, c->j.memory.kv_bytes >> 20,
             (cake_now_ns() - t0) / 1000000);
    cake_out *o = new_out(c, CAKE_OUT_READY);
    o->status = status_of(c);
    cake_queue_push(c->out, o);
}

/* ---- fetching ---- */

/* Ask for what is missing; true when something is. */
static bool ask_for_missing(cake_compute *c) {
    job *j = &c->j;
    stop_receiving(c);
    if (!cake_store_missing_bytes(j->bundle)) return false;
    cake_store_range missing[CAKE_RANGES_MAX / 2];
    size_t n = cake_store_missing(j->bundle, missing, sizeof missing / sizeof *missing);
    cake_need need = {.transfer = ++c->next_transfer, .size = cake_store_manifest(j->bundle)->size};
    cake_ranges mine = {0};
    for (size_t i = 0; i < n; i++) {
        cake_ranges_add(&need.ranges, missing[i].begin, missing[i].end, NULL);
        cake_ranges_add(&mine, missing[i].begin, missing[i].end, NULL);
    }
    j->state = CAKE_STATE_FETCHING;
    send_master(c, cake_control_need(j->epoch, &need));
    cake_receiver_init(&c->receiver, need.transfer, need.size, &mine, CAKE_TRANSFER_WINDOW);
    cake_ranges_deinit(&need.ranges);
    c->receiving = true;
    uint64_t limit;
    if (cake_receiver_grant(&c->receiver, &limit))
        send_master(c, cake_msg_credit(need.transfer, limit));
    return true;
}

/* All that was asked for is here: verify, then load, or ask again for what was damaged. */
static void finish_fetch(cake_compute *c) {
    cake_error err;
    cake_status st = CAKE_EAGAIN;
    if (!cake_store_missing_bytes(c->j.bundle)) st = cake_store_finish(c->j.bundle, c->pool, &err);
    if (st == CAKE_OK) {
        stop_receiving(c);
        load_and_report(c);
    } else if (st != CAKE_EAGAIN) {
        failed(c, st, err.msg);
    } else if (cake_store_damaged(c->j.bundle) > DAMAGED_MAX || !ask_for_missing(c)) {
        failed(c, CAKE_EIO,
               "tensors arrive damaged again and again; check this machine's memory and disk, and "
               "that nobody writes to the model's files");
    }
}

static void on_chunk(cake_compute *c, const cake_msg *m) {
    if (!c->receiving || m->h.id != c->receiver.id || !cake_peer_equal(&m->from, &c->j.master))
        return;
    cake_view body = cake_msg_body(m);
    cake_error err;
    cake_status st = cake_receiver_chunk(&c->receiver, m->h.arg, body.len, &err);
    if (st == CAKE_OK) st = cake_store_write(c->j.bundle, m->h.arg, body.data, body.len, &err);
    if (st != CAKE_OK) {
        failed(c, st, err.msg);
        return;
    }
    cake_receiver_consumed(&c->receiver, body.len);
    uint64_t size = c->receiver.size, missing = cake_store_missing_bytes(c->j.bundle), limit;
    if (cake_receiver_grant(&c->receiver, &limit))
        send_master(c, cake_msg_credit(c->receiver.id, limit));
    send_progress(c, size - missing, size, missing == 0);
    if (cake_receiver_done(&c->receiver)) finish_fetch(c);
}

/* ---- assignment ---- */

static bool same_text(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* Would the new assignment load exactly what is loaded? (Next hops and wire type may differ.) */
static bool same_stages(const cake_assign *a, const cake_assign *b) {
    if (a->collect || b->collect) return false; /* statistics begin with the assignment */
    if (a->n_stages != b->n_stages || a->f32_mode != b->f32_mode || a->kv_q8 != b->kv_q8 ||
        a->context != b->context || a->n_seqs != b->n_seqs || a->n_blocks != b->n_blocks ||
        a->max_rows != b->max_rows || !same_text(a->manifest, b->manifest) ||
        !same_text(a->config, b->config))
        return false;
    for (uint32_t i = 0; i < a->n_stages; i++)
        if (a->stages[i].unit_begin != b->stages[i].unit_begin ||
            a->stages[i].unit_end != b->stages[i].unit_end)
            return false;
    return true;
}

static cake_status check_assign(const cake_assign *a, cake_error *err) {
    for (uint32_t i = 1; i < a->n_stages; i++)
        if (a->stages[i].unit_begin < a->stages[i - 1].unit_end)
            return cake_fail(err, CAKE_EPROTO, "the stages of an assignment overlap");
    uint64_t per_seq = a->context / 64 + 1;
    if (a->n_blocks > per_seq * a->n_seqs + a->n_seqs)
        return cake_fail(err, CAKE_EPROTO, "%u KV blocks for %u sequences of %u positions",
                         a->n_blocks, a->n_seqs, a->context);
    return CAKE_OK;
}

static void announce_links(cake_compute *c) {
    cake_out *o = new_out(c, CAKE_OUT_LINKS);
    o->n_stages = c->j.assign.n_stages;
    memcpy(o->stages, c->j.assign.stages, sizeof o->stages);
    cake_queue_push(c->out, o);
}

static void on_assign(cake_compute *c, const cake_msg *m, json_object *json) {
    cake_assign a;
    cake_error err;
    cake_status st = cake_control_read_assign(json, &a, &err);
    if (st == CAKE_OK) st = check_assign(&a, &err);
    if (st != CAKE_OK) {
        c->j.master = m->from;
        c->j.epoch = m->h.epoch;
        failed(c, st, err.msg);
        return;
    }
    if (c->j.set && c->j.state == CAKE_STATE_READY && same_stages(&c->j.assign, &a)) {
        /* Adopted again, perhaps by another master: nothing to fetch or load. */
        cake_assign_deinit(&c->j.assign);
        c->j.assign = a;
        c->j.master = m->from;
        c->j.epoch = m->h.epoch;
        cake_kv_op reset = {.op = CAKE_KV_RESET};
        uint32_t n;
        for (uint32_t i = 0; i < a.n_stages; i++)
            cake_stage_run(c->j.stage[i], &reset, 1, NULL, 0, NULL, NULL, &n, NULL);
        announce_links(c);
        cake_out *o = new_out(c, CAKE_OUT_READY);
        o->status = status_of(c);
        o->status.reused_bytes = c->j.bundle ? cake_store_manifest(c->j.bundle)->size : 0;
        cake_queue_push(c->out, o);
        return;
    }
    /* Releases the old bundle too: what the new one shares with it is copied from the disk, and
     * evicted last. */
    forget(c);
    c->j = (job){.set = true, .assign = a, .master = m->from, .epoch = m->h.epoch};
    announce_links(c);
    if (!a.manifest) {
        load_and_report(c);
        return;
    }
    if (!c->store) {
        st = cake_fail(&err, CAKE_EPROTO, "this node keeps no bundles");
    } else {
        st = cake_store_begin(c->store, a.manifest, strlen(a.manifest), a.config, strlen(a.config),
                              &c->j.bundle, &err);
    }
    if (st == CAKE_OK && cake_store_complete(c->j.bundle)) {
        /* Verified when it was received; the disk may have changed its mind since. */
        st = cake_store_verify(c->j.bundle, c->pool, &err);
        if (st == CAKE_OK) {
            load_and_report(c);
            return;
        }
        if (st == CAKE_EAGAIN) {
            cake_log(
                CAKE_LOG_WARN,
                "event=cache_damaged reason=\"%s\" action=\"fetching the damaged tensors again\"",
                err.msg);
            st = CAKE_OK;
        }
    }
    if (st != CAKE_OK)
        failed(c, st, err.msg);
    else
        finish_fetch(c);
}

/* ---- batches ---- */

void cake_compute_cancel(cake_compute *c, uint64_t batch) {
    unsigned i = atomic_fetch_add(&c->n_canceled, 1) % CANCELED_MAX;
    atomic_store(&c->canceled[i], batch);
}

static void send_error(cake_compute *c, const cake_msg *m, cake_status st, const char *text) {
    cake_log(CAKE_LOG_WARN, "event=batch_refused batch=%" PRIu64 " stage=%u code=%s reason=\"%s\"",
             m->h.id, m->h.stage, cake_status_name(st), text);
    send_master(c, cake_msg_error(m->h.epoch, m->h.id, m->h.stage, st, text));
}

/* The message for the output of a stage: header, n_out rows, ops and the times of the stages so far
 * and this one. Values, if any, are still to come. */
static cake_msg *new_output(const cake_compute *c, const cake_msg *m, uint32_t slot,
                            const cake_row *rows, uint32_t n_out, bool canceled) {
    const job *j = &c->j;
    bool head = cake_stage_has_head(j->stage[slot]);
    cake_stage_time times[CAKE_STAGES_MAX];
    uint32_t n_times = m->h.n_times < CAKE_STAGES_MAX - 1 ? m->h.n_times : CAKE_STAGES_MAX - 1;
    for (uint32_t i = 0; i < n_times; i++) times[i] = cake_msg_time(m, i);
    times[n_times++] = (cake_stage_time){.stage = m->h.stage, .n_rows = m->h.n_rows};
    cake_wire_hdr h = {.kind = head ? CAKE_MSG_RESULT : CAKE_MSG_BATCH,
                       .dtype = (uint8_t)(head ? CAKE_WIRE_F32 : j->assign.wire),
                       .epoch = m->h.epoch,
                       .id = m->h.id,
                       .stage = head ? m->h.stage : m->h.stage + 1,
                       .n_rows = n_out,
                       .n_ops = head ? 0 : m->h.n_ops,
                       .n_times = n_times,
                       .width = cake_stage_width_out(j->stage[slot])};
    if (canceled) h.flags = CAKE_FLAG_CANCELED;
    if (canceled || (head && n_out == 0)) h.width = 0, h.dtype = CAKE_WIRE_NONE; /* no values */
    return cake_msg_rows(&h, rows, j->ops, times);
}

/* Compute the rows and ops in the job; *out: what goes on to the next stage or to the master. */
static cake_status run_batch(cake_compute *c, const cake_msg *m, uint32_t slot, uint32_t n_logits,
                             cake_msg **out, cake_error *err) {
    job *j = &c->j;
    cake_stage *stage = j->stage[slot];
    const bool head = cake_stage_has_head(stage);
    const cake_row *rows = head ? j->asked : j->rows;
    uint32_t n = m->h.n_rows, n_out = head ? n_logits : n, width = cake_stage_width_out(stage);
    if (head && (uint64_t)n_logits * j->config.vocab > j->logit_floats)
        return cake_fail(err, CAKE_EINVAL, "logits of %u rows were asked for, at most %u fit",
                         n_logits, cake_logit_rows_max(j->config.vocab, j->assign.max_rows));
    cake_msg *o = *out = new_output(c, m, slot, rows, n_out, false);
    if (!o) return cake_fail(err, CAKE_ENOMEM, "no memory for the output of a batch");
    /* Floats are computed where they leave from. */
    float *to = j->in;
    if (n_out && o->h.dtype == CAKE_WIRE_F32) to = (float *)(void *)cake_msg_values(o, 0);
    c->batch = m->h.id;
    c->given_up = m->h.flags & CAKE_FLAG_CANCELED;
    cake_status st = cake_stage_run(stage, j->ops, m->h.n_ops, j->rows, n,
                                    cake_stage_width_in(stage) ? j->in : NULL, to, &n_out, err);
    c->batch = 0;
    c->given_up = false;
    if (st == CAKE_OK) {
        for (uint32_t i = 0; to == j->in && o->h.width && i < n_out; i++)
            cake_act_pack(cake_msg_values(o, i), to + (size_t)i * width, width, j->assign.wire);
        return st;
    }
    cake_msg_free(o);
    *out = NULL;
    if (st != CAKE_ECANCELED) return st;
    *out = new_output(c, m, slot, rows, head ? 0 : n, true);
    return *out ? CAKE_OK : cake_fail(err, CAKE_ENOMEM, "no memory for the output of a batch");
}

static void on_batch(cake_compute *c, const cake_msg *m) {
    job *j = &c->j;
    if (!j->set || m->h.epoch != j->epoch) return; /* late traffic of an old plan */
    uint32_t slot = 0;
    while (slot < j->assign.n_stages && j->assign.stages[slot].index != m->h.stage) slot++;
    if (slot == j->assign.n_stages || j->state != CAKE_STATE_READY) {
        send_error(c, m, CAKE_EPROTO, "this worker does not hold that stage (yet)");
        return;
    }
    uint64_t started = cake_now_ns();
    cake_stage *stage = j->stage[slot];
    cake_wire_limits limits = {.epoch = j->epoch,
                               .n_rows = j->assign.max_rows,
                               .n_ops = max_ops(&j->assign),
                               .n_seqs = j->assign.n_seqs,
                               .n_ctx = j->assign.context,
                               .n_vocab = j->config.vocab,
                               .n_stages = j->assign.stages[slot].n_stages,
                               .width = cake_stage_width_in(stage),
                               .dtypes = (uint8_t)(1u << CAKE_WIRE_NONE | 1u << j->assign.wire)};
    cake_error err;
    cake_status st = cake_wire_check(&m->h, m->frames, &limits, &err);
    if (st != CAKE_OK) {
        send_error(c, m, st, err.msg);
        return;
    }
    uint32_t n_logits = 0, width = cake_stage_width_in(stage);
    for (uint32_t i = 0; i < m->h.n_rows; i++) {
        j->rows[i] = cake_msg_row(m, i);
        if (j->rows[i].flags & CAKE_ROW_LOGITS) j->asked[n_logits++] = j->rows[i];
        if (m->h.width)
            cake_act_unpack(j->in + (size_t)i * width, cake_wire_values(&m->h, m->frames, i), width,
                            (cake_wire_type)m->h.dtype);
    }
    for (uint32_t i = 0; i < m->h.n_ops; i++) j->ops[i] = cake_msg_op(m, i);
    cake_msg *out;
    st = run_batch(c, m, slot, n_logits, &out, &err);
    if (st != CAKE_OK) {
        send_error(c, m, st, err.msg);
        return;
    }
    cake_msg_set_time(out, out->h.n_times - 1,
                      (cake_stage_time){.stage = m->h.stage,
                                        .n_rows = m->h.n_rows,
                                        .queue_ns = started - m->received_ns,
                                        .compute_ns = cake_now_ns() - started});
    cake_out *o = new_out(c, cake_stage_has_head(stage) ? CAKE_OUT_MASTER : CAKE_OUT_NEXT);
    o->slot = slot;
    o->msg = out;
    cake_queue_push(c->out, o);
}

/* ---- statistics ---- */

static void on_stats(cake_compute *c, const cake_msg *m, json_object *json) {
    job *j = &c->j;
    cake_stats_ask ask;
    cake_error err;
    if (!j->set || m->h.epoch != j->epoch || !cake_peer_equal(&m->from, &j->master)) return;
    cake_status st = cake_control_read_stats(json, &ask, &err);
    uint32_t slot = 0, n = 0, k = 0;
    while (slot < j->assign.n_stages && (ask.unit < j->assign.stages[slot].unit_begin ||
                                         ask.unit >= j->assign.stages[slot].unit_end))
        slot++;
    const cake_stats *stats =
        slot < j->assign.n_stages && j->stage[slot] ? cake_stage_stats(j->stage[slot]) : NULL;
    const double *sums;
    const uint64_t *counts;
    cake_msg *out = NULL;
    if (st == CAKE_OK && (!stats || !cake_stats_get(stats, ask.unit, cake_input_parse(ask.input),
                                                    &n, &k, &sums, &counts)))
        st = cake_fail(&err, CAKE_ENOTFOUND, "nothing was collected of '%s' of unit %u", ask.input,
                       ask.unit);
    if (st == CAKE_OK) {
        cake_row *rows = cake_calloc(n, sizeof *rows);
        for (uint32_t i = 0; i < n; i++)
            rows[i] = (cake_row){i, (uint32_t)counts[i], (uint32_t)(counts[i] >> 32), 0};
        cake_wire_hdr h = {.kind = CAKE_MSG_RESULT,
                           .dtype = CAKE_WIRE_F32,
                           .epoch = j->epoch,
                           .id = m->h.id,
                           .stage = j->assign.stages[slot].index,
                           .n_rows = n,
                           .width = k};
        out = cake_msg_rows(&h, rows, NULL, NULL);
        free(rows);
        if (!out) st = cake_fail(&err, CAKE_ENOMEM, "no memory for the statistics of an input");
    }
    for (uint32_t i = 0; out && i < n; i++) {
        uint8_t *to = cake_msg_values(out, i);
        for (uint32_t x = 0; x < k; x++) {
            float mean = counts[i] ? (float)(sums[(size_t)i * k + x] / (double)counts[i]) : 0.0f;
            memcpy(to + (size_t)x * sizeof mean, &mean, sizeof mean);
        }
    }
    send_master(c, out ? out : cake_msg_error(j->epoch, m->h.id, m->h.stage, st, err.msg));
}

/* ---- thread ---- */

static void on_control(cake_compute *c, const cake_msg *m) {
    cake_control_op op;
    json_object *json;
    cake_error err;
    if (cake_control_parse(cake_msg_body(m), &op, &json, &err) != CAKE_OK) {
        cake_log(CAKE_LOG_WARN, "event=control_refused reason=\"%s\"", err.msg);
        return;
    }
    if (op == CAKE_CONTROL_ASSIGN) on_assign(c, m, json);
    if (op == CAKE_CONTROL_STATS) on_stats(c, m, json);
    json_object_put(json);
}

static void *compute_main(void *arg) {
    cake_compute *c = arg;
    while (!atomic_load(&c->stop)) {
        cake_msg *m = cake_queue_pop(c->in, 200, c->o.spin_us);
        if (!m) continue;
        switch (m->h.kind) {
        case CAKE_MSG_CONTROL: on_control(c, m); break;
        case CAKE_MSG_CHUNK: on_chunk(c, m); break;
        case CAKE_MSG_BATCH: on_batch(c, m); break;
        default: break;
        }
        cake_msg_free(m);
    }
    return NULL;
}

cake_status cake_compute_new(cake_compute **out, const cake_compute_options *o, cake_error *err) {
    cake_compute *c = cake_calloc(1, sizeof *c);
    c->o = *o;
    c->o.cache_dir = o->cache_dir ? cake_strdup(o->cache_dir) : NULL;
    c->o.local_model = o->local_model ? cake_strdup(o->local_model) : NULL;
    c->in = cake_queue_new();
    c->out = cake_queue_new();
    c->pool = cake_pool_new(o->threads, o->spin_us);
    cake_status st = CAKE_OK;
    if (o->cache_dir) st = cake_store_open(&c->store, o->cache_dir, o->cache_budget_bytes, err);
    if (st == CAKE_OK) {
        cake_measure_speed(c->pool, &c->speed);
        if (pthread_create(&c->thread, NULL, compute_main, c) == 0) {
            *out = c;
            return CAKE_OK;
        }
        st = cake_fail(err, CAKE_ENOMEM, "cannot start the compute thread");
    }
    if (c->store) cake_store_close(c->store);
    c->store = NULL;
    cake_pool_free(c->pool);
    cake_queue_free(c->in);
    cake_queue_free(c->out);
    free((void *)(uintptr_t)c->o.cache_dir);
    free((void *)(uintptr_t)c->o.local_model);
    free(c);
    return st;
}

void cake_compute_free(cake_compute *c) {
    if (!c) return;
    atomic_store(&c->stop, true);
    pthread_join(c->thread, NULL);
    forget(c);
    if (c->store) cake_store_close(c->store);
    cake_pool_free(c->pool);
    cake_msg *m;
    while ((m = cake_queue_pop(c->in, 0, 0))) cake_msg_free(m);
    cake_out *o;
    while ((o = cake_queue_pop(c->out, 0, 0))) {
        cake_msg_free(o->msg);
        free(o);
    }
    cake_queue_free(c->in);
    cake_queue_free(c->out);
    free((void *)(uintptr_t)c->o.cache_dir);
    free((void *)(uintptr_t)c->o.local_model);
    free(c);
}

void cake_compute_push(cake_compute *c, cake_msg *m) {
    cake_queue_push(c->in, m);
}

size_t cake_compute_backlog(cake_compute *c) {
    return cake_queue_len(c->in);
}

cake_queue *cake_compute_outputs(cake_compute *c) {
    return c->out;
}

void cake_compute_describe(cake_compute *c, cake_hello *out) {
    out->threads = cake_pool_threads(c->pool);
    snprintf(out->isa, sizeof out->isa, "%s", cake_isa_name(cake_cpu_isa()));
    snprintf(out->version, sizeof out->version, "%s", CAKE_VERSION);
    out->read_bw = c->speed.read_bw;
    out->ops = c->speed.ops;
    uint64_t avail = cake_mem_available() + atomic_load(&c->held_bytes);
    avail -= avail / 16; /* leave the system a little air */
    out->memory_bytes = c->o.memory_bytes && c->o.memory_bytes < avail ? c->o.memory_bytes : avail;
}
