/* What servers send to the chat: an HTTP reply in pieces, its body as server-sent events, their
 * text with thinking in it. Whatever the bytes and wherever they are cut: no crash, and the pieces
 * say the same as the whole. */
#include "common/mem.h"
#include "master/chat/http_reader.h"
#include "master/chat/sse.h"
#include "master/chat/think.h"

#include <stdlib.h>
#include <string.h>

/* A sum over everything that came out, in order. */
typedef struct {
    cake_sse sse;
    cake_think think;
    uint64_t sum, n;
    cake_status failed;
} sink;

static void note(sink *s, const char *text, size_t len, unsigned kind) {
    for (size_t i = 0; i < len; i++)
        s->sum = (s->sum ^ ((unsigned char)text[i] + kind * 256u)) * 0x100000001b3u;
    s->n += len;
}

static void on_text(void *arg, const char *text, size_t len, bool thinking) {
    note(arg, text, len, thinking ? 2 : 1);
}

static bool on_event(void *arg, const char *data, size_t len) {
    sink *s = arg;
    if (data[len] != 0) abort();
    note(s, "|", 1, 3);
    cake_think_feed(&s->think, data, len, on_text, s);
    return true;
}

static bool on_body(void *arg, const char *data, size_t len) {
    sink *s = arg;
    if (len == 0) abort();
    s->failed = cake_sse_feed(&s->sse, data, len, on_event, s, NULL);
    return s->failed == CAKE_OK;
}

static uint64_t decode(const uint8_t *data, size_t n, size_t step, bool *fine) {
    cake_http_reader *r = cake_malloc(sizeof *r);
    cake_http_reader_init(r);
    sink s = {.sum = 0xcbf29ce484222325u};
    cake_error err = {0};
    cake_status st = CAKE_OK;
    for (size_t at = 0; st == CAKE_OK && at < n; at += step) {
        size_t len = n - at < step ? n - at : step;
        char *copy = cake_malloc(len); /* its end is the end of the heap block */
        memcpy(copy, data + at, len);
        st = cake_http_reader_feed(r, copy, len, on_body, &s, &err);
        free(copy);
    }
    if (st == CAKE_OK) st = cake_http_reader_end(r, &err);
    if (st != CAKE_OK && !err.msg[0]) abort();
    if (st == CAKE_OK && (!r->over || r->status < 200)) abort();
    cake_think_end(&s.think, on_text, &s);
    if (s.n > 2 * n) abort();
    *fine = st == CAKE_OK;
    cake_sse_deinit(&s.sse);
    free(r);
    return s.sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    bool whole, bytes, some;
    uint64_t a = decode(data, n, n ? n : 1, &whole), b = decode(data, n, 1, &bytes),
             c = decode(data, n, 7, &some);
    if (whole != bytes || whole != some || a != b || a != c) abort();
    return 0;
}
