/* Server-sent events out of the bytes of a text/event-stream body. Pure but for its buffer. */
#ifndef CAKE_MASTER_CHAT_SSE_H
#define CAKE_MASTER_CHAT_SSE_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>

enum { CAKE_SSE_EVENT_MAX = 4 << 20 };

/* One event: its data (lines joined by '\n', NUL-terminated, borrowed). False: no more is wanted.
 */
typedef bool (*cake_sse_fn)(void *arg, const char *data, size_t len);

/* Start from {0}. */
typedef struct {
    char *line, *data;
    size_t n_line, line_cap, n_data, data_cap;
    bool has_data, skip_lf;
} cake_sse;

void cake_sse_deinit(cake_sse *s);
/* CAKE_ENOSPACE: an event above the cap; CAKE_ECANCELED: fn returned false; CAKE_ENOMEM. */
cake_status cake_sse_feed(cake_sse *s, const char *bytes, size_t len, cake_sse_fn fn, void *arg,
                          cake_error *err);

#endif
