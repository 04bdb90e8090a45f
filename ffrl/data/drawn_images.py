"""The images of a grid that the project draws, on the device of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ffrl.data.factors import FactorGrid
from ffrl.errors import ArgumentError


class DrawnImages:
    """Images drawn from their factors when they are asked for; a ``FactorImages``.

    Args:
        grid: what the numbers of the images stand for.
        draw: factors (N, F) int64 -> (N, C, H, W) uint8, on the device of the factors.
        sizes: name and size of each column of ``draw``; those that the grid lacks are kept in the middle.
        image_shape: (C, H, W).
        title: of the set, for the source.

    Raises:
        ArgumentError: the grid has a factor that is not drawn, or one of another size.
    """

    generated = True

    def __init__(
        self,
        grid: FactorGrid,
        draw: Callable[[Tensor], Tensor],
        sizes: Mapping[str, int],
        image_shape: tuple[int, int, int],
        title: str,
    ) -> None:
        for factor in grid.factors:
            if sizes.get(factor.name) != factor.size:
                drawn = ", ".join(f"{name} {size}" for name, size in sizes.items())
                raise ArgumentError("grid", f"{factor.name} {factor.size}", f"factors of {drawn}")
        self.grid, self.image_shape = grid, image_shape
        self.source = f"{title}, drawn by ffrl, {len(grid):,} images"
        self._draw = draw
        self._middle = torch.tensor([size // 2 for size in sizes.values()])  # (F,)
        self._columns = [list(sizes).index(name) for name in grid.names]

    def images(self, indices: Tensor) -> Tensor:
        if not isinstance(indices, Tensor) or indices.dim() != 1:
            given = tuple(indices.shape) if isinstance(indices, Tensor) else repr(indices)
            raise ArgumentError("indices", given, "an int64 tensor of shape (N,)")
        factors = self._middle.to(indices.device).repeat(len(indices), 1)
        factors[:, self._columns] = self.grid.factors_of(indices)
        return self._draw(factors)
