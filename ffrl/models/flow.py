"""The latent flow z_t = z_{t-1} + ∇u^k(z_{t-1}, t)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ffrl.errors import ArgumentError
from ffrl.models.potential import PotentialMLP
from ffrl.ops import log_abs_det, potential_derivatives, potential_hessian
from ffrl.ops.analytic import stacked_velocity
from ffrl.ops.autocast import outside_autocast, raised_precision
from ffrl.ops.backends import resolve_backend
from ffrl.ops.mlp_field import MLPField, has_closed_form
from ffrl.ops.oracle import Field
from ffrl.ops.potential_derivatives import check_rows
from ffrl.records import FlowTrajectory, PotentialWeights


class RowGroups:
    """Rows of mixed k laid out as (G, M): one line per potential that occurs, padded to the longest."""

    def __init__(self, k: int | Tensor, num_rows: int, num_potentials: int) -> None:
        if isinstance(k, int):
            self.potentials, self.width, self.slot = [k], num_rows, None
            return
        counts = torch.bincount(k, minlength=num_potentials).tolist()
        self.potentials = [i for i, count in enumerate(counts) if count] or [0]
        self.width = max(counts)
        order = torch.argsort(k, stable=True)
        slots = [g * self.width + torch.arange(counts[i], device=k.device) for g, i in enumerate(self.potentials)]
        self.slot = torch.empty_like(k)
        self.slot[order] = torch.cat(slots)

    def pack(self, rows: Tensor) -> Tensor:
        """(N, D) -> (G, M, D); the padding is zero."""
        if self.slot is None:
            return rows[None]
        padded = rows.new_zeros(len(self.potentials) * self.width, rows.shape[1]).index_copy(0, self.slot, rows)
        return padded.view(len(self.potentials), self.width, rows.shape[1])

    def unpack(self, packed: Tensor) -> Tensor:
        """(G, M, ...) -> (N, ...)."""
        return packed.flatten(0, 1) if self.slot is None else packed.flatten(0, 1).index_select(0, self.slot)


def flow_rollout(
    pot: MLPField | Field, z0: Tensor, k: int | Tensor, num_steps: int, *, direction: int = 1, backend: str = "auto"
) -> Tensor:
    """States z_0 .. z_T of the flow, (B, T+1, D), by the cheap part of the op (no Laplacian).

    Args:
        pot: the potentials.
        z0: (B, D).
        k: int, or (B,) int64.
        num_steps: T.
        direction: +1 for z_t = z_{t-1} + ∇u(z_{t-1}, t), t = 1..T; -1 for the flow with its sign reversed, through
            the same times 1..T.
        backend: as in ``potential_derivatives``.

    Under torch.autocast the states keep the dtype of the potential's parameters, as in ``potential_derivatives``.
    """
    check_num_steps(num_steps)
    if direction not in (1, -1):
        raise ArgumentError("direction", direction, "1 or -1")
    fused = has_closed_form(pot)
    z0, _ = raised_precision(z0, 1.0)
    check_rows(pot if fused else None, z0, 1.0, k)
    with outside_autocast(z0.device.type):
        return _rollout(pot, z0, k, num_steps, direction, resolve_backend(backend, z0.device, fused=fused))


def _rollout(
    pot: MLPField | Field, z0: Tensor, k: int | Tensor, num_steps: int, direction: int, backend: str
) -> Tensor:
    z_t, states = z0, [z0]
    if backend == "oracle":
        for t in range(1, num_steps + 1):
            out = potential_derivatives(pot, z_t, float(t), k, laplacian=None, backend="oracle")
            z_t = z_t + direction * out.du_dz
            states.append(z_t)
        return torch.stack(states, dim=1)
    pot = cast(MLPField, pot)
    groups = RowGroups(k, z0.shape[0], pot.num_potentials)
    times = torch.arange(1, num_steps + 1, dtype=z0.dtype, device=z0.device)
    tau = torch.stack([pot.time_features(times, i, order=1).tau for i in groups.potentials])  # (G, T, H1)
    stacked = zip(*(pot.weights(i) for i in groups.potentials), strict=True)
    weights = PotentialWeights(*(torch.stack(weight) for weight in stacked))  # (G, ...)
    packed = groups.pack(z0)  # (G, M, D)
    states = [packed]
    for t in range(num_steps):
        packed = packed + direction * stacked_velocity(
            packed, tau[:, t, None], weights, tanh_output=pot.output_activation == "tanh"
        )
        states.append(packed)
    return groups.unpack(torch.stack(states, dim=2))


def check_num_steps(num_steps: int) -> None:
    if not isinstance(num_steps, int) or isinstance(num_steps, bool) or num_steps < 1:
        raise ArgumentError("num_steps", repr(num_steps), "an integer >= 1")


class LatentFlow(nn.Module):
    """Rolls a latent code along the potentials, then takes all derivatives of all steps in one call.

    The Laplacian is not on the sequential path: only log q needs it. So the T steps use the quadratic part of the op,
    and the cubic part sees all T·B rows at once.
    """

    def __init__(self, potential: PotentialMLP, backend: str = "auto") -> None:
        super().__init__()
        self.potential = potential
        self.backend = backend

    def forward(
        self, z0: Tensor, k: int | Tensor, num_steps: int, *, laplacian: bool = True, d2u_dt2: bool = False
    ) -> FlowTrajectory:
        """Trajectory of z0 (B, D) along potential k (int or (B,)) with its derivatives at (z_{t-1}, t)."""
        z = flow_rollout(self.potential, z0, k, num_steps, backend=self.backend)
        rows, time, k_rows = step_rows(z, k)
        out = potential_derivatives(
            self.potential,
            rows,
            time,
            k_rows,
            d2u_dt2=d2u_dt2,
            laplacian="exact" if laplacian else None,
            backend=self.backend,
        )
        steps = (z0.shape[0], num_steps)
        return FlowTrajectory(
            z=z,
            du_dz=out.du_dz.view(*steps, z0.shape[1]),
            du_dt=out.du_dt.view(steps),
            d2u_dt2=None if out.d2u_dt2 is None else out.d2u_dt2.view(steps),
            lap_u=None if out.lap_u is None else out.lap_u.view(steps),
        )

    def log_det_exact(self, z: Tensor, k: int | Tensor) -> Tensor:
        """log|det(I + ∇²u(z_{t-1}, t))| of every step of states z (B, T+1, D), (B, T): FFRL eq. 9."""
        rows, time, k_rows = step_rows(z, k)
        return log_abs_det(self.potential, rows, time, k_rows).view(z.shape[0], z.shape[1] - 1)

    def smallest_stretch(self, z: Tensor, k: int | Tensor) -> Tensor:
        """Smallest eigenvalue of I + ∇²u(z_{t-1}, t) of every step of states z (B, T+1, D), (B, T).

        Where it is positive everywhere, z + ∇u is one-to-one and its change of variables exact. A step with a negative
        one folds space: then log q(z_t) counts one of several preimages, and what is built on it is no bound.
        """
        rows, time, k_rows = step_rows(z, k)
        hessian = potential_hessian(self.potential, rows, time, k_rows)
        return 1 + torch.linalg.eigvalsh(hessian)[:, 0].view(z.shape[0], z.shape[1] - 1)


def step_rows(z: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor, int | Tensor]:
    """Where the steps of states z (B, T+1, D) evaluate the potential: z_{t-1} (B·T, D), t (B·T,), k (int or (B·T,))."""
    batch, num_steps = z.shape[0], z.shape[1] - 1
    time = torch.arange(1, num_steps + 1, dtype=z.dtype, device=z.device).repeat(batch)
    k_rows = k if isinstance(k, int) else k.repeat_interleave(num_steps)
    return z[:, :-1].flatten(0, 1), time, k_rows


def log_det_trace(lap_u: Tensor, floor: float) -> Tensor:
    """log|1 + Δu| (FFRL eq. 10), with |1 + Δu| clamped from below to ``floor``; the gradient is zero below it."""
    return torch.log((1 + lap_u).abs().clamp(min=floor))
