/* Import of a tile, eight rows at a time with AVX2. */
#if defined(__x86_64__)
#define LANES           8
#define BODY_NAME(name) name##_avx2
#include "kernels/pack_body.h"
#else
typedef int cake_pack_avx2_is_empty;
#endif
