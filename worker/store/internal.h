/* What the files of the store share. */
#ifndef CAKE_WORKER_STORE_INTERNAL_H
#define CAKE_WORKER_STORE_INTERNAL_H

#include "worker/store/extents.h"
#include "worker/store/journal.h"
#include "worker/store/store.h"

struct cake_store {
    char *dir, *bundles;
    int lock_fd; /* store.lock */
    uint64_t budget;
    uint32_t n_open; /* bundles not released */
    uint32_t n_trash;
};

struct cake_store_bundle {
    cake_store *store;
    cake_manifest *manifest;
    char *path;
    int lock_fd, data_fd;
    bool complete;
    /* of a part: */
    cake_journal journal;
    cake_extents have;
    bool *verified; /* per tensor */
    cake_sha256_ctx
        *stream; /* hash of stream_tensor's bytes [0, stream_at), as they arrive in order */
    uint32_t stream_tensor;
    uint64_t stream_at;
    uint64_t reused, damaged;
};

/* SHA-256 of tensor i in the data file, read with buf of CAKE_STORE_READ bytes. */
enum { CAKE_STORE_READ = 1 << 20 };
cake_status cake_store_hash(const cake_store_bundle *b, uint32_t i, uint8_t *buf, bool *ok,
                            cake_error *err);
/* Hash every tensor i with skip[i] false (skip may be NULL); bad[i] tells which are wrong. */
cake_status cake_store_hash_all(const cake_store_bundle *b, const bool *skip, cake_pool *pool,
                                bool *bad, cake_error *err);

/* Take over what other bundles already hold. path of each source; failures only mean less reuse. */
void cake_store_reuse(cake_store_bundle *b, const char *source_path, bool source_is_part);
/* How many bytes of m's tensors the bundle at path holds. */
uint64_t cake_store_shared_bytes(const cake_manifest *m, const char *source_path,
                                 bool source_is_part);

/* Byte 0-7 of the id: the journal's seed. */
uint64_t cake_store_seed(const cake_manifest *m);

#endif
