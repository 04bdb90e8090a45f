// What lets one function serve a C++ compiler, a CUDA compiler, and vectors of rows as well as single
// numbers.
#pragma once

#if defined(__CUDACC__)
#define FFRL_INLINE __host__ __device__ __forceinline__
#else
#define FFRL_INLINE inline __attribute__((always_inline))
#endif
