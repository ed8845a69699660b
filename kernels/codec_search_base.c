/* The searches of block encoders, four sub-blocks at a time: SSE2 and NEON, which every CPU of
 * their architecture has. */
#define LANES           4
#define BODY_NAME(name) name##_base
#include "kernels/codec_search_body.h"
