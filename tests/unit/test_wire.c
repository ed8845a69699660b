/* Wire format: golden bytes, round trips, every truncated length, every limit and one more,
 * activations, byte ranges and credit. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/msg.h"
#include "proto/transfer.h"
#include "proto/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(status, call)                                                                       \
    do {                                                                                           \
        cake_error err_ = {0};                                                                     \
        cake_status got_ = (call);                                                                 \
        if (got_ != (status)) print_message("%s -> %d: %s\n", #call, got_, err_.msg);              \
        assert_int_equal(got_, status);                                                            \
        if ((status) != CAKE_OK) assert_true(err_.msg[0] != 0);                                    \
    } while (0)

static const cake_wire_limits plan = {.epoch = 3,
                                      .n_rows = 8,
                                      .n_ops = 4,
                                      .n_seqs = 8,
                                      .n_ctx = 128,
                                      .n_vocab = 300,
                                      .n_stages = 4,
                                      .width = 4,
                                      .dtypes = 1 << CAKE_WIRE_F32};

static cake_msg *sample_batch(void) {
    const cake_wire_hdr h = {.kind = CAKE_MSG_BATCH,
                             .dtype = CAKE_WIRE_F32,
                             .epoch = 3,
                             .id = 0x1122334455667788,
                             .stage = 2,
                             .n_rows = 2,
                             .n_ops = 1,
                             .n_times = 1,
                             .width = 4};
    const cake_row rows[] = {{1, 5, 299, 0}, {7, 127, 0, CAKE_ROW_LOGITS}};
    const cake_kv_op ops[] = {{CAKE_KV_FORK, 2, 1, 64}};
    const cake_stage_time times[] = {{1, 2, 1000, 2000}};
    cake_msg *m = cake_msg_rows(&h, rows, ops, times);
    assert_non_null(m);
    for (uint32_t r = 0; r < 2; r++) {
        const float v[4] = {1.0f + (float)r, -2.0f, 0.5f, 0.0f};
        cake_act_pack(cake_msg_values(m, r), v, 4, CAKE_WIRE_F32);
    }
    return m;
}

/* The bytes that any version 1 peer must send and take. */
static void golden_batch(void **state) {
    (void)state;
    static const uint8_t golden[] = {'C',
                                     'A',
                                     'K',
                                     'E',
                                     1,
                                     2,
                                     1,
                                     0,
                                     3,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0x88,
                                     0x77,
                                     0x66,
                                     0x55,
                                     0x44,
                                     0x33,
                                     0x22,
                                     0x11,
                                     2,
                                     0,
                                     0,
                                     0,
                                     2,
                                     0,
                                     0,
                                     0,
                                     1,
                                     0,
                                     0,
                                     0,
                                     1,
                                     0,
                                     0,
                                     0,
                                     4,
                                     0,
                                     0,
                                     0,
                                     1,
                                     0,
                                     0,
                                     0,
                                     32,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0, /* rows */
                                     1,
                                     0,
                                     0,
                                     0,
                                     5,
                                     0,
                                     0,
                                     0,
                                     43,
                                     1,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     7,
                                     0,
                                     0,
                                     0,
                                     127,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     1,
                                     0,
                                     0,
                                     0,
                                     /* fork */ 3,
                                     0,
                                     0,
                                     0,
                                     2,
                                     0,
                                     0,
                                     0,
                                     1,
                                     0,
                                     0,
                                     0,
                                     64,
                                     0,
                                     0,
                                     0,
                                     /* time */ 1,
                                     0,
                                     0,
                                     0,
                                     2,
                                     0,
                                     0,
                                     0,
                                     0xe8,
                                     3,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0xd0,
                                     7,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     /* values */ 0,
                                     0,
                                     0x80,
                                     0x3f,
                                     0,
                                     0,
                                     0,
                                     0xc0,
                                     0,
                                     0,
                                     0,
                                     0x3f,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0,
                                     0x40,
                                     0,
                                     0,
                                     0,
                                     0xc0,
                                     0,
                                     0,
                                     0,
                                     0x3f,
                                     0,
                                     0,
                                     0,
                                     0};
    cake_msg *m = sample_batch();
    assert_int_equal(m->h.n_frames, 1);
    assert_int_equal(m->frames[0].len, sizeof golden);
    assert_memory_equal(m->frames[0].data, golden, sizeof golden);
    cake_msg_free(m);
}

static void golden_small_kinds(void **state) {
    (void)state;
    struct {
        cake_msg *m;
        uint8_t kind, flags;
        uint64_t epoch, id, arg;
        uint32_t stage;
        const char *body;
    } c[] = {
        {cake_msg_control(1, 2, "{}", 2), 1, 0, 1, 2, 0, 0, "{}"},
        {cake_msg_chunk(5, 1 << 20, "abc", 3), 4, 0, 0, 5, 1 << 20, 0, "abc"},
        {cake_msg_credit(5, 16 << 20), 5, 0, 0, 5, 16 << 20, 0, ""},
        {cake_msg_error(4, 9, 1, CAKE_ENOSPACE, "no space"), 8, 0, 4, 9, (uint64_t)-9, 1,
         "no space"},
        {cake_msg_cancel(4, 9), 9, 0, 4, 9, 0, 0, ""},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        uint8_t want[128] = {'C', 'A', 'K', 'E', 1, c[i].kind, 0, c[i].flags};
        size_t n = strlen(c[i].body);
        for (int b = 0; b < 8; b++) {
            want[8 + b] = (uint8_t)(c[i].epoch >> (8 * b));
            want[16 + b] = (uint8_t)(c[i].id >> (8 * b));
            want[56 + b] = (uint8_t)(c[i].arg >> (8 * b));
        }
        want[24] = (uint8_t)c[i].stage;
        want[44] = 1;
        want[48] = (uint8_t)n;
        memcpy(want + 64, c[i].body, n);
        assert_non_null(c[i].m);
        assert_int_equal(c[i].m->frames[0].len, 64 + n);
        assert_memory_equal(c[i].m->frames[0].data, want, 64 + n);
        cake_wire_hdr h;
        EXPECT(CAKE_OK, cake_wire_decode(&h, c[i].m->frames, 1, &err_));
        cake_msg_free(c[i].m);
    }
}

/* A cancelled batch still has its rows and commands, and no values. */
static void canceled_batch(void **state) {
    (void)state;
    cake_wire_hdr h = {.kind = CAKE_MSG_BATCH,
                       .flags = CAKE_FLAG_CANCELED,
                       .epoch = 3,
                       .id = 9,
                       .stage = 2,
                       .n_rows = 2,
                       .n_ops = 1};
    const cake_row rows[] = {{1, 5, 299, 0}, {7, 127, 0, CAKE_ROW_LOGITS}};
    const cake_kv_op ops[] = {{CAKE_KV_TRIM, 2, 64, 0}};
    cake_msg *m = cake_msg_rows(&h, rows, ops, NULL);
    assert_non_null(m);
    cake_wire_hdr got;
    EXPECT(CAKE_OK, cake_wire_decode(&got, m->frames, m->h.n_frames, &err_));
    EXPECT(CAKE_OK, cake_wire_check(&got, m->frames, &plan, &err_));
    assert_int_equal(got.flags, CAKE_FLAG_CANCELED);
    assert_int_equal(cake_wire_row(m->frames, 1).pos, 127);
    got.flags = 0; /* a stage that wants values does not take a batch without */
    EXPECT(CAKE_EPROTO, cake_wire_check(&got, m->frames, &plan, &err_));
    cake_msg_free(m);
    h.width = 4;
    h.dtype = CAKE_WIRE_F32;
    assert_null(cake_msg_rows(&h, rows, ops, NULL));
    h = (cake_wire_hdr){.kind = CAKE_MSG_RESULT,
                        .flags = CAKE_FLAG_CANCELED,
                        .epoch = 3,
                        .n_rows = 1,
                        .width = 300};
    h.dtype = CAKE_WIRE_F32;
    assert_null(cake_msg_rows(&h, rows, NULL, NULL));
}

static void round_trip(void **state) {
    (void)state;
    cake_msg *m = sample_batch();
    cake_wire_hdr h;
    EXPECT(CAKE_OK, cake_wire_decode(&h, m->frames, 1, &err_));
    uint8_t header[CAKE_WIRE_HDR];
    cake_wire_put_header(header, &h);
    assert_memory_equal(header, m->frames[0].data, sizeof header);
    EXPECT(CAKE_OK, cake_wire_check(&h, m->frames, &plan, &err_));
    cake_row r = cake_wire_row(m->frames, 1);
    assert_int_equal(r.seq, 7);
    assert_int_equal(r.pos, 127);
    assert_int_equal(r.flags, CAKE_ROW_LOGITS);
    cake_kv_op o = cake_wire_op(&h, m->frames, 0);
    assert_int_equal(o.op, CAKE_KV_FORK);
    assert_int_equal(o.b, 64);
    cake_stage_time t = cake_wire_time(&h, m->frames, 0);
    assert_int_equal(t.compute_ns, 2000);
    cake_msg_set_time(m, 0, (cake_stage_time){1, 2, 1000, 3000});
    assert_int_equal(cake_wire_time(&h, m->frames, 0).compute_ns, 3000);
    float v[4];
    cake_act_unpack(v, cake_wire_values(&h, m->frames, 1), 4, CAKE_WIRE_F32);
    assert_true(v[0] == 2.0f && v[1] == -2.0f && v[2] == 0.5f && v[3] == 0.0f);
    assert_null(cake_wire_values(&h, m->frames, 2));
    cake_msg_set_stage(m, 3);
    EXPECT(CAKE_OK, cake_wire_decode(&h, m->frames, 1, &err_));
    assert_int_equal(h.stage, 3);
    cake_msg *d = cake_msg_dup(m);
    assert_int_equal(d->frames[0].len, m->frames[0].len);
    assert_memory_equal(d->frames[0].data, m->frames[0].data, m->frames[0].len);
    cake_msg_free(d);
    cake_msg_free(m);
}

/* Every prefix of every kind's message, and one byte more, in a block of exactly that size. */
static void truncated(void **state) {
    (void)state;
    const cake_wire_hdr result = {
        .kind = CAKE_MSG_RESULT, .dtype = CAKE_WIRE_F32, .n_rows = 1, .width = 7};
    const cake_row row = {0, 1, 2, 1};
    cake_msg *m[] = {sample_batch(),
                     cake_msg_rows(&result, &row, NULL, NULL),
                     cake_msg_control(1, 2, "{\"a\":1}", 7),
                     cake_msg_chunk(5, 6, "abcdef", 6),
                     cake_msg_credit(1, 2),
                     cake_msg_ping(1, 2, 33, true),
                     cake_msg_error(1, 2, 3, CAKE_EIO, "disk"),
                     cake_msg_cancel(1, 2)};
    for (size_t i = 0; i < sizeof m / sizeof *m; i++) {
        size_t full = m[i]->frames[0].len;
        for (size_t n = 0; n <= full + 1; n++) {
            uint8_t *p = calloc(1, n ? n : 1);
            memcpy(p, m[i]->frames[0].data, n < full ? n : full);
            cake_view v = {p, n};
            cake_wire_hdr h;
            cake_status st = cake_wire_decode(&h, &v, 1, NULL);
            assert_int_equal(st, n == full ? CAKE_OK : CAKE_EPROTO);
            free(p);
        }
        cake_wire_hdr h;
        cake_view two[2] = {m[i]->frames[0], {m[i]->frames[0].data, 0}};
        EXPECT(CAKE_EPROTO, cake_wire_decode(&h, two, 2, &err_));
        EXPECT(CAKE_EPROTO, cake_wire_decode(&h, NULL, 0, &err_));
        cake_msg_free(m[i]);
    }
}

/* Every byte of the header changed to every value: refused, or it still re-encodes to itself. */
static void header_bytes(void **state) {
    (void)state;
    cake_msg *m = sample_batch();
    size_t n = m->frames[0].len;
    uint8_t *p = malloc(n);
    cake_view v = {p, n};
    unsigned accepted = 0;
    for (size_t at = 0; at < CAKE_WIRE_HDR; at++)
        for (unsigned b = 0; b < 256; b++) {
            memcpy(p, m->frames[0].data, n);
            p[at] = (uint8_t)b;
            cake_wire_hdr h;
            if (cake_wire_decode(&h, &v, 1, NULL) != CAKE_OK) continue;
            uint8_t again[CAKE_WIRE_HDR];
            cake_wire_put_header(again, &h);
            assert_memory_equal(again, p, CAKE_WIRE_HDR);
            accepted++;
        }
    /* epoch and id: 16 bytes of any value; of stage the lowest byte; the rest as it was
     */
    assert_int_equal(accepted, 16 * 256 + 256 + 3 + 8 + 20 + 16);
    free(p);
    cake_msg_free(m);
}

static void versions(void **state) {
    (void)state;
    cake_msg *m = cake_msg_cancel(1, 2);
    uint8_t p[CAKE_WIRE_HDR];
    memcpy(p, m->frames[0].data, sizeof p);
    cake_view v = {p, sizeof p};
    cake_wire_hdr h;
    p[4] = 2;
    EXPECT(CAKE_EUNSUPPORTED, cake_wire_decode(&h, &v, 1, &err_));
    cake_msg_free(m);
}

static cake_status layout(cake_wire_hdr h) {
    return cake_wire_layout(&h, NULL);
}

/* Each cap is allowed and one more is not, on both sides. */
static void caps(void **state) {
    (void)state;
    cake_wire_hdr b = {.kind = CAKE_MSG_BATCH, .n_rows = CAKE_ROWS_MAX};
    assert_int_equal(layout(b), CAKE_OK);
    b.n_rows++;
    assert_int_equal(layout(b), CAKE_EINVAL);
    b = (cake_wire_hdr){.kind = CAKE_MSG_BATCH, .n_ops = CAKE_OPS_MAX};
    assert_int_equal(layout(b), CAKE_OK);
    b.n_ops++;
    assert_int_equal(layout(b), CAKE_EINVAL);
    b = (cake_wire_hdr){.kind = CAKE_MSG_BATCH, .n_times = CAKE_STAGES_MAX};
    assert_int_equal(layout(b), CAKE_OK);
    b.n_times++;
    assert_int_equal(layout(b), CAKE_EINVAL);
    b = (cake_wire_hdr){
        .kind = CAKE_MSG_RESULT, .dtype = CAKE_WIRE_F32, .n_rows = 1, .width = CAKE_WIDTH_MAX};
    assert_int_equal(layout(b), CAKE_OK);
    b.width++;
    assert_int_equal(layout(b), CAKE_EINVAL);
    b.width = CAKE_WIDTH_MAX;
    b.n_rows = (uint32_t)(CAKE_MESSAGE_MAX / (CAKE_WIDTH_MAX * 4));
    assert_int_equal(layout(b), CAKE_OK);
    b.n_rows++;
    assert_int_equal(layout(b), CAKE_EINVAL);
    assert_int_equal(layout((cake_wire_hdr){.kind = CAKE_MSG_BATCH, .stage = CAKE_STAGES_MAX}),
                     CAKE_OK);
    assert_int_equal(layout((cake_wire_hdr){.kind = CAKE_MSG_BATCH, .stage = CAKE_STAGES_MAX + 1}),
                     CAKE_EINVAL);
    struct {
        uint8_t kind;
        uint64_t max;
    } bodies[] = {{CAKE_MSG_CONTROL, CAKE_CONTROL_MAX},
                  {CAKE_MSG_CHUNK, CAKE_CHUNK_MAX},
                  {CAKE_MSG_PING, CAKE_PING_MAX},
                  {CAKE_MSG_PONG, CAKE_PING_MAX},
                  {CAKE_MSG_ERROR, CAKE_ERROR_TEXT_MAX},
                  {CAKE_MSG_CREDIT, 0},
                  {CAKE_MSG_CANCEL, 0}};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        cake_wire_hdr h = {.kind = bodies[i].kind, .payload_bytes = bodies[i].max};
        assert_int_equal(layout(h), CAKE_OK);
        h.payload_bytes++;
        assert_int_equal(layout(h), CAKE_EINVAL);
    }
    /* Types that do not go with the kind. */
    assert_int_equal(layout((cake_wire_hdr){.kind = CAKE_MSG_BATCH, .n_rows = 1, .width = 4}),
                     CAKE_EINVAL);
    assert_int_equal(layout((cake_wire_hdr){.kind = CAKE_MSG_BATCH, .n_rows = 1, .dtype = 1}),
                     CAKE_EINVAL);
    assert_int_equal(
        layout((cake_wire_hdr){.kind = CAKE_MSG_BATCH, .n_rows = 1, .dtype = 4, .width = 4}),
        CAKE_EINVAL);
    assert_int_equal(
        layout((cake_wire_hdr){.kind = CAKE_MSG_RESULT, .n_rows = 1, .dtype = 2, .width = 4}),
        CAKE_EINVAL);
    assert_int_equal(layout((cake_wire_hdr){.kind = 0}), CAKE_EINVAL);
    assert_int_equal(layout((cake_wire_hdr){.kind = CAKE_MSG_KINDS}), CAKE_EINVAL);
    assert_int_equal(layout((cake_wire_hdr){.kind = CAKE_MSG_CHUNK, .epoch = 1}), CAKE_EINVAL);
    /* The builders refuse instead of cutting. */
    char *big = calloc(1, CAKE_CHUNK_MAX + 1);
    assert_null(cake_msg_chunk(1, 0, big, CAKE_CHUNK_MAX + 1));
    assert_null(cake_msg_control(1, 0, big, CAKE_CONTROL_MAX + 1));
    free(big);
}

/* Payloads beyond a frame: whole rows per frame, nothing lost, one valid cut only. */
static void many_frames(void **state) {
    (void)state;
    enum { ROWS = 300, WIDTH = 3584 }; /* 14,336 bytes a row: 77 in a frame */
    cake_row rows[ROWS] = {{0}};
    for (uint32_t i = 0; i < ROWS; i++) rows[i].pos = i;
    const cake_wire_hdr in = {
        .kind = CAKE_MSG_BATCH, .dtype = CAKE_WIRE_F32, .n_rows = ROWS, .width = WIDTH, .stage = 1};
    cake_msg *m = cake_msg_rows(&in, rows, NULL, NULL);
    assert_non_null(m);
    assert_int_equal(m->h.n_frames, 1 + (ROWS + 76) / 77);
    for (uint32_t i = 0; i < ROWS; i++)
        assert_ptr_equal(cake_msg_values(m, i), cake_msg_values(m, 0) + (size_t)i * WIDTH * 4);
    for (uint32_t i = 0; i < ROWS; i++) memset(cake_msg_values(m, i), (int)(i % 251), WIDTH * 4);
    for (uint32_t f = 0; f < m->h.n_frames; f++) assert_true(m->frames[f].len <= CAKE_FRAME_MAX);
    cake_wire_hdr h;
    EXPECT(CAKE_OK, cake_wire_decode(&h, m->frames, m->h.n_frames, &err_));
    for (uint32_t i = 0; i < ROWS; i++) {
        const uint8_t *v = cake_wire_values(&h, m->frames, i);
        assert_true(v[0] == i % 251 && v[WIDTH * 4 - 1] == i % 251);
    }
    assert_int_equal(cake_msg_bytes(m), 64 + ROWS * 16 + (size_t)ROWS * WIDTH * 4);
    EXPECT(CAKE_EPROTO, cake_wire_decode(&h, m->frames, m->h.n_frames - 1, &err_));
    cake_view f[8];
    memcpy(f, m->frames, m->h.n_frames * sizeof *f);
    f[2].len--;
    EXPECT(CAKE_EPROTO, cake_wire_decode(&h, f, m->h.n_frames, &err_));
    f[2].len++;
    f[1].len = f[2].len - 14336;
    EXPECT(CAKE_EPROTO, cake_wire_decode(&h, f, m->h.n_frames, &err_));
    cake_msg *d = cake_msg_dup(m); /* what a receiver has outlives what was sent */
    cake_msg_free(m);
    assert_non_null(d);
    for (uint32_t i = 0; i < ROWS; i++) assert_true(cake_msg_values(d, i)[WIDTH] == i % 251);
    cake_msg_free(d);
    /* At the edge: the largest one-frame message, and a byte row more. */
    cake_wire_hdr edge = {.kind = CAKE_MSG_BATCH, .dtype = CAKE_WIRE_F16, .n_rows = 1};
    edge.width = (CAKE_FRAME_MAX - 64 - 16) / 2;
    edge.width = edge.width > CAKE_WIDTH_MAX ? CAKE_WIDTH_MAX : edge.width;
    for (uint32_t rows_n = 1; rows_n < 4; rows_n++) {
        edge.n_rows = rows_n;
        assert_int_equal(layout(edge), CAKE_OK);
        cake_wire_hdr e = edge;
        cake_wire_layout(&e, NULL);
        size_t sum = 0;
        for (uint32_t i = 0; i < e.n_frames; i++) sum += cake_wire_frame_bytes(&e, i);
        assert_int_equal(sum, 64 + 16 * rows_n + (size_t)rows_n * edge.width * 2);
    }
}

static void plan_limits(void **state) {
    (void)state;
    struct {
        cake_row row;
        cake_status want;
    } rows[] = {{{7, 127, 299, 1}, CAKE_OK},         {{8, 0, 0, 0}, CAKE_EPROTO},
                {{0, 128, 0, 0}, CAKE_EPROTO},       {{0, 0, 300, 0}, CAKE_EPROTO},
                {{0, 0, 0, 2}, CAKE_EPROTO},         {{UINT32_MAX, 0, 0, 0}, CAKE_EPROTO},
                {{0, UINT32_MAX, 0, 0}, CAKE_EPROTO}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const cake_wire_hdr h = {
            .kind = CAKE_MSG_BATCH, .dtype = CAKE_WIRE_F32, .epoch = 3, .n_rows = 1, .width = 4};
        cake_msg *m = cake_msg_rows(&h, &rows[i].row, NULL, NULL);
        EXPECT(rows[i].want, cake_wire_check(&m->h, m->frames, &plan, &err_));
        cake_msg_free(m);
    }
    struct {
        cake_kv_op op;
        cake_status want;
    } ops[] = {{{CAKE_KV_FREE, 7, 0, 0}, CAKE_OK},
               {{CAKE_KV_FREE, 8, 0, 0}, CAKE_EPROTO},
               {{CAKE_KV_FREE, 0, 1, 0}, CAKE_EPROTO},
               {{CAKE_KV_TRIM, 7, 128, 0}, CAKE_OK},
               {{CAKE_KV_TRIM, 7, 129, 0}, CAKE_EPROTO},
               {{CAKE_KV_TRIM, 7, 1, 1}, CAKE_EPROTO},
               {{CAKE_KV_FORK, 0, 7, 128}, CAKE_OK},
               {{CAKE_KV_FORK, 0, 8, 1}, CAKE_EPROTO},
               {{CAKE_KV_FORK, 0, 0, 1}, CAKE_EPROTO},
               {{CAKE_KV_FORK, 0, 1, 129}, CAKE_EPROTO},
               {{CAKE_KV_RESET, 0, 0, 0}, CAKE_OK},
               {{CAKE_KV_RESET, 1, 0, 0}, CAKE_EPROTO},
               {{0, 0, 0, 0}, CAKE_EPROTO},
               {{5, 0, 0, 0}, CAKE_EPROTO}};
    cake_wire_limits tokens = plan;
    tokens.width = 0;
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const cake_wire_hdr h = {.kind = CAKE_MSG_BATCH, .epoch = 3, .n_ops = 1};
        cake_msg *m = cake_msg_rows(&h, NULL, &ops[i].op, NULL);
        EXPECT(ops[i].want, cake_wire_check(&m->h, m->frames, &tokens, &err_));
        cake_msg_free(m);
    }
    cake_msg *m = sample_batch();
    cake_wire_limits l = plan;
    l.epoch = 4;
    EXPECT(CAKE_EAGAIN, cake_wire_check(&m->h, m->frames, &l, &err_));
    l = plan, l.n_rows = 1;
    EXPECT(CAKE_EPROTO, cake_wire_check(&m->h, m->frames, &l, &err_));
    l = plan, l.n_ops = 0;
    EXPECT(CAKE_EPROTO, cake_wire_check(&m->h, m->frames, &l, &err_));
    l = plan, l.n_stages = 2;
    EXPECT(CAKE_EPROTO, cake_wire_check(&m->h, m->frames, &l, &err_));
    l = plan, l.width = 5;
    EXPECT(CAKE_EPROTO, cake_wire_check(&m->h, m->frames, &l, &err_));
    l = plan, l.dtypes = 1 << CAKE_WIRE_Q8;
    EXPECT(CAKE_EPROTO, cake_wire_check(&m->h, m->frames, &l, &err_));
    cake_msg_free(m);
    const cake_wire_hdr result = {
        .kind = CAKE_MSG_RESULT, .dtype = CAKE_WIRE_F32, .epoch = 3, .n_rows = 1, .width = 300};
    const cake_row row = {0};
    m = cake_msg_rows(&result, &row, NULL, NULL);
    EXPECT(CAKE_OK, cake_wire_check(&m->h, m->frames, &plan, &err_));
    l = plan, l.n_vocab = 299;
    EXPECT(CAKE_EPROTO, cake_wire_check(&m->h, m->frames, &l, &err_));
    cake_msg_free(m);
    m = cake_msg_cancel(3, 1);
    EXPECT(CAKE_EPROTO, cake_wire_check(&m->h, m->frames, &plan, &err_));
    cake_msg_free(m);
}

static void errors_are_clean(void **state) {
    (void)state;
    char text[CAKE_ERROR_TEXT_MAX + 1], big[600];
    cake_msg *m = cake_msg_error(1, 2, 3, CAKE_EAUTH, "a\nb\x1b[31m\x7f");
    assert_int_equal(cake_wire_error_text(&m->h, m->frames, text), CAKE_EAUTH);
    assert_string_equal(text, "a?b?[31m?");
    cake_msg_free(m);
    memset(big, 'x', sizeof big);
    memcpy(big + 511, "\xc3\xbc", 2); /* a character over the edge is left out whole */
    big[599] = 0;
    m = cake_msg_error(1, 2, 3, CAKE_EAUTH, big);
    assert_int_equal(m->h.payload_bytes, 511);
    cake_msg_free(m);
    m = cake_msg_error(1, 2, 3, (cake_status)5, "not a status");
    assert_int_equal(cake_wire_error_text(&m->h, m->frames, text), CAKE_EPROTO);
    cake_msg_free(m);
}

static void pong_echoes(void **state) {
    (void)state;
    cake_msg *ping = cake_msg_ping(1, 77, 1000, true), *pong = cake_msg_pong(ping);
    assert_int_equal(pong->h.id, 77);
    assert_true(pong->h.arg == ping->h.arg);
    assert_int_equal(pong->h.payload_bytes, 1000);
    cake_msg_free(ping);
    cake_msg_free(pong);
    ping = cake_msg_ping(1, 78, 1000, false);
    pong = cake_msg_pong(ping);
    assert_int_equal(pong->h.payload_bytes, 0);
    cake_msg_free(ping);
    cake_msg_free(pong);
}

/* f32 <-> f16 over all 65,536 codes, and rounding against the exact rule. */
static void act_f16(void **state) {
    (void)state;
    for (uint32_t c = 0; c < 65536; c++) {
        uint16_t code = (uint16_t)c, back;
        uint8_t w[2];
        float f;
        memcpy(w, &code, 2);
        cake_act_unpack(&f, w, 1, CAKE_WIRE_F16);
        uint32_t e = c >> 10 & 31, m = c & 1023;
        double want = e == 31 ? (m ? NAN : INFINITY)
                      : e     ? ldexp(1024 + m, (int)e - 25)
                              : ldexp(m, -24);
        if (c & 0x8000) want = -want;
        if (isnan(want))
            assert_true(isnan(f));
        else
            assert_true((double)f == want && !signbit(f) == !(c & 0x8000));
        cake_act_pack(w, &f, 1, CAKE_WIRE_F16);
        memcpy(&back, w, 2);
        if (!isnan(want))
            assert_int_equal(back, code);
        else
            assert_int_equal(back & 0x7e00, 0x7e00);
        /* The middle of two neighbours goes to the even one; just beside it to the nearer. */
        if (e == 31 || c & 0x8000 || c == 0x7bff) continue;
        uint16_t next = (uint16_t)(c + 1);
        float g;
        memcpy(w, &next, 2);
        cake_act_unpack(&g, w, 1, CAKE_WIRE_F16);
        float mid = (float)(((double)f + (double)g) / 2),
              probe[3] = {nextafterf(mid, 0), mid, nextafterf(mid, g)};
        for (int k = 0; k < 3; k++) {
            cake_act_pack(w, &probe[k], 1, CAKE_WIRE_F16);
            memcpy(&back, w, 2);
            assert_int_equal(back, k == 0 ? code : k == 2 ? next : (c & 1) ? next : code);
        }
    }
}

static void act_q8(void **state) {
    (void)state;
    enum { W = 77 };
    float x[W], y[W];
    uint8_t *w = malloc(cake_wire_row_bytes(CAKE_WIRE_Q8, W));
    assert_int_equal(cake_wire_row_bytes(CAKE_WIRE_Q8, W), 3 * 36);
    for (int i = 0; i < W; i++) x[i] = sinf((float)i) * (i < 32 ? 100.0f : 0.01f);
    cake_act_pack(w, x, W, CAKE_WIRE_Q8);
    cake_act_unpack(y, w, W, CAKE_WIRE_Q8);
    for (int i = 0; i < W; i++) {
        float max = 0;
        for (int k = i / 32 * 32; k < W && k < i / 32 * 32 + 32; k++) max = fmaxf(max, fabsf(x[k]));
        assert_true(fabsf(x[i] - y[i]) <= max / 127 * 0.5001f);
    }
    memset(x, 0, sizeof x);
    x[3] = NAN, x[40] = INFINITY; /* must not trap or read outside; the values are lost */
    cake_act_pack(w, x, W, CAKE_WIRE_Q8);
    cake_act_unpack(y, w, W, CAKE_WIRE_Q8);
    free(w);
}

static void names(void **state) {
    (void)state;
    cake_wire_type t;
    assert_true(cake_wire_type_parse("q8", &t) && t == CAKE_WIRE_Q8);
    assert_false(cake_wire_type_parse("none", &t));
    assert_string_equal(cake_wire_type_name(CAKE_WIRE_F16), "f16");
    assert_string_equal(cake_msg_kind_name(CAKE_MSG_CHUNK), "CHUNK");
    assert_string_equal(cake_msg_kind_name(200), "?");
}

/* ---- transfer ---- */

static void ranges(void **state) {
    (void)state;
    cake_ranges r = {0}, m = {0};
    EXPECT(CAKE_OK, cake_ranges_add(&r, 10, 20, &err_));
    EXPECT(CAKE_OK, cake_ranges_add(&r, 30, 40, &err_));
    EXPECT(CAKE_OK, cake_ranges_add(&r, 20, 30, &err_));
    assert_int_equal(r.n, 1);
    EXPECT(CAKE_OK, cake_ranges_remove(&r, 15, 35, &err_));
    assert_int_equal(r.n, 2);
    assert_int_equal(cake_ranges_bytes(&r), 10);
    assert_true(cake_ranges_contain(&r, 35, 40));
    assert_false(cake_ranges_contain(&r, 14, 16));
    EXPECT(CAKE_OK, cake_ranges_missing(&r, 50, &m, &err_));
    assert_int_equal(cake_ranges_bytes(&m), 40);
    EXPECT(CAKE_EINVAL, cake_ranges_add(&r, 2, 1, &err_));
    json_object *j = cake_ranges_to_json(&m);
    cake_ranges back = {0};
    EXPECT(CAKE_OK, cake_ranges_from_json(&back, j, 50, &err_));
    assert_int_equal(back.n, m.n);
    assert_memory_equal(back.at, m.at, m.n * sizeof *m.at);
    cake_ranges_deinit(&back);
    EXPECT(CAKE_EPROTO, cake_ranges_from_json(&back, j, 49, &err_));
    json_object_put(j);
    cake_ranges_deinit(&r);
    cake_ranges_deinit(&m);
    for (uint64_t i = 0; i < CAKE_RANGES_MAX; i++)
        assert_int_equal(cake_ranges_add(&r, 2 * i, 2 * i + 1, NULL), 0);
    EXPECT(CAKE_ENOSPACE, cake_ranges_add(&r, 1 << 30, (1 << 30) + 1, &err_));
    assert_int_equal(r.n, CAKE_RANGES_MAX);
    cake_ranges_deinit(&r);
}

/* A sender and a receiver against each other, cut off in the middle and resumed. */
static void transfer(void **state) {
    (void)state;
    enum { SIZE = 100000, WINDOW = 8192 };
    uint8_t *source = malloc(SIZE), *copy = calloc(1, SIZE);
    for (size_t i = 0; i < SIZE; i++) source[i] = (uint8_t)(i * 2654435761u >> 13);
    cake_ranges have = {0};
    uint64_t moved = 0;
    for (int session = 0; session < 2; session++) {
        cake_ranges missing = {0}, ask = {0};
        EXPECT(CAKE_OK, cake_ranges_missing(&have, SIZE, &missing, &err_));
        EXPECT(CAKE_OK, cake_ranges_missing(&have, SIZE, &ask, &err_));
        cake_sender s;
        cake_receiver r;
        cake_sender_init(&s, 1, SIZE, &ask);
        cake_receiver_init(&r, 1, SIZE, &missing, WINDOW);
        uint64_t offset, limit;
        size_t len;
        assert_false(cake_sender_next(&s, 1000, &offset, &len)); /* no credit yet */
        for (int step = 0; !cake_receiver_done(&r) && !(session == 0 && step == 60); step++) {
            if (cake_receiver_grant(&r, &limit))
                EXPECT(CAKE_OK, cake_sender_credit(&s, limit, &err_));
            while (cake_sender_next(&s, 1000, &offset, &len)) {
                EXPECT(CAKE_OK, cake_receiver_chunk(&r, offset, len, &err_));
                memcpy(copy + offset, source + offset, len);
                cake_ranges_add(&have, offset, offset + len, NULL);
                cake_sender_advance(&s, len);
                assert_true(r.received - r.consumed <= WINDOW);
                moved += len;
                if (len % 3 == 0) break;
            }
            cake_receiver_consumed(&r, (size_t)(r.received - r.consumed));
            if (session == 0 && moved > SIZE / 3) break;
        }
        assert_int_equal(cake_sender_done(&s), session == 1);
        cake_sender_deinit(&s);
        cake_receiver_deinit(&r);
    }
    assert_int_equal(moved, SIZE); /* nothing twice */
    assert_memory_equal(copy, source, SIZE);
    cake_ranges_deinit(&have);
    free(source);
    free(copy);
}

static void transfer_refuses(void **state) {
    (void)state;
    cake_ranges missing = {0};
    cake_ranges_add(&missing, 0, 1000, NULL);
    cake_receiver r;
    cake_receiver_init(&r, 1, 2000, &missing, 100);
    EXPECT(CAKE_EPROTO, cake_receiver_chunk(&r, 0, 1, &err_)); /* no credit given */
    uint64_t limit;
    assert_true(cake_receiver_grant(&r, &limit));
    assert_int_equal(limit, 100);
    EXPECT(CAKE_EPROTO, cake_receiver_chunk(&r, 0, 101, &err_));
    EXPECT(CAKE_EPROTO, cake_receiver_chunk(&r, 0, 0, &err_));
    EXPECT(CAKE_EPROTO, cake_receiver_chunk(&r, 1000, 10, &err_));
    EXPECT(CAKE_EPROTO, cake_receiver_chunk(&r, 995, 10, &err_));
    EXPECT(CAKE_EPROTO, cake_receiver_chunk(&r, 1995, 10, &err_));
    EXPECT(CAKE_EPROTO, cake_receiver_chunk(&r, UINT64_MAX, 10, &err_));
    EXPECT(CAKE_OK, cake_receiver_chunk(&r, 0, 100, &err_));
    EXPECT(CAKE_EPROTO, cake_receiver_chunk(&r, 50, 10, &err_)); /* again */
    assert_false(cake_receiver_grant(&r, &limit));               /* nothing consumed yet */
    cake_receiver_consumed(&r, 100);
    assert_true(cake_receiver_grant(&r, &limit));
    assert_int_equal(limit, 200);
    cake_receiver_deinit(&r);
    cake_sender s;
    cake_ranges_add(&missing, 0, 10, NULL);
    cake_sender_init(&s, 1, 10, &missing);
    EXPECT(CAKE_EPROTO, cake_sender_credit(&s, UINT64_MAX, &err_));
    cake_sender_deinit(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_batch),
                                       cmocka_unit_test(golden_small_kinds),
                                       cmocka_unit_test(canceled_batch),
                                       cmocka_unit_test(round_trip),
                                       cmocka_unit_test(truncated),
                                       cmocka_unit_test(header_bytes),
                                       cmocka_unit_test(versions),
                                       cmocka_unit_test(caps),
                                       cmocka_unit_test(many_frames),
                                       cmocka_unit_test(plan_limits),
                                       cmocka_unit_test(errors_are_clean),
                                       cmocka_unit_test(pong_echoes),
                                       cmocka_unit_test(act_f16),
                                       cmocka_unit_test(act_q8),
                                       cmocka_unit_test(names),
                                       cmocka_unit_test(ranges),
                                       cmocka_unit_test(transfer),
                                       cmocka_unit_test(transfer_refuses)};
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
