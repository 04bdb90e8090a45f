"""VP score of a run: python -m ffrl.vp RUN."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from ffrl.catalogue import DATA_SETS
from ffrl.command_line import OnRun, run_command
from ffrl.run_folder import check_writable, write_json
from ffrl.vp_config import VPConfig

VP_FILE = "vp.json"


@dataclasses.dataclass(frozen=True)
class VPCommand(OnRun):
    """Train classifiers of the transformation on a run's pairs [x_0, x_T], print the score, write vp.json into it."""

    vp: VPConfig = dataclasses.field(default_factory=VPConfig)


def print_score(result: dict[str, Any]) -> None:
    """Print the score beside its ceiling and chance."""
    from rich.console import Console  # here, so that a missing package is reported as run_command does
    from rich.table import Table

    numbers = f"{result['num_train']} pairs to train on, {result['num_test']} to test"
    count, chance = len(result["generated"]["seeds"]), f"{100 * result['chance']:.1f} %"
    seeds = f"mean ± deviation of {count} seeds" if count > 1 else "one seed"
    data = DATA_SETS[result["data"]].title
    table = Table(title=f"VP score on {data}: k told from (x_0, x_T); {numbers}; {seeds}; chance {chance}")
    for column in ("pairs", "last epoch", "best epoch"):
        table.add_column(column, justify="left" if column == "pairs" else "right")
    first = "decode(z_0)" if result["config"]["start"] == "decoded" else "true x_0"
    for name, label in (
        ("generated", f"generated: {first}, decode(z_T)"),
        ("truth", "true: the ceiling for a model that is right"),
        ("still", "true x_0 twice: what x_0 alone gives away"),
    ):
        if name not in result:
            continue
        row = result[name]
        cells = []
        for epoch in ("last", "best"):
            deviation = f" ± {100 * row[f'{epoch}_standard_deviation']:.2f}" if count > 1 else ""
            cells.append(f"{100 * row[epoch]:.2f}{deviation} %")
        table.add_row(label, *cells)
    console = Console(width=120)
    console.print(table)
    console.print("best epoch: chosen on the test pairs, as in the papers, and therefore optimistic.", style="dim")


def main(argv: list[str]) -> int:
    import tyro

    config = (tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes)
    command = tyro.cli(VPCommand, args=argv, prog="python -m ffrl.vp", config=config)
    from ffrl.trained_run import load_trained_run  # load torch: not before --help has been answered
    from ffrl.vp_score import vp_score

    trained = load_trained_run(command.run, **command.where())
    check_writable(command.run)
    start = time.perf_counter()
    result = {
        "run": str(command.run),
        "iteration": trained.iteration,
        "data": trained.config.data,
        "split": "test",
        "matching": trained.matching,
        "traversal": trained.traversal,
        "config": dataclasses.asdict(command.vp),
        **vp_score(trained.model, trained.data, command.vp),
    }
    print_score(result)
    path = command.run / VP_FILE
    write_json(path, result)
    print(f"scored in {time.perf_counter() - start:.0f} s; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
