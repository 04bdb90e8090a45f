// Per-element mathematics of the potential op. Equation numbers are those of docs/derivation.md; v_X is the
// cotangent of X. Each function has its hand-derived _vjp twin beside it. R is float, double, or a vector of
// rows of either.
#pragma once

#include "ffrl/host_device.h"

namespace ffrl {

// d = 1 - h², the derivative of tanh from its value. The product form loses nothing where |h| is near 1. (1),
// (2)
template <class R>
FFRL_INLINE R slope(R h) {
    return (1 - h) * (1 + h);
}

template <class R>
FFRL_INLINE R slope_vjp(R h, R v_d) {
    return -2 * h * v_d;
}

// Second hidden layer, one unit: what the other terms take from h2.                                     (3),
// (5), (7)
template <class R>
struct Unit2 {
    R o;  // its share w3 h2 of the output
    R p;  // d2 w3
    R c;  // -2 h2 p
};

template <class R, class W>
FFRL_INLINE Unit2<R> unit2(R h2, W weight3) {
    const R p = slope(h2) * weight3;
    return {h2 * weight3, p, -2 * h2 * p};
}

template <class R>
struct Unit2Vjp {
    R v_a2;
    R v_weight3;
};

// (17) without its products, (18), (19): v_p comes with W2 v_q and the time terms already in it.
template <class R, class W>
FFRL_INLINE Unit2Vjp<R> unit2_vjp(R h2, W weight3, R v_o, R v_p, R v_c) {
    const R d2 = slope(h2);
    const R p = d2 * weight3;
    const R v_p_all = v_p - 2 * h2 * v_c;
    const R v_h2 = v_o * weight3 - 2 * p * v_c + slope_vjp<R>(h2, v_p_all * weight3);
    return {v_h2 * d2, v_p_all * d2 + v_o * h2};
}

// First hidden layer, one unit. (5), (8)
template <class R>
struct Unit1 {
    R r;  // d1 q
    R m;  // -2 h1 r
};

template <class R>
FFRL_INLINE Unit1<R> unit1(R h1, R q) {
    const R r = slope(h1) * q;
    return {r, -2 * h1 * r};
}

// (15), first line: the cotangent of q, from those of r and m.
template <class R>
FFRL_INLINE R unit1_vjp_q(R h1, R v_r, R v_m) {
    return slope(h1) * (v_r - 2 * h1 * v_m);
}

// (15) and (20): the cotangent of a1. v_d1 is that of the cubic part, v_s that of h1 + tau.
template <class R>
FFRL_INLINE R unit1_vjp_a1(R h1, R q, R v_r, R v_m, R v_d1, R v_s) {
    const R d1 = slope(h1);
    const R v_d1_all = v_d1 + q * (v_r - 2 * h1 * v_m);
    const R v_h1 = v_s - 2 * d1 * q * v_m + slope_vjp<R>(h1, v_d1_all);
    return v_h1 * d1;
}

// Time terms of one unit: its shares of ∂o/∂t and ∂²o/∂t². omega = W2 ∂τ/∂t, omega2 = W2 ∂²τ/∂t². (6), (7)
template <class R>
struct TimeTerms {
    R o_dot;
    R o_ddot;
};

template <class R>
FFRL_INLINE TimeTerms<R> time_terms(R p, R c, R omega, R omega2) {
    return {p * omega, c * omega * omega + p * omega2};
}

template <class R>
struct TimeTermsVjp {
    R v_p;
    R v_c;
    R v_omega;
    R v_omega2;
};

template <class R>
FFRL_INLINE TimeTermsVjp<R> time_terms_vjp(R p, R c, R omega, R omega2, R v_o_dot, R v_o_ddot) {
    return {v_o_dot * omega + v_o_ddot * omega2, v_o_ddot * omega * omega,
            v_o_dot * p + 2 * v_o_ddot * c * omega, v_o_ddot * p};
}

// The output activation and what is scaled by its derivatives φ and ψ, one row. (4) to (11)
template <class R>
struct OutputRow {
    R phi;  // du_dz = phi v
    R du_dt;
    R d2u_dt2;
    R lap_u;
};

template <class R>
FFRL_INLINE R output_phi(R u, bool tanh_output) {
    return tanh_output ? slope(u) : R{} + 1;
}

template <class R>
FFRL_INLINE R output_psi(R u, bool tanh_output) {
    return tanh_output ? R(-2 * u * slope(u)) : R{};
}

// v_squared is |v|², ell the Laplacian of o.
template <class R>
FFRL_INLINE OutputRow<R> output_row(R u, R o_dot, R o_ddot, R ell, R v_squared, bool tanh_output) {
    const R phi = output_phi(u, tanh_output), psi = output_psi(u, tanh_output);
    return {phi, phi * o_dot, phi * o_ddot + psi * o_dot * o_dot, phi * ell + psi * v_squared};
}

template <class R>
struct OutputRowVjp {
    R v_o;
    R v_v_along_v;  // v_v = v_v_along_v v + v_v_along_du_dz v_du_dz
    R v_v_along_du_dz;
    R v_o_dot;
    R v_o_ddot;
    R v_ell;
};

// (13). v_phi_du_dz is v_du_dz · v.
template <class R>
FFRL_INLINE OutputRowVjp<R> output_row_vjp(R u, R o_dot, R o_ddot, R ell, R v_squared, bool tanh_output,
                                           R v_u, R v_phi_du_dz, R v_du_dt, R v_d2u_dt2, R v_lap_u) {
    const R phi = output_phi(u, tanh_output), psi = output_psi(u, tanh_output);
    const R v_phi = v_lap_u * ell + v_phi_du_dz + v_du_dt * o_dot + v_d2u_dt2 * o_ddot;
    const R v_psi = v_lap_u * v_squared + v_d2u_dt2 * o_dot * o_dot;
    const R v_u_all = tanh_output ? R(v_u - 2 * u * v_phi + (6 * u * u - 2) * v_psi) : v_u;
    return {v_u_all * phi,   2 * v_lap_u * psi, phi, v_du_dt * phi + 2 * v_d2u_dt2 * psi * o_dot,
            v_d2u_dt2 * phi, v_lap_u * phi};
}

}  // namespace ffrl
