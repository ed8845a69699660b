/* The command line of cake-worker as a struct. Without any argument it must just work. */
#ifndef CAKE_WORKER_OPTIONS_H
#define CAKE_WORKER_OPTIONS_H

#include "common/cli/cli.h"

typedef struct {
    const char *name;             /* NULL: host name */
    const char *address;          /* HOST:PORT to listen on; port 0 picks one */
    const char *cluster_key_file; /* NULL: CAKE_CLUSTER_KEY, then the stored key */
    bool insecure;
    const char *cache;   /* folder, NULL: cake_cache_dir() */
    uint64_t cache_size; /* bytes of disk, 0: no limit */
    const char *import;  /* bundle folder to take into the cache first, NULL */
    int64_t threads;     /* 0: one per core */
    uint64_t memory;     /* bytes, 0: what is free */
    int log_format;      /* 0 text, 1 json */
    int log_level;       /* cake_log_level */
    bool quiet;
    int verbose;
} cake_worker_options;

extern const cake_cli_program cake_worker_program;

#endif
