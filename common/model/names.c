/* Name table: see names.h. Open addressing, at most half full. */
#include "common/model/names.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

__extension__ typedef unsigned __int128 u128;

static uint64_t mix(uint64_t a, uint64_t b) {
    u128 m = (u128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint64_t hash(uint64_t seed, const char *s, size_t n) {
    uint64_t h = seed ^ n;
    while (n) {
        uint64_t w = 0;
        size_t take = n < 8 ? n : 8;
        memcpy(&w, s, take);
        h = mix(h ^ w ^ UINT64_C(0x9E3779B97F4A7C15), seed | 1);
        s += take, n -= take;
    }
    return mix(h, UINT64_C(0xD6E8FEB86659FD93));
}

static cake_name_slot *slot_of(const cake_names *t, const char *name, size_t len) {
    size_t i = (size_t)hash(t->seed, name, len);
    for (;; i++) {
        cake_name_slot *s = &t->slots[i & (t->n_slots - 1)];
        if (!s->name || (s->len == len && memcmp(s->name, name, len) == 0)) return s;
    }
}

static bool grow(cake_names *t) {
    cake_names bigger = {.seed = t->seed, .n = t->n, .n_slots = t->n_slots ? 2 * t->n_slots : 64};
    if (!t->n_slots && getrandom(&bigger.seed, sizeof bigger.seed, GRND_NONBLOCK) < 0)
        bigger.seed = (uint64_t)(uintptr_t)&bigger * UINT64_C(0x9E3779B97F4A7C15);
    size_t bytes;
    if (!cake_mul_size(bigger.n_slots, sizeof *bigger.slots, &bytes)) return false;
    bigger.slots = cake_trymalloc(bytes);
    if (!bigger.slots) return false;
    memset(bigger.slots, 0, bytes);
    for (size_t i = 0; i < t->n_slots; i++)
        if (t->slots[i].name) *slot_of(&bigger, t->slots[i].name, t->slots[i].len) = t->slots[i];
    free(t->slots);
    *t = bigger;
    return true;
}

cake_names_result cake_names_add(cake_names *t, const char *name, size_t len, uint32_t value) {
    if (2 * (t->n + 1) > t->n_slots && !grow(t)) return CAKE_NAMES_NOMEM;
    cake_name_slot *s = slot_of(t, name, len);
    if (s->name) return CAKE_NAMES_THERE;
    *s = (cake_name_slot){name, (uint32_t)len, value};
    t->n++;
    return CAKE_NAMES_ADDED;
}

bool cake_names_find(const cake_names *t, const char *name, size_t len, uint32_t *value) {
    if (!t->n_slots) return false;
    const cake_name_slot *s = slot_of(t, name, len);
    if (!s->name) return false;
    *value = s->value;
    return true;
}

void cake_names_deinit(cake_names *t) {
    free(t->slots);
    *t = (cake_names){0};
}
