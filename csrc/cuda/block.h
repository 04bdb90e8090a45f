// A block of threads as kernels and the tests of kernels see it. On the device it is the block that runs; on
// the host one thread runs the part of each thread in turn, from one barrier to the next, so that index
// arithmetic, schedules and sums are tested without a GPU.
//
// A kernel is written as a sequence of regions. A region is what each thread does on its own; what threads
// pass each other goes through shared or global memory, and every region ends in a barrier. What a thread
// keeps from one region to the next is Private. So within a region no thread may read what another one writes
// there: the emulated block runs its threads in an order that the test chooses, and a result that depends on
// it is a race.
#pragma once

#include "ffrl/host_device.h"

#if !defined(__CUDA_ARCH__)
#include <vector>
#endif

namespace ffrl::cuda {

constexpr int kWarp = 32;

struct Index3 {
    int x, y, z;
};

#if defined(__CUDA_ARCH__)

// What a thread keeps: in registers, where the code that uses it is unrolled.
template <class T, int kThreads>
class Private {
  public:
    FFRL_INLINE T& operator()(int) { return value_; }

  private:
    T value_;
};

template <int kThreads>
class Block {
  public:
    template <class F>
    FFRL_INLINE void region(F&& of_thread) const {
        of_thread(static_cast<int>(threadIdx.x));
        __syncthreads();
    }

    // A region after which no barrier is needed: the next one reads only what its own thread wrote.
    template <class F>
    FFRL_INLINE void region_without_barrier(F&& of_thread) const {
        of_thread(static_cast<int>(threadIdx.x));
    }

    FFRL_INLINE Index3 index() const {
        return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
    }

    FFRL_INLINE Index3 grid() const {
        return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
    }
};

#else

template <class T, int kThreads>
class Private {
  public:
    Private() : values_(kThreads) {}
    T& operator()(int thread) { return values_[thread]; }

  private:
    std::vector<T> values_;
};

enum class ThreadOrder { forward, backward, interleaved };

template <int kThreads>
class Block {
  public:
    Block(Index3 index, Index3 grid, ThreadOrder order) : index_(index), grid_(grid), order_(order) {}

    template <class F>
    void region(F&& of_thread) const {
        for (int i = 0; i < kThreads; ++i) of_thread(thread(i));
    }

    template <class F>
    void region_without_barrier(F&& of_thread) const {
        region(of_thread);
    }

    Index3 index() const { return index_; }
    Index3 grid() const { return grid_; }

  private:
    int thread(int i) const {
        if (order_ == ThreadOrder::backward) return kThreads - 1 - i;
        if (order_ == ThreadOrder::interleaved)
            return (i * 37 + 11) % kThreads;  // 37 is prime to a power of two
        return i;
    }

    Index3 index_, grid_;
    ThreadOrder order_;
};

#endif

}  // namespace ffrl::cuda
