/* SentencePiece models (tokenizer.model, BPE type): the protobuf file and its translation into the
 * components that tokenizer.json would name for it.
 *
 * Wire format: protobuf; ModelProto { repeated SentencePiece pieces = 1; TrainerSpec = 2;
 * NormalizerSpec = 3 } as published with SentencePiece. The merge of two pieces ranks by the score
 * of the piece they make. */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *p;
    size_t n, i;
} reader;
typedef struct {
    uint32_t field, wire;
    uint64_t value;       /* varint or fixed32 */
    const uint8_t *bytes; /* length-delimited */
    size_t len;
} field;

static bool varint(reader *r, uint64_t *v) {
    *v = 0;
    for (unsigned shift = 0; shift < 64 && r->i < r->n; shift += 7) {
        uint8_t b = r->p[r->i++];
        *v |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) return true;
    }
    return false;
}

/* 1: *f is the next field; 0: the end; -1: not protobuf. */
static int next(reader *r, field *f) {
    uint64_t key, len;
    if (r->i == r->n) return 0;
    if (!varint(r, &key) || key >> 3 > UINT32_MAX) return -1;
    *f = (field){.field = (uint32_t)(key >> 3), .wire = (uint32_t)(key & 7)};
    switch (f->wire) {
    case 0: return varint(r, &f->value) ? 1 : -1;
    case 2:
        if (!varint(r, &len) || len > r->n - r->i) return -1;
        f->bytes = r->p + r->i, f->len = (size_t)len;
        r->i += (size_t)len;
        return 1;
    case 1:
    case 5:
        f->len = f->wire == 1 ? 8 : 4;
        if (f->len > r->n - r->i) return -1;
        for (size_t k = 0; k < f->len; k++) f->value |= (uint64_t)r->p[r->i + k] << 8 * k;
        r->i += f->len;
        return 1;
    default: return -1;
    }
}

static int by_score(const void *a, const void *b) {
    const tok_piece *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static cake_status broken(cake_error *err, const char *what) {
    return cake_fail(err, CAKE_EFORMAT, "%s", what);
}

static cake_status read_pieces(const uint8_t *p, size_t n, tok_piece **out, size_t *count,
                               cake_error *err) {
    reader r = {p, n, 0};
    field f, g;
    size_t cap = 0, k = 0;
    tok_piece *v = NULL;
    int rc, rc2;
    while ((rc = next(&r, &f)) == 1) {
        if (f.field != 1 || f.wire != 2) continue;
        if (k == cap) {
            cap = cap ? cap * 2 : 1024;
            tok_piece *w = cap > TOK_MAX_IDS * 2 ? NULL : realloc(v, cap * sizeof *w);
            if (!w) return free(v), cake_fail(err, CAKE_ENOMEM, "too many pieces");
            v = w;
        }
        reader q = {f.bytes, f.len, 0};
        v[k] = (tok_piece){.type = TOK_PIECE_NORMAL, .id = (uint32_t)k};
        while ((rc2 = next(&q, &g)) == 1) {
            uint32_t bits = (uint32_t)g.value;
            if (g.field == 1 && g.wire == 2) v[k].s = g.bytes, v[k].n = g.len;
            if (g.field == 2 && g.wire == 5) memcpy(&v[k].score, &bits, 4);
            if (g.field == 3 && g.wire == 0) v[k].type = bits;
        }
        if (rc2 < 0 || !v[k].n || tok_utf8_valid(v[k].s, v[k].n) != v[k].n ||
            v[k].score != v[k].score)
            return free(v), broken(err, "a piece is not well-formed");
        k++;
    }
    if (rc < 0) return free(v), broken(err, "not a SentencePiece model");
    *out = v, *count = k;
    return CAKE_OK;
}

typedef struct {
    uint64_t model_type, bos, eos, suffix, dummy_prefix, collapse, escape;
    size_t charsmap, surface_len;
    const uint8_t *surface; /* what an unknown piece decodes to */
} spec;

static cake_status read_specs(const uint8_t *p, size_t n, spec *o, cake_error *err) {
    reader r = {p, n, 0};
    field f, g;
    int rc = 0, rc2 = 0;
    while (rc2 >= 0 && (rc = next(&r, &f)) == 1) {
        if (f.wire != 2 || (f.field != 2 && f.field != 3)) continue;
        reader q = {f.bytes, f.len, 0};
        while ((rc2 = next(&q, &g)) == 1) {
            if (f.field == 2) {
                if (g.field == 3 && g.wire == 0) o->model_type = g.value;
                if (g.field == 24 && g.wire == 0) o->suffix = g.value;
                if (g.field == 44 && g.wire == 2) o->surface = g.bytes, o->surface_len = g.len;
                if (g.field == 41 && g.wire == 0) o->bos = g.value;
                if (g.field == 42 && g.wire == 0) o->eos = g.value;
            } else {
                if (g.field == 2 && g.wire == 2) o->charsmap = g.len;
                if (g.field == 3 && g.wire == 0) o->dummy_prefix = g.value;
                if (g.field == 4 && g.wire == 0) o->collapse = g.value;
                if (g.field == 5 && g.wire == 0) o->escape = g.value;
            }
        }
    }
    return rc < 0 || rc2 < 0 ? broken(err, "not a SentencePiece model") : CAKE_OK;
}

/* Each way of cutting a piece into two pieces is a merge; its rank is the order of the piece's
 * score (equal scores share a rank, so that the leftmost place wins as in SentencePiece). */
static cake_status add_pairs(cake_tokenizer *t, tok_piece *v, size_t n, cake_error *err) {
    const tok_vocab *vo = &t->vocab;
    size_t pairs = 0;
    cake_status st = CAKE_OK;
    for (int pass = 0; pass < 2 && st == CAKE_OK; pass++) {
        if (pass) st = tok_bpe_reserve(&t->bpe, pairs, err);
        uint32_t rank = 0;
        for (size_t i = 0; i < n && st == CAKE_OK; i++) {
            const char *s = (const char *)v[i].s;
            if (i && v[i].score != v[i - 1].score) rank++;
            if (v[i].type != TOK_PIECE_NORMAL) continue;
            if (v[i].n > 512) return broken(err, "a piece is longer than 512 bytes");
            for (size_t k = tok_utf8_len(v[i].s[0]); k < v[i].n; k += tok_utf8_len(v[i].s[k])) {
                uint32_t l = tok_vocab_find(vo, s, k), r = tok_vocab_find(vo, s + k, v[i].n - k);
                if (l == TOK_NONE || r == TOK_NONE || !(vo->v[l].kind & vo->v[r].kind & TOK_MODEL))
                    continue;
                if (pass)
                    tok_bpe_add_pair(&t->bpe, l, r, rank, v[i].id);
                else
                    pairs++;
            }
        }
    }
    return st;
}

/* The normalizer and decoder as tokenizer.json would have them. */
static cake_status components(cake_tokenizer *t, const tok_spm *o, cake_error *err) {
    static const char decoder[] =
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"\xE2\x96\x81\"},"
        "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}%s]}";
    static const char strip[] = ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}";
    if (o->collapse) t->norm[t->n_norm++].kind = TOK_N_COLLAPSE;
    if (o->dummy_prefix)
        t->norm[t->n_norm++] = (tok_norm){.kind = TOK_N_PREPEND, .a = cake_strdup(" "), .a_len = 1};
    if (o->escape)
        t->norm[t->n_norm++] = (tok_norm){.kind = TOK_N_REPLACE,
                                          .a = cake_strdup(" "),
                                          .a_len = 1,
                                          .b = cake_strdup("\xE2\x96\x81"),
                                          .b_len = 3};
    json_object *d = NULL;
    char *text = cake_asprintf(decoder, o->dummy_prefix ? strip : "");
    cake_status st = cake_json_parse(text, strlen(text), 8, "built-in", &d, err);
    if (st == CAKE_OK) st = tok_parse_decoder(t, d, err);
    json_object_put(d);
    free(text);
    return st;
}

cake_status tok_build_spm(cake_tokenizer *t, tok_piece *v, size_t count, const tok_spm *o,
                          cake_error *err) {
    cake_status st = CAKE_OK;
    t->bpe.fuse_unk = true;
    for (size_t i = 0; i < count && st == CAKE_OK; i++) {
        const char *s = (const char *)v[i].s;
        tok_added a = {.id = v[i].id};
        switch (v[i].type) {
        case TOK_PIECE_NORMAL:
        case TOK_PIECE_UNUSED:
            st = tok_vocab_add(&t->vocab, v[i].id, s, v[i].n,
                               v[i].type == TOK_PIECE_NORMAL ? TOK_MODEL : 0x80, err);
            break;
        case TOK_PIECE_BYTE:
            t->bpe.byte_fallback = true;
            st = tok_vocab_add(&t->vocab, v[i].id, s, v[i].n, TOK_MODEL, err);
            break;
        case TOK_PIECE_UNKNOWN: t->bpe.unk = v[i].id; /* fall through */
        case TOK_PIECE_CONTROL: st = tok_add_added(t, &a, s, v[i].n, true, err); break;
        case TOK_PIECE_USER_DEFINED:
            a.normalized = true; /* found in the text as the model sees it */
            st = tok_add_added(t, &a, s, v[i].n, false, err);
            break;
        default: st = broken(err, "a piece of unknown type");
        }
    }
    if (st == CAKE_OK) {
        qsort(v, count, sizeof *v, by_score);
        st = add_pairs(t, v, count, err);
    }
    if (st == CAKE_OK) st = components(t, o, err);
    return st == CAKE_OK ? tok_finish(t, err) : st;
}

cake_status tok_load_spm(cake_tokenizer *t, const uint8_t *p, size_t n, cake_error *err) {
    spec o = {.model_type = 1, .bos = 1, .eos = 2, .dummy_prefix = 1, .collapse = 1, .escape = 1};
    tok_piece *v = NULL;
    size_t count = 0;
    cake_status st = read_specs(p, n, &o, err);
    if (st == CAKE_OK && o.model_type != 2)
        st = cake_fail(err, CAKE_EUNSUPPORTED,
                       "type %u is not supported (only BPE, 2); or it is not a SentencePiece model",
                       (unsigned)o.model_type);
    if (st == CAKE_OK && (o.charsmap || o.suffix))
        st = cake_fail(err, CAKE_EUNSUPPORTED, "%s is not supported",
                       o.charsmap ? "a normalization table" : "treat_whitespace_as_suffix");
    if (st == CAKE_OK) st = read_pieces(p, n, &v, &count, err);
    if (st == CAKE_OK)
        st = tok_build_spm(t, v, count, &(tok_spm){o.dummy_prefix, o.collapse, o.escape}, err);
    free(v);
    if (st == CAKE_OK && t->bpe.unk != TOK_NONE) {
        static const uint8_t usual[] = " \xE2\x81\x87 ";
        tok_token *k = &t->vocab.v[t->bpe.unk];
        if (!o.surface) o.surface = usual, o.surface_len = sizeof usual - 1;
        if (tok_utf8_valid(o.surface, o.surface_len) != o.surface_len) {
            st = broken(err, "unk_surface is not UTF-8");
        } else {
            k->raw_off = (uint32_t)t->vocab.raw.n, k->raw_len = (uint32_t)o.surface_len;
            if (!tok_buf_add(&t->vocab.raw, o.surface, o.surface_len))
                st = cake_fail(err, CAKE_ENOMEM, "out of memory for token texts");
        }
    }
    if (st != CAKE_OK) return cake_fail_in(err, st, "tokenizer.model");
    if (o.bos < t->vocab.n) t->bos = (int64_t)o.bos;
    if (t->bos >= 0) t->before[0] = (uint32_t)t->bos, t->n_before = 1; /* the Llama default */
    if (o.eos < t->vocab.n) t->eos = (int64_t)o.eos;
    return CAKE_OK;
}
