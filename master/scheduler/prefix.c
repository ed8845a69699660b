/* The prefix cache: see prefix.h. Slots keep the lists; the tree only says where to look. */
#include "master/scheduler/prefix.h"
#include "common/mem.h"
#include "worker/embed.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = CAKE_EMBED_KV_BLOCK,
    KEEP_MIN = BLOCK, /* shorter sequences are not worth a slot */
};
#define NONE UINT32_MAX

/* A whole block of tokens, reached through the blocks before it. */
typedef struct node {
    struct node *parent, *child, *next; /* child: the first; next: sibling */
    uint32_t n_slots;                   /* that have it on their path; 0: freed */
    uint32_t tokens[BLOCK];
} node;

typedef enum { FREE, OPEN, KEPT } slot_state;

typedef struct {
    slot_state state;
    uint32_t len;           /* positions on the stages */
    uint32_t n_ready;       /* of them, published */
    uint64_t used;          /* when it was last of use */
    const uint32_t *tokens; /* [n_ready]; KEPT: ours */
    uint32_t *blocks;       /* [per_slot] of the arena */
    node **path;            /* [per_slot], n_ready / BLOCK of them */
} slot;

struct cake_prefix {
    cake_prefix_options o;
    uint32_t per_slot, n_free, n_open, n_kept;
    uint32_t *free_blocks, *refs; /* [n_blocks] */
    slot *slots;
    node root;
    uint64_t clock, evicted;
};

/* ---- life ---- */

cake_prefix *cake_prefix_new(const cake_prefix_options *o) {
    cake_prefix *p = cake_calloc(1, sizeof *p);
    p->o = *o;
    p->per_slot = o->max_positions / BLOCK + 1;
    p->free_blocks = cake_calloc(o->n_blocks, sizeof *p->free_blocks);
    p->refs = cake_calloc(o->n_blocks, sizeof *p->refs);
    p->slots = cake_calloc(o->n_slots, sizeof *p->slots);
    for (uint32_t i = 0; i < o->n_blocks; i++) p->free_blocks[i] = o->n_blocks - 1 - i;
    p->n_free = o->n_blocks;
    for (uint32_t i = 0; i < o->n_slots; i++) {
        p->slots[i].blocks = cake_calloc(p->per_slot, sizeof *p->slots[i].blocks);
        p->slots[i].path = cake_calloc(p->per_slot, sizeof *p->slots[i].path);
    }
    return p;
}

static void push(cake_kv_ops *ops, cake_kv_op op) {
    cake_assert(ops->n < ops->cap);
    ops->v[ops->n++] = op;
}

/* ---- the tree ---- */

static node *find_child(const node *n, const uint32_t *tokens) {
    for (node *c = n->child; c; c = c->next)
        if (memcmp(c->tokens, tokens, sizeof c->tokens) == 0) return c;
    return NULL;
}

/* A node outlives its children: whoever holds a child holds it too. */
static void drop_node(node *n) {
    if (--n->n_slots) return;
    node **at = &n->parent->child;
    while (*at != n) at = &(*at)->next;
    *at = n->next;
    free(n);
}

static uint32_t depth_of(const slot *s) {
    return s->n_ready / BLOCK;
}

static void shrink_path(slot *s, uint32_t n_ready) {
    for (uint32_t i = depth_of(s); i > n_ready / BLOCK; i--) drop_node(s->path[i - 1]);
    s->n_ready = n_ready;
}

static uint32_t common(const uint32_t *a, const uint32_t *b, uint32_t n) {
    uint32_t i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* The slot with the longest ready prefix of tokens[0..n); NONE when nobody has any. */
static uint32_t find(const cake_prefix *p, const uint32_t *tokens, uint32_t n, uint32_t *len) {
    const node *at = &p->root;
    uint32_t depth = 0, best = NONE;
    *len = 0;
    for (node *c; (depth + 1) * BLOCK <= n && (c = find_child(at, tokens + depth * BLOCK)); depth++)
        at = c;
    uint32_t whole = depth * BLOCK;
    for (uint32_t i = 0; i < p->o.n_slots; i++) {
        const slot *s = &p->slots[i];
        if (depth_of(s) < depth || (depth && s->path[depth - 1] != at)) continue;
        uint32_t more = (s->n_ready < n ? s->n_ready : n) - whole;
        uint32_t k = whole + (more ? common(s->tokens + whole, tokens + whole, more) : 0);
        /* Among equals one that is used up by it: then nothing has to be copied. */
        if (k > *len || (k && k == *len && s->state == KEPT && s->n_ready == k)) {
            *len = k;
            best = i;
        }
    }
    return best;
}

uint32_t cake_prefix_match(const cake_prefix *p, const uint32_t *tokens, uint32_t n) {
    uint32_t len;
    find(p, tokens, n, &len);
    return len;
}

/* ---- blocks: what worker/engine/kv.c does, without the blocks' contents ---- */

static uint32_t blocks_for(uint32_t positions) {
    return positions / BLOCK + (positions % BLOCK != 0);
}

static uint32_t take_block(cake_prefix *p) {
    cake_assert(p->n_free > 0);
    uint32_t b = p->free_blocks[--p->n_free];
    p->refs[b] = 1;
    return b;
}

static void shrink(cake_prefix *p, slot *s, uint32_t len) {
    for (uint32_t i = blocks_for(s->len); i > blocks_for(len); i--) {
        uint32_t b = s->blocks[i - 1];
        if (--p->refs[b] == 0) p->free_blocks[p->n_free++] = b;
    }
    s->len = len;
    if (s->n_ready > len) shrink_path(s, len);
}

static void release(cake_prefix *p, uint32_t i, cake_kv_ops *ops) {
    slot *s = &p->slots[i];
    if (s->len) push(ops, (cake_kv_op){.op = CAKE_KV_FREE, .seq = i});
    shrink(p, s, 0);
    if (s->state == KEPT) {
        free((void *)(uintptr_t)s->tokens);
        p->n_kept--;
    } else {
        p->n_open--;
    }
    s->tokens = NULL;
    s->state = FREE;
}

/* Give up the kept slot that was of no use for longest; false when there is none but `spare`. */
static bool evict(cake_prefix *p, uint32_t spare, cake_kv_ops *ops) {
    uint32_t oldest = NONE;
    for (uint32_t i = 0; i < p->o.n_slots; i++)
        if (p->slots[i].state == KEPT && i != spare &&
            (oldest == NONE || p->slots[i].used < p->slots[oldest].used))
            oldest = i;
    if (oldest == NONE) return false;
    release(p, oldest, ops);
    p->evicted++;
    return true;
}

static uint32_t free_slot(const cake_prefix *p) {
    for (uint32_t i = 0; i < p->o.n_slots; i++)
        if (p->slots[i].state == FREE) return i;
    return NONE;
}

void cake_prefix_free(cake_prefix *p) {
    if (!p) return;
    for (uint32_t i = 0; i < p->o.n_slots; i++) {
        slot *s = &p->slots[i];
        shrink_path(s, 0);
        if (s->state == KEPT) free((void *)(uintptr_t)s->tokens);
        free(s->blocks);
        free(s->path);
    }
    free(p->slots);
    free(p->free_blocks);
    free(p->refs);
    free(p);
}

/* ---- a sequence's life ---- */

/* Go on in the kept slot itself, instead of in a copy. */
static uint32_t reopen(cake_prefix *p, uint32_t i, uint32_t *len, cake_kv_ops *ops) {
    slot *s = &p->slots[i];
    /* Rows must never be appended inside of a block that others hold too. */
    if (*len % BLOCK && p->refs[s->blocks[*len / BLOCK]] > 1) *len -= *len % BLOCK;
    if (s->len > *len) push(ops, (cake_kv_op){.op = CAKE_KV_TRIM, .seq = i, .a = *len});
    shrink(p, s, *len);
    shrink_path(s, 0); /* until it is published again */
    free((void *)(uintptr_t)s->tokens);
    s->tokens = NULL;
    s->state = OPEN;
    p->n_kept--;
    p->n_open++;
    return i;
}

uint32_t cake_prefix_open(cake_prefix *p, const uint32_t *tokens, uint32_t n, uint32_t max,
                          uint32_t *len, cake_kv_ops *ops) {
    uint32_t found, src = find(p, tokens, n, &found);
    if (found > max) found = max;
    if (!p->o.keep || found == 0) src = NONE, found = 0;
    *len = found;
    bool kept = src != NONE && p->slots[src].state == KEPT;
    if (src != NONE) p->slots[src].used = ++p->clock;
    if (kept && p->slots[src].n_ready == found) return reopen(p, src, len, ops);
    uint32_t i = free_slot(p);
    while (i == NONE && evict(p, src, ops)) i = free_slot(p);
    bool room = true; /* for a copy of the last block, when it is shared in part */
    while (found % BLOCK && p->n_free == 0 && room) room = evict(p, src, ops);
    if (i == NONE || !room) {
        if (kept) return reopen(p, src, len, ops);
        cake_assert(i != NONE);
        *len = found -= found % BLOCK;
    }
    slot *s = &p->slots[i];
    s->state = OPEN;
    s->len = 0;
    s->n_ready = 0;
    p->n_open++;
    if (found == 0) return i;
    push(ops, (cake_kv_op){.op = CAKE_KV_FORK, .seq = i, .a = src, .b = found});
    for (uint32_t b = 0; b < found / BLOCK; b++) p->refs[s->blocks[b] = p->slots[src].blocks[b]]++;
    if (found % BLOCK) s->blocks[found / BLOCK] = take_block(p);
    s->len = found;
    return i;
}

void cake_prefix_extend(cake_prefix *p, uint32_t i, uint32_t n, cake_kv_ops *ops) {
    slot *s = &p->slots[i];
    uint32_t have = blocks_for(s->len), want = blocks_for(s->len + n);
    /* Only published blocks are shared, and they are never cut: no block is copied on write. */
    cake_assert(s->state == OPEN && s->len + n <= p->o.max_positions &&
                (s->len % BLOCK == 0 || n == 0 || p->refs[s->blocks[have - 1]] == 1));
    while (p->n_free < want - have && evict(p, NONE, ops)) {
    }
    for (uint32_t b = have; b < want; b++) s->blocks[b] = take_block(p);
    s->len += n;
}

void cake_prefix_publish(cake_prefix *p, uint32_t i, const uint32_t *tokens, uint32_t n) {
    slot *s = &p->slots[i];
    cake_assert(s->state == OPEN && n <= s->len && n >= s->n_ready);
    if (!p->o.keep) return;
    s->tokens = tokens;
    for (uint32_t d = depth_of(s); (d + 1) * BLOCK <= n; d++) {
        node *parent = d ? s->path[d - 1] : &p->root;
        node *c = find_child(parent, tokens + d * BLOCK);
        if (!c) {
            c = cake_calloc(1, sizeof *c);
            memcpy(c->tokens, tokens + d * BLOCK, sizeof c->tokens);
            c->parent = parent;
            c->next = parent->child;
            parent->child = c;
        }
        c->n_slots++;
        s->path[d] = c;
    }
    s->n_ready = n;
}

void cake_prefix_trim(cake_prefix *p, uint32_t i, uint32_t len, cake_kv_ops *ops) {
    slot *s = &p->slots[i];
    if (len >= s->len) return;
    push(ops, (cake_kv_op){.op = CAKE_KV_TRIM, .seq = i, .a = len});
    shrink(p, s, len);
}

/* a holds all that b holds. */
static bool covers(const slot *a, const slot *b) {
    uint32_t d = depth_of(b), whole = d * BLOCK;
    return b->n_ready <= a->n_ready && (d == 0 || a->path[d - 1] == b->path[d - 1]) &&
           (b->n_ready == whole || memcmp(a->tokens + whole, b->tokens + whole,
                                          (b->n_ready - whole) * sizeof *a->tokens) == 0);
}

void cake_prefix_close(cake_prefix *p, uint32_t i, cake_kv_ops *ops) {
    slot *s = &p->slots[i];
    cake_assert(s->state == OPEN);
    bool keep = p->o.keep && s->n_ready >= KEEP_MIN;
    for (uint32_t k = 0; keep && k < p->o.n_slots; k++) {
        slot *other = &p->slots[k];
        if (other->state != KEPT) continue;
        if (covers(other, s)) {
            keep = false;
            other->used = ++p->clock;
        } else if (covers(s, other)) {
            release(p, k, ops);
        }
    }
    if (!keep) {
        release(p, i, ops);
        return;
    }
    cake_prefix_trim(p, i, s->n_ready, ops);
    uint32_t *own = cake_malloc(s->n_ready * sizeof *own);
    memcpy(own, s->tokens, s->n_ready * sizeof *own);
    s->tokens = own;
    s->state = KEPT;
    s->used = ++p->clock;
    p->n_open--;
    p->n_kept++;
}

void cake_prefix_stats_get(const cake_prefix *p, cake_prefix_stats *out) {
    *out = (cake_prefix_stats){.open = p->n_open,
                               .kept = p->n_kept,
                               .blocks = p->o.n_blocks,
                               .free_blocks = p->n_free,
                               .evicted = p->evicted};
}
