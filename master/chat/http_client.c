/* Asking an HTTP server: see http_client.h. */
#include "master/chat/http_client.h"
#include "common/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONNECT_MS = 10000,
    SEND_MS = 30000,
    SILENCE_MS = 600000, /* a long prompt on a slow machine, by a server without keep-alives */
};

/* ---- addresses ---- */

cake_status cake_url_parse(cake_url *u, const char *text, cake_error *err) {
    memset(u, 0, sizeof *u);
    const char *at = text;
    u->tls = strncasecmp(at, "https://", 8) == 0;
    if (u->tls || strncasecmp(at, "http://", 7) == 0) at += u->tls ? 8 : 7;
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c <= ' ' || *c == 0x7f || *c == '@' || *c == '?' || *c == '#') at = "";
    bool v6 = *at == '[';
    const char *host = v6 ? at + 1 : at;
    size_t n = strcspn(host, v6 ? "]" : ":/");
    const char *rest = host + n + (v6 && host[n] ? 1 : 0);
    const char *port = u->tls ? "443" : "80";
    size_t n_port = strlen(port);
    if (*rest == ':') {
        port = rest + 1;
        n_port = strspn(port, "0123456789");
        rest = port + n_port;
    }
    size_t n_base = strlen(rest);
    while (n_base && rest[n_base - 1] == '/') n_base--;
    if (n_base >= 3 && strncmp(rest + n_base - 3, "/v1", 3) == 0) n_base -= 3;
    if (n == 0 || n >= sizeof u->host || (v6 && host[n] != ']') || n_port == 0 || n_port > 5 ||
        atoi(port) > 65535 || (*rest && *rest != '/') || n_base >= sizeof u->base)
        return cake_fail(err, CAKE_EUSAGE,
                         "'%.200s' is not the address of a server; give http://HOST:PORT", text);
    memcpy(u->host, host, n);
    memcpy(u->port, port, n_port);
    memcpy(u->base, rest, n_base);
    snprintf(u->text, sizeof u->text, "http%s://%s%s%s:%s%s", u->tls ? "s" : "", v6 ? "[" : "",
             u->host, v6 ? "]" : "", u->port, u->base);
    return CAKE_OK;
}

/* ---- waiting ---- */

static cake_status wait_for(int fd, short events, int stop_fd, int64_t deadline, const cake_url *u,
                            cake_error *err) {
    for (;;) {
        int64_t left = deadline - cake_now_ms();
        if (left <= 0) return cake_fail(err, CAKE_ETIMEOUT, "%s does not answer", u->text);
        struct pollfd p[2] = {{.fd = fd, .events = events}, {.fd = stop_fd, .events = POLLIN}};
        int n = poll(p, 2, left > 1 << 30 ? 1 << 30 : (int)left);
        if (n < 0 && errno != EINTR) return cake_fail(err, CAKE_EIO, "poll: %s", strerror(errno));
        if (n > 0 && p[1].revents) return cake_fail(err, CAKE_ECANCELED, "cancelled");
        if (n > 0 && p[0].revents) return CAKE_OK;
    }
}

static cake_status connect_to(const cake_http_target *t, int *out, cake_error *err) {
    struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM};
    int rc = getaddrinfo(t->url->host, t->url->port, &hints, &list);
    if (rc != 0)
        return cake_fail(err, CAKE_EUNAVAIL, "cannot find '%s': %s", t->url->host,
                         gai_strerror(rc));
    cake_status st = CAKE_EUNAVAIL;
    int why = ECONNREFUSED;
    for (struct addrinfo *a = list; a && st == CAKE_EUNAVAIL; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
        if (fd < 0) {
            why = errno;
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        why = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
        if (why == EINPROGRESS) {
            st = wait_for(fd, POLLOUT, t->stop_fd, cake_now_ms() + CONNECT_MS, t->url, err);
            socklen_t len = sizeof why;
            if (st == CAKE_OK) getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &len);
            if (st == CAKE_ETIMEOUT) why = ETIMEDOUT, st = CAKE_EUNAVAIL;
            if (st == CAKE_OK && why) st = CAKE_EUNAVAIL;
        } else {
            st = why ? CAKE_EUNAVAIL : CAKE_OK;
        }
        if (st == CAKE_OK)
            *out = fd;
        else
            close(fd);
    }
    freeaddrinfo(list);
    if (st == CAKE_EUNAVAIL)
        return cake_fail(err, st,
                         "cannot reach %s: %s. Is 'cake-master serve' running there, on an "
                         "address that this machine can reach?",
                         t->url->text, strerror(why));
    return st;
}

/* ---- a connection, with TLS or without ---- */

typedef struct {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl; /* NULL: plain */
} conn;

static void conn_close(conn *c) {
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    if (c->fd >= 0) close(c->fd);
}

/* What a call on the connection that returned rc <= 0 waits for: POLLIN, POLLOUT; 0: it failed. */
static short wants(const conn *c, int rc, bool sending) {
    if (!c->ssl) return errno != EAGAIN && errno != EINTR ? 0 : sending ? POLLOUT : POLLIN;
    int e = SSL_get_error(c->ssl, rc);
    return e == SSL_ERROR_WANT_READ ? POLLIN : e == SSL_ERROR_WANT_WRITE ? POLLOUT : 0;
}

/* Whose certificate it must be: an address, or a name, which the server is told. */
static bool expect_name(SSL *ssl, const char *host) {
    unsigned char ip[16];
    if (inet_pton(AF_INET, host, ip) == 1 || inet_pton(AF_INET6, host, ip) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
    /* SSL_set_tlsext_host_name, whose macro casts const away */
    return SSL_set1_host(ssl, host) == 1 &&
           SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
                    (void *)(uintptr_t)host) == 1;
}

static cake_status start_tls(const cake_http_target *t, conn *c, cake_error *err) {
    const cake_url *u = t->url;
    c->ctx = SSL_CTX_new(TLS_client_method());
    c->ssl = c->ctx ? SSL_new(c->ctx) : NULL;
    if (!c->ssl || SSL_CTX_set_default_verify_paths(c->ctx) != 1 ||
        SSL_set_min_proto_version(c->ssl, TLS1_2_VERSION) != 1 || SSL_set_fd(c->ssl, c->fd) != 1 ||
        !expect_name(c->ssl, u->host))
        return cake_fail(err, CAKE_ENOMEM, "cannot set up TLS for %s", u->text);
    SSL_set_verify(c->ssl, SSL_VERIFY_PEER, NULL);
    int64_t deadline = cake_now_ms() + CONNECT_MS;
    for (int rc; (rc = SSL_connect(c->ssl)) != 1;) {
        short events = wants(c, rc, false);
        if (!events) {
            long why = SSL_get_verify_result(c->ssl);
            if (why != X509_V_OK)
                return cake_fail(
                    err, CAKE_EAUTH,
                    "the certificate of %s is not trusted: %s. If it is the right one, "
                    "SSL_CERT_FILE=FILE in the environment names it",
                    u->text, X509_verify_cert_error_string(why));
            return cake_fail(err, CAKE_EUNAVAIL, "%s does not speak TLS: %s", u->text,
                             ERR_peek_error() ? ERR_reason_error_string(ERR_peek_error())
                                              : "it closed the connection");
        }
        cake_status st = wait_for(c->fd, events, t->stop_fd, deadline, u, err);
        if (st != CAKE_OK) return st;
    }
    return CAKE_OK;
}

static cake_status send_all(const cake_http_target *t, conn *c, const char *data, size_t len,
                            cake_error *err) {
    int64_t deadline = cake_now_ms() + SEND_MS;
    while (len) {
        int want = len < 1 << 16 ? (int)len : 1 << 16;
        ssize_t n =
            c->ssl ? SSL_write(c->ssl, data, want) : send(c->fd, data, (size_t)want, MSG_NOSIGNAL);
        if (n > 0) {
            data += n;
            len -= (size_t)n;
            continue;
        }
        short events = wants(c, (int)n, true);
        if (!events) return CAKE_OK; /* a server that refuses early has answered: read that */
        cake_status st = wait_for(c->fd, events, t->stop_fd, deadline, t->url, err);
        if (st != CAKE_OK) return st;
    }
    return CAKE_OK;
}

/* Some bytes into buf; *got 0: the other side ended. */
static cake_status receive(const cake_http_target *t, conn *c, char *buf, int cap, size_t *got,
                           cake_error *err) {
    int64_t deadline = cake_now_ms() + SILENCE_MS;
    for (;;) {
        ssize_t n = c->ssl ? SSL_read(c->ssl, buf, cap) : recv(c->fd, buf, (size_t)cap, 0);
        bool ended = n == 0 && !c->ssl;
        if (n <= 0 && c->ssl) ended = SSL_get_error(c->ssl, (int)n) == SSL_ERROR_ZERO_RETURN;
        if (n > 0 || ended) {
            *got = n > 0 ? (size_t)n : 0;
            return CAKE_OK;
        }
        short events = wants(c, (int)n, false);
        if (!events)
            return cake_fail(err, CAKE_EUNAVAIL, "the connection to %s broke", t->url->text);
        cake_status st = wait_for(c->fd, events, t->stop_fd, deadline, t->url, err);
        if (st != CAKE_OK) return st;
    }
}

cake_status cake_http_ask(const cake_http_target *t, const char *path, const char *body, size_t len,
                          cake_http_reader *r, cake_http_body_fn fn, void *arg, cake_error *err) {
    char head[2048], length[64] = "";
    const cake_url *u = t->url;
    bool v6 = strchr(u->host, ':') != NULL;
    if (body)
        snprintf(length, sizeof length, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                 len);
    int n = snprintf(head, sizeof head,
                     "%s %s%s HTTP/1.1\r\nHost: %s%s%s:%s\r\nAccept: application/json, "
                     "text/event-stream\r\nUser-Agent: cake-master/" CAKE_VERSION
                     "\r\n%s%s%s%sConnection: close\r\n\r\n",
                     body ? "POST" : "GET", u->base, path, v6 ? "[" : "", u->host, v6 ? "]" : "",
                     u->port, t->key ? "Authorization: Bearer " : "", t->key ? t->key : "",
                     t->key ? "\r\n" : "", length);
    if (n < 0 || (size_t)n >= sizeof head)
        return cake_fail(err, CAKE_EINVAL, "the address or the key is too long");
    cake_http_reader_init(r);
    ERR_clear_error();
    conn c = {.fd = -1};
    cake_status st = connect_to(t, &c.fd, err);
    if (st == CAKE_OK && u->tls) st = start_tls(t, &c, err);
    if (st == CAKE_OK) st = send_all(t, &c, head, (size_t)n, err);
    if (st == CAKE_OK && body) st = send_all(t, &c, body, len, err);
    while (st == CAKE_OK && !r->over) {
        char buf[16 << 10];
        size_t got = 0;
        st = receive(t, &c, buf, sizeof buf, &got, err);
        if (st != CAKE_OK) break;
        if (got)
            st = cake_http_reader_feed(r, buf, got, fn, arg, err);
        else
            st = cake_http_reader_end(r, err);
    }
    conn_close(&c);
    return st;
}
