/* The reply of an HTTP/1.1 server, decoded as its bytes come: status, body by length, in chunks or
 * until the connection ends. Pure: no sockets, no memory of its own.
 *
 * Limits: lines of 8 KiB, 32 KiB of head. Header fields other than the ones below are skipped. */
#ifndef CAKE_MASTER_CHAT_HTTP_READER_H
#define CAKE_MASTER_CHAT_HTTP_READER_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CAKE_HTTP_READER_LINE_MAX = 8 << 10, CAKE_HTTP_READER_HEAD_MAX = 32 << 10 };

typedef struct {
    int status;        /* of the final reply; 0: not there yet */
    bool over;         /* the body is complete */
    bool event_stream; /* Content-Type: text/event-stream */
    unsigned retry_s;  /* Retry-After; 0: none */
    /* private */
    int state;
    bool chunked, has_length, until_close;
    uint64_t left; /* bytes of the body or chunk */
    size_t n_head, n_line;
    char line[CAKE_HTTP_READER_LINE_MAX];
} cake_http_reader;

/* A piece of the body; false: no more is wanted. */
typedef bool (*cake_http_body_fn)(void *arg, const char *data, size_t len);

void cake_http_reader_init(cake_http_reader *r);
/* Decode data[0..len); bytes after the end of the body are ignored. CAKE_EPROTO: this is no HTTP
 * reply; CAKE_ECANCELED: fn returned false. */
cake_status cake_http_reader_feed(cake_http_reader *r, const char *data, size_t len,
                                  cake_http_body_fn fn, void *arg, cake_error *err);
/* The connection ended. CAKE_EPROTO: before the reply did. */
cake_status cake_http_reader_end(cake_http_reader *r, cake_error *err);

#endif
