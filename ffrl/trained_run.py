"""A finished run, loaded with the test images of its data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ffrl.config import TrainConfig
from ffrl.data import TransformedImages, load_images
from ffrl.data.registry import ImageSet
from ffrl.errors import ArgumentError
from ffrl.matching import match_potentials
from ffrl.models import Autoencoder, SequenceVAE
from ffrl.trainer import load_model


class TrainedRun(NamedTuple):
    """What evaluation starts from."""

    model: Autoencoder  # in evaluation mode, its potentials in the order of the transformations
    config: TrainConfig
    iteration: int
    images: ImageSet  # the official test set
    data: TransformedImages  # its sequences, on the device of the model
    matching: dict[str, Any] | None  # see match_potentials

    def flow_model(self) -> SequenceVAE:
        """The model, where it is FFRL's; raises ArgumentError for another method, which has no potentials to ask."""
        if not isinstance(self.model, SequenceVAE):
            raise ArgumentError("method", repr(self.config.method), "'ffrl', the method of this command")
        return self.model


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
        ArgumentError, CheckpointError: as ``load_model``.
        DataError: as ``load_images``.
    """
    model, config, iteration = load_model(run, device=device, backend=backend)
    images = load_images(config.data, "test", data_dir or config.data_dir)
    data = TransformedImages(images.images, config.sequence, next(model.parameters()).device)
    how = config.supervision
    own_names = how.mode == "weak" and how.index_loss == "prior"
    matching = None
    if isinstance(model, SequenceVAE):
        matching = match_potentials(model, data, reorder=own_names, num_images=match_images or len(data))
    return TrainedRun(model, config, iteration, images, data, matching)
