/* Row operations: The reference: plain C at the baseline ISA. See vec_body.h. */
#define CAKE_LANES_SCALAR
#include "kernels/vec_body.h"

const cake_vec_kern cake_vec_scalar = VEC_TABLE;
