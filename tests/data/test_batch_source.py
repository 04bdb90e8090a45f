"""Batches made beforehand by processes: the same ones, in any order, and what happens when a process is gone."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
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
from ffrl.run_folder import exclusive, load_config
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


def test_what_no_shared_memory_is_left_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = load_sequences(CONFIG, "train")

    def share_memory_(value: torch.Tensor) -> None:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: Resource temporarily unavailable"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", share_memory_)
    source = BatchSource(data, with_workers(CONFIG, 1))
    with pytest.raises(DataError, match=r"no shared memory \(/dev/shm\) .* 0\.3 MB: unable .*loader_workers = 0 needs"):
        source.batch(1)
    assert ended()


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    _, data = load_sequences(CONFIG, "train")
    assert isinstance(data, FactorSequences)
    source = BatchSource(data, with_workers(CONFIG, 1))
    data.split = None  # type: ignore[assignment]
    data._starts = []
    with pytest.raises(IndexError, match="Original Traceback"):
        source.batch(1)
    assert ended()


def test_training_does_not_hear_of_a_worker_in_the_middle_of_something_else() -> None:
    """torch's own handler would raise wherever training is."""
    before = signal.getsignal(signal.SIGCHLD)
    _, data = load_sequences(CONFIG, "train")
    source = BatchSource(data, with_workers(CONFIG, 1))
    source.start(1)
    assert signal.getsignal(signal.SIGCHLD) == before
    os.kill(children()[0].pid, signal.SIGKILL)  # type: ignore[arg-type]
    for _ in range(50):
        time.sleep(0.01)
    source.close()
    assert ended()


RUN = """
import sys
from pathlib import Path
from tests.data.test_batch_source import CONFIG, with_workers
from ffrl.trainer import Trainer
import dataclasses
Trainer(dataclasses.replace(with_workers(CONFIG, 2), out=Path(sys.argv[1]), iterations=100000)).run()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends the workers of a killed process")
def test_a_killed_run_leaves_no_worker_that_holds_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", RUN, str(run)], stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while len(workers_of(process.pid)) < 2 or not (run / "checkpoints").exists():
            assert time.monotonic() < end and process.poll() is None, process.stderr
            time.sleep(0.02)
        workers = workers_of(process.pid)
        process.kill()
    time.sleep(0.1)  # torch's own workers look every few seconds
    assert not any(map(is_running, workers))
    with exclusive(run):
        pass


def workers_of(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []


def is_running(process: str) -> bool:
    """Whether it is there, and not only for its end to be heard of."""
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_still_images_have_no_workers() -> None:
    with pytest.raises(ArgumentError, match=r"compute\.loader_workers = 2 .* take longer to pass on than to make"):
        dataclasses.replace(preset_config("tiny"), compute=ComputeConfig(loader_workers=2))
