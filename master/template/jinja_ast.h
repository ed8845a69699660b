/* The tree of a parsed template. Immutable after parsing; lives in the arena of its template. */
#ifndef CAKE_MASTER_TEMPLATE_JINJA_AST_H
#define CAKE_MASTER_TEMPLATE_JINJA_AST_H

#include "master/template/jinja_value.h"

/* What a, b, c, v and sym mean for each kind is said beside it. */
typedef enum {
    /* statements */
    JN_TEXT,         /* value */
    JN_PRINT,        /* a */
    JN_IF,           /* v: condition, body, condition, body, ...; b: else body or NULL */
    JN_FOR,          /* a target, b iterable, c filter or NULL, v[0] body, v[1] else body or NULL */
    JN_SET,          /* a target, b value */
    JN_SET_BLOCK,    /* a target, b filter chain or NULL, c body */
    JN_MACRO,        /* sym name, c body, v parameters (JN_NAME), defaults in `opt` beside them */
    JN_CALL_BLOCK,   /* a the call, b the JN_MACRO of the block */
    JN_FILTER_BLOCK, /* b filter chain, c body */
    JN_WITH,         /* v: target, value, ...; c body */
    JN_SCOPE,        /* c body with its own variables ({% generation %}) */
    JN_BREAK,
    JN_CONTINUE,
    JN_BODY, /* v: statements */
    /* expressions */
    JN_CONST,   /* value */
    JN_NAME,    /* sym */
    JN_NSREF,   /* sym, value: member name (assignment target) */
    JN_LIST,    /* v */
    JN_TUPLE,   /* v; also an assignment target */
    JN_DICT,    /* v: key, value, ... */
    JN_AND,     /* a b */
    JN_OR,      /* a b */
    JN_NOT,     /* a */
    JN_NEG,     /* a */
    JN_POS,     /* a */
    JN_BINARY,  /* op, a b */
    JN_CONCAT,  /* v */
    JN_COMPARE, /* a, then v: operands; opt_op: operators */
    JN_COND,    /* a if b else c (c may be NULL) */
    JN_ATTR,    /* a, value: name */
    JN_ITEM,    /* a, b */
    JN_SLICE,   /* a [v0:v1:v2], each may be NULL */
    JN_CALL,    /* a, args */
    JN_FILTER,  /* a (NULL: the captured block), value: name, filter, args */
    JN_TEST,    /* a, value: name, test, args */
} cake_jj_kind;

typedef enum {
    JO_ADD,
    JO_SUB,
    JO_MUL,
    JO_DIV,
    JO_FLOORDIV,
    JO_MOD,
    JO_POW,
    JO_EQ,
    JO_NE,
    JO_LT,
    JO_LE,
    JO_GT,
    JO_GE,
    JO_IN,
    JO_NOT_IN,
} cake_jj_op;

typedef struct cake_jj_node cake_jj_node;

typedef struct {
    cake_jj_value name; /* JJ_MISSING: positional */
    cake_jj_node *node;
    uint8_t stars; /* 1: *args, 2: **kwargs */
} cake_jj_arg_node;

enum { JM_VARARGS = 1, JM_KWARGS = 2, JM_CALLER = 4 }; /* names a macro's body uses */

struct cake_jj_node {
    cake_jj_kind kind;
    uint32_t line;
    uint32_t sym;
    uint8_t op;    /* JN_BINARY: cake_jj_op. JN_FOR: 1 = recursive */
    uint8_t flags; /* JN_MACRO: JM_* */
    uint32_t n, n_args;
    cake_jj_node *a, *b, *c;
    cake_jj_node **v;
    cake_jj_node **opt; /* JN_MACRO: default of each parameter or NULL */
    uint8_t *ops;       /* JN_COMPARE: cake_jj_op of each operand */
    cake_jj_arg_node *args;
    cake_jj_value value;
    cake_jj_filter *filter; /* NULL: unknown, an error when it is reached */
    cake_jj_test *test;
};

typedef struct cake_jj_template {
    cake_jj_node *body;
    cake_jj_value *names; /* of the symbols */
    uint32_t n_names;
} cake_jj_template;

/* Symbols every template has, in this order. */
enum { JS_LOOP, JS_CALLER, JS_VARARGS, JS_KWARGS, JS_FIXED };

/* Memory from r. Fails through r. */
cake_jj_template *cake_jj_parse(cake_jj *r, const char *source, size_t len);

#endif
