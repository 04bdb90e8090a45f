"""Prior of the latent code at every time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class DiffusionPrior(nn.Module):
    """p_t(z) = N(0, (1 + 2 D_k t) I): the solution of ∂p/∂t = D_k Δp from N(0, I) (FFRL eq. 3).

    The diffusivities D_k >= 0 are trained, one per transformation, and start at 0. ``project_`` must follow every
    optimizer step: it moves a negative D_k back to 0, where the gradient of ``clamp`` still passes.
    """

    def __init__(self, num_potentials: int) -> None:
        super().__init__()
        self.diffusivity = nn.Parameter(torch.zeros(num_potentials))

    @torch.no_grad()
    def project_(self) -> None:
        self.diffusivity.clamp_(min=0)

    def variance(self, t: Tensor, k: int | Tensor) -> Tensor:
        """1 + 2 D_k t, broadcast over t and k."""
        return 1 + 2 * self.diffusivity.clamp(min=0)[k] * t

    def log_prob(self, z: Tensor, t: Tensor, k: int | Tensor) -> Tensor:
        """log p_t(z) in nats, z (..., D) with t and k broadcastable to (...)."""
        variance = self.variance(t, k)
        latent_dim = z.shape[-1]
        return -0.5 * (z.square().sum(-1) / variance + latent_dim * torch.log(2 * math.pi * variance))
