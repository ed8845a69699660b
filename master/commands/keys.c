/* cake-master cluster create, show, join, rotate: the key that makes machines a cluster. Secrets
 * come from a file, the environment or a prompt, never from the command line. */
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/ui/terminal.h"
#include "proto/keys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *key_path(const cake_master_options *o) {
    return o->cluster_key_file ? cake_strdup(o->cluster_key_file) : cake_key_default_path();
}

static cake_status print_key(const cake_cluster_key *k, const char *path, bool with_words,
                             cake_error *err) {
    cake_keys keys;
    cake_status st = cake_keys_derive(&keys, k, err);
    if (st != CAKE_OK) return st;
    if (with_words) printf("%s\n", cake_key_text(k));
    fprintf(stderr, "cluster %s, key in %s\n", keys.tag, path);
    cake_keys_wipe(&keys);
    return CAKE_OK;
}

cake_status cake_command_cluster_create(const cake_master_options *o, cake_error *err) {
    char *path = key_path(o);
    cake_cluster_key k;
    cake_status st = cake_key_create(&k, err);
    if (st == CAKE_OK) st = cake_key_save(&k, path, o->force, err);
    if (st == CAKE_OK) st = print_key(&k, path, true, err);
    if (st == CAKE_OK)
        fprintf(stderr,
                "Type these words into 'cake-master cluster join' on every other machine.\n");
    cake_key_wipe(&k);
    free(path);
    return st;
}

/* A new key in the place of one that is there. The old one is gone: whoever had it is out as soon
 * as the machines that matter have joined again. */
cake_status cake_command_cluster_rotate(const cake_master_options *o, cake_error *err) {
    if (!o->cluster_key_file && getenv("CAKE_CLUSTER_KEY"))
        return cake_fail(
            err, CAKE_ECONFIG,
            "the key in use is that of CAKE_CLUSTER_KEY; unset it, or name the file to "
            "change with --cluster-key-file");
    char *path = key_path(o);
    cake_cluster_key k;
    cake_status st = cake_key_load(&k, path, err);
    cake_key_wipe(&k);
    if (st == CAKE_ENOTFOUND)
        cake_fail(err, st, "there is no key in %s yet; 'cake-master cluster create' makes one",
                  path);
    if (st == CAKE_OK) st = cake_key_create(&k, err);
    if (st == CAKE_OK) st = cake_key_save(&k, path, true, err);
    if (st == CAKE_OK) st = print_key(&k, path, true, err);
    if (st == CAKE_OK)
        fprintf(stderr,
                "The old key is gone. On every other machine: type these words into 'cake-master "
                "cluster join --force',\nthen start cake-worker again; until then it is refused "
                "here.\n");
    cake_key_wipe(&k);
    free(path);
    return st;
}

cake_status cake_command_cluster_show(const cake_master_options *o, cake_error *err) {
    char *path = key_path(o);
    const char *env = o->cluster_key_file ? NULL : getenv("CAKE_CLUSTER_KEY");
    cake_cluster_key k = {0};
    cake_status st = env ? cake_key_parse(&k, env, strlen(env), err) : cake_key_load(&k, path, err);
    if (st == CAKE_ENOTFOUND)
        cake_fail(err, st,
                  "there is no key in %s yet; 'cake-master cluster create' makes one, 'cake-master "
                  "cluster "
                  "join' takes over another machine's",
                  path);
    if (st == CAKE_OK)
        st = print_key(&k, env ? "the environment (CAKE_CLUSTER_KEY)" : path, true, err);
    cake_key_wipe(&k);
    free(path);
    return st;
}

/* A line from the terminal, not shown while it is typed, or from a pipe. */
static cake_status read_secret(char *buf, size_t cap, size_t *len, cake_error *err) {
    struct termios old, quiet;
    bool tty = cake_terminal_lend(&old, "\n");
    if (tty) {
        quiet = old;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(0, TCSAFLUSH, &quiet);
        fprintf(stderr, "Words of the cluster key (or NAME:PASSPHRASE): ");
    }
    bool ok = fgets(buf, (int)cap, stdin) != NULL;
    if (tty) {
        tcsetattr(0, TCSAFLUSH, &old);
        cake_terminal_done();
        fputc('\n', stderr);
    }
    if (!ok) return cake_fail(err, CAKE_EINVAL, "no key was given on standard input");
    *len = strcspn(buf, "\r\n");
    return CAKE_OK;
}

cake_status cake_command_cluster_join(const cake_master_options *o, cake_error *err) {
    char *path = key_path(o), text[1024];
    size_t len = 0;
    cake_cluster_key k = {0};
    cake_status st = read_secret(text, sizeof text, &len, err);
    if (st == CAKE_OK) st = cake_key_parse(&k, text, len, err);
    if (st == CAKE_OK) st = cake_key_save(&k, path, o->force, err);
    if (st == CAKE_OK) st = print_key(&k, path, false, err);
    cake_wipe(text, sizeof text);
    cake_key_wipe(&k);
    free(path);
    return st;
}
