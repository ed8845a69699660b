/* cake-master quantize: a checkpoint into a smaller one. */
#include "common/cli/human.h"
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/tools/quantizer.h"
#include "master/ui/table.h"

#include <json-c/json.h>
#include <stdio.h>

static volatile sig_atomic_t stopped;

static void on_signal(int sig) {
    (void)sig;
    stopped = 1;
}

static void print_json(const cake_master_options *o, const cake_quantize_result *r) {
    json_object *top = json_object_new_object(), *formats = json_object_new_object();
    json_object_object_add(top, "path", json_object_new_string(o->out));
    for (uint32_t i = 0; i < r->n_formats; i++)
        json_object_object_add(formats, r->formats[i].name,
                               json_object_new_uint64(r->formats[i].n_modules));
    json_object_object_add(top, "codec_histogram", formats);
    json_object_object_add(top, "parameters", json_object_new_uint64(r->n_parameters));
    json_object_object_add(top, "bytes", json_object_new_uint64(r->written_bytes));
    json_object_object_add(top, "source_bytes", json_object_new_uint64(r->read_bytes));
    json_object_object_add(top, "files", json_object_new_uint64(r->n_shards));
    json_object_object_add(top, "with_importance", json_object_new_uint64(r->n_important));
    json_object_object_add(top, "seconds", json_object_new_double(r->seconds));
    printf("%s\n", json_object_to_json_string_ext(top, JSON_C_TO_STRING_PLAIN |
                                                           JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(top);
}

static void print_text(const cake_master_options *o, const cake_quantize_result *r) {
    char a[CAKE_HUMAN_MAX], b[CAKE_HUMAN_MAX];
    cake_table *t = cake_table_new("lrrr");
    cake_table_add(t, "FORMAT");
    cake_table_add(t, "MODULES");
    cake_table_add(t, "WEIGHTS");
    cake_table_add(t, "BYTES");
    for (uint32_t i = 0; i < r->n_formats; i++) {
        cake_table_add(t, "%s", r->formats[i].name);
        cake_table_add(t, "%llu", (unsigned long long)r->formats[i].n_modules);
        cake_table_add(t, "%s", cake_human_count(a, (double)r->formats[i].n_weights));
        cake_table_add(t, "%s", cake_human_bytes(b, r->formats[i].n_bytes));
    }
    cake_table_print(t, 0, stdout);
    cake_table_free(t);
    printf("%s: %s of tensors in %u file%s, %.3f bits per weight (from %s)", o->out,
           cake_human_bytes(a, r->written_bytes), r->n_shards, r->n_shards == 1 ? "" : "s",
           8.0 * (double)r->written_bytes / (double)r->n_parameters,
           cake_human_bytes(b, r->read_bytes));
    if (o->imatrix) printf(", importance for %u modules", r->n_important);
    printf("\n");
}

cake_status cake_command_quantize(const cake_master_options *o, cake_error *err) {
    static const char *const modes[] = {NULL, "affine", "mxfp4", "mxfp8", "nvfp4"};
    if (o->list_presets) {
        cake_recipe_print_presets(stdout);
        return CAKE_OK;
    }
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    cake_progress *progress =
        cake_progress_new(&(cake_progress_config){.quiet = o->quiet, .color = o->color, .tty = -1});
    cake_quantize_result r;
    cake_quantize_request q = {
        .model = o->model,
        .out = o->out,
        .recipe = {.preset = o->preset,
                   .type = o->type,
                   .mlx = o->mlx_bits || o->mlx_group || o->mlx_mode || o->recipe,
                   .mode = modes[o->mlx_mode],
                   .bits = (uint32_t)o->mlx_bits,
                   .group_size = (uint32_t)o->mlx_group,
                   .mixed = o->recipe,
                   .overrides = o->overrides.v,
                   .n_overrides = o->overrides.n},
        .imatrix = o->imatrix,
        .requantize = o->requantize,
        .shard_limit = o->shard_size,
        .threads = (unsigned)o->threads,
        .stop = &stopped,
        .progress = progress};
    cake_status st = cake_quantize(&q, &r, err);
    cake_progress_free(progress);
    if (st != CAKE_OK) return st;
    if (o->json)
        print_json(o, &r);
    else
        print_text(o, &r);
    return CAKE_OK;
}
