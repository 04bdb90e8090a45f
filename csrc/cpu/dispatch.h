// The kernels of each instruction set, as compiled from the same templates.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "cpu/potential_cpu.h"
#include "cpu/row_plan.h"
#include "cpu/time_features_cpu.h"
#include "cpu/workspace.h"

namespace ffrl::cpu {

template <class T>
struct Kernels {
    Status (*forward)(const PotentialShape&, const PotentialInputs<T>&, const PotentialOutputs<T>&, T*, void*,
                      const Threads&);
    Status (*backward)(const PotentialShape&, const PotentialInputs<T>&, const T*,
                       const PotentialCotangents<T>&, const BackwardNeeds&, const PotentialGradients<T>&,
                       void*, const Threads&);
    void (*time_features)(const TimeShape&, const TimeInputs<T>&, T* const*, T*, const Threads&);
    void (*time_features_vjp)(const TimeShape&, const TimeInputs<T>&, const T*, const T* const*,
                              const TimeGradients<T>&, void*, const Threads&);
};

#if defined(__x86_64__)
#define FFRL_HAS_X86 1
namespace avx512 {
extern const Kernels<float> kernels_float;
extern const Kernels<double> kernels_double;
}  // namespace avx512
namespace avx2 {
extern const Kernels<float> kernels_float;
extern const Kernels<double> kernels_double;
}  // namespace avx2
#endif
namespace portable {
extern const Kernels<float> kernels_float;
extern const Kernels<double> kernels_double;
}  // namespace portable

}  // namespace ffrl::cpu
