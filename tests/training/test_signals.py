"""SIGINT and SIGTERM: save, exit with 0, and be resumable bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from ffrl.checkpoint import FOLDER, checkpoint_folders
from ffrl.config import ComputeConfig
from ffrl.run_folder import METRICS_FILE, SUMMARY_FILE, read_metrics
from ffrl.signals import stop_on_signals
from ffrl.trainer import Trainer
from tests.training.fork_server import ROOT
from tests.training.runs import CHECKPOINTS, command_line, newest, run_differences, short_run

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", NUMBERS)
def test_command_saves_and_exits_cleanly(number, fork_server, tmp_path):
    out = tmp_path / "run"
    tensorboard = number == signal.SIGTERM
    config = short_run(out, iterations=100_000, checkpoint_every=50_000, log_every=1, tensorboard=tensorboard)
    command = [sys.executable, "-m", "ffrl.train", *command_line(config)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        metrics = out / METRICS_FILE
        while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
            time.sleep(0.02)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert "Traceback" not in error
    stopped = newest(out).iteration
    assert f"{number.name}: saved at iteration {stopped}; continue with --resume" in error
    assert [path.name for path in checkpoint_folders(out)] == ["00000000", f"{stopped:08d}"]
    assert [line["iteration"] for line in read_metrics(out)] == list(range(1, stopped + 1))
    assert (out / SUMMARY_FILE).exists()
    assert len(list((out / "tensorboard").glob("events.*"))) == tensorboard

    for folder, resume in ((out, True), (tmp_path / "reference", False)):
        config = short_run(folder, iterations=stopped + 3, log_every=1, resume=resume)
        ended = fork_server.train(config)
        assert ended.returncode == 0, ended.error
    assert run_differences(out, tmp_path / "reference") == []


AT_ONCE, MEANWHILE = ComputeConfig(async_checkpoints=False), ComputeConfig(async_checkpoints=True)


@pytest.mark.parametrize("compute", [AT_ONCE, MEANWHILE], ids=["at once", "meanwhile"])
@pytest.mark.parametrize("number", NUMBERS)
def test_signal_inside_a_save(number, compute, fork_server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    hook = {"number": number, "save": 2, "moment": 20}
    ended = fork_server.train(short_run(out, compute=compute), signal_in_save=hook)
    assert ended.returncode == 0, ended.error
    assert newest(out).iteration == CHECKPOINTS[1] or (compute == MEANWHILE and 5 < newest(out).iteration < 14)
    assert not [path for path in (out / FOLDER).iterdir() if path.name.startswith(".")]
    assert fork_server.train(short_run(out, resume=True)).returncode == 0
    assert run_differences(out, uninterrupted) == []


def test_signal_inside_the_first_save(fork_server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    hook = {"number": signal.SIGTERM, "save": 1, "moment": 20}
    ended = fork_server.train(short_run(out, compute=AT_ONCE), signal_in_save=hook)
    assert ended.returncode == 0, ended.error
    assert newest(out).iteration == 0
    assert fork_server.train(short_run(out, resume=True)).returncode == 0
    assert run_differences(out, uninterrupted) == []


def test_second_signal_stops_at_once(fork_server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    hook = {"numbers": [signal.SIGTERM, signal.SIGTERM], "iteration": 7}
    ended = fork_server.train(short_run(out, compute=AT_ONCE), signals_in_step=hook)
    assert ended.returncode == -signal.SIGTERM
    assert newest(out).iteration == 5
    assert fork_server.train(short_run(out, resume=True)).returncode == 0
    assert run_differences(out, uninterrupted) == []


def test_second_interrupt_is_reported_without_a_traceback(fork_server, tmp_path):
    out = tmp_path / "run"
    hook = {"numbers": [signal.SIGINT, signal.SIGINT], "iteration": 7}
    ended = fork_server.train(short_run(out, compute=AT_ONCE), signals_in_step=hook)
    assert ended.returncode == 128 + signal.SIGINT, ended.error
    assert "Traceback" not in ended.error
    assert ended.error.endswith("interrupted\n")
    assert newest(out).iteration == 5


def test_the_same_signal_within_the_grace_is_no_second_one():
    with stop_on_signals(grace=0.2) as received:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert received == NUMBERS
        time.sleep(0.25)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert received == NUMBERS


@pytest.mark.parametrize(("number", "returncode"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_signal_before_there_is_a_run_leaves_nothing(number, returncode, fork_server, tmp_path):
    ended = fork_server.train(short_run(tmp_path / "run"), signal_at_start={"number": number})
    assert ended.returncode == returncode, ended.error
    assert "Traceback" not in ended.error
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored(fork_server, uninterrupted, tmp_path):
    out = tmp_path / "run"
    hooks = {"ignoring": {"number": signal.SIGINT}, "signals_in_step": {"numbers": [signal.SIGINT], "iteration": 3}}
    ended = fork_server.train(short_run(out), **hooks)
    assert ended.returncode == 0, ended.error
    assert newest(out).iteration == 14
    assert run_differences(out, uninterrupted) == []


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in NUMBERS]
    seen = []
    trainer = Trainer(short_run(tmp_path / "run", iterations=1))
    step = trainer.step

    def watched_step():
        seen.extend(signal.getsignal(number) for number in NUMBERS)
        return step()

    trainer.step = watched_step
    assert trainer.run() is True
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert not set(seen) & set(before)


def test_trains_in_a_thread(tmp_path):
    """Only the main thread may handle signals; in another one they are left alone."""
    trainer = Trainer(short_run(tmp_path / "run", iterations=2))
    done = []
    thread = threading.Thread(target=lambda: done.append(trainer.run()))
    thread.start()
    thread.join()
    assert done == [True]
    assert newest(tmp_path / "run").iteration == 2


def test_two_processes_cannot_train_in_one_folder(fork_server, tmp_path):
    out = tmp_path / "run"
    trainer = Trainer(short_run(out, iterations=4, checkpoint_every=2))
    step, second = trainer.step, []

    def step_and_start_a_second():
        if not second:
            second.append(fork_server.train(short_run(out, iterations=4, checkpoint_every=2, resume=True)))
        return step()

    trainer.step = step_and_start_a_second
    assert trainer.run() is True
    assert second[0].returncode == 2
    assert f"out = {out}: another process is training in this folder" in second[0].error
    assert newest(out).iteration == 4
    assert [line["iteration"] for line in read_metrics(out)] == [4]
