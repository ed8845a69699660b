/* JSON of the replies: OpenAI's objects from our numbers. Every function returns a fresh object
 * (json_object_put). Texts must be UTF-8. */
#ifndef CAKE_MASTER_SERVER_REPLY_H
#define CAKE_MASTER_SERVER_REPLY_H

#include "master/generate/generate.h"
#include "master/server/request.h"

typedef struct {
    const char *id, *model;
    int64_t created; /* unix seconds */
    cake_api_kind kind;
    bool stream; /* chunks */
} cake_reply_head;

typedef struct {
    uint32_t token, n_top;
    float logprob;
    cake_logprob top[CAKE_API_TOP_LOGPROBS_MAX];
} cake_reply_logprob;

json_object *cake_reply_error(const cake_api_error *e);
/* {"id", "object", "created", "model", "choices": []} */
json_object *cake_reply_new(const cake_reply_head *h);
/* cached_tokens: of the prompt's, how many were not computed again. */
void cake_reply_usage(json_object *reply, uint64_t prompt_tokens, uint64_t cached_tokens,
                      uint64_t completion_tokens);
/* n entries in the form of the kind; text_offset: of the first in the completion. */
json_object *cake_reply_logprobs(cake_api_kind kind, const cake_tokenizer *t,
                                 const cake_reply_logprob *v, size_t n, size_t text_offset);
/* {"id", "object": "model", ...} */
json_object *cake_reply_model(const char *id, int64_t created, uint32_t context);
/* What a token stands for, as valid UTF-8 (bytes that are none become U+FFFD). */
json_object *cake_reply_token_text(const cake_tokenizer *t, uint32_t id);

#endif
