"""The sequence VAE: one posterior for the first frame, one flow per transformation, one decoder for all frames."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ffrl.config import ModelConfig, PDEName, Precision, TrainConfig
from ffrl.errors import ArgumentError
from ffrl.models.choice import Choice
from ffrl.models.decoder import Decoder
from ffrl.models.encoder import Encoder
from ffrl.models.flow import LatentFlow, step_rows
from ffrl.models.pde import build_pde
from ffrl.models.potential import PotentialMLP
from ffrl.models.prior import build_prior
from ffrl.models.transformation import TransformationEncoder
from ffrl.ops import potential_derivatives
from ffrl.records import FlowTrajectory


class SequenceOutputs(NamedTuple):
    """Everything the losses need of one batch."""

    mu: Tensor  # (B, D)
    log_var: Tensor  # (B, D)
    trajectory: FlowTrajectory
    force: Tensor | None  # (B, T)  f = -MLP(z_{t-1}, t)² <= 0, where the equation has one
    initial_velocity: Tensor  # (B, D) ∇u(z_0, 0)
    logits: Tensor  # (B, T+1, C, I, I)


class SequenceVAE(nn.Module):
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
        super().__init__()
        self.config = config
        self.vae_dtype: torch.dtype | None = None  # of the products outside the potentials; None: that of the weights
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
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

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The region in which encoder, decoder and q(k | x) compute in ``vae_dtype``."""
        if self.vae_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.prior.diffusivity.device.type, dtype=self.vae_dtype)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (M, D) of q(z | x) of images x (M, C, I, I), in the dtype of x."""
        with self.autocast():
            mu, log_var = self.encoder(x)
        return mu.to(x.dtype), log_var.to(x.dtype)

    def decode_sequence(self, z: Tensor) -> Tensor:
        """Logits of all frames (B, T+1, C, I, I) from z (B, T+1, D), in one decoder call and in the dtype of z."""
        with self.autocast():
            logits = self.decoder.logits(z.flatten(0, 1))
        return logits.to(z.dtype).unflatten(0, z.shape[:2])

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
    ) -> SequenceOutputs:
        """One pass over a batch of sequences.

        Args:
            x: (B, T+1, C, I, I) in [0, 1]; only the first frame is encoded.
            k: (B,) int64, or a choice, whose weights then get the straight-through gradient.
            noise: (B, D) standard normal for z_0 = mu + sigma·noise; drawn from torch's generator when None.
            laplacian: compute Δu along the trajectory, the one part that is cubic in the width, even if the equation
                does not need it.
            num_probes: estimate Δu from as many random signs instead, drawn from torch's generator after the noise.
        """
        size = (self.config.image_channels, self.config.image_size, self.config.image_size)
        if x.dim() != 5 or x.shape[1] < 2 or tuple(x.shape[2:]) != size:
            raise ArgumentError("x.shape", tuple(x.shape), f"(B, T+1, {', '.join(map(str, size))}) with T >= 1")
        dtype, device = self.prior.diffusivity.dtype, self.prior.diffusivity.device
        if x.dtype != dtype:
            raise ArgumentError("x.dtype", x.dtype, f"the dtype of the model, {dtype}")
        if x.device != device:
            raise ArgumentError("x.device", x.device, f"the device of the model, {device}")
        choice = k if isinstance(k, Choice) else Choice(k)
        if not isinstance(choice.k, Tensor):
            raise ArgumentError("k", repr(k), f"an int64 tensor ({x.shape[0]},)")
        num_steps = x.shape[1] - 1
        mu, log_var = self.encode(x[:, 0])
        if noise is not None and noise.shape != mu.shape:
            raise ArgumentError("noise.shape", tuple(noise.shape), str(tuple(mu.shape)))
        z0 = mu + torch.exp(0.5 * log_var) * (torch.randn_like(mu) if noise is None else noise)
        trajectory = self.trajectory(z0, choice, num_steps, laplacian=laplacian, num_probes=num_probes)
        z = trajectory.z
        force = choice.through(lambda one: self.force_along(z, one)) if self.pde.needs_force else None
        initial_velocity = choice.through(lambda one: self.initial_velocity(z0, one))
        return SequenceOutputs(mu, log_var, trajectory, force, initial_velocity, self.decode_sequence(z))

    def project_(self) -> None:
        """Put constrained parameters back into their range; call after every optimizer step."""
        self.prior.project_()


def build_model(config: TrainConfig) -> SequenceVAE:
    """The model of a configuration, on the CPU, from torch's random number generator."""
    return SequenceVAE(
        config.model,
        len(config.sequence.transformations),
        config.backend,
        config.precision,
        config.loss.pde,
        recognized_frames=None if config.supervision.mode == "supervised" else config.sequence.num_steps + 1,
    )
