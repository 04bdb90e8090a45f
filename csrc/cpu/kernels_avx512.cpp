#include "cpu/dispatch.h"

#if defined(FFRL_HAS_X86)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#define FFRL_SIMD avx512
#define FFRL_VECTOR_BYTES 64
#define FFRL_TILE_ROWS 8
#define FFRL_FMA_FLOAT _mm512_fmadd_ps
#define FFRL_FMA_DOUBLE _mm512_fmadd_pd
#include "cpu/kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
