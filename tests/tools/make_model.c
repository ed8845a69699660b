/* Write a random-weight MLX 4-bit (group 64) checkpoint of a published model's shape, for
 * benchmarks: the work is that of the real model, the text is nonsense.
 *
 *   make_model SHAPE DIR [TOKENIZER_DIR]      make_model --list
 *
 * Codes come from a fixed generator, so the same shape gives the same file everywhere. Weights have
 * mean 0 and variance 1/K, which keeps activations in range through any number of layers. */
#include "common/file.h"
#include "common/mem.h"
#include "common/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name, *family, *what;
    uint32_t hidden, layers, heads, kv_heads, head_dim, ff, vocab, max_positions;
    double theta, eps;
    bool tied;
    uint32_t experts, top_k; /* 0: dense; else ff is the width of one expert */
} shape;

static const shape shapes[] = {
    {"qwen2.5-0.5b", "qwen2", "Qwen2.5-0.5B", 896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6,
     true, 0, 0},
    {"qwen3-0.6b", "qwen3", "Qwen3-0.6B", 1024, 28, 16, 8, 128, 3072, 151936, 40960, 1e6, 1e-6,
     true, 0, 0},
    {"llama-1b", "llama", "Llama-3.2-1B (plain rope)", 2048, 16, 32, 8, 64, 8192, 128256, 131072,
     5e5, 1e-5, true, 0, 0},
    {"7b-8layers", "llama", "Llama-2-7B cut to 8 layers", 4096, 8, 32, 32, 128, 11008, 32000, 4096,
     1e4, 1e-5, false, 0, 0},
    {"30b-a3b-4layers", "qwen3_moe", "Qwen3-30B-A3B cut to 4 layers", 2048, 4, 32, 4, 128, 768,
     151936, 40960, 1e6, 1e-6, false, 128, 8},
    {"mixtral-2layers", "mixtral", "Mixtral-8x7B cut to 2 layers", 4096, 2, 32, 8, 128, 14336,
     32000, 32768, 1e6, 1e-5, false, 8, 2},
    {"51mb", "llama", "for tests of transfers, fits the stories260K tokenizer", 1024, 6, 16, 4, 64,
     4096, 512, 2048, 1e4, 1e-5, true, 0, 0},
    {"tiny-moe", "qwen3_moe", "for trying this out, with experts", 128, 4, 4, 2, 32, 64, 512, 2048,
     1e6, 1e-6, true, 8, 2},
    {"tiny", "qwen2", "for trying this out", 128, 4, 4, 2, 32, 256, 512, 2048, 1e6, 1e-6, true, 0,
     0},
};

enum { GROUP = 64, MAX_TENSORS = 4096, NAME_MAX_BYTES = 96 };

typedef enum { CODES, SCALES, BIASES, ONES, ZEROS } fill;
typedef struct {
    char name[NAME_MAX_BYTES];
    fill fill;
    uint32_t n, k, bits; /* of the matrix; vectors have n = 1 */
    uint32_t stack;      /* matrices of a stack, 0: no stack */
    uint64_t bytes;
} tensor;

static tensor tensors[MAX_TENSORS];
static uint32_t n_tensors;

static void add(const char *path, const char *part, fill f, uint32_t n, uint32_t k,
                uint64_t bytes) {
    cake_assert(n_tensors < MAX_TENSORS);
    tensor *t = &tensors[n_tensors++];
    snprintf(t->name, sizeof t->name, "%s.%s", path, part);
    t->fill = f;
    t->n = n;
    t->k = k;
    t->bytes = bytes;
}

static void add_quantized(const char *path, uint32_t n, uint32_t k, uint32_t bits, uint32_t stack) {
    uint64_t cells = (uint64_t)n * k * (stack ? stack : 1);
    uint32_t first = n_tensors;
    add(path, "weight", CODES, n, k, cells * bits / 8);
    add(path, "scales", SCALES, n, k, cells / GROUP * 2);
    add(path, "biases", BIASES, n, k, cells / GROUP * 2);
    for (uint32_t i = first; i < n_tensors; i++) tensors[i].bits = bits, tensors[i].stack = stack;
}
static void add_matrix(const char *path, uint32_t n, uint32_t k) {
    add_quantized(path, n, k, 4, 0);
}

/* Stacks as mlx-lm writes them; routers have 8 bits. */
static bool mixtral(const shape *s) {
    return strcmp(s->family, "mixtral") == 0;
}
static void add_experts(const shape *s, uint32_t layer) {
    char path[80];
    const char *block = mixtral(s) ? "block_sparse_moe" : "mlp";
#define AT(suffix) (snprintf(path, sizeof path, "model.layers.%u.%s." suffix, layer, block), path)
    add_quantized(AT("gate"), s->experts, s->hidden, 8, 0);
    add_quantized(AT("switch_mlp.gate_proj"), s->ff, s->hidden, 4, s->experts);
    add_quantized(AT("switch_mlp.up_proj"), s->ff, s->hidden, 4, s->experts);
    add_quantized(AT("switch_mlp.down_proj"), s->hidden, s->ff, 4, s->experts);
#undef AT
}

static void add_all(const shape *s) {
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    bool qwen2 = strcmp(s->family, "qwen2") == 0, qwen3 = strncmp(s->family, "qwen3", 5) == 0;
    char p[32], path[80];
#define AT(suffix) (snprintf(path, sizeof path, "%s%s", p, suffix), path)
    add_matrix("model.embed_tokens", s->vocab, s->hidden);
    for (uint32_t i = 0; i < s->layers; i++) {
        snprintf(p, sizeof p, "model.layers.%u.", i);
        add(AT("input_layernorm"), "weight", ONES, 1, s->hidden, s->hidden * 2);
        add_matrix(AT("self_attn.q_proj"), q, s->hidden);
        add_matrix(AT("self_attn.k_proj"), kv, s->hidden);
        add_matrix(AT("self_attn.v_proj"), kv, s->hidden);
        add_matrix(AT("self_attn.o_proj"), s->hidden, q);
        if (qwen2) {
            add(AT("self_attn.q_proj"), "bias", ZEROS, 1, q, q * 2);
            add(AT("self_attn.k_proj"), "bias", ZEROS, 1, kv, kv * 2);
            add(AT("self_attn.v_proj"), "bias", ZEROS, 1, kv, kv * 2);
        }
        if (qwen3) {
            add(AT("self_attn.q_norm"), "weight", ONES, 1, s->head_dim, s->head_dim * 2);
            add(AT("self_attn.k_norm"), "weight", ONES, 1, s->head_dim, s->head_dim * 2);
        }
        add(AT("post_attention_layernorm"), "weight", ONES, 1, s->hidden, s->hidden * 2);
        if (s->experts) {
            add_experts(s, i);
            continue;
        }
        add_matrix(AT("mlp.gate_proj"), s->ff, s->hidden);
        add_matrix(AT("mlp.up_proj"), s->ff, s->hidden);
        add_matrix(AT("mlp.down_proj"), s->hidden, s->ff);
    }
    add("model.norm", "weight", ONES, 1, s->hidden, s->hidden * 2);
    if (!s->tied) add_matrix("lm_head", s->vocab, s->hidden);
#undef AT
}

static uint64_t rng = 0x9E3779B97F4A7C15u;
static uint64_t next(void) { /* xorshift64* */
    rng ^= rng >> 12;
    rng ^= rng << 25;
    rng ^= rng >> 27;
    return rng * 0x2545F4914F6CDD1Du;
}

static uint16_t bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

/* Codes are uniform: of 4 bits standard deviation 4.61, mean 7.5; of 8 bits 73.9, 127.5. */
static void write_tensor(FILE *f, const tensor *t) {
    static uint64_t buf[8192];
    float scale = 1.0f / ((t->bits == 8 ? 73.9f : 4.61f) * __builtin_sqrtf((float)t->k));
    uint16_t v = 0;
    if (t->fill == ONES) v = bf16(1);
    if (t->fill == SCALES) v = bf16(scale);
    if (t->fill == BIASES) v = bf16((t->bits == 8 ? -127.5f : -7.5f) * scale);
    uint64_t word = v * 0x0001000100010001u;
    if (t->fill != CODES)
        for (size_t i = 0; i < 8192; i++) buf[i] = word;
    for (uint64_t left = t->bytes; left;) {
        size_t n = left < sizeof buf ? (size_t)left : sizeof buf;
        if (t->fill == CODES)
            for (size_t i = 0; i < (n + 7) / 8; i++) buf[i] = next();
        if (fwrite(buf, 1, n, f) != n) return; /* ferror is asked at the end */
        left -= n;
    }
}

static bool write_weights(const char *path) {
    char *header = NULL;
    size_t len = 0;
    FILE *h = open_memstream(&header, &len);
    if (!h) return false;
    fprintf(h, "{\"__metadata__\":{\"format\":\"mlx\"}");
    uint64_t at = 0;
    for (uint32_t i = 0; i < n_tensors; i++) {
        const tensor *t = &tensors[i];
        fprintf(h, ",\"%s\":{\"data_offsets\":[%llu,%llu],", t->name, (unsigned long long)at,
                (unsigned long long)(at + t->bytes));
        char lead[16] = "";
        if (t->stack) snprintf(lead, sizeof lead, "%u,", t->stack);
        if (t->fill == CODES)
            fprintf(h, "\"dtype\":\"U32\",\"shape\":[%s%u,%u]}", lead, t->n, t->k / 32 * t->bits);
        else if (t->fill == SCALES || t->fill == BIASES)
            fprintf(h, "\"dtype\":\"BF16\",\"shape\":[%s%u,%u]}", lead, t->n, t->k / GROUP);
        else
            fprintf(h, "\"dtype\":\"BF16\",\"shape\":[%u]}", t->k);
        at += t->bytes;
    }
    fprintf(h, "}");
    fclose(h);
    FILE *f = fopen(path, "wb");
    if (!f) {
        free(header);
        return false;
    }
    uint64_t n = len;
    fwrite(&n, 8, 1, f);
    fwrite(header, 1, len, f);
    free(header);
    for (uint32_t i = 0; i < n_tensors; i++) write_tensor(f, &tensors[i]);
    bool ok = !ferror(f);
    return fclose(f) == 0 && ok;
}

static bool write_config(const char *path, const shape *s) {
    FILE *f = fopen(path, "w");
    if (!f) return false;
    fprintf(f,
            "{\n \"model_type\": \"%s\",\n \"hidden_size\": %u,\n \"num_hidden_layers\": %u,\n"
            " \"num_attention_heads\": %u,\n \"num_key_value_heads\": %u,\n \"head_dim\": %u,\n"
            " \"intermediate_size\": %u,\n \"vocab_size\": %u,\n \"max_position_embeddings\": %u,\n"
            " \"rope_theta\": %.1f,\n \"rms_norm_eps\": %g,\n \"tie_word_embeddings\": %s,\n"
            " \"hidden_act\": \"silu\",\n \"torch_dtype\": \"bfloat16\",\n",
            s->family, s->hidden, s->layers, s->heads, s->kv_heads, s->head_dim, s->ff, s->vocab,
            s->max_positions, s->theta, s->eps, s->tied ? "true" : "false");
    if (s->experts)
        fprintf(f,
                " \"%s\": %u,\n \"num_experts_per_tok\": %u,\n \"moe_intermediate_size\": %u,\n"
                " \"norm_topk_prob\": true,\n",
                mixtral(s) ? "num_local_experts" : "num_experts", s->experts, s->top_k, s->ff);
    fprintf(f, " \"quantization\": {\"group_size\": %d, \"bits\": 4, \"mode\": \"affine\"", GROUP);
    for (uint32_t i = 0; s->experts && i < s->layers; i++)
        fprintf(f, ",\n  \"model.layers.%u.%s.gate\": {\"group_size\": %d, \"bits\": 8}", i,
                mixtral(s) ? "block_sparse_moe" : "mlp", GROUP);
    fprintf(f, "}\n}\n");
    bool ok = !ferror(f);
    return fclose(f) == 0 && ok;
}

static bool copy(const char *from, const char *to, const char *name) {
    char *a = cake_path_join(from, name), *b = cake_path_join(to, name), *data = NULL;
    size_t len = 0;
    bool ok = cake_file_read(a, 64 << 20, &data, &len, NULL) == CAKE_OK &&
              cake_file_write(b, data, len, 0644, NULL) == CAKE_OK;
    free(a);
    free(b);
    free(data);
    return ok;
}

int main(int argc, char **argv) {
    const size_t n_shapes = sizeof shapes / sizeof *shapes;
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < n_shapes; i++) printf("%-16s %s\n", shapes[i].name, shapes[i].what);
        return 0;
    }
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: make_model SHAPE DIR [TOKENIZER_DIR], or make_model --list\n");
        return 2;
    }
    const shape *s = NULL;
    for (size_t i = 0; i < n_shapes; i++)
        if (strcmp(argv[1], shapes[i].name) == 0) s = &shapes[i];
    if (!s) {
        fprintf(stderr, "make_model: no shape '%s'; see make_model --list\n", argv[1]);
        return 2;
    }
    cake_error err;
    if (cake_mkdir_p(argv[2], 0755, &err) != CAKE_OK) {
        fprintf(stderr, "make_model: %s\n", err.msg);
        return 1;
    }
    add_all(s);
    char *weights = cake_path_join(argv[2], "model.safetensors");
    char *config = cake_path_join(argv[2], "config.json");
    bool ok = write_weights(weights) && write_config(config, s);
    if (!ok) perror("make_model");
    if (ok && argc == 4) {
        ok = copy(argv[3], argv[2], "tokenizer.json");
        if (!ok) fprintf(stderr, "make_model: no tokenizer.json in %s\n", argv[3]);
        copy(argv[3], argv[2], "tokenizer_config.json"); /* not every tokenizer has one */
    }
    free(weights);
    free(config);
    return ok ? 0 : 1;
}
