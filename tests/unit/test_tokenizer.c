/* The tokenizer against goldens of the reference implementations, against PCRE2, and under hostile
 * files and text. Small sets lie in tests/vectors/tokenizers; large ones are read from ../shared.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/file.h"
#include "master/tokenizer/internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VECTORS "tests/vectors/tokenizers/"
#define SHARED  "../shared/data/"

/* ---- helpers ---- */
static cake_tokenizer *open_json(const char *path) {
    char *text;
    size_t len;
    cake_error err;
    cake_tokenizer *t = NULL;
    if (cake_file_read(path, 64 << 20, &text, &len, NULL) != CAKE_OK)
        fail_msg("cannot read %s", path);
    if (cake_tokenizer_parse(&t, text, len, NULL, 0, &err) != CAKE_OK)
        fail_msg("%s: %s", path, err.msg);
    free(text);
    return t;
}

static cake_tokenizer *open_dir(const char *dir) {
    cake_error err;
    cake_tokenizer *t = NULL;
    if (cake_tokenizer_open(&t, dir, &err) != CAKE_OK) fail_msg("%s", err.msg);
    return t;
}

/* A folder holding one file under the name the tokenizer looks for. */
static cake_tokenizer *open_linked(const char *file, const char *name) {
    char dir[] = "/tmp/cake-tok-XXXXXX", *real = realpath(file, NULL);
    assert_non_null(real);
    assert_non_null(mkdtemp(dir));
    char *link = cake_path_join(dir, name);
    assert_int_equal(symlink(real, link), 0);
    cake_tokenizer *t = open_dir(dir);
    unlink(link);
    rmdir(dir);
    free(link);
    free(real);
    return t;
}

static cake_ids encode(const cake_tokenizer *t, const char *s, size_t n, unsigned flags) {
    cake_ids ids = {0};
    cake_error err;
    if (cake_tokenizer_encode(t, s, n, flags, &ids, &err) != CAKE_OK) fail_msg("%s", err.msg);
    return ids;
}

static json_object *get(json_object *o, const char *key) {
    json_object *v = NULL;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static bool ids_equal(const cake_ids *a, json_object *want) {
    if (a->n != json_object_array_length(want)) return false;
    for (size_t i = 0; i < a->n; i++)
        if (a->v[i] != (uint32_t)json_object_get_int64(json_object_array_get_idx(want, i)))
            return false;
    return true;
}

static void check_ids(const cake_tokenizer *t, const char *name, json_object *text,
                      json_object *want, unsigned flags) {
    if (!want) return;
    const char *s = json_object_get_string(text);
    cake_ids a = encode(t, s, (size_t)json_object_get_string_len(text), flags);
    if (!ids_equal(&a, want)) {
        fprintf(stderr, "%s: flags %u, text %s\n  want %s\n  got ", name, flags,
                json_object_to_json_string(text), json_object_to_json_string(want));
        for (size_t i = 0; i < a.n; i++) fprintf(stderr, " %u", a.v[i]);
        fprintf(stderr, "\n");
        fail_msg("%s: ids differ", name);
    }
    cake_ids_deinit(&a);
}

/* Decoding at once and in pieces; each piece must be whole UTF-8. Returns the text (caller frees).
 */
static char *decode(const cake_tokenizer *t, const uint32_t *v, size_t n, bool skip, size_t *len) {
    char *all;
    const char *part;
    size_t part_len;
    tok_buf sum = {0};
    assert_int_equal(cake_tokenizer_decode(t, v, n, skip, &all, len, NULL), CAKE_OK);
    assert_int_equal(tok_utf8_valid((const uint8_t *)all, *len), *len);
    cake_detok *d = cake_detok_new(t, skip);
    for (int round = 0; round < 2; round++) { /* a flushed one is as new */
        sum.n = 0;
        for (size_t i = 0; i < n; i++) {
            cake_detok_push(d, v[i], &part, &part_len);
            assert_int_equal(tok_utf8_valid((const uint8_t *)part, part_len), part_len);
            assert_true(tok_buf_add(&sum, part, part_len));
        }
        cake_detok_flush(d, &part, &part_len);
        assert_true(tok_buf_add(&sum, part, part_len));
        assert_int_equal(sum.n, *len);
        assert_memory_equal(sum.p, all, *len);
    }
    cake_detok_free(d);
    tok_buf_free(&sum);
    return all;
}

static void check_text(const cake_tokenizer *t, const char *name, json_object *ids,
                       json_object *want, bool skip) {
    if (!want) return;
    size_t n = json_object_array_length(ids), len;
    uint32_t *v = calloc(n + 1, sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = (uint32_t)json_object_get_int64(json_object_array_get_idx(ids, i));
    char *s = decode(t, v, n, skip, &len);
    if (len != (size_t)json_object_get_string_len(want) ||
        memcmp(s, json_object_get_string(want), len) != 0)
        fail_msg("%s: ids %s decode to \"%s\", want %s", name, json_object_to_json_string(ids), s,
                 json_object_to_json_string(want));
    free(s);
    free(v);
}

static json_object *read_json(const char *path) {
    json_object *o = NULL;
    return cake_json_read(path, 64 << 20, &o, NULL) == CAKE_OK ? o : NULL;
}

static void check_golden_file(const cake_tokenizer *t, const char *path) {
    char *text;
    size_t len, lines = 0;
    if (cake_file_read(path, 1 << 24, &text, &len, NULL) != CAKE_OK)
        fail_msg("cannot read %s", path);
    for (char *s = text, *nl; (nl = strchr(s, '\n')) != NULL; s = nl + 1, lines++) {
        json_object *o = NULL;
        assert_int_equal(cake_json_parse(s, (size_t)(nl - s), 8, path, &o, NULL), CAKE_OK);
        check_ids(t, path, get(o, "t"), get(o, "i"), CAKE_TOK_PARSE_SPECIAL);
        check_ids(t, path, get(o, "t"), get(o, "s"), CAKE_TOK_PARSE_SPECIAL | CAKE_TOK_ADD_SPECIAL);
        check_ids(t, path, get(o, "t"), get(o, "p"), 0);
        check_text(t, path, get(o, get(o, "s") ? "s" : "p"), get(o, "d"), false);
        if (get(o, "s")) check_text(t, path, get(o, "s"), get(o, "k"), true);
        json_object_put(o);
    }
    assert_true(lines >= 40);
    free(text);
}

/* ---- goldens in the repository ---- */
static void test_goldens(void **state) {
    (void)state;
    static const char *const names[] = {
        "qwen2",           "llama3",           "gpt2",       "o200k",     "tekken",
        "falcon",          "deepseek",         "smollm",     "llama2",    "gemma",
        "metaspace-first", "metaspace-always", "whitespace", "behaviors", "stories260K",
        "babyllama105"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, VECTORS "%s.json", names[i]);
        cake_tokenizer *t = open_json(path);
        snprintf(path, sizeof path, VECTORS "%s.golden", names[i]);
        check_golden_file(t, path);
        cake_tokenizer_free(t);
    }
}

static void test_sentencepiece_model(void **state) {
    (void)state;
    cake_tokenizer *t = open_linked(VECTORS "tok105.model", "tokenizer.model");
    check_golden_file(t, VECTORS "tok105.golden");
    size_t before, after;
    cake_tokenizer_n_special(t, &before, &after);
    assert_int_equal(before, 1);
    assert_int_equal(after, 0);
    assert_int_equal(cake_tokenizer_bos(t), 1);
    assert_int_equal(cake_tokenizer_eos(t), 2);
    cake_tokenizer_free(t);
}

/* ---- the header's small promises ---- */
static void test_tokens(void **state) {
    (void)state;
    size_t n;
    cake_tokenizer *t = open_json(VECTORS "qwen2.json");
    int64_t end = cake_tokenizer_find(t, "<|im_end|>", 10),
            the = cake_tokenizer_find(t, "\xC4\xA0the", 5);
    assert_true(end >= 0 && the >= 0);
    assert_true(cake_tokenizer_is_special(t, (uint32_t)end) &&
                cake_tokenizer_is_added(t, (uint32_t)end));
    assert_false(cake_tokenizer_is_special(t, (uint32_t)the) ||
                 cake_tokenizer_is_added(t, (uint32_t)the));
    assert_memory_equal(cake_tokenizer_token_bytes(t, (uint32_t)the, &n), " the", 4);
    assert_int_equal(n, 4);
    int64_t tool = cake_tokenizer_find(t, "<tool_call>", 11);
    assert_true(cake_tokenizer_is_added(t, (uint32_t)tool) &&
                !cake_tokenizer_is_special(t, (uint32_t)tool));
    assert_int_equal(tool + 1, cake_tokenizer_vocab_size(t));
    assert_null(cake_tokenizer_token_bytes(t, 1u << 30, &n));
    assert_int_equal(n, 0);
    assert_int_equal(cake_tokenizer_find(t, "no such token", 13), -1);
    assert_int_equal(cake_tokenizer_bos(t), -1);
    cake_tokenizer_free(t);

    t = open_json(VECTORS "llama2.json");
    int64_t byte = cake_tokenizer_find(t, "<0x0A>", 6);
    assert_memory_equal(cake_tokenizer_token_bytes(t, (uint32_t)byte, &n), "\n", 1);
    assert_int_equal(n, 1);
    cake_tokenizer_free(t);
}

static void test_config(void **state) {
    (void)state;
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"</"
                               "s>\":1,\"a\":2,\"b\":3},\"merges\":[]}}";
    static const char config[] = "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\","
                                 "\"add_bos_token\":true,\"add_eos_token\":true}";
    cake_tokenizer *t = NULL;
    assert_int_equal(
        cake_tokenizer_parse(&t, json, sizeof json - 1, config, sizeof config - 1, NULL), CAKE_OK);
    assert_int_equal(cake_tokenizer_bos(t), 0);
    assert_int_equal(cake_tokenizer_eos(t), 1);
    cake_ids ids = encode(t, "ab", 2, CAKE_TOK_ADD_SPECIAL);
    static const uint32_t want[] = {0, 2, 3, 1};
    assert_int_equal(ids.n, 4);
    assert_memory_equal(ids.v, want, sizeof want);
    cake_ids_deinit(&ids);
    cake_tokenizer_free(t);
}

static void test_gpt2_files(void **state) {
    (void)state;
    char dir[] = "/tmp/cake-tok-XXXXXX";
    cake_error err;
    cake_tokenizer *t = NULL;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(cake_tokenizer_open(&t, dir, &err), CAKE_ENOTFOUND);
    static const char *const files[][2] = {
        {"vocab.json",
         "{\"h\":0,\"i\":1,\"\xC4\xA0\":2,\"hi\":3,\"\xC4\xA0hi\":4,\"<|endoftext|>\":5}"},
        {"merges.txt", "#version: 0.2\nh i\n\xC4\xA0 hi\n"},
        {"added_tokens.json", "{\"<x>\":6}"}};
    for (size_t i = 0; i < 3; i++) {
        char *p = cake_path_join(dir, files[i][0]);
        assert_int_equal(cake_file_write(p, files[i][1], strlen(files[i][1]), 0644, NULL), CAKE_OK);
        free(p);
    }
    t = open_dir(dir);
    cake_ids ids = encode(t, "hi hi<x><|endoftext|>", 21, CAKE_TOK_PARSE_SPECIAL);
    static const uint32_t want[] = {3, 4, 6, 5};
    assert_int_equal(ids.n, 4);
    assert_memory_equal(ids.v, want, sizeof want);
    assert_int_equal(cake_tokenizer_eos(t), 5);
    cake_ids_deinit(&ids);
    cake_tokenizer_free(t);
    char *p = cake_path_join(dir, "tokenizer_config.json"); /* a class whose rules nobody told us */
    static const char other[] = "{\"tokenizer_class\":\"BloomTokenizer\"}";
    assert_int_equal(cake_file_write(p, other, sizeof other - 1, 0644, NULL), CAKE_OK);
    assert_int_equal(cake_tokenizer_open(&t, dir, &err), CAKE_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "BloomTokenizer"));
    unlink(p);
    free(p);
    for (size_t i = 0; i < 3; i++) {
        p = cake_path_join(dir, files[i][0]);
        unlink(p);
        free(p);
    }
    rmdir(dir);
}

static void test_ill_formed_text(void **state) {
    (void)state;
    static const struct {
        const char *in, *same;
        size_t n;
    } cases[] = {{"a\xFFz", "a\xEF\xBF\xBDz", 3},
                 {"\xE2\x82", "\xEF\xBF\xBD", 2},
                 {"\xE2\x28\xA1", "\xEF\xBF\xBD(\xEF\xBF\xBD", 3},
                 {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD", 2},
                 {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", 3},
                 {"\xF0\x9F\x98x", "\xEF\xBF\xBDx", 4},
                 {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", 4}};
    cake_tokenizer *t = open_json(VECTORS "qwen2.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cake_ids a = encode(t, cases[i].in, cases[i].n, 0);
        cake_ids b = encode(t, cases[i].same, strlen(cases[i].same), 0);
        assert_int_equal(a.n, b.n);
        assert_memory_equal(a.v, b.v, a.n * sizeof *a.v);
        cake_ids_deinit(&a);
        cake_ids_deinit(&b);
    }
    cake_tokenizer_free(t);
}

/* A three-byte character in three byte tokens comes out whole, when its last byte has come. */
static void test_detok_waits(void **state) {
    (void)state;
    const char *s;
    size_t n;
    cake_tokenizer *t = open_json(VECTORS "qwen2.json");
    cake_detok *d = cake_detok_new(t, false);
    static const uint8_t euro[] = {0xE2, 0x82, 0xAC};
    for (int i = 0; i < 3; i++) {
        char c[4];
        int64_t id = cake_tokenizer_find(t, c, tok_utf8_put(tok_byte_char(euro[i]), c));
        cake_detok_push(d, (uint32_t)id, &s, &n);
        assert_int_equal(n, i == 2 ? 3 : 0);
        if (i == 2) assert_memory_equal(s, euro, 3);
    }
    char c[4];
    int64_t id = cake_tokenizer_find(t, c, tok_utf8_put(tok_byte_char(0xE2), c));
    cake_detok_push(d, (uint32_t)id, &s, &n);
    cake_detok_push(d, 1u << 25, &s, &n); /* no such token: nothing */
    assert_int_equal(n, 0);
    cake_detok_flush(d, &s, &n);
    assert_string_equal(s, "\xEF\xBF\xBD");
    cake_detok_free(d);
    cake_tokenizer_free(t);
}

/* ---- random input ---- */
static uint64_t rng = 0x853C49E6748FEA9Bu;
static uint32_t rnd(uint32_t n) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return (uint32_t)((rng >> 33) % n);
}

static size_t random_text(char *out, size_t chars) {
    static const char *const atoms[] = {" ",
                                        " ",
                                        "\n",
                                        "\r",
                                        "\r\n",
                                        "\t",
                                        "'",
                                        "'s",
                                        "'S",
                                        "'ll",
                                        "'Re",
                                        "'\xC5\xBF",
                                        "a",
                                        "bc",
                                        "Z",
                                        "1",
                                        "23",
                                        "456",
                                        ".",
                                        "!",
                                        "/",
                                        "-",
                                        "  ",
                                        "\xC2\xA0",
                                        "\xC2\x85",
                                        "\xE3\x80\x80",
                                        "\xE2\x80\xA8",
                                        "\xD9\xA3",
                                        "\xC2\xB2",
                                        "\xCC\x81",
                                        "\xCA\xB0",
                                        "\xC7\x85",
                                        "\xE4\xB8\xAD",
                                        "Q",
                                        "\xC3\x89",
                                        "\xC3\xA9",
                                        "D",
                                        "e"};
    size_t n = 0;
    for (size_t i = 0; i < chars; i++) {
        if (rnd(3)) {
            const char *a = atoms[rnd(sizeof atoms / sizeof *atoms)];
            memcpy(out + n, a, strlen(a));
            n += strlen(a);
            continue;
        }
        static const uint32_t top[] = {0x80, 0x250, 0x800, 0x3400, 0xD800, 0x20000, 0x110000};
        uint32_t cp = rnd(top[rnd(7)]);
        if ((cp >= 0xD800 && cp < 0xE000) || cp == 0x180E) cp = 'x';
        n += tok_utf8_put(cp, out + n);
    }
    return n;
}

/* PCRE2 10.42 knows Unicode 14: leave out what it classes otherwise than the scanners. */
static bool pcre2_agrees(const char *s, size_t n, tok_regex *const re[], tok_scratch *sc) {
    static const uint8_t bits[] = {TOK_C_L, TOK_C_N, TOK_C_M, TOK_C_UP, TOK_C_LO};
    size_t a, b;
    for (size_t i = 0; i < n;) {
        size_t at = i;
        uint8_t c = tok_class_table()[tok_utf8_next((const uint8_t *)s, &i)];
        for (size_t k = 0; k < sizeof bits; k++)
            if ((tok_regex_find(re[k], sc, s + at, i - at, 0, &a, &b, NULL) == 1) !=
                !!(c & bits[k]))
                return false;
    }
    return true;
}

static void test_scanners_equal_pcre2(void **state) {
    (void)state;
    const char *const patterns[] = {tok_pattern_gpt2, tok_pattern_qwen2, tok_pattern_llama3,
                                    tok_pattern_o200k, tok_pattern_tekken};
    tok_scratch *sc = tok_scratch_new();
    static const char *const one[] = {"\\p{L}", "\\p{N}", "\\p{M}", "[\\p{Lu}\\p{Lt}]", "\\p{Ll}"};
    tok_regex *class[5];
    for (size_t k = 0; k < 5; k++)
        assert_int_equal(tok_regex_new(&class[k], one[k], strlen(one[k]), NULL), CAKE_OK);
    for (size_t p = 0; p < 5; p++) {
        tok_regex *re;
        tok_scan_fn *scan = tok_scan_for(patterns[p], strlen(patterns[p]));
        assert_non_null(scan);
        assert_int_equal(tok_regex_new(&re, patterns[p], strlen(patterns[p]), NULL), CAKE_OK);
        size_t compared = 0;
        for (int k = 0; k < 20000; k++) {
            char s[512];
            size_t n = random_text(s, 1 + rnd(24)), a, b;
            if (!pcre2_agrees(s, n, class, sc)) continue;
            compared++;
            for (size_t i = 0; i < n;) {
                assert_int_equal(tok_regex_find(re, sc, s, n, i, &a, &b, NULL), 1);
                assert_int_equal(a, i);
                size_t to = scan((const uint8_t *)s, i, n);
                if (to != b)
                    fail_msg("%s: \"%.*s\" at %zu: %zu, PCRE2 %zu", patterns[p], (int)n, s, i, to,
                             b);
                i = to;
            }
        }
        assert_true(compared > 5000);
        tok_regex_free(re);
    }
    for (size_t k = 0; k < 5; k++) tok_regex_free(class[k]);
    tok_scratch_free(sc);
    assert_null(tok_scan_for("\\s+", 3));
}

/* Decoding any ids at all: pieces equal the whole, always UTF-8. */
static void test_detok_random(void **state) {
    (void)state;
    static const char *const names[] = {"qwen2", "llama2", "gemma", "metaspace-always",
                                        "whitespace"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, VECTORS "%s.json", names[i]);
        cake_tokenizer *t = open_json(path);
        for (int k = 0; k < 2000; k++) {
            uint32_t v[40];
            size_t n = rnd(40), len;
            for (size_t j = 0; j < n; j++) v[j] = rnd(cake_tokenizer_vocab_size(t) + 3);
            free(decode(t, v, n, k & 1, &len));
        }
        cake_tokenizer_free(t);
    }
}

/* Byte-level and byte-fallback vocabularies give back every text as it was. */
static void test_round_trip(void **state) {
    (void)state;
    static const char *const names[] = {"llama3", "smollm", "o200k", "deepseek", "gemma"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256], s[1024];
        snprintf(path, sizeof path, VECTORS "%s.json", names[i]);
        cake_tokenizer *t = open_json(path);
        for (int k = 0; k < 2000; k++) {
            size_t n = random_text(s, rnd(60)), len;
            cake_ids ids = encode(t, s, n, 0);
            char *back = decode(t, ids.v, ids.n, false, &len);
            assert_int_equal(len, n);
            assert_memory_equal(back, s, n);
            free(back);
            cake_ids_deinit(&ids);
        }
        cake_tokenizer_free(t);
    }
}

/* ---- hostile files ---- */
static void test_hostile_files(void **state) {
    (void)state;
#define BPE(VOCAB, MERGES)                                                                         \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{" VOCAB "},\"merges\":[" MERGES "]}"
#define WITH(MORE) "{" BPE("\"a\":0,\"b\":1,\"ab\":2", "\"a b\"") "," MORE "}"
#define PRE(X)     WITH("\"pre_tokenizer\":" X)
    static const struct {
        const char *json;
        cake_status st;
        const char *names; /* must be in the message */
    } cases[] = {
        {"", CAKE_EFORMAT, ""},
        {"[]", CAKE_EFORMAT, "object"},
        {"{}", CAKE_EFORMAT, "model"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", CAKE_EUNSUPPORTED, "Unigram"},
        {"{" BPE("\"a\":-1", "") "}", CAKE_EFORMAT, "\"a\""},
        {"{" BPE("\"a\":4294967296", "") "}", CAKE_EFORMAT, "\"a\""},
        {"{" BPE("\"a\":5000000", "") "}", CAKE_EFORMAT, "\"a\""},
        {"{" BPE("\"a\":\"0\"", "") "}", CAKE_EFORMAT, "\"a\""},
        {"{" BPE("\"a\":0,\"b\":0", "") "}", CAKE_EFORMAT, "id 0"},
        {"{" BPE("\"a\":0,\"b\":1", "\"a b\"") "}", CAKE_EFORMAT, "merges"},
        {"{" BPE("\"a\":0,\"b\":1", "\"a c\"") "}", CAKE_EFORMAT, "merges"},
        {"{" BPE("\"a\":0", "\"a\"") "}", CAKE_EFORMAT, "merges"},
        {"{" BPE("\"a\":0", "\"a a a\"") "}", CAKE_EFORMAT, "merges"},
        {"{" BPE("\"a\":0", "[\"a\"]") "}", CAKE_EFORMAT, "merges"},
        {"{" BPE("\"a\":0", "[\"a\",7]") "}", CAKE_EFORMAT, "merges"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}", CAKE_EFORMAT,
         "\"u\""},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", CAKE_EUNSUPPORTED,
         "dropout"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         CAKE_EUNSUPPORTED, "</w>"},
        {WITH("\"added_tokens\":[7]"), CAKE_EFORMAT, "added_tokens"},
        {WITH("\"added_tokens\":[{\"id\":3}]"), CAKE_EFORMAT, "content"},
        {WITH("\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]"), CAKE_EFORMAT, "id 0"},
        {WITH("\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]"), CAKE_EFORMAT, "two ids"},
        {WITH("\"normalizer\":{\"type\":\"Nmt\"}"), CAKE_EUNSUPPORTED, "Nmt"},
        {WITH("\"normalizer\":{\"type\":\"Precompiled\"}"), CAKE_EUNSUPPORTED, "Precompiled"},
        {WITH("\"normalizer\":7"), CAKE_EFORMAT, "normalizer"},
        {PRE("{\"type\":\"BertPreTokenizer\"}"), CAKE_EUNSUPPORTED, "BertPreTokenizer"},
        {PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}"),
         CAKE_EUNSUPPORTED, "pattern"},
        {PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}"),
         CAKE_EUNSUPPORTED, "&&"},
        {PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?m:.)\"},\"behavior\":\"Isolated\"}"),
         CAKE_EUNSUPPORTED, "(?m)"},
        {PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}"),
         CAKE_EUNSUPPORTED, "Sideways"},
        {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":"
             "\"ByteLevel\"}]}"),
         CAKE_EUNSUPPORTED, "ByteLevel"},
        {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":"
             "\"Metaspace\","
             "\"replacement\":\"_\"}]}"),
         CAKE_EUNSUPPORTED, "Metaspace"},
        {WITH("\"post_processor\":{\"type\":\"BertProcessing\"}"), CAKE_EUNSUPPORTED,
         "BertProcessing"},
        {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
              "\"id\":\"x\"}},"
              "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"x\":{\"ids\":[99]}}}"),
         CAKE_EFORMAT, "\"x\""},
        {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"),
         CAKE_EUNSUPPORTED, "template"},
        {WITH("\"decoder\":{\"type\":\"CTC\"}"), CAKE_EUNSUPPORTED, "CTC"},
        {WITH("\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
              "\"ByteFallback\"}]}"),
         CAKE_EUNSUPPORTED, "ByteFallback"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cake_error err = {0};
        cake_tokenizer *t = NULL;
        cake_status st =
            cake_tokenizer_parse(&t, cases[i].json, strlen(cases[i].json), NULL, 0, &err);
        if (st != cases[i].st || !strstr(err.msg, cases[i].names))
            fail_msg("%s: %s \"%s\"", cases[i].json, cake_status_name(st), err.msg);
        assert_null(t);
    }
    /* forty Sequences in each other, a thousand steps */
    tok_buf b = {0};
    static const char head[] = "{" BPE("\"a\":0", "") ",\"normalizer\":";
    assert_true(tok_buf_add(&b, head, sizeof head - 1));
    for (int i = 0; i < 40; i++) {
        static const char open[] = "{\"type\":\"Sequence\",\"normalizers\":[";
        assert_true(tok_buf_add(&b, open, sizeof open - 1));
    }
    for (int i = 0; i < 40; i++) assert_true(tok_buf_add(&b, "]}", 2));
    assert_true(tok_buf_add(&b, "}", 1));
    cake_tokenizer *t = NULL;
    assert_int_equal(cake_tokenizer_parse(&t, b.p, b.n, NULL, 0, NULL), CAKE_EFORMAT);
    b.n = 0;
    static const char many[] =
        "{" BPE("\"a\":0", "") ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[";
    assert_true(tok_buf_add(&b, many, sizeof many - 1));
    for (int i = 0; i < 999; i++) assert_true(tok_buf_add(&b, "{\"type\":\"NFC\"},", 15));
    assert_true(tok_buf_add(&b, "{\"type\":\"NFC\"}]}}", 17));
    assert_int_equal(cake_tokenizer_parse(&t, b.p, b.n, NULL, 0, NULL), CAKE_EUNSUPPORTED);
    tok_buf_free(&b);
}

/* A pattern that backtracks without end stops at the match limit with an error. */
static void test_match_limit(void **state) {
    (void)state;
    static const char json[] =
        PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|aa)+[bc]\"},\"behavior\":"
            "\"Isolated\"}");
    cake_error err;
    cake_tokenizer *t = NULL;
    cake_ids ids = {0};
    char s[4000];
    memset(s, 'a', sizeof s);
    assert_int_equal(cake_tokenizer_parse(&t, json, sizeof json - 1, NULL, 0, &err), CAKE_OK);
    assert_int_equal(cake_tokenizer_encode(t, s, sizeof s, 0, &ids, &err), CAKE_EFORMAT);
    assert_non_null(strstr(err.msg, "too many steps"));
    assert_int_equal(cake_tokenizer_encode(t, "aab", 3, 0, &ids, &err), CAKE_OK);
    assert_int_equal(ids.n, 2);
    cake_ids_deinit(&ids);
    cake_tokenizer_free(t);
}

/* Texts on which a careless tokenizer takes quadratic time: they only have to come back. */
static void test_long_texts(void **state) {
    (void)state;
    enum { N = 400000 };
    char *s = malloc(3 * N);
    static const char *const names[] = {"qwen2", "llama2", "metaspace-always"};
    for (size_t i = 0; i < 3; i++) {
        char path[256];
        snprintf(path, sizeof path, VECTORS "%s.json", names[i]);
        cake_tokenizer *t = open_json(path);
        static const char *const units[] = {
            "a", " ", "ab", "\n", "<", "\xCC\x81\xCC\xA3", "\xE2\x96\x81", "<|im_en"};
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t len = strlen(units[u]), n = 0;
            for (; n + len <= N; n += len) memcpy(s + n, units[u], len);
            cake_ids ids = encode(t, s, n, CAKE_TOK_PARSE_SPECIAL);
            assert_true(ids.n > 0 || i == 2); /* the third strips white space */
            cake_ids_deinit(&ids);
        }
        cake_tokenizer_free(t);
    }
    free(s);
}

/* Each behaviour of Split, with and without invert; ids from the reference. */
static void test_split_behaviors(void **state) {
    (void)state;
    static const struct {
        const char *behavior, *ids; /* of "aabbaab", then of "baaab" */
        bool invert;
    } cases[] = {{"Isolated",
                  "005001"
                  "10001",
                  false},
                 {"Isolated",
                  "005001"
                  "10001",
                  true},
                 {"Removed",
                  "51"
                  "11",
                  false},
                 {"Removed",
                  "0000"
                  "000",
                  true},
                 {"Contiguous",
                  "2521"
                  "1201",
                  false},
                 {"Contiguous",
                  "2521"
                  "1201",
                  true},
                 {"MergedWithPrevious",
                  "001401"
                  "4001",
                  false},
                 {"MergedWithPrevious",
                  "03103"
                  "1003",
                  true},
                 {"MergedWithNext",
                  "03103"
                  "1003",
                  false},
                 {"MergedWithNext",
                  "001401"
                  "4001",
                  true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[512], got[40] = "", *p = got;
        cake_tokenizer *t = NULL;
        cake_ids ids = {0};
        snprintf(json, sizeof json,
                 "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},"
                 "\"behavior\":\"%s\","
                 "\"invert\":%s},\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"aa\":2,\"ab\":3,\"ba\":4,"
                 "\"bb\":5},"
                 "\"merges\":[\"a a\",\"a b\",\"b a\",\"b b\"]}}",
                 cases[i].behavior, cases[i].invert ? "true" : "false");
        assert_int_equal(cake_tokenizer_parse(&t, json, strlen(json), NULL, 0, NULL), CAKE_OK);
        assert_int_equal(cake_tokenizer_encode(t, "aabbaab", 7, 0, &ids, NULL), CAKE_OK);
        assert_int_equal(cake_tokenizer_encode(t, "baaab", 5, 0, &ids, NULL), CAKE_OK);
        for (size_t k = 0; k < ids.n; k++) *p++ = (char)('0' + ids.v[k]);
        assert_string_equal(got, cases[i].ids);
        cake_ids_deinit(&ids);
        cake_tokenizer_free(t);
    }
}

/* Long words take another way than short ones: the order of merging is the same. */
static void test_long_words(void **state) {
    (void)state;
    static const char json[] =
        "{\"model\":{\"vocab\":{\"a\":0,\"aa\":1,\"aaa\":2},\"merges\":[\"a a\",\"aa a\"]}}";
    char s[2001];
    cake_tokenizer *t = NULL;
    memset(s, 'a', sizeof s);
    assert_int_equal(cake_tokenizer_parse(&t, json, sizeof json - 1, NULL, 0, NULL), CAKE_OK);
    for (size_t n = 3; n <= sizeof s;
         n += n < 140 ? 2 : 186) { /* odd: pairs from the left, "aaa" last */
        cake_ids ids = encode(t, s, n | 1, 0);
        assert_int_equal(ids.n, (n | 1) / 2);
        for (size_t i = 0; i + 1 < ids.n; i++) assert_int_equal(ids.v[i], 1);
        assert_int_equal(ids.v[ids.n - 1], 2);
        cake_ids_deinit(&ids);
    }
    cake_tokenizer_free(t);
}

/* Random merges over a two-letter alphabet, many ways to one token, ranks in any order: words of
 * every length against the rule carried out naively (lowest rank, then leftmost, until none is
 * left). */
static void test_random_merges(void **state) {
    (void)state;
    for (int round = 0; round < 150; round++) {
        char vocab[40][16] = {"a", "b"}, s[400];
        struct {
            uint32_t l, r, id;
        } m[40];
        uint32_t n_vocab = 2, n_m = 0;
        for (int k = 0; k < 60 && n_m < 30; k++) {
            uint32_t l = rnd(n_vocab), r = rnd(n_vocab), id = 0, j = 0;
            char w[32];
            if (strlen(vocab[l]) + strlen(vocab[r]) > 8) continue;
            snprintf(w, sizeof w, "%s%s", vocab[l], vocab[r]);
            while (id < n_vocab && strcmp(vocab[id], w) != 0) id++;
            if (id == n_vocab) memcpy(vocab[n_vocab++], w, sizeof vocab[0]);
            while (j < n_m && (m[j].l != l || m[j].r != r)) j++;
            if (j < n_m) continue;
            uint32_t at = rnd(n_m + 1); /* any rank */
            memmove(m + at + 1, m + at, (n_m - at) * sizeof *m);
            m[at].l = l, m[at].r = r, m[at].id = id;
            n_m++;
        }
        tok_buf json = {0};
        char part[80];
        static const char head[] = "{\"model\":{\"vocab\":{";
        assert_true(tok_buf_add(&json, head, sizeof head - 1));
        for (uint32_t i = 0; i < n_vocab; i++) {
            snprintf(part, sizeof part, "%s\"%s\":%u", i ? "," : "", vocab[i], i);
            assert_true(tok_buf_add(&json, part, strlen(part)));
        }
        assert_true(tok_buf_add(&json, "},\"merges\":[", 12));
        for (uint32_t i = 0; i < n_m; i++) {
            snprintf(part, sizeof part, "%s\"%s %s\"", i ? "," : "", vocab[m[i].l], vocab[m[i].r]);
            assert_true(tok_buf_add(&json, part, strlen(part)));
        }
        assert_true(tok_buf_add(&json, "]}}", 3));
        cake_tokenizer *t = NULL;
        assert_int_equal(cake_tokenizer_parse(&t, json.p, json.n, NULL, 0, NULL), CAKE_OK);
        for (int k = 0; k < 12; k++) {
            uint32_t want[400], n = k & 1 ? 129 + rnd(270) : 1 + rnd(128), len = n;
            for (uint32_t i = 0; i < n; i++) want[i] = rnd(2), s[i] = want[i] ? 'b' : 'a';
            for (;;) {
                uint32_t best = n_m, at = 0;
                for (uint32_t i = 0; i + 1 < n; i++)
                    for (uint32_t j = 0; j < best; j++)
                        if (m[j].l == want[i] && m[j].r == want[i + 1]) best = j, at = i;
                if (best == n_m) break;
                want[at] = m[best].id;
                memmove(want + at + 1, want + at + 2, (n - at - 2) * sizeof *want);
                n--;
            }
            cake_ids ids = encode(t, s, len, 0);
            assert_int_equal(ids.n, n);
            assert_memory_equal(ids.v, want, n * sizeof *want);
            cake_ids_deinit(&ids);
        }
        cake_tokenizer_free(t);
        tok_buf_free(&json);
    }
}

/* ---- threads ---- */
static const cake_tokenizer *shared_tok;
static void *encode_much(void *arg) {
    cake_ids *out = arg;
    for (int k = 0; k < 20; k++) {
        out->n = 0;
        if (cake_tokenizer_encode(shared_tok, (const char *)out[1].v, out[1].n, 0, out, NULL) !=
            CAKE_OK)
            abort();
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    cake_tokenizer *t = open_json(VECTORS "qwen2.json");
    shared_tok = t;
    char *text;
    size_t len;
    assert_int_equal(cake_file_read(VECTORS "README.md", 1 << 20, &text, &len, NULL), CAKE_OK);
    pthread_t th[4];
    cake_ids ids[4][2] = {0};
    for (int i = 0; i < 4; i++) {
        ids[i][1] = (cake_ids){.v = (uint32_t *)(void *)text, .n = len};
        assert_int_equal(pthread_create(&th[i], NULL, encode_much, ids[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(th[i], NULL);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(ids[i][0].n, ids[0][0].n);
        assert_memory_equal(ids[i][0].v, ids[0][0].v, ids[0][0].n * sizeof(uint32_t));
    }
    for (int i = 0; i < 4; i++) cake_ids_deinit(&ids[i][0]);
    free(text);
    cake_tokenizer_free(t);
}

/* ---- large vectors in ../shared ---- */
static bool shared_missing(const char *path) {
    if (cake_file_exists(path) || cake_dir_exists(path)) return false;
    printf("skip: %s is not there\n", path);
    return true;
}

/* The tokenizer of ../shared for a name of a vector file, or NULL after saying what is missing. */
static cake_tokenizer *shared_tokenizer(const char *name) {
    char path[512];
    static const char *const folders[] = {SHARED "tokenizers/", SHARED "models/"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", folders[i], name);
        if (cake_dir_exists(path)) return open_dir(path);
        if (cake_file_exists(path)) return open_linked(path, "tokenizer.model");
    }
    printf("skip: no tokenizer files for %s\n", name);
    return NULL;
}

static void test_hf_vectors(void **state) {
    (void)state;
    static const char path[] = SHARED "tokenizers/vectors/hf-tokenizers-golden.json";
    if (shared_missing(path)) skip();
    json_object *all = read_json(path);
    assert_non_null(all);
    json_object_object_foreach(all, name, list) {
        cake_tokenizer *t = shared_tokenizer(name);
        for (size_t i = 0; t && i < json_object_array_length(list); i++) {
            json_object *c = json_object_array_get_idx(list, i);
            check_ids(t, name, get(c, "text"), get(c, "ids"), CAKE_TOK_PARSE_SPECIAL);
            check_ids(t, name, get(c, "text"), get(c, "ids_with_special"),
                      CAKE_TOK_PARSE_SPECIAL | CAKE_TOK_ADD_SPECIAL);
            check_text(t, name, get(c, "ids"), get(c, "decoded"), false);
        }
        cake_tokenizer_free(t);
    }
    json_object_put(all);
}

static void test_sentencepiece_vectors(void **state) {
    (void)state;
    static const char path[] = SHARED "tokenizers/vectors/sentencepiece-golden.json";
    if (shared_missing(path)) skip();
    json_object *all = read_json(path);
    assert_non_null(all);
    json_object_object_foreach(all, name, list) {
        cake_tokenizer *t = shared_tokenizer(strncmp(name, "models/", 7) == 0 ? name + 7 : name);
        for (size_t i = 0; t && i < json_object_array_length(list); i++) {
            json_object *c = json_object_array_get_idx(list, i);
            check_ids(t, name, get(c, "text"), get(c, "ids"), 0);
            check_text(t, name, get(c, "ids"), get(c, "decoded"), false);
        }
        cake_tokenizer_free(t);
    }
    json_object_put(all);
}

/* transformers' clean_up_tokenization_spaces, which its vectors' texts went through for some
 * models. */
static size_t clean_up(char *s, size_t n) {
    static const char *const pairs[][2] = {
        {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
        {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        size_t from = strlen(pairs[i][0]), to = strlen(pairs[i][1]);
        for (char *p = s; (p = memmem(p, n - (size_t)(p - s), pairs[i][0], from)) != NULL;
             p += to) {
            memcpy(p, pairs[i][1], to);
            memmove(p + to, p + from, n - (size_t)(p - s) - from);
            n -= from - to;
        }
    }
    return n;
}

static void test_transformers_js_vectors(void **state) {
    (void)state;
    static const char path[] = SHARED "tokenizers/vectors/transformers.js-vectors.json";
    static const char *const have[][2] = {{"Xenova/gpt2", "gpt2"},
                                          {"openai-community/gpt2", "gpt2"},
                                          {"Xenova/llama-tokenizer", "llama2-32k"},
                                          {"Xenova/llama3-tokenizer", "llama3.2"},
                                          {"Xenova/llama3-tokenizer-new", "llama3.2"},
                                          {"Xenova/Qwen1.5-0.5B-Chat", "qwen2.5"}};
    if (shared_missing(path)) skip();
    json_object *all = read_json(path);
    assert_non_null(all);
    json_object_object_foreach(all, name, cases) {
        cake_tokenizer *t = NULL;
        for (size_t i = 0; i < sizeof have / sizeof *have; i++)
            if (strcmp(have[i][0], name) == 0) {
                char file[300];
                snprintf(file, sizeof file, "%s%s", have[i][1], i == 2 ? "/tokenizer.model" : "");
                t = shared_tokenizer(file);
            }
        if (!t) {
            printf("skip: transformers.js vectors of %s: no tokenizer files for it\n", name);
            continue;
        }
        json_object_object_foreach(cases, title, c) {
            (void)title;
            json_object *text = get(c, "text"), *ids = get(c, "ids"), *want = get(c, "decoded");
            /* some of these were encoded with bos, some without */
            cake_ids a = encode(t, json_object_get_string(text),
                                (size_t)json_object_get_string_len(text), CAKE_TOK_PARSE_SPECIAL);
            bool bos = !ids_equal(&a, ids);
            cake_ids_deinit(&a);
            if (bos) check_ids(t, name, text, ids, CAKE_TOK_PARSE_SPECIAL | CAKE_TOK_ADD_SPECIAL);
            if (strcmp(name, "Xenova/llama-tokenizer") == 0)
                continue; /* its texts keep the space that follows <s>; the reference here strips it
                           */
            size_t n = json_object_array_length(ids), len;
            uint32_t *v = calloc(n + 1, sizeof *v);
            for (size_t i = 0; i < n; i++)
                v[i] = (uint32_t)json_object_get_int64(json_object_array_get_idx(ids, i));
            char *s = decode(t, v, n, false, &len);
            size_t want_len = (size_t)json_object_get_string_len(want);
            if (len != want_len || memcmp(s, json_object_get_string(want), len) != 0) {
                len = clean_up(s, len);
                if (len != want_len || memcmp(s, json_object_get_string(want), len) != 0)
                    fail_msg("%s: %s decodes to \"%.*s\"", name, json_object_to_json_string(ids),
                             (int)len, s);
            }
            free(s);
            free(v);
        }
        cake_tokenizer_free(t);
    }
    json_object_put(all);
}

static void test_llama_cpp_vectors(void **state) {
    (void)state;
    static const char *const sets[][2] = {{"gpt-2", "gpt2"},
                                          {"llama-bpe", "llama3.2"},
                                          {"llama-spm", "llama2-32k/tokenizer.model"},
                                          {"phi-3", "phi-3-mini"},
                                          {"qwen2", "qwen2.5"},
                                          {"command-r", "command-r"},
                                          {"deepseek-coder", "deepseek-coder"},
                                          {"deepseek-llm", "deepseek-llm"},
                                          {"falcon", "falcon"},
                                          {"mpt", "mpt"},
                                          {"refact", "refact"},
                                          {"starcoder", "starcoder"}};
    static const char sep[] = "\n__ggml_vocab_test__\n";
    if (shared_missing(SHARED "tokenizers/vectors/llama.cpp")) skip();
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        cake_tokenizer *t = shared_tokenizer(sets[i][1]);
        char path[512], *in, *out;
        size_t n, out_n, count = 0;
        if (!t) continue;
        snprintf(path, sizeof path, SHARED "tokenizers/vectors/llama.cpp/ggml-vocab-%s.gguf.inp",
                 sets[i][0]);
        assert_int_equal(cake_file_read(path, 1 << 20, &in, &n, NULL), CAKE_OK);
        snprintf(path, sizeof path, SHARED "tokenizers/vectors/llama.cpp/ggml-vocab-%s.gguf.out",
                 sets[i][0]);
        assert_int_equal(cake_file_read(path, 1 << 20, &out, &out_n, NULL), CAKE_OK);
        char *line = out;
        for (char *s = in; s; count++) {
            char *end = strstr(s, sep), *nl = strchr(line, '\n');
            size_t len = end ? (size_t)(end - s) : strlen(s);
            cake_ids a = encode(t, s, len, 0);
            if (nl) *nl = 0;
            for (size_t k = 0; k < a.n; k++) {
                char *stop;
                unsigned long id = strtoul(line, &stop, 10);
                if (stop == line || id != a.v[k])
                    fail_msg("%s: case %zu: id %zu is %u, want %lu", sets[i][0], count, k, a.v[k],
                             id);
                line = stop;
            }
            assert_int_equal(strspn(line, " "), strlen(line));
            cake_ids_deinit(&a);
            line = nl ? nl + 1 : line + strlen(line);
            s = end ? end + sizeof sep - 1 : NULL;
        }
        assert_int_equal(count, 47);
        free(in);
        free(out);
        cake_tokenizer_free(t);
    }
}

static void test_model_prompts(void **state) {
    (void)state;
    static const char *const models[] = {"stories260K-hf",
                                         "stories260K-padffn64-hf",
                                         "babyllama105-hf",
                                         "babyllama105-mlx-4bit-g32-mixed",
                                         "babyllama105-mlx-4bit-g64",
                                         "babyllama105-mlx-8bit-g64",
                                         "babyllama105-pad256-hf-f16",
                                         "babyllama105-pad256-kquant-q4_k_m",
                                         "babyllama105-padffn64-hf-bf16",
                                         "babyllama105-qwen2moe-hf-bf16",
                                         "babyllama105-qwen2moe-mlx-4bit-gate8"};
    if (shared_missing(SHARED "models")) skip();
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[512];
        snprintf(path, sizeof path, SHARED "models/%s/reference.json", models[i]);
        json_object *ref = read_json(path);
        cake_tokenizer *t = shared_tokenizer(models[i]);
        if (!ref || !t) fail_msg("%s", path);
        assert_true(json_object_array_length(get(ref, "prompt_ids")) > 2);
        check_ids(t, models[i], get(ref, "prompt"), get(ref, "prompt_ids"), CAKE_TOK_ADD_SPECIAL);
        assert_int_equal(cake_tokenizer_bos(t), 1);
        assert_int_equal(cake_tokenizer_eos(t), 2);
        cake_tokenizer_free(t);
        json_object_put(ref);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_sentencepiece_model),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_gpt2_files),
        cmocka_unit_test(test_ill_formed_text),
        cmocka_unit_test(test_detok_waits),
        cmocka_unit_test(test_scanners_equal_pcre2),
        cmocka_unit_test(test_detok_random),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_match_limit),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_split_behaviors),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_random_merges),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_hf_vectors),
        cmocka_unit_test(test_sentencepiece_vectors),
        cmocka_unit_test(test_transformers_js_vectors),
        cmocka_unit_test(test_llama_cpp_vectors),
        cmocka_unit_test(test_model_prompts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
