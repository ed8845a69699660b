/* Monotonic time. */
#ifndef CAKE_COMMON_CLOCK_H
#define CAKE_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t cake_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static inline int64_t cake_now_ms(void) {
    return (int64_t)(cake_now_ns() / 1000000u);
}

#endif
