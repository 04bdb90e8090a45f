"""Checkpoints written while training goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from ffrl.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """One write at a time, in a thread of its own; what fails there is raised by the next call that waits for it."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._writing: Future[Any] | None = None

    def submit(self, write: Callable[[], Any]) -> None:
        """Begin a write, once the one before has ended."""
        self.wait()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing = self._executor.submit(write)

    def wait(self) -> None:
        """Return when nothing is being written; raises what a write has raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let a write end, and the thread with it; logs what nobody has waited for. The next write begins another."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
        if self._writing is not None and (error := self._writing.exception()) is not None:
            logger.error("%s", error)


def snapshot(checkpoint: Checkpoint) -> Checkpoint:
    """A copy in host memory, which training does not change any more."""
    return Checkpoint(checkpoint.iteration, copied(checkpoint.weights), copied(checkpoint.state))


def copied(value: Any) -> Any:
    """Nested dictionaries and lists with every tensor copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value
