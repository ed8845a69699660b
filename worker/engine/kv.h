/* KV cache of one stage: fixed-size blocks of 64 positions with reference counts.
 *
 * Every stage of a plan has the same number of blocks and applies the same operations in the same
 * order (they travel inside the batches), and allocation is deterministic, so block ids and tables
 * are equal on all stages without anybody exchanging them.
 *
 * The arena is one region on 2 MiB pages, [layer][block][bytes of kernels/attn.h], taken at
 * creation; nothing is allocated later. A layer's blocks lie together, and fresh ones are handed
 * out in ascending order, so that attention mostly reads one long run of memory. Not thread-safe:
 * owned by the stage's compute thread. */
#ifndef CAKE_WORKER_ENGINE_KV_H
#define CAKE_WORKER_ENGINE_KV_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct cake_kv cake_kv;

typedef struct {
    uint32_t n_layers;      /* layers of this stage; 0 is allowed (embedding or head only) */
    size_t block_bytes;     /* K and V of one layer and block: cake_kv_block_bytes() */
    uint32_t n_blocks;      /* blocks in the arena, shared by all sequences */
    uint32_t n_seqs;        /* sequence slots: ids are 0..n_seqs-1 */
    uint32_t max_positions; /* longest sequence */
} cake_kv_options;

/* Bytes the arena takes for these options; false on overflow. */
bool cake_kv_arena_bytes(const cake_kv_options *o, size_t *bytes);

cake_status cake_kv_new(cake_kv **out, const cake_kv_options *o, cake_error *err);
void cake_kv_free(cake_kv *kv);

/* Positions held by a sequence. seq must be in range. */
uint32_t cake_kv_len(const cake_kv *kv, uint32_t seq);
uint32_t cake_kv_free_blocks(const cake_kv *kv);

/* Forget a sequence; freeing an empty one is fine. CAKE_EINVAL: seq out of range. */
cake_status cake_kv_release(cake_kv *kv, uint32_t seq, cake_error *err);
/* Keep the first len positions. CAKE_EINVAL when seq is out of range or shorter than len. */
cake_status cake_kv_trim(cake_kv *kv, uint32_t seq, uint32_t len, cake_error *err);
/* dst becomes the first len positions of src: whole blocks are shared, a partly used last block is
 * copied. dst must be empty. CAKE_ENOSPACE: no block for the copy. */
cake_status cake_kv_fork(cake_kv *kv, uint32_t dst, uint32_t src, uint32_t len, cake_error *err);

/* Would cake_kv_extend succeed, and how many free blocks would it take? Same errors, nothing
 * changes (the blocks themselves are not counted against what is free). */
cake_status cake_kv_need(const cake_kv *kv, uint32_t seq, uint32_t pos, uint32_t n,
                         uint32_t *blocks, cake_error *err);

/* Make room for n more positions of seq, which must now hold exactly pos of them; afterwards it
 * holds pos + n. A shared last block is copied first. CAKE_EINVAL (out of range, pos is not the
 * length, context too long), CAKE_ENOSPACE (no free block; nothing changed). */
cake_status cake_kv_extend(cake_kv *kv, uint32_t seq, uint32_t pos, uint32_t n, cake_error *err);

/* The block of a sequence's positions 64*i..64*i+63 for one layer of the stage. */
void *cake_kv_block(const cake_kv *kv, uint32_t seq, uint32_t i, uint32_t layer);

#endif
