/* Chat templates: golden renderings by Python's jinja2, limits, errors, and model folders. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/file.h"
#include "common/json.h"
#include "common/mem.h"
#include "master/template/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOW    1721995200 /* 2024-07-26 12:00:00 UTC, the clock of the golden files */
#define SHARED "../shared/data/templates/"

static json_object *member(json_object *o, const char *key) {
    json_object *v = NULL;
    if (o) json_object_object_get_ex(o, key, &v);
    return v;
}

static json_object *read_json(const char *path) {
    json_object *o = NULL;
    cake_error err;
    if (cake_json_read(path, 64 << 20, &o, &err) != CAKE_OK) fail_msg("%s", err.msg);
    return o;
}

/* Render source; compare with want (NULL: an error is wanted). Returns whether it is right. */
static bool check(const char *what, const char *source, size_t len, json_object *context,
                  json_object *want) {
    cake_template *t = NULL;
    cake_error err = {0};
    char *text = NULL;
    size_t n = 0;
    cake_status st = cake_template_parse(&t, source, len, "test", &err);
    if (st == CAKE_OK) st = cake_template_render(t, context, NOW, NULL, &text, &n, &err);
    bool right = !want ? st == CAKE_EINVAL || st == CAKE_EFORMAT || st == CAKE_EUNSUPPORTED
                       : st == CAKE_OK && n == (size_t)json_object_get_string_len(want) &&
                             memcmp(text, json_object_get_string(want), n) == 0;
    if (st != CAKE_OK && (!err.msg[0] || err.status != st)) right = false;
    if (!right)
        fprintf(stderr, "%s\n  template %.300s\n  wanted   %.500s\n  got      %.500s\n", what,
                source, want ? json_object_get_string(want) : "(an error)",
                st == CAKE_OK ? text : err.msg);
    free(text);
    cake_template_free(t);
    return right;
}

static void test_snippets(void **state) {
    (void)state;
    json_object *all = read_json("tests/vectors/templates/snippets.json"),
                *cases = member(all, "cases");
    size_t wrong = 0, n = json_object_array_length(cases);
    assert_true(n > 900);
    for (size_t i = 0; i < n; i++) {
        json_object *c = json_object_array_get_idx(cases, i), *t = member(c, "template");
        wrong += !check("snippet", json_object_get_string(t), (size_t)json_object_get_string_len(t),
                        member(all, "context"), member(c, "expected"));
    }
    json_object_put(all);
    assert_int_equal(wrong, 0);
}

static void test_real_templates(void **state) {
    (void)state;
    json_object *all = read_json("tests/vectors/templates/real.json"),
                *cases = member(all, "cases");
    size_t wrong = 0, n = json_object_array_length(cases);
    assert_int_equal(n, 25);
    for (size_t i = 0; i < n; i++) {
        json_object *c = json_object_array_get_idx(cases, i);
        json_object *t =
            member(member(member(all, "templates"), json_object_get_string(member(c, "template"))),
                   "source");
        wrong += !check(json_object_get_string(member(c, "template")), json_object_get_string(t),
                        (size_t)json_object_get_string_len(t), member(c, "context"),
                        member(c, "expected"));
    }
    json_object_put(all);
    assert_int_equal(wrong, 0);
}

/* ---- the large set, when it is there ---- */

static json_object *shared_or_skip(const char *name) {
    char *path = cake_path_join(SHARED, name);
    if (!cake_file_exists(path)) {
        printf("skip: %s is not here\n", path);
        free(path);
        skip();
    }
    json_object *o = read_json(path);
    free(path);
    return o;
}

static void test_shared_golden(void **state) {
    (void)state;
    json_object *all = shared_or_skip("jinja2-golden.json"), *cases = member(all, "cases");
    size_t wrong = 0, run = 0, absent = 0;
    for (size_t i = 0; i < json_object_array_length(cases); i++) {
        json_object *c = json_object_array_get_idx(cases, i), *config = NULL;
        const char *name = json_object_get_string(member(c, "template"));
        char *path = cake_path_join(SHARED, name), *text = NULL;
        size_t len = 0;
        if (!cake_file_exists(path)) {
            absent++;
            free(path);
            continue;
        }
        if (strstr(name, ".json")) {
            config = read_json(path);
            text = cake_strdup(json_object_get_string(member(config, "chat_template")));
            len = strlen(text);
        } else {
            assert_int_equal(cake_file_read(path, 1 << 20, &text, &len, NULL), CAKE_OK);
        }
        run++;
        wrong += !check(name, text, len, member(c, "context"), member(c, "expected"));
        json_object_put(config);
        free(text);
        free(path);
    }
    if (absent) printf("skip: %zu golden cases whose template is not here\n", absent);
    json_object_put(all);
    assert_true(run >= 100);
    assert_int_equal(wrong, 0);
}

/* json-c keeps object keys as C strings, so a key with a NUL inside is cut before we see it. */
static bool has_nul_key(json_object *c) {
    return strncmp(json_object_get_string(member(c, "name")), "TOJSON_ENSURE_ASCII", 19) == 0;
}

static void shared_cases(const char *file, size_t at_least) {
    json_object *all = shared_or_skip(file);
    size_t wrong = 0, run = 0;
    json_object *fixed = json_tokener_parse(
        "{\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant\"},"
        "{\"role\":\"user\",\"content\":\"Hello\"},{\"role\":\"assistant\",\"content\":\"Hi "
        "there\"},"
        "{\"role\":\"user\",\"content\":\"Who are you\"},"
        "{\"role\":\"assistant\",\"content\":\"   I am an assistant   \"},"
        "{\"role\":\"user\",\"content\":\"Another question\"}],\"add_generation_prompt\":true}");
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        json_object *c = json_object_array_get_idx(all, i), *t = member(c, "template");
        json_object *context = member(c, "context");
        if (has_nul_key(c)) continue;
        if (!context) { /* llama.cpp's cases share one conversation */
            context = fixed;
            json_object_object_add(fixed, "bos_token", json_object_get(member(c, "bos_token")));
            json_object_object_add(fixed, "eos_token", json_object_get(member(c, "eos_token")));
        }
        run++;
        wrong += !check(json_object_get_string(member(c, "name")), json_object_get_string(t),
                        (size_t)json_object_get_string_len(t), context, member(c, "jinja2_output"));
    }
    json_object_put(fixed);
    json_object_put(all);
    assert_true(run >= at_least);
    assert_int_equal(wrong, 0);
}

static void test_shared_chat_cases(void **state) {
    (void)state;
    shared_cases("hf-jinja-chat-cases.json", 50);
}
static void test_shared_unit_cases(void **state) {
    (void)state;
    shared_cases("hf-jinja-unit-cases.json", 150);
}
static void test_shared_llama_cpp_cases(void **state) {
    (void)state;
    shared_cases("llama.cpp-test-chat-template-cases.json", 30);
}

/* ---- errors and limits ---- */

static cake_status render(const char *source, const cake_template_limits *limits, char **text,
                          cake_error *err) {
    cake_template *t = NULL;
    size_t n;
    *text = NULL;
    memset(err, 0, sizeof *err);
    cake_status st = cake_template_parse(&t, source, strlen(source), "test", err);
    if (st == CAKE_OK) st = cake_template_render(t, NULL, NOW, limits, text, &n, err);
    cake_template_free(t);
    return st;
}

static void test_error_lines(void **state) {
    (void)state;
    static const struct {
        const char *source, *message;
    } cases[] = {
        {"a\nb\n{{ x.y }}", "test:3: 'x' is undefined"},
        {"\n\n{% if %}", "test:3: "},
        {"{{ 1 }}\n{{ raise_exception('stop here') }}", "test:2: the template refuses: stop here"},
        {"{% macro m(x) %}\n{{ x.y.z }}\n{% endmacro %}\n\n{{ m(none) }}",
         "test:2: 'None object' has no attribute 'y'"},
        {"{% for i in [1, 2] %}\n  {{ [\n1][i].a }}{% endfor %}", "test:3: list object has no"},
        {"{{ 'a'\n~ 1 +\n'b' }}", "test:2: cannot apply '+' to str and str"},
        {"x\n{% for i in [1] %}\ny", "test:3: the block begun at line 2"},
        {"{% include 'x' %}", "test:1: {% include %} is not supported"},
        {"{{ 'x'|nope }}", "test:1: no filter is named 'nope'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text;
        cake_error err;
        cake_status st = render(cases[i].source, NULL, &text, &err);
        if (i == 5) { /* "~" binds tighter than "+": this one is fine */
            assert_int_equal(st, CAKE_OK);
            assert_string_equal(text, "a1b");
            free(text);
            continue;
        }
        assert_int_not_equal(st, CAKE_OK);
        assert_null(text);
        if (strncmp(err.msg, cases[i].message, strlen(cases[i].message)) != 0)
            fail_msg("got \"%s\", wanted \"%s\"", err.msg, cases[i].message);
    }
}

static void test_limits(void **state) {
    (void)state;
    static const struct {
        const char *source;
        cake_template_limits limit;
        const char *message;
    } cases[] = {
        {"{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
         {10000, 1000, 100 << 20, 100},
         "steps"},
        {"{% for i in range(1000) %}12345678{% endfor %}",
         {100000, 1000, 10 << 20, 100},
         "text grows"},
        {"{% set ns = namespace(s='12345678') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s "
         "%}{% "
         "endfor %}",
         {1000000, 1000, 1 << 20, 100},
         "memory"},
        {"{{ 'x' * 100000000000 }}", {1000000, 1000, 1 << 20, 100}, "needs more than"},
        {"{{ 'x'.center(100000000000) }}", {1000000, 1000, 1 << 20, 100}, "needs more than"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
         {1000000, 1000, 10 << 20, 100},
         "deeper"},
        {"{% set l = [] %}{{ l.append(l) }}{{ l }}", {1000000, 1000, 10 << 20, 100}, "deeper"},
        {"{% set l = [] %}{{ l.append(l) }}{{ l|tojson }}",
         {1000000, 1000, 10 << 20, 100},
         "deeper"},
        {"{% set l = [1] %}{% for x in l %}{{ l.append(x) }}{% endfor %}",
         {100000, 1 << 20, 10 << 20, 100},
         "steps"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text;
        cake_error err;
        cake_status st = render(cases[i].source, &cases[i].limit, &text, &err);
        if (st != CAKE_ENOSPACE || !strstr(err.msg, cases[i].message))
            fail_msg("case %zu: %d \"%s\", wanted \"%s\"", i, st, err.msg, cases[i].message);
    }
}

/* Deep nesting in the source is refused by the parser, and the default limits hold without any
 * help. */
static void test_hostile_sources(void **state) {
    (void)state;
    static const char *const open[] = {"(", "[", "{1:", "not ", "-", "1 if 1 else ", "x[", "f("};
    enum { N = 100000 };
    char *s = malloc(N * 16 + 64);
    for (size_t k = 0; k < sizeof open / sizeof *open; k++) {
        strcpy(s, "{{ ");
        size_t at = 3, n = strlen(open[k]);
        for (int i = 0; i < N; i++, at += n) memcpy(s + at, open[k], n);
        strcpy(s + at, "1 }}");
        char *text;
        cake_error err;
        assert_int_equal(render(s, NULL, &text, &err), CAKE_EFORMAT);
    }
    /* flat but long: an operator chain is a deep tree */
    strcpy(s, "{{ 1");
    for (int i = 0; i < N; i++) strcpy(s + 4 + 2 * i, "+1");
    strcat(s, " }}");
    char *text;
    cake_error err;
    assert_int_equal(render(s, NULL, &text, &err), CAKE_ENOSPACE);
    size_t at = 0;
    for (int i = 0; i < 20000; i++, at += 10) memcpy(s + at, "{% if 1 %}", 11);
    assert_int_equal(render(s, NULL, &text, &err), CAKE_EFORMAT);
    free(s);
    assert_int_equal(
        render("{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(1) }}", NULL, &text, &err),
        CAKE_ENOSPACE);
    assert_int_equal(
        render("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% "
               "endfor %}",
               NULL, &text, &err),
        CAKE_ENOSPACE);
    cake_template *t;
    assert_int_equal(cake_template_parse(&t, "x", (size_t)1 << 30, "big", &err), CAKE_EFORMAT);
}

static void test_nul_and_invalid_utf8(void **state) {
    (void)state;
    json_object *c = json_object_new_object();
    json_object_object_add(c, "s", json_object_new_string_len("a\0b\xff\xc3", 5));
    static const char source[] =
        "{{ s|length }}{{ s|upper }}{{ s[3:] }}{{ s.split('b')[1]|length }}";
    cake_template *t;
    char *text;
    size_t n;
    cake_error err;
    assert_int_equal(cake_template_parse(&t, source, sizeof source - 1, "t", &err), CAKE_OK);
    assert_int_equal(cake_template_render(t, c, 0, NULL, &text, &n, &err), CAKE_OK);
    assert_int_equal(n, 9);
    assert_memory_equal(text,
                        "5A\0B\xff\xc3\xff\xc3"
                        "2",
                        10);
    free(text);
    cake_template_free(t);
    json_object_put(c);
}

/* ---- model folders ---- */

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cake-template-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static void put(const char *name, const char *text) {
    char *path = cake_path_join(folder, name);
    cake_error err;
    if (cake_file_write(path, text, strlen(text), 0644, &err) != CAKE_OK) fail_msg("%s", err.msg);
    free(path);
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const names[] = {"tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "additional_chat_templates/tool_use.jinja",
                                        "additional_chat_templates"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = cake_path_join(folder, names[i]);
        if (unlink(path) != 0) rmdir(path);
        free(path);
    }
    return rmdir(folder);
}

static void expect_apply(const cake_chat_request *q, const char *want) {
    cake_chat_template *t;
    cake_error err;
    char *text;
    size_t n;
    if (cake_chat_template_open(&t, folder, &err) != CAKE_OK) fail_msg("%s", err.msg);
    if (cake_chat_template_apply(t, q, &text, &n, &err) != CAKE_OK) fail_msg("%s", err.msg);
    assert_string_equal(text, want);
    assert_int_equal(n, strlen(want));
    free(text);
    cake_chat_template_free(t);
}

static void test_model_folder(void **state) {
    (void)state;
    cake_chat_template *t;
    cake_error err;
    json_object *messages = json_tokener_parse("[{\"role\":\"user\",\"content\":\"hi\"}]");
    json_object *tools = json_tokener_parse("[{\"name\":\"f\"}]");
    json_object *extra =
        json_tokener_parse("{\"mode\":\"x\",\"messages\":[],\"bos_token\":\"<o>\"}");
    cake_chat_request q = {.messages = messages, .now_unix = NOW};

    assert_int_equal(cake_chat_template_open(&t, folder, &err), CAKE_ENOTFOUND);
    put("tokenizer_config.json",
        "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\"}");
    assert_int_equal(cake_chat_template_open(&t, folder, &err), CAKE_ENOTFOUND);
    put("tokenizer_config.json",
        "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": null, \"chat_template\": "
        "\"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ add_generation_prompt }}"
        "{{ tools is none }}{{ mode }}{{ unk_token is defined }}\"}");
    put("special_tokens_map.json", "{\"eos_token\": \"</s>\", \"bos_token\": \"no\"}");
    expect_apply(&q, "<s>hi</s>FalseTrueFalse");
    q.add_generation_prompt = true;
    q.extra_kwargs = extra; /* may add and override, but not the conversation itself */
    expect_apply(&q, "<o>hi</s>TrueTruexFalse");
    q.extra_kwargs = NULL;

    put("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\", \"template\": "
                                 "\"plain\"}, {\"name\": \"rag\", "
                                 "\"template\": \"r\"}, {\"name\": \"tool_use\", \"template\": "
                                 "\"tools {{ tools|length }}\"}]}");
    expect_apply(&q, "plain");
    q.tools = tools;
    expect_apply(&q, "tools 1");

    put("chat_template.json", "{\"chat_template\": \"own file\"}");
    expect_apply(&q, "own file");
    put("chat_template.jinja", "{{ strftime_now('%Y') }} {{ tools|tojson }}\n");
    expect_apply(&q, "2024 [{\"name\": \"f\"}]");
    char *dir = cake_path_join(folder, "additional_chat_templates");
    assert_int_equal(mkdir(dir, 0755), 0);
    free(dir);
    put("additional_chat_templates/tool_use.jinja", "with tools");
    expect_apply(&q, "with tools");
    q.tools = NULL;
    expect_apply(&q, "2024 null");

    put("chat_template.jinja", "{% if %}");
    assert_int_equal(cake_chat_template_open(&t, folder, &err), CAKE_EFORMAT);
    assert_non_null(strstr(err.msg, "chat_template.jinja:1:"));
    q.messages = extra;
    put("chat_template.jinja", "x");
    assert_int_equal(cake_chat_template_open(&t, folder, &err), CAKE_OK);
    char *text;
    size_t n;
    assert_int_equal(cake_chat_template_apply(t, &q, &text, &n, &err), CAKE_EINVAL);
    assert_string_equal(cake_chat_template_eos(t), "</s>");
    assert_string_equal(cake_chat_template_bos(t), "no");
    cake_chat_template_free(t);
    json_object_put(messages);
    json_object_put(tools);
    json_object_put(extra);
}

static void test_from_memory(void **state) {
    (void)state;
    cake_chat_template *t;
    cake_error err;
    static const char source[] =
        "{{ bos_token }}{{ messages|length }}{{ strftime_now('%Y') > '2020' }}";
    assert_int_equal(cake_chat_template_new(&t, source, sizeof source - 1, "<b>", NULL, &err),
                     CAKE_OK);
    assert_string_equal(cake_chat_template_bos(t), "<b>");
    assert_string_equal(cake_chat_template_eos(t), "");
    cake_chat_request q = {.messages = json_object_new_array()};
    char *text;
    size_t n;
    assert_int_equal(cake_chat_template_apply(t, &q, &text, &n, &err), CAKE_OK);
    assert_string_equal(text, "<b>0True");
    free(text);
    json_object_put(q.messages);
    cake_chat_template_free(t);
    assert_int_equal(cake_chat_template_new(&t, "{{", 2, NULL, NULL, &err), CAKE_EFORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snippets),
        cmocka_unit_test(test_real_templates),
        cmocka_unit_test(test_shared_golden),
        cmocka_unit_test(test_shared_chat_cases),
        cmocka_unit_test(test_shared_unit_cases),
        cmocka_unit_test(test_shared_llama_cpp_cases),
        cmocka_unit_test(test_error_lines),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_hostile_sources),
        cmocka_unit_test(test_nul_and_invalid_utf8),
        cmocka_unit_test_setup_teardown(test_model_folder, make_folder, remove_folder),
        cmocka_unit_test(test_from_memory),
    };
    return cmocka_run_group_tests_name("template", tests, NULL, NULL);
}
