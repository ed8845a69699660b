/* Template source to tokens, with Jinja's whitespace rules for trim_blocks and lstrip_blocks. */
#ifndef CAKE_MASTER_TEMPLATE_JINJA_LEX_H
#define CAKE_MASTER_TEMPLATE_JINJA_LEX_H

#include "master/template/jinja_value.h"

typedef enum {
    JT_END, /* of the source */
    JT_TEXT,
    JT_PRINT_BEGIN,
    JT_PRINT_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING,
    JT_NUMBER,
    JT_OP, /* op holds the characters: '+', or for two, first << 8 | second */
} cake_jj_token_type;

typedef struct {
    cake_jj_token_type type;
    uint32_t line;
    uint32_t op;
    bool integer;        /* JT_NUMBER, for a.0 */
    cake_jj_value value; /* text, name, string, number */
} cake_jj_token;

#define JJ_OP2(a, b) ((uint32_t)(a) << 8 | (uint32_t)(b))

/* All tokens of source, ending with JT_END; memory from r. Fails through r on a lexical error. */
cake_jj_token *cake_jj_lex(cake_jj *r, const char *source, size_t len, size_t *n_tokens);

#endif
