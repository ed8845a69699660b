/* Values, memory and errors shared by the parts of the template engine (internal to
 * master/template).
 *
 * All memory of one parse or one render comes from one arena that is freed as a whole, and an error
 * leaves through one longjmp: so the parts need no cleanup code and no error plumbing. Nothing that
 * owns memory outside the arena may be live across a call that takes a `cake_jj *`.
 *
 * Values are Python's as a template sees them: strings are UTF-8 and count code points, integers
 * are 64 bits (overflow is an error), containers are shared by reference. */
#ifndef CAKE_MASTER_TEMPLATE_JINJA_VALUE_H
#define CAKE_MASTER_TEMPLATE_JINJA_VALUE_H

#include "common/status.h"
#include "master/template/template.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    JJ_MISSING, /* no value at all: an argument not given, a variable not bound */
    JJ_UNDEF,
    JJ_NONE,
    JJ_BOOL,
    JJ_INT,
    JJ_FLOAT,
    JJ_STR,
    JJ_SEQ,
    JJ_DICT,
    JJ_NS,     /* namespace(): a dict whose members can be set */
    JJ_FN,     /* a global function */
    JJ_METHOD, /* obj.name of a method, not yet called */
    JJ_MACRO,
    JJ_LOOP,
} cake_jj_type;

/* cake_jj_value.kind of a JJ_SEQ. */
typedef enum { JJ_LIST, JJ_TUPLE, JJ_GEN, JJ_ITEMS, JJ_KEYS, JJ_VALUES, JJ_RANGE } cake_jj_seq_kind;

struct cake_jj_seq;
struct cake_jj_dict;
struct cake_jj_undef;
struct cake_jj_method;
struct cake_jj_macro;
struct cake_jj_loop;

typedef struct cake_jj_value {
    uint8_t type;
    uint8_t kind; /* JJ_SEQ: cake_jj_seq_kind. JJ_STR: 1 = marked safe. JJ_FN: which */
    uint32_t len; /* JJ_STR: bytes */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s; /* UTF-8, not NUL-terminated */
        struct cake_jj_seq *seq;
        struct cake_jj_dict *d; /* JJ_DICT and JJ_NS */
        struct cake_jj_undef *u;
        struct cake_jj_method *method;
        struct cake_jj_macro *macro;
        struct cake_jj_loop *loop;
    } u;
} cake_jj_value;

typedef struct cake_jj_seq {
    cake_jj_value *v;
    size_t n, cap;
    size_t at;                 /* JJ_GEN: how many were taken already */
    int64_t start, stop, step; /* JJ_RANGE, for printing */
} cake_jj_seq;

typedef struct {
    cake_jj_value key, value;
} cake_jj_pair;

typedef struct cake_jj_dict {
    cake_jj_pair *v;
    size_t n, cap;
} cake_jj_dict;

/* Why something is undefined, to say so when it is used. */
typedef struct cake_jj_undef {
    const char *owner; /* type of the object that lacks `key`; NULL: the name `key` itself */
    const char *text;  /* or a whole sentence */
    cake_jj_value key;
} cake_jj_undef;

typedef struct cake_jj_method {
    cake_jj_value self;
    cake_jj_value name;
} cake_jj_method;

typedef struct {
    cake_jj_value name, value;
} cake_jj_kwarg;

typedef struct {
    cake_jj_value *v;
    size_t n;
    cake_jj_kwarg *kw;
    size_t n_kw;
} cake_jj_args;

typedef struct {
    char *p;
    size_t len, cap, max;
} cake_jj_buf;

typedef struct cake_jj_chunk {
    struct cake_jj_chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
} cake_jj_chunk;

struct cake_jj_scope;
struct cake_jj_template;

/* One parse or one render. */
typedef struct cake_jj {
    jmp_buf on_error;
    cake_error *err;
    cake_status status;
    const char *name; /* of the template */
    uint32_t line;    /* being parsed or run */
    cake_jj_chunk *chunks;
    size_t memory;
    size_t steps;
    unsigned depth;
    cake_template_limits limit;
    /* rendering only */
    const struct cake_jj_template *t;
    struct cake_jj_scope *root;
    cake_jj_buf *out;
    cake_jj_value block; /* what a filter block or {% set %} block captured */
    int64_t now_unix;
    json_object *owned[16]; /* parsed by from_json, released after the render */
    unsigned n_owned;
} cake_jj;

/* ---- memory, limits, errors ---- */

/* "NAME:LINE: message" into r->err, then out through r->on_error. */
_Noreturn void cake_jj_fail(cake_jj *r, cake_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void *cake_jj_alloc(cake_jj *r, size_t n); /* 16-aligned, not cleared; never NULL */
void *cake_jj_zalloc(cake_jj *r, size_t n);
void cake_jj_free_all(cake_jj *r);
void cake_jj_step(cake_jj *r, size_t n); /* count work against limit.steps */
void cake_jj_enter(cake_jj *r);          /* one level deeper; cake_jj_leave on the way back */
static inline void cake_jj_leave(cake_jj *r) {
    r->depth--;
}
void cake_jj_put(cake_jj *r, cake_jj_buf *b, const char *p, size_t n);
void cake_jj_putz(cake_jj *r, cake_jj_buf *b, const char *z);
cake_jj_value cake_jj_buf_str(const cake_jj_buf *b);

/* ---- making values ---- */

static inline cake_jj_value cake_jj_none(void) {
    return (cake_jj_value){.type = JJ_NONE};
}
static inline cake_jj_value cake_jj_bool(bool b) {
    return (cake_jj_value){.type = JJ_BOOL, .u.b = b};
}
static inline cake_jj_value cake_jj_int(int64_t i) {
    return (cake_jj_value){.type = JJ_INT, .u.i = i};
}
static inline cake_jj_value cake_jj_float(double f) {
    return (cake_jj_value){.type = JJ_FLOAT, .u.f = f};
}
static inline cake_jj_value cake_jj_str(const char *s, size_t len) { /* borrows */
    return (cake_jj_value){.type = JJ_STR, .len = (uint32_t)len, .u.s = s};
}
cake_jj_value cake_jj_strz(const char *z); /* borrows */
cake_jj_value cake_jj_undefined(cake_jj *r, const char *owner, cake_jj_value key);
cake_jj_value cake_jj_undefined_text(cake_jj *r, const char *text);
cake_jj_value cake_jj_seq_new(cake_jj *r, cake_jj_seq_kind kind, size_t cap); /* empty */
void cake_jj_seq_add(cake_jj *r, cake_jj_value seq, cake_jj_value v);
cake_jj_value cake_jj_pair_new(cake_jj *r, cake_jj_value a, cake_jj_value b); /* a 2-tuple */
cake_jj_value cake_jj_dict_new(cake_jj *r, size_t cap);
void cake_jj_dict_set(cake_jj *r, cake_jj_dict *d, cake_jj_value key,
                      cake_jj_value v); /* fails on an unhashable key */
cake_jj_value *cake_jj_dict_get(cake_jj *r, const cake_jj_dict *d,
                                cake_jj_value key);                         /* NULL when absent */
cake_jj_value cake_jj_concat(cake_jj *r, cake_jj_value a, cake_jj_value b); /* two strings */

/* ---- what Python does with values ---- */

bool cake_jj_is(cake_jj_value v, const char *z); /* a string equal to z */
const char *cake_jj_type_name(cake_jj_value v);  /* "str", "dict", "NoneType", ... */
bool cake_jj_truth(cake_jj *r, cake_jj_value v);
bool cake_jj_eq(cake_jj *r, cake_jj_value a, cake_jj_value b);
bool cake_jj_less(cake_jj *r, cake_jj_value a,
                  cake_jj_value b); /* a < b; fails where Python does */
bool cake_jj_contains(cake_jj *r, cake_jj_value item, cake_jj_value in);
cake_jj_value cake_jj_tostr(cake_jj *r, cake_jj_value v); /* str(v) */
void cake_jj_put_str(cake_jj *r, cake_jj_buf *b, cake_jj_value v);
void cake_jj_put_repr(cake_jj *r, cake_jj_buf *b, cake_jj_value v);
int64_t cake_jj_len(cake_jj *r, cake_jj_value v);
/* iter(v) run to its end: a sequence whose items may be read (never changed). A generator is used
 * up. */
cake_jj_value cake_jj_iter(cake_jj *r, cake_jj_value v);
bool cake_jj_iterable(cake_jj_value v);
cake_jj_value cake_jj_getitem(cake_jj *r, cake_jj_value obj,
                              cake_jj_value key); /* obj[key], undefined when absent */
cake_jj_value cake_jj_getattr(cake_jj *r, cake_jj_value obj, cake_jj_value name); /* obj.name */
/* "Use" of an undefined value where Python raises. */
_Noreturn void cake_jj_fail_undefined(cake_jj *r, cake_jj_value v);
static inline void cake_jj_defined(cake_jj *r, cake_jj_value v) {
    if (v.type == JJ_UNDEF) cake_jj_fail_undefined(r, v);
}
static inline bool cake_jj_is_num(cake_jj_value v) {
    return v.type == JJ_INT || v.type == JJ_FLOAT || v.type == JJ_BOOL;
}
static inline bool cake_jj_is_int(cake_jj_value v) { /* as Python's index protocol: bool counts */
    return v.type == JJ_INT || v.type == JJ_BOOL;
}
static inline int64_t cake_jj_as_int(cake_jj_value v) {
    return v.type == JJ_BOOL ? v.u.b : v.u.i;
}
static inline double cake_jj_as_float(cake_jj_value v) {
    return v.type == JJ_FLOAT ? v.u.f : (double)cake_jj_as_int(v);
}

/* ---- calls ---- */

/* Match a call to parameter names ("width first blank"); out[i] is JJ_MISSING where not given.
 * required: how many must be there. A leading '/' in params: positional only. */
void cake_jj_bind(cake_jj *r, const char *fn, const cake_jj_args *a, const char *params,
                  size_t required, cake_jj_value *out);
/* Typed arguments after cake_jj_bind; missing gives the default. */
int64_t cake_jj_int_arg(cake_jj *r, const char *fn, cake_jj_value v, int64_t otherwise);
cake_jj_value cake_jj_str_arg(cake_jj *r, const char *fn, cake_jj_value v, const char *otherwise);
bool cake_jj_bool_arg(cake_jj *r, cake_jj_value v, bool otherwise);

cake_jj_value cake_jj_call(cake_jj *r, cake_jj_value fn, const cake_jj_args *a); /* jinja_eval.c */
cake_jj_value cake_jj_call_method(cake_jj *r, cake_jj_value self, cake_jj_value name,
                                  const cake_jj_args *a); /* jinja_methods.c */
bool cake_jj_has_method(cake_jj_value self, cake_jj_value name);
typedef cake_jj_value cake_jj_filter(cake_jj *r, cake_jj_value v, const cake_jj_args *a);
cake_jj_filter *cake_jj_find_filter(cake_jj_value name); /* NULL: unknown */
typedef bool cake_jj_test(cake_jj *r, cake_jj_value v, const cake_jj_args *a);
cake_jj_test *cake_jj_find_test(cake_jj_value name);
cake_jj_value cake_jj_percent(cake_jj *r, cake_jj_value fmt,
                              cake_jj_value args); /* "..." % args, jinja_format.c */
cake_jj_value cake_jj_binary(cake_jj *r, int op, cake_jj_value a,
                             cake_jj_value b); /* op: a cake_jj_op of jinja_ast.h */

/* ---- JSON, jinja_json.c ---- */

cake_jj_value cake_jj_from_json(cake_jj *r, json_object *o); /* borrows the strings of o */
cake_jj_value cake_jj_tojson(cake_jj *r, cake_jj_value v, const cake_jj_args *a);

#endif
