/* Quantization block: see quant.h. */
#include "common/model/quant.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/model/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *path;
    cake_quant_rule rule;
    cake_quant_params params;
} listed;

struct cake_quant {
    bool present;
    cake_quant_params global;
    cake_names names; /* path -> index into entries */
    uint32_t n_entries;
    listed *entries;
    size_t n_ignored;
    char **ignored; /* NULL-terminated */
};

enum { ENTRIES_MAX = 1000000 };

#define SUPPORTED                                                                                  \
    "supported are f32, f16, bf16 and MLX affine with 2, 3, 4, 5, 6 or 8 bits in groups of 32, "   \
    "64 or 128"

static const struct {
    const char *name;
    uint32_t group_size, bits; /* defaults; the only values of the fp modes */
} mode_table[] = {
    [CAKE_QUANT_AFFINE] = {"affine", 64, 4},
    [CAKE_QUANT_MXFP4] = {"mxfp4", 32, 4},
    [CAKE_QUANT_MXFP8] = {"mxfp8", 32, 8},
    [CAKE_QUANT_NVFP4] = {"nvfp4", 16, 4},
};
enum { N_MODES = sizeof mode_table / sizeof *mode_table };

const char *cake_quant_mode_name(cake_quant_mode m) {
    return (unsigned)m < N_MODES ? mode_table[m].name : "?";
}

/* group_size, bits and mode of one dict; null and absent mean the mode's default (2.6, cases 8,
 * 14). */
static cake_status params_of(json_object *o, const char *who, cake_quant_params *out,
                             cake_error *err) {
    const char *mode = "affine";
    cake_status st = cake_json_string(o, "mode", false, 64, &mode, err);
    if (st != CAKE_OK) return cake_fail_in(err, st, "quantization of %.200s", who);
    unsigned m = 0;
    while (m < N_MODES && strcmp(mode_table[m].name, mode) != 0) m++;
    if (m == N_MODES)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "quantization of %.200s: mode \"%.60s\" is not supported; " SUPPORTED, who,
                         mode);
    cake_quant_params p = {(cake_quant_mode)m, mode_table[m].bits, mode_table[m].group_size};
    if ((st = cake_json_u32(o, "group_size", false, 1, 1 << 20, &p.group_size, err)) != CAKE_OK ||
        (st = cake_json_u32(o, "bits", false, 1, 64, &p.bits, err)) != CAKE_OK)
        return cake_fail_in(err, st, "quantization of %.200s", who);
    bool ok = p.mode == CAKE_QUANT_AFFINE
                  ? ((p.bits >= 2 && p.bits <= 6) || p.bits == 8) &&
                        (p.group_size == 32 || p.group_size == 64 || p.group_size == 128)
                  : p.bits == mode_table[m].bits && p.group_size == mode_table[m].group_size;
    if (!ok)
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "quantization of %.200s: %s with %u bits in groups of %u is not "
                         "supported; " SUPPORTED,
                         who, mode, p.bits, p.group_size);
    *out = p;
    return CAKE_OK;
}

/* The block that counts: MLX's own key first (2.6). *hf: it is in the Hugging Face place. */
static json_object *find_block(json_object *config, bool *hf) {
    json_object *o = NULL;
    *hf = false;
    if (json_object_object_get_ex(config, "quantization", &o) && o) return o;
    *hf = true;
    if (json_object_object_get_ex(config, "quantization_config", &o) && o) return o;
    return NULL;
}

static cake_status refuse_kquant(json_object *block, cake_error *err) {
    json_object *map = NULL;
    const char *path = NULL, *codec = NULL;
    if (json_object_object_get_ex(block, "per_tensor", &map) &&
        json_object_is_type(map, json_type_object)) {
        struct json_object_iterator it = json_object_iter_begin(map),
                                    end = json_object_iter_end(map);
        if (!json_object_iter_equal(&it, &end)) {
            path = json_object_iter_peek_name(&it);
            codec = json_object_get_string(json_object_iter_peek_value(&it));
        }
    }
    if (!path)
        return cake_fail(err, CAKE_EFORMAT,
                         "quantization mode \"kquant\" without a \"per_tensor\" map of modules");
    return cake_fail(err, CAKE_EUNSUPPORTED,
                     "quantization mode \"kquant\" (module '%.200s' is stored as %.20s) is not "
                     "supported; " SUPPORTED,
                     path, codec ? codec : "?");
}

static cake_status add_entry(cake_quant *q, const char *path, cake_quant_rule rule,
                             cake_quant_params p, cake_error *err) {
    if (q->n_entries == ENTRIES_MAX)
        return cake_fail(err, CAKE_EFORMAT, "the quantization block lists more than %d modules",
                         ENTRIES_MAX);
    if ((q->n_entries & (q->n_entries - 1)) == 0) { /* full at every power of two */
        size_t n = q->n_entries ? 2 * (size_t)q->n_entries : 1;
        q->entries = cake_realloc(q->entries, n * sizeof *q->entries);
    }
    listed *e = &q->entries[q->n_entries];
    *e = (listed){cake_strdup(path), rule, p};
    if (cake_names_add(&q->names, e->path, strlen(e->path), q->n_entries++) == CAKE_NAMES_NOMEM)
        return cake_fail(err, CAKE_ENOMEM, "out of memory");
    return CAKE_OK;
}

static cake_status one_member(cake_quant *q, const char *key, json_object *v, bool hf,
                              cake_error *err) {
    static const char *const own[] = {"group_size", "bits", "mode"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strcmp(key, own[i]) == 0) return CAKE_OK;
    char who[CAKE_ERROR_MAX];
    snprintf(who, sizeof who, "module '%.300s'", key);
    if (json_object_is_type(v, json_type_boolean))
        return add_entry(q, key,
                         json_object_get_boolean(v) ? CAKE_QUANT_LISTED : CAKE_QUANT_REFUSED,
                         q->global, err);
    if (json_object_is_type(v, json_type_object) && !hf) {
        json_object_object_foreach(v, k, x) {
            (void)x;
            bool known = false;
            for (size_t i = 0; i < sizeof own / sizeof *own; i++) known |= strcmp(k, own[i]) == 0;
            if (!known)
                return cake_fail(err, CAKE_EFORMAT, "quantization of %s: unknown field \"%.100s\"",
                                 who, k);
        }
        cake_quant_params p = {0};
        cake_status st = params_of(v, who, &p, err);
        return st == CAKE_OK ? add_entry(q, key, CAKE_QUANT_LISTED, p, err) : st;
    }
    q->ignored = cake_realloc(q->ignored, (q->n_ignored + 2) * sizeof *q->ignored);
    q->ignored[q->n_ignored++] = cake_strdup(key);
    q->ignored[q->n_ignored] = NULL;
    return CAKE_OK;
}

cake_status cake_quant_parse(json_object *config, cake_quant **out, cake_error *err) {
    cake_quant *q = cake_calloc(1, sizeof *q);
    cake_status st = CAKE_OK;
    bool hf;
    json_object *block = find_block(config, &hf);
    if (!block) {
        *out = q;
        return CAKE_OK;
    }
    q->present = true;
    const char *text = NULL;
    if (!json_object_is_type(block, json_type_object)) {
        st = cake_fail(err, CAKE_EFORMAT, "\"%s\" is not an object",
                       hf ? "quantization_config" : "quantization");
        goto out;
    }
    if (hf && (st = cake_json_string(block, "quant_method", false, 64, &text, err)) != CAKE_OK)
        goto out;
    if (text) {
        st = cake_fail(err, CAKE_EUNSUPPORTED,
                       "quantization method \"%s\" is not supported; " SUPPORTED, text);
        goto out;
    }
    if ((st = cake_json_string(block, "mode", false, 64, &text, err)) != CAKE_OK) goto out;
    if (text && strcmp(text, "kquant") == 0) {
        st = refuse_kquant(block, err);
        goto out;
    }
    if ((st = params_of(block, "the whole model", &q->global, err)) != CAKE_OK) goto out;
    struct json_object_iterator it = json_object_iter_begin(block),
                                end = json_object_iter_end(block);
    for (; st == CAKE_OK && !json_object_iter_equal(&it, &end); json_object_iter_next(&it))
        st = one_member(q, json_object_iter_peek_name(&it), json_object_iter_peek_value(&it), hf,
                        err);
out:
    if (st != CAKE_OK)
        cake_quant_free(q);
    else
        *out = q;
    return st;
}

void cake_quant_free(cake_quant *q) {
    if (!q) return;
    for (uint32_t i = 0; i < q->n_entries; i++) free(q->entries[i].path);
    for (size_t i = 0; i < q->n_ignored; i++) free(q->ignored[i]);
    cake_names_deinit(&q->names);
    free(q->entries);
    free(q->ignored);
    free(q);
}

cake_quant_rule cake_quant_lookup(const cake_quant *q, const char *path, cake_quant_params *out) {
    if (!q->present) return CAKE_QUANT_UNSAID;
    uint32_t i;
    if (!cake_names_find(&q->names, path, strlen(path), &i)) {
        *out = q->global;
        return CAKE_QUANT_GLOBAL;
    }
    if (q->entries[i].rule == CAKE_QUANT_LISTED) *out = q->entries[i].params;
    return q->entries[i].rule;
}

const char *const *cake_quant_ignored_keys(const cake_quant *q) {
    static const char *const none[] = {NULL};
    return q->ignored ? (const char *const *)q->ignored : none;
}
