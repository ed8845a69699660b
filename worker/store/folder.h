/* Folders of the store: names, locks, sizes, removal. */
#ifndef CAKE_WORKER_STORE_FOLDER_H
#define CAKE_WORKER_STORE_FOLDER_H

#include "common/sha256.h"
#include "common/status.h"

#include <stdbool.h>
#include <stdint.h>

/* One entry of bundles/. */
typedef struct {
    char *name, *path;
    cake_sha256 id;
    bool part;
    uint64_t bytes;   /* allocated on disk */
    uint64_t used_ns; /* mtime of its lock: last use */
} cake_folder;

/* All bundles and parts below `bundles`; anything else is skipped. Free with cake_folders_free. */
cake_folder *cake_folders_list(const char *bundles, size_t *n);
void cake_folders_free(cake_folder *f, size_t n);

/* flock PATH/lock (created): LOCK_SH or LOCK_EX, never blocking. The descriptor, or -1. */
int cake_folder_lock(const char *path, int how);
/* Allocated bytes of everything below path. */
uint64_t cake_folder_bytes(const char *path);
/* Delete a folder and what is in it (a few levels deep, symbolic links not followed). */
void cake_folder_remove(const char *path);
/* fsync the folder itself, so that names in it survive a power cut. */
cake_status cake_folder_sync(const char *path, cake_error *err);

#endif
