/* Event log on stderr: one event per line, logfmt fields or JSON. The layer that decides logs,
 * once; lower layers return errors. No prompt text above debug level. Thread-safe. */
#ifndef CAKE_COMMON_LOG_H
#define CAKE_COMMON_LOG_H

#include <stdbool.h>

typedef enum {
    CAKE_LOG_DEBUG,
    CAKE_LOG_INFO,
    CAKE_LOG_WARN,
    CAKE_LOG_ERROR,
    CAKE_LOG_NONE
} cake_log_level;

/* Lowest level that is written; default CAKE_LOG_WARN. Set before threads start. */
extern cake_log_level cake_log_min;

/* cake_log(CAKE_LOG_WARN, "event=worker_lost worker=%s reason=\"%s\"", ...). Arguments are not
 * evaluated below cake_log_min. Values with spaces go in double quotes. */
#define cake_log(lv, ...)                                                                          \
    do {                                                                                           \
        if ((lv) >= cake_log_min) cake_log_write((lv), __VA_ARGS__);                               \
    } while (0)
void cake_log_write(cake_log_level lv, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Write events as JSON objects, fields of the logfmt line as members. Set before threads start. */
void cake_log_set_json(bool on);

/* "debug", "info", "warn", "error", "none" to a level; false when unknown. */
bool cake_log_level_parse(const char *name, cake_log_level *out);

#endif
