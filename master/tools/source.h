/* The weights of a checkpoint by the names MLX gives them, readable as rows of floats.
 *
 * Tensors that belong together (.weight, .scales, .biases) are one weight; experts stored one by
 * one, or with gate and up fused, appear as the stacks that MLX makes of them (switch_mlp); what
 * mlx-lm drops is left out: the head of a model with tied embeddings, rotary_emb.inv_freq, vision
 * and MTP towers. */
#ifndef CAKE_MASTER_TOOLS_SOURCE_H
#define CAKE_MASTER_TOOLS_SOURCE_H

#include "common/model/checkpoint.h"
#include "common/model/quant.h"
#include "master/tools/recipe.h"

/* Rows [row, row + n_rows) of a stored matrix. Tensor indices, -1: none. */
typedef struct {
    int32_t weight, scales, biases;
    uint64_t row, n_rows;
} cake_source_rows;

typedef struct {
    char *name;         /* "model.layers.0.self_attn.q_proj.weight", "...q_proj.bias" */
    char *path;         /* of a module: the name without ".weight"; else the name */
    bool matrix;        /* a Linear, an Embedding or a stack: may be quantized */
    bool one_added;     /* stored is 1 + w: see cake_source_take_one */
    cake_format format; /* as stored */
    cake_dtype dtype;   /* FLOAT: of the weight; AFFINE: of scales and biases; else U8 */
    uint32_t rank;      /* of the logical shape, [n], [n, k] or [experts, n, k] for modules */
    uint64_t shape[CAKE_RANK_MAX];
    uint64_t n_rows, k; /* n_rows * k: all elements; k: the last dimension, 1 of a scalar */
    uint64_t n_bytes;   /* stored */
    uint32_t n_parts;
    cake_source_rows *parts; /* n_rows in order */
} cake_source_weight;

typedef struct {
    const cake_checkpoint *checkpoint; /* borrowed */
    uint32_t n;
    cake_source_weight *w; /* embedding, layers ascending, the rest, head; by name in each */
    uint32_t n_dropped;
    cake_names names; /* private */
} cake_source;

/* quant: of the checkpoint's config.json. stack false: names and experts as they are stored,
 * nothing dropped. CAKE_EFORMAT: parts that do not fit together; CAKE_EUNSUPPORTED: a dtype that is
 * no weight. Reads no weights. ck must outlive the result. */
cake_status cake_source_new(cake_source **out, const cake_checkpoint *ck, const cake_quant *quant,
                            bool tied, bool stack, cake_error *err);
void cake_source_free(cake_source *w);

/* The norms are stored as 1 + w (Gemma in GGUF): from now on they are read as w. That is exact for
 * every w that the 1 was added to in f32. */
void cake_source_take_one(cake_source *all);

/* By tensor name; NULL when there is none. */
const cake_source_weight *cake_source_find(const cake_source *w, const char *name);

/* Bytes of scratch that reading n_rows rows takes. */
size_t cake_source_scratch(const cake_source_weight *w, size_t n_rows);
/* out [n_rows][k] = rows of part `part`, from its row `row` on, decoded. scratch: of the size
 * above, any alignment. Thread-safe; reads with pread: CAKE_EIO when a file shrank. */
cake_status cake_source_read(const cake_source *all, const cake_source_weight *w, uint32_t part,
                             uint64_t row, size_t n_rows, void *scratch, float *out,
                             cake_error *err);
/* The stored bytes of such rows of a FLOAT weight (not of one_added ones). */
cake_status cake_source_read_raw(const cake_source *all, const cake_source_weight *w, uint32_t part,
                                 uint64_t row, size_t n_rows, void *out, cake_error *err);

/* Floats to and from F32, F16 and BF16 bytes (any other dtype is a broken invariant). */
void cake_floats_store(cake_dtype dtype, const float *x, size_t n, void *out);
void cake_floats_load(cake_dtype dtype, const void *bytes, size_t n, float *out);

#endif
