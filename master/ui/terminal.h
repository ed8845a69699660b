/* The terminal's modes while somebody changes them: they are given back however the program ends.
 */
#ifndef CAKE_MASTER_UI_TERMINAL_H
#define CAKE_MASTER_UI_TERMINAL_H

#include <stdbool.h>
#include <termios.h>

/* *before gets the modes of standard input; false when that is no terminal. From now on they are
 * set again, and `undo` (a literal, may be "") is written to standard error, when exit() is called
 * or a signal ends the program, but for SIGKILL and those that somebody else deals with by now. */
bool cake_terminal_lend(struct termios *before, const char *undo);
/* The borrower has set the modes back. */
void cake_terminal_done(void);

#endif
