"""dSprites (Matthey, Higgins, Hassabis and Lerchner 2017) from its npz file, or from one with a coarser grid."""

from __future__ import annotations

import dataclasses
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ffrl.catalogue import DATA_SETS
from ffrl.data.damage import damage_reported
from ffrl.data.factors import FactorGrid
from ffrl.data.file_images import PackedImages
from ffrl.data.image_cache import CacheContent, ImageCache
from ffrl.errors import DataError

IMAGES, CLASSES = "imgs.npy", "latents_classes.npy"
SIZE = 64
_IN_MEMORY = 64 << 20  # bytes of packed images; the full set has 377 million, which go to the cache
_BLOCK = 4096  # images that go into the cache together, 16 MiB unpacked
_PIECE = 8 << 20  # bytes that are unpacked at a time


def load_dsprites(path: Path, cache: Path) -> PackedImages:
    """Read the full set or a complete coarser grid, packed to eight pixels a byte.

    The members read are ``imgs`` (N, 64, 64) uint8 in {0, 1} and ``latents_classes`` (N, 5), shape to posY, or (N, 6)
    with the colour, of which there is one, in front. Pixels become 0 and 255.

    Args:
        path: the npz file.
        cache: folder in which the full set is kept unpacked from the zip archive, made when it is needed.

    Raises:
        DataError: the file is missing, truncated or corrupt, lacks a member, has one of another shape or type, or is
            not a complete grid in the order of its factors.
    """
    with damage_reported(path):
        with zipfile.ZipFile(path) as archive:
            for member in (IMAGES, CLASSES):
                if member not in archive.namelist():
                    raise DataError(f"{path} has no member {member.removesuffix('.npy')}; it has {archive.namelist()}")
                if archive.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DataError(f"{path}: {member} is compressed in another way than NumPy does it")
            with archive.open(CLASSES) as stream:
                classes = np.lib.format.read_array(stream, allow_pickle=False)
            with archive.open(IMAGES) as stream:
                shape = _header(stream, path)
        reader = _Reader(path, shape[0])
        identity = {"file": path.name, "bytes": path.stat().st_size, "crc": reader.checksum}
    grid = _grid(path, classes, shape[0])
    source = f"dSprites from {path}, {len(grid):,} images"

    def read(first: int, last: int) -> np.ndarray:
        with damage_reported(path):
            return reader.read(first, last)

    def survey() -> dict[str, Any]:
        with damage_reported(path):
            return reader.survey()

    if len(grid) * SIZE * SIZE // 8 <= _IN_MEMORY:
        packed = np.concatenate([read(i, min(i + _BLOCK, len(grid))) for i in range(0, len(grid), _BLOCK)])
        return PackedImages(grid, torch.from_numpy(packed), source)
    content = CacheContent("dSprites", identity, shape[0], (SIZE, SIZE // 8), read, _BLOCK, survey)
    return PackedImages(grid, ImageCache(cache, "dsprites", content).open(), source)


class _Reader:
    """Packed images from first to last, as the archive is unpacked."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        with zipfile.ZipFile(path) as archive:
            self.checksum = archive.getinfo(IMAGES).CRC
        self._stream: IO[bytes] | None = None
        self._position = 0

    def survey(self) -> dict[str, Any]:
        """Unpack everything once: the archive compares its checksum at the end, after the blocks of a damaged file."""
        with zipfile.ZipFile(self.path) as archive, archive.open(IMAGES) as stream:
            while stream.read(_PIECE):
                pass
        return {"checked": self.checksum}

    def read(self, first: int, last: int) -> np.ndarray:
        """Images first..last-1, (n, 64, 8) uint8."""
        if self._stream is None or first < self._position:
            self._stream = zipfile.ZipFile(self.path).open(IMAGES)  # noqa: SIM115 - read in pieces
            _header(self._stream, self.path)
            self._position = 0
        for _ in self._pieces(first - self._position):
            pass
        data = b"".join(self._pieces(last - first))
        self._position = last
        if last == self.count:
            if self._stream.read(1):
                raise DataError(f"{self.path}: {IMAGES} has more bytes than its header says")
            self._stream = None
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(-1, SIZE, SIZE)
        if pixels.max(initial=0) > 1:
            raise DataError(f"{self.path}: {IMAGES} has pixels other than 0 and 1")
        return np.packbits(pixels, axis=2)

    def _pieces(self, count: int) -> Iterator[bytes]:
        """The next ``count`` images."""
        assert self._stream is not None
        due = count * SIZE * SIZE
        while due:
            piece = self._stream.read(min(due, _PIECE))
            if not piece:
                raise DataError(f"{self.path}: {IMAGES} is truncated")
            due -= len(piece)
            yield piece


def _header(stream: IO[bytes], path: Path) -> tuple[int, ...]:
    """Read the header of the images and check it."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype != np.uint8 or fortran or len(shape) != 3 or shape[1:] != (SIZE, SIZE):
        raise DataError(f"{path}: {IMAGES} is {dtype} {shape}, expected uint8 (N, {SIZE}, {SIZE})")
    return shape


def _grid(path: Path, classes: np.ndarray, count: int) -> FactorGrid:
    """The grid that the file's factors span; DataError unless they count through it in order."""
    factors = DATA_SETS["dsprites"].factors
    columns = len(factors)
    if classes.dtype.kind not in "iu" or classes.ndim != 2 or classes.shape[1] not in (columns, columns + 1):
        raise DataError(f"{path}: {CLASSES} is {classes.dtype} {classes.shape}, expected integers (N, {columns})")
    if classes.shape[0] != count:
        raise DataError(f"{path} holds {count} images, but factors of {classes.shape[0]}")
    if classes.shape[1] == columns + 1 and classes[:, 0].any():
        raise DataError(f"{path}: {CLASSES} has more than one colour")
    values = classes[:, -columns:].astype(np.int64)
    sizes = values.max(axis=0, initial=-1) + 1
    whole = bool((values >= 0).all()) and math.prod(sizes.tolist()) == count > 0
    if whole:
        sized = [
            dataclasses.replace(factor, size=int(size), closed=False) if factor.size != size else factor
            for factor, size in zip(factors, sizes, strict=True)
        ]
        grid = FactorGrid(sized)
        whole = np.array_equal(grid.index_of(torch.from_numpy(values)).numpy(), np.arange(count))
        if whole:
            return grid
    raise DataError(
        f"{path} is not a complete grid: {count} images, whose factors have {sizes.tolist()} values; sequences need "
        "every combination, in order"
    )
