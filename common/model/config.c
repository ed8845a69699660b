/* config.json: see config.h. Field meanings and defaults: formats.md 7.1 and 7.2. */
#include "common/model/config.h"
#include "common/file.h"
#include "common/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *model_type, *architecture;
    double theta; /* when the file gives none; 0: required */
    cake_family family;
    uint32_t max_positions; /* when the file gives none */
} family_table[] = {
    {"llama", "LlamaForCausalLM", 10000, CAKE_FAMILY_LLAMA, 2048},
    {"mistral", "MistralForCausalLM", 10000, CAKE_FAMILY_MISTRAL, 32768},
    {"qwen2", "Qwen2ForCausalLM", 1e6, CAKE_FAMILY_QWEN2, 32768},
    {"qwen3", "Qwen3ForCausalLM", 0, CAKE_FAMILY_QWEN3, 40960},
    {"qwen2_moe", "Qwen2MoeForCausalLM", 0, CAKE_FAMILY_QWEN2_MOE, 32768},
    {"qwen3_moe", "Qwen3MoeForCausalLM", 0, CAKE_FAMILY_QWEN3_MOE, 32768},
    {"mixtral", "MixtralForCausalLM", 1e6, CAKE_FAMILY_MIXTRAL, 131072},
    {"gemma", "GemmaForCausalLM", 10000, CAKE_FAMILY_GEMMA, 8192},
    {"gemma2", "Gemma2ForCausalLM", 10000, CAKE_FAMILY_GEMMA2, 8192},
    {"gemma3_text", "Gemma3ForCausalLM", 1e6, CAKE_FAMILY_GEMMA3, 131072},
};
enum { N_FAMILIES = sizeof family_table / sizeof *family_table };

const char *cake_family_name(cake_family f) {
    return (unsigned)f < N_FAMILIES ? family_table[f].model_type : "?";
}

static bool is_mixture(cake_family f) {
    return f == CAKE_FAMILY_QWEN2_MOE || f == CAKE_FAMILY_QWEN3_MOE || f == CAKE_FAMILY_MIXTRAL;
}

static bool is_gemma2(cake_family f) {
    return f == CAKE_FAMILY_GEMMA2;
}
static bool is_gemma(cake_family f) {
    return f == CAKE_FAMILY_GEMMA || f == CAKE_FAMILY_GEMMA2 || f == CAKE_FAMILY_GEMMA3;
}

static bool has_post_norms(cake_family f) {
    return is_gemma(f) && f != CAKE_FAMILY_GEMMA;
}

#define SUPPORTED_FAMILIES                                                                         \
    "this build runs dense llama, mistral, qwen2, qwen3, gemma, gemma2 and gemma3 models and the " \
    "mixtures of experts qwen2_moe, qwen3_moe and mixtral"

/* Fields that change the maths of some model: absent, null or neutral, or we do not know the model.
 */
static const struct {
    const char *key;
    double neutral;
} must_be_neutral[] = {
    {"num_experts", 0},
    {"num_local_experts", 0},
    {"n_routed_experts", 0},
    {"n_shared_experts", 0},
    {"routed_scaling_factor", 1},
    {"kv_lora_rank", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"clip_qkv", 0},
    {"query_pre_attn_scalar", 0},
    {"use_bidirectional_attention", 0},
    {"attention_multiplier", 0},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"logits_scaling", 1},
    {"logit_scale", 1},
    {"partial_rotary_factor", 1},
    {"rope_traditional", 0},
    {"rope_interleaved", 0},
    {"parallel_residual", 0},
    {"use_parallel_residual", 0},
    {"num_kv_shared_layers", 0},
};

/* Does the family have such a field? It is read elsewhere then. */
static bool is_known(cake_family f, const char *key) {
    static const struct {
        const char *key;
        bool (*has)(cake_family f);
    } of[] = {{"num_experts", is_mixture},
              {"num_local_experts", is_mixture},
              {"attn_logit_softcapping", is_gemma2},
              {"final_logit_softcapping", has_post_norms},
              {"query_pre_attn_scalar", has_post_norms}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (strcmp(of[i].key, key) == 0) return of[i].has(f);
    return false;
}

static cake_status check_neutral(const cake_model_config *c, json_object *o, cake_error *err) {
    for (size_t i = 0; i < sizeof must_be_neutral / sizeof *must_be_neutral; i++) {
        json_object *v = NULL;
        const char *key = must_be_neutral[i].key;
        if (is_known(c->family, key) || !json_object_object_get_ex(o, key, &v) || !v) continue;
        bool number = json_object_is_type(v, json_type_int) ||
                      json_object_is_type(v, json_type_double) ||
                      json_object_is_type(v, json_type_boolean);
        double x = json_object_get_double(v), want = must_be_neutral[i].neutral;
        if (json_object_is_type(v, json_type_boolean)) x = json_object_get_boolean(v);
        if (!number || x < want || x > want)
            return cake_fail(err, CAKE_EUNSUPPORTED,
                             "\"%s\": %.60s is not supported; " SUPPORTED_FAMILIES, key,
                             json_object_get_string(v));
    }
    return CAKE_OK;
}

static cake_status family(cake_model_config *c, json_object *o, cake_error *err) {
    const char *type = NULL;
    cake_status st = cake_json_string(o, "model_type", true, sizeof c->model_type - 1, &type, err);
    if (st != CAKE_OK) return st;
    unsigned f = 0;
    while (f < N_FAMILIES && strcmp(family_table[f].model_type, type) != 0) f++;
    if (f == N_FAMILIES)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "\"model_type\" \"%s\" is not supported; " SUPPORTED_FAMILIES, type);
    c->family = family_table[f].family;
    snprintf(c->model_type, sizeof c->model_type, "%s", type);
    json_object *arch = NULL;
    if ((st = cake_json_array(o, "architectures", false, 16, &arch, err)) != CAKE_OK) return st;
    for (size_t i = 0; arch && i < json_object_array_length(arch); i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(arch, i));
        bool known = false;
        for (unsigned j = 0; name && j < N_FAMILIES; j++)
            known |= strcmp(name, family_table[j].architecture) == 0;
        if (!known)
            return cake_fail(
                err, CAKE_EUNSUPPORTED,
                "\"architectures\" names \"%.100s\", which is not supported; " SUPPORTED_FAMILIES,
                name ? name : "null");
    }
    /* Code beside a checkpoint is never run; a model that needs it is not the model we know. */
    if (cake_json_has(o, "model_file"))
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "\"model_file\" asks for Python code of its own, which is never "
                         "run; " SUPPORTED_FAMILIES);
    return CAKE_OK;
}

/* A model that sees too keeps the fields of its text model in "text_config", without those that
 * have the value of the smallest of the series (7.5). *o: the whole config.json, becomes what it
 * says of the text model. */
static cake_status text_of(json_object **o, cake_error *err) {
    static const struct {
        const char *key;
        int value;
    } defaults[] = {{"num_attention_heads", 8}, {"num_key_value_heads", 4}, {"vocab_size", 262208}};
    static const char *const own[] = {"architectures", "model_type", "text_config",
                                      "vision_config"};
    static const char class[] = "Gemma3ForConditionalGeneration";
    const char *type = NULL;
    json_object *text = NULL, *arch = NULL, *v;
    cake_status st = cake_json_string(*o, "model_type", false, 1000, &type, err);
    if (st != CAKE_OK || !type || strcmp(type, "gemma3") != 0) return st;
    if ((st = cake_json_object(*o, "text_config", true, &text, err)) != CAKE_OK ||
        (st = cake_json_array(*o, "architectures", false, 1, &arch, err)) != CAKE_OK)
        return st;
    const char *name = arch ? json_object_get_string(json_object_array_get_idx(arch, 0)) : class;
    if (!name || strcmp(name, class) != 0)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "\"architectures\" names \"%.100s\", which is not supported for gemma3 "
                         "models; " SUPPORTED_FAMILIES,
                         name ? name : "null");
    json_object_get(text);
    json_object_object_foreach(*o, key, value) {
        bool skip = !value;
        for (size_t i = 0; i < sizeof own / sizeof *own; i++) skip |= strcmp(key, own[i]) == 0;
        if (!skip) json_object_object_add(text, key, json_object_get(value));
    }
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (!json_object_object_get_ex(text, defaults[i].key, &v) || !v)
            json_object_object_add(text, defaults[i].key, json_object_new_int(defaults[i].value));
    json_object_object_add(text, "model_type", json_object_new_string("gemma3_text"));
    json_object_put(*o);
    *o = text;
    return CAKE_OK;
}

static cake_status sizes(cake_model_config *c, json_object *o, cake_error *err) {
    cake_status st;
    const bool gemma = is_gemma(c->family);
    uint32_t head_dim = gemma ? 256 : 0;
    c->norm_eps = 1e-6;
    c->max_positions = family_table[c->family].max_positions;
    if ((st = cake_json_u32(o, "hidden_size", true, 1, 1 << 20, &c->hidden, err)) != CAKE_OK ||
        (st = cake_json_u32(o, "num_hidden_layers", true, 1, CAKE_LAYERS_MAX, &c->n_layers, err)) !=
            CAKE_OK ||
        (st = cake_json_u32(o, "num_attention_heads", true, 1, 4096, &c->n_heads, err)) != CAKE_OK)
        return st;
    c->n_kv_heads = c->n_heads;
    if ((st = cake_json_u32(o, "num_key_value_heads", gemma, 1, 4096, &c->n_kv_heads, err)) !=
            CAKE_OK ||
        (st = cake_json_u32(o, "head_dim", false, 1, 1 << 16, &head_dim, err)) != CAKE_OK ||
        (st = cake_json_u32(o, "intermediate_size", !is_mixture(c->family), 1, 1 << 22, &c->ff,
                            err)) != CAKE_OK ||
        (st = cake_json_u32(o, "vocab_size", true, 1, 1 << 24, &c->vocab, err)) != CAKE_OK ||
        (st = cake_json_u32(o, "max_position_embeddings", false, 1, 1 << 30, &c->max_positions,
                            err)) != CAKE_OK ||
        (st = cake_json_double(o, "rms_norm_eps", !gemma, 1e-30, 1.0, &c->norm_eps, err)) !=
            CAKE_OK)
        return st;
    if (c->n_heads % c->n_kv_heads)
        return cake_fail(err, CAKE_EFORMAT,
                         "\"num_key_value_heads\" %u does not divide \"num_attention_heads\" %u",
                         c->n_kv_heads, c->n_heads);
    if (!head_dim) {
        if (c->hidden % c->n_heads)
            return cake_fail(err, CAKE_EFORMAT,
                             "no \"head_dim\", and \"hidden_size\" %u is not a multiple of "
                             "\"num_attention_heads\" %u",
                             c->hidden, c->n_heads);
        head_dim = c->hidden / c->n_heads;
    }
    if (head_dim % 8 || head_dim > 256)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "head size %u is not supported; it must be a multiple of 8 and at most "
                         "256",
                         head_dim);
    c->head_dim = head_dim;
    if ((uint64_t)c->n_heads * head_dim > 1 << 20)
        return cake_fail(err, CAKE_EFORMAT, "%u heads of %u are beyond any known model", c->n_heads,
                         head_dim);
    return CAKE_OK;
}

static cake_status activation(cake_model_config *c, json_object *o, cake_error *err) {
    static const char *const names[][2] = {{"silu", "swish"},
                                           {"gelu_pytorch_tanh", "gelu_pytorch_tanh"}};
    const char *act = NULL, *key = "hidden_act";
    c->gelu = is_gemma(c->family);
    if (c->gelu && cake_json_has(o, "hidden_activation")) key = "hidden_activation";
    cake_status st = cake_json_string(o, key, false, 64, &act, err);
    if (st != CAKE_OK || !act) return st;
    const char *const *want = names[c->gelu];
    if (strcmp(act, want[0]) != 0 && strcmp(act, want[1]) != 0)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "\"%s\" \"%s\" is not supported for %s models; only %s is", key, act,
                         c->model_type, want[0]);
    return CAKE_OK;
}

/* What else differs in Gemma's arithmetic (7.5). */
static cake_status gemma(cake_model_config *c, json_object *o, cake_error *err) {
    cake_status st;
    c->embed_scale = 1;
    c->query_scalar = c->head_dim;
    if (!is_gemma(c->family)) return CAKE_OK;
    /* bf16(sqrt(hidden)): what the models were trained with, in every precision */
    float root = __builtin_sqrtf((float)c->hidden);
    uint32_t bits;
    memcpy(&bits, &root, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&c->embed_scale, &bits, sizeof bits);
    c->norm_add_one = true;
    if ((st = cake_json_bool(o, CAKE_CONFIG_NORM_ADD_ONE, false, &c->norm_add_one, err)) != CAKE_OK)
        return st;
    c->norm_one_added = !c->norm_add_one;
    if (!has_post_norms(c->family)) return CAKE_OK;
    c->post_norms = true;
    c->query_scalar = 256;
    if (is_gemma2(c->family)) {
        /* null: none; absent: these */
        if (!json_object_object_get_ex(o, "attn_logit_softcapping", NULL)) c->attn_softcap = 50;
        if (!json_object_object_get_ex(o, "final_logit_softcapping", NULL)) c->logit_softcap = 30;
    }
    if ((st = cake_json_double(o, "query_pre_attn_scalar", false, 1e-3, 1e6, &c->query_scalar,
                               err)) != CAKE_OK ||
        (st = cake_json_double(o, "attn_logit_softcapping", false, 0, 1e6, &c->attn_softcap,
                               err)) != CAKE_OK)
        return st;
    return cake_json_double(o, "final_logit_softcapping", false, 0, 1e6, &c->logit_softcap, err);
}

/* Which layers have experts: those of the step, without the listed ones (7.3). */
static cake_status expert_layers(cake_model_config *c, json_object *o, cake_error *err) {
    uint32_t step = 1;
    json_object *dense = NULL;
    cake_status st;
    if ((st = cake_json_u32(o, "decoder_sparse_step", false, 1, CAKE_LAYERS_MAX, &step, err)) !=
            CAKE_OK ||
        (st = cake_json_array(o, "mlp_only_layers", false, CAKE_LAYERS_MAX, &dense, err)) !=
            CAKE_OK)
        return st;
    for (uint32_t i = 0; i < c->n_layers; i++)
        if ((i + 1) % step == 0) c->moe.layers[i / 64] |= UINT64_C(1) << i % 64;
    for (size_t i = 0; dense && i < json_object_array_length(dense); i++) {
        json_object *v = json_object_array_get_idx(dense, i);
        int64_t at = json_object_get_int64(v);
        if (!json_object_is_type(v, json_type_int) || at < 0 || at >= c->n_layers)
            return cake_fail(err, CAKE_EFORMAT,
                             "\"mlp_only_layers\" is not a list of layers below %u", c->n_layers);
        c->moe.layers[at / 64] &= ~(UINT64_C(1) << at % 64);
    }
    return CAKE_OK;
}

static cake_status experts(cake_model_config *c, json_object *o, cake_error *err) {
    cake_moe_config *m = &c->moe;
    if (!is_mixture(c->family)) return CAKE_OK;
    bool mixtral = c->family == CAKE_FAMILY_MIXTRAL;
    bool shared = c->family == CAKE_FAMILY_QWEN2_MOE;
    const char *key = cake_json_has(o, "num_local_experts") ? "num_local_experts" : "num_experts";
    const char *ff = mixtral ? "intermediate_size" : "moe_intermediate_size";
    uint32_t also;
    cake_status st = cake_json_u32(o, key, true, mixtral, CAKE_EXPERTS_MAX, &m->n_experts, err);
    if (st != CAKE_OK) return st;
    also = m->n_experts;
    if ((st = cake_json_u32(o, "num_experts", false, 0, CAKE_EXPERTS_MAX, &also, err)) != CAKE_OK)
        return st;
    if (also != m->n_experts)
        return cake_fail(err, CAKE_EFORMAT, "\"num_experts\" is %u and \"%s\" is %u", also, key,
                         m->n_experts);
    bool all = m->n_experts > 0;
    if (all && (st = expert_layers(c, o, err)) != CAKE_OK) return st;
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_layers; i++) n += cake_config_has_experts(c, i);
    all = n == c->n_layers;
    if (!all && !c->ff)
        return cake_fail(err, CAKE_EFORMAT,
                         "\"intermediate_size\" is missing, and %u layers have no experts",
                         c->n_layers - n);
    if (all) c->ff = 0;
    if (n == 0) {
        *m = (cake_moe_config){0};
        return CAKE_OK;
    }
    m->norm_top_k = mixtral;
    if ((st = cake_json_u32(o, "num_experts_per_tok", true, 1, CAKE_TOP_K_MAX, &m->top_k, err)) !=
            CAKE_OK ||
        (st = cake_json_u32(o, ff, true, 1, 1 << 22, &m->ff, err)) != CAKE_OK ||
        (st = cake_json_u32(o, "shared_expert_intermediate_size", shared, shared, 1 << 22,
                            &m->shared_ff, err)) != CAKE_OK)
        return st;
    /* transformers and mlx-lm disagree on the default for qwen3_moe, so it must be said there. */
    if (!mixtral &&
        (st = cake_json_bool(o, "norm_topk_prob", !shared, &m->norm_top_k, err)) != CAKE_OK)
        return st;
    if (!shared && m->shared_ff)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "\"shared_expert_intermediate_size\": %u is not supported for %s models",
                         m->shared_ff, c->model_type);
    if (m->top_k > m->n_experts)
        return cake_fail(err, CAKE_EFORMAT,
                         "\"num_experts_per_tok\" %u is more than the %u experts there are",
                         m->top_k, m->n_experts);
    return CAKE_OK;
}

static cake_status biases(cake_model_config *c, json_object *o, cake_error *err) {
    bool attention = false, mlp = false;
    cake_status st;
    if ((st = cake_json_bool(o, "attention_bias", false, &attention, err)) != CAKE_OK ||
        (st = cake_json_bool(o, "mlp_bias", false, &mlp, err)) != CAKE_OK)
        return st;
    if (c->family == CAKE_FAMILY_LLAMA) {
        c->q_bias = c->k_bias = c->v_bias = c->o_bias = attention;
        c->mlp_bias = mlp;
    } else if (mlp || (attention && c->family != CAKE_FAMILY_QWEN2)) {
        return cake_fail(err, CAKE_EUNSUPPORTED, "\"%s\": true is not supported for %s models",
                         mlp ? "mlp_bias" : "attention_bias", c->model_type);
    }
    bool qkv = c->family == CAKE_FAMILY_QWEN2 || c->family == CAKE_FAMILY_QWEN2_MOE;
    if (c->family == CAKE_FAMILY_QWEN2_MOE &&
        (st = cake_json_bool(o, "qkv_bias", false, &qkv, err)) != CAKE_OK)
        return st;
    if (qkv) c->q_bias = c->k_bias = c->v_bias = true;
    c->qk_norm = c->family == CAKE_FAMILY_QWEN3 || c->family == CAKE_FAMILY_QWEN3_MOE ||
                 c->family == CAKE_FAMILY_GEMMA3;
    return CAKE_OK;
}

/* Does layer i slide, where layer_types does not say? mistral and qwen2 ignore their window then
 * (7.2); pattern, use and from: the fields of the families that have them. */
static bool slides(const cake_model_config *c, uint32_t i, uint32_t pattern, bool use,
                   uint32_t from) {
    switch (c->family) {
    case CAKE_FAMILY_GEMMA2:
    case CAKE_FAMILY_GEMMA3: return (i + 1) % pattern != 0;
    case CAKE_FAMILY_MIXTRAL: return c->window > 0;
    case CAKE_FAMILY_QWEN3:
    case CAKE_FAMILY_QWEN2_MOE:
    case CAKE_FAMILY_QWEN3_MOE: return use && c->window > 0 && i >= from;
    default: return false;
    }
}

/* Which layers attend to a window of positions only. */
static cake_status windows(cake_model_config *c, json_object *o, cake_error *err) {
    cake_status st;
    uint32_t from = c->n_layers, pattern = is_gemma2(c->family) ? 2 : 6;
    bool use = false;
    json_object *types = NULL;
    if (is_gemma2(c->family)) c->window = 4096;
    if ((st = cake_json_u32(o, "sliding_window", false, 0, 1u << 31, &c->window, err)) != CAKE_OK ||
        (st = cake_json_u32(o, "max_window_layers", false, 0, 1 << 20, &from, err)) != CAKE_OK ||
        (st = cake_json_bool(o, "use_sliding_window", false, &use, err)) != CAKE_OK ||
        (st = cake_json_array(o, "layer_types", false, CAKE_LAYERS_MAX, &types, err)) != CAKE_OK)
        return st;
    if (c->family == CAKE_FAMILY_GEMMA3 &&
        ((st = cake_json_u32(o, "_sliding_window_pattern", false, 1, CAKE_LAYERS_MAX, &pattern,
                             err)) != CAKE_OK ||
         (st = cake_json_u32(o, "sliding_window_pattern", false, 1, CAKE_LAYERS_MAX, &pattern,
                             err)) != CAKE_OK))
        return st;
    if (types && json_object_array_length(types) != c->n_layers)
        return cake_fail(err, CAKE_EFORMAT, "\"layer_types\" has %zu entries for %u layers",
                         json_object_array_length(types), c->n_layers);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        bool sliding = !types && slides(c, i, pattern, use, from);
        if (types) {
            const char *t = json_object_get_string(json_object_array_get_idx(types, i));
            sliding = t && strcmp(t, "sliding_attention") == 0;
            if (!sliding && (!t || strcmp(t, "full_attention") != 0))
                return cake_fail(err, CAKE_EUNSUPPORTED,
                                 "\"layer_types\": layer %u is \"%.60s\", which is not supported; "
                                 "full_attention and sliding_attention are",
                                 i, t ? t : "null");
        }
        if (sliding && !c->window)
            return cake_fail(
                err, CAKE_EFORMAT,
                "layer %u attends to a window, and \"sliding_window\" does not say how "
                "long it is",
                i);
        if (sliding) c->sliding[i / 64] |= UINT64_C(1) << i % 64;
    }
    return CAKE_OK;
}

/* A field of the rope block that must be absent or have one value. */
static cake_status rope_only(json_object *o, const char *key, double want, const char *type,
                             cake_error *err) {
    double v = want;
    cake_status st = cake_json_double(o, key, false, -1e30, 1e30, &v, err);
    if (st != CAKE_OK) return st;
    if (fabs(v - want) > 1e-6 * fabs(want))
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "rope \"%s\": \"%s\" %g is not supported (only %g)", type, key, v, want);
    return CAKE_OK;
}

static cake_status rope_yarn(cake_rope_config *r, json_object *o, cake_error *err) {
    cake_status st;
    bool truncate = true;
    r->original_max_positions = 4096, r->beta_fast = 32, r->beta_slow = 1, r->mscale = 1;
    if ((st = cake_json_double(o, "original_max_position_embeddings", false, 1, 1e9,
                               &r->original_max_positions, err)) != CAKE_OK ||
        (st = cake_json_double(o, "beta_fast", false, 1e-6, 1e6, &r->beta_fast, err)) != CAKE_OK ||
        (st = cake_json_double(o, "beta_slow", false, 1e-6, 1e6, &r->beta_slow, err)) != CAKE_OK ||
        (st = cake_json_double(o, "mscale", false, 0, 1e3, &r->mscale, err)) != CAKE_OK ||
        (st = cake_json_double(o, "mscale_all_dim", false, 0, 1e3, &r->mscale_all_dim, err)) !=
            CAKE_OK ||
        (st = cake_json_bool(o, "truncate", false, &truncate, err)) != CAKE_OK)
        return st;
    if (!truncate)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "rope \"yarn\": \"truncate\": false is not supported");
    double m =
        (0.1 * r->mscale * log(r->factor) + 1) / (0.1 * r->mscale_all_dim * log(r->factor) + 1);
    if (r->factor <= 1) m = 1;
    if ((st = rope_only(o, "attention_factor", m, "yarn", err)) != CAKE_OK ||
        (st = rope_only(o, "attn_factor", 1, "yarn", err)) != CAKE_OK ||
        (st = rope_only(o, "extrapolation_factor", 1, "yarn", err)) != CAKE_OK)
        return st;
    return CAKE_OK;
}

/* Any field outside the known ones might change the angles. */
static cake_status rope_known_keys(json_object *o, const char *type, cake_error *err) {
    static const char *const known[] = {"type",
                                        "rope_type",
                                        "rope_theta",
                                        "factor",
                                        "original_max_position_embeddings",
                                        "low_freq_factor",
                                        "high_freq_factor",
                                        "beta_fast",
                                        "beta_slow",
                                        "mscale",
                                        "mscale_all_dim",
                                        "attention_factor",
                                        "attn_factor",
                                        "extrapolation_factor",
                                        "truncate",
                                        "finetuned",
                                        "partial_rotary_factor",
                                        "mrope_section",
                                        "mrope_interleaved"};
    json_object_object_foreach(o, key, v) {
        (void)v;
        bool ok = false;
        for (size_t i = 0; i < sizeof known / sizeof *known && !ok; i++)
            ok = strcmp(key, known[i]) == 0;
        if (!ok)
            return cake_fail(err, CAKE_EUNSUPPORTED, "rope \"%s\": unknown field \"%.100s\"", type,
                             key);
    }
    return CAKE_OK;
}

/* What a rope block says of one kind of layer; block may be NULL. r has theta or needs it said. */
static cake_status rope_block(cake_rope_config *r, json_object *block, cake_error *err) {
    cake_status st;
    r->factor = 1;
    if (block &&
        (st = cake_json_double(block, "rope_theta", false, 1, 1e15, &r->theta, err)) != CAKE_OK)
        return st;
    if (r->theta < 1) return cake_fail(err, CAKE_EFORMAT, "\"rope_theta\" is missing");
    const char *type = NULL, *rope_type = NULL;
    if (!block) return CAKE_OK;
    if ((st = cake_json_string(block, "type", false, 64, &type, err)) != CAKE_OK ||
        (st = cake_json_string(block, "rope_type", false, 64, &rope_type, err)) != CAKE_OK)
        return st;
    if (type && rope_type && strcmp(type, rope_type) != 0)
        return cake_fail(err, CAKE_EFORMAT,
                         "the rope block says \"type\" \"%s\" and \"rope_type\" \"%s\"", type,
                         rope_type);
    if (!type) type = rope_type ? rope_type : "default";
    if (strcmp(type, "default") == 0 || strcmp(type, "mrope") == 0)
        r->type = CAKE_SCALING_DEFAULT;
    else if (strcmp(type, "linear") == 0)
        r->type = CAKE_SCALING_LINEAR;
    else if (strcmp(type, "llama3") == 0)
        r->type = CAKE_SCALING_LLAMA3;
    else if (strcmp(type, "yarn") == 0)
        r->type = CAKE_SCALING_YARN;
    else
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "rope type \"%s\" is not supported; default, linear, llama3 and yarn are",
                         type);
    if ((st = rope_known_keys(block, type, err)) != CAKE_OK ||
        (st = rope_only(block, "partial_rotary_factor", 1, type, err)) != CAKE_OK)
        return st;
    if (r->type == CAKE_SCALING_DEFAULT) return CAKE_OK;
    if ((st = cake_json_double(block, "factor", true, 1e-3, 1e6, &r->factor, err)) != CAKE_OK)
        return cake_fail_in(err, st, "rope \"%s\"", type);
    if (r->type == CAKE_SCALING_LLAMA3) {
        r->low_freq_factor = 1, r->high_freq_factor = 4, r->original_max_positions = 8192;
        if ((st = cake_json_double(block, "low_freq_factor", false, 1e-6, 1e6, &r->low_freq_factor,
                                   err)) != CAKE_OK ||
            (st = cake_json_double(block, "high_freq_factor", false, 1e-6, 1e6,
                                   &r->high_freq_factor, err)) != CAKE_OK ||
            (st = cake_json_double(block, "original_max_position_embeddings", false, 1, 1e9,
                                   &r->original_max_positions, err)) != CAKE_OK)
            return cake_fail_in(err, st, "rope \"llama3\"");
        if (r->high_freq_factor <= r->low_freq_factor)
            return cake_fail(err, CAKE_EFORMAT,
                             "rope \"llama3\": \"high_freq_factor\" %g is not above "
                             "\"low_freq_factor\" %g",
                             r->high_freq_factor, r->low_freq_factor);
    }
    if (r->type == CAKE_SCALING_YARN && (st = rope_yarn(r, block, err)) != CAKE_OK)
        return cake_fail_in(err, st, "rope \"yarn\"");
    return CAKE_OK;
}

static cake_status rope(cake_model_config *c, json_object *o, cake_error *err) {
    json_object *block = NULL, *local = NULL, *full = NULL;
    cake_status st = cake_json_object(o, "rope_parameters", false, &block, err);
    if (st == CAKE_OK && !block) st = cake_json_object(o, "rope_scaling", false, &block, err);
    c->rope.theta = family_table[c->family].theta;
    if (st == CAKE_OK) st = cake_json_double(o, "rope_theta", false, 1, 1e15, &c->rope.theta, err);
    if (st != CAKE_OK) return st;
    if (c->family != CAKE_FAMILY_GEMMA3) return rope_block(&c->rope, block, err);
    /* Sliding layers have a base of their own and no scaling. Newer files have a block for each
     * kind of layer. */
    c->local_rope.theta = 10000;
    if ((st = cake_json_double(o, "rope_local_base_freq", false, 1, 1e15, &c->local_rope.theta,
                               err)) != CAKE_OK ||
        (block && (st = cake_json_object(block, "full_attention", false, &full, err)) != CAKE_OK) ||
        (block &&
         (st = cake_json_object(block, "sliding_attention", false, &local, err)) != CAKE_OK))
        return st;
    st = rope_block(&c->rope, full || local ? full : block, err);
    return st == CAKE_OK ? rope_block(&c->local_rope, local, err) : st;
}

static cake_status tokens(cake_model_config *c, json_object *o, cake_error *err) {
    json_object *v = NULL;
    c->bos_id = -1;
    if (json_object_object_get_ex(o, "bos_token_id", &v) && json_object_is_type(v, json_type_int)) {
        cake_status st = cake_json_int(o, "bos_token_id", false, 0, INT32_MAX, &c->bos_id, err);
        if (st != CAKE_OK) return st;
    }
    v = NULL;
    if (!json_object_object_get_ex(o, "eos_token_id", &v) || !v) return CAKE_OK;
    bool list = json_object_is_type(v, json_type_array);
    size_t n = list ? json_object_array_length(v) : 1;
    if (n > CAKE_EOS_MAX)
        return cake_fail(err, CAKE_EFORMAT, "\"eos_token_id\" has more than %d entries",
                         CAKE_EOS_MAX);
    for (size_t i = 0; i < n; i++) {
        json_object *e = list ? json_object_array_get_idx(v, i) : v;
        int64_t id = json_object_get_int64(e);
        if (!json_object_is_type(e, json_type_int) || id < 0 || id > INT32_MAX)
            return cake_fail(err, CAKE_EFORMAT,
                             "\"eos_token_id\" is not a token id or a list of them");
        c->eos_ids[c->n_eos++] = (uint32_t)id;
    }
    return CAKE_OK;
}

static cake_status informative(cake_model_config *c, json_object *o, cake_error *err) {
    const char *t = NULL;
    cake_status st = cake_json_string(o, "torch_dtype", false, 64, &t, err);
    if (st == CAKE_OK && !t) st = cake_json_string(o, "dtype", false, 64, &t, err);
    if (st != CAKE_OK) return st;
    if (t)
        c->dtype = strcmp(t, "float32") == 0    ? CAKE_DTYPE_F32
                   : strcmp(t, "float16") == 0  ? CAKE_DTYPE_F16
                   : strcmp(t, "bfloat16") == 0 ? CAKE_DTYPE_BF16
                                                : CAKE_DTYPE_NONE;
    bool tied = false;
    c->tie = -1;
    if (is_gemma(c->family) || !cake_json_has(o, "tie_word_embeddings")) return CAKE_OK;
    if ((st = cake_json_bool(o, "tie_word_embeddings", false, &tied, err)) == CAKE_OK)
        c->tie = tied;
    return st;
}

cake_status cake_config_parse(cake_model_config *c, const char *text, size_t len, const char *what,
                              cake_error *err) {
    *c = (cake_model_config){0};
    json_object *o = NULL;
    cake_status st = cake_json_parse(text, len, 64, what, &o, err);
    if (st != CAKE_OK) return st;
    if (!json_object_is_type(o, json_type_object))
        st = cake_fail(err, CAKE_EFORMAT, "not a JSON object");
    if (st == CAKE_OK) st = text_of(&o, err);
    if (st == CAKE_OK) st = family(c, o, err);
    if (st == CAKE_OK) st = check_neutral(c, o, err);
    if (st == CAKE_OK) st = sizes(c, o, err);
    if (st == CAKE_OK) st = activation(c, o, err);
    if (st == CAKE_OK) st = gemma(c, o, err);
    if (st == CAKE_OK) st = experts(c, o, err);
    if (st == CAKE_OK) st = biases(c, o, err);
    if (st == CAKE_OK) st = windows(c, o, err);
    if (st == CAKE_OK) st = rope(c, o, err);
    if (st == CAKE_OK) st = tokens(c, o, err);
    if (st == CAKE_OK) st = informative(c, o, err);
    if (st == CAKE_OK) st = cake_quant_parse(o, &c->quant, err);
    json_object_put(o);
    if (st != CAKE_OK) {
        cake_config_deinit(c);
        return cake_fail_in(err, st, "%s", what);
    }
    return CAKE_OK;
}

cake_status cake_config_read(cake_model_config *c, const char *path, cake_error *err) {
    char *text = NULL;
    size_t len;
    *c = (cake_model_config){0};
    cake_status st = cake_file_read(path, CAKE_CONFIG_FILE_MAX, &text, &len, err);
    if (st != CAKE_OK) return st;
    st = cake_config_parse(c, text, len, path, err);
    free(text);
    return st;
}

void cake_config_deinit(cake_model_config *c) {
    cake_quant_free(c->quant);
    *c = (cake_model_config){0};
}
