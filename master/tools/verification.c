/* Verifying checkpoints: see verification.h. */
#include "master/tools/verification.h"
#include "common/cli/human.h"
#include "common/file.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/model/layout.h"
#include "master/model/model.h"
#include "master/tools/source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK_WEIGHTS = 256 << 10, FINDINGS_MAX = 10000, FILES_MAX = 100000, PIECE = 1 << 20 };

/* ---- findings ---- */

static void add_text(char ***list, uint32_t *n, const char *text) {
    for (uint32_t i = 0; i < *n; i++)
        if (strcmp((*list)[i], text) == 0) return; /* units repeat what holds for all */
    if (*n == FINDINGS_MAX) return;
    if ((*n & (*n - 1)) == 0) *list = cake_realloc(*list, (*n ? 2 * *n : 1) * sizeof **list);
    (*list)[(*n)++] = cake_strdup(text);
}

static void __attribute__((format(printf, 2, 3)))
problem(cake_verification *v, const char *fmt, ...) {
    char text[CAKE_ERROR_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    add_text(&v->problems, &v->n_problems, text);
}

void cake_verification_deinit(cake_verification *v) {
    for (uint32_t i = 0; i < v->n_problems; i++) free(v->problems[i]);
    for (uint32_t i = 0; i < v->n_warnings; i++) free(v->warnings[i]);
    for (uint32_t i = 0; i < v->n_files; i++) free(v->files[i].name);
    for (uint32_t i = 0; i < v->n_errors; i++) free(v->errors[i].name);
    free(v->problems);
    free(v->warnings);
    free(v->files);
    free(v->errors);
    *v = (cake_verification){0};
}

/* ---- files ---- */

typedef struct {
    const char *dir;
    cake_verified_file *files;
    cake_error *errors; /* one per file */
    cake_progress *progress;
    int bar;
    atomic_ullong done;
} hashing;

static void hash_file(void *arg, size_t i, unsigned thread) {
    hashing *h = arg;
    cake_verified_file *f = &h->files[i];
    char *path = cake_path_join(h->dir, f->name);
    (void)thread;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *piece = cake_malloc(PIECE);
    cake_sha256_ctx *c = cake_sha256_new();
    cake_status st = CAKE_OK;
    if (fd < 0)
        st = cake_fail(&h->errors[i], CAKE_EIO, "cannot open '%s': %s", path, strerror(errno));
    for (uint64_t at = 0; st == CAKE_OK && at < f->n_bytes;) {
        const size_t n = f->n_bytes - at < PIECE ? (size_t)(f->n_bytes - at) : PIECE;
        if ((st = cake_pread_all(fd, piece, n, at, &h->errors[i])) != CAKE_OK)
            cake_fail_in(&h->errors[i], st, "'%s'", path);
        else
            cake_sha256_add(c, piece, n);
        at += n;
        unsigned long long done = atomic_fetch_add(&h->done, n) + n;
        if (h->progress) cake_progress_update(h->progress, h->bar, done);
    }
    f->sha256 = cake_sha256_end(c);
    free(piece);
    if (fd >= 0) close(fd);
    free(path);
}

static int by_file_name(const void *pa, const void *pb) {
    return strcmp(((const cake_verified_file *)pa)->name, ((const cake_verified_file *)pb)->name);
}

static void add_file(cake_verification *v, const char *dir, const char *name) {
    struct stat sb;
    char *path = cake_path_join(dir, name);
    const bool regular = stat(path, &sb) == 0 && S_ISREG(sb.st_mode);
    free(path);
    if (!regular || v->n_files == FILES_MAX) return;
    if ((v->n_files & (v->n_files - 1)) == 0)
        v->files = cake_realloc(v->files, (v->n_files ? 2 * v->n_files : 1) * sizeof *v->files);
    v->files[v->n_files++] =
        (cake_verified_file){.name = cake_strdup(name), .n_bytes = (uint64_t)sb.st_size};
}

static void hash_files(cake_verification *v, const char *dir, cake_pool *pool,
                       cake_progress *progress) {
    hashing h = {.dir = dir, .progress = progress};
    uint64_t total = 0;
    if (!v->n_files) return;
    for (uint32_t i = 0; i < v->n_files; i++) total += v->files[i].n_bytes;
    qsort(v->files, v->n_files, sizeof *v->files, by_file_name);
    h.files = v->files;
    h.errors = cake_calloc(v->n_files, sizeof *h.errors);
    if (progress) h.bar = cake_progress_start(progress, "hashing", total, CAKE_PROGRESS_BYTES);
    cake_pool_run(pool, v->n_files, hash_file, &h);
    if (progress) cake_progress_finish(progress, h.bar, true, NULL);
    for (uint32_t i = 0; i < v->n_files; i++)
        if (h.errors[i].status != CAKE_OK) problem(v, "%s", h.errors[i].msg);
    free(h.errors);
}

/* Every regular file right in the folder. */
static void hash_folder(cake_verification *v, const char *dir, cake_pool *pool,
                        cake_progress *progress) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) add_file(v, dir, e->d_name);
    if (d) closedir(d);
    hash_files(v, dir, pool, progress);
}

/* ---- rows of one or two checkpoints ---- */

typedef struct {
    double dd, aa, bb, ab, most;
    bool finite[2];
    cake_status st;
} sums;

typedef struct {
    const cake_source *s[2]; /* s[1] NULL: one alone */
    const cake_source_weight *w[2];
    uint32_t rows; /* of a chunk; parts of either begin at a multiple */
    size_t n_chunks;
    sums *chunks;
    uint8_t **buffers;         /* one per thread */
    size_t scratch[2], floats; /* sizes in a buffer */
    pthread_mutex_t lock;
    cake_error error; /* the first */
} rows_job;

static bool all_finite(const float *x, size_t n) {
    bool ok = true;
    for (size_t i = 0; i < n; i++) ok &= isfinite(x[i]) != 0;
    return ok;
}

/* Rows [row, row+n) of the whole weight, which lie in one part. */
static cake_status read_rows(const cake_source *s, const cake_source_weight *w, uint64_t row,
                             size_t n, void *scratch, float *out, cake_error *err) {
    const uint64_t part_rows = w->n_rows / w->n_parts;
    return cake_source_read(s, w, (uint32_t)(row / part_rows), row % part_rows, n, scratch, out,
                            err);
}

static void compare_chunk(void *arg, size_t c, unsigned thread) {
    rows_job *j = arg;
    const cake_source_weight *w = j->w[0];
    const uint64_t row = (uint64_t)c * j->rows;
    const size_t n_rows = w->n_rows - row < j->rows ? (size_t)(w->n_rows - row) : j->rows;
    const size_t n = n_rows * (size_t)w->k;
    uint8_t *buffer = j->buffers[thread];
    float *x[2] = {(float *)(void *)buffer, (float *)(void *)(buffer + j->floats)};
    sums r = {.finite = {true, true}};
    cake_error e = {0};
    for (int i = 0; i < 2 && j->s[i] && r.st == CAKE_OK; i++) {
        r.st = read_rows(j->s[i], j->w[i], row, n_rows, buffer + 2 * j->floats, x[i], &e);
        if (r.st == CAKE_OK) r.finite[i] = all_finite(x[i], n);
    }
    for (size_t i = 0; r.st == CAKE_OK && j->s[1] && i < n; i++) {
        const double a = (double)x[0][i], b = (double)x[1][i], d = b - a;
        r.dd += d * d;
        r.aa += a * a;
        r.bb += b * b;
        r.ab += a * b;
        if (fabs(d) > r.most) r.most = fabs(d);
    }
    if (r.st != CAKE_OK) {
        pthread_mutex_lock(&j->lock);
        if (!j->error.status) j->error = e;
        pthread_mutex_unlock(&j->lock);
    }
    j->chunks[c] = r;
}

static uint64_t gcd(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* All rows of w[0] (and w[1]) through all threads; chunk sums are added in order, so the result
 * does not depend on the threads. */
static sums run_rows(rows_job *j, cake_pool *pool) {
    const cake_source_weight *w = j->w[0];
    const unsigned n_threads = pool ? cake_pool_threads(pool) : 1;
    uint64_t unit = w->n_rows / w->n_parts, rows = CHUNK_WEIGHTS / w->k + 1;
    if (j->w[1]) unit = gcd(unit, j->w[1]->n_rows / j->w[1]->n_parts);
    /* The largest divisor of a part that is not above what one chunk shall have. */
    while (rows > 1 && unit % rows) rows--;
    j->rows = (uint32_t)(rows < unit ? rows : unit);
    j->n_chunks = (size_t)((w->n_rows + j->rows - 1) / j->rows);
    j->chunks = cake_calloc(j->n_chunks, sizeof *j->chunks);
    j->floats = cake_round_up(j->rows * (size_t)w->k * sizeof(float), 64);
    size_t scratch = 0;
    for (int i = 0; i < 2 && j->w[i]; i++) {
        size_t n = cake_source_scratch(j->w[i], j->rows);
        if (n > scratch) scratch = n;
    }
    j->buffers = cake_calloc(n_threads, sizeof *j->buffers);
    for (unsigned i = 0; i < n_threads; i++) j->buffers[i] = cake_malloc(2 * j->floats + scratch);
    cake_pool_run(pool, j->n_chunks, compare_chunk, j);
    sums all = {.finite = {true, true}};
    for (size_t c = 0; c < j->n_chunks; c++) {
        const sums *r = &j->chunks[c];
        if (r->st != CAKE_OK) all.st = r->st;
        all.dd += r->dd, all.aa += r->aa, all.bb += r->bb, all.ab += r->ab;
        if (r->most > all.most) all.most = r->most;
        for (int i = 0; i < 2; i++) all.finite[i] &= r->finite[i];
    }
    for (unsigned i = 0; i < n_threads; i++) free(j->buffers[i]);
    free(j->buffers);
    free(j->chunks);
    return all;
}

static void check_finite(cake_verification *v, const cake_source *s, cake_pool *pool,
                         cake_progress *progress) {
    uint64_t total = 0, done = 0;
    for (uint32_t i = 0; i < s->n; i++) total += s->w[i].n_bytes;
    int bar = progress ? cake_progress_start(progress, "checking", total, CAKE_PROGRESS_BYTES) : -1;
    for (uint32_t i = 0; i < s->n; i++) {
        rows_job j = {.s = {s, NULL}, .w = {&s->w[i], NULL}, .lock = PTHREAD_MUTEX_INITIALIZER};
        sums r = run_rows(&j, pool);
        if (r.st != CAKE_OK)
            problem(v, "%s", j.error.msg);
        else if (!r.finite[0])
            problem(v, "'%.200s' holds %s that are not finite", s->w[i].name,
                    s->w[i].format.kind == CAKE_FORMAT_FLOAT ? "weights" : "scales");
        done += s->w[i].n_bytes;
        if (progress) cake_progress_update(progress, bar, done);
    }
    if (progress) cake_progress_finish(progress, bar, true, NULL);
}

/* ---- one checkpoint ---- */

/* What the architecture asks for, unit by unit, so that each can tell its own problem. */
static void check_layout(cake_verification *v, const cake_model_config *c,
                         const cake_checkpoint *ck) {
    cake_error e = {0};
    cake_layout *l = NULL;
    if (cake_layout_new(&l, c, ck, NULL, 0, &e) == CAKE_OK) {
        cake_layout_free(l);
        return;
    }
    problem(v, "%s", e.msg);
    for (uint32_t u = 0; u < c->n_layers + 2; u++) {
        const cake_unit_range range = {u, u + 1};
        l = NULL;
        if (cake_layout_new(&l, c, ck, &range, 1, &e) != CAKE_OK) problem(v, "%s", e.msg);
        cake_layout_free(l);
    }
}

cake_status cake_verify(cake_verification *v, const char *arg, cake_pool *pool,
                        cake_progress *progress, cake_error *err) {
    *v = (cake_verification){0};
    char *path = NULL, *text = NULL;
    size_t len = 0;
    cake_checkpoint *ck = NULL;
    json_object *json = NULL;
    cake_quant *quant = NULL;
    cake_source *source = NULL;
    cake_model_config config = {0};
    cake_error e = {0};
    cake_status st = cake_model_resolve(arg, &path, err);
    if (st != CAKE_OK) return st;
    const bool folder = cake_dir_exists(path);
    if (folder) hash_folder(v, path, pool, progress);
    if (cake_checkpoint_open(&ck, path, &e) != CAKE_OK) {
        problem(v, "%s", e.msg);
        goto out;
    }
    for (uint32_t i = 0; i < ck->n_files && !folder; i++) add_file(v, ck->dir, ck->files[i].name);
    if (!folder) hash_files(v, ck->dir, pool, progress);
    for (uint32_t i = 0; i < ck->n_warnings; i++)
        add_text(&v->warnings, &v->n_warnings, ck->warnings[i]);
    if (cake_checkpoint_config(ck, &text, &len, &e) != CAKE_OK ||
        cake_json_parse(text, len, 64, ck->config_path, &json, &e) != CAKE_OK ||
        cake_quant_parse(json, &quant, &e) != CAKE_OK) {
        problem(v, "%s", e.msg);
        goto out;
    }
    for (const char *const *key = cake_quant_ignored_keys(quant); *key; key++) {
        char note[CAKE_ERROR_MAX];
        snprintf(note, sizeof note, "the quantization block has the unknown key '%.200s'", *key);
        add_text(&v->warnings, &v->n_warnings, note);
    }
    if (cake_config_parse(&config, text, len, ck->config_path, &e) != CAKE_OK)
        problem(v, "%s", e.msg);
    else
        check_layout(v, &config, ck);
    if (cake_source_new(&source, ck, quant, false, false, &e) != CAKE_OK)
        problem(v, "%s", e.msg);
    else
        check_finite(v, source, pool, progress);
out:
    cake_source_free(source);
    if (config.quant) cake_config_deinit(&config);
    cake_quant_free(quant);
    json_object_put(json);
    cake_checkpoint_close(ck);
    free(text);
    free(path);
    return CAKE_OK;
}

/* ---- two ---- */

static int worst_first(const void *pa, const void *pb) {
    const cake_weight_error *a = pa, *b = pb;
    if (a->relative_error != b->relative_error)
        return a->relative_error < b->relative_error ? 1 : -1;
    return strcmp(a->name, b->name);
}

static void compare(cake_verification *v, const cake_source *sa, const cake_source_weight *a,
                    const cake_source *sb, const cake_source_weight *b, cake_pool *pool) {
    char want[160], is[160];
    if (a->rank != b->rank || memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) != 0) {
        problem(v, "'%.200s' has the shape %s, in the source it has %s", b->name,
                cake_shape_text(b->rank, b->shape, is, sizeof is),
                cake_shape_text(a->rank, a->shape, want, sizeof want));
        return;
    }
    rows_job j = {.s = {sa, sb}, .w = {a, b}, .lock = PTHREAD_MUTEX_INITIALIZER};
    sums r = run_rows(&j, pool);
    if (r.st != CAKE_OK) {
        problem(v, "%s", j.error.msg);
        return;
    }
    if (!r.finite[0] || !r.finite[1]) {
        problem(v, "'%.200s' is not finite%s", b->name, r.finite[1] ? " in the source" : "");
        return;
    }
    cake_weight_error *e = &v->errors[v->n_errors++];
    *e = (cake_weight_error){.name = cake_strdup(b->path), .max_error = r.most};
    if (b->format.kind == CAKE_FORMAT_FLOAT)
        snprintf(e->format, sizeof e->format, "%s", cake_dtype_name(b->dtype));
    else
        cake_format_name(&b->format, e->format);
    e->relative_error = r.aa > 0 ? sqrt(r.dd / r.aa) : r.dd > 0 ? INFINITY : 0;
    e->cosine = r.aa > 0 && r.bb > 0 ? r.ab / (sqrt(r.aa) * sqrt(r.bb)) : r.dd > 0 ? 0 : 1;
}

cake_status cake_verify_against(cake_verification *v, const char *a, const char *b, cake_pool *pool,
                                cake_progress *progress, cake_error *err) {
    *v = (cake_verification){0};
    const char *const arg[2] = {a, b};
    cake_model m[2] = {{0}, {0}};
    cake_source *s[2] = {NULL, NULL};
    cake_status st = CAKE_OK;
    for (int i = 0; i < 2 && st == CAKE_OK; i++) {
        st = cake_model_open(&m[i], arg[i], err);
        if (st == CAKE_OK)
            st = cake_source_new(&s[i], m[i].checkpoint, m[i].config.quant, m[i].layout->tied, true,
                                 err);
        if (st == CAKE_OK && m[i].config.norm_one_added) cake_source_take_one(s[i]);
    }
    if (st != CAKE_OK) goto out;
    uint64_t total = 0, done = 0;
    for (uint32_t i = 0; i < s[1]->n; i++) total += s[1]->w[i].n_bytes;
    int bar =
        progress ? cake_progress_start(progress, "comparing", total, CAKE_PROGRESS_BYTES) : -1;
    v->errors = cake_calloc(s[1]->n, sizeof *v->errors);
    for (uint32_t i = 0; i < s[1]->n; i++) {
        const cake_source_weight *w = &s[1]->w[i], *from = cake_source_find(s[0], w->name);
        if (from)
            compare(v, s[0], from, s[1], w, pool);
        else
            problem(v, "'%.200s' is not in the source", w->name);
        done += w->n_bytes;
        if (progress) cake_progress_update(progress, bar, done);
    }
    for (uint32_t i = 0; i < s[0]->n; i++)
        if (!cake_source_find(s[1], s[0]->w[i].name))
            problem(v, "'%.200s' of the source is missing", s[0]->w[i].name);
    if (progress) cake_progress_finish(progress, bar, true, NULL);
    qsort(v->errors, v->n_errors, sizeof *v->errors, worst_first);
out:
    for (int i = 0; i < 2; i++) {
        cake_source_free(s[i]);
        cake_model_close(&m[i]);
    }
    return st;
}
