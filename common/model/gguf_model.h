/* A GGUF file as the checkpoint it was made from: the names of Hugging Face and MLX, a config.json
 * with a quantization block of mode "kquant", Llama's q and k rows in their own order again
 * (formats.md 6.3). Nothing is copied or converted: tensors stay extents of the mapped file, so
 * that layout, planner, bundles and workers see one more mlx-kquant checkpoint.
 *
 * Architectures: llama (Llama, Mistral, Mixtral and what else is stored so), qwen2, qwen3,
 * qwen2moe, qwen3moe, gemma, gemma2, gemma3. Gemma's norms stay as they are stored, with the 1
 * added, and the config says so. What is not understood (another architecture, a tensor or
 * rope_freqs of another kind, a key that changes the maths) is an error that names it. */
#ifndef CAKE_COMMON_MODEL_GGUF_MODEL_H
#define CAKE_COMMON_MODEL_GGUF_MODEL_H

#include "common/model/checkpoint.h"
#include "common/model/gguf.h"

typedef struct {
    uint32_t n_tensors;
    cake_tensor *tensors; /* part by part, ascending offset; data is not set */
    char *strings;        /* their names */
    char *config;         /* text of a config.json, NUL-terminated after config_len bytes */
    size_t config_len;
} cake_gguf_model;

/* parts: all parts of a split file in order, or one; metadata is read from the first. Tensor i of
 * the result has `file` = its part. CAKE_EUNSUPPORTED, CAKE_EFORMAT, CAKE_ENOMEM. */
cake_status cake_gguf_model_new(cake_gguf_model *m, const cake_gguf *parts, uint32_t n_parts,
                                cake_error *err);
void cake_gguf_model_deinit(cake_gguf_model *m);

/* The other way: "model.layers.3.mlp.down_proj" -> "blk.3.ffn_down" into out; false when there is
 * no such name. */
bool cake_gguf_name_of(const char *path, char *out, size_t out_bytes);

#endif
