"""Calls with bad arguments end in a typed error that names the argument and the value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ffrl.config import ModelConfig, SequenceConfig, TrainConfig
from ffrl.data import TransformedImages, load_images
from ffrl.devices import resolve_device
from ffrl.errors import ArgumentError, BackendError, DataError, FfrlError
from ffrl.models import PotentialMLP, SequenceVAE
from ffrl.ops import potential_derivatives
from ffrl.presets import preset_config
from ffrl.saved_config import from_dict, to_dict
from ffrl.trainer import Trainer
from tests.training.runs import MODEL, short_run


def images(count: int = 3, size: int = 28, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.zeros(count, size, size, dtype=dtype)


def sequence(indices, k):
    return TransformedImages(images(), SequenceConfig()).sequence(indices, k)


def forward(x=None, k=None, noise=None):
    """SequenceVAE of 3 potentials on 2 sequences, with one argument replaced."""
    x = torch.rand(2, 3, 3, 28, 28) if x is None else x
    return SequenceVAE(MODEL, 3)(x, torch.tensor([0, 2]) if k is None else k, noise)


def op(z=None, t=1.0, k=0, **options):
    z = torch.zeros(2, 4) if z is None else z
    return potential_derivatives(PotentialMLP(4, 8, 3), z, t, k, **options)


TWO = torch.tensor([0, 1])

# Call -> the error's class, and what its message names.
CALLS: dict[str, tuple[Callable[[], object], type[FfrlError], str]] = {
    "images: rank": (lambda: TransformedImages(images()[0], SequenceConfig()), ArgumentError, r"images = \(28, 28\)"),
    "images: none": (lambda: TransformedImages(images(0), SequenceConfig()), ArgumentError, r"images = \(0, 28, 28\)"),
    "images: dtype": (
        lambda: TransformedImages(images(dtype=torch.float32), SequenceConfig()),
        ArgumentError,
        "images.dtype = torch.float32",
    ),
    "images: numpy": (lambda: TransformedImages(images().numpy(), SequenceConfig()), ArgumentError, "images"),
    "sequence: index": (lambda: sequence(torch.tensor([3]), 0), ArgumentError, "indices = 3"),
    "sequence: index dtype": (lambda: sequence(TWO.float(), 0), ArgumentError, "indices = torch.float32"),
    "sequence: k": (lambda: sequence(TWO, 3), ArgumentError, "k = 3"),
    "sequence: negative k": (lambda: sequence(TWO, torch.tensor([0, -1])), ArgumentError, "k = -1"),
    "sequence: k of another length": (lambda: sequence(TWO, TWO[:1]), ArgumentError, r"k = \(1,\)"),
    "model: rank": (lambda: forward(torch.rand(2, 3, 28, 28)), ArgumentError, r"x.shape = \(2, 3, 28, 28\)"),
    "model: no step": (lambda: forward(torch.rand(2, 1, 3, 28, 28)), ArgumentError, r"x.shape = \(2, 1, 3, 28, 28\)"),
    "model: channels": (lambda: forward(torch.rand(2, 3, 1, 28, 28)), ArgumentError, r"x.shape = \(2, 3, 1, 28, 28\)"),
    "model: size": (lambda: forward(torch.rand(2, 3, 3, 14, 14)), ArgumentError, r"x.shape = \(2, 3, 3, 14, 14\)"),
    "model: float64": (lambda: forward(torch.rand(2, 3, 3, 28, 28).double()), ArgumentError, "dtype = torch.float64"),
    "model: bytes": (
        lambda: forward(torch.zeros(2, 3, 3, 28, 28, dtype=torch.uint8)),
        ArgumentError,
        "dtype = torch.uint8",
    ),
    "model: device": (lambda: forward(torch.rand(2, 3, 3, 28, 28).to("meta")), ArgumentError, "device = meta"),
    "model: k": (lambda: forward(k=torch.tensor([0, 3])), ArgumentError, "k = 3"),
    "model: k dtype": (lambda: forward(k=TWO.float()), ArgumentError, "k.dtype = torch.float32"),
    "model: k of another length": (lambda: forward(k=TWO[:1]), ArgumentError, r"k.shape = \(1,\)"),
    "model: k an integer": (lambda: forward(k=1), ArgumentError, "k = 1"),
    "model: noise": (lambda: forward(noise=torch.zeros(2, 3)), ArgumentError, r"noise.shape = \(2, 3\)"),
    "model: noise dtype": (lambda: forward(noise=torch.zeros(2, 4).double()), ArgumentError, "dtype = torch.float64"),
    "op: rank": (lambda: op(torch.zeros(4)), ArgumentError, r"z.shape = \(4,\)"),
    "op: width": (lambda: op(torch.zeros(2, 5)), ArgumentError, r"z.shape = \(2, 5\)"),
    "op: dtype": (lambda: op(torch.zeros(2, 4, dtype=torch.int64)), ArgumentError, "z.dtype = torch.int64"),
    "op: device": (lambda: op(torch.zeros(2, 4, device="meta")), ArgumentError, "z.device = meta"),
    "op: k": (lambda: op(k=3), ArgumentError, "k = 3"),
    "op: backend": (lambda: op(backend="fastest"), ArgumentError, "backend = 'fastest'"),
    "op: backend not here": (lambda: op(backend="triton"), BackendError, "backend 'triton' cannot be used here"),
    "potential: odd time_dim": (lambda: PotentialMLP(4, 8, time_dim=7), ArgumentError, "time_dim = 7"),
    "potential: none": (lambda: PotentialMLP(4, 8, num_potentials=0), ArgumentError, "num_potentials = 0"),
    "config: odd time_dim": (lambda: ModelConfig(time_dim=9), ArgumentError, "model.time_dim = 9"),
    "config: widths": (lambda: ModelConfig(conv_widths=()), ArgumentError, r"model.conv_widths = \(\)"),
    "config: bool for int": (lambda: TrainConfig(iterations=True), ArgumentError, "iterations = True"),
    "config: string for bool": (lambda: TrainConfig(mixed_batches="no"), ArgumentError, "mixed_batches = 'no'"),
    "config: fraction": (lambda: TrainConfig(batch_size=2.5), ArgumentError, "batch_size = 2.5"),
    "config: preset": (lambda: preset_config("large"), ArgumentError, "preset = 'large'"),
    "config: missing field": (lambda: from_dict({"seed": 1}), ArgumentError, "missing"),
    "config: nested": (
        lambda: from_dict({**to_dict(TrainConfig()), "loss": {"likelihood": "gaussian"}}),
        ArgumentError,
        "loss.* = missing",
    ),
    "data: name": (lambda: load_images("cifar", "train"), ArgumentError, "data = 'cifar'"),
    "data: split": (lambda: load_images("digits", "validation"), ArgumentError, "split = 'validation'"),
    "data: folder": (lambda: load_images("mnist", "train", Path("/absent")), DataError, "data_dir = /absent"),
    "device": (lambda: resolve_device("quantum"), ArgumentError, "device = 'quantum'"),
}


@pytest.mark.parametrize(("call", "kind", "message"), CALLS.values(), ids=CALLS)
def test_call(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_trainer_checks_what_the_command_line_checks(tmp_path):
    """The configuration is checked when it is made, however it is made."""
    config = short_run(tmp_path / "run")
    with pytest.raises(ArgumentError, match="batch_size = -1"):
        dataclasses.replace(config, batch_size=-1)
    with pytest.raises(BackendError, match="triton"):
        Trainer(dataclasses.replace(config, backend="triton"))
    assert list(tmp_path.iterdir()) == []
