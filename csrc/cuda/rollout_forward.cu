#include "cuda/launch.h"
#include "cuda/rollout.h"

namespace ffrl::cuda {

// Whether clusters of blocks with so much shared memory can be launched on the current device: not by code
// that was compiled for an older one, nor on a part of a GPU that is too small.
cudaError_t rollout_clusters(int64_t shared_memory, bool& usable) {
    using K = RolloutForward<Arithmetic<float, Precision::tf32x3>, kMaxRanks, true>;
    const auto bytes = static_cast<int>(shared_memory);
    cudaFuncAttributes attributes{};
    cudaError_t error = cudaFuncGetAttributes(&attributes, cluster_kernel<K>);
    if (error != cudaSuccess) return error;
    usable = attributes.ptxVersion >= 90;
    if (!usable) return cudaSuccess;
    error = cudaFuncSetAttribute(cluster_kernel<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    cudaLaunchAttribute attribute{};
    const cudaLaunchConfig_t config = cluster_config<K>(1, bytes, nullptr, attribute);
    int clusters = 0;
    error = cudaOccupancyMaxActiveClusters(&clusters, cluster_kernel<K>, &config);
    usable = error == cudaSuccess && clusters > 0;
    return error;
}

template void launch_rollout_forward_steps(StreamLauncher&, const RolloutForwardParams<float>&,
                                           const RolloutSpread&, int, Precision);
template void launch_rollout_forward_steps(StreamLauncher&, const RolloutForwardParams<double>&,
                                           const RolloutSpread&, int, Precision);

}  // namespace ffrl::cuda
