// The operators on the CPU: allocate, and hand pointers to csrc/cpu.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "bindings/checks.h"
#include "bindings/cpu_threads.h"
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

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
ForwardResult forward(const Operands& operands, bool keep) {
    const PotentialShape& s = operands.shape;
    const auto empty = [&](std::initializer_list<int64_t> sizes) {
        return torch::stable::new_empty(operands.z, sizes);
    };
    const bool laplacian = s.form != LaplacianForm::none, mixed = operands.k.has_value();
    Tensor u = empty({s.rows}), du_dz = empty({s.rows, s.latent}), du_dt = empty({s.rows});
    Tensor d2u_dt2 = empty({s.d2u_dt2 ? s.rows : 0}), lap_u = empty({laplacian ? s.rows : 0});
    // The backward of no rows reads nothing, but what an operator returns has a value.
    const std::initializer_list<int64_t> kept_sizes = {cpu::max_blocks(s.rows, s.potentials, mixed),
                                                       cpu::kept_rows(s), cpu::kRowsPerBlock};
    Tensor kept = !keep         ? empty({0})
                  : s.rows == 0 ? torch::stable::new_zeros(operands.z, kept_sizes)
                                : empty(kept_sizes);
    const cpu::Threads threads = torch_threads();
    Tensor workspace = bytes(u, cpu::forward_workspace<T>(s, mixed, keep, threads.count));
    const PotentialOutputs<T> outputs{u.mutable_data_ptr<T>(), du_dz.mutable_data_ptr<T>(),
                                      du_dt.mutable_data_ptr<T>(),
                                      s.d2u_dt2 ? d2u_dt2.mutable_data_ptr<T>() : nullptr,
                                      laplacian ? lap_u.mutable_data_ptr<T>() : nullptr};
    if (s.rows > 0)
        raise_unless_ok(cpu::forward<T>(s, operands.pointers<T>(), outputs,
                                        keep ? kept.mutable_data_ptr<T>() : nullptr,
                                        workspace.mutable_data_ptr(), threads));
    return {u, du_dz, du_dt, d2u_dt2, lap_u, kept};
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

using BackwardResult =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
BackwardResult backward(const Operands& operands, const Tensor& kept, const OptionalTensor (&v_outputs)[5],
                        const cpu::BackwardNeeds& needs) {
    const PotentialShape& s = operands.shape;
    // Without rows nothing is computed and every gradient is zero.
    const auto gradient = [&](bool wanted, const Tensor& like) {
        if (!wanted) return torch::stable::new_empty(like, {0});
        return s.rows == 0 ? torch::stable::new_zeros(like, like.sizes())
                           : torch::stable::new_empty(like, like.sizes());
    };
    Tensor v_z = gradient(needs.z, operands.z), v_tau = gradient(needs.features, operands.tau);
    Tensor v_dtau_dt = gradient(needs.features, operands.dtau_dt);
    Tensor v_d2tau_dt2 = gradient(needs.features && s.d2u_dt2, operands.tau);
    Tensor v_weight1 = gradient(needs.weights, operands.weight1),
           v_bias1 = gradient(needs.weights, operands.bias1);
    Tensor v_weight2 = gradient(needs.weights, operands.weight2),
           v_bias2 = gradient(needs.weights, operands.bias2);
    Tensor v_weight3 = gradient(needs.weights, operands.weight3),
           v_bias3 = gradient(needs.weights, operands.bias3);
    if (s.rows > 0) {
        const auto address = [](bool wanted, const Tensor& tensor) {
            return wanted ? tensor.mutable_data_ptr<T>() : nullptr;
        };
        const PotentialCotangents<T> cotangents{
            Operands::address<T>(v_outputs[0]), Operands::address<T>(v_outputs[1]),
            Operands::address<T>(v_outputs[2]), Operands::address<T>(v_outputs[3]),
            Operands::address<T>(v_outputs[4])};
        const PotentialGradients<T> gradients{address(needs.z, v_z),
                                              address(needs.features, v_tau),
                                              address(needs.features, v_dtau_dt),
                                              address(needs.features && s.d2u_dt2, v_d2tau_dt2),
                                              address(needs.weights, v_weight1),
                                              address(needs.weights, v_bias1),
                                              address(needs.weights, v_weight2),
                                              address(needs.weights, v_bias2),
                                              address(needs.weights, v_weight3),
                                              address(needs.weights, v_bias3)};
        const cpu::Threads threads = torch_threads();
        const bool distinct = !operands.feature_row && s.features == s.rows;
        Tensor workspace = bytes(operands.z, cpu::backward_workspace<T>(s, operands.k.has_value(), distinct,
                                                                        needs, threads.count));
        raise_unless_ok(cpu::backward<T>(s, operands.pointers<T>(), kept.const_data_ptr<T>(), cotangents,
                                         needs, gradients, workspace.mutable_data_ptr(), threads));
    }
    return {v_z, v_tau, v_dtau_dt, v_d2tau_dt2, v_weight1, v_bias1, v_weight2, v_bias2, v_weight3, v_bias3};
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
    const OptionalTensor v_outputs[5] = {Operands::contiguous(v_u), Operands::contiguous(v_du_dz),
                                         Operands::contiguous(v_du_dt), Operands::contiguous(v_d2u_dt2),
                                         Operands::contiguous(v_lap_u)};
    const char* names[5] = {"v_u", "v_du_dz", "v_du_dt", "v_d2u_dt2", "v_lap_u"};
    for (int i = 0; i < 5; ++i) {
        if (!v_outputs[i]) continue;
        if (i == 1) {
            check(names[i], *v_outputs[i], z, z.scalar_type(), {s.rows, s.latent});
        } else {
            check(names[i], *v_outputs[i], z, z.scalar_type(), {s.rows});
        }
    }
    const cpu::BackwardNeeds needs{needs_z, needs_features, needs_weights};
    return z.scalar_type() == ScalarType::Float ? backward<float>(operands, aligned, v_outputs, needs)
                                                : backward<double>(operands, aligned, v_outputs, needs);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ffrl, CPU, m) {
    m.impl("potential_forward", TORCH_BOX(&potential_forward));
    m.impl("potential_backward", TORCH_BOX(&potential_backward));
}

}  // namespace ffrl::bindings
