// Memory from torch for the time of a call.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <cstdint>

namespace ffrl::bindings {

inline torch::stable::Tensor bytes(const torch::stable::Tensor& like, size_t count) {
    return torch::stable::new_empty(like, {static_cast<int64_t>(count)}, torch::headeronly::ScalarType::Byte);
}

}  // namespace ffrl::bindings
