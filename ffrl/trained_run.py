"""A finished run, loaded with the test images of its data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ffrl.config import TrainConfig
from ffrl.data import FactorSequences, GridPart, ImageSet, SequenceData, has_validation, load_sequences
from ffrl.errors import ArgumentError
from ffrl.matching import match_potentials
from ffrl.models import Autoencoder, SequenceVAE
from ffrl.models.baselines import WithoutOperator
from ffrl.split_file import check_split
from ffrl.trainer import load_model
from ffrl.traversal_search import choose_traversals


class TrainedRun(NamedTuple):
    """What evaluation starts from."""

    model: Autoencoder  # in evaluation mode, its potentials in the order of the transformations
    config: TrainConfig
    iteration: int
    images: ImageSet | GridPart  # the published test set, or the test part of a grid
    data: SequenceData  # its sequences, on the device of the model
    matching: dict[str, Any] | None  # see match_potentials
    traversal: dict[str, Any] | None  # of a method without an operator, see choose_traversals

    def flow_model(self) -> SequenceVAE:
        """The model, where it is FFRL's; raises ArgumentError for a run of another method."""
        if not isinstance(self.model, SequenceVAE):
            allowed = f"a run of method 'ffrl', which this command is for; it is of method {self.config.method!r}"
            raise ArgumentError("run", repr(str(self.config.out)), allowed)
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
    images; without any it leaves codes where they are.

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
    matching = None
    if isinstance(model, SequenceVAE):
        matching = match_potentials(model, data, reorder=own_names, num_images=match_images or len(data))
    traversal = None
    if isinstance(model, WithoutOperator) and has_validation(config):
        _, validation = load_sequences(config, "validation", data.device, data_dir)
        traversal = choose_traversals(model, validation, num_images=search_images)
    return TrainedRun(model, config, iteration, images, data, matching, traversal)
