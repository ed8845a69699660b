/* Following a grammar: see matcher.h. */
#include "master/grammar/matcher.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

enum {
    STATES_SOFT = 2048,  /* forgotten between tokens */
    STATES_HARD = 16384, /* within one token's mask */
    CONFIGS_MAX = 2048,  /* of one state; further ones are left out, which only narrows */
    VISITS_MAX = 1 << 17,
    MASKS_MAX = 64,
    DEAD = 0,
};
#define UNKNOWN UINT32_MAX

/* A stack is a chain of frames, each kept once. Frame 0 is the bottom. */
typedef struct {
    uint32_t ret, parent, depth;
} frame;

typedef struct {
    uint64_t *config; /* sorted: node << 32 | frame, all at nodes that take bytes */
    uint32_t n;
    bool accepts;
    uint32_t *next; /* [256] */
    uint32_t *mask;
} dstate;

typedef struct { /* numbers by hash, open addressing; 0: empty, else index + 1 */
    uint32_t *slot;
    uint32_t size;
} table;

struct cake_matcher {
    const cake_grammar *g;
    const cake_token_trie *t;
    frame *frame;
    uint32_t n_frames, frames_cap;
    dstate *state; /* 0: dead */
    uint32_t n_states, states_cap, n_masks;
    table frames, states;
    uint32_t at;
    /* scratch of closure */
    uint64_t *todo, *seen, *set;
    uint32_t *stamp, now;
    size_t todo_cap, seen_size, n_seen, n_set;
    bool set_accepts;
};

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- frames ---- */

static void table_grow(table *t, uint32_t size) {
    free(t->slot);
    t->size = size;
    t->slot = cake_calloc(size, sizeof *t->slot);
}

static uint64_t frame_hash(uint32_t ret, uint32_t parent) {
    return mix(((uint64_t)ret << 32 | parent) + 0x9e3779b97f4a7c15u);
}

static uint32_t intern_frame(cake_matcher *m, uint32_t ret, uint32_t parent) {
    if (2 * m->n_frames >= m->frames.size) {
        table_grow(&m->frames, 2 * m->frames.size);
        for (uint32_t i = 1; i < m->n_frames; i++) {
            uint64_t h = frame_hash(m->frame[i].ret, m->frame[i].parent);
            while (m->frames.slot[h % m->frames.size]) h++;
            m->frames.slot[h % m->frames.size] = i + 1;
        }
    }
    uint64_t h = frame_hash(ret, parent);
    for (uint32_t s; (s = m->frames.slot[h % m->frames.size]); h++)
        if (m->frame[s - 1].ret == ret && m->frame[s - 1].parent == parent) return s - 1;
    if (m->n_frames == m->frames_cap) {
        m->frames_cap *= 2;
        m->frame = cake_realloc(m->frame, m->frames_cap * sizeof *m->frame);
    }
    m->frame[m->n_frames] =
        (frame){.ret = ret, .parent = parent, .depth = m->frame[parent].depth + 1};
    m->frames.slot[h % m->frames.size] = m->n_frames + 1;
    return m->n_frames++;
}

/* ---- closure: from nodes to the nodes that take bytes ---- */

static bool first_visit(cake_matcher *m, uint64_t c) {
    if (2 * (m->n_seen + 1) > m->seen_size) {
        size_t old = m->seen_size, i;
        uint64_t *seen = m->seen;
        uint32_t *stamp = m->stamp;
        m->seen_size = old ? 2 * old : 1024;
        m->seen = cake_calloc(m->seen_size, sizeof *m->seen);
        m->stamp = cake_calloc(m->seen_size, sizeof *m->stamp);
        for (i = 0; i < old; i++) {
            if (stamp[i] != m->now) continue;
            uint64_t h = mix(seen[i]);
            while (m->stamp[h % m->seen_size] == m->now) h++;
            m->seen[h % m->seen_size] = seen[i];
            m->stamp[h % m->seen_size] = m->now;
        }
        free(seen);
        free(stamp);
    }
    uint64_t h = mix(c);
    for (; m->stamp[h % m->seen_size] == m->now; h++)
        if (m->seen[h % m->seen_size] == c) return false;
    m->seen[h % m->seen_size] = c;
    m->stamp[h % m->seen_size] = m->now;
    m->n_seen++;
    return true;
}

static void begin_set(cake_matcher *m) {
    m->n_set = m->n_seen = 0;
    m->set_accepts = false;
    if (++m->now == 0) { /* stamps of long ago would count again */
        memset(m->stamp, 0, m->seen_size * sizeof *m->stamp);
        m->now = 1;
    }
}

/* Add what can be reached from (node, frame) without a byte. */
static void add_to_set(cake_matcher *m, uint32_t node, uint32_t in) {
    size_t n = 0;
    m->todo[n++] = (uint64_t)node << 32 | in;
    while (n) {
        uint64_t c = m->todo[--n];
        const cake_grammar_node *v = &m->g->node[c >> 32];
        uint32_t f = (uint32_t)c;
        if (v->height == CAKE_GRAMMAR_NEVER ||
            m->frame[f].depth + v->height > CAKE_GRAMMAR_STACK_MAX)
            continue;
        if (m->n_seen >= VISITS_MAX || m->n_set >= CONFIGS_MAX || !first_visit(m, c)) continue;
        if (n + 2 > m->todo_cap) {
            m->todo_cap *= 2;
            m->todo = cake_realloc(m->todo, m->todo_cap * sizeof *m->todo);
        }
        switch (v->kind) {
        case CAKE_NODE_BYTES: m->set[m->n_set++] = c; break;
        case CAKE_NODE_SPLIT:
            m->todo[n++] = (uint64_t)v->other << 32 | f;
            m->todo[n++] = (uint64_t)v->next << 32 | f;
            break;
        case CAKE_NODE_CALL: {
            uint32_t entry = m->g->rule[v->other], after = v->next;
            m->todo[n++] = (uint64_t)entry << 32 | intern_frame(m, after, f);
            break;
        }
        case CAKE_NODE_RETURN:
            if (f == 0)
                m->set_accepts = true;
            else
                m->todo[n++] = (uint64_t)m->frame[f].ret << 32 | m->frame[f].parent;
            break;
        default: break;
        }
    }
}

/* ---- states ---- */

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t set_hash(const uint64_t *v, size_t n, bool accepts) {
    uint64_t h = accepts ? 7 : 3;
    for (size_t i = 0; i < n; i++) h = mix(h + v[i]);
    return h;
}

/* The state of the set that was gathered. grow false: DEAD rather than a new one beyond the limit.
 */
static uint32_t set_state(cake_matcher *m, bool grow) {
    if (m->n_set == 0 && !m->set_accepts) return DEAD;
    qsort(m->set, m->n_set, sizeof *m->set, by_value);
    if (2 * m->n_states >= m->states.size) {
        table_grow(&m->states, 2 * m->states.size);
        for (uint32_t i = 1; i < m->n_states; i++) {
            uint64_t h = set_hash(m->state[i].config, m->state[i].n, m->state[i].accepts);
            while (m->states.slot[h % m->states.size]) h++;
            m->states.slot[h % m->states.size] = i + 1;
        }
    }
    uint64_t h = set_hash(m->set, m->n_set, m->set_accepts);
    for (uint32_t s; (s = m->states.slot[h % m->states.size]); h++) {
        const dstate *d = &m->state[s - 1];
        if (d->n == m->n_set && d->accepts == m->set_accepts &&
            (d->n == 0 || memcmp(d->config, m->set, d->n * sizeof *m->set) == 0))
            return s - 1;
    }
    if (!grow && m->n_states >= STATES_HARD) return DEAD;
    if (m->n_states == m->states_cap) {
        m->states_cap *= 2;
        m->state = cake_realloc(m->state, m->states_cap * sizeof *m->state);
    }
    dstate d = {.n = (uint32_t)m->n_set, .accepts = m->set_accepts};
    d.config = cake_malloc((m->n_set + 1) * sizeof *d.config);
    memcpy(d.config, m->set, m->n_set * sizeof *d.config);
    d.next = cake_malloc(256 * sizeof *d.next);
    memset(d.next, 0xff, 256 * sizeof *d.next);
    m->state[m->n_states] = d;
    m->states.slot[h % m->states.size] = m->n_states + 1;
    return m->n_states++;
}

static uint32_t next_state(cake_matcher *m, uint32_t from, uint8_t byte, bool grow) {
    uint32_t to = m->state[from].next[byte];
    if (to != UNKNOWN) return to;
    begin_set(m);
    for (uint32_t i = 0; i < m->state[from].n; i++) {
        uint64_t c = m->state[from].config[i];
        const cake_grammar_node *v = &m->g->node[c >> 32];
        if (v->lo <= byte && byte <= v->hi) add_to_set(m, v->next, (uint32_t)c);
    }
    to = set_state(m, grow);
    if (to != DEAD || m->n_states < STATES_HARD) m->state[from].next[byte] = to;
    return to;
}

static void free_states(dstate *s, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        free(s[i].config);
        free(s[i].next);
        free(s[i].mask);
    }
    free(s);
}

static void reset(cake_matcher *m) {
    m->n_frames = 1;
    m->frames_cap = 64;
    m->frame = cake_calloc(m->frames_cap, sizeof *m->frame);
    m->states_cap = 64;
    m->state = cake_calloc(m->states_cap, sizeof *m->state);
    m->n_states = 1;
    m->n_masks = 0;
    m->state[DEAD].next = cake_calloc(256, sizeof *m->state[DEAD].next);
    table_grow(&m->frames, 256);
    table_grow(&m->states, 256);
}

static uint32_t move_frame(cake_matcher *m, const frame *old, uint32_t f) {
    return f == 0 ? 0 : intern_frame(m, old[f].ret, move_frame(m, old, old[f].parent));
}

/* Forget all states but the one we are in. */
static void forget(cake_matcher *m) {
    if (m->n_states < STATES_SOFT) return;
    dstate *states = m->state;
    frame *frames = m->frame;
    uint32_t n = m->n_states;
    const dstate *cur = &states[m->at];
    reset(m);
    begin_set(m);
    m->set_accepts = cur->accepts;
    for (uint32_t i = 0; i < cur->n; i++)
        m->set[m->n_set++] =
            (cur->config[i] >> 32) << 32 | move_frame(m, frames, (uint32_t)cur->config[i]);
    m->at = set_state(m, true);
    free_states(states, n);
    free(frames);
}

/* ---- tokens ---- */

/* Where a token leads; DEAD: it may not come. */
static uint32_t after_token(cake_matcher *m, uint32_t token) {
    if (token >= m->t->n_vocab || m->t->index[token] == UINT32_MAX) return DEAD;
    const cake_trie_token *k = &m->t->token[m->t->index[token]];
    uint32_t s = m->at;
    for (uint8_t i = 0; i < k->len && s != DEAD; i++) s = next_state(m, s, k->bytes[i], true);
    return s;
}

bool cake_matcher_takes(cake_matcher *m, uint32_t token) {
    forget(m);
    return after_token(m, token) != DEAD;
}

bool cake_matcher_advance(cake_matcher *m, uint32_t token) {
    forget(m);
    uint32_t s = after_token(m, token);
    if (s == DEAD) return false;
    m->at = s;
    return true;
}

const uint32_t *cake_matcher_mask(cake_matcher *m) {
    forget(m);
    if (m->state[m->at].mask) return m->state[m->at].mask;
    if (m->n_masks == MASKS_MAX) {
        for (uint32_t i = 0; i < m->n_states; i++) {
            free(m->state[i].mask);
            m->state[i].mask = NULL;
        }
        m->n_masks = 0;
    }
    uint32_t *mask = cake_calloc(((size_t)m->t->n_vocab + 31) / 32 + 1, sizeof *mask);
    uint32_t path[CAKE_TRIE_TOKEN_MAX + 1] = {m->at};
    uint8_t alive = 0; /* path[0..alive] are states; the byte behind led nowhere */
    for (uint32_t i = 0; i < m->t->n; i++) {
        const cake_trie_token *k = &m->t->token[i];
        if (k->shared > alive) continue;
        for (alive = k->shared; alive < k->len; alive++) {
            uint32_t s = next_state(m, path[alive], k->bytes[alive], alive == 0);
            if (s == DEAD) break;
            path[alive + 1] = s;
        }
        if (alive == k->len) mask[k->id >> 5] |= 1u << (k->id & 31);
    }
    m->n_masks++;
    return m->state[m->at].mask = mask;
}

bool cake_matcher_may_end(const cake_matcher *m) {
    return m->state[m->at].accepts;
}

bool cake_matcher_must_end(const cake_matcher *m) {
    return m->state[m->at].accepts && m->state[m->at].n == 0;
}

/* ---- life ---- */

cake_matcher *cake_matcher_new(const cake_grammar *g, const cake_token_trie *t) {
    cake_matcher *m = cake_calloc(1, sizeof *m);
    m->g = g;
    m->t = t;
    m->todo_cap = 256;
    m->todo = cake_malloc(m->todo_cap * sizeof *m->todo);
    m->set = cake_malloc(CONFIGS_MAX * sizeof *m->set);
    reset(m);
    begin_set(m);
    add_to_set(m, g->root, 0);
    m->at = set_state(m, true);
    return m;
}

void cake_matcher_free(cake_matcher *m) {
    if (!m) return;
    free_states(m->state, m->n_states);
    free(m->frame);
    free(m->frames.slot);
    free(m->states.slot);
    free(m->todo);
    free(m->seen);
    free(m->stamp);
    free(m->set);
    free(m);
}
