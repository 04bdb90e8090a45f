"""The training batches of a run, made when they are asked for or beforehand by processes of their own."""

from __future__ import annotations

import copy
import itertools
import signal
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from ffrl.config import TrainConfig
from ffrl.data.factor_sequences import FactorSequences, to_floats
from ffrl.data.loading import SequenceData, training_batch
from ffrl.errors import DataError, FfrlError
from ffrl.records import ChosenFrames, SequenceBatch

Batch = tuple[SequenceBatch, ChosenFrames | None]

MADE_BEFOREHAND = 2  # batches, by each process


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
        self._batches: Iterator[Batch | FfrlError] | None = None
        self._next = 0

    def batch(self, iteration: int) -> Batch:
        """The batch of an iteration, on the device of the data.

        Raises:
            DataError: images cannot be read, or a process that makes batches has ended.
        """
        if not self.workers:
            return training_batch(self.data, self.config, iteration, **self.share._asdict())
        if self._batches is None or iteration != self._next:
            self._start(iteration)
        assert self._batches is not None
        try:
            found = next(self._batches)
        except RuntimeError as error:  # torch's, of a worker that is gone
            self.close()
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
        self._batches = None

    def _start(self, first: int) -> None:
        self.close()
        maker = copy.copy(self.data)
        assert isinstance(maker, FactorSequences), "a configuration has workers for grids alone"
        maker.device, maker.as_bytes = torch.device("cpu"), True  # a fourth of the memory to pass on
        loader = DataLoader(
            _Batches(maker, self.config, self.share),
            batch_size=None,
            sampler=_From(first),
            num_workers=self.workers,
            prefetch_factor=MADE_BEFOREHAND,
            generator=torch.Generator(),  # by default one draw of torch's own, from which the noise of training comes
            worker_init_fn=_leave_signals_to_the_trainer,
            multiprocessing_context="fork",  # what is read and mapped is shared, not copied
        )
        self._batches, self._next = iter(loader), first


class _Batches(Dataset[Batch | FfrlError]):
    """The batch of each iteration, or what was wrong with it, which is raised where training goes on."""

    def __init__(self, data: SequenceData, config: TrainConfig, share: Share) -> None:
        self.data, self.config, self.share = data, config, share

    def __getitem__(self, iteration: int) -> Batch | FfrlError:
        try:
            return training_batch(self.data, self.config, iteration, **self.share._asdict())
        except FfrlError as error:
            return error


class _From:
    """Iterations from a first one on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)

    def __len__(self) -> int:
        raise TypeError("there is no last one")


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A signal to all processes is for training, which saves and then ends the workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
