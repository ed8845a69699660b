/* The journal of a part: which byte ranges have arrived. Format in store.h. */
#ifndef CAKE_WORKER_STORE_JOURNAL_H
#define CAKE_WORKER_STORE_JOURNAL_H

#include "worker/store/extents.h"

typedef struct {
    int fd; /* -1: closed */
    uint64_t len, seed;
    cake_store_range last; /* of the last record, when that may still grow */
} cake_journal;

/* Read path into have (records beyond `size` and everything after a torn record are dropped). A
 * file that does not exist reads as empty. seed: of the bundle, so that a foreign journal reads as
 * torn. */
void cake_journal_load(const char *path, uint64_t seed, uint64_t size, cake_extents *have);
/* Replace the file by one that says `have`, and keep it open for appending. */
cake_status cake_journal_create(cake_journal *j, const char *path, uint64_t seed,
                                const cake_extents *have, cake_error *err);
/* Append "arrived" or (drop) "missing again"; what continues the last arrival only lengthens its
 * record. Not synced: see store.h. */
cake_status cake_journal_append(cake_journal *j, cake_store_range r, bool drop, cake_error *err);
void cake_journal_close(cake_journal *j);

#endif
