// The operators on a CUDA device: allocate, and hand pointers and torch's current stream to csrc/cuda.
// Schemas, fakes and derivatives are in ffrl/ops/gpu_operators.py.
//
// All memory is taken from torch before the first launch, and nothing waits: a call can be captured in a CUDA
// graph.
#include <torch/csrc/stable/library.h>

#include <cstdint>

#include "bindings/checks.h"
#include "bindings/cuda_call.h"
#include "bindings/memory.h"
#include "bindings/results.h"
#include "cuda/potential_cuda.h"
#include "ffrl/potential_params.h"

namespace ffrl::bindings {
namespace {

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
