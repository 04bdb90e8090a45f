// A cluster of thread blocks that read each other's shared memory, as kernels and the tests of kernels see
// it. A kernel is a sequence of regions as in block.h, over all threads of all blocks of the cluster; a
// region ends in a barrier of the cluster or of each block. On the host the cluster is emulated as one bigger
// block with the memories of all its blocks.
//
// A cluster of one block is plain threads in a block, on any GPU. Those of more need compute capability 9.0.
#pragma once

#include <cstddef>

#include "cuda/arithmetic.h"
#include "cuda/block.h"

namespace ffrl::cuda {

constexpr int kMaxRanks = 8;  // blocks of a cluster on every GPU that has clusters

template <int kThreadsOfBlock, int kBlocks>
class Cluster {
  public:
    static constexpr int kThreads = kThreadsOfBlock, kRanks = kBlocks, kAll = kThreads * kRanks;
    static_assert(kRanks <= kMaxRanks);

    // What a thread keeps from one region to the next.
    template <class U>
    using Own = Private<U, kAll>;

#if defined(__CUDA_ARCH__)
    FFRL_INLINE explicit Cluster(void* memory) : memory_(memory) {}

    template <class F>
    FFRL_INLINE void region(F&& of_thread) const {
        of_thread(static_cast<int>(threadIdx.x));
        if constexpr (kRanks == 1) {
            __syncthreads();
        } else {
#if __CUDA_ARCH__ >= 900
            __cluster_barrier_arrive();
            __cluster_barrier_wait();
#else
            trap();
#endif
        }
    }

    // A region that ends in a barrier of each block alone.
    template <class F>
    FFRL_INLINE void region_of_blocks(F&& of_thread) const {
        of_thread(static_cast<int>(threadIdx.x));
        __syncthreads();
    }

    // A region after which no barrier is needed.
    template <class F>
    FFRL_INLINE void region_without_barrier(F&& of_thread) const {
        of_thread(static_cast<int>(threadIdx.x));
    }

    // False where a warp has nothing to do; the emulated warps do everything together.
    template <class F>
    FFRL_INLINE bool has_work(F&& of_thread) const {
        return of_thread(static_cast<int>(threadIdx.x));
    }

    FFRL_INLINE int rank(int) const {
        if constexpr (kRanks == 1) return 0;
#if __CUDA_ARCH__ >= 900
        return static_cast<int>(__clusterRelativeBlockRank());
#else
        return 0;
#endif
    }
    FFRL_INLINE int in_block(int thread) const { return thread; }
    FFRL_INLINE int index() const { return static_cast<int>(blockIdx.x) / kRanks; }
    FFRL_INLINE Block<kAll> as_block() const { return {}; }

    // Shared memory of this thread's block, and the same address in that of another one.
    FFRL_INLINE void* own(int) const { return memory_; }
    FFRL_INLINE void* peer(int rank) const {
        if constexpr (kRanks == 1) return memory_;
#if __CUDA_ARCH__ >= 900
        return __cluster_map_shared_rank(memory_, static_cast<unsigned>(rank));
#else
        return memory_;
#endif
    }

  private:
    void* memory_;
#else
    // memory: of all blocks, `bytes` of each.
    Cluster(void* memory, size_t bytes, Index3 index, Index3 grid, ThreadOrder order)
        : block_(index, grid, order), memory_(static_cast<char*>(memory)), bytes_(bytes) {}

    template <class F>
    void region(F&& of_thread) const {
        block_.region(of_thread);
    }
    template <class F>
    void region_of_blocks(F&& of_thread) const {
        block_.region(of_thread);
    }
    template <class F>
    void region_without_barrier(F&& of_thread) const {
        block_.region(of_thread);
    }
    template <class F>
    bool has_work(F&&) const {
        return true;
    }

    int rank(int thread) const { return thread / kThreads; }
    int in_block(int thread) const { return thread % kThreads; }
    int index() const { return block_.index().x; }
    const Block<kAll>& as_block() const { return block_; }
    void* own(int thread) const { return peer(rank(thread)); }
    void* peer(int rank) const { return memory_ + bytes_ * static_cast<size_t>(rank); }

  private:
    Block<kAll> block_;
    char* memory_;
    size_t bytes_;
#endif
};

}  // namespace ffrl::cuda
