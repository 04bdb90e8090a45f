// What kernels compute with on the device, and its counterpart on the host.
#pragma once

#include <cmath>
#include <cstdint>

#include "ffrl/host_device.h"

#if defined(__CUDA_ARCH__)
#define FFRL_UNROLL _Pragma("unroll")
#define FFRL_UNROLL_BY(count) _Pragma(FFRL_TEXT_OF(unroll count))
#define FFRL_TEXT_OF(text) #text
#else
#define FFRL_UNROLL
#define FFRL_UNROLL_BY(count)
#endif

namespace ffrl::cuda {

FFRL_INLINE constexpr int64_t divide_up(int64_t n, int64_t by) {
    return (n + by - 1) / by;
}

// a b + c, in one rounding on the device. On the host two: there it is the bits of the same sequence that
// matter.
template <class T>
FFRL_INLINE T multiply_add(T a, T b, T c) {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(T) == sizeof(float))
        return __fmaf_rn(a, b, c);
    else
        return __fma_rn(a, b, c);
#else
    return a * b + c;
#endif
}

// To an ulp or two, ±1 where saturated, NaN where NaN: the compiler's own on the device, as torch takes it.
FFRL_INLINE float hyperbolic_tangent(float x) {
    return tanhf(x);
}
FFRL_INLINE double hyperbolic_tangent(double x) {
    return tanh(x);
}

#if !defined(__CUDACC__)
// How often a kernel of this thread would have ended with an error.
inline int& trap_count() {
    static thread_local int count = 0;
    return count;
}
#endif

// Ends the kernel with an error, and on the host is counted: the caller goes on with something that is not
// outside of any array.
FFRL_INLINE void trap() {
#if defined(__CUDA_ARCH__)
    __trap();
#elif !defined(__CUDACC__)
    ++trap_count();
#endif
}

}  // namespace ffrl::cuda
