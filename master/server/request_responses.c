/* Bodies of /v1/responses brought into the form of chats: see fields.h. Nothing is kept between
 * requests, so what refers to an earlier one is refused. */
#include "master/server/fields.h"
#include "master/server/put.h"
#include "master/server/tools_request.h"

#include <stdio.h>
#include <string.h>

static bool string_in(json_object *o, const char *key, const char *param, const char **out,
                      cake_api_error *e) {
    size_t len;
    json_object *v = cake_field(o, key);
    if (!v) return cake_api_invalid(e, param, "'%s' has no '%s'", param, key);
    return cake_field_string_of(v, param, CAKE_API_BODY_MAX, out, &len, e);
}

static bool add_message(cake_api_request *r, json_object *item, const char *param,
                        cake_api_error *e) {
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    const char *role;
    json_object *text = NULL;
    if (!string_in(item, "role", param, &role, e)) return false;
    size_t k = 0;
    while (k < 4 && strcmp(role, roles[k]) != 0) k++;
    if (k == 4)
        return cake_api_invalid(e, param,
                                "'%s': the role must be user, assistant, system or "
                                "developer",
                                param);
    if (!cake_api_get_text(cake_field(item, "content"), param, &text, e)) return false;
    put(cake_api_new_message(r, k >= 2 ? "system" : role), "content", text);
    return true;
}

/* Calls that follow each other, or the text of an assistant, are one message. */
static bool add_call(cake_api_request *r, json_object *item, const char *param, cake_api_error *e) {
    const char *id, *name;
    if (!string_in(item, "call_id", param, &id, e) || !string_in(item, "name", param, &name, e))
        return false;
    if (!cake_api_tool_name_ok(name))
        return cake_api_invalid(e, param, "'%s': this is no name of a tool", param);
    json_object *args = cake_field(item, "arguments");
    if (!json_object_is_type(args, json_type_string))
        return cake_api_invalid(e, param, "'%s' has no 'arguments' (a string)", param);
    size_t n = json_object_array_length(r->messages);
    json_object *m = n ? json_object_array_get_idx(r->messages, n - 1) : NULL, *calls = NULL;
    if (!m || strcmp(json_object_get_string(cake_field(m, "role")), "assistant") != 0) {
        m = cake_api_new_message(r, "assistant");
        put(m, "content", json_object_new_string(""));
    }
    if (!json_object_object_get_ex(m, "tool_calls", &calls))
        put(m, "tool_calls", calls = json_object_new_array());
    json_object_array_add(calls, cake_api_tool_call(id, name, args));
    return true;
}

static bool add_item(cake_api_request *r, json_object *item, size_t i, cake_api_error *e) {
    char param[64];
    snprintf(param, sizeof param, "input[%zu]", i);
    const char *type = "message";
    size_t len;
    if (!json_object_is_type(item, json_type_object))
        return cake_api_invalid(e, param, "'%s' must be an object", param);
    json_object *v = cake_field(item, "type");
    if (v && !cake_field_string_of(v, param, 64, &type, &len, e)) return false;
    if (strcmp(type, "message") == 0) return add_message(r, item, param, e);
    if (strcmp(type, "function_call") == 0) return add_call(r, item, param, e);
    if (strcmp(type, "reasoning") == 0) return true; /* templates drop what was thought before */
    if (strcmp(type, "function_call_output") == 0) {
        const char *id;
        json_object *text = NULL;
        if (!string_in(item, "call_id", param, &id, e) ||
            !cake_api_get_text(cake_field(item, "output"), param, &text, e))
            return false;
        json_object *m = cake_api_new_message(r, "tool");
        put(m, "tool_call_id", json_object_new_string(id));
        put(m, "content", text);
        return true;
    }
    return cake_api_fail(e, 400, "invalid_request_error", "unsupported_content", param,
                         "'%s': items of type '%.40s' are not supported here", param, type);
}

static bool get_input(cake_api_request *r, cake_api_error *e) {
    json_object *input = cake_field(r->body, "input"), *text = NULL;
    json_object *instructions = cake_field(r->body, "instructions");
    r->messages = json_object_new_array();
    if (instructions) {
        if (!cake_api_get_text(instructions, "instructions", &text, e)) return false;
        put(cake_api_new_message(r, "system"), "content", text);
    }
    if (json_object_is_type(input, json_type_string)) {
        if (!cake_api_get_text(input, "input", &text, e)) return false;
        put(cake_api_new_message(r, "user"), "content", text);
        return true;
    }
    if (!json_object_is_type(input, json_type_array))
        return cake_api_invalid(e, "input", "'input' must be a string or an array of items");
    size_t n = json_object_array_length(input);
    if (n == 0 || n > CAKE_API_MESSAGES_MAX)
        return cake_api_invalid(e, "input", "'input' must hold 1 to %d items",
                                CAKE_API_MESSAGES_MAX);
    for (size_t i = 0; i < n; i++)
        if (!add_item(r, json_object_array_get_idx(input, i), i, e)) return false;
    return json_object_array_length(r->messages) > 0 ||
           cake_api_invalid(e, "input", "'input' holds no message");
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
        json_object *t = json_object_array_get_idx(list, i);
        const char *type, *name;
        bool strict = false;
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!json_object_is_type(t, json_type_object))
            return cake_api_invalid(e, param, "'%s' must be an object", param);
        if (!string_in(t, "type", param, &type, e)) return false;
        if (strcmp(type, "function") != 0)
            return cake_api_fail(e, 400, "invalid_request_error", "unsupported_parameter", param,
                                 "'%s': only tools of type \"function\" are supported", param);
        if (!string_in(t, "name", param, &name, e) || !cake_field_bool(t, "strict", &strict, e) ||
            !cake_api_add_tool(r, name, cake_field(t, "description"), cake_field(t, "parameters"),
                               strict, param, e))
            return false;
    }
    bool parallel = true;
    if (!cake_field_bool(r->body, "parallel_tool_calls", &parallel, e)) return false;
    r->one_call = !parallel;
    r->choice = r->n_tools ? CAKE_TOOL_AUTO : CAKE_TOOL_NONE;
    if (!choice) return true;
    if (json_object_is_type(choice, json_type_object)) {
        const char *name;
        return string_in(choice, "name", "tool_choice", &name, e) &&
               cake_api_choose_tool(r, name, e);
    }
    const char *s =
        json_object_is_type(choice, json_type_string) ? json_object_get_string(choice) : "";
    if (strcmp(s, "none") == 0)
        r->choice = CAKE_TOOL_NONE;
    else if (strcmp(s, "required") == 0 && r->n_tools)
        r->choice = CAKE_TOOL_REQUIRED;
    else if (strcmp(s, "auto") != 0)
        return cake_api_invalid(e, "tool_choice",
                                "'tool_choice' must be none, auto, required (with 'tools'), or "
                                "{\"type\": \"function\", \"name\": ...}");
    return true;
}

static bool get_text_format(cake_api_request *r, cake_api_error *e) {
    json_object *text = cake_field(r->body, "text"), *format;
    if (!text) return true;
    if (!json_object_is_type(text, json_type_object))
        return cake_api_invalid(e, "text", "'text' must be an object");
    format = cake_field(text, "format");
    if (!format) return true;
    if (!json_object_is_type(format, json_type_object))
        return cake_api_invalid(e, "text.format", "'text.format' must be an object");
    return cake_api_get_format(r, cake_field(format, "type"), cake_field(format, "schema"),
                               "text.format", e);
}

static bool refuse(cake_api_request *r, cake_api_error *e) {
    static const char *const earlier[] = {"previous_response_id", "conversation", "prompt"};
    for (size_t i = 0; i < sizeof earlier / sizeof *earlier; i++)
        if (cake_field(r->body, earlier[i]))
            return cake_api_fail(e, 400, "invalid_request_error", "unsupported_parameter",
                                 earlier[i],
                                 "'%s' is not supported: this server keeps nothing between "
                                 "requests; send the whole input",
                                 earlier[i]);
    bool background = false;
    if (!cake_field_bool(r->body, "background", &background, e)) return false;
    if (background) return cake_api_unsupported(e, "background");
    json_object *v = cake_field(r->body, "truncation");
    if (v && !(json_object_is_type(v, json_type_string) &&
               strcmp(json_object_get_string(v), "disabled") == 0))
        return cake_api_unsupported(e, "truncation");
    return true;
}

bool cake_api_get_responses_form(cake_api_request *r, cake_api_error *e) {
    json_object *b = r->body, *reasoning = cake_field(b, "reasoning");
    r->n_prompts = 1;
    r->include_usage = true;
    if (reasoning && !json_object_is_type(reasoning, json_type_object))
        return cake_api_invalid(e, "reasoning", "'reasoning' must be an object");
    if (!refuse(r, e) || !get_input(r, e) || !get_tools(r, e) || !get_text_format(r, e) ||
        (reasoning &&
         !cake_api_get_effort(r, cake_field(reasoning, "effort"), "reasoning.effort", e)) ||
        !cake_api_get_sampler(r, e) || !cake_field_bool(b, "stream", &r->stream, e) ||
        !cake_field_int(b, "max_output_tokens", 1, CAKE_API_TOKENS_MAX, &r->max_tokens, e))
        return false;
    r->n = 1;
    return true;
}
