/* Planning and writing a quantized checkpoint: see quantizer.h. */
#include "master/tools/quantizer.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/pool.h"
#include "master/model/model.h"
#include "master/tools/imatrix.h"
#include "master/tools/output_folder.h"
#include "master/tools/shards.h"
#include "master/tools/source.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_WEIGHTS = 512 << 10, ALIGN = 64 };

/* One weight of the result. Its tensors are `tensor` and those after it: AFFINE .scales and
 * .biases, FP .scales, BLOCK the one byte .scales that mlx-kquant asks for. */
typedef struct {
    const cake_source_weight *w;
    cake_format format;
    cake_dtype dtype; /* FLOAT: of the tensor; AFFINE: of scales and biases */
    bool round;       /* the encoder is to see the weights rounded to dtype */
    uint32_t tensor;
    const cake_imatrix_entry *importance; /* NULL: none */
} item;

typedef struct {
    const cake_quantize_request *q;
    cake_quantize_result *r;
    cake_model model;
    json_object *config;
    cake_source *weights;
    cake_recipe *recipe;
    cake_imatrix imatrix;
    uint32_t n_items;
    item *items;
    uint32_t n_matched; /* entries of the importance matrix, to a module of blocks */
    uint32_t n_tensors;
    cake_shard_tensor *tensors; /* until the shards take them */
    cake_shards *shards;
    cake_pool *pool;
    int bar;
    /* of the loop under way */
    const item *now;
    uint32_t rows_per_chunk;
    uint8_t **buffers; /* one per thread */
    atomic_bool failed;
    atomic_ullong done; /* source bytes */
    pthread_mutex_t lock;
    cake_error error; /* the first; under lock until the loop is over */
} job;

bool cake_format_counts_add(cake_format_count *c, uint32_t *n, const char *name, uint64_t n_weights,
                            uint64_t n_bytes) {
    uint32_t i = 0;
    while (i < *n && strcmp(c[i].name, name) != 0) i++;
    if (i == CAKE_FORMAT_COUNTS_MAX) return false;
    if (i == *n) {
        c[i] = (cake_format_count){{0}, 0, 0, 0};
        snprintf(c[i].name, sizeof c[i].name, "%s", name);
        ++*n;
    }
    c[i].n_modules++;
    c[i].n_weights += n_weights;
    c[i].n_bytes += n_bytes;
    return true;
}

/* ---- the plan ---- */

/* The dtype that mlx-lm's converter casts to: torch_dtype, else that of text_config; NONE: as is.
 */
static cake_dtype cast_of(json_object *config) {
    json_object *o = NULL, *text = NULL;
    if (!json_object_object_get_ex(config, "torch_dtype", &o) || !o) {
        if (!json_object_object_get_ex(config, "text_config", &text) ||
            !json_object_is_type(text, json_type_object) ||
            !json_object_object_get_ex(text, "dtype", &o))
            return CAKE_DTYPE_NONE;
    }
    const char *name = json_object_get_string(o);
    if (!name) return CAKE_DTYPE_NONE;
    return strcmp(name, "float16") == 0    ? CAKE_DTYPE_F16
           : strcmp(name, "bfloat16") == 0 ? CAKE_DTYPE_BF16
           : strcmp(name, "float32") == 0  ? CAKE_DTYPE_F32
                                           : CAKE_DTYPE_NONE;
}

/* What a weight is as floats: as mx.dequantize and mlx-kquant decode. */
static cake_dtype float_type(const cake_source_weight *w) {
    switch (w->format.kind) {
    case CAKE_FORMAT_BLOCK: return CAKE_DTYPE_F16;
    case CAKE_FORMAT_FP: return CAKE_DTYPE_BF16;
    default: return w->dtype;
    }
}

static void add_tensor(job *j, const cake_source_weight *w, const char *suffix, cake_dtype dtype,
                       uint32_t rank, uint64_t last) {
    cake_shard_tensor *t = &j->tensors[j->n_tensors++];
    *t = (cake_shard_tensor){.dtype = dtype, .rank = rank};
    t->name = suffix ? cake_asprintf("%s%s", w->path, suffix) : cake_strdup(w->name);
    memcpy(t->shape, w->shape, sizeof t->shape);
    if (rank) t->shape[rank - 1] = last;
}

static void add_tensors(job *j, item *it) {
    const cake_source_weight *w = it->w;
    const uint64_t row = cake_format_row_bytes(&it->format, (size_t)w->k);
    it->tensor = j->n_tensors;
    switch (it->format.kind) {
    case CAKE_FORMAT_FLOAT: add_tensor(j, w, NULL, it->dtype, w->rank, w->k); break;
    case CAKE_FORMAT_BLOCK:
        add_tensor(j, w, ".weight", CAKE_DTYPE_U8, w->rank, row);
        add_tensor(j, w, ".scales", CAKE_DTYPE_U8, 1, 1);
        break;
    case CAKE_FORMAT_AFFINE:
        add_tensor(j, w, ".weight", CAKE_DTYPE_U32, w->rank, row / 4);
        add_tensor(j, w, ".scales", it->dtype, w->rank, w->k / it->format.group);
        add_tensor(j, w, ".biases", it->dtype, w->rank, w->k / it->format.group);
        break;
    case CAKE_FORMAT_FP:
        add_tensor(j, w, ".weight", CAKE_DTYPE_U32, w->rank, row / 4);
        add_tensor(j, w, ".scales", CAKE_DTYPE_U8, w->rank, w->k / it->format.group);
        break;
    }
}

static cake_status find_importance(job *j, item *it, cake_error *err) {
    const cake_source_weight *w = it->w;
    const cake_imatrix_entry *e = cake_imatrix_find(&j->imatrix, w->path);
    if (!e || it->format.kind != CAKE_FORMAT_BLOCK) return CAKE_OK;
    const uint32_t n_mat = w->rank == 3 ? (uint32_t)w->shape[0] : 1;
    if (!cake_imatrix_values(e, n_mat, (uint32_t)w->k, 0))
        return cake_fail(err, CAKE_EINVAL,
                         "the importance of '%.200s' in '%.200s' is %u x %u, the module has %u x "
                         "%llu inputs; it was made for another model",
                         e->name, j->q->imatrix, e->n_mat, e->k, n_mat, (unsigned long long)w->k);
    j->n_matched++;
    if (cake_codec_get(it->format.codec)->weights < 256) return CAKE_OK; /* as in mlx-kquant */
    it->importance = e;
    j->r->n_important++;
    return CAKE_OK;
}

/* Say once per reason what stays float though it is a matrix. */
static void tell_kept(const job *j, const char *const *why) {
    for (uint32_t i = 0; i < j->n_items && j->q->progress; i++) {
        uint32_t n = 0;
        bool told = false;
        for (uint32_t k = 0; k < i && why[i]; k++) told |= why[k] == why[i];
        if (!why[i] || told) continue;
        for (uint32_t k = i; k < j->n_items; k++) n += why[k] == why[i];
        cake_progress_line(j->q->progress, "%u modules stay float: %s (%s%s)", n, why[i],
                           j->items[i].w->path, n > 1 ? ", ..." : "");
    }
}

static cake_status plan(job *j, cake_error *err) {
    const cake_source *all = j->weights;
    const bool kquant = cake_recipe_is_kquant(j->recipe);
    const cake_dtype cast = kquant ? CAKE_DTYPE_NONE : cast_of(j->config);
    uint32_t n_layers = j->model.config.n_layers;
    if (kquant) { /* mlx-kquant counts what it sees */
        n_layers = 0;
        for (uint32_t i = 0; i < all->n; i++) {
            int32_t layer = cake_layer_of(all->w[i].path);
            if (all->w[i].matrix && cake_part_of(all->w[i].path) && layer >= (int32_t)n_layers)
                n_layers = (uint32_t)layer + 1;
        }
    }
    j->items = cake_calloc(all->n, sizeof *j->items);
    j->tensors = cake_calloc(3 * (size_t)all->n, sizeof *j->tensors);
    const char **why = cake_calloc(all->n, sizeof *why);
    cake_format_count floats[2] = {{"float", 0, 0, 0}};
    uint32_t n_floats = 1, n_quantized = 0;
    cake_status st = CAKE_OK;
    for (uint32_t i = 0; i < all->n && st == CAKE_OK; i++) {
        const cake_source_weight *w = &all->w[i];
        item *it = &j->items[j->n_items++];
        *it = (item){.w = w, .format = {.kind = CAKE_FORMAT_FLOAT}};
        it->dtype = cast ? cast : float_type(w);
        if (w->matrix)
            st = cake_recipe_decide(j->recipe, w->path, w->k, n_layers, &it->format, &why[i], err);
        it->round = !kquant && (w->format.kind != CAKE_FORMAT_FLOAT || w->dtype != it->dtype);
        if (st == CAKE_OK) st = find_importance(j, it, err);
        add_tensors(j, it);
        char name[CAKE_FORMAT_NAME_MAX];
        uint64_t bytes = 0, n_weights = w->n_rows * w->k, one;
        for (uint32_t t = it->tensor; t < j->n_tensors; t++)
            if (cake_tensor_bytes(j->tensors[t].dtype, j->tensors[t].rank, j->tensors[t].shape,
                                  &one))
                bytes += one;
        j->r->n_parameters += n_weights;
        j->r->read_bytes += w->n_bytes;
        j->r->written_bytes += bytes;
        if (!w->matrix) continue;
        if (it->format.kind == CAKE_FORMAT_FLOAT) {
            cake_format_counts_add(floats, &n_floats, "float", n_weights, bytes);
            continue;
        }
        n_quantized++;
        cake_format_counts_add(j->r->formats, &j->r->n_formats, cake_format_name(&it->format, name),
                               n_weights, bytes);
    }
    if (st == CAKE_OK) tell_kept(j, why);
    free(why);
    if (floats[0].n_modules && j->r->n_formats < CAKE_FORMAT_COUNTS_MAX)
        j->r->formats[j->r->n_formats++] = floats[0];
    const char *unused = cake_recipe_unused(j->recipe);
    if (st == CAKE_OK && unused)
        return cake_fail(err, CAKE_EINVAL,
                         "--override '%.200s' decides for no module; 'inspect "
                         "--tensors' shows their paths",
                         unused);
    if (st == CAKE_OK && !n_quantized)
        return cake_fail(err, CAKE_EINVAL, "no module of this model would be quantized");
    if (st == CAKE_OK && j->q->progress && j->n_matched > j->r->n_important)
        cake_progress_line(j->q->progress,
                           "importance is used by q2_k to q6_k only, here by %u of %u modules",
                           j->r->n_important, j->n_matched);
    if (st == CAKE_OK && j->q->imatrix && !j->n_matched)
        return cake_fail(err, CAKE_EINVAL,
                         "'%.300s' has importance for none of this model's modules; is it of "
                         "another model? Its first entry is '%.100s'",
                         j->q->imatrix, j->imatrix.entries[0].name);
    return st;
}

/* ---- config.json ---- */

static json_object *params_json(const cake_format *f, bool mode) {
    json_object *o = json_object_new_object();
    json_object_object_add(o, "group_size", json_object_new_int((int)f->group));
    json_object_object_add(o, "bits", json_object_new_int((int)f->bits));
    if (mode)
        json_object_object_add(o, "mode",
                               json_object_new_string(f->kind == CAKE_FORMAT_FP
                                                          ? cake_fp_get(f->fp)->name
                                                          : "affine"));
    return o;
}

static json_object *quantization_json(const job *j) {
    if (cake_recipe_is_kquant(j->recipe)) {
        json_object *o = json_object_new_object(), *map = json_object_new_object();
        json_object_object_add(o, "mode", json_object_new_string("kquant"));
        for (uint32_t i = 0; i < j->n_items; i++)
            if (j->items[i].format.kind == CAKE_FORMAT_BLOCK)
                json_object_object_add(
                    map, j->items[i].w->path,
                    json_object_new_string(cake_codec_name(j->items[i].format.codec)));
        json_object_object_add(o, "per_tensor", map);
        return o;
    }
    const cake_format global = cake_recipe_global(j->recipe);
    json_object *o = params_json(&global, true);
    for (uint32_t i = 0; i < j->n_items; i++) {
        const item *it = &j->items[i];
        if (it->format.kind == CAKE_FORMAT_FLOAT) continue;
        if (cake_recipe_lists_all(j->recipe) || !cake_format_equal(&it->format, &global))
            json_object_object_add(o, it->w->path, params_json(&it->format, true));
    }
    return o;
}

static cake_status write_config(job *j, const char *dir, cake_error *err) {
    json_object_object_del(j->config, CAKE_CONFIG_NORM_ADD_ONE); /* written as others expect it */
    json_object_object_add(j->config, "quantization", quantization_json(j));
    json_object_object_add(j->config, "quantization_config", quantization_json(j));
    const char *text = json_object_to_json_string_ext(
        j->config,
        JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);
    char *path = cake_path_join(dir, "config.json");
    cake_status st = cake_file_write(path, text, strlen(text), 0644, err);
    free(path);
    return st;
}

/* ---- the weights ---- */

/* Room of one thread, in this order, each part aligned. */
typedef struct {
    size_t scratch, floats, codes, scales, biases, total;
} room;

static void codes_of(const item *it, size_t *row, size_t *scales) {
    const size_t k = (size_t)it->w->k;
    *row = it->format.kind == CAKE_FORMAT_FLOAT ? k * cake_dtype_bits(it->dtype) / 8
                                                : cake_format_row_bytes(&it->format, k);
    *scales = it->format.kind == CAKE_FORMAT_AFFINE
                  ? k / it->format.group * (cake_dtype_bits(it->dtype) / 8)
              : it->format.kind == CAKE_FORMAT_FP ? k / it->format.group
                                                  : 0;
}

static uint32_t rows_per_chunk(const item *it) {
    uint64_t n = CHUNK_WEIGHTS / it->w->k + 1, part = it->w->n_rows / it->w->n_parts;
    return (uint32_t)(n < part ? n : part);
}

static room room_of(const item *it) {
    const size_t n = rows_per_chunk(it), k = (size_t)it->w->k;
    size_t row, scales;
    room m = {0};
    codes_of(it, &row, &scales);
    m.floats = cake_round_up(cake_source_scratch(it->w, n), ALIGN);
    m.codes = m.floats + cake_round_up(n * k * sizeof(float), ALIGN);
    /* also holds the weights rounded to dtype */
    m.scales = m.codes + cake_round_up(n * (row > 4 * k ? row : 4 * k), ALIGN);
    m.biases = m.scales + cake_round_up(n * scales, ALIGN);
    m.total = m.biases + cake_round_up(n * scales, ALIGN);
    return m;
}

static bool all_finite(const float *x, size_t n) {
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t u;
        memcpy(&u, &x[i], 4);
        u &= 0x7fffffff;
        most = u > most ? u : most;
    }
    return most < 0x7f800000;
}

static void encode(const item *it, const float *x, size_t n_rows, uint32_t mat, uint8_t *codes,
                   uint8_t *scales, uint8_t *biases) {
    const size_t k = (size_t)it->w->k;
    const cake_format *f = &it->format;
    size_t row, scale;
    codes_of(it, &row, &scale);
    if (f->kind == CAKE_FORMAT_FLOAT) {
        cake_floats_store(it->dtype, x, n_rows * k, codes);
        return;
    }
    const float *importance =
        it->importance
            ? cake_imatrix_values(it->importance, it->w->rank == 3 ? (uint32_t)it->w->shape[0] : 1,
                                  (uint32_t)k, mat)
            : NULL;
    const cake_ftype type = it->dtype == CAKE_DTYPE_F32   ? CAKE_F32
                            : it->dtype == CAKE_DTYPE_F16 ? CAKE_F16
                                                          : CAKE_BF16;
    for (size_t r = 0; r < n_rows; r++, x += k, codes += row, scales += scale, biases += scale)
        if (f->kind == CAKE_FORMAT_BLOCK)
            cake_codec_encode_row(f->codec, CAKE_ENCODE_KQ, x, importance, codes, k);
        else if (f->kind == CAKE_FORMAT_AFFINE)
            cake_affine_encode(f->bits, f->group, type, x, codes, scales, biases, k);
        else
            cake_fp_encode(f->fp, x, codes, scales, k);
}

static cake_status chunk(job *j, size_t c, uint8_t *buffer, cake_error *err) {
    const item *it = j->now;
    const cake_source_weight *w = it->w;
    const uint64_t part_rows = w->n_rows / w->n_parts;
    const size_t per_part = (size_t)((part_rows + j->rows_per_chunk - 1) / j->rows_per_chunk);
    const uint32_t part = (uint32_t)(c / per_part);
    const uint64_t row = c % per_part * j->rows_per_chunk;
    const size_t n =
        (size_t)(part_rows - row < j->rows_per_chunk ? part_rows - row : j->rows_per_chunk);
    const uint64_t first = part * part_rows + row; /* of the whole weight */
    const room m = room_of(it);
    uint8_t *codes = buffer + m.codes, *scales = buffer + m.scales, *biases = buffer + m.biases;
    float *x = (float *)(void *)(buffer + m.floats);
    size_t row_bytes, scale_bytes;
    codes_of(it, &row_bytes, &scale_bytes);
    cake_status st;
    if (it->format.kind == CAKE_FORMAT_FLOAT && w->format.kind == CAKE_FORMAT_FLOAT &&
        w->dtype == it->dtype && !w->one_added) {
        st = cake_source_read_raw(j->weights, w, part, row, n, codes, err);
    } else {
        st = cake_source_read(j->weights, w, part, row, n, buffer, x, err);
        if (st == CAKE_OK && !all_finite(x, n * w->k))
            st = cake_fail(err, CAKE_EFORMAT,
                           "'%.200s' has weights that are not finite in rows %llu to %llu", w->name,
                           (unsigned long long)first, (unsigned long long)(first + n - 1));
        if (st != CAKE_OK) return st;
        if (it->round && it->format.kind != CAKE_FORMAT_FLOAT) {
            cake_floats_store(it->dtype, x, n * w->k, codes);
            cake_floats_load(it->dtype, codes, n * w->k, x);
        }
        uint32_t mat = w->rank == 3 ? (uint32_t)(first / w->shape[1]) : 0;
        encode(it, x, n, mat, codes, scales, biases);
    }
    if (st == CAKE_OK)
        st = cake_shards_write(j->shards, it->tensor, first * row_bytes, codes, n * row_bytes, err);
    if (st == CAKE_OK && scale_bytes)
        st = cake_shards_write(j->shards, it->tensor + 1, first * scale_bytes, scales,
                               n * scale_bytes, err);
    if (st == CAKE_OK && it->format.kind == CAKE_FORMAT_AFFINE)
        st = cake_shards_write(j->shards, it->tensor + 2, first * scale_bytes, biases,
                               n * scale_bytes, err);
    if (st != CAKE_OK) return st;
    unsigned long long more = w->n_bytes / w->n_rows * n;
    more += atomic_fetch_add(&j->done, more);
    if (j->q->progress) cake_progress_update(j->q->progress, j->bar, more);
    return CAKE_OK;
}

static void run_chunk(void *arg, size_t c, unsigned thread) {
    job *j = arg;
    if (atomic_load_explicit(&j->failed, memory_order_relaxed)) return;
    cake_error e = {0};
    cake_status st = j->q->stop && *j->q->stop ? cake_fail(&e, CAKE_ECANCELED, "interrupted")
                                               : chunk(j, c, j->buffers[thread], &e);
    if (st == CAKE_OK) return;
    pthread_mutex_lock(&j->lock);
    if (!atomic_exchange(&j->failed, true)) j->error = e;
    pthread_mutex_unlock(&j->lock);
}

static cake_status write_weights(job *j, cake_error *err) {
    static const uint8_t placeholder = 0;
    size_t most = 0;
    for (uint32_t i = 0; i < j->n_items; i++) {
        size_t n = room_of(&j->items[i]).total;
        if (n > most) most = n;
    }
    const unsigned n_threads = cake_pool_threads(j->pool);
    cake_status st = CAKE_OK;
    j->buffers = cake_calloc(n_threads, sizeof *j->buffers);
    for (unsigned i = 0; i < n_threads; i++)
        if (!(j->buffers[i] = cake_pages_alloc(most)))
            st = cake_fail(err, CAKE_ENOMEM, "out of memory for %u threads; try --threads 1",
                           n_threads);
    for (uint32_t i = 0; i < j->n_items && st == CAKE_OK; i++) {
        j->now = &j->items[i];
        j->rows_per_chunk = rows_per_chunk(j->now);
        const uint64_t part_rows = j->now->w->n_rows / j->now->w->n_parts;
        cake_pool_run(j->pool,
                      (size_t)((part_rows + j->rows_per_chunk - 1) / j->rows_per_chunk) *
                          j->now->w->n_parts,
                      run_chunk, j);
        if (atomic_load(&j->failed)) {
            st = j->error.status;
            if (err) *err = j->error;
        } else if (j->now->format.kind == CAKE_FORMAT_BLOCK) {
            st = cake_shards_write(j->shards, j->now->tensor + 1, 0, &placeholder, 1, err);
        }
    }
    for (unsigned i = 0; i < n_threads; i++) cake_pages_free(j->buffers[i], most);
    free(j->buffers);
    return st;
}

/* ---- all of it ---- */

static cake_status read_source(job *j, cake_error *err) {
    const cake_quantize_request *q = j->q;
    cake_quant_params p;
    cake_status st = cake_model_open(&j->model, q->model, err);
    if (st != CAKE_OK) return st;
    st = cake_json_parse(j->model.config_text, j->model.config_len, 64, "config.json", &j->config,
                         err);
    if (st != CAKE_OK) return st;
    if (!q->requantize && cake_quant_lookup(j->model.config.quant, "", &p) != CAKE_QUANT_UNSAID)
        return cake_fail(err, CAKE_EINVAL,
                         "'%.300s' is quantized already, and quantizing again adds error to error; "
                         "take the original, or --requantize",
                         q->model);
    st = cake_source_new(&j->weights, j->model.checkpoint, j->model.config.quant,
                         j->model.layout->tied, true, err);
    if (st == CAKE_OK && j->model.config.norm_one_added) cake_source_take_one(j->weights);
    cake_recipe_request request = q->recipe;
    request.model_type = j->model.config.model_type;
    if (st == CAKE_OK) st = cake_recipe_new(&j->recipe, &request, err);
    if (st == CAKE_OK && q->imatrix && !cake_recipe_is_kquant(j->recipe))
        return cake_fail(
            err, CAKE_EUSAGE,
            "--imatrix weighs the errors of block codecs only; take --preset or --type");
    if (st == CAKE_OK && q->imatrix) st = cake_imatrix_load(&j->imatrix, q->imatrix, err);
    return st == CAKE_OK ? plan(j, err) : st;
}

/* What was written is a model that this program runs, or it is not handed out. */
static cake_status check_result(const char *dir, cake_error *err) {
    cake_model m;
    cake_status st = cake_model_open(&m, dir, err);
    if (st != CAKE_OK) return cake_fail_in(err, st, "the result cannot be opened");
    cake_model_close(&m);
    return CAKE_OK;
}

static cake_status write_all(job *j, const char *dir, cake_error *err) {
    const uint64_t limit = j->q->shard_limit ? j->q->shard_limit : CAKE_SHARD_LIMIT;
    cake_shard_tensor *tensors = j->tensors;
    j->tensors = NULL;
    cake_status st = cake_output_folder_room(dir, j->r->written_bytes, err);
    if (st != CAKE_OK) {
        for (uint32_t i = 0; i < j->n_tensors; i++) free(tensors[i].name);
        free(tensors);
        return st;
    }
    st = cake_shards_create(&j->shards, dir, tensors, j->n_tensors, limit, err);
    if (st != CAKE_OK) return st;
    j->r->n_shards = cake_shards_count(j->shards);
    if (j->q->progress)
        j->bar = cake_progress_start(j->q->progress, "quantizing", j->r->read_bytes,
                                     CAKE_PROGRESS_BYTES);
    st = write_weights(j, err);
    if (st == CAKE_OK) st = cake_shards_finish(j->shards, j->r->n_parameters, err);
    if (j->q->progress) cake_progress_finish(j->q->progress, j->bar, st == CAKE_OK, NULL);
    if (st == CAKE_OK) st = write_config(j, dir, err);
    if (st == CAKE_OK && j->model.checkpoint->config_text && j->q->progress)
        cake_progress_line(j->q->progress,
                           "the tokenizer inside a GGUF file is not carried over; "
                           "put the model's tokenizer.json into '%s'",
                           j->q->out);
    if (st == CAKE_OK) st = cake_output_folder_copy_side_files(dir, j->model.path, err);
    return st == CAKE_OK ? check_result(dir, err) : st;
}

cake_status cake_quantize(const cake_quantize_request *q, cake_quantize_result *r,
                          cake_error *err) {
    *r = (cake_quantize_result){0};
    job j = {.q = q, .r = r, .bar = -1, .lock = PTHREAD_MUTEX_INITIALIZER};
    cake_output_folder folder;
    cake_status st = cake_output_folder_open(&folder, q->out, err);
    if (st != CAKE_OK) return st;
    st = read_source(&j, err);
    if (st == CAKE_OK) {
        j.pool = cake_pool_new(q->threads, 0);
        uint64_t start = cake_now_ns();
        st = write_all(&j, folder.tmp, err);
        r->seconds = (double)(cake_now_ns() - start) * 1e-9;
        cake_pool_free(j.pool);
    }
    st = cake_output_folder_close(&folder, st, err);
    cake_shards_free(j.shards);
    for (uint32_t i = 0; j.tensors && i < j.n_tensors; i++) free(j.tensors[i].name);
    free(j.tensors);
    free(j.items);
    cake_imatrix_deinit(&j.imatrix);
    cake_recipe_free(j.recipe);
    cake_source_free(j.weights);
    json_object_put(j.config);
    cake_model_close(&j.model);
    return st;
}
