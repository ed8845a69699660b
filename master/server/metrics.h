/* Counters of the server in Prometheus' text form. Relaxed atomics: any thread may add. */
#ifndef CAKE_MASTER_SERVER_METRICS_H
#define CAKE_MASTER_SERVER_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { CAKE_METRIC_BUCKETS = 14 };

typedef struct {
    _Atomic uint64_t bucket[CAKE_METRIC_BUCKETS], count, sum_us;
} cake_histogram;

typedef struct {
    _Atomic uint64_t prompt_tokens, generation_tokens;
    _Atomic uint64_t completed, failed, canceled, rejected, invalid; /* requests by how they end */
    _Atomic uint64_t late, lost;       /* answers broken off: at their deadline, without workers */
    _Atomic uint64_t replays;          /* sequences computed again after a loss */
    _Atomic uint32_t running, waiting; /* sequences now */
    /* of the scheduler, as it last said */
    _Atomic uint32_t kv_blocks, kv_free_blocks, open, kept, in_flight;
    _Atomic uint64_t cached_tokens, batches_canceled, guessed_tokens, guessed_right;
    cake_histogram first_token, inter_token, duration;
} cake_metrics;

void cake_histogram_add(cake_histogram *h, uint64_t us);
/* A growing text. Start from {0}; free v. */
typedef struct {
    char *v;
    size_t n, cap;
} cake_text;
/* Bytes as they are. */
void cake_text_put(cake_text *t, const char *s, size_t n);
void cake_text_add(cake_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void cake_metrics_print(cake_metrics *m, cake_text *out);

#endif
