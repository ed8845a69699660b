/* Result codes: names, exit codes, and formatting of the error record. */
#include "common/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cake_status cake_fail(cake_error *err, cake_status st, const char *fmt, ...) {
    if (!err) return st;
    /* Format aside first: an argument may point into err->msg itself. */
    char msg[CAKE_ERROR_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    err->status = st;
    memcpy(err->msg, msg, sizeof msg);
    return st;
}

cake_status cake_fail_in(cake_error *err, cake_status st, const char *fmt, ...) {
    if (!err) return st;
    char context[CAKE_ERROR_MAX], msg[2 * CAKE_ERROR_MAX + 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    snprintf(msg, sizeof msg, "%s: %s", context, err->msg);
    msg[CAKE_ERROR_MAX - 1] = 0;
    err->status = st;
    memcpy(err->msg, msg, CAKE_ERROR_MAX);
    return st;
}

const char *cake_status_name(cake_status st) {
    static const char *const name[] = {"OK",       "ENOMEM",    "EPROTO",    "EAGAIN",
                                       "EINVAL",   "EIO",       "ENOTFOUND", "EUNSUPPORTED",
                                       "EFORMAT",  "ENOSPACE",  "EUNAVAIL",  "EAUTH",
                                       "ETIMEOUT", "ECANCELED", "ECONFIG",   "EUSAGE"};
    int i = -(int)st;
    return i >= 0 && i < (int)(sizeof name / sizeof *name) ? name[i] : "E?";
}

int cake_status_exit(cake_status st) {
    switch (st) {
    case CAKE_OK: return 0;
    case CAKE_EUSAGE: return 2;
    case CAKE_EUNAVAIL: return 69;
    case CAKE_EIO: return 74;
    case CAKE_EAGAIN:
    case CAKE_ETIMEOUT: return 75;
    case CAKE_EAUTH: return 77;
    case CAKE_ECONFIG:
    case CAKE_ENOSPACE: return 78;
    case CAKE_ECANCELED: return 130;
    default: return 1;
    }
}

_Noreturn void cake_assert_failed(const char *cond, const char *file, int line, const char *func) {
    fprintf(stderr, "cake: internal error: %s at %s:%d in %s\n", cond, file, line, func);
    abort();
}
