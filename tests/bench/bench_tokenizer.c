/* Tokenizer speed on one thread, JSON lines: MB/s of text in, cold (first call on a fresh
 * tokenizer) and warm (best of several), tokens/s out, and the time to open. Reads ../shared/data;
 * prints nothing for what is absent. */
#include "common/clock.h"
#include "common/file.h"
#include "master/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

static void bench(const char *name, const char *corpus) {
    cake_error err;
    cake_tokenizer *t;
    char *text, path[512], corpus_path[512];
    size_t len;
    snprintf(path, sizeof path, "../shared/data/tokenizers/%s", name);
    snprintf(corpus_path, sizeof corpus_path, "../shared/data/corpora/%s", corpus);
    if (cake_file_read(corpus_path, 64 << 20, &text, &len, NULL) != CAKE_OK) return;
    uint64_t t0 = cake_now_ns();
    if (cake_tokenizer_open(&t, path, &err) == CAKE_OK) {
        double open_ms = (double)(cake_now_ns() - t0) / 1e6, cold = 0, warm = 0;
        cake_ids ids = {0};
        for (int i = 0; i < 6; i++) {
            ids.n = 0;
            t0 = cake_now_ns();
            if (cake_tokenizer_encode(t, text, len, 0, &ids, &err) != CAKE_OK) {
                fprintf(stderr, "%s\n", err.msg);
                exit(1);
            }
            double mbs = (double)len * 1e3 / (double)(cake_now_ns() - t0);
            if (!i) cold = mbs;
            if (mbs > warm) warm = mbs;
        }
        char *back;
        size_t back_len;
        t0 = cake_now_ns();
        if (cake_tokenizer_decode(t, ids.v, ids.n, false, &back, &back_len, &err) != CAKE_OK)
            exit(1);
        double ns = (double)(cake_now_ns() - t0);
        printf("{\"bench\":\"tokenizer\",\"tokenizer\":\"%s\",\"corpus\":\"%s\",\"bytes\":%zu,"
               "\"tokens\":%zu,\"open_ms\":%.0f,\"cold_mb_s\":%.1f,\"encode_mb_s\":%.1f,"
               "\"decode_mb_s\":%.1f}\n",
               name, corpus, len, ids.n, open_ms, cold, warm, (double)back_len * 1e3 / ns);
        free(back);
        cake_ids_deinit(&ids);
        cake_tokenizer_free(t);
    }
    free(text);
}

int main(void) {
    static const char *const names[] = {"qwen2.5", "llama3.2", "gpt2", "phi-3-mini", "llama2-32k"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        bench(names[i], "war-and-peace.txt");
        if (!i) bench(names[i], "wikitext-2-raw/wiki.test.raw");
    }
    return 0;
}
