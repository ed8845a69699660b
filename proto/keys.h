/* The cluster key and what is derived from it.
 *
 * A cluster is whoever holds one secret: 128 random bits shown as twelve words, or NAME:PASSPHRASE
 * that a person types, stretched with scrypt under a salt made from NAME. From the secret
 * HKDF-SHA256 derives a CURVE key pair per role, so a connection proves the cluster key on both
 * ends and its role on the client's. The cluster tag is public (it travels in mDNS): for a random
 * key a hash of the secret that tells nothing (2^128 guesses), for a typed key a hash of NAME
 * alone, so that a passphrase cannot be guessed offline from it. */
#ifndef CAKE_PROTO_KEYS_H
#define CAKE_PROTO_KEYS_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_KEY_WORDS = 12,
    CAKE_KEY_TEXT_MAX = 256, /* longest text form of a key with its NUL */
    CAKE_TAG_HEX = 17,
    CAKE_CURVE_KEY = 32,
    CAKE_PASSPHRASE_MIN = 12,
};

/* The secret itself. Wipe with cake_key_wipe. */
typedef struct {
    bool typed;
    char text[CAKE_KEY_TEXT_MAX]; /* twelve words, or NAME:PASSPHRASE */
} cake_cluster_key;

typedef struct {
    uint8_t public_key[CAKE_CURVE_KEY], secret_key[CAKE_CURVE_KEY];
} cake_curve_pair;

/* Everything derived. The role pairs: `server` is shared by all workers, `master` and `peer` say
 * what a client is. */
typedef struct {
    cake_curve_pair server, master, peer;
    char tag[CAKE_TAG_HEX]; /* 16 lower-case hex digits */
} cake_keys;

/* A fresh random key. CAKE_EIO when the system has no randomness. */
cake_status cake_key_create(cake_cluster_key *k, cake_error *err);
/* Words (any case, separated by white space or '-') or NAME:PASSPHRASE. CAKE_EINVAL says which word
 * is unknown (and the nearest one), that the check word does not match, or that a passphrase is too
 * short; never the key itself. */
cake_status cake_key_parse(cake_cluster_key *k, const char *text, size_t len, cake_error *err);
/* Text of the key, as written to a file and shown by `cluster show`. */
const char *cake_key_text(const cake_cluster_key *k);
/* Read a key file. Refuses (CAKE_EAUTH) a file that group or others may read, or that another user
 * owns. CAKE_ENOTFOUND when absent. */
cake_status cake_key_load(cake_cluster_key *k, const char *path, cake_error *err);
/* Write a new key file, mode 0600, never over an existing one (CAKE_EINVAL) unless `replace`.
 * Creates the folder 0700. Atomic: nobody ever reads half a key. */
cake_status cake_key_save(const cake_cluster_key *k, const char *path, bool replace,
                          cake_error *err);
void cake_key_wipe(cake_cluster_key *k);

/* Derive the role keys and tag. About 0.1 s for a typed key (scrypt), microseconds otherwise. */
cake_status cake_keys_derive(cake_keys *out, const cake_cluster_key *k, cake_error *err);
void cake_keys_wipe(cake_keys *k);

/* Zero configuration: the key of `path` when given; else of $CAKE_CLUSTER_KEY; else of
 * cake_config_dir()/cluster.key, which is created when absent. Several processes starting at once
 * agree. *created (may be NULL) says whether a new key was made; *where (may be NULL, caller frees)
 * names the source for messages. */
cake_status cake_keys_load_or_create(cake_keys *out, const char *path, bool *created, char **where,
                                     cake_error *err);
/* cake_config_dir()/cluster.key; caller frees. */
char *cake_key_default_path(void);

/* Wipe memory so that the compiler cannot leave it out. */
void cake_wipe(void *p, size_t n);

#endif
