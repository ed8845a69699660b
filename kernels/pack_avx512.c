/* Import of a tile, sixteen rows at a time with AVX-512. */
#if defined(__x86_64__)
#define LANES           16
#define BODY_NAME(name) name##_avx512
#include "kernels/pack_body.h"
#else
typedef int cake_pack_avx512_is_empty;
#endif
