/* Opening a tokenizer: tokenizer.json, vocab.json + merges.txt, and the small files beside them. */
#include "common/file.h"
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

cake_tokenizer *tok_new(void) {
    cake_tokenizer *t = cake_calloc(1, sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    t->bpe.unk = TOK_NONE;
    t->strip_cp = TOK_NONE;
    t->bos = t->eos = -1;
    return t;
}

void cake_tokenizer_free(cake_tokenizer *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_pool; i++) tok_scratch_free(t->pool[i]);
    for (size_t i = 0; i < TOK_MAX_STAGES; i++) {
        free(t->norm[i].a);
        free(t->norm[i].b);
        tok_regex_free(t->norm[i].re);
        free(t->pre[i].str);
        tok_regex_free(t->pre[i].re);
        free(t->piece_ops[i].a);
        free(t->piece_ops[i].b);
    }
    tok_vocab_free(&t->vocab);
    free(t->bpe.pairs);
    free(t->added);
    free(t->added_of);
    free(t->raw_trie.v);
    free(t->norm_trie.v);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

cake_status tok_add_added(cake_tokenizer *t, const tok_added *a, const char *content, size_t len,
                          bool special, cake_error *err) {
    if (!len) return CAKE_OK; /* the reference drops these */
    cake_status st = tok_vocab_add(&t->vocab, a->id, content, len,
                                   TOK_ADDED | (special ? TOK_SPECIAL : 0u), err);
    if (st != CAKE_OK) return st;
    tok_added *v = realloc(t->added, (t->n_added + 1) * sizeof *v);
    if (!v) return cake_fail(err, CAKE_ENOMEM, "out of memory for added tokens");
    t->added = v;
    t->added[t->n_added++] = *a;
    return CAKE_OK;
}

/* Tries of the added tokens, once the normalizer is known. */
static cake_status build_tries(cake_tokenizer *t, cake_error *err) {
    cake_status st = CAKE_OK;
    tok_scratch *sc = NULL;
    t->added_of = cake_trymalloc((size_t)(t->vocab.n + 1) * sizeof *t->added_of);
    if (!t->added_of) return cake_fail(err, CAKE_ENOMEM, "out of memory for added tokens");
    memset(t->added_of, 0, (size_t)(t->vocab.n + 1) * sizeof *t->added_of);
    for (size_t i = 0; i < t->n_added && st == CAKE_OK; i++) {
        tok_added *a = &t->added[i];
        const tok_token *k = &t->vocab.v[a->id];
        const char *s = t->vocab.text.p + k->off;
        size_t n = k->len;
        t->added_of[a->id] = (uint32_t)i + 1;
        if (a->normalized && t->n_norm) {
            if (!sc && !(sc = tok_scratch_new()))
                st = cake_fail(err, CAKE_ENOMEM, "out of memory for added tokens");
            else
                st = tok_norm_run(t, sc, s, n, &s, &n, err);
        }
        if (st != CAKE_OK) break;
        const tok_buf *all = &t->vocab.text;
        bool inside = s >= all->p && s <= all->p + all->n; /* unchanged, or only stripped */
        a->off = (uint32_t)(inside ? (size_t)(s - all->p) : all->n), a->len = (uint32_t)n;
        if (!inside && (all->n + n > UINT32_MAX || !tok_buf_add(&t->vocab.text, s, n)))
            st = cake_fail(err, CAKE_ENOMEM, "out of memory for added tokens");
        s = all->p + a->off;
        if (st == CAKE_OK)
            st = tok_trie_add(a->normalized ? &t->norm_trie : &t->raw_trie, s, n, a->id, err);
    }
    tok_scratch_free(sc);
    return st;
}

cake_status tok_finish(cake_tokenizer *t, cake_error *err) {
    while (t->vocab.n && !t->vocab.v[t->vocab.n - 1].kind) t->vocab.n--;
    cake_status st = build_tries(t, err);
    if (st == CAKE_OK) st = tok_bpe_finish(&t->bpe, &t->vocab, err);
    return st == CAKE_OK ? tok_fill_raw(t, err) : st;
}

/* ---- tokenizer.json ---- */
static cake_status load_vocab(cake_tokenizer *t, json_object *vocab, cake_error *err) {
    json_object_object_foreach(vocab, key, val) {
        int64_t id = json_object_is_type(val, json_type_int) ? json_object_get_int64(val) : -1;
        if (id < 0 || id >= TOK_MAX_IDS)
            return cake_fail(err, CAKE_EFORMAT, "vocab: token \"%.64s\" has no id from 0 to %d",
                             key, TOK_MAX_IDS - 1);
        cake_status st = tok_vocab_add(&t->vocab, (uint32_t)id, key, strlen(key), TOK_MODEL, err);
        if (st != CAKE_OK) return cake_fail_in(err, st, "vocab");
    }
    return CAKE_OK;
}

static cake_status add_merge(cake_tokenizer *t, const char *a, size_t a_n, const char *b,
                             size_t b_n, uint32_t rank, tok_buf *tmp, cake_error *err) {
    const tok_vocab *v = &t->vocab;
    uint32_t l = tok_vocab_find(v, a, a_n), r = tok_vocab_find(v, b, b_n), m = TOK_NONE;
    tmp->n = 0;
    if (!tok_buf_add(tmp, a, a_n) || !tok_buf_add(tmp, b, b_n))
        return cake_fail(err, CAKE_ENOMEM, "out of memory for merges");
    if (l != TOK_NONE && r != TOK_NONE) m = tok_vocab_find(v, tmp->p, tmp->n);
    if (m == TOK_NONE)
        return cake_fail(
            err, CAKE_EFORMAT,
            "merges: number %u (\"%.*s\" + \"%.*s\") names a token that is not in the vocabulary",
            rank, (int)(a_n > 64 ? 64 : a_n), a, (int)(b_n > 64 ? 64 : b_n), b);
    tok_bpe_add_pair(&t->bpe, l, r, rank, m);
    return CAKE_OK;
}

cake_status tok_add_merge_line(cake_tokenizer *t, const char *s, size_t n, uint32_t rank,
                               tok_buf *tmp, cake_error *err) {
    const char *sp = memchr(s, ' ', n);
    size_t a_n = sp ? (size_t)(sp - s) : 0;
    if (!sp || memchr(sp + 1, ' ', n - a_n - 1))
        return cake_fail(err, CAKE_EFORMAT,
                         "merges: number %u is not two tokens with a space between", rank);
    return add_merge(t, s, a_n, sp + 1, n - a_n - 1, rank, tmp, err);
}

static cake_status load_merges(cake_tokenizer *t, json_object *merges, cake_error *err) {
    size_t n = json_object_array_length(merges);
    tok_buf tmp = {0};
    cake_status st = tok_bpe_reserve(&t->bpe, n, err);
    for (size_t i = 0; i < n && st == CAKE_OK; i++) {
        json_object *m = json_object_array_get_idx(merges, i);
        if (json_object_is_type(m, json_type_string)) {
            st = tok_add_merge_line(t, json_object_get_string(m),
                                    (size_t)json_object_get_string_len(m), (uint32_t)i, &tmp, err);
            continue;
        }
        bool pair = json_object_is_type(m, json_type_array) && json_object_array_length(m) == 2;
        json_object *a = pair ? json_object_array_get_idx(m, 0) : NULL;
        json_object *b = pair ? json_object_array_get_idx(m, 1) : NULL;
        if (!json_object_is_type(a, json_type_string) || !json_object_is_type(b, json_type_string))
            st = cake_fail(err, CAKE_EFORMAT, "merges: number %zu is not a pair of strings", i);
        else
            st = add_merge(t, json_object_get_string(a), (size_t)json_object_get_string_len(a),
                           json_object_get_string(b), (size_t)json_object_get_string_len(b),
                           (uint32_t)i, &tmp, err);
    }
    tok_buf_free(&tmp);
    return st;
}

static cake_status load_model(cake_tokenizer *t, json_object *m, cake_error *err) {
    const char *type = "BPE", *unk = NULL, *affix = NULL;
    json_object *vocab = NULL, *merges = NULL;
    double dropout = 0;
    cake_status st = cake_json_string(m, "type", false, 100, &type, err);
    if (st == CAKE_OK && strcmp(type, "BPE") != 0)
        return cake_fail(err, CAKE_EUNSUPPORTED, "model type \"%s\" is not supported (only BPE)",
                         type);
    if (st == CAKE_OK) st = cake_json_double(m, "dropout", false, 0, 1, &dropout, err);
    if (st == CAKE_OK && dropout > 0)
        st = cake_fail(err, CAKE_EUNSUPPORTED, "dropout is for training, not supported");
    for (int i = 0; i < 2 && st == CAKE_OK; i++) {
        const char *key = i ? "end_of_word_suffix" : "continuing_subword_prefix";
        affix = NULL;
        st = cake_json_string(m, key, false, TOK_MAX_TOKEN, &affix, err);
        if (st == CAKE_OK && affix && *affix)
            st = cake_fail(err, CAKE_EUNSUPPORTED, "%s \"%.40s\" is not supported", key, affix);
    }
    if (st == CAKE_OK) st = cake_json_bool(m, "fuse_unk", false, &t->bpe.fuse_unk, err);
    if (st == CAKE_OK) st = cake_json_bool(m, "byte_fallback", false, &t->bpe.byte_fallback, err);
    if (st == CAKE_OK) st = cake_json_bool(m, "ignore_merges", false, &t->bpe.ignore_merges, err);
    if (st == CAKE_OK) st = cake_json_string(m, "unk_token", false, TOK_MAX_TOKEN, &unk, err);
    if (st == CAKE_OK) st = cake_json_object(m, "vocab", true, &vocab, err);
    if (st == CAKE_OK) st = cake_json_array(m, "merges", true, TOK_MAX_IDS, &merges, err);
    if (st == CAKE_OK) st = load_vocab(t, vocab, err);
    if (st == CAKE_OK) st = load_merges(t, merges, err);
    if (st == CAKE_OK && unk) {
        t->bpe.unk = tok_vocab_find(&t->vocab, unk, strlen(unk));
        if (t->bpe.unk == TOK_NONE)
            st = cake_fail(err, CAKE_EFORMAT, "unk_token \"%.64s\" is not in the vocabulary", unk);
    }
    return st;
}

static cake_status load_added(cake_tokenizer *t, json_object *list, cake_error *err) {
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *o = json_object_array_get_idx(list, i);
        const char *content = NULL;
        bool special = false;
        tok_added a = {0};
        if (!json_object_is_type(o, json_type_object))
            return cake_fail(err, CAKE_EFORMAT, "number %zu is not an object", i);
        cake_status st = cake_json_u32(o, "id", true, 0, TOK_MAX_IDS - 1, &a.id, err);
        if (st == CAKE_OK) st = cake_json_string(o, "content", true, TOK_MAX_TOKEN, &content, err);
        if (st == CAKE_OK) st = cake_json_bool(o, "special", false, &special, err);
        a.normalized = !special;
        if (st == CAKE_OK) st = cake_json_bool(o, "single_word", false, &a.single_word, err);
        if (st == CAKE_OK) st = cake_json_bool(o, "lstrip", false, &a.lstrip, err);
        if (st == CAKE_OK) st = cake_json_bool(o, "rstrip", false, &a.rstrip, err);
        if (st == CAKE_OK) st = cake_json_bool(o, "normalized", false, &a.normalized, err);
        if (st == CAKE_OK) st = tok_add_added(t, &a, content, strlen(content), special, err);
        if (st != CAKE_OK) return st;
    }
    return CAKE_OK;
}

static json_object *member(json_object *o, const char *key) {
    json_object *v = NULL;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

cake_status tok_load_json(cake_tokenizer *t, json_object *root, cake_error *err) {
    json_object *model = NULL, *added = NULL;
    if (!json_object_is_type(root, json_type_object))
        return cake_fail(err, CAKE_EFORMAT, "tokenizer.json: not an object");
    cake_status st = cake_json_object(root, "model", true, &model, err);
    if (st == CAKE_OK) st = cake_json_array(root, "added_tokens", false, 1 << 20, &added, err);
    if (st != CAKE_OK) return cake_fail_in(err, st, "tokenizer.json");
    if ((st = tok_parse_pre(t, member(root, "pre_tokenizer"), err)) != CAKE_OK) return st;
    if ((st = tok_parse_normalizer(t, member(root, "normalizer"), err)) != CAKE_OK) return st;
    if ((st = load_model(t, model, err)) != CAKE_OK)
        return cake_fail_in(err, st, "tokenizer.json: model");
    if (added && (st = load_added(t, added, err)) != CAKE_OK)
        return cake_fail_in(err, st, "tokenizer.json: added_tokens");
    if ((st = tok_parse_post(t, member(root, "post_processor"), err)) != CAKE_OK) return st;
    if ((st = tok_parse_decoder(t, member(root, "decoder"), err)) != CAKE_OK) return st;
    return tok_finish(t, err);
}

/* ---- tokenizer_config.json, special_tokens_map.json ---- */
/* A token named by o[key], a string or an object with "content"; NULL when absent. */
static const char *named(json_object *o, const char *key) {
    json_object *v = o ? member(o, key) : NULL;
    if (v && json_object_is_type(v, json_type_object)) v = member(v, "content");
    return v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

static int64_t find_named(const cake_tokenizer *t, json_object *config, json_object *map,
                          const char *key) {
    json_object *v = NULL;
    const char *s = named(config, key);
    /* "bos_token": null in the config is an answer, not an absence */
    if (!s && !(config && json_object_object_get_ex(config, key, &v))) s = named(map, key);
    return s ? cake_tokenizer_find(t, s, strlen(s)) : -1;
}

static cake_status apply_config(cake_tokenizer *t, json_object *config, json_object *map,
                                cake_error *err) {
    bool add_bos = t->n_before > 0, add_eos = t->n_after > 0;
    cake_status st = CAKE_OK;
    int64_t id = find_named(t, config, map, "bos_token");
    if (id >= 0) t->bos = id;
    id = find_named(t, config, map, "eos_token");
    if (id >= 0) t->eos = id;
    if (!config || t->has_template) return CAKE_OK;
    /* Without a template in tokenizer.json these two say what goes around a text. */
    st = cake_json_bool(config, "add_bos_token", false, &add_bos, err);
    if (st == CAKE_OK) st = cake_json_bool(config, "add_eos_token", false, &add_eos, err);
    if (st != CAKE_OK) return cake_fail_in(err, st, "tokenizer_config.json");
    t->n_before = add_bos && t->bos >= 0, t->n_after = add_eos && t->eos >= 0;
    t->before[0] = (uint32_t)t->bos, t->after[0] = (uint32_t)t->eos;
    return CAKE_OK;
}

/* ---- vocab.json + merges.txt ---- */
static cake_status add_special_named(cake_tokenizer *t, const char *content, cake_error *err) {
    uint32_t id = content ? tok_vocab_find(&t->vocab, content, strlen(content)) : TOK_NONE;
    if (id == TOK_NONE || (t->vocab.v[id].kind & TOK_ADDED)) return CAKE_OK;
    tok_added a = {.id = id};
    return tok_add_added(t, &a, content, strlen(content), true, err);
}

static cake_status added_from_config(cake_tokenizer *t, json_object *config, json_object *extra,
                                     cake_error *err) {
    json_object *list = config ? member(config, "added_tokens_decoder") : NULL;
    cake_status st = CAKE_OK;
    if (list && json_object_is_type(list, json_type_object)) {
        json_object_object_foreach(list, key, o) {
            char *end;
            const char *content = NULL;
            bool special = false;
            unsigned long id = strtoul(key, &end, 10);
            tok_added a = {0};
            if (*end || id >= TOK_MAX_IDS || !json_object_is_type(o, json_type_object))
                return cake_fail(err, CAKE_EFORMAT,
                                 "tokenizer_config.json: added_tokens_decoder: \"%.40s\"", key);
            a.id = (uint32_t)id;
            st = cake_json_string(o, "content", true, TOK_MAX_TOKEN, &content, err);
            if (st == CAKE_OK) st = cake_json_bool(o, "special", false, &special, err);
            a.normalized = !special;
            if (st == CAKE_OK) st = cake_json_bool(o, "single_word", false, &a.single_word, err);
            if (st == CAKE_OK) st = cake_json_bool(o, "lstrip", false, &a.lstrip, err);
            if (st == CAKE_OK) st = cake_json_bool(o, "rstrip", false, &a.rstrip, err);
            if (st == CAKE_OK) st = cake_json_bool(o, "normalized", false, &a.normalized, err);
            if (st == CAKE_OK) st = tok_add_added(t, &a, content, strlen(content), special, err);
            if (st != CAKE_OK)
                return cake_fail_in(err, st, "tokenizer_config.json: added_tokens_decoder");
        }
    }
    if (extra && json_object_is_type(extra, json_type_object)) {
        json_object_object_foreach(extra, content, v) {
            int64_t id = json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : -1;
            if (id < 0 || id >= TOK_MAX_IDS)
                return cake_fail(err, CAKE_EFORMAT, "added_tokens.json: \"%.40s\" has no valid id",
                                 content);
            if (id < t->vocab.n && (t->vocab.v[id].kind & TOK_ADDED)) continue;
            tok_added a = {.id = (uint32_t)id};
            st = tok_add_added(t, &a, content, strlen(content), true, err);
            if (st != CAKE_OK) return cake_fail_in(err, st, "added_tokens.json");
        }
    }
    return st;
}

static cake_status gpt2_merges(cake_tokenizer *t, const char *s, size_t n, cake_error *err) {
    size_t lines = 1;
    uint32_t rank = 0;
    tok_buf tmp = {0};
    for (size_t i = 0; i < n; i++) lines += s[i] == '\n';
    if (lines > TOK_MAX_IDS)
        return cake_fail(err, CAKE_EFORMAT, "merges.txt: more than %d lines", TOK_MAX_IDS);
    cake_status st = tok_bpe_reserve(&t->bpe, lines, err);
    for (size_t i = 0; i < n && st == CAKE_OK;) {
        const char *nl = memchr(s + i, '\n', n - i);
        size_t end = nl ? (size_t)(nl - s) : n, len = end - i;
        if (len && s[i + len - 1] == '\r') len--;
        bool version = i == 0 && len >= 9 && memcmp(s, "#version:", 9) == 0;
        if (len && !version) st = tok_add_merge_line(t, s + i, len, rank++, &tmp, err);
        i = end + 1;
    }
    tok_buf_free(&tmp);
    return st == CAKE_OK ? st : cake_fail_in(err, st, "merges.txt");
}

static cake_status byte_level_component(cake_tokenizer *t, bool qwen, cake_error *err) {
    const char *pre =
        qwen ? "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
             : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}";
    json_object *o = NULL;
    cake_status st = CAKE_OK;
    if (qwen) {
        t->norm[t->n_norm++] = (tok_norm){.kind = TOK_N_NFC};
        t->pre[t->n_pre++] = (tok_pre){
            .kind = TOK_P_SCAN, .scan = tok_scan_for(tok_pattern_qwen2, strlen(tok_pattern_qwen2))};
    }
    st = cake_json_parse(pre, strlen(pre), 4, "built-in", &o, err);
    if (st == CAKE_OK) st = tok_parse_pre(t, o, err);
    if (st == CAKE_OK) st = tok_parse_decoder(t, o, err);
    json_object_put(o);
    return st;
}

/* Read DIR/name; an absent file leaves *out NULL. */
static cake_status read_optional(const char *dir, const char *name, json_object **out,
                                 cake_error *err) {
    char *path = cake_path_join(dir, name);
    cake_status st =
        cake_file_exists(path) ? cake_json_read(path, TOK_FILE_MAX, out, err) : CAKE_OK;
    if (st == CAKE_OK && *out && !json_object_is_type(*out, json_type_object))
        st = cake_fail(err, CAKE_EFORMAT, "%s: not a JSON object", path);
    free(path);
    return st;
}

cake_status tok_load_gpt2(cake_tokenizer *t, const char *dir, json_object *config,
                          cake_error *err) {
    const char *class = "GPT2Tokenizer";
    json_object *vocab = NULL, *extra = NULL;
    char *merges = NULL, *path = cake_path_join(dir, "merges.txt");
    size_t n = 0;
    cake_status st =
        config ? cake_json_string(config, "tokenizer_class", false, 100, &class, err) : CAKE_OK;
    bool qwen = strncmp(class, "Qwen2Tokenizer", 14) == 0,
         gpt2 = strncmp(class, "GPT2Tokenizer", 13) == 0;
    if (st == CAKE_OK && !qwen && !gpt2)
        st = cake_fail(
            err, CAKE_EUNSUPPORTED,
            "tokenizer_config.json: %s from vocab.json is not supported; the model needs a "
            "tokenizer.json",
            class);
    if (st == CAKE_OK) st = byte_level_component(t, qwen, err);
    if (st == CAKE_OK) st = read_optional(dir, "vocab.json", &vocab, err);
    if (st == CAKE_OK) st = load_vocab(t, vocab, err);
    if (st == CAKE_OK) st = cake_file_read(path, TOK_FILE_MAX, &merges, &n, err);
    if (st == CAKE_OK) st = gpt2_merges(t, merges, n, err);
    if (st == CAKE_OK) st = read_optional(dir, "added_tokens.json", &extra, err);
    if (st == CAKE_OK) st = added_from_config(t, config, extra, err);
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys && st == CAKE_OK; i++)
        st = add_special_named(t, named(config, keys[i]), err);
    if (st == CAKE_OK) st = add_special_named(t, "<|endoftext|>", err);
    if (st == CAKE_OK) st = tok_finish(t, err);
    if (st == CAKE_OK) {
        t->eos = cake_tokenizer_find(t, "<|endoftext|>", 13); /* the defaults of both classes */
        if (gpt2) t->bos = t->eos;
    }
    json_object_put(vocab);
    json_object_put(extra);
    free(merges);
    free(path);
    return st;
}

/* ---- opening ---- */
cake_status cake_tokenizer_parse(cake_tokenizer **out, const char *json, size_t json_len,
                                 const char *config, size_t config_len, cake_error *err) {
    json_object *root = NULL, *conf = NULL;
    cake_tokenizer *t = tok_new();
    cake_status st =
        json_len > TOK_FILE_MAX
            ? cake_fail(err, CAKE_ENOSPACE, "tokenizer.json: longer than %d bytes", TOK_FILE_MAX)
            : cake_json_parse(json, json_len, 64, "tokenizer.json", &root, err);
    if (st == CAKE_OK && config)
        st = cake_json_parse(config, config_len, 64, "tokenizer_config.json", &conf, err);
    if (st == CAKE_OK) st = tok_load_json(t, root, err);
    if (st == CAKE_OK && json_object_is_type(conf, json_type_object))
        st = apply_config(t, conf, NULL, err);
    json_object_put(root);
    json_object_put(conf);
    if (st == CAKE_OK)
        *out = t;
    else
        cake_tokenizer_free(t);
    return st;
}

cake_status cake_tokenizer_open(cake_tokenizer **out, const char *dir, cake_error *err) {
    json_object *config = NULL, *map = NULL, *root = NULL;
    char *json = cake_path_join(dir, "tokenizer.json"),
         *spm = cake_path_join(dir, "tokenizer.model");
    char *vocab = cake_path_join(dir, "vocab.json"), *gguf = NULL;
    cake_tokenizer *t = tok_new();
    cake_status st = read_optional(dir, "tokenizer_config.json", &config, err);
    if (st == CAKE_OK) st = read_optional(dir, "special_tokens_map.json", &map, err);
    if (st != CAKE_OK) goto out;
    if (cake_file_exists(json)) {
        st = cake_json_read(json, TOK_FILE_MAX, &root, err);
        if (st == CAKE_OK) st = tok_load_json(t, root, err);
    } else if (cake_file_exists(spm)) {
        char *data;
        size_t n;
        if ((st = cake_file_read(spm, TOK_FILE_MAX, &data, &n, err)) == CAKE_OK) {
            st = tok_load_spm(t, (const uint8_t *)data, n, err);
            free(data);
        }
    } else if (cake_file_exists(vocab)) {
        st = tok_load_gpt2(t, dir, config, err);
    } else if ((st = cake_gguf_find_file(dir, &gguf, err)) == CAKE_OK && gguf) {
        cake_gguf g;
        if ((st = cake_gguf_open(&g, gguf, err)) == CAKE_OK) {
            st = tok_load_gguf(t, &g, err);
            cake_gguf_deinit(&g);
        }
    } else if (st == CAKE_OK) {
        st =
            cake_fail(err, CAKE_ENOTFOUND,
                      "no tokenizer there: neither tokenizer.json, tokenizer.model nor vocab.json");
    }
    if (st == CAKE_OK) st = apply_config(t, config, map, err);
out:
    if (st == CAKE_OK)
        *out = t;
    else {
        if (!gguf) cake_fail_in(err, st, "%s", dir);
        cake_tokenizer_free(t);
    }
    json_object_put(config);
    json_object_put(map);
    json_object_put(root);
    free(json);
    free(spm);
    free(vocab);
    free(gguf);
    return st;
}

/* ---- asking ---- */
uint32_t cake_tokenizer_vocab_size(const cake_tokenizer *t) {
    return t->vocab.n;
}

static unsigned kind_of(const cake_tokenizer *t, uint32_t id) {
    return id < t->vocab.n ? t->vocab.v[id].kind : 0;
}

const uint8_t *cake_tokenizer_token_bytes(const cake_tokenizer *t, uint32_t id, size_t *len) {
    if (!kind_of(t, id)) return *len = 0, NULL;
    *len = t->vocab.v[id].raw_len;
    return (const uint8_t *)t->vocab.raw.p + t->vocab.v[id].raw_off;
}

bool cake_tokenizer_is_special(const cake_tokenizer *t, uint32_t id) {
    return kind_of(t, id) & TOK_SPECIAL;
}

bool cake_tokenizer_is_added(const cake_tokenizer *t, uint32_t id) {
    return kind_of(t, id) & TOK_ADDED;
}

int64_t cake_tokenizer_find(const cake_tokenizer *t, const char *content, size_t len) {
    uint32_t id = tok_vocab_find(&t->vocab, content, len);
    return id == TOK_NONE ? -1 : (int64_t)id;
}

int64_t cake_tokenizer_bos(const cake_tokenizer *t) {
    return t->bos;
}

int64_t cake_tokenizer_eos(const cake_tokenizer *t) {
    return t->eos;
}

void cake_tokenizer_n_special(const cake_tokenizer *t, size_t *n_before, size_t *n_after) {
    *n_before = t->n_before, *n_after = t->n_after;
}
