"""The fork server, and one uninterrupted run to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

import ffrl.data.loading
from ffrl.checkpoint import Checkpoint, save_checkpoint
from tests.training.fork_server import ForkServer
from tests.training.runs import newest, short_run

load_images = cache(ffrl.data.loading.load_images)


@pytest.fixture(autouse=True)
def images_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enlarging the digits takes longer than training on them."""
    monkeypatch.setattr(ffrl.data.loading, "load_images", load_images)


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    server = ForkServer(tmp_path_factory.mktemp("fork_server"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def uninterrupted_run(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Folder and seconds of the run that ``short_run`` describes, never stopped. Nothing may change it."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    ended = fork_server.train(short_run(out))
    assert ended.returncode == 0, ended.error
    return out, ended.seconds


@pytest.fixture(scope="session")
def uninterrupted(uninterrupted_run: tuple[Path, float]) -> Path:
    return uninterrupted_run[0]


@pytest.fixture(scope="session")
def trained(uninterrupted: Path) -> Checkpoint:
    """The last checkpoint of that run."""
    return newest(uninterrupted)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """A small one: what is in it makes no difference to most tests."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(3, 2, generator=generator) for name in ("weight", "bias")}
    state = {"rng": generator.get_state(), "pending": {"loss": 0.5}, "pending_count": 1, "seconds": 0.25}
    return Checkpoint(14, weights, state)


@pytest.fixture
def run(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A run folder with the checkpoints 1 and 2 of two to keep."""
    run = tmp_path / "run"
    run.mkdir()
    for iteration in (1, 2):
        save_checkpoint(run, checkpoint._replace(iteration=iteration), keep=2)
    return run
