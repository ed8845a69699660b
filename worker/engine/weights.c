/* Packed weights: see weights.h. Two passes over the same walk: the first adds up sizes, the second
 * places and packs, so that the sizes announced by a plan are the sizes taken. */
#include "worker/engine/weights.h"
#include "common/mem.h"
#include "kernels/codec.h"
#include "kernels/vec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

typedef struct {
    const cake_layout *layout;
    const cake_checkpoint *source; /* NULL in the measuring pass */
    cake_pool *pool;
    uint8_t *base; /* NULL in the measuring pass */
    size_t at;
    uint64_t done, total;
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
    cake_error *err;
} walk;

static bool ftype_of(cake_dtype d, cake_ftype *out) {
    switch (d) {
    case CAKE_DTYPE_F32: return *out = CAKE_F32, true;
    case CAKE_DTYPE_F16: return *out = CAKE_F16, true;
    case CAKE_DTYPE_BF16: return *out = CAKE_BF16, true;
    default: return false;
    }
}

static void *place(walk *w, size_t bytes) {
    void *p = w->base ? w->base + w->at : NULL;
    w->at += cake_round_up(bytes, ALIGN);
    return p;
}

static cake_status no_memory(walk *w, const cake_tensor *t) {
    return cake_fail(w->err, CAKE_ENOMEM, "no memory to read tensor '%s'", t->name);
}

/* A stored vector of n floats of any type, widened to f32. */
static cake_status load_vector(walk *w, const cake_module *m, int32_t tensor, uint32_t n,
                               const float **out) {
    float *dst = place(w, n * sizeof *dst);
    *out = dst;
    if (!dst) return CAKE_OK;
    const cake_tensor *t = &w->source->tensors[tensor];
    cake_ftype ft;
    if (!ftype_of(t->dtype, &ft))
        return cake_fail(w->err, CAKE_EUNSUPPORTED,
                         "tensor '%s' has type %s; F32, F16 or BF16 is needed", t->name,
                         cake_dtype_name(t->dtype));
    cake_assert(t->n_bytes == (uint64_t)n * (ft == CAKE_F32 ? 4 : 2));
    uint8_t *owned;
    const void *stored = cake_checkpoint_bytes(w->source, t, &owned);
    if (!stored) return no_memory(w, t);
    if (ft == CAKE_F32)
        memcpy(dst, stored, n * sizeof *dst);
    else if (ft == CAKE_F16)
        cake_f16_to_f32(dst, stored, n);
    else
        cake_bf16_to_f32(dst, stored, n);
    free(owned);
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(dst[i]))
            return cake_fail(w->err, CAKE_EFORMAT,
                             "tensor '%s' (%s): element %u is not a finite number", t->name,
                             m->path, i);
    return CAKE_OK;
}

/* What the kernels call the module's storage; false for what they do not know. */
static bool kernel_spec(const cake_module *m, cake_wspec *s) {
    *s = (cake_wspec){.n = m->n, .k = m->k};
    switch (m->kind) {
    case CAKE_WEIGHT_DENSE:
        s->kind = CAKE_W_DENSE;
        if (!ftype_of(m->dtype, &s->ftype)) return false;
        break;
    case CAKE_WEIGHT_AFFINE:
        s->kind = CAKE_W_AFFINE;
        s->bits = m->bits;
        s->group = m->group_size;
        if (!ftype_of(m->dtype, &s->ftype)) return false;
        break;
    case CAKE_WEIGHT_BLOCK:
        s->kind = CAKE_W_BLOCK;
        if (!cake_codec_parse(cake_block_get(m->codec)->name, &s->codec)) return false;
        break;
    case CAKE_WEIGHT_FP:
        s->kind = CAKE_W_FP;
        if (!cake_fp_parse(cake_quant_mode_name(m->fp_mode), &s->fp)) return false;
        break;
    }
    return cake_wspec_valid(s);
}

static cake_status spec_of(walk *w, const cake_module *m, cake_wspec *spec) {
    if (kernel_spec(m, spec)) return CAKE_OK;
    return cake_fail(w->err, CAKE_EUNSUPPORTED,
                     "%s: a [%u, %u] weight of type %s, %u bits, group %u "
                     "has no kernel in this build",
                     m->path, m->n, m->k, cake_dtype_name(m->dtype), m->bits, m->group_size);
}

/* An E8M0 scale of 255 is infinite or not a number, depending on whom one asks: no weight is. */
static cake_status check_scales(walk *w, const cake_module *m) {
    const cake_tensor *t = &w->source->tensors[m->scales];
    if (m->fp_mode == CAKE_QUANT_NVFP4 || !memchr(t->data, 0xff, (size_t)t->n_bytes))
        return CAKE_OK;
    return cake_fail(w->err, CAKE_EFORMAT,
                     "tensor '%s': a scale byte is 255, which is not a finite number", t->name);
}

/* The stored bytes of matrix e of a module (0 unless it is a stack). */
static cake_wstored stored_of(const walk *w, const cake_module *m, const cake_wspec *spec,
                              uint32_t e) {
    const cake_tensor *t = w->source->tensors;
    size_t weight = cake_stored_row_bytes(spec) * spec->n * e;
    size_t scales = cake_stored_scale_row_bytes(spec) * spec->n * e;
    return (cake_wstored){.weight = t[m->weight].data + weight,
                          .scales = m->scales >= 0 ? t[m->scales].data + scales : NULL,
                          .biases = m->biases >= 0 ? t[m->biases].data + scales : NULL};
}

/* Pack n matrices of one shape, `stride` bytes apart. */
typedef struct {
    const walk *w;
    const cake_module *modules; /* n of them, or one stack */
    const cake_wspec *spec;
    uint8_t *packed;
    size_t stride, chunks; /* of one matrix */
    const uint8_t *rows;   /* of the one matrix, where the file has them in another order */
} pack_job;

enum { PACK_TILES = 16 };

static void pack_chunk(void *arg, size_t chunk, unsigned thread) {
    (void)thread;
    const pack_job *j = arg;
    uint32_t e = (uint32_t)(chunk / j->chunks), tiles = cake_tiles(j->spec);
    uint32_t begin = (uint32_t)(chunk % j->chunks) * PACK_TILES;
    uint32_t end = begin + PACK_TILES < tiles ? begin + PACK_TILES : tiles;
    bool stack = j->modules->n_experts > 0;
    cake_wstored stored =
        stored_of(j->w, stack ? j->modules : j->modules + e, j->spec, stack ? e : 0);
    if (j->rows) stored.weight = j->rows;
    cake_pack_tiles(j->spec, &stored, j->packed + e * j->stride, begin, end);
}

static cake_status pack(walk *w, const cake_module *modules, uint32_t n, const cake_wspec *spec,
                        void *packed) {
    if (!packed) return CAKE_OK;
    for (uint32_t i = 0; i < (modules->n_experts ? 1 : n); i++) {
        if (modules[i].kind != CAKE_WEIGHT_FP) continue;
        cake_status st = check_scales(w, &modules[i]);
        if (st != CAKE_OK) return st;
    }
    size_t bytes = cake_packed_bytes(spec);
    pack_job job = {.w = w,
                    .modules = modules,
                    .spec = spec,
                    .packed = packed,
                    .stride = bytes,
                    .chunks = (cake_tiles(spec) + PACK_TILES - 1) / PACK_TILES};
    const cake_tensor *t = &w->source->tensors[modules->weight];
    uint8_t *owned = NULL;
    if (t->head_rows && !(job.rows = cake_checkpoint_bytes(w->source, t, &owned)))
        return no_memory(w, t);
    cake_assert(!owned || n == 1);
    cake_pool_run(w->pool, n * job.chunks, pack_chunk, &job);
    free(owned);
    w->done += n * bytes;
    if (w->progress) w->progress(w->arg, w->done, w->total);
    return CAKE_OK;
}

static cake_status load_linear(walk *w, uint32_t unit, cake_role role, cake_linear *out) {
    const cake_module *m = cake_layout_module(w->layout, unit, role);
    cake_assert(m != NULL);
    cake_wspec spec;
    cake_status st = spec_of(w, m, &spec);
    if (st != CAKE_OK) return st;
    void *packed = place(w, cake_packed_bytes(&spec));
    *out = (cake_linear){.mat = {spec, packed}};
    if ((st = pack(w, m, 1, &spec, packed)) != CAKE_OK) return st;
    return m->bias >= 0 ? load_vector(w, m, m->bias, m->n, &out->bias) : CAKE_OK;
}

/* The matrices of all experts, stacked in the checkpoint or not. */
static cake_status load_stack(walk *w, uint32_t unit, cake_role role, cake_stack *out) {
    uint32_t n = w->layout->config->moe.n_experts;
    const cake_module *m = cake_layout_expert(w->layout, unit, role, 0);
    cake_assert(m != NULL);
    cake_wspec spec, other;
    cake_status st = spec_of(w, m, &spec);
    for (uint32_t e = 1; st == CAKE_OK && !m->n_experts && e < n; e++) {
        if ((st = spec_of(w, &m[e], &other)) == CAKE_OK && memcmp(&spec, &other, sizeof spec) != 0)
            st = cake_fail(w->err, CAKE_EUNSUPPORTED,
                           "%s and %s are stored in different types; the experts of a layer must "
                           "be of one",
                           m->path, m[e].path);
    }
    if (st != CAKE_OK) return st;
    size_t stride = cake_packed_bytes(&spec), bytes;
    if (!cake_mul_size(stride, n, &bytes))
        return cake_fail(w->err, CAKE_EFORMAT, "%s: %u experts are too large", m->path, n);
    void *packed = place(w, bytes);
    *out = (cake_stack){spec, n, stride, packed};
    return pack(w, m, n, &spec, packed);
}

/* What the norm multiplies with. */
static cake_status load_norm(walk *w, uint32_t unit, cake_role role, bool required,
                             const float **out) {
    const cake_module *m = cake_layout_module(w->layout, unit, role);
    cake_assert(m != NULL || !required);
    *out = NULL;
    if (!m) return CAKE_OK;
    uint32_t n = m->k > 1 ? m->k : m->n;
    cake_status st = load_vector(w, m, m->weight, n, out);
    float *y = (float *)(uintptr_t)*out; /* in our region */
    for (uint32_t i = 0; st == CAKE_OK && y && w->layout->config->norm_add_one && i < n; i++)
        y[i] = 1.0f + y[i];
    return st;
}

typedef struct {
    cake_role role;
    size_t at; /* offset of the cake_linear in cake_layer_weights */
} linear_at;

static cake_status load_linears(walk *w, uint32_t unit, cake_layer_weights *l,
                                const linear_at *which, size_t n) {
    cake_status st = CAKE_OK;
    for (size_t i = 0; st == CAKE_OK && i < n; i++)
        st = load_linear(w, unit, which[i].role, (cake_linear *)(void *)((char *)l + which[i].at));
    return st;
}

static cake_status load_layer(walk *w, uint32_t unit, cake_layer_weights *l) {
    static const linear_at attention[] = {{CAKE_ROLE_Q, offsetof(cake_layer_weights, q)},
                                          {CAKE_ROLE_K, offsetof(cake_layer_weights, k)},
                                          {CAKE_ROLE_V, offsetof(cake_layer_weights, v)},
                                          {CAKE_ROLE_O, offsetof(cake_layer_weights, o)}};
    static const linear_at dense[] = {{CAKE_ROLE_GATE, offsetof(cake_layer_weights, gate)},
                                      {CAKE_ROLE_UP, offsetof(cake_layer_weights, up)},
                                      {CAKE_ROLE_DOWN, offsetof(cake_layer_weights, down)}};
    static const linear_at shared[] = {
        {CAKE_ROLE_SHARED_MIX, offsetof(cake_layer_weights, moe.shared_mix)},
        {CAKE_ROLE_SHARED_GATE, offsetof(cake_layer_weights, moe.shared_gate)},
        {CAKE_ROLE_SHARED_UP, offsetof(cake_layer_weights, moe.shared_up)},
        {CAKE_ROLE_SHARED_DOWN, offsetof(cake_layer_weights, moe.shared_down)}};
    const cake_model_config *c = w->layout->config;
    cake_status st = load_norm(w, unit, CAKE_ROLE_ATTN_NORM, true, &l->attn_norm);
    if (st == CAKE_OK) st = load_norm(w, unit, CAKE_ROLE_FFN_NORM, true, &l->ffn_norm);
    if (st == CAKE_OK) st = load_norm(w, unit, CAKE_ROLE_Q_NORM, false, &l->q_norm);
    if (st == CAKE_OK) st = load_norm(w, unit, CAKE_ROLE_K_NORM, false, &l->k_norm);
    if (st == CAKE_OK)
        st = load_norm(w, unit, CAKE_ROLE_ATTN_POST_NORM, c->post_norms, &l->attn_post_norm);
    if (st == CAKE_OK)
        st = load_norm(w, unit, CAKE_ROLE_FFN_POST_NORM, c->post_norms, &l->ffn_post_norm);
    if (st == CAKE_OK) st = load_linears(w, unit, l, attention, 4);
    if (st != CAKE_OK) return st;
    if (!cake_config_has_experts(c, unit - 1)) return load_linears(w, unit, l, dense, 3);
    st = load_linear(w, unit, CAKE_ROLE_ROUTER, &l->moe.router);
    if (st == CAKE_OK && c->moe.shared_ff) st = load_linears(w, unit, l, shared, 4);
    if (st == CAKE_OK) st = load_stack(w, unit, CAKE_ROLE_EXPERT_GATE, &l->moe.gate);
    if (st == CAKE_OK) st = load_stack(w, unit, CAKE_ROLE_EXPERT_UP, &l->moe.up);
    if (st == CAKE_OK) st = load_stack(w, unit, CAKE_ROLE_EXPERT_DOWN, &l->moe.down);
    return st;
}

static cake_status walk_units(walk *w, cake_weights *out, uint32_t begin, uint32_t end) {
    uint32_t last = w->layout->n_units - 1;
    cake_status st = CAKE_OK;
    for (uint32_t u = begin; st == CAKE_OK && u < end; u++) {
        if (u == 0) {
            st = load_linear(w, u, CAKE_ROLE_EMBED, &out->embed);
        } else if (u < last) {
            st = load_layer(w, u, &out->layers[u - (begin > 1 ? begin : 1)]);
        } else {
            st = load_norm(w, u, CAKE_ROLE_FINAL_NORM, true, &out->final_norm);
            if (st == CAKE_OK && w->layout->tied && begin == 0)
                out->head = out->embed;
            else if (st == CAKE_OK)
                st = load_linear(w, u, CAKE_ROLE_HEAD, &out->head);
        }
    }
    return st;
}

static uint32_t count_layers(const cake_layout *l, uint32_t begin, uint32_t end) {
    uint32_t last = l->n_units - 1;
    uint32_t a = begin > 1 ? begin : 1, b = end < last ? end : last;
    return b > a ? b - a : 0;
}

cake_status cake_weights_bytes(const cake_layout *layout, uint32_t unit_begin, uint32_t unit_end,
                               size_t *bytes, cake_error *err) {
    cake_assert(unit_begin < unit_end && unit_end <= layout->n_units);
    cake_weights none = {.n_layers = count_layers(layout, unit_begin, unit_end)};
    none.layers = cake_calloc(none.n_layers, sizeof *none.layers);
    walk w = {.layout = layout, .err = err};
    cake_status st = walk_units(&w, &none, unit_begin, unit_end);
    free(none.layers);
    if (st == CAKE_OK) *bytes = w.at;
    return st;
}

cake_status cake_weights_load(cake_weights *out, const cake_layout *layout,
                              const cake_checkpoint *source, uint32_t unit_begin, uint32_t unit_end,
                              cake_pool *pool,
                              void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                              cake_error *err) {
    *out = (cake_weights){0};
    size_t bytes;
    cake_status st = cake_weights_bytes(layout, unit_begin, unit_end, &bytes, err);
    if (st != CAKE_OK) return st;
    out->region = cake_pages_alloc(bytes);
    if (!out->region)
        return cake_fail(err, CAKE_ENOMEM, "no memory for %zu MiB of weights", bytes >> 20);
    out->region_bytes = bytes;
    out->n_layers = count_layers(layout, unit_begin, unit_end);
    out->layers = cake_calloc(out->n_layers, sizeof *out->layers);
    walk w = {.layout = layout,
              .source = source,
              .pool = pool,
              .base = out->region,
              .total = bytes,
              .progress = progress,
              .arg = arg,
              .err = err};
    st = walk_units(&w, out, unit_begin, unit_end);
    cake_assert(st != CAKE_OK || w.at == bytes);
    if (st != CAKE_OK) cake_weights_free(out);
    return st;
}

void cake_weights_free(cake_weights *w) {
    cake_pages_free(w->region, w->region_bytes);
    free(w->layers);
    *w = (cake_weights){0};
}
