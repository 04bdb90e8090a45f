// torch's threads for the CPU kernels.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/potential_cpu.h"

namespace ffrl::bindings {

// torch's own threads, as many as torch.set_num_threads allows
inline cpu::Threads torch_threads() {
    const auto run = [](int64_t count, void* state, void (*task)(void*, int64_t)) {
        torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) task(state, i);
        });
    };
    return {static_cast<int64_t>(torch::stable::get_num_threads()), run};
}

}  // namespace ffrl::bindings
