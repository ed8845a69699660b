/* Tell thinking from answer in a text that begins with <think>...</think>, as it comes in pieces.
 * Pure. Servers that separate the two themselves never show the tags. */
#ifndef CAKE_MASTER_CHAT_THINK_H
#define CAKE_MASTER_CHAT_THINK_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    int state;
    char held[16]; /* what may be the beginning of a tag */
    size_t n_held;
} cake_think; /* start from {0} */

typedef void (*cake_think_fn)(void *arg, const char *text, size_t len, bool thinking);

void cake_think_feed(cake_think *t, const char *text, size_t len, cake_think_fn fn, void *arg);
/* The end: what was held back. */
void cake_think_end(cake_think *t, cake_think_fn fn, void *arg);

#endif
