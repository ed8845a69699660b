/* The page, put together from its parts: see page.h. The bytes come from the Makefile, which writes
 * each file as a list of numbers. */
#include "master/page/page.h"
#include "common/mem.h"
#include "common/sha256.h"
#include "common/status.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

static const unsigned char html_bytes[] = {
#include "page/page.html.inc"
};
static const unsigned char style_bytes[] = {
#include "page/page.css.inc"
};
static const unsigned char script_bytes[] = {
#include "page/page.js.inc"
};

/* "sha256-..." as a policy names what may run. */
static void hash_of(const unsigned char *bytes, size_t len, char out[64]) {
    cake_sha256 h = cake_sha256_of(bytes, len);
    size_t n = (size_t)snprintf(out, 64, "sha256-");
    EVP_EncodeBlock((unsigned char *)out + n, h.bytes, sizeof h.bytes);
}

static size_t put(char *at, const void *bytes, size_t len) {
    memcpy(at, bytes, len);
    return len;
}

const cake_page *cake_page_get(void) {
    static cake_page page;
    static char policy[640], tag[64];
    if (page.html) return &page;
    static const char style_mark[] = "{{style}}", script_mark[] = "{{script}}";
    const char *from = (const char *)html_bytes, *end = from + sizeof html_bytes;
    const char *style = memmem(from, sizeof html_bytes, style_mark, sizeof style_mark - 1);
    cake_assert(style);
    const char *script = memmem(style, (size_t)(end - style), script_mark, sizeof script_mark - 1);
    cake_assert(script);
    char *html = cake_malloc(sizeof html_bytes + sizeof style_bytes + sizeof script_bytes);
    size_t n = put(html, from, (size_t)(style - from));
    n += put(html + n, style_bytes, sizeof style_bytes);
    from = style + sizeof style_mark - 1;
    n += put(html + n, from, (size_t)(script - from));
    n += put(html + n, script_bytes, sizeof script_bytes);
    from = script + sizeof script_mark - 1;
    n += put(html + n, from, (size_t)(end - from));

    char style_hash[64], script_hash[64];
    hash_of(style_bytes, sizeof style_bytes, style_hash);
    hash_of(script_bytes, sizeof script_bytes, script_hash);
    snprintf(policy, sizeof policy,
             "default-src 'none'; script-src '%s'; style-src '%s'; img-src data:; connect-src "
             "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
             "require-trusted-types-for 'script'",
             script_hash, style_hash);
    cake_sha256 all = cake_sha256_of(html, n);
    snprintf(tag, sizeof tag, "\"%02x%02x%02x%02x%02x%02x%02x%02x\"", all.bytes[0], all.bytes[1],
             all.bytes[2], all.bytes[3], all.bytes[4], all.bytes[5], all.bytes[6], all.bytes[7]);
    page = (cake_page){.html = html, .len = n, .policy = policy, .tag = tag};
    return &page;
}
