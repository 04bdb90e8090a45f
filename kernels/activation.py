"""Per-element mathematics, in the names of csrc/ffrl/potential_math.h: each function beside its ``_vjp`` twin."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """tanh x to about an ulp: ±1 where saturated, NaN where NaN; below 0.625 the polynomial of the Cephes library."""
    square = x * x
    poly = -5.70498872745e-3 * square + 2.06390887954e-2
    poly = poly * square - 5.37397155531e-2
    poly = poly * square + 1.33314422036e-1
    poly = poly * square - 3.33332819422e-1
    decay = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - decay) / (1.0 + decay)
    return tl.where(tl.abs(x) < 0.625, poly * square * x + x, tl.where(x < 0.0, -large, large))


@triton.jit
def slope(h):
    """d = 1 - h², the derivative of tanh from its value; the product loses nothing where \\|h\\| is near 1."""
    return (1.0 - h) * (1.0 + h)


@triton.jit
def slope_vjp(h, v_d):
    return -2.0 * h * v_d


@triton.jit
def unit2(h2, weight3):
    """(5), (7): p = d2 w3 and c = -2 h2 p of a unit of the second layer."""
    p = slope(h2) * weight3
    return p, -2.0 * h2 * p


@triton.jit
def unit2_vjp(h2, weight3, v_o, v_p, v_c):
    """(17) without its products, (18), (19): cotangents of a2 and of w3; v_p comes with W2 v_q and the time terms."""
    d2 = slope(h2)
    p = d2 * weight3
    v_p_all = v_p - 2.0 * h2 * v_c
    v_h2 = v_o * weight3 - 2.0 * p * v_c + slope_vjp(h2, v_p_all * weight3)
    return v_h2 * d2, v_p_all * d2 + v_o * h2


@triton.jit
def unit1(h1, q):
    """(5), (8): r = d1 q and m = -2 h1 r of a unit of the first layer."""
    r = slope(h1) * q
    return r, -2.0 * h1 * r


@triton.jit
def unit1_vjp_q(h1, v_r, v_m):
    """(15), first line: the cotangent of q."""
    return slope(h1) * (v_r - 2.0 * h1 * v_m)


@triton.jit
def unit1_vjp_h1(h1, q, v_r, v_m, v_d1):
    """(15), (20): the cotangent of h1 without that of h1 + τ; v_d1 is that of the cubic part."""
    v_d1_all = v_d1 + q * (v_r - 2.0 * h1 * v_m)
    return slope_vjp(h1, v_d1_all) - 2.0 * slope(h1) * q * v_m


@triton.jit
def output_activation(o, TANH: tl.constexpr):
    """(4): u, φ = ψ0'(o), ψ = ψ0''(o)."""
    if TANH:
        u = tanh(o)
        phi = slope(u)
        psi = -2.0 * u * phi
    else:
        u = o
        phi = o * 0.0 + 1.0
        psi = o * 0.0
    return u, phi, psi


@triton.jit
def output_factors(u, TANH: tl.constexpr):
    """(4) from u: φ and ψ."""
    if TANH:
        phi = slope(u)
        psi = -2.0 * u * phi
    else:
        phi = tl.full(u.shape, 1.0, u.dtype)
        psi = tl.zeros_like(u)
    return phi, psi
