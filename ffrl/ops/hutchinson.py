"""Hutchinson's estimate of the Laplacian: the trace of the Hessian from random signs, without its cubic cost.

docs/derivation.md, section 3.4. Everything here is ordinary differentiable torch, so that gradients of every order
exist. Equation numbers are those of docs/derivation.md. Shapes: P probes, N rows, D latent, H1 and H2 hidden.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ffrl.errors import ArgumentError
from ffrl.ops.analytic import output_derivatives
from ffrl.ops.mlp_field import MLPField, can_read_values, distinct_time_features
from ffrl.ops.oracle import Field, derivative, differentiable_view
from ffrl.records import PotentialWeights


def draw_probes(z: Tensor, num_probes: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent signs ξ for every row of z (N, D): (P, N, D) in {-1, +1}, P = ``num_probes``, dtype and device of z.

    The signs are the same in float32 and in float64. They are drawn from ``generator``, which advances, or from torch's
    default generator of the device where that is None.

    Raises:
        ArgumentError: ``num_probes`` is not an int >= 1; ``generator`` is none, or is on another device than z.
    """
    if isinstance(num_probes, bool) or not isinstance(num_probes, int) or num_probes < 1:
        raise ArgumentError("num_probes", repr(num_probes), "an int >= 1")
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise ArgumentError("generator", repr(generator), "a torch.Generator, or None")
        device = generator.device  # "cuda" without an index is a generator of the current device
        if device.type != z.device.type or device.index not in (None, z.device.index):
            raise ArgumentError("generator.device", device, f"the device of z, {z.device}")
    signs = torch.randint(0, 2, (num_probes, *z.shape), generator=generator, dtype=z.dtype, device=z.device)
    return 2 * signs - 1


def laplacian_hutchinson(
    z: Tensor, tau: Tensor, weights: PotentialWeights, probes: Tensor, *, tanh_output: bool
) -> Tensor:
    r"""Mean over the probes of ξᵀ ∇²u ξ, (N,), for N rows of one potential MLP, by equation (12):

        ξᵀ ∇²u ξ = φ (Σ_j c_j (J ξ)_j² + Σ_i m_i (W1 ξ)_i²) + ψ (v·ξ)²,   J ξ = W2 (d1 ∘ W1 ξ)

    O(P·N·H1·(D + H2)) multiply-adds; O(P·N·(D + H1 + H2)) floats are made and kept.

    Args:
        z: (N, D).
        tau: time feature rows (N, H1), or (1, H1) shared by all rows.
        weights: of this potential.
        probes: (P, N, D), as of ``draw_probes``.
        tanh_output: output activation tanh (True) or identity (False).
    """
    weight1, bias1, weight2, bias2, weight3, bias3 = weights
    h1 = torch.tanh(z @ weight1.T + bias1)  # (1)
    d1 = 1 - h1 * h1
    h2 = torch.tanh((h1 + tau) @ weight2.T + bias2)  # (2)
    o = h2 @ weight3 + bias3  # (3)
    phi, psi = output_derivatives(torch.tanh(o) if tanh_output else o, tanh_output)  # (4)
    p = (1 - h2 * h2) * weight3  # (5)
    r = d1 * (p @ weight2)
    c, m = -2 * h2 * p, -2 * h1 * r  # (7), (8)
    a1_probe = probes @ weight1.T  # (P, N, H1) derivative of a1 along each probe, and so on
    a2_probe = (d1 * a1_probe) @ weight2.T  # (P, N, H2)
    o_probe = (r * a1_probe).sum(2)  # (P, N): v·ξ, because v = W1ᵀ r
    ell = (c * a2_probe.square().mean(0)).sum(1) + (m * a1_probe.square().mean(0)).sum(1)
    return phi * ell + psi * o_probe.square().mean(0)


def laplacian_hutchinson_oracle(pot: Field, z: Tensor, time: Tensor, k: int | Tensor, probes: Tensor) -> Tensor:
    """Mean over the probes of ξᵀ ∇²u ξ, (N,), for any field: ∇²u ξ is the gradient of ∇u·ξ, one pass for each probe.

    Arguments as those of ``potential_derivatives_oracle``, and probes (P, N, D).
    """
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z_rows = differentiable_view(z)
        du_dz = derivative(pot(z_rows, time, k), z_rows)
        lap_u = z.new_zeros(z.shape[0])
        for probe in probes:
            lap_u = lap_u + (derivative(du_dz * probe, z_rows) * probe).sum(1)
        lap_u = lap_u / probes.shape[0]
    return lap_u if keep_graph else lap_u.detach()


def hutchinson_rows(
    pot: MLPField | Field, z: Tensor, time: Tensor, k: int | Tensor, probes: Tensor, *, fused: bool
) -> Tensor:
    """Hutchinson's estimate of Δu^k(z, t), (N,), differentiable in z, time and every parameter, to every order.

    Args:
        pot: a potential MLP if ``fused``, else any field.
        z: (N, D).
        time: () or (N,).
        k: int, or (N,) int64.
        probes: (P, N, D); row n of the result is that of ``probes[:, n]``, whatever the other rows are.
        fused: take the closed form instead of nested autograd.
    """
    if not fused:
        return laplacian_hutchinson_oracle(cast(Field, pot), z, time.expand(z.shape[0]), k, probes)
    field = cast(MLPField, pot)

    def evaluate(rows: Tensor, row_time: Tensor, k_one: int, row_probes: Tensor) -> Tensor:
        tau = distinct_time_features(field, row_time, k_one, order=1).tau
        tanh_output = field.output_activation == "tanh"
        return laplacian_hutchinson(rows, tau, field.weights(k_one), row_probes, tanh_output=tanh_output)

    if isinstance(k, int):
        return evaluate(z, time, k, probes)
    lap_u = z.new_zeros(z.shape[0])
    for k_one in range(field.num_potentials):
        if not can_read_values(k):  # all rows of each: how many are its own is not known
            lap_u = torch.where(k == k_one, evaluate(z, time, k_one, probes), lap_u)
            continue
        rows = (k == k_one).nonzero().squeeze(1)
        row_time = time[rows] if time.dim() else time
        lap_u = lap_u.index_add(0, rows, evaluate(z[rows], row_time, k_one, probes[:, rows]))
    return lap_u
