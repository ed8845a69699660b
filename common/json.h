/* Typed access to JSON over json-c, for configuration and control messages.
 *
 * cake_json_parse is stricter than json-c: one value, bounded depth, no NaN, no single quotes,
 * nothing after the value but white space. Duplicate keys are accepted and the last wins (json-c).
 * The safetensors header has its own stricter parser (common/model/safetensors.c).
 *
 * The getters: an absent member (or JSON null) leaves *out as it was and returns CAKE_OK when
 * `required` is false, CAKE_EFORMAT when true. A member of the wrong type or out of range is
 * CAKE_EFORMAT and the message names it. */
#ifndef CAKE_COMMON_JSON_H
#define CAKE_COMMON_JSON_H

#include "common/status.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

/* Parse text[0..len). what names the source in messages ("config.json"). *out is owned by the
 * caller (json_object_put). max_depth counts nested containers. */
cake_status cake_json_parse(const char *text, size_t len, int max_depth, const char *what,
                            json_object **out, cake_error *err);
/* Read and parse a file of at most max bytes. */
cake_status cake_json_read(const char *path, size_t max, json_object **out, cake_error *err);

cake_status cake_json_int(json_object *o, const char *key, bool required, int64_t min, int64_t max,
                          int64_t *out, cake_error *err);
cake_status cake_json_u32(json_object *o, const char *key, bool required, uint32_t min,
                          uint32_t max, uint32_t *out, cake_error *err);
cake_status cake_json_double(json_object *o, const char *key, bool required, double min, double max,
                             double *out, cake_error *err);
cake_status cake_json_bool(json_object *o, const char *key, bool required, bool *out,
                           cake_error *err);
/* *out borrows the string of o. Rejects strings with NUL inside or longer than max_len bytes. */
cake_status cake_json_string(json_object *o, const char *key, bool required, size_t max_len,
                             const char **out, cake_error *err);
/* Member that is an object / array, or NULL (absent and not required). Borrowed. */
cake_status cake_json_object(json_object *o, const char *key, bool required, json_object **out,
                             cake_error *err);
cake_status cake_json_array(json_object *o, const char *key, bool required, size_t max_len,
                            json_object **out, cake_error *err);

/* True when o is an object with a non-null member key. */
bool cake_json_has(json_object *o, const char *key);

#endif
