/* Tensor hashes: see hashes.h. */
#include "common/model/hashes.h"
#include "common/file.h"
#include "common/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { READ_BYTES = 1 << 20, CACHE_FILE_MAX = 256 << 20 };

typedef struct {
    uint64_t offset, n_bytes;
    cake_sha256 sha256;
} known;

typedef struct {
    char *path; /* of the cache file; NULL: no cache */
    bool dirty;
    size_t n, room;
    known *entries; /* ascending offset, then n_bytes, while searched */
} file_cache;

static int by_offset(const void *a, const void *b) {
    const known *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->n_bytes < y->n_bytes ? -1 : x->n_bytes > y->n_bytes;
}

static void cache_add(file_cache *c, known k) {
    if (c->n == c->room) {
        c->room = c->room ? 2 * c->room : 64;
        c->entries = cake_realloc(c->entries, c->room * sizeof *c->entries);
    }
    c->entries[c->n++] = k;
}

/* "DIGITS " at *s, which moves past it. */
static bool number(char **s, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(*s, &end, 10);
    if (errno || end == *s || *end != ' ') return false;
    *out = v;
    *s = end + 1;
    return true;
}

/* Anything unexpected empties the cache: it is only a memory. */
static void cache_load(file_cache *c, const char *dir, const cake_checkpoint_file *f) {
    char *real = realpath(f->path, NULL), *text = NULL, hex[CAKE_SHA256_HEX];
    size_t len;
    if (!real) return;
    cake_sha256 h = cake_sha256_of(real, strlen(real));
    cake_sha256_hex(&h, hex);
    c->path = cake_path_join(dir, hex);
    free(real);
    if (cake_file_read(c->path, CACHE_FILE_MAX, &text, &len, NULL) != CAKE_OK) return;
    char want[160], *save = NULL;
    snprintf(want, sizeof want, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, f->size,
             f->mtime_ns, f->inode, f->device);
    char *line = strtok_r(text, "\n", &save);
    bool ok = line && strcmp(line, "cake-hashes 1") == 0;
    ok = ok && (line = strtok_r(NULL, "\n", &save)) && strcmp(line, want) == 0;
    while (ok && (line = strtok_r(NULL, "\n", &save))) {
        known k;
        char *rest = line;
        ok = number(&rest, &k.offset) && number(&rest, &k.n_bytes) &&
             cake_sha256_parse(rest, &k.sha256);
        if (ok) cache_add(c, k);
    }
    if (!ok) c->n = 0;
    if (c->n) qsort(c->entries, c->n, sizeof *c->entries, by_offset);
    free(text);
}

static const known *cache_find(const file_cache *c, const cake_tensor *t) {
    known want = {.offset = t->file_offset, .n_bytes = t->n_bytes};
    return c->n ? bsearch(&want, c->entries, c->n, sizeof *c->entries, by_offset) : NULL;
}

static void cache_save(file_cache *c, const char *dir, const cake_checkpoint_file *f) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (!c->path || !c->dirty || f->mtime_ns + 2000000000u > now_ns) return;
    if (cake_mkdir_p(dir, 0700, NULL) != CAKE_OK) return;
    qsort(c->entries, c->n, sizeof *c->entries, by_offset);
    size_t room = 256 + c->n * 128, at;
    char *text = cake_trymalloc(room), hex[CAKE_SHA256_HEX];
    if (!text) return;
    at = (size_t)snprintf(text, room,
                          "cake-hashes 1\n%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
                          f->size, f->mtime_ns, f->inode, f->device);
    for (size_t i = 0; i < c->n; i++) {
        cake_sha256_hex(&c->entries[i].sha256, hex);
        at += (size_t)snprintf(text + at, room - at, "%" PRIu64 " %" PRIu64 " %s\n",
                               c->entries[i].offset, c->entries[i].n_bytes, hex);
    }
    cake_file_write(c->path, text, at, 0600, NULL);
    free(text);
}

/* ---- hashing ---- */

typedef struct {
    uint64_t n_bytes;
    uint32_t i; /* position in idx and out */
} pending;

typedef struct {
    const cake_checkpoint *ck;
    const uint32_t *idx;
    const pending *todo;
    cake_sha256 *out;
    uint8_t *buf;       /* READ_BYTES per thread */
    cake_error *errors; /* per thread: the first failure */
} job;

static void hash_one(void *arg, size_t chunk, unsigned thread) {
    job *j = arg;
    cake_error *err = &j->errors[thread];
    if (err->status != CAKE_OK) return;
    uint32_t i = j->todo[chunk].i;
    const cake_tensor *t = &j->ck->tensors[j->idx[i]];
    uint8_t *buf = j->buf + (size_t)thread * READ_BYTES;
    cake_sha256_ctx *c = cake_sha256_new();
    for (uint64_t at = 0; at < t->n_bytes && err->status == CAKE_OK;) {
        size_t k = t->n_bytes - at < READ_BYTES ? (size_t)(t->n_bytes - at) : READ_BYTES;
        if (cake_checkpoint_read(j->ck, t, at, buf, k, err) == CAKE_OK) cake_sha256_add(c, buf, k);
        at += k;
    }
    j->out[i] = cake_sha256_end(c);
}

/* Largest first: the last chunk of the loop is then a small one. */
static int larger_first(const void *a, const void *b) {
    const pending *x = a, *y = b;
    return x->n_bytes > y->n_bytes ? -1 : x->n_bytes < y->n_bytes;
}

static cake_status unchanged(const cake_checkpoint_file *f, cake_error *err) {
    struct stat sb;
    if (fstat(f->fd, &sb) == 0 && (uint64_t)sb.st_size == f->size &&
        (uint64_t)sb.st_mtim.tv_sec * 1000000000u + (uint64_t)sb.st_mtim.tv_nsec == f->mtime_ns)
        return CAKE_OK;
    return cake_fail(err, CAKE_EIO, "'%s' changed while it was being read; start again", f->path);
}

cake_status cake_checkpoint_hash(const cake_checkpoint *ck, const uint32_t *idx, size_t n,
                                 cake_pool *pool, const char *cache_dir, cake_sha256 *out,
                                 cake_error *err) {
    unsigned n_threads = cake_pool_threads(pool);
    file_cache *caches = cake_calloc(ck->n_files, sizeof *caches);
    pending *todo = cake_calloc(n, sizeof *todo);
    job j = {.ck = ck,
             .idx = idx,
             .todo = todo,
             .out = out,
             .buf = cake_malloc((size_t)n_threads * READ_BYTES),
             .errors = cake_calloc(n_threads, sizeof *j.errors)};
    size_t n_todo = 0;
    cake_status st = CAKE_OK;
    for (uint32_t f = 0; cache_dir && f < ck->n_files; f++)
        cache_load(&caches[f], cache_dir, &ck->files[f]);
    for (size_t i = 0; i < n; i++) {
        const cake_tensor *t = &ck->tensors[idx[i]];
        const known *k = cache_find(&caches[t->file], t);
        if (k)
            out[i] = k->sha256;
        else
            todo[n_todo++] = (pending){t->n_bytes, (uint32_t)i};
    }
    if (n_todo) qsort(todo, n_todo, sizeof *todo, larger_first);
    cake_pool_run(pool, n_todo, hash_one, &j);
    for (unsigned t = 0; t < n_threads && st == CAKE_OK; t++)
        if ((st = j.errors[t].status) != CAKE_OK) cake_fail(err, st, "%s", j.errors[t].msg);
    for (size_t i = 0; i < n_todo && st == CAKE_OK; i++) {
        const cake_tensor *t = &ck->tensors[idx[todo[i].i]];
        cache_add(&caches[t->file], (known){t->file_offset, t->n_bytes, out[todo[i].i]});
        caches[t->file].dirty = true;
    }
    for (uint32_t f = 0; f < ck->n_files; f++) {
        if (st == CAKE_OK && caches[f].dirty) st = unchanged(&ck->files[f], err);
        if (st == CAKE_OK && cache_dir) cache_save(&caches[f], cache_dir, &ck->files[f]);
        free(caches[f].path);
        free(caches[f].entries);
    }
    free(j.buf);
    free(j.errors);
    free(todo);
    free(caches);
    return st;
}
