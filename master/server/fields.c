/* Members of what clients send, with their types and ranges: see fields.h. */
#include "master/server/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- errors ---- */

__attribute__((format(printf, 6, 0))) static bool vfail(cake_api_error *e, int http,
                                                        const char *type, const char *code,
                                                        const char *param, const char *fmt,
                                                        va_list ap) {
    e->http = http;
    e->type = type;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    return false;
}

bool cake_api_fail(cake_api_error *e, int http, const char *type, const char *code,
                   const char *param, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vfail(e, http, type, code, param, fmt, ap);
    va_end(ap);
    return false;
}

bool cake_api_invalid(cake_api_error *e, const char *param, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vfail(e, 400, "invalid_request_error", "invalid_value", param, fmt, ap);
    va_end(ap);
    return false;
}

bool cake_api_unsupported(cake_api_error *e, const char *param) {
    return cake_api_fail(e, 400, "invalid_request_error", "unsupported_parameter", param,
                         "'%s' is not supported by this server; leave it out", param);
}

/* ---- typed members; absent or null leaves *out alone ---- */

json_object *cake_field(json_object *o, const char *key) {
    json_object *v = NULL;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

bool cake_field_bool(json_object *o, const char *key, bool *out, cake_api_error *e) {
    json_object *v = cake_field(o, key);
    if (!v) return true;
    if (!json_object_is_type(v, json_type_boolean))
        return cake_api_invalid(e, key, "'%s' must be true or false", key);
    *out = json_object_get_boolean(v);
    return true;
}

bool cake_field_number_of(json_object *v, const char *key, double min, double max, double *out,
                          cake_api_error *e) {
    if (!json_object_is_type(v, json_type_int) && !json_object_is_type(v, json_type_double))
        return cake_api_invalid(e, key, "'%s' must be a number", key);
    double d = json_object_get_double(v);
    if (!(d >= min && d <= max))
        return cake_api_invalid(e, key, "'%s' must be between %g and %g", key, min, max);
    *out = d;
    return true;
}

bool cake_field_float(json_object *o, const char *key, double min, double max, float *out,
                      cake_api_error *e) {
    json_object *v = cake_field(o, key);
    double d = 0;
    if (!v) return true;
    if (!cake_field_number_of(v, key, min, max, &d, e)) return false;
    *out = (float)d;
    return true;
}

bool cake_field_int_of(json_object *v, const char *key, int64_t min, int64_t max, int64_t *out,
                       cake_api_error *e) {
    int64_t i;
    double d = 0;
    if (json_object_is_type(v, json_type_int)) {
        i = json_object_get_int64(v);
    } else if (json_object_is_type(v, json_type_double) && (d = json_object_get_double(v)) < 9e15 &&
               d > -9e15 && d == floor(d)) {
        i = (int64_t)d; /* 10.0 is what some languages write for 10 */
    } else {
        return cake_api_invalid(e, key, "'%s' must be a whole number", key);
    }
    if (i < min || i > max)
        return cake_api_invalid(e, key, "'%s' must be between %lld and %lld", key, (long long)min,
                                (long long)max);
    *out = i;
    return true;
}

bool cake_field_int(json_object *o, const char *key, int64_t min, int64_t max, int64_t *out,
                    cake_api_error *e) {
    json_object *v = cake_field(o, key);
    return !v || cake_field_int_of(v, key, min, max, out, e);
}

/* A string without NUL inside. */
bool cake_field_string_of(json_object *v, const char *key, size_t max, const char **out,
                          size_t *len, cake_api_error *e) {
    if (!json_object_is_type(v, json_type_string))
        return cake_api_invalid(e, key, "'%s' must be a string", key);
    *out = json_object_get_string(v);
    *len = (size_t)json_object_get_string_len(v);
    if (strlen(*out) != *len) return cake_api_invalid(e, key, "'%s' holds a NUL character", key);
    if (*len > max) return cake_api_invalid(e, key, "'%s' is longer than %zu bytes", key, max);
    return true;
}

json_object *cake_api_new_message(cake_api_request *r, const char *role) {
    json_object *m = json_object_new_object();
    json_object_object_add(m, "role", json_object_new_string(role));
    json_object_array_add(r->messages, m);
    return m;
}
