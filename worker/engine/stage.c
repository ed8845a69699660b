/* The forward pass of a stage: see stage.h.
 *
 * A batch is cut into runs: the rows of one sequence. Each layer is a handful of parallel loops
 * over rows (norms, rope, gates: everything that is per row), over 16-row weight tiles (matmuls) or
 * over (run, kv head) pairs (attention); no loop splits a sum, so threads never change a bit. */
#include "worker/engine/stage.h"
#include "common/mem.h"
#include "kernels/attn.h"
#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "kernels/vec.h"
#include "worker/engine/kv.h"
#include "worker/engine/moe.h"
#include "worker/engine/selftest.h"
#include "worker/engine/weights.h"

#include <stdlib.h>
#include <string.h>

/* Rows [begin, end) of a batch belong to one sequence; blocks[] are its KV blocks in this layer. */
typedef struct {
    uint32_t begin, end, seq, pos0;
    const void **blocks;
} run;

/* Layers attend to all positions, or to a window of them. */
typedef enum { FULL, SLIDING, KINDS } layer_kind;

enum {
    ATTN_ROWS = 32,    /* rows of one prefill attention task */
    SPLIT_BLOCKS = 16, /* a lone row with more KV blocks than this shares its keys among threads */
};

struct cake_scratch {
    uint32_t max_rows, hidden, q_width, kv_width, ff, half_dim;
    unsigned n_threads;
    size_t matmul_bytes, attn_bytes; /* per thread */
    float *x, *xn, *q, *k, *v, *gate, *up;
    float *cos[KINDS], *sin[KINDS];
    uint8_t *act, *matmul, *attn;
    cake_moe_scratch moe;
    size_t region_bytes;
    void *region;
};

struct cake_stage {
    const cake_model_config *config;
    cake_stage_options o;
    cake_weights w;
    cake_kv *kv;
    cake_pool *pool;
    cake_scratch *s;
    cake_attn_spec attn[KINDS];
    cake_rope rope[KINDS];
    bool first, last; /* has the embedding, has the head */
    bool (*stop)(void *arg);
    void *stop_arg;
    cake_stats *stats; /* NULL: not asked for */
    run *runs;
    uint32_t n_runs;
    const void **blocks; /* room for the block tables of all runs */
    size_t n_blocks_room;
    uint64_t *seen; /* [n_seqs] number of the last batch that had the sequence */
    uint64_t batch;
    float *partials; /* attention of one long row */
};

/* ---- sizes ---- */

static cake_attn_spec attn_spec(const cake_model_config *c, layer_kind kind, cake_kv_type kv) {
    /* The root and the division are exact IEEE operations in f32. */
    return (cake_attn_spec){.n_heads = c->n_heads,
                            .n_kv_heads = c->n_kv_heads,
                            .head_dim = c->head_dim,
                            .scale = 1.0f / __builtin_sqrtf((float)c->query_scalar),
                            .window = kind == SLIDING ? c->window : 0,
                            .softcap = (float)c->attn_softcap,
                            .kv = kv};
}

/* Have sliding layers angles of their own? */
static bool has_local_rope(const cake_model_config *c) {
    return c->local_rope.theta > 0;
}

static cake_kv_type kv_type(const cake_stage_options *o) {
    return o->f32_mode ? CAKE_KV_F32 : o->kv;
}

static uint32_t max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

/* Lay out the scratch; with base NULL only measure. Sizes are small multiples of checked config
 * values (hidden, ff < 2^24, rows <= CAKE_ROWS_MAX), so size_t cannot overflow on 64-bit. */
static size_t scratch_layout(cake_scratch *s, const cake_model_config *c, uint32_t rows,
                             unsigned n_threads, uint8_t *base) {
    size_t at = 0, r = rows;
#define PLACE(field, type, count)                                                                  \
    (s->field = base ? (type *)(void *)(base + at) : NULL,                                         \
     at += cake_round_up((size_t)(count) * sizeof(type), 64))
    s->max_rows = rows;
    s->hidden = c->hidden;
    s->q_width = c->n_heads * c->head_dim;
    s->kv_width = c->n_kv_heads * c->head_dim;
    s->ff = c->ff;
    s->half_dim = c->head_dim / 2;
    s->n_threads = n_threads;
    PLACE(x, float, r * c->hidden);
    PLACE(xn, float, r * c->hidden);
    PLACE(q, float, r * s->q_width);
    PLACE(k, float, r * s->kv_width);
    PLACE(v, float, r * s->kv_width);
    PLACE(gate, float, r * c->ff);
    PLACE(up, float, r * c->ff);
    for (int kind = 0; kind < (has_local_rope(c) ? KINDS : 1); kind++) {
        PLACE(cos[kind], float, r * s->half_dim);
        PLACE(sin[kind], float, r * s->half_dim);
    }
    PLACE(act, uint8_t, cake_act_bytes(max_u32(max_u32(c->hidden, s->q_width), c->ff), rows));
    cake_attn_spec a = attn_spec(c, FULL, CAKE_KV_F16); /* scratch is the same for all */
    s->matmul_bytes = cake_round_up(cake_matmul_scratch_bytes(), 64);
    s->attn_bytes = cake_round_up(cake_attn_scratch_bytes(&a, ATTN_ROWS), 64);
    PLACE(matmul, uint8_t, s->matmul_bytes * n_threads);
    PLACE(attn, uint8_t, s->attn_bytes * n_threads);
#undef PLACE
    return at + cake_moe_scratch_layout(&s->moe, c, rows, base ? base + at : NULL);
}

cake_status cake_scratch_new(cake_scratch **out, const cake_model_config *c, uint32_t max_rows,
                             unsigned n_threads, cake_error *err) {
    if (max_rows == 0 || max_rows > CAKE_ROWS_MAX)
        return cake_fail(err, CAKE_EINVAL, "batches of %u rows are outside 1..%d", max_rows,
                         (int)CAKE_ROWS_MAX);
    cake_scratch *s = cake_calloc(1, sizeof *s);
    s->region_bytes = scratch_layout(s, c, max_rows, n_threads, NULL);
    s->region = cake_pages_alloc(s->region_bytes);
    if (!s->region) {
        size_t mib = s->region_bytes >> 20;
        free(s);
        return cake_fail(err, CAKE_ENOMEM, "no memory for %zu MiB of activations", mib);
    }
    scratch_layout(s, c, max_rows, n_threads, s->region);
    *out = s;
    return CAKE_OK;
}

void cake_scratch_free(cake_scratch *s) {
    if (!s) return;
    cake_pages_free(s->region, s->region_bytes);
    free(s);
}

static cake_kv_options kv_options(const cake_stage_options *o) {
    uint32_t head = o->config->n_layers + 1; /* unit of the head */
    uint32_t begin = max_u32(o->unit_begin, 1), end = o->unit_end < head ? o->unit_end : head;
    cake_attn_spec a = attn_spec(o->config, FULL, kv_type(o));
    return (cake_kv_options){.n_layers = end > begin ? end - begin : 0,
                             .block_bytes = cake_kv_block_bytes(&a),
                             .n_blocks = o->kv_blocks,
                             .n_seqs = o->n_seqs,
                             .max_positions = o->context};
}

cake_status cake_stage_measure(const cake_stage_options *o, unsigned n_threads,
                               cake_stage_memory *out, cake_error *err) {
    size_t weights, kv;
    cake_status st = cake_weights_bytes(o->layout, o->unit_begin, o->unit_end, &weights, err);
    if (st != CAKE_OK) return st;
    cake_kv_options k = kv_options(o);
    if (!cake_kv_arena_bytes(&k, &kv))
        return cake_fail(err, CAKE_EINVAL, "a KV cache of %u blocks is beyond the limits",
                         o->kv_blocks);
    cake_scratch s;
    if (o->collect) weights += cake_stats_bytes(o->layout, o->unit_begin, o->unit_end);
    *out = (cake_stage_memory){weights, kv,
                               scratch_layout(&s, o->config, o->max_rows, n_threads, NULL)};
    return CAKE_OK;
}

/* ---- life ---- */

static bool rope_of(const cake_model_config *c, const cake_rope_config *r, cake_rope *out) {
    static const cake_rope_type type[] = {[CAKE_SCALING_DEFAULT] = CAKE_ROPE_DEFAULT,
                                          [CAKE_SCALING_LINEAR] = CAKE_ROPE_LINEAR,
                                          [CAKE_SCALING_LLAMA3] = CAKE_ROPE_LLAMA3,
                                          [CAKE_SCALING_YARN] = CAKE_ROPE_YARN};
    return cake_rope_init(out, &(cake_rope_spec){.type = type[r->type],
                                                 .dims = c->head_dim,
                                                 .base = r->theta,
                                                 .factor = r->factor,
                                                 .low_freq = r->low_freq_factor,
                                                 .high_freq = r->high_freq_factor,
                                                 .orig_max_pos = r->original_max_positions,
                                                 .beta_fast = r->beta_fast,
                                                 .beta_slow = r->beta_slow,
                                                 .mscale = r->mscale,
                                                 .mscale_all_dim = r->mscale_all_dim});
}

cake_status cake_stage_new(cake_stage **out, const cake_stage_options *o,
                           const cake_checkpoint *source, cake_pool *pool, cake_scratch *scratch,
                           void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                           cake_error *err) {
    const cake_model_config *c = o->config;
    uint32_t n_units = c->n_layers + 2;
    if (o->unit_begin >= o->unit_end || o->unit_end > n_units)
        return cake_fail(err, CAKE_EINVAL, "units %u..%u do not exist: the model has %u",
                         o->unit_begin, o->unit_end, n_units);
    if (o->context == 0 || o->n_seqs == 0 || o->n_seqs > 65536 || o->context > 1u << 28 ||
        o->max_rows > scratch->max_rows || scratch->n_threads < cake_pool_threads(pool))
        return cake_fail(err, CAKE_EINVAL,
                         "a stage of %u sequences x %u positions, %u rows is outside the "
                         "limits",
                         o->n_seqs, o->context, o->max_rows);
    cake_stage *s = cake_calloc(1, sizeof *s);
    s->config = c;
    s->o = *o;
    s->o.layout = NULL; /* only borrowed until we return */
    s->pool = pool;
    s->s = scratch;
    for (int kind = 0; kind < KINDS; kind++)
        s->attn[kind] = attn_spec(c, (layer_kind)kind, kv_type(o));
    s->first = o->unit_begin == 0;
    s->last = o->unit_end == n_units;
    cake_status st = CAKE_OK;
    if (!rope_of(c, &c->rope, &s->rope[FULL]) ||
        (has_local_rope(c) && !rope_of(c, &c->local_rope, &s->rope[SLIDING])))
        st = cake_fail(err, CAKE_EUNSUPPORTED, "config.json: the rope parameters are out of range");
    if (st == CAKE_OK)
        st = cake_weights_load(&s->w, o->layout, source, o->unit_begin, o->unit_end, pool, progress,
                               arg, err);
    cake_kv_options k = kv_options(o);
    if (st == CAKE_OK) st = cake_kv_new(&s->kv, &k, err);
    if (st != CAKE_OK) {
        cake_stage_free(s);
        return st;
    }
    if (o->collect) s->stats = cake_stats_new(o->layout, o->unit_begin, o->unit_end);
    uint32_t n_runs = o->max_rows < o->n_seqs ? o->max_rows : o->n_seqs;
    uint32_t per_seq = o->context / CAKE_KV_BLOCK + 1;
    s->runs = cake_calloc(n_runs, sizeof *s->runs);
    s->n_blocks_room = (size_t)n_runs * per_seq;
    s->blocks = cake_calloc(s->n_blocks_room, sizeof *s->blocks);
    s->seen = cake_calloc(o->n_seqs, sizeof *s->seen);
    s->partials = cake_calloc(1, cake_attn_partial_bytes(s->attn, o->context - 1, 1));
    *out = s;
    return CAKE_OK;
}

void cake_stage_free(cake_stage *s) {
    if (!s) return;
    cake_weights_free(&s->w);
    cake_kv_free(s->kv);
    cake_stats_free(s->stats);
    free(s->runs);
    free(s->blocks);
    free(s->seen);
    free(s->partials);
    free(s);
}

cake_status cake_stage_self_test(const cake_stage *s, cake_error *err) {
    cake_status st = cake_self_test(&s->w, s->o.f32_mode, err);
    return st == CAKE_OK && s->w.n_layers ? cake_self_test_attn(s->attn, err) : st;
}

const cake_stats *cake_stage_stats(const cake_stage *s) {
    return s->stats;
}

uint32_t cake_stage_width_in(const cake_stage *s) {
    return s->first ? 0 : s->config->hidden;
}
uint32_t cake_stage_width_out(const cake_stage *s) {
    return s->last ? s->config->vocab : s->config->hidden;
}
bool cake_stage_has_head(const cake_stage *s) {
    return s->last;
}

/* ---- the batch ---- */

static cake_status apply_op(cake_stage *s, cake_kv_op op, cake_error *err) {
    switch (op.op) {
    case CAKE_KV_FREE: return cake_kv_release(s->kv, op.seq, err);
    case CAKE_KV_TRIM: return cake_kv_trim(s->kv, op.seq, op.a, err);
    case CAKE_KV_FORK: return cake_kv_fork(s->kv, op.seq, op.a, op.b, err);
    case CAKE_KV_RESET:
        for (uint32_t i = 0; i < s->o.n_seqs; i++) cake_kv_release(s->kv, i, NULL);
        return CAKE_OK;
    default: return cake_fail(err, CAKE_EPROTO, "unknown KV operation %u", op.op);
    }
}

/* Cut rows into runs and check all of them before anything changes. */
static cake_status find_runs(cake_stage *s, const cake_row *rows, uint32_t n_rows,
                             cake_error *err) {
    if (n_rows > s->o.max_rows)
        return cake_fail(err, CAKE_EINVAL, "a batch of %u rows is above the plan's %u", n_rows,
                         s->o.max_rows);
    s->n_runs = 0;
    s->batch++;
    uint64_t need = 0;
    for (uint32_t i = 0; i < n_rows;) {
        uint32_t seq = rows[i].seq, begin = i;
        if (seq >= s->o.n_seqs)
            return cake_fail(err, CAKE_EINVAL, "row %u: sequence %u is outside 0..%u", i, seq,
                             s->o.n_seqs - 1);
        if (s->seen[seq] == s->batch)
            return cake_fail(err, CAKE_EINVAL, "row %u: sequence %u appears twice in a batch", i,
                             seq);
        s->seen[seq] = s->batch;
        for (; i < n_rows && rows[i].seq == seq; i++) {
            if (rows[i].pos != rows[begin].pos + (i - begin))
                return cake_fail(err, CAKE_EINVAL, "row %u: position %u does not follow %u", i,
                                 rows[i].pos, rows[begin].pos + (i - begin) - 1);
            if (s->first && rows[i].token >= s->config->vocab)
                return cake_fail(err, CAKE_EINVAL,
                                 "row %u: token %u is outside the vocabulary of %u", i,
                                 rows[i].token, s->config->vocab);
        }
        uint32_t blocks;
        cake_status st = cake_kv_need(s->kv, seq, rows[begin].pos, i - begin, &blocks, err);
        if (st != CAKE_OK) return st;
        need += blocks;
        s->runs[s->n_runs++] = (run){.begin = begin, .end = i, .seq = seq, .pos0 = rows[begin].pos};
    }
    if (need > cake_kv_free_blocks(s->kv))
        return cake_fail(err, CAKE_ENOSPACE, "the batch needs %llu KV blocks and %u are free",
                         (unsigned long long)need, cake_kv_free_blocks(s->kv));
    for (uint32_t i = 0; i < s->n_runs; i++) {
        cake_status st = cake_kv_extend(s->kv, s->runs[i].seq, s->runs[i].pos0,
                                        s->runs[i].end - s->runs[i].begin, err);
        cake_assert(st == CAKE_OK); /* just checked */
    }
    return CAKE_OK;
}

/* Point every run at its blocks in one layer. */
static void find_blocks(cake_stage *s, uint32_t layer) {
    size_t at = 0;
    for (uint32_t i = 0; i < s->n_runs; i++) {
        run *r = &s->runs[i];
        uint32_t n = (r->pos0 + (r->end - r->begin) - 1) / CAKE_KV_BLOCK + 1;
        cake_assert(at + n <= s->n_blocks_room);
        r->blocks = s->blocks + at;
        for (uint32_t b = 0; b < n; b++) r->blocks[b] = cake_kv_block(s->kv, r->seq, b, layer);
        at += n;
    }
}

/* ---- parallel loops ---- */

/* What the loops of one forward pass share. */
typedef struct {
    cake_stage *stage;
    const cake_layer_weights *layer;
    layer_kind kind;
    uint32_t n_rows;
    cake_act act;      /* input of the next matmuls */
    bool quantize;     /* some of them want int8 activations */
    const float *bias; /* add_residual: bias of the projection just done, or NULL */
    const float *post; /* add_residual: weight of its norm, or NULL */
    const float *norm; /* add_residual, prepare: weight of the norm that follows, or NULL */
    bool residual;     /* add_residual: xn holds a projection to add to x */
    float *logits;     /* cap_logits: [n_rows][vocab] */
} pass;

/* Below this much arithmetic a loop is done before another thread would have woken up. */
enum { INLINE_MACS = 1 << 17, INLINE_FLOATS = 1 << 14 };

typedef struct {
    pass *p;
    void (*fn)(pass *p, uint32_t row);
    uint32_t chunk_rows;
} row_job;

static void row_chunk(void *arg, size_t chunk, unsigned thread) {
    (void)thread;
    const row_job *j = arg;
    uint32_t begin = (uint32_t)chunk * j->chunk_rows, end = begin + j->chunk_rows;
    for (uint32_t i = begin; i < end && i < j->p->n_rows; i++) j->fn(j->p, i);
}

/* fn for every row; row_floats: about how many values it works on. */
static void for_rows(pass *p, uint32_t row_floats, void (*fn)(pass *p, uint32_t row)) {
    unsigned threads = cake_pool_threads(p->stage->pool);
    row_job j = {p, fn, max_u32(p->n_rows / (threads * 8), 1)};
    if ((uint64_t)p->n_rows * row_floats < INLINE_FLOATS) j.chunk_rows = p->n_rows;
    cake_pool_run(p->stage->pool, (p->n_rows + j.chunk_rows - 1) / j.chunk_rows, row_chunk, &j);
}

/* Widest projection groups: q, k, v. */
enum { GROUP_MAX = 3 };
typedef struct {
    const cake_act *act;
    const cake_linear *linear[GROUP_MAX];
    float *out[GROUP_MAX];
    uint32_t n_linear, tiles[GROUP_MAX], n_tiles, chunk_tiles;
    bool f32_mode;
    cake_scratch *s;
} matmul_job;

static void matmul_chunk(void *arg, size_t chunk, unsigned thread) {
    const matmul_job *j = arg;
    uint32_t begin = (uint32_t)chunk * j->chunk_tiles, end = begin + j->chunk_tiles;
    if (end > j->n_tiles) end = j->n_tiles;
    void *scratch = j->s->matmul + thread * j->s->matmul_bytes;
    for (uint32_t i = 0, base = 0; i < j->n_linear; base += j->tiles[i++]) {
        uint32_t a = begin > base ? begin - base : 0;
        uint32_t b = end > base ? end - base : 0;
        if (b > j->tiles[i]) b = j->tiles[i];
        if (a < b)
            cake_matmul(&j->linear[i]->mat, j->act, j->f32_mode, j->out[i],
                        j->linear[i]->mat.spec.n, a, b, scratch);
    }
}

/* out[i] = linear[i] x for matrices that share their input, as one loop over all their tiles. */
static void matmul_group(pass *p, uint32_t n, const cake_linear *const *linear, float *const *out) {
    cake_stage *s = p->stage;
    matmul_job j = {.act = &p->act, .n_linear = n, .f32_mode = s->o.f32_mode, .s = s->s};
    for (uint32_t i = 0; i < n; i++) {
        j.linear[i] = linear[i];
        j.out[i] = out[i];
        j.n_tiles += j.tiles[i] = (linear[i]->mat.spec.n + 15) / 16;
    }
    /* A few chunks a thread, so that a late core costs a fraction of its share. A chunk begins with
     * cold caches: decoding, which only streams weights, wants them larger. */
    unsigned threads = cake_pool_threads(s->pool);
    bool alone = threads == 1 ||
                 (uint64_t)j.n_tiles * CAKE_TILE_ROWS * p->act.k * p->act.n_tok < INLINE_MACS;
    j.chunk_tiles =
        alone ? j.n_tiles : max_u32(j.n_tiles / (threads * (p->act.n_tok < 16 ? 4 : 8)), 1);
    cake_pool_run(s->pool, (j.n_tiles + j.chunk_tiles - 1) / j.chunk_tiles, matmul_chunk, &j);
}

static bool wants_int8(const cake_stage *s, uint32_t n, const cake_linear *const *linear) {
    if (s->o.f32_mode) return false;
    for (uint32_t i = 0; i < n; i++)
        if (linear[i]->mat.spec.kind != CAKE_W_DENSE) return true;
    return false;
}

/* The next matmuls read x [n_rows][k]. */
static void begin_act(pass *p, const float *x, uint32_t k, uint32_t n,
                      const cake_linear *const *linear) {
    cake_act_init(&p->act, p->stage->s->act, x, k, k, p->n_rows);
    p->quantize = wants_int8(p->stage, n, linear);
}

/* What the next matmuls read is complete. */
static void collect(const pass *p, uint32_t unit, cake_input input) {
    const cake_stage *s = p->stage;
    if (s->stats)
        cake_stats_add(s->stats, s->pool, unit, input, 0, p->act.x, p->act.ldx, p->act.n_tok);
}

static void add_bias(float *y, const float *bias, uint32_t n) {
    if (bias) cake_add(y, y, bias, n);
}

/* x += projection (+ bias, normed), then xn = norm(x), quantized. */
static void add_residual(pass *p, uint32_t row) {
    const cake_scratch *s = p->stage->s;
    float *x = s->x + (size_t)row * s->hidden, *xn = s->xn + (size_t)row * s->hidden;
    const float eps = (float)p->stage->config->norm_eps;
    if (p->residual) {
        add_bias(xn, p->bias, s->hidden);
        if (p->post) cake_rmsnorm(xn, xn, p->post, s->hidden, eps);
        cake_add(x, x, xn, s->hidden);
    }
    if (!p->norm) return;
    cake_rmsnorm(xn, x, p->norm, s->hidden, eps);
    if (p->quantize) cake_act_quantize(&p->act, row, row + 1);
}

/* Biases, q/k norm, rope, and the key and value into their block. */
static void rotate_and_store(pass *p, uint32_t row) {
    const cake_stage *st = p->stage;
    const cake_scratch *s = st->s;
    const cake_layer_weights *l = p->layer;
    const cake_model_config *c = st->config;
    float *q = s->q + (size_t)row * s->q_width, *k = s->k + (size_t)row * s->kv_width;
    float *v = s->v + (size_t)row * s->kv_width;
    const layer_kind angles = has_local_rope(c) ? p->kind : FULL;
    const float *cos = s->cos[angles] + (size_t)row * s->half_dim,
                *sin = s->sin[angles] + (size_t)row * s->half_dim;
    add_bias(q, l->q.bias, s->q_width);
    add_bias(k, l->k.bias, s->kv_width);
    add_bias(v, l->v.bias, s->kv_width);
    for (uint32_t h = 0; l->q_norm && h < c->n_heads; h++)
        cake_rmsnorm(q + h * c->head_dim, q + h * c->head_dim, l->q_norm, c->head_dim,
                     (float)c->norm_eps);
    for (uint32_t h = 0; l->k_norm && h < c->n_kv_heads; h++)
        cake_rmsnorm(k + h * c->head_dim, k + h * c->head_dim, l->k_norm, c->head_dim,
                     (float)c->norm_eps);
    cake_rope_apply(q, c->n_heads, c->head_dim, c->head_dim, cos, sin);
    cake_rope_apply(k, c->n_kv_heads, c->head_dim, c->head_dim, cos, sin);
    const run *r = st->runs;
    while (row >= r->end) r++;
    uint32_t pos = r->pos0 + (row - r->begin);
    /* The block table is read-only here; the block itself is ours to write. */
    cake_kv_store(st->attn, (void *)(uintptr_t)r->blocks[pos / CAKE_KV_BLOCK], pos % CAKE_KV_BLOCK,
                  k, v);
}

/* Task = (run, up to ATTN_ROWS of its rows, range of kv heads). */
typedef struct {
    const cake_stage *stage;
    const cake_attn_spec *attn;
    uint32_t n_ranges;
} attention_job;

static uint32_t n_parts(const run *r) {
    return (r->end - r->begin + ATTN_ROWS - 1) / ATTN_ROWS;
}

static uint32_t slice_begin(uint32_t n, uint32_t slice, uint32_t n_slices) {
    return (uint32_t)((uint64_t)n * slice / n_slices);
}

static void attention_task(void *arg, size_t task, unsigned thread) {
    const attention_job *j = arg;
    const cake_stage *st = j->stage;
    const cake_scratch *s = st->s;
    uint32_t range = (uint32_t)(task % j->n_ranges), heads = j->attn->n_kv_heads;
    size_t part = task / j->n_ranges;
    const run *r = st->runs;
    for (; part >= n_parts(r); r++) part -= n_parts(r);
    uint32_t begin = r->begin + (uint32_t)part * ATTN_ROWS, end = begin + ATTN_ROWS;
    if (end > r->end) end = r->end;
    float *q = s->q + (size_t)begin * s->q_width;
    cake_attn_rows(j->attn, r->blocks, r->pos0 + (begin - r->begin), end - begin,
                   slice_begin(heads, range, j->n_ranges),
                   slice_begin(heads, range + 1, j->n_ranges), q, s->q_width, q, s->q_width,
                   s->attn + thread * s->attn_bytes);
}

/* A lone row with a long history: threads share its keys. Task = slice of blocks. */
typedef struct {
    const cake_stage *stage;
    const cake_attn_spec *attn;
    uint32_t n_blocks, n_slices;
} split_job;
static void split_task(void *arg, size_t task, unsigned thread) {
    const split_job *j = arg;
    const cake_stage *st = j->stage;
    const cake_scratch *s = st->s;
    uint32_t slice = (uint32_t)task;
    cake_attn_partial(j->attn, st->runs[0].blocks, st->runs[0].pos0, 1, 0, j->attn->n_kv_heads,
                      slice_begin(j->n_blocks, slice, j->n_slices),
                      slice_begin(j->n_blocks, slice + 1, j->n_slices), s->q, s->q_width,
                      st->partials, s->attn + thread * s->attn_bytes);
}

static void attention(pass *p) {
    cake_stage *st = p->stage;
    const cake_attn_spec *attn = &st->attn[p->kind];
    unsigned threads = cake_pool_threads(st->pool);
    uint32_t n_blocks = st->runs[0].pos0 / CAKE_KV_BLOCK + 1, heads = attn->n_kv_heads;
    if (p->n_rows == 1 && threads > heads && n_blocks >= SPLIT_BLOCKS) {
        split_job j = {st, attn, n_blocks, 2 * threads < n_blocks ? 2 * threads : n_blocks};
        cake_pool_run(st->pool, j.n_slices, split_task, &j);
        cake_attn_combine(attn, st->runs[0].pos0, 1, 0, heads, st->partials, st->s->q,
                          st->s->q_width);
        return;
    }
    size_t parts = 0;
    uint64_t macs = 0;
    bool prefill = false;
    for (uint32_t i = 0; i < st->n_runs; i++) {
        uint32_t n = st->runs[i].end - st->runs[i].begin;
        parts += n_parts(&st->runs[i]);
        macs += 2ull * n * (st->runs[i].pos0 + n) * st->s->q_width;
        prefill |= n > 8;
    }
    /* Prefill is arithmetic: any split will do. Decode reads memory: no more pieces than keep all
     * threads at work. */
    size_t want = prefill ? heads : (2 * threads + parts - 1) / parts;
    attention_job j = {st, attn, want < heads ? (uint32_t)want : heads};
    cake_pool_run(macs < INLINE_MACS ? NULL : st->pool, parts * j.n_ranges, attention_task, &j);
}

static void quantize_row(pass *p, uint32_t row) {
    cake_act_quantize(&p->act, row, row + 1);
}

static void gate_row(pass *p, uint32_t row) {
    const cake_scratch *s = p->stage->s;
    float *gate = s->gate + (size_t)row * s->ff, *up = s->up + (size_t)row * s->ff;
    add_bias(gate, p->layer->gate.bias, s->ff);
    add_bias(up, p->layer->up.bias, s->ff);
    if (p->stage->config->gelu)
        cake_geglu(gate, gate, up, s->ff);
    else
        cake_swiglu(gate, gate, up, s->ff);
    if (p->quantize) cake_act_quantize(&p->act, row, row + 1);
}

/* The feed-forward of a layer with experts: xn, normed, to xn. */
static void run_experts(pass *p, uint32_t unit) {
    cake_stage *st = p->stage;
    cake_scratch *s = st->s;
    const cake_moe_weights *w = &p->layer->moe;
    cake_act_init(&p->act, s->act, s->xn, s->hidden, s->hidden, p->n_rows);
    p->quantize = cake_moe_wants_int8(w, st->o.f32_mode);
    for_rows(p, s->hidden, add_residual);
    cake_moe m = {w,         st->config,      &s->moe,        st->pool,
                  s->matmul, s->matmul_bytes, st->o.f32_mode, st->stats,
                  unit};
    collect(p, unit, CAKE_INPUT_FFN);
    cake_moe_run(&m, &p->act, s->xn);
    p->bias = NULL;
}

/* xn = projection of the previous layer still to be added to x when p->residual. */
static void run_layer(pass *p, uint32_t index) {
    cake_stage *st = p->stage;
    cake_scratch *s = st->s;
    const cake_layer_weights *l = p->layer = &st->w.layers[index];
    const uint32_t unit = max_u32(st->o.unit_begin, 1) + index;
    p->kind = cake_config_is_sliding(st->config, unit - 1) ? SLIDING : FULL;
    find_blocks(st, index);

    const cake_linear *qkv[] = {&l->q, &l->k, &l->v};
    p->norm = l->attn_norm;
    begin_act(p, s->xn, s->hidden, 3, qkv);
    for_rows(p, s->hidden, add_residual);
    collect(p, unit, CAKE_INPUT_ATTN);
    matmul_group(p, 3, qkv, (float *[]){s->q, s->k, s->v});
    for_rows(p, s->q_width + 2 * s->kv_width, rotate_and_store);
    attention(p);

    const cake_linear *o[] = {&l->o};
    begin_act(p, s->q, s->q_width, 1, o);
    if (p->quantize) for_rows(p, s->q_width, quantize_row);
    collect(p, unit, CAKE_INPUT_O);
    matmul_group(p, 1, o, (float *[]){s->xn});
    p->residual = true;
    p->bias = l->o.bias;
    p->post = l->attn_post_norm;

    p->norm = l->ffn_norm;
    if (l->moe.gate.n) {
        run_experts(p, unit);
        return;
    }
    const cake_linear *gate_up[] = {&l->gate, &l->up};
    begin_act(p, s->xn, s->hidden, 2, gate_up);
    for_rows(p, s->hidden, add_residual);
    collect(p, unit, CAKE_INPUT_FFN);
    matmul_group(p, 2, gate_up, (float *[]){s->gate, s->up});

    const cake_linear *down[] = {&l->down};
    begin_act(p, s->gate, s->ff, 1, down);
    for_rows(p, 2 * s->ff, gate_row);
    collect(p, unit, CAKE_INPUT_DOWN);
    matmul_group(p, 1, down, (float *[]){s->xn});
    p->bias = l->down.bias;
    p->post = l->ffn_post_norm;
}

static void cap_logits(pass *p, uint32_t row) {
    const cake_model_config *c = p->stage->config;
    float *z = p->logits + (size_t)row * c->vocab;
    cake_softcap(z, z, c->vocab, (float)c->logit_softcap);
}

/* Final norm and output table for the rows whose logits are wanted. */
static uint32_t run_head(pass *p, const cake_row *rows, float *out) {
    cake_stage *st = p->stage;
    cake_scratch *s = st->s;
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_rows; i++) { /* move the wanted rows together */
        if (!(rows[i].flags & CAKE_ROW_LOGITS)) continue;
        if (n != i)
            memcpy(s->x + (size_t)n * s->hidden, s->x + (size_t)i * s->hidden,
                   s->hidden * sizeof *s->x);
        n++;
    }
    if (n == 0) return 0;
    p->n_rows = n;
    p->residual = false;
    p->norm = st->w.final_norm;
    const cake_linear *head[] = {&st->w.head};
    begin_act(p, s->xn, s->hidden, 1, head);
    for_rows(p, s->hidden, add_residual);
    collect(p, st->config->n_layers + 1, CAKE_INPUT_HEAD);
    matmul_group(p, 1, head, (float *[]){out});
    for (uint32_t i = 0; st->w.head.bias && i < n; i++)
        add_bias(out + (size_t)i * st->config->vocab, st->w.head.bias, st->config->vocab);
    p->logits = out;
    if (st->config->logit_softcap > 0) for_rows(p, st->config->vocab, cap_logits);
    return n;
}

void cake_stage_set_stop(cake_stage *s, bool (*stop)(void *arg), void *arg) {
    s->stop = stop;
    s->stop_arg = arg;
}

static bool stopped(const cake_stage *st) {
    return st->stop && st->stop(st->stop_arg);
}

cake_status cake_stage_run(cake_stage *st, const cake_kv_op *ops, uint32_t n_ops,
                           const cake_row *rows, uint32_t n_rows, const float *in, float *out,
                           uint32_t *n_out, cake_error *err) {
    cake_status status;
    for (uint32_t i = 0; i < n_ops; i++)
        if ((status = apply_op(st, ops[i], err)) != CAKE_OK) return status;
    if ((status = find_runs(st, rows, n_rows, err)) != CAKE_OK) return status;
    *n_out = 0;
    if (n_rows == 0) return CAKE_OK;
    if (stopped(st)) return cake_fail(err, CAKE_ECANCELED, "the batch was cancelled");
    cake_scratch *s = st->s;
    size_t row_floats = s->hidden;
    if (st->first) {
        for (uint32_t i = 0; i < n_rows; i++) {
            float *x = s->x + i * row_floats;
            cake_mat_row(&st->w.embed.mat, rows[i].token, x);
            if (st->config->embed_scale != 1) cake_scale(x, st->config->embed_scale, x, row_floats);
        }
    } else {
        memcpy(s->x, in, n_rows * row_floats * sizeof *s->x);
    }
    for (int kind = 0; st->w.n_layers && kind < (has_local_rope(st->config) ? KINDS : 1); kind++)
        for (uint32_t i = 0; i < n_rows; i++)
            cake_rope_angles(&st->rope[kind], rows[i].pos, s->cos[kind] + (size_t)i * s->half_dim,
                             s->sin[kind] + (size_t)i * s->half_dim);
    pass p = {.stage = st, .n_rows = n_rows};
    for (uint32_t i = 0; i < st->w.n_layers; i++) {
        if (i && stopped(st)) return cake_fail(err, CAKE_ECANCELED, "the batch was cancelled");
        run_layer(&p, i);
    }
    p.norm = NULL; /* add the last projection, nothing after it */
    if (p.residual) for_rows(&p, s->hidden, add_residual);
    if (st->last) {
        *n_out = run_head(&p, rows, out);
    } else {
        memcpy(out, s->x, n_rows * row_floats * sizeof *s->x);
        *n_out = n_rows;
    }
    return CAKE_OK;
}
