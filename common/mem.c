/* Memory: see mem.h. */
#include "common/mem.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static _Noreturn void out_of_memory(size_t n) {
    fprintf(stderr, "cake: out of memory (asked for %zu bytes)\n", n);
    exit(1);
}

void *cake_malloc(size_t n) {
    void *p = malloc(n ? n : 1);
    if (!p) out_of_memory(n);
    return p;
}

void *cake_calloc(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) out_of_memory(count * size);
    return p;
}

void *cake_realloc(void *p, size_t n) {
    void *q = realloc(p, n ? n : 1);
    if (!q) out_of_memory(n);
    return q;
}

char *cake_strndup(const char *s, size_t n) {
    n = strnlen(s, n);
    char *p = cake_malloc(n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *cake_strdup(const char *s) {
    return cake_strndup(s, strlen(s));
}

char *cake_asprintf(const char *fmt, ...) {
    char *p = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&p, fmt, ap);
    va_end(ap);
    if (n < 0) out_of_memory(0);
    return p;
}

void *cake_trymalloc(size_t n) {
    return malloc(n ? n : 1);
}

enum { HUGE = 2 << 20, PAGE = 4096 };

static size_t pages_size(size_t bytes) {
    return cake_round_up(bytes ? bytes : 1, bytes >= HUGE ? HUGE : PAGE);
}

void *cake_pages_alloc(size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t size = pages_size(bytes), slack = size >= HUGE ? HUGE : 0;
    char *p = mmap(NULL, size + slack, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (!slack) return p;
    /* Cut the mapping down to an aligned middle, so that every page can be a huge one. */
    char *q = (char *)cake_round_up((size_t)p, HUGE);
    if (q > p) munmap(p, (size_t)(q - p));
    if (p + slack > q) munmap(q + size, (size_t)(p + slack - q));
    madvise(q, size, MADV_HUGEPAGE); /* advice: without it the pages are small and reads slower */
    return q;
}

void cake_pages_free(void *p, size_t bytes) {
    if (p) munmap(p, pages_size(bytes));
}

void cake_mem_keep(size_t bytes) {
#if defined(__GLIBC__)
    mallopt(M_TRIM_THRESHOLD, (int)bytes);
    mallopt(M_MMAP_THRESHOLD, (int)(bytes < 32 << 20 ? bytes : 32 << 20)); /* the most it takes */
#else
    (void)bytes;
#endif
}

static uint64_t read_number(const char *path, const char *key) {
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    char line[256];
    unsigned long long v = 0;
    size_t key_len = strlen(key);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, key_len) == 0 && sscanf(line + key_len, " %llu", &v) == 1) break;
    fclose(f);
    return v;
}

uint64_t cake_mem_available(void) {
    uint64_t free_bytes = read_number("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max", ""); /* "max" parses as 0: no limit */
    uint64_t used = read_number("/sys/fs/cgroup/memory.current", "");
    if (limit && limit > used && limit - used < free_bytes) free_bytes = limit - used;
    return free_bytes;
}

uint64_t cake_mem_resident(void) {
    return read_number("/proc/self/status", "VmRSS:") * 1024;
}
