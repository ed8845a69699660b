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

/* ROWS: the most query rows of a tile. QK_W(R): key groups of 16 and PV_W(R): groups of 16 d that
 * stay in registers with R rows. */
#if defined(CAKE_LANES_AVX512)
enum { ROWS = 6 };
#define QK_W(R) 4
#define PV_W(R) ((R) == 1 ? 8 : 4)
#elif defined(CAKE_LANES_AVX2)
enum { ROWS = 6 };
#define QK_W(R) ((R) == 1 ? 4 : (R) == 2 ? 2 : 1)
#define PV_W(R) QK_W(R)
#elif defined(CAKE_LANES_NEON)
enum { ROWS = 6 };
#define QK_W(R) ((R) <= 2 ? 2 : 1)
#define PV_W(R) QK_W(R)
#else
enum { ROWS = 3 };
#define QK_W(R) 1
#define PV_W(R) 1
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

enum { BLOCK = CAKE_KV_BLOCK, GROUPS = BLOCK / 16 };

typedef struct {
    const cake_attn_spec *s;
    size_t d, dp;   /* head_dim, and rounded up to 16 */
    uint32_t group; /* query heads per kv head */
    uint32_t kv_head;
    const uint16_t *k, *v; /* of the current block and kv head */
    const char *next;      /* the keys of the block after it, for prefetching */
    const float *kf, *vf;  /* the same widened to f32, or NULL */
    float *q;              /* [virtual rows][d], scaled */
    float *sc;             /* [ROWS][BLOCK] scores, then probabilities */
    float *ob;             /* [ROWS][dp] */
} attn_job;

LANES_FN size_t round16(size_t d) {
    return (d + 15) & ~(size_t)15;
}

/* A block's parts of n rows in the caller's `partials`: o[n][dp], m[n], l[n], the last two padded.
 */
LANES_FN size_t part_floats(size_t n, size_t dp) {
    return n * dp + 2 * round16(n);
}

LANES_FN const uint16_t *block_k(const cake_attn_spec *s, const void *block, uint32_t kv_head) {
    size_t d = s->head_dim;
    return (const uint16_t *)block + kv_head * BLOCK * (d + round16(d));
}

/* The f32 form: the same places, nothing rounded. */
static void kv_store_f32(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                         const float *v) {
    size_t d = s->head_dim, dp = round16(d);
    for (uint32_t h = 0; h < s->n_kv_heads; h++, k += d, v += d) {
        float *bk = (float *)block + h * BLOCK * (d + dp);
        float *pk = bk + (slot / 16) * d * 16 + slot % 16, *pv = bk + BLOCK * d + slot * dp;
        for (size_t i = 0; i < d; i++) pk[i * 16] = k[i];
        memcpy(pv, v, d * sizeof *v);
        memset(pv + d, 0, (dp - d) * sizeof *v);
    }
}

static void k_kv_store(const cake_attn_spec *s, void *block, uint32_t slot, const float *k,
                       const float *v) {
    if (s->kv_f32) {
        kv_store_f32(s, block, slot, k, v);
        return;
    }
    size_t d = s->head_dim, dp = round16(d);
    v16 top = v_set1(65504.0f), bottom = v_set1(-65504.0f);
    for (uint32_t h = 0; h < s->n_kv_heads; h++, k += d, v += d) {
        uint16_t *bk = (uint16_t *)block + h * BLOCK * (d + dp);
        uint16_t *pk = bk + (slot / 16) * d * 16 + slot % 16, *pv = bk + BLOCK * d + slot * dp;
        for (size_t i = 0; i < d; i += 16) {
            uint16_t t[16];
            size_t n = d - i < 16 ? d - i : 16;
            /* min and max in this order let a NaN through */
            v_store_h(t, v_max(bottom, v_min(top, v_load_n(k + i, n))));
            for (size_t j = 0; j < n; j++) pk[(i + j) * 16] = t[j];
            v_store_h(pv + i, v_max(bottom, v_min(top, v_load_n(v + i, n))));
        }
    }
}

/* Decode waits for memory: with each line of a block the line at the same place in the next block
 * is fetched (w groups of 32 bytes). Into the second-level cache: the first is no larger than a
 * block. */
LANES_FN void prefetch(const char *p, int w) {
    for (int i = 0; i < (w + 1) / 2; i++) __builtin_prefetch(p + 64 * i, 0, 2);
}

/* sc[r][16 g ..] = q[r] . K for W groups of 16 keys from group g0. */
LANES_FN void qk_tile(const int R, const int W, const int wide, const attn_job *j, const float *q,
                      size_t g0) {
    v16 acc[ROWS][8];
    size_t d = j->d, step = d * 16;
    const uint16_t *kh = j->k + g0 * step;
    const float *kf = wide ? j->kf + g0 * step : NULL;
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int w = 0; w < W; w++) acc[r][w] = v_zero();
    }
    const char *ahead = j->next + g0 * step * 2;
    for (size_t i = 0; i < d; i++) {
        v16 key[8];
        if (!wide) prefetch(ahead + i * (size_t)W * 32, W);
        UNROLL for (int w = 0; w < W; w++) {
            key[w] = wide ? v_load(kf + (size_t)w * step + i * 16)
                          : v_load_h(kh + (size_t)w * step + i * 16);
        }
        UNROLL for (int r = 0; r < R; r++) {
            v16 qi = v_set1(q[(size_t)r * d + i]);
            UNROLL for (int w = 0; w < W; w++) acc[r][w] = v_fma(qi, key[w], acc[r][w]);
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int w = 0; w < W; w++) {
            v_store(j->sc + r * BLOCK + 16 * (g0 + (size_t)w), acc[r][w]);
        }
    }
}

LANES_FN void qk_groups(const int R, const attn_job *j, const float *q, size_t g, size_t g_end) {
    while (g < g_end) {
        if (g + QK_W(R) <= g_end) {
            if (j->kf)
                qk_tile(R, QK_W(R), 1, j, q, g);
            else
                qk_tile(R, QK_W(R), 0, j, q, g);
            g += QK_W(R);
        } else {
            if (j->kf)
                qk_tile(R, 1, 1, j, q, g);
            else
                qk_tile(R, 1, 0, j, q, g);
            g++;
        }
    }
}

/* ob[r][16 g0 ..] += p[r] V for keys k0 .. k1-1 and W groups of 16 d. */
LANES_FN void pv_tile(const int R, const int W, const int wide, const attn_job *j, size_t row,
                      size_t g0, size_t k0, size_t k1) {
    v16 acc[ROWS][8];
    size_t dp = j->dp;
    const uint16_t *vh = j->v + g0 * 16;
    const float *vf = wide ? j->vf + g0 * 16 : NULL, *p = j->sc + row * BLOCK;
    float *ob = j->ob + row * dp + g0 * 16;
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int w = 0; w < W; w++) acc[r][w] = v_load(ob + (size_t)r * dp + 16 * w);
    }
    const char *ahead = j->next + (BLOCK * j->d + g0 * 16) * 2;
    for (size_t i = k0; i < k1; i++) {
        v16 val[8];
        if (!wide) prefetch(ahead + i * dp * 2, W);
        UNROLL for (int w = 0; w < W; w++) {
            val[w] = wide ? v_load(vf + i * dp + 16 * w) : v_load_h(vh + i * dp + 16 * w);
        }
        UNROLL for (int r = 0; r < R; r++) {
            v16 pi = v_set1(p[r * BLOCK + i]);
            UNROLL for (int w = 0; w < W; w++) acc[r][w] = v_fma(pi, val[w], acc[r][w]);
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int w = 0; w < W; w++) v_store(ob + (size_t)r * dp + 16 * w, acc[r][w]);
    }
}

LANES_FN void pv_groups(const int R, const attn_job *j, size_t row, size_t k0, size_t k1) {
    size_t n = j->dp / 16, g = 0;
    while (g < n) {
        if (g + PV_W(R) <= n) {
            if (j->vf)
                pv_tile(R, PV_W(R), 1, j, row, g, k0, k1);
            else
                pv_tile(R, PV_W(R), 0, j, row, g, k0, k1);
            g += PV_W(R);
        } else {
            if (j->vf)
                pv_tile(R, 1, 1, j, row, g, k0, k1);
            else
                pv_tile(R, 1, 0, j, row, g, k0, k1);
            g++;
        }
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
#define TILE_ROW(f)                                                                                \
    { f##_1, f##_2, f##_3, f##_4, f##_5, f##_6 }
#else
#define TILE_ROW(f)                                                                                \
    { f##_1, f##_2, f##_3 }
#endif
static void (*const qk_fn[ROWS])(const attn_job *, const float *, size_t, size_t) = TILE_ROW(qk);
static void (*const pv_fn[ROWS])(const attn_job *, size_t, size_t, size_t) = TILE_ROW(pv);

/* Scores of n rows to probabilities, in place; the visible keys of row r are lo[r] .. hi[r]-1.
 * Groups outside g0 .. g1-1 hold nothing and count as zeros. Leaves maxima and sums in m and l. */
LANES_FN void softmax_tile(float *sc, size_t n, const int *lo, const int *hi, int g0, int g1,
                           float *m, float *l) {
    int whole = 1;
    for (size_t r = 0; r < n; r++) whole &= lo[r] == 0 && hi[r] == BLOCK;
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
                v16 e = v_exp(v_sub(v_load(p), max));
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
        v16 a = v_exp(v_sub(v_load(p), max)), b = v_exp(v_sub(v_load(p + 16), max));
        v16 c = v_exp(v_sub(v_load(p + 32), max)), d = v_exp(v_sub(v_load(p + 48), max));
        v_store(p, a), v_store(p + 16, b), v_store(p + 32, c), v_store(p + 48, d);
        l[r] = v_sum(v_add(v_add(v_add(a, b), c), d));
    }
}

/* Fold the parts (o, m, l) of one block into n <= 16 rows (o0, m0, l0). */
LANES_FN void merge(float *o0, float *m0, float *l0, const float *o, const float *m, const float *l,
                    size_t n, size_t dp) {
    float fa[16], fb[16];
    v16 vm0 = v_load_n(m0, n), vm = v_load_n(m, n), top = v_max(vm0, vm);
    v16 a = v_exp(v_sub(vm0, top)), b = v_exp(v_sub(vm, top));
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
static void block_tile(const attn_job *j, uint32_t b, uint32_t pos0, size_t v, size_t n, float *m,
                       float *l) {
    int lo[ROWS], hi[ROWS], lo_min = BLOCK, lo_max = 0, hi_min = BLOCK, hi_max = 0;
    for (size_t r = 0; r < n; r++) {
        visible(j->s, b, (uint64_t)pos0 + (v + r) / j->group, &lo[r], &hi[r]);
        lo_min = lo[r] < lo_min ? lo[r] : lo_min;
        lo_max = lo[r] > lo_max ? lo[r] : lo_max;
        hi_min = hi[r] < hi_min ? hi[r] : hi_min;
        hi_max = hi[r] > hi_max ? hi[r] : hi_max;
    }
    int g0 = lo_min / 16, g1 = (hi_max + 15) / 16;
    qk_fn[n - 1](j, j->q + v * j->d, (size_t)g0, (size_t)g1);
    softmax_tile(j->sc, n, lo, hi, g0, g1, m, l);
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

/* Virtual rows (position-major, then head of the group) computed together: bounds the scratch. */
LANES_FN uint32_t chunk_positions(uint32_t group) {
    return group >= 96 ? 1 : 96 / group;
}

typedef struct {
    attn_job j;
    float *o, *m, *l; /* of the virtual rows of a chunk: [rows][dp], [rows], [rows] */
    float *kf, *vf;   /* [4][d][16], [64][dp] */
} attn_scratch;

static void job_init(attn_scratch *t, const cake_attn_spec *s, uint32_t kv_head, uint32_t n_rows,
                     void *scratch) {
    memset(t, 0, sizeof *t);
    attn_job *j = &t->j;
    j->s = s;
    j->d = s->head_dim;
    j->dp = round16(j->d);
    j->group = s->n_heads / s->n_kv_heads;
    j->kv_head = kv_head;
    uint32_t chunk = chunk_positions(j->group);
    size_t nv = (size_t)(n_rows < chunk ? n_rows : chunk) * j->group;
    float *p = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63); /* room: scratch_bytes */
    j->sc = p, p += ROWS * BLOCK;
    j->ob = p, p += ROWS * j->dp;
    t->kf = p, p += BLOCK * j->dp;
    t->vf = p, p += BLOCK * j->dp;
    t->o = p, p += nv * j->dp;
    t->m = p, p += nv;
    t->l = p, p += nv;
    j->q = p;
}

/* Copy and scale the queries of n positions. */
LANES_FN void load_q(attn_job *j, const float *q, size_t ldq, uint32_t n) {
    v16 scale = v_set1(j->s->scale);
    float *p = j->q;
    for (uint32_t r = 0; r < n; r++) {
        const float *x = q + r * ldq + (size_t)j->kv_head * j->group * j->d;
        size_t len = j->group * j->d, i = 0;
        for (; i + 16 <= len; i += 16) v_store(p + i, v_mul(v_load(x + i), scale));
        if (i < len) v_store_n(p + i, v_mul(v_load_n(x + i, len - i), scale), len - i);
        p += len;
    }
}

/* Point the job at a block; widen it to f32 if several tiles will read it. */
LANES_FN void load_block(attn_scratch *t, const void *block, const void *next, size_t n_tiles) {
    attn_job *j = &t->j;
    j->k = block_k(j->s, block, j->kv_head);
    j->v = j->k + BLOCK * j->d;
    j->next = (const char *)block_k(j->s, next, j->kv_head);
    j->kf = j->vf = NULL;
    if (j->s->kv_f32) { /* k and v point somewhere into the block and are not read */
        j->kf = (const float *)block + j->kv_head * BLOCK * (j->d + j->dp);
        j->vf = j->kf + BLOCK * j->d;
        return;
    }
    if (n_tiles < 3) return;
    for (size_t i = 0; i < BLOCK * j->d; i += 16) v_store(t->kf + i, v_load_h(j->k + i));
    for (size_t i = 0; i < BLOCK * j->dp; i += 16) v_store(t->vf + i, v_load_h(j->v + i));
    j->kf = t->kf;
    j->vf = t->vf;
}

/* Blocks b0 .. b1-1 against n positions from pos0 (one chunk, queries loaded). Each block's parts
 * are folded into the chunk's rows or, if parts is not NULL, left there, where the chunk's rows
 * start at row `first` of parts_rows. */
static void chunk_blocks(attn_scratch *t, const void *const *blocks, uint32_t pos0, uint32_t n,
                         uint32_t b0, uint32_t b1, float *parts, size_t first, size_t parts_rows) {
    attn_job *j = &t->j;
    for (uint32_t b = b0; b < b1; b++) {
        int lo, hi;
        uint32_t r0 = 0, r1 = n; /* the positions that see block b are consecutive */
        while (r0 < r1 && !visible(j->s, b, (uint64_t)pos0 + r0, &lo, &hi)) r0++;
        while (r1 > r0 && !visible(j->s, b, (uint64_t)pos0 + r1 - 1, &lo, &hi)) r1--;
        if (r0 == r1) continue;
        size_t v = (size_t)r0 * j->group, v_end = (size_t)r1 * j->group;
        size_t n_tiles = (v_end - v + ROWS - 1) / ROWS;
        load_block(t, blocks[b], b + 1 < b1 ? blocks[b + 1] : blocks[b], n_tiles);
        for (; n_tiles; n_tiles--) {
            size_t rows = (v_end - v + n_tiles - 1) / n_tiles; /* tiles of like sizes */
            float m[16] = {0}, l[16] = {0};
            block_tile(j, b, pos0, v, rows, m, l);
            if (parts) {
                float *o = parts + b * part_floats(parts_rows, j->dp), *ml = o + parts_rows * j->dp;
                memcpy(o + (first + v) * j->dp, j->ob, rows * j->dp * sizeof *o);
                memcpy(ml + first + v, m, rows * sizeof *m);
                memcpy(ml + round16(parts_rows) + first + v, l, rows * sizeof *l);
            } else {
                merge(t->o + v * j->dp, t->m + v, t->l + v, j->ob, m, l, rows, j->dp);
            }
            v += rows;
        }
    }
}

LANES_FN uint32_t first_block(const cake_attn_spec *s, uint64_t pos) {
    return s->window && pos >= s->window ? (uint32_t)((pos - s->window + 1) / BLOCK) : 0;
}

static void k_rows(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                   uint32_t n_rows, uint32_t kv_head, const float *q, size_t ldq, float *out,
                   size_t ldo, void *scratch) {
    attn_scratch t;
    job_init(&t, s, kv_head, n_rows, scratch);
    size_t d = t.j.d, dp = t.j.dp, group = t.j.group;
    uint32_t chunk = chunk_positions(t.j.group), n;
    for (; n_rows; n_rows -= n, pos0 += n, q += n * ldq, out += n * ldo) {
        n = n_rows < chunk ? n_rows : chunk;
        load_q(&t.j, q, ldq, n);
        rows_clear(t.o, t.m, t.l, n * group, dp);
        uint32_t b_end = (uint32_t)(((uint64_t)pos0 + n - 1) / BLOCK) + 1;
        chunk_blocks(&t, blocks, pos0, n, first_block(s, pos0), b_end, NULL, 0, 0);
        for (size_t v = 0; v < n * group; v++)
            row_finish(t.o + v * dp, t.l[v],
                       out + v / group * ldo + (kv_head * group + v % group) * d, d);
    }
}

static void k_partial(const cake_attn_spec *s, const void *const *blocks, uint32_t pos0,
                      uint32_t n_rows, uint32_t kv_head, uint32_t block_begin, uint32_t block_end,
                      const float *q, size_t ldq, float *partials, void *scratch) {
    attn_scratch t;
    job_init(&t, s, kv_head, n_rows, scratch);
    size_t parts_rows = (size_t)n_rows * t.j.group;
    uint32_t chunk = chunk_positions(t.j.group), n;
    for (uint32_t done = 0; done < n_rows; done += n) {
        n = n_rows - done < chunk ? n_rows - done : chunk;
        load_q(&t.j, q + done * ldq, ldq, n);
        chunk_blocks(&t, blocks, pos0 + done, n, block_begin, block_end, partials,
                     (size_t)done * t.j.group, parts_rows);
    }
}

static void k_combine(const cake_attn_spec *s, uint32_t pos0, uint32_t n_rows, uint32_t kv_head,
                      const float *partials, float *out, size_t ldo) {
    enum { AT_ONCE = 8 };
    float o[AT_ONCE * CAKE_ATTN_MAX_DIM], m[AT_ONCE], l[AT_ONCE];
    size_t d = s->head_dim, dp = round16(d), group = s->n_heads / s->n_kv_heads;
    size_t parts_rows = group * n_rows;
    for (uint32_t r = 0; r < n_rows; r++, out += ldo) {
        uint64_t pos = (uint64_t)pos0 + r;
        for (size_t g = 0, n; g < group; g += n) {
            n = group - g < AT_ONCE ? group - g : AT_ONCE;
            rows_clear(o, m, l, n, dp);
            for (uint32_t b = first_block(s, pos); b <= pos / BLOCK; b++) {
                size_t row = r * group + g;
                const float *p = partials + b * part_floats(parts_rows, dp);
                const float *ml = p + parts_rows * dp + row;
                merge(o, m, l, p + row * dp, ml, ml + round16(parts_rows), n, dp);
            }
            for (size_t i = 0; i < n; i++)
                row_finish(o + i * dp, l[i], out + (kv_head * group + g + i) * d, d);
        }
    }
}

#define ATTN_TABLE                                                                                 \
    { .kv_store = k_kv_store, .rows = k_rows, .partial = k_partial, .combine = k_combine }
