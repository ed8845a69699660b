/* HTTP over libevent's bufferevents: see http.h. evhttp is not used because it stops reading while
 * a request is answered, so it would not notice a client that leaves. */
#include "master/server/http.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    OUTPUT_MAX = 4 << 20,    /* bytes a slow reader may leave unread */
    PIPELINE_MAX = 64 << 10, /* bytes of further requests taken while one is answered */
    IDLE_MS = 75000,         /* between requests */
    HEAD_MS = 15000,
    BODY_MS = 60000,
    LINGER_MS = 2000, /* a refused sender may go on sending for so long, to see the answer */
    WRITE_STALL_S = 60,
    HEADERS_MAX = 2048, /* of ours */
};

typedef enum { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, BUSY, STREAM, LINGER } state;

struct cake_exchange { /* one per connection, used again */
    cake_http *http;
    struct bufferevent *bev;
    struct sockaddr_in6 from; /* or a sockaddr_in, which is shorter */
    state state;
    int64_t since_ms; /* of the state */
    char *head_text;  /* [CAKE_HTTP_HEAD_MAX + 1] while a request is being read or answered */
    cake_http_head head;
    char *body;
    size_t n_body, body_cap, want; /* want: bytes left of the body or chunk */
    void *data;
    char headers[HEADERS_MAX];
    size_t n_headers;
    bool keep_alive, close_after, working, dead;
    struct cake_exchange *prev, *next;
};

struct cake_http {
    cake_http_config c;
    struct event_base *base;
    struct evconnlistener *listener;
    struct event *tick, *wake, *stop;
    int stop_fd;
    char host[256];
    unsigned port;
    bool loopback;
    cake_exchange *all;
    cake_http_stats stats;
};

/* ---- connections ---- */

static void set_state(cake_exchange *x, state s) {
    x->state = s;
    x->since_ms = cake_now_ms();
}

static void forget_request(cake_exchange *x) {
    free(x->head_text);
    free(x->body);
    x->head_text = x->body = NULL;
    x->n_body = x->body_cap = x->want = x->n_headers = 0;
    x->data = NULL;
}

static void destroy(cake_exchange *x) {
    cake_http *h = x->http;
    if (x->working) { /* process() is on the stack */
        x->dead = true;
        return;
    }
    if (x->prev)
        x->prev->next = x->next;
    else
        h->all = x->next;
    if (x->next) x->next->prev = x->prev;
    h->stats.open--;
    bufferevent_free(x->bev);
    forget_request(x);
    free(x);
}

static bool answering(const cake_exchange *x) {
    return x->state == BUSY || x->state == STREAM;
}

static void leave(cake_exchange *x) {
    if (x->dead) return;
    if (answering(x)) {
        x->http->stats.cut++;
        set_state(x, LINGER);
        x->http->c.gone(x->http->c.arg, x);
    }
    destroy(x);
}

/* ---- replies ---- */

static const char *reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "Error";
    }
}

void cake_http_header(cake_exchange *x, const char *name, const char *value) {
    if (strpbrk(value, "\r\n")) return;
    size_t room = HEADERS_MAX - x->n_headers;
    int n = snprintf(x->headers + x->n_headers, room, "%s: %s\r\n", name, value);
    if (n > 0 && (size_t)n < room) x->n_headers += (size_t)n;
}

static void send_head(cake_exchange *x, int status, const char *type, const char *framing) {
    struct evbuffer *out = bufferevent_get_output(x->bev);
    evbuffer_add_printf(out, "HTTP/1.1 %d %s\r\n", status, reason(status));
    if (type) evbuffer_add_printf(out, "Content-Type: %s\r\n", type);
    evbuffer_add(out, x->headers, x->n_headers);
    evbuffer_add_printf(out, "%sX-Content-Type-Options: nosniff\r\nConnection: %s\r\n\r\n", framing,
                        x->keep_alive ? "keep-alive" : "close");
}

static void process(cake_exchange *x);

/* All is written: the end of our side. */
static void say_bye(cake_exchange *x) {
    if (x->http->c.tls) cake_http_tls_bye(x->bev);
    shutdown(bufferevent_getfd(x->bev), SHUT_WR);
}

static void finish(cake_exchange *x) {
    forget_request(x);
    if (x->keep_alive) {
        set_state(x, HEAD);
        process(x);
    } else {
        x->close_after = true;
        set_state(x, LINGER);
        if (evbuffer_get_length(bufferevent_get_output(x->bev)) == 0) say_bye(x);
    }
}

void cake_http_reply(cake_exchange *x, int status, const char *type, const char *body, size_t len) {
    char framing[64];
    snprintf(framing, sizeof framing, "Content-Length: %zu\r\n", len);
    send_head(x, status, type, framing);
    bool head_only = x->head.method && strcmp(x->head.method, "HEAD") == 0;
    if (len && !head_only) evbuffer_add(bufferevent_get_output(x->bev), body, len);
    finish(x);
}

void cake_http_stream_begin(cake_exchange *x, int status, const char *type) {
    if (x->head.http_1_0) x->keep_alive = false; /* no chunks there: the end is the end */
    send_head(x, status, type, x->head.http_1_0 ? "" : "Transfer-Encoding: chunked\r\n");
    set_state(x, STREAM);
}

/* What the kernel takes at once saves a round through the loop: an event is one write then. */
static size_t write_now(cake_exchange *x, struct iovec *v, int n) {
    if (x->http->c.tls || evbuffer_get_length(bufferevent_get_output(x->bev))) return 0;
    ssize_t done = writev(bufferevent_getfd(x->bev), v, n);
    return done > 0 ? (size_t)done : 0; /* an error shows again in the loop */
}

bool cake_http_stream_write(cake_exchange *x, const void *data, size_t len) {
    struct evbuffer *out = bufferevent_get_output(x->bev);
    if (len == 0) return true;
    char size[24], crlf[] = "\r\n";
    int n_size = snprintf(size, sizeof size, "%zx\r\n", len);
    bool chunked = !x->head.http_1_0;
    struct iovec v[3] = {{.iov_base = size, .iov_len = chunked ? (size_t)n_size : 0},
                         {.iov_base = (void *)(uintptr_t)data, .iov_len = len},
                         {.iov_base = crlf, .iov_len = chunked ? 2 : 0}};
    size_t done = write_now(x, v, 3);
    for (int i = 0; i < 3; i++) {
        size_t k = done < v[i].iov_len ? done : v[i].iov_len;
        done -= k;
        evbuffer_add(out, (const char *)v[i].iov_base + k, v[i].iov_len - k);
    }
    if (evbuffer_get_length(out) <= OUTPUT_MAX) return true;
    cake_log(CAKE_LOG_WARN, "event=client_cut reason=\"does not read\"");
    x->http->stats.cut++;
    set_state(x, LINGER);
    destroy(x);
    return false;
}

size_t cake_http_backlog(const cake_exchange *x) {
    return evbuffer_get_length(bufferevent_get_output(x->bev));
}

void cake_http_stream_end(cake_exchange *x) {
    if (!x->head.http_1_0) evbuffer_add(bufferevent_get_output(x->bev), "0\r\n\r\n", 5);
    finish(x);
}

static void refuse(cake_exchange *x, int status) {
    x->http->stats.refused++;
    x->keep_alive = false;
    x->n_headers = 0;
    set_state(x, BUSY);
    x->http->c.refused(x->http->c.arg, x, status);
}

/* ---- requests ---- */

/* The bytes up to and with the empty line, or 0. */
static size_t head_length(struct evbuffer *in) {
    struct evbuffer_ptr p = evbuffer_search(in, "\n\r\n", 3, NULL);
    struct evbuffer_ptr q = evbuffer_search(in, "\n\n", 2, NULL);
    if (p.pos < 0 && q.pos < 0) return 0;
    if (q.pos < 0 || (p.pos >= 0 && p.pos < q.pos)) return (size_t)p.pos + 3;
    return (size_t)q.pos + 2;
}

static bool more_body(cake_exchange *x, size_t n) {
    if (n > x->http->c.body_max - x->n_body) {
        refuse(x, 413);
        return false;
    }
    if (x->n_body + n + 1 > x->body_cap) {
        size_t cap = x->n_body + n + 1;
        if (x->head.chunked && cap < 2 * x->body_cap) cap = 2 * x->body_cap;
        char *p = realloc(x->body, cap);
        if (!p) {
            refuse(x, 503);
            return false;
        }
        x->body = p;
        x->body_cap = cap;
    }
    return true;
}

static bool read_head(cake_exchange *x, struct evbuffer *in) {
    while (evbuffer_get_length(in)) { /* empty lines before a request are allowed */
        char c[2];
        ev_ssize_t got = evbuffer_copyout(in, c, 2);
        if (c[0] == '\n')
            evbuffer_drain(in, 1);
        else if (got == 2 && c[0] == '\r' && c[1] == '\n')
            evbuffer_drain(in, 2);
        else
            break;
    }
    size_t len = head_length(in);
    if (len > CAKE_HTTP_HEAD_MAX || (!len && evbuffer_get_length(in) > CAKE_HTTP_HEAD_MAX)) {
        memset(&x->head, 0, sizeof x->head);
        refuse(x, 431);
        return false;
    }
    if (!len) return false;
    x->head_text = cake_malloc(len + 1);
    evbuffer_remove(in, x->head_text, len);
    x->head_text[len] = 0;
    int rc = cake_http_head_parse(x->head_text, len, &x->head);
    x->keep_alive = rc == 0 && x->head.keep_alive;
    if (rc == 0 && x->head.content_length > x->http->c.body_max) rc = 413;
    if (rc != 0) {
        refuse(x, rc);
        return false;
    }
    if (x->head.expect_continue && (x->head.chunked || x->head.content_length))
        evbuffer_add_printf(bufferevent_get_output(x->bev), "HTTP/1.1 100 Continue\r\n\r\n");
    x->want = (size_t)x->head.content_length;
    set_state(x, x->head.chunked ? CHUNK_SIZE : BODY);
    return true;
}

static bool read_bytes(cake_exchange *x, struct evbuffer *in) {
    size_t n = evbuffer_get_length(in);
    if (n > x->want) n = x->want;
    if (!more_body(x, n)) return false;
    if (n) evbuffer_remove(in, x->body + x->n_body, n);
    x->n_body += n;
    x->want -= n;
    return x->want == 0;
}

static bool read_line(struct evbuffer *in, char *line, size_t cap, size_t *len, bool *too_long) {
    size_t n;
    struct evbuffer_ptr p = evbuffer_search_eol(in, NULL, &n, EVBUFFER_EOL_CRLF);
    *too_long = p.pos < 0 ? evbuffer_get_length(in) > cap : (size_t)p.pos > cap;
    if (p.pos < 0 || *too_long) return false;
    *len = (size_t)p.pos;
    evbuffer_remove(in, line, *len);
    evbuffer_drain(in, n);
    return true;
}

/* One step of a chunked body; false: more input is needed, or it was refused. */
static bool read_chunked(cake_exchange *x, struct evbuffer *in) {
    char line[256];
    size_t len;
    bool too_long = false;
    switch (x->state) {
    case CHUNK_SIZE: {
        if (!read_line(in, line, sizeof line, &len, &too_long)) break;
        int64_t size = cake_http_chunk_size(line, len);
        if (size < 0) return refuse(x, 400), false;
        if ((size_t)size > x->http->c.body_max - x->n_body) return refuse(x, 413), false;
        x->want = (size_t)size;
        set_state(x, size ? CHUNK : TRAILER);
        return true;
    }
    case CHUNK:
        if (!read_bytes(x, in)) return false;
        set_state(x, CHUNK_END);
        return true;
    case CHUNK_END:
        if (!read_line(in, line, sizeof line, &len, &too_long)) break;
        if (len) return refuse(x, 400), false;
        set_state(x, CHUNK_SIZE);
        return true;
    default: /* TRAILER: ignored up to the empty line */
        if (!read_line(in, line, sizeof line, &len, &too_long)) break;
        if (len == 0)
            set_state(x, BODY), x->want = 0;
        else if (x->n_headers++ > 32)
            return refuse(x, 431), false;
        return true;
    }
    if (too_long) refuse(x, 400);
    return false;
}

static void process(cake_exchange *x) {
    if (x->working) return; /* a reply inside the request callback: the loop below goes on */
    x->working = true;
    struct evbuffer *in = bufferevent_get_input(x->bev);
    for (bool go = true; go && !x->dead;) {
        switch (x->state) {
        case HEAD: go = read_head(x, in); break;
        case BODY:
            go = read_bytes(x, in);
            if (!go) break;
            if (!x->body && !more_body(x, 0)) break;
            x->body[x->n_body] = 0;
            x->n_headers = 0;
            x->http->stats.requests++;
            set_state(x, BUSY);
            x->http->c.request(x->http->c.arg, x);
            break;
        case CHUNK_SIZE:
        case CHUNK:
        case CHUNK_END:
        case TRAILER: go = read_chunked(x, in); break;
        case LINGER:
            evbuffer_drain(in, evbuffer_get_length(in));
            go = false;
            break;
        default: go = false; break;
        }
    }
    x->working = false;
    if (x->dead) {
        destroy(x);
    } else if (answering(x) && evbuffer_get_length(in) > PIPELINE_MAX) {
        leave(x);
    }
}

static void on_read(struct bufferevent *bev, void *arg) {
    (void)bev;
    process(arg);
}

static void on_write(struct bufferevent *bev, void *arg) {
    cake_exchange *x = arg;
    (void)bev;
    if (x->close_after) say_bye(x);
}

static void on_event(struct bufferevent *bev, short what, void *arg) {
    (void)bev;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT)) leave(arg);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *addr, int len,
                      void *arg) {
    (void)l;
    cake_http *h = arg;
    h->stats.connections++;
    if (h->stats.open >= h->c.connections_max) {
        static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n"
                                   "Content-Length: 0\r\nConnection: close\r\n\r\n";
        if (!h->c.tls) (void)!write(fd, busy, sizeof busy - 1);
        close(fd);
        return;
    }
    int one = 1, idle = 30, every = 10, count = 3, stall_ms = WRITE_STALL_S * 1000;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall_ms, sizeof stall_ms);
    cake_exchange *x = cake_calloc(1, sizeof *x);
    x->http = h;
    memcpy(&x->from, addr, (size_t)len < sizeof x->from ? (size_t)len : sizeof x->from);
    x->bev = h->c.tls ? cake_http_tls_accept(h->c.tls, h->base, fd)
                      : bufferevent_socket_new(h->base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (!x->bev) {
        close(fd);
        free(x);
        return;
    }
    x->next = h->all;
    if (x->next) x->next->prev = x;
    h->all = x;
    h->stats.open++;
    set_state(x, HEAD);
    struct timeval stall = {.tv_sec = WRITE_STALL_S};
    bufferevent_setcb(x->bev, on_read, on_write, on_event, x);
    bufferevent_set_timeouts(x->bev, NULL, &stall);
    bufferevent_enable(x->bev, EV_READ | EV_WRITE);
}

static void on_accept_error(struct evconnlistener *l, void *arg) {
    (void)arg;
    evconnlistener_disable(l); /* out of descriptors: the tick tries again */
    cake_log(CAKE_LOG_ERROR, "event=accept_failed reason=\"%s\"", strerror(errno));
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    cake_http *h = arg;
    int64_t now = cake_now_ms();
    for (cake_exchange *x = h->all, *next; x; x = next) {
        next = x->next;
        bool empty = evbuffer_get_length(bufferevent_get_input(x->bev)) == 0;
        int64_t limit = x->state == LINGER ? LINGER_MS
                        : x->state == HEAD ? (empty ? IDLE_MS : HEAD_MS)
                        : answering(x)     ? INT64_MAX
                                           : BODY_MS;
        if (now - x->since_ms > limit &&
            !(x->state == LINGER && evbuffer_get_length(bufferevent_get_output(x->bev))))
            leave(x);
    }
    evconnlistener_enable(h->listener);
    h->c.tick(h->c.arg);
}

static void on_wake(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    cake_http *h = arg;
    h->c.wake(h->c.arg);
}

static void on_stop(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    event_base_loopbreak(((cake_http *)arg)->base);
}

/* ---- life ---- */

static cake_status split_address(cake_http *h, const char *address, char port[16],
                                 cake_error *err) {
    const char *colon = strrchr(address, ':'), *begin = address;
    size_t n = colon ? (size_t)(colon - address) : 0;
    bool ok = colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1) &&
              strlen(colon + 1) <= 5 && atoi(colon + 1) <= 65535;
    if (ok && n >= 2 && *begin == '[' && begin[n - 1] == ']')
        begin++, n -= 2;
    else if (ok && memchr(begin, ':', n))
        ok = false; /* an IPv6 address without brackets */
    if (!ok || n == 0 || n >= sizeof h->host)
        return cake_fail(err, CAKE_EUSAGE,
                         "'%.64s' is not an address to serve on; give HOST:PORT, such as "
                         "127.0.0.1:8080 or [::1]:8080",
                         address);
    memcpy(h->host, begin, n);
    h->host[n] = 0;
    snprintf(port, 16, "%s", colon + 1);
    return CAKE_OK;
}

static bool loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static cake_status start_listening(cake_http *h, const char *address, cake_error *err) {
    char port[16];
    cake_status st = split_address(h, address, port, err);
    if (st != CAKE_OK) return st;
    struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    int rc = getaddrinfo(h->host, port, &hints, &list);
    if (rc != 0)
        return cake_fail(err, CAKE_EUNAVAIL, "cannot resolve '%s' to serve on: %s", h->host,
                         gai_strerror(rc));
    for (struct addrinfo *a = list; a && !h->listener; a = a->ai_next) {
        h->listener = evconnlistener_new_bind(h->base, on_accept, h,
                                              LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC |
                                                  LEV_OPT_REUSEABLE | LEV_OPT_DISABLED,
                                              1024, a->ai_addr, (int)a->ai_addrlen);
        h->loopback = loopback(a->ai_addr);
    }
    int why = errno;
    freeaddrinfo(list);
    if (!h->listener)
        return cake_fail(err, CAKE_EUNAVAIL,
                         "cannot listen on %s: %s; give another address with --api HOST:PORT",
                         address, strerror(why));
    struct sockaddr_storage got;
    socklen_t len = sizeof got;
    getsockname(evconnlistener_get_fd(h->listener), (struct sockaddr *)&got, &len);
    h->port = ntohs(got.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&got)->sin6_port
                                              : ((struct sockaddr_in *)&got)->sin_port);
    evconnlistener_set_error_cb(h->listener, on_accept_error);
    return CAKE_OK;
}

cake_status cake_http_open(cake_http **out, const char *address, const cake_http_config *c,
                           cake_error *err) {
    cake_http *h = cake_calloc(1, sizeof *h);
    h->c = *c;
    h->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    h->base = event_base_new();
    cake_status st = h->base && h->stop_fd >= 0
                         ? start_listening(h, address, err)
                         : cake_fail(err, CAKE_ENOMEM, "cannot set up the HTTP server");
    if (st == CAKE_OK) {
        struct timeval second = {.tv_sec = 1};
        h->tick = event_new(h->base, -1, EV_PERSIST, on_tick, h);
        h->stop = event_new(h->base, h->stop_fd, EV_READ | EV_PERSIST, on_stop, h);
        event_add(h->tick, &second);
        event_add(h->stop, NULL);
        if (c->wake_fd >= 0) {
            h->wake = event_new(h->base, c->wake_fd, EV_READ | EV_PERSIST, on_wake, h);
            event_add(h->wake, NULL);
        }
        *out = h;
    } else {
        cake_http_close(h);
    }
    return st;
}

void cake_http_close(cake_http *h) {
    if (!h) return;
    while (h->all) destroy(h->all);
    if (h->tick) event_free(h->tick);
    if (h->wake) event_free(h->wake);
    if (h->stop) event_free(h->stop);
    if (h->listener) evconnlistener_free(h->listener);
    if (h->base) event_base_free(h->base);
    if (h->stop_fd >= 0) close(h->stop_fd);
    free(h);
}

void cake_http_run(cake_http *h) {
    evconnlistener_enable(h->listener);
    event_base_dispatch(h->base);
}

void cake_http_stop(cake_http *h) {
    uint64_t one = 1;
    (void)!write(h->stop_fd, &one, sizeof one);
}

bool cake_http_is_loopback(const cake_http *h) {
    return h->loopback;
}
unsigned cake_http_port(const cake_http *h) {
    return h->port;
}
const char *cake_http_host(const cake_http *h) {
    return h->host;
}
void cake_http_stats_get(const cake_http *h, cake_http_stats *out) {
    *out = h->stats;
}
const cake_http_head *cake_exchange_head(const cake_exchange *x) {
    return &x->head;
}
const struct sockaddr *cake_exchange_from(const cake_exchange *x) {
    return (const struct sockaddr *)&x->from;
}

const char *cake_exchange_body(const cake_exchange *x, size_t *len) {
    *len = x->n_body;
    return x->body;
}
void cake_exchange_set(cake_exchange *x, void *data) {
    x->data = data;
}
void *cake_exchange_get(const cake_exchange *x) {
    return x->data;
}
