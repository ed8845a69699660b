/* Building and closing grammars: see grammar.h. */
#include "master/grammar/grammar.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Time of this thread, so that a busy machine does not refuse what an idle one takes. */
static int64_t thread_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint32_t add(cake_grammar *g, cake_grammar_node n) {
    if (g->n_nodes == CAKE_GRAMMAR_NODES_MAX) {
        g->full = true;
        return CAKE_GRAMMAR_FAIL;
    }
    if (g->n_nodes == g->nodes_cap) {
        g->nodes_cap = g->nodes_cap ? 2 * g->nodes_cap : 256;
        g->node = cake_realloc(g->node, g->nodes_cap * sizeof *g->node);
    }
    g->node[g->n_nodes] = n;
    return g->n_nodes++;
}

cake_grammar *cake_grammar_new(void) {
    cake_grammar *g = cake_calloc(1, sizeof *g);
    add(g, (cake_grammar_node){.kind = CAKE_NODE_RETURN});
    add(g, (cake_grammar_node){.kind = CAKE_NODE_FAIL});
    g->deadline_ns = thread_ns() + (int64_t)CAKE_GRAMMAR_COMPILE_MS * 1000000;
    return g;
}

void cake_grammar_free(cake_grammar *g) {
    if (!g) return;
    free(g->node);
    free(g->rule);
    free(g);
}

bool cake_grammar_exhausted(cake_grammar *g) {
    if (!g->full && thread_ns() > g->deadline_ns) g->full = true;
    return g->full;
}

uint32_t cake_grammar_bytes(cake_grammar *g, uint8_t lo, uint8_t hi, uint32_t next) {
    return add(g, (cake_grammar_node){.kind = CAKE_NODE_BYTES, .lo = lo, .hi = hi, .next = next});
}

uint32_t cake_grammar_split(cake_grammar *g, uint32_t a, uint32_t b) {
    if (a == CAKE_GRAMMAR_FAIL) return b;
    if (b == CAKE_GRAMMAR_FAIL) return a;
    return add(g, (cake_grammar_node){.kind = CAKE_NODE_SPLIT, .next = a, .other = b});
}

uint32_t cake_grammar_call(cake_grammar *g, uint32_t rule, uint32_t next) {
    return add(g, (cake_grammar_node){.kind = CAKE_NODE_CALL, .next = next, .other = rule});
}

uint32_t cake_grammar_text(cake_grammar *g, const char *text, size_t len, uint32_t next) {
    for (size_t i = len; i-- > 0;)
        next = cake_grammar_bytes(g, (uint8_t)text[i], (uint8_t)text[i], next);
    return next;
}

static bool all(const uint8_t *s, size_t n, uint8_t c) {
    for (size_t i = 0; i < n; i++)
        if (s[i] != c) return false;
    return true;
}

uint32_t cake_grammar_span(cake_grammar *g, const uint8_t *lo, const uint8_t *hi, size_t n,
                           uint8_t min, uint8_t max, uint32_t next) {
    uint8_t least[16], most[16];
    if (n == 1) return cake_grammar_bytes(g, lo[0], hi[0], next);
    if (lo[0] == hi[0])
        return cake_grammar_bytes(g, lo[0], lo[0],
                                  cake_grammar_span(g, lo + 1, hi + 1, n - 1, min, max, next));
    cake_assert(n <= sizeof least);
    memset(least, min, sizeof least);
    memset(most, max, sizeof most);
    uint8_t first = lo[0], last = hi[0];
    uint32_t parts = CAKE_GRAMMAR_FAIL;
    if (!all(lo + 1, n - 1, min)) {
        uint32_t tail = cake_grammar_span(g, lo + 1, most, n - 1, min, max, next);
        parts = cake_grammar_bytes(g, first++, lo[0], tail);
    }
    if (!all(hi + 1, n - 1, max)) {
        uint32_t tail = cake_grammar_span(g, least, hi + 1, n - 1, min, max, next);
        parts = cake_grammar_split(g, parts, cake_grammar_bytes(g, last--, hi[0], tail));
    }
    if (first <= last) {
        uint32_t tail = cake_grammar_span(g, least, most, n - 1, min, max, next);
        parts = cake_grammar_split(g, parts, cake_grammar_bytes(g, first, last, tail));
    }
    return parts;
}

static size_t put_utf8(uint32_t c, uint8_t out[4]) {
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (uint8_t)(0x80 | (c & 0x3f));
    out[0] = (uint8_t)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

uint32_t cake_grammar_code_points(cake_grammar *g, uint32_t lo, uint32_t hi, uint32_t next) {
    /* Pieces of one length each, without the surrogates. */
    static const uint32_t piece[][2] = {
        {0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, 0x10ffff}};
    uint32_t parts = CAKE_GRAMMAR_FAIL;
    for (size_t i = 0; i < sizeof piece / sizeof *piece; i++) {
        uint32_t a = lo > piece[i][0] ? lo : piece[i][0], b = hi < piece[i][1] ? hi : piece[i][1];
        uint8_t from[4], to[4];
        if (a > b) continue;
        size_t n = put_utf8(a, from);
        put_utf8(b, to);
        parts = cake_grammar_split(g, parts, cake_grammar_span(g, from, to, n, 0x80, 0xbf, next));
    }
    return parts;
}

uint32_t cake_grammar_loop(cake_grammar *g, uint32_t end) {
    return add(
        g, (cake_grammar_node){.kind = CAKE_NODE_SPLIT, .next = end, .other = CAKE_GRAMMAR_FAIL});
}

void cake_grammar_loop_close(cake_grammar *g, uint32_t loop, uint32_t body) {
    if (loop != CAKE_GRAMMAR_FAIL) g->node[loop].other = body;
}

uint32_t cake_grammar_rule(cake_grammar *g) {
    if (g->n_rules == g->rules_cap) {
        g->rules_cap = g->rules_cap ? 2 * g->rules_cap : 32;
        g->rule = cake_realloc(g->rule, g->rules_cap * sizeof *g->rule);
    }
    g->rule[g->n_rules] = CAKE_GRAMMAR_FAIL;
    return g->n_rules++;
}

static unsigned height_of(const cake_grammar *g, const cake_grammar_node *n, const bool *alphabet) {
    unsigned a = g->node[n->next].height, b;
    switch (n->kind) {
    case CAKE_NODE_RETURN: return 0;
    case CAKE_NODE_BYTES:
        for (unsigned c = n->lo; c <= n->hi; c++)
            if (alphabet[c]) return a;
        return CAKE_GRAMMAR_NEVER;
    case CAKE_NODE_SPLIT: b = g->node[n->other].height; return a < b ? a : b;
    case CAKE_NODE_CALL:
        b = g->node[g->rule[n->other]].height;
        if (a == CAKE_GRAMMAR_NEVER || b >= CAKE_GRAMMAR_STACK_MAX) return CAKE_GRAMMAR_NEVER;
        return a > b + 1 ? a : b + 1;
    default: return CAKE_GRAMMAR_NEVER;
    }
}

cake_status cake_grammar_finish(cake_grammar *g, uint32_t root, const bool alphabet[256],
                                cake_error *err) {
    g->root = root;
    for (uint32_t i = 0; i < g->n_nodes; i++) g->node[i].height = CAKE_GRAMMAR_NEVER;
    /* Most nodes follow those they lead to; loops and rules take further rounds. */
    for (bool changed = true; changed && !cake_grammar_exhausted(g);) {
        changed = false;
        for (uint32_t i = 0; i < g->n_nodes; i++) {
            uint16_t h = (uint16_t)height_of(g, &g->node[i], alphabet);
            changed |= h != g->node[i].height;
            g->node[i].height = h;
        }
    }
    if (g->full)
        return cake_fail(err, CAKE_ENOSPACE,
                         "it is too large: at most %d steps or %d ms to compile",
                         CAKE_GRAMMAR_NODES_MAX, CAKE_GRAMMAR_COMPILE_MS);
    if (g->node[root].height == CAKE_GRAMMAR_NEVER)
        return cake_fail(err, CAKE_EINVAL,
                         "nothing can satisfy it (it asks for itself without end, or for "
                         "characters that this model's vocabulary lacks)");
    return CAKE_OK;
}
