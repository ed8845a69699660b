/* Causal grouped-query attention over a key/value cache kept in blocks of 64 positions, in f16, in
 * 8-bit integers with scales, or (accurate mode) in f32. The form is one of storage only: what is
 * stored is a rounded f32, and all forms compute with those f32 values in the same way.
 *
 * One rule makes the result of a row independent of how rows are batched, split over threads or
 * computed by which ISA: for each block of 64 absolute positions, alone, take the scores
 * (fused sums over ascending d, q scaled by scale * log2 e first; with a soft cap c, q scaled by
 * scale / c and the sum x made c log2 e * tanh x), their maximum m, p = 2^(s - m),
 * l = sum p (16 lanes, fixed tree) and o = sum p V (fused, ascending position); then fold the
 * blocks into the result in ascending order:
 * M = max(m0, m),  a = 2^(m0 - M),  b = 2^(m - M),  l0 = l0 a + l b,  o0 = fma(o, b, o0 a)
 * Blocks without a visible key take no part. Masked keys take no part either: what lies in their
 * slots (unwritten memory, NaN) does not matter.
 *
 * Threads: re-entrant; a caller splits work by ranges of kv heads and by rows, or by blocks with
 * cake_attn_partial(). The heads of a block lie side by side, so a long range of heads reads memory
 * in long runs: decoding should split as little as it has to. Allocates: no. Blocks: no. */
#ifndef CAKE_KERNELS_ATTN_H
#define CAKE_KERNELS_ATTN_H

#include "kernels/cpu.h"

#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_KV_BLOCK = 64,      /* positions per block, aligned to absolute positions */
    CAKE_ATTN_MAX_DIM = 256, /* largest head_dim */
};

typedef enum {
    CAKE_KV_F16, /* rounded to nearest even; beyond +-65504 saturates */
    CAKE_KV_F32, /* as given: twice the memory, for comparing with others */
    CAKE_KV_Q8,  /* 32 neighbours of a row share an f16 scale s = max|x| / 127, x is s times an
                    integer in -127..127: 53 % of f16 at head_dim 128. The error of an element is
                    at most the larger of max|x| / 253 and 2^-17; beyond +-127 * 65504 saturates;
                    a NaN makes its 32 neighbours NaN */
} cake_kv_type;

typedef struct {
    uint32_t n_heads;    /* a multiple of n_kv_heads; query head h reads kv head h / (n_heads /
                            n_kv_heads) */
    uint32_t n_kv_heads; /* >= 1 */
    uint32_t head_dim;   /* a multiple of 8, 8..256 */
    float scale;         /* multiplies q before the products; usually head_dim^-0.5 */
    uint32_t window; /* 0: none; else key j is visible to query i iff j <= i and i < j + window */
    float softcap;   /* 0: none; else c: a score s counts as c tanh(s / c) */
    cake_kv_type kv; /* what blocks hold */
} cake_attn_spec;

/* Bytes of one block: keys and values of one layer at CAKE_KV_BLOCK positions; a multiple of 64. A
 * block wants 64-byte alignment (for speed; any multiple of its element works) and need not be
 * initialised. Inside, for each kv head in turn: keys [head_dim][64 positions], then values
 * [64 positions][head_dim rounded up to 16]; q8 has f16 scales [head_dim / 32, rounded up][64
 * positions] before the keys and again before the values. Blocks of equal specs can be copied with
 * memcpy. */
size_t cake_kv_block_bytes(const cake_attn_spec *s);

/* Store the key and value of one position, k and v [n_kv_heads * head_dim] f32, at slot
 * (position % CAKE_KV_BLOCK) of a block. */
void cake_kv_store(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                   const float *v);

/* Scratch for one thread calling cake_attn_rows or cake_attn_partial with up to n_rows_max rows.
 * Bounded: it stops growing at some hundred query rows. Any alignment will do, 64 is best. */
size_t cake_attn_scratch_bytes(const cake_attn_spec *s, uint32_t n_rows_max);

/* Attention of n_rows consecutive positions pos0.. of ONE sequence, for the query heads of the kv
 * heads kv_begin .. kv_end-1 (end exclusive).
 *   blocks   blocks[i] holds positions 64 i .. 64 i + 63. Only blocks with a visible key are read
 *            (with a window, entries before it may be NULL). The keys of the rows themselves are
 *            stored already.
 *   q        [n_rows] rows of [n_heads * head_dim], row stride ldq floats; rotated, not scaled
 *   out      same shape, row stride ldo; only the columns of these kv heads' query heads are
 *            written. May be q itself (with ldo == ldq), not a part of it.
 *   scratch  cake_attn_scratch_bytes(s, n_rows), not shared with another thread
 * A row always sees at least itself. */
void cake_attn_rows(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                    uint32_t n_rows, uint32_t kv_begin, uint32_t kv_end, const float *q, size_t ldq,
                    float *out, size_t ldo, void *scratch);

/* The same in two steps, for sharing the keys of one long row among threads.
 * cake_attn_partial computes the blocks block_begin .. block_end-1 (end exclusive) alone and leaves
 * their (o, m, l) in `partials`, at places that depend only on the block, the head, the row and
 * n_rows: threads take disjoint block or head ranges of the same `partials`. Blocks no row sees are
 * passed over. cake_attn_combine, when all ranges are done, folds them in order: the bits of
 * cake_attn_rows. `partials` covers blocks 0 .. pos0 + n_rows - 1 of all kv heads:
 * cake_attn_partial_bytes(). */
size_t cake_attn_partial_bytes(const cake_attn_spec *s, uint32_t pos0, uint32_t n_rows);
void cake_attn_partial(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                       uint32_t n_rows, uint32_t kv_begin, uint32_t kv_end, uint32_t block_begin,
                       uint32_t block_end, const float *q, size_t ldq, float *partials,
                       void *scratch);
void cake_attn_combine(const cake_attn_spec *s, uint32_t pos0, uint32_t n_rows, uint32_t kv_begin,
                       uint32_t kv_end, const float *partials, float *out, size_t ldo);

/* One table per ISA, for tests and benchmarks. NULL where this build has none; ask cake_cpu_has().
 */
typedef struct {
    void (*kv_store)(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                     const float *v);
    void (*rows)(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0, uint32_t n_rows,
                 uint32_t kv_begin, uint32_t kv_end, const float *q, size_t ldq, float *out,
                 size_t ldo, void *scratch);
    void (*partial)(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                    uint32_t n_rows, uint32_t kv_begin, uint32_t kv_end, uint32_t block_begin,
                    uint32_t block_end, const float *q, size_t ldq, float *partials, void *scratch);
    void (*combine)(const cake_attn_spec *s, uint32_t pos0, uint32_t n_rows, uint32_t kv_begin,
                    uint32_t kv_end, const float *partials, float *out, size_t ldo);
} cake_attn_kern;
const cake_attn_kern *cake_attn_for(cake_isa isa);

#endif
