"""Checkpoints written while training goes on are those that are written at once."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ffrl.trainer
from ffrl.checkpoint import Checkpoint, checkpoint_folders, load_checkpoint
from ffrl.checkpoint_writer import CheckpointWriter, copied, snapshot
from ffrl.config import ComputeConfig, TrainConfig
from ffrl.errors import OutputError, TrainingDiverged
from ffrl.trainer import Trainer
from tests.training.runs import CHECKPOINTS, differing, leaves, newest, run_differences, short_run, training_state

MEANWHILE, AT_ONCE = ComputeConfig(async_checkpoints=True), ComputeConfig(async_checkpoints=False)
SECONDS = 60  # after which something hangs


@pytest.fixture(autouse=True)
def threads() -> Any:
    """No test may leave a thread."""
    before = {thread for thread in threading.enumerate() if thread.is_alive()}
    yield
    assert [thread for thread in threading.enumerate() if thread not in before] == []


def background_run(out: Path, **changes: Any) -> TrainConfig:
    return short_run(out, **{"compute": MEANWHILE, "keep_checkpoints": 9, **changes})


def test_both_ways_write_the_same_run(tmp_path: Path) -> None:
    for name, compute in (("meanwhile", MEANWHILE), ("at once", AT_ONCE)):
        trainer = Trainer(background_run(tmp_path / name, compute=compute))
        assert (trainer.writer is None) == (compute == AT_ONCE)
        assert trainer.run() is True
    assert run_differences(tmp_path / "meanwhile", tmp_path / "at once") == []
    folders = [checkpoint_folders(tmp_path / name) for name in ("meanwhile", "at once")]
    assert [folder.name for folder in folders[0]] == [f"{iteration:08d}" for iteration in CHECKPOINTS]
    for one, other in zip(*folders, strict=True):
        states = [training_state(load_checkpoint(folder)) for folder in (one, other)]
        assert differing(*states) == []


class SlowDisk:
    """A save_checkpoint that begins to write when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow_iteration: int) -> None:
        self.original = ffrl.trainer.save_checkpoint
        self.slow_iteration = slow_iteration
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.written: list[int] = []
        self.threads: set[str] = set()
        monkeypatch.setattr(ffrl.trainer, "save_checkpoint", self.save_checkpoint)

    def save_checkpoint(self, run: Path, checkpoint: Checkpoint, keep: int) -> Path:
        self.threads.add(threading.current_thread().name)
        if checkpoint.iteration == self.slow_iteration:
            self.begun.set()
            assert self.go_on.wait(SECONDS)
        folder = self.original(run, checkpoint, keep)
        self.written.append(checkpoint.iteration)
        return folder


def after_each_step(trainer: Trainer, action: Callable[[int], None]) -> None:
    step = trainer.step

    def watched_step() -> None:
        step()
        action(trainer.iteration)

    trainer.step = watched_step  # type: ignore[method-assign]


def test_training_goes_on_during_a_slow_write_of_what_was_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, 5)
    trainer = Trainer(background_run(tmp_path / "run"))
    then: list[dict[str, torch.Tensor]] = []

    def look(iteration: int) -> None:
        if iteration == 5:
            then.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        if iteration == 9:  # four steps later it has not been written
            assert disk.begun.wait(SECONDS)
            assert disk.written == [0]
            disk.go_on.set()

    after_each_step(trainer, look)
    assert trainer.run() is True
    assert disk.written == [*CHECKPOINTS]
    assert disk.threads == {"checkpoint_0"}
    assert differing(load_checkpoint(checkpoint_folders(tmp_path / "run")[1]).weights, then[0]) == []
    monkeypatch.undo()
    Trainer(background_run(tmp_path / "at once", compute=AT_ONCE)).run()
    for one, other in zip(*map(checkpoint_folders, (tmp_path / "run", tmp_path / "at once")), strict=True):
        states = [training_state(load_checkpoint(folder)) for folder in (one, other)]
        assert differing(*states) == []


def test_a_second_save_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, 5)
    trainer = Trainer(background_run(tmp_path / "run"))
    reached: list[int] = []
    after_each_step(trainer, reached.append)
    run = threading.Thread(target=trainer.run)
    run.start()
    try:
        assert disk.begun.wait(SECONDS)
        run.join(1.0)  # enough for all the steps that are left
        assert run.is_alive()
        assert reached[-1] <= 10  # the save of 10 does not return
        assert disk.written == [0]
    finally:
        disk.go_on.set()
        run.join(SECONDS)
    assert disk.written == [*CHECKPOINTS]
    assert reached == list(range(1, 15))


@pytest.mark.parametrize(("failing", "reached"), [(5, 10), (10, 14), (14, 14)])
def test_an_error_of_the_thread_ends_the_run(
    failing: int, reached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next save, or after the last."""
    failing_save(monkeypatch, failing)
    out = tmp_path / "run"
    trainer = Trainer(background_run(out))
    with pytest.raises(OutputError, match="the disk is full"):
        trainer.run()
    assert trainer.iteration == reached
    monkeypatch.undo()
    assert newest(out).iteration == max(i for i in CHECKPOINTS if i < failing)
    assert Trainer(background_run(out, resume=True)).run() is True
    Trainer(background_run(tmp_path / "whole")).run()
    assert run_differences(out, tmp_path / "whole") == []


def failing_save(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    original = ffrl.trainer.save_checkpoint

    def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
        if checkpoint.iteration == iteration:
            raise OutputError("the disk is full")
        return original(run, checkpoint, keep)

    monkeypatch.setattr(ffrl.trainer, "save_checkpoint", save_checkpoint)


@pytest.mark.parametrize("compute", [MEANWHILE, AT_ONCE], ids=["meanwhile", "at once"])
@pytest.mark.parametrize("failing", [5, 14])
def test_a_checkpoint_that_failed_does_not_count(
    failing: int, compute: ComputeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same trainer goes on where there is room again, and writes what is missing."""
    trainer = Trainer(background_run(tmp_path / "run", compute=compute))
    failing_save(monkeypatch, failing)
    with pytest.raises(OutputError, match="the disk is full"):
        trainer.run()
    monkeypatch.undo()
    assert trainer.run() is True
    assert newest(tmp_path / "run").iteration == 14


def test_an_error_of_the_thread_is_told_where_the_run_ends_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(background_run(tmp_path / "run"))
    failing_save(monkeypatch, 5)

    def fail(iteration: int) -> None:
        if iteration == 7:
            raise KeyboardInterrupt

    after_each_step(trainer, fail)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert caplog.messages == ["the disk is full"]


def test_an_error_of_the_run_waits_for_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, 5)
    trainer = Trainer(background_run(tmp_path / "run"))

    def fail(iteration: int) -> None:
        if iteration == 7:
            assert disk.begun.wait(SECONDS)
            threading.Timer(0.2, disk.go_on.set).start()
            raise KeyboardInterrupt

    after_each_step(trainer, fail)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert disk.written == [0, 5]
    assert newest(tmp_path / "run").iteration == 5


def test_divergence_names_the_checkpoint_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, 5)
    trainer = Trainer(background_run(tmp_path / "run"))

    def spoil(iteration: int) -> None:
        if iteration == 6:
            assert disk.begun.wait(SECONDS)
            threading.Timer(0.5, disk.go_on.set).start()
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(torch.nan)

    after_each_step(trainer, spoil)
    with pytest.raises(TrainingDiverged) as caught:
        trainer.run()
    assert caught.value.iteration == 7
    assert caught.value.kept == str(checkpoint_folders(tmp_path / "run")[-1])
    assert newest(tmp_path / "run").iteration == 5


def test_a_trainer_can_run_again(tmp_path: Path) -> None:
    trainer = Trainer(background_run(tmp_path / "run"))
    after_each_step(trainer, lambda iteration: trainer.signals.append(15) if iteration == 7 else None)
    assert trainer.run() is False
    assert newest(tmp_path / "run").iteration == 7
    assert trainer.run() is True
    Trainer(background_run(tmp_path / "whole")).run()
    assert run_differences(tmp_path / "run", tmp_path / "whole") == []


def test_the_writer_writes_in_order_and_raises_once() -> None:
    writer, done = CheckpointWriter(), []
    writer.wait()
    writer.close()
    for number in range(3):
        writer.submit(lambda number=number: done.append(number))
    writer.submit(lambda: [][0])
    with pytest.raises(IndexError):
        writer.wait()
    writer.wait()
    writer.submit(lambda: done.append(3))
    writer.close()
    assert done == [0, 1, 2, 3]


def test_a_snapshot_shares_nothing() -> None:
    tensors = [torch.randn(3, requires_grad=True), torch.ones(2, 2, dtype=torch.float64), torch.zeros(())]
    state = {"optimizer": {"state": {0: {"step": tensors[2]}}, "param_groups": [{"lr": 0.1, "params": [0]}]}, "n": 2}
    checkpoint = Checkpoint(4, {"weight": tensors[0], "other": tensors[1]}, state)
    copy = snapshot(checkpoint)
    assert differing(copied(training_state(checkpoint)), training_state(copy)) == []
    with torch.no_grad():
        for tensor in tensors:
            tensor.add_(1)
    state["optimizer"]["param_groups"][0]["lr"] = 0.2
    state["n"] = 3
    values = dict(leaves(training_state(copy)))
    assert values[".optimizer.param_groups.0.lr"] == 0.1 and values[".n"] == 2
    assert float(values[".optimizer.state.0.step"]) == 0
    for name, tensor in (("weight", tensors[0]), ("other", tensors[1])):
        assert torch.equal(copy.weights[name] + 1, tensor.detach())
        assert copy.weights[name].dtype == tensor.dtype and not copy.weights[name].requires_grad


def test_the_flag_chooses(tmp_path: Path) -> None:
    config = dataclasses.replace(background_run(tmp_path / "run"), compute=ComputeConfig())
    assert Trainer(config).writer is not None  # the default
