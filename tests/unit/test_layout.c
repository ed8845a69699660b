/* Layout: units of every family and width, the rules of formats.md 2.1 and 2.7, contradictions. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/modelfile.h"

static cake_status try_layout(const char *dir, cake_error *err) {
    cake_checkpoint *ck = NULL;
    cake_model_config c;
    cake_layout *l = NULL;
    *err = (cake_error){0};
    cake_status st = cake_checkpoint_open(&ck, dir, err);
    if (st != CAKE_OK) return st;
    if ((st = cake_config_read(&c, ck->config_path, err)) == CAKE_OK) {
        st = cake_layout_new(&l, &c, ck, NULL, 0, err);
        cake_layout_free(l);
        cake_config_deinit(&c);
    }
    cake_checkpoint_close(ck);
    return st;
}

static void check_module(const opened *o, uint32_t unit, cake_role role, uint32_t n, uint32_t k,
                         bool norm) {
    const cake_module *m = cake_layout_module(o->layout, unit, role);
    assert_non_null(m);
    assert_int_equal(m->role, role);
    assert_int_equal(m->n, n);
    assert_int_equal(m->k, k);
    const cake_tensor *t = o->ck->tensors;
    char name[200];
    snprintf(name, sizeof name, "%s.weight", m->path);
    assert_string_equal(t[m->weight].name, name);
    if (norm || m->kind == CAKE_WEIGHT_DENSE) {
        assert_int_equal(m->kind, CAKE_WEIGHT_DENSE);
        assert_int_equal(m->scales, -1);
        assert_int_equal(m->biases, -1);
        assert_int_equal(m->dtype, t[m->weight].dtype);
    } else {
        assert_int_equal(t[m->weight].n_bytes, (uint64_t)n * k * m->bits / 8);
        assert_int_equal(t[m->scales].n_bytes, (uint64_t)n * k / m->group_size * 2);
        assert_int_equal(t[m->biases].n_bytes, t[m->scales].n_bytes);
        assert_int_equal(m->dtype, CAKE_DTYPE_BF16);
    }
}

static void check_model(const gen_model *g) {
    char *d = tmp_dir();
    gen_write(g, d);
    opened o = open_model(d);
    const cake_layout *l = o.layout;
    uint32_t q = g->heads * g->head_dim, kv = g->kv_heads * g->head_dim, L = g->n_layers;
    bool qwen2 = g->type && strcmp(g->type, "qwen2") == 0,
         qwen3 = g->type && strcmp(g->type, "qwen3") == 0;
    assert_int_equal(l->n_units, L + 2);
    assert_int_equal(l->tied, !g->untied);
    assert_int_equal(l->units[0].n_modules, 1);
    assert_int_equal(l->units[L + 1].n_modules, 2);
    check_module(&o, 0, CAKE_ROLE_EMBED, g->vocab, g->hidden, false);
    check_module(&o, L + 1, CAKE_ROLE_FINAL_NORM, 1, g->hidden, true);
    check_module(&o, L + 1, CAKE_ROLE_HEAD, g->vocab, g->hidden, false);
    for (uint32_t u = 1; u <= L; u++) {
        assert_int_equal(l->units[u].n_modules, qwen3 ? 11 : 9);
        check_module(&o, u, CAKE_ROLE_ATTN_NORM, 1, g->hidden, true);
        check_module(&o, u, CAKE_ROLE_Q, q, g->hidden, false);
        check_module(&o, u, CAKE_ROLE_K, kv, g->hidden, false);
        check_module(&o, u, CAKE_ROLE_V, kv, g->hidden, false);
        check_module(&o, u, CAKE_ROLE_O, g->hidden, q, false);
        check_module(&o, u, CAKE_ROLE_FFN_NORM, 1, g->hidden, true);
        check_module(&o, u, CAKE_ROLE_GATE, g->ff, g->hidden, false);
        check_module(&o, u, CAKE_ROLE_UP, g->ff, g->hidden, false);
        check_module(&o, u, CAKE_ROLE_DOWN, g->hidden, g->ff, false);
        if (qwen3) check_module(&o, u, CAKE_ROLE_Q_NORM, 1, g->head_dim, true);
        if (qwen3) check_module(&o, u, CAKE_ROLE_K_NORM, 1, g->head_dim, true);
        const cake_module *m = cake_layout_module(l, u, CAKE_ROLE_Q);
        assert_int_equal(m->bias >= 0, qwen2);
        if (qwen2) assert_int_equal(o.ck->tensors[m->bias].n_bytes, 2 * q);
        assert_int_equal(cake_layout_module(l, u, CAKE_ROLE_O)->bias, -1);
        assert_int_equal(m->bits, g->bits);
        for (uint32_t i = 1; i < l->units[u].n_modules; i++)
            assert_true(l->units[u].modules[i - 1].role < l->units[u].modules[i].role);
    }
    /* All tensors once, all bytes once; a tied head counts the table in its own unit. */
    cake_unit_range all = {0, L + 2}, head = {L + 1, L + 2}, ends[2] = {{0, 1}, {L + 1, L + 2}};
    uint32_t *idx = cake_calloc(o.ck->n_tensors, sizeof *idx);
    assert_int_equal(cake_layout_tensors(l, &all, 1, idx, o.ck->n_tensors), o.ck->n_tensors);
    assert_int_equal(cake_layout_bytes(l, &all, 1), o.ck->n_bytes);
    uint64_t sum = 0;
    for (uint32_t u = 0; u < L + 2; u++) sum += l->units[u].bytes;
    assert_int_equal(sum, o.ck->n_bytes + (g->untied ? 0 : l->units[0].bytes));
    assert_int_equal(cake_layout_bytes(l, &head, 1), l->units[L + 1].bytes);
    assert_int_equal(cake_layout_bytes(l, ends, 2),
                     g->untied ? l->units[0].bytes + l->units[L + 1].bytes : l->units[L + 1].bytes);
    assert_null(cake_layout_module(l, 0, CAKE_ROLE_HEAD));
    assert_null(cake_layout_module(l, L + 2, CAKE_ROLE_HEAD));
    free(idx);
    close_model(&o);
    tmp_remove(d);
}

static void test_families(void **state) {
    (void)state;
    static const char *const types[] = {"llama", "mistral", "qwen2", "qwen3"};
    static const uint32_t widths[] = {0, 2, 3, 4, 5, 6, 8};
    for (size_t t = 0; t < 4; t++)
        for (size_t w = 0; w < 7; w++) {
            gen_model g = GEN_SMALL;
            g.type = types[t];
            g.bits = widths[w];
            g.group = 32u << (t + w) % 3;
            g.head_dim = t == 3 ? 64 : 32; /* n_heads * head_dim need not be hidden */
            g.untied = (t + w) % 2;
            g.n_shards = (uint32_t)(w % 4);
            check_model(&g);
        }
}

/* Layers of experts: stacks or one by one give the same matrices, every tensor once, and a bundle
 * of some layers is all those layers need. */
static void check_experts(const gen_model *g) {
    char *d = tmp_dir();
    gen_write(g, d);
    opened o = open_model(d);
    const cake_layout *l = o.layout;
    uint32_t first = 1; /* layer 0 is dense where step is 2 */
    if (g->step == 2) {
        assert_int_equal(cake_layout_module(l, first, CAKE_ROLE_GATE)->n, g->ff);
        assert_null(cake_layout_module(l, first, CAKE_ROLE_ROUTER));
        assert_null(cake_layout_expert(l, first++, CAKE_ROLE_EXPERT_UP, 0));
    }
    assert_null(cake_layout_module(l, first, CAKE_ROLE_GATE));
    assert_int_equal(cake_layout_module(l, first, CAKE_ROLE_ROUTER)->n, g->experts);
    const cake_module *mix = cake_layout_module(l, first, CAKE_ROLE_SHARED_MIX);
    assert_true((mix != NULL) == (g->shared_ff > 0) && (!mix || mix->n == 1));
    static const cake_role roles[] = {CAKE_ROLE_EXPERT_GATE, CAKE_ROLE_EXPERT_UP,
                                      CAKE_ROLE_EXPERT_DOWN};
    for (int i = 0; i < 3; i++)
        for (uint32_t e = 0; e < g->experts; e++) {
            const cake_module *m = cake_layout_expert(l, first, roles[i], e);
            assert_int_equal(m->role, roles[i]);
            assert_int_equal(m->n, i < 2 ? g->expert_ff : g->hidden);
            assert_int_equal(m->k, i < 2 ? g->hidden : g->expert_ff);
            assert_int_equal(m->n_experts, g->one_by_one ? 0 : g->experts);
            char number[16];
            snprintf(number, sizeof number, ".%u.", e);
            assert_non_null(strstr(m->path, g->one_by_one ? number : "switch_mlp"));
        }
    cake_unit_range all = {0, g->n_layers + 2}, some = {first, first + 1};
    if (!g->mode || g->bits) /* blocks leave their one-byte scales behind */
        assert_int_equal(cake_layout_bytes(l, &all, 1), o.ck->n_bytes);
    cake_bundle *bundle = bundle_of(&o, first, first + 1);
    char *to = tmp_dir(), *copy = cake_path_join(to, "copy");
    cake_error err = {0};
    assert_ok(cake_bundle_write(bundle, copy, &err), &err);
    cake_checkpoint *ck;
    cake_layout *again;
    assert_ok(cake_checkpoint_open(&ck, copy, &err), &err);
    assert_ok(cake_layout_new(&again, &o.config, ck, &some, 1, &err), &err);
    assert_int_equal(ck->n_bytes, cake_layout_bytes(l, &some, 1));
    assert_int_equal(again->units[first].n_modules, l->units[first].n_modules);
    cake_layout_free(again);
    cake_checkpoint_close(ck);
    cake_bundle_free(bundle);
    close_model(&o);
    free(copy);
    tmp_remove(to);
    tmp_remove(d);
}

static void test_experts(void **state) {
    (void)state;
    static const char *const types[] = {"qwen2_moe", "qwen3_moe", "mixtral"};
    static const struct {
        const char *mode;
        uint32_t bits, group;
    } stored[] = {{NULL, 0, 0}, {NULL, 4, 32}, {"mxfp4", 4, 32}, {"q8_0", 0, 0}};
    for (int t = 0; t < 3; t++)
        for (int m = 0; m < 4; m++)
            for (int one = 0; one < 2; one++) {
                gen_model g = GEN_SMALL;
                g.type = types[t], g.n_layers = 2, g.experts = one && t ? 1 + m : 5;
                if (g.experts < 2) g.experts = 2;
                g.expert_ff = 96, g.shared_ff = t == 0 ? 64 : 0, g.one_by_one = one;
                g.step = t == 1 ? 2 : 1;
                g.mode = stored[m].mode, g.bits = stored[m].bits, g.group = stored[m].group;
                check_experts(&g);
            }
}

/* Blocks and fp modes: kinds, shapes, what travels and what contradicts. */
static void test_blocks(void **state) {
    (void)state;
    for (int i = 0; i < CAKE_BLOCK_COUNT; i++) {
        const cake_block_info *b = cake_block_get((cake_block_codec)i);
        gen_model g = GEN_SMALL;
        g.bits = 0, g.mode = b->name, g.hidden = 256, g.head_dim = 64, g.untied = i % 2;
        g.n_layers = 1;
        char *d = tmp_dir();
        gen_write(&g, d);
        opened o = open_model(d);
        const cake_module *m = cake_layout_module(o.layout, 1, CAKE_ROLE_DOWN);
        assert_int_equal(m->kind, CAKE_WEIGHT_BLOCK);
        assert_int_equal(m->codec, i);
        assert_int_equal(m->scales, -1);
        assert_int_equal(o.ck->tensors[m->weight].n_bytes, 256 * 256 / b->weights * b->bytes);
        assert_int_equal(cake_layout_module(o.layout, 1, CAKE_ROLE_FFN_NORM)->kind,
                         CAKE_WEIGHT_DENSE);
        assert_int_equal(o.layout->n_bare, 0);
        /* The placeholders stay behind: one byte less per quantized module. */
        cake_unit_range all = {0, 3};
        assert_int_equal(cake_layout_bytes(o.layout, &all, 1), o.ck->n_bytes - (8 + g.untied));
        cake_bundle *bundle = bundle_of(&o, 0, 3);
        char *to = tmp_dir(), *copy = cake_path_join(to, "copy");
        cake_error err = {0};
        assert_ok(cake_bundle_write(bundle, copy, &err), &err);
        opened again = open_model(copy);
        assert_int_equal(again.layout->n_bare, 8 + g.untied);
        assert_int_equal(again.ck->n_tensors, o.ck->n_tensors - (8u + g.untied));
        close_model(&again);
        cake_bundle_free(bundle);
        close_model(&o);
        free(copy);
        tmp_remove(to);
        tmp_remove(d);
    }
    static const struct {
        const char *mode;
        uint32_t bits, group;
        cake_quant_mode id;
    } fp[] = {{"mxfp4", 4, 32, CAKE_QUANT_MXFP4},
              {"mxfp8", 8, 32, CAKE_QUANT_MXFP8},
              {"nvfp4", 4, 16, CAKE_QUANT_NVFP4}};
    for (int i = 0; i < 3; i++) {
        gen_model g = GEN_SMALL;
        g.mode = fp[i].mode, g.bits = fp[i].bits, g.group = fp[i].group;
        char *d = tmp_dir();
        gen_write(&g, d);
        opened o = open_model(d);
        const cake_module *m = cake_layout_module(o.layout, 0, CAKE_ROLE_EMBED);
        assert_int_equal(m->kind, CAKE_WEIGHT_FP);
        assert_int_equal(m->fp_mode, fp[i].id);
        assert_int_equal(m->bits, fp[i].bits);
        assert_int_equal(m->biases, -1);
        cake_unit_range all = {0, 6};
        assert_int_equal(cake_layout_bytes(o.layout, &all, 1), o.ck->n_bytes);
        close_model(&o);
        tmp_remove(d);
    }
}

static void test_shipped(void **state) {
    (void)state;
    opened o = open_model("tests/models/babyllama105-mlx-4bit-g32-mixed");
    assert_true(o.layout->tied);
    assert_int_equal(cake_layout_module(o.layout, 0, CAKE_ROLE_EMBED)->bits, 8);
    assert_int_equal(cake_layout_module(o.layout, 6, CAKE_ROLE_HEAD)->bits, 8);
    assert_int_equal(cake_layout_module(o.layout, 3, CAKE_ROLE_DOWN)->bits, 8);
    assert_int_equal(cake_layout_module(o.layout, 3, CAKE_ROLE_UP)->bits, 4);
    close_model(&o);
    o = open_model("tests/models/babyllama105-hf");
    assert_int_equal(cake_layout_module(o.layout, 1, CAKE_ROLE_Q)->dtype, CAKE_DTYPE_F32);
    assert_int_equal(o.layout->n_ignored, 0);
    close_model(&o);
    o = open_model("tests/models/babyllama105-padffn64-hf-bf16");
    assert_int_equal(cake_layout_module(o.layout, 1, CAKE_ROLE_Q)->dtype, CAKE_DTYPE_BF16);
    close_model(&o);
    o = open_model("tests/vectors/reference/gemma3-sees-bf16"); /* within a model that sees */
    assert_true(o.layout->tied && o.layout->n_ignored == 1);
    const cake_module *norm = cake_layout_module(o.layout, 2, CAKE_ROLE_FFN_NORM);
    assert_string_equal(norm->path, "language_model.model.layers.1.pre_feedforward_layernorm");
    norm = cake_layout_module(o.layout, 2, CAKE_ROLE_ATTN_POST_NORM);
    assert_string_equal(norm->path, "language_model.model.layers.1.post_attention_layernorm");
    norm = cake_layout_module(o.layout, 2, CAKE_ROLE_FFN_POST_NORM);
    assert_string_equal(norm->path, "language_model.model.layers.1.post_feedforward_layernorm");
    close_model(&o);
    o = open_model("tests/models/stories260K-hf");
    close_model(&o);
    o = open_model("tests/models/babyllama105-mlx-8bit-g64");
    assert_int_equal(cake_layout_module(o.layout, 1, CAKE_ROLE_Q)->group_size, 64);
    close_model(&o);
}

/* One tensor of a one-layer model is left out, misshapen, of another type, or added. */
typedef struct {
    const char *name;
    cake_dtype dtype; /* NONE: left out */
    uint32_t rank;
    uint64_t n, k;
} change;

static void write_changed(const char *dir, const gen_model *g, const change *c, size_t n_changes) {
    char *from = tmp_dir();
    gen_write(g, from);
    copy_into(from, "config.json", dir);
    cake_checkpoint *ck;
    cake_error err = {0};
    assert_ok(cake_checkpoint_open(&ck, from, &err), &err);
    st_file f = {0};
    bool used[8] = {0};
    for (uint32_t i = 0; i < ck->n_tensors; i++) {
        const cake_tensor *t = &ck->tensors[i];
        size_t k = 0;
        while (k < n_changes && strcmp(c[k].name, t->name) != 0) k++;
        if (k == n_changes) {
            st_add(&f, t->name, t->dtype, t->rank, t->shape);
            continue;
        }
        used[k] = true;
        if (c[k].dtype != CAKE_DTYPE_NONE)
            st_add(&f, c[k].name, c[k].dtype, c[k].rank, (uint64_t[]){c[k].n, c[k].k});
    }
    for (size_t k = 0; k < n_changes; k++)
        if (!used[k]) st_add(&f, c[k].name, c[k].dtype, c[k].rank, (uint64_t[]){c[k].n, c[k].k});
    st_write(&f, dir, "model.safetensors", 9);
    cake_checkpoint_close(ck);
    tmp_remove(from);
}

static void changed(gen_model g, const change *c, size_t n, cake_status want, const char *words,
                    const char *more) {
    char *d = tmp_dir();
    cake_error err;
    g.n_layers = 1;
    write_changed(d, &g, c, n);
    cake_status st = try_layout(d, &err);
    if (want == CAKE_OK)
        assert_ok(st, &err);
    else
        assert_fails(st, want, &err, words);
    if (more && !strstr(err.msg, more)) fail_msg("'%s' is not in: %s", more, err.msg);
    tmp_remove(d);
}
#define ONE(...) (change[]){{__VA_ARGS__}}, 1
#define QP       "model.layers.0.self_attn.q_proj"

static void test_contradictions(void **state) {
    (void)state;
    gen_model g = GEN_SMALL, f = GEN_SMALL;
    f.bits = 0;
    /* missing */
    changed(f, ONE(QP ".weight", 0, 0, 0, 0), CAKE_ENOTFOUND, "tensor '" QP ".weight' is missing",
            NULL);
    changed(f, ONE("model.norm.weight", 0, 0, 0, 0), CAKE_ENOTFOUND,
            "'model.norm.weight' is missing", NULL);
    changed(f, ONE("model.embed_tokens.weight", 0, 0, 0, 0), CAKE_ENOTFOUND,
            "embed_tokens.weight' is missing", NULL);
    changed(g, ONE(QP ".biases", 0, 0, 0, 0), CAKE_ENOTFOUND, "'" QP ".biases' is missing", NULL);
    changed(g, ONE(QP ".scales", 0, 0, 0, 0), CAKE_ENOTFOUND, "'" QP ".scales' is missing",
            "packed");
    gen_model u = f;
    u.untied = true;
    changed(u, ONE("lm_head.weight", 0, 0, 0, 0), CAKE_ENOTFOUND, "'lm_head.weight' is missing",
            "not tied");
    /* shape */
    changed(f, ONE(QP ".weight", CAKE_DTYPE_BF16, 2, 128, 64), CAKE_EFORMAT,
            "[128, 64], but config.json asks for [128, 128]", QP);
    changed(f, ONE(QP ".weight", CAKE_DTYPE_BF16, 1, 128 * 128, 0), CAKE_EFORMAT, "[16384]", QP);
    changed(f, ONE("model.norm.weight", CAKE_DTYPE_BF16, 1, 127, 0), CAKE_EFORMAT,
            "[127], but config.json asks for [128]", NULL);
    changed(f, ONE("model.norm.weight", CAKE_DTYPE_BF16, 2, 1, 128), CAKE_EFORMAT, "[1, 128]",
            NULL);
    changed(f, ONE("model.embed_tokens.weight", CAKE_DTYPE_BF16, 2, 321, 128), CAKE_EFORMAT,
            "[321, 128]", NULL);
    changed(g, ONE(QP ".weight", CAKE_DTYPE_U32, 2, 128, 32), CAKE_EFORMAT,
            "[128, 32], but config.json asks for [128, 16]", "affine 4 bits in groups of 32");
    changed(g, ONE(QP ".scales", CAKE_DTYPE_BF16, 2, 128, 2), CAKE_EFORMAT, "'" QP ".scales'",
            "[128, 4]");
    changed(g, ONE(QP ".biases", CAKE_DTYPE_BF16, 2, 127, 4), CAKE_EFORMAT, "'" QP ".biases'",
            "[128, 4]");
    /* type */
    changed(f, ONE(QP ".weight", CAKE_DTYPE_F64, 2, 128, 128), CAKE_EUNSUPPORTED, "dtype F64", QP);
    changed(f, ONE(QP ".weight", CAKE_DTYPE_F8_E4M3, 2, 128, 128), CAKE_EUNSUPPORTED,
            "dtype F8_E4M3", QP);
    changed(f, ONE(QP ".weight", CAKE_DTYPE_F16, 2, 128, 128), CAKE_OK, NULL, NULL);
    changed(g, ONE(QP ".weight", CAKE_DTYPE_I32, 2, 128, 16), CAKE_EFORMAT, "dtype I32", QP);
    changed(g, ONE(QP ".scales", CAKE_DTYPE_F16, 2, 128, 4), CAKE_EFORMAT,
            "different types, F16 and BF16", QP);
    changed(g,
            (change[]){{QP ".scales", CAKE_DTYPE_U8, 2, 128, 4},
                       {QP ".biases", CAKE_DTYPE_U8, 2, 128, 4}},
            2, CAKE_EUNSUPPORTED, "dtype U8", QP);
    changed(g,
            (change[]){{QP ".scales", CAKE_DTYPE_F32, 2, 128, 4},
                       {QP ".biases", CAKE_DTYPE_F32, 2, 128, 4}},
            2, CAKE_OK, NULL, NULL);
    changed(f, ONE("model.norm.weight", CAKE_DTYPE_I8, 1, 128, 0), CAKE_EUNSUPPORTED, "dtype I8",
            NULL);
    /* A dense module in a quantized model is normal. */
    changed(g,
            (change[]){{QP ".weight", CAKE_DTYPE_BF16, 2, 128, 128},
                       {QP ".scales", 0, 0, 0, 0},
                       {QP ".biases", 0, 0, 0, 0}},
            3, CAKE_OK, NULL, NULL);
    changed(g, (change[]){{QP ".weight", CAKE_DTYPE_BF16, 2, 128, 128}, {QP ".scales", 0, 0, 0, 0}},
            2, CAKE_EFORMAT, QP ".biases", "contradicts");
    /* Quantized tensors without a word in the config */
    changed(f,
            (change[]){{QP ".weight", CAKE_DTYPE_U32, 2, 128, 16},
                       {QP ".scales", CAKE_DTYPE_BF16, 2, 128, 4},
                       {QP ".biases", CAKE_DTYPE_BF16, 2, 128, 4}},
            3, CAKE_EFORMAT, QP ".scales", "nothing about quantization");
    /* extra */
    changed(f, ONE("model.layers.0.self_attn.q_norm.weight", CAKE_DTYPE_BF16, 1, 32, 0),
            CAKE_EUNSUPPORTED, "q_norm", "not part of a llama");
    changed(f, ONE(QP ".bias", CAKE_DTYPE_BF16, 1, 128, 0), CAKE_EUNSUPPORTED, QP ".bias", NULL);
    changed(f, ONE("model.layers.1.input_layernorm.weight", CAKE_DTYPE_BF16, 1, 128, 0),
            CAKE_EUNSUPPORTED, "layers.1.", "1 layers");
    changed(f, ONE("model.layers.0.self_attn.rotary_emb.inv_freq", CAKE_DTYPE_F32, 1, 16, 0),
            CAKE_OK, NULL, NULL);
    changed(f, ONE("vision_tower.x.weight", CAKE_DTYPE_F32, 1, 16, 0), CAKE_OK, NULL, NULL);
    changed(f, ONE("lm_head.weight", CAKE_DTYPE_BF16, 2, 320, 128), CAKE_OK, NULL,
            NULL); /* tied: ignored */
    changed(f, ONE("xlm_head.weight", CAKE_DTYPE_BF16, 2, 320, 128), CAKE_EUNSUPPORTED, "xlm_head",
            NULL);
    /* biases of qwen2 */
    gen_model q = f;
    q.type = "qwen2";
    changed(q, ONE(QP ".bias", 0, 0, 0, 0), CAKE_ENOTFOUND, QP ".bias' is missing", NULL);
    changed(q, ONE(QP ".bias", CAKE_DTYPE_BF16, 1, 64, 0), CAKE_EFORMAT,
            "[64], but config.json asks for [128]", QP);
    changed(q, ONE("model.layers.0.self_attn.o_proj.bias", CAKE_DTYPE_BF16, 1, 128, 0),
            CAKE_EUNSUPPORTED, "o_proj.bias", NULL);
}

static void test_block_contradictions(void **state) {
    (void)state;
    gen_model k = GEN_SMALL, f = GEN_SMALL;
    k.bits = 0, k.mode = "q5_1"; /* rows of 128: 4 blocks of 24 bytes */
    f.mode = "mxfp4";
    changed(k, ONE(QP ".scales", 0, 0, 0, 0), CAKE_OK, NULL, NULL);
    changed(k, ONE(QP ".scales", CAKE_DTYPE_U8, 1, 2, 0), CAKE_EFORMAT, QP ".scales",
            "inside the blocks");
    changed(k, ONE(QP ".scales", CAKE_DTYPE_F16, 2, 128, 4), CAKE_EFORMAT, QP ".scales",
            "inside the blocks");
    changed(k, ONE(QP ".biases", CAKE_DTYPE_F16, 2, 128, 4), CAKE_EFORMAT, QP ".biases", "q5_1");
    changed(k, ONE(QP ".weight", CAKE_DTYPE_U8, 2, 128, 95), CAKE_EFORMAT,
            "[128, 95], but config.json asks for [128, 96]", "128 x 128, q5_1");
    changed(k, ONE(QP ".weight", CAKE_DTYPE_U8, 2, 127, 96), CAKE_EFORMAT, "[127, 96]", QP);
    changed(k, ONE(QP ".weight", CAKE_DTYPE_BF16, 2, 128, 128), CAKE_EFORMAT, "dtype BF16", "q5_1");
    changed(k, ONE("model.norm.scales", CAKE_DTYPE_U8, 1, 1, 0), CAKE_EFORMAT, "model.norm.scales",
            "not quantized");
    k.mode = "q4_k"; /* 128 is half a block */
    changed(k, ONE("visual.x", CAKE_DTYPE_U8, 1, 1, 0), CAKE_EFORMAT, "rows of 128 do not divide",
            "blocks of 256 (q4_k)");
    changed(f, ONE(QP ".scales", CAKE_DTYPE_F8_E8M0, 2, 128, 4), CAKE_OK, NULL, NULL);
    changed(f, ONE(QP ".scales", CAKE_DTYPE_F16, 2, 128, 4), CAKE_EFORMAT, "dtype F16", QP);
    changed(f, ONE(QP ".scales", CAKE_DTYPE_U8, 2, 128, 8), CAKE_EFORMAT,
            "[128, 8], but config.json asks for [128, 4]", QP);
    changed(f, ONE(QP ".biases", CAKE_DTYPE_F16, 2, 128, 4), CAKE_EFORMAT, QP ".biases", "mxfp4");
    changed(f, ONE(QP ".weight", CAKE_DTYPE_U8, 2, 128, 64), CAKE_EFORMAT, "dtype U8", QP);
    changed(f, ONE(QP ".scales", 0, 0, 0, 0), CAKE_ENOTFOUND, QP ".scales' is missing", "packed");
}

/* What is wrong with experts is said with their names. */
#define MLP   "model.layers.0.mlp."
#define STACK MLP "switch_mlp.gate_proj"
static void test_wrong_experts(void **state) {
    (void)state;
    gen_model g = GEN_SMALL, q;
    g.type = "qwen3_moe", g.bits = 0, g.experts = 4, g.expert_ff = 64;
    q = g;
    q.bits = 4;
    changed(g, ONE(STACK ".weight", CAKE_DTYPE_BF16, 2, 256, 128), CAKE_EFORMAT,
            "[256, 128], but config.json asks for [4, 64, 128]", STACK);
    changed(g, ONE(STACK ".weight", 0, 0, 0, 0), CAKE_ENOTFOUND,
            "'" MLP "experts.0.gate_proj.weight' is missing", "stack of all experts");
    changed(g, ONE(MLP "experts.1.gate_proj.weight", CAKE_DTYPE_BF16, 2, 64, 128),
            CAKE_EUNSUPPORTED, MLP "experts.1.gate_proj.weight", "not part of a qwen3_moe");
    changed(g, ONE(MLP "gate.weight", 0, 0, 0, 0), CAKE_ENOTFOUND, "'" MLP "gate.weight'", NULL);
    changed(g, ONE(MLP "gate.weight", CAKE_DTYPE_BF16, 2, 5, 128), CAKE_EFORMAT,
            "[5, 128], but config.json asks for [4, 128]", MLP "gate");
    changed(g, ONE(MLP "shared_expert_gate.weight", CAKE_DTYPE_BF16, 2, 1, 128), CAKE_EUNSUPPORTED,
            "shared_expert_gate", NULL);
    changed(q, ONE(STACK ".scales", CAKE_DTYPE_BF16, 2, 256, 4), CAKE_EFORMAT,
            "[256, 4], but config.json asks for [4, 64, 4]", STACK ".scales");
    changed(q, ONE(STACK ".biases", 0, 0, 0, 0), CAKE_ENOTFOUND, STACK ".biases' is missing", NULL);
    g.one_by_one = true;
    changed(g, ONE(MLP "experts.2.up_proj.weight", 0, 0, 0, 0), CAKE_ENOTFOUND,
            "'" MLP "experts.2.up_proj.weight' is missing", NULL);
    changed(g, ONE(MLP "experts.3.down_proj.weight", CAKE_DTYPE_BF16, 2, 64, 128), CAKE_EFORMAT,
            "[64, 128], but config.json asks for [128, 64]", "experts.3.down_proj");
    changed(g, ONE(MLP "experts.4.down_proj.weight", CAKE_DTYPE_BF16, 2, 128, 64),
            CAKE_EUNSUPPORTED, "experts.4.down_proj.weight", NULL);
    g.type = "qwen2_moe", g.shared_ff = 32;
    changed(g, ONE(MLP "shared_expert.up_proj.weight", 0, 0, 0, 0), CAKE_ENOTFOUND,
            "shared_expert.up_proj.weight' is missing", NULL);
    changed(g, ONE(MLP "shared_expert_gate.weight", CAKE_DTYPE_BF16, 1, 128, 0), CAKE_EFORMAT,
            "[128], but config.json asks for [1, 128]", NULL);
    g.type = "mixtral", g.shared_ff = 0;
    changed(g, ONE("model.layers.0.block_sparse_moe.experts.3.w2.weight", 0, 0, 0, 0),
            CAKE_ENOTFOUND, "block_sparse_moe.experts.3.w2.weight' is missing", NULL);
}

/* Rows that do not divide into the groups: W*32 == K*bits and G*group == K cannot both hold. */
static void test_group_divides(void **state) {
    (void)state;
    gen_model g = GEN_SMALL;
    g.hidden = 96;
    g.group = 64;
    g.n_layers = 1;
    char *d = tmp_dir();
    cake_error err;
    gen_write(&g, d);
    assert_fails(try_layout(d, &err), CAKE_EFORMAT, &err,
                 "rows of 96 do not divide into groups of 64");
    tmp_remove(d);
}

/* Overrides against what is stored (formats.md 8.5, case 6). */
static void test_overrides(void **state) {
    (void)state;
    static const struct {
        const char *quant;
        cake_status st;
        const char *words, *more;
    } c[] = {
        {"\"group_size\":32,\"bits\":4", CAKE_OK, NULL, NULL},
        {"\"group_size\":null,\"bits\":4", CAKE_EFORMAT, "groups of 64", NULL},
        {"\"group_size\":32,\"bits\":8", CAKE_EFORMAT, "affine 8 bits", "embed_tokens"},
        {"\"group_size\":32,\"bits\":4,\"" QP "\":{\"group_size\":64,\"bits\":8}", CAKE_EFORMAT,
         "8 bits in groups of 64", QP},
        {"\"group_size\":32,\"bits\":4,\"" QP "\":false", CAKE_EFORMAT, QP ".scales",
         "not quantized"},
        {"\"group_size\":32,\"bits\":4,\"" QP "\":true", CAKE_OK, NULL, NULL},
        {"\"group_size\":32,\"bits\":4,\"model.norm\":false", CAKE_OK, NULL, NULL},
        {"\"group_size\":32,\"bits\":4,\"model.norm\":{\"bits\":4}", CAKE_ENOTFOUND,
         "model.norm.scales", "lists"},
        {"\"group_size\":32,\"bits\":4,\"model.layers.77.mlp.gate\":{\"bits\":8}", CAKE_OK, NULL,
         NULL},
        {"\"group_size\":64,\"bits\":8,\"model.embed_tokens\":{\"group_size\":32,\"bits\":4}",
         CAKE_EFORMAT, "q_proj", NULL},
        {"\"group_size\":32,\"bits\":4,\"mode\":\"mxfp4\"", CAKE_EFORMAT,
         "'model.embed_tokens.scales'", "the scales of mxfp4 are bytes"},
        {"\"group_size\":32,\"bits\":4,\"" QP "\":{\"mode\":\"nvfp4\"}", CAKE_EFORMAT,
         "the scales of nvfp4 are bytes", QP},
    };
    char *from = tmp_dir();
    gen_model g = GEN_SMALL;
    g.n_layers = 1;
    gen_write(&g, from);
    char *text = read_text(from, "config.json", NULL);
    char *at = strstr(text, "\"group_size\":32,\"bits\":4");
    assert_non_null(at);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char *changed_text = cake_asprintf("%.*s%s%s", (int)(at - text), text, c[i].quant,
                                           at + strlen("\"group_size\":32,\"bits\":4"));
        write_text(from, "config.json", changed_text);
        cake_error err;
        cake_status st = try_layout(from, &err);
        if (c[i].st == CAKE_OK)
            assert_ok(st, &err);
        else
            assert_fails(st, c[i].st, &err, c[i].words);
        if (c[i].more && !strstr(err.msg, c[i].more))
            fail_msg("'%s' is not in: %s", c[i].more, err.msg);
        free(changed_text);
    }
    free(text);
    tmp_remove(from);
}

/* Random changes to the header and the config of a real file: never a crash, always a sentence. */
static void test_changed_bytes(void **state) {
    (void)state;
    char *d = tmp_dir(), *path = cake_path_join(d, "model.safetensors");
    gen_model g = GEN_SMALL;
    g.n_layers = 1;
    gen_write(&g, d);
    size_t file_len, config_len;
    char *file = read_text(d, "model.safetensors", &file_len);
    char *config = read_text(d, "config.json", &config_len);
    uint64_t n;
    memcpy(&n, file, 8);
    srand(11);
    unsigned refused = 0;
    FILE *f = fopen(path, "r+b");
    for (int round = 0; round < 1000; round++) {
        char *text = cake_malloc(config_len + 1), *header = cake_malloc((size_t)n);
        memcpy(text, config, config_len + 1);
        memcpy(header, file + 8, (size_t)n);
        char *where = round % 2 ? text : header;
        size_t len = round % 2 ? config_len : (size_t)n;
        for (int k = rand() % 3; k >= 0; k--)
            where[(size_t)rand() % len] = "0123456789\"{}[],:eE-.x"[rand() % 22];
        write_file(d, "config.json", text, config_len);
        assert_int_equal(fseek(f, 8, SEEK_SET), 0);
        assert_int_equal(fwrite(header, 1, (size_t)n, f), n);
        fflush(f);
        cake_error err;
        if (try_layout(d, &err) != CAKE_OK) {
            refused++;
            assert_true(strlen(err.msg) > 10);
        }
        free(text);
        free(header);
    }
    fclose(f);
    assert_true(refused > 500);
    free(file);
    free(config);
    free(path);
    tmp_remove(d);
}

/* The tie: an explicit key wins, else whether lm_head is there. */
static void test_tie(void **state) {
    (void)state;
    static const struct {
        const char *key;
        bool head_there, tied;
    } c[] = {{"true", true, true},
             {"true", false, true},
             {"false", true, false},
             {"null", true, false},
             {"null", false, true}};
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char *d = tmp_dir();
        gen_model g = GEN_SMALL;
        g.untied = c[i].head_there;
        gen_write(&g, d);
        char *text = read_text(d, "config.json", NULL),
             *at = strstr(text, "\"tie_word_embeddings\":");
        strcpy(at + strlen("\"tie_word_embeddings\":"), c[i].key);
        char *all = cake_asprintf("%s}", text);
        write_text(d, "config.json", all);
        opened o = open_model(d);
        assert_int_equal(o.layout->tied, c[i].tied);
        assert_int_equal(o.layout->n_ignored, c[i].tied && c[i].head_there ? 3 : 0);
        assert_string_equal(cake_layout_module(o.layout, 5, CAKE_ROLE_HEAD)->path,
                            c[i].tied ? "model.embed_tokens" : "lm_head");
        close_model(&o);
        free(all);
        free(text);
        tmp_remove(d);
    }
}

static void test_ranges(void **state) {
    (void)state;
    typedef cake_unit_range R;
    assert_true(cake_unit_ranges_valid((R[]){{0, 6}}, 1, 6));
    assert_true(cake_unit_ranges_valid((R[]){{0, 1}, {1, 2}, {5, 6}}, 3, 6));
    assert_false(cake_unit_ranges_valid((R[]){{0, 7}}, 1, 6));
    assert_false(cake_unit_ranges_valid((R[]){{2, 2}}, 1, 6));
    assert_false(cake_unit_ranges_valid((R[]){{3, 2}}, 1, 6));
    assert_false(cake_unit_ranges_valid((R[]){{2, 4}, {3, 5}}, 2, 6));
    assert_false(cake_unit_ranges_valid(NULL, 0, 6));
    char *d = tmp_dir();
    gen_model g = GEN_SMALL;
    gen_write(&g, d);
    opened o = open_model(d);
    cake_layout *l = NULL;
    cake_error err = {0};
    /* Only some units of a whole model */
    assert_ok(cake_layout_new(&l, &o.config, o.ck, (R[]){{1, 2}, {4, 5}}, 2, &err), &err);
    assert_int_equal(l->units[0].n_modules, 0);
    assert_int_equal(l->units[1].n_modules, 9);
    assert_int_equal(l->units[2].n_modules, 0);
    assert_int_equal(l->units[4].n_modules, 9);
    cake_layout_free(l);
    assert_fails(cake_layout_new(&l, &o.config, o.ck, (R[]){{5, 7}}, 1, &err), CAKE_EINVAL, &err,
                 "ascending");
    close_model(&o);
    tmp_remove(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_wrong_experts),
        cmocka_unit_test(test_shipped),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_block_contradictions),
        cmocka_unit_test(test_group_divides),
        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_tie),
        cmocka_unit_test(test_changed_bytes),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
