"""Score a run where it was not trained: python -m ffrl.generalisation RUN."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ffrl.catalogue import STILL_IMAGES
from ffrl.checks import require, require_integer
from ffrl.command_line import OnRun, percentage, run_command
from ffrl.config import DataName
from ffrl.errors import ArgumentError
from ffrl.run_folder import check_writable, write_json
from ffrl.traverse import print_compositions

if TYPE_CHECKING:
    from rich.table import Table

    from ffrl.data import TransformedImages
    from ffrl.trained_run import TrainedRun

GENERALISATION_FILE = "generalisation.json"
OTHER_DATA: tuple[DataName, ...] = ("shapes", "digits", "dsprites-generated")
SPRITES = ("dsprites", "dsprites-generated")


@dataclasses.dataclass(frozen=True)
class GeneralisationCommand(OnRun):
    """Score a run on compositions, longer flows, unseen classes and other images; write generalisation.json into it."""

    other_data: tuple[DataName, ...] | None = None
    """Data sets that it was not trained on, of dSprites those in the middle, at the size of a digit; default shapes,
    digits and dsprites-generated but the run's own."""
    classes: tuple[int, ...] | None = None
    """Classes that are scored apart from the others; default those held out of training."""
    factor: int = 2
    """Flows run to this many times the trained number of steps."""
    num_images: int = 1000
    """Test images for each number."""
    batch_size: int = 250

    def __post_init__(self) -> None:
        for name in ("factor", "num_images", "batch_size"):
            require_integer(name, getattr(self, name), 1)
        allowed = (*STILL_IMAGES, *SPRITES)
        for i, name in enumerate(self.other_data or ()):
            require(name in allowed, f"other_data[{i}]", name, f"one of {allowed}")


def score(command: GeneralisationCommand, trained: TrainedRun) -> dict[str, Any]:
    """Every number of the command: {"composition", "commutator", "extrapolation", "images": {name: errors}, ...}."""
    from ffrl.data import ImageSet, TransformedImages, load_images, load_small_sprites, split_classes
    from ffrl.generalisation_errors import commutator_errors, equivariance_errors, extrapolation_errors
    from ffrl.traversals import composition_errors

    sizes: Any = {"num_images": command.num_images, "batch_size": command.batch_size}
    model, config, own = trained.flow_model(), trained.config, trained.images

    if not isinstance(own, ImageSet):
        raise ArgumentError("run", repr(str(command.run)), f"a run on still images; {own.name} is a grid of factors")

    def sequences(images: ImageSet) -> TransformedImages:
        return TransformedImages(images.images, config.sequence, trained.data.device)

    def other(name: DataName) -> ImageSet:
        folder = command.data_dir or config.data_dir
        return load_small_sprites(name, folder) if name in SPRITES else load_images(name, "test", folder)

    apart = config.held_out_classes if command.classes is None else command.classes
    seen, unseen = split_classes(own, apart, "held_out_classes" if command.classes is None else "classes")
    others: Sequence[DataName] = command.other_data or [name for name in OTHER_DATA if name != own.name]
    names = ("seen", "unseen") if command.classes is None else ("other classes", f"classes {apart}")
    sets = {f"{own.name}, {names[0]}": seen, f"{own.name}, {names[1]}": unseen} if apart else {own.name: seen}
    sets |= {name: other(name) for name in others}
    data = sequences(seen)
    return {
        "run": str(command.run),
        "iteration": trained.iteration,
        "data": config.data,
        "split": "test",
        "num_images": command.num_images,
        "factor": command.factor,
        "matching": trained.matching,
        "held_out_classes": list(config.held_out_classes),
        "composition": composition_errors(model, data, **sizes),
        "commutator": commutator_errors(model, data, **sizes),
        "extrapolation": extrapolation_errors(model, data, factor=command.factor, **sizes),
        "images": {name: equivariance_errors(model, sequences(images), **sizes) for name, images in sets.items()},
        "image_sources": {name: images.source for name, images in sets.items()},
    }


def print_tables(result: dict[str, Any]) -> None:
    """Print every number beside what copying x_0 scores."""
    from rich.console import Console  # here, so that a missing package is reported as run_command does
    from rich.table import Table

    console = Console(width=120)

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title)
        for i, column in enumerate(columns):
            made.add_column(column, justify="right" if i else "left")
        return made

    print_compositions(result["composition"])
    commutators = table(
        "Order of two flows: |decode(z_kj) - decode(z_jk)|₁ at the end, beside the steps taken",
        *("k, j", "commutator", "of the step", "latent", "of the step", "E, k then j", "E, j then k", "copy x_0"),
    )
    for row in result["commutator"]:
        commutators.add_row(
            ", ".join(row["transformations"]),
            f"{row['commutator']:.1f} ± {row['commutator_standard_error']:.1f}",
            percentage(row["commutator"], row["step"]),
            f"{row['latent_commutator']:.2f}",
            percentage(row["latent_commutator"], row["latent_step"]),
            *(f"{row[name]:.1f}" for name in ("error_forward", "error_reversed", "copy")),
        )
    if result["commutator"]:
        console.print(commutators)
    longer = table(
        "Longer flows: |x_s - decode(z_s)|₁ against the transformation continued, and its share of copying x_0",
        *("transformation", "s = 1..T", "/copy", "s > T", "/copy", "/black", "s = T", "last s", "/copy"),
    )
    for name, row in result["extrapolation"].items():
        inside, beyond, trained = row["trained"], row["extrapolated"], row["trained_steps"]
        cells = ["-"] * 3
        if beyond:
            cells = [f"{beyond['equivariance_error']:.1f}"]
            cells += [percentage(beyond["equivariance_error"], beyond[baseline]) for baseline in ("copy", "zero")]
        at_trained = row["error_per_step"][:trained][-1:]
        longer.add_row(
            name,
            f"{inside['equivariance_error']:.1f}",
            percentage(inside["equivariance_error"], inside["copy"]),
            *cells,
            *(f"{value:.1f}" for value in (at_trained + row["error_per_step"][-1:])),
            percentage(row["error_per_step"][-1], row["copy_per_step"][-1]),
        )
    console.print(longer)
    images = table(
        "Other images, seen and unseen classes: Σ over t=1..T of |x_t - decode(z_t)|₁",
        *("images", "transformation", "E_k", "copy x_0", "E_k/copy", "black", "autoencoding", "t=0", "number"),
    )
    for name, rows in result["images"].items():
        for transformation, row in rows.items():
            images.add_row(
                name,
                transformation,
                f"{row['equivariance_error']:.1f} ± {row['equivariance_error_standard_error']:.1f}",
                f"{row['copy']:.1f}",
                percentage(row["equivariance_error"], row["copy"]),
                *(f"{row[metric]:.1f}" for metric in ("zero", "autoencoding", "reconstruction_0")),
                str(row["num_images"]),
            )
    console.print(images)


def main(argv: list[str]) -> int:
    import tyro

    config = (tyro.conf.PositionalRequiredArgs,)
    command = tyro.cli(GeneralisationCommand, args=argv, prog="python -m ffrl.generalisation", config=config)
    from ffrl.trained_run import load_trained_run  # loads torch: not before --help has been answered

    trained = load_trained_run(command.run, **command.where())
    check_writable(command.run)
    start = time.perf_counter()
    result = score(command, trained)
    print_tables(result)
    path = command.run / GENERALISATION_FILE
    write_json(path, result)
    print(f"scored in {time.perf_counter() - start:.0f} s; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
