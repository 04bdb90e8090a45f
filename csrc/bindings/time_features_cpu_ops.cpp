// The operators of the time feature on the CPU.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "bindings/checks.h"
#include "bindings/cpu_threads.h"
#include "bindings/memory.h"
#include "cpu/time_features_cpu.h"

namespace ffrl::bindings {
namespace {

struct TimeOperands {
    cpu::TimeShape shape;
    Tensor time, frequencies, weight1, bias1, weight2, bias2;

    TimeOperands(const Tensor& time_, const Tensor& frequencies_, const Tensor& weight1_,
                 const Tensor& bias1_, const Tensor& weight2_, const Tensor& bias2_, int64_t k, int64_t order)
        : time(Operands::contiguous(time_)),
          frequencies(Operands::contiguous(frequencies_)),
          weight1(Operands::contiguous(weight1_)),
          bias1(Operands::contiguous(bias1_)),
          weight2(Operands::contiguous(weight2_)),
          bias2(Operands::contiguous(bias2_)) {
        STD_TORCH_CHECK(time.dim() <= 1 && frequencies.dim() == 1 && weight1.dim() == 3,
                        "ffrl: expected time () or (M,), frequencies (E/2,), weight1 (K, H1, E)");
        STD_TORCH_CHECK(order == 1 || order == 2, "ffrl: order = ", order, ", expected 1 or 2");
        shape = {time.numel(), frequencies.size(0), weight1.size(1), weight1.size(0), k, order};
        const cpu::TimeShape& s = shape;
        STD_TORCH_CHECK(k >= -1 && k < s.potentials, "ffrl: k = ", k, ", expected -1 <= k < ", s.potentials);
        const ScalarType dtype = time.scalar_type();
        STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                        "ffrl: time is neither float32 nor float64");
        check("frequencies", frequencies, time, dtype, {s.frequencies});
        check("weight1", weight1, time, dtype, {s.potentials, s.features, 2 * s.frequencies});
        check("bias1", bias1, time, dtype, {s.potentials, s.features});
        check("weight2", weight2, time, dtype, {s.potentials, s.features, s.features});
        check("bias2", bias2, time, dtype, {s.potentials, s.features});
    }

    template <class T>
    cpu::TimeInputs<T> pointers() const {
        return {time.const_data_ptr<T>(),  frequencies.const_data_ptr<T>(), weight1.const_data_ptr<T>(),
                bias1.const_data_ptr<T>(), weight2.const_data_ptr<T>(),     bias2.const_data_ptr<T>()};
    }
};

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class T>
ForwardResult forward(const TimeOperands& operands) {
    const cpu::TimeShape& s = operands.shape;
    const auto empty = [&](std::initializer_list<int64_t> sizes) {
        return torch::stable::new_empty(operands.time, sizes);
    };
    Tensor tau = empty({s.rows(), s.features}), dtau_dt = empty({s.rows(), s.features});
    Tensor d2tau_dt2 = s.order > 1 ? empty({s.rows(), s.features}) : empty({0});
    Tensor kept = empty({s.rows(), s.order + 1, s.features});
    T* const features[3] = {tau.mutable_data_ptr<T>(), dtau_dt.mutable_data_ptr<T>(),
                            d2tau_dt2.mutable_data_ptr<T>()};
    cpu::time_features<T>(s, operands.pointers<T>(), features, kept.mutable_data_ptr<T>(), torch_threads());
    return {tau, dtau_dt, d2tau_dt2, kept};
}

ForwardResult time_features(const Tensor& time, const Tensor& frequencies, const Tensor& weight1,
                            const Tensor& bias1, const Tensor& weight2, const Tensor& bias2, int64_t k,
                            int64_t order) {
    const TimeOperands operands(time, frequencies, weight1, bias1, weight2, bias2, k, order);
    return time.scalar_type() == ScalarType::Float ? forward<float>(operands) : forward<double>(operands);
}

using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
BackwardResult backward(const TimeOperands& operands, const Tensor& kept,
                        const OptionalTensor (&v_features)[3], bool needs_time, bool needs_weights) {
    const cpu::TimeShape& s = operands.shape;
    const auto gradient = [](bool wanted, const Tensor& like) {
        return wanted ? torch::stable::new_empty(like, like.sizes()) : torch::stable::new_empty(like, {0});
    };
    Tensor v_time = gradient(needs_time, operands.time);
    Tensor v_weight1 = gradient(needs_weights, operands.weight1),
           v_bias1 = gradient(needs_weights, operands.bias1);
    Tensor v_weight2 = gradient(needs_weights, operands.weight2),
           v_bias2 = gradient(needs_weights, operands.bias2);
    const auto address = [](bool wanted, const Tensor& tensor) {
        return wanted ? tensor.mutable_data_ptr<T>() : nullptr;
    };
    const T* const cotangents[3] = {Operands::address<T>(v_features[0]), Operands::address<T>(v_features[1]),
                                    Operands::address<T>(v_features[2])};
    Tensor workspace = bytes(operands.time, cpu::time_workspace<T>(s));
    cpu::time_features_vjp<T>(
        s, operands.pointers<T>(), kept.const_data_ptr<T>(), cotangents,
        {address(needs_time, v_time), address(needs_weights, v_weight1), address(needs_weights, v_bias1),
         address(needs_weights, v_weight2), address(needs_weights, v_bias2)},
        workspace.mutable_data_ptr(), torch_threads());
    return {v_time, v_weight1, v_bias1, v_weight2, v_bias2};
}

BackwardResult time_features_backward(const Tensor& kept, const Tensor& time, const Tensor& frequencies,
                                      const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                                      const Tensor& bias2, int64_t k, int64_t order,
                                      const OptionalTensor& v_tau, const OptionalTensor& v_dtau_dt,
                                      const OptionalTensor& v_d2tau_dt2, bool needs_time,
                                      bool needs_weights) {
    const TimeOperands operands(time, frequencies, weight1, bias1, weight2, bias2, k, order);
    const cpu::TimeShape& s = operands.shape;
    const ScalarType dtype = time.scalar_type();
    check("kept", kept, time, dtype, {s.rows(), s.order + 1, s.features});
    const Tensor whole = Operands::contiguous(kept);
    const OptionalTensor v_features[3] = {Operands::contiguous(v_tau), Operands::contiguous(v_dtau_dt),
                                          order > 1 ? Operands::contiguous(v_d2tau_dt2) : std::nullopt};
    for (const OptionalTensor& v : v_features)
        if (v) check("a cotangent", *v, time, dtype, {s.rows(), s.features});
    return dtype == ScalarType::Float
               ? backward<float>(operands, whole, v_features, needs_time, needs_weights)
               : backward<double>(operands, whole, v_features, needs_time, needs_weights);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ffrl, CPU, m) {
    m.impl("time_features", TORCH_BOX(&time_features));
    m.impl("time_features_backward", TORCH_BOX(&time_features_backward));
}

}  // namespace ffrl::bindings
