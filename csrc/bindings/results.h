// What the operators of the potential op give back, and the cotangents that the backward is given.
#pragma once

#include <initializer_list>
#include <tuple>

#include "bindings/checks.h"

namespace ffrl::bindings {

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using BackwardResult =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// What was not asked for has no elements.
struct Outputs {
    Tensor u, du_dz, du_dt, d2u_dt2, lap_u, kept;

    Outputs(const Operands& operands, bool keep, std::initializer_list<int64_t> kept_sizes) {
        const PotentialShape& s = operands.shape;
        const auto empty = [&](std::initializer_list<int64_t> sizes) {
            return torch::stable::new_empty(operands.z, sizes);
        };
        u = empty({s.rows});
        du_dz = empty({s.rows, s.latent});
        du_dt = empty({s.rows});
        d2u_dt2 = empty({s.d2u_dt2 ? s.rows : 0});
        lap_u = empty({s.form != LaplacianForm::none ? s.rows : 0});
        // The backward of no rows reads nothing, but what an operator returns has a value.
        kept = !keep         ? empty({0})
               : s.rows == 0 ? torch::stable::new_zeros(operands.z, kept_sizes)
                             : empty(kept_sizes);
    }

    template <class T>
    PotentialOutputs<T> pointers(const PotentialShape& s) const {
        return {u.mutable_data_ptr<T>(), du_dz.mutable_data_ptr<T>(), du_dt.mutable_data_ptr<T>(),
                s.d2u_dt2 ? d2u_dt2.mutable_data_ptr<T>() : nullptr,
                s.form != LaplacianForm::none ? lap_u.mutable_data_ptr<T>() : nullptr};
    }

    ForwardResult result() const { return {u, du_dz, du_dt, d2u_dt2, lap_u, kept}; }
};

// Contiguous, and checked against the rows; absent where the cotangent is zero.
struct Cotangents {
    OptionalTensor v_u, v_du_dz, v_du_dt, v_d2u_dt2, v_lap_u;

    Cotangents(const Operands& operands, const OptionalTensor& v_u_, const OptionalTensor& v_du_dz_,
               const OptionalTensor& v_du_dt_, const OptionalTensor& v_d2u_dt2_,
               const OptionalTensor& v_lap_u_)
        : v_u(Operands::contiguous(v_u_)),
          v_du_dz(Operands::contiguous(v_du_dz_)),
          v_du_dt(Operands::contiguous(v_du_dt_)),
          v_d2u_dt2(Operands::contiguous(v_d2u_dt2_)),
          v_lap_u(Operands::contiguous(v_lap_u_)) {
        const Tensor& z = operands.z;
        const int64_t rows = operands.shape.rows;
        if (v_u) check("v_u", *v_u, z, z.scalar_type(), {rows});
        if (v_du_dz) check("v_du_dz", *v_du_dz, z, z.scalar_type(), {rows, operands.shape.latent});
        if (v_du_dt) check("v_du_dt", *v_du_dt, z, z.scalar_type(), {rows});
        if (v_d2u_dt2) check("v_d2u_dt2", *v_d2u_dt2, z, z.scalar_type(), {rows});
        if (v_lap_u) check("v_lap_u", *v_lap_u, z, z.scalar_type(), {rows});
    }

    template <class T>
    PotentialCotangents<T> pointers() const {
        return {Operands::address<T>(v_u), Operands::address<T>(v_du_dz), Operands::address<T>(v_du_dt),
                Operands::address<T>(v_d2u_dt2), Operands::address<T>(v_lap_u)};
    }
};

// Without rows nothing is computed and every gradient is zero; what is not wanted has no elements.
struct Gradients {
    bool of_z, of_features, of_d2tau_dt2, of_weights;
    Tensor v_z, v_tau, v_dtau_dt, v_d2tau_dt2;
    Tensor v_weight1, v_bias1, v_weight2, v_bias2, v_weight3, v_bias3;

    Gradients(const Operands& operands, bool needs_z, bool needs_features, bool needs_weights)
        : of_z(needs_z),
          of_features(needs_features),
          of_d2tau_dt2(needs_features && operands.shape.d2u_dt2),
          of_weights(needs_weights) {
        const auto gradient = [&](bool wanted, const Tensor& like) {
            if (!wanted) return torch::stable::new_empty(like, {0});
            return operands.shape.rows == 0 ? torch::stable::new_zeros(like, like.sizes())
                                            : torch::stable::new_empty(like, like.sizes());
        };
        v_z = gradient(of_z, operands.z);
        v_tau = gradient(of_features, operands.tau);
        v_dtau_dt = gradient(of_features, operands.dtau_dt);
        v_d2tau_dt2 = gradient(of_d2tau_dt2, operands.tau);
        v_weight1 = gradient(of_weights, operands.weight1);
        v_bias1 = gradient(of_weights, operands.bias1);
        v_weight2 = gradient(of_weights, operands.weight2);
        v_bias2 = gradient(of_weights, operands.bias2);
        v_weight3 = gradient(of_weights, operands.weight3);
        v_bias3 = gradient(of_weights, operands.bias3);
    }

    template <class T>
    PotentialGradients<T> pointers() const {
        const auto address = [](bool wanted, const Tensor& tensor) {
            return wanted ? tensor.mutable_data_ptr<T>() : nullptr;
        };
        return {address(of_z, v_z),
                address(of_features, v_tau),
                address(of_features, v_dtau_dt),
                address(of_d2tau_dt2, v_d2tau_dt2),
                address(of_weights, v_weight1),
                address(of_weights, v_bias1),
                address(of_weights, v_weight2),
                address(of_weights, v_bias2),
                address(of_weights, v_weight3),
                address(of_weights, v_bias3)};
    }

    BackwardResult result() const {
        return {v_z,     v_tau,     v_dtau_dt, v_d2tau_dt2, v_weight1,
                v_bias1, v_weight2, v_bias2,   v_weight3,   v_bias3};
    }
};

}  // namespace ffrl::bindings
