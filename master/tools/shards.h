/* Writing a checkpoint's tensors: safetensors files of bounded size and their index, as mlx-lm
 * names them (formats.md 1.1, 1.5).
 *
 * All names, types and shapes are known beforehand, so headers come first and the data of every
 * tensor can then be written in any order, in pieces, from any thread. */
#ifndef CAKE_MASTER_TOOLS_SHARDS_H
#define CAKE_MASTER_TOOLS_SHARDS_H

#include "common/model/safetensors.h"

typedef struct {
    char *name; /* cake_malloc; the cake_shards frees it */
    cake_dtype dtype;
    uint32_t rank;
    uint64_t shape[CAKE_RANK_MAX];
    /* set by cake_shards_create */
    uint64_t n_bytes, offset; /* offset: in its file */
    uint32_t shard;
} cake_shard_tensor;

typedef struct cake_shards cake_shards;

/* A new shard begins with the tensor that would take one over `limit` bytes. */
#define CAKE_SHARD_LIMIT (5ull << 30)

/* Lay the tensors out in this order, create DIR/model.safetensors (or model-00001-of-0000N...) and
 * write the headers. dir exists. tensors[n] is taken over, also on error; their names are unique.
 * CAKE_EIO, CAKE_ENOSPACE; CAKE_EINVAL: a shape that overflows. */
cake_status cake_shards_create(cake_shards **out, const char *dir, cake_shard_tensor *tensors,
                               size_t n, uint64_t limit, cake_error *err);
/* len bytes of tensor i from its byte `at` on. Thread-safe. Every byte is to be written once. */
cake_status cake_shards_write(const cake_shards *s, size_t i, uint64_t at, const void *data,
                              size_t len, cake_error *err);
/* When all is written: fsync the files and write the index with n_parameters (0: left out). */
cake_status cake_shards_finish(cake_shards *s, uint64_t n_parameters, cake_error *err);
/* Closes the files; deletes nothing. */
void cake_shards_free(cake_shards *s);

uint64_t cake_shards_bytes(const cake_shards *s); /* of all tensors */
uint32_t cake_shards_count(const cake_shards *s); /* files */

#endif
