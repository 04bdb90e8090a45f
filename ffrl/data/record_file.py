"""Records of equal size in a file, read by number."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ffrl.errors import ArgumentError, DataError


class RecordFile:
    """N records of equal size in a file, read by number: nothing is kept in memory, and a cut file is an error.

    Args:
        path: the file.
        count: N.
        shape: of a record, uint8.
        offset: bytes before the first record.

    Raises:
        DataError: the file cannot be opened or is too short.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], offset: int = 0) -> None:
        self.path, self.count, self.shape, self.offset = path, count, shape, offset
        self.record_bytes = int(np.prod(shape))
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        size, due = os.fstat(self._descriptor).st_size, offset + count * self.record_bytes
        if size < due:
            self.close()
            raise DataError(f"{path}: truncated; it has {size:,} bytes, {due:,} are due")

    def read(self, indices: Tensor) -> Tensor:
        """Records (N,) int64 -> (N, *shape) uint8, on the CPU.

        Raises:
            ArgumentError: another shape or dtype, or a number out of range.
            DataError: the file has been cut or cannot be read.
        """
        numbers = checked_indices(indices, self.count)
        records = np.empty((len(numbers), self.record_bytes), dtype=np.uint8)
        rows = records.reshape(-1).data
        size = self.record_bytes
        try:
            for row, number in enumerate(numbers):
                place = row * size
                got = os.preadv(self._descriptor, [rows[place : place + size]], self.offset + number * size)
                if got != size:
                    raise DataError(f"{self.path}: truncated; record {number} has {got:,} of {size:,} bytes")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        return torch.from_numpy(records.reshape(len(numbers), *self.shape))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()


def checked_indices(indices: object, count: int) -> list[int]:
    """The numbers in indices (N,) int64; ArgumentError for another shape or dtype, or a number not in 0..count-1."""
    if not isinstance(indices, Tensor) or indices.dim() != 1 or indices.dtype != torch.int64:
        given = f"{indices.dtype} {tuple(indices.shape)}" if isinstance(indices, Tensor) else repr(indices)
        raise ArgumentError("indices", given, "an int64 tensor of shape (N,)")
    numbers = indices.tolist()
    for number in (min(numbers), max(numbers)) if numbers else ():
        if not 0 <= number < count:
            raise ArgumentError("indices", number, f"integers in 0..{count - 1}")
    return numbers
