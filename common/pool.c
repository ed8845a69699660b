/* Thread pool: see pool.h. One 64-bit word holds (loop number << 32 | next chunk), so that taking a
 * chunk of a finished loop is impossible: the compare-and-swap fails when a new loop has begun. */
#include "common/pool.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/status.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct {
    cake_pool *pool;
    unsigned id;
    pthread_t thread;
} helper;

struct cake_pool {
    unsigned n_threads, spin_us;
    helper *helpers;
    void (*fn)(void *, size_t, unsigned);
    void *arg;
    _Atomic uint32_t n_chunks;
    _Alignas(64) _Atomic uint64_t next; /* loop << 32 | chunk */
    _Alignas(64) _Atomic uint32_t done; /* chunks finished in this loop */
    _Alignas(64) _Atomic uint32_t loop; /* futex word: changes when a loop starts */
    _Atomic uint32_t sleepers;
    _Atomic bool stop;
};

static void futex_wait(_Atomic uint32_t *w, uint32_t seen) {
    syscall(SYS_futex, w, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static void futex_wake_all(_Atomic uint32_t *w) {
    syscall(SYS_futex, w, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}
static inline void cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Run chunks of loop `loop` until none is left. */
static void work(cake_pool *p, uint32_t loop, unsigned id) {
    uint64_t v = atomic_load_explicit(&p->next, memory_order_acquire);
    for (;;) {
        if ((uint32_t)(v >> 32) != loop) return;
        uint32_t chunk = (uint32_t)v;
        /* Acquire: whoever sees the next loop's count also sees that this loop is closed. */
        if (chunk >= atomic_load_explicit(&p->n_chunks, memory_order_acquire)) return;
        if (!atomic_compare_exchange_weak_explicit(&p->next, &v, v + 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        p->fn(p->arg, chunk, id);
        atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
        v = atomic_load_explicit(&p->next, memory_order_acquire);
    }
}

static void *helper_main(void *arg) {
    helper *h = arg;
    cake_pool *p = h->pool;
    uint32_t seen = 0;
    for (;;) {
        uint32_t now = atomic_load_explicit(&p->loop, memory_order_acquire);
        if (now == seen) {
            uint64_t until = cake_now_ns() + p->spin_us * 1000ull;
            unsigned turn = 0;
            while ((now = atomic_load_explicit(&p->loop, memory_order_acquire)) == seen) {
                cpu_relax();
                if (++turn % 64 == 0 && cake_now_ns() >= until) break;
            }
            if (now == seen) {
                atomic_fetch_add(&p->sleepers, 1);
                while ((now = atomic_load(&p->loop)) == seen) futex_wait(&p->loop, seen);
                atomic_fetch_sub(&p->sleepers, 1);
            }
        }
        if (atomic_load(&p->stop)) return NULL;
        seen = now;
        work(p, now, h->id);
    }
}

cake_pool *cake_pool_new(unsigned n_threads, unsigned spin_us) {
    if (n_threads == 0) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        n_threads = n > 0 ? (unsigned)n : 1;
    }
    cake_pool *p = aligned_alloc(64, cake_round_up(sizeof *p, 64));
    if (!p) abort();
    *p = (cake_pool){.n_threads = n_threads, .spin_us = spin_us};
    p->helpers = cake_calloc(n_threads, sizeof *p->helpers);
    for (unsigned i = 1; i < n_threads; i++) {
        p->helpers[i] = (helper){.pool = p, .id = i};
        if (pthread_create(&p->helpers[i].thread, NULL, helper_main, &p->helpers[i]) != 0) {
            p->n_threads = i; /* fewer threads: slower, same result */
            break;
        }
    }
    return p;
}

void cake_pool_free(cake_pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->loop, 1);
    futex_wake_all(&p->loop);
    for (unsigned i = 1; i < p->n_threads; i++) pthread_join(p->helpers[i].thread, NULL);
    free(p->helpers);
    free(p);
}

unsigned cake_pool_threads(const cake_pool *p) {
    return p ? p->n_threads : 1;
}

void cake_pool_run(cake_pool *p, size_t n_chunks, void (*fn)(void *, size_t, unsigned), void *arg) {
    if (!p || p->n_threads == 1 || n_chunks <= 1) {
        for (size_t i = 0; i < n_chunks; i++) fn(arg, i, 0);
        return;
    }
    cake_assert(n_chunks < UINT32_MAX);
    uint32_t loop = atomic_load_explicit(&p->loop, memory_order_relaxed) + 1;
    /* Close the old loop before fn and arg change: a late helper then fails its compare-and-swap.
     */
    atomic_store(&p->next, (uint64_t)loop << 32 | UINT32_MAX);
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->n_chunks, (uint32_t)n_chunks, memory_order_release);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->next, (uint64_t)loop << 32, memory_order_release);
    atomic_store(&p->loop, loop);
    if (atomic_load(&p->sleepers)) futex_wake_all(&p->loop);
    work(p, loop, 0);
    unsigned turn = 0;
    while (atomic_load_explicit(&p->done, memory_order_acquire) != (uint32_t)n_chunks) {
        cpu_relax();
        if (++turn % 4096 == 0)
            sched_yield(); /* the helper with the last chunk may need this core */
    }
}
