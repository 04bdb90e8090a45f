"""The folder of a run: configuration, metrics, and writes that leave either the old file or the new one."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ffrl.config import TrainConfig
from ffrl.errors import ArgumentError, OutputError
from ffrl.saved_config import from_dict, to_dict

logger = logging.getLogger(__name__)

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


def check_writable(out: Path) -> None:
    """Raise OutputError unless the folder, or the nearest one above it that exists, can be written."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"out = {out} cannot be written: {nearest} is not a folder with write permission")


def check_new_run(out: Path) -> None:
    """Raise OutputError where a new run would overwrite something; writes nothing."""
    try:
        if os.path.lexists(out / CONFIG_FILE):
            raise OutputError(f"out = {out} already holds a run; continue it with --resume, or choose another folder")
        # What a kill leaves of create_run is no one's work.
        if os.path.lexists(out) and {*os.listdir(out)} - {f".{CONFIG_FILE}.partial"}:
            raise OutputError(f"out = {out} is not an empty folder; choose another one")
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise OutputError(f"out = {str(out)!r} cannot be a run folder: {error}") from error


@contextlib.contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Raise OutputError while another process trains in a run folder; the lock ends with the process."""
    try:
        descriptor = os.open(run, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot open the run folder out = {run}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutputError(f"out = {run}: another process is training in this folder") from None
    except OSError as error:  # a file system without locks
        logger.warning("%s is not guarded against a second process: %s", run, error.strerror)
    try:
        yield
    finally:
        os.close(descriptor)


def update_config(config: TrainConfig) -> None:
    """Save the configuration of a continuation: from then on, what differs in it holds for the run."""
    write_json(config.out / CONFIG_FILE, to_dict(dataclasses.replace(config, resume=False)))


def create_run(config: TrainConfig) -> None:
    """Make the run folder and save the configuration; raises OutputError where a run would be overwritten."""
    out = config.out
    check_new_run(out)
    made = [folder for folder in (out, *out.parents) if not os.path.exists(folder)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / CONFIG_FILE, to_dict(config))
    except (OSError, OutputError) as error:
        for folder in made:  # deepest first
            if os.path.isdir(folder) and not any(folder.iterdir()):
                folder.rmdir()
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot create the run folder out = {out}: {error.strerror or error}") from error


def load_config(run: Path) -> TrainConfig:
    """The configuration saved in a run folder."""
    if not os.path.isdir(run):
        raise ArgumentError("run", repr(str(run)), "a run folder written by python -m ffrl.train")
    try:
        return from_dict(json.loads((run / CONFIG_FILE).read_text()))
    except FileNotFoundError:
        raise ArgumentError("run", repr(str(run)), f"a run folder that holds {CONFIG_FILE}") from None
    except (OSError, ValueError, TypeError) as error:  # ArgumentError and a JSON error are ValueErrors
        raise ArgumentError("run", repr(str(run)), f"a run folder with a valid {CONFIG_FILE} ({error})") from error


class MetricsLog:
    """metrics.jsonl: one JSON object a line, ascending in iteration, without wall-clock times.

    A resumed run first drops every line after its checkpoint, so that the file ends up bit-identical to that of an
    uninterrupted run. Every method raises OutputError where the file cannot be written.
    """

    def __init__(self, run: Path, iteration: int, log_every: int) -> None:
        self.path = run / METRICS_FILE
        # A line within an interval was the last one of a shorter run, which is now continued.
        kept = [
            line
            for line, record in sound_lines(self.path)
            if record["iteration"] <= iteration and not record["iteration"] % log_every
        ]
        written = iteration // log_every
        if len(kept) < written and self.path.exists():
            raise OutputError(
                f"{self.path} is damaged: {len(kept)} sound lines, but {written} were written by "
                f"iteration {iteration}; move it away to continue without it"
            )
        write_atomic(self.path, b"".join(kept))
        with self._reported():
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def append(self, record: dict[str, Any]) -> None:
        line = memoryview((json.dumps(record) + "\n").encode())
        with self._reported():
            while line:  # a raw file may take less than it is given
                line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Make the lines so far durable; called before the checkpoint that vouches for them."""
        with self._reported():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error


def sound_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Lines of a metrics file with their records, up to the first damaged one: a kill or a power cut spoils the end."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    sound: list[tuple[bytes, dict[str, Any]]] = []
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(record["iteration"], int):
                break
        except (ValueError, TypeError, KeyError):
            break
        sound.append((line, record))
    return sound


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of metrics.jsonl."""
    return [record for _, record in sound_lines(run / METRICS_FILE)]
