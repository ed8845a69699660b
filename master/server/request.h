/* What a client asks for, checked: JSON bodies of the OpenAI-compatible routes.
 *
 * Unknown fields are ignored. Fields that this build cannot honour (images, audio, suffix, ...) are
 * refused by name, never dropped silently. Every number has a range; what is outside gives a
 * 400 that names the field. */
#ifndef CAKE_MASTER_SERVER_REQUEST_H
#define CAKE_MASTER_SERVER_REQUEST_H

#include "common/json.h"
#include "master/chat/answer.h"
#include "master/sampler/sampler.h"

enum {
    CAKE_API_BODY_MAX = 8 << 20,
    CAKE_API_DEPTH_MAX = 64,
    CAKE_API_MESSAGES_MAX = 1024,
    CAKE_API_TOOLS_MAX = 128,
    CAKE_API_STOP_MAX = 16,
    CAKE_API_STOP_BYTES_MAX = 256,
    CAKE_API_N_MAX = 4,
    CAKE_API_PROMPTS_MAX = 16,
    CAKE_API_TOP_LOGPROBS_MAX = 20,
    CAKE_API_TOKENS_MAX = 1 << 24,
};

/* The error object of a reply. */
typedef struct {
    int http;                /* 0: no error */
    const char *type, *code; /* static; code may be NULL */
    char param[64];          /* "": none */
    char message[CAKE_ERROR_MAX];
} cake_api_error;

/* Fill e and return false. param may be NULL. */
bool cake_api_fail(cake_api_error *e, int http, const char *type, const char *code,
                   const char *param, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* 400 invalid_request_error. */
bool cake_api_invalid(cake_api_error *e, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

typedef enum {
    CAKE_API_CHAT,       /* /v1/chat/completions */
    CAKE_API_COMPLETION, /* /v1/completions */
    CAKE_API_TOKENIZE,
    CAKE_API_DETOKENIZE,
    CAKE_API_TEMPLATE,  /* /apply-template */
    CAKE_API_MESSAGES,  /* /v1/messages (Anthropic's) */
    CAKE_API_COUNT,     /* /v1/messages/count_tokens */
    CAKE_API_RESPONSES, /* /v1/responses */
} cake_api_kind;

typedef struct {
    const char *text; /* NULL: ids */
    size_t len;
    json_object *ids; /* array of integers */
} cake_api_prompt;

typedef enum {
    CAKE_TOOL_NONE,
    CAKE_TOOL_AUTO,
    CAKE_TOOL_REQUIRED,
    CAKE_TOOL_NAMED
} cake_tool_choice;
typedef enum { CAKE_FORMAT_TEXT, CAKE_FORMAT_OBJECT, CAKE_FORMAT_SCHEMA } cake_format;

typedef struct {
    cake_api_kind kind;
    json_object *body;     /* owned; everything below borrows from it or from messages */
    json_object *messages; /* owned: [{"role", "content": text, ...}] */
    json_object *kwargs;   /* owned: more variables of the template */
    json_object *tools;    /* owned: as templates take them, or NULL */
    const char *tool_name[CAKE_API_TOOLS_MAX];
    bool tool_strict[CAKE_API_TOOLS_MAX]; /* its arguments follow its schema, or it is refused */
    size_t n_tools;
    cake_tool_choice choice;
    const char *chosen_tool; /* CAKE_TOOL_NAMED */
    bool one_call;           /* at most one call */
    cake_format format;      /* of the text */
    json_object *schema;     /* CAKE_FORMAT_SCHEMA */
    const char *model;       /* NULL: none named */
    cake_api_prompt prompt[CAKE_API_PROMPTS_MAX];
    size_t n_prompts;
    cake_sampler_params sampler; /* logit_bias points to bias */
    cake_logit_bias *bias;       /* owned */
    bool has_seed;
    int64_t max_tokens; /* -1: as many as fit */
    const char *stop[CAKE_API_STOP_MAX];
    size_t n_stop;
    uint32_t n;       /* choices of each prompt */
    int32_t priority; /* lower goes first among the requests of one client */
    bool stream, include_usage, logprobs, ignore_eos, return_progress;
    uint32_t top_logprobs;
    bool add_special, parse_special, with_pieces; /* tokenize */
} cake_api_request;

/* Parse body[0..len). defaults: the sampler's when a field is absent. On failure *e says why and
 * nothing needs to be freed. */
bool cake_api_parse(cake_api_request *r, cake_api_kind kind, const char *body, size_t len,
                    const cake_sampler_params *defaults, cake_api_error *e);
void cake_api_request_deinit(cake_api_request *r);

#endif
