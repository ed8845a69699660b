/* Byte range sets: see extents.h. */
#include "worker/store/extents.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

/* Index of the first range that ends after `at`. */
static size_t first_after(const cake_extents *x, uint64_t at) {
    size_t lo = 0, hi = x->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (x->r[mid].end > at)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* Replace ranges [from, to) by the k ranges of put. */
static bool splice(cake_extents *x, size_t from, size_t to, const cake_store_range *put, size_t k) {
    size_t n = x->n - (to - from) + k;
    if (n > CAKE_EXTENTS_MAX) return false;
    if (n > x->room) {
        x->room = n < 16 ? 16 : 2 * n;
        x->r = cake_realloc(x->r, x->room * sizeof *x->r);
    }
    if (x->n > to) memmove(x->r + from + k, x->r + to, (x->n - to) * sizeof *x->r);
    if (k) memcpy(x->r + from, put, k * sizeof *put);
    x->n = n;
    return true;
}

bool cake_extents_add(cake_extents *x, uint64_t begin, uint64_t end) {
    if (begin >= end) return true;
    size_t from = begin ? first_after(x, begin - 1) : 0, to = from; /* -1: touching ranges join */
    cake_store_range all = {begin, end};
    for (; to < x->n && x->r[to].begin <= end; to++) {
        if (x->r[to].begin < all.begin) all.begin = x->r[to].begin;
        if (x->r[to].end > all.end) all.end = x->r[to].end;
    }
    return splice(x, from, to, &all, 1);
}

bool cake_extents_remove(cake_extents *x, uint64_t begin, uint64_t end) {
    if (begin >= end) return true;
    size_t from = first_after(x, begin), to = from, k = 0;
    cake_store_range keep[2];
    for (; to < x->n && x->r[to].begin < end; to++) {
        if (x->r[to].begin < begin) keep[k++] = (cake_store_range){x->r[to].begin, begin};
        if (x->r[to].end > end) keep[k++] = (cake_store_range){end, x->r[to].end};
    }
    return splice(x, from, to, keep, k);
}

bool cake_extents_cover(const cake_extents *x, uint64_t begin, uint64_t end) {
    if (begin >= end) return true;
    size_t i = first_after(x, begin);
    return i < x->n && x->r[i].begin <= begin && x->r[i].end >= end;
}

uint64_t cake_extents_bytes(const cake_extents *x) {
    uint64_t n = 0;
    for (size_t i = 0; i < x->n; i++) n += x->r[i].end - x->r[i].begin;
    return n;
}

bool cake_extents_gap(const cake_extents *x, uint64_t begin, uint64_t end, cake_store_range *gap) {
    size_t i = first_after(x, begin);
    if (i < x->n && x->r[i].begin <= begin) begin = x->r[i++].end;
    if (begin >= end) return false;
    *gap = (cake_store_range){begin, i < x->n && x->r[i].begin < end ? x->r[i].begin : end};
    return true;
}

void cake_extents_deinit(cake_extents *x) {
    free(x->r);
    *x = (cake_extents){0};
}
