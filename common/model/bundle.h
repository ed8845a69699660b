/* Bundles: what a worker gets (design.md section 9).
 *
 * A bundle is one safetensors file with exactly the tensors of some units, the checkpoint's own
 * names and bytes, plus config.json and a manifest. The manifest is canonical JSON (one spelling
 * only):
 *
 *   {"cake_manifest":1,"size":N,"config":{"bytes":N,"sha256":"HEX"},"units":[[0,3],[8,9]],
 *    "tensors":[{"name":"...","dtype":"U32","shape":[4096,512],"offset":N,"bytes":N,"sha256":"HEX"},...]}
 *
 * without white space; tensors in file order, units as [begin,end) pairs. The header of the
 * safetensors file follows from the manifest alone (cake_manifest.prefix), so it is never sent. The
 * id of the bundle is the SHA-256 of the manifest's bytes. */
#ifndef CAKE_COMMON_MODEL_BUNDLE_H
#define CAKE_COMMON_MODEL_BUNDLE_H

#include "common/model/layout.h"
#include "common/pool.h"
#include "common/sha256.h"

enum {
    CAKE_MANIFEST_MAX = 64 << 20,  /* bytes */
    CAKE_MANIFEST_NAME_MAX = 255,  /* tensor names: [A-Za-z0-9._-] only */
    CAKE_MANIFEST_UNITS_MAX = 256, /* ranges */
};

typedef struct {
    const char *name; /* owned by the manifest */
    cake_dtype dtype;
    uint32_t rank;
    uint64_t shape[CAKE_RANK_MAX];
    uint64_t offset; /* in the bundle file */
    uint64_t n_bytes;
    cake_sha256 sha256;
} cake_manifest_tensor;

typedef struct {
    cake_sha256 id;
    char *json; /* the canonical text, json_len bytes, NUL-terminated */
    size_t json_len;
    uint64_t size;   /* of the bundle file */
    uint8_t *prefix; /* the first bytes of the file: length field and header; 64-byte multiple */
    size_t prefix_len;
    uint64_t config_bytes;
    cake_sha256 config_sha256;
    uint32_t n_units;
    cake_unit_range *units;
    uint32_t n_tensors;
    cake_manifest_tensor *tensors; /* ascending offset, back to back from prefix_len to size */
    char *names;                   /* private */
} cake_manifest;

/* Parse a manifest from a peer or disk. Accepts the canonical spelling only; CAKE_EFORMAT
 * otherwise. Memory is a small multiple of len. Thread-safe. */
cake_status cake_manifest_parse(cake_manifest **out, const char *json, size_t len, cake_error *err);
void cake_manifest_free(cake_manifest *m);

/* ---- the sending side ---- */

typedef struct {
    cake_manifest *manifest; /* owned */
    char *config;            /* config.json, config_len bytes; owned */
    size_t config_len;
    const cake_checkpoint *checkpoint; /* borrowed */
    uint32_t *source;                  /* tensor i of the manifest is checkpoint tensor source[i] */
} cake_bundle;

/* Describe the bundle of the units in ranges. Hashes the tensors it has no cached hash of, in
 * parallel on pool (may be NULL). hash_cache: folder for hashes of unchanged files (created), or
 * NULL for none; normally cake_hash_cache_dir(). config/config_len: the bytes of config.json
 * (copied). Blocks for as long as reading the tensors takes. layout and its checkpoint must outlive
 * the bundle. */
cake_status cake_bundle_new(cake_bundle **out, const cake_layout *layout,
                            const cake_unit_range *ranges, size_t n_ranges, const char *config,
                            size_t config_len, cake_pool *pool, const char *hash_cache,
                            cake_error *err);
void cake_bundle_free(cake_bundle *b);

/* "CACHE/hashes" below cake_cache_dir(); caller frees. */
char *cake_hash_cache_dir(void);

/* Copy bytes [offset, offset+len) of the bundle file into dst. O(1) memory, thread-safe. Reads the
 * source with pread, so a file that shrank is CAKE_EIO, not a signal. CAKE_EINVAL out of range. */
cake_status cake_bundle_read(const cake_bundle *b, uint64_t offset, size_t len, void *dst,
                             cake_error *err);
/* Zero-copy: how many bytes lie contiguous in memory (header or source mapping) from offset, at
 * most max; *p points at them. 0 at the end of the bundle. */
size_t cake_bundle_view(const cake_bundle *b, uint64_t offset, size_t max, const uint8_t **p);

/* Write DIR/{model.safetensors,config.json,manifest.json}: streamed to a temporary folder beside
 * dir, fsynced, renamed. dir must not exist. */
cake_status cake_bundle_write(const cake_bundle *b, const char *dir, cake_error *err);

#endif
