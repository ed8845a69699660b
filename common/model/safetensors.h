/* The safetensors container: a strict header parser over bytes (formats.md section 1, rules
 * V1-V16).
 *
 *   u64 LE n | n bytes of JSON | data
 *
 * Tensors lie anywhere in the data, at any alignment, back to back without holes. The parser is
 * pure (no I/O) and made for hostile bytes: duplicate keys, unknown fields, odd numbers, holes,
 * overlaps and trailing bytes are errors that name the tensor. */
#ifndef CAKE_COMMON_MODEL_SAFETENSORS_H
#define CAKE_COMMON_MODEL_SAFETENSORS_H

#include "common/model/names.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_RANK_MAX = 8,
    CAKE_TENSOR_NAME_MAX = 4096,    /* bytes, without the NUL */
    CAKE_ST_TENSORS_MAX = 1000000,  /* V15 */
    CAKE_ST_HEADER_MAX = 100000000, /* V2 */
};

/* Values are ours (not on the wire); names and widths are the container's. */
typedef enum {
    CAKE_DTYPE_NONE = 0,
    CAKE_DTYPE_BOOL,
    CAKE_DTYPE_F4,
    CAKE_DTYPE_F6_E2M3,
    CAKE_DTYPE_F6_E3M2,
    CAKE_DTYPE_U8,
    CAKE_DTYPE_I8,
    CAKE_DTYPE_F8_E5M2,
    CAKE_DTYPE_F8_E4M3,
    CAKE_DTYPE_F8_E8M0,
    CAKE_DTYPE_F8_E4M3FNUZ,
    CAKE_DTYPE_F8_E5M2FNUZ,
    CAKE_DTYPE_I16,
    CAKE_DTYPE_U16,
    CAKE_DTYPE_F16,
    CAKE_DTYPE_BF16,
    CAKE_DTYPE_I32,
    CAKE_DTYPE_U32,
    CAKE_DTYPE_F32,
    CAKE_DTYPE_C64,
    CAKE_DTYPE_F64,
    CAKE_DTYPE_I64,
    CAKE_DTYPE_U64,
    CAKE_DTYPE_COUNT,
} cake_dtype;

/* "F32", "BF16"...; "?" for a value outside the enum. */
const char *cake_dtype_name(cake_dtype t);
/* CAKE_DTYPE_NONE when unknown; case-sensitive. */
cake_dtype cake_dtype_parse(const char *name, size_t len);
/* Bits of one element; 0 for NONE. */
unsigned cake_dtype_bits(cake_dtype t);
/* F16, BF16 or F32: what weights, norms and scales may be. */
bool cake_dtype_is_float(cake_dtype t);

/* product(shape) * bits / 8 without overflow; false when it overflows or is not whole bytes. */
bool cake_tensor_bytes(cake_dtype t, uint32_t rank, const uint64_t *shape, uint64_t *out);
/* "[105, 16]" into out; cut to fit. Returns out. */
char *cake_shape_text(uint32_t rank, const uint64_t *shape, char *out, size_t out_bytes);

typedef struct {
    const char *name;    /* NUL-terminated UTF-8, owned by the cake_safetensors */
    uint64_t begin, end; /* in the data; end exclusive. In the file: data_at + begin. */
    uint64_t shape[CAKE_RANK_MAX];
    uint32_t rank, name_len;
    cake_dtype dtype;
} cake_st_tensor;

typedef struct {
    uint64_t data_at; /* 8 + n: where the data begins in the file; any alignment */
    uint64_t data_bytes;
    size_t n_tensors;
    cake_st_tensor *tensors; /* ascending begin */
    /* private */
    char *strings;
    cake_names names;
} cake_safetensors;

/* Parse the header of a file of file_size bytes whose first `len` bytes are at `bytes`; all of the
 * header (8 + n bytes) must be there, the data need not be. max_header 0 means CAKE_ST_HEADER_MAX.
 * `what` names the file in messages. Fails with CAKE_EFORMAT (a broken rule), CAKE_EUNSUPPORTED
 * (unknown dtype) or CAKE_ENOMEM. Memory is bounded by a small multiple of n. Thread-safe. */
cake_status cake_safetensors_parse(cake_safetensors *st, const uint8_t *bytes, size_t len,
                                   uint64_t file_size, uint64_t max_header, const char *what,
                                   cake_error *err);
void cake_safetensors_deinit(cake_safetensors *st);

/* NULL when absent. O(1). */
const cake_st_tensor *cake_safetensors_find(const cake_safetensors *st, const char *name);

#endif
