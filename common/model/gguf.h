/* The GGUF container, versions 2 and 3: a strict reader over mapped bytes (formats.md 6.1, 6.2).
 *
 *   header | metadata: key, type, value ... | tensor infos | padding | data
 *
 * Made for hostile bytes: counts are held against the bytes that are left before anything is
 * allocated, sizes are multiplied with checks, every tensor lies exactly where the sizes of those
 * before it put it, names and keys occur once. Values stay where they are in the file; only an
 * index of them is made. Names are GGUF's own: gguf_model.h gives those that the engine knows. */
#ifndef CAKE_COMMON_MODEL_GGUF_H
#define CAKE_COMMON_MODEL_GGUF_H

#include "common/file.h"
#include "common/model/names.h"
#include "common/model/quant.h"
#include "common/model/safetensors.h"

enum {
    CAKE_GGUF_TENSORS_MAX = 1000000,
    CAKE_GGUF_KEYS_MAX = 100000,
    CAKE_GGUF_NAME_MAX = 63, /* bytes of a tensor's name in a model */
    CAKE_GGUF_KEY_MAX = 65535,
    CAKE_GGUF_RANK_MAX = 4,
};

/* Types of values; the numbers are the container's. */
typedef enum {
    CAKE_GGUF_U8,
    CAKE_GGUF_I8,
    CAKE_GGUF_U16,
    CAKE_GGUF_I16,
    CAKE_GGUF_U32,
    CAKE_GGUF_I32,
    CAKE_GGUF_F32,
    CAKE_GGUF_BOOL,
    CAKE_GGUF_STRING,
    CAKE_GGUF_ARRAY,
    CAKE_GGUF_U64,
    CAKE_GGUF_I64,
    CAKE_GGUF_F64,
    CAKE_GGUF_TYPES
} cake_gguf_type;

/* Bytes in the file: no NUL behind them, UTF-8 only where somebody checked. */
typedef struct {
    const char *s;
    size_t n;
} cake_gguf_text;

typedef struct {
    cake_gguf_text key;
    bool is_array;
    cake_gguf_type type; /* of the value, or of an array's elements (never ARRAY) */
    uint64_t n;          /* elements; 1 for a value alone */
    const uint8_t *at;   /* the first element as stored; any alignment */
} cake_gguf_value;

/* How a tensor type is stored: plain elements (dtype) or blocks (codec). */
typedef struct {
    const char *name;        /* "Q4_K" */
    uint32_t weights, bytes; /* of one block or element; 0: known, but not supported */
    cake_dtype dtype;        /* NONE: blocks of codec */
    cake_block_codec codec;
} cake_gguf_kind;
/* NULL for an id that names no type. */
const cake_gguf_kind *cake_gguf_kind_of(uint32_t ggml_type);

typedef struct {
    const char *name; /* NUL-terminated, owned by the cake_gguf */
    const cake_gguf_kind *kind;
    uint32_t rank;                     /* 0 to 4 */
    uint64_t dims[CAKE_GGUF_RANK_MAX]; /* innermost first; unused ones are 1 */
    uint64_t offset;                   /* of the first byte, from the start of the file */
    uint64_t n_bytes;
} cake_gguf_tensor;

typedef struct {
    uint32_t version;
    uint64_t alignment, data_at;
    size_t n_values, n_tensors;
    cake_gguf_value *values;   /* order of the file */
    cake_gguf_tensor *tensors; /* ascending offset */
    const uint8_t *bytes;      /* the file, borrowed */
    char *what;                /* its name in messages */
    /* private */
    cake_map map;
    char *strings;
    cake_names keys, names;
} cake_gguf;

/* Parse a whole file of len bytes, with names of tensors of at most name_max bytes; they are
 * borrowed and must outlive g. `what` names the file. CAKE_EFORMAT (a broken rule),
 * CAKE_EUNSUPPORTED (version or tensor type), CAKE_ENOMEM. */
cake_status cake_gguf_parse(cake_gguf *g, const uint8_t *bytes, size_t len, size_t name_max,
                            const char *what, cake_error *err);
/* The same of a model's file, which stays mapped. Also CAKE_ENOTFOUND, CAKE_EIO. */
cake_status cake_gguf_open(cake_gguf *g, const char *path, cake_error *err);
void cake_gguf_deinit(cake_gguf *g);

/* The GGUF file that a model path means (caller frees): the path itself when it is one, or the only
 * one (or the first of the only split one) in a folder without safetensors files. *file is NULL,
 * with CAKE_OK, when the path means none; CAKE_EFORMAT when a folder holds several. */
cake_status cake_gguf_find_file(const char *path, char **file, cake_error *err);

/* NULL when absent. O(1). */
const cake_gguf_value *cake_gguf_get(const cake_gguf *g, const char *key);
const cake_gguf_tensor *cake_gguf_tensor_named(const cake_gguf *g, const char *name);

/* A value alone of some type. An absent key leaves *out as it was and is CAKE_OK unless `required`;
 * another type or a value out of range is CAKE_EFORMAT naming the key. Integers of any width are
 * taken; a float that is not finite is not. */
cake_status cake_gguf_uint(const cake_gguf *g, const char *key, bool required, uint64_t min,
                           uint64_t max, uint64_t *out, cake_error *err);
cake_status cake_gguf_double(const cake_gguf *g, const char *key, bool required, double *out,
                             cake_error *err);
cake_status cake_gguf_bool(const cake_gguf *g, const char *key, bool *out, cake_error *err);
/* *out lies in the file; at most max bytes without NUL. Absent: {NULL, 0}. */
cake_status cake_gguf_string(const cake_gguf *g, const char *key, bool required, size_t max,
                             cake_gguf_text *out, cake_error *err);
/* An array of that type. Absent: NULL. */
cake_status cake_gguf_array(const cake_gguf *g, const char *key, bool required, cake_gguf_type type,
                            const cake_gguf_value **out, cake_error *err);

/* Element i of an integer value, of an f32 value. */
int64_t cake_gguf_int_at(const cake_gguf_value *v, uint64_t i);
float cake_gguf_f32_at(const cake_gguf_value *v, uint64_t i);
/* The string at *at, which moves behind it: walk v->n strings from v->at. */
cake_gguf_text cake_gguf_next_string(const uint8_t **at);

#endif
