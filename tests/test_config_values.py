"""Values that a configuration refuses, each with an error that names the field."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ffrl.config import (
    ComputeConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SequenceConfig,
    TrainConfig,
)
from ffrl.errors import ArgumentError
from ffrl.saved_config import from_dict, to_dict

REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (SequenceConfig, {"transformations": ()}, "sequence.transformations"),
    (SequenceConfig, {"transformations": ("scale", "scale")}, "sequence.transformations"),
    (SequenceConfig, {"transformations": ("scale", "shear")}, "sequence.transformations"),
    (SequenceConfig, {"num_steps": 0}, "sequence.num_steps"),
    (SequenceConfig, {"num_steps": 2.0}, "sequence.num_steps"),
    (SequenceConfig, {"num_steps": True}, "sequence.num_steps"),
    (SequenceConfig, {"max_scale": 0.0}, "sequence.max_scale"),
    (SequenceConfig, {"max_scale": math.nan}, "sequence.max_scale"),
    (SequenceConfig, {"max_rotation": -361.0}, "sequence.max_rotation"),
    (SequenceConfig, {"max_rotation": math.inf}, "sequence.max_rotation"),
    (SequenceConfig, {"max_hue": -1.0}, "sequence.max_hue"),
    (SequenceConfig, {"max_hue": "160"}, "sequence.max_hue"),
    (ModelConfig, {"image_channels": 0}, "model.image_channels"),
    (ModelConfig, {"image_size": 29}, "model.image_size"),
    (ModelConfig, {"image_size": 30}, "model.conv_widths"),
    (ModelConfig, {"latent_dim": 0}, "model.latent_dim"),
    (ModelConfig, {"conv_widths": ()}, "model.conv_widths"),
    (ModelConfig, {"conv_widths": (8, 0)}, r"model.conv_widths\[1\]"),
    (ModelConfig, {"encoder_widths": ()}, "model.encoder_widths"),
    (ModelConfig, {"decoder_widths": (-1,)}, r"model.decoder_widths\[0\]"),
    (ModelConfig, {"potential_widths": (8,)}, "model.potential_widths"),
    (ModelConfig, {"potential_widths": (8, 8, 8)}, "model.potential_widths"),
    (ModelConfig, {"initial_intensity": 0.0}, "model.initial_intensity"),
    (ModelConfig, {"initial_intensity": 1.0}, "model.initial_intensity"),
    (ModelConfig, {"initial_intensity": math.nan}, "model.initial_intensity"),
    (ModelConfig, {"initial_log_var": math.nan}, "model.initial_log_var"),
    (ModelConfig, {"initial_log_var": -20.5}, "model.initial_log_var"),
    (ModelConfig, {"initial_log_var": 21}, "model.initial_log_var"),
    (ModelConfig, {"weight_init": "xavier"}, "model.weight_init"),
    (ModelConfig, {"output_activation": "relu"}, "model.output_activation"),
    (ModelConfig, {"time_dim": 7}, "model.time_dim"),
    (ModelConfig, {"time_dim": 2}, "model.time_dim"),
    (ModelConfig, {"prior": "gaussian"}, "model.prior"),
    (ModelConfig, {"prior_components": 0}, "model.prior_components"),
    (ModelConfig, {"prior_components": 2.0}, "model.prior_components"),
    (ModelConfig, {"pseudo_inputs": 0}, "model.pseudo_inputs"),
    (ModelConfig, {"pseudo_inputs": True}, "model.pseudo_inputs"),
    (LossConfig, {"likelihood": "poisson"}, "loss.likelihood"),
    (LossConfig, {"noise_scale": 0.0}, "loss.noise_scale"),
    (LossConfig, {"kl_weight": -1.0}, "loss.kl_weight"),
    (ComputeConfig, {"loader_workers": -1}, "compute.loader_workers"),
    (ComputeConfig, {"loader_workers": 1025}, "compute.loader_workers"),
    (LossConfig, {"decoded_frames": 0}, "loss.decoded_frames"),
    (LossConfig, {"decoded_frames": 2.0}, "loss.decoded_frames"),
    (LossConfig, {"decoded_frames": True}, "loss.decoded_frames"),
    (LossConfig, {"kl_weight": math.nan}, "loss.kl_weight"),
    (LossConfig, {"hj_weight": True}, "loss.hj_weight"),
    (LossConfig, {"log_det": "none"}, "loss.log_det"),
    (LossConfig, {"num_probes": 0}, "loss.num_probes"),
    (LossConfig, {"num_probes": 1.0}, "loss.num_probes"),
    (LossConfig, {"log_det_floor": 0.0}, "loss.log_det_floor"),
    (LossConfig, {"pde": "schroedinger"}, "loss.pde"),
    (OptimizerConfig, {"learning_rate": 0.0}, "optimizer.learning_rate"),
    (OptimizerConfig, {"schedule": "linear"}, "optimizer.schedule"),
    (OptimizerConfig, {"warmup": -1}, "optimizer.warmup"),
    (TrainConfig, {"preset": "huge"}, "preset"),
    (TrainConfig, {"data": "cifar"}, "data"),
    (TrainConfig, {"seed": -1}, "seed"),
    (TrainConfig, {"iterations": 0}, "iterations"),
    (TrainConfig, {"iterations": -5}, "iterations"),
    (TrainConfig, {"iterations": 1e4}, "iterations"),
    (TrainConfig, {"batch_size": 0}, "batch_size"),
    (TrainConfig, {"checkpoint_every": 0}, "checkpoint_every"),
    (TrainConfig, {"keep_checkpoints": 0}, "keep_checkpoints"),
    (TrainConfig, {"log_every": 0}, "log_every"),
    (TrainConfig, {"threads": 0}, "threads"),
    (TrainConfig, {"held_out_classes": (3, -1)}, r"held_out_classes\[1\]"),
    (TrainConfig, {"model": ModelConfig(image_channels=1)}, "model.image_channels"),
    (TrainConfig, {"model": ModelConfig(image_size=32)}, "model.image_size"),
    (EvaluationConfig, {"num_images": 0}, "num_images"),
    (EvaluationConfig, {"likelihood_images": 0}, "likelihood_images"),
    (EvaluationConfig, {"importance_samples": 0}, "importance_samples"),
    (EvaluationConfig, {"batch_size": -1}, "batch_size"),
    (EvaluationConfig, {"seed": -1}, "seed"),
    (EvaluationConfig, {"log_det": "none"}, "log_det"),
    (EvaluationConfig, {"log_det": "hutchinson"}, "log_det"),
    (EvaluationConfig, {"log_det_floor": -1e-3}, "log_det_floor"),
]

WRONG_TYPE: list[tuple[type, dict[str, Any], str]] = [
    (SequenceConfig, {"transformations": 5}, "sequence.transformations"),
    (SequenceConfig, {"transformations": None}, "sequence.transformations"),
    (SequenceConfig, {"transformations": (["scale"],)}, "sequence.transformations"),
    (ModelConfig, {"conv_widths": 32}, "model.conv_widths"),
    (ModelConfig, {"encoder_widths": None}, "model.encoder_widths"),
    (ModelConfig, {"refine": "no"}, "model.refine"),
    (ModelConfig, {"decoder_convolutions": 1}, "model.decoder_convolutions"),
    (TrainConfig, {"mixed_batches": "no"}, "mixed_batches"),
    (TrainConfig, {"tensorboard": None}, "tensorboard"),
    (TrainConfig, {"resume": "false"}, "resume"),
    (TrainConfig, {"out": 5}, "out"),
    (TrainConfig, {"held_out_classes": 3}, "held_out_classes"),
    (TrainConfig, {"backend": 5}, "backend"),
    (TrainConfig, {"device": None}, "device"),
    (TrainConfig, {"model": None}, "model"),
    (TrainConfig, {"seed": 2**64}, "seed"),
    (EvaluationConfig, {"seed": 2**64}, "seed"),
]


def row_id(value: Any) -> str | None:
    return str(value) if isinstance(value, dict) else None


@pytest.mark.parametrize(("kind", "fields", "name"), REFUSED, ids=row_id)
def test_refused_values(kind: type, fields: dict[str, Any], name: str):
    with pytest.raises(ArgumentError, match=f"^{name} = ") as caught:
        kind(**fields)
    assert caught.value.allowed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv_widths": (8,) * 6}, r"model.conv_widths = \(8, .* at most 2 widths: .* model.image_size = 28$"),
        ({"image_size": 64, "conv_widths": (8,) * 7}, r"at most 6 widths"),
        ({"initial_intensity": 0}, r"model.initial_intensity = 0 .* in \(0, 1\)"),
    ],
)
def test_the_whole_range_is_told(fields: dict[str, Any], message: str):
    with pytest.raises(ArgumentError, match=message):
        ModelConfig(**fields)
    assert ModelConfig(image_size=64, conv_widths=(8,) * 6).image_size == 64


@pytest.mark.parametrize(("kind", "fields", "name"), WRONG_TYPE, ids=row_id)
def test_values_of_a_wrong_type_are_refused(kind: type, fields: dict[str, Any], name: str):
    with pytest.raises(ArgumentError, match=f"^{name} = "):
        kind(**fields)


PARTS = {
    SequenceConfig: "sequence",
    ModelConfig: "model",
    LossConfig: "loss",
    OptimizerConfig: "optimizer",
    ComputeConfig: "compute",
}
IN_A_FILE = [row for row in REFUSED if row[0] is not EvaluationConfig and "model" not in row[1]]


@pytest.mark.parametrize(("kind", "fields", "name"), IN_A_FILE, ids=row_id)
def test_refused_values_are_refused_from_a_file_too(kind: type, fields: dict[str, Any], name: str):
    data = to_dict(TrainConfig())
    (data[PARTS[kind]] if kind in PARTS else data).update(fields)
    with pytest.raises(ArgumentError, match=f"^{name} = "):
        from_dict(data)
