/* Importance matrices in llama.cpp's GGUF form (formats.md 5.6, container 6.1, 6.2).
 *
 *   general.type = "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size
 *   NAME.in_sum2 F32 [k, n_mat]   sums of squares
 *   NAME.counts  F32 [1, n_mat]   tokens; 0 (an expert that was never asked) gives ones */
#include "common/file.h"
#include "common/mem.h"
#include "common/model/gguf_model.h"
#include "master/tools/imatrix_impl.h"

#include <stdlib.h>
#include <string.h>

#define SUMS   ".in_sum2"
#define COUNTS ".counts"

enum { ALIGN_DEFAULT = 32, GGML_F32 = 0 };

/* ---- reading ---- */

static cake_status take_metadata(cake_imatrix *m, const cake_gguf *g, cake_error *err) {
    cake_gguf_text type;
    uint64_t n_chunks = 0, chunk_size = 0;
    cake_status st = cake_gguf_string(g, "general.type", false, 64, &type, err);
    if (st == CAKE_OK && (type.n != 7 || memcmp(type.s, "imatrix", 7) != 0))
        st = cake_fail(err, CAKE_EUNSUPPORTED,
                       "this GGUF file holds something else (general.type is not \"imatrix\")");
    if (st == CAKE_OK)
        st = cake_gguf_uint(g, "imatrix.chunk_count", false, 0, UINT32_MAX, &n_chunks, err);
    if (st == CAKE_OK)
        st = cake_gguf_uint(g, "imatrix.chunk_size", false, 0, UINT32_MAX, &chunk_size, err);
    m->n_chunks = (uint32_t)n_chunks;
    m->chunk_size = (uint32_t)chunk_size;
    const cake_gguf_value *v = cake_gguf_get(g, "imatrix.datasets");
    if (v && v->type == CAKE_GGUF_STRING && v->n) {
        const uint8_t *at = v->at;
        cake_gguf_text t = cake_gguf_next_string(&at);
        m->dataset =
            cake_strndup(t.s, t.n < CAKE_IMATRIX_DATASET_MAX ? t.n : CAKE_IMATRIX_DATASET_MAX);
    }
    return st;
}

/* Element i of an F32 tensor, which may lie anywhere. */
static float f32_at(const cake_gguf *g, const cake_gguf_tensor *t, uint64_t i) {
    float v;
    memcpy(&v, g->bytes + t->offset + i * sizeof v, sizeof v);
    return v;
}

static cake_status make_entry(cake_imatrix *m, const cake_gguf *g, const cake_gguf_tensor *sums,
                              cake_error *err) {
    char name[CAKE_IMATRIX_NAME_MAX + sizeof SUMS];
    size_t base = strlen(sums->name) - strlen(SUMS);
    int shown = base < 200 ? (int)base : 200;
    memcpy(name, sums->name, base);
    memcpy(name + base, COUNTS, sizeof COUNTS);
    const cake_gguf_tensor *counts = cake_gguf_tensor_named(g, name);
    if (!counts) return cake_fail(err, CAKE_EFORMAT, "'%.*s' has sums but no counts", shown, name);
    uint64_t k = sums->dims[0], n = sums->n_bytes / sizeof(float), n_mat = n / k;
    uint64_t n_counts = counts->n_bytes / sizeof(float);
    if (base == 0 || n_counts != n_mat || n > CAKE_IMATRIX_VALUES_MAX)
        return cake_fail(err, CAKE_EFORMAT, "'%.*s' has %llu counts for %llu matrices of %llu",
                         shown, name, (unsigned long long)n_counts, (unsigned long long)n_mat,
                         (unsigned long long)k);
    cake_imatrix_entry *e = cake_imatrix_push(m, name, base, (uint32_t)n_mat, (uint32_t)k);
    if (!e) return cake_fail(err, CAKE_ENOMEM, "out of memory");
    e->mat_counts = cake_calloc((size_t)n_mat, sizeof *e->mat_counts);
    for (uint64_t i = 0; i < n_mat; i++) {
        float count = f32_at(g, counts, i);
        if (!(count >= 0) || count > 9e15f)
            return cake_fail(err, CAKE_EFORMAT, "'%.*s' has the count %g", shown, name,
                             (double)count);
        e->mat_counts[i] = (uint64_t)count;
        if (e->mat_counts[i] > e->count) e->count = e->mat_counts[i];
        for (uint64_t j = i * k; j < (i + 1) * k; j++)
            e->values[j] = count > 0 ? f32_at(g, sums, j) / count : 1;
    }
    return cake_imatrix_check_values(e, err);
}

static cake_status take_tensor(cake_imatrix *m, const cake_gguf *g, const cake_gguf_tensor *t,
                               cake_error *err) {
    if (t->kind->dtype != CAKE_DTYPE_F32)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "tensor '%.200s' is stored as %s; an importance matrix holds F32", t->name,
                         t->kind->name);
    size_t n = strlen(t->name), k = strlen(SUMS);
    return n >= k && strcmp(t->name + n - k, SUMS) == 0 ? make_entry(m, g, t, err) : CAKE_OK;
}

cake_status cake_imatrix_parse_gguf(cake_imatrix *m, const uint8_t *bytes, size_t len,
                                    cake_error *err) {
    cake_gguf g;
    cake_status st =
        cake_gguf_parse(&g, bytes, len, CAKE_IMATRIX_NAME_MAX + strlen(SUMS), "GGUF", err);
    if (st == CAKE_OK) st = take_metadata(m, &g, err);
    for (size_t i = 0; i < g.n_tensors && st == CAKE_OK; i++)
        st = take_tensor(m, &g, &g.tensors[i], err);
    if (st == CAKE_OK && m->n == 0)
        st = cake_fail(err, CAKE_EFORMAT, "it holds no tensor named *" SUMS);
    cake_gguf_deinit(&g);
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
    put_u32(&b, CAKE_GGUF_STRING);
    put_text(&b, "imatrix");
    put_text(&b, "imatrix.datasets");
    put_u32(&b, CAKE_GGUF_ARRAY);
    put_u32(&b, CAKE_GGUF_STRING);
    put_u64(&b, m->dataset ? 1 : 0);
    if (m->dataset) put_text(&b, m->dataset);
    put_text(&b, "imatrix.chunk_count");
    put_u32(&b, CAKE_GGUF_U32);
    put_u32(&b, m->n_chunks);
    put_text(&b, "imatrix.chunk_size");
    put_u32(&b, CAKE_GGUF_U32);
    put_u32(&b, m->chunk_size);
    uint64_t offset = 0;
    for (size_t i = 0; i < m->n; i++) {
        const cake_imatrix_entry *e = &m->entries[i];
        put_info(&b, e->name, SUMS, e->k, e->n_mat, &offset);
        put_info(&b, e->name, COUNTS, 1, e->n_mat, &offset);
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
