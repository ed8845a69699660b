/* Importance matrices: how strongly the inputs of each matrix are used, for the encoders that weigh
 * errors (formats.md 5.6). Read and written in the forms in circulation:
 *
 *   .dat    llama.cpp's first form; mlx-kquant writes it too (without the trailer)
 *   GGUF    llama.cpp's present form: tensors NAME.in_sum2 and NAME.counts
 *
 * Names are what the file says: "model.layers.0.self_attn.q_proj.weight" (mlx-kquant, ours) or
 * "blk.0.attn_q.weight" (llama.cpp). cake_imatrix_find knows both.
 *
 * Threads: a loaded matrix is read-only, any thread may look. Loading reads the file and allocates
 * at most a small multiple of its size. */
#ifndef CAKE_MASTER_TOOLS_IMATRIX_H
#define CAKE_MASTER_TOOLS_IMATRIX_H

#include "common/model/names.h"
#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_IMATRIX_ENTRIES_MAX = 1 << 20,
    CAKE_IMATRIX_NAME_MAX = 4096,         /* bytes */
    CAKE_IMATRIX_VALUES_MAX = 1 << 28,    /* n_mat * k of one entry */
    CAKE_IMATRIX_FILE_MAX = 0x7fffffff,   /* bytes */
    CAKE_IMATRIX_DATASET_MAX = 64 * 1024, /* bytes */
};

/* n_mat is 1, or the number of experts of a stack. A .dat file does not say where one expert's
 * values end: there n_mat is 1 and k all of them; cake_imatrix_values takes either. */
typedef struct {
    char *name;
    uint32_t n_mat, k;
    float *values;        /* [n_mat][k] mean of squares of each input; finite, >= 0 */
    uint64_t count;       /* tokens seen; the most of any expert */
    uint64_t *mat_counts; /* [n_mat] tokens of each expert, or NULL: `count` for all */
} cake_imatrix_entry;

typedef struct {
    size_t n;
    cake_imatrix_entry *entries;   /* malloc'ed, as all in them: _deinit frees */
    char *dataset;                 /* name of the text, or NULL */
    uint32_t n_chunks, chunk_size; /* 0: not known */
    cake_names names;              /* private: of _find; built by the readers and _index */
} cake_imatrix;

/* Read a file, either form told by its first bytes. CAKE_ENOTFOUND, CAKE_EIO; CAKE_EFORMAT with the
 * entry at fault: counts that are negative or go beyond the file, values that are negative or not
 * finite, a name twice; CAKE_EUNSUPPORTED: a GGUF file that is no importance matrix. */
cake_status cake_imatrix_load(cake_imatrix *m, const char *path, cake_error *err);
/* The same from memory; `what` names it in messages. */
cake_status cake_imatrix_parse(cake_imatrix *m, const uint8_t *bytes, size_t len, const char *what,
                               cake_error *err);
void cake_imatrix_deinit(cake_imatrix *m);

/* Room for one more entry: the name is copied, values [n_mat][k] are zeroed, count is 0. The
 * pointer holds until the next _add. The caller sees to it that names are unique. */
cake_imatrix_entry *cake_imatrix_add(cake_imatrix *m, const char *name, uint32_t n_mat, uint32_t k);

/* Entry of a module ("model.layers.0.mlp.down_proj") by its name with or without ".weight", else by
 * its name in GGUF files; NULL when there is none. O(1). Entries that were added by hand are found
 * after cake_imatrix_index (CAKE_EFORMAT: a name twice). */
const cake_imatrix_entry *cake_imatrix_find(const cake_imatrix *m, const char *path);
cake_status cake_imatrix_index(cake_imatrix *m, cake_error *err);

/* Values [k] for matrix `mat` of n_mat (0 of 1 for a plain one), or NULL when the entry is of
 * another size. One vector for all matrices of a stack is taken for each. */
const float *cake_imatrix_values(const cake_imatrix_entry *e, uint32_t n_mat, uint32_t k,
                                 uint32_t mat);

/* Write a file (temporary name, fsync, rename). .dat: mlx-kquant's form, the mean itself and no
 * trailer, which llama.cpp reads too (it scales each entry by a constant, which changes nothing).
 * GGUF: in_sum2 = mean * count, modules by their names in GGUF files. Values must be finite.
 * CAKE_EIO. */
cake_status cake_imatrix_save_dat(const cake_imatrix *m, const char *path, cake_error *err);
cake_status cake_imatrix_save_gguf(const cake_imatrix *m, const char *path, cake_error *err);
/* By the name: GGUF when ".gguf" is in it (mlx-kquant's rule), else .dat. */
cake_status cake_imatrix_save(const cake_imatrix *m, const char *path, cake_error *err);

#endif
