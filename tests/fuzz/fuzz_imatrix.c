/* Any bytes as an importance matrix, both forms. What is accepted keeps its promises. */
#include "master/tools/imatrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cake_imatrix m;
    cake_error err = {0};
    if (cake_imatrix_parse(&m, data, size, "input", &err) != CAKE_OK) {
        if (!err.msg[0]) abort();
        return 0;
    }
    if (m.n == 0) abort();
    for (size_t i = 0; i < m.n; i++) {
        const cake_imatrix_entry *e = &m.entries[i];
        size_t n = (size_t)e->n_mat * e->k;
        if (n == 0 || n > size) abort();
        for (size_t j = 0; j < n; j++)
            if (!isfinite(e->values[j]) || e->values[j] < 0) abort();
        if (!cake_imatrix_find(&m, e->name)) abort();
        if (cake_imatrix_values(e, e->n_mat, e->k, e->n_mat - 1) !=
            e->values + (size_t)(e->n_mat - 1) * e->k)
            abort();
    }
    cake_imatrix_deinit(&m);
    return 0;
}
