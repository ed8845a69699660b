/* Importance matrices out of collected statistics: see calibrate.h. */
#include "master/tools/calibrate.h"

#include "common/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Means and counts of one input of a unit. */
typedef struct {
    uint32_t n, k;
    float *means;
    uint64_t *counts;
} seen;

static cake_status fetch(cake_cluster *c, uint32_t unit, cake_input input, seen *s,
                         cake_error *err) {
    size_t floats;
    if (!cake_mul_size(s->n, s->k, &floats) || floats > CAKE_IMATRIX_VALUES_MAX)
        return cake_fail(err, CAKE_EUNSUPPORTED, "the inputs of unit %u are too many to be kept",
                         unit);
    s->means = cake_calloc(floats, sizeof *s->means);
    s->counts = cake_calloc(s->n, sizeof *s->counts);
    cake_status st = cake_cluster_stats(c, unit, input, s->n, s->k, s->means, s->counts, err);
    for (uint32_t e = 0; st == CAKE_OK && e < s->n; e++)
        for (uint32_t i = 0; !s->counts[e] && i < s->k; i++) s->means[(size_t)e * s->k + i] = 1.0f;
    return st;
}

/* Experts [first, first + n) of what was seen, for one module. */
static void add_entry(cake_imatrix *out, const cake_module *m, const seen *s, uint32_t first,
                      uint32_t n) {
    char name[512];
    snprintf(name, sizeof name, "%s.weight", m->path);
    cake_imatrix_entry *e = cake_imatrix_add(out, name, n, s->k);
    memcpy(e->values, s->means + (size_t)first * s->k, (size_t)n * s->k * sizeof *e->values);
    for (uint32_t i = 0; i < n; i++)
        if (s->counts[first + i] > e->count) e->count = s->counts[first + i];
    if (n > 1) {
        e->mat_counts = cake_calloc(n, sizeof *e->mat_counts);
        memcpy(e->mat_counts, s->counts + first, n * sizeof *e->mat_counts);
    }
}

cake_status cake_calibrate_fetch(cake_cluster *c, const cake_layout *layout, cake_imatrix *out,
                                 cake_error *err) {
    cake_status st = CAKE_OK;
    for (uint32_t u = 0; st == CAKE_OK && u < layout->n_units; u++) {
        seen s[CAKE_INPUT_COUNT] = {0};
        for (int i = 0; st == CAKE_OK && i < CAKE_INPUT_COUNT; i++)
            if (cake_layout_input(layout, u, (cake_input)i, &s[i].n, &s[i].k))
                st = fetch(c, u, (cake_input)i, &s[i], err);
        const cake_unit *unit = &layout->units[u];
        for (uint32_t m = 0, expert = 0; st == CAKE_OK && m < unit->n_modules; m++) {
            const cake_module *mod = &unit->modules[m];
            const cake_input i = cake_role_input(mod->role);
            if (i == CAKE_INPUT_COUNT) continue;
            /* experts are a stack, or modules of their own in ascending order */
            const bool alone = s[i].n > 1 && !mod->n_experts;
            expert = alone && m && unit->modules[m - 1].role == mod->role ? expert + 1 : 0;
            add_entry(out, mod, &s[i], alone ? expert : 0, alone ? 1 : s[i].n);
        }
        for (int i = 0; i < CAKE_INPUT_COUNT; i++) {
            free(s[i].means);
            free(s[i].counts);
        }
    }
    return st == CAKE_OK ? cake_imatrix_index(out, err) : st;
}
