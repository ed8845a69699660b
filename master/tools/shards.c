/* Safetensors files and their index: see shards.h. */
#include "master/tools/shards.h"
#include "common/file.h"
#include "common/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct cake_shards {
    char *dir;
    size_t n;
    cake_shard_tensor *tensors;
    uint32_t n_shards;
    int *fds;
    uint64_t n_bytes;
};

static char *shard_name(const cake_shards *s, uint32_t i) {
    return s->n_shards == 1 ? cake_strdup("model.safetensors")
                            : cake_asprintf("model-%05u-of-%05u.safetensors", i + 1, s->n_shards);
}

static cake_status lay_out(cake_shards *s, uint64_t limit, cake_error *err) {
    uint64_t used = 0;
    s->n_shards = 1;
    for (size_t i = 0; i < s->n; i++) {
        cake_shard_tensor *t = &s->tensors[i];
        if (!cake_tensor_bytes(t->dtype, t->rank, t->shape, &t->n_bytes) ||
            __builtin_add_overflow(s->n_bytes, t->n_bytes, &s->n_bytes))
            return cake_fail(err, CAKE_EINVAL, "tensor '%.200s' is too large", t->name);
        if (used && (used > limit || t->n_bytes > limit - used)) {
            s->n_shards++;
            used = 0;
        }
        t->shard = s->n_shards - 1;
        t->offset = used;
        used += t->n_bytes;
    }
    return CAKE_OK;
}

/* Length field and header of tensors [begin, end); padded so that the data begins at a multiple of
 * 64 and its first tensor is aligned. *len: in all. */
static uint8_t *header(const cake_shards *s, size_t begin, size_t end, size_t *len) {
    json_object *o = json_object_new_object(), *meta = json_object_new_object();
    json_object_object_add(meta, "format", json_object_new_string("mlx"));
    json_object_object_add(o, "__metadata__", meta);
    for (size_t i = begin; i < end; i++) {
        const cake_shard_tensor *t = &s->tensors[i];
        json_object *e = json_object_new_object(), *at = json_object_new_array(),
                    *shape = json_object_new_array();
        json_object_array_add(at, json_object_new_uint64(t->offset));
        json_object_array_add(at, json_object_new_uint64(t->offset + t->n_bytes));
        for (uint32_t d = 0; d < t->rank; d++)
            json_object_array_add(shape, json_object_new_uint64(t->shape[d]));
        json_object_object_add(e, "data_offsets", at);
        json_object_object_add(e, "dtype", json_object_new_string(cake_dtype_name(t->dtype)));
        json_object_object_add(e, "shape", shape);
        json_object_object_add(o, t->name, e);
    }
    size_t n;
    const char *text = json_object_to_json_string_length(
        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    *len = cake_round_up(8 + n, 64);
    uint8_t *b = cake_malloc(*len);
    const uint64_t field = *len - 8;
    memset(b, ' ', *len);
    memcpy(b, &field, 8);
    memcpy(b + 8, text, n);
    json_object_put(o);
    return b;
}

static cake_status create_shard(cake_shards *s, uint32_t shard, size_t begin, size_t end,
                                cake_error *err) {
    char *name = shard_name(s, shard), *path = cake_path_join(s->dir, name);
    cake_status st = CAKE_OK;
    size_t len;
    uint8_t *head = header(s, begin, end, &len);
    s->fds[shard] = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (s->fds[shard] < 0)
        st = cake_fail(err, CAKE_EIO, "cannot create '%s': %s", path, strerror(errno));
    if (st == CAKE_OK && (st = cake_pwrite_all(s->fds[shard], head, len, 0, err)) != CAKE_OK)
        cake_fail_in(err, st, "'%s'", path);
    for (size_t i = begin; i < end; i++) s->tensors[i].offset += len;
    free(head);
    free(path);
    free(name);
    return st;
}

cake_status cake_shards_create(cake_shards **out, const char *dir, cake_shard_tensor *tensors,
                               size_t n, uint64_t limit, cake_error *err) {
    cake_shards *s = cake_calloc(1, sizeof *s);
    *s = (cake_shards){.dir = cake_strdup(dir), .n = n, .tensors = tensors};
    cake_status st = lay_out(s, limit, err);
    s->fds = cake_malloc(s->n_shards * sizeof *s->fds);
    for (uint32_t i = 0; i < s->n_shards; i++) s->fds[i] = -1;
    for (size_t i = 0, j; i < n && st == CAKE_OK; i = j) {
        const uint32_t shard = tensors[i].shard;
        for (j = i; j < n && tensors[j].shard == shard;) j++;
        st = create_shard(s, shard, i, j, err);
    }
    if (st != CAKE_OK)
        cake_shards_free(s);
    else
        *out = s;
    return st;
}

cake_status cake_shards_write(const cake_shards *s, size_t i, uint64_t at, const void *data,
                              size_t len, cake_error *err) {
    const cake_shard_tensor *t = &s->tensors[i];
    cake_assert(at <= t->n_bytes && len <= t->n_bytes - at);
    cake_status st = cake_pwrite_all(s->fds[t->shard], data, len, t->offset + at, err);
    return st == CAKE_OK ? st : cake_fail_in(err, st, "tensor '%.200s'", t->name);
}

static int by_name(const void *pa, const void *pb) {
    const cake_shard_tensor *const *a = pa, *const *b = pb;
    return strcmp((*a)->name, (*b)->name);
}

cake_status cake_shards_finish(cake_shards *s, uint64_t n_parameters, cake_error *err) {
    for (uint32_t i = 0; i < s->n_shards; i++)
        if (s->fds[i] >= 0 && fsync(s->fds[i]) != 0)
            return cake_fail(err, CAKE_EIO, "cannot sync the weights: %s", strerror(errno));
    const cake_shard_tensor **sorted = cake_calloc(s->n, sizeof *sorted);
    for (size_t i = 0; i < s->n; i++) sorted[i] = &s->tensors[i];
    qsort(sorted, s->n, sizeof *sorted, by_name);
    json_object *o = json_object_new_object(), *meta = json_object_new_object(),
                *map = json_object_new_object();
    json_object_object_add(meta, "total_size", json_object_new_uint64(s->n_bytes));
    if (n_parameters)
        json_object_object_add(meta, "total_parameters", json_object_new_uint64(n_parameters));
    json_object_object_add(o, "metadata", meta);
    for (size_t i = 0; i < s->n; i++) {
        char *name = shard_name(s, sorted[i]->shard);
        json_object_object_add(map, sorted[i]->name, json_object_new_string(name));
        free(name);
    }
    json_object_object_add(o, "weight_map", map);
    const char *text =
        json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    char *path = cake_path_join(s->dir, "model.safetensors.index.json");
    cake_status st = cake_file_write(path, text, strlen(text), 0644, err);
    free(path);
    json_object_put(o);
    free(sorted);
    return st;
}

void cake_shards_free(cake_shards *s) {
    if (!s) return;
    for (uint32_t i = 0; s->fds && i < s->n_shards; i++)
        if (s->fds[i] >= 0) close(s->fds[i]);
    for (size_t i = 0; i < s->n; i++) free(s->tensors[i].name);
    free(s->tensors);
    free(s->fds);
    free(s->dir);
    free(s);
}

uint64_t cake_shards_bytes(const cake_shards *s) {
    return s->n_bytes;
}

uint32_t cake_shards_count(const cake_shards *s) {
    return s->n_shards;
}
