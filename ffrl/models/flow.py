"""The latent flow with all its derivatives, and its log-determinants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ffrl.config import Precision
from ffrl.models.choice import Choice
from ffrl.models.potential import PotentialMLP
from ffrl.ops import flow_rollout, log_abs_det, potential_derivatives, potential_hessian
from ffrl.records import FlowRollout, FlowTrajectory


class LatentFlow(nn.Module):
    """Rolls a latent code along the potentials, then takes all derivatives of all steps in one call.

    The Laplacian is not on the sequential path: only log q needs it. So the T steps use the quadratic part of the op,
    and the cubic part sees all T·B rows at once.
    """

    def __init__(self, potential: PotentialMLP, backend: str = "auto", precision: Precision = "tf32x3") -> None:
        super().__init__()
        self.potential = potential
        self.backend = backend
        self.precision: Precision = precision

    def forward(
        self,
        z0: Tensor,
        k: int | Tensor,
        num_steps: int,
        *,
        laplacian: bool = True,
        d2u_dt2: bool = False,
        num_probes: int | None = None,
    ) -> FlowTrajectory:
        """Trajectory of z0 (B, D) along potential k (int or (B,)) with its derivatives at (z_{t-1}, t).

        With ``num_probes`` the Laplacian is Hutchinson's estimate from as many random signs, of torch's generator.
        """
        rollout = self.roll(z0, k, num_steps)
        if not laplacian and not d2u_dt2:
            return FlowTrajectory(*rollout, d2u_dt2=None, lap_u=None)
        return self.derivatives_along(rollout.z, k, laplacian=laplacian, d2u_dt2=d2u_dt2, num_probes=num_probes)

    def derivatives_along(
        self, z: Tensor, k: int | Tensor, *, laplacian: bool, d2u_dt2: bool, num_probes: int | None = None
    ) -> FlowTrajectory:
        """States z (B, T+1, D), rolled out or not, with the derivatives of every step, in one call of the op."""
        rows, time, k_rows = step_rows(z, k)
        out = potential_derivatives(
            self.potential,
            rows,
            time,
            k_rows,
            d2u_dt2=d2u_dt2,
            laplacian=None if not laplacian else "exact" if num_probes is None else "hutchinson",
            num_probes=num_probes if laplacian and num_probes is not None else 1,
            backend=self.backend,
            precision=self.precision,
        )
        steps = (z.shape[0], z.shape[1] - 1)
        return FlowTrajectory(
            z,
            u=out.u.view(steps),
            du_dz=out.du_dz.view(*steps, z.shape[2]),
            du_dt=out.du_dt.view(steps),
            d2u_dt2=None if out.d2u_dt2 is None else out.d2u_dt2.view(steps),
            lap_u=None if out.lap_u is None else out.lap_u.view(steps),
        )

    def through(
        self,
        z0: Tensor,
        choice: Choice,
        num_steps: int,
        *,
        laplacian: bool = True,
        d2u_dt2: bool = False,
        num_probes: int | None = None,
    ) -> FlowTrajectory:
        """``forward`` along the chosen potentials, with the straight-through gradient in the weights of the choice.

        Every step evaluates the velocities of all potentials at the state that it starts from, forward only, so that
        the weights learn what each of them would have done there; likewise everything else.
        """
        wanted: dict[str, Any] = {"laplacian": laplacian, "d2u_dt2": d2u_dt2, "num_probes": num_probes}
        if choice.weights is None:
            return self(z0, choice.k, num_steps, **wanted)
        states, steps = [z0], []
        for t in range(1, num_steps + 1):

            def step(k: int | Tensor, z: Tensor = states[-1], t: float = float(t)) -> Tensor:  # (B, D+1)
                out = potential_derivatives(
                    self.potential, z, t, k, laplacian=None, backend=self.backend, precision=self.precision
                )
                return torch.cat([out.du_dz, out.du_dt[:, None]], dim=1)

            steps.append(choice.through(step))
            states.append(states[-1] + steps[-1][:, :-1])
        z, rates = torch.stack(states, 1), torch.stack(steps, 1)  # (B, T+1, D), (B, T, D+1)
        trajectory = FlowTrajectory(z, rates[..., :-1], rates[..., -1], d2u_dt2=None, lap_u=None)
        if not laplacian and not d2u_dt2:
            return trajectory

        def scalars(k: int | Tensor) -> Tensor:  # (B, T, 2 or 3)
            out = self.derivatives_along(z, k, **wanted)
            return torch.stack([x for x in (out.u, out.lap_u, out.d2u_dt2) if x is not None], dim=2)

        found = choice.through(scalars).unbind(2)
        return trajectory._replace(
            u=found[0], lap_u=found[1] if laplacian else None, d2u_dt2=found[-1] if d2u_dt2 else None
        )

    def roll(self, z0: Tensor, k: int | Tensor, num_steps: int) -> FlowRollout:
        """The steps alone, by the backend of this flow."""
        return flow_rollout(self.potential, z0, k, num_steps, backend=self.backend, precision=self.precision)

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
