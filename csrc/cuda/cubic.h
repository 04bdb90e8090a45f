// What the kernels of the cubic part, equations (8) to (10) and (16) of docs/derivation.md, share with their
// callers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/potential_cuda.h"
#include "ffrl/host_device.h"

namespace ffrl::cuda {

// P slots: blocks of kRows rows of one potential; potential k has the blocks first_block[k] .. first_block[k
// + 1] - 1. In slots without a row d1 and c are finite, and what stands in for c in the backward is zero.
template <class T>
struct CubicOperands {
    const T* weight1;        // (K, H1, D)
    const T* weight2;        // (K, H2, H1)
    const T* gram;           // (K, H1, H1), G = W1 W1ᵀ
    const int* block_k;      // (blocks,)
    const int* first_block;  // (K + 1,)
    const T* d1;             // (P, H1)
    const T* c;              // (H2, P): c forward; backward λ c of (14)
    int blocks, potentials, latent, hidden1, hidden2;

    FFRL_INLINE int64_t slots() const { return static_cast<int64_t>(blocks) * kRows; }
};

struct Range {
    int first, last;
};

// Blocks of a potential that a chunk has, out of `chunks`.
FFRL_INLINE Range chunk_of_potential(const int* first_block, int64_t k, int chunk, int chunks) {
    const int64_t first = first_block[k], count = first_block[k + 1] - first;
    return {static_cast<int>(first + count * chunk / chunks),
            static_cast<int>(first + count * (chunk + 1) / chunks)};
}

}  // namespace ffrl::cuda
