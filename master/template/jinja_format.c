/* "..." % arguments, Python's printf-like formatting: %s %r %d %i %u %f %F %e %E %g %G %x %X %o %c
 * %%, with flags, width, precision and %(name)s. */
#include "master/template/jinja_text.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    cake_jj *r;
    cake_jj_value args;
    size_t next;
    bool used_map;
} source;

static cake_jj_value take(source *x) {
    cake_jj_value v = x->args;
    bool tuple = v.type == JJ_SEQ && v.kind == JJ_TUPLE;
    size_t n = tuple ? v.u.seq->n : 1;
    if (x->next >= n) cake_jj_fail(x->r, CAKE_EINVAL, "a format has more fields than arguments");
    v = tuple ? v.u.seq->v[x->next] : v;
    x->next++;
    return v;
}

static int number(source *x, cake_jj_value fmt, size_t *i) {
    if (*i < fmt.len && fmt.u.s[*i] == '*') {
        ++*i;
        int64_t v = cake_jj_int_arg(x->r, "a format width", take(x), 0);
        if (v < -1000 || v > 1000) cake_jj_fail(x->r, CAKE_EINVAL, "a format width beyond 1000");
        return (int)v;
    }
    int v = 0;
    for (; *i < fmt.len && fmt.u.s[*i] >= '0' && fmt.u.s[*i] <= '9'; ++*i) {
        v = v * 10 + (fmt.u.s[*i] - '0');
        if (v > 1000) cake_jj_fail(x->r, CAKE_EINVAL, "a format width beyond 1000");
    }
    return v;
}

static void pad(cake_jj *r, cake_jj_buf *b, cake_jj_value s, int width, bool left) {
    int64_t more = width - cake_jj_len(r, s);
    for (int64_t i = 0; !left && i < more; i++) cake_jj_put(r, b, " ", 1);
    cake_jj_put(r, b, s.u.s, s.len);
    for (int64_t i = 0; left && i < more; i++) cake_jj_put(r, b, " ", 1);
}

static void put_number(cake_jj *r, cake_jj_buf *b, const char *flags, int width, int precision,
                       char conv, cake_jj_value v) {
    char f[32], t[1400];
    bool real = strchr("eEfFgG", conv) != NULL;
    cake_jj_defined(r, v);
    if (!cake_jj_is_num(v))
        cake_jj_fail(r, CAKE_EINVAL, "%%%c needs a number, not %s", conv, cake_jj_type_name(v));
    if (!real && v.type == JJ_FLOAT) {
        if (strchr("xXo", conv) || !(v.u.f > -9.2e18 && v.u.f < 9.2e18))
            cake_jj_fail(r, CAKE_EINVAL, "%%%c needs an integer", conv);
        v = cake_jj_int((int64_t)v.u.f);
    }
    snprintf(f, sizeof f, "%%%s*.*%s%c", flags, real ? "" : "ll",
             conv == 'i' || conv == 'u' ? 'd' : conv);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int n = real ? snprintf(t, sizeof t, f, width, precision, cake_jj_as_float(v))
                 : snprintf(t, sizeof t, f, width, precision, (long long)cake_jj_as_int(v));
#pragma GCC diagnostic pop
    if (n < 0 || (size_t)n >= sizeof t)
        cake_jj_fail(r, CAKE_EINVAL, "a formatted number is too long");
    cake_jj_put(r, b, t, (size_t)n);
}

cake_jj_value cake_jj_percent(cake_jj *r, cake_jj_value fmt, cake_jj_value args) {
    cake_jj_buf b = {.max = SIZE_MAX};
    source x = {.r = r, .args = args};
    for (size_t i = 0; i < fmt.len;) {
        if (fmt.u.s[i] != '%') {
            size_t k = i;
            while (k < fmt.len && fmt.u.s[k] != '%') k++;
            cake_jj_put(r, &b, fmt.u.s + i, k - i);
            i = k;
            continue;
        }
        i++;
        cake_jj_value v = {0};
        if (i < fmt.len && fmt.u.s[i] == '(') {
            size_t from = ++i;
            while (i < fmt.len && fmt.u.s[i] != ')') i++;
            if (i == fmt.len) cake_jj_fail(r, CAKE_EINVAL, "a format has an unfinished %%(name)");
            if (args.type != JJ_DICT) cake_jj_fail(r, CAKE_EINVAL, "%%(name) needs a dict");
            cake_jj_value *at =
                cake_jj_dict_get(r, args.u.d, cake_jj_str(fmt.u.s + from, i - from));
            if (!at) cake_jj_fail(r, CAKE_EINVAL, "a format names a key the dict does not have");
            v = *at;
            x.used_map = true;
            i++;
        }
        char flags[8] = {0};
        size_t n_flags = 0;
        bool left = false;
        for (; i < fmt.len && fmt.u.s[i] && strchr("-+ 0#", fmt.u.s[i]); i++) {
            left |= fmt.u.s[i] == '-';
            if (!strchr(flags, fmt.u.s[i])) flags[n_flags++] = fmt.u.s[i];
        }
        int width = number(&x, fmt, &i), precision = -1;
        if (width < 0) left = true, width = -width;
        if (left && !strchr(flags, '-')) flags[n_flags++] = '-';
        if (i < fmt.len && fmt.u.s[i] == '.') {
            i++;
            precision = number(&x, fmt, &i);
        }
        if (i == fmt.len) cake_jj_fail(r, CAKE_EINVAL, "a format ends inside a %% field");
        char conv = fmt.u.s[i++];
        if (conv == '%') {
            cake_jj_put(r, &b, "%", 1);
            continue;
        }
        if (!conv || !strchr("srdiufFeEgGxXoc", conv))
            cake_jj_fail(r, CAKE_EUNSUPPORTED, "a format field of an unknown kind");
        if (v.type == JJ_MISSING) v = take(&x);
        if (conv == 's' || conv == 'r' || conv == 'c') {
            cake_jj_value s;
            if (conv == 'r') {
                cake_jj_buf q = {.max = SIZE_MAX};
                cake_jj_put_repr(r, &q, v);
                s = cake_jj_buf_str(&q);
            } else if (conv == 'c' && cake_jj_is_int(v)) {
                char *t = cake_jj_alloc(r, 4);
                int64_t cp = cake_jj_as_int(v);
                if (cp < 0 || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
                    cake_jj_fail(r, CAKE_EINVAL, "%%c needs a character");
                s = cake_jj_str(t, cake_jj_utf8_put(t, (uint32_t)cp));
            } else {
                s = cake_jj_tostr(r, v);
            }
            if (precision >= 0) s = cake_jj_slice_str(r, s, 0, 1, precision);
            pad(r, &b, s, width, left);
        } else {
            put_number(r, &b, flags, width, precision, conv, v);
        }
    }
    /* Python lets what can be subscripted by key go unused, which lists can be for this purpose */
    bool tuple = args.type == JJ_SEQ && args.kind == JJ_TUPLE;
    bool loose = args.type == JJ_DICT ||
                 (args.type == JJ_SEQ && (args.kind == JJ_LIST || args.kind == JJ_RANGE));
    if (!x.used_map && !loose && x.next < (tuple ? args.u.seq->n : 1))
        cake_jj_fail(r, CAKE_EINVAL, "a format has fewer fields than arguments");
    cake_jj_value v = cake_jj_buf_str(&b);
    v.kind = fmt.kind;
    return v;
}
