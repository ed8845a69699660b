/* Shared by the two forms of importance matrix files; nobody else includes this. */
#ifndef CAKE_MASTER_TOOLS_IMATRIX_IMPL_H
#define CAKE_MASTER_TOOLS_IMATRIX_IMPL_H

#include "master/tools/imatrix.h"

#include <stdbool.h>

typedef struct {
    uint8_t *p; /* free() */
    size_t len, cap;
} cake_imatrix_bytes;
void cake_imatrix_put(cake_imatrix_bytes *b, const void *p, size_t n);

/* As cake_imatrix_add, but sizes may come from a file: NULL when memory is out. */
cake_imatrix_entry *cake_imatrix_push(cake_imatrix *m, const char *name, size_t name_len,
                                      uint32_t n_mat, uint32_t k);
cake_status cake_imatrix_check_values(const cake_imatrix_entry *e, cake_error *err);
cake_status cake_imatrix_parse_gguf(cake_imatrix *m, const uint8_t *bytes, size_t len,
                                    cake_error *err);

#endif
