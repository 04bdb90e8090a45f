"""What the ledger keeps on the device, and steps that are not taken when nobody looks at them at once."""

from __future__ import annotations

import dataclasses
import math
import signal
from typing import Any

import pytest
import torch

import ffrl.objective
from ffrl.checkpoint import checkpoint_folders
from ffrl.config import ComputeConfig
from ffrl.errors import TrainingDiverged
from ffrl.ledger import LossLedger
from ffrl.run_folder import read_metrics
from ffrl.trainer import Trainer
from tests.training.runs import differing, newest, short_run

BAD_ITERATION, CHECK_EVERY = 8, 5


def entered(*rows: tuple[float, float], ledger: LossLedger | None = None, first: int = 1) -> LossLedger:
    """A ledger with these values of "one" and "two" in iterations first, first + 1, ..."""
    ledger = ledger or LossLedger(torch.device("cpu"))
    for iteration, (one, two) in enumerate(rows, first):
        ledger.add(iteration, {"one": torch.tensor(one), "two": torch.tensor(two)}, stopping=False)
    return ledger


def test_sums_means_and_the_last_values() -> None:
    ledger = entered((1.0, 10.0), (2.0, 20.0), (4.5, 0.0))
    assert (ledger.count, ledger.names) == (3, ["one", "two"])
    assert ledger.sums() == {"one": 7.5, "two": 30.0}
    assert ledger.means() == {"one": 2.5, "two": 10.0}
    assert ledger.last() == {"one": 4.5, "two": 0.0}


def test_sums_are_of_double_precision() -> None:
    ledger = entered((2.0**24, 0.0), (1.0, 0.0), (1.0, 0.0))
    assert ledger.sums()["one"] == 2**24 + 2  # in float32 each 1 would be lost


def test_values_need_neither_a_gradient_nor_float32() -> None:
    ledger = LossLedger(torch.device("cpu"))
    values = {"one": torch.tensor(1.5, requires_grad=True), "two": torch.tensor(2.5, dtype=torch.float64)}
    found = ledger.add(1, values, stopping=False)
    assert not found.requires_grad and found.dtype == torch.float32 and found.shape == ()
    assert ledger.sums() == {"one": 1.5, "two": 2.5}


def test_clear_begins_a_new_interval() -> None:
    ledger = entered((1.0, 10.0), (2.0, 20.0))
    ledger.clear()
    assert (ledger.count, ledger.sums()) == (0, {"one": 0.0, "two": 0.0})
    entered((4.0, 40.0), ledger=ledger)
    assert ledger.means() == {"one": 4.0, "two": 40.0}


def test_restored_sums_go_on() -> None:
    rows = [(0.1, 1.0), (0.2, 2.0), (0.7, 3.0), (0.4, 4.0)]
    whole = entered(*rows)
    half = entered(*rows[:2])
    ledger = LossLedger(torch.device("cpu"))
    ledger.restore(half.sums(), half.count)
    assert (ledger.sums(), ledger.count) == (half.sums(), 2)  # a checkpoint may be written before the next step
    entered(*rows[2:], ledger=ledger)
    assert (ledger.sums(), ledger.count) == (whole.sums(), 4)
    ledger.restore({}, 0)
    entered((5.0, 6.0), ledger=ledger)
    assert ledger.means() == {"one": 5.0, "two": 6.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_value_is_kept(bad: float) -> None:
    ledger = entered((1.0, 1.0), (1.0, bad), (math.inf, -math.inf), (1.0, 1.0))
    assert ledger.diverged
    with pytest.raises(TrainingDiverged) as caught:
        ledger.check("the folder")
    error = caught.value
    assert (error.term, error.iteration, error.kept) == ("two", 2, "the folder")
    assert math.isnan(error.value) if math.isnan(bad) else error.value == bad


def test_of_two_bad_values_the_first_is_named() -> None:
    with pytest.raises(TrainingDiverged, match="'one' became inf in iteration 1;"):
        entered((math.inf, math.nan)).check("none")


def test_check_passes_finite_values() -> None:
    LossLedger(torch.device("cpu")).check("none")
    ledger = entered((1.0, -3e38))
    ledger.check("none")
    assert not ledger.diverged


def test_once_found_no_later_step_is_taken() -> None:
    ledger, flags = LossLedger(torch.device("cpu")), []
    for iteration, value in enumerate((1.0, 2.0, math.nan, 3.0, math.inf, 4.0), 1):
        flags.append(float(ledger.add(iteration, {"one": torch.tensor(value)}, stopping=False)))
    assert flags == [0, 0, 1, 1, 1, 1]
    ledger.clear()
    assert float(ledger.add(7, {"one": torch.tensor(1.0)}, stopping=False)) == 1


def test_a_wish_to_stop_is_that_of_the_last_iteration() -> None:
    ledger = LossLedger(torch.device("cpu"))
    wishes = []
    for iteration, stopping in enumerate((False, True, False), 1):
        ledger.add(iteration, {"one": torch.tensor(1.0)}, stopping=stopping)
        wishes.append(ledger.stop_requested())
    assert wishes == [False, True, False]
    assert ledger.sums() == {"one": 3.0}


def spoil(monkeypatch: pytest.MonkeyPatch, action: Any = None) -> None:
    """Let kl_0 be NaN in BAD_ITERATION, and do something in the iteration after it."""
    original, steps = ffrl.objective.sequence_losses, [0]

    def sequence_losses(*arguments: Any) -> Any:
        steps[0] += 1
        if steps[0] == BAD_ITERATION + 1 and action is not None:
            action()
        losses = original(*arguments)
        return losses._replace(kl_0=losses.kl_0 * math.nan) if steps[0] == BAD_ITERATION else losses

    monkeypatch.setattr(ffrl.objective, "sequence_losses", sequence_losses)


def watched(trainer: Trainer) -> list[dict[str, Any]]:
    """Parameters and state of the optimizer before each step that the trainer will make."""
    before: list[dict[str, Any]] = []
    step = trainer.step

    def watched_step() -> None:
        state = {"weights": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()["state"]}
        before.append(clones(state))
        step()

    trainer.step = watched_step  # type: ignore[method-assign]
    return before


def clones(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: clones(item) for key, item in value.items()}
    return value.clone()


def rarely_checked(out: Any, **changes: Any) -> Trainer:
    config = short_run(out, log_every=50, checkpoint_every=50, iterations=50, **changes)
    return Trainer(dataclasses.replace(config, compute=ComputeConfig(check_every=CHECK_EVERY)))


def test_a_bad_step_is_found_at_the_next_look_and_was_not_taken(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch)
    trainer = rarely_checked(tmp_path / "run")
    before = watched(trainer)
    with pytest.raises(TrainingDiverged) as caught:
        trainer.run()
    assert (caught.value.term, caught.value.iteration) == ("kl_0", BAD_ITERATION)
    assert trainer.iteration == len(before) == 10
    after_7 = before[BAD_ITERATION - 1]
    assert differing(trainer.model.state_dict(), after_7["weights"]) == []
    assert differing(trainer.optimizer.state_dict()["state"], after_7["optimizer"]) == []
    assert differing(before[BAD_ITERATION - 2]["weights"], after_7["weights"]) != []
    assert newest(tmp_path / "run").iteration == 0 and read_metrics(tmp_path / "run") == []


@pytest.mark.parametrize("due", ["log_every", "checkpoint_every"])
def test_a_line_or_a_checkpoint_is_preceded_by_a_look(due: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch)
    out = tmp_path / "run"
    config = short_run(out, log_every=50, checkpoint_every=50, iterations=50, compute=ComputeConfig(check_every=50))
    trainer = Trainer(dataclasses.replace(config, **{due: 3}))
    with pytest.raises(TrainingDiverged, match=f"in iteration {BAD_ITERATION};"):
        trainer.run()
    assert trainer.iteration == 9
    assert [line["iteration"] for line in read_metrics(out)] == ([3, 6] if due == "log_every" else [])
    assert newest(out).iteration == (0 if due == "log_every" else 6)


def test_a_signal_between_two_looks_does_not_save_a_bad_step(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    trainer = rarely_checked(tmp_path / "run")
    with pytest.raises(TrainingDiverged, match=f"in iteration {BAD_ITERATION};"):
        trainer.run()
    assert trainer.iteration == BAD_ITERATION + 1
    assert [folder.name for folder in checkpoint_folders(tmp_path / "run")] == ["00000000"]


def test_how_often_one_looks_makes_no_difference(tmp_path) -> None:
    runs = [tmp_path / "often", tmp_path / "seldom"]
    for out, check_every in zip(runs, (1, 4), strict=True):
        Trainer(short_run(out, compute=ComputeConfig(check_every=check_every))).run()
    one, other = (newest(out) for out in runs)
    assert differing(one.weights, other.weights) == []
    assert read_metrics(runs[0]) == read_metrics(runs[1])
