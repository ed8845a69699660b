/* The tokenizer in a GGUF file's metadata: the keys tokenizer.ggml.*.
 *
 * model "llama": SentencePiece's pieces, scores and types. model "gpt2": tokens in the byte
 * alphabet, merges, and in "pre" the name of what cuts a text into words and normalizes it, which
 * stands for the components that the model's tokenizer.json lists one by one. Only names whose
 * components are known here are taken. */
#include "common/file.h"
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

/* The components of tokenizer.json behind the name; the caller owns them. */
static json_object *pre_tokenizer(const struct pre *p) {
    json_object *pre = object("Sequence"), *list = json_object_new_array(),
                *bytes = object("ByteLevel");
    json_object_object_add(bytes, "add_prefix_space", json_object_new_boolean(false));
    json_object_object_add(bytes, "trim_offsets", json_object_new_boolean(false));
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
    json_object_array_add(list, bytes);
    return pre;
}

static json_object *byte_decoder(void) {
    json_object *o = object("ByteLevel");
    json_object_object_add(o, "add_prefix_space", json_object_new_boolean(false));
    json_object_object_add(o, "trim_offsets", json_object_new_boolean(false));
    json_object_object_add(o, "use_regex", json_object_new_boolean(false));
    return o;
}

static cake_status components(cake_tokenizer *t, const struct pre *p, cake_error *err) {
    json_object *pre = pre_tokenizer(p), *nfc = object("NFC"), *decoder = byte_decoder();
    cake_status st = tok_parse_pre(t, pre, err);
    if (st == CAKE_OK && p->nfc) st = tok_parse_normalizer(t, nfc, err);
    if (st == CAKE_OK) st = tok_parse_decoder(t, decoder, err);
    json_object_put(pre);
    json_object_put(nfc);
    json_object_put(decoder);
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

/* ---- the same as files ---- */

static json_object *added_tokens(const cake_tokenizer *t) {
    json_object *list = json_object_new_array();
    for (size_t i = 0; i < t->n_added; i++) {
        const tok_added *a = &t->added[i];
        const tok_token *k = &t->vocab.v[a->id];
        json_object *o = json_object_new_object();
        json_object_object_add(o, "id", json_object_new_int64(a->id));
        json_object_object_add(o, "content",
                               json_object_new_string_len(t->vocab.text.p + k->off, (int)k->len));
        json_object_object_add(o, "single_word", json_object_new_boolean(a->single_word));
        json_object_object_add(o, "lstrip", json_object_new_boolean(a->lstrip));
        json_object_object_add(o, "rstrip", json_object_new_boolean(a->rstrip));
        json_object_object_add(o, "normalized", json_object_new_boolean(a->normalized));
        json_object_object_add(o, "special", json_object_new_boolean(k->kind & TOK_SPECIAL));
        json_object_array_add(list, o);
    }
    return list;
}

static json_object *content_of(const cake_tokenizer *t, int64_t id) {
    const tok_token *k = id >= 0 && id < t->vocab.n ? &t->vocab.v[id] : NULL;
    return k && k->kind ? json_object_new_string_len(t->vocab.text.p + k->off, (int)k->len) : NULL;
}

static int by_rank(const void *a, const void *b) {
    const tok_pair *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return x->key < y->key ? -1 : x->key > y->key;
}

/* The pairs that were loaded, first to merge first. */
static json_object *merges(const cake_tokenizer *t) {
    json_object *list = json_object_new_array();
    tok_pair *p = cake_calloc(t->bpe.n_pairs, sizeof *p);
    size_t n = 0;
    for (uint64_t i = 0; t->bpe.pairs && i <= t->bpe.mask; i++)
        if (t->bpe.pairs[i].id != TOK_NONE && n < t->bpe.n_pairs) p[n++] = t->bpe.pairs[i];
    if (n) qsort(p, n, sizeof *p, by_rank);
    for (size_t i = 0; i < n; i++) {
        json_object *pair = json_object_new_array();
        json_object_array_add(pair, content_of(t, (int64_t)(p[i].key >> 32)));
        json_object_array_add(pair, content_of(t, (int64_t)(p[i].key & UINT32_MAX)));
        json_object_array_add(list, pair);
    }
    free(p);
    return list;
}

static json_object *bpe_model(const cake_tokenizer *t) {
    json_object *m = object("BPE"), *vocab = json_object_new_object();
    for (uint32_t i = 0; i < t->vocab.n; i++) {
        const tok_token *k = &t->vocab.v[i];
        char *text;
        if (!(k->kind & TOK_MODEL) && i != t->bpe.unk) continue;
        text = cake_strndup(t->vocab.text.p + k->off, k->len);
        json_object_object_add(vocab, text, json_object_new_int64(i));
        free(text);
    }
    json_object_object_add(m, "unk_token",
                           t->bpe.unk == TOK_NONE ? NULL : content_of(t, t->bpe.unk));
    json_object_object_add(m, "fuse_unk", json_object_new_boolean(t->bpe.fuse_unk));
    json_object_object_add(m, "byte_fallback", json_object_new_boolean(t->bpe.byte_fallback));
    json_object_object_add(m, "ignore_merges", json_object_new_boolean(t->bpe.ignore_merges));
    json_object_object_add(m, "vocab", vocab);
    json_object_object_add(m, "merges", merges(t));
    return m;
}

/* Normalizer and decoder of pieces, as tok_build_spm sets them up. */
static void spm_components(json_object *root, bool prefix) {
    static const char normalizer[] =
        "{\"type\":\"Sequence\",\"normalizers\":[%s{\"type\":\"Replace\",\"pattern\":{"
        "\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}]}";
    static const char decoder[] =
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"\xE2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}%s]}";
    char *n = cake_asprintf(normalizer,
                            prefix ? "{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"}," : "");
    char *d = cake_asprintf(
        decoder, prefix ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "");
    json_object_object_add(root, "normalizer", json_tokener_parse(n));
    json_object_object_add(root, "decoder", json_tokener_parse(d));
    free(n);
    free(d);
}

static cake_status write_json(const char *dir, const char *name, json_object *o, cake_error *err) {
    char *path = cake_path_join(dir, name);
    const char *text =
        json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    cake_status st = cake_file_write(path, text, strlen(text), 0644, err);
    free(path);
    return st;
}

cake_status cake_tokenizer_write_gguf(const char *gguf, const char *dir, cake_error *err) {
    cake_gguf g;
    cake_gguf_text model = {0}, template;
    const struct pre *p = NULL;
    bool prefix = true, collapse = false;
    cake_tokenizer *t = tok_new();
    json_object *root = json_object_new_object(), *config = json_object_new_object();
    cake_status st = cake_gguf_open(&g, gguf, err);
    if (st != CAKE_OK) goto out;
    st = tok_load_gguf(t, &g, err);
    if (st == CAKE_OK) st = cake_gguf_string(&g, "tokenizer.ggml.model", true, 100, &model, err);
    bool spm = is(model, "llama");
    if (st == CAKE_OK && !spm) st = choose_pre(&g, &p, err);
    if (st == CAKE_OK) st = cake_gguf_bool(&g, "tokenizer.ggml.add_space_prefix", &prefix, err);
    if (st == CAKE_OK)
        st = cake_gguf_bool(&g, "tokenizer.ggml.remove_extra_whitespaces", &collapse, err);
    if (st == CAKE_OK && spm && collapse)
        st = cake_fail(err, CAKE_EUNSUPPORTED,
                       "%s: no tokenizer.json says what remove_extra_whitespaces does", gguf);
    if (st == CAKE_OK)
        st = cake_gguf_string(&g, "tokenizer.chat_template", false, 4 << 20, &template, err);
    if (st == CAKE_OK) {
        json_object_object_add(root, "version", json_object_new_string("1.0"));
        json_object_object_add(root, "added_tokens", added_tokens(t));
        if (spm) {
            spm_components(root, prefix);
        } else {
            json_object_object_add(root, "normalizer", p->nfc ? object("NFC") : NULL);
            json_object_object_add(root, "pre_tokenizer", pre_tokenizer(p));
            json_object_object_add(root, "decoder", byte_decoder());
        }
        json_object_object_add(root, "model", bpe_model(t));
        json_object_object_add(config, "bos_token", content_of(t, t->bos));
        json_object_object_add(config, "eos_token", content_of(t, t->eos));
        json_object_object_add(config, "add_bos_token", json_object_new_boolean(t->n_before > 0));
        json_object_object_add(config, "add_eos_token", json_object_new_boolean(t->n_after > 0));
        if (template.s)
            json_object_object_add(config, "chat_template",
                                   json_object_new_string_len(template.s, (int)template.n));
        st = write_json(dir, "tokenizer.json", root, err);
        if (st == CAKE_OK) st = write_json(dir, "tokenizer_config.json", config, err);
    }
    cake_gguf_deinit(&g);
out:
    json_object_put(root);
    json_object_put(config);
    cake_tokenizer_free(t);
    return st;
}
