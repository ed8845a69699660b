/* Mixtures of experts: which rows go to which matrices of a stack [n_experts, n, k], and the
 * products of those rows only.
 *
 * A batch goes through in four steps, all of them exact or in one fixed order, so that a row's
 * result never depends on the rows beside it, on threads or on the ISA:
 *   cake_route()         each row's experts and their weights, from its probabilities
 *   cake_group_rows()    pairs (row, expert) sorted by expert: every expert multiplies all its rows
 *                        together
 *   cake_act_gather()    the quantized rows of one expert side by side, copied, not quantized anew
 *   cake_stack_matmul()  the groups against their matrices, cut into 16-row tiles for threads
 * The caller weighs and adds a row's results in ascending order of the experts.
 *
 * Threads: re-entrant. Allocates: no. Blocks: no. */
#ifndef CAKE_KERNELS_EXPERTS_H
#define CAKE_KERNELS_EXPERTS_H

#include "kernels/matmul.h"

/* Packed matrices of one shape, `stride` bytes apart (at least cake_packed_bytes(), a multiple of
 * 64); borrowed. */
typedef struct {
    cake_wspec spec;
    uint32_t n;
    size_t stride;
    const void *packed;
} cake_stack;

static inline cake_mat cake_stack_mat(const cake_stack *s, uint32_t expert) {
    return (cake_mat){.spec = s->spec, .packed = (const char *)s->packed + expert * s->stride};
}

/* The k experts of one row (1 <= k <= n).
 *   p       in  f32 [n]  probabilities
 *   expert  out [k]      the k largest, the lower index first among equals; in ascending order
 *   weight  out f32 [k]  p of each; with `normalize` divided by their sum, which is added up from
 *                        the largest to the smallest
 * A NaN never wins against a number, but the experts are always k different ones below n. */
void cake_route(const float *p, uint32_t n, uint32_t k, bool normalize, uint32_t *expert,
                float *weight);

/* Pairs [begin, end) of the sorted order go to one expert. */
typedef struct {
    uint32_t expert, begin, end;
} cake_group;

/* Sort n_rows * k pairs by expert, then row.
 *   expert  in  [n_rows][k]   below n_experts
 *   row     out [n_rows * k]  row of each pair of the sorted order
 *   place   out [n_rows][k]   where in that order a row's pair is
 *   groups  out               one per expert that has rows, ascending; room for
 *                             min(n_experts, n_rows * k)
 *   count   scratch [n_experts]
 * Returns the number of groups. */
uint32_t cake_group_rows(const uint32_t *expert, uint32_t n_rows, uint32_t k, uint32_t n_experts,
                         uint32_t *row, uint32_t *place, cake_group *groups, uint32_t *count);

/* Tokens [begin, end) of `to` become copies of tokens row[begin..end) of `from`, bit for bit. Both
 * have quantized parts and the same k; to->x stays the caller's affair. */
void cake_act_gather(cake_act *to, const cake_act *from, const uint32_t *row, uint32_t begin,
                     uint32_t end);

/* y[pair*ldy + r] = row r of the pair's expert times its activations, for the tiles [tile_begin,
 * tile_end) of the n_groups * cake_tiles(&w->spec) there are, group after group. acts[g] holds the
 * activations of groups[g], in the order of its pairs; the rest as for cake_matmul(). */
void cake_stack_matmul(const cake_stack *w, const cake_group *groups, const cake_act *acts,
                       bool f32_mode, float *y, size_t ldy, size_t tile_begin, size_t tile_end,
                       void *scratch);

#endif
