/* cake-master verify: is a checkpoint whole, and how far is it from the one it was made of?
 *
 * Findings are collected, not returned at the first: a problem makes the checkpoint unusable, a
 * warning does not. Both functions read all weights and block. */
#ifndef CAKE_MASTER_TOOLS_VERIFICATION_H
#define CAKE_MASTER_TOOLS_VERIFICATION_H

#include "common/pool.h"
#include "common/sha256.h"
#include "common/status.h"
#include "master/tools/recipe.h"
#include "master/ui/progress.h"

typedef struct {
    char *name;
    uint64_t n_bytes;
    cake_sha256 sha256;
} cake_verified_file;

/* One weight of the second checkpoint against the first. */
typedef struct {
    char *name;
    char format[CAKE_FORMAT_NAME_MAX];
    double relative_error; /* |b - a| / |a|, Euclidean; 0 when both are zero */
    double cosine;         /* 1 when both are zero */
    double max_error;      /* of one element */
} cake_weight_error;

typedef struct {
    uint32_t n_problems, n_warnings, n_files, n_errors;
    char **problems, **warnings;
    cake_verified_file *files; /* by name */
    cake_weight_error *errors; /* worst first: relative error, then name */
} cake_verification;

/* Every file of the folder hashed; container rules, config.json, every tensor the architecture
 * needs with its shape and type, all scales and weights finite. arg: a folder, one file of it or a
 * name in the Hugging Face cache. Fails (with nothing in v) only when there is nothing to look at
 * or on `stop`; what is wrong with the checkpoint is a problem in v. pool and progress may be NULL.
 */
cake_status cake_verify(cake_verification *v, const char *arg, cake_pool *pool,
                        cake_progress *progress, cake_error *err);
/* Compare the weights of b with those of a, from which it was made, by name. A weight that one of
 * them lacks, another shape, and weights that are not finite are problems. */
cake_status cake_verify_against(cake_verification *v, const char *a, const char *b, cake_pool *pool,
                                cake_progress *progress, cake_error *err);
void cake_verification_deinit(cake_verification *v);

#endif
