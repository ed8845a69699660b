/* Element types shared by the kernels' headers. */
#ifndef CAKE_KERNELS_TYPES_H
#define CAKE_KERNELS_TYPES_H

#include <stddef.h>

/* Stored floating-point types, little-endian. BF16 is the top half of an f32. */
typedef enum { CAKE_F32, CAKE_F16, CAKE_BF16, CAKE_FTYPE_COUNT } cake_ftype;

static inline size_t cake_ftype_bytes(cake_ftype t) {
    return t == CAKE_F32 ? 4 : 2;
}

#endif
