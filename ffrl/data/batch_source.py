"""The training batches of a run, made when they are asked for or beforehand by processes of their own."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from ffrl.config import TrainConfig
from ffrl.data.factor_sequences import FactorSequences, to_floats
from ffrl.data.loading import SequenceData, training_batch
from ffrl.errors import DataError, FfrlError
from ffrl.records import ChosenFrames, SequenceBatch

Batch = tuple[SequenceBatch, ChosenFrames | None]

MADE_BEFOREHAND = 2  # batches, by each process
_PR_SET_PDEATHSIG = 1


class Share(NamedTuple):
    """Of the joint batch of several processes that train."""

    rank: int = 0
    num_ranks: int = 1


class BatchSource:
    """What ``training_batch`` returns for each iteration, whoever makes it.

    With ``config.compute.loader_workers`` above 0, as many processes make the batches of the next iterations while
    training goes on; those of iterations in any other order are right, too, but are waited for.

    Args:
        data: of the run. Images that are drawn on a GPU are drawn when they are due.
        config: of the run.
        share: that of this process.
    """

    def __init__(self, data: SequenceData, config: TrainConfig, share: Share | None = None) -> None:
        self.data, self.config, self.share = data, config, share or Share()
        on_device = isinstance(data, FactorSequences) and data.drawn_on_device
        self.workers = 0 if on_device else config.compute.loader_workers
        self._batches: Any = None  # torch's iterator over Batch or FfrlError
        self._next = 0

    def batch(self, iteration: int) -> Batch:
        """The batch of an iteration, on the device of the data.

        Raises:
            DataError: images cannot be read, or a process that makes batches has ended.
        """
        if not self.workers:
            return training_batch(self.data, self.config, iteration, **self.share._asdict())
        self.start(iteration)
        try:
            found = next(self._batches)
        except Exception as error:
            self.close()
            if str(error).startswith("Caught "):  # an error of the program in a worker that lives, with its traceback
                raise
            raise DataError(f"a process that makes training batches has ended: {error}") from error
        if isinstance(found, FfrlError):
            self.close()
            raise found
        self._next += 1
        batch, frames = found
        moved = SequenceBatch(to_floats(self.data.on_device(batch.x)), self.data.on_device(batch.k))
        return moved, None if frames is None else frames._replace(times=self.data.on_device(frames.times))

    def close(self) -> None:
        """End the processes; another batch starts them again."""
        batches, self._batches = self._batches, None
        if batches is not None:
            batches._shutdown_workers()  # otherwise done when nothing refers to it, as a traceback may

    def start(self, first: int) -> None:
        """Have the processes, if any, begin with the batch of iteration ``first``."""
        if not self.workers or (self._batches is not None and first == self._next):
            return
        self.close()
        maker = copy.copy(self.data)
        assert isinstance(maker, FactorSequences), "a configuration has workers for grids alone"
        maker.device, maker.as_bytes = torch.device("cpu"), True  # a fourth of the memory to pass on
        loader = DataLoader(
            _Batches(maker, self.config, self.share),
            batch_size=None,
            sampler=itertools.count(first),
            num_workers=self.workers,
            prefetch_factor=MADE_BEFOREHAND,
            generator=torch.Generator(),  # by default one draw of torch's own, from which the noise of training comes
            worker_init_fn=_live_and_die_with_the_trainer,
            multiprocessing_context="fork",  # files that are mapped are shared, not copied
        )
        with _handler_kept(signal.SIGCHLD):
            self._batches, self._next = iter(loader), first


class _Batches(Dataset[Batch | FfrlError]):
    """The batch of each iteration, or what was wrong with it, which is raised where training goes on."""

    def __init__(self, data: SequenceData, config: TrainConfig, share: Share) -> None:
        self.data, self.config, self.share = data, config, share

    def __getitem__(self, iteration: int) -> Batch | FfrlError:
        try:
            batch, frames = training_batch(self.data, self.config, iteration, **self.share._asdict())
        except FfrlError as error:
            return error
        try:  # here, as an error in the thread that passes it on would be told to nobody
            for part in (batch.x, batch.k, *([] if frames is None else [frames.times])):
                part.share_memory_()
        except (RuntimeError, OSError) as error:
            size = f"{batch.x.numel() / 1e6:.1f} MB"
            return DataError(
                f"no shared memory (/dev/shm) for a training batch of {size}: {error}; compute.loader_workers = 0 "
                "needs none"
            )
        return batch, frames


def _live_and_die_with_the_trainer(worker: int) -> None:
    """A signal to all processes is for training, which saves and then ends the workers; killed, it takes them along.

    Otherwise they would for seconds hold what they have inherited, such as the lock of the run folder.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # of Linux
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


@contextlib.contextmanager
def _handler_kept(number: signal.Signals) -> Iterator[None]:
    """torch installs one that raises, wherever training is, when a worker ends; it also looks when it waits for one."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
