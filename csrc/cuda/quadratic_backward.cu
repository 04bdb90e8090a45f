#include "cuda/launch.h"
#include "cuda/quadratic_backward.h"

namespace ffrl::cuda {

template void launch_rows_backward(StreamLauncher&, const BackwardParams<float>&, int);
template void launch_rows_backward(StreamLauncher&, const BackwardParams<double>&, int);
template void launch_layers_backward(StreamLauncher&, const BackwardParams<float>&, int, Precision);
template void launch_layers_backward(StreamLauncher&, const BackwardParams<double>&, int, Precision);

}  // namespace ffrl::cuda
