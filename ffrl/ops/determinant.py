"""The whole Hessian of a potential and the log-determinant of one flow step."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ffrl.ops.analytic import output_derivatives
from ffrl.ops.autocast import outside_autocast, raised_precision
from ffrl.ops.mlp_field import MLPField, has_closed_form
from ffrl.ops.oracle import Field, potential_hessian_oracle
from ffrl.ops.potential_derivatives import check_rows
from ffrl.records import PotentialWeights, TimeFeatures


def _hessian_mlp(z: Tensor, features: TimeFeatures, weights: PotentialWeights, tanh_output: bool) -> Tensor:
    """Equation (12) for rows of one potential, (N, D, D), in ordinary differentiable torch."""
    weight1, bias1, weight2, bias2, weight3, bias3 = weights
    h1 = torch.tanh(z @ weight1.T + bias1)
    d1 = 1 - h1 * h1
    h2 = torch.tanh((h1 + features.tau) @ weight2.T + bias2)
    p = (1 - h2 * h2) * weight3
    o = h2 @ weight3 + bias3
    u = torch.tanh(o) if tanh_output else o
    phi, psi = output_derivatives(u, tanh_output)
    q = p @ weight2
    v = (d1 * q) @ weight1  # (N, D)
    jacobian = weight2 @ (d1[:, :, None] * weight1)  # (N, H2, D): d a2 / d z
    curvature = torch.einsum("nj,njd,nje->nde", -2 * h2 * p, jacobian, jacobian)
    curvature = curvature + torch.einsum("ni,id,ie->nde", -2 * h1 * d1 * q, weight1, weight1)
    return phi[:, None, None] * curvature + psi[:, None, None] * v[:, :, None] * v[:, None, :]


def potential_hessian(pot: MLPField | Field, z: Tensor, t: float | Tensor, k: int | Tensor) -> Tensor:
    """∇²u^k(z, t), (N, D, D), for the arguments of ``potential_derivatives``; differentiable to every order.

    A ``PotentialMLP`` goes through equation (12) of docs/derivation.md, N·D·(H2 + D) elements of memory; any other
    field through nested autograd.
    """
    fused = has_closed_form(pot)
    z, t = raised_precision(z, t)
    check_rows(pot if fused else None, z, t, k)
    with outside_autocast(z.device.type):
        return _hessian(pot, z, torch.as_tensor(t, dtype=z.dtype, device=z.device), k, fused)


def _hessian(pot: MLPField | Field, z: Tensor, time: Tensor, k: int | Tensor, fused: bool) -> Tensor:
    if not fused:
        return potential_hessian_oracle(pot, z, time.expand(z.shape[0]), k)
    pot = cast(MLPField, pot)
    tanh_output = pot.output_activation == "tanh"
    if isinstance(k, int):
        return _hessian_mlp(z, pot.time_features(time, k, order=1), pot.weights(k), tanh_output)
    hessian = z.new_zeros(z.shape[0], z.shape[1], z.shape[1])
    for k_one in range(pot.num_potentials):
        rows = (k == k_one).nonzero().squeeze(1)
        features = pot.time_features(time[rows] if time.dim() else time, k_one, order=1)
        hessian = hessian.index_add(0, rows, _hessian_mlp(z[rows], features, pot.weights(k_one), tanh_output))
    return hessian


def log_abs_det(pot: MLPField | Field, z: Tensor, t: float | Tensor, k: int | Tensor) -> Tensor:
    """log|det(I + ∇²u^k(z, t))|, (N,): exact change of variables of one step (FFRL eq. 9), by batched LU.

    Where I + ∇²u is singular the value is -inf, as the mathematics has it.
    """
    hessian = potential_hessian(pot, z, t, k)
    identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return torch.linalg.slogdet(identity + hessian).logabsdet
