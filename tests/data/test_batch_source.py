"""Batches made beforehand by processes: the same ones, in any order, and what happens when a process is gone."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from ffrl.config import ComputeConfig, LossConfig, TrainConfig
from ffrl.data import load_sequences, training_batch
from ffrl.data.batch_source import Batch, BatchSource, Share
from ffrl.data.factor_sequences import FactorSequences
from ffrl.errors import ArgumentError, DataError
from ffrl.presets import preset_config
from ffrl.run_folder import load_config
from ffrl.trainer import Trainer
from tests.training.runs import run_differences

CONFIG = dataclasses.replace(preset_config("tiny", "dsprites-generated"), device="cpu", tensorboard=False)


def with_workers(config: TrainConfig, count: int) -> TrainConfig:
    return dataclasses.replace(config, compute=dataclasses.replace(config.compute, loader_workers=count))


def same(one: Batch, other: Batch) -> bool:
    (batch, frames), (wanted, chosen) = one, other
    if frames is None or chosen is None:
        return frames is chosen and torch.equal(batch.x, wanted.x) and torch.equal(batch.k, wanted.k)
    return same((batch, None), (wanted, None)) and torch.equal(frames.times, chosen.times)


def children() -> list[multiprocessing.Process]:
    return multiprocessing.active_children()  # type: ignore[return-value]


def ended(deadline: float = 20.0) -> bool:
    end = time.monotonic() + deadline
    while children() and time.monotonic() < end:
        time.sleep(0.05)
    return not children()


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("frames", [None, 2])
def test_batches_are_those_of_the_run_in_any_order(workers: int, frames: int | None) -> None:
    config = dataclasses.replace(CONFIG, loss=LossConfig(decoded_frames=frames))
    _, data = load_sequences(config, "train")
    source = BatchSource(data, with_workers(config, workers), Share(1, 2))
    assert not children()  # nothing is made before it is asked for
    for iteration in (4, 5, 6, 7, 8, 2, 3, 2):
        assert same(source.batch(iteration), training_batch(data, config, iteration, rank=1, num_ranks=2))
    assert len(children()) == workers
    source.close()
    assert ended()
    assert same(source.batch(9), training_batch(data, config, 9, rank=1, num_ranks=2))
    source.close()
    assert ended()


def test_a_run_with_workers_is_bit_identical_and_leaves_none(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, iterations=6, checkpoint_every=3, log_every=2)
    runs = [dataclasses.replace(with_workers(config, count), out=tmp_path / str(count)) for count in (0, 2)]
    for run in runs:
        assert Trainer(run).run()
        assert ended()
    assert set(run_differences(*(run.out for run in runs))) <= {"config.json", "summary.json"}
    assert load_config(runs[1].out).compute.loader_workers == 2
    longer = dataclasses.replace(with_workers(runs[1], 1), resume=True)
    assert Trainer(longer).run()  # another number continues it


def test_what_is_wrong_with_the_images_is_told_as_without_workers() -> None:
    _, data = load_sequences(CONFIG, "train")
    assert isinstance(data, FactorSequences)
    data.factor_images = copy.copy(data.factor_images)

    def damaged(indices: torch.Tensor) -> torch.Tensor:
        raise DataError("the third file is cut short")

    data.factor_images.images = damaged  # type: ignore[method-assign]
    source = BatchSource(data, with_workers(CONFIG, 1))
    with pytest.raises(DataError, match=r"^the third file is cut short$"):
        source.batch(1)
    assert ended()


def test_a_worker_that_is_killed_is_told() -> None:
    _, data = load_sequences(CONFIG, "train")
    source = BatchSource(data, with_workers(CONFIG, 1))
    source.batch(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # of a batch system to all processes: training is to save first
        os.kill(children()[0].pid, number)  # type: ignore[arg-type]
    for iteration in range(2, 8):
        source.batch(iteration)
    os.kill(children()[0].pid, signal.SIGKILL)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a process that makes training batches has ended"):
        for iteration in range(8, 40):
            source.batch(iteration)
            time.sleep(0.02)
    assert ended()
    source.batch(3)
    source.close()
    assert ended()


def test_still_images_have_no_workers() -> None:
    with pytest.raises(ArgumentError, match=r"compute\.loader_workers = 2 .* take longer to pass on than to make"):
        dataclasses.replace(preset_config("tiny"), compute=ComputeConfig(loader_workers=2))
