"""A finished run, loaded with the test images of its data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ffrl.config import TrainConfig
from ffrl.data import TransformedImages, load_images, split_last
from ffrl.data.registry import ImageSet
from ffrl.errors import ArgumentError
from ffrl.matching import match_potentials
from ffrl.models import Autoencoder, SequenceVAE
from ffrl.models.baselines import WithoutOperator
from ffrl.trainer import load_model
from ffrl.traversal_search import choose_traversals


class TrainedRun(NamedTuple):
    """What evaluation starts from."""

    model: Autoencoder  # in evaluation mode, its potentials in the order of the transformations
    config: TrainConfig
    iteration: int
    images: ImageSet  # the official test set
    data: TransformedImages  # its sequences, on the device of the model
    matching: dict[str, Any] | None  # see match_potentials
    traversal: dict[str, Any] | None  # of a method without an operator, see choose_traversals

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
    search_images: int = 32,
) -> TrainedRun:
    """Load the last checkpoint of a run; potentials named without labels are matched on ``match_images`` test images,
    all by default.

    A method without a latent operator chooses its traversals on the first ``search_images`` of the run's validation
    images, the last ``config.validation_images`` of the training set; without any it leaves codes where they are.

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
    traversal = None
    if isinstance(model, WithoutOperator) and config.validation_images:
        _, held_out = split_last(
            load_images(config.data, "train", data_dir or config.data_dir), config.validation_images
        )
        validation = TransformedImages(held_out.images, config.sequence, data.device)
        traversal = choose_traversals(model, validation, num_images=search_images)
    return TrainedRun(model, config, iteration, images, data, matching, traversal)
