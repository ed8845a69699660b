/* Messages as ZeroMQ frames. Frames are built in place: the engine writes the values of all rows
 * straight into the buffer that goes out, so nothing is copied again before encryption. */
#include "proto/msg_frames.h"

#include "common/clock.h"
#include "common/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* The memory of a message of several frames, which makes its rows neighbours. Whoever built it
 * counts once, and so does each frame that libzmq or a receiver still has. */
struct cake_msg_block {
    _Atomic uint32_t refs;
    _Alignas(16) uint8_t bytes[];
};

static void release(void *data, void *block) {
    (void)data;
    struct cake_msg_block *b = block;
    if (b && atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1) free(b);
}

const char *cake_link_role_name(cake_link_role r) {
    static const char *const names[] = {"none", "master", "peer", "server", "any"};
    return (unsigned)r <= CAKE_LINK_ROLE_ANY ? names[r] : "?";
}

bool cake_peer_equal(const cake_peer *a, const cake_peer *b) {
    return a->len == b->len && memcmp(a->id, b->id, a->len) == 0;
}

cake_msg *cake_msg_alloc(uint32_t n_frames) {
    struct cake_msg_frames *own =
        cake_trymalloc(sizeof *own + (size_t)n_frames * (sizeof own->views[0] + sizeof(zmq_msg_t)));
    cake_msg *m = cake_trymalloc(sizeof *m);
    if (!own || !m) {
        free(own);
        free(m);
        return NULL;
    }
    *m = (cake_msg){.own = own, .frames = own->views};
    own->n = 0;
    own->block = NULL;
    own->zmq = (zmq_msg_t *)(void *)(own->views + n_frames);
    return m;
}

void cake_msg_free(cake_msg *m) {
    if (!m) return;
    for (uint32_t i = 0; i < m->own->n; i++) zmq_msg_close(&m->own->zmq[i]);
    release(NULL, m->own->block);
    free(m->own);
    free(m);
}

/* Frames of the sizes that h's layout says, header written, the rest uninitialised. */
static cake_msg *build(cake_wire_hdr h) {
    if (cake_wire_layout(&h, NULL) != CAKE_OK) return NULL;
    cake_msg *m = cake_msg_alloc(h.n_frames);
    if (!m) return NULL;
    struct cake_msg_block *b = NULL;
    size_t total = 0, begin = 0;
    for (uint32_t i = 0; i < h.n_frames; i++) total += cake_wire_frame_bytes(&h, i);
    if (h.n_frames > 1) {
        b = m->own->block = cake_trymalloc(sizeof *b + total);
        if (!b) {
            cake_msg_free(m);
            return NULL;
        }
        atomic_init(&b->refs, 1);
    }
    for (uint32_t i = 0; i < h.n_frames; i++) {
        size_t n = cake_wire_frame_bytes(&h, i);
        zmq_msg_t *f = &m->own->zmq[i];
        if ((b ? zmq_msg_init_data(f, b->bytes + begin, n, release, b) : zmq_msg_init_size(f, n)) !=
            0) {
            cake_msg_free(m);
            return NULL;
        }
        if (b) atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
        begin += n;
        m->own->n = i + 1;
        m->own->views[i] = (cake_view){zmq_msg_data(&m->own->zmq[i]), n};
    }
    m->h = h;
    cake_wire_put_header(zmq_msg_data(&m->own->zmq[0]), &h);
    return m;
}

static uint8_t *at(cake_msg *m, uint32_t frame, size_t offset) {
    return (uint8_t *)zmq_msg_data(&m->own->zmq[frame]) + offset;
}

cake_msg *cake_msg_rows(const cake_wire_hdr *h, const cake_row *rows, const cake_kv_op *ops,
                        const cake_stage_time *times) {
    if (h->kind != CAKE_MSG_BATCH && h->kind != CAKE_MSG_RESULT) return NULL;
    cake_msg *m = build(*h);
    if (!m) return NULL;
    if (h->n_rows) memcpy(at(m, 0, CAKE_WIRE_HDR), rows, (size_t)h->n_rows * sizeof *rows);
    if (h->n_ops) memcpy(at(m, 0, cake_wire_ops_offset(h)), ops, (size_t)h->n_ops * sizeof *ops);
    if (h->n_times)
        memcpy(at(m, 0, cake_wire_times_offset(h)), times, (size_t)h->n_times * sizeof *times);
    return m;
}

uint8_t *cake_msg_values(cake_msg *m, uint32_t row) {
    cake_assert(m->h.width && row < m->h.n_rows);
    uint32_t frame;
    size_t offset;
    cake_wire_locate(&m->h, row, &frame, &offset);
    return at(m, frame, offset);
}

void cake_msg_set_time(cake_msg *m, uint32_t i, cake_stage_time t) {
    cake_assert(i < m->h.n_times);
    memcpy(at(m, 0, cake_wire_times_offset(&m->h) + i * sizeof t), &t, sizeof t);
}

static cake_msg *build_body(cake_wire_hdr h, const void *data, size_t len) {
    h.payload_bytes = len;
    cake_msg *m = build(h);
    if (m && data && len) memcpy(at(m, 0, CAKE_WIRE_HDR), data, len);
    return m;
}

cake_msg *cake_msg_control(uint64_t epoch, uint64_t request, const char *json, size_t len) {
    return build_body((cake_wire_hdr){.kind = CAKE_MSG_CONTROL, .epoch = epoch, .id = request},
                      json, len);
}

cake_msg *cake_msg_chunk(uint64_t transfer, uint64_t offset, const void *data, size_t len) {
    return build_body((cake_wire_hdr){.kind = CAKE_MSG_CHUNK, .id = transfer, .arg = offset}, data,
                      len);
}

cake_msg *cake_msg_chunk_fill(uint64_t transfer, uint64_t offset, size_t len, uint8_t **data) {
    cake_msg *m = cake_msg_chunk(transfer, offset, NULL, len);
    if (m) *data = at(m, 0, CAKE_WIRE_HDR);
    return m;
}

cake_msg *cake_msg_credit(uint64_t transfer, uint64_t limit) {
    return build_body((cake_wire_hdr){.kind = CAKE_MSG_CREDIT, .id = transfer, .arg = limit}, NULL,
                      0);
}

cake_msg *cake_msg_ping(uint64_t epoch, uint64_t number, size_t padding_bytes, bool echo) {
    cake_wire_hdr h = {.kind = CAKE_MSG_PING,
                       .flags = echo ? CAKE_FLAG_ECHO : 0,
                       .epoch = epoch,
                       .id = number,
                       .arg = cake_now_ns()};
    cake_msg *m = build_body(h, NULL, padding_bytes);
    if (m) memset(at(m, 0, CAKE_WIRE_HDR), 0, padding_bytes);
    return m;
}

cake_msg *cake_msg_pong(const cake_msg *ping) {
    cake_wire_hdr h = {
        .kind = CAKE_MSG_PONG, .epoch = ping->h.epoch, .id = ping->h.id, .arg = ping->h.arg};
    cake_view pad = cake_msg_body(ping);
    return build_body(h, pad.data, ping->h.flags & CAKE_FLAG_ECHO ? pad.len : 0);
}

cake_msg *cake_msg_error(uint64_t epoch, uint64_t batch, uint32_t stage, cake_status st,
                         const char *text) {
    size_t n = strnlen(text, CAKE_ERROR_TEXT_MAX);
    /* Never cut a UTF-8 character in two. */
    if (text[n])
        while (n && ((uint8_t)text[n] & 0xc0) == 0x80) n--;
    return build_body((cake_wire_hdr){.kind = CAKE_MSG_ERROR,
                                      .epoch = epoch,
                                      .id = batch,
                                      .stage = stage,
                                      .arg = (uint64_t)(int64_t)st},
                      text, n);
}

cake_msg *cake_msg_cancel(uint64_t epoch, uint64_t batch) {
    return build_body((cake_wire_hdr){.kind = CAKE_MSG_CANCEL, .epoch = epoch, .id = batch}, NULL,
                      0);
}

cake_msg *cake_msg_dup(const cake_msg *m) {
    cake_msg *d = cake_msg_alloc(m->h.n_frames);
    if (!d) return NULL;
    for (uint32_t i = 0; i < m->h.n_frames; i++) {
        zmq_msg_init(&d->own->zmq[i]);
        d->own->n = i + 1;
        if (zmq_msg_copy(&d->own->zmq[i], &m->own->zmq[i]) != 0) {
            cake_msg_free(d);
            return NULL;
        }
        d->own->views[i] =
            (cake_view){zmq_msg_data(&d->own->zmq[i]), zmq_msg_size(&d->own->zmq[i])};
    }
    d->h = m->h;
    d->from = m->from;
    d->role = m->role;
    d->received_ns = m->received_ns;
    return d;
}

void cake_msg_set_stage(cake_msg *m, uint32_t stage) {
    m->h.stage = stage;
    cake_wire_put_header(at(m, 0, 0), &m->h);
}

size_t cake_msg_bytes(const cake_msg *m) {
    size_t n = 0;
    for (uint32_t i = 0; i < m->h.n_frames; i++) n += m->frames[i].len;
    return n;
}
