/* Hashing of stored tensors. */
#include "common/file.h"
#include "common/mem.h"
#include "worker/store/internal.h"

#include <stdlib.h>
#include <string.h>

cake_status cake_store_hash(const cake_store_bundle *b, uint32_t i, uint8_t *buf, bool *ok,
                            cake_error *err) {
    const cake_manifest_tensor *t = &b->manifest->tensors[i];
    cake_sha256_ctx *c = cake_sha256_new();
    cake_status st = CAKE_OK;
    for (uint64_t at = 0; at < t->n_bytes && st == CAKE_OK;) {
        size_t k = t->n_bytes - at < CAKE_STORE_READ ? (size_t)(t->n_bytes - at) : CAKE_STORE_READ;
        if ((st = cake_pread_all(b->data_fd, buf, k, t->offset + at, err)) == CAKE_OK)
            cake_sha256_add(c, buf, k);
        at += k;
    }
    cake_sha256 h = cake_sha256_end(c);
    if (st != CAKE_OK) return cake_fail_in(err, st, "tensor '%s' in '%s'", t->name, b->path);
    *ok = memcmp(&h, &t->sha256, sizeof h) == 0;
    return CAKE_OK;
}

typedef struct {
    const cake_store_bundle *b;
    const uint32_t *todo;
    uint8_t *buf; /* CAKE_STORE_READ per thread */
    bool *bad;
} job;

static void hash_one(void *arg, size_t chunk, unsigned thread) {
    job *j = arg;
    uint32_t i = j->todo[chunk];
    bool ok = false;
    /* A tensor that cannot be read is as damaged as one with wrong bytes. */
    cake_status st = cake_store_hash(j->b, i, j->buf + (size_t)thread * CAKE_STORE_READ, &ok, NULL);
    j->bad[i] = st != CAKE_OK || !ok;
}

typedef struct {
    uint64_t n_bytes;
    uint32_t i;
} pending;

static int larger_first(const void *a, const void *b) {
    const pending *x = a, *y = b;
    return x->n_bytes > y->n_bytes ? -1 : x->n_bytes < y->n_bytes;
}

cake_status cake_store_hash_all(const cake_store_bundle *b, const bool *skip, cake_pool *pool,
                                bool *bad, cake_error *err) {
    const cake_manifest *m = b->manifest;
    pending *order = cake_trymalloc(m->n_tensors * sizeof *order);
    uint32_t *todo = cake_trymalloc(m->n_tensors * sizeof *todo);
    uint8_t *buf = cake_trymalloc((size_t)cake_pool_threads(pool) * CAKE_STORE_READ);
    cake_status st = CAKE_OK;
    size_t n = 0;
    if (!order || !todo || !buf) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory to verify %u tensors", m->n_tensors);
        goto out;
    }
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        bad[i] = false;
        if (!skip || !skip[i]) order[n++] = (pending){m->tensors[i].n_bytes, i};
    }
    if (n) qsort(order, n, sizeof *order, larger_first);
    for (size_t k = 0; k < n; k++) todo[k] = order[k].i;
    job j = {b, todo, buf, bad};
    cake_pool_run(pool, n, hash_one, &j);
out:
    free(order);
    free(todo);
    free(buf);
    return st;
}
