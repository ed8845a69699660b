/* Groups of the affine encoder, eight weights at a time with AVX2. */
#if defined(__x86_64__)
#define LANES           8
#define BODY_NAME(name) name##_avx2
#include "kernels/codec_affine_body.h"
#else
typedef int cake_codec_affine_avx2_is_empty;
#endif
