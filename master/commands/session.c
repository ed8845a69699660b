/* Bring-up shared by the verbs: see session.h. */
#include "master/commands/session.h"
#include "common/mem.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic bool interrupted;

/* The first signal ends waits in an orderly way, the second ends the program. */
static void on_signal(int sig) {
    if (atomic_exchange(&interrupted, true)) _exit(128 + sig);
}

void cake_session_interrupt(void) {
    atomic_store(&interrupted, true);
}

/* Once: a verb may have put handlers of its own in their place since. */
static void install_signals(void) {
    static bool installed;
    if (installed) return;
    installed = true;
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static cake_status open_net(cake_session *s, cake_error *err) {
    const cake_master_options *o = s->o;
    bool created = false;
    char *where = NULL;
    cake_status st = CAKE_OK;
    /* Nobody is looked for: no key is needed, and none is made behind the user's back. */
    bool alone = !o->topology && o->discovery_timeout_ms == 0;
    if (!o->insecure && !alone) {
        st = cake_keys_load_or_create(&s->keys, o->cluster_key_file, &created, &where, err);
        if (st == CAKE_OK && created)
            cake_progress_line(
                s->progress,
                "Made a new cluster key: %s. On the other machines run 'cake-master cluster "
                "join' and type what 'cake-master cluster show' prints here.",
                where);
    }
    if (o->insecure && !alone)
        cake_progress_line(
            s->progress,
            "warning: --insecure: nothing is encrypted and nobody proves who they are");
    if (st == CAKE_OK)
        st = cake_net_open(
            &s->net, &(cake_net_options){.keys = o->insecure || alone ? NULL : &s->keys}, err);
    free(where);
    return st;
}

static cake_status open_session(cake_session *s, const cake_master_options *o, bool with_model,
                                void (*watch)(void *arg, const cake_cluster *c), void *arg,
                                cake_error *err) {
    memset(s, 0, sizeof *s);
    s->o = o;
    s->progress = cake_progress_new(
        &(cake_progress_config){.quiet = o->quiet, .color = (cake_color)o->color, .tty = -1});
    install_signals();
    if (o->name) {
        snprintf(s->name, sizeof s->name, "%s", o->name);
    } else {
        gethostname(s->name, sizeof s->name - 1);
    }
    cake_status st = cake_node_id_load(NULL, s->id, err);
    if (st == CAKE_OK && with_model) {
        st = cake_model_open(&s->model, o->model, err);
        s->has_model = st == CAKE_OK;
    }
    if (st == CAKE_OK && o->topology) {
        st = cake_topology_read(&s->topology, o->topology, err);
        s->has_topology = st == CAKE_OK;
        if (st == CAKE_OK && s->has_model)
            st = cake_topology_check(&s->topology, s->model.config.n_layers, err);
    }
    if (st == CAKE_OK) st = open_net(s, err);
    if (st != CAKE_OK) return st;
    cake_cluster_options co = {.net = s->net,
                               .tag = o->insecure ? NULL : s->keys.tag,
                               .id = s->id,
                               .name = s->name,
                               .model = s->has_model ? &s->model : NULL,
                               .topology = s->has_topology ? &s->topology : NULL,
                               .discovery_timeout_ms = o->discovery_timeout_ms,
                               .min_workers = (uint32_t)o->min_workers,
                               .threads = (unsigned)o->threads,
                               .memory_bytes = o->memory,
                               .progress = s->progress,
                               .interrupted = &interrupted,
                               .observe = watch,
                               .observe_arg = arg};
    st = cake_cluster_open(&s->cluster, &co, err);
    if (st == CAKE_OK) st = cake_cluster_gather(s->cluster, err);
    return st;
}

cake_status cake_session_open(cake_session *s, const cake_master_options *o, bool with_model,
                              cake_error *err) {
    return open_session(s, o, with_model, NULL, NULL, err);
}

cake_status cake_session_open_watched(cake_session *s, const cake_master_options *o,
                                      void (*watch)(void *arg, const cake_cluster *c), void *arg,
                                      cake_error *err) {
    return open_session(s, o, true, watch, arg, err);
}

cake_status cake_session_plan(cake_session *s, uint32_t sequences, cake_error *err) {
    const cake_master_options *o = s->o;
    static const cake_wire_type wire[] = {[CAKE_OPTION_WIRE_F32] = CAKE_WIRE_F32,
                                          [CAKE_OPTION_WIRE_F16] = CAKE_WIRE_F16,
                                          [CAKE_OPTION_WIRE_Q8] = CAKE_WIRE_Q8};
    cake_deployment_options d = {
        .sequences = sequences,
        .goal = o->optimize == CAKE_OPTIMIZE_THROUGHPUT ? CAKE_PLAN_THROUGHPUT : CAKE_PLAN_LATENCY,
        .f32_mode = o->compute == CAKE_COMPUTE_F32,
        .kv_q8 = o->kv == CAKE_OPTION_KV_Q8,
        .wire = wire[o->wire]};
    if (d.f32_mode && d.kv_q8)
        return cake_fail(err, CAKE_EUSAGE,
                         "--compute f32 keeps the KV cache in f32; leave out --kv q8");
    cake_status st = cake_model_context(&s->model, o->context, &d.context, err);
    if (st == CAKE_OK) st = cake_cluster_make_plan(s->cluster, &d, &s->plan, err);
    s->has_plan = st == CAKE_OK;
    return st;
}

cake_status cake_session_deploy(cake_session *s, cake_error *err) {
    return cake_cluster_deploy(s->cluster, &s->plan, err);
}

void cake_session_close(cake_session *s) {
    cake_cluster_close(s->cluster);
    if (s->has_plan) cake_cluster_plan_deinit(&s->plan);
    if (s->net) cake_net_close(s->net);
    if (s->has_topology) cake_topology_deinit(&s->topology);
    if (s->has_model) cake_model_close(&s->model);
    cake_keys_wipe(&s->keys);
    cake_progress_free(s->progress);
}
