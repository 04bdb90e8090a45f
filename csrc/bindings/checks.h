// What an operator checks of its tensors before it takes their addresses. The Python function has checked,
// and named, what a user can get wrong; these are for those who call the operator itself.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>

#include "ffrl/potential_params.h"

namespace ffrl::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline void check(const char* name, const Tensor& tensor, const Tensor& like, ScalarType dtype,
                  std::initializer_list<int64_t> sizes) {
    STD_TORCH_CHECK(tensor.scalar_type() == dtype, "ffrl: ", name, " has the wrong dtype");
    STD_TORCH_CHECK(tensor.device() == like.device(), "ffrl: ", name, " is on another device than z");
    STD_TORCH_CHECK(tensor.dim() == static_cast<int64_t>(sizes.size()), "ffrl: ", name, " has ", tensor.dim(),
                    " dimensions, not ", sizes.size());
    int64_t dim = 0;
    for (const int64_t size : sizes) {
        STD_TORCH_CHECK(tensor.size(dim) == size, "ffrl: ", name, " has size ", tensor.size(dim),
                        " in dimension ", dim, ", not ", size);
        ++dim;
    }
}

// The inputs of an operator, contiguous, with the sizes that they agree on. With `steps` they are those of a
// rollout: a time feature row for each step, of each potential where k is given.
struct Operands {
    PotentialShape shape;
    Tensor z, tau, dtau_dt, weight1, bias1, weight2, bias2, weight3, bias3;
    OptionalTensor d2tau_dt2, k, feature_row;
    int64_t k_all;

    Operands(const Tensor& z_, const Tensor& tau_, const Tensor& dtau_dt_, const OptionalTensor& d2tau_dt2_,
             const Tensor& weight1_, const Tensor& bias1_, const Tensor& weight2_, const Tensor& bias2_,
             const Tensor& weight3_, const Tensor& bias3_, const OptionalTensor& k_, int64_t k_all_,
             const OptionalTensor& feature_row_, bool tanh_output, int64_t form, int64_t steps = 0)
        : z(contiguous(z_)),
          tau(contiguous(tau_)),
          dtau_dt(contiguous(dtau_dt_)),
          weight1(contiguous(weight1_)),
          bias1(contiguous(bias1_)),
          weight2(contiguous(weight2_)),
          bias2(contiguous(bias2_)),
          weight3(contiguous(weight3_)),
          bias3(contiguous(bias3_)),
          d2tau_dt2(contiguous(d2tau_dt2_)),
          k(contiguous(k_)),
          feature_row(contiguous(feature_row_)),
          k_all(k_all_) {
        STD_TORCH_CHECK(z.dim() == 2 && tau.dim() == 2 && weight1.dim() == 3 && weight2.dim() == 3,
                        "ffrl: expected z (N, D), tau (M, H1), weight1 (K, H1, D), weight2 (K, H2, H1)");
        STD_TORCH_CHECK(form >= 0 && form <= 2, "ffrl: form = ", form, ", expected 0, 1 or 2");
        shape = {z.size(0),
                 tau.size(0),
                 weight1.size(0),
                 weight1.size(2),
                 weight1.size(1),
                 weight2.size(1),
                 tanh_output,
                 static_cast<LaplacianForm>(form),
                 d2tau_dt2.has_value()};
        const ScalarType dtype = z.scalar_type();
        STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                        "ffrl: z is neither float32 nor float64");
        const PotentialShape& s = shape;
        STD_TORCH_CHECK((s.potentials > 0 || s.rows == 0) && s.latent > 0 && s.hidden1 > 0 && s.hidden2 > 0,
                        "ffrl: a weight is empty");
        check("z", z, z, dtype, {s.rows, s.latent});
        check("tau", tau, z, dtype, {s.features, s.hidden1});
        check("dtau_dt", dtau_dt, z, dtype, {s.features, s.hidden1});
        check("weight1", weight1, z, dtype, {s.potentials, s.hidden1, s.latent});
        check("bias1", bias1, z, dtype, {s.potentials, s.hidden1});
        check("weight2", weight2, z, dtype, {s.potentials, s.hidden2, s.hidden1});
        check("bias2", bias2, z, dtype, {s.potentials, s.hidden2});
        check("weight3", weight3, z, dtype, {s.potentials, s.hidden2});
        check("bias3", bias3, z, dtype, {s.potentials});
        if (d2tau_dt2) check("d2tau_dt2", *d2tau_dt2, z, dtype, {s.features, s.hidden1});
        if (k) check("k", *k, z, ScalarType::Long, {s.rows});
        if (feature_row) check("feature_row", *feature_row, z, ScalarType::Long, {s.rows});
        if (steps > 0) {
            const int64_t expected = steps * (k ? s.potentials : 1);
            STD_TORCH_CHECK(s.features == expected, "ffrl: tau has ", s.features, " rows, expected ",
                            expected, ": ", steps, " of each potential");
            return;
        }
        STD_TORCH_CHECK(feature_row || s.features == 1 || s.features == s.rows, "ffrl: ", s.features,
                        " feature rows for ", s.rows, " rows need feature_row");
    }

    static Tensor contiguous(const Tensor& tensor) {
        return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
    }
    static OptionalTensor contiguous(const OptionalTensor& tensor) {
        return tensor ? OptionalTensor(contiguous(*tensor)) : std::nullopt;
    }

    // At an address that vectors can be read from; what the backward gets back may have been moved by hooks.
    static Tensor aligned(const Tensor& tensor) {
        const Tensor whole = contiguous(tensor);
        constexpr uintptr_t kAlignment = 64;  // of torch's own memory, which a copy is in
        return reinterpret_cast<uintptr_t>(whole.const_data_ptr()) % kAlignment == 0
                   ? whole
                   : torch::stable::clone(whole);
    }

    template <class T>
    static const T* address(const OptionalTensor& tensor) {
        return tensor ? tensor->template const_data_ptr<T>() : nullptr;
    }

    template <class T>
    PotentialInputs<T> pointers() const {
        return {z.const_data_ptr<T>(),        tau.const_data_ptr<T>(),     dtau_dt.const_data_ptr<T>(),
                address<T>(d2tau_dt2),        weight1.const_data_ptr<T>(), bias1.const_data_ptr<T>(),
                weight2.const_data_ptr<T>(),  bias2.const_data_ptr<T>(),   weight3.const_data_ptr<T>(),
                bias3.const_data_ptr<T>(),    address<int64_t>(k),         k_all,
                address<int64_t>(feature_row)};
    }
};

}  // namespace ffrl::bindings
