/* What the verbs share: model, keys, network and cluster brought up from the command line. */
#ifndef CAKE_MASTER_COMMANDS_SESSION_H
#define CAKE_MASTER_COMMANDS_SESSION_H

#include "master/cluster/cluster.h"
#include "master/options.h"
#include "master/ui/progress.h"

typedef struct {
    const cake_master_options *o;
    cake_model model;
    bool has_model;
    cake_keys keys;
    cake_net *net;
    cake_topology topology;
    bool has_topology;
    cake_progress *progress;
    cake_cluster *cluster;
    cake_cluster_plan plan;
    bool has_plan;
    char id[CAKE_NODE_ID_HEX], name[CAKE_NODE_NAME_MAX];
} cake_session;

/* Open the model (when with_model), the keys and the cluster, and gather the workers. The first
 * one installs handlers for SIGINT and SIGTERM that end every wait with CAKE_ECANCELED. Close it
 * also after a failure. */
cake_status cake_session_open(cake_session *s, const cake_master_options *o, bool with_model,
                              cake_error *err);
/* The same; watch and its arg go into cake_cluster_options.observe. */
cake_status cake_session_open_watched(cake_session *s, const cake_master_options *o,
                                      void (*watch)(void *arg, const cake_cluster *c), void *arg,
                                      cake_error *err);
/* Plan for `sequences` at once. */
cake_status cake_session_plan(cake_session *s, uint32_t sequences, cake_error *err);
cake_status cake_session_deploy(cake_session *s, cake_error *err);
void cake_session_close(cake_session *s);

/* As SIGINT does: every wait of every session ends with CAKE_ECANCELED, from now on. Any thread. */
void cake_session_interrupt(void);

#endif
