/* A tokenizer.json and a text, with a NUL between them: opening must give a tokenizer or an error,
 * encoding ids of the vocabulary, decoding whole UTF-8, pieces equal to the whole. Known scanners
 * must cut the text as PCRE2 does. */
#include "master/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void scanners(const char *s, size_t n) {
    static const char *const patterns[] = {tok_pattern_gpt2, tok_pattern_qwen2, tok_pattern_llama3,
                                           tok_pattern_o200k, tok_pattern_tekken};
    static tok_regex *re[5];
    static tok_scratch *sc;
    if (!sc) {
        sc = tok_scratch_new();
        for (int i = 0; i < 5; i++) tok_regex_new(&re[i], patterns[i], strlen(patterns[i]), NULL);
    }
    for (size_t i = 0; i < n;) /* above U+0600 the Unicode versions differ */
        if (tok_utf8_next((const uint8_t *)s, &i) >= 0x600) return;
    for (int p = 0; p < 5; p++) {
        tok_scan_fn *scan = tok_scan_for(patterns[p], strlen(patterns[p]));
        for (size_t i = 0, a, b; i < n; i = b) {
            cake_assert(tok_regex_find(re[p], sc, s, n, i, &a, &b, NULL) == 1);
            cake_assert(a == i && b == scan((const uint8_t *)s, i, n));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = memchr(data, 0, size);
    size_t json_n = nul ? (size_t)(nul - data) : size, n = nul ? size - json_n - 1 : 0;
    const char *text = nul ? (const char *)nul + 1 : "";
    cake_tokenizer *t;
    cake_error err;
    if (n && tok_utf8_valid((const uint8_t *)text, n) == n) scanners(text, n);
    if (cake_tokenizer_parse(&t, (const char *)data, json_n, NULL, 0, &err) != CAKE_OK) return 0;
    for (unsigned flags = 0; flags < 4; flags++) {
        cake_ids ids = {0};
        if (cake_tokenizer_encode(t, text, n, flags, &ids, &err) == CAKE_OK) {
            char *all;
            const char *part;
            size_t len, part_len, at = 0;
            for (size_t i = 0; i < ids.n; i++) cake_assert(ids.v[i] < cake_tokenizer_vocab_size(t));
            cake_assert(cake_tokenizer_decode(t, ids.v, ids.n, flags & 1, &all, &len, &err) ==
                        CAKE_OK);
            cake_assert(tok_utf8_valid((const uint8_t *)all, len) == len);
            cake_detok *d = cake_detok_new(t, flags & 1);
            for (size_t i = 0; i <= ids.n; i++) {
                if (i < ids.n)
                    cake_detok_push(d, ids.v[i], &part, &part_len);
                else
                    cake_detok_flush(d, &part, &part_len);
                cake_assert(part_len <= len - at && memcmp(all + at, part, part_len) == 0);
                cake_assert(tok_utf8_valid((const uint8_t *)part, part_len) == part_len);
                at += part_len;
            }
            cake_assert(at == len);
            cake_detok_free(d);
            free(all);
        }
        cake_ids_deinit(&ids);
    }
    cake_tokenizer_free(t);
    return 0;
}
