/* Memory: exiting allocators for our own sizes, failing ones for sizes a peer or file chose,
 * checked arithmetic, and large page-aligned regions on 2 MiB pages for weights and KV. */
#ifndef CAKE_COMMON_MEM_H
#define CAKE_COMMON_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Start-up and fixed-size allocations: exit(1) with a message when memory is out. n may be 0.
 * Memory of cake_malloc is not cleared; of cake_calloc it is. Free with free(). */
void *cake_malloc(size_t n);
void *cake_calloc(size_t count, size_t size);
void *cake_realloc(void *p, size_t n);
char *cake_strdup(const char *s);
char *cake_strndup(const char *s, size_t n);
char *cake_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Sizes chosen by a peer, file or user: NULL when memory is out. Cap the size first. */
void *cake_trymalloc(size_t n);

/* a*b or a+b into *out; false (and *out untouched) when it would not fit. */
static inline bool cake_mul_size(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    return *out = r, true;
}
static inline bool cake_add_size(size_t a, size_t b, size_t *out) {
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    return *out = r, true;
}
static inline size_t cake_round_up(size_t n, size_t to) { /* to: a power of two */
    return (n + to - 1) & ~(to - 1);
}

/* A zeroed region of at least `bytes`, aligned to 2 MiB when that large (transparent huge pages
 * asked for), else to 4 KiB. Physical memory is taken on first touch. NULL when the address space
 * or the commit limit refuses. Free with cake_pages_free(p, bytes) with the same bytes. */
void *cake_pages_alloc(size_t bytes);
void cake_pages_free(void *p, size_t bytes);

/* Let malloc keep up to `bytes` of freed memory instead of giving it back at once: messages of one
 * size come and go with every batch, and fresh pages cost more than the copy into them. Call first
 * in main. */
void cake_mem_keep(size_t bytes);

/* Memory this process may still take: MemAvailable capped by the cgroup limit, in bytes; 0 unknown.
 */
uint64_t cake_mem_available(void);
/* Resident set of this process in bytes (VmRSS); 0 unknown. */
uint64_t cake_mem_resident(void);

#endif
