/* Statistics collected on the workers: asking for them, one input at a time. See cluster.h. */
#include "common/clock.h"
#include "master/cluster/cluster_impl.h"

#include <string.h>

enum { ANSWER_MS = 30000 };

/* Request ids that no batch has. */
#define REQUEST ((uint64_t)1 << 63)

typedef struct {
    uint64_t id;
    uint32_t n, k;
    float *means;
    uint64_t *counts;
    bool over;
    cake_status status;
    cake_error err;
} ask;

static void on_message(void *arg, const cake_msg *m) {
    ask *a = arg;
    if (m->h.id != a->id || a->over) return;
    a->over = true;
    if (m->h.kind == CAKE_MSG_ERROR) {
        char text[CAKE_ERROR_TEXT_MAX + 1];
        cake_status st = cake_wire_error_text(&m->h, m->frames, text);
        a->status = cake_fail(&a->err, st, "stage %u: %s", m->h.stage, text);
        return;
    }
    bool ok = m->h.n_rows == a->n && m->h.width == a->k;
    for (uint32_t i = 0; ok && i < a->n; i++) {
        const cake_row r = cake_msg_row(m, i);
        ok = r.seq == i;
        a->counts[i] = r.pos | (uint64_t)r.token << 32;
        memcpy(a->means + (size_t)i * a->k, cake_wire_values(&m->h, m->frames, i),
               a->k * sizeof *a->means);
    }
    if (!ok)
        a->status = cake_fail(&a->err, CAKE_EPROTO, "stage %u: its statistics do not fit the model",
                              m->h.stage);
}

cake_status cake_cluster_stats(cake_cluster *c, uint32_t unit, cake_input input, uint32_t n,
                               uint32_t k, float *means, uint64_t *counts, cake_error *err) {
    uint32_t stage = 0, n_stages = cake_cluster_n_stages(c);
    while (stage < n_stages && (unit < c->plan->plan.stages[stage].unit_begin ||
                                unit >= c->plan->plan.stages[stage].unit_end))
        stage++;
    if (stage == n_stages)
        return cake_fail(err, CAKE_EINVAL, "no stage of the plan has unit %u", unit);
    cake_stats_ask q = {.unit = unit};
    strncpy(q.input, cake_input_name(input), sizeof q.input - 1);
    ask a = {.id = REQUEST | unit << 8 | (unsigned)input,
             .n = n,
             .k = k,
             .means = means,
             .counts = counts};
    cake_msg *m = cake_control_stats(c->epoch, a.id, &q);
    if (!m) return cake_fail(err, CAKE_ENOMEM, "no memory for a message");
    cake_cluster_set_handler(c, on_message, &a);
    cake_status st = cake_peer_send(c->stage_peer[stage], m, err);
    const int64_t deadline = cake_now_ms() + ANSWER_MS;
    while (st == CAKE_OK && !a.over) {
        st = cake_cluster_poll(c, 50, -1, err);
        if (st == CAKE_OK && !a.over && cake_now_ms() > deadline)
            st = cake_fail(err, CAKE_ETIMEOUT, "worker '%s' does not tell its statistics",
                           c->stage_peer[stage]->name);
    }
    cake_cluster_set_handler(c, NULL, NULL);
    if (st == CAKE_OK && a.status != CAKE_OK) st = cake_fail(err, a.status, "%s", a.err.msg);
    return st;
}
