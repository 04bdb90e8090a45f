"""What a sequence model cannot do without: a VAE of the same frames, and encoding one frame and decoding all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.training_iteration import Terms
from ffrl.config import TrainConfig
from ffrl.losses import kl_standard_normal, reconstruction_nll
from ffrl.models import SequenceVAE
from ffrl.records import SequenceBatch

# Between the codes of two frames, in every latent dimension.
OFFSET = 0.01


class FrameVAE(nn.Module):
    """Encoder and decoder alone, those of a sequence VAE; both objectives train all of them."""

    def __init__(self, model: SequenceVAE) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def sample(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes of frames (M, C, I, I), and the KL of their posteriors from N(0, I): (M, D) and (M,)."""
        mu, log_var = self.encoder(x)
        noise = torch.randn_like(mu) if noise is None else noise
        return mu + torch.exp(0.5 * log_var) * noise, kl_standard_normal(mu, log_var)

    def reconstruction(self, z: Tensor, batch: SequenceBatch, config: TrainConfig) -> Tensor:
        """-log p of all frames from codes (B, T+1, D), in one call of the decoder, a scalar: the batch mean."""
        logits = self.decoder.logits(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return reconstruction_nll(logits, batch.x, config.loss).sum(1).mean()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}]

    def project_(self) -> None:
        """Nothing is constrained."""


def vae_terms(
    model: FrameVAE, batch: SequenceBatch, config: TrainConfig, number: int, noise: Tensor | None = None
) -> Terms:
    """The VAE of single frames: all are encoded and decoded, in one call each; noise (B·(T+1), D)."""
    z, kl = model.sample(batch.x.flatten(0, 1), noise)
    frames = batch.x.shape[:2]
    return {
        "reconstruction": model.reconstruction(z.unflatten(0, frames), batch, config),
        "kl": kl.unflatten(0, frames).sum(1).mean(),
    }


def decoding_terms(
    model: FrameVAE, batch: SequenceBatch, config: TrainConfig, number: int, noise: Tensor | None = None
) -> Terms:
    """Frame 0 encoded, and frame t decoded from z_0 + OFFSET·t in the place of a flow; noise (B, D)."""
    z0, kl = model.sample(batch.x[:, 0], noise)
    offsets = OFFSET * torch.arange(batch.x.shape[1], dtype=z0.dtype, device=z0.device)
    z = z0[:, None] + offsets[:, None]  # (B, T+1, D)
    return {"reconstruction": model.reconstruction(z, batch, config), "kl_0": kl.mean()}
