"""Nested autograd: the slow, obviously right rung that every other backend is tested against.

Works for any callable field u(z, t, k) -> (N,), in any dtype. It costs D + 2 reverse passes through a
graph that must be kept; use float64 when it serves as a reference.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ffrl.records import PotentialDerivatives

Field = Callable[..., Tensor]


def derivative(output: Tensor, source: Tensor) -> Tensor:
    """d(sum of output)/d(source), differentiable again; zeros where output does not depend on source."""
    if not output.requires_grad:
        return torch.zeros_like(source)
    (gradient,) = torch.autograd.grad(output.sum(), source, create_graph=True, allow_unused=True)
    return torch.zeros_like(source) if gradient is None else gradient


def differentiable_view(tensor: Tensor) -> Tensor:
    """A tensor of this call's own to differentiate by, still attached to the caller's graph and tangent."""
    view = tensor.view_as(tensor)
    return view if view.requires_grad else view.requires_grad_()


def potential_derivatives_oracle(
    pot: Field,
    z: Tensor,
    time: Tensor,
    k: int | Tensor,
    *,
    d2u_dt2: bool = False,
    laplacian: bool = True,
) -> PotentialDerivatives:
    """Value, gradient, time derivatives and Laplacian of ``pot`` by nested reverse mode.

    Args:
        pot: field, called as ``pot(z, time, k)`` with z (N, D), time (N,); returns (N,). Row n of the
            result may depend on row n of the inputs only.
        z: (N, D) floating point.
        time: (N,) same dtype.
        k: int, or (N,) int64.
        d2u_dt2: also compute the second time derivative.
        laplacian: also compute the trace of the Hessian, one row of it per reverse pass.

    Returns:
        PotentialDerivatives, attached to the graph of z, time and the parameters of ``pot`` when grad mode is on;
        every order of derivative through it exists.
    """
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z_rows, t_rows = differentiable_view(z), differentiable_view(time)
        u = pot(z_rows, t_rows, k)
        du_dz = derivative(u, z_rows)
        du_dt = derivative(u, t_rows)
        second = derivative(du_dt, t_rows) if d2u_dt2 else None
        lap_u = None
        if laplacian:
            lap_u = torch.zeros_like(u)
            for i in range(z.shape[1]):
                lap_u = lap_u + derivative(du_dz[:, i], z_rows)[:, i]
    result = PotentialDerivatives(u, du_dz, du_dt, second, lap_u)
    return result if keep_graph else result.detach()


def potential_hessian_oracle(pot: Field, z: Tensor, time: Tensor, k: int | Tensor) -> Tensor:
    """Hessian of ``pot`` in z, (N, D, D), by nested reverse mode; arguments as above."""
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        z_rows = differentiable_view(z)
        du_dz = derivative(pot(z_rows, time, k), z_rows)
        rows = [derivative(du_dz[:, i], z_rows) for i in range(z.shape[1])]
        hessian = torch.stack(rows, dim=1) if rows else z.new_zeros(z.shape[0], 0, 0)
    return hessian if keep_graph else hessian.detach()
