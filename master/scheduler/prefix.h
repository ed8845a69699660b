/* Which tokens the KV caches of the stages hold, and what a new sequence can take over of it.
 *
 * A mirror of the stages' block tables (worker/engine/kv): the same operations in the same order
 * give the same numbers of used and free blocks, so that the master alone decides what is evicted.
 * Over it lies a radix tree whose edges are whole blocks of 64 tokens: it finds the longest prefix
 * of a prompt that some slot holds, running or finished. What a slot holds beyond its last whole
 * block is compared token by token, so that nothing known is computed twice.
 *
 * A slot is free, open (its sequence runs) or kept (its sequence is over, its blocks are a cache).
 * Kept slots are given up oldest use first when a slot or a block is wanted; open ones never are.
 *
 * Every call that changes something appends the KV operations that the stages must apply before
 * the rows that follow. Not thread-safe. Allocates. */
#ifndef CAKE_MASTER_SCHEDULER_PREFIX_H
#define CAKE_MASTER_SCHEDULER_PREFIX_H

#include "proto/wire.h"

typedef struct cake_prefix cake_prefix;

/* Operations on their way to the stages; room for cap, owned by the caller. A call below appends at
 * most 2 * n_slots of them (evictions), mostly none or one. */
typedef struct {
    cake_kv_op *v;
    uint32_t n, cap;
} cake_kv_ops;

typedef struct {
    uint32_t n_slots;       /* sequence slots on the stages */
    uint32_t n_blocks;      /* of their arenas */
    uint32_t max_positions; /* of a sequence */
    bool keep;              /* false: nothing is kept when a sequence ends, nothing is shared */
} cake_prefix_options;

cake_prefix *cake_prefix_new(const cake_prefix_options *o);
void cake_prefix_free(cake_prefix *p);

/* Positions of tokens[0..n) that are ready in some slot. */
uint32_t cake_prefix_match(const cake_prefix *p, const uint32_t *tokens, uint32_t n);

/* A slot for a sequence that begins with tokens[0..n), holding the longest prefix that is ready,
 * *len <= max positions. Needs fewer open slots than n_slots and, for every open slot and this one,
 * blocks for its longest length in the arena. */
uint32_t cake_prefix_open(cake_prefix *p, const uint32_t *tokens, uint32_t n, uint32_t max,
                          uint32_t *len, cake_kv_ops *ops);
/* Rows for n more positions are sent. */
void cake_prefix_extend(cake_prefix *p, uint32_t slot, uint32_t n, cake_kv_ops *ops);
/* The first n positions of an open slot are computed and hold tokens[0..n), which stay readable
 * until the slot is closed or published anew. n never exceeds what was extended. */
void cake_prefix_publish(cake_prefix *p, uint32_t slot, const uint32_t *tokens, uint32_t n);
/* Keep the first len positions of an open slot. */
void cake_prefix_trim(cake_prefix *p, uint32_t slot, uint32_t len, cake_kv_ops *ops);
/* The sequence is over: what was published is kept, unless another kept slot holds it too. The
 * tokens are copied. */
void cake_prefix_close(cake_prefix *p, uint32_t slot, cake_kv_ops *ops);

typedef struct {
    uint32_t open, kept;          /* slots */
    uint32_t blocks, free_blocks; /* of the arena; not free: held by open or kept slots */
    uint64_t evicted;             /* kept slots given up, since creation */
} cake_prefix_stats;
void cake_prefix_stats_get(const cake_prefix *p, cake_prefix_stats *out);

#endif
