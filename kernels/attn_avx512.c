/* Attention: AVX-512: one register of sixteen lanes. See attn_body.h. */
#if defined(__x86_64__)
#define CAKE_LANES_AVX512
#include "kernels/attn_body.h"

const cake_attn_kern cake_attn_avx512 = ATTN_TABLE;
#else
typedef int cake_attn_avx512_empty; /* ISO C wants a declaration */
#endif
