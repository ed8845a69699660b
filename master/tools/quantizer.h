/* cake-master quantize: one checkpoint in, another out, a few rows in memory at a time.
 *
 * The result is an MLX checkpoint (affine, mxfp4, mxfp8, nvfp4) or one of mlx-kquant (blocks of
 * ggml), as the recipe says; names are MLX's, experts are stacked. It is written to a temporary
 * folder beside `out`, synced and renamed: `out` is complete or not there. */
#ifndef CAKE_MASTER_TOOLS_QUANTIZER_H
#define CAKE_MASTER_TOOLS_QUANTIZER_H

#include "common/model/checkpoint.h"
#include "master/tools/recipe.h"
#include "master/ui/progress.h"

#include <signal.h>

typedef struct {
    const char *model;                 /* folder, or a name in the Hugging Face cache */
    const char *out;                   /* folder to make; must not exist */
    cake_recipe_request recipe;        /* model_type is filled in here */
    const char *imatrix;               /* importance matrix, or NULL; for blocks only */
    bool requantize;                   /* allow a source that is quantized already */
    uint64_t shard_limit;              /* bytes; 0: CAKE_SHARD_LIMIT */
    unsigned threads;                  /* 0: one per core */
    const volatile sig_atomic_t *stop; /* not 0: give up with CAKE_ECANCELED; NULL */
    cake_progress *progress;           /* a bar, and lines about what stays float; NULL */
} cake_quantize_request;

typedef struct {
    char name[CAKE_FORMAT_NAME_MAX];
    uint64_t n_modules, n_weights, n_bytes; /* bytes of weight, scales and biases */
} cake_format_count;
enum { CAKE_FORMAT_COUNTS_MAX = 48 };

typedef struct {
    uint32_t n_shards, n_formats;
    cake_format_count formats[CAKE_FORMAT_COUNTS_MAX]; /* of modules; float ones last */
    uint64_t n_parameters;                             /* of all tensors */
    uint64_t read_bytes, written_bytes;                /* of tensors */
    uint32_t n_important;                              /* modules whose importance was used */
    double seconds;                                    /* from the first row to the last sync */
} cake_quantize_result;

/* Blocks until done. CAKE_EINVAL: out exists, a quantized source without requantize, an importance
 * matrix of another model; CAKE_EFORMAT: weights that are not finite; else what reading and writing
 * give. On any error nothing is left at or beside `out`. */
cake_status cake_quantize(const cake_quantize_request *q, cake_quantize_result *r, cake_error *err);

/* Count a module under its format. False: more than CAKE_FORMAT_COUNTS_MAX formats (not counted).
 */
bool cake_format_counts_add(cake_format_count *c, uint32_t *n, const char *name, uint64_t n_weights,
                            uint64_t n_bytes);

#endif
