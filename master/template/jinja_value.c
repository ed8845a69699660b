/* Values of templates: memory, printing, comparison, lookup. See jinja_value.h. */
#include "master/template/jinja_value.h"
#include "master/template/jinja_text.h"
#include "master/template/jinja_eval.h"
#include "common/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 64 * 1024 };

/* ---- errors and limits ---- */

_Noreturn void cake_jj_fail(cake_jj *r, cake_status st, const char *fmt, ...) {
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    r->status = cake_fail(r->err, st, "%s:%u: %s", r->name, r->line, msg);
    longjmp(r->on_error, 1);
}

void cake_jj_step(cake_jj *r, size_t n) {
    r->steps += n;
    if (r->steps > r->limit.steps)
        cake_jj_fail(r, CAKE_ENOSPACE, "the template takes more than %zu steps", r->limit.steps);
}

void cake_jj_enter(cake_jj *r) {
    if (++r->depth > r->limit.depth)
        cake_jj_fail(r, CAKE_ENOSPACE, "nested deeper than %u levels", r->limit.depth);
}

void *cake_jj_alloc(cake_jj *r, size_t n) {
    if (n > r->limit.memory_bytes || r->memory > r->limit.memory_bytes - n)
        cake_jj_fail(r, CAKE_ENOSPACE, "the template needs more than %zu bytes of memory",
                     r->limit.memory_bytes);
    n = (n + 15) & ~(size_t)15;
    cake_jj_chunk *c = r->chunks;
    if (!c || c->size - c->used < n) {
        size_t size = n > CHUNK / 4 ? n : CHUNK;
        c = cake_trymalloc(sizeof *c + size);
        if (!c) cake_jj_fail(r, CAKE_ENOMEM, "out of memory in the template");
        c->size = size;
        c->used = 0;
        if (size == n && r->chunks) { /* a big block: keep filling the current chunk */
            c->next = r->chunks->next;
            r->chunks->next = c;
        } else {
            c->next = r->chunks;
            r->chunks = c;
        }
    }
    void *p = c->data + c->used;
    c->used += n;
    r->memory += n;
    return p;
}

void *cake_jj_zalloc(cake_jj *r, size_t n) {
    return memset(cake_jj_alloc(r, n), 0, n);
}

void cake_jj_free_all(cake_jj *r) {
    for (cake_jj_chunk *c = r->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    r->chunks = NULL;
    for (unsigned i = 0; i < r->n_owned; i++) json_object_put(r->owned[i]);
    r->n_owned = 0;
}

void cake_jj_put(cake_jj *r, cake_jj_buf *b, const char *p, size_t n) {
    if (n > b->max - b->len)
        cake_jj_fail(r, CAKE_ENOSPACE, "the text grows beyond %zu bytes", b->max);
    if (n > b->cap - b->len) {
        size_t cap = b->cap * 2 > b->len + n ? b->cap * 2 : b->len + n;
        if (cap < 64) cap = 64;
        char *q = cake_jj_alloc(r, cap);
        if (b->len) memcpy(q, b->p, b->len);
        b->p = q;
        b->cap = cap;
    }
    if (n) memcpy(b->p + b->len, p, n);
    b->len += n;
    cake_jj_step(r, n / 16);
}

void cake_jj_putz(cake_jj *r, cake_jj_buf *b, const char *z) {
    cake_jj_put(r, b, z, strlen(z));
}

cake_jj_value cake_jj_buf_str(const cake_jj_buf *b) {
    return cake_jj_str(b->p ? b->p : "", b->len);
}

/* ---- making ---- */

cake_jj_value cake_jj_strz(const char *z) {
    return cake_jj_str(z, strlen(z));
}

cake_jj_value cake_jj_undefined(cake_jj *r, const char *owner, cake_jj_value key) {
    cake_jj_undef *u = cake_jj_alloc(r, sizeof *u);
    *u = (cake_jj_undef){.owner = owner, .key = key};
    return (cake_jj_value){.type = JJ_UNDEF, .u.u = u};
}

cake_jj_value cake_jj_undefined_text(cake_jj *r, const char *text) {
    cake_jj_undef *u = cake_jj_alloc(r, sizeof *u);
    *u = (cake_jj_undef){.text = text};
    return (cake_jj_value){.type = JJ_UNDEF, .u.u = u};
}

_Noreturn void cake_jj_fail_undefined(cake_jj *r, cake_jj_value v) {
    const cake_jj_undef *u = v.u.u;
    if (u->text) cake_jj_fail(r, CAKE_EINVAL, "%s", u->text);
    int n = u->key.len > 100 ? 100 : (int)u->key.len;
    if (u->key.type != JJ_STR)
        cake_jj_fail(r, CAKE_EINVAL, "%s object has no such element", u->owner ? u->owner : "the");
    if (u->owner)
        cake_jj_fail(r, CAKE_EINVAL, "'%s object' has no attribute '%.*s'", u->owner, n,
                     u->key.u.s);
    cake_jj_fail(r, CAKE_EINVAL, "'%.*s' is undefined", n, u->key.u.s);
}

/* Grow an array of `size`-byte items to hold one more than n. */
static void *grow(cake_jj *r, void *v, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return v;
    size_t want = *cap ? *cap * 2 : 4;
    void *p = cake_jj_alloc(r, want * size);
    if (n) memcpy(p, v, n * size);
    *cap = want;
    return p;
}

cake_jj_value cake_jj_seq_new(cake_jj *r, cake_jj_seq_kind kind, size_t cap) {
    cake_jj_seq *s = cake_jj_zalloc(r, sizeof *s);
    if (cap > r->limit.memory_bytes / sizeof *s->v) cap = r->limit.memory_bytes / sizeof *s->v;
    s->v = cap ? cake_jj_alloc(r, cap * sizeof *s->v) : NULL;
    s->cap = cap;
    return (cake_jj_value){.type = JJ_SEQ, .kind = (uint8_t)kind, .u.seq = s};
}

void cake_jj_seq_add(cake_jj *r, cake_jj_value seq, cake_jj_value v) {
    cake_jj_seq *s = seq.u.seq;
    s->v = grow(r, s->v, s->n, &s->cap, sizeof *s->v);
    s->v[s->n++] = v;
    cake_jj_step(r, 1);
}

cake_jj_value cake_jj_pair_new(cake_jj *r, cake_jj_value a, cake_jj_value b) {
    cake_jj_value t = cake_jj_seq_new(r, JJ_TUPLE, 2);
    t.u.seq->v[0] = a;
    t.u.seq->v[1] = b;
    t.u.seq->n = 2;
    return t;
}

cake_jj_value cake_jj_dict_new(cake_jj *r, size_t cap) {
    cake_jj_dict *d = cake_jj_zalloc(r, sizeof *d);
    d->v = cap ? cake_jj_alloc(r, cap * sizeof *d->v) : NULL;
    d->cap = cap;
    return (cake_jj_value){.type = JJ_DICT, .u.d = d};
}

static bool hashable(cake_jj_value v) {
    if (v.type == JJ_DICT || v.type == JJ_NS) return false;
    if (v.type != JJ_SEQ) return true;
    if (v.kind != JJ_TUPLE) return false;
    for (size_t i = 0; i < v.u.seq->n; i++)
        if (!hashable(v.u.seq->v[i])) return false;
    return true;
}

cake_jj_value *cake_jj_dict_get(cake_jj *r, const cake_jj_dict *d, cake_jj_value key) {
    cake_jj_step(r, d->n / 8);
    if (key.type == JJ_STR) {
        for (size_t i = 0; i < d->n; i++)
            if (d->v[i].key.type == JJ_STR && d->v[i].key.len == key.len &&
                memcmp(d->v[i].key.u.s, key.u.s, key.len) == 0)
                return &d->v[i].value;
        return NULL;
    }
    if (!hashable(key)) return NULL;
    for (size_t i = 0; i < d->n; i++)
        if (cake_jj_eq(r, d->v[i].key, key)) return &d->v[i].value;
    return NULL;
}

void cake_jj_dict_set(cake_jj *r, cake_jj_dict *d, cake_jj_value key, cake_jj_value v) {
    if (!hashable(key))
        cake_jj_fail(r, CAKE_EINVAL, "a value of type %s cannot be a key", cake_jj_type_name(key));
    cake_jj_value *at = cake_jj_dict_get(r, d, key);
    if (at) {
        *at = v;
        return;
    }
    d->v = grow(r, d->v, d->n, &d->cap, sizeof *d->v);
    d->v[d->n++] = (cake_jj_pair){key, v};
    cake_jj_step(r, 1);
}

cake_jj_value cake_jj_concat(cake_jj *r, cake_jj_value a, cake_jj_value b) {
    if (!b.len) return a;
    if (!a.len) {
        b.kind |= a.kind;
        return b;
    }
    size_t n = (size_t)a.len + b.len;
    if (n > UINT32_MAX) cake_jj_fail(r, CAKE_ENOSPACE, "a string grows beyond 4 GiB");
    char *p = cake_jj_alloc(r, n);
    memcpy(p, a.u.s, a.len);
    memcpy(p + a.len, b.u.s, b.len);
    cake_jj_step(r, n / 16);
    cake_jj_value v = cake_jj_str(p, n);
    v.kind = a.kind | b.kind;
    return v;
}

/* ---- asking ---- */

bool cake_jj_is(cake_jj_value v, const char *z) {
    return v.type == JJ_STR && v.len == strlen(z) && memcmp(v.u.s, z, v.len) == 0;
}

const char *cake_jj_type_name(cake_jj_value v) {
    static const char *const names[] = {
        [JJ_MISSING] = "missing", [JJ_UNDEF] = "Undefined", [JJ_NONE] = "NoneType",
        [JJ_BOOL] = "bool",       [JJ_INT] = "int",         [JJ_FLOAT] = "float",
        [JJ_STR] = "str",         [JJ_DICT] = "dict",       [JJ_NS] = "Namespace",
        [JJ_FN] = "function",     [JJ_METHOD] = "method",   [JJ_MACRO] = "Macro",
        [JJ_LOOP] = "LoopContext"};
    static const char *const seqs[] = {
        [JJ_LIST] = "list",        [JJ_TUPLE] = "tuple",    [JJ_GEN] = "generator",
        [JJ_ITEMS] = "dict_items", [JJ_KEYS] = "dict_keys", [JJ_VALUES] = "dict_values",
        [JJ_RANGE] = "range"};
    return v.type == JJ_SEQ ? seqs[v.kind] : names[v.type];
}

bool cake_jj_truth(cake_jj *r, cake_jj_value v) {
    (void)r;
    switch ((cake_jj_type)v.type) {
    case JJ_MISSING:
    case JJ_UNDEF:
    case JJ_NONE: return false;
    case JJ_BOOL: return v.u.b;
    case JJ_INT: return v.u.i != 0;
    case JJ_FLOAT: return v.u.f != 0;
    case JJ_STR: return v.len != 0;
    case JJ_SEQ: return v.kind == JJ_GEN || v.u.seq->n != 0;
    case JJ_DICT: return v.u.d->n != 0;
    case JJ_NS:
    case JJ_FN:
    case JJ_METHOD:
    case JJ_MACRO:
    case JJ_LOOP: return true;
    }
    return false;
}

/* -1, 0, 1, or 2 when one is NaN. Exact between integers and floats. */
static int compare_num(cake_jj_value a, cake_jj_value b) {
    if (a.type != JJ_FLOAT && b.type != JJ_FLOAT) {
        int64_t x = cake_jj_as_int(a), y = cake_jj_as_int(b);
        return (x > y) - (x < y);
    }
    long double x = a.type == JJ_FLOAT ? (long double)a.u.f : (long double)cake_jj_as_int(a);
    long double y = b.type == JJ_FLOAT ? (long double)b.u.f : (long double)cake_jj_as_int(b);
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

static bool eq_seq(cake_jj *r, const cake_jj_seq *a, const cake_jj_seq *b) {
    if (a == b) return true;
    if (a->n != b->n) return false;
    cake_jj_enter(r);
    bool same = true;
    for (size_t i = 0; same && i < a->n; i++) same = cake_jj_eq(r, a->v[i], b->v[i]);
    cake_jj_leave(r);
    return same;
}

bool cake_jj_eq(cake_jj *r, cake_jj_value a, cake_jj_value b) {
    cake_jj_step(r, 1);
    if (cake_jj_is_num(a) && cake_jj_is_num(b)) return compare_num(a, b) == 0;
    if (a.type != b.type) return false;
    switch ((cake_jj_type)a.type) {
    case JJ_STR:
        cake_jj_step(r, a.len / 64);
        return a.len == b.len && memcmp(a.u.s, b.u.s, a.len) == 0;
    case JJ_SEQ:
        if (a.u.seq == b.u.seq) return true;
        return a.kind == b.kind && a.kind != JJ_GEN && a.kind != JJ_VALUES &&
               eq_seq(r, a.u.seq, b.u.seq);
    case JJ_DICT: {
        if (a.u.d == b.u.d) return true;
        if (a.u.d->n != b.u.d->n) return false;
        cake_jj_enter(r);
        bool same = true;
        for (size_t i = 0; same && i < a.u.d->n; i++) {
            cake_jj_value *o = cake_jj_dict_get(r, b.u.d, a.u.d->v[i].key);
            same = o && cake_jj_eq(r, a.u.d->v[i].value, *o);
        }
        cake_jj_leave(r);
        return same;
    }
    case JJ_NS: return a.u.d == b.u.d;
    case JJ_FN: return a.kind == b.kind;
    case JJ_METHOD: return a.u.method == b.u.method;
    case JJ_MACRO: return a.u.macro == b.u.macro;
    case JJ_LOOP: return a.u.loop == b.u.loop;
    default: return true; /* None, Undefined */
    }
}

bool cake_jj_less(cake_jj *r, cake_jj_value a, cake_jj_value b) {
    cake_jj_step(r, 1);
    if (cake_jj_is_num(a) && cake_jj_is_num(b)) return compare_num(a, b) == -1;
    cake_jj_defined(r, a);
    cake_jj_defined(r, b);
    if (a.type == JJ_STR && b.type == JJ_STR) { /* UTF-8 keeps the order of code points */
        uint32_t n = a.len < b.len ? a.len : b.len;
        cake_jj_step(r, n / 64);
        int c = memcmp(a.u.s, b.u.s, n);
        return c < 0 || (c == 0 && a.len < b.len);
    }
    if (a.type == JJ_SEQ && b.type == JJ_SEQ && a.kind == b.kind &&
        (a.kind == JJ_LIST || a.kind == JJ_TUPLE)) {
        const cake_jj_seq *x = a.u.seq, *y = b.u.seq;
        cake_jj_enter(r);
        for (size_t i = 0; i < x->n && i < y->n; i++)
            if (!cake_jj_eq(r, x->v[i], y->v[i])) {
                bool less = cake_jj_less(r, x->v[i], y->v[i]);
                cake_jj_leave(r);
                return less;
            }
        cake_jj_leave(r);
        return x->n < y->n;
    }
    cake_jj_fail(r, CAKE_EINVAL, "'<' is not supported between '%s' and '%s'", cake_jj_type_name(a),
                 cake_jj_type_name(b));
}

bool cake_jj_contains(cake_jj *r, cake_jj_value item, cake_jj_value in) {
    switch ((cake_jj_type)in.type) {
    case JJ_STR:
        if (item.type != JJ_STR)
            cake_jj_fail(r, CAKE_EINVAL, "'in <string>' needs a string on its left, not %s",
                         cake_jj_type_name(item));
        cake_jj_step(r, in.len / 16);
        return cake_jj_find(in, item, 0) != SIZE_MAX;
    case JJ_DICT:
        if (!hashable(item))
            cake_jj_fail(r, CAKE_EINVAL, "a value of type %s cannot be a key",
                         cake_jj_type_name(item));
        return cake_jj_dict_get(r, in.u.d, item) != NULL;
    case JJ_UNDEF: return false;
    case JJ_SEQ: {
        cake_jj_value s = cake_jj_iter(r, in);
        for (size_t i = 0; i < s.u.seq->n; i++)
            if (cake_jj_eq(r, item, s.u.seq->v[i])) return true;
        return false;
    }
    default:
        cake_jj_fail(r, CAKE_EINVAL, "a value of type %s cannot be searched with 'in'",
                     cake_jj_type_name(in));
    }
}

int64_t cake_jj_len(cake_jj *r, cake_jj_value v) {
    switch ((cake_jj_type)v.type) {
    case JJ_UNDEF: return 0;
    case JJ_STR: return (int64_t)cake_jj_count_chars(v.u.s, v.len);
    case JJ_DICT: return (int64_t)v.u.d->n;
    case JJ_SEQ:
        if (v.kind != JJ_GEN) return (int64_t)v.u.seq->n;
        break;
    default: break;
    }
    if (v.type == JJ_LOOP) return cake_jj_as_int(cake_jj_getattr(r, v, cake_jj_strz("length")));
    cake_jj_fail(r, CAKE_EINVAL, "a value of type %s has no length%s", cake_jj_type_name(v),
                 v.type == JJ_SEQ ? " (put |list before |length)" : "");
}

bool cake_jj_iterable(cake_jj_value v) {
    return v.type == JJ_STR || v.type == JJ_SEQ || v.type == JJ_DICT || v.type == JJ_UNDEF ||
           v.type == JJ_LOOP;
}

cake_jj_value cake_jj_iter(cake_jj *r, cake_jj_value v) {
    cake_jj_value s;
    switch ((cake_jj_type)v.type) {
    case JJ_UNDEF: return cake_jj_seq_new(r, JJ_LIST, 0);
    case JJ_SEQ:
        if (v.kind != JJ_GEN) return v;
        s = cake_jj_seq_new(r, JJ_LIST, 0);
        if (v.u.seq->at == v.u.seq->n) return s;
        s.u.seq->v = v.u.seq->v + v.u.seq->at;
        s.u.seq->n = s.u.seq->cap = v.u.seq->n - v.u.seq->at;
        v.u.seq->at = v.u.seq->n;
        return s;
    case JJ_DICT:
        s = cake_jj_seq_new(r, JJ_LIST, v.u.d->n);
        for (size_t i = 0; i < v.u.d->n; i++) cake_jj_seq_add(r, s, v.u.d->v[i].key);
        return s;
    case JJ_STR:
        s = cake_jj_seq_new(r, JJ_LIST, 0);
        for (size_t i = 0; i < v.len;) {
            uint32_t cp;
            size_t n = cake_jj_utf8_next(v.u.s + i, v.len - i, &cp);
            cake_jj_seq_add(r, s, cake_jj_str(v.u.s + i, n));
            i += n;
        }
        return s;
    default:
        cake_jj_fail(r, CAKE_EINVAL, "a value of type %s cannot be iterated", cake_jj_type_name(v));
    }
}

/* ---- lookup ---- */

static const char *owner_name(cake_jj_value v) {
    return v.type == JJ_NONE ? "None" : cake_jj_type_name(v);
}

static cake_jj_value method_value(cake_jj *r, cake_jj_value obj, cake_jj_value name) {
    cake_jj_method *m = cake_jj_alloc(r, sizeof *m);
    *m = (cake_jj_method){obj, name};
    return (cake_jj_value){.type = JJ_METHOD, .u.method = m};
}

/* obj[key] alone; MISSING when Python raises a lookup or type error. */
static cake_jj_value subscript(cake_jj *r, cake_jj_value obj, cake_jj_value key) {
    if (obj.type == JJ_DICT) {
        cake_jj_value *v = cake_jj_dict_get(r, obj.u.d, key);
        return v ? *v : (cake_jj_value){0};
    }
    if (!cake_jj_is_int(key)) return (cake_jj_value){0};
    int64_t i = cake_jj_as_int(key);
    if (obj.type == JJ_STR) {
        int64_t n = (int64_t)cake_jj_count_chars(obj.u.s, obj.len);
        if (i < 0) i += n;
        if (i < 0 || i >= n) return (cake_jj_value){0};
        cake_jj_step(r, obj.len / 64);
        size_t at = cake_jj_char_offset(obj.u.s, obj.len, (size_t)i);
        uint32_t cp;
        cake_jj_value v =
            cake_jj_str(obj.u.s + at, cake_jj_utf8_next(obj.u.s + at, obj.len - at, &cp));
        v.kind = obj.kind;
        return v;
    }
    if (obj.type == JJ_SEQ &&
        (obj.kind == JJ_LIST || obj.kind == JJ_TUPLE || obj.kind == JJ_RANGE)) {
        int64_t n = (int64_t)obj.u.seq->n;
        if (i < 0) i += n;
        if (i >= 0 && i < n) return obj.u.seq->v[i];
    }
    return (cake_jj_value){0};
}

/* A method or built-in attribute; MISSING when there is none. */
static cake_jj_value attribute(cake_jj *r, cake_jj_value obj, cake_jj_value name) {
    if (obj.type == JJ_NS) {
        cake_jj_value *v = cake_jj_dict_get(r, obj.u.d, name);
        return v ? *v : (cake_jj_value){0};
    }
    if (obj.type == JJ_LOOP) return cake_jj_loop_attr(r, obj, name);
    if (obj.type == JJ_MACRO && cake_jj_is(name, "name")) return cake_jj_macro_name(obj);
    if (cake_jj_has_method(obj, name)) return method_value(r, obj, name);
    return (cake_jj_value){0};
}

cake_jj_value cake_jj_getitem(cake_jj *r, cake_jj_value obj, cake_jj_value key) {
    cake_jj_defined(r, obj);
    cake_jj_value v = subscript(r, obj, key);
    if (v.type == JJ_MISSING && key.type == JJ_STR) v = attribute(r, obj, key);
    return v.type == JJ_MISSING ? cake_jj_undefined(r, owner_name(obj), key) : v;
}

cake_jj_value cake_jj_getattr(cake_jj *r, cake_jj_value obj, cake_jj_value name) {
    cake_jj_defined(r, obj);
    cake_jj_value v = attribute(r, obj, name);
    if (v.type == JJ_MISSING) v = subscript(r, obj, name);
    return v.type == JJ_MISSING ? cake_jj_undefined(r, owner_name(obj), name) : v;
}

/* ---- printing ---- */

static void put_seq(cake_jj *r, cake_jj_buf *b, const cake_jj_seq *s, size_t from, const char *open,
                    const char *close) {
    cake_jj_putz(r, b, open);
    for (size_t i = from; i < s->n; i++) {
        if (i > from) cake_jj_putz(r, b, ", ");
        cake_jj_put_repr(r, b, s->v[i]);
    }
    cake_jj_putz(r, b, close);
}

static void put_int(cake_jj *r, cake_jj_buf *b, int64_t i) {
    char t[24];
    snprintf(t, sizeof t, "%lld", (long long)i);
    cake_jj_putz(r, b, t);
}

static void put_range(cake_jj *r, cake_jj_buf *b, const cake_jj_seq *s) {
    cake_jj_putz(r, b, "range(");
    put_int(r, b, s->start);
    cake_jj_putz(r, b, ", ");
    put_int(r, b, s->stop);
    if (s->step != 1) {
        cake_jj_putz(r, b, ", ");
        put_int(r, b, s->step);
    }
    cake_jj_putz(r, b, ")");
}

static void put_pairs(cake_jj *r, cake_jj_buf *b, const cake_jj_dict *d) {
    cake_jj_putz(r, b, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) cake_jj_putz(r, b, ", ");
        cake_jj_put_repr(r, b, d->v[i].key);
        cake_jj_putz(r, b, ": ");
        cake_jj_put_repr(r, b, d->v[i].value);
    }
    cake_jj_putz(r, b, "}");
}

void cake_jj_put_repr(cake_jj *r, cake_jj_buf *b, cake_jj_value v) {
    cake_jj_enter(r);
    cake_jj_step(r, 1);
    switch ((cake_jj_type)v.type) {
    case JJ_STR:
        if (v.kind) cake_jj_putz(r, b, "Markup(");
        cake_jj_put_quoted(r, b, v);
        if (v.kind) cake_jj_putz(r, b, ")");
        break;
    case JJ_MISSING:
    case JJ_UNDEF: cake_jj_putz(r, b, "Undefined"); break;
    case JJ_NONE: cake_jj_putz(r, b, "None"); break;
    case JJ_BOOL: cake_jj_putz(r, b, v.u.b ? "True" : "False"); break;
    case JJ_INT: put_int(r, b, v.u.i); break;
    case JJ_FLOAT: cake_jj_put_float(r, b, v.u.f); break;
    case JJ_DICT: put_pairs(r, b, v.u.d); break;
    case JJ_SEQ:
        if (v.kind == JJ_LIST) put_seq(r, b, v.u.seq, 0, "[", "]");
        if (v.kind == JJ_TUPLE) put_seq(r, b, v.u.seq, 0, "(", v.u.seq->n == 1 ? ",)" : ")");
        if (v.kind == JJ_ITEMS) put_seq(r, b, v.u.seq, 0, "dict_items([", "])");
        if (v.kind == JJ_KEYS) put_seq(r, b, v.u.seq, 0, "dict_keys([", "])");
        if (v.kind == JJ_VALUES) put_seq(r, b, v.u.seq, 0, "dict_values([", "])");
        if (v.kind == JJ_RANGE) put_range(r, b, v.u.seq);
        if (v.kind == JJ_GEN) cake_jj_putz(r, b, "<generator object>");
        break;
    case JJ_NS:
        cake_jj_putz(r, b, "<Namespace ");
        put_pairs(r, b, v.u.d);
        cake_jj_putz(r, b, ">");
        break;
    case JJ_FN:
    case JJ_METHOD:
    case JJ_MACRO:
    case JJ_LOOP:
        cake_jj_putz(r, b, "<");
        cake_jj_putz(r, b, cake_jj_type_name(v));
        cake_jj_putz(r, b, ">");
        break;
    }
    cake_jj_leave(r);
}

void cake_jj_put_str(cake_jj *r, cake_jj_buf *b, cake_jj_value v) {
    if (v.type == JJ_STR)
        cake_jj_put(r, b, v.u.s, v.len);
    else if (v.type != JJ_UNDEF)
        cake_jj_put_repr(r, b, v);
}

cake_jj_value cake_jj_tostr(cake_jj *r, cake_jj_value v) {
    if (v.type == JJ_STR) return v;
    cake_jj_buf b = {.max = SIZE_MAX};
    cake_jj_put_str(r, &b, v);
    return cake_jj_buf_str(&b);
}

/* ---- arguments ---- */

void cake_jj_bind(cake_jj *r, const char *fn, const cake_jj_args *a, const char *params,
                  size_t required, cake_jj_value *out) {
    bool positional = params[0] == '/';
    if (positional) params++;
    const char *name[12];
    size_t len[12], n = 0;
    for (const char *p = params; *p;) {
        size_t k = strcspn(p, " ");
        cake_assert(n < 12);
        name[n] = p;
        len[n] = k;
        out[n++] = (cake_jj_value){0};
        p += k + (p[k] == ' ');
    }
    if (a->n > n)
        cake_jj_fail(r, CAKE_EINVAL, "%s takes at most %zu arguments, %zu were given", fn, n, a->n);
    for (size_t i = 0; i < a->n; i++) out[i] = a->v[i];
    for (size_t k = 0; k < a->n_kw; k++) {
        cake_jj_value key = a->kw[k].name;
        size_t i = 0;
        while (i < n && !(len[i] == key.len && memcmp(name[i], key.u.s, key.len) == 0)) i++;
        int shown = key.len > 60 ? 60 : (int)key.len;
        if (positional) cake_jj_fail(r, CAKE_EINVAL, "%s takes no keyword arguments", fn);
        if (i == n)
            cake_jj_fail(r, CAKE_EINVAL, "%s has no argument named '%.*s'", fn, shown, key.u.s);
        if (out[i].type != JJ_MISSING)
            cake_jj_fail(r, CAKE_EINVAL, "%s got two values for '%.*s'", fn, shown, key.u.s);
        out[i] = a->kw[k].value;
    }
    for (size_t i = 0; i < required; i++)
        if (out[i].type == JJ_MISSING)
            cake_jj_fail(r, CAKE_EINVAL, "%s needs the argument '%.*s'", fn, (int)len[i], name[i]);
}

int64_t cake_jj_int_arg(cake_jj *r, const char *fn, cake_jj_value v, int64_t otherwise) {
    if (v.type == JJ_MISSING) return otherwise;
    cake_jj_defined(r, v);
    if (!cake_jj_is_int(v))
        cake_jj_fail(r, CAKE_EINVAL, "%s needs an integer, not %s", fn, cake_jj_type_name(v));
    return cake_jj_as_int(v);
}

cake_jj_value cake_jj_str_arg(cake_jj *r, const char *fn, cake_jj_value v, const char *otherwise) {
    if (v.type == JJ_MISSING && otherwise) return cake_jj_strz(otherwise);
    cake_jj_defined(r, v);
    if (v.type != JJ_STR)
        cake_jj_fail(r, CAKE_EINVAL, "%s needs a string, not %s", fn, cake_jj_type_name(v));
    return v;
}

bool cake_jj_bool_arg(cake_jj *r, cake_jj_value v, bool otherwise) {
    return v.type == JJ_MISSING ? otherwise : cake_jj_truth(r, v);
}
