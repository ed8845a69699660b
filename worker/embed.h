/* The worker inside cake-master: the master's only view of worker/.
 *
 * A node like any other, on an inproc:// endpoint of the master's cake_net, in a thread of its own.
 * It loads its stages straight from the model folder instead of from a bundle. */
#ifndef CAKE_WORKER_EMBED_H
#define CAKE_WORKER_EMBED_H

#include "common/model/layout.h"
#include "proto/control.h"
#include "proto/link.h"

#include <stdint.h>

typedef struct cake_embed cake_embed;

typedef struct {
    cake_net *net;         /* borrowed */
    const char *id, *name; /* node id and name */
    const char *model;     /* folder or GGUF file of the model */
    unsigned threads;      /* 0: one per core */
    uint64_t memory_bytes; /* 0: what is free */
    unsigned spin_us;      /* how long idle threads look for work before they sleep */
} cake_embed_options;

/* Start and measure (some 100 ms). */
cake_status cake_embed_start(cake_embed **out, const cake_embed_options *o, cake_error *err);
/* Stop and free. NULL is fine. */
void cake_embed_stop(cake_embed *e);

/* Endpoint to connect a client to: "inproc://...". */
const char *cake_embed_address(const cake_embed *e);

/* What a run of units takes on a node, from shapes alone, for the planner. */
typedef struct {
    uint64_t weight_bytes, kv_bytes, scratch_bytes;
} cake_embed_need;
cake_status cake_embed_measure(const cake_layout *layout, uint32_t unit_begin, uint32_t unit_end,
                               uint32_t n_seqs, uint32_t context, uint32_t kv_blocks,
                               uint32_t max_rows, unsigned threads, cake_embed_need *out,
                               cake_error *err);
/* KV bytes of one block of 64 positions in one layer, in the form an assignment says. */
uint64_t cake_embed_kv_block_bytes(const cake_model_config *c, bool f32_mode, bool kv_q8);
enum { CAKE_EMBED_KV_BLOCK = 64 };

#endif
