/* Private to master/cluster/: the cluster's state, shared by the loop and the deployment. */
#ifndef CAKE_MASTER_CLUSTER_CLUSTER_IMPL_H
#define CAKE_MASTER_CLUSTER_CLUSTER_IMPL_H

#include "master/cluster/cluster.h"
#include "worker/embed.h"

enum { CAKE_CLUSTER_PEERS_MAX = 1025 };

struct cake_cluster {
    cake_cluster_options o;
    cake_embed *embed;
    cake_discovery *discovery;
    int64_t opened_ms;
    int64_t polled_ms; /* end of the last poll */
    size_t n_peers;
    cake_master_peer *peers[CAKE_CLUSTER_PEERS_MAX];
    /* the deployed plan */
    uint64_t epoch;
    bool deployed;
    cake_cluster_plan *plan; /* borrowed */
    cake_master_peer *stage_peer[CAKE_STAGES_MAX];
    bool stage_relayed[CAKE_STAGES_MAX];
    cake_cluster_handler handler;
    void *handler_arg;
};

#endif
