/* Looking into checkpoints: see inspection.h. */
#include "master/tools/inspection.h"
#include "common/cli/human.h"
#include "common/json.h"
#include "common/mem.h"
#include "master/model/model.h"
#include "master/tools/quantizer.h"
#include "master/ui/table.h"
#include "worker/embed.h"

#include <stdlib.h>
#include <string.h>

enum { MEMORY_CONTEXT = 4096, MEMORY_ROWS = 512, SIZES = 8 };

/* ---- opening ---- */

/* "DIR/manifest.json" beside the file: a bundle. */
static cake_status read_manifest(cake_inspection *x, cake_error *err) {
    char *path = cake_path_join(x->checkpoint->dir, "manifest.json"), *text;
    size_t len;
    cake_status st = CAKE_OK;
    if (cake_file_exists(path)) {
        st = cake_file_read(path, CAKE_MANIFEST_MAX, &text, &len, err);
        if (st == CAKE_OK) {
            st = cake_manifest_parse(&x->manifest, text, len, err);
            free(text);
        }
        if (st != CAKE_OK) cake_fail_in(err, st, "'%s'", path);
    }
    free(path);
    return st;
}

cake_status cake_inspect(cake_inspection *x, const char *arg, cake_error *err) {
    *x = (cake_inspection){0};
    char *path = NULL, *text = NULL;
    size_t len = 0;
    cake_error no = {0};
    json_object *empty = NULL;
    cake_status st = cake_model_resolve(arg, &path, err);
    if (st == CAKE_OK) st = cake_checkpoint_open(&x->checkpoint, path, err);
    if (st == CAKE_OK) {
        const char *config = x->checkpoint->config_path;
        st = cake_checkpoint_config(x->checkpoint, &text, &len, err);
        if (st == CAKE_OK) {
            st = cake_json_parse(text, len, 64, config, &x->config, err);
        } else if (st == CAKE_ENOTFOUND) {
            snprintf(x->why, sizeof x->why, "there is no config.json");
            st = CAKE_OK;
        }
    }
    if (st == CAKE_OK) st = read_manifest(x, err);
    if (st == CAKE_OK) {
        empty = json_object_new_object();
        st = cake_quant_parse(x->config ? x->config : empty, &x->quant, err);
    }
    if (st == CAKE_OK) st = cake_source_new(&x->source, x->checkpoint, x->quant, false, false, err);
    if (st == CAKE_OK && x->config) {
        const cake_manifest *m = x->manifest;
        if (cake_config_parse(&x->described, text, len, "config.json", &no) != CAKE_OK ||
            cake_layout_new(&x->layout, &x->described, x->checkpoint, m ? m->units : NULL,
                            m ? m->n_units : 0, &no) != CAKE_OK)
            snprintf(x->why, sizeof x->why, "%s", no.msg);
    }
    json_object_put(empty);
    free(text);
    free(path);
    if (st != CAKE_OK) cake_inspection_deinit(x);
    return st;
}

void cake_inspection_deinit(cake_inspection *x) {
    cake_layout_free(x->layout);
    if (x->described.quant) cake_config_deinit(&x->described);
    cake_source_free(x->source);
    cake_quant_free(x->quant);
    cake_manifest_free(x->manifest);
    json_object_put(x->config);
    cake_checkpoint_close(x->checkpoint);
    *x = (cake_inspection){0};
}

/* ---- sums ---- */

typedef struct {
    uint64_t n_parameters, n_bytes;
    uint32_t n_quantized, n_layers; /* layers: highest number in a name, plus one */
    uint32_t n_formats, n_roles[CAKE_PART_COUNT];
    cake_format_count formats[CAKE_FORMAT_COUNTS_MAX];
    cake_format_count roles[CAKE_PART_COUNT][CAKE_FORMAT_COUNTS_MAX];
    uint64_t *layer_bytes; /* [n_layers] */
    uint64_t embed_bytes, head_bytes, other_bytes;
} totals;

/* "F16", "BF16", "F32" for floats: here they are worth telling apart. */
static const char *format_text(const cake_source_weight *w, char *out) {
    if (w->format.kind == CAKE_FORMAT_FLOAT) return cake_dtype_name(w->dtype);
    return cake_format_name(&w->format, out);
}

static void add_up(const cake_inspection *x, totals *t) {
    *t = (totals){0};
    const cake_source *s = x->source;
    for (uint32_t i = 0; i < s->n; i++) {
        int32_t layer = cake_layer_of(s->w[i].name);
        if (layer >= (int32_t)t->n_layers) t->n_layers = (uint32_t)layer + 1;
    }
    t->layer_bytes = cake_calloc(t->n_layers, sizeof *t->layer_bytes);
    for (uint32_t i = 0; i < s->n; i++) {
        const cake_source_weight *w = &s->w[i];
        const uint64_t n = w->n_rows * w->k;
        const int32_t layer = cake_layer_of(w->name);
        const cake_part part = cake_part_of(w->path);
        char name[CAKE_FORMAT_NAME_MAX];
        t->n_parameters += n;
        t->n_bytes += w->n_bytes;
        if (layer >= 0)
            t->layer_bytes[layer] += w->n_bytes;
        else if (part == CAKE_PART_EMBEDDING)
            t->embed_bytes += w->n_bytes;
        else if (part == CAKE_PART_LM_HEAD)
            t->head_bytes += w->n_bytes;
        else
            t->other_bytes += w->n_bytes;
        if (!w->matrix) continue;
        t->n_quantized += w->format.kind != CAKE_FORMAT_FLOAT;
        const char *format = format_text(w, name);
        cake_format_counts_add(t->formats, &t->n_formats, format, n, w->n_bytes);
        cake_format_counts_add(t->roles[part], &t->n_roles[part], format, n, w->n_bytes);
    }
}

/* How many layers (of the average kind) a worker with so much memory holds with a KV cache, and
 * whether everything fits. Without a layout: stored bytes alone. */
typedef struct {
    uint64_t memory;
    uint32_t layers;
    bool all;
} capacity;

static void capacities(const cake_inspection *x, const totals *t, capacity out[SIZES]) {
    const uint32_t n_units = t->n_layers + 2;
    uint64_t layers = 0, ends = t->embed_bytes + t->head_bytes + t->other_bytes, scratch = 0;
    for (uint32_t i = 0; i < t->n_layers; i++) layers += t->layer_bytes[i];
    if (x->layout && !x->manifest && x->layout->n_units == n_units) {
        const uint32_t own = x->described.max_positions;
        const uint32_t context = own && own < MEMORY_CONTEXT ? own : MEMORY_CONTEXT;
        cake_embed_need need;
        uint64_t sum[2] = {0};
        bool ok = true;
        for (uint32_t u = 0; u < n_units && ok; u++) {
            ok = cake_embed_measure(x->layout, u, u + 1, 1, context,
                                    context / CAKE_EMBED_KV_BLOCK + 1, MEMORY_ROWS, 1, &need,
                                    NULL) == CAKE_OK;
            if (!ok) break;
            sum[u > 0 && u < n_units - 1] += need.weight_bytes + need.kv_bytes;
            if (need.scratch_bytes > scratch) scratch = need.scratch_bytes;
        }
        if (ok) ends = sum[0], layers = sum[1];
    }
    for (unsigned i = 0; i < SIZES; i++) {
        capacity *c = &out[i];
        *c = (capacity){.memory = 1ull << (30 + i)};
        const uint64_t left = c->memory > scratch ? c->memory - scratch : 0;
        const uint64_t fit = layers ? (uint64_t)((double)left / (double)layers * t->n_layers) : 0;
        c->layers = fit < t->n_layers ? (uint32_t)fit : t->n_layers;
        c->all = layers + ends <= left;
    }
}

static const char *config_text(const cake_inspection *x, const char *key) {
    json_object *o;
    if (!x->config || !json_object_object_get_ex(x->config, key, &o) || !o) return NULL;
    if (json_object_is_type(o, json_type_array)) o = json_object_array_get_idx(o, 0);
    return o && json_object_is_type(o, json_type_string) ? json_object_get_string(o) : NULL;
}

static uint64_t file_bytes(const cake_inspection *x) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < x->checkpoint->n_files; i++) n += x->checkpoint->files[i].size;
    return n;
}

/* ---- text ---- */

static void print_layers(const totals *t, FILE *f) {
    char a[CAKE_HUMAN_MAX];
    fprintf(f, "\nembedding  %s\n", cake_human_bytes(a, t->embed_bytes));
    for (uint32_t i = 0, j; i < t->n_layers; i = j) {
        for (j = i; j < t->n_layers && t->layer_bytes[j] == t->layer_bytes[i];) j++;
        if (j - i == 1)
            fprintf(f, "layer %u    %s\n", i, cake_human_bytes(a, t->layer_bytes[i]));
        else
            fprintf(f, "layers %u-%u  %s each\n", i, j - 1, cake_human_bytes(a, t->layer_bytes[i]));
    }
    if (t->head_bytes) fprintf(f, "head       %s\n", cake_human_bytes(a, t->head_bytes));
    fprintf(f, "rest       %s\n", cake_human_bytes(a, t->other_bytes));
}

static void print_counts(const totals *t, FILE *f) {
    char a[CAKE_HUMAN_MAX], b[CAKE_HUMAN_MAX];
    cake_table *table = cake_table_new("lrrrr");
    static const char *const head[] = {"FORMAT", "MODULES", "WEIGHTS", "BYTES", "BITS"};
    for (size_t i = 0; i < 5; i++) cake_table_add(table, "%s", head[i]);
    for (uint32_t i = 0; i < t->n_formats; i++) {
        const cake_format_count *c = &t->formats[i];
        cake_table_add(table, "%s", c->name);
        cake_table_add(table, "%llu", (unsigned long long)c->n_modules);
        cake_table_add(table, "%s", cake_human_count(a, (double)c->n_weights));
        cake_table_add(table, "%s", cake_human_bytes(b, c->n_bytes));
        cake_table_add(table, "%.2f", 8.0 * (double)c->n_bytes / (double)c->n_weights);
    }
    fprintf(f, "\n");
    cake_table_print(table, 0, f);
    cake_table_free(table);
    table = cake_table_new("llr");
    cake_table_add(table, "ROLE");
    cake_table_add(table, "FORMATS");
    cake_table_add(table, "BYTES");
    for (int p = 0; p < CAKE_PART_COUNT; p++) {
        char text[512] = "";
        size_t at = 0;
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < t->n_roles[p]; i++) {
            const cake_format_count *c = &t->roles[p][i];
            if (at < sizeof text)
                at += (size_t)snprintf(text + at, sizeof text - at, "%s%llu %s", i ? ", " : "",
                                       (unsigned long long)c->n_modules, c->name);
            bytes += c->n_bytes;
        }
        if (!t->n_roles[p]) continue;
        cake_table_add(table, "%s", cake_part_name((cake_part)p));
        cake_table_add(table, "%s", text);
        cake_table_add(table, "%s", cake_human_bytes(a, bytes));
    }
    fprintf(f, "\n");
    cake_table_print(table, 0, f);
    cake_table_free(table);
}

static void print_tensors(const cake_inspection *x, FILE *f) {
    cake_table *table = cake_table_new("lllr");
    static const char *const head[] = {"NAME", "FORMAT", "SHAPE", "BYTES"};
    char shape[160], name[CAKE_FORMAT_NAME_MAX];
    for (size_t i = 0; i < 4; i++) cake_table_add(table, "%s", head[i]);
    for (uint32_t i = 0; i < x->source->n; i++) {
        const cake_source_weight *w = &x->source->w[i];
        cake_table_add(table, "%s", w->matrix ? w->path : w->name);
        cake_table_add(table, "%s", format_text(w, name));
        cake_table_add(table, "%s", cake_shape_text(w->rank, w->shape, shape, sizeof shape));
        cake_table_add(table, "%llu", (unsigned long long)w->n_bytes);
    }
    fprintf(f, "\n");
    cake_table_print(table, 0, f);
    cake_table_free(table);
}

static void print_memory(const cake_inspection *x, const totals *t, FILE *f) {
    capacity c[SIZES];
    char a[CAKE_HUMAN_MAX];
    capacities(x, t, c);
    fprintf(f, "\nA worker with this much memory holds (KV cache of one sequence included):\n");
    for (unsigned i = 0; i < SIZES; i++) {
        fprintf(f, "%8s  ", cake_human_bytes(a, c[i].memory));
        if (c[i].all)
            fprintf(f, "the whole model\n");
        else
            fprintf(f, "%u of %u layers\n", c[i].layers, t->n_layers);
        if (c[i].all) break;
    }
}

void cake_inspection_print(const cake_inspection *x, bool tensors, FILE *f) {
    char a[CAKE_HUMAN_MAX], b[CAKE_HUMAN_MAX];
    const char *type = config_text(x, "model_type"), *class = config_text(x, "architectures");
    totals t;
    add_up(x, &t);
    fprintf(f, "path          %s\n", x->checkpoint->dir);
    if (x->manifest) {
        fprintf(f, "bundle        units");
        for (uint32_t i = 0; i < x->manifest->n_units; i++)
            fprintf(f, " [%u, %u)", x->manifest->units[i].begin, x->manifest->units[i].end);
        fprintf(f, " (0 is the embedding, 1 the first layer)\n");
    }
    fprintf(f, "architecture  %s%s%s%s\n", type ? type : "not said", class ? " (" : "",
            class ? class : "", class ? ")" : "");
    fprintf(f, "runs here     %s%s\n", x->layout ? "yes" : "no: ", x->layout ? "" : x->why);
    fprintf(f, "layers        %u\n", t.n_layers);
    fprintf(f, "parameters    %s\n", cake_human_count(a, (double)t.n_parameters));
    fprintf(f, "size          %s of tensors, %s in %u file%s\n", cake_human_bytes(a, t.n_bytes),
            cake_human_bytes(b, file_bytes(x)), x->checkpoint->n_files,
            x->checkpoint->n_files == 1 ? "" : "s");
    fprintf(f, "bits/weight   %.3f\n",
            t.n_parameters ? 8.0 * (double)t.n_bytes / (double)t.n_parameters : 0.0);
    print_counts(&t, f);
    print_layers(&t, f);
    if (!x->manifest && t.n_layers) print_memory(x, &t, f);
    if (tensors) print_tensors(x, f);
    free(t.layer_bytes);
}

/* ---- JSON ---- */

static void put_text(json_object *o, const char *key, const char *value) {
    json_object_object_add(o, key, value ? json_object_new_string(value) : NULL);
}
static void put_u64(json_object *o, const char *key, uint64_t v) {
    json_object_object_add(o, key, json_object_new_uint64(v));
}

static json_object *shape_json(uint32_t rank, const uint64_t *shape) {
    json_object *a = json_object_new_array();
    for (uint32_t i = 0; i < rank; i++) json_object_array_add(a, json_object_new_uint64(shape[i]));
    return a;
}

static uint32_t bits_of(const cake_format *f) {
    static const uint8_t of_codec[CAKE_CODEC_COUNT] = {
        [CAKE_CODEC_Q4_0] = 4, [CAKE_CODEC_Q4_1] = 4,  [CAKE_CODEC_Q5_0] = 5,
        [CAKE_CODEC_Q5_1] = 5, [CAKE_CODEC_Q8_0] = 8,  [CAKE_CODEC_Q2_K] = 2,
        [CAKE_CODEC_Q3_K] = 3, [CAKE_CODEC_Q4_K] = 4,  [CAKE_CODEC_Q5_K] = 5,
        [CAKE_CODEC_Q6_K] = 6, [CAKE_CODEC_MXFP4] = 4, [CAKE_CODEC_NVFP4] = 4};
    return f->kind == CAKE_FORMAT_BLOCK ? of_codec[f->codec] : f->bits;
}

static int by_path(const void *pa, const void *pb) {
    const cake_source_weight *const *a = pa, *const *b = pb;
    return strcmp((*a)->path, (*b)->path);
}

static json_object *tensors_json(const cake_inspection *x) {
    const cake_source *s = x->source;
    json_object *list = json_object_new_array();
    const cake_source_weight **sorted = cake_calloc(s->n, sizeof *sorted);
    size_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->w[i].matrix && s->w[i].format.kind != CAKE_FORMAT_FLOAT) sorted[n++] = &s->w[i];
    qsort(sorted, n, sizeof *sorted, by_path);
    for (size_t i = 0; i < n; i++) {
        const cake_source_weight *w = sorted[i];
        const cake_tensor *stored = &s->checkpoint->tensors[w->parts[0].weight];
        json_object *o = json_object_new_object();
        char name[CAKE_FORMAT_NAME_MAX];
        put_text(o, "path", w->path);
        put_text(o, "kind",
                 w->rank == 3               ? "moe"
                 : strstr(w->path, "embed") ? "embedding"
                                            : "linear");
        put_text(o, "codec",
                 w->format.kind == CAKE_FORMAT_AFFINE ? "affine"
                                                      : cake_format_name(&w->format, name));
        put_u64(o, "bits", bits_of(&w->format));
        put_u64(o, "group_size", cake_format_group(&w->format));
        json_object_object_add(o, "packed_shape", shape_json(stored->rank, stored->shape));
        json_object_object_add(o, "logical_shape", shape_json(w->rank, w->shape));
        put_u64(o, "bytes", w->n_bytes);
        json_object_array_add(list, o);
    }
    free(sorted);
    return list;
}

static json_object *counts_json(const cake_format_count *c, uint32_t n) {
    json_object *o = json_object_new_object();
    for (uint32_t i = 0; i < n; i++) put_u64(o, c[i].name, c[i].n_modules);
    return o;
}

void cake_inspection_print_json(const cake_inspection *x, FILE *f) {
    json_object *o = json_object_new_object(), *roles = json_object_new_object(),
                *layers = json_object_new_array(), *files = json_object_new_array(),
                *memory = json_object_new_array(), *histogram = json_object_new_object();
    totals t;
    capacity c[SIZES];
    add_up(x, &t);
    capacities(x, &t, c);
    put_text(o, "model_type", config_text(x, "model_type"));
    put_u64(o, "num_hidden_layers", t.n_layers);
    put_u64(o, "num_quantized", t.n_quantized);
    for (uint32_t i = 0; i < t.n_formats; i++)
        if (cake_dtype_parse(t.formats[i].name, strlen(t.formats[i].name)) == CAKE_DTYPE_NONE)
            put_u64(histogram, t.formats[i].name, t.formats[i].n_modules);
    json_object_object_add(o, "codec_histogram", histogram);
    json_object_object_add(o, "tensors", tensors_json(x));
    put_text(o, "path", x->checkpoint->dir);
    put_text(o, "architecture", config_text(x, "architectures"));
    json_object_object_add(o, "runs", json_object_new_boolean(x->layout != NULL));
    if (!x->layout) put_text(o, "reason", x->why);
    put_u64(o, "parameters", t.n_parameters);
    put_u64(o, "bytes", t.n_bytes);
    json_object_object_add(
        o, "bits_per_weight",
        json_object_new_double(t.n_parameters ? 8.0 * (double)t.n_bytes / (double)t.n_parameters
                                              : 0));
    json_object_object_add(o, "formats", counts_json(t.formats, t.n_formats));
    for (int p = 0; p < CAKE_PART_COUNT; p++)
        if (t.n_roles[p])
            json_object_object_add(roles, cake_part_name((cake_part)p),
                                   counts_json(t.roles[p], t.n_roles[p]));
    json_object_object_add(o, "roles", roles);
    put_u64(o, "embedding_bytes", t.embed_bytes);
    for (uint32_t i = 0; i < t.n_layers; i++)
        json_object_array_add(layers, json_object_new_uint64(t.layer_bytes[i]));
    json_object_object_add(o, "layer_bytes", layers);
    put_u64(o, "head_bytes", t.head_bytes);
    put_u64(o, "other_bytes", t.other_bytes);
    for (unsigned i = 0; i < SIZES && t.n_layers; i++) {
        json_object *m = json_object_new_object();
        put_u64(m, "memory", c[i].memory);
        put_u64(m, "layers", c[i].layers);
        json_object_object_add(m, "all", json_object_new_boolean(c[i].all));
        json_object_array_add(memory, m);
    }
    json_object_object_add(o, "memory", memory);
    for (uint32_t i = 0; i < x->checkpoint->n_files; i++) {
        json_object *e = json_object_new_object();
        put_text(e, "name", x->checkpoint->files[i].name);
        put_u64(e, "bytes", x->checkpoint->files[i].size);
        json_object_array_add(files, e);
    }
    json_object_object_add(o, "files", files);
    if (x->manifest) {
        json_object *units = json_object_new_array();
        for (uint32_t i = 0; i < x->manifest->n_units; i++) {
            const uint64_t range[] = {x->manifest->units[i].begin, x->manifest->units[i].end};
            json_object_array_add(units, shape_json(2, range));
        }
        json_object_object_add(o, "bundle_units", units);
    }
    fprintf(f, "%s\n",
            json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                  JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
    free(t.layer_bytes);
}
