/* One stage of the pipeline: a contiguous range of units of one model on this node.
 *
 * Units: 0 is the embedding, 1..L the layers, L+1 the head (final norm and output table). A stage
 * holds the packed weights of its units and the KV cache of its layers, and turns a batch of rows
 * into activations for the next stage or into logits.
 *
 * Same bits however it runs: a row's result depends only on its sequence's history, never on which
 * rows share its batch, how a prompt was cut into batches, how units were split over stages, the
 * number of threads or the instruction set (kernels/ gives that guarantee per operation).
 *
 * Memory: everything is taken in cake_stage_new; cake_stage_run allocates nothing. Threads: one
 * thread at a time per stage; stages that share a cake_scratch must not run at the same time. */
#ifndef CAKE_WORKER_ENGINE_STAGE_H
#define CAKE_WORKER_ENGINE_STAGE_H

#include "common/model/checkpoint.h"
#include "common/model/config.h"
#include "common/model/layout.h"
#include "common/pool.h"
#include "common/status.h"
#include "kernels/attn.h"
#include "proto/wire.h"
#include "worker/engine/stats.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct cake_stage cake_stage;
typedef struct cake_scratch cake_scratch;

/* What a stage will take, computed from names and shapes alone, before anything is loaded. */
typedef struct {
    uint64_t weight_bytes;  /* packed weights and norms */
    uint64_t kv_bytes;      /* KV arena */
    uint64_t scratch_bytes; /* activations of max_rows rows; shared by the stages of a node */
} cake_stage_memory;

typedef struct {
    const cake_model_config *config; /* borrowed for the life of the stage */
    const cake_layout *layout;       /* borrowed during cake_stage_new only */
    uint32_t unit_begin, unit_end;   /* end exclusive */
    uint32_t n_seqs;                 /* sequence slots */
    uint32_t context;                /* longest sequence in positions */
    uint32_t kv_blocks;              /* blocks of 64 positions shared by the sequences */
    uint32_t max_rows;               /* rows of the largest batch */
    cake_kv_type kv;                 /* form of the KV cache */
    bool f32_mode;                   /* accurate mode: no int8 activations, f32 KV cache */
    bool collect;                    /* keep statistics of what goes into the matrices */
} cake_stage_options;

cake_status cake_stage_measure(const cake_stage_options *o, unsigned n_threads,
                               cake_stage_memory *out, cake_error *err);

/* Scratch for batches of any stage with these shapes (config, max_rows) on a pool of n_threads. */
cake_status cake_scratch_new(cake_scratch **out, const cake_model_config *c, uint32_t max_rows,
                             unsigned n_threads, cake_error *err);
void cake_scratch_free(cake_scratch *s);

/* Pack the weights out of `source` (may be closed afterwards) and make the KV cache. progress (may
 * be NULL) is called on the calling thread with packed and total bytes. pool and scratch are
 * borrowed. */
cake_status cake_stage_new(cake_stage **out, const cake_stage_options *o,
                           const cake_checkpoint *source, cake_pool *pool, cake_scratch *scratch,
                           void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                           cake_error *err);
void cake_stage_free(cake_stage *s);

/* cake_self_test() over the stage's weights and, if it has layers, its attention. */
cake_status cake_stage_self_test(const cake_stage *s, cake_error *err);

/* The statistics since the stage was made; NULL unless it collects. */
const cake_stats *cake_stage_stats(const cake_stage *s);

/* Floats per row that run() reads (0 when the stage begins with the embedding) and writes. */
uint32_t cake_stage_width_in(const cake_stage *s);
uint32_t cake_stage_width_out(const cake_stage *s);
bool cake_stage_has_head(const cake_stage *s);

/* stop, if not NULL, is asked before every layer of a batch, on the calling thread; true: nobody
 * wants the rows any more. Its KV tables then are what they are after any batch, the positions of
 * its rows hold nothing of use, and cake_stage_run returns CAKE_ECANCELED. */
void cake_stage_set_stop(cake_stage *s, bool (*stop)(void *arg), void *arg);

/* Apply the KV operations, then run the rows.
 *   rows  [n_rows] rows of one sequence are adjacent, at consecutive positions, and continue what
 * the sequence holds; a sequence appears once per batch in    [n_rows][hidden] activations, or NULL
 * when the stage begins with the embedding out   [n_rows][hidden], or, when the stage ends with the
 * head, [n_logits][vocab] for the rows flagged CAKE_ROW_LOGITS in order; *n_out is the number of
 * rows written CAKE_EINVAL, CAKE_ENOSPACE: the batch is inconsistent with the stage's state; the KV
 * operations that preceded the mistake stay applied, no row of the batch does. CAKE_ECANCELED: see
 * cake_stage_set_stop. */
cake_status cake_stage_run(cake_stage *s, const cake_kv_op *ops, uint32_t n_ops,
                           const cake_row *rows, uint32_t n_rows, const float *in, float *out,
                           uint32_t *n_out, cake_error *err);

#endif
