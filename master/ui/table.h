/* Aligned text tables: cells are added row by row, widths follow the contents, trailing blanks are
 * cut. Not thread-safe. Width counts UTF-8 code points. */
#ifndef CAKE_MASTER_UI_TABLE_H
#define CAKE_MASTER_UI_TABLE_H

#include <stddef.h>
#include <stdio.h>

typedef struct cake_table cake_table;

/* align: one character per column, 'l' or 'r'; its length is the number of columns (at most 32). */
cake_table *cake_table_new(const char *align);
void cake_table_free(cake_table *t);
/* Next cell, left to right, then the next row. The text is copied; control characters become '?'.
 */
void cake_table_add(cake_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Rows with two blanks between columns, `indent` blanks before. An unfinished last row is printed
 * short. */
void cake_table_print(const cake_table *t, unsigned indent, FILE *f);

#endif
