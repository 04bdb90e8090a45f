// Stands for the kernels of the instruction sets that a program leaves out, because each takes long to
// compile. Nothing calls them. WITH_name is defined for those that are there.
#include "cpu/dispatch.h"

namespace ffrl::cpu {

#if defined(FFRL_HAS_X86)
#if !defined(WITH_avx512)
const Kernels<float> avx512::kernels_float{};
const Kernels<double> avx512::kernels_double{};
#endif
#if !defined(WITH_avx2)
const Kernels<float> avx2::kernels_float{};
const Kernels<double> avx2::kernels_double{};
#endif
#endif
#if !defined(WITH_portable)
const Kernels<float> portable::kernels_float{};
const Kernels<double> portable::kernels_double{};
#endif

}  // namespace ffrl::cpu
