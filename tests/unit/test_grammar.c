/* Grammars from JSON schemas: whatever the logits, a constrained answer is JSON that the schema
 * accepts. The judge is json-c and a validator of its own, below. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/json.h"
#include "common/mem.h"
#include "master/generate/generate.h"
#include "master/grammar/json_schema.h"

#include <math.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cake_tokenizer *tokenizer;
static cake_token_trie *trie;
static uint32_t n_vocab;

static uint64_t random_state = 1;
static uint32_t rnd(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static int open_tokenizer(void **state) {
    (void)state;
    cake_error err;
    if (cake_tokenizer_open(&tokenizer, "tests/models/stories260K-hf", &err) != CAKE_OK) {
        print_error("%s\n", err.msg);
        return -1;
    }
    n_vocab = cake_tokenizer_vocab_size(tokenizer);
    trie = cake_token_trie_new(tokenizer, n_vocab);
    return 0;
}
static int close_tokenizer(void **state) {
    (void)state;
    cake_token_trie_free(trie);
    cake_tokenizer_free(tokenizer);
    return 0;
}

static json_object *json(const char *text) {
    json_object *o = json_tokener_parse(text);
    if (!o && strcmp(text, "null") != 0) fail_msg("not JSON: %s", text);
    return o;
}

/* ---- the validator ---- */

static json_object *get(json_object *o, const char *key) {
    return json_object_is_type(o, json_type_object) ? json_object_object_get(o, key) : NULL;
}
static bool has(json_object *o, const char *key) {
    return json_object_object_get_ex(o, key, NULL);
}

static bool is_of_type(json_object *v, const char *type) {
    json_type t = json_object_get_type(v);
    double d = t == json_type_double ? json_object_get_double(v) : 0;
    return strcmp(type, "string") == 0    ? t == json_type_string
           : strcmp(type, "object") == 0  ? t == json_type_object
           : strcmp(type, "array") == 0   ? t == json_type_array
           : strcmp(type, "boolean") == 0 ? t == json_type_boolean
           : strcmp(type, "null") == 0    ? t == json_type_null
           : strcmp(type, "number") == 0
               ? t == json_type_int || t == json_type_double
               : t == json_type_int || (t == json_type_double && d == floor(d));
}

static size_t n_code_points(const char *s) {
    size_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static bool matches(const char *pattern, const char *s) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    assert_non_null(re);
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(re, NULL);
    bool ok = pcre2_match(re, (PCRE2_SPTR)s, strlen(s), 0, 0, m, NULL) >= 0;
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    return ok;
}

static bool valid(json_object *root, json_object *s, json_object *v);

static size_t n_valid(json_object *root, json_object *list, json_object *v) {
    size_t n = 0;
    for (size_t i = 0; i < json_object_array_length(list); i++)
        n += valid(root, json_object_array_get_idx(list, i), v);
    return n;
}

static bool valid_object(json_object *root, json_object *s, json_object *v) {
    json_object *props = get(s, "properties"), *required = get(s, "required"),
                *more = get(s, "additionalProperties");
    for (size_t i = 0; required && i < json_object_array_length(required); i++)
        if (!has(v, json_object_get_string(json_object_array_get_idx(required, i)))) return false;
    json_object_object_foreach(v, key, member) {
        json_object *p = get(props, key);
        if (p) {
            if (!valid(root, p, member)) return false;
        } else if (more && !valid(root, more, member)) {
            return false;
        }
    }
    return true;
}

static bool valid_array(json_object *root, json_object *s, json_object *v) {
    json_object *items = get(s, "items"), *prefix = get(s, "prefixItems");
    size_t n = json_object_array_length(v), k = prefix ? json_object_array_length(prefix) : 0;
    if (has(s, "minItems") && n < (size_t)json_object_get_int(get(s, "minItems"))) return false;
    if (has(s, "maxItems") && n > (size_t)json_object_get_int(get(s, "maxItems"))) return false;
    for (size_t i = 0; i < n; i++) {
        json_object *one = i < k ? json_object_array_get_idx(prefix, i) : items;
        if (one && !valid(root, one, json_object_array_get_idx(v, i))) return false;
    }
    return true;
}

static bool valid_scalar(json_object *s, json_object *v) {
    if (json_object_is_type(v, json_type_string)) {
        const char *t = json_object_get_string(v);
        size_t n = n_code_points(t);
        if (has(s, "minLength") && n < (size_t)json_object_get_int(get(s, "minLength")))
            return false;
        if (has(s, "maxLength") && n > (size_t)json_object_get_int(get(s, "maxLength")))
            return false;
        return !has(s, "pattern") || matches(json_object_get_string(get(s, "pattern")), t);
    }
    if (is_of_type(v, "number")) {
        double d = json_object_get_double(v);
        if (has(s, "minimum") && d < json_object_get_double(get(s, "minimum"))) return false;
        if (has(s, "maximum") && d > json_object_get_double(get(s, "maximum"))) return false;
        if (has(s, "exclusiveMinimum") && d <= json_object_get_double(get(s, "exclusiveMinimum")))
            return false;
        if (has(s, "exclusiveMaximum") && d >= json_object_get_double(get(s, "exclusiveMaximum")))
            return false;
    }
    return true;
}

static bool valid(json_object *root, json_object *s, json_object *v) {
    if (json_object_is_type(s, json_type_boolean)) return json_object_get_boolean(s);
    if (has(s, "$ref")) {
        const char *r = json_object_get_string(get(s, "$ref"));
        if (strcmp(r, "#") == 0) return valid(root, root, v);
        return valid(root, get(get(root, "$defs"), r + strlen("#/$defs/")), v);
    }
    if (has(s, "const") && !json_object_equal(get(s, "const"), v)) return false;
    if (has(s, "enum")) {
        bool found = false;
        json_object *list = get(s, "enum");
        for (size_t i = 0; i < json_object_array_length(list); i++)
            found |= json_object_equal(json_object_array_get_idx(list, i), v);
        if (!found) return false;
    }
    if (has(s, "anyOf") && n_valid(root, get(s, "anyOf"), v) == 0) return false;
    if (has(s, "oneOf") && n_valid(root, get(s, "oneOf"), v) != 1) return false;
    if (has(s, "allOf") && n_valid(root, get(s, "allOf"), v) != 1) return false;
    json_object *t = get(s, "type");
    if (json_object_is_type(t, json_type_string) && !is_of_type(v, json_object_get_string(t)))
        return false;
    if (json_object_is_type(t, json_type_array)) {
        bool any = false;
        for (size_t i = 0; i < json_object_array_length(t); i++)
            any |= is_of_type(v, json_object_get_string(json_object_array_get_idx(t, i)));
        if (!any) return false;
    }
    if (json_object_is_type(v, json_type_object)) return valid_object(root, s, v);
    if (json_object_is_type(v, json_type_array)) return valid_array(root, s, v);
    return valid_scalar(s, v);
}

/* ---- generating ---- */

static cake_status compile(cake_grammar **out, json_object *schema, cake_error *err) {
    cake_grammar *g = cake_grammar_new();
    cake_schema_compiler *c = cake_schema_compiler_new(g);
    uint32_t entry;
    cake_status st = cake_schema_compile(c, schema, CAKE_GRAMMAR_RETURN, &entry, err);
    cake_schema_compiler_free(c);
    if (st == CAKE_OK) st = cake_grammar_finish(g, entry, trie->alphabet, err);
    if (st == CAKE_OK)
        *out = g;
    else
        cake_grammar_free(g);
    return st;
}

/* An answer of random logits that lean to `closers` after a while, so that it comes to an end;
 * NULL: it did not within max tokens. */
static char *generate(const cake_grammar *g, uint64_t seed, float temperature, size_t max) {
    cake_eos eos = {.v = {2}, .n = 1};
    cake_generation_config c = {.tokenizer = tokenizer,
                                .eos = &eos,
                                .n_vocab = n_vocab,
                                .max_tokens = max,
                                .grammar = g,
                                .trie = trie};
    cake_sampler_params_default(&c.sampler);
    c.sampler.temperature = temperature;
    c.sampler.top_k = rnd(3) ? 0 : 40;
    c.sampler.top_p = rnd(2) ? 1 : 0.9f;
    c.sampler.seed = seed;
    uint32_t prompt = 1;
    cake_error err;
    cake_generation *gen;
    assert_int_equal(cake_generation_new(&gen, &c, &prompt, 1, &err), CAKE_OK);
    float *logits = cake_malloc(n_vocab * sizeof *logits);
    size_t n = 0, len;
    char *out = cake_malloc(16 * max + 64);
    const char *text;
    bool more = true;
    for (uint32_t pos = 0; more; pos++) {
        for (uint32_t i = 0; i < n_vocab; i++) logits[i] = (float)rnd(8000) / 1000.0f;
        for (uint32_t i = 0; i < n_vocab && pos > 20; i++) {
            size_t k;
            const uint8_t *b = cake_tokenizer_token_bytes(tokenizer, i, &k);
            if (b && k == 1 && strchr("\"]}", b[0])) logits[i] += (float)pos * 0.2f;
        }
        logits[2] = 9;
        uint32_t token;
        more = cake_generation_next(gen, pos, logits, &token, &text, &len);
        if (gen->finish == CAKE_FINISH_ERROR) fail_msg("%s", gen->error.msg);
        memcpy(out + n, text, len);
        n += len;
    }
    cake_generation_end(gen, &text, &len);
    memcpy(out + n, text, len);
    out[n + len] = 0;
    bool whole = gen->finish == CAKE_FINISH_STOP;
    cake_generation_free(gen);
    free(logits);
    if (whole) return out;
    free(out);
    return NULL;
}

/* How many of n answers came to an end; each is checked. */
static size_t check(json_object *schema, size_t n, bool chatty) {
    cake_error err;
    cake_grammar *g = NULL;
    size_t whole = 0;
    if (compile(&g, schema, &err) != CAKE_OK)
        fail_msg("%s: %s", err.msg, json_object_to_json_string(schema));
    for (size_t i = 0; i < n; i++) {
        char *text = generate(g, i, i % 3 ? 1.5f : 0, 700);
        if (!text) continue;
        json_object *v = NULL;
        if (chatty) print_message("%s\n", text);
        if (cake_json_parse(text, strlen(text), 200, "the answer", &v, &err) != CAKE_OK)
            fail_msg("%s: %s\nof %s", err.msg, text, json_object_to_json_string(schema));
        if (!valid(schema, schema, v))
            fail_msg("not valid: %s\nof %s", text, json_object_to_json_string(schema));
        json_object_put(v);
        free(text);
        whole++;
    }
    cake_grammar_free(g);
    return whole;
}

/* ---- known schemas ---- */

static const char *const good[] = {
    "true",
    "{}",
    "{\"type\":\"object\"}",
    "{\"type\":\"string\"}",
    "{\"type\":\"string\",\"minLength\":3,\"maxLength\":5}",
    "{\"type\":\"string\",\"minLength\":2}",
    "{\"type\":\"string\",\"maxLength\":0}",
    "{\"type\":\"integer\"}",
    "{\"type\":\"integer\",\"minimum\":-17,\"maximum\":1234}",
    "{\"type\":\"integer\",\"minimum\":95,\"maximum\":105}",
    "{\"type\":\"integer\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":2}",
    "{\"type\":\"integer\",\"minimum\":-20,\"maximum\":-7}",
    "{\"type\":\"integer\",\"minimum\":1.5,\"maximum\":3.5}",
    "{\"type\":\"integer\",\"minimum\":1000000}",
    "{\"type\":\"number\"}",
    "{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
    "{\"type\":\"number\",\"minimum\":-3,\"maximum\":7}",
    "{\"type\":\"number\",\"maximum\":-3}",
    "{\"type\":[\"string\",\"null\"]}",
    "{\"type\":\"boolean\",\"description\":\"x\",\"default\":true}",
    "{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":4}",
    "{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"maxItems\":1}",
    "{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":3}",
    "{\"type\":\"array\",\"maxItems\":0}",
    "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":"
    "false,"
    "\"minItems\":1}",
    "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"boolean\"}"
    "}",
    "{\"enum\":[\"a\",1,null,{\"k\":[true]},\"\\u00e9\\\"\\n\"]}",
    "{\"type\":\"integer\",\"enum\":[1,\"a\",2]}",
    "{\"const\":{\"a\":null}}",
    "{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"null\"}],\"default\":null}",
    "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"boolean\"}]}",
    "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"t\":{\"const\":\"a\"},\"n\":{\"type\":"
    "\"integer\"}},\"required\":[\"t\",\"n\"]},{\"type\":\"object\",\"properties\":{\"t\":{"
    "\"const\":"
    "\"b\"}},\"required\":[\"t\"]}]}",
    "{\"allOf\":[{\"$ref\":\"#/$defs/x\"}],\"$defs\":{\"x\":{\"type\":\"boolean\"}}}",
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":"
    "\"integer\"}},"
    "\"required\":[\"name\",\"age\"],\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":\"null\"},"
    "\"c\":{"
    "\"type\":\"null\"}},\"required\":[\"b\"]}",
    "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":true}}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":"
    "\"integer\"}},"
    "\"additionalProperties\":{\"type\":\"boolean\"}}",
    "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}",
    "{\"type\":\"object\",\"required\":[\"x\"]}",
    "{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"we\\\"ird\\n\\u00fc\":{\"type\":\"null\"}},"
    "\"required\":["
    "\"we\\\"ird\\n\\u00fc\"],\"additionalProperties\":true}",
    "{\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
    "\"next\":{"
    "\"anyOf\":[{\"$ref\":\"#/$defs/node\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}},"
    "\"$ref\":\"#/$defs/node\"}",
    "{\"type\":\"object\",\"properties\":{\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}}"
    ","
    "\"required\":[\"kids\"]}",
    "{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}-[0-9]{3,5}$\"}",
    "{\"type\":\"string\",\"pattern\":\"^(foo|ba+r)?(\\\\d\\\\w|\\\\.)*$\"}",
    "{\"type\":\"string\",\"pattern\":\"ab\"}",
    "{\"type\":\"string\",\"pattern\":\"^[^a-z\\\"]+$\"}",
    "{\"type\":\"string\",\"pattern\":\"^.[\\u00e0-\\u00ff\\\\\\\\\\\"]\\\\s$\"}",
    "{\"type\":\"string\",\"format\":\"date\"}",
    "{\"type\":\"string\",\"format\":\"date-time\"}",
    "{\"type\":\"string\",\"format\":\"uuid\"}",
    "{\"type\":\"string\",\"format\":\"ipv4\"}",
    "{\"type\":\"string\",\"format\":\"email\"}",
};

static void follows_schemas(void **state) {
    (void)state;
    size_t whole = 0, n = sizeof good / sizeof *good;
    for (size_t i = 0; i < n; i++) {
        json_object *s = json(good[i]);
        size_t got = check(s, 12, getenv("CAKE_TEST_SHOW") != NULL);
        if (got == 0) print_message("none came to an end: %s\n", good[i]);
        whole += got;
        json_object_put(s);
    }
    print_message("%zu of %zu answers came to an end\n", whole, 12 * n);
    assert_true(whole > 10 * n);
}

/* ---- random schemas ---- */

static json_object *random_schema(int depth);

static json_object *random_object(int depth) {
    json_object *o = json_object_new_object(), *props = json_object_new_object(),
                *required = json_object_new_array();
    uint32_t n = rnd(5);
    for (uint32_t i = 0; i < n; i++) {
        static const char *const names[] = {"a", "name", "n\"q", "a b", "z\xc3\xa9", "ab", "_"};
        const char *key = names[rnd(7)];
        if (has(props, key)) continue;
        json_object_object_add(props, key, random_schema(depth - 1));
        if (rnd(2)) json_object_array_add(required, json_object_new_string(key));
    }
    json_object_object_add(o, "type", json_object_new_string("object"));
    json_object_object_add(o, "properties", props);
    json_object_object_add(o, "required", required);
    switch (rnd(4)) {
    case 0: json_object_object_add(o, "additionalProperties", json_object_new_boolean(0)); break;
    case 1: json_object_object_add(o, "additionalProperties", json_object_new_boolean(1)); break;
    case 2: json_object_object_add(o, "additionalProperties", random_schema(depth - 1)); break;
    default: break;
    }
    return o;
}

static void add_int(json_object *o, const char *key, int64_t v) {
    json_object_object_add(o, key, json_object_new_int64(v));
}

static json_object *random_schema(int depth) {
    json_object *o = json_object_new_object(), *list;
    uint32_t kind = rnd(depth > 0 ? 10 : 5);
    int64_t lo;
    switch (kind) {
    case 0:
        json_object_object_add(o, "type", json_object_new_string("string"));
        lo = rnd(6);
        if (rnd(2)) add_int(o, "minLength", lo);
        if (rnd(2)) add_int(o, "maxLength", lo + rnd(6));
        return o;
    case 1:
        json_object_object_add(o, "type", json_object_new_string("integer"));
        lo = (int64_t)rnd(3000) - 1500;
        if (rnd(2)) add_int(o, rnd(2) ? "minimum" : "exclusiveMinimum", lo);
        if (rnd(2)) add_int(o, rnd(2) ? "maximum" : "exclusiveMaximum", lo + 2 + rnd(3000));
        return o;
    case 2:
        json_object_object_add(o, "type", json_object_new_string("number"));
        lo = (int64_t)rnd(30) - 15;
        if (rnd(2)) add_int(o, "minimum", lo);
        if (rnd(2)) add_int(o, "maximum", lo + rnd(30));
        return o;
    case 3:
        json_object_object_add(o, "type", json_object_new_string(rnd(2) ? "boolean" : "null"));
        return o;
    case 4:
        json_object_object_add(o, "enum", list = json_object_new_array());
        for (uint32_t i = rnd(3) + 1; i > 0; i--)
            json_object_array_add(list, rnd(2) ? json_object_new_int((int)rnd(100))
                                               : json_object_new_string("x\"\\\n\xc3\xa9"));
        return o;
    case 5:
        json_object_object_add(o, "anyOf", list = json_object_new_array());
        for (uint32_t i = rnd(3) + 1; i > 0; i--)
            json_object_array_add(list, random_schema(depth - 1));
        return o;
    case 6:
    case 7:
        json_object_object_add(o, "type", json_object_new_string("array"));
        lo = rnd(3);
        if (rnd(2)) add_int(o, "minItems", lo);
        if (rnd(2)) add_int(o, "maxItems", lo + rnd(4));
        if (rnd(3)) json_object_object_add(o, "items", random_schema(depth - 1));
        if (rnd(3) == 0) {
            json_object_object_add(o, "prefixItems", list = json_object_new_array());
            for (uint32_t i = rnd(3); i > 0; i--)
                json_object_array_add(list, random_schema(depth - 1));
        }
        return o;
    default: json_object_put(o); return random_object(depth);
    }
}

static void follows_random_schemas(void **state) {
    (void)state;
    size_t whole = 0, n = 0;
    const char *many = getenv("CAKE_TEST_MANY");
    for (uint32_t i = 0; i < (many ? (uint32_t)atoi(many) : 120); i++) {
        random_state = i;
        json_object *s = random_schema(3);
        whole += check(s, 3, false);
        n += 3;
        json_object_put(s);
    }
    print_message("%zu of %zu answers came to an end\n", whole, n);
    assert_true(2 * whole > n);
}

/* ---- refusals ---- */

static const struct {
    const char *schema, *word;
} bad[] = {
    {"false", "schema must be"},
    {"5", "schema must be"},
    {"[]", "schema must be"},
    {"{\"type\":\"date\"}", "'type'"},
    {"{\"type\":5}", "'type'"},
    {"{\"type\":[]}", "'type'"},
    {"{\"multipleOf\":3,\"type\":\"integer\"}", "multipleOf"},
    {"{\"not\":{}}", "'not'"},
    {"{\"if\":{}}", "'if'"},
    {"{\"type\":\"object\",\"patternProperties\":{}}", "patternProperties"},
    {"{\"type\":\"object\",\"minProperties\":1}", "minProperties"},
    {"{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems"},
    {"{\"type\":\"array\",\"contains\":{}}", "contains"},
    {"{\"type\":\"array\",\"items\":[{}]}", "items"},
    {"{\"type\":\"array\",\"minItems\":3,\"maxItems\":2}", "minItems"},
    {"{\"type\":\"array\",\"minItems\":-1}", "minItems"},
    {"{\"type\":\"array\",\"minItems\":99999}", "minItems"},
    {"{\"type\":\"string\",\"format\":\"iri\"}", "format"},
    {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"a{2000}\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"(a\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"a)\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"[z-a]\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"^a|b$\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"a^b\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"\\\\bword\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"\\\\1\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"*\"}", "pattern"},
    {"{\"type\":\"string\",\"pattern\":\"((a{1000}){1000}){1000}\"}", "large"},
    {"{\"type\":\"string\",\"pattern\":\"^a$\",\"maxLength\":3}", "maxLength"},
    {"{\"type\":\"string\",\"minLength\":9,\"maxLength\":3}", "minLength"},
    {"{\"type\":\"number\",\"exclusiveMinimum\":0}", "exclusiveMinimum"},
    {"{\"type\":\"number\",\"minimum\":0.5}", "minimum"},
    {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "bounds"},
    {"{\"type\":\"integer\",\"minimum\":\"5\"}", "minimum"},
    {"{\"enum\":[]}", "enum"},
    {"{\"enum\":5}", "enum"},
    {"{\"enum\":[\"a\"],\"minLength\":3}", "minLength"},
    {"{\"type\":\"string\",\"enum\":[1]}", "enum"},
    {"{\"anyOf\":[]}", "anyOf"},
    {"{\"anyOf\":[{}],\"type\":\"object\"}", "type"},
    {"{\"allOf\":[{},{}]}", "allOf"},
    {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "oneOf"},
    {"{\"oneOf\":[{\"type\":\"object\"},{\"type\":\"object\"}]}", "oneOf"},
    {"{\"$ref\":\"http://x/y\"}", "$ref"},
    {"{\"$ref\":\"#/nowhere\"}", "$ref"},
    {"{\"$ref\":5}", "$ref"},
    {"{\"$ref\":\"#\"}", "satisfy"},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
     "satisfy"},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"not\":{}}}}", "#/properties/a"},
    {"{\"type\":\"object\",\"properties\":[]}", "properties"},
    {"{\"type\":\"object\",\"required\":\"a\"}", "required"},
    {"{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", "'a'"},
    {"{\"type\":\"object\",\"additionalProperties\":5}", "additionalProperties"},
};

static void refuses_schemas(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_object *s = json(bad[i].schema);
        cake_grammar *g = NULL;
        cake_error err;
        if (compile(&g, s, &err) == CAKE_OK) fail_msg("accepted: %s", bad[i].schema);
        if (!strstr(err.msg, bad[i].word))
            fail_msg("says '%s', not '%s': %s", err.msg, bad[i].word, bad[i].schema);
        json_object_put(s);
    }
}

static void refuses_large_schemas(void **state) {
    (void)state;
    cake_grammar *g = NULL;
    cake_error err;
    json_object *s = json_object_new_object(), *props = json_object_new_object();
    json_object_object_add(s, "properties", props);
    for (int i = 0; i < 2500; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i);
        json_object_object_add(props, name, json("{\"type\":\"null\"}"));
    }
    assert_int_equal(compile(&g, s, &err), CAKE_ENOSPACE);
    json_object_put(s);
    /* many references, each to the next: quick all the same, whatever the verdict */
    s = json_object_new_object();
    json_object *defs = json_object_new_object();
    for (int i = 0; i < 480; i++) {
        char name[16], text[64];
        snprintf(name, sizeof name, "d%d", i);
        snprintf(text, sizeof text, "{\"anyOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"type\":\"null\"}]}",
                 (i + 1) % 480);
        json_object_object_add(defs, name, json(text));
    }
    json_object_object_add(s, "$defs", defs);
    json_object_object_add(s, "$ref", json_object_new_string("#/$defs/d0"));
    if (compile(&g, s, &err) == CAKE_OK) {
        cake_matcher *m = cake_matcher_new(g, trie);
        assert_non_null(cake_matcher_mask(m));
        cake_matcher_free(m);
        cake_grammar_free(g);
    }
    json_object_put(s);
}

/* The mask and the single question agree, in every state of a long answer. */
static void masks_agree(void **state) {
    (void)state;
    json_object *s =
        json("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{"
             "\"type\":\"array\",\"items\":{\"type\":\"number\"}}},\"required\":[\"a\","
             "\"b\"],\"additionalProperties\":true}");
    cake_grammar *g = NULL;
    cake_error err;
    assert_int_equal(compile(&g, s, &err), CAKE_OK);
    cake_matcher *m = cake_matcher_new(g, trie);
    random_state = 3;
    for (int step = 0; step < 300 && !cake_matcher_must_end(m); step++) {
        const uint32_t *mask = cake_matcher_mask(m);
        uint32_t allowed[4096], n = 0;
        for (uint32_t i = 0; i < n_vocab; i++) {
            bool bit = mask[i >> 5] >> (i & 31) & 1;
            assert_int_equal(bit, cake_matcher_takes(m, i));
            if (bit) allowed[n++] = i;
        }
        assert_true(n > 0);
        assert_true(cake_matcher_advance(m, allowed[rnd(n)]));
    }
    cake_matcher_free(m);
    cake_grammar_free(g);
    json_object_put(s);
}

/* Thinking before the answer: any text up to the first </think>. */
static void ends_at_markers(void **state) {
    (void)state;
    cake_grammar *g = cake_grammar_new();
    uint32_t root =
        cake_grammar_until(g, "</think>", cake_grammar_text(g, "{}", 2, CAKE_GRAMMAR_RETURN));
    cake_error err;
    assert_int_equal(cake_grammar_finish(g, root, trie->alphabet, &err), CAKE_OK);
    static const struct {
        const char *text;
        bool ends;
    } cases[] = {{"a <b </think>{}", true},
                 {"<</thin</think>{}", true},
                 {"</think>{}", true},
                 {"</think>", false},
                 {"{}", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cake_matcher *m = cake_matcher_new(g, trie);
        for (const char *p = cases[i].text; *p; p++) {
            uint32_t id = 0;
            for (uint32_t k = 0; k < trie->n; k++)
                if (trie->token[k].len == 1 && trie->token[k].bytes[0] == (uint8_t)*p)
                    id = trie->token[k].id;
            assert_true(cake_matcher_advance(m, id));
        }
        assert_int_equal(cake_matcher_must_end(m), cases[i].ends);
        cake_matcher_free(m);
    }
    cake_grammar_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_schemas), cmocka_unit_test(follows_random_schemas),
        cmocka_unit_test(refuses_schemas), cmocka_unit_test(refuses_large_schemas),
        cmocka_unit_test(masks_agree),     cmocka_unit_test(ends_at_markers),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
