"""A finished run, loaded with the test images of its data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ffrl.config import TrainConfig
from ffrl.data import FactorSequences, GridPart, ImageSet, SequenceData, load_sequences
from ffrl.matching import match_potentials
from ffrl.models import SequenceVAE
from ffrl.split_file import check_split
from ffrl.trainer import load_model


class TrainedRun(NamedTuple):
    """What evaluation starts from."""

    model: SequenceVAE  # in evaluation mode, its potentials in the order of the transformations
    config: TrainConfig
    iteration: int
    images: ImageSet | GridPart  # the official test set, or the test part of a grid
    data: SequenceData  # its sequences, on the device of the model
    matching: dict[str, Any] | None  # see match_potentials


def load_trained_run(
    run: Path,
    *,
    device: str = "auto",
    backend: str | None = None,
    data_dir: Path | None = None,
    match_images: int | None = None,
) -> TrainedRun:
    """Load the last checkpoint of a run; potentials named without labels are matched on ``match_images`` test images,
    all by default.

    Raises:
        ArgumentError, CheckpointError: as ``load_model``; or the data are another grid than that of the run.
        DataError: as ``load_sequences``.
    """
    model, config, iteration = load_model(run, device=device, backend=backend)
    images, data = load_sequences(config, "test", next(model.parameters()).device, data_dir)
    if isinstance(data, FactorSequences):
        check_split(run, data.split)
    how = config.supervision
    own_names = how.mode == "weak" and how.index_loss == "prior"
    matching = match_potentials(model, data, reorder=own_names, num_images=match_images or len(data))
    return TrainedRun(model, config, iteration, images, data, matching)
