// The entry points of the rollout.
#include <mutex>

#include "cuda/compiled_elsewhere.h"
#include "cuda/rollout.h"
#include "cuda/rollout_cuda.h"

namespace ffrl::cuda {

#define FFRL_COMPILED_ELSEWHERE(T)                                                                       \
    extern template void launch_rollout_forward_steps(StreamLauncher&, const RolloutForwardParams<T>&,   \
                                                      const RolloutSpread&, int, Precision);             \
    extern template void launch_rollout_backward_steps(StreamLauncher&, const RolloutBackwardParams<T>&, \
                                                       const RolloutSpread&, int, Precision)

FFRL_COMPILED_ELSEWHERE(float);
FFRL_COMPILED_ELSEWHERE(double);

cudaError_t rollout_clusters(int64_t shared_memory, bool& usable);

namespace {

cudaError_t ask(int device, RolloutDevice& out) {
    int capability = 0, bytes = 0, clusters = 0;
    cudaError_t error = cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device);
    if (taken(error) != cudaSuccess) return error;
    out = RolloutDevice{};
    out.capability = capability;
    out.shared_memory = bytes;
    return clusters != 0 ? rollout_clusters(bytes, out.has_clusters) : cudaSuccess;
}

}  // namespace

// Asked once for each device, which is the current one.
cudaError_t rollout_device(int device, RolloutDevice& out) {
    struct Answer {
        std::mutex mutex;
        bool known = false;
        RolloutDevice device;
    };
    constexpr int kDevices = 64;
    static Answer answers[kDevices];
    if (device < 0 || device >= kDevices) return ask(device, out);
    Answer& answer = answers[device];
    const std::lock_guard<std::mutex> lock(answer.mutex);
    if (!answer.known) {
        const cudaError_t error = ask(device, answer.device);
        if (error != cudaSuccess) return error;
        answer.known = true;
    }
    out = answer.device;
    return cudaSuccess;
}

template <class T>
cudaError_t rollout_forward(const PotentialShape& shape, const RolloutSteps& steps,
                            const PotentialInputs<T>& inputs, const RolloutOutputs<T>& outputs,
                            void* workspace, Precision precision, const RolloutDevice& device,
                            cudaStream_t stream) {
    StreamLauncher launch(stream);
    launch_rollout_forward(launch, shape, steps, inputs, outputs, workspace, precision, device);
    return launch.error();
}

template <class T>
cudaError_t rollout_backward(const PotentialShape& shape, const RolloutSteps& steps,
                             const PotentialInputs<T>& inputs, const T* kept,
                             const RolloutCotangents<T>& cotangents, const PotentialGradients<T>& gradients,
                             void* workspace, Precision precision, const RolloutDevice& device,
                             cudaStream_t stream) {
    StreamLauncher launch(stream);
    launch_rollout_backward(launch, shape, steps, inputs, kept, cotangents, gradients, workspace, precision,
                            device);
    return launch.error();
}

#define FFRL_ENTRY_POINTS(T)                                                                                \
    template size_t rollout_forward_workspace<T>(const PotentialShape&, int64_t, bool,                      \
                                                 const RolloutDevice&);                                     \
    template size_t rollout_backward_workspace<T>(const PotentialShape&, int64_t, bool, bool, bool,         \
                                                  const RolloutDevice&);                                    \
    template cudaError_t rollout_forward(const PotentialShape&, const RolloutSteps&,                        \
                                         const PotentialInputs<T>&, const RolloutOutputs<T>&, void*,        \
                                         Precision, const RolloutDevice&, cudaStream_t);                    \
    template cudaError_t rollout_backward(const PotentialShape&, const RolloutSteps&,                       \
                                          const PotentialInputs<T>&, const T*, const RolloutCotangents<T>&, \
                                          const PotentialGradients<T>&, void*, Precision,                   \
                                          const RolloutDevice&, cudaStream_t)

FFRL_ENTRY_POINTS(float);
FFRL_ENTRY_POINTS(double);

}  // namespace ffrl::cuda
