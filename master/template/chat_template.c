/* Which template a model folder carries, the special tokens it may name, and the variables a
 * conversation gives it. */
#include "master/template/template.h"
#include "common/file.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/model/gguf.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_TEMPLATE = 4 << 20,
    MAX_CONFIG = 64 << 20, /* tokenizer_config.json lists every added token */
};

struct cake_chat_template {
    cake_template *plain;
    cake_template *tool_use; /* NULL: plain serves tools too */
    json_object *variables;  /* object: bos_token, eos_token, ... */
};

void cake_chat_template_free(cake_chat_template *t) {
    if (!t) return;
    cake_template_free(t->plain);
    cake_template_free(t->tool_use);
    json_object_put(t->variables);
    free(t);
}

static cake_chat_template *new_chat(void) {
    cake_chat_template *t = cake_calloc(1, sizeof *t);
    t->variables = json_object_new_object();
    return t;
}

cake_status cake_chat_template_new(cake_chat_template **out, const char *source, size_t len,
                                   const char *bos_token, const char *eos_token, cake_error *err) {
    cake_chat_template *t = new_chat();
    cake_status st = cake_template_parse(&t->plain, source, len, "chat template", err);
    if (st != CAKE_OK) {
        cake_chat_template_free(t);
        return st;
    }
    if (bos_token)
        json_object_object_add(t->variables, "bos_token", json_object_new_string(bos_token));
    if (eos_token)
        json_object_object_add(t->variables, "eos_token", json_object_new_string(eos_token));
    *out = t;
    return CAKE_OK;
}

/* A JSON file that may be missing: *out stays NULL then. */
static cake_status read_optional(const char *dir, const char *name, json_object **out,
                                 cake_error *err) {
    char *path = cake_path_join(dir, name);
    cake_status st = CAKE_OK;
    if (cake_file_exists(path)) st = cake_json_read(path, MAX_CONFIG, out, err);
    if (st == CAKE_OK && *out && !json_object_is_type(*out, json_type_object)) {
        st = cake_fail(err, CAKE_EFORMAT, "%s: not a JSON object", path);
        json_object_put(*out);
        *out = NULL;
    }
    free(path);
    return st;
}

static cake_status parse_file(cake_template **out, const char *dir, const char *name,
                              cake_error *err) {
    char *path = cake_path_join(dir, name), *text = NULL;
    size_t len = 0;
    cake_status st = CAKE_OK;
    if (cake_file_exists(path)) {
        st = cake_file_read(path, MAX_TEMPLATE, &text, &len, err);
        if (st == CAKE_OK) st = cake_template_parse(out, text, len, name, err);
    }
    free(text);
    free(path);
    return st;
}

static cake_status parse_json_string(cake_template **out, json_object *s, const char *file,
                                     cake_error *err) {
    return cake_template_parse(out, json_object_get_string(s),
                               (size_t)json_object_get_string_len(s), file, err);
}

/* "chat_template" of a configuration: a string, or a list of {name, template}. */
static cake_status take_member(cake_chat_template *t, json_object *config, const char *file,
                               cake_error *err) {
    json_object *m = NULL;
    if (!config || !json_object_object_get_ex(config, "chat_template", &m) || !m) return CAKE_OK;
    if (json_object_is_type(m, json_type_string)) return parse_json_string(&t->plain, m, file, err);
    if (!json_object_is_type(m, json_type_array))
        return cake_fail(err, CAKE_EFORMAT, "%s: chat_template is neither a string nor a list",
                         file);
    for (size_t i = 0; i < json_object_array_length(m); i++) {
        json_object *e = json_object_array_get_idx(m, i), *name = NULL, *text = NULL;
        if (!json_object_is_type(e, json_type_object) ||
            !json_object_object_get_ex(e, "name", &name) ||
            !json_object_object_get_ex(e, "template", &text) ||
            !json_object_is_type(name, json_type_string) ||
            !json_object_is_type(text, json_type_string))
            return cake_fail(err, CAKE_EFORMAT, "%s: chat_template[%zu] lacks a name or a template",
                             file, i);
        const char *n = json_object_get_string(name);
        cake_template **slot = strcmp(n, "default") == 0    ? &t->plain
                               : strcmp(n, "tool_use") == 0 ? &t->tool_use
                                                            : NULL;
        if (!slot || *slot) continue;
        cake_status st = parse_json_string(slot, text, file, err);
        if (st != CAKE_OK) return st;
    }
    return CAKE_OK;
}

/* Every *_token of a configuration: a string, or an added-token object with "content". */
static void take_tokens(cake_chat_template *t, json_object *config) {
    if (!config) return;
    json_object_object_foreach(config, key, v) {
        size_t n = strlen(key);
        json_object *content = v;
        if (n < 7 || strcmp(key + n - 6, "_token") != 0) continue;
        if (json_object_is_type(v, json_type_object) &&
            !json_object_object_get_ex(v, "content", &content))
            continue;
        if (!json_object_is_type(content, json_type_string)) continue;
        if (json_object_object_get_ex(t->variables, key, NULL)) continue;
        json_object_object_add(t->variables, key, json_object_get(content));
    }
}

/* ---- GGUF ---- */

static cake_status gguf_template(cake_template **out, const cake_gguf *g, const char *key,
                                 cake_error *err) {
    cake_gguf_text s;
    cake_status st = cake_gguf_string(g, key, false, MAX_TEMPLATE, &s, err);
    return st == CAKE_OK && s.s ? cake_template_parse(out, s.s, s.n, key, err) : st;
}

/* The token of an id that some key names: what a template calls bos_token and so on. */
static void gguf_token(cake_chat_template *t, const cake_gguf *g, const char *key,
                       const char *variable) {
    const cake_gguf_value *tokens;
    uint64_t id = UINT64_MAX;
    if (cake_gguf_uint(g, key, true, 0, UINT32_MAX, &id, NULL) != CAKE_OK ||
        cake_gguf_array(g, "tokenizer.ggml.tokens", true, CAKE_GGUF_STRING, &tokens, NULL) !=
            CAKE_OK ||
        id >= tokens->n)
        return;
    const uint8_t *at = tokens->at;
    cake_gguf_text s = {0};
    for (uint64_t i = 0; i <= id; i++) s = cake_gguf_next_string(&at);
    if (s.n <= INT_MAX)
        json_object_object_add(t->variables, variable, json_object_new_string_len(s.s, (int)s.n));
}

/* Template and tokens of the GGUF file that model_path means, if it means one. */
static cake_status take_gguf(cake_chat_template *t, const char *model_path, cake_error *err) {
    static const char *const tokens[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                                            {"tokenizer.ggml.eos_token_id", "eos_token"},
                                            {"tokenizer.ggml.unknown_token_id", "unk_token"},
                                            {"tokenizer.ggml.padding_token_id", "pad_token"}};
    char *file = NULL;
    cake_gguf g;
    cake_status st = cake_gguf_find_file(model_path, &file, err);
    if (st != CAKE_OK || !file) return st;
    if ((st = cake_gguf_open(&g, file, err)) == CAKE_OK) {
        st = gguf_template(&t->plain, &g, "tokenizer.chat_template", err);
        if (st == CAKE_OK)
            st = gguf_template(&t->tool_use, &g, "tokenizer.chat_template.tool_use", err);
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens && st == CAKE_OK; i++)
            gguf_token(t, &g, tokens[i][0], tokens[i][1]);
        cake_gguf_deinit(&g);
    }
    free(file);
    return st;
}

cake_status cake_chat_template_open(cake_chat_template **out, const char *model_dir,
                                    cake_error *err) {
    cake_chat_template *t = new_chat();
    json_object *config = NULL, *special = NULL, *own = NULL;
    cake_status st = read_optional(model_dir, "tokenizer_config.json", &config, err);
    if (st == CAKE_OK) st = read_optional(model_dir, "special_tokens_map.json", &special, err);
    if (st == CAKE_OK) st = parse_file(&t->plain, model_dir, "chat_template.jinja", err);
    if (st == CAKE_OK)
        st = parse_file(&t->tool_use, model_dir, "additional_chat_templates/tool_use.jinja", err);
    if (st == CAKE_OK && !t->plain) st = read_optional(model_dir, "chat_template.json", &own, err);
    if (st == CAKE_OK && !t->plain) st = take_member(t, own, "chat_template.json", err);
    if (st == CAKE_OK && !t->plain) st = take_member(t, config, "tokenizer_config.json", err);
    if (st == CAKE_OK && !t->plain && !t->tool_use) st = take_gguf(t, model_dir, err);
    if (st == CAKE_OK && !t->plain) {
        t->plain = t->tool_use;
        t->tool_use = NULL;
    }
    if (st == CAKE_OK && !t->plain)
        st = cake_fail(
            err, CAKE_ENOTFOUND,
            "%s has no chat template (no chat_template.jinja, no chat_template in "
            "tokenizer_config.json, none in GGUF metadata); use a plain prompt with this model",
            model_dir);
    take_tokens(t, config);
    take_tokens(t, special);
    json_object_put(config);
    json_object_put(special);
    json_object_put(own);
    if (st == CAKE_OK)
        *out = t;
    else
        cake_chat_template_free(t);
    return st;
}

static void put_all(json_object *to, json_object *from) {
    if (!from) return;
    json_object_object_foreach(from, key, v) {
        json_object_object_add(to, key, json_object_get(v));
    }
}

static int64_t local_now(void) {
    time_t now = time(NULL);
    struct tm tm;
    return (int64_t)now + (localtime_r(&now, &tm) ? (int64_t)tm.tm_gmtoff : 0);
}

cake_status cake_chat_template_apply(const cake_chat_template *t, const cake_chat_request *q,
                                     char **text, size_t *len, cake_error *err) {
    if (!json_object_is_type(q->messages, json_type_array))
        return cake_fail(err, CAKE_EINVAL, "messages is not an array");
    if (q->tools && !json_object_is_type(q->tools, json_type_array))
        return cake_fail(err, CAKE_EINVAL, "tools is not an array");
    if (q->extra_kwargs && !json_object_is_type(q->extra_kwargs, json_type_object))
        return cake_fail(err, CAKE_EINVAL, "chat_template_kwargs is not an object");
    json_object *c = json_object_new_object();
    put_all(c, t->variables);
    put_all(c, q->extra_kwargs);
    json_object_object_add(c, "messages", json_object_get(q->messages));
    json_object_object_add(c, "tools",
                           json_object_get(q->tools)); /* NULL is None, as transformers has it */
    json_object_object_add(c, "documents", json_object_get(q->documents));
    json_object_object_add(c, "add_generation_prompt",
                           json_object_new_boolean(q->add_generation_prompt));
    const cake_template *use = q->tools && t->tool_use ? t->tool_use : t->plain;
    cake_status st =
        cake_template_render(use, c, q->now_unix ? q->now_unix : local_now(), NULL, text, len, err);
    json_object_put(c);
    return st;
}

static const char *token(const cake_chat_template *t, const char *key) {
    json_object *v;
    return json_object_object_get_ex(t->variables, key, &v) ? json_object_get_string(v) : "";
}

const char *cake_chat_template_bos(const cake_chat_template *t) {
    return token(t, "bos_token");
}
const char *cake_chat_template_eos(const cake_chat_template *t) {
    return token(t, "eos_token");
}
