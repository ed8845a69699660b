/* SHA-256 (FIPS 180-4) over OpenSSL's EVP, which uses the CPU's SHA instructions. */
#ifndef CAKE_COMMON_SHA256_H
#define CAKE_COMMON_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CAKE_SHA256_LEN = 32, CAKE_SHA256_HEX = 65 };

typedef struct {
    uint8_t bytes[CAKE_SHA256_LEN];
} cake_sha256;

/* Hash of one buffer; data may be NULL when n is 0. Thread-safe. */
cake_sha256 cake_sha256_of(const void *data, size_t n);

/* Incremental: new, add any number of times, end (which frees). */
typedef struct cake_sha256_ctx cake_sha256_ctx;
cake_sha256_ctx *cake_sha256_new(void);
void cake_sha256_add(cake_sha256_ctx *c, const void *data, size_t n);
cake_sha256 cake_sha256_end(cake_sha256_ctx *c);

/* Lower-case hex, NUL-terminated, out[CAKE_SHA256_HEX]. */
void cake_sha256_hex(const cake_sha256 *h, char *out);
/* Exactly 64 hex digits (either case) followed by NUL; false otherwise. */
bool cake_sha256_parse(const char *hex, cake_sha256 *out);

#endif
