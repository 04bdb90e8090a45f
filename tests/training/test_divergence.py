"""A term that is no longer finite stops the run in the same iteration, by name, and spoils nothing."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch

import ffrl.objective
from ffrl.checkpoint import checkpoint_folders
from ffrl.command_line import run_command
from ffrl.config import OptimizerConfig
from ffrl.errors import TrainingDiverged
from ffrl.losses import SequenceLosses
from ffrl.run_folder import read_metrics
from ffrl.trainer import Trainer
from tests.training.runs import differing, newest, run_differences, short_run

BAD_ITERATION = 8


def all_finite(weights) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in weights.values())


@contextmanager
def spoilt_losses(spoil):
    """Pass what sequence_losses returns in iteration BAD_ITERATION through ``spoil``."""
    original, steps = ffrl.objective.sequence_losses, [0]

    def sequence_losses(*arguments):
        steps[0] += 1
        losses = original(*arguments)
        return spoil(losses) if steps[0] == BAD_ITERATION else losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ffrl.objective, "sequence_losses", sequence_losses)
        yield steps


# Field of SequenceLosses -> the term it is part of.
TERM_OF = {
    "reconstruction": "reconstruction",
    "kl_0": "kl_0",
    "kl_t": "kl_t",
    "hj_residual": "hj",
    "initial_condition": "hj",
}


def test_every_loss_is_covered():
    assert set(TERM_OF) == set(SequenceLosses._fields)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", TERM_OF)
def test_bad_term(field, bad, uninterrupted, tmp_path):
    """One bad value in one sample is enough."""
    out = tmp_path / "run"

    def spoil(losses):
        value = getattr(losses, field).clone()
        value.view(-1)[-1] = bad
        return losses._replace(**{field: value})

    trainer = Trainer(short_run(out, log_every=1))
    before = {}
    step = trainer.step

    def watched_step():
        before.clear()
        before.update({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return step()

    trainer.step = watched_step
    with spoilt_losses(spoil) as steps, pytest.raises(TrainingDiverged) as caught:
        trainer.run()
    assert steps == [BAD_ITERATION]
    assert caught.value.term == TERM_OF[field]
    assert caught.value.iteration == BAD_ITERATION
    assert math.isnan(caught.value.value) if math.isnan(bad) else caught.value.value == bad
    folder = checkpoint_folders(out)[-1]
    assert folder.name == "00000005"
    for part in (repr(TERM_OF[field]), f"iteration {BAD_ITERATION}", str(bad), str(folder)):
        assert part in str(caught.value)
    assert differing(trainer.model.state_dict(), before) == []  # the bad step was not taken
    assert all_finite(trainer.model.state_dict())
    assert all_finite(newest(out).weights)
    assert [line["iteration"] for line in read_metrics(out)] == list(range(1, BAD_ITERATION))


def test_bad_gradient_of_a_finite_loss(tmp_path):
    out = tmp_path / "run"

    def spoil(losses):
        losses.kl_0.register_hook(lambda gradient: gradient * math.nan)
        return losses

    trainer = Trainer(short_run(out))
    with spoilt_losses(spoil), pytest.raises(TrainingDiverged) as caught:
        trainer.run()
    assert (caught.value.term, caught.value.iteration) == ("gradient_norm", BAD_ITERATION)
    assert all_finite(trainer.model.state_dict())
    assert newest(out).iteration == 5


def test_command_reports_it_in_one_line(capsys, tmp_path):
    out = tmp_path / "run"

    def command(_):
        Trainer(short_run(out)).run()
        return 0

    with spoilt_losses(lambda losses: losses._replace(kl_t=losses.kl_t.abs() / 0)):
        code = run_command(command, [])
    error = capsys.readouterr().err
    assert code != 0
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(f"error: loss term 'kl_t' became inf in iteration {BAD_ITERATION};")


def test_what_was_only_a_fault_of_the_machine_can_be_resumed(uninterrupted, tmp_path):
    out = tmp_path / "run"
    with spoilt_losses(lambda losses: losses._replace(kl_0=losses.kl_0 * math.nan)), pytest.raises(TrainingDiverged):
        Trainer(short_run(out)).run()
    assert Trainer(short_run(out, resume=True)).run() is True
    assert run_differences(out, uninterrupted) == []


def test_a_learning_rate_that_diverges_is_stopped(tmp_path):
    """No fault injected: the loss itself overflows."""
    out = tmp_path / "run"
    trainer = Trainer(short_run(out, optimizer=OptimizerConfig(learning_rate=1e15), checkpoint_every=1))
    with pytest.raises(TrainingDiverged) as caught:
        trainer.run()
    assert caught.value.iteration <= 3
    assert caught.value.iteration == newest(out).iteration + 1
    assert all_finite(newest(out).weights)
