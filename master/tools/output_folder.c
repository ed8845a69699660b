/* Output folders: see output_folder.h. */
#include "master/tools/output_folder.h"
#include "common/cli/human.h"
#include "common/file.h"
#include "common/mem.h"
#include "common/model/gguf.h"
#include "master/tokenizer/tokenizer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { SIDE_FILE_MAX = 256 << 20 };

cake_status cake_output_folder_open(cake_output_folder *f, const char *path, cake_error *err) {
    *f = (cake_output_folder){0};
    if (access(path, F_OK) == 0)
        return cake_fail(err, CAKE_EINVAL, "'%s' exists already; give the name of a new folder",
                         path);
    f->path = cake_strdup(path); /* "a/b/" and "a/b" are one folder */
    for (size_t n = strlen(f->path); n > 1 && f->path[n - 1] == '/';) f->path[--n] = 0;
    const char *slash = strrchr(f->path, '/');
    f->parent = slash ? cake_strndup(f->path, slash == f->path ? 1 : (size_t)(slash - f->path))
                      : cake_strdup(".");
    f->tmp = cake_asprintf("%s.tmp.XXXXXX", f->path);
    cake_status st = cake_mkdir_p(f->parent, 0755, err);
    if (st == CAKE_OK && !mkdtemp(f->tmp))
        st = cake_fail(err, CAKE_EIO, "cannot create the folder '%s': %s", f->tmp, strerror(errno));
    if (st == CAKE_OK) return CAKE_OK;
    free(f->path);
    free(f->parent);
    free(f->tmp);
    *f = (cake_output_folder){0};
    return st;
}

static void sync_folder(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) fsync(fd), close(fd);
}

static void remove_folder(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        char *file = cake_path_join(path, e->d_name);
        unlink(file);
        free(file);
    }
    if (d) closedir(d);
    rmdir(path);
}

cake_status cake_output_folder_close(cake_output_folder *f, cake_status st, cake_error *err) {
    if (!f->tmp) return st;
    if (st == CAKE_OK && chmod(f->tmp, 0755) != 0)
        st = cake_fail(err, CAKE_EIO, "cannot set the mode of '%s': %s", f->tmp, strerror(errno));
    if (st == CAKE_OK) sync_folder(f->tmp);
    if (st == CAKE_OK && rename(f->tmp, f->path) != 0)
        st = cake_fail(err, CAKE_EIO, "cannot rename '%s' to '%s': %s", f->tmp, f->path,
                       strerror(errno));
    if (st == CAKE_OK)
        sync_folder(f->parent);
    else
        remove_folder(f->tmp);
    free(f->path);
    free(f->parent);
    free(f->tmp);
    *f = (cake_output_folder){0};
    return st;
}

cake_status cake_output_folder_room(const char *dir, uint64_t n_bytes, cake_error *err) {
    struct statvfs v;
    char need[CAKE_HUMAN_MAX], have[CAKE_HUMAN_MAX];
    if (statvfs(dir, &v) != 0) return CAKE_OK; /* writing will tell */
    uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;
    if (left >= n_bytes) return CAKE_OK;
    return cake_fail(err, CAKE_ENOSPACE, "the result takes %s, but the disk of '%s' has %s left",
                     cake_human_bytes(need, n_bytes), dir, cake_human_bytes(have, left));
}

static bool is_side_file(const char *name) {
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "added_tokens.json",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "generation_config.json",
                                        "preprocessor_config.json",
                                        "processor_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    const char *dot = strrchr(name, '.');
    return dot && strcmp(dot, ".tiktoken") == 0;
}

cake_status cake_output_folder_copy_side_files(const char *dir, const char *from, cake_error *err) {
    char *gguf = NULL, *tokenizer = cake_path_join(from, "tokenizer.json");
    cake_status st = cake_gguf_find_file(from, &gguf, err);
    if (st == CAKE_OK && gguf && !cake_file_exists(tokenizer))
        st = cake_tokenizer_write_gguf(gguf, dir, err);
    free(tokenizer);
    free(gguf);
    DIR *d = opendir(from);
    for (struct dirent *e; st == CAKE_OK && d && (e = readdir(d));) {
        if (!is_side_file(e->d_name)) continue;
        char *src = cake_path_join(from, e->d_name), *dst = cake_path_join(dir, e->d_name), *data;
        size_t len;
        st = cake_file_read(src, SIDE_FILE_MAX, &data, &len, err);
        if (st == CAKE_OK) {
            st = cake_file_write(dst, data, len, 0644, err);
            free(data);
        }
        free(src);
        free(dst);
    }
    if (d) closedir(d);
    return st;
}
