/* Specs of the N x K matrices that benchmarks list; N and K are the including file's. */
#ifndef CAKE_TESTS_BENCH_FORMATS_H
#define CAKE_TESTS_BENCH_FORMATS_H

#define BLOCK(which)                                                                               \
    { .kind = CAKE_W_BLOCK, .codec = CAKE_CODEC_##which, .n = N, .k = K }
#define FP(which)                                                                                  \
    { .kind = CAKE_W_FP, .fp = CAKE_FP_##which, .n = N, .k = K }
#define AFFINE(type, width, size)                                                                  \
    { .kind = CAKE_W_AFFINE, .ftype = type, .bits = width, .group = size, .n = N, .k = K }
#define DENSE(type)                                                                                \
    { .kind = CAKE_W_DENSE, .ftype = type, .n = N, .k = K }

#endif
