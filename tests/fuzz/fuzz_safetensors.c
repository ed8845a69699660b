/* Any bytes as a safetensors file. What is accepted must satisfy the container's rules. */
#include "common/model/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cake_safetensors st;
    cake_error err = {0};
    if (cake_safetensors_parse(&st, data, size, size, 0, "input", &err) != CAKE_OK) {
        if (!err.msg[0]) abort();
        return 0;
    }
    uint64_t at = 0;
    for (size_t i = 0; i < st.n_tensors; i++) {
        const cake_st_tensor *t = &st.tensors[i];
        uint64_t n = 0;
        if (t->begin != at || t->end < t->begin || strlen(t->name) != t->name_len) abort();
        if (!cake_tensor_bytes(t->dtype, t->rank, t->shape, &n) || n != t->end - t->begin) abort();
        if (cake_safetensors_find(&st, t->name) != t) abort();
        at = t->end;
    }
    if (st.data_at + at != size) abort();
    cake_safetensors_deinit(&st);
    return 0;
}
