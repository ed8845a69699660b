/* Grammars over bytes: what a constrained answer may consist of.
 *
 * A grammar is a pushdown automaton: nodes that take a byte of a range, split, call a rule, or
 * return from one. It is built backwards (each function gets the node that follows and returns the
 * one that goes before), then closed by cake_grammar_finish, which works out for every node how
 * deep the stack must yet grow to get to an end. The matcher (matcher.h) never enters a node from
 * which the end cannot be reached within CAKE_GRAMMAR_STACK_MAX, with bytes that the vocabulary has
 * as single tokens; so whatever is sampled, a way to the end always remains.
 *
 * Limits: CAKE_GRAMMAR_NODES_MAX nodes; building beyond them is harmless and makes finish fail.
 * Threads: one builds; once finished it is immutable and may be shared. */
#ifndef CAKE_MASTER_GRAMMAR_GRAMMAR_H
#define CAKE_MASTER_GRAMMAR_GRAMMAR_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_GRAMMAR_NODES_MAX = 200000,
    CAKE_GRAMMAR_STACK_MAX = 128, /* calls within each other */
    CAKE_GRAMMAR_COMPILE_MS = 100,
    CAKE_GRAMMAR_NEVER = 0xffff, /* height of a node without a way to the end */
};

typedef enum {
    CAKE_NODE_BYTES,  /* one byte of [lo, hi], then next */
    CAKE_NODE_SPLIT,  /* next or other */
    CAKE_NODE_CALL,   /* rule `other`, then next */
    CAKE_NODE_RETURN, /* end of a rule; of the root: of the answer */
    CAKE_NODE_FAIL,
} cake_grammar_node_kind;

typedef struct {
    uint8_t kind, lo, hi;
    uint16_t height; /* calls that must yet be made within each other to return */
    uint32_t next, other;
} cake_grammar_node;

typedef struct {
    cake_grammar_node *node;
    uint32_t *rule; /* entry nodes */
    uint32_t n_nodes, n_rules, nodes_cap, rules_cap;
    uint32_t root; /* entry node of the whole */
    bool full;     /* a limit was reached */
    int64_t deadline_ns;
} cake_grammar;

/* The two nodes every grammar has. */
enum { CAKE_GRAMMAR_RETURN = 0, CAKE_GRAMMAR_FAIL = 1 };

cake_grammar *cake_grammar_new(void);
void cake_grammar_free(cake_grammar *g);

/* Each returns a node (CAKE_GRAMMAR_FAIL when the grammar is full). */
uint32_t cake_grammar_bytes(cake_grammar *g, uint8_t lo, uint8_t hi, uint32_t next);
uint32_t cake_grammar_split(cake_grammar *g, uint32_t a, uint32_t b);
uint32_t cake_grammar_call(cake_grammar *g, uint32_t rule, uint32_t next);
uint32_t cake_grammar_text(cake_grammar *g, const char *text, size_t len, uint32_t next);
/* Byte strings of n bytes between lo and hi (both included) in the order of memcmp, whose bytes
 * but the first are of [min, max]: digits of numbers, UTF-8 of code points. */
uint32_t cake_grammar_span(cake_grammar *g, const uint8_t *lo, const uint8_t *hi, size_t n,
                           uint8_t min, uint8_t max, uint32_t next);
/* UTF-8 of one code point of [lo, hi], surrogates left out. */
uint32_t cake_grammar_code_points(cake_grammar *g, uint32_t lo, uint32_t hi, uint32_t next);
/* A loop: pass the node to what is repeated as its end, then close it with the entry of that. */
uint32_t cake_grammar_loop(cake_grammar *g, uint32_t end);
void cake_grammar_loop_close(cake_grammar *g, uint32_t loop, uint32_t body);
/* A new rule, to be given an entry: g->rule[id] = node, which ends in CAKE_GRAMMAR_RETURN. */
uint32_t cake_grammar_rule(cake_grammar *g);

/* Work out heights. alphabet: bytes that some token consists of alone. CAKE_ENOSPACE: too large or
 * too slow to compile; CAKE_EINVAL: nothing can satisfy it. */
cake_status cake_grammar_finish(cake_grammar *g, uint32_t root, const bool alphabet[256],
                                cake_error *err);
/* Building has taken longer than CAKE_GRAMMAR_COMPILE_MS, or there are too many nodes. */
bool cake_grammar_exhausted(cake_grammar *g);

#endif
