"""A checkpoint is whole or absent, whatever fails while it is written."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ffrl import checkpoint as checkpoint_module
from ffrl.checkpoint import (
    FOLDER,
    MANIFEST_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    checkpoint_folders,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from ffrl.errors import OutputError
from ffrl.trainer import Trainer
from tests.training.runs import at_moments_of_a_save, differing, newest, run_differences, short_run

FILES = (WEIGHTS_FILE, STATE_FILE, MANIFEST_FILE)


class Killed(BaseException):
    """Stands for a kill: nothing that expects an Exception can tidy up after it."""


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / FOLDER).iterdir())


def assert_holds(run: Path, checkpoint: Checkpoint, iterations: set[int]) -> None:
    """The newest checkpoint is one of those iterations, whole and right."""
    found = newest(run)
    assert found.iteration in iterations
    assert differing(found._replace(iteration=checkpoint.iteration)._asdict(), checkpoint._asdict()) == []


def test_round_trip(trained, tmp_path):
    checkpoint = trained
    folder = save_checkpoint(tmp_path, checkpoint, keep=1)
    assert folder == tmp_path / FOLDER / "00000014" == latest_checkpoint(tmp_path)
    loaded = load_checkpoint(folder)
    assert loaded.iteration == checkpoint.iteration
    assert differing(loaded._asdict(), checkpoint._asdict()) == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    assert manifest["format"] == 1
    assert manifest["files"][WEIGHTS_FILE]["bytes"] == (folder / WEIGHTS_FILE).stat().st_size


def test_the_newest_are_kept(checkpoint, tmp_path):
    for iteration in (5, 10, 100, 99_999_999, 100_000_000):
        save_checkpoint(tmp_path, checkpoint._replace(iteration=iteration), keep=3)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["00000100", "99999999", "100000000"]
    assert newest(tmp_path).iteration == 100_000_000
    save_checkpoint(tmp_path, checkpoint._replace(iteration=100_000_001), keep=1)
    assert names(tmp_path) == ["100000001"]


def test_files_are_as_readable_as_any_other(checkpoint, tmp_path):
    previous = os.umask(0o022)
    try:
        folder = save_checkpoint(tmp_path, checkpoint, keep=1)
    finally:
        os.umask(previous)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == dict.fromkeys(FILES, "0o644")


@pytest.mark.parametrize("keep", [1, 2])
def test_stopped_at_any_moment_there_is_a_whole_checkpoint(keep, checkpoint, run, tmp_path):
    """The same moments as those of the kills in test_resume.py, but all of them, and without a process each."""
    reached = set()
    for moment in range(1, 200):
        copy = shutil.copytree(run, tmp_path / str(moment))

        def stop(now: int, moment: int = moment) -> None:
            if now == moment:
                raise Killed

        try:
            with at_moments_of_a_save(stop):
                save_checkpoint(copy, checkpoint._replace(iteration=3), keep)
        except Killed:
            assert_holds(copy, checkpoint, {2, 3})
        else:
            break
        reached.add(newest(copy).iteration)
        if newest(copy).iteration == 2:
            save_checkpoint(copy, checkpoint._replace(iteration=3), keep=2)
        save_checkpoint(copy, checkpoint._replace(iteration=4), keep=2)
        assert names(copy) == ["00000003", "00000004"]
        assert_holds(copy, checkpoint, {4})
        shutil.rmtree(copy)
    assert reached == {2, 3}
    assert 30 < moment < 199


# Everything that save_checkpoint asks of the operating system or of a library.
CALLS = [
    (os, "mkdir"),
    (os, "open"),
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (io, "open"),
    (builtins, "open"),
    (torch, "save"),
    (safetensors.torch, "save_file"),
    (safetensors.torch, "save"),
    (shutil, "rmtree"),
]


class Full:
    """Lets ``allowed`` of these calls through and fails the next one as a full disk does."""

    def __init__(self, patch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left, self.failed = allowed, ""
        for module, name in CALLS:
            patch.setattr(module, name, self.limited(name, getattr(module, name)))

    def limited(self, name, original):
        def call(*arguments, **options):
            self.left -= 1
            if self.left == -1:
                self.failed = name
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **options)

        return call


def test_full_disk_at_every_call(checkpoint, run, tmp_path):
    failed, allowed = [], 0
    while True:
        copy = shutil.copytree(run, tmp_path / str(allowed))
        with pytest.MonkeyPatch.context() as patch:
            full = Full(patch, allowed)
            try:
                save_checkpoint(copy, checkpoint._replace(iteration=3), keep=2)
                error = None
            except OutputError as raised:
                error = raised
        if not full.failed:
            break
        failed.append(full.failed)
        if error is None:  # making the folder of the checkpoints failed, but it is there
            assert full.failed == "mkdir"
            assert newest(copy).iteration == 3
        else:
            assert "00000003" in str(error)
            assert "No space left on device" in str(error)
        assert_holds(copy, checkpoint, {2, 3})
        save_checkpoint(copy, checkpoint._replace(iteration=4), keep=1)
        assert names(copy) == ["00000004"]
        shutil.rmtree(copy)
        allowed += 1
    assert set(failed) >= {"mkdir", "open", "fsync", "rename", "save", "rmtree"}
    assert failed.count("fsync") >= 5  # three files and two folders
    assert names(copy) == ["00000002", "00000003"]


def test_failure_of_torch_is_reported_alike(checkpoint, run, monkeypatch):
    def save(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file")  # what torch makes of a full disk

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OutputError, match=r"00000003.*failed writing"):
        save_checkpoint(run, checkpoint._replace(iteration=3), keep=2)
    assert names(run) == ["00000001", "00000002"]


def test_run_stops_when_the_disk_is_full(fork_server, uninterrupted, monkeypatch, tmp_path):
    out = tmp_path / "run"
    trainer = Trainer(short_run(out))
    original, saves = checkpoint_module.torch.save, []

    def save(*arguments):
        saves.append(arguments)
        if len(saves) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.torch, "save", save)
        with pytest.raises(OutputError, match=r"00000010.*No space left"):
            trainer.run()
    assert names(out) == ["00000000", "00000005"]
    assert fork_server.train(short_run(out, resume=True)).returncode == 0
    assert run_differences(out, uninterrupted) == []


def test_saving_an_iteration_again_never_loses_it(checkpoint, tmp_path):
    """Stopped at any moment of it; whether it is refused or carried out."""
    for moment in range(1, 200):
        run = tmp_path / str(moment)
        run.mkdir()
        save_checkpoint(run, checkpoint._replace(iteration=2), keep=1)

        def stop(now: int, moment: int = moment) -> None:
            if now == moment:
                raise Killed

        try:
            with at_moments_of_a_save(stop):
                save_checkpoint(run, checkpoint._replace(iteration=2), keep=1)
        except Killed:
            stopped = True
        except OutputError:
            stopped = False
        else:
            stopped = False
        assert_holds(run, checkpoint, {2})
        if not stopped:
            break
    assert not stopped


def test_hidden_files_of_others_are_left_alone(checkpoint, run):
    """Such as those of a network file system or a file browser."""
    (run / FOLDER / ".nfs0001").write_text("")
    (run / FOLDER / ".cache").mkdir()
    (run / FOLDER / ".saving-00000007").mkdir()
    (run / FOLDER / ".retired-00000000").mkdir()
    (run / FOLDER / "notes.txt").write_text("")
    save_checkpoint(run, checkpoint._replace(iteration=3), keep=1)
    assert names(run) == [".cache", ".nfs0001", "00000003", "notes.txt"]


def test_half_written_files_of_a_kill_are_not_looked_at(checkpoint, run):
    partial = shutil.copytree(run / FOLDER / "00000002", run / FOLDER / ".saving-00000003")
    (partial / MANIFEST_FILE).unlink()
    os.truncate(partial / STATE_FILE, 1000)
    assert_holds(run, checkpoint, {2})
