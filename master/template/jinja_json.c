/* JSON in and out: the context from json-c, and the tojson filter as transformers defines it
 * (json.dumps with ensure_ascii off, no HTML escaping). */
#include "master/template/jinja_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cake_jj_value cake_jj_from_json(cake_jj *r, json_object *o) {
    cake_jj_value v;
    cake_jj_step(r, 1);
    switch (json_object_get_type(o)) {
    case json_type_boolean: return cake_jj_bool(json_object_get_boolean(o));
    case json_type_double: return cake_jj_float(json_object_get_double(o));
    case json_type_int: {
        int64_t i = json_object_get_int64(o);
        if (json_object_get_uint64(o) > INT64_MAX && i > 0)
            cake_jj_fail(r, CAKE_EUNSUPPORTED, "the context holds an integer beyond 64 bits");
        return cake_jj_int(i);
    }
    case json_type_string:
        return cake_jj_str(json_object_get_string(o), (size_t)json_object_get_string_len(o));
    case json_type_array: {
        size_t n = json_object_array_length(o);
        cake_jj_enter(r);
        v = cake_jj_seq_new(r, JJ_LIST, n);
        for (size_t i = 0; i < n; i++)
            cake_jj_seq_add(r, v, cake_jj_from_json(r, json_object_array_get_idx(o, i)));
        cake_jj_leave(r);
        return v;
    }
    case json_type_object: {
        cake_jj_enter(r);
        v = cake_jj_dict_new(r, (size_t)json_object_object_length(o));
        json_object_object_foreach(o, key, member) { /* keys are unique already */
            cake_jj_value item = cake_jj_from_json(r, member);
            v.u.d->v[v.u.d->n++] = (cake_jj_pair){cake_jj_strz(key), item};
        }
        cake_jj_leave(r);
        return v;
    }
    case json_type_null: break;
    }
    return cake_jj_none();
}

typedef struct {
    cake_jj *r;
    cake_jj_buf *b;
    bool ascii, sort, pretty;
    cake_jj_value indent, item_sep, key_sep;
} writer;

static void put_string(writer *w, cake_jj_value s) {
    cake_jj *r = w->r;
    cake_jj_put(r, w->b, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        size_t n = cake_jj_utf8_next(s.u.s + i, s.len - i, &cp);
        if (cp >= 32 && cp != '"' && cp != '\\' && !(w->ascii && cp >= 0x80)) {
            i += n;
            continue;
        }
        cake_jj_put(r, w->b, s.u.s + from, i - from);
        static const char plain[] = "\"\\\n\r\t\b\f", letter[] = "\"\\nrtbf";
        const char *known = cp && cp < 0x80 ? strchr(plain, (int)cp) : NULL;
        char t[16];
        if (known)
            snprintf(t, sizeof t, "\\%c", letter[known - plain]);
        else if (cp < 0x10000)
            snprintf(t, sizeof t, "\\u%04x", cp);
        else
            snprintf(t, sizeof t, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
                     0xdc00 + ((cp - 0x10000) & 0x3ff));
        cake_jj_putz(r, w->b, t);
        i += n;
        from = i;
    }
    cake_jj_put(r, w->b, s.u.s + from, s.len - from);
    cake_jj_put(r, w->b, "\"", 1);
}

static void put_json(writer *w, cake_jj_value v, unsigned level);

static void new_line(writer *w, unsigned level) {
    if (!w->pretty) return;
    cake_jj_put(w->r, w->b, "\n", 1);
    for (unsigned i = 0; i < level; i++) cake_jj_put(w->r, w->b, w->indent.u.s, w->indent.len);
}

static void put_scalar(writer *w, cake_jj_value v) {
    if (v.type == JJ_NONE)
        cake_jj_putz(w->r, w->b, "null");
    else if (v.type == JJ_BOOL)
        cake_jj_putz(w->r, w->b, v.u.b ? "true" : "false");
    else if (v.type == JJ_FLOAT && isnan(v.u.f))
        cake_jj_putz(w->r, w->b, "NaN");
    else if (v.type == JJ_FLOAT && isinf(v.u.f))
        cake_jj_putz(w->r, w->b, v.u.f > 0 ? "Infinity" : "-Infinity");
    else if (v.type == JJ_INT || v.type == JJ_FLOAT)
        cake_jj_put_repr(w->r, w->b, v);
    else {
        cake_jj_defined(w->r, v);
        cake_jj_fail(w->r, CAKE_EINVAL, "a value of type %s cannot be written as JSON",
                     cake_jj_type_name(v));
    }
}

static void put_key(writer *w, cake_jj_value key) {
    if (key.type == JJ_STR) {
        put_string(w, key);
        return;
    }
    cake_jj_put(w->r, w->b, "\"", 1);
    put_scalar(w, key);
    cake_jj_put(w->r, w->b, "\"", 1);
}

static int by_key(const void *a, const void *b) {
    const cake_jj_value *x = &((const cake_jj_pair *)a)->key, *y = &((const cake_jj_pair *)b)->key;
    int c = memcmp(x->u.s, y->u.s, x->len < y->len ? x->len : y->len);
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

static void put_dict(writer *w, const cake_jj_dict *d, unsigned level) {
    cake_jj *r = w->r;
    const cake_jj_pair *v = d->v;
    if (w->sort && d->n > 1) {
        cake_jj_pair *sorted = cake_jj_alloc(r, d->n * sizeof *sorted);
        memcpy(sorted, d->v, d->n * sizeof *sorted);
        for (size_t i = 0; i < d->n; i++)
            if (sorted[i].key.type != JJ_STR)
                cake_jj_fail(r, CAKE_EUNSUPPORTED, "sort_keys needs strings as keys");
        qsort(sorted, d->n, sizeof *sorted, by_key);
        v = sorted;
    }
    cake_jj_put(r, w->b, "{", 1);
    for (size_t i = 0; i < d->n; i++) {
        if (i) cake_jj_put(r, w->b, w->item_sep.u.s, w->item_sep.len);
        new_line(w, level + 1);
        put_key(w, v[i].key);
        cake_jj_put(r, w->b, w->key_sep.u.s, w->key_sep.len);
        put_json(w, v[i].value, level + 1);
    }
    if (d->n) new_line(w, level);
    cake_jj_put(r, w->b, "}", 1);
}

static void put_json(writer *w, cake_jj_value v, unsigned level) {
    cake_jj *r = w->r;
    cake_jj_enter(r);
    cake_jj_step(r, 1);
    if (v.type == JJ_STR) {
        put_string(w, v);
    } else if (v.type == JJ_DICT) {
        put_dict(w, v.u.d, level);
    } else if (v.type == JJ_SEQ && (v.kind == JJ_LIST || v.kind == JJ_TUPLE)) {
        cake_jj_put(r, w->b, "[", 1);
        for (size_t i = 0; i < v.u.seq->n; i++) {
            if (i) cake_jj_put(r, w->b, w->item_sep.u.s, w->item_sep.len);
            new_line(w, level + 1);
            put_json(w, v.u.seq->v[i], level + 1);
        }
        if (v.u.seq->n) new_line(w, level);
        cake_jj_put(r, w->b, "]", 1);
    } else {
        put_scalar(w, v);
    }
    cake_jj_leave(r);
}

cake_jj_value cake_jj_tojson(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[4];
    cake_jj_bind(r, "tojson", a, "ensure_ascii indent separators sort_keys", 0, p);
    cake_jj_buf b = {.max = SIZE_MAX};
    writer w = {.r = r, .b = &b, .ascii = cake_jj_bool_arg(r, p[0], false)};
    w.sort = cake_jj_bool_arg(r, p[3], false);
    w.pretty = p[1].type != JJ_MISSING && p[1].type != JJ_NONE;
    if (w.pretty) {
        if (p[1].type == JJ_STR)
            w.indent = p[1];
        else
            w.indent =
                cake_jj_repeat(r, cake_jj_strz(" "), cake_jj_int_arg(r, "tojson indent", p[1], 0));
    }
    w.item_sep = cake_jj_strz(w.pretty ? "," : ", ");
    w.key_sep = cake_jj_strz(": ");
    if (p[2].type != JJ_MISSING && p[2].type != JJ_NONE) {
        cake_jj_seq *q = cake_jj_iter(r, p[2]).u.seq;
        if (q->n != 2) cake_jj_fail(r, CAKE_EINVAL, "tojson needs two separators");
        w.item_sep = cake_jj_str_arg(r, "tojson separators", q->v[0], NULL);
        w.key_sep = cake_jj_str_arg(r, "tojson separators", q->v[1], NULL);
    }
    put_json(&w, v, 0);
    return cake_jj_buf_str(&b);
}
