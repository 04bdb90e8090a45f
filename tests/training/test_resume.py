"""A run that was stopped and resumed is the uninterrupted run, bit for bit."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

from ffrl.checkpoint import FOLDER, checkpoint_folders, latest_checkpoint, load_checkpoint, save_checkpoint
from ffrl.errors import CheckpointError
from ffrl.run_folder import METRICS_FILE, read_metrics
from ffrl.trainer import Trainer
from tests.training.fork_server import ForkServer, resume_run
from tests.training.runs import (
    CHECKPOINTS,
    at_moments_of_a_save,
    differing,
    leaves,
    newest,
    run_differences,
    short_run,
    training_state,
)

KILLS_ANYWHERE, KILLS_WHILE_WRITING, KILLS_WHILE_TIDYING = 10, 8, 2


def kill_in_save(fork_server: ForkServer, config, save: int, moment: int) -> set[str]:
    """Names in the checkpoint folder after a kill at a moment of a save."""
    hook = {"number": signal.SIGKILL, "save": save, "moment": moment}
    ended = fork_server.train(config, signal_in_save=hook)
    assert ended.returncode == -signal.SIGKILL, ended.error
    return {path.name for path in (config.out / FOLDER).iterdir()}


@pytest.fixture(scope="module")
def moments(checkpoint, tmp_path_factory):
    """Moments of a save at which the new checkpoint is being written, and those at which it has its name."""
    run = tmp_path_factory.mktemp("moments")
    for iteration in (1, 2):
        save_checkpoint(run, checkpoint._replace(iteration=iteration), keep=2)
    writing, named = [], []

    def look(moment: int) -> None:
        names = {path.name for path in (run / FOLDER).iterdir()}
        if ".saving-00000003" in names:
            writing.append(moment)
        if "00000003" in names:
            named.append(moment)

    with at_moments_of_a_save(look):
        save_checkpoint(run, checkpoint._replace(iteration=3), keep=2)
    assert len(writing) > 15
    assert len(named) > 5
    return writing, named


@pytest.mark.parametrize("number", range(KILLS_ANYWHERE))
def test_kill_at_a_random_moment(number, fork_server, uninterrupted_run, tmp_path):
    out = tmp_path / "run"
    uninterrupted, seconds = uninterrupted_run
    moment = (number + random.random()) / KILLS_ANYWHERE * seconds  # all parts of the run get their share
    ended = fork_server.train(short_run(out), kill_after=moment)
    while ended.returncode == 0:  # it was faster than the uninterrupted run
        moment *= 0.7
        shutil.rmtree(out)
        ended = fork_server.train(short_run(out), kill_after=moment)
    assert ended.returncode == -signal.SIGKILL, ended.error
    assert newest(out).iteration in CHECKPOINTS
    resume_run(fork_server, out)
    assert run_differences(out, uninterrupted) == []


@pytest.mark.parametrize("number", range(KILLS_WHILE_WRITING))
def test_kill_while_a_checkpoint_is_written(number, moments, fork_server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    save = random.choice((2, 3, 4))
    moment = random.choice(moments[0][number::KILLS_WHILE_WRITING])
    names = kill_in_save(fork_server, short_run(out), save, moment)
    assert f".saving-{CHECKPOINTS[save - 1]:08d}" in names, "the kill was not inside the save"
    assert newest(out).iteration == CHECKPOINTS[save - 2]
    resume_run(fork_server, out)
    assert run_differences(out, uninterrupted) == []
    assert {path.name for path in (out / FOLDER).iterdir()} == {"00000010", "00000014"}


@pytest.mark.parametrize("number", range(KILLS_WHILE_TIDYING))
def test_kill_when_a_checkpoint_has_its_name(number, moments, fork_server, uninterrupted, tmp_path):
    """From the rename on until the checkpoints beyond ``keep_checkpoints`` are gone."""
    out = tmp_path / "run"
    save = random.choice((3, 4))
    names = kill_in_save(fork_server, short_run(out), save, random.choice(moments[1][number::KILLS_WHILE_TIDYING]))
    iteration = CHECKPOINTS[save - 1]
    assert f"{iteration:08d}" in names
    assert f".saving-{iteration:08d}" not in names
    assert newest(out).iteration == iteration
    resume_run(fork_server, out)
    assert run_differences(out, uninterrupted) == []


def test_kill_inside_the_first_save_starts_over(moments, fork_server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    names = kill_in_save(fork_server, short_run(out), 1, moments[0][len(moments[0]) // 2])
    assert names == {".saving-00000000"}
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        latest_checkpoint(out)
    resume_run(fork_server, out)
    assert run_differences(out, uninterrupted) == []


def test_several_resumes_in_a_row(moments, fork_server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    reached = []
    kill_in_save(fork_server, short_run(out), 2, moments[0][-1])  # the checkpoint of iteration 5 is lost
    reached.append(newest(out).iteration)
    for number, steps in ((signal.SIGTERM, 3), (signal.SIGKILL, 1), (signal.SIGINT, 4), (signal.SIGTERM, 2)):
        hook = {"numbers": [number], "iteration": steps}
        ended = fork_server.train(short_run(out, resume=True), signals_in_step=hook)
        assert ended.returncode == (-number if number == signal.SIGKILL else 0), ended.error
        reached.append(newest(out).iteration)
    assert reached == [0, 3, 3, 7, 9]
    kill_in_save(fork_server, short_run(out, resume=True), 1, moments[1][0])
    assert newest(out).iteration == 10
    resume_run(fork_server, out)
    assert run_differences(out, uninterrupted) == []


def altered_run(out: Path, source: Path, change) -> None:
    """A copy of a run cut back to iteration 10, its training state passed through ``change``."""
    shutil.copytree(source, out)
    for folder in checkpoint_folders(out):
        shutil.rmtree(folder)
    checkpoint = load_checkpoint(source / FOLDER / "00000010")
    change(checkpoint.state)
    save_checkpoint(out, checkpoint, keep=2)


@pytest.fixture(scope="module")
def with_all_checkpoints(fork_server, tmp_path_factory):
    out = tmp_path_factory.mktemp("all") / "run"
    ended = fork_server.train(short_run(out, keep_checkpoints=9))
    assert ended.returncode == 0, ended.error
    return out


def test_control_unaltered_state_continues_bit_identically(fork_server, uninterrupted, with_all_checkpoints, tmp_path):
    out = tmp_path / "run"
    altered_run(out, with_all_checkpoints, lambda state: None)
    resume_run(fork_server, out)
    assert run_differences(out, uninterrupted) == []


def forget_generator(state) -> None:
    state["rng"] = torch.Generator().manual_seed(0).get_state()


def advance_generator(state) -> None:
    generator = torch.Generator()
    generator.set_state(state["rng"])
    torch.randn(16, generator=generator)
    state["rng"] = generator.get_state()


def forget_moments(state) -> None:
    for moments in state["optimizer"]["state"].values():
        moments["exp_avg"].zero_()


def forget_pending(state) -> None:
    state["pending"], state["pending_count"] = {}, 0


@pytest.mark.parametrize("change", [forget_generator, advance_generator, forget_moments, forget_pending])
def test_control_altered_state_fails_the_comparison(change, fork_server, uninterrupted, with_all_checkpoints, tmp_path):
    out = tmp_path / "run"
    altered_run(out, with_all_checkpoints, change)
    resume_run(fork_server, out)
    assert METRICS_FILE in run_differences(out, uninterrupted)
    one, other = read_metrics(out), read_metrics(uninterrupted)
    assert one[:2] == other[:2]  # the lines before the checkpoint at iteration 10
    assert one[2] != other[2]
    weights_differ = differing(newest(out).weights, newest(uninterrupted).weights) != []
    assert weights_differ == (change is not forget_pending)


def test_another_seed_is_another_run(fork_server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    assert fork_server.train(short_run(out, seed=1)).returncode == 0
    assert len(run_differences(out, uninterrupted)) > len(newest(out).weights)


def test_training_needs_no_process_of_its_own(uninterrupted, tmp_path):
    Trainer(short_run(tmp_path / "run")).run()
    assert run_differences(tmp_path / "run", uninterrupted) == []


def test_the_state_holds_what_is_needed_and_no_more(uninterrupted):
    state = training_state(newest(uninterrupted))
    names = {name.split(".")[1] for name, _ in leaves(state)}
    assert names >= {"iteration", "weights", "optimizer", "rng", "pending_count"}
    assert "seconds" not in names
