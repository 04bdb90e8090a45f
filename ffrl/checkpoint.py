"""Checkpoints that are either whole or absent.

A checkpoint is a folder ``checkpoints/00001000`` with the weights (safetensors), the rest of the training state
(optimizer, random number generators, pending averages) and a manifest with sizes and SHA-256 sums. It is written under
another name, synced, and renamed; loading checks the manifest first and never unpickles anything but tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ffrl.errors import CheckpointError, OutputError
from ffrl.run_folder import fsync_folder

FOLDER = "checkpoints"
WEIGHTS_FILE = "model.safetensors"
STATE_FILE = "training.pt"
MANIFEST_FILE = "manifest.json"
FORMAT = 1

# Names of what is not a checkpoint yet, and of what no longer is one. Other hidden files are not ours.
SAVING, RETIRED = ".saving-", ".retired-"


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    iteration: int
    weights: dict[str, Tensor]
    state: dict[str, Any]


def checkpoint_folders(run: Path) -> list[Path]:
    """Folders of the finished checkpoints of a run, oldest first."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    return sorted((entry for entry in folder.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest ``keep``; raises OutputError and leaves the old ones alone."""
    parent = run / FOLDER
    final = parent / f"{checkpoint.iteration:08d}"
    partial = parent / f"{SAVING}{final.name}"
    if final.exists():
        raise OutputError(f"the checkpoint {final} is already there")
    try:
        parent.mkdir(exist_ok=True)
        for stale in (*parent.glob(f"{SAVING}*"), *parent.glob(f"{RETIRED}*")):
            shutil.rmtree(stale)
        partial.mkdir()
        weights = {name: value.detach().cpu().contiguous() for name, value in checkpoint.weights.items()}
        # Not save_file, which makes files that only their owner can read.
        (partial / WEIGHTS_FILE).write_bytes(safetensors.torch.save(weights))
        torch.save(checkpoint.state, partial / STATE_FILE)
        manifest = {
            "format": FORMAT,
            "iteration": checkpoint.iteration,
            "files": {name: file_stamp(partial / name) for name in (WEIGHTS_FILE, STATE_FILE)},
        }
        (partial / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
        for file in partial.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        fsync_folder(partial)
        partial.rename(final)
        fsync_folder(parent)
        for old in checkpoint_folders(run)[:-keep]:
            retired = parent / f"{RETIRED}{old.name}"
            old.rename(retired)
            shutil.rmtree(retired)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:  # torch reports a full disk as RuntimeError
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(f"cannot write the checkpoint {final}: {error}") from error
    return final


def file_stamp(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def latest_checkpoint(run: Path) -> Path:
    """Folder of the newest checkpoint of a run; raises CheckpointError when there is none."""
    folders = checkpoint_folders(run)
    if not folders:
        raise CheckpointError(f"{run / FOLDER} holds no checkpoint")
    return folders[-1]


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint; raises CheckpointError naming the file that is missing, truncated or changed."""
    manifest = read_manifest(folder)
    path = folder
    try:
        for name, expected in manifest["files"].items():
            path = folder / name
            found = file_stamp(path)
            if found["bytes"] != expected["bytes"]:
                raise CheckpointError(
                    f"{path} has {found['bytes']} bytes, its manifest says {expected['bytes']}: truncated"
                )
            if found["sha256"] != expected["sha256"]:
                raise CheckpointError(
                    f"{path} has SHA-256 {found['sha256']}, its manifest says {expected['sha256']}: corrupt"
                )
        path = folder / WEIGHTS_FILE
        weights = safetensors.torch.load_file(path, device=str(device))
        path = folder / STATE_FILE
        # Optimizer.load_state_dict moves its state to its parameters' device; generator states must stay on the CPU.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except Exception as error:  # torch.load of what torch.save has not written raises anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {reason}") from error
    return Checkpoint(manifest["iteration"], weights, state)


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {manifest['format']}, this version reads {FORMAT}")
        if set(manifest["files"]) != {WEIGHTS_FILE, STATE_FILE} or not isinstance(manifest["iteration"], int):
            raise CheckpointError(f"{path} does not list {WEIGHTS_FILE} and {STATE_FILE}")
        return manifest
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a readable manifest: {error}") from error


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint, source: Path) -> None:
    """Copy the weights into a model; raises CheckpointError naming what does not fit."""
    own = model.state_dict()
    missing, unknown = sorted(set(own) - set(checkpoint.weights)), sorted(set(checkpoint.weights) - set(own))
    if missing or unknown:
        raise CheckpointError(f"{source} is of another configuration: missing {missing}, unknown {unknown}")
    for name, value in checkpoint.weights.items():
        if value.shape != own[name].shape:
            shapes = f"{tuple(value.shape)} saved, {tuple(own[name].shape)} wanted"
            raise CheckpointError(f"{source} is of another configuration: {name} has shape {shapes}")
    model.load_state_dict(checkpoint.weights)
