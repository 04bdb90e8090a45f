"""Strict reader of gzip-compressed IDX files of bytes, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ffrl.errors import DataError

_CHUNK = 1 << 20
_LARGEST = 1 << 30  # bytes; MNIST's largest file holds 47 million


def read_idx(path: Path, ndim: int) -> Tensor:
    """Read a gzip-compressed IDX file of unsigned bytes.

    The file holds the big-endian magic number 0x00000800 + ndim, ndim big-endian 32-bit sizes, and exactly as many
    bytes as their product. Memory grows with what is really in the file, never with what its header claims.

    Args:
        path: the .gz file.
        ndim: number of dimensions that the file must have, 1 (labels) or 3 (images).

    Returns:
        A uint8 tensor of the header's shape.

    Raises:
        DataError: the file cannot be read, is truncated or corrupt, has another magic number or number of dimensions,
            claims more than 1 GiB, or holds fewer or more bytes than its header says. The message names the file.
    """
    try:
        with gzip.open(path, "rb") as stream:
            return _read(stream, path, ndim)  # type: ignore[arg-type]
    except EOFError as error:
        raise DataError(f"{path}: the gzip stream is truncated ({error})") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a sound gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_images_and_labels(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Read an IDX file of images and the one of their labels.

    Returns:
        images (N, I, J) uint8 and labels (N,) int64.

    Raises:
        DataError: see ``read_idx``; or the two counts differ.
    """
    images = read_idx(images_path, 3)
    labels = read_idx(labels_path, 1)
    if images.shape[0] != labels.shape[0]:
        raise DataError(f"{images_path} holds {images.shape[0]} images, {labels_path} {labels.shape[0]} labels")
    return images, labels.long()


def _read(stream: BinaryIO, path: Path, ndim: int) -> Tensor:
    header_size = 4 + 4 * ndim
    header = _read_at_most(stream, header_size)
    magic = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and magic != 0x800 + ndim:
        raise DataError(
            f"{path}: magic number 0x{magic:08x}, expected 0x{0x800 + ndim:08x} (unsigned bytes in {ndim} dimensions)"
        )
    if len(header) < header_size:
        raise DataError(f"{path}: {len(header)} bytes, too short for the IDX header of {header_size} bytes")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, header_size, 4))
    expected = math.prod(shape)
    if expected > _LARGEST:
        raise DataError(f"{path}: the header claims {expected} bytes, shape {shape}; at most {_LARGEST} are read")
    data = _read_at_most(stream, expected)
    if len(data) < expected:
        raise DataError(f"{path}: {len(data)} bytes of data, but the header says {expected}, shape {shape}")
    # Reading on to the end is also what makes gzip check its CRC.
    if stream.read(1):
        raise DataError(f"{path}: more data than the {expected} bytes that the header says, shape {shape}")
    if expected == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(data, dtype=torch.uint8).reshape(shape)


def _read_at_most(stream: BinaryIO, count: int) -> bytearray:
    """Read count bytes, or to the end of the stream, in pieces: one read of count would allocate all of it at once."""
    data = bytearray()
    while len(data) < count:
        piece = stream.read(min(_CHUNK, count - len(data)))
        if not piece:
            break
        data += piece
    return data
