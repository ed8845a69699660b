/* JSON of the replies: see reply.h. */
#include "master/server/reply.h"
#include "common/mem.h"
#include "master/server/put.h"
#include "master/tokenizer/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_object *text_or_null(const char *s) {
    return s && *s ? json_object_new_string(s) : NULL;
}

json_object *cake_reply_error(const cake_api_error *e) {
    json_object *o = json_object_new_object(), *in = json_object_new_object();
    put(in, "message", json_object_new_string(e->message));
    put(in, "type", json_object_new_string(e->type ? e->type : "server_error"));
    put(in, "param", text_or_null(e->param));
    put(in, "code", text_or_null(e->code));
    put(o, "error", in);
    return o;
}

json_object *cake_reply_new(const cake_reply_head *h) {
    json_object *o = json_object_new_object();
    put(o, "id", json_object_new_string(h->id));
    put(o, "object",
        json_object_new_string(h->kind != CAKE_API_CHAT ? "text_completion"
                               : h->stream              ? "chat.completion.chunk"
                                                        : "chat.completion"));
    put(o, "created", json_object_new_int64(h->created));
    put(o, "model", json_object_new_string(h->model));
    put(o, "choices", json_object_new_array());
    return o;
}

void cake_reply_usage(json_object *reply, uint64_t prompt_tokens, uint64_t cached_tokens,
                      uint64_t completion_tokens) {
    json_object *u = json_object_new_object();
    put(u, "prompt_tokens", json_object_new_int64((int64_t)prompt_tokens));
    put(u, "completion_tokens", json_object_new_int64((int64_t)completion_tokens));
    put(u, "total_tokens", json_object_new_int64((int64_t)(prompt_tokens + completion_tokens)));
    json_object *details = json_object_new_object();
    put(details, "cached_tokens", json_object_new_int64((int64_t)cached_tokens));
    put(u, "prompt_tokens_details", details);
    put(reply, "usage", u);
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

static json_object *real(float v) {
    char text[32]; /* a float's own digits, not those of its double */
    snprintf(text, sizeof text, "%.7g", (double)v);
    return json_object_new_double_s((double)v, text);
}

static json_object *chat_entry(const cake_tokenizer *t, uint32_t token, float logprob) {
    json_object *o = json_object_new_object(), *bytes = json_object_new_array();
    size_t n;
    const uint8_t *b = cake_tokenizer_token_bytes(t, token, &n);
    put(o, "token", cake_reply_token_text(t, token));
    put(o, "logprob", real(logprob));
    for (size_t i = 0; b && i < n; i++) json_object_array_add(bytes, json_object_new_int(b[i]));
    put(o, "bytes", bytes);
    return o;
}

static json_object *chat_logprobs(const cake_tokenizer *t, const cake_reply_logprob *v, size_t n) {
    json_object *o = json_object_new_object(), *content = json_object_new_array();
    for (size_t i = 0; i < n; i++) {
        json_object *e = chat_entry(t, v[i].token, v[i].logprob), *top = json_object_new_array();
        for (uint32_t k = 0; k < v[i].n_top; k++)
            json_object_array_add(top, chat_entry(t, v[i].top[k].token, v[i].top[k].logprob));
        put(e, "top_logprobs", top);
        json_object_array_add(content, e);
    }
    put(o, "content", content);
    put(o, "refusal", NULL);
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
        json_object_array_add(logprobs, real(v[i].logprob));
        json_object_array_add(offsets, json_object_new_int64((int64_t)text_offset));
        text_offset += (size_t)json_object_get_string_len(text);
        json_object *top = json_object_new_object();
        for (uint32_t k = 0; k < v[i].n_top; k++) {
            json_object *name = cake_reply_token_text(t, v[i].top[k].token);
            put(top, json_object_get_string(name), real(v[i].top[k].logprob));
            json_object_put(name);
        }
        json_object_array_add(tops, top);
    }
    put(o, "tokens", tokens);
    put(o, "token_logprobs", logprobs);
    put(o, "top_logprobs", tops);
    put(o, "text_offset", offsets);
    return o;
}

json_object *cake_reply_model(const char *id, int64_t created, uint32_t context) {
    json_object *o = json_object_new_object();
    put(o, "id", json_object_new_string(id));
    put(o, "object", json_object_new_string("model"));
    put(o, "created", json_object_new_int64(created));
    put(o, "owned_by", json_object_new_string("cake"));
    if (context) put(o, "max_model_len", json_object_new_int64(context));
    return o;
}
