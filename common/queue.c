/* Queue between threads: see queue.h. A ring that grows; one lock, held for a few instructions. */
#include "common/queue.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/status.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct cake_queue {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    void **ring;
    size_t cap, head, waiting;
    _Atomic size_t n;
    int fd;
};

cake_queue *cake_queue_new(void) {
    cake_queue *q = cake_calloc(1, sizeof *q);
    q->cap = 64;
    q->ring = cake_calloc(q->cap, sizeof *q->ring);
    q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cake_assert(q->fd >= 0);
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->filled, &attr);
    pthread_condattr_destroy(&attr);
    return q;
}

void cake_queue_free(cake_queue *q) {
    if (!q) return;
    pthread_cond_destroy(&q->filled);
    pthread_mutex_destroy(&q->lock);
    close(q->fd);
    free(q->ring);
    free(q);
}

/* The eventfd counts 1 while the queue has items, 0 while it has none. */
static void signal_fd(cake_queue *q, bool on) {
    uint64_t v = 1;
    ssize_t rc = on ? write(q->fd, &v, sizeof v) : read(q->fd, &v, sizeof v);
    (void)rc;
}

void cake_queue_push(cake_queue *q, void *item) {
    pthread_mutex_lock(&q->lock);
    size_t n = atomic_load_explicit(&q->n, memory_order_relaxed);
    if (n == q->cap) {
        void **bigger = cake_malloc(2 * q->cap * sizeof *bigger);
        for (size_t i = 0; i < n; i++) bigger[i] = q->ring[(q->head + i) % q->cap];
        free(q->ring);
        q->ring = bigger;
        q->cap *= 2;
        q->head = 0;
    }
    q->ring[(q->head + n) % q->cap] = item;
    atomic_store_explicit(&q->n, n + 1, memory_order_relaxed);
    if (n == 0) signal_fd(q, true);
    if (q->waiting) pthread_cond_signal(&q->filled);
    pthread_mutex_unlock(&q->lock);
}

void *cake_queue_pop(cake_queue *q, int timeout_ms, unsigned spin_us) {
    if (timeout_ms != 0 && spin_us) {
        uint64_t until = cake_now_ns() + spin_us * 1000ull;
        while (atomic_load_explicit(&q->n, memory_order_relaxed) == 0 && cake_now_ns() < until)
            sched_yield();
    }
    struct timespec deadline = {0};
    if (timeout_ms > 0) {
        uint64_t t = cake_now_ns() + (uint64_t)timeout_ms * 1000000u;
        deadline = (struct timespec){(time_t)(t / 1000000000u), (long)(t % 1000000000u)};
    }
    pthread_mutex_lock(&q->lock);
    size_t n;
    while ((n = atomic_load_explicit(&q->n, memory_order_relaxed)) == 0 && timeout_ms != 0) {
        q->waiting++;
        int rc = timeout_ms < 0 ? pthread_cond_wait(&q->filled, &q->lock)
                                : pthread_cond_timedwait(&q->filled, &q->lock, &deadline);
        q->waiting--;
        if (rc == ETIMEDOUT) timeout_ms = 0;
    }
    void *item = NULL;
    if (n) {
        item = q->ring[q->head];
        q->head = (q->head + 1) % q->cap;
        atomic_store_explicit(&q->n, n - 1, memory_order_relaxed);
        if (n == 1) signal_fd(q, false);
    }
    pthread_mutex_unlock(&q->lock);
    return item;
}

size_t cake_queue_len(cake_queue *q) {
    return atomic_load_explicit(&q->n, memory_order_relaxed);
}

int cake_queue_fd(const cake_queue *q) {
    return q->fd;
}
