"""The sequences of a run, from whatever its data set is made of."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.catalogue import GRIDS
from ffrl.checks import require
from ffrl.config import TrainConfig
from ffrl.data.classes import without_classes
from ffrl.data.factor_sequences import FactorSequences
from ffrl.data.grids import load_grid
from ffrl.data.last_images import split_last, without_last
from ffrl.data.registry import ImageSet, load_images
from ffrl.data.sequences import TransformedImages, choose_frames
from ffrl.data.splits import FactorSplit, Part
from ffrl.records import ChosenFrames, SequenceBatch

SequenceData = TransformedImages | FactorSequences


class GridPart(NamedTuple):
    """A part of a grid of factors, and where it came from: to sequences of factors what ``ImageSet`` is to others."""

    name: str  # of the set
    labels: Tensor  # (N,) int64, all 0: there are no classes; N sequences of each transformation
    source: str


def has_validation(config: TrainConfig) -> bool:
    """Whether a run keeps sequences for validation."""
    return bool(config.split.validation if config.data in GRIDS else config.validation_images)


def load_sequences(
    config: TrainConfig, part: Part, device: torch.device | str = "cpu", data_dir: Path | None = None
) -> tuple[ImageSet | GridPart, SequenceData]:
    """The sequences that a run trains on or is tested on, and what they are made from.

    Args:
        config: data set, sequences, split, and the classes that training leaves out.
        part: "train", "validation", which of still images is the last ``config.validation_images`` that training leaves
            out, or "test".
        device: where sequences are made.
        data_dir: where to look for the data; default that of the configuration.

    Raises:
        ArgumentError: an unknown part or an empty one, or the grid cannot be divided like that.
        DataError: the data are missing or damaged.
    """
    data_dir = data_dir or config.data_dir
    if config.data not in GRIDS:
        images = load_images(config.data, "train" if part == "validation" else part, data_dir)
        if part == "train":
            images = without_classes(without_last(images, config.validation_images), config.held_out_classes)
        elif part == "validation":
            require(config.validation_images > 0, "validation_images", config.validation_images, "at least 1")
            _, images = split_last(images, config.validation_images)
        return images, TransformedImages(images.images, config.sequence, device)
    grid = load_grid(config.data, data_dir)
    sequence = config.sequence
    split = FactorSplit(grid.grid, sequence.transformations, sequence.num_steps, config.split)
    data = FactorSequences(grid, split, part, device)
    return GridPart(config.data, torch.zeros(len(data), dtype=torch.int64), grid.source), data


def training_batch(
    data: SequenceData, config: TrainConfig, iteration: int, *, rank: int = 0, num_ranks: int = 1
) -> tuple[SequenceBatch, ChosenFrames | None]:
    """The batch of an iteration (1-based) of a run, and which frames it holds, None for all: what the objective takes.

    A function of the arguments, without any state. Both are on the device of ``data``.
    """
    where = {"rank": rank, "num_ranks": num_ranks}
    seed, size, count = config.seed, config.batch_size, config.loss.decoded_frames
    frames = None if count is None else choose_frames(seed, iteration, size, data.num_steps, count, **where)
    batch = data.training_batch(seed, iteration, size, config.mixed_batches, frames=frames, **where)
    return batch, None if frames is None else frames._replace(times=data.on_device(frames.times))
