/* Event log: formats one line, writes it with one write(2) so that lines of threads never mix. */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

cake_log_level cake_log_min = CAKE_LOG_WARN;
static bool log_json;
static const char *const level_name[] = {"debug", "info", "warn", "error", "none"};

void cake_log_set_json(bool on) {
    log_json = on;
}

bool cake_log_level_parse(const char *name, cake_log_level *out) {
    for (int i = 0; i <= CAKE_LOG_NONE; i++)
        if (strcmp(name, level_name[i]) == 0) return *out = (cake_log_level)i, true;
    return false;
}

/* Append c to out as the inside of a JSON string. */
static size_t json_char(char *out, size_t at, size_t cap, char c) {
    unsigned char u = (unsigned char)c;
    if (at + 7 > cap) return at;
    if (c == '"' || c == '\\')
        out[at++] = '\\', out[at++] = c;
    else if (u < 0x20)
        at += (size_t)snprintf(out + at, cap - at, "\\u%04x", u);
    else
        out[at++] = c;
    return at;
}

/* key=value key="value with spaces" -> ,"key":"value" */
static size_t json_fields(char *out, size_t at, size_t cap, const char *s) {
    while (*s) {
        while (*s == ' ') s++;
        if (!*s || at + 16 > cap) break;
        out[at++] = ',', out[at++] = '"';
        while (*s && *s != '=' && *s != ' ') at = json_char(out, at, cap - 8, *s++);
        out[at++] = '"', out[at++] = ':', out[at++] = '"';
        if (*s == '=') s++;
        bool quoted = *s == '"';
        if (quoted) s++;
        while (*s && *s != (quoted ? '"' : ' ')) at = json_char(out, at, cap - 8, *s++);
        if (quoted && *s) s++;
        if (at < cap - 2) out[at++] = '"';
    }
    return at;
}

void cake_log_write(cake_log_level lv, const char *fmt, ...) {
    char text[1024], line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++)
        if (*p == '\n' || *p == '\r') *p = ' ';
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    char when[40];
    size_t n = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when + n, sizeof when - n, ".%03dZ", (int)(ts.tv_nsec / 1000000));
    size_t at;
    if (log_json) {
        at = (size_t)snprintf(line, sizeof line, "{\"ts\":\"%s\",\"level\":\"%s\"", when,
                              level_name[lv]);
        at = json_fields(line, at, sizeof line - 4, text);
        at += (size_t)snprintf(line + at, sizeof line - at, "}\n");
    } else {
        at = (size_t)snprintf(line, sizeof line, "ts=%s level=%s %s\n", when, level_name[lv], text);
    }
    ssize_t rc =
        write(2, line, at); /* a log line that cannot be written has nowhere to be reported */
    (void)rc;
}
