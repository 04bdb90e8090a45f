"""What the drawings by formula share: the check of their factors, and batches in pieces that fit the cache.

The drawings use additions, products, quotients and square roots of single numbers alone, in a written order, and look
sines, cosines and colours up in tables: those are rounded the same way whatever the size of a batch is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ffrl.errors import ArgumentError


def check_factors(factors: object, sizes: Mapping[str, int]) -> Tensor:
    """Return ``factors`` where they are (N, F) int64 with 0 <= factors[:, j] < size of factor j, F = len(sizes).

    Raises:
        ArgumentError: a type, dtype, shape or value is outside what is stated above.
    """
    if not isinstance(factors, Tensor):
        raise ArgumentError("factors", type(factors).__name__, "a tensor of dtype torch.int64")
    if factors.dtype != torch.int64:
        raise ArgumentError("factors.dtype", factors.dtype, "torch.int64")
    if factors.ndim != 2 or factors.shape[1] != len(sizes):
        raise ArgumentError("factors", tuple(factors.shape), f"the shape (N, {len(sizes)}) for {', '.join(sizes)}")
    limits = torch.tensor([*sizes.values()], device=factors.device)
    outside = (factors < 0) | (factors >= limits)
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        name, size = [*sizes.items()][column]
        raise ArgumentError(f"factors[{row}] {name}", int(factors[row, column]), f"an integer in 0..{size - 1}")
    return factors


def in_pieces(draw: Callable[[Tensor], Tensor], factors: Tensor, rows: int, shape: tuple[int, ...]) -> Tensor:
    """``draw`` of the factors, ``rows`` of them at a time: (N, F) -> (N, *shape) uint8."""
    images = torch.empty((factors.shape[0], *shape), dtype=torch.uint8, device=factors.device)
    for piece, target in zip(factors.split(rows), images.split(rows), strict=True):
        if len(piece):
            target.copy_(draw(piece))
    return images


def to_bytes(light: Tensor) -> Tensor:
    """Amounts of light to uint8: the square root, for a screen, of what is at most 1."""
    return (light.clamp(0, 1).sqrt() * 255 + 0.5).to(torch.uint8)
