/* Groups of the affine encoder, four weights at a time: SSE2 and NEON, which every CPU of their
 * architecture has. */
#define LANES           4
#define BODY_NAME(name) name##_base
#include "kernels/codec_affine_body.h"
