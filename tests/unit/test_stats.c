/* Statistics of matrix inputs: against a float64 forward pass (calibration.json, made by
 * tests/reference/make_calibration.py), and the same for every cut of the model, chunk and thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/json.h"
#include "common/mem.h"
#include "worker/engine/stage.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 64, IDS_MAX = 64 };

typedef struct {
    cake_checkpoint *ck;
    cake_model_config config;
    cake_layout *layout;
    uint32_t n, ids[IDS_MAX];
} model;

static cake_error err;
static void must(cake_status st) {
    if (st != CAKE_OK) fail_msg("%s", err.msg);
}

static void open_model(model *m, const char *name) {
    char *dir = cake_path_join("tests/models", name);
    char *config = cake_path_join(dir, "config.json"), *ref = cake_path_join(dir, "reference.json");
    json_object *o, *ids;
    *m = (model){0};
    must(cake_checkpoint_open(&m->ck, dir, &err));
    must(cake_config_read(&m->config, config, &err));
    must(cake_layout_new(&m->layout, &m->config, m->ck, NULL, 0, &err));
    must(cake_json_read(ref, 1 << 20, &o, &err));
    must(cake_json_array(o, "prompt_ids", true, IDS_MAX, &ids, &err));
    m->n = (uint32_t)json_object_array_length(ids);
    for (uint32_t i = 0; i < m->n; i++)
        m->ids[i] = (uint32_t)json_object_get_int(json_object_array_get_idx(ids, i));
    json_object_put(o);
    free(dir);
    free(config);
    free(ref);
}

static void close_model(model *m) {
    cake_layout_free(m->layout);
    cake_config_deinit(&m->config);
    cake_checkpoint_close(m->ck);
}

/* What the stages of the prompt in chunks collected, stage by stage in out [units][inputs]: sums
 * are copied, the caller frees. cut: first unit of the second stage, 0 for one stage. */
typedef struct {
    uint32_t n, k;
    uint64_t count;
    double *sums;
} seen;

static seen *collect(const model *m, bool f32, unsigned threads, uint32_t cut, uint32_t chunk) {
    const uint32_t n_units = m->config.n_layers + 2;
    seen *out = cake_calloc((size_t)n_units * CAKE_INPUT_COUNT, sizeof *out);
    cake_pool *pool = cake_pool_new(threads, 0);
    cake_scratch *scratch;
    cake_stage *stage[2] = {0};
    must(cake_scratch_new(&scratch, &m->config, IDS_MAX, threads, &err));
    for (int i = 0; i < (cut ? 2 : 1); i++) {
        cake_stage_options o = {.config = &m->config,
                                .layout = m->layout,
                                .unit_begin = i ? cut : 0,
                                .unit_end = cut && !i ? cut : n_units,
                                .n_seqs = 1,
                                .context = CONTEXT,
                                .kv_blocks = 2,
                                .max_rows = IDS_MAX,
                                .f32_mode = f32,
                                .collect = true};
        must(cake_stage_new(&stage[i], &o, m->ck, pool, scratch, NULL, NULL, &err));
    }
    float *a = cake_malloc((size_t)IDS_MAX * m->config.hidden * sizeof *a),
          *logits = cake_malloc((size_t)IDS_MAX * m->config.vocab * sizeof *logits);
    for (uint32_t at = 0; at < m->n; at += chunk) {
        cake_row rows[IDS_MAX];
        const uint32_t n = m->n - at < chunk ? m->n - at : chunk;
        uint32_t n_out;
        for (uint32_t i = 0; i < n; i++)
            rows[i] = (cake_row){0, at + i, m->ids[at + i], CAKE_ROW_LOGITS};
        must(cake_stage_run(stage[0], NULL, 0, rows, n, NULL, cut ? a : logits, &n_out, &err));
        if (cut) must(cake_stage_run(stage[1], NULL, 0, rows, n, a, logits, &n_out, &err));
    }
    for (uint32_t u = 0; u < n_units; u++)
        for (int i = 0; i < CAKE_INPUT_COUNT; i++) {
            const double *sums;
            const uint64_t *counts;
            seen *s = &out[u * CAKE_INPUT_COUNT + (uint32_t)i];
            const cake_stats *from = cake_stage_stats(stage[cut && u >= cut]);
            if (!cake_stats_get(from, u, (cake_input)i, &s->n, &s->k, &sums, &counts)) continue;
            s->count = counts[0];
            s->sums = cake_calloc((size_t)s->n * s->k, sizeof *s->sums);
            memcpy(s->sums, sums, (size_t)s->n * s->k * sizeof *sums);
        }
    free(a);
    free(logits);
    cake_stage_free(stage[0]);
    cake_stage_free(stage[1]);
    cake_scratch_free(scratch);
    cake_pool_free(pool);
    return out;
}

static void free_seen(const model *m, seen *s) {
    for (uint32_t i = 0; i < (m->config.n_layers + 2) * CAKE_INPUT_COUNT; i++) free(s[i].sums);
    free(s);
}

static void reference(void **state) {
    (void)state;
    json_object *golden, *models;
    must(cake_json_read("tests/vectors/reference/calibration.json", 1 << 20, &golden, &err));
    must(cake_json_object(golden, "models", true, &models, &err));
    json_object_object_foreach(models, name, paths) {
        model m;
        open_model(&m, name);
        seen *s = collect(&m, true, 2, 0, IDS_MAX);
        size_t checked = 0;
        for (uint32_t u = 0; u < m.layout->n_units; u++)
            for (uint32_t i = 0; i < m.layout->units[u].n_modules; i++) {
                const cake_module *mod = &m.layout->units[u].modules[i];
                const cake_input in = cake_role_input(mod->role);
                if (in == CAKE_INPUT_COUNT) continue;
                json_object *want, *first;
                const char *path = mod->role == CAKE_ROLE_HEAD ? "head" : mod->path;
                if (!json_object_object_get_ex(paths, path, &want))
                    fail_msg("%s: %s is not in the golden", name, mod->path);
                const seen *got = &s[u * CAKE_INPUT_COUNT + in];
                double mean = 0, golden_mean;
                assert_int_equal(got->n, 1);
                assert_int_equal(got->k, mod->k);
                assert_int_equal(got->count, m.n);
                for (uint32_t k = 0; k < got->k; k++) mean += got->sums[k] / m.n / got->k;
                must(cake_json_double(want, "mean", true, 0, 1e9, &golden_mean, &err));
                if (!(fabs(mean / golden_mean - 1) < 1e-4))
                    fail_msg("%s: %s: mean square %g, in float64 %g", name, mod->path, mean,
                             golden_mean);
                must(cake_json_array(want, "first", true, 4, &first, &err));
                for (size_t k = 0; k < 4; k++) {
                    double w = json_object_get_double(json_object_array_get_idx(first, k));
                    if (!(fabs(got->sums[k] / m.n - w) < 1e-4 * (w + golden_mean)))
                        fail_msg("%s: %s column %zu: %g, in float64 %g", name, mod->path, k,
                                 got->sums[k] / m.n, w);
                }
                checked++;
            }
        assert_int_equal(checked, m.config.n_layers * 7 + 1);
        free_seen(&m, s);
        close_model(&m);
    }
    json_object_put(golden);
}

static void same_bits_of(const char *name) {
    model m;
    open_model(&m, name);
    seen *want = collect(&m, false, 1, 0, IDS_MAX);
    const struct {
        unsigned threads;
        uint32_t cut, chunk;
    } ways[] = {{2, 0, IDS_MAX}, {1, 0, 1}, {1, 3, 5}, {2, 1, 7}, {2, m.config.n_layers + 1, 3}};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        seen *got = collect(&m, false, ways[w].threads, ways[w].cut, ways[w].chunk);
        for (uint32_t i = 0; i < (m.config.n_layers + 2) * CAKE_INPUT_COUNT; i++) {
            assert_int_equal(got[i].n, want[i].n);
            assert_int_equal(got[i].count, want[i].count);
            if (got[i].n)
                assert_memory_equal(got[i].sums, want[i].sums,
                                    (size_t)got[i].n * got[i].k * sizeof *got[i].sums);
        }
        free_seen(&m, got);
    }
    free_seen(&m, want);
    close_model(&m);
}

static void same_bits(void **state) {
    (void)state;
    same_bits_of("babyllama105-mlx-4bit-g64");
    same_bits_of("babyllama105-qwen2moe-mlx-4bit-gate8");
}

/* Every row goes to top_k experts: their sums together are top_k times those of the layer. */
static void experts(void **state) {
    (void)state;
    model m;
    open_model(&m, "babyllama105-qwen2moe-mlx-4bit-gate8");
    seen *s = collect(&m, false, 2, 2, 9);
    const uint32_t n_experts = m.config.moe.n_experts, top_k = m.config.moe.top_k;
    for (uint32_t u = 1; u <= m.config.n_layers; u++) {
        const seen *all = &s[u * CAKE_INPUT_COUNT + CAKE_INPUT_FFN],
                   *each = &s[u * CAKE_INPUT_COUNT + CAKE_INPUT_EXPERT],
                   *down = &s[u * CAKE_INPUT_COUNT + CAKE_INPUT_EXPERT_DOWN];
        assert_int_equal(all->n, 1);
        assert_int_equal(each->n, n_experts);
        assert_int_equal(each->k, all->k);
        assert_int_equal(down->n, n_experts);
        assert_int_equal(down->k, m.config.moe.ff);
        for (uint32_t k = 0; k < all->k; k++) {
            double sum = 0;
            for (uint32_t e = 0; e < n_experts; e++) sum += each->sums[(size_t)e * each->k + k];
            assert_true(fabs(sum - top_k * all->sums[k]) <= 1e-9 * sum);
        }
        double mid = 0;
        for (size_t i = 0; i < (size_t)down->n * down->k; i++) mid += down->sums[i];
        assert_true(mid > 0);
    }
    free_seen(&m, s);
    close_model(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reference), cmocka_unit_test(same_bits),
                                       cmocka_unit_test(experts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
