// Per-element mathematics of the time feature τ = B GELU(A e + α) + β and its derivatives in t. A function
// has its _vjp twin beside it; v_X is the cotangent of X. R is float or double.
#pragma once

#include <cmath>

#include "ffrl/host_device.h"

namespace ffrl {

// Value and first three derivatives of GELU(a) = a Φ(a).
template <class R>
struct Gelu {
    R value, slope, curvature, third;
};

template <class R>
FFRL_INLINE Gelu<R> gelu(R a) {
    const R cumulative = R(0.5) * std::erfc(-a * R(0.70710678118654752440));
    const R density = std::exp(R(-0.5) * a * a) * R(0.39894228040143267794);
    return {a * cumulative, cumulative + a * density, density * (2 - a * a), density * a * (a * a - 4)};
}

// GELU along a curve: its value and its first two derivatives in t, from those of a.
template <class R>
struct TimeUnit {
    R h, h_dot, h_ddot;
};

template <class R>
FFRL_INLINE TimeUnit<R> time_unit(R a, R a_dot, R a_ddot) {
    const Gelu<R> g = gelu(a);
    return {g.value, g.slope * a_dot, g.curvature * a_dot * a_dot + g.slope * a_ddot};
}

template <class R>
struct TimeUnitVjp {
    R v_a, v_a_dot, v_a_ddot;
};

template <class R>
FFRL_INLINE TimeUnitVjp<R> time_unit_vjp(R a, R a_dot, R a_ddot, R v_h, R v_h_dot, R v_h_ddot) {
    const Gelu<R> g = gelu(a);
    return {g.slope * v_h + g.curvature * a_dot * v_h_dot +
                (g.third * a_dot * a_dot + g.curvature * a_ddot) * v_h_ddot,
            g.slope * v_h_dot + 2 * g.curvature * a_dot * v_h_ddot, g.slope * v_h_ddot};
}

}  // namespace ffrl
