/* Which module of a model is stored in which format: the presets of mlx-kquant 0.1.0 (formats.md
 * 5.3), uniform codecs, MLX's modes with the mixed recipes of mlx-lm (2.8), and overrides.
 *
 * Pure decisions over module paths ("model.layers.0.self_attn.q_proj"); no files. A recipe is
 * read-only once made, except for the counts of its overrides: one thread decides. */
#ifndef CAKE_MASTER_TOOLS_RECIPE_H
#define CAKE_MASTER_TOOLS_RECIPE_H

#include "common/status.h"
#include "kernels/codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- formats ---- */

typedef enum {
    CAKE_FORMAT_FLOAT,
    CAKE_FORMAT_BLOCK,
    CAKE_FORMAT_AFFINE,
    CAKE_FORMAT_FP
} cake_format_kind;

typedef struct {
    cake_format_kind kind;
    cake_codec codec;     /* BLOCK */
    uint32_t bits, group; /* AFFINE, FP; of FP what the mode has */
    cake_fp_mode fp;      /* FP */
} cake_format;

enum { CAKE_FORMAT_NAME_MAX = 24 };
/* "q4_k", "affine4g64", "mxfp4", "float" into out; returns out. */
char *cake_format_name(const cake_format *f, char *out);
/* Weights that share scales: rows must be a multiple of it. 1 for floats. */
uint32_t cake_format_group(const cake_format *f);
/* Bytes of a row of k weights in its .weight tensor; k is a multiple of the group. FLOAT: 0. */
size_t cake_format_row_bytes(const cake_format *f, size_t k);
bool cake_format_equal(const cake_format *a, const cake_format *b);

/* ---- roles ---- */

typedef enum {
    CAKE_PART_NONE, /* not recognised: stays float */
    CAKE_PART_LINEAR_ATTN,
    CAKE_PART_ATTENTION_OUTPUT,
    CAKE_PART_ROUTED_EXPERT,
    CAKE_PART_ROUTER,
    CAKE_PART_ATTENTION,
    CAKE_PART_LM_HEAD,
    CAKE_PART_EMBEDDING_PER_LAYER,
    CAKE_PART_EMBEDDING,
    CAKE_PART_SHARED_EXPERT,
    CAKE_PART_FFN,
    CAKE_PART_VISION,
    CAKE_PART_COUNT
} cake_part;

cake_part cake_part_of(const char *path);
const char *cake_part_name(cake_part p); /* "attention_qkvo", ...; "other" for NONE */

/* Number after ".layers.", or -1. */
int32_t cake_layer_of(const char *path);
/* Layers that mixed recipes store better: the first and last eighth, and every third between. */
bool cake_layer_gets_more(uint32_t layer, uint32_t n_layers);

/* ---- recipes ---- */

typedef struct cake_recipe cake_recipe;

typedef struct {
    /* One of these three. */
    const char *preset; /* "q4_k_m" */
    const char *type;   /* a codec for all, "q6_k" */
    bool mlx;
    /* mlx: */
    const char *mode;          /* NULL or "affine", "mxfp4", "mxfp8", "nvfp4" */
    uint32_t bits, group_size; /* affine; 0: 4 and 64 */
    const char *mixed;         /* NULL, "mixed_3_6", ... */
    const char *model_type;    /* of config.json: some families keep their routers at 8 bits */
    /* "REGEX=TYPE": the first that matches somewhere in a path decides. TYPE is float, a codec
     * (preset, type), or "4", "4g32", "mxfp4"... (mlx). */
    const char *const *overrides;
    size_t n_overrides;
} cake_recipe_request;

/* CAKE_EINVAL names what is not known and what there is; strings of the request are not kept. */
cake_status cake_recipe_new(cake_recipe **out, const cake_recipe_request *q, cake_error *err);
void cake_recipe_free(cake_recipe *r);

/* The format of a module of rows of k weights in a model of n_layers layers (mlx: all layers; else
 * highest layer of a path with a role, plus one). *why: a reason when it stays float though the
 * recipe is asked for it, else NULL; static text. CAKE_EINVAL: an override asks for what k does not
 * allow. */
cake_status cake_recipe_decide(cake_recipe *r, const char *path, uint64_t k, uint32_t n_layers,
                               cake_format *out, const char **why, cake_error *err);

/* Is the result an mlx-kquant checkpoint (mode "kquant")? Else MLX's. */
bool cake_recipe_is_kquant(const cake_recipe *r);
/* mlx: what modules get that config.json does not list. */
cake_format cake_recipe_global(const cake_recipe *r);
/* mlx with a mixed recipe: config.json lists every module. */
bool cake_recipe_lists_all(const cake_recipe *r);
/* The first override that has matched nothing so far, or NULL. */
const char *cake_recipe_unused(const cake_recipe *r);

/* The presets as a table, from the table that decides. */
void cake_recipe_print_presets(FILE *f);

#endif
