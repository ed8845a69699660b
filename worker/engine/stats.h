/* Statistics of what goes into the weight matrices: the mean of the squares of every input column,
 * which encoders weigh their errors with (formats.md 5.6).
 *
 * Matrices that read the same values share one set of sums. Sums are doubles, taken row by row in
 * the order rows are computed in; columns are split over threads, rows never, so the result does
 * not depend on their number. Memory is taken at creation. One thread at a time (the pool's helpers
 * aside). */
#ifndef CAKE_WORKER_ENGINE_STATS_H
#define CAKE_WORKER_ENGINE_STATS_H

#include "common/model/layout.h"
#include "common/pool.h"

typedef struct cake_stats cake_stats;

/* For the matrices of units [begin, end). */
cake_stats *cake_stats_new(const cake_layout *layout, uint32_t unit_begin, uint32_t unit_end);
void cake_stats_free(cake_stats *s);
/* Bytes the sums take; for the plan of a node's memory. */
uint64_t cake_stats_bytes(const cake_layout *layout, uint32_t unit_begin, uint32_t unit_end);

/* Add n rows x[i*ldx .. +k) of matrix `mat` of an input (0, or the expert). Ignored when the unit
 * has no such input. */
void cake_stats_add(cake_stats *s, cake_pool *pool, uint32_t unit, cake_input input, uint32_t mat,
                    const float *x, size_t ldx, uint32_t n);

/* The sums of an input: *n matrices of *k columns, sums [n][k], counts of rows [n]. False: the
 * units have no such input. */
bool cake_stats_get(const cake_stats *s, uint32_t unit, cake_input input, uint32_t *n, uint32_t *k,
                    const double **sums, const uint64_t **counts);

#endif
