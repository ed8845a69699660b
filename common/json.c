/* Typed JSON access: see json.h. */
#include "common/json.h"
#include "common/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* json-c's strict mode still accepts NaN and Infinity; a bare word in JSON can only be one of
 * three. */
static bool has_bare_word(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        if (s[i] == '"') { /* skip the string */
            for (i++; i < n && s[i] != '"'; i++)
                if (s[i] == '\\') i++;
            i++;
        } else if ((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z')) {
            size_t j = i;
            while (j < n && ((s[j] >= 'a' && s[j] <= 'z') || (s[j] >= 'A' && s[j] <= 'Z'))) j++;
            size_t len = j - i;
            bool exponent = len == 1 && (s[i] == 'e' || s[i] == 'E') && i > 0 &&
                            ((s[i - 1] >= '0' && s[i - 1] <= '9') || s[i - 1] == '.');
            if (!exponent && !(len == 4 && memcmp(s + i, "true", 4) == 0) &&
                !(len == 5 && memcmp(s + i, "false", 5) == 0) &&
                !(len == 4 && memcmp(s + i, "null", 4) == 0))
                return true;
            i = j;
        } else {
            i++;
        }
    }
    return false;
}

cake_status cake_json_parse(const char *text, size_t len, int max_depth, const char *what,
                            json_object **out, cake_error *err) {
    if (len > (size_t)1 << 30) return cake_fail(err, CAKE_EFORMAT, "%s: too long", what);
    if (memchr(text, 0, len)) return cake_fail(err, CAKE_EFORMAT, "%s: NUL byte in JSON", what);
    if (has_bare_word(text, len))
        return cake_fail(err, CAKE_EFORMAT, "%s: not JSON (a word that is not true, false or null)",
                         what);
    struct json_tokener *tok = json_tokener_new_ex(max_depth);
    cake_assert(tok != NULL);
    json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    json_object *o = json_tokener_parse_ex(tok, text, (int)len);
    enum json_tokener_error e = json_tokener_get_error(tok);
    if (e == json_tokener_continue && len) {
        /* A bare number ends only where something follows it. */
        o = json_tokener_parse_ex(tok, "\n", 1);
        e = json_tokener_get_error(tok);
    } else if (e == json_tokener_success) {
        for (size_t i = json_tokener_get_parse_end(tok); i < len; i++)
            if (!strchr(" \t\r\n", text[i])) e = json_tokener_error_parse_unexpected;
    }
    cake_status st = CAKE_OK;
    if (e != json_tokener_success) {
        st = cake_fail(err, CAKE_EFORMAT, "%s: not valid JSON near byte %zu: %s", what,
                       json_tokener_get_parse_end(tok),
                       e == json_tokener_continue ? "ends early" : json_tokener_error_desc(e));
        json_object_put(o);
    } else {
        *out = o;
    }
    json_tokener_free(tok);
    return st;
}

cake_status cake_json_read(const char *path, size_t max, json_object **out, cake_error *err) {
    char *text;
    size_t len;
    cake_status st = cake_file_read(path, max, &text, &len, err);
    if (st != CAKE_OK) return st;
    st = cake_json_parse(text, len, 64, path, out, err);
    free(text);
    return st;
}

/* The member, or NULL with *st set for "absent". */
static json_object *member(json_object *o, const char *key, bool required, cake_status *st,
                           cake_error *err) {
    json_object *v = NULL;
    *st = CAKE_OK;
    if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v) || !v) {
        if (required) *st = cake_fail(err, CAKE_EFORMAT, "\"%s\" is missing", key);
        return NULL;
    }
    return v;
}

cake_status cake_json_int(json_object *o, const char *key, bool required, int64_t min, int64_t max,
                          int64_t *out, cake_error *err) {
    cake_status st;
    json_object *v = member(o, key, required, &st, err);
    if (!v) return st;
    int64_t n;
    if (json_object_is_type(v, json_type_int)) {
        n = json_object_get_int64(v);
    } else if (json_object_is_type(v, json_type_double) &&
               json_object_get_double(v) == floor(json_object_get_double(v)) &&
               fabs(json_object_get_double(v)) < 9e15) {
        n = (int64_t)json_object_get_double(v); /* 1e6 and 10000.0 are whole numbers too */
    } else {
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is not a whole number", key);
    }
    if (n < min || n > max)
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is %lld, outside %lld..%lld", key, (long long)n,
                         (long long)min, (long long)max);
    *out = n;
    return CAKE_OK;
}

cake_status cake_json_u32(json_object *o, const char *key, bool required, uint32_t min,
                          uint32_t max, uint32_t *out, cake_error *err) {
    int64_t n = *out;
    cake_status st = cake_json_int(o, key, required, min, max, &n, err);
    if (st == CAKE_OK) *out = (uint32_t)n;
    return st;
}

cake_status cake_json_double(json_object *o, const char *key, bool required, double min, double max,
                             double *out, cake_error *err) {
    cake_status st;
    json_object *v = member(o, key, required, &st, err);
    if (!v) return st;
    if (!json_object_is_type(v, json_type_int) && !json_object_is_type(v, json_type_double))
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is not a number", key);
    double d = json_object_get_double(v);
    if (!(d >= min && d <= max))
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is %g, outside %g..%g", key, d, min, max);
    *out = d;
    return CAKE_OK;
}

cake_status cake_json_bool(json_object *o, const char *key, bool required, bool *out,
                           cake_error *err) {
    cake_status st;
    json_object *v = member(o, key, required, &st, err);
    if (!v) return st;
    if (!json_object_is_type(v, json_type_boolean))
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is not true or false", key);
    *out = json_object_get_boolean(v);
    return CAKE_OK;
}

cake_status cake_json_string(json_object *o, const char *key, bool required, size_t max_len,
                             const char **out, cake_error *err) {
    cake_status st;
    json_object *v = member(o, key, required, &st, err);
    if (!v) return st;
    if (!json_object_is_type(v, json_type_string))
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is not a string", key);
    const char *s = json_object_get_string(v);
    size_t n = (size_t)json_object_get_string_len(v);
    if (n > max_len || strlen(s) != n)
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is too long or contains a NUL", key);
    *out = s;
    return CAKE_OK;
}

cake_status cake_json_object(json_object *o, const char *key, bool required, json_object **out,
                             cake_error *err) {
    cake_status st;
    json_object *v = member(o, key, required, &st, err);
    *out = NULL;
    if (!v) return st;
    if (!json_object_is_type(v, json_type_object))
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is not an object", key);
    *out = v;
    return CAKE_OK;
}

cake_status cake_json_array(json_object *o, const char *key, bool required, size_t max_len,
                            json_object **out, cake_error *err) {
    cake_status st;
    json_object *v = member(o, key, required, &st, err);
    *out = NULL;
    if (!v) return st;
    if (!json_object_is_type(v, json_type_array) || json_object_array_length(v) > max_len)
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" is not an array of at most %zu", key, max_len);
    *out = v;
    return CAKE_OK;
}

bool cake_json_has(json_object *o, const char *key) {
    json_object *v = NULL;
    return json_object_is_type(o, json_type_object) && json_object_object_get_ex(o, key, &v) && v;
}
