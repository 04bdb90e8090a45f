"""metrics.jsonl: the means over intervals, in order, without anything that depends on the clock."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest

import ffrl.trainer
from ffrl import run_folder
from ffrl.command_line import run_command
from ffrl.config import OptimizerConfig
from ffrl.errors import OutputError
from ffrl.run_folder import METRICS_FILE, SUMMARY_FILE, read_metrics
from ffrl.trainer import Trainer
from tests.training.runs import newest, run_differences, short_run

TERMS = ("reconstruction", "kl_0", "kl_t", "hj", "loss", "gradient_norm")


def recorded_run(config, steps: list[dict[str, float]]) -> Trainer:
    """Train, and add the terms of every iteration to ``steps``."""
    trainer = Trainer(config)
    step = trainer.step

    def recording_step():
        step()
        steps.append(trainer.ledger.last())

    trainer.step = recording_step
    assert trainer.run() is True
    return trainer


@pytest.mark.parametrize(
    ("log_every", "checkpoint_every", "ends"),
    [(4, 5, [4, 8, 11]), (3, 2, [3, 6, 9, 11]), (1, 4, list(range(1, 12))), (50, 3, [11])],
)
def test_lines_are_means_over_their_interval(log_every, checkpoint_every, ends, tmp_path):
    out, steps = tmp_path / "run", []
    recorded_run(short_run(out, iterations=11, log_every=log_every, checkpoint_every=checkpoint_every), steps)
    lines = read_metrics(out)
    assert [line["iteration"] for line in lines] == ends
    for line, first, last in zip(lines, [0, *ends], ends, strict=False):
        for name in TERMS:
            assert line[name] == pytest.approx(
                sum(step[name] for step in steps[first:last]) / (last - first), rel=1e-12
            )
    assert len({line["loss"] for line in lines}) == len(lines)


def test_the_loss_is_the_sum_of_its_terms(uninterrupted):
    for line in read_metrics(uninterrupted):
        total = line["reconstruction"] + line["kl_0"] + line["kl_t"] + line["hj"]
        assert line["loss"] == pytest.approx(total, rel=1e-6)


def test_an_interval_may_span_a_stop(tmp_path):
    """The terms before the checkpoint are in the mean, although another process computed them."""
    out, steps = tmp_path / "run", []
    config = short_run(out, iterations=6, log_every=6, checkpoint_every=4)
    trainer = Trainer(config)
    original = trainer.step

    def step():
        if trainer.iteration == 4:
            raise KeyboardInterrupt
        original()
        steps.append(trainer.ledger.last())

    trainer.step = step
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert read_metrics(out) == []
    recorded_run(short_run(out, iterations=6, log_every=6, checkpoint_every=4, resume=True), steps)
    (line,) = read_metrics(out)
    assert len(steps) == 6
    assert line["loss"] == pytest.approx(sum(step["loss"] for step in steps) / 6, rel=1e-12)


def test_lines_hold_no_time_and_nothing_else_that_varies(uninterrupted):
    for text in (uninterrupted / METRICS_FILE).read_text().splitlines():
        assert list(json.loads(text)) == ["iteration", *TERMS, "learning_rate", "diffusivity"]


def test_learning_rate_is_the_one_used(tmp_path):
    optimizer = OptimizerConfig(learning_rate=0.01, schedule="cosine", warmup=2)
    Trainer(short_run(tmp_path / "run", iterations=6, log_every=1, optimizer=optimizer)).run()
    rates = [line["learning_rate"] for line in read_metrics(tmp_path / "run")]
    # Warm-up to the full rate, then half a cosine over four iterations, to zero at the last one.
    expected = [0.005, 0.01, 0.01 * (2 + 2**0.5) / 4, 0.005, 0.01 * (2 - 2**0.5) / 4, 0.0]
    assert rates == pytest.approx(expected, abs=1e-12)


@pytest.fixture
def stopped(fork_server, tmp_path):
    """A run stopped at iteration 7, with one line, of iteration 4."""
    out = tmp_path / "run"
    assert fork_server.train(short_run(out), signals_in_step={"numbers": [15], "iteration": 7}).returncode == 0
    assert newest(out).iteration == 7
    assert [line["iteration"] for line in read_metrics(out)] == [4]
    return out


TAILS = {
    "cut off": b'{"iteration": 8, "reconst',
    "cut off after a line": b'{"iteration": 8}\n{"iteration": 12, "l',
    "zeros": b"\0" * 200,
    "zeros and a newline": b"\0" * 200 + b"\n",
    "not text": b"\xff\xfe\xfd\n",
    "no record": b"[]\n17\n{}\n",
    "later lines": b'{"iteration": 8}\n{"iteration": 12}\n',
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_what_a_kill_or_a_power_cut_left_behind_is_dropped(tail, stopped, uninterrupted):
    with open(stopped / METRICS_FILE, "ab") as file:
        file.write(tail)
    assert Trainer(short_run(stopped, resume=True)).run() is True
    assert run_differences(stopped, uninterrupted) == []


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"\0" + content, lambda content: content[:-1], lambda content: b"", lambda content: content[20:]],
    ids=["zero", "no newline", "empty", "no beginning"],
)
def test_damage_before_the_checkpoint_is_an_error(damage, stopped):
    """Those lines were synced before the checkpoint was written: dropping them would hide a loss."""
    path = stopped / METRICS_FILE
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(OutputError, match=f"{METRICS_FILE} is damaged"):
        Trainer(short_run(stopped, resume=True)).run()
    assert path.read_bytes() == before
    path.unlink()
    assert Trainer(short_run(stopped, resume=True)).run() is True
    assert [line["iteration"] for line in read_metrics(stopped)] == [8, 12, 14]


def test_lines_are_on_disk_before_the_checkpoint_that_vouches_for_them(monkeypatch, tmp_path):
    synced, seen = [], []
    fsync, save_checkpoint = os.fsync, ffrl.trainer.save_checkpoint

    def recording_fsync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def recording_save(run, checkpoint, keep):
        path = run / METRICS_FILE
        if checkpoint.iteration:
            seen.append((checkpoint.iteration, len(read_metrics(run)), path.stat().st_ino in synced))
        synced.clear()
        return save_checkpoint(run, checkpoint, keep)

    monkeypatch.setattr(run_folder.os, "fsync", recording_fsync)
    monkeypatch.setattr(ffrl.trainer, "save_checkpoint", recording_save)
    Trainer(short_run(tmp_path / "run", log_every=2)).run()
    assert seen == [(5, 2, True), (10, 5, True), (14, 7, True)]


class FullFile:
    """A file on a full disk."""

    def write(self, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fileno(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self):
        pass


class SlowFile:
    """A file that takes a few bytes at a time, as a raw file may."""

    def __init__(self, file):
        self.file = file

    def write(self, content):
        return self.file.write(content[:7])

    def flush(self):
        self.file.flush()

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


def test_lines_are_written_to_their_end(monkeypatch, uninterrupted, tmp_path):
    class SlowLog(run_folder.MetricsLog):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self._file = SlowFile(self._file)

    monkeypatch.setattr(ffrl.trainer, "MetricsLog", SlowLog)
    assert Trainer(short_run(tmp_path / "run")).run() is True
    assert run_differences(tmp_path / "run", uninterrupted) == []


def test_full_disk_is_reported(monkeypatch, capsys, uninterrupted, tmp_path):
    out = tmp_path / "run"
    original = run_folder.MetricsLog.append

    def append(log, record):
        if record["iteration"] == 8:
            log._file = FullFile()
        original(log, record)

    def command(_):
        Trainer(short_run(out)).run()
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.MetricsLog, "append", append)
        assert run_command(command, []) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1] == f"error: cannot write {out / METRICS_FILE}: No space left on device"
    assert Trainer(short_run(out, resume=True)).run() is True
    assert run_differences(out, uninterrupted) == []


def test_summary_holds_what_the_configuration_does_not_determine(uninterrupted):
    summary = json.loads((uninterrupted / SUMMARY_FILE).read_text())
    assert summary["iteration"] == 14
    assert summary["seconds"] > 0
    assert summary["iterations_per_second"] == pytest.approx(14 / summary["seconds"], rel=0.05)
    assert summary["backend"] in ("analytic", "cpp")
    assert summary["precision"] == "tf32x3"
    assert summary["parameters"] == sum(value.numel() for value in newest(uninterrupted).weights.values())
    assert "digits of scikit-learn" in summary["data_source"]
    assert set(summary["versions"]) == {"ffrl", "torch", "python"}


def test_time_adds_up_over_a_stop(stopped):
    before = json.loads((stopped / SUMMARY_FILE).read_text())["seconds"]
    Trainer(short_run(stopped, resume=True)).run()
    after = json.loads((stopped / SUMMARY_FILE).read_text())
    assert after["iteration"] == 14
    assert after["seconds"] > before > 0


def test_tensorboard_gets_every_line(uninterrupted, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    Trainer(short_run(out, iterations=20, resume=True, tensorboard=True)).run()
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert set(tags) >= {*(f"train/{name}" for name in TERMS), "train/diffusivity/2", "time/iterations_per_second"}
    lines = {line["iteration"]: line for line in read_metrics(out)}
    shown = {event.step: event.value for event in events.Scalars("train/loss")}
    assert shown == pytest.approx({iteration: lines[iteration]["loss"] for iteration in (16, 20)}, rel=1e-6)
    assert list(lines) == [4, 8, 12, 16, 20]  # the last line of the shorter run, of iteration 14, is gone


@pytest.mark.parametrize("failing", ["add_scalar", "close"])
def test_what_tensorboard_cannot_write(failing, uninterrupted, tmp_path, monkeypatch, caplog):
    """Lines end the run with an error of one line; what is left at its end is only told."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    out = tmp_path / "run"
    original_close = SummaryWriter.close

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(writer):  # also fails after a line has: torch's raises again what its thread has
        original_close(writer)
        full()

    message = f"cannot write {out / 'tensorboard'}: No space left on device"
    trainer = Trainer(short_run(out, tensorboard=True))
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "close", close)
        if failing == "close":
            assert trainer.run() is True
        else:
            patch.setattr(SummaryWriter, "add_scalar", full)
            with pytest.raises(OutputError) as caught:
                trainer.run()
            assert str(caught.value) == message
            assert trainer.iteration == 4
            assert Trainer(short_run(out, resume=True)).run() is True
    assert [record.getMessage() for record in caplog.records if record.name == "ffrl.progress"] == [message]
    assert run_differences(out, uninterrupted) == []
