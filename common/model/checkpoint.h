/* A model's files as one table of tensors.
 *
 * Opens a folder (model.safetensors.index.json with its shards, else model*.safetensors), one
 * safetensors file (a bundle), or a GGUF file (all parts of a split one; also the only one in a
 * folder without safetensors), maps every file read-only and checks everything that can be checked
 * without a config: container rules, index against shards, duplicates across shards. */
#ifndef CAKE_COMMON_MODEL_CHECKPOINT_H
#define CAKE_COMMON_MODEL_CHECKPOINT_H

#include "common/file.h"
#include "common/model/safetensors.h"

typedef struct {
    const char *name;    /* owned by the checkpoint */
    const uint8_t *data; /* mapped; ANY alignment; NULL when n_bytes is 0 or head_rows is not */
    uint64_t n_bytes;
    uint64_t shape[CAKE_RANK_MAX];
    uint32_t rank;
    cake_dtype dtype;
    uint32_t file;        /* index into files */
    uint64_t file_offset; /* of the first byte, from the start of the file */
    /* 0, or (Llama's q and k in GGUF) the rows of a head, even, and shape[0] is a multiple: the
     * file holds the two halves of each head interleaved, row i of half h at 2 * i + h. The tensor
     * is what it was before that; read it with cake_tensor_extent or cake_checkpoint_bytes. */
    uint32_t head_rows;
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
    char *config_path; /* "DIR/config.json"; need not exist. GGUF: the file itself */
    char *config_text; /* GGUF: a config.json made from the metadata; else NULL */
    uint32_t n_files;
    cake_checkpoint_file *files;
    uint32_t n_tensors;
    cake_tensor *tensors; /* file by file, ascending offset in each */
    uint64_t n_bytes;     /* of all tensors */
    /* Things worth one warning each (tensor in a shard but not in the index, wrong total_size). */
    uint32_t n_warnings;
    char **warnings;
    /* private */
    cake_names names;
    char *strings;
} cake_checkpoint;

/* path: a folder, a .safetensors or a .gguf file. The checkpoint keeps maps and descriptors open.
 * Errors name the file and the tensor: CAKE_ENOTFOUND (path, shard), CAKE_EFORMAT, CAKE_EIO. */
cake_status cake_checkpoint_open(cake_checkpoint **out, const char *path, cake_error *err);
void cake_checkpoint_close(cake_checkpoint *c);

/* Index into tensors, or -1. O(1), thread-safe. */
int32_t cake_checkpoint_find(const cake_checkpoint *c, const char *name);

/* The text of config.json, or what stands for it (caller frees; NUL-terminated). CAKE_ENOTFOUND. */
cake_status cake_checkpoint_config(const cake_checkpoint *c, char **text, size_t *len,
                                   cake_error *err);

/* Where byte `at` (below n_bytes) of the tensor lies in its file, and how many bytes from there on
 * follow it in the tensor too (at least 1). */
uint64_t cake_tensor_extent(const cake_tensor *t, uint64_t at, uint64_t *file_offset);
/* Read bytes [at, at + n) of a tensor, in its own order, with pread: a file that shrank is
 * CAKE_EIO, not a signal. at + n is at most n_bytes. Thread-safe. */
cake_status cake_checkpoint_read(const cake_checkpoint *c, const cake_tensor *t, uint64_t at,
                                 void *to, size_t n, cake_error *err);
/* All bytes of a tensor in its own order: the mapping itself, or memory in *owned that the caller
 * frees (NULL otherwise). NULL: out of memory. */
const uint8_t *cake_checkpoint_bytes(const cake_checkpoint *c, const cake_tensor *t,
                                     uint8_t **owned);

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
