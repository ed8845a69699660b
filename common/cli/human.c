/* Numbers for people: see human.h. */
#include "common/cli/human.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *none(char *buf) {
    buf[0] = '-', buf[1] = 0;
    return buf;
}

/* Three significant digits of v, with a unit. */
static const char *three(char *buf, double v, const char *unit) {
    int digits = v < 9.995 ? 2 : v < 99.95 ? 1 : 0;
    snprintf(buf, CAKE_HUMAN_MAX, "%.*f %s", digits, v, unit);
    return buf;
}

static const char *scaled(char *buf, double v, double base, const char *const *units, int n_units) {
    int u = 0;
    /* 0.5 below the step, so that 1023.9 becomes "1.00 Mi" and not "1024 Ki" */
    while (u + 1 < n_units && v >= base - 0.5) v /= base, u++;
    return three(buf, v, units[u]);
}

const char *cake_human_bytes(char *buf, uint64_t bytes) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(buf, CAKE_HUMAN_MAX, "%d B", (int)bytes);
        return buf;
    }
    return scaled(buf, (double)bytes, 1024, unit, 7);
}

const char *cake_human_rate(char *buf, double bytes_per_s) {
    static const char *const unit[] = {"B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s", "PiB/s", "EiB/s"};
    if (!isfinite(bytes_per_s) || bytes_per_s <= 0 || bytes_per_s >= 0x1p63) {
        return none(buf);
    }
    return scaled(buf, bytes_per_s, 1024, unit, 7);
}

const char *cake_human_count(char *buf, double n) {
    static const char *const unit[] = {"", "k", "M", "G", "T", "P"};
    if (!isfinite(n) || n < 0 || n >= 1e18) {
        return none(buf);
    }
    if (n < 999.5) {
        snprintf(buf, CAKE_HUMAN_MAX, "%.0f", n);
        return buf;
    }
    return scaled(buf, n, 1000, unit, 6);
}

const char *cake_human_seconds(char *buf, double s) {
    if (!isfinite(s) || s < 0 || s > 1e12) {
        return none(buf);
    }
    if (s < 0.0009995) return three(buf, s * 1e6, "us");
    if (s < 0.9995) return three(buf, s * 1e3, "ms");
    if (s < 59.95) return three(buf, s, "s");
    uint64_t t = (uint64_t)(s + 0.5);
    unsigned long long days = t / 86400;
    unsigned hours = (unsigned)(t / 3600 % 24), minutes = (unsigned)(t / 60 % 60);
    unsigned seconds = (unsigned)(t % 60);
    if (days)
        snprintf(buf, CAKE_HUMAN_MAX, "%llu d %u h", days, hours);
    else if (hours)
        snprintf(buf, CAKE_HUMAN_MAX, "%u:%02u:%02u", hours, minutes, seconds);
    else
        snprintf(buf, CAKE_HUMAN_MAX, "%u:%02u", minutes, seconds);
    return buf;
}

/* A plain non-negative decimal number: digits with at most one point. NULL when there is none. */
static const char *number(const char *s, double *out) {
    size_t n = strspn(s, "0123456789."), digits = 0, points = 0;
    for (size_t i = 0; i < n; i++) s[i] == '.' ? points++ : digits++;
    if (!digits || points > 1 || n > 40) return NULL;
    char text[48];
    memcpy(text, s, n);
    text[n] = 0;
    *out = strtod(text, NULL);
    return s + n;
}

bool cake_human_parse_bytes(const char *s, uint64_t *out) {
    double v;
    const char *end = number(s, &v);
    if (!end) return false;
    bool whole = !memchr(s, '.', (size_t)(end - s));
    while (*end == ' ') end++;
    uint64_t factor = 1;
    if (*end && strcasecmp(end, "b") != 0) {
        const char *const letters = "kmgt";
        char c = (char)(*end | 0x20);
        const char *at = strchr(letters, c);
        if (!at) return false;
        end++;
        uint64_t step;
        if (!*end || strcasecmp(end, "i") == 0 || strcasecmp(end, "ib") == 0)
            step = 1024;
        else if (strcasecmp(end, "b") == 0)
            step = 1000;
        else
            return false;
        for (const char *p = letters; p <= at; p++) factor *= step;
    }
    if (whole) { /* exact: a double would round beyond 2^53 */
        uint64_t n = 0;
        for (; *s >= '0' && *s <= '9'; s++)
            if (__builtin_mul_overflow(n, 10u, &n) ||
                __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
                return false;
        if (__builtin_mul_overflow(n, factor, &n) || n > INT64_MAX) return false;
        *out = n;
        return true;
    }
    v *= (double)factor;
    if (v >= 0x1p63) return false;
    *out = (uint64_t)(v + 0.5);
    return true;
}

bool cake_human_parse_duration(const char *s, int64_t *out_ms) {
    double v, ms;
    const char *end = number(s, &v);
    if (!end) return false;
    while (*end == ' ') end++;
    if (!*end || strcmp(end, "s") == 0)
        ms = 1e3;
    else if (strcmp(end, "ms") == 0)
        ms = 1;
    else if (strcmp(end, "m") == 0 || strcmp(end, "min") == 0)
        ms = 60e3;
    else if (strcmp(end, "h") == 0)
        ms = 3600e3;
    else
        return false;
    v = v * ms + 0.5;
    if (v >= 0x1p63) return false;
    *out_ms = (int64_t)v;
    return true;
}
