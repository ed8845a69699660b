/* Bytes of every message between nodes. Pure: no sockets, no allocation, no log.
 *
 * A message is 1..CAKE_FRAMES_MAX ZeroMQ frames. Frame 0 opens with a 64-byte little-endian header
 * that says all counts; what follows it depends on the kind:
 *
 *   BATCH, RESULT   n_rows x cake_row | n_ops x cake_kv_op | n_times x cake_stage_time | payload
 *   CONTROL, ERROR, CHUNK, PING, PONG     payload bytes
 *   CREDIT, CANCEL                        nothing
 *
 * The payload of BATCH and RESULT is n_rows rows of `width` values. A cancelled BATCH has rows,
 * which still take their place in the KV cache of every stage, and width 0; a cancelled RESULT has
 * no rows. When header, descriptors and payload fit into CAKE_FRAME_MAX bytes the message is one
 * frame (every decode step is). Otherwise frame 0 ends after the descriptors and frames 1.. hold as
 * many whole rows as fit, so a row never crosses frames. There is exactly one valid cut of a
 * message, and the decoder demands it.
 *
 * Header fields; what a kind does not name must be 0:
 *
 *   0 u32 magic      "CAKE"
 *   4 u8  version    1
 *   5 u8  kind
 *   6 u8  dtype      of the payload: BATCH any (NONE when width is 0), RESULT F32
 *   7 u8  flags      CAKE_FLAG_*
 *   8 u64 epoch      of the plan; 0: no plan yet
 *  16 u64 id         batch (BATCH RESULT ERROR CANCEL), transfer (CHUNK CREDIT), number (PING
 *                    PONG), request (CONTROL)
 *  24 u32 stage      BATCH: which one it is for; RESULT, ERROR: who sends it
 *  28 u32 n_rows     BATCH, RESULT
 *  32 u32 n_ops      BATCH
 *  36 u32 n_times    BATCH, RESULT: stages passed so far
 *  40 u32 width      BATCH: values per row, 0 for a stage that takes tokens; RESULT: vocabulary
 *  44 u32 n_frames   of the whole message
 *  48 u64 payload_bytes
 *  56 u64 arg        CHUNK offset, CREDIT limit, PING and PONG clock, ERROR status
 *
 * Values of the payload are little-endian. Pointers into received frames may be unaligned: copy
 * (cake_act_unpack, memcpy) before computing. */
#ifndef CAKE_PROTO_WIRE_H
#define CAKE_PROTO_WIRE_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CAKE_WIRE_MAGIC   0x454b4143u /* "CAKE" read as little-endian u32 */
#define CAKE_WIRE_VERSION 1

enum {
    CAKE_WIRE_HDR = 64,
    CAKE_FRAME_MAX = (1 << 20) + (64 << 10), /* largest frame; a row of 278,528 f32 logits fits */
    CAKE_FRAMES_MAX = 1024,                  /* frames per message */
    CAKE_CONTROL_MAX = 1 << 20,              /* JSON bytes of a CONTROL message */
    CAKE_CHUNK_MAX = 1 << 20,                /* bundle bytes of a CHUNK */
    CAKE_PING_MAX = 1 << 20,                 /* padding of a PING */
    CAKE_ERROR_TEXT_MAX = 512,
    CAKE_ROWS_MAX = 32768, /* caps of this format; a plan's limits are lower */
    CAKE_OPS_MAX = 16384,
    CAKE_STAGES_MAX = 256,
    CAKE_WIDTH_MAX = 278528,
};
#define CAKE_MESSAGE_MAX ((uint64_t)256 << 20) /* payload bytes of one message */

typedef enum {
    CAKE_MSG_CONTROL = 1, /* JSON text, master <-> worker */
    CAKE_MSG_BATCH = 2,   /* rows for stage `stage` */
    CAKE_MSG_RESULT =
        3, /* logits of the flagged rows; n_rows 0: the batch is done, none was flagged */
    CAKE_MSG_CHUNK = 4, /* bundle bytes [arg, arg + payload) of transfer `id`, master -> worker */
    CAKE_MSG_CREDIT =
        5,             /* transfer `id` may send bytes below absolute count arg, worker -> master */
    CAKE_MSG_PING = 6, /* arg: the sender's clock in ns; padding measures a link */
    CAKE_MSG_PONG = 7, /* id and arg of the PING; padding only when it had CAKE_FLAG_ECHO */
    CAKE_MSG_ERROR = 8,  /* arg: cake_status as two's complement; payload: UTF-8 text */
    CAKE_MSG_CANCEL = 9, /* rows of batch `id` need not be computed; its KV ops still apply */
    CAKE_MSG_KINDS = 10,
} cake_msg_kind;

typedef enum {
    CAKE_WIRE_NONE = 0,
    CAKE_WIRE_F32 = 1,
    CAKE_WIRE_F16 = 2,
    CAKE_WIRE_Q8 = 3
} cake_wire_type;

enum {
    CAKE_FLAG_ECHO = 1,     /* PING: send the padding back */
    CAKE_FLAG_CANCELED = 2, /* BATCH, RESULT: cancelled; rows were not computed, no values */
    CAKE_ROW_LOGITS = 1,    /* cake_row.flags: logits of this row are wanted */
};

/* One row of a batch: sequence slot, absolute position, token id. The same 16 bytes on the wire. */
typedef struct {
    uint32_t seq, pos, token, flags;
} cake_row;

/* KV commands, applied in order before the rows of their batch on every stage. */
typedef enum {
    CAKE_KV_FREE = 1,  /* seq: drop the whole sequence.           a = b = 0 */
    CAKE_KV_TRIM = 2,  /* seq: keep positions [0, a).             b = 0 */
    CAKE_KV_FORK = 3,  /* seq: becomes positions [0, b) of sequence a (blocks shared) */
    CAKE_KV_RESET = 4, /* drop every sequence.                    seq = a = b = 0 */
} cake_kv_kind;
typedef struct {
    uint32_t op, seq, a, b;
} cake_kv_op;

/* What one stage spent on a batch; every stage appends its own. */
typedef struct {
    uint32_t stage, n_rows;
    uint64_t queue_ns;   /* received until started */
    uint64_t compute_ns; /* started until the output was ready */
} cake_stage_time;

_Static_assert(sizeof(cake_row) == 16 && sizeof(cake_kv_op) == 16 && sizeof(cake_stage_time) == 24,
               "wire records have no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "records are copied as they lie in memory");

typedef struct {
    uint8_t kind, dtype, flags;
    uint64_t epoch, id;
    uint32_t stage, n_rows, n_ops, n_times, width, n_frames;
    uint64_t payload_bytes;
    uint64_t arg;
} cake_wire_hdr;

/* Borrowed bytes. */
typedef struct {
    const uint8_t *data;
    size_t len;
} cake_view;

/* Bytes of one row of `width` values: F32 4w, F16 2w, Q8 ceil(w/32) f32 scales followed by w
 * rounded up to 32 int8 codes. 0 for NONE or a width above CAKE_WIDTH_MAX. */
size_t cake_wire_row_bytes(cake_wire_type dtype, uint32_t width);

/* Check h's counts and fill in h->payload_bytes (of BATCH and RESULT; others give it) and n_frames.
 * CAKE_EINVAL when the message would break a cap or its kind's rules. */
cake_status cake_wire_layout(cake_wire_hdr *h, cake_error *err);
/* Length of frame i of a message laid out so, i < h->n_frames. */
size_t cake_wire_frame_bytes(const cake_wire_hdr *h, uint32_t i);
/* Write the header of h (laid out) to out[CAKE_WIRE_HDR]. */
void cake_wire_put_header(uint8_t *out, const cake_wire_hdr *h);
/* Where row i of the payload lies: frame index and byte offset inside it. */
void cake_wire_locate(const cake_wire_hdr *h, uint32_t i, uint32_t *frame, size_t *offset);
/* Byte offsets of the descriptors inside frame 0. */
size_t cake_wire_ops_offset(const cake_wire_hdr *h);
size_t cake_wire_times_offset(const cake_wire_hdr *h);
size_t cake_wire_body_offset(const cake_wire_hdr *h);

/* Parse frames[0..n) as one message: magic, version, kind, every count and length, unused fields 0,
 * no byte missing or left over. CAKE_EPROTO with what is wrong, CAKE_EUNSUPPORTED for another
 * protocol version. Reads nothing outside the frames, allocates nothing; *h is only written on
 * success. */
cake_status cake_wire_decode(cake_wire_hdr *h, const cake_view *frames, size_t n, cake_error *err);

/* What the plan agreed; ids and counts of a message must lie below. */
typedef struct {
    uint64_t epoch; /* messages of another epoch: CAKE_EAGAIN (late traffic: drop, not an attack) */
    uint32_t n_rows;  /* most rows of a batch */
    uint32_t n_ops;   /* most KV ops of a batch */
    uint32_t n_seqs;  /* sequence slots */
    uint32_t n_ctx;   /* positions of a sequence */
    uint32_t n_vocab; /* token ids */
    uint32_t n_stages;
    uint32_t width; /* width a BATCH must have (0: this stage takes tokens only); RESULT: n_vocab */
    uint8_t dtypes; /* bit 1 << cake_wire_type set: allowed in a BATCH */
} cake_wire_limits;

/* Check a decoded BATCH or RESULT against the plan: CAKE_EPROTO naming the first row or op that is
 * out of range, CAKE_EAGAIN for another epoch. */
cake_status cake_wire_check(const cake_wire_hdr *h, const cake_view *frames,
                            const cake_wire_limits *limits, cake_error *err);

/* Records of a decoded message; i below the header's count. */
cake_row cake_wire_row(const cake_view *frames, uint32_t i);
cake_kv_op cake_wire_op(const cake_wire_hdr *h, const cake_view *frames, uint32_t i);
cake_stage_time cake_wire_time(const cake_wire_hdr *h, const cake_view *frames, uint32_t i);
/* Payload row i of BATCH/RESULT (cake_wire_row_bytes long, maybe unaligned). NULL when width is 0.
 */
const uint8_t *cake_wire_values(const cake_wire_hdr *h, const cake_view *frames, uint32_t i);
/* The payload of the one-frame kinds. */
cake_view cake_wire_body(const cake_wire_hdr *h, const cake_view *frames);
/* Text of an ERROR message, made safe to print (control bytes become '?'), and its status (unknown
 * values become CAKE_EPROTO). out[CAKE_ERROR_TEXT_MAX + 1]. */
cake_status cake_wire_error_text(const cake_wire_hdr *h, const cake_view *frames, char *out);

const char *cake_msg_kind_name(unsigned kind);
const char *cake_wire_type_name(cake_wire_type d);
bool cake_wire_type_parse(const char *name, cake_wire_type *out); /* "f32", "f16", "q8" */

/* Rows of activations to and from the wire. f32 is a copy; f16 rounds to nearest even; q8 has one
 * scale max|x|/127 per 32 values and codes rounded half away from zero. src of pack and dst of
 * unpack are aligned f32 [width]; the wire side may be unaligned. Same bits on every machine. */
void cake_act_pack(uint8_t *dst, const float *src, uint32_t width, cake_wire_type dtype);
void cake_act_unpack(float *dst, const uint8_t *src, uint32_t width, cake_wire_type dtype);

#endif
