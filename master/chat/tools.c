/* Forms of tool calls: see tools.h. */
#include "master/chat/tools.h"
#include "master/grammar/json_schema.h"

#include <stdlib.h>
#include <string.h>

const char *const cake_chat_markers[] = {
    "<think>",      "</think>", "<tool_call>",    "</tool_call>",
    "[TOOL_CALLS]", "[ARGS]",   "<|python_tag|>", NULL};

/* ---- which form ---- */

static const char probe_tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"probe_tool\",\"description\":\"d\","
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"probe_key\":{\"type\":\"string\","
    "\"description\":\"d\"}},\"required\":[\"probe_key\"]}}}]";
static const char probe_messages[] =
    "[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"\","
    "\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\",\"function\":{\"name\":"
    "\"probe_tool\",\"arguments\":{\"probe_key\":\"probe_value\"}}}]},{\"role\":\"tool\","
    "\"content\":\"r\",\"name\":\"probe_tool\",\"tool_call_id\":\"abcdefghi\"}]";

/* The last of what stands before `end` in text, or NULL. */
static const char *last(const char *text, const char *end, const char *word) {
    const char *found = NULL;
    size_t n = strlen(word);
    for (const char *p = text; p + n <= end; p++)
        if (memcmp(p, word, n) == 0) found = p;
    return found;
}

static cake_tool_format format_in(const char *text) {
    /* What lies between the opening of the call and its argument's value. */
    const char *value = strstr(text, "probe_value");
    if (!value) return CAKE_TOOLS_NONE;
    const char *name = last(text, value, "probe_tool");
    if (!name) return CAKE_TOOLS_NONE;
    const char *from = name - text > 60 ? name - 60 : text;
    if (last(from, value, "<function=") || last(from, value, "<parameter=") ||
        last(from, value, "<arg_key>"))
        return CAKE_TOOLS_NONE;
    if (last(from, name, "<tool_call>") && last(name, value, "\"arguments\""))
        return CAKE_TOOLS_HERMES;
    if (last(from, name, "[TOOL_CALLS]"))
        return last(name, value, "[ARGS]") ? CAKE_TOOLS_MISTRAL_ARGS : CAKE_TOOLS_MISTRAL;
    if (last(name, value, "\"parameters\"")) return CAKE_TOOLS_LLAMA3;
    return CAKE_TOOLS_NONE;
}

cake_tool_format cake_tool_format_of(const cake_chat_template *t) {
    cake_tool_format format = CAKE_TOOLS_NONE;
    if (!t) return format;
    json_object *tools = json_tokener_parse(probe_tools);
    for (int with_result = 1; with_result >= 0 && format == CAKE_TOOLS_NONE; with_result--) {
        json_object *messages = json_tokener_parse(probe_messages);
        if (!with_result) json_object_array_del_idx(messages, 2, 1);
        cake_chat_request q = {.messages = messages, .tools = tools};
        char *text = NULL;
        size_t len;
        if (cake_chat_template_apply(t, &q, &text, &len, NULL) == CAKE_OK) format = format_in(text);
        free(text);
        json_object_put(messages);
    }
    json_object_put(tools);
    return format;
}

cake_thinking cake_thinking_of(const cake_tokenizer *t, const char *prompt, size_t len) {
    while (len && strchr(" \n\t\r", prompt[len - 1])) len--;
    if (len >= 7 && memcmp(prompt + len - 7, "<think>", 7) == 0) return CAKE_THINK_OPEN;
    return cake_tokenizer_find(t, "<think>", 7) >= 0 ? CAKE_THINK_MAY : CAKE_THINK_NONE;
}

/* ---- grammars ---- */

typedef struct {
    cake_grammar *g;
    cake_schema_compiler *c;
    const cake_answer_grammar *q;
    int tool;
    cake_status st;
    cake_error *err;
} builder;

static uint32_t text(builder *b, const char *s, uint32_t next) {
    return cake_grammar_text(b->g, s, strlen(s), next);
}

static uint32_t space(builder *b, uint32_t next) {
    return cake_schema_space(b->c, next);
}

static json_object *member(json_object *o, const char *key) {
    json_object *v = NULL;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static bool is_object_schema(json_object *s) {
    json_object *t = member(s, "type");
    return json_object_is_type(t, json_type_string) &&
           strcmp(json_object_get_string(t), "object") == 0;
}

/* The arguments of tool i. */
static uint32_t arguments(builder *b, size_t i, uint32_t next) {
    json_object *f = member(json_object_array_get_idx(b->q->tools, i), "function");
    json_object *schema = member(f, "parameters");
    uint32_t entry;
    if (!schema || !(is_object_schema(schema) || b->q->strict[i]))
        return cake_schema_any_object(b->c, next);
    cake_error why;
    cake_status st = cake_schema_compile(b->c, schema, next, &entry, &why);
    if (st == CAKE_OK) return entry;
    if (!b->q->strict[i] && !b->g->full) return cake_schema_any_object(b->c, next);
    if (b->st == CAKE_OK) {
        b->tool = (int)i;
        b->st = cake_fail(b->err, st, "%s", why.msg);
    }
    return CAKE_GRAMMAR_FAIL;
}

/* One call of any tool that may be called. */
static uint32_t one_call(builder *b, uint32_t next) {
    const cake_answer_grammar *q = b->q;
    uint32_t parts = CAKE_GRAMMAR_FAIL;
    bool llama = q->format == CAKE_TOOLS_LLAMA3;
    for (size_t i = 0; i < json_object_array_length(q->tools) && b->st == CAKE_OK; i++) {
        json_object *name =
            member(member(json_object_array_get_idx(q->tools, i), "function"), "name");
        const char *s = json_object_get_string(name); /* needs no escapes: cake_api_tool_name_ok */
        if (q->chosen && strcmp(q->chosen, s) != 0) continue;
        uint32_t at;
        if (q->format == CAKE_TOOLS_MISTRAL_ARGS) {
            at = text(b, "[TOOL_CALLS]", text(b, s, text(b, "[ARGS]", arguments(b, i, next))));
        } else {
            at = arguments(b, i, text(b, "}", next));
            at = text(b, llama ? "\", \"parameters\": " : "\", \"arguments\": ", at);
            at = text(b, "{\"name\": \"", text(b, s, at));
        }
        parts = cake_grammar_split(b->g, parts, at);
    }
    return parts;
}

/* first (between rest)*, at most CAKE_CALLS_MAX in all, then next; all are calls of a rule. */
static uint32_t sequence(builder *b, uint32_t rule, const char *between, uint32_t next) {
    uint32_t more = next;
    for (int k = 1; k < CAKE_CALLS_MAX && !b->q->one_call; k++) {
        uint32_t again = cake_grammar_call(b->g, rule, more);
        again = *between == '\n' ? space(b, again) : text(b, between, again);
        more = cake_grammar_split(b->g, next, again);
    }
    return cake_grammar_call(b->g, rule, more);
}

static uint32_t calls(builder *b, uint32_t next) {
    uint32_t rule = cake_grammar_rule(b->g), entry;
    switch (b->q->format) {
    case CAKE_TOOLS_HERMES:
        entry = one_call(b, space(b, text(b, "</tool_call>", CAKE_GRAMMAR_RETURN)));
        b->g->rule[rule] = text(b, "<tool_call>", space(b, entry));
        return sequence(b, rule, "\n", next);
    case CAKE_TOOLS_MISTRAL:
        b->g->rule[rule] = one_call(b, CAKE_GRAMMAR_RETURN);
        return text(b, "[TOOL_CALLS]",
                    space(b, text(b, "[", sequence(b, rule, ", ", text(b, "]", next)))));
    case CAKE_TOOLS_MISTRAL_ARGS:
        b->g->rule[rule] = one_call(b, CAKE_GRAMMAR_RETURN);
        return sequence(b, rule, "", next);
    default:
        /* Llama 3 makes one call at a time. */
        return one_call(b, next);
    }
}

static uint32_t json_text(builder *b, uint32_t next) {
    if (!b->q->schema) return cake_schema_any_object(b->c, next);
    uint32_t entry = CAKE_GRAMMAR_FAIL;
    if (b->st == CAKE_OK) b->st = cake_schema_compile(b->c, b->q->schema, next, &entry, b->err);
    return entry;
}

static uint32_t thinking(builder *b, uint32_t body) {
    cake_grammar *g = b->g;
    uint32_t lead = cake_grammar_split(g, body, text(b, " ", body));
    if (b->q->thinking == CAKE_THINK_NONE) return lead;
    uint32_t one = cake_grammar_split(g, lead, text(b, "\n", body));
    uint32_t gap = cake_grammar_split(g, one, text(b, "\n\n", body));
    uint32_t inside = cake_grammar_until(g, "</think>", gap);
    if (b->q->thinking == CAKE_THINK_OPEN) return inside;
    return cake_grammar_split(g, lead, text(b, "<think>", inside));
}

cake_status cake_answer_grammar_new(cake_grammar **out, const cake_answer_grammar *q,
                                    const cake_token_trie *trie, int *tool, cake_error *err) {
    builder b = {.g = cake_grammar_new(), .q = q, .tool = -1, .err = err};
    b.c = cake_schema_compiler_new(b.g);
    uint32_t body = CAKE_GRAMMAR_FAIL;
    if (q->calls) body = calls(&b, CAKE_GRAMMAR_RETURN);
    if (q->text) body = cake_grammar_split(b.g, body, json_text(&b, CAKE_GRAMMAR_RETURN));
    uint32_t root = thinking(&b, body);
    if (b.st == CAKE_OK) b.st = cake_grammar_finish(b.g, root, trie->alphabet, err);
    cake_schema_compiler_free(b.c);
    if (b.st == CAKE_OK)
        *out = b.g;
    else
        cake_grammar_free(b.g);
    if (tool) *tool = b.tool;
    return b.st;
}
