/* Who is next: deficit round robin over clients.
 *
 * Every client with something waiting gets credit for the same amount of work in turn, whatever the
 * number and size of its requests; what one client sends never makes another wait for more than one
 * round. Among the requests of one client a lower priority value goes first, then the older one.
 *
 * Items are the caller's, embedded in its own structs. Allocates one record per client with waiting
 * items. Not thread-safe. */
#ifndef CAKE_MASTER_SCHEDULER_FAIR_H
#define CAKE_MASTER_SCHEDULER_FAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct cake_fair_item {
    struct cake_fair_item *next;
    uint64_t client;
    uint32_t cost; /* work it stands for, in rows */
    int32_t priority;
} cake_fair_item;

typedef struct {
    struct cake_fair_client *turn; /* ring; NULL: nothing waits */
} cake_fair;

void cake_fair_push(cake_fair *f, cake_fair_item *item);
/* Take it out again; an item that is not in f is fine. */
void cake_fair_remove(cake_fair *f, cake_fair_item *item);
/* Take the next one of those that may() allows (NULL: all); NULL when there is none. */
cake_fair_item *cake_fair_next(cake_fair *f, bool (*may)(void *arg, const cake_fair_item *item),
                               void *arg);

#endif
