/* Any bytes as a bundle manifest. What is accepted is canonical and describes a valid safetensors
 * file. */
#include "common/model/bundle.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cake_manifest *m = NULL;
    cake_error err = {0};
    if (cake_manifest_parse(&m, (const char *)data, size, &err) != CAKE_OK) {
        if (!err.msg[0]) abort();
        return 0;
    }
    cake_safetensors st;
    if (m->json_len != size || memcmp(m->json, data, size) != 0) abort();
    if (cake_safetensors_parse(&st, m->prefix, m->prefix_len, m->size, 0, "prefix", &err) !=
        CAKE_OK)
        abort();
    if (st.n_tensors != m->n_tensors || st.data_at != m->prefix_len) abort();
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const cake_st_tensor *t = cake_safetensors_find(&st, m->tensors[i].name);
        if (!t || st.data_at + t->begin != m->tensors[i].offset ||
            t->end - t->begin != m->tensors[i].n_bytes)
            abort();
    }
    cake_safetensors_deinit(&st);
    cake_manifest_free(m);
    return 0;
}
