/* Private to master/chat/: the state that the loop and the commands share. */
#ifndef CAKE_MASTER_CHAT_CHAT_IMPL_H
#define CAKE_MASTER_CHAT_CHAT_IMPL_H

#include "master/chat/chat.h"
#include "master/chat/line.h"

typedef struct {
    const cake_chat_config *config;
    cake_conversation *c;
    cake_line_reader *lines;
    bool color;  /* of standard output */
    bool filter; /* standard output is a terminal: no control characters of the model's */
    bool leave;
    cake_conversation_stats last; /* reply */
    bool has_last;
} cake_chat;

/* A line that begins with '/'. Problems are told on stderr and returned. */
cake_status cake_chat_command(cake_chat *ch, const char *line, cake_error *err);
/* Ask for a reply to the last message and show it. */
cake_status cake_chat_reply(cake_chat *ch, cake_error *err);
/* Words that may stand at the end of the text (cake_line_config.complete). */
void cake_chat_complete(const char *text, cake_line_choices *out);
/* Text from outside, without control characters, for a terminal. */
void cake_chat_print_clean(FILE *f, const char *text, size_t len);

#endif
