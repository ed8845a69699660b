/* Importance matrices in llama.cpp's GGUF form (formats.md 5.6, container 6.1, 6.2).
 *
 *   general.type = "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size
 *   NAME.in_sum2 F32 [k, n_mat]   sums of squares
 *   NAME.counts  F32 [1, n_mat]   tokens; 0 (an expert that was never asked) gives ones
 *
 * Only what such a file holds is understood: F32 tensors, no nested arrays. Every length is checked
 * against the bytes that are left before anything is allocated for it. */
#include "common/file.h"
#include "common/mem.h"
#include "common/model/gguf_model.h"
#include "master/tools/imatrix_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { KV_MIN = 13, INFO_MIN = 25, DIMS_MAX = 4, ALIGN_DEFAULT = 32, GGML_F32 = 0 };
enum { T_U32 = 4, T_STRING = 8, T_ARRAY = 9 };
/* Bytes of a value type, 0 for string, array and unknown ones. */
static const uint8_t value_bytes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct {
    const char *name;
    uint32_t name_len, n_dims;
    uint64_t dims[DIMS_MAX];
    const uint8_t *data; /* F32 at any alignment */
    uint64_t n;          /* elements */
} gguf_tensor;

typedef struct {
    cake_imatrix_cursor c;
    uint64_t n_tensors, n_kv;
    uint32_t alignment;
    bool is_imatrix;
    gguf_tensor *tensors;
    cake_names names;
} gguf;

static cake_status cut(cake_error *err) {
    return cake_fail(err, CAKE_EFORMAT, "the GGUF header ends too early");
}

static cake_status take_string(gguf *g, const char **s, size_t *len, size_t max, cake_error *err) {
    uint64_t n;
    if (!cake_imatrix_take(&g->c, &n, sizeof n)) return cut(err);
    if (n > max || n > g->c.len - g->c.at)
        return cake_fail(err, CAKE_EFORMAT, "a string of %llu bytes is too long or not there",
                         (unsigned long long)n);
    *s = (const char *)g->c.bytes + g->c.at;
    *len = (size_t)n;
    g->c.at += (size_t)n;
    return CAKE_OK;
}

static bool is(const char *s, size_t n, const char *key) {
    return n == strlen(key) && memcmp(s, key, n) == 0;
}

static cake_status skip_value(gguf *g, uint32_t type, const char **text, size_t *text_len,
                              cake_error *err) {
    *text = NULL;
    if (type == T_STRING) return take_string(g, text, text_len, 1 << 30, err);
    uint32_t element = type;
    uint64_t n = 1;
    if (type == T_ARRAY) {
        if (!cake_imatrix_take(&g->c, &element, 4) || !cake_imatrix_take(&g->c, &n, 8))
            return cut(err);
        if (element == T_STRING) {
            if (n > (g->c.len - g->c.at) / 8) return cut(err);
            for (uint64_t i = 0; i < n; i++) {
                const char *s = NULL;
                size_t len = 0;
                cake_status st = take_string(g, &s, &len, 1 << 30, err);
                if (st != CAKE_OK) return st;
                if (!*text) *text = s, *text_len = len;
            }
            return CAKE_OK;
        }
    }
    if (element >= sizeof value_bytes || value_bytes[element] == 0)
        return cake_fail(err, CAKE_EFORMAT, "value type %u is unknown here", element);
    if (n > (g->c.len - g->c.at) / value_bytes[element]) return cut(err);
    g->c.at += (size_t)n * value_bytes[element];
    return CAKE_OK;
}

static cake_status take_kv(gguf *g, cake_imatrix *m, cake_names *keys, cake_error *err) {
    const char *key = NULL, *text;
    size_t key_len = 0, text_len = 0;
    uint32_t type, number = 0;
    cake_status st = take_string(g, &key, &key_len, 65535, err);
    if (st != CAKE_OK) return st;
    if (key_len == 0 || cake_names_add(keys, key, key_len, 0) != CAKE_NAMES_ADDED)
        return cake_fail(err, CAKE_EFORMAT, "a metadata key is empty or occurs twice");
    if (!cake_imatrix_take(&g->c, &type, 4)) return cut(err);
    size_t at = g->c.at;
    if ((st = skip_value(g, type, &text, &text_len, err)) != CAKE_OK) return st;
    if (type == T_U32) memcpy(&number, g->c.bytes + at, 4);
    if (is(key, key_len, "general.alignment")) {
        if (type != T_U32 || number < 8 || number > 1 << 20 || (number & (number - 1)))
            return cake_fail(err, CAKE_EFORMAT, "general.alignment is not a power of two");
        g->alignment = number;
    } else if (is(key, key_len, "general.type")) {
        g->is_imatrix = text && type == T_STRING && is(text, text_len, "imatrix");
    } else if (is(key, key_len, "imatrix.chunk_count")) {
        m->n_chunks = number;
    } else if (is(key, key_len, "imatrix.chunk_size")) {
        m->chunk_size = number;
    } else if (is(key, key_len, "imatrix.datasets") && text && !m->dataset) {
        m->dataset = cake_strndup(
            text, text_len < CAKE_IMATRIX_DATASET_MAX ? text_len : CAKE_IMATRIX_DATASET_MAX);
    }
    return CAKE_OK;
}

/* One tensor's description. *end: where its data ends, relative to the data section. */
static cake_status take_info(gguf *g, gguf_tensor *t, uint64_t *end, cake_error *err) {
    uint32_t type;
    uint64_t offset;
    size_t len = 0;
    cake_status st = take_string(g, &t->name, &len, CAKE_IMATRIX_NAME_MAX, err);
    if (st != CAKE_OK) return st;
    t->name_len = (uint32_t)len;
    int shown = len < 200 ? (int)len : 200;
    if (len == 0 || memchr(t->name, 0, len))
        return cake_fail(err, CAKE_EFORMAT, "a tensor has an empty name or a zero byte in it");
    if (!cake_imatrix_take(&g->c, &t->n_dims, 4)) return cut(err);
    if (t->n_dims > DIMS_MAX)
        return cake_fail(err, CAKE_EFORMAT, "tensor '%.*s' has %u dimensions", shown, t->name,
                         t->n_dims);
    t->n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (!cake_imatrix_take(&g->c, &t->dims[i], 8)) return cut(err);
        if (t->dims[i] == 0 || __builtin_mul_overflow(t->n, t->dims[i], &t->n) ||
            t->n > g->c.len / sizeof(float))
            return cake_fail(err, CAKE_EFORMAT, "tensor '%.*s' is larger than the file, or empty",
                             shown, t->name);
    }
    if (!cake_imatrix_take(&g->c, &type, 4) || !cake_imatrix_take(&g->c, &offset, 8))
        return cut(err);
    if (type != GGML_F32)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "tensor '%.*s' has GGUF type %u; an importance matrix holds F32", shown,
                         t->name, type);
    if (offset != *end)
        return cake_fail(err, CAKE_EFORMAT, "tensor '%.*s' does not follow the one before it",
                         shown, t->name);
    *end = offset + cake_round_up(t->n * sizeof(float), g->alignment);
    uint32_t before;
    if (cake_names_find(&g->names, t->name, t->name_len, &before))
        return cake_fail(err, CAKE_EFORMAT, "tensor '%.*s' occurs twice", shown, t->name);
    if (cake_names_add(&g->names, t->name, t->name_len, (uint32_t)(t - g->tensors)) !=
        CAKE_NAMES_ADDED)
        return cake_fail(err, CAKE_ENOMEM, "out of memory");
    return CAKE_OK;
}

static cake_status take_header(gguf *g, cake_imatrix *m, cake_error *err) {
    uint32_t magic, version;
    if (!cake_imatrix_take(&g->c, &magic, 4) || !cake_imatrix_take(&g->c, &version, 4) ||
        !cake_imatrix_take(&g->c, &g->n_tensors, 8) || !cake_imatrix_take(&g->c, &g->n_kv, 8))
        return cut(err);
    if (version != 2 && version != 3)
        return cake_fail(err, CAKE_EUNSUPPORTED, "GGUF version %u is not 2 or 3", version);
    if (g->n_kv > (g->c.len - g->c.at) / KV_MIN || g->n_tensors > (g->c.len - g->c.at) / INFO_MIN ||
        g->n_tensors > 3 * (uint64_t)CAKE_IMATRIX_ENTRIES_MAX)
        return cake_fail(err, CAKE_EFORMAT, "%llu keys and %llu tensors cannot be in this file",
                         (unsigned long long)g->n_kv, (unsigned long long)g->n_tensors);
    cake_status st = CAKE_OK;
    cake_names keys = {0};
    g->alignment = ALIGN_DEFAULT;
    for (uint64_t i = 0; i < g->n_kv && st == CAKE_OK; i++) st = take_kv(g, m, &keys, err);
    cake_names_deinit(&keys);
    if (st != CAKE_OK) return st;
    if (!g->is_imatrix)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "this GGUF file holds something else (general.type is not \"imatrix\")");
    g->tensors = cake_calloc((size_t)g->n_tensors, sizeof *g->tensors);
    uint64_t end = 0;
    for (uint64_t i = 0; i < g->n_tensors && st == CAKE_OK; i++)
        st = take_info(g, &g->tensors[i], &end, err);
    return st;
}

static cake_status place_data(gguf *g, cake_error *err) {
    size_t at = cake_round_up(g->c.at, g->alignment);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        gguf_tensor *t = &g->tensors[i];
        size_t bytes = (size_t)t->n * sizeof(float);
        if (at > g->c.len || bytes > g->c.len - at)
            return cake_fail(err, CAKE_EFORMAT, "the data of tensor '%.*s' is not all there",
                             t->name_len < 200 ? (int)t->name_len : 200, t->name);
        t->data = g->c.bytes + at;
        at += cake_round_up(bytes, g->alignment);
    }
    return CAKE_OK;
}

static cake_status make_entry(gguf *g, cake_imatrix *m, const gguf_tensor *sums, cake_error *err) {
    static const char counts_suffix[] = ".counts";
    char name[CAKE_IMATRIX_NAME_MAX + sizeof counts_suffix];
    size_t base = sums->name_len - strlen(".in_sum2");
    int shown = base < 200 ? (int)base : 200;
    uint32_t at;
    memcpy(name, sums->name, base);
    memcpy(name + base, counts_suffix, sizeof counts_suffix);
    if (!cake_names_find(&g->names, name, base + sizeof counts_suffix - 1, &at))
        return cake_fail(err, CAKE_EFORMAT, "'%.*s' has sums but no counts", shown, name);
    const gguf_tensor *counts = &g->tensors[at];
    uint64_t k = sums->n_dims ? sums->dims[0] : 1, n_mat = sums->n / k;
    if (base == 0 || counts->n != n_mat || k > CAKE_IMATRIX_VALUES_MAX ||
        sums->n > CAKE_IMATRIX_VALUES_MAX)
        return cake_fail(err, CAKE_EFORMAT, "'%.*s' has %llu counts for %llu matrices of %llu",
                         shown, name, (unsigned long long)counts->n, (unsigned long long)n_mat,
                         (unsigned long long)k);
    cake_imatrix_entry *e = cake_imatrix_push(m, name, base, (uint32_t)n_mat, (uint32_t)k);
    if (!e) return cake_fail(err, CAKE_ENOMEM, "out of memory");
    e->mat_counts = cake_calloc((size_t)n_mat, sizeof *e->mat_counts);
    for (uint64_t i = 0; i < n_mat; i++) {
        float count, v;
        memcpy(&count, counts->data + i * 4, 4);
        if (!(count >= 0) || count > 9e15f)
            return cake_fail(err, CAKE_EFORMAT, "'%.*s' has the count %g", shown, name,
                             (double)count);
        e->mat_counts[i] = (uint64_t)count;
        if (e->mat_counts[i] > e->count) e->count = e->mat_counts[i];
        for (uint64_t j = 0; j < k; j++) {
            memcpy(&v, sums->data + (i * k + j) * 4, 4);
            e->values[i * k + j] = count > 0 ? v / count : 1;
        }
    }
    return cake_imatrix_check_values(e, err);
}

cake_status cake_imatrix_parse_gguf(cake_imatrix *m, const uint8_t *bytes, size_t len,
                                    cake_error *err) {
    static const char suffix[] = ".in_sum2";
    gguf g = {.c = {bytes, len, 0}};
    cake_status st = take_header(&g, m, err);
    if (st == CAKE_OK) st = place_data(&g, err);
    for (uint64_t i = 0; i < g.n_tensors && st == CAKE_OK && g.tensors; i++) {
        const gguf_tensor *t = &g.tensors[i];
        size_t n = sizeof suffix - 1;
        if (t->name_len >= n && memcmp(t->name + t->name_len - n, suffix, n) == 0)
            st = make_entry(&g, m, t, err);
    }
    if (st == CAKE_OK && m->n == 0)
        st = cake_fail(err, CAKE_EFORMAT, "it holds no tensor named *.in_sum2");
    cake_names_deinit(&g.names);
    free(g.tensors);
    return st;
}

/* ---- writing ---- */

static void put_u32(cake_imatrix_bytes *b, uint32_t v) {
    cake_imatrix_put(b, &v, sizeof v);
}
static void put_u64(cake_imatrix_bytes *b, uint64_t v) {
    cake_imatrix_put(b, &v, sizeof v);
}
static void put_text(cake_imatrix_bytes *b, const char *s) {
    put_u64(b, strlen(s));
    cake_imatrix_put(b, s, strlen(s));
}
static void put_zeros(cake_imatrix_bytes *b) {
    static const uint8_t zero[ALIGN_DEFAULT];
    cake_imatrix_put(b, zero, cake_round_up(b->len, ALIGN_DEFAULT) - b->len);
}

/* A module by the name that llama.cpp looks for, other entries by their own. */
static void put_info(cake_imatrix_bytes *b, const char *own, const char *suffix, uint64_t dim0,
                     uint64_t n_mat, uint64_t *offset) {
    static const char weight[] = ".weight";
    char path[CAKE_IMATRIX_NAME_MAX + 1], blk[64 + sizeof weight];
    const char *name = own;
    size_t n = strlen(own), w = sizeof weight - 1;
    if (n > w && n - w < sizeof path && strcmp(own + n - w, weight) == 0) {
        memcpy(path, own, n - w);
        path[n - w] = 0;
        if (cake_gguf_name_of(path, blk, 64)) {
            strcat(blk, weight);
            name = blk;
        }
    }
    put_u64(b, strlen(name) + strlen(suffix));
    cake_imatrix_put(b, name, strlen(name));
    cake_imatrix_put(b, suffix, strlen(suffix));
    put_u32(b, 2);
    put_u64(b, dim0);
    put_u64(b, n_mat);
    put_u32(b, GGML_F32);
    put_u64(b, *offset);
    *offset += cake_round_up(dim0 * n_mat * sizeof(float), ALIGN_DEFAULT);
}

static float count_of(const cake_imatrix_entry *e, uint32_t mat) {
    return (float)(e->mat_counts ? e->mat_counts[mat] : e->count);
}

cake_status cake_imatrix_save_gguf(const cake_imatrix *m, const char *path, cake_error *err) {
    cake_imatrix_bytes b = {0};
    cake_imatrix_put(&b, "GGUF", 4);
    put_u32(&b, 3);
    put_u64(&b, 2 * m->n);
    put_u64(&b, 4);
    put_text(&b, "general.type");
    put_u32(&b, T_STRING);
    put_text(&b, "imatrix");
    put_text(&b, "imatrix.datasets");
    put_u32(&b, T_ARRAY);
    put_u32(&b, T_STRING);
    put_u64(&b, m->dataset ? 1 : 0);
    if (m->dataset) put_text(&b, m->dataset);
    put_text(&b, "imatrix.chunk_count");
    put_u32(&b, T_U32);
    put_u32(&b, m->n_chunks);
    put_text(&b, "imatrix.chunk_size");
    put_u32(&b, T_U32);
    put_u32(&b, m->chunk_size);
    uint64_t offset = 0;
    for (size_t i = 0; i < m->n; i++) {
        const cake_imatrix_entry *e = &m->entries[i];
        put_info(&b, e->name, ".in_sum2", e->k, e->n_mat, &offset);
        put_info(&b, e->name, ".counts", 1, e->n_mat, &offset);
    }
    for (size_t i = 0; i < m->n; i++) {
        const cake_imatrix_entry *e = &m->entries[i];
        put_zeros(&b);
        for (uint32_t j = 0; j < e->n_mat; j++)
            for (uint32_t k = 0; k < e->k; k++) {
                float v = e->values[(size_t)j * e->k + k] * count_of(e, j);
                cake_imatrix_put(&b, &v, sizeof v);
            }
        put_zeros(&b);
        for (uint32_t j = 0; j < e->n_mat; j++) {
            float v = count_of(e, j);
            cake_imatrix_put(&b, &v, sizeof v);
        }
    }
    put_zeros(&b);
    cake_status st = cake_file_write(path, b.p, b.len, 0644, err);
    free(b.p);
    return st;
}
