/* Private to the matmul family: packed block and fp formats in code, one table row each. Compiled
 * under several ISA flags, so the functions are static inline. Layout and arithmetic: matmul.h. */
#ifndef CAKE_KERNELS_MATMUL_BLOCK_H
#define CAKE_KERNELS_MATMUL_BLOCK_H

#include "kernels/matmul_impl.h"

/* GGUF's blocks of the names mxfp4 and nvfp4 differ from MLX's tensors only in the meaning of one
 * scale byte and in the sign of zero. */
typedef enum {
    CAKE_PK_Q4_0,
    CAKE_PK_Q5_0,
    CAKE_PK_Q8_0,
    CAKE_PK_MXFP4,      /* scale byte 255 is infinite (MLX) */
    CAKE_PK_MXFP4_GGUF, /* scale byte 255 is 2^128 */
    CAKE_PK_NVFP4,
    CAKE_PK_MXFP8,
    CAKE_PK_Q2_K,
    CAKE_PK_Q3_K,
    CAKE_PK_Q4_K,
    CAKE_PK_Q5_K,
    CAKE_PK_Q6_K,
    CAKE_PK_COUNT
} cake_packing;

/* X for each of them but MXFP8, whose integers are too wide for one byte: matmul_fp8_<isa>.c. */
#define CAKE_INT_PACKINGS(X)                                                                       \
    X(Q4_0) X(Q5_0) X(Q8_0) X(MXFP4) X(MXFP4_GGUF) X(NVFP4) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K)

/* bits of a code; what is subtracted from it (of mxfp4 and nvfp4: from its table); blocks of 32
 * columns in a unit; bytes of the unit's head. */
typedef struct {
    uint8_t bits, zero, unit;
    uint16_t head;
} cake_packing_info;

static inline __attribute__((always_inline)) cake_packing_info cake_packing_get(cake_packing p) {
    switch (p) {
    case CAKE_PK_Q4_0: return (cake_packing_info){4, 8, 2, 64};
    case CAKE_PK_Q5_0: return (cake_packing_info){5, 16, 2, 64};
    case CAKE_PK_Q8_0: return (cake_packing_info){8, 128, 2, 64};
    case CAKE_PK_MXFP4:
    case CAKE_PK_MXFP4_GGUF: return (cake_packing_info){4, 16, 4, 64};
    case CAKE_PK_NVFP4: return (cake_packing_info){4, 16, 2, 64};
    case CAKE_PK_MXFP8: return (cake_packing_info){8, 0, 4, 64};
    case CAKE_PK_Q2_K: return (cake_packing_info){2, 0, 8, 320};
    case CAKE_PK_Q3_K: return (cake_packing_info){3, 4, 8, 256};
    case CAKE_PK_Q4_K: return (cake_packing_info){4, 0, 8, 256};
    case CAKE_PK_Q5_K: return (cake_packing_info){5, 0, 8, 256};
    default: return (cake_packing_info){6, 32, 8, 320};
    }
}

/* What the formats have in common, as constants after inlining. */
static inline __attribute__((always_inline)) bool cake_pk_super(cake_packing p) {
    return p >= CAKE_PK_Q2_K;
}
static inline __attribute__((always_inline)) bool cake_pk_mins(cake_packing p) {
    return p == CAKE_PK_Q2_K || p == CAKE_PK_Q4_K || p == CAKE_PK_Q5_K;
}
/* One scale for all 32 columns? */
static inline __attribute__((always_inline)) bool cake_pk_whole(cake_packing p) {
    return p < CAKE_PK_NVFP4 || p == CAKE_PK_Q4_K || p == CAKE_PK_Q5_K;
}
static inline __attribute__((always_inline)) bool cake_pk_e2m1(cake_packing p) {
    return p == CAKE_PK_MXFP4 || p == CAKE_PK_MXFP4_GGUF || p == CAKE_PK_NVFP4;
}
/* log2 of the code that stands for zero; 0 where code 0 does. */
static inline __attribute__((always_inline)) unsigned cake_pk_zero_shift(cake_packing p) {
    return (unsigned)__builtin_ctz(cake_packing_get(p).zero | 1u << 16) & 15;
}

/* Of a block or fp spec that cake_as_affine() has left alone. */
static inline cake_packing cake_packing_of(const cake_wspec *s) {
    if (s->kind == CAKE_W_FP)
        return s->fp == CAKE_FP_MXFP4   ? CAKE_PK_MXFP4
               : s->fp == CAKE_FP_MXFP8 ? CAKE_PK_MXFP8
                                        : CAKE_PK_NVFP4;
    switch (s->codec) {
    case CAKE_CODEC_Q4_0: return CAKE_PK_Q4_0;
    case CAKE_CODEC_Q5_0: return CAKE_PK_Q5_0;
    case CAKE_CODEC_Q8_0: return CAKE_PK_Q8_0;
    case CAKE_CODEC_MXFP4: return CAKE_PK_MXFP4_GGUF;
    case CAKE_CODEC_NVFP4: return CAKE_PK_NVFP4;
    case CAKE_CODEC_Q2_K: return CAKE_PK_Q2_K;
    case CAKE_CODEC_Q3_K: return CAKE_PK_Q3_K;
    case CAKE_CODEC_Q4_K: return CAKE_PK_Q4_K;
    case CAKE_CODEC_Q5_K: return CAKE_PK_Q5_K;
    default: return CAKE_PK_Q6_K;
    }
}

/* What its kernels see: q4_1 and q5_1 are affine once packed, everything else is itself. */
static inline cake_wspec cake_as_affine(const cake_wspec *s) {
    cake_wspec v = *s;
    if (s->kind == CAKE_W_BLOCK && (s->codec == CAKE_CODEC_Q4_1 || s->codec == CAKE_CODEC_Q5_1)) {
        v.kind = CAKE_W_AFFINE, v.ftype = CAKE_F16, v.group = 32;
        v.bits = s->codec == CAKE_CODEC_Q4_1 ? 4 : 5;
    }
    return v;
}

static inline size_t cake_packing_tile_bytes(const cake_wspec *s) {
    const cake_packing_info f = cake_packing_get(cake_packing_of(s));
    const size_t blocks = ((size_t)s->k + 31) / 32;
    return (blocks + f.unit - 1) / f.unit * f.head + blocks * f.bits * 64;
}

/* Twice the E2M1 values, and 16 more: never negative. */
#define CAKE_E2M1_TABLE 16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4

/* The value of an E8M0 scale byte; 255 is infinite. */
static inline float cake_e8m0(uint32_t e) {
    return cake_bits_f32(e == 0 ? 0x00400000u : e << 23);
}

/* Half the value of an E8M0 scale byte. */
static inline float cake_half_e8m0(uint32_t e, bool infinite) {
    if (infinite && e == 255) return cake_bits_f32(0x7f800000);
    return cake_bits_f32(e < 2 ? 0x00200000u << e : (e - 1) << 23);
}

/* E4M3 times `unit`, a power of two: 2^8 gives its value. As f16 its bits mean 2^-8 of it. */
static inline float cake_e4m3_times(uint32_t e, float unit) {
    return cake_f16_f32((uint16_t)((e & 0x80) << 8 | (e & 0x7f) << 7)) * unit;
}

/* 512 times the value of an E4M3 code but for its sign: m << s, s = 0..14, m below 16, and not
 * below 8 where s is not 0. At most 15 << 14. */
#define CAKE_E4M3_512(code)                                                                        \
    ((((code) < 8 ? 0 : 8) + (code) % 8) << ((code) < 16 ? 0 : (code) / 8 - 1))

/* The head of a unit of the K formats, of one row. */
typedef struct {
    float d, dmin;
    int sc[16], mn[16]; /* of each 16 columns */
} cake_super;

static inline uint32_t cake_head_word(const uint8_t *head, uint32_t i, uint32_t row) {
    uint32_t w;
    memcpy(&w, head + i * 64 + row * 4, 4);
    return w;
}

static inline cake_super cake_super_get(cake_packing p, const uint8_t *head, uint32_t row) {
    cake_super s;
    uint32_t v[5], d = 0;
    for (uint32_t i = 0; i < 4; i++) v[i] = cake_head_word(head, i, row);
    for (uint32_t j = 0; j < 16; j++) {
        if (p == CAKE_PK_Q4_K || p == CAKE_PK_Q5_K) {
            s.sc[j] = v[j / 8] >> 8 * (j / 2 % 4) & 63;
            s.mn[j] = v[2 + j / 8] >> 8 * (j / 2 % 4) & 63;
            continue;
        }
        uint32_t byte = v[j / 4] >> 8 * (j / 2 % 2 + j % 2 * 2) & 255;
        s.mn[j] = 0;
        switch (p) {
        case CAKE_PK_Q2_K: s.sc[j] = byte & 15, s.mn[j] = byte >> 4; break;
        case CAKE_PK_Q3_K: s.sc[j] = (int)(byte & 63) - 32; break;
        default: s.sc[j] = (int8_t)byte; break;
        }
    }
    if (p == CAKE_PK_Q6_K) {
        s.d = cake_load_ftype(head + 256, row, CAKE_F16);
        s.dmin = 0;
        return s;
    }
    if (p == CAKE_PK_Q2_K)
        d = cake_head_word(head, 4, row);
    else
        for (uint32_t i = 0; i < 4; i++) d |= (v[i] & 0xc0c0c0c0) >> 2 * i;
    s.d = cake_f16_f32((uint16_t)d);
    s.dmin = cake_f16_f32((uint16_t)(d >> 16));
    return s;
}

/* Weights of columns [32 h, 32 h + 32) of one row of a tile, as codec.h decodes them. */
void cake_block_weights(const cake_wspec *s, const uint8_t *tile, uint32_t h, uint32_t row,
                        float w[32]);

/* The same of `blocks` blocks from h0 on and all rows: out [column][16]. */
typedef void cake_block_expander(const cake_wspec *s, const uint8_t *tile, uint32_t h0,
                                 uint32_t blocks, float *out);
cake_block_expander cake_block_expand, cake_block_expand_avx2, cake_block_expand_avx512;

/* Tokens [tok0, tok0 + n) of one tile into acc [n][16]. panel: CAKE_MM_K_CHUNK * 16 floats. */
typedef void cake_block_tile(const cake_wspec *s, const uint8_t *tile, const cake_act *a,
                             uint32_t tok0, uint32_t n, float *acc, float *panel);
cake_block_tile cake_block_tile_scalar;
#if defined(__x86_64__)
cake_block_tile cake_fp8_tile_avx2, cake_fp8_tile_avx512vbmi;
/* By packing. */
extern cake_block_tile *const cake_block_tiles_avx2[CAKE_PK_COUNT];
extern cake_block_tile *const cake_block_tiles_avx512[CAKE_PK_COUNT];
#elif defined(__aarch64__)
cake_block_tile cake_fp8_tile_neon;
extern cake_block_tile *const cake_block_tiles_neon[CAKE_PK_COUNT];
#endif

/* Import of one tile, of `rows` rows from row0 on; the other lanes become zero. All but the scalar
 * one want 16 rows. */
typedef void cake_pack_tile(const cake_wspec *s, const cake_wstored *src, uint8_t *out,
                            uint32_t row0, uint32_t rows);
cake_pack_tile cake_pack_tile_scalar, cake_pack_tile_avx2, cake_pack_tile_avx512,
    cake_pack_tile_neon;

#endif
