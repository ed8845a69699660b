/* TLS for the HTTP server (OpenSSL under libevent): optional, TLS 1.2 and newer.
 *
 * One thread: that of the HTTP server. */
#ifndef CAKE_MASTER_SERVER_HTTP_TLS_H
#define CAKE_MASTER_SERVER_HTTP_TLS_H

#include "common/status.h"

struct bufferevent;
struct event_base;

typedef struct cake_http_tls cake_http_tls;

/* cert: PEM file with the certificate and what leads to its root; key: PEM file with its private
 * key, without a password. CAKE_ECONFIG naming the file at fault. */
cake_status cake_http_tls_open(cake_http_tls **out, const char *cert, const char *key,
                               cake_error *err);
void cake_http_tls_close(cake_http_tls *t);

/* A connection that was accepted; it owns fd. NULL: no memory, and fd is the caller's. */
struct bufferevent *cake_http_tls_accept(cake_http_tls *t, struct event_base *base, int fd);
/* Tell the client that nothing more comes. bev may be one without TLS: nothing happens. */
void cake_http_tls_bye(struct bufferevent *bev);

#endif
