"""Configurations as JSON: written, read again, and compared with what a continuation asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from ffrl.baseline_config import BaselineConfig
from ffrl.checks import require
from ffrl.config import ComputeConfig, SplitConfig, SupervisionConfig, TrainConfig
from ffrl.errors import ArgumentError

# Fields that may differ between a run and its continuation: none of them changes the problem. Backend, precision,
# device, threads and compute change rounding, and the device also the stream of the noise: bit-identity holds while
# they stay.
RESUMABLE_FIELDS = frozenset(
    {
        *("out", "data_dir", "backend", "precision", "device", "threads"),
        *("checkpoint_every", "keep_checkpoints", "tensorboard", "resume"),
        "compute",
    }
)

# Dotted name -> what version 0.1.0, which did not have the field, did.
ADDED_LATER: dict[str, Any] = {
    "method": "ffrl",
    "precision": "tf32x3",
    "validation_images": 0,
    "held_out_classes": (),
    "model.initial_log_var": None,
    "model.weight_init": "default",
    "model.prior": "diffusion",
    "model.prior_components": 10,
    "model.pseudo_inputs": 64,
    "loss.pde": "hj_force",
    "loss.num_probes": 1,
    "loss.decoded_frames": None,
    "split": dataclasses.asdict(SplitConfig()),
    "supervision": dataclasses.asdict(SupervisionConfig()),
    "baseline": dataclasses.asdict(BaselineConfig()),
    "compute.loader_workers": 0,
    "compute": {**dataclasses.asdict(ComputeConfig()), "vae_precision": "float32"},
}


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def from_dict(data: Mapping[str, Any]) -> TrainConfig:
    """The inverse of ``to_dict``; unknown or missing fields raise ArgumentError.

    Fields that version 0.1.0 did not have take what it did.
    """
    if isinstance(data, Mapping):
        data = _with_added_fields(data)
    return _build(TrainConfig, data, "")


def _with_added_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    filled = dict(data)
    for name, value in ADDED_LATER.items():
        part, _, field = name.rpartition(".")
        if not part:
            filled.setdefault(field, value)
        elif isinstance(filled.get(part), Mapping):  # a part that is missing as a whole stays missing
            filled[part] = {field: value, **filled[part]}
    return filled


def _build(kind: Any, data: Mapping[str, Any], prefix: str) -> Any:
    require(isinstance(data, Mapping), prefix or "config", data, "a JSON object")
    hints = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    for name in sorted(set(data) ^ names):
        raise ArgumentError(
            f"{prefix}{name}", "unknown" if name in data else "missing", f"the fields of {kind.__name__}"
        )
    values: dict[str, Any] = {}
    for name, value in data.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _build(hints[name], value, f"{prefix}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        elif name in ("out", "data_dir") and isinstance(value, str):
            value = Path(value)
        values[name] = value
    return kind(**values)


def differences(saved: TrainConfig, wanted: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (saved, wanted) of every field that differs and is not in RESUMABLE_FIELDS."""
    found: dict[str, tuple[Any, Any]] = {}

    def walk(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> None:
        for name, value in one.items():
            if f"{prefix}{name}" in RESUMABLE_FIELDS:
                continue
            if isinstance(value, dict):
                walk(value, other[name], f"{prefix}{name}.")
            elif value != other[name]:
                found[f"{prefix}{name}"] = (value, other[name])

    walk(to_dict(saved), to_dict(wanted), "")
    if saved.optimizer.schedule == "constant":
        found.pop("iterations", None)  # a longer run starts with the shorter one
    return found
