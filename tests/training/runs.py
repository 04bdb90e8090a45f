"""Short runs of a very small model, and what the tests read from a run folder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ffrl import checkpoint as checkpoint_module
from ffrl import run_folder as run_folder_module
from ffrl.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from ffrl.config import ModelConfig, SequenceConfig, TrainConfig
from ffrl.metrics import log_prob_ceiling
from ffrl.presets import preset_config
from ffrl.run_folder import METRICS_FILE
from ffrl.trainer import Trainer

MODEL = ModelConfig(
    latent_dim=4, conv_widths=(4, 8), encoder_widths=(16,), decoder_widths=(16,), potential_widths=(8, 8)
)

CHECKPOINTS = (0, 5, 10, 14)  # of short_run

# The code that writes.
SAVE_FILES = (checkpoint_module.__file__, run_folder_module.__file__)


def tiny_run(out: Path, **changes: Any) -> TrainConfig:
    """The preset tiny on data that is always there, with changes."""
    config = dataclasses.replace(preset_config("tiny"), out=out, data="digits", device="cpu", tensorboard=False)
    return dataclasses.replace(config, **changes)


def short_run(out: Path, **changes: Any) -> TrainConfig:
    """14 iterations, a checkpoint every 5, a line of metrics every 4: the last interval of both is cut short."""
    shortened: dict[str, Any] = {
        "iterations": 14,
        "batch_size": 4,
        "checkpoint_every": 5,
        "log_every": 4,
        "sequence": SequenceConfig(num_steps=2),
        "model": MODEL,
    }
    return tiny_run(out, **{**shortened, **changes})


def command_line(config: TrainConfig, *more: str) -> list[str]:
    """The flags that stand for ``short_run``'s configuration."""
    values = {
        "preset": config.preset,
        "out": config.out,
        "data": config.data,
        "device": config.device,
        "threads": 1,
        "seed": config.seed,
        "iterations": config.iterations,
        "batch-size": config.batch_size,
        "checkpoint-every": config.checkpoint_every,
        "log-every": config.log_every,
        "sequence.num-steps": config.sequence.num_steps,
        "model.latent-dim": config.model.latent_dim,
    }
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    for name in ("conv_widths", "encoder_widths", "decoder_widths", "potential_widths"):
        flags += [f"--model.{name.replace('_', '-')}", *map(str, getattr(config.model, name))]
    return [*flags, "--tensorboard" if config.tensorboard else "--no-tensorboard", *more]


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, every folder with None; empty where there is no such folder."""
    return {
        entry.relative_to(folder).as_posix(): entry.read_bytes() if entry.is_file() else None
        for entry in sorted(folder.rglob("*"))
    }


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of everything in nested dictionaries, lists and tuples."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves(item, f"{name}.{i}")
    else:
        yield name, value


def same_bits(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def differing(one: Any, other: Any) -> list[str]:
    """Names of the leaves that are not equal bit for bit."""
    first, second = dict(leaves(one)), dict(leaves(other))
    return [
        name
        for name in sorted({*first, *second})
        if name not in first or name not in second or not same_bits(first[name], second[name])
    ]


def training_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a run's continuation depends on; the time it took is not part of it."""
    state = {name: value for name, value in checkpoint.state.items() if name != "seconds"}
    return {"iteration": checkpoint.iteration, "weights": checkpoint.weights, **state}


def newest(run: Path) -> Checkpoint:
    return load_checkpoint(latest_checkpoint(run))


def run_differences(one: Path, other: Path) -> list[str]:
    """What differs in metrics.jsonl and in the newest checkpoints of two runs."""
    found = differing(training_state(newest(one)), training_state(newest(other)))
    same_metrics = (one / METRICS_FILE).read_bytes() == (other / METRICS_FILE).read_bytes()
    return found if same_metrics else [METRICS_FILE, *found]


def check_resumed_in_parts(config: TrainConfig, out: Path) -> None:
    """A run of 14 iterations and one that ends at 8 and is resumed, with other random numbers, are the same."""
    Trainer(config).run()
    parts = dataclasses.replace(config, out=out)
    Trainer(dataclasses.replace(parts, iterations=8)).run()
    assert run_differences(parts.out, config.out) != []
    torch.manual_seed(99)
    Trainer(dataclasses.replace(parts, resume=True)).run()
    assert run_differences(parts.out, config.out) == []


def loss_above_floor(config: TrainConfig, line: dict[str, Any]) -> float:
    """The loss of a line of metrics less the entropy of the observation model, which no training can take away."""
    ceiling = log_prob_ceiling(config.model.image_channels, config.model.image_size)
    return line["loss"] + (config.sequence.num_steps + 1) * ceiling


@contextmanager
def at_moments_of_a_save(action: Callable[[int], None]) -> Iterator[None]:
    """Call ``action`` with 1, 2, ... before each line that is executed in the code that writes.

    These are all moments of a save at which a process can be stopped, apart from those within one call of a library.
    Python versions differ in how often they visit the line of a comprehension, so that such visits count as one.
    """
    count, last = 0, 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count, last
        if frame.f_code.co_filename not in SAVE_FILES:
            return None
        if event == "line" and frame.f_lineno != last:
            count, last = count + 1, frame.f_lineno
            action(count)
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(previous)
