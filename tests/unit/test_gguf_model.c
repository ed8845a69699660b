/* GGUF files as models: names, shapes, permuted rows, configs, bundles, logits and tokenizers, held
 * against the safetensors models they were made of. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/model/hashes.h"
#include "kernels/codec.h"
#include "kernels/vec.h"
#include "master/template/template.h"
#include "master/tokenizer/tokenizer.h"
#include "tests/unit/gguffile.h"
#include "worker/engine/stage.h"

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

static void test_fixture_tokenizer(void **state) {
    (void)state;
    same_tokenizer(SOURCE, FIXTURE);
    cake_chat_template *t;
    assert_fails(cake_chat_template_open(&t, FIXTURE, &err), CAKE_ENOTFOUND, &err,
                 "no chat template");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixture_tensors),
        cmocka_unit_test(test_fixture_config),
        cmocka_unit_test(test_bundle),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_fixture_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
