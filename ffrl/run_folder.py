"""The folder of a run: configuration, metrics, and writes that leave either the old file or the new one."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from ffrl.config import TrainConfig, from_dict, to_dict
from ffrl.errors import ArgumentError, OutputError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"


def fsync_folder(folder: Path) -> None:
    """Make renames within a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it: fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def create_run(config: TrainConfig) -> None:
    """Make the run folder and save the configuration; raises OutputError where a run would be overwritten."""
    out = config.out
    if (out / CONFIG_FILE).exists():
        raise OutputError(f"out = {out} already holds a run; continue it with --resume, or choose another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"out = {out} exists and is not an empty folder; choose another one")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / CONFIG_FILE, to_dict(config))
    except (OSError, OutputError) as error:
        for folder in made:  # deepest first
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot create the run folder out = {out}: {error.strerror or error}") from error


def load_config(run: Path) -> TrainConfig:
    """The configuration saved in a run folder."""
    path = run / CONFIG_FILE
    if not run.is_dir():
        raise ArgumentError("run", str(run), "a run folder written by python -m ffrl.train")
    try:
        return from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ArgumentError("run", str(run), f"a run folder that holds {CONFIG_FILE}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArgumentError("run", str(run), f"a run folder with a readable {CONFIG_FILE} ({error})") from error


class MetricsLog:
    """metrics.jsonl: one JSON object a line, ascending in iteration, without wall-clock times.

    A resumed run first drops every line after its checkpoint, so that the file ends up bit-identical to that of an
    uninterrupted run.
    """

    def __init__(self, run: Path, iteration: int) -> None:
        self.path = run / METRICS_FILE
        kept = [line for line in complete_lines(self.path) if json.loads(line)["iteration"] <= iteration]
        write_atomic(self.path, "".join(kept).encode())
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def append(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make the lines so far durable; called before the checkpoint that vouches for them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def complete_lines(path: Path) -> list[str]:
    """Lines of a metrics file that end in a newline; a line cut off by a kill is not among them."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of metrics.jsonl."""
    return [json.loads(line) for line in complete_lines(run / METRICS_FILE)]
