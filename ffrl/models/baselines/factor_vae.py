"""FactorVAE: a VAE whose latent dimensions a discriminator cannot tell from independent ones (Kim and Mnih, 2018)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ffrl.baseline_config import BaselineConfig
from ffrl.config import LossConfig, ModelConfig
from ffrl.densities import gaussian_sample, kl_standard_normal
from ffrl.models.baselines.vae import VAE
from ffrl.records import SequenceBatch

LAYERS, SLOPE = 5, 0.2
BETAS = (0.5, 0.9)  # of Adam


class Discriminator(nn.Module):
    """Five LeakyReLU layers and a logit, which in the optimum is log q(z) / Π_d q(z_d), the density ratio."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        widths = [latent_dim, *[width] * LAYERS]
        layers = [(nn.Linear(*pair), nn.LeakyReLU(SLOPE)) for pair in itertools.pairwise(widths)]
        self.body = nn.Sequential(*itertools.chain(*layers), nn.Linear(width, 1))

    def forward(self, z: Tensor) -> Tensor:
        """Codes z (M, D) -> logits (M,)."""
        return self.body(z)[:, 0]


class FactorVAE(VAE):
    """The VAE with γ times the density ratio, and the loss of the discriminator that estimates it.

        loss = Σ_t [-log p(x_t | z_t) + β KL(q(z_t | x_t) || N(0, I)) + γ log q(z_t)/Π_d q(z_t,d)]
        discriminator = -½ mean [log σ(logit(z)) + log σ(-logit(z'))]

    with z' the codes z of all frames of the batch, every dimension permuted among them on its own. Both are terms of
    one sum: in the first the discriminator's parameters are constants, in the second the codes are, so that one
    backward pass gives each parameter the gradient of its own loss alone. Adam takes the discriminator's with its own
    rate and betas, as a group of the one optimizer; that is the same as two, as Adam knows nothing across parameters.
    The published method permutes the codes of a second batch; here they are of the same one, and of several processes
    each permutes those of its own rows. One logit stands for the published two, of which only the difference counts.
    """

    default_gamma = 6.4

    def __init__(
        self, config: ModelConfig, num_transformations: int, num_steps: int, loss: LossConfig, settings: BaselineConfig
    ) -> None:
        super().__init__(config, num_transformations, num_steps, loss, settings)
        self.discriminator = Discriminator(config.latent_dim, settings.discriminator_width)

    def parameter_groups(self) -> list[dict[str, Any]]:
        own = list(self.discriminator.parameters())
        known = {id(parameter) for parameter in own}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in known]
        rate = self.settings.discriminator_rate
        return [{"params": rest}, {"params": own, "fixed_rate": rate, "betas": BETAS}]

    def noise_shape(self, num_steps: int) -> tuple[int, ...]:
        """(T+1, 2, D): of every z_t, and what the permutations go by."""
        return (num_steps + 1, 2, self.config.latent_dim)

    def sampled(self, batch: SequenceBatch, noise: Tensor) -> tuple[Tensor, Tensor]:
        return super().sampled(batch, noise[:, :, 0])

    def density_ratio(self, z: Tensor) -> Tensor:
        """The discriminator's log q(z)/Π_d q(z_d) (M,) of codes z (M, D), its parameters being constants."""
        constants = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, constants, (z,))

    def discriminator_loss(self, z: Tensor, permutations: Tensor) -> Tensor:
        """Half the cross-entropies of telling codes z (M, D), as constants, from those with permuted dimensions."""
        z = z.detach()
        true, permuted = self.discriminator(torch.cat([z, z.gather(0, permutations)])).split(len(z))
        return 0.5 * (F.softplus(-true).mean() + F.softplus(permuted).mean())

    def terms(self, batch: SequenceBatch, noise: Tensor) -> dict[str, Tensor]:
        mu, log_var = self.posteriors(batch)
        z = gaussian_sample(mu, log_var, noise[:, :, 0])  # (B, T+1, D)
        rows = z.flatten(0, 1)  # (M, D), M = B (T+1)
        permutations = noise[:, :, 1].flatten(0, 1).argsort(0)  # (M, D)
        ratio = self.density_ratio(rows).view(z.shape[:2])
        return {
            **self.elbo_terms(batch.x, z, kl_standard_normal(mu, log_var), self.beta),
            "density_ratio": self.gamma * ratio.sum(1).mean(),
            "discriminator": self.discriminator_loss(rows, permutations),
        }
