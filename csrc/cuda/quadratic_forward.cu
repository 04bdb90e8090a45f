#include "cuda/launch.h"
#include "cuda/quadratic_forward.h"

namespace ffrl::cuda {

template void launch_layers_forward(StreamLauncher&, const ForwardParams<float>&, int, Precision);
template void launch_layers_forward(StreamLauncher&, const ForwardParams<double>&, int, Precision);
template void launch_rows_forward(StreamLauncher&, const ForwardParams<float>&, int);
template void launch_rows_forward(StreamLauncher&, const ForwardParams<double>&, int);

}  // namespace ffrl::cuda
