/* Who may ask: API keys, the Host header, origins of web pages. */
#ifndef CAKE_MASTER_SERVER_ACCESS_H
#define CAKE_MASTER_SERVER_ACCESS_H

#include "common/sha256.h"
#include "common/status.h"

#include <sys/socket.h>

enum { CAKE_API_KEYS_MAX = 64 };

typedef struct {
    cake_sha256 key[CAKE_API_KEYS_MAX]; /* hashes: equal in length, of no use to a reader */
    size_t n_keys;
    char own_name[256]; /* of this machine */
    const char *host;   /* listened on */
    const char *cors;   /* allowed origins, comma-separated, "*": any; NULL: none */
} cake_access;

/* Keys: the lines of file (NULL: none), and value (NULL or "": none). CAKE_ECONFIG for a key of
 * fewer than 8 or more than 256 bytes or with blanks. */
cake_status cake_access_init(cake_access *a, const char *file, const char *value, cake_error *err);
/* Values of the headers Authorization and X-Api-Key, each may be NULL. True without keys. */
bool cake_access_key_ok(const cake_access *a, const char *authorization, const char *api_key);
/* Whose turns a request takes: those of the key that it proved; without keys those of the machine
 * it came from (IPv4 or IPv6), which of an IPv6 network of 64 bits are one: there a machine gives
 * itself any number of addresses. Behind a proxy all share the proxy's. */
uint64_t cake_access_client(const cake_access *a, const char *authorization, const char *api_key,
                            const struct sockaddr *from);
/* The Host header names this machine, by address or by a name that a foreign DNS server cannot
 * point here. True where keys are asked for: a page that was lured here has none. */
bool cake_access_host_ok(const cake_access *a, const char *host);
/* An Origin header is that of the server itself or in the list. *cors: it is in the list. */
bool cake_access_origin_ok(const cake_access *a, const char *origin, const char *host, bool *cors);

#endif
