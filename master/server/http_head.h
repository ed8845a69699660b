/* The head of an HTTP/1.1 request (RFC 9112), parsed strictly: what two programs might read
 * differently is refused. No allocation. */
#ifndef CAKE_MASTER_SERVER_HTTP_HEAD_H
#define CAKE_MASTER_SERVER_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CAKE_HTTP_HEAD_MAX = 16384, CAKE_HTTP_FIELDS_MAX = 100 };

typedef struct {
    const char *method, *path, *query; /* query: "" when there is none, without '?' */
    struct {
        const char *name, *value;
    } field[CAKE_HTTP_FIELDS_MAX];
    size_t n_fields;
    uint64_t content_length; /* 0 without one */
    bool chunked, keep_alive, expect_continue, http_1_0;
} cake_http_head;

/* text[0..len) is the head with its empty line; it is changed (split into strings, which *h
 * borrows). 0, or the status to refuse it with: 400, 411, 417, 431: what a client sends
 * is its fault, also where the RFC has 501 and 505. */
int cake_http_head_parse(char *text, size_t len, cake_http_head *h);
/* Value of a field by its name in any case, or NULL. */
const char *cake_http_head_field(const cake_http_head *h, const char *name);
/* Size line of a chunk: hex digits and an ignored extension; -1 when malformed or above 2^31. */
int64_t cake_http_chunk_size(const char *line, size_t len);

#endif
