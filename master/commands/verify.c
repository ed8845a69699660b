/* cake-master verify: one checkpoint alone, or beside its source. */
#include "common/cli/human.h"
#include "master/commands/commands.h"
#include "master/tools/verification.h"
#include "master/ui/table.h"

#include <json-c/json.h>
#include <math.h>
#include <stdio.h>

static void print_json(const cake_verification *v) {
    json_object *o = json_object_new_object(), *files = json_object_new_array(),
                *errors = json_object_new_array(), *problems = json_object_new_array(),
                *warnings = json_object_new_array();
    char hex[CAKE_SHA256_HEX];
    json_object_object_add(o, "ok", json_object_new_boolean(v->n_problems == 0));
    for (uint32_t i = 0; i < v->n_problems; i++)
        json_object_array_add(problems, json_object_new_string(v->problems[i]));
    for (uint32_t i = 0; i < v->n_warnings; i++)
        json_object_array_add(warnings, json_object_new_string(v->warnings[i]));
    for (uint32_t i = 0; i < v->n_files; i++) {
        json_object *f = json_object_new_object();
        cake_sha256_hex(&v->files[i].sha256, hex);
        json_object_object_add(f, "name", json_object_new_string(v->files[i].name));
        json_object_object_add(f, "bytes", json_object_new_uint64(v->files[i].n_bytes));
        json_object_object_add(f, "sha256", json_object_new_string(hex));
        json_object_array_add(files, f);
    }
    for (uint32_t i = 0; i < v->n_errors; i++) {
        const cake_weight_error *e = &v->errors[i];
        json_object *t = json_object_new_object();
        json_object_object_add(t, "path", json_object_new_string(e->name));
        json_object_object_add(t, "format", json_object_new_string(e->format));
        json_object_object_add(
            t, "relative_error",
            isfinite(e->relative_error) ? json_object_new_double(e->relative_error) : NULL);
        json_object_object_add(t, "cosine", json_object_new_double(e->cosine));
        json_object_object_add(t, "max_error", json_object_new_double(e->max_error));
        json_object_array_add(errors, t);
    }
    json_object_object_add(o, "problems", problems);
    json_object_object_add(o, "warnings", warnings);
    json_object_object_add(o, "files", files);
    json_object_object_add(o, "tensors", errors);
    printf("%s\n",
           json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                 JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}

static void print_text(const cake_verification *v) {
    char hex[CAKE_SHA256_HEX];
    for (uint32_t i = 0; i < v->n_files; i++) {
        cake_sha256_hex(&v->files[i].sha256, hex);
        printf("%s  %s\n", hex, v->files[i].name);
    }
    if (v->n_errors) {
        static const char *const head[] = {"NAME", "FORMAT", "REL. ERROR", "COSINE", "LARGEST"};
        cake_table *t = cake_table_new("llrrr");
        for (size_t i = 0; i < 5; i++) cake_table_add(t, "%s", head[i]);
        for (uint32_t i = 0; i < v->n_errors; i++) {
            const cake_weight_error *e = &v->errors[i];
            cake_table_add(t, "%s", e->name);
            cake_table_add(t, "%s", e->format);
            cake_table_add(t, "%.6f", e->relative_error);
            cake_table_add(t, "%.7f", e->cosine);
            cake_table_add(t, "%.3g", e->max_error);
        }
        cake_table_print(t, 0, stdout);
        cake_table_free(t);
    }
    for (uint32_t i = 0; i < v->n_warnings; i++) printf("warning: %s\n", v->warnings[i]);
    for (uint32_t i = 0; i < v->n_problems; i++) printf("problem: %s\n", v->problems[i]);
}

cake_status cake_command_verify(const cake_master_options *o, cake_error *err) {
    cake_verification v;
    cake_pool *pool = cake_pool_new((unsigned)o->threads, 0);
    cake_progress *progress =
        cake_progress_new(&(cake_progress_config){.quiet = o->quiet, .color = o->color, .tty = -1});
    const char *what = o->paths[1] ? o->paths[1] : o->paths[0];
    cake_status st = o->paths[1]
                         ? cake_verify_against(&v, o->paths[0], o->paths[1], pool, progress, err)
                         : cake_verify(&v, o->paths[0], pool, progress, err);
    cake_progress_free(progress);
    cake_pool_free(pool);
    if (st != CAKE_OK) return st;
    if (o->json)
        print_json(&v);
    else
        print_text(&v);
    if (v.n_problems)
        st = cake_fail(err, CAKE_EFORMAT, "'%.300s' has %u problem%s", what, v.n_problems,
                       v.n_problems == 1 ? "" : "s");
    else if (!o->json)
        printf("ok: %s\n", what);
    cake_verification_deinit(&v);
    return st;
}
