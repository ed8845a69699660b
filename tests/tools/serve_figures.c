/* What the scheduler makes of a cluster: streams whose text is decided beforehand, so that every
 * run computes the same rows. tests/bench/serve.sh runs it over one process and over two stages and
 * compares.
 *
 *   serve_figures MODEL TOPOLOGY|- KEY_FILE|- THREADS CONTEXT WHAT...
 *
 * TOPOLOGY "-": this process alone. WHAT, each printed as "name value":
 *   decode:N       tokens/s of N streams together
 *   prefill:N      tokens/s of a prompt of N tokens (median of three)
 *   copy:on|off    tokens/s of a text that repeats its prompt, with and without guessing
 *   novel:on|off   tokens/s of a text that does not (words as often as in a language)
 *   long:N         first_base_ms, first_ms: p95 between two tokens of 4 streams, alone and beside
 *                  the first 1024 tokens of a prompt of N; first_tps: of those; last_...: the
 *                  same with the last; then its second turn: turn_cached of turn_prompt tokens
 *   same           1 when three texts beside each other have the same logits at each position with
 *                  guessing forced and without; guessed, right, canceled (batches) */
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "master/scheduler/scheduler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STREAMS = 8, TOKENS = 96, LOOK_TOKENS = 192, BESIDE = 4 };

static struct {
    cake_model model;
    cake_net *net;
    cake_keys keys;
    cake_topology topology;
    cake_cluster *cluster;
    cake_cluster_plan plan;
    cake_scheduler *sched;
} env;

static void must(cake_status st, const cake_error *err) {
    if (st == CAKE_OK) return;
    fprintf(stderr, "serve_figures: %s\n", err->msg);
    exit(1);
}

static void up(const char *model, const char *topology, const char *key, unsigned threads,
               uint32_t context) {
    cake_error err;
    cake_log_min = CAKE_LOG_WARN;
    must(cake_model_open(&env.model, model, &err), &err);
    bool alone = strcmp(topology, "-") == 0;
    if (!alone) {
        bool created;
        char *where;
        must(cake_topology_read(&env.topology, topology, &err), &err);
        must(cake_keys_load_or_create(&env.keys, key, &created, &where, &err), &err);
        free(where);
    }
    must(cake_net_open(&env.net, &(cake_net_options){.keys = alone ? NULL : &env.keys}, &err),
         &err);
    cake_cluster_options o = {.net = env.net,
                              .id = "00000000000000000000000000000001",
                              .name = "bench",
                              .model = &env.model,
                              .topology = alone ? NULL : &env.topology,
                              .tag = alone ? NULL : env.keys.tag,
                              .threads = threads};
    must(cake_cluster_open(&env.cluster, &o, &err), &err);
    must(cake_cluster_gather(env.cluster, &err), &err);
    cake_deployment_options d = {.context = context, .sequences = STREAMS, .wire = CAKE_WIRE_F32};
    must(cake_cluster_make_plan(env.cluster, &d, &env.plan, &err), &err);
    must(cake_cluster_deploy(env.cluster, &env.plan, &err), &err);
    must(cake_scheduler_new(&env.sched, env.cluster, &err), &err);
}

/* ---- streams ---- */

typedef struct {
    const uint32_t *text; /* [n_prompt + want], all of it known */
    uint32_t n_prompt, want, got, cached;
    uint64_t id, first_ns, last_ns;
    uint64_t *gap_ns; /* [want] between tokens, or NULL */
    bool over;
} stream;

static bool next(void *arg, uint32_t position, float *logits, uint32_t n_vocab, uint32_t *token) {
    stream *t = arg;
    (void)logits, (void)n_vocab;
    uint64_t now = cake_now_ns();
    if (t->got && t->gap_ns) t->gap_ns[t->got - 1] = now - t->last_ns;
    if (!t->got) t->first_ns = now;
    t->last_ns = now;
    t->got++;
    *token = t->text[position + 1 < t->n_prompt + t->want ? position + 1 : 0];
    return t->got < t->want;
}
static void progress(void *arg, uint32_t cached, uint32_t done) {
    (void)done;
    ((stream *)arg)->cached = cached;
}
static void over(void *arg, cake_done how, const cake_error *err) {
    if (how == CAKE_DONE_ERROR) must(CAKE_EIO, err);
    ((stream *)arg)->over = true;
}

static void begin(stream *t, bool guess) {
    cake_error err;
    cake_sequence_request r = {.prompt = t->text,
                               .n_prompt = t->n_prompt,
                               .max_positions = t->n_prompt + t->want,
                               .speculate = guess ? CAKE_SPECULATE_AUTO : CAKE_SPECULATE_OFF,
                               .arg = t,
                               .next = next,
                               .progress = progress,
                               .done = over};
    must(cake_scheduler_submit(env.sched, &r, &t->id, &err), &err);
}

static void step(void) {
    cake_error err;
    must(cake_scheduler_step(env.sched, 100, &err), &err);
}
static void drain(void) {
    while (!cake_scheduler_idle(env.sched)) step();
}

static uint64_t rng = 0x9E3779B97F4A7C15u;
static uint32_t below(uint32_t n) {
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 32) % n;
}

/* Words of a language: the k-th is used 1/k as often as the first. */
static uint32_t word(void) {
    double u = (below(1u << 30) + 1) / (double)(1u << 30), n = 1;
    for (int i = 0; i < 13; i++, u *= 2) { /* inverse of the harmonic sum, by halves */
        if (u >= 1) break;
        n *= 1.9;
    }
    uint32_t k = (uint32_t)n + below((uint32_t)n + 1);
    return k % env.model.config.vocab;
}

static uint32_t *make_text(uint32_t n) {
    uint32_t *text = cake_malloc(n * sizeof *text);
    for (uint32_t i = 0; i < n; i++) text[i] = below(env.model.config.vocab);
    return text;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- figures ---- */

static double decode(uint32_t n, uint32_t tokens) {
    stream t[STREAMS] = {0};
    uint64_t start = 0, end = UINT64_MAX;
    for (uint32_t i = 0; i < n; i++) {
        t[i] = (stream){.text = make_text(32 + tokens), .n_prompt = 32, .want = tokens};
        begin(&t[i], false);
    }
    /* From the moment all decode until the first is done; tokens in between are counted. */
    uint32_t before = 0, after = 0;
    for (bool all = false; !all;) {
        step();
        all = true;
        for (uint32_t i = 0; i < n; i++) all &= t[i].got > 0;
    }
    for (uint32_t i = 0; i < n; i++) before += t[i].got;
    start = cake_now_ns();
    for (bool any = false; !any;) {
        step();
        for (uint32_t i = 0; i < n; i++) any |= t[i].over;
    }
    end = cake_now_ns();
    for (uint32_t i = 0; i < n; i++) after += t[i].got;
    drain();
    for (uint32_t i = 0; i < n; i++) free((void *)(uintptr_t)t[i].text);
    return (after - before) / ((double)(end - start) * 1e-9);
}

static double prefill(uint32_t n) {
    double v[3];
    for (int i = 0; i < 3; i++) {
        stream t = {.text = make_text(n + 1), .n_prompt = n, .want = 1};
        uint64_t start = cake_now_ns();
        begin(&t, false);
        drain();
        v[i] = n / ((double)(t.first_ns - start) * 1e-9);
        free((void *)(uintptr_t)t.text);
    }
    qsort(v, 3, sizeof *v, by_value);
    return v[1];
}

static double look(bool copy, bool guess) {
    enum { PROMPT = 256 };
    uint32_t *text = cake_malloc((PROMPT + LOOK_TOKENS) * sizeof *text);
    rng = 12345; /* the same text with and without */
    for (uint32_t i = 0; i < PROMPT + LOOK_TOKENS; i++)
        text[i] = copy && i >= PROMPT ? text[i - PROMPT + 7] : word();
    stream t = {.text = text, .n_prompt = PROMPT, .want = LOOK_TOKENS};
    cake_scheduler_stats a, b;
    cake_scheduler_stats_get(env.sched, &a);
    begin(&t, guess);
    drain();
    cake_scheduler_stats_get(env.sched, &b);
    fprintf(stderr, "  (%llu batches, %llu rows, %llu guessed, %llu right)\n",
            (unsigned long long)(b.batches - a.batches), (unsigned long long)(b.rows - a.rows),
            (unsigned long long)(b.guessed - a.guessed),
            (unsigned long long)(b.guessed_right - a.guessed_right));
    free(text);
    return (LOOK_TOKENS - 1) / ((double)(t.last_ns - t.first_ns) * 1e-9);
}

static double p95_ms(stream *t, uint32_t *from) {
    size_t n = 0;
    double *v = cake_malloc(BESIDE * t[0].want * sizeof *v);
    for (uint32_t i = 0; i < BESIDE; i++) {
        for (uint32_t k = from[i]; k + 1 < t[i].got; k++) v[n++] = (double)t[i].gap_ns[k] * 1e-6;
        from[i] = t[i].got;
    }
    qsort(v, n, sizeof *v, by_value);
    double p = n ? v[n * 95 / 100] : 0;
    free(v);
    return p;
}

static void begin_others(stream *t, uint32_t *from) {
    enum { BASE = 100 };
    uint32_t room = env.plan.options.context - 64;
    for (uint32_t i = 0; i < BESIDE; i++) {
        t[i] = (stream){.text = make_text(room), .n_prompt = 32, .want = room - 32};
        t[i].gap_ns = cake_malloc(t[i].want * sizeof *t[i].gap_ns);
        begin(&t[i], false);
    }
    for (uint32_t least = 0; least < BASE;) {
        step();
        least = t[0].got;
        for (uint32_t i = 0; i < BESIDE; i++)
            if (t[i].got < least) least = t[i].got;
        if (least < 20)
            for (uint32_t i = 0; i < BESIDE; i++) from[i] = t[i].got;
    }
}

static void end_others(stream *t) {
    for (uint32_t i = 0; i < BESIDE; i++) cake_scheduler_cancel(env.sched, t[i].id);
    drain();
    for (uint32_t i = 0; i < BESIDE; i++) {
        free(t[i].gap_ns);
        free((void *)(uintptr_t)t[i].text);
    }
}

/* Others decode; a prompt of n tokens beside them, of which all but the last PART are known
 * already; what that does to the time between their tokens. */
enum { PART = 1024 };
static void beside(const char *name, const uint32_t *text, uint32_t n) {
    stream others[BESIDE], q = {.text = text, .n_prompt = n, .want = 1};
    uint32_t from[BESIDE] = {0};
    begin_others(others, from);
    printf("%s_base_ms %.4g\n", name, p95_ms(others, from));
    uint64_t start = cake_now_ns();
    begin(&q, false);
    while (!q.over) step();
    printf("%s_ms %.4g\n", name, p95_ms(others, from));
    printf("%s_tps %.4g\n", name, (n - q.cached) / ((double)(cake_now_ns() - start) * 1e-9));
    end_others(others);
}

static void long_prompt(uint32_t n) {
    enum { ANSWER = 32, NEW = 40 };
    uint32_t *text = make_text(n + ANSWER + NEW + 1);
    beside("first", text, PART);
    stream q = {.text = text, .n_prompt = n - PART, .want = 1};
    begin(&q, false); /* alone, to be quick */
    drain();
    beside("last", text, n);
    q = (stream){.text = text, .n_prompt = n, .want = ANSWER};
    begin(&q, false);
    drain();
    q = (stream){.text = text, .n_prompt = n + ANSWER + NEW, .want = 1};
    uint64_t start = cake_now_ns();
    begin(&q, false);
    drain();
    printf("turn_cached %u\nturn_prompt %u\nturn_s %.4g\n", q.cached, n + ANSWER,
           (double)(q.first_ns - start) * 1e-9);
    free(text);
}

/* ---- identity ---- */

enum { SAME_TEXTS = 3, SAME_PROMPT = 40, SAME_TOKENS = 150 };
typedef struct {
    const uint32_t *text;
    uint32_t at;
    uint64_t seen[SAME_TOKENS]; /* hash of each position's logits */
} recorded;

static bool record(void *arg, uint32_t position, float *logits, uint32_t n_vocab, uint32_t *token) {
    recorded *k = arg;
    uint64_t h = position;
    for (uint32_t i = 0; i < n_vocab; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        h = (h ^ bits) * 1099511628211u;
    }
    k->seen[k->at++] = h;
    *token = k->text[position + 1];
    return k->at < SAME_TOKENS;
}
static void recorded_over(void *arg, cake_done how, const cake_error *err) {
    (void)arg;
    if (how == CAKE_DONE_ERROR) must(CAKE_EIO, err);
}

static void same(void) {
    enum { LEN = SAME_PROMPT + SAME_TOKENS + 1 };
    uint32_t text[SAME_TEXTS][LEN], vocab = env.model.config.vocab;
    static recorded with[SAME_TEXTS], without[SAME_TEXTS];
    for (uint32_t i = 0; i < LEN; i++) {
        text[0][i] = 3 + i % 23 * 4 % 90;
        text[1][i] = i % 29 == 28 ? 3 + i % 97 : text[0][i]; /* with a slip now and then */
        text[2][i] = 3 + below(vocab - 3);
    }
    cake_scheduler_stats st;
    cake_error err;
    for (int mode = 0; mode < 2; mode++) {
        for (int i = 0; i < SAME_TEXTS; i++) {
            recorded *k = mode ? &with[i] : &without[i];
            k->text = text[i];
            cake_sequence_request r = {.prompt = text[i],
                                       .n_prompt = SAME_PROMPT,
                                       .arg = k,
                                       .next = record,
                                       .done = recorded_over,
                                       .speculate =
                                           mode ? CAKE_SPECULATE_ALWAYS : CAKE_SPECULATE_OFF};
            must(cake_scheduler_submit(env.sched, &r, NULL, &err), &err);
        }
        drain();
    }
    bool equal = true;
    for (int i = 0; i < SAME_TEXTS; i++)
        equal &= with[i].at == SAME_TOKENS && without[i].at == SAME_TOKENS &&
                 memcmp(with[i].seen, without[i].seen, sizeof with[i].seen) == 0;
    cake_scheduler_stats_get(env.sched, &st);
    printf("same %d\nguessed %llu\nright %llu\ncanceled %llu\n", equal,
           (unsigned long long)st.guessed, (unsigned long long)st.guessed_right,
           (unsigned long long)st.canceled);
}

int main(int argc, char **argv) {
    cake_mem_keep(256 << 20); /* as cake-master does */
    if (argc < 7) {
        fprintf(stderr, "usage: serve_figures MODEL TOPOLOGY|- KEY|- THREADS CONTEXT WHAT...\n");
        return 2;
    }
    up(argv[1], argv[2], argv[3], (unsigned)atoi(argv[4]), (uint32_t)atoi(argv[5]));
    decode(1, 16); /* warm up */
    for (int i = 6; i < argc; i++) {
        const char *what = argv[i], *colon = strchr(what, ':');
        uint32_t n = colon ? (uint32_t)atoi(colon + 1) : 0;
        bool on = colon && strcmp(colon, ":on") == 0;
        if (strncmp(what, "decode", 6) == 0 && n >= 1 && n <= STREAMS) {
            if (n > 1) decode(n, 24); /* let it learn how long such batches take */
            printf("%s %.4g\n", what, decode(n, TOKENS));
        } else if (strncmp(what, "prefill", 7) == 0 && n)
            printf("%s %.4g\n", what, prefill(n));
        else if (strncmp(what, "copy", 4) == 0 || strncmp(what, "novel", 5) == 0)
            printf("%s %.4g\n", what, look(what[0] == 'c', on));
        else if (strncmp(what, "long", 4) == 0 && n)
            long_prompt(n);
        else if (strcmp(what, "same") == 0)
            same();
        else
            fprintf(stderr, "serve_figures: %s?\n", what);
        fflush(stdout);
    }
    cake_scheduler_free(env.sched);
    cake_cluster_close(env.cluster);
    cake_cluster_plan_deinit(&env.plan);
    cake_net_close(env.net);
    cake_model_close(&env.model);
    return 0;
}
