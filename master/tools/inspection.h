/* cake-master inspect: what a checkpoint, one file of it or a bundle holds, from headers alone. */
#ifndef CAKE_MASTER_TOOLS_INSPECTION_H
#define CAKE_MASTER_TOOLS_INSPECTION_H

#include "common/model/bundle.h"
#include "common/model/layout.h"
#include "master/tools/source.h"

#include <json-c/json.h>
#include <stdio.h>

typedef struct {
    cake_checkpoint *checkpoint;
    json_object *config;     /* NULL: the folder has no config.json */
    cake_manifest *manifest; /* of a bundle; else NULL */
    cake_quant *quant;
    cake_source *source;         /* weights as they are stored */
    cake_model_config described; /* valid when layout is not NULL */
    cake_layout *layout;         /* NULL: this build cannot run it */
    char why[CAKE_ERROR_MAX];    /* the reason, when layout is NULL */
} cake_inspection;

/* arg: a folder, a file or a name in the Hugging Face cache. Fails as opening a checkpoint does,
 * and when config.json does not say what the packed tensors mean; a model that this build cannot
 * run is no failure. */
cake_status cake_inspect(cake_inspection *x, const char *arg, cake_error *err);
void cake_inspection_deinit(cake_inspection *x);

/* tensors: a line for each module too. */
void cake_inspection_print(const cake_inspection *x, bool tensors, FILE *f);
/* One object. Keys of mlx-kquant: model_type, num_hidden_layers, num_quantized, codec_histogram,
 * tensors[] (quantized modules by path: path, kind, codec, bits, group_size, packed_shape,
 * logical_shape); and more of our own. */
void cake_inspection_print_json(const cake_inspection *x, FILE *f);

#endif
