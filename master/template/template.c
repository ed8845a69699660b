/* Parse and render: the public face of the engine. See template.h. */
#include "master/template/template.h"
#include "master/template/jinja_ast.h"
#include "master/template/jinja_eval.h"
#include "common/mem.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_SOURCE = 4 << 20 };

const cake_template_limits cake_template_limits_default = {
    .steps = 20000000, .output_bytes = 64 << 20, .memory_bytes = 256 << 20, .depth = 1000};

struct cake_template {
    char *name;
    cake_jj parsed; /* owns the arena of the tree */
};

/* The setjmp stands in functions of its own, so that no local is live across the jump. */
static cake_jj_template *parse_guarded(cake_jj *r, const char *source, size_t len) {
    if (setjmp(r->on_error)) return NULL;
    return cake_jj_parse(r, source, len);
}

static bool run_guarded(cake_jj *r, json_object *context, cake_jj_buf *out) {
    if (setjmp(r->on_error)) return false;
    cake_jj_run(r, context, out);
    return true;
}

cake_status cake_template_parse(cake_template **out, const char *source, size_t len,
                                const char *name, cake_error *err) {
    if (len > MAX_SOURCE)
        return cake_fail(err, CAKE_EFORMAT, "%s: a template of %zu bytes; at most %d are read",
                         name, len, MAX_SOURCE);
    cake_template *t = cake_calloc(1, sizeof *t);
    t->name = cake_strdup(name);
    t->parsed.name = t->name;
    t->parsed.err = err;
    t->parsed.line = 1;
    t->parsed.limit = cake_template_limits_default;
    t->parsed.t = parse_guarded(&t->parsed, source, len);
    t->parsed.err = NULL;
    if (!t->parsed.t) {
        cake_status st = t->parsed.status;
        cake_template_free(t);
        return st;
    }
    *out = t;
    return CAKE_OK;
}

void cake_template_free(cake_template *t) {
    if (!t) return;
    cake_jj_free_all(&t->parsed);
    free(t->name);
    free(t);
}

cake_status cake_template_render(const cake_template *t, json_object *context, int64_t now_unix,
                                 const cake_template_limits *limits, char **text, size_t *len,
                                 cake_error *err) {
    if (context && !json_object_is_type(context, json_type_object))
        return cake_fail(err, CAKE_EINVAL, "%s: the variables are not a JSON object", t->name);
    if (!limits) limits = &cake_template_limits_default;
    cake_jj *r = cake_calloc(1, sizeof *r);
    r->err = err;
    r->name = t->name;
    r->limit = *limits;
    r->now_unix = now_unix;
    r->t = t->parsed.t;
    cake_jj_buf out = {.max = limits->output_bytes};
    cake_status st = CAKE_OK;
    if (!run_guarded(r, context, &out)) {
        st = r->status;
    } else {
        char *copy = cake_trymalloc(out.len + 1);
        if (!copy) {
            st = cake_fail(err, CAKE_ENOMEM, "%s: out of memory for the text", t->name);
        } else {
            if (out.len) memcpy(copy, out.p, out.len);
            copy[out.len] = 0;
            *text = copy;
            *len = out.len;
        }
    }
    cake_jj_free_all(r);
    free(r);
    return st;
}
