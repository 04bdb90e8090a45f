"""The sequences of a run, from whatever its data set is made of."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.catalogue import GRIDS
from ffrl.config import TrainConfig
from ffrl.data.classes import without_classes
from ffrl.data.factor_sequences import FactorSequences
from ffrl.data.grids import load_grid
from ffrl.data.registry import ImageSet, load_images
from ffrl.data.sequences import TransformedImages
from ffrl.data.splits import FactorSplit, Part

SequenceData = TransformedImages | FactorSequences


class GridPart(NamedTuple):
    """A part of a grid of factors, and where it came from: to sequences of factors what ``ImageSet`` is to others."""

    name: str  # of the set
    labels: Tensor  # (N,) int64, all 0: there are no classes; N sequences of each transformation
    source: str


def load_sequences(
    config: TrainConfig, part: Part, device: torch.device | str = "cpu", data_dir: Path | None = None
) -> tuple[ImageSet | GridPart, SequenceData]:
    """The sequences that a run trains on or is tested on, and what they are made from.

    Args:
        config: data set, sequences, split, and the classes that training leaves out.
        part: "train", "validation" (of grids alone) or "test".
        device: where sequences are made.
        data_dir: where to look for the data; default that of the configuration.

    Raises:
        ArgumentError: still images have no such part, or the grid cannot be divided like that.
        DataError: the data are missing or damaged.
    """
    data_dir = data_dir or config.data_dir
    if config.data not in GRIDS:
        images = load_images(config.data, part, data_dir)  # type: ignore[arg-type]
        if part == "train":
            images = without_classes(images, config.held_out_classes)
        return images, TransformedImages(images.images, config.sequence, device)
    grid = load_grid(config.data, data_dir)
    sequence = config.sequence
    split = FactorSplit(grid.grid, sequence.transformations, sequence.num_steps, config.split)
    data = FactorSequences(grid, split, part, device)
    return GridPart(config.data, torch.zeros(len(data), dtype=torch.int64), grid.source), data
