/* Row operations: AArch64 NEON: four registers of four lanes. See vec_body.h. */
#if defined(__aarch64__)
#define CAKE_LANES_NEON
#include "kernels/vec_body.h"

const cake_vec_kern cake_vec_neon = VEC_TABLE;
#else
typedef int cake_vec_neon_empty; /* ISO C wants a declaration */
#endif
