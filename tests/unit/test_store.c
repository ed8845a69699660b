/* The bundle store: receive in any order, resume after a kill at any moment, reuse, repair, evict.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/unit/modelfile.h"
#include "common/clock.h"
#include "worker/store/extents.h"
#include "worker/store/journal.h"
#include "worker/store/store.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

typedef struct {
    char *model, *cache;
    opened o;
} fixture;

static int setup(void **state) {
    fixture *f = cake_calloc(1, sizeof *f);
    f->model = tmp_dir();
    f->cache = tmp_dir();
    gen_model g = GEN_SMALL;
    gen_write(&g, f->model);
    f->o = open_model(f->model);
    *state = f;
    return 0;
}
static int teardown(void **state) {
    fixture *f = *state;
    close_model(&f->o);
    tmp_remove(f->model);
    tmp_remove(f->cache);
    free(f);
    return 0;
}

static cake_store *open_store(const char *dir, uint64_t budget) {
    cake_store *s = NULL;
    cake_error err = {0};
    assert_ok(cake_store_open(&s, dir, budget, &err), &err);
    return s;
}
static cake_status begin(cake_store *s, const cake_bundle *b, cake_store_bundle **out,
                         cake_error *err) {
    *out = NULL;
    return cake_store_begin(s, b->manifest->json, b->manifest->json_len, b->config, b->config_len,
                            out, err);
}
static cake_store_bundle *begin_ok(cake_store *s, const cake_bundle *b) {
    cake_store_bundle *sb;
    cake_error err = {0};
    assert_ok(begin(s, b, &sb, &err), &err);
    return sb;
}

/* Send what is missing, in pieces of `chunk` bytes; at most `max` bytes. Returns the bytes sent. */
static uint64_t feed(cake_store_bundle *sb, const cake_bundle *b, size_t chunk, uint64_t max) {
    cake_store_range r[64];
    cake_error err = {0};
    uint8_t *buf = malloc(chunk);
    uint64_t sent = 0;
    size_t n = cake_store_missing(sb, r, 64);
    for (size_t i = 0; i < n; i++)
        for (uint64_t at = r[i].begin; at < r[i].end && sent < max;) {
            size_t k = r[i].end - at < chunk ? (size_t)(r[i].end - at) : chunk;
            if (k > max - sent) k = (size_t)(max - sent);
            assert_ok(cake_bundle_read(b, at, k, buf, &err), &err);
            assert_ok(cake_store_write(sb, at, buf, k, &err), &err);
            at += k, sent += k;
        }
    free(buf);
    return sent;
}
static void finish_ok(cake_store_bundle *sb) {
    cake_error err = {0};
    assert_ok(cake_store_finish(sb, NULL, &err), &err);
    assert_true(cake_store_complete(sb));
}
static void receive(cake_store *s, const cake_bundle *b) {
    cake_store_bundle *sb = begin_ok(s, b);
    feed(sb, b, 65536, UINT64_MAX);
    finish_ok(sb);
    cake_store_release(sb);
}

/* The folder holds the bundle's very bytes, and they open as a checkpoint with a layout. */
static void check_on_disk(const cake_store_bundle *sb, const cake_bundle *b,
                          const cake_model_config *config) {
    size_t n;
    char *data = read_text(cake_store_path(sb), "model.safetensors", &n);
    assert_int_equal(n, b->manifest->size);
    uint8_t *want = malloc(n);
    cake_error err = {0};
    assert_ok(cake_bundle_read(b, 0, n, want, &err), &err);
    assert_memory_equal(data, want, n);
    free(data);
    free(want);
    cake_checkpoint *ck;
    cake_layout *l;
    assert_ok(cake_checkpoint_open(&ck, cake_store_path(sb), &err), &err);
    assert_ok(cake_layout_new(&l, config, ck, b->manifest->units, b->manifest->n_units, &err),
              &err);
    cake_layout_free(l);
    cake_checkpoint_close(ck);
}

static void test_receive(void **state) {
    fixture *f = *state;
    static const size_t chunks[] = {1 << 20, 4096, 777, 61};
    for (size_t c = 0; c < 4; c++) {
        char *cache = tmp_dir();
        cake_store *s = open_store(cache, 0);
        cake_bundle *b = bundle_of(&f->o, (uint32_t)c, (uint32_t)c + 2);
        cake_store_bundle *sb = begin_ok(s, b);
        assert_false(cake_store_complete(sb));
        /* The header is never sent. */
        assert_int_equal(cake_store_missing_bytes(sb), b->manifest->size - b->manifest->prefix_len);
        cake_error err = {0};
        assert_fails(cake_store_finish(sb, NULL, &err), CAKE_EAGAIN, &err, "still missing");
        assert_int_equal(feed(sb, b, chunks[c], UINT64_MAX),
                         b->manifest->size - b->manifest->prefix_len);
        assert_int_equal(cake_store_damaged(sb), 0);
        finish_ok(sb);
        check_on_disk(sb, b, &f->o.config);
        assert_ok(cake_store_verify(sb, NULL, &err), &err);
        assert_fails(cake_store_write(sb, 0, "x", 1, &err), CAKE_EPROTO, &err, "complete");
        cake_store_release(sb);
        /* There at once the next time. */
        sb = begin_ok(s, b);
        assert_true(cake_store_complete(sb));
        assert_int_equal(cake_store_missing_bytes(sb), 0);
        cake_store_release(sb);
        cake_store_close(s);
        cake_bundle_free(b);
        tmp_remove(cache);
    }
}

/* Pieces in random order, overlapping, some twice. */
static void test_any_order(void **state) {
    fixture *f = *state;
    cake_store *s = open_store(f->cache, 0);
    cake_bundle *b = bundle_of(&f->o, 1, 3);
    cake_store_bundle *sb = begin_ok(s, b);
    cake_error err = {0};
    enum { STEP = 1500 };
    size_t n = (size_t)(b->manifest->size / STEP + 1);
    uint8_t buf[2 * STEP];
    for (size_t i = 0; i < 2 * n; i++) {
        uint64_t at = (i * 7919 + 13) % n * STEP;
        size_t k =
            b->manifest->size - at < sizeof buf ? (size_t)(b->manifest->size - at) : sizeof buf;
        assert_ok(cake_bundle_read(b, at, k, buf, &err), &err);
        assert_ok(cake_store_write(sb, at, buf, k, &err), &err);
    }
    assert_int_equal(cake_store_missing_bytes(sb), 0);
    assert_int_equal(cake_store_damaged(sb), 0);
    /* A late wrong duplicate changes nothing. */
    memset(buf, 0xAA, sizeof buf);
    assert_ok(cake_store_write(sb, b->manifest->prefix_len, buf, sizeof buf, &err), &err);
    finish_ok(sb);
    check_on_disk(sb, b, &f->o.config);
    cake_store_release(sb);
    cake_store_close(s);
    cake_bundle_free(b);
}

static void test_bounds(void **state) {
    fixture *f = *state;
    cake_store *s = open_store(f->cache, 0);
    cake_bundle *b = bundle_of(&f->o, 1, 2);
    cake_store_bundle *sb = begin_ok(s, b);
    cake_error err = {0};
    uint64_t size = b->manifest->size;
    assert_fails(cake_store_write(sb, size, "x", 1, &err), CAKE_EPROTO, &err, "bytes");
    assert_fails(cake_store_write(sb, size - 1, "xx", 2, &err), CAKE_EPROTO, &err, "bytes");
    assert_fails(cake_store_write(sb, UINT64_MAX, "xx", 2, &err), CAKE_EPROTO, &err, "bytes");
    assert_fails(cake_store_write(sb, 2, "xx", SIZE_MAX - 1, &err), CAKE_EPROTO, &err, "bytes");
    assert_ok(cake_store_write(sb, size, "", 0, &err), &err);
    cake_store_release(sb);
    /* Wrong config, wrong manifest */
    cake_store_bundle *none = NULL;
    assert_fails(
        cake_store_begin(s, b->manifest->json, b->manifest->json_len, "{}", 2, &none, &err),
        CAKE_EFORMAT, &err, "config.json");
    assert_fails(cake_store_begin(s, b->manifest->json, b->manifest->json_len - 1, b->config,
                                  b->config_len, &none, &err),
                 CAKE_EFORMAT, &err, "manifest");
    assert_null(none);
    cake_store_close(s);
    cake_bundle_free(b);
}

/* Damage on the way: the tensor is missing again, and only that. */
static void test_damaged_on_the_way(void **state) {
    fixture *f = *state;
    cake_store *s = open_store(f->cache, 0);
    cake_bundle *b = bundle_of(&f->o, 2, 4);
    cake_error err = {0};
    static const size_t chunks[] = {1 << 20, 999};
    for (size_t c = 0; c < 2; c++) {
        cake_store_bundle *sb = begin_ok(s, b);
        const cake_manifest_tensor *t = &b->manifest->tensors[5];
        uint8_t *bad = malloc((size_t)t->n_bytes);
        assert_ok(cake_bundle_read(b, t->offset, (size_t)t->n_bytes, bad, &err), &err);
        bad[t->n_bytes / 2] ^= 1;
        if (c) /* out of order: hashed from the file */
            assert_ok(cake_store_write(sb, t->offset + 7, bad + 7, (size_t)t->n_bytes - 7, &err),
                      &err);
        assert_ok(cake_store_write(sb, t->offset, bad, c ? 7 : (size_t)t->n_bytes, &err), &err);
        free(bad);
        assert_int_equal(cake_store_damaged(sb), 1);
        assert_int_equal(cake_store_missing_bytes(sb), b->manifest->size - b->manifest->prefix_len);
        feed(sb, b, chunks[c], UINT64_MAX);
        assert_int_equal(cake_store_damaged(sb), 1);
        finish_ok(sb);
        check_on_disk(sb, b, &f->o.config);
        char *path = cake_strdup(cake_store_path(sb));
        cake_store_release(sb);
        if (!c)
            tmp_remove(path);
        else
            free(path);
    }
    cake_store_close(s);
    cake_bundle_free(b);
}

static void test_resume(void **state) {
    fixture *f = *state;
    cake_bundle *b = bundle_of(&f->o, 0, 3);
    uint64_t total = b->manifest->size - b->manifest->prefix_len, sent = 0;
    for (int round = 0;; round++) {
        cake_store *s = open_store(f->cache, 0);
        cake_store_bundle *sb = begin_ok(s, b);
        assert_int_equal(cake_store_missing_bytes(sb), total - sent);
        sent += feed(sb, b, 1000, 20000 + 7 * (uint64_t)round);
        bool done = sent == total;
        if (done) finish_ok(sb);
        if (done) check_on_disk(sb, b, &f->o.config);
        cake_store_release(sb);
        cake_store_close(s);
        if (done) break;
    }
    assert_int_equal(sent, total); /* nothing twice */
    cake_bundle_free(b);
}

/* kill -9 at random moments, from begin to past finish; then it always goes on to the right end. */
static void test_kill(void **state) {
    fixture *f = *state;
    cake_bundle *b = bundle_of(&f->o, 0, 6);
    srand(1);
    unsigned kills = 0, finished = 0;
    for (int round = 0; round < 60; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            cake_store *s = NULL;
            cake_store_bundle *sb = NULL;
            uint8_t buf[3000];
            cake_store_range r;
            if (cake_store_open(&s, f->cache, 0, NULL) || begin(s, b, &sb, NULL)) _exit(1);
            while (cake_store_missing(sb, &r, 1)) {
                size_t k = r.end - r.begin < sizeof buf ? (size_t)(r.end - r.begin) : sizeof buf;
                if (cake_bundle_read(b, r.begin, k, buf, NULL) ||
                    cake_store_write(sb, r.begin, buf, k, NULL))
                    _exit(2);
            }
            if (cake_store_finish(sb, NULL, NULL)) _exit(3);
            cake_store_release(sb);
            cake_store_close(s);
            _exit(0);
        }
        usleep((useconds_t)(rand() % 4000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status))
            kills++;
        else
            assert_int_equal(WEXITSTATUS(status), 0);
        cake_store *s = open_store(f->cache, 0);
        cake_store_bundle *sb = begin_ok(s, b);
        if (cake_store_complete(sb)) {
            cake_error err = {0};
            assert_ok(cake_store_verify(sb, NULL, &err), &err);
            check_on_disk(sb, b, &f->o.config);
            finished++;
            char *path = cake_strdup(cake_store_path(sb));
            cake_store_release(sb);
            tmp_remove(path);
        } else {
            if (round % 3 == 0) { /* what the journal says is there, is there */
                feed(sb, b, 1 << 20, UINT64_MAX);
                finish_ok(sb);
                assert_int_equal(cake_store_damaged(sb), 0);
                check_on_disk(sb, b, &f->o.config);
                char *path = cake_strdup(cake_store_path(sb));
                tmp_remove(path);
            }
            cake_store_release(sb);
        }
        cake_store_close(s);
    }
    assert_true(kills > 0);
    (void)finished;
    cake_bundle_free(b);
}

/* The same with two plans taking turns in a cache that holds one of them: kills fall into copying,
 * evicting and renaming too. */
static void test_kill_replacing(void **state) {
    fixture *f = *state;
    cake_bundle *b[2] = {bundle_of(&f->o, 0, 3), bundle_of(&f->o, 2, 6)};
    uint64_t budget = b[1]->manifest->size + b[1]->manifest->size / 3;
    srand(5);
    for (int round = 0; round < 40; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = round;; i++) {
                cake_store *s = NULL;
                cake_store_bundle *sb = NULL;
                uint8_t buf[5000];
                cake_store_range r;
                if (cake_store_open(&s, f->cache, budget, NULL) || begin(s, b[i % 2], &sb, NULL))
                    _exit(1);
                while (cake_store_missing(sb, &r, 1)) {
                    size_t k =
                        r.end - r.begin < sizeof buf ? (size_t)(r.end - r.begin) : sizeof buf;
                    if (cake_bundle_read(b[i % 2], r.begin, k, buf, NULL) ||
                        cake_store_write(sb, r.begin, buf, k, NULL))
                        _exit(2);
                }
                if (cake_store_finish(sb, NULL, NULL)) _exit(3);
                cake_store_release(sb);
                cake_store_close(s);
            }
        }
        usleep((useconds_t)(rand() % 30000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
        cake_store *s = open_store(f->cache, budget);
        cake_store_bundle *sb = begin_ok(s, b[round % 2]);
        cake_error err = {0};
        if (cake_store_complete(sb)) {
            assert_ok(cake_store_verify(sb, NULL, &err), &err);
        } else {
            feed(sb, b[round % 2], 1 << 20, UINT64_MAX);
            finish_ok(sb);
            assert_int_equal(cake_store_damaged(sb), 0);
        }
        check_on_disk(sb, b[round % 2], &f->o.config);
        cake_store_release(sb);
        assert_true(cake_store_used(s) <= budget);
        cake_store_close(s);
    }
    cake_bundle_free(b[0]);
    cake_bundle_free(b[1]);
}

/* A bundle carried on a stick. */
static void test_adopt(void **state) {
    fixture *f = *state;
    cake_store *s = open_store(f->cache, 0);
    cake_bundle *b = bundle_of(&f->o, 1, 4);
    char *stick = tmp_dir(), *folder = cake_path_join(stick, "bundle"),
         *data = cake_path_join(folder, "model.safetensors");
    cake_error err = {0};
    cake_sha256 id;
    assert_ok(cake_bundle_write(b, folder, &err), &err);
    int fd = open(data, O_RDWR);
    char keep[3];
    assert_int_equal(pread(fd, keep, 3, 50000), 3);
    assert_int_equal(pwrite(fd, "rot", 3, 50000), 3);
    assert_fails(cake_store_adopt(s, folder, NULL, &id, &err), CAKE_EFORMAT, &err, "damaged");
    assert_int_equal(pwrite(fd, keep, 3, 50000), 3);
    close(fd);
    assert_ok(cake_store_adopt(s, folder, NULL, &id, &err), &err);
    assert_memory_equal(&id, &b->manifest->id, sizeof id);
    assert_ok(cake_store_adopt(s, folder, NULL, NULL, &err), &err); /* again: nothing to do */
    cake_store_bundle *sb = begin_ok(s, b);
    assert_true(cake_store_complete(sb));
    check_on_disk(sb, b, &f->o.config);
    cake_store_release(sb);
    assert_fails(cake_store_adopt(s, stick, NULL, NULL, &err), CAKE_ENOTFOUND, &err,
                 "manifest.json");
    cake_store_close(s);
    cake_bundle_free(b);
    free(data);
    free(folder);
    tmp_remove(stick);
}

/* A journal whose tail is torn, or that was made for another bundle. */
static void test_journal(void **state) {
    fixture *f = *state;
    char *path = cake_path_join(f->cache, "journal");
    cake_extents have = {0}, got = {0};
    cake_journal j = {.fd = -1};
    cake_error err = {0};
    assert_true(cake_extents_add(&have, 0, 64));
    assert_ok(cake_journal_create(&j, path, 42, &have, &err), &err);
    assert_ok(cake_journal_append(&j, (cake_store_range){100, 200}, false, &err), &err);
    assert_ok(cake_journal_append(&j, (cake_store_range){150, 160}, true, &err), &err);
    assert_ok(cake_journal_append(&j, (cake_store_range){300, 400}, false, &err), &err);
    cake_journal_close(&j);
    cake_journal_load(path, 42, 1000, &got);
    assert_int_equal(got.n, 4);
    assert_int_equal(cake_extents_bytes(&got), 64 + 90 + 100);
    cake_extents_deinit(&got);
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_size, 4 * 24);
    assert_int_equal(truncate(path, 4 * 24 - 1), 0);
    cake_journal_load(path, 42, 1000, &got);
    assert_int_equal(cake_extents_bytes(&got), 64 + 90);
    cake_extents_deinit(&got);
    cake_journal_load(path, 42, 180, &got); /* a record beyond the bundle ends it */
    assert_int_equal(cake_extents_bytes(&got), 64);
    cake_extents_deinit(&got);
    cake_journal_load(path, 43, 1000, &got);
    assert_int_equal(got.n, 0);
    /* Crumbs in order lengthen one record, also after a reopening; a drop ends it. */
    assert_ok(cake_journal_create(&j, path, 42, &have, &err), &err);
    for (uint64_t i = 100; i < 600; i++)
        assert_ok(cake_journal_append(&j, (cake_store_range){i, i + 1}, false, &err), &err);
    assert_ok(cake_journal_append(&j, (cake_store_range){590, 600}, true, &err), &err);
    assert_ok(cake_journal_append(&j, (cake_store_range){600, 610}, false, &err), &err);
    cake_journal_close(&j);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_size, 4 * 24);
    cake_journal_load(path, 42, 1000, &got);
    assert_int_equal(cake_extents_bytes(&got), 64 + 490 + 10);
    assert_true(cake_extents_cover(&got, 100, 590));
    cake_extents_deinit(&got);
    cake_journal_load("/nonexistent/journal", 42, 1000, &got);
    assert_int_equal(got.n, 0);
    cake_extents_deinit(&have);
    free(path);
}

/* The range set against a byte map. */
static void test_extents(void **state) {
    (void)state;
    enum { N = 200 };
    bool map[N] = {0};
    cake_extents x = {0};
    srand(7);
    for (int round = 0; round < 20000; round++) {
        uint64_t a = (uint64_t)(rand() % N), b = (uint64_t)(rand() % (N + 1));
        bool add = rand() % 2;
        assert_true(add ? cake_extents_add(&x, a, b) : cake_extents_remove(&x, a, b));
        for (uint64_t i = a; i < b; i++) map[i] = add;
        uint64_t n = 0;
        for (int i = 0; i < N; i++) n += map[i];
        assert_int_equal(cake_extents_bytes(&x), n);
        for (size_t i = 0; i < x.n; i++) {
            assert_true(x.r[i].begin < x.r[i].end);
            if (i) assert_true(x.r[i - 1].end < x.r[i].begin);
            for (uint64_t k = x.r[i].begin; k < x.r[i].end; k++) assert_true(map[k]);
        }
        uint64_t c = (uint64_t)(rand() % N), d = (uint64_t)(rand() % (N + 1)), first = c;
        while (first < d && map[first]) first++;
        cake_store_range gap;
        bool gapped = cake_extents_gap(&x, c, d, &gap);
        assert_int_equal(gapped, first < d);
        assert_int_equal(cake_extents_cover(&x, c, d), first >= d);
        if (!gapped) continue;
        uint64_t last = first;
        while (last < d && !map[last]) last++;
        assert_int_equal(gap.begin, first);
        assert_int_equal(gap.end, last);
    }
    cake_extents_deinit(&x);
    for (uint64_t i = 0; i < CAKE_EXTENTS_MAX; i++)
        assert_true(cake_extents_add(&x, 2 * i, 2 * i + 1));
    assert_false(cake_extents_add(&x, UINT64_C(1) << 40, UINT64_MAX));
    assert_true(cake_extents_add(&x, 1, 2));
    cake_extents_deinit(&x);
}

/* A new plan: what overlaps the old bundle is not sent again; a source that rotted is noticed. */
static void test_reuse(void **state) {
    fixture *f = *state;
    cake_store *s = open_store(f->cache, 0);
    cake_bundle *a = bundle_of(&f->o, 0, 3), *b = bundle_of(&f->o, 1, 5),
                *c = bundle_of(&f->o, 2, 4);
    receive(s, a);
    cake_store_bundle *sb = begin_ok(s, b);
    uint64_t shared = f->o.layout->units[1].bytes + f->o.layout->units[2].bytes;
    assert_int_equal(cake_store_reused_bytes(sb), shared);
    uint64_t sent = feed(sb, b, 4096, UINT64_MAX);
    assert_int_equal(sent, b->manifest->size - b->manifest->prefix_len - shared);
    finish_ok(sb);
    check_on_disk(sb, b, &f->o.config);
    cake_store_release(sb);
    /* c lies in a and b together: nothing to fetch; rot one tensor in each copy first. */
    const cake_manifest_tensor *victim = &c->manifest->tensors[3];
    const cake_bundle *both[] = {a, b};
    for (int i = 0; i < 2; i++)
        for (uint32_t k = 0; k < both[i]->manifest->n_tensors; k++) {
            const cake_manifest_tensor *t = &both[i]->manifest->tensors[k];
            if (strcmp(t->name, victim->name) != 0) continue;
            char hex[CAKE_SHA256_HEX];
            cake_sha256_hex(&both[i]->manifest->id, hex);
            char *path = cake_asprintf("%s/bundles/%s/model.safetensors", f->cache, hex);
            int fd = open(path, O_WRONLY);
            assert_int_equal(pwrite(fd, "\xff\x00\xff", 3, (off_t)t->offset), 3);
            close(fd);
            free(path);
        }
    sb = begin_ok(s, c);
    cake_error err = {0};
    assert_int_equal(cake_store_missing_bytes(sb), 0);
    assert_fails(cake_store_finish(sb, NULL, &err), CAKE_EAGAIN, &err, "damaged");
    assert_int_equal(cake_store_missing_bytes(sb), victim->n_bytes);
    assert_int_equal(feed(sb, c, 4096, UINT64_MAX), victim->n_bytes);
    finish_ok(sb);
    check_on_disk(sb, c, &f->o.config);
    cake_store_release(sb);
    cake_store_close(s);
    cake_bundle_free(a);
    cake_bundle_free(b);
    cake_bundle_free(c);
}

/* An interrupted part serves the next plan too. */
static void test_reuse_part(void **state) {
    fixture *f = *state;
    cake_store *s = open_store(f->cache, 0);
    cake_bundle *a = bundle_of(&f->o, 1, 4), *b = bundle_of(&f->o, 1, 3);
    cake_store_bundle *sb = begin_ok(s, a);
    feed(sb, a, 4096, f->o.layout->units[1].bytes + 100);
    cake_store_release(sb);
    sb = begin_ok(s, b);
    assert_int_equal(cake_store_reused_bytes(sb), f->o.layout->units[1].bytes);
    feed(sb, b, 4096, UINT64_MAX);
    finish_ok(sb);
    check_on_disk(sb, b, &f->o.config);
    cake_store_release(sb);
    cake_store_close(s);
    cake_bundle_free(a);
    cake_bundle_free(b);
}

/* Rot in a complete bundle: only the damaged tensor is fetched again. */
static void test_repair(void **state) {
    fixture *f = *state;
    cake_pool *pool = cake_pool_new(2, 0);
    cake_store *s = open_store(f->cache, 0);
    cake_bundle *b = bundle_of(&f->o, 0, 6);
    cake_error err = {0};
    receive(s, b);
    const cake_manifest_tensor *t = &b->manifest->tensors[b->manifest->n_tensors - 4];
    cake_store_bundle *sb = begin_ok(s, b);
    char *data = cake_path_join(cake_store_path(sb), "model.safetensors");
    int fd = open(data, O_WRONLY);
    assert_int_equal(pwrite(fd, "rot", 3, (off_t)(t->offset + t->n_bytes - 3)), 3);
    close(fd);
    bool ok = true;
    assert_ok(cake_store_check_tensor(sb, b->manifest->n_tensors - 4, &ok, &err), &err);
    assert_false(ok);
    assert_ok(cake_store_check_tensor(sb, 0, &ok, &err), &err);
    assert_true(ok);
    assert_fails(cake_store_check_tensor(sb, b->manifest->n_tensors, &ok, &err), CAKE_EINVAL, &err,
                 "no tensor");
    assert_fails(cake_store_verify(sb, pool, &err), CAKE_EAGAIN, &err, t->name);
    assert_false(cake_store_complete(sb));
    assert_int_equal(cake_store_missing_bytes(sb), t->n_bytes);
    /* ... also after a restart in between */
    cake_store_release(sb);
    sb = begin_ok(s, b);
    assert_int_equal(cake_store_missing_bytes(sb), t->n_bytes);
    assert_int_equal(feed(sb, b, 100, UINT64_MAX), t->n_bytes);
    assert_ok(cake_store_finish(sb, pool, &err), &err);
    check_on_disk(sb, b, &f->o.config);
    assert_ok(cake_store_verify(sb, pool, &err), &err);
    /* A damaged header costs no bytes at all. */
    fd = open(data, O_WRONLY);
    assert_int_equal(pwrite(fd, "rot", 3, 20), 3);
    close(fd);
    assert_fails(cake_store_verify(sb, pool, &err), CAKE_EAGAIN, &err, "header");
    assert_int_equal(cake_store_missing_bytes(sb), 0);
    assert_ok(cake_store_finish(sb, pool, &err), &err);
    check_on_disk(sb, b, &f->o.config);
    /* A truncated file is refused as a bundle and received anew. */
    assert_int_equal(truncate(data, 100), 0);
    cake_store_release(sb);
    sb = begin_ok(s, b);
    assert_false(cake_store_complete(sb));
    feed(sb, b, 1 << 20, UINT64_MAX);
    finish_ok(sb);
    check_on_disk(sb, b, &f->o.config);
    free(data);
    cake_store_release(sb);
    cake_store_close(s);
    cake_bundle_free(b);
    cake_pool_free(pool);
}

static size_t count_bundles(const char *cache) {
    char *p = cake_path_join(cache, "bundles"), *cmd = cake_asprintf("ls -A %s | wc -l", p);
    FILE *fp = popen(cmd, "r");
    size_t n = 0;
    assert_int_equal(fscanf(fp, "%zu", &n), 1);
    pclose(fp);
    free(p);
    free(cmd);
    return n;
}

static void test_budget(void **state) {
    fixture *f = *state;
    cake_bundle *b[4];
    for (uint32_t i = 0; i < 4; i++) b[i] = bundle_of(&f->o, i + 1, i + 2);
    cake_store *s = open_store(f->cache, 0);
    receive(s, b[0]);
    uint64_t one = cake_store_used(s);
    assert_true(one >= b[0]->manifest->size);
    cake_store_close(s);
    s = open_store(f->cache, 3 * one + one / 2);
    receive(s, b[1]);
    receive(s, b[2]);
    assert_int_equal(count_bundles(f->cache), 3);
    /* Touch 0; the least recently used is then 1. */
    cake_store_bundle *keep = begin_ok(s, b[0]);
    assert_true(cake_store_complete(keep));
    receive(s, b[3]);
    assert_int_equal(count_bundles(f->cache), 3);
    assert_true(cake_store_used(s) <= 3 * one + one / 2);
    cake_store_bundle *sb = begin_ok(s, b[1]);
    assert_false(cake_store_complete(sb)); /* evicted; its part took the place of 2 */
    cake_store_release(sb);
    cake_store_release(keep);
    cake_store_close(s);
    /* What is in use stays, and what cannot fit is refused with nothing left behind. */
    s = open_store(f->cache, one + one / 2);
    keep = begin_ok(s, b[0]);
    cake_error err = {0};
    assert_fails(begin(s, b[2], &sb, &err), CAKE_ENOSPACE, &err, "raise the limit");
    assert_true(cake_store_complete(keep));
    assert_ok(cake_store_verify(keep, NULL, &err), &err);
    cake_store_release(keep);
    cake_bundle *all = bundle_of(&f->o, 0, 6);
    assert_fails(begin(s, all, &sb, &err), CAKE_ENOSPACE, &err, "does not fit");
    cake_store_close(s);
    cake_bundle_free(all);
    for (int i = 0; i < 4; i++) cake_bundle_free(b[i]);
}

/* A bundle that is evicted for its successor still gives what they share. */
static void test_budget_reuse(void **state) {
    fixture *f = *state;
    cake_bundle *a = bundle_of(&f->o, 1, 3), *b = bundle_of(&f->o, 2, 4);
    cake_store *s = open_store(f->cache, 0);
    receive(s, a);
    uint64_t one = cake_store_used(s);
    cake_store_close(s);
    s = open_store(f->cache, one + one / 4);
    cake_store_bundle *sb = begin_ok(s, b);
    assert_int_equal(cake_store_reused_bytes(sb), f->o.layout->units[2].bytes);
    assert_int_equal(count_bundles(f->cache), 1); /* only the new part */
    feed(sb, b, 4096, UINT64_MAX);
    finish_ok(sb);
    check_on_disk(sb, b, &f->o.config);
    assert_true(cake_store_used(s) <= one + one / 4);
    cake_store_release(sb);
    cake_store_close(s);
    cake_bundle_free(a);
    cake_bundle_free(b);
}

/* When only one has to go, it is the one that is of no use, though it was used last. */
static void test_budget_keeps_useful(void **state) {
    fixture *f = *state;
    cake_bundle *a = bundle_of(&f->o, 1, 3), *b = bundle_of(&f->o, 4, 5),
                *c = bundle_of(&f->o, 2, 3);
    cake_store *s = open_store(f->cache, 0);
    receive(s, a);
    receive(s, b);
    uint64_t both = cake_store_used(s);
    cake_store_close(s);
    s = open_store(f->cache, both + 4096);
    receive(s, c);
    cake_store_bundle *sb = begin_ok(s, a);
    assert_true(cake_store_complete(sb));
    cake_store_release(sb);
    char hex[CAKE_SHA256_HEX];
    cake_sha256_hex(&b->manifest->id, hex);
    char *gone = cake_asprintf("%s/bundles/%s", f->cache, hex);
    assert_false(cake_dir_exists(gone));
    free(gone);
    cake_store_close(s);
    cake_bundle_free(a);
    cake_bundle_free(b);
    cake_bundle_free(c);
}

/* Two processes (here: two stores) receive the same bundle at once, then share it. */
static void test_two_receivers(void **state) {
    fixture *f = *state;
    cake_store *s = open_store(f->cache, 0), *t = open_store(f->cache, 0);
    cake_bundle *b = bundle_of(&f->o, 1, 3);
    cake_store_bundle *x = begin_ok(s, b), *y = begin_ok(t, b);
    assert_string_not_equal(cake_store_path(x), cake_store_path(y));
    feed(x, b, 4096, UINT64_MAX);
    feed(y, b, 5000, UINT64_MAX);
    finish_ok(x);
    finish_ok(y);
    assert_string_equal(cake_store_path(x), cake_store_path(y));
    assert_int_equal(count_bundles(f->cache), 1);
    check_on_disk(y, b, &f->o.config);
    cake_error err = {0};
    /* Damage that two see: the one that finds it cannot pull it away from the other. */
    char *data = cake_path_join(cake_store_path(x), "model.safetensors");
    int fd = open(data, O_WRONLY);
    assert_int_equal(pwrite(fd, "rot", 3, (off_t)b->manifest->prefix_len), 3);
    close(fd);
    assert_fails(cake_store_verify(x, NULL, &err), CAKE_EIO, &err, "in use by another worker");
    cake_store_release(y);
    assert_fails(cake_store_verify(x, NULL, &err), CAKE_EAGAIN, &err, "damaged");
    cake_store_release(x);
    free(data);
    cake_store_close(s);
    cake_store_close(t);
    cake_bundle_free(b);
}

typedef struct {
    const fixture *f;
    const cake_bundle *b[2];
    uint64_t budget;
} racer;

static void *race(void *arg) {
    const racer *r = arg;
    cake_store *s = NULL;
    if (cake_store_open(&s, r->f->cache, r->budget, NULL)) abort();
    for (int i = 0; i < 20; i++) {
        const cake_bundle *b = r->b[i % 2];
        cake_store_bundle *sb;
        cake_error err = {0};
        cake_status st = begin(s, b, &sb, &err);
        if (st == CAKE_ENOSPACE || st == CAKE_EAGAIN) continue; /* the others hold the budget */
        if (st) abort();
        uint8_t buf[8192];
        cake_store_range g;
        while (cake_store_missing(sb, &g, 1)) {
            size_t k = g.end - g.begin < sizeof buf ? (size_t)(g.end - g.begin) : sizeof buf;
            if (cake_bundle_read(b, g.begin, k, buf, NULL) ||
                cake_store_write(sb, g.begin, buf, k, NULL))
                abort();
        }
        if ((st = cake_store_finish(sb, NULL, &err)) != CAKE_OK && st != CAKE_EAGAIN) {
            fprintf(stderr, "race: %s\n", err.msg);
            abort();
        }
        if (st == CAKE_OK && cake_store_verify(sb, NULL, &err)) {
            fprintf(stderr, "race: %s\n", err.msg);
            abort();
        }
        cake_store_release(sb);
    }
    cake_store_close(s);
    return NULL;
}

/* Several stores over one folder with a tight budget: nobody's files are pulled away. */
static void test_race(void **state) {
    fixture *f = *state;
    cake_bundle *b[3] = {bundle_of(&f->o, 1, 2), bundle_of(&f->o, 1, 3), bundle_of(&f->o, 3, 4)};
    racer r[3] = {{f, {b[0], b[1]}, 0}, {f, {b[1], b[2]}, 0}, {f, {b[2], b[0]}, 0}};
    for (int i = 0; i < 3; i++) r[i].budget = 3 * b[1]->manifest->size;
    pthread_t t[3];
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&t[i], NULL, race, &r[i]), 0);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < 3; i++) cake_bundle_free(b[i]);
}

/* A full disk: a tmpfs of 256 KiB in a namespace of our own. */
static void test_disk_full(void **state) {
    fixture *f = *state;
    cake_bundle *b = bundle_of(&f->o, 0, 6), *small = bundle_of(&f->o, 0, 1);
    pid_t pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) _exit(77);
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
        if (mount("tmpfs", f->cache, "tmpfs", 0, "size=256k") != 0) _exit(77);
        cake_store *s = NULL;
        cake_store_bundle *sb = NULL;
        cake_error err = {0};
        if (cake_store_open(&s, f->cache, 0, &err)) _exit(1);
        if (begin(s, b, &sb, &err) != CAKE_ENOSPACE) _exit(2);
        if (!strstr(err.msg, "free some disk")) _exit(3);
        if (count_bundles(f->cache) != 0) _exit(4); /* nothing left behind */
        if (begin(s, small, &sb, &err)) _exit(5);   /* and it goes on */
        feed(sb, small, 1 << 20, UINT64_MAX);
        if (cake_store_finish(sb, NULL, &err)) _exit(6);
        cake_store_release(sb);
        cake_store_close(s);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    cake_bundle_free(b);
    cake_bundle_free(small);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        printf("skip: no right to mount a small file system\n");
        skip();
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* A peer's names never become paths. */
static void test_hostile_names(void **state) {
    fixture *f = *state;
    cake_store *s = open_store(f->cache, 0);
    cake_bundle *b = bundle_of(&f->o, 1, 2);
    static const char *const evil[] = {"../../evil", "/etc/passwd", "a\\\\b", "a/b",
                                       "a b",        "a\\u0000b",   "",       "\\u00e9"};
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
        char *at = strstr(b->manifest->json, "model.layers.0.input_layernorm.weight");
        assert_non_null(at);
        char *json = cake_asprintf("%.*s%s%s", (int)(at - b->manifest->json), b->manifest->json,
                                   evil[i], at + strlen("model.layers.0.input_layernorm.weight"));
        cake_store_bundle *sb = NULL;
        cake_error err = {0};
        assert_int_not_equal(
            cake_store_begin(s, json, strlen(json), b->config, b->config_len, &sb, &err), CAKE_OK);
        assert_null(sb);
        free(json);
    }
    assert_int_equal(count_bundles(f->cache), 0);
    cake_store_close(s);
    cake_bundle_free(b);
}

/* What was being deleted when the power went is deleted at the next start. */
static void test_trash(void **state) {
    fixture *f = *state;
    cake_store_close(open_store(f->cache, 0));
    char *trash = cake_asprintf("%s/bundles/.trash-1-0", f->cache);
    mkdir(trash, 0700);
    write_text(trash, "model.safetensors", "x");
    cake_store_close(open_store(f->cache, 0));
    assert_false(cake_dir_exists(trash));
    free(trash);
    cake_store *s = NULL;
    cake_error err = {0};
    assert_int_not_equal(cake_store_open(&s, "/proc/none/cache", 0, &err), CAKE_OK);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_receive),        T(test_any_order),
        T(test_bounds),         T(test_damaged_on_the_way),
        T(test_resume),         T(test_kill),
        T(test_kill_replacing), T(test_adopt),
        T(test_journal),        T(test_extents),
        T(test_reuse),          T(test_reuse_part),
        T(test_repair),         T(test_budget),
        T(test_budget_reuse),   T(test_budget_keeps_useful),
        T(test_two_receivers),  T(test_race),
        T(test_disk_full),      T(test_hostile_names),
        T(test_trash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
