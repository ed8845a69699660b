/* Weights by their MLX names: see source.h. */
#include "master/tools/source.h"
#include "common/file.h"
#include "common/mem.h"
#include "common/model/layout.h"
#include "kernels/vec.h"

#include <stdlib.h>
#include <string.h>

enum { EXPERTS_MAX = 1 << 16, NAME_BYTES = CAKE_TENSOR_NAME_MAX + 64 };

static bool ends(const char *s, const char *tail) {
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

/* ---- floats ---- */

void cake_floats_store(cake_dtype dtype, const float *x, size_t n, void *out) {
    cake_assert(cake_dtype_is_float(dtype));
    if (dtype == CAKE_DTYPE_F32)
        memcpy(out, x, n * sizeof *x);
    else if (dtype == CAKE_DTYPE_F16)
        cake_f32_to_f16(out, x, n);
    else
        cake_f32_to_bf16(out, x, n);
}

void cake_floats_load(cake_dtype dtype, const void *bytes, size_t n, float *out) {
    cake_assert(cake_dtype_is_float(dtype));
    if (dtype == CAKE_DTYPE_F32)
        memcpy(out, bytes, n * sizeof *out);
    else if (dtype == CAKE_DTYPE_F16)
        cake_f16_to_f32(out, bytes, n);
    else
        cake_bf16_to_f32(out, bytes, n);
}

static cake_ftype ftype(cake_dtype d) {
    return d == CAKE_DTYPE_F32 ? CAKE_F32 : d == CAKE_DTYPE_F16 ? CAKE_F16 : CAKE_BF16;
}

/* ---- what is stored ---- */

static void clear(cake_source_weight *w) {
    free(w->name);
    free(w->path);
    free(w->parts);
    *w = (cake_source_weight){0};
}

static cake_status unfit(const cake_checkpoint *ck, const cake_tensor *t, const char *why,
                         cake_error *err) {
    char shape[160];
    return cake_fail(
        err, CAKE_EFORMAT, "tensor '%.200s' (%s %s) in '%s' %s", t->name, cake_dtype_name(t->dtype),
        cake_shape_text(t->rank, t->shape, shape, sizeof shape), ck->files[t->file].path, why);
}

static int32_t sibling(const cake_checkpoint *ck, const char *path, const char *suffix) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%.*s%s", CAKE_TENSOR_NAME_MAX, path, suffix);
    return cake_checkpoint_find(ck, name);
}

/* Format and logical k of a quantized module from config.json and its tensors. */
static cake_status stored_format(const cake_checkpoint *ck, cake_source_weight *w,
                                 const cake_quant_params *p, cake_error *err) {
    cake_source_rows *r = w->parts;
    const cake_tensor *t = &ck->tensors[r->weight];
    const cake_tensor *s = r->scales >= 0 ? &ck->tensors[r->scales] : NULL;
    const cake_tensor *b = r->biases >= 0 ? &ck->tensors[r->biases] : NULL;
    if (p->mode == CAKE_QUANT_KQUANT) {
        const cake_block_info *info = cake_block_get(p->codec);
        const uint64_t bytes = t->shape[t->rank - 1];
        w->format = (cake_format){.kind = CAKE_FORMAT_BLOCK};
        w->dtype = CAKE_DTYPE_U8;
        if (!cake_codec_parse(info->name, &w->format.codec) || t->dtype != CAKE_DTYPE_U8 || b ||
            bytes % info->bytes || bytes > UINT64_MAX / info->weights)
            return unfit(ck, t, "is not made of the blocks that config.json says", err);
        w->k = bytes / info->bytes * info->weights;
        if (s) w->n_bytes += s->n_bytes; /* the byte that says nothing */
        return CAKE_OK;
    }
    if (t->dtype != CAKE_DTYPE_U32)
        return unfit(ck, t, "is not packed (U32), though config.json says that it is quantized",
                     err);
    uint64_t last = t->shape[t->rank - 1];
    if (last > UINT64_MAX / 32) return unfit(ck, t, "is too large", err);
    w->k = last * 32 / p->bits;
    if (last * 32 % p->bits || w->k % p->group_size)
        return unfit(ck, t, "does not divide into groups as config.json says", err);
    uint64_t groups = w->n_rows * (w->k / p->group_size);
    if (!s || s->n_bytes * 8 / cake_dtype_bits(s->dtype) != groups)
        return unfit(ck, t, "has scales of another size", err);
    w->n_bytes += s->n_bytes;
    if (p->mode != CAKE_QUANT_AFFINE) {
        cake_fp_mode m;
        if (!cake_fp_parse(cake_quant_mode_name(p->mode), &m))
            return unfit(ck, t, "is stored in a mode that is not known here", err);
        if (cake_dtype_bits(s->dtype) != 8) return unfit(ck, s, "should hold bytes", err);
        w->format = (cake_format){CAKE_FORMAT_FP, 0, p->bits, p->group_size, m};
        w->dtype = CAKE_DTYPE_U8;
        return CAKE_OK;
    }
    if (!cake_dtype_is_float(s->dtype)) return unfit(ck, s, "should hold F32, F16 or BF16", err);
    if (!b || b->dtype != s->dtype || b->n_bytes != s->n_bytes)
        return unfit(ck, t, "has no biases like its scales", err);
    w->n_bytes += b->n_bytes;
    w->format = (cake_format){.kind = CAKE_FORMAT_AFFINE, .bits = p->bits, .group = p->group_size};
    w->dtype = s->dtype;
    return CAKE_OK;
}

/* The tensor as a weight of one part. *skip: it is part of another. */
static cake_status stored(const cake_checkpoint *ck, const cake_quant *quant, uint32_t i,
                          cake_source_weight *w, bool *skip, cake_error *err) {
    const cake_tensor *t = &ck->tensors[i];
    char base[NAME_BYTES];
    size_t n = strlen(t->name);
    bool weight = ends(t->name, ".weight");
    snprintf(base, sizeof base, "%s", t->name);
    if (weight) base[n - strlen(".weight")] = 0;
    *skip = false;
    if (ends(t->name, ".scales") || ends(t->name, ".biases")) {
        base[n - strlen(".scales")] = 0;
        *skip = sibling(ck, base, ".weight") >= 0;
        if (*skip) return CAKE_OK;
        return unfit(ck, t, "belongs to no weight", err);
    }
    *w = (cake_source_weight){.name = cake_strdup(t->name),
                              .path = cake_strdup(base),
                              .dtype = t->dtype,
                              .rank = t->rank,
                              .n_bytes = t->n_bytes,
                              .n_parts = 1};
    memcpy(w->shape, t->shape, sizeof w->shape);
    w->parts = cake_calloc(1, sizeof *w->parts);
    w->k = t->rank ? t->shape[t->rank - 1] : 1;
    w->n_rows = 1;
    /* The product fits: the container's reader has checked the bytes. */
    for (uint32_t d = 0; d + 1 < t->rank; d++) w->n_rows *= t->shape[d];
    w->parts[0] = (cake_source_rows){(int32_t)i, -1, -1, 0, w->n_rows};
    if (w->n_rows == 0 || w->k == 0) return unfit(ck, t, "is empty", err);
    const char *last = strrchr(base, '.');
    w->matrix =
        weight && (t->rank == 2 || t->rank == 3) && !(last && strncmp(last, ".conv", 5) == 0);
    cake_quant_params p;
    cake_quant_rule rule = w->matrix ? cake_quant_lookup(quant, base, &p) : CAKE_QUANT_UNSAID;
    int32_t scales = weight ? sibling(ck, base, ".scales") : -1;
    if (scales >= 0 || rule == CAKE_QUANT_LISTED) {
        if (rule != CAKE_QUANT_LISTED && rule != CAKE_QUANT_GLOBAL)
            return unfit(ck, t, "has scales, but config.json does not say how it is quantized",
                         err);
        w->parts[0].scales = scales;
        w->parts[0].biases = sibling(ck, base, ".biases");
        cake_status st = stored_format(ck, w, &p, err);
        if (st != CAKE_OK) return st;
        w->shape[w->rank - 1] = w->k;
        return CAKE_OK;
    }
    if (!cake_dtype_is_float(t->dtype))
        return cake_fail(err, CAKE_EUNSUPPORTED,
                         "tensor '%.200s' in '%s' has dtype %s; weights are F32, F16 or BF16, or "
                         "quantized as config.json says",
                         t->name, ck->files[t->file].path, cake_dtype_name(t->dtype));
    return CAKE_OK;
}

/* ---- stacks ---- */

/* "P.mlp.experts.7.up_proj" -> "P.mlp.switch_mlp.up_proj", 7; Mixtral's w1, w2, w3 likewise. */
static bool expert_of(const char *path, char *target, uint32_t *e) {
    static const char *const head[] = {".mlp.experts.", ".block_sparse_moe.experts."};
    static const char *const to[] = {".mlp.switch_mlp.", ".block_sparse_moe.switch_mlp."};
    static const char *const leaf[2][3] = {{"gate_proj", "down_proj", "up_proj"},
                                           {"w1", "w2", "w3"}};
    for (size_t i = 0; i < 2; i++) {
        const char *p = strstr(path, head[i]);
        if (!p) continue;
        const char *number = p + strlen(head[i]);
        size_t digits = strspn(number, "0123456789");
        if (digits == 0 || digits > 6 || number[digits] != '.') return false;
        for (size_t j = 0; j < 3; j++)
            if (strcmp(number + digits + 1, leaf[i][j]) == 0) {
                snprintf(target, NAME_BYTES, "%.*s%s%s", (int)(p - path), path, to[i], leaf[0][j]);
                *e = (uint32_t)strtoul(number, NULL, 10);
                return true;
            }
    }
    return false;
}

static void rename_to(cake_source_weight *w, const char *path) {
    free(w->name);
    free(w->path);
    w->path = cake_strdup(path);
    w->name = cake_asprintf("%s.weight", path);
    w->matrix = true;
}

/* Hugging Face's newer form of a layer's experts: [E, 2F, H] with gate rows before up rows, without
 * ".weight". Splits w, whose rest is put to *other. False: it is not one. */
static bool split_fused(cake_source_weight *w, cake_source_weight *other) {
    static const char both[] = ".mlp.experts.gate_up_proj", down[] = ".mlp.experts.down_proj";
    char path[NAME_BYTES];
    if (w->rank != 3 || w->shape[0] > EXPERTS_MAX) return false;
    if (ends(w->path, down)) {
        snprintf(path, sizeof path, "%.*s.mlp.switch_mlp.down_proj",
                 (int)(strlen(w->path) - strlen(down)), w->path);
        rename_to(w, path);
        return false;
    }
    if (!ends(w->path, both) || w->shape[1] % 2) return false;
    const uint64_t half = w->shape[1] / 2;
    const int head = (int)(strlen(w->path) - strlen(both));
    const int32_t tensor = w->parts[0].weight;
    char *old = cake_strdup(w->path);
    free(w->parts);
    w->shape[1] = half;
    w->n_rows /= 2;
    w->n_bytes /= 2;
    w->n_parts = (uint32_t)w->shape[0];
    *other = *w;
    other->name = other->path = NULL;
    for (uint64_t i = 0; i < 2; i++) {
        cake_source_weight *x = i ? other : w;
        snprintf(path, sizeof path, "%.*s.mlp.switch_mlp.%s", head, old,
                 i ? "up_proj" : "gate_proj");
        rename_to(x, path);
        x->parts = cake_calloc(x->n_parts, sizeof *x->parts);
        for (uint64_t e = 0; e < x->n_parts; e++)
            x->parts[e] = (cake_source_rows){tensor, -1, -1, (2 * e + i) * half, half};
    }
    free(old);
    return true;
}

typedef struct {
    char *target;
    uint32_t expert, at; /* at: index of the stored weight */
} expert_ref;

static int by_target(const void *pa, const void *pb) {
    const expert_ref *a = pa, *b = pb;
    int c = strcmp(a->target, b->target);
    return c ? c : (a->expert > b->expert) - (a->expert < b->expert);
}

/* n references of one target, ascending: makes the first weight the stack of all. */
static cake_status join(cake_source_weight *w, const expert_ref *ref, uint32_t n, cake_error *err) {
    cake_source_weight *first = &w[ref[0].at];
    cake_source_rows *parts = cake_calloc(n, sizeof *parts);
    uint64_t bytes = 0;
    for (uint32_t e = 0; e < n; e++) {
        const cake_source_weight *x = &w[ref[e].at];
        if (ref[e].expert != e || x->rank != 2 || x->shape[0] != first->shape[0] ||
            x->shape[1] != first->shape[1] || x->dtype != first->dtype ||
            !cake_format_equal(&x->format, &first->format)) {
            free(parts);
            return cake_fail(err, CAKE_EFORMAT,
                             "the experts of '%.200s' do not make a stack: expert %u is missing, "
                             "twice there, or stored differently ('%.200s')",
                             ref[0].target, e, x->name);
        }
        parts[e] = x->parts[0];
        bytes += x->n_bytes;
    }
    rename_to(first, ref[0].target);
    free(first->parts);
    first->parts = parts;
    first->n_parts = n;
    first->n_bytes = bytes;
    first->rank = 3;
    first->shape[2] = first->shape[1];
    first->shape[1] = first->shape[0];
    first->shape[0] = n;
    first->n_rows *= n;
    for (uint32_t e = 1; e < n; e++) clear(&w[ref[e].at]);
    return CAKE_OK;
}

static cake_status join_experts(cake_source *all, cake_error *err) {
    expert_ref *ref = cake_calloc(all->n, sizeof *ref);
    uint32_t n = 0;
    cake_status st = CAKE_OK;
    for (uint32_t i = 0; i < all->n; i++) {
        char target[NAME_BYTES];
        uint32_t e;
        if (all->w[i].matrix && expert_of(all->w[i].path, target, &e))
            ref[n++] = (expert_ref){cake_strdup(target), e, i};
    }
    qsort(ref, n, sizeof *ref, by_target);
    for (uint32_t i = 0, j; i < n && st == CAKE_OK; i = j) {
        for (j = i; j < n && strcmp(ref[j].target, ref[i].target) == 0;) j++;
        st = join(all->w, ref + i, j - i, err);
    }
    for (uint32_t i = 0; i < n; i++) free(ref[i].target);
    free(ref);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < all->n; i++)
        if (all->w[i].name) all->w[kept++] = all->w[i];
    all->n = kept;
    return st;
}

/* ---- all of them ---- */

static uint32_t rank_of(const cake_source_weight *w) {
    int32_t layer = cake_layer_of(w->name);
    cake_part part = cake_part_of(w->path);
    if (part == CAKE_PART_LM_HEAD) return UINT32_MAX;
    if (layer >= 0) return 1 + (uint32_t)layer;
    return part == CAKE_PART_EMBEDDING ? 0 : UINT32_MAX - 1;
}

static int by_place(const void *pa, const void *pb) {
    const cake_source_weight *a = pa, *b = pb;
    uint32_t ra = rank_of(a), rb = rank_of(b);
    return ra != rb ? (ra > rb) - (ra < rb) : strcmp(a->name, b->name);
}

static bool is_head(const char *name) {
    const char *at = strstr(name, "lm_head.");
    return at && (at == name || at[-1] == '.');
}

cake_status cake_source_new(cake_source **out, const cake_checkpoint *ck, const cake_quant *quant,
                            bool tied, bool stack, cake_error *err) {
    cake_source *all = cake_calloc(1, sizeof *all);
    all->checkpoint = ck;
    /* A fused tensor becomes two. */
    all->w = cake_calloc(2 * (size_t)ck->n_tensors + 1, sizeof *all->w);
    cake_status st = CAKE_OK;
    for (uint32_t i = 0; i < ck->n_tensors && st == CAKE_OK; i++) {
        const char *name = ck->tensors[i].name;
        bool skip;
        if (stack && (cake_tensor_is_ignored(name) || (tied && is_head(name)))) {
            all->n_dropped++;
            continue;
        }
        cake_source_weight *w = &all->w[all->n];
        st = stored(ck, quant, i, w, &skip, err);
        if (!skip) all->n++;
        if (st == CAKE_OK && !skip && stack && w->format.kind == CAKE_FORMAT_FLOAT &&
            split_fused(w, w + 1))
            all->n++;
    }
    if (st == CAKE_OK && stack) st = join_experts(all, err);
    if (st == CAKE_OK) qsort(all->w, all->n, sizeof *all->w, by_place);
    for (uint32_t i = 0; i < all->n && st == CAKE_OK; i++) {
        const char *name = all->w[i].name;
        cake_names_result r = cake_names_add(&all->names, name, strlen(name), i);
        if (r == CAKE_NAMES_THERE)
            st = cake_fail(err, CAKE_EFORMAT,
                           "'%.200s' is there twice, as a stack and expert by expert", name);
        else if (r == CAKE_NAMES_NOMEM)
            st = cake_fail(err, CAKE_ENOMEM, "out of memory");
    }
    if (st != CAKE_OK)
        cake_source_free(all);
    else
        *out = all;
    return st;
}

void cake_source_free(cake_source *w) {
    if (!w) return;
    for (uint32_t i = 0; i < w->n; i++) clear(&w->w[i]);
    cake_names_deinit(&w->names);
    free(w->w);
    free(w);
}

void cake_source_take_one(cake_source *all) {
    for (uint32_t i = 0; i < all->n; i++)
        all->w[i].one_added = all->w[i].rank == 1 && ends(all->w[i].name, "norm.weight");
}

const cake_source_weight *cake_source_find(const cake_source *w, const char *name) {
    uint32_t i;
    return cake_names_find(&w->names, name, strlen(name), &i) ? &w->w[i] : NULL;
}

/* ---- reading ---- */

/* Stored bytes of one row in .weight and in .scales (and .biases). */
static void row_sizes(const cake_source_weight *w, size_t *weight, size_t *scales) {
    const size_t k = (size_t)w->k, element = cake_dtype_bits(w->dtype) / 8;
    *weight =
        w->format.kind == CAKE_FORMAT_FLOAT ? k * element : cake_format_row_bytes(&w->format, k);
    *scales = w->format.kind == CAKE_FORMAT_AFFINE ? k / w->format.group * element
              : w->format.kind == CAKE_FORMAT_FP   ? k / w->format.group
                                                   : 0;
}

enum { ALIGN = 16 };

size_t cake_source_scratch(const cake_source_weight *w, size_t n_rows) {
    size_t weight, scales;
    row_sizes(w, &weight, &scales);
    return n_rows * (weight + 2 * scales) + 4 * ALIGN;
}

static cake_status read_rows(const cake_checkpoint *ck, int32_t tensor, uint64_t row,
                             size_t row_bytes, size_t n_rows, void *out, cake_error *err) {
    const cake_tensor *t = &ck->tensors[tensor];
    cake_status st = cake_checkpoint_read(ck, t, row * row_bytes, out, n_rows * row_bytes, err);
    return st == CAKE_OK ? st : cake_fail_in(err, st, "tensor '%.200s'", t->name);
}

cake_status cake_source_read_raw(const cake_source *all, const cake_source_weight *w, uint32_t part,
                                 uint64_t row, size_t n_rows, void *out, cake_error *err) {
    const cake_source_rows *p = &w->parts[part];
    size_t weight, scales;
    row_sizes(w, &weight, &scales);
    return read_rows(all->checkpoint, p->weight, p->row + row, weight, n_rows, out, err);
}

cake_status cake_source_read(const cake_source *all, const cake_source_weight *w, uint32_t part,
                             uint64_t row, size_t n_rows, void *scratch, float *out,
                             cake_error *err) {
    const cake_source_rows *p = &w->parts[part];
    const size_t k = (size_t)w->k;
    size_t weight, scale;
    row_sizes(w, &weight, &scale);
    uint8_t *codes = (uint8_t *)cake_round_up((size_t)(uintptr_t)scratch, ALIGN);
    uint8_t *scales = codes + cake_round_up(n_rows * weight, ALIGN);
    uint8_t *biases = scales + cake_round_up(n_rows * scale, ALIGN);
    cake_status st =
        read_rows(all->checkpoint, p->weight, p->row + row, weight, n_rows, codes, err);
    if (st == CAKE_OK && scale)
        st = read_rows(all->checkpoint, p->scales, p->row + row, scale, n_rows, scales, err);
    if (st == CAKE_OK && w->format.kind == CAKE_FORMAT_AFFINE)
        st = read_rows(all->checkpoint, p->biases, p->row + row, scale, n_rows, biases, err);
    if (st != CAKE_OK) return st;
    if (w->format.kind == CAKE_FORMAT_FLOAT) {
        cake_floats_load(w->dtype, codes, n_rows * k, out);
        for (size_t i = 0; w->one_added && i < n_rows * k; i++) out[i] -= 1;
        return CAKE_OK;
    }
    for (size_t r = 0; r < n_rows; r++, codes += weight, scales += scale, biases += scale, out += k)
        switch (w->format.kind) {
        case CAKE_FORMAT_BLOCK: cake_codec_decode_row(w->format.codec, codes, out, k); break;
        case CAKE_FORMAT_AFFINE:
            cake_affine_decode(w->format.bits, w->format.group, ftype(w->dtype), codes, scales,
                               biases, out, k);
            break;
        default: cake_fp_decode(w->format.fp, codes, scales, out, k); break;
        }
    return CAKE_OK;
}
