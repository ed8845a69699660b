/* The engine on the trained story models (reference.json in double precision), and against itself:
 * same bits for every split, batch and replay. test_reference.c has the random checkpoints of every
 * format. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/json.h"
#include "common/mem.h"
#include "worker/engine/kv.h"
#include "worker/engine/stage.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 64, CONTEXT = 256, SEQS = 4, SPLITS = 12 };

typedef struct {
    cake_checkpoint *ck;
    cake_model_config config;
    cake_layout *layout;
    json_object *ref;
    uint32_t n_prompt, prompt[CONTEXT], n_greedy, greedy[CONTEXT];
} model;

static void must(cake_status st, const cake_error *err) {
    if (st != CAKE_OK) fail_msg("%s", err->msg);
}

static bool open_model(model *m, const char *dir) {
    cake_error err;
    char *ref = cake_path_join(dir, "reference.json"), *cfg = cake_path_join(dir, "config.json");
    bool ok = cake_file_exists(ref) && cake_file_exists(cfg);
    if (ok) {
        must(cake_checkpoint_open(&m->ck, dir, &err), &err);
        must(cake_config_read(&m->config, cfg, &err), &err);
        must(cake_layout_new(&m->layout, &m->config, m->ck, NULL, 0, &err), &err);
        must(cake_json_read(ref, 64 << 20, &m->ref, &err), &err);
        json_object *ids;
        must(cake_json_array(m->ref, "prompt_ids", true, CONTEXT, &ids, &err), &err);
        m->n_prompt = (uint32_t)json_object_array_length(ids);
        for (uint32_t i = 0; i < m->n_prompt; i++)
            m->prompt[i] = (uint32_t)json_object_get_int(json_object_array_get_idx(ids, i));
        must(cake_json_array(m->ref, "greedy_ids", true, 4096, &ids, &err), &err);
        m->n_greedy = (uint32_t)json_object_array_length(ids);
        if (m->n_greedy > CONTEXT - m->n_prompt) m->n_greedy = CONTEXT - m->n_prompt;
        for (uint32_t i = 0; i < m->n_greedy; i++)
            m->greedy[i] = (uint32_t)json_object_get_int(json_object_array_get_idx(ids, i));
    }
    free(ref);
    free(cfg);
    return ok;
}

static void close_model(model *m) {
    json_object_put(m->ref);
    cake_layout_free(m->layout);
    cake_config_deinit(&m->config);
    cake_checkpoint_close(m->ck);
}

/* A pipeline of stages in this process. */
typedef struct {
    const model *m;
    uint32_t n;
    cake_stage *stage[SPLITS];
    cake_scratch *scratch;
    cake_pool *pool;
    float *a, *logits;
} pipeline;

/* How a pipeline computes: as by default, in f32, or with an 8-bit KV cache. */
typedef enum { INT8, F32, KV_Q8, N_MODES } mode;

/* cuts: first units of stages 1..n-1, ascending. */
static void open_pipeline(pipeline *p, const model *m, mode how, unsigned threads, uint32_t n_cuts,
                          const uint32_t *cuts) {
    cake_error err;
    *p = (pipeline){.m = m, .n = n_cuts + 1};
    p->pool = cake_pool_new(threads, 50);
    must(cake_scratch_new(&p->scratch, &m->config, MAX_ROWS, threads, &err), &err);
    for (uint32_t i = 0; i <= n_cuts; i++) {
        cake_stage_options o = {.config = &m->config,
                                .layout = m->layout,
                                .unit_begin = i ? cuts[i - 1] : 0,
                                .unit_end = i < n_cuts ? cuts[i] : m->config.n_layers + 2,
                                .n_seqs = SEQS,
                                .context = CONTEXT,
                                .kv_blocks = SEQS * (CONTEXT / 64),
                                .max_rows = MAX_ROWS,
                                .kv = how == KV_Q8 ? CAKE_KV_Q8 : CAKE_KV_F16,
                                .f32_mode = how == F32};
        must(cake_stage_new(&p->stage[i], &o, m->ck, p->pool, p->scratch, NULL, NULL, &err), &err);
        must(cake_stage_self_test(p->stage[i], &err), &err);
    }
    p->a = cake_malloc(MAX_ROWS * m->config.hidden * sizeof(float));
    p->logits = cake_malloc(MAX_ROWS * m->config.vocab * sizeof(float));
}

static void close_pipeline(pipeline *p) {
    for (uint32_t i = 0; i < p->n; i++) cake_stage_free(p->stage[i]);
    cake_scratch_free(p->scratch);
    cake_pool_free(p->pool);
    free(p->a);
    free(p->logits);
}

static cake_status run_rows(pipeline *p, const cake_kv_op *ops, uint32_t n_ops,
                            const cake_row *rows, uint32_t n, cake_error *err) {
    cake_status st = CAKE_OK;
    for (uint32_t i = 0; st == CAKE_OK && i < p->n; i++) {
        uint32_t n_out;
        bool last = i + 1 == p->n;
        st = cake_stage_run(p->stage[i], ops, n_ops, rows, n, i ? p->a : NULL,
                            last ? p->logits : p->a, &n_out, err);
    }
    return st;
}

/* Feed ids to seq from position pos in batches of `chunk`; logits of all rows to out (may be NULL).
 */
static void feed(pipeline *p, uint32_t seq, uint32_t pos, const uint32_t *ids, uint32_t n,
                 uint32_t chunk, float *out) {
    cake_error err;
    for (uint32_t at = 0; at < n; at += chunk) {
        cake_row rows[MAX_ROWS];
        uint32_t k = n - at < chunk ? n - at : chunk;
        for (uint32_t i = 0; i < k; i++)
            rows[i] = (cake_row){
                .seq = seq, .pos = pos + at + i, .token = ids[at + i], .flags = CAKE_ROW_LOGITS};
        must(run_rows(p, NULL, 0, rows, k, &err), &err);
        if (out)
            memcpy(out + (size_t)at * p->m->config.vocab, p->logits,
                   (size_t)k * p->m->config.vocab * sizeof(float));
    }
}

static uint32_t argmax(const float *x, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* ---- against references ---- */

/* Largest logit difference after the prompt, and whether greedy decoding gives the same ids; with
 * int8 activations a step counts only where the reference's margin exceeds the error just measured.
 */
static void check_reference(const char *dir, bool f32) {
    model m = {0};
    if (!open_model(&m, dir)) return;
    uint32_t vocab = m.config.vocab;
    pipeline p;
    open_pipeline(&p, &m, f32 ? F32 : INT8, 2, 0, NULL);
    float *logits = cake_malloc((size_t)m.n_prompt * vocab * sizeof *logits);
    feed(&p, 0, 0, m.prompt, m.n_prompt, MAX_ROWS, logits);
    json_object *want;
    cake_error err;
    must(cake_json_array(m.ref, "logits_after_prompt", true, vocab, &want, &err), &err);
    assert_int_equal(json_object_array_length(want), vocab);
    double worst = 0;
    const float *last = logits + (size_t)(m.n_prompt - 1) * vocab;
    for (uint32_t i = 0; i < vocab; i++)
        worst =
            fmax(worst, fabs(last[i] - json_object_get_double(json_object_array_get_idx(want, i))));
    double margin = json_object_get_double(json_object_object_get(m.ref, "min_top2_margin"));
    if (f32) {
        if (worst > 1e-3) fail_msg("%s: logits differ by %g", dir, worst);
    }
    uint32_t id = argmax(last, vocab), same = 0;
    while (same < m.n_greedy && id == m.greedy[same]) {
        uint32_t pos = m.n_prompt + same++;
        if (same == m.n_greedy || pos >= CONTEXT) break;
        feed(&p, 0, pos, &id, 1, 1, logits);
        id = argmax(logits, vocab);
    }
    if (same < m.n_greedy && (f32 || worst < margin / 2))
        fail_msg("%s (%s): greedy ids part at %u of %u, error %g, smallest margin %g", dir,
                 f32 ? "f32" : "int8", same, m.n_greedy, worst, margin);
    print_message("%-52s %s error %.2g margin %.2g greedy %u/%u\n", strrchr(dir, '/') + 1,
                  f32 ? "f32 " : "int8", worst, margin, same, m.n_greedy);
    free(logits);
    close_pipeline(&p);
    close_model(&m);
}

static void check_folder(const char *parent, int (*wanted)(const struct dirent *), bool f32) {
    struct dirent **list;
    int n = scandir(parent, &list, wanted, alphasort), seen = 0;
    if (n < 0) fail_msg("no folder %s", parent);
    for (int i = 0; i < n; i++) {
        if (list[i]->d_name[0] != '.') {
            char *dir = cake_path_join(parent, list[i]->d_name),
                 *ref = cake_path_join(dir, "reference.json");
            if (cake_file_exists(ref)) {
                check_reference(dir, f32);
                seen++;
            }
            free(ref);
            free(dir);
        }
        free(list[i]);
    }
    free(list);
    assert_true(seen > 0);
}

static void models_f32(void **state) {
    (void)state;
    check_folder("tests/models", NULL, true);
}
static void models_int8(void **state) {
    (void)state;
    check_folder("tests/models", NULL, false);
}
static int is_mixture(const struct dirent *d) {
    return strstr(d->d_name, "moe") != NULL;
}
/* The collection's mixtures of experts: the same stories from experts instead of one feed-forward.
 */
static void shared_mixtures(void **state) {
    (void)state;
    static const char parent[] = "../shared/data/models";
    if (!cake_dir_exists(parent)) {
        print_message("skip: %s is missing\n", parent);
        skip();
    }
    check_folder(parent, is_mixture, true);
    check_folder(parent, is_mixture, false);
}
/* ---- same bits ---- */

static const char *const EIGHT[] = {
    "tests/vectors/reference/qwen3-8l-4bit-g32", "tests/vectors/reference/llama-8l-bf16",
    "tests/vectors/reference/qwen3moe-8l-4bit-g32", "tests/vectors/reference/gemma3-8l-4bit-g32"};

/* Rows of logits for the prompt, fed in chunks of MAX_ROWS to one stage: what everything must
 * equal. */
static float *baseline(const model *m, mode how) {
    pipeline p;
    open_pipeline(&p, m, how, 1, 0, NULL);
    float *want = cake_malloc((size_t)m->n_prompt * m->config.vocab * sizeof *want);
    feed(&p, 0, 0, m->prompt, m->n_prompt, MAX_ROWS, want);
    close_pipeline(&p);
    return want;
}

static void assert_same(const model *m, const float *want, const float *got, const char *what) {
    for (size_t i = 0; i < (size_t)m->n_prompt * m->config.vocab; i++)
        if (memcmp(&want[i], &got[i], sizeof *want) != 0)
            fail_msg("%s: position %zu, logit %zu: %a instead of %a", what, i / m->config.vocab,
                     i % m->config.vocab, (double)got[i], (double)want[i]);
}

static void every_split(void **state) {
    (void)state;
    for (size_t e = 0; e < sizeof EIGHT / sizeof *EIGHT + 1; e++) {
        model m = {0}; /* after all models the first again, with the other KV cache */
        mode how = e < sizeof EIGHT / sizeof *EIGHT ? INT8 : KV_Q8;
        assert_true(open_model(&m, EIGHT[how == INT8 ? e : 0]));
        uint32_t last = m.config.n_layers + 1;
        float *want = baseline(&m, how),
              *got = cake_malloc((size_t)m.n_prompt * m.config.vocab * sizeof *got);
        for (uint32_t cut = 1; cut <= last; cut++) {
            pipeline p;
            open_pipeline(&p, &m, how, 1 + cut % 2, 1, &cut);
            feed(&p, cut % SEQS, 0, m.prompt, m.n_prompt, MAX_ROWS, got);
            assert_same(&m, want, got, "two stages");
            close_pipeline(&p);
        }
        static const uint32_t three[] = {1, 5}, four[] = {3, 6, 9},
                              all[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
        const uint32_t *cuts[] = {three, four, all};
        const uint32_t n_cuts[] = {2, 3, 9};
        for (int i = 0; i < 3; i++) {
            pipeline p;
            open_pipeline(&p, &m, how, 2, n_cuts[i], cuts[i]);
            feed(&p, 0, 0, m.prompt, m.n_prompt, 7, got);
            assert_same(&m, want, got, "many stages");
            close_pipeline(&p);
        }
        free(want);
        free(got);
        close_model(&m);
    }
}

static void every_chunk(void **state) {
    (void)state;
    for (mode how = INT8; how < N_MODES; how++)
        for (size_t e = 0; e < sizeof EIGHT / sizeof *EIGHT; e++) {
            model m = {0};
            assert_true(open_model(&m, EIGHT[e]));
            float *want = baseline(&m, how),
                  *got = cake_malloc((size_t)m.n_prompt * m.config.vocab * sizeof *got);
            pipeline p;
            open_pipeline(&p, &m, how, 2, 0, NULL);
            static const uint32_t chunks[] = {1, 2, 3, 5, 16, 17, 31, 63};
            for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
                cake_kv_op drop = {.op = CAKE_KV_FREE, .seq = 1};
                uint32_t n;
                must(cake_stage_run(p.stage[0], &drop, 1, NULL, 0, NULL, NULL, &n, NULL), NULL);
                feed(&p, 1, 0, m.prompt, m.n_prompt, chunks[i], got);
                assert_same(&m, want, got, "chunks");
            }
            close_pipeline(&p);
            free(want);
            free(got);
            close_model(&m);
        }
}

/* Rows of several sequences in one batch, at different positions, equal each sequence run alone. */
static void check_batched(const char *dir, mode how) {
    model m = {0};
    assert_true(open_model(&m, dir));
    uint32_t vocab = m.config.vocab, cut = 4;
    float *want = baseline(&m, how);
    pipeline p;
    open_pipeline(&p, &m, how, 2, 1, &cut);
    uint32_t at[SEQS] = {0};
    static const uint32_t step[SEQS] = {1, 5, 13, 29};
    cake_error err;
    for (bool more = true; more;) {
        cake_row rows[MAX_ROWS];
        uint32_t n = 0;
        more = false;
        for (uint32_t s = 0; s < SEQS; s++) {
            for (uint32_t i = 0; i < step[s] && at[s] < m.n_prompt && n < MAX_ROWS; i++, at[s]++)
                rows[n++] = (cake_row){s, at[s], m.prompt[at[s]], CAKE_ROW_LOGITS};
            more |= at[s] < m.n_prompt;
        }
        must(run_rows(&p, NULL, 0, rows, n, &err), &err);
        for (uint32_t i = 0; i < n; i++)
            if (memcmp(want + (size_t)rows[i].pos * vocab, p.logits + (size_t)i * vocab,
                       vocab * sizeof *want))
                fail_msg("sequence %u position %u differs in a mixed batch", rows[i].seq,
                         rows[i].pos);
    }
    close_pipeline(&p);
    free(want);
    close_model(&m);
}
static void batched_equals_alone(void **state) {
    (void)state;
    for (size_t e = 0; e < sizeof EIGHT / sizeof *EIGHT; e++) check_batched(EIGHT[e], INT8);
    check_batched(EIGHT[0], KV_Q8);
}

/* A batch that is stopped at any layer takes its place in the tables, as a computed one; cut off
 * and sent again it gives what it would have given. */
static bool at_zero(void *arg) {
    int *left = arg;
    return (*left)-- == 0;
}
static void stopped_batches(void **state) {
    (void)state;
    model m = {0};
    assert_true(open_model(&m, EIGHT[0]));
    uint32_t vocab = m.config.vocab, k = 20;
    float *want = baseline(&m, false), *got = cake_malloc((size_t)m.n_prompt * vocab * sizeof *got);
    pipeline p;
    open_pipeline(&p, &m, false, 1, 0, NULL);
    cake_error err;
    cake_row rows[20];
    feed(&p, 0, 0, m.prompt, 30, 30, NULL);
    for (uint32_t i = 0; i < k; i++) rows[i] = (cake_row){0, 30 + i, m.prompt[30 + i], 0};
    for (uint32_t layer = 0; layer < m.config.n_layers; layer++) {
        int left = (int)layer;
        cake_stage_set_stop(p.stage[0], at_zero, &left);
        assert_int_equal(run_rows(&p, NULL, 0, rows, k, &err), CAKE_ECANCELED);
        cake_stage_set_stop(p.stage[0], NULL, NULL);
        cake_kv_op cut = {CAKE_KV_TRIM, 0, 30 + k, 0}; /* refused if it were not that long */
        must(run_rows(&p, &cut, 1, NULL, 0, &err), &err);
        cut.a = 30;
        must(run_rows(&p, &cut, 1, NULL, 0, &err), &err);
    }
    feed(&p, 0, 30, m.prompt + 30, m.n_prompt - 30, 11, got);
    assert_memory_equal(got, want + (size_t)30 * vocab, (m.n_prompt - 30) * vocab * sizeof *got);
    close_pipeline(&p);
    free(got);
    free(want);
    close_model(&m);
}

/* Fork and trim: a shared prefix continues as if it had been computed anew. */
static void check_fork_and_trim(mode how) {
    model m = {0};
    assert_true(open_model(&m, EIGHT[0]));
    uint32_t vocab = m.config.vocab;
    assert_true(m.n_prompt > 100);
    float *want = baseline(&m, how), *got = cake_malloc((size_t)m.n_prompt * vocab * sizeof *got);
    pipeline p;
    open_pipeline(&p, &m, how, 1, 0, NULL);
    cake_error err;
    static const uint32_t prefix[] = {64, 70, 100};
    feed(&p, 0, 0, m.prompt, m.n_prompt, 32, NULL);
    for (size_t i = 0; i < 3; i++) {
        cake_kv_op ops[] = {{CAKE_KV_FREE, 1, 0, 0}, {CAKE_KV_FORK, 1, 0, prefix[i]}};
        must(run_rows(&p, ops, 2, NULL, 0, &err), &err);
        feed(&p, 1, prefix[i], m.prompt + prefix[i], m.n_prompt - prefix[i], 9, got);
        assert_memory_equal(got, want + (size_t)prefix[i] * vocab,
                            (m.n_prompt - prefix[i]) * vocab * sizeof *got);
    }
    /* The fork must not have disturbed its source. */
    cake_kv_op trim = {CAKE_KV_TRIM, 0, 65, 0};
    must(run_rows(&p, &trim, 1, NULL, 0, &err), &err);
    feed(&p, 0, 65, m.prompt + 65, m.n_prompt - 65, 11, got);
    assert_memory_equal(got, want + (size_t)65 * vocab, (m.n_prompt - 65) * vocab * sizeof *got);
    close_pipeline(&p);
    free(want);
    free(got);
    close_model(&m);
}
static void fork_and_trim(void **state) {
    (void)state;
    check_fork_and_trim(INT8);
    check_fork_and_trim(KV_Q8);
}

/* What a broken or hostile master could ask for. */
static void bad_batches(void **state) {
    (void)state;
    model m = {0};
    assert_true(open_model(&m, EIGHT[0]));
    pipeline p;
    open_pipeline(&p, &m, INT8, 1, 0, NULL);
    cake_error err;
    const cake_row bad[][2] = {
        {{SEQS, 0, 1, 0}, {SEQS, 1, 1, 0}},        /* no such sequence */
        {{0, 1, 1, 0}, {0, 2, 1, 0}},              /* does not start at 0 */
        {{0, 0, 1, 0}, {0, 2, 1, 0}},              /* hole */
        {{0, 0, m.config.vocab, 0}, {0, 1, 1, 0}}, /* no such token */
        {{0, 0, 1, 0}, {0, UINT32_MAX, 1, 0}},     /* position overflow */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_not_equal(run_rows(&p, NULL, 0, bad[i], 2, &err), CAKE_OK);
    const cake_row twice[] = {{0, 0, 1, 0}, {1, 0, 1, 0}, {0, 1, 1, 0}};
    assert_int_not_equal(run_rows(&p, NULL, 0, twice, 3, &err), CAKE_OK);
    const cake_kv_op ops[] = {{CAKE_KV_TRIM, 0, 5, 0},
                              {CAKE_KV_FORK, 1, 0, 5},
                              {CAKE_KV_FORK, 1, 1, 0},
                              {CAKE_KV_FREE, SEQS, 0, 0},
                              {99, 0, 0, 0}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        assert_int_not_equal(run_rows(&p, &ops[i], 1, NULL, 0, &err), CAKE_OK);
    /* Nothing of the above may have stuck. */
    float *want = baseline(&m, INT8),
          *got = cake_malloc((size_t)m.n_prompt * m.config.vocab * sizeof *got);
    feed(&p, 0, 0, m.prompt, m.n_prompt, MAX_ROWS, got);
    assert_same(&m, want, got, "after refused batches");
    free(want);
    free(got);
    close_pipeline(&p);
    close_model(&m);
}

/* ---- KV book-keeping ---- */

static void kv_tables(void **state) {
    (void)state;
    cake_kv *kv;
    cake_error err;
    cake_kv_options o = {
        .n_layers = 2, .block_bytes = 64, .n_blocks = 6, .n_seqs = 3, .max_positions = 256};
    must(cake_kv_new(&kv, &o, &err), &err);
    must(cake_kv_extend(kv, 0, 0, 130, &err), &err); /* 3 blocks */
    assert_int_equal(cake_kv_free_blocks(kv), 3);
    must(cake_kv_fork(kv, 1, 0, 128, &err), &err); /* shares 2 */
    assert_int_equal(cake_kv_free_blocks(kv), 3);
    assert_ptr_equal(cake_kv_block(kv, 0, 1, 1), cake_kv_block(kv, 1, 1, 1));
    must(cake_kv_trim(kv, 1, 100, &err), &err);      /* still shares 2; the last partly used */
    must(cake_kv_extend(kv, 1, 100, 1, &err), &err); /* copies it */
    assert_ptr_not_equal(cake_kv_block(kv, 0, 1, 1), cake_kv_block(kv, 1, 1, 1));
    assert_int_equal(cake_kv_free_blocks(kv), 2);
    assert_int_equal(cake_kv_extend(kv, 2, 0, 129, &err), CAKE_ENOSPACE);
    assert_int_equal(cake_kv_len(kv, 2), 0);
    assert_int_equal(cake_kv_extend(kv, 0, 130, 127, &err), CAKE_ENOSPACE); /* past the context */
    assert_int_equal(cake_kv_extend(kv, 0, 129, 1, &err), CAKE_EINVAL);
    must(cake_kv_release(kv, 0, &err), &err);
    must(cake_kv_release(kv, 1, &err), &err);
    must(cake_kv_release(kv, 1, &err), &err);
    assert_int_equal(cake_kv_free_blocks(kv), 6);
    cake_kv_free(kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kv_tables),
        cmocka_unit_test(models_f32),
        cmocka_unit_test(models_int8),
        cmocka_unit_test(shared_mixtures),
        cmocka_unit_test(every_split),
        cmocka_unit_test(every_chunk),
        cmocka_unit_test(batched_equals_alone),
        cmocka_unit_test(stopped_batches),
        cmocka_unit_test(fork_and_trim),
        cmocka_unit_test(bad_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
