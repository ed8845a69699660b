/* How the cluster is, as JSON: nodes with their state and its reason, stages with live times,
 * transfers under way. The loop thread builds a text and publishes it, the HTTP thread reads the
 * last one; nothing else is shared.
 *
 * A worker that was lost stays in the picture, with the reason and when it was last heard, until it
 * is back or CAKE_VIEW_FORGET_MS have passed: also through new deployments without it. */
#ifndef CAKE_MASTER_SERVER_CLUSTER_VIEW_H
#define CAKE_MASTER_SERVER_CLUSTER_VIEW_H

#include "master/scheduler/scheduler.h"
#include "master/server/metrics.h"

enum {
    CAKE_VIEW_FORGET_MS = 3600 * 1000,
    CAKE_VIEW_LOST_MAX = 64, /* lost workers remembered */
};

typedef struct cake_cluster_view cake_cluster_view;

cake_cluster_view *cake_cluster_view_new(void);
void cake_cluster_view_free(cake_cluster_view *v);

/* Loop thread: look at the cluster; cheap unless a new text is due, which is at once when a state
 * changed. sched may be NULL (nothing is deployed). True: a new text was published. */
bool cake_cluster_view_observe(cake_cluster_view *v, const cake_cluster *c,
                               const cake_scheduler *sched, const cake_metrics *m);
/* Loop thread: why nothing can be answered now; NULL: it can. */
void cake_cluster_view_set_reason(cake_cluster_view *v, const char *reason);

/* Any thread: append the members of the last text ("\"nodes\":[...],...", never empty) to out.
 * Returns the text's number; numbers grow. */
uint64_t cake_cluster_view_read(cake_cluster_view *v, cake_text *out);
uint64_t cake_cluster_view_number(cake_cluster_view *v);

#endif
