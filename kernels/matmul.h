/* Packed weights and the matrix products over them.
 *
 * A weight matrix of n rows (output features) and k columns (input features) is packed once,
 * exactly, into tiles of 16 rows. Inside a tile the rows are interleaved so that one SIMD lane owns
 * one row: matrix-vector and matrix-matrix then do the same additions in the same order, and 16
 * lanes, 2x8 or 4x4 give the same bits. No result depends on the ISA, on how many tokens are
 * multiplied together, on which tiles are computed by which call, or on anything but the weights
 * and that token's activations. (NaN results are NaN everywhere, but their sign and payload are the
 * CPU's own.)
 *
 * Packed layout, tile after tile, every part 64-byte aligned:
 *   dense    [k][16 rows] elements of ftype, the tile padded to 64 bytes
 *   affine   per group: group/32 blocks of codes, then 16 scales, then 16 biases (ftype)
 *   A block of codes is 32 columns x 16 rows in `bits` vectors of 64 bytes. Let c[j], j = 0..7, be
 *   the 64-byte vector whose byte 4*row + t is the code of column 4*j + t. Then
 *     8 bits   v[j] = c[j]
 *     4 bits   v[i] = c[i] | c[i+4] << 4                                   i = 0..3
 *     2 bits   v[i] = c[i] | c[i+2] << 2 | c[i+4] << 4 | c[i+6] << 6       i = 0..1
 *     3 bits   v[i] = c[i] | c[i+3] << 3 | e[i] << 6                       i = 0..2
 *              e = c[6] & 3, c[7] & 3, c[6] >> 2 | (c[7] >> 2) << 1
 *     5 bits   v[i] = c[i] | e[i] << 5                                     i = 0..4
 *              e = c[5] & 7, c[6] & 7, c[7] & 7, c[5] >> 3 | (c[7] >> 3 & 1) << 2,
 *                  c[6] >> 3 | (c[7] >> 4) << 2
 *     6 bits   v[i] = c[i] | e[i] << 6                                     i = 0..5
 *              e = c[6] & 3, c[6] >> 2 & 3, c[6] >> 4, c[7] & 3, c[7] >> 2 & 3, c[7] >> 4
 *   Whole codes where they fit and the last ones in the bits left over: the fewest steps to
 *   expand, and packed size = stored size when n % 16 == 0.
 *   q4_1 and q5_1 are affine once packed: 4 and 5 bits, group 32, f16, s = d, b = m.
 *   Other block and fp formats are packed in units of U blocks (the last one may have fewer): a
 *   head, then the blocks of codes as above. Of each row the head has
 *                        bits  U  head  (in [blocks][16 rows] where nothing else is said)
 *     q4_0 q5_0          4 5   2    64  d (f16)
 *     q8_0               8     2    64  d (f16); code = q ^ 0x80
 *     mxfp4, mxfp8       4 8   4    64  scale byte (E8M0)
 *     nvfp4              4     2    64  scale bytes (E4M3), [2 * blocks][16 rows]
 *     q2_k               2     8   320  u32[4][16]: scale and min of every 16 columns, a byte each
 *                                       as stored; then u32[16]: d | dmin << 16
 *     q3_k               3     8   256  u32[4][16]: scales of six bits, and d
 *     q4_k q5_k          4 5   8   256  u32[2][16]: scales of six bits, u32[2][16]: mins, and d,
 *                                       dmin
 *     q6_k               6     8   320  u32[4][16]: scales (s8); then d (f16)[16], 32 bytes unused
 *   Byte t of word i is the value of block 4i + t, where every block has one (q4_k, q5_k); else
 *   bytes 0 and 2 are those of the halves of block 2i, bytes 1 and 3 of block 2i + 1. Six-bit
 *   values leave the two top bits of each byte to d | dmin << 16: bits 7 - 2i and
 *   6 - 2i of each of its bytes lie in word i. GGUF's nvfp4 scales and minus zeros become what they
 *   mean there. Packed size <= 1.04 * stored size, but for rows of a few hundred columns.
 *
 * Arithmetic of one output y = sum over k of w*x (all f32; fma = fused, one rounding):
 *   Activations are quantized per block h of 32 columns: a = max|x|; scale[h] = a / 127;
 *     q = round_half_even(x * (127 / a)); sum32[h] = scale[h] * (float)(sum of q);
 *     sum64[u] = sum32[2u] + sum32[2u+1]. A block with a < 2^-100 has scale 0 and q 0; one with
 *     an infinity or a NaN has scale NaN and q 0.
 *   affine, per unit of min(group, 64) columns, ascending, s and b of the unit's group:
 *     d[h] = exact integer sum of code * q over the block
 *     f = scale[h0] * (float)d[h0], and in a unit of two: f = fma(scale[h1], (float)d[h1], f)
 *     acc = fma(s, f, acc);  acc = fma(b, sum32 or sum64 of the unit, acc)
 *   block and fp, per block h, ascending; D0, D1 = exact integer sums of c * q over the first and
 *   the last 16 columns; c = code less 8 (q4_0), 16 (q5_0), 128 (q8_0), 4 (q3_k), 32 (q6_k), twice
 *   the E2M1 value (mxfp4, nvfp4), 512 times the E4M3 value (mxfp8), else the code; S0, S1 = sums
 *   of q:
 *     q4_0 q5_0 q8_0    acc = fma(d, scale[h] * (float)(D0 + D1), acc)
 *     mxfp4, mxfp8      the same with d = the scale / 2, / 512
 *     nvfp4             s0, s1 = half the scales; f = s0 * (float)D0; f = fma(s1, (float)D1, f);
 *                       acc = fma(scale[h], f, acc)
 *     the K formats     f = fma(scale[h], (float)(sc0*D0 + sc1*D1), f), from 0 in each unit;
 *       q2_k            g = fma(scale[h], (float)-(mn0*S0 + mn1*S1), g)
 *       q4_k q5_k       g = fma(sum32[h], (float)-mn, g)
 *       after block 7   acc = fma(d, f, acc); where there are mins acc = fma(dmin, g, acc)
 *     Every integer is below 2^24, hence exact as f32 too; only those of mxfp8, which are below
 *     2^30, are rounded to f32, half to even.
 *   dense, and affine, block and fp in f32 mode:
 *     activations stay f32; w is what codec.h decodes (affine: s*q + b, product rounded, then sum
 *     rounded); part[k % 4] = fma(w[k], x[k], part[k % 4]) for ascending k;
 *     y = (part[0] + part[1]) + (part[2] + part[3])
 *
 * Threads: everything here is re-entrant; callers split work by tiles or tokens. Nothing allocates,
 * blocks or fails; sizes are checked once by cake_wspec_valid(). */
#ifndef CAKE_KERNELS_MATMUL_H
#define CAKE_KERNELS_MATMUL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/codec.h"
#include "kernels/cpu.h"
#include "kernels/types.h"

#define CAKE_TILE_ROWS 16u
#define CAKE_W_MAX_N   (1u << 24) /* rows and columns above this are refused */
#define CAKE_W_MAX_K   (1u << 20)

/* AFFINE: w = s*q + b, MLX layout (formats.md 2): code stream LSB first, bits 2,3,4,5,6,8,
 * group 32,64,128, k % group == 0, s and b of one type and any sign.
 * BLOCK: rows of the blocks of a codec (codec.h); k is a whole number of them.
 * FP: MLX mxfp4, mxfp8, nvfp4 (codec.h): a code stream and a scale byte per group of k. */
typedef enum { CAKE_W_DENSE, CAKE_W_AFFINE, CAKE_W_BLOCK, CAKE_W_FP } cake_wkind;

typedef struct {
    cake_wkind kind;
    cake_ftype ftype;     /* dense: element type; affine: type of scales and biases; else 0 */
    uint32_t bits, group; /* affine; 0 for the rest */
    uint32_t n, k;        /* output features (rows), input features (columns) */
    cake_codec codec;     /* block; 0 for the rest */
    cake_fp_mode fp;      /* fp; 0 for the rest */
} cake_wspec;

/* Known kind, types, bits and group; 1 <= n, k within the caps; k a multiple of the group.
 * Every other function here requires a valid spec. */
bool cake_wspec_valid(const cake_wspec *s);

/* Bytes of one row as stored: codes (dense elements, blocks), and each of scales and biases (0 for
 * dense and block; fp has no biases). */
size_t cake_stored_row_bytes(const cake_wspec *s);
size_t cake_stored_scale_row_bytes(const cake_wspec *s);

/* Number of 16-row tiles; packed bytes of one tile and of the whole matrix (multiples of 64). */
uint32_t cake_tiles(const cake_wspec *s);
size_t cake_packed_tile_bytes(const cake_wspec *s);
size_t cake_packed_bytes(const cake_wspec *s);

/* The stored bytes, row-major, ANY alignment, borrowed; scales NULL for dense and block, biases for
 * all but affine. */
typedef struct {
    const void *weight, *scales, *biases;
} cake_wstored;

/* Pack tiles [tile_begin, tile_end) of the matrix at `src` (first byte of row 0) into `packed`
 * (first byte of tile 0, 64-byte aligned). Exact for arbitrary bytes; rows past n of the last tile
 * become zero. Writes only those tiles, so that ranges can be packed in parallel. */
void cake_pack_tiles(const cake_wspec *s, const cake_wstored *src, void *packed,
                     uint32_t tile_begin, uint32_t tile_end);

/* The same with the instructions of one ISA that this CPU has, for tests and benchmarks. */
void cake_pack_tiles_for(cake_isa isa, const cake_wspec *s, const cake_wstored *src, void *packed,
                         uint32_t tile_begin, uint32_t tile_end);

/* A packed matrix; `packed` is borrowed and 64-byte aligned (2 MiB pages read fastest). Experts of
 * a stack [E, n, k] are packed one by one, cake_packed_bytes() apart. */
typedef struct {
    cake_wspec spec;
    const void *packed;
} cake_mat;

/* Activations of n_tok rows of k values, prepared once and used by several matmuls.
 * Row t is x[t*ldx .. t*ldx + k), f32, borrowed. The rest points into the caller's scratch and is
 * written by cake_act_quantize(). */
typedef struct {
    const float *x;
    size_t ldx;
    uint32_t k, n_tok;
    int8_t *q;      /* [ceil(k/64)][n_tok][64] */
    float *scale;   /* [ceil(k/32)][n_tok] */
    float *sum32;   /* [ceil(k/32)][n_tok] */
    float *sum64;   /* [ceil(k/64)][n_tok] */
    int32_t *neg16; /* [ceil(k/32)][n_tok][2]: minus the sums of q over 16 columns */
} cake_act;

/* Scratch bytes (a multiple of 64; grows with both arguments) for the quantized parts. */
size_t cake_act_bytes(uint32_t k, uint32_t n_tok);

/* scratch: 64-byte aligned, cake_act_bytes(k, n_tok); NULL when only dense matrices or f32 mode
 * follow. */
void cake_act_init(cake_act *a, void *scratch, const float *x, size_t ldx, uint32_t k,
                   uint32_t n_tok);

/* Quantize tokens [tok_begin, tok_end). All tokens must be done before an int8 matmul uses them;
 * not needed for dense weights or f32 mode. */
void cake_act_quantize(cake_act *a, uint32_t tok_begin, uint32_t tok_end);

/* Per-thread scratch of cake_matmul(): a constant, 64-byte aligned by the caller. */
size_t cake_matmul_scratch_bytes(void);

/* y[tok*ldy + row] = sum over k of w[row][k] * x[tok][k], for all tokens of `a` (n_tok may be 0)
 * and the rows of tiles [tile_begin, tile_end). w        w->spec.k == a->k f32_mode dequantize and
 * multiply in f32 (accurate mode); dense weights always do y        out f32, ldy >= n; only rows <
 * n of the asked tiles are written; must not overlap x or w One tile costs 16*k*n_tok
 * multiplications: hand a thread at least a few tiles at a time. */
void cake_matmul(const cake_mat *w, const cake_act *a, bool f32_mode, float *y, size_t ldy,
                 uint32_t tile_begin, uint32_t tile_end, void *scratch);

/* Decode row `row` to f32 [k] exactly as f32 mode sees it (embedding lookup). */
void cake_mat_row(const cake_mat *w, uint32_t row, float *out);

/* The same three functions of one ISA, for tests and benchmarks: NULL where this CPU or build has
 * none. */
typedef struct {
    void (*act_quantize)(cake_act *a, uint32_t tok_begin, uint32_t tok_end);
    void (*matmul)(const cake_mat *w, const cake_act *a, bool f32_mode, float *y, size_t ldy,
                   uint32_t tile_begin, uint32_t tile_end, void *scratch);
} cake_matmul_ops;
const cake_matmul_ops *cake_matmul_for(cake_isa isa);

#endif
