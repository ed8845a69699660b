/* The scheduler over a real deployment: the in-process worker with a shipped model. Many sequences
 * at once give each the tokens it gets alone; cancelling, refusing and scoring leave nothing
 * behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/mem.h"
#include "kernels/vec.h"
#include "master/scheduler/scheduler.h"

#include <stdlib.h>
#include <string.h>

#define MODEL "tests/models/babyllama105-mlx-4bit-g64"
enum { SEQS = 4, CONTEXT = 256, MAX_TOKENS = 256, ANSWER = 40 };

static struct {
    cake_model model;
    cake_net *net;
    cake_cluster *cluster;
    cake_cluster_plan plan;
} env;

static void must(cake_status st, const cake_error *err) {
    if (st != CAKE_OK) fail_msg("%s", err->msg);
}

static int setup(void **state) {
    (void)state;
    cake_error err;
    must(cake_model_open(&env.model, MODEL, &err), &err);
    must(cake_net_open(&env.net, &(cake_net_options){0}, &err), &err);
    cake_cluster_options o = {.net = env.net,
                              .id = "00000000000000000000000000000001",
                              .name = "test",
                              .model = &env.model,
                              .threads = 1};
    must(cake_cluster_open(&env.cluster, &o, &err), &err);
    must(cake_cluster_gather(env.cluster, &err), &err);
    cake_deployment_options d = {
        .context = CONTEXT, .sequences = SEQS, .max_rows = 24, .wire = CAKE_WIRE_F32};
    must(cake_cluster_make_plan(env.cluster, &d, &env.plan, &err), &err);
    must(cake_cluster_deploy(env.cluster, &env.plan, &err), &err);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    cake_cluster_close(env.cluster);
    cake_cluster_plan_deinit(&env.plan);
    cake_net_close(env.net);
    cake_model_close(&env.model);
    return 0;
}

typedef struct {
    uint32_t want, n, token[MAX_TOKENS];
    uint32_t last_position;
    bool over;
    cake_done how;
    uint32_t cached, prompt_done;
    cake_scheduler *cancel_in; /* cancel itself after the third token */
    uint64_t id;
} answer;

static bool greedy(void *arg, uint32_t position, float *logits, uint32_t n_vocab, uint32_t *token) {
    answer *a = arg;
    a->last_position = position;
    *token = (uint32_t)cake_argmax(logits, n_vocab);
    assert_true(a->n < MAX_TOKENS);
    a->token[a->n++] = *token;
    if (a->cancel_in && a->n == 3) cake_scheduler_cancel(a->cancel_in, a->id);
    return a->n < a->want;
}

static void progress(void *arg, uint32_t cached, uint32_t prompt_done) {
    answer *a = arg;
    assert_true(prompt_done >= a->prompt_done && prompt_done >= cached);
    a->cached = cached;
    a->prompt_done = prompt_done;
}

static void done(void *arg, cake_done how, const cake_error *err) {
    answer *a = arg;
    if (how == CAKE_DONE_ERROR) fail_msg("%s", err->msg);
    assert_false(a->over);
    a->over = true;
    a->how = how;
}

static void prompt_of(uint32_t i, uint32_t *ids, uint32_t *n) {
    *n = 5 + i * 11 % 60;
    for (uint32_t k = 0; k < *n; k++) ids[k] = 3 + (k * (2 * i + 3) + i) % 100;
}

static void submit_ids(cake_scheduler *s, const uint32_t *ids, uint32_t n, answer *a) {
    cake_error err;
    cake_sequence_request r = {
        .prompt = ids, .n_prompt = n, .arg = a, .next = greedy, .progress = progress, .done = done};
    must(cake_scheduler_submit(s, &r, &a->id, &err), &err);
}

static void submit(cake_scheduler *s, uint32_t i, answer *a) {
    uint32_t ids[MAX_TOKENS], n;
    prompt_of(i, ids, &n);
    submit_ids(s, ids, n, a);
}

static void drain(cake_scheduler *s) {
    cake_error err;
    while (!cake_scheduler_idle(s)) must(cake_scheduler_step(s, 100, &err), &err);
}

static cake_scheduler *new_scheduler(void) {
    cake_scheduler *s;
    cake_error err;
    must(cake_scheduler_new(&s, env.cluster, &err), &err);
    return s;
}

static void together_as_alone(void **state) {
    (void)state;
    enum { N = 11 };
    answer alone[N] = {0}, together[N] = {0};
    for (uint32_t i = 0; i < N; i++) {
        cake_scheduler *s = new_scheduler();
        alone[i].want = together[i].want = 1 + i * 7 % ANSWER;
        submit(s, i, &alone[i]);
        drain(s);
        cake_scheduler_free(s);
    }
    cake_scheduler *s = new_scheduler();
    for (uint32_t i = 0; i < N; i++) submit(s, i, &together[i]); /* more than there are slots */
    drain(s);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(together[i].how, CAKE_DONE_STOP);
        assert_int_equal(together[i].n, alone[i].want);
        assert_memory_equal(together[i].token, alone[i].token, alone[i].n * sizeof *alone[i].token);
    }
    cake_scheduler_stats st;
    cake_scheduler_stats_get(s, &st);
    assert_true(st.batches < st.rows);
    assert_int_equal(st.running + st.waiting, 0);
    cake_scheduler_free(s);
}

static void context_ends_it(void **state) {
    (void)state;
    cake_scheduler *s = new_scheduler();
    answer a = {.want = MAX_TOKENS};
    submit(s, 0, &a);
    drain(s);
    uint32_t ids[MAX_TOKENS], n;
    prompt_of(0, ids, &n);
    assert_int_equal(a.how, CAKE_DONE_LENGTH);
    assert_int_equal(a.n, CONTEXT - n + 1); /* the last token chosen has no position of its own */
    cake_scheduler_free(s);
}

static void cancelling(void **state) {
    (void)state;
    cake_scheduler *s = new_scheduler();
    answer a[6] = {0};
    for (int round = 0; round < 20; round++) { /* slots and blocks must come back each time */
        memset(a, 0, sizeof a);
        for (uint32_t i = 0; i < 6; i++) {
            a[i].want = 20;
            submit(s, i, &a[i]);
        }
        a[1].cancel_in = a[4].cancel_in = s;
        cake_error err;
        for (int k = 0; k < round % 5; k++) must(cake_scheduler_step(s, 1, &err), &err);
        cake_scheduler_cancel(s, a[0].id);
        cake_scheduler_cancel(s, a[5].id);
        cake_scheduler_cancel(s, 987654);
        drain(s);
        for (uint32_t i = 0; i < 6; i++) assert_true(a[i].over);
        assert_int_equal(a[1].how, CAKE_DONE_CANCELED);
        assert_int_equal(a[1].n, 3);
        assert_int_equal(a[2].how, CAKE_DONE_STOP);
        assert_int_equal(a[2].n, 20);
    }
    answer after = {.want = 10}, fresh = {.want = 10};
    submit(s, 3, &after);
    drain(s);
    cake_scheduler_free(s);
    s = new_scheduler();
    submit(s, 3, &fresh);
    drain(s);
    assert_memory_equal(after.token, fresh.token, 10 * sizeof *fresh.token);
    cake_scheduler_free(s);
}

static void same_answer(const answer *a, const answer *b) {
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->token, b->token, a->n * sizeof *a->token);
}

/* The second turn of a chat goes on from the first; the bits are those of computing it all. */
static void second_turn(void **state) {
    (void)state;
    uint32_t ids[MAX_TOKENS], n = 150;
    for (uint32_t k = 0; k < n; k++) ids[k] = 3 + k * k % 97;
    answer first = {.want = 30}, warm = {.want = 30}, again = {.want = 30}, cold = {.want = 30};
    cake_scheduler *s = new_scheduler();
    submit_ids(s, ids, n, &first);
    drain(s);
    assert_int_equal(first.cached, 0);
    assert_int_equal(first.prompt_done, n);
    memcpy(ids + n, first.token, first.n * sizeof *ids);
    n += first.n;
    for (uint32_t k = 0; k < 20; k++) ids[n++] = 5 + k;
    submit_ids(s, ids, n, &warm);
    drain(s);
    /* All but the new ones and the last token of the answer, which was chosen and not computed. */
    assert_int_equal(warm.cached, n - 20 - 1);
    submit_ids(s, ids, n, &again);
    drain(s);
    assert_int_equal(again.cached, n - 1);
    cake_scheduler_free(s);
    s = new_scheduler();
    submit_ids(s, ids, n, &cold);
    drain(s);
    assert_int_equal(cold.cached, 0);
    same_answer(&warm, &cold);
    same_answer(&again, &cold);
    cake_scheduler_free(s);
}

/* The same prompt for many at once is computed once: the others wait for it, also when it runs on
 * and its answer grows. */
static void shared_prompt(void **state) {
    (void)state;
    enum { N = 4, LEN = 140 };
    uint32_t ids[LEN];
    for (uint32_t k = 0; k < LEN; k++) ids[k] = 3 + k * 7 % 89;
    answer a[N] = {0}, cold = {.want = 20};
    cake_scheduler *s = new_scheduler();
    for (uint32_t i = 0; i < N; i++) {
        a[i].want = 20;
        submit_ids(s, ids, LEN, &a[i]);
    }
    drain(s);
    cake_scheduler_stats st;
    cake_scheduler_stats_get(s, &st);
    assert_int_equal(a[0].cached, 0);
    for (uint32_t i = 1; i < N; i++) {
        assert_true(a[i].cached >= 128);
        same_answer(&a[i], &a[0]);
    }
    assert_true(st.prompt_rows < LEN + N * 64);
    cake_scheduler_free(s);
    s = new_scheduler();
    submit_ids(s, ids, LEN, &cold);
    drain(s);
    same_answer(&a[0], &cold);
    cake_scheduler_free(s);
}

/* Far more beginnings than fit: old ones are given up, and every answer is that of a cold start. */
static void more_than_fits(void **state) {
    (void)state;
    enum { N = 60, KINDS = 12 };
    answer *cold = cake_calloc(KINDS, sizeof *cold), *a = cake_calloc(N, sizeof *a);
    uint32_t ids[MAX_TOKENS];
    for (uint32_t i = 0; i < KINDS + N; i++) {
        static cake_scheduler *s;
        uint32_t kind = i % KINDS, n = 100 + kind * 9;
        if (i <= KINDS) s = new_scheduler();
        for (uint32_t k = 0; k < n; k++) ids[k] = 3 + (k * (kind % 5 + 3) + k / 70 * kind) % 100;
        answer *to = i < KINDS ? &cold[kind] : &a[i - KINDS];
        to->want = 12;
        submit_ids(s, ids, n, to);
        cake_error err;
        if (i < KINDS || i % 5 == 4)
            drain(s);
        else
            must(cake_scheduler_step(s, 0, &err), &err);
        if (i + 1 == KINDS + N) {
            cake_scheduler_stats st;
            drain(s);
            cake_scheduler_stats_get(s, &st);
            assert_true(st.cached_rows > 0 && st.kv.evicted > 0);
            assert_int_equal(st.kv.open, 0);
        }
        if (i < KINDS || i + 1 == KINDS + N) cake_scheduler_free(s);
    }
    for (uint32_t i = 0; i < N; i++) same_answer(&a[i], &cold[i % KINDS]);
    free(cold);
    free(a);
}

/* A prompt that is cancelled under way: its batches are not computed, and what they would have held
 * is never taken for computed. */
static void cancelled_batches(void **state) {
    (void)state;
    uint32_t ids[200];
    for (uint32_t k = 0; k < 200; k++) ids[k] = 3 + k * k % 89;
    answer cold = {.want = 20};
    cake_error err;
    cake_scheduler *s = new_scheduler();
    submit_ids(s, ids, 200, &cold);
    drain(s);
    cake_scheduler_free(s);
    s = new_scheduler();
    for (int round = 0; round < 30; round++) {
        answer gone = {.want = 20}, a = {.want = 20};
        ids[0] = 3 + (uint32_t)round; /* another beginning each time, then the known one */
        submit_ids(s, ids, 200, &gone);
        for (int k = 0; k <= round % 4; k++) must(cake_scheduler_step(s, 0, &err), &err);
        cake_scheduler_cancel(s, gone.id);
        assert_true(gone.over);
        if (round % 3 == 0) {
            ids[0] = 3;
            submit_ids(s, ids, 200, &a);
            drain(s);
            same_answer(&a, &cold);
        }
    }
    drain(s);
    cake_scheduler_stats st;
    cake_scheduler_stats_get(s, &st);
    assert_true(st.canceled > 0);
    assert_int_equal(st.kv.open, 0);
    cake_scheduler_free(s);
}

/* ---- guessing ---- */

/* A text that is decided beforehand, and what the model made of it at every position. */
typedef struct {
    const uint32_t *text; /* by position */
    uint32_t n_prompt, n, at;
    uint64_t seen[MAX_TOKENS]; /* hash of the logits of each position */
    bool over;
} script;

static bool follow(void *arg, uint32_t position, float *logits, uint32_t n_vocab, uint32_t *token) {
    script *k = arg;
    uint64_t h = 1469598103934665603u;
    for (uint32_t i = 0; i < n_vocab; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        h = (h ^ bits) * 1099511628211u;
    }
    assert_int_equal(position, k->at); /* every position once, in order */
    k->seen[k->at++] = h;
    *token = k->text[position + 1];
    return k->at + 1 < k->n;
}
static void script_over(void *arg, cake_done how, const cake_error *err) {
    script *k = arg;
    if (how == CAKE_DONE_ERROR) fail_msg("%s", err->msg);
    assert_int_equal(how, CAKE_DONE_STOP);
    k->over = true;
}

/* Three texts: one that repeats, one that repeats with slips, one that never does; and all three at
 * once beside each other. Guessing changes no logit of any position. */
static void guessing(void **state) {
    (void)state;
    enum { TEXTS = 3, LEN = 220, PROMPT = 40 };
    uint32_t text[TEXTS][LEN + 1], vocab = env.model.config.vocab, x = 12345;
    for (uint32_t i = 0; i <= LEN; i++) {
        x = x * 1664525 + 1013904223;
        text[0][i] = 3 + i % 23 * 4 % 90;
        text[1][i] = i % 29 == 28 ? 3 + i % 97 : text[0][i];
        text[2][i] = 3 + (x >> 8) % (vocab - 3);
    }
    script *plain = cake_calloc(TEXTS, sizeof *plain), *guess = cake_calloc(TEXTS, sizeof *guess);
    for (int mode = 0; mode < 3; mode++) {
        cake_scheduler *s = new_scheduler();
        cake_scheduler_stats st;
        for (int i = 0; i < TEXTS; i++) {
            script *k = mode ? &guess[i] : &plain[i];
            *k = (script){.text = text[i], .n_prompt = PROMPT, .n = LEN, .at = PROMPT - 1};
            cake_sequence_request r = {.prompt = text[i],
                                       .n_prompt = PROMPT,
                                       .arg = k,
                                       .next = follow,
                                       .done = script_over,
                                       .speculate =
                                           mode ? CAKE_SPECULATE_ALWAYS : CAKE_SPECULATE_OFF};
            cake_error err;
            must(cake_scheduler_submit(s, &r, NULL, &err), &err);
            if (mode < 2) drain(s); /* then all at once */
        }
        drain(s);
        cake_scheduler_stats_get(s, &st);
        cake_scheduler_free(s);
        assert_true(mode ? st.guessed_right > 100 && st.guessed > st.guessed_right
                         : st.guessed == 0);
        for (int i = 0; mode && i < TEXTS; i++) {
            assert_true(guess[i].over);
            assert_int_equal(guess[i].at, plain[i].at);
            for (uint32_t p = 0; p < LEN; p++)
                if (guess[i].seen[p] != plain[i].seen[p]) fail_msg("text %d, position %u", i, p);
        }
    }
    free(plain);
    free(guess);
}

/* The context's end and a cancel in the middle of guesses leave nothing behind. */
static void guessing_ends(void **state) {
    (void)state;
    answer plain = {.want = MAX_TOKENS}, guess = {.want = MAX_TOKENS};
    uint32_t ids[60];
    for (uint32_t k = 0; k < 60; k++) ids[k] = 3 + k % 6;
    cake_error err;
    for (int mode = 0; mode < 2; mode++) {
        cake_scheduler *s = new_scheduler();
        answer *a = mode ? &guess : &plain;
        cake_sequence_request r = {.prompt = ids,
                                   .n_prompt = 60,
                                   .arg = a,
                                   .next = greedy,
                                   .done = done,
                                   .speculate = mode ? CAKE_SPECULATE_ALWAYS : CAKE_SPECULATE_OFF};
        must(cake_scheduler_submit(s, &r, &a->id, &err), &err);
        drain(s);
        assert_int_equal(a->how, CAKE_DONE_LENGTH);
        for (int k = 0; mode && k < 20; k++) { /* cancelled at some point */
            answer c = {.want = 60, .cancel_in = k % 2 ? s : NULL};
            r.arg = &c;
            must(cake_scheduler_submit(s, &r, &c.id, &err), &err);
            for (int i = 0; i < k; i++) must(cake_scheduler_step(s, 1, &err), &err);
            cake_scheduler_cancel(s, c.id);
            assert_true(c.over);
            assert_memory_equal(c.token, plain.token, c.n * sizeof *c.token);
        }
        drain(s);
        cake_scheduler_stats st;
        cake_scheduler_stats_get(s, &st);
        assert_int_equal(st.kv.open + st.running + st.waiting, 0);
        cake_scheduler_free(s);
    }
    same_answer(&guess, &plain);
}

/* ---- deadlines ---- */

static void late(void *arg, cake_done how, const cake_error *err) {
    answer *a = arg;
    a->over = true;
    a->how = how;
    if (how == CAKE_DONE_ERROR) assert_int_equal(err->status, CAKE_ETIMEOUT);
}

/* In the queue, in its prompt and in its answer: it ends with an error, and others go on. */
static void deadlines(void **state) {
    (void)state;
    cake_scheduler *s = new_scheduler();
    answer a[SEQS + 2] = {0}, other = {.want = 30};
    cake_error err;
    uint32_t ids[200];
    for (uint32_t i = 0; i < SEQS + 2; i++) {
        for (uint32_t k = 0; k < 200; k++) ids[k] = 3 + (i * 7 + k) % 100;
        a[i].want = MAX_TOKENS;
        cake_sequence_request r = {.prompt = ids,
                                   .n_prompt = i % 2 ? 200 : 5,
                                   .arg = &a[i],
                                   .next = greedy,
                                   .done = late,
                                   .deadline_ns = cake_now_ns() + 3000000};
        must(cake_scheduler_submit(s, &r, NULL, &err), &err);
    }
    submit(s, 2, &other);
    drain(s);
    for (uint32_t i = 0; i < SEQS + 2; i++) assert_true(a[i].over);
    assert_int_equal(a[SEQS + 1].how, CAKE_DONE_ERROR); /* it never had a slot */
    assert_int_equal(other.how, CAKE_DONE_STOP);
    cake_scheduler_free(s);
}

/* Free a scheduler that still has work: everybody hears of it, and the next one starts clean. */
static void freed_at_work(void **state) {
    (void)state;
    answer a[3] = {{.want = 50}, {.want = 50}, {.want = 50}};
    cake_scheduler *s = new_scheduler();
    cake_error err;
    for (uint32_t i = 0; i < 3; i++) submit(s, i, &a[i]);
    for (int k = 0; k < 3; k++) must(cake_scheduler_step(s, 1, &err), &err);
    cake_scheduler_free(s);
    for (uint32_t i = 0; i < 3; i++) assert_true(a[i].over && a[i].how == CAKE_DONE_CANCELED);
    answer b = {.want = 5};
    s = new_scheduler();
    submit(s, 1, &b);
    drain(s);
    assert_int_equal(b.how, CAKE_DONE_STOP);
    cake_scheduler_free(s);
}

static void refusals(void **state) {
    (void)state;
    cake_scheduler *s = new_scheduler();
    answer a = {.want = 1};
    uint32_t ids[CONTEXT + 1] = {1};
    cake_error err;
    cake_sequence_request r = {
        .prompt = ids, .n_prompt = 0, .arg = &a, .next = greedy, .done = done};
    assert_int_equal(cake_scheduler_submit(s, &r, NULL, &err), CAKE_EINVAL);
    r.n_prompt = CONTEXT + 1;
    assert_int_equal(cake_scheduler_submit(s, &r, NULL, &err), CAKE_ENOSPACE);
    r.n_prompt = 2;
    ids[1] = env.model.config.vocab;
    assert_int_equal(cake_scheduler_submit(s, &r, NULL, &err), CAKE_EINVAL);
    assert_true(cake_scheduler_idle(s));
    assert_false(a.over);
    cake_scheduler_free(s);
}

typedef struct {
    uint32_t n, n_vocab;
    float *logits;
    bool over;
} scored;
static bool keep(void *arg, uint32_t position, float *logits, uint32_t n_vocab, uint32_t *token) {
    scored *k = arg;
    (void)token;
    assert_int_equal(position, k->n);
    memcpy(k->logits + (size_t)k->n++ * n_vocab, logits, n_vocab * sizeof *logits);
    return true;
}
static void scored_done(void *arg, cake_done how, const cake_error *err) {
    (void)err;
    assert_int_equal(how, CAKE_DONE_STOP);
    ((scored *)arg)->over = true;
}

/* Scoring a prompt gives each position the logits that decoding gives it. */
static void scoring(void **state) {
    (void)state;
    uint32_t vocab = env.model.config.vocab, ids[MAX_TOKENS], n;
    prompt_of(5, ids, &n);
    scored k = {.logits = cake_malloc((size_t)n * vocab * sizeof(float))};
    cake_scheduler *s = new_scheduler();
    cake_error err;
    cake_sequence_request r = {
        .prompt = ids, .n_prompt = n, .score = true, .arg = &k, .next = keep, .done = scored_done};
    must(cake_scheduler_submit(s, &r, NULL, &err), &err);
    drain(s);
    assert_true(k.over);
    assert_int_equal(k.n, n);
    /* The prompt's own greedy answer begins with the argmax of its last row. */
    answer a = {.want = 1};
    submit(s, 5, &a);
    drain(s);
    assert_int_equal(a.token[0], cake_argmax(k.logits + (size_t)(n - 1) * vocab, vocab));
    free(k.logits);
    cake_scheduler_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(together_as_alone), cmocka_unit_test(context_ends_it),
        cmocka_unit_test(cancelling),        cmocka_unit_test(freed_at_work),
        cmocka_unit_test(refusals),          cmocka_unit_test(scoring),
        cmocka_unit_test(second_turn),       cmocka_unit_test(shared_prompt),
        cmocka_unit_test(more_than_fits),    cmocka_unit_test(cancelled_batches),
        cmocka_unit_test(guessing),          cmocka_unit_test(guessing_ends),
        cmocka_unit_test(deadlines),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
