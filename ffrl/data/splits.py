"""Training, validation and test images of a grid of factors, such that no image is in two parts, whatever moves.

A sequence of transformation k shows the images in which factor k has the values 0..T and the others, c, stay. Three
ways of dividing them come to mind:

- By image or by sequence: c with another k shows some of the same images, and neighbouring c almost the same.
- By c, for each k on its own: no sequence of k is in two parts. But the image with factors (3, 0, 5) is a frame of the
  sequence of the first factor at c = (0, 5), of that of the second at (3, 5) and of that of the third at (3, 0): each
  is in a part of its own, so that test images of one k are training images of another.
- By cells, as here: images that some chain of sequences of any k joins are in one part.

Along k an image is joined to those that differ from it in factor k alone, as long as both have it in 0..T. A moving
factor that is in 0..T can so take all these values, one that is above T never changes, and factors that do not move
never do. The cell of an image is therefore its factors, with every moving one that is in 0..T set to 0. (Where the last
value of a factor is the first again, it is set to 0 as well: the images are the same.) All frames of a sequence are in
one cell; cells are dealt out whole. It follows, for every k, that a combination of the other factors is in one part
only, and that an image is too.

Cells differ in size: where most moving factors have T+1 values, there are few, and the largest holds most images. Where
all have and none stays, there is one, which cannot be divided: that is an error, and a smaller T or fewer
transformations help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ffrl.checks import require_integer
from ffrl.config import SplitConfig
from ffrl.data.draws import stream_key, uniform_keys
from ffrl.data.factors import FactorGrid
from ffrl.errors import ArgumentError

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
_CELL_ORDER, _START_ORDER = 0, 1
# Of a part that one cell may make up. A part of many cells has sequences of all transformations in proportion.
_LARGEST = (0.25, 0.5, 1.0)


class FactorSplit:
    """The parts of a grid: a function of the arguments alone.

    Args:
        grid: the images.
        transformations: names of the factors that move.
        num_steps: T; each moves through 0..T.
        config: seed, and the most of all images that go to the test and to the validation part.

    Raises:
        ArgumentError: an unknown factor or one with fewer than T+1 values; a part that would have no sequence of some
            transformation.
    """

    def __init__(self, grid: FactorGrid, transformations: Sequence[str], num_steps: int, config: SplitConfig) -> None:
        require_integer("num_steps", num_steps, 1)
        self.grid, self.num_steps, self.config = grid, num_steps, config
        self.transformations = tuple(transformations)
        self._moving = [grid.position(name) for name in self.transformations]
        for j in self._moving:
            if grid.sizes[j] <= num_steps:
                raise ArgumentError("num_steps", num_steps, f"below {grid.sizes[j]}, the values of {grid.names[j]}")
        cell = self.cell_of(torch.arange(len(grid))).numpy()
        cells, images = np.unique(cell, return_inverse=True)
        counts = np.bincount(images)
        for fraction in _LARGEST:
            self.cells = dict(zip(PARTS, self._deal(cells, counts, fraction), strict=True))
            part_of_cell = np.zeros(len(cells), dtype=np.uint8)
            for number, part in enumerate(PARTS):
                part_of_cell[np.searchsorted(cells, self.cells[part])] = number
            self._part = part_of_cell[images]  # (N,)
            self._starts: dict[tuple[Part, tuple[int, ...]], Tensor] = {}
            lacking = self._lacking()
            if lacking is None:
                return
        assert lacking is not None
        part, name = lacking
        share = "validation" if part == "validation" else "test"
        raise ArgumentError(
            f"split.{share}",
            getattr(config, share),
            f"a share that leaves the part {part!r} sequences of {name}: the {len(grid):,} images fall into "
            f"{len(cells):,} cells, the largest of {counts.max():,}, that cannot be divided; fewer transformations or "
            "steps make more of them",
        )

    def cell_of(self, indices: Tensor) -> Tensor:
        """The cell of each image, named by the number of its image with the least factors, (...) int64."""
        cell = indices.clone()
        for j, (factor, base) in enumerate(self._columns()):
            if j not in self._moving and not factor.closed:
                continue
            value = indices.div(base, rounding_mode="floor").remainder(factor.size)
            joined = (value == factor.size - 1) if factor.closed else torch.zeros_like(value, dtype=torch.bool)
            if j in self._moving:
                joined = joined | (value <= self.num_steps)
            cell -= base * value * joined
        return cell

    def part_of(self, indices: Tensor) -> list[Part]:
        """The part of each image (N,)."""
        return [PARTS[number] for number in self._part[indices.cpu().numpy()]]

    def count(self, part: Part) -> int:
        """Images of a part."""
        return int(np.count_nonzero(self._part == PARTS.index(part)))

    def starts(self, part: Part, ks: Sequence[int]) -> Tensor:
        """Images of a part from which all of these transformations can begin, (N_ks,) int64, in an order of the seed.

        Each of the factors is 0, so that it, alone or with the others, can take all of 0..T within the part.

        Raises:
            ArgumentError: unknown part, or a k out of range.
        """
        if part not in PARTS:
            raise ArgumentError("part", repr(part), f"one of {PARTS}")
        for k in ks:
            if not 0 <= k < len(self.transformations):
                raise ArgumentError("k", k, f"an integer in 0..{len(self.transformations) - 1}")
        key = (part, tuple(sorted(set(ks))))
        if key not in self._starts:
            indices = np.flatnonzero(self._part == PARTS.index(part))
            for k in key[1]:
                j = self._moving[k]
                indices = indices[indices // self.grid.bases[j] % self.grid.sizes[j] == 0]
            draws = uniform_keys(stream_key(self.config.seed, _START_ORDER), indices)
            self._starts[key] = torch.from_numpy(indices[np.argsort(draws, kind="stable")].astype(np.int64))
        return self._starts[key]

    def as_dict(self) -> dict[str, Any]:
        """The split as JSON: all that defines it, and the cells of the smaller parts; all others are trained on."""
        return {
            "factors": [[factor.name, factor.size, base] for factor, base in self._columns()],
            "transformations": list(self.transformations),
            "num_steps": self.num_steps,
            "seed": self.config.seed,
            "shares": {"validation": self.config.validation, "test": self.config.test},
            "images": {part: self.count(part) for part in PARTS},
            "cells": {part: self.cells[part].tolist() for part in PARTS if part != "train"},
        }

    def check_saved(self, saved: Mapping[str, Any]) -> None:
        """Raise ArgumentError unless a saved split is this one."""
        for name, value in self.as_dict().items():
            if saved.get(name) != value:
                raise ArgumentError(f"split.{name}", shortened(value), f"that of the run: {shortened(saved.get(name))}")

    def _columns(self) -> zip[tuple[Any, int]]:
        return zip(self.grid.factors, self.grid.bases, strict=True)

    def _lacking(self) -> tuple[Part, str] | None:
        """A part without sequences of a transformation, and its name."""
        for part in PARTS:
            if part == "validation" and not self.config.validation:
                continue
            for k, name in enumerate(self.transformations):
                if not len(self.starts(part, [k])):
                    return part, name
        return None

    def _deal(self, cells: np.ndarray, counts: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells of the parts, ascending: in an order of the seed, each to the first part in which it finds room and of
        which it is not more than the share ``largest``; else to training."""
        order = np.argsort(uniform_keys(stream_key(self.config.seed, _CELL_ORDER), cells), kind="stable")
        room = [int(share * len(self.grid)) for share in (self.config.test, self.config.validation)]
        most = [largest * size for size in room]
        chosen: list[list[int]] = [[], []]
        left = []
        for place in order.tolist():
            for part in (0, 1):
                if counts[place] <= min(room[part], most[part]):
                    room[part] -= int(counts[place])
                    chosen[part].append(place)
                    break
            else:
                left.append(place)
        test, validation = (np.sort(cells[places]) for places in chosen)
        return np.sort(cells[left]), validation, test


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
