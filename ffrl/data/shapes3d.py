"""3D Shapes (Burgess and Kim 2018) from the published file 3dshapes.h5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffrl.catalogue import DATA_SETS, DataSet
from ffrl.data.damage import DAMAGE, corrupt, damage_reported
from ffrl.data.factors import FactorGrid
from ffrl.data.file_images import FileImages
from ffrl.data.image_cache import BLOCK_BYTES, CacheContent, ImageCache
from ffrl.data.paths import is_file
from ffrl.data.record_file import RecordFile
from ffrl.errors import DataError

_MOST_BYTES = 96 << 20  # read at a time


def load_shapes3d(path: Path, cache: Path, data_set: DataSet = DATA_SETS["shapes3d"]) -> FileImages:
    """The images of the HDF5 file, read by number; no two of them need be in memory at once.

    Where the file holds the images as they are, they are read from it. Where it holds them in compressed chunks, of
    which one image may need hundreds, they are unpacked once into the cache (5.9 GB), in the file's order, with less
    than 300 MB of memory.

    Args:
        path: an HDF5 file with ``images`` (N, 64, 64, 3) uint8 and ``labels`` (N, 6) float64.
        cache: folder for the unpacked images, made when it is needed.
        data_set: whose factors and image size the file has.

    Raises:
        DataError: h5py is not installed; the file is missing, truncated or corrupt, lacks a data set or has one of
            another shape or type; the labels are not those of the rows.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError("data = 'shapes3d' needs h5py, which is not installed: pip install 'ffrl[data]'") from error
    if not is_file(path):
        raise DataError(f"{path}: there is no such file")
    grid = FactorGrid(data_set.factors)
    channels, height, width = data_set.image_shape
    shape = (len(grid), height, width, channels)
    source = f"3D Shapes from {path}, {len(grid):,} images"
    try:
        with h5py.File(path, "r") as file:
            images = _member(file, path, "images", shape, np.dtype(np.uint8))
            labels = _member(file, path, "labels", (len(grid), len(grid.factors)), np.dtype(np.float64))
            _check_labels(path, grid, labels[()])
            offset, chunks = images.id.get_offset(), images.chunks
            plain = chunks is None and not images.is_virtual and images.external is None
    except DataError:
        raise
    except (OSError, *DAMAGE) as error:
        raise corrupt(path, error) from error
    if plain and offset is not None:
        return FileImages(grid, RecordFile(path, len(grid), shape[1:], offset), source, channels_last=True)

    def read(first: int, last: int) -> np.ndarray:
        try:
            with h5py.File(path, "r") as file:
                images: Any = file["images"]
                return images[first:last]
        except (OSError, *DAMAGE) as error:
            raise corrupt(path, error, f"images {first} to {last - 1} are corrupt") from error

    with damage_reported(path):
        status = path.stat()
    identity = {"file": path.name, "bytes": status.st_size, "modified": status.st_mtime_ns}
    block = _block(len(grid), chunks[0] if chunks else 1, height * width * channels)
    content = CacheContent(data_set.title, identity, len(grid), shape[1:], read, block)
    return FileImages(grid, ImageCache(cache, data_set.name, content).open(), source, channels_last=True)


def _member(file: Any, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """A data set of the file, of this shape and type."""
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path} has no data set {name!r}; it has {sorted(file)}")
    if found.shape != shape or found.dtype != dtype:
        raise DataError(f"{path}: {name} is {found.dtype} {found.shape}, expected {dtype} {shape}")
    return found


def _check_labels(path: Path, grid: FactorGrid, labels: np.ndarray) -> None:
    """Raise DataError unless each label stands for one value of its factor, whatever the labels are."""
    values = grid.factors_of(torch.arange(len(grid))).numpy()
    for j, factor in enumerate(grid.factors):
        column = labels[:, j]
        first = labels[np.arange(factor.size) * grid.bases[j], j]  # where the other factors are 0
        if len(np.unique(first)) != factor.size or not np.array_equal(column, first[values[:, j]]):
            raise DataError(f"{path}: the labels of {factor.name} are not those of the rows' numbers")


def _block(count: int, chunk: int, record_bytes: int) -> int:
    """Images to unpack together: whole chunks of the file where they fit, else equal parts of one."""
    if chunk * record_bytes <= BLOCK_BYTES:
        return min(count, chunk * max(1, BLOCK_BYTES // (chunk * record_bytes)))
    parts = -(-chunk * record_bytes // _MOST_BYTES)
    return min(count, -(-chunk // parts))
