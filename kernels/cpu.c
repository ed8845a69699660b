/* CPU detection: see cpu.h. Built at the baseline ISA: it must run on every CPU. */
#include "kernels/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__AVX__)
#error "kernels/cpu.c must be built at the baseline ISA, or it will crash on older CPUs"
#endif

#if defined(__x86_64__)
/* clang 14 has no "f16c" in __builtin_cpu_supports(). The registers are AVX's, which is asked for
 * too. */
static bool has_f16c(void) {
    /* Asked once: CPUID leaves a virtual machine, which costs tens of microseconds each time. */
    static _Atomic int known = -1; /* a race computes the same value twice: harmless */
    int has = atomic_load_explicit(&known, memory_order_relaxed);
    if (has < 0) {
        unsigned a, b, c, d;
        has = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
        atomic_store_explicit(&known, has, memory_order_relaxed);
    }
    return has;
}
#endif

bool cake_cpu_has(cake_isa isa) {
    switch (isa) {
    case CAKE_ISA_SCALAR: return true;
#if defined(__x86_64__)
    /* __builtin_cpu_supports() also checks that the OS saves the wide registers. */
    case CAKE_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    case CAKE_ISA_AVX512:
        return cake_cpu_has(CAKE_ISA_AVX2) && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
    case CAKE_ISA_NEON: return (getauxval(AT_HWCAP) & (1u << 20)) != 0; /* HWCAP_ASIMDDP */
#endif
    default: return false;
    }
}

const char *cake_isa_name(cake_isa isa) {
    static const char *const name[CAKE_ISA_COUNT] = {"scalar", "avx2", "avx512", "neon"};
    return isa >= 0 && isa < CAKE_ISA_COUNT ? name[isa] : "?";
}

cake_isa cake_cpu_isa(void) {
    static _Atomic int chosen = -1; /* a race computes the same value twice: harmless */
    int isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (isa >= 0) return (cake_isa)isa;
    const char *cap = getenv("CAKE_KERN");
    isa = CAKE_ISA_SCALAR;
    for (int i = 0; i < CAKE_ISA_COUNT; i++) {
        if (cake_cpu_has((cake_isa)i)) isa = i;
        if (cap && strcmp(cap, cake_isa_name((cake_isa)i)) == 0) break;
    }
    atomic_store_explicit(&chosen, isa, memory_order_relaxed);
    return (cake_isa)isa;
}
