/* Chat templates: the Jinja subset that models ship, rendered as transformers renders it
 * (jinja2 with trim_blocks, lstrip_blocks and loop controls, in its immutable sandbox).
 *
 * A template sees its context and nothing else: no files, no environment, no clock but the one
 * given. Steps, output, memory and depth are bounded (cake_template_limits); each limit is an
 * error.
 *
 * Depth limits the C stack too: a render stays below 512 KiB of it.
 *
 * Threads: a parsed template is immutable, any number of threads may render it at once (the json-c
 * objects handed in are read, and json-c counts references without locks: give each render its
 * own). Rendering allocates from its own arena; nothing blocks except cake_chat_template_open,
 * which reads files. */
#ifndef CAKE_MASTER_TEMPLATE_TEMPLATE_H
#define CAKE_MASTER_TEMPLATE_TEMPLATE_H

#include "common/status.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct cake_template cake_template;

typedef struct {
    size_t steps;        /* nodes evaluated and bytes scanned by filters */
    size_t output_bytes; /* of the rendered text */
    size_t memory_bytes; /* of all values made while rendering */
    unsigned depth;      /* nested evaluation: expressions, calls, values */
} cake_template_limits;

/* 20 million steps, 64 MiB of text, 256 MiB of values, depth 1000. */
extern const cake_template_limits cake_template_limits_default;

/* Parse len bytes of UTF-8 source. name is used in messages ("chat_template.jinja:12: ..."),
 * copied. CAKE_EFORMAT for a syntax error, CAKE_EUNSUPPORTED for Jinja outside the subset (include,
 * extends, ...). */
cake_status cake_template_parse(cake_template **out, const char *source, size_t len,
                                const char *name, cake_error *err);
void cake_template_free(cake_template *t);

/* Render. context: a JSON object whose members are the variables (order of members is kept), or
 * NULL. now_unix: seconds since 1970 for strftime_now, shown as UTC (add the offset for local
 * time). *text is malloc'd for the caller, NUL-terminated after *len bytes. CAKE_EINVAL: the
 * template refused (raise_exception) or failed on this context (the message has the template line);
 * CAKE_ENOSPACE: a limit was reached. limits: NULL for the default. */
cake_status cake_template_render(const cake_template *t, json_object *context, int64_t now_unix,
                                 const cake_template_limits *limits, char **text, size_t *len,
                                 cake_error *err);

/* The chat template of a model folder with the tokens it may name. */
typedef struct cake_chat_template cake_chat_template;

/* Reads chat_template.jinja (and additional_chat_templates/tool_use.jinja), else "chat_template" of
 * chat_template.json or tokenizer_config.json: a string, or a list of {name, template} ("default",
 * "tool_use"), else what the metadata of the GGUF file there says. Special tokens (bos_token,
 * eos_token, ...) come from tokenizer_config.json and special_tokens_map.json. CAKE_ENOTFOUND when
 * the model has no template. */
cake_status cake_chat_template_open(cake_chat_template **out, const char *model_dir,
                                    cake_error *err);
/* The same from memory: for tests and for callers that got the text elsewhere. bos/eos may be NULL.
 */
cake_status cake_chat_template_new(cake_chat_template **out, const char *source, size_t len,
                                   const char *bos_token, const char *eos_token, cake_error *err);
void cake_chat_template_free(cake_chat_template *t);

typedef struct {
    json_object *messages;  /* array of {"role", "content", ...} */
    json_object *tools;     /* array, or NULL */
    json_object *documents; /* array, or NULL */
    bool add_generation_prompt;
    json_object *extra_kwargs; /* object: more variables ("enable_thinking"), or NULL */
    int64_t now_unix;          /* for strftime_now; 0: the time of the call */
} cake_chat_request;

/* Render a conversation. *text as for cake_template_render. The request's objects are only read. */
cake_status cake_chat_template_apply(const cake_chat_template *t, const cake_chat_request *req,
                                     char **text, size_t *len, cake_error *err);

/* "" when the model names none. Borrowed from t. */
const char *cake_chat_template_bos(const cake_chat_template *t);
const char *cake_chat_template_eos(const cake_chat_template *t);

#endif
