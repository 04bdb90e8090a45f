// Kernels of one thread for each element: sums of parts and what else is small.
#pragma once

#include <cstdint>

#include "cuda/block.h"
#include "ffrl/host_device.h"

namespace ffrl::cuda {

// F is plain data with `int64_t count` and a call operator for one element.
template <class F>
struct ForEach {
    static constexpr int kThreads = 256, kMinBlocks = 1;
    using Params = F;
    struct Shared {};

    static FFRL_INLINE void run(const Block<kThreads>& block, const Params& of_element, Shared&) {
        block.region_without_barrier([&](int thread) {
            const int64_t i = static_cast<int64_t>(block.index().x) * kThreads + thread;
            if (i < of_element.count) of_element(i);
        });
    }
};

template <class F, class Launcher>
void for_each(Launcher& launch, const F& of_element) {
    constexpr int kThreads = ForEach<F>::kThreads;
    launch.template operator()<ForEach<F>>(
        {static_cast<int>((of_element.count + kThreads - 1) / kThreads), 1, 1}, of_element);
}

// out = scale Σ_p parts[p], parts (parts, count), in their order.
template <class T>
struct AddParts {
    int64_t count;
    int parts;
    T scale;
    const T* from;
    T* out;

    FFRL_INLINE void operator()(int64_t i) const {
        T sum = 0;
        for (int p = 0; p < parts; ++p) sum += from[p * count + i];
        out[i] = scale * sum;
    }
};

}  // namespace ffrl::cuda
