"""One cell of a table: a run trained and measured, unless that has been done, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from ffrl.config import EvaluationConfig, TrainConfig, differences
from ffrl.errors import FfrlError
from ffrl.experiments import Measure
from ffrl.run_folder import CONFIG_FILE, load_config, write_json
from ffrl.vp_config import VPConfig


class Interrupted(FfrlError):
    """A cell was stopped by a signal; its run is saved and will be continued."""


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
    if measure == "vp":
        return json.loads(json.dumps(dataclasses.asdict(settings.vp)))
    return {"num_images": settings.num_images}


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


def run_cell(cell: Cell, settings: Settings, log: Path) -> float:
    """Train and measure a cell, its output going to a log file; returns the seconds that took.

    Raises:
        Interrupted: a signal came; the run is saved.
        FfrlError: as training and evaluation.
    """
    stop_with_parent()
    start = time.perf_counter()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    from ffrl.trainer import Trainer  # loads torch: in the process of the cell only

    config = cell.config
    if not Trainer(dataclasses.replace(config, resume=(config.out / CONFIG_FILE).exists())).run():
        raise Interrupted(f"{cell.name} was stopped by a signal; its run is saved")
    result = {"iteration": config.iterations, "settings": measured_by(cell.measure, settings)}
    write_json(result_file(cell), {**result, "result": measure(cell, settings)})
    return time.perf_counter() - start


def measure(cell: Cell, settings: Settings) -> dict[str, Any]:
    """The numbers of a finished run."""
    from ffrl.evaluation import evaluate_model
    from ffrl.trained_run import load_trained_run

    config = cell.config
    trained = load_trained_run(config.out, device=config.device, match_images=settings.num_images)
    if cell.measure == "vp":
        from ffrl.vp_score import vp_score

        return vp_score(trained.model, trained.data, settings.vp)
    if cell.measure == "generalisation":
        from ffrl.generalisation import GeneralisationCommand, score

        command = GeneralisationCommand(config.out, num_images=settings.num_images or len(trained.data))
        return score(command, trained)
    evaluation = EvaluationConfig(num_images=settings.num_images, likelihood_images=100, importance_samples=4)
    return {"matching": trained.matching, **evaluate_model(trained.model, trained.data, evaluation)}


def stop_with_parent() -> None:
    """Have this process get SIGTERM, on which training saves and ends, when the one that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
