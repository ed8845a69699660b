/* Bundles from end to end without a network: hash the source, read it in chunks, receive it into a
 * store, finish, verify. JSON lines; the limit is SHA-256 of memory in the same run. */
#include "common/clock.h"
#include "tests/unit/modelfile.h"
#include "worker/store/store.h"

static double seconds_since(uint64_t t) {
    return (double)(cake_now_ns() - t) / 1e9;
}
static void line(const char *what, unsigned threads, double mb, double s, double limit) {
    printf("{\"bench\":\"bundle\",\"case\":\"%s\",\"threads\":%u,\"value\":%.0f,\"unit\":\"MB/s\"",
           what, threads, mb / s);
    if (limit > 0) printf(",\"limit\":%.0f,\"ratio\":%.2f", limit, mb / s / limit);
    printf("}\n");
}
static void must(cake_status st, const cake_error *err) {
    if (st == CAKE_OK) return;
    fprintf(stderr, "bench_bundle: %s\n", err->msg);
    exit(1);
}

int main(void) {
    gen_model g = {.n_layers = 4,
                   .hidden = 2048,
                   .ff = 8192,
                   .vocab = 16000,
                   .heads = 16,
                   .kv_heads = 16,
                   .head_dim = 128,
                   .bits = 4,
                   .group = 64};
    enum { CHUNK = 1 << 20, MEM = 64 << 20 };
    char *model = tmp_dir(), *cache = tmp_dir();
    cake_checkpoint *ck;
    cake_model_config config;
    cake_layout *layout;
    cake_bundle *b = NULL;
    cake_store *s;
    cake_store_bundle *sb;
    cake_store_range r;
    cake_error err = {0};
    gen_write(&g, model);
    must(cake_checkpoint_open(&ck, model, &err), &err);
    must(cake_config_read(&config, ck->config_path, &err), &err);
    must(cake_layout_new(&layout, &config, ck, NULL, 0, &err), &err);
    size_t config_len;
    char *text = read_text(model, "config.json", &config_len);
    double mb = (double)ck->n_bytes / 1e6;
    uint8_t *buf = malloc(MEM);
    memset(buf, 1, MEM);
    uint64_t t = cake_now_ns();
    cake_sha256 h = cake_sha256_of(buf, MEM);
    double limit = MEM / 1e6 / seconds_since(t);
    printf("{\"bench\":\"bundle\",\"case\":\"sha256 of "
           "memory\",\"threads\":1,\"value\":%.0f,\"unit\":\"MB/s\"}\n",
           limit + 0 * h.bytes[0]);
    for (unsigned n = 1; n <= 2; n++) {
        cake_pool *pool = cake_pool_new(n, 0);
        cake_bundle_free(b);
        t = cake_now_ns();
        must(cake_bundle_new(&b, layout, &(cake_unit_range){0, 6}, 1, text, config_len, pool, NULL,
                             &err),
             &err);
        line("hash the source", n, mb, seconds_since(t), limit * n);
        cake_pool_free(pool);
    }
    t = cake_now_ns();
    for (uint64_t at = 0; at < b->manifest->size; at += CHUNK) {
        uint64_t left = b->manifest->size - at;
        must(cake_bundle_read(b, at, left < CHUNK ? (size_t)left : CHUNK, buf, &err), &err);
    }
    line("read in chunks", 1, mb, seconds_since(t), 0);
    must(cake_store_open(&s, cache, 0, &err), &err);
    must(cake_store_begin(s, b->manifest->json, b->manifest->json_len, b->config, b->config_len,
                          &sb, &err),
         &err);
    t = cake_now_ns();
    while (cake_store_missing(sb, &r, 1)) {
        size_t k = r.end - r.begin < CHUNK ? (size_t)(r.end - r.begin) : CHUNK;
        must(cake_bundle_read(b, r.begin, k, buf, &err), &err);
        must(cake_store_write(sb, r.begin, buf, k, &err), &err);
    }
    line("read, store and hash", 1, mb, seconds_since(t), limit);
    t = cake_now_ns();
    must(cake_store_finish(sb, NULL, &err), &err);
    line("sync and rename", 1, mb, seconds_since(t), 0);
    cake_pool *pool = cake_pool_new(2, 0);
    t = cake_now_ns();
    must(cake_store_verify(sb, pool, &err), &err);
    line("verify", 2, mb, seconds_since(t), 2 * limit);
    cake_pool_free(pool);
    cake_store_release(sb);
    cake_store_close(s);
    cake_bundle_free(b);
    cake_layout_free(layout);
    cake_config_deinit(&config);
    cake_checkpoint_close(ck);
    free(text);
    free(buf);
    tmp_remove(model);
    tmp_remove(cache);
    return 0;
}
