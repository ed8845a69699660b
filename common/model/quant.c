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
    bool present, kquant;
    cake_quant_params global;
    cake_names names; /* path -> index into entries */
    uint32_t n_entries;
    listed *entries;
    size_t n_ignored;
    char **ignored; /* NULL-terminated */
};

enum { ENTRIES_MAX = 1000000 };

#define SUPPORTED                                                                                  \
    "supported are f32, f16, bf16, MLX affine with 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 "   \
    "or 128, mxfp4, mxfp8, nvfp4 and kquant"

static const struct {
    const char *name;
    uint32_t group_size, bits; /* defaults; the only values of the fp modes */
} mode_table[] = {
    [CAKE_QUANT_AFFINE] = {"affine", 64, 4},
    [CAKE_QUANT_MXFP4] = {"mxfp4", 32, 4},
    [CAKE_QUANT_MXFP8] = {"mxfp8", 32, 8},
    [CAKE_QUANT_NVFP4] = {"nvfp4", 16, 4},
};
enum { N_MODES = sizeof mode_table / sizeof *mode_table }; /* of those with parameters */

const char *cake_quant_mode_name(cake_quant_mode m) {
    if (m == CAKE_QUANT_KQUANT) return "kquant";
    return (unsigned)m < N_MODES ? mode_table[m].name : "?";
}

static const cake_block_info block_table[CAKE_BLOCK_COUNT] = {
    [CAKE_BLOCK_Q4_0] = {"q4_0", 32, 18},   [CAKE_BLOCK_Q4_1] = {"q4_1", 32, 20},
    [CAKE_BLOCK_Q5_0] = {"q5_0", 32, 22},   [CAKE_BLOCK_Q5_1] = {"q5_1", 32, 24},
    [CAKE_BLOCK_Q8_0] = {"q8_0", 32, 34},   [CAKE_BLOCK_Q2_K] = {"q2_k", 256, 84},
    [CAKE_BLOCK_Q3_K] = {"q3_k", 256, 110}, [CAKE_BLOCK_Q4_K] = {"q4_k", 256, 144},
    [CAKE_BLOCK_Q5_K] = {"q5_k", 256, 176}, [CAKE_BLOCK_Q6_K] = {"q6_k", 256, 210},
    [CAKE_BLOCK_MXFP4] = {"mxfp4", 32, 17}, [CAKE_BLOCK_NVFP4] = {"nvfp4", 64, 36},
};

const cake_block_info *cake_block_get(cake_block_codec codec) {
    return (unsigned)codec < CAKE_BLOCK_COUNT ? &block_table[codec] : NULL;
}

bool cake_block_parse(const char *name, cake_block_codec *out) {
    for (unsigned i = 0; i < CAKE_BLOCK_COUNT; i++)
        if (strcmp(block_table[i].name, name) == 0) return *out = (cake_block_codec)i, true;
    return false;
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
    cake_quant_params p = {.mode = (cake_quant_mode)m,
                           .bits = mode_table[m].bits,
                           .group_size = mode_table[m].group_size};
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

/* The block that counts: MLX's own key first (2.6), and a kquant block before any other, wherever
 * mlx-kquant would find it (5.1). *hf: it is in the Hugging Face place. */
static json_object *find_block(json_object *config, bool *hf) {
    static const char *const keys[] = {"quantization", "quantization_config"};
    enum { NESTED_MAX = 4 };
    json_object *o = config, *first = NULL, *mode = NULL;
    for (int depth = 0; depth < NESTED_MAX && o; depth++) {
        for (int i = 0; i < 2; i++) {
            json_object *block = NULL;
            if (!json_object_object_get_ex(o, keys[i], &block) || !block) continue;
            if (!first && depth == 0) first = block, *hf = i == 1;
            if (json_object_is_type(block, json_type_object) &&
                json_object_object_get_ex(block, "mode", &mode) &&
                json_object_is_type(mode, json_type_string) &&
                strcmp(json_object_get_string(mode), "kquant") == 0)
                return *hf = false, block;
        }
        json_object *text = NULL;
        json_object_object_get_ex(o, "text_config", &text);
        o = json_object_is_type(text, json_type_object) ? text : NULL;
    }
    return first;
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

/* {"mode": "kquant", "per_tensor": {path: codec}}: those modules and no others (5.1). */
static cake_status parse_kquant(cake_quant *q, json_object *block, cake_error *err) {
    json_object *map = NULL;
    if (!json_object_object_get_ex(block, "per_tensor", &map) ||
        !json_object_is_type(map, json_type_object) || json_object_object_length(map) == 0)
        return cake_fail(err, CAKE_EFORMAT,
                         "quantization mode \"kquant\" without a \"per_tensor\" map of modules");
    q->kquant = true;
    cake_status st = CAKE_OK;
    struct json_object_iterator it = json_object_iter_begin(map), end = json_object_iter_end(map);
    for (; st == CAKE_OK && !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        const char *path = json_object_iter_peek_name(&it);
        json_object *v = json_object_iter_peek_value(&it);
        if (!json_object_is_type(v, json_type_string))
            return cake_fail(err, CAKE_EFORMAT,
                             "quantization of module '%.300s': the codec is not a string", path);
        const char *name = json_object_get_string(v);
        cake_quant_params p = {.mode = CAKE_QUANT_KQUANT};
        if (!cake_block_parse(name, &p.codec))
            return cake_fail(err, CAKE_EUNSUPPORTED,
                             "quantization of module '%.300s': codec \"%.60s\" is not supported; "
                             "supported are q2_k to q6_k, q4_0, q4_1, q5_0, q5_1, q8_0, mxfp4 and "
                             "nvfp4",
                             path, name);
        p.group_size = block_table[p.codec].weights;
        st = add_entry(q, path, CAKE_QUANT_LISTED, p, err);
    }
    return st;
}

cake_status cake_quant_parse(json_object *config, cake_quant **out, cake_error *err) {
    cake_quant *q = cake_calloc(1, sizeof *q);
    cake_status st = CAKE_OK;
    bool hf = false;
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
        st = parse_kquant(q, block, err);
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
        if (q->kquant) return CAKE_QUANT_REFUSED;
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
