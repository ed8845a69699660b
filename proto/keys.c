/* Cluster key: text forms, files, derivation; see keys.h.
 *
 * Twelve words carry 132 bits: the 128 of the key and 4 check bits, so that most typing mistakes
 * that give another known word are found at once rather than as a refused connection. */
#include "proto/keys.h"

#include "common/file.h"
#include "common/mem.h"
#include "common/sha256.h"
#include "proto/words.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_BYTES = 16, FILE_MAX = 4096 };
/* scrypt at 32 MiB and some 0.1 s: what a small worker can afford and a guesser cannot. */
enum { SCRYPT_N = 1 << 15, SCRYPT_R = 8, SCRYPT_P = 1 };

void cake_wipe(void *p, size_t n) {
    OPENSSL_cleanse(p, n);
}
void cake_key_wipe(cake_cluster_key *k) {
    cake_wipe(k, sizeof *k);
}
void cake_keys_wipe(cake_keys *k) {
    cake_wipe(k, sizeof *k);
}
const char *cake_key_text(const cake_cluster_key *k) {
    return k->text;
}

/* The 11 bits number i of the key followed by its check bits. */
static unsigned bits11(const uint8_t key[KEY_BYTES], unsigned i) {
    uint8_t all[KEY_BYTES + 1];
    memcpy(all, key, KEY_BYTES);
    all[KEY_BYTES] = cake_sha256_of(key, KEY_BYTES).bytes[0] & 0xf0;
    unsigned v = 0;
    for (unsigned b = i * 11; b < i * 11 + 11; b++) v = v << 1 | (all[b / 8] >> (7 - b % 8) & 1);
    cake_wipe(all, sizeof all);
    return v;
}

static void write_words(cake_cluster_key *k, const uint8_t key[KEY_BYTES]) {
    *k = (cake_cluster_key){0};
    char *p = k->text;
    for (unsigned i = 0; i < CAKE_KEY_WORDS; i++)
        p += snprintf(p, 9, "%s%s", i ? " " : "", cake_words[bits11(key, i)]);
}

cake_status cake_key_create(cake_cluster_key *k, cake_error *err) {
    uint8_t key[KEY_BYTES];
    if (RAND_bytes(key, sizeof key) != 1)
        return cake_fail(err, CAKE_EIO, "the system gave no random bytes for a cluster key");
    write_words(k, key);
    cake_wipe(key, sizeof key);
    return CAKE_OK;
}

/* Index of a word: exact, or its first four letters. -1: unknown. */
static int find_word(const char *w) {
    int lo = 0, hi = CAKE_WORDS;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (strcmp(cake_words[mid], w) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < CAKE_WORDS && strcmp(cake_words[lo], w) == 0) return lo;
    if (lo < CAKE_WORDS && strlen(w) == 4 && strncmp(cake_words[lo], w, 4) == 0) return lo;
    return -1;
}

/* Edit distance of two short words. */
static unsigned distance(const char *a, const char *b) {
    unsigned row[16], n = (unsigned)strlen(b);
    for (unsigned j = 0; j <= n; j++) row[j] = j;
    for (unsigned i = 1; *a; a++, i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= n; j++) {
            unsigned best = diagonal + (*a != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

static const char *nearest_word(const char *w) {
    unsigned best = 99;
    const char *found = "";
    for (int i = 0; i < CAKE_WORDS; i++) {
        unsigned d = distance(w, cake_words[i]);
        if (d < best) best = d, found = cake_words[i];
    }
    return found;
}

/* Twelve words of text[0..len) to the key. */
static cake_status read_words(uint8_t key[KEY_BYTES], const char *text, size_t len,
                              cake_error *err) {
    uint8_t all[(CAKE_KEY_WORDS * 11 + 7) / 8] = {0};
    unsigned n = 0;
    size_t i = 0;
    cake_status st = CAKE_OK;
    while (st == CAKE_OK) {
        while (i < len && (isspace((unsigned char)text[i]) || text[i] == '-')) i++;
        if (i == len) break;
        char w[16];
        size_t l = 0;
        for (; i < len && !isspace((unsigned char)text[i]) && text[i] != '-'; i++)
            if (l < sizeof w - 1) w[l++] = (char)tolower((unsigned char)text[i]);
        w[l] = 0;
        int v = n < CAKE_KEY_WORDS ? find_word(w) : -1;
        if (n == CAKE_KEY_WORDS) {
            st = cake_fail(err, CAKE_EINVAL, "a cluster key has %d words, this has more",
                           CAKE_KEY_WORDS);
        } else if (v < 0) {
            /* The suggestion comes from the public list; what was typed may be somebody's
             * passphrase. */
            st = cake_fail(err, CAKE_EINVAL,
                           "word %u of the cluster key is not in the list; nearest is '%s'", n + 1,
                           nearest_word(w));
        } else {
            for (unsigned b = 0; b < 11; b++)
                if ((unsigned)v >> (10 - b) & 1)
                    all[(n * 11 + b) / 8] |= (uint8_t)(0x80 >> (n * 11 + b) % 8);
            n++;
        }
        cake_wipe(w, sizeof w);
    }
    if (st == CAKE_OK && n != CAKE_KEY_WORDS)
        st = cake_fail(err, CAKE_EINVAL,
                       "a cluster key is %d words, or NAME:PASSPHRASE; this has %u words",
                       CAKE_KEY_WORDS, n);
    if (st == CAKE_OK &&
        (all[KEY_BYTES] & 0xf0) != (cake_sha256_of(all, KEY_BYTES).bytes[0] & 0xf0))
        st = cake_fail(err, CAKE_EINVAL,
                       "the words do not belong together: one is wrong or two are swapped");
    if (st == CAKE_OK) memcpy(key, all, KEY_BYTES);
    cake_wipe(all, sizeof all);
    return st;
}

cake_status cake_key_parse(cake_cluster_key *k, const char *text, size_t len, cake_error *err) {
    while (len && isspace((unsigned char)text[len - 1])) len--;
    while (len && isspace((unsigned char)text[0])) text++, len--;
    if (len == 0) return cake_fail(err, CAKE_EINVAL, "the cluster key is empty");
    if (len >= CAKE_KEY_TEXT_MAX)
        return cake_fail(err, CAKE_EINVAL, "the cluster key is longer than %d bytes",
                         CAKE_KEY_TEXT_MAX - 1);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < 0x20 && !isspace((unsigned char)text[i]))
            return cake_fail(err, CAKE_EINVAL, "the cluster key has a control character");
    const char *colon = memchr(text, ':', len);
    if (!colon) {
        uint8_t key[KEY_BYTES];
        cake_status st = read_words(key, text, len, err);
        if (st == CAKE_OK) write_words(k, key);
        cake_wipe(key, sizeof key);
        return st;
    }
    if (colon == text)
        return cake_fail(err, CAKE_EINVAL, "NAME is empty in the cluster key NAME:PASSPHRASE");
    if (memchr(text, '\n', len) || memchr(text, '\r', len))
        return cake_fail(err, CAKE_EINVAL, "a cluster key NAME:PASSPHRASE is one line");
    if (len - (size_t)(colon + 1 - text) < CAKE_PASSPHRASE_MIN)
        return cake_fail(
            err, CAKE_EINVAL,
            "the passphrase is shorter than %d characters; 'cake-master cluster create' makes "
            "a random key",
            CAKE_PASSPHRASE_MIN);
    *k = (cake_cluster_key){.typed = true};
    memcpy(k->text, text, len);
    return CAKE_OK;
}

cake_status cake_key_load(cake_cluster_key *k, const char *path, cake_error *err) {
    char text[FILE_MAX + 1];
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return cake_fail(err, errno == ENOENT ? CAKE_ENOTFOUND : CAKE_EIO,
                         "cannot open the key file '%s': %s", path, strerror(errno));
    cake_status st = CAKE_OK;
    struct stat sb;
    if (fstat(fd, &sb) != 0) {
        st = cake_fail(err, CAKE_EIO, "cannot stat the key file '%s': %s", path, strerror(errno));
    } else if (S_ISREG(sb.st_mode) && sb.st_mode & 077) {
        st = cake_fail(err, CAKE_EAUTH, "others may read the key file '%s'; run: chmod 600 '%s'",
                       path, path);
    } else if (S_ISREG(sb.st_mode) && sb.st_uid != geteuid() && sb.st_uid != 0) {
        st = cake_fail(err, CAKE_EAUTH, "the key file '%s' belongs to another user (uid %u)", path,
                       (unsigned)sb.st_uid);
    }
    while (st == CAKE_OK && n < sizeof text) {
        ssize_t r = read(fd, text + n, sizeof text - n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) st = cake_fail(err, CAKE_EIO, "cannot read '%s': %s", path, strerror(errno));
        if (r <= 0) break;
        n += (size_t)r;
    }
    close(fd);
    if (st == CAKE_OK && n > FILE_MAX)
        st = cake_fail(err, CAKE_EINVAL, "the key file '%s' is longer than %d bytes", path,
                       FILE_MAX);
    if (st == CAKE_OK) {
        st = cake_key_parse(k, text, n, err);
        if (st != CAKE_OK) cake_fail_in(err, st, "key file '%s'", path);
    }
    cake_wipe(text, sizeof text);
    return st;
}

cake_status cake_key_save(const cake_cluster_key *k, const char *path, bool replace,
                          cake_error *err) {
    char *tmp = cake_asprintf("%s.XXXXXX", path), *dir = cake_strdup(path);
    char text[CAKE_KEY_TEXT_MAX + 1];
    size_t n = (size_t)snprintf(text, sizeof text, "%s\n", k->text);
    int fd = -1;
    cake_status st = CAKE_OK;
    char *slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = 0;
        st = cake_mkdir_p(dir, 0700, err);
        if (st != CAKE_OK) goto out;
    }
    fd = mkostemp(tmp, O_CLOEXEC); /* mode 0600 from the start */
    if (fd < 0) {
        st = cake_fail(err, CAKE_EIO, "cannot create '%s': %s", tmp, strerror(errno));
        goto out;
    }
    st = cake_pwrite_all(fd, text, n, 0, err);
    if (st == CAKE_OK && fsync(fd) != 0)
        st = cake_fail(err, CAKE_EIO, "cannot sync '%s': %s", tmp, strerror(errno));
    if (st == CAKE_OK) {
        /* link(2) never replaces, so of several processes that start together exactly one wins;
         * file systems without hard links (FAT) get the same from RENAME_NOREPLACE. */
        int rc = replace ? rename(tmp, path) : link(tmp, path);
        if (rc != 0 && !replace && errno != EEXIST)
            rc = renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE);
        if (rc != 0 && errno == EEXIST)
            st = cake_fail(err, CAKE_EINVAL, "the key file '%s' exists already", path);
        else if (rc != 0)
            st = cake_fail(err, CAKE_EIO, "cannot create the key file '%s': %s", path,
                           strerror(errno));
    }
    unlink(tmp);
out:
    if (fd >= 0) close(fd);
    cake_wipe(text, sizeof text);
    free(tmp);
    free(dir);
    return st;
}

/* HKDF-SHA256 (RFC 5869) of the secret; label separates the outputs. */
static cake_status hkdf(uint8_t *out, size_t out_len, const uint8_t *secret, size_t secret_len,
                        const char *label, cake_error *err) {
    cake_status st = cake_fail(err, CAKE_EUNSUPPORTED, "OpenSSL cannot derive keys (HKDF)");
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *c = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    char digest[] = "SHA256", salt[] = "cake cluster key v1";
    OSSL_PARAM p[] = {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
                      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, sizeof salt - 1),
                      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
                                                        (void *)(uintptr_t)secret, secret_len),
                      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO,
                                                        (void *)(uintptr_t)label, strlen(label)),
                      OSSL_PARAM_construct_end()};
    if (c && EVP_KDF_derive(c, out, out_len, p) == 1) st = CAKE_OK;
    EVP_KDF_CTX_free(c);
    EVP_KDF_free(kdf);
    return st;
}

/* CURVE uses Curve25519 with the base point: the public half is X25519's. */
static cake_status derive_pair(cake_curve_pair *out, const uint8_t *secret, size_t secret_len,
                               const char *label, cake_error *err) {
    cake_status st = hkdf(out->secret_key, sizeof out->secret_key, secret, secret_len, label, err);
    if (st != CAKE_OK) return st;
    size_t n = sizeof out->public_key;
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, out->secret_key,
                                                 sizeof out->secret_key);
    if (!key || EVP_PKEY_get_raw_public_key(key, out->public_key, &n) != 1 ||
        n != sizeof out->public_key)
        st = cake_fail(err, CAKE_EUNSUPPORTED, "OpenSSL cannot compute X25519 keys");
    EVP_PKEY_free(key);
    return st;
}

cake_status cake_keys_derive(cake_keys *out, const cake_cluster_key *k, cake_error *err) {
    uint8_t secret[32] = {0}, tag[8];
    size_t n = sizeof secret;
    cake_keys keys = {0};
    cake_status st = CAKE_OK;
    if (k->typed) {
        const char *colon = strchr(k->text, ':');
        cake_assert(colon);
        char *salt = cake_asprintf("cake cluster %.*s", (int)(colon - k->text), k->text);
        char *label = cake_asprintf("cake tag of %.*s", (int)(colon - k->text), k->text);
        cake_sha256 s = cake_sha256_of(salt, strlen(salt)),
                    t = cake_sha256_of(label, strlen(label));
        memcpy(tag, t.bytes, sizeof tag);
        if (EVP_PBE_scrypt(colon + 1, strlen(colon + 1), s.bytes, sizeof s.bytes, SCRYPT_N,
                           SCRYPT_R, SCRYPT_P, (uint64_t)64 << 20, secret, sizeof secret) != 1)
            st = cake_fail(err, CAKE_ENOMEM, "cannot stretch the passphrase (scrypt, 32 MiB)");
        free(salt);
        free(label);
    } else {
        n = KEY_BYTES;
        st = read_words(secret, k->text, strlen(k->text), err);
        if (st == CAKE_OK) st = hkdf(tag, sizeof tag, secret, n, "tag", err);
    }
    if (st == CAKE_OK) st = derive_pair(&keys.server, secret, n, "curve server", err);
    if (st == CAKE_OK) st = derive_pair(&keys.master, secret, n, "curve master", err);
    if (st == CAKE_OK) st = derive_pair(&keys.peer, secret, n, "curve peer", err);
    if (st == CAKE_OK) {
        for (size_t i = 0; i < sizeof tag; i++) snprintf(keys.tag + 2 * i, 3, "%02x", tag[i]);
        *out = keys;
    }
    cake_wipe(secret, sizeof secret);
    cake_keys_wipe(&keys);
    return st;
}

char *cake_key_default_path(void) {
    char *dir = cake_config_dir(), *path = cake_path_join(dir, "cluster.key");
    free(dir);
    return path;
}

cake_status cake_keys_load_or_create(cake_keys *out, const char *path, bool *created, char **where,
                                     cake_error *err) {
    cake_cluster_key k = {0};
    cake_status st;
    const char *env = getenv("CAKE_CLUSTER_KEY");
    char *source = NULL;
    bool made = false;
    if (path) {
        source = cake_strdup(path);
        st = cake_key_load(&k, path, err);
    } else if (env && *env) {
        source = cake_strdup("$CAKE_CLUSTER_KEY");
        st = cake_key_parse(&k, env, strlen(env), err);
        if (st != CAKE_OK) cake_fail_in(err, st, "CAKE_CLUSTER_KEY");
    } else {
        source = cake_key_default_path();
        st = cake_key_load(&k, source, err);
        if (st == CAKE_ENOTFOUND) {
            st = cake_key_create(&k, err);
            if (st == CAKE_OK) st = cake_key_save(&k, source, false, err);
            made = st == CAKE_OK;
            if (st == CAKE_EINVAL)
                st = cake_key_load(&k, source, err); /* another process was faster */
        }
    }
    if (st == CAKE_OK) st = cake_keys_derive(out, &k, err);
    cake_key_wipe(&k);
    if (st == CAKE_OK && created) *created = made;
    if (st == CAKE_OK && where)
        *where = source;
    else
        free(source);
    return st;
}
