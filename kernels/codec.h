/* Quantized formats as they are stored: exact decoding to f32 and encoding from f32, row by row.
 *
 * Three groups (formats.md 2-4 and 6.4 give the layouts byte by byte):
 *   block codecs  the ten of ggml and mlx-kquant, and the MXFP4 and NVFP4 blocks of GGUF (those two
 *                 are decoded only): scales lie inside the blocks
 *   affine        MLX: a stream of codes, and scales and biases of their own
 *   fp            MLX mxfp4, mxfp8, nvfp4: a stream of codes, and one scale byte per group
 *
 * Scalar reference code: every sum is f32 in index order, every operation rounds once, nothing is
 * fused. So the bytes and floats are those of the references named below on every machine. NaN and
 * infinite inputs give some bytes, never a crash; arbitrary bytes decode to some floats.
 *
 * Pointers to stored bytes may have any alignment. k is a whole number of blocks or groups; what is
 * beyond the last whole one is ignored. Threads: re-entrant. Allocates: no. Blocks: no. */
#ifndef CAKE_KERNELS_CODEC_H
#define CAKE_KERNELS_CODEC_H

#include "kernels/types.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    CAKE_CODEC_Q4_0,
    CAKE_CODEC_Q4_1,
    CAKE_CODEC_Q5_0,
    CAKE_CODEC_Q5_1,
    CAKE_CODEC_Q8_0,
    CAKE_CODEC_Q2_K,
    CAKE_CODEC_Q3_K,
    CAKE_CODEC_Q4_K,
    CAKE_CODEC_Q5_K,
    CAKE_CODEC_Q6_K,
    CAKE_CODEC_MXFP4, /* GGUF blocks, not the MLX tensors of the same name */
    CAKE_CODEC_NVFP4,
    CAKE_CODEC_COUNT
} cake_codec;

typedef struct {
    const char *name;         /* as files write it: "q4_k" */
    uint32_t weights, bytes;  /* of one block */
    uint32_t ggml_type;       /* type id in GGUF */
    bool encodes, importance; /* can be encoded; some flavour looks at the importance */
} cake_codec_info;

/* NULL for a value outside the enumeration. */
const cake_codec_info *cake_codec_get(cake_codec codec);

/* "?" for a value outside the enumeration. */
const char *cake_codec_name(cake_codec codec);

/* False, leaving *out alone, when the name or id is none of the above. */
bool cake_codec_parse(const char *name, cake_codec *out);
bool cake_codec_from_ggml(uint32_t type, cake_codec *out);

/* Stored bytes of a row of k weights; 0 when k is not a whole number of blocks. */
size_t cake_codec_row_bytes(cake_codec codec, size_t k);

/* out [k] = the weights of the blocks. */
void cake_codec_decode_row(cake_codec codec, const void *blocks, float *out, size_t k);

/* Which encoder's bytes to give (formats.md 4.4). Both decode alike. */
typedef enum {
    CAKE_ENCODE_GGML, /* llama.cpp @ d99724f; another algorithm with importance than without */
    CAKE_ENCODE_KQ    /* mlx-kquant 0.1.0, CPU; 32-weight codecs ignore the importance */
} cake_encode_flavour;

/* out = the blocks of x [k]; importance [k] weighs the columns' squared errors, or NULL. A row is
 * encoded as one: with importance, 32-weight codecs look at the mean square of all k. False, with
 * nothing written, for a codec that cannot be encoded. */
bool cake_codec_encode_row(cake_codec codec, cake_encode_flavour flavour, const float *x,
                           const float *importance, void *out, size_t k);

/* MLX affine: w = scale * code + bias, product and sum each rounded to f32. bits 2,3,4,5,6,8; group
 * 32,64,128; codes k*bits/8 bytes, scales and biases k/group elements of `type`. */
bool cake_affine_valid(uint32_t bits, uint32_t group);
void cake_affine_decode(uint32_t bits, uint32_t group, cake_ftype type, const void *codes,
                        const void *scales, const void *biases, float *out, size_t k);

/* The choice of MLX's CPU code (formats.md 2.4). x holds the weights, widened to f32; `type` is
 * what they were, hence the type of the scales and biases written. */
void cake_affine_encode(uint32_t bits, uint32_t group, cake_ftype type, const float *x, void *codes,
                        void *scales, void *biases, size_t k);

typedef enum { CAKE_FP_MXFP4, CAKE_FP_MXFP8, CAKE_FP_NVFP4, CAKE_FP_COUNT } cake_fp_mode;

typedef struct {
    const char *name;
    uint32_t bits, group; /* of a code; weights per scale byte */
} cake_fp_info;

/* NULL for a value outside the enumeration; false when the name is none of "mxfp4", "mxfp8",
 * "nvfp4". */
const cake_fp_info *cake_fp_get(cake_fp_mode mode);
bool cake_fp_parse(const char *name, cake_fp_mode *out);

/* codes k*bits/8 bytes, scales k/group bytes. An E8M0 scale of 255 is infinite, as in MLX. */
void cake_fp_decode(cake_fp_mode mode, const void *codes, const void *scales, float *out, size_t k);

/* MLX's rule (formats.md 3.5), as of its change 4353: an E8M0 scale is the smallest power of two
 * under which nothing saturates (up to MLX 0.31 it was the nearest in the logarithm, and elements
 * could saturate). E2M1 ties go to the even code, zeros keep their sign, an all-zero group gets
 * scale byte 0: in these three MLX's GPU code, followed here, and its CPU code differ. */
void cake_fp_encode(cake_fp_mode mode, const float *x, void *codes, void *scales, size_t k);

#endif
