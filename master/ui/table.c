/* Aligned tables: see table.h. */
#include "master/ui/table.h"
#include "common/mem.h"
#include "common/status.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 32 };

struct cake_table {
    char align[COLUMNS_MAX + 1];
    size_t n_columns;
    char **cells;
    size_t n_cells;
};

cake_table *cake_table_new(const char *align) {
    size_t n = strlen(align);
    cake_assert(n > 0 && n <= COLUMNS_MAX);
    cake_table *t = cake_calloc(1, sizeof *t);
    memcpy(t->align, align, n);
    t->n_columns = n;
    return t;
}

void cake_table_free(cake_table *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_cells; i++) free(t->cells[i]);
    free(t->cells);
    free(t);
}

void cake_table_add(cake_table *t, const char *fmt, ...) {
    char *text;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0) text = cake_strdup("?");
    /* Names come from peers: nothing in them may move the cursor. */
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    t->cells = cake_realloc(t->cells, (t->n_cells + 1) * sizeof *t->cells);
    t->cells[t->n_cells++] = text;
}

static size_t width_of(const char *s) {
    size_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

void cake_table_print(const cake_table *t, unsigned indent, FILE *f) {
    size_t width[COLUMNS_MAX] = {0};
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t w = width_of(t->cells[i]), *most = &width[i % t->n_columns];
        if (w > *most) *most = w;
    }
    for (size_t row = 0; row < t->n_cells; row += t->n_columns) {
        size_t end = row + t->n_columns < t->n_cells ? row + t->n_columns : t->n_cells;
        while (end > row && !*t->cells[end - 1]) end--;
        fprintf(f, "%*s", (int)indent, "");
        for (size_t i = row; i < end; i++) {
            size_t column = i - row, pad = width[column] - width_of(t->cells[i]);
            bool right = t->align[column] == 'r';
            if (column) fputs("  ", f);
            if (right) fprintf(f, "%*s", (int)pad, "");
            fputs(t->cells[i], f);
            if (!right && i + 1 < end) fprintf(f, "%*s", (int)pad, "");
        }
        fputc('\n', f);
    }
}
