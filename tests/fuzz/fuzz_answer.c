/* Answers of models, whatever they write: the first byte chooses form and options, the second how
 * the text is cut. The parts do not depend on the cuts, and hold no more than the text did. */
#include "common/mem.h"
#include "master/chat/answer.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    char *v;
    size_t n, cap, calls;
} out;

static void on_part(void *arg, cake_part_kind kind, const char *s, size_t len) {
    out *o = arg;
    if (len == 0) abort();
    if (kind == CAKE_PART_CALL && ++o->calls && len > CAKE_TOOL_NAME_MAX) abort();
    if (kind == CAKE_PART_ARGUMENTS && o->calls == 0) abort();
    if (o->n + len + 2 > o->cap) o->v = cake_realloc(o->v, o->cap = 2 * (o->n + len + 2));
    /* Neighbours of a kind count as one. */
    if (o->n == 0 || o->v[0] != (char)('0' + kind) || kind == CAKE_PART_CALL)
        o->v[o->n++] = (char)('0' + kind);
    memcpy(o->v + o->n, s, len);
    o->n += len;
    o->v[0] = (char)('0' + kind);
}

static void run(const cake_answer_config *c, const char *s, size_t n, size_t step, out *o) {
    cake_answer *a = cake_answer_new(c, on_part, o);
    for (size_t i = 0; i < n; i += step) cake_answer_push(a, s + i, n - i < step ? n - i : step);
    cake_answer_end(a);
    if (cake_answer_n_calls(a) != o->calls) abort();
    cake_answer_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const tools[] = {"f", "get_weather"};
    if (n < 2) return 0;
    cake_answer_config c = {.thinks = true,
                            .thinking = (data[0] & 8) != 0,
                            .format = (cake_tool_format)(data[0] % 5),
                            .one_call = (data[0] & 16) != 0,
                            .tools = tools,
                            .n_tools = 2};
    out whole = {0}, cut = {0};
    run(&c, (const char *)data + 2, n - 2, n, &whole);
    run(&c, (const char *)data + 2, n - 2, 1u + data[1] % 16u, &cut);
    if (whole.calls != cut.calls || whole.n != cut.n ||
        (whole.n && memcmp(whole.v, cut.v, whole.n) != 0))
        abort();
    free(whole.v);
    free(cut.v);
    return 0;
}
