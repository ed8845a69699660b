/* Server-sent events: see sse.h. */
#include "master/chat/sse.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

void cake_sse_deinit(cake_sse *s) {
    free(s->line);
    free(s->data);
    *s = (cake_sse){0};
}

static cake_status append(char **v, size_t *n, size_t *cap, const char *bytes, size_t len,
                          cake_error *err) {
    if (len > CAKE_SSE_EVENT_MAX - *n)
        return cake_fail(err, CAKE_ENOSPACE, "the server sent an event of more than %d MiB",
                         CAKE_SSE_EVENT_MAX >> 20);
    if (*n + len + 1 > *cap) {
        size_t want = 2 * (*n + len + 1);
        char *p = realloc(*v, want);
        if (!p) return cake_fail(err, CAKE_ENOMEM, "no memory for an event of the server");
        *v = p;
        *cap = want;
    }
    memcpy(*v + *n, bytes, len);
    *n += len;
    (*v)[*n] = 0;
    return CAKE_OK;
}

static cake_status on_line(cake_sse *s, cake_sse_fn fn, void *arg, cake_error *err) {
    const char *l = s->line ? s->line : "";
    size_t n = s->n_line;
    s->n_line = 0;
    if (n == 0) {
        bool has = s->has_data;
        size_t len = s->n_data;
        s->has_data = false;
        s->n_data = 0;
        if (has && !fn(arg, s->data, len)) return cake_fail(err, CAKE_ECANCELED, "cancelled");
        return CAKE_OK;
    }
    if (n < 4 || memcmp(l, "data", 4) != 0 || (n > 4 && l[4] != ':')) return CAKE_OK;
    size_t at = n > 4 ? 5 : 4;
    if (at < n && l[at] == ' ') at++;
    cake_status st = CAKE_OK;
    if (s->has_data) st = append(&s->data, &s->n_data, &s->data_cap, "\n", 1, err);
    s->has_data = true;
    if (st == CAKE_OK) st = append(&s->data, &s->n_data, &s->data_cap, l + at, n - at, err);
    return st;
}

cake_status cake_sse_feed(cake_sse *s, const char *bytes, size_t len, cake_sse_fn fn, void *arg,
                          cake_error *err) {
    cake_status st = CAKE_OK;
    for (size_t at = 0; st == CAKE_OK && at < len;) {
        if (s->skip_lf && bytes[at] == '\n') {
            s->skip_lf = false;
            at++;
            continue;
        }
        s->skip_lf = false;
        size_t n = at;
        while (n < len && bytes[n] != '\n' && bytes[n] != '\r') n++;
        st = append(&s->line, &s->n_line, &s->line_cap, bytes + at, n - at, err);
        if (st == CAKE_OK && n < len) {
            s->skip_lf = bytes[n] == '\r';
            st = on_line(s, fn, arg, err);
            n++;
        }
        at = n;
    }
    return st;
}
