"""MNIST (LeCun, Cortes and Burges): found on disk, or downloaded, and checked against the original files' SHA-256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from torch import Tensor

from ffrl.data.download import DataUnavailable, cache_folder, fetch
from ffrl.data.idx import read_images_and_labels
from ffrl.errors import ArgumentError, DataError

SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
SPLITS = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_HOW_TO_PROVIDE = (
    "To provide the files, put "
    + ", ".join(SHA256)
    + " into a folder named mnist, and name the folder around it by data_dir or by the environment variable FFRL_DATA"
)


def load_mnist(split: str, data_dir: Path | None = None) -> tuple[Tensor, Tensor, str]:
    """Load a part of MNIST, downloading it when it is nowhere on this machine.

    Args:
        split: "train" (60,000 images) or "test" (10,000).
        data_dir: see ``mnist_files``.

    Returns:
        images (N, 28, 28) uint8, labels (N,) int64, and where they came from.

    Raises:
        ArgumentError: unknown split.
        DataError: see ``mnist_files`` and ``ffrl.data.idx.read_idx``.
    """
    images_path, labels_path = mnist_files(split, data_dir)
    images, labels = read_images_and_labels(images_path, labels_path)
    return images, labels, f"MNIST from {images_path.parent}, SHA-256 verified"


def mnist_files(split: str, data_dir: Path | None = None) -> tuple[Path, Path]:
    """Find the two files of a split, download them if need be, and verify their SHA-256.

    Places, in this order; the first that holds any file of MNIST is used:
      1. ``data_dir``, if given: the folder that contains ``mnist/``, or the mnist folder itself. Nothing else is tried.
      2. the environment variable FFRL_DATA, likewise.
      3. the cache, ``mnist`` in the platform's cache folder of ffrl; what is missing there is downloaded into it.

    Returns:
        Paths of the images and of the labels.

    Raises:
        ArgumentError: unknown split.
        DataUnavailable: no place has the files and no mirror could be reached.
        DataError: data_dir or FFRL_DATA is no folder; data_dir lacks the files; a folder holds only some of them; a
            file has the wrong SHA-256.
    """
    if split not in SPLITS:
        raise ArgumentError("split", repr(split), f"one of {tuple(SPLITS)}")
    names = SPLITS[split]
    looked: list[str] = []
    folder = None
    variable = os.environ.get("FFRL_DATA")
    if data_dir is not None:
        folder = _find("data_dir", Path(os.path.expanduser(data_dir)), names, looked)
        if folder is None:
            raise DataError(f"data_dir = {data_dir} lacks {' and '.join(names)}; looked in {' and '.join(looked)}")
    elif variable:
        folder = _find("FFRL_DATA", Path(os.path.expanduser(variable)), names, looked)
    if folder is None:
        folder = _complete_cache(names, looked)
    images_path, labels_path = (folder / name for name in names)
    for path in (images_path, labels_path):
        _verify(path)
    return images_path, labels_path


def _find(what: str, place: Path, names: tuple[str, str], looked: list[str]) -> Path | None:
    """The folder with the files, place/mnist or place, or None where there is nothing of MNIST at all."""
    if not os.path.isdir(place):
        problem = "is not a folder" if os.path.exists(place) else "does not exist"
        raise DataError(f"{what} = {place} {problem}. {_HOW_TO_PROVIDE}")
    for folder in (place / "mnist", place):
        missing = [name for name in names if not os.path.exists(folder / name)]
        if not missing:
            return folder
        if any(os.path.exists(folder / name) for name in SHA256):
            raise DataError(f"{what} = {place}: {folder} holds files of MNIST, but {' and '.join(missing)} is missing")
        looked.append(str(folder))
    return None


def _complete_cache(names: tuple[str, str], looked: list[str]) -> Path:
    try:
        folder = cache_folder() / "mnist"
        looked.append(str(folder))
        for name in names:
            fetch(name, SHA256[name], MIRRORS, folder)
    except DataUnavailable as error:
        raise DataUnavailable(
            f"MNIST was not found. Looked at: {'; '.join(looked)}; {error}. {_HOW_TO_PROVIDE}"
        ) from error
    return folder


def _verify(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    expected = SHA256[path.name]
    if found != expected:
        raise DataError(
            f"{path}: wrong SHA-256 checksum {found}, expected {expected}; the file is damaged or another one. "
            "Delete it and provide it anew (in the cache of ffrl it is then downloaded again)"
        )
