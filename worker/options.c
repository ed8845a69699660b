/* The option table of cake-worker. */
#include "worker/options.h"

#include "common/log.h"

#include <stddef.h>

_Static_assert(CAKE_LOG_DEBUG == 0 && CAKE_LOG_NONE == 4, "order of level_choices");

static const char *const format_choices[] = {"text", "json", NULL};
static const char *const level_choices[] = {"debug", "info", "warn", "error", "none", NULL};

#define AT(field) offsetof(cake_worker_options, field)
static const cake_opt opts[] = {
    {"name", 0, CAKE_OPT_STRING, AT(name), "NAME", NULL, 0, 0, NULL, 0, 0, "Network",
     "what this worker is called in tables and topology files; its host name by default"},
    {"address", 0, CAKE_OPT_STRING, AT(address), "HOST:PORT", "0.0.0.0:10128", 0, 0, NULL, 0, 0,
     "Network", "where to listen; port 0 picks a free one and says which"},
    {"cluster-key-file", 0, CAKE_OPT_STRING, AT(cluster_key_file), "FILE", NULL, 0, 0, NULL, 0,
     CAKE_OPT_FILE, "Network",
     "file with the cluster key; else CAKE_CLUSTER_KEY in the environment, else the stored key"},
    {"insecure", 0, CAKE_OPT_FLAG, AT(insecure), NULL, NULL, 0, 0, NULL, 0, 0, "Network",
     "no encryption and no key: anyone on the network can use this machine and read what passes"},

    {"cache", 0, CAKE_OPT_STRING, AT(cache), "DIR", NULL, 0, 0, NULL, 0, CAKE_OPT_DIR, "Resources",
     "folder for received weights, kept across restarts; ~/.cache/cake by default"},
    {"cache-size", 0, CAKE_OPT_BYTES, AT(cache_size), "BYTES", "0", 0, 0, NULL, 0, 0, "Resources",
     "disk space the cache may take, such as 20G; 0: no limit"},
    {"import", 0, CAKE_OPT_STRING, AT(import), "DIR", NULL, 0, 0, NULL, 0,
     CAKE_OPT_DIR | CAKE_OPT_CMDLINE, "Resources",
     "first take over a folder that 'cake-master bundle' wrote: verified, and never sent again"},
    {"threads", 0, CAKE_OPT_INT, AT(threads), "N", "0", 0, 1024, NULL, 0, 0, "Resources",
     "threads to compute with; 0: one per core"},
    {"memory", 0, CAKE_OPT_BYTES, AT(memory), "BYTES", "0", 0, 0, NULL, 0, 0, "Resources",
     "memory for weights and KV cache, such as 6G; 0: what is free"},

    {"log-format", 0, CAKE_OPT_ENUM, AT(log_format), "FORM", "text", 0, 0, format_choices, 0, 0,
     "Output", "events on standard error as logfmt lines or as JSON"},
    {"log-level", 0, CAKE_OPT_ENUM, AT(log_level), "LEVEL", "info", 0, 0, level_choices, 0, 0,
     "Output", "lowest level of events shown"},
    {"quiet", 'q', CAKE_OPT_FLAG, AT(quiet), NULL, NULL, 0, 0, NULL, 0, 0, "Output", "only errors"},
    {"verbose", 'v', CAKE_OPT_COUNT, AT(verbose), NULL, NULL, 0, 0, NULL, 0, 0, "Output",
     "show more events; twice for all"},
};

const cake_cli_program cake_worker_program = {
    .name = "cake-worker",
    .summary = "hold a share of a language model for a cake-master on the network",
    .intro = "Waits for a cake-master on the network, takes a share of its model's layers and "
             "computes them. "
             "Needs no option: it announces itself, and the master finds it.",
    .default_verb = -1,
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
};
