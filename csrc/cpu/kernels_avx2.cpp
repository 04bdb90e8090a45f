#include "cpu/dispatch.h"

#if defined(FFRL_HAS_X86)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define FFRL_SIMD avx2
#define FFRL_VECTOR_BYTES 32
#define FFRL_TILE_ROWS 6
#define FFRL_FMA_FLOAT _mm256_fmadd_ps
#define FFRL_FMA_DOUBLE _mm256_fmadd_pd
#include "cpu/kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
