/* SHA-256 of a checkpoint's tensors: in parallel, remembered per file on disk.
 *
 * CACHE/<sha256 of the file's real path>, text:
 *   cake-hashes 1
 *   SIZE MTIME_NS INODE DEVICE          of the file; a difference empties the cache
 *   OFFSET BYTES HEX                    one line per tensor
 * A file changed less than two seconds before it was opened is not remembered: its time stamp could
 * hide another change. */
#ifndef CAKE_COMMON_MODEL_HASHES_H
#define CAKE_COMMON_MODEL_HASHES_H

#include "common/model/checkpoint.h"
#include "common/pool.h"
#include "common/sha256.h"

/* out[i] = hash of checkpoint tensor idx[i]. pool and cache_dir may be NULL. Reads with pread:
 * CAKE_EIO when a file shrank or changed meanwhile. A cache that cannot be read or written is only
 * slower. */
cake_status cake_checkpoint_hash(const cake_checkpoint *ck, const uint32_t *idx, size_t n,
                                 cake_pool *pool, const char *cache_dir, cake_sha256 *out,
                                 cake_error *err);

#endif
