/* A small HTTP/1.1 client, with TLS when asked for: one connection per request, bodies of any
 * length to a callback, every wait ends at a deadline or when somebody interrupts. Closing the
 * connection is how a request is cancelled: servers of language models stop computing then.
 *
 * Blocks. SIGPIPE must be ignored. Any thread; one request at a time per caller. */
#ifndef CAKE_MASTER_CHAT_HTTP_CLIENT_H
#define CAKE_MASTER_CHAT_HTTP_CLIENT_H

#include "master/chat/http_reader.h"

typedef struct {
    bool tls;
    char host[256], port[8];
    char base[256]; /* path before every path asked for, without a final '/' */
    char text[600]; /* "http://HOST:PORT/BASE", for messages */
} cake_url;

/* "http://HOST[:PORT][/PATH]", "https://...", "HOST:PORT". A final "/v1" of the path is left out:
 * clients are told both forms. CAKE_EUSAGE with the remedy. */
cake_status cake_url_parse(cake_url *u, const char *text, cake_error *err);

typedef struct {
    const cake_url *url;
    const char *key; /* sent as a Bearer key; NULL: none */
    int stop_fd;     /* readable: give up with CAKE_ECANCELED; -1: none. Never read here */
} cake_http_target;

/* Ask and give the body of the reply to fn. body NULL: GET, else POST of JSON. reader is the
 * caller's storage; when fn runs it has the status and the type. CAKE_EUNAVAIL: nobody listens
 * there; CAKE_EAUTH: its certificate is not one that OpenSSL's defaults (SSL_CERT_FILE) trust;
 * CAKE_ETIMEOUT; CAKE_EPROTO; CAKE_ECANCELED: stop_fd, or fn returned false. */
cake_status cake_http_ask(const cake_http_target *t, const char *path, const char *body, size_t len,
                          cake_http_reader *reader, cake_http_body_fn fn, void *arg,
                          cake_error *err);

#endif
