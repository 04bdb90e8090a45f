// The operators on the CPU: allocate, and hand pointers to csrc/cpu.
#include <torch/csrc/stable/library.h>

#include "bindings/checks.h"
#include "bindings/cpu_threads.h"
#include "bindings/memory.h"
#include "bindings/results.h"
#include "cpu/potential_cpu.h"

namespace ffrl::bindings {
namespace {

void raise_unless_ok(cpu::Status status) {
    STD_TORCH_CHECK(status != cpu::Status::k_out_of_range, "ffrl: k is outside 0 <= k < K");
    STD_TORCH_CHECK(status != cpu::Status::feature_row_out_of_range,
                    "ffrl: feature_row is outside 0 <= row < M");
    STD_TORCH_CHECK(status != cpu::Status::feature_row_of_two_potentials,
                    "ffrl: rows of two potentials have the same feature row");
}

template <class T>
ForwardResult forward(const Operands& operands, bool keep) {
    const PotentialShape& s = operands.shape;
    const bool mixed = operands.k.has_value();
    const Outputs outputs(
        operands, keep,
        {cpu::max_blocks(s.rows, s.potentials, mixed), cpu::kept_rows(s), cpu::kRowsPerBlock});
    const cpu::Threads threads = torch_threads();
    const Tensor workspace = bytes(operands.z, cpu::forward_workspace<T>(s, mixed, keep, threads.count));
    if (s.rows > 0)
        raise_unless_ok(cpu::forward<T>(s, operands.pointers<T>(), outputs.pointers<T>(s),
                                        keep ? outputs.kept.mutable_data_ptr<T>() : nullptr,
                                        workspace.mutable_data_ptr(), threads));
    return outputs.result();
}

ForwardResult potential_forward(const Tensor& z, const Tensor& tau, const Tensor& dtau_dt,
                                const OptionalTensor& d2tau_dt2, const Tensor& weight1, const Tensor& bias1,
                                const Tensor& weight2, const Tensor& bias2, const Tensor& weight3,
                                const Tensor& bias3, const OptionalTensor& k, int64_t k_all,
                                const OptionalTensor& feature_row, bool tanh_output, int64_t form,
                                bool keep) {
    const Operands operands(z, tau, dtau_dt, d2tau_dt2, weight1, bias1, weight2, bias2, weight3, bias3, k,
                            k_all, feature_row, tanh_output, form);
    return z.scalar_type() == ScalarType::Float ? forward<float>(operands, keep)
                                                : forward<double>(operands, keep);
}

template <class T>
BackwardResult backward(const Operands& operands, const Tensor& kept, const Cotangents& cotangents,
                        const cpu::BackwardNeeds& needs) {
    const PotentialShape& s = operands.shape;
    const Gradients gradients(operands, needs.z, needs.features, needs.weights);
    if (s.rows > 0) {
        const cpu::Threads threads = torch_threads();
        const bool distinct = !operands.feature_row && s.features == s.rows;
        const Tensor workspace =
            bytes(operands.z,
                  cpu::backward_workspace<T>(s, operands.k.has_value(), distinct, needs, threads.count));
        raise_unless_ok(cpu::backward<T>(s, operands.pointers<T>(), kept.const_data_ptr<T>(),
                                         cotangents.pointers<T>(), needs, gradients.pointers<T>(),
                                         workspace.mutable_data_ptr(), threads));
    }
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
                                  bool needs_z, bool needs_features, bool needs_weights) {
    const Operands operands(z, tau, dtau_dt, d2tau_dt2, weight1, bias1, weight2, bias2, weight3, bias3, k,
                            k_all, feature_row, tanh_output, form);
    const PotentialShape& s = operands.shape;
    check("kept", kept, z, z.scalar_type(),
          {cpu::max_blocks(s.rows, s.potentials, operands.k.has_value()), cpu::kept_rows(s),
           cpu::kRowsPerBlock});
    const Tensor aligned = Operands::aligned(kept);
    const Cotangents cotangents(operands, v_u, v_du_dz, v_du_dt, v_d2u_dt2, v_lap_u);
    const cpu::BackwardNeeds needs{needs_z, needs_features, needs_weights};
    return z.scalar_type() == ScalarType::Float ? backward<float>(operands, aligned, cotangents, needs)
                                                : backward<double>(operands, aligned, cotangents, needs);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ffrl, CPU, m) {
    m.impl("potential_forward", TORCH_BOX(&potential_forward));
    m.impl("potential_backward", TORCH_BOX(&potential_backward));
}

}  // namespace ffrl::bindings
