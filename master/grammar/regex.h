/* Patterns of JSON schemas as grammars of JSON strings.
 *
 * Supported: literal characters, '.', classes [a-z] and [^a-z], \d \w \s \D \W \S, escapes \n \t \r
 * \f \v \xHH \uHHHH and of punctuation, groups (...) and (?:...), |, * + ? {m} {m,} {m,n} (lazy
 * forms mean the same), ^ at the very beginning, $ at the very end. What is not anchored may have
 * any text before or behind. Not supported, and refused: look-around, back references, \b, named
 * groups, anchors elsewhere, \p. '.' and negated classes leave control characters out. */
#ifndef CAKE_MASTER_GRAMMAR_REGEX_H
#define CAKE_MASTER_GRAMMAR_REGEX_H

#include "master/grammar/grammar.h"

enum { CAKE_REGEX_REPEAT_MAX = 1000 };

/* The inside of a JSON string (without its quotes) that matches pattern; *entry comes before next.
 * any: rule of one character of a JSON string. CAKE_EUNSUPPORTED with the reason; CAKE_ENOSPACE. */
cake_status cake_grammar_regex(cake_grammar *g, const char *pattern, size_t len, uint32_t any,
                               uint32_t next, uint32_t *entry, cake_error *err);

#endif
