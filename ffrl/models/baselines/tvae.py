"""Topographic VAE: codes whose transformations are rolls of capsules (Keller and Welling, 2021)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ffrl.baseline_config import BaselineConfig
from ffrl.config import LossConfig, ModelConfig
from ffrl.densities import gaussian_log_prob, gaussian_sample, kl_standard_normal
from ffrl.models.baselines.baseline import Baseline
from ffrl.models.encoder import Encoder
from ffrl.records import SequenceBatch

EPSILON = 1e-6


class TVAE(Baseline):
    """T = (z + μ) / sqrt(W u² + ε) from two Gaussian encoders, a Student-t variable with the topography of W.

        loss = Σ_t [-log p(x_t | T_t) + KL(q(z_t | x_t) || N(0, I)) + KL(q(u_t | x_t) || N(0, I))]
        (W u²)_t = (2L+1)/n_t Σ_{|s| <= L, 0 <= t+s <= T} Σ_{|j| <= J} Roll_{j-s} u²_{t+s}

    with n_t the number of summands s and μ one learned number. The code is C capsules of D // C variables each; what is
    left over has no neighbours and is never rolled.

    The method is published for cyclic sequences of one transformation at a time. Adaptations to T+1 states that are no
    cycle, and to K transformations:

    - the window over time ends at x_0 and x_T, and the factor (2L+1)/n_t makes up for what is beyond, so that of a
      sequence of rolled codes every T_t, the first and last too, is the roll of T_0;
    - the code that is carried is that of x_0 alone, the window being one frame, n_0 = 1, without noise: z and u² are
      their posterior means;
    - capsule c belongs to transformation c mod K: k rolls its own capsules and leaves the others alone, as one roll
      for all could not know which k is meant;
    - a capsule is still a ring, on which T+1 states are distinct if it has at least T+1 places. The default number of
      capsules is the largest multiple of K that leaves as many, and at least K: with a small D they are shorter,
      and states recur.
    """

    frames_share_codes = True

    def __init__(
        self, config: ModelConfig, num_transformations: int, num_steps: int, loss: LossConfig, settings: BaselineConfig
    ) -> None:
        super().__init__(config, num_transformations, num_steps, loss, settings)
        self.energy_encoder = Encoder(dataclasses.replace(config, initial_log_var=None))  # of u
        self.mu = nn.Parameter(torch.tensor(float(settings.initial_mu)))
        default = num_transformations * max(1, config.latent_dim // (num_transformations * (num_steps + 1)))
        self.capsules = settings.capsules or default
        self.capsule_dim = config.latent_dim // self.capsules

    def networks(self) -> list[nn.Module]:
        return [*super().networks(), self.energy_encoder]

    def noise_shape(self, num_steps: int) -> tuple[int, ...]:
        """(T+1, 2, D): of every z_t and u_t."""
        return (num_steps + 1, 2, self.config.latent_dim)

    def encode_energy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (M, D) of q(u | x) of images x (M, C, I, I)."""
        return self.posterior(self.energy_encoder, x)

    def capsule_grid(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """The capsules (B, C, D // C) of a code (B, D), and what is left over."""
        part = self.capsules * self.capsule_dim
        return code[:, :part].unflatten(1, (self.capsules, self.capsule_dim)), code[:, part:]

    def roll(self, code: Tensor, k: int | Tensor, steps: int) -> Tensor:
        """A code (B, D) with the capsules of k, int or (B,), rolled by ``steps`` places."""
        grid, rest = self.capsule_grid(code)
        owner = torch.arange(self.capsules, device=code.device) % self.num_transformations  # (C,)
        kinds = torch.as_tensor(k, device=code.device).expand(code.shape[0])
        mine = (owner == kinds[:, None])[..., None]  # (B, C, 1)
        grid = torch.where(mine, grid.roll(steps, dims=2), grid)
        return torch.cat([grid.flatten(1), rest], dim=1)

    def smoothed(self, energy: Tensor) -> Tensor:
        """Σ_{|j| <= J} Roll_j of u² (B, D) in every capsule, each j modulo its length once."""
        grid, rest = self.capsule_grid(energy)
        window = self.settings.capsule_window
        places = {j % self.capsule_dim for j in range(-window, window + 1)}
        summed = torch.stack([grid.roll(j, dims=2) for j in sorted(places)]).sum(0)
        return torch.cat([summed.flatten(1), rest], dim=1)

    def topographic(self, z: Tensor, squares: Tensor, k: int | Tensor) -> Tensor:
        """T_0..T_T of z and u² (B, S, D), the frames of a sequence or part of one: (B, S, D)."""
        window, length = self.settings.time_window, squares.shape[1]
        energy = [self.smoothed(one) for one in squares.unbind(1)]
        denominators = []
        for t in range(length):
            seen = range(max(0, t - window), min(length, t + window + 1))
            total = torch.stack([self.roll(energy[s], k, t - s) for s in seen]).sum(0)
            denominators.append((2 * window + 1) / len(seen) * total)
        return (z + self.mu) / torch.sqrt(torch.stack(denominators, dim=1) + EPSILON)

    def code(self, x: Tensor) -> Tensor:
        """T (M, D) of images x (M, C, I, I), each alone, at the posterior means of z and of u², mu² + σ².

        Not at that of u: where q(u | x) is near N(0, I), its square is near 0, and T far from all that is decoded in
        training.
        """
        mu_u, log_var_u = self.encode_energy(x)
        squares = mu_u.square() + log_var_u.exp()
        return self.topographic(self.encode(x)[0][:, None], squares[:, None], 0)[:, 0]

    def carry(self, z0: Tensor, k: int | Tensor, num_steps: int) -> Tensor:
        """Roll_t of codes z0 (B, D), t = 0..T, (B, T+1, D)."""
        return torch.stack([self.roll(z0, k, t) for t in range(num_steps + 1)], dim=1)

    def drawn(self, batch: SequenceBatch, noise: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Sample, mean and log variance (B, T+1, D) of z, and of u."""
        parts = [self.posteriors(batch)]
        mu, log_var = self.encode_energy(batch.x.flatten(0, 1))
        parts.append((mu.view_as(parts[0][0]), log_var.view_as(parts[0][1])))
        return [(gaussian_sample(m, v, noise[:, :, i]), m, v) for i, (m, v) in enumerate(parts)]

    def sampled(self, batch: SequenceBatch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """T_0..T_T (B, T+1, D) with noise (B, T+1, 2, D), and log p - log q (B, T+1) of z and u."""
        (z, *of_z), (u, *of_u) = self.drawn(batch, noise)
        zeros = torch.zeros_like(z)
        log_p = gaussian_log_prob(z, zeros, zeros) + gaussian_log_prob(u, zeros, zeros)
        log_q = gaussian_log_prob(z, *of_z) + gaussian_log_prob(u, *of_u)
        return self.topographic(z, u.square(), batch.k), log_p - log_q

    def terms(self, batch: SequenceBatch, noise: Tensor) -> dict[str, Tensor]:
        (z, *of_z), (u, *of_u) = self.drawn(batch, noise)
        kl = kl_standard_normal(*of_z) + kl_standard_normal(*of_u)
        return self.elbo_terms(batch.x, self.topographic(z, u.square(), batch.k), kl)
