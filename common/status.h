/* Result codes and the error record that every fallible function fills.
 *
 * Convention: a function that can fail returns cake_status and takes a `cake_error *err` (may be
 * NULL) as its last parameter; on failure it returns cake_fail(err, CODE, "one sentence") and
 * leaves its outputs untouched unless its header says otherwise. */
#ifndef CAKE_COMMON_STATUS_H
#define CAKE_COMMON_STATUS_H

#include <stddef.h>

/* Values are pinned: they travel in error messages between nodes. Append only. */
typedef enum {
    CAKE_OK = 0,
    CAKE_ENOMEM = -1,       /* out of memory */
    CAKE_EPROTO = -2,       /* a peer sent bytes that break the protocol */
    CAKE_EAGAIN = -3,       /* not now: try again (queue full, more input needed) */
    CAKE_EINVAL = -4,       /* a bad argument of a caller or user */
    CAKE_EIO = -5,          /* a file or device failed */
    CAKE_ENOTFOUND = -6,    /* a named thing is absent */
    CAKE_EUNSUPPORTED = -7, /* well-formed, but not something this build knows */
    CAKE_EFORMAT = -8,      /* a file breaks its format */
    CAKE_ENOSPACE = -9,     /* does not fit: memory, disk, context */
    CAKE_EUNAVAIL = -10,    /* a peer or service is not there */
    CAKE_EAUTH = -11,       /* wrong or missing key */
    CAKE_ETIMEOUT = -12,    /* a deadline passed */
    CAKE_ECANCELED = -13,   /* the user or client gave up */
    CAKE_ECONFIG = -14,     /* a configuration or topology file contradicts itself or the model */
    CAKE_EUSAGE = -15,      /* a command line that cannot be understood */
} cake_status;

enum { CAKE_ERROR_MAX = 768 };

/* Human-readable detail of one failure: what failed, why, and where possible what to do next. */
typedef struct {
    cake_status status;
    char msg[CAKE_ERROR_MAX];
} cake_error;

/* Record a failure and return its code: `return cake_fail(err, CAKE_EPROTO, "...")`.
 * err may be NULL. Long messages are cut. Thread-safe as long as err is not shared. */
cake_status cake_fail(cake_error *err, cake_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "CONTEXT: " before the message already in err and return its code. err may be NULL. */
cake_status cake_fail_in(cake_error *err, cake_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Short constant name such as "EPROTO"; "E?" for an unknown value. */
const char *cake_status_name(cake_status st);

/* Process exit code of the command-line programs (documented in cake-master(1)):
 * 0 ok, 1 failure, 2 usage, 69 unavailable, 74 I/O, 75 try again, 77 refused key, 78 configuration,
 * 130 interrupted. */
int cake_status_exit(cake_status st);

/* A broken invariant of our own: print where and abort. Never for input from outside. Kept in
 * release builds; the condition must have no side effects. */
#define cake_assert(cond)                                                                          \
    ((cond) ? (void)0 : cake_assert_failed(#cond, __FILE__, __LINE__, __func__))
_Noreturn void cake_assert_failed(const char *cond, const char *file, int line, const char *func);

#endif
