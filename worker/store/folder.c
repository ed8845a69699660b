/* Store folders: see folder.h. */
#include "worker/store/folder.h"
#include "common/file.h"
#include "common/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 4 };

/* ID, ID.part or ID.part.K */
static bool parse_name(const char *name, cake_sha256 *id, bool *part) {
    char hex[CAKE_SHA256_HEX];
    if (strnlen(name, 64) < 64) return false;
    memcpy(hex, name, 64);
    hex[64] = 0;
    if (!cake_sha256_parse(hex, id)) return false;
    const char *rest = name + 64;
    *part = strcmp(rest, ".part") == 0 || strncmp(rest, ".part.", 6) == 0;
    return *part || !*rest;
}

static uint64_t tree_bytes(int dir, int depth) {
    uint64_t n = 0;
    DIR *d = fdopendir(dir);
    if (!d) {
        close(dir);
        return 0;
    }
    for (struct dirent *e; (e = readdir(d));) {
        struct stat sb;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (fstatat(dirfd(d), e->d_name, &sb, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (S_ISREG(sb.st_mode)) n += (uint64_t)sb.st_blocks * 512;
        if (S_ISDIR(sb.st_mode) && depth < DEPTH_MAX) {
            int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (sub >= 0) n += tree_bytes(sub, depth + 1);
        }
    }
    closedir(d);
    return n;
}

uint64_t cake_folder_bytes(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? 0 : tree_bytes(fd, 0);
}

static void remove_tree(int dir, int depth) {
    DIR *d = fdopendir(dir);
    if (!d) {
        close(dir);
        return;
    }
    for (struct dirent *e; (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (unlinkat(dirfd(d), e->d_name, 0) == 0) continue;
        int sub = depth < DEPTH_MAX
                      ? openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                      : -1;
        if (sub >= 0) remove_tree(sub, depth + 1);
        unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    }
    closedir(d);
}

void cake_folder_remove(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) remove_tree(fd, 0);
    rmdir(path);
}

cake_folder *cake_folders_list(const char *bundles, size_t *n) {
    cake_folder *list = NULL;
    *n = 0;
    DIR *d = opendir(bundles);
    for (struct dirent *e; d && (e = readdir(d));) {
        cake_folder f = {0};
        if (!parse_name(e->d_name, &f.id, &f.part)) continue;
        f.name = cake_strdup(e->d_name);
        f.path = cake_path_join(bundles, e->d_name);
        f.bytes = cake_folder_bytes(f.path);
        char *lock = cake_path_join(f.path, "lock");
        struct stat sb;
        if (stat(lock, &sb) == 0)
            f.used_ns = (uint64_t)sb.st_mtim.tv_sec * 1000000000u + (uint64_t)sb.st_mtim.tv_nsec;
        free(lock);
        list = cake_realloc(list, (*n + 1) * sizeof *list);
        list[(*n)++] = f;
    }
    if (d) closedir(d);
    return list;
}

void cake_folders_free(cake_folder *f, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(f[i].name);
        free(f[i].path);
    }
    free(f);
}

int cake_folder_lock(const char *path, int how) {
    char *lock = cake_path_join(path, "lock");
    int fd = open(lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    free(lock);
    if (fd < 0) return -1;
    if (flock(fd, how | LOCK_NB) == 0) return fd;
    close(fd);
    return -1;
}

cake_status cake_folder_sync(const char *path, cake_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) {
        int e = errno;
        if (fd >= 0) close(fd);
        return cake_fail(err, CAKE_EIO, "cannot sync the folder '%s': %s", path, strerror(e));
    }
    close(fd);
    return CAKE_OK;
}
