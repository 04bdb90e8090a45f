"""Trains in forks of a process that has imported torch once: a start costs milliseconds instead of seconds.

``python -m tests.training.fork_server`` reads one job a line and answers each, when its fork has ended, with how it
ended. ``ForkServer`` is the other end. A fork is a whole process: it can be killed, and signals reach it alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

import ffrl.data.loading
import ffrl.objective
import ffrl.trainer
from ffrl.checkpoint import FOLDER, checkpoint_folders
from ffrl.command_line import run_command
from ffrl.config import TrainConfig
from ffrl.saved_config import from_dict, to_dict
from tests.training.runs import at_moments_of_a_save, short_run

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.001


class Ended(NamedTuple):
    """How a fork ended: its exit code, or minus the signal that ended it."""

    returncode: int
    seconds: float  # since its first checkpoint was there
    error: str  # its standard error


class ForkServer:
    """Starts the server; ``train`` runs one job in it."""

    def __init__(self, folder: Path) -> None:
        # Without GPUs, autograd starts no threads of its own, which a fork would lack.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.fork_server", str(folder)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, config: TrainConfig, kill_after: float | None = None, **hooks: Any) -> Ended:
        """Train in a fork.

        Args:
            config: of the run.
            kill_after: send SIGKILL this many seconds after the first checkpoint is there.
            hooks: name of a function below -> its arguments.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"config": to_dict(config), "kill_after": kill_after, "hooks": hooks}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server has ended"
        return Ended(**json.loads(answer))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def resume_run(server: ForkServer, out: Path, **changes: Any) -> None:
    """Resume a run of ``short_run`` to its end."""
    ended = server.train(short_run(out, resume=True, **changes))
    assert ended.returncode == 0, ended.error


@contextmanager
def signal_in_save(number: int, save: int, moment: int) -> Iterator[None]:
    """Send this process a signal at a moment of its save-th save, both counted from 1."""
    original, saves = ffrl.trainer.save_checkpoint, [0]

    def save_checkpoint(*arguments: Any) -> Path:
        saves[0] += 1
        if saves[0] != save:
            return original(*arguments)
        with at_moments_of_a_save(lambda now: os.kill(os.getpid(), number) if now == moment else None):
            return original(*arguments)

    with replaced(ffrl.trainer, "save_checkpoint", save_checkpoint):
        yield


@contextmanager
def signals_in_step(numbers: list[int], iteration: int) -> Iterator[None]:
    """Send this process signals in an iteration."""
    original = ffrl.objective.sequence_losses
    steps = [0]

    def sequence_losses(*arguments: Any) -> Any:
        steps[0] += 1
        if steps[0] == iteration:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(*arguments)

    with replaced(ffrl.objective, "sequence_losses", sequence_losses):
        yield


@contextmanager
def signal_at_start(number: int) -> Iterator[None]:
    """Send this process a signal while it loads the images."""
    original = ffrl.data.loading.load_images

    def load_images(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(*arguments)

    with replaced(ffrl.data.loading, "load_images", load_images):
        yield


@contextmanager
def ignoring(number: int) -> Iterator[None]:
    """Start with a signal ignored, as a shell does with SIGINT for a command in the background."""
    previous = signal.signal(number, signal.SIG_IGN)
    yield
    signal.signal(number, previous)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


HOOKS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (signal_in_save, signals_in_step, signal_at_start, ignoring)
}


def run_job(job: dict[str, Any]) -> int:
    def command(_: list[str]) -> int:
        ffrl.trainer.Trainer(from_dict(job["config"])).run()
        return 0

    with ExitStack() as stack:
        for name, arguments in job["hooks"].items():
            stack.enter_context(HOOKS[name](**arguments))
        return run_command(command, [])


def fork_job(job: dict[str, Any], error: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = run_job(job)
    except BaseException as unexpected:  # as an interpreter would report it
        traceback.print_exception(unexpected)
    finally:
        sys.stderr.flush()
        os._exit(code)


def await_job(pid: int, run: Path, kill_after: float | None) -> tuple[int, float]:
    """Exit code and seconds since the first checkpoint; kills when it is time to."""
    started: float | None = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        now = time.perf_counter()
        if ended:
            return os.waitstatus_to_exitcode(status), now - (started or now)
        if started is None and (run / FOLDER).is_dir() and checkpoint_folders(run):
            started = now
        if started is not None and kill_after is not None and now - started >= kill_after:
            os.kill(pid, signal.SIGKILL)
            kill_after = None
        time.sleep(POLL_SECONDS)


def serve(folder: Path) -> None:
    torch.set_num_threads(1)
    ffrl.data.loading.load_images = cache(ffrl.data.loading.load_images)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # imports whatever torch imports at first use
        ffrl.trainer.Trainer(short_run(Path(scratch) / "run", iterations=1)).run()
    tasks = Path("/proc/self/task")
    assert not tasks.is_dir() or len(list(tasks.iterdir())) == 1, "a fork would lack the other threads"
    error = folder / "stderr"
    for line in sys.stdin:
        job = json.loads(line)
        pid = fork_job(job, error)
        returncode, seconds = await_job(pid, Path(job["config"]["out"]), job["kill_after"])
        ended = Ended(returncode, seconds, error.read_text())
        print(json.dumps(ended._asdict()), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
    os._exit(0)  # an interpreter with torch takes seconds to say goodbye
