"""Fixtures of the data tests: the genuine MNIST where it is, a tiny stand-in for it, and a cache of the test's own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from ffrl.data import mnist
from tests.data.idx_files import idx_gz


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that FFRL_DATA names."""
    folder = os.environ.get("FFRL_DATA")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("FFRL_DATA is not set to a folder that holds mnist/")
    return Path(folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder in place of the user's, FFRL_DATA unset, and no way to the network."""

    def offline(url: str, **_: object) -> str:
        raise ConnectionError(f"no network for {url}")

    monkeypatch.delenv("FFRL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.retrieve", offline)
    return tmp_path / "cache" / "ffrl" / "mnist"


@pytest.fixture
def tiny_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Contents of four small files with MNIST's names; their checksums are taken for the genuine ones."""
    random = np.random.default_rng(0)
    files = {}
    for prefix, count in (("train", 7), ("t10k", 5)):
        files[f"{prefix}-images-idx3-ubyte.gz"] = idx_gz(random.integers(0, 256, (count, 28, 28)))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = idx_gz(np.arange(count))
    for name, content in files.items():
        monkeypatch.setitem(mnist.SHA256, name, hashlib.sha256(content).hexdigest())
    return files


@pytest.fixture
def tiny_folder(tmp_path: Path, tiny_files: dict[str, bytes]) -> Path:
    """A folder with mnist/ that holds the small files."""
    folder = tmp_path / "data"
    (folder / "mnist").mkdir(parents=True)
    for name, content in tiny_files.items():
        (folder / "mnist" / name).write_bytes(content)
    return folder
