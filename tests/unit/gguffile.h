/* GGUF files put together value by value, for tests: right ones and, after changes, wrong ones. */
#ifndef CAKE_TESTS_GGUFFILE_H
#define CAKE_TESTS_GGUFFILE_H

#include "common/model/gguf.h"
#include "tests/unit/modelfile.h"

typedef struct {
    uint8_t *p;
    size_t n, room;
} bytes;

static UNUSED void put_bytes(bytes *b, const void *p, size_t n) {
    if (b->n + n >= b->room) {
        b->room = 2 * b->room + n + 64;
        b->p = realloc(b->p, b->room);
    }
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
}
static UNUSED void put_int(bytes *b, uint64_t v, unsigned n) {
    uint8_t le[8];
    for (unsigned i = 0; i < 8; i++) le[i] = (uint8_t)(v >> 8 * i);
    put_bytes(b, le, n);
}
static UNUSED void put_u32(bytes *b, uint32_t v) {
    put_int(b, v, 4);
}
static UNUSED void put_u64(bytes *b, uint64_t v) {
    put_int(b, v, 8);
}
static UNUSED void put_text(bytes *b, const char *s) {
    put_u64(b, strlen(s));
    put_bytes(b, s, strlen(s));
}

/* The three parts of a file; finish() puts them together. */
typedef struct {
    bytes kv, infos, data;
    uint64_t n_kv, n_tensors, alignment; /* 0: 32 */
} gguf_file;

static UNUSED void kv_u32(gguf_file *f, const char *key, uint32_t v) {
    put_text(&f->kv, key), put_u32(&f->kv, CAKE_GGUF_U32), put_u32(&f->kv, v), f->n_kv++;
}
static UNUSED void kv_f32(gguf_file *f, const char *key, float v) {
    uint32_t raw;
    memcpy(&raw, &v, 4);
    put_text(&f->kv, key), put_u32(&f->kv, CAKE_GGUF_F32), put_u32(&f->kv, raw), f->n_kv++;
}
static UNUSED void kv_bool(gguf_file *f, const char *key, bool v) {
    put_text(&f->kv, key), put_u32(&f->kv, CAKE_GGUF_BOOL), put_int(&f->kv, v, 1), f->n_kv++;
}
static UNUSED void kv_text(gguf_file *f, const char *key, const char *v) {
    put_text(&f->kv, key), put_u32(&f->kv, CAKE_GGUF_STRING), put_text(&f->kv, v), f->n_kv++;
}
/* The head of an array; its elements follow with put_*(&f->kv, ...). */
static UNUSED void kv_array(gguf_file *f, const char *key, cake_gguf_type type, uint64_t n) {
    put_text(&f->kv, key), put_u32(&f->kv, CAKE_GGUF_ARRAY), put_u32(&f->kv, type);
    put_u64(&f->kv, n), f->n_kv++;
}
/* dims innermost first, n of them; data NULL: a pattern. */
static UNUSED void add_tensor(gguf_file *f, const char *name, uint32_t type, uint32_t n,
                              const uint64_t *dims, const void *data) {
    const cake_gguf_kind *k = cake_gguf_kind_of(type);
    uint64_t size = 1, align = f->alignment ? f->alignment : 32;
    for (uint32_t i = 0; i < n; i++) size *= dims[i];
    size = size / k->weights * k->bytes;
    put_text(&f->infos, name), put_u32(&f->infos, n);
    for (uint32_t i = 0; i < n; i++) put_u64(&f->infos, dims[i]);
    put_u32(&f->infos, type), put_u64(&f->infos, f->data.n);
    f->n_tensors++;
    if (data) put_bytes(&f->data, data, (size_t)size);
    for (uint64_t i = 0; !data && i < size; i++) put_int(&f->data, (i * 37 + f->n_tensors) % 61, 1);
    while (f->data.n % align) put_int(&f->data, 0, 1);
}
static UNUSED void add_tensor2(gguf_file *f, const char *name, uint32_t type, uint64_t k,
                               uint64_t n) {
    add_tensor(f, name, type, 2, (uint64_t[]){k, n}, NULL);
}
/* The whole file; f is cleared. */
static UNUSED bytes finish(gguf_file *f) {
    bytes b = {0};
    uint64_t align = f->alignment ? f->alignment : 32;
    put_bytes(&b, "GGUF", 4), put_u32(&b, 3);
    put_u64(&b, f->n_tensors), put_u64(&b, f->n_kv);
    put_bytes(&b, f->kv.p, f->kv.n);
    put_bytes(&b, f->infos.p, f->infos.n);
    while (b.n % align) put_int(&b, 0, 1);
    put_bytes(&b, f->data.p, f->data.n);
    free(f->kv.p), free(f->infos.p), free(f->data.p);
    *f = (gguf_file){0};
    return b;
}

#endif
