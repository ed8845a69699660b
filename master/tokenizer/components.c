/* The components of tokenizer.json: normalizer, pre-tokenizer, post-processor, decoder. Sequences
 * are flattened; what this build does not know is refused by name. */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

static bool is(const char *a, const char *b) {
    return strcmp(a, b) == 0;
}

static cake_status unknown(cake_error *err, const char *kind, const char *type) {
    return cake_fail(err, CAKE_EUNSUPPORTED, "tokenizer.json: %s \"%.80s\" is not supported", kind,
                     type);
}

static cake_status too_many(cake_error *err, const char *kind) {
    return cake_fail(err, CAKE_EUNSUPPORTED, "tokenizer.json: more than %d steps of %s",
                     TOK_MAX_STAGES, kind);
}

/* Call fn for o, or for each member of a Sequence (of Sequences). list names the member array. */
typedef cake_status component_fn(cake_tokenizer *t, json_object *o, const char *type,
                                 cake_error *err);
static cake_status each(cake_tokenizer *t, json_object *o, const char *what, const char *list,
                        int depth, component_fn *fn, cake_error *err) {
    const char *type = NULL;
    if (!o) return CAKE_OK;
    if (!json_object_is_type(o, json_type_object))
        return cake_fail(err, CAKE_EFORMAT, "tokenizer.json: %s is not an object", what);
    cake_status st = cake_json_string(o, "type", true, 200, &type, err);
    if (st != CAKE_OK) return cake_fail_in(err, st, "tokenizer.json: %s", what);
    if (!is(type, "Sequence")) {
        st = fn(t, o, type, err);
        return st == CAKE_OK ? st : cake_fail_in(err, st, "%s %.80s", what, type);
    }
    json_object *a = NULL;
    if (depth > 8)
        return cake_fail(err, CAKE_EFORMAT, "tokenizer.json: %s: nested too deeply", what);
    st = cake_json_array(o, list, true, 1000, &a, err);
    for (size_t i = 0; st == CAKE_OK && i < json_object_array_length(a); i++)
        st = each(t, json_object_array_get_idx(a, i), what, list, depth + 1, fn, err);
    return st;
}

/* A string member with its length (it may hold NUL), copied. */
static cake_status text(json_object *o, const char *key, char **out, size_t *len, cake_error *err) {
    json_object *v = NULL;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
        return cake_fail(err, CAKE_EFORMAT, "\"%s\" must be a string", key);
    size_t n = (size_t)json_object_get_string_len(v);
    if (n > TOK_MAX_PATTERN) return cake_fail(err, CAKE_EFORMAT, "\"%s\" is too long", key);
    char *p = cake_malloc(n + 1);
    memcpy(p, json_object_get_string(v), n);
    p[n] = 0;
    *out = p, *len = n;
    return CAKE_OK;
}

/* {"String": "..."} or {"Regex": "..."} (or a bare string). *regex says which. */
static cake_status pattern(json_object *o, bool *regex, char **s, size_t *len, cake_error *err) {
    json_object *p = NULL;
    if (!json_object_object_get_ex(o, "pattern", &p))
        return cake_fail(err, CAKE_EFORMAT, "\"pattern\" is missing");
    *regex = false;
    if (json_object_is_type(p, json_type_string)) return text(o, "pattern", s, len, err);
    if (!json_object_is_type(p, json_type_object))
        return cake_fail(err, CAKE_EFORMAT, "\"pattern\" must be an object");
    *regex = cake_json_has(p, "Regex");
    return text(p, *regex ? "Regex" : "String", s, len, err);
}

/* ---- normalizer ---- */
static cake_status add_normalizer(cake_tokenizer *t, json_object *o, const char *type,
                                  cake_error *err) {
    static const struct {
        const char *name;
        tok_norm_kind kind;
    } plain[] = {{"NFC", TOK_N_NFC},
                 {"NFD", TOK_N_NFD},
                 {"NFKC", TOK_N_NFKC},
                 {"NFKD", TOK_N_NFKD},
                 {"Lowercase", TOK_N_LOWER}};
    if (t->n_norm == TOK_MAX_STAGES) return too_many(err, "the normalizer");
    tok_norm *m = &t->norm[t->n_norm];
    cake_status st = CAKE_OK;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (!is(type, plain[i].name)) continue;
        m->kind = plain[i].kind;
        t->n_norm++;
        return CAKE_OK;
    }
    if (is(type, "Prepend")) {
        m->kind = TOK_N_PREPEND;
        st = text(o, "prepend", &m->a, &m->a_len, err);
    } else if (is(type, "Append")) {
        m->kind = TOK_N_APPEND;
        st = text(o, "append", &m->a, &m->a_len, err);
    } else if (is(type, "Strip")) {
        m->kind = TOK_N_STRIP;
        m->left = m->right = true;
        st = cake_json_bool(o, "strip_left", false, &m->left, err);
        if (st == CAKE_OK) st = cake_json_bool(o, "strip_right", false, &m->right, err);
    } else if (is(type, "Replace")) {
        bool regex;
        t->n_norm++; /* counted now so that what it owns is freed */
        st = pattern(o, &regex, &m->a, &m->a_len, err);
        m->kind = st == CAKE_OK && regex ? TOK_N_REPLACE_RE : TOK_N_REPLACE;
        if (st == CAKE_OK && !m->a_len) st = cake_fail(err, CAKE_EUNSUPPORTED, "an empty pattern");
        if (st == CAKE_OK) st = text(o, "content", &m->b, &m->b_len, err);
        if (st == CAKE_OK && regex) st = tok_regex_new(&m->re, m->a, m->a_len, err);
        return st;
    } else {
        return unknown(err, "normalizer", type);
    }
    t->n_norm++;
    return st;
}

cake_status tok_parse_normalizer(cake_tokenizer *t, json_object *o, cake_error *err) {
    return each(t, o, "normalizer", "normalizers", 0, add_normalizer, err);
}

/* ---- pre-tokenizer ---- */
static cake_status behavior(json_object *o, bool required, tok_behavior *out, cake_error *err) {
    static const char *const names[] = {"isolated", "removed", "contiguous", "mergedwithprevious",
                                        "mergedwithnext"};
    const char *s = NULL;
    cake_status st = cake_json_string(o, "behavior", required, 40, &s, err);
    if (st != CAKE_OK || !s) return st;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(s, names[i]) == 0) return *out = (tok_behavior)i, CAKE_OK;
    return cake_fail(err, CAKE_EUNSUPPORTED, "behavior \"%s\" is not known", s);
}

static cake_status pre_slot(cake_tokenizer *t, tok_pre **p, tok_pre_kind kind, cake_error *err) {
    if (t->n_pre == TOK_MAX_STAGES) return too_many(err, "the pre-tokenizer");
    *p = &t->pre[t->n_pre++];
    **p = (tok_pre){.kind = kind, .behavior = TOK_B_ISOLATED};
    return CAKE_OK;
}

/* A pattern that takes every character, cut by hand where it is a known one. */
static cake_status use_pattern(tok_pre *p, const char *s, size_t len, cake_error *err) {
    bool all = (p->behavior == TOK_B_ISOLATED && !p->invert) ||
               (p->behavior == TOK_B_REMOVED && p->invert);
    p->scan = all ? tok_scan_for(s, len) : NULL;
    p->kind = p->scan ? TOK_P_SCAN : TOK_P_SPLIT_RE;
    return p->scan ? CAKE_OK : tok_regex_new(&p->re, s, len, err);
}

static cake_status add_byte_level(cake_tokenizer *t, json_object *o, cake_error *err) {
    bool prefix = true, regex = true;
    tok_pre *p = NULL;
    cake_status st = cake_json_bool(o, "add_prefix_space", false, &prefix, err);
    if (st == CAKE_OK) st = cake_json_bool(o, "use_regex", false, &regex, err);
    if (st == CAKE_OK && t->bpe.byte_level)
        st = cake_fail(err, CAKE_EUNSUPPORTED, "two ByteLevel steps are not supported");
    if (st == CAKE_OK && prefix) st = pre_slot(t, &p, TOK_P_PREFIX_SPACE, err);
    if (st == CAKE_OK && regex && (st = pre_slot(t, &p, TOK_P_SCAN, err)) == CAKE_OK)
        st = use_pattern(p, tok_pattern_gpt2, strlen(tok_pattern_gpt2), err);
    t->bpe.byte_level = true;
    return st;
}

static cake_status add_pre(cake_tokenizer *t, json_object *o, const char *type, cake_error *err) {
    tok_pre *p = NULL;
    cake_status st;
    if (is(type, "ByteLevel")) return add_byte_level(t, o, err);
    if (t->bpe.byte_level && !t->byte_mapped) {
        /* What follows ByteLevel sees the byte alphabet, not the text. */
        if ((st = pre_slot(t, &p, TOK_P_BYTE_MAP, err)) != CAKE_OK) return st;
        t->byte_mapped = true;
    }
    if (is(type, "Split")) {
        bool regex;
        char *s = NULL;
        size_t len = 0;
        if ((st = pre_slot(t, &p, TOK_P_SPLIT_STR, err)) != CAKE_OK) return st;
        st = behavior(o, true, &p->behavior, err);
        if (st == CAKE_OK) st = cake_json_bool(o, "invert", false, &p->invert, err);
        if (st == CAKE_OK) st = pattern(o, &regex, &s, &len, err);
        if (st == CAKE_OK && regex) st = use_pattern(p, s, len, err);
        if (st == CAKE_OK && !regex) p->str = s, p->str_len = len, s = NULL;
        free(s);
        return st;
    }
    if (is(type, "Digits")) {
        bool individual = false;
        if ((st = cake_json_bool(o, "individual_digits", false, &individual, err)) != CAKE_OK ||
            (st = pre_slot(t, &p, TOK_P_DIGITS, err)) != CAKE_OK)
            return st;
        p->behavior = individual ? TOK_B_ISOLATED : TOK_B_CONTIGUOUS;
        return CAKE_OK;
    }
    if (is(type, "Punctuation"))
        return (st = pre_slot(t, &p, TOK_P_PUNCT, err)) == CAKE_OK
                   ? behavior(o, false, &p->behavior, err)
                   : st;
    if (is(type, "Whitespace")) return pre_slot(t, &p, TOK_P_WHITESPACE, err);
    if (is(type, "WhitespaceSplit")) {
        if ((st = pre_slot(t, &p, TOK_P_WHITESPACE_SPLIT, err)) != CAKE_OK) return st;
        p->behavior = TOK_B_REMOVED;
        return CAKE_OK;
    }
    if (is(type, "Metaspace")) {
        const char *scheme = NULL;
        bool old_prefix = true;
        if (t->byte_mapped) return cake_fail(err, CAKE_EUNSUPPORTED, "Metaspace after ByteLevel");
        if ((st = pre_slot(t, &p, TOK_P_METASPACE, err)) != CAKE_OK) return st;
        p->behavior = TOK_B_NEXT;
        p->split = true;
        st = text(o, "replacement", &p->str, &p->str_len, err);
        if (st == CAKE_OK && (!p->str_len || tok_utf8_len((uint8_t)p->str[0]) != p->str_len))
            st = cake_fail(err, CAKE_EFORMAT, "\"replacement\" must be one character");
        if (st == CAKE_OK) st = cake_json_bool(o, "split", false, &p->split, err);
        if (st == CAKE_OK) st = cake_json_bool(o, "add_prefix_space", false, &old_prefix, err);
        if (st == CAKE_OK) st = cake_json_string(o, "prepend_scheme", false, 20, &scheme, err);
        if (st != CAKE_OK) return st;
        if (!scheme) scheme = old_prefix ? "always" : "never";
        if (is(scheme, "always"))
            p->scheme = TOK_META_ALWAYS;
        else if (is(scheme, "first"))
            p->scheme = TOK_META_FIRST;
        else if (is(scheme, "never"))
            p->scheme = TOK_META_NEVER;
        else
            return cake_fail(err, CAKE_EUNSUPPORTED, "prepend_scheme \"%s\" is not known", scheme);
        return CAKE_OK;
    }
    return unknown(err, "pre_tokenizer", type);
}

cake_status tok_parse_pre(cake_tokenizer *t, json_object *o, cake_error *err) {
    return each(t, o, "pre_tokenizer", "pretokenizers", 0, add_pre, err);
}

/* ---- post-processor ---- */
static cake_status template_ids(cake_tokenizer *t, json_object *special, const char *name,
                                uint32_t *v, size_t *n, cake_error *err) {
    json_object *e = NULL, *ids = NULL;
    cake_status st = CAKE_OK;
    if (!special || !json_object_object_get_ex(special, name, &e) ||
        !json_object_is_type(e, json_type_object))
        return cake_fail(err, CAKE_EFORMAT, "special token \"%.80s\" is not described", name);
    if ((st = cake_json_array(e, "ids", true, TOK_MAX_SPECIAL, &ids, err)) != CAKE_OK) return st;
    for (size_t i = 0; i < json_object_array_length(ids); i++) {
        json_object *x = json_object_array_get_idx(ids, i);
        int64_t id = json_object_is_type(x, json_type_int) ? json_object_get_int64(x) : -1;
        if (id < 0 || id >= t->vocab.n || !t->vocab.v[id].kind)
            return cake_fail(err, CAKE_EFORMAT,
                             "special token \"%.80s\" names an id that is no token", name);
        if (*n == TOK_MAX_SPECIAL) return too_many(err, "the post_processor");
        v[(*n)++] = (uint32_t)id;
    }
    return CAKE_OK;
}

static cake_status add_post(cake_tokenizer *t, json_object *o, const char *type, cake_error *err) {
    if (is(type, "ByteLevel")) return CAKE_OK; /* only offsets */
    if (t->has_template) return cake_fail(err, CAKE_EUNSUPPORTED, "a second template");
    if (!is(type, "TemplateProcessing")) return unknown(err, "post_processor", type);
    json_object *single = NULL, *special = NULL;
    uint32_t before[TOK_MAX_SPECIAL], after[TOK_MAX_SPECIAL];
    size_t n_before = 0, n_after = 0;
    bool seen = false;
    cake_status st = cake_json_array(o, "single", true, TOK_MAX_SPECIAL, &single, err);
    if (st == CAKE_OK) st = cake_json_object(o, "special_tokens", false, &special, err);
    for (size_t i = 0; st == CAKE_OK && i < json_object_array_length(single); i++) {
        json_object *e = json_object_array_get_idx(single, i), *x = NULL;
        const char *id = NULL;
        if (!json_object_is_type(e, json_type_object)) return unknown(err, "template item", "?");
        if (json_object_object_get_ex(e, "Sequence", &x) &&
            json_object_is_type(x, json_type_object)) {
            st = cake_json_string(x, "id", true, 10, &id, err);
            if (st == CAKE_OK && (seen || !is(id, "A")))
                st = unknown(err, "a template with sequence", id);
            seen = true;
        } else if (json_object_object_get_ex(e, "SpecialToken", &x) &&
                   json_object_is_type(x, json_type_object)) {
            st = cake_json_string(x, "id", true, TOK_MAX_TOKEN, &id, err);
            if (st == CAKE_OK)
                st = template_ids(t, special, id, seen ? after : before,
                                  seen ? &n_after : &n_before, err);
        } else {
            return unknown(err, "template item", "?");
        }
    }
    if (st != CAKE_OK) return st;
    if (!seen) return cake_fail(err, CAKE_EUNSUPPORTED, "a template without the text");
    memcpy(t->before, before, n_before * sizeof *before);
    memcpy(t->after, after, n_after * sizeof *after);
    t->n_before = n_before, t->n_after = n_after;
    t->has_template = true;
    return CAKE_OK;
}

cake_status tok_parse_post(cake_tokenizer *t, json_object *o, cake_error *err) {
    return each(t, o, "post_processor", "processors", 0, add_post, err);
}

/* ---- decoder ---- */
/* Decoders fall into three parts, in this order: edits of each token, then ByteFallback, then Fuse
 * and edits of the whole text. ByteLevel stands alone. Another order is refused. */
static cake_status add_decoder(cake_tokenizer *t, json_object *o, const char *type,
                               cake_error *err) {
    tok_piece_op *op = &t->piece_ops[t->n_piece_ops];
    bool fused = t->strip_cp != TOK_NONE, edit = !fused && !t->dec_byte_fallback;
    cake_status st = CAKE_OK;
    if (t->dec_byte_level) return cake_fail(err, CAKE_EUNSUPPORTED, "a decoder after ByteLevel");
    if (t->n_piece_ops == TOK_MAX_STAGES - 1) return too_many(err, "the decoder");
    if (is(type, "ByteLevel")) {
        if (!edit || t->n_piece_ops)
            return cake_fail(err, CAKE_EUNSUPPORTED, "ByteLevel after a decoder");
        t->dec_byte_level = true;
        return CAKE_OK;
    }
    if (is(type, "Fuse")) {
        if (!fused) t->strip_cp = 0; /* from here on the text is one piece */
        return CAKE_OK;
    }
    if (is(type, "Strip")) {
        uint32_t start = 0, stop = 0;
        char *c = NULL;
        size_t len = 0;
        st = text(o, "content", &c, &len, err);
        if (st == CAKE_OK && (!len || tok_utf8_len((uint8_t)c[0]) != len))
            st = cake_fail(err, CAKE_EFORMAT, "\"content\" must be one character");
        if (st == CAKE_OK) st = cake_json_u32(o, "start", true, 0, 1 << 20, &start, err);
        if (st == CAKE_OK) st = cake_json_u32(o, "stop", true, 0, 1 << 20, &stop, err);
        if (st == CAKE_OK && fused) {
            size_t i = 0;
            if (stop || t->strip_start)
                st = cake_fail(err, CAKE_EUNSUPPORTED, "Strip at the end of the text");
            else
                t->strip_cp = tok_utf8_next((const uint8_t *)c, &i), t->strip_start = start;
        } else if (st == CAKE_OK && edit) {
            *op = (tok_piece_op){
                .kind = TOK_D_STRIP, .a = c, .a_len = len, .start = start, .stop = stop};
            t->n_piece_ops++;
            return CAKE_OK;
        } else if (st == CAKE_OK) {
            st = cake_fail(err, CAKE_EUNSUPPORTED, "Strip between ByteFallback and Fuse");
        }
        free(c);
        return st;
    }
    if (!edit) return cake_fail(err, CAKE_EUNSUPPORTED, "%.80s after ByteFallback or Fuse", type);
    if (is(type, "ByteFallback")) {
        t->dec_byte_fallback = true;
        return CAKE_OK;
    }
    if (is(type, "Replace")) {
        bool regex = false;
        *op = (tok_piece_op){.kind = TOK_D_REPLACE};
        t->n_piece_ops++;
        st = pattern(o, &regex, &op->a, &op->a_len, err);
        if (st == CAKE_OK && (regex || !op->a_len))
            st = cake_fail(err, CAKE_EUNSUPPORTED, "only a plain string can be replaced");
        if (st == CAKE_OK) st = text(o, "content", &op->b, &op->b_len, err);
        return st;
    }
    if (is(type, "Metaspace")) {
        const char *scheme = NULL;
        bool old_prefix = true;
        *op = (tok_piece_op){.kind = TOK_D_METASPACE};
        t->n_piece_ops++;
        st = text(o, "replacement", &op->a, &op->a_len, err);
        if (st == CAKE_OK && (!op->a_len || tok_utf8_len((uint8_t)op->a[0]) != op->a_len))
            st = cake_fail(err, CAKE_EFORMAT, "\"replacement\" must be one character");
        if (st == CAKE_OK) st = cake_json_bool(o, "add_prefix_space", false, &old_prefix, err);
        if (st == CAKE_OK) st = cake_json_string(o, "prepend_scheme", false, 20, &scheme, err);
        t->dec_first_rule = scheme ? !is(scheme, "never") : old_prefix;
        if (st == CAKE_OK && t->n_piece_ops > 1)
            st = cake_fail(err, CAKE_EUNSUPPORTED, "Metaspace after another decoder");
        return st;
    }
    return unknown(err, "decoder", type);
}

cake_status tok_parse_decoder(cake_tokenizer *t, json_object *o, cake_error *err) {
    t->strip_cp = TOK_NONE;
    t->dec_join_space = !o;
    cake_status st = each(t, o, "decoder", "decoders", 0, add_decoder, err);
    if (st == CAKE_OK && t->dec_first_rule && t->n_piece_ops > 1)
        st = cake_fail(err, CAKE_EUNSUPPORTED,
                       "tokenizer.json: decoder: Metaspace before another decoder");
    return st;
}

static bool edit(const tok_piece_op *op, const char *s, size_t n, tok_buf *out) {
    size_t from = 0, to = n;
    out->n = 0;
    if (op->kind == TOK_D_STRIP) {
        for (uint32_t k = 0; k < op->start && to - from >= op->a_len; k++, from += op->a_len)
            if (memcmp(s + from, op->a, op->a_len) != 0) break;
        for (uint32_t k = 0; k < op->stop && to - from >= op->a_len; k++, to -= op->a_len)
            if (memcmp(s + to - op->a_len, op->a, op->a_len) != 0) break;
        return tok_buf_add(out, s + from, to - from);
    }
    const char *with = op->kind == TOK_D_METASPACE ? " " : op->b;
    size_t with_n = op->kind == TOK_D_METASPACE ? 1 : op->b_len;
    for (const char *hit; (hit = memmem(s + from, n - from, op->a, op->a_len)) != NULL;) {
        size_t at = (size_t)(hit - s);
        if (!tok_buf_add(out, s + from, at - from) || !tok_buf_add(out, with, with_n)) return false;
        from = at + op->a_len;
    }
    return tok_buf_add(out, s + from, n - from);
}

static int hex(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

const char *tok_decoder_text(const cake_tokenizer *t, uint32_t id, size_t *n) {
    const tok_token *k = &t->vocab.v[id];
    uint32_t a = t->added_of[id];
    *n = a ? t->added[a - 1].len : k->len;
    return t->vocab.text.p + (a ? t->added[a - 1].off : k->off);
}

cake_status tok_fill_raw(cake_tokenizer *t, cake_error *err) {
    tok_buf a = {0}, b = {0};
    tok_vocab *v = &t->vocab;
    bool ok = true;
    for (uint32_t id = 0; id < v->n && ok; id++) {
        tok_token *k = &v->v[id];
        if (!k->kind) continue;
        a.n = 0;
        size_t len;
        const char *s = tok_decoder_text(t, id, &len);
        ok = tok_buf_add(&a, s, len);
        for (size_t i = 0; i < t->n_piece_ops && ok; i++) {
            ok = edit(&t->piece_ops[i], a.p, a.n, &b);
            tok_buf x = a;
            a = b, b = x;
        }
        if (!ok) break;
        if (t->dec_byte_level) { /* a token with a character outside the alphabet stands for itself
                                  */
            size_t n = 0, i = 0;
            ok = tok_buf_reserve(&b, a.n + 1);
            while (ok && i < a.n) {
                int c = tok_char_byte(tok_utf8_next((const uint8_t *)a.p, &i));
                if (c < 0) {
                    n = SIZE_MAX;
                    break;
                }
                b.p[n++] = (char)c;
            }
            if (ok && n != SIZE_MAX) memcpy(a.p, b.p, n), a.n = n;
        } else if (t->dec_byte_fallback && a.n == 6 && memcmp(a.p, "<0x", 3) == 0 &&
                   a.p[5] == '>' && hex(a.p[3]) >= 0 && hex(a.p[4]) >= 0) {
            k->kind |= TOK_BYTE;
            a.p[0] = (char)(hex(a.p[3]) * 16 + hex(a.p[4]));
            a.n = 1;
        }
        if (v->raw.n + a.n > UINT32_MAX)
            return cake_fail(err, CAKE_EFORMAT, "tokenizer.json: token texts above 4 GiB");
        k->raw_off = (uint32_t)v->raw.n, k->raw_len = (uint32_t)a.n;
        ok = ok && tok_buf_add(&v->raw, a.p, a.n);
    }
    tok_buf_free(&a);
    tok_buf_free(&b);
    return ok ? CAKE_OK : cake_fail(err, CAKE_ENOMEM, "out of memory for token texts");
}
