/* config.json and its quantization block: the collection's real files, every variant, every
 * refusal. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/codec.h"
#include "tests/unit/modelfile.h"

#define BASE                                                                                       \
    "\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_"        \
    "heads\":2,\"intermediate_size\":128,\"vocab_size\":100,\"rms_norm_eps\":1e-5"
#define LLAMA   "{\"model_type\":\"llama\"," BASE
#define QWEN3   "{\"model_type\":\"qwen3\",\"rope_theta\":1e6," BASE
#define QWEN2   "{\"model_type\":\"qwen2\"," BASE
#define MISTRAL "{\"model_type\":\"mistral\"," BASE

static cake_model_config parse_ok(const char *text) {
    cake_model_config c;
    cake_error err = {0};
    cake_status st = cake_config_parse(&c, text, strlen(text), "config.json", &err);
    if (st != CAKE_OK) fail_msg("%s\n%s", err.msg, text);
    return c;
}
static void refused(const char *text, cake_status want, const char *words) {
    cake_model_config c;
    cake_error err = {0};
    cake_status st = cake_config_parse(&c, text, strlen(text), "config.json", &err);
    if (st == CAKE_OK) cake_config_deinit(&c);
    if (st != want || !strstr(err.msg, words) || strncmp(err.msg, "config.json", 11) != 0)
        fail_msg("expected %s with '%s', got %s: %s\n%s", cake_status_name(want), words,
                 cake_status_name(st), err.msg, text);
}

static void test_llama(void **state) {
    (void)state;
    cake_model_config c = parse_ok(
        LLAMA
        ",\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":false,\"torch_dtype\":"
        "\"bfloat16\",\"bos_token_id\":1,\"eos_token_id\":[2,3],\"max_position_embeddings\":4096}");
    assert_int_equal(c.family, CAKE_FAMILY_LLAMA);
    assert_string_equal(c.model_type, "llama");
    assert_int_equal(c.hidden, 64);
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.n_heads, 4);
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.ff, 128);
    assert_int_equal(c.vocab, 100);
    assert_int_equal(c.max_positions, 4096);
    assert_true(c.norm_eps == 1e-5);
    assert_true(c.q_bias && c.k_bias && c.v_bias && c.o_bias && c.mlp_bias && !c.qk_norm);
    assert_int_equal(c.tie, 0);
    assert_int_equal(c.dtype, CAKE_DTYPE_BF16);
    assert_int_equal(c.bos_id, 1);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos_ids[1], 3);
    assert_int_equal(c.rope.type, CAKE_SCALING_DEFAULT);
    assert_true(c.rope.theta == 10000 && c.rope.factor == 1);
    cake_config_deinit(&c);
    c = parse_ok(LLAMA ",\"tie_word_embeddings\":null,\"bos_token_id\":null,\"eos_token_id\":null,"
                       "\"head_dim\":null}");
    assert_int_equal(c.tie, -1);
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(c.dtype, CAKE_DTYPE_NONE);
    assert_false(c.q_bias || c.o_bias || c.mlp_bias);
    cake_config_deinit(&c);
    /* Code beside the model is never looked at; auto_map alone does not matter. */
    c = parse_ok(LLAMA ",\"auto_map\":{\"AutoModel\":\"evil.py\"},\"architectures\":["
                       "\"LlamaForCausalLM\"],\"head_dim\":32}");
    assert_int_equal(c.head_dim, 32);
    cake_config_deinit(&c);
}

static void test_families(void **state) {
    (void)state;
    cake_model_config c = parse_ok(QWEN2 "}");
    assert_int_equal(c.family, CAKE_FAMILY_QWEN2);
    assert_true(c.q_bias && c.k_bias && c.v_bias && !c.o_bias && !c.mlp_bias && !c.qk_norm);
    assert_true(c.rope.theta == 1e6);
    cake_config_deinit(&c);
    c = parse_ok(QWEN3 "}");
    assert_true(c.qk_norm && !c.q_bias && !c.o_bias);
    cake_config_deinit(&c);
    c = parse_ok(MISTRAL ",\"sliding_window\":4096,\"rope_theta\":1000000.0}");
    assert_true(c.family == CAKE_FAMILY_MISTRAL && !c.q_bias && !c.qk_norm);
    cake_config_deinit(&c);
}

/* Mixtures of experts: which layers, how many, what must be said and what must agree. */
#define QWEN2_MOE(x) MIXTURE("qwen2_moe", x ",\"shared_expert_intermediate_size\":48")
#define QWEN3_MOE(x) MIXTURE("qwen3_moe", x)
#define MIXTURE(type, x)                                                                           \
    "{\"model_type\":\"" type "\",\"rope_theta\":1e6," BASE ",\"moe_intermediate_size\":32" x "}"
#define EIGHT_TWO ",\"num_experts\":8,\"num_experts_per_tok\":2"
#define NORM      ",\"norm_topk_prob\":true"
static void test_mixtures(void **state) {
    (void)state;
    cake_model_config c = parse_ok(QWEN2_MOE(EIGHT_TWO));
    assert_int_equal(c.family, CAKE_FAMILY_QWEN2_MOE);
    assert_true(c.q_bias && c.k_bias && c.v_bias && !c.o_bias && !c.qk_norm);
    assert_true(c.moe.n_experts == 8 && c.moe.top_k == 2 && c.moe.ff == 32);
    assert_true(c.moe.shared_ff == 48 && !c.moe.norm_top_k && c.ff == 0);
    assert_true(cake_config_has_experts(&c, 0) && cake_config_has_experts(&c, 1));
    cake_config_deinit(&c);
    c = parse_ok(QWEN2_MOE(EIGHT_TWO NORM ",\"qkv_bias\":false"));
    assert_true(!c.q_bias && !c.k_bias && !c.v_bias && c.moe.norm_top_k);
    cake_config_deinit(&c);
    c = parse_ok(QWEN3_MOE(EIGHT_TWO NORM ",\"decoder_sparse_step\":2"));
    assert_true(c.qk_norm && !c.q_bias && c.moe.shared_ff == 0 && c.ff == 128);
    assert_true(!cake_config_has_experts(&c, 0) && cake_config_has_experts(&c, 1));
    cake_config_deinit(&c);
    c = parse_ok(QWEN3_MOE(EIGHT_TWO NORM ",\"mlp_only_layers\":[1]"));
    assert_true(cake_config_has_experts(&c, 0) && !cake_config_has_experts(&c, 1));
    cake_config_deinit(&c);
    c = parse_ok(QWEN3_MOE(EIGHT_TWO NORM ",\"mlp_only_layers\":[1,0]"));
    assert_true(c.moe.n_experts == 0 && c.moe.top_k == 0 && c.ff == 128); /* all dense */
    cake_config_deinit(&c);
    c = parse_ok(QWEN3_MOE(",\"num_experts\":0"));
    assert_true(c.moe.n_experts == 0 && c.ff == 128);
    cake_config_deinit(&c);
    c = parse_ok(MIXTURE("mixtral", ",\"num_local_experts\":4,\"num_experts_per_tok\":2"));
    assert_true(c.family == CAKE_FAMILY_MIXTRAL && !c.q_bias && !c.qk_norm);
    assert_true(c.moe.n_experts == 4 && c.moe.ff == 128 && c.moe.norm_top_k && c.ff == 0);
    cake_config_deinit(&c);

    static const struct {
        const char *text;
        cake_status st;
        const char *words;
    } bad[] = {
        {QWEN3_MOE(EIGHT_TWO), CAKE_EFORMAT, "norm_topk_prob"},
        {QWEN3_MOE(",\"num_experts_per_tok\":2" NORM), CAKE_EFORMAT, "\"num_experts\" is missing"},
        {QWEN3_MOE(",\"num_experts\":8" NORM), CAKE_EFORMAT, "num_experts_per_tok"},
        {QWEN3_MOE(",\"num_experts\":8,\"num_experts_per_tok\":9" NORM), CAKE_EFORMAT,
         "more than the 8 experts"},
        {QWEN3_MOE(",\"num_experts\":1025,\"num_experts_per_tok\":9" NORM), CAKE_EFORMAT,
         "num_experts"},
        {QWEN3_MOE(",\"num_experts\":512,\"num_experts_per_tok\":65" NORM), CAKE_EFORMAT,
         "num_experts_per_tok"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"num_local_experts\":4"), CAKE_EFORMAT,
         "\"num_experts\" is 8 and \"num_local_experts\" is 4"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"shared_expert_intermediate_size\":4"), CAKE_EUNSUPPORTED,
         "shared_expert"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"decoder_sparse_step\":0"), CAKE_EFORMAT,
         "decoder_sparse_step"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"mlp_only_layers\":[2]"), CAKE_EFORMAT, "mlp_only_layers"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"mlp_only_layers\":[-1]"), CAKE_EFORMAT, "mlp_only_layers"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"mlp_only_layers\":[\"0\"]"), CAKE_EFORMAT, "mlp_only_layers"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"mlp_only_layers\":0"), CAKE_EFORMAT, "mlp_only_layers"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"attention_bias\":true"), CAKE_EUNSUPPORTED, "attention_bias"},
        {QWEN3_MOE(EIGHT_TWO NORM ",\"n_shared_experts\":1"), CAKE_EUNSUPPORTED,
         "n_shared_experts"},
        {MIXTURE("qwen2_moe", EIGHT_TWO), CAKE_EFORMAT, "shared_expert_intermediate_size"},
        {MIXTURE("mixtral", ",\"num_local_experts\":0,\"num_experts_per_tok\":2"), CAKE_EFORMAT,
         "num_local_experts"},
        {"{\"model_type\":\"qwen3_moe\",\"rope_theta\":1e6,\"hidden_size\":64,"
         "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":100,"
         "\"rms_norm_eps\":1e-5,\"moe_intermediate_size\":32,\"mlp_only_layers\":[0]" EIGHT_TWO NORM
         "}",
         CAKE_EFORMAT, "\"intermediate_size\" is missing, and 1 layers"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(bad[i].text, bad[i].st, bad[i].words);
}

static void test_rope(void **state) {
    (void)state;
    cake_model_config c = parse_ok(
        LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,"
              "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},\"rope_theta\":"
              "500000.0}");
    assert_int_equal(c.rope.type, CAKE_SCALING_LLAMA3);
    assert_true(c.rope.theta == 500000 && c.rope.factor == 32 && c.rope.low_freq_factor == 1 &&
                c.rope.high_freq_factor == 4 && c.rope.original_max_positions == 8192);
    cake_config_deinit(&c);
    c = parse_ok(LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}");
    assert_true(c.rope.type == CAKE_SCALING_LINEAR && c.rope.factor == 2);
    cake_config_deinit(&c);
    c = parse_ok(QWEN2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"original_max_"
                       "position_embeddings\":32768}}");
    assert_true(c.rope.type == CAKE_SCALING_YARN && c.rope.factor == 4 &&
                c.rope.original_max_positions == 32768 && c.rope.beta_fast == 32 &&
                c.rope.beta_slow == 1 && c.rope.mscale == 1 && c.rope.mscale_all_dim == 0);
    cake_config_deinit(&c);
    /* The factor that follows from the others may be spelled out. */
    c = parse_ok(QWEN2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"attention_factor\":1."
                       "138629436111989}}");
    assert_true(c.rope.original_max_positions == 4096);
    cake_config_deinit(&c);
    /* The newer place, with theta inside. */
    c = parse_ok("{\"model_type\":\"qwen3\"," BASE
                 ",\"rope_parameters\":{\"rope_theta\":5000000,\"rope_type\":\"default\"}}");
    assert_true(c.rope.type == CAKE_SCALING_DEFAULT && c.rope.theta == 5000000);
    cake_config_deinit(&c);
    c = parse_ok(LLAMA ",\"rope_scaling\":null,\"rope_parameters\":null}");
    assert_int_equal(c.rope.type, CAKE_SCALING_DEFAULT);
    cake_config_deinit(&c);
}

static void test_windows(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint32_t window;
        unsigned sliding; /* bit i: layer i */
    } fine[] = {
        {LLAMA ",\"layer_types\":[\"full_attention\",\"full_attention\"]}", 0, 0},
        {LLAMA ",\"sliding_window\":40,\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         40, 2},
        {MISTRAL ",\"sliding_window\":4096}", 4096, 0},
        {QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":4096,\"max_window_layers\":1}",
         4096, 0},
        {QWEN3 ",\"use_sliding_window\":false,\"sliding_window\":4096,\"max_window_layers\":1}",
         4096, 0},
        {QWEN3 ",\"use_sliding_window\":true,\"sliding_window\":4096,\"max_window_layers\":2}",
         4096, 0},
        {QWEN3 ",\"use_sliding_window\":true,\"sliding_window\":4096,\"max_window_layers\":1}",
         4096, 2},
        {MIXTURE("mixtral", ",\"num_local_experts\":4,\"num_experts_per_tok\":2,"
                            "\"sliding_window\":4096"),
         4096, 3},
    };
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        cake_model_config c = parse_ok(fine[i].text);
        assert_int_equal(c.window, fine[i].window);
        for (uint32_t l = 0; l < 2; l++)
            assert_int_equal(cake_config_is_sliding(&c, l), fine[i].sliding >> l & 1);
        assert_true(c.local_rope.theta == 0); /* Gemma 3 alone */
        cake_config_deinit(&c);
    }
    refused(LLAMA ",\"layer_types\":[\"full_attention\",\"linear_attention\"]}", CAKE_EUNSUPPORTED,
            "linear_attention");
    refused(LLAMA ",\"layer_types\":[\"full_attention\"]}", CAKE_EFORMAT, "1 entries for 2 layers");
    refused(LLAMA ",\"layer_types\":[\"full_attention\",null]}", CAKE_EUNSUPPORTED, "layer 1");
    refused(LLAMA ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", CAKE_EFORMAT,
            "layer 1 attends to a window, and \"sliding_window\"");
}

#define GEMMA(x)  "{\"model_type\":\"gemma\"," BASE x "}"
#define GEMMA2(x) "{\"model_type\":\"gemma2\"," BASE x "}"
#define GEMMA3(x) "{\"model_type\":\"gemma3_text\",\"sliding_window\":512," BASE x "}"
#define SEES(top, text)                                                                            \
    "{\"model_type\":\"gemma3\"," top "\"text_config\":{\"model_type\":\"gemma3_text\","           \
    "\"sliding_window\":1024,\"hidden_size\":2560,\"intermediate_size\":10240,"                    \
    "\"num_hidden_layers\":34" text "}}"
static void test_gemma(void **state) {
    (void)state;
    cake_model_config c = parse_ok(GEMMA(",\"hidden_act\":\"gelu\",\"head_dim\":16,"
                                         "\"hidden_activation\":\"gelu_pytorch_tanh\""));
    assert_int_equal(c.family, CAKE_FAMILY_GEMMA);
    assert_true(c.norm_add_one && !c.norm_one_added && !c.post_norms && c.gelu && !c.qk_norm);
    assert_true(c.query_scalar == 16 && c.embed_scale == 8 && c.tie == -1 && c.window == 0);
    assert_true(c.attn_softcap == 0 && c.logit_softcap == 0 && c.rope.theta == 10000);
    cake_config_deinit(&c);
    refused(GEMMA(",\"hidden_act\":\"gelu\""), CAKE_EUNSUPPORTED, "only gelu_pytorch_tanh");
    refused(GEMMA(",\"final_logit_softcapping\":30"), CAKE_EUNSUPPORTED, "final_logit_softcapping");
    c = parse_ok(GEMMA2(""));
    assert_int_equal(c.family, CAKE_FAMILY_GEMMA2);
    assert_true(c.norm_add_one && c.post_norms && c.gelu && !c.qk_norm && !c.q_bias);
    assert_true(c.head_dim == 256 && c.tie == -1 && c.embed_scale == 8 && c.query_scalar == 256);
    assert_true(c.attn_softcap == 50 && c.logit_softcap == 30 && c.max_positions == 8192);
    assert_true(c.window == 4096 && cake_config_is_sliding(&c, 0) &&
                !cake_config_is_sliding(&c, 1));
    assert_true(c.rope.theta == 10000 && c.local_rope.theta == 0);
    cake_config_deinit(&c);
    c = parse_ok(GEMMA2(",\"attn_logit_softcapping\":null,\"final_logit_softcapping\":20.5,"
                        "\"query_pre_attn_scalar\":144,\"head_dim\":128,\"norm_add_one\":false"));
    assert_true(c.attn_softcap == 0 && c.logit_softcap == 20.5 && c.query_scalar == 144);
    assert_true(c.head_dim == 128 && !c.norm_add_one && c.norm_one_added && c.post_norms);
    cake_config_deinit(&c);

    c = parse_ok(GEMMA3(",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0},"
                        "\"sliding_window_pattern\":1,\"hidden_act\":\"gelu_pytorch_tanh\""));
    assert_int_equal(c.family, CAKE_FAMILY_GEMMA3);
    assert_true(c.qk_norm && c.post_norms && c.attn_softcap == 0 && c.logit_softcap == 0);
    assert_true(!cake_config_is_sliding(&c, 0) && !cake_config_is_sliding(&c, 1));
    assert_true(c.rope.theta == 1e6 && c.rope.type == CAKE_SCALING_LINEAR && c.rope.factor == 8);
    assert_true(c.local_rope.theta == 10000 && c.local_rope.type == CAKE_SCALING_DEFAULT);
    cake_config_deinit(&c);
    c = parse_ok(
        GEMMA3(",\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"rope_parameters\":{"
               "\"full_attention\":{\"rope_type\":\"linear\",\"factor\":4.0,\"rope_theta\":2e6},"
               "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":2e4}}"));
    assert_true(!cake_config_is_sliding(&c, 0) && cake_config_is_sliding(&c, 1) && c.window == 512);
    assert_true(c.rope.theta == 2e6 && c.rope.factor == 4 && c.local_rope.theta == 2e4);
    cake_config_deinit(&c);

    /* The text model within one that sees. */
    c = parse_ok(
        SEES("\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"eos_token_id\":[1,106],"
             "\"vision_config\":{\"hidden_size\":1152},",
             ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}"));
    assert_string_equal(c.model_type, "gemma3_text");
    assert_true(c.hidden == 2560 && c.n_heads == 8 && c.n_kv_heads == 4 && c.head_dim == 256);
    assert_true(c.vocab == 262208 && c.n_eos == 2 && c.embed_scale == 50.5f && c.window == 1024);
    for (uint32_t i = 0; i < 34; i++) assert_int_equal(cake_config_is_sliding(&c, i), i % 6 != 5);
    assert_true(c.max_positions == 131072 && c.norm_eps == 1e-6 && c.rope.factor == 8);
    cake_config_deinit(&c);
    /* bf16(sqrt(hidden)) */
    static const struct {
        uint32_t hidden;
        float scale;
    } roots[] = {{640, 25.25f}, {1152, 34}, {2304, 48}, {3584, 59.75f}, {3840, 62}, {5376, 73.5f}};
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        char *text = cake_asprintf(
            "{\"model_type\":\"gemma3\",\"text_config\":{\"sliding_window\":9,\"hidden_size\":%u,"
            "\"intermediate_size\":64,\"num_hidden_layers\":1}}",
            roots[i].hidden);
        c = parse_ok(text);
        assert_true(c.embed_scale == roots[i].scale);
        cake_config_deinit(&c);
        free(text);
    }

    refused(GEMMA2(",\"hidden_activation\":\"gelu\""), CAKE_EUNSUPPORTED, "only gelu_pytorch_tanh");
    refused(GEMMA2(",\"hidden_act\":\"silu\""), CAKE_EUNSUPPORTED, "\"hidden_act\" \"silu\"");
    refused(GEMMA2(",\"attn_logit_softcapping\":-1"), CAKE_EFORMAT, "attn_logit_softcapping");
    refused(GEMMA2(",\"query_pre_attn_scalar\":0"), CAKE_EFORMAT, "query_pre_attn_scalar");
    refused(GEMMA2(",\"use_bidirectional_attention\":true"), CAKE_EUNSUPPORTED, "bidirectional");
    refused(GEMMA2(",\"attention_bias\":true"), CAKE_EUNSUPPORTED, "attention_bias");
    refused(GEMMA3(",\"attn_logit_softcapping\":50"), CAKE_EUNSUPPORTED, "attn_logit_softcapping");
    refused(GEMMA3(",\"num_experts\":4"), CAKE_EUNSUPPORTED, "num_experts");
    refused(GEMMA3(",\"sliding_window\":null"), CAKE_EFORMAT, "\"sliding_window\" does not say");
    refused(GEMMA3(",\"sliding_window_pattern\":0"), CAKE_EFORMAT, "sliding_window_pattern");
    refused("{\"model_type\":\"gemma3\"," BASE "}", CAKE_EFORMAT, "text_config");
    refused(SEES("\"architectures\":[\"Gemma3ForSequenceClassification\"],", ""), CAKE_EUNSUPPORTED,
            "Gemma3ForSequenceClassification");
    refused("{\"model_type\":\"gemma3n\"}", CAKE_EUNSUPPORTED, "\"gemma3n\" is not supported");
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *text;
        cake_status st;
        const char *words;
    } c[] = {
        {"", CAKE_EFORMAT, "JSON"},
        {"{", CAKE_EFORMAT, "JSON"},
        {"[]", CAKE_EFORMAT, "not a JSON object"},
        {"{}", CAKE_EFORMAT, "\"model_type\" is missing"},
        {"{\"model_type\":3}", CAKE_EFORMAT, "model_type"},
        {"{\"model_type\":\"gpt_oss\"}", CAKE_EUNSUPPORTED,
         "\"gpt_oss\" is not supported; this build runs dense llama"},
        {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForSequenceClassification\"]}",
         CAKE_EUNSUPPORTED, "LlamaForSequenceClassification"},
        {LLAMA ",\"model_file\":\"model.py\"}", CAKE_EUNSUPPORTED, "model_file"},
        {LLAMA ",\"num_experts\":4}", CAKE_EUNSUPPORTED, "num_experts"},
        {LLAMA ",\"num_local_experts\":8}", CAKE_EUNSUPPORTED, "num_local_experts"},
        {LLAMA ",\"embedding_multiplier\":12.0}", CAKE_EUNSUPPORTED, "embedding_multiplier"},
        {LLAMA ",\"partial_rotary_factor\":0.5}", CAKE_EUNSUPPORTED, "partial_rotary_factor"},
        {LLAMA ",\"final_logit_softcapping\":30}", CAKE_EUNSUPPORTED, "final_logit_softcapping"},
        {LLAMA ",\"rope_traditional\":true}", CAKE_EUNSUPPORTED, "rope_traditional"},
        {LLAMA ",\"logits_scaling\":\"x\"}", CAKE_EUNSUPPORTED, "logits_scaling"},
        {LLAMA ",\"hidden_act\":\"gelu\"}", CAKE_EUNSUPPORTED, "only silu"},
        {LLAMA ",\"head_dim\":12}", CAKE_EUNSUPPORTED, "multiple of 8"},
        {LLAMA ",\"head_dim\":264}", CAKE_EUNSUPPORTED, "multiple of 8"},
        {LLAMA ",\"head_dim\":-8}", CAKE_EFORMAT, "head_dim"},
        {LLAMA ",\"tie_word_embeddings\":1}", CAKE_EFORMAT, "tie_word_embeddings"},
        {LLAMA ",\"eos_token_id\":\"x\"}", CAKE_EFORMAT, "eos_token_id"},
        {LLAMA ",\"eos_token_id\":[-1]}", CAKE_EFORMAT, "eos_token_id"},
        {LLAMA ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", CAKE_EFORMAT,
         "eos_token_id"},
        {LLAMA ",\"max_position_embeddings\":0}", CAKE_EFORMAT, "max_position_embeddings"},
        {MISTRAL ",\"attention_bias\":true}", CAKE_EUNSUPPORTED, "attention_bias"},
        {QWEN3 ",\"attention_bias\":true}", CAKE_EUNSUPPORTED, "attention_bias"},
        {QWEN2 ",\"mlp_bias\":true}", CAKE_EUNSUPPORTED, "mlp_bias"},
        {"{\"model_type\":\"qwen3\"," BASE "}", CAKE_EFORMAT, "rope_theta"},
        {LLAMA ",\"rope_theta\":\"big\"}", CAKE_EFORMAT, "rope_theta"},
        {LLAMA ",\"rope_theta\":0}", CAKE_EFORMAT, "rope_theta"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", CAKE_EUNSUPPORTED,
         "rope type \"dynamic\""},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":2}}", CAKE_EUNSUPPORTED,
         "longrope"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", CAKE_EFORMAT, "\"factor\" is missing"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", CAKE_EFORMAT, "factor"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"yarn\",\"factor\":2}}",
         CAKE_EFORMAT, "linear"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"truncate\":false}}",
         CAKE_EUNSUPPORTED, "truncate"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"attention_factor\":1.5}}",
         CAKE_EUNSUPPORTED, "attention_factor"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"llama_4_scaling_beta\":0.1}}",
         CAKE_EUNSUPPORTED, "llama_4_scaling_beta"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_"
               "freq_factor\":4}}",
         CAKE_EFORMAT, "high_freq_factor"},
        {LLAMA ",\"rope_scaling\":[]}", CAKE_EFORMAT, "rope_scaling"},
        {LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6}}}", CAKE_EUNSUPPORTED,
         "full_attention"},
        {"{\"model_type\":\"llama\",\"hidden_size\":65,\"num_hidden_layers\":2,\"num_attention_"
         "heads\":4,\"intermediate_size\":8,\"vocab_size\":9,\"rms_norm_eps\":1e-5}",
         CAKE_EFORMAT, "not a multiple"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_"
         "heads\":4,\"num_key_value_heads\":3,\"intermediate_size\":8,\"vocab_size\":9,\"rms_norm_"
         "eps\":1e-5}",
         CAKE_EFORMAT, "does not divide"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":5000,\"num_attention_"
         "heads\":4,\"intermediate_size\":8,\"vocab_size\":9,\"rms_norm_eps\":1e-5}",
         CAKE_EFORMAT, "num_hidden_layers"},
        {"{\"model_type\":\"llama\",\"hidden_size\":1e12,\"num_hidden_layers\":2,\"num_attention_"
         "heads\":4,\"intermediate_size\":8,\"vocab_size\":9,\"rms_norm_eps\":1e-5}",
         CAKE_EFORMAT, "hidden_size"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64.5,\"num_hidden_layers\":2,\"num_attention_"
         "heads\":4,\"intermediate_size\":8,\"vocab_size\":9,\"rms_norm_eps\":1e-5}",
         CAKE_EFORMAT, "whole number"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_"
         "heads\":4,\"intermediate_size\":8,\"vocab_size\":9}",
         CAKE_EFORMAT, "rms_norm_eps"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_"
         "heads\":4,\"intermediate_size\":8,\"vocab_size\":9,\"rms_norm_eps\":NaN}",
         CAKE_EFORMAT, "JSON"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_"
         "heads\":4,\"intermediate_size\":8,\"vocab_size\":9,\"rms_norm_eps\":0}",
         CAKE_EFORMAT, "rms_norm_eps"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_"
         "heads\":4096,\"head_dim\":256,\"num_key_value_heads\":4096,\"intermediate_size\":8,"
         "\"vocab_size\":9,\"rms_norm_eps\":\"x\"}",
         CAKE_EFORMAT, "not a number"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) refused(c[i].text, c[i].st, c[i].words);
}

/* ---- quantization ---- */

static cake_quant_params look(const cake_model_config *c, const char *path, cake_quant_rule want) {
    cake_quant_params p = {.mode = 99, .bits = 99, .group_size = 99};
    cake_quant_rule r = cake_quant_lookup(c->quant, path, &p);
    if (r != want) fail_msg("%s: rule %d, expected %d", path, r, want);
    return p;
}
#define IS(p, m, b, g) assert_true((p).mode == (m) && (p).bits == (b) && (p).group_size == (g))

/* formats.md 2.6, by number. */
static void test_quant_variants(void **state) {
    (void)state;
    cake_model_config c = parse_ok(LLAMA "}");
    look(&c, "model.embed_tokens", CAKE_QUANT_UNSAID);
    cake_config_deinit(&c);
    /* 1, 2 */
    c = parse_ok(LLAMA ",\"quantization\":{\"group_size\":32,\"bits\":3}}");
    IS(look(&c, "x", CAKE_QUANT_GLOBAL), CAKE_QUANT_AFFINE, 3, 32);
    cake_config_deinit(&c);
    c = parse_ok(LLAMA ",\"quantization\":{\"group_size\":128,\"bits\":6,\"mode\":\"affine\"},"
                       "\"quantization_config\":{\"bits\":1}}");
    IS(look(&c, "x", CAKE_QUANT_GLOBAL), CAKE_QUANT_AFFINE, 6, 128);
    cake_config_deinit(&c);
    /* 3, 14: overrides; what one leaves out is the mode's default, not the global value */
    c = parse_ok(LLAMA ",\"quantization\":{\"group_size\":32,\"bits\":4,\"model.layers.0.mlp."
                       "gate\":{\"group_size\":64,\"bits\":8},"
                       "\"a\":{\"bits\":8},\"b\":{\"group_size\":128},\"c\":{}}}");
    IS(look(&c, "model.layers.0.mlp.gate", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 8, 64);
    IS(look(&c, "a", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 8, 64);
    IS(look(&c, "b", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 4, 128);
    IS(look(&c, "c", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 4, 64);
    IS(look(&c, "model.layers.0.mlp", CAKE_QUANT_GLOBAL), CAKE_QUANT_AFFINE, 4, 32);
    cake_config_deinit(&c);
    /* 5, 9: false and true */
    c = parse_ok(LLAMA ",\"quantization\":{\"group_size\":32,\"bits\":5,\"n\":false,\"t\":true}}");
    look(&c, "n", CAKE_QUANT_REFUSED);
    IS(look(&c, "t", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 5, 32);
    cake_config_deinit(&c);
    /* 8: null */
    c = parse_ok(LLAMA ",\"quantization\":{\"group_size\":null,\"bits\":2,\"v\":{\"group_size\":"
                       "null,\"bits\":6}}}");
    IS(look(&c, "x", CAKE_QUANT_GLOBAL), CAKE_QUANT_AFFINE, 2, 64);
    IS(look(&c, "v", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 6, 64);
    cake_config_deinit(&c);
    /* 10: an override without mode is affine under any global mode */
    c = parse_ok(
        LLAMA
        ",\"quantization\":{\"group_size\":32,\"bits\":4,\"mode\":\"mxfp4\",\"r\":{\"group_size\":"
        "64,\"bits\":8},"
        "\"m\":{\"mode\":\"mxfp8\"},\"n\":{\"mode\":\"nvfp4\",\"bits\":4,\"group_size\":16}}}");
    IS(look(&c, "x", CAKE_QUANT_GLOBAL), CAKE_QUANT_MXFP4, 4, 32);
    IS(look(&c, "r", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 8, 64);
    IS(look(&c, "m", CAKE_QUANT_LISTED), CAKE_QUANT_MXFP8, 8, 32);
    IS(look(&c, "n", CAKE_QUANT_LISTED), CAKE_QUANT_NVFP4, 4, 16);
    cake_config_deinit(&c);
    /* Private keys that are not dicts are ignored, and can be listed. */
    c = parse_ok(
        LLAMA
        ",\"quantization\":{\"bits\":4,\"group_size\":64,\"made_by\":\"x\",\"n\":3,\"z\":null}}");
    const char *const *ignored = cake_quant_ignored_keys(c.quant);
    assert_true(ignored[0] && ignored[1] && ignored[2] && !ignored[3]);
    look(&c, "made_by", CAKE_QUANT_GLOBAL);
    cake_config_deinit(&c);
    c = parse_ok(LLAMA ",\"quantization\":null}");
    look(&c, "x", CAKE_QUANT_UNSAID);
    assert_null(cake_quant_ignored_keys(c.quant)[0]);
    cake_config_deinit(&c);
    for (unsigned bits = 1; bits <= 9; bits++)
        for (unsigned group = 16; group <= 256; group *= 2) {
            char *text = cake_asprintf(LLAMA ",\"quantization\":{\"bits\":%u,\"group_size\":%u}}",
                                       bits, group);
            bool ok = bits >= 2 && bits <= 8 && bits != 7 && group >= 32 && group <= 128;
            if (ok) {
                c = parse_ok(text);
                cake_config_deinit(&c);
            } else {
                refused(text, CAKE_EUNSUPPORTED, "the whole model: affine");
            }
            free(text);
        }
}

/* formats.md 5.1: where the block is looked for, and what the map says. */
static void test_kquant(void **state) {
    (void)state;
#define KQ(codec) "{\"mode\":\"kquant\",\"per_tensor\":{\"a\":\"" codec "\"}}"
#define MLX4      "{\"group_size\":64,\"bits\":4}"
    static const char *const where[] = {
        ",\"quantization\":" KQ("q6_k") "}",
        ",\"quantization\":" KQ("q6_k") ",\"quantization_config\":" KQ("q4_k") "}",
        ",\"quantization_config\":" KQ("q6_k") "}",
        ",\"quantization\":" MLX4 ",\"quantization_config\":" KQ("q6_k") "}",
        ",\"quantization\":" MLX4 ",\"text_config\":{\"quantization\":" KQ("q6_k") "}}",
        ",\"text_config\":{\"text_config\":{\"quantization_config\":" KQ("q6_k") "}}}",
    };
    for (size_t i = 0; i < sizeof where / sizeof *where; i++) {
        char *text = cake_asprintf(LLAMA "%s", where[i]);
        cake_model_config c = parse_ok(text);
        cake_quant_params p = look(&c, "a", CAKE_QUANT_LISTED);
        assert_int_equal(p.mode, CAKE_QUANT_KQUANT);
        assert_int_equal(p.codec, CAKE_BLOCK_Q6_K);
        look(&c, "b", CAKE_QUANT_REFUSED);
        cake_config_deinit(&c);
        free(text);
    }
    for (int i = 0; i < CAKE_BLOCK_COUNT; i++) {
        cake_block_codec codec;
        cake_codec kernel;
        const cake_block_info *b = cake_block_get((cake_block_codec)i);
        assert_true(cake_block_parse(b->name, &codec) && (int)codec == i);
        assert_true(cake_codec_parse(b->name, &kernel));
        assert_int_equal(b->weights, cake_codec_get(kernel)->weights);
        assert_int_equal(b->bytes, cake_codec_get(kernel)->bytes);
    }
    assert_int_equal(CAKE_BLOCK_COUNT, CAKE_CODEC_COUNT);
    assert_null(cake_block_get(CAKE_BLOCK_COUNT));
}

static void test_quant_refusals(void **state) {
    (void)state;
#define Q(x) LLAMA ",\"quantization\":" x "}"
    refused(Q("3"), CAKE_EFORMAT, "not an object");
    refused(Q("{\"bits\":\"4\"}"), CAKE_EFORMAT, "bits");
    refused(Q("{\"bits\":4,\"mode\":\"int4\"}"), CAKE_EUNSUPPORTED, "mode \"int4\"");
    refused(Q("{\"bits\":4,\"a.b\":{\"mode\":\"int4\"}}"), CAKE_EUNSUPPORTED,
            "module 'a.b': mode \"int4\"");
    refused(Q("{\"bits\":4,\"a.b\":{\"bits\":7}}"), CAKE_EUNSUPPORTED, "module 'a.b'");
    refused(Q("{\"bits\":4,\"a.b\":{\"mode\":\"mxfp4\",\"group_size\":64}}"), CAKE_EUNSUPPORTED,
            "module 'a.b'");
    refused(Q("{\"bits\":4,\"a.b\":{\"bits\":4,\"zero\":1}}"), CAKE_EFORMAT,
            "unknown field \"zero\"");
    refused(Q("{\"mode\":\"kquant\"}"), CAKE_EFORMAT, "per_tensor");
    refused(Q("{\"mode\":\"kquant\",\"per_tensor\":{}}"), CAKE_EFORMAT, "per_tensor");
    refused(Q("{\"mode\":\"kquant\",\"per_tensor\":[\"q6_k\"]}"), CAKE_EFORMAT, "per_tensor");
    refused(Q("{\"mode\":\"kquant\",\"per_tensor\":{\"a.b\":6}}"), CAKE_EFORMAT, "module 'a.b'");
    refused(Q("{\"mode\":\"kquant\",\"per_tensor\":{\"a.b\":\"iq3_s\"}}"), CAKE_EUNSUPPORTED,
            "module 'a.b': codec \"iq3_s\"");
    refused(Q("{\"mode\":\"kquant\",\"per_tensor\":{\"a\":\"q4_k\",\"b\":\"Q4_K\"}}"),
            CAKE_EUNSUPPORTED, "module 'b': codec \"Q4_K\"");
    refused(LLAMA ",\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4}}",
            CAKE_EUNSUPPORTED, "method \"awq\"");
    refused(LLAMA ",\"quantization_config\":{\"quant_method\":\"mxfp4\"}}", CAKE_EUNSUPPORTED,
            "method \"mxfp4\"");
}

/* Every config of the collection parses, or says why not. */
static void test_collection(void **state) {
    (void)state;
    static const struct {
        const char *file, *refusal; /* NULL: parses */
        cake_family family;
        uint32_t hidden, n_layers, n_heads, n_kv_heads, head_dim, ff, vocab;
        int tie;
    } c[] = {
        {"configs/llama3.2-3b-bf16", NULL, CAKE_FAMILY_LLAMA, 3072, 28, 24, 8, 128, 8192, 128256,
         1},
        {"configs/mistral-devstral-small", NULL, CAKE_FAMILY_MISTRAL, 5120, 40, 32, 8, 128, 32768,
         131072, 0},
        {"configs/qwen2-14b-bf16", NULL, CAKE_FAMILY_QWEN2, 5120, 48, 40, 8, 128, 13824, 151665, 0},
        {"configs/qwen3-1.7b-mlx-bf16", NULL, CAKE_FAMILY_QWEN3, 2048, 28, 16, 8, 128, 6144, 151936,
         1},
        {"configs/qwen3-14b-mlx-4bit", NULL, CAKE_FAMILY_QWEN3, 5120, 40, 40, 8, 128, 17408, 151936,
         0},
        {"configs/qwen3-8b-mlx-4bit", NULL, CAKE_FAMILY_QWEN3, 4096, 36, 32, 8, 128, 12288, 151936,
         0},
        {.file = "configs/gpt-oss-20b", .refusal = "\"model_type\" \"gpt_oss\" is not supported"},
        {.file = "configs/granite-3.1-1b-a400m-moe",
         .refusal = "\"model_type\" \"granitemoe\" is not supported"},
        {"configs/mixtral-wizardlm2-8x22b", NULL, CAKE_FAMILY_MIXTRAL, 6144, 56, 48, 8, 128, 0,
         32000, 0},
        {.file = "configs/qwen3.5-25b-reap-a3b-moe",
         .refusal = "\"model_type\" \"qwen3_5_moe_text\" is not supported"},
        {.file = "configs/qwen3.5-9b-mlx-8bit",
         .refusal = "\"model_type\" \"qwen3_5\" is not supported"},
        {.file = "configs/qwen3.8-27b-mlx-mixed-4-8bit",
         .refusal = "\"model_type\" \"qwen3_5\" is not supported"},
        {"models/babyllama105-pad256-kquant-q4_k_m", NULL, CAKE_FAMILY_LLAMA, 256, 5, 16, 8, 16,
         512, 105, 1},
        {"models/babyllama105-qwen2moe-mlx-4bit-gate8", NULL, CAKE_FAMILY_QWEN2_MOE, 128, 5, 8, 4,
         16, 0, 105, 0},
    };
    char *there = shared_data("configs");
    if (!there) skip();
    free(there);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        char *path = cake_asprintf("../shared/data/%s/config.json", c[i].file);
        cake_model_config m;
        cake_error err = {0};
        cake_status st = cake_config_read(&m, path, &err);
        if (c[i].refusal) {
            assert_fails(st, CAKE_EUNSUPPORTED, &err, c[i].refusal);
            assert_non_null(strstr(err.msg, path));
        } else {
            assert_ok(st, &err);
            assert_int_equal(m.family, c[i].family);
            assert_int_equal(m.hidden, c[i].hidden);
            assert_int_equal(m.n_layers, c[i].n_layers);
            assert_int_equal(m.n_heads, c[i].n_heads);
            assert_int_equal(m.n_kv_heads, c[i].n_kv_heads);
            assert_int_equal(m.head_dim, c[i].head_dim);
            assert_int_equal(m.ff, c[i].ff);
            assert_int_equal(m.vocab, c[i].vocab);
            assert_int_equal(m.tie, c[i].tie);
            cake_config_deinit(&m);
        }
        free(path);
    }
}

static void test_shipped(void **state) {
    (void)state;
    cake_model_config c;
    cake_error err = {0};
    assert_ok(
        cake_config_read(&c, "tests/models/babyllama105-mlx-4bit-g32-mixed/config.json", &err),
        &err);
    IS(look(&c, "model.embed_tokens", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 8, 32);
    IS(look(&c, "model.layers.4.mlp.down_proj", CAKE_QUANT_LISTED), CAKE_QUANT_AFFINE, 8, 32);
    IS(look(&c, "model.layers.4.mlp.up_proj", CAKE_QUANT_GLOBAL), CAKE_QUANT_AFFINE, 4, 32);
    cake_config_deinit(&c);
    assert_fails(cake_config_read(&c, "tests/models/none/config.json", &err), CAKE_ENOTFOUND, &err,
                 "config.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),          cmocka_unit_test(test_families),
        cmocka_unit_test(test_mixtures),       cmocka_unit_test(test_rope),
        cmocka_unit_test(test_windows),        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_quant_variants), cmocka_unit_test(test_kquant),
        cmocka_unit_test(test_quant_refusals), cmocka_unit_test(test_collection),
        cmocka_unit_test(test_gemma),          cmocka_unit_test(test_shipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
