"""One cell of a table: a run trained and measured, unless that has been done, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from ffrl.comparison import compare, evaluate
from ffrl.config import TrainConfig
from ffrl.errors import FfrlError
from ffrl.experiments import HELD_OUT, Measure
from ffrl.run_folder import CONFIG_FILE, load_config, write_json
from ffrl.saved_config import differences
from ffrl.vp_config import VPConfig


class Settings(NamedTuple):
    """How the cells of a table are measured."""

    num_images: int | None  # test images for each number; None: all
    vp: VPConfig


class Cell(NamedTuple):
    """A row with one seed."""

    row: str  # its key
    config: TrainConfig
    measure: Measure

    @property
    def name(self) -> str:
        return f"{self.row}-seed{self.config.seed}"


def measured_by(measure: Measure, settings: Settings) -> dict[str, Any]:
    """The settings that a measure's results depend on, as plain JSON values."""
    vp = json.loads(json.dumps(dataclasses.asdict(settings.vp)))
    if measure == "vp":
        return vp
    return {"num_images": settings.num_images, **({"vp": vp} if measure == "comparison" else {})}


def result_file(cell: Cell) -> Path:
    return cell.config.out / f"cell_{cell.measure}.json"


def finished_result(cell: Cell, settings: Settings) -> dict[str, Any] | None:
    """What the cell measured earlier, or None where that is missing or is of other iterations or settings."""
    try:
        found = json.loads(result_file(cell).read_text())
        wanted = (cell.config.iterations, measured_by(cell.measure, settings))
        if (found["iteration"], found["settings"]) != wanted or differences(load_config(cell.config.out), cell.config):
            return None
        return found["result"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def computed_otherwise(cell: Cell) -> dict[str, str]:
    """Of what changes nothing but rounding, what a finished cell was trained with instead: name -> saved value."""
    saved, wanted = load_config(cell.config.out), cell.config
    pairs = {
        "backend": (saved.backend, wanted.backend),
        "precision": (saved.precision, wanted.precision),
        "device": (saved.device.partition(":")[0], wanted.device.partition(":")[0]),  # as number 0 or any other
    }
    return {name: one for name, (one, other) in pairs.items() if one != other and (name, other) != ("device", "auto")}


def run_cell(cell: Cell, settings: Settings, log: Path, parent: int, report: Connection) -> None:
    """Train and measure a cell in a process of its own, its output going to a log file, and report how it ended.

    Sends ("finished", seconds), ("interrupted", where the run is) or ("failed", reason); a process that is killed
    sends nothing. ``parent`` is the process that has started this one.
    """
    stop_with_parent(parent)
    start = time.perf_counter()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    config = cell.config
    try:
        from ffrl.trainer import Trainer  # loads torch: in the process of the cell only

        if not Trainer(dataclasses.replace(config, resume=(config.out / CONFIG_FILE).exists())).run():
            raise KeyboardInterrupt
        result = {"iteration": config.iterations, "settings": measured_by(cell.measure, settings)}
        write_json(result_file(cell), {**result, "result": measure(cell, settings)})
        report.send(("finished", f"{time.perf_counter() - start:.0f} s"))
    except KeyboardInterrupt:
        report.send(("interrupted", f"its run is saved in {config.out}"))
    except FfrlError as error:
        report.send(("failed", str(error)))
    except Exception as error:
        traceback.print_exc()
        report.send(("failed", f"{type(error).__name__}: {error}"))


def measure(cell: Cell, settings: Settings) -> dict[str, Any]:
    """The numbers of a finished run."""
    from ffrl.trained_run import load_trained_run

    config = cell.config
    where: dict[str, Any] = {"device": config.device, "backend": config.backend, "data_dir": config.data_dir}
    trained = load_trained_run(config.out, match_images=settings.num_images, **where)
    if cell.measure == "vp":
        from ffrl.vp_score import vp_score

        return vp_score(trained.model, trained.data, settings.vp)
    if cell.measure == "comparison":
        return compare(trained, settings.num_images, settings.vp)
    if cell.measure == "generalisation":
        from ffrl.generalisation import GeneralisationCommand, score

        num_images = settings.num_images or len(trained.data)
        command = GeneralisationCommand(config.out, classes=HELD_OUT, num_images=num_images, data_dir=config.data_dir)
        return score(command, trained)
    return evaluate(trained, settings.num_images)


def stop_with_parent(parent: int) -> None:
    """Have this process get SIGTERM, on which training saves and ends, when the one that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
