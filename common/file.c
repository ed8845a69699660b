/* Files: see file.h. */
#include "common/file.h"
#include "common/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static cake_status fail_errno(cake_error *err, const char *what, const char *path) {
    int e = errno;
    cake_status st = e == ENOENT || e == ENOTDIR  ? CAKE_ENOTFOUND
                     : e == ENOSPC || e == EDQUOT ? CAKE_ENOSPACE
                                                  : CAKE_EIO;
    return cake_fail(err, st, "cannot %s '%s': %s", what, path, strerror(e));
}

cake_status cake_file_read(const char *path, size_t max, char **data, size_t *len,
                           cake_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(err, "open", path);
    cake_status st = CAKE_OK;
    char *buf = NULL;
    struct stat sb;
    if (fstat(fd, &sb) != 0) {
        st = fail_errno(err, "stat", path);
        goto out;
    }
    if (!S_ISREG(sb.st_mode)) {
        st = cake_fail(err, CAKE_EIO, "'%s' is not a regular file", path);
        goto out;
    }
    if ((uint64_t)sb.st_size > max) {
        st = cake_fail(err, CAKE_ENOSPACE, "'%s' has %lld bytes, more than the %zu allowed", path,
                       (long long)sb.st_size, max);
        goto out;
    }
    size_t n = (size_t)sb.st_size;
    buf = cake_trymalloc(n + 1);
    if (!buf) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory for the %zu bytes of '%s'", n, path);
        goto out;
    }
    if ((st = cake_pread_all(fd, buf, n, 0, err)) != CAKE_OK) {
        cake_fail_in(err, st, "'%s'", path);
        goto out;
    }
    buf[n] = 0;
    *data = buf;
    *len = n;
    buf = NULL;
out:
    free(buf);
    close(fd);
    return st;
}

cake_status cake_map_open(cake_map *m, const char *path, cake_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(err, "open", path);
    cake_status st = CAKE_OK;
    struct stat sb;
    if (fstat(fd, &sb) != 0) {
        st = fail_errno(err, "stat", path);
    } else if (!S_ISREG(sb.st_mode)) {
        st = cake_fail(err, CAKE_EIO, "'%s' is not a regular file", path);
    } else if (sb.st_size == 0) {
        *m = (cake_map){0};
    } else {
        void *p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            st = fail_errno(err, "map", path);
        else
            *m = (cake_map){p, (size_t)sb.st_size};
    }
    close(fd);
    return st;
}

void cake_map_close(cake_map *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (cake_map){0};
}

cake_status cake_pread_all(int fd, void *buf, size_t n, uint64_t at, cake_error *err) {
    char *p = buf;
    while (n) {
        ssize_t r = pread(fd, p, n, (off_t)at);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return cake_fail(err, CAKE_EIO, "read failed: %s", strerror(errno));
        if (r == 0) return cake_fail(err, CAKE_EIO, "file ends %zu bytes early", n);
        p += r, at += (uint64_t)r, n -= (size_t)r;
    }
    return CAKE_OK;
}

cake_status cake_pwrite_all(int fd, const void *buf, size_t n, uint64_t at, cake_error *err) {
    const char *p = buf;
    while (n) {
        ssize_t r = pwrite(fd, p, n, (off_t)at);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0)
            return cake_fail(err, errno == ENOSPC || errno == EDQUOT ? CAKE_ENOSPACE : CAKE_EIO,
                             "write failed: %s", strerror(errno));
        p += r, at += (uint64_t)r, n -= (size_t)r;
    }
    return CAKE_OK;
}

/* Make a rename in the folder of `path` survive a power cut. */
static void sync_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    char *dir =
        slash ? cake_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : cake_strdup(".");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) fsync(fd), close(fd);
    free(dir);
}

cake_status cake_file_write(const char *path, const void *data, size_t len, unsigned mode,
                            cake_error *err) {
    char *tmp = cake_asprintf("%s.tmp.XXXXXX", path);
    cake_status st = CAKE_OK;
    int fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0) {
        st = fail_errno(err, "create", tmp);
        free(tmp);
        return st;
    }
    if (fchmod(fd, mode) != 0) st = fail_errno(err, "set the mode of", tmp);
    if (st == CAKE_OK && (st = cake_pwrite_all(fd, data, len, 0, err)) != CAKE_OK)
        cake_fail_in(err, st, "'%s'", path);
    if (st == CAKE_OK && fsync(fd) != 0) st = fail_errno(err, "sync", tmp);
    close(fd);
    if (st == CAKE_OK && rename(tmp, path) != 0) st = fail_errno(err, "rename into place", path);
    if (st == CAKE_OK)
        sync_folder(path);
    else
        unlink(tmp);
    free(tmp);
    return st;
}

cake_status cake_mkdir_p(const char *path, unsigned mode, cake_error *err) {
    char *p = cake_strdup(path);
    cake_status st = CAKE_OK;
    for (char *s = p + 1; st == CAKE_OK && *s; s++) {
        if (*s != '/') continue;
        *s = 0;
        if (mkdir(p, mode) != 0 && errno != EEXIST) st = fail_errno(err, "create the folder", p);
        *s = '/';
    }
    if (st == CAKE_OK && mkdir(p, mode) != 0 && errno != EEXIST)
        st = fail_errno(err, "create the folder", p);
    free(p);
    return st;
}

char *cake_path_join(const char *dir, const char *name) {
    size_t n = strlen(dir);
    return cake_asprintf("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

bool cake_file_exists(const char *path) {
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISREG(sb.st_mode);
}

bool cake_dir_exists(const char *path) {
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

bool cake_name_is_plain(const char *name) {
    size_t n = strnlen(name, 256);
    if (n == 0 || n > 255 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
    return !strpbrk(name, "/\\");
}

static char *xdg_dir(const char *var, const char *fallback) {
    const char *base = getenv(var);
    if (base && base[0] == '/') return cake_path_join(base, "cake");
    const char *home = getenv("HOME");
    if (!home || home[0] != '/') {
        const struct passwd *pw = getpwuid(getuid());
        home = pw && pw->pw_dir ? pw->pw_dir : "/";
    }
    char *dir = cake_path_join(home, fallback), *out = cake_path_join(dir, "cake");
    free(dir);
    return out;
}

char *cake_config_dir(void) {
    return xdg_dir("XDG_CONFIG_HOME", ".config");
}
char *cake_cache_dir(void) {
    return xdg_dir("XDG_CACHE_HOME", ".cache");
}
char *cake_state_dir(void) {
    return xdg_dir("XDG_STATE_HOME", ".local/state");
}
