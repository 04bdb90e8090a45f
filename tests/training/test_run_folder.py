"""Small files of a run folder: the old content or the new one, whatever happens in between."""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil

import pytest

from ffrl.errors import OutputError
from ffrl.run_folder import CONFIG_FILE, create_run, exclusive, load_config, write_atomic, write_json
from ffrl.saved_config import from_dict, to_dict
from tests.training.runs import at_moments_of_a_save, listing, short_run

OLD, NEW = b"old\n" * 1000, b"new\n" * 2000


class Killed(BaseException):
    """Stands for a kill: nothing that expects an Exception can tidy up after it."""


def test_stopped_at_any_moment_a_file_is_the_old_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    found = []
    for moment in range(1, 100):
        path.write_bytes(OLD)

        def stop(now: int, moment: int = moment) -> None:
            if now == moment:
                raise Killed

        try:
            with at_moments_of_a_save(stop):
                write_atomic(path, NEW)
        except Killed:
            found.append(path.read_bytes())
        else:
            break
    assert path.read_bytes() == NEW
    assert set(found) == {OLD, NEW}
    assert found == sorted(found, reverse=True)  # first the old one, then the new one
    assert len(found) > 8
    write_atomic(path, OLD)
    assert listing(tmp_path) == {"file": OLD}


@pytest.mark.parametrize(("module", "name"), [(builtins, "open"), (os, "fsync"), (os, "replace"), (os, "open")])
def test_full_disk_leaves_the_old_file(module, name, monkeypatch, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(OutputError) as caught:
            write_atomic(path, NEW)
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == (NEW if (module, name) == (os, "open") else OLD)  # that one syncs the folder
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_content_is_on_disk_before_it_has_its_name(monkeypatch, tmp_path):
    events = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor):
        events.append(("fsync", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        fsync(descriptor)

    def recording_replace(source, target):
        events.append(("replace", os.stat(source).st_ino, target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    path = tmp_path / "file"
    write_atomic(path, NEW)
    inode = path.stat().st_ino
    assert events[0] == ("fsync", inode, len(NEW))
    assert events[1] == ("replace", inode, path)
    assert events[2][:2] == ("fsync", tmp_path.stat().st_ino)


def test_a_run_folder_that_cannot_be_opened(tmp_path):
    with (
        pytest.raises(OutputError, match=r"cannot open the run folder out = .*run: No such file"),
        exclusive(tmp_path / "run"),
    ):
        pass


def test_folder_that_is_not_there(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(OutputError, match=str(folder / "x.json")):
            write_json(folder / "x.json", 1)
    assert set(listing(tmp_path)) == {"file"}


@pytest.mark.parametrize("depth", [1, 3])
def test_folders_made_for_nothing_are_removed(depth, monkeypatch, tmp_path):
    (tmp_path / "kept").mkdir()
    config = short_run(tmp_path.joinpath("kept", *"abc"[:depth]))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            create_run(config)
    assert set(listing(tmp_path)) == {"kept"}
    create_run(config)
    assert load_config(config.out) == config


def test_saved_configuration_is_the_whole_one(tmp_path):
    config = short_run(tmp_path / "run", data_dir=tmp_path, threads=2, seed=2**40)
    create_run(config)
    text = (config.out / CONFIG_FILE).read_text()
    assert json.loads(text) == to_dict(config)
    assert load_config(config.out) == config == from_dict(json.loads(text))


def test_an_existing_empty_folder_is_used(tmp_path):
    (tmp_path / "run").mkdir()
    create_run(short_run(tmp_path / "run"))
    with pytest.raises(OutputError, match="already holds a run"):
        create_run(short_run(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run")
    create_run(short_run(tmp_path / "run"))
