// The operators of the library. Their fakes are in ffrl/ops/registration.py, their derivatives in
// ffrl/ops/fused.py and ffrl/ops/time_features.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(ffrl, m) {
    // Shapes as in csrc/ffrl/potential_params.h. form: 0 no Laplacian, 1 Gram, 2 Jacobian. What was not asked
    // for comes back with no elements; kept is opaque, for the backward alone.
    m.def(
        "potential_forward(Tensor z, Tensor tau, Tensor dtau_dt, Tensor? d2tau_dt2, Tensor weight1, Tensor "
        "bias1, "
        "Tensor weight2, Tensor bias2, Tensor weight3, Tensor bias3, Tensor? k, int k_all, Tensor? "
        "feature_row, "
        "bool tanh_output, int form, bool keep) "
        "-> (Tensor u, Tensor du_dz, Tensor du_dt, Tensor d2u_dt2, Tensor lap_u, Tensor kept)");
    m.def(
        "potential_backward(Tensor kept, Tensor z, Tensor tau, Tensor dtau_dt, Tensor? d2tau_dt2, Tensor "
        "weight1, "
        "Tensor bias1, Tensor weight2, Tensor bias2, Tensor weight3, Tensor bias3, Tensor? k, int k_all, "
        "Tensor? feature_row, bool tanh_output, int form, Tensor? v_u, Tensor? v_du_dz, Tensor? v_du_dt, "
        "Tensor? v_d2u_dt2, Tensor? v_lap_u, bool needs_z, bool needs_features, bool needs_weights) "
        "-> (Tensor v_z, Tensor v_tau, Tensor v_dtau_dt, Tensor v_d2tau_dt2, Tensor v_weight1, Tensor "
        "v_bias1, "
        "Tensor v_weight2, Tensor v_bias2, Tensor v_weight3, Tensor v_bias3)");
    // Shapes as in csrc/cpu/time_features_cpu.h. k: one potential, or -1 for all; kept is for the backward
    // alone.
    m.def(
        "time_features(Tensor time, Tensor frequencies, Tensor weight1, Tensor bias1, Tensor weight2, Tensor "
        "bias2, "
        "int k, int order) -> (Tensor tau, Tensor dtau_dt, Tensor d2tau_dt2, Tensor kept)");
    m.def(
        "time_features_backward(Tensor kept, Tensor time, Tensor frequencies, Tensor weight1, Tensor bias1, "
        "Tensor weight2, Tensor bias2, int k, int order, Tensor? v_tau, Tensor? v_dtau_dt, Tensor? "
        "v_d2tau_dt2, "
        "bool needs_time, bool needs_weights) "
        "-> (Tensor v_time, Tensor v_weight1, Tensor v_bias1, Tensor v_weight2, Tensor v_bias2)");
}
