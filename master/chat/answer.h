/* What a model writes, taken apart while it comes: thinking, text, tool calls.
 *
 *   thinking     <think> ... </think> before the answer, or from its beginning when the prompt
 * ended inside of it (DeepSeek R1, Qwen3) Hermes       <tool_call>{"name": ..., "arguments":
 * {...}}</tool_call> (Qwen2.5, Qwen3, Hermes) Llama 3      the whole answer, or what follows
 * <|python_tag|>, is {"name": ..., "parameters": {...}} with the name of a given tool Mistral
 * [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...], or [TOOL_CALLS]name[ARGS]{...} of the
 * newer templates
 *
 * Arguments go out as they are written, byte by byte; a call is announced once its name is known
 * and its arguments begin. What looked like a call and is none goes out as text. White space
 * around thinking and calls is left out.
 *
 * One cake_answer belongs to one thread at a time. Memory: what is held back, at most
 * CAKE_ANSWER_HELD_MAX bytes, beyond which a call that does not begin is text. */
#ifndef CAKE_MASTER_CHAT_ANSWER_H
#define CAKE_MASTER_CHAT_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

enum { CAKE_ANSWER_HELD_MAX = 1 << 20, CAKE_TOOL_NAME_MAX = 64 };

typedef enum {
    CAKE_TOOLS_NONE,
    CAKE_TOOLS_HERMES,
    CAKE_TOOLS_LLAMA3,
    CAKE_TOOLS_MISTRAL,
    CAKE_TOOLS_MISTRAL_ARGS, /* the newer form; both are read as either */
} cake_tool_format;

typedef enum {
    CAKE_PART_THINKING,
    CAKE_PART_TEXT,
    CAKE_PART_CALL,      /* a new call; the text is the name of its tool */
    CAKE_PART_ARGUMENTS, /* more of the JSON text of the last call's arguments */
} cake_part_kind;
/* text: whole UTF-8 when what was pushed was, borrowed during the call; never empty. */
typedef void (*cake_part_fn)(void *arg, cake_part_kind kind, const char *text, size_t len);

typedef struct {
    bool thinks;   /* look for <think> at the beginning */
    bool thinking; /* the prompt ended inside of it */
    cake_tool_format format;
    const char *const *tools; /* [n_tools] names, borrowed */
    size_t n_tools;
    bool one_call; /* leave out calls after the first */
} cake_answer_config;

typedef struct cake_answer cake_answer;
cake_answer *cake_answer_new(const cake_answer_config *c, cake_part_fn fn, void *arg);
void cake_answer_free(cake_answer *a);
void cake_answer_push(cake_answer *a, const char *text, size_t len);
/* Nothing more comes: give out what is held back. */
void cake_answer_end(cake_answer *a);
/* Calls announced so far. */
size_t cake_answer_n_calls(const cake_answer *a);

#endif
