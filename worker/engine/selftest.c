/* Load-time self-test: see selftest.h. */
#include "worker/engine/selftest.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

static bool same_format(const cake_wspec *a, const cake_wspec *b) {
    return a->kind == b->kind && a->ftype == b->ftype && a->bits == b->bits &&
           a->group == b->group && a->codec == b->codec && a->fp == b->fp;
}

/* Numbers in -2..2. */
static void fill(float *x, size_t n) {
    uint32_t seed = 12345;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)seed * 0x1p-30f;
    }
}

static cake_status test_one(const cake_mat *mat, bool f32_mode, cake_error *err) {
    const cake_matmul_ops *best = cake_matmul_for(cake_cpu_isa()),
                          *scalar = cake_matmul_for(CAKE_ISA_SCALAR);
    cake_assert(best && scalar);
    uint32_t k = mat->spec.k, n = mat->spec.n < CAKE_TILE_ROWS ? mat->spec.n : CAKE_TILE_ROWS;
    enum { N_TOK = 2 };
    size_t act_bytes = cake_act_bytes(k, N_TOK), scratch_bytes = cake_matmul_scratch_bytes();
    float *x = cake_malloc(N_TOK * k * sizeof *x), a[N_TOK * 16] = {0}, b[N_TOK * 16] = {0};
    void *act_mem = cake_pages_alloc(act_bytes), *scratch = cake_pages_alloc(scratch_bytes);
    cake_status st = CAKE_OK;
    if (!act_mem || !scratch) {
        st = cake_fail(err, CAKE_ENOMEM, "no memory for the self-test");
        goto out;
    }
    fill(x, (size_t)N_TOK * k);
    cake_act act;
    cake_act_init(&act, act_mem, x, k, k, N_TOK);
    best->act_quantize(&act, 0, N_TOK);
    best->matmul(mat, &act, f32_mode, a, n, 0, 1, scratch);
    scalar->act_quantize(&act, 0, N_TOK);
    scalar->matmul(mat, &act, f32_mode, b, n, 0, 1, scratch);
    if (memcmp(a, b, N_TOK * n * sizeof *a) != 0)
        st = cake_fail(
            err, CAKE_EUNSUPPORTED,
            "self-test: the %s kernels of this machine do not give the "
            "same bits as the scalar ones (%u bits, group %u); run with CAKE_KERN=scalar and "
            "report this",
            cake_isa_name(cake_cpu_isa()), mat->spec.bits, mat->spec.group);
out:
    cake_pages_free(act_mem, act_bytes);
    cake_pages_free(scratch, scratch_bytes);
    free(x);
    return st;
}

/* The matrices of a layer, of a stack the first; those it has not got have no packed bytes. */
enum { MATS_MAX = 16 };
static size_t layer_mats(const cake_layer_weights *l, cake_mat out[MATS_MAX]) {
    const cake_moe_weights *m = &l->moe;
    const cake_linear *linears[] = {
        &l->q,    &l->k,      &l->v,          &l->o,           &l->gate,      &l->up,
        &l->down, &m->router, &m->shared_mix, &m->shared_gate, &m->shared_up, &m->shared_down};
    const cake_stack *stacks[] = {&m->gate, &m->up, &m->down};
    size_t n = 0;
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) out[n++] = linears[i]->mat;
    for (size_t i = 0; m->gate.n && i < sizeof stacks / sizeof *stacks; i++)
        out[n++] = cake_stack_mat(stacks[i], 0);
    return n;
}

cake_status cake_self_test(const cake_weights *w, bool f32_mode, cake_error *err) {
    enum { FORMATS_MAX = 64 };
    cake_mat tested[FORMATS_MAX];
    size_t n_tested = 0;
    for (uint32_t i = 0; i < w->n_layers + 1; i++) {
        const cake_layer_weights *l = i < w->n_layers ? &w->layers[i] : NULL;
        cake_mat all[MATS_MAX];
        size_t n = l ? layer_mats(l, all) : 1;
        if (!l) all[0] = w->head.mat;
        for (size_t j = 0; j < n; j++) {
            if (!all[j].packed) continue;
            size_t t = 0;
            while (t < n_tested && !same_format(&tested[t].spec, &all[j].spec)) t++;
            if (t < n_tested || n_tested == FORMATS_MAX) continue;
            tested[n_tested++] = all[j];
            cake_status st = test_one(&all[j], f32_mode, err);
            if (st != CAKE_OK) return st;
        }
    }
    return CAKE_OK;
}

cake_status cake_self_test_attn(const cake_attn_spec *spec, cake_error *err) {
    enum { POSITIONS = CAKE_KV_BLOCK + 5, BLOCKS = 2 };
    cake_attn_spec s = *spec;
    s.n_heads /= s.n_kv_heads, s.n_kv_heads = 1;
    size_t d = s.head_dim, width = s.n_heads * d, block = cake_kv_block_bytes(&s);
    float *kv = cake_malloc((size_t)POSITIONS * 2 * d * sizeof *kv);
    float *q = cake_malloc(width * sizeof *q), *out[2];
    void *scratch = cake_malloc(cake_attn_scratch_bytes(&s, 1));
    uint8_t *blocks = cake_calloc(2 * BLOCKS, block);
    fill(kv, (size_t)POSITIONS * 2 * d);
    fill(q, width);
    for (int i = 0; i < 2; i++) {
        const cake_attn_kern *kern = cake_attn_for(i ? CAKE_ISA_SCALAR : cake_cpu_isa());
        uint8_t *own = blocks + (size_t)i * BLOCKS * block;
        const void *table[BLOCKS] = {own, own + block};
        for (uint32_t p = 0; p < POSITIONS; p++)
            kern->kv_store(&s, own + p / CAKE_KV_BLOCK * block, p % CAKE_KV_BLOCK,
                           kv + (size_t)p * 2 * d, kv + ((size_t)p * 2 + 1) * d);
        out[i] = cake_malloc(width * sizeof **out);
        kern->rows(&s, table, POSITIONS - 1, 1, 0, 1, q, width, out[i], width, scratch);
    }
    cake_status st = CAKE_OK;
    if (memcmp(out[0], out[1], width * sizeof **out) != 0 ||
        memcmp(blocks, blocks + BLOCKS * block, BLOCKS * block) != 0)
        st = cake_fail(err, CAKE_EUNSUPPORTED,
                       "self-test: attention of the %s kernels of this machine does not give the "
                       "same bits as the scalar one; run with CAKE_KERN=scalar and report this",
                       cake_isa_name(cake_cpu_isa()));
    free(kv), free(q), free(scratch), free(blocks), free(out[0]), free(out[1]);
    return st;
}
