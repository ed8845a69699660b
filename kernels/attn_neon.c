/* Attention: AArch64 NEON: four registers of four lanes. See attn_body.h. */
#if defined(__aarch64__)
#define CAKE_LANES_NEON
#include "kernels/attn_body.h"

const cake_attn_kern cake_attn_neon = ATTN_TABLE;
#else
typedef int cake_attn_neon_empty; /* ISO C wants a declaration */
#endif
