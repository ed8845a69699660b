/* From config and tensors to the units of a plan.
 *
 * Unit 0 is the embedding, units 1..L are the layers, unit L+1 is the final norm and the head.
 * Every tensor a unit needs is present with the right shape and type, and nothing unknown is left
 * over, or there is no layout. */
#ifndef CAKE_COMMON_MODEL_LAYOUT_H
#define CAKE_COMMON_MODEL_LAYOUT_H

#include "common/model/checkpoint.h"
#include "common/model/config.h"

typedef enum {
    CAKE_ROLE_EMBED,
    CAKE_ROLE_ATTN_NORM,
    CAKE_ROLE_Q,
    CAKE_ROLE_K,
    CAKE_ROLE_V,
    CAKE_ROLE_Q_NORM,
    CAKE_ROLE_K_NORM,
    CAKE_ROLE_O,
    CAKE_ROLE_ATTN_POST_NORM, /* of what attention adds; config->post_norms */
    CAKE_ROLE_FFN_NORM,
    CAKE_ROLE_GATE,
    CAKE_ROLE_UP,
    CAKE_ROLE_DOWN,
    CAKE_ROLE_FFN_POST_NORM, /* of what the feed-forward adds */
    CAKE_ROLE_ROUTER,        /* [n_experts, hidden] */
    CAKE_ROLE_SHARED_MIX,    /* [1, hidden]: how much of the shared expert */
    CAKE_ROLE_SHARED_GATE,
    CAKE_ROLE_SHARED_UP,
    CAKE_ROLE_SHARED_DOWN,
    CAKE_ROLE_EXPERT_GATE, /* these three: see cake_layout_expert */
    CAKE_ROLE_EXPERT_UP,
    CAKE_ROLE_EXPERT_DOWN,
    CAKE_ROLE_FINAL_NORM,
    CAKE_ROLE_HEAD,
    CAKE_ROLE_COUNT,
} cake_role;
const char *cake_role_name(cake_role r);

/* BLOCK: rows of blocks of one codec (formats.md 4 and 5). The one-byte ".scales" that mlx-kquant
 * writes beside such a weight says nothing: it may be missing, belongs to no module and never
 * travels. FP: mxfp4, mxfp8, nvfp4 as MLX stores them (3). */
typedef enum {
    CAKE_WEIGHT_DENSE,
    CAKE_WEIGHT_AFFINE,
    CAKE_WEIGHT_BLOCK,
    CAKE_WEIGHT_FP
} cake_weight_kind;

/* One weight matrix [n, k] (norms: n = 1), row-major, stored as its tensors are (formats.md 2.1),
 * or a stack of them [n_experts, n, k]. */
typedef struct {
    cake_role role;
    cake_weight_kind kind;
    /* dense: of weight; affine: of scales and biases (F16, BF16, F32); block and fp: U8 */
    cake_dtype dtype;
    uint32_t bits, group_size; /* affine and fp; else 0 */
    cake_block_codec codec;    /* block */
    cake_quant_mode fp_mode;   /* fp */
    uint32_t n, k;
    uint32_t n_experts; /* matrices of a stack; 0: one matrix, without that dimension */
    /* Indices into checkpoint->tensors, -1 when there is none. */
    int32_t weight, scales, biases; /* biases: quantization offsets */
    int32_t bias;                   /* additive, [n], F16, BF16 or F32 */
    char *path;                     /* "model.layers.0.self_attn.q_proj" */
} cake_module;

typedef struct {
    uint32_t n_modules;
    cake_module *modules; /* ascending role; experts of one role ascending */
    uint64_t bytes;       /* stored bytes of all its tensors (a tied head counts the table) */
} cake_unit;

/* Units [begin, end). */
typedef struct {
    uint32_t begin, end;
} cake_unit_range;

typedef struct {
    const cake_model_config *config;   /* borrowed */
    const cake_checkpoint *checkpoint; /* borrowed */
    const char *prefix;                /* of all names; "" but in models that see too */
    uint32_t n_units;                  /* n_layers + 2 */
    cake_unit *units;                  /* n_modules 0 for units that were not asked for */
    bool tied;                         /* the head uses the embedding's table */
    uint32_t n_ignored;                /* tensors of the checkpoint that no unit uses */
    uint32_t n_bare;                   /* block modules without the one-byte ".scales" */
} cake_layout;

/* Build the units in ranges[0..n_ranges) (ascending, disjoint; NULL, 0: all units) from a
 * checkpoint that holds at least their tensors: a whole model or a bundle. Tensors of other units
 * may be there or not; tensors that belong to no unit are an error. config and ck must outlive the
 * layout. CAKE_ENOTFOUND (tensor missing), CAKE_EFORMAT (shape, dtype, contradiction),
 * CAKE_EUNSUPPORTED (a mode or tensor this build does not know); messages name tensor and file. */
cake_status cake_layout_new(cake_layout **out, const cake_model_config *config,
                            const cake_checkpoint *ck, const cake_unit_range *ranges,
                            size_t n_ranges, cake_error *err);
void cake_layout_free(cake_layout *l);

/* The module of a role in a unit, or NULL. */
const cake_module *cake_layout_module(const cake_layout *l, uint32_t unit, cake_role role);

/* Where matrix e < config->moe.n_experts of an EXPERT role is: a stack that holds all of them
 * (n_experts > 0, the same module for every e), or a module of its own. NULL: not in this unit. */
const cake_module *cake_layout_expert(const cake_layout *l, uint32_t unit, cake_role role,
                                      uint32_t e);

/* ---- what goes into the matrices ---- */

/* Values that one or more matrices of a unit multiply. */
typedef enum {
    CAKE_INPUT_ATTN,        /* q, k, v */
    CAKE_INPUT_O,           /* o */
    CAKE_INPUT_FFN,         /* gate, up; router and shared expert */
    CAKE_INPUT_DOWN,        /* down */
    CAKE_INPUT_SHARED_DOWN, /* down of the shared expert */
    CAKE_INPUT_EXPERT,      /* gate, up of each expert: the rows sent to it */
    CAKE_INPUT_EXPERT_DOWN, /* down of each expert */
    CAKE_INPUT_HEAD,        /* head */
    CAKE_INPUT_COUNT,
} cake_input;
/* What the matrices of a role read; CAKE_INPUT_COUNT: tables and norms read nothing. */
cake_input cake_role_input(cake_role r);
/* "attn", "o", ...; parse: CAKE_INPUT_COUNT for another word. */
const char *cake_input_name(cake_input i);
cake_input cake_input_parse(const char *name);
/* The matrices of a unit that read it: *n of them count apart (experts; else 1), *k columns. False:
 * none does. */
bool cake_layout_input(const cake_layout *l, uint32_t unit, cake_input i, uint32_t *n, uint32_t *k);

/* Tensors of the units in ranges, each once, in plan order (unit, role, weight, scales, biases,
 * bias): fills idx (caller's, room for `max`) and returns how many there are. */
size_t cake_layout_tensors(const cake_layout *l, const cake_unit_range *ranges, size_t n_ranges,
                           uint32_t *idx, size_t max);
/* Stored bytes of those tensors, a shared table counted once. */
uint64_t cake_layout_bytes(const cake_layout *l, const cake_unit_range *ranges, size_t n_ranges);

/* Tensors that writers leave behind and no text model of these families uses: vision towers and the
 * like. */
bool cake_tensor_is_ignored(const char *name);

/* Ascending, disjoint, not empty, end <= n_units. */
bool cake_unit_ranges_valid(const cake_unit_range *ranges, size_t n_ranges, uint32_t n_units);

#endif
