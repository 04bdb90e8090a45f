"""The defaults of each preset. Imports neither torch nor numpy."""

from __future__ import annotations

import dataclasses
from typing import Any

from ffrl.catalogue import DATA_SETS, GRIDS, DataSet
from ffrl.checks import require
from ffrl.config import (
    DATA_NAMES,
    PRESET_NAMES,
    ComputeConfig,
    DataName,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SequenceConfig,
    TrainConfig,
)


def preset_config(name: str, data: DataName = "auto") -> TrainConfig:
    """The defaults of a preset for a data set, as in the table of docs/notation.md (paper) or chosen for two CPU cores
    (small)."""
    require(name in PRESET_NAMES, "preset", name, f"one of {PRESET_NAMES}")
    require(data in DATA_NAMES, "data", data, f"one of {DATA_NAMES}")
    return _grid_preset(name, data) if data in GRIDS else dataclasses.replace(_still_preset(name), data=data)


def with_all_frames(config: TrainConfig) -> TrainConfig:
    """The configuration for what decodes every frame: other methods than FFRL, and k recognized from the frames."""
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, decoded_frames=None))


def _still_preset(name: str) -> TrainConfig:
    """Of still images of 28x28 pixels."""
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


def _grid_preset(name: str, data: DataName) -> TrainConfig:
    """Of a grid of factors, with 64x64 or 128x128 pixels."""
    data_set = DATA_SETS[data]
    common: dict[str, Any] = {
        "preset": name,
        "data": data,
        "sequence": SequenceConfig(data_set.transformations, data_set.num_steps),
    }
    if name == "paper":
        return TrainConfig(
            **common,
            iterations=90_000,
            batch_size=128,
            mixed_batches=False,
            model=_paper_model(data_set),
            optimizer=OptimizerConfig(learning_rate=1e-4),
        )
    large = data_set.image_shape[1] == 128
    if name == "tiny":
        model = ModelConfig(
            **_images(data_set),
            latent_dim=8,
            conv_widths=(8, 8, 8, 16) if large else (8, 8, 16),
            encoder_widths=(32, 32),
            decoder_widths=(32,),
            potential_widths=(16, 16),
        )
        return TrainConfig(**common, iterations=100, batch_size=12, checkpoint_every=50, log_every=10, model=model)
    model = ModelConfig(
        **_images(data_set),
        conv_widths=(16, 32, 64, 64, 128) if large else (16, 32, 64, 128),
        encoder_widths=(256, 256),
        decoder_widths=(256,),
        # With PyTorch's weights, half a network as deep as this dies within the first hundred iterations, and a code
        # that is mostly noise takes the decoder as many to listen to.
        initial_log_var=-5.0,
        weight_init="he",
    )
    return TrainConfig(
        **common,
        iterations=6_000 if large else 16_000,
        batch_size=32,
        model=model,
        # Shape, size and pose of a scene are the same in all its frames: more scenes teach more than more frames.
        loss=LossConfig(noise_scale=0.05, decoded_frames=2),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup=300),
        compute=ComputeConfig(loader_workers=2 if large else 0),
    )


def _images(data_set: DataSet) -> dict[str, Any]:
    """What the images say of a model; sprites are white on black, scenes as bright as dark."""
    channels, size, _ = data_set.image_shape
    dark = {"initial_intensity": 0.05 if channels == 1 else 0.5}
    return {"image_channels": channels, "image_size": size, **dark}


def _paper_model(data_set: DataSet) -> ModelConfig:
    """The networks of the paper, which has no dSprites: those take that of 3D Shapes."""
    if data_set.image_shape[1] == 128:
        width = 324
        return ModelConfig(
            **_images(data_set),
            latent_dim=width,
            conv_widths=(width,) * 4,
            refine=True,
            encoder_widths=(width,) * 3,
            decoder_widths=(width,) * 3,
            potential_widths=(width, width),
            output_activation="tanh",
        )
    width = 226
    return ModelConfig(
        **_images(data_set),
        latent_dim=width,
        conv_widths=(width, 2 * width),
        encoder_widths=(3 * width, 2 * width, 2 * width),
        decoder_widths=(width, 2 * width, 3 * width),
        potential_widths=(width, width),
        output_activation="tanh",
    )
