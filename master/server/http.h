/* A small HTTP/1.1 server over libevent: requests with bodies in, replies or streams out, and word
 * of a client that goes away at any time. Nothing here knows what is served.
 *
 * One thread: that of cake_http_run. All functions but cake_http_stop are called there, or before
 * it. Limits: head 16 KiB, body body_max, connections connections_max, a client that does not read
 * for 60 s or lets 4 MiB pile up is cut. */
#ifndef CAKE_MASTER_SERVER_HTTP_H
#define CAKE_MASTER_SERVER_HTTP_H

#include "common/status.h"
#include "master/server/http_head.h"
#include "master/server/http_tls.h"

#include <sys/socket.h>

typedef struct cake_http cake_http;
/* One request and its reply. */
typedef struct cake_exchange cake_exchange;

typedef struct {
    void *arg;
    /* A whole request. Answer it now or later with cake_http_reply or the stream functions. */
    void (*request)(void *arg, cake_exchange *x);
    /* The client went away before the end of the reply; x is invalid after this. Not called once
     * the reply is complete. */
    void (*gone)(void *arg, cake_exchange *x);
    /* A request that is refused before it is one (bad head, too large): write the body. */
    void (*refused)(void *arg, cake_exchange *x, int status);
    void (*tick)(void *arg); /* about once a second */
    int wake_fd;             /* or -1 */
    void (*wake)(void *arg); /* wake_fd is readable */
    size_t body_max;
    unsigned connections_max;
    cake_http_tls *tls; /* borrowed; NULL: plain */
} cake_http_config;

/* Listen on "HOST:PORT" ("[::1]:80", port 0: any free one). CAKE_EUSAGE: cannot be understood;
 * CAKE_EUNAVAIL: cannot be listened on. */
cake_status cake_http_open(cake_http **out, const char *address, const cake_http_config *c,
                           cake_error *err);
/* Cuts every connection; `gone` is not called. */
void cake_http_close(cake_http *h);
/* Only reachable from this machine? */
bool cake_http_is_loopback(const cake_http *h);
unsigned cake_http_port(const cake_http *h);
/* Host as given, without brackets. */
const char *cake_http_host(const cake_http *h);

/* Serve until cake_http_stop, which any thread may call. */
void cake_http_run(cake_http *h);
void cake_http_stop(cake_http *h);

const cake_http_head *cake_exchange_head(const cake_exchange *x);
/* The client's address. */
const struct sockaddr *cake_exchange_from(const cake_exchange *x);
const char *cake_exchange_body(const cake_exchange *x, size_t *len);
/* A pointer of the user's. */
void cake_exchange_set(cake_exchange *x, void *data);
void *cake_exchange_get(const cake_exchange *x);

/* Add a header to the reply; before reply or stream_begin. name and value must be clean (no CR or
 * LF): a value that is not is left out. */
void cake_http_header(cake_exchange *x, const char *name, const char *value);
/* The whole reply. x is over after this. */
void cake_http_reply(cake_exchange *x, int status, const char *type, const char *body, size_t len);
/* A reply in pieces (chunked coding). */
void cake_http_stream_begin(cake_exchange *x, int status, const char *type);
/* False: the client does not keep up and was cut; x is invalid (`gone` is not called). */
bool cake_http_stream_write(cake_exchange *x, const void *data, size_t len);
void cake_http_stream_end(cake_exchange *x);
/* Bytes the client has not been sent yet. */
size_t cake_http_backlog(const cake_exchange *x);

typedef struct {
    uint64_t connections, requests, refused, cut;
    unsigned open;
} cake_http_stats;
void cake_http_stats_get(const cake_http *h, cake_http_stats *out);

#endif
