/* Answers taken apart: the parts are the same however the text is cut; forms of tool calls are
 * recognised in templates; grammars of required calls give what the parser reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/file.h"
#include "common/mem.h"
#include "master/chat/tools.h"
#include "master/grammar/matcher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parts as one line: T(text) R(thinking) C(name){arguments}. */
typedef struct {
    char text[4096];
    size_t n;
    int last;
} log_of;

static void on_part(void *arg, cake_part_kind kind, const char *s, size_t len) {
    log_of *l = arg;
    static const char *const open[] = {"R(", "T(", "C(", "A("};
    assert_true(len > 0);
    if (l->last != (int)kind || kind == CAKE_PART_CALL)
        l->n += (size_t)snprintf(l->text + l->n, sizeof l->text - l->n, "%s%s",
                                 l->last >= 0 ? ")" : "", open[kind]);
    l->last = (int)kind;
    memcpy(l->text + l->n, s, len);
    l->n += len;
    l->text[l->n] = 0;
}

static const char *const known[] = {"f", "get_weather"};

static void run(const cake_answer_config *c, const char *text, size_t step, log_of *l) {
    *l = (log_of){.last = -1};
    cake_answer *a = cake_answer_new(c, on_part, l);
    for (size_t i = 0, n = strlen(text); i < n; i += step)
        cake_answer_push(a, text + i, n - i < step ? n - i : step);
    cake_answer_end(a);
    cake_answer_free(a);
    if (l->n) l->text[l->n++] = ')';
    l->text[l->n] = 0;
}

static const struct {
    cake_tool_format format;
    bool thinking, one_call;
    const char *text, *parts;
} cases[] = {
    {CAKE_TOOLS_NONE, false, false, "Hello there", "T(Hello there)"},
    {CAKE_TOOLS_NONE, false, false, "", ""},
    {CAKE_TOOLS_NONE, false, false, "  <thin air", "T(  <thin air)"},
    {CAKE_TOOLS_NONE, false, false, "<think>\nab\n</think>\n\nHi", "R(\nab)T(Hi)"},
    {CAKE_TOOLS_NONE, false, false, "\n<think></think>Hi", "T(Hi)"},
    {CAKE_TOOLS_NONE, true, false, "so <b> </think> x", "R(so <b>)T(x)"},
    {CAKE_TOOLS_NONE, true, false, "never ends </thi", "R(never ends </thi)"},
    {CAKE_TOOLS_NONE, false, false, "a <think>b</think>", "T(a <think>b</think>)"},
    {CAKE_TOOLS_NONE, false, false, "<tool_call>{}</tool_call>", "T(<tool_call>{}</tool_call>)"},
    {CAKE_TOOLS_HERMES, false, false,
     "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\\\"\"]}}\n</tool_call>",
     "C(f)A({\"a\": [1, \"}\\\"\"]})"},
    {CAKE_TOOLS_HERMES, false, false,
     "Let me see. \n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{"
     "\"arguments\":{\"x\":1},\"name\":\"g\"}</tool_call>",
     "T(Let me see.)C(f)A({})C(g)A({\"x\":1})"},
    {CAKE_TOOLS_HERMES, false, true,
     "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"g\","
     "\"arguments\":{}}</tool_call>",
     "C(f)A({})"},
    {CAKE_TOOLS_HERMES, false, false, "<think>hm</think>\n<tool_call>{\"name\":\"f\"}</tool_call>",
     "R(hm)C(f)A({})"},
    {CAKE_TOOLS_HERMES, false, false,
     "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>", "C(f)A({\"a\":1})"},
    {CAKE_TOOLS_HERMES, false, false,
     "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":", "C(f)A({\"a\":)"},
    {CAKE_TOOLS_HERMES, false, false, "<tool_call>oops</tool_call>",
     "T(<tool_call>oops</tool_call>)"},
    {CAKE_TOOLS_HERMES, false, false, "<tool_call>{\"nam", "T(<tool_call>{\"nam)"},
    {CAKE_TOOLS_HERMES, false, false, "x <tool_cal", "T(x <tool_cal)"},
    {CAKE_TOOLS_HERMES, false, false,
     "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> and so", "C(f)A({})T(and so)"},
    {CAKE_TOOLS_HERMES, false, false, "{\"name\":\"f\",\"parameters\":{}}",
     "T({\"name\":\"f\",\"parameters\":{}})"},
    {CAKE_TOOLS_LLAMA3, false, false, "{\"name\": \"f\", \"parameters\": {\"a\": \"b\"}}",
     "C(f)A({\"a\": \"b\"})"},
    {CAKE_TOOLS_LLAMA3, false, false,
     "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": \"get_weather\", "
     "\"parameters\": {\"k\": null}}",
     "C(f)A({})C(get_weather)A({\"k\": null})"},
    {CAKE_TOOLS_LLAMA3, false, false, "<|python_tag|>{\"name\": \"brave\", \"parameters\": {}}",
     "C(brave)A({})"},
    {CAKE_TOOLS_LLAMA3, false, false, "{\"name\": \"Bob\", \"parameters\": {}}",
     "T({\"name\": \"Bob\", \"parameters\": {}})"},
    {CAKE_TOOLS_LLAMA3, false, false, "{\"name\": \"f\", \"age\": 3}",
     "T({\"name\": \"f\", \"age\": 3})"},
    {CAKE_TOOLS_LLAMA3, false, false, "See {\"name\": \"f\", \"parameters\": {}}",
     "T(See {\"name\": \"f\", \"parameters\": {}})"},
    {CAKE_TOOLS_MISTRAL, false, false,
     "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"123456789\"}, "
     "{\"name\": "
     "\"g\", \"arguments\": {}}]",
     "C(f)A({\"a\": 1})C(g)A({})"},
    {CAKE_TOOLS_MISTRAL, false, false, "I will.[TOOL_CALLS]f[ARGS]{\"a\": {\"b\": 2}}",
     "T(I will.)C(f)A({\"a\": {\"b\": 2}})"},
    {CAKE_TOOLS_MISTRAL_ARGS, false, false,
     "[TOOL_CALLS]f[CALL_ID]abc[ARGS]{}[TOOL_CALLS]g{\"x\": \"[TOOL_CALLS]\"}",
     "C(f)A({})C(g)A({\"x\": \"[TOOL_CALLS]\"})"},
    {CAKE_TOOLS_MISTRAL, false, false, "[TOOL_CALLS] nothing", "T([TOOL_CALLS] nothing)"},
};

static void takes_answers_apart(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cake_answer_config c = {.thinks = true,
                                .thinking = cases[i].thinking,
                                .format = cases[i].format,
                                .tools = known,
                                .n_tools = 2,
                                .one_call = cases[i].one_call};
        for (size_t step = 1; step < 40; step++) {
            log_of l;
            run(&c, cases[i].text, step, &l);
            if (strcmp(l.text, cases[i].parts) != 0)
                fail_msg("%s\nby %zu: %s\nnot    %s", cases[i].text, step, l.text, cases[i].parts);
        }
    }
}

/* ---- templates ---- */

#define CALLS(before, open, close)                                                                 \
    "{% for m in messages %}{% if m.tool_calls %}" before "{% for c in m.tool_calls %}" open       \
    "{{ c.function.name }}" close "{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}"

static void recognises_forms(void **state) {
    (void)state;
    static const struct {
        const char *source;
        cake_tool_format format;
    } templates[] = {
        {"{% for m in messages %}{{ m.content }}{% endfor %}", CAKE_TOOLS_NONE},
        {CALLS("", "<tool_call>\n{\"name\": \"",
               "\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>"),
         CAKE_TOOLS_HERMES},
        {CALLS("", "{\"name\": \"", "\", \"parameters\": {{ c.function.arguments | tojson }}}"),
         CAKE_TOOLS_LLAMA3},
        {CALLS("[TOOL_CALLS][", "{\"name\": \"",
               "\", \"arguments\": {{ c.function.arguments | tojson }}}"),
         CAKE_TOOLS_MISTRAL},
        {CALLS("", "[TOOL_CALLS]", "[ARGS]{{ c.function.arguments | tojson }}"),
         CAKE_TOOLS_MISTRAL_ARGS},
        {CALLS("", "<tool_call>\n<function=",
               ">{% for k in c.function.arguments %}<parameter={{ k }}>"
               "{{ c.function.arguments[k] }}</parameter>{% endfor %}</function></tool_call>"),
         CAKE_TOOLS_NONE},
    };
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        cake_chat_template *t;
        cake_error err;
        assert_int_equal(cake_chat_template_new(&t, templates[i].source,
                                                strlen(templates[i].source), "<s>", "</s>", &err),
                         CAKE_OK);
        if (cake_tool_format_of(t) != templates[i].format)
            fail_msg("%d: %s", (int)cake_tool_format_of(t), templates[i].source);
        cake_chat_template_free(t);
    }
}

static void recognises_real_templates(void **state) {
    (void)state;
    static const struct {
        const char *name;
        cake_tool_format format;
    } files[] = {{"Qwen-Qwen2.5-7B-Instruct", CAKE_TOOLS_HERMES},
                 {"Qwen-QwQ-32B", CAKE_TOOLS_HERMES},
                 {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", CAKE_TOOLS_HERMES},
                 {"meta-llama-Llama-3.1-8B-Instruct", CAKE_TOOLS_LLAMA3},
                 {"meta-llama-Llama-3.2-3B-Instruct", CAKE_TOOLS_LLAMA3},
                 {"unsloth-mistral-Devstral-Small-2507", CAKE_TOOLS_MISTRAL_ARGS},
                 {"mistralai-Ministral-3-14B-Reasoning-2512", CAKE_TOOLS_MISTRAL_ARGS},
                 {"google-gemma-2-2b-it", CAKE_TOOLS_NONE},
                 {"Qwen3-Coder", CAKE_TOOLS_NONE}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[200], *text;
        size_t len;
        snprintf(path, sizeof path, "../shared/data/templates/llama.cpp/%s.jinja", files[i].name);
        if (!cake_file_exists(path)) {
            print_message("skip: %s is missing\n", path);
            skip();
        }
        cake_chat_template *t;
        cake_error err;
        assert_int_equal(cake_file_read(path, 1 << 20, &text, &len, &err), CAKE_OK);
        if (cake_chat_template_new(&t, text, len, "<s>", "</s>", &err) != CAKE_OK)
            fail_msg("%s: %s", path, err.msg);
        if (cake_tool_format_of(t) != files[i].format)
            fail_msg("%s: %d", path, (int)cake_tool_format_of(t));
        cake_chat_template_free(t);
        free(text);
    }
}

/* ---- required calls ---- */

static void calls_fit_the_parser(void **state) {
    (void)state;
    cake_tokenizer *tokenizer;
    cake_error err;
    assert_int_equal(cake_tokenizer_open(&tokenizer, "tests/models/stories260K-hf", &err), CAKE_OK);
    cake_token_trie *trie = cake_token_trie_new(tokenizer, cake_tokenizer_vocab_size(tokenizer));
    json_object *tools = json_tokener_parse(
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","
        "\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]}}},{\"type\":"
        "\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\","
        "\"properties\":{\"not\":{\"not\":{}}}}}}]");
    bool strict[] = {true, false};
    uint64_t seed = 5;
    for (int format = CAKE_TOOLS_HERMES; format <= CAKE_TOOLS_MISTRAL_ARGS; format++)
        for (int k = 0; k < 40; k++) {
            cake_answer_grammar q = {.format = (cake_tool_format)format,
                                     .tools = tools,
                                     .strict = strict,
                                     .chosen = k % 2 ? "f" : NULL,
                                     .calls = true,
                                     .one_call = k % 3 == 0,
                                     .thinking = k % 4 ? CAKE_THINK_NONE : CAKE_THINK_OPEN};
            cake_grammar *g = NULL;
            assert_int_equal(cake_answer_grammar_new(&g, &q, trie, NULL, &err), CAKE_OK);
            cake_matcher *m = cake_matcher_new(g, trie);
            cake_answer_config c = {.thinks = true,
                                    .thinking = q.thinking == CAKE_THINK_OPEN,
                                    .format = q.format,
                                    .tools = known,
                                    .n_tools = 2};
            log_of l = {.last = -1};
            cake_answer *a = cake_answer_new(&c, on_part, &l);
            bool ended = false;
            for (int step = 0; step < 900 && !ended && l.n < 3000; step++) {
                const uint32_t *mask = cake_matcher_mask(m);
                uint32_t allowed[1024], n = 0;
                for (uint32_t i = 0; i < trie->n_vocab; i++)
                    if (mask[i >> 5] >> (i & 31) & 1) allowed[n++] = i;
                ended = n == 0 || cake_matcher_may_end(m);
                if (ended) break;
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                uint32_t id = allowed[(seed >> 33) % n];
                assert_true(cake_matcher_advance(m, id));
                size_t len;
                const uint8_t *b = cake_tokenizer_token_bytes(tokenizer, id, &len);
                cake_answer_push(a, (const char *)b, len);
            }
            cake_answer_end(a);
            if (ended && (cake_answer_n_calls(a) == 0 || strstr(l.text, "T(")))
                fail_msg("format %d: %s", format, l.text);
            cake_answer_free(a);
            cake_matcher_free(m);
            cake_grammar_free(g);
        }
    strict[1] = true;
    cake_grammar *g = NULL;
    int tool = -1;
    cake_answer_grammar q = {
        .format = CAKE_TOOLS_HERMES, .tools = tools, .strict = strict, .calls = true};
    assert_int_equal(cake_answer_grammar_new(&g, &q, trie, &tool, &err), CAKE_EUNSUPPORTED);
    assert_int_equal(tool, 1);
    json_object_put(tools);
    cake_token_trie_free(trie);
    cake_tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_answers_apart),
        cmocka_unit_test(recognises_forms),
        cmocka_unit_test(recognises_real_templates),
        cmocka_unit_test(calls_fit_the_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
