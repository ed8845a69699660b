/* Any bytes as a message: first byte = number of extra cuts, then u16 lengths of the frames, then
 * their bytes. What is accepted must be laid out exactly as the encoder would, and every accessor
 * stay inside. */
#include "proto/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static volatile uint8_t sink;
static void touch(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) sink ^= p[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 1) return 0;
    size_t n_frames = (size_t)(data[0] & 7) + 1, at = 1 + 2 * (n_frames - 1);
    if (at > n) return 0;
    cake_view frames[8];
    uint8_t *own[8];
    for (size_t i = 0; i < n_frames; i++) {
        size_t len = n - at;
        if (i + 1 < n_frames) {
            size_t want = (size_t)data[1 + 2 * i] | (size_t)data[2 + 2 * i] << 8;
            if (want < len) len = want;
        }
        own[i] = malloc(len ? len : 1); /* exact blocks: a byte read too many is seen */
        memcpy(own[i], data + at, len);
        frames[i] = (cake_view){own[i], len};
        at += len;
    }
    cake_wire_hdr h;
    cake_error err;
    if (cake_wire_decode(&h, frames, n_frames, &err) == CAKE_OK) {
        cake_wire_hdr again = h;
        uint8_t header[CAKE_WIRE_HDR];
        if (cake_wire_layout(&again, &err) != CAKE_OK) abort();
        cake_wire_put_header(header, &again);
        if (memcmp(header, frames[0].data, CAKE_WIRE_HDR) != 0) abort();
        size_t row = cake_wire_row_bytes((cake_wire_type)h.dtype, h.width);
        for (uint32_t i = 0; i < h.n_rows; i++) {
            sink ^= (uint8_t)cake_wire_row(frames, i).seq;
            const uint8_t *v = cake_wire_values(&h, frames, i);
            if (v) touch(v, row);
        }
        for (uint32_t i = 0; i < h.n_ops; i++) sink ^= (uint8_t)cake_wire_op(&h, frames, i).b;
        for (uint32_t i = 0; i < h.n_times; i++)
            sink ^= (uint8_t)cake_wire_time(&h, frames, i).stage;
        cake_view body = cake_wire_body(&h, frames);
        touch(body.data, body.len);
        cake_wire_limits l = {.epoch = h.epoch,
                              .n_rows = 64,
                              .n_ops = 16,
                              .n_seqs = 8,
                              .n_ctx = 128,
                              .n_vocab = 300,
                              .n_stages = 4,
                              .width = h.width,
                              .dtypes = 0xff};
        if (cake_wire_check(&h, frames, &l, &err) == CAKE_OK)
            for (uint32_t i = 0; i < h.n_rows; i++) {
                cake_row r = cake_wire_row(frames, i);
                if (r.seq >= 8 || r.pos >= 128 || r.token >= 300 || r.flags > 1) abort();
            }
        if (h.kind == CAKE_MSG_ERROR) {
            char text[CAKE_ERROR_TEXT_MAX + 1];
            if (cake_wire_error_text(&h, frames, text) >= 0 || strlen(text) > CAKE_ERROR_TEXT_MAX)
                abort();
        }
    }
    for (size_t i = 0; i < n_frames; i++) free(own[i]);
    return 0;
}
