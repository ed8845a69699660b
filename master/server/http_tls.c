/* TLS: see http_tls.h. */
#include "master/server/http_tls.h"
#include "common/mem.h"

#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>

struct cake_http_tls {
    SSL_CTX *ctx;
};

/* No terminal to ask on: a key with a password is an error. */
static int no_password(char *buf, int size, int rwflag, void *arg) {
    (void)buf, (void)size, (void)rwflag, (void)arg;
    return 0;
}

static cake_status fail(cake_error *err, const char *what, const char *file) {
    char why[200] = "unknown reason";
    unsigned long code = ERR_peek_last_error();
    if (code) ERR_error_string_n(code, why, sizeof why);
    ERR_clear_error();
    return cake_fail(err, CAKE_ECONFIG, "%s: cannot be used as the %s of the API (%s)", file, what,
                     why);
}

cake_status cake_http_tls_open(cake_http_tls **out, const char *cert, const char *key,
                               cake_error *err) {
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx) return cake_fail(err, CAKE_ENOMEM, "no memory for TLS");
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* idle connections stay small */
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    cake_status st = CAKE_OK;
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        st = fail(err, "certificate", cert);
    else if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
             SSL_CTX_check_private_key(ctx) != 1)
        st = fail(err, "private key of the certificate", key);
    if (st != CAKE_OK) {
        SSL_CTX_free(ctx);
        return st;
    }
    *out = cake_malloc(sizeof **out);
    (*out)->ctx = ctx;
    return CAKE_OK;
}

void cake_http_tls_close(cake_http_tls *t) {
    if (!t) return;
    SSL_CTX_free(t->ctx);
    free(t);
}

struct bufferevent *cake_http_tls_accept(cake_http_tls *t, struct event_base *base, int fd) {
    SSL *ssl = SSL_new(t->ctx);
    if (!ssl) return NULL;
    struct bufferevent *bev = bufferevent_openssl_socket_new(
        base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (!bev) {
        SSL_free(ssl);
        return NULL;
    }
    /* Lengths and chunks say where an answer ends; clients may just close. */
    bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
    return bev;
}

void cake_http_tls_bye(struct bufferevent *bev) {
    SSL *ssl = bufferevent_openssl_get_ssl(bev);
    if (ssl && SSL_is_init_finished(ssl)) SSL_shutdown(ssl);
    ERR_clear_error();
}
