/* GGUF files as models: names, shapes, permuted rows, configs, bundles, logits and tokenizers, held
 * against the safetensors models they were made of. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/json.h"
#include "common/model/gguf_model.h"
#include "kernels/codec.h"
#include "kernels/vec.h"
#include "master/template/template.h"
#include "master/tokenizer/tokenizer.h"
#include "master/tools/quantizer.h"
#include "tests/unit/gguffile.h"
#include "worker/engine/stage.h"

#include <math.h>

#define FIXTURE "tests/models/stories260K-q8_0.gguf"
#define SOURCE  "tests/models/stories260K-hf"

static cake_error err;
#define OK(call) assert_ok((call), &err)

/* What the fixture must hold of an F32 tensor of the source: q8_0 blocks where rows divide into
 * them, else f16 (f32 vectors), in the source's row order. */
static uint8_t *expected(const cake_tensor *t, size_t *n) {
    uint64_t rows = t->rank == 2 ? t->shape[0] : 1, k = t->shape[t->rank - 1];
    if (t->rank == 1) {
        uint8_t *out = cake_malloc(*n = (size_t)t->n_bytes);
        return memcpy(out, t->data, (size_t)t->n_bytes);
    }
    bool blocks = k % 32 == 0;
    size_t row = blocks ? cake_codec_row_bytes(CAKE_CODEC_Q8_0, (size_t)k) : 2 * (size_t)k;
    uint8_t *out = cake_malloc(*n = row * (size_t)rows);
    float *x = cake_malloc((size_t)k * sizeof *x);
    uint16_t *half = cake_malloc((size_t)k * sizeof *half);
    for (size_t r = 0; r < rows; r++) {
        memcpy(x, t->data + r * (size_t)k * 4, (size_t)k * 4);
        if (blocks)
            assert_true(cake_codec_encode_row(CAKE_CODEC_Q8_0, CAKE_ENCODE_GGML, x, NULL,
                                              out + r * row, (size_t)k));
        cake_f32_to_f16(half, x, (size_t)k);
        if (!blocks) memcpy(out + r * row, half, row);
    }
    free(half);
    free(x);
    return out;
}

static void test_fixture_tensors(void **state) {
    (void)state;
    cake_checkpoint *g, *s;
    OK(cake_checkpoint_open(&g, FIXTURE, &err));
    OK(cake_checkpoint_open(&s, SOURCE, &err));
    assert_int_equal(g->n_tensors, s->n_tensors);
    unsigned permuted = 0, blocks = 0;
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        const cake_tensor *want = &s->tensors[i];
        int32_t at = cake_checkpoint_find(g, want->name);
        if (at < 0) fail_msg("%s is missing", want->name);
        const cake_tensor *t = &g->tensors[at];
        size_t n;
        uint8_t *bytes_, *owned;
        bytes_ = expected(want, &n);
        const uint8_t *have = cake_checkpoint_bytes(g, t, &owned);
        assert_int_equal(t->rank, want->rank);
        assert_int_equal(t->shape[0], t->rank == 2 ? want->shape[0] : want->n_bytes / 4);
        assert_int_equal(t->n_bytes, n);
        if (memcmp(have, bytes_, n) != 0) fail_msg("%s differs from its source", t->name);
        assert_int_equal(t->head_rows != 0, owned != NULL);
        assert_int_equal(t->head_rows != 0, t->data == NULL);
        permuted += t->head_rows != 0;
        blocks += t->dtype == CAKE_DTYPE_U8;
        free(bytes_);
        free(owned);
    }
    assert_int_equal(permuted, 10);
    assert_int_equal(blocks, 31); /* 172 columns of down_proj are no whole blocks */
    cake_checkpoint_close(s);
    cake_checkpoint_close(g);
}

/* The config made from metadata says what the source's config.json says. */
static void test_fixture_config(void **state) {
    (void)state;
    opened g = open_model(FIXTURE), s = open_model(SOURCE);
    const cake_model_config *a = &g.config, *b = &s.config;
    assert_int_equal(a->family, b->family);
    assert_int_equal(a->hidden, b->hidden);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->n_kv_heads, b->n_kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->ff, b->ff);
    assert_int_equal(a->vocab, b->vocab);
    assert_int_equal(a->max_positions, b->max_positions);
    assert_true(a->norm_eps == b->norm_eps); /* 1e-5, not 1e-5 rounded to f32 */
    assert_true(a->rope.theta == b->rope.theta && a->rope.type == b->rope.type);
    assert_int_equal(g.layout->tied, s.layout->tied);
    assert_int_equal(a->bos_id, b->bos_id);
    assert_int_equal(a->n_eos, b->n_eos);
    assert_int_equal(a->eos_ids[0], b->eos_ids[0]);
    close_model(&g);
    close_model(&s);
}

/* The bytes that travel are those of the tensors in their own order, read and viewed in pieces of
 * any size, and the hashes are theirs. */
static void test_bundle(void **state) {
    (void)state;
    opened g = open_model(FIXTURE);
    cake_bundle *b = bundle_of(&g, 0, g.layout->n_units);
    const cake_manifest *m = b->manifest;
    uint8_t *all = cake_malloc((size_t)m->size), *again = cake_malloc((size_t)m->size);
    OK(cake_bundle_read(b, 0, (size_t)m->size, all, &err));
    for (uint64_t at = 0; at < m->size;) {
        const uint8_t *p;
        size_t k = cake_bundle_view(b, at, 1 + (size_t)(at % 97), &p);
        assert_true(k > 0);
        memcpy(again + at, p, k);
        at += k;
    }
    assert_memory_equal(all, again, (size_t)m->size);
    memset(again, 0, (size_t)m->size);
    for (uint64_t at = 0; at < m->size; at += 1009) {
        size_t k = m->size - at < 1009 ? (size_t)(m->size - at) : 1009;
        OK(cake_bundle_read(b, at, k, again + at, &err));
    }
    assert_memory_equal(all, again, (size_t)m->size);
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const cake_manifest_tensor *t = &m->tensors[i];
        const cake_tensor *from = &g.ck->tensors[b->source[i]];
        uint8_t *owned;
        assert_memory_equal(all + t->offset, cake_checkpoint_bytes(g.ck, from, &owned),
                            (size_t)t->n_bytes);
        cake_sha256 h = cake_sha256_of(all + t->offset, (size_t)t->n_bytes);
        assert_memory_equal(&h, &t->sha256, sizeof h);
        free(owned);
    }
    free(all);
    free(again);
    cake_bundle_free(b);
    close_model(&g);
}

/* ---- logits ---- */

/* SHA-256 of the logits of a fixed prompt, in both modes. */
static cake_sha256 logits_of(const opened *o) {
    enum { N = 40 };
    o->layout->config = &o->config; /* which open_model returned by value */
    cake_pool *pool = cake_pool_new(1, 0);
    cake_sha256_ctx *c = cake_sha256_new();
    for (int f32_mode = 0; f32_mode < 2; f32_mode++) {
        cake_scratch *scratch;
        cake_stage *stage;
        OK(cake_scratch_new(&scratch, &o->config, N, 1, &err));
        cake_stage_options so = {.config = &o->config,
                                 .layout = o->layout,
                                 .unit_end = o->layout->n_units,
                                 .n_seqs = 1,
                                 .context = 64,
                                 .kv_blocks = 1,
                                 .max_rows = N,
                                 .f32_mode = f32_mode};
        OK(cake_stage_new(&stage, &so, o->ck, pool, scratch, NULL, NULL, &err));
        cake_row rows[N];
        for (uint32_t i = 0; i < N; i++)
            rows[i] = (cake_row){0, i, (i * 7 + 1) % o->config.vocab, CAKE_ROW_LOGITS};
        float *z = cake_calloc((size_t)N * o->config.vocab, sizeof *z);
        uint32_t n_out = 0;
        OK(cake_stage_run(stage, NULL, 0, rows, N, NULL, z, &n_out, &err));
        assert_int_equal(n_out, N);
        cake_sha256_add(c, z, (size_t)N * o->config.vocab * sizeof *z);
        free(z);
        cake_stage_free(stage);
        cake_scratch_free(scratch);
    }
    cake_pool_free(pool);
    return cake_sha256_end(c);
}

/* A folder as mlx-kquant would have written it from the source: same blocks, its own config.json.
 */
static char *kquant_of_source(void) {
    char *dir = tmp_dir(), *per = cake_strdup(""), *text;
    opened s = open_model(SOURCE);
    bytes header = {0}, data = {0}, file = {0};
    for (uint32_t i = 0; i < s.ck->n_tensors; i++) {
        const cake_tensor *t = &s.ck->tensors[i];
        size_t n;
        uint8_t *raw = expected(t, &n);
        uint64_t k = t->shape[t->rank - 1], shape[2] = {t->shape[0], k};
        bool blocks = t->rank == 2 && k % 32 == 0;
        if (blocks) {
            shape[1] = k / 32 * 34;
            text = cake_asprintf("%s%s\"%.*s\":\"q8_0\"", per, *per ? "," : "",
                                 (int)(strlen(t->name) - 7), t->name);
            free(per);
            per = text;
        }
        char dims[80];
        text =
            cake_asprintf("%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                          header.n ? "," : "{", t->name,
                          blocks         ? "U8"
                          : t->rank == 2 ? "F16"
                                         : "F32",
                          cake_shape_text(t->rank, shape, dims, sizeof dims), data.n, data.n + n);
        put_bytes(&header, text, strlen(text));
        put_bytes(&data, raw, n);
        free(text);
        free(raw);
    }
    put_bytes(&header, "}", 1);
    put_u64(&file, header.n);
    put_bytes(&file, header.p, header.n);
    put_bytes(&file, data.p, data.n);
    write_file(dir, "model.safetensors", file.p, file.n);
    size_t end = s.config_len;
    while (s.config_text[end - 1] != '}') end--;
    text = cake_asprintf("%.*s,\"quantization\":{\"mode\":\"kquant\",\"per_tensor\":{%s}}}",
                         (int)end - 1, s.config_text, per);
    write_text(dir, "config.json", text);
    free(text);
    free(per);
    free(header.p), free(data.p), free(file.p);
    close_model(&s);
    return dir;
}

static void test_same_bits(void **state) {
    (void)state;
    opened g = open_model(FIXTURE);
    cake_sha256 from_gguf = logits_of(&g);
    char *dir = kquant_of_source();
    opened k = open_model(dir);
    assert_int_equal(k.layout->n_bare, 31);
    cake_sha256 from_kquant = logits_of(&k);
    assert_memory_equal(&from_gguf, &from_kquant, sizeof from_gguf);
    close_model(&k);
    tmp_remove(dir);
    /* The bundle of all of it is such a folder too. */
    dir = tmp_dir();
    char *to = cake_path_join(dir, "bundle");
    cake_bundle *b = bundle_of(&g, 0, g.layout->n_units);
    OK(cake_bundle_write(b, to, &err));
    cake_bundle_free(b);
    k = open_model(to);
    from_kquant = logits_of(&k);
    assert_memory_equal(&from_gguf, &from_kquant, sizeof from_gguf);
    close_model(&k);
    free(to);
    tmp_remove(dir);
    close_model(&g);
}

/* ---- every family: GGUF files made here of the reference checkpoints ---- */

static const struct {
    const char *gguf, *hf;
} name_pairs[] = {{"token_embd", "model.embed_tokens"},
                  {"output_norm", "model.norm"},
                  {"output", "lm_head"},
                  {"attn_norm", "input_layernorm"},
                  {"attn_q", "self_attn.q_proj"},
                  {"attn_k", "self_attn.k_proj"},
                  {"attn_v", "self_attn.v_proj"},
                  {"attn_output", "self_attn.o_proj"},
                  {"attn_q_norm", "self_attn.q_norm"},
                  {"attn_k_norm", "self_attn.k_norm"},
                  {"ffn_norm", "post_attention_layernorm"},
                  {"ffn_gate", "mlp.gate_proj"},
                  {"ffn_up", "mlp.up_proj"},
                  {"ffn_down", "mlp.down_proj"},
                  {"ffn_gate_inp", "mlp.gate"},
                  {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
                  {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
                  {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
                  {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
                  {"ffn_gate_exps", "mlp.experts.0.gate_proj"},
                  {"ffn_up_exps", "mlp.experts.0.up_proj"},
                  {"ffn_down_exps", "mlp.experts.0.down_proj"},
                  {"ffn_gate_exps", "mlp.switch_mlp.gate_proj"},
                  {"ffn_up_exps", "mlp.switch_mlp.up_proj"},
                  {"ffn_down_exps", "mlp.switch_mlp.down_proj"},
                  {"ffn_gate_inp", "block_sparse_moe.gate"},
                  {"ffn_gate_exps", "block_sparse_moe.experts.0.w1"},
                  {"ffn_down_exps", "block_sparse_moe.experts.0.w2"},
                  {"ffn_up_exps", "block_sparse_moe.experts.0.w3"}};

/* Gemma has these names for its norms; the others above. */
static const struct {
    const char *gguf, *hf;
} gemma_pairs[] = {{"post_attention_norm", "post_attention_layernorm"},
                   {"ffn_norm", "pre_feedforward_layernorm"},
                   {"post_ffw_norm", "post_feedforward_layernorm"}};

/* GGUF's name of a tensor; NULL for what it stores otherwise (later experts, placeholders). */
static char *gguf_name(const opened *o, const char *name) {
    const char *stem = name, *dot = strrchr(name, '.');
    char layer[32] = "";
    unsigned n;
    int skip = 0;
    if (sscanf(name, "model.layers.%u.%n", &n, &skip) == 1 && skip > 0) {
        stem = name + skip;
        snprintf(layer, sizeof layer, "blk.%u.", n);
    }
    for (size_t i = 0; o->config.post_norms && i < 3; i++)
        if (strlen(gemma_pairs[i].hf) == (size_t)(dot - stem) &&
            memcmp(gemma_pairs[i].hf, stem, (size_t)(dot - stem)) == 0)
            return cake_asprintf("%s%s%s", layer, gemma_pairs[i].gguf, dot);
    for (size_t i = 0; i < sizeof name_pairs / sizeof *name_pairs; i++)
        if (strlen(name_pairs[i].hf) == (size_t)(dot - stem) &&
            memcmp(name_pairs[i].hf, stem, (size_t)(dot - stem)) == 0 &&
            strcmp(dot, ".scales") != 0)
            return cake_asprintf("%s%s%s", layer, name_pairs[i].gguf, dot);
    return NULL;
}

static uint32_t ggml_type_of(const opened *o, const cake_tensor *t) {
    cake_quant_params p = {0};
    char *path = cake_strndup(t->name, strlen(t->name) - 7);
    bool blocks = t->dtype == CAKE_DTYPE_U8 &&
                  cake_quant_lookup(o->config.quant, path, &p) == CAKE_QUANT_LISTED;
    free(path);
    for (uint32_t id = 0; id < 64; id++) {
        const cake_gguf_kind *k = cake_gguf_kind_of(id);
        if (!k || !k->bytes) continue;
        if (blocks ? k->dtype == CAKE_DTYPE_NONE && k->codec == p.codec : k->dtype == t->dtype)
            return id;
    }
    fail_msg("%s has no type in GGUF", t->name);
    return 0;
}

/* The bytes of a tensor, those of all experts behind each other, Llama's q and k permuted. */
static bytes gguf_bytes(const opened *o, const cake_tensor *t, bool permute, uint32_t *n_experts) {
    bytes b = {0};
    const char *at = strstr(t->name, ".experts.0.");
    *n_experts = 0;
    for (uint32_t e = 0; at; e++) {
        char *name = cake_asprintf("%.*s.experts.%u.%s", (int)(at - t->name), t->name, e,
                                   at + strlen(".experts.0."));
        int32_t i = cake_checkpoint_find(o->ck, name);
        free(name);
        if (i < 0) return b;
        put_bytes(&b, o->ck->tensors[i].data, (size_t)o->ck->tensors[i].n_bytes);
        ++*n_experts;
    }
    uint64_t rows = t->shape[0], d = o->config.head_dim, row = t->n_bytes / rows;
    for (uint64_t r = 0; r < rows; r++) {
        uint64_t from = !permute ? r : r / d * d + r % d / 2 + (r % 2) * (d / 2);
        put_bytes(&b, t->data + from * row, (size_t)row);
    }
    return b;
}

/* Norms as Gemma's converter stores them: F32, the 1 added. */
static void add_one(bytes *b, cake_dtype dtype) {
    size_t n = dtype == CAKE_DTYPE_F32 ? b->n / 4 : b->n / 2;
    float *x = cake_malloc(n * sizeof *x);
    if (dtype == CAKE_DTYPE_F16)
        cake_f16_to_f32(x, (const uint16_t *)(const void *)b->p, n);
    else if (dtype == CAKE_DTYPE_BF16)
        cake_bf16_to_f32(x, (const uint16_t *)(const void *)b->p, n);
    else
        memcpy(x, b->p, n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = x[i] + 1;
    free(b->p);
    *b = (bytes){.p = (uint8_t *)x, .n = n * sizeof *x};
}

static void kv_arch(gguf_file *f, const char *arch, const char *name, double v, bool integer) {
    char *key = cake_asprintf("%s.%s", arch, name);
    if (integer)
        kv_u32(f, key, (uint32_t)v);
    else
        kv_f32(f, key, (float)v);
    free(key);
}

static void kv_rope(gguf_file *f, const opened *o, const char *arch) {
    const cake_rope_config *r = &o->config.rope;
    uint32_t head = o->config.head_dim, n = head / 2;
    kv_arch(f, arch, "rope.dimension_count", head, true);
    kv_arch(f, arch, "rope.freq_base", r->theta, false);
    if (r->type == CAKE_SCALING_DEFAULT) return;
    kv_arch(f, arch, "rope.scaling.original_context_length", r->original_max_positions, true);
    if (r->type != CAKE_SCALING_LLAMA3) {
        char *key = cake_asprintf("%s.rope.scaling.type", arch);
        kv_text(f, key, r->type == CAKE_SCALING_YARN ? "yarn" : "linear");
        free(key);
        kv_arch(f, arch, "rope.scaling.factor", r->factor, false);
        kv_arch(f, arch, "rope.scaling.yarn_beta_fast", r->beta_fast, false);
        kv_arch(f, arch, "rope.scaling.yarn_beta_slow", r->beta_slow, false);
        return;
    }
    float factors[128];
    for (uint32_t i = 0; i < n; i++) {
        double wave = 2 * 3.14159265358979323846 * pow(r->theta, 2.0 * i / head);
        double turns = r->original_max_positions / wave;
        double s = (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
        s = s < 0 ? 0 : s > 1 ? 1 : s;
        factors[i] = (float)(1 / ((1 - s) / r->factor + s));
    }
    add_tensor(f, "rope_freqs.weight", 0, 1, (uint64_t[]){n}, factors);
}

/* A tokenizer of three pieces. */
static void kv_pieces(gguf_file *f) {
    static const char *const pieces[] = {"<unk>", "</s>", "<end_of_turn>"};
    static const uint32_t types[] = {2, 3, 3}; /* UNKNOWN, CONTROL */
    kv_text(f, "tokenizer.ggml.model", "llama");
    kv_array(f, "tokenizer.ggml.tokens", CAKE_GGUF_STRING, 3);
    for (int i = 0; i < 3; i++) put_text(&f->kv, pieces[i]);
    kv_array(f, "tokenizer.ggml.scores", CAKE_GGUF_F32, 3);
    for (int i = 0; i < 3; i++) put_u32(&f->kv, 0);
    kv_array(f, "tokenizer.ggml.token_type", CAKE_GGUF_I32, 3);
    for (int i = 0; i < 3; i++) put_u32(&f->kv, types[i]);
    kv_u32(f, "tokenizer.ggml.eos_token_id", 1);
}

static void kv_config(gguf_file *f, const opened *o, const char *arch) {
    const cake_model_config *c = &o->config;
    const cake_moe_config *m = &c->moe;
    kv_text(f, "general.type", "model");
    kv_text(f, "general.architecture", arch);
    kv_arch(f, arch, "context_length", c->max_positions, true);
    kv_arch(f, arch, "embedding_length", c->hidden, true);
    kv_arch(f, arch, "block_count", c->n_layers, true);
    kv_arch(f, arch, "feed_forward_length", c->ff ? c->ff : m->ff, true);
    kv_arch(f, arch, "attention.head_count", c->n_heads, true);
    kv_arch(f, arch, "attention.head_count_kv", c->n_kv_heads, true);
    kv_arch(f, arch, "attention.key_length", c->head_dim, true);
    kv_arch(f, arch, "attention.value_length", c->head_dim, true);
    kv_arch(f, arch, "attention.layer_norm_rms_epsilon", c->norm_eps, false);
    if (m->n_experts) {
        char *key = cake_asprintf("%s.expert_weights_norm", arch);
        kv_arch(f, arch, "expert_count", m->n_experts, true);
        kv_arch(f, arch, "expert_used_count", m->top_k, true);
        kv_arch(f, arch, "expert_feed_forward_length", m->ff, true);
        if (m->shared_ff) kv_arch(f, arch, "expert_shared_feed_forward_length", m->shared_ff, true);
        kv_bool(f, key, m->norm_top_k);
        free(key);
    }
    if (c->post_norms) { /* Gemma */
        kv_arch(f, arch, "attention.sliding_window", c->window, true);
        kv_arch(f, arch, "final_logit_softcapping", c->logit_softcap, false);
        if (c->family == CAKE_FAMILY_GEMMA2)
            kv_arch(f, arch, "attn_logit_softcapping", c->attn_softcap, false);
        else
            kv_arch(f, arch, "attention.sliding_window_pattern", 3, true);
        kv_pieces(f);
    }
    kv_rope(f, o, arch);
}

static const char *arch_of(const opened *o) {
    static const char *const pairs[][2] = {
        {"llama", "llama"}, {"mixtral", "llama"},      {"qwen2", "qwen2"},
        {"qwen3", "qwen3"}, {"qwen2_moe", "qwen2moe"}, {"qwen3_moe", "qwen3moe"},
        {"gemma", "gemma"}, {"gemma2", "gemma2"},      {"gemma3_text", "gemma3"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strcmp(o->config.model_type, pairs[i][0]) == 0) return pairs[i][1];
    fail_msg("no architecture for %s", o->config.model_type);
    return NULL;
}

static void add_tensors(gguf_file *f, const opened *o, const char *arch, uint32_t part,
                        uint32_t n_parts) {
    for (uint32_t i = 0; i < o->ck->n_tensors; i++) {
        const cake_tensor *t = &o->ck->tensors[i];
        char *name = gguf_name(o, t->name);
        if (!name || i % n_parts != part) {
            free(name);
            continue;
        }
        bool permute = strcmp(arch, "llama") == 0 && (strstr(t->name, ".self_attn.q_proj.") ||
                                                      strstr(t->name, ".self_attn.k_proj."));
        bool one_more = o->config.norm_add_one && strstr(t->name, "norm.");
        uint32_t type = one_more ? 0 : ggml_type_of(o, t), n_experts, rank = t->rank;
        const cake_gguf_kind *k = cake_gguf_kind_of(type);
        bytes b = gguf_bytes(o, t, permute, &n_experts);
        if (one_more) add_one(&b, t->dtype);
        uint64_t dims[4] = {1, 1, 1, 1};
        for (uint32_t d = 0; d < rank; d++) dims[d] = t->shape[rank - 1 - d];
        if (k->dtype == CAKE_DTYPE_NONE) dims[0] = dims[0] / k->bytes * k->weights;
        if (n_experts) dims[rank++] = n_experts;
        while (rank > 1 && dims[rank - 1] == 1) rank--; /* as llama.cpp writes them */
        add_tensor(f, name, type, rank, dims, b.p);
        free(b.p);
        free(name);
    }
}

/* A GGUF file of a folder in dir; n_parts > 1: split. Returns its path (of the first part). */
static char *gguf_of(const opened *o, const char *dir, uint32_t n_parts) {
    char *path = NULL;
    for (uint32_t p = 0; p < n_parts; p++) {
        gguf_file f = {.alignment = 0};
        const char *arch = arch_of(o);
        char *name = n_parts > 1 ? cake_asprintf("m-%05u-of-%05u.gguf", p + 1, n_parts)
                                 : cake_strdup("m.gguf");
        if (p == 0) kv_config(&f, o, arch);
        if (n_parts > 1) kv_u32(&f, "split.no", p), kv_u32(&f, "split.count", n_parts);
        add_tensors(&f, o, arch, p, n_parts);
        bytes b = finish(&f);
        write_file(dir, name, b.p, b.n);
        if (p == 0) path = cake_path_join(dir, name);
        free(b.p);
        free(name);
    }
    return path;
}

static void same_as_folder(const char *name, uint32_t n_parts) {
    char *folder = cake_asprintf("tests/vectors/reference/%s", name);
    opened s = open_model(folder);
    char *dir = tmp_dir(), *path = gguf_of(&s, dir, n_parts);
    opened g = open_model(path);
    assert_int_equal(g.ck->n_files, n_parts);
    cake_sha256 a = logits_of(&s), b = logits_of(&g);
    if (memcmp(&a, &b, sizeof a) != 0) fail_msg("%s: other logits as GGUF", name);
    close_model(&g);
    close_model(&s);
    free(path);
    free(folder);
    tmp_remove(dir);
}

/* Float and kquant checkpoints of every family, scaling and codec: the same bits as GGUF. */
static void test_families(void **state) {
    (void)state;
    static const char *const names[] = {"llama-f32",           "llama-tied-f16",
                                        "llama3-rope-bf16",    "llama-linear-f16",
                                        "llama-biases-f32",    "qwen2-bf16",
                                        "qwen2-yarn-f16",      "qwen3-bf16",
                                        "qwen3-yarn-bf16",     "kquant-super-blocks",
                                        "kquant-small-blocks", "mixtral-bf16",
                                        "qwen2moe-bf16",       "qwen2moe-norm-dense-f32",
                                        "qwen3moe-f16",        "gemma-bf16",
                                        "gemma2-bf16",         "gemma3-untied-f16"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) same_as_folder(names[i], 1);
}

static void test_split(void **state) {
    (void)state;
    same_as_folder("kquant-super-blocks", 3);
    opened s = open_model("tests/vectors/reference/qwen2-bf16");
    char *dir = tmp_dir(), *path = gguf_of(&s, dir, 2), *second = cake_strdup(path), *other;
    cake_checkpoint *ck;
    second[strlen(second) - strlen("1-of-00002.gguf")] = '2';
    opened g = open_model(dir); /* the folder holds one model */
    assert_int_equal(g.ck->n_files, 2);
    close_model(&g);
    OK(cake_checkpoint_open(&ck, second, &err)); /* any part names them all */
    cake_checkpoint_close(ck);
    other = cake_path_join(dir, "renamed.gguf");
    assert_int_equal(rename(second, other), 0);
    assert_fails(cake_checkpoint_open(&ck, path, &err), CAKE_ENOTFOUND, &err, "part 2 of 2");
    assert_fails(cake_checkpoint_open(&ck, other, &err), CAKE_EFORMAT, &err, "part 2 of 2");
    size_t n;
    char *text = read_text(dir, "m-00001-of-00002.gguf", &n);
    write_file(dir, "m-00002-of-00002.gguf", text, n);
    assert_fails(cake_checkpoint_open(&ck, path, &err), CAKE_EFORMAT, &err, "part 1 of 2");
    free(text);
    free(other);
    free(second);
    free(path);
    close_model(&s);
    tmp_remove(dir);
}

/* ---- tokenizer and template ---- */

static void same_ids(const cake_tokenizer *a, const cake_tokenizer *b, const char *text, size_t n) {
    for (unsigned flags = 0; flags < 4; flags++) {
        cake_ids x = {0}, y = {0};
        OK(cake_tokenizer_encode(a, text, n, flags, &x, &err));
        OK(cake_tokenizer_encode(b, text, n, flags, &y, &err));
        if (x.n != y.n || (x.n && memcmp(x.v, y.v, x.n * sizeof *x.v) != 0))
            fail_msg("flags %u: %zu ids and %zu ids for: %.*s", flags, x.n, y.n,
                     (int)(n > 200 ? 200 : n), text);
        char *s, *t;
        size_t ns, nt;
        OK(cake_tokenizer_decode(a, x.v, x.n, false, &s, &ns, &err));
        OK(cake_tokenizer_decode(b, x.v, x.n, false, &t, &nt, &err));
        assert_int_equal(ns, nt);
        assert_memory_equal(s, t, ns);
        free(s);
        free(t);
        cake_ids_deinit(&x);
        cake_ids_deinit(&y);
    }
}

static void same_tokenizer(const char *a_path, const char *b_path) {
    static const char *const texts[] = {
        "",
        " ",
        "Once upon a time, there was a little girl named Lily.",
        "  two  spaces\n\nand\tlines \r\n",
        "<s>not a token</s> <|im_end|><|eot_id|><tool_call>",
        "caf\xC3\xA9 cafe\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80 1234567 3.14",
        "don't I'LL we've CamelCaseWords snake_case x+=1;//\n",
        "\xE2\x96\x81 \xFF\xFE broken \xE2\x96"};
    cake_tokenizer *a, *b;
    OK(cake_tokenizer_open(&a, a_path, &err));
    OK(cake_tokenizer_open(&b, b_path, &err));
    assert_int_equal(cake_tokenizer_bos(a), cake_tokenizer_bos(b));
    assert_int_equal(cake_tokenizer_eos(a), cake_tokenizer_eos(b));
    size_t x[2], y[2];
    cake_tokenizer_n_special(a, &x[0], &x[1]);
    cake_tokenizer_n_special(b, &y[0], &y[1]);
    assert_memory_equal(x, y, sizeof x);
    for (uint32_t i = 0; i < cake_tokenizer_vocab_size(a); i++) {
        assert_int_equal(cake_tokenizer_is_special(a, i), cake_tokenizer_is_special(b, i));
        assert_int_equal(cake_tokenizer_is_added(a, i), cake_tokenizer_is_added(b, i));
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        same_ids(a, b, texts[i], strlen(texts[i]));
    size_t n;
    char *readme = read_text(".", "README.md", &n);
    same_ids(a, b, readme, n);
    free(readme);
    cake_tokenizer_free(a);
    cake_tokenizer_free(b);
}

/* Written as files it is the same tokenizer again. */
static void same_written(const char *path) {
    char *dir = tmp_dir();
    OK(cake_tokenizer_write_gguf(path, dir, &err));
    same_tokenizer(path, dir);
    tmp_remove(dir);
}

static void test_fixture_tokenizer(void **state) {
    (void)state;
    same_tokenizer(SOURCE, FIXTURE);
    same_written(FIXTURE);
    cake_chat_template *t;
    assert_fails(cake_chat_template_open(&t, FIXTURE, &err), CAKE_ENOTFOUND, &err,
                 "no chat template");
}

/* Metadata of a tokenizer.json of the byte alphabet, as llama.cpp's converter writes it. */
static void write_tokenizer(const char *folder, const char *pre, bool bos, const char *path) {
    enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5 };
    gguf_file f = {.alignment = 0};
    json_object *root = NULL, *model = NULL, *vocab = NULL, *merges = NULL, *added = NULL;
    char *json = cake_path_join(folder, "tokenizer.json");
    OK(cake_json_read(json, 1 << 26, &root, &err));
    OK(cake_json_object(root, "model", true, &model, &err));
    OK(cake_json_object(model, "vocab", true, &vocab, &err));
    OK(cake_json_array(model, "merges", true, 1 << 22, &merges, &err));
    OK(cake_json_array(root, "added_tokens", true, 1 << 20, &added, &err));
    size_t n = (size_t)json_object_object_length(vocab) + json_object_array_length(added) + 3;
    const char **text = cake_calloc(n, sizeof *text);
    uint32_t *type = cake_calloc(n, sizeof *type);
    json_object_object_foreach(vocab, key, id) {
        text[json_object_get_int(id)] = key, type[json_object_get_int(id)] = TYPE_NORMAL;
    }
    for (size_t i = 0; i < json_object_array_length(added); i++) {
        json_object *o = json_object_array_get_idx(added, i);
        uint32_t at = 0;
        bool special = false;
        OK(cake_json_u32(o, "id", true, 0, (uint32_t)n - 1, &at, &err));
        OK(cake_json_string(o, "content", true, 1000, &text[at], &err));
        OK(cake_json_bool(o, "special", true, &special, &err));
        type[at] = special ? TYPE_CONTROL : TYPE_USER_DEFINED;
    }
    kv_text(&f, "tokenizer.ggml.model", "gpt2");
    kv_text(&f, "tokenizer.ggml.pre", pre);
    kv_array(&f, "tokenizer.ggml.tokens", CAKE_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) put_text(&f.kv, text[i] ? text[i] : "[PAD]");
    kv_array(&f, "tokenizer.ggml.token_type", CAKE_GGUF_I32, n);
    for (size_t i = 0; i < n; i++) put_u32(&f.kv, text[i] ? type[i] : TYPE_UNUSED);
    size_t n_merges = json_object_array_length(merges);
    kv_array(&f, "tokenizer.ggml.merges", CAKE_GGUF_STRING, n_merges);
    for (size_t i = 0; i < n_merges; i++) {
        json_object *m = json_object_array_get_idx(merges, i);
        char *pair =
            json_object_is_type(m, json_type_string)
                ? cake_strdup(json_object_get_string(m))
                : cake_asprintf("%s %s", json_object_get_string(json_object_array_get_idx(m, 0)),
                                json_object_get_string(json_object_array_get_idx(m, 1)));
        put_text(&f.kv, pair);
        free(pair);
    }
    cake_tokenizer *t;
    OK(cake_tokenizer_open(&t, folder, &err));
    if (cake_tokenizer_bos(t) >= 0)
        kv_u32(&f, "tokenizer.ggml.bos_token_id", (uint32_t)cake_tokenizer_bos(t));
    kv_u32(&f, "tokenizer.ggml.eos_token_id", (uint32_t)cake_tokenizer_eos(t));
    kv_bool(&f, "tokenizer.ggml.add_bos_token", bos);
    kv_text(&f, "tokenizer.chat_template", "{{ bos_token }}[{{ messages[0].content }}]");
    cake_tokenizer_free(t);
    bytes b = finish(&f);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(b.p, 1, b.n, out), b.n);
    assert_int_equal(fclose(out), 0);
    free(b.p);
    free(text);
    free(type);
    free(json);
    json_object_put(root);
}

static void test_tokenizers(void **state) {
    (void)state;
    static const struct {
        const char *name, *pre;
        bool bos;
    } c[] = {
        {"qwen2.5", "qwen2", false}, {"qwen3", "qwen2", false}, {"llama3.2", "llama-bpe", true}};
    unsigned n = 0;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char *sub = cake_asprintf("tokenizers/%s/tokenizer.json", c[i].name),
             *json = shared_data(sub);
        free(sub);
        if (!json) continue;
        char *folder = cake_strndup(json, strlen(json) - strlen("/tokenizer.json"));
        char *dir = tmp_dir(), *path = cake_path_join(dir, "t.gguf");
        write_tokenizer(folder, c[i].pre, c[i].bos, path);
        same_tokenizer(folder, path);
        same_written(path);
        cake_chat_template *t;
        OK(cake_chat_template_open(&t, path, &err));
        json_object *messages = json_tokener_parse("[{\"role\":\"user\",\"content\":\"hi\"}]");
        char *text;
        size_t len;
        OK(cake_chat_template_apply(t, &(cake_chat_request){.messages = messages}, &text, &len,
                                    &err));
        char *want =
            cake_asprintf("%s[hi]", c[i].bos ? "<|begin_of_text|>" : cake_chat_template_bos(t));
        assert_string_equal(text, want);
        json_object_put(messages);
        cake_chat_template_free(t);
        free(want);
        free(text);
        free(path);
        free(folder);
        free(json);
        tmp_remove(dir);
        n++;
    }
    if (!n) skip();
}

/* From a path to the name in GGUF files: importance matrices have those. */
static void test_names_back(void **state) {
    (void)state;
    static const struct {
        const char *path, *gguf;
    } want[] = {{"model.embed_tokens", "token_embd"},
                {"lm_head", "output"},
                {"language_model.lm_head", "output"},
                {"model.layers.31.self_attn.o_proj", "blk.31.attn_output"},
                {"model.layers.0.mlp.switch_mlp.down_proj", "blk.0.ffn_down_exps"},
                {"model.layers.7.block_sparse_moe.switch_mlp.up_proj", "blk.7.ffn_up_exps"},
                {"model.layers.7.block_sparse_moe.gate", "blk.7.ffn_gate_inp"},
                {"model.layers.7.block_sparse_moe.other", NULL},
                {"model.layers.x.mlp.down_proj", NULL},
                {"model.layers.1.mlp", NULL},
                {"model.layers.99999999999999999999.mlp.down_proj", NULL},
                {"", NULL}};
    char out[64];
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        bool ok = cake_gguf_name_of(want[i].path, out, sizeof out);
        assert_int_equal(ok, want[i].gguf != NULL);
        if (ok) assert_string_equal(out, want[i].gguf);
    }
    assert_false(cake_gguf_name_of("model.embed_tokens", out, 4));
}

/* What the metadata says of Gemma, and what it leaves to the reader. */
static cake_model_config gemma_config(const char *arch, uint32_t layers, bool says_more) {
    gguf_file f = {.alignment = 0};
    kv_text(&f, "general.architecture", arch);
    kv_arch(&f, arch, "context_length", 8192, true);
    kv_arch(&f, arch, "embedding_length", 640, true);
    kv_arch(&f, arch, "block_count", layers, true);
    kv_arch(&f, arch, "feed_forward_length", 64, true);
    kv_arch(&f, arch, "attention.head_count", 4, true);
    kv_arch(&f, arch, "attention.head_count_kv", 2, true);
    kv_arch(&f, arch, "attention.key_length", 64, true);
    kv_arch(&f, arch, "attention.value_length", 64, true);
    kv_arch(&f, arch, "attention.layer_norm_rms_epsilon", 1e-6, false);
    if (says_more) {
        char *type = cake_asprintf("%s.rope.scaling.type", arch);
        kv_arch(&f, arch, "attention.sliding_window", 512, true);
        kv_arch(&f, arch, "rope.freq_base", 5e5, false);
        kv_arch(&f, arch, "rope.freq_base_swa", 2e4, false);
        kv_arch(&f, arch, "rope.scaling.factor", 8, false);
        kv_arch(&f, arch, "final_logit_softcapping", 20, false);
        kv_text(&f, type, "linear");
        free(type);
    }
    kv_pieces(&f);
    add_tensor2(&f, "token_embd.weight", 0, 640, 3);
    bytes b = finish(&f);
    cake_gguf g;
    cake_gguf_model m;
    cake_model_config c;
    OK(cake_gguf_parse(&g, b.p, b.n, CAKE_GGUF_NAME_MAX, "x", &err));
    OK(cake_gguf_model_new(&m, &g, 1, &err));
    OK(cake_config_parse(&c, m.config, m.config_len, "x", &err));
    cake_gguf_model_deinit(&m);
    cake_gguf_deinit(&g);
    free(b.p);
    assert_true(!c.norm_add_one && c.post_norms && c.gelu && c.embed_scale == 25.25f);
    assert_true(c.n_eos == 2 && c.eos_ids[1] == 2);
    return c;
}

static void test_gemma(void **state) {
    (void)state;
    cake_model_config c = gemma_config("gemma2", 6, false);
    assert_true(c.attn_softcap == 50 && c.logit_softcap == 30 && c.window == 4096);
    assert_true(c.query_scalar == 64 && c.rope.theta == 10000);
    for (uint32_t i = 0; i < 6; i++) assert_int_equal(cake_config_is_sliding(&c, i), i % 2 == 0);
    cake_config_deinit(&c);
    c = gemma_config("gemma2", 46, false);
    assert_true(c.query_scalar == 160); /* the 27B model: hidden / heads */
    cake_config_deinit(&c);
    c = gemma_config("gemma3", 12, true);
    assert_true(c.attn_softcap == 0 && c.logit_softcap == 20 && c.window == 512 && c.qk_norm);
    assert_true(c.rope.theta == 5e5 && c.rope.type == CAKE_SCALING_LINEAR && c.rope.factor == 8);
    assert_true(c.local_rope.theta == 2e4 && c.local_rope.type == CAKE_SCALING_DEFAULT);
    for (uint32_t i = 0; i < 12; i++) assert_int_equal(cake_config_is_sliding(&c, i), i % 6 != 5);
    cake_config_deinit(&c);
    c = gemma_config("gemma3", 62, false); /* no window is said: none */
    assert_true(c.query_scalar == 160 && c.rope.theta == 1e6 && c.local_rope.theta == 10000);
    for (uint32_t i = 0; i < 62; i++) assert_false(cake_config_is_sliding(&c, i));
    cake_config_deinit(&c);
}

/* Quantized, a GGUF file becomes the checkpoint that the folder becomes: norms without the 1. */
static void test_gemma_quantized(void **state) {
    (void)state;
    static const char folder[] = "tests/vectors/reference/gemma3-untied-f16";
    opened s = open_model(folder);
    char *dir = tmp_dir(), *gguf = gguf_of(&s, dir, 1);
    const char *const from[2] = {folder, gguf};
    cake_sha256 logits[2];
    for (int i = 0; i < 2; i++) {
        char *out = cake_path_join(dir, i ? "b" : "a");
        cake_quantize_request q = {.model = from[i], .out = out, .threads = 1};
        q.recipe.type = "q8_0";
        cake_quantize_result r;
        OK(cake_quantize(&q, &r, &err));
        opened o = open_model(out);
        assert_true(o.config.norm_add_one && !strstr(o.config_text, CAKE_CONFIG_NORM_ADD_ONE));
        logits[i] = logits_of(&o);
        close_model(&o);
        free(out);
    }
    assert_memory_equal(&logits[0], &logits[1], sizeof logits[0]);
    close_model(&s);
    free(gguf);
    tmp_remove(dir);
}

/* As Gemma's converter writes them: no space in front, runs of spaces as user-defined pieces with
 * real spaces, found before any merge; everything comes back as it was. */
static void test_gemma_pieces(void **state) {
    (void)state;
    static const struct {
        const char *text;
        float score;
        uint32_t type;
    } pieces[] = {{"<pad>", 0, 3},
                  {"<eos>", 0, 3},
                  {"<bos>", 0, 3},
                  {"<unk>", 0, 2},
                  {"a", -9, 1},
                  {"b", -9, 1},
                  {"\xE2\x96\x81", -9, 1},
                  {"\xE2\x96\x81"
                   "b",
                   -1, 1},
                  {"  ", 0, 4},
                  {"   ", 0, 4},
                  {"\n\n", 0, 4},
                  {"<0x0A>", 0, 6},
                  {"<start_of_turn>", 0, 3}};
    enum { N = sizeof pieces / sizeof *pieces };
    gguf_file f = {.alignment = 0};
    kv_text(&f, "tokenizer.ggml.model", "llama");
    kv_array(&f, "tokenizer.ggml.tokens", CAKE_GGUF_STRING, N);
    for (int i = 0; i < N; i++) put_text(&f.kv, pieces[i].text);
    kv_array(&f, "tokenizer.ggml.scores", CAKE_GGUF_F32, N);
    for (int i = 0; i < N; i++) put_bytes(&f.kv, &pieces[i].score, 4);
    kv_array(&f, "tokenizer.ggml.token_type", CAKE_GGUF_I32, N);
    for (int i = 0; i < N; i++) put_u32(&f.kv, pieces[i].type);
    kv_u32(&f, "tokenizer.ggml.bos_token_id", 2);
    kv_u32(&f, "tokenizer.ggml.eos_token_id", 1);
    kv_bool(&f, "tokenizer.ggml.add_bos_token", true);
    kv_bool(&f, "tokenizer.ggml.add_space_prefix", false);
    char *dir = tmp_dir(), *path = cake_path_join(dir, "t.gguf");
    bytes b = finish(&f);
    write_file(dir, "t.gguf", b.p, b.n);
    free(b.p);
    cake_tokenizer *t;
    OK(cake_tokenizer_open(&t, path, &err));
    static const struct {
        const char *text;
        uint32_t n, ids[8];
    } c[] = {{"a b", 3, {2, 4, 7}},
             {"a  b", 4, {2, 4, 8, 5}},
             {" a    b\n", 6, {2, 6, 4, 9, 7, 11}},
             {"a\n\n\nb", 5, {2, 4, 10, 11, 5}},
             {"<start_of_turn>b", 3, {2, 12, 5}}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        cake_ids ids = {0};
        char *text;
        size_t n;
        OK(cake_tokenizer_encode(t, c[i].text, strlen(c[i].text),
                                 CAKE_TOK_ADD_SPECIAL | CAKE_TOK_PARSE_SPECIAL, &ids, &err));
        if (ids.n != c[i].n || memcmp(ids.v, c[i].ids, ids.n * sizeof *ids.v) != 0)
            fail_msg("'%s': %zu ids, the second %u", c[i].text, ids.n, ids.v[1]);
        OK(cake_tokenizer_decode(t, ids.v + 1, ids.n - 1, false, &text, &n, &err));
        assert_string_equal(text, c[i].text);
        free(text);
        cake_ids_deinit(&ids);
    }
    cake_tokenizer_free(t);
    same_written(path);
    free(path);
    tmp_remove(dir);
}

/* What the metadata must not say, each with a message that names it. */
static void test_refusals(void **state) {
    (void)state;
    opened s = open_model("tests/vectors/reference/llama-f32");
    char *dir = tmp_dir(), *path = cake_path_join(dir, "m.gguf");
    static const struct {
        const char *key; /* replaces "KEY" of the config that gguf_of writes, or is added */
        char kind;       /* i: u32, f: f32, t: text, b: bool, -: left out */
        double number;
        const char *text;
        cake_status st;
        const char *words;
    } c[] = {
        {"general.architecture", 't', 0, "gemma3n", CAKE_EUNSUPPORTED, "architecture 'gemma3n'"},
        {"general.architecture", '-', 0, NULL, CAKE_EFORMAT, "'general.architecture'"},
        {"general.architecture", 'i', 3, NULL, CAKE_EFORMAT, "'general.architecture' is a u32"},
        {"general.type", 't', 0, "adapter", CAKE_EUNSUPPORTED, "type 'adapter'"},
        {"llama.embedding_length", '-', 0, NULL, CAKE_EFORMAT, "'llama.embedding_length'"},
        {"llama.embedding_length", 'i', 4e9, NULL, CAKE_EFORMAT, "'llama.embedding_length'"},
        {"llama.embedding_length", 'i', 128, NULL, CAKE_EFORMAT, "embed_tokens"},
        {"llama.block_count", 'i', 0, NULL, CAKE_EFORMAT, "num_hidden_layers"},
        {"llama.block_count", 'i', 1, NULL, CAKE_EUNSUPPORTED, "layers.1."},
        {"llama.block_count", 'i', 3, NULL, CAKE_ENOTFOUND, "layers.2."},
        {"llama.attention.head_count", 'i', 0, NULL, CAKE_EFORMAT, "num_attention_heads"},
        {"llama.attention.head_count", 't', 0, "4", CAKE_EFORMAT, "expected an integer"},
        {"llama.attention.head_count_kv", 'i', 3, NULL, CAKE_EFORMAT, "num_key_value_heads"},
        {"llama.attention.value_length", 'i', 32, NULL, CAKE_EUNSUPPORTED, "values of 32"},
        {"llama.rope.dimension_count", 'i', 8, NULL, CAKE_EUNSUPPORTED, "8 rotated dimensions"},
        {"llama.attention.layer_norm_rms_epsilon", '-', 0, NULL, CAKE_EFORMAT, "rms_epsilon"},
        {"llama.attention.layer_norm_rms_epsilon", 'f', -1, NULL, CAKE_EFORMAT, "rms_norm_eps"},
        {"llama.context_length", '-', 0, NULL, CAKE_EFORMAT, "'llama.context_length'"},
        {"llama.feed_forward_length", 'i', 64, NULL, CAKE_EFORMAT, "gate_proj"},
        {"llama.expert_count", 'i', 4, NULL, CAKE_EFORMAT, "'llama.expert_used_count'"},
        {"llama.rope.scaling.type", 't', 0, "longrope", CAKE_EUNSUPPORTED, "'longrope'"},
        {"llama.rope.scaling.attn_factor", 'f', 2, NULL, CAKE_EUNSUPPORTED, "attention factor"},
        {"llama.rope.freq_base", 'f', (double)NAN, NULL, CAKE_EFORMAT, "'llama.rope.freq_base'"},
        {"llama.attention.clamp_kqv", 'f', 8, NULL, CAKE_EUNSUPPORTED, "clamp_kqv"},
        {"llama.attn_logit_softcapping", 'f', 50, NULL, CAKE_EUNSUPPORTED, "softcapping"},
        {"llama.logit_scale", 'f', 0.5, NULL, CAKE_EUNSUPPORTED, "logit_scale"},
        {"llama.attention.causal", 'b', 0, NULL, CAKE_EUNSUPPORTED, "attention.causal"},
        {"llama.use_parallel_residual", 'b', 1, NULL, CAKE_EUNSUPPORTED, "parallel_residual"},
        {"split.count", 'i', 3, NULL, CAKE_EFORMAT, "of a split file"},
        {"tokenizer.ggml.eos_token_id", 't', 0, "x", CAKE_EFORMAT, "eos_token_id"},
        {"blk.0.post_ffw_norm.weight", 'T', 0, NULL, CAKE_EUNSUPPORTED, "post_ffw_norm"},
        {"blk.0.attn_sinks.weight", 'T', 0, NULL, CAKE_EUNSUPPORTED, "'blk.0.attn_sinks.weight'"},
        {"blk.00.attn_norm.weight", 'T', 0, NULL, CAKE_EUNSUPPORTED, "'blk.00.attn_norm.weight'"},
        {"model.norm.weight", 'T', 0, NULL, CAKE_EUNSUPPORTED, "'model.norm.weight'"},
        {"rope_freqs.weight", 'T', 0, NULL, CAKE_EFORMAT, "rope_freqs.weight"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        gguf_file f = {.alignment = 0}, all = {.alignment = 0};
        kv_config(&all, &s, "llama");
        /* Copy what is not replaced: parse the values that were written. */
        bytes b = finish(&all);
        cake_gguf g;
        OK(cake_gguf_parse(&g, b.p, b.n, CAKE_GGUF_NAME_MAX, "x", &err));
        for (size_t k = 0; k < g.n_values; k++) {
            const cake_gguf_value *v = &g.values[k];
            if (v->key.n == strlen(c[i].key) && memcmp(v->key.s, c[i].key, v->key.n) == 0) continue;
            const uint8_t *from = (const uint8_t *)v->key.s - 8,
                          *to = k + 1 < g.n_values ? (const uint8_t *)g.values[k + 1].key.s - 8
                                                   : v->at + 4;
            put_bytes(&f.kv, from, (size_t)(to - from)), f.n_kv++;
        }
        cake_gguf_deinit(&g);
        free(b.p);
        switch (c[i].kind) {
        case 'i': kv_u32(&f, c[i].key, (uint32_t)c[i].number); break;
        case 'f': kv_f32(&f, c[i].key, (float)c[i].number); break;
        case 'b': kv_bool(&f, c[i].key, c[i].number > 0); break;
        case 't': kv_text(&f, c[i].key, c[i].text); break;
        default: break;
        }
        add_tensors(&f, &s, "llama", 0, 1);
        if (c[i].kind == 'T') add_tensor2(&f, c[i].key, 0, 64, 1);
        b = finish(&f);
        write_file(dir, "m.gguf", b.p, b.n);
        free(b.p);
        cake_checkpoint *ck = NULL;
        cake_model_config config = {0};
        cake_layout *layout = NULL;
        char *text = NULL;
        size_t len;
        err = (cake_error){0};
        cake_status st = cake_checkpoint_open(&ck, path, &err);
        if (st == CAKE_OK) st = cake_checkpoint_config(ck, &text, &len, &err);
        if (st == CAKE_OK) st = cake_config_parse(&config, text, len, ck->config_path, &err);
        if (st == CAKE_OK) {
            st = cake_layout_new(&layout, &config, ck, NULL, 0, &err);
            cake_config_deinit(&config);
        }
        if (st != c[i].st || !strstr(err.msg, c[i].words))
            fail_msg("%s: expected %s with '%s', got %s: %s", c[i].key, cake_status_name(c[i].st),
                     c[i].words, cake_status_name(st), err.msg);
        if (!strstr(err.msg, dir)) fail_msg("no file named in: %s", err.msg);
        free(text);
        cake_checkpoint_close(ck);
    }
    free(path);
    close_model(&s);
    tmp_remove(dir);
}

/* The same for tokenizers. */
static void test_tokenizer_refusals(void **state) {
    (void)state;
    char *dir = tmp_dir(), *path = cake_path_join(dir, "m.gguf");
    static const struct {
        const char *model, *pre;
        uint32_t n_tokens, n_types, type;
        const char *merge, *words;
        cake_status st;
    } c[] = {
        {"bert", "qwen2", 3, 3, 1, "a b", "tokenizer.ggml.model \"bert\"", CAKE_EUNSUPPORTED},
        {NULL, "qwen2", 3, 3, 1, "a b", "tokenizer.ggml.model", CAKE_EFORMAT},
        {"gpt2", "viking", 3, 3, 1, "a b", "pre \"viking\"", CAKE_EUNSUPPORTED},
        {"gpt2", NULL, 3, 3, 1, "a b", "tokenizer.ggml.pre is missing", CAKE_EUNSUPPORTED},
        {"gpt2", "qwen2", 3, 2, 1, "a b", "3 tokens with 2 types", CAKE_EFORMAT},
        {"gpt2", "qwen2", 3, 3, 0, "a b", "token 0 is not well-formed", CAKE_EFORMAT},
        {"gpt2", "qwen2", 3, 3, 7, "a b", "token 0 is not well-formed", CAKE_EFORMAT},
        {"gpt2", "qwen2", 3, 3, 1, "a c", "not in the vocabulary", CAKE_EFORMAT},
        {"gpt2", "qwen2", 3, 3, 1, "ab", "not two tokens", CAKE_EFORMAT},
        {"gpt2", "qwen2", 3, 3, 1, NULL, "tokenizer.ggml.merges", CAKE_EFORMAT},
        {"gpt2", "qwen2", 4, 4, 1, "a b", "token 3 is not well-formed", CAKE_EFORMAT},
        {"llama", "default", 3, 3, 1, "a b", "tokenizer.ggml.scores", CAKE_EFORMAT},
        {"gpt2", "qwen2", 3, 3, 1, "a b", NULL, CAKE_OK},
    };
    static const char *const tokens[] = {"a", "b", "ab", "\xFF"};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        gguf_file f = {.alignment = 0};
        if (c[i].model) kv_text(&f, "tokenizer.ggml.model", c[i].model);
        if (c[i].pre) kv_text(&f, "tokenizer.ggml.pre", c[i].pre);
        kv_array(&f, "tokenizer.ggml.tokens", CAKE_GGUF_STRING, c[i].n_tokens);
        for (uint32_t k = 0; k < c[i].n_tokens; k++) put_text(&f.kv, tokens[k]);
        kv_array(&f, "tokenizer.ggml.token_type", CAKE_GGUF_I32, c[i].n_types);
        for (uint32_t k = 0; k < c[i].n_types; k++) put_u32(&f.kv, c[i].type);
        if (c[i].merge) kv_array(&f, "tokenizer.ggml.merges", CAKE_GGUF_STRING, 1);
        if (c[i].merge) put_text(&f.kv, c[i].merge);
        bytes b = finish(&f);
        write_file(dir, "m.gguf", b.p, b.n);
        free(b.p);
        cake_tokenizer *t = NULL;
        cake_status st = cake_tokenizer_open(&t, path, &err);
        if (c[i].st == CAKE_OK) {
            assert_ok(st, &err);
            cake_tokenizer_free(t);
            continue;
        }
        assert_fails(st, c[i].st, &err, c[i].words);
        assert_non_null(strstr(err.msg, path));
    }
    free(path);
    tmp_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixture_tensors),
        cmocka_unit_test(test_fixture_config),
        cmocka_unit_test(test_bundle),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_gemma),
        cmocka_unit_test(test_gemma_pieces),
        cmocka_unit_test(test_gemma_quantized),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_fixture_tokenizer),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_tokenizer_refusals),
        cmocka_unit_test(test_names_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
