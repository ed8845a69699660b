/* Which module gets which format: every decision of mlx-kquant 0.1.0's presets on some model shapes
 * (tests/vectors/tools/presets.txt, made by the package itself), the published counts and sizes,
 * mlx-lm's mixed recipes, overrides and refusals. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/mem.h"
#include "master/tools/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cake_recipe *recipe(cake_recipe_request q) {
    cake_recipe *r;
    cake_error err = {0};
    if (cake_recipe_new(&r, &q, &err) != CAKE_OK) fail_msg("%s", err.msg);
    return r;
}

static cake_format decide(cake_recipe *r, const char *path, uint64_t k, uint32_t n_layers) {
    cake_format f;
    const char *why;
    cake_error err = {0};
    if (cake_recipe_decide(r, path, k, n_layers, &f, &why, &err) != CAKE_OK)
        fail_msg("%s", err.msg);
    return f;
}

static char letter(const cake_format *f) {
    if (f->kind == CAKE_FORMAT_FLOAT) return '-';
    assert_int_equal(f->kind, CAKE_FORMAT_BLOCK);
    return cake_codec_name(f->codec)[1];
}

enum { PRESETS_MAX = 32 };

static void test_presets(void **state) {
    (void)state;
    FILE *f = fopen("tests/vectors/tools/presets.txt", "r");
    if (!f) fail_msg("run it in the root of the repository");
    char line[1024], *save = NULL;
    cake_recipe *r[PRESETS_MAX];
    unsigned n_presets = 0, n_lines = 0;
    assert_non_null(fgets(line, sizeof line, f));
    for (char *p = strtok_r(line, " \n", &save); p; p = strtok_r(NULL, " \n", &save))
        r[n_presets++] = recipe((cake_recipe_request){.preset = p});
    assert_int_equal(n_presets, 13);
    while (fgets(line, sizeof line, f)) {
        char shape[32], role[32], path[256], want[PRESETS_MAX + 1];
        unsigned n_layers;
        assert_int_equal(
            sscanf(line, "%31s %u %31s %255s %32s", shape, &n_layers, role, path, want), 5);
        assert_int_equal(strlen(want), n_presets);
        cake_part part = cake_part_of(path);
        if (strcmp(role, part == CAKE_PART_NONE ? "-" : cake_part_name(part)) != 0)
            fail_msg("%s: role %s, expected %s", path, cake_part_name(part), role);
        for (unsigned i = 0; i < n_presets; i++) {
            cake_format got = decide(r[i], path, 2048, n_layers);
            if (letter(&got) != want[i])
                fail_msg("%s of %s, preset %u: %c, expected %c", path, shape, i, letter(&got),
                         want[i]);
        }
        n_lines++;
    }
    assert_int_equal(n_lines, 470);
    for (unsigned i = 0; i < n_presets; i++) cake_recipe_free(r[i]);
    fclose(f);
}

static void test_more(void **state) {
    (void)state;
    static const uint8_t want[] = {0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27};
    size_t n = 0;
    for (uint32_t i = 0; i < 28; i++)
        if (cake_layer_gets_more(i, 28)) assert_int_equal(want[n++], i);
    assert_int_equal(n, sizeof want);
    assert_int_equal(cake_layer_of("model.layers.17.mlp.gate"), 17);
    assert_int_equal(cake_layer_of("model.layers.x.mlp.gate"), -1);
    assert_int_equal(cake_layer_of("model.embed_tokens"), -1);
    assert_int_equal(cake_layer_of("a.layers.99999999999.b"), -1);
}

/* ---- whole models ---- */

typedef struct {
    cake_recipe *r;
    uint32_t n_layers;
    unsigned count[CAKE_CODEC_COUNT], floats;
    uint64_t bytes; /* of quantized modules with their one-byte scales */
} census;

static void count(census *c, const char *path, uint64_t n, uint64_t k) {
    cake_format f = decide(c->r, path, k, c->n_layers);
    if (f.kind == CAKE_FORMAT_FLOAT) {
        c->floats++;
        return;
    }
    c->count[f.codec]++;
    c->bytes += n * cake_format_row_bytes(&f, (size_t)k) + 1;
}

#define COUNT(c, n, k, ...)                                                                        \
    do {                                                                                           \
        char path[128];                                                                            \
        snprintf(path, sizeof path, __VA_ARGS__);                                                  \
        count(c, path, n, k);                                                                      \
    } while (0)

static void count_attention(census *c, uint32_t i, uint64_t hidden, uint64_t q, uint64_t kv) {
    COUNT(c, q, hidden, "model.layers.%u.self_attn.q_proj", i);
    COUNT(c, kv, hidden, "model.layers.%u.self_attn.k_proj", i);
    COUNT(c, kv, hidden, "model.layers.%u.self_attn.v_proj", i);
    COUNT(c, hidden, q, "model.layers.%u.self_attn.o_proj", i);
}

/* Qwen3-0.6B, q5_k_m: 155 q5_k + 42 q6_k and 419,619,013 bytes with its bf16 norms. */
static void test_qwen3_600m(void **state) {
    (void)state;
    census c = {.r = recipe((cake_recipe_request){.preset = "q5_k_m"}), .n_layers = 28};
    COUNT(&c, 151936, 1024, "model.embed_tokens");
    for (uint32_t i = 0; i < 28; i++) {
        count_attention(&c, i, 1024, 2048, 1024);
        COUNT(&c, 3072, 1024, "model.layers.%u.mlp.gate_proj", i);
        COUNT(&c, 3072, 1024, "model.layers.%u.mlp.up_proj", i);
        COUNT(&c, 1024, 3072, "model.layers.%u.mlp.down_proj", i);
    }
    assert_int_equal(c.count[CAKE_CODEC_Q5_K], 155);
    assert_int_equal(c.count[CAKE_CODEC_Q6_K], 42);
    assert_int_equal(c.bytes, 419487941);
    const uint64_t norms = 2 * (28 * (2 * 1024 + 2 * 128) + 1024);
    assert_int_equal(c.bytes + norms, 419619013);
    cake_recipe_free(c.r);
}

static void test_moe_counts(void **state) {
    (void)state;
    census c = {.r = recipe((cake_recipe_request){.preset = "q4_k_m"}), .n_layers = 48};
    census next = c;
    COUNT(&c, 151936, 2048, "model.embed_tokens");
    COUNT(&c, 151936, 2048, "lm_head");
    COUNT(&next, 151936, 2048, "model.embed_tokens");
    COUNT(&next, 151936, 2048, "lm_head");
    for (uint32_t i = 0; i < 48; i++) {
        static const char *const part[] = {"gate_proj", "up_proj", "down_proj"};
        count_attention(&c, i, 2048, 4096, 512);
        if ((i + 1) % 4 == 0) {
            count_attention(&next, i, 2048, 8192, 512);
        } else {
            COUNT(&next, 12288, 2048, "model.layers.%u.linear_attn.in_proj_qkvz", i);
            COUNT(&next, 64, 2048, "model.layers.%u.linear_attn.in_proj_ba", i);
            COUNT(&next, 2048, 4096, "model.layers.%u.linear_attn.out_proj", i);
        }
        for (int j = 0; j < 3; j++) {
            COUNT(&c, 128 * 768, 2048, "model.layers.%u.mlp.switch_mlp.%s", i, part[j]);
            COUNT(&next, 512 * 512, 2048, "model.layers.%u.mlp.switch_mlp.%s", i, part[j]);
            COUNT(&next, 512, 2048, "model.layers.%u.mlp.shared_expert.%s", i, part[j]);
        }
        COUNT(&c, 128, 2048, "model.layers.%u.mlp.gate", i);
        COUNT(&next, 512, 2048, "model.layers.%u.mlp.gate", i);
        COUNT(&next, 1, 2048, "model.layers.%u.mlp.shared_expert_gate", i);
    }
    assert_int_equal(c.count[CAKE_CODEC_Q4_K], 289);
    assert_int_equal(c.count[CAKE_CODEC_Q6_K], 49);
    assert_int_equal(c.floats, 48);
    assert_int_equal(next.count[CAKE_CODEC_Q4_K], 397);
    assert_int_equal(next.count[CAKE_CODEC_Q5_K], 36);
    assert_int_equal(next.count[CAKE_CODEC_Q6_K], 13);
    assert_int_equal(next.floats, 96);
    cake_recipe_free(c.r);
}

/* ---- mlx ---- */

static void expect(cake_recipe *r, const char *path, uint64_t k, const char *want) {
    char got[CAKE_FORMAT_NAME_MAX];
    cake_format f = decide(r, path, k, 16);
    if (strcmp(cake_format_name(&f, got), want) != 0)
        fail_msg("%s (k %llu): %s, expected %s", path, (unsigned long long)k, got, want);
}

static void test_mlx(void **state) {
    (void)state;
    cake_recipe *r = recipe((cake_recipe_request){
        .mlx = true, .mixed = "mixed_3_6", .group_size = 32, .model_type = "qwen3_moe"});
    assert_true(cake_recipe_lists_all(r) && !cake_recipe_is_kquant(r));
    expect(r, "model.layers.0.self_attn.v_proj", 64, "affine6g32");
    expect(r, "model.layers.2.self_attn.v_proj", 64, "affine3g32");
    expect(r, "model.layers.4.mlp.switch_mlp.down_proj", 64, "affine6g32");
    expect(r, "model.layers.0.self_attn.q_proj", 64, "affine3g32");
    expect(r, "model.embed_tokens", 64, "affine3g32");
    expect(r, "lm_head", 64, "affine6g32");
    expect(r, "model.layers.0.mlp.gate", 64, "affine3g32"); /* the recipe replaces the 8 bits */
    expect(r, "lm_head", 48, "float");
    cake_recipe_free(r);
    r = recipe((cake_recipe_request){.mlx = true, .mode = "mxfp4", .model_type = "qwen3_next"});
    expect(r, "model.layers.0.mlp.gate", 64, "affine8g64");
    expect(r, "model.layers.0.mlp.shared_expert_gate", 64, "affine8g64");
    expect(r, "model.layers.0.mlp.up_proj", 32, "mxfp4");
    cake_recipe_free(r);
    r = recipe((cake_recipe_request){.mlx = true});
    expect(r, "any.thing", 128, "affine4g64");
    expect(r, "any.thing", 96, "float");
    cake_recipe_free(r);
}

static void test_overrides(void **state) {
    (void)state;
    static const char *const kq[] = {"layers\\.[01]\\..*down=q8_0", "down_proj=float", "qkv=q6_k",
                                     "never=q4_0"};
    cake_recipe *r =
        recipe((cake_recipe_request){.type = "q4_k", .overrides = kq, .n_overrides = 4});
    expect(r, "model.layers.1.mlp.down_proj", 256, "q8_0");
    expect(r, "model.layers.10.mlp.down_proj", 256, "float");
    expect(r, "model.layers.1.self_attn.qkv_proj", 256, "q6_k"); /* no role, but asked for */
    expect(r, "model.layers.1.self_attn.q_proj", 256, "q4_k");
    expect(r, "model.layers.1.self_attn.q_proj", 128, "float");
    expect(r, "model.layers.1.mlp.gate", 256, "float");
    assert_string_equal(cake_recipe_unused(r), "never=q4_0");
    cake_format f;
    const char *why;
    cake_error err = {0};
    assert_int_equal(cake_recipe_decide(r, "a.qkv_proj", 128, 1, &f, &why, &err), CAKE_EINVAL);
    assert_non_null(strstr(err.msg, "128"));
    cake_recipe_free(r);
    static const char *const mlx[] = {"lm_head=8", "embed=6g32", "v_proj=mxfp8", "k_proj=float"};
    r = recipe((cake_recipe_request){.mlx = true, .bits = 3, .overrides = mlx, .n_overrides = 4});
    expect(r, "lm_head", 128, "affine8g64");
    expect(r, "model.embed_tokens", 128, "affine6g32");
    expect(r, "x.v_proj", 128, "mxfp8");
    expect(r, "x.k_proj", 128, "float");
    assert_null(cake_recipe_unused(r));
    cake_recipe_free(r);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const bad[] = {"no type", "=q4_k", "a=q9_k", "a(=q4_k", "a=mxfp4",
                                      "a=4",     "a=",    "",       "a=Q4_K"};
    static const char *const bad_mlx[] = {"a=q4_k",  "a=7",    "a=1",
                                          "a=4g",    "a=4g16", "a=4g64x",
                                          "a=g64",   "a=-4",   "a=99999999999999999999",
                                          "a=kquant"};
    const struct {
        cake_recipe_request q;
        const char *words;
    } refused[] = {
        {{0}, "only one"},
        {{.preset = "q4_k_m", .type = "q4_k"}, "only one"},
        {{.preset = "q4_k_m", .mlx = true}, "only one"},
        {{.preset = "Q4_K_M"}, "--list-presets"},
        {{.type = "q4"}, "q4_k"},
        {{.type = "mxfp4"}, "q4_k"}, /* as a block of GGUF it cannot be written */
        {{.mlx = true, .bits = 7}, "7 bits"},
        {{.mlx = true, .group_size = 16}, "groups of 16"},
        {{.mlx = true, .mode = "nf4"}, "nvfp4"},
        {{.mlx = true, .mode = "mxfp4", .bits = 8}, "--mlx-bits"},
        {{.mlx = true, .mode = "mxfp4", .mixed = "mixed_3_6"}, "affine"},
        {{.mlx = true, .mixed = "mixed_1_2"}, "mixed_2_6"},
    };
    cake_recipe *r;
    cake_error err;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        err = (cake_error){0};
        assert_int_not_equal(cake_recipe_new(&r, &refused[i].q, &err), CAKE_OK);
        if (!strstr(err.msg, refused[i].words)) fail_msg("%zu: %s", i, err.msg);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(
            cake_recipe_new(
                &r, &(cake_recipe_request){.type = "q4_k", .overrides = &bad[i], .n_overrides = 1},
                &err),
            CAKE_EINVAL);
    for (size_t i = 0; i < sizeof bad_mlx / sizeof *bad_mlx; i++)
        assert_int_equal(
            cake_recipe_new(
                &r, &(cake_recipe_request){.mlx = true, .overrides = &bad_mlx[i], .n_overrides = 1},
                &err),
            CAKE_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_presets),    cmocka_unit_test(test_more),
        cmocka_unit_test(test_qwen3_600m), cmocka_unit_test(test_moe_counts),
        cmocka_unit_test(test_mlx),        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
