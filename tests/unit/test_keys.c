/* Cluster keys: words, files, derivation. Expected values of the derivations were computed apart,
 * with Python's hashlib, hmac and PyNaCl-free X25519 (RFC 7748 by hand): see the comments. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "common/file.h"
#include "proto/keys.h"
#include "proto/words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

static char dir[] = "/tmp/cake-keys-XXXXXX";

static cake_status parse(cake_cluster_key *k, const char *text, cake_error *err) {
    return cake_key_parse(k, text, strlen(text), err);
}

static void list_is_sound(void **state) {
    (void)state;
    for (int i = 0; i < CAKE_WORDS; i++) {
        size_t n = strlen(cake_words[i]);
        assert_true(n >= 3 && n <= 6);
        for (size_t j = 0; j < n; j++)
            assert_true(cake_words[i][j] >= 'a' && cake_words[i][j] <= 'z');
        if (i) {
            assert_true(strcmp(cake_words[i - 1], cake_words[i]) < 0);
            assert_true(strncmp(cake_words[i - 1], cake_words[i], 4) != 0);
        }
    }
}

/* Known keys and their words (computed with Python: int(key) << 4 | sha256(key)[0] >> 4, 11 bits
 * each). */
static void golden_words(void **state) {
    (void)state;
    static const char *const words[] = {
        "aback aback aback aback aback aback aback aback aback aback aback above",
        "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo young",
        "aback amiss marble amiss fluff afford bump butler are guide energy budge"};
    cake_cluster_key k, again;
    cake_error err;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(parse(&k, words[i], &err), CAKE_OK);
        assert_string_equal(cake_key_text(&k), words[i]);
    }
    /* Case, dashes, white space and the first four letters are as good. */
    assert_int_equal(
        parse(&again, "  ABACK-amis marb\tamiss fluf-affo bump\n butl are guid ener BUDGE\n", &err),
        CAKE_OK);
    assert_string_equal(cake_key_text(&again), words[2]);
}

static void bad_text(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {{"", "empty"},
               {"aback", "1 words"},
               {"aback aback aback aback aback aback aback aback aback aback aback aback",
                "do not belong together"},
               {"amiss aback marble amiss fluff afford bump butler are guide energy budge",
                "do not belong together"},
               {"aback amiss marble amiss fluff afford bump butler are guide energy", "11 words"},
               {"aback amiss marble amiss fluff afford bump butler are guide energy budge zoo",
                "has more"},
               {"aback amiss marblo amiss fluff afford bump butler are guide energy budge",
                "nearest is 'marble'"},
               {"home:tooshort", "shorter"},
               {":long enough passphrase", "NAME is empty"},
               {"home:long enough\npassphrase", "one line"},
               {"home:long\001enough passphrase", "control"}};
    cake_cluster_key k;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cake_error err = {0};
        assert_int_equal(parse(&k, bad[i].text, &err), CAKE_EINVAL);
        if (!strstr(err.msg, bad[i].says)) fail_msg("'%s' says: %s", bad[i].text, err.msg);
    }
    /* A mistaken secret must not be repeated in the message. */
    cake_error err = {0};
    assert_int_equal(parse(&k, "hunter2hunter2hunter2", &err), CAKE_EINVAL);
    assert_null(strstr(err.msg, "hunter2"));
    char *big = malloc(1000);
    memset(big, 'x', 999);
    big[999] = 0;
    assert_int_equal(parse(&k, big, &err), CAKE_EINVAL);
    free(big);
}

/* Every single wrong word is found with probability 15/16; over all choices for one place, count.
 */
static void check_bits(void **state) {
    (void)state;
    unsigned accepted = 0;
    for (int i = 0; i < CAKE_WORDS; i++) {
        char text[CAKE_KEY_TEXT_MAX];
        cake_cluster_key k;
        snprintf(text, sizeof text,
                 "aback amiss marble %.7s fluff afford bump butler are guide energy budge",
                 cake_words[i]);
        accepted += parse(&k, text, NULL) == CAKE_OK;
    }
    assert_true(accepted > CAKE_WORDS / 32 && accepted < CAKE_WORDS / 8);
}

static void random_keys(void **state) {
    (void)state;
    cake_cluster_key a, b, c;
    assert_int_equal(cake_key_create(&a, NULL), CAKE_OK);
    assert_int_equal(cake_key_create(&b, NULL), CAKE_OK);
    assert_string_not_equal(a.text, b.text);
    assert_int_equal(parse(&c, a.text, NULL), CAKE_OK);
    assert_string_equal(a.text, c.text);
}

static void hex(char *out, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", p[i]);
}

/* Computed with Python: hmac (HKDF, RFC 5869) and hashlib.scrypt over the inputs named in keys.c.
 */
static void golden_derivation(void **state) {
    (void)state;
    static const struct {
        const char *text, *tag, *server_secret, *master_public;
    } want[] = {{"aback amiss marble amiss fluff afford bump butler are guide energy budge",
                 "9a4632c25390bb27",
                 "595133dbba9fe99702495da1f19ca01deefdfa0b13fc9d89d6a31fb2830815e3",
                 "f419d5ef2097eedf7ba1f8a647c6b3ef0317a3404141d464358f3c50ded4f910"},
                {"home:correct horse battery", "d8c0c96ca53274dd",
                 "5ba28808014d2ad8e23850f022fbe0c242aa2033b7d9ae14bb3ef69157e9493a",
                 "37253e3354b6f074aa409afb30bed2d098a1f3fc852769e5b72e334fd8efee5c"}};
    for (int i = 0; i < 2; i++) {
        cake_cluster_key k;
        cake_keys keys;
        char text[65];
        assert_int_equal(parse(&k, want[i].text, NULL), CAKE_OK);
        assert_int_equal(k.typed, i == 1);
        assert_int_equal(cake_keys_derive(&keys, &k, NULL), CAKE_OK);
        assert_string_equal(keys.tag, want[i].tag);
        hex(text, keys.server.secret_key, 32);
        assert_string_equal(text, want[i].server_secret);
        hex(text, keys.master.public_key, 32);
        assert_string_equal(text, want[i].master_public);
        /* The public halves are what libzmq itself would compute. */
        const cake_curve_pair *pair[] = {&keys.server, &keys.master, &keys.peer};
        for (int p = 0; p < 3; p++) {
            char secret[41], public[41], theirs[41];
            assert_non_null(zmq_z85_encode(secret, pair[p]->secret_key, 32));
            assert_non_null(zmq_z85_encode(public, pair[p]->public_key, 32));
            assert_int_equal(zmq_curve_public(theirs, secret), 0);
            assert_string_equal(public, theirs);
        }
        assert_memory_not_equal(keys.server.secret_key, keys.master.secret_key, 32);
        assert_memory_not_equal(keys.peer.secret_key, keys.master.secret_key, 32);
        cake_keys_wipe(&keys);
        static const cake_keys zero;
        assert_memory_equal(&keys, &zero, sizeof zero);
    }
}

/* The tag of a typed key must not depend on the passphrase, or it could be guessed from mDNS. */
static void typed_tag(void **state) {
    (void)state;
    cake_cluster_key a, b, c;
    cake_keys ka, kb, kc;
    parse(&a, "home:correct horse battery", NULL);
    parse(&b, "home:another long passphrase", NULL);
    parse(&c, "work:correct horse battery", NULL);
    cake_keys_derive(&ka, &a, NULL);
    cake_keys_derive(&kb, &b, NULL);
    cake_keys_derive(&kc, &c, NULL);
    assert_string_equal(ka.tag, kb.tag);
    assert_string_not_equal(ka.tag, kc.tag);
    assert_memory_not_equal(ka.server.secret_key, kb.server.secret_key, 32);
    assert_memory_not_equal(ka.server.secret_key, kc.server.secret_key, 32);
}

static void files(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/a/b/cluster.key", dir);
    cake_cluster_key k, back, other;
    cake_error err = {0};
    cake_key_create(&k, NULL);
    cake_key_create(&other, NULL);
    assert_int_equal(cake_key_load(&back, path, &err), CAKE_ENOTFOUND);
    assert_int_equal(cake_key_save(&k, path, false, &err), CAKE_OK);
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    assert_int_equal(cake_key_load(&back, path, &err), CAKE_OK);
    assert_string_equal(back.text, k.text);
    assert_int_equal(cake_key_save(&other, path, false, &err),
                     CAKE_EINVAL); /* never over another */
    assert_int_equal(cake_key_load(&back, path, &err), CAKE_OK);
    assert_string_equal(back.text, k.text);
    assert_int_equal(cake_key_save(&other, path, true, &err), CAKE_OK);
    assert_int_equal(cake_key_load(&back, path, &err), CAKE_OK);
    assert_string_equal(back.text, other.text);
    static const mode_t open_to[] = {0640, 0604, 0620, 0602, 0666};
    for (size_t i = 0; i < sizeof open_to / sizeof *open_to; i++) {
        chmod(path, open_to[i]);
        assert_int_equal(cake_key_load(&back, path, &err), CAKE_EAUTH);
        assert_non_null(strstr(err.msg, "chmod 600"));
    }
    chmod(path, 0600);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 12345, 0), 0);
        assert_int_equal(cake_key_load(&back, path, &err), CAKE_EAUTH);
        assert_int_equal(chown(path, 0, 0), 0);
    }
    char *big = calloc(1, 10000);
    memset(big, 'a', 9999);
    cake_file_write(path, big, 9999, 0600, NULL);
    assert_int_equal(cake_key_load(&back, path, &err), CAKE_EINVAL);
    free(big);
    char command[160];
    snprintf(command, sizeof command, "ls %s/a/b | wc -l",
             dir); /* no temporary file stays behind */
    FILE *f = popen(command, "r");
    int n = 0;
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    assert_int_equal(n, 1);
}

/* Ten processes that start at once on a machine without a key end up with the same one. */
static void first_start_agrees(void **state) {
    (void)state;
    enum { N = 10 };
    int pipes[N][2];
    setenv("XDG_CONFIG_HOME", dir, 1);
    unsetenv("CAKE_CLUSTER_KEY");
    for (int i = 0; i < N; i++) {
        assert_int_equal(pipe(pipes[i]), 0);
        if (fork() == 0) {
            cake_keys k;
            char line[CAKE_TAG_HEX + 1];
            bool created = false;
            if (cake_keys_load_or_create(&k, NULL, &created, NULL, NULL) != CAKE_OK) _exit(1);
            snprintf(line, sizeof line, "%s%d", k.tag, created);
            _exit(write(pipes[i][1], line, sizeof line) != sizeof line);
        }
    }
    char first[CAKE_TAG_HEX + 1], line[CAKE_TAG_HEX + 1];
    int n_created = 0;
    for (int i = 0; i < N; i++) {
        int rc;
        wait(&rc);
        assert_int_equal(rc, 0);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(read(pipes[i][0], line, sizeof line), sizeof line);
        n_created += line[16] == '1';
        line[16] = 0;
        if (i == 0) memcpy(first, line, sizeof line);
        assert_string_equal(first, line);
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
    assert_int_equal(n_created, 1);
}

static void sources(void **state) {
    (void)state;
    char path[128], *where = NULL;
    cake_keys k, file;
    cake_cluster_key key;
    cake_error err = {0};
    snprintf(path, sizeof path, "%s/explicit.key", dir);
    cake_key_create(&key, NULL);
    cake_key_save(&key, path, false, NULL);
    setenv("CAKE_CLUSTER_KEY", "home:correct horse battery", 1);
    assert_int_equal(cake_keys_load_or_create(&k, NULL, NULL, &where, &err), CAKE_OK);
    assert_string_equal(where, "$CAKE_CLUSTER_KEY");
    free(where);
    assert_int_equal(cake_keys_load_or_create(&file, path, NULL, &where, &err),
                     CAKE_OK); /* a file wins */
    assert_string_equal(where, path);
    free(where);
    assert_string_not_equal(k.tag, file.tag);
    setenv("CAKE_CLUSTER_KEY", "nonsense", 1);
    assert_int_equal(cake_keys_load_or_create(&k, NULL, NULL, NULL, &err), CAKE_EINVAL);
    assert_non_null(strstr(err.msg, "CAKE_CLUSTER_KEY"));
    unsetenv("CAKE_CLUSTER_KEY");
    assert_int_equal(cake_keys_load_or_create(&k, "/nonexistent/key", NULL, NULL, &err),
                     CAKE_ENOTFOUND);
}

static int setup(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}
static int teardown(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_is_sound),      cmocka_unit_test(golden_words),
        cmocka_unit_test(bad_text),           cmocka_unit_test(check_bits),
        cmocka_unit_test(random_keys),        cmocka_unit_test(golden_derivation),
        cmocka_unit_test(typed_tag),          cmocka_unit_test(files),
        cmocka_unit_test(first_start_agrees), cmocka_unit_test(sources)};
    return cmocka_run_group_tests_name("keys", tests, setup, teardown);
}
