/* The bundle store: see store.h for the layout on disk and the promises. */
#include "worker/store/store.h"
#include "common/file.h"
#include "common/mem.h"
#include "worker/store/folder.h"
#include "worker/store/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { PARTS_MAX = 16 };

/* ---- the store ---- */

static void lock_store(cake_store *s) {
    while (flock(s->lock_fd, LOCK_EX) != 0 && errno == EINTR) {
    }
}
static void unlock_store(cake_store *s) {
    flock(s->lock_fd, LOCK_UN);
}

/* Out of sight at once, then deleted; a crash in between leaves a .trash for the next open. */
static void discard(cake_store *s, const char *path) {
    char *trash = cake_asprintf("%s/.trash-%d-%u", s->bundles, (int)getpid(), s->n_trash++);
    if (rename(path, trash) == 0)
        cake_folder_remove(trash);
    else
        cake_folder_remove(path);
    free(trash);
}

static void sweep_trash(cake_store *s);

cake_status cake_store_open(cake_store **out, const char *dir, uint64_t budget_bytes,
                            cake_error *err) {
    cake_store *s = cake_calloc(1, sizeof *s);
    s->lock_fd = -1;
    s->budget = budget_bytes;
    s->dir = cake_strdup(dir);
    s->bundles = cake_path_join(dir, "bundles");
    char *lock = cake_path_join(dir, "store.lock");
    cake_status st = cake_mkdir_p(s->bundles, 0700, err);
    if (st == CAKE_OK) {
        s->lock_fd = open(lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (s->lock_fd < 0)
            st = cake_fail(err, CAKE_EIO, "cannot use the cache folder '%s': %s", dir,
                           strerror(errno));
    }
    free(lock);
    if (st != CAKE_OK) {
        cake_store_close(s);
        return st;
    }
    lock_store(s);
    sweep_trash(s);
    unlock_store(s);
    *out = s;
    return CAKE_OK;
}

void cake_store_close(cake_store *s) {
    if (!s) return;
    cake_assert(s->n_open == 0);
    if (s->lock_fd >= 0) close(s->lock_fd);
    free(s->dir);
    free(s->bundles);
    free(s);
}

uint64_t cake_store_used(cake_store *s) {
    return cake_folder_bytes(s->bundles);
}

static void sweep_trash(cake_store *s) {
    DIR *d = opendir(s->bundles);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strncmp(e->d_name, ".trash-", 7) != 0) continue;
        char *path = cake_path_join(s->bundles, e->d_name);
        cake_folder_remove(path);
        free(path);
    }
    if (d) closedir(d);
}

uint64_t cake_store_seed(const cake_manifest *m) {
    uint64_t v;
    memcpy(&v, m->id.bytes, sizeof v);
    return v;
}

/* ---- room on disk ---- */

typedef struct {
    const cake_folder *f;
    uint64_t shared; /* bytes the new bundle can take over from it */
} victim;

/* Without use to the new bundle first, then the longest unused. */
static int better_victim(const void *a, const void *b) {
    const victim *x = a, *y = b;
    if (!x->shared != !y->shared) return x->shared ? 1 : -1;
    return x->f->used_ns < y->f->used_ns ? -1 : x->f->used_ns > y->f->used_ns;
}

static bool evict(cake_store *s, const cake_folder *f) {
    int fd = cake_folder_lock(f->path, LOCK_EX);
    if (fd < 0) return false; /* in use */
    discard(s, f->path);
    close(fd);
    return true;
}

/* Free disk for what the part at own_path still needs of m->size bytes, the store lock held.
 * Folders the new bundle can copy from are only named in late[] (room for n_late): the caller
 * evicts them after copying. own_path may not exist yet. */
static cake_status make_room(cake_store *s, const cake_manifest *m, const char *own_path,
                             cake_folder *list, size_t n, bool *late, cake_error *err) {
    victim *v = cake_calloc(n, sizeof *v);
    uint64_t used = 0, own = 0, evictable = 0, need = m->size + m->json_len + m->config_bytes;
    size_t n_victims = 0;
    struct statvfs fs;
    uint64_t disk_free =
        statvfs(s->bundles, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : UINT64_MAX;
    cake_status st = CAKE_OK;
    for (size_t i = 0; i < n; i++) {
        late[i] = false;
        used += list[i].bytes;
        if (strcmp(list[i].path, own_path) == 0) {
            own = list[i].bytes;
            continue;
        }
        int fd = cake_folder_lock(list[i].path, LOCK_EX);
        if (fd < 0) continue;
        close(fd);
        evictable += list[i].bytes;
        v[n_victims++] = (victim){&list[i], cake_store_shared_bytes(m, list[i].path, list[i].part)};
    }
    uint64_t more = need > own ? need - own : 0; /* still to be allocated */
    uint64_t over_budget = s->budget && used + more > s->budget ? used + more - s->budget : 0;
    uint64_t over_disk = more > disk_free ? more - disk_free : 0;
    if (over_budget > evictable || over_disk > evictable) {
        bool budget = over_budget > evictable;
        st = cake_fail(err, CAKE_ENOSPACE,
                       "a bundle of %llu MB does not fit into '%s': %s %llu MB, %llu MB are held "
                       "by bundles in use; %s",
                       (unsigned long long)(need >> 20), s->dir,
                       budget ? "the cache may take" : "the disk has",
                       (unsigned long long)((budget ? s->budget : disk_free + used) >> 20),
                       (unsigned long long)((used - evictable - own) >> 20),
                       budget ? "raise the limit of the cache"
                              : "free some disk or choose another --cache folder");
        goto out;
    }
    if (n_victims) qsort(v, n_victims, sizeof *v, better_victim);
    for (size_t i = 0; i < n_victims && (over_budget || over_disk); i++) {
        uint64_t freed = v[i].f->bytes;
        /* Copies need the disk too: only a budget can wait until they are made. */
        if (v[i].shared && !over_disk)
            late[v[i].f - list] = true;
        else if (!evict(s, v[i].f))
            continue;
        over_budget -= freed < over_budget ? freed : over_budget;
        over_disk -= freed < over_disk ? freed : over_disk;
    }
out:
    free(v);
    return st;
}

/* A complete bundle needs no room, but whoever received it may have died before evicting what it
 * was copied from. Store lock held. */
static void keep_to_budget(cake_store *s, const cake_manifest *m, const char *own_path) {
    size_t n;
    cake_folder *list = cake_folders_list(s->bundles, &n);
    bool *late = cake_calloc(n, sizeof *late);
    if (make_room(s, m, own_path, list, n, late, NULL) == CAKE_OK)
        for (size_t i = 0; i < n; i++)
            if (late[i]) evict(s, &list[i]);
    cake_folders_free(list, n);
    free(late);
}

/* ---- parts ---- */

static char *child(const cake_store_bundle *b, const char *name) {
    return cake_path_join(b->path, name);
}

static void close_bundle(cake_store_bundle *b) {
    cake_journal_close(&b->journal);
    if (b->data_fd >= 0) close(b->data_fd);
    if (b->lock_fd >= 0) close(b->lock_fd);
    b->data_fd = b->lock_fd = -1;
    if (b->stream) cake_sha256_end(b->stream);
    b->stream = NULL;
    cake_extents_deinit(&b->have);
}

static void free_bundle(cake_store_bundle *b) {
    close_bundle(b);
    cake_manifest_free(b->manifest);
    free(b->verified);
    free(b->path);
    free(b);
}

/* The file at path holds exactly data. */
static bool file_is(const char *path, const char *data, size_t len) {
    char *text = NULL;
    size_t n;
    bool same = cake_file_read(path, len, &text, &n, NULL) == CAKE_OK && n == len &&
                memcmp(text, data, len) == 0;
    free(text);
    return same;
}

/* The folder of b holds this manifest and config and a data file of the right size. */
static bool folder_fits(const cake_store_bundle *b, const char *config, size_t config_len) {
    char *manifest = child(b, "manifest.json"), *conf = child(b, "config.json"),
         *data = child(b, "model.safetensors");
    struct stat sb;
    bool ok = lstat(data, &sb) == 0 && S_ISREG(sb.st_mode) &&
              (uint64_t)sb.st_size == b->manifest->size &&
              file_is(manifest, b->manifest->json, b->manifest->json_len) &&
              file_is(conf, config, config_len);
    free(manifest);
    free(conf);
    free(data);
    return ok;
}

static cake_status open_data(cake_store_bundle *b, int flags, cake_error *err) {
    char *data = child(b, "model.safetensors");
    cake_status st = CAKE_OK;
    b->data_fd = open(data, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (b->data_fd < 0)
        st = cake_fail(err, CAKE_EIO, "cannot open '%s': %s", data, strerror(errno));
    free(data);
    return st;
}

/* Files for a new part, in an order that a crash cannot make look finished: manifest.json last. */
static cake_status fill_part(cake_store_bundle *b, const char *config, size_t config_len,
                             cake_error *err) {
    const cake_manifest *m = b->manifest;
    char *manifest = child(b, "manifest.json"), *conf = child(b, "config.json");
    unlink(manifest);
    cake_status st = open_data(b, O_RDWR | O_CREAT | O_TRUNC, err);
    if (st != CAKE_OK) goto out;
    if (m->size > INT64_MAX || ftruncate(b->data_fd, (off_t)m->size) != 0) {
        st = cake_fail(err, CAKE_ENOSPACE, "the file system cannot hold a bundle of %llu bytes",
                       (unsigned long long)m->size);
        goto out;
    }
    if ((st = cake_file_write(conf, config, config_len, 0600, err)) == CAKE_OK)
        st = cake_file_write(manifest, m->json, m->json_len, 0600, err);
out:
    free(manifest);
    free(conf);
    return st;
}

/* Open or create the part at b->path, whose lock is held. */
static cake_status open_part(cake_store_bundle *b, const char *config, size_t config_len,
                             cake_error *err) {
    const cake_manifest *m = b->manifest;
    char *journal = child(b, "journal");
    bool fits = folder_fits(b, config, config_len);
    cake_status st = fits ? open_data(b, O_RDWR, err) : fill_part(b, config, config_len, err);
    if (st != CAKE_OK) goto out;
    if (fits) cake_journal_load(journal, cake_store_seed(m), m->size, &b->have);
    /* Take the blocks now: a full disk is known before anything is sent. */
    if (fallocate(b->data_fd, 0, 0, (off_t)m->size) != 0 &&
        (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
        st = cake_fail(err, CAKE_ENOSPACE,
                       "no room for a bundle of %llu MB in '%s': %s; free some disk or choose "
                       "another --cache folder",
                       (unsigned long long)(m->size >> 20), b->store->dir, strerror(errno));
        goto out;
    }
    /* The header follows from the manifest: it is never sent. */
    if ((st = cake_pwrite_all(b->data_fd, m->prefix, m->prefix_len, 0, err)) != CAKE_OK) {
        cake_fail_in(err, st, "'%s'", b->path);
        goto out;
    }
    cake_extents_add(&b->have, 0, m->prefix_len);
    st = cake_journal_create(&b->journal, journal, cake_store_seed(m), &b->have, err);
out:
    free(journal);
    return st;
}

/* ---- begin ---- */

static char *final_path(const cake_store_bundle *b) {
    char hex[CAKE_SHA256_HEX];
    cake_sha256_hex(&b->manifest->id, hex);
    return cake_path_join(b->store->bundles, hex);
}

static char *part_path(const char *final, int k) {
    return k ? cake_asprintf("%s.part.%d", final, k) : cake_asprintf("%s.part", final);
}

/* A complete bundle at b->path, the store lock held: CAKE_ENOTFOUND when there is none to use. */
static cake_status open_complete(cake_store_bundle *b, const char *config, size_t config_len,
                                 cake_error *err) {
    if (!cake_dir_exists(b->path)) return CAKE_ENOTFOUND;
    bool fits = folder_fits(b, config, config_len);
    if (fits) {
        b->lock_fd = cake_folder_lock(b->path, LOCK_SH);
        if (b->lock_fd < 0)
            return cake_fail(err, CAKE_EAGAIN,
                             "'%s' is being repaired by another process; try again", b->path);
        char *journal = child(b, "journal");
        unlink(journal); /* left by a kill right after the rename */
        free(journal);
        futimens(b->lock_fd, NULL);
        return open_data(b, O_RDONLY, err);
    }
    int fd = cake_folder_lock(b->path, LOCK_EX);
    if (fd < 0)
        return cake_fail(err, CAKE_EIO, "'%s' is damaged and in use; stop the other worker",
                         b->path);
    discard(b->store, b->path);
    close(fd);
    return CAKE_ENOTFOUND;
}

/* Lock the first part folder nobody else receives into. */
static cake_status claim_part(cake_store_bundle *b, const char *final, cake_error *err) {
    for (int k = 0; k < PARTS_MAX; k++) {
        free(b->path);
        b->path = part_path(final, k);
        if (mkdir(b->path, 0700) != 0 && errno != EEXIST)
            return cake_fail(err, errno == ENOSPC || errno == EDQUOT ? CAKE_ENOSPACE : CAKE_EIO,
                             "cannot create the folder '%s': %s", b->path, strerror(errno));
        b->lock_fd = cake_folder_lock(b->path, LOCK_EX);
        if (b->lock_fd >= 0) {
            futimens(b->lock_fd, NULL);
            return CAKE_OK;
        }
    }
    return cake_fail(err, CAKE_EAGAIN, "%d processes are receiving the same bundle into '%s'",
                     PARTS_MAX, b->store->dir);
}

static cake_status begin_part(cake_store_bundle *b, const char *config, size_t config_len,
                              cake_error *err) {
    cake_store *s = b->store;
    const cake_manifest *m = b->manifest;
    char *final = final_path(b);
    size_t n;
    bool *late = NULL;
    cake_folder *list = NULL;
    cake_status st = claim_part(b, final, err);
    bool was_there = st == CAKE_OK && folder_fits(b, config, config_len);
    if (st == CAKE_OK) {
        list = cake_folders_list(s->bundles, &n);
        late = cake_calloc(n, sizeof *late);
        st = make_room(s, m, b->path, list, n, late, err);
    }
    if (st == CAKE_OK) st = open_part(b, config, config_len, err);
    if (st != CAKE_OK) {
        /* Nothing is left behind that was not there before. */
        if (b->lock_fd >= 0 && !was_there) discard(s, b->path);
        goto out;
    }
    b->verified = cake_trymalloc(m->n_tensors * sizeof *b->verified);
    if (!b->verified) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory for %u tensors", m->n_tensors);
        goto out;
    }
    memset(b->verified, 0, m->n_tensors * sizeof *b->verified);
    /* Copying takes time: hold only the locks of the sources meanwhile. */
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i].path, b->path) == 0) continue;
        int fd = cake_folder_lock(list[i].path, LOCK_SH);
        if (fd < 0) continue;
        unlock_store(s);
        cake_store_reuse(b, list[i].path, list[i].part);
        lock_store(s);
        close(fd);
        if (late[i]) evict(s, &list[i]);
    }
out:
    if (list) cake_folders_free(list, n);
    free(late);
    free(final);
    return st;
}

cake_status cake_store_begin(cake_store *s, const char *manifest, size_t manifest_len,
                             const char *config, size_t config_len, cake_store_bundle **out,
                             cake_error *err) {
    cake_store_bundle *b = cake_calloc(1, sizeof *b);
    *b = (cake_store_bundle){.store = s, .lock_fd = -1, .data_fd = -1, .journal.fd = -1};
    cake_status st = cake_manifest_parse(&b->manifest, manifest, manifest_len, err);
    if (st != CAKE_OK) {
        free_bundle(b);
        return st;
    }
    const cake_manifest *m = b->manifest;
    cake_sha256 h = cake_sha256_of(config, config_len);
    if (config_len != m->config_bytes || memcmp(&h, &m->config_sha256, sizeof h) != 0)
        st = cake_fail(err, CAKE_EFORMAT, "config.json is not the one that the manifest names");
    h = cake_sha256_of(NULL, 0);
    for (uint32_t i = 0; i < m->n_tensors && st == CAKE_OK; i++)
        if (m->tensors[i].n_bytes == 0 && memcmp(&h, &m->tensors[i].sha256, sizeof h) != 0)
            st = cake_fail(err, CAKE_EFORMAT, "manifest: empty tensor '%s' has an impossible hash",
                           m->tensors[i].name);
    if (st == CAKE_OK) {
        lock_store(s);
        b->path = final_path(b);
        st = open_complete(b, config, config_len, err);
        b->complete = st == CAKE_OK;
        if (b->complete && s->budget) keep_to_budget(s, m, b->path);
        if (st == CAKE_ENOTFOUND) st = begin_part(b, config, config_len, err);
        unlock_store(s);
    }
    if (st != CAKE_OK) {
        free_bundle(b);
        return st;
    }
    s->n_open++;
    *out = b;
    return CAKE_OK;
}

void cake_store_release(cake_store_bundle *b) {
    if (!b) return;
    if (b->lock_fd >= 0) futimens(b->lock_fd, NULL);
    b->store->n_open--;
    free_bundle(b);
}

const cake_manifest *cake_store_manifest(const cake_store_bundle *b) {
    return b->manifest;
}
bool cake_store_complete(const cake_store_bundle *b) {
    return b->complete;
}
const char *cake_store_path(const cake_store_bundle *b) {
    return b->path;
}
uint64_t cake_store_reused_bytes(const cake_store_bundle *b) {
    return b->reused;
}
uint64_t cake_store_damaged(const cake_store_bundle *b) {
    return b->damaged;
}

size_t cake_store_missing(const cake_store_bundle *b, cake_store_range *out, size_t max) {
    size_t n = 0;
    uint64_t at = 0;
    while (!b->complete && n < max && cake_extents_gap(&b->have, at, b->manifest->size, &out[n]))
        at = out[n++].end;
    return n;
}

uint64_t cake_store_missing_bytes(const cake_store_bundle *b) {
    return b->complete ? 0 : b->manifest->size - cake_extents_bytes(&b->have);
}

/* ---- receiving ---- */

/* The first tensor that ends after `offset`. */
static uint32_t tensor_after(const cake_manifest *m, uint64_t offset) {
    uint32_t lo = 0, hi = m->n_tensors;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (m->tensors[mid].offset + m->tensors[mid].n_bytes > offset)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static cake_status mark_missing(cake_store_bundle *b, uint32_t i, cake_error *err) {
    const cake_manifest_tensor *t = &b->manifest->tensors[i];
    cake_store_range r = {t->offset, t->offset + t->n_bytes};
    b->damaged++;
    b->verified[i] = false;
    /* When there is no room to say so in the journal, a restart finds it out again. */
    cake_journal_append(&b->journal, r, true, NULL);
    if (!cake_extents_remove(&b->have, r.begin, r.end))
        return cake_fail(err, CAKE_EPROTO, "too many separate ranges of one bundle");
    return CAKE_OK;
}

/* Bytes [at, at+len) of tensor i were just written: hash along while they come in order. */
static void stream(cake_store_bundle *b, uint32_t i, uint64_t at, const uint8_t *data, size_t len) {
    if (at == 0) {
        if (b->stream) cake_sha256_end(b->stream);
        b->stream = cake_sha256_new();
        b->stream_tensor = i;
        b->stream_at = 0;
    }
    if (!b->stream || b->stream_tensor != i || b->stream_at != at) return;
    cake_sha256_add(b->stream, data, len);
    b->stream_at += len;
}

/* Tensor i has arrived completely. */
static cake_status check_arrived(cake_store_bundle *b, uint32_t i, cake_error *err) {
    const cake_manifest_tensor *t = &b->manifest->tensors[i];
    bool ok = false;
    if (b->stream && b->stream_tensor == i && b->stream_at == t->n_bytes) {
        cake_sha256 h = cake_sha256_end(b->stream);
        b->stream = NULL;
        ok = memcmp(&h, &t->sha256, sizeof h) == 0;
    } else {
        uint8_t *buf = cake_trymalloc(CAKE_STORE_READ);
        if (!buf) return CAKE_OK; /* finish will check it */
        cake_status st = cake_store_hash(b, i, buf, &ok, err);
        free(buf);
        if (st != CAKE_OK) return st;
    }
    if (!ok) return mark_missing(b, i, err);
    b->verified[i] = true;
    return CAKE_OK;
}

/* A range that was missing and lies in one piece. */
static cake_status write_gap(cake_store_bundle *b, cake_store_range r, const uint8_t *data,
                             cake_error *err) {
    const cake_manifest *m = b->manifest;
    cake_status st = cake_pwrite_all(b->data_fd, data, (size_t)(r.end - r.begin), r.begin, err);
    if (st != CAKE_OK) return cake_fail_in(err, st, "'%s'", b->path);
    if (!cake_extents_add(&b->have, r.begin, r.end))
        return cake_fail(err, CAKE_EPROTO, "too many separate ranges of one bundle");
    if ((st = cake_journal_append(&b->journal, r, false, err)) != CAKE_OK) {
        cake_extents_remove(&b->have, r.begin, r.end);
        return cake_fail_in(err, st, "'%s'", b->path);
    }
    for (uint32_t i = tensor_after(m, r.begin); i < m->n_tensors && m->tensors[i].offset < r.end;
         i++) {
        const cake_manifest_tensor *t = &m->tensors[i];
        uint64_t begin = t->offset > r.begin ? t->offset : r.begin, end = t->offset + t->n_bytes;
        bool whole = cake_extents_cover(&b->have, t->offset, end);
        if (end > r.end) end = r.end;
        if (begin >= end) continue;
        stream(b, i, begin - t->offset, data + (begin - r.begin), (size_t)(end - begin));
        if (whole && (st = check_arrived(b, i, err)) != CAKE_OK) return st;
    }
    return CAKE_OK;
}

cake_status cake_store_write(cake_store_bundle *b, uint64_t offset, const void *data, size_t len,
                             cake_error *err) {
    uint64_t size = b->manifest->size;
    if (b->complete || offset > size || len > size - offset)
        return cake_fail(err, CAKE_EPROTO, "bytes %llu + %zu of a bundle of %llu%s",
                         (unsigned long long)offset, len, (unsigned long long)size,
                         b->complete ? " that is complete" : "");
    cake_store_range gap;
    uint64_t at = offset, end = offset + len;
    /* Only what is missing: a late duplicate cannot damage what was verified. */
    while (at < end && cake_extents_gap(&b->have, at, end, &gap)) {
        cake_status st = write_gap(b, gap, (const uint8_t *)data + (gap.begin - offset), err);
        if (st != CAKE_OK) return st;
        at = gap.end;
    }
    return CAKE_OK;
}

/* ---- finish ---- */

static cake_status say_missing(const cake_store_bundle *b, cake_error *err) {
    return cake_fail(err, CAKE_EAGAIN,
                     "%llu bytes of the bundle are still missing (%llu tensors arrived damaged)",
                     (unsigned long long)cake_store_missing_bytes(b),
                     (unsigned long long)b->damaged);
}

/* Rename the finished part into place, the store lock held. */
static cake_status publish(cake_store_bundle *b, cake_error *err) {
    char *final = final_path(b), *journal = NULL;
    cake_status st = CAKE_OK;
    if (cake_dir_exists(final)) {
        /* Another process finished the same bundle first: ours is as good, the folder needs one. */
        int fd = cake_folder_lock(final, LOCK_EX);
        if (fd < 0) { /* in use: use it too */
            char *own = b->path;
            b->path = final;
            final = NULL;
            discard(b->store, own);
            free(own);
            close_bundle(b);
            b->lock_fd = cake_folder_lock(b->path, LOCK_SH);
            if (b->lock_fd < 0)
                st = cake_fail(err, CAKE_EAGAIN, "'%s' is being repaired by another process",
                               b->path);
            if (st == CAKE_OK) st = open_data(b, O_RDONLY, err);
            b->complete = st == CAKE_OK;
            return st;
        }
        discard(b->store, final);
        close(fd);
    }
    if (rename(b->path, final) != 0) {
        st = cake_fail(err, CAKE_EIO, "cannot rename '%s' to '%s': %s", b->path, final,
                       strerror(errno));
        free(final);
        return st;
    }
    free(b->path);
    b->path = final;
    journal = child(b, "journal");
    unlink(journal);
    free(journal);
    cake_folder_sync(b->store->bundles, NULL);
    int lock_fd = b->lock_fd, data_fd = b->data_fd;
    b->lock_fd = b->data_fd = -1;
    close_bundle(b);
    b->lock_fd = lock_fd, b->data_fd = data_fd;
    flock(b->lock_fd, LOCK_SH);
    b->complete = true;
    return CAKE_OK;
}

cake_status cake_store_finish(cake_store_bundle *b, cake_pool *pool, cake_error *err) {
    const cake_manifest *m = b->manifest;
    if (b->complete) return CAKE_OK;
    if (cake_store_missing_bytes(b)) return say_missing(b, err);
    bool *bad = cake_trymalloc(m->n_tensors * sizeof *bad);
    if (!bad) return cake_fail(err, CAKE_ENOMEM, "no memory to verify %u tensors", m->n_tensors);
    cake_status st = cake_store_hash_all(b, b->verified, pool, bad, err);
    for (uint32_t i = 0; i < m->n_tensors && st == CAKE_OK; i++) {
        if (bad[i])
            st = mark_missing(b, i, err);
        else
            b->verified[i] = true;
    }
    free(bad);
    if (st != CAKE_OK) return st;
    if (cake_store_missing_bytes(b)) return say_missing(b, err);
    if (fdatasync(b->data_fd) != 0)
        return cake_fail(err, errno == ENOSPC || errno == EDQUOT ? CAKE_ENOSPACE : CAKE_EIO,
                         "cannot sync '%s': %s", b->path, strerror(errno));
    if ((st = cake_folder_sync(b->path, err)) != CAKE_OK) return st;
    lock_store(b->store);
    st = publish(b, err);
    unlock_store(b->store);
    return st;
}

cake_status cake_store_adopt(cake_store *s, const char *folder, cake_pool *pool, cake_sha256 *id,
                             cake_error *err) {
    char *paths[] = {cake_path_join(folder, "manifest.json"),
                     cake_path_join(folder, "config.json")};
    char *manifest = NULL, *config = NULL;
    size_t manifest_len, config_len;
    cake_store_bundle *b = NULL;
    cake_status st = cake_file_read(paths[0], CAKE_MANIFEST_MAX, &manifest, &manifest_len, err);
    if (st == CAKE_OK)
        st = cake_file_read(paths[1], CAKE_CONFIG_FILE_MAX, &config, &config_len, err);
    if (st == CAKE_OK)
        st = cake_store_begin(s, manifest, manifest_len, config, config_len, &b, err);
    if (st != CAKE_OK) goto out;
    if (!b->complete) cake_store_reuse(b, folder, false);
    st = cake_store_finish(b, pool, err);
    if (st == CAKE_EAGAIN)
        st = cake_fail(err, CAKE_EFORMAT,
                       "the bundle in '%s' is damaged or incomplete; write it again", folder);
    if (st == CAKE_OK && id) *id = b->manifest->id;
out:
    cake_store_release(b);
    free(manifest);
    free(config);
    free(paths[0]);
    free(paths[1]);
    return st;
}

/* ---- verification of complete bundles ---- */

cake_status cake_store_check_tensor(const cake_store_bundle *b, uint32_t i, bool *ok,
                                    cake_error *err) {
    if (i >= b->manifest->n_tensors)
        return cake_fail(err, CAKE_EINVAL, "no tensor %u in the bundle", i);
    uint8_t *buf = cake_trymalloc(CAKE_STORE_READ);
    if (!buf) return cake_fail(err, CAKE_ENOMEM, "no memory to verify a tensor");
    cake_status st = cake_store_hash(b, i, buf, ok, err);
    free(buf);
    return st;
}

/* Turn a complete bundle back into a part without the tensors in bad[], the store lock held. */
static cake_status demote(cake_store_bundle *b, const bool *bad, cake_error *err) {
    const cake_manifest *m = b->manifest;
    cake_extents have = {0};
    char *part = NULL, *journal = child(b, "journal"), *final = cake_strdup(b->path);
    cake_journal j = {.fd = -1};
    cake_status st = CAKE_OK;
    if (flock(b->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        flock(b->lock_fd, LOCK_SH);
        st =
            cake_fail(err, CAKE_EIO,
                      "'%s' is damaged and in use by another worker; stop that one first", b->path);
        goto out;
    }
    bool *verified = cake_trymalloc(m->n_tensors * sizeof *verified);
    if (!verified) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory for %u tensors", m->n_tensors);
        goto out;
    }
    free(b->verified);
    b->verified = verified;
    cake_extents_add(&have, 0, m->size);
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        b->verified[i] = !bad[i];
        if (!bad[i]) continue;
        b->damaged++;
        if (!cake_extents_remove(&have, m->tensors[i].offset,
                                 m->tensors[i].offset + m->tensors[i].n_bytes)) {
            cake_extents_deinit(&have); /* so many: fetch all of it */
            memset(b->verified, 0, m->n_tensors * sizeof *b->verified);
            break;
        }
    }
    /* The header is cheap to make and may be what rotted: write it again on the way. */
    cake_extents_add(&have, 0, m->prefix_len);
    if ((st = cake_journal_create(&j, journal, cake_store_seed(m), &have, err)) != CAKE_OK)
        goto out;
    for (int k = 0; k < PARTS_MAX && !part; k++) {
        part = part_path(final, k);
        if (!cake_dir_exists(part)) break;
        int fd = cake_folder_lock(part, LOCK_EX);
        if (fd >= 0) { /* abandoned, and worth less than what we have */
            discard(b->store, part);
            close(fd);
            break;
        }
        free(part);
        part = NULL;
    }
    if (!part || rename(b->path, part) != 0) {
        st = cake_fail(err, CAKE_EIO, "cannot set '%s' aside for repair: %s", b->path,
                       strerror(errno));
        goto out;
    }
    b->complete = false;
    free(b->path);
    b->path = part;
    part = NULL;
    b->have = have;
    have = (cake_extents){0};
    b->journal = j;
    j.fd = -1;
    close(b->data_fd);
    b->data_fd = -1;
    if ((st = open_data(b, O_RDWR, err)) == CAKE_OK)
        st = cake_pwrite_all(b->data_fd, m->prefix, m->prefix_len, 0, err);
out:
    cake_journal_close(&j);
    cake_extents_deinit(&have);
    free(part);
    free(journal);
    free(final);
    return st;
}

cake_status cake_store_verify(cake_store_bundle *b, cake_pool *pool, cake_error *err) {
    const cake_manifest *m = b->manifest;
    if (!b->complete) return say_missing(b, err);
    bool *bad = cake_trymalloc(m->n_tensors * sizeof *bad);
    uint8_t *prefix = cake_trymalloc(m->prefix_len);
    cake_status st = CAKE_OK;
    if (!bad || !prefix) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory to verify %u tensors", m->n_tensors);
        goto out;
    }
    if ((st = cake_store_hash_all(b, NULL, pool, bad, err)) != CAKE_OK) goto out;
    uint32_t n_bad = 0, first = 0;
    for (uint32_t i = m->n_tensors; i-- > 0;)
        if (bad[i]) n_bad++, first = i;
    bool header_ok = cake_pread_all(b->data_fd, prefix, m->prefix_len, 0, NULL) == CAKE_OK &&
                     memcmp(prefix, m->prefix, m->prefix_len) == 0;
    if (!n_bad && header_ok) goto out;
    lock_store(b->store);
    st = demote(b, bad, err);
    unlock_store(b->store);
    if (st == CAKE_OK)
        st = cake_fail(
            err, CAKE_EAGAIN,
            "%u tensors of the cached bundle are damaged%s%s%s; they have to be fetched again",
            n_bad, n_bad ? " (first '" : "", n_bad ? m->tensors[first].name : " (its header)",
            n_bad ? "')" : "");
out:
    free(bad);
    free(prefix);
    return st;
}
