/* The GGUF container: see gguf.h. */
#include "common/model/gguf.h"
#include "common/mem.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { KEY_MIN = 13, INFO_MIN = 24 }; /* bytes of the shortest metadata entry and tensor info */
static const uint64_t string_max = 1u << 30, array_max = 1u << 30;

#define PLAIN(name, dtype, bytes)                                                                  \
    { name, 1, bytes, dtype, CAKE_BLOCK_COUNT }
#define BLOCKS(name, codec, w, bytes)                                                              \
    { name, w, bytes, CAKE_DTYPE_NONE, codec }
#define UNSUPPORTED(name)                                                                          \
    { name, 0, 0, CAKE_DTYPE_NONE, CAKE_BLOCK_COUNT }
static const cake_gguf_kind kind_table[] = {
    [0] = PLAIN("F32", CAKE_DTYPE_F32, 4),
    [1] = PLAIN("F16", CAKE_DTYPE_F16, 2),
    [2] = BLOCKS("Q4_0", CAKE_BLOCK_Q4_0, 32, 18),
    [3] = BLOCKS("Q4_1", CAKE_BLOCK_Q4_1, 32, 20),
    [6] = BLOCKS("Q5_0", CAKE_BLOCK_Q5_0, 32, 22),
    [7] = BLOCKS("Q5_1", CAKE_BLOCK_Q5_1, 32, 24),
    [8] = BLOCKS("Q8_0", CAKE_BLOCK_Q8_0, 32, 34),
    [9] = UNSUPPORTED("Q8_1"),
    [10] = BLOCKS("Q2_K", CAKE_BLOCK_Q2_K, 256, 84),
    [11] = BLOCKS("Q3_K", CAKE_BLOCK_Q3_K, 256, 110),
    [12] = BLOCKS("Q4_K", CAKE_BLOCK_Q4_K, 256, 144),
    [13] = BLOCKS("Q5_K", CAKE_BLOCK_Q5_K, 256, 176),
    [14] = BLOCKS("Q6_K", CAKE_BLOCK_Q6_K, 256, 210),
    [15] = UNSUPPORTED("Q8_K"),
    [16] = UNSUPPORTED("IQ2_XXS"),
    [17] = UNSUPPORTED("IQ2_XS"),
    [18] = UNSUPPORTED("IQ3_XXS"),
    [19] = UNSUPPORTED("IQ1_S"),
    [20] = UNSUPPORTED("IQ4_NL"),
    [21] = UNSUPPORTED("IQ3_S"),
    [22] = UNSUPPORTED("IQ2_S"),
    [23] = UNSUPPORTED("IQ4_XS"),
    [24] = PLAIN("I8", CAKE_DTYPE_I8, 1),
    [25] = PLAIN("I16", CAKE_DTYPE_I16, 2),
    [26] = PLAIN("I32", CAKE_DTYPE_I32, 4),
    [27] = PLAIN("I64", CAKE_DTYPE_I64, 8),
    [28] = PLAIN("F64", CAKE_DTYPE_F64, 8),
    [29] = UNSUPPORTED("IQ1_M"),
    [30] = PLAIN("BF16", CAKE_DTYPE_BF16, 2),
    [34] = UNSUPPORTED("TQ1_0"),
    [35] = UNSUPPORTED("TQ2_0"),
    [39] = BLOCKS("MXFP4", CAKE_BLOCK_MXFP4, 32, 17),
    [40] = BLOCKS("NVFP4", CAKE_BLOCK_NVFP4, 64, 36),
    [41] = UNSUPPORTED("Q1_0"),
    [42] = UNSUPPORTED("Q2_0"),
};

const cake_gguf_kind *cake_gguf_kind_of(uint32_t id) {
    return id < sizeof kind_table / sizeof *kind_table && kind_table[id].name ? &kind_table[id]
                                                                              : NULL;
}

static const struct {
    const char *name;
    uint32_t bytes; /* 0: of its own length */
} value_table[CAKE_GGUF_TYPES] = {
    [CAKE_GGUF_U8] = {"u8", 1},         [CAKE_GGUF_I8] = {"i8", 1},
    [CAKE_GGUF_U16] = {"u16", 2},       [CAKE_GGUF_I16] = {"i16", 2},
    [CAKE_GGUF_U32] = {"u32", 4},       [CAKE_GGUF_I32] = {"i32", 4},
    [CAKE_GGUF_F32] = {"f32", 4},       [CAKE_GGUF_BOOL] = {"bool", 1},
    [CAKE_GGUF_STRING] = {"string", 0}, [CAKE_GGUF_ARRAY] = {"array", 0},
    [CAKE_GGUF_U64] = {"u64", 8},       [CAKE_GGUF_I64] = {"i64", 8},
    [CAKE_GGUF_F64] = {"f64", 8},
};

static uint64_t load(const uint8_t *p, unsigned bytes) {
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

/* ---- parsing ---- */

/* A reader that keeps the first error; later reads give zeros. */
typedef struct {
    const uint8_t *s;
    size_t n, at;
    const char *what;
    cake_error *err;
    cake_status st;
    size_t name_max;
    char *names; /* room for the next tensor's */
} reader;

#define FAIL(r, ...)                                                                               \
    ((r)->st == CAKE_OK ? ((r)->st = broken((r), CAKE_EFORMAT, cake_asprintf(__VA_ARGS__)))        \
                        : (r)->st)

static cake_status broken(reader *r, cake_status st, char *why) {
    cake_fail(r->err, st, "%s: %s", r->what, why);
    free(why);
    return st;
}

static const uint8_t *take(reader *r, uint64_t n) {
    static const uint8_t zeros[8];
    if (r->st != CAKE_OK || n > r->n - r->at) {
        FAIL(r, "ends at byte %zu, in the middle of its header", r->n);
        return zeros;
    }
    const uint8_t *p = r->s + r->at;
    r->at += (size_t)n;
    return p;
}
static uint32_t u32(reader *r) {
    return (uint32_t)load(take(r, 4), 4);
}
static uint64_t u64(reader *r) {
    return load(take(r, 8), 8);
}

static cake_gguf_text string(reader *r, const char *kind) {
    uint64_t n = u64(r);
    if (r->st == CAKE_OK && (n > string_max || n > r->n - r->at))
        FAIL(r, "a %s at byte %zu claims %llu bytes, which the file does not have", kind, r->at - 8,
             (unsigned long long)n);
    if (r->st != CAKE_OK) return (cake_gguf_text){"", 0};
    return (cake_gguf_text){(const char *)take(r, n), (size_t)n};
}

/* The elements of a value: *at is their first byte. */
static void elements(reader *r, cake_gguf_value *v) {
    v->at = r->s + r->at;
    if (v->type == CAKE_GGUF_STRING) {
        for (uint64_t i = 0; i < v->n && r->st == CAKE_OK; i++) string(r, "string");
        return;
    }
    size_t bytes; /* n <= 2^30: no overflow, but the file decides */
    if (!cake_mul_size((size_t)v->n, value_table[v->type].bytes, &bytes) || bytes > r->n - r->at) {
        FAIL(r, "key '%.*s' claims %llu elements, which the file does not have",
             (int)(v->key.n > 200 ? 200 : v->key.n), v->key.s, (unsigned long long)v->n);
        return;
    }
    const uint8_t *p = take(r, bytes);
    for (size_t i = 0; v->type == CAKE_GGUF_BOOL && i < bytes && r->st == CAKE_OK; i++)
        if (p[i] > 1)
            FAIL(r, "key '%.*s' holds %u where only true (1) or false (0) may be",
                 (int)(v->key.n > 200 ? 200 : v->key.n), v->key.s, p[i]);
}

static void one_value(reader *r, cake_gguf *g, size_t i) {
    cake_gguf_value *v = &g->values[i];
    *v = (cake_gguf_value){.key = string(r, "key"), .n = 1};
    int len = (int)(v->key.n > 200 ? 200 : v->key.n);
    if (r->st != CAKE_OK) return;
    if (!v->key.n || v->key.n > CAKE_GGUF_KEY_MAX || memchr(v->key.s, 0, v->key.n)) {
        FAIL(r, "metadata entry %zu has no usable key (%zu bytes)", i, v->key.n);
        return;
    }
    switch (cake_names_add(&g->keys, v->key.s, v->key.n, (uint32_t)i)) {
    case CAKE_NAMES_ADDED: break;
    case CAKE_NAMES_THERE: FAIL(r, "key '%.*s' occurs twice", len, v->key.s); return;
    case CAKE_NAMES_NOMEM: r->st = cake_fail(r->err, CAKE_ENOMEM, "out of memory"); return;
    }
    uint32_t type = u32(r);
    if (r->st == CAKE_OK && type == CAKE_GGUF_ARRAY) {
        v->is_array = true;
        type = u32(r);
        v->n = u64(r);
        if (r->st == CAKE_OK && type == CAKE_GGUF_ARRAY)
            FAIL(r, "key '%.*s' is an array of arrays", len, v->key.s);
        if (r->st == CAKE_OK && v->n > array_max)
            FAIL(r, "key '%.*s' claims %llu elements", len, v->key.s, (unsigned long long)v->n);
    }
    if (r->st == CAKE_OK && type >= CAKE_GGUF_TYPES)
        FAIL(r, "key '%.*s' has the unknown type %u", len, v->key.s, type);
    if (r->st != CAKE_OK) return;
    v->type = (cake_gguf_type)type;
    elements(r, v);
}

/* Elements and bytes of a tensor with every multiplication checked: dimensions whose product wraps
 * around are an attack, not a tensor. */
static void size_of(reader *r, cake_gguf_tensor *t) {
    uint64_t n = 1;
    for (uint32_t d = 0; d < t->rank; d++) {
        if (t->dims[d] == 0 || t->dims[d] > INT64_MAX) {
            FAIL(r, "tensor '%s': dimension %u is %lld", t->name, d, (long long)t->dims[d]);
            return;
        }
        if (__builtin_mul_overflow(n, t->dims[d], &n)) {
            FAIL(r, "tensor '%s': its dimensions multiply to more than 64 bits", t->name);
            return;
        }
    }
    if (t->dims[0] % t->kind->weights)
        FAIL(r, "tensor '%s': rows of %llu do not divide into blocks of %u (%s)", t->name,
             (unsigned long long)t->dims[0], t->kind->weights, t->kind->name);
    else if (__builtin_mul_overflow(n / t->kind->weights, (uint64_t)t->kind->bytes, &t->n_bytes))
        FAIL(r, "tensor '%s': its bytes do not fit 64 bits", t->name);
}

static void one_tensor(reader *r, cake_gguf *g, size_t i, uint64_t *expected) {
    cake_gguf_tensor *t = &g->tensors[i];
    char *name = r->names;
    *t = (cake_gguf_tensor){.name = name, .dims = {1, 1, 1, 1}};
    cake_gguf_text s = string(r, "tensor's name");
    if (r->st != CAKE_OK) return;
    if (!s.n || s.n > r->name_max || memchr(s.s, 0, s.n)) {
        FAIL(r, "tensor %zu has a name of %zu bytes; 1 to %zu are allowed, none of them zero", i,
             s.n, r->name_max);
        return;
    }
    r->names += s.n + 1;
    memcpy(name, s.s, s.n);
    name[s.n] = 0;
    switch (cake_names_add(&g->names, name, s.n, (uint32_t)i)) {
    case CAKE_NAMES_ADDED: break;
    case CAKE_NAMES_THERE: FAIL(r, "tensor '%s' occurs twice", name); return;
    case CAKE_NAMES_NOMEM: r->st = cake_fail(r->err, CAKE_ENOMEM, "out of memory"); return;
    }
    t->rank = u32(r);
    if (r->st == CAKE_OK && t->rank > CAKE_GGUF_RANK_MAX) {
        FAIL(r, "tensor '%s' has %u dimensions; at most %d are allowed", name, t->rank,
             CAKE_GGUF_RANK_MAX);
        return;
    }
    for (uint32_t d = 0; d < t->rank && r->st == CAKE_OK; d++) t->dims[d] = u64(r);
    uint32_t type = u32(r);
    uint64_t offset = u64(r);
    if (r->st != CAKE_OK) return;
    t->kind = cake_gguf_kind_of(type);
    if (!t->kind) {
        FAIL(r, "tensor '%s' has the type %u, which does not exist", name, type);
        return;
    }
    if (!t->kind->bytes) {
        r->st =
            cake_fail(r->err, CAKE_EUNSUPPORTED,
                      "%s: tensor '%s' is stored as %s, which is not supported; F32, F16, BF16, "
                      "Q2_K to Q6_K, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4 and NVFP4 are",
                      r->what, name, t->kind->name);
        return;
    }
    size_of(r, t);
    if (r->st != CAKE_OK) return;
    if (offset != *expected) {
        FAIL(r, "tensor '%s' begins at %llu of the data; the tensors before it end at %llu", name,
             (unsigned long long)offset, (unsigned long long)*expected);
        return;
    }
    uint64_t end, pad = g->alignment - 1;
    if (__builtin_add_overflow(offset, t->n_bytes, &end) || __builtin_add_overflow(end, pad, &end))
        FAIL(r, "tensor '%s' ends beyond 64 bits", name);
    *expected = end & ~pad;
    t->offset = offset; /* from data_at, which is known when all infos are read */
}

static void place_tensors(reader *r, cake_gguf *g) {
    uint64_t pad = g->alignment - 1;
    g->data_at = ((uint64_t)r->at + pad) & ~pad;
    for (size_t i = 0; i < g->n_tensors && r->st == CAKE_OK; i++) {
        cake_gguf_tensor *t = &g->tensors[i];
        if (g->data_at > r->n || t->offset > r->n - g->data_at ||
            t->n_bytes > r->n - g->data_at - t->offset)
            FAIL(r,
                 "tensor '%s' needs bytes up to %llu, the file has %zu; the download is incomplete",
                 t->name, (unsigned long long)(g->data_at + t->offset + t->n_bytes), r->n);
        t->offset += g->data_at;
    }
}

static void header(reader *r, cake_gguf *g, uint64_t *n_tensors, uint64_t *n_values) {
    const uint8_t *magic = take(r, 4);
    if (r->st != CAKE_OK || memcmp(magic, "GGUF", 4) != 0) {
        r->st = CAKE_OK;
        FAIL(r, "not a GGUF file");
        return;
    }
    g->version = u32(r);
    *n_tensors = u64(r);
    *n_values = u64(r);
    if (r->st != CAKE_OK) return;
    if (g->version && !(g->version & 0xffff)) {
        r->st =
            cake_fail(r->err, CAKE_EUNSUPPORTED,
                      "%s: a big-endian GGUF file; only little-endian ones are supported", r->what);
    } else if (g->version != 2 && g->version != 3) {
        r->st = cake_fail(r->err, CAKE_EUNSUPPORTED,
                          "%s: GGUF version %u is not supported; 2 and 3 are", r->what, g->version);
    } else if (*n_values > CAKE_GGUF_KEYS_MAX || *n_values > (r->n - r->at) / KEY_MIN) {
        FAIL(r, "claims %llu metadata entries, which a file of %zu bytes cannot hold",
             (unsigned long long)*n_values, r->n);
    } else if (*n_tensors > CAKE_GGUF_TENSORS_MAX || *n_tensors > (r->n - r->at) / INFO_MIN) {
        FAIL(r, "claims %llu tensors, which a file of %zu bytes cannot hold",
             (unsigned long long)*n_tensors, r->n);
    }
}

static void alignment(reader *r, cake_gguf *g) {
    g->alignment = 32;
    const cake_gguf_value *v = cake_gguf_get(g, "general.alignment");
    if (!v) return;
    uint64_t a = v->is_array || v->type != CAKE_GGUF_U32 ? 0 : load(v->at, 4);
    if (!a || (a & (a - 1)))
        FAIL(r, "general.alignment is not a power of two of type u32");
    else
        g->alignment = a;
}

cake_status cake_gguf_parse(cake_gguf *g, const uint8_t *bytes, size_t len, size_t name_max,
                            const char *what, cake_error *err) {
    *g = (cake_gguf){.bytes = bytes, .what = cake_strdup(what)};
    reader r = {.s = bytes, .n = len, .what = g->what, .err = err, .name_max = name_max};
    uint64_t n_tensors = 0, n_values = 0, expected = 0;
    header(&r, g, &n_tensors, &n_values);
    if (r.st == CAKE_OK) {
        /* A name and its NUL take fewer bytes than its info does in the file. */
        size_t room = (size_t)n_tensors * (name_max + 1);
        g->values = cake_trymalloc((size_t)n_values * sizeof *g->values);
        g->tensors = cake_trymalloc((size_t)n_tensors * sizeof *g->tensors);
        g->strings = r.names = cake_trymalloc(room < len ? room : len);
        if (!g->values || !g->tensors || !g->strings)
            r.st = cake_fail(err, CAKE_ENOMEM, "%s: no memory for its %llu tensors", what,
                             (unsigned long long)n_tensors);
    }
    for (; g->n_values < n_values && r.st == CAKE_OK; g->n_values++) one_value(&r, g, g->n_values);
    if (r.st == CAKE_OK) alignment(&r, g);
    for (; g->n_tensors < n_tensors && r.st == CAKE_OK; g->n_tensors++)
        one_tensor(&r, g, g->n_tensors, &expected);
    if (r.st == CAKE_OK) place_tensors(&r, g);
    if (r.st != CAKE_OK) cake_gguf_deinit(g);
    return r.st;
}

cake_status cake_gguf_open(cake_gguf *g, const char *path, cake_error *err) {
    cake_map map;
    *g = (cake_gguf){0};
    cake_status st = cake_map_open(&map, path, err);
    if (st != CAKE_OK) return st;
    st = cake_gguf_parse(g, map.data, map.size, CAKE_GGUF_NAME_MAX, path, err);
    if (st == CAKE_OK)
        g->map = map;
    else
        cake_map_close(&map);
    return st;
}

void cake_gguf_deinit(cake_gguf *g) {
    cake_names_deinit(&g->keys);
    cake_names_deinit(&g->names);
    free(g->values);
    free(g->tensors);
    free(g->strings);
    free(g->what);
    cake_map_close(&g->map);
    *g = (cake_gguf){0};
}

/* ---- finding a file ---- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static bool has_magic(const char *path) {
    FILE *f = fopen(path, "rb");
    char magic[4] = {0};
    bool is = f && fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (f) fclose(f);
    return is;
}

/* "-00002-of-00003.gguf" and its like: a later part of a split file. */
static bool is_later_part(const char *name) {
    size_t n = strlen(name);
    enum { TAIL = sizeof "-00001-of-00003.gguf" - 1 };
    if (n <= TAIL || memcmp(name + n - TAIL + 6, "-of-", 4) != 0) return false;
    return name[n - TAIL] == '-' && memcmp(name + n - TAIL + 1, "00001", 5) != 0;
}

cake_status cake_gguf_find_file(const char *path, char **file, cake_error *err) {
    struct stat sb;
    *file = NULL;
    if (stat(path, &sb) != 0) return CAKE_OK;
    if (S_ISREG(sb.st_mode)) {
        if (has_magic(path) || ends_with(path, ".gguf")) *file = cake_strdup(path);
        return CAKE_OK;
    }
    DIR *d = S_ISDIR(sb.st_mode) ? opendir(path) : NULL;
    if (!d) return CAKE_OK;
    unsigned found = 0;
    bool safetensors = false;
    for (struct dirent *e; (e = readdir(d));) {
        if (ends_with(e->d_name, ".safetensors") || ends_with(e->d_name, ".safetensors.index.json"))
            safetensors = true;
        if (!ends_with(e->d_name, ".gguf") || is_later_part(e->d_name)) continue;
        if (found++ == 0) *file = cake_path_join(path, e->d_name);
    }
    closedir(d);
    if (found == 1 && !safetensors) return CAKE_OK;
    free(*file);
    *file = NULL;
    if (found > 1 && !safetensors)
        return cake_fail(err, CAKE_EFORMAT,
                         "'%s' holds %u GGUF files; give the one you mean: --model %s/NAME.gguf",
                         path, found, path);
    return CAKE_OK;
}

/* ---- values ---- */

const cake_gguf_value *cake_gguf_get(const cake_gguf *g, const char *key) {
    uint32_t i;
    return cake_names_find(&g->keys, key, strlen(key), &i) ? &g->values[i] : NULL;
}

const cake_gguf_tensor *cake_gguf_tensor_named(const cake_gguf *g, const char *name) {
    uint32_t i;
    return cake_names_find(&g->names, name, strlen(name), &i) ? &g->tensors[i] : NULL;
}

static cake_status wrong(const cake_gguf *g, const cake_gguf_value *v, const char *key,
                         const char *want, cake_error *err) {
    if (!v)
        return cake_fail(err, CAKE_EFORMAT, "%s: the key '%s' (%s) is missing", g->what, key, want);
    return cake_fail(err, CAKE_EFORMAT, "%s: key '%s' is %s%s, expected %s", g->what, key,
                     v->is_array ? "an array of " : "a ", value_table[v->type].name, want);
}

static bool is_integer(cake_gguf_type t) {
    return t <= CAKE_GGUF_I32 || t == CAKE_GGUF_U64 || t == CAKE_GGUF_I64;
}

int64_t cake_gguf_int_at(const cake_gguf_value *v, uint64_t i) {
    unsigned bytes = value_table[v->type].bytes;
    uint64_t raw = load(v->at + i * bytes, bytes);
    switch (v->type) {
    case CAKE_GGUF_I8: return (int8_t)raw;
    case CAKE_GGUF_I16: return (int16_t)raw;
    case CAKE_GGUF_I32: return (int32_t)raw;
    case CAKE_GGUF_U64: return raw > INT64_MAX ? INT64_MAX : (int64_t)raw;
    default: return (int64_t)raw;
    }
}

float cake_gguf_f32_at(const cake_gguf_value *v, uint64_t i) {
    float f;
    uint32_t raw = (uint32_t)load(v->at + 4 * i, 4);
    memcpy(&f, &raw, sizeof f);
    return f;
}

cake_gguf_text cake_gguf_next_string(const uint8_t **at) {
    size_t n = (size_t)load(*at, 8);
    cake_gguf_text t = {(const char *)*at + 8, n};
    *at += 8 + n;
    return t;
}

cake_status cake_gguf_uint(const cake_gguf *g, const char *key, bool required, uint64_t min,
                           uint64_t max, uint64_t *out, cake_error *err) {
    const cake_gguf_value *v = cake_gguf_get(g, key);
    if (!v && !required) return CAKE_OK;
    if (!v || v->is_array || !is_integer(v->type)) return wrong(g, v, key, "an integer", err);
    int64_t x = cake_gguf_int_at(v, 0);
    if (x < 0 || (uint64_t)x < min || (uint64_t)x > max)
        return cake_fail(err, CAKE_EFORMAT, "%s: key '%s' is %lld, expected %llu to %llu", g->what,
                         key, (long long)x, (unsigned long long)min, (unsigned long long)max);
    *out = (uint64_t)x;
    return CAKE_OK;
}

cake_status cake_gguf_double(const cake_gguf *g, const char *key, bool required, double *out,
                             cake_error *err) {
    const cake_gguf_value *v = cake_gguf_get(g, key);
    if (!v && !required) return CAKE_OK;
    double x;
    if (v && !v->is_array && v->type == CAKE_GGUF_F32) {
        x = (double)cake_gguf_f32_at(v, 0);
    } else if (v && !v->is_array && v->type == CAKE_GGUF_F64) {
        uint64_t raw = load(v->at, 8);
        memcpy(&x, &raw, sizeof x);
    } else {
        return wrong(g, v, key, "a number", err);
    }
    if (!isfinite(x))
        return cake_fail(err, CAKE_EFORMAT, "%s: key '%s' is not a finite number", g->what, key);
    *out = x;
    return CAKE_OK;
}

cake_status cake_gguf_bool(const cake_gguf *g, const char *key, bool *out, cake_error *err) {
    const cake_gguf_value *v = cake_gguf_get(g, key);
    if (!v) return CAKE_OK;
    if (v->is_array || v->type != CAKE_GGUF_BOOL) return wrong(g, v, key, "true or false", err);
    *out = v->at[0];
    return CAKE_OK;
}

cake_status cake_gguf_string(const cake_gguf *g, const char *key, bool required, size_t max,
                             cake_gguf_text *out, cake_error *err) {
    const cake_gguf_value *v = cake_gguf_get(g, key);
    *out = (cake_gguf_text){NULL, 0};
    if (!v && !required) return CAKE_OK;
    if (!v || v->is_array || v->type != CAKE_GGUF_STRING) return wrong(g, v, key, "a string", err);
    const uint8_t *at = v->at;
    cake_gguf_text t = cake_gguf_next_string(&at);
    if (t.n > max || memchr(t.s, 0, t.n))
        return cake_fail(err, CAKE_EFORMAT,
                         "%s: key '%s' is a string of %zu bytes; at most %zu without NUL are "
                         "expected",
                         g->what, key, t.n, max);
    *out = t;
    return CAKE_OK;
}

cake_status cake_gguf_array(const cake_gguf *g, const char *key, bool required, cake_gguf_type type,
                            const cake_gguf_value **out, cake_error *err) {
    const cake_gguf_value *v = cake_gguf_get(g, key);
    *out = NULL;
    if (!v && !required) return CAKE_OK;
    char want[40];
    snprintf(want, sizeof want, "an array of %s", value_table[type].name);
    if (!v || !v->is_array || v->type != type) return wrong(g, v, key, want, err);
    *out = v;
    return CAKE_OK;
}
