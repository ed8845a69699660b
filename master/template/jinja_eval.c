/* The interpreter: walks the tree of jinja_ast.h. Scoping, operators and loop variables follow
 * Jinja: {% set %} binds in the innermost for, macro, call, filter, set-block or with; macros see
 * the scope they were defined in, not the one they are called from. */
#include "master/template/jinja_eval.h"
#include "master/template/jinja_ast.h"
#include "master/template/jinja_text.h"

#include <math.h>
#include <string.h>
#include <time.h>

typedef struct cake_jj_var {
    struct cake_jj_var *next;
    uint32_t sym;
    cake_jj_value v;
} cake_jj_var;

typedef struct cake_jj_scope {
    struct cake_jj_scope *parent;
    cake_jj_var *vars;
    cake_jj_value *all; /* of the outermost scope: indexed by symbol */
} cake_jj_scope;

typedef struct cake_jj_macro {
    const cake_jj_node *def;
    cake_jj_scope *closure;
} cake_jj_macro;

typedef struct cake_jj_loop {
    const cake_jj_node *def;
    cake_jj_scope *outer;
    cake_jj_seq *src;   /* what is iterated */
    size_t at;          /* items of src that the filter has seen */
    cake_jj_seq *taken; /* items that passed; src itself without a filter */
    size_t index;
    unsigned depth;
    cake_jj_value changed; /* last arguments of loop.changed */
} cake_jj_loop;

typedef enum { GO, BREAK, CONTINUE } flow;

typedef enum { FN_RANGE, FN_NAMESPACE, FN_DICT, FN_RAISE, FN_NOW, N_FN } function;
static const char *const function_names[N_FN] = {"range", "namespace", "dict", "raise_exception",
                                                 "strftime_now"};

static cake_jj_value eval(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n);
static flow run(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n);

/* ---- scopes ---- */

static cake_jj_scope *inner(cake_jj *r, cake_jj_scope *parent) {
    cake_jj_scope *s = cake_jj_zalloc(r, sizeof *s);
    s->parent = parent;
    return s;
}

static void set_var(cake_jj *r, cake_jj_scope *s, uint32_t sym, cake_jj_value v) {
    if (s->all) {
        s->all[sym] = v;
        return;
    }
    for (cake_jj_var *x = s->vars; x; x = x->next)
        if (x->sym == sym) {
            x->v = v;
            return;
        }
    cake_jj_var *x = cake_jj_alloc(r, sizeof *x);
    *x = (cake_jj_var){s->vars, sym, v};
    s->vars = x;
}

static cake_jj_value get_var(cake_jj *r, const cake_jj_scope *s, uint32_t sym) {
    for (; !s->all; s = s->parent)
        for (const cake_jj_var *x = s->vars; x; x = x->next)
            if (x->sym == sym) return x->v;
    if (s->all[sym].type != JJ_MISSING) return s->all[sym];
    return cake_jj_undefined(r, NULL, r->t->names[sym]);
}

static void assign(cake_jj *r, cake_jj_scope *s, const cake_jj_node *t, cake_jj_value v) {
    if (t->kind == JN_NAME) {
        set_var(r, s, t->sym, v);
    } else if (t->kind == JN_NSREF) {
        cake_jj_value ns = get_var(r, s, t->sym);
        if (ns.type != JJ_NS)
            cake_jj_fail(r, CAKE_EINVAL,
                         "cannot set an attribute of a value of type %s, only of a namespace",
                         cake_jj_type_name(ns));
        cake_jj_dict_set(r, ns.u.d, t->value, v);
    } else {
        cake_jj_defined(r, v);
        cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
        if (q->n != t->n)
            cake_jj_fail(r, CAKE_EINVAL, "%u names cannot take %zu values", t->n, q->n);
        for (uint32_t i = 0; i < t->n; i++) assign(r, s, t->v[i], q->v[i]);
    }
}

/* ---- operators ---- */

_Noreturn static void bad_operands(cake_jj *r, const char *op, cake_jj_value a, cake_jj_value b) {
    cake_jj_defined(r, a);
    cake_jj_defined(r, b);
    cake_jj_fail(r, CAKE_EINVAL, "cannot apply '%s' to %s and %s", op, cake_jj_type_name(a),
                 cake_jj_type_name(b));
}

_Noreturn static void overflow(cake_jj *r) {
    cake_jj_fail(r, CAKE_EINVAL, "an integer grows beyond 64 bits");
}

static cake_jj_value repeat_seq(cake_jj *r, cake_jj_value a, int64_t times) {
    cake_jj_value out = cake_jj_seq_new(r, a.kind, 0);
    for (int64_t k = 0; k < times && a.u.seq->n; k++)
        for (size_t i = 0; i < a.u.seq->n; i++) cake_jj_seq_add(r, out, a.u.seq->v[i]);
    return out;
}

static bool is_array(cake_jj_value v) {
    return v.type == JJ_SEQ && (v.kind == JJ_LIST || v.kind == JJ_TUPLE);
}

static cake_jj_value add(cake_jj *r, cake_jj_value a, cake_jj_value b) {
    if (a.type == JJ_STR && b.type == JJ_STR) {
        if (a.kind && !b.kind) b = cake_jj_escape_html(r, b);
        if (b.kind && !a.kind) a = cake_jj_escape_html(r, a);
        return cake_jj_concat(r, a, b);
    }
    if (is_array(a) && is_array(b) && a.kind == b.kind) {
        cake_jj_value out = cake_jj_seq_new(r, a.kind, a.u.seq->n + b.u.seq->n);
        for (size_t i = 0; i < a.u.seq->n; i++) cake_jj_seq_add(r, out, a.u.seq->v[i]);
        for (size_t i = 0; i < b.u.seq->n; i++) cake_jj_seq_add(r, out, b.u.seq->v[i]);
        return out;
    }
    bad_operands(r, "+", a, b);
}

static cake_jj_value int_op(cake_jj *r, cake_jj_op op, int64_t a, int64_t b) {
    int64_t v = 0;
    bool over = false;
    switch (op) {
    case JO_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case JO_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case JO_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case JO_FLOORDIV:
    case JO_MOD: {
        if (!b) cake_jj_fail(r, CAKE_EINVAL, "division by zero");
        if (b == -1) { /* INT64_MIN / -1 traps */
            over = op == JO_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &v);
            break;
        }
        int64_t q = a / b, m = a % b;
        if (m && (m < 0) != (b < 0)) q--, m += b;
        v = op == JO_MOD ? m : q;
        break;
    }
    default: /* JO_POW, b >= 0 */
        cake_jj_step(r, 64);
        for (v = 1; b && !over; b >>= 1) {
            if (b & 1) over = __builtin_mul_overflow(v, a, &v);
            if (b > 1 && !over) over = __builtin_mul_overflow(a, a, &a);
        }
    }
    if (over) overflow(r);
    return cake_jj_int(v);
}

static cake_jj_value number_op(cake_jj *r, cake_jj_op op, cake_jj_value a, cake_jj_value b) {
    bool ints = a.type != JJ_FLOAT && b.type != JJ_FLOAT;
    if (ints && op != JO_DIV && !(op == JO_POW && cake_jj_as_int(b) < 0))
        return int_op(r, op, cake_jj_as_int(a), cake_jj_as_int(b));
    double x = cake_jj_as_float(a), y = cake_jj_as_float(b);
    switch (op) {
    case JO_ADD: return cake_jj_float(x + y);
    case JO_SUB: return cake_jj_float(x - y);
    case JO_MUL: return cake_jj_float(x * y);
    case JO_POW:
        if (x == 0 && y < 0) cake_jj_fail(r, CAKE_EINVAL, "division by zero");
        if (x < 0 && y != floor(y))
            cake_jj_fail(r, CAKE_EINVAL, "complex numbers are not supported");
        return cake_jj_float(pow(x, y));
    default: break;
    }
    if (y == 0) cake_jj_fail(r, CAKE_EINVAL, "division by zero");
    if (op == JO_DIV) return cake_jj_float(x / y);
    double m = fmod(x, y);
    if (m != 0 && (m < 0) != (y < 0)) m += y;
    if (op == JO_MOD) return cake_jj_float(m == 0 ? copysign(0.0, y) : m);
    double q = (x - m) / y, f = floor(q);
    return cake_jj_float(q - f > 0.5 ? f + 1 : f);
}

cake_jj_value cake_jj_binary(cake_jj *r, int op, cake_jj_value a, cake_jj_value b) {
    static const char *const names[] = {
        [JO_ADD] = "+",       [JO_SUB] = "-", [JO_MUL] = "*",  [JO_DIV] = "/",
        [JO_FLOORDIV] = "//", [JO_MOD] = "%", [JO_POW] = "**",
    };
    if (cake_jj_is_num(a) && cake_jj_is_num(b)) return number_op(r, (cake_jj_op)op, a, b);
    if (op == JO_ADD) return add(r, a, b);
    if (op == JO_MOD && a.type == JJ_STR) {
        cake_jj_defined(r, b);
        return cake_jj_percent(r, a, b);
    }
    if (op == JO_MUL) {
        if (cake_jj_is_int(a)) {
            cake_jj_value t = a;
            a = b;
            b = t;
        }
        if (cake_jj_is_int(b) && a.type == JJ_STR) return cake_jj_repeat(r, a, cake_jj_as_int(b));
        if (cake_jj_is_int(b) && is_array(a)) return repeat_seq(r, a, cake_jj_as_int(b));
    }
    bad_operands(r, names[op], a, b);
}

static bool compare(cake_jj *r, cake_jj_op op, cake_jj_value a, cake_jj_value b) {
    switch (op) {
    case JO_EQ: return cake_jj_eq(r, a, b);
    case JO_NE: return !cake_jj_eq(r, a, b);
    case JO_LT: return cake_jj_less(r, a, b);
    case JO_GT: return cake_jj_less(r, b, a);
    case JO_LE: return cake_jj_less(r, a, b) || cake_jj_eq(r, a, b);
    case JO_GE: return cake_jj_less(r, b, a) || cake_jj_eq(r, a, b);
    case JO_IN: return cake_jj_contains(r, a, b);
    default: return !cake_jj_contains(r, a, b);
    }
}

/* ---- subscripts ---- */

static bool slice_bound(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n, int64_t *out) {
    if (!n) return false;
    cake_jj_value v = eval(r, s, n);
    if (v.type == JJ_NONE) return false;
    cake_jj_defined(r, v);
    if (!cake_jj_is_int(v))
        cake_jj_fail(r, CAKE_EINVAL, "a slice needs integers, not %s", cake_jj_type_name(v));
    *out = cake_jj_as_int(v);
    return true;
}

static cake_jj_value slice(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_value o = eval(r, s, n->a);
    int64_t start, stop, step = 1;
    bool has_start = slice_bound(r, s, n->v[0], &start),
         has_stop = slice_bound(r, s, n->v[1], &stop);
    slice_bound(r, s, n->v[2], &step);
    r->line = n->line;
    cake_jj_defined(r, o);
    if (o.type != JJ_STR && !(is_array(o) || (o.type == JJ_SEQ && o.kind == JJ_RANGE)))
        cake_jj_fail(r, CAKE_EINVAL, "a value of type %s cannot be sliced%s", cake_jj_type_name(o),
                     o.type == JJ_SEQ ? " (put |list before it)" : "");
    if (!step) cake_jj_fail(r, CAKE_EINVAL, "a slice step cannot be zero");
    if (step < -INT32_MAX) step = -INT32_MAX;
    if (step > INT32_MAX) step = INT32_MAX;
    int64_t len = cake_jj_len(r, o), low = step < 0 ? -1 : 0, high = step < 0 ? len - 1 : len;
    if (!has_start)
        start = step < 0 ? high : low;
    else if (start < 0)
        start = start + len < low ? low : start + len;
    else if (start > high)
        start = high;
    if (!has_stop)
        stop = step < 0 ? low : high;
    else if (stop < 0)
        stop = stop + len < low ? low : stop + len;
    else if (stop > high)
        stop = high;
    int64_t count = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
    if (o.type == JJ_STR) return cake_jj_slice_str(r, o, start, step, count);
    cake_jj_value out = cake_jj_seq_new(r, o.kind, count > 0 ? (size_t)count : 0);
    if (o.kind == JJ_RANGE) { /* bounds for printing; a range has at most 100000 items */
        const cake_jj_seq *q = o.u.seq;
        out.u.seq->start = q->start + start * q->step;
        out.u.seq->stop = q->start + stop * q->step;
        out.u.seq->step = q->step * step;
    }
    for (int64_t m = 0, i = start; m < count; m++, i += step)
        cake_jj_seq_add(r, out, o.u.seq->v[i]);
    return out;
}

/* ---- calls ---- */

static void eval_args(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n, cake_jj_args *out,
                      bool has_caller, cake_jj_value caller) {
    cake_jj_value pos = cake_jj_seq_new(r, JJ_TUPLE, n->n_args);
    cake_jj_value kw = cake_jj_dict_new(r, n->n_args + has_caller);
    for (uint32_t i = 0; i < n->n_args; i++) {
        const cake_jj_arg_node *a = &n->args[i];
        cake_jj_value v = eval(r, s, a->node);
        if (a->stars == 2) {
            if (v.type != JJ_DICT)
                cake_jj_fail(r, CAKE_EINVAL, "** needs a dict, not %s", cake_jj_type_name(v));
            for (size_t k = 0; k < v.u.d->n; k++) {
                cake_jj_value key = v.u.d->v[k].key;
                if (key.type != JJ_STR) cake_jj_fail(r, CAKE_EINVAL, "** needs strings as keys");
                cake_jj_dict_set(r, kw.u.d, key, v.u.d->v[k].value);
            }
        } else if (a->stars == 1) {
            cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
            for (size_t k = 0; k < q->n; k++) cake_jj_seq_add(r, pos, q->v[k]);
        } else if (a->name.type == JJ_STR) {
            if (cake_jj_dict_get(r, kw.u.d, a->name))
                cake_jj_fail(r, CAKE_EINVAL, "the argument '%.*s' is given twice",
                             a->name.len > 60 ? 60 : (int)a->name.len, a->name.u.s);
            cake_jj_dict_set(r, kw.u.d, a->name, v);
        } else {
            cake_jj_seq_add(r, pos, v);
        }
    }
    if (has_caller) cake_jj_dict_set(r, kw.u.d, cake_jj_strz("caller"), caller);
    _Static_assert(sizeof(cake_jj_pair) == sizeof(cake_jj_kwarg), "same layout");
    cake_jj_kwarg *k = cake_jj_alloc(r, kw.u.d->n * sizeof *k);
    for (size_t i = 0; i < kw.u.d->n; i++)
        k[i] = (cake_jj_kwarg){kw.u.d->v[i].key, kw.u.d->v[i].value};
    *out = (cake_jj_args){pos.u.seq->v, pos.u.seq->n, k, kw.u.d->n};
}

static cake_jj_value capture(cake_jj *r, cake_jj_scope *s, const cake_jj_node *body) {
    cake_jj_buf b = {.max = SIZE_MAX}, *outer = r->out;
    r->out = &b;
    run(r, s, body);
    r->out = outer;
    return cake_jj_buf_str(&b);
}

static cake_jj_value call_macro(cake_jj *r, const cake_jj_macro *m, const cake_jj_args *a) {
    const cake_jj_node *d = m->def;
    int n_name = d->value.len > 60 ? 60 : (int)d->value.len;
    cake_jj_scope *s = inner(r, m->closure);
    cake_jj_value kwargs = cake_jj_dict_new(r, 0), varargs = cake_jj_seq_new(r, JJ_TUPLE, 0);
    cake_jj_value caller = cake_jj_undefined_text(r, "no caller was given to this macro");
    if (a->n > d->n && !(d->flags & JM_VARARGS))
        cake_jj_fail(r, CAKE_EINVAL, "macro '%.*s' takes at most %u arguments, %zu were given",
                     n_name, d->value.u.s, d->n, a->n);
    cake_jj_value *given = cake_jj_zalloc(r, d->n * sizeof *given);
    for (size_t i = 0; i < a->n; i++) {
        if (i < d->n)
            given[i] = a->v[i];
        else
            cake_jj_seq_add(r, varargs, a->v[i]);
    }
    for (size_t k = 0; k < a->n_kw; k++) {
        cake_jj_value key = a->kw[k].name;
        uint32_t i = 0;
        while (i < d->n && !cake_jj_eq(r, r->t->names[d->v[i]->sym], key)) i++;
        int shown = key.len > 60 ? 60 : (int)key.len;
        if (i < d->n) {
            if (given[i].type != JJ_MISSING)
                cake_jj_fail(r, CAKE_EINVAL, "macro '%.*s' got two values for '%.*s'", n_name,
                             d->value.u.s, shown, key.u.s);
            given[i] = a->kw[k].value;
        } else if (cake_jj_is(key, "caller") && d->flags & JM_CALLER) {
            caller = a->kw[k].value;
        } else if (d->flags & JM_KWARGS) {
            cake_jj_dict_set(r, kwargs.u.d, key, a->kw[k].value);
        } else {
            cake_jj_fail(r, CAKE_EINVAL, "macro '%.*s' takes no argument '%.*s'", n_name,
                         d->value.u.s, shown, key.u.s);
        }
    }
    if (d->flags & JM_CALLER && d->sym != JS_CALLER) set_var(r, s, JS_CALLER, caller);
    if (d->flags & JM_VARARGS) set_var(r, s, JS_VARARGS, varargs);
    if (d->flags & JM_KWARGS) set_var(r, s, JS_KWARGS, kwargs);
    for (uint32_t i = 0; i < d->n; i++) { /* in order: a default may name an earlier parameter */
        cake_jj_value v = given[i];
        if (v.type == JJ_MISSING)
            v = d->opt[i] ? eval(r, s, d->opt[i])
                          : cake_jj_undefined(r, NULL, r->t->names[d->v[i]->sym]);
        set_var(r, s, d->v[i]->sym, v);
    }
    return capture(r, s, d->c);
}

cake_jj_value cake_jj_macro_name(cake_jj_value macro) {
    return macro.u.macro->def->value;
}

static cake_jj_value call_range(cake_jj *r, const cake_jj_args *a) {
    int64_t start = 0, stop, step = 1;
    cake_jj_value p[3];
    cake_jj_bind(r, "range", a, "/start stop step", 1, p);
    stop = cake_jj_int_arg(r, "range", p[0], 0);
    if (p[1].type != JJ_MISSING) {
        start = stop;
        stop = cake_jj_int_arg(r, "range", p[1], 0);
    }
    step = cake_jj_int_arg(r, "range", p[2], 1);
    if (!step) cake_jj_fail(r, CAKE_EINVAL, "the step of a range cannot be zero");
    cake_jj_value v = cake_jj_seq_new(r, JJ_RANGE, 0);
    v.u.seq->start = start;
    v.u.seq->stop = stop;
    v.u.seq->step = step;
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
        if (v.u.seq->n == 100000) /* as Jinja's sandbox */
            cake_jj_fail(r, CAKE_EINVAL, "a range of more than 100000 numbers");
        cake_jj_seq_add(r, v, cake_jj_int(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return v;
}

/* dict(...) and namespace(...) */
static cake_jj_value call_dict(cake_jj *r, const cake_jj_args *a) {
    cake_jj_value d = cake_jj_dict_new(r, a->n_kw);
    if (a->n > 1) cake_jj_fail(r, CAKE_EINVAL, "dict takes one positional argument");
    if (a->n == 1 && (a->v[0].type == JJ_DICT || a->v[0].type == JJ_NS)) {
        for (size_t i = 0; i < a->v[0].u.d->n; i++)
            cake_jj_dict_set(r, d.u.d, a->v[0].u.d->v[i].key, a->v[0].u.d->v[i].value);
    } else if (a->n == 1) {
        cake_jj_seq *q = cake_jj_iter(r, a->v[0]).u.seq;
        for (size_t i = 0; i < q->n; i++) {
            cake_jj_seq *pair = cake_jj_iter(r, q->v[i]).u.seq;
            if (pair->n != 2) cake_jj_fail(r, CAKE_EINVAL, "dict needs pairs");
            cake_jj_dict_set(r, d.u.d, pair->v[0], pair->v[1]);
        }
    }
    for (size_t i = 0; i < a->n_kw; i++) cake_jj_dict_set(r, d.u.d, a->kw[i].name, a->kw[i].value);
    return d;
}

static cake_jj_value call_now(cake_jj *r, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "strftime_now", a, "format", 1, p);
    cake_jj_value f = cake_jj_str_arg(r, "strftime_now", p[0], NULL);
    char fmt[256], text[1024];
    if (f.len + 2 > sizeof fmt)
        cake_jj_fail(r, CAKE_EINVAL, "the format of strftime_now is too long");
    if (memchr(f.u.s, 0, f.len))
        cake_jj_fail(r, CAKE_EINVAL, "the format of strftime_now holds a NUL");
    memcpy(fmt, f.u.s, f.len);
    memcpy(fmt + f.len, "x", 2); /* so that an empty result and a failure differ */
    time_t now = (time_t)r->now_unix;
    struct tm tm;
    if (!gmtime_r(&now, &tm)) cake_jj_fail(r, CAKE_EINVAL, "the time is out of range");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(text, sizeof text, fmt, &tm);
#pragma GCC diagnostic pop
    if (!n) cake_jj_fail(r, CAKE_EINVAL, "strftime_now gives too long a text");
    char *copy = cake_jj_alloc(r, n);
    memcpy(copy, text, n - 1);
    return cake_jj_str(copy, n - 1);
}

static cake_jj_value call_function(cake_jj *r, function f, const cake_jj_args *a) {
    cake_jj_value p[1];
    switch (f) {
    case FN_RANGE: return call_range(r, a);
    case FN_DICT: return call_dict(r, a);
    case FN_NAMESPACE: {
        cake_jj_value d = call_dict(r, a);
        d.type = JJ_NS;
        return d;
    }
    case FN_NOW: return call_now(r, a);
    default: break;
    }
    cake_jj_bind(r, "raise_exception", a, "message", 1, p);
    p[0] = cake_jj_tostr(r, p[0]);
    cake_jj_fail(r, CAKE_EINVAL, "the template refuses: %.*s", p[0].len > 400 ? 400 : (int)p[0].len,
                 p[0].u.s);
}

static cake_jj_value for_again(cake_jj *r, cake_jj_loop *outer, const cake_jj_args *a);

cake_jj_value cake_jj_call(cake_jj *r, cake_jj_value fn, const cake_jj_args *a) {
    cake_jj_enter(r);
    cake_jj_value v;
    switch ((cake_jj_type)fn.type) {
    case JJ_FN: v = call_function(r, (function)fn.kind, a); break;
    case JJ_METHOD: v = cake_jj_call_method(r, fn.u.method->self, fn.u.method->name, a); break;
    case JJ_MACRO: v = call_macro(r, fn.u.macro, a); break;
    case JJ_LOOP: v = for_again(r, fn.u.loop, a); break;
    default:
        cake_jj_defined(r, fn);
        cake_jj_fail(r, CAKE_EINVAL, "a value of type %s cannot be called", cake_jj_type_name(fn));
    }
    cake_jj_leave(r);
    return v;
}

/* ---- expressions ---- */

static cake_jj_value eval_call(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n, bool has_caller,
                               cake_jj_value caller) {
    cake_jj_value fn = eval(r, s, n->a);
    cake_jj_args a;
    eval_args(r, s, n, &a, has_caller, caller);
    r->line = n->line;
    return cake_jj_call(r, fn, &a);
}

static cake_jj_value eval_filter(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_value v = n->a ? eval(r, s, n->a) : r->block;
    cake_jj_args a;
    eval_args(r, s, n, &a, false, (cake_jj_value){0});
    r->line = n->line;
    int shown = n->value.len > 60 ? 60 : (int)n->value.len;
    if (!n->filter)
        cake_jj_fail(r, CAKE_EUNSUPPORTED, "no filter is named '%.*s'", shown, n->value.u.s);
    return n->filter(r, v, &a);
}

static cake_jj_value eval_test(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_value v = eval(r, s, n->a);
    cake_jj_args a;
    eval_args(r, s, n, &a, false, (cake_jj_value){0});
    r->line = n->line;
    int shown = n->value.len > 60 ? 60 : (int)n->value.len;
    if (!n->test)
        cake_jj_fail(r, CAKE_EUNSUPPORTED, "no test is named '%.*s'", shown, n->value.u.s);
    return cake_jj_bool(n->test(r, v, &a));
}

static cake_jj_value eval_compare(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_value a = eval(r, s, n->a);
    for (uint32_t i = 0; i < n->n; i++) {
        cake_jj_value b = eval(r, s, n->v[i]);
        r->line = n->line;
        if (!compare(r, (cake_jj_op)n->ops[i], a, b)) return cake_jj_bool(false);
        a = b;
    }
    return cake_jj_bool(true);
}

static cake_jj_value eval_concat(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_value parts = cake_jj_seq_new(r, JJ_LIST, n->n);
    for (uint32_t i = 0; i < n->n; i++) cake_jj_seq_add(r, parts, eval(r, s, n->v[i]));
    return cake_jj_join(r, cake_jj_strz(""), parts);
}

static cake_jj_value eval_sign(cake_jj *r, cake_jj_value v, bool negative) {
    if (!cake_jj_is_num(v)) bad_operands(r, negative ? "-" : "+", v, v);
    if (v.type == JJ_FLOAT) return cake_jj_float(negative ? -v.u.f : v.u.f);
    int64_t i = cake_jj_as_int(v);
    if (negative && __builtin_sub_overflow((int64_t)0, i, &i)) overflow(r);
    return cake_jj_int(i);
}

static cake_jj_value eval_here(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_value a, b;
    switch (n->kind) {
    case JN_CONST: return n->value;
    case JN_NAME: return get_var(r, s, n->sym);
    case JN_LIST:
    case JN_TUPLE:
        a = cake_jj_seq_new(r, n->kind == JN_LIST ? JJ_LIST : JJ_TUPLE, n->n);
        for (uint32_t i = 0; i < n->n; i++) cake_jj_seq_add(r, a, eval(r, s, n->v[i]));
        return a;
    case JN_DICT:
        a = cake_jj_dict_new(r, n->n / 2);
        for (uint32_t i = 0; i + 1 < n->n; i += 2) {
            b = eval(r, s, n->v[i]);
            cake_jj_dict_set(r, a.u.d, b, eval(r, s, n->v[i + 1]));
        }
        return a;
    case JN_AND: a = eval(r, s, n->a); return cake_jj_truth(r, a) ? eval(r, s, n->b) : a;
    case JN_OR: a = eval(r, s, n->a); return cake_jj_truth(r, a) ? a : eval(r, s, n->b);
    case JN_NOT: return cake_jj_bool(!cake_jj_truth(r, eval(r, s, n->a)));
    case JN_NEG:
    case JN_POS: a = eval(r, s, n->a); return eval_sign(r, a, n->kind == JN_NEG);
    case JN_BINARY:
        a = eval(r, s, n->a);
        b = eval(r, s, n->b);
        r->line = n->line;
        return cake_jj_binary(r, n->op, a, b);
    case JN_CONCAT: return eval_concat(r, s, n);
    case JN_COMPARE: return eval_compare(r, s, n);
    case JN_COND:
        if (cake_jj_truth(r, eval(r, s, n->b))) return eval(r, s, n->a);
        if (n->c) return eval(r, s, n->c);
        return cake_jj_undefined_text(r,
                                      "an inline if without else was false, so this has no value");
    case JN_ATTR:
        a = eval(r, s, n->a);
        r->line = n->line;
        return cake_jj_getattr(r, a, n->value);
    case JN_ITEM:
        a = eval(r, s, n->a);
        b = eval(r, s, n->b);
        r->line = n->line;
        return cake_jj_getitem(r, a, b);
    case JN_SLICE: return slice(r, s, n);
    case JN_CALL: return eval_call(r, s, n, false, (cake_jj_value){0});
    case JN_FILTER: return eval_filter(r, s, n);
    case JN_TEST: return eval_test(r, s, n);
    default: cake_assert(false && "not an expression");
    }
    return cake_jj_none();
}

static cake_jj_value eval(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_enter(r);
    cake_jj_step(r, 1);
    r->line = n->line;
    cake_jj_value v = eval_here(r, s, n);
    cake_jj_leave(r);
    return v;
}

/* ---- loops ---- */

/* Is there an item k? The filter runs only as far as the answer needs. */
static bool loop_has(cake_jj *r, cake_jj_loop *l, size_t k) {
    if (!l->def->c) return k < l->src->n;
    while (l->taken->n <= k && l->at < l->src->n) {
        cake_jj_value item = l->src->v[l->at++];
        cake_jj_scope *s = inner(r, l->outer);
        assign(r, s, l->def->a, item);
        if (cake_jj_truth(r, eval(r, s, l->def->c)))
            cake_jj_seq_add(r, (cake_jj_value){.type = JJ_SEQ, .u.seq = l->taken}, item);
    }
    return k < l->taken->n;
}

static void run_for(cake_jj *r, cake_jj_scope *outer, const cake_jj_node *n, cake_jj_value iterable,
                    unsigned depth) {
    cake_jj_loop *l = cake_jj_zalloc(r, sizeof *l);
    l->def = n;
    l->outer = outer;
    l->src = cake_jj_iter(r, iterable).u.seq;
    l->taken = n->c ? cake_jj_seq_new(r, JJ_LIST, 0).u.seq : l->src;
    l->depth = depth;
    for (; loop_has(r, l, l->index); l->index++) {
        cake_jj_scope *s = inner(r, outer);
        set_var(r, s, JS_LOOP, (cake_jj_value){.type = JJ_LOOP, .u.loop = l});
        assign(r, s, n->a, l->taken->v[l->index]);
        if (run(r, s, n->v[0]) == BREAK) return;
    }
    if (!l->index && n->v[1]) run(r, inner(r, outer), n->v[1]);
}

static cake_jj_value for_again(cake_jj *r, cake_jj_loop *outer, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "loop", a, "/iterable", 1, p);
    if (!outer->def->op)
        cake_jj_fail(r, CAKE_EINVAL, "loop() needs a for with the word 'recursive'");
    cake_jj_buf b = {.max = SIZE_MAX}, *out = r->out;
    r->out = &b;
    run_for(r, outer->outer, outer->def, p[0], outer->depth + 1);
    r->out = out;
    return cake_jj_buf_str(&b);
}

cake_jj_value cake_jj_loop_attr(cake_jj *r, cake_jj_value loop, cake_jj_value name) {
    cake_jj_loop *l = loop.u.loop;
    int64_t i = (int64_t)l->index;
    if (cake_jj_is(name, "index")) return cake_jj_int(i + 1);
    if (cake_jj_is(name, "index0")) return cake_jj_int(i);
    if (cake_jj_is(name, "first")) return cake_jj_bool(i == 0);
    if (cake_jj_is(name, "last")) return cake_jj_bool(!loop_has(r, l, l->index + 1));
    if (cake_jj_is(name, "depth")) return cake_jj_int(l->depth + 1);
    if (cake_jj_is(name, "depth0")) return cake_jj_int(l->depth);
    if (cake_jj_is(name, "previtem"))
        return i ? l->taken->v[i - 1] : cake_jj_undefined_text(r, "there is no previous item");
    if (cake_jj_is(name, "nextitem"))
        return loop_has(r, l, l->index + 1) ? l->taken->v[i + 1]
                                            : cake_jj_undefined_text(r, "there is no next item");
    bool length = cake_jj_is(name, "length"), rev = cake_jj_is(name, "revindex");
    if (length || rev || cake_jj_is(name, "revindex0")) {
        loop_has(r, l, SIZE_MAX);
        int64_t n = (int64_t)l->taken->n;
        return cake_jj_int(length ? n : rev ? n - i : n - i - 1);
    }
    if (cake_jj_has_method(loop, name)) {
        cake_jj_method *m = cake_jj_alloc(r, sizeof *m);
        *m = (cake_jj_method){loop, name};
        return (cake_jj_value){.type = JJ_METHOD, .u.method = m};
    }
    return (cake_jj_value){0};
}

cake_jj_value cake_jj_loop_method(cake_jj *r, cake_jj_value loop, cake_jj_value name,
                                  const cake_jj_args *a) {
    cake_jj_loop *l = loop.u.loop;
    if (cake_jj_is(name, "cycle")) {
        if (!a->n) cake_jj_fail(r, CAKE_EINVAL, "loop.cycle needs something to cycle through");
        return a->v[l->index % a->n];
    }
    cake_jj_value now = cake_jj_seq_new(r, JJ_TUPLE, a->n); /* changed */
    for (size_t i = 0; i < a->n; i++) cake_jj_seq_add(r, now, a->v[i]);
    bool same = l->changed.type != JJ_MISSING && cake_jj_eq(r, l->changed, now);
    l->changed = now;
    return cake_jj_bool(!same);
}

/* ---- statements ---- */

static cake_jj_value make_macro(cake_jj *r, cake_jj_scope *s, const cake_jj_node *def) {
    cake_jj_macro *m = cake_jj_alloc(r, sizeof *m);
    *m = (cake_jj_macro){def, s};
    return (cake_jj_value){.type = JJ_MACRO, .u.macro = m};
}

/* Body in its own scope, captured, through the filter chain if there is one. */
static cake_jj_value filtered(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_value text = capture(r, inner(r, s), n->c);
    if (!n->b) return text;
    cake_jj_value outer = r->block;
    r->block = text;
    text = eval(r, s, n->b);
    r->block = outer;
    return text;
}

static flow run_if(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    for (uint32_t i = 0; i + 1 < n->n; i += 2)
        if (cake_jj_truth(r, eval(r, s, n->v[i]))) return run(r, s, n->v[i + 1]);
    return n->b ? run(r, s, n->b) : GO;
}

static flow run_here(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_value v;
    switch (n->kind) {
    case JN_BODY:
        for (uint32_t i = 0; i < n->n; i++) {
            flow f = run(r, s, n->v[i]);
            if (f != GO) return f;
        }
        return GO;
    case JN_TEXT: cake_jj_put(r, r->out, n->value.u.s, n->value.len); return GO;
    case JN_PRINT:
        v = eval(r, s, n->a);
        r->line = n->line;
        cake_jj_put_str(r, r->out, v);
        return GO;
    case JN_IF: return run_if(r, s, n);
    case JN_FOR:
        v = eval(r, s, n->b);
        r->line = n->line;
        run_for(r, s, n, v, 0);
        return GO;
    case JN_SET:
        v = eval(r, s, n->b);
        r->line = n->line;
        assign(r, s, n->a, v);
        return GO;
    case JN_SET_BLOCK: assign(r, s, n->a, filtered(r, s, n)); return GO;
    case JN_FILTER_BLOCK:
        v = filtered(r, s, n);
        cake_jj_put_str(r, r->out, v);
        return GO;
    case JN_MACRO: set_var(r, s, n->sym, make_macro(r, s, n)); return GO;
    case JN_CALL_BLOCK:
        v = eval_call(r, s, n->a, true, make_macro(r, s, n->b));
        cake_jj_put_str(r, r->out, v);
        return GO;
    case JN_WITH: {
        cake_jj_scope *w = inner(r, s);
        for (uint32_t i = 0; i + 1 < n->n; i += 2) assign(r, w, n->v[i], eval(r, s, n->v[i + 1]));
        return run(r, w, n->c);
    }
    case JN_SCOPE: return run(r, inner(r, s), n->c);
    case JN_BREAK: return BREAK;
    case JN_CONTINUE: return CONTINUE;
    default: cake_assert(false && "not a statement");
    }
    return GO;
}

static flow run(cake_jj *r, cake_jj_scope *s, const cake_jj_node *n) {
    cake_jj_enter(r);
    cake_jj_step(r, 1);
    r->line = n->line;
    flow f = run_here(r, s, n);
    cake_jj_leave(r);
    return f;
}

void cake_jj_run(cake_jj *r, json_object *context, cake_jj_buf *out) {
    cake_jj_scope *root = inner(r, NULL);
    root->all = cake_jj_zalloc(r, r->t->n_names * sizeof *root->all);
    for (uint32_t i = 0; i < r->t->n_names; i++) {
        cake_jj_value name = r->t->names[i];
        for (int f = 0; f < N_FN; f++)
            if (cake_jj_is(name, function_names[f]))
                root->all[i] = (cake_jj_value){.type = JJ_FN, .kind = (uint8_t)f};
        if (!context) continue;
        char key[256]; /* names are identifiers: no NUL inside */
        json_object *member;
        if (name.len >= sizeof key) continue;
        memcpy(key, name.u.s, name.len);
        key[name.len] = 0;
        if (json_object_object_get_ex(context, key, &member))
            root->all[i] = cake_jj_from_json(r, member);
    }
    r->root = root;
    r->out = out;
    run(r, root, r->t->body);
}
