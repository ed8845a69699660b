/* Attention: The reference: plain C at the baseline ISA. See attn_body.h. */
#define CAKE_LANES_SCALAR
#include "kernels/attn_body.h"

const cake_attn_kern cake_attn_scalar = ATTN_TABLE;
