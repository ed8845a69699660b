/* The chat verb's conversation with the user: lines in, commands, replies as they come. */
#ifndef CAKE_MASTER_CHAT_CHAT_H
#define CAKE_MASTER_CHAT_CHAT_H

#include "master/chat/conversation.h"
#include "master/ui/progress.h"

typedef struct {
    cake_http_target server; /* its stop_fd is also the prompt's interrupt: an eventfd */
    const char *history;     /* NULL: off */
    const char *name;        /* of the model, for the greeting; NULL: not known */
    cake_color color;
    bool quiet;
} cake_chat_config;

/* Talk until the input ends. c comes with system message and settings, which the user may change.
 * Without a terminal on standard input every line is a message, the replies go to standard output,
 * and the first failure ends it. Blocks. */
cake_status cake_chat_run(const cake_chat_config *config, cake_conversation *c, cake_error *err);

#endif
