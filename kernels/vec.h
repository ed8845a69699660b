/* Operations on rows of f32: norms, sums, gates, softmax, argmax, and conversions to the narrow
 * types.
 *
 * Every function gives the same bits with every ISA. Sums run in one order everywhere: element i
 * goes to lane i mod 16, lanes add in ascending i, and the 16 lanes fold as l += l+8, l+4, l+2,
 * l+1. All pointers may have any alignment; n may be 0 and need not be a multiple of anything. An
 * output may be the same array as an input, but must not overlap it in part. NaN inputs give NaN
 * outputs unless said otherwise. Threads: re-entrant. Allocates: no. Blocks: no. */
#ifndef CAKE_KERNELS_VEC_H
#define CAKE_KERNELS_VEC_H

#include "kernels/cpu.h"

#include <stddef.h>
#include <stdint.h>

/* y = x / sqrt(mean(x^2) + eps) * w, the formats.md 7.1 form: y_i = (x_i * r) * w_i with r the f32
 * reciprocal of the f32 root. w: [n], or NULL for all ones. Families whose effective weight is 1 +
 * w add the 1 when they load. */
void cake_rmsnorm(float *y, const float *x, const float *w, size_t n, float eps);

/* y = a + b.  y += a * x (fused).  y = a * x. */
void cake_add(float *y, const float *a, const float *b, size_t n);
void cake_axpy(float *y, float a, const float *x, size_t n);
void cake_scale(float *y, float a, const float *x, size_t n);

/* y = silu(gate) * up,  y = gelu_tanh(gate) * up,  y = sigmoid(gate) * x,  y = silu(x). */
void cake_swiglu(float *y, const float *gate, const float *up, size_t n);
void cake_geglu(float *y, const float *gate, const float *up, size_t n);
void cake_sigmoid_mul(float *y, const float *gate, const float *x, size_t n);
void cake_silu(float *y, const float *x, size_t n);

/* y = cap * tanh(x / cap), to a relative error of 4 * 2^-23. */
void cake_softcap(float *y, const float *x, size_t n, float cap);

/* The sum of a*b (fused, in the order above). */
float cake_dot(const float *a, const float *b, size_t n);

/* Largest element, NaNs passed over; -infinity if there is none. */
float cake_max(const float *x, size_t n);

/* The largest element of each CAKE_MAX_BLOCK (and of the rest), NaNs passed over; returns the
 * largest of all. *finite: whether no element is a NaN or infinite. */
enum { CAKE_MAX_BLOCK = 64 };
float cake_max_blocks(float *block, const float *x, size_t n, int *finite);

/* y = e^((x - max) / t); returns the sum of y in f64, lanes and folding as above. */
double cake_exp_sum(float *y, const float *x, size_t n, float max, float t);

/* x = e^(x - max) / sum, in place. Rows with a NaN or with +infinity give NaN. */
void cake_softmax(float *x, size_t n);

/* Index of the largest element, the lowest among equals (-0 equals 0). NaN never wins; 0 if there
 * is nothing but NaN or n is 0. */
size_t cake_argmax(const float *x, size_t n);

/* Row conversions. To f16 and bf16: round to nearest, ties to even, subnormals kept, overflow to
 * infinity, NaN stays a quiet NaN. The reverse is exact. */
void cake_f32_to_f16(uint16_t *y, const float *x, size_t n);
void cake_f16_to_f32(float *y, const uint16_t *x, size_t n);
void cake_f32_to_bf16(uint16_t *y, const float *x, size_t n);
void cake_bf16_to_f32(float *y, const uint16_t *x, size_t n);

/* One table per ISA, for tests and benchmarks that compare them in one process. */
typedef struct {
    void (*rmsnorm)(float *y, const float *x, const float *w, size_t n, float eps);
    void (*add)(float *y, const float *a, const float *b, size_t n);
    void (*axpy)(float *y, float a, const float *x, size_t n);
    void (*scale)(float *y, float a, const float *x, size_t n);
    void (*swiglu)(float *y, const float *gate, const float *up, size_t n);
    void (*geglu)(float *y, const float *gate, const float *up, size_t n);
    void (*sigmoid_mul)(float *y, const float *gate, const float *x, size_t n);
    void (*silu)(float *y, const float *x, size_t n);
    void (*softcap)(float *y, const float *x, size_t n, float cap);
    float (*dot)(const float *a, const float *b, size_t n);
    float (*max)(const float *x, size_t n);
    float (*max_blocks)(float *block, const float *x, size_t n, int *finite);
    double (*exp_sum)(float *y, const float *x, size_t n, float max, float t);
    void (*softmax)(float *x, size_t n);
    size_t (*argmax)(const float *x, size_t n);
    void (*exp)(float *y, const float *x, size_t n);      /* cake_expf on each element */
    void (*exp2_neg)(float *y, const float *x, size_t n); /* cake_exp2_negf on each element */
    void (*f32_to_f16)(uint16_t *y, const float *x, size_t n);
    void (*f16_to_f32)(float *y, const uint16_t *x, size_t n);
    void (*f32_to_bf16)(uint16_t *y, const float *x, size_t n);
    void (*bf16_to_f32)(float *y, const uint16_t *x, size_t n);
    void (*rope)(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t rot_dims, const float *cos,
                 const float *sin);
} cake_vec_kern;

/* The table of an ISA this build has, or NULL. Calling it on a CPU without that ISA crashes: ask
 * cake_cpu_has() first. */
const cake_vec_kern *cake_vec_for(cake_isa isa);

#endif
