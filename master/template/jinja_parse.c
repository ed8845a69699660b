/* Recursive-descent parser of the template language; grammar and precedence are Jinja's. */
#include "master/template/jinja_ast.h"
#include "master/template/jinja_lex.h"

#include <string.h>

enum { MAX_DEPTH = 200 };

typedef struct {
    cake_jj *r;
    const cake_jj_token *tok, *end;
    cake_jj_template *t;
    size_t cap_names;
    cake_jj_node *macro; /* innermost macro being read */
    uint32_t opened;     /* line of the innermost statement being read */
    unsigned loops;      /* for-bodies around, within the innermost macro */
} parser;

typedef struct {
    cake_jj_node **v;
    uint32_t n, cap;
} node_list;

/* ---- small tools ---- */

static void deeper(parser *p) {
    if (++p->r->depth > MAX_DEPTH)
        cake_jj_fail(p->r, CAKE_EFORMAT, "nested deeper than %d levels", MAX_DEPTH);
}

static cake_jj_node *node(parser *p, cake_jj_kind kind) {
    cake_jj_node *n = cake_jj_zalloc(p->r, sizeof *n);
    n->kind = kind;
    n->line = p->tok->line;
    return n;
}

static cake_jj_node *node_at(parser *p, cake_jj_kind kind, uint32_t line) {
    cake_jj_node *n = node(p, kind);
    n->line = line;
    return n;
}

static void add(parser *p, node_list *l, cake_jj_node *n) {
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 4;
        cake_jj_node **v = cake_jj_alloc(p->r, cap * sizeof *v);
        if (l->n) memcpy(v, l->v, l->n * sizeof *v);
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = n;
}

static void next(parser *p) {
    if (p->tok < p->end) p->tok++;
    p->r->line = p->tok->line;
}

static bool is_name(const parser *p, const char *z) {
    return p->tok->type == JT_NAME && cake_jj_is(p->tok->value, z);
}

static bool is_op(const parser *p, uint32_t op) {
    return p->tok->type == JT_OP && p->tok->op == op;
}

static bool skip_name(parser *p, const char *z) {
    if (!is_name(p, z)) return false;
    next(p);
    return true;
}

static bool skip_op(parser *p, uint32_t op) {
    if (!is_op(p, op)) return false;
    next(p);
    return true;
}

_Noreturn static void unexpected(parser *p, const char *wanted) {
    const cake_jj_token *t = p->tok;
    const char *between = wanted[0] ? ", expected " : "";
    int n = t->value.len > 40 ? 40 : (int)t->value.len;
    switch (t->type) {
    case JT_END:
        cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected end of template%s%s", between, wanted);
    case JT_PRINT_END:
        cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected end of print statement%s%s", between, wanted);
    case JT_BLOCK_END:
        cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected end of block%s%s", between, wanted);
    case JT_NAME:
        cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected '%.*s'%s%s", n, t->value.u.s, between, wanted);
    case JT_STRING: cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected string%s%s", between, wanted);
    case JT_NUMBER: cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected number%s%s", between, wanted);
    case JT_OP:
        if (t->op < 256)
            cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected '%c'%s%s", (int)t->op, between, wanted);
        cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected '%c%c'%s%s", (int)(t->op >> 8),
                     (int)(t->op & 255), between, wanted);
    default: cake_jj_fail(p->r, CAKE_EFORMAT, "unexpected text%s%s", between, wanted);
    }
}

static void expect_op(parser *p, uint32_t op) {
    char t[8] = {'\'', (char)op, '\'', 0};
    if (!skip_op(p, op)) unexpected(p, t);
}

static void expect_block_end(parser *p) {
    if (p->tok->type != JT_BLOCK_END) unexpected(p, "%}");
    next(p);
}

static cake_jj_value expect_name(parser *p) {
    if (p->tok->type != JT_NAME) unexpected(p, "a name");
    cake_jj_value v = p->tok->value;
    next(p);
    return v;
}

static uint32_t symbol(parser *p, cake_jj_value name) {
    cake_jj_template *t = p->t;
    for (uint32_t i = 0; i < t->n_names; i++)
        if (t->names[i].len == name.len && memcmp(t->names[i].u.s, name.u.s, name.len) == 0)
            return i;
    if (t->n_names == p->cap_names) {
        size_t cap = p->cap_names ? p->cap_names * 2 : 64;
        cake_jj_value *v = cake_jj_alloc(p->r, cap * sizeof *v);
        if (t->n_names) memcpy(v, t->names, t->n_names * sizeof *v);
        t->names = v;
        p->cap_names = cap;
    }
    cake_jj_step(p->r, t->n_names);
    t->names[t->n_names] = name;
    return t->n_names++;
}

/* ---- expressions ---- */

static cake_jj_node *expression(parser *p);
static cake_jj_node *parse_or(parser *p);
static cake_jj_node *unary(parser *p, bool with_filter);
static cake_jj_node *postfix(parser *p, cake_jj_node *n);

static bool tuple_end(const parser *p) {
    return p->tok->type == JT_PRINT_END || p->tok->type == JT_BLOCK_END || is_op(p, ')') ||
           is_name(p, "recursive");
}

/* One expression, or several with commas: a tuple. cond: "a if b else c" may stand here. */
static cake_jj_node *tuple(parser *p, bool cond, bool parenthesised) {
    node_list l = {0};
    cake_jj_node *t = node(p, JN_TUPLE);
    bool is_tuple = false;
    for (;;) {
        if (l.n) expect_op(p, ',');
        /* "recursive" ends only the list of a for loop, which takes no conditional */
        if (tuple_end(p) && !(cond && p->tok->type == JT_NAME)) break;
        add(p, &l, cond ? expression(p) : parse_or(p));
        if (!is_op(p, ',')) break;
        is_tuple = true;
    }
    if (!is_tuple) {
        if (l.n) return l.v[0];
        if (!parenthesised) unexpected(p, "an expression");
    }
    t->v = l.v;
    t->n = l.n;
    return t;
}

static void call_args(parser *p, cake_jj_node *n) {
    expect_op(p, '(');
    uint32_t cap = 0;
    bool keyword = false, star = false, star2 = false;
    while (!is_op(p, ')')) {
        if (n->n_args) {
            expect_op(p, ',');
            if (is_op(p, ')')) break;
        }
        cake_jj_arg_node a = {0};
        bool misplaced = false;
        if (skip_op(p, JJ_OP2('*', '*'))) {
            misplaced = star2;
            a.stars = 2;
            star2 = true;
        } else if (skip_op(p, '*')) {
            misplaced = star || star2;
            a.stars = 1;
            star = true;
        } else if (p->tok->type == JT_NAME && p->tok[1].type == JT_OP && p->tok[1].op == '=') {
            a.name = expect_name(p);
            next(p);
            misplaced = star2;
            keyword = true;
        } else {
            misplaced = keyword || star || star2;
        }
        if (misplaced) {
            cake_jj_fail(
                p->r, CAKE_EFORMAT,
                "the arguments of a call are out of order (positional, *args, named, **kwargs)");
        }
        a.node = expression(p);
        if (n->n_args == cap) {
            cap = cap ? cap * 2 : 4;
            cake_jj_arg_node *v = cake_jj_alloc(p->r, cap * sizeof *v);
            if (n->n_args) memcpy(v, n->args, n->n_args * sizeof *v);
            n->args = v;
        }
        n->args[n->n_args++] = a;
    }
    next(p);
}

static cake_jj_value dotted_name(parser *p) {
    cake_jj_value name = expect_name(p);
    while (skip_op(p, '.')) {
        name = cake_jj_concat(p->r, name, cake_jj_strz("."));
        name = cake_jj_concat(p->r, name, expect_name(p));
    }
    return name;
}

/* Behind '|' . a: what is filtered, NULL for a block. */
static cake_jj_node *filter(parser *p, cake_jj_node *a) {
    cake_jj_node *n = node(p, JN_FILTER);
    n->a = a;
    n->value = dotted_name(p);
    n->filter = cake_jj_find_filter(n->value);
    if (is_op(p, '(')) call_args(p, n);
    return n;
}

/* Behind "is". */
static cake_jj_node *test(parser *p, cake_jj_node *a) {
    bool negate = skip_name(p, "not");
    cake_jj_node *n = node(p, JN_TEST);
    n->a = a;
    n->value = dotted_name(p);
    n->test = cake_jj_find_test(n->value);
    const cake_jj_token *t = p->tok;
    if (is_op(p, '(')) {
        call_args(p, n);
    } else if ((t->type == JT_NAME && !is_name(p, "else") && !is_name(p, "or") &&
                !is_name(p, "and")) ||
               t->type == JT_STRING || t->type == JT_NUMBER || is_op(p, '[') || is_op(p, '{')) {
        if (is_name(p, "is")) cake_jj_fail(p->r, CAKE_EFORMAT, "tests cannot be chained with 'is'");
        n->args = cake_jj_zalloc(p->r, sizeof *n->args);
        n->n_args = 1;
        n->args[0].node = unary(p, false);
    }
    if (!negate) return n;
    cake_jj_node *not = node_at(p, JN_NOT, n->line);
    not ->a = n;
    return not ;
}

static cake_jj_node *subscript(parser *p, cake_jj_node *a) {
    cake_jj_node *n = node(p, JN_ATTR);
    n->a = a;
    if (skip_op(p, '.')) {
        if (p->tok->type == JT_NUMBER && p->tok->integer) {
            n->kind = JN_ITEM;
            n->b = node(p, JN_CONST);
            n->b->value = p->tok->value;
            next(p);
            return n;
        }
        n->value = expect_name(p);
        return n;
    }
    expect_op(p, '[');
    n->kind = JN_ITEM;
    cake_jj_node *part[3] = {NULL, NULL, NULL};
    int k = 0;
    if (!is_op(p, ':')) part[0] = expression(p);
    while (k < 2 && skip_op(p, ':')) {
        k++;
        if (!is_op(p, ':') && !is_op(p, ']')) part[k] = expression(p);
    }
    if (k) {
        n->kind = JN_SLICE;
        n->v = cake_jj_alloc(p->r, sizeof part);
        memcpy(n->v, part, sizeof part);
        n->n = 3;
    } else if (is_op(p, ',')) { /* a[b, c]: a tuple as the key */
        node_list l = {0};
        cake_jj_node *key = node(p, JN_TUPLE);
        add(p, &l, part[0]);
        while (skip_op(p, ',') && !is_op(p, ']')) add(p, &l, expression(p));
        key->v = l.v;
        key->n = l.n;
        n->b = key;
    } else {
        n->b = part[0];
    }
    expect_op(p, ']');
    return n;
}

static cake_jj_node *call(parser *p, cake_jj_node *a) {
    cake_jj_node *n = node(p, JN_CALL);
    n->a = a;
    call_args(p, n);
    return n;
}

static cake_jj_node *postfix(parser *p, cake_jj_node *n) {
    for (;;) {
        if (is_op(p, '.') || is_op(p, '['))
            n = subscript(p, n);
        else if (is_op(p, '('))
            n = call(p, n);
        else
            return n;
    }
}

static cake_jj_node *list(parser *p) {
    cake_jj_node *n = node(p, JN_LIST);
    node_list l = {0};
    expect_op(p, '[');
    while (!is_op(p, ']')) {
        if (l.n) {
            expect_op(p, ',');
            if (is_op(p, ']')) break;
        }
        add(p, &l, expression(p));
    }
    next(p);
    n->v = l.v;
    n->n = l.n;
    return n;
}

static cake_jj_node *dict(parser *p) {
    cake_jj_node *n = node(p, JN_DICT);
    node_list l = {0};
    expect_op(p, '{');
    while (!is_op(p, '}')) {
        if (l.n) {
            expect_op(p, ',');
            if (is_op(p, '}')) break;
        }
        add(p, &l, expression(p));
        expect_op(p, ':');
        add(p, &l, expression(p));
    }
    next(p);
    n->v = l.v;
    n->n = l.n;
    return n;
}

static cake_jj_node *name_node(parser *p, cake_jj_value name) {
    cake_jj_node *n = node(p, JN_NAME);
    n->sym = symbol(p, name);
    if (p->macro) {
        if (n->sym == JS_VARARGS) p->macro->flags |= JM_VARARGS;
        if (n->sym == JS_KWARGS) p->macro->flags |= JM_KWARGS;
        if (n->sym == JS_CALLER) p->macro->flags |= JM_CALLER;
    }
    return n;
}

static cake_jj_node *primary(parser *p) {
    const cake_jj_token *t = p->tok;
    cake_jj_node *n;
    if (t->type == JT_NAME) {
        n = node(p, JN_CONST);
        if (cake_jj_is(t->value, "true") || cake_jj_is(t->value, "True"))
            n->value = cake_jj_bool(true);
        else if (cake_jj_is(t->value, "false") || cake_jj_is(t->value, "False"))
            n->value = cake_jj_bool(false);
        else if (cake_jj_is(t->value, "none") || cake_jj_is(t->value, "None"))
            n->value = cake_jj_none();
        else
            n = name_node(p, t->value);
        next(p);
        return n;
    }
    if (t->type == JT_NUMBER) {
        n = node(p, JN_CONST);
        n->value = t->value;
        next(p);
        return n;
    }
    if (t->type == JT_STRING) {
        n = node(p, JN_CONST);
        n->value = t->value;
        next(p);
        while (p->tok->type == JT_STRING) { /* 'a' 'b' is 'ab' */
            n->value = cake_jj_concat(p->r, n->value, p->tok->value);
            next(p);
        }
        return n;
    }
    if (skip_op(p, '(')) {
        n = tuple(p, true, true);
        expect_op(p, ')');
        return n;
    }
    if (is_op(p, '[')) return list(p);
    if (is_op(p, '{')) return dict(p);
    unexpected(p, "");
}

static cake_jj_node *unary(parser *p, bool with_filter) {
    cake_jj_node *n;
    deeper(p);
    if (is_op(p, '-') || is_op(p, '+')) {
        n = node(p, is_op(p, '-') ? JN_NEG : JN_POS);
        next(p);
        n->a = unary(p, false);
    } else {
        n = primary(p);
    }
    n = postfix(p, n);
    while (with_filter) {
        if (skip_op(p, '|'))
            n = filter(p, n);
        else if (skip_name(p, "is"))
            n = test(p, n);
        else if (is_op(p, '('))
            n = call(p, n);
        else
            break;
    }
    p->r->depth--;
    return n;
}

static cake_jj_node *binary(parser *p, cake_jj_node *a, cake_jj_op op,
                            cake_jj_node *(*operand)(parser *)) {
    cake_jj_node *n = node(p, JN_BINARY);
    next(p);
    n->op = (uint8_t)op;
    n->a = a;
    n->b = operand(p);
    return n;
}

static cake_jj_node *unary_filtered(parser *p) {
    return unary(p, true);
}

static cake_jj_node *power(parser *p) {
    cake_jj_node *a = unary_filtered(p);
    while (is_op(p, JJ_OP2('*', '*'))) a = binary(p, a, JO_POW, unary_filtered);
    return a;
}

static cake_jj_node *product(parser *p) {
    cake_jj_node *a = power(p);
    for (;;) {
        if (is_op(p, '*'))
            a = binary(p, a, JO_MUL, power);
        else if (is_op(p, '/'))
            a = binary(p, a, JO_DIV, power);
        else if (is_op(p, JJ_OP2('/', '/')))
            a = binary(p, a, JO_FLOORDIV, power);
        else if (is_op(p, '%'))
            a = binary(p, a, JO_MOD, power);
        else
            return a;
    }
}

static cake_jj_node *concat(parser *p) {
    cake_jj_node *a = product(p);
    if (!is_op(p, '~')) return a;
    cake_jj_node *n = node(p, JN_CONCAT);
    node_list l = {0};
    add(p, &l, a);
    while (skip_op(p, '~')) add(p, &l, product(p));
    n->v = l.v;
    n->n = l.n;
    return n;
}

static cake_jj_node *sum(parser *p) {
    cake_jj_node *a = concat(p);
    for (;;) {
        if (is_op(p, '+'))
            a = binary(p, a, JO_ADD, concat);
        else if (is_op(p, '-'))
            a = binary(p, a, JO_SUB, concat);
        else
            return a;
    }
}

/* The comparison operator here, -1 when there is none; *tokens: how many it takes. */
static int compare_op(const parser *p, int *tokens) {
    *tokens = 1;
    if (is_name(p, "in")) return JO_IN;
    if (is_name(p, "not") && p->tok[1].type == JT_NAME && cake_jj_is(p->tok[1].value, "in")) {
        *tokens = 2;
        return JO_NOT_IN;
    }
    if (p->tok->type != JT_OP) return -1;
    switch (p->tok->op) {
    case JJ_OP2('=', '='): return JO_EQ;
    case JJ_OP2('!', '='): return JO_NE;
    case JJ_OP2('<', '='): return JO_LE;
    case JJ_OP2('>', '='): return JO_GE;
    case '<': return JO_LT;
    case '>': return JO_GT;
    default: return -1;
    }
}

static cake_jj_node *comparison(parser *p) {
    cake_jj_node *a = sum(p);
    int tokens, op = compare_op(p, &tokens);
    if (op < 0) return a;
    cake_jj_node *n = node(p, JN_COMPARE);
    node_list l = {0};
    size_t cap = 0;
    n->a = a;
    for (; op >= 0; op = compare_op(p, &tokens)) {
        if (l.n == cap) {
            cap = cap ? cap * 2 : 4;
            uint8_t *ops = cake_jj_alloc(p->r, cap);
            if (l.n) memcpy(ops, n->ops, l.n);
            n->ops = ops;
        }
        n->ops[l.n] = (uint8_t)op;
        while (tokens--) next(p);
        add(p, &l, sum(p));
    }
    n->v = l.v;
    n->n = l.n;
    return n;
}

static cake_jj_node *parse_not(parser *p) {
    if (!is_name(p, "not")) return comparison(p);
    deeper(p);
    cake_jj_node *n = node(p, JN_NOT);
    next(p);
    n->a = parse_not(p);
    p->r->depth--;
    return n;
}

static cake_jj_node *parse_and(parser *p) {
    cake_jj_node *a = parse_not(p);
    while (is_name(p, "and")) {
        cake_jj_node *n = node(p, JN_AND);
        next(p);
        n->a = a;
        n->b = parse_not(p);
        a = n;
    }
    return a;
}

static cake_jj_node *parse_or(parser *p) {
    cake_jj_node *a = parse_and(p);
    while (is_name(p, "or")) {
        cake_jj_node *n = node(p, JN_OR);
        next(p);
        n->a = a;
        n->b = parse_and(p);
        a = n;
    }
    return a;
}

static cake_jj_node *expression(parser *p) {
    deeper(p);
    cake_jj_node *a = parse_or(p);
    while (is_name(p, "if")) {
        cake_jj_node *n = node(p, JN_COND);
        next(p);
        n->a = a;
        n->b = parse_or(p);
        if (skip_name(p, "else")) n->c = expression(p);
        a = n;
    }
    p->r->depth--;
    return a;
}

/* ---- statements ---- */

static cake_jj_node *body(parser *p, const char *const *ends);

static cake_jj_node *block_body(parser *p, const char *end) {
    expect_block_end(p);
    const char *const ends[] = {end, NULL};
    cake_jj_node *b = body(p, ends);
    next(p);
    return b;
}

/* A name, a.b of a namespace, or names with commas. */
static cake_jj_node *target(parser *p, bool members) {
    node_list l = {0};
    cake_jj_node *t = node(p, JN_TUPLE);
    bool comma = false;
    for (;;) {
        cake_jj_node *n;
        if (skip_op(p, '(')) {
            deeper(p);
            n = target(p, members);
            p->r->depth--;
            expect_op(p, ')');
        } else {
            cake_jj_value name = expect_name(p);
            static const char *const no[] = {"true", "false", "none", "True", "False", "None"};
            for (size_t i = 0; i < 6; i++)
                if (cake_jj_is(name, no[i]))
                    cake_jj_fail(p->r, CAKE_EFORMAT, "cannot assign to '%s'", no[i]);
            n = node(p, JN_NAME);
            n->sym = symbol(p, name);
            if (members && skip_op(p, '.')) {
                n->kind = JN_NSREF;
                n->value = expect_name(p);
            }
        }
        add(p, &l, n);
        if (!skip_op(p, ',')) break;
        comma = true;
        if (is_name(p, "in") || is_op(p, '=') || p->tok->type == JT_BLOCK_END) break;
    }
    if (!comma) return l.v[0];
    t->v = l.v;
    t->n = l.n;
    return t;
}

static cake_jj_node *parse_if(parser *p) {
    cake_jj_node *n = node(p, JN_IF);
    node_list l = {0};
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    do {
        add(p, &l, tuple(p, false, false));
        expect_block_end(p);
        add(p, &l, body(p, ends));
    } while (skip_name(p, "elif"));
    if (skip_name(p, "else"))
        n->b = block_body(p, "endif");
    else
        next(p);
    n->v = l.v;
    n->n = l.n;
    return n;
}

static cake_jj_node *parse_for(parser *p) {
    cake_jj_node *n = node(p, JN_FOR);
    static const char *const ends[] = {"else", "endfor", NULL};
    n->a = target(p, false);
    if (!skip_name(p, "in")) unexpected(p, "'in'");
    n->b = tuple(p, false, false);
    if (skip_name(p, "if")) n->c = expression(p);
    n->op = skip_name(p, "recursive");
    expect_block_end(p);
    n->v = cake_jj_zalloc(p->r, 2 * sizeof *n->v);
    n->n = 2;
    p->loops++;
    n->v[0] = body(p, ends);
    p->loops--;
    if (skip_name(p, "else"))
        n->v[1] = block_body(p, "endfor");
    else
        next(p);
    return n;
}

static cake_jj_node *parse_set(parser *p) {
    cake_jj_node *n = node(p, JN_SET);
    n->a = target(p, true);
    if (skip_op(p, '=')) {
        n->b = tuple(p, true, false);
        return n;
    }
    n->kind = JN_SET_BLOCK;
    while (skip_op(p, '|')) n->b = filter(p, n->b);
    n->c = block_body(p, "endset");
    return n;
}

static void signature(parser *p, cake_jj_node *m) {
    node_list names = {0}, defaults = {0};
    bool optional = false;
    expect_op(p, '(');
    while (!is_op(p, ')')) {
        if (names.n) {
            expect_op(p, ',');
            if (is_op(p, ')')) break;
        }
        cake_jj_node *n = node(p, JN_NAME);
        n->sym = symbol(p, expect_name(p));
        add(p, &names, n);
        if (skip_op(p, '=')) {
            optional = true;
            add(p, &defaults, expression(p));
        } else if (optional) {
            cake_jj_fail(p->r, CAKE_EFORMAT,
                         "a parameter without default follows one with a default");
        } else {
            add(p, &defaults, NULL);
        }
    }
    next(p);
    m->v = names.v;
    m->n = names.n;
    m->opt = defaults.v;
}

static void macro_body(parser *p, cake_jj_node *m, const char *end) {
    cake_jj_node *outer = p->macro;
    unsigned loops = p->loops;
    p->macro = m;
    p->loops = 0;
    m->c = block_body(p, end);
    p->macro = outer;
    p->loops = loops;
    /* {% call %} inside a macro: its block may hand on the outer caller */
    if (outer && m->sym == JS_CALLER) outer->flags |= m->flags;
}

static cake_jj_node *parse_macro(parser *p) {
    cake_jj_node *n = node(p, JN_MACRO);
    cake_jj_value name = expect_name(p);
    n->sym = symbol(p, name);
    n->value = name;
    signature(p, n);
    macro_body(p, n, "endmacro");
    return n;
}

static cake_jj_node *parse_call_block(parser *p) {
    cake_jj_node *n = node(p, JN_CALL_BLOCK), *m = node(p, JN_MACRO);
    m->sym = JS_CALLER;
    m->value = cake_jj_strz("caller");
    if (is_op(p, '(')) signature(p, m);
    n->a = expression(p);
    if (n->a->kind != JN_CALL) unexpected(p, "a call");
    n->b = m;
    macro_body(p, m, "endcall");
    return n;
}

static cake_jj_node *parse_filter_block(parser *p) {
    cake_jj_node *n = node(p, JN_FILTER_BLOCK);
    n->b = filter(p, NULL);
    while (skip_op(p, '|')) n->b = filter(p, n->b);
    n->c = block_body(p, "endfilter");
    return n;
}

static cake_jj_node *parse_with(parser *p) {
    cake_jj_node *n = node(p, JN_WITH);
    node_list l = {0};
    while (p->tok->type != JT_BLOCK_END) {
        if (l.n) expect_op(p, ',');
        add(p, &l, target(p, false));
        expect_op(p, '=');
        add(p, &l, expression(p));
    }
    n->v = l.v;
    n->n = l.n;
    n->c = block_body(p, "endwith");
    return n;
}

static cake_jj_node *parse_jump(parser *p, cake_jj_kind kind, const char *word) {
    if (!p->loops) cake_jj_fail(p->r, CAKE_EFORMAT, "'%s' outside a for loop", word);
    return node(p, kind);
}

/* Behind "{%"; leaves p behind "%}" . */
static cake_jj_node *statement(parser *p) {
    static const char *const outside[] = {"include", "import", "from",       "extends",
                                          "block",   "do",     "autoescape", "print"};
    cake_jj_node *n = NULL;
    uint32_t outer = p->opened;
    p->opened = p->tok->line;
    deeper(p);
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        if (is_name(p, outside[i]))
            cake_jj_fail(p->r, CAKE_EUNSUPPORTED, "{%% %s %%} is not supported in chat templates",
                         outside[i]);
    if (skip_name(p, "if")) {
        n = parse_if(p);
    } else if (skip_name(p, "for")) {
        n = parse_for(p);
    } else if (skip_name(p, "set")) {
        n = parse_set(p);
    } else if (skip_name(p, "macro")) {
        n = parse_macro(p);
    } else if (skip_name(p, "call")) {
        n = parse_call_block(p);
    } else if (skip_name(p, "filter")) {
        n = parse_filter_block(p);
    } else if (skip_name(p, "with")) {
        n = parse_with(p);
    } else if (skip_name(p, "break")) {
        n = parse_jump(p, JN_BREAK, "break");
    } else if (skip_name(p, "continue")) {
        n = parse_jump(p, JN_CONTINUE, "continue");
    } else if (skip_name(p, "generation")) { /* marks the assistant's words for training */
        n = node(p, JN_SCOPE);
        n->c = block_body(p, "endgeneration");
    } else {
        unexpected(p, "a statement");
    }
    expect_block_end(p);
    p->opened = outer;
    p->r->depth--;
    return n;
}

/* Statements until a block that begins with one of ends (left at that word), or the end of the
 * template when ends is NULL. */
static cake_jj_node *body(parser *p, const char *const *ends) {
    cake_jj_node *n = node(p, JN_BODY);
    node_list l = {0};
    for (;;) {
        cake_jj_node *s;
        switch (p->tok->type) {
        case JT_END:
            if (ends)
                cake_jj_fail(p->r, CAKE_EFORMAT,
                             "the block begun at line %u is never closed with {%% %s %%}",
                             p->opened, ends[1] ? ends[2] ? ends[2] : ends[1] : ends[0]);
            n->v = l.v;
            n->n = l.n;
            return n;
        case JT_TEXT:
            s = node(p, JN_TEXT);
            s->value = p->tok->value;
            next(p);
            break;
        case JT_PRINT_BEGIN:
            next(p);
            s = node(p, JN_PRINT);
            s->a = tuple(p, true, false);
            if (p->tok->type != JT_PRINT_END) unexpected(p, "}}");
            next(p);
            break;
        default: /* JT_BLOCK_BEGIN */
            next(p);
            for (size_t i = 0; ends && ends[i]; i++)
                if (is_name(p, ends[i])) {
                    n->v = l.v;
                    n->n = l.n;
                    return n;
                }
            s = statement(p);
        }
        add(p, &l, s);
    }
}

cake_jj_template *cake_jj_parse(cake_jj *r, const char *source, size_t len) {
    static const char *const fixed[JS_FIXED] = {"loop", "caller", "varargs", "kwargs"};
    size_t n;
    const cake_jj_token *tok = cake_jj_lex(r, source, len, &n);
    parser p = {.r = r, .tok = tok, .end = tok + n - 1};
    p.t = cake_jj_zalloc(r, sizeof *p.t);
    for (size_t i = 0; i < JS_FIXED; i++) symbol(&p, cake_jj_strz(fixed[i]));
    r->line = 1;
    p.t->body = body(&p, NULL);
    return p.t;
}
