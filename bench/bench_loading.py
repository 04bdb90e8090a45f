"""Images a second that a data set yields, beside those that training consumes: python -m bench.bench_loading.

Prints a Markdown table. Both sides are of the preset small: a training batch, made or read as the trainer asks for it,
and an iteration on a batch that is there already.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from bench.bench_potential import check_json, positive
from bench.machine import header, machine
from bench.measure import SGEMM_SIZE
from bench.timing import Timing, interleaved, sample, sgemm_call, summary
from bench.train_step_tables import line, milliseconds, table_head
from bench.training_iteration import Iteration, Problem, build_model, sequence_terms
from ffrl.catalogue import GRIDS
from ffrl.command_line import run_command
from ffrl.config import DataName, TrainConfig
from ffrl.data import SequenceData, load_sequences, training_batch
from ffrl.data.batch_source import MADE_BEFOREHAND, BatchSource
from ffrl.errors import DataError
from ffrl.presets import preset_config
from ffrl.records import ChosenFrames, SequenceBatch
from ffrl.run_folder import write_json

SETS = cast("tuple[DataName, ...]", ("mnist", *GRIDS))
COLUMNS = (
    *("data", "images a batch", "processes", "rounds", "a batch, ms", "an iteration, ms"),
    *("images/s", "consumed/s", "ratio"),
)
LEGEND = """
A batch of training and an iteration without it, medians (quartiles) of interleaved rounds; images/s are the frames that
a batch holds. A ratio of 1.5 says that loading takes 40 % of the time, where the two take turns. Where processes make
the batches beforehand, these are timed by themselves, after the iteration; in training the two share the cores."""


class OneBatch(Problem):
    """Every iteration on the same batch, which takes no time."""

    def training_batch(self, number: int) -> SequenceBatch:
        return self.batch


def parse(argv: Sequence[str]) -> argparse.Namespace:
    description, _, note = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.bench_loading", description=description, epilog=note)
    parser.add_argument("--rounds", type=positive, default=7, help="samples of each side of each set")
    parser.add_argument("--threads", type=positive, default=None, help="CPU threads; default torch's choice")
    parser.add_argument(
        "--sets", nargs="+", choices=SETS, metavar="SET", help=f"of {' '.join(SETS)}; default all that are found"
    )
    parser.add_argument("--json", type=Path, default=None, metavar="PATH", help="write all numbers to this file, too")
    arguments = parser.parse_args(argv)
    check_json(parser, arguments.json)
    return arguments


def measure(name: DataName, rounds: int) -> dict[str, Any]:
    """Figures of a set, for a table and for JSON; DataError where its files are not found."""
    config = preset_config("small", name)
    _, data = load_sequences(config, "train")
    numbers = itertools.count(1)

    def load() -> tuple[SequenceBatch, ChosenFrames | None]:
        return training_batch(data, config, next(numbers))

    batch, frames = load()
    terms = functools.partial(sequence_terms, frames=frames)
    iteration = Iteration(OneBatch(config, data, batch, torch.empty(0)), build_model(config, config.backend), terms)
    sides = {"sgemm": sgemm_call(SGEMM_SIZE), "iteration": iteration}
    workers = config.compute.loader_workers
    timings = interleaved(sides if workers else {**sides, "load": load}, rounds)
    if workers:
        timings["load"] = made_beforehand(data, config, rounds)
    images = batch.x.shape[0] * batch.x.shape[1]
    return {
        "data": name,
        "images": images,
        "processes": workers,
        "load": timings["load"]._asdict(),
        "iteration": timings["iteration"]._asdict(),
        "images_per_second": 1e3 * images / timings["load"].median,
        "consumed_per_second": 1e3 * images / timings["iteration"].median,
        "sgemm_gflops": 2 * SGEMM_SIZE**3 / timings["sgemm"].median / 1e6,
    }


def made_beforehand(data: SequenceData, config: TrainConfig, rounds: int) -> Timing:
    """A batch by the processes of a configuration, once those are taken that they had ready."""
    source, numbers = BatchSource(data, config), itertools.count(1)

    def take() -> object:
        return source.batch(next(numbers))

    at_a_time = source.workers * MADE_BEFOREHAND
    try:
        sample(take, 2 * at_a_time)
        values = [sample(take, at_a_time) for _ in range(rounds)]
    finally:
        source.close()
    return summary(values, at_a_time)


def table_row(figures: dict[str, Any]) -> str:
    load, iteration = Timing(**figures["load"]), Timing(**figures["iteration"])
    loaded, consumed = figures["images_per_second"], figures["consumed_per_second"]
    cells = [figures[name] for name in ("data", "images", "processes")]
    return line(
        *map(str, cells),
        str(load.rounds),
        milliseconds(load),
        milliseconds(iteration),
        f"{loaded:,.0f}",
        f"{consumed:,.0f}",
        f"{loaded / consumed:.2f}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(given)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    command, facts = shlex.join(["python", "-m", "bench.bench_loading", *given]), machine()
    print(f"{header(facts)}\n`{command}`\n{LEGEND}\n\n{table_head(COLUMNS)}", flush=True)
    figures, missing = [], []
    for name in dict.fromkeys(arguments.sets or SETS):
        try:
            figures.append(measure(name, arguments.rounds))
        except DataError as error:
            if arguments.sets:
                raise
            missing.append(f"{name} was not timed: {str(error).partition('. ')[0]}")
            continue
        print(table_row(figures[-1]), flush=True)
    print(*missing, sep="\n")
    if arguments.json:
        write_json(arguments.json, {"machine": facts, "command": command, "figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
