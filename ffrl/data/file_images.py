"""The images of a grid that are read from a file of bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl.data.factors import FactorGrid
from ffrl.data.record_file import RecordFile, checked_indices
from ffrl.errors import ArgumentError


class FileImages:
    """Images (C, H, W), one after the other in a file, channels first or last; a ``FactorImages``.

    Args:
        grid: what the numbers of the images stand for.
        records: one for each, (C, H, W) or (H, W, C).
        source: where they come from, in words.
        channels_last: whether the records are (H, W, C).

    Raises:
        ArgumentError: another number or shape of records.
    """

    generated = False

    def __init__(self, grid: FactorGrid, records: RecordFile, source: str, *, channels_last: bool = False) -> None:
        if records.count != len(grid):
            raise ArgumentError("records.count", records.count, f"{len(grid)}, the size of the grid")
        if len(records.shape) != 3:
            raise ArgumentError("records.shape", records.shape, "three sizes")
        self.grid, self.source = grid, source
        self._records, self._channels_last = records, channels_last
        one, two, three = records.shape
        self.image_shape = (three, one, two) if channels_last else (one, two, three)

    def images(self, indices: Tensor) -> Tensor:
        found = self._records.read(indices)
        return found.permute(0, 3, 1, 2).contiguous() if self._channels_last else found


class PackedImages:
    """Black and white images (1, H, W), eight pixels to a byte, in a file or in memory; a ``FactorImages``.

    Args:
        grid: what the numbers of the images stand for.
        packed: records (H, W/8), or a uint8 tensor (N, H, W/8), most significant bit first.
        source: where they come from, in words.
    """

    generated = False

    def __init__(self, grid: FactorGrid, packed: RecordFile | Tensor, source: str) -> None:
        self.grid, self.source, self._packed = grid, source, packed
        count, (height, width) = (
            (len(packed), packed.shape[1:]) if isinstance(packed, Tensor) else (packed.count, packed.shape)
        )
        if count != len(grid):
            raise ArgumentError("packed", count, f"{len(grid)} images, the size of the grid")
        self.image_shape = (1, height, 8 * width)
        self._shifts = torch.arange(7, -1, -1, dtype=torch.uint8)

    def images(self, indices: Tensor) -> Tensor:
        """0 or 255."""
        if isinstance(self._packed, Tensor):
            rows = self._packed[torch.tensor(checked_indices(indices, len(self.grid)), dtype=torch.int64)]
        else:
            rows = self._packed.read(indices)
        bits = rows[..., None].bitwise_right_shift(self._shifts).bitwise_and_(1)  # (N, H, W/8, 8)
        return bits.mul_(255).flatten(2)[:, None]
