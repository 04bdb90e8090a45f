#include "cuda/launch.h"
#include "cuda/rollout.h"

namespace ffrl::cuda {

template void launch_rollout_backward_steps(StreamLauncher&, const RolloutBackwardParams<float>&,
                                            const RolloutSpread&, int, Precision);
template void launch_rollout_backward_steps(StreamLauncher&, const RolloutBackwardParams<double>&,
                                            const RolloutSpread&, int, Precision);

}  // namespace ffrl::cuda
