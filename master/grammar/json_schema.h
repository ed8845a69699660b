/* JSON schemas as grammars: every text the grammar lets through is JSON that the schema accepts.
 *
 * Supported (JSON Schema 2020-12):
 *   any type     type (a name or a list), enum, const, anyOf, allOf of one schema, oneOf whose
 *                branches exclude each other by type or by a required constant property, $ref into
 *                the same schema ("#", "#/$defs/..."; may be recursive), true, {}
 *   object       properties (written in their order), required, additionalProperties. Where
 *                `properties` stands without `additionalProperties` only they are written.
 *   array        items, prefixItems, minItems, maxItems
 *   string       minLength, maxLength, or pattern (master/grammar/regex.h), or format: date, time,
 *                date-time, uuid, ipv4, email
 *   integer      minimum, maximum, exclusiveMinimum, exclusiveMaximum
 *   number       minimum, maximum when they are whole numbers
 *   annotations  title, description, default, examples, deprecated, readOnly, writeOnly,
 *                discriminator, $schema, $id, $comment, $defs, definitions, uniqueItems false
 * Anything else is refused by its name (CAKE_EUNSUPPORTED). The grammar may be narrower than the
 * schema, never wider: numbers have at most 15 digits before and behind the point and an exponent
 * of two digits, strings at most 4,096 characters and arrays at most 1,024 items where a maximum is
 * given, white space is a blank or a line break with an indent.
 *
 * Limits: CAKE_SCHEMA_BYTES_MAX of text, CAKE_SCHEMA_NODES_MAX schemas in it, and those of
 * grammar.h. Threads: one compiler on one thread; allocates, does not block. */
#ifndef CAKE_MASTER_GRAMMAR_JSON_SCHEMA_H
#define CAKE_MASTER_GRAMMAR_JSON_SCHEMA_H

#include "master/grammar/grammar.h"

#include <json-c/json.h>

enum { CAKE_SCHEMA_BYTES_MAX = 64 << 10, CAKE_SCHEMA_NODES_MAX = 2000 };

typedef struct cake_schema_compiler cake_schema_compiler;

/* Adds to g, which is borrowed. Several schemas may go into one grammar. */
cake_schema_compiler *cake_schema_compiler_new(cake_grammar *g);
void cake_schema_compiler_free(cake_schema_compiler *c);

/* A value that schema accepts, then next. CAKE_EUNSUPPORTED: a keyword, which the message names
 * with its place; CAKE_EINVAL: not a schema; CAKE_ENOSPACE: too large. */
cake_status cake_schema_compile(cake_schema_compiler *c, json_object *schema, uint32_t next,
                                uint32_t *entry, cake_error *err);
/* Any JSON object, then next. */
uint32_t cake_schema_any_object(cake_schema_compiler *c, uint32_t next);
/* At most one blank or line break with an indent, then next. */
uint32_t cake_schema_space(cake_schema_compiler *c, uint32_t next);

/* Any text up to and with the first occurrence of marker (whose first byte occurs in it once),
 * then next. */
uint32_t cake_grammar_until(cake_grammar *g, const char *marker, uint32_t next);

#endif
