/* Checkpoint: see checkpoint.h. */
#include "common/model/checkpoint.h"
#include "common/mem.h"
#include "common/model/config.h"
#include "common/model/gguf_model.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES_MAX = 4096, INDEX_MAX = 256 << 20 };
#define INDEX_NAME "model.safetensors.index.json"

static void warn(cake_checkpoint *c, char *text) {
    if (c->n_warnings == 20) { /* the rest of a long list says nothing new */
        free(text);
        return;
    }
    c->warnings = cake_realloc(c->warnings, (c->n_warnings + 1) * sizeof *c->warnings);
    c->warnings[c->n_warnings++] = text;
}

static cake_status map_file(cake_checkpoint_file *f, const char *path, cake_error *err) {
    *f = (cake_checkpoint_file){.path = cake_strdup(path), .fd = -1};
    const char *slash = strrchr(f->path, '/');
    f->name = slash ? slash + 1 : f->path;
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0)
        return cake_fail(err, errno == ENOENT ? CAKE_ENOTFOUND : CAKE_EIO, "cannot open '%s': %s",
                         path, strerror(errno));
    struct stat sb;
    if (fstat(f->fd, &sb) != 0)
        return cake_fail(err, CAKE_EIO, "cannot stat '%s': %s", path, strerror(errno));
    if (!S_ISREG(sb.st_mode))
        return cake_fail(err, CAKE_EFORMAT, "'%s' is not a regular file", path);
    f->size = (uint64_t)sb.st_size;
    f->mtime_ns = (uint64_t)sb.st_mtim.tv_sec * 1000000000u + (uint64_t)sb.st_mtim.tv_nsec;
    f->inode = (uint64_t)sb.st_ino;
    f->device = (uint64_t)sb.st_dev;
    if (f->size) {
        void *p = mmap(NULL, (size_t)f->size, PROT_READ, MAP_SHARED, f->fd, 0);
        if (p == MAP_FAILED)
            return cake_fail(err, CAKE_EIO, "cannot map '%s': %s", path, strerror(errno));
        f->map = (cake_map){p, (size_t)f->size};
    }
    /* A Git LFS pointer is what a clone without LFS leaves in place of every weight file. */
    if (f->size > 20 && f->size < 1024 && memcmp(f->map.data, "version https://git-", 20) == 0)
        return cake_fail(err, CAKE_EFORMAT,
                         "'%s' is a Git LFS pointer, not the file itself; run: git lfs pull", path);
    return CAKE_OK;
}

static void close_file(cake_checkpoint_file *f) {
    cake_safetensors_deinit(&f->st);
    cake_map_close(&f->map);
    if (f->fd >= 0) close(f->fd);
    free(f->path);
}

/* The mapped file, appended to c->files. */
static cake_status add_map(cake_checkpoint *c, const char *path, cake_error *err) {
    if (c->n_files == FILES_MAX)
        return cake_fail(err, CAKE_EFORMAT, "'%s' holds more than %d weight files", c->dir,
                         FILES_MAX);
    c->files = cake_realloc(c->files, (c->n_files + 1) * sizeof *c->files);
    return map_file(&c->files[c->n_files++], path, err);
}

static cake_status add_file(cake_checkpoint *c, const char *name, cake_error *err) {
    char *path = cake_path_join(c->dir, name);
    cake_status st = add_map(c, path, err);
    if (st == CAKE_OK) {
        cake_checkpoint_file *f = &c->files[c->n_files - 1];
        st = cake_safetensors_parse(&f->st, f->map.data, f->map.size, f->size, 0, path, err);
    }
    free(path);
    return st;
}

/* One table over all files, refusing a name that two files hold. */
static cake_status build_table(cake_checkpoint *c, cake_error *err) {
    size_t n = 0, at = 0;
    for (uint32_t i = 0; i < c->n_files; i++) n += c->files[i].st.n_tensors;
    if (n > CAKE_ST_TENSORS_MAX)
        return cake_fail(err, CAKE_EFORMAT, "'%s': more than 1000000 tensors", c->dir);
    c->tensors = cake_trymalloc(n * sizeof *c->tensors);
    if (!c->tensors) return cake_fail(err, CAKE_ENOMEM, "no memory for a table of %zu tensors", n);
    for (uint32_t i = 0; i < c->n_files; i++) {
        const cake_checkpoint_file *f = &c->files[i];
        for (size_t j = 0; j < f->st.n_tensors; j++) {
            const cake_st_tensor *s = &f->st.tensors[j];
            cake_tensor *t = &c->tensors[at];
            *t = (cake_tensor){.name = s->name,
                               .n_bytes = s->end - s->begin,
                               .rank = s->rank,
                               .dtype = s->dtype,
                               .file = i,
                               .file_offset = f->st.data_at + s->begin};
            memcpy(t->shape, s->shape, sizeof t->shape);
            if (t->n_bytes) t->data = f->map.data + t->file_offset;
            c->n_bytes += t->n_bytes;
            switch (cake_names_add(&c->names, s->name, s->name_len, (uint32_t)at)) {
            case CAKE_NAMES_ADDED: break;
            case CAKE_NAMES_THERE:
                return cake_fail(
                    err, CAKE_EFORMAT,
                    "tensor '%.200s' is both in '%s' and in '%s'; remove the file that "
                    "does not belong to the model",
                    s->name, c->files[c->tensors[cake_checkpoint_find(c, s->name)].file].path,
                    f->path);
            case CAKE_NAMES_NOMEM: return cake_fail(err, CAKE_ENOMEM, "out of memory");
            }
            at++;
        }
    }
    c->n_tensors = (uint32_t)at;
    return CAKE_OK;
}

/* ---- GGUF ---- */

/* "MODEL-00001-of-00003.gguf": the number of parts, and where the part's number is in the path. */
static uint32_t parts_of(const char *path, size_t *at) {
    enum { TAIL = sizeof "00001-of-00003.gguf" - 1 };
    size_t n = strlen(path);
    unsigned part, parts;
    int end = 0;
    if (n <= TAIL || path[n - TAIL - 1] != '-' ||
        sscanf(path + n - TAIL, "%5u-of-%5u.gguf%n", &part, &parts, &end) != 2 || end != TAIL)
        return 1;
    *at = n - TAIL;
    return parts;
}

static cake_status check_part(const cake_gguf *g, uint32_t i, uint32_t n, cake_error *err) {
    uint64_t no = i, count = n;
    cake_status st = cake_gguf_uint(g, "split.no", n > 1, 0, UINT32_MAX, &no, err);
    if (st == CAKE_OK) st = cake_gguf_uint(g, "split.count", n > 1, 0, UINT32_MAX, &count, err);
    if (st != CAKE_OK) return st;
    if (count <= 1 && n == 1) return CAKE_OK;
    if (n == 1)
        return cake_fail(err, CAKE_EFORMAT,
                         "%s is part %llu of %llu of a split file; its name must end in "
                         "-%05llu-of-%05llu.gguf, with the other parts beside it",
                         g->what, (unsigned long long)no + 1, (unsigned long long)count,
                         (unsigned long long)no + 1, (unsigned long long)count);
    if (no != i || count != n)
        return cake_fail(err, CAKE_EFORMAT, "%s says that it is part %llu of %llu", g->what,
                         (unsigned long long)no + 1, (unsigned long long)count);
    return CAKE_OK;
}

static cake_status open_gguf(cake_checkpoint *c, const char *path, cake_error *err) {
    size_t at = 0;
    uint32_t n = parts_of(path, &at);
    if (n == 0 || n > FILES_MAX)
        return cake_fail(err, CAKE_EFORMAT, "'%s' names %u parts; 1 to %d are allowed", path, n,
                         FILES_MAX);
    cake_gguf *parts = cake_calloc(n, sizeof *parts);
    cake_gguf_model m = {0};
    cake_status st = CAKE_OK;
    for (uint32_t i = 0; i < n && st == CAKE_OK; i++) {
        char *part = n > 1 ? cake_asprintf("%.*s%05u%s", (int)at, path, i + 1, path + at + 5)
                           : cake_strdup(path);
        st = add_map(c, part, err);
        if (st == CAKE_ENOTFOUND && n > 1)
            st = cake_fail(err, st, "'%s' is missing (part %u of %u); copy or download it", part,
                           i + 1, n);
        if (st == CAKE_OK) {
            const cake_checkpoint_file *f = &c->files[i];
            st =
                cake_gguf_parse(&parts[i], f->map.data, f->map.size, CAKE_GGUF_NAME_MAX, part, err);
        }
        if (st == CAKE_OK) st = check_part(&parts[i], i, n, err);
        free(part);
    }
    if (st == CAKE_OK) st = cake_gguf_model_new(&m, parts, n, err);
    for (uint32_t i = 0; i < n; i++) cake_gguf_deinit(&parts[i]);
    free(parts);
    if (st != CAKE_OK) return st;
    c->tensors = m.tensors;
    c->n_tensors = m.n_tensors;
    c->strings = m.strings;
    c->config_text = m.config;
    for (uint32_t i = 0; i < c->n_tensors && st == CAKE_OK; i++) {
        cake_tensor *t = &c->tensors[i];
        c->n_bytes += t->n_bytes;
        if (t->n_bytes && !t->head_rows) t->data = c->files[t->file].map.data + t->file_offset;
        cake_names_result r = cake_names_add(&c->names, t->name, strlen(t->name), i);
        if (r == CAKE_NAMES_THERE)
            st = cake_fail(err, CAKE_EFORMAT, "'%s': two parts hold tensor '%s'", path, t->name);
        else if (r == CAKE_NAMES_NOMEM)
            st = cake_fail(err, CAKE_ENOMEM, "out of memory");
    }
    return st;
}

uint64_t cake_tensor_extent(const cake_tensor *t, uint64_t at, uint64_t *file_offset) {
    if (!t->head_rows) return *file_offset = t->file_offset + at, t->n_bytes - at;
    uint64_t row_bytes = t->n_bytes / t->shape[0], row = at / row_bytes, in = at % row_bytes;
    uint64_t r = row % t->head_rows, half = t->head_rows / 2;
    uint64_t stored = row - r + 2 * (r % half) + r / half;
    *file_offset = t->file_offset + stored * row_bytes + in;
    return row_bytes - in;
}

cake_status cake_checkpoint_read(const cake_checkpoint *c, const cake_tensor *t, uint64_t at,
                                 void *to, size_t n, cake_error *err) {
    const cake_checkpoint_file *f = &c->files[t->file];
    uint8_t *p = to;
    while (n) {
        uint64_t from, run = cake_tensor_extent(t, at, &from);
        size_t k = run < n ? (size_t)run : n;
        cake_status st = cake_pread_all(f->fd, p, k, from, err);
        if (st != CAKE_OK) return cake_fail_in(err, st, "'%s'", f->path);
        p += k, at += k, n -= k;
    }
    return CAKE_OK;
}

const uint8_t *cake_checkpoint_bytes(const cake_checkpoint *c, const cake_tensor *t,
                                     uint8_t **owned) {
    *owned = NULL;
    if (!t->head_rows) return t->data;
    uint8_t *to = *owned = cake_trymalloc((size_t)t->n_bytes);
    for (uint64_t at = 0, k, from; to && at < t->n_bytes; at += k) {
        k = cake_tensor_extent(t, at, &from);
        memcpy(to + at, c->files[t->file].map.data + from, (size_t)k);
    }
    return to;
}

cake_status cake_checkpoint_config(const cake_checkpoint *c, char **text, size_t *len,
                                   cake_error *err) {
    if (!c->config_text)
        return cake_file_read(c->config_path, CAKE_CONFIG_FILE_MAX, text, len, err);
    *text = cake_strdup(c->config_text);
    *len = strlen(*text);
    return CAKE_OK;
}

/* ---- safetensors ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static cake_status open_indexed(cake_checkpoint *c, const char *index_path, cake_error *err) {
    char *text = NULL, **shards = NULL;
    size_t len, n_shards = 0;
    cake_index ix = {0};
    cake_names seen = {0};
    cake_status st = cake_file_read(index_path, INDEX_MAX, &text, &len, err);
    if (st != CAKE_OK) goto out;
    if ((st = cake_index_parse(&ix, text, len, index_path, err)) != CAKE_OK) goto out;
    for (size_t i = 0; i < ix.n_entries; i++) {
        const char *file = ix.entries[i].file;
        cake_names_result r = cake_names_add(&seen, file, strlen(file), 0);
        if (r == CAKE_NAMES_THERE) continue;
        if (r == CAKE_NAMES_NOMEM || n_shards == FILES_MAX) {
            st = cake_fail(err, CAKE_EFORMAT, "%s: more than %d shards", index_path, FILES_MAX);
            goto out;
        }
        shards = cake_realloc(shards, (n_shards + 1) * sizeof *shards);
        shards[n_shards++] = cake_strdup(file);
    }
    if (n_shards == 0) {
        st = cake_fail(err, CAKE_EFORMAT, "%s: lists no tensor", index_path);
        goto out;
    }
    qsort(shards, n_shards, sizeof *shards, by_name);
    for (size_t i = 0; i < n_shards; i++) {
        if ((st = add_file(c, shards[i], err)) == CAKE_OK) continue;
        if (st == CAKE_ENOTFOUND)
            st =
                cake_fail(err, st,
                          "shard '%s' is missing from '%s' (shard %zu of %zu named by %s); copy or "
                          "download it",
                          shards[i], c->dir, i + 1, n_shards, INDEX_NAME);
        goto out;
    }
    if ((st = build_table(c, err)) != CAKE_OK) goto out;
    for (size_t i = 0; i < ix.n_entries; i++) {
        int32_t t = cake_checkpoint_find(c, ix.entries[i].tensor);
        if (t < 0) {
            st = cake_fail(err, CAKE_EFORMAT,
                           "%s names tensor '%.200s' in '%s', which does not hold it", index_path,
                           ix.entries[i].tensor, ix.entries[i].file);
            goto out;
        }
        if (strcmp(c->files[c->tensors[t].file].name, ix.entries[i].file) != 0) {
            st =
                cake_fail(err, CAKE_EFORMAT, "%s places tensor '%.200s' in '%s', but it is in '%s'",
                          index_path, ix.entries[i].tensor, ix.entries[i].file,
                          c->files[c->tensors[t].file].name);
            goto out;
        }
    }
    if (c->n_tensors > ix.n_entries)
        warn(c, cake_asprintf("%zu tensors are in the shards of '%s' but not in %s",
                              c->n_tensors - ix.n_entries, c->dir, INDEX_NAME));
    if (ix.has_total_size && ix.total_size != c->n_bytes)
        warn(c, cake_asprintf("%s says total_size %llu, the tensors have %llu bytes", index_path,
                              (unsigned long long)ix.total_size, (unsigned long long)c->n_bytes));
out:
    for (size_t i = 0; i < n_shards; i++) free(shards[i]);
    free(shards);
    cake_names_deinit(&seen);
    cake_index_deinit(&ix);
    free(text);
    return st;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static cake_status open_glob(cake_checkpoint *c, cake_error *err) {
    DIR *d = opendir(c->dir);
    if (!d) return cake_fail(err, CAKE_EIO, "cannot list '%s': %s", c->dir, strerror(errno));
    char **names = NULL;
    size_t n = 0;
    bool other = false;
    for (struct dirent *e; (e = readdir(d)) && n <= FILES_MAX;) {
        if (ends_with(e->d_name, ".bin") || ends_with(e->d_name, ".pth")) other = true;
        if (strncmp(e->d_name, "model", 5) != 0 || !ends_with(e->d_name, ".safetensors")) continue;
        names = cake_realloc(names, (n + 1) * sizeof *names);
        names[n++] = cake_strdup(e->d_name);
    }
    closedir(d);
    cake_status st = CAKE_OK;
    if (n == 0)
        st = cake_fail(err, CAKE_ENOTFOUND,
                       "no model*.safetensors in '%s'%s; give the folder of a safetensors model",
                       c->dir, other ? " (only files of other formats)" : "");
    if (n) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n && st == CAKE_OK; i++) st = add_file(c, names[i], err);
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
    return st == CAKE_OK ? build_table(c, err) : st;
}

cake_status cake_checkpoint_open(cake_checkpoint **out, const char *path, cake_error *err) {
    struct stat sb;
    if (stat(path, &sb) != 0)
        return cake_fail(err, errno == ENOENT || errno == ENOTDIR ? CAKE_ENOTFOUND : CAKE_EIO,
                         "cannot open the model '%s': %s", path, strerror(errno));
    cake_checkpoint *c = cake_calloc(1, sizeof *c);
    char *gguf = NULL;
    cake_status st = cake_gguf_find_file(path, &gguf, err);
    const char *file = gguf ? gguf : path, *slash = strrchr(file, '/');
    if (S_ISDIR(sb.st_mode))
        c->dir = cake_strdup(path);
    else
        c->dir = slash ? cake_strndup(path, slash == file ? 1 : (size_t)(slash - file))
                       : cake_strdup(".");
    c->config_path = gguf ? cake_strdup(gguf) : cake_path_join(c->dir, "config.json");
    if (st == CAKE_OK && gguf) {
        st = open_gguf(c, gguf, err);
    } else if (st == CAKE_OK && S_ISDIR(sb.st_mode)) {
        char *index = cake_path_join(path, INDEX_NAME);
        st = cake_file_exists(index) ? open_indexed(c, index, err) : open_glob(c, err);
        free(index);
    } else if (st == CAKE_OK) {
        st = add_file(c, slash ? slash + 1 : path, err);
        if (st == CAKE_OK) st = build_table(c, err);
    }
    free(gguf);
    if (st != CAKE_OK)
        cake_checkpoint_close(c);
    else
        *out = c;
    return st;
}

void cake_checkpoint_close(cake_checkpoint *c) {
    if (!c) return;
    for (uint32_t i = 0; i < c->n_files; i++) close_file(&c->files[i]);
    for (uint32_t i = 0; i < c->n_warnings; i++) free(c->warnings[i]);
    cake_names_deinit(&c->names);
    free(c->warnings);
    free(c->files);
    free(c->tensors);
    free(c->dir);
    free(c->config_path);
    free(c->config_text);
    free(c->strings);
    free(c);
}

int32_t cake_checkpoint_find(const cake_checkpoint *c, const char *name) {
    uint32_t i;
    return cake_names_find(&c->names, name, strlen(name), &i) ? (int32_t)i : -1;
}
