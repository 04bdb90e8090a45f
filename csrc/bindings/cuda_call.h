// What the operators on a CUDA device share: where they run, and what the kernels take.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <cstdint>
#include <limits>

#include "bindings/checks.h"
#include "cuda/potential_cuda.h"

namespace ffrl::bindings {

constexpr int kOldestCapability = 8;
constexpr uintptr_t kAddress = 16;  // of the widest load

inline Tensor aligned(const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kAddress == 0
               ? tensor
               : torch::stable::clone(tensor);
}

// Contiguous operands on one CUDA device, at addresses that vectors can be read from.
inline Operands aligned(Operands operands) {
    for (Tensor* tensor : {&operands.z, &operands.tau, &operands.dtau_dt, &operands.weight1, &operands.bias1,
                           &operands.weight2, &operands.bias2, &operands.weight3, &operands.bias3})
        *tensor = aligned(*tensor);
    if (operands.d2tau_dt2) operands.d2tau_dt2 = aligned(*operands.d2tau_dt2);
    return operands;
}

inline void check_cuda(cudaError_t error) {
    if (error != cudaSuccess) cudaGetLastError();  // it is not to be found by the next call
    STD_TORCH_CHECK(
        error != cudaErrorNoKernelImageForDevice,
        "ffrl: the CUDA kernels were not compiled for this GPU; build them again with its compute "
        "capability in TORCH_CUDA_ARCH_LIST");
    STD_TORCH_CHECK(error == cudaSuccess, "ffrl: CUDA: ", cudaGetErrorString(error));
}

// The device of z is the current one, and torch's current stream there is what is launched on.
class OnDevice {
  public:
    explicit OnDevice(const Tensor& z) : guard_(index_of(z)) {
        const int32_t device = z.get_device_index();
        int major = 0;
        check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
        STD_TORCH_CHECK(major >= kOldestCapability,
                        "ffrl: the CUDA kernels need a GPU of compute capability ", kOldestCapability,
                        ".0 or later, and CUDA device ", device, " is of ", major, ".x");
        void* stream = nullptr;
        STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
                        "ffrl: torch has no current stream for CUDA device ", device);
        stream_ = static_cast<cudaStream_t>(stream);
    }

    cudaStream_t stream() const { return stream_; }

  private:
    static int32_t index_of(const Tensor& z) {
        STD_TORCH_CHECK(z.is_cuda(), "ffrl: z is not on a CUDA device");
        return z.get_device_index();
    }

    torch::stable::accelerator::DeviceGuard guard_;
    cudaStream_t stream_ = nullptr;
};

// float64 is always computed in float64.
inline cuda::Precision precision_of(int64_t number) {
    STD_TORCH_CHECK(number >= 0 && number <= 2, "ffrl: precision = ", number, ", expected 0, 1 or 2");
    return static_cast<cuda::Precision>(number);
}

// `steps`: how often the rows are kept.
inline void check_limits(const Operands& operands, int64_t steps = 1) {
    const PotentialShape& s = operands.shape;
    STD_TORCH_CHECK(operands.k || s.rows == 0 || (0 <= operands.k_all && operands.k_all < s.potentials),
                    "ffrl: k_all = ", operands.k_all, " is outside 0 <= k < ", s.potentials);
    const int64_t slots = cuda::max_blocks(s, operands.k.has_value()) * cuda::kRows * steps;
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    for (const int64_t count : {slots, s.features, s.potentials, s.latent, s.hidden1, s.hidden2})
        STD_TORCH_CHECK(count <= kMost, "ffrl: ", count, " rows or columns, the CUDA kernels take up to ",
                        kMost);
}

}  // namespace ffrl::bindings
