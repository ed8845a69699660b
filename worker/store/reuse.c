/* Taking over tensors that other bundles of the store already hold. */
#include "common/file.h"
#include "common/mem.h"
#include "common/model/names.h"
#include "worker/store/internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A bundle on disk seen as a source: its manifest, its file, what of it is there. */
typedef struct {
    cake_manifest *m;
    int fd;
    cake_extents have;
    cake_names by_hash; /* 32 raw bytes -> tensor */
} source;

static void source_close(source *s) {
    cake_manifest_free(s->m);
    if (s->fd >= 0) close(s->fd);
    cake_extents_deinit(&s->have);
    cake_names_deinit(&s->by_hash);
}

static bool source_open(source *s, const char *path, bool part) {
    char *manifest = cake_path_join(path, "manifest.json"),
         *data = cake_path_join(path, "model.safetensors"),
         *journal = cake_path_join(path, "journal"), *text = NULL;
    size_t len;
    *s = (source){.fd = -1};
    bool ok = cake_file_read(manifest, CAKE_MANIFEST_MAX, &text, &len, NULL) == CAKE_OK &&
              cake_manifest_parse(&s->m, text, len, NULL) == CAKE_OK &&
              (s->fd = open(data, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)) >= 0;
    if (ok && part) cake_journal_load(journal, cake_store_seed(s->m), s->m->size, &s->have);
    if (ok && !part) ok = cake_extents_add(&s->have, 0, s->m->size);
    for (uint32_t i = 0; ok && i < s->m->n_tensors; i++)
        ok = cake_names_add(&s->by_hash, (const char *)s->m->tensors[i].sha256.bytes,
                            CAKE_SHA256_LEN, i) != CAKE_NAMES_NOMEM;
    if (!ok) source_close(s);
    free(text);
    free(manifest);
    free(data);
    free(journal);
    return ok;
}

/* The tensor of s with the content of t, or NULL. */
static const cake_manifest_tensor *same(const source *s, const cake_manifest_tensor *t) {
    uint32_t i;
    if (!cake_names_find(&s->by_hash, (const char *)t->sha256.bytes, CAKE_SHA256_LEN, &i))
        return NULL;
    const cake_manifest_tensor *x = &s->m->tensors[i];
    bool there = x->n_bytes == t->n_bytes && x->n_bytes &&
                 cake_extents_cover(&s->have, x->offset, x->offset + x->n_bytes);
    return there ? x : NULL;
}

uint64_t cake_store_shared_bytes(const cake_manifest *m, const char *source_path,
                                 bool source_is_part) {
    source s;
    uint64_t n = 0;
    if (!source_open(&s, source_path, source_is_part)) return 0;
    for (uint32_t i = 0; i < m->n_tensors; i++)
        if (same(&s, &m->tensors[i])) n += m->tensors[i].n_bytes;
    source_close(&s);
    return n;
}

static bool copy(int from, uint64_t from_at, int to, uint64_t to_at, uint64_t n, uint8_t **buf) {
    off_t in = (off_t)from_at, out = (off_t)to_at;
    while (n) { /* shares the blocks where the file system can */
        ssize_t k = copy_file_range(from, &in, to, &out, n > 1 << 30 ? 1 << 30 : (size_t)n, 0);
        if (k <= 0) break;
        n -= (uint64_t)k;
    }
    if (n && !*buf) *buf = cake_trymalloc(CAKE_STORE_READ);
    while (n && *buf) {
        size_t k = n < CAKE_STORE_READ ? (size_t)n : CAKE_STORE_READ;
        if (cake_pread_all(from, *buf, k, (uint64_t)in, NULL) != CAKE_OK ||
            cake_pwrite_all(to, *buf, k, (uint64_t)out, NULL) != CAKE_OK)
            return false;
        in += (off_t)k, out += (off_t)k, n -= k;
    }
    return n == 0;
}

void cake_store_reuse(cake_store_bundle *b, const char *source_path, bool source_is_part) {
    source s;
    uint8_t *buf = NULL;
    if (!source_open(&s, source_path, source_is_part)) return;
    for (uint32_t i = 0; i < b->manifest->n_tensors; i++) {
        const cake_manifest_tensor *t = &b->manifest->tensors[i];
        cake_store_range r = {t->offset, t->offset + t->n_bytes};
        if (cake_extents_cover(&b->have, r.begin, r.end)) continue;
        const cake_manifest_tensor *x = same(&s, t);
        if (!x || !copy(s.fd, x->offset, b->data_fd, t->offset, t->n_bytes, &buf)) continue;
        /* Verified with the rest at finish: the source may have rotted. */
        if (cake_journal_append(&b->journal, r, false, NULL) == CAKE_OK &&
            cake_extents_add(&b->have, r.begin, r.end))
            b->reused += t->n_bytes;
    }
    free(buf);
    source_close(&s);
}
