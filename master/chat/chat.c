/* The loop of the chat verb: see chat.h. */
#include "master/chat/chat.h"
#include "common/mem.h"
#include "master/chat/chat_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIM    "\033[2m"
#define PLAIN  "\033[0m"
#define QUOTES "\"\"\""

/* ---- replies ---- */

void cake_chat_print_clean(FILE *f, const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        /* C0 but for tabs and ends of lines, DEL, and C1, which UTF-8 writes as C2 80..9F. */
        bool c1 = c == 0xC2 && i + 1 < len && (unsigned char)text[i + 1] < 0xA0;
        if (c1) i++;
        putc(c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F ? '?' : c, f);
    }
}

typedef struct {
    cake_chat *ch;
    bool thinking, any, newline;
} shown;

static void on_text(void *arg, const char *text, size_t len, bool thinking) {
    shown *s = arg;
    cake_chat *ch = s->ch;
    if (thinking && !ch->filter) return; /* in a pipe the answer is the result */
    if (thinking != s->thinking) {
        if (thinking)
            fputs(ch->color ? DIM : "(thinking) ", stdout);
        else
            fputs(ch->color ? PLAIN "\n\n" : "\n\n", stdout);
    }
    s->thinking = thinking;
    s->any = true;
    s->newline = text[len - 1] == '\n';
    if (ch->filter)
        cake_chat_print_clean(stdout, text, len);
    else
        fwrite(text, 1, len, stdout);
    fflush(stdout);
}

static void drain(int fd) {
    uint64_t count;
    (void)!read(fd, &count, sizeof count);
}

cake_status cake_chat_reply(cake_chat *ch, cake_error *err) {
    shown s = {.ch = ch};
    drain(ch->config->server.stop_fd); /* an interrupt that came too late for the last reply */
    size_t n = cake_conversation_length(ch->c);
    cake_line_echo(ch->lines, false);
    cake_status st = cake_conversation_ask(ch->c, &ch->config->server, on_text, &s, &ch->last, err);
    cake_line_echo(ch->lines, true);
    ch->has_last = true;
    if (s.thinking && ch->color) fputs(PLAIN, stdout);
    if (s.any && !s.newline) putchar('\n');
    if (s.any && cake_line_interactive(ch->lines)) putchar('\n');
    if (fflush(stdout) != 0 && st == CAKE_OK)
        st = cake_fail(err, CAKE_EIO, "cannot write to standard output: %s", strerror(errno));
    if (cake_conversation_length(ch->c) == n) cake_conversation_rewind(ch->c, true);
    if (st == CAKE_OK && strcmp(ch->last.finish, "length") == 0)
        fprintf(stderr,
                "(cut at the limit of tokens: /set max_tokens N, or the context is full)\n");
    return st;
}

/* ---- lines ---- */

/* The message that begins with the first line: up to the closing quotes when it opens some. *out is
 * the caller's. */
static cake_status read_block(cake_chat *ch, const char *first, char **out, cake_error *err) {
    size_t n = 0, cap = 256;
    char *text = cake_malloc(cap);
    const char *line = first + 3;
    cake_status st = CAKE_OK;
    for (bool begin = true;; begin = false) {
        const char *end = strstr(line, QUOTES);
        size_t len = end ? (size_t)(end - line) : strlen(line);
        if (n + len + 2 > cap) text = cake_realloc(text, cap = 2 * (n + len + 2));
        if (!begin && n) text[n++] = '\n';
        memcpy(text + n, line, len);
        n += len;
        if (end) break;
        st = cake_line_read(ch->lines, "... ", &line, err);
        if (st != CAKE_OK) break;
        cake_line_remember(ch->lines, line);
        if (n > 8 * CAKE_LINE_MAX) {
            st = cake_fail(err, CAKE_ENOSPACE, "a message of more than %d MiB", 8);
            break;
        }
    }
    while (n && text[n - 1] == '\n') n--;
    text[n] = 0;
    *out = text;
    return st;
}

/* The failure in a line of its own; what a server says is shown without control characters. */
static void tell(const cake_error *err) {
    fputs("cake-master: ", stderr);
    cake_chat_print_clean(stderr, err->msg, strlen(err->msg));
    fputc('\n', stderr);
}

static cake_status take_line(cake_chat *ch, const char *line, cake_error *err) {
    while (*line == ' ' || *line == '\t') line++;
    if (!*line) return CAKE_OK;
    cake_line_remember(ch->lines, line);
    if (line[0] == '/' && line[1] != '/') return cake_chat_command(ch, line, err);
    char *text = NULL;
    cake_status st = CAKE_OK;
    if (strncmp(line, QUOTES, 3) == 0)
        st = read_block(ch, line, &text, err);
    else
        text = cake_strdup(line[0] == '/' ? line + 1 : line);
    if (st == CAKE_OK && *text) {
        cake_conversation_add(ch->c, "user", text, strlen(text));
        st = cake_chat_reply(ch, err);
    }
    free(text);
    return st;
}

cake_status cake_chat_run(const cake_chat_config *config, cake_conversation *c, cake_error *err) {
    cake_chat ch = {.config = config, .c = c};
    cake_line_config lc = {.history = config->history,
                           .stop_fd = config->server.stop_fd,
                           .color = cake_color_on(stderr, config->color),
                           .complete = cake_chat_complete};
    ch.lines = cake_line_open(&lc);
    ch.filter = isatty(1);
    ch.color = ch.filter && cake_color_on(stdout, config->color);
    bool person = cake_line_interactive(ch.lines);
    if (person && !config->quiet)
        fprintf(stderr, "%s%s/help lists commands, Ctrl-C stops a reply, Ctrl-D leaves.\n",
                config->name ? config->name : "", config->name ? ". " : "");
    cake_status st = CAKE_OK;
    while (!ch.leave) {
        const char *line;
        st = cake_line_read(ch.lines, "> ", &line, err);
        if (st == CAKE_ECANCELED && person) continue;
        if (st != CAKE_OK) break;
        char *copy = cake_strdup(line); /* a block reads further lines */
        st = take_line(&ch, copy, err);
        free(copy);
        if (st == CAKE_OK) continue;
        if (!person) break;
        if (st == CAKE_ECANCELED)
            fputs("(stopped)\n", stderr);
        else if (st != CAKE_ENOTFOUND || err->msg[0])
            tell(err);
    }
    if (st == CAKE_ENOTFOUND && (person || strcmp(err->msg, "end of input") == 0)) st = CAKE_OK;
    cake_line_close(ch.lines);
    return person ? CAKE_OK : st;
}
