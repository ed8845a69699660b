/* The OpenAI-compatible server: three threads and queues between them.
 *
 *   HTTP thread      connections, checks, replies             (http.c, server.c)
 *   prepare thread   chat template, tokenizer                 (jobs.c)
 *   caller's thread  scheduler and cluster, sampling, text    (jobs.c, cake_serve_loop)
 *
 * A job goes HTTP -> prepare -> loop, its text comes back to HTTP as events; the HTTP thread alone
 * frees it, after its last event. A client that leaves sets a flag that each thread heeds. */
#ifndef CAKE_MASTER_SERVER_SERVER_H
#define CAKE_MASTER_SERVER_SERVER_H

#include "master/cluster/cluster.h"
#include "master/generate/generate.h"
#include "master/template/template.h"

typedef struct cake_serve cake_serve;

typedef struct {
    const char *address;            /* HOST:PORT */
    const char *api_key_file;       /* NULL */
    const char *api_key;            /* NULL or "" */
    const char *cors;               /* origins, NULL */
    const char *model;              /* the name clients use */
    const char *tls_cert, *tls_key; /* PEM files; NULL: plain HTTP */
    bool insecure_no_auth;
    uint32_t queue;       /* sequences that may wait */
    uint64_t deadline_ns; /* of a request; 0: none */
    bool speculate;
    cake_sampler_params defaults;
} cake_serve_config;

/* What answers are made with; borrowed, must outlive the server. */
typedef struct {
    const cake_tokenizer *tokenizer;
    const cake_chat_template *chat; /* NULL: the model has no chat form */
    cake_eos eos;
    uint32_t n_vocab, context, sequences;
} cake_serve_engine;

/* Listen, and answer at once: 503 to what needs the model until cake_serve_loop runs. Strings are
 * borrowed. CAKE_ECONFIG: an address that others can reach, without a key. */
cake_status cake_serve_open(cake_serve **out, const cake_serve_config *c, cake_error *err);
void cake_serve_close(cake_serve *s);
/* "http://HOST:PORT" */
const char *cake_serve_url(const cake_serve *s);

/* Once, before the first loop. */
void cake_serve_set_engine(cake_serve *s, const cake_serve_engine *e);
/* Serve over the deployed plan until it fails or the user interrupts (CAKE_ECANCELED). When workers
 * are lost, the answers under way wait: called again with a new deployment, the loop computes their
 * tokens so far once more and they go on where they were, to the bit. */
cake_status cake_serve_loop(cake_serve *s, cake_cluster *c, cake_error *err);
/* For cake_cluster_options.observe, with the server as arg: /api/v1/topology shows what the cluster
 * is like also while it is brought up. The loop's thread. */
void cake_serve_observe(void *server, const cake_cluster *c);
/* End the answers that wait for a new deployment with an error. Between loops, or after the last.
 */
void cake_serve_abandon(cake_serve *s, const cake_error *why);

#endif
