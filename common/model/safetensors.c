/* Safetensors header parser: see safetensors.h. The numbers V1..V16 are the rules of
 * formats.md 1.4. */
#include "common/model/safetensors.h"
#include "common/mem.h"
#include "common/model/scan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint8_t bits;
} dtype_table[CAKE_DTYPE_COUNT] = {
    [CAKE_DTYPE_BOOL] = {"BOOL", 8},
    [CAKE_DTYPE_F4] = {"F4", 4},
    [CAKE_DTYPE_F6_E2M3] = {"F6_E2M3", 6},
    [CAKE_DTYPE_F6_E3M2] = {"F6_E3M2", 6},
    [CAKE_DTYPE_U8] = {"U8", 8},
    [CAKE_DTYPE_I8] = {"I8", 8},
    [CAKE_DTYPE_F8_E5M2] = {"F8_E5M2", 8},
    [CAKE_DTYPE_F8_E4M3] = {"F8_E4M3", 8},
    [CAKE_DTYPE_F8_E8M0] = {"F8_E8M0", 8},
    [CAKE_DTYPE_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [CAKE_DTYPE_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [CAKE_DTYPE_I16] = {"I16", 16},
    [CAKE_DTYPE_U16] = {"U16", 16},
    [CAKE_DTYPE_F16] = {"F16", 16},
    [CAKE_DTYPE_BF16] = {"BF16", 16},
    [CAKE_DTYPE_I32] = {"I32", 32},
    [CAKE_DTYPE_U32] = {"U32", 32},
    [CAKE_DTYPE_F32] = {"F32", 32},
    [CAKE_DTYPE_C64] = {"C64", 64},
    [CAKE_DTYPE_F64] = {"F64", 64},
    [CAKE_DTYPE_I64] = {"I64", 64},
    [CAKE_DTYPE_U64] = {"U64", 64},
};

const char *cake_dtype_name(cake_dtype t) {
    return t > CAKE_DTYPE_NONE && t < CAKE_DTYPE_COUNT ? dtype_table[t].name : "?";
}

cake_dtype cake_dtype_parse(const char *name, size_t len) {
    for (int t = 1; t < CAKE_DTYPE_COUNT; t++)
        if (strlen(dtype_table[t].name) == len && memcmp(dtype_table[t].name, name, len) == 0)
            return (cake_dtype)t;
    return CAKE_DTYPE_NONE;
}

unsigned cake_dtype_bits(cake_dtype t) {
    return t > CAKE_DTYPE_NONE && t < CAKE_DTYPE_COUNT ? dtype_table[t].bits : 0;
}

bool cake_dtype_is_float(cake_dtype t) {
    return t == CAKE_DTYPE_F16 || t == CAKE_DTYPE_BF16 || t == CAKE_DTYPE_F32;
}

bool cake_tensor_bytes(cake_dtype t, uint32_t rank, const uint64_t *shape, uint64_t *out) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < rank; i++)
        if (__builtin_mul_overflow(n, shape[i], &n)) return false;
    if (__builtin_mul_overflow(n, (uint64_t)cake_dtype_bits(t), &n) || n % 8) return false;
    *out = n / 8;
    return true;
}

char *cake_shape_text(uint32_t rank, const uint64_t *shape, char *out, size_t out_bytes) {
    size_t at = 0;
    snprintf(out, out_bytes, "[");
    for (uint32_t i = 0; i < rank; i++) {
        at = strlen(out);
        snprintf(out + at, out_bytes - at, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
    }
    at = strlen(out);
    snprintf(out + at, out_bytes - at, "]");
    return out;
}

/* Everything one parse needs. */
typedef struct {
    cake_safetensors *st;
    cake_scan c;
    const char *what;
    size_t used, n_alloc; /* bytes of st->strings, room in st->tensors */
    char *scratch;        /* decoded strings that are not kept */
    cake_error *err;
    cake_status status; /* of a failure that is not the scanner's */
} parse;

static bool fail(parse *p, cake_status st, const char *tensor, const char *msg) {
    p->status = tensor ? cake_fail(p->err, st, "%s: tensor '%.200s' %s", p->what, tensor, msg)
                       : cake_fail(p->err, st, "%s: %s", p->what, msg);
    return false;
}

/* Names go into messages and terminals. */
static bool has_control(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)s[i] < 0x20 || s[i] == 0x7F) return true;
    return false;
}

static bool metadata(parse *p) {
    if (cake_scan_null(&p->c)) return true;
    if (!cake_scan_take(&p->c, '{')) return false;
    cake_names seen = {0};
    bool first = true, ok = true;
    size_t len, at = p->used;
    while (ok && cake_scan_next(&p->c, '}', &first)) {
        /* Keys are kept only while the block is read: the space is taken back below. */
        char *key = p->st->strings + at;
        ok = cake_scan_string(&p->c, key, &len) && cake_scan_take(&p->c, ':');
        if (!ok) break;
        at += len + 1;
        cake_names_result r = cake_names_add(&seen, key, len, 0);
        if (r == CAKE_NAMES_THERE)
            ok = cake_scan_fail(&p->c, "duplicate key in __metadata__"); /* V14 */
        if (r == CAKE_NAMES_NOMEM) ok = fail(p, CAKE_ENOMEM, NULL, "out of memory");
        if (ok && cake_scan_peek(&p->c) != '"')
            ok = cake_scan_fail(&p->c, "a __metadata__ value is not a string"); /* V6 */
        if (ok) ok = cake_scan_string(&p->c, p->scratch, &len);
    }
    cake_names_deinit(&seen);
    return ok && !p->c.error;
}

static bool shape(parse *p, cake_st_tensor *t) {
    bool first = true;
    if (!cake_scan_take(&p->c, '[')) return false;
    while (cake_scan_next(&p->c, ']', &first)) {
        if (t->rank == CAKE_RANK_MAX)
            return fail(p, CAKE_EUNSUPPORTED, t->name, "has more than 8 dimensions");
        if (!cake_scan_u64(&p->c, &t->shape[t->rank++])) return false;
    }
    return !p->c.error;
}

static bool offsets(parse *p, cake_st_tensor *t) {
    return cake_scan_take(&p->c, '[') && cake_scan_u64(&p->c, &t->begin) &&
           cake_scan_take(&p->c, ',') && cake_scan_u64(&p->c, &t->end) &&
           cake_scan_take(&p->c, ']');
}

/* {"dtype":...,"shape":...,"data_offsets":...} in any order, each exactly once. */
static bool entry(parse *p, cake_st_tensor *t) {
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    unsigned seen = 0;
    bool first = true;
    size_t len;
    if (cake_scan_peek(&p->c) != '{')
        return fail(p, CAKE_EFORMAT, t->name, "is not described by an object");
    cake_scan_take(&p->c, '{');
    while (cake_scan_next(&p->c, '}', &first)) {
        if (!cake_scan_string(&p->c, p->scratch, &len) || !cake_scan_take(&p->c, ':')) return false;
        const char *k = p->scratch;
        unsigned bit = strcmp(k, "dtype") == 0          ? DTYPE
                       : strcmp(k, "shape") == 0        ? SHAPE
                       : strcmp(k, "data_offsets") == 0 ? OFFSETS
                                                        : 0u;
        if (!bit) return fail(p, CAKE_EFORMAT, t->name, "has an unknown field");
        if (seen & bit) return fail(p, CAKE_EFORMAT, t->name, "gives a field twice"); /* V14 */
        seen |= bit;
        if (bit == SHAPE) {
            if (!shape(p, t)) return false;
        } else if (bit == OFFSETS) {
            if (!offsets(p, t)) return false;
        } else {
            if (!cake_scan_string(&p->c, p->scratch, &len)) return false;
            t->dtype = cake_dtype_parse(p->scratch, len);
            if (t->dtype == CAKE_DTYPE_NONE) /* V8 */
                return fail(p, CAKE_EUNSUPPORTED, t->name, "has an unknown dtype");
        }
    }
    if (p->c.error) return false;
    if (seen != (DTYPE | SHAPE | OFFSETS))
        return fail(p, CAKE_EFORMAT, t->name, "lacks dtype, shape or data_offsets"); /* V7 */
    return true;
}

/* V9-V11: what one tensor must satisfy alone. */
static bool check_size(parse *p, const cake_st_tensor *t) {
    uint64_t n_bytes, n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return fail(p, CAKE_EFORMAT, t->name, "has more elements than 64 bits count");
    if (__builtin_mul_overflow(n, (uint64_t)cake_dtype_bits(t->dtype), &n))
        return fail(p, CAKE_EFORMAT, t->name, "has more bits than 64 bits count");
    if (n % 8) return fail(p, CAKE_EFORMAT, t->name, "does not fill whole bytes");
    n_bytes = n / 8;
    if (t->end < t->begin) return fail(p, CAKE_EFORMAT, t->name, "ends before it begins");
    if (t->end - t->begin != n_bytes)
        return fail(p, CAKE_EFORMAT, t->name,
                    "has data_offsets that do not match its shape and dtype");
    return true;
}

static bool header(parse *p) {
    cake_safetensors *st = p->st;
    bool first = true, seen_metadata = false;
    size_t len;
    if (!cake_scan_take(&p->c, '{')) return false;
    while (cake_scan_next(&p->c, '}', &first)) {
        char *name = st->strings + p->used;
        if (!cake_scan_string(&p->c, name, &len) || !cake_scan_take(&p->c, ':')) return false;
        if (strcmp(name, "__metadata__") == 0) {
            if (seen_metadata) return cake_scan_fail(&p->c, "__metadata__ given twice");
            seen_metadata = true;
            if (!metadata(p)) return false;
            continue;
        }
        if (len > CAKE_TENSOR_NAME_MAX)
            return cake_scan_fail(&p->c, "tensor name longer than 4096 bytes");
        if (has_control(name, len))
            return cake_scan_fail(&p->c, "control character in a tensor name");
        if (st->n_tensors == CAKE_ST_TENSORS_MAX)
            return fail(p, CAKE_EFORMAT, NULL, "more than 1000000 tensors");
        if (st->n_tensors == p->n_alloc) {
            size_t n = p->n_alloc ? 2 * p->n_alloc : 64;
            cake_st_tensor *more = realloc(st->tensors, n * sizeof *more);
            if (!more) return fail(p, CAKE_ENOMEM, NULL, "no memory for its tensor table");
            st->tensors = more;
            p->n_alloc = n;
        }
        p->used += len + 1;
        cake_st_tensor *t = &st->tensors[st->n_tensors++];
        *t = (cake_st_tensor){.name = name, .name_len = (uint32_t)len};
        cake_names_result r = cake_names_add(&st->names, name, len, 0);
        if (r == CAKE_NAMES_THERE) return fail(p, CAKE_EFORMAT, name, "is listed twice"); /* V14 */
        if (r == CAKE_NAMES_NOMEM)
            return fail(p, CAKE_ENOMEM, NULL, "no memory for its tensor names");
        if (!entry(p, t) || !check_size(p, t)) return false;
    }
    return cake_scan_end(&p->c);
}

static int by_place(const void *a, const void *b) {
    const cake_st_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* V12, V13: back to back from the first byte of the data to the last. */
static bool check_cover(parse *p) {
    cake_safetensors *st = p->st;
    if (st->n_tensors) qsort(st->tensors, st->n_tensors, sizeof *st->tensors, by_place);
    uint64_t at = 0;
    for (size_t i = 0; i < st->n_tensors; i++) {
        const cake_st_tensor *t = &st->tensors[i];
        if (t->begin < at) {
            p->status = cake_fail(p->err, CAKE_EFORMAT, "%s: tensors '%.200s' and '%.200s' overlap",
                                  p->what, st->tensors[i - 1].name, t->name);
            return false;
        }
        if (t->begin > at) return fail(p, CAKE_EFORMAT, t->name, "leaves a hole before it");
        at = t->end;
    }
    if (at > st->data_bytes) {
        p->status = cake_fail(
            p->err, CAKE_EFORMAT,
            "%s: truncated: tensor '%.200s' ends %llu bytes beyond the end of the file; copy or "
            "download it again",
            p->what, st->tensors[st->n_tensors - 1].name,
            (unsigned long long)(at - st->data_bytes));
        return false;
    }
    if (at < st->data_bytes) {
        p->status = cake_fail(p->err, CAKE_EFORMAT, "%s: %llu bytes follow the last tensor",
                              p->what, (unsigned long long)(st->data_bytes - at));
        return false;
    }
    return true;
}

cake_status cake_safetensors_parse(cake_safetensors *st, const uint8_t *bytes, size_t len,
                                   uint64_t file_size, uint64_t max_header, const char *what,
                                   cake_error *err) {
    *st = (cake_safetensors){0};
    if (!max_header || max_header > CAKE_ST_HEADER_MAX) max_header = CAKE_ST_HEADER_MAX;
    if (file_size < 8 || len < 8) /* V1 */
        return cake_fail(err, CAKE_EFORMAT, "%s: only %llu bytes: not a safetensors file", what,
                         (unsigned long long)file_size);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | bytes[i];
    if (n < 1 || n > max_header) /* V2 */
        return cake_fail(err, CAKE_EFORMAT,
                         "%s: header of %llu bytes, outside 1..%llu: not a safetensors file", what,
                         (unsigned long long)n, (unsigned long long)max_header);
    if (n > file_size - 8 || n > len - 8) /* V3 */
        return cake_fail(err, CAKE_EFORMAT, "%s: header of %llu bytes in a file of %llu: truncated",
                         what, (unsigned long long)n, (unsigned long long)file_size);
    st->data_at = 8 + n;
    st->data_bytes = file_size - st->data_at;
    parse p = {.st = st,
               .c = cake_scan_of(bytes + 8, (size_t)n),
               .what = what,
               .err = err,
               .status = CAKE_OK};
    /* All names together are shorter than the header; so is any one string. */
    st->strings = cake_trymalloc((size_t)n + 1);
    p.scratch = cake_trymalloc((size_t)n + 1);
    if (!st->strings || !p.scratch) {
        fail(&p, CAKE_ENOMEM, NULL, "no memory for its header");
    } else if (header(&p) && check_cover(&p)) {
        cake_names_deinit(&st->names); /* once more, now with the final order */
        for (size_t i = 0; i < st->n_tensors && p.status == CAKE_OK; i++)
            if (cake_names_add(&st->names, st->tensors[i].name, st->tensors[i].name_len,
                               (uint32_t)i) == CAKE_NAMES_NOMEM)
                fail(&p, CAKE_ENOMEM, NULL, "no memory for its tensor names");
    } else if (p.status == CAKE_OK) {
        p.status = cake_fail(err, CAKE_EFORMAT, "%s: header byte %zu: %s", what, p.c.at,
                             p.c.error ? p.c.error : "malformed");
    }
    free(p.scratch);
    if (p.status != CAKE_OK) cake_safetensors_deinit(st);
    return p.status;
}

void cake_safetensors_deinit(cake_safetensors *st) {
    free(st->tensors);
    free(st->strings);
    cake_names_deinit(&st->names);
    *st = (cake_safetensors){0};
}

const cake_st_tensor *cake_safetensors_find(const cake_safetensors *st, const char *name) {
    uint32_t i;
    return cake_names_find(&st->names, name, strlen(name), &i) ? &st->tensors[i] : NULL;
}
