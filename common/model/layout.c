/* Layout: see layout.h. Names and shapes: formats.md 7.1, 7.3; quantized modules: 2.1, 2.7. */
#include "common/model/layout.h"
#include "common/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *cake_role_name(cake_role r) {
    static const char *const name[CAKE_ROLE_COUNT] = {"embed",
                                                      "attn_norm",
                                                      "q",
                                                      "k",
                                                      "v",
                                                      "q_norm",
                                                      "k_norm",
                                                      "o",
                                                      "attn_post_norm",
                                                      "ffn_norm",
                                                      "gate",
                                                      "up",
                                                      "down",
                                                      "ffn_post_norm",
                                                      "router",
                                                      "shared_mix",
                                                      "shared_gate",
                                                      "shared_up",
                                                      "shared_down",
                                                      "expert_gate",
                                                      "expert_up",
                                                      "expert_down",
                                                      "final_norm",
                                                      "head"};
    return (unsigned)r < CAKE_ROLE_COUNT ? name[r] : "?";
}

/* What a family wants: one entry per module of a unit, or per role of its experts. */
typedef struct {
    const char *path; /* below "model.layers.I." for layers, else whole */
    cake_role role;
    uint32_t n, k;
    bool bias, norm;
} want;
enum { WANTS_MAX = 24, PATH_MAX_BYTES = 128 };

/* The matrices of all experts: MLX stacks them, "STACK"; the originals keep one tensor per expert,
 * "EACH.E.LEAF". The order is that of the roles. */
typedef struct {
    const char *router, *stack[3], *each, *leaf[3];
} expert_names;
static const expert_names qwen_experts = {
    "mlp.gate",
    {"mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"},
    "mlp.experts",
    {"gate_proj", "up_proj", "down_proj"}};
static const expert_names mixtral_experts = {"block_sparse_moe.gate",
                                             {"block_sparse_moe.switch_mlp.gate_proj",
                                              "block_sparse_moe.switch_mlp.up_proj",
                                              "block_sparse_moe.switch_mlp.down_proj"},
                                             "block_sparse_moe.experts",
                                             {"w1", "w3", "w2"}};

static const expert_names *names_of(const cake_model_config *c) {
    return c->family == CAKE_FAMILY_MIXTRAL ? &mixtral_experts : &qwen_experts;
}
static bool is_expert(cake_role r) {
    return r >= CAKE_ROLE_EXPERT_GATE && r <= CAKE_ROLE_EXPERT_DOWN;
}

/* The feed-forward of a layer with experts. */
static size_t expert_wants(const cake_model_config *c, want *w) {
    const cake_moe_config *m = &c->moe;
    const expert_names *x = names_of(c);
    uint32_t h = c->hidden, s = m->shared_ff;
    size_t n = 0;
    w[n++] = (want){x->router, CAKE_ROLE_ROUTER, m->n_experts, h, false, false};
    if (s) {
        w[n++] = (want){"mlp.shared_expert_gate", CAKE_ROLE_SHARED_MIX, 1, h, false, false};
        w[n++] = (want){"mlp.shared_expert.gate_proj", CAKE_ROLE_SHARED_GATE, s, h, false, false};
        w[n++] = (want){"mlp.shared_expert.up_proj", CAKE_ROLE_SHARED_UP, s, h, false, false};
        w[n++] = (want){"mlp.shared_expert.down_proj", CAKE_ROLE_SHARED_DOWN, h, s, false, false};
    }
    w[n++] = (want){x->stack[0], CAKE_ROLE_EXPERT_GATE, m->ff, h, false, false};
    w[n++] = (want){x->stack[1], CAKE_ROLE_EXPERT_UP, m->ff, h, false, false};
    w[n++] = (want){x->stack[2], CAKE_ROLE_EXPERT_DOWN, h, m->ff, false, false};
    return n;
}

static size_t wants_of(const cake_model_config *c, uint32_t unit, bool tied, want *w) {
    size_t n = 0;
    uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim, h = c->hidden;
    if (unit == 0) {
        w[n++] = (want){"model.embed_tokens", CAKE_ROLE_EMBED, c->vocab, h, false, false};
        return n;
    }
    if (unit == c->n_layers + 1) {
        w[n++] = (want){"model.norm", CAKE_ROLE_FINAL_NORM, 1, h, false, true};
        w[n++] = (want){
            tied ? "model.embed_tokens" : "lm_head", CAKE_ROLE_HEAD, c->vocab, h, false, false};
        return n;
    }
    w[n++] = (want){"input_layernorm", CAKE_ROLE_ATTN_NORM, 1, h, false, true};
    w[n++] = (want){"self_attn.q_proj", CAKE_ROLE_Q, q, h, c->q_bias, false};
    w[n++] = (want){"self_attn.k_proj", CAKE_ROLE_K, kv, h, c->k_bias, false};
    w[n++] = (want){"self_attn.v_proj", CAKE_ROLE_V, kv, h, c->v_bias, false};
    if (c->qk_norm) {
        w[n++] = (want){"self_attn.q_norm", CAKE_ROLE_Q_NORM, 1, c->head_dim, false, true};
        w[n++] = (want){"self_attn.k_norm", CAKE_ROLE_K_NORM, 1, c->head_dim, false, true};
    }
    w[n++] = (want){"self_attn.o_proj", CAKE_ROLE_O, h, q, c->o_bias, false};
    const char *ffn_norm = "post_attention_layernorm";
    if (c->post_norms) {
        w[n++] = (want){ffn_norm, CAKE_ROLE_ATTN_POST_NORM, 1, h, false, true};
        ffn_norm = "pre_feedforward_layernorm";
    }
    w[n++] = (want){ffn_norm, CAKE_ROLE_FFN_NORM, 1, h, false, true};
    if (cake_config_has_experts(c, unit - 1)) return n + expert_wants(c, w + n);
    w[n++] = (want){"mlp.gate_proj", CAKE_ROLE_GATE, c->ff, h, c->mlp_bias, false};
    w[n++] = (want){"mlp.up_proj", CAKE_ROLE_UP, c->ff, h, c->mlp_bias, false};
    w[n++] = (want){"mlp.down_proj", CAKE_ROLE_DOWN, h, c->ff, c->mlp_bias, false};
    if (c->post_norms)
        w[n++] = (want){"post_feedforward_layernorm", CAKE_ROLE_FFN_POST_NORM, 1, h, false, true};
    return n;
}

enum { WHOLE = -1 }; /* a matrix, or the stack of all experts */

/* Models that see too keep their text model under this name (7.1). */
static const char *prefix_of(const cake_checkpoint *ck) {
    static const char text[] = "language_model.";
    for (uint32_t i = 0; i < ck->n_tensors; i++)
        if (strncmp(ck->tensors[i].name, text, sizeof text - 1) == 0) return text;
    return "";
}

/* expert: WHOLE, or which one of experts that are stored one by one. */
static void full_path(const cake_layout *l, uint32_t unit, const want *w, int64_t expert,
                      char out[PATH_MAX_BYTES]) {
    if (expert != WHOLE)
        snprintf(out, PATH_MAX_BYTES, "%smodel.layers.%u.%s.%u.%s", l->prefix, unit - 1,
                 names_of(l->config)->each, (uint32_t)expert,
                 names_of(l->config)->leaf[w->role - CAKE_ROLE_EXPERT_GATE]);
    else if (unit == 0 || unit == l->config->n_layers + 1)
        snprintf(out, PATH_MAX_BYTES, "%s%s", l->prefix, w->path);
    else
        snprintf(out, PATH_MAX_BYTES, "%smodel.layers.%u.%s", l->prefix, unit - 1, w->path);
}

static int32_t find(const cake_checkpoint *ck, const char *path, const char *suffix) {
    char name[PATH_MAX_BYTES + 16];
    snprintf(name, sizeof name, "%s.%s", path, suffix);
    return cake_checkpoint_find(ck, name);
}

/* The modules of a want in this checkpoint: full_path()'s expert runs over [first, first + n). */
typedef struct {
    int64_t first;
    uint32_t n;
} span;
static span span_of(const cake_layout *l, uint32_t unit, const want *w) {
    char path[PATH_MAX_BYTES];
    full_path(l, unit, w, WHOLE, path);
    if (!is_expert(w->role) || find(l->checkpoint, path, "weight") >= 0) return (span){WHOLE, 1};
    return (span){0, l->config->moe.n_experts};
}

/* ---- messages ---- */

static const char *where(const cake_checkpoint *ck, int32_t t) {
    return ck->files[ck->tensors[t].file].path;
}

static cake_status missing(const cake_checkpoint *ck, const char *path, const char *suffix,
                           const char *why, cake_error *err) {
    return cake_fail(err, CAKE_ENOTFOUND, "tensor '%s.%s' is missing from '%s'%s", path, suffix,
                     ck->dir, why);
}

static cake_status wrong_shape(const cake_checkpoint *ck, int32_t i, uint32_t rank,
                               const uint64_t *expect, const char *why, cake_error *err) {
    const cake_tensor *t = &ck->tensors[i];
    char is[160], should[80];
    return cake_fail(err, CAKE_EFORMAT,
                     "tensor '%s' in '%s' has shape %s, but config.json asks for %s%s", t->name,
                     where(ck, i), cake_shape_text(t->rank, t->shape, is, sizeof is),
                     cake_shape_text(rank, expect, should, sizeof should), why);
}

static cake_status check_shape(const cake_checkpoint *ck, int32_t i, uint32_t rank, uint64_t n,
                               uint64_t k, const char *why, cake_error *err) {
    const cake_tensor *t = &ck->tensors[i];
    uint64_t expect[2] = {n, k};
    if (rank == 1) expect[0] = k;
    if (t->rank == rank && t->shape[0] == expect[0] && (rank == 1 || t->shape[1] == expect[1]))
        return CAKE_OK;
    return wrong_shape(ck, i, rank, expect, why, err);
}

/* A tensor of `columns` per row of the module: [n, columns], or [n_experts, n, columns]. */
static cake_status check_matrix(const cake_checkpoint *ck, const cake_module *m, int32_t i,
                                uint64_t columns, const char *why, cake_error *err) {
    if (!m->n_experts) return check_shape(ck, i, 2, m->n, columns, why, err);
    const cake_tensor *t = &ck->tensors[i];
    uint64_t expect[3] = {m->n_experts, m->n, columns};
    if (t->rank == 3 && memcmp(t->shape, expect, sizeof expect) == 0) return CAKE_OK;
    return wrong_shape(ck, i, 3, expect, why, err);
}

static cake_status check_float(const cake_checkpoint *ck, int32_t i, cake_error *err) {
    const cake_tensor *t = &ck->tensors[i];
    if (cake_dtype_is_float(t->dtype)) return CAKE_OK;
    return cake_fail(err, CAKE_EUNSUPPORTED,
                     "tensor '%s' in '%s' has dtype %s, which is not supported here; F32, F16 "
                     "and BF16 are",
                     t->name, where(ck, i), cake_dtype_name(t->dtype));
}

static cake_status contradiction(const cake_checkpoint *ck, int32_t i, const char *says,
                                 cake_error *err) {
    return cake_fail(err, CAKE_EFORMAT,
                     "tensor '%s' in '%s' contradicts config.json, which says %s",
                     ck->tensors[i].name, where(ck, i), says);
}

/* ---- one module ---- */

static cake_status affine(const cake_checkpoint *ck, cake_module *m, cake_quant_params p,
                          cake_error *err) {
    const cake_tensor *w = &ck->tensors[m->weight];
    char how[160];
    snprintf(how, sizeof how, " (%u x %u, affine %u bits in groups of %u)", m->n, m->k, p.bits,
             p.group_size);
    if (w->dtype != CAKE_DTYPE_U32)
        return cake_fail(err, CAKE_EFORMAT,
                         "tensor '%s' in '%s' has dtype %s, but '%s.scales' says that it is packed "
                         "(U32)",
                         w->name, where(ck, m->weight), cake_dtype_name(w->dtype), m->path);
    if (m->biases < 0) return missing(ck, m->path, "biases", " though its scales are there", err);
    if (m->k % p.group_size)
        return cake_fail(err, CAKE_EFORMAT,
                         "module '%s': rows of %u do not divide into groups of %u", m->path, m->k,
                         p.group_size);
    cake_status st;
    uint64_t groups = m->k / p.group_size;
    if ((st = check_matrix(ck, m, m->weight, (uint64_t)m->k * p.bits / 32, how, err)) != CAKE_OK ||
        (st = check_matrix(ck, m, m->scales, groups, how, err)) != CAKE_OK ||
        (st = check_matrix(ck, m, m->biases, groups, how, err)) != CAKE_OK ||
        (st = check_float(ck, m->scales, err)) != CAKE_OK)
        return st;
    if (ck->tensors[m->biases].dtype != ck->tensors[m->scales].dtype)
        return cake_fail(err, CAKE_EFORMAT,
                         "tensors '%s.scales' and '%s.biases' have different types, %s and %s",
                         m->path, m->path, cake_dtype_name(ck->tensors[m->scales].dtype),
                         cake_dtype_name(ck->tensors[m->biases].dtype));
    m->kind = CAKE_WEIGHT_AFFINE;
    m->dtype = ck->tensors[m->scales].dtype;
    m->bits = p.bits;
    m->group_size = p.group_size;
    return CAKE_OK;
}

/* mxfp4, mxfp8, nvfp4 as MLX writes them: codes and one scale byte per group (3.1). */
static cake_status fp(const cake_checkpoint *ck, cake_module *m, cake_quant_params p,
                      cake_error *err) {
    const cake_tensor *w = &ck->tensors[m->weight], *s = &ck->tensors[m->scales];
    const char *mode = cake_quant_mode_name(p.mode);
    char how[160];
    snprintf(how, sizeof how, " (%u x %u, %s)", m->n, m->k, mode);
    if (w->dtype != CAKE_DTYPE_U32)
        return cake_fail(err, CAKE_EFORMAT,
                         "tensor '%s' in '%s' has dtype %s, but config.json says %s (U32)", w->name,
                         where(ck, m->weight), cake_dtype_name(w->dtype), mode);
    if (s->dtype != CAKE_DTYPE_U8 && s->dtype != CAKE_DTYPE_F8_E8M0 &&
        s->dtype != CAKE_DTYPE_F8_E4M3)
        return cake_fail(err, CAKE_EFORMAT,
                         "tensor '%s' in '%s' has dtype %s, but the scales of %s are bytes (U8)",
                         s->name, where(ck, m->scales), cake_dtype_name(s->dtype), mode);
    if (m->biases >= 0) return contradiction(ck, m->biases, mode, err);
    if (m->k % p.group_size)
        return cake_fail(err, CAKE_EFORMAT,
                         "module '%s': rows of %u do not divide into groups of %u", m->path, m->k,
                         p.group_size);
    cake_status st;
    if ((st = check_matrix(ck, m, m->weight, (uint64_t)m->k * p.bits / 32, how, err)) != CAKE_OK ||
        (st = check_matrix(ck, m, m->scales, m->k / p.group_size, how, err)) != CAKE_OK)
        return st;
    m->kind = CAKE_WEIGHT_FP;
    m->dtype = CAKE_DTYPE_U8;
    m->bits = p.bits;
    m->group_size = p.group_size;
    m->fp_mode = p.mode;
    return CAKE_OK;
}

/* Rows of blocks (5.2). The placeholder beside them is looked at and dropped. */
static cake_status blocks(cake_layout *l, cake_module *m, cake_quant_params p, cake_error *err) {
    const cake_checkpoint *ck = l->checkpoint;
    const cake_tensor *w = &ck->tensors[m->weight];
    const cake_block_info *b = cake_block_get(p.codec);
    char how[160];
    snprintf(how, sizeof how, " (%u x %u, %s)", m->n, m->k, b->name);
    if (w->dtype != CAKE_DTYPE_U8)
        return cake_fail(err, CAKE_EFORMAT,
                         "tensor '%s' in '%s' has dtype %s, but config.json says that its module "
                         "is stored as %s (U8)",
                         w->name, where(ck, m->weight), cake_dtype_name(w->dtype), b->name);
    if (m->biases >= 0) return contradiction(ck, m->biases, b->name, err);
    if (m->k % b->weights)
        return cake_fail(err, CAKE_EFORMAT,
                         "module '%s': rows of %u do not divide into blocks of %u (%s)", m->path,
                         m->k, b->weights, b->name);
    cake_status st =
        check_matrix(ck, m, m->weight, (uint64_t)(m->k / b->weights) * b->bytes, how, err);
    if (st != CAKE_OK) return st;
    if (m->scales < 0) {
        if (m->role != CAKE_ROLE_HEAD || !l->tied) l->n_bare++;
    } else {
        const cake_tensor *s = &ck->tensors[m->scales];
        if (s->dtype != CAKE_DTYPE_U8 || s->n_bytes != 1)
            return contradiction(ck, m->scales, "that the scales are inside the blocks", err);
        m->scales = -1;
    }
    m->kind = CAKE_WEIGHT_BLOCK;
    m->dtype = CAKE_DTYPE_U8;
    m->codec = p.codec;
    return CAKE_OK;
}

static cake_status dense(const cake_checkpoint *ck, cake_module *m, bool norm, cake_error *err) {
    const cake_tensor *w = &ck->tensors[m->weight];
    cake_status st;
    if (w->dtype == CAKE_DTYPE_U32)
        return missing(ck, m->path, "scales", " though its weight is packed (U32)", err);
    if (m->biases >= 0)
        return contradiction(ck, m->biases, "that the module is not quantized (it has no scales)",
                             err);
    if ((st = check_float(ck, m->weight, err)) != CAKE_OK ||
        (st = norm ? check_shape(ck, m->weight, 1, m->n, m->k, "", err)
                   : check_matrix(ck, m, m->weight, m->k, "", err)) != CAKE_OK)
        return st;
    m->kind = CAKE_WEIGHT_DENSE;
    m->dtype = w->dtype;
    return CAKE_OK;
}

static cake_status module(cake_layout *l, uint32_t unit, const want *w, int64_t expert,
                          cake_module *m, cake_error *err) {
    const cake_checkpoint *ck = l->checkpoint;
    char path[PATH_MAX_BYTES];
    full_path(l, unit, w, expert, path);
    *m = (cake_module){.role = w->role,
                       .n = w->n,
                       .k = w->k,
                       .n_experts =
                           expert == WHOLE && is_expert(w->role) ? l->config->moe.n_experts : 0,
                       .path = cake_strdup(path),
                       .bias = -1};
    m->weight = find(ck, path, "weight");
    m->scales = find(ck, path, "scales");
    m->biases = find(ck, path, "biases");
    if (m->weight < 0)
        return missing(ck, path, "weight",
                       w->role == CAKE_ROLE_HEAD && !l->tied
                           ? " (config.json says that the head is not tied)"
                       : is_expert(w->role) ? " (nor is there a stack of all experts)"
                                            : "",
                       err);
    cake_quant_params p = {0};
    cake_quant_rule rule = cake_quant_lookup(l->config->quant, path, &p);
    cake_status st;
    if (m->scales >= 0 && rule == CAKE_QUANT_UNSAID)
        return contradiction(ck, m->scales, "nothing about quantization", err);
    if (m->scales >= 0 && rule == CAKE_QUANT_REFUSED)
        return contradiction(ck, m->scales, "that this module is not quantized", err);
    if (m->scales >= 0 && w->norm) return contradiction(ck, m->scales, "that this is a norm", err);
    bool quantized = m->scales >= 0;
    if (rule == CAKE_QUANT_LISTED && p.mode == CAKE_QUANT_KQUANT) {
        if (w->norm) return contradiction(ck, m->weight, "that this norm is quantized", err);
        quantized = true;
    }
    if (!quantized && rule == CAKE_QUANT_LISTED)
        return missing(ck, path, "scales", " though config.json lists the module as quantized",
                       err);
    if (!quantized)
        st = dense(ck, m, w->norm, err);
    else if (p.mode == CAKE_QUANT_AFFINE)
        st = affine(ck, m, p, err);
    else if (p.mode == CAKE_QUANT_KQUANT)
        st = blocks(l, m, p, err);
    else
        st = fp(ck, m, p, err);
    if (st != CAKE_OK || !w->bias) return st;
    if ((m->bias = find(ck, path, "bias")) < 0) return missing(ck, path, "bias", "", err);
    if ((st = check_float(ck, m->bias, err)) != CAKE_OK) return st;
    return check_shape(ck, m->bias, 1, 1, m->n, "", err);
}

/* ---- all of them ---- */

bool cake_tensor_is_ignored(const char *name) {
    static const char *const prefix[] = {
        "vision_tower.",          "vision_model.", "model.visual.", "visual.",
        "multi_modal_projector.", "audio_tower.",  "mtp.",          "model.mtp."};
    size_t n = strlen(name);
    static const char inv_freq[] = "rotary_emb.inv_freq";
    if (n >= sizeof inv_freq - 1 && strcmp(name + n - (sizeof inv_freq - 1), inv_freq) == 0)
        return true;
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++)
        if (strncmp(name, prefix[i], strlen(prefix[i])) == 0) return true;
    return false;
}

static bool is_head(const cake_layout *l, const char *name) {
    size_t n = strlen(l->prefix);
    return strncmp(name, l->prefix, n) == 0 && strncmp(name + n, "lm_head.", 8) == 0;
}

/* Mark what belongs to some unit; whatever is left is not a model we know. */
static cake_status check_rest(cake_layout *l, cake_error *err) {
    static const char *const suffix[] = {"weight", "scales", "biases"};
    const cake_checkpoint *ck = l->checkpoint;
    bool *known = cake_calloc(ck->n_tensors, sizeof *known);
    for (uint32_t u = 0; u < l->n_units; u++) {
        want w[WANTS_MAX];
        size_t n = wants_of(l->config, u, l->tied, w);
        for (size_t i = 0; i < n; i++) {
            span mods = span_of(l, u, &w[i]);
            for (uint32_t e = 0; e < mods.n; e++) {
                char path[PATH_MAX_BYTES];
                int32_t t;
                full_path(l, u, &w[i], mods.first + e, path);
                for (size_t j = 0; j < sizeof suffix / sizeof *suffix; j++)
                    if ((t = find(ck, path, suffix[j])) >= 0) known[t] = true;
                if (w[i].bias && (t = find(ck, path, "bias")) >= 0) known[t] = true;
                if (find(ck, path, "weight") < 0) break; /* of a unit that is not here */
            }
        }
    }
    cake_status st = CAKE_OK;
    for (uint32_t i = 0; i < ck->n_tensors && st == CAKE_OK; i++) {
        const char *name = ck->tensors[i].name;
        if (known[i]) continue;
        if (cake_tensor_is_ignored(name) || (l->tied && is_head(l, name)))
            l->n_ignored++;
        else
            st = cake_fail(err, CAKE_EUNSUPPORTED,
                           "tensor '%.200s' in '%s' is not part of a %s model with %u layers as "
                           "config.json describes it",
                           name, where(ck, (int32_t)i), l->config->model_type, l->config->n_layers);
    }
    free(known);
    return st;
}

static uint64_t bytes_of(const cake_checkpoint *ck, const cake_module *m) {
    const int32_t t[] = {m->weight, m->scales, m->biases, m->bias};
    uint64_t n = 0;
    for (size_t i = 0; i < 4; i++)
        if (t[i] >= 0) n += ck->tensors[t[i]].n_bytes;
    return n;
}

bool cake_unit_ranges_valid(const cake_unit_range *ranges, size_t n_ranges, uint32_t n_units) {
    uint32_t at = 0;
    for (size_t i = 0; i < n_ranges; i++) {
        if (ranges[i].begin < at || ranges[i].begin >= ranges[i].end || ranges[i].end > n_units)
            return false;
        at = ranges[i].end;
    }
    return n_ranges > 0;
}

static bool has_head(const cake_layout *l) {
    char path[PATH_MAX_BYTES];
    snprintf(path, sizeof path, "%slm_head", l->prefix);
    return find(l->checkpoint, path, "weight") >= 0;
}

cake_status cake_layout_new(cake_layout **out, const cake_model_config *config,
                            const cake_checkpoint *ck, const cake_unit_range *ranges,
                            size_t n_ranges, cake_error *err) {
    const uint32_t n_units = config->n_layers + 2;
    const cake_unit_range all = {0, n_units};
    if (!ranges) ranges = &all, n_ranges = 1;
    if (!cake_unit_ranges_valid(ranges, n_ranges, n_units))
        return cake_fail(err, CAKE_EINVAL, "unit ranges are not ascending within 0..%u", n_units);
    cake_layout *l = cake_calloc(1, sizeof *l);
    l->config = config;
    l->checkpoint = ck;
    l->n_units = n_units;
    l->units = cake_calloc(n_units, sizeof *l->units);
    l->prefix = prefix_of(ck);
    l->tied = config->tie >= 0 ? config->tie == 1 : !has_head(l);
    cake_status st = CAKE_OK;
    for (size_t r = 0; r < n_ranges && st == CAKE_OK; r++) {
        for (uint32_t u = ranges[r].begin; u < ranges[r].end && st == CAKE_OK; u++) {
            want w[WANTS_MAX];
            size_t n = wants_of(config, u, l->tied, w);
            cake_unit *unit = &l->units[u];
            size_t room = 0;
            for (size_t i = 0; i < n; i++) room += span_of(l, u, &w[i]).n;
            unit->modules = cake_calloc(room, sizeof *unit->modules);
            for (size_t i = 0; i < n && st == CAKE_OK; i++) {
                span mods = span_of(l, u, &w[i]);
                for (uint32_t e = 0; e < mods.n && st == CAKE_OK; e++) {
                    cake_module *m = &unit->modules[unit->n_modules++];
                    st = module(l, u, &w[i], mods.first + e, m, err);
                    if (st == CAKE_OK) unit->bytes += bytes_of(ck, m);
                }
            }
        }
    }
    if (st == CAKE_OK) st = check_rest(l, err);
    if (st != CAKE_OK)
        cake_layout_free(l);
    else
        *out = l;
    return st;
}

void cake_layout_free(cake_layout *l) {
    if (!l) return;
    for (uint32_t u = 0; u < l->n_units; u++) {
        for (uint32_t i = 0; i < l->units[u].n_modules; i++) free(l->units[u].modules[i].path);
        free(l->units[u].modules);
    }
    free(l->units);
    free(l);
}

const cake_module *cake_layout_module(const cake_layout *l, uint32_t unit, cake_role role) {
    if (unit >= l->n_units) return NULL;
    for (uint32_t i = 0; i < l->units[unit].n_modules; i++)
        if (l->units[unit].modules[i].role == role) return &l->units[unit].modules[i];
    return NULL;
}

const cake_module *cake_layout_expert(const cake_layout *l, uint32_t unit, cake_role role,
                                      uint32_t e) {
    const cake_module *m = cake_layout_module(l, unit, role);
    return !m || m->n_experts ? m : m + e;
}

size_t cake_layout_tensors(const cake_layout *l, const cake_unit_range *ranges, size_t n_ranges,
                           uint32_t *idx, size_t max) {
    bool *seen = cake_calloc(l->checkpoint->n_tensors, sizeof *seen);
    size_t n = 0;
    for (size_t r = 0; r < n_ranges; r++)
        for (uint32_t u = ranges[r].begin; u < ranges[r].end && u < l->n_units; u++)
            for (uint32_t i = 0; i < l->units[u].n_modules; i++) {
                const cake_module *m = &l->units[u].modules[i];
                const int32_t t[] = {m->weight, m->scales, m->biases, m->bias};
                for (size_t j = 0; j < 4; j++) {
                    if (t[j] < 0 || seen[t[j]]) continue;
                    seen[t[j]] = true;
                    if (n < max) idx[n] = (uint32_t)t[j];
                    n++;
                }
            }
    free(seen);
    return n;
}

uint64_t cake_layout_bytes(const cake_layout *l, const cake_unit_range *ranges, size_t n_ranges) {
    size_t n = l->checkpoint->n_tensors;
    uint32_t *idx = cake_calloc(n, sizeof *idx);
    uint64_t sum = 0;
    n = cake_layout_tensors(l, ranges, n_ranges, idx, n);
    for (size_t i = 0; i < n; i++) sum += l->checkpoint->tensors[idx[i]].n_bytes;
    free(idx);
    return sum;
}

/* ---- inputs ---- */

static const char *const input_names[CAKE_INPUT_COUNT] = {
    "attn", "o", "ffn", "down", "shared_down", "expert", "expert_down", "head"};

cake_input cake_role_input(cake_role r) {
    switch (r) {
    case CAKE_ROLE_Q:
    case CAKE_ROLE_K:
    case CAKE_ROLE_V: return CAKE_INPUT_ATTN;
    case CAKE_ROLE_O: return CAKE_INPUT_O;
    case CAKE_ROLE_GATE:
    case CAKE_ROLE_UP:
    case CAKE_ROLE_ROUTER:
    case CAKE_ROLE_SHARED_MIX:
    case CAKE_ROLE_SHARED_GATE:
    case CAKE_ROLE_SHARED_UP: return CAKE_INPUT_FFN;
    case CAKE_ROLE_DOWN: return CAKE_INPUT_DOWN;
    case CAKE_ROLE_SHARED_DOWN: return CAKE_INPUT_SHARED_DOWN;
    case CAKE_ROLE_EXPERT_GATE:
    case CAKE_ROLE_EXPERT_UP: return CAKE_INPUT_EXPERT;
    case CAKE_ROLE_EXPERT_DOWN: return CAKE_INPUT_EXPERT_DOWN;
    case CAKE_ROLE_HEAD: return CAKE_INPUT_HEAD;
    default: return CAKE_INPUT_COUNT;
    }
}

const char *cake_input_name(cake_input i) {
    return (unsigned)i < CAKE_INPUT_COUNT ? input_names[i] : "?";
}

cake_input cake_input_parse(const char *name) {
    for (int i = 0; i < CAKE_INPUT_COUNT; i++)
        if (strcmp(name, input_names[i]) == 0) return (cake_input)i;
    return CAKE_INPUT_COUNT;
}

bool cake_layout_input(const cake_layout *l, uint32_t unit, cake_input i, uint32_t *n,
                       uint32_t *k) {
    const cake_unit *u = &l->units[unit];
    for (uint32_t m = 0; m < u->n_modules; m++)
        if (cake_role_input(u->modules[m].role) == i) {
            const bool expert = i == CAKE_INPUT_EXPERT || i == CAKE_INPUT_EXPERT_DOWN;
            *n = expert ? l->config->moe.n_experts : 1;
            *k = u->modules[m].k;
            return true;
        }
    return false;
}
