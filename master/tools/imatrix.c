/* Importance matrices in memory, and the .dat form: see imatrix.h. The GGUF form is in
 * imatrix_gguf.c. */
#include "master/tools/imatrix.h"
#include "common/file.h"
#include "common/mem.h"
#include "common/model/gguf_model.h"
#include "master/tools/imatrix_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

void cake_imatrix_deinit(cake_imatrix *m) {
    for (size_t i = 0; i < m->n; i++) {
        free(m->entries[i].name);
        free(m->entries[i].values);
        free(m->entries[i].mat_counts);
    }
    free(m->entries);
    free(m->dataset);
    cake_names_deinit(&m->names);
    *m = (cake_imatrix){0};
}

cake_imatrix_entry *cake_imatrix_push(cake_imatrix *m, const char *name, size_t name_len,
                                      uint32_t n_mat, uint32_t k) {
    if ((m->n & (m->n - 1)) == 0) /* full at every power of two */
        m->entries = cake_realloc(m->entries, (m->n ? 2 * m->n : 1) * sizeof *m->entries);
    size_t bytes;
    float *values = NULL;
    if (cake_mul_size(n_mat, k, &bytes) && cake_mul_size(bytes, sizeof *values, &bytes))
        values = cake_trymalloc(bytes ? bytes : 1);
    if (!values) return NULL;
    memset(values, 0, bytes);
    cake_imatrix_entry *e = &m->entries[m->n++];
    *e = (cake_imatrix_entry){cake_strndup(name, name_len), n_mat, k, values, 0, NULL};
    return e;
}

cake_imatrix_entry *cake_imatrix_add(cake_imatrix *m, const char *name, uint32_t n_mat,
                                     uint32_t k) {
    cake_imatrix_entry *e = cake_imatrix_push(m, name, strlen(name), n_mat, k);
    cake_assert(e);
    return e;
}

cake_status cake_imatrix_index(cake_imatrix *m, cake_error *err) {
    cake_names_deinit(&m->names);
    m->names = (cake_names){0};
    for (size_t i = 0; i < m->n; i++) {
        const char *name = m->entries[i].name;
        switch (cake_names_add(&m->names, name, strlen(name), (uint32_t)i)) {
        case CAKE_NAMES_ADDED: break;
        case CAKE_NAMES_THERE:
            return cake_fail(err, CAKE_EFORMAT, "entry '%.200s' occurs twice", name);
        case CAKE_NAMES_NOMEM: return cake_fail(err, CAKE_ENOMEM, "out of memory");
        }
    }
    return CAKE_OK;
}

/* ---- looking up ---- */

static const cake_imatrix_entry *named(const cake_imatrix *m, const char *path) {
    char name[CAKE_IMATRIX_NAME_MAX + 8];
    uint32_t i;
    size_t n = strlen(path);
    if (n > CAKE_IMATRIX_NAME_MAX) return NULL;
    memcpy(name, path, n);
    memcpy(name + n, ".weight", 8);
    return cake_names_find(&m->names, name, n + 7, &i) || cake_names_find(&m->names, name, n, &i)
               ? &m->entries[i]
               : NULL;
}

const cake_imatrix_entry *cake_imatrix_find(const cake_imatrix *m, const char *path) {
    char gguf[64];
    const cake_imatrix_entry *e = named(m, path);
    return e || !cake_gguf_name_of(path, gguf, sizeof gguf) ? e : named(m, gguf);
}

const float *cake_imatrix_values(const cake_imatrix_entry *e, uint32_t n_mat, uint32_t k,
                                 uint32_t mat) {
    uint64_t have = (uint64_t)e->n_mat * e->k;
    if (e->n_mat > 1 && e->k != k) return NULL;
    if (have == (uint64_t)n_mat * k) return e->values + (size_t)mat * k;
    return have == k ? e->values : NULL;
}

/* ---- .dat ---- */

/* Little-endian hosts only, as the rest of the project: numbers are copied. */
typedef struct {
    const uint8_t *bytes;
    size_t len, at; /* at <= len */
} cursor;

/* The next n bytes into out; false, taking nothing, when they are not there. */
static bool take(cursor *c, void *out, size_t n) {
    if (c->len - c->at < n) return false;
    memcpy(out, c->bytes + c->at, n);
    c->at += n;
    return true;
}

static bool take_i32(cursor *c, int32_t *out) {
    uint32_t v;
    if (!take(c, &v, sizeof v)) return false;
    *out = (int32_t)v; /* two's complement, as stored */
    return true;
}

cake_status cake_imatrix_check_values(const cake_imatrix_entry *e, cake_error *err) {
    size_t n = (size_t)e->n_mat * e->k;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(e->values[i]) || e->values[i] < 0)
            return cake_fail(err, CAKE_EFORMAT,
                             "entry '%.200s' has the value %g at %zu; means of squares are finite "
                             "and not negative",
                             e->name, (double)e->values[i], i);
    return CAKE_OK;
}

static cake_status dat_entry(cake_imatrix *m, cursor *c, int32_t number, cake_error *err) {
    int32_t name_len, count, n_values;
    if (!take_i32(c, &name_len))
        return cake_fail(err, CAKE_EFORMAT, "it ends before entry %d", number);
    if (name_len < 1 || name_len > CAKE_IMATRIX_NAME_MAX || (size_t)name_len > c->len - c->at)
        return cake_fail(err, CAKE_EFORMAT,
                         "entry %d says that its name has %d bytes (1 to %d, and within the file)",
                         number, name_len, CAKE_IMATRIX_NAME_MAX);
    const char *name = (const char *)c->bytes + c->at;
    c->at += (size_t)name_len;
    if (memchr(name, 0, (size_t)name_len))
        return cake_fail(err, CAKE_EFORMAT, "the name of entry %d has a zero byte", number);
    if (!take_i32(c, &count) || !take_i32(c, &n_values))
        return cake_fail(err, CAKE_EFORMAT, "it ends inside entry %d ('%.*s')", number,
                         name_len < 200 ? name_len : 200, name);
    if (count < 0 || n_values < 1 || n_values > CAKE_IMATRIX_VALUES_MAX ||
        (size_t)n_values > (c->len - c->at) / sizeof(float))
        return cake_fail(err, CAKE_EFORMAT,
                         "entry %d ('%.*s') says %d tokens and %d values; that cannot be in this "
                         "file",
                         number, name_len < 200 ? name_len : 200, name, count, n_values);
    cake_imatrix_entry *e = cake_imatrix_push(m, name, (size_t)name_len, 1, (uint32_t)n_values);
    if (!e) return cake_fail(err, CAKE_ENOMEM, "out of memory");
    take(c, e->values, (size_t)n_values * sizeof(float));
    e->count = (uint64_t)count;
    return cake_imatrix_check_values(e, err);
}

/* llama.cpp stores mean * count and says so by its trailer: the last chunk and the text's name. */
static cake_status dat_trailer(cake_imatrix *m, cursor *c, cake_error *err) {
    int32_t chunk, len;
    if (c->at == c->len) return CAKE_OK;
    if (!take_i32(c, &chunk) || !take_i32(c, &len) || chunk < 0 || len < 0 ||
        (size_t)len != c->len - c->at || len > CAKE_IMATRIX_DATASET_MAX)
        return cake_fail(err, CAKE_EFORMAT,
                         "there are bytes after the last entry that are not llama.cpp's chunk "
                         "number and data set name");
    m->n_chunks = (uint32_t)chunk;
    m->dataset = cake_strndup((const char *)c->bytes + c->at, (size_t)len);
    for (size_t i = 0; i < m->n; i++) {
        cake_imatrix_entry *e = &m->entries[i];
        for (uint32_t j = 0; e->count > 1 && j < e->k; j++) e->values[j] /= (float)e->count;
    }
    return CAKE_OK;
}

static cake_status dat_parse(cake_imatrix *m, const uint8_t *bytes, size_t len, cake_error *err) {
    cursor c = {bytes, len, 0};
    int32_t n;
    if (!take_i32(&c, &n))
        return cake_fail(err, CAKE_EFORMAT, "%zu bytes are too short for an importance matrix",
                         len);
    /* An entry takes 12 bytes, one of its name and one value at least. */
    if (n < 1 || n > CAKE_IMATRIX_ENTRIES_MAX || (size_t)n > (len - c.at) / 17)
        return cake_fail(err, CAKE_EFORMAT,
                         "it is neither GGUF nor a .dat file: %d entries cannot be in %zu bytes", n,
                         len);
    cake_status st = CAKE_OK;
    for (int32_t i = 0; i < n && st == CAKE_OK; i++) st = dat_entry(m, &c, i, err);
    return st == CAKE_OK ? dat_trailer(m, &c, err) : st;
}

cake_status cake_imatrix_parse(cake_imatrix *m, const uint8_t *bytes, size_t len, const char *what,
                               cake_error *err) {
    cake_imatrix r = {0};
    cake_status st = len >= 4 && memcmp(bytes, "GGUF", 4) == 0
                         ? cake_imatrix_parse_gguf(&r, bytes, len, err)
                         : dat_parse(&r, bytes, len, err);
    if (st == CAKE_OK) st = cake_imatrix_index(&r, err);
    if (st == CAKE_OK) {
        *m = r;
        return CAKE_OK;
    }
    cake_imatrix_deinit(&r);
    return cake_fail_in(err, st, "importance matrix '%.300s'", what);
}

cake_status cake_imatrix_load(cake_imatrix *m, const char *path, cake_error *err) {
    char *data;
    size_t len;
    cake_status st = cake_file_read(path, CAKE_IMATRIX_FILE_MAX, &data, &len, err);
    if (st != CAKE_OK) return st;
    st = cake_imatrix_parse(m, (const uint8_t *)data, len, path, err);
    free(data);
    return st;
}

/* ---- writing ---- */

void cake_imatrix_put(cake_imatrix_bytes *b, const void *p, size_t n) {
    if (b->cap - b->len < n) {
        b->cap = 2 * b->cap + n + 4096;
        b->p = cake_realloc(b->p, b->cap);
    }
    if (n) memcpy(b->p + b->len, p, n);
    b->len += n;
}

static void put_i32(cake_imatrix_bytes *b, uint64_t v) {
    int32_t x = v > INT32_MAX ? INT32_MAX : (int32_t)v;
    cake_imatrix_put(b, &x, sizeof x);
}

cake_status cake_imatrix_save_dat(const cake_imatrix *m, const char *path, cake_error *err) {
    cake_imatrix_bytes b = {0};
    put_i32(&b, m->n);
    for (size_t i = 0; i < m->n; i++) {
        const cake_imatrix_entry *e = &m->entries[i];
        size_t n = (size_t)e->n_mat * e->k;
        put_i32(&b, strlen(e->name));
        cake_imatrix_put(&b, e->name, strlen(e->name));
        put_i32(&b, e->count);
        put_i32(&b, n);
        cake_imatrix_put(&b, e->values, n * sizeof *e->values);
    }
    cake_status st = cake_file_write(path, b.p, b.len, 0644, err);
    free(b.p);
    return st;
}

cake_status cake_imatrix_save(const cake_imatrix *m, const char *path, cake_error *err) {
    const char *name = strrchr(path, '/');
    return strstr(name ? name : path, ".gguf") ? cake_imatrix_save_gguf(m, path, err)
                                               : cake_imatrix_save_dat(m, path, err);
}
