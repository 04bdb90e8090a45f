// How kernels are launched: on a stream, or emulated on the host, block after block.
//
// A kernel is a struct K with
//     static constexpr int kThreads;          threads of a block, a multiple of 32
//     static constexpr int kMinBlocks;        blocks that shall fit into a multiprocessor: bounds the
//     registers struct Params;                          plain data struct Shared; what a block shares; sizeof
//     is its shared memory static void run(const Block<kThreads>&, const Params&, Shared&);
// or, for clusters, with
//     static constexpr int kThreads, kRanks;  threads of a block, blocks of a cluster
//     struct Params;
//     static void run(const Cluster<kThreads, kRanks>&, const Params&);
// and shared memory whose size the host gives. The host code that launches several of them takes the launcher
// as a template argument, so that the tests run the same sequence without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/block.h"
#include "cuda/cluster.h"

#if defined(__CUDACC__)
#include <cuda_runtime_api.h>
#else
#include <cstring>
#include <memory>
#endif

namespace ffrl::cuda {

#if defined(__CUDACC__)

template <class K>
__global__ void __launch_bounds__(K::kThreads, K::kMinBlocks)
    kernel(const __grid_constant__ typename K::Params params) {
#if defined(__CUDA_ARCH__)
    extern __shared__ __align__(128) unsigned char shared_memory[];
    K::run(Block<K::kThreads>{}, params, *reinterpret_cast<typename K::Shared*>(shared_memory));
#endif
}

template <class K>
__global__ void __launch_bounds__(K::kThreads, 1)
    cluster_kernel(const __grid_constant__ typename K::Params params) {
#if defined(__CUDA_ARCH__)
    extern __shared__ __align__(128) unsigned char shared_memory[];
#if __CUDA_ARCH__ < 900
    if constexpr (K::kRanks > 1)
        trap();  // such a chip has clusters of one
    else
#endif
        K::run(Cluster<K::kThreads, K::kRanks>(shared_memory), params);
#endif
}

// The runtime keeps an error that it returned as the last one of the thread, where the next launch that asks
// for its own would find it: who handles an error takes it from there.
inline cudaError_t taken(cudaError_t error) {
    if (error != cudaSuccess) cudaGetLastError();
    return error;
}

// Lets blocks of the kernel have as much shared memory as the current device gives to one. What is set is the
// kernel's and not a launch's: another thread may set it between this and the launch, so it is always the
// same.
template <class F>
cudaError_t allow_shared_memory(F* kernel) {
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    return taken(error);
}

// `attribute` must live as long as the result.
template <class K>
cudaLaunchConfig_t cluster_config(int clusters, size_t bytes, cudaStream_t stream,
                                  cudaLaunchAttribute& attribute) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = K::kRanks;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(clusters) * K::kRanks);
    config.blockDim = dim3(K::kThreads);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = K::kRanks > 1 ? 1 : 0;
    return config;
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

    // `clusters` clusters with so many bytes of shared memory in each block.
    template <class K>
    void cluster(int clusters, size_t bytes, const typename K::Params& params) {
        if (error_ != cudaSuccess || clusters == 0) return;
        check(allow_shared_memory(cluster_kernel<K>));
        if (error_ != cudaSuccess) return;
        cudaLaunchAttribute attribute{};
        const cudaLaunchConfig_t config = cluster_config<K>(clusters, bytes, stream_, attribute);
        check(cudaLaunchKernelEx(&config, cluster_kernel<K>, params));
    }

    void zero(void* memory, size_t bytes) {
        if (error_ == cudaSuccess && bytes != 0) check(cudaMemsetAsync(memory, 0, bytes, stream_));
    }

    cudaError_t error() const { return error_; }

  private:
    void check(cudaError_t error) {
        if (error_ == cudaSuccess) error_ = taken(error);
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

    template <class K>
    void cluster(int clusters, size_t bytes, const typename K::Params& params) {
        for (int i = 0; i < clusters; ++i) {
            // Rounded up for the alignment: nothing is between the memories of two blocks.
            const std::unique_ptr<Aligned[]> memory(new Aligned[K::kRanks * bytes / sizeof(Aligned) + 1]);
            std::memset(static_cast<void*>(memory.get()), 0xff, K::kRanks * bytes);
            K::run(Cluster<K::kThreads, K::kRanks>(memory.get(), bytes, {i, 0, 0}, {clusters, 1, 1}, order_),
                   params);
        }
    }

    void zero(void* memory, size_t bytes) { std::memset(memory, 0, bytes); }

  private:
    struct alignas(16) Aligned {
        char bytes[16];
    };
    ThreadOrder order_;
};

#endif

}  // namespace ffrl::cuda
