/* JSON in few words, for the files of this folder that build it. */
#ifndef CAKE_MASTER_SERVER_PUT_H
#define CAKE_MASTER_SERVER_PUT_H

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

/* v (NULL: null) is taken; a member of that name is replaced. */
static inline void put(json_object *o, const char *key, json_object *v) {
    json_object_object_add(o, key, v);
}
static inline json_object *word(const char *s) {
    return json_object_new_string(s);
}
/* s may be NULL when n is 0. */
static inline json_object *bytes(const char *s, size_t n) {
    return json_object_new_string_len(s ? s : "", (int)n);
}
static inline json_object *number(uint64_t n) {
    return json_object_new_int64((int64_t)n);
}

#endif
