"""Data sets by name, and what "auto" stands for."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from ffrl.catalogue import DATA_SETS
from ffrl.config import DATA_NAMES
from ffrl.data import load_images, resolve_name
from ffrl.data.grids import DRAWINGS, FILES
from ffrl.data.mnist import MIRRORS
from ffrl.data.registry import LOADERS
from ffrl.errors import ArgumentError, DataError


def test_every_name_of_the_configuration_has_a_loader() -> None:
    assert ("auto", *LOADERS, *FILES, *DRAWINGS) == DATA_NAMES == ("auto", *DATA_SETS)
    assert resolve_name("mnist") == "mnist" and resolve_name("digits") == "digits"


def test_auto_is_mnist_where_it_is(cache: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_name("auto", tiny_folder) == "mnist"
    loaded = load_images("auto", "train", tiny_folder)
    assert loaded.name == "mnist" and loaded.images.shape == (7, 28, 28) and loaded.labels.tolist() == list(range(7))
    assert str(tiny_folder) in loaded.source
    assert caplog.records == []


def test_auto_is_the_digits_offline_with_a_warning(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("sklearn")
    with caplog.at_level(logging.WARNING):
        loaded = load_images("auto", "test")
    assert loaded.name == "digits" and loaded.images.shape == (360, 28, 28)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.name.startswith("ffrl.")
    for word in ("digits", "no network", MIRRORS[1], str(cache)):
        assert word in record.getMessage()
    assert not cache.exists()


def test_auto_does_not_hide_a_wrong_folder_or_a_damaged_file(cache: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="lacks train-images"):
        resolve_name("auto", tmp_path / "empty")
    (tiny_folder / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: wrong SHA-256"):
        load_images("auto", "train", tiny_folder)
    with pytest.raises(DataError, match="does not exist"):
        load_images("mnist", "train", tmp_path / "nowhere")


def test_unknown_name_and_split(cache: Path) -> None:
    with pytest.raises(ArgumentError, match="data = 'cifar' is not allowed; expected one of"):
        load_images("cifar", "train")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="data = 'Auto'"):
        resolve_name("Auto")  # type: ignore[arg-type]
    for name in ("mnist", "digits", "auto"):
        with pytest.raises(ArgumentError, match="split = 'valid'"):
            load_images(name, "valid")  # type: ignore[arg-type]


def test_heavy_packages_wait_until_they_are_needed() -> None:
    code = "import sys, ffrl.data; print({'pooch', 'requests', 'rich', 'sklearn', 'scipy'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
