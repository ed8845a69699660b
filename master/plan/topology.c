/* Topology files: libyaml's events into workers, then checks against the model. See topology.h.
 *
 * The events are walked by a small recursive reader that knows what may stand where, so there is no
 * document tree to blow up and every complaint has its line. */
#include "master/plan/topology.h"
#include "common/cli/human.h"
#include "common/file.h"
#include "common/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct {
    yaml_parser_t yaml;
    yaml_event_t ev; /* the current event */
    bool has_ev;
    int depth;
    const char *path;
    cake_topology *t;
    cake_error *err;
} reader;

#define FAIL(r, line, ...) fail_at((r)->err, (r)->path, line, __VA_ARGS__)

static cake_status fail_at(cake_error *err, const char *path, size_t line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static cake_status fail_at(cake_error *err, const char *path, size_t line, const char *fmt, ...) {
    char msg[CAKE_ERROR_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return cake_fail(err, CAKE_ECONFIG, "%s:%zu: %s", path, line, msg);
}

static size_t line_of(const reader *r) {
    return r->ev.start_mark.line + 1;
}

/* Advance to the next event. Refuses what a topology never needs. */
static cake_status next(reader *r) {
    if (r->has_ev) yaml_event_delete(&r->ev);
    r->has_ev = false;
    if (!yaml_parser_parse(&r->yaml, &r->ev)) {
        if (r->yaml.error == YAML_MEMORY_ERROR)
            return cake_fail(r->err, CAKE_ENOMEM, "no memory to read %s", r->path);
        size_t line = r->yaml.error == YAML_READER_ERROR ? 1 : r->yaml.problem_mark.line + 1;
        return FAIL(r, line, "this is not YAML: %s%s%s",
                    r->yaml.problem ? r->yaml.problem : "cannot be read",
                    r->yaml.context ? ", " : "", r->yaml.context ? r->yaml.context : "");
    }
    r->has_ev = true;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (r->ev.type) {
    case YAML_ALIAS_EVENT:
        return FAIL(r, line_of(r), "aliases (*name) are not allowed here; write the value out");
    case YAML_SCALAR_EVENT:
        anchor = r->ev.data.scalar.anchor, tag = r->ev.data.scalar.tag;
        if (r->ev.data.scalar.length > CAKE_TOPOLOGY_MAX_TEXT)
            return FAIL(r, line_of(r), "this value has %zu bytes; at most %d are allowed",
                        r->ev.data.scalar.length, CAKE_TOPOLOGY_MAX_TEXT);
        if (memchr(r->ev.data.scalar.value, 0, r->ev.data.scalar.length))
            return FAIL(r, line_of(r), "this value has a zero byte in it");
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = r->ev.data.mapping_start.anchor, tag = r->ev.data.mapping_start.tag;
        r->depth++;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = r->ev.data.sequence_start.anchor, tag = r->ev.data.sequence_start.tag;
        r->depth++;
        break;
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT: r->depth--; break;
    default: break;
    }
    if (anchor)
        return FAIL(r, line_of(r), "anchors (&name) are not allowed here; write the value out");
    if (tag) return FAIL(r, line_of(r), "tags (!name) are not allowed here; remove it");
    if (r->depth > CAKE_TOPOLOGY_MAX_DEPTH)
        return FAIL(r, line_of(r), "nested deeper than %d levels", CAKE_TOPOLOGY_MAX_DEPTH);
    return CAKE_OK;
}

static const char *scalar(const reader *r) {
    return r->ev.type == YAML_SCALAR_EVENT ? (const char *)r->ev.data.scalar.value : NULL;
}

/* Is the value written as nothing, or as YAML's null? Quoted, it would be a text. */
static bool is_null(const reader *r) {
    const char *s = scalar(r);
    return s && r->ev.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*s || strcmp(s, "~") == 0 || strcmp(s, "null") == 0);
}

/* ---- values ---- */

static cake_status take_name(reader *r, char **out) {
    const char *s = scalar(r);
    if (!s) return FAIL(r, line_of(r), "a worker's name must be a plain text");
    size_t n = strlen(s);
    if (n == 0 || n > CAKE_TOPOLOGY_MAX_NAME)
        return FAIL(r, line_of(r), "a worker's name has 1 to %d bytes, this one %zu",
                    CAKE_TOPOLOGY_MAX_NAME, n);
    for (const char *c = s; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return FAIL(r, line_of(r), "a worker's name has a control character in it; remove it");
    for (size_t i = 0; i < r->t->n_workers; i++)
        if (r->t->workers[i].name && strcmp(r->t->workers[i].name, s) == 0)
            return FAIL(r, line_of(r),
                        "worker '%s' is there already in line %u; give this one another name", s,
                        r->t->workers[i].line);
    *out = cake_strdup(s);
    return CAKE_OK;
}

/* "host:port", "host", "[v6]:port", "1.2.3.4:port". */
static cake_status take_host(reader *r, cake_topology_worker *w) {
    const char *s = scalar(r);
    if (!s || is_null(r))
        return FAIL(r, line_of(r), "host of '%s' must be \"address:port\"", w->name);
    const char *end = s + strlen(s), *host = s, *host_end = end, *port = NULL;
    if (*s == '[') {
        host = s + 1;
        host_end = strchr(s, ']');
        if (!host_end || (host_end[1] && host_end[1] != ':'))
            return FAIL(r, line_of(r), "host '%.100s' of '%s' is not \"[address]:port\"", s,
                        w->name);
        if (host_end[1]) port = host_end + 2;
    } else {
        const char *colon = strchr(s, ':');
        if (colon && strchr(colon + 1, ':'))
            return FAIL(
                r, line_of(r),
                "host '%.100s' of '%s': an IPv6 address goes in brackets, \"[address]:port\"", s,
                w->name);
        if (colon) host_end = colon, port = colon + 1;
    }
    size_t n = (size_t)(host_end - host);
    bool good = n > 0 && n <= 253;
    for (size_t i = 0; i < n && good; i++) {
        char c = host[i];
        good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '-' || c == '_' || (*s == '[' && (c == ':' || c == '%'));
    }
    if (!good)
        return FAIL(r, line_of(r),
                    "host '%.100s' of '%s' is not an address; write \"10.0.0.5:10128\"", s,
                    w->name);
    unsigned long number = 0;
    if (port) {
        size_t digits = strspn(port, "0123456789");
        number = strtoul(port, NULL, 10);
        if (digits == 0 || digits > 5 || port[digits] || number == 0 || number > 65535)
            return FAIL(r, line_of(r), "port '%.20s' of '%s' is not a number from 1 to 65535", port,
                        w->name);
    }
    w->host = cake_strndup(host, n);
    w->port = (uint16_t)number;
    return CAKE_OK;
}

/* A run of digits below CAKE_TOPOLOGY_MAX_LAYERS; NULL otherwise. */
static const char *layer_number(const char *s, uint32_t *out) {
    size_t n = strspn(s, "0123456789");
    if (n == 0 || n > 6) return NULL;
    unsigned long v = strtoul(s, NULL, 10);
    if (v >= CAKE_TOPOLOGY_MAX_LAYERS) return NULL;
    *out = (uint32_t)v;
    return s + n;
}

typedef struct {
    uint32_t begin, end;
    size_t line;
} range;

/* One entry of layers: a range of layers into *out, or a mark on the worker (out->end stays 0). */
static cake_status take_layers_entry(reader *r, cake_topology_worker *w, range *out) {
    static const char prefix[] = "model.layers.";
    const char *s = scalar(r);
    size_t line = line_of(r);
    *out = (range){0, 0, line};
    if (!s)
        return FAIL(r, line, "layers of '%s' must be texts such as \"model.layers.0-15\"", w->name);
    if (strcmp(s, "model.embed_tokens") == 0) {
        w->has_embedding = true;
        return CAKE_OK;
    }
    if (strcmp(s, "lm_head") == 0 || strcmp(s, "model.norm") == 0) {
        w->has_head = true;
        return CAKE_OK;
    }
    if (strncmp(s, prefix, sizeof prefix - 1) != 0)
        return FAIL(
            r, line,
            "'%.100s' of '%s' is not a layer: write \"model.layers.N\", \"model.layers.A-B\", "
            "\"model.embed_tokens\" or \"lm_head\"",
            s, w->name);
    uint32_t first = 0, last;
    const char *rest = layer_number(s + sizeof prefix - 1, &first);
    last = first;
    if (rest && *rest == '-') rest = layer_number(rest + 1, &last);
    if (!rest || *rest)
        return FAIL(
            r, line,
            "'%.100s' of '%s': after \"model.layers.\" comes a number or a range A-B, below %d", s,
            w->name, CAKE_TOPOLOGY_MAX_LAYERS);
    if (last < first)
        return FAIL(r, line, "'%.100s' of '%s' runs backwards; write \"model.layers.%u-%u\"", s,
                    w->name, last, first);
    out->begin = first, out->end = last + 1;
    return CAKE_OK;
}

static int by_begin(const void *a, const void *b) {
    const range *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* The ranges of one worker must make one run. */
static cake_status join_ranges(reader *r, cake_topology_worker *w, range *ranges, size_t n) {
    if (n == 0) return CAKE_OK;
    qsort(ranges, n, sizeof *ranges, by_begin);
    for (size_t i = 1; i < n; i++) {
        const range *a = &ranges[i - 1], *b = &ranges[i];
        size_t line = a->line > b->line ? a->line : b->line;
        if (b->begin < a->end)
            return FAIL(r, line, "layer %u is listed twice for '%s'; remove one", b->begin,
                        w->name);
        if (b->begin > a->end)
            return FAIL(r, line,
                        "'%s' has layers up to %u and again from %u: a worker holds one run of "
                        "layers; give "
                        "it neighbouring ones, or run a second worker there",
                        w->name, a->end - 1, b->begin);
    }
    w->has_layers = true;
    w->layer_begin = ranges[0].begin, w->layer_end = ranges[n - 1].end;
    return CAKE_OK;
}

static cake_status take_layers(reader *r, cake_topology_worker *w) {
    if (is_null(r)) return CAKE_OK;
    cake_status st = CAKE_OK;
    range *ranges = NULL;
    size_t n = 0, n_entries = 0, line = line_of(r);
    if (scalar(r)) { /* layers: "model.layers.0-15", without a list */
        range one;
        st = take_layers_entry(r, w, &one);
        return st == CAKE_OK && one.end ? join_ranges(r, w, &one, 1) : st;
    }
    if (r->ev.type != YAML_SEQUENCE_START_EVENT)
        return FAIL(r, line, "layers of '%s' must be a list: a '-' line for each range", w->name);
    while ((st = next(r)) == CAKE_OK && r->ev.type != YAML_SEQUENCE_END_EVENT) {
        if (++n_entries > CAKE_TOPOLOGY_MAX_RANGES) {
            st = FAIL(r, line_of(r), "'%s' has more than %d entries in layers; use ranges", w->name,
                      CAKE_TOPOLOGY_MAX_RANGES);
            break;
        }
        range one;
        if ((st = take_layers_entry(r, w, &one)) != CAKE_OK) break;
        if (!one.end) continue;
        ranges = cake_realloc(ranges, (n + 1) * sizeof *ranges);
        ranges[n++] = one;
    }
    if (st == CAKE_OK) st = join_ranges(r, w, ranges, n);
    free(ranges);
    return st;
}

static cake_status take_description(reader *r, cake_topology_worker *w) {
    const char *s = scalar(r);
    if (!s) return FAIL(r, line_of(r), "description of '%s' must be a text", w->name);
    if (!is_null(r)) {
        free(w->description);
        w->description = cake_strdup(s);
    }
    return CAKE_OK;
}

static cake_status take_threads(reader *r, cake_topology_worker *w) {
    const char *s = scalar(r);
    size_t n = s ? strspn(s, "0123456789") : 0;
    unsigned long v = n && n < 6 ? strtoul(s, NULL, 10) : 0;
    if (n == 0 || s[n] || v < 1 || v > 1024)
        return FAIL(r, line_of(r), "threads of '%s' must be a number from 1 to 1024", w->name);
    w->threads = (uint32_t)v;
    return CAKE_OK;
}

static cake_status take_memory(reader *r, cake_topology_worker *w) {
    const char *s = scalar(r);
    if (!s || !cake_human_parse_bytes(s, &w->memory_bytes) || w->memory_bytes == 0)
        return FAIL(r, line_of(r), "memory of '%s' must be an amount such as 6GiB or 512M",
                    w->name);
    return CAKE_OK;
}

static cake_status take_worker(reader *r, cake_topology_worker *w) {
    static const struct {
        const char *key;
        cake_status (*take)(reader *, cake_topology_worker *);
    } keys[] = {{"host", take_host},
                {"description", take_description},
                {"layers", take_layers},
                {"threads", take_threads},
                {"memory", take_memory}};
    enum { N_KEYS = sizeof keys / sizeof *keys };
    if (r->ev.type != YAML_MAPPING_START_EVENT)
        return FAIL(r, line_of(r),
                    "'%s' must be followed by host: \"address:port\" on an indented line", w->name);
    unsigned seen = 0;
    for (;;) {
        cake_status st = next(r);
        if (st != CAKE_OK) return st;
        if (r->ev.type == YAML_MAPPING_END_EVENT) break;
        const char *key = scalar(r);
        unsigned k = 0;
        while (key && k < N_KEYS && strcmp(key, keys[k].key) != 0) k++;
        if (!key || k == N_KEYS)
            return FAIL(r, line_of(r),
                        "unknown key '%.64s' of '%s'; the keys are host, description, layers, "
                        "threads and memory",
                        key ? key : "(not a text)", w->name);
        if (seen >> k & 1)
            return FAIL(r, line_of(r), "'%s' of '%s' is given twice; remove one", key, w->name);
        seen |= 1u << k;
        if ((st = next(r)) != CAKE_OK) return st;
        if ((st = keys[k].take(r, w)) != CAKE_OK) return st;
    }
    if (!w->host) return FAIL(r, w->line, "'%s' has no host; add host: \"address:port\"", w->name);
    return CAKE_OK;
}

static cake_status take_document(reader *r) {
    cake_topology *t = r->t;
    if (r->ev.type != YAML_MAPPING_START_EVENT)
        return FAIL(r, line_of(r),
                    "a topology is a mapping of worker names, each with its host below: write "
                    "\"desktop:\" and on the next line, indented, \"host: 10.0.0.5:10128\"");
    for (;;) {
        cake_status st = next(r);
        if (st != CAKE_OK) return st;
        if (r->ev.type == YAML_MAPPING_END_EVENT) return CAKE_OK;
        if (t->n_workers == CAKE_TOPOLOGY_MAX_WORKERS)
            return FAIL(r, line_of(r), "more than %d workers", CAKE_TOPOLOGY_MAX_WORKERS);
        t->workers = cake_realloc(t->workers, (t->n_workers + 1) * sizeof *t->workers);
        cake_topology_worker *w = &t->workers[t->n_workers++];
        *w = (cake_topology_worker){.line = (uint32_t)line_of(r), .description = cake_strdup("")};
        if ((st = take_name(r, &w->name)) != CAKE_OK) return st;
        if ((st = next(r)) != CAKE_OK) return st;
        if ((st = take_worker(r, w)) != CAKE_OK) return st;
    }
}

static cake_status take_stream(reader *r) {
    cake_status st;
    do { /* STREAM-START, DOCUMENT-START */
        if ((st = next(r)) != CAKE_OK) return st;
    } while (r->ev.type == YAML_STREAM_START_EVENT || r->ev.type == YAML_DOCUMENT_START_EVENT);
    if (r->ev.type == YAML_STREAM_END_EVENT) return FAIL(r, 1, "the file names no worker");
    if ((st = take_document(r)) != CAKE_OK) return st;
    do {
        if ((st = next(r)) != CAKE_OK) return st;
    } while (r->ev.type == YAML_DOCUMENT_END_EVENT);
    if (r->ev.type != YAML_STREAM_END_EVENT)
        return FAIL(r, line_of(r), "a second document begins here; a topology is one");
    if (r->t->n_workers == 0) return FAIL(r, 1, "the file names no worker");
    return CAKE_OK;
}

/* Two workers at one address would be one worker asked twice. */
static cake_status check_addresses(const reader *r) {
    const cake_topology *t = r->t;
    for (size_t i = 0; i < t->n_workers; i++)
        for (size_t k = 0; k < i; k++)
            if (t->workers[i].port == t->workers[k].port &&
                strcmp(t->workers[i].host, t->workers[k].host) == 0)
                return FAIL(r, t->workers[i].line,
                            "'%s' and '%s' have the same host; give one another port",
                            t->workers[k].name, t->workers[i].name);
    return CAKE_OK;
}

cake_status cake_topology_parse(cake_topology *t, const char *text, size_t len, const char *what,
                                cake_error *err) {
    *t = (cake_topology){.path = cake_strdup(what)};
    if (len > CAKE_TOPOLOGY_MAX_BYTES) {
        cake_topology_deinit(t);
        return cake_fail(err, CAKE_ECONFIG, "%s has %zu bytes; a topology has at most %d", what,
                         len, CAKE_TOPOLOGY_MAX_BYTES);
    }
    reader r = {.path = t->path, .t = t, .err = err};
    if (!yaml_parser_initialize(&r.yaml)) {
        cake_topology_deinit(t);
        return cake_fail(err, CAKE_ENOMEM, "no memory to read %s", what);
    }
    yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text, len);
    cake_status st = take_stream(&r);
    if (st == CAKE_OK) st = check_addresses(&r);
    if (r.has_ev) yaml_event_delete(&r.ev);
    yaml_parser_delete(&r.yaml);
    if (st != CAKE_OK) cake_topology_deinit(t);
    return st;
}

cake_status cake_topology_read(cake_topology *t, const char *path, cake_error *err) {
    char *text;
    size_t len;
    *t = (cake_topology){0};
    cake_status st = cake_file_read(path, CAKE_TOPOLOGY_MAX_BYTES, &text, &len, err);
    if (st == CAKE_ENOSPACE)
        return cake_fail(err, CAKE_ECONFIG, "%s has more than the %d bytes of a topology", path,
                         CAKE_TOPOLOGY_MAX_BYTES);
    if (st != CAKE_OK) return cake_fail_in(err, st, "the topology file");
    st = cake_topology_parse(t, text, len, path, err);
    free(text);
    return st;
}

void cake_topology_deinit(cake_topology *t) {
    for (size_t i = 0; i < t->n_workers; i++) {
        free(t->workers[i].name);
        free(t->workers[i].host);
        free(t->workers[i].description);
    }
    free(t->workers);
    free(t->path);
    *t = (cake_topology){0};
}

/* ---- against the model ---- */

static cake_status check_ends(const cake_topology *t, uint32_t n_layers, cake_error *err) {
    const cake_topology_worker *embedding = NULL, *head = NULL;
    for (size_t i = 0; i < t->n_workers; i++) {
        const cake_topology_worker *w = &t->workers[i];
        if (w->has_embedding && embedding)
            return fail_at(err, t->path, w->line,
                           "the embedding is given to both '%s' and '%s'; remove one",
                           embedding->name, w->name);
        if (w->has_head && head)
            return fail_at(err, t->path, w->line,
                           "the head is given to both '%s' and '%s'; remove one", head->name,
                           w->name);
        if (w->has_embedding) embedding = w;
        if (w->has_head) head = w;
    }
    for (size_t i = 0; i < t->n_workers; i++) {
        const cake_topology_worker *w = &t->workers[i];
        if (w->has_embedding && w->has_layers && w->layer_begin != 0)
            return fail_at(
                err, t->path, w->line,
                "'%s' has the embedding but begins with layer %u; the embedding goes with layer 0",
                w->name, w->layer_begin);
        if (w->has_head && w->has_layers && w->layer_end != n_layers)
            return fail_at(
                err, t->path, w->line,
                "'%s' has the head but ends with layer %u; the head goes with the last layer, %u",
                w->name, w->layer_end - 1, n_layers - 1);
    }
    return CAKE_OK;
}

cake_status cake_topology_check(const cake_topology *t, uint32_t n_layers, cake_error *err) {
    cake_assert(n_layers > 0);
    const cake_topology_worker **order = cake_malloc(t->n_workers * sizeof *order);
    size_t n = 0;
    cake_status st = CAKE_OK;
    bool has_free = false;
    for (size_t i = 0; i < t->n_workers && st == CAKE_OK; i++) {
        const cake_topology_worker *w = &t->workers[i];
        if (!w->has_layers) {
            has_free = true;
            continue;
        }
        if (w->layer_end > n_layers)
            st = fail_at(
                err, t->path, w->line,
                "'%s' is given layer %u, but the model has layers 0 to %u; correct its range",
                w->name, w->layer_end - 1, n_layers - 1);
        size_t at = n++;
        for (; at > 0 && order[at - 1]->layer_begin > w->layer_begin; at--)
            order[at] = order[at - 1];
        order[at] = w;
    }
    for (size_t i = 1; i < n && st == CAKE_OK; i++) {
        const cake_topology_worker *a = order[i - 1], *b = order[i];
        if (b->layer_begin < a->layer_end)
            st = fail_at(err, t->path, a->line > b->line ? a->line : b->line,
                         "'%s' and '%s' both have layer %u; remove it from one", a->name, b->name,
                         b->layer_begin);
        else if (b->layer_begin > a->layer_end && !has_free) {
            char gap[48];
            if (b->layer_begin == a->layer_end + 1)
                snprintf(gap, sizeof gap, "layer %u is", a->layer_end);
            else
                snprintf(gap, sizeof gap, "layers %u-%u are", a->layer_end, b->layer_begin - 1);
            st = fail_at(
                err, t->path, b->line,
                "%s missing between '%s' and '%s'; add them to one of these, or name a worker "
                "without layers to take them",
                gap, a->name, b->name);
        }
    }
    free(order);
    return st == CAKE_OK ? check_ends(t, n_layers, err) : st;
}
