"""SlowVAE: codes that mostly stay where they are from frame to frame (Klindt et al., 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ffrl.densities import gaussian_sample, kl_standard_normal
from ffrl.models.baselines.vae import VAE
from ffrl.records import SequenceBatch


def laplace_cross_entropy(mu: Tensor, log_var: Tensor, centre: Tensor, rate: float) -> Tensor:
    """-E log Laplace(z; centre, rate) under z ~ N(mu, exp log_var), elementwise.

    It is -log(rate/2) + rate E|z - centre|, and for d = mu - centre
    E|z - centre| = σ sqrt(2/π) exp(-d²/2σ²) + d erf(d / (σ sqrt 2)).
    """
    sigma, d = torch.exp(0.5 * log_var), mu - centre
    ratio = d / (math.sqrt(2) * sigma)
    distance = math.sqrt(2 / math.pi) * sigma * torch.exp(-ratio.square()) + d * torch.erf(ratio)
    return rate * distance - math.log(rate / 2)


def gaussian_entropy(log_var: Tensor) -> Tensor:
    """Entropy of N(·, exp log_var), elementwise."""
    return 0.5 * (log_var + math.log(2 * math.pi) + 1)


class SlowVAE(VAE):
    """The VAE with a transition between the frames of every pair (x_{t-1}, x_t) of one sequence.

        loss = Σ_t [-log p(x_t | z_t) + β KL(q(z_t | x_t) || N(0, I))]
             + γ Σ_{t=1..T} ½ [KL(q(z_t | x_t) || Laplace(z_{t-1}, λ)) + KL(q(z_{t-1} | x_{t-1}) || Laplace(z_t, λ))]

    with KL = cross-entropy - entropy in closed form, the centres z drawn, λ = 6, γ = 10 and β = 1. The method is
    published for pairs. Readings for T+1 frames: each frame is reconstructed once, its neighbours make T pairs, and the
    two directions of a pair are averaged, so that there is about one transition to each frame.
    """

    default_gamma = 10.0

    def transition_kl(self, mu: Tensor, log_var: Tensor, centre: Tensor) -> Tensor:
        """KL(N(mu, diag exp log_var) || Laplace(centre, λ)) summed over the last dimension."""
        cross_entropy = laplace_cross_entropy(mu, log_var, centre, self.settings.rate)
        return (cross_entropy - gaussian_entropy(log_var)).sum(-1)

    def terms(self, batch: SequenceBatch, noise: Tensor) -> dict[str, Tensor]:
        mu, log_var = self.posteriors(batch)
        z = gaussian_sample(mu, log_var, noise)  # (B, T+1, D)
        forward = self.transition_kl(mu[:, 1:], log_var[:, 1:], z[:, :-1])  # (B, T)
        backward = self.transition_kl(mu[:, :-1], log_var[:, :-1], z[:, 1:])
        return {
            **self.elbo_terms(batch.x, z, kl_standard_normal(mu, log_var), self.beta),
            "transition": self.gamma * 0.5 * (forward + backward).sum(1).mean(),
        }
