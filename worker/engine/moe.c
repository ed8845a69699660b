/* Layers with experts: see moe.h. A handful of parallel loops: over rows (routing, adding up), over
 * (row, expert) pairs (gathering, gates) and over the 16-row tiles of all groups' matrices. */
#include "worker/engine/moe.h"
#include "common/mem.h"
#include "kernels/math.h"
#include "kernels/vec.h"

#include <string.h>

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

size_t cake_moe_scratch_layout(cake_moe_scratch *s, const cake_model_config *c, uint32_t rows,
                               uint8_t *base) {
    const cake_moe_config *m = &c->moe;
    *s = (cake_moe_scratch){0};
    if (!m->n_experts) return 0;
    size_t at = 0, r = rows, pairs = r * m->top_k,
           groups = pairs < m->n_experts ? pairs : m->n_experts;
#define PLACE(field, type, n)                                                                      \
    (s->field = base ? (type *)(void *)(base + at) : NULL,                                         \
     at += cake_round_up((size_t)(n) * sizeof(type), 64))
    PLACE(probs, float, r * m->n_experts);
    PLACE(mix, float, r);
    PLACE(expert, uint32_t, pairs);
    PLACE(weight, float, pairs);
    PLACE(place, uint32_t, pairs);
    PLACE(row, uint32_t, pairs);
    PLACE(group_of, uint32_t, pairs);
    PLACE(count, uint32_t, m->n_experts);
    PLACE(groups, cake_group, groups + 1);
    PLACE(in, cake_act, groups + 1);
    PLACE(mid, cake_act, groups + 1);
    PLACE(gate, float, pairs * m->ff);
    PLACE(up, float, pairs * m->ff);
    PLACE(down, float, pairs * c->hidden);
    PLACE(shared_gate, float, r * m->shared_ff);
    PLACE(shared_up, float, r * m->shared_ff);
    PLACE(shared_down, float, m->shared_ff ? r * c->hidden : 0);
    /* The groups' parts are rounded up one by one: by less than one token each. */
    s->act_in_bytes =
        cake_act_bytes(c->hidden, (uint32_t)pairs) + groups * cake_act_bytes(c->hidden, 1);
    s->act_mid_bytes = cake_act_bytes(m->ff, (uint32_t)pairs) + groups * cake_act_bytes(m->ff, 1);
    if (m->shared_ff) s->act_mid_bytes += cake_act_bytes(m->shared_ff, rows);
    PLACE(act_in, uint8_t, s->act_in_bytes);
    PLACE(act_mid, uint8_t, s->act_mid_bytes);
#undef PLACE
    return at;
}

/* What a product reads of its activations. */
static bool f32(const cake_wspec *s, bool f32_mode) {
    return f32_mode || s->kind == CAKE_W_DENSE;
}
static bool int8(const cake_wspec *s, bool f32_mode) {
    return !f32(s, f32_mode);
}

bool cake_moe_wants_int8(const cake_moe_weights *w, bool f32_mode) {
    return int8(&w->gate.spec, f32_mode) || int8(&w->up.spec, f32_mode) ||
           int8(&w->shared_gate.mat.spec, f32_mode) || int8(&w->shared_up.mat.spec, f32_mode);
}

/* ---- parallel loops ---- */

/* What the loops of one block share. */
typedef struct {
    const cake_moe *m;
    cake_moe_scratch *s;
    const cake_act *x;
    float *y;
    uint32_t top_k, n_pairs, n_groups;
    cake_stack shared_gate, shared_up, shared_down; /* stacks of one; n is 0 without them */
    bool gather_f32;                                /* the groups read f32 rows */
    bool gather_int8;                               /* ... quantized rows */
    bool quantize_mid, quantize_shared;
} block;

/* Below this much work a loop is done before another thread would have woken up. */
enum { INLINE_MACS = 1 << 17, INLINE_FLOATS = 1 << 14 };

typedef struct {
    block *b;
    void (*fn)(block *b, uint32_t i);
    uint32_t n, per_chunk;
} item_job;

static void item_chunk(void *arg, size_t chunk, unsigned thread) {
    (void)thread;
    const item_job *j = arg;
    uint32_t begin = (uint32_t)chunk * j->per_chunk, end = min_u32(begin + j->per_chunk, j->n);
    for (uint32_t i = begin; i < end; i++) j->fn(j->b, i);
}

/* fn for i < n; item_floats: about how many values one of them works on. */
static void for_items(block *b, uint32_t n, uint32_t item_floats,
                      void (*fn)(block *b, uint32_t i)) {
    if (n == 0) return;
    uint32_t per_chunk = n / (cake_pool_threads(b->m->pool) * 8);
    if (per_chunk == 0) per_chunk = 1;
    if ((uint64_t)n * item_floats < INLINE_FLOATS) per_chunk = n;
    item_job j = {b, fn, n, per_chunk};
    cake_pool_run(b->m->pool, (n + per_chunk - 1) / per_chunk, item_chunk, &j);
}

/* Products that run as one loop over all their tiles. */
enum { PARTS_MAX = 4 };
typedef struct {
    const cake_stack *w;
    const cake_group *groups;
    const cake_act *acts;
    float *y;
    uint32_t n_groups;
    bool f32_mode;
} part;
typedef struct {
    const cake_moe *m;
    part parts[PARTS_MAX];
    size_t tiles[PARTS_MAX], n_tiles, per_chunk;
    uint32_t n_parts;
    uint64_t macs;
} product;

static void add_part(product *p, part add) {
    if (!add.w->n || !add.n_groups) return;
    cake_assert(p->n_parts < PARTS_MAX);
    const cake_wspec *s = &add.w->spec;
    uint64_t rows = add.groups[add.n_groups - 1].end - add.groups[0].begin;
    p->n_tiles += p->tiles[p->n_parts] = (size_t)cake_tiles(s) * add.n_groups;
    p->macs += rows * s->n * s->k;
    p->parts[p->n_parts++] = add;
}

static void product_chunk(void *arg, size_t chunk, unsigned thread) {
    const product *p = arg;
    size_t begin = chunk * p->per_chunk, end = begin + p->per_chunk;
    if (end > p->n_tiles) end = p->n_tiles;
    void *scratch = p->m->matmul + thread * p->m->matmul_bytes;
    for (size_t i = 0, base = 0; i < p->n_parts; base += p->tiles[i++]) {
        size_t a = begin > base ? begin - base : 0, b = end > base ? end - base : 0;
        if (b > p->tiles[i]) b = p->tiles[i];
        const part *q = &p->parts[i];
        if (a < b)
            cake_stack_matmul(q->w, q->groups, q->acts, q->f32_mode, q->y, q->w->spec.n, a, b,
                              scratch);
    }
}

static void run_product(product *p, uint32_t n_rows) {
    unsigned threads = cake_pool_threads(p->m->pool);
    /* Groups differ in size, so a batch is cut finer than in a dense product. */
    p->per_chunk = p->n_tiles / (threads * (n_rows < 16 ? 4 : 16));
    if (p->per_chunk == 0) p->per_chunk = 1;
    if (threads == 1 || p->macs < INLINE_MACS) p->per_chunk = p->n_tiles;
    cake_pool_run(p->m->pool, (p->n_tiles + p->per_chunk - 1) / p->per_chunk, product_chunk, p);
}

/* ---- the steps ---- */

static void route_row(block *b, uint32_t row) {
    const cake_moe_config *c = &b->m->config->moe;
    cake_moe_scratch *s = b->s;
    float *p = s->probs + (size_t)row * c->n_experts;
    cake_softmax(p, c->n_experts);
    size_t at = (size_t)row * c->top_k;
    cake_route(p, c->n_experts, c->top_k, c->norm_top_k, s->expert + at, s->weight + at);
}

/* Activations of every group: those of x itself for a lone row, else room for gathered ones. */
static void place_acts(block *b) {
    cake_moe_scratch *s = b->s;
    const cake_model_config *c = b->m->config;
    uint8_t *in = s->act_in, *mid = s->act_mid;
    for (uint32_t g = 0; g < b->n_groups; g++) {
        uint32_t begin = s->groups[g].begin, n = s->groups[g].end - begin;
        for (uint32_t i = begin; i < s->groups[g].end; i++) s->group_of[i] = g;
        if (n == b->x->n_tok) { /* all rows, in order */
            s->in[g] = *b->x;
        } else { /* gathered f32 rows wait where the results of the last step will be */
            cake_act_init(&s->in[g], in, s->down + (size_t)begin * c->hidden, c->hidden, c->hidden,
                          n);
            in += cake_act_bytes(c->hidden, n);
        }
        cake_act_init(&s->mid[g], mid, s->gate + (size_t)begin * c->moe.ff, c->moe.ff, c->moe.ff,
                      n);
        mid += cake_act_bytes(c->moe.ff, n);
    }
    cake_assert(in <= s->act_in + s->act_in_bytes);
    if (b->shared_gate.n) {
        uint32_t ff = c->moe.shared_ff, g = b->n_groups;
        s->groups[g] = (cake_group){0, 0, b->x->n_tok};
        s->in[g] = *b->x;
        cake_act_init(&s->mid[g], mid, s->shared_gate, ff, ff, b->x->n_tok);
        mid += cake_act_bytes(ff, b->x->n_tok);
    }
    cake_assert(mid <= s->act_mid + s->act_mid_bytes);
}

static void gather_pair(block *b, uint32_t pair) {
    cake_moe_scratch *s = b->s;
    uint32_t g = s->group_of[pair], begin = s->groups[g].begin, t = pair - begin;
    if (s->in[g].x == b->x->x) return;
    if (b->gather_int8) cake_act_gather(&s->in[g], b->x, s->row + begin, t, t + 1);
    if (b->gather_f32)
        memcpy(s->down + (size_t)pair * b->x->k, b->x->x + s->row[pair] * b->x->ldx,
               b->x->k * sizeof(float));
}

static void gate_pair(block *b, uint32_t pair) {
    cake_moe_scratch *s = b->s;
    uint32_t ff = b->m->config->moe.ff, g = s->group_of[pair], t = pair - s->groups[g].begin;
    float *gate = s->gate + (size_t)pair * ff;
    cake_swiglu(gate, gate, s->up + (size_t)pair * ff, ff);
    if (b->quantize_mid) cake_act_quantize(&s->mid[g], t, t + 1);
}

static void gate_shared(block *b, uint32_t row) {
    cake_moe_scratch *s = b->s;
    uint32_t ff = b->m->config->moe.shared_ff;
    float *gate = s->shared_gate + (size_t)row * ff;
    cake_swiglu(gate, gate, s->shared_up + (size_t)row * ff, ff);
    if (b->quantize_shared) cake_act_quantize(&s->mid[b->n_groups], row, row + 1);
}

static void add_up_row(block *b, uint32_t row) {
    const cake_moe_scratch *s = b->s;
    size_t h = b->m->config->hidden;
    float *y = b->y + row * h;
    for (uint32_t i = row * b->top_k, end = i + b->top_k; i < end; i++) {
        const float *expert = s->down + s->place[i] * h;
        if (i == row * b->top_k)
            cake_scale(y, s->weight[i], expert, h);
        else
            cake_axpy(y, s->weight[i], expert, h);
    }
    if (b->shared_gate.n) cake_axpy(y, cake_sigmoidf(s->mix[row]), s->shared_down + row * h, h);
}

static cake_stack stack_of_one(const cake_linear *l) {
    bool there = l->mat.spec.n > 0;
    return (cake_stack){l->mat.spec, there, there ? cake_packed_bytes(&l->mat.spec) : 0,
                        l->mat.packed};
}

/* Statistics of the experts' inputs: rows in the order of the batch for each expert. */
static void collect_in(const block *b) {
    const cake_moe_scratch *s = b->s;
    for (uint32_t g = 0; g < b->n_groups; g++)
        for (uint32_t i = s->groups[g].begin; i < s->groups[g].end; i++)
            cake_stats_add(b->m->stats, b->m->pool, b->m->unit, CAKE_INPUT_EXPERT,
                           s->groups[g].expert, b->x->x + s->row[i] * b->x->ldx, b->x->ldx, 1);
}

static void collect_mid(const block *b) {
    const cake_moe_scratch *s = b->s;
    for (uint32_t g = 0; g < b->n_groups; g++)
        cake_stats_add(b->m->stats, b->m->pool, b->m->unit, CAKE_INPUT_EXPERT_DOWN,
                       s->groups[g].expert, s->mid[g].x, s->mid[g].ldx, s->mid[g].n_tok);
    if (b->shared_gate.n)
        cake_stats_add(b->m->stats, b->m->pool, b->m->unit, CAKE_INPUT_SHARED_DOWN, 0,
                       s->shared_gate, b->m->config->moe.shared_ff, b->x->n_tok);
}

void cake_moe_run(const cake_moe *m, const cake_act *x, float *y) {
    const cake_moe_weights *w = m->w;
    const cake_moe_config *c = &m->config->moe;
    cake_moe_scratch *s = m->scratch;
    uint32_t n = x->n_tok, h = m->config->hidden;
    block b = {.m = m, .s = s, .x = x, .top_k = c->top_k, .n_pairs = n * c->top_k};
    b.y = y;
    b.shared_gate = stack_of_one(&w->shared_gate);
    b.shared_up = stack_of_one(&w->shared_up);
    b.shared_down = stack_of_one(&w->shared_down);
    b.gather_int8 = int8(&w->gate.spec, m->f32_mode) || int8(&w->up.spec, m->f32_mode);
    b.gather_f32 = f32(&w->gate.spec, m->f32_mode) || f32(&w->up.spec, m->f32_mode);
    b.quantize_mid = int8(&w->down.spec, m->f32_mode);
    b.quantize_shared = b.shared_down.n && int8(&w->shared_down.mat.spec, m->f32_mode);

    /* In f32 always: with rounded activations a row near a tie would go to other experts. */
    cake_stack router = stack_of_one(&w->router), mix = stack_of_one(&w->shared_mix);
    const cake_group all = {0, 0, n};
    product route = {.m = m};
    add_part(&route, (part){&router, &all, x, s->probs, 1, true});
    add_part(&route, (part){&mix, &all, x, s->mix, 1, true});
    run_product(&route, n);
    for_items(&b, n, c->n_experts * 8, route_row);

    b.n_groups = cake_group_rows(s->expert, n, c->top_k, c->n_experts, s->row, s->place, s->groups,
                                 s->count);
    place_acts(&b);
    if (n > 1) for_items(&b, b.n_pairs, h, gather_pair);
    if (m->stats) collect_in(&b);

    const cake_group *shared = s->groups + b.n_groups;
    const cake_act *in = s->in, *mid = s->mid;
    product up = {.m = m};
    add_part(&up, (part){&w->gate, s->groups, in, s->gate, b.n_groups, m->f32_mode});
    add_part(&up, (part){&w->up, s->groups, in, s->up, b.n_groups, m->f32_mode});
    add_part(&up, (part){&b.shared_gate, shared, in + b.n_groups, s->shared_gate, 1, m->f32_mode});
    add_part(&up, (part){&b.shared_up, shared, in + b.n_groups, s->shared_up, 1, m->f32_mode});
    run_product(&up, n);

    for_items(&b, b.n_pairs, 2 * c->ff, gate_pair);
    if (b.shared_gate.n) for_items(&b, n, 2 * c->shared_ff, gate_shared);
    if (m->stats) collect_mid(&b);

    product down = {.m = m};
    add_part(&down, (part){&w->down, s->groups, mid, s->down, b.n_groups, m->f32_mode});
    add_part(&down,
             (part){&b.shared_down, shared, mid + b.n_groups, s->shared_down, 1, m->f32_mode});
    run_product(&down, n);
    for_items(&b, n, (c->top_k + 1) * h, add_up_row);
}
