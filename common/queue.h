/* A first-in-first-out queue of pointers between threads, with an eventfd to poll on.
 *
 * Any number of threads may push and pop. push never blocks: whoever feeds the queue bounds it. */
#ifndef CAKE_COMMON_QUEUE_H
#define CAKE_COMMON_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct cake_queue cake_queue;

cake_queue *cake_queue_new(void);
/* What is still inside is the caller's to drain first. NULL is fine. */
void cake_queue_free(cake_queue *q);

void cake_queue_push(cake_queue *q, void *item);
/* Next item, or NULL. timeout_ms: 0 does not wait, below 0 waits until one comes. A waiting reader
 * first looks again and again for spin_us (saves the sleep when the answer is near). */
void *cake_queue_pop(cake_queue *q, int timeout_ms, unsigned spin_us);
size_t cake_queue_len(cake_queue *q);

/* Readable while the queue is not empty; poll it, never read it. */
int cake_queue_fd(const cake_queue *q);

#endif
