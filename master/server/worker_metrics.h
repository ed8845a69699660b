/* Counters of each worker in Prometheus' text form, kept over deployments.
 *
 * The loop thread observes, any thread prints; a lock between them. */
#ifndef CAKE_MASTER_SERVER_WORKER_METRICS_H
#define CAKE_MASTER_SERVER_WORKER_METRICS_H

#include "master/scheduler/scheduler.h"
#include "master/server/metrics.h"

enum { CAKE_WORKER_METRICS_MAX = 256 }; /* workers told apart; further ones are not shown */

typedef struct cake_worker_metrics cake_worker_metrics;

cake_worker_metrics *cake_worker_metrics_new(void);
void cake_worker_metrics_free(cake_worker_metrics *w);

/* Loop thread; cheap, call often. sched may be NULL (nothing is deployed). */
void cake_worker_metrics_observe(cake_worker_metrics *w, const cake_cluster *c,
                                 const cake_scheduler *sched);
void cake_worker_metrics_print(cake_worker_metrics *w, cake_text *out);

#endif
