/* Files: whole-file reads with a cap, mapped reads, atomic writes, directories, XDG paths. */
#ifndef CAKE_COMMON_FILE_H
#define CAKE_COMMON_FILE_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Read a regular file of at most `max` bytes into fresh memory (caller frees), NUL-terminated after
 * *len bytes. CAKE_ENOTFOUND, CAKE_EIO, CAKE_ENOSPACE (longer than max). */
cake_status cake_file_read(const char *path, size_t max, char **data, size_t *len, cake_error *err);

/* A file mapped read-only. Unmap with cake_map_close. An empty file gives data NULL, size 0. */
typedef struct {
    const uint8_t *data;
    size_t size;
} cake_map;
cake_status cake_map_open(cake_map *m, const char *path, cake_error *err);
void cake_map_close(cake_map *m);

/* Write data to a temporary name beside path, fsync, rename over path, fsync the folder. */
cake_status cake_file_write(const char *path, const void *data, size_t len, unsigned mode,
                            cake_error *err);

/* pread/pwrite until all is done; CAKE_EIO on a short file or an error. */
cake_status cake_pread_all(int fd, void *buf, size_t n, uint64_t at, cake_error *err);
cake_status cake_pwrite_all(int fd, const void *buf, size_t n, uint64_t at, cake_error *err);

/* mkdir -p with the given mode for new folders. */
cake_status cake_mkdir_p(const char *path, unsigned mode, cake_error *err);

/* "DIR/NAME", caller frees. */
char *cake_path_join(const char *dir, const char *name);

bool cake_file_exists(const char *path);
bool cake_dir_exists(const char *path);

/* True for a name that is safe as one path component: not empty, no '/', no '\\', no NUL, not "."
 * or
 * "..", at most 255 bytes. */
bool cake_name_is_plain(const char *name);

/* $XDG_CONFIG_HOME/cake, $XDG_CACHE_HOME/cake, $XDG_STATE_HOME/cake with the usual fallbacks below
 * $HOME (or below the password database's home when HOME is unset). Caller frees. Nothing created.
 */
char *cake_config_dir(void);
char *cake_cache_dir(void);
char *cake_state_dir(void);

#endif
