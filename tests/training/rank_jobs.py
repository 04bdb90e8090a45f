"""Trains in several processes, one job after another, because torchrun needs seconds to start them.

``torchrun -m tests.training.rank_jobs FOLDER`` does the jobs of FOLDER/jobs.json in every process; ``run_jobs`` is the
other end. A job is a command line of ffrl.train, or a configuration for a ``Trainer``.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import math
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

import ffrl.data.loading
import ffrl.objective
import ffrl.train
import ffrl.trainer
from ffrl.command_line import run_command
from ffrl.config import TrainConfig
from ffrl.distributed import joined, rank
from ffrl.errors import OutputError
from ffrl.saved_config import from_dict, to_dict
from tests.training.fork_server import ROOT, replaced, signals_in_step

NUM_RANKS = 2
JOBS_FILE = "jobs.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """What every process does, and what happens in one of them meanwhile.

    Args:
        config: of a Trainer, or
        argv: of the command.
        hooks: name of a function below -> the rank it happens in and its arguments.
    """

    config: TrainConfig | None = None
    argv: list[str] | None = None
    hooks: dict[str, tuple[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)


class Ended(NamedTuple):
    """How a job ended in one process."""

    code: int
    error: str  # its standard error
    weights: str  # SHA-256 of the model; empty where there is none


def launcher(module: str, *argv: str) -> list[str]:
    """The command that starts a module in two processes."""
    run = ["torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_RANKS}"]
    return [sys.executable, "-m", *run, "-m", module, *argv]


def rank_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_jobs(folder: Path, jobs: dict[str, Job]) -> dict[str, list[Ended]]:
    """How each job ended, by name, in every process."""
    folder.mkdir()
    listed = [
        {"name": name, "config": job.config and to_dict(job.config), "argv": job.argv, "hooks": job.hooks}
        for name, job in jobs.items()
    ]
    (folder / JOBS_FILE).write_text(json.dumps(listed))
    command = launcher("tests.training.rank_jobs", str(folder))
    done = subprocess.run(command, cwd=ROOT, env=rank_environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return {
        name: [Ended(*json.loads((folder / f"{name}.{number}.json").read_text())) for number in range(NUM_RANKS)]
        for name in jobs
    }


@contextmanager
def nan_in_step(iteration: int) -> Iterator[None]:
    """Let the loss of this process become NaN in an iteration."""
    original, steps = ffrl.objective.sequence_losses, [0]

    def sequence_losses(*arguments: Any) -> Any:
        steps[0] += 1
        losses = original(*arguments)
        return losses._replace(kl_t=losses.kl_t * math.nan) if steps[0] == iteration else losses

    with replaced(ffrl.objective, "sequence_losses", sequence_losses):
        yield


@contextmanager
def full_disk(module: str, name: str, call: int) -> Iterator[None]:
    """Let the call-th call of a function fail as it does where nothing can be written."""
    owner = pkgutil.resolve_name(module)
    original, calls = getattr(owner, name), [0]

    def limited(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise OutputError("cannot write: the disk is full")
        return original(*arguments, **options)

    with replaced(owner, name, limited):
        yield


HOOKS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (nan_in_step, signals_in_step, full_disk)
}


def digest(model: torch.nn.Module) -> str:
    """Of every bit of a model's parameters."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode() + value.contiguous().numpy().tobytes())
    return sha.hexdigest()


def do(job: dict[str, Any]) -> tuple[int, str]:
    """Exit code and weights."""
    weights = [""]

    def command(argv: list[str]) -> int:
        if job["config"] is None:
            return ffrl.train.main(argv)
        trainer = ffrl.trainer.Trainer(from_dict(job["config"]))
        try:
            trainer.run()
        finally:
            weights[0] = digest(trainer.model)
        return 0

    with ExitStack() as stack:
        for name, (number, arguments) in job["hooks"].items():
            if number == rank():
                stack.enter_context(HOOKS[name](**arguments))
        try:
            return run_command(command, job["argv"] or []), weights[0]
        except SystemExit as end:
            return int(end.code or 0), weights[0]


@contextmanager
def standard_error_in(path: Path) -> Iterator[None]:
    """Also that of libraries."""
    kept = os.dup(2)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def main(folder: Path) -> None:
    atexit.register(check_threads)
    torch.set_num_threads(1)
    ffrl.data.loading.load_images = cache(ffrl.data.loading.load_images)
    with joined(torch.device("cpu")):
        for job in json.loads((folder / JOBS_FILE).read_text()):
            error = folder / f"{job['name']}.{rank()}.stderr"
            with standard_error_in(error):
                code, weights = do(job)
            ended = Ended(code, error.read_text(), weights)
            (folder / f"{job['name']}.{rank()}.json").write_text(json.dumps(ended))


def check_threads() -> None:
    """A thread of gloo's that frees a tensor while the interpreter ends aborts the process, once in ten times or so."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if any("gloo" in name for name in names):
        print(f"threads at the end: {names}", file=sys.stderr, flush=True)
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
