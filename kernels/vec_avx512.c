/* Row operations: AVX-512: one register of sixteen lanes. See vec_body.h. */
#if defined(__x86_64__)
#define CAKE_LANES_AVX512
#include "kernels/vec_body.h"

const cake_vec_kern cake_vec_avx512 = VEC_TABLE;
#else
typedef int cake_vec_avx512_empty; /* ISO C wants a declaration */
#endif
