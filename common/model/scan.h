/* A strict JSON cursor for formats whose rules are stricter than a JSON library's: the safetensors
 * header, the shard index, the bundle manifest. No tree, no allocation; the first error sticks and
 * every later call is a no-op that returns false. */
#ifndef CAKE_COMMON_MODEL_SCAN_H
#define CAKE_COMMON_MODEL_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *s;
    size_t n, at;
    const char *error; /* NULL while all is well; else what is wrong at byte `at` */
} cake_scan;

static inline cake_scan cake_scan_of(const void *s, size_t n) {
    return (cake_scan){.s = s, .n = n};
}
/* Record the first error; always false. */
bool cake_scan_fail(cake_scan *c, const char *error);
/* Skip space, tab, CR, LF. */
void cake_scan_ws(cake_scan *c);
/* After white space: the next byte, or 0 at the end. */
uint8_t cake_scan_peek(cake_scan *c);
/* After white space: take byte ch, or fail. */
bool cake_scan_take(cake_scan *c, char ch);
/* A string, decoded into dst (which needs room for as many bytes as are left, and a NUL). Rejects
 * bad UTF-8, lone surrogates and raw control characters; escapes may give any character but NUL. */
bool cake_scan_string(cake_scan *c, char *dst, size_t *len);
/* A non-negative integer that fits u64: digits only, no leading zero, sign, fraction or exponent.
 */
bool cake_scan_u64(cake_scan *c, uint64_t *out);
/* "null" if it is next. */
bool cake_scan_null(cake_scan *c);
/* Any value, checked and dropped; at most max_depth nested containers. scratch as for strings. */
bool cake_scan_skip(cake_scan *c, int max_depth, char *scratch);
/* In an object or array: true when another member follows. *first starts as true. Takes the comma
 * or the closing byte. */
bool cake_scan_next(cake_scan *c, char close, bool *first);
/* Nothing but white space left. */
bool cake_scan_end(cake_scan *c);

#endif
