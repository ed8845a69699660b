/* GGUF as a checkpoint: see gguf_model.h. */
#include "common/model/gguf_model.h"
#include "common/mem.h"
#include "common/model/config.h"

#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 112, NAME_BYTES = PATH_BYTES + 16, LAYERS_MAX = 4096 };

static const struct arch {
    const char *name, *model_type, *class;
    bool permuted; /* q and k rows lie as adjacent-pair rope wants them */
    bool moe;
    bool norm_topk; /* what llama.cpp does for the architecture */
    bool gemma;
    uint32_t pattern,
        wide; /* Gemma 2, 3: every how manieth layer sees all; layers of the 27B model */
} arch_table[] = {
    /* llama with experts is Mixtral, the entry after it */
    {"llama", "llama", "LlamaForCausalLM", .permuted = true},
    {"llama", "mixtral", "MixtralForCausalLM", .permuted = true, .moe = true, .norm_topk = true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", .moe = false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", .moe = false},
    {"qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM", .moe = true},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", .moe = true, .norm_topk = true},
    {"gemma", "gemma", "GemmaForCausalLM", .gemma = true},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", .gemma = true, .pattern = 2, .wide = 46},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM", .gemma = true, .pattern = 6, .wide = 62},
};
enum { N_ARCHS = sizeof arch_table / sizeof *arch_table };

typedef struct {
    const cake_gguf *g; /* the first part */
    const struct arch *arch;
    const cake_gguf *parts;
    uint32_t n_parts, head_dim;
    json_object *config, *per_tensor;
    cake_error *err;
} builder;

/* ---- names ---- */

/* Stems without ".weight" or ".bias". rank: of the weight; a GGUF drops outer dimensions of 1. */
typedef struct {
    const char *gguf, *ours;
    uint32_t rank;
} name_pair;
static const name_pair top_table[] = {{"token_embd", "model.embed_tokens", 2},
                                      {"output_norm", "model.norm", 1},
                                      {"output", "lm_head", 2}};
static const name_pair gemma_table[] = {{"post_attention_norm", "post_attention_layernorm", 1},
                                        {"ffn_norm", "pre_feedforward_layernorm", 1},
                                        {"post_ffw_norm", "post_feedforward_layernorm", 1}};
static const name_pair layer_table[] = {{"attn_norm", "input_layernorm", 1},
                                        {"attn_q", "self_attn.q_proj", 2},
                                        {"attn_k", "self_attn.k_proj", 2},
                                        {"attn_v", "self_attn.v_proj", 2},
                                        {"attn_output", "self_attn.o_proj", 2},
                                        {"attn_q_norm", "self_attn.q_norm", 1},
                                        {"attn_k_norm", "self_attn.k_norm", 1},
                                        {"ffn_norm", "post_attention_layernorm", 1},
                                        {"ffn_gate", "mlp.gate_proj", 2},
                                        {"ffn_up", "mlp.up_proj", 2},
                                        {"ffn_down", "mlp.down_proj", 2},
                                        {"ffn_gate_inp", "mlp.gate", 2},
                                        {"ffn_gate_exps", "mlp.switch_mlp.gate_proj", 3},
                                        {"ffn_up_exps", "mlp.switch_mlp.up_proj", 3},
                                        {"ffn_down_exps", "mlp.switch_mlp.down_proj", 3},
                                        {"ffn_gate_shexp", "mlp.shared_expert.gate_proj", 2},
                                        {"ffn_up_shexp", "mlp.shared_expert.up_proj", 2},
                                        {"ffn_down_shexp", "mlp.shared_expert.down_proj", 2},
                                        {"ffn_gate_inp_shexp", "mlp.shared_expert_gate", 2}};

/* "blk.12." at *s, which moves past it; false for anything else, a leading zero too. */
static bool layer_of(const char **s, unsigned *layer) {
    if (strncmp(*s, "blk.", 4) != 0) return false;
    const char *p = *s + 4;
    unsigned n = 0, digits = 0;
    for (; *p >= '0' && *p <= '9' && digits < 5; p++, digits++) n = n * 10 + (unsigned)(*p - '0');
    if (!digits || *p != '.' || (digits > 1 && (*s)[4] == '0') || n >= LAYERS_MAX) return false;
    *s = p + 1;
    *layer = n;
    return true;
}

static const name_pair *find_pair(const name_pair *table, size_t count, const char *stem,
                                  size_t n) {
    for (size_t i = 0; i < count; i++)
        if (strlen(table[i].gguf) == n && memcmp(table[i].gguf, stem, n) == 0) return &table[i];
    return NULL;
}
#define FIND_PAIR(table, stem, n) find_pair(table, sizeof(table) / sizeof *(table), stem, n)

/* The module path of a tensor ("model.layers.0.mlp.up_proj"), its suffix and the rank it has. */
static bool map_name(const struct arch *arch, const char *name, char path[PATH_BYTES],
                     const char **suffix, uint32_t *rank) {
    const char *stem = name, *dot = strrchr(name, '.');
    unsigned layer;
    bool in_layer = layer_of(&stem, &layer);
    if (!dot || dot <= stem) return false;
    size_t n = (size_t)(dot - stem);
    bool bias = strcmp(dot, ".bias") == 0;
    if (!bias && strcmp(dot, ".weight") != 0) return false;
    *suffix = dot + 1;
    const name_pair *p = NULL;
    if (in_layer && arch->pattern) p = FIND_PAIR(gemma_table, stem, n);
    if (!p) p = in_layer ? FIND_PAIR(layer_table, stem, n) : FIND_PAIR(top_table, stem, n);
    if (!p) return false;
    if (in_layer)
        snprintf(path, PATH_BYTES, "model.layers.%u.%s", layer, p->ours);
    else
        snprintf(path, PATH_BYTES, "%s", p->ours);
    *rank = p->rank - bias;
    return *rank > 0;
}

bool cake_gguf_name_of(const char *path, char *out, size_t out_bytes) {
    static const char vlm[] = "language_model.", layers[] = "model.layers.",
                      mixtral[] = "block_sparse_moe.";
    char mlp[PATH_BYTES];
    if (strncmp(path, vlm, sizeof vlm - 1) == 0) path += sizeof vlm - 1;
    for (size_t i = 0; i < sizeof top_table / sizeof *top_table; i++)
        if (strcmp(path, top_table[i].ours) == 0)
            return (size_t)snprintf(out, out_bytes, "%s", top_table[i].gguf) < out_bytes;
    if (strncmp(path, layers, sizeof layers - 1) != 0) return false;
    const char *number = path + sizeof layers - 1;
    size_t digits = strspn(number, "0123456789");
    if (digits == 0 || digits > 9 || number[digits] != '.') return false;
    const char *ours = number + digits + 1;
    if (strncmp(ours, mixtral, sizeof mixtral - 1) == 0) { /* rename_experts */
        snprintf(mlp, sizeof mlp, "mlp.%s", ours + sizeof mixtral - 1);
        ours = mlp;
    }
    for (size_t i = 0; i < sizeof layer_table / sizeof *layer_table; i++)
        if (strcmp(ours, layer_table[i].ours) == 0)
            return (size_t)snprintf(out, out_bytes, "blk.%.*s.%s", (int)digits, number,
                                    layer_table[i].gguf) < out_bytes;
    return false;
}

/* Tensors that repeat what the metadata says (rope_freqs is read for the config). */
static bool is_derived(const char *name) {
    unsigned layer;
    return strcmp(name, "rope_freqs.weight") == 0 ||
           (layer_of(&name, &layer) && strcmp(name, "attn_rot_embd.weight") == 0);
}

static bool is_gemma2(const builder *b) {
    return strcmp(b->arch->name, "gemma2") == 0;
}

static bool is_mixtral(const builder *b) {
    return strcmp(b->arch->model_type, "mixtral") == 0;
}

/* Mixtral calls "mlp.gate" and "mlp.switch_mlp" so. */
static void rename_experts(char path[PATH_BYTES]) {
    char *at = strstr(path, ".mlp."), rest[PATH_BYTES];
    if (!at || (strcmp(at, ".mlp.gate") != 0 && strncmp(at, ".mlp.switch_mlp.", 16) != 0)) return;
    memcpy(rest, at + 5, strlen(at + 5) + 1);
    snprintf(at, (size_t)(PATH_BYTES - (at - path)), ".block_sparse_moe.%s", rest);
}

static cake_status add_tensor(builder *b, cake_gguf_model *m, const cake_gguf_tensor *t,
                              uint32_t part, char *name) {
    char path[PATH_BYTES];
    const char *suffix;
    uint32_t rank;
    if (!map_name(b->arch, t->name, path, &suffix, &rank))
        return cake_fail(b->err, CAKE_EUNSUPPORTED,
                         "%s: tensor '%s' is not part of a %s model that this build knows",
                         b->g->what, t->name, b->arch->name);
    if (is_mixtral(b)) rename_experts(path);
    snprintf(name, NAME_BYTES, "%s.%s", path, suffix);
    cake_tensor *o = &m->tensors[m->n_tensors++];
    *o = (cake_tensor){.name = name,
                       .n_bytes = t->n_bytes,
                       .rank = rank > t->rank ? rank : t->rank,
                       .dtype = t->kind->dtype,
                       .file = part,
                       .file_offset = t->offset};
    while (o->rank > rank && t->dims[o->rank - 1] == 1) o->rank--;
    for (uint32_t d = 0; d < o->rank; d++) o->shape[d] = t->dims[o->rank - 1 - d];
    if (t->kind->dtype == CAKE_DTYPE_NONE) {
        uint64_t *row = &o->shape[o->rank - 1];
        o->dtype = CAKE_DTYPE_U8;
        *row = *row / t->kind->weights * t->kind->bytes;
        json_object_object_add(b->per_tensor, path,
                               json_object_new_string(cake_block_get(t->kind->codec)->name));
    }
    bool q_or_k = strstr(path, ".self_attn.q_proj") || strstr(path, ".self_attn.k_proj");
    if (b->arch->permuted && q_or_k && b->head_dim % 2 == 0 && o->shape[0] % b->head_dim == 0)
        o->head_rows = b->head_dim;
    return CAKE_OK;
}

/* A tensor by GGUF's name, in any part; *part may be NULL. */
static const cake_gguf_tensor *find_tensor(const builder *b, const char *name,
                                           const cake_gguf **part) {
    const cake_gguf_tensor *t = NULL;
    for (uint32_t p = 0; p < b->n_parts && !t; p++)
        if ((t = cake_gguf_tensor_named(&b->parts[p], name)) && part) *part = &b->parts[p];
    return t;
}

static bool has_tensor(const builder *b, const char *name) {
    return find_tensor(b, name, NULL) != NULL;
}

/* ---- metadata ---- */

static void key_of(const builder *b, const char *name, char key[NAME_BYTES]) {
    snprintf(key, NAME_BYTES, "%s.%s", b->arch->name, name);
}

/* An integer, or an array with one value per layer that are all the same. */
static cake_status get_uint(builder *b, const char *name, bool required, uint64_t max,
                            uint64_t *out) {
    char key[NAME_BYTES];
    key_of(b, name, key);
    const cake_gguf_value *v = cake_gguf_get(b->g, key);
    if (!v || !v->is_array) return cake_gguf_uint(b->g, key, required, 0, max, out, b->err);
    bool integers = v->type == CAKE_GGUF_I32 || v->type == CAKE_GGUF_U32;
    for (uint64_t i = 0; integers && i < v->n; i++)
        integers = cake_gguf_int_at(v, i) == cake_gguf_int_at(v, 0);
    int64_t x = integers && v->n ? cake_gguf_int_at(v, 0) : -1;
    if (x < 0 || (uint64_t)x > max)
        return cake_fail(b->err, CAKE_EUNSUPPORTED,
                         "%s: key '%s' differs from layer to layer, which is not supported",
                         b->g->what, key);
    *out = (uint64_t)x;
    return CAKE_OK;
}

static cake_status get_double(builder *b, const char *name, bool required, double *out) {
    char key[NAME_BYTES];
    key_of(b, name, key);
    return cake_gguf_double(b->g, key, required, out, b->err);
}

/* The shortest decimal that is this number again as f32: 1e-05 for what was 1e-5 before it was
 * stored as f32. */
static json_object *number(double v) {
    char text[40];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v) break;
    }
    return json_object_new_double_s(strtod(text, NULL), text);
}

static void put(builder *b, const char *key, json_object *v) {
    json_object_object_add(b->config, key, v);
}
static void put_uint(builder *b, const char *key, uint64_t v) {
    put(b, key, json_object_new_int64((int64_t)v));
}

/* Keys of other families: present with another value they change the maths. */
static cake_status check_neutral(builder *b) {
    static const struct {
        const char *name;
        double neutral;
    } keys[] = {{"attention.clamp_kqv", 0},     {"attention.max_alibi_bias", 0},
                {"attention.scale", 0},         {"attn_logit_softcapping", 0},
                {"final_logit_softcapping", 0}, {"embedding_scale", 1},
                {"residual_scale", 1},          {"logit_scale", 1},
                {"expert_weights_scale", 1}};
    static const char *const flags[] = {"use_parallel_residual", "attention.causal"};
    char key[NAME_BYTES];
    cake_status st;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        double v = keys[i].neutral;
        if (b->arch->pattern && strcmp(keys[i].name, "final_logit_softcapping") == 0) continue;
        if (is_gemma2(b) && strcmp(keys[i].name, "attn_logit_softcapping") == 0) continue;
        if ((st = get_double(b, keys[i].name, false, &v)) != CAKE_OK) return st;
        if (fabs(v - keys[i].neutral) > 0)
            return cake_fail(b->err, CAKE_EUNSUPPORTED, "%s: '%s.%s' %g is not supported",
                             b->g->what, b->arch->name, keys[i].name, v);
    }
    for (size_t i = 0; i < 2; i++) {
        bool neutral = i == 1, v = neutral;
        key_of(b, flags[i], key);
        if ((st = cake_gguf_bool(b->g, key, &v, b->err)) != CAKE_OK) return st;
        if (v != neutral)
            return cake_fail(b->err, CAKE_EUNSUPPORTED, "%s: '%s' is not supported", b->g->what,
                             key);
    }
    return CAKE_OK;
}

static cake_status choose_arch(builder *b) {
    cake_gguf_text s;
    cake_status st = cake_gguf_string(b->g, "general.type", false, 100, &s, b->err);
    if (st != CAKE_OK) return st;
    if (s.s && (s.n != 5 || memcmp(s.s, "model", 5) != 0))
        return cake_fail(b->err, CAKE_EUNSUPPORTED, "%s: a GGUF file of type '%.*s', not a model",
                         b->g->what, (int)s.n, s.s);
    if ((st = cake_gguf_string(b->g, "general.architecture", true, 100, &s, b->err)) != CAKE_OK)
        return st;
    for (size_t i = 0; i < N_ARCHS && !b->arch; i++)
        if (strlen(arch_table[i].name) == s.n && memcmp(arch_table[i].name, s.s, s.n) == 0)
            b->arch = &arch_table[i];
    if (!b->arch)
        return cake_fail(b->err, CAKE_EUNSUPPORTED,
                         "%s: architecture '%.*s' is not supported; llama, qwen2, qwen3, "
                         "qwen2moe, qwen3moe, gemma, gemma2 and gemma3 are",
                         b->g->what, (int)s.n, s.s);
    uint64_t n_experts = 0;
    if ((st = get_uint(b, "expert_count", false, 1 << 20, &n_experts)) != CAKE_OK) return st;
    if (n_experts && !b->arch->moe) {
        if (strcmp(b->arch->name, "llama") != 0)
            return cake_fail(b->err, CAKE_EUNSUPPORTED,
                             "%s: a %s model with %llu experts is not supported", b->g->what,
                             b->arch->name, (unsigned long long)n_experts);
        b->arch++; /* Mixtral */
    }
    return check_neutral(b);
}

static cake_status sizes(builder *b) {
    uint64_t hidden = 0, layers = 0, heads = 0, kv = 0, ff = 0, context = 0, head = 0, value = 0,
             rope = 0;
    double eps = 0;
    cake_status st;
    if ((st = get_uint(b, "embedding_length", true, 1 << 20, &hidden)) != CAKE_OK ||
        (st = get_uint(b, "block_count", true, LAYERS_MAX, &layers)) != CAKE_OK ||
        (st = get_uint(b, "attention.head_count", true, 4096, &heads)) != CAKE_OK)
        return st;
    kv = heads;
    if ((st = get_uint(b, "attention.head_count_kv", false, 4096, &kv)) != CAKE_OK ||
        (st = get_uint(b, "feed_forward_length", !b->arch->moe, 1 << 22, &ff)) != CAKE_OK ||
        (st = get_uint(b, "context_length", true, 1 << 30, &context)) != CAKE_OK ||
        (st = get_uint(b, "attention.key_length", false, 1 << 16, &head)) != CAKE_OK ||
        (st = get_double(b, "attention.layer_norm_rms_epsilon", true, &eps)) != CAKE_OK)
        return st;
    if (!head) head = heads ? hidden / heads : 0;
    value = rope = head;
    if ((st = get_uint(b, "attention.value_length", false, 1 << 16, &value)) != CAKE_OK ||
        (st = get_uint(b, "rope.dimension_count", false, 1 << 16, &rope)) != CAKE_OK)
        return st;
    if (value != head || rope != head)
        return cake_fail(b->err, CAKE_EUNSUPPORTED,
                         "%s: heads of %llu with values of %llu and %llu rotated dimensions are "
                         "not supported; all three must be the same",
                         b->g->what, (unsigned long long)head, (unsigned long long)value,
                         (unsigned long long)rope);
    b->head_dim = (uint32_t)head;
    if (!b->head_dim)
        return cake_fail(b->err, CAKE_EFORMAT, "%s: %llu heads for an embedding length of %llu",
                         b->g->what, (unsigned long long)heads, (unsigned long long)hidden);
    put_uint(b, "hidden_size", hidden);
    put_uint(b, "num_hidden_layers", layers);
    put_uint(b, "num_attention_heads", heads);
    put_uint(b, "num_key_value_heads", kv);
    put_uint(b, "head_dim", head);
    put_uint(b, "max_position_embeddings", context);
    put(b, "rms_norm_eps", number(eps));
    put(b, "hidden_act", json_object_new_string(b->arch->gemma ? "gelu_pytorch_tanh" : "silu"));
    uint64_t vocab = 0;
    const cake_gguf_tensor *embed = find_tensor(b, "token_embd.weight", NULL);
    if (embed) vocab = embed->dims[1];
    if (!embed || vocab > 1u << 24)
        return cake_fail(b->err, CAKE_EFORMAT,
                         embed ? "%s: tensor 'token_embd.weight' has too many rows"
                               : "%s: tensor 'token_embd.weight' is missing",
                         b->g->what);
    put_uint(b, "vocab_size", vocab);
    if (!b->arch->moe) put_uint(b, "intermediate_size", ff);
    return CAKE_OK;
}

/* What only Gemma has: formats.md 7.5, and the values that llama.cpp takes where a file says
 * nothing. */
static cake_status gemma(builder *b) {
    uint64_t window = is_gemma2(b) ? 4096 : 0, pattern = b->arch->pattern, layers = 0, hidden = 0,
             heads = 0;
    double attn = is_gemma2(b) ? 50 : 0, final = is_gemma2(b) ? 30 : 0, local = 10000;
    cake_status st;
    if (b->arch->gemma) put(b, CAKE_CONFIG_NORM_ADD_ONE, json_object_new_boolean(false));
    if (!b->arch->pattern) return CAKE_OK;
    if ((st = get_uint(b, "attention.sliding_window", false, 1u << 30, &window)) != CAKE_OK ||
        (st = get_uint(b, "attention.sliding_window_pattern", false, LAYERS_MAX, &pattern)) !=
            CAKE_OK ||
        (st = get_uint(b, "block_count", true, LAYERS_MAX, &layers)) != CAKE_OK ||
        (st = get_uint(b, "embedding_length", true, 1 << 20, &hidden)) != CAKE_OK ||
        (st = get_uint(b, "attention.head_count", true, 4096, &heads)) != CAKE_OK ||
        (st = get_double(b, "attn_logit_softcapping", false, &attn)) != CAKE_OK ||
        (st = get_double(b, "final_logit_softcapping", false, &final)) != CAKE_OK ||
        (st = get_double(b, "rope.freq_base_swa", false, &local)) != CAKE_OK)
        return st;
    json_object *types = json_object_new_array();
    for (uint64_t i = 0; i < layers; i++) {
        bool slides = window > 0 && pattern > 0 && (i + 1) % pattern != 0;
        json_object_array_add(
            types, json_object_new_string(slides ? "sliding_attention" : "full_attention"));
    }
    put(b, "layer_types", types);
    put_uint(b, "sliding_window", window);
    put(b, "attn_logit_softcapping", number(attn));
    put(b, "final_logit_softcapping", number(final));
    if (!is_gemma2(b)) put(b, "rope_local_base_freq", number(local));
    /* No key says by what scores are divided. */
    bool wide = layers == b->arch->wide && heads;
    put_uint(b, "query_pre_attn_scalar", wide ? hidden / heads : b->head_dim);
    return CAKE_OK;
}

/* Layers that have a feed-forward of their own in place of experts. */
static json_object *dense_layers(const builder *b, uint64_t n_layers) {
    json_object *list = json_object_new_array();
    char name[NAME_BYTES];
    for (uint64_t i = 0; i < n_layers; i++) {
        snprintf(name, sizeof name, "blk.%llu.ffn_gate.weight", (unsigned long long)i);
        if (has_tensor(b, name)) json_object_array_add(list, json_object_new_int64((int64_t)i));
    }
    return list;
}

static cake_status experts(builder *b) {
    uint64_t n = 0, used = 0, dense = 0, ff = 0, shared = 0, layers = 0;
    bool norm = b->arch->norm_topk;
    char key[NAME_BYTES];
    cake_status st;
    if (!b->arch->moe) return CAKE_OK;
    key_of(b, "expert_weights_norm", key);
    if ((st = get_uint(b, "block_count", true, LAYERS_MAX, &layers)) != CAKE_OK ||
        (st = get_uint(b, "expert_count", true, 1 << 20, &n)) != CAKE_OK ||
        (st = get_uint(b, "expert_used_count", true, 1 << 20, &used)) != CAKE_OK ||
        (st = get_uint(b, "feed_forward_length", is_mixtral(b), 1 << 22, &dense)) != CAKE_OK)
        return st;
    ff = dense;
    if ((st = get_uint(b, "expert_feed_forward_length", !is_mixtral(b), 1 << 22, &ff)) != CAKE_OK ||
        (st = get_uint(b, "expert_shared_feed_forward_length", false, 1 << 22, &shared)) !=
            CAKE_OK ||
        (st = cake_gguf_bool(b->g, key, &norm, b->err)) != CAKE_OK)
        return st;
    put_uint(b, "num_experts_per_tok", used);
    if (is_mixtral(b)) {
        if (!norm)
            return cake_fail(b->err, CAKE_EUNSUPPORTED, "%s: '%s' false is not supported",
                             b->g->what, key);
        put_uint(b, "num_local_experts", n);
        put_uint(b, "intermediate_size", ff);
        return CAKE_OK;
    }
    put_uint(b, "intermediate_size", dense ? dense : ff);
    put_uint(b, "num_experts", n);
    put_uint(b, "moe_intermediate_size", ff);
    if (strcmp(b->arch->name, "qwen2moe") == 0)
        put_uint(b, "shared_expert_intermediate_size", shared ? shared : dense);
    put_uint(b, "decoder_sparse_step", 1);
    put(b, "mlp_only_layers", dense_layers(b, layers));
    put(b, "norm_topk_prob", json_object_new_boolean(norm));
    return CAKE_OK;
}

/* ---- rope ---- */

/* rope_freqs holds what Llama 3's scaling divides each frequency by. Only the factors are stored,
 * so the parameters behind them are found by trying those in use. *factor stays 0 when all factors
 * are 1. */
static cake_status llama3_scaling(builder *b, double theta, double *factor, double *original) {
    const cake_gguf *part = NULL;
    const cake_gguf_tensor *t = find_tensor(b, "rope_freqs.weight", &part);
    uint32_t n = b->head_dim / 2;
    uint64_t own = 0;
    if (!t) return CAKE_OK;
    if (t->kind->dtype != CAKE_DTYPE_F32 || t->n_bytes != (uint64_t)n * 4)
        return cake_fail(b->err, CAKE_EFORMAT, "%s: tensor 'rope_freqs.weight' is not %u x F32",
                         b->g->what, n);
    cake_status st = get_uint(b, "rope.scaling.original_context_length", false, 1 << 30, &own);
    if (st != CAKE_OK) return st;
    const double tried[] = {8192, (double)own};
    double largest = 1;
    bool plain = true;
    for (uint32_t i = 0; i < n; i++) {
        float f;
        memcpy(&f, part->bytes + t->offset + 4 * (size_t)i, 4);
        if (!(f >= 1) || !(f < 1e6f))
            return cake_fail(b->err, CAKE_EFORMAT, "%s: 'rope_freqs.weight' holds %g", b->g->what,
                             (double)f);
        if (f > 1) plain = false;
        if ((double)f > largest) largest = (double)f;
    }
    if (plain) return CAKE_OK;
    for (size_t k = 0; k < 2 && tried[k] > 0; k++) {
        bool same = true;
        for (uint32_t i = 0; i < n && same; i++) {
            float f;
            memcpy(&f, part->bytes + t->offset + 4 * (size_t)i, 4);
            double wave = 2 * 3.14159265358979323846 * pow(theta, 2.0 * i / b->head_dim), want = 1;
            if (wave > tried[k])
                want = largest;
            else if (wave > tried[k] / 4) {
                double smooth = (tried[k] / wave - 1) / (4 - 1);
                want = 1 / ((1 - smooth) / largest + smooth);
            }
            same = fabs((double)f - want) < 1e-4 * want;
        }
        if (same) return *factor = largest, *original = tried[k], CAKE_OK;
    }
    return cake_fail(b->err, CAKE_EUNSUPPORTED,
                     "%s: the frequencies in 'rope_freqs.weight' are not those of Llama 3's "
                     "scaling and are not supported",
                     b->g->what);
}

static cake_status rope(builder *b) {
    double theta = strcmp(b->arch->name, "gemma3") == 0 ? 1e6 : 10000, factor = 1, llama3 = 0,
           original = 0, attn = 1, fast = 32, slow = 1;
    uint64_t own = 0;
    cake_gguf_text type;
    char key[NAME_BYTES];
    cake_status st;
    key_of(b, "rope.scaling.type", key);
    if ((st = get_double(b, "rope.freq_base", false, &theta)) != CAKE_OK ||
        (st = cake_gguf_string(b->g, key, false, 100, &type, b->err)) != CAKE_OK ||
        (st = get_double(b, "rope.scale_linear", false, &factor)) != CAKE_OK ||
        (st = get_double(b, "rope.scaling.factor", false, &factor)) != CAKE_OK ||
        (st = get_double(b, "rope.scaling.attn_factor", false, &attn)) != CAKE_OK ||
        (st = get_double(b, "rope.scaling.yarn_beta_fast", false, &fast)) != CAKE_OK ||
        (st = get_double(b, "rope.scaling.yarn_beta_slow", false, &slow)) != CAKE_OK ||
        (st = get_uint(b, "rope.scaling.original_context_length", false, 1 << 30, &own)) !=
            CAKE_OK ||
        (st = llama3_scaling(b, theta, &llama3, &original)) != CAKE_OK)
        return st;
    put(b, "rope_theta", number(theta));
    bool none = !type.s || (type.n == 4 && memcmp(type.s, "none", 4) == 0),
         linear = type.s && type.n == 6 && memcmp(type.s, "linear", 6) == 0,
         yarn = type.s && type.n == 4 && memcmp(type.s, "yarn", 4) == 0;
    if (!type.s && fabs(factor - 1) > 0) none = false, linear = true;
    if ((!none && !linear && !yarn) || (llama3 > 0 && !none) || fabs(attn - 1) > 0)
        return cake_fail(b->err, CAKE_EUNSUPPORTED,
                         "%s: rope scaling '%.*s'%s is not supported; linear, yarn and Llama 3's "
                         "are",
                         b->g->what, (int)type.n, type.s ? type.s : "",
                         llama3 > 0           ? " together with rope_freqs"
                         : fabs(attn - 1) > 0 ? " with an attention factor"
                                              : "");
    if (none && !(llama3 > 0)) return CAKE_OK;
    json_object *o = json_object_new_object();
    json_object_object_add(o, "rope_type",
                           json_object_new_string(linear ? "linear"
                                                  : yarn ? "yarn"
                                                         : "llama3"));
    json_object_object_add(o, "factor", number(llama3 > 0 ? llama3 : factor));
    if (llama3 > 0) {
        json_object_object_add(o, "low_freq_factor", number(1));
        json_object_object_add(o, "high_freq_factor", number(4));
        json_object_object_add(o, "original_max_position_embeddings", number(original));
    }
    if (yarn) {
        if (own)
            json_object_object_add(o, "original_max_position_embeddings",
                                   json_object_new_int64((int64_t)own));
        json_object_object_add(o, "beta_fast", number(fast));
        json_object_object_add(o, "beta_slow", number(slow));
    }
    put(b, "rope_scaling", o);
    return CAKE_OK;
}

/* ---- what ends a text ---- */

static bool is_turn_end(cake_gguf_text t) {
    static const char *const names[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == t.n && memcmp(names[i], t.s, t.n) == 0) return true;
    return false;
}

/* The ids that the file names, and the control tokens that end a turn in every model that has
 * them: older files name only one of the two. */
static cake_status end_ids(builder *b) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    enum { CONTROL = 3, MAX = 8 };
    int64_t ids[MAX];
    size_t n = 0;
    cake_status st;
    uint64_t bos = UINT64_MAX;
    if ((st = cake_gguf_uint(b->g, "tokenizer.ggml.bos_token_id", false, 0, UINT32_MAX, &bos,
                             b->err)) != CAKE_OK)
        return st;
    /* Writers that know no such token say -1. */
    if (bos < 1u << 24) put_uint(b, "bos_token_id", bos);
    for (size_t i = 0; i < 3; i++) {
        uint64_t id = UINT64_MAX;
        if ((st = cake_gguf_uint(b->g, keys[i], false, 0, UINT32_MAX, &id, b->err)) != CAKE_OK)
            return st;
        if (id < 1u << 24) ids[n++] = (int64_t)id;
    }
    const cake_gguf_value *tokens, *types;
    if ((st = cake_gguf_array(b->g, "tokenizer.ggml.tokens", false, CAKE_GGUF_STRING, &tokens,
                              b->err)) != CAKE_OK ||
        (st = cake_gguf_array(b->g, "tokenizer.ggml.token_type", false, CAKE_GGUF_I32, &types,
                              b->err)) != CAKE_OK)
        return st;
    const uint8_t *at = tokens ? tokens->at : NULL;
    for (uint64_t i = 0; tokens && types && i < tokens->n && i < types->n; i++) {
        cake_gguf_text t = cake_gguf_next_string(&at);
        if (n < MAX && cake_gguf_int_at(types, i) == CONTROL && is_turn_end(t))
            ids[n++] = (int64_t)i;
    }
    json_object *list = json_object_new_array();
    for (size_t i = 0; i < n; i++) {
        bool again = false;
        for (size_t j = 0; j < i; j++) again |= ids[j] == ids[i];
        if (!again) json_object_array_add(list, json_object_new_int64(ids[i]));
    }
    put(b, "eos_token_id", list);
    return CAKE_OK;
}

/* ---- all of it ---- */

cake_status cake_gguf_model_new(cake_gguf_model *m, const cake_gguf *parts, uint32_t n_parts,
                                cake_error *err) {
    builder b = {.g = parts,
                 .parts = parts,
                 .n_parts = n_parts,
                 .err = err,
                 .config = json_object_new_object(),
                 .per_tensor = json_object_new_object()};
    *m = (cake_gguf_model){0};
    cake_status st = choose_arch(&b);
    if (st != CAKE_OK) goto out;
    json_object *classes = json_object_new_array();
    json_object_array_add(classes, json_object_new_string(b.arch->class));
    put(&b, "architectures", classes);
    put(&b, "model_type", json_object_new_string(b.arch->model_type));
    if ((st = sizes(&b)) != CAKE_OK || (st = gemma(&b)) != CAKE_OK ||
        (st = experts(&b)) != CAKE_OK || (st = rope(&b)) != CAKE_OK ||
        (st = end_ids(&b)) != CAKE_OK)
        goto out;
    put(&b, "tie_word_embeddings", json_object_new_boolean(!has_tensor(&b, "output.weight")));
    if (strcmp(b.arch->name, "llama") == 0) {
        put(&b, "attention_bias", json_object_new_boolean(has_tensor(&b, "blk.0.attn_q.bias")));
        put(&b, "mlp_bias", json_object_new_boolean(has_tensor(&b, "blk.0.ffn_up.bias")));
    }
    size_t n = 0;
    for (uint32_t p = 0; p < n_parts; p++) n += parts[p].n_tensors;
    if (n > CAKE_GGUF_TENSORS_MAX) {
        st = cake_fail(err, CAKE_EFORMAT, "%s: more than %d tensors", parts->what,
                       CAKE_GGUF_TENSORS_MAX);
        goto out;
    }
    m->tensors = cake_trymalloc(n * sizeof *m->tensors);
    m->strings = cake_trymalloc(n * NAME_BYTES);
    if (!m->tensors || !m->strings) {
        st =
            cake_fail(err, CAKE_ENOMEM, "%s: no memory for a table of %zu tensors", parts->what, n);
        goto out;
    }
    for (uint32_t p = 0; p < n_parts; p++)
        for (size_t i = 0; i < parts[p].n_tensors && st == CAKE_OK; i++)
            if (!is_derived(parts[p].tensors[i].name))
                st = add_tensor(&b, m, &parts[p].tensors[i], p,
                                m->strings + (size_t)m->n_tensors * NAME_BYTES);
    if (st != CAKE_OK) goto out;
    if (json_object_object_length(b.per_tensor) > 0) {
        json_object *block = json_object_new_object();
        json_object_object_add(block, "mode", json_object_new_string("kquant"));
        json_object_object_add(block, "per_tensor", json_object_get(b.per_tensor));
        put(&b, "quantization", block);
    }
    m->config = cake_strdup(json_object_to_json_string_ext(
        b.config, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    m->config_len = strlen(m->config);
out:
    json_object_put(b.config);
    json_object_put(b.per_tensor);
    if (st != CAKE_OK) cake_gguf_model_deinit(m);
    return st;
}

void cake_gguf_model_deinit(cake_gguf_model *m) {
    free(m->tensors);
    free(m->strings);
    free(m->config);
    *m = (cake_gguf_model){0};
}
