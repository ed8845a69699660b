/* A model's files as one table of tensors.
 *
 * Opens a folder (model.safetensors.index.json with its shards, else model*.safetensors) or one
 * safetensors file (a bundle), maps every file read-only and checks everything that can be checked
 * without a config: container rules, index against shards, duplicates across shards. */
#ifndef CAKE_COMMON_MODEL_CHECKPOINT_H
#define CAKE_COMMON_MODEL_CHECKPOINT_H

#include "common/file.h"
#include "common/model/safetensors.h"

typedef struct {
    const char *name;    /* owned by the checkpoint */
    const uint8_t *data; /* mapped; ANY alignment; NULL when n_bytes is 0 */
    uint64_t n_bytes;
    uint64_t shape[CAKE_RANK_MAX];
    uint32_t rank;
    cake_dtype dtype;
    uint32_t file;        /* index into files */
    uint64_t file_offset; /* of the first byte, from the start of the file */
} cake_tensor;

typedef struct {
    char *path;       /* as opened */
    const char *name; /* last component of path */
    cake_map map;
    int fd; /* for pread: an error instead of SIGBUS when the file shrinks */
    uint64_t size, mtime_ns, inode, device;
    cake_safetensors st;
} cake_checkpoint_file;

typedef struct {
    char *dir;         /* folder of the files */
    char *config_path; /* "DIR/config.json"; need not exist */
    uint32_t n_files;
    cake_checkpoint_file *files;
    uint32_t n_tensors;
    cake_tensor *tensors; /* file by file, ascending offset in each */
    uint64_t n_bytes;     /* of all tensors */
    /* Things worth one warning each (tensor in a shard but not in the index, wrong total_size). */
    uint32_t n_warnings;
    char **warnings;
    cake_names names; /* private */
} cake_checkpoint;

/* path: a folder or a .safetensors file. The checkpoint keeps maps and descriptors open. Errors
 * name the file and the tensor: CAKE_ENOTFOUND (path, shard), CAKE_EFORMAT, CAKE_EIO. */
cake_status cake_checkpoint_open(cake_checkpoint **out, const char *path, cake_error *err);
void cake_checkpoint_close(cake_checkpoint *c);

/* Index into tensors, or -1. O(1), thread-safe. */
int32_t cake_checkpoint_find(const cake_checkpoint *c, const char *name);

/* A model argument to a path (caller frees): an existing path as it is; else "ORG/NAME" (or
 * "ORG/NAME@REVISION") looked up in the Hugging Face cache ($HF_HUB_CACHE, $HF_HOME/hub,
 * ~/.cache/huggingface/hub; refs/main, else the only snapshot). CAKE_ENOTFOUND says where it
 * looked. */
cake_status cake_model_resolve(const char *arg, char **path, cake_error *err);

/* ---- the index file, separately so that it can be fuzzed ---- */

typedef struct {
    const char *tensor, *file; /* owned by the index */
} cake_index_entry;

typedef struct {
    size_t n_entries;
    cake_index_entry *entries; /* order of the file */
    bool has_total_size;
    uint64_t total_size;
    char *strings; /* private */
} cake_index;

/* Strict JSON; shard names must be plain file names; no tensor twice. CAKE_EFORMAT otherwise. */
cake_status cake_index_parse(cake_index *ix, const char *text, size_t len, const char *what,
                             cake_error *err);
void cake_index_deinit(cake_index *ix);

#endif
