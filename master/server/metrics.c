/* Counters: see metrics.h. */
#include "master/server/metrics.h"
#include "common/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const uint64_t bound_us[CAKE_METRIC_BUCKETS] = {1000,    2500,    5000,     10000,   25000,
                                                       50000,   100000,  250000,   500000,  1000000,
                                                       2500000, 5000000, 15000000, 60000000};

void cake_histogram_add(cake_histogram *h, uint64_t us) {
    for (size_t i = 0; i < CAKE_METRIC_BUCKETS; i++)
        if (us <= bound_us[i]) {
            atomic_fetch_add_explicit(&h->bucket[i], 1, memory_order_relaxed);
            break;
        }
    atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, us, memory_order_relaxed);
}

void cake_text_put(cake_text *t, const char *s, size_t n) {
    if (n == 0) return;
    if (t->n + n > t->cap) {
        t->cap = 2 * (t->n + n);
        t->v = cake_realloc(t->v, t->cap);
    }
    memcpy(t->v + t->n, s, n);
    t->n += n;
}

void cake_text_add(cake_text *t, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n > 0) {
        if (t->n + (size_t)n + 1 > t->cap) {
            t->cap = 2 * (t->n + (size_t)n + 1);
            t->v = cake_realloc(t->v, t->cap);
        }
        vsnprintf(t->v + t->n, t->cap - t->n, fmt, again);
        t->n += (size_t)n;
    }
    va_end(again);
}

static void counter(cake_text *out, const char *name, const char *help, uint64_t v) {
    cake_text_add(out, "# HELP cake_%s %s\n# TYPE cake_%s counter\ncake_%s %" PRIu64 "\n", name,
                  help, name, name, v);
}

static void gauge(cake_text *out, const char *name, const char *help, uint64_t v) {
    cake_text_add(out, "# HELP cake_%s %s\n# TYPE cake_%s gauge\ncake_%s %" PRIu64 "\n", name, help,
                  name, name, v);
}

static void histogram(cake_text *out, const char *name, const char *help, cake_histogram *h) {
    uint64_t sum = 0;
    cake_text_add(out, "# HELP cake_%s %s\n# TYPE cake_%s histogram\n", name, help, name);
    for (size_t i = 0; i < CAKE_METRIC_BUCKETS; i++) {
        sum += atomic_load(&h->bucket[i]);
        cake_text_add(out, "cake_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
                      (double)bound_us[i] / 1e6, sum);
    }
    uint64_t count = atomic_load(&h->count);
    cake_text_add(out, "cake_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, count);
    cake_text_add(out, "cake_%s_sum %.6f\ncake_%s_count %" PRIu64 "\n", name,
                  (double)atomic_load(&h->sum_us) / 1e6, name, count);
}

void cake_metrics_print(cake_metrics *m, cake_text *out) {
    gauge(out, "requests_running", "Sequences being computed.", atomic_load(&m->running));
    gauge(out, "requests_waiting", "Sequences waiting for a slot.", atomic_load(&m->waiting));
    counter(out, "prompt_tokens_total", "Tokens of prompts taken in.",
            atomic_load(&m->prompt_tokens));
    counter(out, "prompt_tokens_cached_total", "Tokens of prompts that were not computed again.",
            atomic_load(&m->cached_tokens));
    counter(out, "generation_tokens_total", "Tokens generated.",
            atomic_load(&m->generation_tokens));
    counter(out, "replays_total", "Sequences computed again because workers were lost.",
            atomic_load(&m->replays));
    cake_text_add(out, "# HELP cake_requests_total Requests by how they ended.\n"
                       "# TYPE cake_requests_total counter\n");
    const struct {
        const char *name;
        uint64_t v;
    } how[] = {{"completed", atomic_load(&m->completed)},
               {"failed", atomic_load(&m->failed)},
               {"canceled", atomic_load(&m->canceled)},
               {"rejected", atomic_load(&m->rejected)},
               {"invalid", atomic_load(&m->invalid)}};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++)
        cake_text_add(out, "cake_requests_total{outcome=\"%s\"} %" PRIu64 "\n", how[i].name,
                      how[i].v);
    cake_text_add(out,
                  "# HELP cake_canceled_total Answers broken off, by reason.\n"
                  "# TYPE cake_canceled_total counter\n"
                  "cake_canceled_total{reason=\"client_gone\"} %" PRIu64 "\n"
                  "cake_canceled_total{reason=\"deadline\"} %" PRIu64 "\n"
                  "cake_canceled_total{reason=\"unavailable\"} %" PRIu64 "\n",
                  atomic_load(&m->canceled), atomic_load(&m->late), atomic_load(&m->lost));
    counter(out, "guessed_tokens_total", "Tokens guessed ahead.", atomic_load(&m->guessed_tokens));
    counter(out, "guessed_tokens_right_total", "Of them, those that were right.",
            atomic_load(&m->guessed_right));
    gauge(out, "batches_in_flight", "Batches on their way through the stages.",
          atomic_load(&m->in_flight));
    counter(out, "batches_canceled_total", "Batches that nobody waited for any more.",
            atomic_load(&m->batches_canceled));
    gauge(out, "kv_blocks", "Blocks of 64 positions in the KV cache.", atomic_load(&m->kv_blocks));
    gauge(out, "kv_blocks_free", "Of them, those that hold nothing.",
          atomic_load(&m->kv_free_blocks));
    gauge(out, "kv_sequences_open", "Sequences that hold blocks and run.", atomic_load(&m->open));
    gauge(out, "kv_sequences_kept", "Finished sequences kept for others to go on from.",
          atomic_load(&m->kept));
    histogram(out, "time_to_first_token_seconds", "From the request to its first token.",
              &m->first_token);
    histogram(out, "inter_token_seconds", "Between two tokens of a request.", &m->inter_token);
    histogram(out, "request_duration_seconds", "From the request to the end of its answer.",
              &m->duration);
}
