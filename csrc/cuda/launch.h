// How kernels are launched: on a stream, or emulated on the host, block after block.
//
// A kernel is a struct K with
//     static constexpr int kThreads;          threads of a block, a multiple of 32
//     static constexpr int kMinBlocks;        blocks that shall fit into a multiprocessor: bounds the registers
//     struct Params;                          plain data
//     struct Shared;                          what a block shares; sizeof is its shared memory
//     static void run(const Block<kThreads>&, const Params&, Shared&);
// and the host code that launches several of them takes the launcher as a template argument, so that the tests run
// the same sequence without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/block.h"

#if defined(__CUDACC__)
#include <cuda_runtime_api.h>
#else
#include <cstring>
#include <memory>
#endif

namespace ffrl::cuda {

#if defined(__CUDACC__)

template <class K>
__global__ void __launch_bounds__(K::kThreads, K::kMinBlocks) kernel(const __grid_constant__ typename K::Params params) {
#if defined(__CUDA_ARCH__)
    extern __shared__ __align__(128) unsigned char shared_memory[];
    K::run(Block<K::kThreads>{}, params, *reinterpret_cast<typename K::Shared*>(shared_memory));
#endif
}

// The first error is kept, and nothing is launched after it.
class StreamLauncher {
public:
    explicit StreamLauncher(cudaStream_t stream) : stream_(stream) {}

    template <class K>
    void operator()(Index3 grid, const typename K::Params& params) {
        constexpr int kDefaultSharedMemory = 48 * 1024;
        constexpr int kBytes = static_cast<int>(sizeof(typename K::Shared));
        if (error_ != cudaSuccess || grid.x == 0 || grid.y == 0 || grid.z == 0) return;
        if constexpr (kBytes > kDefaultSharedMemory) {
            check(cudaFuncSetAttribute(kernel<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
            if (error_ != cudaSuccess) return;
        }
        const dim3 blocks(grid.x, grid.y, grid.z);
        kernel<K><<<blocks, K::kThreads, kBytes, stream_>>>(params);
        check(cudaGetLastError());
    }

    void zero(void* memory, size_t bytes) {
        if (error_ == cudaSuccess && bytes != 0) check(cudaMemsetAsync(memory, 0, bytes, stream_));
    }

    cudaError_t error() const { return error_; }

private:
    void check(cudaError_t error) {
        if (error_ == cudaSuccess) error_ = error;
    }

    cudaStream_t stream_;
    cudaError_t error_ = cudaSuccess;
};

#else

// Shared memory is full of NaN at the start of a block, whatever the number type.
class EmulatedLauncher {
public:
    explicit EmulatedLauncher(ThreadOrder order = ThreadOrder::forward) : order_(order) {}

    template <class K>
    void operator()(Index3 grid, const typename K::Params& params) {
        const auto shared = std::make_unique<typename K::Shared>();
        for (int z = 0; z < grid.z; ++z) {
            for (int y = 0; y < grid.y; ++y) {
                for (int x = 0; x < grid.x; ++x) {
                    std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(typename K::Shared));
                    K::run(Block<K::kThreads>({x, y, z}, grid, order_), params, *shared);
                }
            }
        }
    }

    void zero(void* memory, size_t bytes) { std::memset(memory, 0, bytes); }

private:
    ThreadOrder order_;
};

#endif

}  // namespace ffrl::cuda
