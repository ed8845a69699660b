/* Checking what clients send: see request.h. */
#include "master/server/request.h"
#include "common/mem.h"
#include "master/server/fields.h"
#include "master/server/tools_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages ---- */

static bool known_role(const char *role) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i]) == 0) return true;
    return false;
}

/* The text parts of an array, joined as they are. */
static bool join_parts(json_object *parts, const char *param, json_object **out,
                       cake_api_error *e) {
    size_t n = json_object_array_length(parts), total = 0;
    char *text = NULL;
    for (int pass = 0; pass < 2; pass++) {
        size_t at = 0;
        for (size_t i = 0; i < n; i++) {
            json_object *part = json_object_array_get_idx(parts, i);
            json_object *type = NULL, *v = NULL;
            const char *s;
            size_t len;
            if (!json_object_is_type(part, json_type_object) ||
                !json_object_is_type(type = cake_field(part, "type"), json_type_string))
                return cake_api_invalid(e, param, "'%s': part %zu must be an object with a 'type'",
                                        param, i);
            const char *t = json_object_get_string(type);
            if (strcmp(t, "text") != 0 && strcmp(t, "input_text") != 0 &&
                strcmp(t, "output_text") != 0)
                return cake_api_fail(e, 400, "invalid_request_error", "unsupported_content", param,
                                     "'%s': part %zu is not text; this server takes only text",
                                     param, i);
            v = cake_field(part, "text");
            if (!v) return cake_api_invalid(e, param, "'%s': part %zu has no 'text'", param, i);
            if (!cake_field_string_of(v, param, CAKE_API_BODY_MAX, &s, &len, e)) return false;
            if (pass == 1) memcpy(text + at, s, len);
            at += len;
        }
        if (pass == 0) {
            total = at;
            text = cake_malloc(total + 1);
        }
    }
    *out = json_object_new_string_len(text, (int)total);
    free(text);
    return true;
}

bool cake_api_get_text(json_object *content, const char *param, json_object **out,
                       cake_api_error *e) {
    const char *s;
    size_t len;
    if (json_object_is_type(content, json_type_array)) return join_parts(content, param, out, e);
    if (!json_object_is_type(content, json_type_string))
        return cake_api_invalid(e, param, "'%s' must be a string or an array of parts", param);
    if (!cake_field_string_of(content, param, CAKE_API_BODY_MAX, &s, &len, e)) return false;
    *out = json_object_get(content);
    return true;
}

/* The calls an assistant made before, in the form of templates. */
static bool copy_calls(json_object *calls, json_object **out, size_t at, cake_api_error *e) {
    char param[64];
    snprintf(param, sizeof param, "messages[%zu].tool_calls", at);
    if (!json_object_is_type(calls, json_type_array) ||
        json_object_array_length(calls) > CAKE_API_TOOLS_MAX)
        return cake_api_invalid(e, param, "'%s' must be an array of at most %d calls", param,
                                CAKE_API_TOOLS_MAX);
    json_object *list = json_object_new_array();
    *out = list;
    for (size_t i = 0; i < json_object_array_length(calls); i++) {
        json_object *c = json_object_array_get_idx(calls, i), *f = NULL, *name = NULL, *args, *id;
        snprintf(param, sizeof param, "messages[%zu].tool_calls[%zu]", at, i);
        if (!json_object_is_type(c, json_type_object) ||
            !json_object_is_type(f = cake_field(c, "function"), json_type_object) ||
            !json_object_is_type(name = cake_field(f, "name"), json_type_string) ||
            !cake_api_tool_name_ok(json_object_get_string(name)))
            return cake_api_invalid(e, param, "'%s' must be an object with a function and its name",
                                    param);
        args = cake_field(f, "arguments");
        id = cake_field(c, "id");
        if ((args && !json_object_is_type(args, json_type_string) &&
             !json_object_is_type(args, json_type_object)) ||
            (id && !json_object_is_type(id, json_type_string)))
            return cake_api_invalid(e, param, "'%s': id and arguments must be strings", param);
        json_object_array_add(list, cake_api_tool_call(id ? json_object_get_string(id) : NULL,
                                                       json_object_get_string(name), args));
    }
    return true;
}

static bool add_message(json_object *to, json_object *m, size_t i, cake_api_error *e) {
    char param[64];
    const char *role;
    size_t len;
    snprintf(param, sizeof param, "messages[%zu]", i);
    if (!json_object_is_type(m, json_type_object))
        return cake_api_invalid(e, param, "'%s' must be an object", param);
    snprintf(param, sizeof param, "messages[%zu].role", i);
    json_object *v = cake_field(m, "role"), *content = NULL;
    if (!v) return cake_api_invalid(e, param, "'%s' is missing", param);
    if (!cake_field_string_of(v, param, 64, &role, &len, e)) return false;
    if (!known_role(role))
        return cake_api_invalid(
            e, param, "'%s' must be one of system, developer, user, assistant, tool", param);
    snprintf(param, sizeof param, "messages[%zu].content", i);
    v = cake_field(m, "content");
    if (!v) {
        if (strcmp(role, "assistant") != 0 || !cake_field(m, "tool_calls"))
            return cake_api_invalid(e, param, "'%s' is missing", param);
    } else if (!cake_api_get_text(v, param, &content, e)) {
        return false;
    }
    json_object *copy = json_object_new_object(), *calls = NULL;
    json_object_array_add(to, copy);
    /* Templates know "system"; "developer" is the newer name of the same thing. */
    json_object_object_add(
        copy, "role", json_object_new_string(strcmp(role, "developer") == 0 ? "system" : role));
    json_object_object_add(copy, "content", content ? content : json_object_new_string(""));
    json_object_object_foreach(m, key, value) {
        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0) continue;
        if (strcmp(key, "tool_calls") != 0) {
            json_object_object_add(copy, key, json_object_get(value));
        } else if (value) {
            bool ok = copy_calls(value, &calls, i, e);
            /* An empty list is no call; templates look only whether there is one. */
            if (calls && json_object_array_length(calls))
                json_object_object_add(copy, key, calls);
            else
                json_object_put(calls);
            if (!ok) return false;
        }
    }
    return true;
}

static bool get_messages(cake_api_request *r, cake_api_error *e) {
    json_object *v = cake_field(r->body, "messages");
    if (!v) return cake_api_invalid(e, "messages", "'messages' is missing");
    if (!json_object_is_type(v, json_type_array))
        return cake_api_invalid(e, "messages", "'messages' must be an array");
    size_t n = json_object_array_length(v);
    if (n == 0 || n > CAKE_API_MESSAGES_MAX)
        return cake_api_invalid(e, "messages", "'messages' must hold 1 to %d messages",
                                CAKE_API_MESSAGES_MAX);
    r->messages = json_object_new_array();
    for (size_t i = 0; i < n; i++)
        if (!add_message(r->messages, json_object_array_get_idx(v, i), i, e)) return false;
    r->n_prompts = 1;
    return true;
}

/* ---- prompts of /v1/completions ---- */

static bool is_ids(json_object *v) {
    return json_object_is_type(v, json_type_array) && json_object_array_length(v) > 0 &&
           json_object_is_type(json_object_array_get_idx(v, 0), json_type_int);
}

static bool check_ids(json_object *v, const char *key, cake_api_error *e) {
    int64_t id;
    for (size_t i = 0; i < json_object_array_length(v); i++)
        if (!cake_field_int_of(json_object_array_get_idx(v, i), key, 0, UINT32_MAX, &id, e))
            return false;
    return true;
}

static bool add_prompt(cake_api_request *r, json_object *v, cake_api_error *e) {
    cake_api_prompt *p = &r->prompt[r->n_prompts++];
    if (is_ids(v)) {
        p->ids = v;
        return check_ids(v, "prompt", e);
    }
    return cake_field_string_of(v, "prompt", CAKE_API_BODY_MAX, &p->text, &p->len, e);
}

static bool get_prompts(cake_api_request *r, cake_api_error *e) {
    json_object *v = cake_field(r->body, "prompt");
    if (!v) return cake_api_invalid(e, "prompt", "'prompt' is missing");
    if (!json_object_is_type(v, json_type_array) || is_ids(v)) return add_prompt(r, v, e);
    size_t n = json_object_array_length(v);
    if (n == 0 || n > CAKE_API_PROMPTS_MAX)
        return cake_api_invalid(e, "prompt", "'prompt' must hold 1 to %d prompts",
                                CAKE_API_PROMPTS_MAX);
    for (size_t i = 0; i < n; i++)
        if (!add_prompt(r, json_object_array_get_idx(v, i), e)) return false;
    return true;
}

/* ---- sampling and limits ---- */

bool cake_api_get_stop(cake_api_request *r, const char *key, cake_api_error *e) {
    json_object *v = cake_field(r->body, key);
    if (!v) return true;
    bool one = json_object_is_type(v, json_type_string);
    if (!one && !json_object_is_type(v, json_type_array))
        return cake_api_invalid(e, key, "'%s' must be a string or an array of strings", key);
    size_t n = one ? 1 : json_object_array_length(v), len;
    if (n > CAKE_API_STOP_MAX)
        return cake_api_invalid(e, key, "'%s' holds more than %d strings", key, CAKE_API_STOP_MAX);
    for (size_t i = 0; i < n; i++) {
        if (!cake_field_string_of(one ? v : json_object_array_get_idx(v, i), "stop",
                                  CAKE_API_STOP_BYTES_MAX, &r->stop[r->n_stop], &len, e))
            return false;
        if (len == 0) return cake_api_invalid(e, key, "'%s' holds an empty string", key);
        r->n_stop++;
    }
    return true;
}

static bool get_bias(cake_api_request *r, cake_api_error *e) {
    json_object *o = cake_field(r->body, "logit_bias");
    if (!o) return true;
    if (!json_object_is_type(o, json_type_object))
        return cake_api_invalid(e, "logit_bias", "'logit_bias' must be an object");
    size_t n = (size_t)json_object_object_length(o);
    if (n > CAKE_LOGIT_BIAS_MAX)
        return cake_api_invalid(e, "logit_bias", "'logit_bias' holds more than %d tokens",
                                CAKE_LOGIT_BIAS_MAX);
    r->bias = cake_calloc(n + 1, sizeof *r->bias);
    json_object_object_foreach(o, key, value) {
        size_t len = strlen(key);
        double d = 0;
        if (len == 0 || len > 9 || strspn(key, "0123456789") != len)
            return cake_api_invalid(e, "logit_bias", "'logit_bias' must name tokens by number");
        if (!value) return cake_api_invalid(e, "logit_bias", "'logit_bias' must hold numbers");
        if (!cake_field_number_of(value, "logit_bias", -100, 100, &d, e)) return false;
        r->bias[r->sampler.n_logit_bias++] =
            (cake_logit_bias){.token = (uint32_t)strtoul(key, NULL, 10), .bias = (float)d};
    }
    r->sampler.logit_bias = r->sampler.n_logit_bias ? r->bias : NULL;
    return true;
}

bool cake_api_get_sampler(cake_api_request *r, cake_api_error *e) {
    json_object *b = r->body;
    cake_sampler_params *p = &r->sampler;
    int64_t top_k = p->top_k, last_n = p->repeat_last_n, seed = 0, n = 1, priority = 0;
    if (!cake_field_float(b, "temperature", 0, 2, &p->temperature, e) ||
        !cake_field_float(b, "top_p", 0, 1, &p->top_p, e) ||
        !cake_field_float(b, "min_p", 0, 1, &p->min_p, e) ||
        !cake_field_float(b, "presence_penalty", -2, 2, &p->presence_penalty, e) ||
        !cake_field_float(b, "frequency_penalty", -2, 2, &p->frequency_penalty, e) ||
        !cake_field_float(b, "repetition_penalty", 0.01, 100, &p->repeat_penalty, e) ||
        !cake_field_float(b, "repeat_penalty", 0.01, 100, &p->repeat_penalty, e) ||
        !cake_field_int(b, "top_k", -1, 1 << 24, &top_k, e) ||
        !cake_field_int(b, "repeat_last_n", -1, 1 << 24, &last_n, e) ||
        !cake_field_int(b, "seed", INT64_MIN, INT64_MAX, &seed, e) ||
        !cake_field_int(b, "n", 1, CAKE_API_N_MAX, &n, e) ||
        !cake_field_int(b, "priority", -100, 100, &priority, e))
        return false;
    if (p->top_p <= 0) p->top_p = 1e-6f; /* the likeliest token only */
    p->top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    p->repeat_last_n = last_n < 0 ? CAKE_REPEAT_LAST_ALL : (uint32_t)last_n;
    r->has_seed = cake_field(b, "seed") != NULL;
    if (r->has_seed) p->seed = (uint64_t)seed;
    r->n = (uint32_t)n;
    r->priority = (int32_t)priority;
    return get_bias(r, e);
}

static bool get_logprobs(cake_api_request *r, cake_api_error *e) {
    int64_t top = 0;
    if (r->kind == CAKE_API_COMPLETION) { /* a number here, a flag there */
        r->logprobs = cake_field(r->body, "logprobs") != NULL;
        if (!cake_field_int(r->body, "logprobs", 0, CAKE_API_TOP_LOGPROBS_MAX, &top, e))
            return false;
    } else {
        if (!cake_field_bool(r->body, "logprobs", &r->logprobs, e) ||
            !cake_field_int(r->body, "top_logprobs", 0, CAKE_API_TOP_LOGPROBS_MAX, &top, e))
            return false;
        if (top && !r->logprobs)
            return cake_api_invalid(e, "top_logprobs", "'top_logprobs' needs 'logprobs': true");
    }
    r->top_logprobs = (uint32_t)top;
    return true;
}

/* What would change the answer and is not there yet. */
static bool refuse_unsupported(cake_api_request *r, cake_api_error *e) {
    json_object *v;
    if ((v = cake_field(r->body, "functions")) &&
        !(json_object_is_type(v, json_type_array) && json_object_array_length(v) == 0))
        return cake_api_unsupported(e, "functions");
    if (cake_field(r->body, "audio")) return cake_api_unsupported(e, "audio");
    if ((v = cake_field(r->body, "suffix")) && r->kind == CAKE_API_COMPLETION &&
        !(json_object_is_type(v, json_type_string) && json_object_get_string_len(v) == 0))
        return cake_api_unsupported(e, "suffix");
    bool echo = false;
    if (r->kind == CAKE_API_COMPLETION && !cake_field_bool(r->body, "echo", &echo, e)) return false;
    if (echo) return cake_api_unsupported(e, "echo");
    int64_t best_of = r->n;
    if (r->kind == CAKE_API_COMPLETION && !cake_field_int(r->body, "best_of", 1, 20, &best_of, e))
        return false;
    return best_of == r->n || cake_api_unsupported(e, "best_of");
}

static bool get_completion(cake_api_request *r, cake_api_error *e) {
    json_object *b = r->body, *so;
    if (!cake_api_get_sampler(r, e) || !refuse_unsupported(r, e) ||
        !cake_api_get_stop(r, "stop", e) || !get_logprobs(r, e) ||
        !cake_field_bool(b, "stream", &r->stream, e) ||
        !cake_field_bool(b, "ignore_eos", &r->ignore_eos, e) ||
        !cake_field_bool(b, "return_progress", &r->return_progress, e) ||
        !cake_field_int(b, "max_tokens", 1, CAKE_API_TOKENS_MAX, &r->max_tokens, e) ||
        !cake_field_int(b, "max_completion_tokens", 1, CAKE_API_TOKENS_MAX, &r->max_tokens, e))
        return false;
    if ((so = cake_field(b, "stream_options"))) {
        if (!json_object_is_type(so, json_type_object))
            return cake_api_invalid(e, "stream_options", "'stream_options' must be an object");
        if (!r->stream)
            return cake_api_invalid(e, "stream_options", "'stream_options' needs 'stream': true");
        if (!cake_field_bool(so, "include_usage", &r->include_usage, e)) return false;
    }
    if (r->kind == CAKE_API_COMPLETION && r->max_tokens < 0) r->max_tokens = 16; /* OpenAI's */
    if (r->n * r->n_prompts > CAKE_API_PROMPTS_MAX)
        return cake_api_invalid(e, "n", "'n' times the prompts must be at most %d",
                                CAKE_API_PROMPTS_MAX);
    return true;
}

static bool get_tokenize(cake_api_request *r, cake_api_error *e) {
    json_object *v = cake_field(r->body, "content");
    const char *key = "content";
    if (!v) v = cake_field(r->body, "prompt"), key = v ? "prompt" : "content";
    if (!v) return cake_api_invalid(e, "content", "'content' is missing");
    r->parse_special = true;
    r->n_prompts = 1;
    return cake_field_string_of(v, key, CAKE_API_BODY_MAX, &r->prompt[0].text, &r->prompt[0].len,
                                e) &&
           cake_field_bool(r->body, "add_special", &r->add_special, e) &&
           cake_field_bool(r->body, "parse_special", &r->parse_special, e) &&
           cake_field_bool(r->body, "with_pieces", &r->with_pieces, e);
}

static bool get_detokenize(cake_api_request *r, cake_api_error *e) {
    json_object *v = cake_field(r->body, "tokens");
    if (!v || !json_object_is_type(v, json_type_array))
        return cake_api_invalid(e, "tokens", "'tokens' must be an array of numbers");
    r->prompt[0].ids = v;
    r->n_prompts = 1;
    return check_ids(v, "tokens", e);
}

/* ---- all of it ---- */

static bool parse(cake_api_request *r, const char *body, size_t len, cake_api_error *e) {
    cake_error err;
    if (cake_json_parse(body ? body : "", len, CAKE_API_DEPTH_MAX, "the body", &r->body, &err) !=
        CAKE_OK)
        return cake_api_fail(e, 400, "invalid_request_error", "invalid_json", NULL, "%s", err.msg);
    if (!json_object_is_type(r->body, json_type_object))
        return cake_api_fail(e, 400, "invalid_request_error", "invalid_json", NULL,
                             "the body must be a JSON object");
    json_object *model = cake_field(r->body, "model");
    size_t n;
    if (model && !cake_field_string_of(model, "model", 256, &r->model, &n, e)) return false;
    switch (r->kind) {
    case CAKE_API_CHAT:
        return get_messages(r, e) && cake_api_get_tools(r, e) && get_completion(r, e);
    case CAKE_API_COMPLETION: return get_prompts(r, e) && get_completion(r, e);
    case CAKE_API_TOKENIZE: return get_tokenize(r, e);
    case CAKE_API_DETOKENIZE: return get_detokenize(r, e);
    case CAKE_API_MESSAGES:
    case CAKE_API_COUNT: return cake_api_get_messages_form(r, e);
    case CAKE_API_RESPONSES: return cake_api_get_responses_form(r, e);
    default: return get_messages(r, e) && cake_api_get_tools(r, e);
    }
}

bool cake_api_parse(cake_api_request *r, cake_api_kind kind, const char *body, size_t len,
                    const cake_sampler_params *defaults, cake_api_error *e) {
    memset(r, 0, sizeof *r);
    memset(e, 0, sizeof *e);
    r->kind = kind;
    r->sampler = *defaults;
    r->sampler.logit_bias = NULL;
    r->sampler.n_logit_bias = 0;
    r->max_tokens = -1;
    r->n = 1;
    r->kwargs = json_object_new_object();
    if (parse(r, body, len, e)) return true;
    cake_api_request_deinit(r);
    return false;
}

void cake_api_request_deinit(cake_api_request *r) {
    json_object_put(r->messages);
    json_object_put(r->kwargs);
    json_object_put(r->tools);
    json_object_put(r->body);
    free(r->bias);
    memset(r, 0, sizeof *r);
}
