/* cake-master version: what is running, for bug reports. */
#include "common/json.h"
#include "kernels/cpu.h"
#include "master/commands/commands.h"
#include "proto/wire.h"

#include <openssl/crypto.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <utf8proc.h>
#include <yaml.h>
#include <zmq.h>

cake_status cake_command_version(const cake_master_options *o, cake_error *err) {
    int major, minor, patch;
    char pcre[64] = "", zmq[32], isas[64] = "";
    struct utsname un = {0};
    zmq_version(&major, &minor, &patch);
    snprintf(zmq, sizeof zmq, "%d.%d.%d%s", major, minor, patch,
             zmq_has("curve") ? "" : " (without CURVE)");
    pcre2_config(PCRE2_CONFIG_VERSION, pcre);
    uname(&un);
    size_t at = 0;
    for (int i = 0; i < CAKE_ISA_COUNT; i++)
        if (cake_cpu_has((cake_isa)i))
            at += (size_t)snprintf(isas + at, sizeof isas - at, "%s%s", at ? " " : "",
                                   cake_isa_name((cake_isa)i));
    int rc;
    if (o->json)
        rc =
            printf("{\"version\":\"%s\",\"protocol\":%d,\"isa\":\"%s\",\"isas\":\"%s\",\"system\":"
                   "\"%s %s %s\",\"zmq\":\"%s\","
                   "\"openssl\":\"%s\",\"json_c\":\"%s\",\"pcre2\":\"%s\",\"utf8proc\":\"%s\","
                   "\"yaml\":\"%s\"}\n",
                   CAKE_VERSION, CAKE_WIRE_VERSION, cake_isa_name(cake_cpu_isa()), isas, un.sysname,
                   un.release, un.machine, zmq, OpenSSL_version(OPENSSL_VERSION_STRING),
                   json_c_version(), pcre, utf8proc_version(), yaml_get_version_string());
    else
        rc = printf(
            "cake-master %s, wire protocol %d\nkernels     %s (this CPU runs: %s)\nsystem      %s "
            "%s %s\n"
            "libraries   libzmq %s, OpenSSL %s, json-c %s, PCRE2 %s, utf8proc %s, libyaml %s\n",
            CAKE_VERSION, CAKE_WIRE_VERSION, cake_isa_name(cake_cpu_isa()), isas, un.sysname,
            un.release, un.machine, zmq, OpenSSL_version(OPENSSL_VERSION_STRING), json_c_version(),
            pcre, utf8proc_version(), yaml_get_version_string());
    return rc < 0 ? cake_fail(err, CAKE_EIO, "cannot write to standard output") : CAKE_OK;
}
