/* Attention: AVX2 with FMA and F16C: two registers of eight lanes. See attn_body.h. */
#if defined(__x86_64__)
#define CAKE_LANES_AVX2
#include "kernels/attn_body.h"

const cake_attn_kern cake_attn_avx2 = ATTN_TABLE;
#else
typedef int cake_attn_avx2_empty; /* ISO C wants a declaration */
#endif
