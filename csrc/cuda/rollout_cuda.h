// The rollout of a flow on the GPU as plain functions, in the style of potential_cuda.h: z_t = z_{t-1} ±
// ∇u(z_{t-1}, t) for t = 1..T, all steps in one launch. Shapes are those of the op with B rows and T time
// feature rows of each potential.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/potential_cuda.h"
#include "ffrl/potential_params.h"

namespace ffrl::cuda {

// What the host asks of a GPU; it decides how a call is spread over it, so that a call and its workspace need
// the same.
struct RolloutDevice {
    int capability = 0;         // the major one
    int64_t shared_memory = 0;  // bytes that a block may have
    bool has_clusters = false;  // whether clusters of so large blocks can be launched
    // H1 (D + H2) from which on rows have a cluster of blocks: its barriers take the time of so many
    // products, about.
    int64_t worth_a_cluster = 96 * 96;
};

struct RolloutSteps {
    int64_t count;  // T
    int direction;  // 1 or -1
};

template <class T>
struct RolloutOutputs {
    T* z;      // (B, T+1, D)
    T* du_dz;  // (B, T, D)
    T* du_dt;  // (B, T)
    T* kept;   // (max_blocks · T · kRows, kept_width of the form none), block after block and in each step
               // after step; null: no backward follows
};

template <class T>
struct RolloutCotangents {
    const T* v_z;  // as the outputs; null: zero
    const T* v_du_dz;
    const T* v_du_dt;
};

// Bytes of device memory that a call uses beside its arguments. The shape is that of the op: `rows` is B,
// `features` K·T, or T where k is not mixed.
template <class T>
size_t rollout_forward_workspace(const PotentialShape&, int64_t steps, bool mixed, const RolloutDevice&);
template <class T>
size_t rollout_backward_workspace(const PotentialShape&, int64_t steps, bool mixed, bool needs_features,
                                  bool needs_weights, const RolloutDevice&);

#if defined(__CUDACC__) || defined(FFRL_WITH_CUDA)

cudaError_t rollout_device(int device, RolloutDevice&);

// inputs.z is z0 (B, D); the time features of potential k in step t are row k·T + t - 1, or t - 1 where k is
// null.
template <class T>
cudaError_t rollout_forward(const PotentialShape&, const RolloutSteps&, const PotentialInputs<T>&,
                            const RolloutOutputs<T>&, void* workspace, Precision, const RolloutDevice&,
                            cudaStream_t);

// inputs.z is the z (B, T+1, D) that the forward gave, gradients.v_z that of z0.
template <class T>
cudaError_t rollout_backward(const PotentialShape&, const RolloutSteps&, const PotentialInputs<T>&,
                             const T* kept, const RolloutCotangents<T>&, const PotentialGradients<T>&,
                             void* workspace, Precision, const RolloutDevice&, cudaStream_t);

#endif

}  // namespace ffrl::cuda
