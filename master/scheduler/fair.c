/* Deficit round robin: see fair.h. */
#include "master/scheduler/fair.h"
#include "common/mem.h"

#include <stdlib.h>

enum { QUANTUM = 1024 }; /* rows of credit a turn */

typedef struct cake_fair_client {
    struct cake_fair_client *next, *prev;
    uint64_t id, credit;
    cake_fair_item *items; /* never empty */
} client;

void cake_fair_push(cake_fair *f, cake_fair_item *item) {
    client *c = f->turn;
    while (c && c->id != item->client) c = c->next == f->turn ? NULL : c->next;
    if (!c) { /* joins at the end of the round */
        c = cake_calloc(1, sizeof *c);
        c->id = item->client;
        if (f->turn) {
            c->next = f->turn;
            c->prev = f->turn->prev;
            c->prev->next = c->next->prev = c;
        } else {
            f->turn = c->next = c->prev = c;
        }
    }
    cake_fair_item **at = &c->items;
    while (*at && (*at)->priority <= item->priority) at = &(*at)->next;
    item->next = *at;
    *at = item;
}

static void drop_if_empty(cake_fair *f, client *c) {
    if (c->items) return;
    if (f->turn == c) f->turn = c->next == c ? NULL : c->next;
    c->prev->next = c->next;
    c->next->prev = c->prev;
    free(c);
}

void cake_fair_remove(cake_fair *f, cake_fair_item *item) {
    client *c = f->turn;
    while (c && c->id != item->client) c = c->next == f->turn ? NULL : c->next;
    if (!c) return;
    cake_fair_item **at = &c->items;
    while (*at && *at != item) at = &(*at)->next;
    if (*at) *at = item->next;
    drop_if_empty(f, c);
}

cake_fair_item *cake_fair_next(cake_fair *f, bool (*may)(void *arg, const cake_fair_item *item),
                               void *arg) {
    for (client *idle = NULL; f->turn;) {
        client *c = f->turn;
        if (c == idle) return NULL; /* once round without anything that may */
        cake_fair_item *i = c->items;
        while (i && may && !may(arg, i)) i = i->next;
        if (i && c->credit >= i->cost) {
            c->credit -= i->cost;
            cake_fair_remove(f, i);
            return i;
        }
        if (i) {
            c->credit += QUANTUM;
            idle = NULL;
        } else if (!idle) {
            idle = c;
        }
        f->turn = c->next;
    }
    return NULL;
}
