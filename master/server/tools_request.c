/* Tools and formats of requests: see tools_request.h. */
#include "master/server/tools_request.h"
#include "common/mem.h"
#include "master/server/fields.h"
#include "master/server/put.h"

#include <stdio.h>
#include <string.h>

bool cake_api_tool_name_ok(const char *name) {
    size_t n = strlen(name);
    return n > 0 && n <= CAKE_TOOL_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == n;
}

bool cake_api_add_tool(cake_api_request *r, const char *name, json_object *description,
                       json_object *parameters, bool strict, const char *param, cake_api_error *e) {
    if (!cake_api_tool_name_ok(name))
        return cake_api_invalid(e, param,
                                "'%s': a tool's name has 1 to %d letters, digits, '_', '-' or '.'",
                                param, CAKE_TOOL_NAME_MAX);
    if (description && !json_object_is_type(description, json_type_string))
        return cake_api_invalid(e, param, "'%s': a description must be a string", param);
    if (parameters && !json_object_is_type(parameters, json_type_object))
        return cake_api_invalid(e, param, "'%s': parameters must be a JSON schema (an object)",
                                param);
    for (size_t i = 0; i < r->n_tools; i++)
        if (strcmp(r->tool_name[i], name) == 0)
            return cake_api_invalid(e, param, "'%s': two tools are called '%s'", param, name);
    json_object *tool = json_object_new_object(), *f = json_object_new_object(), *schema, *v;
    put(tool, "type", json_object_new_string("function"));
    put(tool, "function", f);
    put(f, "name", v = json_object_new_string(name));
    put(f, "description", description ? json_object_get(description) : json_object_new_string(""));
    if (parameters) {
        schema = json_object_get(parameters);
    } else { /* templates want one */
        schema = json_object_new_object();
        put(schema, "type", json_object_new_string("object"));
        put(schema, "properties", json_object_new_object());
    }
    put(f, "parameters", schema);
    if (!r->tools) r->tools = json_object_new_array();
    json_object_array_add(r->tools, tool);
    r->tool_name[r->n_tools] = json_object_get_string(v);
    r->tool_strict[r->n_tools++] = strict;
    return true;
}

bool cake_api_choose_tool(cake_api_request *r, const char *name, cake_api_error *e) {
    for (size_t i = 0; i < r->n_tools; i++)
        if (strcmp(r->tool_name[i], name) == 0) {
            r->choice = CAKE_TOOL_NAMED;
            r->chosen_tool = r->tool_name[i];
            return true;
        }
    return cake_api_invalid(e, "tool_choice",
                            "'tool_choice' names '%.64s', which is not in 'tools'", name);
}

static bool get_list(cake_api_request *r, cake_api_error *e) {
    json_object *list = cake_field(r->body, "tools");
    if (!list) return true;
    if (!json_object_is_type(list, json_type_array))
        return cake_api_invalid(e, "tools", "'tools' must be an array");
    size_t n = json_object_array_length(list), len;
    if (n > CAKE_API_TOOLS_MAX)
        return cake_api_invalid(e, "tools", "'tools' holds more than %d tools", CAKE_API_TOOLS_MAX);
    for (size_t i = 0; i < n; i++) {
        char param[64];
        const char *name, *type;
        json_object *t = json_object_array_get_idx(list, i), *f, *v;
        bool strict = false;
        snprintf(param, sizeof param, "tools[%zu]", i);
        if (!json_object_is_type(t, json_type_object) || !(v = cake_field(t, "type")) ||
            !cake_field_string_of(v, param, 64, &type, &len, e))
            return cake_api_invalid(e, param, "'%s' must be an object with a 'type'", param);
        if (strcmp(type, "function") != 0)
            return cake_api_fail(e, 400, "invalid_request_error", "unsupported_parameter", param,
                                 "'%s': only tools of type \"function\" are supported", param);
        f = cake_field(t, "function");
        snprintf(param, sizeof param, "tools[%zu].function", i);
        if (!json_object_is_type(f, json_type_object))
            return cake_api_invalid(e, param, "'%s' must be an object", param);
        if (!(v = cake_field(f, "name")))
            return cake_api_invalid(e, param, "'%s' has no 'name'", param);
        if (!cake_field_string_of(v, param, 4096, &name, &len, e) ||
            !cake_field_bool(f, "strict", &strict, e) ||
            !cake_api_add_tool(r, name, cake_field(f, "description"), cake_field(f, "parameters"),
                               strict, param, e))
            return false;
    }
    return true;
}

static bool get_choice(cake_api_request *r, cake_api_error *e) {
    json_object *v = cake_field(r->body, "tool_choice");
    bool parallel = true;
    r->choice = r->n_tools ? CAKE_TOOL_AUTO : CAKE_TOOL_NONE;
    if (!cake_field_bool(r->body, "parallel_tool_calls", &parallel, e)) return false;
    r->one_call = !parallel;
    if (!v) return true;
    if (json_object_is_type(v, json_type_string)) {
        const char *s = json_object_get_string(v);
        if (strcmp(s, "none") == 0) {
            r->choice = CAKE_TOOL_NONE;
        } else if (strcmp(s, "required") == 0) {
            if (!r->n_tools)
                return cake_api_invalid(e, "tool_choice", "'tool_choice' needs 'tools'");
            r->choice = CAKE_TOOL_REQUIRED;
        } else if (strcmp(s, "auto") != 0) {
            return cake_api_invalid(
                e, "tool_choice",
                "'tool_choice' must be none, auto, required, or an object that names a function");
        }
        return true;
    }
    json_object *f = NULL, *name = NULL, *type = NULL;
    if (!json_object_is_type(v, json_type_object) ||
        !json_object_is_type(type = cake_field(v, "type"), json_type_string) ||
        strcmp(json_object_get_string(type), "function") != 0 ||
        !json_object_is_type(f = cake_field(v, "function"), json_type_object) ||
        !json_object_is_type(name = cake_field(f, "name"), json_type_string))
        return cake_api_invalid(e, "tool_choice",
                                "'tool_choice' must be none, auto, required, or "
                                "{\"type\": \"function\", \"function\": {\"name\": ...}}");
    return cake_api_choose_tool(r, json_object_get_string(name), e);
}

bool cake_api_get_format(cake_api_request *r, json_object *type, json_object *schema,
                         const char *param, cake_api_error *e) {
    if (!json_object_is_type(type, json_type_string))
        return cake_api_invalid(e, param, "'%s' must be an object with a 'type'", param);
    const char *t = json_object_get_string(type);
    if (strcmp(t, "json_object") == 0) {
        r->format = CAKE_FORMAT_OBJECT;
    } else if (strcmp(t, "json_schema") == 0) {
        if (!json_object_is_type(schema, json_type_object))
            return cake_api_invalid(e, param, "'%s' has no 'schema' (an object)", param);
        r->format = CAKE_FORMAT_SCHEMA;
        r->schema = schema;
    } else if (strcmp(t, "text") != 0) {
        return cake_api_invalid(e, param, "'%s': the type must be text, json_object or json_schema",
                                param);
    }
    return true;
}

static bool get_response_format(cake_api_request *r, cake_api_error *e) {
    json_object *v = cake_field(r->body, "response_format"), *in;
    if (!v) return true;
    if (!json_object_is_type(v, json_type_object))
        return cake_api_invalid(e, "response_format", "'response_format' must be an object");
    in = cake_field(v, "json_schema");
    bool strict = true;
    if (json_object_is_type(in, json_type_object) && !cake_field_bool(in, "strict", &strict, e))
        return false;
    return cake_api_get_format(r, cake_field(v, "type"),
                               json_object_is_type(in, json_type_object) ? cake_field(in, "schema")
                                                                         : NULL,
                               "response_format", e);
}

bool cake_api_get_effort(cake_api_request *r, json_object *effort, const char *param,
                         cake_api_error *e) {
    static const char *const words[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    if (!effort) return true;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!json_object_is_type(effort, json_type_string) ||
            strcmp(json_object_get_string(effort), words[i]) != 0)
            continue;
        if (!json_object_object_get_ex(r->kwargs, "enable_thinking", NULL))
            put(r->kwargs, "enable_thinking", json_object_new_boolean(i >= 2));
        if (i >= 2 && !json_object_object_get_ex(r->kwargs, "reasoning_effort", NULL))
            put(r->kwargs, "reasoning_effort", json_object_get(effort));
        return true;
    }
    return cake_api_invalid(e, param, "'%s' must be none, minimal, low, medium or high", param);
}

bool cake_api_get_tools(cake_api_request *r, cake_api_error *e) {
    json_object *kwargs = cake_field(r->body, "chat_template_kwargs");
    if (kwargs && !json_object_is_type(kwargs, json_type_object))
        return cake_api_invalid(e, "chat_template_kwargs",
                                "'chat_template_kwargs' must be an object");
    if (kwargs) {
        json_object_object_foreach(kwargs, key, v) {
            put(r->kwargs, key, json_object_get(v));
        }
    }
    return get_list(r, e) && get_choice(r, e) && get_response_format(r, e) &&
           cake_api_get_effort(r, cake_field(r->body, "reasoning_effort"), "reasoning_effort", e);
}

json_object *cake_api_tool_call(const char *id, const char *name, json_object *arguments) {
    json_object *call = json_object_new_object(), *f = json_object_new_object(), *args = NULL;
    if (json_object_is_type(arguments, json_type_object)) {
        args = json_object_get(arguments);
    } else if (json_object_is_type(arguments, json_type_string)) {
        const char *text = json_object_get_string(arguments);
        size_t n = (size_t)json_object_get_string_len(arguments);
        if (cake_json_parse(text, n, CAKE_API_DEPTH_MAX, "the arguments", &args, NULL) != CAKE_OK)
            args = NULL;
        if (args && !json_object_is_type(args, json_type_object)) {
            json_object_put(args);
            args = NULL;
        }
        /* What a model once wrote wrong is shown to it as it was. */
        if (!args) args = n ? json_object_get(arguments) : json_object_new_object();
    } else {
        args = json_object_new_object();
    }
    if (id) put(call, "id", json_object_new_string(id));
    put(call, "type", json_object_new_string("function"));
    put(f, "name", json_object_new_string(name));
    put(f, "arguments", args);
    put(call, "function", f);
    return call;
}
