/* Inside of bundle.c and manifest.c: making a manifest from its parts. */
#ifndef CAKE_COMMON_MODEL_MANIFEST_H
#define CAKE_COMMON_MODEL_MANIFEST_H

#include "common/model/bundle.h"

/* Tensors (name, dtype, shape, sha256), units and config_* are set; compute n_bytes, offsets, size,
 * prefix, json and id. CAKE_EFORMAT / CAKE_EUNSUPPORTED for names, shapes or sizes that no manifest
 * may have. */
cake_status cake_manifest_seal(cake_manifest *m, cake_error *err);

#endif
