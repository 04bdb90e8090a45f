"""The defaults of each preset. Imports neither torch nor numpy."""

from __future__ import annotations

from ffrl.checks import require
from ffrl.config import PRESET_NAMES, LossConfig, ModelConfig, OptimizerConfig, TrainConfig


def preset_config(name: str) -> TrainConfig:
    """The defaults of a preset, as in the table of docs/notation.md (paper) or chosen for two CPU cores (small)."""
    require(name in PRESET_NAMES, "preset", name, f"one of {PRESET_NAMES}")
    if name == "paper":
        width = 324
        return TrainConfig(
            preset="paper",
            iterations=90_000,
            batch_size=128,
            mixed_batches=False,
            model=ModelConfig(
                latent_dim=width,
                conv_widths=(width, 2 * width),
                encoder_widths=(3 * width, 2 * width, 2 * width),
                decoder_widths=(width, 2 * width, 3 * width),
                potential_widths=(width, width),
                output_activation="tanh",
            ),
            optimizer=OptimizerConfig(learning_rate=1e-4),
        )
    if name == "tiny":
        return TrainConfig(
            preset="tiny",
            iterations=100,
            batch_size=12,
            checkpoint_every=50,
            log_every=10,
            model=ModelConfig(
                latent_dim=8,
                conv_widths=(8, 16),
                encoder_widths=(32, 32),
                decoder_widths=(32,),
                potential_widths=(16, 16),
            ),
        )
    return TrainConfig(
        preset="small",
        model=ModelConfig(decoder_convolutions=False, decoder_widths=(256, 512)),
        # With a noise of 1 the reconstruction weighs too little against the KL for a code to hold a digit's shape.
        loss=LossConfig(noise_scale=0.15),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup=100),
    )
