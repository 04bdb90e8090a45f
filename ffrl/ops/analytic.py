"""The potential op in closed form with its hand-written backward, in plain torch.

This is the executable derivation: each line carries the number of its equation in docs/derivation.md, and
the kernels are ports of it. One call handles rows of one potential; ``potential_derivatives`` groups rows.

Names: dA_dB derivative, v_A cotangent of A. Shapes: N rows, D latent, H1 and H2 hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ffrl.errors import DerivativeOrderError
from ffrl.ops.autocast import outside_autocast
from ffrl.ops.laplacian_forms import (
    LaplacianForm,
    laplacian_form,
    laplacian_gram,
    laplacian_gram_vjp,
    laplacian_jacobian,
    laplacian_jacobian_vjp,
)
from ffrl.records import PotentialDerivatives, PotentialWeights, TimeFeatures

SECOND_DERIVATIVE_MESSAGE = (
    "the fused potential op has first-order gradients only; for a second derivative through its outputs "
    'call potential_derivatives(..., backend="oracle")'
)
FORWARD_MODE_MESSAGE = (
    'the fused potential op has no forward-mode derivative; potential_derivatives(..., backend="oracle") has '
    "one, under torch.autograd.forward_ad"
)


class _FirstOrderOnly(torch.autograd.Function):
    """Identity on computed gradients whose own backward raises: a second derivative is never silently wrong."""

    @staticmethod
    def forward(gradients: Tensor, *_cotangents: Tensor) -> Tensor:
        return gradients.view_as(gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise DerivativeOrderError(SECOND_DERIVATIVE_MESSAGE)


class _Analytic(torch.autograd.Function):
    """Rows of one potential. The forward returns what the backward keeps beside the outputs: O(N·H) floats."""

    @staticmethod
    def forward(
        z: Tensor,
        tau: Tensor,
        dtau_dt: Tensor,
        d2tau_dt2: Tensor | None,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        weight3: Tensor,
        bias3: Tensor,
        tanh_output: bool,
        form: LaplacianForm | None,
    ) -> tuple[Tensor | None, ...]:
        h1 = torch.tanh(z @ weight1.T + bias1)  # (1)
        d1 = 1 - h1 * h1
        h2 = torch.tanh((h1 + tau) @ weight2.T + bias2)  # (2)
        d2 = 1 - h2 * h2
        o = h2 @ weight3 + bias3  # (3)
        u = torch.tanh(o) if tanh_output else o
        phi, psi = output_derivatives(u, tanh_output)  # (4)
        p = d2 * weight3  # (5)
        q = p @ weight2
        v = (d1 * q) @ weight1
        du_dz = phi[:, None] * v
        omega = dtau_dt @ weight2.T  # (N or 1, H2)  (6)
        o_dot = (p * omega).sum(1)
        du_dt = phi * o_dot
        o_ddot = d2u_dt2 = ell = s_rows = e_rows = lap_u = None
        c = -2 * h2 * p if d2tau_dt2 is not None or form is not None else None  # (7)
        if d2tau_dt2 is not None:
            assert c is not None
            o_ddot = (c * omega * omega).sum(1) + (p * (d2tau_dt2 @ weight2.T)).sum(1)
            d2u_dt2 = phi * o_ddot + psi * o_dot * o_dot
        if form is not None:
            assert c is not None
            gram = weight1 @ weight1.T  # (H1, H1) (8)
            if form == "gram":
                s_rows, e_rows = laplacian_gram(d1, c, weight2, gram)
            else:
                s_rows = laplacian_jacobian(d1, weight1, weight2)
            m = -2 * h1 * d1 * q  # (8)
            ell = (c * s_rows).sum(1) + m @ gram.diagonal()  # (11)
            lap_u = phi * ell + psi * (v * v).sum(1)
        return u, du_dz, du_dt, d2u_dt2, lap_u, h1, h2, v, q, o_dot, o_ddot, ell, s_rows, e_rows

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        z, tau, dtau_dt, d2tau_dt2, weight1, _, weight2, _, weight3, _, ctx.tanh_output, ctx.form = inputs
        u, kept = output[0], output[5:]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(value for value in kept if value is not None))
        ctx.save_for_backward(z, tau, dtau_dt, d2tau_dt2, weight1, weight2, weight3, u, *kept)

    @staticmethod
    def backward(ctx: Any, *v_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        cotangents = v_outputs[:5]
        with torch.no_grad(), outside_autocast(ctx.saved_tensors[0].device.type):
            gradients = _analytic_vjp(ctx, *cotangents)
        if torch.is_grad_enabled():  # create_graph=True
            sources = [x for x in (*cotangents, *ctx.saved_tensors) if x is not None and x.requires_grad]
            gradients = tuple(None if g is None else _FirstOrderOnly.apply(g, *sources) for g in gradients)
        return (*gradients, None, None)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise DerivativeOrderError(FORWARD_MODE_MESSAGE)


def output_derivatives(u: Tensor, tanh_output: bool) -> tuple[Tensor, Tensor]:
    """First and second derivative of the output activation, from its value: equation (4)."""
    if tanh_output:
        phi = 1 - u * u
        return phi, -2 * u * phi
    return torch.ones_like(u), torch.zeros_like(u)


def stacked_velocity(z: Tensor, tau: Tensor, weights: PotentialWeights, *, tanh_output: bool) -> tuple[Tensor, Tensor]:
    """∇u (G, M, D) and ∂u/∂a2 (G, M, H2) of G stacked potentials at z (G, M, D) with tau (G, 1, H1): (1) to (5).

    ∂u/∂t is ∂u/∂a2 · W2 ∂τ/∂t. Ordinary differentiable torch: for the sequential roll of a flow, where nothing else is
    needed, it costs fewer launches than the full op.
    """
    weight1, bias1, weight2, bias2, weight3, bias3 = weights
    h1 = torch.tanh(torch.baddbmm(bias1[:, None], z, weight1.mT))  # (G, M, H1)
    h2 = torch.tanh(torch.baddbmm(bias2[:, None], h1 + tau, weight2.mT))  # (G, M, H2)
    p = (1 - h2 * h2) * weight3[:, None]
    if tanh_output:
        u = torch.tanh(torch.baddbmm(bias3[:, None, None], h2, weight3[:, :, None]))  # (G, M, 1)
        p = (1 - u * u) * p
    return torch.bmm((1 - h1 * h1) * torch.bmm(p, weight2), weight1), p


def _analytic_vjp(
    ctx: Any,
    v_u: Tensor | None,
    v_du_dz: Tensor | None,
    v_du_dt: Tensor | None,
    v_d2u_dt2: Tensor | None,
    v_lap_u: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Equations (13) to (20); a missing cotangent is zero and its terms are not computed."""
    saved = ctx.saved_tensors
    z, tau, dtau_dt, d2tau_dt2, weight1, weight2, weight3, u = saved[:8]
    h1, h2, v, q, o_dot, o_ddot, ell, s_rows, e_rows = saved[8:]
    phi, psi = output_derivatives(u, ctx.tanh_output)
    d1, d2 = 1 - h1 * h1, 1 - h2 * h2
    p = d2 * weight3
    c = -2 * h2 * p
    r = d1 * q
    zero = torch.zeros_like(u)

    v_phi, v_psi, v_v, v_o_dot, v_o_ddot = zero, zero, None, None, None  # (13)
    if v_du_dz is not None:
        v_phi = v_phi + (v_du_dz * v).sum(1)
        v_v = phi[:, None] * v_du_dz
    if v_du_dt is not None:
        v_phi = v_phi + v_du_dt * o_dot
        v_o_dot = v_du_dt * phi
    if v_d2u_dt2 is not None:
        v_phi = v_phi + v_d2u_dt2 * o_ddot
        v_psi = v_psi + v_d2u_dt2 * o_dot * o_dot
        v_o_ddot = v_d2u_dt2 * phi
        v_o_dot = (zero if v_o_dot is None else v_o_dot) + 2 * v_d2u_dt2 * psi * o_dot
    if v_lap_u is not None:
        v_phi = v_phi + v_lap_u * ell
        v_psi = v_psi + v_lap_u * (v * v).sum(1)
        v_v = (0 if v_v is None else v_v) + 2 * (v_lap_u * psi)[:, None] * v
    v_o = zero if v_u is None else v_u * phi
    if ctx.tanh_output:
        v_o = v_o + (v_phi * (-2 * u) + v_psi * (6 * u * u - 2)) * phi

    v_weight1, v_weight2 = torch.zeros_like(weight1), torch.zeros_like(weight2)
    v_h1, v_d1, v_q, v_p, v_c = None, None, torch.zeros_like(h1), torch.zeros_like(h2), None
    if v_lap_u is not None:
        lam = (v_lap_u * phi)[:, None]  # (N, 1) cotangent of ℓ
        v_c = lam * s_rows  # (14)
        gram = weight1 @ weight1.T
        v_m = lam * gram.diagonal()
        v_gram = torch.diag((lam * (-2 * h1 * r)).sum(0))
        v_q = v_q - 2 * h1 * d1 * v_m  # (15)
        v_d1 = -2 * h1 * q * v_m
        v_h1 = -2 * r * v_m
        if ctx.form == "gram":  # (16)
            v_d1 = v_d1 + 2 * lam * e_rows
            laplacian_gram_vjp(lam * c, d1, weight2, gram, v_gram, v_weight2)
        else:
            v_d1 = v_d1 + laplacian_jacobian_vjp(lam * c, d1, weight1, weight2, v_weight1, v_weight2)
        v_weight1 += 2 * v_gram @ weight1
    if v_v is not None:
        v_r = v_v @ weight1.T  # (15)
        v_weight1 += r.T @ v_v
        v_q = v_q + d1 * v_r
        v_d1 = q * v_r if v_d1 is None else v_d1 + q * v_r
    v_p = v_p + v_q @ weight2.T  # (17)
    v_weight2 += p.T @ v_q
    v_dtau_dt = v_d2tau_dt2 = None
    if v_o_dot is not None or v_o_ddot is not None:
        omega = dtau_dt @ weight2.T  # (N or 1, H2)
        v_omega = torch.zeros_like(p)
        if v_o_dot is not None:
            v_p = v_p + v_o_dot[:, None] * omega
            v_omega = v_omega + v_o_dot[:, None] * p
        if v_o_ddot is not None:
            v_p = v_p + v_o_ddot[:, None] * (d2tau_dt2 @ weight2.T)
            v_omega = v_omega + 2 * v_o_ddot[:, None] * c * omega
            v_c = (0 if v_c is None else v_c) + v_o_ddot[:, None] * omega * omega  # (14)
            v_d2tau_rows = v_o_ddot[:, None] * p
            v_weight2 += rows_to(v_d2tau_rows, d2tau_dt2).T @ d2tau_dt2
            v_d2tau_dt2 = rows_to(v_d2tau_rows, d2tau_dt2) @ weight2
        v_weight2 += rows_to(v_omega, dtau_dt).T @ dtau_dt
        v_dtau_dt = rows_to(v_omega, dtau_dt) @ weight2
    v_h2 = v_o[:, None] * weight3
    if v_c is not None:
        v_p = v_p - 2 * h2 * v_c
        v_h2 = v_h2 - 2 * p * v_c
    v_d2 = v_p * weight3  # (18)
    v_weight3 = (v_p * d2).sum(0) + v_o @ h2
    v_bias3 = v_o.sum()
    v_h2 = v_h2 - 2 * h2 * v_d2
    v_a2 = v_h2 * d2  # (19)
    v_weight2 += v_a2.T @ (h1 + tau)
    v_bias2 = v_a2.sum(0)
    v_s = v_a2 @ weight2
    v_tau = rows_to(v_s, tau)
    v_h1 = v_s if v_h1 is None else v_h1 + v_s
    if v_d1 is not None:
        v_h1 = v_h1 - 2 * h1 * v_d1
    v_a1 = v_h1 * d1  # (20)
    v_weight1 += v_a1.T @ z
    v_bias1 = v_a1.sum(0)
    v_z = v_a1 @ weight1
    return v_z, v_tau, v_dtau_dt, v_d2tau_dt2, v_weight1, v_bias1, v_weight2, v_bias2, v_weight3, v_bias3


def rows_to(cotangent: Tensor, like: Tensor) -> Tensor:
    """Sum the rows of a cotangent when its primal is one shared row."""
    return cotangent.sum(0, keepdim=True) if like.shape[0] == 1 and cotangent.shape[0] != 1 else cotangent


def potential_derivatives_analytic(
    z: Tensor,
    features: TimeFeatures,
    weights: PotentialWeights,
    *,
    tanh_output: bool,
    laplacian: bool = True,
    form: LaplacianForm | None = None,
) -> PotentialDerivatives:
    """Closed form for N rows of one potential, equations (1) to (11) and (13) to (20) of docs/derivation.md.

    Args:
        z: (N, D).
        features: time feature rows (N, H1), or (1, H1) shared by all rows; ∂²u/∂t² is computed iff the third member
            is given.
        weights: of this potential.
        tanh_output: output activation tanh (True) or identity (False).
        laplacian: compute Δu.
        form: force the "gram" or the "jacobian" form of the Laplacian; None chooses by ``laplacian_form``.

    Returns:
        PotentialDerivatives with first-order gradients in every argument. Memory beyond the outputs: O(N·(H1+H2)) kept
        for the backward, plus temporaries bounded by TILE_ELEMENTS (or one H1×H1 matrix where that is larger).
    """
    if laplacian and form is None:
        backward = torch.is_grad_enabled() and any(w.requires_grad for w in (z, *weights))
        form = laplacian_form(z.shape[1], weights.weight1.shape[0], backward=backward)
    outputs = _Analytic.apply(z, *features, *weights, tanh_output, form if laplacian else None)
    return PotentialDerivatives(*outputs[:5])
