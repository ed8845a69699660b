/* The forms in which answers are told: one dialect per API. All functions run on the HTTP thread.
 *
 * An answer comes as parts (master/chat/answer.h); each choice keeps what came so far. A stream is
 * begin, (progress), parts, finish of each choice, end; or error anywhere. A reply that is no
 * stream is `whole`, made from what the choices kept. */
#ifndef CAKE_MASTER_SERVER_DIALECT_H
#define CAKE_MASTER_SERVER_DIALECT_H

#include "master/server/jobs.h"

typedef struct cake_dialect {
    void (*begin)(cake_job *j);
    /* done of total tokens of the prompt, cached of them without computing; NULL: not told */
    void (*progress)(cake_job *j, uint32_t cached, uint32_t done);
    /* text is borrowed; c has it already (and c->calls the new call). len 0: only a logprob is
     * pending. */
    void (*part)(cake_job *j, cake_choice *c, cake_part_kind kind, const char *text, size_t len);
    void (*finish)(cake_job *j, cake_choice *c);
    void (*end)(cake_job *j);
    json_object *(*whole)(cake_job *j);
    json_object *(*error)(const cake_api_error *e);
    json_object *(*stream_error)(const cake_api_error *e); /* NULL: as error */
    const char *error_event; /* name of the event that carries it in a stream; NULL: none */
    const char *keep_alive;  /* sent in silence */
} cake_dialect;

const cake_dialect *cake_dialect_of(cake_api_kind kind);
extern const cake_dialect cake_dialect_openai, cake_dialect_messages, cake_dialect_responses;

/* One server-sent event (name NULL: only data); o is taken. The client may be gone after it. */
void cake_job_send(cake_job *j, const char *name, json_object *o);
void cake_job_send_text(cake_job *j, const char *text);
/* "stop", "length" or "tool_calls"; NULL before the end. */
const char *cake_choice_finish(const cake_choice *c);
/* Tokens of the prompts, those of them that were not computed again, and generated ones. */
typedef struct {
    uint64_t prompt, cached, generated;
} cake_usage;
cake_usage cake_job_usage(const cake_job *j);

#endif
