/* The tokenizer in a GGUF file's metadata: the keys tokenizer.ggml.*.
 *
 * model "llama": SentencePiece's pieces, scores and types. model "gpt2": tokens in the byte
 * alphabet, merges, and in "pre" the name of what cuts a text into words and normalizes it, which
 * stands for the components that the model's tokenizer.json lists one by one. Only names whose
 * components are known here are taken. */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

/* What a name in tokenizer.ggml.pre stands for. */
static const struct pre {
    const char *name, *pattern; /* NULL: GPT-2's own */
    bool nfc, digits, ignore_merges, bos;
} pre_table[] = {
    {"gpt-2", NULL, false, false, false, false},
    {"smollm", NULL, false, true, false, false},
    {"llama-bpe", tok_pattern_llama3, false, false, true, true},
    {"llama3", tok_pattern_llama3, false, false, true, true},
    {"llama-v3", tok_pattern_llama3, false, false, true, true},
    {"falcon3", tok_pattern_llama3, false, false, true, true},
    {"qwen2", tok_pattern_qwen2, true, false, false, false},
    {"deepseek-r1-qwen", tok_pattern_qwen2, true, false, false, false},
    {"tekken", tok_pattern_tekken, false, false, true, true},
};
enum { N_PRE = sizeof pre_table / sizeof *pre_table };

static bool is(cake_gguf_text t, const char *s) {
    return t.s && t.n == strlen(s) && memcmp(t.s, s, t.n) == 0;
}

/* Pieces that borrow from the file. Types that nobody stored are NORMAL, scores 0. */
static cake_status read_pieces(const cake_gguf *g, bool scored, tok_piece **out, size_t *count,
                               cake_error *err) {
    const cake_gguf_value *tokens, *scores, *types;
    cake_status st;
    if ((st = cake_gguf_array(g, "tokenizer.ggml.tokens", true, CAKE_GGUF_STRING, &tokens, err)) !=
            CAKE_OK ||
        (st = cake_gguf_array(g, "tokenizer.ggml.scores", scored, CAKE_GGUF_F32, &scores, err)) !=
            CAKE_OK ||
        (st = cake_gguf_array(g, "tokenizer.ggml.token_type", true, CAKE_GGUF_I32, &types, err)) !=
            CAKE_OK)
        return st;
    if (tokens->n > TOK_MAX_IDS || types->n != tokens->n || (scores && scores->n != tokens->n))
        return cake_fail(err, CAKE_EFORMAT,
                         "%llu tokens with %llu types and %llu scores; at most %d are allowed, and "
                         "as many of each",
                         (unsigned long long)tokens->n, (unsigned long long)types->n,
                         (unsigned long long)(scores ? scores->n : 0), TOK_MAX_IDS);
    tok_piece *v = cake_trymalloc((size_t)tokens->n * sizeof *v);
    if (!v) return cake_fail(err, CAKE_ENOMEM, "no memory for %zu tokens", (size_t)tokens->n);
    const uint8_t *at = tokens->at;
    for (size_t i = 0; i < tokens->n && st == CAKE_OK; i++) {
        cake_gguf_text s = cake_gguf_next_string(&at);
        int64_t type = cake_gguf_int_at(types, i);
        v[i] = (tok_piece){.s = (const uint8_t *)s.s,
                           .n = s.n,
                           .score = scores ? cake_gguf_f32_at(scores, i) : 0,
                           .type = type < 0 || type > UINT32_MAX ? 0 : (uint32_t)type,
                           .id = (uint32_t)i};
        if (!s.n || s.n > TOK_MAX_TOKEN || memchr(s.s, 0, s.n) ||
            tok_utf8_valid(v[i].s, s.n) != s.n || v[i].score != v[i].score ||
            v[i].type < TOK_PIECE_NORMAL || v[i].type > TOK_PIECE_BYTE)
            st = cake_fail(err, CAKE_EFORMAT, "token %zu is not well-formed (%zu bytes, type %lld)",
                           i, s.n, (long long)type);
    }
    if (st == CAKE_OK)
        *out = v, *count = (size_t)tokens->n;
    else
        free(v);
    return st;
}

/* ---- gpt2 ---- */

static json_object *object(const char *type) {
    json_object *o = json_object_new_object();
    json_object_object_add(o, "type", json_object_new_string(type));
    return o;
}

/* The components of tokenizer.json behind the name. */
static cake_status components(cake_tokenizer *t, const struct pre *p, cake_error *err) {
    json_object *pre = object("Sequence"), *list = json_object_new_array(),
                *bytes = object("ByteLevel"), *nfc = object("NFC");
    json_object_object_add(bytes, "add_prefix_space", json_object_new_boolean(false));
    json_object_object_add(bytes, "use_regex", json_object_new_boolean(!p->pattern));
    json_object_object_add(pre, "pretokenizers", list);
    if (p->digits) {
        json_object *digits = object("Digits");
        json_object_object_add(digits, "individual_digits", json_object_new_boolean(true));
        json_object_array_add(list, digits);
    }
    if (p->pattern) {
        json_object *split = object("Split"), *regex = json_object_new_object();
        json_object_object_add(regex, "Regex", json_object_new_string(p->pattern));
        json_object_object_add(split, "pattern", regex);
        json_object_object_add(split, "behavior", json_object_new_string("Isolated"));
        json_object_object_add(split, "invert", json_object_new_boolean(false));
        json_object_array_add(list, split);
    }
    json_object_array_add(list, json_object_get(bytes));
    cake_status st = tok_parse_pre(t, pre, err);
    if (st == CAKE_OK && p->nfc) st = tok_parse_normalizer(t, nfc, err);
    if (st == CAKE_OK) st = tok_parse_decoder(t, bytes, err);
    json_object_put(pre);
    json_object_put(bytes);
    json_object_put(nfc);
    return st;
}

static cake_status choose_pre(const cake_gguf *g, const struct pre **out, cake_error *err) {
    cake_gguf_text name;
    cake_status st = cake_gguf_string(g, "tokenizer.ggml.pre", false, 100, &name, err);
    if (st != CAKE_OK) return st;
    for (size_t i = 0; i < N_PRE; i++)
        if (is(name, pre_table[i].name)) return *out = &pre_table[i], CAKE_OK;
    static const char known[] = "known are gpt-2, smollm, llama-bpe, falcon3, qwen2, "
                                "deepseek-r1-qwen and tekken; or give a "
                                "folder with the model's tokenizer.json beside the only GGUF file";
    return name.s ? cake_fail(err, CAKE_EUNSUPPORTED,
                              "tokenizer.ggml.pre \"%.*s\" is not supported; %s", (int)name.n,
                              name.s, known)
                  : cake_fail(err, CAKE_EUNSUPPORTED,
                              "tokenizer.ggml.pre is missing, so nothing says how a text is cut "
                              "into words; %s",
                              known);
}

static cake_status load_gpt2(cake_tokenizer *t, const cake_gguf *g, bool *bos, cake_error *err) {
    const struct pre *p = NULL;
    const cake_gguf_value *merges = NULL;
    tok_piece *v = NULL;
    size_t count = 0;
    tok_buf tmp = {0};
    cake_status st = choose_pre(g, &p, err);
    if (st == CAKE_OK) st = components(t, p, err);
    if (st == CAKE_OK) st = read_pieces(g, false, &v, &count, err);
    for (size_t i = 0; i < count && st == CAKE_OK; i++) {
        const char *s = (const char *)v[i].s;
        tok_added a = {.id = v[i].id};
        switch (v[i].type) {
        case TOK_PIECE_UNUSED: break; /* fills a gap or pads the table: names no token */
        case TOK_PIECE_CONTROL:
        case TOK_PIECE_USER_DEFINED:
            st = tok_add_added(t, &a, s, v[i].n, v[i].type == TOK_PIECE_CONTROL, err);
            break;
        default: st = tok_vocab_add(&t->vocab, v[i].id, s, v[i].n, TOK_MODEL, err);
        }
    }
    free(v);
    if (st == CAKE_OK)
        st = cake_gguf_array(g, "tokenizer.ggml.merges", true, CAKE_GGUF_STRING, &merges, err);
    if (st == CAKE_OK && merges->n > TOK_MAX_IDS)
        st = cake_fail(err, CAKE_EFORMAT, "%llu merges; at most %d are allowed",
                       (unsigned long long)merges->n, TOK_MAX_IDS);
    if (st == CAKE_OK) st = tok_bpe_reserve(&t->bpe, (size_t)merges->n, err);
    const uint8_t *at = merges ? merges->at : NULL;
    for (uint32_t i = 0; st == CAKE_OK && i < merges->n; i++) {
        cake_gguf_text s = cake_gguf_next_string(&at);
        st = tok_add_merge_line(t, s.s, s.n, i, &tmp, err);
    }
    tok_buf_free(&tmp);
    if (st != CAKE_OK) return st;
    t->bpe.ignore_merges = p->ignore_merges;
    *bos = p->bos;
    return tok_finish(t, err);
}

/* ---- llama ---- */

static cake_status load_llama(cake_tokenizer *t, const cake_gguf *g, bool *bos, cake_error *err) {
    tok_spm o = {.dummy_prefix = true, .collapse = false, .escape = true};
    tok_piece *v = NULL;
    size_t count = 0;
    cake_status st = read_pieces(g, true, &v, &count, err);
    if (st == CAKE_OK)
        st = cake_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &o.dummy_prefix, err);
    if (st == CAKE_OK)
        st = cake_gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &o.collapse, err);
    if (st == CAKE_OK) st = tok_build_spm(t, v, count, &o, err);
    free(v);
    *bos = true;
    return st;
}

/* ---- both ---- */

static cake_status around(cake_tokenizer *t, const cake_gguf *g, bool bos, cake_error *err) {
    uint64_t bos_id = UINT64_MAX, eos_id = UINT64_MAX;
    bool eos = false;
    cake_status st;
    if ((st = cake_gguf_uint(g, "tokenizer.ggml.bos_token_id", false, 0, UINT32_MAX, &bos_id,
                             err)) != CAKE_OK ||
        (st = cake_gguf_uint(g, "tokenizer.ggml.eos_token_id", false, 0, UINT32_MAX, &eos_id,
                             err)) != CAKE_OK ||
        (st = cake_gguf_bool(g, "tokenizer.ggml.add_bos_token", &bos, err)) != CAKE_OK ||
        (st = cake_gguf_bool(g, "tokenizer.ggml.add_eos_token", &eos, err)) != CAKE_OK)
        return st;
    if (bos_id < t->vocab.n) t->bos = (int64_t)bos_id;
    if (eos_id < t->vocab.n) t->eos = (int64_t)eos_id;
    t->n_before = bos && t->bos >= 0, t->n_after = eos && t->eos >= 0;
    t->before[0] = (uint32_t)t->bos, t->after[0] = (uint32_t)t->eos;
    return CAKE_OK;
}

cake_status tok_load_gguf(cake_tokenizer *t, const cake_gguf *g, cake_error *err) {
    cake_gguf_text model;
    bool bos = false;
    cake_status st = cake_gguf_string(g, "tokenizer.ggml.model", true, 100, &model, err);
    if (st == CAKE_OK && is(model, "gpt2"))
        st = load_gpt2(t, g, &bos, err);
    else if (st == CAKE_OK && is(model, "llama"))
        st = load_llama(t, g, &bos, err);
    else if (st == CAKE_OK)
        st = cake_fail(err, CAKE_EUNSUPPORTED,
                       "tokenizer.ggml.model \"%.*s\" is not supported; gpt2 and llama are",
                       (int)model.n, model.s);
    if (st == CAKE_OK) st = around(t, g, bos, err);
    /* Errors about the metadata name the file already, those of the parts that are built do not. */
    if (st != CAKE_OK && err && strncmp(err->msg, g->what, strlen(g->what)) != 0)
        cake_fail_in(err, st, "%s", g->what);
    return st;
}
