/* cake-worker: takes the part of a model that a master gives it, and computes it. */
#include "common/file.h"
#include "common/log.h"
#include "common/mem.h"
#include "proto/discovery.h"
#include "worker/node/node.h"
#include "worker/options.h"
#include "worker/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static cake_serving *serving;

static void on_signal(int sig) {
    (void)sig;
    cake_serving_stop(serving);
}

/* Workers on one host must differ in name and id: the first takes the name, the next "NAME-2"...
 * The lock lives as long as the process. */
static cake_status choose_name(const char *wanted, char *name, char *id, cake_error *err) {
    char host[CAKE_NODE_NAME_MAX] = "worker";
    if (!wanted) {
        gethostname(host, sizeof host - 8);
        host[sizeof host - 8] = 0;
    }
    const char *base = wanted ? wanted : host;
    if (!cake_name_is_plain(base) || strlen(base) > CAKE_NODE_NAME_MAX - 8)
        return cake_fail(err, CAKE_EUSAGE, "--name '%s': use up to %d characters, without '/'",
                         base, CAKE_NODE_NAME_MAX - 8);
    char *dir = cake_state_dir();
    cake_status st = cake_mkdir_p(dir, 0700, err);
    for (int i = 1; st == CAKE_OK; i++) {
        if (i == 1)
            snprintf(name, CAKE_NODE_NAME_MAX, "%s", base);
        else
            snprintf(name, CAKE_NODE_NAME_MAX, "%.50s-%d", base, i);
        char *lock = cake_asprintf("%s/%s.lock", dir, name);
        int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        int e = errno;
        bool mine = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
        if (fd < 0)
            st = cake_fail(err, CAKE_EIO, "cannot create '%s': %s", lock, strerror(e));
        else if (!mine)
            close(fd);
        free(lock);
        if (mine) break; /* fd stays open on purpose */
        if (i == 1000)
            st =
                cake_fail(err, CAKE_EAGAIN, "a thousand workers named '%s' run here already", base);
    }
    free(dir);
    return st == CAKE_OK ? cake_node_id_load(name, id, err) : st;
}

static void announce(cake_serving *s, const char *backend, const char *tag) {
    cake_hello h;
    cake_serving_describe(s, &h);
    fprintf(stderr, "cake-worker '%s' listens on %s, cluster %s, found by %s\n", h.name,
            cake_serving_address(s), tag, backend);
    fprintf(
        stderr,
        "%u threads (%s), %.1f GB for layers, reads weights at %.1f GB/s, prefill %.0f GMAC/s\n",
        h.threads, h.isa, (double)h.memory_bytes / 1e9, h.read_bw / 1e9, h.ops / 1e9);
}

static cake_status import_bundle(const char *cache, const cake_worker_options *o, cake_error *err) {
    cake_store *store;
    cake_sha256 id;
    char hex[CAKE_SHA256_HEX];
    cake_status st = cake_store_open(&store, cache, o->cache_size, err);
    if (st != CAKE_OK) return st;
    cake_pool *pool = cake_pool_new((unsigned)o->threads, 0);
    st = cake_store_adopt(store, o->import, pool, &id, err);
    cake_pool_free(pool);
    cake_store_close(store);
    if (st != CAKE_OK) return st;
    cake_sha256_hex(&id, hex);
    fprintf(stderr, "took over the bundle %.16s from %s\n", hex, o->import);
    return CAKE_OK;
}

static cake_status serve(const cake_worker_options *o, bool any_port, cake_error *err) {
    char name[CAKE_NODE_NAME_MAX], id[CAKE_NODE_ID_HEX];
    cake_keys keys = {0};
    char *where = NULL, *cache = o->cache ? cake_strdup(o->cache) : cake_cache_dir();
    bool created = false;
    cake_net *net = NULL;
    cake_discovery *discovery = NULL;
    cake_status st = choose_name(o->name, name, id, err);
    if (st == CAKE_OK && !o->insecure)
        st = cake_keys_load_or_create(&keys, o->cluster_key_file, &created, &where, err);
    if (st == CAKE_OK && o->import) st = import_bundle(cache, o, err);
    if (st != CAKE_OK) goto out;
    if (created)
        fprintf(stderr,
                "Made a new cluster key: %s\nOn the other machines run 'cake-master cluster join' "
                "and type what "
                "'cake-master cluster show' prints here.\n",
                where);
    if (o->insecure)
        fprintf(stderr, "warning: --insecure: nothing is encrypted and anybody on this network may "
                        "use this worker\n");
    st = cake_net_open(&net, &(cake_net_options){.keys = o->insecure ? NULL : &keys}, err);
    if (st != CAKE_OK) goto out;
    cake_serving_options so = {.net = net,
                               .address = o->address,
                               .id = id,
                               .name = name,
                               .compute = {.cache_dir = cache,
                                           .cache_budget_bytes = o->cache_size,
                                           .threads = (unsigned)o->threads,
                                           .memory_bytes = o->memory,
                                           .spin_us = 50}};
    st = cake_serving_new(&serving, &so, err);
    if (st == CAKE_EUNAVAIL &&
        any_port) { /* another worker has the usual port, and nobody asked for it */
        so.address = "0.0.0.0:0";
        st = cake_serving_new(&serving, &so, err);
    }
    if (st != CAKE_OK) goto out;
    cake_discovery_options d = {.tag = o->insecure ? NULL : keys.tag,
                                .id = id,
                                .name = name,
                                .port = cake_serving_port(serving),
                                .advertise = true};
    cake_error why;
    const char *backend = "nobody (no mDNS here; name its address in a topology file)";
    if (cake_discovery_open(&discovery, &d, &why) == CAKE_OK)
        backend = cake_discovery_backend(discovery);
    else
        cake_log(CAKE_LOG_WARN, "event=discovery_failed reason=\"%s\"", why.msg);
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    announce(serving, backend, o->insecure ? "none (--insecure)" : keys.tag);
    cake_serving_run(serving);
    signal(SIGINT, SIG_DFL); /* the handler needs `serving`; a second Ctrl-C need not wait */
    signal(SIGTERM, SIG_DFL);
    fprintf(stderr, "cake-worker '%s' stops\n", name);
out:
    cake_discovery_close(discovery); /* says goodbye first, so that nobody plans with us */
    cake_serving_free(serving);
    if (net) cake_net_close(net);
    cake_wipe(&keys, sizeof keys);
    free(where);
    free(cache);
    return st;
}

int main(int argc, char **argv) {
    cake_mem_keep(17 << 20); /* activations or logits of a batch */
    cake_worker_options o;
    cake_cli cli;
    int rc = cake_cli_start(&cake_worker_program, argc, argv, &o, &cli);
    if (rc >= 0) return rc;
    cake_cli_set_log(o.log_level, o.log_format, o.quiet, o.verbose);
    cake_error err = {0};
    bool any_port = cake_cli_source_of(&cake_worker_program, &cli, "address") == CAKE_FROM_DEFAULT;
    cake_status st = serve(&o, any_port, &err);
    if (st != CAKE_OK) fprintf(stderr, "cake-worker: %s\n", err.msg);
    cake_cli_deinit(&cli);
    return cake_status_exit(st);
}
