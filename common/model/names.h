/* A table from names to numbers, for names a file or peer chose: seeded, so that nobody can pick
 * names that all fall into one slot. Names are borrowed and must stay where they are. */
#ifndef CAKE_COMMON_MODEL_NAMES_H
#define CAKE_COMMON_MODEL_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name; /* NULL: empty */
    uint32_t len, value;
} cake_name_slot;

typedef struct {
    uint64_t seed;
    size_t n, n_slots; /* n_slots: 0 or a power of two */
    cake_name_slot *slots;
} cake_names;

typedef enum { CAKE_NAMES_ADDED, CAKE_NAMES_THERE, CAKE_NAMES_NOMEM } cake_names_result;

/* A zeroed cake_names is an empty table. */
cake_names_result cake_names_add(cake_names *t, const char *name, size_t len, uint32_t value);
/* False when absent. Thread-safe while nothing is added. */
bool cake_names_find(const cake_names *t, const char *name, size_t len, uint32_t *value);
void cake_names_deinit(cake_names *t);

#endif
