/* A set of byte ranges: sorted, disjoint, joined where they touch. */
#ifndef CAKE_WORKER_STORE_EXTENTS_H
#define CAKE_WORKER_STORE_EXTENTS_H

#include "worker/store/store.h"

enum { CAKE_EXTENTS_MAX = 1 << 16 }; /* a peer that sends crumbs cannot make the set grow further */

typedef struct {
    size_t n, room;
    cake_store_range *r;
} cake_extents;

/* False when the set would pass CAKE_EXTENTS_MAX ranges (then it is unchanged). Empty ranges:
 * no-op. */
bool cake_extents_add(cake_extents *x, uint64_t begin, uint64_t end);
bool cake_extents_remove(cake_extents *x, uint64_t begin, uint64_t end);
bool cake_extents_cover(const cake_extents *x, uint64_t begin, uint64_t end);
uint64_t cake_extents_bytes(const cake_extents *x);
/* The first gap within [begin, end): false when there is none. */
bool cake_extents_gap(const cake_extents *x, uint64_t begin, uint64_t end, cake_store_range *gap);
void cake_extents_deinit(cake_extents *x);

#endif
