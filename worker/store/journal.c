/* Journal: see journal.h. */
#include "worker/store/journal.h"
#include "common/file.h"
#include "common/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD = 24, FILE_MAX = 64 << 20 };
#define DROP (UINT64_C(1) << 63)

static uint64_t check_of(uint64_t seed, uint64_t offset, uint64_t bytes) {
    uint64_t h = seed;
    h = (h ^ offset) * UINT64_C(0x9E3779B97F4A7C15);
    h = ((h ^ h >> 29) ^ bytes) * UINT64_C(0xBF58476D1CE4E5B9);
    return h ^ h >> 32;
}

static void put64(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> 8 * i);
}
static uint64_t get64(const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static void encode(uint8_t out[RECORD], uint64_t seed, cake_store_range r, bool drop) {
    uint64_t bytes = (r.end - r.begin) | (drop ? DROP : 0);
    put64(out, r.begin);
    put64(out + 8, bytes);
    put64(out + 16, check_of(seed, r.begin, bytes));
}

void cake_journal_load(const char *path, uint64_t seed, uint64_t size, cake_extents *have) {
    char *text = NULL;
    size_t len;
    if (cake_file_read(path, FILE_MAX, &text, &len, NULL) != CAKE_OK) return;
    for (size_t at = 0; len - at >= RECORD; at += RECORD) {
        const uint8_t *p = (const uint8_t *)text + at;
        uint64_t offset = get64(p), word = get64(p + 8), bytes = word & ~DROP;
        if (get64(p + 16) != check_of(seed, offset, word)) break;
        if (offset > size || bytes > size - offset) break;
        bool ok = word & DROP ? cake_extents_remove(have, offset, offset + bytes)
                              : cake_extents_add(have, offset, offset + bytes);
        if (!ok) break;
    }
    free(text);
}

cake_status cake_journal_create(cake_journal *j, const char *path, uint64_t seed,
                                const cake_extents *have, cake_error *err) {
    uint8_t *text = cake_malloc(have->n * RECORD);
    for (size_t i = 0; i < have->n; i++) encode(text + i * RECORD, seed, have->r[i], false);
    cake_status st = cake_file_write(path, text, have->n * RECORD, 0600, err);
    free(text);
    if (st != CAKE_OK) return st;
    cake_journal_close(j);
    *j = (cake_journal){
        .fd = open(path, O_WRONLY | O_CLOEXEC), .len = have->n * RECORD, .seed = seed};
    if (j->fd < 0) return cake_fail(err, CAKE_EIO, "cannot open '%s': %s", path, strerror(errno));
    return CAKE_OK;
}

cake_status cake_journal_append(cake_journal *j, cake_store_range r, bool drop, cake_error *err) {
    uint8_t record[RECORD];
    uint64_t at = j->len;
    if (!drop && j->last.end == r.begin && j->last.begin < j->last.end) {
        r.begin = j->last.begin;
        at -= RECORD;
    }
    encode(record, j->seed, r, drop);
    /* At our own position: what a failed append left behind is overwritten by the next. */
    cake_status st = cake_pwrite_all(j->fd, record, RECORD, at, err);
    if (st != CAKE_OK) return cake_fail_in(err, st, "journal");
    j->len = at + RECORD;
    j->last = drop ? (cake_store_range){0} : r;
    return CAKE_OK;
}

void cake_journal_close(cake_journal *j) {
    if (j->fd >= 0) close(j->fd);
    j->fd = -1;
}
