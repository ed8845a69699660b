/* How fast this node is, measured with the product's own kernels at start-up. */
#ifndef CAKE_WORKER_NODE_MEASURE_H
#define CAKE_WORKER_NODE_MEASURE_H

#include "common/pool.h"

typedef struct {
    double read_bw; /* bytes/s of packed 4-bit weights through the decode kernel (n = 1) */
    double ops;     /* multiply-accumulates/s through the prefill kernel */
} cake_speed;

/* Takes some 100 ms and 64 MiB, given back. Never fails: without memory it measures less. */
void cake_measure_speed(cake_pool *pool, cake_speed *out);

#endif
