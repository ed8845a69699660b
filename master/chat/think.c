/* Thinking and answer: see think.h. */
#include "master/chat/think.h"

#include <string.h>

enum { BEGIN, THINKING, AFTER, ANSWER }; /* AFTER: blank lines between the two are dropped */

static const char open_tag[] = "<think>", close_tag[] = "</think>";

static void give(cake_think *t, bool thinking, cake_think_fn fn, void *arg) {
    if (t->n_held) fn(arg, t->held, t->n_held, thinking);
    t->n_held = 0;
}

/* One byte that may belong to a tag. */
static void step(cake_think *t, char c, cake_think_fn fn, void *arg) {
    const char *tag = t->state == BEGIN ? open_tag : close_tag;
    size_t n = strlen(tag);
    if (t->state == BEGIN && t->n_held == 0 && strchr(" \t\r\n", c)) return;
    if (c != tag[t->n_held]) { /* neither tag repeats its first byte: start over */
        give(t, t->state == THINKING, fn, arg);
        if (t->state == BEGIN) t->state = ANSWER;
        if (t->state == ANSWER || c != tag[0]) {
            fn(arg, &c, 1, t->state == THINKING);
            return;
        }
    }
    t->held[t->n_held++] = c;
    if (t->n_held < n) return;
    t->n_held = 0;
    t->state = t->state == BEGIN ? THINKING : AFTER;
}

void cake_think_feed(cake_think *t, const char *text, size_t len, cake_think_fn fn, void *arg) {
    for (size_t at = 0; at < len;) {
        if (t->state == AFTER) {
            if (strchr(" \t\r\n", text[at]) && text[at]) {
                at++;
                continue;
            }
            t->state = ANSWER;
        }
        if (t->state == ANSWER) {
            fn(arg, text + at, len - at, false);
            return;
        }
        /* The long stretches of thinking in one piece. */
        const char *lt =
            t->state == THINKING && t->n_held == 0 ? memchr(text + at, '<', len - at) : text + at;
        size_t n = lt ? (size_t)(lt - text) - at : len - at;
        if (n) fn(arg, text + at, n, true);
        at += n;
        if (at < len) step(t, text[at++], fn, arg);
    }
}

void cake_think_end(cake_think *t, cake_think_fn fn, void *arg) {
    give(t, t->state == THINKING, fn, arg);
}
