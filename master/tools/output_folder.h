/* A folder that appears complete or not at all: made under a temporary name beside its place,
 * synced, renamed. */
#ifndef CAKE_MASTER_TOOLS_OUTPUT_FOLDER_H
#define CAKE_MASTER_TOOLS_OUTPUT_FOLDER_H

#include "common/status.h"

#include <stdint.h>

typedef struct {
    char *path, *parent;
    char *tmp; /* write files here; no folders in it */
} cake_output_folder;

/* CAKE_EINVAL: path exists; CAKE_EIO. */
cake_status cake_output_folder_open(cake_output_folder *f, const char *path, cake_error *err);
/* so_far CAKE_OK: put it in its place (CAKE_EIO: and removed, err filled). Else: remove it and give
 * so_far back. Frees f in any case. */
cake_status cake_output_folder_close(cake_output_folder *f, cake_status so_far, cake_error *err);

/* CAKE_ENOSPACE when the disk of dir has no room for n_bytes more. */
cake_status cake_output_folder_room(const char *dir, uint64_t n_bytes, cake_error *err);
/* Copy tokenizer, chat template, generation config and the like from a model's folder, those that
 * are there; the tokenizer of a GGUF file is written from its metadata. */
cake_status cake_output_folder_copy_side_files(const char *dir, const char *from, cake_error *err);

#endif
