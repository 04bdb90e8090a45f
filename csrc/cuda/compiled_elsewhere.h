// The launches of the op, each of which is compiled in a file of its own beside the entry points.
#pragma once

#include "cuda/launch.h"
#include "cuda/potential_backward.h"
#include "cuda/potential_forward.h"

namespace ffrl::cuda {

#define FFRL_COMPILED_ELSEWHERE(T)                                                                          \
    extern template void launch_gram_matrix(StreamLauncher&, const T*, int, int, int, Precision, T*);       \
    extern template void launch_squares(StreamLauncher&, const CubicOperands<T>&, LaplacianForm, bool,      \
                                        Precision, T*, T*, T*);                                             \
    extern template void launch_cubic_backward(StreamLauncher&, const CubicOperands<T>&, LaplacianForm,     \
                                               bool, Precision, T*, T*, T*, T*);                            \
    extern template void launch_layers_forward(StreamLauncher&, const ForwardParams<T>&, int, Precision);   \
    extern template void launch_rows_forward(StreamLauncher&, const ForwardParams<T>&, int);                \
    extern template void launch_rows_backward(StreamLauncher&, const BackwardParams<T>&, int);              \
    extern template void launch_layers_backward(StreamLauncher&, const BackwardParams<T>&, int, Precision); \
    extern template void launch_weight1_gradient(StreamLauncher&, const WeightParams<T>&, Precision);       \
    extern template void launch_weight2_gradient(StreamLauncher&, const WeightParams<T>&, Precision)

FFRL_COMPILED_ELSEWHERE(float);
FFRL_COMPILED_ELSEWHERE(double);

#undef FFRL_COMPILED_ELSEWHERE

}  // namespace ffrl::cuda
