/* Rotary position embedding (formats.md 7.1): inverse frequencies per checkpoint, angles per row,
 * the rotation per head.
 *
 * Everything up to the f32 cos and sin runs in double through kernels/math.h, so that every machine
 * builds the same tables and long positions lose nothing. Threads: re-entrant. Allocates: no. */
#ifndef CAKE_KERNELS_ROPE_H
#define CAKE_KERNELS_ROPE_H

#include <stdbool.h>
#include <stdint.h>

enum { CAKE_ROPE_MAX_DIMS = 256 };

/* dynamic and longrope are named so that a config layer can refuse them by name. */
typedef enum {
    CAKE_ROPE_DEFAULT,
    CAKE_ROPE_LINEAR,
    CAKE_ROPE_LLAMA3,
    CAKE_ROPE_YARN,
    CAKE_ROPE_DYNAMIC,
    CAKE_ROPE_LONGROPE,
} cake_rope_type;

/* The fields of rope_scaling / rope_parameters. Zero stands for the default of formats.md 7.1 in
 * every field but dims and base. */
typedef struct {
    cake_rope_type type;
    uint32_t dims;               /* rotated elements of a head: even, 2..CAKE_ROPE_MAX_DIMS */
    double base;                 /* rope_theta, > 1 */
    double factor;               /* linear, llama3, yarn (1) */
    double low_freq, high_freq;  /* llama3 low_freq_factor (1), high_freq_factor (4) */
    double orig_max_pos;         /* original_max_position_embeddings: llama3 (8192), yarn (4096) */
    double beta_fast, beta_slow; /* yarn (32, 1) */
    double mscale, mscale_all_dim; /* yarn (1, 0) */
    double attention_factor; /* yarn: given explicitly, replaces the mscale formula (0: not) */
} cake_rope_spec;

typedef struct {
    uint32_t n_freq;                         /* dims / 2 */
    double mscale;                           /* multiplies cos and sin; 1 but for yarn */
    double inv_freq[CAKE_ROPE_MAX_DIMS / 2]; /* [n_freq] radians per position */
} cake_rope;

/* Compute the inverse frequencies. False, with r untouched, for dynamic, longrope, an unknown type,
 * and numbers outside the ranges above (a frequency that is not finite and positive included). */
bool cake_rope_init(cake_rope *r, const cake_rope_spec *spec);

/* cos[i] = mscale * cos(pos * inv_freq[i]), sin likewise, i < n_freq. Once per row of a batch; all
 * layers share it. Positions up to 2^32 - 1. */
void cake_rope_angles(const cake_rope *r, uint32_t pos, float *cos, float *sin);

/* Rotate n_heads heads of one row in place, half-split ("NEOX") form: with h = rot_dims / 2,
 *   x[i] = x[i] cos[i] - x[i+h] sin[i],  x[i+h] = x[i+h] cos[i] + x[i] sin[i]
 * each as fma(first, -+(rounded second)). Elements >= rot_dims pass through.
 *   x         [n_heads, head_dim], any alignment
 *   cos, sin  [rot_dims / 2]
 * Same bits with every ISA. */
void cake_rope_apply(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t rot_dims,
                     const float *cos, const float *sin);

/* The same rotation on adjacent pairs (x[2i], x[2i+1]): rope_traditional, GGUF's "NORM". */
void cake_rope_apply_adjacent(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t rot_dims,
                              const float *cos, const float *sin);

#endif
