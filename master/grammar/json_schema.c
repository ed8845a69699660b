/* Compiling schemas: see json_schema.h. */
#include "master/grammar/json_schema.h"
#include "common/mem.h"
#include "master/grammar/regex.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEPTH_MAX = 64,
    LENGTH_MAX = 4096, /* of strings with a maximum */
    ITEMS_MAX = 1024,
    INDENT_MAX = 32,
    REFS_MAX = 500,
};
#define INTEGER_MAX 999999999999999 /* 15 digits: exact in a double, too */

typedef struct {
    json_object *schema;
    uint32_t rule;
} ref;

struct cake_schema_compiler {
    cake_grammar *g;
    json_object *root;
    uint32_t n_schemas;
    unsigned depth;
    char path[512];
    size_t n_path;
    ref *refs;
    size_t n_refs;
    cake_status st;
    cake_error *err;
    /* rules that every schema uses */
    uint32_t space, character, string, number, any, object, array;
};

#define RETURN CAKE_GRAMMAR_RETURN
#define FAIL   CAKE_GRAMMAR_FAIL

__attribute__((format(printf, 3, 4))) static uint32_t fail(cake_schema_compiler *c, cake_status st,
                                                           const char *fmt, ...) {
    if (c->st != CAKE_OK) return FAIL;
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    c->st = cake_fail(c->err, st, "%s, at #%.300s", what, c->path);
    return FAIL;
}

static uint32_t unsupported(cake_schema_compiler *c, const char *keyword) {
    return fail(c, CAKE_EUNSUPPORTED, "the schema keyword '%.60s' is not supported here", keyword);
}

static json_object *get(json_object *s, const char *key) {
    json_object *v = NULL;
    return json_object_object_get_ex(s, key, &v) ? v : NULL;
}
static bool has(json_object *s, const char *key) {
    return json_object_object_get_ex(s, key, NULL);
}

static size_t enter(cake_schema_compiler *c, const char *name) {
    size_t was = c->n_path;
    int n = snprintf(c->path + was, sizeof c->path - was, "/%s", name);
    c->n_path = n > 0 && was + (size_t)n < sizeof c->path ? was + (size_t)n : was;
    c->path[c->n_path] = 0;
    return was;
}
static void leave(cake_schema_compiler *c, size_t was) {
    c->n_path = was;
    c->path[was] = 0;
}

/* ---- JSON without a schema ---- */

static uint32_t text(cake_schema_compiler *c, const char *s, uint32_t next) {
    return cake_grammar_text(c->g, s, strlen(s), next);
}

static uint32_t either(cake_schema_compiler *c, uint32_t a, uint32_t b) {
    return cake_grammar_split(c->g, a, b);
}

static uint32_t call(cake_schema_compiler *c, uint32_t rule, uint32_t next) {
    return cake_grammar_call(c->g, rule, next);
}

static uint32_t hex_digit(cake_schema_compiler *c, uint32_t next) {
    return either(c, cake_grammar_bytes(c->g, '0', '9', next),
                  either(c, cake_grammar_bytes(c->g, 'a', 'f', next),
                         cake_grammar_bytes(c->g, 'A', 'F', next)));
}

static uint32_t space_rule(cake_schema_compiler *c) {
    uint32_t indent = RETURN;
    for (int i = 0; i < INDENT_MAX; i++)
        indent = either(c, RETURN,
                        either(c, cake_grammar_bytes(c->g, ' ', ' ', indent),
                               cake_grammar_bytes(c->g, '\t', '\t', indent)));
    return either(c, RETURN,
                  either(c, text(c, " ", RETURN), cake_grammar_bytes(c->g, '\n', '\n', indent)));
}

/* One character, raw or escaped; no surrogates, so that it is one code point. */
static uint32_t character_rule(cake_schema_compiler *c) {
    static const char simple[] = "\"\\/bfnrt";
    cake_grammar *g = c->g;
    uint32_t raw = either(c, cake_grammar_code_points(g, 0x20, '"' - 1, RETURN),
                          either(c, cake_grammar_code_points(g, '"' + 1, '\\' - 1, RETURN),
                                 cake_grammar_code_points(g, '\\' + 1, 0x10ffff, RETURN)));
    uint32_t two = hex_digit(c, hex_digit(c, RETURN)), three = hex_digit(c, two);
    /* Not dXXX, but for d0XX to d7XX; not 0000, which is no character of a text. */
    uint32_t first = either(c, cake_grammar_bytes(g, '1', '9', three),
                            either(c, cake_grammar_bytes(g, 'a', 'c', three),
                                   either(c, cake_grammar_bytes(g, 'e', 'f', three),
                                          cake_grammar_bytes(g, 'A', 'C', three))));
    first = either(c, first, cake_grammar_bytes(g, 'E', 'F', three));
    uint32_t low = cake_grammar_bytes(g, '0', '7', two);
    first = either(
        c, first,
        either(c, cake_grammar_bytes(g, 'd', 'd', low), cake_grammar_bytes(g, 'D', 'D', low)));
    uint32_t last = either(c, cake_grammar_bytes(g, '1', '9', RETURN),
                           either(c, cake_grammar_bytes(g, 'a', 'f', RETURN),
                                  cake_grammar_bytes(g, 'A', 'F', RETURN)));
    uint32_t tail = last; /* 000X, X not 0 */
    for (int zeros = 0; zeros < 2; zeros++) {
        uint32_t rest = zeros ? two : hex_digit(c, RETURN), nonzero;
        nonzero = either(c, cake_grammar_bytes(g, '1', '9', rest),
                         either(c, cake_grammar_bytes(g, 'a', 'f', rest),
                                cake_grammar_bytes(g, 'A', 'F', rest)));
        tail = either(c, nonzero, text(c, "0", tail));
    }
    first = either(c, first, text(c, "0", tail));
    uint32_t escape = text(c, "u", first);
    for (size_t i = 0; simple[i]; i++)
        escape = either(c, escape, cake_grammar_text(g, simple + i, 1, RETURN));
    return either(c, raw, text(c, "\\", escape));
}

/* Characters, any number of them, and the closing quote. */
static uint32_t open_string(cake_schema_compiler *c, uint32_t next) {
    uint32_t loop = cake_grammar_loop(c->g, text(c, "\"", next));
    cake_grammar_loop_close(c->g, loop, call(c, c->character, loop));
    return loop;
}

static uint32_t digits(cake_schema_compiler *c, unsigned min, unsigned max, uint32_t next) {
    uint32_t at = next;
    for (unsigned k = max; k > 0; k--) {
        at = cake_grammar_bytes(c->g, '0', '9', at);
        if (k > min) at = either(c, at, next);
    }
    return at;
}

static uint32_t fraction(cake_schema_compiler *c, uint32_t next) {
    return either(c, text(c, ".", digits(c, 1, 15, next)), next);
}

static uint32_t number_rule(cake_schema_compiler *c) {
    cake_grammar *g = c->g;
    uint32_t power = digits(c, 1, 2, RETURN);
    uint32_t sign = either(c, power, either(c, text(c, "+", power), text(c, "-", power)));
    uint32_t end = either(c, RETURN, either(c, text(c, "e", sign), text(c, "E", sign)));
    uint32_t tail = fraction(c, end);
    uint32_t whole =
        either(c, text(c, "0", tail), cake_grammar_bytes(g, '1', '9', digits(c, 0, 14, tail)));
    return either(c, whole, text(c, "-", whole));
}

/* (item (, item)*)? between open and close, with white space. */
static uint32_t list_of(cake_schema_compiler *c, const char *open, uint32_t item_rule,
                        const char *close, uint32_t next) {
    uint32_t end = call(c, c->space, text(c, close, next));
    uint32_t loop = cake_grammar_loop(c->g, end), item = call(c, item_rule, loop);
    cake_grammar_loop_close(c->g, loop, text(c, ",", call(c, c->space, item)));
    return text(c, open, either(c, end, call(c, c->space, item)));
}

static void common_rules(cake_schema_compiler *c) {
    cake_grammar *g = c->g;
    uint32_t *rules[] = {&c->space, &c->character, &c->string, &c->number,
                         &c->any,   &c->object,    &c->array};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) *rules[i] = cake_grammar_rule(g);
    uint32_t pair = cake_grammar_rule(g);
    g->rule[c->space] = space_rule(c);
    g->rule[c->character] = character_rule(c);
    g->rule[c->string] = text(c, "\"", open_string(c, RETURN));
    g->rule[c->number] = number_rule(c);
    g->rule[pair] = call(c, c->string, text(c, ":", call(c, c->space, call(c, c->any, RETURN))));
    g->rule[c->object] = list_of(c, "{", pair, "}", RETURN);
    g->rule[c->array] = list_of(c, "[", c->any, "]", RETURN);
    uint32_t v = either(c, call(c, c->string, RETURN), call(c, c->number, RETURN));
    v = either(c, v, either(c, call(c, c->object, RETURN), call(c, c->array, RETURN)));
    v = either(c, v, either(c, text(c, "true", RETURN), text(c, "false", RETURN)));
    g->rule[c->any] = either(c, v, text(c, "null", RETURN));
}

uint32_t cake_schema_any_object(cake_schema_compiler *c, uint32_t next) {
    return call(c, c->object, next);
}

uint32_t cake_schema_space(cake_schema_compiler *c, uint32_t next) {
    return call(c, c->space, next);
}

/* ---- keywords ---- */

static const char *const annotations[] = {
    "title",   "description", "default",  "examples", "deprecated",  "readOnly",     "writeOnly",
    "$schema", "$id",         "$comment", "$defs",    "definitions", "discriminator"};

static bool listed(const char *const *list, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], key) == 0) return true;
    return false;
}

/* Every member is an annotation or one of the n words. */
static bool only(cake_schema_compiler *c, json_object *s, const char *const *words, size_t n) {
    json_object_object_foreach(s, key, v) {
        if (listed(annotations, sizeof annotations / sizeof *annotations, key) ||
            listed(words, n, key))
            continue;
        if (strcmp(key, "uniqueItems") == 0 && json_object_is_type(v, json_type_boolean) &&
            !json_object_get_boolean(v))
            continue;
        unsupported(c, key);
        return false;
    }
    return true;
}
#define ONLY(c, s, ...)                                                                            \
    only(c, s, (const char *const[]){__VA_ARGS__},                                                 \
         sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

/* A member that is a whole number of [0, INT32_MAX]; absent: *out stays. */
static bool count(cake_schema_compiler *c, json_object *s, const char *key, uint32_t *out) {
    json_object *v = get(s, key);
    if (!has(s, key)) return true;
    double d = json_object_is_type(v, json_type_int) || json_object_is_type(v, json_type_double)
                   ? json_object_get_double(v)
                   : -1;
    if (!(d >= 0 && d <= INT32_MAX && d == floor(d)))
        return fail(c, CAKE_EINVAL, "'%s' must be a whole number from 0", key), false;
    *out = (uint32_t)d;
    return true;
}

typedef enum { T_STRING, T_NUMBER, T_INTEGER, T_OBJECT, T_ARRAY, T_BOOLEAN, T_NULL, N_TYPES } type;
static const char *const type_names[N_TYPES] = {"string", "number",  "integer", "object",
                                                "array",  "boolean", "null"};

static int type_of_name(json_object *v) {
    if (json_object_is_type(v, json_type_string))
        for (int i = 0; i < N_TYPES; i++)
            if (strcmp(json_object_get_string(v), type_names[i]) == 0) return i;
    return -1;
}

static unsigned bit(int t) {
    /* an integer is a number, too */
    return t < 0 ? 0 : t == T_NUMBER ? 1u << T_NUMBER | 1u << T_INTEGER : 1u << t;
}

/* "type" as bits; 0: malformed. */
static unsigned types_of(json_object *v) {
    if (!json_object_is_type(v, json_type_array)) return bit(type_of_name(v));
    unsigned all = 0;
    for (size_t i = 0; i < json_object_array_length(v); i++) {
        unsigned b = bit(type_of_name(json_object_array_get_idx(v, i)));
        if (!b) return 0;
        all |= b;
    }
    return all;
}

static unsigned type_of_value(json_object *v) {
    switch (json_object_get_type(v)) {
    case json_type_string: return bit(T_STRING);
    case json_type_double:
        return json_object_get_double(v) == floor(json_object_get_double(v)) ? bit(T_NUMBER)
                                                                             : 1u << T_NUMBER;
    case json_type_int: return 1u << T_INTEGER;
    case json_type_object: return bit(T_OBJECT);
    case json_type_array: return bit(T_ARRAY);
    case json_type_boolean: return bit(T_BOOLEAN);
    default: return bit(T_NULL);
    }
}

/* ---- values by type ---- */

static uint32_t value(cake_schema_compiler *c, json_object *s, uint32_t next);

/* A rule for one schema, so that it is laid out once however often it is used. */
static uint32_t rule_of(cake_schema_compiler *c, json_object *s) {
    uint32_t rule = cake_grammar_rule(c->g), entry = value(c, s, RETURN);
    c->g->rule[rule] = entry;
    return rule;
}

static uint32_t literal(cake_schema_compiler *c, json_object *v, uint32_t next) {
    size_t n;
    const char *s = json_object_to_json_string_length(
        v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    return cake_grammar_text(c->g, s, n, next);
}

static const char *format_pattern(const char *name) {
#define DATE                                                                                       \
    "[0-9]{4}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-"  \
    "31)"
#define TIME                                                                                       \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]" \
    ")"
    static const struct {
        const char *name, *pattern;
    } known[] = {
        {"date", "^" DATE "$"},
        {"time", "^" TIME "$"},
        {"date-time", "^" DATE "T" TIME "$"},
        {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
        {"ipv4", "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}"
                 "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])$"},
        {"email",
         "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,16})?@([a-z0-9]([a-z0-9-]{0,30}[a-z0-9]"
         ")?\\.){1,3}[a-z]{2,10}$"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) return known[i].pattern;
    return NULL;
}

static uint32_t string_value(cake_schema_compiler *c, json_object *s, uint32_t next) {
    uint32_t min = 0, max = UINT32_MAX;
    bool sized = has(s, "minLength") || has(s, "maxLength");
    json_object *pattern = get(s, "pattern"), *format = get(s, "format");
    if (!count(c, s, "minLength", &min) || !count(c, s, "maxLength", &max)) return FAIL;
    if (min > max) return fail(c, CAKE_EINVAL, "minLength is above maxLength");
    if ((pattern || format) && sized)
        return fail(c, CAKE_EUNSUPPORTED,
                    "'minLength' and 'maxLength' beside '%s' are not supported",
                    pattern ? "pattern" : "format");
    if (pattern && format)
        return fail(c, CAKE_EUNSUPPORTED, "'format' beside 'pattern' is not supported");
    if (pattern || format) {
        json_object *v = pattern ? pattern : format;
        if (!json_object_is_type(v, json_type_string))
            return fail(c, CAKE_EINVAL, "'%s' must be a string", pattern ? "pattern" : "format");
        const char *p = json_object_get_string(v);
        size_t n = (size_t)json_object_get_string_len(v);
        if (format) {
            const char *known = strlen(p) == n ? format_pattern(p) : NULL;
            if (!known)
                return fail(c, CAKE_EUNSUPPORTED, "the 'format' \"%.40s\" is not supported", p);
            p = known, n = strlen(known);
        }
        cake_error why;
        uint32_t entry;
        if (cake_grammar_regex(c->g, p, n, c->character, text(c, "\"", next), &entry, &why) !=
            CAKE_OK)
            return fail(c, why.status, "this 'pattern' is not supported: %.250s", why.msg);
        return text(c, "\"", entry);
    }
    if (!sized) return call(c, c->string, next);
    if (min > LENGTH_MAX)
        return fail(c, CAKE_EUNSUPPORTED, "a 'minLength' above %d is not supported", LENGTH_MAX);
    uint32_t end = text(c, "\"", next), at = end;
    if (max == UINT32_MAX) {
        at = open_string(c, next);
        max = min;
    } else if (max > LENGTH_MAX) {
        max = LENGTH_MAX;
    }
    for (uint32_t k = max; k > 0; k--) {
        at = call(c, c->character, at);
        if (k > min) at = either(c, at, end);
    }
    return text(c, "\"", at);
}

/* Decimal numbers lo..hi, 0 <= lo <= hi, without leading zeros. */
static uint32_t range(cake_schema_compiler *c, int64_t lo, int64_t hi, uint32_t next) {
    uint32_t parts = FAIL;
    int64_t from = 0, to = 9;
    for (size_t n = 1; n <= 15; n++) {
        int64_t a = lo > from ? lo : from, b = hi < to ? hi : to;
        if (a <= b) {
            char first[24], last[24];
            snprintf(first, sizeof first, "%lld", (long long)a);
            snprintf(last, sizeof last, "%lld", (long long)b);
            parts = either(c, parts,
                           cake_grammar_span(c->g, (const uint8_t *)first, (const uint8_t *)last, n,
                                             '0', '9', next));
        }
        from = to + 1;
        to = to * 10 + 9;
    }
    return parts;
}

/* The bounds of an integer or number, INTEGER_MAX where there is none; *given: there is one. */
static bool bounds(cake_schema_compiler *c, json_object *s, bool integer, int64_t *lo, int64_t *hi,
                   bool *given) {
    static const struct {
        const char *key;
        bool upper, open;
    } words[] = {{"minimum", false, false},
                 {"maximum", true, false},
                 {"exclusiveMinimum", false, true},
                 {"exclusiveMaximum", true, true}};
    *lo = -INTEGER_MAX, *hi = INTEGER_MAX, *given = false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        json_object *v = get(s, words[i].key);
        if (!has(s, words[i].key)) continue;
        if (!json_object_is_type(v, json_type_int) && !json_object_is_type(v, json_type_double))
            return fail(c, CAKE_EINVAL, "'%s' must be a number", words[i].key), false;
        double d = json_object_get_double(v);
        if (!integer && words[i].open) return unsupported(c, words[i].key), false;
        if (!integer && d != floor(d))
            return fail(c, CAKE_EUNSUPPORTED,
                        "a '%s' of numbers that is no whole number is not supported", words[i].key),
                   false;
        bool whole = d == floor(d);
        d = words[i].upper ? floor(d) : ceil(d);
        if (words[i].open && whole) d += words[i].upper ? -1 : 1;
        *given = true;
        if (words[i].upper && d < (double)*hi) *hi = d < -1e15 ? -INTEGER_MAX - 1 : (int64_t)d;
        if (!words[i].upper && d > (double)*lo) *lo = d > 1e15 ? INTEGER_MAX + 1 : (int64_t)d;
    }
    if (*lo > *hi || *lo > INTEGER_MAX || *hi < -INTEGER_MAX)
        return fail(c, CAKE_EINVAL, "no number of at most 15 digits is within the bounds"), false;
    return true;
}

static uint32_t integer_value(cake_schema_compiler *c, json_object *s, uint32_t next) {
    int64_t lo, hi;
    bool given;
    if (!bounds(c, s, true, &lo, &hi, &given)) return FAIL;
    uint32_t positive = hi >= 0 ? range(c, lo > 0 ? lo : 0, hi, next) : FAIL;
    uint32_t negative = lo < 0 ? range(c, hi < 0 ? -hi : 1, -lo, next) : FAIL;
    return either(c, positive, negative == FAIL ? FAIL : text(c, "-", negative));
}

/* Numbers of [lo, hi], 0 <= lo <= hi: a whole part below hi with any fraction, or hi itself. */
static uint32_t decimals(cake_schema_compiler *c, int64_t lo, int64_t hi, uint32_t next) {
    uint32_t parts = range(c, hi, hi, next);
    return lo < hi ? either(c, parts, range(c, lo, hi - 1, fraction(c, next))) : parts;
}

static uint32_t number_value(cake_schema_compiler *c, json_object *s, uint32_t next) {
    int64_t lo, hi;
    bool given;
    if (!bounds(c, s, false, &lo, &hi, &given)) return FAIL;
    if (!given) return call(c, c->number, next);
    uint32_t positive = hi >= 0 ? decimals(c, lo > 0 ? lo : 0, hi, next) : FAIL;
    uint32_t negative = lo < 0 ? decimals(c, hi < 0 ? -hi : 0, -lo, next) : FAIL;
    return either(c, positive, negative == FAIL ? FAIL : text(c, "-", negative));
}

static uint32_t array_value(cake_schema_compiler *c, json_object *s, uint32_t next) {
    json_object *items = get(s, "items"), *prefix = get(s, "prefixItems");
    uint32_t min = 0, max = UINT32_MAX, n_prefix = 0;
    if (!count(c, s, "minItems", &min) || !count(c, s, "maxItems", &max)) return FAIL;
    if (has(s, "items") && !json_object_is_type(items, json_type_object) &&
        !json_object_is_type(items, json_type_boolean))
        return unsupported(c, "items");
    if (prefix) {
        if (!json_object_is_type(prefix, json_type_array))
            return fail(c, CAKE_EINVAL, "'prefixItems' must be an array");
        n_prefix = (uint32_t)json_object_array_length(prefix);
        /* Without a word about more items there are none: that is one of the ways allowed. */
        if (!has(s, "items") && max > n_prefix && min <= n_prefix) max = n_prefix;
    }
    if (json_object_is_type(items, json_type_boolean) && !json_object_get_boolean(items) &&
        max > n_prefix)
        max = n_prefix;
    if (min > max)
        return fail(c, CAKE_EINVAL, "no array has at least minItems and at most maxItems");
    if (min > ITEMS_MAX)
        return fail(c, CAKE_EUNSUPPORTED, "a 'minItems' above %d is not supported", ITEMS_MAX);
    if (max != UINT32_MAX && max > ITEMS_MAX) max = ITEMS_MAX;
    if (n_prefix > max) n_prefix = max;
    size_t was = enter(c, "items");
    uint32_t rule = c->any;
    if (json_object_is_type(items, json_type_object) && max > n_prefix) rule = rule_of(c, items);
    leave(c, was);
    /* more: what may follow k items, seen from behind the k-th; [0] without a comma. */
    uint32_t end = call(c, c->space, text(c, "]", next)), more = end;
    uint32_t last = max == UINT32_MAX ? (min > n_prefix ? min : n_prefix) : max;
    if (max == UINT32_MAX) {
        more = cake_grammar_loop(c->g, end);
        cake_grammar_loop_close(c->g, more, text(c, ",", call(c, c->space, call(c, rule, more))));
    }
    uint32_t first = call(c, c->space, call(c, rule, more)); /* of an array without a last */
    for (uint32_t k = last; k > 0 && c->st == CAKE_OK; k--) {
        uint32_t r = rule;
        if (k <= n_prefix) {
            char name[32];
            snprintf(name, sizeof name, "prefixItems/%u", k - 1);
            was = enter(c, name);
            r = rule_of(c, json_object_array_get_idx(prefix, k - 1));
            leave(c, was);
        }
        first = call(c, c->space, call(c, r, more));
        uint32_t item = text(c, ",", first);
        more = k > 1 && k - 1 >= min ? either(c, item, end) : item;
    }
    if (max == 0) return text(c, "[", end);
    return text(c, "[", min == 0 ? either(c, first, end) : first);
}

/* ---- objects ---- */

typedef struct {
    const char *key;
    json_object *schema; /* NULL: any value */
    bool required;
} property;

static bool is_required(json_object *required, const char *key) {
    for (size_t i = 0; required && i < json_object_array_length(required); i++)
        if (strcmp(json_object_get_string(json_object_array_get_idx(required, i)), key) == 0)
            return true;
    return false;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const property *)a)->key, ((const property *)b)->key);
}

/* The rest of a key, behind its first `depth` bytes, which are those of v[0..n) (sorted): ASCII
 * without escapes, or any text once it differs, and none of the keys. `rest`: any text and the
 * quote. */
static uint32_t other_key(cake_schema_compiler *c, const property *v, size_t n, size_t depth,
                          uint32_t rest, uint32_t next) {
    uint32_t parts = FAIL;
    bool taken = false, all_ascii = true;
    int from = 0x20;
    if (cake_grammar_exhausted(c->g)) return FAIL;
    while (n && v->key[depth] == 0) taken = true, v++, n--;
    if (!taken) parts = text(c, "\"", next);
    while (n) {
        uint8_t b = (uint8_t)v->key[depth];
        size_t same = 1;
        while (same < n && (uint8_t)v[same].key[depth] == b) same++;
        if (b < 0x80) {
            if (b >= 0x20 && b != '"' && b != '\\')
                parts = either(
                    c, parts,
                    cake_grammar_bytes(c->g, b, b, other_key(c, v, same, depth + 1, rest, next)));
            for (; from < b; from++)
                if (from != '"' && from != '\\')
                    parts = either(c, parts,
                                   cake_grammar_bytes(c->g, (uint8_t)from, (uint8_t)from, rest));
            if (from <= b) from = b + 1;
        } else {
            all_ascii = false;
        }
        v += same, n -= same;
    }
    for (; from < 0x80; from++)
        if (from != '"' && from != '\\')
            parts = either(c, parts, cake_grammar_bytes(c->g, (uint8_t)from, (uint8_t)from, rest));
    return all_ascii ? either(c, parts, cake_grammar_code_points(c->g, 0x80, 0x10ffff, rest))
                     : parts;
}

/* A rule for `"key": value` with a key that is none of the n. */
static uint32_t other_pair(cake_schema_compiler *c, const property *props, size_t n,
                           uint32_t value_rule) {
    uint32_t rule = cake_grammar_rule(c->g);
    uint32_t after = text(c, ":", call(c, c->space, call(c, value_rule, RETURN)));
    uint32_t rest = cake_grammar_loop(c->g, text(c, "\"", after));
    uint32_t plain = either(c, cake_grammar_code_points(c->g, 0x20, '"' - 1, rest),
                            either(c, cake_grammar_code_points(c->g, '"' + 1, '\\' - 1, rest),
                                   cake_grammar_code_points(c->g, '\\' + 1, 0x10ffff, rest)));
    cake_grammar_loop_close(c->g, rest, plain);
    property *sorted = cake_malloc((n + 1) * sizeof *sorted);
    if (n) memcpy(sorted, props, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_key);
    c->g->rule[rule] = text(c, "\"", other_key(c, sorted, n, 0, rest, after));
    free(sorted);
    return rule;
}

/* The pairs in their order, then (more) others; see json_schema.h. */
static uint32_t object_layout(cake_schema_compiler *c, const property *p, size_t n, bool open,
                              uint32_t others, uint32_t next) {
    uint32_t end = call(c, c->space, text(c, "}", next)), after = end, begin = end;
    if (open) {
        after = cake_grammar_loop(c->g, end);
        uint32_t pair = call(c, others, after);
        cake_grammar_loop_close(c->g, after, text(c, ",", call(c, c->space, pair)));
        begin = either(c, call(c, c->space, pair), end);
    }
    /* after: what may come when pairs came already; begin: when none did. */
    for (size_t i = n; i-- > 0 && c->st == CAKE_OK;) {
        size_t was = enter(c, "properties");
        enter(c, p[i].key);
        uint32_t rule = p[i].schema ? rule_of(c, p[i].schema) : c->any;
        leave(c, was);
        uint32_t pair = text(c, ":", call(c, c->space, call(c, rule, after)));
        json_object *key = json_object_new_string(p[i].key);
        pair = call(c, c->space, literal(c, key, pair));
        json_object_put(key);
        uint32_t with_comma = text(c, ",", pair);
        after = p[i].required ? with_comma : either(c, with_comma, after);
        begin = p[i].required ? pair : either(c, pair, begin);
    }
    return text(c, "{", begin);
}

static uint32_t object_value(cake_schema_compiler *c, json_object *s, uint32_t next) {
    json_object *props = get(s, "properties"), *required = get(s, "required");
    json_object *more = get(s, "additionalProperties");
    if (has(s, "properties") && !json_object_is_type(props, json_type_object))
        return fail(c, CAKE_EINVAL, "'properties' must be an object");
    if (has(s, "required") && !json_object_is_type(required, json_type_array))
        return fail(c, CAKE_EINVAL, "'required' must be an array of names");
    size_t n_required = required ? json_object_array_length(required) : 0, n = 0;
    for (size_t i = 0; i < n_required; i++)
        if (!json_object_is_type(json_object_array_get_idx(required, i), json_type_string))
            return fail(c, CAKE_EINVAL, "'required' must be an array of names");
    bool closed = json_object_is_type(more, json_type_boolean) && !json_object_get_boolean(more);
    if (has(s, "additionalProperties") && !json_object_is_type(more, json_type_boolean) &&
        !json_object_is_type(more, json_type_object))
        return fail(c, CAKE_EINVAL, "'additionalProperties' must be true, false or a schema");
    size_t n_props = props ? (size_t)json_object_object_length(props) : 0;
    property *p = cake_calloc(n_props + n_required + 1, sizeof *p);
    if (props) {
        json_object_object_foreach(props, key, v) {
            p[n++] = (property){.key = key, .schema = v, .required = is_required(required, key)};
            if (!v) fail(c, CAKE_EINVAL, "the property '%.60s' has no schema", key);
        }
    }
    for (size_t i = 0; i < n_required; i++) { /* required without a schema */
        const char *key = json_object_get_string(json_object_array_get_idx(required, i));
        bool known = false;
        for (size_t k = 0; k < n && !known; k++) known = strcmp(p[k].key, key) == 0;
        if (known) continue;
        if (closed) fail(c, CAKE_EINVAL, "'%.60s' is required, and not allowed", key);
        json_object *schema = json_object_is_type(more, json_type_object) ? more : NULL;
        p[n++] = (property){.key = key, .schema = schema, .required = true};
    }
    bool open = !closed && (more || n_props == 0);
    uint32_t others = FAIL, entry = FAIL;
    if (c->st == CAKE_OK && open) {
        size_t was = enter(c, "additionalProperties");
        uint32_t rule = json_object_is_type(more, json_type_object) ? rule_of(c, more) : c->any;
        leave(c, was);
        others = other_pair(c, p, n, rule);
    }
    if (c->st == CAKE_OK) entry = object_layout(c, p, n, open, others, next);
    free(p);
    return entry;
}

/* ---- combinations ---- */

static json_object *resolve(cake_schema_compiler *c, json_object *target) {
    const char *p =
        json_object_is_type(target, json_type_string) ? json_object_get_string(target) : "";
    if (*p++ != '#')
        return fail(c, CAKE_EUNSUPPORTED, "only a '$ref' into the same schema is supported"), NULL;
    json_object *at = c->root;
    while (at && *p == '/') {
        char key[256];
        size_t n = 0;
        for (p++; *p && *p != '/' && n + 1 < sizeof key; p++) {
            key[n] = *p;
            if (*p == '~' && (p[1] == '0' || p[1] == '1')) key[n] = *++p == '0' ? '~' : '/';
            n++;
        }
        key[n] = 0;
        char *end;
        if (json_object_is_type(at, json_type_array)) {
            unsigned long i = strtoul(key, &end, 10);
            at = n && *end == 0 ? json_object_array_get_idx(at, i) : NULL;
        } else {
            at = json_object_is_type(at, json_type_object) ? get(at, key) : NULL;
        }
    }
    if (!at || *p) fail(c, CAKE_EINVAL, "the '$ref' leads nowhere");
    return at && !*p ? at : NULL;
}

static uint32_t reference(cake_schema_compiler *c, json_object *s, uint32_t next) {
    json_object *at = resolve(c, get(s, "$ref"));
    if (!at) return FAIL;
    for (size_t i = 0; i < c->n_refs; i++)
        if (c->refs[i].schema == at) return call(c, c->refs[i].rule, next);
    if (c->n_refs == REFS_MAX) return fail(c, CAKE_ENOSPACE, "more than %d '$ref's", REFS_MAX);
    uint32_t rule = cake_grammar_rule(c->g);
    c->refs[c->n_refs++] = (ref){.schema = at, .rule = rule};
    uint32_t entry = value(c, at, RETURN);
    c->g->rule[rule] = entry;
    return call(c, rule, next);
}

static uint32_t one_of_values(cake_schema_compiler *c, json_object *s, uint32_t next) {
    json_object *list = get(s, "enum"), *only_one = get(s, "const");
    unsigned types = has(s, "type") ? types_of(get(s, "type")) : ~0u;
    bool constant = has(s, "const");
    if (!ONLY(c, s, "enum", "const", "type")) return FAIL;
    if (has(s, "enum") && constant)
        return fail(c, CAKE_EUNSUPPORTED, "'enum' beside 'const' is not supported");
    if (!constant && !json_object_is_type(list, json_type_array))
        return fail(c, CAKE_EINVAL, "'enum' must be an array");
    size_t n = constant ? 1 : json_object_array_length(list);
    uint32_t parts = FAIL;
    for (size_t i = 0; i < n; i++) {
        json_object *v = constant ? only_one : json_object_array_get_idx(list, i);
        if (!(type_of_value(v) & types)) continue; /* never valid */
        parts = either(c, parts, literal(c, v, next));
    }
    return parts == FAIL && !c->g->full
               ? fail(c, CAKE_EINVAL, "'%s' allows no value", constant ? "const" : "enum")
               : parts;
}

static uint32_t any_of(cake_schema_compiler *c, json_object *list, const char *word,
                       uint32_t next) {
    if (!json_object_is_type(list, json_type_array) || json_object_array_length(list) == 0)
        return fail(c, CAKE_EINVAL, "'%s' must be an array of schemas", word);
    uint32_t parts = FAIL;
    for (size_t i = 0; i < json_object_array_length(list) && c->st == CAKE_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s/%zu", word, i);
        size_t was = enter(c, name);
        parts = either(c, parts, value(c, json_object_array_get_idx(list, i), next));
        leave(c, was);
    }
    return parts;
}

/* Types that a schema may accept; all when it does not say. */
static unsigned accepted_types(cake_schema_compiler *c, json_object *s, int depth) {
    if (!json_object_is_type(s, json_type_object) || depth > 8) return ~0u;
    if (has(s, "$ref")) return accepted_types(c, resolve(c, get(s, "$ref")), depth + 1);
    if (has(s, "const")) return type_of_value(get(s, "const"));
    json_object *list = get(s, "enum");
    if (json_object_is_type(list, json_type_array)) {
        unsigned all = 0;
        for (size_t i = 0; i < json_object_array_length(list); i++)
            all |= type_of_value(json_object_array_get_idx(list, i));
        return all;
    }
    return has(s, "type") ? types_of(get(s, "type")) : ~0u;
}

/* The constants of a property, as an array or one value; NULL: it has none. */
static json_object *constants(json_object *s, const char *key) {
    json_object *p = get(s, "properties"), *v = p ? get(p, key) : NULL;
    if (!json_object_is_type(v, json_type_object) || !is_required(get(s, "required"), key))
        return NULL;
    return has(v, "const") ? get(v, "const") : get(v, "enum");
}

static bool share(json_object *a, json_object *b) {
    bool list_a = json_object_is_type(a, json_type_array),
         list_b = json_object_is_type(b, json_type_array);
    for (size_t i = 0; i < (list_a ? json_object_array_length(a) : 1); i++)
        for (size_t k = 0; k < (list_b ? json_object_array_length(b) : 1); k++)
            if (json_object_equal(list_a ? json_object_array_get_idx(a, i) : a,
                                  list_b ? json_object_array_get_idx(b, k) : b))
                return true;
    return false;
}

/* No value is accepted by both. */
static bool exclude(cake_schema_compiler *c, json_object *a, json_object *b) {
    if (!(accepted_types(c, a, 0) & accepted_types(c, b, 0))) return true;
    for (int i = 0; i < 8 && a && json_object_is_type(a, json_type_object) && has(a, "$ref"); i++)
        a = resolve(c, get(a, "$ref"));
    for (int i = 0; i < 8 && b && json_object_is_type(b, json_type_object) && has(b, "$ref"); i++)
        b = resolve(c, get(b, "$ref"));
    if (!json_object_is_type(a, json_type_object) || !json_object_is_type(b, json_type_object))
        return false;
    if (accepted_types(c, a, 0) != bit(T_OBJECT) || accepted_types(c, b, 0) != bit(T_OBJECT) ||
        !json_object_is_type(get(a, "required"), json_type_array) ||
        !json_object_is_type(get(b, "required"), json_type_array) ||
        !json_object_is_type(get(a, "properties"), json_type_object))
        return false;
    json_object *props = get(a, "properties");
    json_object_object_foreach(props, key, v) {
        (void)v;
        json_object *x = constants(a, key), *y = constants(b, key);
        if (x && y && !share(x, y)) return true;
    }
    return false;
}

static uint32_t one_of(cake_schema_compiler *c, json_object *list, uint32_t next) {
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < n && c->st == CAKE_OK; i++)
        for (size_t k = 0; k < i && c->st == CAKE_OK; k++) {
            if (cake_grammar_exhausted(c->g)) return FAIL;
            if (!exclude(c, json_object_array_get_idx(list, i), json_object_array_get_idx(list, k)))
                return fail(c, CAKE_EUNSUPPORTED,
                            "a 'oneOf' whose branches do not exclude each other by type or by a "
                            "required constant property is not supported; use 'anyOf'");
        }
    return any_of(c, list, "oneOf", next);
}

/* ---- one schema ---- */

static uint32_t typed(cake_schema_compiler *c, json_object *s, int t, uint32_t next) {
    switch (t) {
    case T_STRING: return string_value(c, s, next);
    case T_NUMBER: return number_value(c, s, next);
    case T_INTEGER: return integer_value(c, s, next);
    case T_OBJECT: return object_value(c, s, next);
    case T_ARRAY: return array_value(c, s, next);
    case T_BOOLEAN: return either(c, text(c, "true", next), text(c, "false", next));
    default: return text(c, "null", next);
    }
}

static uint32_t by_type(cake_schema_compiler *c, json_object *s, uint32_t next) {
    if (!ONLY(c, s, "type", "properties", "required", "additionalProperties", "items",
              "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format",
              "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
        return FAIL;
    json_object *t = get(s, "type");
    if (!has(s, "type")) {
        bool object = has(s, "properties") || has(s, "required") || has(s, "additionalProperties");
        bool array =
            has(s, "items") || has(s, "prefixItems") || has(s, "minItems") || has(s, "maxItems");
        bool string =
            has(s, "minLength") || has(s, "maxLength") || has(s, "pattern") || has(s, "format");
        bool number = has(s, "minimum") || has(s, "maximum") || has(s, "exclusiveMinimum") ||
                      has(s, "exclusiveMaximum");
        if (object) return object_value(c, s, next);
        if (array) return array_value(c, s, next);
        if (string) return string_value(c, s, next);
        if (number) return number_value(c, s, next);
        return call(c, c->any, next);
    }
    if (!json_object_is_type(t, json_type_array)) {
        int k = type_of_name(t);
        if (k < 0)
            return fail(c, CAKE_EINVAL,
                        "'type' must be string, number, integer, object, array, boolean or null");
        return typed(c, s, k, next);
    }
    uint32_t parts = FAIL;
    for (size_t i = 0; i < json_object_array_length(t) && c->st == CAKE_OK; i++) {
        int k = type_of_name(json_object_array_get_idx(t, i));
        if (k < 0) return fail(c, CAKE_EINVAL, "'type' names no type");
        parts = either(c, parts, typed(c, s, k, next));
    }
    return parts == FAIL && c->st == CAKE_OK && !c->g->full
               ? fail(c, CAKE_EINVAL, "'type' names no type")
               : parts;
}

static uint32_t value(cake_schema_compiler *c, json_object *s, uint32_t next) {
    if (c->st != CAKE_OK) return FAIL;
    if (json_object_is_type(s, json_type_boolean) && json_object_get_boolean(s))
        return call(c, c->any, next);
    if (!json_object_is_type(s, json_type_object))
        return fail(c, CAKE_EINVAL, "a schema must be an object or true");
    if (++c->n_schemas > CAKE_SCHEMA_NODES_MAX)
        return fail(c, CAKE_ENOSPACE, "it holds more than %d schemas", CAKE_SCHEMA_NODES_MAX);
    if (cake_grammar_exhausted(c->g)) return FAIL;
    if (c->depth == DEPTH_MAX) return fail(c, CAKE_ENOSPACE, "schemas are nested too deep");
    c->depth++;
    uint32_t entry = FAIL;
    if (has(s, "$ref")) {
        if (ONLY(c, s, "$ref")) entry = reference(c, s, next);
    } else if (has(s, "enum") || has(s, "const")) {
        entry = one_of_values(c, s, next);
    } else if (has(s, "anyOf")) {
        if (ONLY(c, s, "anyOf")) entry = any_of(c, get(s, "anyOf"), "anyOf", next);
    } else if (has(s, "oneOf")) {
        if (ONLY(c, s, "oneOf")) entry = one_of(c, get(s, "oneOf"), next);
    } else if (has(s, "allOf")) {
        json_object *all = get(s, "allOf");
        if (!json_object_is_type(all, json_type_array) || json_object_array_length(all) != 1)
            fail(c, CAKE_EUNSUPPORTED, "an 'allOf' of more than one schema is not supported");
        else if (ONLY(c, s, "allOf"))
            entry = value(c, json_object_array_get_idx(all, 0), next);
    } else {
        entry = by_type(c, s, next);
    }
    c->depth--;
    return entry;
}

/* ---- life ---- */

cake_schema_compiler *cake_schema_compiler_new(cake_grammar *g) {
    cake_schema_compiler *c = cake_calloc(1, sizeof *c);
    c->g = g;
    c->refs = cake_calloc(REFS_MAX, sizeof *c->refs);
    common_rules(c);
    return c;
}

void cake_schema_compiler_free(cake_schema_compiler *c) {
    if (!c) return;
    free(c->refs);
    free(c);
}

cake_status cake_schema_compile(cake_schema_compiler *c, json_object *schema, uint32_t next,
                                uint32_t *entry, cake_error *err) {
    size_t n;
    c->root = schema;
    c->st = CAKE_OK;
    c->err = err;
    c->n_schemas = 0;
    c->n_refs = 0;
    leave(c, 0);
    json_object_to_json_string_length(schema,
                                      JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    if (n > CAKE_SCHEMA_BYTES_MAX)
        fail(c, CAKE_ENOSPACE, "it is longer than %d bytes", CAKE_SCHEMA_BYTES_MAX);
    *entry = value(c, schema, next);
    if (c->st == CAKE_OK && c->g->full)
        fail(c, CAKE_ENOSPACE, "it is too large: at most %d steps or %d ms to compile",
             CAKE_GRAMMAR_NODES_MAX, CAKE_GRAMMAR_COMPILE_MS);
    return c->st;
}

uint32_t cake_grammar_until(cake_grammar *g, const char *marker, uint32_t next) {
    uint32_t at[32];
    size_t n = strlen(marker);
    cake_assert(n > 0 && n <= sizeof at / sizeof *at);
    for (size_t i = 0; i < n; i++) at[i] = cake_grammar_loop(g, CAKE_GRAMMAR_FAIL);
    for (size_t i = 0; i < n; i++) {
        uint8_t hit = (uint8_t)marker[i], again = (uint8_t)marker[0];
        uint32_t parts = cake_grammar_bytes(g, hit, hit, i + 1 < n ? at[i + 1] : next);
        if (i) parts = cake_grammar_split(g, parts, cake_grammar_bytes(g, again, again, at[1]));
        parts = cake_grammar_split(g, parts, cake_grammar_code_points(g, 0x80, 0x10ffff, at[0]));
        for (int c = '\t'; c < 0x80; c++)
            if ((c >= ' ' || c == '\t' || c == '\n' || c == '\r') && c != hit && c != again)
                parts = cake_grammar_split(g, parts,
                                           cake_grammar_bytes(g, (uint8_t)c, (uint8_t)c, at[0]));
        cake_grammar_loop_close(g, at[i], parts);
    }
    return at[0];
}
