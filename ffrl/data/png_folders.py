"""Falcor3D and Isaac3D (NVIDIA 2019) from their folders of numbered PNG files."""

from __future__ import annotations

import os
import struct
import tokenize
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffrl.catalogue import DATA_SETS, DataSet
from ffrl.data.factors import FactorGrid
from ffrl.data.file_images import FileImages
from ffrl.data.image_cache import CacheContent, ImageCache, block_size
from ffrl.errors import DataError

_SAMPLES = 256  # files whose sizes tell one folder from another


def load_png_folder(folder: Path, cache: Path, data_set: DataSet) -> FileImages:
    """The images of ``folder/images/000000.png``, ..., decoded once, on all cores, into a file of bytes in the cache.

    Args:
        folder: holds ``images`` and, where they were not left out, the labels.
        cache: folder for the decoded images, made when it is needed. It is known by the sizes of 256 of the files: that
            another one has been replaced is not noticed, and the cache has to be deleted.
        data_set: "falcor3d" or "isaac3d" of the catalogue: factors, image size and the name of the labels' file.

    Raises:
        DataError: Pillow is not installed; an image is missing, truncated or corrupt, or has another size or mode; the
            labels are corrupt or not those of the numbers.
    """
    grid = FactorGrid(data_set.factors)
    channels, height, width = data_set.image_shape
    _check_labels(folder / data_set.labels, grid)
    names = [f"{number:06d}.png" for number in range(len(grid))]
    sampled = [names[number * len(names) // _SAMPLES] for number in range(min(_SAMPLES, len(names)))]
    try:
        sizes = [(folder / "images" / name).stat().st_size for name in sampled]
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror or error}; {_expected(data_set)}") from error

    def read(first: int, last: int) -> np.ndarray:
        paths = [folder / "images" / name for name in names[first:last]]
        images = np.empty((last - first, channels, height, width), dtype=np.uint8)

        def decode(row: int) -> None:
            images[row] = _decode(paths[row], (height, width)).transpose(2, 0, 1)

        for _ in pool.map(decode, range(last - first)):
            pass
        return images

    def survey() -> dict[str, Any]:
        _check_names(folder, names, data_set)
        return {}

    shape = (channels, height, width)
    block = block_size(len(grid), channels * height * width)
    content = CacheContent(data_set.title, {"sizes": sizes}, len(grid), shape, read, block, survey)
    store = ImageCache(cache, data_set.name, content)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        records = store.open()
    return FileImages(grid, records, f"{data_set.title} from {folder}, {len(grid):,} images")


def _decode(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An RGB image, (H, W, 3) uint8."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("PNG files need Pillow, which is not installed: pip install 'ffrl[data]'") from error
    bomb = Image.DecompressionBombError  # of a size that no image of these sets has
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode != "RGB" or image.size != size[::-1]:
                raise DataError(f"{path}: {image.mode} of {image.size} pixels, expected RGB of {size[::-1]}")
            return np.asarray(image)
    # Pillow reports what is wrong with a file in many ways; SyntaxError is one of them.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, bomb) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{path}: there is no such file") from error
        raise DataError(f"{path}: truncated or corrupt ({error})") from error


def _check_names(parent: Path, names: list[str], data_set: DataSet) -> None:
    """Raise DataError unless all files are there, and nothing of another set, before hours of decoding are spent."""
    folder = parent / "images"
    with os.scandir(folder) as entries:
        found = {entry.name for entry in entries}
    surplus = [name for name in found - set(names) if name.endswith(".png") and name.removesuffix(".png").isdecimal()]
    if surplus:
        raise DataError(f"{folder / min(surplus)} is not of this set; {_expected(data_set)}")
    for other in DATA_SETS.values():
        if other.labels and other.labels != data_set.labels and (parent / other.labels).exists():
            raise DataError(f"{parent / other.labels} is of {other.title}, not of {data_set.title}")
    missing = [name for name in names if name not in found]
    if missing:
        others = f" and {len(missing) - 1:,} others are" if len(missing) > 1 else " is"
        raise DataError(f"{folder / missing[0]}{others} missing; {_expected(data_set)}")


def _expected(data_set: DataSet) -> str:
    return f"{data_set.title} has images/000000.png to images/{data_set.num_images - 1:06d}.png"


def _check_labels(path: Path, grid: FactorGrid) -> None:
    """Raise DataError unless the labels, where they are there, are those of the numbers: class = label (size - 1)."""
    if not path.exists():
        return
    try:
        with open(path, "rb") as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, tokenize.TokenError) as error:
        raise DataError(f"{path}: truncated or corrupt ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    expected = (len(grid), len(grid.factors))
    if labels.shape != expected or labels.dtype.kind != "f":
        raise DataError(f"{path}: {labels.dtype} {labels.shape}, expected floating-point numbers {expected}")
    values = grid.factors_of(torch.arange(len(grid))).numpy()
    for j, factor in enumerate(grid.factors):
        wrong = np.flatnonzero(np.round(labels[:, j] * (factor.size - 1)) != values[:, j])
        if len(wrong):
            raise DataError(f"{path}: row {wrong[0]} has another {factor.name} than image {wrong[0]:06d}.png")
