/* Import of a tile, four rows at a time with NEON. */
#if defined(__aarch64__)
#define LANES           4
#define BODY_NAME(name) name##_neon
#include "kernels/pack_body.h"
#else
typedef int cake_pack_neon_is_empty;
#endif
