/* Dispatch of the row operations: see vec.h. Built at the baseline ISA. */
#include "kernels/vec.h"

#include <stddef.h>

#if defined(__AVX__)
#error "kernels/vec.c must be built at the baseline ISA, or it will crash on older CPUs"
#endif

extern const cake_vec_kern cake_vec_scalar, cake_vec_avx2, cake_vec_avx512, cake_vec_neon;

const cake_vec_kern *cake_vec_for(cake_isa isa) {
    switch (isa) {
    case CAKE_ISA_SCALAR: return &cake_vec_scalar;
#if defined(__x86_64__)
    case CAKE_ISA_AVX2: return &cake_vec_avx2;
    case CAKE_ISA_AVX512: return &cake_vec_avx512;
#elif defined(__aarch64__)
    case CAKE_ISA_NEON: return &cake_vec_neon;
#endif
    default: return NULL;
    }
}

static const cake_vec_kern *kern(void) {
    return cake_vec_for(cake_cpu_isa());
}

void cake_rmsnorm(float *y, const float *x, const float *w, size_t n, float eps) {
    kern()->rmsnorm(y, x, w, n, eps);
}
void cake_add(float *y, const float *a, const float *b, size_t n) {
    kern()->add(y, a, b, n);
}
void cake_axpy(float *y, float a, const float *x, size_t n) {
    kern()->axpy(y, a, x, n);
}
void cake_scale(float *y, float a, const float *x, size_t n) {
    kern()->scale(y, a, x, n);
}
void cake_swiglu(float *y, const float *gate, const float *up, size_t n) {
    kern()->swiglu(y, gate, up, n);
}
void cake_geglu(float *y, const float *gate, const float *up, size_t n) {
    kern()->geglu(y, gate, up, n);
}
void cake_sigmoid_mul(float *y, const float *gate, const float *x, size_t n) {
    kern()->sigmoid_mul(y, gate, x, n);
}
void cake_silu(float *y, const float *x, size_t n) {
    kern()->silu(y, x, n);
}
void cake_softcap(float *y, const float *x, size_t n, float cap) {
    kern()->softcap(y, x, n, cap);
}
float cake_dot(const float *a, const float *b, size_t n) {
    return kern()->dot(a, b, n);
}
float cake_max(const float *x, size_t n) {
    return kern()->max(x, n);
}
float cake_max_blocks(float *block, const float *x, size_t n, int *finite) {
    return kern()->max_blocks(block, x, n, finite);
}

double cake_exp_sum(float *y, const float *x, size_t n, float max, float t) {
    return kern()->exp_sum(y, x, n, max, t);
}

void cake_softmax(float *x, size_t n) {
    kern()->softmax(x, n);
}
size_t cake_argmax(const float *x, size_t n) {
    return kern()->argmax(x, n);
}
void cake_f32_to_f16(uint16_t *y, const float *x, size_t n) {
    kern()->f32_to_f16(y, x, n);
}
void cake_f16_to_f32(float *y, const uint16_t *x, size_t n) {
    kern()->f16_to_f32(y, x, n);
}
void cake_f32_to_bf16(uint16_t *y, const float *x, size_t n) {
    kern()->f32_to_bf16(y, x, n);
}
void cake_bf16_to_f32(float *y, const uint16_t *x, size_t n) {
    kern()->bf16_to_f32(y, x, n);
}
