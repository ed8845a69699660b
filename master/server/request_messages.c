/* Bodies of /v1/messages, Anthropic's form, brought into that of chats: see fields.h. */
#include "common/mem.h"
#include "master/server/fields.h"
#include "master/server/put.h"
#include "master/server/tools_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A string member of a block. */
static bool text_of(json_object *block, const char *key, const char *param, json_object **out,
                    cake_api_error *e) {
    const char *s;
    size_t len;
    json_object *v = cake_field(block, key);
    if (!v) return cake_api_invalid(e, param, "'%s' has no '%s'", param, key);
    if (!cake_field_string_of(v, param, CAKE_API_BODY_MAX, &s, &len, e)) return false;
    *out = v;
    return true;
}

/* What a message consists of so far. */
typedef struct {
    json_object *text, *thinking, *calls; /* owned; NULL: none */
} parts;

static void add_text(json_object **to, json_object *more) {
    if (!*to) {
        *to = json_object_get(more);
        return;
    }
    size_t a = (size_t)json_object_get_string_len(*to),
           b = (size_t)json_object_get_string_len(more);
    char *s = cake_malloc(a + b + 1);
    memcpy(s, json_object_get_string(*to), a);
    memcpy(s + a, json_object_get_string(more), b);
    json_object_put(*to);
    *to = json_object_new_string_len(s, (int)(a + b));
    free(s);
}

static void flush(cake_api_request *r, const char *role, parts *p) {
    if (p->text || p->thinking || p->calls) {
        json_object *m = cake_api_new_message(r, role);
        put(m, "content", p->text ? p->text : json_object_new_string(""));
        if (p->thinking) put(m, "reasoning_content", p->thinking);
        if (p->calls) put(m, "tool_calls", p->calls);
    }
    *p = (parts){0};
}

/* The result of a call is a message of its own. */
static bool add_result(cake_api_request *r, json_object *b, const char *param, cake_api_error *e) {
    json_object *id = NULL, *content = cake_field(b, "content"), *text = NULL;
    if (!text_of(b, "tool_use_id", param, &id, e)) return false;
    if (content && !cake_api_get_text(content, param, &text, e)) return false;
    json_object *m = cake_api_new_message(r, "tool");
    put(m, "tool_call_id", json_object_get(id));
    put(m, "content", text ? text : json_object_new_string(""));
    return true;
}

static bool add_block(cake_api_request *r, bool assistant, json_object *b, const char *param,
                      parts *p, cake_api_error *e) {
    json_object *type = NULL, *v = NULL, *name = NULL;
    if (!json_object_is_type(b, json_type_object) ||
        !json_object_is_type(type = cake_field(b, "type"), json_type_string))
        return cake_api_invalid(e, param, "'%s' must be an object with a 'type'", param);
    const char *t = json_object_get_string(type);
    if (strcmp(t, "text") == 0) {
        if (!text_of(b, "text", param, &v, e)) return false;
        add_text(&p->text, v);
    } else if (assistant && strcmp(t, "thinking") == 0) {
        if (!text_of(b, "thinking", param, &v, e)) return false;
        add_text(&p->thinking, v);
    } else if (assistant && strcmp(t, "redacted_thinking") == 0) {
        /* nobody here could read it */
    } else if (assistant && strcmp(t, "tool_use") == 0) {
        if (!text_of(b, "id", param, &v, e) || !text_of(b, "name", param, &name, e)) return false;
        if (!cake_api_tool_name_ok(json_object_get_string(name)))
            return cake_api_invalid(e, param, "'%s': this is no name of a tool", param);
        json_object *input = cake_field(b, "input");
        if (!json_object_is_type(input, json_type_object))
            return cake_api_invalid(e, param, "'%s' has no 'input' (an object)", param);
        if (!p->calls) p->calls = json_object_new_array();
        json_object_array_add(p->calls, cake_api_tool_call(json_object_get_string(v),
                                                           json_object_get_string(name), input));
    } else if (!assistant && strcmp(t, "tool_result") == 0) {
        flush(r, "user", p);
        return add_result(r, b, param, e);
    } else {
        return cake_api_fail(e, 400, "invalid_request_error", "unsupported_content", param,
                             "'%s': blocks of type '%.40s' are not supported here", param, t);
    }
    return true;
}

static bool add_message(cake_api_request *r, json_object *m, size_t i, cake_api_error *e) {
    char param[64];
    snprintf(param, sizeof param, "messages[%zu]", i);
    json_object *role = NULL;
    if (!json_object_is_type(m, json_type_object))
        return cake_api_invalid(e, param, "'%s' must be an object", param);
    snprintf(param, sizeof param, "messages[%zu].role", i);
    if (!json_object_is_type(role = cake_field(m, "role"), json_type_string) ||
        (strcmp(json_object_get_string(role), "user") != 0 &&
         strcmp(json_object_get_string(role), "assistant") != 0))
        return cake_api_invalid(e, param, "'%s' must be user or assistant", param);
    bool assistant = strcmp(json_object_get_string(role), "assistant") == 0;
    json_object *content = cake_field(m, "content");
    snprintf(param, sizeof param, "messages[%zu].content", i);
    parts p = {0};
    bool ok = true;
    if (!json_object_is_type(content, json_type_array)) {
        ok = cake_api_get_text(content, param, &p.text, e);
    } else {
        for (size_t k = 0; ok && k < json_object_array_length(content); k++) {
            snprintf(param, sizeof param, "messages[%zu].content[%zu]", i, k);
            ok = add_block(r, assistant, json_object_array_get_idx(content, k), param, &p, e);
        }
    }
    flush(r, assistant ? "assistant" : "user", &p);
    return ok;
}

static bool get_messages(cake_api_request *r, cake_api_error *e) {
    json_object *list = cake_field(r->body, "messages"), *system = cake_field(r->body, "system");
    r->messages = json_object_new_array();
    if (system) {
        json_object *text = NULL;
        if (!cake_api_get_text(system, "system", &text, e)) return false;
        put(cake_api_new_message(r, "system"), "content", text);
    }
    if (!json_object_is_type(list, json_type_array))
        return cake_api_invalid(e, "messages", "'messages' must be an array");
    size_t n = json_object_array_length(list);
    if (n == 0 || n > CAKE_API_MESSAGES_MAX)
        return cake_api_invalid(e, "messages", "'messages' must hold 1 to %d messages",
                                CAKE_API_MESSAGES_MAX);
    for (size_t i = 0; i < n; i++)
        if (!add_message(r, json_object_array_get_idx(list, i), i, e)) return false;
    json_object *last = cake_field(json_object_array_get_idx(list, n - 1), "role");
    if (strcmp(json_object_get_string(last), "user") != 0)
        return cake_api_fail(e, 400, "invalid_request_error", "unsupported_content", "messages",
                             "the last message must be the user's: going on with the text of an "
                             "assistant is not supported");
    return true;
}

static bool get_tools(cake_api_request *r, cake_api_error *e) {
    json_object *list = cake_field(r->body, "tools"), *choice = cake_field(r->body, "tool_choice");
    if (list && !json_object_is_type(list, json_type_array))
        return cake_api_invalid(e, "tools", "'tools' must be an array");
    size_t n = list ? json_object_array_length(list) : 0;
    if (n > CAKE_API_TOOLS_MAX)
        return cake_api_invalid(e, "tools", "'tools' holds more than %d tools", CAKE_API_TOOLS_MAX);
    for (size_t i = 0; i < n; i++) {
        char param[64];
        json_object *t = json_object_array_get_idx(list, i), *name = NULL, *type;
        bool strict = false;
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!json_object_is_type(t, json_type_object))
            return cake_api_invalid(e, param, "'%s' must be an object", param);
        if ((type = cake_field(t, "type")) && (!json_object_is_type(type, json_type_string) ||
                                               strcmp(json_object_get_string(type), "custom") != 0))
            return cake_api_fail(e, 400, "invalid_request_error", "unsupported_parameter", param,
                                 "'%s': only tools of the client are supported", param);
        if (!text_of(t, "name", param, &name, e) || !cake_field_bool(t, "strict", &strict, e) ||
            !cake_api_add_tool(r, json_object_get_string(name), cake_field(t, "description"),
                               cake_field(t, "input_schema"), strict, param, e))
            return false;
    }
    r->choice = r->n_tools ? CAKE_TOOL_AUTO : CAKE_TOOL_NONE;
    if (!choice) return true;
    json_object *type = NULL, *name = NULL;
    if (!json_object_is_type(choice, json_type_object) ||
        !json_object_is_type(type = cake_field(choice, "type"), json_type_string))
        return cake_api_invalid(e, "tool_choice", "'tool_choice' must be an object with a 'type'");
    if (!cake_field_bool(choice, "disable_parallel_tool_use", &r->one_call, e)) return false;
    const char *t = json_object_get_string(type);
    if (strcmp(t, "none") == 0) {
        r->choice = CAKE_TOOL_NONE;
    } else if (strcmp(t, "any") == 0) {
        if (!r->n_tools) return cake_api_invalid(e, "tool_choice", "'tool_choice' needs 'tools'");
        r->choice = CAKE_TOOL_REQUIRED;
    } else if (strcmp(t, "tool") == 0) {
        return text_of(choice, "name", "tool_choice", &name, e) &&
               cake_api_choose_tool(r, json_object_get_string(name), e);
    } else if (strcmp(t, "auto") != 0) {
        return cake_api_invalid(e, "tool_choice", "'tool_choice' must be auto, any, tool or none");
    }
    return true;
}

static bool get_thinking(cake_api_request *r, cake_api_error *e) {
    json_object *v = cake_field(r->body, "thinking"), *type = NULL;
    if (!v) return true;
    if (!json_object_is_type(v, json_type_object) ||
        !json_object_is_type(type = cake_field(v, "type"), json_type_string))
        return cake_api_invalid(e, "thinking", "'thinking' must be an object with a 'type'");
    const char *t = json_object_get_string(type);
    bool on = strcmp(t, "enabled") == 0 || strcmp(t, "adaptive") == 0;
    if (!on && strcmp(t, "disabled") != 0)
        return cake_api_invalid(e, "thinking", "'thinking' must be enabled, adaptive or disabled");
    put(r->kwargs, "enable_thinking", json_object_new_boolean(on));
    return true;
}

bool cake_api_get_messages_form(cake_api_request *r, cake_api_error *e) {
    json_object *b = r->body;
    r->n_prompts = 1;
    r->include_usage = true;
    if (!get_messages(r, e) || !get_tools(r, e) || !get_thinking(r, e)) return false;
    if (r->kind == CAKE_API_COUNT) return true;
    if (!cake_field(b, "max_tokens"))
        return cake_api_invalid(e, "max_tokens", "'max_tokens' is missing");
    bool ok = cake_api_get_sampler(r, e) && cake_api_get_stop(r, "stop_sequences", e) &&
              cake_field_bool(b, "stream", &r->stream, e) &&
              cake_field_int(b, "max_tokens", 1, CAKE_API_TOKENS_MAX, &r->max_tokens, e);
    r->n = 1;
    return ok;
}
