/* Bundles, the sending side: see bundle.h. */
#include "common/model/bundle.h"
#include "common/file.h"
#include "common/mem.h"
#include "common/model/hashes.h"
#include "common/model/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *cake_hash_cache_dir(void) {
    char *cache = cake_cache_dir(), *dir = cake_path_join(cache, "hashes");
    free(cache);
    return dir;
}

cake_status cake_bundle_new(cake_bundle **out, const cake_layout *layout,
                            const cake_unit_range *ranges, size_t n_ranges, const char *config,
                            size_t config_len, cake_pool *pool, const char *hash_cache,
                            cake_error *err) {
    const cake_checkpoint *ck = layout->checkpoint;
    if (!cake_unit_ranges_valid(ranges, n_ranges, layout->n_units) ||
        n_ranges > CAKE_MANIFEST_UNITS_MAX)
        return cake_fail(err, CAKE_EINVAL, "unit ranges are not ascending within 0..%u",
                         layout->n_units);
    for (size_t r = 0; r < n_ranges; r++)
        for (uint32_t u = ranges[r].begin; u < ranges[r].end; u++)
            if (!layout->units[u].n_modules)
                return cake_fail(err, CAKE_EINVAL, "unit %u is not in '%s'", u, ck->dir);
    cake_bundle *b = cake_calloc(1, sizeof *b);
    cake_manifest *m = b->manifest = cake_calloc(1, sizeof *m);
    cake_sha256 *hashes = cake_calloc(ck->n_tensors, sizeof *hashes);
    b->checkpoint = ck;
    b->source = cake_calloc(ck->n_tensors, sizeof *b->source);
    size_t n = cake_layout_tensors(layout, ranges, n_ranges, b->source, ck->n_tensors), names = 0,
           at = 0;
    cake_status st = cake_checkpoint_hash(ck, b->source, n, pool, hash_cache, hashes, err);
    if (st != CAKE_OK) goto out;
    m->n_tensors = (uint32_t)n;
    m->tensors = cake_calloc(n, sizeof *m->tensors);
    for (size_t i = 0; i < n; i++) names += strlen(ck->tensors[b->source[i]].name) + 1;
    m->names = cake_malloc(names);
    for (size_t i = 0; i < n; i++) {
        const cake_tensor *t = &ck->tensors[b->source[i]];
        m->tensors[i] = (cake_manifest_tensor){
            .name = m->names + at, .dtype = t->dtype, .rank = t->rank, .sha256 = hashes[i]};
        memcpy(m->tensors[i].shape, t->shape, sizeof t->shape);
        memcpy(m->names + at, t->name, strlen(t->name) + 1);
        at += strlen(t->name) + 1;
    }
    m->n_units = (uint32_t)n_ranges;
    m->units = cake_calloc(n_ranges, sizeof *m->units);
    memcpy(m->units, ranges, n_ranges * sizeof *ranges);
    m->config_bytes = config_len;
    m->config_sha256 = cake_sha256_of(config, config_len);
    b->config = cake_malloc(config_len + 1);
    memcpy(b->config, config, config_len);
    b->config[config_len] = 0;
    b->config_len = config_len;
    st = cake_manifest_seal(m, err);
out:
    free(hashes);
    if (st != CAKE_OK)
        cake_bundle_free(b);
    else
        *out = b;
    return st;
}

void cake_bundle_free(cake_bundle *b) {
    if (!b) return;
    cake_manifest_free(b->manifest);
    free(b->config);
    free(b->source);
    free(b);
}

/* The tensor that holds byte `offset` (not in the prefix, below size). */
static uint32_t tensor_at(const cake_manifest *m, uint64_t offset) {
    uint32_t lo = 0,
             hi = m->n_tensors; /* last tensor with offset <= the byte: never an empty one */
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (m->tensors[mid].offset <= offset)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

cake_status cake_bundle_read(const cake_bundle *b, uint64_t offset, size_t len, void *dst,
                             cake_error *err) {
    const cake_manifest *m = b->manifest;
    uint8_t *to = dst;
    if (offset > m->size || len > m->size - offset)
        return cake_fail(err, CAKE_EINVAL, "bytes %llu + %zu are outside a bundle of %llu",
                         (unsigned long long)offset, len, (unsigned long long)m->size);
    while (len) {
        size_t k;
        if (offset < m->prefix_len) {
            k = m->prefix_len - (size_t)offset < len ? m->prefix_len - (size_t)offset : len;
            memcpy(to, m->prefix + offset, k);
        } else {
            uint32_t i = tensor_at(m, offset);
            const cake_tensor *t = &b->checkpoint->tensors[b->source[i]];
            uint64_t in = offset - m->tensors[i].offset;
            k = t->n_bytes - in < len ? (size_t)(t->n_bytes - in) : len;
            cake_status st = cake_checkpoint_read(b->checkpoint, t, in, to, k, err);
            if (st != CAKE_OK) return st;
        }
        to += k, offset += k, len -= k;
    }
    return CAKE_OK;
}

size_t cake_bundle_view(const cake_bundle *b, uint64_t offset, size_t max, const uint8_t **p) {
    const cake_manifest *m = b->manifest;
    if (offset >= m->size) return 0;
    uint64_t k;
    if (offset < m->prefix_len) {
        *p = m->prefix + offset;
        k = m->prefix_len - offset;
    } else {
        uint32_t i = tensor_at(m, offset);
        const cake_tensor *t = &b->checkpoint->tensors[b->source[i]];
        uint64_t from;
        k = cake_tensor_extent(t, offset - m->tensors[i].offset, &from);
        *p = b->checkpoint->files[t->file].map.data + from;
    }
    return k < max ? (size_t)k : max;
}

static void sync_dir(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) fsync(fd), close(fd);
}

static cake_status write_weights(const cake_bundle *b, const char *path, cake_error *err) {
    enum { CHUNK = 4 << 20 };
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) return cake_fail(err, CAKE_EIO, "cannot create '%s': %s", path, strerror(errno));
    uint8_t *buf = cake_malloc(CHUNK);
    cake_status st = CAKE_OK;
    for (uint64_t at = 0; at < b->manifest->size && st == CAKE_OK;) {
        uint64_t left = b->manifest->size - at;
        size_t k = left < CHUNK ? (size_t)left : CHUNK;
        st = cake_bundle_read(b, at, k, buf, err);
        if (st == CAKE_OK && (st = cake_pwrite_all(fd, buf, k, at, err)) != CAKE_OK)
            cake_fail_in(err, st, "'%s'", path);
        at += k;
    }
    if (st == CAKE_OK && fsync(fd) != 0)
        st = cake_fail(err, CAKE_EIO, "cannot sync '%s': %s", path, strerror(errno));
    free(buf);
    close(fd);
    return st;
}

cake_status cake_bundle_write(const cake_bundle *b, const char *dir, cake_error *err) {
    if (access(dir, F_OK) == 0)
        return cake_fail(err, CAKE_EINVAL, "'%s' exists already; give the name of a new folder",
                         dir);
    char *path = cake_strdup(dir); /* "a/b/" and "a/b" are one folder */
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/';) path[--n] = 0;
    char *slash = strrchr(path, '/');
    char *parent =
        slash ? cake_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : cake_strdup(".");
    char *tmp = cake_asprintf("%s.tmp.XXXXXX", path), *weights = NULL, *config = NULL,
         *manifest = NULL;
    cake_status st = cake_mkdir_p(parent, 0755, err);
    if (st != CAKE_OK) goto out;
    if (!mkdtemp(tmp)) {
        st = cake_fail(err, CAKE_EIO, "cannot create the folder '%s': %s", tmp, strerror(errno));
        goto out;
    }
    weights = cake_path_join(tmp, "model.safetensors");
    config = cake_path_join(tmp, "config.json");
    manifest = cake_path_join(tmp, "manifest.json");
    st = write_weights(b, weights, err);
    if (st == CAKE_OK) st = cake_file_write(config, b->config, b->config_len, 0644, err);
    if (st == CAKE_OK)
        st = cake_file_write(manifest, b->manifest->json, b->manifest->json_len, 0644, err);
    if (st == CAKE_OK && chmod(tmp, 0755) != 0)
        st = cake_fail(err, CAKE_EIO, "cannot set the mode of '%s': %s", tmp, strerror(errno));
    if (st == CAKE_OK) sync_dir(tmp);
    if (st == CAKE_OK && rename(tmp, path) != 0)
        st = cake_fail(err, CAKE_EIO, "cannot rename '%s' to '%s': %s", tmp, path, strerror(errno));
    if (st == CAKE_OK) {
        sync_dir(parent);
    } else {
        unlink(weights), unlink(config), unlink(manifest);
        rmdir(tmp);
    }
out:
    free(weights);
    free(config);
    free(manifest);
    free(tmp);
    free(parent);
    free(path);
    return st;
}
