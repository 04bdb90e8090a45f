"""Draw what a run has learned: python -m ffrl.traverse RUN."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffrl.catalogue import DATA_SETS
from ffrl.checks import require, require_integer
from ffrl.command_line import OnRun, percentage, run_command
from ffrl.errors import ArgumentError, OutputError
from ffrl.evaluate import EVALUATION_FILE
from ffrl.run_folder import check_writable, read_metrics, write_atomic, write_json

if TYPE_CHECKING:
    from torch import Tensor

FIGURES_FOLDER = "figures"
COMPOSITION_FILE = "composition.json"
MOST_DIGITS = 10
DIGITS = 4
HANDWRITTEN = ("mnist", "digits")


@dataclasses.dataclass(frozen=True)
class TraverseCommand(OnRun):
    """Draw what a run has learned: grids and animations of its flows on test images, compositions, training curves."""

    out: Path | None = None
    """Folder for the pictures; default RUN/figures."""
    num_digits: int | None = None
    """Test images in each picture, of different classes, drawn at random; default 4."""
    seed: int = 0
    """Of that draw."""
    indices: tuple[int, ...] | None = None
    """Test images by number, instead of a draw and without its num-digits and seed."""
    num_images: int = 1000
    """Test images for the errors of switches and superpositions."""
    batch_size: int = 250

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size"):
            require_integer(name, getattr(self, name), 1)
        require_integer("seed", self.seed, 0)
        if self.num_digits is not None:
            require_integer("num_digits", self.num_digits, 1)
            require(self.num_digits <= MOST_DIGITS, "num_digits", self.num_digits, f"at most {MOST_DIGITS}")
            require(self.indices is None, "num_digits", self.num_digits, "none beside indices, which choose the images")
        if self.indices is not None:
            fits = 1 <= len(self.indices) <= MOST_DIGITS
            require(fits, "indices", self.indices, f"1 to {MOST_DIGITS} numbers of test images")
            for i, index in enumerate(self.indices):
                require_integer(f"indices[{i}]", index, 0)
                require(index not in self.indices[:i], f"indices[{i}]", index, "a number that is not there before")


def choose_digits(labels: Tensor, count: int, seed: int) -> list[int]:
    """``count`` image numbers, drawn by the seed alone, of different classes while there are any."""
    from ffrl.data.draws import stream_key, uniform_integers

    draws = uniform_integers(stream_key(seed, 0), 0, labels.shape[0], 1 << 64)
    order = sorted(range(labels.shape[0]), key=draws.__getitem__)
    classes = labels.tolist()
    met: dict[int, int] = {}
    rank = {}
    for index in order:  # the n-th image of its class has rank n; the sort below is stable
        rank[index] = met[classes[index]] = met.get(classes[index], 0) + 1
    return sorted(order, key=rank.__getitem__)[:count]


def shown_of(name: str) -> str:
    """What the images of a data set show, for a title."""
    return "handwritten digits" if name in HANDWRITTEN else DATA_SETS[name].title


def read_evaluation(run: Path, iteration: int) -> tuple[dict[str, Any] | None, str]:
    """evaluation.json if it is of this iteration, otherwise None and a remark on why not."""
    path = run / EVALUATION_FILE
    if not path.exists():
        return None, f"there is no {path}: the pictures show errors of their own images only"
    try:
        evaluation = json.loads(path.read_text())
        found = evaluation["iteration"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            "run", str(run), f"a run folder with a readable {EVALUATION_FILE}, or none ({error})"
        ) from error
    if found != iteration:
        return (
            None,
            f"{path} is of iteration {found}, not {iteration}: left out; python -m ffrl.evaluate {run} renews it",
        )
    return evaluation, ""


def print_compositions(result: Mapping[str, Any]) -> None:
    """Print the errors of switches and superpositions beside the copy baseline."""
    from rich.console import Console  # here, so that a missing package is reported as run_command does
    from rich.table import Table

    console = Console(width=120)
    steps, at = result["num_steps"], result["switch_at"]
    table = Table(
        title=f"What was never trained: Σ over t=1..{steps} of |x_t - decode(z_t)|₁, mean over test images; "
        f"switches at t={at}"
    )
    for column in ("composition", "E", "copy x_0", "E/copy", "black", "E, shared clock", "images"):
        table.add_column(column, justify="left" if column == "composition" else "right")
    shared = {
        tuple(row["transformations"]): f"{row['equivariance_error']:.1f}"
        for row in result["switch"]
        if row["clock"] == "shared"
    }
    rows = [(row, " → ") for row in result["switch"] if row["clock"] == "own"]
    rows += [(row, " + ") for row in result["superposition"]]
    rows += [(row, " backward") for row in result["backward"]]
    for row, joint in rows:
        names = row["transformations"]
        table.add_row(
            joint.join(names) if len(names) > 1 else names[0] + joint,
            f"{row['equivariance_error']:.1f} ± {row['equivariance_error_standard_error']:.1f}",
            f"{row['copy']:.1f}",
            percentage(row["equivariance_error"], row["copy"]),
            f"{row['zero']:.1f}",
            shared.get(tuple(row["transformations"]), "") if joint == " → " else "",
            str(row["num_images"]),
        )
    console.print(table)
    console.print(
        "→: the first potential up to the switch, then the second, whose own time starts at 1 (with a shared clock it\n"
        "runs on). +: the sum of the velocities in every step. backward: the sign of the velocity reversed.",
        style="dim",
    )


def main(argv: list[str]) -> int:
    import tyro

    config = (tyro.conf.PositionalRequiredArgs,)
    command = tyro.cli(TraverseCommand, args=argv, prog="python -m ffrl.traverse", config=config)
    import torch  # not before --help has been answered

    from ffrl.figures.album import Album
    from ffrl.trained_run import load_trained_run
    from ffrl.traversals import composition_errors

    out = command.run / FIGURES_FOLDER if command.out is None else command.out
    trained = load_trained_run(command.run, **command.where())
    check_writable(out)
    model, iteration, images, data = trained.flow_model(), trained.iteration, trained.images, trained.data
    evaluation, remark = read_evaluation(command.run, iteration)
    chosen = command.indices
    if chosen is None:
        chosen = choose_digits(images.labels, command.num_digits or DIGITS, command.seed)
    for i, index in enumerate(chosen):
        require(index < len(data), f"indices[{i}]", index, f"a number below {len(data)}, the size of the test set")
    how = "chosen by number" if command.indices else f"drawn at random (seed {command.seed})"
    name = images.name if images.name == "shapes" else DATA_SETS[images.name].title
    source = f"Test images of {name}, {how}; model after {iteration:,} iterations"
    composition = composition_errors(model, data, num_images=command.num_images, batch_size=command.batch_size)
    indices = torch.tensor(chosen, device=data.device)
    records = read_metrics(command.run)
    pictures = Album(model, data, indices, source, evaluation, composition, shown_of(images.name)).draw(records)

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder out = {out}: {error.strerror or error}") from error
    header = {"run": str(command.run), "iteration": iteration, "data": trained.config.data, "split": "test"}
    write_json(out / COMPOSITION_FILE, {**header, **composition})
    for name, content in pictures.items():
        write_atomic(out / name, content)
    print_compositions(composition)
    for name in (COMPOSITION_FILE, *pictures):
        print(f"wrote {out / name}")
    for line in (remark, "" if records else "metrics.jsonl is empty: no training curves"):
        if line:
            print(f"note: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
