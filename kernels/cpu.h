/* Which instruction set the kernels use: found once at run time, capped by CAKE_KERN.
 *
 * Every kernel family exports one table per ISA with the same contract and the same bits; the
 * family's dispatch file picks the table of cake_cpu_isa(). */
#ifndef CAKE_KERNELS_CPU_H
#define CAKE_KERNELS_CPU_H

#include <stdbool.h>

/* Ascending capability within one architecture. NEON stands for AArch64 with the dotprod extension.
 */
typedef enum {
    CAKE_ISA_SCALAR,
    CAKE_ISA_AVX2,
    CAKE_ISA_AVX512,
    CAKE_ISA_NEON,
    CAKE_ISA_COUNT
} cake_isa;

/* Can this build on this CPU run the ISA? avx2 means AVX2+FMA+F16C; avx512 means F, BW, VL, DQ and
 * VNNI. Also asks whether the operating system saves the wide registers. */
bool cake_cpu_has(cake_isa isa);

/* The best ISA this CPU runs, at most what the environment variable CAKE_KERN
 * (scalar|avx2|avx512|neon) allows. Thread-safe; fixed after the first call. */
cake_isa cake_cpu_isa(void);

/* "scalar", "avx2", "avx512", "neon". */
const char *cake_isa_name(cake_isa isa);

#endif
