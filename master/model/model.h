/* The model a master serves: its files, description and unit costs. */
#ifndef CAKE_MASTER_MODEL_MODEL_H
#define CAKE_MASTER_MODEL_MODEL_H

#include "common/model/layout.h"
#include "master/plan/planner.h"

typedef struct {
    char *path;        /* folder */
    char *config_text; /* config.json as it is */
    size_t config_len;
    cake_model_config config;
    cake_checkpoint *checkpoint;
    cake_layout *layout; /* all units */
} cake_model;

/* arg: a folder, or a name in the Hugging Face cache. Checks the whole checkpoint against the
 * config; reads no weights. Warnings of the checkpoint are logged. */
cake_status cake_model_open(cake_model *m, const char *arg, cake_error *err);
void cake_model_close(cake_model *m);

/* Unit costs for the planner: n_layers + 2 of them, caller frees. The rest as in the deployment. */
cake_status cake_model_units(const cake_model *m, uint32_t sequences, uint32_t context,
                             uint32_t max_rows, bool f32_mode, bool kv_q8, cake_plan_unit **out,
                             cake_error *err);

/* Context to plan for: asked, or (0) the model's own, at most 4096. CAKE_EINVAL above what the
 * model was made for. */
cake_status cake_model_context(const cake_model *m, int64_t asked, uint32_t *out, cake_error *err);

#endif
