/* The tests behind `is`. */
#include "master/template/jinja_ast.h"
#include "master/template/jinja_text.h"

#include <math.h>
#include <string.h>

static void none(cake_jj *r, const char *name, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, name, a, "", 0, p);
}

static cake_jj_value one(cake_jj *r, const char *name, const cake_jj_args *a) {
    cake_jj_value p[1];
    cake_jj_bind(r, name, a, "other", 1, p);
    return p[0];
}

static bool t_defined(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "defined", a);
    return v.type != JJ_UNDEF;
}
static bool t_undefined(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "undefined", a);
    return v.type == JJ_UNDEF;
}
static bool t_none(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "none", a);
    return v.type == JJ_NONE;
}
static bool t_boolean(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "boolean", a);
    return v.type == JJ_BOOL;
}
static bool t_true(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "true", a);
    return v.type == JJ_BOOL && v.u.b;
}
static bool t_false(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "false", a);
    return v.type == JJ_BOOL && !v.u.b;
}
static bool t_integer(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "integer", a);
    return v.type == JJ_INT;
}
static bool t_float(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "float", a);
    return v.type == JJ_FLOAT;
}
static bool t_number(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "number", a);
    return cake_jj_is_num(v);
}
static bool t_string(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "string", a);
    return v.type == JJ_STR;
}
static bool t_mapping(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "mapping", a);
    return v.type == JJ_DICT;
}
static bool t_sequence(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "sequence", a);
    if (v.type == JJ_SEQ) return v.kind == JJ_LIST || v.kind == JJ_TUPLE || v.kind == JJ_RANGE;
    return v.type == JJ_STR || v.type == JJ_DICT || v.type == JJ_UNDEF;
}
static bool t_iterable(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "iterable", a);
    return cake_jj_iterable(v);
}
static bool t_callable(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "callable", a);
    return v.type == JJ_FN || v.type == JJ_METHOD || v.type == JJ_MACRO || v.type == JJ_LOOP ||
           v.type == JJ_UNDEF;
}
static bool t_lower(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "lower", a);
    return cake_jj_is_lower(cake_jj_tostr(r, v));
}
static bool t_upper(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "upper", a);
    return cake_jj_is_upper(cake_jj_tostr(r, v));
}
static bool t_escaped(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "escaped", a);
    return v.type == JJ_STR && v.kind;
}

static bool remainder_is(cake_jj *r, cake_jj_value v, cake_jj_value by, int64_t want) {
    return cake_jj_eq(r, cake_jj_binary(r, JO_MOD, v, by), cake_jj_int(want));
}
static bool t_odd(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "odd", a);
    return remainder_is(r, v, cake_jj_int(2), 1);
}
static bool t_even(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "even", a);
    return remainder_is(r, v, cake_jj_int(2), 0);
}
static bool t_divisibleby(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return remainder_is(r, v, one(r, "divisibleby", a), 0);
}

static bool t_eq(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return cake_jj_eq(r, v, one(r, "eq", a));
}
static bool t_ne(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return !cake_jj_eq(r, v, one(r, "ne", a));
}
static bool t_lt(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return cake_jj_less(r, v, one(r, "lt", a));
}
static bool t_gt(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return cake_jj_less(r, one(r, "gt", a), v);
}
static bool t_le(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value o = one(r, "le", a);
    return cake_jj_less(r, v, o) || cake_jj_eq(r, v, o);
}
static bool t_ge(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value o = one(r, "ge", a);
    return cake_jj_less(r, o, v) || cake_jj_eq(r, v, o);
}
static bool t_in(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    return cake_jj_contains(r, v, one(r, "in", a));
}

static bool t_sameas(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    cake_jj_value o = one(r, "sameas", a);
    if (v.type != o.type || (v.type == JJ_SEQ && v.kind != o.kind)) return false;
    switch ((cake_jj_type)v.type) {
    case JJ_NONE: return true;
    case JJ_SEQ: return v.u.seq == o.u.seq;
    case JJ_DICT:
    case JJ_NS: return v.u.d == o.u.d;
    case JJ_FLOAT: return memcmp(&v.u.f, &o.u.f, sizeof v.u.f) == 0;
    default: return cake_jj_eq(r, v, o);
    }
}

static bool t_filter(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "filter", a);
    return v.type == JJ_STR && cake_jj_find_filter(v) != NULL;
}
static bool t_test(cake_jj *r, cake_jj_value v, const cake_jj_args *a) {
    none(r, "test", a);
    return v.type == JJ_STR && cake_jj_find_test(v) != NULL;
}

static const struct {
    const char *name;
    cake_jj_test *test;
} tests[] = {
    {"defined", t_defined},
    {"undefined", t_undefined},
    {"none", t_none},
    {"boolean", t_boolean},
    {"true", t_true},
    {"false", t_false},
    {"integer", t_integer},
    {"float", t_float},
    {"number", t_number},
    {"string", t_string},
    {"mapping", t_mapping},
    {"sequence", t_sequence},
    {"iterable", t_iterable},
    {"callable", t_callable},
    {"lower", t_lower},
    {"upper", t_upper},
    {"escaped", t_escaped},
    {"odd", t_odd},
    {"even", t_even},
    {"divisibleby", t_divisibleby},
    {"eq", t_eq},
    {"==", t_eq},
    {"equalto", t_eq},
    {"ne", t_ne},
    {"!=", t_ne},
    {"lt", t_lt},
    {"<", t_lt},
    {"lessthan", t_lt},
    {"gt", t_gt},
    {">", t_gt},
    {"greaterthan", t_gt},
    {"le", t_le},
    {"<=", t_le},
    {"ge", t_ge},
    {">=", t_ge},
    {"in", t_in},
    {"sameas", t_sameas},
    {"filter", t_filter},
    {"test", t_test},
};

cake_jj_test *cake_jj_find_test(cake_jj_value name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (cake_jj_is(name, tests[i].name)) return tests[i].test;
    return NULL;
}
