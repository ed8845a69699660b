/* Row operations: AVX2 with FMA and F16C: two registers of eight lanes. See vec_body.h. */
#if defined(__x86_64__)
#define CAKE_LANES_AVX2
#include "kernels/vec_body.h"

const cake_vec_kern cake_vec_avx2 = VEC_TABLE;
#else
typedef int cake_vec_avx2_empty; /* ISO C wants a declaration */
#endif
