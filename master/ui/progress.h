/* Progress on stderr: live bars with rate and ETA when it is a terminal, one line per 10 %
 * otherwise, nothing with -q. Several transfers at once, one bar each.
 *
 * Thread-safe: any thread may update any bar. A bar is redrawn at most ten times a second, by the
 * updates themselves; call cake_progress_tick from a timer to keep rate and ETA moving while
 * nothing arrives. */
#ifndef CAKE_MASTER_UI_PROGRESS_H
#define CAKE_MASTER_UI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum { CAKE_COLOR_AUTO, CAKE_COLOR_ALWAYS, CAKE_COLOR_NEVER } cake_color;

/* Should this stream be coloured: --color, NO_COLOR, TERM=dumb, and whether it is a terminal. */
bool cake_color_on(FILE *f, cake_color when);

typedef struct {
    FILE *out;  /* NULL: stderr */
    bool quiet; /* print nothing but cake_progress_error */
    cake_color color;
    int tty;                  /* 1 yes, 0 no, -1 ask the stream */
    int columns;              /* width of the terminal, 0: ask it */
    uint64_t (*now_ns)(void); /* NULL: cake_now_ns; tests bring their own */
} cake_progress_config;

typedef struct cake_progress cake_progress;
cake_progress *cake_progress_new(const cake_progress_config *cfg); /* cfg may be NULL */
/* Leaves finished bars on the screen and ends the line. NULL is fine. */
void cake_progress_free(cake_progress *p);

typedef enum { CAKE_PROGRESS_BYTES, CAKE_PROGRESS_COUNT } cake_progress_unit;

enum { CAKE_PROGRESS_MAX_BARS = 64 };

/* A new bar; total 0 means unknown (then amount and rate are shown without a percentage). The label
 * is copied. Returns its id, or -1 when all bars are taken (updates of -1 are ignored). */
int cake_progress_start(cake_progress *p, const char *label, uint64_t total,
                        cake_progress_unit unit);
/* Absolute amount done; start_at tells how much was there already (a resumed transfer), so that
 * rate and ETA stay honest. */
void cake_progress_update(cake_progress *p, int id, uint64_t done);
void cake_progress_resume(cake_progress *p, int id, uint64_t start_at);
void cake_progress_total(cake_progress *p, int id, uint64_t total);
/* End of a bar: text replaces rate and ETA ("ready", "from cache"); NULL: amount, time and mean
 * rate. The id is free again. */
void cake_progress_finish(cake_progress *p, int id, bool ok, const char *text);
void cake_progress_tick(cake_progress *p);

/* A line of its own above the bars ("found 3 workers"); not with quiet. */
void cake_progress_line(cake_progress *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* The same for something that went wrong; also with quiet. */
void cake_progress_error(cake_progress *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
