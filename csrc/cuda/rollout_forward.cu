#include "cuda/launch.h"
#include "cuda/rollout.h"

namespace ffrl::cuda {

// Whether clusters of blocks with so much shared memory can be launched on the current device: not by code
// that was compiled for an older one, nor on a part of a GPU that is too small.
cudaError_t rollout_clusters(int64_t shared_memory, bool& usable) {
    using K = RolloutForward<Arithmetic<float, Precision::tf32x3>, kMaxRanks, true>;
    cudaFuncAttributes attributes{};
    cudaError_t error = taken(cudaFuncGetAttributes(&attributes, cluster_kernel<K>));
    if (error != cudaSuccess) return error;
    usable = attributes.ptxVersion >= 90;
    if (!usable) return cudaSuccess;
    error = allow_shared_memory(cluster_kernel<K>);
    if (error != cudaSuccess) return error;
    cudaLaunchAttribute attribute{};
    const cudaLaunchConfig_t config =
        cluster_config<K>(1, static_cast<size_t>(shared_memory), nullptr, attribute);
    int clusters = 0;
    // That there can be none may be said by an error, too.
    error = taken(cudaOccupancyMaxActiveClusters(&clusters, cluster_kernel<K>, &config));
    usable = error == cudaSuccess && clusters > 0;
    return cudaSuccess;
}

template void launch_rollout_forward_steps(StreamLauncher&, const RolloutForwardParams<float>&,
                                           const RolloutSpread&, int, Precision);
template void launch_rollout_forward_steps(StreamLauncher&, const RolloutForwardParams<double>&,
                                           const RolloutSpread&, int, Precision);

}  // namespace ffrl::cuda
