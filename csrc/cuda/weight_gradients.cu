#include "cuda/launch.h"
#include "cuda/weight_gradients.h"

namespace ffrl::cuda {

template void launch_weight1_gradient(StreamLauncher&, const WeightParams<float>&, Precision);
template void launch_weight1_gradient(StreamLauncher&, const WeightParams<double>&, Precision);
template void launch_weight2_gradient(StreamLauncher&, const WeightParams<float>&, Precision);
template void launch_weight2_gradient(StreamLauncher&, const WeightParams<double>&, Precision);

}  // namespace ffrl::cuda
