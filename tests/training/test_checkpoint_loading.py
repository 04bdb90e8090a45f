"""Nothing but a sound checkpoint of the same configuration is loaded, and nothing in it is executed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ffrl.checkpoint import (
    FOLDER,
    MANIFEST_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    file_stamp,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from ffrl.errors import ArgumentError, CheckpointError
from ffrl.models import build_model
from ffrl.trainer import Trainer, load_model
from tests.training.runs import differing, leaves, listing, newest, short_run

FILES = (WEIGHTS_FILE, STATE_FILE, MANIFEST_FILE)


class Payload:
    """Creates a file when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def stamp_again(folder: Path) -> None:
    """Make the manifest vouch for the files as they are."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"] = {name: file_stamp(folder / name) for name in manifest["files"]}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def test_nothing_is_executed_on_loading(checkpoint, run, tmp_path):
    folder, trace = latest_checkpoint(run), tmp_path / "executed"
    torch.save({**checkpoint.state, "rng": Payload(trace)}, folder / STATE_FILE)
    stamp_again(folder)
    with pytest.raises(CheckpointError, match=STATE_FILE):
        load_checkpoint(folder)
    assert not trace.exists()
    torch.load(folder / STATE_FILE, weights_only=False)
    assert trace.exists()  # the payload would have worked


@pytest.mark.parametrize("name", FILES)
def test_missing_file(name, run):
    (latest_checkpoint(run) / name).unlink()
    with pytest.raises(CheckpointError, match=f"00000002/{name} is missing"):
        load_checkpoint(latest_checkpoint(run))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 1, -1])
def test_truncated_file(name, kept, run):
    path = latest_checkpoint(run) / name
    os.truncate(path, kept if kept >= 0 else path.stat().st_size - 3)
    problem = "is not a readable manifest" if name == MANIFEST_FILE else r"bytes, its manifest says \d+: truncated"
    with pytest.raises(CheckpointError, match=f"{name}.*{problem}"):
        load_checkpoint(latest_checkpoint(run))


@pytest.mark.parametrize("name", [WEIGHTS_FILE, STATE_FILE])
def test_one_changed_bit(name, run):
    path = latest_checkpoint(run) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} has SHA-256 .*: corrupt"):
        load_checkpoint(latest_checkpoint(run))


@pytest.mark.parametrize("name", [WEIGHTS_FILE, STATE_FILE])
@pytest.mark.parametrize("content", [b"", b"no such format", b"\x80\x02K\x01."])
def test_file_of_another_format_under_a_matching_manifest(name, content, run):
    folder = latest_checkpoint(run)
    (folder / name).write_bytes(content)
    stamp_again(folder)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda manifest: {**manifest, "format": 2}, "has format 2, this version reads 1"),
        (lambda manifest: [], "is not a readable manifest"),
        (lambda manifest: {**manifest, "files": {}}, f"does not list {WEIGHTS_FILE} and {STATE_FILE}"),
        (lambda manifest: {**manifest, "files": 7}, "is not a readable manifest"),
        (lambda manifest: {**manifest, "iteration": "2"}, "manifest"),
        (lambda manifest: {**manifest, "files": dict.fromkeys(manifest["files"])}, "cannot be read|manifest"),
        (lambda manifest: {"format": 1}, "is not a readable manifest"),
    ],
)
def test_manifest_of_another_format(change, problem, run):
    path = latest_checkpoint(run) / MANIFEST_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(latest_checkpoint(run))


def test_checkpoint_of_another_model(trained, tmp_path):
    checkpoint, source = trained, tmp_path / "source"
    model = build_model(short_run(tmp_path / "other"))
    wide = dict(checkpoint.weights)
    wide["encoder.mu.bias"] = torch.zeros(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"encoder\.mu\.bias has shape \(5,\) saved, \(4,\) wanted"):
        load_weights(model, checkpoint._replace(weights=wide), source)
    narrow = {name: value for name, value in checkpoint.weights.items() if name != "encoder.mu.bias"}
    with pytest.raises(CheckpointError, match=r"missing \['encoder\.mu\.bias'\], unknown \['x'\]"):
        load_weights(model, checkpoint._replace(weights={**narrow, "x": torch.zeros(1)}), source)
    assert differing(model.state_dict(), before) == []
    load_weights(model, checkpoint, source)
    assert differing(model.state_dict(), checkpoint.weights) == []


@pytest.mark.parametrize(
    "state",
    [{}, {"optimizer": {}}, {"optimizer": {"state": {}, "param_groups": []}}],
    ids=["empty", "no groups", "other parameters"],
)
def test_training_state_of_another_version(state, trained, uninterrupted, tmp_path):
    out = shutil.copytree(uninterrupted, tmp_path / "run")
    shutil.rmtree(out / FOLDER)
    save_checkpoint(out, trained._replace(state=state), keep=1)
    before = listing(out)
    with pytest.raises(CheckpointError, match=STATE_FILE):
        Trainer(short_run(out, resume=True))
    assert listing(out) == before


def test_load_model(trained, uninterrupted):
    model, config, iteration = load_model(uninterrupted, device="cpu")
    assert iteration == 14
    assert config.out == uninterrupted
    assert config.data == "digits"
    assert not model.training
    assert differing(model.state_dict(), trained.weights) == []
    stored = safetensors.torch.load_file(latest_checkpoint(uninterrupted) / WEIGHTS_FILE)
    assert differing(stored, trained.weights) == []


def test_load_model_of_what_is_no_run(uninterrupted, tmp_path):
    with pytest.raises(ArgumentError, match="absent"):
        load_model(tmp_path / "absent", device="cpu")
    out = shutil.copytree(uninterrupted, tmp_path / "run")
    shutil.rmtree(out / FOLDER)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_model(out, device="cpu")


def test_optimizer_state_round_trip(uninterrupted):
    """The restored optimizer has every moment, count and rate of the saved one."""
    saved = newest(uninterrupted).state["optimizer"]
    shutil.copytree(uninterrupted, copy := uninterrupted.parent / "copy")
    try:
        restored = Trainer(short_run(copy, resume=True)).optimizer.state_dict()
    finally:
        shutil.rmtree(copy)
    assert differing(restored, saved) == []
    names = {name.rpartition(".")[2] for name, _ in leaves(restored["state"])}
    assert names == {"step", "exp_avg", "exp_avg_sq"}
    assert {float(moments["step"]) for moments in restored["state"].values()} == {14.0}
    used = [bool(moments["exp_avg_sq"].any()) for moments in restored["state"].values()]
    assert sum(used) > 0.9 * len(used)  # an additive constant of a potential has no gradient
