"""Priors p_t(z) of the latent code at every time t = 0..T, behind one interface."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ffrl.config import ModelConfig
from ffrl.errors import ArgumentError

Posterior = Callable[[Tensor], tuple[Tensor, Tensor]]  # images (M, C, I, I) -> mu (M, D), log_var (M, D)


class Prior(nn.Module):
    """A density p_t(z) for every transformation k.

    ``diffusivity``, (K,), is the rate at which the variance grows, half of d/dt of it: zero for a prior that does not
    change with t.
    """

    diffusivity: Tensor
    standard_normal_at_0: ClassVar[bool] = False
    """Whether p_0 = N(0, I), so that KL(q(z_0|x_0) || p_0) has a closed form."""

    def log_prob(self, z: Tensor, t: Tensor, k: int | Tensor, encoder: Posterior | None = None) -> Tensor:
        """log p_t(z) in nats, z (..., D) with t and k broadcastable to (...); ``encoder`` only "vamp" looks at."""
        raise NotImplementedError

    def project_(self) -> None:
        """Put constrained parameters back into their range; must follow every optimizer step."""


class DiffusionPrior(Prior):
    """p_t(z) = N(0, (1 + 2 D_k t) I): the solution of ∂p/∂t = D_k Δp from N(0, I) (FFRL eq. 3).

    The diffusivities D_k >= 0 are trained, one per transformation, and start at 0. ``project_`` must follow every
    optimizer step: it moves a negative D_k back to 0, where the gradient of ``clamp`` still passes.
    """

    standard_normal_at_0 = True

    def __init__(self, num_potentials: int) -> None:
        super().__init__()
        self.diffusivity = nn.Parameter(torch.zeros(num_potentials))

    @torch.no_grad()
    def project_(self) -> None:
        self.diffusivity.clamp_(min=0)

    def variance(self, t: Tensor, k: int | Tensor) -> Tensor:
        """1 + 2 D_k t, broadcast over t and k."""
        return 1 + 2 * self.diffusivity.clamp(min=0)[k] * t

    def log_prob(self, z: Tensor, t: Tensor, k: int | Tensor, encoder: Posterior | None = None) -> Tensor:
        """log p_t(z) in nats, z (..., D) with t and k broadcastable to (...)."""
        variance = self.variance(t, k)
        latent_dim = z.shape[-1]
        return -0.5 * (z.square().sum(-1) / variance + latent_dim * torch.log(2 * math.pi * variance))


class StationaryPrior(Prior):
    """p_t(z) = p(z) for every t and every k: z is (..., D), log_prob (...), broadcast over t and k.

    The paper's ablation puts these in the place of the diffusing density and says no more. A density that stands still
    is taken here: none of them comes with a rate at which it would diffuse.
    """

    def __init__(self, num_potentials: int) -> None:
        super().__init__()
        self.register_buffer("diffusivity", torch.zeros(num_potentials), persistent=False)

    def log_density(self, z: Tensor, encoder: Posterior | None) -> Tensor:
        """log p(z), (...), of z (..., D)."""
        raise NotImplementedError

    def log_prob(self, z: Tensor, t: Tensor, k: int | Tensor, encoder: Posterior | None = None) -> Tensor:
        """log p(z) in nats, z (..., D), with (...) broadcast against t and k."""
        log_p = self.log_density(z, encoder)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, t.shape, k.shape if isinstance(k, Tensor) else ()))


class StandardNormalPrior(StationaryPrior):
    """p_t(z) = N(0, I). No parameters."""

    standard_normal_at_0 = True

    def log_density(self, z: Tensor, encoder: Posterior | None) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


class MixturePrior(StationaryPrior):
    """p_t(z) = Σ_m w_m N(z; mu_m, diag exp log_var_m), with w = softmax(logits) and everything learned.

    At the start the weights are equal and the means are drawn so that the mixture has, on average over the draws, the
    mean and covariance of N(0, I): means N(0, ¼ I), variances ¾.
    """

    def __init__(self, num_potentials: int, latent_dim: int, num_components: int) -> None:
        super().__init__(num_potentials)
        self.means = nn.Parameter(0.5 * torch.randn(num_components, latent_dim))
        self.log_vars = nn.Parameter(torch.full((num_components, latent_dim), math.log(0.75)))
        self.logits = nn.Parameter(torch.zeros(num_components))

    def log_density(self, z: Tensor, encoder: Posterior | None) -> Tensor:
        return mixture_log_prob(z, self.means, self.log_vars, torch.log_softmax(self.logits, 0))


class VampPrior(StationaryPrior):
    """p_t(z) = 1/M Σ_m q(z | x̂_m): the aggregate posterior of M learned images (Tomczak & Welling, 2018).

    Gradients reach the pseudo-inputs x̂ (M, C, I, I) and, through q, the encoder. ``project_`` keeps them in [0, 1], as
    images are. They start as noise, each of a brightness of its own: to an encoder, noise of one brightness all looks
    the same, and components that are the same stay so.
    """

    def __init__(self, num_potentials: int, num_inputs: int, image: tuple[int, int, int]) -> None:
        super().__init__(num_potentials)
        self.pseudo_inputs = nn.Parameter(torch.rand(num_inputs, 1, 1, 1) * torch.rand(num_inputs, *image))

    @torch.no_grad()
    def project_(self) -> None:
        self.pseudo_inputs.clamp_(0, 1)

    def log_density(self, z: Tensor, encoder: Posterior | None) -> Tensor:
        if encoder is None:
            raise ArgumentError("encoder", None, "the posterior network; the prior 'vamp' is a mixture of posteriors")
        mu, log_var = encoder(self.pseudo_inputs)
        log_weights = torch.full_like(mu[:, 0], -math.log(mu.shape[0]))
        return mixture_log_prob(z, mu, log_var, log_weights)


def mixture_log_prob(z: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor) -> Tensor:
    """log Σ_m exp(log_weights_m) N(z; means_m, diag exp log_vars_m), (...): z (..., D), means (M, D), weights (M,)."""
    squares = (z[..., None, :] - means).square() * torch.exp(-log_vars)  # (..., M, D)
    log_probs = -0.5 * (squares + log_vars + math.log(2 * math.pi)).sum(-1)
    return torch.logsumexp(log_weights + log_probs, dim=-1)


def build_prior(config: ModelConfig, num_potentials: int) -> Prior:
    """The prior that a configuration names."""
    if config.prior == "standard_normal":
        return StandardNormalPrior(num_potentials)
    if config.prior == "mixture":
        return MixturePrior(num_potentials, config.latent_dim, config.prior_components)
    if config.prior == "vamp":
        image = (config.image_channels, config.image_size, config.image_size)
        return VampPrior(num_potentials, config.pseudo_inputs, image)
    return DiffusionPrior(num_potentials)
