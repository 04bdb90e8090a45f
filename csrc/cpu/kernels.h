// Instantiates the kernels for one instruction set. No #pragma once: included once by each kernels_*.cpp,
// which sets the compiler's target and defines FFRL_SIMD (the namespace), FFRL_VECTOR_BYTES, FFRL_TILE_ROWS
// and, where the target has them, the fused multiply-adds of its vectors.

#include "ffrl/potential_math.h"  // here, so that they are compiled for the same target
#include "ffrl/time_math.h"

#define FFRL_LAMBDA __attribute__((always_inline))

namespace ffrl::cpu {
namespace FFRL_SIMD {
namespace {

// clang-format off: each builds on those before it
#include "cpu/simd.h"
#include "cpu/gemm_tile.h"
#include "cpu/prepare.h"
#include "cpu/gram_value.h"
#include "cpu/forward.h"
#include "cpu/gram_vjp.h"
#include "cpu/backward.h"
#include "cpu/reduce.h"
#include "cpu/time_features.h"
// clang-format on

template <class T>
struct Target : Simd<T, FFRL_VECTOR_BYTES / sizeof(T)> {
    static constexpr int height = FFRL_TILE_ROWS;  // rows of a full register tile
};

}  // namespace

extern const Kernels<float> kernels_float;
extern const Kernels<double> kernels_double;
const Kernels<float> kernels_float{run_forward<Target<float>>, run_backward<Target<float>>,
                                   run_time_features<Target<float>>, run_time_features_vjp<Target<float>>};
const Kernels<double> kernels_double{run_forward<Target<double>>, run_backward<Target<double>>,
                                     run_time_features<Target<double>>,
                                     run_time_features_vjp<Target<double>>};

}  // namespace FFRL_SIMD
}  // namespace ffrl::cpu
