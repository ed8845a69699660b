/* Giving the terminal back: see terminal.h. */
#include "master/ui/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    struct termios before;
    const char *undo;
    volatile sig_atomic_t lent;
} terminal;

/* Only calls that a signal handler may make. In the background the terminal is somebody else's. */
static void give_back(void) {
    if (!terminal.lent || tcgetpgrp(0) != getpgrp()) return;
    tcsetattr(0, TCSANOW, &terminal.before);
    (void)!write(2, terminal.undo, strlen(terminal.undo));
}

static void on_death(int sig) {
    give_back();
    raise(sig); /* SA_RESETHAND: now for good */
}

bool cake_terminal_lend(struct termios *before, const char *undo) {
    static const int deadly[] = {SIGHUP,  SIGINT, SIGTERM, SIGQUIT, SIGABRT,
                                 SIGSEGV, SIGBUS, SIGFPE,  SIGILL};
    static bool at_exit;
    if (!isatty(0) || tcgetattr(0, before) != 0) return false;
    terminal.before = *before;
    terminal.undo = undo;
    terminal.lent = true;
    if (!at_exit) atexit(give_back);
    at_exit = true;
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        struct sigaction sa = {.sa_handler = on_death, .sa_flags = (int)SA_RESETHAND}, old;
        if (sigaction(deadly[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(deadly[i], &sa, NULL);
    }
    return true;
}

void cake_terminal_done(void) {
    terminal.lent = false;
}
