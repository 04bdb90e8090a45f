"""IDX files made by hand, independent of the reader."""

from __future__ import annotations

import gzip
import struct

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes as an uncompressed IDX file."""
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def idx_gz(array: np.ndarray) -> bytes:
    """An array of bytes as a gzip-compressed IDX file."""
    return gzip.compress(idx_bytes(array), mtime=0)
