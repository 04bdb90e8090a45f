"""The model that a configuration asks for."""

from __future__ import annotations

from ffrl.config import TrainConfig
from ffrl.models.autoencoder import Autoencoder
from ffrl.models.baselines import build_baseline
from ffrl.models.sequence_vae import SequenceVAE


def build_model(config: TrainConfig) -> Autoencoder:
    """The model of a configuration's method, on the CPU, from torch's random number generator."""
    if config.method != "ffrl":
        return build_baseline(config)
    return SequenceVAE(
        config.model,
        len(config.sequence.transformations),
        config.backend,
        config.precision,
        config.loss.pde,
        recognized_frames=None if config.supervision.mode == "supervised" else config.sequence.num_steps + 1,
    )
