/* Helpers of the model tests: temporary folders, safetensors files from a few lines, generated
 * models. */
#ifndef CAKE_TESTS_MODELFILE_H
#define CAKE_TESTS_MODELFILE_H

#include "common/file.h"
#include "common/mem.h"
#include "common/model/bundle.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Outside of cmocka (benchmarks) a failure ends the program. */
#ifndef fail_msg
#define fail_msg(...) (fprintf(stderr, __VA_ARGS__), exit(1))
#endif
#define UNUSED __attribute__((unused))

static UNUSED char *tmp_dir(void) {
    const char *base = getenv("TMPDIR");
    char *d = cake_asprintf("%s/cake-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(d)) abort();
    return d;
}
static int tmp_remove_one(const char *path, const struct stat *sb, int type, struct FTW *f) {
    (void)sb, (void)type, (void)f;
    return remove(path);
}
static UNUSED void tmp_remove(char *dir) {
    nftw(dir, tmp_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(dir);
}

static UNUSED void write_file(const char *dir, const char *name, const void *data, size_t n) {
    char *p = cake_path_join(dir, name);
    FILE *f = fopen(p, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) abort();
    free(p);
}
static UNUSED void write_text(const char *dir, const char *name, const char *text) {
    write_file(dir, name, text, strlen(text));
}
static UNUSED __attribute__((noinline)) char *read_text(const char *dir, const char *name,
                                                        size_t *len) {
    char *p = cake_path_join(dir, name), *text = NULL;
    size_t n = 0;
    if (cake_file_read(p, (size_t)1 << 30, &text, &n, NULL) != CAKE_OK) abort();
    if (len) *len = n;
    free(p);
    return text;
}
static UNUSED void copy_into(const char *from, const char *name, const char *to) {
    size_t n;
    char *t = read_text(from, name, &n);
    write_file(to, name, t, n);
    free(t);
}

/* The bytes of a safetensors file: header text as given, then n_data bytes of a pattern. */
static UNUSED uint8_t *st_bytes(const char *header, size_t n_data, size_t *len) {
    size_t n = strlen(header);
    uint8_t *b = malloc(8 + n + n_data);
    for (int i = 0; i < 8; i++) b[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(b + 8, header, n);
    for (size_t i = 0; i < n_data; i++) b[8 + n + i] = (uint8_t)(i * 31 + 7);
    *len = 8 + n + n_data;
    return b;
}

/* A file being put together tensor by tensor. */
typedef struct {
    char *header;
    size_t n_header, n_data;
} st_file;

static UNUSED void st_add(st_file *f, const char *name, cake_dtype t, uint32_t rank,
                          const uint64_t *shape) {
    char text[160];
    uint64_t bytes = 0;
    if (!cake_tensor_bytes(t, rank, shape, &bytes)) abort();
    f->header = realloc(f->header, f->n_header + strlen(name) + 400);
    size_t at = f->n_header;
    at += (size_t)sprintf(
        f->header + at, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
        at ? "," : "{", name, cake_dtype_name(t), cake_shape_text(rank, shape, text, sizeof text),
        f->n_data, f->n_data + (size_t)bytes);
    f->n_header = at;
    f->n_data += (size_t)bytes;
}
static UNUSED void st_add1(st_file *f, const char *name, cake_dtype t, uint64_t n) {
    st_add(f, name, t, 1, &n);
}
static UNUSED void st_add2(st_file *f, const char *name, cake_dtype t, uint64_t n, uint64_t k) {
    st_add(f, name, t, 2, (uint64_t[]){n, k});
}
/* Write and clear. The data is a pattern that differs by `salt`. */
static UNUSED void st_write(st_file *f, const char *dir, const char *name, unsigned salt) {
    f->header = realloc(f->header, f->n_header + 3);
    if (!f->n_header) strcpy(f->header, "{"), f->n_header = 1;
    strcpy(f->header + f->n_header, "}");
    size_t len;
    uint8_t *b = st_bytes(f->header, f->n_data, &len);
    uint64_t x = salt * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (size_t i = len - f->n_data; i < len; i++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        b[i] = (uint8_t)(x >> 56);
    }
    write_file(dir, name, b, len);
    free(b);
    free(f->header);
    *f = (st_file){0};
}

/* A random model of the given shape in DIR: config.json and its safetensors files. */
typedef struct {
    const char *type; /* model_type; NULL: llama */
    uint32_t n_layers, hidden, ff, vocab, heads, kv_heads, head_dim;
    uint32_t bits, group; /* 0: BF16 */
    const char *mode;     /* "mxfp4", ... (with its bits and group), or a codec: "q4_k" (bits 0) */
    /* Mixtures (qwen2_moe, qwen3_moe, mixtral): 2 experts for a row; every step-th layer has them;
     * one_by_one: a tensor per expert, else stacks. */
    uint32_t experts, expert_ff, shared_ff, step;
    bool one_by_one;
    bool untied;
    uint32_t n_shards; /* 0: one file without an index */
    unsigned salt;
    const char *extra; /* more members of config.json, ending in a comma */
} gen_model;

typedef struct {
    const gen_model *g;
    const char *dir;
    st_file f;
    uint32_t shard, stack; /* stack: what gen_tensor puts before matrices' shapes; 0: nothing */
    char *map, *codecs;    /* members of weight_map and per_tensor */
    size_t n_map, n_codecs;
} gen_state;

static void gen_tensor(gen_state *s, const char *path, const char *suffix, cake_dtype t,
                       uint32_t rank, uint64_t n, uint64_t k) {
    char name[256];
    snprintf(name, sizeof name, "%s.%s", path, suffix);
    if (s->stack && rank == 2)
        st_add(&s->f, name, t, 3, (uint64_t[]){s->stack, n, k});
    else
        st_add(&s->f, name, t, rank, (uint64_t[]){n, k});
    s->map = realloc(s->map, s->n_map + 400);
    s->n_map += (size_t)sprintf(s->map + s->n_map, "%s\"%s\":\"model-%05u-of-%05u.safetensors\"",
                                s->n_map ? "," : "", name, s->shard + 1, s->g->n_shards);
}
static void gen_linear(gen_state *s, const char *path, uint64_t n, uint64_t k) {
    const gen_model *g = s->g;
    cake_block_codec codec;
    if (g->mode && !g->bits && cake_block_parse(g->mode, &codec)) {
        const cake_block_info *b = cake_block_get(codec);
        gen_tensor(s, path, "scales", CAKE_DTYPE_U8, 1, 1, 0);
        gen_tensor(s, path, "weight", CAKE_DTYPE_U8, 2, n, k / b->weights * b->bytes);
        s->codecs = realloc(s->codecs, s->n_codecs + 400);
        s->n_codecs += (size_t)sprintf(s->codecs + s->n_codecs, "%s\"%s\":\"%s\"",
                                       s->n_codecs ? "," : "", path, g->mode);
        return;
    }
    if (g->mode && g->bits) {
        gen_tensor(s, path, "weight", CAKE_DTYPE_U32, 2, n, k * g->bits / 32);
        gen_tensor(s, path, "scales", CAKE_DTYPE_U8, 2, n, k / g->group);
        return;
    }
    if (!g->bits) {
        gen_tensor(s, path, "weight", CAKE_DTYPE_BF16, 2, n, k);
        return;
    }
    gen_tensor(s, path, "scales", CAKE_DTYPE_BF16, 2, n, k / g->group); /* odd order on purpose */
    gen_tensor(s, path, "weight", CAKE_DTYPE_U32, 2, n, k * g->bits / 32);
    gen_tensor(s, path, "biases", CAKE_DTYPE_BF16, 2, n, k / g->group);
}
static void gen_flush(gen_state *s) {
    char name[64] = "model.safetensors";
    if (s->g->n_shards)
        snprintf(name, sizeof name, "model-%05u-of-%05u.safetensors", s->shard + 1, s->g->n_shards);
    st_write(&s->f, s->dir, name, s->g->salt + s->shard);
    s->shard++;
}
static void gen_experts(gen_state *s, uint32_t layer) {
    static const char *const stack[] = {"gate_proj", "up_proj", "down_proj"};
    static const char *const w[] = {"w1", "w3", "w2"};
    const gen_model *g = s->g;
    bool mixtral = strcmp(g->type, "mixtral") == 0;
    char at[64], p[128];
    snprintf(at, sizeof at, "model.layers.%u.%s", layer, mixtral ? "block_sparse_moe" : "mlp");
#define AT(...) (snprintf(p, sizeof p, __VA_ARGS__), p)
    gen_linear(s, AT("%s.gate", at), g->experts, g->hidden);
    if (g->shared_ff) {
        gen_linear(s, AT("%s.shared_expert_gate", at), 1, g->hidden);
        gen_linear(s, AT("%s.shared_expert.gate_proj", at), g->shared_ff, g->hidden);
        gen_linear(s, AT("%s.shared_expert.up_proj", at), g->shared_ff, g->hidden);
        gen_linear(s, AT("%s.shared_expert.down_proj", at), g->hidden, g->shared_ff);
    }
    for (int i = 0; i < 3; i++) {
        uint64_t n = i < 2 ? g->expert_ff : g->hidden, k = i < 2 ? g->hidden : g->expert_ff;
        for (uint32_t e = 0; g->one_by_one && e < g->experts; e++)
            gen_linear(s, AT("%s.experts.%u.%s", at, e, mixtral ? w[i] : stack[i]), n, k);
        if (g->one_by_one) continue;
        s->stack = g->experts;
        gen_linear(s, AT("%s.switch_mlp.%s", at, stack[i]), n, k);
        s->stack = 0;
    }
#undef AT
}
/* "", or the members of config.json about experts, ending in a comma. Caller frees. */
static char *gen_expert_config(const gen_model *g) {
    if (!g->experts) return cake_strdup("");
    bool mixtral = strcmp(g->type, "mixtral") == 0;
    return cake_asprintf("\"num_%sexperts\":%u,\"num_experts_per_tok\":2,\"norm_topk_prob\":true,"
                         "\"%s\":%u,\"shared_expert_intermediate_size\":%u,"
                         "\"decoder_sparse_step\":%u,",
                         mixtral ? "local_" : "", g->experts,
                         mixtral ? "intermediate_size" : "moe_intermediate_size", g->expert_ff,
                         g->shared_ff, g->step ? g->step : 1);
}
static UNUSED void gen_write(const gen_model *g, const char *dir) {
    gen_state s = {.g = g, .dir = dir};
    const char *type = g->type ? g->type : "llama";
    char p[128];
    uint64_t q = (uint64_t)g->heads * g->head_dim, kv = (uint64_t)g->kv_heads * g->head_dim;
    bool qwen2 = strncmp(type, "qwen2", 5) == 0, qwen3 = strncmp(type, "qwen3", 5) == 0;
    gen_linear(&s, "model.embed_tokens", g->vocab, g->hidden);
    for (uint32_t i = 0; i < g->n_layers; i++) {
#define LAYER(rest) (snprintf(p, sizeof p, "model.layers.%u.%s", i, rest), p)
        if (g->n_shards && i * g->n_shards / g->n_layers > s.shard) gen_flush(&s);
        gen_tensor(&s, LAYER("input_layernorm"), "weight", CAKE_DTYPE_BF16, 1, g->hidden, 0);
        gen_linear(&s, LAYER("self_attn.q_proj"), q, g->hidden);
        gen_linear(&s, LAYER("self_attn.k_proj"), kv, g->hidden);
        gen_linear(&s, LAYER("self_attn.v_proj"), kv, g->hidden);
        gen_linear(&s, LAYER("self_attn.o_proj"), g->hidden, q);
        if (qwen2) {
            gen_tensor(&s, LAYER("self_attn.q_proj"), "bias", CAKE_DTYPE_BF16, 1, q, 0);
            gen_tensor(&s, LAYER("self_attn.k_proj"), "bias", CAKE_DTYPE_BF16, 1, kv, 0);
            gen_tensor(&s, LAYER("self_attn.v_proj"), "bias", CAKE_DTYPE_BF16, 1, kv, 0);
        }
        if (qwen3) {
            gen_tensor(&s, LAYER("self_attn.q_norm"), "weight", CAKE_DTYPE_BF16, 1, g->head_dim, 0);
            gen_tensor(&s, LAYER("self_attn.k_norm"), "weight", CAKE_DTYPE_BF16, 1, g->head_dim, 0);
        }
        gen_tensor(&s, LAYER("post_attention_layernorm"), "weight", CAKE_DTYPE_BF16, 1, g->hidden,
                   0);
        if (g->experts && (i + 1) % (g->step ? g->step : 1) == 0) {
            gen_experts(&s, i);
            continue;
        }
        gen_linear(&s, LAYER("mlp.gate_proj"), g->ff, g->hidden);
        gen_linear(&s, LAYER("mlp.up_proj"), g->ff, g->hidden);
        gen_linear(&s, LAYER("mlp.down_proj"), g->hidden, g->ff);
#undef LAYER
    }
    gen_tensor(&s, "model.norm", "weight", CAKE_DTYPE_BF16, 1, g->hidden, 0);
    if (g->untied) gen_linear(&s, "lm_head", g->vocab, g->hidden);
    gen_flush(&s);
    if (g->n_shards) {
        char *index = malloc(s.n_map + 100);
        sprintf(index, "{\"metadata\":{},\"weight_map\":{%s}}", s.map);
        write_text(dir, "model.safetensors.index.json", index);
        free(index);
    }
    char *quant =
        g->bits ? cake_asprintf("\"quantization\":{\"group_size\":%u,\"bits\":%u%s%s%s},", g->group,
                                g->bits, g->mode ? ",\"mode\":\"" : "", g->mode ? g->mode : "",
                                g->mode ? "\"" : "")
        : s.codecs
            ? cake_asprintf("\"quantization\":{\"mode\":\"kquant\",\"per_tensor\":{%s}},", s.codecs)
            : cake_strdup("");
    char *experts = gen_expert_config(g);
    char ff[64] = ""; /* mixtral calls the experts' width so */
    if (strcmp(type, "mixtral") != 0) snprintf(ff, sizeof ff, "\"intermediate_size\":%u,", g->ff);
    char *config = cake_asprintf(
        "{\"model_type\":\"%s\",\"hidden_size\":%u,\"num_hidden_layers\":%u,\"num_attention_"
        "heads\":%u,"
        "\"num_key_value_heads\":%u,\"head_dim\":%u,%s\"vocab_size\":%u,"
        "\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,%s%s%s"
        "\"tie_word_embeddings\":%s}",
        type, g->hidden, g->n_layers, g->heads, g->kv_heads, g->head_dim, ff, g->vocab, quant,
        experts, g->extra ? g->extra : "", g->untied ? "false" : "true");
    write_text(dir, "config.json", config);
    free(config);
    free(experts);
    free(quant);
    free(s.codecs);
    free(s.map);
}
/* 4 layers, 4-bit; a few hundred kilobytes. */
#define GEN_SMALL                                                                                  \
    (gen_model) {                                                                                  \
        .n_layers = 4, .hidden = 128, .ff = 256, .vocab = 320, .heads = 4, .kv_heads = 2,          \
        .head_dim = 32, .bits = 4, .group = 32                                                     \
    }

/* A model opened all the way. */
typedef struct {
    cake_checkpoint *ck;
    cake_model_config config;
    cake_layout *layout;
    char *config_text;
    size_t config_len;
} opened;

static UNUSED opened open_model(const char *dir) {
    opened o = {0};
    cake_error err = {0};
    if (cake_checkpoint_open(&o.ck, dir, &err) != CAKE_OK ||
        cake_checkpoint_config(o.ck, &o.config_text, &o.config_len, &err) != CAKE_OK ||
        cake_config_parse(&o.config, o.config_text, o.config_len, o.ck->config_path, &err) !=
            CAKE_OK ||
        cake_layout_new(&o.layout, &o.config, o.ck, NULL, 0, &err) != CAKE_OK)
        fail_msg("%s", err.msg);
    return o;
}
static UNUSED void close_model(opened *o) {
    cake_layout_free(o->layout);
    cake_config_deinit(&o->config);
    cake_checkpoint_close(o->ck);
    free(o->config_text);
}
static UNUSED cake_bundle *bundle_of(const opened *o, uint32_t begin, uint32_t end) {
    cake_bundle *b = NULL;
    cake_error err = {0};
    if (cake_bundle_new(&b, o->layout, &(cake_unit_range){begin, end}, 1, o->config_text,
                        o->config_len, NULL, NULL, &err) != CAKE_OK)
        fail_msg("%s", err.msg);
    return b;
}

/* Path of the data collection beside the repository, or NULL. Caller frees. */
static UNUSED char *shared_data(const char *sub) {
    char *p = cake_asprintf("../shared/data/%s", sub);
    if (access(p, R_OK) == 0) return p;
    printf("skip: %s is missing\n", p);
    free(p);
    return NULL;
}

/* The lines of a test table are long ones. */
#define assert_ok(call, err)                                                                       \
    do {                                                                                           \
        cake_status st_ = (call);                                                                  \
        if (st_ != CAKE_OK) fail_msg("%s", (err)->msg);                                            \
    } while (0)
#define assert_fails(call, want, err, words)                                                       \
    do {                                                                                           \
        cake_status st_ = (call);                                                                  \
        if (st_ != (want) || !strstr((err)->msg, (words)))                                         \
            fail_msg("expected %s with '%s', got %s: %s", cake_status_name(want), (words),         \
                     cake_status_name(st_), (err)->msg);                                           \
    } while (0)

#endif
