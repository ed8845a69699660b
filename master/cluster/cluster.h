/* The cluster of a master: the in-process worker, the workers on the network, the plan over them,
 * and the traffic of its batches.
 *
 * Everything runs on one thread, the caller's: functions that wait pump the same loop
 * (cake_cluster_poll). Workers come and go by themselves; a plan is only touched by
 * cake_cluster_deploy. */
#ifndef CAKE_MASTER_CLUSTER_CLUSTER_H
#define CAKE_MASTER_CLUSTER_CLUSTER_H

#include "master/cluster/peer.h"
#include "master/model/model.h"
#include "master/plan/planner.h"
#include "master/plan/topology.h"
#include "master/ui/progress.h"

typedef struct cake_cluster cake_cluster;

typedef struct {
    cake_net *net;                 /* borrowed */
    const char *tag;               /* cluster tag to look for */
    const char *id, *name;         /* of this machine's in-process worker */
    const cake_model *model;       /* borrowed; NULL: only look at workers, compute nothing here */
    const cake_topology *topology; /* borrowed; NULL: discovery */
    int64_t discovery_timeout_ms;  /* 0: look for nobody */
    uint32_t min_workers;
    unsigned threads;      /* of the in-process worker */
    uint64_t memory_bytes; /* of the in-process worker */
    cake_progress *progress;
    const _Atomic bool
        *interrupted; /* set by a signal handler: every wait ends with CAKE_ECANCELED */
    /* NULL, or called at the end of every cake_cluster_poll, before it says what is wrong. */
    void (*observe)(void *arg, const cake_cluster *c);
    void *observe_arg;
} cake_cluster_options;

cake_status cake_cluster_open(cake_cluster **out, const cake_cluster_options *o, cake_error *err);
void cake_cluster_close(cake_cluster *c);

/* Find workers, introduce and measure them. Returns when min_workers are known (at once for 0
 * workers looked for), all workers of the topology are, or the discovery timeout has passed.
 * CAKE_EUNAVAIL: fewer than min_workers, or a worker of the topology cannot be used; CAKE_EAUTH:
 * some were refused because of the key. */
cake_status cake_cluster_gather(cake_cluster *c, cake_error *err);

size_t cake_cluster_n_peers(const cake_cluster *c);
const cake_master_peer *cake_cluster_peer(const cake_cluster *c,
                                          size_t i); /* 0 is the local one, if any */
/* "avahi-daemon", "embedded", or NULL without discovery. */
const char *cake_cluster_discovery(const cake_cluster *c);

/* ---- plan ---- */

typedef struct {
    uint32_t context, sequences;
    uint32_t slots;    /* sequence slots on the stages: those beyond `sequences` keep finished ones
                          in the same memory, for others to go on from; 0: a good default */
    uint32_t max_rows; /* rows of a batch; 0: a good default */
    cake_plan_goal goal;
    bool f32_mode;
    bool kv_q8;   /* KV cache in 8-bit integers; not with f32_mode */
    bool collect; /* keep statistics: cake_cluster_stats */
    cake_wire_type wire;
} cake_deployment_options;

/* The request it was made from must outlive printing, so both are kept together. */
typedef struct {
    cake_plan plan;
    cake_plan_request request;
    cake_plan_unit *units;
    cake_plan_node_in *nodes;
    cake_plan_link *links;
    cake_plan_pin *pins;
    cake_master_peer **peers; /* of nodes[i] */
    cake_deployment_options options;
} cake_cluster_plan;

/* Plan over the workers known now. */
cake_status cake_cluster_make_plan(cake_cluster *c, const cake_deployment_options *o,
                                   cake_cluster_plan *out, cake_error *err);
void cake_cluster_plan_deinit(cake_cluster_plan *p);
/* The bundle a node of the plan needs (NULL, CAKE_OK for a node without remote stages). */
cake_status cake_cluster_bundle(cake_cluster *c, const cake_cluster_plan *p, uint32_t node,
                                cake_bundle **out, cake_error *err);

/* Send every node its part and wait until all are ready. The plan must stay until the next deploy
 * or close. CAKE_EUNAVAIL, CAKE_ENOSPACE...: a worker refused or was lost; the message names it. */
cake_status cake_cluster_deploy(cake_cluster *c, cake_cluster_plan *p, cake_error *err);

/* ---- batches of the deployed plan ---- */

/* Let go of the workers (close does so too): another master may assign them. They keep what is
 * loaded. */
void cake_cluster_release(cake_cluster *c);

uint64_t cake_cluster_epoch(const cake_cluster *c);
uint32_t cake_cluster_n_stages(const cake_cluster *c);
const cake_cluster_plan *cake_cluster_deployed(const cake_cluster *c);
/* The same, or what is being deployed just now, or what was until it failed. */
const cake_cluster_plan *cake_cluster_planned(const cake_cluster *c);
bool cake_cluster_stage_relayed(const cake_cluster *c,
                                uint32_t stage); /* its output goes through us */

/* Called from cake_cluster_poll for every RESULT and ERROR of the current epoch; m is borrowed. */
typedef void (*cake_cluster_handler)(void *arg, const cake_msg *m);
void cake_cluster_set_handler(cake_cluster *c, cake_cluster_handler fn, void *arg);

/* Send a batch to stage 0; m is taken. */
cake_status cake_cluster_send(cake_cluster *c, cake_msg *m, cake_error *err);

/* cake_now_ms of when the stage that has been silent for longest was last heard of; now, when all
 * stages are on this machine. After CAKE_PEER_SILENT_MS without a word a worker counts as lost. */
int64_t cake_cluster_heard_ms(const cake_cluster *c);

/* Of a plan deployed with `collect`, when no batch is under way: what was seen of an input of a
 * unit. means [n][k], counts [n]: the mean of each column's squares and the rows seen, as
 * cake_layout_input says. Takes the handler; waits. CAKE_EUNAVAIL: the worker is lost;
 * CAKE_ETIMEOUT; CAKE_EPROTO: the answer does not fit. */
cake_status cake_cluster_stats(cake_cluster *c, uint32_t unit, cake_input input, uint32_t n,
                               uint32_t k, float *means, uint64_t *counts, cake_error *err);

/* Tell all stages that nobody wants the rows of a batch any more; its KV operations still apply. */
void cake_cluster_cancel(cake_cluster *c, uint64_t batch);

/* Do what is to be done for at most timeout_ms. extra_fd (or -1): also wake when it is readable.
 * CAKE_EUNAVAIL: a worker of the deployed plan is lost; CAKE_ECANCELED: interrupted. */
cake_status cake_cluster_poll(cake_cluster *c, int timeout_ms, int extra_fd, cake_error *err);

#endif
