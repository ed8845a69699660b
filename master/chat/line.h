/* Lines a person types, with editing, history and completion on a terminal; plain lines from
 * anything else. One thread; one reader per process. */
#ifndef CAKE_MASTER_CHAT_LINE_H
#define CAKE_MASTER_CHAT_LINE_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>

enum { CAKE_LINE_MAX = 1 << 20, CAKE_LINE_HISTORY = 1000, CAKE_LINE_CHOICES = 256 };

typedef struct cake_line_reader cake_line_reader;

/* What may stand for the last word of the text before the cursor. */
typedef struct {
    size_t from; /* where that word begins */
    char *choice[CAKE_LINE_CHOICES];
    size_t n;
} cake_line_choices;

typedef struct {
    const char *history; /* file, made with mode 0600; NULL: remember nothing */
    int stop_fd;         /* readable: the user interrupts; read (emptied) here */
    bool color;          /* of the prompt */
    /* Fill *out for the text before the cursor; NULL: no completion. */
    void (*complete)(const char *text, cake_line_choices *out);
} cake_line_config;

/* Before there are other threads: characters of more than one byte need a locale that knows them.
 */
void cake_line_set_locale(void);
/* A terminal on standard input and error is edited on; else lines are read as they come. The
 * history file is only a convenience: one that cannot be read or written is left alone. */
cake_line_reader *cake_line_open(const cake_line_config *c);
void cake_line_close(cake_line_reader *r);
bool cake_line_interactive(const cake_line_reader *r);

/* The next line, without its end, borrowed until the next call. The prompt is shown on a terminal
 * only. CAKE_ENOTFOUND: the input ended; CAKE_ECANCELED: interrupted, what was typed is dropped;
 * CAKE_ENOSPACE: longer than CAKE_LINE_MAX; CAKE_EIO. */
cake_status cake_line_read(cake_line_reader *r, const char *prompt, const char **line,
                           cake_error *err);
/* Add to the history. */
void cake_line_remember(cake_line_reader *r, const char *line);
/* While a reply is shown: what is typed is not echoed into it. */
void cake_line_echo(cake_line_reader *r, bool on);

/* A copy of text[0..len) as the next choice, unless there are too many. */
void cake_line_choice(cake_line_choices *out, const char *text, size_t len);

#endif
