/* What clients send: heads of requests, chunk sizes, JSON bodies of every route. The first byte
 * chooses. Whatever the bytes, no crash; what is refused is a 4xx with a
 * reason, what is accepted is within its limits. */
#include "common/mem.h"
#include "master/server/http_head.h"
#include "master/server/request.h"

#include <stdlib.h>
#include <string.h>

static void head(const uint8_t *data, size_t n) {
    static char text[CAKE_HTTP_HEAD_MAX + 2];
    cake_http_head h;
    if (n > sizeof text) n = sizeof text;
    memcpy(text, data, n);
    int rc = cake_http_head_parse(text, n, &h);
    if (rc != 0) {
        if (rc < 400 || rc > 499) abort();
        return;
    }
    if (!h.method || h.path[0] != '/' || !h.query || h.n_fields > CAKE_HTTP_FIELDS_MAX ||
        (h.chunked && h.content_length))
        abort();
    for (size_t i = 0; i < h.n_fields; i++)
        if (strpbrk(h.field[i].value, "\r\n") || !*h.field[i].name) abort();
    cake_http_chunk_size((const char *)data, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0) return 0;
    unsigned kind = data[0] % 9u;
    data++, n--;
    if (kind == 5) {
        head(data, n);
        return 0;
    }
    static const cake_api_kind kinds[] = {
        CAKE_API_CHAT,       CAKE_API_COMPLETION, CAKE_API_TOKENIZE,
        CAKE_API_DETOKENIZE, CAKE_API_TEMPLATE,   CAKE_API_CHAT, /* 5: heads */
        CAKE_API_MESSAGES,   CAKE_API_COUNT,      CAKE_API_RESPONSES};
    cake_sampler_params p;
    cake_sampler_params_default(&p);
    cake_api_request r;
    cake_api_error e;
    /* The server's bodies end in a NUL behind their length. */
    char *body = cake_malloc(n + 1);
    memcpy(body, data, n);
    body[n] = 0;
    if (!cake_api_parse(&r, kinds[kind], body, n, &p, &e)) {
        if (e.http < 400 || e.http > 499 || !e.type || !e.message[0]) abort();
    } else {
        if (r.n_stop > CAKE_API_STOP_MAX || r.n < 1 || r.n > CAKE_API_N_MAX || r.n_prompts < 1 ||
            r.n_prompts > CAKE_API_PROMPTS_MAX ||
            cake_sampler_params_check(&r.sampler, 0, NULL) != CAKE_OK)
            abort();
        cake_api_request_deinit(&r);
    }
    free(body);
    return 0;
}
