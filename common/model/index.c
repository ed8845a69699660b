/* model.safetensors.index.json: see checkpoint.h. formats.md 1.5. */
#include "common/mem.h"
#include "common/model/checkpoint.h"
#include "common/model/scan.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    cake_index *ix;
    cake_scan c;
    cake_names names;
    size_t used, n_alloc;
    char *scratch;
    const char *what;
    cake_error *err;
    cake_status status;
} parse;

static bool weight_map(parse *p) {
    bool first = true;
    size_t len, file_len;
    if (!cake_scan_take(&p->c, '{')) return false;
    while (cake_scan_next(&p->c, '}', &first)) {
        cake_index *ix = p->ix;
        char *tensor = ix->strings + p->used;
        if (!cake_scan_string(&p->c, tensor, &len) || !cake_scan_take(&p->c, ':')) return false;
        char *file = tensor + len + 1;
        if (!cake_scan_string(&p->c, file, &file_len)) return false;
        p->used += len + file_len + 2;
        if (len > CAKE_TENSOR_NAME_MAX)
            return cake_scan_fail(&p->c, "tensor name longer than 4096 bytes");
        if (!cake_name_is_plain(file) || file_len < 13 ||
            strcmp(file + file_len - 12, ".safetensors") != 0) {
            p->status = cake_fail(
                p->err, CAKE_EFORMAT,
                "%s: tensor '%.200s' is said to be in '%.200s', which is not the plain name of a "
                ".safetensors file",
                p->what, tensor, file);
            return false;
        }
        if (ix->n_entries == CAKE_ST_TENSORS_MAX)
            return cake_scan_fail(&p->c, "more than 1000000 tensors");
        if (ix->n_entries == p->n_alloc) {
            size_t n = p->n_alloc ? 2 * p->n_alloc : 64;
            cake_index_entry *more = realloc(ix->entries, n * sizeof *more);
            if (!more) {
                p->status = cake_fail(p->err, CAKE_ENOMEM, "%s: out of memory", p->what);
                return false;
            }
            ix->entries = more;
            p->n_alloc = n;
        }
        switch (cake_names_add(&p->names, tensor, len, (uint32_t)ix->n_entries)) {
        case CAKE_NAMES_ADDED: break;
        case CAKE_NAMES_THERE:
            p->status = cake_fail(p->err, CAKE_EFORMAT, "%s: tensor '%.200s' is listed twice",
                                  p->what, tensor);
            return false;
        case CAKE_NAMES_NOMEM:
            p->status = cake_fail(p->err, CAKE_ENOMEM, "%s: out of memory", p->what);
            return false;
        }
        ix->entries[ix->n_entries++] = (cake_index_entry){tensor, file};
    }
    return !p->c.error;
}

static bool metadata(parse *p) {
    bool first = true;
    size_t len;
    if (cake_scan_null(&p->c)) return true;
    if (!cake_scan_take(&p->c, '{')) return false;
    while (cake_scan_next(&p->c, '}', &first)) {
        if (!cake_scan_string(&p->c, p->scratch, &len) || !cake_scan_take(&p->c, ':')) return false;
        if (strcmp(p->scratch, "total_size") == 0) {
            cake_scan ahead = p->c; /* older writers give a float: then it says nothing exact */
            if (cake_scan_u64(&ahead, &p->ix->total_size)) p->ix->has_total_size = true;
        }
        if (!cake_scan_skip(&p->c, 16, p->scratch)) return false;
    }
    return !p->c.error;
}

static bool document(parse *p) {
    bool first = true, seen_map = false;
    size_t len;
    if (!cake_scan_take(&p->c, '{')) return false;
    while (cake_scan_next(&p->c, '}', &first)) {
        if (!cake_scan_string(&p->c, p->scratch, &len) || !cake_scan_take(&p->c, ':')) return false;
        if (strcmp(p->scratch, "weight_map") == 0) {
            if (seen_map) return cake_scan_fail(&p->c, "weight_map given twice");
            seen_map = true;
            if (!weight_map(p)) return false;
        } else if (strcmp(p->scratch, "metadata") == 0) {
            if (!metadata(p)) return false;
        } else if (!cake_scan_skip(&p->c, 16, p->scratch)) {
            return false;
        }
    }
    if (!cake_scan_end(&p->c)) return false;
    return seen_map || cake_scan_fail(&p->c, "no weight_map");
}

cake_status cake_index_parse(cake_index *ix, const char *text, size_t len, const char *what,
                             cake_error *err) {
    *ix = (cake_index){0};
    parse p = {.ix = ix, .c = cake_scan_of(text, len), .what = what, .err = err, .status = CAKE_OK};
    ix->strings = cake_trymalloc(len + 1);
    p.scratch = cake_trymalloc(len + 1);
    if (!ix->strings || !p.scratch)
        p.status = cake_fail(err, CAKE_ENOMEM, "%s: out of memory", what);
    else if (!document(&p) && p.status == CAKE_OK)
        p.status = cake_fail(err, CAKE_EFORMAT, "%s: byte %zu: %s", what, p.c.at,
                             p.c.error ? p.c.error : "malformed");
    free(p.scratch);
    cake_names_deinit(&p.names);
    if (p.status != CAKE_OK) cake_index_deinit(ix);
    return p.status;
}

void cake_index_deinit(cake_index *ix) {
    free(ix->entries);
    free(ix->strings);
    *ix = (cake_index){0};
}
