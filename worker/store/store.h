/* The worker's bundle store: bundles on disk, received in pieces, verified, resumed, reused,
 * evicted.
 *
 * On disk, below the folder given to cake_store_open (mode 0700):
 *
 *   store.lock                    flock, held for moments: begin, finish, demote, evict
 *   bundles/ID/                   a complete bundle; ID = 64 hex digits of SHA-256(manifest.json)
 *     model.safetensors           plain safetensors, the checkpoint's names and bytes
 *     config.json manifest.json
 *     lock                        flock: shared while in use, mtime = last use (for eviction)
 *     *                           other files belong to the engine (packed weights); they count
 *                                 for the budget and go when the bundle goes
 *   bundles/ID.part[.K]/          the same, being received; `lock` held exclusively by the
 * receiver. K tells apart processes that receive the same bundle at once. journal 24-byte records:
 * u64 LE offset, u64 LE bytes | drop << 63, u64 check bundles/.trash-*              being deleted;
 * removed at the next open
 *
 * No name from a peer becomes a path: IDs are hashes computed here. A kill at any moment leaves
 * either a part that resumes or a complete bundle. The journal may run ahead of the disk after a
 * power cut; every tensor is verified by SHA-256 before the part becomes a bundle, and what does
 * not match becomes missing again. Several processes may share one folder.
 *
 * Threads: a store and its bundles belong to one thread, except cake_store_check_tensor. */
#ifndef CAKE_WORKER_STORE_STORE_H
#define CAKE_WORKER_STORE_STORE_H

#include "common/model/bundle.h"

typedef struct cake_store cake_store;
typedef struct cake_store_bundle cake_store_bundle;

typedef struct {
    uint64_t begin, end; /* bytes of the bundle file, end exclusive */
} cake_store_range;

/* budget_bytes: disk for all bundles together; 0 means no limit. Creates the folders. */
cake_status cake_store_open(cake_store **out, const char *dir, uint64_t budget_bytes,
                            cake_error *err);
/* All bundles must have been released. */
void cake_store_close(cake_store *s);
/* Disk taken by bundles, complete and partial (allocated blocks). */
uint64_t cake_store_used(cake_store *s);

/* Take up a bundle: complete already, or a part that is resumed or created. Checks the manifest and
 * that config is the one it names. Tensors present in other bundles (same hash) are copied
 * (reflinked where the file system can). Makes room by evicting bundles nobody uses, least recently
 * used first. Release a bundle that this one replaces before, not after: its tensors are taken over
 * all the same (what can be reused is evicted last, after copying), and a tight budget then need
 * not hold both. CAKE_EFORMAT (manifest, config), CAKE_ENOSPACE (budget or disk; nothing is left
 * behind), CAKE_EIO. */
cake_status cake_store_begin(cake_store *s, const char *manifest, size_t manifest_len,
                             const char *config, size_t config_len, cake_store_bundle **out,
                             cake_error *err);
/* Let go of it: a part stays for later, a complete bundle may be evicted from now on. */
void cake_store_release(cake_store_bundle *b);

const cake_manifest *cake_store_manifest(const cake_store_bundle *b);
/* Complete: all bytes there, each tensor verified once when it was received. */
bool cake_store_complete(const cake_store_bundle *b);
/* The bundle's folder; changes at finish and demotion. */
const char *cake_store_path(const cake_store_bundle *b);

/* Fill out with at most max ranges still to be fetched, ascending; returns how many were filled. */
size_t cake_store_missing(const cake_store_bundle *b, cake_store_range *out, size_t max);
uint64_t cake_store_missing_bytes(const cake_store_bundle *b);
/* Bytes taken over from other bundles at begin; tensors that failed their hash so far. */
uint64_t cake_store_reused_bytes(const cake_store_bundle *b);
uint64_t cake_store_damaged(const cake_store_bundle *b);

/* Bytes of the bundle file at offset, any order and size; what is there already is skipped. A
 * tensor that is complete is hashed; when wrong, its range is missing again and cake_store_damaged
 * counts. CAKE_EPROTO outside the bundle; CAKE_ENOSPACE disk full (the part keeps what it had). */
cake_status cake_store_write(cake_store_bundle *b, uint64_t offset, const void *data, size_t len,
                             cake_error *err);

/* Verify what was not verified yet (in parallel on pool, may be NULL), fsync, rename into place.
 * CAKE_EAGAIN when ranges are (again) missing: fetch them and call again. */
cake_status cake_store_finish(cake_store_bundle *b, cake_pool *pool, cake_error *err);

/* Take over a bundle folder that `cake-master bundle` wrote (from a stick, say): copied, verified
 * and kept like a received one; the folder is only read. *id (may be NULL) names it. */
cake_status cake_store_adopt(cake_store *s, const char *folder, cake_pool *pool, cake_sha256 *id,
                             cake_error *err);

/* Check tensor i of a complete bundle against the manifest; *ok. Thread-safe: an engine may call it
 * from its loading threads. */
cake_status cake_store_check_tensor(const cake_store_bundle *b, uint32_t i, bool *ok,
                                    cake_error *err);
/* Check all tensors of a complete bundle in parallel. Damaged ones are demoted: the bundle becomes
 * a part again with only those ranges missing, and the result is CAKE_EAGAIN. */
cake_status cake_store_verify(cake_store_bundle *b, cake_pool *pool, cake_error *err);

#endif
