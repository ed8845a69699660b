/* Line editing over libedit: see line.h. libedit reads through our own function, so that an
 * interrupt and a resized window are seen at once and no signal handler of its own is needed. Text
 * that is pasted (the terminal says so) does not edit or send: its ends of lines and tabs stand in
 * the line as their symbols until it is taken. */
#include "master/chat/line.h"
#include "common/file.h"
#include "common/mem.h"
#include "master/ui/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#define PASTE_ON   "\033[?2004h"
#define PASTE_OFF  "\033[?2004l"
#define PLAIN      "\033[0m"
#define LF_SYMBOL  "\xe2\x90\xa4" /* U+2424 */
#define TAB_SYMBOL "\xe2\x90\x89" /* U+2409 */

enum {
    CTRL_D = 4,
    ESCAPE_MS = 30,   /* the rest of a terminal's sequence comes within that */
    REDRAW_KEY = 037, /* Tab is dealt with here, as libedit never frees a function added to it */
};

struct cake_line_reader {
    cake_line_config c;
    bool interactive, interrupted, failed;
    bool marks_pastes; /* the terminal is one that may */
    EditLine *el;
    History *history;
    char prompt[64];
    bool pasting;
    bool typed_ahead; /* what is read was there before the line was asked for */
    char ahead[8];    /* read too far: what only began like a mark of pasting */
    size_t n_ahead, ahead_at;
    char *line; /* last one */
    size_t n_line, line_cap;
    char in[4096]; /* read and not yet used; without a terminal */
    size_t in_at, in_len;
    bool in_end;
    struct termios cooked;
};

static volatile sig_atomic_t resized;
static void on_winch(int sig) {
    (void)sig;
    resized = 1;
}

/* ---- libedit's callbacks ---- */

static cake_line_reader *reader_of(EditLine *el) {
    void *r = NULL;
    el_get(el, EL_CLIENTDATA, &r);
    return r;
}

static char *prompt_of(EditLine *el) {
    return reader_of(el)->prompt;
}

static bool has_input(void) {
    struct pollfd p = {.fd = 0, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

/* True when standard input has something; false: interrupted. */
static bool wait_input(cake_line_reader *r) {
    for (;;) {
        struct pollfd p[2] = {{.fd = 0, .events = POLLIN}, {.fd = r->c.stop_fd, .events = POLLIN}};
        int n = poll(p, 2, -1);
        if (resized && r->el) {
            resized = 0;
            el_resize(r->el);
        }
        if (n < 0 && errno != EINTR) return true; /* let read say why */
        if (n <= 0) continue;
        if (p[1].revents) {
            uint64_t count;
            (void)!read(r->c.stop_fd, &count, sizeof count);
            r->interrupted = true;
            return false;
        }
        return true;
    }
}

/* 1, 0 at the end of input, -1. */
static int next_byte(cake_line_reader *r, char *c) {
    if (r->ahead_at < r->n_ahead) {
        *c = r->ahead[r->ahead_at++];
        return 1;
    }
    for (;;) {
        if (!wait_input(r)) return -1;
        ssize_t n = read(0, c, 1);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n < 0) r->failed = true;
        return (int)n;
    }
}

/* An escape was read: is it the beginning or the end of pasted text? Otherwise what follows it
 * waits in r->ahead. */
static bool take_paste_mark(cake_line_reader *r) {
    static const char mark[] = "[200~";
    if (r->ahead_at < r->n_ahead) return false;
    r->n_ahead = r->ahead_at = 0;
    while (r->n_ahead < sizeof mark - 1) {
        struct pollfd p = {.fd = 0, .events = POLLIN};
        char c;
        if (poll(&p, 1, ESCAPE_MS) <= 0 || read(0, &c, 1) != 1) return false;
        size_t i = r->n_ahead++;
        r->ahead[i] = c;
        if (c != mark[i] && !(i == 3 && c == '1')) return false;
    }
    r->pasting = r->ahead[3] == '0';
    r->n_ahead = 0;
    return true;
}

/* What a byte of pasted text stands as; 0: as itself, -1: it is left out. */
static wint_t pasted(char c) {
    if (c == '\r' || c == '\n') return 0x2424;
    if (c == '\t') return 0x2409;
    return (unsigned char)c < 0x20 || c == 0x7f ? (wint_t)-1 : 0;
}

/* Tab: put in what all choices have in common, else list them. */
static void complete(cake_line_reader *r) {
    EditLine *el = r->el;
    const LineInfo *li = el_line(el);
    char *text = cake_strndup(li->buffer, (size_t)(li->cursor - li->buffer));
    cake_line_choices *found = cake_calloc(1, sizeof *found);
    if (r->c.complete) r->c.complete(text, found);
    size_t typed = strlen(text) - found->from, common = 0;
    if (found->n) {
        common = strlen(found->choice[0]);
        for (size_t i = 1; i < found->n; i++) {
            size_t k = 0;
            while (k < common && found->choice[i][k] == found->choice[0][k]) k++;
            common = k;
        }
    }
    if (common > typed) {
        char *more = cake_strndup(found->choice[0] + typed, common - typed);
        el_insertstr(el, more);
        free(more);
    } else if (found->n > 1) {
        fputc('\n', stderr);
        for (size_t i = 0; i < found->n; i++)
            fprintf(stderr, "%s%s", found->choice[i], i + 1 < found->n ? "  " : "\n");
    } else {
        fputc('\a', stderr);
    }
    for (size_t i = 0; i < found->n; i++) free(found->choice[i]);
    free(found);
    free(text);
}

static int get_char(EditLine *el, wchar_t *out) {
    cake_line_reader *r = reader_of(el);
    mbstate_t mb = {0};
    for (;;) {
        char c;
        r->typed_ahead = r->typed_ahead && has_input();
        int n = next_byte(r, &c);
        if (n <= 0) return n;
        if (c == '\033' && take_paste_mark(r)) continue;
        if (c == 0) { /* what the kernel makes of a Ctrl-D before the terminal was ours */
            if (!r->typed_ahead) continue;
            *out = CTRL_D;
            return 1;
        }
        wint_t symbol = r->pasting ? pasted(c) : 0;
        if (symbol == (wint_t)-1) continue;
        if (c == '\t' && !symbol) {
            complete(r);
            *out = REDRAW_KEY;
            return 1;
        }
        if (symbol) {
            *out = (wchar_t)symbol;
            return 1;
        }
        size_t k = mbrtowc(out, &c, 1, &mb);
        if (k == (size_t)-2) continue;
        if (k == (size_t)-1) *out = L'?';
        return 1;
    }
}

void cake_line_choice(cake_line_choices *out, const char *text, size_t len) {
    if (out->n < CAKE_LINE_CHOICES) out->choice[out->n++] = cake_strndup(text, len);
}

/* ---- history ---- */

/* The new file is complete before it takes the place of the old one. */
static void save_history(const cake_line_reader *r) {
    HistEvent ev;
    char *tmp = cake_asprintf("%s.%ld", r->c.history, (long)getpid());
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (f) {
        bool ok = history(r->history, &ev, H_SAVE_FP, f) >= 0;
        ok = fclose(f) == 0 && ok;
        if (!ok || rename(tmp, r->c.history) != 0) unlink(tmp);
    } else if (fd >= 0) {
        close(fd);
    }
    free(tmp);
}

static void open_history(cake_line_reader *r) {
    HistEvent ev;
    r->history = history_init();
    if (!r->history) return;
    history(r->history, &ev, H_SETSIZE, CAKE_LINE_HISTORY);
    history(r->history, &ev, H_SETUNIQUE, 1);
    if (r->c.history) history(r->history, &ev, H_LOAD, r->c.history);
    el_set(r->el, EL_HIST, history, r->history);
}

void cake_line_remember(cake_line_reader *r, const char *line) {
    HistEvent ev;
    if (!r->history || !*line) return;
    char *shown = cake_malloc(3 * strlen(line) + 1), *to = shown;
    for (; *line; line++)
        if (*line == '\n' || *line == '\t')
            to = stpcpy(to, *line == '\n' ? LF_SYMBOL : TAB_SYMBOL);
        else
            *to++ = *line;
    *to = 0;
    history(r->history, &ev, H_ENTER, shown);
    free(shown);
    if (r->c.history) save_history(r);
}

/* ---- life ---- */

void cake_line_set_locale(void) {
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
}

static bool open_editor(cake_line_reader *r) {
    r->el = el_init("cake-master", stdin, stderr, stderr);
    if (!r->el) return false;
    el_set(r->el, EL_CLIENTDATA, r);
    el_set(r->el, EL_PROMPT_ESC, prompt_of, '\1');
    el_set(r->el, EL_SIGNAL, 0);
    el_set(r->el, EL_EDITOR, "emacs");
    el_set(r->el, EL_GETCFN, get_char);
    el_set(r->el, EL_BIND, "^_", "ed-redisplay", NULL); /* REDRAW_KEY */
    el_set(r->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_set(r->el, EL_BIND, "\\e[1;5C", "em-next-word", NULL);
    el_set(r->el, EL_BIND, "\\e[1;5D", "ed-prev-word", NULL);
    el_set(r->el, EL_BIND, "\\e[3~", "ed-delete-next-char", NULL);
    open_history(r);
    struct sigaction sa = {.sa_handler = on_winch};
    sigaction(SIGWINCH, &sa, NULL);
    return true;
}

cake_line_reader *cake_line_open(const cake_line_config *c) {
    cake_line_reader *r = cake_calloc(1, sizeof *r);
    r->c = *c;
    const char *term = getenv("TERM");
    r->marks_pastes = term && strcmp(term, "dumb") != 0;
    r->interactive = isatty(2) &&
                     cake_terminal_lend(&r->cooked, r->marks_pastes ? PASTE_OFF PLAIN : "") &&
                     open_editor(r);
    return r;
}

void cake_line_close(cake_line_reader *r) {
    if (!r) return;
    if (r->el) el_end(r->el);
    cake_terminal_done();
    if (r->history) history_end(r->history);
    free(r->line);
    free(r);
}

bool cake_line_interactive(const cake_line_reader *r) {
    return r->interactive;
}

void cake_line_echo(cake_line_reader *r, bool on) {
    if (!r->interactive) return;
    struct termios t = r->cooked;
    if (!on) t.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(0, TCSADRAIN, &t);
}

/* ---- reading ---- */

static cake_status keep(cake_line_reader *r, const char *text, size_t len, cake_error *err) {
    if (len > CAKE_LINE_MAX - r->n_line)
        return cake_fail(err, CAKE_ENOSPACE, "a line of more than %d KiB", CAKE_LINE_MAX >> 10);
    if (r->n_line + len + 1 > r->line_cap) {
        r->line_cap = 2 * (r->n_line + len + 1);
        r->line = cake_realloc(r->line, r->line_cap);
    }
    memcpy(r->line + r->n_line, text, len);
    r->n_line += len;
    r->line[r->n_line] = 0;
    return CAKE_OK;
}

/* The symbols of pasted text are what they stand for again. */
static void restore(cake_line_reader *r) {
    char *to = r->line;
    for (const char *at = r->line; *at;) {
        bool lf = strncmp(at, LF_SYMBOL, 3) == 0;
        if (lf || strncmp(at, TAB_SYMBOL, 3) == 0) {
            *to++ = lf ? '\n' : '\t';
            at += 3;
        } else {
            *to++ = *at++;
        }
    }
    while (to > r->line && to[-1] == '\n') to--;
    *to = 0;
    r->n_line = (size_t)(to - r->line);
}

static cake_status read_edited(cake_line_reader *r, const char *prompt, cake_error *err) {
    snprintf(r->prompt, sizeof r->prompt, r->c.color ? "\1\033[1;35m\1%s\1\033[0m\1" : "%s",
             prompt);
    int n = 0;
    r->typed_ahead = true;
    if (r->marks_pastes) fputs(PASTE_ON, stderr);
    const char *text = el_gets(r->el, &n);
    if (r->marks_pastes) fputs(PASTE_OFF, stderr);
    r->pasting = false;
    if (r->interrupted) {
        r->interrupted = false;
        el_reset(r->el);
        fputc('\n', stderr);
        return cake_fail(err, CAKE_ECANCELED, "interrupted");
    }
    if (r->failed) return cake_fail(err, CAKE_EIO, "cannot read the terminal: %s", strerror(errno));
    if (!text || n <= 0) {
        fputc('\n', stderr);
        return cake_fail(err, CAKE_ENOTFOUND, "end of input");
    }
    size_t len = strlen(text);
    while (len && (text[len - 1] == '\n' || text[len - 1] == '\r')) len--;
    cake_status st = keep(r, text, len, err);
    if (st == CAKE_OK) restore(r);
    return st;
}

static cake_status read_plain(cake_line_reader *r, cake_error *err) {
    for (;;) {
        const char *from = r->in + r->in_at;
        const char *nl = memchr(from, '\n', r->in_len - r->in_at);
        size_t n = nl ? (size_t)(nl - from) : r->in_len - r->in_at;
        cake_status st = keep(r, from, n, err);
        if (st != CAKE_OK) return st;
        r->in_at += n + (nl ? 1 : 0);
        if (nl || (r->in_end && r->n_line)) {
            if (r->n_line && r->line[r->n_line - 1] == '\r') r->line[--r->n_line] = 0;
            return CAKE_OK;
        }
        if (r->in_end) return cake_fail(err, CAKE_ENOTFOUND, "end of input");
        if (!wait_input(r)) return cake_fail(err, CAKE_ECANCELED, "interrupted");
        ssize_t got = read(0, r->in, sizeof r->in);
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            return cake_fail(err, CAKE_EIO, "cannot read standard input: %s", strerror(errno));
        r->in_at = 0;
        r->in_len = got > 0 ? (size_t)got : 0;
        r->in_end = got == 0;
    }
}

cake_status cake_line_read(cake_line_reader *r, const char *prompt, const char **line,
                           cake_error *err) {
    r->n_line = 0;
    cake_status st = r->interactive ? read_edited(r, prompt, err) : read_plain(r, err);
    if (st == CAKE_OK) *line = r->line;
    return st;
}
