/* Members of JSON that clients send, checked, for the parsers of the request forms.
 *
 * Each leaves *out alone and is true when the member is absent or null; a wrong type or a value out
 * of range is a 400 that names `key`, and false. Nothing allocates; strings are borrowed. */
#ifndef CAKE_MASTER_SERVER_FIELDS_H
#define CAKE_MASTER_SERVER_FIELDS_H

#include "master/server/request.h"

json_object *cake_field(json_object *o, const char *key);
bool cake_field_bool(json_object *o, const char *key, bool *out, cake_api_error *e);
bool cake_field_float(json_object *o, const char *key, double min, double max, float *out,
                      cake_api_error *e);
/* 10.0 is a whole number, too. */
bool cake_field_int(json_object *o, const char *key, int64_t min, int64_t max, int64_t *out,
                    cake_api_error *e);
/* The same for a value; key is its name in messages. */
bool cake_field_number_of(json_object *v, const char *key, double min, double max, double *out,
                          cake_api_error *e);
bool cake_field_int_of(json_object *v, const char *key, int64_t min, int64_t max, int64_t *out,
                       cake_api_error *e);
/* A string without NUL inside. */
bool cake_field_string_of(json_object *v, const char *key, size_t max, const char **out,
                          size_t *len, cake_api_error *e);
/* The text of a content: a string, or an array of parts of type text, input_text or output_text,
 * joined. *out is new. */
bool cake_api_get_text(json_object *content, const char *param, json_object **out,
                       cake_api_error *e);
/* A message of that role at the end of r->messages; borrowed. */
json_object *cake_api_new_message(cake_api_request *r, const char *role);
/* The sampling members of a body, and stop strings (key: "stop", "stop_sequences"). */
bool cake_api_get_sampler(cake_api_request *r, cake_api_error *e);
bool cake_api_get_stop(cake_api_request *r, const char *key, cake_api_error *e);
/* Bodies of the other forms, brought into that of chats. */
bool cake_api_get_messages_form(cake_api_request *r, cake_api_error *e);
bool cake_api_get_responses_form(cake_api_request *r, cake_api_error *e);
/* 400 unsupported_parameter. */
bool cake_api_unsupported(cake_api_error *e, const char *param);

#endif
