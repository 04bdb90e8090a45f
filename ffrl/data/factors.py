"""Data sets whose images are the combinations of a few factors: numbers of images to factors and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ffrl.checks import require_integer
from ffrl.errors import ArgumentError
from ffrl.factor import Factor

__all__ = ["Factor", "FactorGrid", "FactorImages"]


class FactorGrid:
    """The images 0..N-1 as all combinations of F factors: index = Σ_j base_j value_j.

    Args:
        factors: at least one, no name twice.
        bases: of each factor; default the product of the later sizes, so that the last factor varies fastest. Any
            order in which the factors vary is allowed, as long as every index is exactly one combination.

    Raises:
        ArgumentError: no factor, a name twice, or bases that leave indices out or name some twice.

    >>> grid = FactorGrid([Factor("shape", 3), Factor("x", 4)])
    >>> grid.bases, len(grid), grid.factors_of(torch.tensor([7])).tolist()
    ((4, 1), 12, [[1, 3]])
    """

    def __init__(self, factors: Sequence[Factor], bases: Sequence[int] | None = None) -> None:
        self.factors = tuple(factors)
        names = [factor.name for factor in self.factors]
        if not names or len(set(names)) != len(names):
            raise ArgumentError("factors", names, "at least one factor, and no name twice")
        sizes = [factor.size for factor in self.factors]
        if bases is None:
            bases = [math.prod(sizes[j + 1 :]) for j in range(len(sizes))]
        if len(bases) != len(sizes):
            raise ArgumentError("bases", list(bases), f"{len(sizes)} integers, one for each factor")
        for j, base in enumerate(bases):
            require_integer(f"bases[{j}]", base, 1)
        # Slowest first: each base must be filled by the faster factors, as digits fill a number. Which of two equal
        # bases comes first matters only beside a factor of one value.
        due = 1
        for base, size, name in sorted(zip(bases, sizes, names, strict=True)):
            if base != due:
                raise ArgumentError(f"bases[{names.index(name)}]", base, f"{due}, the product of the faster sizes")
            due *= size
        self.bases = tuple(bases)
        self._sizes, self._bases = torch.tensor(sizes), torch.tensor(self.bases)

    def __len__(self) -> int:
        """N, the number of images."""
        return math.prod(self.sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FactorGrid) and (self.factors, self.bases) == (other.factors, other.bases)

    def __hash__(self) -> int:
        return hash((self.factors, self.bases))

    def __repr__(self) -> str:
        listed = ", ".join(f"{factor.name} {factor.size}" for factor in self.factors)
        return f"FactorGrid({listed}; bases {self.bases})"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(factor.name for factor in self.factors)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(factor.size for factor in self.factors)

    def position(self, name: str) -> int:
        """Which factor has a name; ArgumentError where none has."""
        if name not in self.names:
            raise ArgumentError("factor", repr(name), f"one of {self.names}")
        return self.names.index(name)

    def factors_of(self, indices: Tensor) -> Tensor:
        """Values of the factors of images: (...) int64 in 0..N-1 -> (..., F) int64.

        Raises:
            ArgumentError: another dtype, or an index out of range.
        """
        _require_range("indices", indices, torch.tensor(len(self)))
        bases, sizes = self._bases.to(indices.device), self._sizes.to(indices.device)
        return indices[..., None].div(bases, rounding_mode="floor").remainder(sizes)

    def index_of(self, factors: Tensor) -> Tensor:
        """Numbers of the images that show some values: (..., F) int64 -> (...) int64, the inverse of ``factors_of``.

        Raises:
            ArgumentError: another shape or dtype, or a value out of its factor's range.
        """
        if not isinstance(factors, Tensor) or factors.dim() == 0 or factors.shape[-1] != len(self.factors):
            given = tuple(factors.shape) if isinstance(factors, Tensor) else repr(factors)
            raise ArgumentError("factors", given, f"the shape (..., {len(self.factors)})")
        _require_range("factors", factors, self._sizes)
        return (factors * self._bases.to(factors.device)).sum(-1)


class FactorImages(Protocol):
    """The images of a grid, read from files or drawn."""

    @property
    def grid(self) -> FactorGrid: ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    @property
    def generated(self) -> bool:
        """Whether the project draws them, which is said wherever a number of theirs is shown."""
        ...

    @property
    def source(self) -> str:
        """Where they come from, in words."""
        ...

    def images(self, indices: Tensor) -> Tensor:
        """Images (N,) int64 -> (N, C, H, W) uint8, in the order of the indices; an index may be there twice.

        Drawn images are on the device of the indices, those from files on the CPU.

        Raises:
            ArgumentError: another shape or dtype, or an index out of range.
            DataError: a file is damaged.
        """
        ...


def _require_range(name: str, value: Tensor, bound: Tensor) -> None:
    """Raise ArgumentError unless value (..., F) is int64 in 0..bound-1, bound () or (F,)."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        raise ArgumentError(name, value.dtype if isinstance(value, Tensor) else repr(value), "an int64 tensor")
    outside = (value < 0) | (value >= bound.to(value.device))
    if bool(outside.any()):
        allowed = f"integers in 0..{int(bound) - 1}" if bound.dim() == 0 else f"integers below {bound.tolist()}"
        raise ArgumentError(name, value[outside][0].item(), allowed)
