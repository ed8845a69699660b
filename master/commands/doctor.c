/* cake-master doctor: what this machine has and lacks, with the remedy for each lack. */
#include "common/file.h"
#include "common/mem.h"
#include "kernels/cpu.h"
#include "master/commands/commands.h"
#include "proto/discovery.h"
#include "proto/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

static unsigned bad;

static void check(bool ok, const char *what, const char *detail, const char *remedy) {
    printf("%-4s %-28s %s%s%s\n", ok ? "ok" : "BAD", what, detail, ok || !remedy ? "" : " -> ",
           ok || !remedy ? "" : remedy);
    bad += !ok;
}

cake_status cake_command_doctor(const cake_master_options *o, cake_error *err) {
    char text[1024];
    cake_error why = {0};
    snprintf(text, sizeof text, "%s, %ld cores", cake_isa_name(cake_cpu_isa()),
             sysconf(_SC_NPROCESSORS_ONLN));
    check(cake_cpu_isa() != CAKE_ISA_SCALAR, "processor", text,
          "the scalar kernels are slow; unset CAKE_KERN, or use a CPU with AVX2 or NEON dotprod");
    snprintf(text, sizeof text, "%.1f GB free", (double)cake_mem_available() / 1e9);
    check(cake_mem_available() > 1u << 30, "memory", text, "close other programs");
    char *cache = o->cache ? cake_strdup(o->cache) : cake_cache_dir();
    struct statvfs v;
    bool made = cake_mkdir_p(cache, 0700, &why) == CAKE_OK && statvfs(cache, &v) == 0;
    if (made)
        snprintf(text, sizeof text, "%s, %.1f GB free", cache,
                 (double)v.f_bavail * (double)v.f_frsize / 1e9);
    check(made, "cache folder", made ? text : why.msg, "give another folder with --cache DIR");
    free(cache);
    cake_keys keys = {0};
    char *where = NULL,
         *path = o->cluster_key_file ? cake_strdup(o->cluster_key_file) : cake_key_default_path();
    bool have = cake_file_exists(path) || getenv("CAKE_CLUSTER_KEY");
    cake_status st = have ? cake_keys_load_or_create(&keys, o->cluster_key_file, NULL, &where, &why)
                          : CAKE_ENOTFOUND;
    snprintf(text, sizeof text, "%s", st == CAKE_OK ? where : have ? why.msg : path);
    check(st == CAKE_OK, "cluster key", text,
          "run 'cake-master cluster create', or 'cluster join' with another machine's words");
    cake_net *net = NULL;
    st = cake_net_open(&net, &(cake_net_options){.keys = st == CAKE_OK ? &keys : NULL}, &why);
    check(st == CAKE_OK, "encryption self-check",
          st == CAKE_OK ? "a random key is refused, ours is let in" : why.msg,
          "install libzmq built with libsodium");
    if (net) cake_net_close(net);
    cake_discovery *d = NULL;
    st = cake_discovery_open(
        &d, &(cake_discovery_options){.tag = keys.tag[0] ? keys.tag : NULL, .browse = true}, &why);
    check(st == CAKE_OK, "discovery (mDNS)", st == CAKE_OK ? cake_discovery_backend(d) : why.msg,
          "open UDP port 5353, or use --topology FILE");
    cake_discovery_close(d);
    cake_wipe(&keys, sizeof keys);
    free(where);
    free(path);
    return bad ? cake_fail(err, CAKE_EUNAVAIL, "%u of the checks above failed", bad) : CAKE_OK;
}
