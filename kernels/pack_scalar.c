/* Import of a tile, one row at a time: the reference, and what packs the last tile of a matrix. */
#define LANES           1
#define BODY_NAME(name) name##_scalar
#include "kernels/pack_body.h"
