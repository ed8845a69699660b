/* Methods of Python's str, list, tuple, dict and int that templates call. */
#include "master/template/jinja_eval.h"
#include "master/template/jinja_text.h"

#include <string.h>

typedef cake_jj_value method(cake_jj *r, cake_jj_value self, const cake_jj_args *a);

typedef struct {
    const char *name;
    method *call;
} entry;

/* ---- str ---- */

static cake_jj_value no_args(cake_jj *r, const char *fn, const cake_jj_args *a, cake_jj_value v) {
    cake_jj_value none[1];
    cake_jj_bind(r, fn, a, "", 0, none);
    return v;
}

static cake_jj_value strip(cake_jj *r, cake_jj_value s, const cake_jj_args *a, bool left,
                           bool right) {
    cake_jj_value p[1];
    cake_jj_bind(r, "strip", a, "/chars", 0, p);
    if (p[0].type == JJ_NONE) p[0] = (cake_jj_value){0};
    if (p[0].type != JJ_MISSING) cake_jj_str_arg(r, "strip", p[0], NULL);
    cake_jj_step(r, s.len / 16);
    return cake_jj_strip(s, p[0], left, right);
}
static cake_jj_value str_strip(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return strip(r, s, a, true, true);
}
static cake_jj_value str_lstrip(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return strip(r, s, a, true, false);
}
static cake_jj_value str_rstrip(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return strip(r, s, a, false, true);
}
static cake_jj_value str_upper(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "upper", a, cake_jj_upper(r, s));
}
static cake_jj_value str_lower(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "lower", a, cake_jj_lower(r, s));
}
static cake_jj_value str_title(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "title", a, cake_jj_title(r, s));
}
static cake_jj_value str_capitalize(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "capitalize", a, cake_jj_capitalize(r, s));
}
static cake_jj_value str_swapcase(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "swapcase", a, cake_jj_swapcase(r, s));
}
static cake_jj_value str_islower(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "islower", a, cake_jj_bool(cake_jj_is_lower(s)));
}
static cake_jj_value str_isupper(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "isupper", a, cake_jj_bool(cake_jj_is_upper(s)));
}
static cake_jj_value str_isalpha(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "isalpha", a, cake_jj_bool(cake_jj_all_of(s, 'l')));
}
static cake_jj_value str_isdigit(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "isdigit", a, cake_jj_bool(cake_jj_all_of(s, 'd')));
}
static cake_jj_value str_isnumeric(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "isnumeric", a, cake_jj_bool(cake_jj_all_of(s, 'n')));
}
static cake_jj_value str_isalnum(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "isalnum", a, cake_jj_bool(cake_jj_all_of(s, 'w')));
}
static cake_jj_value str_isspace(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "isspace", a, cake_jj_bool(cake_jj_all_of(s, 's')));
}
static cake_jj_value str_isascii(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return no_args(r, "isascii", a, cake_jj_bool(cake_jj_all_of(s, 'a')));
}

static cake_jj_value split(cake_jj *r, cake_jj_value s, const cake_jj_args *a, bool right) {
    cake_jj_value p[2];
    cake_jj_bind(r, "split", a, "sep maxsplit", 0, p);
    if (p[0].type == JJ_NONE) p[0] = (cake_jj_value){0};
    if (p[0].type != JJ_MISSING && !cake_jj_str_arg(r, "split", p[0], NULL).len)
        cake_jj_fail(r, CAKE_EINVAL, "split needs a separator that is not empty");
    int64_t max = cake_jj_int_arg(r, "split", p[1], -1);
    return right ? cake_jj_rsplit(r, s, p[0], max) : cake_jj_split(r, s, p[0], max);
}
static cake_jj_value str_split(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return split(r, s, a, false);
}
static cake_jj_value str_rsplit(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return split(r, s, a, true);
}
static cake_jj_value str_splitlines(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "splitlines", a, "keepends", 0, p);
    return cake_jj_splitlines(r, s, cake_jj_bool_arg(r, p[0], false));
}

static cake_jj_value str_replace(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[3];
    cake_jj_bind(r, "replace", a, "/old new count", 2, p);
    return cake_jj_replace(r, s, cake_jj_str_arg(r, "replace", p[0], NULL),
                           cake_jj_str_arg(r, "replace", p[1], NULL),
                           cake_jj_int_arg(r, "replace", p[2], -1));
}

/* Arguments sub, start, end of str methods: the part of s between, *base: its first character. */
static cake_jj_value window(cake_jj *r, const char *fn, cake_jj_value s, const cake_jj_args *a,
                            cake_jj_value *sub, int64_t *base) {
    cake_jj_value p[3];
    cake_jj_bind(r, fn, a, "/sub start end", 1, p);
    *sub = p[0];
    for (int i = 1; i < 3; i++)
        if (p[i].type == JJ_NONE) p[i] = (cake_jj_value){0};
    int64_t n = cake_jj_len(r, s), from = cake_jj_int_arg(r, fn, p[1], 0),
            to = cake_jj_int_arg(r, fn, p[2], n);
    if (from < 0) from = from + n < 0 ? 0 : from + n;
    if (to < 0) to += n;
    if (to > n) to = n;
    *base = from;
    if (from > to) return (cake_jj_value){0};
    return cake_jj_slice_str(r, s, from, 1, to - from);
}

static cake_jj_value ends(cake_jj *r, const char *fn, cake_jj_value s, const cake_jj_args *a,
                          bool (*has)(cake_jj_value, cake_jj_value)) {
    cake_jj_value sub;
    int64_t base;
    cake_jj_value part = window(r, fn, s, a, &sub, &base);
    if (part.type == JJ_MISSING) return cake_jj_bool(false);
    if (sub.type == JJ_SEQ && sub.kind == JJ_TUPLE) {
        for (size_t i = 0; i < sub.u.seq->n; i++)
            if (has(part, cake_jj_str_arg(r, fn, sub.u.seq->v[i], NULL))) return cake_jj_bool(true);
        return cake_jj_bool(false);
    }
    return cake_jj_bool(has(part, cake_jj_str_arg(r, fn, sub, NULL)));
}
static cake_jj_value str_startswith(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return ends(r, "startswith", s, a, cake_jj_starts);
}
static cake_jj_value str_endswith(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return ends(r, "endswith", s, a, cake_jj_ends);
}

static int64_t find(cake_jj *r, const char *fn, cake_jj_value s, const cake_jj_args *a, bool last) {
    cake_jj_value sub;
    int64_t base;
    cake_jj_value part = window(r, fn, s, a, &sub, &base);
    cake_jj_str_arg(r, fn, sub, NULL);
    if (part.type == JJ_MISSING) return -1;
    size_t hit = last ? cake_jj_rfind(part, sub) : cake_jj_find(part, sub, 0);
    return hit == SIZE_MAX ? -1 : base + (int64_t)cake_jj_count_chars(part.u.s, hit);
}
static cake_jj_value str_find(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return cake_jj_int(find(r, "find", s, a, false));
}
static cake_jj_value str_rfind(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return cake_jj_int(find(r, "rfind", s, a, true));
}
static cake_jj_value str_index(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    int64_t at = find(r, "index", s, a, false);
    if (at < 0) cake_jj_fail(r, CAKE_EINVAL, "index: the string does not occur");
    return cake_jj_int(at);
}

static cake_jj_value str_count(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value sub;
    int64_t base, n = 0;
    cake_jj_value part = window(r, "count", s, a, &sub, &base);
    cake_jj_str_arg(r, "count", sub, NULL);
    if (part.type == JJ_MISSING) return cake_jj_int(0);
    if (!sub.len) return cake_jj_int(cake_jj_len(r, part) + 1);
    cake_jj_step(r, part.len / 16);
    for (size_t at = 0; (at = cake_jj_find(part, sub, at)) != SIZE_MAX; at += sub.len) n++;
    return cake_jj_int(n);
}

static cake_jj_value str_join(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "join", a, "/iterable", 1, p);
    p[0] = cake_jj_iter(r, p[0]);
    for (size_t i = 0; i < p[0].u.seq->n; i++) cake_jj_str_arg(r, "join", p[0].u.seq->v[i], NULL);
    return cake_jj_join(r, s, p[0]);
}

static cake_jj_value part3(cake_jj *r, cake_jj_value a, cake_jj_value b, cake_jj_value c) {
    cake_jj_value t = cake_jj_seq_new(r, JJ_TUPLE, 3);
    cake_jj_seq_add(r, t, a);
    cake_jj_seq_add(r, t, b);
    cake_jj_seq_add(r, t, c);
    return t;
}
static cake_jj_value partition(cake_jj *r, cake_jj_value s, const cake_jj_args *a, bool last) {
    cake_jj_value p[1];
    cake_jj_bind(r, "partition", a, "/sep", 1, p);
    if (!cake_jj_str_arg(r, "partition", p[0], NULL).len)
        cake_jj_fail(r, CAKE_EINVAL, "partition needs a separator that is not empty");
    size_t hit = last ? cake_jj_rfind(s, p[0]) : cake_jj_find(s, p[0], 0);
    cake_jj_value empty = cake_jj_str("", 0);
    if (hit == SIZE_MAX) return last ? part3(r, empty, empty, s) : part3(r, s, empty, empty);
    size_t end = hit + p[0].len;
    return part3(r, cake_jj_str(s.u.s, hit), p[0], cake_jj_str(s.u.s + end, s.len - end));
}
static cake_jj_value str_partition(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return partition(r, s, a, false);
}
static cake_jj_value str_rpartition(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return partition(r, s, a, true);
}

static cake_jj_value str_removeprefix(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "removeprefix", a, "/prefix", 1, p);
    cake_jj_str_arg(r, "removeprefix", p[0], NULL);
    return cake_jj_starts(s, p[0]) ? cake_jj_str(s.u.s + p[0].len, s.len - p[0].len) : s;
}
static cake_jj_value str_removesuffix(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "removesuffix", a, "/suffix", 1, p);
    cake_jj_str_arg(r, "removesuffix", p[0], NULL);
    return cake_jj_ends(s, p[0]) ? cake_jj_str(s.u.s, s.len - p[0].len) : s;
}

/* where: l, r, c as in ljust, rjust, center; z for zfill */
static cake_jj_value pad(cake_jj *r, const char *fn, cake_jj_value s, const cake_jj_args *a,
                         char where) {
    cake_jj_value p[2] = {{0}, {0}};
    cake_jj_bind(r, fn, a, where == 'z' ? "/width" : "/width fillchar", 1, p);
    int64_t width = cake_jj_int_arg(r, fn, p[0], 0), n = cake_jj_len(r, s), more = width - n;
    cake_jj_value fill = where == 'z' ? cake_jj_strz("0") : cake_jj_str_arg(r, fn, p[1], " ");
    if (cake_jj_len(r, fill) != 1)
        cake_jj_fail(r, CAKE_EINVAL, "%s needs one character to fill with", fn);
    if (more <= 0) return s;
    int64_t left = where == 'l' ? 0 : where == 'c' ? more / 2 + (more & width & 1) : more;
    cake_jj_value sign = cake_jj_str("", 0);
    if (where == 'z' && s.len && (s.u.s[0] == '-' || s.u.s[0] == '+')) {
        sign = cake_jj_str(s.u.s, 1);
        s = cake_jj_str(s.u.s + 1, s.len - 1);
    }
    s = cake_jj_concat(r, cake_jj_concat(r, sign, cake_jj_repeat(r, fill, left)), s);
    return cake_jj_concat(r, s, cake_jj_repeat(r, fill, more - left));
}
static cake_jj_value str_ljust(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return pad(r, "ljust", s, a, 'l');
}
static cake_jj_value str_rjust(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return pad(r, "rjust", s, a, 'r');
}
static cake_jj_value str_center(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return pad(r, "center", s, a, 'c');
}
static cake_jj_value str_zfill(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    return pad(r, "zfill", s, a, 'z');
}

/* "{} {0} {name}".format(...): plain fields only. */
static cake_jj_value str_format(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_buf b = {.max = SIZE_MAX};
    size_t next = 0;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.u.s[i];
        if (c != '{' && c != '}') {
            cake_jj_put(r, &b, &c, 1);
            continue;
        }
        if (i + 1 < s.len && s.u.s[i + 1] == c) {
            cake_jj_put(r, &b, &c, 1);
            i++;
            continue;
        }
        size_t from = i + 1, end = from;
        while (end < s.len && s.u.s[end] != '}') end++;
        if (c == '}' || end == s.len)
            cake_jj_fail(r, CAKE_EINVAL, "format: a single '%c' in the text", c);
        cake_jj_value field = cake_jj_str(s.u.s + from, end - from), v = {0};
        bool digits = field.len > 0 && field.len < 6;
        size_t index = 0;
        for (size_t k = 0; k < field.len; k++) {
            char d = field.u.s[k];
            if (strchr("!:.[", d))
                cake_jj_fail(r, CAKE_EUNSUPPORTED, "format: only plain {} fields are supported");
            digits = digits && d >= '0' && d <= '9';
            if (digits) index = index * 10 + (size_t)(d - '0');
        }
        if (!field.len || digits) {
            if (!field.len) index = next++;
            if (index < a->n) v = a->v[index];
        } else {
            for (size_t k = 0; k < a->n_kw; k++)
                if (cake_jj_eq(r, a->kw[k].name, field)) v = a->kw[k].value;
        }
        if (v.type == JJ_MISSING) cake_jj_fail(r, CAKE_EINVAL, "format: a field has no argument");
        cake_jj_put_str(r, &b, v);
        i = end;
    }
    return cake_jj_buf_str(&b);
}

static const entry str_methods[] = {
    {"strip", str_strip},
    {"lstrip", str_lstrip},
    {"rstrip", str_rstrip},
    {"split", str_split},
    {"rsplit", str_rsplit},
    {"splitlines", str_splitlines},
    {"startswith", str_startswith},
    {"endswith", str_endswith},
    {"replace", str_replace},
    {"upper", str_upper},
    {"lower", str_lower},
    {"title", str_title},
    {"capitalize", str_capitalize},
    {"swapcase", str_swapcase},
    {"find", str_find},
    {"rfind", str_rfind},
    {"index", str_index},
    {"count", str_count},
    {"join", str_join},
    {"partition", str_partition},
    {"rpartition", str_rpartition},
    {"removeprefix", str_removeprefix},
    {"removesuffix", str_removesuffix},
    {"ljust", str_ljust},
    {"rjust", str_rjust},
    {"center", str_center},
    {"zfill", str_zfill},
    {"format", str_format},
    {"islower", str_islower},
    {"isupper", str_isupper},
    {"isalpha", str_isalpha},
    {"isdigit", str_isdigit},
    {"isdecimal", str_isdigit},
    {"isnumeric", str_isnumeric},
    {"isalnum", str_isalnum},
    {"isspace", str_isspace},
    {"isascii", str_isascii},
    {NULL, NULL},
};

/* ---- list and tuple ---- */

static cake_jj_value seq_index(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "index", a, "/value", 1, p);
    for (size_t i = 0; i < s.u.seq->n; i++)
        if (cake_jj_eq(r, s.u.seq->v[i], p[0])) return cake_jj_int((int64_t)i);
    cake_jj_fail(r, CAKE_EINVAL, "index: the value is not in the %s", cake_jj_type_name(s));
}

static cake_jj_value seq_count(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[1];
    int64_t n = 0;
    cake_jj_bind(r, "count", a, "/value", 1, p);
    for (size_t i = 0; i < s.u.seq->n; i++) n += cake_jj_eq(r, s.u.seq->v[i], p[0]);
    return cake_jj_int(n);
}

static cake_jj_value list_copy(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value v = cake_jj_seq_new(r, JJ_LIST, s.u.seq->n);
    for (size_t i = 0; i < s.u.seq->n; i++) cake_jj_seq_add(r, v, s.u.seq->v[i]);
    return no_args(r, "copy", a, v);
}

/* transformers' sandbox refuses the methods that change a list or dict; a few published templates
 * use these nevertheless. Values belong to one render, so there is nothing to protect. */
static cake_jj_value list_append(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, "append", a, "/value", 1, p);
    cake_jj_seq_add(r, s, p[0]);
    return cake_jj_none();
}

static cake_jj_value list_pop(cake_jj *r, cake_jj_value s, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_seq *q = s.u.seq;
    cake_jj_bind(r, "pop", a, "/index", 0, p);
    int64_t n = (int64_t)q->n, i = cake_jj_int_arg(r, "pop", p[0], -1);
    if (i < 0) i += n;
    if (i < 0 || i >= n) cake_jj_fail(r, CAKE_EINVAL, "pop: the list has no item at that index");
    cake_jj_value v = q->v[i];
    memmove(q->v + i, q->v + i + 1, (size_t)(n - i - 1) * sizeof *q->v);
    q->n--;
    cake_jj_step(r, (size_t)(n - i));
    return v;
}

static const entry list_methods[] = {{"index", seq_index}, {"count", seq_count},
                                     {"copy", list_copy},  {"append", list_append},
                                     {"pop", list_pop},    {NULL, NULL}};
static const entry tuple_methods[] = {{"index", seq_index}, {"count", seq_count}, {NULL, NULL}};

/* ---- dict ---- */

static cake_jj_value dict_get(cake_jj *r, cake_jj_value d, const cake_jj_args *a) {
    cake_jj_value p[2];
    cake_jj_bind(r, "get", a, "/key default", 1, p);
    cake_jj_value *v = cake_jj_dict_get(r, d.u.d, p[0]);
    return v ? *v : p[1].type == JJ_MISSING ? cake_jj_none() : p[1];
}

static cake_jj_value view(cake_jj *r, const char *fn, cake_jj_value d, const cake_jj_args *a,
                          cake_jj_seq_kind kind) {
    cake_jj_value v = cake_jj_seq_new(r, kind, d.u.d->n);
    for (size_t i = 0; i < d.u.d->n; i++) {
        const cake_jj_pair *p = &d.u.d->v[i];
        cake_jj_seq_add(r, v,
                        kind == JJ_ITEMS  ? cake_jj_pair_new(r, p->key, p->value)
                        : kind == JJ_KEYS ? p->key
                                          : p->value);
    }
    return no_args(r, fn, a, v);
}
static cake_jj_value dict_items(cake_jj *r, cake_jj_value d, const cake_jj_args *a) {
    return view(r, "items", d, a, JJ_ITEMS);
}
static cake_jj_value dict_keys(cake_jj *r, cake_jj_value d, const cake_jj_args *a) {
    return view(r, "keys", d, a, JJ_KEYS);
}
static cake_jj_value dict_values(cake_jj *r, cake_jj_value d, const cake_jj_args *a) {
    return view(r, "values", d, a, JJ_VALUES);
}

static cake_jj_value dict_update(cake_jj *r, cake_jj_value d, const cake_jj_args *a) {
    if (a->n > 1 || (a->n == 1 && a->v[0].type != JJ_DICT))
        cake_jj_fail(r, CAKE_EINVAL, "update takes one dict");
    for (size_t i = 0; a->n && i < a->v[0].u.d->n; i++)
        cake_jj_dict_set(r, d.u.d, a->v[0].u.d->v[i].key, a->v[0].u.d->v[i].value);
    for (size_t i = 0; i < a->n_kw; i++) cake_jj_dict_set(r, d.u.d, a->kw[i].name, a->kw[i].value);
    return cake_jj_none();
}

static cake_jj_value dict_copy(cake_jj *r, cake_jj_value d, const cake_jj_args *a) {
    cake_jj_value v = cake_jj_dict_new(r, d.u.d->n);
    for (size_t i = 0; i < d.u.d->n; i++) v.u.d->v[i] = d.u.d->v[i];
    v.u.d->n = d.u.d->n;
    return no_args(r, "copy", a, v);
}

static cake_jj_value dict_pop(cake_jj *r, cake_jj_value d, const cake_jj_args *a) {
    cake_jj_value p[2];
    cake_jj_bind(r, "pop", a, "/key default", 1, p);
    cake_jj_value *at = cake_jj_dict_get(r, d.u.d, p[0]);
    if (!at && p[1].type == JJ_MISSING)
        cake_jj_fail(r, CAKE_EINVAL, "pop: the dict has no such key");
    if (!at) return p[1];
    cake_jj_value v = *at;
    size_t i = 0;
    while (&d.u.d->v[i].value != at) i++;
    memmove(d.u.d->v + i, d.u.d->v + i + 1, (d.u.d->n - i - 1) * sizeof *d.u.d->v);
    d.u.d->n--;
    return v;
}

static const entry dict_methods[] = {
    {"get", dict_get},       {"items", dict_items}, {"keys", dict_keys}, {"values", dict_values},
    {"update", dict_update}, {"copy", dict_copy},   {"pop", dict_pop},   {NULL, NULL}};

static const entry loop_methods[] = {{"cycle", NULL}, {"changed", NULL}, {NULL, NULL}};

static const entry *find_method(cake_jj_value self, cake_jj_value name) {
    static const entry nothing[] = {{NULL, NULL}};
    const entry *e = nothing;
    if (self.type == JJ_STR)
        e = str_methods;
    else if (self.type == JJ_DICT)
        e = dict_methods;
    else if (self.type == JJ_LOOP)
        e = loop_methods;
    else if (self.type == JJ_SEQ && self.kind == JJ_LIST)
        e = list_methods;
    else if (self.type == JJ_SEQ && self.kind == JJ_TUPLE)
        e = tuple_methods;
    for (; e->name; e++)
        if (cake_jj_is(name, e->name)) return e;
    return NULL;
}

bool cake_jj_has_method(cake_jj_value self, cake_jj_value name) {
    return find_method(self, name) != NULL;
}

cake_jj_value cake_jj_call_method(cake_jj *r, cake_jj_value self, cake_jj_value name,
                                  const cake_jj_args *a) {
    if (self.type == JJ_LOOP) return cake_jj_loop_method(r, self, name, a);
    const entry *e = find_method(self, name);
    cake_assert(e != NULL); /* a JJ_METHOD is only made for a method that exists */
    cake_jj_value v = e->call(r, self, a);
    if (self.type == JJ_STR && self.kind && e->call != str_join && e->call != str_format) {
        /* parts of a string marked safe are safe */
        if (v.type == JJ_STR) v.kind = 1;
        for (size_t i = 0; v.type == JJ_SEQ && i < v.u.seq->n; i++) v.u.seq->v[i].kind = 1;
    }
    return v;
}
