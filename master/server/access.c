/* Access rules: see access.h. */
#include "master/server/access.h"
#include "common/file.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static cake_status add_key(cake_access *a, const char *key, size_t n, const char *where,
                           cake_error *err) {
    while (n && strchr(" \t\r\n", key[n - 1])) n--;
    if (n == 0) return CAKE_OK;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)key[i] <= ' ' || (unsigned char)key[i] >= 0x7f)
            return cake_fail(err, CAKE_ECONFIG, "%s: an API key is printable ASCII without blanks",
                             where);
    if (n < 8 || n > 256)
        return cake_fail(err, CAKE_ECONFIG,
                         "%s: an API key has 8 to 256 characters; make one with 'openssl rand -hex "
                         "24'",
                         where);
    if (a->n_keys == CAKE_API_KEYS_MAX)
        return cake_fail(err, CAKE_ECONFIG, "%s: more than %d keys", where, CAKE_API_KEYS_MAX);
    a->key[a->n_keys++] = cake_sha256_of(key, n);
    return CAKE_OK;
}

cake_status cake_access_init(cake_access *a, const char *file, const char *value, cake_error *err) {
    memset(a, 0, sizeof *a);
    if (gethostname(a->own_name, sizeof a->own_name - 1) != 0) a->own_name[0] = 0;
    cake_status st = CAKE_OK;
    if (file) {
        char *text;
        size_t len;
        st = cake_file_read(file, 64 << 10, &text, &len, err);
        if (st != CAKE_OK) return st;
        for (size_t at = 0; st == CAKE_OK && at < len;) {
            const char *nl = memchr(text + at, '\n', len - at);
            size_t end = nl ? (size_t)(nl - text) : len;
            if (text[at] != '#') st = add_key(a, text + at, end - at, file, err);
            at = end + 1;
        }
        OPENSSL_cleanse(text, len);
        free(text);
        if (st == CAKE_OK && a->n_keys == 0)
            st = cake_fail(err, CAKE_ECONFIG, "%s: no API key in it", file);
    }
    if (st == CAKE_OK && value && *value)
        st = add_key(a, value, strlen(value), "CAKE_API_KEY", err);
    return st;
}

/* The key's number in a->key, from 1; 0: none of them. */
static size_t number_of(const cake_access *a, const char *key) {
    if (!key) return 0;
    cake_sha256 h = cake_sha256_of(key, strlen(key));
    size_t number = 0;
    for (size_t i = 0; i < a->n_keys; i++)
        if (CRYPTO_memcmp(h.bytes, a->key[i].bytes, sizeof h.bytes) == 0) number = i + 1;
    return number;
}

static const char *bearer(const char *authorization) {
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0) return NULL;
    return authorization + 7 + strspn(authorization + 7, " ");
}

bool cake_access_key_ok(const cake_access *a, const char *authorization, const char *api_key) {
    return a->n_keys == 0 || number_of(a, bearer(authorization)) || number_of(a, api_key);
}

uint64_t cake_access_client(const cake_access *a, const char *authorization, const char *api_key,
                            const struct sockaddr *from) {
    if (a->n_keys) {
        size_t number = number_of(a, bearer(authorization));
        return number ? number : number_of(a, api_key);
    }
    struct in6_addr at = {0};
    uint64_t network;
    if (from->sa_family == AF_INET6) {
        at = ((const struct sockaddr_in6 *)(const void *)from)->sin6_addr;
    } else { /* as the same address comes over a socket for both */
        at.s6_addr[10] = at.s6_addr[11] = 0xff;
        memcpy(at.s6_addr + 12, &((const struct sockaddr_in *)(const void *)from)->sin_addr, 4);
    }
    memcpy(&network, at.s6_addr + (IN6_IS_ADDR_V4MAPPED(&at) ? 8 : 0), sizeof network);
    return network;
}

static bool same_name(const char *name, size_t n, const char *other) {
    return strlen(other) == n && strncasecmp(name, other, n) == 0;
}

bool cake_access_host_ok(const cake_access *a, const char *host) {
    if (a->n_keys) return true;
    if (!host) return true; /* HTTP/1.0: no browser */
    char name[256], port[8];
    size_t n = strlen(host);
    const char *colon = strrchr(host, ':');
    bool bracket = host[0] == '[';
    if (bracket) {
        const char *end = strchr(host, ']');
        if (!end || (end[1] && end[1] != ':')) return false;
        colon = end[1] ? end + 1 : NULL;
    }
    if (colon) {
        n = (size_t)(colon - host);
        if (snprintf(port, sizeof port, "%s", colon + 1) > 5 ||
            strspn(port, "0123456789") != strlen(port))
            return false;
    }
    if (bracket) host++, n -= 2;
    if (n == 0 || n >= sizeof name) return false;
    memcpy(name, host, n);
    name[n] = 0;
    unsigned char addr[16];
    if (inet_pton(bracket ? AF_INET6 : AF_INET, name, addr) == 1) return true;
    if (bracket) return false;
    if (same_name(name, n, "localhost") || (a->host && same_name(name, n, a->host))) return true;
    if (n > 10 && strcasecmp(name + n - 10, ".localhost") == 0) return true;
    if (!a->own_name[0]) return false;
    if (same_name(name, n, a->own_name)) return true;
    size_t own = strlen(a->own_name);
    return n == own + 6 && strncasecmp(name, a->own_name, own) == 0 &&
           strcasecmp(name + own, ".local") == 0;
}

bool cake_access_origin_ok(const cake_access *a, const char *origin, const char *host, bool *cors) {
    *cors = false;
    if (!origin) return true;
    for (const char *p = a->cors; p && *p;) {
        p += strspn(p, ", ");
        size_t n = strcspn(p, ", ");
        if (n && ((n == 1 && *p == '*') || same_name(p, n, origin))) return *cors = true;
        p += n;
    }
    const char *at = strstr(origin, "://");
    return at && host && strcasecmp(at + 3, host) == 0;
}
