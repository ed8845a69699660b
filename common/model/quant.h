/* The quantization block of config.json: which module is stored how (formats.md 2.6, 2.7).
 *
 * Parsing keeps every mode that is well-formed; whether this build reads a mode is decided where a
 * module uses it (layout.c), so that the error can name the module. */
#ifndef CAKE_COMMON_MODEL_QUANT_H
#define CAKE_COMMON_MODEL_QUANT_H

#include "common/status.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    CAKE_QUANT_AFFINE,
    CAKE_QUANT_MXFP4,
    CAKE_QUANT_MXFP8,
    CAKE_QUANT_NVFP4,
    CAKE_QUANT_KQUANT, /* blocks of ggml: the codec says which (formats.md 4 and 5) */
} cake_quant_mode;
const char *cake_quant_mode_name(cake_quant_mode m);

/* Block codecs: what mlx-kquant and GGUF store. kernels/codec.h knows them by the same names. */
typedef enum {
    CAKE_BLOCK_Q4_0,
    CAKE_BLOCK_Q4_1,
    CAKE_BLOCK_Q5_0,
    CAKE_BLOCK_Q5_1,
    CAKE_BLOCK_Q8_0,
    CAKE_BLOCK_Q2_K,
    CAKE_BLOCK_Q3_K,
    CAKE_BLOCK_Q4_K,
    CAKE_BLOCK_Q5_K,
    CAKE_BLOCK_Q6_K,
    CAKE_BLOCK_MXFP4, /* GGUF's blocks (6.4), not the tensors of mode mxfp4 */
    CAKE_BLOCK_NVFP4,
    CAKE_BLOCK_COUNT
} cake_block_codec;

typedef struct {
    const char *name;        /* as checkpoints write it: "q4_k" */
    uint32_t weights, bytes; /* of one block */
} cake_block_info;
/* NULL for a value outside the enumeration. */
const cake_block_info *cake_block_get(cake_block_codec codec);
/* False, leaving *out alone, when the name is none of the above. */
bool cake_block_parse(const char *name, cake_block_codec *out);

typedef struct {
    cake_quant_mode mode;
    uint32_t bits, group_size; /* kquant: 0 and the weights of a block */
    cake_block_codec codec;    /* kquant */
} cake_quant_params;

/* What config.json says about one module. */
typedef enum {
    CAKE_QUANT_UNSAID,  /* no block at all: quantized tensors would be a contradiction */
    CAKE_QUANT_GLOBAL,  /* not listed: quantized with *out iff its .scales exist */
    CAKE_QUANT_LISTED,  /* listed with parameters (or true): .scales must exist */
    CAKE_QUANT_REFUSED, /* listed as false: float, .scales must not exist */
} cake_quant_rule;

typedef struct cake_quant cake_quant;

/* config: the whole config.json object. No block gives a cake_quant that answers UNSAID.
 * Looked for in "quantization", then "quantization_config", and for a block of mode "kquant" also
 * in those of "text_config". In mode "kquant" a module that is not listed is REFUSED. CAKE_EFORMAT
 * (malformed), CAKE_EUNSUPPORTED (awq, gptq, ..., a codec, bits or group that no mode knows),
 * naming the module. */
cake_status cake_quant_parse(json_object *config, cake_quant **out, cake_error *err);
void cake_quant_free(cake_quant *q);

/* path: module path without ".weight". *out is set for GLOBAL and LISTED. O(1), thread-safe. */
cake_quant_rule cake_quant_lookup(const cake_quant *q, const char *path, cake_quant_params *out);

/* Unknown keys of the block that were ignored, for one warning; NULL-terminated, borrowed. */
const char *const *cake_quant_ignored_keys(const cake_quant *q);

#endif
