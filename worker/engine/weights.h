/* Packed weights of a range of units: what a stage multiplies with.
 *
 * One region on 2 MiB pages holds every matrix in the packed layout of kernels/matmul.h and every
 * norm and additive bias as f32. Made once from a checkpoint or bundle, then read-only. */
#ifndef CAKE_WORKER_ENGINE_WEIGHTS_H
#define CAKE_WORKER_ENGINE_WEIGHTS_H

#include "common/model/layout.h"
#include "common/pool.h"
#include "kernels/experts.h"

/* y = W x (+ bias). */
typedef struct {
    cake_mat mat;
    const float *bias; /* [n] or NULL */
} cake_linear;

/* The feed-forward of a layer with experts. */
typedef struct {
    cake_linear router;     /* [n_experts, hidden] */
    cake_stack gate, up;    /* [n_experts, ff, hidden] */
    cake_stack down;        /* [n_experts, hidden, ff] */
    cake_linear shared_mix; /* [1, hidden]; mat.spec.n is 0 when there is no shared expert */
    cake_linear shared_gate, shared_up, shared_down;
} cake_moe_weights;

typedef struct {
    const float *attn_norm, *ffn_norm;           /* [hidden] */
    const float *q_norm, *k_norm;                /* [head_dim], or NULL when the family has none */
    const float *attn_post_norm, *ffn_post_norm; /* [hidden] or NULL likewise */
    cake_linear q, k, v, o;
    cake_linear gate, up, down; /* dense feed-forward, or: */
    cake_moe_weights moe;       /* gate.n is 0 in a dense layer */
} cake_layer_weights;

typedef struct {
    void *region;
    size_t region_bytes;
    cake_linear embed; /* mat.packed NULL when the range has no embedding */
    uint32_t n_layers;
    cake_layer_weights *layers;
    const float *final_norm; /* NULL when the range has no head */
    cake_linear head;        /* the table of embed itself when tied and both are here */
} cake_weights;

/* Bytes the region takes for units [begin, end). */
cake_status cake_weights_bytes(const cake_layout *layout, uint32_t unit_begin, uint32_t unit_end,
                               size_t *bytes, cake_error *err);

/* Pack units [begin, end) out of source, in parallel on pool. progress (may be NULL) is called on
 * the calling thread. CAKE_ENOMEM: no room for the region; CAKE_EFORMAT: a norm or bias is not
 * finite. */
cake_status cake_weights_load(cake_weights *w, const cake_layout *layout,
                              const cake_checkpoint *source, uint32_t unit_begin, uint32_t unit_end,
                              cake_pool *pool,
                              void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                              cake_error *err);
void cake_weights_free(cake_weights *w);

#endif
