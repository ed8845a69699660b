/* Thread pool for data-parallel loops: the kernels' only source of threads.
 *
 * One loop runs at a time. Chunks are taken one by one from a shared counter (so a preempted core
 * delays one chunk, never the whole loop), helpers spin for a bounded time between loops and then
 * sleep on a futex. The result must not depend on which thread ran which chunk. */
#ifndef CAKE_COMMON_POOL_H
#define CAKE_COMMON_POOL_H

#include <stddef.h>

typedef struct cake_pool cake_pool;

/* n_threads counts the calling thread: 1 means no helper threads, 0 means one per online core.
 * spin_us: how long an idle helper spins before it sleeps (0: sleeps at once). */
cake_pool *cake_pool_new(unsigned n_threads, unsigned spin_us);
void cake_pool_free(cake_pool *p);
unsigned cake_pool_threads(const cake_pool *p);

/* Call fn(arg, chunk, thread) for every chunk in [0, n_chunks), thread in [0, n_threads); return
 * when all are done. The caller takes part as thread 0. Not re-entrant; one caller at a time;
 * allocates nothing. p may be NULL: then the caller runs everything. */
void cake_pool_run(cake_pool *p, size_t n_chunks,
                   void (*fn)(void *arg, size_t chunk, unsigned thread), void *arg);

#endif
