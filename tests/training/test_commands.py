"""The commands: help without torch, presets under flags, and a whole run from training to evaluation."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time

import pytest

import ffrl.evaluate
import ffrl.train
from ffrl.command_line import run_command
from ffrl.presets import preset_config
from ffrl.run_folder import CONFIG_FILE, load_config, read_metrics
from ffrl.train import parse_config
from ffrl.trainer import Trainer
from tests.training.fork_server import ROOT
from tests.training.runs import command_line, listing, newest, run_differences, short_run

HELP_SECONDS = 3.0


@pytest.mark.parametrize("module", ["ffrl.train", "ffrl.evaluate"])
def test_help_answers_soon_and_without_torch(module):
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    seconds = []
    for _ in range(3):  # the machine may be busy with something else
        start = time.perf_counter()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < HELP_SECONDS:
            break
    assert result.returncode == 0, result.stderr
    assert min(seconds) < HELP_SECONDS
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if "|" in line}
    assert {"tyro", "ffrl.config"} <= imported
    assert not {"torch", "numpy", "sklearn", "safetensors"} & imported
    assert "--seed" in result.stdout


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_preset_gives_the_defaults(preset, tmp_path):
    config = parse_config(["--preset", preset, "--out", str(tmp_path)])
    expected = preset_config(preset)
    assert config.preset == preset
    assert (config.model, config.loss, config.optimizer) == (expected.model, expected.loss, expected.optimizer)
    assert (config.iterations, config.batch_size) == (expected.iterations, expected.batch_size)
    assert parse_config(["--preset", preset]).out == expected.out


def test_flags_override_the_preset():
    flags = "--preset paper --iterations 7 --loss.hj-weight 2 --no-mixed-batches --seed 3"
    config = parse_config(flags.split())
    assert (config.iterations, config.loss.hj_weight, config.seed, config.mixed_batches) == (7, 2.0, 3, False)
    assert config.model == preset_config("paper").model


def test_documented_flags_are_understood(tmp_path):
    argv = f"--preset small --data mnist --backend auto --iterations 5 --out {tmp_path} --seed 1".split()
    config = parse_config(argv)
    assert (config.preset, config.data, config.backend, config.iterations) == ("small", "mnist", "auto", 5)
    assert (config.out, config.seed, config.resume) == (tmp_path, 1, False)


def test_resume_takes_the_saved_configuration(uninterrupted):
    config = parse_config(["--out", str(uninterrupted), "--resume"])
    saved = load_config(uninterrupted)
    assert config.resume
    assert (config.model, config.batch_size, config.iterations) == (saved.model, saved.batch_size, saved.iterations)
    assert parse_config(["--out", str(uninterrupted), "--resume", "--iterations", "99"]).iterations == 99


def test_command_trains_what_the_trainer_trains(uninterrupted, tmp_path):
    out = tmp_path / "deep" / "run"
    assert run_command(ffrl.train.main, command_line(short_run(out))) == 0
    assert run_differences(out, uninterrupted) == []
    saved, other = load_config(out), load_config(uninterrupted)
    assert (saved.threads, saved.out) == (1, out)
    assert (saved.model, saved.sequence, saved.loss, saved.optimizer) == (
        other.model,
        other.sequence,
        other.loss,
        other.optimizer,
    )


def test_bare_resume_of_a_moved_run(uninterrupted, tmp_path, caplog):
    caplog.set_level("INFO", "ffrl.trainer")
    out = shutil.copytree(uninterrupted, tmp_path / "moved")
    before = listing(out)
    assert run_command(ffrl.train.main, ["--out", str(out), "--resume"]) == 0
    assert listing(out) == before
    assert caplog.messages == [f"{out} is finished: 14 iterations"]
    for iterations in ("16", "18"):
        assert run_command(ffrl.train.main, ["--out", str(out), "--resume", "--iterations", iterations]) == 0
    assert newest(out).iteration == 18
    assert caplog.messages[1:] == [f"{out} continues at iteration {number}" for number in (14, 16)]
    assert json.loads((out / CONFIG_FILE).read_text())["iterations"] == 18
    assert run_command(ffrl.train.main, ["--out", str(out), "--resume"]) == 0
    assert [line["iteration"] for line in read_metrics(out)] == [4, 8, 12, 16, 18]


class Gone(io.StringIO):
    """A pipe whose reader has left, as after ``| head``."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_a_run_goes_on_when_nobody_reads_its_progress(uninterrupted, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", Gone())
    assert Trainer(short_run(tmp_path / "run")).run() is True
    assert run_differences(tmp_path / "run", uninterrupted) == []


def test_evaluate_writes_what_it_prints(uninterrupted, capsys, tmp_path):
    out = shutil.copytree(uninterrupted, tmp_path / "run")
    before = listing(out)
    flags = "--num-images 8 --likelihood-images 4 --importance-samples 2 --batch-size 5 --device cpu"
    assert run_command(ffrl.evaluate.main, [str(out), *flags.split()]) == 0
    printed = capsys.readouterr().out
    after = listing(out)
    assert set(after) - set(before) == {ffrl.evaluate.EVALUATION_FILE}
    assert {name: after[name] for name in before} == before
    result = json.loads(after[ffrl.evaluate.EVALUATION_FILE])
    assert (result["iteration"], result["split"], result["num_images"]) == (14, "test", 8)
    assert set(result["transformations"]) == {"scale", "rotation", "hue"}
    for name, row in result["transformations"].items():
        assert name in printed
        assert f"{row['equivariance_error']:.1f}" in printed
        assert row["log_likelihood"] <= result["log_prob_ceiling"]
        assert row["elbo"] <= row["importance_weighted_bound"] + 1e-6
    assert run_command(ffrl.evaluate.main, [str(out), *flags.split()]) == 0
    again = json.loads((out / ffrl.evaluate.EVALUATION_FILE).read_text())
    assert again == result  # a second evaluation replaces the first with the same numbers
