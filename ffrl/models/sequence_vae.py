"""The sequence VAE: one posterior for the first frame, one flow per transformation, one decoder for all frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ffrl.config import ModelConfig, PDEName, Precision
from ffrl.densities import gaussian_sample
from ffrl.errors import ArgumentError
from ffrl.models.autoencoder import Autoencoder
from ffrl.models.choice import Choice
from ffrl.models.flow import LatentFlow, step_rows
from ffrl.models.pde import build_pde
from ffrl.models.potential import PotentialMLP
from ffrl.models.prior import build_prior
from ffrl.models.transformation import TransformationEncoder
from ffrl.ops import potential_derivatives
from ffrl.records import ChosenFrames, FlowTrajectory


class SequenceOutputs(NamedTuple):
    """Everything the losses need of one batch."""

    mu: Tensor  # (B, D)
    log_var: Tensor  # (B, D)
    trajectory: FlowTrajectory
    force: Tensor | None  # (B, T)  f = -MLP(z_{t-1}, t)² <= 0, where the equation has one
    initial_velocity: Tensor  # (B, D) ∇u(z_0, 0)
    logits: Tensor  # (B, T+1, C, I, I), or (B, M, C, I, I) of M frames that are chosen


class SequenceVAE(Autoencoder):
    """Encoder, decoder, K potentials and the equation asked of them, and a prior (FFRL, section 3).

    Only where the equation has a force there is a network ``force``; only with ``recognized_frames``, T+1, is there
    one of q(k | x_0..x_T), ``transformation``.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_potentials: int,
        backend: str = "auto",
        precision: Precision = "tf32x3",
        pde: PDEName = "hj_force",
        *,
        recognized_frames: int | None = None,
    ) -> None:
        super().__init__(config)
        sizes = (config.latent_dim, config.potential_widths, num_potentials)
        self.flow = LatentFlow(PotentialMLP(*sizes, config.output_activation, config.time_dim), backend, precision)
        self.pde = build_pde(pde, num_potentials)
        if self.pde.needs_force:
            self.force = PotentialMLP(*sizes, config.output_activation, config.time_dim)
        self.prior = build_prior(config, num_potentials)
        self.transformation = (
            None if recognized_frames is None else TransformationEncoder(config, num_potentials, recognized_frames)
        )

    @property
    def potential(self) -> PotentialMLP:
        return self.flow.potential

    @property
    def num_potentials(self) -> int:
        return self.potential.num_potentials

    def networks(self) -> list[nn.Module]:
        return [*super().networks(), *([] if self.transformation is None else [self.transformation])]

    def noise_shape(self, num_steps: int) -> tuple[int, ...]:
        """(D,): of z_0 alone."""
        return (self.config.latent_dim,)

    def logged(self) -> dict[str, list[float]]:
        return {"diffusivity": self.prior.diffusivity.detach().tolist()}

    def carry(self, z0: Tensor, k: int | Tensor, num_steps: int) -> Tensor:
        """z_t = z_{t-1} + ∇u^k(z_{t-1}, t), (B, T+1, D)."""
        return self.flow.roll(z0, k, num_steps).z

    def flow_errors(self, z: Tensor, k: Tensor) -> dict[str, Tensor]:
        """Mean squared residual of the equation over the steps, and |∇u(z_0, 0)|²."""
        along = self.flow.derivatives_along(z, k, laplacian=self.pde.needs_laplacian, d2u_dt2=self.pde.needs_d2u_dt2)
        return {
            "hj_residual": self.pde_residual(along, k).square().mean(1),
            "initial_condition": self.initial_velocity(z[:, 0], k).square().sum(-1),
        }

    def force_along(self, z: Tensor, k: int | Tensor) -> Tensor:
        """f = -MLP(z_{t-1}, t)² <= 0 of every step of states z (B, T+1, D), (B, T): FFRL eq. 6.

        The MLP is the u of the potential op, which takes the rows of all k in one call; of its derivatives only those
        that are quadratic in the width are computed along with it.
        """
        rows, time, k_rows = step_rows(z, k)
        flow = self.flow
        out = potential_derivatives(
            self.force, rows, time, k_rows, laplacian=None, backend=flow.backend, precision=flow.precision
        )
        return -out.u.square().view(z.shape[0], z.shape[1] - 1)

    def trajectory(
        self,
        z0: Tensor,
        k: int | Tensor | Choice,
        num_steps: int,
        *,
        laplacian: bool = False,
        num_probes: int | None = None,
    ) -> FlowTrajectory:
        """Trajectory of z0 (B, D) with what the equation needs, and with the Laplacian if asked for."""
        laplacian, second = laplacian or self.pde.needs_laplacian, self.pde.needs_d2u_dt2
        if isinstance(k, Choice):
            return self.flow.through(z0, k, num_steps, laplacian=laplacian, d2u_dt2=second, num_probes=num_probes)
        return self.flow(z0, k, num_steps, laplacian=laplacian, d2u_dt2=second, num_probes=num_probes)

    def pde_residual(self, trajectory: FlowTrajectory, k: int | Tensor) -> Tensor:
        """Residual of the equation at every step of a trajectory with what it needs, (B, T)."""
        force = self.force_along(trajectory.z, k) if self.pde.needs_force else None
        return self.pde.residual(trajectory, force, k)

    def initial_velocity(self, z0: Tensor, k: int | Tensor) -> Tensor:
        """∇u(z_0, 0), (B, D), which the initial condition asks to vanish."""
        flow = self.flow
        return potential_derivatives(
            flow.potential, z0, 0.0, k, laplacian=None, backend=flow.backend, precision=flow.precision
        ).du_dz

    def forward(
        self,
        x: Tensor,
        k: Tensor | Choice,
        noise: Tensor | None = None,
        *,
        laplacian: bool = True,
        num_probes: int | None = None,
        frames: ChosenFrames | None = None,
    ) -> SequenceOutputs:
        """One pass over a batch of sequences.

        Args:
            x: (B, T+1, C, I, I) in [0, 1]; only the first frame is encoded.
            k: (B,) int64, or a choice, whose weights then get the straight-through gradient.
            noise: (B, D) standard normal for z_0 = mu + sigma·noise; drawn from torch's generator when None.
            laplacian: compute Δu along the trajectory, the one part that is cubic in the width, even if the equation
                does not need it.
            frames: where x is (B, 1+M, C, I, I), x_0 and then some frames, which they are: the flow takes all T steps,
                and the states of these frames alone are decoded.
            num_probes: estimate Δu from as many random signs instead, drawn from torch's generator after the noise.
        """
        self.check_sequences(x)
        choice = k if isinstance(k, Choice) else Choice(k)
        if not isinstance(choice.k, Tensor):
            raise ArgumentError("k", repr(k), f"an int64 tensor ({x.shape[0]},)")
        num_steps = x.shape[1] - 1 if frames is None else frames.num_steps
        if frames is not None and frames.times.shape != (x.shape[0], x.shape[1] - 1):
            raise ArgumentError("frames.times", tuple(frames.times.shape), f"{(x.shape[0], x.shape[1] - 1)}, as x has")
        mu, log_var = self.encode(x[:, 0])
        if noise is not None and noise.shape != mu.shape:
            raise ArgumentError("noise.shape", tuple(noise.shape), str(tuple(mu.shape)))
        z0 = gaussian_sample(mu, log_var, torch.randn_like(mu) if noise is None else noise)
        trajectory = self.trajectory(z0, choice, num_steps, laplacian=laplacian, num_probes=num_probes)
        z = trajectory.z
        force = choice.through(lambda one: self.force_along(z, one)) if self.pde.needs_force else None
        initial_velocity = choice.through(lambda one: self.initial_velocity(z0, one))
        shown = z if frames is None else z.gather(1, frames.times[:, :, None].expand(-1, -1, z.shape[2]))
        return SequenceOutputs(mu, log_var, trajectory, force, initial_velocity, self.decode_sequence(shown))

    def project_(self) -> None:
        """Put constrained parameters back into their range; call after every optimizer step."""
        self.prior.project_()
