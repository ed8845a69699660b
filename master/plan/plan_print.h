/* Showing a plan: an aligned table for people, one JSON object for programs. */
#ifndef CAKE_MASTER_PLAN_PLAN_PRINT_H
#define CAKE_MASTER_PLAN_PLAN_PRINT_H

#include "master/plan/planner.h"

#include <stdio.h>

/* "embed, 0-11", "12-22, head", "3": the units of a stage as people name them. buf of 64 bytes. */
const char *cake_plan_units_text(char *buf, uint32_t n_layers, uint32_t unit_begin,
                                 uint32_t unit_end);

/* Stage table, totals, nodes left out with reasons. Plain text, no colour. */
void cake_plan_print(const cake_plan_request *req, const cake_plan *plan, FILE *f);
/* {"stages":[...],"nodes":[...],"token_s":...} on one line. */
void cake_plan_print_json(const cake_plan_request *req, const cake_plan *plan, FILE *f);

#endif
