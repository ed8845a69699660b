/* Replies of HTTP servers: see http_reader.h. */
#include "master/chat/http_reader.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { STATUS, FIELDS, LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, TO_CLOSE, DONE };

void cake_http_reader_init(cake_http_reader *r) {
    memset(r, 0, offsetof(cake_http_reader, line));
}

static cake_status bad(cake_error *err, const char *what) {
    return cake_fail(err, CAKE_EPROTO, "the server's reply is not HTTP: %s", what);
}

static cake_status on_status(cake_http_reader *r, cake_error *err) {
    const char *l = r->line;
    if (strncmp(l, "HTTP/1.", 7) != 0 || (l[7] != '0' && l[7] != '1') || l[8] != ' ' ||
        strspn(l + 9, "0123456789") != 3 || (l[12] && l[12] != ' '))
        return bad(err, "no status line");
    r->status = atoi(l + 9);
    if (r->status < 100 || r->status > 599) return bad(err, "an impossible status");
    r->state = FIELDS;
    return CAKE_OK;
}

/* Decimal or hexadecimal digits and nothing else; false: not a number, or above 2^53. */
static bool number(const char *s, size_t n, unsigned base, uint64_t *out) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        const char *digits = "0123456789abcdef";
        char c = s[i] >= 'A' && s[i] <= 'F' ? (char)(s[i] + 32) : s[i];
        const char *at = c ? strchr(digits, c) : NULL;
        if (!at || (unsigned)(at - digits) >= base || v >> 49) return false;
        v = v * base + (uint64_t)(at - digits);
    }
    *out = v;
    return n > 0;
}

static cake_status on_field(cake_http_reader *r, cake_error *err) {
    char *colon = strchr(r->line, ':');
    if (!colon) return bad(err, "a header line without a colon");
    *colon = 0;
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    size_t n = strlen(value);
    while (n && strchr(" \t", value[n - 1])) n--;
    uint64_t v;
    if (strcasecmp(r->line, "Content-Length") == 0) {
        if (!number(value, n, 10, &v) || (r->has_length && v != r->left))
            return bad(err, "a Content-Length that is no number");
        r->has_length = true;
        r->left = v;
    } else if (strcasecmp(r->line, "Transfer-Encoding") == 0) {
        if (n != 7 || strncasecmp(value, "chunked", 7) != 0)
            return bad(err, "a transfer coding that was not asked for");
        r->chunked = true;
    } else if (strcasecmp(r->line, "Content-Type") == 0) {
        r->event_stream = n >= 17 && strncasecmp(value, "text/event-stream", 17) == 0;
    } else if (strcasecmp(r->line, "Retry-After") == 0 && number(value, n, 10, &v) && v < 3600) {
        r->retry_s = (unsigned)v;
    }
    return CAKE_OK;
}

static void on_head_end(cake_http_reader *r) {
    if (r->status < 200) { /* an interim reply; the real one follows */
        size_t n_head = r->n_head;
        cake_http_reader_init(r);
        r->n_head = n_head;
    } else if (r->status == 204 || r->status == 304) {
        r->state = DONE;
    } else if (r->chunked) {
        r->state = CHUNK_SIZE;
    } else if (r->has_length) {
        r->state = r->left ? LENGTH : DONE;
    } else {
        r->state = TO_CLOSE;
    }
}

static cake_status on_chunk_size(cake_http_reader *r, cake_error *err) {
    size_t n = strcspn(r->line, " \t;");
    if (!number(r->line, n, 16, &r->left)) return bad(err, "a chunk without a size");
    r->state = r->left ? CHUNK : TRAILER;
    return CAKE_OK;
}

/* A whole line is in r->line. */
static cake_status on_line(cake_http_reader *r, cake_error *err) {
    if (r->n_line && r->line[r->n_line - 1] == '\r') r->n_line--;
    r->line[r->n_line] = 0;
    bool empty = r->n_line == 0;
    if (strlen(r->line) != r->n_line) return bad(err, "a NUL byte");
    r->n_line = 0;
    switch (r->state) {
    case STATUS: return on_status(r, err);
    case FIELDS:
        if (!empty) return on_field(r, err);
        on_head_end(r);
        return CAKE_OK;
    case CHUNK_SIZE: return on_chunk_size(r, err);
    case CHUNK_END:
        if (!empty) return bad(err, "a chunk longer than its size");
        r->state = CHUNK_SIZE;
        return CAKE_OK;
    default: /* TRAILER */
        if (empty) r->state = DONE;
        return CAKE_OK;
    }
}

static bool in_body(const cake_http_reader *r) {
    return r->state == LENGTH || r->state == CHUNK || r->state == TO_CLOSE;
}

cake_status cake_http_reader_feed(cake_http_reader *r, const char *data, size_t len,
                                  cake_http_body_fn fn, void *arg, cake_error *err) {
    for (size_t at = 0; at < len && r->state != DONE;) {
        if (in_body(r)) {
            size_t n = len - at;
            if (r->state != TO_CLOSE && n > r->left) n = (size_t)r->left;
            if (!fn(arg, data + at, n)) return cake_fail(err, CAKE_ECANCELED, "cancelled");
            at += n;
            if (r->state == TO_CLOSE) continue;
            r->left -= n;
            if (r->left == 0) r->state = r->state == LENGTH ? DONE : CHUNK_END;
            continue;
        }
        char c = data[at++];
        /* Chunk sizes of a long stream are no head. */
        if ((r->state == STATUS || r->state == FIELDS || r->state == TRAILER) &&
            ++r->n_head > CAKE_HTTP_READER_HEAD_MAX)
            return bad(err, "its head does not end");
        if (c == '\n') {
            cake_status st = on_line(r, err);
            if (st != CAKE_OK) return st;
        } else {
            if (r->n_line + 1 >= sizeof r->line) return bad(err, "a line that does not end");
            r->line[r->n_line++] = c;
        }
    }
    r->over = r->state == DONE;
    return CAKE_OK;
}

cake_status cake_http_reader_end(cake_http_reader *r, cake_error *err) {
    if (r->state == TO_CLOSE) r->state = DONE;
    r->over = r->state == DONE;
    if (r->over) return CAKE_OK;
    return cake_fail(err, CAKE_EPROTO, "the server closed the connection %s",
                     r->status ? "in the middle of its reply" : "without a reply");
}
