/* KV cache: see kv.h. Free blocks are a stack, so that allocation is a pure function of the history
 * of operations: that is what keeps the tables of all stages equal. */
#include "worker/engine/kv.h"
#include "common/mem.h"
#include "kernels/attn.h"

#include <stdlib.h>
#include <string.h>

struct cake_kv {
    cake_kv_options o;
    uint8_t *arena;
    size_t arena_bytes;
    uint32_t blocks_per_seq;
    uint32_t *free_stack, n_free;
    uint32_t *refs;  /* [n_blocks] */
    uint32_t *table; /* [n_seqs][blocks_per_seq] */
    uint32_t *len;   /* [n_seqs] positions */
};

static uint32_t blocks_for(uint32_t positions) {
    return positions / CAKE_KV_BLOCK + (positions % CAKE_KV_BLOCK != 0);
}

bool cake_kv_arena_bytes(const cake_kv_options *o, size_t *bytes) {
    size_t n;
    return cake_mul_size(o->n_layers, o->block_bytes, &n) && cake_mul_size(n, o->n_blocks, bytes);
}

cake_status cake_kv_new(cake_kv **out, const cake_kv_options *o, cake_error *err) {
    size_t bytes, table;
    uint32_t per_seq = blocks_for(o->max_positions);
    if (!cake_kv_arena_bytes(o, &bytes) || !cake_mul_size(o->n_seqs, per_seq, &table) ||
        table > (1u << 28) || o->n_blocks > (1u << 28) || o->n_seqs == 0)
        return cake_fail(
            err, CAKE_EINVAL,
            "a KV cache of %u sequences, %u positions and %u blocks is beyond the limits",
            o->n_seqs, o->max_positions, o->n_blocks);
    cake_kv *kv = cake_calloc(1, sizeof *kv);
    kv->o = *o;
    kv->blocks_per_seq = per_seq;
    kv->arena_bytes = bytes;
    kv->free_stack = cake_calloc(o->n_blocks, sizeof *kv->free_stack);
    kv->refs = cake_calloc(o->n_blocks, sizeof *kv->refs);
    kv->table = cake_calloc(table, sizeof *kv->table);
    kv->len = cake_calloc(o->n_seqs, sizeof *kv->len);
    if (bytes && !(kv->arena = cake_pages_alloc(bytes))) {
        cake_kv_free(kv);
        return cake_fail(err, CAKE_ENOMEM,
                         "no memory for a KV cache of %zu MiB; use a smaller --context",
                         bytes >> 20);
    }
    for (uint32_t i = 0; i < o->n_blocks; i++) kv->free_stack[i] = o->n_blocks - 1 - i;
    kv->n_free = o->n_blocks;
    *out = kv;
    return CAKE_OK;
}

void cake_kv_free(cake_kv *kv) {
    if (!kv) return;
    cake_pages_free(kv->arena, kv->arena_bytes);
    free(kv->free_stack);
    free(kv->refs);
    free(kv->table);
    free(kv->len);
    free(kv);
}

uint32_t cake_kv_len(const cake_kv *kv, uint32_t seq) {
    cake_assert(seq < kv->o.n_seqs);
    return kv->len[seq];
}

uint32_t cake_kv_free_blocks(const cake_kv *kv) {
    return kv->n_free;
}

static uint32_t *seq_table(const cake_kv *kv, uint32_t seq) {
    return kv->table + (size_t)seq * kv->blocks_per_seq;
}

static uint32_t take(cake_kv *kv) {
    cake_assert(kv->n_free > 0);
    uint32_t b = kv->free_stack[--kv->n_free];
    kv->refs[b] = 1;
    return b;
}

static void drop(cake_kv *kv, uint32_t b) {
    cake_assert(kv->refs[b] > 0);
    if (--kv->refs[b] == 0) kv->free_stack[kv->n_free++] = b;
}

static uint8_t *block_at(const cake_kv *kv, uint32_t b, uint32_t layer) {
    return kv->arena + ((size_t)layer * kv->o.n_blocks + b) * kv->o.block_bytes;
}

static void copy_block(const cake_kv *kv, uint32_t to, uint32_t from) {
    for (uint32_t layer = 0; layer < kv->o.n_layers; layer++)
        memcpy(block_at(kv, to, layer), block_at(kv, from, layer), kv->o.block_bytes);
}

static cake_status check_seq(const cake_kv *kv, uint32_t seq, cake_error *err) {
    if (seq < kv->o.n_seqs) return CAKE_OK;
    return cake_fail(err, CAKE_EINVAL, "sequence %u is outside 0..%u", seq, kv->o.n_seqs - 1);
}

static void shrink(cake_kv *kv, uint32_t seq, uint32_t len) {
    uint32_t *t = seq_table(kv, seq), keep = blocks_for(len);
    for (uint32_t i = blocks_for(kv->len[seq]); i > keep; i--) drop(kv, t[i - 1]);
    kv->len[seq] = len;
}

cake_status cake_kv_release(cake_kv *kv, uint32_t seq, cake_error *err) {
    cake_status st = check_seq(kv, seq, err);
    if (st == CAKE_OK) shrink(kv, seq, 0);
    return st;
}

cake_status cake_kv_trim(cake_kv *kv, uint32_t seq, uint32_t len, cake_error *err) {
    cake_status st = check_seq(kv, seq, err);
    if (st != CAKE_OK) return st;
    if (len > kv->len[seq])
        return cake_fail(err, CAKE_EINVAL, "cannot trim sequence %u to %u: it has %u positions",
                         seq, len, kv->len[seq]);
    shrink(kv, seq, len);
    return CAKE_OK;
}

cake_status cake_kv_fork(cake_kv *kv, uint32_t dst, uint32_t src, uint32_t len, cake_error *err) {
    cake_status st = check_seq(kv, dst, err);
    if (st == CAKE_OK) st = check_seq(kv, src, err);
    if (st != CAKE_OK) return st;
    if (dst == src || kv->len[dst] != 0 || len > kv->len[src])
        return cake_fail(err, CAKE_EINVAL,
                         "cannot fork %u positions of sequence %u (%u) into %u (%u)", len, src,
                         kv->len[src], dst, kv->len[dst]);
    uint32_t whole = len / CAKE_KV_BLOCK;
    bool partial = len % CAKE_KV_BLOCK != 0;
    if (partial && kv->n_free == 0)
        return cake_fail(err, CAKE_ENOSPACE, "no free KV block to fork sequence %u", src);
    const uint32_t *from = seq_table(kv, src);
    uint32_t *to = seq_table(kv, dst);
    for (uint32_t i = 0; i < whole; i++) kv->refs[to[i] = from[i]]++;
    if (partial) {
        to[whole] = take(kv);
        copy_block(kv, to[whole], from[whole]);
    }
    kv->len[dst] = len;
    return CAKE_OK;
}

/* An append into a last block that another sequence also holds must copy it first. */
static bool must_copy(const cake_kv *kv, uint32_t seq, uint32_t pos, uint32_t n) {
    return n && pos % CAKE_KV_BLOCK && kv->refs[seq_table(kv, seq)[pos / CAKE_KV_BLOCK]] > 1;
}

cake_status cake_kv_need(const cake_kv *kv, uint32_t seq, uint32_t pos, uint32_t n,
                         uint32_t *blocks, cake_error *err) {
    cake_status st = check_seq(kv, seq, err);
    if (st != CAKE_OK) return st;
    if (pos != kv->len[seq])
        return cake_fail(err, CAKE_EINVAL, "sequence %u continues at position %u, not %u", seq,
                         kv->len[seq], pos);
    if (n > kv->o.max_positions - pos)
        return cake_fail(err, CAKE_ENOSPACE, "sequence %u would grow past the context of %u", seq,
                         kv->o.max_positions);
    *blocks = blocks_for(pos + n) - blocks_for(pos) + must_copy(kv, seq, pos, n);
    return CAKE_OK;
}

cake_status cake_kv_extend(cake_kv *kv, uint32_t seq, uint32_t pos, uint32_t n, cake_error *err) {
    uint32_t need;
    cake_status st = cake_kv_need(kv, seq, pos, n, &need, err);
    if (st != CAKE_OK) return st;
    if (need > kv->n_free)
        return cake_fail(err, CAKE_ENOSPACE, "sequence %u needs %u KV blocks and %u are free", seq,
                         need, kv->n_free);
    uint32_t *t = seq_table(kv, seq), have = blocks_for(pos), want = blocks_for(pos + n);
    if (must_copy(kv, seq, pos, n)) {
        uint32_t old = t[have - 1];
        t[have - 1] = take(kv);
        copy_block(kv, t[have - 1], old);
        drop(kv, old);
    }
    for (uint32_t i = have; i < want; i++) t[i] = take(kv);
    kv->len[seq] = pos + n;
    return CAKE_OK;
}

void *cake_kv_block(const cake_kv *kv, uint32_t seq, uint32_t i, uint32_t layer) {
    return block_at(kv, seq_table(kv, seq)[i], layer);
}
