/* Perplexity of the shipped models over tinystories_val.txt: in f32 mode what the float64 forward
 * of tests/reference gives (nll.json), with int8 activations within 0.5 % of that, and an 8-bit KV
 * cache moves it by 0.2 % at most. The corpus
 * (CDLA-Sharing) is not shipped: read from ../shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/json.h"
#include "common/mem.h"
#include "master/tokenizer/tokenizer.h"
#include "worker/engine/stage.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES = 65536, WINDOW = 255, BATCH = 64 };

static cake_error err;
static void must(cake_status st) {
    if (st != CAKE_OK) fail_msg("%s", err.msg);
}

/* -ln softmax(logits)[id], in double. */
static double surprise(const float *logits, uint32_t n, uint32_t id) {
    double max = logits[0], sum = 0;
    for (uint32_t i = 1; i < n; i++) max = fmax(max, logits[i]);
    for (uint32_t i = 0; i < n; i++) sum += exp(logits[i] - max);
    return log(sum) + max - logits[id];
}

static double mean_nll(const char *dir, const cake_ids *ids, uint32_t n_windows, bool f32,
                       cake_kv_type kv) {
    cake_checkpoint *ck;
    cake_model_config c = {0};
    cake_layout *layout;
    cake_scratch *scratch;
    cake_stage *stage;
    char *config = cake_path_join(dir, "config.json");
    must(cake_checkpoint_open(&ck, dir, &err));
    must(cake_config_read(&c, config, &err));
    must(cake_layout_new(&layout, &c, ck, NULL, 0, &err));
    must(cake_scratch_new(&scratch, &c, BATCH, 1, &err));
    cake_stage_options o = {.config = &c,
                            .layout = layout,
                            .unit_end = c.n_layers + 2,
                            .n_seqs = 1,
                            .context = WINDOW + 1,
                            .kv_blocks = WINDOW / 64 + 1,
                            .max_rows = BATCH,
                            .kv = kv,
                            .f32_mode = f32};
    must(cake_stage_new(&stage, &o, ck, NULL, scratch, NULL, NULL, &err));
    float *logits = cake_malloc((size_t)BATCH * c.vocab * sizeof *logits);
    double sum = 0;
    for (uint32_t w = 0; w < n_windows; w++) {
        cake_kv_op drop = {.op = CAKE_KV_FREE};
        for (uint32_t at = 0; at < WINDOW; at += BATCH) {
            cake_row rows[BATCH];
            uint32_t n = WINDOW - at < BATCH ? WINDOW - at : BATCH, n_out;
            for (uint32_t i = 0; i < n; i++) /* bos, then the window but its last id */
                rows[i] = (cake_row){0, at + i, at + i ? ids->v[w * WINDOW + at + i - 1] : 1,
                                     CAKE_ROW_LOGITS};
            must(cake_stage_run(stage, &drop, at == 0, rows, n, NULL, logits, &n_out, &err));
            for (uint32_t i = 0; i < n; i++)
                sum += surprise(logits + (size_t)i * c.vocab, c.vocab, ids->v[w * WINDOW + at + i]);
        }
    }
    free(logits);
    cake_stage_free(stage);
    cake_scratch_free(scratch);
    cake_layout_free(layout);
    cake_config_deinit(&c);
    cake_checkpoint_close(ck);
    free(config);
    return sum / ((double)n_windows * WINDOW);
}

static void perplexity(void **state) {
    (void)state;
    char *text;
    size_t len;
    if (cake_file_read("../shared/data/corpora/tinystories_val.txt", 8 << 20, &text, &len, &err) !=
        CAKE_OK) {
        print_message("skip: ../shared/data/corpora/tinystories_val.txt is missing\n");
        skip();
    }
    json_object *golden, *models;
    must(cake_json_read("tests/vectors/reference/nll.json", 1 << 20, &golden, &err));
    must(cake_json_object(golden, "models", true, &models, &err));
    json_object_object_foreach(models, name, want) {
        char *dir = cake_path_join("tests/models", name);
        if (!cake_dir_exists(dir)) {
            free(dir);
            continue;
        }
        cake_tokenizer *t;
        cake_ids ids = {0};
        int64_t windows = 0;
        double nll = 0;
        must(cake_json_int(want, "windows", true, 1, 1000, &windows, &err));
        must(cake_json_double(want, "mean_nll", true, 0, 100, &nll, &err));
        must(cake_tokenizer_open(&t, dir, &err));
        must(cake_tokenizer_encode(t, text, BYTES, 0, &ids, &err));
        assert_true(ids.n >= (size_t)windows * WINDOW);
        double f32 = mean_nll(dir, &ids, (uint32_t)windows, true, CAKE_KV_F16),
               int8 = mean_nll(dir, &ids, (uint32_t)windows, false, CAKE_KV_F16),
               q8 = mean_nll(dir, &ids, (uint32_t)windows, false, CAKE_KV_Q8);
        print_message("%-34s float64 %.6f  f32 %.6f  int8 %.6f nats: perplexity %+.3f %%, with "
                      "8-bit KV %+.3f %% more\n",
                      name, nll, f32, int8, 100 * (exp(int8 - f32) - 1),
                      100 * (exp(q8 - int8) - 1));
        if (fabs(f32 - nll) > 1e-4)
            fail_msg("%s: %f nats in f32 mode, %f in float64", name, f32, nll);
        if (fabs(exp(int8 - f32) - 1) > 0.005)
            fail_msg("%s: int8 activations change the perplexity too much", name);
        if (fabs(exp(q8 - int8) - 1) > 0.002)
            fail_msg("%s: an 8-bit KV cache changes the perplexity too much", name);
        cake_ids_deinit(&ids);
        cake_tokenizer_free(t);
        free(dir);
    }
    json_object_put(golden);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(perplexity)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
