/* Any bytes as a GGUF file: the container, the model made of it, its config and its tokenizer. What
 * is accepted lies inside the file. */
#include "common/model/config.h"
#include "common/model/gguf_model.h"
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok) abort();
}

static void walk(const cake_gguf *g, const uint8_t *end) {
    for (size_t i = 0; i < g->n_values; i++) {
        const cake_gguf_value *v = &g->values[i];
        const uint8_t *at = v->at;
        for (uint64_t k = 0; v->type == CAKE_GGUF_STRING && k < v->n; k++) {
            cake_gguf_text t = cake_gguf_next_string(&at);
            must((const uint8_t *)t.s + t.n <= end);
        }
    }
    for (size_t i = 0; i < g->n_tensors; i++)
        must(g->tensors[i].offset <= (size_t)(end - g->bytes) &&
             g->tensors[i].n_bytes <= (size_t)(end - g->bytes) - g->tensors[i].offset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cake_gguf g;
    cake_gguf_model m;
    cake_error err = {0};
    if (cake_gguf_parse(&g, data, size, CAKE_GGUF_NAME_MAX, "input", &err) != CAKE_OK) {
        must(err.msg[0]);
        return 0;
    }
    walk(&g, data + size);
    if (cake_gguf_model_new(&m, &g, 1, &err) == CAKE_OK) {
        cake_model_config c;
        for (uint32_t i = 0; i < m.n_tensors; i++) {
            const cake_tensor *t = &m.tensors[i];
            must(t->rank <= CAKE_RANK_MAX && strlen(t->name) < 128);
            for (uint64_t at = 0, k, from; at < t->n_bytes; at += k) {
                k = cake_tensor_extent(t, at, &from);
                must(k > 0 && k <= t->n_bytes - at && from <= size && k <= size - from);
            }
        }
        must(strlen(m.config) == m.config_len);
        if (cake_config_parse(&c, m.config, m.config_len, "config", &err) == CAKE_OK)
            cake_config_deinit(&c);
        cake_gguf_model_deinit(&m);
    } else {
        must(err.msg[0]);
    }
    cake_tokenizer *t = tok_new();
    if (tok_load_gguf(t, &g, &err) == CAKE_OK) {
        cake_ids ids = {0};
        static const char text[] = "a b\n1234 <s> \xC3\xA9";
        if (cake_tokenizer_encode(t, text, sizeof text - 1, 3, &ids, &err) == CAKE_OK) {
            char *out;
            size_t n;
            if (cake_tokenizer_decode(t, ids.v, ids.n, false, &out, &n, &err) == CAKE_OK) free(out);
        }
        cake_ids_deinit(&ids);
    }
    cake_tokenizer_free(t);
    cake_gguf_deinit(&g);
    return 0;
}
