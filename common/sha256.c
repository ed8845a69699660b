/* SHA-256: see sha256.h. */
#include "common/sha256.h"
#include "common/status.h"

#include <openssl/evp.h>
#include <string.h>

cake_sha256 cake_sha256_of(const void *data, size_t n) {
    cake_sha256_ctx *c = cake_sha256_new();
    cake_sha256_add(c, data, n);
    return cake_sha256_end(c);
}

cake_sha256_ctx *cake_sha256_new(void) {
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    cake_assert(c != NULL);
    int ok = EVP_DigestInit_ex(c, EVP_sha256(), NULL);
    cake_assert(ok == 1);
    return (cake_sha256_ctx *)c;
}

void cake_sha256_add(cake_sha256_ctx *c, const void *data, size_t n) {
    if (!n) return;
    int ok = EVP_DigestUpdate((EVP_MD_CTX *)c, data, n);
    cake_assert(ok == 1);
}

cake_sha256 cake_sha256_end(cake_sha256_ctx *c) {
    cake_sha256 h;
    unsigned len = 0;
    int ok = EVP_DigestFinal_ex((EVP_MD_CTX *)c, h.bytes, &len);
    cake_assert(ok == 1 && len == CAKE_SHA256_LEN);
    EVP_MD_CTX_free((EVP_MD_CTX *)c);
    return h;
}

void cake_sha256_hex(const cake_sha256 *h, char *out) {
    static const char digit[] = "0123456789abcdef";
    for (int i = 0; i < CAKE_SHA256_LEN; i++) {
        out[2 * i] = digit[h->bytes[i] >> 4];
        out[2 * i + 1] = digit[h->bytes[i] & 15];
    }
    out[2 * CAKE_SHA256_LEN] = 0;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool cake_sha256_parse(const char *hex, cake_sha256 *out) {
    cake_sha256 h;
    for (int i = 0; i < CAKE_SHA256_LEN; i++) {
        int hi = hex_value(hex[2 * i]);
        if (hi < 0) return false;
        int lo = hex_value(hex[2 * i + 1]);
        if (lo < 0) return false;
        h.bytes[i] = (uint8_t)(hi << 4 | lo);
    }
    if (hex[2 * CAKE_SHA256_LEN]) return false;
    *out = h;
    return true;
}
