/* The engine against the goldens that the real mlx, mlx-lm and transformers gave
 * (tests/vectors/reference/README.md): every logit of every position, and greedy ids.
 *
 * With CAKE_TEST_DIGEST set the program only prints a hash of all logits per model, so that
 * tests/integration/isa.sh can compare instruction sets. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/file.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/sha256.h"
#include "kernels/cpu.h"
#include "worker/engine/stage.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDENS "tests/vectors/reference"

enum { MAX_GREEDY = 256 };

static cake_error err;
#define OK(call) assert_msg((call) == CAKE_OK)
static void assert_msg(int ok) {
    if (!ok) fail_msg("%s", err.msg);
}

/* ---- goldens ---- */

typedef struct {
    char dir[512];
    cake_checkpoint *ck;
    cake_model_config config;
    cake_layout *layout;
    uint32_t *ids, n_ids, greedy[MAX_GREEDY], n_greedy, vocab;
    double margin; /* smallest top-2 gap met by the reference while it continued greedily */
    float *logits; /* [n_ids][vocab] */
} golden;

static uint32_t ints(json_object *o, const char *key, uint32_t *out, uint32_t max) {
    json_object *a = NULL;
    OK(cake_json_array(o, key, true, max, &a, &err));
    uint32_t n = (uint32_t)json_object_array_length(a);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (uint32_t)json_object_get_int(json_object_array_get_idx(a, i));
    return n;
}

/* The model in g->dir. */
static void golden_model(golden *g) {
    OK(cake_checkpoint_open(&g->ck, g->dir, &err));
    OK(cake_config_read(&g->config, g->ck->config_path, &err));
    OK(cake_layout_new(&g->layout, &g->config, g->ck, NULL, 0, &err));
    g->vocab = g->config.vocab;
}

static void golden_open(golden *g, const char *name) {
    char path[1024];
    memset(g, 0, sizeof *g);
    snprintf(g->dir, sizeof g->dir, GOLDENS "/%s", name);
    golden_model(g);

    json_object *o = NULL;
    snprintf(path, sizeof path, "%s/reference.json", g->dir);
    OK(cake_json_read(path, 1 << 20, &o, &err));
    g->ids = cake_calloc(4096, sizeof *g->ids);
    g->n_ids = ints(o, "prompt_ids", g->ids, 4096);
    g->n_greedy = ints(o, "greedy_ids", g->greedy, MAX_GREEDY);
    OK(cake_json_double(o, "min_top2_margin", true, 0, 1e9, &g->margin, &err));
    json_object_put(o);

    char *raw = NULL;
    size_t len = 0;
    snprintf(path, sizeof path, "%s/logits.f32", g->dir);
    OK(cake_file_read(path, 1 << 24, &raw, &len, &err));
    assert_int_equal(len, (size_t)g->n_ids * g->vocab * sizeof(float));
    g->logits = cake_malloc(len);
    memcpy(g->logits, raw, len);
    free(raw);
}

static void golden_close(golden *g) {
    cake_layout_free(g->layout);
    cake_config_deinit(&g->config);
    cake_checkpoint_close(g->ck);
    free(g->ids);
    free(g->logits);
}

/* ---- the whole model as one stage ---- */

typedef struct {
    cake_pool *pool;
    cake_scratch *scratch;
    cake_stage *stage;
    float *logits;
} engine;

static void engine_open(engine *e, const golden *g, bool f32_mode) {
    uint32_t rows = g->n_ids + MAX_GREEDY;
    e->pool = cake_pool_new(1, 0);
    OK(cake_scratch_new(&e->scratch, &g->config, rows, 1, &err));
    cake_stage_options o = {.config = &g->config,
                            .layout = g->layout,
                            .unit_end = g->layout->n_units,
                            .n_seqs = 1,
                            .context = g->config.max_positions,
                            .kv_blocks = (g->config.max_positions + 63) / 64,
                            .max_rows = rows,
                            .f32_mode = f32_mode};
    OK(cake_stage_new(&e->stage, &o, g->ck, e->pool, e->scratch, NULL, NULL, &err));
    e->logits = cake_calloc((size_t)rows * g->vocab, sizeof(float));
}

static void engine_close(engine *e) {
    cake_stage_free(e->stage);
    cake_scratch_free(e->scratch);
    cake_pool_free(e->pool);
    free(e->logits);
}

/* Logits of ids at positions pos.., in one batch, into e->logits. */
static void engine_run(engine *e, uint32_t pos, const uint32_t *ids, uint32_t n) {
    cake_row *rows = cake_calloc(n, sizeof *rows);
    uint32_t n_out = 0;
    for (uint32_t i = 0; i < n; i++) rows[i] = (cake_row){0, pos + i, ids[i], CAKE_ROW_LOGITS};
    OK(cake_stage_run(e->stage, NULL, 0, rows, n, NULL, e->logits, &n_out, &err));
    assert_int_equal(n_out, n);
    free(rows);
}

static uint32_t best(const float *row, uint32_t n, float *gap) {
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        if (row[i] > row[at]) at = i;
    float second = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        if (i != at && row[i] > second) second = row[i];
    if (gap) *gap = row[at] - second;
    return at;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}
static int is_golden(const struct dirent *d) {
    char path[1024];
    snprintf(path, sizeof path, GOLDENS "/%s/logits.f32", d->d_name);
    return d->d_name[0] != '.' && cake_file_exists(path);
}
static int each(void (*fn)(golden *g, const char *name)) {
    struct dirent **list = NULL;
    int n = scandir(GOLDENS, &list, is_golden, by_name);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        golden g;
        golden_open(&g, list[i]->d_name);
        fn(&g, list[i]->d_name);
        golden_close(&g);
        free(list[i]);
    }
    free(list);
    return n;
}

/* ---- tests ---- */

/* f32 mode: every logit of every position within 1e-3 (the bar; about 5e-5 is usual), and
 * the same greedy continuation wherever the reference was not within rounding of a tie. */
static double worst_f32;
static void check_f32(golden *g, const char *name) {
    engine e;
    engine_open(&e, g, true);
    engine_run(&e, 0, g->ids, g->n_ids);
    for (size_t i = 0; i < (size_t)g->n_ids * g->vocab; i++) {
        double d = fabs((double)e.logits[i] - (double)g->logits[i]);
        if (!(d <= 1e-3))
            fail_msg("%s: position %zu, token %zu: %g, reference %g", name, i / g->vocab,
                     i % g->vocab, (double)e.logits[i], (double)g->logits[i]);
        if (d > worst_f32) worst_f32 = d;
    }
    const float *row = e.logits + (size_t)(g->n_ids - 1) * g->vocab;
    for (uint32_t i = 0; i < g->n_greedy && g->margin > 2e-3; i++) {
        uint32_t token = best(row, g->vocab, NULL);
        if (token != g->greedy[i])
            fail_msg("%s: greedy token %u is %u, reference %u", name, i, token, g->greedy[i]);
        engine_run(&e, g->n_ids + i, &token, 1);
        row = e.logits;
    }
    engine_close(&e);
}
static void test_f32_equals_reference(void **state) {
    (void)state;
    int n = each(check_f32);
    print_message("%d checkpoints, greatest logit difference %.2g\n", n, worst_f32);
}

/* int8 activations: logits off by a few percent of their size at most (weights are random: they
 * amplify more than trained ones, and eight layers more than two; a row near a tie of its experts
 * may take another one), and the best token the same wherever the reference's margin exceeds twice
 * the error measured on that row. */
static double worst_int8;
static uint32_t int8_rows, int8_decided;
static void check_int8(golden *g, const char *name) {
    engine e;
    engine_open(&e, g, false);
    engine_run(&e, 0, g->ids, g->n_ids);
    double sum_d = 0, sum_z = 0;
    for (uint32_t t = 0; t < g->n_ids; t++) {
        const float *got = e.logits + (size_t)t * g->vocab;
        const float *want = g->logits + (size_t)t * g->vocab;
        double row_d = 0;
        for (uint32_t i = 0; i < g->vocab; i++) {
            double d = (double)got[i] - (double)want[i];
            assert_true(isfinite(d));
            sum_d += d * d;
            sum_z += (double)want[i] * (double)want[i];
            row_d = fmax(row_d, fabs(d));
        }
        float gap;
        uint32_t token = best(want, g->vocab, &gap);
        int8_rows++;
        if ((double)gap > 2 * row_d) {
            int8_decided++;
            if (best(got, g->vocab, NULL) != token) fail_msg("%s: token of position %u", name, t);
        }
    }
    double rel = sqrt(sum_d / sum_z);
    if (rel > worst_int8) worst_int8 = rel;
    if (getenv("V")) print_message("%-28s int8 error %.4f of the logits' RMS\n", name, rel);
    double bar = g->config.n_layers <= 2 ? 0.05 : g->config.moe.n_experts ? 0.12 : 0.08;
    if (!(rel < bar)) fail_msg("%s: int8 activations cost %.3f of the logits' RMS", name, rel);
    engine_close(&e);
}
static void test_int8_is_near(void **state) {
    (void)state;
    each(check_int8);
    print_message("greatest error %.3f of the logits' RMS; %u of %u rows decided by more than it\n",
                  worst_int8, int8_decided, int8_rows);
    assert_true(int8_decided * 2 > int8_rows);
}

/* Checkpoints of the collection, whose reference.json holds the last row and greedy ids of a
 * double- precision forward pass. Greedy ids in the fast mode too. */
static void test_collection(void **state) {
    (void)state;
    static const char *const names[] = {"babyllama105-pad256-kquant-q4_k_m"};
    unsigned n_there = 0;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        golden g = {0};
        char path[1024];
        snprintf(g.dir, sizeof g.dir, "../shared/data/models/%s", names[k]);
        if (!cake_dir_exists(g.dir)) {
            print_message("skip: %s is missing\n", g.dir);
            continue;
        }
        n_there++;
        golden_model(&g);
        json_object *o = NULL, *row = NULL;
        snprintf(path, sizeof path, "%s/reference.json", g.dir);
        OK(cake_json_read(path, 1 << 20, &o, &err));
        g.ids = cake_calloc(4096, sizeof *g.ids);
        g.n_ids = ints(o, "prompt_ids", g.ids, 4096);
        g.n_greedy = ints(o, "greedy_ids", g.greedy, MAX_GREEDY);
        OK(cake_json_array(o, "logits_after_prompt", true, g.vocab, &row, &err));
        assert_int_equal(json_object_array_length(row), g.vocab);
        for (int f32_mode = 0; f32_mode < 2; f32_mode++) {
            engine e;
            engine_open(&e, &g, f32_mode);
            engine_run(&e, 0, g.ids, g.n_ids);
            const float *z = e.logits + (size_t)(g.n_ids - 1) * g.vocab;
            double worst = 0;
            for (uint32_t i = 0; i < g.vocab; i++) {
                double want = json_object_get_double(json_object_array_get_idx(row, i));
                worst = fmax(worst, fabs((double)z[i] - want));
            }
            print_message("%s: %s, greatest difference %.2g\n", names[k], f32_mode ? "f32" : "int8",
                          worst);
            assert_true(worst < (f32_mode ? 1e-3 : 0.5));
            for (uint32_t i = 0; i < g.n_greedy; i++) {
                uint32_t token = best(z, g.vocab, NULL);
                if (token != g.greedy[i])
                    fail_msg("%s: greedy token %u is %u, reference %u", names[k], i, token,
                             g.greedy[i]);
                engine_run(&e, g.n_ids + i, &token, 1);
                z = e.logits;
            }
            engine_close(&e);
        }
        json_object_put(o);
        golden_close(&g);
    }
    if (!n_there) skip();
}

/* ---- perplexity of the story models ---- */

/* Mean NLL of the windows: bos, then 254 of the window's 255 ids, whose successors are scored. */
static double mean_nll(engine *e, const golden *g, const uint32_t *ids, uint32_t n_windows) {
    const uint32_t n = 255;
    double sum = 0;
    for (uint32_t w = 0; w < n_windows; w++) {
        uint32_t in[255];
        in[0] = (uint32_t)g->config.bos_id;
        memcpy(in + 1, ids + (size_t)w * n, (n - 1) * sizeof *in);
        engine_run(e, 0, in, n);
        for (uint32_t t = 0; t < n; t++) {
            const float *z = e->logits + (size_t)t * g->vocab;
            double top = (double)z[best(z, g->vocab, NULL)], total = 0;
            for (uint32_t i = 0; i < g->vocab; i++) total += exp((double)z[i] - top);
            sum += top + log(total) - (double)z[ids[(size_t)w * n + t]];
        }
        cake_kv_op forget = {CAKE_KV_FREE, 0, 0, 0};
        uint32_t n_out = 0;
        OK(cake_stage_run(e->stage, &forget, 1, NULL, 0, NULL, e->logits, &n_out, &err));
    }
    return sum / (n_windows * n);
}

static void test_perplexity(void **state) {
    (void)state;
    json_object *doc = NULL, *all_ids = NULL, *models = NULL;
    OK(cake_json_read(GOLDENS "/nll.json", 1 << 20, &doc, &err));
    OK(cake_json_read(GOLDENS "/nll-ids.json", 1 << 20, &all_ids, &err));
    OK(cake_json_object(doc, "models", true, &models, &err));
    uint32_t windows = 0, n_models = 0;
    OK(cake_json_u32(doc, "short_windows", true, 1, 64, &windows, &err));
    json_object_object_foreach(models, name, want) {
        const char *vocabulary = NULL;
        double golden_nll = 0;
        OK(cake_json_string(want, "short_ids", true, 64, &vocabulary, &err));
        OK(cake_json_double(want, "short_mean_nll", true, 0, 20, &golden_nll, &err));
        golden g = {0};
        snprintf(g.dir, sizeof g.dir, "tests/models/%s", name);
        if (!cake_dir_exists(g.dir)) continue; /* not shipped */
        golden_model(&g);
        uint32_t *ids = cake_calloc(windows * 255, sizeof *ids);
        assert_int_equal(ints(all_ids, vocabulary, ids, windows * 255), windows * 255);
        g.n_ids = 255;
        double nll[2];
        for (int f32_mode = 0; f32_mode < 2; f32_mode++) {
            engine e;
            engine_open(&e, &g, f32_mode);
            nll[f32_mode] = mean_nll(&e, &g, ids, windows);
            engine_close(&e);
        }
        double cost = exp(nll[0] - nll[1]) - 1;
        print_message("%-34s f64 %.6f  f32 %.6f  int8 %.6f  perplexity %+.3f %%\n", name,
                      golden_nll, nll[1], nll[0], 100 * cost);
        if (!(fabs(nll[1] - golden_nll) < 1e-4)) fail_msg("%s: f32 mode is off", name);
        if (!(fabs(cost) < 0.005)) fail_msg("%s: int8 costs more than 0.5 %%", name);
        free(ids);
        golden_close(&g);
        n_models++;
    }
    assert_true(n_models >= 4);
    json_object_put(doc);
    json_object_put(all_ids);
}

/* ---- the hashes of all logits, for comparing instruction sets ---- */

static void print_digest(golden *g, const char *name) {
    char hex[CAKE_SHA256_HEX];
    for (int f32_mode = 0; f32_mode < 2; f32_mode++) {
        engine e;
        engine_open(&e, g, f32_mode);
        engine_run(&e, 0, g->ids, g->n_ids);
        cake_sha256 h = cake_sha256_of(e.logits, (size_t)g->n_ids * g->vocab * sizeof(float));
        cake_sha256_hex(&h, hex);
        printf("%s %s %.16s\n", name, f32_mode ? "f32" : "int8", hex);
        engine_close(&e);
    }
}
static void test_digest(void **state) {
    (void)state;
    printf("isa %s\n", cake_isa_name(cake_cpu_isa()));
    each(print_digest);
}

int main(void) {
    if (getenv("CAKE_TEST_DIGEST")) {
        const struct CMUnitTest digest[] = {cmocka_unit_test(test_digest)};
        return cmocka_run_group_tests(digest, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32_equals_reference),
        cmocka_unit_test(test_int8_is_near),
        cmocka_unit_test(test_collection),
        cmocka_unit_test(test_perplexity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
