"""Falcor3D and Isaac3D (NVIDIA 2019) from their folders of numbered PNG files."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffrl.catalogue import DATA_SETS, DataSet
from ffrl.data.damage import corrupt, damage_reported
from ffrl.data.factors import FactorGrid
from ffrl.data.file_images import FileImages
from ffrl.data.image_cache import CacheContent, ImageCache, block_size
from ffrl.data.paths import is_file
from ffrl.errors import DataError

_SAMPLES = 256  # files that are looked at whenever a cache is opened


def load_png_folder(folder: Path, cache: Path, data_set: DataSet) -> FileImages:
    """The images of ``folder/images/000000.png``, ..., decoded once, on all cores, into a file of bytes in the cache.

    Args:
        folder: holds ``images`` and, where they were not left out, the labels.
        cache: folder for the decoded images, made when it is needed. An unfinished one is continued only where names,
            sizes and times of all files are as before. A finished one is opened where the number of files, the time of
            ``images`` and the sizes and times of 256 files are; not noticed is another file that is overwritten in its
            place, and what leaves sizes and times alone: then the cache has to be deleted.
        data_set: "falcor3d" or "isaac3d" of the catalogue: factors, image size and the name of the labels' file.

    Raises:
        DataError: Pillow is not installed; an image is missing, surplus, truncated or corrupt, or has another size or
            mode; the labels are corrupt, not those of the numbers, or those of another set.
    """
    grid = FactorGrid(data_set.factors)
    channels, height, width = data_set.image_shape
    check_whose(folder, data_set)
    _check_labels(folder / data_set.labels, grid)
    names = [f"{number:06d}.png" for number in range(len(grid))]
    identity = _identity(folder / "images", names, data_set)

    def read(first: int, last: int) -> np.ndarray:
        paths = [folder / "images" / name for name in names[first:last]]
        images = np.empty((last - first, channels, height, width), dtype=np.uint8)

        def decode(row: int) -> None:
            images[row] = _decode(paths[row], (height, width)).transpose(2, 0, 1)

        for _ in pool.map(decode, range(last - first)):
            pass
        return images

    def survey() -> dict[str, Any]:
        return _survey(folder / "images", names, data_set)

    shape = (channels, height, width)
    block = block_size(len(grid), channels * height * width)
    content = CacheContent(data_set.title, identity, len(grid), shape, read, block, survey)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        records = ImageCache(cache, data_set.name, content).open()
    return FileImages(grid, records, f"{data_set.title} from {folder}, {len(grid):,} images")


def check_whose(folder: Path, data_set: DataSet) -> None:
    """Raise DataError where the labels of another set are in the folder; nothing of a set that is no folder."""
    for other in DATA_SETS.values() if data_set.labels else ():
        if other.labels and other.labels != data_set.labels and is_file(folder / other.labels):
            raise DataError(f"{folder / other.labels} is of {other.title}, not of {data_set.title}")


def _decode(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An RGB image, (H, W, 3) uint8."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("PNG files need Pillow, which is not installed: pip install 'ffrl[data]'") from error
    # Pillow reports what is wrong with a file in many ways; one is a size that no image of these sets has.
    try:
        with damage_reported(path), Image.open(path, formats=("PNG",)) as image:
            if image.mode != "RGB" or image.size != size[::-1]:
                raise DataError(f"{path}: {image.mode} of {image.size} pixels, expected RGB of {size[::-1]}")
            return np.asarray(image)
    except Image.DecompressionBombError as error:
        raise corrupt(path, error) from error


def _identity(folder: Path, names: list[str], data_set: DataSet) -> dict[str, Any]:
    """What tells one folder from another whenever a cache is opened: little, as there are 737,280 files."""
    count = min(_SAMPLES, len(names))
    try:
        samples = [os.stat(folder / names[i * len(names) // count]) for i in range(count)]
        return {
            "files": len(os.listdir(folder)),
            "modified": os.stat(folder).st_mtime_ns,
            "samples": [[status.st_size, status.st_mtime_ns] for status in samples],
        }
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing; {_expected(data_set)}") from error
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


def _survey(folder: Path, names: list[str], data_set: DataSet) -> dict[str, Any]:
    """SHA-256 of the names, sizes and times of all files; DataError unless just those of the set are there."""
    found: dict[str, os.stat_result] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, dot, kind = entry.name.partition(".")
                if dot + kind == ".png" and stem.isdecimal():
                    found[entry.name] = entry.stat()
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
    surplus = found.keys() - set(names)
    if surplus:
        raise DataError(f"{folder / min(surplus)} is not of this set; {_expected(data_set)}")
    missing = [name for name in names if name not in found]
    if missing:
        others = f" and {len(missing) - 1:,} others are" if len(missing) > 1 else " is"
        raise DataError(f"{folder / missing[0]}{others} missing; {_expected(data_set)}")
    hashed = hashlib.sha256()
    for name in names:
        hashed.update(f"{name} {found[name].st_size} {found[name].st_mtime_ns}\n".encode())
    return {"files": hashed.hexdigest()}


def _expected(data_set: DataSet) -> str:
    return f"{data_set.title} has images/000000.png to images/{data_set.num_images - 1:06d}.png"


def _check_labels(path: Path, grid: FactorGrid) -> None:
    """Raise DataError unless the labels, where they are there, are those of the numbers: class = label (size - 1)."""
    if not is_file(path):
        return
    with damage_reported(path), open(path, "rb") as file:
        labels = np.lib.format.read_array(file, allow_pickle=False)
    expected = (len(grid), len(grid.factors))
    if labels.shape != expected or labels.dtype.kind != "f":
        raise DataError(f"{path}: {labels.dtype} {labels.shape}, expected floating-point numbers {expected}")
    values = grid.factors_of(torch.arange(len(grid))).numpy()
    for j, factor in enumerate(grid.factors):
        wrong = np.flatnonzero(np.round(labels[:, j] * (factor.size - 1)) != values[:, j])
        if len(wrong):
            raise DataError(f"{path}: row {wrong[0]} has another {factor.name} than image {wrong[0]:06d}.png")
