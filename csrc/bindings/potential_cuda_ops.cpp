// The operators on a CUDA device: allocate, and hand pointers and torch's current stream to csrc/cuda.
// Schemas, fakes and derivatives are in ffrl/ops/gpu_operators.py.
//
// All memory is taken from torch before the first launch, and nothing waits: a call can be captured in a CUDA
// graph.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <limits>

#include "bindings/checks.h"
#include "bindings/memory.h"
#include "bindings/results.h"
#include "cuda/potential_cuda.h"
#include "ffrl/potential_params.h"

namespace ffrl::bindings {
namespace {

constexpr int kOldestCapability = 8;
constexpr uintptr_t kAlignment = 16;  // of the widest load

Tensor aligned(const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kAlignment == 0
               ? tensor
               : torch::stable::clone(tensor);
}

// Contiguous operands on one CUDA device, at addresses that vectors can be read from.
Operands aligned(Operands operands) {
    for (Tensor* tensor : {&operands.z, &operands.tau, &operands.dtau_dt, &operands.weight1, &operands.bias1,
                           &operands.weight2, &operands.bias2, &operands.weight3, &operands.bias3})
        *tensor = aligned(*tensor);
    if (operands.d2tau_dt2) operands.d2tau_dt2 = aligned(*operands.d2tau_dt2);
    return operands;
}

void check_cuda(cudaError_t error) {
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
cuda::Precision precision_of(int64_t number) {
    STD_TORCH_CHECK(number >= 0 && number <= 2, "ffrl: precision = ", number, ", expected 0, 1 or 2");
    return static_cast<cuda::Precision>(number);
}

void check_limits(const Operands& operands) {
    const PotentialShape& s = operands.shape;
    STD_TORCH_CHECK(operands.k || s.rows == 0 || (0 <= operands.k_all && operands.k_all < s.potentials),
                    "ffrl: k_all = ", operands.k_all, " is outside 0 <= k < ", s.potentials);
    const int64_t slots = cuda::max_blocks(s, operands.k.has_value()) * cuda::kRows;
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    for (const int64_t count : {slots, s.features, s.potentials, s.latent, s.hidden1, s.hidden2})
        STD_TORCH_CHECK(count <= kMost, "ffrl: ", count, " rows or columns, the CUDA kernels take up to ",
                        kMost);
}

template <class T>
ForwardResult forward(const Operands& operands, bool keep, cuda::Precision precision) {
    const PotentialShape& s = operands.shape;
    const bool mixed = operands.k.has_value();
    const OnDevice on_device(operands.z);
    const Outputs outputs(operands, keep, {cuda::max_blocks(s, mixed) * cuda::kRows, cuda::kept_width(s)});
    if (s.rows == 0) return outputs.result();
    const Tensor workspace = bytes(operands.z, cuda::forward_workspace<T>(s, mixed, keep));
    check_cuda(cuda::forward<T>(s, operands.pointers<T>(), outputs.pointers<T>(s),
                                keep ? outputs.kept.mutable_data_ptr<T>() : nullptr, keep,
                                workspace.mutable_data_ptr(), precision, on_device.stream()));
    return outputs.result();
}

ForwardResult potential_forward(const Tensor& z, const Tensor& tau, const Tensor& dtau_dt,
                                const OptionalTensor& d2tau_dt2, const Tensor& weight1, const Tensor& bias1,
                                const Tensor& weight2, const Tensor& bias2, const Tensor& weight3,
                                const Tensor& bias3, const OptionalTensor& k, int64_t k_all,
                                const OptionalTensor& feature_row, bool tanh_output, int64_t form, bool keep,
                                int64_t precision) {
    const Operands operands = aligned(Operands(z, tau, dtau_dt, d2tau_dt2, weight1, bias1, weight2, bias2,
                                               weight3, bias3, k, k_all, feature_row, tanh_output, form));
    check_limits(operands);
    const cuda::Precision wanted = precision_of(precision);
    return z.scalar_type() == ScalarType::Float ? forward<float>(operands, keep, wanted)
                                                : forward<double>(operands, keep, cuda::Precision::ieee);
}

template <class T>
BackwardResult backward(const Operands& operands, const Tensor& kept, const Cotangents& cotangents,
                        const Gradients& gradients, cuda::Precision precision) {
    const PotentialShape& s = operands.shape;
    if (s.rows == 0) return gradients.result();
    const OnDevice on_device(operands.z);
    const Tensor workspace = bytes(
        operands.z,
        cuda::backward_workspace<T>(s, operands.k.has_value(), gradients.of_features, gradients.of_weights));
    check_cuda(cuda::backward<T>(s, operands.pointers<T>(), kept.const_data_ptr<T>(),
                                 cotangents.pointers<T>(), gradients.pointers<T>(),
                                 workspace.mutable_data_ptr(), precision, on_device.stream()));
    return gradients.result();
}

BackwardResult potential_backward(const Tensor& kept, const Tensor& z, const Tensor& tau,
                                  const Tensor& dtau_dt, const OptionalTensor& d2tau_dt2,
                                  const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                                  const Tensor& bias2, const Tensor& weight3, const Tensor& bias3,
                                  const OptionalTensor& k, int64_t k_all, const OptionalTensor& feature_row,
                                  bool tanh_output, int64_t form, const OptionalTensor& v_u,
                                  const OptionalTensor& v_du_dz, const OptionalTensor& v_du_dt,
                                  const OptionalTensor& v_d2u_dt2, const OptionalTensor& v_lap_u,
                                  bool needs_z, bool needs_features, bool needs_weights, int64_t precision) {
    const Operands operands = aligned(Operands(z, tau, dtau_dt, d2tau_dt2, weight1, bias1, weight2, bias2,
                                               weight3, bias3, k, k_all, feature_row, tanh_output, form));
    check_limits(operands);
    const PotentialShape& s = operands.shape;
    const ScalarType dtype = z.scalar_type();
    check("kept", kept, z, dtype,
          {cuda::max_blocks(s, operands.k.has_value()) * cuda::kRows, cuda::kept_width(s)});
    const Tensor kept_here = aligned(Operands::contiguous(kept));
    const Cotangents cotangents(operands, v_u, v_du_dz, v_du_dt, v_d2u_dt2, v_lap_u);
    const Gradients gradients(operands, needs_z, needs_features, needs_weights);
    const cuda::Precision wanted = precision_of(precision);
    return dtype == ScalarType::Float
               ? backward<float>(operands, kept_here, cotangents, gradients, wanted)
               : backward<double>(operands, kept_here, cotangents, gradients, cuda::Precision::ieee);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ffrl_cuda, CUDA, m) {
    m.impl("potential_forward", TORCH_BOX(&potential_forward));
    m.impl("potential_backward", TORCH_BOX(&potential_backward));
}

}  // namespace ffrl::bindings
