/* The parts of the matmul family that need no SIMD: activation scratch and the choice of the ISA.
 */
#include "kernels/matmul_impl.h"

#if defined(__AVX__)
#error "kernels/matmul.c must be built at the baseline ISA"
#endif

static size_t round64(size_t n) {
    return (n + 63) & ~(size_t)63;
}

size_t cake_act_bytes(uint32_t k, uint32_t n_tok) {
    size_t blocks = ((size_t)k + 31) / 32, units = ((size_t)k + 63) / 64;
    return units * n_tok * 64 + 2 * round64(blocks * n_tok * sizeof(float)) +
           round64(units * n_tok * sizeof(float)) + round64(blocks * n_tok * 2 * sizeof(int32_t));
}

void cake_act_init(cake_act *a, void *scratch, const float *x, size_t ldx, uint32_t k,
                   uint32_t n_tok) {
    *a = (cake_act){.x = x, .ldx = ldx, .k = k, .n_tok = n_tok};
    if (!scratch) return;
    size_t blocks = ((size_t)k + 31) / 32, units = ((size_t)k + 63) / 64;
    char *p = scratch;
    a->q = (int8_t *)p, p += units * n_tok * 64;
    a->scale = (float *)(void *)p, p += round64(blocks * n_tok * sizeof(float));
    a->sum32 = (float *)(void *)p, p += round64(blocks * n_tok * sizeof(float));
    a->sum64 = (float *)(void *)p, p += round64(units * n_tok * sizeof(float));
    a->neg16 = (int32_t *)(void *)p;
}

size_t cake_matmul_scratch_bytes(void) {
    return CAKE_MM_SCRATCH_FLOATS * sizeof(float);
}

const cake_matmul_ops *cake_matmul_for(cake_isa isa) {
    if (!cake_cpu_has(isa)) return NULL;
    switch (isa) {
    case CAKE_ISA_SCALAR: return &cake_matmul_scalar;
#if defined(__x86_64__)
    case CAKE_ISA_AVX2: return &cake_matmul_avx2;
    case CAKE_ISA_AVX512: return &cake_matmul_avx512;
#elif defined(__aarch64__)
    case CAKE_ISA_NEON: return &cake_matmul_neon;
#endif
    default: return NULL;
    }
}

void cake_act_quantize(cake_act *a, uint32_t tok_begin, uint32_t tok_end) {
    cake_matmul_for(cake_cpu_isa())->act_quantize(a, tok_begin, tok_end);
}

void cake_matmul(const cake_mat *w, const cake_act *a, bool f32_mode, float *y, size_t ldy,
                 uint32_t tile_begin, uint32_t tile_end, void *scratch) {
    cake_matmul_for(cake_cpu_isa())->matmul(w, a, f32_mode, y, ldy, tile_begin, tile_end, scratch);
}
