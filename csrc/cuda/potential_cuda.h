// The op on the GPU as plain functions: sizes, pointers to device memory, a stream; no torch. Everything is
// enqueued on the stream: nothing is allocated, and nothing waits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ffrl/potential_params.h"

#if defined(__CUDACC__) || defined(FFRL_WITH_CUDA)
#include <driver_types.h>
#endif

namespace ffrl::cuda {

constexpr int kRows =
    64;  // rows of one potential that stand together in one block, in every kernel of a call

// Of the cubic products; their neighbours are computed in tf32x3, or in ieee with it. float64 is always ieee.
enum class Precision : int64_t { ieee = 0, tf32x3 = 1, tf32 = 2 };

// Blocks of kRows slots that so many rows, of one potential or of mixed ones, can need.
constexpr int64_t max_blocks(const PotentialShape& shape, bool mixed) {
    return mixed ? shape.rows / kRows + shape.potentials : (shape.rows + kRows - 1) / kRows;
}

// Numbers that a slot keeps for the backward: h1 (H1), q (H1), h2 (H2), v (D), u, ∂o/∂t, ∂²o/∂t², ℓ, then S
// (H2) with a Laplacian and e (H1) in the Gram form. ``kept`` is (slots, width).
constexpr int64_t kept_width(const PotentialShape& shape) {
    return 2 * shape.hidden1 + shape.hidden2 + shape.latent + 4 +
           (shape.form != LaplacianForm::none ? shape.hidden2 : 0) +
           (shape.form == LaplacianForm::gram ? shape.hidden1 : 0);
}

// Bytes of device memory that a call uses beside its arguments.
template <class T>
size_t forward_workspace(const PotentialShape& shape, bool mixed, bool keep);
template <class T>
size_t backward_workspace(const PotentialShape& shape, bool mixed, bool needs_features, bool needs_weights);

#if defined(__CUDACC__) || defined(FFRL_WITH_CUDA)

// kept: (max_blocks · kRows, kept_width). k outside [0, K) traps the kernel that meets it.
template <class T>
cudaError_t forward(const PotentialShape&, const PotentialInputs<T>&, const PotentialOutputs<T>&, T* kept,
                    bool keep, void* workspace, Precision, cudaStream_t);
template <class T>
cudaError_t backward(const PotentialShape&, const PotentialInputs<T>&, const T* kept,
                     const PotentialCotangents<T>&, const PotentialGradients<T>&, void* workspace, Precision,
                     cudaStream_t);

#endif

}  // namespace ffrl::cuda
