/* A conversation with a model behind an OpenAI-compatible server: what was said, what goes along
 * with every request, and the next reply as it comes.
 *
 * One thread. Functions that ask block. */
#ifndef CAKE_MASTER_CHAT_CONVERSATION_H
#define CAKE_MASTER_CHAT_CONVERSATION_H

#include "common/json.h"
#include "master/chat/http_client.h"

enum { CAKE_CONVERSATION_FILE_MAX = 8 << 20, CAKE_CONVERSATION_MESSAGES_MAX = 1024 };

typedef struct {
    char *system;          /* system message; NULL: none */
    char *model;           /* name sent along; NULL: none */
    json_object *messages; /* array of {"role", "content"}, without the system message */
    json_object *settings; /* members added to every request: "temperature", ... */
} cake_conversation;

void cake_conversation_init(cake_conversation *c);
void cake_conversation_deinit(cake_conversation *c);

/* Forget what was said; system message and settings stay. */
void cake_conversation_clear(cake_conversation *c);
void cake_conversation_set_system(cake_conversation *c, const char *text); /* NULL or "": none */
void cake_conversation_add(cake_conversation *c, const char *role, const char *text, size_t len);
size_t cake_conversation_length(const cake_conversation *c);
/* Take the last messages away down to (and with drop_user including) the last one of the user's.
 * False: there is none. */
bool cake_conversation_rewind(cake_conversation *c, bool drop_user);

/* A JSON file, 0600, with messages, system message and settings; load also takes a bare array of
 * messages as other programs write them. Errors of load leave c as it was. */
cake_status cake_conversation_save(const cake_conversation *c, const char *path, cake_error *err);
cake_status cake_conversation_load(cake_conversation *c, const char *path, cake_error *err);

typedef struct {
    bool has_usage;
    uint64_t prompt_tokens, cached_tokens, generated_tokens;
    double first_s, total_s; /* from asking to the first text, to the end */
    char finish[24];         /* "stop", "length", ...; "" when cut */
} cake_conversation_stats;

/* Text of the reply as it comes, UTF-8 as the server sends it. */
typedef void (*cake_conversation_fn)(void *arg, const char *text, size_t len, bool thinking);

/* Ask for a reply to the messages and append it. Ended by stop_fd (CAKE_ECANCELED) or cut by an
 * error, what came so far is appended all the same, unless it is empty. */
cake_status cake_conversation_ask(cake_conversation *c, const cake_http_target *t,
                                  cake_conversation_fn fn, void *arg,
                                  cake_conversation_stats *stats, cake_error *err);

/* A GET whose reply is JSON; *out is the caller's. */
cake_status cake_conversation_get(const cake_http_target *t, const char *path, json_object **out,
                                  cake_error *err);

#endif
