"""Which configurations may continue a run, and what becomes of them."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from ffrl.checkpoint import FOLDER, checkpoint_folders
from ffrl.config import ModelConfig, OptimizerConfig, SequenceConfig
from ffrl.errors import ArgumentError, CheckpointError
from ffrl.run_folder import CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, load_config, read_metrics
from ffrl.trainer import Trainer
from tests.training.fork_server import resume_run
from tests.training.runs import listing, run_differences, short_run


def test_resuming_a_finished_run_changes_nothing(uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    before = listing(out)
    trainer = Trainer(short_run(out, resume=True))
    assert trainer.run() is True
    assert trainer.iteration == 14
    assert listing(out) == before
    assert set(before) >= {CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, f"{FOLDER}/00000010", f"{FOLDER}/00000014"}


def test_resume_writes_the_summary_that_a_kill_prevented(uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    (out / SUMMARY_FILE).unlink()
    assert Trainer(short_run(out, resume=True)).run() is True
    assert json.loads((out / SUMMARY_FILE).read_text())["iteration"] == 14


@pytest.mark.parametrize("iterations", [6, 10])
def test_a_longer_run_starts_with_the_shorter_one(iterations, fork_server, uninterrupted, tmp_path):
    """6 ends within an interval of the metrics and between checkpoints, 10 on a checkpoint."""
    out = tmp_path / "run"
    assert fork_server.train(short_run(out, iterations=iterations)).returncode == 0
    assert read_metrics(out)[-1]["iteration"] == iterations
    resume_run(fork_server, out)
    assert run_differences(out, uninterrupted) == []
    assert load_config(out).iterations == 14  # so that a bare --resume knows how long the run is
    assert load_config(out).resume is False


def test_cosine_schedule_refuses_another_number_of_iterations(tmp_path):
    optimizer = OptimizerConfig(schedule="cosine", warmup=2)
    config = short_run(tmp_path / "run", optimizer=optimizer, iterations=2)
    Trainer(config).run()
    before = listing(tmp_path)
    with pytest.raises(CheckpointError, match="iterations: saved 2, now 3"):
        Trainer(dataclasses.replace(config, iterations=3, resume=True))
    assert listing(tmp_path) == before


def test_fewer_iterations_than_done_are_refused(uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    before = listing(out)
    with pytest.raises(ArgumentError, match="iterations = 13 is not allowed; expected at least the 14 already done"):
        Trainer(short_run(out, iterations=13, resume=True))
    assert listing(out) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: saved 0, now 1"),
        ({"preset": "small"}, "preset: saved 'tiny', now 'small'"),
        ({"data": "mnist"}, "data: saved 'digits', now 'mnist'"),
        ({"batch_size": 5}, "batch_size: saved 4, now 5"),
        ({"log_every": 5}, "log_every: saved 4, now 5"),
        ({"mixed_batches": False}, "mixed_batches: saved True, now False"),
        ({"sequence": SequenceConfig(num_steps=3)}, "sequence.num_steps: saved 2, now 3"),
        ({"model": ModelConfig(latent_dim=4)}, r"model.conv_widths: saved \[4, 8\], now \[32, 64\]"),
        ({"optimizer": OptimizerConfig(learning_rate=0.5)}, "optimizer.learning_rate: saved 0.001, now 0.5"),
    ],
)
def test_resuming_with_another_configuration_is_refused(changes, message, uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    before = listing(out)
    with pytest.raises(CheckpointError, match=message) as caught:
        Trainer(short_run(out, resume=True, **changes))
    assert str(out) in str(caught.value)
    assert listing(out) == before


def test_what_does_not_change_the_numbers_may_change(fork_server, uninterrupted, tmp_path):
    out = tmp_path / "moved" / "run"
    ended = fork_server.train(short_run(tmp_path / "run"), signals_in_step={"numbers": [15], "iteration": 7})
    assert ended.returncode == 0
    shutil.move(tmp_path / "run", out)
    resume_run(fork_server, out, checkpoint_every=4, keep_checkpoints=1, threads=1)
    assert run_differences(out, uninterrupted) == []
    assert [path.name for path in checkpoint_folders(out)] == ["00000014"]


def test_auto_data_is_pinned(monkeypatch, tmp_path):
    monkeypatch.setattr("ffrl.trainer.resolve_name", lambda name, data_dir: "digits")
    config = short_run(tmp_path / "run", data="auto", iterations=1)
    Trainer(config).run()
    assert load_config(tmp_path / "run").data == "digits"

    def unexpected(name, data_dir):
        raise AssertionError("what is pinned is not looked up again")

    monkeypatch.setattr("ffrl.trainer.resolve_name", unexpected)
    resumed = Trainer(dataclasses.replace(config, resume=True))
    assert resumed.config.data == "digits"
    assert resumed.iteration == 1
