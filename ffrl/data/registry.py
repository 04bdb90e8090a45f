"""The data sets by name. A further set of still images is one file with a loader, a line in LOADERS, an entry of the
catalogue and a name in config.DataName; of grids of factors, see ``ffrl.data.grids``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from ffrl.catalogue import GRIDS
from ffrl.config import DATA_NAMES, DataName
from ffrl.data.digits import load_digits
from ffrl.data.download import DataUnavailable
from ffrl.data.mnist import load_mnist, mnist_files
from ffrl.data.shapes import load_shapes
from ffrl.errors import ArgumentError

_log = logging.getLogger(__name__)


class ImageSet(NamedTuple):
    """Still images with labels, and where they came from."""

    name: str  # of the set, never "auto"
    images: Tensor  # (N, I, I) uint8
    labels: Tensor  # (N,) int64
    source: str


LOADERS: dict[str, Callable[[str, Path | None], tuple[Tensor, Tensor, str]]] = {
    "mnist": load_mnist,
    "digits": lambda split, data_dir: load_digits(split),
    "shapes": lambda split, data_dir: load_shapes(split),
}


def load_images(name: DataName, split: Literal["train", "test"], data_dir: Path | None = None) -> ImageSet:
    """Load a part of a data set.

    Args:
        name: "mnist", "digits" (scikit-learn's, bundled), "shapes" (drawn by formula), or "auto", see ``resolve_name``.
        split: "train" or "test".
        data_dir: where MNIST is, see ``ffrl.data.mnist.mnist_files``; the others need no folder and ignore it.

    Returns:
        The images (N, I, I) uint8, labels (N,) int64, the name that "auto" stood for, and the source.

    Raises:
        ArgumentError: unknown name or split.
        DataError: the files are missing, damaged or not the original ones.
    """
    if split not in ("train", "test"):
        raise ArgumentError("split", repr(split), "one of ('train', 'test')")
    if name in GRIDS:
        raise ArgumentError("data", repr(name), f"a set of still images, one of {('auto', *LOADERS)}")
    resolved = resolve_name(name, data_dir)
    images, labels, source = LOADERS[resolved](split, data_dir)
    return ImageSet(resolved, images, labels, source)


def resolve_name(name: DataName, data_dir: Path | None = None) -> DataName:
    """The data set that a name stands for, never "auto".

    "auto" is MNIST where both its parts are found or can be downloaded (which is done), and otherwise scikit-learn's
    digits, with a logged warning that says why. Where a folder was named and lacks MNIST, or a file is damaged, that is
    an error, and the digits are not taken in its place.

    Raises:
        ArgumentError: unknown name.
        DataError: see above.
    """
    if name != "auto":
        if name not in DATA_NAMES:
            raise ArgumentError("data", repr(name), f"one of {DATA_NAMES}")
        return name
    try:
        for split in ("train", "test"):
            mnist_files(split, data_dir)
    except DataUnavailable as error:
        _log.warning("data = 'auto': using scikit-learn's digits. %s", error)
        return "digits"
    return "mnist"
