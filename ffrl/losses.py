"""The objective of the sequence VAE, per sample and per term. All values are nats per image (FFRL eq. 4 to 7)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.config import LossConfig
from ffrl.densities import gaussian_log_prob, kl_standard_normal, reconstruction_nll
from ffrl.models import SequenceOutputs, SequenceVAE
from ffrl.models.choice import Choice
from ffrl.models.flow import log_det_trace
from ffrl.records import ChosenFrames, SequenceBatch


class SequenceLosses(NamedTuple):
    """Per-sample terms of the loss of one batch."""

    reconstruction: Tensor  # (B, T+1) -log p(x_t | z_t), summed over pixels; of M chosen frames (B, M), (T+1)/M times
    kl_0: Tensor  # (B,)     KL(q(z_0 | x_0) || p_0), closed form or one sample
    kl_t: Tensor  # (B, T)   log q(z_t) - log p_t(z_t) at the posterior's z_t, one sample
    hj_residual: Tensor  # (B, T)   of the model's equation; ∂u/∂t + ½|∇u|² - f by default
    initial_condition: Tensor  # (B,)     |∇u(z_0, 0)|²

    def terms(self, config: LossConfig) -> dict[str, Tensor]:
        """The weighted terms whose sum is the loss, each a scalar: the batch mean."""
        hj = self.hj_residual.square().mean(1) + self.initial_condition
        return {
            "reconstruction": self.reconstruction.sum(1).mean(),
            "kl_0": self.kl_0.mean(),
            "kl_t": config.kl_weight * self.kl_t.sum(1).mean(),
            "hj": config.hj_weight * hj.mean(),
        }


def log_q_sequence(z0: Tensor, mu: Tensor, log_var: Tensor, log_det: Tensor) -> Tensor:
    """log q(z_t), (B, T+1), by change of variables from q(z_0) and log_det (B, T): FFRL eq. 9."""
    log_q0 = gaussian_log_prob(z0, mu, log_var)[:, None]  # (B, 1)
    return torch.cat([log_q0, log_q0 - log_det.cumsum(1)], dim=1)


def log_p_sequence(model: SequenceVAE, z: Tensor, k: Tensor) -> Tensor:
    """log p_t(z_t), (B, T+1), under the model's prior, of states z (B, T+1, D)."""
    times = torch.arange(z.shape[1], dtype=z.dtype, device=z.device)
    return model.prior.log_prob(z, times, k[:, None], model.encode)


def kl_0(model: SequenceVAE, mu: Tensor, log_var: Tensor, log_ratio: Tensor) -> Tensor:
    """KL(q(z_0 | x_0) || p_0), (B,): closed form where p_0 is N(0, I), else ``log_ratio`` (B,), which is one sample of
    it: log q(z_0) - log p_0(z_0) at the posterior's z_0."""
    return kl_standard_normal(mu, log_var) if model.prior.standard_normal_at_0 else log_ratio


def step_log_det(model: SequenceVAE, outputs: SequenceOutputs, k: Tensor | Choice, config: LossConfig) -> Tensor:
    """log|det| of every step, (B, T), in the form that the configuration names."""
    if config.log_det == "exact":
        choice = k if isinstance(k, Choice) else Choice(k)
        return choice.through(lambda one: model.flow.log_det_exact(outputs.trajectory.z, one))
    lap_u = outputs.trajectory.lap_u
    assert lap_u is not None, "the trace forms need the Laplacian of the trajectory"
    return log_det_trace(lap_u, config.log_det_floor)


def sequence_losses(
    model: SequenceVAE,
    batch: SequenceBatch,
    config: LossConfig,
    noise: Tensor | None = None,
    choice: Choice | None = None,
    frames: ChosenFrames | None = None,
) -> SequenceLosses:
    """Evaluate every term of the objective on a batch.

    Args:
        model: a SequenceVAE.
        batch: sequences (B, T+1, C, I, I) and their k (B,); of ``frames``, if given, x_0 and these (B, 1+M, C, I, I).
        config: likelihood and weights.
        noise: (B, D) as in ``SequenceVAE.forward``.
        choice: of k in place of that of the batch, its weights with a straight-through gradient in every term.
        frames: those of the batch; the reconstruction of them all is then estimated from these.
    """
    choice = Choice(batch.k) if choice is None else choice
    num_probes = config.num_probes if config.log_det == "hutchinson" else None
    laplacian = config.log_det != "exact"
    outputs = model(batch.x, choice, noise, laplacian=laplacian, num_probes=num_probes, frames=frames)
    z = outputs.trajectory.z
    log_q = log_q_sequence(z[:, 0], outputs.mu, outputs.log_var, step_log_det(model, outputs, choice, config))
    log_p = choice.through(lambda k: log_p_sequence(model, z, rows_of(k, z)))
    if frames is None:
        reconstruction = reconstruction_nll(outputs.logits, batch.x, config)
    else:
        share = frames.times.shape[1] / (frames.num_steps + 1)
        reconstruction = reconstruction_nll(outputs.logits, batch.x[:, 1:], config) / share
    return SequenceLosses(
        reconstruction=reconstruction,
        kl_0=kl_0(model, outputs.mu, outputs.log_var, (log_q - log_p)[:, 0]),
        kl_t=(log_q - log_p)[:, 1:],
        hj_residual=model.pde.residual(outputs.trajectory, outputs.force, choice),
        initial_condition=outputs.initial_velocity.square().sum(-1),
    )


def rows_of(k: int | Tensor, z: Tensor) -> Tensor:
    """k as (B,) int64 for states z (B, ...)."""
    return k if isinstance(k, Tensor) else torch.full((z.shape[0],), k, dtype=torch.int64, device=z.device)
