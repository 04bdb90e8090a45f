"""What a training run shows while it runs: a progress bar on a terminal, plain lines elsewhere, TensorBoard on disk."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ffrl.config import TrainConfig
from ffrl.errors import OutputError

logger = logging.getLogger(__name__)

# Plain lines are for log files: one in this many seconds is enough.
PLAIN_LINE_SECONDS = 15.0


def shown(values: Mapping[str, Any], *apart_from: str) -> list[str]:
    """The loss, then its terms: names of the fractional numbers but those named here."""
    names = [name for name, value in values.items() if isinstance(value, float) and name not in apart_from]
    return sorted(names, key=lambda name: name != "loss")


def require_tensorboard() -> None:
    """Raise ModuleNotFoundError where TensorBoard is not installed."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401  slow to import: only when it is wanted


class TrainingProgress:
    """Context manager that follows a run from ``iteration`` on."""

    def __init__(self, config: TrainConfig, iteration: int) -> None:
        self.total, self.first = config.iterations, iteration
        self.start = self.last_line = time.perf_counter()
        self.writer = None
        self.folder = config.out / "tensorboard"
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import: only when it is wanted

            with self._reported():
                self.writer = SummaryWriter(str(self.folder), purge_step=iteration + 1)
        self.console = Console(file=sys.stderr)
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} it/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=self.total, completed=iteration, rate=0.0, losses="")

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.writer is not None:
            try:
                with self._reported():
                    self.writer.close()
            except OutputError as error:  # the run has ended, and its lines are in metrics.jsonl, too
                logger.warning("%s", error)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {error.strerror or error}") from error

    def rate(self, iteration: int) -> float:
        """Iterations per second since the run was started or resumed."""
        return (iteration - self.first) / max(1e-9, time.perf_counter() - self.start)

    def advance(self, iteration: int, terms: dict[str, float]) -> None:
        losses = "  ".join(f"{name} {terms[name]:.1f}" for name in shown(terms, "gradient_norm", "kl_0"))
        self.bar.update(self.task, completed=iteration, rate=self.rate(iteration), losses=losses)

    def report(self, record: dict[str, Any]) -> None:
        """Pass on one line of metrics.jsonl; raises OutputError where TensorBoard cannot write."""
        iteration = record["iteration"]
        if self.writer is not None:
            with self._reported():
                for name, value in record.items():
                    if isinstance(value, list):
                        for i, item in enumerate(value):
                            self.writer.add_scalar(f"train/{name}/{i}", item, iteration)
                    elif name != "iteration":
                        self.writer.add_scalar(f"train/{name}", value, iteration)
                self.writer.add_scalar("time/iterations_per_second", self.rate(iteration), iteration)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self.last_line > PLAIN_LINE_SECONDS or iteration == self.total):
            self.last_line = now
            losses = "  ".join(f"{name} {record[name]:.2f}" for name in shown(record, "gradient_norm", "learning_rate"))
            with contextlib.suppress(OSError):  # whoever read the lines may be gone; the run goes on
                print(
                    f"{iteration}/{self.total}  {self.rate(iteration):.1f} it/s  {losses}", file=sys.stderr, flush=True
                )
