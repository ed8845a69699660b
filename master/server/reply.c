/* JSON of the replies: see reply.h. */
#include "master/server/reply.h"
#include "common/mem.h"
#include "master/tokenizer/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(json_object *o, const char *key, json_object *v) {
    json_object_object_add(o, key, v);
}

static json_object *text_or_null(const char *s) {
    return s && *s ? json_object_new_string(s) : NULL;
}

json_object *cake_reply_error(const cake_api_error *e) {
    json_object *o = json_object_new_object(), *in = json_object_new_object();
    add(in, "message", json_object_new_string(e->message));
    add(in, "type", json_object_new_string(e->type ? e->type : "server_error"));
    add(in, "param", text_or_null(e->param));
    add(in, "code", text_or_null(e->code));
    add(o, "error", in);
    return o;
}

json_object *cake_reply_new(const cake_reply_head *h) {
    json_object *o = json_object_new_object();
    add(o, "id", json_object_new_string(h->id));
    add(o, "object",
        json_object_new_string(h->kind != CAKE_API_CHAT ? "text_completion"
                               : h->stream              ? "chat.completion.chunk"
                                                        : "chat.completion"));
    add(o, "created", json_object_new_int64(h->created));
    add(o, "model", json_object_new_string(h->model));
    add(o, "choices", json_object_new_array());
    return o;
}

void cake_reply_usage(json_object *reply, uint64_t prompt_tokens, uint64_t cached_tokens,
                      uint64_t completion_tokens) {
    json_object *u = json_object_new_object();
    add(u, "prompt_tokens", json_object_new_int64((int64_t)prompt_tokens));
    add(u, "completion_tokens", json_object_new_int64((int64_t)completion_tokens));
    add(u, "total_tokens", json_object_new_int64((int64_t)(prompt_tokens + completion_tokens)));
    json_object *details = json_object_new_object();
    add(details, "cached_tokens", json_object_new_int64((int64_t)cached_tokens));
    add(u, "prompt_tokens_details", details);
    add(reply, "usage", u);
}

json_object *cake_reply_token_text(const cake_tokenizer *t, uint32_t id) {
    size_t n, out = 0;
    const uint8_t *b = cake_tokenizer_token_bytes(t, id, &n);
    if (!b || tok_utf8_valid(b, n) == n)
        return json_object_new_string_len(b ? (const char *)b : "", (int)n);
    char *s = cake_malloc(3 * n + 1);
    for (size_t i = 0; i < n;) {
        size_t ok = tok_utf8_valid(b + i, n - i);
        memcpy(s + out, b + i, ok);
        i += ok, out += ok;
        if (i == n) break;
        bool cut;
        i += tok_utf8_ill(b + i, n - i, &cut);
        memcpy(s + out, "\xEF\xBF\xBD", 3);
        out += 3;
    }
    json_object *o = json_object_new_string_len(s, (int)out);
    free(s);
    return o;
}

static json_object *number(float v) {
    char text[32]; /* a float's own digits, not those of its double */
    snprintf(text, sizeof text, "%.7g", (double)v);
    return json_object_new_double_s((double)v, text);
}

static json_object *chat_entry(const cake_tokenizer *t, uint32_t token, float logprob) {
    json_object *o = json_object_new_object(), *bytes = json_object_new_array();
    size_t n;
    const uint8_t *b = cake_tokenizer_token_bytes(t, token, &n);
    add(o, "token", cake_reply_token_text(t, token));
    add(o, "logprob", number(logprob));
    for (size_t i = 0; b && i < n; i++) json_object_array_add(bytes, json_object_new_int(b[i]));
    add(o, "bytes", bytes);
    return o;
}

static json_object *chat_logprobs(const cake_tokenizer *t, const cake_reply_logprob *v, size_t n) {
    json_object *o = json_object_new_object(), *content = json_object_new_array();
    for (size_t i = 0; i < n; i++) {
        json_object *e = chat_entry(t, v[i].token, v[i].logprob), *top = json_object_new_array();
        for (uint32_t k = 0; k < v[i].n_top; k++)
            json_object_array_add(top, chat_entry(t, v[i].top[k].token, v[i].top[k].logprob));
        add(e, "top_logprobs", top);
        json_object_array_add(content, e);
    }
    add(o, "content", content);
    add(o, "refusal", NULL);
    return o;
}

json_object *cake_reply_logprobs(cake_api_kind kind, const cake_tokenizer *t,
                                 const cake_reply_logprob *v, size_t n, size_t text_offset) {
    if (kind == CAKE_API_CHAT) return chat_logprobs(t, v, n);
    json_object *o = json_object_new_object(), *tokens = json_object_new_array(),
                *logprobs = json_object_new_array(), *tops = json_object_new_array(),
                *offsets = json_object_new_array();
    for (size_t i = 0; i < n; i++) {
        json_object *text = cake_reply_token_text(t, v[i].token);
        json_object_array_add(tokens, text);
        json_object_array_add(logprobs, number(v[i].logprob));
        json_object_array_add(offsets, json_object_new_int64((int64_t)text_offset));
        text_offset += (size_t)json_object_get_string_len(text);
        json_object *top = json_object_new_object();
        for (uint32_t k = 0; k < v[i].n_top; k++) {
            json_object *name = cake_reply_token_text(t, v[i].top[k].token);
            add(top, json_object_get_string(name), number(v[i].top[k].logprob));
            json_object_put(name);
        }
        json_object_array_add(tops, top);
    }
    add(o, "tokens", tokens);
    add(o, "token_logprobs", logprobs);
    add(o, "top_logprobs", tops);
    add(o, "text_offset", offsets);
    return o;
}

json_object *cake_reply_model(const char *id, int64_t created, uint32_t context) {
    json_object *o = json_object_new_object();
    add(o, "id", json_object_new_string(id));
    add(o, "object", json_object_new_string("model"));
    add(o, "created", json_object_new_int64(created));
    add(o, "owned_by", json_object_new_string("cake"));
    if (context) add(o, "max_model_len", json_object_new_int64(context));
    return o;
}
