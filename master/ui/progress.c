/* Progress bars: see progress.h.
 *
 * Live bars are the last lines of the terminal. To redraw, the cursor goes up over them and each
 * line is written anew and cleared to its end, in one write, so that nothing flickers; lines from
 * cake_progress_line are written where the bars begin and the bars again below. The rate is
 * smoothed over a few seconds. */
#include "master/ui/progress.h"
#include "common/cli/human.h"
#include "common/clock.h"
#include "common/mem.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Time over which the rate is smoothed. */
#define RATE_S 3.0
enum { LABEL_MAX = 48, REDRAW_NS = 100000000, LINE_MAX_COLUMNS = 240 };

typedef struct {
    bool used;
    char label[LABEL_MAX];
    cake_progress_unit unit;
    uint64_t total, done, from; /* from: there already when it began */
    uint64_t began_ns, rate_ns; /* rate_ns: when rate was last measured */
    uint64_t rate_done;
    double rate;      /* per second, smoothed; 0 unknown */
    unsigned percent; /* last tenth that was printed, when not live */
} bar;

struct cake_progress {
    pthread_mutex_t lock;
    FILE *out;
    bool quiet, live, color;
    int columns;
    uint64_t (*now)(void);
    bar bars[CAKE_PROGRESS_MAX_BARS];
    unsigned drawn; /* bar lines on the screen now */
    uint64_t drawn_ns;
};

bool cake_color_on(FILE *f, cake_color when) {
    if (when != CAKE_COLOR_AUTO) return when == CAKE_COLOR_ALWAYS;
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    if (no && *no) return false;
    return isatty(fileno(f)) && term && strcmp(term, "dumb") != 0;
}

cake_progress *cake_progress_new(const cake_progress_config *cfg) {
    static const cake_progress_config standard = {.tty = -1};
    if (!cfg) cfg = &standard;
    cake_progress *p = cake_calloc(1, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    p->out = cfg->out ? cfg->out : stderr;
    p->quiet = cfg->quiet;
    const char *term = getenv("TERM");
    bool dumb = !term || strcmp(term, "dumb") == 0;
    p->live = cfg->tty == 1 || (cfg->tty < 0 && isatty(fileno(p->out)) && !dumb);
    p->color = p->live && (cfg->tty == 1 ? cfg->color == CAKE_COLOR_ALWAYS
                                         : cake_color_on(p->out, cfg->color));
    p->columns = cfg->columns;
    p->now = cfg->now_ns ? cfg->now_ns : cake_now_ns;
    return p;
}

static int width(const cake_progress *p) {
    int w = p->columns;
    struct winsize size;
    if (!w && ioctl(fileno(p->out), TIOCGWINSZ, &size) == 0) w = size.ws_col;
    if (w < 20) w = 80;
    return w < LINE_MAX_COLUMNS ? w : LINE_MAX_COLUMNS;
}

static const char *amount(char *buf, const bar *b, uint64_t n) {
    return b->unit == CAKE_PROGRESS_BYTES ? cake_human_bytes(buf, n)
                                          : cake_human_count(buf, (double)n);
}

static const char *rate_text(char *buf, const bar *b, double rate) {
    if (b->unit == CAKE_PROGRESS_BYTES) return cake_human_rate(buf, rate);
    if (!(rate > 0)) return cake_human_rate(buf, 0);
    snprintf(buf, CAKE_HUMAN_MAX, "%.*f/s", rate < 9.995 ? 2 : rate < 99.95 ? 1 : 0, rate);
    return buf;
}

/* Whole percent, floored: 100 only when all is there. */
static unsigned percent_of(const bar *b) {
    if (!b->total) return 0;
    if (b->done >= b->total) return 100;
    unsigned p = (unsigned)((double)b->done / (double)b->total * 100);
    return p < 99 ? p : 99;
}

static void measure(bar *b, uint64_t now) {
    if (now <= b->rate_ns || b->done < b->rate_done) return;
    double s = (double)(now - b->rate_ns) / 1e9;
    if (s < 0.2) return;
    double r = (double)(b->done - b->rate_done) / s;
    /* Weight by time passed, so that many small updates and one large one agree. */
    double weight = s / RATE_S;
    b->rate = b->rate > 0 && weight < 1 ? b->rate + (r - b->rate) * weight : r;
    b->rate_ns = now, b->rate_done = b->done;
}

static double seconds_left(const bar *b) {
    return b->rate > 0 && b->total > b->done ? (double)(b->total - b->done) / b->rate : -1;
}

/* The label padded or cut to `columns` code points. */
static void fit_label(const char *label, int columns, char *out, size_t cap) {
    size_t n = 0;
    int w = 0;
    for (const char *c = label; *c && n + 1 < cap; c++) {
        bool starts = ((unsigned char)*c & 0xc0) != 0x80;
        if (starts && w == columns) break;
        w += starts;
        out[n++] = *c;
    }
    for (; w < columns && n + 1 < cap; w++) out[n++] = ' ';
    out[n] = 0;
}

/* One bar into line, at most `columns` wide; no line end. */
static void format_bar(const cake_progress *p, const bar *b, int columns, char *line, size_t cap) {
    char done[CAKE_HUMAN_MAX], total[CAKE_HUMAN_MAX], rate[CAKE_HUMAN_MAX], left[CAKE_HUMAN_MAX],
        tail[160];
    amount(done, b, b->done);
    rate_text(rate, b, b->rate);
    if (b->total) {
        double s = seconds_left(b);
        snprintf(tail, sizeof tail, " %3u%%  %s / %s  %s%s%s", percent_of(b), done,
                 amount(total, b, b->total), rate, s >= 0 ? "  " : "",
                 s >= 0 ? cake_human_seconds(left, s < 1 ? 1 : s) : "");
    } else {
        snprintf(tail, sizeof tail, "  %s  %s", done, rate);
    }
    int label_width = columns < 60 ? 14 : 24;
    int room = columns - 1 - label_width - 3 - (int)strlen(tail); /* "[", "]", one blank */
    char meter[LINE_MAX_COLUMNS + 32] = "";
    if (b->total && room >= 6) {
        if (room > 40) room = 40;
        int full = (int)((double)percent_of(b) * room / 100);
        size_t n = (size_t)snprintf(meter, sizeof meter, " [%s", p->color ? "\033[32m" : "");
        for (int i = 0; i < room; i++) meter[n++] = i < full ? '#' : '.';
        snprintf(meter + n, sizeof meter - n, "%s]", p->color ? "\033[0m" : "");
    }
    int label_cut = label_width;
    if (!*meter) { /* too narrow for a bar: what fits of label and numbers */
        int fits = columns - 1 - (int)strlen(tail);
        label_cut = fits < label_width ? (fits > 0 ? fits : 0) : label_width;
        if (fits < 0) tail[columns - 1] = 0;
    }
    char label[4 * LABEL_MAX];
    fit_label(b->label, label_cut, label, sizeof label);
    snprintf(line, cap, "%s%s%s", label, meter, tail);
}

/* Draw all bars over the drawn ones; `above`: a line to leave above them. A bar that ended leaves a
 * line, so that the whole never gets shorter. */
static void redraw(cake_progress *p, const char *above) {
    static const char clear[] = "\033[K\n";
    enum { LINE = 1024 };
    size_t extra = above ? strlen(above) : 0, at = 0;
    size_t cap = (CAKE_PROGRESS_MAX_BARS + 1) * (size_t)(LINE + sizeof clear) + extra + 32;
    char *text = cake_malloc(cap);
    if (p->drawn) at += (size_t)snprintf(text + at, cap - at, "\033[%uA\r", p->drawn);
    if (above) at += (size_t)snprintf(text + at, cap - at, "%s%s", above, clear);
    unsigned n = 0;
    int columns = width(p);
    for (unsigned i = 0; i < CAKE_PROGRESS_MAX_BARS; i++) {
        if (!p->bars[i].used) continue;
        char line[LINE];
        format_bar(p, &p->bars[i], columns, line, sizeof line);
        at += (size_t)snprintf(text + at, cap - at, "%s%s", line, clear);
        n++;
    }
    fwrite(text, 1, at, p->out);
    fflush(p->out);
    free(text);
    p->drawn = n;
    p->drawn_ns = p->now();
}

static void plain_line(cake_progress *p, const char *text) {
    fprintf(p->out, "%s\n", text);
    fflush(p->out);
}

/* A line to stay, above the bars. */
static void put_line(cake_progress *p, const char *text) {
    if (p->live && !p->quiet)
        redraw(p, text);
    else
        plain_line(p, text);
}

/* After a change: the live bars when it is time, else a line for each new tenth. */
static void show(cake_progress *p, bar *b, bool now) {
    if (p->quiet) return;
    uint64_t t = p->now();
    measure(b, t);
    if (p->live) {
        if (now || t - p->drawn_ns >= REDRAW_NS) redraw(p, NULL);
        return;
    }
    unsigned tenth = percent_of(b) / 10 * 10;
    if (!b->total || tenth <= b->percent || tenth == 100)
        return; /* the end has a line of its own */
    b->percent = tenth;
    char done[CAKE_HUMAN_MAX], total[CAKE_HUMAN_MAX], rate[CAKE_HUMAN_MAX], left[CAKE_HUMAN_MAX],
        line[256];
    double s = seconds_left(b);
    snprintf(line, sizeof line, "%s: %u%%, %s of %s, %s%s%s", b->label, tenth,
             amount(done, b, b->done), amount(total, b, b->total), rate_text(rate, b, b->rate),
             s >= 0 ? ", left " : "", s >= 0 ? cake_human_seconds(left, s < 1 ? 1 : s) : "");
    plain_line(p, line);
}

static bar *find(cake_progress *p, int id) {
    return id >= 0 && id < CAKE_PROGRESS_MAX_BARS && p->bars[id].used ? &p->bars[id] : NULL;
}

/* Names come from peers: nothing in them may move the cursor. */
static void clean(char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f) *s = '?';
}

int cake_progress_start(cake_progress *p, const char *label, uint64_t total,
                        cake_progress_unit unit) {
    pthread_mutex_lock(&p->lock);
    int id = -1;
    for (int i = 0; i < CAKE_PROGRESS_MAX_BARS && id < 0; i++)
        if (!p->bars[i].used) id = i;
    if (id >= 0) {
        bar *b = &p->bars[id];
        *b = (bar){.used = true, .unit = unit, .total = total, .began_ns = p->now()};
        b->rate_ns = b->began_ns;
        snprintf(b->label, sizeof b->label, "%s", label);
        clean(b->label);
        show(p, b, true);
    }
    pthread_mutex_unlock(&p->lock);
    return id;
}

void cake_progress_update(cake_progress *p, int id, uint64_t done) {
    pthread_mutex_lock(&p->lock);
    bar *b = find(p, id);
    if (b) {
        b->done = done;
        show(p, b, false);
    }
    pthread_mutex_unlock(&p->lock);
}

void cake_progress_resume(cake_progress *p, int id, uint64_t start_at) {
    pthread_mutex_lock(&p->lock);
    bar *b = find(p, id);
    if (b) {
        b->done = b->from = b->rate_done = start_at;
        b->rate_ns = b->began_ns = p->now();
        b->rate = 0;
        b->percent = percent_of(b) / 10 * 10;
        show(p, b, true);
    }
    pthread_mutex_unlock(&p->lock);
}

void cake_progress_total(cake_progress *p, int id, uint64_t total) {
    pthread_mutex_lock(&p->lock);
    bar *b = find(p, id);
    if (b) {
        b->total = total;
        show(p, b, false);
    }
    pthread_mutex_unlock(&p->lock);
}

void cake_progress_finish(cake_progress *p, int id, bool ok, const char *text) {
    pthread_mutex_lock(&p->lock);
    bar *b = find(p, id);
    if (b) {
        char line[512], done[CAKE_HUMAN_MAX], rate[CAKE_HUMAN_MAX], time[CAKE_HUMAN_MAX], own[160];
        double s = (double)(p->now() - b->began_ns) / 1e9;
        if (!text) {
            double r = s > 0 && b->done > b->from ? (double)(b->done - b->from) / s : 0;
            snprintf(own, sizeof own, "%s in %s%s%s", amount(done, b, b->done),
                     cake_human_seconds(time, s), r > 0 ? ", " : "",
                     r > 0 ? rate_text(rate, b, r) : "");
            text = own;
        }
        const char *mark = !p->color ? "" : ok ? "\033[32m" : "\033[31m";
        snprintf(line, sizeof line, "%s: %s%.300s%s%s", b->label, mark, text,
                 ok || p->color ? "" : " (failed)", p->color ? "\033[0m" : "");
        b->used = false;
        if (!p->quiet) put_line(p, line);
    }
    pthread_mutex_unlock(&p->lock);
}

void cake_progress_tick(cake_progress *p) {
    pthread_mutex_lock(&p->lock);
    uint64_t t = p->now();
    bool any = false;
    for (int i = 0; i < CAKE_PROGRESS_MAX_BARS; i++) {
        if (!p->bars[i].used) continue;
        any = true;
        measure(&p->bars[i], t);
    }
    if (any && p->live && !p->quiet && t - p->drawn_ns >= REDRAW_NS) redraw(p, NULL);
    pthread_mutex_unlock(&p->lock);
}

__attribute__((format(printf, 3, 0))) static void vline(cake_progress *p, bool error,
                                                        const char *fmt, va_list ap) {
    char text[1024];
    vsnprintf(text, sizeof text, fmt, ap);
    clean(text);
    pthread_mutex_lock(&p->lock);
    if (error || !p->quiet) put_line(p, text);
    pthread_mutex_unlock(&p->lock);
}

void cake_progress_line(cake_progress *p, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vline(p, false, fmt, ap);
    va_end(ap);
}

void cake_progress_error(cake_progress *p, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vline(p, true, fmt, ap);
    va_end(ap);
}

void cake_progress_free(cake_progress *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    if (p->live && !p->quiet && p->drawn) redraw(p, NULL); /* the last figures stay on the screen */
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
