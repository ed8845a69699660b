/* cake-master plan, bundle, workers: look without computing. */
#include "common/cli/human.h"
#include "common/file.h"
#include "common/mem.h"
#include "master/commands/commands.h"
#include "master/commands/session.h"
#include "master/plan/plan_print.h"
#include "master/ui/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cake_status cake_command_plan(const cake_master_options *o, cake_error *err) {
    cake_session s;
    cake_status st = cake_session_open(&s, o, true, err);
    if (st == CAKE_OK) st = cake_session_plan(&s, 1, err);
    if (st == CAKE_OK) {
        if (o->json)
            cake_plan_print_json(&s.plan.request, &s.plan.plan, stdout);
        else
            cake_plan_print(&s.plan.request, &s.plan.plan, stdout);
    }
    cake_session_close(&s);
    return st;
}

/* One folder per worker of the plan: for carrying on a stick what would take long over the network.
 */
cake_status cake_command_bundle(const cake_master_options *o, cake_error *err) {
    cake_session s;
    cake_status st = cake_session_open(&s, o, true, err);
    if (st == CAKE_OK) st = cake_session_plan(&s, 1, err);
    if (st == CAKE_OK) st = cake_mkdir_p(o->out, 0755, err);
    size_t n = 0;
    for (uint32_t i = 0; st == CAKE_OK && i < s.plan.request.n_nodes; i++) {
        if (!s.plan.plan.nodes[i].used || s.plan.nodes[i].is_local) continue;
        const char *name = s.plan.nodes[i].name;
        cake_bundle *b;
        if (!cake_name_is_plain(name))
            st =
                cake_fail(err, CAKE_EINVAL, "worker '%s' has a name that cannot be a folder", name);
        if (st == CAKE_OK) st = cake_cluster_bundle(s.cluster, &s.plan, i, &b, err);
        if (st != CAKE_OK) break;
        char *dir = cake_path_join(o->out, name), hex[CAKE_SHA256_HEX];
        st = cake_bundle_write(b, dir, err);
        cake_sha256_hex(&b->manifest->id, hex);
        if (st == CAKE_OK)
            printf(o->json ? "{\"worker\":\"%s\",\"folder\":\"%s\",\"bytes\":%llu,\"id\":\"%s\"}\n"
                           : "%s\t%s\t%llu bytes\t%s\n",
                   name, dir, (unsigned long long)b->manifest->size, hex);
        n++;
        free(dir);
        cake_bundle_free(b);
    }
    if (st == CAKE_OK && n == 0)
        st = cake_fail(err, CAKE_EUNAVAIL,
                       "the plan gives no worker a part, so there is nothing to write; start "
                       "cake-worker on other machines, or say who holds what with --topology FILE");
    cake_session_close(&s);
    return st;
}

cake_status cake_command_workers(const cake_master_options *o, cake_error *err) {
    cake_session s;
    cake_status st = cake_session_open(&s, o, false, err);
    if (st != CAKE_OK && st != CAKE_EAUTH && st != CAKE_EUNAVAIL) goto out;
    size_t n = s.cluster ? cake_cluster_n_peers(s.cluster) : 0;
    if (o->json) {
        json_object *list = json_object_new_array();
        for (size_t i = 0; i < n; i++) {
            const cake_master_peer *p = cake_cluster_peer(s.cluster, i);
            json_object *e = json_object_new_object();
            json_object_object_add(e, "name", json_object_new_string(p->name));
            json_object_object_add(e, "id", json_object_new_string(p->id));
            json_object_object_add(e, "address", json_object_new_string(p->addresses[p->address]));
            json_object_object_add(
                e, "state",
                json_object_new_string(p->hello.busy ? "busy" : cake_peer_state_name(p->state)));
            json_object_object_add(e, "reason", json_object_new_string(p->reason));
            json_object_object_add(e, "version", json_object_new_string(p->hello.version));
            json_object_object_add(e, "isa", json_object_new_string(p->hello.isa));
            json_object_object_add(e, "threads", json_object_new_int64(p->hello.threads));
            json_object_object_add(e, "memory",
                                   json_object_new_int64((int64_t)p->hello.memory_bytes));
            json_object_object_add(e, "read_bandwidth", json_object_new_double(p->hello.read_bw));
            json_object_object_add(e, "macs_per_s", json_object_new_double(p->hello.ops));
            json_object_object_add(e, "rtt_s", json_object_new_double(p->rtt_s));
            json_object_object_add(e, "link_bandwidth", json_object_new_double(p->bandwidth));
            json_object_array_add(list, e);
        }
        printf("%s\n", json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN |
                                                                JSON_C_TO_STRING_NOSLASHESCAPE));
        json_object_put(list);
    } else if (n) {
        printf("%-20s %-22s %-10s %8s %9s %11s %9s %9s\n", "NAME", "ADDRESS", "STATE", "THREADS",
               "MEMORY", "READ", "RTT", "LINK");
        for (size_t i = 0; i < n; i++) {
            const cake_master_peer *p = cake_cluster_peer(s.cluster, i);
            printf("%-20s %-22s %-10s %8u %7.1fGB %7.1fGB/s %7.2fms %5.*fMB/s %s\n", p->name,
                   p->addresses[p->address],
                   p->hello.busy ? "busy" : cake_peer_state_name(p->state), p->hello.threads,
                   (double)p->hello.memory_bytes / 1e9, p->hello.read_bw / 1e9, p->rtt_s * 1e3,
                   p->bandwidth < 10e6 ? 2 : 0, p->bandwidth / 1e6, p->reason);
        }
    }
    if (st == CAKE_OK && n == 0 && !o->json)
        fprintf(stderr, "No workers found. Start cake-worker on the other machines (same network, "
                        "same cluster key); "
                        "--discovery-timeout 10s looks longer.\n");
out:
    cake_session_close(&s);
    return st;
}
