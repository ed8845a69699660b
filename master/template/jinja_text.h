/* Strings as Python sees them, on UTF-8 bytes. Invalid bytes count as one character each and pass
 * through unchanged, so no function can run past the end. */
#ifndef CAKE_MASTER_TEMPLATE_JINJA_TEXT_H
#define CAKE_MASTER_TEMPLATE_JINJA_TEXT_H

#include "master/template/jinja_value.h"

/* Bytes of the character at s (n > 0 bytes left); *cp gets its code point (the byte itself when
 * invalid). */
size_t cake_jj_utf8_next(const char *s, size_t n, uint32_t *cp);
size_t cake_jj_utf8_put(char out[4], uint32_t cp);
bool cake_jj_is_space(uint32_t cp); /* str.isspace of one character */
size_t cake_jj_count_chars(const char *s, size_t n);
/* Byte offset of character index (clamped to the end). */
size_t cake_jj_char_offset(const char *s, size_t n, size_t index);

/* Strip whitespace, or the characters of set when it is a string, from the asked ends. */
cake_jj_value cake_jj_strip(cake_jj_value s, cake_jj_value set, bool left, bool right);
cake_jj_value cake_jj_upper(cake_jj *r, cake_jj_value s);
cake_jj_value cake_jj_lower(cake_jj *r, cake_jj_value s);
cake_jj_value cake_jj_swapcase(cake_jj *r, cake_jj_value s);
cake_jj_value cake_jj_capitalize(cake_jj *r, cake_jj_value s);
cake_jj_value cake_jj_title(cake_jj *r, cake_jj_value s); /* str.title */
cake_jj_value
cake_jj_title_filter(cake_jj *r, cake_jj_value s); /* Jinja's title filter splits words otherwise */
bool cake_jj_is_lower(cake_jj_value s);
bool cake_jj_is_upper(cake_jj_value s);
/* isalpha, isdigit, isalnum, isspace, isdecimal, isnumeric, isascii: every character, and at least
 * one. */
bool cake_jj_all_of(cake_jj_value s, char what);
cake_jj_value cake_jj_split(cake_jj *r, cake_jj_value s, cake_jj_value sep, int64_t max);
cake_jj_value cake_jj_rsplit(cake_jj *r, cake_jj_value s, cake_jj_value sep, int64_t max);
cake_jj_value cake_jj_splitlines(cake_jj *r, cake_jj_value s, bool keep);
cake_jj_value cake_jj_replace(cake_jj *r, cake_jj_value s, cake_jj_value old, cake_jj_value new_,
                              int64_t count);
cake_jj_value cake_jj_repeat(cake_jj *r, cake_jj_value s, int64_t times);
cake_jj_value cake_jj_slice_str(cake_jj *r, cake_jj_value s, int64_t start, int64_t step,
                                int64_t count);
/* Byte offset of needle at or after from, SIZE_MAX when absent. */
size_t cake_jj_find(cake_jj_value s, cake_jj_value needle, size_t from);
size_t cake_jj_rfind(cake_jj_value s, cake_jj_value needle);
bool cake_jj_starts(cake_jj_value s, cake_jj_value prefix);
bool cake_jj_ends(cake_jj_value s, cake_jj_value suffix);
cake_jj_value cake_jj_escape_html(cake_jj *r, cake_jj_value s);
cake_jj_value cake_jj_join(cake_jj *r, cake_jj_value sep, cake_jj_value seq); /* str() of each */
/* repr of a string. */
void cake_jj_put_quoted(cake_jj *r, cake_jj_buf *b, cake_jj_value s);
/* repr of a float: the shortest digits that read back equal. */
void cake_jj_put_float(cake_jj *r, cake_jj_buf *b, double f);

#endif
