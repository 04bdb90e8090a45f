"""VAE and beta-VAE on the transformed frames."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ffrl.densities import gaussian_sample, kl_standard_normal
from ffrl.models.baselines.baseline import WithoutOperator
from ffrl.records import SequenceBatch


class VAE(WithoutOperator):
    """loss = Σ_t -log p(x_t | z_t) + β Σ_t KL(q(z_t | x_t) || N(0, I)), β = 1 (Kingma and Welling, 2014)."""

    default_beta: ClassVar[float] = 1.0
    default_gamma: ClassVar[float] = 0.0  # of a term that a subclass adds

    @property
    def beta(self) -> float:
        return self.default_beta if self.settings.beta is None else self.settings.beta

    @property
    def gamma(self) -> float:
        return self.default_gamma if self.settings.gamma is None else self.settings.gamma

    def terms(self, batch: SequenceBatch, noise: Tensor) -> dict[str, Tensor]:
        mu, log_var = self.posteriors(batch)
        z = gaussian_sample(mu, log_var, noise)
        return self.elbo_terms(batch.x, z, kl_standard_normal(mu, log_var), self.beta)


class BetaVAE(VAE):
    """The VAE with β > 1, 4 by default (Higgins et al., 2017)."""

    default_beta = 4.0
