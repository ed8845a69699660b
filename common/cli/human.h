/* Numbers as people read and type them: bytes, rates, durations. libc only; thread-safe; no
 * allocation. The printers write into the caller's buffer (CAKE_HUMAN_MAX is enough) and return it.
 */
#ifndef CAKE_COMMON_CLI_HUMAN_H
#define CAKE_COMMON_CLI_HUMAN_H

#include <stdbool.h>
#include <stdint.h>

enum { CAKE_HUMAN_MAX = 32 };

/* "0 B", "999 B", "1.50 KiB", "12.3 MiB", "123 GiB": three significant digits, 1024s. */
const char *cake_human_bytes(char *buf, uint64_t bytes);
/* "12.3 MiB/s"; "-" when it is not a positive finite number. */
const char *cake_human_rate(char *buf, double bytes_per_s);
/* "870 us", "12.3 ms", "4.21 s", "3:07" (m:ss), "2:03:07" (h:mm:ss), "3 d 4 h"; "-" when not finite
 * or negative. */
const char *cake_human_seconds(char *buf, double s);
/* "999", "1.50 k", "12.3 M", "1.24 G": 1000s. */
const char *cake_human_count(char *buf, double n);

/* "4096", "512M", "1.5 GiB", "2GB". A bare letter and the i forms are 1024s, KB MB GB TB are 1000s.
 * False (*out untouched) on anything else, a sign, or more than 2^63-1. */
bool cake_human_parse_bytes(const char *s, uint64_t *out);
/* "2" and "2s" seconds, "500ms", "1.5m", "1h" into milliseconds, rounded. */
bool cake_human_parse_duration(const char *s, int64_t *out_ms);

#endif
