"""Commands with bad input exit with 2 and one sentence that names the argument and the value; nothing is written."""

from __future__ import annotations

import builtins
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest

import ffrl.evaluate
import ffrl.train
from ffrl.command_line import USAGE_ERROR, run_command
from ffrl.data.mnist import SHA256
from ffrl.errors import OutputError
from ffrl.run_folder import CONFIG_FILE
from ffrl.trainer import Trainer
from tests.training.bad_input_cases import (
    EVALUATE_CASES,
    LABELS,
    TRAIN_CASES,
    TRAIN_IMAGES,
    another_file,
    fill_in,
    mnist_files,
)
from tests.training.fork_server import ROOT
from tests.training.runs import command_line, listing, short_run


class Outcome(NamedTuple):
    """Exit code, and all that was printed without the frame that tyro draws, in one line."""

    code: int
    text: str


def run_main(main: Callable[[list[str]], int], argv: list[str]) -> Outcome:
    printed = io.StringIO()
    with redirect_stderr(printed), redirect_stdout(printed):
        try:
            code = run_command(main, argv)
        except SystemExit as stop:  # from tyro and argparse
            code = int(stop.code or 0)
    return Outcome(code, " ".join(re.sub("[─│╭╮╰╯]", " ", printed.getvalue()).split()))


def assert_refused(outcome: Outcome, parts: tuple[str, ...]) -> None:
    assert outcome.code == USAGE_ERROR, outcome
    assert "Traceback" not in outcome.text
    for part in parts:
        assert " ".join(part.split()) in outcome.text, (part, outcome.text)


@pytest.mark.parametrize("case", TRAIN_CASES.values(), ids=TRAIN_CASES)
def test_train(case, uninterrupted, tmp_path):
    case.prepare(tmp_path, uninterrupted)
    before = listing(tmp_path)
    flags = fill_in(case.flags, tmp_path).split()
    argv = ["--out", str(tmp_path / "run"), *flags] if "--resume" in flags else None
    outcome = run_main(ffrl.train.main, argv or command_line(short_run(tmp_path / "run"), *flags))
    assert_refused(outcome, tuple(fill_in(part, tmp_path) for part in case.parts))
    assert listing(tmp_path) == before


@pytest.mark.parametrize("checksum", ["of the original", "of the damaged file"])
@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: content[:900] + b"?" * 20])
def test_damaged_data_file(damage, checksum, monkeypatch, tmp_path):
    """A truncated or corrupt file is found by its checksum; and by the reader, should it have a matching one."""
    content = damage(gzip.compress(bytes.fromhex("00000803 00000014 0000001c 0000001c") + os.urandom(20 * 28 * 28)))
    mnist_files(content, LABELS)(tmp_path, tmp_path)
    if checksum == "of the damaged file":
        for name, file in ((TRAIN_IMAGES, content), ("train-labels-idx1-ubyte.gz", LABELS)):
            monkeypatch.setitem(SHA256, name, hashlib.sha256(file).hexdigest())
    before = listing(tmp_path)
    argv = command_line(short_run(tmp_path / "run", data="mnist"), "--data-dir", str(tmp_path / "data"))
    problem = "wrong SHA-256" if checksum == "of the original" else TRAIN_IMAGES
    assert_refused(run_main(ffrl.train.main, argv), (f"data/mnist/{TRAIN_IMAGES}: ", problem))
    assert listing(tmp_path) == before


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_folder_without_permission_to_write(call, monkeypatch, tmp_path):
    """Where it may be read but not written, whoever runs the test."""

    def denied(path, *arguments, **options):
        if str(path).startswith(str(tmp_path)) and (call == "mkdir" or "w" in str(arguments)):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    module = os if call == "mkdir" else builtins
    original = getattr(module, call)
    monkeypatch.setattr(module, call, denied)
    outcome = run_main(ffrl.train.main, command_line(short_run(tmp_path / "new" / "run")))
    assert_refused(outcome, (str(tmp_path / "new" / "run"), "Permission denied"))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_new_run_is_refused_before_the_data_are_looked_for(monkeypatch, tmp_path):
    """Otherwise they might be downloaded for nothing."""

    def unexpected(*_):
        raise AssertionError

    monkeypatch.setattr("ffrl.trainer.resolve_name", unexpected)
    monkeypatch.setattr("ffrl.data.loading.load_images", unexpected)
    another_file(tmp_path, tmp_path)
    with pytest.raises(OutputError, match="not an empty folder"):
        Trainer(short_run(tmp_path / "run", data="auto"))


def test_missing_tensorboard_is_found_before_the_folder_is_made(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    argv = command_line(short_run(tmp_path / "run"), "--tensorboard")
    printed = io.StringIO()
    with redirect_stderr(printed), pytest.raises(ModuleNotFoundError, match="tensorboard"):
        run_command(ffrl.train.main, argv)  # named otherwise here than where the package itself is missing
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named_with_the_extra_that_brings_it(capsys):
    def command(_):
        raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")

    assert run_command(command, []) == USAGE_ERROR
    assert "needs the package tensorboard; pip install 'ffrl[train]'" in capsys.readouterr().err


def test_a_start_that_was_killed_while_the_configuration_was_written_can_be_repeated(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / f".{CONFIG_FILE}.partial").write_text('{"out')
    assert Trainer(short_run(out, iterations=1)).run() is True
    assert f".{CONFIG_FILE}.partial" not in listing(out)


@pytest.mark.parametrize("case", EVALUATE_CASES.values(), ids=EVALUATE_CASES)
def test_evaluate(case, uninterrupted, tmp_path):
    case.prepare(tmp_path, uninterrupted)
    before = listing(tmp_path)
    outcome = run_main(ffrl.evaluate.main, fill_in(case.flags, tmp_path).split())
    assert_refused(outcome, tuple(fill_in(part, tmp_path) for part in case.parts))
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("module", "flags", "parts"),
    [
        ("ffrl.train", "--out FOLDER/run --iterations 0", ("iterations = 0",)),
        ("ffrl.train", "--out FOLDER/run --epochs 3", ("--epochs",)),
        ("ffrl.train", "--resume --out FOLDER/run", ("FOLDER/run", "holds no run to resume")),
        ("ffrl.train", "--out FOLDER/run --data mnist --data-dir FOLDER/data", ("data_dir = FOLDER/data",)),
        ("ffrl.evaluate", "FOLDER/run", ("FOLDER/run", "a run folder")),
    ],
)
def test_processes_exit_with_2_and_without_a_traceback(module, flags, parts, tmp_path):
    command = [sys.executable, "-m", module, *fill_in(flags, tmp_path).split()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    text = " ".join(re.sub("[─│╭╮╰╯]", " ", result.stdout + result.stderr).split())
    assert_refused(Outcome(result.returncode, text), tuple(fill_in(part, tmp_path) for part in parts))
    assert list(tmp_path.iterdir()) == []
