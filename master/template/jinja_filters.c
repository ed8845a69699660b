/* The filters behind `|`. Those that select or map give generators, as in Jinja: used up by one
 * iteration, without a length. */
#include "common/json.h"
#include "master/template/jinja_ast.h"
#include "master/template/jinja_text.h"

#include <errno.h>
#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static cake_jj_value nothing(void) {
    return (cake_jj_value){0};
}

static void none(cake_jj *r, const char *name, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, name, a, "", 0, p);
}

/* str() of what a text filter is given, as Jinja's soft_str. */
static cake_jj_value text(cake_jj *r, cake_jj_value v) {
    v = cake_jj_tostr(r, v);
    cake_jj_step(r, v.len / 16);
    return v;
}

/* ---- text ---- */

static cake_jj_value f_trim(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "trim", a, "chars", 0, p);
    if (p[0].type == JJ_NONE) p[0] = nothing();
    if (p[0].type != JJ_MISSING) cake_jj_str_arg(r, "trim", p[0], NULL);
    return cake_jj_strip(text(r, v), p[0], true, true);
}
static cake_jj_value f_upper(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "upper", a);
    return cake_jj_upper(r, text(r, v));
}
static cake_jj_value f_lower(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "lower", a);
    return cake_jj_lower(r, text(r, v));
}
static cake_jj_value f_capitalize(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "capitalize", a);
    return cake_jj_capitalize(r, text(r, v));
}
static cake_jj_value f_title(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "title", a);
    return cake_jj_title_filter(r, text(r, v));
}
static cake_jj_value f_string(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "string", a);
    return text(r, v);
}
static cake_jj_value f_safe(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "safe", a);
    v = text(r, v);
    v.kind = 1;
    return v;
}
static cake_jj_value f_escape(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "escape", a);
    return v.type == JJ_STR && v.kind ? v : cake_jj_escape_html(r, text(r, v));
}
static cake_jj_value f_forceescape(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "forceescape", a);
    return cake_jj_escape_html(r, text(r, v));
}

static cake_jj_value f_replace(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[3];
    cake_jj_bind(r, "replace", a, "old new count", 2, p);
    if (p[2].type == JJ_NONE) p[2] = nothing();
    return cake_jj_replace(r, text(r, v), text(r, p[0]), text(r, p[1]),
                           cake_jj_int_arg(r, "replace", p[2], -1));
}

static cake_jj_value f_indent(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[3], pad;
    cake_jj_bind(r, "indent", a, "width first blank", 0, p);
    if (p[0].type == JJ_STR)
        pad = p[0];
    else
        pad = cake_jj_repeat(r, cake_jj_strz(" "), cake_jj_int_arg(r, "indent", p[0], 4));
    bool first = cake_jj_bool_arg(r, p[1], false), blank = cake_jj_bool_arg(r, p[2], false);
    cake_jj_value s = v.type == JJ_STR ? v : cake_jj_str_arg(r, "indent", v, NULL);
    cake_jj_seq *lines =
        cake_jj_splitlines(r, cake_jj_concat(r, s, cake_jj_strz("\n")), false).u.seq;
    cake_jj_buf b = {.max = SIZE_MAX};
    for (size_t i = 0; i < lines->n; i++) {
        if (i) cake_jj_put(r, &b, "\n", 1);
        if (i ? blank || lines->v[i].len : first) cake_jj_put(r, &b, pad.u.s, pad.len);
        cake_jj_put(r, &b, lines->v[i].u.s, lines->v[i].len);
    }
    return cake_jj_buf_str(&b);
}

static cake_jj_value f_center(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "center", a, "width", 0, p);
    cake_jj_value width = cake_jj_int(cake_jj_int_arg(r, "center", p[0], 80));
    cake_jj_args one = {.v = &width, .n = 1};
    return cake_jj_call_method(r, text(r, v), cake_jj_strz("center"), &one);
}

static cake_jj_value f_truncate(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[4];
    cake_jj_bind(r, "truncate", a, "length killwords end leeway", 0, p);
    cake_jj_value s = v, end = cake_jj_str_arg(r, "truncate", p[2], "...");
    int64_t length = cake_jj_int_arg(r, "truncate", p[0], 255),
            leeway = cake_jj_int_arg(r, "truncate", p[3], 5);
    int64_t n_end = cake_jj_len(r, end);
    if (length < n_end || leeway < 0)
        cake_jj_fail(r, CAKE_EINVAL, "truncate needs a length of at least that of its end mark");
    if (cake_jj_len(r, s) <= length + leeway) return s; /* anything that has a length */
    s = cake_jj_str_arg(r, "truncate", s, NULL);
    s = cake_jj_slice_str(r, s, 0, 1, length - n_end);
    if (!cake_jj_bool_arg(r, p[1], false)) {
        size_t space = cake_jj_rfind(s, cake_jj_strz(" "));
        if (space != SIZE_MAX) s.len = (uint32_t)space;
    }
    return cake_jj_concat(r, s, end);
}

static cake_jj_value f_wordcount(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "wordcount", a);
    cake_jj_value s = text(r, v);
    int64_t n = 0;
    bool in = false;
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        size_t k = cake_jj_utf8_next(s.u.s + i, s.len - i, &cp);
        bool word = cp == '_' || cake_jj_all_of(cake_jj_str(s.u.s + i, k), 'w');
        n += word && !in;
        in = word;
        i += k;
    }
    return cake_jj_int(n);
}

static cake_jj_value f_format(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    if (a->n && a->n_kw)
        cake_jj_fail(r, CAKE_EINVAL, "format takes positional or named values, not both");
    cake_jj_value args =
        a->n_kw ? cake_jj_dict_new(r, a->n_kw) : cake_jj_seq_new(r, JJ_TUPLE, a->n);
    for (size_t i = 0; i < a->n; i++) cake_jj_seq_add(r, args, a->v[i]);
    for (size_t i = 0; i < a->n_kw; i++)
        cake_jj_dict_set(r, args.u.d, a->kw[i].name, a->kw[i].value);
    return cake_jj_percent(r, text(r, v), args);
}

static cake_jj_value f_urlencode(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    static const char hex[] = "0123456789ABCDEF";
    none(r, "urlencode", a);
    if (v.type == JJ_DICT || v.type == JJ_SEQ)
        cake_jj_fail(r, CAKE_EUNSUPPORTED, "urlencode takes a string here");
    cake_jj_value s = text(r, v);
    cake_jj_buf b = {.max = SIZE_MAX};
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.u.s[i];
        char t[3] = {'%', hex[c >> 4], hex[c & 15]};
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
                     (c && strchr("_.-~/", c));
        cake_jj_put(r, &b, plain ? s.u.s + i : t, plain ? 1 : 3);
    }
    return cake_jj_buf_str(&b);
}

/* ---- numbers ---- */

/* Python's int(str, base) and float(str) accept surrounding space and single '_' between digits. */
static bool clean_number(cake_jj_value s, char *out, size_t size) {
    s = cake_jj_strip(s, nothing(), true, true);
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.u.s[i];
        if (c == '_') {
            if (!i || i + 1 == s.len || s.u.s[i - 1] == '_' || s.u.s[i - 1] < '0' ||
                s.u.s[i + 1] < '0')
                return false;
            continue;
        }
        if (!c || n + 1 >= size) return false;
        out[n++] = c;
    }
    out[n] = 0;
    return n > 0;
}

static bool parse_float(cake_jj_value s, double *out) {
    char t[400], *end;
    if (!clean_number(s, t, sizeof t) || strpbrk(t, "xXpP(")) return false;
    *out = strtod(t, &end);
    return !*end && end != t;
}

static cake_jj_value float_to_int(cake_jj *r, double f, cake_jj_value otherwise) {
    if (isnan(f) || isinf(f)) return otherwise;
    if (f >= 9223372036854775808.0 || f < -9223372036854775808.0)
        cake_jj_fail(r, CAKE_EUNSUPPORTED, "an integer beyond 64 bits");
    return cake_jj_int((int64_t)f);
}

static cake_jj_value f_int(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[2];
    cake_jj_bind(r, "int", a, "default base", 0, p);
    cake_jj_value otherwise = p[0].type == JJ_MISSING ? cake_jj_int(0) : p[0];
    int64_t base = cake_jj_int_arg(r, "int", p[1], 10);
    cake_jj_defined(r, v);
    if (cake_jj_is_int(v)) return cake_jj_int(cake_jj_as_int(v));
    if (v.type == JJ_FLOAT) return float_to_int(r, v.u.f, otherwise);
    if (v.type != JJ_STR) return otherwise;
    if (base != 0 && (base < 2 || base > 36)) return otherwise;
    char t[400], *end;
    if (!clean_number(v, t, sizeof t)) return otherwise;
    const char *digits = t + (*t == '-' || *t == '+');
    bool prefix = digits[0] == '0' && digits[1] && strchr("xXoObB", digits[1]);
    if (prefix) { /* strtoll knows 0x only */
        int64_t own = digits[1] == 'x' || digits[1] == 'X' ? 16 : (digits[1] | 32) == 'o' ? 8 : 2;
        if (base == 0 || base == own) {
            base = own;
            memmove(t + (digits - t), digits + 2, strlen(digits + 2) + 1);
        }
    } else if (base == 0) {
        base = 10;
    }
    if (*digits && *digits != ' ' && *digits != '-' && *digits != '+') {
        errno = 0;
        long long i = strtoll(t, &end, (int)base);
        if (errno == ERANGE) cake_jj_fail(r, CAKE_EUNSUPPORTED, "an integer beyond 64 bits");
        if (!*end && end != t && !(base == 16 && strpbrk(t, "xX"))) return cake_jj_int(i);
    }
    double f;
    return parse_float(v, &f) ? float_to_int(r, f, otherwise) : otherwise;
}

static cake_jj_value f_float(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[1];
    double f;
    cake_jj_bind(r, "float", a, "default", 0, p);
    cake_jj_defined(r, v);
    if (cake_jj_is_num(v)) return cake_jj_float(cake_jj_as_float(v));
    if (v.type == JJ_STR && parse_float(v, &f)) return cake_jj_float(f);
    return p[0].type == JJ_MISSING ? cake_jj_float(0) : p[0];
}

static cake_jj_value f_abs(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "abs", a);
    cake_jj_defined(r, v);
    if (!cake_jj_is_num(v))
        cake_jj_fail(r, CAKE_EINVAL, "abs needs a number, not %s", cake_jj_type_name(v));
    if (v.type == JJ_FLOAT) return cake_jj_float(fabs(v.u.f));
    return cake_jj_as_int(v) < 0 ? cake_jj_binary(r, JO_SUB, cake_jj_int(0), v)
                                 : cake_jj_int(cake_jj_as_int(v));
}

static cake_jj_value f_round(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[2];
    cake_jj_bind(r, "round", a, "precision method", 0, p);
    int64_t digits = cake_jj_int_arg(r, "round", p[0], 0);
    cake_jj_value method = cake_jj_str_arg(r, "round", p[1], "common");
    cake_jj_defined(r, v);
    if (!cake_jj_is_num(v))
        cake_jj_fail(r, CAKE_EINVAL, "round needs a number, not %s", cake_jj_type_name(v));
    if (digits < -300 || digits > 300)
        cake_jj_fail(r, CAKE_EINVAL, "round: a precision beyond 300");
    if (cake_jj_is(method, "common")) {
        if (v.type != JJ_FLOAT && digits >= 0) return cake_jj_int(cake_jj_as_int(v));
        /* correctly rounded decimal, half to even: what printf does */
        char t[800];
        double f = cake_jj_as_float(v);
        if (digits >= 0) {
            snprintf(t, sizeof t, "%.*f", (int)digits, f);
            f = strtod(t, NULL);
        } else {
            double unit = pow(10, (double)-digits);
            f = nearbyint(f / unit) * unit;
        }
        return v.type == JJ_FLOAT ? cake_jj_float(f) : cake_jj_int((int64_t)f);
    }
    double unit = pow(10, (double)digits), f = cake_jj_as_float(v) * unit;
    if (cake_jj_is(method, "ceil")) return cake_jj_float(ceil(f) / unit);
    if (cake_jj_is(method, "floor")) return cake_jj_float(floor(f) / unit);
    cake_jj_fail(r, CAKE_EINVAL, "round: the method is common, ceil or floor");
}

/* ---- attributes, ordering ---- */

/* "a.b.0": item after item; `otherwise` where one is undefined. */
static cake_jj_value attr_path(cake_jj *r, cake_jj_value v, cake_jj_value path,
                               cake_jj_value otherwise) {
    if (path.type != JJ_STR) return cake_jj_getitem(r, v, path);
    cake_jj_seq *parts = cake_jj_split(r, path, cake_jj_strz("."), -1).u.seq;
    for (size_t i = 0; i < parts->n; i++) {
        cake_jj_value key = parts->v[i];
        if (cake_jj_all_of(key, 'd') && key.len < 10) {
            int64_t k = 0;
            for (uint32_t c = 0; c < key.len; c++) k = k * 10 + (key.u.s[c] - '0');
            key = cake_jj_int(k);
        }
        v = cake_jj_getitem(r, v, key);
        if (v.type == JJ_UNDEF && otherwise.type != JJ_MISSING) return otherwise;
    }
    return v;
}

static cake_jj_value fold_case(cake_jj *r, cake_jj_value v, bool case_sensitive) {
    return v.type == JJ_STR && !case_sensitive ? cake_jj_lower(r, v) : v;
}

typedef struct {
    cake_jj_value key, item;
} keyed;

/* Stable merge sort; reverse keeps equal items in their order, as Python does. */
static void merge_sort(cake_jj *r, keyed *v, keyed *tmp, size_t n, bool reverse) {
    if (n < 2) return;
    size_t half = n / 2;
    merge_sort(r, v, tmp, half, reverse);
    merge_sort(r, v + half, tmp, n - half, reverse);
    memcpy(tmp, v, half * sizeof *v);
    size_t i = 0, j = half, k = 0;
    while (i < half && j < n) {
        bool take =
            reverse ? cake_jj_less(r, tmp[i].key, v[j].key) : cake_jj_less(r, v[j].key, tmp[i].key);
        v[k++] = take ? v[j++] : tmp[i++];
    }
    while (i < half) v[k++] = tmp[i++];
}

static cake_jj_value sorted(cake_jj *r, keyed *v, size_t n, bool reverse) {
    keyed *tmp = cake_jj_alloc(r, (n / 2 + 1) * sizeof *tmp);
    merge_sort(r, v, tmp, n, reverse);
    cake_jj_value out = cake_jj_seq_new(r, JJ_LIST, n);
    for (size_t i = 0; i < n; i++) cake_jj_seq_add(r, out, v[i].item);
    return out;
}

static cake_jj_value f_sort(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[3];
    cake_jj_bind(r, "sort", a, "reverse case_sensitive attribute", 0, p);
    bool sensitive = cake_jj_bool_arg(r, p[1], false);
    if (p[2].type == JJ_NONE) p[2] = nothing();
    cake_jj_value it = cake_jj_iter(r, v);
    size_t n = it.u.seq->n;
    keyed *k = cake_jj_alloc(r, (n + 1) * sizeof *k);
    cake_jj_seq *attrs =
        p[2].type == JJ_STR ? cake_jj_split(r, p[2], cake_jj_strz(","), -1).u.seq : NULL;
    for (size_t i = 0; i < n; i++) {
        cake_jj_value key = cake_jj_seq_new(r, JJ_LIST, 1), item = it.u.seq->v[i];
        if (p[2].type == JJ_MISSING)
            cake_jj_seq_add(r, key, fold_case(r, item, sensitive));
        else if (!attrs)
            cake_jj_seq_add(r, key, fold_case(r, cake_jj_getitem(r, item, p[2]), sensitive));
        for (size_t j = 0; attrs && j < attrs->n; j++)
            cake_jj_seq_add(r, key,
                            fold_case(r, attr_path(r, item, attrs->v[j], nothing()), sensitive));
        k[i] = (keyed){key, item};
    }
    return sorted(r, k, n, cake_jj_bool_arg(r, p[0], false));
}

static cake_jj_value f_dictsort(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[3];
    cake_jj_bind(r, "dictsort", a, "case_sensitive by reverse", 0, p);
    cake_jj_value by = cake_jj_str_arg(r, "dictsort", p[1], "key");
    bool sensitive = cake_jj_bool_arg(r, p[0], false), by_value = cake_jj_is(by, "value");
    cake_jj_defined(r, v);
    if (!by_value && !cake_jj_is(by, "key"))
        cake_jj_fail(r, CAKE_EINVAL, "dictsort: by is 'key' or 'value'");
    if (v.type != JJ_DICT)
        cake_jj_fail(r, CAKE_EINVAL, "dictsort needs a dict, not %s", cake_jj_type_name(v));
    size_t n = v.u.d->n;
    keyed *k = cake_jj_alloc(r, (n + 1) * sizeof *k);
    for (size_t i = 0; i < n; i++) {
        const cake_jj_pair *e = &v.u.d->v[i];
        k[i].key = fold_case(r, by_value ? e->value : e->key, sensitive);
        k[i].item = cake_jj_pair_new(r, e->key, e->value);
    }
    return sorted(r, k, n, cake_jj_bool_arg(r, p[2], false));
}

static cake_jj_value f_groupby(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[3];
    cake_jj_bind(r, "groupby", a, "attribute default case_sensitive", 1, p);
    bool sensitive = cake_jj_bool_arg(r, p[2], false);
    cake_jj_value it = cake_jj_iter(r, v), out = cake_jj_seq_new(r, JJ_LIST, 0), group = nothing(),
                  last = nothing();
    size_t n = it.u.seq->n;
    keyed *k = cake_jj_alloc(r, (n + 1) * sizeof *k),
          *tmp = cake_jj_alloc(r, (n / 2 + 1) * sizeof *tmp);
    for (size_t i = 0; i < n; i++)
        k[i] = (keyed){fold_case(r, attr_path(r, it.u.seq->v[i], p[0], p[1]), sensitive),
                       it.u.seq->v[i]};
    merge_sort(r, k, tmp, n, false);
    for (size_t i = 0; i < n; i++) {
        if (!i || !cake_jj_eq(r, last, k[i].key)) {
            last = k[i].key;
            group = cake_jj_seq_new(r, JJ_LIST, 0);
            /* the name shown is the first item's own, before case folding */
            cake_jj_seq_add(r, out,
                            cake_jj_pair_new(r, attr_path(r, k[i].item, p[0], p[1]), group));
        }
        cake_jj_seq_add(r, group, k[i].item);
    }
    return out;
}

static cake_jj_value extreme(cake_jj *r, const char *fn, cake_jj_value v, const cake_jj_args *a,
                             bool max) {
    cake_jj_value p[2], best = nothing(), best_key = nothing();
    cake_jj_bind(r, fn, a, "case_sensitive attribute", 0, p);
    bool sensitive = cake_jj_bool_arg(r, p[0], false),
         by = p[1].type != JJ_MISSING && p[1].type != JJ_NONE;
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    if (!q->n) return cake_jj_undefined_text(r, "the sequence has no items, so no min or max");
    for (size_t i = 0; i < q->n; i++) {
        cake_jj_value key = by ? attr_path(r, q->v[i], p[1], nothing()) : q->v[i];
        key = fold_case(r, key, sensitive);
        if (i && !(max ? cake_jj_less(r, best_key, key) : cake_jj_less(r, key, best_key))) continue;
        best = q->v[i];
        best_key = key;
    }
    return best;
}
static cake_jj_value f_min(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return extreme(r, "min", v, a, false);
}
static cake_jj_value f_max(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return extreme(r, "max", v, a, true);
}

static cake_jj_value f_unique(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[2];
    cake_jj_bind(r, "unique", a, "case_sensitive attribute", 0, p);
    bool sensitive = cake_jj_bool_arg(r, p[0], false),
         by = p[1].type != JJ_MISSING && p[1].type != JJ_NONE;
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    cake_jj_value out = cake_jj_seq_new(r, JJ_GEN, 0), seen = cake_jj_dict_new(r, 0);
    for (size_t i = 0; i < q->n; i++) {
        cake_jj_value key = by ? attr_path(r, q->v[i], p[1], nothing()) : q->v[i];
        key = fold_case(r, key, sensitive);
        if (cake_jj_dict_get(r, seen.u.d, key)) continue;
        cake_jj_dict_set(r, seen.u.d, key, cake_jj_none());
        cake_jj_seq_add(r, out, q->v[i]);
    }
    return out;
}

static cake_jj_value f_sum(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[2];
    cake_jj_bind(r, "sum", a, "attribute start", 0, p);
    cake_jj_value total = p[1].type == JJ_MISSING ? cake_jj_int(0) : p[1];
    bool by = p[0].type != JJ_MISSING && p[0].type != JJ_NONE;
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    for (size_t i = 0; i < q->n; i++)
        total =
            cake_jj_binary(r, JO_ADD, total, by ? attr_path(r, q->v[i], p[0], nothing()) : q->v[i]);
    return total;
}

/* ---- sequences ---- */

static cake_jj_value f_length(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "length", a);
    return cake_jj_int(cake_jj_len(r, v));
}

static cake_jj_value f_list(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "list", a);
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    cake_jj_value out = cake_jj_seq_new(r, JJ_LIST, q->n);
    for (size_t i = 0; i < q->n; i++) cake_jj_seq_add(r, out, q->v[i]);
    return out;
}

static cake_jj_value f_first(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "first", a);
    if (v.type == JJ_SEQ && v.kind == JJ_GEN) { /* takes one item */
        cake_jj_seq *g = v.u.seq;
        return g->at < g->n ? g->v[g->at++]
                            : cake_jj_undefined_text(r, "the sequence has no first item");
    }
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    return q->n ? q->v[0] : cake_jj_undefined_text(r, "the sequence has no first item");
}

static cake_jj_value f_last(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "last", a);
    if (v.type == JJ_SEQ && v.kind == JJ_GEN)
        cake_jj_fail(r, CAKE_EINVAL, "a generator has no last item (put |list before |last)");
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    return q->n ? q->v[q->n - 1] : cake_jj_undefined_text(r, "the sequence has no last item");
}

static cake_jj_value f_reverse(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "reverse", a);
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    cake_jj_value out = cake_jj_seq_new(r, JJ_GEN, q->n);
    for (size_t i = q->n; i-- > 0;) cake_jj_seq_add(r, out, q->v[i]);
    return v.type == JJ_STR ? cake_jj_join(r, cake_jj_strz(""), out) : out;
}

static cake_jj_value f_join(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[2];
    cake_jj_bind(r, "join", a, "d attribute", 0, p);
    cake_jj_value sep = p[0].type == JJ_MISSING ? cake_jj_strz("") : text(r, p[0]);
    if (p[1].type == JJ_MISSING || p[1].type == JJ_NONE) return cake_jj_join(r, sep, v);
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    cake_jj_value parts = cake_jj_seq_new(r, JJ_LIST, q->n);
    for (size_t i = 0; i < q->n; i++)
        cake_jj_seq_add(r, parts, attr_path(r, q->v[i], p[1], nothing()));
    return cake_jj_join(r, sep, parts);
}

static cake_jj_value f_items(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "items", a);
    if (v.type == JJ_UNDEF) return cake_jj_seq_new(r, JJ_GEN, 0);
    if (v.type != JJ_DICT)
        cake_jj_fail(r, CAKE_EINVAL, "items needs a dict, not %s", cake_jj_type_name(v));
    cake_jj_value out = cake_jj_seq_new(r, JJ_GEN, v.u.d->n);
    for (size_t i = 0; i < v.u.d->n; i++)
        cake_jj_seq_add(r, out, cake_jj_pair_new(r, v.u.d->v[i].key, v.u.d->v[i].value));
    return out;
}

static cake_jj_value f_batch(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[2], out = cake_jj_seq_new(r, JJ_GEN, 0), row = nothing();
    cake_jj_bind(r, "batch", a, "linecount fill_with", 1, p);
    int64_t size = cake_jj_int_arg(r, "batch", p[0], 1);
    if (size < 1) cake_jj_fail(r, CAKE_EINVAL, "batch needs a positive size");
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    for (size_t i = 0; i < q->n; i++) {
        if (i % (uint64_t)size == 0) cake_jj_seq_add(r, out, row = cake_jj_seq_new(r, JJ_LIST, 0));
        cake_jj_seq_add(r, row, q->v[i]);
    }
    if (q->n && p[1].type != JJ_MISSING && p[1].type != JJ_NONE)
        while ((int64_t)row.u.seq->n < size) cake_jj_seq_add(r, row, p[1]);
    return out;
}

static cake_jj_value f_slice(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[2], out = cake_jj_seq_new(r, JJ_GEN, 0);
    cake_jj_bind(r, "slice", a, "slices fill_with", 1, p);
    int64_t slices = cake_jj_int_arg(r, "slice", p[0], 1);
    if (slices < 1) cake_jj_fail(r, CAKE_EINVAL, "slice needs a positive number");
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    size_t per = q->n / (uint64_t)slices, extra = q->n % (uint64_t)slices, at = 0;
    bool fill = p[1].type != JJ_MISSING && p[1].type != JJ_NONE;
    for (int64_t s = 0; s < slices; s++) {
        cake_jj_value row = cake_jj_seq_new(r, JJ_LIST, 0);
        size_t n = per + ((size_t)s < extra);
        for (size_t i = 0; i < n; i++) cake_jj_seq_add(r, row, q->v[at++]);
        if (fill && (size_t)s >= extra) cake_jj_seq_add(r, row, p[1]);
        cake_jj_seq_add(r, out, row);
    }
    return out;
}

/* ---- select, reject, map ---- */

static cake_jj_args rest_of(const cake_jj_args *a, size_t from) {
    return (cake_jj_args){a->v + from, a->n - from, a->kw, a->n_kw};
}

static cake_jj_value pick(cake_jj *r, const char *fn, cake_jj_value v, const cake_jj_args *a,
                          bool by_attr, bool want) {
    if (!cake_jj_truth(r, v))
        return cake_jj_seq_new(r, JJ_GEN, 0); /* as Jinja: none gives nothing */
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    cake_jj_value out = cake_jj_seq_new(r, JJ_GEN, 0), attr = nothing();
    size_t at = 0;
    if (by_attr) {
        if (!a->n) cake_jj_fail(r, CAKE_EINVAL, "%s needs the name of an attribute", fn);
        attr = a->v[at++];
    }
    cake_jj_test *test = NULL;
    cake_jj_args rest = {0};
    if (a->n > at) {
        cake_jj_value name = cake_jj_str_arg(r, fn, a->v[at], NULL);
        test = cake_jj_find_test(name);
        if (!test)
            cake_jj_fail(r, CAKE_EUNSUPPORTED, "no test is named '%.*s'",
                         name.len > 60 ? 60 : (int)name.len, name.u.s);
        rest = rest_of(a, at + 1);
    }
    for (size_t i = 0; i < q->n; i++) {
        cake_jj_value x = by_attr ? attr_path(r, q->v[i], attr, nothing()) : q->v[i];
        if ((test ? test(r, x, &rest) : cake_jj_truth(r, x)) == want)
            cake_jj_seq_add(r, out, q->v[i]);
    }
    return out;
}
static cake_jj_value f_select(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return pick(r, "select", v, a, false, true);
}
static cake_jj_value f_reject(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return pick(r, "reject", v, a, false, false);
}
static cake_jj_value f_selectattr(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return pick(r, "selectattr", v, a, true, true);
}
static cake_jj_value f_rejectattr(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return pick(r, "rejectattr", v, a, true, false);
}

static cake_jj_value f_map(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    if (!cake_jj_truth(r, v)) return cake_jj_seq_new(r, JJ_GEN, 0);
    cake_jj_seq *q = cake_jj_iter(r, v).u.seq;
    cake_jj_value out = cake_jj_seq_new(r, JJ_GEN, q->n);
    if (!a->n) {
        cake_jj_value p[2];
        cake_jj_bind(r, "map", a, "attribute default", 1, p);
        for (size_t i = 0; i < q->n; i++)
            cake_jj_seq_add(r, out, attr_path(r, q->v[i], p[0], p[1]));
        return out;
    }
    cake_jj_value name = cake_jj_str_arg(r, "map", a->v[0], NULL);
    cake_jj_filter *f = cake_jj_find_filter(name);
    cake_jj_args rest = rest_of(a, 1);
    if (!f)
        cake_jj_fail(r, CAKE_EUNSUPPORTED, "no filter is named '%.*s'",
                     name.len > 60 ? 60 : (int)name.len, name.u.s);
    cake_jj_enter(r); /* map('map', 'map', ...) calls itself */
    for (size_t i = 0; i < q->n; i++) cake_jj_seq_add(r, out, f(r, q->v[i], &rest));
    cake_jj_leave(r);
    return out;
}

static cake_jj_value f_attr(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "attr", a, "name", 1, p);
    cake_jj_defined(r, v);
    cake_jj_value name = text(r, p[0]);
    /* attributes only, never dict members */
    return v.type == JJ_DICT && !cake_jj_has_method(v, name) ? cake_jj_undefined(r, "dict", name)
                                                             : cake_jj_getattr(r, v, name);
}

static cake_jj_value f_default(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value p[2];
    cake_jj_bind(r, "default", a, "default_value boolean", 0, p);
    bool use = v.type == JJ_UNDEF || (cake_jj_bool_arg(r, p[1], false) && !cake_jj_truth(r, v));
    return !use ? v : p[0].type == JJ_MISSING ? cake_jj_strz("") : p[0];
}

/* Not Jinja's, but a few published templates name it. */
static cake_jj_value f_from_json(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "from_json", a);
    cake_jj_str_arg(r, "from_json", v, NULL);
    if (r->n_owned == sizeof r->owned / sizeof *r->owned)
        cake_jj_fail(r, CAKE_ENOSPACE, "from_json is used more than %zu times",
                     sizeof r->owned / sizeof *r->owned);
    cake_error e;
    json_object *o = NULL;
    cake_jj_step(r, v.len);
    if (cake_json_parse(v.u.s, v.len, 64, "from_json", &o, &e) != CAKE_OK)
        cake_jj_fail(r, CAKE_EINVAL, "%s", e.msg);
    r->owned[r->n_owned++] = o;
    return cake_jj_from_json(r, o);
}

static const struct {
    const char *name;
    cake_jj_filter *filter;
} filters[] = {
    {"abs", f_abs},
    {"attr", f_attr},
    {"batch", f_batch},
    {"capitalize", f_capitalize},
    {"center", f_center},
    {"count", f_length},
    {"d", f_default},
    {"default", f_default},
    {"dictsort", f_dictsort},
    {"e", f_escape},
    {"escape", f_escape},
    {"first", f_first},
    {"float", f_float},
    {"forceescape", f_forceescape},
    {"format", f_format},
    {"from_json", f_from_json},
    {"groupby", f_groupby},
    {"indent", f_indent},
    {"int", f_int},
    {"items", f_items},
    {"join", f_join},
    {"last", f_last},
    {"length", f_length},
    {"list", f_list},
    {"lower", f_lower},
    {"map", f_map},
    {"max", f_max},
    {"min", f_min},
    {"reject", f_reject},
    {"rejectattr", f_rejectattr},
    {"replace", f_replace},
    {"reverse", f_reverse},
    {"round", f_round},
    {"safe", f_safe},
    {"select", f_select},
    {"selectattr", f_selectattr},
    {"slice", f_slice},
    {"sort", f_sort},
    {"string", f_string},
    {"sum", f_sum},
    {"title", f_title},
    {"tojson", cake_jj_tojson},
    {"trim", f_trim},
    {"truncate", f_truncate},
    {"unique", f_unique},
    {"upper", f_upper},
    {"urlencode", f_urlencode},
    {"wordcount", f_wordcount},
};

cake_jj_filter *cake_jj_find_filter(cake_jj_value name) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (cake_jj_is(name, filters[i].name)) return filters[i].filter;
    return NULL;
}
