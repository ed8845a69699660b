/* The model behind an HTTP API, as the verbs serve and chat bring it up. */
#ifndef CAKE_MASTER_COMMANDS_SERVE_H
#define CAKE_MASTER_COMMANDS_SERVE_H

#include "master/options.h"

typedef struct cake_service cake_service;

/* NULL members: as the options say. Strings are borrowed. */
typedef struct {
    const char *address, *api_key; /* api_key: the only one */
    uint32_t sequences;            /* 0: as the options say */
} cake_service_private;

/* Listen. p may be NULL. */
cake_status cake_service_open(cake_service **out, const cake_master_options *o,
                              const cake_service_private *p, cake_error *err);
/* Bring the cluster up and answer until interrupted, over whoever is left when a worker is lost.
 * CAKE_OK: interrupted while it served. Blocks. */
cake_status cake_service_run(cake_service *v, cake_error *err);
/* Any thread: the model has been loaded once. */
bool cake_service_began(const cake_service *v);
const char *cake_service_url(const cake_service *v);
const char *cake_service_model(const cake_service *v);
void cake_service_close(cake_service *v);

#endif
