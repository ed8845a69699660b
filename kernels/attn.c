/* Dispatch and sizes of attention: see attn.h. Built at the baseline ISA. */
#include "kernels/attn.h"

#if defined(__AVX__)
#error "kernels/attn.c must be built at the baseline ISA, or it will crash on older CPUs"
#endif

extern const cake_attn_kern cake_attn_scalar, cake_attn_avx2, cake_attn_avx512, cake_attn_neon;

const cake_attn_kern *cake_attn_for(cake_isa isa) {
    switch (isa) {
    case CAKE_ISA_SCALAR: return &cake_attn_scalar;
#if defined(__x86_64__)
    case CAKE_ISA_AVX2: return &cake_attn_avx2;
    case CAKE_ISA_AVX512: return &cake_attn_avx512;
#elif defined(__aarch64__)
    case CAKE_ISA_NEON: return &cake_attn_neon;
#endif
    default: return NULL;
    }
}

static size_t round16(size_t d) {
    return (d + 15) & ~(size_t)15;
}

size_t cake_kv_block_bytes(const cake_attn_spec *s) {
    size_t d = s->head_dim, cells = CAKE_KV_BLOCK * (d + round16(d)), head = 0;
    switch (s->kv) {
    case CAKE_KV_F16: head = 2 * cells; break;
    case CAKE_KV_F32: head = 4 * cells; break;
    case CAKE_KV_Q8: head = cells + 2 * ((d + 31) / 32) * CAKE_KV_BLOCK * 2; break;
    }
    return s->n_kv_heads * head;
}

size_t cake_attn_scratch_bytes(const cake_attn_spec *s, uint32_t n_rows_max) {
    /* as attn_body.h lays it out, for the widest tile (8 rows) and most query rows (96) */
    size_t dp = round16(s->head_dim), group = s->n_heads / s->n_kv_heads;
    size_t n = n_rows_max < 96 ? (size_t)n_rows_max * s->n_heads : 96;
    if (n > 96) n = 96;
    if (n < group) n = group;
    size_t floats = 8 * CAKE_KV_BLOCK + 8 * dp + 2 * CAKE_KV_BLOCK * dp + 8 * CAKE_KV_BLOCK +
                    n * (dp + 2) + n * s->head_dim;
    return ((floats * sizeof(float) + 63) & ~(size_t)63) + 64;
}

void cake_kv_store(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                   const float *v) {
    cake_attn_for(cake_cpu_isa())->kv_store(s, block, slot, k, v);
}

void cake_attn_rows(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                    uint32_t n_rows, uint32_t kv_begin, uint32_t kv_end, const float *q, size_t ldq,
                    float *out, size_t ldo, void *scratch) {
    cake_attn_for(cake_cpu_isa())
        ->rows(s, blocks, pos0, n_rows, kv_begin, kv_end, q, ldq, out, ldo, scratch);
}

size_t cake_attn_partial_bytes(const cake_attn_spec *s, uint32_t pos0, uint32_t n_rows) {
    size_t n_blocks = ((size_t)pos0 + n_rows + CAKE_KV_BLOCK - 1) / CAKE_KV_BLOCK;
    size_t rows = (size_t)n_rows * (s->n_heads / s->n_kv_heads);
    return n_blocks * s->n_kv_heads * (rows * round16(s->head_dim) + 2 * round16(rows)) *
           sizeof(float);
}

void cake_attn_partial(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                       uint32_t n_rows, uint32_t kv_begin, uint32_t kv_end, uint32_t block_begin,
                       uint32_t block_end, const float *q, size_t ldq, float *partials,
                       void *scratch) {
    cake_attn_for(cake_cpu_isa())
        ->partial(s, blocks, pos0, n_rows, kv_begin, kv_end, block_begin, block_end, q, ldq,
                  partials, scratch);
}

void cake_attn_combine(const cake_attn_spec *s, uint32_t pos0, uint32_t n_rows, uint32_t kv_begin,
                       uint32_t kv_end, const float *partials, float *out, size_t ldo) {
    cake_attn_for(cake_cpu_isa())->combine(s, pos0, n_rows, kv_begin, kv_end, partials, out, ldo);
}
