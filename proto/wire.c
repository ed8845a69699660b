/* Header and layout of messages; see wire.h. The decoder accepts exactly what the encoder writes.
 */
#include "proto/wire.h"

#include "common/mem.h"

#include <string.h>

static uint32_t ld32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t ld64(const uint8_t *p) {
    return (uint64_t)ld32(p) | (uint64_t)ld32(p + 4) << 32;
}
static void st32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}
static void st64(uint8_t *p, uint64_t v) {
    st32(p, (uint32_t)v);
    st32(p + 4, (uint32_t)(v >> 32));
}

static const char *const kind_names[CAKE_MSG_KINDS] = {
    "?", "CONTROL", "BATCH", "RESULT", "CHUNK", "CREDIT", "PING", "PONG", "ERROR", "CANCEL"};
static const char *const type_names[] = {"none", "f32", "f16", "q8"};

const char *cake_msg_kind_name(unsigned kind) {
    return kind < CAKE_MSG_KINDS ? kind_names[kind] : "?";
}

const char *cake_wire_type_name(cake_wire_type d) {
    return (unsigned)d <= CAKE_WIRE_Q8 ? type_names[d] : "?";
}

bool cake_wire_type_parse(const char *name, cake_wire_type *out) {
    for (int i = CAKE_WIRE_F32; i <= CAKE_WIRE_Q8; i++)
        if (strcmp(name, type_names[i]) == 0) return *out = (cake_wire_type)i, true;
    return false;
}

size_t cake_wire_row_bytes(cake_wire_type dtype, uint32_t width) {
    if (width > CAKE_WIDTH_MAX) return 0;
    switch (dtype) {
    case CAKE_WIRE_F32: return (size_t)width * 4;
    case CAKE_WIRE_F16: return (size_t)width * 2;
    case CAKE_WIRE_Q8: return ((size_t)width + 31) / 32 * 36;
    default: return 0;
    }
}

size_t cake_wire_ops_offset(const cake_wire_hdr *h) {
    return CAKE_WIRE_HDR + (size_t)h->n_rows * sizeof(cake_row);
}
size_t cake_wire_times_offset(const cake_wire_hdr *h) {
    return cake_wire_ops_offset(h) + (size_t)h->n_ops * sizeof(cake_kv_op);
}
size_t cake_wire_body_offset(const cake_wire_hdr *h) {
    return cake_wire_times_offset(h) + (size_t)h->n_times * sizeof(cake_stage_time);
}

static bool has_rows(const cake_wire_hdr *h) {
    return h->kind == CAKE_MSG_BATCH || h->kind == CAKE_MSG_RESULT;
}

/* How the payload rows of BATCH and RESULT are cut. Caps of wire.h hold. */
typedef struct {
    size_t row_bytes;
    uint32_t per_frame; /* 0: all in frame 0 */
    uint32_t n_frames;
} cut;

static cut cut_of(const cake_wire_hdr *h) {
    cut c = {.row_bytes = cake_wire_row_bytes((cake_wire_type)h->dtype, h->width), .n_frames = 1};
    size_t payload = c.row_bytes * h->n_rows;
    if (cake_wire_body_offset(h) + payload > CAKE_FRAME_MAX) {
        c.per_frame = (uint32_t)(CAKE_FRAME_MAX / c.row_bytes);
        c.n_frames = 1 + (h->n_rows + c.per_frame - 1) / c.per_frame;
    }
    return c;
}

/* What each kind may use; everything else must be zero. One table for both directions. */
static const struct kind_rule {
    uint8_t flags;
    bool id, stage, arg, epoch;
    uint32_t rows, ops, times, width;
    uint32_t payload; /* most bytes of a one-frame kind */
} rules[CAKE_MSG_KINDS] = {
    [CAKE_MSG_CONTROL] = {.id = true, .epoch = true, .payload = CAKE_CONTROL_MAX},
    [CAKE_MSG_BATCH] = {.flags = CAKE_FLAG_CANCELED,
                        .id = true,
                        .stage = true,
                        .epoch = true,
                        .rows = CAKE_ROWS_MAX,
                        .ops = CAKE_OPS_MAX,
                        .times = CAKE_STAGES_MAX,
                        .width = CAKE_WIDTH_MAX},
    [CAKE_MSG_RESULT] = {.flags = CAKE_FLAG_CANCELED,
                         .id = true,
                         .stage = true,
                         .epoch = true,
                         .rows = CAKE_ROWS_MAX,
                         .times = CAKE_STAGES_MAX,
                         .width = CAKE_WIDTH_MAX},
    [CAKE_MSG_CHUNK] = {.id = true, .arg = true, .payload = CAKE_CHUNK_MAX},
    [CAKE_MSG_CREDIT] = {.id = true, .arg = true},
    [CAKE_MSG_PING] =
        {.flags = CAKE_FLAG_ECHO, .id = true, .arg = true, .epoch = true, .payload = CAKE_PING_MAX},
    [CAKE_MSG_PONG] = {.id = true, .arg = true, .epoch = true, .payload = CAKE_PING_MAX},
    [CAKE_MSG_ERROR] =
        {.id = true, .stage = true, .arg = true, .epoch = true, .payload = CAKE_ERROR_TEXT_MAX},
    [CAKE_MSG_CANCEL] = {.id = true, .epoch = true},
};

/* Everything that can be said about a header alone; fills payload_bytes and n_frames into *want. */
static cake_status check_header(const cake_wire_hdr *h, cake_wire_hdr *want, cake_status st,
                                cake_error *err) {
    if (h->kind == 0 || h->kind >= CAKE_MSG_KINDS)
        return cake_fail(err, st, "message of unknown kind %u", (unsigned)h->kind);
    const struct kind_rule *r = &rules[h->kind];
    const char *name = kind_names[h->kind];
    if (h->n_rows > r->rows)
        return cake_fail(err, st, "%s with %u rows, at most %u", name, h->n_rows, r->rows);
    if (h->n_ops > r->ops)
        return cake_fail(err, st, "%s with %u KV commands, at most %u", name, h->n_ops, r->ops);
    if (h->n_times > r->times)
        return cake_fail(err, st, "%s with %u stage times, at most %u", name, h->n_times, r->times);
    if (h->width > r->width)
        return cake_fail(err, st, "%s of width %u, at most %u", name, h->width, r->width);
    if (h->flags & (unsigned)~r->flags)
        return cake_fail(err, st, "%s with unknown flags 0x%02x", name, (unsigned)h->flags);
    if ((h->stage && !r->stage) || (h->arg && !r->arg) || (h->epoch && !r->epoch))
        return cake_fail(err, st, "%s with a field set that it does not have", name);
    if (h->stage > CAKE_STAGES_MAX)
        return cake_fail(err, st, "%s for stage %u, at most %u", name, h->stage, CAKE_STAGES_MAX);
    *want = *h;
    want->n_frames = 1;
    if (!has_rows(h)) {
        if (h->dtype) return cake_fail(err, st, "%s with a payload type", name);
        if (h->payload_bytes > r->payload)
            return cake_fail(err, st, "%s with %llu payload bytes, at most %u", name,
                             (unsigned long long)h->payload_bytes, r->payload);
        return CAKE_OK;
    }
    bool values = h->kind == CAKE_MSG_RESULT ? h->n_rows > 0 : h->width > 0;
    if (h->dtype > CAKE_WIRE_Q8 || (h->dtype == CAKE_WIRE_NONE) == values ||
        (h->kind == CAKE_MSG_RESULT && values && h->dtype != CAKE_WIRE_F32))
        return cake_fail(err, st, "%s with payload type %u", name, (unsigned)h->dtype);
    if ((h->width > 0) != values)
        return cake_fail(err, st, "%s of width %u with %u rows", name, h->width, h->n_rows);
    if (values && (h->flags & CAKE_FLAG_CANCELED))
        return cake_fail(err, st, "%s with values that were cancelled", name);
    cut c = cut_of(h);
    want->payload_bytes = (uint64_t)c.row_bytes * h->n_rows;
    want->n_frames = c.n_frames;
    if (want->payload_bytes > CAKE_MESSAGE_MAX || c.n_frames > CAKE_FRAMES_MAX)
        return cake_fail(err, st, "%s of %u rows x %u values exceeds %llu bytes", name, h->n_rows,
                         h->width, (unsigned long long)CAKE_MESSAGE_MAX);
    return CAKE_OK;
}

cake_status cake_wire_layout(cake_wire_hdr *h, cake_error *err) {
    cake_wire_hdr want;
    cake_status st = check_header(h, &want, CAKE_EINVAL, err);
    if (st == CAKE_OK) *h = want;
    return st;
}

size_t cake_wire_frame_bytes(const cake_wire_hdr *h, uint32_t i) {
    size_t body = cake_wire_body_offset(h);
    if (h->n_frames == 1) return body + (size_t)h->payload_bytes;
    if (i == 0) return body;
    cut c = cut_of(h);
    uint32_t first = (i - 1) * c.per_frame, left = h->n_rows - first;
    return (left < c.per_frame ? left : c.per_frame) * c.row_bytes;
}

void cake_wire_locate(const cake_wire_hdr *h, uint32_t i, uint32_t *frame, size_t *offset) {
    cut c = cut_of(h);
    if (c.per_frame == 0) {
        *frame = 0;
        *offset = cake_wire_body_offset(h) + i * c.row_bytes;
    } else {
        *frame = 1 + i / c.per_frame;
        *offset = i % c.per_frame * c.row_bytes;
    }
}

void cake_wire_put_header(uint8_t *out, const cake_wire_hdr *h) {
    st32(out, CAKE_WIRE_MAGIC);
    out[4] = CAKE_WIRE_VERSION;
    out[5] = h->kind;
    out[6] = h->dtype;
    out[7] = h->flags;
    st64(out + 8, h->epoch);
    st64(out + 16, h->id);
    st32(out + 24, h->stage);
    st32(out + 28, h->n_rows);
    st32(out + 32, h->n_ops);
    st32(out + 36, h->n_times);
    st32(out + 40, h->width);
    st32(out + 44, h->n_frames);
    st64(out + 48, h->payload_bytes);
    st64(out + 56, h->arg);
}

cake_status cake_wire_decode(cake_wire_hdr *out, const cake_view *frames, size_t n,
                             cake_error *err) {
    if (n == 0 || frames[0].len < CAKE_WIRE_HDR)
        return cake_fail(err, CAKE_EPROTO, "message of %zu bytes is shorter than its header",
                         n ? frames[0].len : 0);
    const uint8_t *p = frames[0].data;
    if (ld32(p) != CAKE_WIRE_MAGIC)
        return cake_fail(err, CAKE_EPROTO, "bad message magic 0x%08x", (unsigned)ld32(p));
    if (p[4] != CAKE_WIRE_VERSION)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "the peer speaks protocol version %u, this program %u: install the same "
                         "version on all machines",
                         (unsigned)p[4], CAKE_WIRE_VERSION);
    cake_wire_hdr h = {.kind = p[5],
                       .dtype = p[6],
                       .flags = p[7],
                       .epoch = ld64(p + 8),
                       .id = ld64(p + 16),
                       .stage = ld32(p + 24),
                       .n_rows = ld32(p + 28),
                       .n_ops = ld32(p + 32),
                       .n_times = ld32(p + 36),
                       .width = ld32(p + 40),
                       .n_frames = ld32(p + 44),
                       .payload_bytes = ld64(p + 48),
                       .arg = ld64(p + 56)};
    cake_wire_hdr want;
    cake_status st = check_header(&h, &want, CAKE_EPROTO, err);
    if (st != CAKE_OK) return st;
    if (h.payload_bytes != want.payload_bytes || h.n_frames != want.n_frames)
        return cake_fail(err, CAKE_EPROTO,
                         "%s says %llu bytes in %u frames, its counts say %llu in %u",
                         kind_names[h.kind], (unsigned long long)h.payload_bytes, h.n_frames,
                         (unsigned long long)want.payload_bytes, want.n_frames);
    if (n != h.n_frames)
        return cake_fail(err, CAKE_EPROTO, "%s of %u frames came in %zu", kind_names[h.kind],
                         h.n_frames, n);
    for (uint32_t i = 0; i < h.n_frames; i++)
        if (frames[i].len != cake_wire_frame_bytes(&h, i))
            return cake_fail(err, CAKE_EPROTO, "%s: frame %u has %zu bytes instead of %zu",
                             kind_names[h.kind], i, frames[i].len, cake_wire_frame_bytes(&h, i));
    *out = h;
    return CAKE_OK;
}

cake_row cake_wire_row(const cake_view *frames, uint32_t i) {
    cake_row r;
    memcpy(&r, frames[0].data + CAKE_WIRE_HDR + (size_t)i * sizeof r, sizeof r);
    return r;
}

cake_kv_op cake_wire_op(const cake_wire_hdr *h, const cake_view *frames, uint32_t i) {
    cake_kv_op o;
    memcpy(&o, frames[0].data + cake_wire_ops_offset(h) + (size_t)i * sizeof o, sizeof o);
    return o;
}

cake_stage_time cake_wire_time(const cake_wire_hdr *h, const cake_view *frames, uint32_t i) {
    cake_stage_time t;
    memcpy(&t, frames[0].data + cake_wire_times_offset(h) + (size_t)i * sizeof t, sizeof t);
    return t;
}

const uint8_t *cake_wire_values(const cake_wire_hdr *h, const cake_view *frames, uint32_t i) {
    if (h->width == 0 || i >= h->n_rows) return NULL;
    uint32_t frame;
    size_t offset;
    cake_wire_locate(h, i, &frame, &offset);
    return frames[frame].data + offset;
}

cake_view cake_wire_body(const cake_wire_hdr *h, const cake_view *frames) {
    if (has_rows(h)) return (cake_view){0};
    return (cake_view){frames[0].data + CAKE_WIRE_HDR, (size_t)h->payload_bytes};
}

static cake_status check_op(const cake_kv_op *o, const cake_wire_limits *l) {
    switch (o->op) {
    case CAKE_KV_FREE: return o->seq < l->n_seqs && o->a == 0 && o->b == 0 ? CAKE_OK : CAKE_EPROTO;
    case CAKE_KV_TRIM:
        return o->seq < l->n_seqs && o->a <= l->n_ctx && o->b == 0 ? CAKE_OK : CAKE_EPROTO;
    case CAKE_KV_FORK:
        return o->seq < l->n_seqs && o->a < l->n_seqs && o->a != o->seq && o->b <= l->n_ctx
                   ? CAKE_OK
                   : CAKE_EPROTO;
    case CAKE_KV_RESET: return o->seq == 0 && o->a == 0 && o->b == 0 ? CAKE_OK : CAKE_EPROTO;
    default: return CAKE_EPROTO;
    }
}

cake_status cake_wire_check(const cake_wire_hdr *h, const cake_view *frames,
                            const cake_wire_limits *l, cake_error *err) {
    const char *name = cake_msg_kind_name(h->kind);
    if (!has_rows(h)) return cake_fail(err, CAKE_EPROTO, "%s where rows were expected", name);
    if (h->epoch != l->epoch)
        return cake_fail(err, CAKE_EAGAIN, "%s of plan %llu, the plan is %llu", name,
                         (unsigned long long)h->epoch, (unsigned long long)l->epoch);
    if (h->n_rows > l->n_rows || h->n_ops > l->n_ops)
        return cake_fail(err, CAKE_EPROTO,
                         "%s with %u rows and %u KV commands, agreed are %u and %u", name,
                         h->n_rows, h->n_ops, l->n_rows, l->n_ops);
    if (h->stage >= l->n_stages || h->n_times > l->n_stages)
        return cake_fail(err, CAKE_EPROTO, "%s for stage %u with %u times, the plan has %u stages",
                         name, h->stage, h->n_times, l->n_stages);
    if (h->kind == CAKE_MSG_BATCH) {
        uint32_t width = h->flags & CAKE_FLAG_CANCELED ? 0 : l->width;
        if (h->width != width)
            return cake_fail(err, CAKE_EPROTO, "BATCH of width %u, agreed is %u", h->width, width);
        if (!(l->dtypes >> h->dtype & 1) && h->width)
            return cake_fail(err, CAKE_EPROTO, "BATCH in %s, which was not agreed",
                             cake_wire_type_name((cake_wire_type)h->dtype));
    } else if (h->width && h->width != l->n_vocab) {
        return cake_fail(err, CAKE_EPROTO, "RESULT of width %u, the vocabulary has %u", h->width,
                         l->n_vocab);
    }
    for (uint32_t i = 0; i < h->n_rows; i++) {
        cake_row r = cake_wire_row(frames, i);
        if (r.seq >= l->n_seqs || r.pos >= l->n_ctx || r.token >= l->n_vocab ||
            r.flags & ~(uint32_t)CAKE_ROW_LOGITS)
            return cake_fail(
                err, CAKE_EPROTO,
                "%s row %u is out of range: sequence %u of %u, position %u of %u, token %u "
                "of %u, flags 0x%x",
                name, i, r.seq, l->n_seqs, r.pos, l->n_ctx, r.token, l->n_vocab, r.flags);
    }
    for (uint32_t i = 0; i < h->n_ops; i++) {
        cake_kv_op o = cake_wire_op(h, frames, i);
        if (check_op(&o, l) != CAKE_OK)
            return cake_fail(err, CAKE_EPROTO, "%s: KV command %u (%u: %u %u %u) is out of range",
                             name, i, o.op, o.seq, o.a, o.b);
    }
    for (uint32_t i = 0; i < h->n_times; i++) {
        cake_stage_time t = cake_wire_time(h, frames, i);
        if (t.stage >= l->n_stages)
            return cake_fail(err, CAKE_EPROTO, "%s: time %u of stage %u, the plan has %u", name, i,
                             t.stage, l->n_stages);
    }
    return CAKE_OK;
}

cake_status cake_wire_error_text(const cake_wire_hdr *h, const cake_view *frames, char *out) {
    cake_view b = cake_wire_body(h, frames);
    size_t n = b.len > CAKE_ERROR_TEXT_MAX ? CAKE_ERROR_TEXT_MAX : b.len;
    for (size_t i = 0; i < n; i++)
        out[i] = b.data[i] < 0x20 || b.data[i] == 0x7f ? '?' : (char)b.data[i];
    out[n] = 0;
    int64_t st = (int64_t)h->arg;
    return st < 0 && st >= CAKE_EUSAGE ? (cake_status)st : CAKE_EPROTO;
}
