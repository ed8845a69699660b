/* Topology files: which workers there are, where, and optionally which layers each one holds.
 *
 *   linux-server:
 *     host: "10.0.0.5:10128"
 *     description: "the desktop"       # optional
 *     layers:                          # optional; without it the planner chooses
 *       - "model.layers.0-15"          # inclusive, as Cake users write them
 *       - "model.layers.16"
 *       - "model.embed_tokens"         # optional: the embedding on this worker ...
 *       - "lm_head"                    # ... and final norm and output head ("model.norm" likewise)
 *     threads: 8                       # optional hints for the planner
 *     memory: 6GiB
 *
 * YAML 1.1 by libyaml, without anchors, aliases, tags and second documents. Limits below. Unknown
 * or doubled keys are errors: a typing slip must not silently change a plan. Every message names
 * file and line and says what to write instead. */
#ifndef CAKE_MASTER_PLAN_TOPOLOGY_H
#define CAKE_MASTER_PLAN_TOPOLOGY_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CAKE_TOPOLOGY_MAX_BYTES = 1 << 20,
    CAKE_TOPOLOGY_MAX_WORKERS = 1024,
    CAKE_TOPOLOGY_MAX_DEPTH = 8,
    CAKE_TOPOLOGY_MAX_RANGES = 1024, /* per worker */
    CAKE_TOPOLOGY_MAX_LAYERS = 4096,
    CAKE_TOPOLOGY_MAX_TEXT = 1024, /* bytes of one scalar */
    CAKE_TOPOLOGY_MAX_NAME = 63    /* bytes of a worker's name */
};

typedef struct {
    char *name;                      /* the mapping key; unique */
    char *host;                      /* host name, IPv4, or IPv6 without brackets */
    uint16_t port;                   /* 0: not given, use the default port */
    char *description;               /* "" when absent */
    bool has_layers;                 /* layer_begin..layer_end is set by the file */
    uint32_t layer_begin, layer_end; /* one run of layers, end exclusive; empty (0,0) without */
    bool has_embedding;              /* the file puts the embedding here */
    bool has_head;                   /* the file puts final norm and head here */
    uint32_t threads;                /* 0: no hint */
    uint64_t memory_bytes;           /* 0: no hint */
    uint32_t line;                   /* of the name in the file */
} cake_topology_worker;

typedef struct {
    char *path; /* what the messages call it */
    cake_topology_worker *workers;
    size_t n_workers;
} cake_topology;

/* Parse text[0..len); `what` names the source in messages. On success free with
 * cake_topology_deinit. CAKE_ECONFIG: the file is not a topology, with the sentence. CAKE_ENOMEM.
 * Blocks: no. */
cake_status cake_topology_parse(cake_topology *t, const char *text, size_t len, const char *what,
                                cake_error *err);
cake_status cake_topology_read(cake_topology *t, const char *path, cake_error *err);
void cake_topology_deinit(cake_topology *t);

/* Compare with a model of n_layers layers: a layer outside it, a layer on two workers, a gap
 * between two workers' layers that nobody can fill, embedding or head on two workers or away from
 * the worker that holds the first or last layers. Layers before the first and after the last listed
 * one belong to the master (as in Cake) when every worker has layers; workers without layers may
 * take any unlisted ones. CAKE_ECONFIG with file, line and remedy. */
cake_status cake_topology_check(const cake_topology *t, uint32_t n_layers, cake_error *err);

#endif
