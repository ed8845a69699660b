/* The bundle manifest: see bundle.h for the text, manifest.h for making one.
 *
 * Parsing is made strict the simple way: read the fields, make the one canonical text that says the
 * same, and require it to be what came in, byte for byte. Offsets, the file header and the id then
 * cannot disagree with the tensor list. */
#include "common/model/manifest.h"
#include "common/mem.h"
#include "common/model/names.h"
#include "common/model/scan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PREFIX_ALIGN = 64, VERSION = 1 };

/* ---- text that grows ---- */

typedef struct {
    char *s;
    size_t n, room;
    bool failed;
} text;

static __attribute__((format(printf, 2, 3))) void put(text *t, const char *fmt, ...) {
    for (;;) {
        va_list ap;
        va_start(ap, fmt);
        size_t left = t->room - t->n;
        int k = t->failed ? 0 : vsnprintf(t->s ? t->s + t->n : NULL, left, fmt, ap);
        va_end(ap);
        if (t->failed) return;
        if (k >= 0 && (size_t)k < left) {
            t->n += (size_t)k;
            return;
        }
        size_t room = t->room ? 2 * t->room : 1024;
        char *s = room > (size_t)1 << 30 ? NULL : realloc(t->s, room);
        if (!s) {
            t->failed = true;
            return;
        }
        t->s = s, t->room = room;
    }
}

static void put_shape(text *t, const cake_manifest_tensor *x) {
    put(t, "[");
    for (uint32_t i = 0; i < x->rank; i++)
        put(t, "%s%llu", i ? "," : "", (unsigned long long)x->shape[i]);
    put(t, "]");
}

/* ---- sealing ---- */

/* Names go into JSON without escapes, into logs and onto terminals. */
static bool name_ok(const char *s) {
    size_t n = strlen(s);
    if (n == 0 || n > CAKE_MANIFEST_NAME_MAX || strcmp(s, "__metadata__") == 0) return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') ||
              (s[i] >= '0' && s[i] <= '9') || s[i] == '.' || s[i] == '_' || s[i] == '-'))
            return false;
    return true;
}

static cake_status check_tensors(cake_manifest *m, cake_error *err) {
    cake_names seen = {0};
    cake_status st = CAKE_OK;
    uint64_t sum = 0;
    if (m->n_tensors == 0 || m->n_tensors > CAKE_ST_TENSORS_MAX)
        return cake_fail(err, CAKE_EFORMAT, "manifest: %u tensors, outside 1..%d", m->n_tensors,
                         CAKE_ST_TENSORS_MAX);
    for (uint32_t i = 0; i < m->n_tensors && st == CAKE_OK; i++) {
        cake_manifest_tensor *t = &m->tensors[i];
        if (!name_ok(t->name))
            st = cake_fail(err, CAKE_EUNSUPPORTED,
                           "manifest: tensor %u has a name outside [A-Za-z0-9._-]{1,%d}", i,
                           CAKE_MANIFEST_NAME_MAX);
        else if (!cake_tensor_bytes(t->dtype, t->rank, t->shape, &t->n_bytes) ||
                 __builtin_add_overflow(sum, t->n_bytes, &sum) || sum > UINT64_C(1) << 62)
            st = cake_fail(err, CAKE_EFORMAT, "manifest: tensor '%s' has an impossible size",
                           t->name);
        else if (cake_names_add(&seen, t->name, strlen(t->name), i) != CAKE_NAMES_ADDED)
            st = cake_fail(err, CAKE_EFORMAT, "manifest: tensor '%s' is listed twice", t->name);
    }
    cake_names_deinit(&seen);
    return st;
}

/* The safetensors header that the tensor list implies, padded so that the data is aligned. */
static cake_status make_prefix(cake_manifest *m, cake_error *err) {
    text t = {0};
    bool packed = false;
    for (uint32_t i = 0; i < m->n_tensors; i++) packed |= m->tensors[i].dtype == CAKE_DTYPE_U32;
    put(&t, "%8s{\"__metadata__\":{\"format\":\"%s\"}", "", packed ? "mlx" : "pt");
    uint64_t at = 0;
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const cake_manifest_tensor *x = &m->tensors[i];
        put(&t, ",\"%s\":{\"dtype\":\"%s\",\"shape\":", x->name, cake_dtype_name(x->dtype));
        put_shape(&t, x);
        unsigned long long begin = at, end = at + x->n_bytes;
        put(&t, ",\"data_offsets\":[%llu,%llu]}", begin, end);
        at = end;
    }
    put(&t, "}");
    while (!t.failed && t.n % PREFIX_ALIGN) put(&t, " ");
    if (t.failed || t.n - 8 > CAKE_ST_HEADER_MAX) {
        free(t.s);
        return cake_fail(err, t.failed ? CAKE_ENOMEM : CAKE_EFORMAT,
                         "manifest: no room for the header of %u tensors", m->n_tensors);
    }
    uint64_t n = t.n - 8;
    for (int i = 0; i < 8; i++) t.s[i] = (char)(n >> 8 * i);
    m->prefix = (uint8_t *)t.s;
    m->prefix_len = t.n;
    m->size = t.n + at;
    at = t.n;
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        m->tensors[i].offset = at;
        at += m->tensors[i].n_bytes;
    }
    return CAKE_OK;
}

static cake_status make_json(cake_manifest *m, cake_error *err) {
    text t = {0};
    char hex[CAKE_SHA256_HEX];
    cake_sha256_hex(&m->config_sha256, hex);
    put(&t,
        "{\"cake_manifest\":%d,\"size\":%llu,\"config\":{\"bytes\":%llu,\"sha256\":\"%s\"},"
        "\"units\":[",
        VERSION, (unsigned long long)m->size, (unsigned long long)m->config_bytes, hex);
    for (uint32_t i = 0; i < m->n_units; i++)
        put(&t, "%s[%u,%u]", i ? "," : "", m->units[i].begin, m->units[i].end);
    put(&t, "],\"tensors\":[");
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const cake_manifest_tensor *x = &m->tensors[i];
        cake_sha256_hex(&x->sha256, hex);
        put(&t, "%s{\"name\":\"%s\",\"dtype\":\"%s\",\"shape\":", i ? "," : "", x->name,
            cake_dtype_name(x->dtype));
        put_shape(&t, x);
        put(&t, ",\"offset\":%llu,\"bytes\":%llu,\"sha256\":\"%s\"}", (unsigned long long)x->offset,
            (unsigned long long)x->n_bytes, hex);
    }
    put(&t, "]}");
    m->json = t.s;
    m->json_len = t.n;
    if (t.failed) return cake_fail(err, CAKE_ENOMEM, "manifest: no memory for its text");
    if (t.n > CAKE_MANIFEST_MAX)
        return cake_fail(err, CAKE_EFORMAT, "manifest: %zu bytes, more than the %d allowed", t.n,
                         CAKE_MANIFEST_MAX);
    m->id = cake_sha256_of(t.s, t.n);
    return CAKE_OK;
}

cake_status cake_manifest_seal(cake_manifest *m, cake_error *err) {
    if (m->n_units > CAKE_MANIFEST_UNITS_MAX ||
        !cake_unit_ranges_valid(m->units, m->n_units, CAKE_LAYERS_MAX + 2))
        return cake_fail(err, CAKE_EFORMAT, "manifest: the unit ranges are not ascending");
    if (m->config_bytes == 0 || m->config_bytes > CAKE_CONFIG_FILE_MAX)
        return cake_fail(err, CAKE_EFORMAT, "manifest: config.json of %llu bytes",
                         (unsigned long long)m->config_bytes);
    cake_status st = check_tensors(m, err);
    if (st == CAKE_OK) st = make_prefix(m, err);
    if (st == CAKE_OK) st = make_json(m, err);
    return st;
}

/* ---- parsing ---- */

static bool key(cake_scan *c, const char *name, char *scratch) {
    size_t len;
    if (!cake_scan_string(c, scratch, &len) || !cake_scan_take(c, ':')) return false;
    return strcmp(scratch, name) == 0 || cake_scan_fail(c, "a field is missing or out of order");
}

static bool number(cake_scan *c, const char *name, char *scratch, uint64_t *out) {
    return key(c, name, scratch) && cake_scan_u64(c, out);
}

static bool hash(cake_scan *c, char *scratch, cake_sha256 *out) {
    size_t len;
    if (!key(c, "sha256", scratch) || !cake_scan_string(c, scratch, &len)) return false;
    return cake_sha256_parse(scratch, out) || cake_scan_fail(c, "not a SHA-256 in hexadecimal");
}

static bool units(cake_scan *c, cake_manifest *m, char *scratch) {
    bool first = true;
    if (!key(c, "units", scratch) || !cake_scan_take(c, '[')) return false;
    while (cake_scan_next(c, ']', &first)) {
        uint64_t begin, end;
        if (!cake_scan_take(c, '[') || !cake_scan_u64(c, &begin) || !cake_scan_take(c, ',') ||
            !cake_scan_u64(c, &end) || !cake_scan_take(c, ']'))
            return false;
        if (m->n_units == CAKE_MANIFEST_UNITS_MAX || begin > CAKE_LAYERS_MAX ||
            end > CAKE_LAYERS_MAX + 2)
            return cake_scan_fail(c, "unit out of range");
        m->units[m->n_units++] = (cake_unit_range){(uint32_t)begin, (uint32_t)end};
    }
    return !c->error;
}

static bool tensor(cake_scan *c, cake_manifest_tensor *t, char *name, size_t *name_len,
                   char *scratch) {
    size_t len;
    uint64_t offset, n_bytes;
    bool first = true;
    if (!cake_scan_take(c, '{') || !key(c, "name", scratch) || !cake_scan_string(c, name, name_len))
        return false;
    t->name = name;
    if (!cake_scan_take(c, ',') || !key(c, "dtype", scratch) || !cake_scan_string(c, scratch, &len))
        return false;
    t->dtype = cake_dtype_parse(scratch, len);
    if (t->dtype == CAKE_DTYPE_NONE) return cake_scan_fail(c, "unknown dtype");
    if (!cake_scan_take(c, ',') || !key(c, "shape", scratch) || !cake_scan_take(c, '['))
        return false;
    while (cake_scan_next(c, ']', &first)) {
        if (t->rank == CAKE_RANK_MAX) return cake_scan_fail(c, "more than 8 dimensions");
        if (!cake_scan_u64(c, &t->shape[t->rank++])) return false;
    }
    /* Offset and length follow from the shapes; the comparison with the canonical text checks them.
     */
    return cake_scan_take(c, ',') && number(c, "offset", scratch, &offset) &&
           cake_scan_take(c, ',') && number(c, "bytes", scratch, &n_bytes) &&
           cake_scan_take(c, ',') && hash(c, scratch, &t->sha256) && cake_scan_take(c, '}');
}

static bool tensors(cake_scan *c, cake_manifest *m, char *scratch, bool *nomem) {
    bool first = true;
    size_t used = 0, room = 0, len;
    if (!key(c, "tensors", scratch) || !cake_scan_take(c, '[')) return false;
    while (cake_scan_next(c, ']', &first)) {
        if (m->n_tensors == CAKE_ST_TENSORS_MAX)
            return cake_scan_fail(c, "more than 1000000 tensors");
        if (m->n_tensors == room) {
            room = room ? 2 * room : 64;
            cake_manifest_tensor *more = realloc(m->tensors, room * sizeof *more);
            if (!more) {
                *nomem = true;
                return false;
            }
            m->tensors = more;
        }
        cake_manifest_tensor *t = &m->tensors[m->n_tensors++];
        *t = (cake_manifest_tensor){0};
        if (!tensor(c, t, m->names + used, &len, scratch)) return false;
        used += len + 1;
    }
    return !c->error;
}

cake_status cake_manifest_parse(cake_manifest **out, const char *json, size_t len,
                                cake_error *err) {
    if (len == 0 || len > CAKE_MANIFEST_MAX)
        return cake_fail(err, CAKE_EFORMAT, "manifest: %zu bytes, outside 1..%d", len,
                         CAKE_MANIFEST_MAX);
    cake_manifest *m = cake_calloc(1, sizeof *m);
    cake_scan c = cake_scan_of(json, len);
    uint64_t version = 0, size;
    bool nomem = false;
    char *scratch = cake_trymalloc(len + 1);
    m->names = cake_trymalloc(len + 1);
    m->units = cake_calloc(CAKE_MANIFEST_UNITS_MAX, sizeof *m->units);
    cake_status st = CAKE_OK;
    if (!scratch || !m->names) {
        st = cake_fail(err, CAKE_ENOMEM, "manifest: no memory for %zu bytes", len);
        goto out;
    }
    bool ok = cake_scan_take(&c, '{') && number(&c, "cake_manifest", scratch, &version);
    if (ok && version != VERSION) {
        st = cake_fail(err, CAKE_EUNSUPPORTED, "manifest: version %llu, this build knows %d",
                       (unsigned long long)version, VERSION);
        goto out;
    }
    ok = ok && cake_scan_take(&c, ',') && number(&c, "size", scratch, &size) &&
         cake_scan_take(&c, ',') && key(&c, "config", scratch) && cake_scan_take(&c, '{') &&
         number(&c, "bytes", scratch, &m->config_bytes) && cake_scan_take(&c, ',') &&
         hash(&c, scratch, &m->config_sha256) && cake_scan_take(&c, '}') &&
         cake_scan_take(&c, ',') && units(&c, m, scratch) && cake_scan_take(&c, ',') &&
         tensors(&c, m, scratch, &nomem) && cake_scan_take(&c, '}') && cake_scan_end(&c);
    if (nomem) {
        st = cake_fail(err, CAKE_ENOMEM, "manifest: no memory for its tensors");
    } else if (!ok) {
        st = cake_fail(err, CAKE_EFORMAT, "manifest: byte %zu: %s", c.at,
                       c.error ? c.error : "malformed");
    } else if ((st = cake_manifest_seal(m, err)) == CAKE_OK &&
               (m->json_len != len || memcmp(m->json, json, len) != 0)) {
        st = cake_fail(
            err, CAKE_EFORMAT,
            "manifest: not in canonical form, or sizes and offsets do not follow from the "
            "tensors");
    }
out:
    free(scratch);
    if (st != CAKE_OK)
        cake_manifest_free(m);
    else
        *out = m;
    return st;
}

void cake_manifest_free(cake_manifest *m) {
    if (!m) return;
    free(m->json);
    free(m->prefix);
    free(m->units);
    free(m->tensors);
    free(m->names);
    free(m);
}
