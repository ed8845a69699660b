/* Ranges and credit of a transfer; see transfer.h. */
#include "proto/transfer.h"

#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

void cake_ranges_deinit(cake_ranges *r) {
    free(r->at);
    *r = (cake_ranges){0};
}

/* First range whose end is >= x (so that touching ranges are found). */
static size_t first_reaching(const cake_ranges *r, uint64_t x) {
    size_t lo = 0, hi = r->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (r->at[mid].end < x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Replace at[i..j) by k ranges of with. */
static cake_status splice(cake_ranges *r, size_t i, size_t j, const cake_range *with, size_t k,
                          cake_error *err) {
    size_t n = r->n - (j - i) + k;
    if (n > CAKE_RANGES_MAX)
        return cake_fail(err, CAKE_ENOSPACE, "more than %d byte ranges", CAKE_RANGES_MAX);
    if (n > r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 16;
        cake_range *p = cake_trymalloc(cap * sizeof *p);
        if (!p) return cake_fail(err, CAKE_ENOMEM, "no memory for %zu byte ranges", cap);
        if (r->n) memcpy(p, r->at, r->n * sizeof *p);
        free(r->at);
        r->at = p;
        r->cap = cap;
    }
    if (r->n > j) memmove(r->at + i + k, r->at + j, (r->n - j) * sizeof *r->at);
    if (k) memcpy(r->at + i, with, k * sizeof *with);
    r->n = n;
    return CAKE_OK;
}

cake_status cake_ranges_add(cake_ranges *r, uint64_t begin, uint64_t end, cake_error *err) {
    if (begin > end) return cake_fail(err, CAKE_EINVAL, "byte range ends before it begins");
    if (begin == end) return CAKE_OK;
    size_t i = first_reaching(r, begin), j = i;
    cake_range m = {begin, end};
    for (; j < r->n && r->at[j].begin <= end; j++) {
        if (r->at[j].begin < m.begin) m.begin = r->at[j].begin;
        if (r->at[j].end > m.end) m.end = r->at[j].end;
    }
    return splice(r, i, j, &m, 1, err);
}

cake_status cake_ranges_remove(cake_ranges *r, uint64_t begin, uint64_t end, cake_error *err) {
    if (begin > end) return cake_fail(err, CAKE_EINVAL, "byte range ends before it begins");
    if (begin == end) return CAKE_OK;
    size_t i = first_reaching(r, begin), k = 0;
    if (i < r->n && r->at[i].end == begin) i++; /* touches only */
    size_t j = i;
    cake_range keep[2];
    for (; j < r->n && r->at[j].begin < end; j++) {
        if (r->at[j].begin < begin) keep[k++] = (cake_range){r->at[j].begin, begin};
        if (r->at[j].end > end) keep[k++] = (cake_range){end, r->at[j].end};
    }
    return i == j ? CAKE_OK : splice(r, i, j, keep, k, err);
}

bool cake_ranges_contain(const cake_ranges *r, uint64_t begin, uint64_t end) {
    if (begin >= end) return begin == end;
    size_t i = first_reaching(r, begin);
    if (i < r->n && r->at[i].end == begin) i++;
    return i < r->n && r->at[i].begin <= begin && end <= r->at[i].end;
}

uint64_t cake_ranges_bytes(const cake_ranges *r) {
    uint64_t n = 0;
    for (size_t i = 0; i < r->n; i++) n += r->at[i].end - r->at[i].begin;
    return n;
}

cake_status cake_ranges_missing(const cake_ranges *r, uint64_t size, cake_ranges *out,
                                cake_error *err) {
    cake_ranges m = {0};
    cake_status st = cake_ranges_add(&m, 0, size, err);
    for (size_t i = 0; st == CAKE_OK && i < r->n; i++)
        st = cake_ranges_remove(&m, r->at[i].begin, r->at[i].end, err);
    if (st == CAKE_OK)
        *out = m;
    else
        cake_ranges_deinit(&m);
    return st;
}

json_object *cake_ranges_to_json(const cake_ranges *r) {
    json_object *a = json_object_new_array();
    for (size_t i = 0; i < r->n; i++) {
        json_object *pair = json_object_new_array();
        json_object_array_add(pair, json_object_new_int64((int64_t)r->at[i].begin));
        json_object_array_add(pair, json_object_new_int64((int64_t)r->at[i].end));
        json_object_array_add(a, pair);
    }
    return a;
}

cake_status cake_ranges_from_json(cake_ranges *r, json_object *array, uint64_t size,
                                  cake_error *err) {
    if (!array || !json_object_is_type(array, json_type_array))
        return cake_fail(err, CAKE_EPROTO, "byte ranges are not a list");
    size_t n = json_object_array_length(array);
    if (n > CAKE_RANGES_MAX)
        return cake_fail(err, CAKE_EPROTO, "%zu byte ranges, at most %d", n, CAKE_RANGES_MAX);
    cake_ranges out = {0};
    uint64_t last = 0;
    cake_status st = CAKE_OK;
    for (size_t i = 0; st == CAKE_OK && i < n; i++) {
        json_object *pair = json_object_array_get_idx(array, i);
        int64_t v[2] = {-1, -1};
        if (pair && json_object_is_type(pair, json_type_array) &&
            json_object_array_length(pair) == 2)
            for (size_t j = 0; j < 2; j++) {
                json_object *x = json_object_array_get_idx(pair, j);
                if (x && json_object_is_type(x, json_type_int)) v[j] = json_object_get_int64(x);
            }
        if (v[0] < 0 || v[1] <= v[0] || (uint64_t)v[1] > size || (i && (uint64_t)v[0] <= last))
            st = cake_fail(err, CAKE_EPROTO,
                           "byte range %zu is malformed, out of order or beyond %llu", i,
                           (unsigned long long)size);
        else
            st = cake_ranges_add(&out, (uint64_t)v[0], (uint64_t)v[1], err);
        last = (uint64_t)v[1];
    }
    if (st == CAKE_OK)
        *r = out;
    else
        cake_ranges_deinit(&out);
    return st;
}

void cake_sender_init(cake_sender *s, uint64_t id, uint64_t size, cake_ranges *todo) {
    *s = (cake_sender){.id = id, .size = size, .todo = *todo};
    *todo = (cake_ranges){0};
}

void cake_sender_deinit(cake_sender *s) {
    cake_ranges_deinit(&s->todo);
}

cake_status cake_sender_credit(cake_sender *s, uint64_t limit, cake_error *err) {
    uint64_t all = cake_ranges_bytes(&s->todo), max;
    if (__builtin_add_overflow(all, (uint64_t)1 << 30, &max)) max = UINT64_MAX;
    if (limit > max)
        return cake_fail(err, CAKE_EPROTO, "credit of %llu bytes for a transfer of %llu",
                         (unsigned long long)limit, (unsigned long long)all);
    if (limit > s->credit) s->credit = limit;
    return CAKE_OK;
}

bool cake_sender_next(const cake_sender *s, size_t max, uint64_t *offset, size_t *len) {
    if (s->range >= s->todo.n || s->sent >= s->credit || max == 0) return false;
    const cake_range *r = &s->todo.at[s->range];
    uint64_t n = r->end - r->begin - s->at;
    if (n > max) n = max;
    if (n > s->credit - s->sent) n = s->credit - s->sent;
    *offset = r->begin + s->at;
    *len = (size_t)n;
    return true;
}

void cake_sender_advance(cake_sender *s, size_t len) {
    cake_assert(s->range < s->todo.n);
    const cake_range *r = &s->todo.at[s->range];
    cake_assert(len <= r->end - r->begin - s->at && len <= s->credit - s->sent);
    s->at += len;
    s->sent += len;
    if (s->at == r->end - r->begin) s->range++, s->at = 0;
}

bool cake_sender_done(const cake_sender *s) {
    return s->range >= s->todo.n;
}

void cake_receiver_init(cake_receiver *r, uint64_t id, uint64_t size, cake_ranges *missing,
                        uint64_t window) {
    *r = (cake_receiver){.id = id,
                         .size = size,
                         .missing = *missing,
                         .window = window ? window : CAKE_TRANSFER_WINDOW};
    *missing = (cake_ranges){0};
}

void cake_receiver_deinit(cake_receiver *r) {
    cake_ranges_deinit(&r->missing);
}

cake_status cake_receiver_chunk(cake_receiver *r, uint64_t offset, size_t len, cake_error *err) {
    uint64_t end;
    if (len == 0 || __builtin_add_overflow(offset, len, &end) || end > r->size)
        return cake_fail(err, CAKE_EPROTO, "bundle bytes [%llu, +%zu) of %llu",
                         (unsigned long long)offset, len, (unsigned long long)r->size);
    if (len > r->granted - r->received)
        return cake_fail(err, CAKE_EPROTO, "bundle bytes beyond the credit given");
    if (!cake_ranges_contain(&r->missing, offset, end))
        return cake_fail(err, CAKE_EPROTO, "bundle bytes [%llu, +%zu) were not asked for",
                         (unsigned long long)offset, len);
    cake_status st = cake_ranges_remove(&r->missing, offset, end, err);
    if (st == CAKE_OK) r->received += len;
    return st;
}

void cake_receiver_consumed(cake_receiver *r, size_t len) {
    r->consumed += len;
    cake_assert(r->consumed <= r->received);
}

bool cake_receiver_grant(cake_receiver *r, uint64_t *limit) {
    /* Everything still missing is enough; what is more is only asked for by half windows. */
    uint64_t want = r->consumed + r->window, all = r->received + cake_ranges_bytes(&r->missing);
    if (want > all) want = all;
    if (want <= r->granted) return false;
    if (want < all && want - r->granted < r->window / 2) return false;
    r->granted = want;
    *limit = want;
    return true;
}

bool cake_receiver_done(const cake_receiver *r) {
    return r->missing.n == 0;
}
