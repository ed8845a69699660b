/* The feed-forward of a layer with experts (formats.md 7.3):
 *
 *   p = softmax(router x), f32 whatever the mode; the top_k largest, the lower index among equals
 *   y = sum over those experts, ascending, of p_e * down_e(silu(gate_e x) * up_e x)
 *   y += sigmoid(shared_mix x) * shared(x), where there is a shared expert
 *
 * The first term of the sum is a product, every other one is added fused. The order is that of the
 * experts' numbers, so a row gets the same bits alone and in any batch, and with any threads. */
#ifndef CAKE_WORKER_ENGINE_MOE_H
#define CAKE_WORKER_ENGINE_MOE_H

#include "common/model/config.h"
#include "common/pool.h"
#include "worker/engine/stats.h"
#include "worker/engine/weights.h"

/* Room for a batch; everything points into one region of the caller's. */
typedef struct {
    float *probs;                                 /* [rows][n_experts] */
    float *mix;                                   /* [rows] of the shared expert */
    uint32_t *expert;                             /* [rows][top_k] */
    float *weight;                                /* [rows][top_k] */
    uint32_t *place, *row;                        /* [pairs], see cake_group_rows() */
    uint32_t *group_of;                           /* [pairs] */
    uint32_t *count;                              /* [n_experts] */
    cake_group *groups;                           /* [max_groups] and one for the shared expert */
    cake_act *in, *mid;                           /* [max_groups + 1] */
    float *gate, *up, *down;                      /* [pairs][ff], [pairs][ff], [pairs][hidden] */
    float *shared_gate, *shared_up, *shared_down; /* [rows][shared_ff], ..., [rows][hidden] */
    uint8_t *act_in, *act_mid;
    size_t act_in_bytes, act_mid_bytes;
} cake_moe_scratch;

/* Lay out room for `rows` rows from `base` (64-byte aligned; NULL: only measure); returns the
 * bytes, 0 for a model without experts. */
size_t cake_moe_scratch_layout(cake_moe_scratch *s, const cake_model_config *c, uint32_t rows,
                               uint8_t *base);

/* Does the block read the quantized parts of its input? */
bool cake_moe_wants_int8(const cake_moe_weights *w, bool f32_mode);

typedef struct {
    const cake_moe_weights *w;
    const cake_model_config *config;
    cake_moe_scratch *scratch;
    cake_pool *pool;
    uint8_t *matmul; /* cake_matmul() scratch of each thread, matmul_bytes apart */
    size_t matmul_bytes;
    bool f32_mode;
    cake_stats *stats; /* of what the experts get, for unit `unit`; NULL: none */
    uint32_t unit;
} cake_moe;

/* y[row * hidden ..] = the block's output for the rows of x, which has its quantized parts when
 * cake_moe_wants_int8(). y may be the rows that x points to. Allocates nothing. */
void cake_moe_run(const cake_moe *m, const cake_act *x, float *y);

#endif
