/* Book-keeping of a bundle on its way: which bytes are there, and how many more may be sent. Pure.
 *
 * The receiver starts a transfer by telling the ranges it misses (so an interrupted one resumes),
 * grants credit as an absolute count of payload bytes, and notes what arrives. The sender walks the
 * ranges in order and stops at the credit. Bytes lost with a connection are asked for again in a
 * new transfer. */
#ifndef CAKE_PROTO_TRANSFER_H
#define CAKE_PROTO_TRANSFER_H

#include "common/json.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_RANGES_MAX = 4096, /* ranges of one request; a longer list is merged by the asker */
    CAKE_TRANSFER_WINDOW = 16 << 20, /* bytes in flight */
    CAKE_TRANSFER_CHUNK = 1 << 20,
};

/* Bytes [begin, end). */
typedef struct {
    uint64_t begin, end;
} cake_range;

/* Sorted, disjoint, non-touching, non-empty ranges. Zero-initialise; free with cake_ranges_deinit.
 */
typedef struct {
    cake_range *at;
    size_t n, cap;
} cake_ranges;

void cake_ranges_deinit(cake_ranges *r);
/* Add [begin, end), merging what touches. CAKE_ENOSPACE when more than CAKE_RANGES_MAX pieces would
 * remain, CAKE_ENOMEM, CAKE_EINVAL when begin > end; r is unchanged then. */
cake_status cake_ranges_add(cake_ranges *r, uint64_t begin, uint64_t end, cake_error *err);
/* Take [begin, end) away. Same errors. */
cake_status cake_ranges_remove(cake_ranges *r, uint64_t begin, uint64_t end, cake_error *err);
bool cake_ranges_contain(const cake_ranges *r, uint64_t begin, uint64_t end);
uint64_t cake_ranges_bytes(const cake_ranges *r);
/* out = [0, size) without r. */
cake_status cake_ranges_missing(const cake_ranges *r, uint64_t size, cake_ranges *out,
                                cake_error *err);
/* [[begin,end],...]; parse demands order and end <= size. */
json_object *cake_ranges_to_json(const cake_ranges *r);
cake_status cake_ranges_from_json(cake_ranges *r, json_object *array, uint64_t size,
                                  cake_error *err);

/* ---- sender ---- */
typedef struct {
    uint64_t id, size;
    cake_ranges todo; /* as asked; owned */
    size_t range;     /* next: todo.at[range], `at` bytes into it */
    uint64_t at;
    uint64_t sent, credit; /* payload bytes */
} cake_sender;

/* Takes the ranges over (empties *todo). Credit starts at 0. */
void cake_sender_init(cake_sender *s, uint64_t id, uint64_t size, cake_ranges *todo);
void cake_sender_deinit(cake_sender *s);
/* A CREDIT arrived. Never lowers. CAKE_EPROTO when it exceeds all that was asked by more than a
 * window. */
cake_status cake_sender_credit(cake_sender *s, uint64_t limit, cake_error *err);
/* Next piece to send, at most max bytes, within credit. False: wait for credit, or done. Does not
 * advance: call cake_sender_advance(len) once the chunk was taken by the link. */
bool cake_sender_next(const cake_sender *s, size_t max, uint64_t *offset, size_t *len);
void cake_sender_advance(cake_sender *s, size_t len);
bool cake_sender_done(const cake_sender *s);

/* ---- receiver ---- */
typedef struct {
    uint64_t id, size;
    cake_ranges missing; /* not yet here; owned */
    uint64_t received;   /* payload bytes that arrived in this transfer */
    uint64_t consumed;   /* of these, written and done with */
    uint64_t granted;    /* absolute limit last sent */
    uint64_t window;
} cake_receiver;

void cake_receiver_init(cake_receiver *r, uint64_t id, uint64_t size, cake_ranges *missing,
                        uint64_t window);
void cake_receiver_deinit(cake_receiver *r);
/* A CHUNK arrived: CAKE_EPROTO when it is empty, not missing, outside the bundle, or beyond the
 * credit given. The bytes are the caller's to write; then call cake_receiver_consumed. */
cake_status cake_receiver_chunk(cake_receiver *r, uint64_t offset, size_t len, cake_error *err);
void cake_receiver_consumed(cake_receiver *r, size_t len);
/* True when a CREDIT of *limit should be sent now (at the start, then each time half a window was
 * used). */
bool cake_receiver_grant(cake_receiver *r, uint64_t *limit);
bool cake_receiver_done(const cake_receiver *r);

#endif
