/* The forms in which models call tools, and grammars of constrained answers.
 *
 * Threads: re-entrant. cake_tool_format_of renders the template a few times. */
#ifndef CAKE_MASTER_CHAT_TOOLS_H
#define CAKE_MASTER_CHAT_TOOLS_H

#include "master/chat/answer.h"
#include "master/grammar/grammar.h"
#include "master/grammar/token_trie.h"
#include "master/template/template.h"

enum { CAKE_CALLS_MAX = 16 }; /* in one constrained answer */

/* How this template writes calls, found by giving it one; CAKE_TOOLS_NONE: it shows none, or in a
 * form this build does not read. */
cake_tool_format cake_tool_format_of(const cake_chat_template *t);

/* The strings that open and close calls and thinking; a NULL ends the list. Where they are special
 * tokens they must reach the text. */
extern const char *const cake_chat_markers[];

typedef enum {
    CAKE_THINK_NONE,
    CAKE_THINK_MAY,  /* the answer may begin with <think> */
    CAKE_THINK_OPEN, /* the prompt ended inside of it */
} cake_thinking;
/* CAKE_THINK_OPEN when the prompt ends with <think>, else CAKE_THINK_MAY where the model has such a
 * token. */
cake_thinking cake_thinking_of(const cake_tokenizer *t, const char *prompt, size_t len);

typedef struct {
    cake_tool_format format;
    json_object *tools; /* [{"function": {"name", "parameters"}}], or NULL */
    const bool *strict; /* [n]: arguments follow the schema, or it is refused; else they do
                           where the schema is supported */
    const char *chosen; /* only this tool, or NULL */
    bool calls;         /* an answer may consist of calls */
    bool one_call;
    bool text;           /* an answer may be JSON text: */
    json_object *schema; /* of this schema, or NULL: any object */
    cake_thinking thinking;
} cake_answer_grammar;

/* CAKE_EUNSUPPORTED, CAKE_EINVAL, CAKE_ENOSPACE as cake_schema_compile. *tool (may be NULL): the
 * number of the tool whose schema was at fault, or -1. */
cake_status cake_answer_grammar_new(cake_grammar **out, const cake_answer_grammar *q,
                                    const cake_token_trie *trie, int *tool, cake_error *err);

#endif
