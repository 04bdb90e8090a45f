"""The paper's tables: python -m ffrl.tables pdes --seeds 5. Trains every row with every seed, then prints the means."""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffrl.catalogue import DATA_SETS, STILL_IMAGES
from ffrl.cells import Cell, Settings, computed_otherwise, finished_result, run_cell
from ffrl.checks import require, require_integer
from ffrl.command_line import run_command
from ffrl.comparison import REMARK, comparison_numbers, traversal_picture
from ffrl.config import DataName, Preset
from ffrl.errors import ArgumentError
from ffrl.experiments import EXPERIMENTS, HELD_OUT, PAPER_VP, Experiment, TableName, replaced
from ffrl.presets import preset_config
from ffrl.run_folder import check_writable, write_atomic, write_json
from ffrl.vp_config import VPConfig

if TYPE_CHECKING:
    from ffrl.data import GridPart, ImageSet

FAILED = 1
TINY_VP = VPConfig(num_pairs=300, train_fraction=0.2, epochs=10, evaluate_every=10, seeds=(0,))


@dataclasses.dataclass(frozen=True)
class TablesCommand:
    """Train the rows of a table with several seeds, measure them, and print mean ± standard deviation as Markdown.

    Runs and tables go into a folder of OUT that is named by preset, data and iterations; finished cells are not
    repeated, whatever device and backend they ran on, and a stopped command goes on where it was. The table is written
    as Markdown, JSON and a picture, table1 with a second one of what every method makes of a test image.
    """

    name: TableName
    """table1, supervision, priors, pdes, num_k, seq_len, vp or generalisation, of still images; shapes3d, falcor3d or
    isaac3d, of these sets or of what is generated in their place."""
    seeds: int = 5
    """Runs of each row, with the seeds 0, 1, ..."""
    preset: Preset = "small"
    """Sizes and budget of every run."""
    iterations: int | None = None
    """Default that of the preset."""
    out: Path = Path("runs/tables")
    """Parent of the folder of the runs, which tables share, and of the tables."""
    workers: int = 1
    """Runs at a time, each on one CPU thread."""
    data: DataName = "auto"
    """As in training; auto with the name of a set is that set: what is generated in its place has to be asked for."""
    data_dir: Path | None = None
    """Where to look for the data first; default the variable FFRL_DATA."""
    backend: str = "auto"
    """Backend of the potential op."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    num_images: int | None = None
    """Test images for each number; default all, 200 with the preset tiny."""
    vp: VPConfig = dataclasses.field(default_factory=VPConfig)
    """The VP score of vp and table1; where nothing is given, one short training on few pairs with the preset tiny."""

    def __post_init__(self) -> None:
        for name in ("seeds", "workers"):
            require_integer(name, getattr(self, name), 1)
        for name in ("iterations", "num_images"):
            if getattr(self, name) is not None:
                require_integer(name, getattr(self, name), 1)


def table_cells(command: TablesCommand) -> list[Cell]:
    """All cells of the table, row by row."""
    from ffrl.data import load_sequences

    experiment, data = EXPERIMENTS[command.name], table_data(command)
    base = preset_config(command.preset, data)
    load_sequences(base, "train", data_dir=command.data_dir)  # one error here rather than one in every cell
    check_test_images(command, load_sequences(base, "test", data_dir=command.data_dir)[0])
    common: dict[str, Any] = {
        "data": data,
        "data_dir": command.data_dir,
        "backend": command.backend,
        "device": command.device,
        "threads": 1,
        "compute.loader_workers": 0,
        "tensorboard": False,
        "iterations": command.iterations or base.iterations,
    }
    cells = []
    for row in experiment.rows:
        for seed in range(command.seeds):
            out = run_folder(command, data, common["iterations"]) / "runs" / f"{row.key}-seed{seed}"
            config = replaced(base, {**common, **row.changes, "seed": seed, "out": out})
            cells.append(Cell(row.key, config, experiment.measure))
    return cells


def table_data(command: TablesCommand) -> DataName:
    """The data set of a table; raises ArgumentError for one that it is not of."""
    from ffrl.data import resolve_name

    own = EXPERIMENTS[command.name].data
    if not own:
        allowed = ("auto", *STILL_IMAGES)
        require(command.data in allowed, "data", command.data, f"one of {allowed} in table {command.name}")
        return resolve_name(command.data, command.data_dir)
    if command.data == "auto":
        return own[0]
    require(command.data in own, "data", command.data, f"one of {own}, those of table {command.name}")
    return command.data


def check_test_images(command: TablesCommand, images: ImageSet | GridPart) -> None:
    """Raise ArgumentError where the test set does not have what the table's measure needs."""
    measure, count = EXPERIMENTS[command.name].measure, len(images.labels)
    pairs = settings_of(command).vp.num_pairs
    if measure == "vp" and pairs > count:
        raise ArgumentError("vp.num_pairs", pairs, f"at most {count}, the test images of {images.name}")
    if measure == "generalisation" and not set(HELD_OUT) < set(images.labels.tolist()):
        raise ArgumentError("data", repr(images.name), f"data with the classes {HELD_OUT} and others, for this table")


def run_folder(command: TablesCommand, data: str, iterations: int) -> Path:
    """Where the runs of one budget are, which tables share, and their tables."""
    return command.out / f"{command.preset}-{data}-{iterations}"


def settings_of(command: TablesCommand) -> Settings:
    """How the cells are measured, quickly with the preset tiny unless that was said."""
    if command.preset != "tiny":
        return Settings(command.num_images, command.vp)
    return Settings(command.num_images or 200, TINY_VP if command.vp == VPConfig() else command.vp)


def remark_on(command: TablesCommand, cells: Sequence[Cell], settings: Settings) -> str:
    """What a table's numbers are means of."""
    config, measure = cells[0].config, cells[0].measure
    seeds = f"mean ± standard deviation of {command.seeds} seeds" if command.seeds > 1 else "one seed"
    vp, images = settings.vp, f"{'all' if settings.num_images is None else settings.num_images} test images"
    classifiers = (
        f"{len(vp.seeds)} classifier{'s' * (len(vp.seeds) > 1)} on {vp.num_pairs:,} pairs of test images, "
        f"{100 * vp.train_fraction:g} % of them to train on"
    )
    of_measure = {
        "errors": f", {images}. Errors are E_k, summed over t, channels and pixels.",
        "comparison": f", {images}.{REMARK} VP is of {classifiers}, {vp.epochs} epochs.",
        "generalisation": f", {images} at most of each set.",
        "vp": f", each of {classifiers}.",
    }
    data = f"{config.data}{' (drawn by this project)' if DATA_SETS[config.data].generated else ''}"
    return f"Preset {command.preset}, {data}, {config.iterations:,} iterations, {seeds}{of_measure[measure]}"


def comparable(experiment: Experiment, data: DataName, vp: VPConfig) -> Experiment:
    """The table with the data in its title, and of the paper's numbers those that are of the same thing: of MNIST or of
    the published set, and the VP score, of the supervised model, of this share of the pairs."""
    if experiment.data:
        experiment = experiment._replace(title=f"{experiment.title}, on {DATA_SETS[data].title}")
    if data != (experiment.data or ("mnist",))[0]:
        return experiment._replace(rows=tuple(row._replace(paper={}) for row in experiment.rows))
    if experiment.measure != "vp" or vp.train_fraction not in PAPER_VP:
        return experiment
    first, *others = experiment.rows
    return experiment._replace(rows=(first._replace(paper={"VP": PAPER_VP[vp.train_fraction]}), *others))


def numbers(measure: str, result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one cell that a table shows, by column."""
    if measure == "comparison":
        return comparison_numbers(result)
    if measure == "vp":
        return {
            "VP": 100 * result["generated"]["last"],
            "VP, best epoch": 100 * result["generated"]["best"],
            "true pairs": 100 * result["truth"]["last"],
        }
    if measure == "generalisation":
        found = {
            f"{name}: {kind}": 100 * row["equivariance_over_copy"]
            for name, rows in result["images"].items()
            for kind, row in rows.items()
            if row["equivariance_over_copy"] is not None
        }
        for kind in ("switch", "superposition"):
            rows = [row for row in result["composition"][kind] if row.get("clock", "own") == "own"]
            found[f"worst {kind}"] = 100 * max(row["equivariance_over_copy"] for row in rows)
        return found
    found = {name: row["equivariance_error"] for name, row in result["transformations"].items()}
    for name, row in result["transformations"].items():
        if row["equivariance_over_copy"] is not None:
            found[f"{name}, % of copy"] = 100 * row["equivariance_over_copy"]
    if result["matching"] is not None:
        found["k recognized, %"] = 100 * result["matching"]["accuracy"]
    return found


def aggregate(experiment: Experiment, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of the table: label, {column: {mean, standard_deviation, seeds' values}}, and the paper's values."""
    rows = []
    for row in experiment.rows:
        cells = [numbers(experiment.measure, result) for result in results[row.key]]
        names = list(dict.fromkeys(name for cell in cells for name in cell))
        columns = {}
        for name in names:
            values = [cell[name] for cell in cells if name in cell]
            columns[name] = {
                "mean": statistics.fmean(values),
                "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
                "values": values,
            }
        rows.append({"key": row.key, "label": row.label, "columns": columns, "paper": dict(row.paper)})
    return rows


def shown(column: Mapping[str, Any] | None) -> str:
    if column is None:
        return ""
    deviation = column["standard_deviation"]
    return f"{column['mean']:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def markdown(title: str, remark: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, each of our columns followed by the paper's where it has one."""
    names = list(dict.fromkeys(name for row in rows for name in row["columns"]))
    header, lines = ["row"], [[str(row["label"])] for row in rows]
    for name in names:
        header.append(name)
        for line, row in zip(lines, rows, strict=True):
            line.append(shown(row["columns"].get(name)))
        if any(name in row["paper"] for row in rows):
            header.append(f"{name}, paper")
            for line, row in zip(lines, rows, strict=True):
                line.append(f"{row['paper'][name]:.1f}" if name in row["paper"] else "")
    return f"**{title}.** {remark}\n\n{markdown_rows(header, lines)}\n"


def markdown_rows(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Header and lines as a Markdown table, all but the first column to the right."""
    rules = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rules, *lines))


def run_cells(cells: Sequence[Cell], settings: Settings, workers: int, logs: Path) -> dict[str, str]:
    """Run what is not finished, each cell in a process of its own; returns why cells failed, by name.

    Raises:
        ArgumentError: the device of a cell that is not finished is not here.
        KeyboardInterrupt: here or in a cell; the cells that ran have ended and are saved.
    """
    from ffrl.devices import resolve_device

    failures: dict[str, str] = {}
    waiting = [cell for cell in cells if finished_result(cell, settings) is None]
    for device in {cell.config.device for cell in waiting}:
        resolve_device(device)
    total = len(waiting)
    print(f"{len(cells) - total} of {len(cells)} cells are finished", flush=True)
    for cell in (cell for cell in cells if cell not in waiting):
        if other := computed_otherwise(cell):
            how = ", ".join(f"{name} {value}" for name, value in other.items())
            print(f"note: {cell.name} was trained with {how}; another --out trains it anew", flush=True)
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    running: dict[int, tuple[Any, Connection, str]] = {}  # by the handle that tells of a process's end
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell, (receive, send) = waiting.pop(0), context.Pipe(duplex=False)
                arguments = (cell, settings, logs / f"{cell.name}.log", os.getpid(), send)
                process = context.Process(target=run_cell, args=arguments)
                process.start()
                send.close()
                running[process.sentinel] = (process, receive, cell.name)
            for sentinel in multiprocessing.connection.wait(list(running)):
                process, receive, name = running.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                try:
                    outcome, text = receive.recv()
                except EOFError:
                    outcome, text = "failed", f"its process was killed (exit code {process.exitcode})"
                if outcome == "interrupted":
                    raise KeyboardInterrupt
                number = total - len(waiting) - len(running)
                print(f"[{number}/{total}] {name}{': ' if outcome == 'finished' else ' failed: '}{text}", flush=True)
                if outcome == "failed":
                    failures[name] = text
    finally:
        for process, _, _ in running.values():  # none, unless something was raised: then let them save
            process.terminate()
        for process, _, _ in running.values():
            process.join()
    return failures


def main(argv: list[str]) -> int:
    import tyro

    config = (tyro.conf.PositionalRequiredArgs,)
    command = tyro.cli(TablesCommand, args=argv, prog="python -m ffrl.tables", config=config)
    check_writable(command.out)
    from ffrl.figures.table_plot import table_plot  # before the work, so that a missing package is reported first

    experiment, cells = EXPERIMENTS[command.name], table_cells(command)
    settings = settings_of(command)
    out = cells[0].config.out.parents[1]
    failures = run_cells(cells, settings, min(command.workers, os.cpu_count() or 1), out / "runs")
    if failures:
        for name, reason in failures.items():
            print(f"error: {name}: {reason}; see {out / 'runs' / name}.log", file=sys.stderr)
        return FAILED
    experiment = comparable(experiment, cells[0].config.data, settings.vp)
    results: dict[str, list[Any]] = {row.key: [] for row in experiment.rows}
    for cell in cells:
        results[cell.row].append(finished_result(cell, settings))
    rows, remark = aggregate(experiment, results), remark_on(command, cells, settings)
    text = markdown(experiment.title, remark, rows)
    header = {"table": command.name, "title": experiment.title, "remark": remark, "rows": rows}
    write_json(out / f"{command.name}.json", header)
    write_atomic(out / f"{command.name}.md", text.encode())
    write_atomic(out / f"{command.name}.png", table_plot(experiment.title, remark, rows))
    written = f"{out / command.name}.md, .json and .png"
    if experiment.measure == "comparison":
        firsts = cells[:: command.seeds]
        runs = [
            (row.label, cell.config, results[row.key][0]) for row, cell in zip(experiment.rows, firsts, strict=True)
        ]
        path = out / f"{command.name}_traversals.png"
        write_atomic(path, traversal_picture(f"{experiment.title}: traversals", runs))
        written += f", and {path}"
    print(f"\n{text}")
    print(f"wrote {written}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
