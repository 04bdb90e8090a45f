// The rollout on a CUDA device, as potential_cuda_ops.cpp. Schemas, fakes and derivatives are in
// ffrl/ops/rollout_operators.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <tuple>

#include "bindings/checks.h"
#include "bindings/cuda_call.h"
#include "bindings/memory.h"
#include "bindings/results.h"
#include "cuda/rollout_cuda.h"

namespace ffrl::bindings {
namespace {

using RolloutResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using RolloutGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

cuda::RolloutSteps steps_of(int64_t num_steps, int64_t direction) {
    STD_TORCH_CHECK(num_steps >= 1 && (direction == 1 || direction == -1), "ffrl: num_steps = ", num_steps,
                    " and direction = ", direction, ", expected >= 1 and 1 or -1");
    return {num_steps, static_cast<int>(direction)};
}

cuda::RolloutDevice device_of(const Tensor& z) {
    cuda::RolloutDevice device;
    check_cuda(cuda::rollout_device(z.get_device_index(), device));
    return device;
}

template <class T>
RolloutResult forward(const Operands& operands, const cuda::RolloutSteps& steps, bool keep,
                      cuda::Precision precision) {
    const PotentialShape& s = operands.shape;
    const bool mixed = operands.k.has_value();
    const auto empty = [&](std::initializer_list<int64_t> sizes) {
        return torch::stable::new_empty(operands.z, sizes);
    };
    const std::initializer_list<int64_t> kept_sizes = {cuda::max_blocks(s, mixed) * cuda::kRows * steps.count,
                                                       cuda::kept_width(s)};
    const OnDevice on_device(operands.z);
    const Tensor z = empty({s.rows, steps.count + 1, s.latent}),
                 du_dz = empty({s.rows, steps.count, s.latent}), du_dt = empty({s.rows, steps.count});
    const Tensor kept = !keep         ? empty({0})
                        : s.rows == 0 ? torch::stable::new_zeros(operands.z, kept_sizes)
                                      : empty(kept_sizes);
    if (s.rows == 0) return {z, du_dz, du_dt, kept};
    const cuda::RolloutDevice device = device_of(operands.z);
    const Tensor workspace =
        bytes(operands.z, cuda::rollout_forward_workspace<T>(s, steps.count, mixed, device));
    check_cuda(
        cuda::rollout_forward<T>(s, steps, operands.pointers<T>(),
                                 {z.mutable_data_ptr<T>(), du_dz.mutable_data_ptr<T>(),
                                  du_dt.mutable_data_ptr<T>(), keep ? kept.mutable_data_ptr<T>() : nullptr},
                                 workspace.mutable_data_ptr(), precision, device, on_device.stream()));
    return {z, du_dz, du_dt, kept};
}

RolloutResult rollout_forward(const Tensor& z0, const Tensor& tau, const Tensor& dtau_dt,
                              const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                              const Tensor& bias2, const Tensor& weight3, const Tensor& bias3,
                              const OptionalTensor& k, int64_t k_all, int64_t num_steps, int64_t direction,
                              bool tanh_output, bool keep, int64_t precision) {
    const cuda::RolloutSteps steps = steps_of(num_steps, direction);
    const Operands operands =
        aligned(Operands(z0, tau, dtau_dt, std::nullopt, weight1, bias1, weight2, bias2, weight3, bias3, k,
                         k_all, std::nullopt, tanh_output, 0, num_steps));
    check_limits(operands, num_steps);
    const cuda::Precision wanted = precision_of(precision);
    return z0.scalar_type() == ScalarType::Float
               ? forward<float>(operands, steps, keep, wanted)
               : forward<double>(operands, steps, keep, cuda::Precision::ieee);
}

struct Given {
    Tensor kept, z;
    OptionalTensor v_z, v_du_dz, v_du_dt;
};

template <class T>
void backward(const Operands& operands, const cuda::RolloutSteps& steps, const Given& given,
              const Gradients& gradients, cuda::Precision precision) {
    const PotentialShape& s = operands.shape;
    const OnDevice on_device(operands.z);
    const cuda::RolloutDevice device = device_of(operands.z);
    const Tensor workspace = bytes(
        operands.z, cuda::rollout_backward_workspace<T>(s, steps.count, operands.k.has_value(),
                                                        gradients.of_features, gradients.of_weights, device));
    PotentialInputs<T> inputs = operands.pointers<T>();
    inputs.z = given.z.const_data_ptr<T>();
    check_cuda(cuda::rollout_backward<T>(
        s, steps, inputs, given.kept.const_data_ptr<T>(),
        {Operands::address<T>(given.v_z), Operands::address<T>(given.v_du_dz),
         Operands::address<T>(given.v_du_dt)},
        gradients.pointers<T>(), workspace.mutable_data_ptr(), precision, device, on_device.stream()));
}

RolloutGradients rollout_backward(const Tensor& kept, const Tensor& z, const Tensor& tau,
                                  const Tensor& dtau_dt, const Tensor& weight1, const Tensor& bias1,
                                  const Tensor& weight2, const Tensor& bias2, const Tensor& weight3,
                                  const Tensor& bias3, const OptionalTensor& k, int64_t k_all,
                                  int64_t num_steps, int64_t direction, bool tanh_output,
                                  const OptionalTensor& v_z, const OptionalTensor& v_du_dz,
                                  const OptionalTensor& v_du_dt, bool needs_z0, bool needs_features,
                                  bool needs_weights, int64_t precision) {
    const cuda::RolloutSteps steps = steps_of(num_steps, direction);
    STD_TORCH_CHECK(z.dim() == 3 && z.size(1) == num_steps + 1, "ffrl: z is not (B, num_steps + 1, D)");
    const Operands operands =
        aligned(Operands(torch::stable::select(z, 1, 0), tau, dtau_dt, std::nullopt, weight1, bias1, weight2,
                         bias2, weight3, bias3, k, k_all, std::nullopt, tanh_output, 0, num_steps));
    check_limits(operands, num_steps);
    const PotentialShape& s = operands.shape;
    const ScalarType dtype = z.scalar_type();
    check("kept", kept, z, dtype,
          {cuda::max_blocks(s, operands.k.has_value()) * cuda::kRows * num_steps, cuda::kept_width(s)});
    if (v_z) check("v_z", *v_z, z, dtype, {s.rows, num_steps + 1, s.latent});
    if (v_du_dz) check("v_du_dz", *v_du_dz, z, dtype, {s.rows, num_steps, s.latent});
    if (v_du_dt) check("v_du_dt", *v_du_dt, z, dtype, {s.rows, num_steps});
    const Given given{aligned(Operands::contiguous(kept)), aligned(Operands::contiguous(z)),
                      Operands::contiguous(v_z), Operands::contiguous(v_du_dz),
                      Operands::contiguous(v_du_dt)};
    const Gradients g(operands, needs_z0, needs_features, needs_weights);
    const cuda::Precision wanted = precision_of(precision);
    if (s.rows > 0) {
        if (dtype == ScalarType::Float)
            backward<float>(operands, steps, given, g, wanted);
        else
            backward<double>(operands, steps, given, g, cuda::Precision::ieee);
    }
    return {g.v_z,       g.v_tau,   g.v_dtau_dt, g.v_weight1, g.v_bias1,
            g.v_weight2, g.v_bias2, g.v_weight3, g.v_bias3};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ffrl_cuda, CUDA, m) {
    m.impl("rollout_forward", TORCH_BOX(&rollout_forward));
    m.impl("rollout_backward", TORCH_BOX(&rollout_backward));
}

}  // namespace ffrl::bindings
