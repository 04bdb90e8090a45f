"""The interface of the methods that FFRL is compared with: sequences in, weighted terms of a loss out."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ffrl.baseline_config import BaselineConfig
from ffrl.config import LossConfig, ModelConfig, Precision
from ffrl.densities import gaussian_log_prob, gaussian_sample, reconstruction_nll
from ffrl.errors import ArgumentError
from ffrl.models.autoencoder import Autoencoder
from ffrl.records import SequenceBatch


class Baseline(Autoencoder):
    """Every frame has a posterior of its own, and p(z) = N(0, I).

    Args:
        config: sizes, those of FFRL's encoder and decoder.
        num_transformations: K.
        num_steps: T.
        loss: the likelihood.
        settings: of the method.
    """

    frames_share_codes: ClassVar[bool] = False
    """Whether what is decoded to a frame depends on the codes of other frames."""

    def __init__(
        self, config: ModelConfig, num_transformations: int, num_steps: int, loss: LossConfig, settings: BaselineConfig
    ) -> None:
        super().__init__(config)
        self.num_transformations, self.num_steps = num_transformations, num_steps
        self.loss, self.settings = loss, settings

    def use_backend(self, backend: str, precision: Precision) -> None:
        """Let the potentials, where there are any, be evaluated by this backend of the potential op."""

    def noise_shape(self, num_steps: int) -> tuple[int, ...]:
        """(T+1, D): of every z_t."""
        return (num_steps + 1, self.config.latent_dim)

    def terms(self, batch: SequenceBatch, noise: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the loss of a batch, each a scalar, the batch mean; always of the same names.

        Args:
            batch: sequences (B, T+1, C, I, I) and their k (B,).
            noise: (B, *noise_shape) standard normal.
        """
        raise NotImplementedError

    def sampled(self, batch: SequenceBatch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """What is decoded to all frames (B, T+1, D), drawn as in training with noise (B, *noise_shape), and
        log p - log q (B, T+1) of what was drawn for each."""
        mu, log_var = self.posteriors(batch)
        z = gaussian_sample(mu, log_var, noise)
        zeros = torch.zeros_like(z)
        return z, gaussian_log_prob(z, zeros, zeros) - gaussian_log_prob(z, mu, log_var)

    def posteriors(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Mean and log variance of every frame, (B, T+1, D) each."""
        self.check_sequences(batch.x)
        mu, log_var = self.encode(batch.x.flatten(0, 1))
        frames = batch.x.shape[:2]
        return mu.unflatten(0, frames), log_var.unflatten(0, frames)

    def elbo_terms(self, x: Tensor, z: Tensor, kl: Tensor, beta: float = 1.0) -> dict[str, Tensor]:
        """Σ_t -log p(x_t | z_t) and β Σ_t KL_t, batch means, of codes z (B, T+1, D) and kl (B, T+1)."""
        reconstruction = reconstruction_nll(self.decode_sequence(z), x, self.loss)
        return {"reconstruction": reconstruction.sum(1).mean(), "kl": beta * kl.sum(1).mean()}


class WithoutOperator(Baseline):
    """A method that learns no way to move a code.

    To ``carry`` a code, the latent dimension of each k moves linearly over t to an end value, both chosen afterwards
    on validation images (``ffrl.traversal_search``): z_t[d_k] = z_0[d_k] + (end_k - z_0[d_k]) t/T. Before that codes
    stay where they are: ∇u = 0.
    """

    dimension: Tensor | None = None  # (K,) int64
    end_value: Tensor | None = None  # (K,)

    def move_along(self, dimension: Tensor, end_value: Tensor) -> None:
        """Let ``carry`` move these dimensions, (K,) int64 in 0..D-1, to these end values (K,)."""
        for name, value in (("dimension", dimension), ("end_value", end_value)):
            if value.shape != (self.num_transformations,):
                raise ArgumentError(name, tuple(value.shape), f"the shape ({self.num_transformations},)")
        device = self.encoder.mu.weight.device
        self.dimension, self.end_value = dimension.to(device), end_value.to(device)

    def carry(self, z0: Tensor, k: int | Tensor, num_steps: int) -> Tensor:
        """z_0..z_T, (B, T+1, D): linear in t along the dimension of k, in T steps to its end value."""
        z = z0[:, None].repeat(1, num_steps + 1, 1)
        if self.dimension is None or self.end_value is None:
            return z
        rows = torch.arange(z0.shape[0], device=z0.device)
        dimension, end = self.dimension[k].expand(len(rows)), self.end_value.to(z0.dtype)[k].expand(len(rows))
        start = z0[rows, dimension]  # (B,)
        share = torch.arange(num_steps + 1, device=z0.device, dtype=z0.dtype) / num_steps
        z[rows, :, dimension] = start[:, None] + (end - start)[:, None] * share
        return z
