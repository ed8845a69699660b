/* config.json to a checked description of a model. Everything the maths depends on is here; what is
 * not understood is an error that names the field (design.md promise 7). */
#ifndef CAKE_COMMON_MODEL_CONFIG_H
#define CAKE_COMMON_MODEL_CONFIG_H

#include "common/model/quant.h"
#include "common/model/safetensors.h"

typedef enum {
    CAKE_FAMILY_LLAMA, /* Llama 2/3, Falcon3, SmolLM and others stored as model_type "llama" */
    CAKE_FAMILY_MISTRAL,
    CAKE_FAMILY_QWEN2,
    CAKE_FAMILY_QWEN3,
    CAKE_FAMILY_QWEN2_MOE,
    CAKE_FAMILY_QWEN3_MOE,
    CAKE_FAMILY_MIXTRAL,
    CAKE_FAMILY_GEMMA,
    CAKE_FAMILY_GEMMA2,
    CAKE_FAMILY_GEMMA3, /* the text model, alone or within one that sees ("gemma3") */
} cake_family;
const char *cake_family_name(cake_family f);

typedef enum {
    CAKE_SCALING_DEFAULT,
    CAKE_SCALING_LINEAR,
    CAKE_SCALING_LLAMA3,
    CAKE_SCALING_YARN,
} cake_rope_scaling;

/* Half-split form over all of head_dim; formulas in formats.md 7.1. Fields of other types are 0. */
typedef struct {
    cake_rope_scaling type;
    double theta;
    double factor;                            /* linear, llama3, yarn; 1 for default */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double original_max_positions;            /* llama3, yarn */
    double beta_fast, beta_slow;              /* yarn */
    double mscale, mscale_all_dim;            /* yarn */
} cake_rope_config;

enum {
    CAKE_LAYERS_MAX = 4096,
    CAKE_EOS_MAX = 16,
    CAKE_EXPERTS_MAX = 1024,         /* of one layer */
    CAKE_TOP_K_MAX = 64,             /* experts a row goes to */
    CAKE_CONFIG_FILE_MAX = 16 << 20, /* bytes of a config.json */
};

/* Mixture of experts (formats.md 7.3). n_experts is 0, and everything else too, when no layer has
 * experts. */
typedef struct {
    uint32_t n_experts, top_k;
    uint32_t ff;                           /* width of one expert */
    uint32_t shared_ff;                    /* width of the shared expert, 0: none */
    bool norm_top_k;                       /* divide the chosen probabilities by their sum */
    uint64_t layers[CAKE_LAYERS_MAX / 64]; /* bit i: layer i has experts */
} cake_moe_config;

typedef struct {
    cake_family family;
    char model_type[64];
    uint32_t hidden, n_layers, n_heads, n_kv_heads, head_dim, vocab;
    uint32_t ff; /* width of the dense feed-forward; 0 when every layer has experts */
    uint32_t max_positions;
    double norm_eps;
    bool norm_add_one;   /* 1 + w multiplies where w is stored (Gemma) */
    bool norm_one_added; /* or 1 + w is stored (Gemma in GGUF) */
    bool post_norms;     /* also after attention and feed-forward, before they are added */
    bool gelu;           /* the feed-forward's gate is gelu_tanh, else silu */
    float embed_scale;   /* of the rows that come out of the embedding; 1 but for Gemma */
    double query_scalar; /* scores are q k / its root; head_dim but for Gemma */
    double attn_softcap, logit_softcap;  /* c tanh(x / c) of scores and of logits; 0: none */
    bool q_bias, k_bias, v_bias, o_bias; /* additive biases of the attention projections */
    bool mlp_bias;                       /* of gate, up and down */
    bool qk_norm;                        /* RMSNorm per head on q and k before rope */
    int tie;                             /* 1 tied, 0 untied, -1 not said: layout.c decides */
    cake_moe_config moe;
    uint32_t window;                        /* of the sliding layers, in positions */
    uint64_t sliding[CAKE_LAYERS_MAX / 64]; /* bit i: layer i attends to the last `window` only */
    cake_rope_config rope;
    cake_rope_config local_rope; /* of the sliding layers; theta 0: that of the others */
    cake_dtype dtype;            /* torch_dtype / dtype; informative; NONE when absent */
    int64_t bos_id;              /* -1 absent */
    uint32_t n_eos, eos_ids[CAKE_EOS_MAX];
    cake_quant *quant; /* owned; never NULL after success */
} cake_model_config;

/* Does layer i (counted from 0) have experts in place of the dense feed-forward? */
static inline bool cake_config_has_experts(const cake_model_config *c, uint32_t i) {
    return c->moe.layers[i / 64] >> (i % 64) & 1;
}

/* Our own key, for Gemma: false where the norms are stored with the 1 added (GGUF). */
#define CAKE_CONFIG_NORM_ADD_ONE "norm_add_one"

/* Is the attention of layer i limited to a window? */
static inline bool cake_config_is_sliding(const cake_model_config *c, uint32_t i) {
    return c->sliding[i / 64] >> (i % 64) & 1;
}

/* text[0..len): a config.json. CAKE_EFORMAT: malformed or out of range; CAKE_EUNSUPPORTED: another
 * family or a feature this build does not have. */
cake_status cake_config_parse(cake_model_config *c, const char *text, size_t len, const char *what,
                              cake_error *err);
/* The same from a file. */
cake_status cake_config_read(cake_model_config *c, const char *path, cake_error *err);
void cake_config_deinit(cake_model_config *c);

#endif
