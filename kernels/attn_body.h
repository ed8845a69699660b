/* Attention (attn.h) over the 16 lanes of vec_lanes.h; compiled once per ISA, each time into a
 * table named by the including file.
 *
 * Work is done on tiles: a few query rows (all heads of the group times consecutive positions)
 * against one block. In the products q.K a lane owns a key and adds over d; in p.V a lane owns a d
 * and adds over keys. So a tile's shape changes how often K and V are loaded, never the order of a
 * sum, and each ISA picks shapes that fit its registers. */
#include "kernels/attn.h"
#include "kernels/vec_lanes.h"

#include <math.h>

/* ROWS: the most query rows of a tile. QK_W(R, F): key groups of 16 and PV_W(R, F): groups of 16 d
 * that stay in registers with R rows of form F. */
#if defined(CAKE_LANES_AVX512)
enum { ROWS = 8 };
#define QK_W(R, F) ((R) == 8 || ((R) > 5 && (F) == FORM_Q8) ? 2 : 4)
#define PV_W(R, F) ((R) == 1 ? 8 : QK_W(R, F))
#elif defined(CAKE_LANES_AVX2)
enum { ROWS = 6 };
#define QK_W(R, F) ((R) == 1 ? 4 : (R) == 2 ? 2 : 1)
#define PV_W(R, F) QK_W(R, F)
#elif defined(CAKE_LANES_NEON)
enum { ROWS = 6 };
#define QK_W(R, F) ((R) <= 2 ? 2 : 1)
#define PV_W(R, F) QK_W(R, F)
#else
enum { ROWS = 3 };
#define QK_W(R, F) 1
#define PV_W(R, F) 1
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

enum { BLOCK = CAKE_KV_BLOCK, GROUPS = BLOCK / 16, Q8_CHUNK = 32, AHEAD = 4 };
#define F16_MAX 65504.0f

/* What a tile reads: f16 or q8 straight from the block, or f32, from the block or widened. */
typedef enum { FORM_F16, FORM_Q8, FORM_F32 } form;

typedef struct {
    const cake_attn_spec *s;
    size_t d, dp;   /* head_dim, and rounded up to 16 */
    uint32_t group; /* query heads per kv head */
    form form;
    const void *k, *v;                        /* of the current block and kv head */
    ptrdiff_t k_ahead[AHEAD], v_ahead[AHEAD]; /* from there to what is prefetched */
    size_t k_row, k_group; /* FORM_F32: distance of keys at d + 1, and of keys 16 positions on */
    const uint16_t *ks;    /* FORM_Q8: scales [chunk of d][64] of the keys */
    const float *vs;       /* FORM_Q8: the same of the values, widened */
    int fresh;             /* ob counts as zeros */
    const float *q;        /* of the current kv head: [query rows][d], scaled */
    float *sc;             /* [ROWS][BLOCK] scores, then probabilities */
    float *ob;             /* [ROWS][dp] */
} attn_job;

LANES_FN size_t round16(size_t d) {
    return (d + 15) & ~(size_t)15;
}

LANES_FN size_t q8_chunks(size_t d) {
    return (d + Q8_CHUNK - 1) / Q8_CHUNK;
}

/* A block's parts of n rows of one kv head in the caller's `partials`: o[n][dp], m[n], l[n], the
 * last two padded. */
LANES_FN size_t part_floats(size_t n, size_t dp) {
    return n * dp + 2 * round16(n);
}

/* ---- storing ---- */

static void store_f32(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                      const float *v) {
    size_t d = s->head_dim, dp = round16(d);
    for (uint32_t h = 0; h < s->n_kv_heads; h++, k += d, v += d) {
        float *bk = (float *)block + h * BLOCK * (d + dp), *pv = bk + BLOCK * d + slot * dp;
        for (size_t i = 0; i < d; i++) bk[i * BLOCK + slot] = k[i];
        memcpy(pv, v, d * sizeof *v);
        memset(pv + d, 0, (dp - d) * sizeof *v);
    }
}

static void store_f16(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                      const float *v) {
    size_t d = s->head_dim, dp = round16(d);
    v16 top = v_set1(F16_MAX), bottom = v_set1(-F16_MAX);
    for (uint32_t h = 0; h < s->n_kv_heads; h++, k += d, v += d) {
        uint16_t *bk = (uint16_t *)block + h * BLOCK * (d + dp), *pv = bk + BLOCK * d + slot * dp;
        for (size_t i = 0; i < d; i += 16) {
            uint16_t t[16];
            size_t n = d - i < 16 ? d - i : 16;
            /* min and max in this order let a NaN through */
            v_store_h(t, v_max(bottom, v_min(top, v_load_n(k + i, n))));
            for (size_t j = 0; j < n; j++) bk[(i + j) * BLOCK + slot] = t[j];
            v_store_h(pv + i, v_max(bottom, v_min(top, v_load_n(v + i, n))));
        }
    }
}

LANES_FN v16 load_upto16(const float *x, size_t n) {
    return n >= 16 ? v_load(x) : v_load_n(x, n);
}

LANES_FN v16 v_abs(v16 x) {
    return v_max(x, v_sub(v_zero(), x));
}

/* n <= 32 neighbours to 32 integers and their scale, which is returned. */
LANES_FN uint16_t q8_encode(int8_t *out, const float *x, size_t n) {
    v16 a = load_upto16(x, n), b = n > 16 ? load_upto16(x + 16, n - 16) : v_zero();
    uint16_t half = 0x7e00; /* NaN */
    v16 one = v_zero();
    if ((v_eq_mask(a, a) & v_eq_mask(b, b)) == 0xffff) {
        float s = v_hmax(v_max(v_abs(a), v_abs(b))) / 127.0f;
        half = f16_from_f32(s < F16_MAX ? s : F16_MAX);
        one = v_set1(f32_from_f16(half));
    }
    if ((half & 0x7fff) == 0 || half == 0x7e00) {
        memset(out, 0, Q8_CHUNK);
        return half;
    }
    v16 top = v_set1(127.0f), bottom = v_set1(-127.0f);
    v_store_i8(out, v_max(bottom, v_min(top, v_div(a, one))));
    v_store_i8(out + 16, v_max(bottom, v_min(top, v_div(b, one))));
    return half;
}

static void store_q8(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                     const float *v) {
    size_t d = s->head_dim, dp = round16(d), scales = q8_chunks(d) * BLOCK;
    uint8_t *at = block;
    for (uint32_t h = 0; h < s->n_kv_heads; h++, k += d, v += d) {
        uint16_t *ks = (uint16_t *)(void *)at;
        int8_t *bk = (int8_t *)(ks + scales);
        uint16_t *vs = (uint16_t *)(void *)(bk + BLOCK * d);
        int8_t *pv = (int8_t *)(vs + scales) + slot * dp;
        for (size_t i = 0; i < d; i += Q8_CHUNK) {
            int8_t t[Q8_CHUNK];
            size_t n = d - i < Q8_CHUNK ? d - i : Q8_CHUNK, c = i / Q8_CHUNK * BLOCK + slot;
            ks[c] = q8_encode(t, k + i, n);
            for (size_t j = 0; j < n; j++) bk[(i + j) * BLOCK + slot] = t[j];
            vs[c] = q8_encode(t, v + i, n);
            memcpy(pv + i, t, dp - i < Q8_CHUNK ? dp - i : Q8_CHUNK);
        }
        at = (uint8_t *)(pv - slot * dp + BLOCK * dp);
    }
}

static void k_kv_store(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                       const float *v) {
    switch (s->kv) {
    case CAKE_KV_F16: store_f16(s, block, slot, k, v); break;
    case CAKE_KV_F32: store_f32(s, block, slot, k, v); break;
    case CAKE_KV_Q8: store_q8(s, block, slot, k, v); break;
    }
}

/* ---- tiles ---- */

/* Decode waits for memory. With each line a tile reads, the line at the same place in the next head
 * (or the first head of the next block) is fetched, into the second-level cache: the first is no
 * larger than a head. The CPU drops a prefetch when its queue is full, and then the tile waits for
 * the line, so the lines on the way there are asked for again. */
LANES_FN void prefetch(const void *p, const ptrdiff_t *ahead, size_t bytes) {
    const char *at = p;
    for (size_t i = 0; i < bytes; i += 64)
        UNROLL for (int k = 0; k < AHEAD; k++) __builtin_prefetch(at + ahead[k] + i, 0, 2);
}

/* sc[r][16 g ..] = q[r] . K for W groups of 16 keys from group g0. */
LANES_FN void qk_tile(const int R, const int W, const form F, const attn_job *j, const float *q,
                      size_t g0) {
    v16 acc[ROWS][8], scale[8];
    size_t d = j->d, row = F == FORM_F32 ? j->k_row : BLOCK;
    size_t step = F == FORM_F32 ? j->k_group : 16, chunk = F == FORM_Q8 ? Q8_CHUNK : d;
    const float *kf = (const float *)j->k + g0 * step;
    const uint16_t *kh = (const uint16_t *)j->k + g0 * step, *ks = j->ks + g0 * 16;
    const int8_t *k8 = (const int8_t *)j->k + g0 * step;
    ptrdiff_t ahead[AHEAD];
    memcpy(ahead, j->k_ahead, sizeof ahead);
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int w = 0; w < W; w++) acc[r][w] = v_zero();
    }
    for (size_t i = 0; i < d;) {
        if (F == FORM_Q8) {
            UNROLL for (int w = 0; w < W; w++) scale[w] = v_load_h(ks + 16 * w);
            ks += BLOCK;
        }
        size_t end = d - i < chunk ? d : i + chunk;
        for (; i < end; i++) {
            v16 key[8];
            if (F == FORM_F16) prefetch(kh + i * row, ahead, W * 32);
            if (F == FORM_Q8) prefetch(k8 + i * row, ahead, W * 16);
            UNROLL for (int w = 0; w < W; w++) {
                size_t at = i * row + (size_t)w * step;
                key[w] = F == FORM_F32   ? v_load(kf + at)
                         : F == FORM_F16 ? v_load_h(kh + at)
                                         : v_mul(v_load_i8(k8 + at), scale[w]);
            }
            UNROLL for (int r = 0; r < R; r++) {
                UNROLL for (int w = 0; w < W; w++) acc[r][w] =
                    v_fma_at(q + (size_t)r * d + i, key[w], acc[r][w]);
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int w = 0; w < W; w++) {
            v_store(j->sc + r * BLOCK + 16 * (g0 + (size_t)w), acc[r][w]);
        }
    }
}

LANES_FN void qk_form(const int R, const form F, const attn_job *j, const float *q, size_t g,
                      size_t g_end) {
    for (; g + QK_W(R, F) <= g_end; g += QK_W(R, F)) qk_tile(R, QK_W(R, F), F, j, q, g);
    if (QK_W(R, F) > 1)
        for (; g < g_end; g++) qk_tile(R, 1, F, j, q, g);
}

LANES_FN void qk_groups(const int R, const attn_job *j, const float *q, size_t g, size_t g_end) {
    switch (j->form) {
    case FORM_F16: qk_form(R, FORM_F16, j, q, g, g_end); break;
    case FORM_Q8: qk_form(R, FORM_Q8, j, q, g, g_end); break;
    case FORM_F32: qk_form(R, FORM_F32, j, q, g, g_end); break;
    }
}

/* ob[r][16 g0 ..] += p[r] V for keys k0 .. k1-1 and W groups of 16 d; an even g0 for W > 1. */
LANES_FN void pv_tile(const int R, const int W, const form F, const attn_job *j, size_t row,
                      size_t g0, size_t k0, size_t k1) {
    v16 acc[ROWS][8];
    size_t dp = j->dp;
    const float *vf = (const float *)j->v + g0 * 16, *p = j->sc + row * BLOCK;
    const uint16_t *vh = (const uint16_t *)j->v + g0 * 16;
    const int8_t *v8 = (const int8_t *)j->v + g0 * 16;
    const float *vs = j->vs + g0 / 2 * BLOCK;
    ptrdiff_t ahead[AHEAD];
    memcpy(ahead, j->v_ahead, sizeof ahead);
    float *ob = j->ob + row * dp + g0 * 16;
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int w = 0; w < W; w++) acc[r][w] =
            j->fresh ? v_zero() : v_load(ob + (size_t)r * dp + 16 * w);
    }
    for (size_t i = k0; i < k1; i++) {
        v16 val[8];
        if (F == FORM_F16) prefetch(vh + i * dp, ahead, W * 32);
        if (F == FORM_Q8) prefetch(v8 + i * dp, ahead, W * 16);
        UNROLL for (int w = 0; w < W; w++) {
            size_t at = i * dp + 16 * (size_t)w;
            val[w] = F == FORM_F32   ? v_load(vf + at)
                     : F == FORM_F16 ? v_load_h(vh + at)
                                     : v_mul(v_load_i8(v8 + at), v_set1(vs[w / 2 * BLOCK + i]));
        }
        UNROLL for (int r = 0; r < R; r++) {
            UNROLL for (int w = 0; w < W; w++) acc[r][w] =
                v_fma_at(p + r * BLOCK + i, val[w], acc[r][w]);
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int w = 0; w < W; w++) v_store(ob + (size_t)r * dp + 16 * w, acc[r][w]);
    }
}

LANES_FN void pv_form(const int R, const form F, const attn_job *j, size_t row, size_t k0,
                      size_t k1) {
    size_t n = j->dp / 16, g = 0;
    for (; g + PV_W(R, F) <= n; g += PV_W(R, F)) pv_tile(R, PV_W(R, F), F, j, row, g, k0, k1);
    if (PV_W(R, F) > 1)
        for (; g < n; g++) pv_tile(R, 1, F, j, row, g, k0, k1);
}

LANES_FN void pv_groups(const int R, const attn_job *j, size_t row, size_t k0, size_t k1) {
    switch (j->form) {
    case FORM_F16: pv_form(R, FORM_F16, j, row, k0, k1); break;
    case FORM_Q8: pv_form(R, FORM_Q8, j, row, k0, k1); break;
    case FORM_F32: pv_form(R, FORM_F32, j, row, k0, k1); break;
    }
}

/* One function per number of rows, all their loops unrolled. */
#define TILE_FN(R)                                                                                 \
    static void qk_##R(const attn_job *j, const float *q, size_t g, size_t g_end) {                \
        qk_groups(R, j, q, g, g_end);                                                              \
    }                                                                                              \
    static void pv_##R(const attn_job *j, size_t row, size_t k0, size_t k1) {                      \
        pv_groups(R, j, row, k0, k1);                                                              \
    }
TILE_FN(1)
TILE_FN(2)
TILE_FN(3)
#if !defined(CAKE_LANES_SCALAR)
TILE_FN(4)
TILE_FN(5)
TILE_FN(6)
#endif
#if defined(CAKE_LANES_AVX512)
TILE_FN(7)
TILE_FN(8)
#define TILE_ROW(f)                                                                                \
    { f##_1, f##_2, f##_3, f##_4, f##_5, f##_6, f##_7, f##_8 }
#elif !defined(CAKE_LANES_SCALAR)
#define TILE_ROW(f)                                                                                \
    { f##_1, f##_2, f##_3, f##_4, f##_5, f##_6 }
#else
#define TILE_ROW(f)                                                                                \
    { f##_1, f##_2, f##_3 }
#endif
static void (*const qk_fn[ROWS])(const attn_job *, const float *, size_t, size_t) = TILE_ROW(qk);
static void (*const pv_fn[ROWS])(const attn_job *, size_t, size_t, size_t) = TILE_ROW(pv);

LANES_FN void softcap_tile(float *sc, size_t n, int g0, int g1, float cap) {
    v16 c = v_set1(cap * CAKE_EXP_LOG2E);
    for (size_t r = 0; r < n; r++)
        for (int g = g0; g < g1; g++) {
            float *p = sc + r * BLOCK + 16 * g;
            v_store(p, v_mul(c, v_tanh(v_load(p))));
        }
}

/* Scores of n rows to probabilities, in place; the visible keys of row r are lo[r] .. hi[r]-1.
 * Groups outside g0 .. g1-1 hold nothing and count as zeros. Leaves maxima and sums in m and l. */
LANES_FN void softmax_tile(float *sc, size_t n, int whole, const int *lo, const int *hi, int g0,
                           int g1, float *m, float *l) {
    if (!whole) { /* a weight of exactly 0 for masked keys: e^-infinity */
        for (size_t r = 0; r < n; r++)
            for (int g = g0; g < g1; g++) {
                int a = lo[r] - 16 * g, b = hi[r] - 16 * g;
                a = a < 0 ? 0 : a > 16 ? 16 : a;
                b = b < 0 ? 0 : b > 16 ? 16 : b;
                float *p = sc + r * BLOCK + 16 * g;
                v_store(p, v_keep(v_load(p), a, b, -INFINITY));
            }
        for (size_t r = 0; r < n; r++) {
            v16 max = v_set1(-INFINITY), sum = v_zero();
            for (int g = g0; g < g1; g++) max = v_max(v_load(sc + r * BLOCK + 16 * g), max);
            m[r] = v_hmax(max);
            max = v_set1(m[r]);
            for (int g = g0; g < g1; g++) {
                float *p = sc + r * BLOCK + 16 * g;
                v16 e = v_exp2_neg(v_sub(v_load(p), max));
                v_store(p, e);
                sum = v_add(sum, e); /* lanes are >= 0, so a group of zeros changes nothing */
            }
            l[r] = v_sum(sum);
        }
        return;
    }
    for (size_t r = 0; r < n; r++) {
        const float *p = sc + r * BLOCK;
        m[r] =
            v_hmax(v_max(v_max(v_load(p), v_load(p + 16)), v_max(v_load(p + 32), v_load(p + 48))));
    }
    for (size_t r = 0; r < n; r++) {
        float *p = sc + r * BLOCK;
        v16 max = v_set1(m[r]);
        v16 a = v_exp2_neg(v_sub(v_load(p), max)), b = v_exp2_neg(v_sub(v_load(p + 16), max));
        v16 c = v_exp2_neg(v_sub(v_load(p + 32), max)), d = v_exp2_neg(v_sub(v_load(p + 48), max));
        v_store(p, a), v_store(p + 16, b), v_store(p + 32, c), v_store(p + 48, d);
        l[r] = v_sum(v_add(v_add(v_add(a, b), c), d));
    }
}

/* Fold the parts (o, m, l) of one block into n <= 16 rows (o0, m0, l0). */
LANES_FN void merge(float *o0, float *m0, float *l0, const float *o, const float *m, const float *l,
                    size_t n, size_t dp) {
    float fa[16], fb[16];
    v16 vm0 = v_load_n(m0, n), vm = v_load_n(m, n), top = v_max(vm0, vm);
    v16 a = v_exp2_neg(v_sub(vm0, top)), b = v_exp2_neg(v_sub(vm, top));
    v_store_n(m0, top, n);
    v_store_n(l0, v_add(v_mul(v_load_n(l0, n), a), v_mul(v_load_n(l, n), b)), n);
    v_store(fa, a);
    v_store(fb, b);
    for (size_t r = 0; r < n; r++, o0 += dp, o += dp) {
        a = v_set1(fa[r]);
        b = v_set1(fb[r]);
        for (size_t i = 0; i < dp; i += 16)
            v_store(o0 + i, v_fma(v_load(o + i), b, v_mul(v_load(o0 + i), a)));
    }
}

LANES_FN void rows_clear(float *o, float *m, float *l, size_t n, size_t dp) {
    memset(o, 0, n * dp * sizeof *o);
    memset(l, 0, n * sizeof *l);
    for (size_t r = 0; r < n; r++) m[r] = -INFINITY;
}

LANES_FN void row_finish(const float *o, float sum, float *out, size_t d) {
    v16 l = v_set1(sum);
    size_t i = 0;
    for (; i + 16 <= d; i += 16) v_store(out + i, v_div(v_load(o + i), l));
    if (i < d) v_store_n(out + i, v_div(v_load(o + i), l), d - i);
}

/* The slots of block b that position pos sees: lo .. hi-1. False if none. */
LANES_FN int visible(const cake_attn_spec *s, uint32_t b, uint64_t pos, int *lo, int *hi) {
    uint64_t first = (uint64_t)b * BLOCK, from = 0;
    if (s->window && pos >= s->window) from = pos - s->window + 1;
    *lo = *hi = 0;
    if (pos < first || from >= first + BLOCK) return 0;
    *lo = from > first ? (int)(from - first) : 0;
    *hi = pos - first >= BLOCK ? BLOCK : (int)(pos - first) + 1;
    return 1;
}

/* One block against n <= ROWS virtual rows from row v, all of which see it: leaves (o, m, l) in ob,
 * m, l. */
static void block_tile(attn_job *j, uint32_t b, uint32_t pos0, size_t v, size_t n, float *m,
                       float *l) {
    /* Both ends only move forward from row to row. */
    int lo[ROWS] = {0}, hi[ROWS] = {0}, lo_min, lo_max, hi_min, hi_max;
    visible(j->s, b, (uint64_t)pos0 + v / j->group, &lo_min, &hi_min);
    visible(j->s, b, (uint64_t)pos0 + (v + n - 1) / j->group, &lo_max, &hi_max);
    int g0 = lo_min / 16, g1 = (hi_max + 15) / 16, whole = lo_max == 0 && hi_min == BLOCK;
    qk_fn[n - 1](j, j->q + v * j->d, (size_t)g0, (size_t)g1);
    if (j->s->softcap > 0) softcap_tile(j->sc, n, g0, g1, j->s->softcap);
    j->fresh = whole;
    if (whole) {
        softmax_tile(j->sc, n, 1, lo, hi, g0, g1, m, l);
        pv_fn[n - 1](j, 0, 0, BLOCK);
        return;
    }
    for (size_t r = 0; r < n; r++)
        visible(j->s, b, (uint64_t)pos0 + (v + r) / j->group, &lo[r], &hi[r]);
    softmax_tile(j->sc, n, 0, lo, hi, g0, g1, m, l);
    memset(j->ob, 0, n * j->dp * sizeof *j->ob);
    if (lo_max >= hi_min) { /* no key that all rows see */
        for (size_t r = 0; r < n; r++) pv_fn[0](j, r, (size_t)lo[r], (size_t)hi[r]);
        return;
    }
    /* The keys that only some rows see go row by row, so that a row never touches a masked value.
     */
    for (size_t r = 0; r < n; r++)
        if (lo[r] < lo_max) pv_fn[0](j, r, (size_t)lo[r], (size_t)lo_max);
    pv_fn[n - 1](j, 0, (size_t)lo_max, (size_t)hi_min);
    for (size_t r = 0; r < n; r++)
        if (hi[r] > hi_min) pv_fn[0](j, r, (size_t)hi_min, (size_t)hi[r]);
}

/* Query rows (for each kv head, position-major, then head of the group) computed together: bounds
 * the scratch. */
enum { TOGETHER = 96 };

LANES_FN uint32_t chunk_positions(uint32_t group) {
    return group >= TOGETHER ? 1 : TOGETHER / group;
}

typedef struct {
    attn_job j;
    float *q, *o, *m, *l; /* of the query rows of a chunk: [rows][d], [rows][dp], [rows], [rows] */
    float *kf, *vf, *vs;  /* [4][d][16], [64][dp], [8][64] */
} attn_scratch;

static void job_init(attn_scratch *t, const cake_attn_spec *s, uint32_t n_rows, void *scratch) {
    memset(t, 0, sizeof *t);
    attn_job *j = &t->j;
    j->s = s;
    j->d = s->head_dim;
    j->dp = round16(j->d);
    j->group = s->n_heads / s->n_kv_heads;
    /* room: cake_attn_scratch_bytes() */
    size_t n = n_rows < TOGETHER ? (size_t)n_rows * s->n_heads : TOGETHER;
    n = n > TOGETHER ? TOGETHER : n;
    n = n < j->group ? j->group : n;
    float *p = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    j->sc = p, p += ROWS * BLOCK;
    j->ob = p, p += ROWS * j->dp;
    t->kf = p, p += BLOCK * j->dp;
    t->vf = p, p += BLOCK * j->dp;
    t->vs = p, p += CAKE_ATTN_MAX_DIM / Q8_CHUNK * BLOCK;
    t->o = p, p += n * j->dp;
    t->m = p, p += n;
    t->l = p, p += n;
    t->q = p;
}

/* Copy and scale the queries of n positions for the heads of one kv head. */
LANES_FN void load_q(const attn_job *j, float *p, const float *q, size_t ldq, uint32_t n,
                     uint32_t kv_head) {
    float cap = j->s->softcap;
    v16 scale = v_set1(cap > 0 ? j->s->scale / cap : j->s->scale * CAKE_EXP_LOG2E);
    for (uint32_t r = 0; r < n; r++) {
        const float *x = q + r * ldq + (size_t)kv_head * j->group * j->d;
        size_t len = j->group * j->d, i = 0;
        for (; i + 16 <= len; i += 16) v_store(p + i, v_mul(v_load(x + i), scale));
        if (i < len) v_store_n(p + i, v_mul(v_load_n(x + i, len - i), scale), len - i);
        p += len;
    }
}

/* [4][d][16] f32 keys in kf: a tile of few key groups then reads them in one run. */
LANES_FN void widen(attn_scratch *t) {
    attn_job *j = &t->j;
    const uint16_t *kh = j->k, *vh = j->v;
    const int8_t *k8 = j->k, *v8 = j->v;
    size_t d = j->d, dp = j->dp;
    for (size_t g = 0; g < GROUPS; g++) {
        float *kf = t->kf + g * d * 16;
        for (size_t i = 0; i < d; i++) {
            size_t at = i * BLOCK + 16 * g;
            v_store(kf + 16 * i, j->form == FORM_F16
                                     ? v_load_h(kh + at)
                                     : v_mul(v_load_i8(k8 + at),
                                             v_load_h(j->ks + i / Q8_CHUNK * BLOCK + 16 * g)));
        }
    }
    for (size_t i = 0; i < BLOCK; i++)
        for (size_t c = 0; c < dp; c += 16) {
            size_t at = i * dp + c;
            v_store(t->vf + at,
                    j->form == FORM_F16
                        ? v_load_h(vh + at)
                        : v_mul(v_load_i8(v8 + at), v_set1(j->vs[c / Q8_CHUNK * BLOCK + i])));
        }
    j->form = FORM_F32;
    j->k = t->kf, j->k_row = 16, j->k_group = d * 16;
    j->v = t->vf;
}

LANES_FN size_t head_bytes(const cake_attn_spec *s) {
    size_t d = s->head_dim, cells = BLOCK * (d + round16(d));
    return s->kv == CAKE_KV_F16   ? 2 * cells
           : s->kv == CAKE_KV_F32 ? 4 * cells
                                  : cells + 4 * q8_chunks(d) * BLOCK;
}

/* Point the job at a head of a block; widen it to f32 if several tiles will read it. */
LANES_FN void load_head(attn_scratch *t, const void *block, uint32_t kv_head, size_t n_tiles) {
    attn_job *j = &t->j;
    size_t d = j->d;
    const char *head = (const char *)block + kv_head * head_bytes(j->s);
    switch (j->s->kv) {
    case CAKE_KV_F16:
        j->form = FORM_F16;
        j->k = head;
        j->v = (const uint16_t *)j->k + BLOCK * d;
        break;
    case CAKE_KV_F32:
        j->form = FORM_F32;
        j->k = head;
        j->v = (const float *)j->k + BLOCK * d;
        j->k_row = BLOCK, j->k_group = 16;
        return;
    case CAKE_KV_Q8: {
        size_t scales = q8_chunks(d) * BLOCK;
        j->form = FORM_Q8;
        j->ks = (const uint16_t *)(const void *)head;
        j->k = j->ks + scales;
        const uint16_t *vs = (const uint16_t *)(const void *)((const char *)j->k + BLOCK * d);
        j->v = vs + scales;
        for (size_t i = 0; i < scales; i += 16) v_store(t->vs + i, v_load_h(vs + i));
        j->vs = t->vs;
        break;
    }
    }
    if (n_tiles >= 3) widen(t);
}

/* What to fetch while head h of a block is read: the same place one head on, of which the block
 * holds h_end - h - 1 more, else in `next`; and lines nearer by where the block has them. */
LANES_FN void set_ahead(attn_job *j, const char *block, uint32_t h, uint32_t h_begin,
                        uint32_t h_end, const char *next) {
    static const ptrdiff_t nearer[AHEAD - 1] = {16384, 8192, 4096};
    ptrdiff_t size = (ptrdiff_t)head_bytes(j->s), left = (ptrdiff_t)(h_end - h) * size;
    ptrdiff_t v = (const char *)j->v - (block + (ptrdiff_t)h * size);
    j->k_ahead[0] = j->v_ahead[0] =
        h + 1 < h_end ? size : next - block - (ptrdiff_t)(h - h_begin) * size;
    for (int k = 1; k < AHEAD; k++) {
        ptrdiff_t n = nearer[k - 1];
        j->k_ahead[k] = n <= left - v ? n : 0;
        j->v_ahead[k] = n <= left - size ? n : 0;
    }
}

/* Where cake_attn_partial leaves what it computes: [block][kv head][part_floats(rows, dp)]; the
 * rows of this chunk begin at row `first`. */
typedef struct {
    float *at;
    size_t rows, first;
} parts;

/* Blocks b0 .. b1-1 against n positions from pos0 of the kv heads h0 .. h1-1 (one chunk, queries
 * loaded). A block's parts are folded into the chunk's rows or, if out is not NULL, left there. */
static void chunk_blocks(attn_scratch *t, const void *const *blocks, uint32_t pos0, uint32_t n,
                         uint32_t h0, uint32_t h1, uint32_t b0, uint32_t b1, const parts *out) {
    attn_job *j = &t->j;
    size_t d = j->d, dp = j->dp;
    for (uint32_t b = b0; b < b1; b++) {
        int lo, hi;
        uint32_t r0 = 0, r1 = n; /* the positions that see block b are consecutive */
        while (r0 < r1 && !visible(j->s, b, (uint64_t)pos0 + r0, &lo, &hi)) r0++;
        while (r1 > r0 && !visible(j->s, b, (uint64_t)pos0 + r1 - 1, &lo, &hi)) r1--;
        if (r0 == r1) continue;
        for (uint32_t h = h0; h < h1; h++) {
            size_t v = (size_t)r0 * j->group, v_end = (size_t)r1 * j->group;
            size_t n_tiles = (v_end - v + ROWS - 1) / ROWS, base = (size_t)(h - h0) * n * j->group;
            j->q = t->q + base * d;
            load_head(t, blocks[b], h, n_tiles);
            set_ahead(j, blocks[b], h, h0, h1, blocks[b + 1 < b1 ? b + 1 : b]);
            for (; n_tiles; n_tiles--) {
                size_t rows = (v_end - v + n_tiles - 1) / n_tiles; /* tiles of like sizes */
                float m[16] = {0}, l[16] = {0};
                block_tile(j, b, pos0, v, rows, m, l);
                if (out) {
                    float *o =
                        out->at + ((size_t)b * j->s->n_kv_heads + h) * part_floats(out->rows, dp);
                    float *ml = o + out->rows * dp;
                    memcpy(o + (out->first + v) * dp, j->ob, rows * dp * sizeof *o);
                    memcpy(ml + out->first + v, m, rows * sizeof *m);
                    memcpy(ml + round16(out->rows) + out->first + v, l, rows * sizeof *l);
                } else {
                    size_t at = base + v;
                    merge(t->o + at * dp, t->m + at, t->l + at, j->ob, m, l, rows, dp);
                }
                v += rows;
            }
        }
    }
}

LANES_FN uint32_t first_block(const cake_attn_spec *s, uint64_t pos) {
    return s->window && pos >= s->window ? (uint32_t)((pos - s->window + 1) / BLOCK) : 0;
}

/* The kv heads h .. that go together with n positions: their last + 1. */
LANES_FN uint32_t heads_together(const attn_job *j, uint32_t n, uint32_t h, uint32_t kv_end) {
    uint32_t at_once = TOGETHER / (n * j->group);
    if (at_once == 0) at_once = 1;
    return kv_end - h < at_once ? kv_end : h + at_once;
}

static void k_rows(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                   uint32_t n_rows, uint32_t kv_begin, uint32_t kv_end, const float *q, size_t ldq,
                   float *out, size_t ldo, void *scratch) {
    attn_scratch t;
    job_init(&t, s, n_rows, scratch);
    size_t d = t.j.d, dp = t.j.dp, group = t.j.group;
    uint32_t chunk = chunk_positions(t.j.group), n;
    for (; n_rows; n_rows -= n, pos0 += n, q += n * ldq, out += n * ldo) {
        n = n_rows < chunk ? n_rows : chunk;
        size_t rows = n * group;
        uint32_t b_end = (uint32_t)(((uint64_t)pos0 + n - 1) / BLOCK) + 1;
        for (uint32_t h0 = kv_begin, h1; h0 < kv_end; h0 = h1) {
            h1 = heads_together(&t.j, n, h0, kv_end);
            for (uint32_t h = h0; h < h1; h++)
                load_q(&t.j, t.q + (h - h0) * rows * d, q, ldq, n, h);
            rows_clear(t.o, t.m, t.l, (h1 - h0) * rows, dp);
            chunk_blocks(&t, blocks, pos0, n, h0, h1, first_block(s, pos0), b_end, NULL);
            for (uint32_t h = h0; h < h1; h++)
                for (size_t v = 0; v < rows; v++) {
                    size_t at = (h - h0) * rows + v;
                    row_finish(t.o + at * dp, t.l[at],
                               out + v / group * ldo + (h * group + v % group) * d, d);
                }
        }
    }
}

static void k_partial(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                      uint32_t n_rows, uint32_t kv_begin, uint32_t kv_end, uint32_t block_begin,
                      uint32_t block_end, const float *q, size_t ldq, float *partials,
                      void *scratch) {
    attn_scratch t;
    job_init(&t, s, n_rows, scratch);
    size_t d = t.j.d, group = t.j.group;
    uint32_t chunk = chunk_positions(t.j.group), n;
    for (uint32_t done = 0; done < n_rows; done += n) {
        n = n_rows - done < chunk ? n_rows - done : chunk;
        parts p = {partials, (size_t)n_rows * group, (size_t)done * group};
        for (uint32_t h0 = kv_begin, h1; h0 < kv_end; h0 = h1) {
            h1 = heads_together(&t.j, n, h0, kv_end);
            for (uint32_t h = h0; h < h1; h++)
                load_q(&t.j, t.q + (h - h0) * n * group * d, q + done * ldq, ldq, n, h);
            chunk_blocks(&t, blocks, pos0 + done, n, h0, h1, block_begin, block_end, &p);
        }
    }
}

static void k_combine(const cake_attn_spec *s, uint32_t pos0, uint32_t n_rows, uint32_t kv_begin,
                      uint32_t kv_end, const float *partials, float *out, size_t ldo) {
    enum { AT_ONCE = 8 };
    float o[AT_ONCE * CAKE_ATTN_MAX_DIM], m[AT_ONCE], l[AT_ONCE];
    size_t d = s->head_dim, dp = round16(d), group = s->n_heads / s->n_kv_heads;
    size_t rows = group * n_rows;
    for (uint32_t r = 0; r < n_rows; r++, out += ldo) {
        uint64_t pos = (uint64_t)pos0 + r;
        for (uint32_t h = kv_begin; h < kv_end; h++)
            for (size_t g = 0, n; g < group; g += n) {
                n = group - g < AT_ONCE ? group - g : AT_ONCE;
                rows_clear(o, m, l, n, dp);
                for (uint32_t b = first_block(s, pos); b <= pos / BLOCK; b++) {
                    size_t row = r * group + g;
                    const float *p =
                        partials + ((size_t)b * s->n_kv_heads + h) * part_floats(rows, dp);
                    const float *ml = p + rows * dp + row;
                    merge(o, m, l, p + row * dp, ml, ml + round16(rows), n, dp);
                }
                for (size_t i = 0; i < n; i++)
                    row_finish(o + i * dp, l[i], out + (h * group + g + i) * d, d);
            }
    }
}

#define ATTN_TABLE                                                                                 \
    { .kv_store = k_kv_store, .rows = k_rows, .partial = k_partial, .combine = k_combine }
